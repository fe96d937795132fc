"""What a similarity would be by chance: exact moments over all relabellings of the inputs, and permutation p-values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

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
    """Exact mean and sd of tr(A P B P') over all n! permutations P, for centred symmetric A and B (rows sum to 0).

    Parameters: n inputs (at least 4), and of each matrix its trace, squared Frobenius norm, and sum of squared diagonal
    entries. From Kazi-Aoual, Hitier, Sabatier and Lebreton (1995), "Refined approximations to permutation tests for
    multivariate inference".
    """
    mean = trace_a * trace_b / (n - 1)
    vary_a = _beyond_rounding((n - 1) * norm_a - trace_a**2, (n - 1) * norm_a)
    vary_b = _beyond_rounding((n - 1) * norm_b - trace_b**2, (n - 1) * norm_b)
    if vary_a == 0 or vary_b == 0:  # A or B is a multiple of the centring matrix, which no relabelling changes
        return Null(mean, 0.0)
    first = 2 * vary_a * vary_b / ((n - 1) ** 2 * (n + 1) * (n - 2))
    spread_a = n * (n + 1) * squares_a - (n - 1) * (trace_a**2 + 2 * norm_a)
    spread_b = n * (n + 1) * squares_b - (n - 1) * (trace_b**2 + 2 * norm_b)
    variance = first + spread_a * spread_b / ((n + 1) * n * (n - 1) * (n - 2) * (n - 3))
    return Null(mean, math.sqrt(_beyond_rounding(variance, first)))


def _beyond_rounding(difference: float, scale: float) -> float:
    """A difference, by nature not negative, of numbers of size ``scale``: 0 where only their rounding is left."""
    return difference if difference > 1e-12 * scale else 0.0


def shared_edges_moments(n: int, first: Sequence[int], second: Sequence[int]) -> Null:
    """Exact mean and sd of the number of directed edges two neighbour graphs share when one is relabelled at random.

    Parameters: n inputs (at least 2), and the :func:`edge_patterns` of each graph. The second moment is a sum over the
    ways in which two edges can touch, after Mantel (1967), "The detection of disease clustering"; rational arithmetic
    keeps what the difference of two nearly equal numbers leaves.
    """
    pairs, triples = n * (n - 1), n * (n - 1) * (n - 2)
    falling = (pairs, pairs, triples, triples, triples, triples, triples * (n - 3))
    mean = Fraction(first[0] * second[0], pairs)
    square = sum(Fraction(a * b, ways) for a, b, ways in zip(first, second, falling, strict=True) if a * b)
    return Null(float(mean), math.sqrt(square - mean**2))


def edge_patterns(lists: np.ndarray) -> tuple[int, ...]:
    """Ordered pairs of edges of the neighbour lists [n, k] by how they touch. O(n k log n).

    Equal, reversed, same source, same target, chained (twice), disjoint; no list names its own row.
    """
    n, k = lists.shape
    sources = np.repeat(np.arange(n), k)
    targets = lists.ravel()
    incoming = np.bincount(targets, minlength=n)
    total = n * k
    mutual = int(np.isin(targets * n + sources, sources * n + targets, assume_unique=True).sum())
    same_source = n * k**2 - total
    same_target = int((incoming**2).sum()) - total
    chained = int(incoming.sum()) * k - mutual
    disjoint = total**2 - total - mutual - same_source - same_target - 2 * chained
    return (total, mutual, same_source, same_target, chained, chained, disjoint)
