"""Similarities of single neurons (columns), their ranking over many models, and where information is localized."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..arguments import Progress, thread_count
from ..arrays import Rows, same_inputs
from ..reductions import cross_products, own_products, rows_on, working_on
from .method import Method
from .registry import Measure, invariant_to, register
from .similarity import Similarity

_WU = (
    "Wu, Belinkov, Sajjad, Durrani, Dalvi and Glass (2020), Similarity analysis of contextual word representation "
    "models"
)
_BY_COLUMN = invariant_to("permutation", "isotropic_scaling", "translation")
_LEAST_ROWS = 3  # any two inputs correlate perfectly
# Of the variance of the largest direction and per column: what rounding leaves of a direction that is not there.
_ROUNDING = 64 * float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class _Neurons:
    """``norms`` [d] of the centred columns; ``basis`` [d, r]: the centred columns times it are orthonormal."""

    rows: Rows
    norms: np.ndarray
    basis: np.ndarray | None = None
    order: np.ndarray | None = None


def _correlations(function: str) -> Method[_Neurons]:
    def prepare(rows: Rows, threads: int) -> _Neurons:
        return _Neurons(rows, _norms(rows, _products(rows, function, threads), function))

    def between(x: _Neurons, y: _Neurons, threads: int) -> float:
        return float(_best_correlations(x, y, function, threads).mean())

    return Method(prepare, between, _relabelled, least_rows=_LEAST_ROWS)


def _regression() -> Method[_Neurons]:
    function = "linreg"

    def between(x: _Neurons, y: _Neurons, threads: int) -> float:
        return float(_multiple_correlations(x, y, function, threads).mean())

    return Method(lambda rows, threads: _with_basis(rows, function, threads), between, _relabelled, _LEAST_ROWS)


def _relabelled(neurons: _Neurons, order: np.ndarray) -> _Neurons:
    return replace(neurons, order=order)


def _products(rows: Rows, function: str, threads: int) -> np.ndarray:
    return own_products(rows, function=function, threads=threads).xy


def _norms(rows: Rows, products: np.ndarray, function: str) -> np.ndarray:
    squares = np.diag(products)
    if not (squares > 0).all():
        raise ValueError(
            f"[{function}] expected {rows.name} whose columns all vary, got zero variance in column "
            f"{int((squares <= 0).argmax())}; leave such neurons out"
        )
    return np.sqrt(squares)


def _with_basis(rows: Rows, function: str, threads: int) -> _Neurons:
    products = _products(rows, function, threads)
    norms = _norms(rows, products, function)
    variances, directions = np.linalg.eigh(products / np.outer(norms, norms))
    kept = variances > _ROUNDING * rows.depth * variances[-1]
    return _Neurons(rows, norms, directions[:, kept] / np.sqrt(variances[kept]) / norms[:, None])


def _cross(x: _Neurons, y: _Neurons, function: str, threads: int) -> np.ndarray:
    """Covariances of the columns of x, at unit norm, with those of y, [d, d']."""
    return cross_products(x.rows, y.rows, y.order, function=function, threads=threads).xy / x.norms[:, None]


def _best_correlations(x: _Neurons, y: _Neurons, function: str, threads: int) -> np.ndarray:
    """max_j |correlation of columns i of x and j of y|, [d]."""
    return np.abs(_cross(x, y, function, threads) / y.norms).max(axis=1)


def _multiple_correlations(x: _Neurons, y: _Neurons, function: str, threads: int) -> np.ndarray:
    """Of every column of x with all columns of y, [d]."""
    assert y.basis is not None, "prepared without a basis"
    if len(y.rows) - 1 <= y.basis.shape[1]:
        raise ValueError(
            f"[{function}] expected {y.rows.name} with fewer independent columns than inputs less one (every neuron is "
            f"predicted perfectly otherwise), got {y.basis.shape[1]} and {len(y.rows)} inputs"
        )
    return np.linalg.norm(_cross(x, y, function, threads) @ y.basis, axis=1)


MAXCORR = register(
    Measure(
        name="maxcorr",
        family="neurons",
        kind="similarity",
        low=0.0,
        high=1.0,
        symmetric=False,
        invariances=_BY_COLUMN,
        cost="time n d (d + d') + n d'^2, memory d^2 + d d' + d'^2",
        paper=_WU,
        formula="mean_i max_j |correlation(x_i, y_j)|",
        note="grows by chance with d' and falls with n: compare with permutations",
        method=lambda: _correlations("maxcorr"),
        self_value=1.0,
        gpu=True,
    )
)
MINCORR = register(
    replace(
        MAXCORR,
        name="mincorr",
        note="of two representations the same as maxcorr: they rank neurons over many models differently",
        method=lambda: _correlations("mincorr"),
    )
)
LINREG = register(
    Measure(
        name="linreg",
        family="neurons",
        kind="similarity",
        low=0.0,
        high=1.0,
        symmetric=False,
        invariances=_BY_COLUMN,
        cost="time n d (d + d') + n d'^2 + d^3 + d'^3, memory d^2 + d d' + d'^2",
        paper=_WU,
        formula="mean_i multiple correlation of x_i with all columns of y",
        note="about sqrt(d' / n) by chance: many more inputs than columns of y are needed; sees no affine map of y",
        method=_regression,
        self_value=1.0,
        gpu=True,
    )
)


def maxcorr(
    x: Any,
    y: Any,
    *,
    permutations: int = 0,
    seed: int = 0,
    jackknife: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
    device: Any = None,
) -> Similarity:
    """Mean over the neurons of x of the largest absolute correlation with a neuron of y: mean_i max_j |rho(x_i, y_j)|.

    Example::

        repsim.maxcorr(x, y)                             # x [n, d], y [n, d']; maxcorr(y, x) is another number

    Parameters
    ----------
    x, y: [n, d] and [n, d'] arrays, as for :func:`repsim.cka`; at least 3 inputs.
    permutations: relabellings of the inputs of y for the level of chance, which grows with d', and p.
    seed: of the relabellings, and of the groups of the jackknife.
    jackknife: groups of inputs, each left out once for the standard error; 0 leaves it out.
    threads, progress, device: as for :func:`repsim.cka`.

    Returns
    -------
    Similarity in [0, 1], 1 for x with itself. Changing the sign, scale or mean of any column changes nothing.

    Raises
    ------
    TypeError, ValueError: as for :func:`repsim.cka`; a column that does not vary (it is named).

    Paper: Wu, Belinkov, Sajjad, Durrani, Dalvi and Glass (2020), "Similarity analysis of contextual word representation
    models".
    """
    return MAXCORR.evaluate(
        x, y, {}, permutations=permutations, seed=seed, jackknife=jackknife, threads=threads, progress=progress,
        device=device,
    )  # fmt: skip


def mincorr(
    x: Any,
    y: Any,
    *,
    permutations: int = 0,
    seed: int = 0,
    jackknife: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
    device: Any = None,
) -> Similarity:
    """The same value as :func:`maxcorr`: the two differ in :func:`rank_neurons` over many models alone.

    Example::

        repsim.mincorr(x, y)                             # x [n, d], y [n, d']
        repsim.rank_neurons(models, over="min")          # what sets it apart

    Parameters, returns, raises, formula and paper: as for :func:`maxcorr`.
    """
    return MINCORR.evaluate(
        x, y, {}, permutations=permutations, seed=seed, jackknife=jackknife, threads=threads, progress=progress,
        device=device,
    )  # fmt: skip


def linreg(
    x: Any,
    y: Any,
    *,
    permutations: int = 0,
    seed: int = 0,
    jackknife: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
    device: Any = None,
) -> Similarity:
    """Mean over the neurons of x of their multiple correlation with all neurons of y, by least squares.

    Example::

        repsim.linreg(x, y)                              # x [n, d] predicted from y [n, d'], n much larger than d'

    Parameters
    ----------
    x, y: [n, d] and [n, d'] arrays, as for :func:`repsim.cka`; y of rank below n - 1.
    permutations, seed, jackknife, threads, progress, device: as for :func:`maxcorr`.

    Returns
    -------
    Similarity in [0, 1], 1 where every neuron of x is an affine function of y. By chance it is about sqrt(d' / n).
    Directions of y whose variance is below about 1e-14 d' of the largest, after every column was brought to unit
    variance, count as absent.

    Raises
    ------
    TypeError, ValueError: as for :func:`maxcorr`; as many independent columns in y as inputs less one.

    Formula: mean_i |U'z_i| with z_i the columns of x, centred and at unit norm, and U an orthonormal basis of the
    centred columns of y.

    Paper: as for :func:`maxcorr`.
    """
    return LINREG.evaluate(
        x, y, {}, permutations=permutations, seed=seed, jackknife=jackknife, threads=threads, progress=progress,
        device=device,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class NeuronRanking:
    """The neurons of one model, best first, by how well another model, or every other, has them too.

    Attributes
    ----------
    order: [d] int64, columns from the highest score to the lowest; ties by number.
    scores: [d] of every column, in the order of the columns.
    by_model: for every other model [d], how well each column is matched there.
    """

    order: np.ndarray
    scores: np.ndarray
    by_model: dict[str, np.ndarray]


def rank_neurons(
    models: Mapping[str, Any],
    *,
    match: str = "correlation",
    over: str = "max",
    threads: int | None = None,
    device: Any = None,
) -> dict[str, NeuronRanking]:
    """Rank the neurons of every model by how well the other models of a pool have them too.

    Example::

        ranking = repsim.rank_neurons({"a": x, "b": y, "c": z}, over="min")      # x [n, d], y [n, d'], z [n, d'']
        ranking["a"].order[:10]                          # the ten neurons of a that all others have best

    Parameters
    ----------
    models: at least two names with arrays of the same n inputs, as for :func:`repsim.cka`.
    match: "correlation", the largest absolute correlation with one neuron (:func:`maxcorr`, :func:`mincorr`), or
        "regression", the multiple correlation with all of them (:func:`linreg`).
    over: "max", a neuron counts by the model that has it best (maxcorr), or "min", by the one that has it worst
        (mincorr).
    threads, device: as for :func:`repsim.cka`.

    Raises
    ------
    TypeError, ValueError: as for :func:`maxcorr` and :func:`linreg`; fewer than two models; unknown words.

    Paper: as for :func:`maxcorr`.
    """
    name = "rank_neurons"
    if match not in ("correlation", "regression"):
        raise ValueError(f"[{name}] expected match 'correlation' or 'regression', got {match!r}")
    if over not in ("max", "min"):
        raise ValueError(f"[{name}] expected over 'max' or 'min', got {over!r}")
    if not isinstance(models, Mapping):
        raise TypeError(f"[{name}] expected models as a mapping of names to arrays, got {type(models).__name__}")
    if len(models) < 2:
        raise ValueError(f"[{name}] expected at least two models, got {len(models)}")
    cpus = thread_count(threads, function=name)
    pool: dict[str, Rows] = {key: rows_on(x, device, function=name, name=str(key)) for key, x in models.items()}
    first = next(iter(pool.values()))
    for rows in pool.values():
        same_inputs(first, rows, function=name)
    if len(first) < _LEAST_ROWS:
        raise ValueError(f"[{name}] expected at least {_LEAST_ROWS} inputs, got {len(first)}")
    matches = _best_correlations if match == "correlation" else _multiple_correlations
    with working_on(list(pool.values()), function=name):
        sides = {key: _with_basis(rows, name, cpus) for key, rows in pool.items()}
        matched = {
            key: {other: matches(side, sides[other], name, cpus) for other in sides if other != key}
            for key, side in sides.items()
        }
    ranked = {}
    for key, by_model in matched.items():
        scores = getattr(np, over)(list(by_model.values()), axis=0)
        ranked[key] = NeuronRanking(np.argsort(-scores, kind="stable"), scores, by_model)
    return ranked


def localization_score(neurons: Any, subspaces: Any, *, models: Sequence[Any] | None = None) -> np.ndarray:
    """How localized the information of each layer is: high where single neurons recur more than subspaces do.

    Example::

        layers = [x1, x2, y1, y2]                        # of models x and y; [n, d] each
        one_by_one = [[repsim.maxcorr(a, b) for b in layers] for a in layers]
        together = [[repsim.cka(a, b) for b in layers] for a in layers]          # the paper takes svcca
        repsim.localization_score(one_by_one, together, models=["x", "x", "y", "y"])     # [4]

    Parameters
    ----------
    neurons: [L, L] similarities by neuron (:func:`maxcorr`) of layer i to layer j, over all layers of all models.
    subspaces: [L, L] similarities of the same layers by subspace. The diagonals are not read.
    models: [L] the model of each layer: its other layers are then left out of the mean. By default only the layer
        itself is.

    Returns
    -------
    [L] float64, z(mean of the rows of neurons) - z(mean of the rows of subspaces); z takes the mean of all layers off
    and divides by their sd (L in the denominator).

    Raises
    ------
    TypeError, ValueError: no square matrices of one size, similarities that are not finite, a model alone in the pool,
        means that do not vary.

    Paper: as for :func:`maxcorr`.
    """
    name = "localization_score"
    sides = [_square(value, which, name) for value, which in ((neurons, "neurons"), (subspaces, "subspaces"))]
    count = len(sides[0])
    if len(sides[1]) != count:
        raise ValueError(f"[{name}] expected subspaces with {count} layers like neurons, got {len(sides[1])}")
    labels = list(range(count)) if models is None else list(models)
    if len(labels) != count:
        raise ValueError(f"[{name}] expected models with {count} names, one for each layer, got {len(labels)}")
    counted = np.array([[a != b for b in labels] for a in labels], bool)
    if not counted.any(axis=1).all():
        raise ValueError(f"[{name}] expected layers of at least two models, got those of {labels[0]!r} alone")
    score = np.zeros(count)
    for side, which, sign in zip(sides, ("neurons", "subspaces"), (1, -1), strict=True):
        if not np.isfinite(side[counted]).all():
            raise ValueError(f"[{name}] expected {which} with finite similarities, got NaN or infinity")
        means = np.where(counted, side, 0).sum(axis=1) / counted.sum(axis=1)
        away = means - means.mean()
        sd = np.sqrt((away**2).mean())
        if not sd > _ROUNDING * np.abs(means).max():
            raise ValueError(f"[{name}] expected {which} whose means differ between layers, got zero variance")
        score += sign * away / sd
    return score


def _square(value: Any, which: str, name: str) -> np.ndarray:
    try:
        matrix = np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"[{name}] expected {which} as a matrix of numbers, got {type(value).__name__}") from error
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.shape[0] < 2:
        raise ValueError(f"[{name}] expected {which} as a matrix [L, L] of at least two layers, got {matrix.shape}")
    return matrix
