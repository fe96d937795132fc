"""Centred kernel alignment and the Hilbert-Schmidt independence criterion, exact in O(n) memory."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import reductions
from ..arguments import Progress, thread_count, whole_number
from ..arrays import Rows, as_rows, same_inputs
from ..calibration import Null, trace_product_moments, trace_product_skewness
from ..kernels import Bandwidth, Kernel, Linear, as_kernel
from ..reductions import HsicSums, RowTerms, ThirdMoments
from .similarity import Grid, Similarity, grid_of

ESTIMATORS = ("debiased", "biased")


ESTIMATORS = ("debiased", "biased")
LEAST_ROWS = {"debiased": 4, "biased": 2}


def cka(
    x: Any,
    y: Any,
    *,
    estimator: str = "debiased",
    kernel: str | Kernel = "linear",
    jackknife: bool = False,
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
    kernel: "linear", "cosine", "polynomial", "rbf", "laplacian_l2" or "laplacian_l1" (the last three with sigma = the
        median distance), an instance such as ``RBF(median_fraction=0.5)``, or a sum, product or multiple of instances.
    jackknife: leave out every input in turn for the standard error of the value (``standard_error`` and ``interval`` of
        the result), exactly: one more traversal of the same cost.
    threads: default REPSIM_NUM_THREADS, else every CPU of the process. The result does not depend on it.
    block_rows: rows packed at a time, in whole tiles of 192 (default: what fits 128 MiB); the result does not
        depend on it.
    progress: called with (steps done, steps in all).

    Returns
    -------
    Similarity with the value, and its law over all relabellings of y: the exact mean and sd (Kazi-Aoual et al. 1995),
    the skewness of the debiased form (exact up to 255 inputs, beyond that from 255 of them), and z and p from these by
    Pearson's third law. Linear kernels with no more features than inputs are summed in float64 in feature space;
    everything else over float32 tiles.

    Raises
    ------
    TypeError, ValueError: inputs that are no rows of floats, differ in length, are too few, not finite (the row
        is named), or all equal.

    Papers: Cortes, Mohri and Rostamizadeh (2012); Kornblith et al. (2019); Nguyen, Raghu and Kornblith (2021) for
        the debiased form.
    """
    return cka_grid(
        [x],
        [y],
        estimator=estimator,
        kernel=kernel,
        jackknife=jackknife,
        threads=threads,
        block_rows=block_rows,
        progress=progress,
    ).at(0, 0, "cka")


def angular_cka(
    x: Any,
    y: Any,
    *,
    estimator: str = "debiased",
    kernel: str | Kernel = "linear",
    threads: int | None = None,
    block_rows: int | None = None,
    progress: Progress | None = None,
) -> float:
    """The angle between the centred kernel matrices, arccos(CKA), in radians: a distance.

    Example::

        repsim.angular_cka(x, y)                           # about pi / 2 for x and y that have nothing in common

    Parameters, raises: as for :func:`cka`. Returns a float from 0 to pi; from the biased estimator to pi / 2. It obeys
    the triangle inequality with one estimator and one kernel of fixed bandwidth. CKA is a cosine: what rounding leaves
    beyond 1 counts as 1.

    Paper: Williams, Kunz, Kornblith and Linderman (2021), "Generalized shape metrics on neural representations".
    """
    value = cka(
        x, y, estimator=estimator, kernel=kernel, threads=threads, block_rows=block_rows, progress=progress
    ).value
    return math.acos(max(-1.0, min(value, 1.0)))


