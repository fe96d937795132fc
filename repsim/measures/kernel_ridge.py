"""How much of one representation is predicted from another by a kernel, out of sample."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..arguments import Progress
from ..arrays import Rows
from ..kernels import Bandwidth, Kernel, Linear, as_kernel
from ..reductions import column_sums, equal_rows, median_distance
from .method import Method
from .registry import Measure, invariant_to, register
from .regression import LAMBDAS, Folds, as_lambdas
from .similarity import Similarity

MOST_INPUTS = 8192  # about 5 n^2 float64 with five folds: 2.7 GB


@dataclass(frozen=True, eq=False)
class _Side:
    """Either side of the regression; what only the predictor needs is found when it is asked for."""

    rows: Rows
    folds: np.ndarray
    kernel: Kernel
    threads: int
    order: np.ndarray | None = None
    spectra: dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=dict)

    @functools.cached_property
    def gram(self) -> np.ndarray:
        """The kernel matrix [n, n]."""

        def typical(leaf: Bandwidth) -> float:
            return median_distance(
                self.rows, distance=leaf.distance, sample=leaf.sample, function="kernel_ridge", threads=self.threads
            )

        values = self.rows.wide(slice(None))
        if _ignores_shifts(self.kernel):
            values -= values.mean(axis=0)
        with np.errstate(all="ignore"):
            gram = self.kernel.resolve(typical).gram(values)
        bad = np.flatnonzero(~np.isfinite(gram).all(axis=1))
        if len(bad):
            raise ValueError(
                f"[kernel_ridge] expected {self.rows.name} with a kernel matrix of finite numbers, got others in row "
                f"{bad[0]}: a row of zeros under the cosine kernel, or overflow"
            )
        return gram

    def spectrum(self, fold: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Eigenvalues and eigenvectors of the centred kernel of the inputs outside of a fold, and the mean of its rows.

        They are kept, as every relabelling of y takes them.
        """
        if fold not in self.spectra:
            outside = self.folds != fold
            train = self.gram[np.ix_(outside, outside)]
            middle = train.mean(axis=0)
            values, vectors = np.linalg.eigh(train - middle - (middle - middle.mean())[:, None])
            if not values[-1] > len(middle) * np.finfo(np.float64).eps * np.abs(train).max():
                raise ValueError(
                    f"[kernel_ridge] expected {self.rows.name} with a kernel matrix that varies in every training set, "
                    "got zero variance up to rounding in one"
                )
            self.spectra[fold] = np.maximum(values, 0.0), vectors, middle  # a zero may be rounded to below it
        return self.spectra[fold]


def _ignores_shifts(kernel: Kernel) -> bool:
    """Whether the centred kernel is the same after a shift of the rows, so that they may be centred to save digits."""
    terms = [leaves for _, leaves in kernel.terms()]
    return all(leaves == (Linear(),) or all(isinstance(leaf, Bandwidth) for leaf in leaves) for leaves in terms)


def _kernel_ridge(
    kernel: str | Kernel = "rbf", folds: int = 5, lambdas: Any = LAMBDAS, fold_seed: int = 0
) -> Method[_Side]:
    chosen = as_kernel(kernel, function="kernel_ridge")
    plan = Folds("kernel_ridge", folds, fold_seed, as_lambdas(lambdas, function="kernel_ridge"))

    def prepare(rows: Rows, threads: int) -> _Side:
        if len(rows) > MOST_INPUTS:
            raise ValueError(
                f"[kernel_ridge] expected at most {MOST_INPUTS} inputs, whose kernel matrix and its eigenvectors fit "
                f"the memory, got {len(rows)}; take a sample, or ridge_regression, which takes any number"
            )
        column_sums(rows, function="kernel_ridge", threads=threads)  # names a row that is not finite
        return _Side(rows, plan.of(rows), chosen, threads)

    def between(x: _Side, y: _Side, threads: int) -> float:
        target = y.rows.wide(slice(None) if y.order is None else y.order)
        if not np.ptp(target, axis=0).any():
            raise equal_rows(y.rows, len(y.rows), function="kernel_ridge")
        residual, total = 0.0, 0.0
        for fold in range(folds):
            of_fold, about_mean = _held_out_error(x, target, fold, np.array(plan.lambdas))
            residual, total = residual + of_fold, total + about_mean
        return 1 - residual / total

    return Method(prepare, between, lambda side, order: replace(side, order=order))


