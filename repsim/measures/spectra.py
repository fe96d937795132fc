"""Covariances, spans and Gram matrices of whole representations compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arguments import Progress, positive_number
from ..arrays import Rows
from .alignment import between_shapes, cosine, nuclear_norm
from .method import Method
from .registry import Measure, invariant_to, register
from .sides import Side, axes, check_varies, column_lengths, counted_axes, cross, narrowed, relabelled, side_of
from .similarity import Distance, Similarity


@dataclass(frozen=True, kw_only=True)
class _Basis(Side):
    map: np.ndarray  # [d, r], of rows to coordinates along an orthonormal basis of their span


@dataclass(frozen=True, kw_only=True)
class _Hat(_Basis):
    """The map is to coordinates times the root of the shrinkage, so that its outer product is the hat matrix."""

    shrinkage: np.ndarray  # [r], eigenvalues of the hat matrix of ridge regression


def _between_spans(x: _Basis, y: _Basis, *, function: str, threads: int) -> float:
    """|A'B|_F^2 of the mapped rows."""
    return float(np.sum((x.map.T @ cross(x, y, function=function, threads=threads) @ y.map) ** 2))


def _eigenspace_overlap() -> Method[_Basis]:
    function = "eigenspace_overlap"

    def prepare(rows: Rows, threads: int) -> _Basis:
        side = side_of(rows, function=function, threads=threads, centred=False)
        # Columns of unit length have the same span, and no column of another scale is lost beside the others.
        lengths = column_lengths(side, function=function)
        basis = axes(side.own / np.outer(lengths, lengths), len(rows)).whitening
        _check_full_rank(rows, basis.shape[1], "", function=function)
        return _Basis(**vars(side), map=basis / lengths[:, None])

    def between(x: _Basis, y: _Basis, threads: int) -> float:
        return _between_spans(x, y, function=function, threads=threads) / max(x.rows.depth, y.rows.depth)

    return Method(prepare, between, relabelled)


def _gulp(ridge: float = 0.01) -> Method[_Hat]:
    function = "gulp"
    ridge = positive_number(ridge, "ridge", function=function, or_zero=True)

    def prepare(rows: Rows, threads: int) -> _Hat:
        used = narrowed(rows, function=function, threads=threads)
        side = side_of(used, function=function, threads=threads)
        check_varies(side, function=function)
        found = counted_axes(used, function=function, threads=threads)
        if ridge == 0:
            _check_full_rank(rows, len(found.lengths), ", or a ridge above 0", function=function)
        variances = found.lengths**2 / side.squares  # of a representation whose variances sum to 1
        shrinkage = variances / (variances + ridge)
        return _Hat(**vars(side), map=found.whitening * np.sqrt(shrinkage), shrinkage=shrinkage)

    def between(x: _Hat, y: _Hat, threads: int) -> float:
        shared = _between_spans(x, y, function=function, threads=threads)
        # The squared Frobenius distance of the two hat matrices [n, n]; rounding leaves -1e-16.
        own = x.shrinkage @ x.shrinkage + y.shrinkage @ y.shrinkage
        return float(np.sqrt(max(own - 2 * shared, 0.0)))

    return Method(prepare, between, relabelled)


def _check_full_rank(rows: Rows, rank: int, otherwise: str, *, function: str) -> None:
    if rank < rows.depth:
        raise ValueError(
            f"[{function}] expected {rows.name} with linearly independent columns{otherwise}, got rank {rank} of "
            f"{rows.depth}"
        )


def _bures() -> Method[Side]:
    return between_shapes("bures", nuclear_norm, cosine, turnable=True)


def _riemannian(ridge: float = 0.01) -> Method[Side]:
    function = "riemannian"
    ridge = positive_number(ridge, "ridge", function=function)

    def prepare(rows: Rows, threads: int) -> Side:
        side = side_of(narrowed(rows, function=function, threads=threads), function=function, threads=threads)
        check_varies(side, function=function)
        return side

    def between(x: Side, y: Side, threads: int) -> float:
        from scipy.linalg import eigvalsh

        across = cross(x, y, function=function, threads=threads) / np.sqrt(x.squares * y.squares)
        joint = np.block([[x.own / x.squares, across], [across.T, y.own / y.squares]])
        # Outside the span of both sides the two Gram matrices are the same ridge. Within it, along orthonormal
        # directions, the features of x and of y have these coordinates.
        found = axes(joint, len(x.rows))
        coordinates = (found.vectors * found.lengths).T
        left, right = coordinates[:, : x.rows.depth], coordinates[:, x.rows.depth :]
        floor = ridge * np.eye(len(coordinates))
        ratios = eigvalsh(left @ left.T + floor, right @ right.T + floor)
        return float(np.linalg.norm(np.log(ratios)))

    return Method(prepare, between, relabelled)


