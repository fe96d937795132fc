"""Exact nearest neighbours on a GPU of rows that lie with the host.

Tiles take packed rows, which are brought a block at a time. What float64 scores lies anywhere: the candidates of some
rows at a time are picked in the host's memory, each once, and brought together, about n k rows in all. A second pass
over pairs of blocks would bring n^2 / block rows, fewer only where a block holds more than a k-th of all rows, and the
candidates of a row, which are ranked together, would come one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from .. import blocks
from ..arrays import RESIDENT_ON_DEVICE, DeviceRows
from .device import on_host, placed, source, tensor_of
from .device_neighbours import Candidates, DeviceSearch
from .device_streams import StreamedRows
from .neighbours import PackedSide, Reach, Side

INDEX = 0xFFFFFFFF  # the bits of a key that hold this number minus an index


@dataclass(frozen=True)
class _AmongPicked(DeviceSearch):
    """Of rows that were picked from a base, which holds more."""

    base_rows: int = 0

    def base_source(self) -> tuple[int, str, int, int, int]:
        data, dtype, _, depth, stride = super().base_source()
        return data, dtype, self.base_rows, depth, stride


@dataclass(frozen=True)
class StreamedSearch(DeviceSearch):
    """A search whose candidates and lists lie on a GPU, and its rows, or those of the base, with the host."""

    def base_source(self) -> tuple[int, str, int, int, int]:
        base = self.right.rows
        if isinstance(base, StreamedRows):
            return 0, base.dtype, len(base), base.depth, base.depth
        return super().base_source()

    def rank(
        self, left: PackedSide, own: np.ndarray, candidates: Candidates, reach: Reach, to: tuple[torch.Tensor, ...]
    ) -> None:
        x, base = left.side.rows, self.right.rows
        picked = RESIDENT_ON_DEVICE // (base.depth * base.values.itemsize) - len(reach.heavy)
        listed = RESIDENT_ON_DEVICE // (8 * candidates.keys.shape[1])
        together = max(min(picked // (candidates.kept + 1), listed), 1)
        *lists, unbounded = to
        for start in range(0, len(x), together):
            part = slice(start, min(start + together, len(x)))
            few = copy(left)
            few.side = replace(left.side, rows=x.part(part.start, part.stop))
            if left.side.squared_norms is not None:
                few.side = replace(few.side, squared_norms=left.side.squared_norms[part])
            few.halves, few.residuals = left.halves[part], left.residuals[part]
            own_lists = *(one[part] for one in lists), unbounded
            self._rank_some(few, own[part], candidates.best(part), reach, own_lists)
            x.release(part.start, part.stop)

    def _rank_some(
        self, few: PackedSide, own: np.ndarray, best: Candidates, reach: Reach, to: tuple[torch.Tensor, ...]
    ) -> None:
        base = self.right
        if not isinstance(base.rows, StreamedRows):
            super().rank(few, own, best, reach, to)
            return
        indices = INDEX - (best.keys & INDEX)
        there = torch.arange(best.keys.shape[1], device=self.where) < best.counts[:, None]
        others = np.concatenate([reach.heavy, own[own >= 0]])
        names = torch.unique(torch.cat([indices[there], placed(base.rows, others)]))
        which = on_host(names)
        local = replace(best, keys=best.keys & ~INDEX | INDEX - torch.searchsorted(names, indices))
        own = np.where(own >= 0, np.searchsorted(which, own), -1)
        reach = replace(reach, heavy=np.searchsorted(which, reach.heavy))
        norms = None if base.squared_norms is None else base.squared_norms[which]
        with base.rows.values.picked(which) as near:
            picked = Side(DeviceRows(near, base.rows.dtype, base.rows.name), base.packer, norms)
            known = {one.name: getattr(self, one.name) for one in fields(self)}
            among = _AmongPicked(**{**known, "right": picked, "base_rows": len(base.rows)})
            among.rank(few, own, local, reach, to)
        to[0].copy_(names[to[0].clamp(0, len(names) - 1)])  # of scores that are no numbers there are none

    @contextmanager
    def scored(self, ranking: tuple, span: blocks.Range) -> Iterator[tuple]:
        base, first, stop = self.right.rows, span.first_j, span.first_j + span.rows_j
        if not isinstance(base, StreamedRows):
            yield ranking
            return
        rows = tensor_of(base.part(first, stop))
        data, dtype, _, depth, stride = source(rows, base.dtype)
        of_row_0 = (data - first * stride * rows.element_size()) % 2**64  # where it would be
        yield ranking[0], (of_row_0, dtype, len(base), depth, stride), *ranking[2:]
        base.release(first, stop)
