"""The intrinsic dimension of a representation, from the distances of every input to its nearest neighbours."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..arguments import Progress, whole_number
from ..arrays import Rows
from ..reductions import lengths, nearest, on_host
from .neighbours import check_k
from .registry import Measure, invariant_to, register
from .similarity import Distance
from .statistics import difference_in, statistic_of

ESTIMATORS = ("two_nn", "levina_bickel")
_DISCARD, _K = 0.1, 10
_ENTRIES = 2**22  # of the float64 differences of rows held at a time


def _intrinsic_dimension(
    rows: Rows,
    *,
    function: str,
    threads: int,
    estimator: str = "two_nn",
    k: int | None = None,
    discard: float | None = None,
) -> float:
    if estimator not in ESTIMATORS:
        raise ValueError(f"[{function}] expected estimator 'two_nn' or 'levina_bickel', got {estimator!r}")
    if estimator == "two_nn":
        if k is not None:
            raise ValueError(f"[{function}] expected k only with estimator 'levina_bickel', got k={k!r}")
        share = _DISCARD if discard is None else _share(discard, function)
        return _two_nn(rows, share, function, threads)
    if discard is not None:
        raise ValueError(f"[{function}] expected discard only with estimator 'two_nn', got discard={discard!r}")
    neighbours = _K if k is None else whole_number(k, "k", function=function, least=2)
    return _levina_bickel(rows, neighbours, function, threads)


def _share(discard: Any, function: str) -> float:
    if isinstance(discard, bool) or not isinstance(discard, (int, float, np.integer, np.floating)):
        raise TypeError(f"[{function}] expected discard as a number, got {discard!r}")
    if not 0 <= discard < 1:
        raise ValueError(f"[{function}] expected discard of at least 0 and below 1, got {discard!r}")
    return float(discard)


def _two_nn(rows: Rows, discard: float, function: str, threads: int) -> float:
    n = len(rows)
    if n < 3:
        raise ValueError(f"[{function}] expected at least 3 inputs, got {n}")
    near = _distances(rows, 2, function, threads)
    logs = np.sort(np.log(near[:, 1] / near[:, 0]))
    # The largest ratio has all others below it, log(1 - n / n): there is no point for it on the line.
    kept = max(1, min(math.floor(round(n * (1 - discard), 6)), n - 1))
    logs = logs[:kept]
    heights = -np.log1p(-np.arange(1, kept + 1) / n)
    squares = float((logs * logs).sum())
    if squares == 0:
        raise ValueError(
            f"[{function}] expected {rows.name} whose first and second neighbours lie at different distances, got all "
            f"of {kept} inputs with both at the same"
        )
    return float((logs * heights).sum()) / squares


def _levina_bickel(rows: Rows, k: int, function: str, threads: int) -> float:
    check_k(k, len(rows) - 1, len(rows), function=function)
    near = _distances(rows, k, function, threads)
    means = np.log(near[:, -1:] / near[:, :-1]).mean(axis=1)
    if not means.all():
        raise ValueError(
            f"[{function}] expected {rows.name} whose neighbours lie at different distances, got row "
            f"{int(means.argmin())} with all {k} at the same"
        )
    return float((1 / means).mean())


def _distances(rows: Rows, k: int, function: str, threads: int) -> np.ndarray:
    """Euclidean distances [n, k] of every row to its nearest neighbours, ascending, in float64."""
    lists = on_host(nearest(rows, None, k, "euclidean", function=function, threads=threads).indices)
    n = len(rows)
    found = np.empty((n, k))
    step = max(1, _ENTRIES // ((k + 1) * rows.depth))
    for start in range(0, n, step):
        some = lists[start : start + step]
        near = rows.wide_there(some.ravel()).reshape(*some.shape, -1)
        near -= rows.wide_there(slice(start, start + step))[:, None]
        found[start : start + step] = lengths(near)  # equal rows are refused below
    same = np.flatnonzero(~(found[:, 0] > 0))
    if len(same):
        raise ValueError(
            f"[{function}] expected {rows.name} whose rows differ, got row {same[0]} equal to row {lists[same[0], 0]}"
        )
    return np.sort(found, axis=1)  # the graph is in this order but for its rounding


INTRINSIC_DIMENSION_DIFFERENCE = register(
    Measure(
        name="intrinsic_dimension_difference",
        family="intrinsic_dimension",
        kind="distance",
        low=0.0,
        high=np.inf,
        symmetric=True,
        metric=True,
        invariances=invariant_to("orthogonal", "isotropic_scaling", "translation"),
        cost="time n^2 (d + d'), memory n k",
        paper="Facco, d'Errico, Rodriguez and Laio (2017), Estimating the intrinsic dimension of datasets",
        formula="|i(x) - i(y)|, i the slope of -log(1 - rank / n) on log of second over first neighbour distance",
        aliases=("scikit-dimension: TwoNN", "scikit-dimension: MLE"),
        note="Equal rows are refused. No relabelling of the inputs changes it.",
        method=difference_in(_intrinsic_dimension, "intrinsic_dimension_difference", least_rows=3),
        self_value=0.0,
        gpu=True,
    )
)


def intrinsic_dimension(
    x: Any,
    *,
    estimator: str = "two_nn",
    k: int | None = None,
    discard: float | None = None,
    threads: int | None = None,
    device: Any = None,
) -> float:
    """How many coordinates the inputs vary along, from the exact distances to their nearest neighbours.

    Example::

        repsim.intrinsic_dimension(rng.uniform(size=(5000, 3)) @ rng.normal(size=(3, 100)))     # about 3

    Parameters
    ----------
    x: [n, d] array as for :func:`repsim.cka`, at least 3 inputs.
    estimator: "two_nn" (Facco et al. 2017): with m_i the distance to the second neighbour over that to the first, in
        ascending order, the slope through the origin of -log(1 - i / n) on log m_i, least squares. "levina_bickel"
        (2004): the mean over inputs of (k - 1) / sum_j<k log(T_k / T_j), T_j the distance to the j-th neighbour.
    k: neighbours for "levina_bickel", at least 2 and at most n - 1 (10 where None).
    discard: share of the largest m_i left out of the fit of "two_nn" (0.1 where None, as in the paper). The very
        largest is always left out.
    threads, device: as for :func:`repsim.cka`.

    Returns
    -------
    float, at least 0.

    Raises
    ------
    TypeError, ValueError: as for :func:`repsim.nearest`; an unknown estimator, or an option of the other one; equal
        rows (the first is named); neighbours that are all at one distance.

    Papers: Facco, d'Errico, Rodriguez and Laio (2017), "Estimating the intrinsic dimension of datasets by a minimal
        neighborhood information"; Levina and Bickel (2004), "Maximum likelihood estimation of intrinsic dimension".
    """
    options: dict[str, Any] = {"estimator": estimator, "k": k, "discard": discard}
    return statistic_of(_intrinsic_dimension, "intrinsic_dimension", x, threads, device, **options)


def intrinsic_dimension_difference(
    x: Any,
    y: Any,
    *,
    estimator: str = "two_nn",
    k: int | None = None,
    discard: float | None = None,
    permutations: int = 0,
    seed: int = 0,
    jackknife: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
    device: Any = None,
) -> Distance:
    """How far the intrinsic dimensions are apart.

    Example::

        repsim.intrinsic_dimension_difference(x, y)                                   # x [n, d], y [n, d']
        repsim.intrinsic_dimension_difference(x, y, estimator="levina_bickel", k=20)

    Parameters
    ----------
    x, y, permutations, seed, jackknife, threads, device: as for :func:`repsim.magnitude_difference`; at least 3 inputs.
    estimator, k, discard: as for :func:`intrinsic_dimension`.

    Returns
    -------
    Distance, at least 0: |i(x) - i(y)| with i of :func:`intrinsic_dimension`.

    Raises
    ------
    TypeError, ValueError: as for :func:`intrinsic_dimension`.

    Papers: as of :func:`intrinsic_dimension`.
    """
    options = {"estimator": estimator, "k": k, "discard": discard}
    return INTRINSIC_DIMENSION_DIFFERENCE.evaluate(
        x, y, options, permutations=permutations, seed=seed, jackknife=jackknife, threads=threads, progress=progress,
        device=device,
    )  # fmt: skip
