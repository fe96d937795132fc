"""Textbook float64 versions of the measures: the truth that the tests compare with.

Written from the definitions alone. Every function may store whole n x n matrices, loops where a loop is clearest and
shares nothing with the package. The functions named `naive_*` are the other end of the rule in agreement.py: the same
formulas as somebody would write them in float32 numpy.
"""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from scipy.spatial.distance import cdist, pdist, squareform

Array = np.ndarray


class Kernel(NamedTuple):
    """linear; rbf with sigma = parameter; rbf-median with sigma = parameter * median distance."""

    name: str
    parameter: float = 1.0


LINEAR = Kernel("linear")


def as_float64(x: Any) -> Array:
    """The exact float64 values of a numpy array or a torch tensor of any floating type."""
    if hasattr(x, "detach"):
        x = x.detach().double().numpy()
    return np.array(x, dtype=np.float64)


# ---------------------------------------------------------------------------------------------- Gram matrices


def linear_gram(x: Any, *, centred: bool = True) -> Array:
    """Inner products of rows. Centring the columns first changes no HSIC (a translation) and saves digits."""
    x = as_float64(x)
    if centred:
        x = x - x.mean(axis=0)
        x = x - x.mean(axis=0)  # the first mean is rounded at the size of the offset, this one at the size of the data
    return x @ x.T


def squared_distances(x: Any, y: Any = None) -> Array:
    """By differences, never by |x|^2 + |y|^2 - 2xy, so that duplicates are at exactly zero."""
    x = as_float64(x)
    return cdist(x, x if y is None else as_float64(y), "sqeuclidean")


def median_distance(x: Any) -> float:
    """Median of the n(n-1)/2 distances over i < j; for an even number of them the mean of the two in the middle."""
    return float(np.median(pdist(as_float64(x))))


def rbf_gram(x: Any, *, sigma: float | None = None, median_fraction: float | None = None) -> Array:
    """exp(-distance^2 / (2 sigma^2))."""
    if sigma is None:
        if median_fraction is None:
            raise TypeError("one of sigma, median_fraction")
        sigma = median_fraction * median_distance(x)
    return np.exp(-squared_distances(x) / (2.0 * sigma**2))


def gram(x: Any, kernel: Kernel) -> Array:
    if kernel.name == "linear":
        return linear_gram(x)
    if kernel.name == "rbf":
        return rbf_gram(x, sigma=kernel.parameter)
    if kernel.name == "rbf-median":
        return rbf_gram(x, median_fraction=kernel.parameter)
    raise ValueError(kernel.name)


# ---------------------------------------------------------------------------------------------- HSIC and CKA


def double_centred(k: Array) -> Array:
    """H K H with H = I - 11'/n."""
    n = len(k)
    h = np.eye(n) - np.full((n, n), 1.0 / n)
    return h @ k @ h


def u_centred(k: Array) -> Array:
    """Szekely and Rizzo's U-centring of a symmetric matrix: zero diagonal, zero row sums."""
    n = len(k)
    k = np.array(k, dtype=np.float64)
    np.fill_diagonal(k, 0.0)
    rows = k.sum(axis=1)
    u = k - rows[:, None] / (n - 2) - rows[None, :] / (n - 2) + rows.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(u, 0.0)
    return u


def hsic_biased(k: Array, l: Array) -> float:  # noqa: E741
    """tr(K H L H) / (n - 1)^2 (Gretton 2005)."""
    n = len(k)
    return float(np.sum(double_centred(k) * l.T)) / (n - 1) ** 2


def hsic_debiased(k: Array, l: Array) -> float:  # noqa: E741
    """HSIC_1 (Song 2012), for asymmetric matrices too: tr(KL) = sum K_ij L_ji, 1'KL1 = column sums(K) . row sums(L)."""
    n = len(k)
    k = np.array(k, dtype=np.float64)
    l = np.array(l, dtype=np.float64)  # noqa: E741
    np.fill_diagonal(k, 0.0)
    np.fill_diagonal(l, 0.0)
    trace = float(np.sum(k * l.T))
    totals = float(k.sum()) * float(l.sum()) / ((n - 1) * (n - 2))
    cross = float(k.sum(axis=0) @ l.sum(axis=1))
    return (trace + totals - 2.0 * cross / (n - 2)) / (n * (n - 3))


HSIC = {"biased": hsic_biased, "debiased": hsic_debiased}


def hsic(x: Any, y: Any, estimator: str = "debiased", kernel: Kernel = LINEAR) -> float:
    return HSIC[estimator](gram(x, kernel), gram(y, kernel))


