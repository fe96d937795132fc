"""Functions that compare spaces, shapes and neurons: canonical correlations, regressions, alignments, matches."""

from __future__ import annotations

import importlib
import importlib.metadata
import math
import sys
import types
import warnings
from typing import Any

import numpy as np

from . import families
from .claims import AGREES, Claim, Function, another_quantity, fewer_digits, wrong
from .families import (
    ANGULAR,
    BURES,
    CCA,
    HARD_MATCH,
    LINEAR_REGRESSION,
    MAXIMUM_MATCHING,
    PENALTY,
    PLS,
    PROCRUSTES,
    PWCCA,
    RIDGE,
    RIEMANNIAN,
    SOFT_MATCHING,
)
from .inputs import Array, Pair
from .questions import FLOAT64

FIXED = dict.fromkeys(("d < n", "d < n, float32", "x 2^-13", "duplicates"), AGREES)
MOVED: dict[str, Claim] = {**FIXED, "+ 1e3": AGREES, "+ 1e6": AGREES}


def middle(rows: Array) -> Array:
    return rows - rows.mean(axis=0)


def padded(pair: Pair) -> tuple[Array, Array]:
    """Of one width, by columns of zeros."""
    x, y = middle(pair.x), middle(pair.y)
    width = max(x.shape[1], y.shape[1])
    a, b = (np.pad(side, ((0, 0), (0, width - side.shape[1]))) for side in (x, y))
    return a, b


# ---------------------------------------------------------------------------------------------- scipy


def scipy_angles(pair: Pair) -> float:
    from scipy.linalg import subspace_angles

    return float(np.cos(subspace_angles(middle(pair.x), middle(pair.y))).mean())


def scipy_orthogonal(pair: Pair) -> float:
    from scipy.linalg import orthogonal_procrustes

    a, b = padded(pair)
    return math.sqrt(np.sum(a * a) + np.sum(b * b) - 2 * orthogonal_procrustes(a, b)[1])


def scipy_procrustes(pair: Pair) -> float:
    """It gives the squared distance of unit shapes after scaling: the squared sine of the angle."""
    from scipy.spatial import procrustes

    x, y = pair.x, pair.y
    return math.asin(math.sqrt(procrustes(x, np.pad(y, ((0, 0), (0, x.shape[1] - y.shape[1]))))[2]))


def scipy_assignment(pair: Pair) -> float:
    from scipy.optimize import linear_sum_assignment

    d = pair.x.shape[1]
    correlation = np.corrcoef(pair.x, pair.y, rowvar=False)[:d, d:]
    return float(correlation[linear_sum_assignment(correlation, maximize=True)].mean())


SCIPY = [
    Function("scipy", "cos(linalg.subspace_angles(x, y)), mean", CCA, scipy_angles, FLOAT64, MOVED),
    Function("scipy", "linalg.orthogonal_procrustes(x, y)", PROCRUSTES, scipy_orthogonal, FLOAT64, MOVED),
    Function("scipy", "asin(sqrt(spatial.procrustes(x, y)[2]))", ANGULAR, scipy_procrustes, FLOAT64, MOVED),
    Function("scipy", "optimize.linear_sum_assignment(corrcoef)", HARD_MATCH, scipy_assignment, FLOAT64, MOVED),
]

# ---------------------------------------------------------------------------------------------- scikit-learn


def sklearn_cca(tol: float, iterations: int):
    def call(pair: Pair) -> float:
        from sklearn.cross_decomposition import CCA

        count = min(pair.x.shape[1], pair.y.shape[1])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it did not converge, or changes what it is given
            a, b = CCA(n_components=count, tol=tol, max_iter=iterations).fit_transform(pair.x.copy(), pair.y.copy())
        return float(np.mean([np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(count)]))

    return call


def sklearn_pls(pair: Pair) -> float:
    """Covariances of the scores of the standardised columns, summed."""
    from sklearn.cross_decomposition import PLSSVD

    count = min(pair.x.shape[1], pair.y.shape[1])
    a, b = PLSSVD(n_components=count).fit_transform(pair.x.copy(), pair.y.copy())
    covariances = [np.cov(a[:, i], b[:, i])[0, 1] for i in range(count)]
    return float(np.sum(covariances) / math.sqrt(pair.x.shape[1] * pair.y.shape[1]))


def sklearn_regression(pair: Pair) -> float:
    from sklearn.linear_model import LinearRegression
    from sklearn.metrics import r2_score

    predicted = LinearRegression().fit(pair.x, pair.y).predict(pair.x)
    return float(r2_score(pair.y, predicted, multioutput="variance_weighted"))


def sklearn_ridge(pair: Pair) -> float:
    from sklearn.linear_model import Ridge

    def predict(x: Array, y: Array, new: Array) -> Array:
        penalty = PENALTY * float(((x - x.mean(axis=0)) ** 2).sum()) / len(x)
        return Ridge(alpha=penalty).fit(x, y).predict(new)

    return families.held_out(pair.x, pair.y, predict)


NOT_CONVERGED = fewer_digits("power iterations, stopped at their default tolerance of 1e-6")
SKLEARN = [
    Function("scikit-learn", "CCA(n_components=24)", CCA, sklearn_cca(1e-6, 500), FLOAT64, {"d < n": NOT_CONVERGED}),
    Function(
        "scikit-learn", "CCA(n_components=24, tol=1e-20, max_iter=100000)", CCA, sklearn_cca(1e-20, 100_000), FLOAT64,
        {"d < n": AGREES, "+ 1e6": AGREES},
    ),
    Function("scikit-learn", "PLSSVD(n_components=24)", PLS, sklearn_pls, FLOAT64, MOVED),
    Function("scikit-learn", "LinearRegression, r2_score", LINEAR_REGRESSION, sklearn_regression, FLOAT64, MOVED),
    Function("scikit-learn", "Ridge, same folds", RIDGE, sklearn_ridge, FLOAT64, MOVED),
]  # fmt: skip

