"""Distances between shapes: what is left when one representation is turned onto the other as well as can be."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arguments import Progress, positive_number
from .alignment import (
    angle,
    best_permutation,
    between_rows,
    between_shapes,
    between_whitened,
    difference,
    nuclear_norm,
    unit_difference,
)
from .method import Method
from .registry import Measure, invariant_to, register
from .similarity import Distance, Similarity

_GENERALIZED = "Williams, Kunz, Kornblith and Linderman (2021), Generalized shape metrics on neural representations"


def _procrustes(unit_norm: bool = False) -> Method[Any]:
    score = unit_difference if unit_norm else difference
    return between_shapes("procrustes", nuclear_norm, score, turnable=True)


def _angular_procrustes() -> Method[Any]:
    return between_shapes("angular_procrustes", nuclear_norm, angle, turnable=True)


def _permutation_procrustes(unit_norm: bool = False) -> Method[Any]:
    score = unit_difference if unit_norm else difference
    return between_shapes("permutation_procrustes", best_permutation, score, turnable=False)


def _partial_whitening(alpha: float = 0.5) -> Method[Any]:
    if positive_number(alpha, "alpha", function="partial_whitening", or_zero=True) > 1:
        raise ValueError(f"[partial_whitening] expected alpha between 0 and 1, got {alpha!r}")
    return between_whitened("partial_whitening", alpha)


def _aligned_cosine() -> Method[Any]:
    return between_rows("aligned_cosine")


PROCRUSTES = register(
    Measure(
        name="procrustes",
        family="shapes",
        kind="distance",
        low=0.0,
        high=np.inf,
        symmetric=True,
        metric=True,
        invariances=invariant_to("orthogonal", "translation"),
        cost="time n (d + d')^2 + d d' min(d, d'), memory d^2 + d'^2",
        paper=_GENERALIZED,
        formula="sqrt(|X|^2 + |Y|^2 - 2 |X'Y|_*), X and Y centred",
        aliases=(
            "netrep: LinearMetric(alpha=1.0, score_method='euclidean')",
            "ReSi: procrustes_size_and_shape_distance",
            "ReSi: orthogonal_procrustes_centered_and_normalized (unit_norm=True)",
        ),
        note="grows with the number of inputs and with their scale; unit_norm=True takes that away. Some publish its "
        "square. Below about 1e-7 of the norms it is rounding.",
        method=_procrustes,
        self_value=0.0,
        gpu=True,
    )
)

ANGULAR_PROCRUSTES = register(
    Measure(
        name="angular_procrustes",
        family="shapes",
        kind="distance",
        low=0.0,
        high=np.pi / 2,
        symmetric=True,
        metric=True,
        invariances=invariant_to("orthogonal", "translation", "isotropic_scaling"),
        cost="time n (d + d')^2 + d d' min(d, d'), memory d^2 + d'^2",
        paper=_GENERALIZED,
        formula="arccos(|X'Y|_* / (|X| |Y|)), X and Y centred",
        aliases=(
            "netrep: LinearMetric(alpha=1.0, score_method='angular')",
            "ReSi: orthogonal_angular_shape_metric_centered",
        ),
        note="in radians; its cosine is bures. Below about 1e-7 it is rounding.",
        method=_angular_procrustes,
        self_value=0.0,
        gpu=True,
    )
)

PERMUTATION_PROCRUSTES = register(
    Measure(
        name="permutation_procrustes",
        family="shapes",
        kind="distance",
        low=0.0,
        high=np.inf,
        symmetric=True,
        metric=False,
        invariances=invariant_to("permutation", "translation"),
        cost="time n (d + d')^2 + max(d, d')^3, memory d^2 + d'^2",
        paper=_GENERALIZED,
        formula="min over permutations P of |X P - Y|, X and Y centred, the narrower padded with zeros",
        aliases=("netrep: PermutationMetric(score_method='euclidean')", "ReSi: permutation_procrustes (not centred)"),
        note="a metric among representations of one width; across widths the padding breaks the triangle inequality, "
        "and soft_matching keeps it.",
        method=_permutation_procrustes,
        self_value=0.0,
        gpu=True,
    )
)

PARTIAL_WHITENING = register(
    Measure(
        name="partial_whitening",
        family="shapes",
        kind="distance",
        low=0.0,
        high=np.pi / 2,
        symmetric=True,
        metric=True,
        invariances=invariant_to("orthogonal", "translation"),
        cost="time n (d + d')^2 + d^3 + d'^3, memory d^2 + d'^2",
        paper=_GENERALIZED,
        formula="arccos(|A'B|_* / (|A| |B|)), A = X (alpha I + (1 - alpha) (X'X)^(-1/2)), B of Y, X and Y centred",
        aliases=("netrep: LinearMetric(alpha=alpha, score_method='angular')",),
        note="invariant to affine maps at alpha=0, to isotropic scaling at alpha=0 and 1 only; at alpha=0 any two "
        "representations with d, d' >= n - 1 are at 0.",
        method=_partial_whitening,
        self_value=0.0,
        gpu=True,
    )
)

ALIGNED_COSINE = register(
    Measure(
        name="aligned_cosine",
        family="shapes",
        kind="similarity",
        low=-1.0,
        high=1.0,
        symmetric=True,
        invariances=invariant_to("orthogonal", "isotropic_scaling"),
        cost="time n (d + d')^2 + d d' min(d, d'), memory d^2 + d'^2 + n",
        paper="Hamilton, Leskovec and Jurafsky (2016), Diachronic word embeddings reveal statistical laws of semantic "
        "change",
        formula="mean over i of cos(Q'x_i, y_i), Q the orthogonal map with the least |X Q - Y|",
        aliases=("ReSi: aligned_cossim",),
        note="not centred: far from the origin all rows point the same way, and the value nears 1.",
        method=_aligned_cosine,
        self_value=1.0,
        gpu=True,
    )
)


def procrustes(
    x: Any,
    y: Any,
    *,
    unit_norm: bool = False,
    permutations: int = 0,
    seed: int = 0,
    jackknife: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
    device: Any = None,
) -> Distance:
    """How far two centred shapes are apart when one is turned and reflected onto the other: min over Q of |X Q - Y|_F.

    Example::

        x = rng.normal(size=(1000, 64))
        repsim.procrustes(x, x @ orthogonal + 3)           # 0
        repsim.procrustes(x, y, unit_norm=True)            # y [1000, 32]: between 0 and sqrt(2)

    Parameters
    ----------
    x, y: [n, d] and [n, d'] arrays, as for :func:`repsim.cka`; the narrower is padded with columns of zeros. One with
        more features than inputs is turned into the span of its rows first, in float64: n^2 d instead of d^3.
    unit_norm: divide both by their Frobenius norms after centring, so that scale does not count.
    permutations: relabellings of the inputs of y that the null and p are taken from; 0 leaves them out.
    seed: of the relabellings, and of the groups of the jackknife.
    jackknife: groups of inputs, at least 2, each left out once for the standard error; 0 leaves it out.
    threads: default REPSIM_NUM_THREADS, else every CPU of the process.
    progress: called with (steps done, steps in all).
    device: where to work, as for :func:`repsim.cka`; rows on a GPU stay there.

    Returns
    -------
    Distance sqrt(|X|^2 + |Y|^2 - 2 |X'Y|_*), a metric. It is the root of a difference: below about 1e-7 of the norms
    it is rounding.

    Raises
    ------
    TypeError, ValueError: inputs that are no rows of floats, differ in length or are not finite (the row is named);
        with ``unit_norm``, rows that are all equal.

    Papers: Schoenemann (1966), "A generalized solution of the orthogonal Procrustes problem"; Ding, Denain and
        Steinhardt (2021) with unit norm and squared; Williams, Kunz, Kornblith and Linderman (2021).
    """
    return PROCRUSTES.evaluate(
        x, y, {"unit_norm": unit_norm}, permutations=permutations, seed=seed, jackknife=jackknife, threads=threads,
        progress=progress, device=device,
    )  # fmt: skip


def angular_procrustes(
    x: Any,
    y: Any,
    *,
    permutations: int = 0,
    seed: int = 0,
    jackknife: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
    device: Any = None,
) -> Distance:
    """The angle between two centred shapes when one is turned and reflected onto the other, in radians.

    Example::

        repsim.angular_procrustes(x, 2 * x @ orthogonal + 3)   # x [1000, 64]: 0
        repsim.angular_procrustes(x, y)                        # y [1000, 32]: between 0 and pi / 2

    Parameters: as for :func:`repsim.procrustes`, without ``unit_norm``.

    Returns
    -------
    Distance arccos(|X'Y|_* / (|X| |Y|)), a metric from 0 to pi / 2; the cosine is :func:`repsim.bures`.

    Raises
    ------
    TypeError, ValueError: as for :func:`repsim.procrustes`; rows that are all equal.

    Paper: Williams, Kunz, Kornblith and Linderman (2021), "Generalized shape metrics on neural representations".
    """
    return ANGULAR_PROCRUSTES.evaluate(
        x, y, {}, permutations=permutations, seed=seed, jackknife=jackknife, threads=threads, progress=progress,
        device=device,
    )  # fmt: skip


def permutation_procrustes(
    x: Any,
    y: Any,
    *,
    unit_norm: bool = False,
    permutations: int = 0,
    seed: int = 0,
    jackknife: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
    device: Any = None,
) -> Distance:
    """How far two centred representations are apart when the neurons of one are reordered: min over P of |X P - Y|_F.

    Example::

        repsim.permutation_procrustes(x, x[:, ::-1] + 3)   # x [1000, 64]: 0
        repsim.permutation_procrustes(x, y)                # y [1000, 32]: padded with 32 columns of zeros

    Parameters: as for :func:`repsim.procrustes`; ``permutations`` are of inputs, as everywhere.

    Returns
    -------
    Distance, at least that of :func:`repsim.procrustes`: a metric among representations of one width. Of unequal
    widths every column of the narrower has a partner and the others are compared with zeros, which breaks the triangle
    inequality; :func:`repsim.soft_matching` keeps it. With unit norm, 2 arcsin(distance / 2) is the angle.

    Raises
    ------
    TypeError, ValueError: as for :func:`repsim.procrustes`.

    Paper: Williams, Kunz, Kornblith and Linderman (2021), "Generalized shape metrics on neural representations"; the
        best permutation by linear assignment on X'Y (Kuhn 1955).
    """
    return PERMUTATION_PROCRUSTES.evaluate(
        x, y, {"unit_norm": unit_norm}, permutations=permutations, seed=seed, jackknife=jackknife, threads=threads,
        progress=progress, device=device,
    )  # fmt: skip


def partial_whitening(
    x: Any,
    y: Any,
    *,
    alpha: float = 0.5,
    permutations: int = 0,
    seed: int = 0,
    jackknife: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
    device: Any = None,
) -> Distance:
    """The angle between two centred shapes, each whitened to a part, when one is turned onto the other, in radians.

    With A = X (alpha I + (1 - alpha) (X'X)^(-1/2)) and B of Y likewise, arccos(|A'B|_* / (|A| |B|)).

    Example::

        repsim.partial_whitening(x, y, alpha=1.0)          # x [n, d], y [n, d']: angular_procrustes
        repsim.partial_whitening(x, x @ invertible, alpha=0.0)   # 0: the sum of canonical correlations decides

    Parameters
    ----------
    alpha: from 0 (whitened) to 1 (as it is). Singular values s of X become alpha s + 1 - alpha; those of X, not of a
        covariance, so that between 0 and 1 the value depends on the scale and the number of the inputs.
    x, y, permutations, seed, jackknife, threads, progress, device: as for :func:`repsim.procrustes`.

    Returns
    -------
    Distance, a metric from 0 to pi / 2 for any one alpha. Where columns depend on each other, or n <= d, the inverse is
    that on the span of the rows; a direction along which they are shorter than about 1e-7 (1e-5 at a million inputs) of
    the longest counts as none.

    Raises
    ------
    TypeError, ValueError: as for :func:`repsim.procrustes`; rows that are all equal; ``alpha`` not from 0 to 1.

    Paper: Williams, Kunz, Kornblith and Linderman (2021), "Generalized shape metrics on neural representations".
    """
    return PARTIAL_WHITENING.evaluate(
        x, y, {"alpha": alpha}, permutations=permutations, seed=seed, jackknife=jackknife, threads=threads,
        progress=progress, device=device,
    )  # fmt: skip


def aligned_cosine(
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
    """Mean cosine of the two representations of an input, after the orthogonal map that brings X nearest to Y.

    Example::

        repsim.aligned_cosine(x, 2 * x @ orthogonal)       # x [1000, 64]: 1
        repsim.aligned_cosine(x - x.mean(0), y - y.mean(0))    # y [1000, 32]

    Parameters: as for :func:`repsim.procrustes`, without ``unit_norm``. Nothing is centred.

    Returns
    -------
    Similarity in [-1, 1]: the mean over i of cos(Q'x_i, y_i), where Q has the least |X Q - Y|_F.

    Raises
    ------
    TypeError, ValueError: as for :func:`repsim.procrustes`; a row of zeros (it is named); several best maps, where
        X'Y is singular and both sides reach into what it leaves out.

    Paper: Hamilton, Leskovec and Jurafsky (2016), "Diachronic word embeddings reveal statistical laws of semantic
        change"; Klabunde et al. (2025), "Similarity of neural network models", for representations.
    """
    return ALIGNED_COSINE.evaluate(
        x, y, {}, permutations=permutations, seed=seed, jackknife=jackknife, threads=threads, progress=progress,
        device=device,
    )  # fmt: skip
