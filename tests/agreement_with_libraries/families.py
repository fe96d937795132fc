"""What is asked of the measures of features, spaces, distances and answers: repsim's call and the float64 oracle."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import oracles
from scipy.optimize import linear_sum_assignment

import repsim

from .inputs import Array, Pair
from .questions import FLOAT32, FLOAT64, Question, all_digits

Values = tuple[Array, Array]


def centred(rows: Array) -> Array:
    """Twice: the mean of numbers of 10^6 has an error that shows."""
    rows = oracles.as_float64(rows)
    for _ in range(2):
        rows = rows - rows.mean(axis=0)
    return rows


def both(pair: Pair) -> Values:
    return centred(pair.x), centred(pair.y)


def float64_digits(pair: Pair) -> float:
    return FLOAT64


def asked(
    call: str, ours: Callable[[Array, Array], float], oracle: Callable[[Array, Array], float], least: float = FLOAT64
) -> Question:
    """A question about the centred rows; ``least``: digits that repsim is held to."""
    return Question(
        call, lambda pair: float(ours(pair.x, pair.y)), lambda pair: oracle(*both(pair)), lambda pair: least
    )


# ---------------------------------------------------------------------------------------------- spaces


def basis(rows: Array) -> Array:
    """Left singular vectors of the columns, brought to unit length."""
    return np.linalg.svd(rows / np.linalg.norm(rows, axis=0), full_matrices=False)[0]


def correlations(x: Array, y: Array) -> Array:
    return np.linalg.svd(basis(x).T @ basis(y), compute_uv=False)


def weighted_correlations(x: Array, y: Array) -> float:
    """PWCCA: canonical variates of x, each counted by what it carries of the columns of x."""
    q = basis(x)
    u, rho, _ = np.linalg.svd(q.T @ basis(y), full_matrices=False)
    weights = np.abs((q @ u).T @ x).sum(axis=1)
    return float(weights @ rho / weights.sum())


def standardised(rows: Array) -> Array:
    return rows / np.linalg.norm(rows, axis=0)


def nuclear(x: Array, y: Array) -> float:
    return float(np.linalg.svd(x.T @ y, compute_uv=False).sum())


def pls(x: Array, y: Array) -> float:
    return nuclear(standardised(x), standardised(y)) / math.sqrt(x.shape[1] * y.shape[1])


def explained(x: Array, y: Array) -> float:
    return float(np.linalg.norm(basis(x).T @ y) ** 2 / np.linalg.norm(y) ** 2)


CCA = asked("cca_mean(x, y)", repsim.cca_mean, lambda x, y: float(correlations(x, y).mean()))
PWCCA = asked("pwcca(y, x)", lambda x, y: repsim.pwcca(y, x), lambda x, y: weighted_correlations(y, x))
PLS = asked("pls(x, y)", repsim.pls, pls)
LINEAR_REGRESSION = asked("linear_regression(x, y)", repsim.linear_regression, explained)

FOLDS, PENALTY = 5, 0.1


def folds_of(n: int) -> list[Array]:
    """As repsim deals them."""
    return np.array_split(np.random.default_rng(0).permutation(n), FOLDS)


def held_out(x: Array, y: Array, predict: Callable[[Array, Array, Array], Array]) -> float:
    """1 - squared error of ``predict(x of a training set, y of it, x held out)`` over that of the mean."""
    error = total = 0.0
    for fold in folds_of(len(x)):
        rest = np.setdiff1d(np.arange(len(x)), fold)
        error += float(((y[fold] - predict(x[rest], y[rest], x[fold])) ** 2).sum())
        total += float(((y[fold] - y[rest].mean(axis=0)) ** 2).sum())
    return 1 - error / total


def ridge(x: Array, y: Array, new: Array) -> Array:
    """By the normal equations; the penalty is PENALTY times the mean squared norm of the centred rows."""
    middle = x.mean(axis=0)
    own = x - middle
    gram = own.T @ own
    penalty = PENALTY * np.trace(gram) / len(x) * np.eye(len(gram))
    return (new - middle) @ np.linalg.solve(gram + penalty, own.T @ (y - y.mean(axis=0))) + y.mean(axis=0)


RIDGE = asked(
    f"ridge_regression(x, y, lambdas={PENALTY})",
    lambda x, y: repsim.ridge_regression(x, y, lambdas=PENALTY),
    lambda x, y: held_out(x, y, ridge),
)

# ---------------------------------------------------------------------------------------------- shapes, neurons


def distance(x: Array, y: Array) -> float:
    return math.sqrt(np.sum(x * x) + np.sum(y * y) - 2 * nuclear(x, y))


def angle(x: Array, y: Array) -> float:
    return math.acos(nuclear(x, y) / (np.linalg.norm(x) * np.linalg.norm(y)))


def matched(x: Array, y: Array) -> float:
    similarity = standardised(x).T @ standardised(y)
    return float(similarity[linear_sum_assignment(-similarity)].mean())


def transported(x: Array, y: Array) -> float:
    """Every neuron as many times as makes both sides equally many: then it is an assignment."""
    d, e = x.shape[1], y.shape[1]
    many = math.lcm(d, e)
    cost = ((x[:, :, None] - y[:, None, :]) ** 2).sum(axis=0)
    cost = np.repeat(np.repeat(cost, many // d, axis=0), many // e, axis=1)
    return math.sqrt(cost[linear_sum_assignment(cost)].sum() / many)


def cosine_of_grams(x: Array, y: Array) -> float:
    return nuclear(x, y) / (np.linalg.norm(x) * np.linalg.norm(y))


def geodesic(x: Array, y: Array, ridge: float = 0.01) -> float:
    """By the eigenvalues of L^(-1/2) K L^(-1/2), both [n, n]."""
    k, l = ((rows @ rows.T) / np.sum(rows * rows) + ridge * np.eye(len(rows)) for rows in (x, y))  # noqa: E741
    values, vectors = np.linalg.eigh(l)
    root = vectors / np.sqrt(values) @ vectors.T
    return float(np.linalg.norm(np.log(np.linalg.eigvalsh(root @ k @ root))))


EPSILON = 0.5


def largest_match(x: Array, y: Array) -> float:
    """Neurons that are not explained are taken out in turn: what is left is the largest of all matches."""

    def explained(side: Array, others: Array) -> Array:
        if not others.shape[1]:
            return np.zeros(side.shape[1], bool)
        q = np.linalg.qr(others)[0]
        off = side - q @ (q.T @ side)
        return np.linalg.norm(off, axis=0) <= EPSILON * np.linalg.norm(side, axis=0)

    a, b = x, y
    while True:
        left = a[:, explained(a, b)]
        right = b[:, explained(b, left)]
        if left.shape == a.shape and right.shape == b.shape:
            return (a.shape[1] + b.shape[1]) / (x.shape[1] + y.shape[1])
        a, b = left, right


MAXIMUM_MATCHING = Question(
    f"maximum_matching(x, y, epsilon={EPSILON})",
    lambda pair: float(repsim.maximum_matching(pair.x, pair.y, epsilon=EPSILON)),
    lambda pair: largest_match(*(oracles.as_float64(side) for side in (pair.x, pair.y))),
    all_digits,
)
PROCRUSTES = asked("procrustes(x, y)", repsim.procrustes, distance)
ANGULAR = asked("angular_procrustes(x, y)", repsim.angular_procrustes, angle)
HARD_MATCH = asked("hard_correlation_match(x, y)", repsim.hard_correlation_match, matched)
SOFT_MATCHING = asked("soft_matching(x, y)", repsim.soft_matching, transported)
BURES = asked("bures(x, y)", repsim.bures, cosine_of_grams)
RIEMANNIAN = asked("riemannian(x, y)", repsim.riemannian, geodesic)

# ---------------------------------------------------------------------------------------------- dissimilarities


def upper(distances: Array) -> Array:
    return distances[np.triu_indices(len(distances), 1)]


def euclidean(rows: Array) -> Array:
    return np.sqrt(np.array([((row - rows) ** 2).sum(axis=1) for row in rows]))


def correlation_distances(rows: Array) -> Array:
    unit = rows - rows.mean(axis=1, keepdims=True)
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    return 1 - unit @ unit.T


RDMS = {
    "euclidean": euclidean,
    "squared_euclidean": lambda rows: euclidean(rows) ** 2,
    "correlation": correlation_distances,
}


def ranks(values: Array) -> Array:
    """Equal values at the mean of their places; equal means a difference that rounding could make."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    group = np.cumsum(np.concatenate([[True], np.diff(ordered) > 1e-11 * ordered[-1]])) - 1
    means = np.bincount(group, weights=np.arange(len(values))) / np.bincount(group)
    out = np.empty(len(values))
    out[order] = means[group]
    return out


