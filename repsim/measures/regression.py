"""How much of one representation is predicted from another, linearly, in and out of sample."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np

from ..arguments import Progress, positive_number, whole_number
from ..arrays import Rows
from ..reductions import (
    Products,
    about,
    column_sums,
    cross_products,
    equal_rows,
    fold_products,
    pooled,
)
from .method import Method
from .registry import Measure, invariant_to, register
from .similarity import Similarity
from .spaces import Space, narrowed, require_room, space

LAMBDAS = tuple(10.0**power for power in range(-6, 5))
LEAST_LAMBDA = 1e-8  # below it rounding decides what the penalty is to decide
EQUAL = 1e-24  # share of the variance that rounding may leave to rows that are equal
_OF_BOTH = invariant_to("orthogonal", "isotropic_scaling", "translation")


@dataclass(frozen=True, eq=False)
class _Side:
    """Either side of the regression; what only the predictor needs is found when it is asked for."""

    rows: Rows
    threads: int
    order: np.ndarray | None = None

    @functools.cached_property
    def space(self) -> Space:
        return space(self.rows, function="linear_regression", threads=self.threads)


def _linear_regression() -> Method[_Side]:
    def between(x: _Side, y: _Side, threads: int) -> float:
        require_room(x.space, "ridge_regression", function="linear_regression")
        product = cross_products(x.space.rows, y.rows, y.order, function="linear_regression", threads=threads)
        if not product.square_y > 0:
            raise equal_rows(y.rows, product.n, function="linear_regression")
        return float(((x.space.whitening.T @ product.xy) ** 2).sum() / product.square_y)

    return Method(_Side, between, lambda side, order: replace(side, order=order), least_rows=3)


LINEAR_REGRESSION = register(
    Measure(
        name="linear_regression",
        family="regression",
        kind="similarity",
        low=0.0,
        high=1.0,
        symmetric=False,
        invariances=_OF_BOTH,
        cost="time n (d^2 + d d') + d^3, memory d^2 + d d'; for n <= d n^2 d + n^3 and n^2",
        paper="Kornblith, Norouzi, Lee and Hinton (2019), Similarity of neural network representations revisited",
        formula="R^2 = |Q_x'Y|_F^2 / |Y|_F^2, Q_x an orthonormal basis of centred X, Y centred",
        aliases=("scikit-learn: variance-weighted r2_score of LinearRegression",),
        note="of y from x, in sample: rank(x) / (n - 1) by chance, and refused where x spans n - 1 dimensions; "
        "ridge_regression is out of sample",
        method=_linear_regression,
        self_value=1.0,
        gpu=True,
    )
)


def linear_regression(
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
    """R^2 of the least squares regression of y on x with an intercept, over all columns of y together.

    Example::

        repsim.linear_regression(x, y)                              # x [n, d] predicts y [n, d']; chance is d / (n - 1)
        repsim.linear_regression(x, x[:, :3])                       # 1: x has all that is in the other

    Parameters: as for :func:`repsim.cca_mean`.

    Returns
    -------
    Similarity in [0, 1], not symmetric: 1 - (residual sum of squares) / (sum of squares about the means), both over all
    columns. Constant and linearly dependent columns of x change nothing; columns of y count by their variance. A
    direction of x with less than 1e-10 of the largest variance, in columns of unit variance, counts as dependent.

    Raises
    ------
    TypeError, ValueError: as for :func:`repsim.cka`; fewer than 3 inputs; x that spans n - 1 dimensions (as with
        n <= d), from which anything is predicted without error.

    Formula: R^2 = |Q_x'Y|_F^2 / |Y|_F^2, Q_x an orthonormal basis of the columns of the centred X, Y centred.
    Paper: Kornblith et al. (2019).
    """
    return LINEAR_REGRESSION.evaluate(
        x, y, {}, permutations=permutations, seed=seed, jackknife=jackknife, threads=threads, progress=progress,
        device=device,
    )  # fmt: skip


@dataclass(frozen=True)
class Folds:
    """Cross-validation: which inputs are held out together, and the penalties to choose from."""

    function: str
    count: int
    seed: int
    lambdas: tuple[float, ...]

    def __post_init__(self) -> None:
        whole_number(self.count, "folds", function=self.function, least=2)
        whole_number(self.seed, "fold_seed", function=self.function, least=0)

    def of(self, rows: Rows) -> np.ndarray:
        """[n] the fold of every input, drawn from the seed.

        Raises
        ------
        ValueError: too few inputs.
        """
        n = len(rows)
        if n < 2 * self.count:
            raise ValueError(
                f"[{self.function}] expected at least {2 * self.count} inputs for {self.count} folds, got {n}"
            )
        folds = np.empty(n, np.intp)
        for fold, members in enumerate(np.array_split(np.random.default_rng(self.seed).permutation(n), self.count)):
            folds[members] = fold
        return folds


def as_lambdas(lambdas: Any, *, function: str) -> tuple[float, ...]:
    """One penalty, or several to choose from.

    Raises
    ------
    TypeError, ValueError: no numbers, none at all, or too small.
    """
    if isinstance(lambdas, (Sequence, np.ndarray)) and not isinstance(lambdas, str):
        several = tuple(positive_number(one, "lambdas", function=function) for one in lambdas)
    else:
        several = (positive_number(lambdas, "lambdas", function=function),)
    if not several or min(several) < LEAST_LAMBDA:
        raise ValueError(
            f"[{function}] expected lambdas of at least {LEAST_LAMBDA:g}, below which rounding decides, got "
            f"{min(several, default='none')}"
        )
    return several


@dataclass(frozen=True, eq=False)
class _FoldedSide:
    rows: Rows
    folds: np.ndarray
    threads: int
    order: np.ndarray | None = None
    spectra: dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)

    @functools.cached_property
    def own(self) -> list[Products]:
        """X'X of every fold."""
        return fold_products([self.rows], self.folds, function="ridge_regression", threads=self.threads)

    def spectrum(self, left_out: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues and eigenvectors of X'X without these folds; kept, as every relabelling of y takes them."""
        if left_out not in self.spectra:
            values, vectors = np.linalg.eigh(pooled(_without(self.own, left_out)).xy)
            # Equal rows may have means that differ in their last digit.
            if not values[-1] > EQUAL * np.trace(pooled(self.own).xy):
                raise ValueError(
                    f"[ridge_regression] expected {self.rows.name} whose rows differ in every training set, got one "
                    "where all are equal"
                )
            self.spectra[left_out] = np.maximum(values, 0.0), vectors  # a zero may be rounded to below it
        return self.spectra[left_out]


def _ridge_regression(folds: int = 5, lambdas: Any = LAMBDAS, fold_seed: int = 0) -> Method[_FoldedSide]:
    plan = Folds("ridge_regression", folds, fold_seed, as_lambdas(lambdas, function="ridge_regression"))
    if len(plan.lambdas) > 1 and folds < 3:
        raise ValueError(
            f"[ridge_regression] expected at least 3 folds to choose among {len(plan.lambdas)} lambdas, got {folds}; "
            "give one lambda"
        )

    def prepare(rows: Rows, threads: int) -> _FoldedSide:
        # Folds are read out of order: rows that are not finite are named here.
        column_sums(rows, function="ridge_regression", threads=threads)
        folded = plan.of(rows)
        if rows.depth >= len(rows):  # errors are summed over all columns: a rotation of them changes nothing
            rows = narrowed(rows, function="ridge_regression", threads=threads)
        return _FoldedSide(rows, folded, threads)

    def between(x: _FoldedSide, y: _FoldedSide, threads: int) -> float:
        crossed = fold_products([x.rows, y.rows], x.folds, y.order, function="ridge_regression", threads=threads)
        if not pooled(crossed).square_y > 0:
            raise equal_rows(y.rows, len(y.rows), function="ridge_regression")

        def errors(left_out: tuple[int, ...], held_out: int) -> tuple[np.ndarray, float]:
            return _held_out_errors(x, crossed, left_out, held_out, np.array(plan.lambdas))

        chosen = [0] * folds
        if len(plan.lambdas) > 1:
            inner = np.zeros((folds, len(plan.lambdas)))
            for pair in combinations(range(folds), 2):
                # Trained without both: for either of them held out, the other one validates.
                inner[pair[0]] += errors(pair, pair[1])[0]
                inner[pair[1]] += errors(pair, pair[0])[0]
            chosen = inner.argmin(axis=1).tolist()
        residual, total = 0.0, 0.0
        for fold, which in enumerate(chosen):
            of_each, about_mean = errors((fold,), fold)
            residual, total = residual + float(of_each[which]), total + about_mean
        return 1 - residual / total

    return Method(prepare, between, lambda side, order: replace(side, order=order))


def _without(parts: Sequence[Products], left_out: tuple[int, ...]) -> list[Products]:
    return [part for fold, part in enumerate(parts) if fold not in left_out]


def _held_out_errors(
    x: _FoldedSide, crossed: Sequence[Products], left_out: tuple[int, ...], held_out: int, lambdas: np.ndarray
) -> tuple[np.ndarray, float]:
    """Squared errors [lambdas] in a fold, from training without some; and that of the mean of the training set."""
    values, vectors = x.spectrum(left_out)
    train = pooled(_without(crossed, left_out))
    test = about(crossed[held_out], train.mean_x, train.mean_y)
    test_xx = vectors.T @ about(x.own[held_out], train.mean_x, train.mean_x).xy @ vectors
    train_xy, test_xy = vectors.T @ train.xy, vectors.T @ test.xy
    found = np.empty(len(lambdas))
    for i, penalty in enumerate(lambdas * values.sum() / train.n):
        coefficients = train_xy / (values + penalty)[:, None]
        along = 2 * test_xy - test_xx @ coefficients
        found[i] = test.square_y - float((coefficients * along).sum())
    return found, test.square_y


RIDGE_REGRESSION = register(
    Measure(
        name="ridge_regression",
        family="regression",
        kind="similarity",
        low=-np.inf,
        high=1.0,
        symmetric=False,
        invariances=_OF_BOTH,
        cost="time n (d^2 + d d') + K^2 d^2 (d + L d'), memory K^2 d^2 / 2 + K d (d + d'), for K folds and L lambdas;"
        " for n <= d with n in the place of d, after n^2 d",
        paper="Hoerl and Kennard (1970), Ridge regression: biased estimation for nonorthogonal problems; Stone (1974), "
        "Cross-validatory choice and assessment of statistical predictions",
        formula="1 - sum_f |Y_f - Yhat_f|_F^2 / sum_f |Y_f - mean|_F^2 over held-out folds f, fit from the rest",
        aliases=("scikit-learn: cross_val_predict(Ridge(alpha=lambda |X_train|_F^2 / n_train), x, y)",),
        note="of y from x, out of sample: 0 is no better than the mean, below 0 is worse; the penalty is chosen within "
        "each training set",
        method=_ridge_regression,
        gpu=True,
    )
)


def ridge_regression(
    x: Any,
    y: Any,
    *,
    folds: int = 5,
    lambdas: float | Sequence[float] = LAMBDAS,
    fold_seed: int = 0,
    permutations: int = 0,
    seed: int = 0,
    jackknife: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
    device: Any = None,
) -> Similarity:
    """Cross-validated R^2 of the ridge regression of y on x with an intercept, over all columns of y together.

    Example::

        repsim.ridge_regression(x, y)                               # x [n, d] predicts y [n, d']; about 0 by chance
        repsim.ridge_regression(x, y, folds=10, lambdas=0.01)

    Parameters
    ----------
    x, y: [n, d] and [n, d'] arrays, as for :func:`repsim.cka`; n = 10^6 takes two passes and sums of d x d and d x d'
        per fold; n < d is fine, and takes n x n sums instead.
    folds: sets of inputs held out in turn, at least 2, and 3 where there are several lambdas.
    lambdas: the penalty, or those to choose from: for every held-out fold the one with the smallest squared error in
        the other folds, each predicted from the rest of them. In units of the mean squared norm of the centred training
        rows, at least 1e-8: the penalty is lambda |X|_F^2 / n. With one lambda nothing is chosen, for K / 2 times less.
    fold_seed: of the folds, drawn at random, as equal in size as can be.
    permutations, seed, jackknife, threads, progress, device: as for :func:`repsim.cca_mean`.

    Returns
    -------
    Similarity of at most 1, not symmetric: 1 - (squared error of all held-out predictions) / (that of the training
    sets' means). Below 0 the predictions are worse than the mean.

    Raises
    ------
    TypeError, ValueError: as for :func:`repsim.cka`; fewer than two inputs a fold; bad folds or lambdas; rows of x that
        are all equal in a training set.

    Formula: 1 - sum_f |Y_f - Yhat_f|_F^2 / sum_f |Y_f - mean|_F^2, fit and mean from the inputs outside of f.
    Papers: Hoerl and Kennard (1970); Stone (1974) for the choice inside and the assessment outside.
    """
    return RIDGE_REGRESSION.evaluate(
        x, y, {"folds": folds, "lambdas": as_lambdas(lambdas, function="ridge_regression"), "fold_seed": fold_seed},
        permutations=permutations, seed=seed, jackknife=jackknife, threads=threads, progress=progress, device=device,
    )  # fmt: skip