def cka_of_grams(k: Array, l: Array, estimator: str) -> float:  # noqa: E741
    h = HSIC[estimator]
    return h(k, l) / math.sqrt(h(k, k) * h(l, l))


def cka(x: Any, y: Any, estimator: str = "debiased", kernel: Kernel = LINEAR) -> float:
    return cka_of_grams(gram(x, kernel), gram(y, kernel), estimator)


def hsic_debiased_by_quadruples(k: Array, l: Array) -> float:  # noqa: E741
    """HSIC_1 as the U-statistic it is: the mean over ordered quadruples of k_ij (l_ij + l_qr - 2 l_iq); tiny n only."""
    values = [k[i, j] * (l[i, j] + l[q, r] - 2.0 * l[i, q]) for i, j, q, r in itertools.permutations(range(len(k)), 4)]
    return math.fsum(values) / len(values)


def linear_hsic_debiased_closed_form(x: Any, y: Any) -> float:
    """From feature-space sums on column-centred data, without an n x n matrix."""
    x, y = as_float64(x), as_float64(y)
    n = len(x)
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    a, b = np.sum(x * x, axis=1), np.sum(y * y, axis=1)
    cross = float(np.sum((x.T @ y) ** 2))
    return (cross - n / (n - 2) * float(a @ b) + a.sum() * b.sum() / ((n - 1) * (n - 2))) / (n * (n - 3))


# ---------------------------------------------------------------------------------------------- permutation null of CKA


def centred(k: Array, estimator: str) -> Array:
    return double_centred(k) if estimator == "biased" else u_centred(k)


def permutation_moments(a: Array, b: Array) -> tuple[float, float]:
    """Exact mean and variance of tr(A P B P') over all permutations P, for zero row sums (Kazi-Aoual 1995)."""
    n = len(a)

    def moments(m: Array) -> tuple[float, float, float]:
        return float(np.trace(m)), float(np.sum(m * m)), float(np.sum(np.diag(m) ** 2))

    (t, t2, s), (u, u2, v) = moments(a), moments(b)
    mean = t * u / (n - 1)
    first = 2.0 * ((n - 1) * t2 - t**2) * ((n - 1) * u2 - u**2) / ((n - 1) ** 2 * (n + 1) * (n - 2))
    left = n * (n + 1) * s - (n - 1) * (t**2 + 2 * t2)
    right = n * (n + 1) * v - (n - 1) * (u**2 + 2 * u2)
    return mean, first + left * right / ((n + 1) * n * (n - 1) * (n - 2) * (n - 3))


def permutation_moments_by_enumeration(a: Array, b: Array) -> tuple[float, float]:
    """The same from all n! permutations; n <= 7."""
    n = len(a)
    if n > 7:
        raise ValueError("too many permutations")
    values = np.array([np.sum(a * b[np.ix_(p, p)].T) for p in itertools.permutations(range(n))])
    return float(values.mean()), float(values.var())


def cka_z(x: Any, y: Any, estimator: str = "debiased", kernel: Kernel = LINEAR) -> float:
    a, b = centred(gram(x, kernel), estimator), centred(gram(y, kernel), estimator)
    mean, variance = permutation_moments(a, b)
    return (float(np.sum(a * b.T)) - mean) / math.sqrt(variance)


def cka_null(x: Any, y: Any, estimator: str, kernel: Kernel, permutations: int, seed: int) -> Array:
    """tr(A P B P') for random permutations."""
    a, b = centred(gram(x, kernel), estimator), centred(gram(y, kernel), estimator)
    rng = np.random.default_rng([seed, 71])
    out = np.empty(permutations)
    for i in range(permutations):
        p = rng.permutation(len(a))
        out[i] = np.sum(a * b[np.ix_(p, p)])
    return out


# ---------------------------------------------------------------------------------------------- other kernels


def cosine_gram(x: Any) -> Array:
    """Cosines of the angles between rows."""
    x = as_float64(x)
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return x @ x.T


def polynomial_gram(x: Any, degree: int, constant: float, scale: float = 1.0) -> Array:
    x = as_float64(x)
    return (scale * (x @ x.T) + constant) ** degree


def laplacian_gram(x: Any, metric: str, *, sigma: float | None = None, median_fraction: float | None = None) -> Array:
    """exp(-distance / sigma), metric "euclidean" or "cityblock"; distances by differences."""
    x = as_float64(x)
    distances = pdist(x, metric)
    if sigma is None:
        if median_fraction is None:
            raise TypeError("one of sigma, median_fraction")
        sigma = median_fraction * float(np.median(distances))
    return np.exp(-squareform(distances) / sigma)


