"""Centred products of the features of two matrices: all that the measures of subspaces and of regressions need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .. import blocks
from ..arrays import Rows
from .moments import FeatureMoments, provisional_origin, room_for


@dataclass(frozen=True)
class Products:
    """Sums over n rows about the means: ``xy`` is X'Y [d, d'] float64; for one matrix X'X."""

    n: int
    xy: np.ndarray
    mean_x: np.ndarray  # [d]
    mean_y: np.ndarray  # [d']
    square_y: float  # |Y|_F^2


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


def fold_products(
    matrices: Sequence[Rows],
    folds: np.ndarray,
    order: np.ndarray | None = None,
    *,
    function: str,
    threads: int,
) -> list[Products]:
    """For every fold the :func:`own_products` of one matrix or the :func:`cross_products` of two, in one pass.

    Parameters
    ----------
    matrices: whose rows are finite: an error would count them within their fold.
    folds: [n] the fold of every row, whole numbers from 0; no fold is empty.
    order: as for :func:`cross_products`; row i of the first matrix and ``order[i]`` of the second are in ``folds[i]``.

    Memory: the products of every fold, and at least 512 lifted rows of each.
    """
    count = int(folds.max()) + 1
    depths = [rows.depth for rows in matrices]
    room = room_for(depths, blocks.PACKED_BUDGET // count)
    shifts = [provisional_origin(rows) for rows in matrices]
    asked = [(0, len(matrices) - 1)]
    moments = [FeatureMoments(shifts, asked, room) for _ in range(count)]
    for start in range(0, len(folds), room * count):
        here = folds[start : start + room * count]
        for fold, sums in enumerate(moments):
            picked = start + np.flatnonzero(here == fold)
            beside = picked if order is None else order[picked]
            parts = [*(_picked(rows, picked) for rows in matrices[:-1]), _picked(matrices[-1], beside)]
            sums.add(parts, function=function, threads=threads)
    return [_finished(sums, threads=threads) for sums in moments]


def pooled(parts: Sequence[Products]) -> Products:
    """The products of the rows of all parts together, about their common means."""
    n = sum(part.n for part in parts)
    # From the first mean on: equal means stay equal to the last digit.
    first = parts[0]
    mean_x, mean_y = first.mean_x.copy(), first.mean_y.copy()
    for part in parts[1:]:
        mean_x += part.n / n * (part.mean_x - first.mean_x)
        mean_y += part.n / n * (part.mean_y - first.mean_y)
    moved = [about(part, mean_x, mean_y) for part in parts]
    xy = sum((part.xy for part in moved), np.zeros_like(first.xy))
    return Products(n, xy, mean_x, mean_y, sum(part.square_y for part in moved))


def about(part: Products, origin_x: np.ndarray, origin_y: np.ndarray) -> Products:
    """The same sums about other points than the means; ``mean_x`` and ``mean_y`` are then those points."""
    away_x, away_y = part.mean_x - origin_x, part.mean_y - origin_y
    xy = part.xy + part.n * np.outer(away_x, away_y)
    return Products(part.n, xy, origin_x, origin_y, part.square_y + part.n * float((away_y * away_y).sum()))


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
            parts[-1] = _picked(matrices[-1], order[start:stop])
        moments.add(parts, function=function, threads=threads)
    return _finished(moments, threads=threads)


def _picked(rows: Rows, which: np.ndarray) -> Rows:
    return Rows(np.ascontiguousarray(rows.values[which]), rows.dtype, rows.name)


def _finished(moments: FeatureMoments, *, threads: int) -> Products:
    """Of the one pair that the moments were asked for."""
    moments.sum_gathered(threads=threads)
    ((p, q), product), *_ = moments.products.items()
    n = len(moments)
    d, e = product.shape[0] - 2, product.shape[1] - 2
    sum_x = product[:d, e]
    sum_y = sum_x if p == q else product[d, :e]
    xy = product[:d, :e] - np.outer(sum_x, sum_y) / n
    if p == q:  # of a matrix with itself the upper triangle is there
        xy = np.triu(xy) + np.triu(xy, 1).T
    square_y = float(product[d, e + 1]) - float((sum_y * sum_y).sum()) / n
    return Products(n, xy, moments.shifts[p] + sum_x / n, moments.shifts[q] + sum_y / n, square_y)
