"""Sums over all pairs of inputs and nearest neighbours, streamed: the only module that calls the native core."""

from __future__ import annotations

import functools
import math
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core, blocks
from .arrays import Rows

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

Progress = Callable[[int, int], None]

_EPS32, _EPS64 = float(np.finfo(np.float32).eps), float(np.finfo(np.float64).eps)

# Float64 blocks of the feature-space sums; fixed, so that no choice of the caller changes the order of the additions.
FEATURE_ROWS = 2048
# Longest rows that are candidates of every row under the inner product.
HEAVY = 16
# Beyond this many sigmas from the middle, float32 exponents of an RBF kernel err by more than 1e-3.
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
    return whole_number(threads, "threads", function=function)


def whole_number(value: Any, name: str, *, function: str, least: int = 1) -> int:
    """A whole number of at least ``least``.

    Raises
    ------
    TypeError: no int. ValueError: too small.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"[{function}] expected {name} as an int, got {value!r}")
    if value < least:
        raise ValueError(f"[{function}] expected {name} of at least {least}, got {value}")
    return int(value)


@dataclass(frozen=True)
class Centre:
    """Where rows lie: a middle, and the squared distance of each row to it."""

    middle: np.ndarray  # [d] float64: what is subtracted from every row
    squared_norms: np.ndarray  # [n] float64, after the subtraction

    @functools.cached_property
    def unit(self) -> float:
        """A power of two such that any two different rows, times it, have an inner product of at most 1."""
        second, first = np.partition(self.squared_norms, -2)[-2:] if len(self.squared_norms) > 1 else (1.0, 1.0)
        return _power_of_two_below((float(second or first) * float(first)) ** -0.25)


def mean_centre(rows: Rows, *, function: str, threads: int) -> Centre:
    """About the mean: what the closed forms of linear kernels are written for.

    Raises
    ------
    ValueError: a row is not finite (it is named), beyond the range of squares, or all rows are equal.
    """
    mean = _column_sums(rows, function=function, threads=threads) / len(rows)
    norms = _squared_norms(rows, mean, function=function, threads=threads)
    # The mean of equal rows is a rounding away from them.
    return _unless_equal(rows, Centre(mean, norms), (_EPS64 * len(rows)) ** 2 * float(mean @ mean), function)


def robust_centre(rows: Rows, *, function: str, threads: int) -> Centre:
    """About the coordinate-wise median of some rows: one far row does not push all others away from the origin.

    Raises
    ------
    ValueError: as :func:`mean_centre`.
    """
    _column_sums(rows, function=function, threads=threads)  # every row is finite
    middle = np.median(_a_few(rows), axis=0)
    return _unless_equal(
        rows, Centre(middle, _squared_norms(rows, middle, function=function, threads=threads)), 0.0, function
    )


def _unless_equal(rows: Rows, found: Centre, rounding: float, function: str) -> Centre:
    if not found.squared_norms.max() > rounding:
        raise ValueError(
            f"[{function}] expected {rows.name} whose rows differ, got zero variance (all {len(rows)} rows are equal)"
        )
    return found


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


def _squared_norms(rows: Rows, shift: np.ndarray | None, *, function: str, threads: int) -> np.ndarray:
    norms = np.empty(len(rows))
    _core.squared_norms(rows.values, rows.dtype, shift, norms, threads)
    longest = float(norms.max())
    if not (longest == 0 or 1e-280 < longest < 1e280):
        raise ValueError(
            f"[{function}] expected {rows.name} with values between about 1e-140 and 1e140, whose squares float64 "
            f"can hold, got a largest squared norm of {longest:.3g}"
        )
    return norms


@dataclass(frozen=True)
class Packer:
    """Packs blocks of (row - shift) * scale - offset for the native tiles."""

    rows: Rows
    shift: np.ndarray | None
    scale: np.ndarray  # [n], possibly one number repeated without memory
    threads: int
    offset: np.ndarray | None = None

    def block(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        panels = blocks.empty_panels(count, self.rows.depth)
        halves = np.empty(count, np.float32)
        stop = first + count
        scale = np.ascontiguousarray(self.scale[first:stop])
        _core.pack_rows(
            self.rows.values[first:stop], self.rows.dtype, self.shift, scale, self.offset, panels, halves, self.threads
        )
        return panels, halves


@dataclass(frozen=True)
class HsicSums:
    """Everything that HSIC, CKA and their permutation moments need of P kernel matrices over the same n inputs.

    With A = HKH (biased) or A = the U-centred K (debiased): ``biased[p, q]`` and ``debiased[p, q]`` are sum_ij A_p A_q,
    ``trace[p]`` = tr A and ``squares[p]`` = sum_i A_ii^2 of the biased A (both are 0 for the U-centred). Entries are
    filled on the diagonal and for p among the first ``left`` matrices and q among the others, NaN elsewhere.
    ``rounding[p]`` is what rounding alone may leave of ``debiased[p, p]``.
    """

    n: int
    biased: np.ndarray  # [P, P] float64
    debiased: np.ndarray  # [P, P]
    trace: np.ndarray  # [P]
    squares: np.ndarray  # [P]
    rounding: np.ndarray  # [P]
    precision: str


def _asked_pairs(count: int, left: int) -> list[tuple[int, int]]:
    return [(p, p) for p in range(count)] + [(p, q) for p in range(left) for q in range(left, count)]


def feature_sums(
    matrices: Sequence[Rows], left: int, *, function: str, threads: int, progress: Progress | None = None
) -> HsicSums:
    """HSIC sums of linear kernels from d x d' products in float64, one for each of the pairs asked for.

    The debiased form follows from the diagonal a_i = |x_i|^2 of the centred Gram matrix:
    sum = |X'Y|_F^2 - n/(n-2) sum a_i b_i + sum a sum b / ((n-1)(n-2)).
    """
    n, count = len(matrices[0]), len(matrices)
    centres = [mean_centre(rows, function=function, threads=threads) for rows in matrices]
    asked = _asked_pairs(count, left)
    cross = {(p, q): np.zeros((matrices[p].depth, matrices[q].depth)) for p, q in asked}
    starts = range(0, n, FEATURE_ROWS)
    with _blas().limit(limits=threads, user_api="blas"):
        for done, start in enumerate(starts):
            part = slice(start, min(start + FEATURE_ROWS, n))
            block = [(rows.wide(part) - c.middle) * c.unit for rows, c in zip(matrices, centres, strict=True)]
            for (p, q), product in cross.items():
                product += block[p].T @ block[q]
            if progress:
                progress(done + 1, len(starts))
    biased, debiased = np.full((2, count, count), math.nan)
    rounding = np.empty(count)
    diagonals = [c.squared_norms * c.unit**2 for c in centres]
    for p, q in asked:
        a, b = diagonals[p], diagonals[q]
        square = float(np.vdot(cross[p, q], cross[p, q]))
        scale = (centres[p].unit * centres[q].unit) ** -2
        biased[p, q] = square * scale
        if n > 2:
            unbiased = square - n / (n - 2) * float(a @ b) + float(a.sum() * b.sum()) / ((n - 1) * (n - 2))
            debiased[p, q] = unbiased * scale
        if p == q:
            rounding[p] = 1e-6 * square * scale  # a millionth left of the difference: six digits of it are gone
    trace = np.array([c.squared_norms.sum() for c in centres])
    squares = np.array([float(c.squared_norms @ c.squared_norms) for c in centres])
    return HsicSums(n, biased, debiased, trace, squares, rounding, "float64")


@functools.lru_cache(maxsize=1)
def _blas() -> ThreadpoolController:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def kernel_sums(
    matrices: Sequence[Rows],
    left: int,
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
    centres = [robust_centre(rows, function=function, threads=threads) for rows in matrices]
    if sigmas is None:
        units = [c.unit for c in centres]
        shifts = [0.0] * count
    else:
        units = [1 / sigma for sigma in sigmas]
        shifts = [_mean_rbf(rows, c, sigma, function) for rows, c, sigma in zip(matrices, centres, sigmas, strict=True)]
    packers = [
        Packer(rows, c.middle, np.broadcast_to(unit, n), threads)
        for rows, c, unit in zip(matrices, centres, units, strict=True)
    ]
    row_bits = min(50, 62 - math.ceil(math.log2(n)))
    row_sums = np.zeros((count, n), np.int64)
    products = np.zeros((count, count, 2), np.int64)

    kernel = "linear" if sigmas is None else "rbf"
    plan = blocks.traversal(n, n, [rows.depth for rows in matrices], symmetric=True, block_rows=block_rows)
    held: tuple[int, list[Any]] = (-1, [])
    for done, span in enumerate(plan):
        if held[0] != span.first_i:
            held = (span.first_i, [packer.block(span.first_i, span.rows_i) for packer in packers])
        block_i = held[1]
        same = span.first_j == span.first_i
        block_j = block_i if same else [packer.block(span.first_j, span.rows_j) for packer in packers]
        pairs = [(i, j, kernel, shift) for i, j, shift in zip(block_i, block_j, shifts, strict=True)]
        _core.kernel_sums(pairs, left, span.as_tuple(), row_bits, row_sums, products, threads)
        if progress:
            progress(done + 1, len(plan))

    scales = np.array([unit**-2 if sigmas is None else 1.0 for unit in units])
    norms = [
        c.squared_norms * unit**2 if sigmas is None else np.ones(n) for c, unit in zip(centres, units, strict=True)
    ]
    return _finish(row_sums, row_bits, products, _asked_pairs(count, left), np.array(shifts, np.float32), norms, scales)


def _finish(
    row_sums: np.ndarray,
    row_bits: int,
    limbs: np.ndarray,
    asked: Sequence[tuple[int, int]],
    shifts: np.ndarray,
    diagonals: Sequence[np.ndarray],
    scales: np.ndarray,
) -> HsicSums:
    """From the sums over i != j of K - shift to both centred forms, which no constant shift of K changes."""
    count, n = row_sums.shape
    products = (limbs[..., 0].astype(np.float64) * 2.0**32 + limbs[..., 1]) / 2.0**_core.PRODUCT_BITS
    unit = 2.0**-row_bits
    biased, debiased = np.full((2, count, count), math.nan)
    trace, squares, rounding = np.empty((3, count))
    for p, q in asked:
        r, s = row_sums[p] * unit, row_sums[q] * unit
        a, b = diagonals[p] - float(shifts[p]), diagonals[q] - float(shifts[q])
        if n > 2:
            debiased[p, q] = products[p, q] + r.sum() * s.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * float(r @ s)
        r += a
        s += b
        biased[p, q] = products[p, q] + float(a @ b) - 2 / n * float(r @ s) + r.sum() * s.sum() / n**2
        if p == q:
            centred = a - 2 / n * r + r.sum() / n**2
            trace[p], squares[p] = centred.sum(), float(centred @ centred)
            # Every entry of a tile errs by about the float32 rounding of |x_i| |x_j|, independently.
            norms = diagonals[p]
            rounding[p] = (2 * _EPS32) ** 2 * float(norms.sum() ** 2 - norms @ norms)
    scale = np.outer(scales, scales)
    return HsicSums(
        n, biased * scale, debiased * scale, trace * scales, squares * scales**2, rounding * scales**2, "float32"
    )


def _mean_rbf(rows: Rows, c: Centre, sigma: float, function: str) -> float:
    """About the mean of the kernel matrix off its diagonal: a shift that keeps the streamed sums small.

    Warns where float32 cannot tell distances apart at the scale of sigma: rows that lie too many sigmas from the
    middle.
    """
    far = int(np.count_nonzero(c.squared_norms > (RBF_SPREAD * sigma) ** 2))
    if far > 1:  # a single far row is far from all others whatever its rounding
        warnings.warn(
            f"[{function}] sigma {sigma:.3g} is small for {rows.name}: {far} of {len(rows)} rows lie more "
            f"than {RBF_SPREAD:g} sigmas from the middle, where float32 exponents between them err by more than 1e-3",
            RuntimeWarning,
            stacklevel=5,
        )
    sample = (_a_few(rows) - c.middle) / sigma
    squared = _squared_distances(sample)
    kernel = np.exp(-0.5 * squared)
    return float((kernel.sum() - np.trace(kernel)) / (len(kernel) * (len(kernel) - 1)))


def _a_few(rows: Rows) -> np.ndarray:
    """Up to 255 evenly spaced rows in float64, fewer where they are very wide."""
    return rows.wide(_evenly_spaced(len(rows), max(15, min(255, 2**22 // rows.depth))))


def _evenly_spaced(n: int, count: int) -> np.ndarray | slice:
    """At most ``count`` positions from first to last; all of them as a slice."""
    return slice(0, n) if n <= count else np.linspace(0, n - 1, count).astype(np.int64)


def _squared_distances(x: np.ndarray) -> np.ndarray:
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
    picked = _evenly_spaced(len(rows), sample)
    norms = c.squared_norms[picked]
    squared = np.zeros((len(norms), len(norms)))
    with _blas().limit(limits=threads, user_api="blas"):
        for start in range(0, rows.depth, FEATURE_ROWS):  # a stripe of columns at a time keeps the sample small
            columns = slice(start, start + FEATURE_ROWS)
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
) -> tuple[np.ndarray, np.ndarray, int]:
    """Exact k nearest rows: indices [n, k] int64, scores [n, k] float32, best first; and how many rows were scanned.

    With ``base`` None the rows of x are searched themselves, each left out of its own list by index, and every tile of
    scores serves both of its sides. O(n k) memory, cost n^2 d flop (2 n m d against a base of m rows).
    """
    symmetric = base is None
    other = x if base is None else base
    sides = (x,) if symmetric else (x, other)
    packers, unit = _neighbour_packers(sides, metric, function=function, threads=threads)
    n = len(x)
    # A few more than k are kept: the gap between the k-th and the last of them is what certifies a row.
    kept = min(k + 8 + k // 8, len(other) - symmetric)
    keys = np.empty((n, 2 * kept + 16), np.uint64)
    counts = np.zeros(n, np.int32)
    thresholds = np.full(n, -np.finfo(np.float32).max, np.float32)
    halves = [np.empty(len(rows), np.float32) for rows in sides]

    plan = blocks.traversal(n, len(other), [x.depth], symmetric=symmetric, block_rows=block_rows)
    tiles = "inner_product" if metric == "inner_product" else "euclidean"
    held: tuple[int, Any] = (-1, None)
    for done, span in enumerate(plan):
        if held[0] != span.first_i:
            held = (span.first_i, packers[0].block(span.first_i, span.rows_i))
            halves[0][span.first_i : span.first_i + span.rows_i] = held[1][1]
        same = symmetric and span.first_j == span.first_i
        block_j = held[1] if same else packers[-1].block(span.first_j, span.rows_j)
        halves[-1][span.first_j : span.first_j + span.rows_j] = block_j[1]
        _core.nearest(held[1], block_j, tiles, span.as_tuple(), symmetric, kept, keys, counts, thresholds, threads)
        if progress:
            progress(done + 1, len(plan) + 1)

    heavy, longest = np.empty(0, np.int64), 0.0
    if metric == "inner_product":  # a few long rows would loosen the bound of all: they become candidates everywhere
        heavy = np.sort(np.argpartition(halves[-1], -HEAVY)[-HEAVY:]) if len(other) > 2 * HEAVY else heavy
        longest = math.sqrt(2 * float(np.delete(halves[-1], heavy).max()))
    indices, scores = np.empty((n, k), np.int64), np.empty((n, k), np.float32)
    scanned = 0
    for start in range(0, n, blocks.MOST_ROWS):
        part = slice(start, min(start + blocks.MOST_ROWS, n))
        scanned += _core.rank_neighbours(
            x.values[part], x.dtype, other.values, other.dtype, metric, keys[part], counts[part], thresholds[part],
            halves[0][part], unit, longest, heavy, kept, start if symmetric else -1, indices[part], scores[part],
            threads,
        )  # fmt: skip
    if progress:
        progress(len(plan) + 1, len(plan) + 1)
    return indices, scores, scanned


def _neighbour_packers(
    sides: Sequence[Rows], metric: str, *, function: str, threads: int
) -> tuple[list[Packer], float]:
    """Both sides moved and scaled alike, so that the ranking stays and float32 is fine where neighbours differ.

    Distances are taken from the middle of the base. So are cosines, as distances between unit rows: in a narrow cone
    all of them are near 1, and only what is left of the cone's axis tells them apart.
    """
    for rows in sides:
        _column_sums(rows, function=function, threads=threads)  # every row is finite
    sample = _a_few(sides[-1])
    if metric == "cosine":
        squared = [_squared_norms(rows, None, function=function, threads=threads) for rows in sides]
        for rows, norms in zip(sides, squared, strict=True):
            if not norms.min() > 0:
                raise ValueError(
                    f"[{function}] expected {rows.name} with non-zero rows for the cosine metric, "
                    f"got zero norm in row {int(norms.argmin())}"
                )
        middle = np.median(sample / np.sqrt((sample * sample).sum(axis=1, keepdims=True)), axis=0)
        scales = [1 / np.sqrt(norms) for norms in squared]
        return [Packer(rows, None, s, threads, middle) for rows, s in zip(sides, scales, strict=True)], 1.0
    shift = np.median(sample, axis=0) if metric == "euclidean" else None
    longest = max(float(_squared_norms(rows, shift, function=function, threads=threads).max()) for rows in sides)
    unit = _power_of_two_below(1 / math.sqrt(longest)) if longest > 0 else 1.0
    return [Packer(rows, shift, np.broadcast_to(unit, len(rows)), threads) for rows in sides], unit
