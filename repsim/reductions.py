"""Sums over all pairs of inputs and nearest neighbours, streamed: the only module that calls the native core."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import _core, blocks
from .arrays import Rows

Progress = Callable[[int, int], None]

# Float64 blocks of the feature-space sums; fixed, so that no choice of the caller changes the order of the additions.
FEATURE_ROWS = 2048
# Beyond this many sigmas from the mean, float32 exponents of an RBF kernel err by more than 1e-3.
RBF_SPREAD = 90.0


def thread_count(threads: int | None, *, function: str) -> int:
    """Threads to use: the argument, else REPSIM_NUM_THREADS, else the CPUs this process may run on."""
    if threads is None:
        asked = os.environ.get("REPSIM_NUM_THREADS", "")
        if asked and not (asked.isdigit() and int(asked) > 0):
            raise ValueError(f"[{function}] expected REPSIM_NUM_THREADS as a positive whole number, got {asked!r}")
        if asked:
            return int(asked)
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return positive_count(threads, "threads", function=function)


def positive_count(value: Any, name: str, *, function: str) -> int:
    """A whole number of at least 1.

    Raises
    ------
    TypeError: no int. ValueError: below 1.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"[{function}] expected {name} as an int, got {value!r}")
    if value < 1:
        raise ValueError(f"[{function}] expected {name} of at least 1, got {value}")
    return int(value)


@dataclass(frozen=True)
class Centre:
    """Where rows lie: a middle, and the squared distance of each row to it."""

    mean: np.ndarray  # [d] float64: what is subtracted from every row
    squared_norms: np.ndarray  # [n] float64, after the subtraction
    unit: float  # a power of two: rows times unit have norms of at most 1


def centre(rows: Rows, *, function: str, threads: int) -> Centre:
    """Mean and centred norms of finite, not all equal rows.

    Raises
    ------
    ValueError: a row is not finite (it is named), or all rows are equal.
    """
    mean = _column_sums(rows, function=function, threads=threads) / len(rows)
    norms = _squared_norms(rows, mean, threads=threads)
    if not norms.max() > _rounding(rows, mean):
        raise _all_equal(rows, function)
    return Centre(mean, norms, _power_of_two_below(1 / math.sqrt(norms.max())))


def robust_centre(rows: Rows, *, function: str, threads: int) -> Centre:
    """As :func:`centre`, about the coordinate-wise median of some rows instead of the mean.

    For kernels of the distance any shift is allowed, and one far row must not push all others away from the origin.
    """
    _column_sums(rows, function=function, threads=threads)  # the rows are finite
    middle = np.median(_sample(rows, 255), axis=0)
    norms = _squared_norms(rows, middle, threads=threads)
    if not norms.max() > 0:
        raise _all_equal(rows, function)
    return Centre(middle, norms, _power_of_two_below(1 / math.sqrt(norms.max())))


def _all_equal(rows: Rows, function: str) -> ValueError:
    return ValueError(
        f"[{function}] expected {rows.name} whose rows differ, got zero variance (all {len(rows)} rows are equal)"
    )


def _rounding(rows: Rows, mean: np.ndarray) -> float:
    """The squared norm that equal rows may show through the rounding of their float64 mean."""
    return float((np.finfo(np.float64).eps * len(rows)) ** 2 * (mean**2).sum())


def _power_of_two_below(x: float) -> float:
    return math.ldexp(1.0, math.floor(math.log2(x)))


def _column_sums(rows: Rows, *, function: str, threads: int) -> np.ndarray:
    sums = np.empty(rows.depth)
    bad = _core.column_sums(rows.values, rows.dtype, sums, threads)
    if bad >= 0:
        raise ValueError(f"[{function}] expected {rows.name} with finite values, got NaN or infinity in row {bad}")
    if not np.isfinite(sums).all():
        raise ValueError(f"[{function}] expected {rows.name} whose sums are finite in float64, got overflow")
    return sums


def _squared_norms(rows: Rows, shift: np.ndarray | None, *, threads: int) -> np.ndarray:
    norms = np.empty(len(rows))
    _core.squared_norms(rows.values, rows.dtype, shift, norms, threads)
    return norms


