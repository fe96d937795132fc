"""HSIC sums of any kernels and their gradients from tiles of n x n matrices that are never stored."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .kernel_tiles import Block, TiledKernel
from .rows import Side
from .statistic import Inner, Mixture, Task

# Bytes of tiles and blocks held at a time: on a CPU they stay near the cores, a GPU wants few and large ones.
BUDGET = {"cpu": 64 * 2**20, "cuda": 512 * 2**20}
LEAST_ROWS = 64  # of a tile, however wide the rows


@dataclass(frozen=True)
class TileSums:
    """What the first pass leaves of K and L, each less a constant shift that no centring notices."""

    inner: Inner
    debiased: bool
    dtype: torch.dtype
    kernels: tuple[TiledKernel, TiledKernel]
    shifts: tuple[float, float]
    row_sums: Tensor  # [2, n] float64, of K - shift; debiased: without the diagonal
    tile_rows: int

    @staticmethod
    def of(sides: tuple[Side, Side], kernels: tuple[TiledKernel, TiledKernel], task: Task) -> TileSums:
        """The first pass.

        Raises
        ------
        ValueError: a sum overflows, or a matrix has a norm that rounding alone could have left.
        """
        n, device = len(sides[0]), sides[0].device
        shifts = (_mean(kernels[0], sides[0], task.tile_dtype), _mean(kernels[1], sides[1], task.tile_dtype))
        tile_rows = task.block_rows or rows_of_a_tile(sides, kernels, task.tile_dtype)
        row_sums, diagonals = torch.zeros(2, 2, n, dtype=torch.float64, device=device)
        products = torch.zeros(3, dtype=torch.float64, device=device)
        for i, j, blocks_i, blocks_j in _pairs(sides, kernels, task.tile_dtype, tile_rows):
            same = i == j
            tiles = []
            for p, (kernel, shift) in enumerate(zip(kernels, shifts, strict=True)):
                tile = kernel.tile(blocks_i[p], blocks_j[p], same=same).values.double().sub_(shift)
                if same:
                    diagonals[p, i] = tile.diagonal()
                    tile.fill_diagonal_(0)
                else:
                    row_sums[p, j] += tile.sum(0)
                row_sums[p, i] += tile.sum(1)
                tiles.append(tile.ravel())
            k, l = tiles  # noqa: E741
            products += (1 if same else 2) * torch.stack([k @ l, k @ k, l @ l])

        size = diagonals + torch.tensor(shifts, dtype=torch.float64, device=device)[:, None]
        if not task.debiased:
            a, b = diagonals
            products += torch.stack([a @ b, a @ a, b @ b])
            row_sums += diagonals
        pairs = torch.tensor([[0, 1], [0, 0], [1, 1]], device=device)
        r, s = row_sums[pairs[:, 0]], row_sums[pairs[:, 1]]
        rank = n - 2 if task.debiased else n
        pull = (n - 1) * (n - 2) if task.debiased else n * n
        xy, xx, yy = (products - 2 / rank * (r * s).sum(1) + r.sum(1) * s.sum(1) / pull).tolist()
        for side, norm, diagonal in zip(sides, (xx, yy), size, strict=True):
            _check_norm(side, norm, diagonal, task)
        inner = Inner(n, xy, xx, yy, kernels[0].scale * kernels[1].scale)
        return TileSums(inner, task.debiased, task.tile_dtype, kernels, shifts, row_sums, tile_rows)

    def gradients(
        self, sides: tuple[Side, Side], mixtures: tuple[Mixture, Mixture], needed: tuple[bool, bool]
    ) -> list[Tensor | None]:
        """With respect to the rows of the sides that need it."""
        out = [
            torch.zeros(len(side), side.depth, dtype=self.dtype, device=side.device) if need else None
            for side, need in zip(sides, needed, strict=True)
        ]
        edges = [self._edges(p, mixtures[p]) for p in range(2)]
        for i, j, blocks_i, blocks_j in _pairs(sides, self.kernels, self.dtype, self.tile_rows):
            same = i == j
            tiles = [
                kernel.tile(bi, bj, same=same) for kernel, bi, bj in zip(self.kernels, blocks_i, blocks_j, strict=True)
            ]
            for p, gradient in enumerate(out):
                if gradient is None:
                    continue
                other, own = mixtures[p]
                weights = tiles[p].values * own
                weights.add_(tiles[1 - p].values, alpha=other).sub_(edges[p][i, None]).sub_(edges[p][j])
                if same and self.debiased:
                    weights.fill_diagonal_(0)
                elif not same:
                    weights *= 2  # for (i, j) and (j, i)
                on_i, on_j = self.kernels[p].pull(weights, tiles[p], blocks_i[p], blocks_j[p])
                gradient[i] += on_i
                gradient[j] += on_j
        return [
            None if gradient is None else gradient.to(side.dtype) for side, gradient in zip(sides, out, strict=True)
        ]

    def _edges(self, p: int, mixture: Mixture) -> Tensor:
        """e [n] such that W_ij = own K_ij + other L_ij - e_i - e_j: what centring takes from the mixture."""
        n = self.inner.n
        rank, pull = (n - 2, (n - 1) * (n - 2)) if self.debiased else (n, n * n)
        edges = torch.zeros(n, dtype=torch.float64, device=self.row_sums.device)
        for q, much in zip((1 - p, p), mixture, strict=True):
            sums = self.row_sums[q]
            edges += much * (sums / rank - sums.sum() / (2 * pull) + self.shifts[q] / 2)
        return edges.to(self.dtype)


def _pairs(
    sides: tuple[Side, Side], kernels: tuple[TiledKernel, TiledKernel], dtype: torch.dtype, tile_rows: int
) -> Iterator[tuple[slice, slice, list[Block], list[Block]]]:
    """The upper triangle of tiles, with the blocks of both sides in rows i and in rows j."""
    n = len(sides[0])
    spans = [slice(first, min(first + tile_rows, n)) for first in range(0, n, tile_rows)]

    def blocks(part: slice) -> list[Block]:
        return [kernel.block(side.rows(part, dtype)) for side, kernel in zip(sides, kernels, strict=True)]

    for at, i in enumerate(spans):
        blocks_i = blocks(i)
        for j in spans[at:]:
            yield i, j, blocks_i, blocks_i if j == i else blocks(j)


def rows_of_a_tile(sides: tuple[Side, Side], kernels: tuple[TiledKernel, TiledKernel], dtype: torch.dtype) -> int:
    """As many as the budget holds, in multiples of ``LEAST_ROWS``; at least these."""
    leaves = [kernel.leaves for kernel in kernels]
    # Kernel tiles with their leaves, weights and what a leaf makes of them; two tiles in float64 for the sums.
    per_pair = dtype.itemsize * (sum(leaves) + 6) + 16
    # In rows i and in rows j: the rows, their features, and gradients on the way.
    per_row = 2 * dtype.itemsize * sum(side.depth * (one + 3) for side, one in zip(sides, leaves, strict=True))
    budget = BUDGET.get(sides[0].device.type, BUDGET["cpu"])
    rows = int((math.sqrt(per_row**2 + 4 * per_pair * budget) - per_row) / (2 * per_pair))
    return max(rows // LEAST_ROWS, 1) * LEAST_ROWS


def _mean(kernel: TiledKernel, side: Side, dtype: torch.dtype) -> float:
    """About the mean of the kernel matrix off its diagonal: a shift that keeps the streamed sums small."""
    block = kernel.block(side.a_few(dtype))
    values = kernel.tile(block, block, same=True).values.double()
    mean = float((values.sum() - values.trace()) / (len(values) * (len(values) - 1)))
    return mean if math.isfinite(mean) else 0.0


def _check_norm(side: Side, norm: float, diagonal: Tensor, task: Task) -> None:
    where = f"[{task.name}] expected {side.name} with a kernel matrix that"
    if not math.isfinite(norm):
        dtype = str(task.tile_dtype).removeprefix("torch.")
        raise ValueError(f"{where} {dtype} can hold, got overflow; pass smaller values, or {side.name}.double()")
    # Every entry errs by about the rounding of the diagonal's entries, independently.
    rounding = (2 * torch.finfo(task.tile_dtype).eps) ** 2 * float(diagonal.sum() ** 2 - diagonal.square().sum())
    if not norm > rounding:
        raise ValueError(
            f"{where} varies, got zero variance up to rounding: in the {task.estimator} form every pair of inputs "
            "looks equally alike"
        )
