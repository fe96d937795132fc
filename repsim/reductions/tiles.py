"""Sums over all pairs of inputs of kernel matrices that are never stored."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import _core, blocks
from ..arguments import Progress
from ..arrays import Rows
from .centre import Centre, Packer, a_few, robust_centre
from .distances import squared_distances
from .sums import HsicSums, asked_pairs, finish

# Beyond this many sigmas from the middle, float32 exponents of an RBF kernel err by more than 1e-3.
RBF_SPREAD = 90.0


def kernel_sums(
    matrices: Sequence[Rows],
    left: int,
    sigmas: Sequence[float] | None,
    *,
    function: str,
    threads: int,
    block_rows: int | None = None,
    progress: Progress | None = None,
) -> HsicSums:
    """HSIC sums of P kernel matrices that are never stored; O(n) memory, cost n^2 sum(d) flop.

    ``sigmas``: bandwidths of RBF kernels, or None for linear kernels. Tiles are float32, sums exact integers of them.
    """
    n, count = len(matrices[0]), len(matrices)
    centres = [robust_centre(rows, function=function, threads=threads) for rows in matrices]
    if sigmas is None:
        units = [c.unit for c in centres]
        shifts = [0.0] * count
    else:
        units = [1 / sigma for sigma in sigmas]
        shifts = [_mean_rbf(rows, c, sigma, function) for rows, c, sigma in zip(matrices, centres, sigmas, strict=True)]
    packers = [
        Packer(rows, c.middle, np.broadcast_to(unit, n), threads)
        for rows, c, unit in zip(matrices, centres, units, strict=True)
    ]
    row_bits = min(50, 62 - math.ceil(math.log2(n)))
    row_sums = np.zeros((count, n), np.int64)
    products = np.zeros((count, count, 2), np.int64)

    kernel = "linear" if sigmas is None else "rbf"
    plan = blocks.traversal(n, n, [rows.depth for rows in matrices], symmetric=True, block_rows=block_rows)
    held: tuple[int, list[Any]] = (-1, [])
    for done, span in enumerate(plan):
        if held[0] != span.first_i:
            held = (span.first_i, [packer.block(span.first_i, span.rows_i) for packer in packers])
        block_i = held[1]
        same = span.first_j == span.first_i
        block_j = block_i if same else [packer.block(span.first_j, span.rows_j) for packer in packers]
        pairs = [(i, j, kernel, shift) for i, j, shift in zip(block_i, block_j, shifts, strict=True)]
        _core.kernel_sums(pairs, left, span.as_tuple(), row_bits, row_sums, products, threads)
        if progress:
            progress(done + 1, len(plan))

    scales = np.array([unit**-2 if sigmas is None else 1.0 for unit in units])
    norms = [
        c.squared_norms * unit**2 if sigmas is None else np.ones(n) for c, unit in zip(centres, units, strict=True)
    ]
    return finish(row_sums, row_bits, products, asked_pairs(count, left), np.array(shifts, np.float32), norms, scales)


def _mean_rbf(rows: Rows, c: Centre, sigma: float, function: str) -> float:
    """About the mean of the kernel matrix off its diagonal: a shift that keeps the streamed sums small.

    Warns where float32 cannot tell distances apart at the scale of sigma: rows that lie too many sigmas from the
    middle.
    """
    far = int(np.count_nonzero(c.squared_norms > (RBF_SPREAD * sigma) ** 2))
    if far > 1:  # a single far row is far from all others whatever its rounding
        warnings.warn(
            f"[{function}] sigma {sigma:.3g} is small for {rows.name}: {far} of {len(rows)} rows lie more "
            f"than {RBF_SPREAD:g} sigmas from the middle, where float32 exponents between them err by more than 1e-3",
            RuntimeWarning,
            stacklevel=5,
        )
    sample = (a_few(rows) - c.middle) / sigma
    squared = squared_distances(sample)
    kernel = np.exp(-0.5 * squared)
    return float((kernel.sum() - np.trace(kernel)) / (len(kernel) * (len(kernel) - 1)))
