"""Every measure of the registry on every pair of the example: value, chance, and what its invariances explain."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import repsim
from repsim.gallery.example import Example
from repsim.measures.registry import INVARIANCES, Measure

# A share this close to 1 counts as "the same as A with itself": invariances hold up to rounding, roots of it included.
SAME = 1e-3
# What a measure may answer to data it has no meaning for, or without its optional library.
REFUSALS = (ValueError, ImportError)


@dataclass(frozen=True)
class Cell:
    """One value and its place between unrelated (0) and identical (1), for similarities and distances alike."""

    value: float
    share: float  # NaN where both ends are the same or one is unknown
    refusal: str = ""

    @property
    def same(self) -> bool:
        return abs(self.share - 1) <= SAME


@dataclass(frozen=True)
class Row:
    """One measure on all pairs."""

    measure: Measure
    own: float  # of A with itself
    chance: float  # of A and B when the inputs of B are relabelled; NaN where it is not known
    chance_from: str
    cells: dict[str, Cell]

    @property
    def kept(self) -> list[str]:
        """The copies of A that count as A itself."""
        return [name for name in INVARIANCES if self.cells[name].same]

    @property
    def broken(self) -> list[str]:
        """Declared invariances that did not hold here: there should be none."""
        return [
            name
            for name in INVARIANCES
            if name in self.measure.invariances and not self.cells[name].same and math.isfinite(self.cells[name].share)
        ]


def compared(
    measures: Sequence[Measure],
    example: Example,
    *,
    relabellings: int,
    seed: int,
    say: Callable[[str], None] = lambda line: None,
) -> list[Row]:
    """Each measure of representations on each pair.

    Example: `compared([REGISTRY["cka"]], example, relabellings=19, seed=0)[0].cells["seed"].share`.

    Parameters: measures of representations; example; relabellings and seed of a null that must be sampled; say, told
    what is being done.
    Returns: a row per measure, in their order.
    """
    rows = []
    for count, measure in enumerate(measures, 1):
        started = time.perf_counter()
        rows.append(_row(measure, example, relabellings, seed))
        say(f"[{count}/{len(measures)}] {measure.name}  {time.perf_counter() - started:.1f} s")
    return rows


def _row(measure: Measure, example: Example, relabellings: int, seed: int) -> Row:
    own, _ = value_of(measure, example.a, example.a)
    found = {name: value_of(measure, example.a, other) for name, other in example.others.items()}
    unrelated = found["random"][0]
    cells = {}
    for name, (value, refusal) in found.items():
        span = own - unrelated
        cells[name] = Cell(value, (value - unrelated) / span if span else math.nan, refusal)
    return Row(measure, own, *chance(measure, example.a, example.others["seed"], relabellings, seed), cells)


def value_of(measure: Measure, x: np.ndarray, y: np.ndarray) -> tuple[float, str]:
    """The measure's value, or NaN and why it refuses.

    Example: `value_of(REGISTRY["cka"], x, x)` is about `(1.0, "")`.

    Parameters: measure of representations; x, y [n, d]. Returns: (value, reason).
    """
    try:
        return float(getattr(repsim, measure.name)(x, y)), ""
    except REFUSALS as error:
        return math.nan, str(error).splitlines()[0]


def with_null(measure: Measure, x: np.ndarray, y: np.ndarray, relabellings: int, seed: int) -> Any:
    """The measure's result with a null: its own where it always has one, otherwise a sampled one."""
    asked = {"permutations": relabellings, "seed": seed} if measure.method else {}
    return getattr(repsim, measure.name)(x, y, **asked)


def chance(measure: Measure, x: np.ndarray, y: np.ndarray, relabellings: int, seed: int) -> tuple[float, str]:
    """The mean of a measure when the inputs of y are relabelled, and where it is from.

    Example: `chance(REGISTRY["mutual_knn"], x, y, 19, 0)` is `(k / (n - 1), "all relabellings")`.

    Parameters: measure of representations; x, y [n, d]; relabellings and seed where it must be sampled.
    Returns: (mean, from); NaN where the measure refuses.
    """
    try:
        result = with_null(measure, x, y, relabellings, seed)
        if isinstance(result, (repsim.Similarity, repsim.Distance)) and math.isfinite(result.null.mean):
            return result.null.mean, result.null_from
        random = np.random.default_rng(seed)
        drawn = [float(getattr(repsim, measure.name)(x, random.permutation(y))) for _ in range(relabellings)]
    except REFUSALS:
        return math.nan, "refused"
    return float(np.mean(drawn)), f"{relabellings} relabellings"


@dataclass(frozen=True)
class Question:
    """What a researcher asks, and the measures that answer it by what they declare."""

    asked: str
    means: str
    names: tuple[str, ...]
    shares: tuple[float, ...] = ()  # of A and B, for measures of representations


def questions(measures: Iterable[Measure], rows: Sequence[Row]) -> list[Question]:
    """The measures sorted by the question they answer; questions that no measure answers are left out.

    Example: `questions(repsim.measures(), rows)[0].names`.

    Parameters: measures, all of them; rows of those of representations.
    Returns: at most ten questions; every measure is in exactly one.
    """
    found: dict[str, list[Measure]] = {asked: [] for asked, _ in _ASKED}
    for one in measures:
        found[_asked(one)].append(one)
    shares = {row.measure.name: row.cells["seed"].share for row in rows}
    return [
        Question(
            asked,
            means,
            tuple(one.name for one in found[asked]),
            tuple(shares[one.name] for one in found[asked] if math.isfinite(shares.get(one.name, math.nan))),
        )
        for asked, means in _ASKED
        if found[asked]
    ]


_LINEAR = "Could a linear map read the same things from both?"
_LOCAL = "Do both put the same inputs next to each other?"
_GEOMETRY = "Is the geometry the same, whatever its size and its axes?"
_LENGTHS = "Is the geometry the same, size included?"
_UNITS = "Do single units correspond?"
_AXES = "Are the numbers the same, unit by unit?"
_TAKES = {
    "outputs": ("Do both give the same answers?", "Compared are predictions, not representations."),
    "attention": ("Do both attend to the same places?", "Compared are attention maps."),
    "embeddings": ("Are the learned vectors the same function?", "Compared are embeddings and unembeddings of models."),
    "models": ("Can one model go on from where the other stopped?", "A layer between the two is fitted."),
}
_ASKED = (
    (_LINEAR, "Kept by every invertible linear map: only the span of the units counts."),
    (_LOCAL, "From lists of nearest neighbours: local order counts, distances far away do not."),
    (_GEOMETRY, "Kept by rotations and by one common scale: angles and relative distances count."),
    (_LENGTHS, "Kept by rotations, not by scale: lengths count too."),
    (_UNITS, "Kept by another order of the units, not by rotations: single units count."),
    (_AXES, "Not even kept by another order of the units."),
    *_TAKES.values(),
)


def _asked(one: Measure) -> str:
    if one.takes in _TAKES:
        return _TAKES[one.takes][0]
    if "invertible_linear" in one.invariances:
        return _LINEAR
    if one.family == "neighbours":
        return _LOCAL
    if "orthogonal" in one.invariances:
        return _GEOMETRY if "isotropic_scaling" in one.invariances else _LENGTHS
    return _UNITS if "permutation" in one.invariances else _AXES
