"""Exact nearest neighbours: float32 tiles propose, float64 decides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import _core, blocks
from ..arguments import Progress
from ..arrays import Rows
from .centre import Packer, a_few, column_sums, power_of_two_below, squared_norms

# Longest rows that are candidates of every row under the inner product.
HEAVY = 16


def nearest(
    x: Rows,
    base: Rows | None,
    k: int,
    metric: str,
    *,
    function: str,
    threads: int,
    block_rows: int | None = None,
    progress: Progress | None = None,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Exact k nearest rows: indices [n, k] int64, scores [n, k] float32, best first; and how many rows were scanned.

    With ``base`` None the rows of x are searched themselves, each left out of its own list by index, and every tile of
    scores serves both of its sides. O(n k) memory, cost n^2 d flop (2 n m d against a base of m rows).
    """
    symmetric = base is None
    other = x if base is None else base
    sides = (x,) if symmetric else (x, other)
    packers, unit = _neighbour_packers(sides, metric, function=function, threads=threads)
    n = len(x)
    # A few more than k are kept: the gap between the k-th and the last of them is what certifies a row.
    kept = min(k + 8 + k // 8, len(other) - symmetric)
    keys = np.empty((n, 2 * kept + 16), np.uint64)
    counts = np.zeros(n, np.int32)
    thresholds = np.full(n, -np.finfo(np.float32).max, np.float32)
    halves = [np.empty(len(rows), np.float32) for rows in sides]

    plan = blocks.traversal(n, len(other), [x.depth], symmetric=symmetric, block_rows=block_rows)
    tiles = "inner_product" if metric == "inner_product" else "euclidean"
    held: tuple[int, Any] = (-1, None)
    for done, span in enumerate(plan):
        if held[0] != span.first_i:
            held = (span.first_i, packers[0].block(span.first_i, span.rows_i))
            halves[0][span.first_i : span.first_i + span.rows_i] = held[1][1]
        same = symmetric and span.first_j == span.first_i
        block_j = held[1] if same else packers[-1].block(span.first_j, span.rows_j)
        halves[-1][span.first_j : span.first_j + span.rows_j] = block_j[1]
        _core.nearest(held[1], block_j, tiles, span.as_tuple(), symmetric, kept, keys, counts, thresholds, threads)
        if progress:
            progress(done + 1, len(plan) + 1)

    heavy, longest = np.empty(0, np.int64), 0.0
    if metric == "inner_product":  # a few long rows would loosen the bound of all: they become candidates everywhere
        heavy = np.sort(np.argpartition(halves[-1], -HEAVY)[-HEAVY:]) if len(other) > 2 * HEAVY else heavy
        longest = math.sqrt(2 * float(np.delete(halves[-1], heavy).max()))
    indices, scores = np.empty((n, k), np.int64), np.empty((n, k), np.float32)
    scanned = 0
    for start in range(0, n, blocks.MOST_ROWS):
        part = slice(start, min(start + blocks.MOST_ROWS, n))
        scanned += _core.rank_neighbours(
            x.values[part], x.dtype, other.values, other.dtype, metric, keys[part], counts[part], thresholds[part],
            halves[0][part], unit, longest, heavy, kept, start if symmetric else -1, indices[part], scores[part],
            threads,
        )  # fmt: skip
    if progress:
        progress(len(plan) + 1, len(plan) + 1)
    return indices, scores, scanned


def _neighbour_packers(
    sides: Sequence[Rows], metric: str, *, function: str, threads: int
) -> tuple[list[Packer], float]:
    """Both sides moved and scaled alike, so that the ranking stays and float32 is fine where neighbours differ.

    Distances are taken from the middle of the base. So are cosines, as distances between unit rows: in a narrow cone
    all of them are near 1, and only what is left of the cone's axis tells them apart.
    """
    for rows in sides:
        column_sums(rows, function=function, threads=threads)  # every row is finite
    sample = a_few(sides[-1])
    if metric == "cosine":
        squared = [squared_norms(rows, None, function=function, threads=threads) for rows in sides]
        for rows, norms in zip(sides, squared, strict=True):
            if not norms.min() > 0:
                raise ValueError(
                    f"[{function}] expected {rows.name} with non-zero rows for the cosine metric, "
                    f"got zero norm in row {int(norms.argmin())}"
                )
        middle = np.median(sample / np.sqrt((sample * sample).sum(axis=1, keepdims=True)), axis=0)
        scales = [1 / np.sqrt(norms) for norms in squared]
        return [Packer(rows, None, s, threads, middle) for rows, s in zip(sides, scales, strict=True)], 1.0
    shift = np.median(sample, axis=0) if metric == "euclidean" else None
    longest = max(float(squared_norms(rows, shift, function=function, threads=threads).max()) for rows in sides)
    unit = power_of_two_below(1 / math.sqrt(longest)) if longest > 0 else 1.0
    return [Packer(rows, shift, np.broadcast_to(unit, len(rows)), threads) for rows in sides], unit
