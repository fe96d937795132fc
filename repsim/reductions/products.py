"""Centred products of the features of two matrices: all that the measures of subspaces and of regressions need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..arrays import Rows
from .moments import FeatureMoments, provisional_origin, room_for


@dataclass(frozen=True)
class Products:
    """Sums over n rows about the means: ``xy`` is X'Y [d, d'] float64; for one matrix X'X."""

    n: int
    xy: np.ndarray
    mean_x: np.ndarray  # [d]
    mean_y: np.ndarray  # [d']


def own_products(x: Rows, *, function: str, threads: int) -> Products:
    """X'X of the rows about their mean, in one pass.

    Memory: (d + 2)^2 float64 and at most 128 MiB of lifted rows. Cost: n d^2 flop.

    Raises
    ------
    ValueError: a row is not finite (it is named), or so long that its fourth power leaves float64.
    """
    return _products([x], [(0, 0)], None, function=function, threads=threads)


def cross_products(x: Rows, y: Rows, order: np.ndarray | None = None, *, function: str, threads: int) -> Products:
    """X'Y of the rows about their means, in one pass; with ``order`` [n], of row ``order[i]`` of y beside row i of x.

    Memory and errors as for :func:`own_products`. Cost: 2 n d d' flop.
    """
    return _products([x, y], [(0, 1)], order, function=function, threads=threads)


def _products(
    matrices: Sequence[Rows],
    asked: Sequence[tuple[int, int]],
    order: np.ndarray | None,
    *,
    function: str,
    threads: int,
) -> Products:
    room = room_for([rows.depth for rows in matrices])
    moments = FeatureMoments([provisional_origin(rows) for rows in matrices], asked, room)
    n = len(matrices[0])
    for start in range(0, n, room):
        stop = min(start + room, n)
        parts = [rows.part(start, stop) for rows in matrices]
        if order is not None:
            other = matrices[-1]
            parts[-1] = Rows(np.ascontiguousarray(other.values[order[start:stop]]), other.dtype, other.name)
        moments.add(parts, function=function, threads=threads)
    moments.sum_gathered(threads=threads)
    p, q = asked[0]
    product = moments.products[p, q]
    d, e = product.shape[0] - 2, product.shape[1] - 2
    sum_x = product[:d, e]
    sum_y = sum_x if p == q else product[d, :e]
    xy = product[:d, :e] - np.outer(sum_x, sum_y) / n
    if p == q:  # of a matrix with itself the upper triangle is there
        xy = np.triu(xy) + np.triu(xy, 1).T
    return Products(n, xy, moments.shifts[p] + sum_x / n, moments.shifts[q] + sum_y / n)
