"""What streaming leaves of P kernel matrices, and the two centred forms that follow from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .. import _core

_EPS32 = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class HsicSums:
    """Everything that HSIC, CKA and their permutation moments need of P kernel matrices over the same n inputs.

    With A = HKH (biased) or A = the U-centred K (debiased): ``biased[p, q]`` and ``debiased[p, q]`` are sum_ij A_p A_q,
    ``trace[p]`` = tr A and ``squares[p]`` = sum_i A_ii^2 of the biased A (both are 0 for the U-centred). Entries are
    filled on the diagonal and for p among the first ``left`` matrices and q among the others, NaN elsewhere.
    ``rounding[p]`` is what rounding alone may leave of ``debiased[p, p]``.
    """

    n: int
    biased: np.ndarray  # [P, P] float64
    debiased: np.ndarray  # [P, P]
    trace: np.ndarray  # [P]
    squares: np.ndarray  # [P]
    rounding: np.ndarray  # [P]
    precision: str


def asked_pairs(count: int, left: int) -> list[tuple[int, int]]:
    return [(p, p) for p in range(count)] + [(p, q) for p in range(left) for q in range(left, count)]


def finish(
    row_sums: np.ndarray,
    row_bits: int,
    limbs: np.ndarray,
    asked: Sequence[tuple[int, int]],
    shifts: np.ndarray,
    diagonals: Sequence[np.ndarray],
    scales: np.ndarray,
) -> HsicSums:
    """From the sums over i != j of K - shift to both centred forms, which no constant shift of K changes."""
    count, n = row_sums.shape
    products = (limbs[..., 0].astype(np.float64) * 2.0**32 + limbs[..., 1]) / 2.0**_core.PRODUCT_BITS
    unit = 2.0**-row_bits
    biased, debiased = np.full((2, count, count), math.nan)
    trace, squares, rounding = np.empty((3, count))
    for p, q in asked:
        r, s = row_sums[p] * unit, row_sums[q] * unit
        a, b = diagonals[p] - float(shifts[p]), diagonals[q] - float(shifts[q])
        if n > 2:
            debiased[p, q] = products[p, q] + r.sum() * s.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * float(r @ s)
        r += a
        s += b
        biased[p, q] = products[p, q] + float(a @ b) - 2 / n * float(r @ s) + r.sum() * s.sum() / n**2
        if p == q:
            centred = a - 2 / n * r + r.sum() / n**2
            trace[p], squares[p] = centred.sum(), float(centred @ centred)
            # Every entry of a tile errs by about the float32 rounding of |x_i| |x_j|, independently.
            norms = diagonals[p]
            rounding[p] = (2 * _EPS32) ** 2 * float(norms.sum() ** 2 - norms @ norms)
    scale = np.outer(scales, scales)
    return HsicSums(
        n, biased * scale, debiased * scale, trace * scales, squares * scales**2, rounding * scales**2, "float32"
    )