EIGENSPACE_OVERLAP = register(
    Measure(
        name="eigenspace_overlap",
        family="spectra",
        kind="similarity",
        low=0.0,
        high=1.0,
        symmetric=True,
        invariances=invariant_to("invertible_linear"),
        cost="time n (d + d')^2 + d^3 + d'^3, memory d^2 + d'^2",
        paper="May, Zhang, Dao and Re (2019), On the downstream performance of compressed word embeddings",
        formula="|U'V|_F^2 / max(d, d'), U and V orthonormal bases of the columns of X and of Y",
        aliases=("ReSi: eigenspace_overlap_score",),
        note="not centred, and all directions count the same, however short; needs n >= d and columns that do not "
        "depend on each other.",
        method=_eigenspace_overlap,
        self_value=1.0,
        gpu=True,
    )
)

GULP = register(
    Measure(
        name="gulp",
        family="spectra",
        kind="distance",
        low=0.0,
        high=np.inf,
        symmetric=True,
        metric=True,
        invariances=invariant_to("orthogonal", "translation", "isotropic_scaling"),
        cost="time n (d + d')^2 + d^3 + d'^3, memory d^2 + d'^2",
        paper="Boix-Adsera, Lawrence, Stepaniants and Rigollet (2022), GULP: a prediction-based metric between "
        "representations",
        formula="|H_x - H_y|_F, H the hat matrix X (X'X + ridge |X|^2 I)^-1 X' of centred X",
        aliases=("GULP: sqrt(predictor_dist(lmbda=ridge))", "ReSi: sqrt(gulp(lmbda=ridge))"),
        note="both libraries return the square, ReSi with a ridge of 0 unless told.",
        method=_gulp,
        self_value=0.0,
        gpu=True,
    )
)

BURES = register(
    Measure(
        name="bures",
        family="spectra",
        kind="similarity",
        low=0.0,
        high=1.0,
        symmetric=True,
        invariances=invariant_to("orthogonal", "translation", "isotropic_scaling"),
        cost="time n (d + d')^2 + d d' min(d, d'), memory d^2 + d'^2",
        paper="Tang, Maddox, Dickens, Diethe and Damianou (2020), Similarity of neural networks with gradients; "
        "Harvey, Larsen and Williams (2024), Duality of Bures and shape distances",
        formula="tr((K^(1/2) L K^(1/2))^(1/2)) / sqrt(tr K tr L) = |X'Y|_* / (|X| |Y|), K = XX', L = YY', centred",
        note="the cosine of angular_procrustes; grows towards 1 with d / n whatever the data, as biased CKA does.",
        method=_bures,
        self_value=1.0,
        gpu=True,
    )
)

RIEMANNIAN = register(
    Measure(
        name="riemannian",
        family="spectra",
        kind="distance",
        low=0.0,
        high=np.inf,
        symmetric=True,
        metric=True,
        invariances=invariant_to("orthogonal", "translation", "isotropic_scaling"),
        cost="time n (d + d')^2 + (d + d')^3, memory (d + d')^2",
        paper="Shahbazi, Shirali, Aghajan and Nili (2021), Using distance on the Riemannian manifold to compare "
        "representations in brain and in models",
        formula="sqrt(sum of log^2 of the eigenvalues of K^-1 L), K = XX' / |X|^2 + ridge I [n, n], X centred, L of y",
        note="regularised: without a ridge the Gram matrices are singular for d < n and the distance is infinite.",
        method=_riemannian,
        self_value=0.0,
        gpu=True,
    )
)


