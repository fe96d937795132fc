"""How the measures of shapes are found: the best map of one side onto the other, and what is left after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..arrays import Rows
from ..reductions import Products, cross_products, on_host, placed, squared_norms
from .method import Method
from .sides import Side, check_varies, counted_axes, cross, narrowed, relabelled, side_of

_NO_SHARE = 1e-12  # of a sum of squares: what rounding leaves of nothing


def nuclear_norm(product: Products) -> float:
    """The inner product of X and Y after the best orthogonal map, from X'Y."""
    return float(product.singular_values.sum())


def best_permutation(product: Products) -> float:
    """The same after the best permutation; of unequal widths, every column of the narrower has a partner."""
    return best_assignment(product.xy)


def best_assignment(product: np.ndarray) -> float:
    """The largest sum of entries of which no two are in one row or column."""
    from scipy.optimize import linear_sum_assignment

    return float(product[linear_sum_assignment(product, maximize=True)].sum())


# From |X|, |Y| and their inner product after the best map. What rounding leaves beyond a bound counts as the bound.
def difference(x: float, y: float, inner: float) -> float:
    return float(np.sqrt(max(x * x + y * y - 2 * inner, 0.0)))


def unit_difference(x: float, y: float, inner: float) -> float:
    return difference(1.0, 1.0, cosine(x, y, inner))


def angle(x: float, y: float, inner: float) -> float:
    return float(np.arccos(min(cosine(x, y, inner), 1.0)))


def cosine(x: float, y: float, inner: float) -> float:
    return inner / (x * y)


def between_shapes(
    function: str,
    aligned: Callable[[Products], float],
    score: Callable[[float, float, float], float],
    *,
    turnable: bool,
) -> Method[Side]:
    """A measure of centred shapes: ``aligned`` of X'Y is their inner product after the best map.

    turnable: no orthogonal map changes it.
    """

    def prepare(rows: Rows, threads: int) -> Side:
        rows = narrowed(rows, function=function, threads=threads) if turnable else rows
        side = side_of(rows, function=function, threads=threads)
        if score is not difference:  # rows that are all equal have a distance to others, but no direction
            check_varies(side, function=function)
        return side

    def between(x: Side, y: Side, threads: int) -> float:
        inner = aligned(cross_products(x.rows, y.rows, y.order, function=function, threads=threads))
        return score(float(np.sqrt(x.squares)), float(np.sqrt(y.squares)), inner)

    return Method(prepare, between, relabelled)


@dataclass(frozen=True, kw_only=True)
class _Whitened(Side):
    map: np.ndarray  # [d, r], of rows to whitened rows
    norm: float  # of those


def between_whitened(function: str, alpha: float) -> Method[_Whitened]:
    """The angle of centred shapes whose singular values s were made alpha s + 1 - alpha."""

    def prepare(rows: Rows, threads: int) -> _Whitened:
        rows = narrowed(rows, function=function, threads=threads)
        side = side_of(rows, function=function, threads=threads)
        check_varies(side, function=function)
        found = counted_axes(rows, function=function, threads=threads)
        lengths = alpha * found.lengths + (1 - alpha)
        return _Whitened(**vars(side), map=found.whitening * lengths, norm=float(np.sqrt(lengths @ lengths)))

    def between(x: _Whitened, y: _Whitened, threads: int) -> float:
        product = x.map.T @ cross(x, y, function=function, threads=threads) @ y.map
        return angle(x.norm, y.norm, float(np.linalg.svd(product, compute_uv=False).sum()))

    return Method(prepare, between, relabelled)


@dataclass(frozen=True, kw_only=True)
class _Lengths(Side):
    lengths: np.ndarray  # [n], of the rows


def between_rows(function: str) -> Method[_Lengths]:
    """The mean cosine of rows after the best orthogonal map."""

    def prepare(rows: Rows, threads: int) -> _Lengths:
        rows = narrowed(rows, function=function, threads=threads, centred=False)
        side = side_of(rows, function=function, threads=threads, centred=False)
        lengths = np.sqrt(squared_norms(rows, None, function=function, threads=threads))
        if not lengths.all():
            raise ValueError(
                f"[{function}] expected {rows.name} with non-zero rows, whose cosines are defined, got zeros in row "
                f"{int(lengths.argmin())}"
            )
        return _Lengths(**vars(side), lengths=lengths)

    def between(x: _Lengths, y: _Lengths, threads: int) -> float:
        product = cross(x, y, function=function, threads=threads)
        turn = placed(x.rows, _best_turn(x, y, product, function=function))
        total = 0.0
        for start, stop in x.rows.sweep():
            some = slice(start, stop) if y.order is None else y.order[start:stop]
            inner = on_host((x.rows.wide_there(slice(start, stop)) @ turn * y.rows.wide_there(some)).sum(axis=1))
            total += float((inner / (x.lengths[start:stop] * y.lengths[some])).sum())
            if y.order is None:
                y.rows.release(start, stop)
        return total / len(x.rows)

    return Method(prepare, between, relabelled)


def _best_turn(x: Side, y: Side, product: np.ndarray, *, function: str) -> np.ndarray:
    """[d, d']: the orthogonal map of X that comes nearest to Y, the narrower padded with zeros.

    Raises
    ------
    ValueError: there are several, and cosines depend on which.
    """
    u, values, vt = np.linalg.svd(product, full_matrices=False)
    rounding = max(product.shape) * np.finfo(np.float64).eps * np.sqrt(x.squares * y.squares)
    rank = int(np.count_nonzero(values > rounding))
    u, vt = u[:, :rank], vt[:rank]
    if rank < len(values):  # what meets nothing on the other side may be turned in any way, unless one side has none
        left_out = [1 - float(np.sum(basis * (one.own @ basis))) / one.squares for one, basis in ((x, u), (y, vt.T))]
        if min(left_out) > _NO_SHARE:
            raise ValueError(
                f"[{function}] expected x and y with one best orthogonal map, got several: X'Y has rank {rank} of "
                f"{len(values)}"
            )
    return np.asarray(u @ vt)
