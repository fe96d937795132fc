"""What every measure declares of itself, and how those of two representations are evaluated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .demands import needs_of
from .method import Method, evaluate
from .needs import Needs
from .similarity import RESULTS

# What may be done to the rows of either side, or of both, without changing the value. An orthogonal map may be a
# permutation; an invertible linear map either, or a scaling; an affine map is that and a translation.
INVARIANCES = ("permutation", "orthogonal", "isotropic_scaling", "translation", "invertible_linear", "affine")
# What a measure is of. Those of representations take two arrays [n, d] and [n, d'] of the same inputs and can be asked
# for by name in repsim.compare; those of labelled representations take a label of every input besides; those of models
# run and train parts of them.
TAKES = ("representations", "labelled representations", "outputs", "attention", "embeddings", "models")


@dataclass(frozen=True)
class Measure:
    """A measure's own account of itself; tests hold it to every word.

    Attributes
    ----------
    name: of the public function.
    family: the file it is in.
    kind: "similarity" (more is more alike) or "distance" (0 is alike).
    low, high: bounds of the value, +-infinity where there are none.
    symmetric: measure(x, y) == measure(y, x), up to rounding.
    metric: the triangle inequality holds and the distance of x to itself is 0 (for distances only).
    invariances: of INVARIANCES; all that hold for every input, for x and for y.
    cost: time and memory in n, d and d', as text.
    paper: who defined it.
    formula: in one line of text.
    same_width: d = d' is needed.
    takes: of TAKES.
    aliases: its names in other libraries, ("library: name", ...).
    note: what its users must know, in a sentence.
    method: of representations, called with the measure's options.
    self_value: of x with itself; None where there is no such constant.
    gpu: rows may lie on a GPU, or be brought there: what grows with their number is worked out there.
    """

    name: str
    family: str
    kind: str
    low: float
    high: float
    symmetric: bool
    invariances: frozenset[str]
    cost: str
    paper: str
    formula: str
    metric: bool = False
    same_width: bool = False
    takes: str = "representations"
    aliases: tuple[str, ...] = ()
    note: str = ""
    method: Callable[..., Method[Any]] | None = None
    self_value: float | None = None
    gpu: bool = False

    def __post_init__(self) -> None:
        unknown = self.invariances - set(INVARIANCES)
        if unknown or self.kind not in RESULTS or self.takes not in TAKES:
            raise ValueError(f"[Measure] expected known words in the account of {self.name}, got {self!r}")

    def needs(self, n: int, d: int, e: int | None = None, **options: Any) -> Needs:
        """What one call with [n, d] and [n, e] needs beside its inputs, from the shapes alone, without relabellings.

        Example::

            needs = REGISTRY["rsa"].needs(10_000, 512)
            needs.bytes, needs.flops, needs.work.distances

        Parameters: ``e``, the width of the other side (None: d); ``options``, the measure's own.
        Returns: Needs: a bound of the bytes at once, and operations by kind.
        Raises: ValueError: a measure that does not state its needs, as those of outputs.
        """
        return needs_of(self.name, n, d, d if e is None else e, options)

    def evaluate(self, x: Any, y: Any, options: Mapping[str, Any], **how: Any) -> Any:
        """The value with its null and standard error: see :func:`repsim.measures.method.evaluate`."""
        assert self.method is not None, "only measures of representations are evaluated here"
        method, width = self.method(**options), self.same_width
        how |= {"name": self.name, "kind": self.kind, "same_width": width, "gpu": self.gpu}
        return evaluate(method, x, y, options=options, **how)


REGISTRY: dict[str, Measure] = {}

_IMPLIED = {"orthogonal": {"permutation"}, "invertible_linear": {"orthogonal", "permutation", "isotropic_scaling"}}
_IMPLIED["affine"] = {"invertible_linear", "translation", *_IMPLIED["invertible_linear"]}


def invariant_to(*names: str) -> frozenset[str]:
    """These invariances and those they imply."""
    return frozenset(names).union(*(_IMPLIED.get(name, set()) for name in names))


def register(measure: Measure) -> Measure:
    """Add a measure to the table of all."""
    if measure.name in REGISTRY:
        raise ValueError(f"[register] expected a new name, got {measure.name!r} again")
    REGISTRY[measure.name] = measure
    return measure
