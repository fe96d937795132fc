"""The rows of a representation on a torch device, block by block, and where they lie."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...arrays import Rows, as_rows

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
BLOCK_ROWS = 2048
BLOCK_NUMBERS = 2**21  # of a float64 block: 16 MiB


@dataclass(frozen=True)
class Side:
    """One representation: a tensor, or an array in the computer's memory whose blocks are brought to the device."""

    values: Tensor | Rows
    name: str
    device: torch.device

    @staticmethod
    def of(z: Any, name: str, device: torch.device, function: str) -> Side:
        where = f"[{function}] expected {name}"
        if not isinstance(z, Tensor):
            return Side(as_rows(z, function=function, name=name), name, device)
        if z.device.type == "meta":
            raise ValueError(f"{where} with data, got a tensor on device meta")
        if z.device != device:
            raise ValueError(f"{where} on {device} like the tensor that requires grad, got device {z.device}")
        if z.layout != torch.strided:
            raise TypeError(f"{where} as a dense tensor, got layout {z.layout}; pass {name}.to_dense()")
        if z.dtype not in DTYPES:
            raise TypeError(f"{where} of dtype float16, bfloat16, float32 or float64, got {z.dtype}")
        if z.ndim != 2:
            raise ValueError(f"{where} with two dimensions [rows, columns], got shape {tuple(z.shape)}")
        if 0 in z.shape:
            raise ValueError(
                f"{where} with at least one row and one column, got shape {tuple(z.shape)}, which is empty"
            )
        return Side(z, name, device)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def depth(self) -> int:
        return self.values.depth if isinstance(self.values, Rows) else int(self.values.shape[1])

    @property
    def dtype(self) -> torch.dtype:
        if isinstance(self.values, Rows):
            dtype: torch.dtype = getattr(torch, self.values.dtype)
            return dtype
        return self.values.dtype

    def rows(self, part: slice, dtype: torch.dtype) -> Tensor:
        """The chosen rows [r, d] on the device, without a graph."""
        if isinstance(self.values, Tensor):
            return self.values.detach().as_subclass(torch.Tensor)[part].to(dtype)
        block = torch.from_numpy(np.array(self.values.values[part]))
        if self.values.dtype == "bfloat16":
            block = block.view(torch.bfloat16)
        return block.to(self.device, dtype)

    def a_few(self, dtype: torch.dtype) -> Tensor:
        """Up to 255 evenly spaced rows, fewer where they are very wide."""
        count = max(15, min(255, 2**22 // self.depth))
        return self.rows(slice(0, None, -(-len(self) // count)), dtype)


def median(rows: Tensor) -> Tensor:
    """[d] of rows [r, d]: the upper one where two are in the middle. By sorting, which is deterministic everywhere."""
    return rows.sort(0).values[len(rows) // 2]


def parts(sides: tuple[Side, ...]) -> Iterator[slice]:
    """Blocks of all rows, small enough to be held in float64."""
    n = len(sides[0])
    rows = max(1, min(BLOCK_ROWS, BLOCK_NUMBERS // max(side.depth for side in sides)))
    for first in range(0, n, rows):
        yield slice(first, min(first + rows, n))


@dataclass(frozen=True)
class Place:
    """Where rows lie: their mean, a middle that one far row does not move, and a power of two that brings them to a
    length of at most one about it."""

    mean: Tensor  # [d] float64
    middle: Tensor  # [d] float64
    unit: float

    @staticmethod
    def of(side: Side, function: str) -> Place:
        """Of finite rows that differ.

        Raises
        ------
        ValueError: a row is not finite (it is named), beyond the range of squares, or all rows are equal.
        """
        where = f"[{function}] expected {side.name}"
        total = torch.zeros(side.depth, dtype=torch.float64, device=side.device)
        for part in parts((side,)):
            rows = side.rows(part, torch.float64)
            finite = rows.isfinite().all(1)
            if not finite.all():
                row = part.start + int((~finite).nonzero()[0])
                raise ValueError(f"{where} with finite values, got NaN or infinity in row {row}")
            total += rows.sum(0)
        if not total.isfinite().all():
            raise ValueError(f"{where} whose sums are finite in float64, got overflow")
        middle = median(side.a_few(torch.float64))
        longest = max(float((side.rows(part, torch.float64) - middle).square().sum(1).max()) for part in parts((side,)))
        if longest == 0:
            raise ValueError(f"{where} whose rows differ, got zero variance (all {len(side)} rows are equal)")
        if not 1e-280 < longest < 1e280:
            raise ValueError(
                f"{where} with values between about 1e-140 and 1e140, whose squares float64 can hold, "
                f"got a largest squared norm of {longest:.3g}"
            )
        # The next power of two below: products with it are exact.
        unit = math.ldexp(1.0, math.floor(-math.log2(longest) / 2))
        return Place(total / len(side), middle, unit)
