"""Exact nearest neighbours on a GPU: torch's products of packed rows propose, float64 decides, as on the CPU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from .. import blocks
from ..arrays import RESIDENT_ON_DEVICE, Rows
from . import device, device_grid, hopper
from .device import address, gpu_module, on_host, placed, source, stream_of, tensor_of
from .device_grid import TileAt, tile_rows
from .neighbours import (
    HALF_WORDS,
    Found,
    Open,
    PackedSide,
    Reach,
    Search,
    Side,
    Sides,
    Steps,
    bytes_kept,
    margin_of,
)

if TYPE_CHECKING:
    import torch

FREE_SHARE = 8  # a side is kept packed where it takes at most this part of the memory that is free


class DeviceSide(PackedSide):
    """The packed rows of a side; halves and residuals are tensors."""

    def __init__(self, side: Side, filter: str, slack: float, room: int | None) -> None:
        import torch

        super().__init__(side, filter, slack, room)
        where = tensor_of(side.rows).device
        self.halves, self.residuals = torch.empty((2, len(side.rows)), dtype=torch.float32, device=where)
        if room is None:
            free = torch.cuda.mem_get_info(where)[0] if where.type == "cuda" else FREE_SHARE * blocks.PACKED_BUDGET
            room = free // FREE_SHARE
        self.width = -(-side.rows.depth // 8) * 8
        self.keeps_all = self._bytes <= room
        self.all_parts: hopper.Split | None = None

    @property
    def _bytes(self) -> int:
        """Of all rows, packed: whole tiles of whole vectors."""
        tile = tile_rows(len(self.side.rows))
        return -(-len(self.side.rows) // tile) * tile * self.width * 2 * HALF_WORDS[self.filter]

    @property
    def bytes_kept(self) -> int:
        return self._bytes if self.keeps_all else 0

    def forget(self) -> None:
        super().forget()
        self.all_parts = None

    def known(self) -> tuple[np.ndarray, np.ndarray]:
        halves, residuals = on_host(self.halves), on_host(self.residuals)
        return np.sqrt(2 * halves.astype(np.float64)), residuals.astype(np.float64)

    def block(self, first: int, count: int) -> tuple[Any, Any]:
        if first in self.kept and self.kept[first][0].count >= count:  # blocks may be longer by now
            return self.kept[first]
        packed, halves, residuals = self.side.packer.on_device(first, count, self.filter, residuals=True)
        self._know(first, halves, residuals)
        if self.keeps_all:
            self.kept[first] = packed, halves
        return packed, halves

    def parts(self, first: int, count: int) -> hopper.Split:
        """Rows as the fused kernels take them: sums of as many bfloat16 parts as the filter has."""
        import torch

        part = slice(first, first + count)
        if not self.keeps_all:
            return hopper.Split(self._parts_of(first, count), self.halves[part], self.width)
        if self.all_parts is None:
            rows = self.side.rows
            shape = hopper.PARTS[hopper.FILTERS[self.filter]], len(rows), self.width
            parts = torch.empty(shape, dtype=torch.bfloat16, device=self.halves.device)
            for start, stop in rows.sweep():
                parts[:, start:stop] = self._parts_of(start, stop - start)
            self.all_parts = hopper.Split(parts, self.halves, self.width)
        return hopper.Split(self.all_parts.parts[:, part], self.halves[part], self.width)

    def _parts_of(self, first: int, count: int) -> torch.Tensor:
        """[parts, count, width] of some rows."""
        precision = hopper.FILTERS[self.filter]
        words = "bfloat16" if precision == "medium" else "float32"
        packed, halves, residuals = self.side.packer.on_device(first, count, words, residuals=True)
        values = packed.values[:count]
        if words == "bfloat16":
            self._know(first, halves, residuals)
            return values[None]
        split, lost = hopper.split(values, precision, residuals=True)
        off = (residuals + lost) * (1 + 2.0**-20)  # by more than float32 sums round away
        self._know(first, cast("torch.Tensor", split.half), off)
        return split.parts

    def _know(self, first: int, halves: torch.Tensor, residuals: torch.Tensor) -> None:
        part = slice(first, first + len(halves))
        self.halves[part] = halves
        self.residuals[part] = residuals + 1.001 * self.floor


@dataclass(frozen=True)
class Candidates:
    """The best rows of every row so far, by their scores in the filter."""

    keys: torch.Tensor  # [n, capacity] int64, whose bits are unsigned keys
    counts: torch.Tensor  # [n] int32
    floors: torch.Tensor  # [n] int64
    kept: int

    @classmethod
    def of(cls, n: int, k: int, kept: int, where: torch.device, function: str) -> Candidates:
        import torch

        native = gpu_module()
        most = native.MOST_CAPACITY - native.LEAST_SPARE
        if k > most:
            raise ValueError(
                f"[{function}] expected k of at most {most} on a GPU, got {k}; move the rows to the CPU for so many"
            )
        kept = min(kept, most)
        capacity = 1 << (kept + native.LEAST_SPARE - 1).bit_length()
        return cls(
            torch.empty((n, capacity), dtype=torch.int64, device=where),
            torch.zeros(n, dtype=torch.int32, device=where),
            torch.full((n,), native.NO_FLOOR, dtype=torch.int64, device=where),
            kept,
        )

    def rows_from(self, first: int) -> tuple[int, int, int, int]:
        """As the operations take them, from a row on."""
        capacity = self.keys.shape[1]
        return (
            address(self.keys) + 8 * first * capacity,
            address(self.counts) + 4 * first,
            address(self.floors) + 8 * first,
            capacity,
        )

    def best(self, part: slice) -> Candidates:
        """Those kept of some rows, best first, and what is turned away then."""
        import torch

        lowest = torch.iinfo(torch.int64).min
        counts, keys = self.counts[part], torch.zeros_like(self.keys[part])
        places = torch.arange(keys.shape[1], device=keys.device)
        ordered = self.keys[part].bitwise_xor(lowest)  # in the order of unsigned keys
        ordered = ordered.masked_fill(places >= counts[:, None], lowest).topk(self.kept, dim=1).values
        keys[:, : self.kept] = ordered.bitwise_xor(lowest)
        floors = torch.where(counts > self.kept, keys[:, self.kept - 1], self.floors[part])
        return Candidates(keys, counts.clamp(max=self.kept), floors, self.kept)

    def offer(self, products: torch.Tensor, half_i: int, half_j: int, tile: tuple, same_rows: bool) -> None:
        gpu_module().nearest(
            address(products), half_i, half_j, tile, same_rows, self.kept, self.rows_from(tile[0]), stream_of(products)
        )


@dataclass(frozen=True)
class DeviceSearch(Search):
    """A search whose rows, candidates and lists lie on a GPU."""

    @property
    def where(self) -> torch.device:
        return tensor_of(self.left.rows).device

    def traversal(
        self, rows: int, columns: int, *, symmetric: bool, kept: Iterable[PackedSide], of_a_row: int = 0
    ) -> blocks.Traversal:
        return device_grid.traversal(
            self.where, rows, columns, [self.left.rows.depth], symmetric=symmetric, block_rows=self.block_rows,
            memory=self.memory, function=self.function, matrices=self.both, beside=bytes_kept(kept), of_a_row=of_a_row,
        )  # fmt: skip

    @property
    def both(self) -> list[Rows]:
        return [self.left.rows, self.right.rows]

    @property
    def row_bytes(self) -> int:
        """And of what the fused kernels take of it: a third part, float32 before that, two parts kept, and its list."""
        fused = 16 * (self.left.rows.depth + 7) + 8 * hopper.LIST_ROOM if hopper.asked_for(self.where) else 0
        return super().row_bytes + fused

    @property
    def least_bytes(self) -> int:
        n, m = map(len, self.both)
        least = device_grid.least_bytes(n, m, [self.left.rows.depth], self.both, of_a_row=self.row_bytes)
        if hopper.asked_for(self.where):  # sides that are kept are split some rows at a time
            least += 10 * max(min(RESIDENT_ON_DEVICE // x.values.itemsize, len(x) * x.depth) for x in self.both)
        return least

    def side(self, side: Side, filter: str) -> PackedSide:
        return DeviceSide(side, filter, self.slack, self.room)

    @property
    def multiplies_bfloat16(self) -> bool:
        return True

    def ranked(
        self, left: PackedSide, right: PackedSide, own: np.ndarray, margin: int, steps: Steps
    ) -> tuple[Found, Open]:
        import torch

        n, m = len(left.side.rows), len(right.side.rows)
        kept = min(self.k + margin, m - self.symmetric)
        fused = left.filter != "float32" and (left.filter != "bfloat16" or self._fuses(kept))
        candidates = (self._fused if fused else self._tiled)(left, right, kept, steps)
        reach = Reach.of(right, self.metric)
        indices = torch.empty((n, self.k), dtype=torch.int64, device=self.where)
        exact = torch.empty((n, self.k), dtype=torch.float64, device=self.where)
        undecided = torch.empty(n, dtype=torch.uint8, device=self.where)
        unbounded = torch.zeros(1, dtype=torch.int32, device=self.where)
        self.rank(left, own, candidates, reach, (indices, exact, undecided, unbounded))
        self._require_bounded(unbounded)
        open_rows = undecided.nonzero()[:, 0]
        return Found(indices, exact.float(), left.filter, 0), Open(open_rows, exact[open_rows], reach)

    def rank(
        self, left: PackedSide, own: np.ndarray, candidates: Candidates, reach: Reach, to: tuple[torch.Tensor, ...]
    ) -> None:
        """The k best of the candidates of all rows, by float64, and whether they are proven."""
        ranking, _ranked = self.ranking(left.side, own)
        certificate, _known = self.certificate(left, reach, candidates.kept)
        gpu_module().rank_neighbours(ranking, candidates.rows_from(0), certificate, *map(address, to), stream_of(to[0]))

    def packed(self, filter: str) -> Sides:
        return (self._of_parts("bfloat16x6") if filter == "float32" else None) or self.sides(filter)

    def finer(self, packed: Sides) -> Sides:
        float32 = self.in_float32(packed)
        return self._of_parts("bfloat16x3") or float32

    def _of_parts(self, filter: str) -> Sides | None:
        """Both sides for a filter that the fused kernels alone have, where they are taken."""
        return self.sides(filter) if self._fuses(self.k + margin_of(filter, self.k)) else None

    def _fuses(self, kept: int) -> bool:
        """Whether the fused kernels are taken: they are asked for, and their lists are long enough."""
        return hopper.asked_for(self.where) and 4 * kept <= hopper.LIST_ROOM

    def _fused(self, left: PackedSide, right: PackedSide, kept: int, steps: Steps) -> Candidates:
        """Of the fused kernels: every pair once, where all lists fit; otherwise some rows at a time, among all."""
        n, m, precision = len(left.side.rows), len(right.side.rows), hopper.FILTERS[left.filter]
        if self.symmetric and left.keeps_all and hopper.lists_fit(n, self.where, self.room):
            lists = hopper.Lists.empty(n, hopper.LIST_ROOM, self.where)
            hopper.search_all_pairs(self._parts(left, 0, n), precision, kept, lists)
            return Candidates(lists.keys, lists.counts, lists.floors, kept)
        candidates = Candidates.of(n, self.k, kept, self.where, self.function)
        plan = self.traversal(n, m, symmetric=False, kept=(left, right), of_a_row=self.row_bytes)

        step = m if right.keeps_all else plan.block_rows

        def base() -> Iterator[tuple[int, hopper.Split]]:
            for first in range(0, m, step):
                yield first, self._parts(right, first, min(step, m - first))

        for span in steps.over(blocks.Traversal(n, 1, plan.block_rows, symmetric=False)):
            part = slice(span.first_i, span.first_i + span.rows_i)
            rows = self._parts(left, span.first_i, span.rows_i)
            lists = hopper.best_rows(rows, base, precision, kept, own=span.first_i if self.symmetric else None)
            candidates.keys[part, :kept] = lists.keys[:, :kept]
            candidates.counts[part], candidates.floors[part] = lists.counts, lists.floors
            del rows, lists  # before the next ones are made
        return candidates

    def _parts(self, packed: PackedSide, first: int, count: int) -> hopper.Split:
        parts = cast(DeviceSide, packed).parts(first, count)
        return replace(parts, half=None) if self.metric == "inner_product" else parts

    def promoted(self, found: Found, still_open: Open, packed: Sides) -> Open:
        """By the three products of two parts each, where the fused kernels are taken."""
        import torch

        if packed[0].filter != "bfloat16" or not len(still_open.rows):
            return still_open
        base = self.finer(packed)[1]
        if base.filter == "float32":
            return still_open
        one_sided, left_open = replace(self, symmetric=False), []
        plan = self.plan_for(still_open, base)
        for start in plan.starts_i:
            rows = still_open.rows[start : start + plan.block_rows]
            which = on_host(rows)
            few = self.side(self.left.at(which), base.filter)
            own = which if self.symmetric else np.full(len(which), -1)
            ranked, open_rows = one_sided.ranked(few, base, own, margin_of(base.filter, self.k), Steps(None))
            found.indices[rows], found.scores[rows] = ranked.indices, ranked.scores
            left_open.append(replace(open_rows, rows=rows[open_rows.rows]))
        rows, scores = (torch.cat([getattr(one, name) for one in left_open]) for name in ("rows", "scores"))
        return Open(rows, scores, left_open[0].reach)

    def _tiled(self, left: PackedSide, right: PackedSide, kept: int, steps: Steps) -> Candidates:
        """Of torch's products, a tile at a time."""
        n, m = len(left.side.rows), len(right.side.rows)
        candidates = Candidates.of(n, self.k, kept, self.where, self.function)
        turned = self._tile(n, n) if self.symmetric else None
        plan = self.traversal(n, m, symmetric=self.symmetric, kept=(left, right))
        products = self._tile(n, m)
        other = None if self.symmetric else right.block
        for i, j, span in blocks.packed_pairs(steps.over(plan), left.block, other):
            for at, half_i, half_j in self._tiles(i, j, span, products, symmetric=self.symmetric):
                candidates.offer(products, half_i, half_j, at.as_tuple(), self.symmetric)
                if turned is not None and not at.diagonal:  # the same scores serve the rows of the other side
                    turned.copy_(products.T)
                    candidates.offer(turned, half_j, half_i, at.transposed(), True)
        return candidates

    def _tile(self, n: int, m: int) -> Any:
        """float32 [rows of a tile, columns of a tile], whatever torch makes by default."""
        import torch

        return torch.empty((tile_rows(n), tile_rows(m)), dtype=torch.float32, device=self.where)

    def settle(self, found: Found, still_open: Open, packed: Sides) -> None:
        import torch

        if not len(still_open.rows):
            return
        base, reach = self.float32_base(still_open, packed)
        unbounded = torch.zeros(1, dtype=torch.int32, device=self.where)
        plan = self.plan_for(still_open, base)
        for start in plan.starts_i:
            rows = still_open.rows[start : start + plan.block_rows]
            few = self.side(self.left.at(on_host(rows)), "float32")
            block_i = few.block(0, len(rows))
            products = self._tile(len(rows), plan.columns)
            indices, exact = found.indices[rows], still_open.scores[start : start + plan.block_rows].contiguous()
            own = on_host(rows) if self.symmetric else np.full(len(rows), -1)
            ranking, _ranked = self.ranking(few.side, own)
            certificate, _known = self.certificate(few, reach, self.k)
            for first in plan.starts_j:
                span = blocks.Range(0, len(rows), first, min(plan.block_rows, plan.columns - first))
                block_j = base.block(first, span.rows_j)
                with self.scored(ranking, span) as ranked:
                    for at, half_i, half_j in self._tiles(block_i, block_j, span, products, symmetric=False):
                        gpu_module().settle_neighbours(
                            address(products), half_i, half_j, at.as_tuple(), ranked, certificate, address(indices),
                            address(exact), address(unbounded), stream_of(exact),
                        )  # fmt: skip
            found.indices[rows] = indices
            found.scores[rows] = exact.float()
        self._require_bounded(unbounded)

    def _tiles(
        self, block_i: Any, block_j: Any, span: blocks.Range, products: torch.Tensor, *, symmetric: bool
    ) -> Iterator[tuple[TileAt, int, int]]:
        """Every tile of a pair of blocks, whose products are then there, and where the halves of its sides lie."""
        (i, half_i), (j, half_j) = block_i, block_j
        distances = self.metric != "inner_product"
        for at in device_grid.tiles_of(span.as_tuple(), i.tile, j.tile, symmetric=symmetric):
            device.product_tile(i, j, at, products)
            where_i, where_j = address(half_i) + 4 * at.i, address(half_j) + 4 * at.j
            yield at, where_i if distances else 0, where_j if distances else 0

    def ranking(self, side: Side, own: np.ndarray) -> tuple[tuple, list[Any]]:
        """What is ranked, as the operations take it, and the memory that this points to."""
        x = side.rows
        norms = [None if one is None else placed(x, one) for one in (side.squared_norms, self.right.squared_norms)]
        held = [*norms, placed(x, own.astype(np.int64))]
        given = source(tensor_of(x), x.dtype), self.base_source(), self.metric
        return (*given, *map(address, held), self.k), held

    def base_source(self) -> tuple[int, str, int, int, int]:
        """The rows of the base, as the operations take them."""
        return source(tensor_of(self.right.rows), self.right.rows.dtype)

    def scored(self, ranking: tuple, span: blocks.Range) -> AbstractContextManager[tuple]:
        """The ranking, while the rows of the base in the columns of a pair of blocks are there."""
        return nullcontext(ranking)

    def certificate(self, left: PackedSide, reach: Reach, kept: int) -> tuple[tuple, list[Any]]:
        heavy = placed(left.side.rows, reach.heavy)
        given = left.filter, address(left.halves), address(left.residuals), self.unit
        bounds = reach.ratio, reach.floor, reach.longest, reach.coarsest
        return (*given, *bounds, address(heavy), len(reach.heavy), kept), [heavy]

    def _require_bounded(self, unbounded: torch.Tensor) -> None:
        if int(unbounded):
            raise ValueError("scores: expected rows whose scores float64 can hold")
