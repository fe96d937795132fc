"""HSIC sums of linear kernels and their gradients from products of features, in float64."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .rows import Place, Side, parts
from .statistic import Inner, Mixture, Task


@dataclass(frozen=True)
class FeatureSums:
    """What one pass leaves of rows x_i, y_i about their means and times their units, with a_i = |x_i|^2, b_i = |y_i|^2.

    <A, B> = |X'Y|^2, and debiased |X'Y|^2 - n/(n-2) sum a_i b_i + sum a sum b / ((n-1)(n-2)).
    """

    inner: Inner
    debiased: bool
    places: tuple[Place, Place]
    products: list[list[Tensor]]  # [p][q]: P'Q of sides p and q
    totals: Tensor  # [2]: sum a, sum b
    leaning: list[list[Tensor]]  # [p][q], [d]: the rows of side p, summed with the squared norms of side q as weights

    @staticmethod
    def of(sides: tuple[Side, Side], places: tuple[Place, Place], weight: float, task: Task) -> FeatureSums:
        """Of the kernel weight x . x'."""
        n = len(sides[0])
        wide: dict[str, Any] = {"dtype": torch.float64, "device": sides[0].device}
        x, y = (side.depth for side in sides)
        xx, xy, yy = torch.zeros(x, x, **wide), torch.zeros(x, y, **wide), torch.zeros(y, y, **wide)
        totals, dots = torch.zeros(2, **wide), torch.zeros(2, 2, **wide)
        leaning = [[torch.zeros(side.depth, **wide) for _ in sides] for side in sides]
        for part in parts(sides):
            blocks = _about_means(sides, places, part)
            xx.addmm_(blocks[0].T, blocks[0])
            xy.addmm_(blocks[0].T, blocks[1])
            yy.addmm_(blocks[1].T, blocks[1])
            norms = torch.stack([block.square().sum(1) for block in blocks])
            totals += norms.sum(1)
            dots += norms @ norms.T
            for block, sums in zip(blocks, leaning, strict=True):
                for one, weights in zip(sums, norms, strict=True):
                    one += weights @ block

        def inner(product: Tensor, p: int, q: int) -> float:
            square = float(product.square().sum())
            if not task.debiased:
                return square
            return square - n / (n - 2) * float(dots[p, q]) + float(totals[p] * totals[q]) / ((n - 1) * (n - 2))

        units = places[0].unit * places[1].unit
        return FeatureSums(
            Inner(n, inner(xy, 0, 1), inner(xx, 0, 0), inner(yy, 1, 1), weight**2 / (units * units)),
            task.debiased,
            places,
            [[xx, xy], [xy.T, yy]],
            totals,
            leaning,
        )

    def keeps_digits(self) -> bool:
        """Whether the debiased norms are more than a millionth left of the difference that they are."""
        squares = [float(self.products[p][p].square().sum()) for p in range(2)]
        return not self.debiased or (self.inner.xx > 1e-6 * squares[0] and self.inner.yy > 1e-6 * squares[1])

    def gradients(
        self, sides: tuple[Side, Side], mixtures: tuple[Mixture, Mixture], needed: tuple[bool, bool]
    ) -> list[Tensor | None]:
        """With respect to the rows of the sides that need it.

        d<A, B> / dx_i = 2 X'Y y_i, and debiased 2 (sum b / ((n-1)(n-2)) - n/(n-2) b_i) x_i more, less the mean over i:
        the rows are about their mean.
        """
        n = self.inner.n
        out = [
            torch.empty_like(side.values) if need and isinstance(side.values, Tensor) else None
            for side, need in zip(sides, needed, strict=True)
        ]
        for part in parts(sides):
            blocks = _about_means(sides, self.places, part)
            for p, gradient in enumerate(out):
                if gradient is None:
                    continue
                rows = torch.zeros_like(blocks[p])
                for q, much in zip((1 - p, p), mixtures[p], strict=True):
                    rows.addmm_(blocks[q], self.products[p][q].T, alpha=2 * much)
                    if self.debiased:
                        along = self.totals[q] / ((n - 1) * (n - 2)) - n / (n - 2) * blocks[q].square().sum(1)
                        rows += 2 * much * (along[:, None] * blocks[p] + self.leaning[p][q] / (n - 2))
                gradient[part] = rows * self.places[p].unit
        return out


def _about_means(sides: tuple[Side, Side], places: tuple[Place, Place], part: slice) -> list[Tensor]:
    """[r, d] and [r, d'] float64."""
    return [
        (side.rows(part, torch.float64) - place.mean) * place.unit for side, place in zip(sides, places, strict=True)
    ]
