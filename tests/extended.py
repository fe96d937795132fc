"""Oracles in extended precision, and how far rounding may move a result from them.

For data of any kind a fixed tolerance is either wrong or empty: what float32 loses depends on how much of a kernel
matrix is left once it is centred. So every oracle here comes with a bound. A kernel matrix K whose entries are computed
with an error of at most E leaves an inner product of centred matrices within |E_K| |L| + |K| |E_L| + |E_K| |E_L|
(Frobenius norms of the centred matrices: centring is a projection and enlarges no error). Where E is not small against
K itself nothing is left to compare: the case is undecided, and any value or a refusal will do.

The oracles lose nothing that matters: long double has 64 bits where float64 has 53, and holds 1e4932. They agree with
the float64 oracles of oracles.py, which test_fuzz.py asserts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Array = np.ndarray
LONG = np.longdouble
PRECISE = np.finfo(LONG).eps < 1e-18  # false where long double is float64: there is no oracle then
FLOAT32, FLOAT64 = float(np.finfo(np.float32).eps), float(np.finfo(np.float64).eps)
LEAST = np.finfo(LONG).tiny
# Of an error and a matrix that have nothing to do with one another: a tenth of what two parallel ones would give. The
# largest share seen in ten thousand cases is a thirtieth.
SHARED = 0.1
UNDECIDED = 0.02  # of a centred matrix: more than this much error of it, and nothing is asserted


class Truth(NamedTuple):
    """A value, how far from it a right answer may lie, and whether there is enough left of the matrices to tell."""

    value: float
    allowed: float
    decided: bool


class Matrix(NamedTuple):
    """A kernel matrix, and bounds on the errors of its entries in float32 tiles and in float64 feature space."""

    entries: Array  # [n, n]
    tiles: Array  # [n, n]
    features: Array | None = None  # [n, n]; None for kernels that are never computed there


def middle(x: Array) -> Array:
    """Where float32 rows are counted from."""
    return x - np.median(x, axis=0)


def norms(x: Array) -> Array:
    return np.sqrt((x * x).sum(axis=1))


def dots(depth: int) -> float:
    """Roundings of a dot product: the sum's grow with the square root of their number, the factors' do not."""
    return 2.0 + float(np.sqrt(depth))


def linear(x: Array) -> Matrix:
    """About the middle, not the mean, which one huge row would take away from all others."""
    about = middle(x)
    from_middle = norms(about)
    # In feature space about the mean: that of n rows is rounded at their size, and moves all of them alike.
    own, moved = norms(x - x.mean(axis=0)), dots(len(x)) * FLOAT64 * norms(x).max()
    c = dots(x.shape[1])
    return Matrix(
        about @ about.T,
        c * FLOAT32 * np.outer(from_middle, from_middle),
        (c + dots(len(x))) * FLOAT64 * np.outer(own, own) + moved * (own[:, None] + own[None, :]) + moved**2,
    )


def squared_distances(x: Array) -> Array:
    """By differences, column after column."""
    out = np.zeros((len(x), len(x)), LONG)
    for column in x.T:
        out += (column[:, None] - column[None, :]) ** 2
    return out


Matrices = Callable[[Array], Matrix]


def of_distance(sigma: float, kind: str = "rbf") -> Matrices:
    """rbf, laplacian_l2 and laplacian_l1 of a given sigma."""

    def matrix(x: Array) -> Matrix:
        about = middle(x) / LONG(sigma)
        if kind == "laplacian_l1":
            q, r = manhattan(x) / LONG(sigma), abs(about).sum(axis=1)
        else:
            q, r = np.sqrt(squared_distances(x)) / LONG(sigma), norms(about)
        reach = r[:, None] + r[None, :]
        c = dots(x.shape[1])
        # Products err with the squared norms, up to where differences are taken in their place; those err with where
        # the packed rows lie.
        if kind == "rbf":
            exponent = q**2 / 2
            error = np.minimum(c * FLOAT32 * reach**2, 2.0**-15) + FLOAT32 * q * reach
        else:
            exponent = q
            error = FLOAT32 * reach + c * FLOAT32 * q
            if kind == "laplacian_l2":
                error += np.minimum(c * FLOAT32 * reach**2 / (q + LEAST), 2.0**-13)
        k = np.exp(-exponent)
        return Matrix(k, k * (error + 4 * FLOAT32 * (1 + exponent)) + FLOAT32)

    return matrix


def of_median(fraction: float, kind: str = "rbf") -> Matrices:
    """The same where sigma is a fraction of the median distance."""

    def matrix(x: Array) -> Matrix:
        return of_distance(LONG(fraction) * median_distance(x, kind), kind)(x)

    return matrix


def median_distance(x: Array, kind: str = "rbf") -> Array:
    between = manhattan(x) if kind == "laplacian_l1" else np.sqrt(squared_distances(x))
    return np.median(between[np.triu_indices(len(x), 1)])


def manhattan(x: Array) -> Array:
    out = np.zeros((len(x), len(x)), LONG)
    for column in x.T:
        out += abs(column[:, None] - column[None, :])
    return out


def cosine(x: Array) -> Matrix:
    unit = x / norms(x)[:, None]
    about = norms(middle(unit))
    # Unit rows are found in float64, and what is left of them about the middle by a difference.
    return Matrix(unit @ unit.T, dots(x.shape[1]) * (FLOAT32 * np.outer(about, about) + FLOAT64))


def polynomial(degree: int, constant: float, scale: float) -> Matrices:
    """(scale x . x' + constant)^degree, whose powers are taken about the middle of the rows."""

    def matrix(x: Array) -> Matrix:
        reach = norms(middle(x)) + norms(np.median(x, axis=0)[None, :])
        largest = (constant + scale * np.outer(reach, reach)) ** degree
        return Matrix((scale * (x @ x.T) + constant) ** degree, dots(x.shape[1]) * degree * FLOAT32 * largest)

    return matrix


def plus(one: Matrices, other: Matrices, weight: float) -> Matrices:
    """one + weight other."""

    def matrix(x: Array) -> Matrix:
        a, b = one(x), other(x)
        return Matrix(a.entries + weight * b.entries, a.tiles + weight * b.tiles)

    return matrix


def times(one: Matrices, other: Matrices) -> Matrices:
    def matrix(x: Array) -> Matrix:
        a, b = one(x), other(x)
        error = a.tiles * abs(b.entries) + abs(a.entries) * b.tiles + a.tiles * b.tiles
        return Matrix(a.entries * b.entries, error + FLOAT32 * abs(a.entries * b.entries))

    return matrix


def centred(k: Array, estimator: str) -> Array:
    n = len(k)
    if estimator == "biased":
        rows = k.mean(axis=1)
        return k - rows[:, None] - rows[None, :] + rows.mean()
    k = k - np.diag(np.diag(k))
    rows = k.sum(axis=1)
    u = k - rows[:, None] / LONG(n - 2) - rows[None, :] / LONG(n - 2) + rows.sum() / LONG((n - 1) * (n - 2))
    return u - np.diag(np.diag(u))


def frobenius(k: Array) -> Array:
    return np.sqrt((k * k).sum())


def hsic_and_cka(k: Matrix, l: Matrix, estimator: str, precision: str) -> tuple[Truth, Truth, tuple[bool, bool]]:  # noqa: E741
    """HSIC, CKA, and of which sides enough is left."""
    own, errors = [], []
    for m in (k, l):
        own.append(centred(m.entries, estimator))
        error = m.features if precision == "float64" and m.features is not None else m.tiles
        # The closed form of the debiased estimator subtracts the diagonal, with its error.
        keeps_diagonal = estimator == "biased" or precision == "float64"
        errors.append(frobenius(error if keeps_diagonal else error - np.diag(np.diag(error))))
    a, b = (frobenius(m) for m in own)
    clear = (bool(errors[0] < UNDECIDED * a), bool(errors[1] < UNDECIDED * b))
    n = len(k.entries)
    pairs = LONG(n * (n - 3) if estimator == "debiased" else (n - 1) ** 2)
    inner = (own[0] * own[1]).sum()
    allowed = SHARED * (errors[0] * b + a * errors[1] + errors[0] * errors[1])
    hsic = Truth(inner / pairs, allowed / pairs, all(clear))
    if not all(clear):
        return hsic, Truth(0.0, 0.0, False), clear
    value = inner / (a * b)
    own_errors = sum(SHARED * (error / norm) + (error / norm) ** 2 for error, norm in zip(errors, (a, b), strict=True))
    spread = allowed / (a * b) + abs(value) * own_errors
    return hsic, Truth(float(value), float(spread), True), clear


# ---------------------------------------------------------------------------------------------- neighbours


def scores(x: Array, metric: str, base: Array | None = None) -> tuple[Array, Array]:
    """Cosine, inner product, or minus the distance [n, m], -inf for the row itself; and what float64 may make of it."""
    other = x if base is None else base
    c = 2 * dots(x.shape[1]) * FLOAT64
    if metric == "euclidean":
        squared = np.zeros((len(x), len(other)), LONG)
        for left, right in zip(x.T, other.T, strict=True):
            squared += (left[:, None] - right[None, :]) ** 2
        out = -np.sqrt(squared)
        slack = -c * out
    else:
        products = np.outer(norms(x), norms(other))
        out = x @ other.T
        if metric == "cosine":
            out, products = out / products, np.ones_like(products)
        slack = c * products
    if base is None:
        np.fill_diagonal(out, -np.inf)
        np.fill_diagonal(slack, 0.0)
    return out, slack


def rank(keys: Array, k: int) -> Array:
    return np.argsort(-keys, axis=1, kind="stable")[:, :k]


def decided_lists(x: Array, metric: str, k: int) -> tuple[Array, Array, bool]:
    """The lists [n, k], the scores [n, n], and whether no two different rows of a list are a rounding apart."""
    keys, slack = scores(x, metric)
    order = rank(keys, k + 1)
    rows = np.arange(len(keys))[:, None]
    listed, room = keys[rows, order], slack[rows, order]
    with np.errstate(invalid="ignore"):
        close = abs(np.diff(listed, axis=1)) <= room[:, 1:] + room[:, :-1]
    same = identical(x)[order]  # identical rows have the same score, whatever it is rounded to
    return order[:, :k], keys, not (close & np.isfinite(listed[:, 1:]) & (same[:, 1:] != same[:, :-1])).any()


def identical(x: Array) -> Array:
    """[n] the same number for identical rows."""
    return np.unique(x, axis=0, return_inverse=True)[1].ravel()


def masked_hsic(k: Array, l: Array) -> tuple[Array, Array]:  # noqa: E741
    """HSIC_1 of matrices that need not be symmetric, and what float32 rounding of their entries may change of it."""
    n = len(k)
    c = 2.0 / (n - 2)
    value = (k * l.T).sum() + k.sum() * l.sum() / LONG((n - 1) * (n - 2)) - c * (k.sum(axis=0) @ l.sum(axis=1))
    a, b = abs(k), abs(l)
    size = (a * b.T).sum() + a.sum() * b.sum() / LONG((n - 1) * (n - 2)) + c * (a.sum(axis=0) @ b.sum(axis=1))
    return value / (n * (n - 3)), 2 * FLOAT32 * size / (n * (n - 3))


def cknna(k: Array, l: Array, lists_k: Array, lists_l: Array) -> Truth:  # noqa: E741
    """Of scores [n, n] and lists; undecided where a side has no HSIC with itself that is surely positive."""
    masks = []
    for lists in (lists_k, lists_l):
        mask = np.zeros(k.shape, bool)
        np.put_along_axis(mask, lists, True, axis=1)
        masks.append(mask)
    both = masks[0] & masks[1]
    kk, k_error = masked_hsic(*[np.where(masks[0], k, 0)] * 2)
    ll, l_error = masked_hsic(*[np.where(masks[1], l, 0)] * 2)
    if not (kk > k_error / UNDECIDED and ll > l_error / UNDECIDED):
        return Truth(0.0, 0.0, False)
    value, allowed = masked_hsic(np.where(both, k, 0), np.where(both, l, 0))
    norm = np.sqrt(kk * ll)
    return Truth(float(value / norm), float((allowed + abs(value) * (k_error / kk + l_error / ll)) / norm), True)
