"""HSIC of linear kernels from products of features, in float64."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..arguments import Progress
from ..arrays import Rows
from .centre import mean_centre
from .sums import HsicSums, asked_pairs

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

# Float64 blocks; fixed, so that no choice of the caller changes the order of the additions.
FEATURE_ROWS = 2048


def feature_sums(
    matrices: Sequence[Rows], left: int, *, function: str, threads: int, progress: Progress | None = None
) -> HsicSums:
    """HSIC sums of linear kernels from d x d' products in float64, one for each of the pairs asked for.

    The debiased form follows from the diagonal a_i = |x_i|^2 of the centred Gram matrix:
    sum = |X'Y|_F^2 - n/(n-2) sum a_i b_i + sum a sum b / ((n-1)(n-2)).
    """
    n, count = len(matrices[0]), len(matrices)
    centres = [mean_centre(rows, function=function, threads=threads) for rows in matrices]
    asked = asked_pairs(count, left)
    cross = {(p, q): np.zeros((matrices[p].depth, matrices[q].depth)) for p, q in asked}
    starts = range(0, n, FEATURE_ROWS)
    with blas().limit(limits=threads, user_api="blas"):
        for done, start in enumerate(starts):
            part = slice(start, min(start + FEATURE_ROWS, n))
            block = [(rows.wide(part) - c.middle) * c.unit for rows, c in zip(matrices, centres, strict=True)]
            for (p, q), product in cross.items():
                product += block[p].T @ block[q]
            if progress:
                progress(done + 1, len(starts))
    biased, debiased = np.full((2, count, count), math.nan)
    rounding = np.empty(count)
    diagonals = [c.squared_norms * c.unit**2 for c in centres]
    for p, q in asked:
        a, b = diagonals[p], diagonals[q]
        square = float(np.vdot(cross[p, q], cross[p, q]))
        biased[p, q] = square
        if n > 2:
            unbiased = square - n / (n - 2) * float(a @ b) + float(a.sum() * b.sum()) / ((n - 1) * (n - 2))
            debiased[p, q] = unbiased
        if p == q:
            rounding[p] = 1e-6 * square  # a millionth left of the difference: six digits of it are gone
    trace = np.array([a.sum() for a in diagonals])
    squares = np.array([float(a @ a) for a in diagonals])
    scales = np.array([c.unit**-2 for c in centres])
    return HsicSums(n, biased, debiased, trace, squares, rounding, scales, "float64")


@functools.lru_cache(maxsize=1)
def blas() -> ThreadpoolController:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