def hsic_debiased_of_whole_numbers(k: Array, l: Array) -> Fraction:  # noqa: E741
    """HSIC_1 of matrices of Python integers, without any rounding."""
    n = len(k)
    off = 1 - np.eye(n, dtype=int).astype(object)
    k, l = k * off, l * off  # noqa: E741
    rows, columns = k.sum(axis=0), l.sum(axis=1)
    total = Fraction(int(rows.sum()) * int(columns.sum()), (n - 1) * (n - 2))
    return (int((k * l).sum()) + total - Fraction(2 * int((rows * columns).sum()), n - 2)) / (n * (n - 3))


# ---------------------------------------------------------------------------------------------- leaving one out


def standard_error_by_deletion(k: Array, l: Array, statistic: Any) -> float:  # noqa: E741
    """The jackknife's, by computing the statistic of both matrices anew without each of the inputs."""
    n = len(k)
    values = np.array([statistic(*(np.delete(np.delete(m, i, 0), i, 1) for m in (k, l))) for i in range(n)])
    return math.sqrt((n - 1) ** 2 / n * float(np.var(values, ddof=1)))


def permutation_skewness_by_enumeration(a: Array, b: Array) -> float:
    """Third standardised moment of sum_ij A_ij B_p(i)p(j) over all n! permutations p; n <= 7."""
    n = len(a)
    if n > 7:
        raise ValueError("too many permutations")
    values = np.array([np.sum(a * b[np.ix_(p, p)]) for p in itertools.permutations(range(n))])
    values -= values.mean()
    return float(np.mean(values**3) / np.mean(values**2) ** 1.5)


# ---------------------------------------------------------------------------------------------- naive float32


def moved_to_median(x: Any) -> Array:
    """Moved in float64 to the coordinatewise median: naive is the arithmetic, not the choice of the origin."""
    x = as_float64(x)
    return (x - np.median(x, axis=0)).astype(np.float32)


def naive_squared_distances(x: Any) -> Array:
    x = moved_to_median(x)
    a = np.sum(x * x, axis=1)
    return np.maximum(a[:, None] + a[None, :] - np.float32(2) * (x @ x.T), np.float32(0))


def naive_hsic(x: Any, y: Any, estimator: str, kernel: Kernel) -> float:
    """Float32 numpy throughout."""

    def gram32(z: Any) -> Array:
        if kernel.name == "linear":
            z = moved_to_median(z)
            return z @ z.T
        d2 = naive_squared_distances(z)
        sigma = np.float32(kernel.parameter)
        if kernel.name == "rbf-median":
            sigma *= np.float32(np.median(np.sqrt(d2[np.triu_indices(len(d2), 1)])))
        return np.exp(-d2 / (np.float32(2) * sigma * sigma))

    k, l = gram32(x), gram32(y)  # noqa: E741
    n = len(k)
    if estimator == "biased":
        h = np.eye(n, dtype=np.float32) - np.float32(1.0 / n)
        return float(np.sum((h @ k @ h) * l) / np.float32((n - 1) ** 2))
    np.fill_diagonal(k, 0)
    np.fill_diagonal(l, 0)
    totals = k.sum() * l.sum() / np.float32((n - 1) * (n - 2))
    cross = k.sum(axis=0) @ l.sum(axis=1)
    return float((np.sum(k * l) + totals - np.float32(2) * cross / np.float32(n - 2)) / np.float32(n * (n - 3)))


# ---------------------------------------------------------------------------------------------- neighbours


def closeness(x: Any, metric: str, base: Any = None) -> Array:
    """Larger is nearer [n, m]: cosine, inner product, or minus the SQUARED distance; -inf for the row itself."""
    x64 = as_float64(x)
    other = x64 if base is None else as_float64(base)
    if metric == "euclidean":
        out = -squared_distances(x64, other)
    else:
        if metric == "cosine":
            x64 = x64 / np.linalg.norm(x64, axis=1, keepdims=True)
            other = other / np.linalg.norm(other, axis=1, keepdims=True)
        elif metric != "inner_product":
            raise ValueError(metric)
        out = x64 @ other.T
    if base is None:
        np.fill_diagonal(out, -np.inf)
    return out


