"""What a similarity would be by chance: exact moments over all relabellings of the inputs, and permutation p-values."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Null:
    """Mean and standard deviation of a statistic when the inputs of one side are relabelled at random."""

    mean: float
    sd: float

    def z(self, value: float) -> float:
        """How many standard deviations ``value`` lies above chance; NaN where chance does not vary."""
        return (value - self.mean) / self.sd if self.sd > 0 else math.nan


def normal_p(z: float) -> float:
    """One-sided p-value of z under the normal distribution."""
    return 0.5 * math.erfc(z / math.sqrt(2)) if not math.isnan(z) else math.nan


def add_one_p(value: float, null: np.ndarray) -> float:
    """One-sided permutation p-value (1 + number of null values >= value) / (1 + permutations)."""
    return float((1 + np.count_nonzero(null >= value)) / (1 + len(null)))


def trace_product_moments(
    n: int, trace_a: float, norm_a: float, squares_a: float, trace_b: float, norm_b: float, squares_b: float
) -> Null:
    """Exact mean and sd of tr(A P B P') over all n! permutation matrices P, for centred symmetric A and B (rows sum to 0).

    Parameters: n inputs (at least 4), and of each matrix its trace, squared Frobenius norm, and sum of squared diagonal entries.
    From Kazi-Aoual, Hitier, Sabatier and Lebreton (1995), "Refined approximations to permutation tests for multivariate inference".
    """
    mean = trace_a * trace_b / (n - 1)
    first = 2 * ((n - 1) * norm_a - trace_a**2) * ((n - 1) * norm_b - trace_b**2) / ((n - 1) ** 2 * (n + 1) * (n - 2))
    spread_a = n * (n + 1) * squares_a - (n - 1) * (trace_a**2 + 2 * norm_a)
    spread_b = n * (n + 1) * squares_b - (n - 1) * (trace_b**2 + 2 * norm_b)
    variance = first + spread_a * spread_b / ((n + 1) * n * (n - 1) * (n - 2) * (n - 3))
    # The two terms can cancel to a rounding error below zero where every relabelling gives one value.
    return Null(mean, math.sqrt(variance) if variance > 0 else 0.0)


def shared_edges_moments(first: np.ndarray, second: np.ndarray) -> Null:
    """Exact mean and sd of the number of directed edges two neighbour graphs share when one is relabelled at random.

    Parameters: the neighbour lists [n, k] and [n, k'] of two graphs without self-loops, n at least 4. O(n k log n).
    The second moment is a sum over the ways in which two edges can touch, after Mantel (1967), "The detection of disease clustering".
    """
    n = len(first)
    a, b = _edge_patterns(first), _edge_patterns(second)
    pairs, triples = n * (n - 1), n * (n - 1) * (n - 2)
    falling = np.array([pairs, pairs, triples, triples, triples, triples, triples * (n - 3)], np.float64)
    mean = first.size * second.size / pairs
    variance = float((a * b / falling).sum()) - mean**2
    return Null(mean, math.sqrt(variance) if variance > 0 else 0.0)


def _edge_patterns(lists: np.ndarray) -> np.ndarray:
    """Ordered pairs of edges by how they touch: equal, reversed, same source, same target, chained (twice), disjoint."""
    n, k = lists.shape
    out = float(k)
    sources = np.repeat(np.arange(n), k)
    targets = lists.ravel()
    incoming = np.bincount(targets, minlength=n).astype(np.float64)
    edges = np.sort(sources * n + targets)
    mutual = float(np.isin(targets * n + sources, edges, assume_unique=True).sum())
    total = float(n * k)
    same_source = n * out**2 - total
    same_target = float((incoming**2).sum()) - total
    chained = float((incoming * out).sum()) - mutual
    disjoint = total**2 - total - mutual - same_source - same_target - 2 * chained
    return np.array([total, mutual, same_source, same_target, chained, chained, disjoint])