def eigenspace_overlap(
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
    """How much the spans of the columns of two representations overlap: |U'V|_F^2 / max(d, d').

    Example::

        repsim.eigenspace_overlap(x, x @ invertible)           # x [1000, 64]: 1
        repsim.eigenspace_overlap(x, x[:, :32])                # 0.5

    Parameters
    ----------
    x, y: [n, d] and [n, d'] arrays of n >= d, d' inputs, as for :func:`repsim.cka`; not centred.
    permutations: relabellings of the inputs of y that the null and p are taken from; 0 leaves them out.
    seed: of the relabellings, and of the groups of the jackknife.
    jackknife: groups of inputs, at least 2, each left out once for the standard error; 0 leaves it out.
    threads: default REPSIM_NUM_THREADS, else every CPU of the process.
    progress: called with (steps done, steps in all).
    device: where to work, as for :func:`repsim.cka`; rows on a GPU stay there.

    Returns
    -------
    Similarity in [0, 1], about min(d, d') / n by chance. The bases come from products of features: the more nearly the
    columns depend on each other, the fewer digits hold.

    Raises
    ------
    TypeError, ValueError: inputs that are no rows of floats, differ in length or are not finite (the row is named); a
        column of zeros (it is named); columns that depend on each other, up to about 1e-7 of their lengths.

    Paper: May, Zhang, Dao and Re (2019), "On the downstream performance of compressed word embeddings".
    """
    return EIGENSPACE_OVERLAP.evaluate(
        x, y, {}, permutations=permutations, seed=seed, jackknife=jackknife, threads=threads, progress=progress,
        device=device,
    )  # fmt: skip


def gulp(
    x: Any,
    y: Any,
    *,
    ridge: float = 0.01,
    permutations: int = 0,
    seed: int = 0,
    jackknife: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
    device: Any = None,
) -> Distance:
    """How differently ridge regressions on two representations can predict, at most, over all targets.

    Example::

        repsim.gulp(x, 2 * x @ orthogonal + 3)                 # x [1000, 64]: 0
        repsim.gulp(x, y, ridge=1e-4)                          # y [1000, 32]

    Parameters
    ----------
    ridge: the lambda of the paper, of representations that are centred and scaled so that their variances sum to 1. At
        0 it is sqrt(d + d' - 2 sum of squared canonical correlations), invariant to affine maps.
    x, y, permutations, seed, jackknife, threads, progress, device: as for :func:`repsim.eigenspace_overlap`; n may be
        below d.

    Returns
    -------
    Distance sqrt(tr A A + tr B B - 2 tr C D), a metric, with S and T the covariances of x and y, R their
    cross-covariance, A = (S + ridge I)^-1 S, B = (T + ridge I)^-1 T, C = (S + ridge I)^-1 R, D = (T + ridge I)^-1 R'.
    Below about 1e-7 it is rounding.

    Raises
    ------
    TypeError, ValueError: as for :func:`repsim.eigenspace_overlap`, but for columns of zeros; rows that are all equal;
        a negative ``ridge``; with a ridge of 0, columns that depend on each other.

    Paper: Boix-Adsera, Lawrence, Stepaniants and Rigollet (2022), "GULP: a prediction-based metric between
        representations".
    """
    return GULP.evaluate(
        x, y, {"ridge": ridge}, permutations=permutations, seed=seed, jackknife=jackknife, threads=threads,
        progress=progress, device=device,
    )  # fmt: skip


def bures(
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
    """Normalised Bures similarity of two centred Gram matrices: the root of their fidelity.

    Example::

        repsim.bures(x, 2 * x @ orthogonal + 3)                # x [1000, 64]: 1
        repsim.bures(x, y, permutations=200)                   # y [1000, 32]

    Parameters: as for :func:`repsim.eigenspace_overlap`; x and y are centred, and n may be below d, which costs n^2 d.

    Returns
    -------
    Similarity in [0, 1]: tr((K^(1/2) L K^(1/2))^(1/2)) / sqrt(tr K tr L) = |X'Y|_* / (|X| |Y|), the cosine of
    :func:`repsim.angular_procrustes`. It is above 0 by chance, and nears 1 as d / n grows.

    Raises
    ------
    TypeError, ValueError: as for :func:`repsim.eigenspace_overlap`, but for its columns; rows that are all equal.

    Papers: Tang, Maddox, Dickens, Diethe and Damianou (2020), "Similarity of neural networks with gradients"; Harvey,
        Larsen and Williams (2024), "Duality of Bures and shape distances".
    """
    return BURES.evaluate(
        x, y, {}, permutations=permutations, seed=seed, jackknife=jackknife, threads=threads, progress=progress,
        device=device,
    )  # fmt: skip


def riemannian(
    x: Any,
    y: Any,
    *,
    ridge: float = 0.01,
    permutations: int = 0,
    seed: int = 0,
    jackknife: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
    device: Any = None,
) -> Distance:
    """The geodesic distance of two regularised Gram matrices on the manifold of positive definite matrices.

    Example::

        repsim.riemannian(x, 2 * x @ orthogonal + 3)           # x [1000, 64]: 0
        repsim.riemannian(x, y, ridge=0.1)                     # y [1000, 32]

    Parameters
    ----------
    ridge: above 0, added to every eigenvalue of the Gram matrix XX' / |X|^2, whose eigenvalues sum to 1. Directions
        with a smaller share of the variance hardly count.
    x, y, permutations, seed, jackknife, threads, progress, device: as for :func:`repsim.eigenspace_overlap`; x and y
        are centred, and n may be below d.

    Returns
    -------
    Distance sqrt(sum of log^2 of the eigenvalues of K^-1 L), a metric, with K = XX' / |X|^2 + ridge I and L likewise,
    both [n, n] and never built: outside the span of both they are equal. As published there is no ridge; the Gram
    matrix of d < n features is then singular, and every distance infinite.

    Raises
    ------
    TypeError, ValueError: as for :func:`repsim.eigenspace_overlap`, but for its columns; rows that are all equal; a
        ``ridge`` that is not above 0.

    Paper: Shahbazi, Shirali, Aghajan and Nili (2021), "Using distance on the Riemannian manifold to compare
        representations in brain and in models".
    """
    return RIEMANNIAN.evaluate(
        x, y, {"ridge": ridge}, permutations=permutations, seed=seed, jackknife=jackknife, threads=threads,
        progress=progress, device=device,
    )  # fmt: skip
