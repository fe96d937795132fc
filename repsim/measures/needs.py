"""What every measure needs, from the shapes alone: bytes beside the inputs, and operations, each kind at its own rate.

Bytes are bounds, taken a little above what the code allocates; operations are counts of the terms that dominate. A step
has a name: one that several measures take is needed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

KINDS = ("products", "factors", "tiles", "search", "distances", "elements")


@dataclass(frozen=True)
class Work:
    """Operations, by what does them.

    products: of features, float64 flop of the native core. factors: flop of eigenvectors, singular values and dense
    products by LAPACK. tiles: flop of float32 tiles of kernels. search: flop of tiles of a neighbour search. distances:
    flop of float64 tiles of dissimilarities. elements: float64 numbers that numpy touches one by one, or that a list
    statistic compares.
    """

    products: float = 0.0
    factors: float = 0.0
    tiles: float = 0.0
    search: float = 0.0
    distances: float = 0.0
    elements: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(*(getattr(self, kind) + getattr(other, kind) for kind in KINDS))

    def times(self, count: float) -> Work:
        return Work(*(getattr(self, kind) * count for kind in KINDS))

    @property
    def flops(self) -> float:
        """All operations together."""
        return sum(getattr(self, kind) for kind in KINDS)


@dataclass(frozen=True)
class Step:
    """Something to do: bytes that it keeps, bytes that it needs while it is done, and its operations.

    ``packed``: bytes of blocks, beside the others; a memory that is given makes them smaller. ``at_once``: done of
    many layers together it takes so many times the working bytes, at the most.
    """

    kept: float = 0.0
    working: float = 0.0
    work: Work = Work()
    packed: float = 0.0
    at_once: int = 1


Steps = Mapping[str, Step]


@dataclass(frozen=True)
class Demand:
    """The steps of a measure: of a layer [n, d] alone, and of two layers [n, d] and [n, d'] that were prepared."""

    layer: Callable[[int, int], Steps]
    pair: Callable[[int, int, int], Steps]


@dataclass(frozen=True)
class Needs:
    """What one call needs beside its inputs: ``bytes`` at the most at once, ``flops`` in all, by kind in ``work``."""

    bytes: int
    work: Work

    @property
    def flops(self) -> float:
        return self.work.flops

    @classmethod
    def of(cls, kept: Iterable[Step], done: Iterable[Step]) -> Needs:
        """Of steps whose results are kept at once, and of all that are done, one after the other."""
        every = list(done)
        total = Work()
        for step in every:
            total = total + step.work
        working = max((step.working + step.packed for step in every), default=0.0)
        return cls(int(sum(step.kept for step in kept) + working), total)
