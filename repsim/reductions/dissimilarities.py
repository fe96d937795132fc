"""Dissimilarities between all pairs of inputs in float64, tile by tile: the matrix of all of them is never held.

Every kind is a function of the squared Euclidean distance of mapped rows z:
  euclidean, squared_euclidean    z = x
  correlation                     z = (x - mean of its features) / |.|,   1 - correlation = |z - z'|^2 / 2
  cosine                          z = x / |x|,                            1 - cosine = |z - z'|^2 / 2
  mahalanobis                     z = x W with W W' the inverse of the sample covariance of the rows
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .. import _core, blocks
from ..arrays import DeviceRows, Rows, found_once
from . import device, device_distances
from .arithmetic import largest
from .axes import INVERTIBLE, principal_axes
from .centre import a_few, column_medians, column_sums, evenly_spaced, squared_norms
from .distances import blas
from .products import own_products

KINDS = ("euclidean", "squared_euclidean", "correlation", "cosine", "mahalanobis")
ROOTS = ("euclidean", "mahalanobis")
DIRECTIONS = ("correlation", "cosine")

BLOCK_ROWS = 1024  # a tile of float64 is then 8 MiB
BLOCK_ENTRIES = 2**23  # of the float64 rows of one block: wide rows come in smaller ones
# A row whose features differ by less than this share of their size is constant up to rounding.
CONSTANT = 1e-13


@dataclass(frozen=True)
class Dissimilarities:
    """The symmetric matrix D [n, n] of one side, never held. ``order`` [n]: input i is row ``order[i]``."""

    rows: Rows
    kind: str
    middle: np.ndarray | None = None  # [d], subtracted from every row
    whitening: np.ndarray | None = None  # [d, d]
    order: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def relabelled(self, order: np.ndarray) -> Dissimilarities:
        return replace(self, order=order if self.order is None else self.order[order])

    def points(self, inputs: slice | np.ndarray) -> Any:
        """The mapped rows z of some inputs, [len, d] float64, contiguous, where the rows lie."""
        values = self.rows.wide_there(inputs if self.order is None else self.order[inputs])
        if self.order is None and isinstance(inputs, slice):
            self.rows.release(inputs.start, inputs.stop)
            self.rows.prefetch(inputs.stop, 2 * inputs.stop - inputs.start)
        if self.middle is not None:
            values -= device.placed(self.rows, self.middle)
        if self.whitening is not None:
            values = values @ device.placed(self.rows, self.whitening)
        return directions(values, centred=self.kind == "correlation")[0] if self.kind in DIRECTIONS else values

    def between(self, a: Any, b: Any, threads: int) -> Any:
        """D between the points of some inputs and those of others, [len a, len b], where they lie; of points with
        themselves exactly symmetric, with zeros in the diagonal."""
        if not isinstance(a, np.ndarray):
            return self.of_distances(device_distances.distances(a, b, self.rooted))
        found = np.empty((len(a), len(b)))
        _core.distances(a, b, self.rooted, found, threads)
        return self.of_distances(found)

    @property
    def rooted(self) -> bool:
        """Whether D is a function of the distance of z; if not, of its square."""
        return self.kind in ROOTS

    def of_distances(self, found: Any) -> Any:
        """D from the distances of z, or their squares where it is not ``rooted``; in place."""
        if self.kind in DIRECTIONS:
            found /= 2
        return found

    def typical(self, threads: int) -> float:
        """About the middle of D: its median over up to 255 inputs. To subtract it keeps sums of squares small."""
        few = np.arange(len(self))[evenly_spaced(len(self), blocks.sample_rows(self.rows.depth))]
        points = self.points(few)
        return float(np.median(_upper(device.on_host(self.between(points, points, threads)))))

    def condensed(self) -> np.ndarray:
        """D_ij of all i < j, [n (n - 1) / 2], as scipy's pdist orders them, every one from the difference of the rows:
        pairs of equal rows are equally far apart to the last bit. n d + n^2 / 2 float64 on the host; cost 1.5 n^2 d
        flop."""
        from scipy.spatial.distance import pdist

        metric = "euclidean" if self.rooted else "sqeuclidean"
        found: np.ndarray = self.of_distances(pdist(device.on_host(self.points(slice(0, len(self)))), metric))
        return found


@found_once
def dissimilarities_of(rows: Rows, kind: str, *, function: str, threads: int) -> Dissimilarities:
    """The dissimilarities of one kind, of rows that have them.

    Raises
    ------
    ValueError: a row is not finite (it is named) or beyond the range of squares; a row without a direction (cosine:
        zero, correlation: constant); a sample covariance that has no inverse (mahalanobis).
    """
    sums = column_sums(rows, function=function, threads=threads)
    if kind in DIRECTIONS:
        _require_directions(rows, kind, function)
        return Dissimilarities(rows, kind)
    if kind == "mahalanobis":
        return Dissimilarities(rows, kind, sums / len(rows), _whitening(rows, function, threads))
    middle = column_medians(a_few(rows))
    squared_norms(rows, middle, function=function, threads=threads)  # none beyond the range of float64
    return Dissimilarities(rows, kind, middle)


def dissimilarity_tiles(
    sides: list[Dissimilarities], *, threads: int, block_rows: int | None = None
) -> Iterator[tuple[slice, slice, list[Any]]]:
    """D of every side between inputs i and inputs j, [len i, len j], for every pair of blocks with i <= j.

    The tiles lie where the rows do; on a GPU they have twice the rows. Where i == j one is a symmetric square with
    zeros in its diagonal. They may be written on. Memory: two blocks of rows of every side and two tiles. Cost: n^2 d
    flop of every side.
    """
    n, widest = len(sides[0]), max(side.rows.depth for side in sides)
    times = 2 if isinstance(sides[0].rows, DeviceRows) else 1
    step = block_rows or times * max(64, min(BLOCK_ROWS, BLOCK_ENTRIES // widest))
    for first in range(0, n, step):
        i = slice(first, min(first + step, n))
        left = [side.points(i) for side in sides]
        for second in range(first, n, step):
            j = slice(second, min(second + step, n))
            right = left if i == j else [side.points(j) for side in sides]
            pairs = zip(sides, left, right, strict=True)
            yield i, j, [side.between(a, b, threads) for side, a, b in pairs]


def dissimilarity_pairs(sides: list[Dissimilarities], *, threads: int) -> Iterator[list[Any]]:
    """D of every side over the pairs i < j of inputs, some at a time: arrays of one shape, which may be written on."""
    for i, j, found in dissimilarity_tiles(sides, threads=threads):
        if i != j:
            yield found
        elif i.stop - i.start > 1:
            yield [_upper(tile) for tile in found]


def _upper(tile: Any) -> Any:
    """The entries above the diagonal of a square tile."""
    return tile[np.triu_indices(len(tile), 1)]


def directions(rows: Any, *, centred: bool = False) -> tuple[Any, np.ndarray]:
    """Float64 rows over their lengths, after subtracting from each the mean of its own features where ``centred``.

    Also which of them [n] have a length that rounding did not make; the others hold NaN.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        rows = rows / largest(rows)  # squares of any row are then numbers
        for _ in range(2 if centred else 0):  # the second mean is that of the rounding of the first
            rows = rows - rows.mean(axis=1, keepdims=True)
        lengths = (rows * rows).sum(axis=1, keepdims=True) ** 0.5
        fine = (lengths[:, 0] > CONSTANT) & (lengths[:, 0] < np.inf)
        return rows / lengths, device.on_host(fine)


def _require_directions(rows: Rows, kind: str, function: str) -> None:
    for start, stop in rows.sweep():
        fine = directions(rows.wide_there(slice(start, stop)), centred=kind == "correlation")[1]
        if not fine.all():
            what = "non-zero rows" if kind == "cosine" else "rows whose features differ"
            row = start + int(fine.argmin())
            raise ValueError(f"[{function}] expected {rows.name} with {what} for the {kind} distance, got row {row}")


def _whitening(rows: Rows, function: str, threads: int) -> np.ndarray:
    n, d = len(rows), rows.depth
    covariance = own_products(rows, function=function, threads=threads).xy / (n - 1)
    constant = not (np.diag(covariance) > 0).all()
    with blas().limit(limits=threads, user_api="blas"):
        found = principal_axes(covariance, INVERTIBLE, standardised=True)
    rank = min(len(found.lengths), n - 1)
    if rank == d and not constant:
        return found.whitening
    raise ValueError(
        f"[{function}] expected {rows.name} whose sample covariance has an inverse for the mahalanobis distance, got "
        + ("a constant column" if constant else f"rank {rank} of {d} columns from {n} inputs")
    )