def naive_closeness(x: Any, metric: str, base: Any = None) -> Array:
    """The same in float32 numpy."""
    x64 = as_float64(x)
    other64 = x64 if base is None else as_float64(base)
    if metric == "euclidean":
        origin = np.median(other64, axis=0)
        x64, other64 = x64 - origin, other64 - origin
    x32, other = x64.astype(np.float32), other64.astype(np.float32)
    if metric == "cosine":
        x32 = x32 / np.linalg.norm(x32, axis=1, keepdims=True)
        other = other / np.linalg.norm(other, axis=1, keepdims=True)
    out = x32 @ other.T
    if metric == "euclidean":
        out = np.float32(2) * out - np.sum(x32 * x32, axis=1)[:, None] - np.sum(other * other, axis=1)[None, :]
    if base is None:
        np.fill_diagonal(out, -np.inf)
    return out


def closeness_scale(x: Any, metric: str, base: Any = None) -> Array:
    """The size of the numbers that a float32 product sums for every entry of `closeness` [n, m]."""
    x64 = as_float64(x)
    other = x64 if base is None else as_float64(base)
    if metric == "cosine":
        return np.ones((len(x64), len(other)))
    if metric == "euclidean":
        origin = np.median(other, axis=0)
        x64, other = x64 - origin, other - origin
        return np.sum(x64**2, axis=1)[:, None] + np.sum(other**2, axis=1)[None, :]
    return np.linalg.norm(x64, axis=1)[:, None] * np.linalg.norm(other, axis=1)[None, :]


def nearest(x: Any, k: int, metric: str = "cosine", base: Any = None) -> Array:
    """Indices [n, k], best first, the row itself left out by index, ties to the lower index."""
    keys = closeness(x, metric, base)
    return np.argsort(-keys, axis=1, kind="stable")[:, :k].astype(np.int64)


def mutual_knn(neighbours_x: Array, neighbours_y: Array) -> float:
    """mean |N_X(i) & N_Y(i)| / k."""
    n, k = neighbours_x.shape
    shared = [len(set(a.tolist()) & set(b.tolist())) for a, b in zip(neighbours_x, neighbours_y, strict=True)]
    return sum(shared) / (n * k)


def mask(neighbours: Array) -> Array:
    n = len(neighbours)
    out = np.zeros((n, n), dtype=bool)
    for i, row in enumerate(neighbours):
        out[i, row] = True
    return out


def similarity(x: Any, metric: str) -> Array:
    """The kernel of CKNNA: inner products, of the unit rows for cosine."""
    x64 = as_float64(x)
    if metric == "cosine":
        x64 = x64 / np.linalg.norm(x64, axis=1, keepdims=True)
    elif metric != "inner_product":
        raise ValueError(metric)
    return x64 @ x64.T


def cknna(x: Any, y: Any, k: int, metric: str = "cosine") -> float:
    """HSIC_1(M K, M L) / sqrt(HSIC_1(M_X K, M_X K) HSIC_1(M_Y L, M_Y L)), M = M_X and M_Y."""
    return cknna_of(
        similarity(x, metric), similarity(y, metric), mask(nearest(x, k, metric)), mask(nearest(y, k, metric))
    )


def cknna_of(kx: Array, ky: Array, mask_x: Array, mask_y: Array) -> float:
    both = mask_x & mask_y
    own = hsic_debiased(mask_x * kx, mask_x * kx) * hsic_debiased(mask_y * ky, mask_y * ky)
    return hsic_debiased(both * kx, both * ky) / math.sqrt(own)


def relabelled(neighbours: Array, order: Array) -> Array:
    """The neighbour lists after the rows were put in `order` (new row i is old row order[i])."""
    new_name = np.argsort(order)
    return new_name[neighbours[order]]


def mutual_knn_null(neighbours_x: Array, neighbours_y: Array, permutations: int, seed: int) -> Array:
    rng = np.random.default_rng([seed, 73])
    n, k = neighbours_x.shape
    mx, my = mask(neighbours_x), mask(neighbours_y)
    out = np.empty(permutations)
    for i in range(permutations):
        p = rng.permutation(n)
        out[i] = np.count_nonzero(mx & my[np.ix_(p, p)]) / (n * k)
    return out


def cknna_null(x: Any, y: Any, k: int, permutations: int, seed: int, metric: str = "cosine") -> Array:
    rng = np.random.default_rng([seed, 79])
    kx, ky = similarity(x, metric), similarity(y, metric)
    mx, my = mask(nearest(x, k, metric)), mask(nearest(y, k, metric))
    out = np.empty(permutations)
    for i in range(permutations):
        p = np.ix_(*[rng.permutation(len(kx))] * 2)
        out[i] = cknna_of(kx, ky[p], mx, my[p])
    return out


def add_one_p(observed: float, null: Array) -> float:
    """(1 + #{null >= observed}) / (1 + permutations)."""
    return (1 + int(np.count_nonzero(null >= observed))) / (1 + len(null))