def kendall(a: Array, b: Array) -> float:
    """tau-a: signs of all pairs of entries."""
    total = 0
    for i in range(len(a) - 1):
        total += int((np.sign(a[i + 1 :] - a[i]) * np.sign(b[i + 1 :] - b[i])).sum())
    return 2 * total / (len(a) * (len(a) - 1))


def cosine(a: Array, b: Array) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def pearson(a: Array, b: Array) -> float:
    return cosine(a - a.mean(), b - b.mean())


COMPARISONS: dict[str, Callable[[Array, Array], float]] = {
    "spearman": lambda a, b: pearson(ranks(a), ranks(b)),
    "kendall": lambda a, b: kendall(ranks(a), ranks(b)),
    "pearson": pearson,
    "cosine": cosine,
}
FEW = 60  # rows of comparisons whose time grows as their fourth power


def rsa(comparison: str, rdm: str, least: float = FLOAT64) -> Question:
    some = slice(FEW if comparison == "kendall" else None)
    rows = f"x[:{FEW}], y[:{FEW}]" if comparison == "kendall" else "x, y"

    def exact(pair: Pair) -> float:
        sides = (oracles.as_float64(side)[some] for side in (pair.x, pair.y))
        return COMPARISONS[comparison](*(upper(RDMS[rdm](side)) for side in sides))

    return Question(
        f'rsa({rows}, comparison="{comparison}", rdm="{rdm}")',
        lambda pair: float(repsim.rsa(pair.x[some], pair.y[some], comparison=comparison, rdm=rdm)),
        exact,
        lambda pair: least,
    )


