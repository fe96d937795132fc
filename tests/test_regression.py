"""Regressions of one representation on another against loops of least squares, and against scikit-learn."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles import as_float64
from scipy.spatial.distance import pdist, squareform

import repsim
from repsim.arrays import as_rows
from repsim.measures import kernel_ridge as kernel_ridge_module
from repsim.measures.regression import LAMBDAS
from repsim.reductions import about, cross_products, fold_products, own_products, pooled

Array = np.ndarray

ALL = ("linear_regression", "ridge_regression", "kernel_ridge")
FOLDED = ("ridge_regression", "kernel_ridge")
measures = pytest.mark.parametrize("measure", ALL)
folded = pytest.mark.parametrize("measure", FOLDED)


def related(n: int, d: int, e: int, seed: int = 0, noise: float = 0.5) -> tuple[Array, Array]:
    """Two that share something; columns differ in scale, and their means are not 0."""
    random = np.random.default_rng([seed, n, d, e])
    x = random.standard_normal((n, d)) * np.geomspace(0.3, 2, d) + random.standard_normal(d)
    y = np.tanh(x @ random.standard_normal((d, e)) / np.sqrt(d)) + noise * random.standard_normal((n, e))
    return x, y * np.geomspace(0.5, 2, e) + random.standard_normal(e)


# ---------------------------------------------------------------------------------------------- oracles


def r2_in_sample(x: Array, y: Array) -> float:
    """From the residuals of least squares on the columns and a column of ones."""
    design = np.hstack([np.ones((len(x), 1)), x])
    residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return 1 - float((residual**2).sum()) / float(((y - y.mean(axis=0)) ** 2).sum())


def members(n: int, folds: int, seed: int) -> list[Array]:
    return np.array_split(np.random.default_rng(seed).permutation(n), folds)


def without(n: int, *held_out: Array) -> Array:
    return np.setdiff1d(np.arange(n), np.concatenate(held_out))


def ridge_errors(x: Array, y: Array, train: Array, test: Array, lam: float) -> tuple[float, float]:
    """Squared errors of the ridge fit, and of the mean, by the normal equations."""
    mean_x, mean_y = x[train].mean(axis=0), y[train].mean(axis=0)
    xc, yc = x[train] - mean_x, y[train] - mean_y
    penalty = lam * (xc**2).sum() / len(train)
    fit = np.linalg.solve(xc.T @ xc + penalty * np.eye(x.shape[1]), xc.T @ yc)
    predicted = mean_y + (x[test] - mean_x) @ fit
    return float(((y[test] - predicted) ** 2).sum()), float(((y[test] - mean_y) ** 2).sum())


def ridge(x: Array, y: Array, folds: int = 5, lambdas: Any = LAMBDAS, seed: int = 0) -> float:
    n, parts = len(x), members(len(x), folds, seed)
    residual = total = 0.0
    for test in parts:
        inner = [
            sum(
                ridge_errors(x, y, without(n, test, validation), validation, lam)[0]
                for validation in parts
                if validation is not test and len(lambdas) > 1
            )
            for lam in lambdas
        ]
        error, about_mean = ridge_errors(x, y, without(n, test), test, lambdas[int(np.argmin(inner))])
        residual, total = residual + error, total + about_mean
    return 1 - residual / total


def kernel_ridge(gram: Array, y: Array, folds: int = 5, lambdas: Any = LAMBDAS, seed: int = 0) -> float:
    """Penalties from fits without each input in turn; every fit solved anew, with its own intercept."""

    def predict(train: Array, test: Array, penalty: float) -> Array:
        m = len(train)
        # (K + penalty) a + 1 b = y, 1'a = 0: regression on the features of the kernel with a free intercept.
        system = np.block([[gram[np.ix_(train, train)] + penalty * np.eye(m), np.ones((m, 1))], [np.ones((1, m)), 0]])
        solved = np.linalg.solve(system, np.vstack([y[train], np.zeros((1, y.shape[1]))]))
        return gram[np.ix_(test, train)] @ solved[:-1] + solved[-1]

    n, residual, total = len(y), 0.0, 0.0
    for test in members(n, folds, seed):
        train = without(n, test)
        h = np.eye(len(train)) - 1 / len(train)
        unit = np.trace(h @ gram[np.ix_(train, train)] @ h) / len(train)
        inner = [
            sum(
                float(((y[[i]] - predict(np.setdiff1d(train, [i]), np.array([i]), lam * unit)) ** 2).sum())
                for i in train
                if len(lambdas) > 1
            )
            for lam in lambdas
        ]
        predicted = predict(train, test, lambdas[int(np.argmin(inner))] * unit)
        residual += float(((y[test] - predicted) ** 2).sum())
        total += float(((y[test] - y[train].mean(axis=0)) ** 2).sum())
    return 1 - residual / total


def rbf(x: Array, fraction: float = 1.0) -> Array:
    distances = pdist(x)
    return np.exp(-(squareform(distances) ** 2) / (2 * (fraction * np.median(distances)) ** 2))


ORACLE: dict[str, Callable[..., float]] = {
    "linear_regression": r2_in_sample,
    "ridge_regression": lambda x, y: ridge(x, y),
    "kernel_ridge": lambda x, y: kernel_ridge(rbf(x), y, lambdas=(0.1,)),
}
FIXED: dict[str, dict[str, Any]] = {"linear_regression": {}, "ridge_regression": {}, "kernel_ridge": {"lambdas": 0.1}}


def value(measure: str, x: Any, y: Any, **options: Any) -> float:
    return float(getattr(repsim, measure)(x, y, **{**FIXED[measure], **options}))


# ---------------------------------------------------------------------------------------------- values


@measures
@pytest.mark.parametrize(
    ("n", "d", "e"),
    [
        pytest.param(200, 6, 6, id="equal-widths"),
        pytest.param(200, 3, 17, id="y-is-wider"),
        pytest.param(200, 17, 3, id="x-is-wider"),
        pytest.param(50, 1, 1, id="one-column-each"),
        pytest.param(53, 4, 2, id="folds-of-two-sizes"),
    ],
)
def test_agrees_with_the_textbook(measure: str, n: int, d: int, e: int) -> None:
    x, y = related(n, d, e)
    assert value(measure, x, y) == pytest.approx(ORACLE[measure](x, y), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("measure", ["linear_regression", "ridge_regression"])
def test_of_many_inputs(measure: str) -> None:
    """Several blocks of rows, and folds gathered from all of them."""
    x, y = related(7001, 20, 60)
    assert value(measure, x, y) == pytest.approx(ORACLE[measure](x, y), rel=1e-9)


def test_linear_regression_agrees_with_scikit_learn() -> None:
    from sklearn.linear_model import LinearRegression
    from sklearn.metrics import r2_score

    x, y = related(150, 8, 5)
    predicted = LinearRegression().fit(x, y).predict(x)
    expected = r2_score(y, predicted, multioutput="variance_weighted")
    assert value("linear_regression", x, y) == pytest.approx(expected, rel=1e-12)


def test_linear_regression_of_one_column_is_the_squared_correlation() -> None:
    x, y = related(80, 1, 1)
    assert value("linear_regression", x, y) == pytest.approx(np.corrcoef(x[:, 0], y[:, 0])[0, 1] ** 2, rel=1e-12)


def out_of_fold(model_for: Callable[[Array], Any], x: Array, y: Array, folds: int, seed: int) -> float:
    """Cross-validated R^2 of scikit-learn models, made anew for every training set."""
    residual = total = 0.0
    for test in members(len(x), folds, seed):
        train = without(len(x), test)
        predicted = model_for(train).fit(x[train], y[train]).predict(x[test])
        residual += ((y[test] - predicted) ** 2).sum()
        total += ((y[test] - y[train].mean(axis=0)) ** 2).sum()
    return float(1 - residual / total)


def unit(x: Array, train: Array) -> float:
    return float(((x[train] - x[train].mean(axis=0)) ** 2).sum() / len(train))


def test_ridge_agrees_with_scikit_learn() -> None:
    from sklearn.linear_model import Ridge

    x, y = related(97, 8, 5)
    expected = out_of_fold(lambda train: Ridge(alpha=0.03 * unit(x, train)), x, y, 4, 7)
    assert value("ridge_regression", x, y, folds=4, lambdas=0.03, fold_seed=7) == pytest.approx(expected, rel=1e-10)


def test_kernel_ridge_chooses_as_scikit_learn() -> None:
    """RidgeCV leaves out one input at a time; with the linear kernel the two are the same model."""
    from sklearn.linear_model import RidgeCV

    x, y = related(40, 25, 5, noise=1.0)
    lambdas = np.geomspace(1e-4, 1e2, 13)
    expected = out_of_fold(lambda train: RidgeCV(alphas=lambdas * unit(x, train)), x, y, 4, 7)
    found = value("kernel_ridge", x, y, kernel="linear", folds=4, lambdas=lambdas, fold_seed=7)
    assert found == pytest.approx(expected, rel=1e-8)
    fixed = [value("kernel_ridge", x, y, kernel="linear", folds=4, lambdas=lam, fold_seed=7) for lam in lambdas]
    assert min(fixed) < found - 0.01  # the choice matters here


def test_kernel_ridge_agrees_with_scikit_learn() -> None:
    from sklearn.kernel_ridge import KernelRidge
    from sklearn.preprocessing import KernelCenterer

    x, y = related(60, 4, 3)
    gram, residual, total = rbf(x), 0.0, 0.0
    for test in members(60, 5, 0):
        train = without(60, test)
        centre = KernelCenterer().fit(gram[np.ix_(train, train)])
        own, cross = (centre.transform(gram[np.ix_(rows, train)]) for rows in (train, test))
        mean = y[train].mean(axis=0)
        model = KernelRidge(alpha=0.2 * np.trace(own) / len(train), kernel="precomputed").fit(own, y[train] - mean)
        residual += ((y[test] - mean - model.predict(cross)) ** 2).sum()
        total += ((y[test] - mean) ** 2).sum()
    assert value("kernel_ridge", x, y, lambdas=0.2) == pytest.approx(1 - residual / total, rel=1e-10)


def test_kernel_ridge_chooses_by_leaving_one_out() -> None:
    x, y = related(30, 4, 2)
    lambdas = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
    expected = kernel_ridge(rbf(x), y, 3, lambdas, 2)
    assert value("kernel_ridge", x, y, folds=3, lambdas=lambdas, fold_seed=2) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("lam", [1e-6, 0.1, 100.0])
@pytest.mark.parametrize("d", [5, 90], ids=["n-above-d", "n-below-d"])
def test_kernel_ridge_with_the_linear_kernel_is_ridge(d: int, lam: float) -> None:
    x, y = related(60, d, 3)
    expected = value("ridge_regression", x, y, lambdas=lam)
    assert value("kernel_ridge", x, y, kernel="linear", lambdas=lam) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize(
    ("kernel", "gram"),
    [
        ("cosine", lambda x: (x @ x.T) / np.outer(np.linalg.norm(x, axis=1), np.linalg.norm(x, axis=1))),
        ("polynomial", lambda x: (x @ x.T + 1) ** 3),
        ("laplacian_l1", lambda x: np.exp(-squareform(pdist(x, "cityblock") / np.median(pdist(x, "cityblock"))))),
        (repsim.RBF(median_fraction=0.5), lambda x: rbf(x, 0.5)),
        (repsim.RBF(median_fraction=1.0) + 0.1 * repsim.Linear(), lambda x: rbf(x) + 0.1 * x @ x.T),
    ],
    ids=["cosine", "polynomial", "laplacian", "rbf", "sum"],
)
def test_kernels(kernel: Any, gram: Callable[[Array], Array]) -> None:
    x, y = related(60, 4, 3)
    found = repsim.kernel_ridge(x, y, kernel=kernel, lambdas=0.1)
    assert found == pytest.approx(kernel_ridge(gram(x), y, lambdas=(0.1,)), rel=1e-7)
    assert found.options["kernel"].startswith(kernel if isinstance(kernel, str) else "rbf")


def test_kernel_ridge_sees_what_ridge_does_not() -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((300, 2))
    y = np.stack([np.cos(2 * x[:, 0]), x[:, 0] * x[:, 1]], axis=1) + 0.05 * random.standard_normal((300, 2))
    assert value("ridge_regression", x, y) < 0.1
    assert value("kernel_ridge", x, y, lambdas=LAMBDAS) > 0.8


# ---------------------------------------------------------------------------------------------- chance and folds


@folded
def test_nothing_in_common_is_about_0(measure: str) -> None:
    random = np.random.default_rng(0)
    x, y = random.standard_normal((100, 60)), random.standard_normal((100, 5))
    assert -0.05 < value(measure, x, y, lambdas=LAMBDAS) < 0.02
    assert value("linear_regression", x, y) > 0.5
    # Without a penalty that is chosen, it is far worse than the mean.
    assert value("ridge_regression", x, y, lambdas=1e-6) < -0.5


def test_the_chosen_penalty_is_in_the_middle_of_them() -> None:
    """So that the textbook's choice is one: with noise and many features neither end of the grid is best."""
    x, y = related(80, 60, 5, noise=1.5)
    each = [value("ridge_regression", x, y, lambdas=lam) for lam in LAMBDAS]
    assert 0 < int(np.argmax(each)) < len(LAMBDAS) - 1
    assert value("ridge_regression", x, y) == pytest.approx(ridge(x, y), rel=1e-9)
    assert max(each) - value("ridge_regression", x, y) < 0.05


