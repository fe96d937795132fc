"""Distances between all pairs of inputs."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import numpy as np

from ..arrays import Rows
from .centre import evenly_spaced, robust_centre

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

COLUMNS = 2048  # a stripe of them at a time keeps the sample small

_EPS64 = float(np.finfo(np.float64).eps)


def squared_distances(x: np.ndarray) -> np.ndarray:
    norms = (x * x).sum(axis=1)
    squared = x @ x.T
    squared *= -2
    squared += norms
    squared += norms[:, None]
    return squared


def median_distance(rows: Rows, *, sample: int, function: str, threads: int) -> float:
    """Median Euclidean distance over the pairs i < j of at most ``sample`` evenly spaced rows.

    Raises
    ------
    ValueError: the median is zero, because most rows are equal.
    """
    c = robust_centre(rows, function=function, threads=threads)
    picked = evenly_spaced(len(rows), sample)
    norms = c.squared_norms[picked]
    squared = np.zeros((len(norms), len(norms)))
    with blas().limit(limits=threads, user_api="blas"):
        for start in range(0, rows.depth, COLUMNS):
            columns = slice(start, start + COLUMNS)
            part = rows.wide(picked, columns) - c.middle[columns]
            squared -= part @ part.T
    squared *= 2
    squared += norms
    squared += norms[:, None]
    squared[squared <= 8 * _EPS64 * (norms + norms[:, None])] = 0.0  # equal rows
    np.fill_diagonal(squared, np.inf)
    # Every distance stands twice, the infinite diagonal behind all of them: order statistics of pairs are every other
    # one.
    pairs = len(norms) * (len(norms) - 1) // 2
    ordered = squared.ravel()
    ordered.partition(2 * (pairs // 2))
    high = ordered[2 * (pairs // 2)]
    low = high if pairs % 2 else ordered[: 2 * (pairs // 2)].max()
    if not low > 0:
        raise ValueError(
            f"[{function}] expected {rows.name} whose median distance is positive, got zero; pass RBF(sigma=...)"
        )
    return (math.sqrt(low) + math.sqrt(high)) / 2


@functools.lru_cache(maxsize=1)
def blas() -> ThreadpoolController:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
