"""Ranks of all n (n - 1) / 2 dissimilarities of one side, and their correlation with those of another, holding neither.

The dissimilarities are rounded to 24 significant bits, those of float32. So rounded they take few enough values that
every one can be counted: what is counted up to a value is the rank of all that share it, and one more traversal sums
the products of the ranks of both sides. All of it is whole numbers, and exact.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .. import _core, blocks
from ..arguments import require_memory
from ..arrays import DeviceRows
from . import device, device_distances
from .dissimilarities import Dissimilarities

MEMORY = 2**32  # unless another is given; of it three eighths for the table of either side, the rest for blocks
HELD_UNASKED = 2048  # inputs, beyond which sorting takes longer than counting
HELD = 7  # vectors of all dissimilarities at a time, while they are sorted


def rank_precision(n: int, *, ranks: str | None, memory: int | None) -> str:
    """The dtype that dissimilarities are ranked in: that of ``ranks``, or float64 where few enough are to be held."""
    if ranks is not None:
        return ranks
    held = n <= HELD_UNASKED and (memory is None or held_bytes(n) <= memory)
    return "float64" if held else "float32"


def held_bytes(n: int) -> int:
    """Of a side whose dissimilarities are sorted."""
    return HELD * 8 * (n * (n - 1) // 2)


@dataclass(frozen=True)
class DistanceRanks:
    """The ranks of one side by the dissimilarity, as csrc/ops.h lays them out."""

    side: Dissimilarities
    lines: Any  # [2^24] int32: the line of the table for every page of dissimilarities; where the rows lie
    ranks: Any  # [lines, 1024] int64: twice the rank of each, less twice the mean of all; where the rows lie
    squares: int  # the sum of their squares over all pairs
    least: float
    most: float

    def relabelled(self, order: np.ndarray) -> DistanceRanks:
        return replace(self, side=self.side.relabelled(order))


def distance_ranks(side: Dissimilarities, *, function: str, threads: int, memory: int | None = None) -> DistanceRanks:
    """Every rank, ties at their mean, from two traversals: n^2 d flop each, and a place of the table for every pair.

    ``memory``: bytes for the tables and the blocks of both sides; 4 GiB unless given. A table takes 8 bytes for every
    number of 24 significant bits in the pages of 1 024 of them that occur: 70 MB for each factor of 2 that distances
    span densely.

    Raises
    ------
    ValueError: the table is larger than its share of the memory; it says how much is needed.
    """
    budget = MEMORY if memory is None else memory
    native, there = _native(side), functools.partial(device.placed, side.rows)
    seen = there(np.zeros(_core.PAGES, np.uint8))
    for (points,), span in _traverse([side], function, budget):
        native.distance_pages(points, span, seen, threads)
    pages = np.flatnonzero(device.on_host(seen))
    purpose = f"the ranks of the dissimilarities of {side.rows.name}"
    require_memory(-(-len(pages) * _core.PAGE * 8 * 8 // 3), budget, function=function, purpose=purpose)
    lines = np.zeros(_core.PAGES, np.int32)
    lines[pages] = np.arange(len(pages))
    lines, counted = there(lines), there(np.zeros((len(pages), _core.PAGE), np.int64))
    for (points,), span in _traverse([side], function, budget):
        native.distance_counts(points, span, lines, counted, threads)
    counts = device.on_host(counted)
    ends = np.array([np.flatnonzero(counts[0])[0], np.flatnonzero(counts[-1])[-1]]) + _core.PAGE * pages[[0, -1]]
    least, most = side.of_distances((ends << 29).view(np.float64)).tolist()
    squares = _core.counts_to_ranks(counts)
    return DistanceRanks(side, lines, there(counts), squares, least, most)


def rank_correlation(
    x: DistanceRanks, y: DistanceRanks, *, function: str, threads: int, memory: int | None = None
) -> float:
    """The correlation of the ranks of both sides: one traversal, n^2 (d + d') flop and two places for every pair.

    ``memory``: as :func:`distance_ranks` was given it.
    """
    budget = MEMORY if memory is None else memory
    tables = (x.lines, x.ranks), (y.lines, y.ranks)
    total = sum(
        _native(x.side).rank_products(left, tables[0], right, tables[1], span, threads)
        for (left, right), span in _traverse([x.side, y.side], function, budget)
    )
    # The root of a square is exact, so that ranks have a correlation of exactly 1 with themselves.
    return total / math.sqrt(float(x.squares) * float(y.squares))


def _native(side: Dissimilarities) -> Any:
    return device_distances if isinstance(side.rows, DeviceRows) else _core


def _traverse(
    sides: Sequence[Dissimilarities], function: str, memory: int
) -> Iterator[tuple[list[tuple[Any, Any, bool]], tuple[int, int, int, int]]]:
    """The points of every side in every pair of blocks, as the native operations take them, and where the pair lies."""
    n, depths = len(sides[0]), [side.rows.depth for side in sides]
    # The rows of two blocks of every side in float64, and two of one of them that are in the making.
    row_bytes = 8 * (2 * sum(depths) + 2 * max(depths))
    purpose = f"blocks of {blocks.TILE} rows"
    require_memory(4 * blocks.TILE * row_bytes, memory, function=function, purpose=purpose)
    rows = min(memory // 4 // row_bytes, blocks.MOST_ROWS)
    plan = blocks.traversal(n, n, [], symmetric=True, block_rows=rows, function=function)

    def points(first: int, count: int) -> list[Any]:
        return [side.points(slice(first, first + count)) for side in sides]

    for i, j, span in blocks.packed_pairs(plan, points):
        yield [(a, b, side.rooted) for a, b, side in zip(i, j, sides, strict=True)], span.as_tuple()
