"""What is asked of two kernel matrices, and what its derivative is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ...kernels import Kernel
from .kernel_tiles import needs_float64

# How much of the other side's centred matrix and of one's own the derivative by the entries of a kernel matrix is.
Mixture = tuple[float, float]


@dataclass(frozen=True)
class Task:
    """``name`` "cka" or "hsic"; ``dtype``: of the result; ``block_rows``: of a tile, or None."""

    name: str
    estimator: str
    kernel: Kernel
    dtype: torch.dtype
    block_rows: int | None

    @property
    def debiased(self) -> bool:
        return self.estimator == "debiased"

    @property
    def tile_dtype(self) -> torch.dtype:
        return torch.float64 if needs_float64(self.kernel) else self.dtype


@dataclass(frozen=True)
class Inner:
    """<A, B>, <A, A>, <B, B> of the two centred matrices over n inputs; the kernels' own <A, B> is ``scale`` times."""

    n: int
    xy: float
    xx: float
    yy: float
    scale: float

    def statistic(self, task: Task) -> tuple[float, tuple[Mixture, Mixture]]:
        """The value, and the mixtures of x and of y."""
        if task.name == "cka":
            # One square root of the product: the CKA of x with itself is then 1 but for the last digit.
            norm = math.sqrt(self.xx * self.yy)
            return self.xy / norm, ((1 / norm, -self.xy / self.xx / norm), (1 / norm, -self.xy / self.yy / norm))
        unit = self.scale / (self.n * (self.n - 3) if task.debiased else (self.n - 1) ** 2)
        return self.xy * unit, ((unit, 0.0), (unit, 0.0))
