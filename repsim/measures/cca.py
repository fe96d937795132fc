"""Canonical correlations of two representations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ..arguments import Progress, positive_number
from ..arrays import Rows
from .method import Method
from .registry import Measure, invariant_to, register
from .similarity import Similarity
from .spaces import Space, bases_product, canonical_correlations, space

_LEAST_ROWS = 3  # with two, every correlation is 1
_SMALL = (
    "grows with (d + d') / n whatever the data: take n much larger, or look at the null; refused where one side spans "
    "n - 1 dimensions, so that every correlation is 1"
)
_COST = "time n (d^2 + d'^2 + d d') + d^3 + d'^3, memory d^2 + d'^2 + d d'; for n <= d n^2 d + n^3 and n^2"


def _relabelled(side: Space, order: np.ndarray) -> Space:
    return replace(side, order=order)


def _of_correlations(function: str, statistic: Callable[[np.ndarray], float], **directions: Any) -> Method[Space]:
    """A statistic of the canonical correlations; ``directions`` are the options of :func:`space`."""

    def prepare(rows: Rows, threads: int) -> Space:
        return space(rows, function=function, threads=threads, **directions)

    def between(x: Space, y: Space, threads: int) -> float:
        return statistic(canonical_correlations(bases_product(x, y, function=function, threads=threads)))

    return Method(prepare, between, _relabelled, _LEAST_ROWS)


def _mean(correlations: np.ndarray) -> float:
    return float(correlations.mean())


def _mean_square(correlations: np.ndarray) -> float:
    return float((correlations**2).mean())


def _cca_mean() -> Method[Space]:
    return _of_correlations("cca_mean", _mean)


def _cca_mean_squared() -> Method[Space]:
    return _of_correlations("cca_mean_squared", _mean_square)


def _svcca(variance: float = 0.99, variant: str = "raghu2017") -> Method[Space]:
    return svcca_of("svcca", variance, variant)


def svcca_of(function: str, variance: float, variant: str) -> Method[Space]:
    """:func:`svcca` for a ``function`` that errors are to name.

    Raises
    ------
    TypeError, ValueError: another variant or share.
    """
    if not positive_number(variance, "variance", function=function) <= 1:
        raise ValueError(f"[{function}] expected variance of at most 1, got {variance!r}")
    wu = _is_wu(variant, "raghu2017", function)
    return _of_correlations(function, _mean, share=variance, standardised=wu, short=wu)


def _pwcca(variant: str = "morcos2018") -> Method[Space]:
    wu = _is_wu(variant, "morcos2018", "pwcca")
    share = 0.99 if wu else 1.0

    def prepare(rows: Rows, threads: int) -> Space:
        return space(rows, share=share, short=wu, loaded=True, function="pwcca", threads=threads)

    def between(x: Space, y: Space, threads: int) -> float:
        product = bases_product(x, y, function="pwcca", threads=threads)
        if x.rank + y.rank > len(x.rows):
            raise ValueError(
                f"[pwcca] expected at least {x.rank + y.rank} inputs for the {x.rank} and {y.rank} dimensions that x "
                f"and y span, got {len(x.rows)}: several correlations are then 1 whatever the data, and their weights "
                "are not determined; use svcca or cka"
            )
        assert x.loadings is not None, "asked for above"
        left, correlations, _ = np.linalg.svd(product, full_matrices=False)
        # How much of the columns of x each canonical variate of x carries: sum_j |<h_i, x_j>|.
        weights = np.abs(x.loadings @ left).sum(axis=0)
        return float(weights @ np.minimum(correlations, 1.0) / weights.sum())

    return Method(prepare, between, _relabelled, _LEAST_ROWS)


def _is_wu(variant: str, original: str, function: str) -> bool:
    if variant not in (original, "wu2020"):
        raise ValueError(f"[{function}] expected variant {original!r} or 'wu2020', got {variant!r}")
    return variant == "wu2020"


CCA_MEAN = register(
    Measure(
        name="cca_mean",
        family="cca",
        kind="similarity",
        low=0.0,
        high=1.0,
        symmetric=True,
        invariances=invariant_to("affine"),
        cost=_COST,
        paper="Hotelling (1936), Relations between two sets of variates; Raghu, Gilmer, Yosinski and Sohl-Dickstein "
        "(2017), SVCCA",
        formula="mean_i rho_i, rho the singular values of Q_x'Q_y, Q orthonormal bases of centred X and Y",
        aliases=("google/svcca: mean of cca_coef1", "Kornblith et al. 2019: mean CCA correlation"),
        note=_SMALL,
        method=_cca_mean,
        self_value=1.0,
        gpu=True,
    )
)


def cca_mean(
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
    """Mean canonical correlation: the mean cosine of the principal angles between the spaces of the centred columns.

    Example::

        x, y = rng.normal(size=(1000, 64)), rng.normal(size=(1000, 32))
        repsim.cca_mean(x, y)                                       # about 0.24 by chance, see the null
        repsim.cca_mean(x, x @ invertible + shift)                  # 1

    Parameters
    ----------
    x, y: [n, d] and [n, d'] arrays, as for :func:`repsim.cka`; n = 10^6 takes one pass and d x d' sums.
    permutations: relabellings of the inputs of y that the null and p are taken from; 0 leaves them out.
    seed: of the relabellings, and of the groups of the jackknife.
    jackknife: groups of inputs, each left out once for the standard error; 0 leaves it out.
    threads: default REPSIM_NUM_THREADS, else every CPU of the process.
    progress: called with (steps done, steps in all).
    device: where to work, as for :func:`repsim.cka`; rows on a GPU stay there.

    Returns
    -------
    Similarity in [0, 1], 1 where one space holds the other. The mean is over min(r, r') correlations, r and r' the
    dimensions that the columns span: constant and linearly dependent columns change nothing. A direction with less than
    1e-10 of the largest variance, in columns of unit variance, counts as dependent.

    Raises
    ------
    TypeError, ValueError: as for :func:`repsim.cka`; fewer than 3 inputs; one side spans n - 1 dimensions (as with
        n <= d), so that every correlation is 1 whatever the data. With r + r' > n - 1 at least r + r' - n + 1 of them
        are 1 by chance alone: that is let through, and the null shows it.

    Formula: mean_i rho_i, rho the singular values of Q_x'Q_y, with Q_x and Q_y orthonormal bases.
    Paper: Hotelling (1936); Raghu et al. (2017) for networks.
    """
    return CCA_MEAN.evaluate(
        x, y, {}, permutations=permutations, seed=seed, jackknife=jackknife, threads=threads, progress=progress,
        device=device,
    )  # fmt: skip


CCA_MEAN_SQUARED = register(
    Measure(
        name="cca_mean_squared",
        family="cca",
        kind="similarity",
        low=0.0,
        high=1.0,
        symmetric=True,
        invariances=invariant_to("affine"),
        cost=_COST,
        paper="Yanai (1974), Unification of various techniques of multivariate analysis by means of generalized "
        "coefficient of determination; Kornblith, Norouzi, Lee and Hinton (2019), Similarity of neural network "
        "representations revisited",
        formula="mean_i rho_i^2 = |Q_x'Q_y|_F^2 / min(r, r')",
        aliases=("Kornblith et al. 2019: R^2_CCA", "google-research/representation_similarity: cca"),
        note=_SMALL,
        method=_cca_mean_squared,
        self_value=1.0,
        gpu=True,
    )
)


def cca_mean_squared(
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
    """Mean squared canonical correlation, R^2_CCA: the share of the smaller space that lies in the other.

    Example::

        repsim.cca_mean_squared(x, y)                           # x [n, d], y [n, d']; chance is max(d, d') / (n - 1)

    Parameters, raises: as for :func:`cca_mean`.

    Returns
    -------
    Similarity in [0, 1]. Yanai's coefficient divides by sqrt(r r') where this divides by min(r, r'): the two are equal
    where both sides span equally many dimensions.

    Formula: mean_i rho_i^2 = |Q_x'Q_y|_F^2 / min(r, r').
    Papers: Yanai (1974); Kornblith et al. (2019).
    """
    return CCA_MEAN_SQUARED.evaluate(
        x, y, {}, permutations=permutations, seed=seed, jackknife=jackknife, threads=threads, progress=progress,
        device=device,
    )  # fmt: skip


SVCCA = register(
    Measure(
        name="svcca",
        family="cca",
        kind="similarity",
        low=0.0,
        high=1.0,
        symmetric=True,
        invariances=invariant_to("orthogonal", "isotropic_scaling", "translation"),
        cost=_COST,
        paper="Raghu, Gilmer, Yosinski and Sohl-Dickstein (2017), SVCCA: singular vector canonical correlation "
        "analysis for deep learning dynamics and interpretability",
        formula="cca_mean of the fewest principal components that hold 99 % of the variance of each side",
        aliases=("google/svcca: get_cca_similarity after a singular value decomposition",),
        note="of the variance, not of the sum of singular values as in much public code; " + _SMALL,
        method=_svcca,
        self_value=1.0,
        gpu=True,
    )
)


def svcca(
    x: Any,
    y: Any,
    *,
    variance: float = 0.99,
    variant: str = "raghu2017",
    permutations: int = 0,
    seed: int = 0,
    jackknife: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
    device: Any = None,
) -> Similarity:
    """Mean canonical correlation of the principal components that hold most of the variance.

    Example::

        repsim.svcca(x, y)                                          # x [n, d], y [n, d']
        repsim.svcca(x, y, variance=0.9, variant="wu2020")

    Parameters
    ----------
    x, y: [n, d] and [n, d'] arrays, as for :func:`repsim.cka`. With n < d it is of use where fewer than n - 1
        components hold the variance.
    variance: the share of the variance to keep, above 0 and at most 1.
    variant: "raghu2017": the fewest components of the centred columns that hold the share. "wu2020": columns are
        brought to unit variance first, and only the components before the one that reaches the share are kept.
    permutations, seed, jackknife, threads, progress, device: as for :func:`cca_mean`.

    Returns
    -------
    Similarity in [0, 1].

    Raises
    ------
    TypeError, ValueError: as for :func:`cca_mean`; another variant or share; no component before the share is reached
        (one holds it all, under "wu2020").

    Formula: mean_i rho_i of the kept components, over the smaller number of them.
    Papers: Raghu et al. (2017); Wu et al. (2020), "Similarity analysis of contextual word representation models".
    """
    return SVCCA.evaluate(
        x, y, {"variance": variance, "variant": variant}, permutations=permutations, seed=seed, jackknife=jackknife,
        threads=threads, progress=progress, device=device,
    )  # fmt: skip


PWCCA = register(
    Measure(
        name="pwcca",
        family="cca",
        kind="similarity",
        low=0.0,
        high=1.0,
        symmetric=False,
        invariances=invariant_to("permutation", "isotropic_scaling", "translation"),
        cost=_COST,
        paper="Morcos, Raghu and Bengio (2018), Insights on representational similarity in neural networks with "
        "canonical correlation",
        formula="sum_i a_i rho_i / sum_i a_i, a_i = sum_j |<h_i, x_j>|, h_i the canonical variates of x",
        aliases=("google/svcca: compute_pwcca",),
        note="weights are of x, so that the order of x and y matters; of correlations that are equal the weights are "
        "not determined, as where y holds a part of x exactly; " + _SMALL,
        method=_pwcca,
        self_value=1.0,
        gpu=True,
    )
)


def pwcca(
    x: Any,
    y: Any,
    *,
    variant: str = "morcos2018",
    permutations: int = 0,
    seed: int = 0,
    jackknife: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
    device: Any = None,
) -> Similarity:
    """Mean canonical correlation, each weighted by how much of x its canonical variate carries.

    Example::

        repsim.pwcca(x, y), repsim.pwcca(y, x)                      # x [n, d], y [n, d']; the two differ

    Parameters
    ----------
    x, y: [n, d] and [n, d'] arrays, as for :func:`repsim.cka`; the weights are of x.
    variant: "morcos2018": of all dimensions. "wu2020": of the components that ``svcca(variant="wu2020")`` keeps of 99 %
        of the variance, weighted by the columns of x as they are.
    permutations, seed, jackknife, threads, progress, device: as for :func:`cca_mean`.

    Returns
    -------
    Similarity in [0, 1], not symmetric. Any invertible affine map of y leaves it as it is (under "morcos2018"); of x
    only those that keep the columns up to order, sign, one scale, and shift.

    Raises
    ------
    TypeError, ValueError: as for :func:`cca_mean`; another variant; fewer inputs than x and y span dimensions together:
        several correlations are then 1 whatever the data, with weights that are not determined.

    Formula: sum_i a_i rho_i / sum_i a_i with a_i = sum_j |<h_i, x_j>|, over the min(r, r') canonical variates h_i of x,
    and the centred columns x_j.
    Papers: Morcos et al. (2018); Wu et al. (2020), "Similarity analysis of contextual word representation models".
    """
    return PWCCA.evaluate(
        x, y, {"variant": variant}, permutations=permutations, seed=seed, jackknife=jackknife, threads=threads,
        progress=progress, device=device,
    )  # fmt: skip
