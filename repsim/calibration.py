"""What a similarity would be by chance: exact moments over all relabellings of the inputs, and permutation p-values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np


@dataclass(frozen=True)
class Null:
    """Mean, standard deviation and skewness of a statistic when the inputs of one side are relabelled at random.

    The law between them is Pearson's third: a shifted gamma, or the normal where the skewness is 0 or not known.
    """

    mean: float
    sd: float
    skewness: float = 0.0

    def z(self, value: float) -> float:
        """How many standard deviations ``value`` lies above chance; NaN where chance does not vary."""
        return (value - self.mean) / self.sd if self.sd > 0 else math.nan

    def p(self, value: float) -> float:
        """One-sided p-value of ``value``; NaN where chance does not vary."""
        z = self.z(value)
        if math.isnan(z):
            return math.nan
        if not abs(self.skewness) > NEARLY_NORMAL:
            return _nearly_normal_p(z, 0.0 if math.isnan(self.skewness) else self.skewness)
        from scipy.special import gammainc, gammaincc

        # With shape a = 4 / skewness^2, a + z sqrt(a) has the gamma law, from the left or from the right.
        shape = 4 / self.skewness**2
        at = max(shape + math.copysign(math.sqrt(shape), self.skewness) * z, 0.0)
        return float(gammaincc(shape, at) if self.skewness > 0 else gammainc(shape, at))

    def quantile(self, q: float) -> float:
        """The value that a share ``q`` of the relabellings lie below."""
        if not abs(self.skewness) > LEAST_SKEWNESS:
            from scipy.special import ndtri

            z = float(ndtri(q))  # and the first step of Cornish and Fisher's expansion from there
            return self.mean + self.sd * (z if math.isnan(self.skewness) else z + self.skewness / 6 * (z * z - 1))
        from scipy.special import gammainccinv, gammaincinv

        shape = 4 / self.skewness**2
        at = float(gammaincinv(shape, q) if self.skewness > 0 else gammainccinv(shape, q))
        return self.mean + self.sd * math.copysign(1, self.skewness) * (at - shape) / math.sqrt(shape)

    def scaled(self, norm: float) -> Null:
        """The null of the statistic over ``norm``."""
        return Null(self.mean / norm, self.sd / norm, self.skewness)


NEARLY_NORMAL = 1e-2  # below it the gamma functions of scipy lose the tail of a law of negative skewness
LEAST_SKEWNESS = 1e-4  # below it their inverses gain nothing


def _nearly_normal_p(z: float, skewness: float) -> float:
    """P(Z > z) under Pearson's third law of a small skewness, to nine digits, without a jump to the normal at 0.

    From Temme (1979), "The asymptotic expansion of the incomplete gamma functions", to its first order.
    """
    r = skewness / 2
    mu = r * z
    if mu <= -1:  # beyond the end of the law
        return 0.0 if r < 0 else 1.0
    # half = (mu - log(1 + mu)) / mu^2, eta = mu sqrt(2 half), and 1 / mu - 1 / eta.
    if abs(mu) < 1e-2:
        half = math.fsum((-mu) ** k / (k + 2) for k in range(9))
        eta = mu * math.sqrt(2 * half)
        slope = -1 / 3 + eta * (1 / 12 + eta * (-2 / 135 + eta * (1 / 864 + eta / 2835)))
    else:
        half = (mu - math.log1p(mu)) / mu**2
        slope = 1 / mu - 1 / (mu * math.sqrt(2 * half))
    return 0.5 * math.erfc(z * math.sqrt(half)) + r * slope * math.exp(-z * z * half) / math.sqrt(2 * math.pi)


def add_one_p(value: float, null: np.ndarray, kind: str = "similarity") -> float:
    """One-sided permutation p-value (1 + number of null values >= value) / (1 + permutations); <= for a "distance"."""
    as_extreme = null >= value if kind == "similarity" else null <= value
    return float((1 + np.count_nonzero(as_extreme)) / (1 + len(null)))


def jackknife_error(values: np.ndarray) -> float:
    """Standard error from the values without each input, or without each of as many groups of them (Tukey 1958)."""
    n = len(values)
    return math.sqrt((n - 1) / n * float(((values - values.mean()) ** 2).sum()))


def mean_error(terms: np.ndarray) -> float:
    """The delete-one jackknife standard error of the mean of terms [n]: sd / sqrt(n); NaN for a single one."""
    return float(terms.std(ddof=1) / np.sqrt(len(terms))) if len(terms) > 1 else math.nan


def sampled_null(draws: np.ndarray) -> Null:
    """The null of a statistic from its values [permutations] over relabellings; sd and skewness need some of them."""
    mean = float(draws.mean())
    if len(draws) < 3:
        return Null(mean, np.nan, np.nan)
    if (draws == draws[0]).all():  # their mean, and an sd about it, would be off by rounding
        return Null(float(draws[0]), 0.0, 0.0)
    sd = float(draws.std(ddof=1))
    skewness = float((((draws - mean) / sd) ** 3).mean()) if sd > 0 else 0.0
    return Null(mean, sd, skewness)


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


def trace_product_skewness(n: int, triangles_a: float, cubes_a: float, triangles_b: float, cubes_b: float) -> float:
    """Exact skewness of sum_ij A_ij B_p(i)p(j) over all n! relabellings p; A, B have zero diagonals and rows that sum
    to 0.

    Parameters: n inputs (at least 6), and of each matrix tr(A^3) and sum_ij A_ij^3 over (sum_ij A_ij^2)^(3/2).

    The third moment sums, over the ways in which three edges can touch, what both matrices have of each way, divided by
    the number of its places; rows that sum to 0 leave of all ways only triangles T and triple edges U. With the second
    moment 2 |A|^2 |B|^2 / (n (n - 3)) the skewness follows.
    """
    if n < 6:
        return math.nan
    places = {vertices: math.prod(range(n - vertices + 1, n + 1)) for vertices in range(2, 7)}
    both = zip(_three_edges(triangles_a, cubes_a), _three_edges(triangles_b, cubes_b), strict=True)
    third = math.fsum(ways * a * b / places[vertices] for (ways, vertices, a), (_, _, b) in both)
    return third / (2 / (n * (n - 3))) ** 1.5


def _three_edges(triangles: float, cubes: float) -> list[tuple[int, int, float]]:
    """(number of ways to place the six ends of three edges, vertices, sum over distinct vertices) of every pattern."""
    return [
        (4, 2, cubes),  # one edge three times
        (24, 3, -cubes),  # one twice, one that touches it
        (8, 3, triangles),  # a triangle
        (6, 4, 2 * cubes),  # one twice, one apart
        (8, 4, 2 * cubes),  # a star
        (24, 4, cubes - triangles),  # a path
        (12, 5, 2 * triangles - 4 * cubes),  # two that touch, one apart
        (1, 6, 16 * cubes - 8 * triangles),  # three apart
    ]


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
