"""Centred kernel alignment and the Hilbert-Schmidt independence criterion, exact in O(n) memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import reductions
from ..arguments import Progress, thread_count, whole_number
from ..arrays import Rows, as_rows, same_inputs, tracks_gradient
from ..calibration import Null, trace_product_moments
from ..reductions import HsicSums
from .similarity import Grid, Similarity, grid_of

ESTIMATORS = ("debiased", "biased")


@dataclass(frozen=True)
class Linear:
    """k(x, x') = x . x'."""

    def __str__(self) -> str:
        return "linear"


@dataclass(frozen=True)
class RBF:
    """k(x, x') = exp(-|x - x'|^2 / (2 sigma^2)).

    Example::

        repsim.RBF(sigma=3.0); repsim.RBF(median_fraction=0.5)

    Give ``sigma``, in units of the features, or ``median_fraction``: sigma is then that fraction of the median
    distance between the inputs, of each side its own. The median is exact up to ``sample`` inputs and beyond that
    taken over ``sample`` evenly spaced ones.
    """

    sigma: float | None = None
    median_fraction: float | None = None
    sample: int = 2048

    def __post_init__(self) -> None:
        if (self.sigma is None) == (self.median_fraction is None):
            got = "neither" if self.sigma is None else "both"
            raise ValueError(f"[RBF] expected exactly one of sigma and median_fraction, got {got}")
        for name in ("sigma", "median_fraction"):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
                raise TypeError(f"[RBF] expected {name} as a number, got {type(value).__name__}")
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"[RBF] expected {name} as a positive number, got {value!r}")
        whole_number(self.sample, "sample", function="RBF", least=2)

    def bandwidth(self, rows: Rows, *, function: str, threads: int) -> float:
        """sigma for these rows."""
        if self.sigma is not None:
            return float(self.sigma)
        return float(self.median_fraction or 0) * reductions.median_distance(
            rows, sample=self.sample, function=function, threads=threads
        )

    def __str__(self) -> str:
        return (
            f"rbf(sigma={self.sigma:g})" if self.sigma is not None else f"rbf(median_fraction={self.median_fraction:g})"
        )


Kernel = Linear | RBF


def as_kernel(kernel: Any, *, function: str) -> Kernel:
    """The kernel a caller named: "linear", "rbf" (sigma = the median distance), or an instance."""
    if isinstance(kernel, (Linear, RBF)):
        return kernel
    if isinstance(kernel, str) and kernel == "linear":
        return Linear()
    if isinstance(kernel, str) and kernel == "rbf":
        return RBF(median_fraction=1.0)
    raise ValueError(
        f"[{function}] expected kernel 'linear', 'rbf', repsim.Linear() or repsim.RBF(...), got {kernel!r}"
    )


def cka(
    x: Any,
    y: Any,
    *,
    estimator: str = "debiased",
    kernel: str | Kernel = "linear",
    threads: int | None = None,
    block_rows: int | None = None,
    progress: Progress | None = None,
) -> Similarity:
    """Centred kernel alignment of two representations of the same inputs: HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y)).

    Example::

        x, y = rng.normal(size=(1000, 64)), rng.normal(size=(1000, 32))
        repsim.cka(x, y)                                   # about 0
        repsim.cka(x, x @ orthogonal)                      # 1
        repsim.cka(x, y, kernel=repsim.RBF(median_fraction=0.5))

    Parameters
    ----------
    x, y: [n, d] and [n, d'] arrays (numpy, memmap, torch CPU, DLPack) of float16, bfloat16, float32 or float64.
    estimator: "debiased" (Song et al. 2012, HSIC_1; at least 4 inputs; may be negative) or "biased" (Gretton et
        al. 2005; at least 2; grows towards 1 with d / n whatever the data).
    kernel: "linear", "rbf" (sigma = the median distance), ``RBF(...)`` or ``Linear()``.
    threads: default REPSIM_NUM_THREADS, else every CPU of the process. The result does not depend on it.
    block_rows: rows packed at a time, in whole tiles of 192 (default: what fits 128 MiB); the result does not
        depend on it.
    progress: called with (steps done, steps in all).

    Returns
    -------
    Similarity with the value, and the exact mean and sd of the statistic over all relabellings of y (Kazi-Aoual et
    al. 1995) as z and a normal p. Linear kernels with no more features than inputs are summed in float64 in feature
    space; everything else over float32 tiles.

    Raises
    ------
    TypeError, ValueError: inputs that are no rows of floats, differ in length, are too few, not finite (the row
        is named), or all equal.

    Papers: Cortes, Mohri and Rostamizadeh (2012); Kornblith et al. (2019); Nguyen, Raghu and Kornblith (2021) for
        the debiased form.
    """
    if tracks_gradient(x, y):
        return _differentiable(
            x, y, "cka", estimator=estimator, kernel=kernel, block_rows=block_rows, threads=threads, progress=progress
        )
    return cka_grid(
        [x], [y], estimator=estimator, kernel=kernel, threads=threads, block_rows=block_rows, progress=progress
    ).at(0, 0, "cka")


def hsic(
    x: Any,
    y: Any,
    *,
    estimator: str = "debiased",
    kernel: str | Kernel = "linear",
    threads: int | None = None,
    block_rows: int | None = None,
    progress: Progress | None = None,
) -> Similarity:
    """Hilbert-Schmidt independence criterion: tr(KHLH) / (n - 1)^2 ("biased") or HSIC_1 ("debiased").

    Example::

        repsim.hsic(x, y, kernel="rbf", estimator="biased")   # x [n, d], y [n, d']

    Parameters, raises: as for :func:`cka`. Returns a Similarity whose value is in units of the two kernels' product.

    Papers: Gretton et al. (2005); Song et al. (2012), "Feature selection via dependence maximization".
    """
    if tracks_gradient(x, y):
        return _differentiable(
            x, y, "hsic", estimator=estimator, kernel=kernel, block_rows=block_rows, threads=threads, progress=progress
        )
    (left, right), chosen = _checked([x], [y], estimator, kernel, "hsic")
    sums = _sums(left, right, estimator, chosen, "hsic", threads, block_rows, progress)
    n = sums.n
    unit = n * (n - 3) if estimator == "debiased" else (n - 1) ** 2
    null = _statistic_null(sums, 0, 1, estimator)
    cell = (
        float(_inner(sums, estimator, [*left, *right], "hsic")[0, 1]) / unit,
        Null(null.mean / unit, null.sd / unit),
        None,
    )
    return grid_of([[cell]], n, {"estimator": estimator, "kernel": str(chosen)}, sums.precision).at(0, 0, "hsic")


def _differentiable(x: Any, y: Any, statistic: str, **options: Any) -> Any:
    from .gradients import alikeness  # torch, which whoever has a tensor has imported

    return alikeness(x, y, statistic=statistic, **options)


def cka_grid(
    xs: Sequence[Any],
    ys: Sequence[Any],
    *,
    estimator: str = "debiased",
    kernel: str | Kernel = "linear",
    threads: int | None = None,
    block_rows: int | None = None,
    progress: Progress | None = None,
) -> Grid:
    """:func:`cka` between every layer in ``xs`` [n, d_i] and every layer in ``ys`` [n, d_j], each tile made once."""
    (left, right), chosen = _checked(xs, ys, estimator, kernel, "cka")
    sums = _sums(left, right, estimator, chosen, "cka", threads, block_rows, progress)
    inner = _inner(sums, estimator, [*left, *right], "cka")
    cells = []
    for i in range(len(left)):
        row = []
        for j in range(len(left), len(left) + len(right)):
            # One square root of the product: the CKA of x with itself is then exactly 1.
            norm = math.sqrt(inner[i, i] * inner[j, j])
            null = _statistic_null(sums, i, j, estimator)
            row.append((float(inner[i, j]) / norm, Null(null.mean / norm, null.sd / norm), None))
        cells.append(row)
    return grid_of(cells, sums.n, {"estimator": estimator, "kernel": str(chosen)}, sums.precision)


def _checked(
    xs: Sequence[Any], ys: Sequence[Any], estimator: str, kernel: str | Kernel, function: str
) -> tuple[tuple[list[Rows], list[Rows]], Kernel]:
    if estimator not in ESTIMATORS:
        raise ValueError(f"[{function}] expected estimator 'debiased' or 'biased', got {estimator!r}")
    chosen = as_kernel(kernel, function=function)
    left = [as_rows(x, function=function, name="x") for x in xs]
    right = [as_rows(y, function=function, name="y") for y in ys]
    for rows in right + left:
        same_inputs(left[0], rows, function=function)
    least = 4 if estimator == "debiased" else 2
    if len(left[0]) < least:
        raise ValueError(
            f"[{function}] expected x with at least {least} rows for the {estimator} estimator, got {len(left[0])}"
        )
    return (left, right), chosen


def _sums(
    left: list[Rows],
    right: list[Rows],
    estimator: str,
    kernel: Kernel,
    function: str,
    threads: int | None,
    block_rows: int | None,
    progress: Progress | None,
) -> HsicSums:
    count = thread_count(threads, function=function)
    if block_rows is not None:
        whole_number(block_rows, "block_rows", function=function)
    rows = [*left, *right]
    sigmas = None
    if isinstance(kernel, RBF):
        sigmas = [kernel.bandwidth(one, function=function, threads=count) for one in rows]
    elif max(one.depth for one in rows) <= len(rows[0]):
        sums = reductions.feature_sums(rows, len(left), function=function, threads=count, progress=progress)
        # Where one input outweighs all others, the debiased form is a difference of nearly equal sums; the tiles,
        # which leave the diagonal out, do not have to take it.
        if estimator == "biased" or (np.diag(sums.debiased) > sums.rounding).all():
            return sums
    return reductions.kernel_sums(
        rows, len(left), sigmas, function=function, threads=count, block_rows=block_rows, progress=progress
    )


def _inner(sums: HsicSums, estimator: str, names: list[Rows], function: str) -> np.ndarray:
    """[P, P] inner products of the centred kernel matrices.

    Raises
    ------
    ValueError: one has a norm that rounding alone could have left.
    """
    inner = sums.debiased if estimator == "debiased" else sums.biased
    rounding = sums.rounding if sums.precision == "float32" else np.zeros(len(names))
    for rows, norm, least in zip(names, np.diag(inner), rounding, strict=True):
        if not norm > least:
            raise ValueError(
                f"[{function}] expected {rows.name} with a kernel matrix that varies, "
                f"got zero variance up to rounding: in the {estimator} form every pair of inputs looks equally alike"
            )
    return inner


def _statistic_null(sums: HsicSums, p: int, q: int, estimator: str) -> Null:
    n = sums.n
    if n < 4:
        return Null(math.nan, math.nan)
    if estimator == "debiased":  # U-centred matrices have a zero diagonal
        return trace_product_moments(n, 0.0, sums.debiased[p, p], 0.0, 0.0, sums.debiased[q, q], 0.0)
    return trace_product_moments(
        n, sums.trace[p], sums.biased[p, p], sums.squares[p], sums.trace[q], sums.biased[q, q], sums.squares[q]
    )
