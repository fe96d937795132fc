"""What streaming leaves of P kernel matrices, and the two centred forms that follow from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_EPS32 = float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class HsicSums:
    """Everything that HSIC, CKA and their permutation moments need of P kernel matrices over the same n inputs.

    With A = HKH (biased) or A = the U-centred K (debiased): ``biased[p, q]`` and ``debiased[p, q]`` are sum_ij A_p A_q,
    ``trace[p]`` = tr A and ``squares[p]`` = sum_i A_ii^2 of the biased A (both are 0 for the U-centred). Entries are
    filled on the diagonal and for p among the first ``left`` matrices and q among the others, NaN elsewhere.
    ``rounding[p]`` is what rounding alone may leave of ``debiased[p, p]``. The matrices are the kernels' over
    ``scales``, so that no product of theirs leaves the range of float64.
    """

    n: int
    biased: np.ndarray  # [P, P] float64
    debiased: np.ndarray  # [P, P]
    trace: np.ndarray  # [P]
    squares: np.ndarray  # [P]
    rounding: np.ndarray  # [P]
    scales: np.ndarray  # [P]
    precision: str


def asked_pairs(count: int, left: int) -> list[tuple[int, int]]:
    return [(p, p) for p in range(count)] + [(p, q) for p in range(left) for q in range(left, count)]


def finish(
    row_sums: np.ndarray,
    products: np.ndarray,
    asked: Sequence[tuple[int, int]],
    diagonals: Sequence[np.ndarray],
    errors: Sequence[np.ndarray],
    scales: np.ndarray,
    precision: str = "float32",
) -> HsicSums:
    """From the sums over i != j of K - shift to both centred forms, which no constant shift of K changes.

    ``row_sums`` [P, n] and ``products`` [P, P] leave the diagonal out; ``diagonals`` P times [n] are of K - shift, and
    ``errors`` such that entry (i, j) of a tile errs by about the float32 rounding of sqrt(error_i error_j). The
    matrices are those of the kernels over ``scales`` [P]. ``precision`` says what their rows were multiplied in.
    """
    count, n = row_sums.shape
    biased, debiased = np.full((2, count, count), math.nan)
    trace, squares, rounding = np.empty((3, count))
    for p, q in asked:
        r, s = row_sums[p], row_sums[q]
        a, b = diagonals[p], diagonals[q]
        if n > 2:
            debiased[p, q] = products[p, q] + r.sum() * s.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * float(r @ s)
        r, s = r + a, s + b
        biased[p, q] = products[p, q] + float(a @ b) - 2 / n * float(r @ s) + r.sum() * s.sum() / n**2
        if p == q:
            centred = a - 2 / n * r + r.sum() / n**2
            trace[p], squares[p] = centred.sum(), float(centred @ centred)
            error = errors[p]  # independent from entry to entry
            rounding[p] = (2 * _EPS32) ** 2 * float(error.sum() ** 2 - error @ error)
    return HsicSums(n, biased, debiased, trace, squares, rounding, scales, precision)


@dataclass(frozen=True)
class RowTerms:
    """What each input adds to the sums of P matrices, so that the sums without it follow.

    With v = the row sums without the diagonal (debiased), or with it (biased): ``vectors`` [P, n] = v, ``products``
    [P, P] and ``pair_sums`` [P, P, n] = sum_j (K_p K_q)_ij entry by entry, and ``through`` [P, P, n] = sum_j (K_p)_ij
    v_q[j] leave the diagonal out; ``diagonals`` are P times [n]. The matrices are over the scales of the sums.
    """

    estimator: str
    vectors: np.ndarray
    diagonals: Sequence[np.ndarray]
    products: np.ndarray
    pair_sums: np.ndarray
    through: np.ndarray

    def without_each(self, p: int, q: int) -> np.ndarray:
        """[n]: sum_ij of the product of both centred matrices over the n - 1 inputs that are left without input i."""
        v, w, pair = self.vectors[p], self.vectors[q], self.pair_sums[p, q]
        left = len(v) - 1
        product = float(self.products[p, q]) - 2 * pair
        across = float(v @ w) - v * w - self.through[p, q] - self.through[q, p] + pair
        total_v, total_w = float(v.sum()) - 2 * v, float(w.sum()) - 2 * w
        if self.estimator == "debiased":
            return product + total_v * total_w / ((left - 1) * (left - 2)) - 2 / (left - 2) * across
        a, b = self.diagonals[p], self.diagonals[q]  # an input takes its row, its column, and once its diagonal entry
        product = product + float(a @ b) - a * b
        return product + (total_v + a) * (total_w + b) / left**2 - 2 / left * across