@folded
def test_folds_and_their_seed(measure: str) -> None:
    x, y = related(50, 4, 3)
    oracle = {
        "ridge_regression": lambda k, seed: ridge(x, y, k, (0.1,), seed),
        "kernel_ridge": lambda k, seed: kernel_ridge(rbf(x), y, k, (0.1,), seed),
    }[measure]
    for k, seed in ((2, 0), (5, 3), (25, 1)):
        found = getattr(repsim, measure)(x, y, folds=k, lambdas=0.1, fold_seed=seed)
        assert found == pytest.approx(oracle(k, seed), rel=1e-9)
        assert (found.options["folds"], found.options["lambdas"], found.options["fold_seed"]) == (k, (0.1,), seed)
    assert value(measure, x, y, fold_seed=0) != value(measure, x, y, fold_seed=1)


def test_three_folds_choose() -> None:
    x, y = related(50, 30, 3)
    assert value("ridge_regression", x, y, folds=3) == pytest.approx(ridge(x, y, 3), rel=1e-9)


@pytest.mark.parametrize("e", [6, 70], ids=["few-targets", "many-targets"])
def test_ridge_of_fewer_inputs_than_features(e: int) -> None:
    x, y = related(40, 90, e, noise=0.1)
    assert value("ridge_regression", x, y) == pytest.approx(ridge(x, y), rel=1e-6)


