"""Tiles of kernel matrices in torch and what they pull back to the rows: one class per kernel.

A kernel is written in features of the rows: the rows moved and scaled, or made unit. ``values`` makes a tile from the
features of two blocks; ``pull`` takes the weight of every entry back to the features (the vector-Jacobian product of
``values``); ``back`` takes that to the rows. No method keeps a graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Leaf:
    """f_i . f_j of features f = (row - middle) * unit; ``middle`` None: of the rows where they lie."""

    middle: Tensor | None = None  # [d] float64
    unit: float = 1.0

    def features(self, rows: Tensor) -> Tensor:
        """[r, d] of rows [r, d]."""
        moved = rows if self.middle is None else rows - self.middle.to(rows.dtype)
        return moved if self.unit == 1 else moved * self.unit

    def back(self, gradient: Tensor, rows: Tensor) -> Tensor:
        """Gradient by the rows, from that by their features."""
        return gradient if self.unit == 1 else gradient * self.unit

    def values(self, fi: Tensor, fj: Tensor, *, same: bool) -> Tensor:
        """[I, J], newly made; ``same``: the two blocks are the same rows."""
        return fi @ fj.T

    def pull(self, weights: Tensor, values: Tensor, fi: Tensor, fj: Tensor, *, same: bool) -> tuple[Tensor, Tensor]:
        """Gradients of sum(weights * values) by the features [I, d] and [J, d]; may overwrite the weights."""
        return weights @ fj, weights.T @ fi


class LinearLeaf(Leaf):
    """x . x', up to what each row adds to all its entries where there is a middle."""


class CosineLeaf(Leaf):
    """x . x' / (|x| |x'|) likewise. Unit rows in a narrow cone are told apart in float64."""

    def features(self, rows: Tensor) -> Tensor:
        wide = rows.double()
        unit = wide / wide.norm(dim=1, keepdim=True)
        return (unit if self.middle is None else unit - self.middle).to(rows.dtype)

    def back(self, gradient: Tensor, rows: Tensor) -> Tensor:
        norms = rows.double().norm(dim=1, keepdim=True).to(rows.dtype)
        unit = rows / norms
        return (gradient - (gradient * unit).sum(1, keepdim=True) * unit) / norms


@dataclass(frozen=True)
class PolynomialLeaf(Leaf):
    """(scale x . x' + constant)^degree"""

    degree: int = 1
    constant: float = 0.0
    scale: float = 1.0

    def _base(self, fi: Tensor, fj: Tensor) -> Tensor:
        return (fi @ fj.T).mul_(self.scale).add_(self.constant)

    def values(self, fi: Tensor, fj: Tensor, *, same: bool) -> Tensor:
        return self._base(fi, fj).pow_(self.degree)

    def pull(self, weights: Tensor, values: Tensor, fi: Tensor, fj: Tensor, *, same: bool) -> tuple[Tensor, Tensor]:
        weights *= self._base(fi, fj).pow_(self.degree - 1).mul_(self.degree * self.scale)
        return weights @ fj, weights.T @ fi


class RBFLeaf(Leaf):
    """exp(-|f_i - f_j|^2 / 2), the unit being 1 / sigma; about a middle the products that make distances are small."""

    def values(self, fi: Tensor, fj: Tensor, *, same: bool) -> Tensor:
        return squared_distances(fi, fj).mul_(-0.5).exp_()

    def pull(self, weights: Tensor, values: Tensor, fi: Tensor, fj: Tensor, *, same: bool) -> tuple[Tensor, Tensor]:
        return _along_differences(weights.mul_(values), fi, fj)


class LaplacianL2Leaf(Leaf):
    """exp(-|f_i - f_j|), the unit being 1 / sigma. Where two rows are equal the gradient is that of their middle: 0.

    Takes float64 alone: where rows lie close together, the root leaves half the digits of a squared distance.
    """

    def values(self, fi: Tensor, fj: Tensor, *, same: bool) -> Tensor:
        return self._distances(fi, fj, same).neg_().exp_()

    def pull(self, weights: Tensor, values: Tensor, fi: Tensor, fj: Tensor, *, same: bool) -> tuple[Tensor, Tensor]:
        distances = self._distances(fi, fj, same)
        weights.mul_(values).div_(distances).masked_fill_(distances == 0, 0.0)
        return _along_differences(weights, fi, fj)

    @staticmethod
    def _distances(fi: Tensor, fj: Tensor, same: bool) -> Tensor:
        squared = squared_distances(fi, fj)
        norms = (fi * fi).sum(1)[:, None] + (fj * fj).sum(1)
        squared.masked_fill_(squared <= 8 * torch.finfo(squared.dtype).eps * norms, 0.0)  # equal rows
        if same:
            squared.fill_diagonal_(0.0)
        return squared.sqrt_()


class LaplacianL1Leaf(Leaf):
    """exp(-|x - x'|_1 unit), the unit being 1 / sigma; a difference of 0 has gradient 0."""

    def features(self, rows: Tensor) -> Tensor:
        return rows

    def back(self, gradient: Tensor, rows: Tensor) -> Tensor:
        return gradient

    def values(self, fi: Tensor, fj: Tensor, *, same: bool) -> Tensor:
        return torch.cdist(fi, fj, p=1).mul_(-self.unit).exp_()

    def pull(self, weights: Tensor, values: Tensor, fi: Tensor, fj: Tensor, *, same: bool) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            fi, fj = fi.detach().requires_grad_(), fj.detach().requires_grad_()
            distances = torch.cdist(fi, fj, p=1)
        on_i, on_j = torch.autograd.grad(distances, (fi, fj), weights.mul_(values).mul_(-self.unit))
        return on_i, on_j


def squared_distances(fi: Tensor, fj: Tensor) -> Tensor:
    """[I, J] |f_i - f_j|^2, at least 0."""
    squared = (fi @ fj.T).mul_(-2)
    squared += (fi * fi).sum(1)[:, None]
    squared += (fj * fj).sum(1)
    return squared.clamp_(min=0)


def _along_differences(p: Tensor, fi: Tensor, fj: Tensor) -> tuple[Tensor, Tensor]:
    """sum_j p_ij (f_j - f_i) [I, d] and sum_i p_ij (f_i - f_j) [J, d]."""
    return p @ fj - p.sum(1)[:, None] * fi, p.T @ fi - p.sum(0)[:, None] * fj