# ---------------------------------------------------------------------------------------------- POT, pyriemann


def pot_matching(pair: Pair) -> float:
    import ot

    x, y = (middle(side).T for side in (pair.x, pair.y))
    return math.sqrt(ot.emd2(ot.unif(len(x)), ot.unif(len(y)), ot.dist(x, y)))


def pyriemann_distance(pair: Pair) -> float:
    from pyriemann.geometry.distance import distance_riemann

    grams = ((side @ side.T) / np.sum(side * side) for side in map(middle, (pair.x, pair.y)))
    return float(distance_riemann(*(gram + 0.01 * np.eye(pair.n) for gram in grams)))


POT = [Function("pot", "emd2(unif, unif, dist(x', y'))", SOFT_MATCHING, pot_matching, FLOAT64, MOVED)]
PYRIEMANN = [
    Function("pyriemann", "distance_riemann(K + 0.01 I, L + 0.01 I)", RIEMANNIAN, pyriemann_distance, FLOAT64, MOVED)
]

# ---------------------------------------------------------------------------------------------- similarity-repository


def backend(folder: str, module: str) -> Any:
    """A module of its backends, which hold copies of other repositories.

    The package itself cannot be imported: it asks for packages that PyPI has not.
    """
    name = f"similarity_repository_{folder}"
    if name not in sys.modules:
        package = types.ModuleType(name)
        found = importlib.metadata.distribution("similarity-repository").locate_file(f"similarity/backend/{folder}")
        package.__path__ = [str(found)]
        sys.modules[name] = package
    return importlib.import_module(f"{name}.{module}")


def google_cca(of: str):
    def call(pair: Pair) -> float:
        found = backend("svcca", "cca_core").get_cca_similarity(pair.x.T, pair.y.T, verbose=False)
        return (
            float(found["mean"][0]) if of == "mean" else float(found["sum"][0]) / min(pair.x.shape[1], pair.y.shape[1])
        )

    return call


def most_of_the_sum(pair: Pair) -> float:
    """The mean of the fewest correlations that hold 98 % of their sum."""
    rho = families.correlations(*families.both(pair))
    return float(rho[: 1 + int(np.argmax(np.cumsum(rho) >= 0.98 * rho.sum()))].mean())


def google_pwcca(pair: Pair) -> float:
    return float(backend("svcca", "pwcca").compute_pwcca(pair.y.T, pair.x.T)[0])


def without_whitening(pair: Pair) -> float:
    """Weights of the directions that whitened features have, applied to features that are not."""
    x, y = families.both(pair)
    means = np.asarray(pair.y, np.float64).mean(axis=0)

    def root(rows: Array) -> Array:
        values, vectors = np.linalg.eigh(rows.T @ rows)
        return vectors / np.sqrt(values) @ vectors.T

    u, rho, _ = np.linalg.svd(root(y) @ y.T @ x @ root(x), full_matrices=False)
    p, _ = np.linalg.qr(y @ u + means)
    weights = np.abs(p.T @ (y + means)).sum(axis=1)
    return float(weights @ rho / weights.sum())


def subspace_match(pair: Pair) -> float:
    found = backend("subspacematch", "match_utils").find_maximal_match(pair.x.T, pair.y.T, families.EPSILON)
    return sum(map(len, found)) / (pair.x.shape[1] + pair.y.shape[1])


def amazon(name: str):
    def call(pair: Pair) -> float:
        index = backend("nn_similarity_index", "sim_indices").SimIndex()
        return float(getattr(index, name)(pair.x @ pair.x.T, pair.y @ pair.y.T))

    return call


SIMILARITY_REPOSITORY = [
    Function(
        "similarity-repository", 'google/svcca: get_cca_similarity(x\', y\')["sum"] / 24', CCA, google_cca("sum"),
        FLOAT64, MOVED,
    ),
    Function(
        "similarity-repository", 'google/svcca: get_cca_similarity(x\', y\')["mean"]', CCA, google_cca("mean"), FLOAT64,
        {"d < n": another_quantity("the mean of the correlations that hold 98 % of their sum", most_of_the_sum)},
    ),
    Function(
        "similarity-repository", "google/svcca: compute_pwcca(y', x')", PWCCA, google_pwcca, FLOAT64,
        {"d < n": wrong("directions of whitened features, applied to features that are not", without_whitening)},
    ),
    Function(
        "similarity-repository", f"MeckyWu/subspace-match: find_maximal_match(x', y', {families.EPSILON})",
        MAXIMUM_MATCHING, subspace_match, FLOAT64, {**FIXED, "+ 1e3": AGREES},
    ),
    Function(
        "similarity-repository", "amzn/xfer: SimIndex().nbs(x x', y y')", BURES, amazon("nbs"), FLOAT64,
        dict.fromkeys(MOVED, fewer_digits("square roots of the n - d eigenvalues that rounding leaves of zero")),
    ),
]  # fmt: skip

FUNCTIONS: list[Function] = [*SCIPY, *SKLEARN, *POT, *PYRIEMANN, *SIMILARITY_REPOSITORY]
