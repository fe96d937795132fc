"""Block pairs of an n x n matrix within a memory budget, packed for the native operations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from .arguments import require_memory

TILE = 192  # rows of a native tile: blocks begin at its multiples, so results do not depend on the block size
PACKED_BUDGET = 128 * 2**20  # bytes of packed blocks held at a time
MOST_ROWS = 8192  # so that one native call takes seconds at the most: progress, and Ctrl-C between calls

Packed = TypeVar("Packed")


@dataclass(frozen=True)
class Range:
    """Rows [first_i, first_i + rows_i) against rows [first_j, first_j + rows_j)."""

    first_i: int
    rows_i: int
    first_j: int
    rows_j: int

    def as_tuple(self) -> tuple[int, int, int, int]:
        return (self.first_i, self.rows_i, self.first_j, self.rows_j)


@dataclass(frozen=True)
class Traversal:
    """The order in which pairs of blocks are visited.

    Block i stays while block j sweeps, so that it is packed once; ``symmetric`` visits j >= i only.
    """

    rows: int
    columns: int
    block_rows: int
    symmetric: bool
    starts_i: range = field(init=False)
    starts_j: range = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "starts_i", range(0, self.rows, self.block_rows))
        object.__setattr__(self, "starts_j", range(0, self.columns, self.block_rows))

    def __len__(self) -> int:
        down = len(self.starts_i)
        return down * (down + 1) // 2 if self.symmetric else down * len(self.starts_j)

    def __iter__(self) -> Iterator[Range]:
        for i in self.starts_i:
            for j in self.starts_j:
                if not self.symmetric or j >= i:
                    yield Range(i, min(self.block_rows, self.rows - i), j, min(self.block_rows, self.columns - j))

    def blocks(self, pack: Callable[[int, int], Packed]) -> Iterator[tuple[Packed, Packed, Range]]:
        """Both blocks of every pair, by ``pack(first, rows)`` of the rows that both sides are; block i is kept."""
        held: tuple[int, Packed] | None = None
        for span in self:
            if held is None or held[0] != span.first_i:
                held = (span.first_i, pack(span.first_i, span.rows_i))
            same = span.first_j == span.first_i
            yield held[1], held[1] if same else pack(span.first_j, span.rows_j), span


def traversal(
    rows: int,
    columns: int,
    depths: Sequence[int],
    *,
    symmetric: bool,
    block_rows: int | None,
    memory: int | None = None,
    function: str = "traversal",
) -> Traversal:
    """A traversal whose packed blocks fit the budget, or of the given size in whole tiles, at least one.

    ``memory``: bytes that the packed blocks may take; a given ``block_rows`` is then the most that a block may have.

    Raises
    ------
    ValueError: two blocks of one tile of rows do not fit in the memory.
    """
    row_bytes = 2 * sum(depths) * 4  # of block i and block j
    require_memory(TILE * row_bytes, memory, function=function, purpose=f"two blocks of {TILE} rows")
    most = MOST_ROWS if memory is None or block_rows is None else block_rows
    if block_rows is None or memory is not None:
        block_rows = min((PACKED_BUDGET if memory is None else memory) // row_bytes, most)
    return Traversal(rows, columns, max(block_rows // TILE, 1) * TILE, symmetric)


def empty_panels(rows: int, depth: int) -> np.ndarray:
    """Uninitialised memory [12 ceil(rows / 192), depth, 16] for packed rows, aligned to whole vectors."""
    return aligned((-(-rows // TILE) * 12, depth, 16), np.float32)


def aligned(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Uninitialised memory whose first element lies at a multiple of 64 bytes."""
    size, width = int(np.prod(shape)), np.dtype(dtype).itemsize
    raw: np.ndarray = np.empty(size + 64 // width, dtype)
    skip = (-raw.ctypes.data % 64) // width
    return raw[skip : skip + size].reshape(shape)