def test_linear_regression_of_fewer_inputs_than_features() -> None:
    """Three dimensions in fifty columns, two of them constant, predict sixty."""
    random = np.random.default_rng(0)
    latent = random.standard_normal((30, 3))
    x = np.hstack([latent @ random.standard_normal((3, 48)), np.full((30, 2), 0.1)])
    y = np.tanh(latent @ random.standard_normal((3, 60)))
    assert value("linear_regression", x, y) == pytest.approx(r2_in_sample(latent, y), rel=1e-9)


@folded
def test_null_of_cross_validation(measure: str) -> None:
    x, y = related(60, 3, 3)
    found = getattr(repsim, measure)(x, y, permutations=50, seed=1)
    assert found.p == pytest.approx(1 / 51)
    assert found.null.mean < 0.05
    assert "lambdas" in found.to_dict()


# ---------------------------------------------------------------------------------------------- rank


def test_dependent_and_constant_columns_of_x_change_nothing() -> None:
    x, y = related(120, 6, 4)
    more = np.hstack([x, x @ np.random.default_rng(3).standard_normal((6, 9)), np.full((120, 2), [1e4, 0.1])])
    assert value("linear_regression", more, y) == pytest.approx(value("linear_regression", x, y), rel=1e-9)


@measures
def test_a_constant_column_of_y_changes_nothing(measure: str) -> None:
    x, y = related(120, 6, 4)
    more = np.hstack([y, np.full((120, 1), 3.3)])
    assert value(measure, x, more) == pytest.approx(value(measure, x, y), rel=1e-9)


