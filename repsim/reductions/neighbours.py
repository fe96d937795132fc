"""Exact nearest neighbours: tiles of packed rows propose, float64 decides."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .. import _core, blocks
from ..arguments import Progress
from ..arrays import DeviceRows, Rows, SharedRows
from .centre import Packer, a_few, column_sums, evenly_spaced, power_of_two_below, squared_norms
from .device_streams import StreamedRows

# Longest rows that are candidates of every row under the inner product.
HEAVY = 16
# Fewer pairs than this take longer to try out on bfloat16 than to search with float32.
LEAST_PAIRS = 4096**2
# Rows that are tried out: two per cent of the work at 20 000 rows.
PILOT = 192
# Rows that the filter leaves open are settled one by one up to this share of all, beyond it float32 searches them all.
MOST_OPEN = 0.25
# Beyond this share more candidates are worth their time.
FEW_OPEN = 0.03
# What a feature takes in a filter, in halves of a word.
HALF_WORDS = {"bfloat16": 1, "float32": 2, "bfloat16x3": 2, "bfloat16x6": 3}


@dataclass(frozen=True)
class Found:
    """What a search found, and how: see :class:`repsim.Neighbours`."""

    indices: Any  # [n, k] int64, where the rows are
    scores: Any  # [n, k] float32
    filter: str
    scanned: int


def has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16."""
    return bool(_core.multiplies_bfloat16())


def nearest(x: Rows, base: Rows | None, k: int, metric: str, **how: Any) -> Found:
    """Exact k nearest rows of every row, best first; ``how`` are the options of :func:`search`.

    Shared rows keep the graph of the most neighbours for every metric: fewer are the first of its lists.
    """
    if not isinstance(x, SharedRows) or base is not None:
        return search(x, base, k, metric, **how)
    key = (search, metric)
    if key not in x.found or x.found[key].indices.shape[1] < k:
        x.found[key] = search(x, None, k, metric, **how)
    found: Found = x.found[key]
    if found.indices.shape[1] == k:
        return found
    return replace(found, indices=_first(found.indices, k), scores=_first(found.scores, k))


def _first(lists: Any, k: int) -> Any:
    few = lists[:, :k]
    return np.ascontiguousarray(few) if isinstance(few, np.ndarray) else few.contiguous()


def search(
    x: Rows,
    base: Rows | None,
    k: int,
    metric: str,
    *,
    function: str,
    threads: int,
    filter: str = "auto",
    memory: int | None = None,
    block_rows: int | None = None,
    progress: Progress | None = None,
) -> Found:
    """Exact k nearest rows of every row, best first; O(n k) memory, cost n^2 d flop (2 n m d against m rows).

    With ``base`` None the rows of x are searched themselves, each left out of its own list by index, and every tile of
    scores serves both of its sides.

    The tiles compute scores of packed rows, float32 or bfloat16. How far each packed row lies from the row it stands
    for is measured, so every score is an interval: what cannot be among the k best is dropped, the others are ranked by
    float64 scores, and a row is decided when nothing that was turned away can reach its k-th best. What stays open is
    settled by float32 tiles, whose every score that could still reach it is found in float64.
    """
    symmetric = base is None
    sides, unit = _sides(x, base, metric, function=function, threads=threads)
    make: type[Search] = Search
    if any(isinstance(rows, StreamedRows) for rows in (x, base)):
        from .streamed_neighbours import StreamedSearch as make  # noqa: N813
    elif isinstance(x, DeviceRows):
        from .device_neighbours import DeviceSearch as make  # noqa: N813
    searching = make(sides[0], sides[-1], symmetric, k, metric, unit, threads, block_rows, memory, function)
    n = len(x)
    trying = filter == "auto"
    if trying:
        pays = n > 8 * PILOT and n * len(sides[-1].rows) >= LEAST_PAIRS
        filter = "bfloat16" if pays and searching.multiplies_bfloat16 else "float32"
    packed, steps = searching.packed(filter), Steps(progress)
    margin = margin_of(packed[0].filter, k)
    if trying and filter == "bfloat16":
        share, margin = searching.try_out(packed, margin)
        if share > MOST_OPEN:
            packed = searching.finer(packed)
            margin = margin_of(packed[0].filter, k)
    found, still_open = searching.run(packed, margin, steps)
    if trying and packed[0].filter == "bfloat16" and len(still_open.rows) > MOST_OPEN * n:
        packed = searching.finer(packed)
        found, still_open = searching.run(packed, margin_of(packed[0].filter, k), steps)
    still_open = searching.promoted(found, still_open, packed)
    searching.settle(found, still_open, packed)
    steps.end()
    return replace(found, scanned=len(still_open.rows))


