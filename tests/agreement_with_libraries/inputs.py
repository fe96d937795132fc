"""The pairs of representations that everybody is asked about: Gaussian features that share a signal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray
SIGNALS = 8  # dimensions that the two sides share
COPIES = 4  # of every distinct row, where there are duplicates


@dataclass(frozen=True, eq=False)
class Pair:
    """x [n, d] and y [n, d'], the same inputs; ``copy_of`` [n]: the first row that row i is a copy of."""

    name: str
    x: Array
    y: Array
    copy_of: Array

    @property
    def n(self) -> int:
        return len(self.x)


def related(seed: int, n: int, d: int, other: int, *, shared: float = 1.0) -> tuple[Array, Array]:
    """x [n, d] and y [n, other] in float64: noise plus `shared` times a common signal of SIGNALS dimensions."""
    rng = np.random.default_rng([seed, 2027])
    signal = shared * rng.standard_normal((n, SIGNALS))
    x, y = (signal @ rng.standard_normal((SIGNALS, width)) + rng.standard_normal((n, width)) for width in (d, other))
    return x, y


def _pairs() -> list[Pair]:
    few, many = related(1, 300, 40, 24), related(2, 200, 600, 300)
    tiny = 2.0**-13  # a power of two, so that nothing is rounded
    distinct = related(3, 300 // COPIES, 40, 24)
    order = np.random.default_rng(4).permutation(np.tile(np.arange(300 // COPIES), COPIES))
    first = np.array([np.flatnonzero(order == one)[0] for one in order])
    own = {"few": np.arange(300), "many": np.arange(200)}

    def pair(name: str, sides: tuple[Array, Array], copy_of: Array, dtype: type = np.float64) -> Pair:
        x, y = (np.ascontiguousarray(side.astype(dtype)) for side in sides)
        return Pair(name, x, y, copy_of)

    return [
        pair("d < n", few, own["few"]),
        pair("d > n", many, own["many"]),
        pair("d < n, float32", few, own["few"], np.float32),
        pair("d > n, float32", many, own["many"], np.float32),
        pair("+ 1e3", (few[0] + 1e3, few[1] + 1e3), own["few"]),
        pair("+ 1e6", (few[0] + 1e6, few[1] + 1e6), own["few"]),
        pair("+ 1e3, float32", (few[0] + 1e3, few[1] + 1e3), own["few"], np.float32),
        pair("x 2^-13", (tiny * few[0], tiny * few[1]), own["few"]),
        pair("duplicates", (distinct[0][order], distinct[1][order]), first),
        pair("unrelated", related(5, 200, 1000, 1000, shared=0.0), own["many"]),
    ]


PAIRS = {pair.name: pair for pair in _pairs()}
MEANING = {
    "d < n": "n = 300, d = 40, d' = 24, float64",
    "d > n": "n = 200, d = 600, d' = 300, float64",
    "d < n, float32": "the first, rounded to float32",
    "d > n, float32": "the second, rounded to float32",
    "+ 1e3": "the first, 1 000 added to every feature",
    "+ 1e6": "the first, 1 000 000 added to every feature",
    "+ 1e3, float32": "the first, 1 000 added to every feature, then rounded to float32",
    "x 2^-13": "the first, every feature times 2^-13",
    "duplicates": "75 distinct rows, each four times, in random order; d = 40, d' = 24, float64",
    "unrelated": "n = 200, d = d' = 1 000, nothing shared, float64",
}
