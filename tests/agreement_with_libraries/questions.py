"""What is asked: the call of repsim, and the float64 oracle's answer. An answer is a number or lists [n, k]."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import oracles
from scipy.spatial.distance import pdist

import repsim
import repsim.calibration

from .inputs import Array, Pair

K = 10
Answer = float | Array


FLOAT64, FLOAT32 = 10.0, 5.0  # digits expected of work in float64 and in float32 on data that do not cancel
ALL = 15.0  # counts and lists are right or wrong


def all_digits(pair: Pair) -> float:
    return ALL


def of_tiles(pair: Pair) -> float:
    """Sums over float32 tiles."""
    return FLOAT32


def of_features(pair: Pair) -> float:
    """float64 sums over pairs of features, where these are fewer than inputs."""
    return FLOAT64 if max(pair.x.shape[1], pair.y.shape[1]) <= pair.n else FLOAT32


@dataclass(frozen=True)
class Question:
    """``call``: as a user of repsim writes it; ``least``: digits that repsim is held to; ``metric``: of neighbours."""

    call: str
    ours: Callable[[Pair], Answer]
    oracle: Callable[[Pair], Answer]
    least: Callable[[Pair], float]
    metric: str = ""


def digits(got: float, exact: float) -> float:
    """Decimal digits that agree: -log10 of the relative difference, within 0 and 16."""
    if not math.isfinite(got):
        return 0.0
    if got == exact:
        return 16.0
    difference = abs(got - exact) / abs(exact) if exact else math.inf
    return min(16.0, max(0.0, -math.log10(difference)))


def lists_alike(got: Array, exact: Array) -> int:
    """Rows whose lists are the same, order included."""
    return int(np.count_nonzero((got == exact).all(axis=1)))


# ---------------------------------------------------------------------------------------------- oracles for a pair


def closeness(rows: Array, copy_of: Array, metric: str) -> Array:
    """`oracles.closeness` [n, n] with copies of a row equally near to the last bit, as they are."""
    keys = oracles.closeness(rows, metric, base=rows)[np.ix_(copy_of, copy_of)]
    np.fill_diagonal(keys, -np.inf)
    return keys


def neighbours(rows: Array, copy_of: Array, metric: str) -> Array:
    """`oracles.nearest`, likewise."""
    return np.argsort(-closeness(rows, copy_of, metric), axis=1, kind="stable")[:, :K].astype(np.int64)


def overlap(pair: Pair, metric: str) -> float:
    lists = [neighbours(rows, pair.copy_of, metric) for rows in (pair.x, pair.y)]
    return oracles.mutual_knn(*lists)


def overlap_range(pair: Pair, metric: str) -> tuple[float, float]:
    """Bounds of mutual_knn whichever of equally near rows the lists take at their ends."""
    sides = [closeness(rows, pair.copy_of, metric) for rows in (pair.x, pair.y)]
    low = high = 0
    for i in range(pair.n):
        (sure_x, ends_x, take_x), (sure_y, ends_y, take_y) = (_ends(keys[i]) for keys in sides)
        fixed = len(sure_x & sure_y)
        low += fixed + max(0, take_x - len(ends_x - sure_y)) + max(0, take_y - len(ends_y - sure_x))
        low += max(0, take_x + take_y - len(ends_x | ends_y))
        high += fixed + min(take_x, len(ends_x & sure_y)) + min(take_y, len(ends_y & sure_x))
        high += min(take_x, take_y, len(ends_x & ends_y))
    return low / (pair.n * K), high / (pair.n * K)


def _ends(keys: Array) -> tuple[set[int], set[int], int]:
    """The rows surely among the K best, those equally near at the end of the list, and how many of these it takes."""
    last = np.sort(keys)[-K]
    sure = set(np.flatnonzero(keys > last).tolist())
    return sure, set(np.flatnonzero(keys == last).tolist()), K - len(sure)


RELABELLINGS = 99


def orders_of(pair: Pair) -> list[Array]:
    rng = np.random.default_rng(83)
    return [rng.permutation(pair.n) for _ in range(RELABELLINGS)]


def null_of(pair: Pair) -> Array:
    """The debiased CKA of x and of y in each of these orders."""
    k, l = (oracles.u_centred(oracles.linear_gram(side)) for side in (pair.x, pair.y))  # noqa: E741
    norm = np.linalg.norm(k) * np.linalg.norm(l)
    return np.array([np.sum(k * l[np.ix_(order, order)]) / norm for order in orders_of(pair)])


def sigma_of(pair: Pair) -> float:
    """One bandwidth for both sides: the median distance of x, to three digits."""
    return float(f"{oracles.median_distance(pair.x):.3g}")


# ---------------------------------------------------------------------------------------------- the questions


def linear_cka(estimator: str) -> Question:
    argument = "" if estimator == "debiased" else f', estimator="{estimator}"'
    return Question(
        f"cka(x, y{argument})",
        lambda pair: repsim.cka(pair.x, pair.y, estimator=estimator).value,
        lambda pair: oracles.cka(pair.x, pair.y, estimator),
        least=of_features,
    )


def linear_hsic(estimator: str) -> Question:
    argument = "" if estimator == "debiased" else f', estimator="{estimator}"'
    return Question(
        f"hsic(x, y{argument})",
        lambda pair: repsim.hsic(pair.x, pair.y, estimator=estimator).value,
        lambda pair: oracles.hsic(pair.x, pair.y, estimator),
        least=of_features,
    )


def rbf_cka(estimator: str) -> Question:
    return Question(
        f'cka(x, y, estimator="{estimator}", kernel=RBF(sigma=s))',
        lambda pair: repsim.cka(pair.x, pair.y, estimator=estimator, kernel=repsim.RBF(sigma=sigma_of(pair))).value,
        lambda pair: oracles.cka(pair.x, pair.y, estimator, oracles.Kernel("rbf", sigma_of(pair))),
        least=of_tiles,
    )


# Kernels that tests/oracles.py does not know: their Gram matrices, and what repsim calls them.


@dataclass(frozen=True)
class OtherKernel:
    """``name`` as in a call of repsim; ``ours``: the instance; ``gram``: of rows [n, d] in float64."""

    name: str
    ours: Callable[[Pair], repsim.Kernel]
    gram: Callable[[Array, Pair], Array]


def cosine_gram(rows: Array, pair: Pair) -> Array:
    unit = oracles.as_float64(rows) / np.linalg.norm(oracles.as_float64(rows), axis=1, keepdims=True)
    return unit @ unit.T


def polynomial_gram(rows: Array, pair: Pair) -> Array:
    return (POLYNOMIAL["scale"] * oracles.linear_gram(rows, centred=False) + POLYNOMIAL["constant"]) ** 3


def laplacian_gram(metric: str) -> Callable[[Array, Pair], Array]:
    def gram(rows: Array, pair: Pair) -> Array:
        rows = oracles.as_float64(rows)
        return np.exp(-np.array([_distances(row, rows, metric) for row in rows]) / width_of(pair, metric))

    return gram


def _distances(row: Array, rows: Array, metric: str) -> Array:
    differences = np.abs(rows - row)
    return differences.sum(axis=1) if metric == "cityblock" else np.sqrt((differences**2).sum(axis=1))


def width_of(pair: Pair, metric: str) -> float:
    """One bandwidth for both sides: the median distance of x in this metric, to three digits."""
    return float(f"{np.median(pdist(oracles.as_float64(pair.x), metric)):.3g}")


POLYNOMIAL = {"degree": 3, "constant": 1.0, "scale": 1 / 64}
COSINE = OtherKernel("Cosine()", lambda pair: repsim.Cosine(), cosine_gram)
CUBIC = OtherKernel(
    "Polynomial(degree=3, constant=1, scale=1/64)", lambda pair: repsim.Polynomial(**POLYNOMIAL), polynomial_gram
)
LAPLACIAN_L1 = OtherKernel(
    "LaplacianL1(sigma=s)",
    lambda pair: repsim.LaplacianL1(sigma=width_of(pair, "cityblock")),
    laplacian_gram("cityblock"),
)
LAPLACIAN_L2 = OtherKernel(
    "LaplacianL2(sigma=s)",
    lambda pair: repsim.LaplacianL2(sigma=width_of(pair, "euclidean")),
    laplacian_gram("euclidean"),
)


def other_cka(estimator: str, kernel: OtherKernel) -> Question:
    def exact(pair: Pair) -> float:
        grams = [kernel.gram(side, pair) for side in (pair.x, pair.y)]
        return oracles.cka_of_grams(*(one - one.mean() for one in grams), estimator)  # a constant changes no HSIC

    return Question(
        f'cka(x, y, estimator="{estimator}", kernel={kernel.name})',
        lambda pair: repsim.cka(pair.x, pair.y, estimator=estimator, kernel=kernel.ours(pair)).value,
        exact,
        least=of_tiles,
    )


def rbf_median_cka(estimator: str) -> Question:
    return Question(
        f'cka(x, y, estimator="{estimator}", kernel="rbf")',
        lambda pair: repsim.cka(pair.x, pair.y, estimator=estimator, kernel="rbf").value,
        lambda pair: oracles.cka(pair.x, pair.y, estimator, oracles.Kernel("rbf-median")),
        least=of_tiles,
    )


def halves(pair: Pair) -> list[tuple[Array, Array]]:
    """Two batches."""
    middle = pair.n // 2
    return [(pair.x[:middle], pair.y[:middle]), (pair.x[middle:], pair.y[middle:])]


def minibatch_cka() -> Question:
    """Sums of HSIC_1 over the batches, then normalised (Nguyen et al. 2021)."""

    def exact(pair: Pair) -> float:
        def total(of: int, with_: int) -> float:
            return sum(oracles.hsic(half[of], half[with_]) for half in halves(pair))

        return total(0, 1) / math.sqrt(total(0, 0) * total(1, 1))

    return Question(
        "streaming.MinibatchCKA().consume(batches)",
        lambda pair: repsim.streaming.MinibatchCKA().consume(halves(pair)).value,
        exact,
        least=of_features,
    )


def mutual_knn(metric: str) -> Question:
    argument = "" if metric == "cosine" else f', metric="{metric}"'
    return Question(
        f"mutual_knn(x, y, k={K}{argument})",
        lambda pair: repsim.mutual_knn(pair.x, pair.y, k=K, metric=metric).value,
        lambda pair: overlap(pair, metric),
        least=all_digits,
        metric=metric,
    )


def nearest(metric: str) -> Question:
    return Question(
        f'nearest(x, k={K}, metric="{metric}")',
        lambda pair: repsim.nearest(pair.x, k=K, metric=metric).indices,
        lambda pair: neighbours(pair.x, pair.copy_of, metric),
        least=all_digits,
        metric=metric,
    )


def share_of_relabellings() -> Question:
    return Question(
        "calibration.add_one_p(cka(x, y), null)",
        lambda pair: repsim.calibration.add_one_p(repsim.cka(pair.x, pair.y).value, null_of(pair)),
        lambda pair: oracles.add_one_p(oracles.cka(pair.x, pair.y), null_of(pair)),
        least=all_digits,
    )


LEVEL = 0.95


def law_of(pair: Pair) -> tuple[float, float, float]:
    """Mean, sd and skewness of `null_of` the pair."""
    null = null_of(pair)
    mean, sd = float(null.mean()), float(null.std())
    return mean, sd, float(np.mean(((null - mean) / sd) ** 3))


def pearson_p() -> Question:
    """Of Pearson's third law, at the debiased CKA; the oracle: the incomplete gamma function in 60 digits."""

    def exact(pair: Pair) -> float:
        import mpmath

        mean, sd, skewness = law_of(pair)
        with mpmath.workdps(60):
            shape = 4 / mpmath.mpf(skewness) ** 2
            z = (mpmath.mpf(oracles.cka(pair.x, pair.y)) - mean) / sd
            at = shape + mpmath.sign(skewness) * mpmath.sqrt(shape) * z
            ends = (at, mpmath.inf) if skewness > 0 else (0, at)
            return float(mpmath.gammainc(shape, *ends, regularized=True))

    return Question(
        "calibration.Null(mean, sd, skewness).p(value)",
        lambda pair: repsim.calibration.Null(*law_of(pair)).p(oracles.cka(pair.x, pair.y)),
        exact,
        least=lambda pair: FLOAT64,
    )