@dataclass(frozen=True)
class Packer:
    """Packs blocks of (row - shift) * scale for the native tiles."""

    rows: Rows
    shift: np.ndarray | None
    scale: np.ndarray  # [n]
    threads: int

    def block(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        panels = blocks.empty_panels(count, self.rows.depth)
        halves = np.empty(count, np.float32)
        stop = first + count
        scale = np.ascontiguousarray(self.scale[first:stop])
        _core.pack_rows(self.rows.values[first:stop], self.rows.dtype, self.shift, scale, panels, halves, self.threads)
        return panels, halves


@dataclass(frozen=True)
class HsicSums:
    """Everything that HSIC, CKA and their permutation moments need of P kernel matrices over the same n inputs.

    With A = HKH (biased) or A = the U-centred K (debiased): ``biased[p, q]`` and ``debiased[p, q]`` are sum_ij A_p A_q,
    ``trace[p]`` = tr A and ``squares[p]`` = sum_i A_ii^2 of the biased A (both are 0 for the U-centred).
    """

    n: int
    biased: np.ndarray  # [P, P] float64
    debiased: np.ndarray  # [P, P]
    trace: np.ndarray  # [P]
    squares: np.ndarray  # [P]
    precision: str


def feature_sums(matrices: Sequence[Rows], *, function: str, threads: int, progress: Progress | None = None) -> HsicSums:
    """HSIC sums of linear kernels from d x d' products in float64; O(sum d^2) memory, cost n (sum d)^2.

    The debiased form follows from the diagonal a_i = |x_i|^2 of the centred Gram matrix:
    sum = |X'Y|_F^2 - n/(n-2) sum a_i b_i + sum a sum b / ((n-1)(n-2)).
    """
    n = len(matrices[0])
    centres = [centre(rows, function=function, threads=threads) for rows in matrices]
    count = len(matrices)
    cross = [[np.zeros((matrices[p].depth, matrices[q].depth)) for q in range(p, count)] for p in range(count)]
    starts = range(0, n, FEATURE_ROWS)
    for done, start in enumerate(starts):
        stop = min(start + FEATURE_ROWS, n)
        block = [(rows.wide(start, stop) - c.mean) * c.unit for rows, c in zip(matrices, centres, strict=True)]
        for p in range(count):
            for q in range(p, count):
                cross[p][q - p] += block[p].T @ block[q]
        if progress:
            progress(done + 1, len(starts))
    biased, debiased = np.empty((count, count)), np.empty((count, count))
    diagonals = [c.squared_norms * c.unit**2 for c in centres]
    for p in range(count):
        for q in range(p, count):
            a, b = diagonals[p], diagonals[q]
            product = float(np.vdot(cross[p][q - p], cross[p][q - p]))
            scale = (centres[p].unit * centres[q].unit) ** -2
            biased[p, q] = biased[q, p] = product * scale
            if n > 2:
                unbiased = product - n / (n - 2) * float(a @ b) + float(a.sum() * b.sum()) / ((n - 1) * (n - 2))
                debiased[p, q] = debiased[q, p] = unbiased * scale
            else:
                debiased[p, q] = debiased[q, p] = math.nan
    trace = np.array([c.squared_norms.sum() for c in centres])
    squares = np.array([float(c.squared_norms @ c.squared_norms) for c in centres])
    return HsicSums(n, biased, debiased, trace, squares, "float64")


def kernel_sums(
    matrices: Sequence[Rows],
    sigmas: Sequence[float] | None,
    *,
    function: str,
    threads: int,
    block_rows: int | None = None,
    progress: Progress | None = None,
) -> HsicSums:
    """HSIC sums of P kernel matrices that are never stored; O(n) memory, cost n^2 sum(d) flop.

    ``sigmas``: bandwidths of RBF kernels, or None for linear kernels. Tiles are float32, sums exact integers of them.
    """
    n, count = len(matrices[0]), len(matrices)
    kernel = "linear" if sigmas is None else "rbf"
    about = centre if sigmas is None else robust_centre
    centres = [about(rows, function=function, threads=threads) for rows in matrices]
    scales = [c.unit for c in centres] if sigmas is None else [1 / sigma for sigma in sigmas]
    packers = [
        Packer(rows, c.mean, np.full(n, scale), threads) for rows, c, scale in zip(matrices, centres, scales, strict=True)
    ]
    if sigmas is None:
        shifts = [0.0] * count
        diagonals = [c.squared_norms * c.unit**2 for c in centres]
    else:
        for rows, c, sigma in zip(matrices, centres, sigmas, strict=True):
            _warn_of_small_sigma(rows, c, sigma, function)
        shifts = [_mean_rbf(rows, c.mean, sigma) for rows, c, sigma in zip(matrices, centres, sigmas, strict=True)]
        diagonals = [np.ones(n)] * count
    row_bits = min(50, 62 - math.ceil(math.log2(n)))
    row_sums = np.zeros((count, n), np.int64)
    products = np.zeros((count, count, 2), np.int64)

    plan = blocks.traversal(n, n, [rows.depth for rows in matrices], symmetric=True, block_rows=block_rows)
    held: tuple[int, list[Any]] = (-1, [])
    for done, span in enumerate(plan):
        if held[0] != span.first_i:
            held = (span.first_i, [packer.block(span.first_i, span.rows_i) for packer in packers])
        block_i = held[1]
        same = span.first_j == span.first_i
        block_j = block_i if same else [packer.block(span.first_j, span.rows_j) for packer in packers]
        pairs = [(i, j, kernel, shift) for i, j, shift in zip(block_i, block_j, shifts, strict=True)]
        _core.kernel_sums(pairs, span.as_tuple(), row_bits, row_sums, products, threads)
        if progress:
            progress(done + 1, len(plan))

    units = [c.unit**-2 if sigmas is None else 1.0 for c in centres]
    return _finish(row_sums / 2.0**row_bits, products, np.array(shifts), np.array(diagonals), np.array(units))


def _finish(
    off_diagonal: np.ndarray, products: np.ndarray, shifts: np.ndarray, diagonals: np.ndarray, units: np.ndarray
) -> HsicSums:
    """From the sums over i != j of K - shift to both centred forms, which no constant shift of K changes."""
    count, n = off_diagonal.shape
    upper = (products[..., 0].astype(np.float64) * 2.0**32 + products[..., 1]) / 2.0**_core.PRODUCT_BITS
    product = np.triu(upper) + np.triu(upper, 1).T
    total = off_diagonal.sum(axis=1)
    scale = np.outer(units, units)

    if n > 2:
        debiased = product + np.outer(total, total) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (off_diagonal @ off_diagonal.T)
    else:
        debiased = np.full((count, count), math.nan)
    diagonal = diagonals - shifts[:, None].astype(np.float32).astype(np.float64)
    full = off_diagonal + diagonal
    full_total = full.sum(axis=1)
    biased = product + diagonal @ diagonal.T - 2 / n * (full @ full.T) + np.outer(full_total, full_total) / n**2
    centred_diagonal = diagonal - 2 / n * full + full_total[:, None] / n**2
    return HsicSums(
        n,
        biased * scale,
        debiased * scale,
        centred_diagonal.sum(axis=1) * units,
        (centred_diagonal**2).sum(axis=1) * units**2,
        "float32",
    )


def _warn_of_small_sigma(rows: Rows, c: Centre, sigma: float, function: str) -> None:
    spread = math.sqrt(float(c.squared_norms.max())) / sigma
    if spread > RBF_SPREAD and math.sqrt(float(np.median(c.squared_norms))) / sigma > RBF_SPREAD:
        warnings.warn(
            f"[{function}] sigma is small for {rows.name}: rows lie up to {spread:.3g} sigmas from their mean, "
            "where float32 exponents err by more than 1e-3",
            RuntimeWarning,
            stacklevel=4,
        )


def _sample(rows: Rows, count: int) -> np.ndarray:
    """At most ``count`` evenly spaced rows in float64."""
    n = len(rows)
    if n <= count:
        return rows.wide(0, n)
    return np.concatenate([rows.wide(i, i + 1) for i in np.linspace(0, n - 1, count).astype(np.int64)])


def _squared_distances(x: np.ndarray) -> np.ndarray:
    norms = (x * x).sum(axis=1)
    return norms[:, None] + norms[None, :] - 2 * (x @ x.T)


def _mean_rbf(rows: Rows, mean: np.ndarray, sigma: float) -> float:
    """About the mean of the kernel matrix off its diagonal: subtracting it keeps the streamed sums small. Any value would be right."""
    sample = (_sample(rows, 256) - mean) / sigma
    return float(np.exp(-0.5 * _squared_distances(sample))[np.triu_indices(len(sample), 1)].mean())


def median_distance(rows: Rows, *, sample: int, function: str, threads: int) -> float:
    """Median Euclidean distance over the pairs i < j of at most ``sample`` evenly spaced rows.

    Raises
    ------
    ValueError: the median is zero, because most rows are equal.
    """
    points = _sample(rows, sample) - robust_centre(rows, function=function, threads=threads).mean
    squared = _squared_distances(points)[np.triu_indices(len(points), 1)]
    middle = np.partition(squared, [(len(squared) - 1) // 2, len(squared) // 2])
    low, high = middle[(len(squared) - 1) // 2], middle[len(squared) // 2]
    rounding = np.finfo(np.float64).eps * 8 * float((points * points).sum(axis=1).max())
    if not low > rounding:
        raise ValueError(f"[{function}] expected {rows.name} whose median distance is positive, got zero; pass RBF(sigma=...)")
    return (math.sqrt(low) + math.sqrt(high)) / 2


def nearest(
    x: Rows,
    base: Rows | None,
    k: int,
    metric: str,
    *,
    function: str,
    threads: int,
    block_rows: int | None = None,
    progress: Progress | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Exact k nearest rows: indices [n, k] int64 and scores [n, k] float32, best first.

    With ``base`` None the rows of x are searched themselves, each left out of its own list by index, and every tile of scores
    serves both of its sides. O(n k) memory, cost n^2 d flop (2 n m d against a base of m rows).
    """
    symmetric = base is None
    other = x if base is None else base
    packers = _neighbour_packers(x, other, metric, symmetric, function=function, threads=threads)
    n, capacity = len(x), 2 * k + 16
    keys = np.empty((n, capacity), np.uint64)
    counts = np.zeros(n, np.int32)
    thresholds = np.full(n, -np.finfo(np.float32).max, np.float32)

    plan = blocks.traversal(n, len(other), [x.depth], symmetric=symmetric, block_rows=block_rows)
    held: tuple[int, Any] = (-1, None)
    for done, span in enumerate(plan):
        if held[0] != span.first_i:
            held = (span.first_i, packers[0].block(span.first_i, span.rows_i))
        same = symmetric and span.first_j == span.first_i
        block_j = held[1] if same else packers[1].block(span.first_j, span.rows_j)
        _core.nearest(held[1], block_j, metric, span.as_tuple(), symmetric, k, keys, counts, thresholds, threads)
        if progress:
            progress(done + 1, len(plan))

    indices, scores = np.empty((n, k), np.int64), np.empty((n, k), np.float32)
    _core.rank_neighbours(
        x.values, x.dtype, other.values, other.dtype, metric, keys, counts, thresholds, indices, scores, threads
    )
    return indices, scores


def _neighbour_packers(
    x: Rows, other: Rows, metric: str, symmetric: bool, *, function: str, threads: int
) -> tuple[Packer, Packer]:
    """Both sides scaled by powers of two that leave the ranking alone; distances from the mean, angles on unit rows."""
    sides = (x,) if symmetric else (x, other)
    for rows in sides:
        _column_sums(rows, function=function, threads=threads)  # the rows are finite
    shift = np.median(_sample(other, 255), axis=0) if metric == "euclidean" else None
    norms = [_squared_norms(rows, shift, threads=threads) for rows in sides]
    if metric == "cosine":
        for rows, squared in zip(sides, norms, strict=True):
            if not squared.min() > 0:
                raise ValueError(
                    f"[{function}] expected {rows.name} with non-zero rows for the cosine metric, "
                    f"got zero norm in row {int(squared.argmin())}"
                )
        scales = [1 / np.sqrt(squared) for squared in norms]
    else:
        longest = max(float(squared.max()) for squared in norms)
        unit = _power_of_two_below(1 / math.sqrt(longest)) if longest > 0 else 1.0
        scales = [np.full(len(rows), unit) for rows in sides]
    packers = [Packer(rows, shift, scale, threads) for rows, scale in zip(sides, scales, strict=True)]
    return packers[0], packers[-1]