def margin_of(filter: str, k: int) -> int:
    """Candidates kept beyond k: the gap between the k-th and the last of them is what certifies a row."""
    return min(10 + k // 2, 40 + k // 4) if filter == "bfloat16" else 8 + k // 8


class Steps:
    """Reports steps done of those known so far, and one more for what follows them."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress, self.done, self.total = progress, 0, 1

    def over(self, plan: blocks.Traversal) -> Iterator[blocks.Range]:
        self.total += len(plan)
        for span in plan:
            yield span
            self.end()

    def end(self) -> None:
        self.done += 1
        if self.progress:
            self.progress(self.done, self.total)


@dataclass(frozen=True)
class Side:
    """Rows and how they are packed."""

    rows: Rows
    packer: Packer
    squared_norms: np.ndarray | None  # [n], only for the cosine

    def at(self, positions: np.ndarray | slice) -> Side:
        rows = self.rows.at(positions)
        packer = replace(self.packer, rows=rows, scale=self.packer.scale[positions])
        return Side(rows, packer, None if self.squared_norms is None else self.squared_norms[positions])


class PackedSide:
    """The rows of a side as a filter sees them, block by block; all blocks are kept if they fit the room for them."""

    def __init__(self, side: Side, filter: str, slack: float, room: int | None) -> None:
        self.side, self.filter = side, filter
        n, depth = len(side.rows), side.rows.depth
        self.words = -(-depth * HALF_WORDS[filter] // 2)
        self.halves: Any
        self.residuals: Any
        self.halves, self.residuals = np.empty((2, n), np.float32)
        self.floor = slack + math.sqrt(depth) * 2.0**-125  # a subnormal entry is lost
        self.keeps_all = n * self.words * 4 <= (blocks.PACKED_BUDGET if room is None else room)
        self.kept: dict[int, tuple[Any, Any]] = {}

    def forget(self) -> None:
        """Give up what is packed."""
        self.kept.clear()

    @property
    def bytes_kept(self) -> int:
        """What all blocks take where they are kept."""
        return len(self.side.rows) * self.words * 4 if self.keeps_all else 0

    def known(self) -> tuple[np.ndarray, np.ndarray]:
        """Norms of the packed rows and residuals, in float64."""
        return np.sqrt(2 * self.halves.astype(np.float64)), self.residuals.astype(np.float64)

    def block(self, first: int, count: int) -> tuple[Any, Any]:
        if first in self.kept:
            return self.kept[first]
        part = slice(first, first + count)
        if self.filter == "bfloat16":
            panels, halves, residuals = self.side.packer.pairs(first, count)
        else:
            panels, halves = self.side.packer.block(first, count)
            residuals = np.sqrt(2 * halves) * np.float32(1.001 * 2.0**-24)  # every entry is rounded
        self.halves[part] = halves
        self.residuals[part] = residuals + np.float32(1.001 * self.floor)
        if self.keeps_all:
            self.kept[first] = panels, halves
        return panels, halves


Sides = tuple[PackedSide, PackedSide]


@dataclass(frozen=True)
class Reach:
    """How far the packed rows of a base can be from the exact ones, in the units of the packed rows."""

    ratio: float  # residual <= ratio * norm + floor
    floor: float
    longest: float  # largest norm and residual of the rows that are not heavy
    coarsest: float
    heavy: np.ndarray  # candidates of every row: a few long rows would loosen the bound of all

    @classmethod
    def of(cls, base: PackedSide, metric: str) -> Reach:
        heavy = np.empty(0, np.int64)
        norms, residuals = base.known()
        if metric == "inner_product" and len(norms) > 2 * HEAVY:
            heavy = np.sort(np.argpartition(norms, -HEAVY)[-HEAVY:])
            norms, residuals = np.delete(norms, heavy), np.delete(residuals, heavy)
        floor = 1.01 * base.floor
        above = residuals > floor
        least = norms[above] * (1 - 1e-6) - residuals[above]
        ratio = np.inf if (least <= 0).any() else ((residuals[above] - floor) / least).max(initial=0.0)
        return cls(1.001 * float(ratio), floor, 1.001 * float(norms.max()), float(residuals.max()), heavy)

    def in_float32(self) -> Reach:
        """Of the same rows when float32 holds them."""
        longest = 1.001 * (self.longest + self.coarsest)
        return replace(self, ratio=2.0**-23, longest=longest, coarsest=2.0**-23 * longest + self.floor)


@dataclass(frozen=True)
class Open:
    """Rows that are not decided: where they are, their best lists so far, and what is known of the base."""

    rows: Any  # [m], where the rows are
    scores: Any  # [m, k] float64
    reach: Reach


@dataclass(frozen=True)
class Search:
    left: Side
    right: Side
    symmetric: bool
    k: int
    metric: str
    unit: float
    threads: int
    block_rows: int | None
    memory: int | None
    function: str

    def traversal(
        self, rows: int, columns: int, *, symmetric: bool, kept: Iterable[PackedSide], of_a_row: int = 0
    ) -> blocks.Traversal:
        """Within what ``kept`` sides leave of the memory; every row of a block i takes so many bytes more."""
        sides = list(kept)
        return blocks.traversal(
            rows, columns, [sides[-1].words], symmetric=symmetric, block_rows=self.block_rows, memory=self.memory,
            function=self.function, beside=bytes_kept(sides), of_a_row=of_a_row,
        )  # fmt: skip

    @property
    def row_bytes(self) -> int:
        """Of a row of x as it is."""
        x = self.left.rows
        return int(x.depth * x.values.itemsize)

    @property
    def least_bytes(self) -> int:
        """The smallest memory that the traversals take."""
        return blocks.least_bytes([self.left.rows.depth], self.row_bytes)

    @property
    def room(self) -> int | None:
        """For a side that is kept packed: sides take no more than half of what the traversals can do without."""
        if self.memory is None:
            return None
        return max(self.memory - self.least_bytes, 0) // (2 if self.symmetric else 4)

    @property
    def slack(self) -> float:
        """Unit rows are found in float64: they are that far from the exact ones."""
        return 2.0**-50 if self.metric == "cosine" else 0.0

    def packed(self, filter: str) -> Sides:
        """Both sides for the filter that is asked for."""
        return self.sides(filter)

    def sides(self, filter: str) -> Sides:
        """Both sides for a filter; the same object twice where they are the same rows."""
        left = self.side(self.left, filter)
        return left, left if self.symmetric else self.side(self.right, filter)

    def finer(self, packed: Sides) -> Sides:
        """Both sides for the filter of whatever bfloat16 leaves open, in the place of those that were packed."""
        return self.in_float32(packed)

    def in_float32(self, packed: Sides) -> Sides:
        """Both sides in float32, in the place of those that were packed."""
        for side in packed:
            side.forget()  # two filters at once would be over the budget
        return self.sides("float32")

    def promoted(self, found: Found, still_open: Open, packed: Sides) -> Open:
        """Decides rows that are open by another filter before float32 settles them, in place; what is open then."""
        return still_open

    def side(self, side: Side, filter: str) -> PackedSide:
        return PackedSide(side, filter, self.slack, self.room)

    @property
    def multiplies_bfloat16(self) -> bool:
        return has_bfloat16()

    def try_out(self, packed: Sides, margin: int) -> tuple[float, int]:
        """The share of some evenly spaced rows that a filter leaves open, and the margin it takes."""
        picked = np.asarray(evenly_spaced(len(self.left.rows), PILOT))
        few = self.side(self.left.at(picked), packed[0].filter)
        own = picked if self.symmetric else np.full(len(picked), -1)
        one_sided = replace(self, symmetric=False)
        shares = {}
        for wider in (margin, 4 * margin):
            _, still_open = one_sided.ranked(few, packed[1], own, wider, Steps(None))
            shares[wider] = len(still_open.rows) / len(picked)
            if shares[wider] <= FEW_OPEN:
                break
        best = min(shares, key=lambda wider: shares[wider])
        return shares[best], best

    def run(self, packed: Sides, margin: int, steps: Steps) -> tuple[Found, Open]:
        """The search of all rows by a filter, and what it leaves open."""
        n = len(self.left.rows)
        own = np.arange(n) if self.symmetric else np.full(n, -1)
        return self.ranked(*packed, own, margin, steps)

    def ranked(
        self, left: PackedSide, right: PackedSide, own: np.ndarray, margin: int, steps: Steps
    ) -> tuple[Found, Open]:
        n, m = len(left.side.rows), len(right.side.rows)
        kept = min(self.k + margin, m - self.symmetric)
        keys = np.empty((n, 2 * kept + 16), np.uint64)
        counts = np.zeros(n, np.int32)
        thresholds = np.full(n, -np.finfo(np.float32).max, np.float32)
        plan = self.traversal(n, m, symmetric=self.symmetric, kept=(left, right))
        tiles = "inner_product" if self.metric == "inner_product" else "euclidean"
        for i, j, span in blocks.packed_pairs(steps.over(plan), left.block, None if self.symmetric else right.block):
            _core.nearest(
                i, j, left.filter, tiles, span.as_tuple(), self.symmetric, kept, keys, counts, thresholds,
                self.threads,
            )  # fmt: skip
        reach = Reach.of(right, self.metric)
        indices, scores = np.empty((n, self.k), np.int64), np.empty((n, self.k), np.float32)
        open_rows, open_scores = [], []
        for start in range(0, n, blocks.MOST_ROWS):
            part = slice(start, min(start + blocks.MOST_ROWS, n))
            exact = np.empty((part.stop - start, self.k))
            undecided = np.empty(len(exact), np.uint8)
            _core.rank_neighbours(
                self._ranking(left.side.at(part), own[part]), keys[part], counts[part], thresholds[part],
                self._certificate(left, right, reach, part, kept), indices[part], exact, undecided, self.threads,
            )  # fmt: skip
            for rows in (left.side.rows, self.right.rows):
                rows.release(0, len(rows))  # candidates lie anywhere
            _round_scores(exact, scores, part)
            at = np.flatnonzero(undecided)
            open_rows.append(start + at)
            open_scores.append(exact[at])
        found = Found(indices, scores, left.filter, 0)
        return found, Open(np.concatenate(open_rows), np.concatenate(open_scores), reach)

    def float32_base(self, still_open: Open, packed: Sides) -> tuple[PackedSide, Reach]:
        """The base packed as float32, and what is known of it then."""
        if packed[1].filter == "float32":
            return packed[1], still_open.reach
        return self.in_float32(packed)[1], still_open.reach.in_float32()

    def plan_for(self, still_open: Open, base: PackedSide) -> blocks.Traversal:
        """Of open rows, some of which are copied at a time, and a base."""
        n, m = len(still_open.rows), len(base.side.rows)
        return self.traversal(n, m, symmetric=False, kept=[base], of_a_row=self.row_bytes)

    def settle(self, found: Found, still_open: Open, packed: Sides) -> None:
        """Decides the rows that are open, in place."""
        if not len(still_open.rows):
            return
        base, reach = self.float32_base(still_open, packed)
        plan = self.plan_for(still_open, base)
        for start in plan.starts_i:
            part = slice(start, start + plan.block_rows)
            rows = still_open.rows[part]
            few = self.side(self.left.at(rows), "float32")
            block_i = few.block(0, len(rows))
            indices, exact = found.indices[rows], still_open.scores[part]
            own = rows if self.symmetric else np.full(len(rows), -1)
            for first in plan.starts_j:
                count = min(plan.block_rows, plan.columns - first)
                block_j = base.block(first, count)
                _core.settle_neighbours(
                    block_i, block_j, "float32", (0, len(rows), first, count), self._ranking(few.side, own),
                    self._certificate(few, base, reach, slice(None), self.k), indices, exact, self.threads,
                )  # fmt: skip
            found.indices[rows] = indices
            _round_scores(exact, found.scores, rows)

    def _ranking(self, side: Side, own: np.ndarray) -> tuple[Any, ...]:
        x, base = side.rows, self.right.rows
        return (
            x.values, x.dtype, base.values, base.dtype, self.metric, side.squared_norms, self.right.squared_norms, own,
            self.k,
        )  # fmt: skip

    def _certificate(
        self, left: PackedSide, right: PackedSide, reach: Reach, part: slice, kept: int
    ) -> tuple[Any, ...]:
        return (
            left.filter, left.halves[part], left.residuals[part], self.unit, reach.ratio, reach.floor, reach.longest,
            reach.coarsest, reach.heavy, kept,
        )  # fmt: skip


def bytes_kept(sides: Iterable[PackedSide]) -> int:
    """Of different sides."""
    return sum({id(side): side.bytes_kept for side in sides}.values())


def _round_scores(exact: np.ndarray, scores: np.ndarray, at: slice | np.ndarray) -> None:
    with np.errstate(over="ignore"):  # beyond float32 a score is infinite; the ranking is that of float64
        scores[at] = exact


def _sides(x: Rows, base: Rows | None, metric: str, *, function: str, threads: int) -> tuple[list[Side], float]:
    """Both sides moved and scaled alike, so that the ranking stays and packed rows are fine where neighbours differ.

    Distances are taken from the middle of the base. So are cosines, as distances between unit rows: in a narrow cone
    all of them are near 1, and only what is left of the cone's axis tells them apart.
    """
    both = [x] if base is None else [x, base]

    def norms_about(shift: np.ndarray | None) -> list[np.ndarray]:
        return [squared_norms(rows, shift, function=function, threads=threads) for rows in both]

    sample = a_few(both[-1])
    if metric == "cosine":
        squared = norms_about(None)
        for rows, norms in zip(both, squared, strict=True):
            if not norms.min() > 0:
                raise ValueError(
                    f"[{function}] expected {rows.name} with non-zero rows for the cosine metric, "
                    f"got zero norm in row {int(norms.argmin())}"
                )
        middle = np.median(sample / np.sqrt((sample * sample).sum(axis=1, keepdims=True)), axis=0)
        return [
            Side(rows, Packer(rows, None, 1 / np.sqrt(norms), threads, middle), norms)
            for rows, norms in zip(both, squared, strict=True)
        ], 1.0
    shift = None
    if metric == "euclidean":
        if not np.isfinite(sample).all():
            column_sums(both[-1], function=function, threads=threads)  # names the row
        shift = np.median(sample, axis=0)
    longest = max(float(norms.max()) for norms in norms_about(shift))
    unit = power_of_two_below(1 / math.sqrt(longest)) if longest > 0 else 1.0
    return [Side(rows, Packer(rows, shift, np.broadcast_to(unit, len(rows)), threads), None) for rows in both], unit
