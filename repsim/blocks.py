"""Block pairs of an n x n matrix within a memory budget, packed for the native operations."""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from .arguments import require_memory
from .arrays import RESIDENT_BYTES

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

    Block i stays while block j sweeps, so that it is packed once. ``symmetric`` visits j >= i only: i itself, then from
    the last back to i + 1, which is the next i. With b blocks :func:`packed_pairs` then packs 1 + b (b - 1) / 2, of
    about n^2 / (2 block_rows) rows.
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
        for at, i in enumerate(self.starts_i):
            columns = [i, *reversed(self.starts_j[at + 1 :])] if self.symmetric else self.starts_j
            for j in columns:
                yield Range(i, min(self.block_rows, self.rows - i), j, min(self.block_rows, self.columns - j))


def packed_pairs(
    spans: Iterable[Range], pack: Callable[[int, int], Packed], pack_other: Callable[[int, int], Packed] | None = None
) -> Iterator[tuple[Packed, Packed, Range]]:
    """Both blocks of every pair, by ``pack(first, rows)``; ``pack_other`` packs block j where that is of other rows.

    Of two pairs that follow each other the second takes over what it needs of the first.
    """
    held: dict[tuple[bool, int], Packed] = {}
    for span in spans:
        sides = (False, span.first_i, span.rows_i), (pack_other is not None, span.first_j, span.rows_j)
        held = {key[:2]: held[key[:2]] for key in sides if key[:2] in held}
        for other, first, rows in sides:
            if (other, first) not in held:
                held[other, first] = pack_other(first, rows) if other and pack_other else pack(first, rows)
        i, j = (held[key[:2]] for key in sides)
        yield i, j, span


def traversal(
    rows: int,
    columns: int,
    depths: Sequence[int],
    *,
    symmetric: bool,
    block_rows: int | None,
    memory: int | None = None,
    function: str = "traversal",
    beside: int = 0,
    of_a_row: int = 0,
) -> Traversal:
    """A traversal whose packed blocks fit the budget, or of the given size in whole tiles, at least one.

    ``memory``: bytes for packed blocks and what is held of the memory maps that they are packed from; a given
    ``block_rows`` is then the most that a block may have. ``beside``: bytes of it that something else holds;
    ``of_a_row``: bytes that every row of a block i takes beside the packed one.

    Raises
    ------
    ValueError: blocks of one tile of rows do not fit in the memory.
    """
    row_bytes = 2 * sum(depths) * 4  # of block i and block j
    if memory is not None:
        unpacked, row_bytes = _budget(depths, of_a_row)
        purpose = f"three blocks of {TILE} rows"
        require_memory(unpacked + beside + TILE * row_bytes, memory, function=function, purpose=purpose)
        fitting = (memory - unpacked - beside) // row_bytes
        block_rows = min(fitting, MOST_ROWS if block_rows is None else block_rows)
    elif block_rows is None:
        block_rows = min(PACKED_BUDGET // row_bytes, MOST_ROWS)
    return Traversal(rows, columns, max(block_rows // TILE, 1) * TILE, symmetric)


def least_bytes(depths: Sequence[int], of_a_row: int = 0) -> int:
    """The smallest memory that :func:`traversal` takes."""
    unpacked, row_bytes = _budget(depths, of_a_row)
    return unpacked + TILE * row_bytes


def _budget(depths: Sequence[int], of_a_row: int) -> tuple[int, int]:
    """Bytes beside the blocks, and for every row of them.

    Rows are packed some at a time, of one matrix at a time, in whole tiles, and sampled before; block j is still held
    while the next one is packed.
    """
    return RESIDENT_BYTES + TILE * max(depths) * 8 + sample_bytes(depths), 3 * sum(depths) * 4 + of_a_row


def sample_rows(depth: int) -> int:
    """How many rows stand for all where a few do."""
    return max(15, min(255, 2**22 // depth))


def sample_bytes(depths: Sequence[int]) -> int:
    """Memory of the largest sample."""
    return max(sample_rows(depth) * depth * 8 for depth in depths)


def empty_panels(rows: int, depth: int) -> np.ndarray:
    """Memory [12 ceil(rows / 192), depth, 16] for packed rows, aligned to whole vectors."""
    return aligned((-(-rows // TILE) * 12, depth, 16), np.float32)


def aligned(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """Memory whose first element lies at a multiple of 64 bytes, and which the system has back once it is not used."""
    # Of its own mapping: an allocator would keep blocks of some megabytes for later.
    size = int(np.prod(shape))
    return np.frombuffer(mmap.mmap(-1, size * np.dtype(dtype).itemsize), dtype, size).reshape(shape)
