"""Blocks and tiles of the pairs of rows on a GPU.

The grid of tiles and their shape follow from the number of rows alone, so that a GEMM sees the same tiles however large
the blocks are; everything that is summed across tiles is a whole number.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .. import blocks
from ..arguments import available_memory, require_memory
from ..arrays import DeviceRows, Rows
from .device_streams import pinned_bytes, place_bytes

if TYPE_CHECKING:
    import torch

TILE_ROWS = 3072  # at most: a tile of float32 scores is 36 MiB, about what the cache of a large GPU holds
MOST_ROWS = 21 * TILE_ROWS  # of a block: one pair of blocks takes less than a second or two
MOST_SUMMED = 2**25  # rows, as on the CPU

Span = tuple[int, int, int, int]


def tile_rows(n: int) -> int:
    """Rows of a tile of n rows, a multiple of 192."""
    return min(TILE_ROWS, -(-n // blocks.TILE) * blocks.TILE)


def traversal(
    device: torch.device,
    rows: int,
    columns: int,
    depths: Sequence[int],
    *,
    symmetric: bool,
    block_rows: int | None,
    memory: int | None,
    function: str,
    matrices: Sequence[Rows] = (),
    beside: int = 0,
    of_a_row: int = 0,
) -> blocks.Traversal:
    """As :func:`repsim.blocks.traversal`, in whole tiles of the GPU; by default within half of what is free there.

    ``matrices``: those among which some may be brought there, and take memory on the way; what the host pins for that
    is as much at the most, or by default half of what is available there.

    Raises
    ------
    ValueError: blocks of one tile and the tiles themselves do not fit in the memory.
    """
    import torch

    tile = tile_rows(max(rows, columns))
    unpacked, row_bytes = _budget(tile, depths, matrices, of_a_row)
    unpacked += beside
    on_the_way = ", and two blocks on their way" if place_bytes(matrices)[0] else ""
    purpose = f"blocks and tiles of {tile} rows{on_the_way}"
    require_memory(unpacked + tile * row_bytes, memory, function=function, purpose=purpose)
    pinned = pinned_bytes(matrices, tile)
    require_memory(pinned, memory, function=function, purpose=f"what the host pins of two blocks of {tile} rows")
    most_pinned = sys.maxsize if memory is None else memory
    if memory is None:
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 8 * blocks.PACKED_BUDGET
        memory = free // 2
        most_pinned = (available_memory() or most_pinned) // 2
    fitting = (memory - unpacked) // row_bytes
    most = MOST_ROWS if block_rows is None else block_rows
    tiles = max(min(fitting, most) // tile, 1)
    while tiles > 1 and pinned_bytes(matrices, tiles * tile) > most_pinned:
        tiles -= 1
    return blocks.Traversal(rows, columns, tiles * tile, symmetric)


def least_bytes(
    rows: int, columns: int, depths: Sequence[int], matrices: Sequence[Rows] = (), *, of_a_row: int = 0
) -> int:
    """The smallest memory that :func:`traversal` takes."""
    tile = tile_rows(max(rows, columns))
    unpacked, row_bytes = _budget(tile, depths, matrices, of_a_row)
    return max(unpacked + tile * row_bytes, pinned_bytes(matrices, tile))


def _budget(tile: int, depths: Sequence[int], matrices: Sequence[Rows], of_a_row: int) -> tuple[int, int]:
    """Bytes beside the blocks, and for every row of them: block i, block j, and the next one."""
    places, bytes_on_the_way = place_bytes(matrices)
    packed = 3 * sum(-(-depth // 8) * 8 for depth in depths) * 4
    return (2 * len(depths) + 1) * tile * tile * 4 + places, packed + bytes_on_the_way + of_a_row


def square_traversal(
    matrices: Sequence[Rows], depths: Sequence[int], *, block_rows: int | None, memory: int | None, function: str
) -> blocks.Traversal:
    """Of the pairs of all rows of the matrices, where these lie; ``depths`` of what is packed of them."""
    rows, n = matrices[0], len(matrices[0])
    if isinstance(rows, DeviceRows):
        if n > MOST_SUMMED:
            raise ValueError(f"[{function}] expected at most 2^25 rows, whose sums fit their integers, got {n}")
        return traversal(
            rows.values.device, n, n, depths, symmetric=True, block_rows=block_rows, memory=memory, function=function,
            matrices=matrices,
        )  # fmt: skip
    return blocks.traversal(n, n, depths, symmetric=True, block_rows=block_rows, memory=memory, function=function)


@dataclass(frozen=True)
class TileAt:
    """A tile of a pair of blocks: where it lies in them and in the whole matrix."""

    i: int
    j: int
    first_i: int
    rows: int
    first_j: int
    columns: int
    pitch: int
    diagonal: bool

    def as_tuple(self) -> tuple[int, int, int, int, int, bool]:
        return self.first_i, self.rows, self.first_j, self.columns, self.pitch, self.diagonal

    def transposed(self) -> tuple[int, int, int, int, int, bool]:
        """For a square tile, held the other way round."""
        return self.first_j, self.columns, self.first_i, self.rows, self.pitch, self.diagonal


def tiles_of(span: Span, tile_i: int, tile_j: int, *, symmetric: bool) -> Iterator[TileAt]:
    """The tiles of a pair of blocks; where both are the same rows, those of the upper triangle."""
    first_i, rows, first_j, columns = span
    same = symmetric and first_i == first_j
    for i in range(0, rows, tile_i):
        for j in range(i if same else 0, columns, tile_j):
            yield TileAt(
                i, j, first_i + i, min(tile_i, rows - i), first_j + j, min(tile_j, columns - j), tile_j, same and i == j
            )
