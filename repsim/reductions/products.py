"""Centred products of the features of two matrices: all that the measures of subspaces and of regressions need."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .. import blocks
from ..arrays import DeviceRows, Rows, SharedRows, found_once
from . import device_moments
from .axes import Axes, all_axes
from .moments import Centred, FeatureMoments, provisional_origin, room_for


@dataclass(frozen=True)
class Products:
    """Sums over n rows about the means: ``xy`` is X'Y [d, d'] float64; for one matrix X'X."""

    n: int
    xy: np.ndarray
    mean_x: np.ndarray  # [d]
    mean_y: np.ndarray  # [d']
    square_y: float  # |Y|_F^2
    centred: Centred | None = None  # what linear HSIC needs besides, of all inputs as they lie

    @functools.cached_property
    def singular_values(self) -> np.ndarray:
        """[min(d, d')] of X'Y, largest first."""
        return np.asarray(np.linalg.svd(self.xy, compute_uv=False))


@found_once
def own_products(x: Rows, *, function: str, threads: int) -> Products:
    """X'X of the rows about their mean, in one pass.

    Memory: (d + 2)^2 float64 and at most 128 MiB of lifted rows. Cost: n d^2 flop.

    Raises
    ------
    ValueError: a row is not finite (it is named), or so long that its fourth power leaves float64.
    """
    (found,) = _products([x], 1, [(0, 0)], None, function=function, threads=threads).values()
    return found


@found_once
def own_axes(x: Rows, *, standardised: bool = False, function: str, threads: int) -> Axes:
    """:func:`all_axes` of the rows about their mean. Cost: d^3 beside that of :func:`own_products`."""
    return all_axes(own_products(x, function=function, threads=threads).xy, standardised=standardised)


def cross_products(x: Rows, y: Rows, order: np.ndarray | None = None, *, function: str, threads: int) -> Products:
    """X'Y of the rows about their means, in one pass; with ``order`` [n], of row ``order[i]`` of y beside row i of x.

    Memory and errors as for :func:`own_products`. Cost: 2 n d d' flop. Of shared rows the last product is kept, or all
    those of the :class:`Block` that they belong to.
    """
    if isinstance(x, SharedRows) and isinstance(y, SharedRows):
        block = x.found.get(Block) if x.found.get(Block) is y.found.get(Block) else None
        if isinstance(block, Block) and block.order is order:
            return block.of(x, y, function=function, threads=threads)
        last = x.found.get(cross_products)
        if last is not None and last[0] is y and last[1] is order:
            kept: Products = last[2]
            return kept
    (found,) = _products([x, y], 1, [(0, 1)], order, function=function, threads=threads).values()
    if isinstance(x, SharedRows):
        x.found[cross_products] = y, order, found
    return found


@dataclass(eq=False)
class Block:
    """Matrices whose every pair of left and right is wanted: whoever asks first has all products made in one pass.

    ``order``: as for :func:`cross_products`, of the right. Memory: the products, (d + 2) (d' + 2) float64 a pair.

        with Block(left, right, None):
            cross_products(left[0], right[0], ...)      # reads every matrix once
            cross_products(left[0], right[1], ...)      # reads none
    """

    left: Sequence[SharedRows]
    right: Sequence[SharedRows]
    order: np.ndarray | None
    made: dict[tuple[int, int], Products] = field(default_factory=dict)

    def __enter__(self) -> Block:
        for rows in (*self.left, *self.right):
            rows.found[Block] = self
        return self

    def __exit__(self, *_: object) -> None:
        for rows in (*self.left, *self.right):
            rows.found.pop(Block, None)

    def of(self, x: SharedRows, y: SharedRows, *, function: str, threads: int) -> Products:
        here = [i for i, one in enumerate(self.left) if one is x], [j for j, one in enumerate(self.right) if one is y]
        if not all(here):  # two of one side
            (found,) = _products([x, y], 1, [(0, 1)], self.order, function=function, threads=threads).values()
            return found
        first = len(self.left)
        if not self.made:
            pairs = [(p, first + q) for p in range(first) for q in range(len(self.right))]
            self.made = _products(
                [*self.left, *self.right], len(self.right), pairs, self.order, function=function, threads=threads
            )
        return self.made[here[0][0], first + here[1][0]]


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
    if isinstance(matrices[0], DeviceRows):
        return [_fold_there(matrices, np.flatnonzero(folds == fold), order, function=function) for fold in range(count)]
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
    for sums in moments:
        sums.sum_gathered(threads=threads)
    return [_finished(sums, *asked[0]) for sums in moments]


def _fold_there(matrices: Sequence[Rows], fold: np.ndarray, order: np.ndarray | None, *, function: str) -> Products:
    pair = (0, len(matrices) - 1)
    picked = [*([fold] * pair[1]), fold if order is None else order[fold]]
    return _finished(device_moments.feature_moments(matrices, [pair], function=function, picked=picked), *pair)


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
    right: int,
    asked: Sequence[tuple[int, int]],
    order: np.ndarray | None,
    *,
    function: str,
    threads: int,
) -> dict[tuple[int, int], Products]:
    """Of the pairs asked for, in one pass; the last ``right`` matrices in their ``order``."""
    if isinstance(matrices[0], DeviceRows):
        picked = None if order is None else [*([None] * (len(matrices) - right)), *([order] * right)]
        moments = device_moments.feature_moments(matrices, asked, function=function, picked=picked)
        return {pair: _finished(moments, *pair, centred=order is None) for pair in asked}
    room = room_for([rows.depth for rows in matrices])
    moments = FeatureMoments([provisional_origin(rows) for rows in matrices], asked, room)
    n, left = len(matrices[0]), len(matrices) - right
    for start in range(0, n, room):
        stop = min(start + room, n)
        parts = [rows.part(start, stop) for rows in matrices]
        if order is not None:
            parts[left:] = [_picked(rows, order[start:stop]) for rows in matrices[left:]]
        for rows in matrices if order is None else matrices[:left]:
            rows.prefetch(stop, stop + room)  # while this block is worked on
        moments.add(parts, function=function, threads=threads)
    moments.sum_gathered(threads=threads)
    return {pair: _finished(moments, *pair, centred=order is None) for pair in asked}


def _picked(rows: Rows, which: np.ndarray) -> Rows:
    return Rows(np.ascontiguousarray(rows.values[which]), rows.dtype, rows.name)


def _finished(moments: FeatureMoments, p: int, q: int, *, centred: bool = False) -> Products:
    """Of one of the pairs; its lifted products are given up."""
    for_hsic = moments.centred(p, q) if centred else None
    product = moments.products.pop((p, q))
    n = len(moments)
    d, e = product.shape[0] - 2, product.shape[1] - 2
    sum_x = product[:d, e].copy()
    sum_y = sum_x if p == q else product[d, :e].copy()
    square_y = float(product[d, e + 1]) - float((sum_y * sum_y).sum()) / n
    xy = product[:d, :e] - np.outer(sum_x, sum_y) / n
    if p == q:  # of a matrix with itself the upper triangle is there
        xy = np.triu(xy) + np.triu(xy, 1).T
    xy.setflags(write=False)  # it may serve several
    return Products(n, xy, moments.shifts[p] + sum_x / n, moments.shifts[q] + sum_y / n, square_y, for_hsic)
