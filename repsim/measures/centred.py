"""Inner products of centred kernel matrices: what CKA and HSIC are made of, with chance and the jackknife."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import reductions
from ..arguments import Progress, memory_budget, thread_count, whole_number
from ..arrays import DeviceRows, Rows, same_inputs
from ..calibration import Null, trace_product_moments, trace_product_skewness
from ..kernels import Bandwidth, Kernel, Linear, as_kernel
from ..reductions import HsicSums, RowTerms, ThirdMoments

LEAST_ROWS = {"debiased": 4, "biased": 2}
ESTIMATORS = tuple(LEAST_ROWS)


@dataclass(frozen=True)
class CentredKernels:
    """P kernel matrices over the same n inputs, centred as the estimator says.

    ``inner`` [P, P]: their inner products, where they were asked for. ``thirds``: third-order sums of each, for the
    skewness of chance, or None. ``rows``: what leaving out an input needs, where it was asked for.
    """

    estimator: str
    sums: HsicSums
    thirds: Sequence[ThirdMoments] | None = None
    rows: RowTerms | None = None

    @property
    def n(self) -> int:
        return self.sums.n

    @property
    def precision(self) -> str:
        return self.sums.precision

    @property
    def inner(self) -> np.ndarray:
        return self.sums.debiased if self.estimator == "debiased" else self.sums.biased

    def pairs(self, n: int) -> int:
        """What the inner product of two centred matrices of n inputs is divided by for HSIC."""
        return n * (n - 3) if self.estimator == "debiased" else (n - 1) ** 2

    def hsic_unit(self, p: int, q: int, function: str) -> float:
        """What turns the inner product of matrices p and q into the HSIC of their kernels.

        Raises
        ------
        ValueError: float64 cannot hold the product of the two kernels.
        """
        a, b = float(self.sums.scales[p]), float(self.sums.scales[q])
        if not 1e-280 < a * b < 1e280:
            raise ValueError(
                f"[{function}] expected x and y whose kernels' product float64 can hold, got kernels of about {a:.3g} "
                f"and {b:.3g}; scale the rows, or the kernel; cka does not depend on the size of its kernels"
            )
        return a * b / self.pairs(self.n)

    def null(self, p: int, q: int) -> Null:
        """The law of the inner product of matrices p and q over all relabellings of the inputs of one."""
        sums, n = self.sums, self.n
        if n < 4:
            return Null(math.nan, math.nan)
        if self.estimator == "debiased":  # U-centred matrices have a zero diagonal
            exact = trace_product_moments(n, 0.0, sums.debiased[p, p], 0.0, 0.0, sums.debiased[q, q], 0.0)
        else:
            exact = trace_product_moments(
                n, sums.trace[p], sums.biased[p, p], sums.squares[p], sums.trace[q], sums.biased[q, q], sums.squares[q]
            )
        if self.thirds is None:
            return exact
        a, b = self.thirds[p], self.thirds[q]
        skewness = trace_product_skewness(n, a.triangles, a.cubes, b.triangles, b.cubes)
        return Null(exact.mean, exact.sd, 0.0 if math.isnan(skewness) else skewness)

    def require_variance(self, names: Sequence[Rows], function: str) -> CentredKernels:
        """Itself.

        Raises
        ------
        ValueError: a matrix has a norm that rounding alone could have left.
        """
        rounding = self.sums.rounding if self.precision != "float64" else np.zeros(len(names))
        for rows, norm, least in zip(names, np.diag(self.inner), rounding, strict=True):
            if not norm > least:
                raise ValueError(
                    f"[{function}] expected {rows.name} with a kernel matrix that varies, got zero variance up to "
                    f"rounding: in the {self.estimator} form every pair of inputs looks equally alike"
                )
        return self


def check_estimator(estimator: Any, *, function: str) -> None:
    """Raises ValueError for an estimator of no known name."""
    if estimator not in ESTIMATORS:
        raise ValueError(f"[{function}] expected estimator 'debiased' or 'biased', got {estimator!r}")


def checked_sides(
    xs: Sequence[Any],
    ys: Sequence[Any],
    estimator: str,
    kernel: str | Kernel,
    function: str,
    *,
    device: Any = None,
) -> tuple[tuple[list[Rows], list[Rows]], Kernel]:
    """Both sides as rows of the same inputs, for a device, and the kernel that was named.

    Raises
    ------
    TypeError, ValueError: no rows of floats, lengths that differ, too few rows, an unknown estimator, kernel or device.
    """
    check_estimator(estimator, function=function)
    chosen = as_kernel(kernel, function=function)
    left, right = (
        [reductions.rows_on(one, device, function=function, name=name) for one in side]
        for side, name in ((xs, "x"), (ys, "y"))
    )
    for rows in right + left:
        same_inputs(left[0], rows, function=function)
    least = LEAST_ROWS[estimator]
    if len(left[0]) < least:
        raise ValueError(
            f"[{function}] expected x with at least {least} rows for the {estimator} estimator, got {len(left[0])}"
        )
    return (left, right), chosen


def centred_kernels(
    left: list[Rows],
    right: list[Rows],
    estimator: str,
    kernel: Kernel,
    *,
    function: str,
    jackknife: bool = False,
    threads: int | None = None,
    memory: int | str | None = None,
    block_rows: int | None = None,
    progress: Progress | None = None,
    in_tiles: bool = False,
    precision: str = "highest",
) -> CentredKernels:
    """Every matrix of the left side with every one of the right, each made once.

    ``in_tiles``: whatever would be less work.

    Raises
    ------
    TypeError, ValueError: bad options, rows that are not finite or all equal, a kernel matrix that does not vary, a
        memory that is too small.
    """
    count = thread_count(threads, function=function)
    budget = memory_budget(memory, function=function)
    if block_rows is not None:
        whole_number(block_rows, "block_rows", function=function)
    rows = [*left, *right]
    if jackknife and len(rows[0]) < LEAST_ROWS[estimator] + 1:
        raise ValueError(
            f"[{function}] expected {rows[0].name} with at least {LEAST_ROWS[estimator] + 1} rows for the jackknife, "
            f"got {len(rows[0])}"
        )
    check_precision(precision, rows[0], function=function)
    with reductions.working_on(rows, function=function):
        return _centred(
            rows, len(left), estimator, kernel, function=function, jackknife=jackknife, threads=count, budget=budget,
            block_rows=block_rows, progress=progress, precision=precision, in_tiles=in_tiles,
        )  # fmt: skip


def check_precision(precision: Any, rows: Rows, *, function: str) -> None:
    """Raises ValueError for a precision of no known name, or one that only GPUs have where the rows are on the CPU."""
    if precision not in reductions.PRECISIONS:
        raise ValueError(f"[{function}] expected precision 'highest', 'high' or 'medium', got {precision!r}")
    if precision != "highest" and not isinstance(rows, DeviceRows):
        raise ValueError(f"[{function}] expected precision 'highest' for rows on the CPU, got {precision!r}")


def _centred(
    rows: list[Rows],
    left: int,
    estimator: str,
    kernel: Kernel,
    *,
    function: str,
    jackknife: bool,
    threads: int,
    budget: int | None,
    block_rows: int | None,
    progress: Progress | None,
    precision: str,
    in_tiles: bool,
) -> CentredKernels:
    # On a GPU the rows stay there: leaving inputs out is done by tiles.
    tiled = in_tiles or (jackknife and isinstance(rows[0], DeviceRows))
    if kernel == Linear() and not tiled and in_feature_space(rows, left):
        sums = reductions.feature_sums(rows, left, function=function, threads=threads, memory=budget, progress=progress)
        # Where one input outweighs all others, the debiased form is a difference of nearly equal sums; the tiles,
        # which leave the diagonal out, do not have to take it.
        if keeps_digits(sums, estimator):
            terms = None
            if jackknife:
                terms = reductions.feature_row_terms(
                    rows, left, estimator, sums.scales, function=function, threads=threads
                )
            thirds = [reductions.third_moments(one, kernel) for one in rows]
            return CentredKernels(estimator, sums, thirds, terms).require_variance(rows, function)

    def typical(one: Rows, leaf: Bandwidth) -> float:
        return reductions.median_distance(
            one, distance=leaf.distance, sample=leaf.sample, function=function, threads=threads, memory=budget,
            block_rows=block_rows,
        )  # fmt: skip

    kernels = [kernel.resolve(functools.partial(typical, one)) for one in rows]
    sums, terms = reductions.kernel_sums(
        rows, left, kernels, function=function, threads=threads, memory=budget, block_rows=block_rows,
        progress=progress, row_terms=estimator if jackknife else None, precision=precision,
    )  # fmt: skip
    thirds = [reductions.third_moments(one, own) for one, own in zip(rows, kernels, strict=True)]
    return CentredKernels(estimator, sums, thirds, terms).require_variance(rows, function)


def keeps_digits(sums: HsicSums, estimator: str) -> bool:
    """Whether the form from products of features is no difference of sums that are nearly equal."""
    return estimator == "biased" or bool((np.diag(sums.debiased) > sums.rounding).all())


def in_feature_space(rows: Sequence[Rows], left: int) -> bool:
    """Whether products of features are less work than tiles, of rows whose fourth powers are numbers."""
    less = reductions.less_in_feature_space(len(rows[0]), [one.depth for one in rows], left)
    return less and all(map(reductions.has_fourth_powers, rows))
