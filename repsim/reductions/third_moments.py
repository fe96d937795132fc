"""Third-order sums of centred kernel matrices, from a few inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..arrays import Rows, found_once
from ..kernels import Kernel
from .centre import a_few


@dataclass(frozen=True)
class ThirdMoments:
    """Of the U-centred kernel matrix A of n inputs: tr(A^3) and sum_ij A_ij^3, over (sum_ij A_ij^2)^(3/2)."""

    triangles: float
    cubes: float


@found_once
def third_moments(rows: Rows, kernel: Kernel) -> ThirdMoments:
    """Exact for up to 255 inputs; for more from 255 evenly spaced ones, scaled by the number of pairs and triples.

    ``kernel``: its bandwidths are numbers. O(255^2) memory.
    """
    return moments_of_sample(a_few(rows), len(rows), kernel)


def moments_of_sample(sample: np.ndarray, n: int, kernel: Kernel) -> ThirdMoments:
    """The same from evenly spaced rows [m, d] of n."""
    m = len(sample)
    if m < 4:
        return ThirdMoments(math.nan, math.nan)
    centred = u_centred(kernel.gram(sample))
    largest = float(np.abs(centred).max())
    if not largest > 0:
        return ThirdMoments(math.nan, math.nan)
    centred /= largest
    squares = float(np.vdot(centred, centred))
    size = squares**1.5
    pairs = n * (n - 1) / (m * (m - 1))
    triples = pairs * (n - 2) / (m - 2)
    triangles = float(np.einsum("ij,ji->", centred @ centred, centred)) / size
    cubes = float((centred**3).sum()) / size
    return ThirdMoments(triangles * triples / pairs**1.5, cubes * pairs / pairs**1.5)


def u_centred(kernel: np.ndarray) -> np.ndarray:
    """A kernel matrix [m, m], m at least 4, with a zero diagonal and rows that sum to 0 (Szekely and Rizzo 2014)."""
    m = len(kernel)
    off = kernel.copy()
    np.fill_diagonal(off, 0.0)
    off -= off.sum() / (m * (m - 1))  # a constant is centred away: the sums below keep its digits
    np.fill_diagonal(off, 0.0)
    rows = off.sum(axis=1)
    off -= (rows[:, None] + rows) / (m - 2) - rows.sum() / ((m - 1) * (m - 2))
    np.fill_diagonal(off, 0.0)
    return off
