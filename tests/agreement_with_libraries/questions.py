"""What is asked: the call of repsim, and the float64 oracle's answer. An answer is a number or lists [n, k]."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import oracles

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


def rbf_median_cka(estimator: str) -> Question:
    return Question(
        f'cka(x, y, estimator="{estimator}", kernel="rbf")',
        lambda pair: repsim.cka(pair.x, pair.y, estimator=estimator, kernel="rbf").value,
        lambda pair: oracles.cka(pair.x, pair.y, estimator, oracles.Kernel("rbf-median")),
        least=of_tiles,
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
