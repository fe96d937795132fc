"""A kernel of one representation as a weighted sum of products of leaves, tile by tile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...kernels import Bandwidth, Cosine, Kernel, LaplacianL1, LaplacianL2, Linear, Polynomial
from ...kernels import Leaf as KernelLeaf
from .leaves import CosineLeaf, LaplacianL1Leaf, LaplacianL2Leaf, Leaf, LinearLeaf, PolynomialLeaf, RBFLeaf
from .rows import Place, Side, median, parts

_OF_DISTANCES = {LaplacianL1: LaplacianL1Leaf, LaplacianL2: LaplacianL2Leaf}


@dataclass(frozen=True)
class Block:
    """Some rows, and their features for every leaf of every term."""

    rows: Tensor
    features: list[list[Tensor]]


@dataclass(frozen=True)
class Tile:
    values: Tensor  # [I, J]: the kernel
    leaves: list[list[Tensor]]  # [I, J] each; a leaf on its own is ``values``
    same: bool


@dataclass(frozen=True)
class TiledKernel:
    """One representation's kernel over ``scale``, up to what each row adds to all its entries."""

    terms: Sequence[tuple[float, Sequence[Leaf]]]
    scale: float = 1.0

    @property
    def leaves(self) -> int:
        return sum(len(leaves) for _, leaves in self.terms)

    @property
    def alone(self) -> bool:
        """One leaf, and nothing done to it."""
        return self.leaves == 1 and self.terms[0][0] == 1

    def block(self, rows: Tensor) -> Block:
        return Block(rows, [[leaf.features(rows) for leaf in leaves] for _, leaves in self.terms])

    def tile(self, i: Block, j: Block, *, same: bool) -> Tile:
        values = [
            [leaf.values(fi, fj, same=same) for leaf, fi, fj in zip(leaves, ours, theirs, strict=True)]
            for (_, leaves), ours, theirs in zip(self.terms, i.features, j.features, strict=True)
        ]
        if self.alone:
            return Tile(values[0][0], values, same)
        total = torch.zeros_like(values[0][0])
        for (weight, _), (first, *others) in zip(self.terms, values, strict=True):
            total += _product(first * weight, others)
        return Tile(total, values, same)

    def pull(self, weights: Tensor, tile: Tile, i: Block, j: Block) -> tuple[Tensor, Tensor]:
        """Gradients of sum(weights * tile) by the rows of both blocks; may overwrite the weights."""
        on_i, on_j = torch.zeros_like(i.rows), torch.zeros_like(j.rows)
        for (weight, leaves), values, ours, theirs in zip(self.terms, tile.leaves, i.features, j.features, strict=True):
            for at, (leaf, fi, fj) in enumerate(zip(leaves, ours, theirs, strict=True)):
                own = weights if self.alone else _product(weights * weight, [*values[:at], *values[at + 1 :]])
                gi, gj = leaf.pull(own, values[at], fi, fj, same=tile.same)
                on_i += leaf.back(gi, i.rows)
                on_j += leaf.back(gj, j.rows)
        return on_i, on_j


def _product(first: Tensor, others: Sequence[Tensor]) -> Tensor:
    """Into ``first``."""
    for other in others:
        first *= other
    return first


def tiled(kernel: Kernel, side: Side, place: Place, function: str) -> TiledKernel:
    """The kernel, whose bandwidths are numbers, over the rows of one side.

    Raises
    ------
    ValueError: rows of zeros under the cosine.
    """
    terms = kernel.terms()
    if len(terms) == 1 and len(terms[0][1]) == 1:
        ((weight, (leaf,)),) = terms
        # Of rows of a length of at most one the tiles of products stay in range.
        unit = place.unit if isinstance(leaf, Linear) else 1.0
        return TiledKernel([(1.0, [_leaf(leaf, side, place, function, alone=True, unit=unit)])], weight * unit**-2)
    return TiledKernel(
        [
            (weight, [_leaf(leaf, side, place, function, alone=len(leaves) == 1) for leaf in leaves])
            for weight, leaves in terms
        ]
    )


def _leaf(leaf: KernelLeaf, side: Side, place: Place, function: str, *, alone: bool, unit: float = 1.0) -> Leaf:
    """``alone``: a term of its own, so that products may be taken about a middle."""
    if isinstance(leaf, Bandwidth):
        return _OF_DISTANCES.get(type(leaf), RBFLeaf)(place.middle, 1 / leaf.width)
    if isinstance(leaf, Polynomial):
        return PolynomialLeaf(degree=leaf.degree, constant=leaf.constant, scale=leaf.scale)
    if isinstance(leaf, Cosine):
        middle = _middle_direction(side, function)
        return CosineLeaf(middle if alone else None)
    return LinearLeaf(place.middle if alone else None, unit)


def _middle_direction(side: Side, function: str) -> Tensor:
    """[d] near the middle of the unit rows, where one far row does not move it."""
    few = side.a_few(torch.float64)
    middle = median(few / few.norm(dim=1, keepdim=True))
    furthest = 0.0
    for part in parts((side,)):
        rows = side.rows(part, torch.float64)
        lengths = rows.norm(dim=1, keepdim=True)
        if not lengths.min() > 0:
            raise ValueError(
                f"[{function}] expected {side.name} with non-zero rows for the cosine kernel, "
                f"got zero norm in row {part.start + int(lengths.argmin())}"
            )
        furthest = max(furthest, float((rows / lengths - middle).norm(dim=1).max()))
    if not furthest > 16 * torch.finfo(torch.float64).eps:  # the rounding of a unit row
        raise ValueError(
            f"[{function}] expected {side.name} whose directions differ, got zero variance "
            f"(all {len(side)} rows point one way)"
        )
    return middle


def needs_float64(kernel: Kernel) -> bool:
    """Whether float32 tiles would lose more than their own rounding.

    Products that are no term of their own are taken of rows where they lie, be it far from the origin; a root of a
    squared distance keeps half the digits.
    """
    return any(
        isinstance(leaf, (Polynomial, LaplacianL2)) or (len(leaves) > 1 and isinstance(leaf, (Linear, Cosine)))
        for _, leaves in kernel.terms()
        for leaf in leaves
    )


def only_linear(kernel: Kernel) -> float | None:
    """w of a kernel that is w x . x', or None."""
    terms = kernel.terms()
    if len(terms) == 1 and len(terms[0][1]) == 1 and isinstance(terms[0][1][0], Linear):
        return terms[0][0]
    return None
