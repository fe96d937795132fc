"""What each input adds to the HSIC of linear kernels, from products of features in float64."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..arrays import Rows
from .centre import Centre, column_sums, squared_norms
from .distances import blas
from .sums import RowTerms, asked_pairs

ROWS = 2048  # in float64 at a time; fixed, so that no choice of the caller changes the order of the additions


def feature_row_terms(
    matrices: Sequence[Rows], left: int, estimator: str, scales: np.ndarray, *, function: str, threads: int
) -> RowTerms:
    """Two passes over the rows of P representations, each of cost n d d' for every pair asked for; O(n P^2) memory.

    The matrices are the kernels' over ``scales`` [P]. About the mean the rows of a linear kernel matrix sum to 0, so
    that without the diagonal they sum to -|x_i|^2.
    """
    n, count = len(matrices[0]), len(matrices)
    centres = []
    for rows in matrices:
        mean = column_sums(rows, function=function, threads=threads) / n
        centres.append(Centre(mean, squared_norms(rows, mean, function=function, threads=threads)))
    asked = asked_pairs(count, left)
    units = scales**-0.5
    diagonals = [c.squared_norms / scale for c, scale in zip(centres, scales, strict=True)]
    vectors = np.array([-a for a in diagonals]) if estimator == "debiased" else np.zeros((count, n))

    def parts() -> Iterator[tuple[slice, list[np.ndarray]]]:
        spans = (slice(start, min(start + ROWS, n)) for start in range(0, n, ROWS))
        for span in spans:
            yield (
                span,
                [(rows.wide(span) - c.middle) * unit for rows, c, unit in zip(matrices, centres, units, strict=True)],
            )
            for rows in matrices:
                rows.release(span.start, span.stop)

    cross = {(p, q): np.zeros((matrices[p].depth, matrices[q].depth)) for p, q in asked}
    ahead = {(p, q): np.zeros(matrices[p].depth) for pair in asked for p, q in (pair, pair[::-1])}
    products = np.full((count, count), np.nan)
    pair_sums, through = np.zeros((2, count, count, n))
    with blas().limit(limits=threads, user_api="blas"):
        for span, block in parts():
            for p, q in asked:
                cross[p, q] += block[p].T @ block[q]
            for p, q in ahead:
                ahead[p, q] += vectors[q, span] @ block[p]
        for span, block in parts():
            for p, q in asked:
                own = diagonals[p][span] * diagonals[q][span]
                pair_sums[p, q, span] = np.einsum("ij,ij->i", block[p] @ cross[p, q], block[q]) - own
            for p, q in ahead:
                through[p, q, span] = block[p] @ ahead[p, q] - diagonals[p][span] * vectors[q, span]
    for p, q in asked:
        products[p, q] = pair_sums[p, q].sum()
    return RowTerms(estimator, vectors, diagonals, products, pair_sums, through)
