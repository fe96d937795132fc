"""Where rows lie, and packing them about that place for the native tiles."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _core, blocks
from ..arrays import DeviceRows, Rows, found_once
from . import device, device_grid

_TOGETHER = 16  # sampled rows read at a time


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


@found_once
def robust_centre(rows: Rows, *, function: str, threads: int) -> Centre:
    """About the coordinate-wise median of some rows: one far row does not push all others away from the origin.

    Raises
    ------
    ValueError: a row is not finite (it is named), beyond the range of squares, or all rows are equal.
    """
    column_sums(rows, function=function, threads=threads)  # every row is finite
    middle = column_medians(a_few(rows))
    norms = squared_norms(rows, middle, function=function, threads=threads)
    if not norms.max() > 0:
        raise equal_rows(rows, len(rows), function=function)
    return Centre(middle, norms)


def equal_rows(rows: Rows, count: int, *, function: str) -> ValueError:
    return ValueError(
        f"[{function}] expected {rows.name} whose rows differ, got zero variance (all {count} rows are equal)"
    )


def power_of_two_below(x: float) -> float:
    return math.ldexp(1.0, math.floor(math.log2(x)))


@found_once
def column_sums(rows: Rows, *, function: str, threads: int, first: int = 0) -> np.ndarray:
    """[d] float64; ``first`` is the number by which an error names the first of the rows."""
    total, sums = np.zeros(rows.depth), np.empty(rows.depth)
    for start, stop in rows.sweep():
        bad = device.native(rows).column_sums(rows.values[start:stop], rows.dtype, sums, threads)
        if bad >= 0:
            raise not_finite(rows, first + start + bad, function=function)
        total += sums
    if not np.isfinite(total).all():
        raise ValueError(f"[{function}] expected {rows.name} whose sums are finite in float64, got overflow")
    return total


def not_finite(rows: Rows, row: int, *, function: str) -> ValueError:
    return ValueError(f"[{function}] expected {rows.name} with finite values, got NaN or infinity in row {row}")


def finite_block(rows: Rows, which: slice | np.ndarray, *, function: str) -> np.ndarray:
    """The chosen rows in float64.

    Raises
    ------
    ValueError: one of them is not finite; it is named.
    """
    block = rows.wide(which)
    bad = ~np.isfinite(block).all(axis=1)
    if bad.any():
        raise not_finite(rows, int(np.arange(len(rows))[which][bad.argmax()]), function=function)
    return block


def squared_norms(rows: Rows, shift: np.ndarray | None, *, function: str, threads: int) -> np.ndarray:
    norms = np.empty(len(rows))
    for start, stop in rows.sweep():
        device.native(rows).squared_norms(rows.values[start:stop], rows.dtype, shift, norms[start:stop], threads)
    longest = float(norms.max())
    if not math.isfinite(longest):
        column_sums(rows, function=function, threads=threads)  # names a row that is not finite
    if not 1e-280 < longest < 1e280 and (longest > 0 or _underflow(rows, shift)):
        raise ValueError(
            f"[{function}] expected {rows.name} with values between about 1e-140 and 1e140, whose squares float64 "
            f"can hold, got a largest squared norm of {longest:.3g}"
        )
    return norms


def _underflow(rows: Rows, shift: np.ndarray | None) -> bool:
    """Whether rows whose squared norms are all zero are not."""
    middle = 0.0 if shift is None else device.placed(rows, shift)
    return any(bool((rows.wide_there(slice(start, stop)) != middle).any()) for start, stop in rows.sweep())


@dataclass(frozen=True)
class Packer:
    """Packs blocks of (row - shift) * scale - offset for the native tiles; ``words``: on a GPU, as what."""

    rows: Rows
    shift: np.ndarray | None
    scale: np.ndarray  # [n], possibly one number repeated without memory
    threads: int
    offset: np.ndarray | None = None
    words: str = "float32"

    def block(self, first: int, count: int) -> tuple[Any, Any]:
        """What the native tiles take of rows [first, first + count), and half the squared norms of the packed rows."""
        if isinstance(self.rows, DeviceRows):
            return self.on_device(first, count, self.words)[:2]
        panels = blocks.empty_panels(count, self.rows.depth)
        halves = np.empty(count, np.float32)
        scale = np.ascontiguousarray(self.scale[first : first + count])
        for start, stop in self.rows.sweep(first, first + count, multiple=blocks.TILE):
            part = slice(start - first, stop - first)
            _core.pack_rows(
                self.rows.values[start:stop], self.rows.dtype, self.shift, scale[part], self.offset,
                panels[_panels_before(part.start) : _panels_before(part.stop)], halves[part], self.threads,
            )  # fmt: skip
        return panels, halves

    def pairs(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same in pairs of bfloat16, and how far each packed row lies from the row it stands for."""
        panels = blocks.empty_panels(count, -(-self.rows.depth // 2)).view(np.uint32)
        halves, residuals = np.empty(count, np.float32), np.empty(count, np.float32)
        scale = np.ascontiguousarray(self.scale[first : first + count])
        for start, stop in self.rows.sweep(first, first + count, multiple=blocks.TILE):
            part = slice(start - first, stop - first)
            _core.pack_pairs(
                self.rows.values[start:stop], self.rows.dtype, self.shift, scale[part], self.offset,
                panels[_panels_before(part.start) : _panels_before(part.stop)], halves[part], residuals[part],
                self.threads,
            )  # fmt: skip
        return panels, halves, residuals

    def on_device(
        self, first: int, count: int, words: str, *, residuals: bool = False
    ) -> tuple[device.Packed, Any, Any]:
        """The same of rows on a GPU, as tensors, and how far each packed row lies from the row it stands for."""
        packed = device.pack(
            self.rows.part(first, first + count), self.shift, self.scale[first : first + count], self.offset, words,
            tile=device_grid.tile_rows(len(self.rows)), residuals=residuals,
        )  # fmt: skip
        self.rows.release(first, first + count)
        return packed


def _panels_before(row: int) -> int:
    return -(-row // blocks.TILE) * (blocks.TILE // _core.PANEL)


def a_few(rows: Rows) -> np.ndarray:
    """Up to 255 evenly spaced rows in float64, fewer where they are very wide."""
    picked = np.arange(len(rows))[evenly_spaced(len(rows), blocks.sample_rows(rows.depth))]
    sample = np.empty((len(picked), rows.depth))
    for start in range(0, len(picked), _TOGETHER):
        some = picked[start : start + _TOGETHER]
        sample[start : start + _TOGETHER] = rows.wide(some)
        rows.release(int(some[0]), int(some[-1]) + 1)
    return sample


def column_medians(sample: np.ndarray) -> np.ndarray:
    """[d], some columns at a time: a median takes a copy of what it is given."""
    return np.concatenate([np.median(part, axis=0) for part in np.split(sample, range(1024, sample.shape[1], 1024), 1)])


def evenly_spaced(n: int, count: int) -> np.ndarray | slice:
    """At most ``count`` positions from first to last; all of them as a slice."""
    return slice(0, n) if n <= count else np.linspace(0, n - 1, count).astype(np.int64)