def hsic(
    x: Any,
    y: Any,
    *,
    estimator: str = "debiased",
    kernel: str | Kernel = "linear",
    jackknife: bool = False,
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
    sides, chosen = _checked([x], [y], estimator, kernel, "hsic")
    made = _sums(*sides, estimator, chosen, "hsic", jackknife, threads, block_rows, progress)
    n = made.sums.n
    unit = _pairs(n, estimator)
    value = float(_inner(made.sums, estimator, [side[0] for side in sides], "hsic")[0, 1]) / unit
    cell = (value, made.null(0, 1, estimator).scaled(unit), None)
    errors = None
    if made.rows is not None:
        errors = np.array([[_jackknife(made.rows.without_each(0, 1) / _pairs(n - 1, estimator))]])
    options = {"estimator": estimator, "kernel": str(chosen)}
    return grid_of([[cell]], n, options, made.sums.precision, standard_errors=errors).at(0, 0, "hsic")


def _pairs(n: int, estimator: str) -> int:
    """What the inner product of two centred matrices is divided by."""
    return n * (n - 3) if estimator == "debiased" else (n - 1) ** 2


def cka_grid(
    xs: Sequence[Any],
    ys: Sequence[Any],
    *,
    estimator: str = "debiased",
    kernel: str | Kernel = "linear",
    jackknife: bool = False,
    threads: int | None = None,
    block_rows: int | None = None,
    progress: Progress | None = None,
) -> Grid:
    """:func:`cka` between every layer in ``xs`` [n, d_i] and every layer in ``ys`` [n, d_j], each tile made once.

    ``jackknife`` takes O(n (L1 + L2)^2) memory.
    """
    (left, right), chosen = _checked(xs, ys, estimator, kernel, "cka")
    made = _sums(left, right, estimator, chosen, "cka", jackknife, threads, block_rows, progress)
    inner = _inner(made.sums, estimator, [*left, *right], "cka")
    errors = np.empty((len(left), len(right))) if jackknife else None
    cells = []
    for i in range(len(left)):
        row = []
        for j in range(len(left), len(left) + len(right)):
            # One square root of the product: the CKA of x with itself is then exactly 1.
            norm = math.sqrt(inner[i, i] * inner[j, j])
            row.append((float(inner[i, j]) / norm, made.null(i, j, estimator).scaled(norm), None))
            if made.rows is not None and errors is not None:
                own = made.rows.without_each(i, i) * made.rows.without_each(j, j)
                with np.errstate(invalid="ignore"):  # nothing left without one input: its standard error is NaN
                    errors[i, j - len(left)] = _jackknife(made.rows.without_each(i, j) / np.sqrt(own))
        cells.append(row)
    options = {"estimator": estimator, "kernel": str(chosen)}
    return grid_of(cells, made.sums.n, options, made.sums.precision, standard_errors=errors)


def _jackknife(values: np.ndarray) -> float:
    """Standard error from the values without each input (Tukey 1958)."""
    n = len(values)
    return math.sqrt((n - 1) / n * float(((values - values.mean()) ** 2).sum()))


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
    least = LEAST_ROWS[estimator]
    if len(left[0]) < least:
        raise ValueError(
            f"[{function}] expected x with at least {least} rows for the {estimator} estimator, got {len(left[0])}"
        )
    return (left, right), chosen


@dataclass(frozen=True)
class _Made:
    """The sums of all matrices, what chance needs beside them, and what leaving out an input needs."""

    sums: HsicSums
    thirds: list[ThirdMoments]
    rows: RowTerms | None

    def null(self, p: int, q: int, estimator: str) -> Null:
        """The law of the inner product of matrices p and q over all relabellings."""
        sums, n = self.sums, self.sums.n
        if n < 4:
            return Null(math.nan, math.nan)
        a, b = self.thirds[p], self.thirds[q]
        skewness = trace_product_skewness(n, a.triangles, a.cubes, b.triangles, b.cubes)
        if estimator == "debiased":  # U-centred matrices have a zero diagonal
            exact = trace_product_moments(n, 0.0, sums.debiased[p, p], 0.0, 0.0, sums.debiased[q, q], 0.0)
        else:
            exact = trace_product_moments(
                n, sums.trace[p], sums.biased[p, p], sums.squares[p], sums.trace[q], sums.biased[q, q], sums.squares[q]
            )
        return Null(exact.mean, exact.sd, 0.0 if math.isnan(skewness) else skewness)


def _sums(
    left: list[Rows],
    right: list[Rows],
    estimator: str,
    kernel: Kernel,
    function: str,
    jackknife: bool,
    threads: int | None,
    block_rows: int | None,
    progress: Progress | None,
) -> _Made:
    count = thread_count(threads, function=function)
    if block_rows is not None:
        whole_number(block_rows, "block_rows", function=function)
    rows = [*left, *right]
    if jackknife and len(rows[0]) < LEAST_ROWS[estimator] + 1:
        raise ValueError(
            f"[{function}] expected {rows[0].name} with at least {LEAST_ROWS[estimator] + 1} rows for the jackknife, "
            f"got {len(rows[0])}"
        )
    if kernel == Linear() and max(one.depth for one in rows) <= len(rows[0]):
        sums = reductions.feature_sums(rows, len(left), function=function, threads=count, progress=progress)
        # Where one input outweighs all others, the debiased form is a difference of nearly equal sums; the tiles,
        # which leave the diagonal out, do not have to take it.
        if estimator == "biased" or (np.diag(sums.debiased) > sums.rounding).all():
            terms = None
            if jackknife:
                terms = reductions.feature_row_terms(rows, len(left), estimator, function=function, threads=count)
            return _Made(sums, [reductions.third_moments(one, kernel) for one in rows], terms)

    def typical(one: Rows, leaf: Bandwidth) -> float:
        return reductions.median_distance(
            one, distance=leaf.distance, sample=leaf.sample, function=function, threads=count, block_rows=block_rows
        )

    kernels = [kernel.resolve(functools.partial(typical, one)) for one in rows]
    sums, terms = reductions.kernel_sums(
        rows,
        len(left),
        kernels,
        function=function,
        threads=count,
        block_rows=block_rows,
        progress=progress,
        row_terms=estimator if jackknife else None,
    )
    thirds = [reductions.third_moments(one, own) for one, own in zip(rows, kernels, strict=True)]
    return _Made(sums, thirds, terms)


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
