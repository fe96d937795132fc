"""The covariance that two representations share, of columns of unit variance."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..arguments import Progress
from ..arrays import Rows
from ..reductions import cross_products
from .method import Method
from .registry import Measure, invariant_to, register
from .similarity import Similarity
from .spaces import column_lengths, narrowed


@dataclass(frozen=True, eq=False)
class _Columns:
    rows: Rows
    scale: np.ndarray | float  # [d] brings the columns to unit length
    width: int  # d, of what may have been narrowed
    order: np.ndarray | None = None


def _pls() -> Method[_Columns]:
    def prepare(rows: Rows, threads: int) -> _Columns:
        lengths = column_lengths(rows, function="pls", threads=threads)
        if not (lengths > 0).all():
            constant = np.flatnonzero(~(lengths > 0))
            raise ValueError(
                f"[pls] expected {rows.name} with columns that vary, so that each can be brought to unit variance, "
                f"got {len(constant)} constant ones, the first of them column {constant[0]}; leave them out"
            )
        if rows.depth < len(rows):
            return _Columns(rows, 1 / lengths, rows.depth)
        # Rotations of the columns of unit length change no singular value.
        return _Columns(narrowed(rows, standardised=True, function="pls", threads=threads), 1.0, rows.depth)

    def between(x: _Columns, y: _Columns, threads: int) -> float:
        product = cross_products(x.rows, y.rows, y.order, function="pls", threads=threads).xy
        singular = np.linalg.svd((product.T * x.scale).T * y.scale, compute_uv=False)
        return float(singular.sum() / np.sqrt(x.width * y.width))

    return Method(prepare, between, lambda side, order: replace(side, order=order))


PLS = register(
    Measure(
        name="pls",
        family="pls",
        kind="similarity",
        low=0.0,
        high=1.0,
        symmetric=True,
        invariances=invariant_to("permutation", "isotropic_scaling", "translation"),
        cost="time n (d^2 + d'^2 + d d') + d d' min(d, d'), memory d^2 + d'^2 + d d'; for n <= d n^2 d + n^3 and n^2",
        paper="McIntosh, Bookstein, Haxby and Grady (1996), Spatial pattern analysis of functional brain images using "
        "partial least squares; Nielsen et al. (2025) for its mean singular value",
        formula="|R|_* / sqrt(d d'), R [d, d'] the correlations of the columns of X with those of Y",
        aliases=("scikit-learn: PLSSVD(scale=True), covariances of its scores", "Nielsen et al. 2025: m_SVD"),
        note="the scale of every column is taken out, rotations of the columns are not; by chance it grows with d / n "
        "and d' / n towards 1: look at the null",
        method=_pls,
        self_value=1.0,
        gpu=True,
    )
)


def pls(
    x: Any,
    y: Any,
    *,
    permutations: int = 0,
    seed: int = 0,
    jackknife: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
    device: Any = None,
) -> Similarity:
    """Partial least squares correlation: the singular values of the correlations of columns, normalised.

    Example::

        repsim.pls(x, y)                                        # x [n, d], y [n, d']; n < d is fine

    Parameters: as for :func:`repsim.cca_mean`.

    Returns
    -------
    Similarity in [0, 1]: of columns brought to unit variance, the sum of the covariances of all pairs of latent
    variables (PLS-SVD), over the largest that it can be; with d = d' their mean covariance. It grows with d / n and
    d' / n whatever the data: look at the null.

    Raises
    ------
    TypeError, ValueError: as for :func:`repsim.cka`; a constant column, which has no unit variance.

    Formula: |R|_* / sqrt(d d'), R [d, d'] the correlations of the columns of X with those of Y.
    Papers: McIntosh et al. (1996) for the singular values of R; Nielsen et al. (2025), "When does closeness in
    distribution imply representational similarity?", for their mean with d = d'.
    """
    return PLS.evaluate(
        x, y, {}, permutations=permutations, seed=seed, jackknife=jackknife, threads=threads, progress=progress,
        device=device,
    )  # fmt: skip
