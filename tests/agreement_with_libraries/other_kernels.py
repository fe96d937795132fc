"""Kernels beside the linear and the Gaussian one, and the law of chance."""

from __future__ import annotations

import numpy as np
import oracles

from .claims import AGREES, Function
from .inputs import Pair
from .kernels_of_arrays import hyppo, sklearn_cka
from .questions import (
    COSINE,
    CUBIC,
    FLOAT64,
    LAPLACIAN_L1,
    LAPLACIAN_L2,
    POLYNOMIAL,
    law_of,
    other_cka,
    pearson_p,
    width_of,
)

FIXED = dict.fromkeys(("d < n", "d > n", "d < n, float32", "d > n, float32", "duplicates"), AGREES)
SCALED = {**FIXED, "x 2^-13": AGREES}
MOVED = {**SCALED, "+ 1e3": AGREES, "+ 1e6": AGREES}


def rate(pair: Pair) -> float:
    return 1.0 / width_of(pair, "cityblock")


CUBIC_OPTIONS = {
    "degree": lambda pair: POLYNOMIAL["degree"],
    "gamma": lambda pair: POLYNOMIAL["scale"],
    "coef0": lambda pair: POLYNOMIAL["constant"],
}
SKLEARN = [
    Function(
        "scikit-learn", "polynomial_kernel(gamma=1/64), KernelCenterer", other_cka("biased", CUBIC),
        sklearn_cka("polynomial", **CUBIC_OPTIONS), FLOAT64, FIXED,
    ),
    Function(
        "scikit-learn", "cosine_similarity, KernelCenterer", other_cka("biased", COSINE), sklearn_cka("cosine"),
        FLOAT64, {**SCALED, "+ 1e3": AGREES},
    ),
    Function(
        "scikit-learn", "laplacian_kernel(gamma=1/s), KernelCenterer", other_cka("biased", LAPLACIAN_L1),
        sklearn_cka("laplacian", gamma=rate), FLOAT64, MOVED,
    ),
]  # fmt: skip
HYPPO = [
    Function(
        "hyppo", 'Hsic("cosine").statistic(x, y)', other_cka("debiased", COSINE), hyppo("cosine", bias=False),
        FLOAT64, dict.fromkeys(("d < n", "d > n", "duplicates", "x 2^-13", "+ 1e3"), AGREES),
    ),
    Function(
        "hyppo", 'Hsic("laplacian", gamma=1/s).statistic(x, y)', other_cka("debiased", LAPLACIAN_L1),
        hyppo("laplacian", bias=False, gamma=rate), FLOAT64, MOVED,
    ),
]  # fmt: skip


def scipy_laplacian(pair: Pair) -> float:
    """exp(-distance / s) of cdist, centred twice; the cosine of the two is the biased CKA."""
    from scipy.spatial.distance import cdist

    def centred(rows):
        k = np.exp(-cdist(rows, rows) / width_of(pair, "euclidean"))
        k = k - k.mean(axis=0)
        return k - k.mean(axis=1, keepdims=True)

    k, l = centred(pair.x), centred(pair.y)  # noqa: E741
    return float(np.sum(k * l) / (np.linalg.norm(k) * np.linalg.norm(l)))


def scipy_pearson3(pair: Pair) -> float:
    from scipy.stats import pearson3

    mean, sd, skewness = law_of(pair)
    return float(pearson3.sf(oracles.cka(pair.x, pair.y), skewness, loc=mean, scale=sd))


SCIPY = [
    Function("scipy", "exp(-cdist / s), centred", other_cka("biased", LAPLACIAN_L2), scipy_laplacian, FLOAT64, MOVED),
    Function(
        "scipy", "stats.pearson3.sf(value, skewness, mean, sd)", pearson_p(), scipy_pearson3, FLOAT64,
        {"d < n": AGREES, "unrelated": AGREES},
    ),
]  # fmt: skip
FUNCTIONS: list[Function] = [*SKLEARN, *HYPPO, *SCIPY]