def test_a_larger_space_predicts_a_smaller_one() -> None:
    x, _ = related(120, 6, 4)
    assert value("linear_regression", x, x[:, :2]) == pytest.approx(1, rel=1e-12)
    assert value("linear_regression", x[:, :2], x) < 0.9
    assert value("ridge_regression", x, x[:, :2]) == pytest.approx(1, abs=1e-6)


# ---------------------------------------------------------------------------------------------- inputs


@measures
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_every_dtype(measure: str, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    x, y = (torch.from_numpy(z).to(getattr(torch, dtype)) for z in related(80, 6, 5))
    assert value(measure, x, y) == pytest.approx(ORACLE[measure](as_float64(x), as_float64(y)), rel=1e-8)


@measures
def test_memory_map(measure: str, tmp_path: Path) -> None:
    x, y = (z.astype(np.float32) for z in related(700, 6, 5))
    for name, rows in (("x", x), ("y", y)):
        np.save(tmp_path / f"{name}.npy", rows)
    mapped = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("x", "y")]
    assert value(measure, *mapped) == value(measure, x, y)


@pytest.mark.parametrize(
    ("measure", "options"),
    [("linear_regression", {}), ("ridge_regression", {}), ("kernel_ridge", {}), ("kernel_ridge", {"kernel": "linear"})],
    ids=["linear", "ridge", "rbf", "linear-kernel"],
)
def test_far_from_the_origin(measure: str, options: dict[str, Any]) -> None:
    x, y = related(100, 6, 5)
    near = value(measure, x, y, **options)
    assert value(measure, x + 1e6, y - 1e6, **options) == pytest.approx(near, rel=1e-6)


