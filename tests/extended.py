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
    centred = x - x.mean(axis=0)
    from_middle = norms(middle(x))
    # A mean of n rows is rounded at their size, and moves all of them alike.
    own, moved = norms(centred), dots(len(x)) * FLOAT64 * norms(x).max()
    c = dots(x.shape[1])
    return Matrix(
        centred @ centred.T,
        c * FLOAT32 * np.outer(from_middle, from_middle),
        (c + dots(len(x))) * FLOAT64 * np.outer(own, own) + moved * (own[:, None] + own[None, :]) + moved**2,
    )


def squared_distances(x: Array) -> Array:
    """By differences, column after column."""
    out = np.zeros((len(x), len(x)), LONG)
    for column in x.T:
        out += (column[:, None] - column[None, :]) ** 2
    return out


def rbf(sigma: float) -> Callable[[Array], Matrix]:
    """RBF of a given sigma."""

    def matrix(x: Array) -> Matrix:
        q = squared_distances(x) / (2 * LONG(sigma) ** 2)
        k = np.exp(-q)
        r = norms(middle(x)) / LONG(sigma)
        reach = r[:, None] + r[None, :]
        # Products err with the squared norms, but by no more than 2^-15 before differences are taken in their place;
        # those err with where the packed rows lie.
        products = np.minimum(dots(x.shape[1]) * FLOAT32 * reach**2, 2.0**-15)
        packing = FLOAT32 * np.sqrt(2 * q) * reach
        return Matrix(k, k * (products + packing + 4 * FLOAT32 * (1 + q)) + FLOAT32)

    return matrix


def median_rbf(fraction: float) -> Callable[[Array], Matrix]:
    """RBF whose sigma is a fraction of the median distance."""

    def matrix(x: Array) -> Matrix:
        distances = np.sqrt(squared_distances(x))[np.triu_indices(len(x), 1)]
        return rbf(LONG(fraction) * np.median(distances))(x)

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
    allowed = errors[0] * b + a * errors[1] + errors[0] * errors[1]
    hsic = Truth(inner / pairs, allowed / pairs, all(clear))
    if not all(clear):
        return hsic, Truth(0.0, 0.0, False), clear
    value = inner / (a * b)
    spread = allowed / (a * b) + abs(value) * (
        errors[0] / a + errors[1] / b + (errors[0] / a) ** 2 + (errors[1] / b) ** 2
    )
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


def surely_and_possibly_near(keys: Array, slack: Array, k: int, group: Array) -> tuple[Array, Array]:
    """Masks [n, m] of the rows that are among the k nearest whatever float64 rounds, and of those that may be.

    ``group`` [m] is the same number for identical rows: their scores are the same bits, so that the index decides.
    """
    best = rank(keys, k)
    rows = np.arange(len(keys))[:, None]
    last = best[:, -1:]
    listed = np.zeros(keys.shape, bool)
    listed[rows, best] = True
    close = (np.abs(keys - keys[rows, last]) <= slack + slack[rows, last]) & np.isfinite(keys)
    open_rows = (close & ~listed).any(axis=1) & (close & (group[None, :] != group[last])).any(axis=1)
    contested = close & open_rows[:, None]
    return listed & ~contested, listed | contested


def masked_hsic(k: Array, l: Array) -> tuple[Array, Array]:  # noqa: E741
    """HSIC_1 of matrices that need not be symmetric, and what float32 rounding of their entries may change of it."""
    n = len(k)
    c = 2.0 / (n - 2)
    value = (k * l.T).sum() + k.sum() * l.sum() / LONG((n - 1) * (n - 2)) - c * (k.sum(axis=0) @ l.sum(axis=1))
    a, b = abs(k), abs(l)
    size = (a * b.T).sum() + a.sum() * b.sum() / LONG((n - 1) * (n - 2)) + c * (a.sum(axis=0) @ b.sum(axis=1))
    return value / (n * (n - 3)), 2 * FLOAT32 * size / (n * (n - 3))


def cknna(k: Array, l: Array, mask_k: Array, mask_l: Array) -> Truth:  # noqa: E741
    both = mask_k & mask_l
    (value, allowed), *own = (
        masked_hsic(a, b) for a, b in ((k * both, l * both), *((m, m) for m in (k * mask_k, l * mask_l)))
    )
    if any(not error < UNDECIDED * abs(square) for square, error in own):
        return Truth(0.0, 0.0, False)
    (kk, k_error), (ll, l_error) = own
    norm = np.sqrt(abs(kk * ll))
    return Truth(
        float(value / norm),
        float(allowed / norm + abs(value) / norm * (k_error / abs(kk) + l_error / abs(ll))),
        bool(kk > 0 and ll > 0),
    )
