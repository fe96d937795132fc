"""Centred kernel alignment and the Hilbert-Schmidt independence criterion, exact in O(n) memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..arguments import Progress
from ..arrays import Rows, tracks_gradient
from ..calibration import Null, jackknife_error
from ..kernels import Kernel
from .centred import CentredKernels, centred_kernels, checked_sides
from .linear_pairs import LinearPairs
from .registry import Measure, invariant_to, register
from .similarity import Grid, Similarity, grid_of

_FEATURES = "linear: time n (d + d')^2, memory d d'; kernels: time n^2 (d + d'), memory n"
_ROWS_TURNED = invariant_to("orthogonal", "isotropic_scaling", "translation")

register(
    Measure(
        name="cka",
        family="cka",
        kind="similarity",
        low=-1.0,
        high=1.0,
        symmetric=True,
        invariances=_ROWS_TURNED,
        cost=_FEATURES,
        paper="Kornblith, Norouzi, Lee and Hinton (2019), Similarity of neural network representations revisited",
        formula="HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y)), debiased by default",
        self_value=1.0,
        aliases=("ckatorch: cka_base", "rsatoolbox: cosine_cov (biased, linear)", "RV coefficient (biased, linear)"),
        gpu=True,
        note="the biased estimator grows towards 1 with d / n whatever the data; the null is exact",
    )
)
register(
    Measure(
        name="angular_cka",
        family="cka",
        kind="distance",
        low=0.0,
        high=math.pi,
        symmetric=True,
        metric=True,
        invariances=_ROWS_TURNED,
        cost=_FEATURES,
        paper="Williams, Kunz, Kornblith and Linderman (2021), Generalized shape metrics on neural representations",
        formula="arccos(CKA)",
        self_value=0.0,
        gpu=True,
    )
)
register(
    Measure(
        name="hsic",
        family="cka",
        kind="similarity",
        low=-math.inf,
        high=math.inf,
        symmetric=True,
        invariances=invariant_to("orthogonal", "translation"),
        cost=_FEATURES,
        paper="Gretton, Bousquet, Smola and Schoelkopf (2005), Measuring statistical dependence; Song et al. (2012)",
        formula="tr(KHLH) / (n - 1)^2, or the debiased HSIC_1",
        gpu=True,
        note="in units of both kernels: not comparable between layers",
    )
)


def cka(
    x: Any,
    y: Any,
    *,
    estimator: str = "debiased",
    kernel: str | Kernel = "linear",
    jackknife: bool = False,
    threads: int | None = None,
    memory: int | str | None = None,
    block_rows: int | None = None,
    progress: Progress | None = None,
    precision: str = "highest",
    device: Any = None,
) -> Similarity:
    """Centred kernel alignment of two representations of the same inputs: HSIC(x, y) / sqrt(HSIC(x, x) HSIC(y, y)).

    Example::

        x, y = rng.normal(size=(1000, 64)), rng.normal(size=(1000, 32))
        repsim.cka(x, y)                                   # about 0
        repsim.cka(x, x @ orthogonal)                      # 1
        repsim.cka(x, y, kernel=repsim.RBF(median_fraction=0.5))

    Parameters
    ----------
    x, y: [n, d] and [n, d'] arrays (numpy, memmap, torch, DLPack) of float16, bfloat16, float32 or float64.
    estimator: "debiased" (Song et al. 2012, HSIC_1; at least 4 inputs; may be negative) or "biased" (Gretton et
        al. 2005; at least 2; grows towards 1 with d / n whatever the data).
    kernel: "linear", "cosine", "polynomial", "rbf", "laplacian_l2" or "laplacian_l1" (the last three with sigma = the
        median distance), an instance such as ``RBF(median_fraction=0.5)``, or a sum, product or multiple of instances.
    jackknife: leave out every input in turn for the standard error of the value (``standard_error`` and ``interval`` of
        the result), exactly: one more traversal of the same cost. Bandwidths stay those of all inputs.
    threads: default REPSIM_NUM_THREADS, else every CPU of the process. The result does not depend on it.
    memory: bytes, or text such as "512MiB", for packed blocks, products of features and pages of memory maps, beside
        the inputs and O(n) sums (default: 128 MiB of blocks, and products of features as wide as the layers). The
        result does not depend on it.
    block_rows: rows packed at a time, in whole tiles of 192 (default: what fits the memory); nor on this.
    progress: called with (steps done, steps in all).
    precision: of the rows in the products of tiles on a GPU, in torch's words: "highest" (float32), "high" (rounded to
        tf32) or "medium" (to bfloat16). Sums stay exact integers. On the CPU there is "highest" only.
    device: where to work: None, where x and y lie; or a GPU, such as "cuda" or "cuda:1", that arrays and memory maps on
        the CPU, also larger ones than its memory, are brought to a block at a time while it works on another. The
        result is that of arrays that lie there, bit for bit. Two blocks of each are held in pinned memory of the host.

    x and y may lie on one GPU of compute capability 8.0 or later (torch, CuPy, JAX, DLPack), where this build has the
    operations for it. They are worked on where they lie, on torch's current stream; ``threads`` then does not matter,
    ``memory`` is of the GPU (default: half of what is free), and as much of the host's may be pinned (by default half
    of what is available there); its tiles have up to 3072 rows. A sample of up to 2 048 rows is read on the CPU.

    Returns
    -------
    Similarity with the value, and its law over all relabellings of y: the exact mean and sd (Kazi-Aoual et al. 1995),
    the skewness of the debiased form (exact up to 255 inputs, beyond that from 255 of them), and z and p from these by
    Pearson's third law. Linear kernels with no more features than inputs are summed in float64 in feature space;
    everything else over float32 tiles.

    Where x or y is a torch tensor that requires grad: a torch scalar instead, with exact gradients in O(n d) memory, to
    train with (repsim.measures.gradients says more). ``jackknife``, ``threads``, ``memory`` and ``progress`` are then
    refused.

    Raises
    ------
    TypeError, ValueError: inputs that are no rows of floats, differ in length, are too few, not finite (the row
        is named), or all equal.

    Papers: Cortes, Mohri and Rostamizadeh (2012); Kornblith et al. (2019); Nguyen, Raghu and Kornblith (2021) for
        the debiased form.
    """
    if tracks_gradient(x, y):
        return _differentiable(
            x, y, "cka", estimator=estimator, kernel=kernel, block_rows=block_rows, jackknife=jackknife or None,
            threads=threads, memory=memory, progress=progress, precision=None if precision == "highest" else precision,
            device=device,
        )  # fmt: skip
    return cka_grid(
        [x],
        [y],
        estimator=estimator,
        kernel=kernel,
        jackknife=jackknife,
        threads=threads,
        memory=memory,
        block_rows=block_rows,
        progress=progress,
        precision=precision,
        device=device,
    ).at(0, 0, "cka")


def angular_cka(
    x: Any,
    y: Any,
    *,
    estimator: str = "debiased",
    kernel: str | Kernel = "linear",
    threads: int | None = None,
    memory: int | str | None = None,
    block_rows: int | None = None,
    progress: Progress | None = None,
    precision: str = "highest",
    device: Any = None,
) -> float:
    """The angle between the centred kernel matrices, arccos(CKA), in radians: a distance.

    Example::

        repsim.angular_cka(x, y)                           # about pi / 2 for x and y that have nothing in common

    Parameters, raises: as for :func:`cka`. Returns a float from 0 to pi; from the biased estimator to pi / 2. It obeys
    the triangle inequality with one estimator and one kernel of fixed bandwidth. CKA is a cosine: what rounding leaves
    beyond 1 counts as 1.

    Paper: Williams, Kunz, Kornblith and Linderman (2021), "Generalized shape metrics on neural representations".
    """
    grid = cka_grid(
        [x], [y], estimator=estimator, kernel=kernel, threads=threads, memory=memory, block_rows=block_rows,
        progress=progress, precision=precision, device=device, function="angular_cka",
    )  # fmt: skip
    return _angle(float(grid.values[0, 0]))


def hsic(
    x: Any,
    y: Any,
    *,
    estimator: str = "debiased",
    kernel: str | Kernel = "linear",
    jackknife: bool = False,
    threads: int | None = None,
    memory: int | str | None = None,
    block_rows: int | None = None,
    progress: Progress | None = None,
    precision: str = "highest",
    device: Any = None,
) -> Similarity:
    """Hilbert-Schmidt independence criterion: tr(KHLH) / (n - 1)^2 ("biased") or HSIC_1 ("debiased").

    Example::

        repsim.hsic(x, y, kernel="rbf", estimator="biased")   # x [n, d], y [n, d']

    Parameters, raises: as for :func:`cka`. Returns a Similarity whose value is in units of the two kernels' product;
    for tensors that require grad a torch scalar, as there.

    Papers: Gretton et al. (2005); Song et al. (2012), "Feature selection via dependence maximization".
    """
    if tracks_gradient(x, y):
        return _differentiable(
            x, y, "hsic", estimator=estimator, kernel=kernel, block_rows=block_rows, jackknife=jackknife or None,
            threads=threads, memory=memory, progress=progress, precision=None if precision == "highest" else precision,
            device=device,
        )  # fmt: skip
    (left, right), chosen = checked_sides([x], [y], estimator, kernel, "hsic", device=device)
    made = centred_kernels(
        left, right, estimator, chosen, function="hsic", jackknife=jackknife, threads=threads, memory=memory,
        block_rows=block_rows, progress=progress, precision=precision,
    )  # fmt: skip
    cell = _hsic_cell(made, 0, 1)
    errors = None
    if made.rows is not None:
        n = made.n
        left_out = made.hsic_unit(0, 1, "hsic") * made.pairs(n) / made.pairs(n - 1)
        errors = np.array([[jackknife_error(made.rows.without_each(0, 1) * left_out)]])
    options = {"estimator": estimator, "kernel": str(chosen)}
    return grid_of([[cell]], made.n, options, made.precision, standard_errors=errors).at(0, 0, "hsic")


def _differentiable(x: Any, y: Any, statistic: str, **options: Any) -> Any:
    from .gradients import alikeness  # and torch with it, which whoever has a tensor has imported

    return alikeness(x, y, statistic=statistic, **options)


Cell = tuple[float, Null, float | None]  # value, null, and p where it is not that of the null


def _cka_cell(made: CentredKernels, p: int, q: int) -> Cell:
    # One square root of the product: the CKA of x with itself is then exactly 1.
    norm = math.sqrt(made.inner[p, p] * made.inner[q, q])
    return float(made.inner[p, q]) / norm, made.null(p, q).scaled(norm), None


def _hsic_cell(made: CentredKernels, p: int, q: int) -> Cell:
    unit = made.hsic_unit(p, q, "hsic")
    return float(made.inner[p, q]) * unit, made.null(p, q).scaled(1 / unit), None


def _angular_cell(made: CentredKernels, p: int, q: int) -> Cell:
    value, null, _ = _cka_cell(made, p, q)  # of the angle itself only the order by chance is known: p
    return _angle(value), Null(math.nan, math.nan, math.nan), null.p(value)


def _angle(cosine: float) -> float:
    return math.acos(max(-1.0, min(cosine, 1.0)))


CELLS: dict[str, Callable[[CentredKernels, int, int], Cell]] = {
    "cka": _cka_cell,
    "hsic": _hsic_cell,
    "angular_cka": _angular_cell,
}


def statistic_grid(
    statistic: str,
    xs: Sequence[Rows],
    ys: Sequence[Rows],
    *,
    estimator: str,
    kernel: Kernel,
    linear: LinearPairs | None = None,
    threads: int | None = None,
    memory: int | str | None = None,
) -> Grid:
    """:func:`cka`, :func:`hsic` or :func:`angular_cka` between every layer in ``xs`` and every layer in ``ys``.

    Every pair has the bits that the function gives it alone. ``linear``: what was found of the pairs of the linear
    kernel that are taken in feature space; all others share the tiles of one traversal.
    """
    (left, right), chosen = checked_sides(xs, ys, estimator, kernel, statistic)
    cell = CELLS[statistic]
    cells: dict[tuple[int, int], Cell] = {}
    precisions = set()
    for i, j in np.ndindex(len(left), len(right)):
        made = None if linear is None else linear.of(i, j, estimator, statistic)
        if made is not None:
            cells[i, j] = cell(made, 0, 1)
            precisions.add(made.precision)
    rest = [pair for pair in np.ndindex(len(left), len(right)) if pair not in cells]
    if rest:
        down, across = (sorted(set(side)) for side in zip(*rest, strict=True))
        made = centred_kernels(
            [left[i] for i in down], [right[j] for j in across], estimator, chosen, function=statistic,
            threads=threads, memory=memory, in_tiles=True,
        )  # fmt: skip
        for i, j in rest:
            cells[i, j] = cell(made, down.index(i), len(down) + across.index(j))
        precisions.add(made.precision)
    grid = grid_of(
        [[cells[i, j] for j in range(len(right))] for i in range(len(left))],
        len(left[0]),
        {"estimator": estimator, "kernel": str(chosen)},
        " or ".join(sorted(precisions)),
    )
    if statistic == "angular_cka":
        skewed = estimator == "debiased" and len(left[0]) >= 6
        law = "pearson" if skewed else "normal"
        return replace(grid, kind="distance", null_from="not known", p_from=f"{law} of cka")
    return grid


def cka_grid(
    xs: Sequence[Any],
    ys: Sequence[Any],
    *,
    estimator: str = "debiased",
    kernel: str | Kernel = "linear",
    jackknife: bool = False,
    threads: int | None = None,
    memory: int | str | None = None,
    block_rows: int | None = None,
    progress: Progress | None = None,
    precision: str = "highest",
    device: Any = None,
    function: str = "cka",
) -> Grid:
    """:func:`cka` between every layer in ``xs`` [n, d_i] and every layer in ``ys`` [n, d_j], each tile made once.

    ``jackknife`` takes O(n (L1 + L2)^2) memory. ``function`` is who asks, for error messages.
    """
    (left, right), chosen = checked_sides(xs, ys, estimator, kernel, function, device=device)
    made = centred_kernels(
        left, right, estimator, chosen, function=function, jackknife=jackknife, threads=threads, memory=memory,
        block_rows=block_rows, progress=progress, precision=precision,
    )  # fmt: skip
    errors = np.empty((len(left), len(right))) if jackknife else None
    cells = []
    for i in range(len(left)):
        row = []
        for j in range(len(left), len(left) + len(right)):
            row.append(_cka_cell(made, i, j))
            if made.rows is not None and errors is not None:
                own = made.rows.without_each(i, i) * made.rows.without_each(j, j)
                with np.errstate(invalid="ignore"):  # nothing left without one input: its standard error is NaN
                    errors[i, j - len(left)] = jackknife_error(made.rows.without_each(i, j) / np.sqrt(own))
        cells.append(row)
    options = {"estimator": estimator, "kernel": str(chosen)}
    return grid_of(cells, made.n, options, made.precision, standard_errors=errors)