def _held_out_error(x: _Side, target: np.ndarray, fold: int, lambdas: np.ndarray) -> tuple[float, float]:
    """The squared error in a fold with the penalty chosen outside of it; and that of the mean of the training set."""
    values, vectors, middle = x.spectrum(fold)
    outside = x.folds != fold
    n = len(values)
    mean = target[outside].mean(axis=0)
    train, test = target[outside] - mean, target[~outside] - mean
    along = vectors.T @ train
    penalties = lambdas * values.sum() / n
    which = 0
    if len(penalties) > 1:
        left_out = np.empty(len(penalties))
        for i, penalty in enumerate(penalties):
            kept = values / (values + penalty)
            # What the fit takes of an input's own target: its residual grows by 1 / (1 - leverage) without it.
            leverage = 1 / n + (vectors * vectors) @ kept
            left_out[i] = (((train - vectors @ (kept[:, None] * along)) / (1 - leverage)[:, None]) ** 2).sum()
        which = int(left_out.argmin())
    cross = x.gram[np.ix_(~outside, outside)]
    cross = cross - middle - (cross.mean(axis=1) - middle.mean())[:, None]
    predicted = cross @ (vectors @ (along / (values + penalties[which])[:, None]))
    return float(((test - predicted) ** 2).sum()), float((test * test).sum())


KERNEL_RIDGE = register(
    Measure(
        name="kernel_ridge",
        family="kernel_ridge",
        kind="similarity",
        low=-np.inf,
        high=1.0,
        symmetric=False,
        invariances=invariant_to("orthogonal", "isotropic_scaling", "translation"),
        cost="time K n^3 + n^2 (d + K L d'), memory (K + 1) n^2, for K folds and L lambdas",
        paper="Saunders, Gammerman and Vovk (1998), Ridge regression learning algorithm in dual variables",
        formula="1 - sum_f |Y_f - Yhat_f|_F^2 / sum_f |Y_f - mean|_F^2 over held-out folds f, fit from the rest",
        aliases=("scikit-learn: KernelRidge(alpha=lambda tr(K_train) / n_train) on centred kernels",),
        note=f"of y from x, out of sample: 0 is no better than the mean; refused beyond {MOST_INPUTS} inputs, where "
        "ridge_regression is the alternative; invariances are those of its default kernel",
        method=_kernel_ridge,
    )
)


def kernel_ridge(
    x: Any,
    y: Any,
    *,
    kernel: str | Kernel = "rbf",
    folds: int = 5,
    lambdas: float | Sequence[float] = LAMBDAS,
    fold_seed: int = 0,
    permutations: int = 0,
    seed: int = 0,
    jackknife: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Similarity:
    """Cross-validated R^2 of the kernel ridge regression of y on x with an intercept, over all columns of y together.

    Example::

        repsim.kernel_ridge(x, y)                                   # x [n, d] predicts y [n, d']; about 0 by chance
        repsim.kernel_ridge(x, y, kernel=repsim.RBF(median_fraction=0.5), lambdas=0.01)

    Parameters
    ----------
    x, y: [n, d] and [n, d'] arrays, as for :func:`repsim.cka`, of at most 8192 inputs: kernel matrix and eigenvectors
        take about (folds + 1) n^2 float64, 3 GB at the most. For more take a sample, or :func:`ridge_regression`.
    kernel: of x, as for :func:`repsim.cka`; the fractions of a median distance are of all inputs.
    folds: sets of inputs held out in turn, at least 2.
    lambdas: the penalty, or those to choose from: for every held-out fold the one with the smallest squared error of
        predicting each input of the training set from all others of it (leave-one-out, exact without refitting). In
        units of the mean of the diagonal of the centred training kernel, at least 1e-8.
    fold_seed: of the folds, drawn at random, as equal in size as can be.
    permutations, seed, jackknife, threads, progress: as for :func:`repsim.cca_mean`.

    Returns
    -------
    Similarity of at most 1, not symmetric: 1 - (squared error of all held-out predictions) / (that of the training
    sets' means). With the linear kernel and one lambda this is :func:`ridge_regression`.

    Raises
    ------
    TypeError, ValueError: as for :func:`repsim.cka`; more than 8192 inputs, or fewer than two a fold; bad folds,
        lambdas or kernel; a kernel that is not finite.

    Formula: 1 - sum_f |Y_f - Yhat_f|_F^2 / sum_f |Y_f - mean|_F^2, fit and mean from the inputs outside of f.
    Paper: Saunders, Gammerman and Vovk (1998).
    """
    chosen = as_kernel(kernel, function="kernel_ridge")
    penalties = as_lambdas(lambdas, function="kernel_ridge")
    how: dict[str, Any] = {"folds": folds, "lambdas": penalties, "fold_seed": fold_seed}
    made = _kernel_ridge(chosen, **how)
    # The result names its kernel as text, as that of cka does.
    return replace(KERNEL_RIDGE, method=lambda **_: made).evaluate(
        x, y, {"kernel": str(chosen), **how}, permutations=permutations, seed=seed, jackknife=jackknife,
        threads=threads, progress=progress,
    )  # fmt: skip