@measures
def test_threads_change_nothing(measure: str) -> None:
    x, y = related(600, 6, 5)
    assert value(measure, x, y, threads=1) == value(measure, x, y, threads=2)


# ---------------------------------------------------------------------------------------------- products of folds


@pytest.mark.parametrize("shuffled", [False, True], ids=["in-order", "relabelled"])
@pytest.mark.parametrize("n", [40, 9000], ids=["one-block", "several-blocks"])
def test_products_of_folds(n: int, shuffled: bool) -> None:
    x, y = related(n, 7, 3)
    random = np.random.default_rng(1)
    folds, order = random.integers(0, 3, n), random.permutation(n) if shuffled else None
    left, right = (as_rows(z, function="test", name=name) for z, name in ((x, "x"), (y, "y")))
    found = fold_products([left, right], folds, order, function="test", threads=1)
    paired = y if order is None else y[order]
    for fold, part in enumerate(found):
        a, b = x[folds == fold], paired[folds == fold]
        assert part.n == len(a)
        np.testing.assert_allclose(part.mean_x, a.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(part.mean_y, b.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(part.xy, (a - a.mean(axis=0)).T @ (b - b.mean(axis=0)), rtol=1e-9, atol=1e-9)
        assert part.square_y == pytest.approx(((b - b.mean(axis=0)) ** 2).sum(), rel=1e-10)
        moved = about(part, np.ones(7), np.zeros(3))
        np.testing.assert_allclose(moved.xy, (a - 1).T @ b, rtol=1e-9, atol=1e-9)
        assert moved.square_y == pytest.approx((b**2).sum(), rel=1e-10)
    whole, together = cross_products(left, right, order, function="test", threads=1), pooled(found)
    np.testing.assert_allclose(together.xy, whole.xy, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(together.mean_x, whole.mean_x, rtol=1e-12)
    assert (together.n, together.square_y) == (n, pytest.approx(whole.square_y, rel=1e-10))
    own = pooled(fold_products([left], folds, function="test", threads=1))
    np.testing.assert_allclose(own.xy, own_products(left, function="test", threads=1).xy, rtol=1e-9, atol=1e-9)


# ---------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("d", [19, 40], ids=["as-many-as-can-be", "more-than-inputs"])
def test_linear_regression_refuses_what_is_1_whatever_the_data(d: int) -> None:
    random = np.random.default_rng(0)
    x, y = random.standard_normal((20, d)), random.standard_normal((20, 3))
    message = r"\[linear_regression\] expected x with at least 21 inputs for the 19 dimensions .*; use ridge_regression"
    with pytest.raises(ValueError, match=message):
        repsim.linear_regression(x, y)
    assert 0 < repsim.linear_regression(y, x) < 1  # the wide side may be predicted


@measures
def test_refuses_equal_rows(measure: str) -> None:
    x, y = related(30, 3, 3)
    with pytest.raises(ValueError, match=rf"\[{measure}\] expected y whose rows differ, got zero variance \(all 30"):
        value(measure, x, np.full((30, 3), 0.1))
    expected = {
        "linear_regression": r"expected x whose rows differ, got zero variance \(all 30",
        "ridge_regression": "expected x whose rows differ in every training set",
        "kernel_ridge": "expected x .* zero",
    }[measure]
    with pytest.raises(ValueError, match=rf"\[{measure}\] {expected}"):
        value(measure, np.full((30, 3), 0.1), y, **({"kernel": "linear"} if measure == "kernel_ridge" else {}))


@folded
def test_refuses_a_training_set_of_equal_rows(measure: str) -> None:
    _, y = related(30, 3, 3)
    x = np.full((30, 3), 0.1)
    x[4] = 1.0
    options = {"kernel": repsim.RBF(sigma=1.0)} if measure == "kernel_ridge" else {}
    with pytest.raises(ValueError, match=rf"\[{measure}\] expected x .*in every training set"):
        value(measure, x, y, **options)


def test_kernel_ridge_refuses_rows_of_zeros_under_the_cosine() -> None:
    x, y = related(30, 3, 3)
    x[7] = 0.0
    with pytest.raises(ValueError, match=r"\[kernel_ridge\] expected x with a kernel matrix of finite numbers, got"):
        repsim.kernel_ridge(x, y, kernel="cosine")


def test_kernel_ridge_refuses_many_inputs() -> None:
    x = np.zeros((kernel_ridge_module.MOST_INPUTS + 1, 1))
    message = r"\[kernel_ridge\] expected at most 8192 inputs, .* got 8193; take a sample, or ridge_regression"
    with pytest.raises(ValueError, match=message):
        repsim.kernel_ridge(x, x)


@folded
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"folds": 1}, ValueError, "expected folds of at least 2, got 1"),
        ({"folds": 2.5}, TypeError, "expected folds as an int, got 2.5"),
        ({"folds": 16}, ValueError, "expected at least 32 inputs for 16 folds, got 30"),
        ({"fold_seed": -1}, ValueError, "expected fold_seed of at least 0, got -1"),
        ({"lambdas": ()}, ValueError, "expected lambdas of at least 1e-08, below which rounding decides, got none"),
        ({"lambdas": [1.0, 0.0]}, ValueError, "expected lambdas as a positive number, got 0.0"),
        ({"lambdas": 1e-12}, ValueError, "expected lambdas of at least 1e-08, below which rounding decides, got 1e-12"),
        ({"lambdas": "0.1"}, TypeError, "expected lambdas as a number, got str"),
    ],
    ids=["one-fold", "half-a-fold", "too-many-folds", "seed", "none", "zero", "tiny", "text"],
)
def test_bad_options(measure: str, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match="^" + re.escape(f"[{measure}] {message}")):
        value(measure, *related(30, 3, 3), **options)


def test_two_folds_cannot_choose() -> None:
    message = r"\[ridge_regression\] expected at least 3 folds to choose among 2 lambdas, got 2; give one lambda"
    with pytest.raises(ValueError, match=message):
        repsim.ridge_regression(*related(30, 3, 3), folds=2, lambdas=[0.1, 1.0])


def test_bad_kernel() -> None:
    with pytest.raises(ValueError, match=r"\[kernel_ridge\] expected kernel as one of .*, got 'gauss'"):
        repsim.kernel_ridge(*related(30, 3, 3), kernel="gauss")


@folded
def test_names_rows_that_are_not_finite(measure: str) -> None:
    """Folds are read out of order, the row is that of the caller."""
    x, y = related(30, 3, 3)
    x[17, 1] = np.inf
    message = rf"\[{measure}\] expected x with finite values, got NaN or infinity in row 17"
    with pytest.raises(ValueError, match=message):
        value(measure, x, y)