def distance_correlation(estimator: str) -> Question:
    def exact(x: Array, y: Array) -> float:
        how = oracles.u_centred if estimator == "debiased" else oracles.double_centred
        a, b = (how(euclidean(side)) for side in (x, y))
        value = cosine(a.ravel(), b.ravel())
        return value if estimator == "debiased" else math.sqrt(value)

    argument = "" if estimator == "debiased" else f', estimator="{estimator}"'
    return asked(
        f"distance_correlation(x, y{argument})",
        lambda x, y: repsim.distance_correlation(x, y, estimator=estimator), exact,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------------- loops

LOOPS = 14  # rows whose persistent homology is found by hand


def divergence_of_loops(pair: Pair) -> float:
    """RTD of the first rows, by reducing boundary matrices."""
    from test_topology import divergence as exact

    return exact(*(oracles.as_float64(side)[:LOOPS] for side in (pair.x, pair.y)))


# repsim hands float32 distances to ripser.
RTD = Question(
    f"rtd(x[:{LOOPS}], y[:{LOOPS}])",
    lambda pair: float(repsim.rtd(pair.x[:LOOPS], pair.y[:LOOPS])),
    divergence_of_loops,
    lambda pair: FLOAT32,
)

# ---------------------------------------------------------------------------------------------- one side, answers


def two_nn(rows: Array) -> float:
    """The slope through the origin of -log(1 - i / n) on the log of second over first distance, of nine in ten."""
    nearest = np.sort(euclidean(rows), axis=1)[:, 1:3]
    n = len(rows)
    ratios = np.sort(np.log(nearest[:, 1] / nearest[:, 0]))[: int(n * 0.9)]
    heights = -np.log(1 - np.arange(1, len(ratios) + 1) / n)
    return float(ratios @ heights / (ratios @ ratios))


TWO_NN = Question(
    "intrinsic_dimension(x)",
    lambda pair: repsim.intrinsic_dimension(pair.x),
    lambda pair: two_nn(centred(pair.x)),
    float64_digits,
)


def classes(pair: Pair) -> Values:
    """Both sides read as scores of eight classes."""
    a, b = (np.argmax(side[:, :8], axis=1) for side in (pair.x, pair.y))
    return a, b


def probabilities(pair: Pair) -> Values:
    scores = (oracles.as_float64(side)[:, :8] for side in (pair.x, pair.y))
    p, q = (np.exp(one - one.max(axis=1, keepdims=True)) for one in scores)
    return p / p.sum(axis=1, keepdims=True), q / q.sum(axis=1, keepdims=True)


def kappa(a: Array, b: Array) -> float:
    observed = np.mean(a == b)
    expected = sum(np.mean(a == one) * np.mean(b == one) for one in np.union1d(a, b))
    return float((observed - expected) / (1 - expected))


def divergence(p: Array, q: Array) -> float:
    m = (p + q) / 2
    return float(np.mean((p * np.log2(p / m) + q * np.log2(q / m)).sum(axis=1) / 2))


KAPPA = Question(
    "cohens_kappa(a, b)", lambda pair: float(repsim.cohens_kappa(*classes(pair))), lambda pair: kappa(*classes(pair)),
    float64_digits,
)  # fmt: skip
JENSEN_SHANNON = Question(
    "jensen_shannon_divergence(p, q)",
    lambda pair: float(repsim.jensen_shannon_divergence(*probabilities(pair))),
    lambda pair: divergence(*probabilities(pair)),
    float64_digits,
)
