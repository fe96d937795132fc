"""Where rows lie, and packing them about that place for the native tiles."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from .. import _core, blocks
from ..arrays import Rows

_EPS64 = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Centre:
    """Where rows lie: a middle, and the squared distance of each row to it."""

    middle: np.ndarray  # [d] float64: what is subtracted from every row
    squared_norms: np.ndarray  # [n] float64, after the subtraction

    @functools.cached_property
    def unit(self) -> float:
        """A power of two such that any two different rows, times it, have an inner product of at most 1."""
        second, first = np.partition(self.squared_norms, -2)[-2:] if len(self.squared_norms) > 1 else (1.0, 1.0)
        return power_of_two_below(float(second or first) ** -0.25 * float(first) ** -0.25)


def mean_centre(rows: Rows, *, function: str, threads: int) -> Centre:
    """About the mean: what the closed forms of linear kernels are written for.

    Raises
    ------
    ValueError: a row is not finite (it is named), beyond the range of squares, or all rows are equal.
    """
    mean = column_sums(rows, function=function, threads=threads) / len(rows)
    norms = squared_norms(rows, mean, function=function, threads=threads)
    # The mean of equal rows is a rounding away from them.
    return _unless_equal(rows, Centre(mean, norms), (_EPS64 * len(rows)) ** 2 * float(mean @ mean), function)


def robust_centre(rows: Rows, *, function: str, threads: int) -> Centre:
    """About the coordinate-wise median of some rows: one far row does not push all others away from the origin.

    Raises
    ------
    ValueError: as :func:`mean_centre`.
    """
    column_sums(rows, function=function, threads=threads)  # every row is finite
    middle = np.median(a_few(rows), axis=0)
    return _unless_equal(
        rows, Centre(middle, squared_norms(rows, middle, function=function, threads=threads)), 0.0, function
    )


def _unless_equal(rows: Rows, found: Centre, rounding: float, function: str) -> Centre:
    if not found.squared_norms.max() > rounding:
        raise ValueError(
            f"[{function}] expected {rows.name} whose rows differ, got zero variance (all {len(rows)} rows are equal)"
        )
    return found


def power_of_two_below(x: float) -> float:
    return math.ldexp(1.0, math.floor(math.log2(x)))


def column_sums(rows: Rows, *, function: str, threads: int) -> np.ndarray:
    sums = np.empty(rows.depth)
    bad = _core.column_sums(rows.values, rows.dtype, sums, threads)
    if bad >= 0:
        raise ValueError(f"[{function}] expected {rows.name} with finite values, got NaN or infinity in row {bad}")
    if not np.isfinite(sums).all():
        raise ValueError(f"[{function}] expected {rows.name} whose sums are finite in float64, got overflow")
    return sums


def squared_norms(rows: Rows, shift: np.ndarray | None, *, function: str, threads: int) -> np.ndarray:
    norms = np.empty(len(rows))
    _core.squared_norms(rows.values, rows.dtype, shift, norms, threads)
    longest = float(norms.max())
    if not (longest == 0 or 1e-280 < longest < 1e280):
        raise ValueError(
            f"[{function}] expected {rows.name} with values between about 1e-140 and 1e140, whose squares float64 "
            f"can hold, got a largest squared norm of {longest:.3g}"
        )
    return norms


@dataclass(frozen=True)
class Packer:
    """Packs blocks of (row - shift) * scale - offset for the native tiles."""

    rows: Rows
    shift: np.ndarray | None
    scale: np.ndarray  # [n], possibly one number repeated without memory
    threads: int
    offset: np.ndarray | None = None

    def block(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        panels = blocks.empty_panels(count, self.rows.depth)
        halves = np.empty(count, np.float32)
        stop = first + count
        scale = np.ascontiguousarray(self.scale[first:stop])
        _core.pack_rows(
            self.rows.values[first:stop], self.rows.dtype, self.shift, scale, self.offset, panels, halves, self.threads
        )
        return panels, halves


def a_few(rows: Rows) -> np.ndarray:
    """Up to 255 evenly spaced rows in float64, fewer where they are very wide."""
    return rows.wide(evenly_spaced(len(rows), max(15, min(255, 2**22 // rows.depth))))


def evenly_spaced(n: int, count: int) -> np.ndarray | slice:
    """At most ``count`` positions from first to last; all of them as a slice."""
    return slice(0, n) if n <= count else np.linspace(0, n - 1, count).astype(np.int64)
