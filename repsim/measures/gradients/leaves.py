"""Tiles of kernel matrices in torch and what they pull back to the rows: one class per kernel.

A kernel is written in features of the rows: the rows moved and scaled, or made unit. ``values`` makes a tile from the
features of two blocks; ``pull`` takes the weight of every entry back to the features (the vector-Jacobian product of
``values``); ``back`` takes that to the rows. No method keeps a graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...arrays import as_rows
from ..cka import RBF, Kernel, Linear
from .rows import Place, Side
from .statistic import Task


@dataclass(frozen=True)
class Leaf:
    """A kernel of features = (row - middle) * unit; ``middle`` None: of the rows where they lie."""

    middle: Tensor | None = None  # [d]
    unit: float = 1.0

    def features(self, rows: Tensor) -> Tensor:
        """[r, d] of rows [r, d]."""
        moved = rows if self.middle is None else rows - self.middle
        return moved if self.unit == 1 else moved * self.unit

    def back(self, gradient: Tensor, rows: Tensor, features: Tensor) -> Tensor:
        """Gradient with respect to the rows, from that with respect to the features."""
        return gradient if self.unit == 1 else gradient * self.unit

    def values(self, fi: Tensor, fj: Tensor, *, same: bool) -> Tensor:
        """[I, J], newly made; ``same``: the two blocks are the same rows."""
        raise NotImplementedError

    def pull(self, weights: Tensor, values: Tensor, fi: Tensor, fj: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of sum(weights * values) with respect to both features; may overwrite the weights."""
        raise NotImplementedError


class LinearLeaf(Leaf):
    """f_i . f_j"""

    def values(self, fi: Tensor, fj: Tensor, *, same: bool) -> Tensor:
        return fi @ fj.T

    def pull(self, weights: Tensor, values: Tensor, fi: Tensor, fj: Tensor) -> tuple[Tensor, Tensor]:
        return weights @ fj, weights.T @ fi


class RBFLeaf(Leaf):
    """exp(-|f_i - f_j|^2 / 2), the rows in units of sigma about a middle, where their products are small."""

    def values(self, fi: Tensor, fj: Tensor, *, same: bool) -> Tensor:
        exponents = fi @ fj.T
        exponents -= ((fi * fi).sum(1) / 2)[:, None]
        exponents -= (fj * fj).sum(1) / 2
        return exponents.clamp_(max=0).exp_()

    def pull(self, weights: Tensor, values: Tensor, fi: Tensor, fj: Tensor) -> tuple[Tensor, Tensor]:
        return along_differences(weights.mul_(values), fi, fj)


def along_differences(p: Tensor, fi: Tensor, fj: Tensor) -> tuple[Tensor, Tensor]:
    """sum_j p_ij (f_j - f_i) [I, d] and sum_i p_ij (f_i - f_j) [J, d]."""
    return p @ fj - p.sum(1)[:, None] * fi, p.T @ fi - p.sum(0)[:, None] * fj


@dataclass(frozen=True)
class Block:
    """Some rows, and their features for every leaf of every term."""

    rows: Tensor
    features: list[list[Tensor]]


@dataclass(frozen=True)
class Tile:
    values: Tensor  # [I, J]: the kernel
    leaves: list[list[Tensor]]  # [I, J] each; where there is one leaf it is ``values``
    same: bool


@dataclass(frozen=True)
class TiledKernel:
    """One representation's kernel, a weighted sum of products of leaves, divided by ``scale``."""

    terms: Sequence[tuple[float, Sequence[Leaf]]]
    scale: float = 1.0

    @property
    def leaves(self) -> int:
        return sum(len(leaves) for _, leaves in self.terms)

    def block(self, rows: Tensor) -> Block:
        return Block(rows, [[leaf.features(rows) for leaf in leaves] for _, leaves in self.terms])

    def tile(self, i: Block, j: Block, *, same: bool) -> Tile:
        parts = [
            [leaf.values(fi, fj, same=same) for leaf, fi, fj in zip(leaves, ours, theirs, strict=True)]
            for (_, leaves), ours, theirs in zip(self.terms, i.features, j.features, strict=True)
        ]
        if self.leaves == 1 and self.terms[0][0] == 1:
            return Tile(parts[0][0], parts, same)
        total = torch.zeros_like(parts[0][0])
        for (weight, _), values in zip(self.terms, parts, strict=True):
            total += _product(values, weight)
        return Tile(total, parts, same)

    def pull(self, weights: Tensor, tile: Tile, i: Block, j: Block) -> tuple[Tensor, Tensor]:
        """Gradients of sum(weights * tile) with respect to the rows of both blocks; may overwrite the weights."""
        gi, gj = torch.zeros_like(i.rows), torch.zeros_like(j.rows)
        for (weight, leaves), values, ours, theirs in zip(self.terms, tile.leaves, i.features, j.features, strict=True):
            for at, (leaf, fi, fj) in enumerate(zip(leaves, ours, theirs, strict=True)):
                others = [*values[:at], *values[at + 1 :]]
                own = weights if self.leaves == 1 else weights.clone()
                for other in others:
                    own *= other
                if weight != 1:
                    own *= weight
                on_i, on_j = leaf.pull(own, values[at], fi, fj)
                gi += leaf.back(on_i, i.rows, fi)
                gj += leaf.back(on_j, j.rows, fj)
        return gi, gj


def _product(values: Sequence[Tensor], weight: float) -> Tensor:
    product = values[0] * weight
    for other in values[1:]:
        product *= other
    return product


def tiled_kernel(kernel: Kernel, side: Side, place: Place, task: Task) -> TiledKernel:
    """The kernel over the rows of one side.

    A linear kernel on its own is taken of rows about their middle, of a length of at most one, so that its tiles stay
    in range; distances are taken about the middle, where the products that make them are small.
    """
    middle = place.middle.to(task.dtype)
    if isinstance(kernel, RBF):
        return TiledKernel([(1.0, [RBFLeaf(middle, 1 / _bandwidth(kernel, side, task))])])
    return TiledKernel([(1.0, [LinearLeaf(middle, place.unit)])], scale=place.unit**-2)


def _bandwidth(kernel: RBF, side: Side, task: Task) -> float:
    if kernel.sigma is not None:
        return float(kernel.sigma)
    values = side.values.detach() if isinstance(side.values, Tensor) else side.values
    if side.device.type != "cpu":
        raise ValueError(
            f"[{task.name}] expected kernel with sigma as a number for tensors on {side.device}, got {kernel}"
        )
    rows = as_rows(values, function=task.name, name=side.name)
    return kernel.bandwidth(rows, function=task.name, threads=torch.get_num_threads())


def is_linear(kernel: Kernel) -> bool:
    return isinstance(kernel, Linear)
