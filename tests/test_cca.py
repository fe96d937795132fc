"""Canonical correlations and what is made of them, against the textbook, scipy and scikit-learn."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles import as_float64

import repsim

Array = np.ndarray

OF_CORRELATIONS = ("cca_mean", "cca_mean_squared", "svcca", "pwcca")
ALL = (*OF_CORRELATIONS, "pls")


def related(n: int, d: int, e: int, seed: int = 0, noise: float = 0.5) -> tuple[Array, Array]:
    """Two that share something; columns differ in scale, and their means are not 0."""
    random = np.random.default_rng([seed, n, d, e])
    x = random.standard_normal((n, d)) * np.geomspace(0.1, 3, d) + random.standard_normal(d)
    y = np.tanh(x @ random.standard_normal((d, e))) + noise * random.standard_normal((n, e))
    return x, y + random.standard_normal(e)


def centred(x: Array) -> Array:
    return x - x.mean(axis=0)


def orthonormal(n: int, k: int, seed: int = 0) -> Array:
    """[n, k] orthonormal columns that sum to 0."""
    return np.linalg.qr(centred(np.random.default_rng(seed).standard_normal((n, k))))[0]


def planted(correlations: Any, n: int = 60) -> tuple[Array, Array]:
    """Orthonormal bases [n, k] whose canonical correlations are these, pair by pair."""
    rho = np.asarray(correlations)
    both = orthonormal(n, 2 * len(rho))
    left, other = both[:, : len(rho)], both[:, len(rho) :]
    return left, left * rho + other * np.sqrt(1 - rho**2)


# ---------------------------------------------------------------------------------------------- oracles


def correlations(x: Array, y: Array) -> Array:
    """Roots of the eigenvalues of Sxx^-1 Sxy Syy^-1 Syx (Hotelling 1936): full rank, n > d + d'."""
    x, y = centred(x), centred(y)
    xx, yy, xy = x.T @ x, y.T @ y, x.T @ y
    squares = np.linalg.eigvals(np.linalg.solve(xx, xy) @ np.linalg.solve(yy, xy.T)).real
    return np.sqrt(np.sort(np.clip(squares, 0, 1))[::-1][: min(x.shape[1], y.shape[1])])


def leading(x: Array, share: float, *, wu: bool = False) -> Array:
    """Left singular vectors of the components that svcca keeps."""
    x = centred(x)
    if wu:
        x = x / x.std(axis=0)
    left, singular, _ = np.linalg.svd(x, full_matrices=False)
    upto = np.cumsum(singular**2) / (singular**2).sum()
    kept = int((upto < share).sum()) + (0 if wu else 1)
    return left[:, :kept]


def svcca(x: Array, y: Array, share: float = 0.99, *, wu: bool = False) -> float:
    return float(np.linalg.svd(leading(x, share, wu=wu).T @ leading(y, share, wu=wu), compute_uv=False).mean())


def pwcca(x: Array, y: Array, *, wu: bool = False) -> float:
    """Weights from the inner products of the variates, vectors of n numbers, with the columns of x."""
    qx, qy = (leading(z, 0.99, wu=True) if wu else np.linalg.qr(centred(z))[0] for z in (x, y))
    left, rho, _ = np.linalg.svd(qx.T @ qy, full_matrices=False)
    weights = [sum(abs(float(h @ column)) for column in x.T) for h in (qx @ left).T]
    return float(np.average(rho, weights=weights))


def pls(x: Array, y: Array) -> float:
    d, e = x.shape[1], y.shape[1]
    between = np.corrcoef(x.T, y.T)[:d, d:]
    return float(np.linalg.norm(between, "nuc") / np.sqrt(d * e))


ORACLE = {
    "cca_mean": lambda x, y: float(correlations(x, y).mean()),
    "cca_mean_squared": lambda x, y: float((correlations(x, y) ** 2).mean()),
    "svcca": svcca,
    "pwcca": pwcca,
    "pls": pls,
}

measures = pytest.mark.parametrize("measure", ALL)


def value(measure: str, x: Any, y: Any, **options: Any) -> float:
    return float(getattr(repsim, measure)(x, y, **options))


# ---------------------------------------------------------------------------------------------- values


@measures
@pytest.mark.parametrize(
    ("n", "d", "e"),
    [
        pytest.param(200, 6, 6, id="equal-widths"),
        pytest.param(200, 3, 17, id="y-is-wider"),
        pytest.param(200, 17, 3, id="x-is-wider"),
        pytest.param(50, 1, 1, id="one-column-each"),
        pytest.param(50, 1, 5, id="one-column-of-x"),
        pytest.param(3000, 50, 20, id="several-blocks-and-panels"),
    ],
)
def test_agrees_with_the_textbook(measure: str, n: int, d: int, e: int) -> None:
    x, y = related(n, d, e)
    assert value(measure, x, y) == pytest.approx(ORACLE[measure](x, y), rel=1e-9)


def test_planted_correlations() -> None:
    rho = np.array([0.95, 0.7, 0.4, 0.1])
    x, y = planted(rho)
    mix = np.random.default_rng(1).standard_normal((4, 4))
    for left, right in ((x, y), (x @ mix + 3, y), (x, y @ mix - 2)):
        assert value("cca_mean", left, right) == pytest.approx(rho.mean(), rel=1e-10)
        assert value("cca_mean_squared", left, right) == pytest.approx((rho**2).mean(), rel=1e-10)


def test_planted_weights_of_pwcca() -> None:
    """Columns s_j h_j of x: the variate h_j carries s_j of it, whatever the basis of y."""
    rho, lengths = np.array([0.9, 0.6, 0.2]), np.array([1.0, 5.0, 0.5])
    x, y = planted(rho)
    mix = np.random.default_rng(1).standard_normal((3, 3))
    assert value("pwcca", x * lengths, y @ mix) == pytest.approx(float(np.average(rho, weights=lengths)), rel=1e-10)
    assert value("pwcca", y * lengths, x @ mix) == pytest.approx(float(np.average(rho, weights=lengths)), rel=1e-10)


def test_of_one_column_each_is_the_correlation() -> None:
    x, y = related(80, 1, 1)
    r = abs(np.corrcoef(x[:, 0], y[:, 0])[0, 1])
    for measure in ("cca_mean", "svcca", "pwcca", "pls"):
        assert value(measure, x, y) == pytest.approx(r, rel=1e-12)
    assert value("cca_mean_squared", x, y) == pytest.approx(r**2, rel=1e-12)


def test_agrees_with_scipy() -> None:
    from scipy.linalg import subspace_angles

    x, y = related(150, 8, 5)
    cosines = np.cos(subspace_angles(centred(x), centred(y)))
    assert value("cca_mean", x, y) == pytest.approx(cosines.mean(), rel=1e-12)
    assert value("cca_mean_squared", x, y) == pytest.approx((cosines**2).mean(), rel=1e-12)


def test_agrees_with_scikit_learn() -> None:
    from sklearn.cross_decomposition import CCA, PLSSVD

    x, y = related(300, 5, 4)
    scores = CCA(n_components=4, max_iter=20_000, tol=1e-14).fit(x, y).transform(x, y)
    rho = [np.corrcoef(a, b)[0, 1] for a, b in zip(scores[0].T, scores[1].T, strict=True)]
    assert value("cca_mean", x, y) == pytest.approx(np.mean(rho), rel=1e-6)
    scores = PLSSVD(n_components=4, scale=True).fit(x, y).transform(x, y)
    covariances = [a @ b / (len(x) - 1) for a, b in zip(scores[0].T, scores[1].T, strict=True)]
    assert value("pls", x, y) == pytest.approx(sum(covariances) / np.sqrt(20), rel=1e-12)


# ---------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize("share", [0.5, 0.8, 0.99, 0.999])
@pytest.mark.parametrize("variant", ["raghu2017", "wu2020"])
def test_svcca_options(variant: str, share: float) -> None:
    x, y = related(200, 30, 20)
    found = repsim.svcca(x, y, variance=share, variant=variant)
    assert found == pytest.approx(svcca(x, y, share, wu=variant == "wu2020"), rel=1e-9)
    assert dict(found.options) == {"variance": share, "variant": variant}


def test_svcca_of_all_the_variance_is_cca_mean() -> None:
    x, y = related(200, 9, 7)
    assert value("svcca", x, y, variance=1.0) == pytest.approx(value("cca_mean", x, y), rel=1e-9)
    assert abs(value("svcca", x, y, variance=0.6) - value("cca_mean", x, y)) > 1e-3


def test_svcca_keeps_a_share_of_the_variance_not_of_the_singular_values() -> None:
    """Lengths 10, 1, 1, 1: the first component has 97 % of the variance, but 77 % of the sum of singular values."""
    rho = np.array([0.9, 0.1, 0.1, 0.1])
    x, y = planted(rho)
    lengths = np.array([10.0, 1.0, 1.0, 1.0])
    assert value("svcca", x * lengths, y * lengths, variance=0.95) == pytest.approx(
        svcca(x * lengths, y * lengths, 0.95), rel=1e-9
    )
    assert value("svcca", x * lengths, y * lengths, variance=0.95) == pytest.approx(0.9, abs=1e-9)


def test_svcca_variants_keep_different_components() -> None:
    x, y = related(200, 30, 20)
    assert abs(value("svcca", x, y) - value("svcca", x, y, variant="wu2020")) > 1e-3


def test_pwcca_variants() -> None:
    x, y = related(200, 12, 20)
    found = repsim.pwcca(x, y, variant="wu2020")
    assert found == pytest.approx(pwcca(x, y, wu=True), rel=1e-9)
    assert found.options["variant"] == "wu2020"
    assert abs(found - value("pwcca", x, y)) > 1e-3


def test_null_of_the_mean_square_is_known() -> None:
    """Over all relabellings the mean of tr(P_x P_y) is r r' / (n - 1)."""
    x, y = related(41, 3, 5)
    found = repsim.cca_mean_squared(x, y, permutations=400, seed=1)
    assert found.null.mean == pytest.approx(5 / 40, abs=4 * found.null.sd / 20)
    assert found.p == pytest.approx(1 / 401)
    independent = np.random.default_rng(2).standard_normal((41, 5))
    assert repsim.cca_mean_squared(x, independent, permutations=99).p > 0.02


# ---------------------------------------------------------------------------------------------- rank


@pytest.mark.parametrize("measure", ["cca_mean", "cca_mean_squared"])
def test_dependent_and_constant_columns_change_nothing(measure: str) -> None:
    x, y = related(120, 6, 4)
    random = np.random.default_rng(3)
    constant = np.full((120, 2), [1e4, 0.1])
    more = np.hstack([x, x[:, :2], x @ random.standard_normal((6, 5)), constant])
    assert value(measure, more, y) == pytest.approx(value(measure, x, y), rel=1e-9)
    assert value(measure, y, more) == pytest.approx(value(measure, y, x), rel=1e-9)


def test_constant_columns_change_no_truncation() -> None:
    x, y = related(120, 6, 4)
    more = np.hstack([np.full((120, 2), [1e4, 0.1]), x])
    for variant in ("raghu2017", "wu2020"):
        expected = value("svcca", x, y, variant=variant)
        assert value("svcca", more, y, variant=variant) == pytest.approx(expected, rel=1e-9)
    assert value("pwcca", more, y) == pytest.approx(value("pwcca", x, y), rel=1e-9)


def test_dependence_that_float32_rounds() -> None:
    """Forty features of an eight-dimensional layer, in float32: what rounding adds is no dimension."""
    x, y = related(500, 8, 5)
    wide = (x @ np.random.default_rng(5).standard_normal((8, 40))).astype(np.float32)
    assert value("cca_mean", wide, y) == pytest.approx(value("cca_mean", x, y), rel=1e-5)


def test_a_direction_of_little_variance_counts() -> None:
    """1e-4 of a standard deviation: far above rounding, and a dimension like any other."""
    rho = np.array([0.9, 0.8, 0.3])
    x, y = planted(rho)
    shared = np.array([[1.0, 1.0, 1.0], [0.0, 1e-4, 0.0], [0.0, 0.0, 1e-4]])  # nearly three times the same column
    assert value("cca_mean", x @ shared, y) == pytest.approx(rho.mean(), rel=1e-6)


@pytest.mark.parametrize("measure", OF_CORRELATIONS)
def test_columns_of_very_different_scale(measure: str) -> None:
    x, y = related(120, 5, 4)
    scales = np.geomspace(1e-6, 1e6, 5)
    if measure == "cca_mean" or measure == "cca_mean_squared":
        assert value(measure, x * scales, y) == pytest.approx(value(measure, x, y), rel=1e-9)
    else:
        assert value(measure, x * scales, y) == pytest.approx(ORACLE[measure](x * scales, y), rel=1e-7)


# ---------------------------------------------------------------------------------------------- few inputs


@pytest.mark.parametrize("measure", OF_CORRELATIONS)
@pytest.mark.parametrize(("wide", "n", "d"), [("x", 20, 40), ("y", 20, 40), ("x", 20, 19)], ids=["x", "y", "just-x"])
def test_refuses_what_is_1_whatever_the_data(measure: str, wide: str, n: int, d: int) -> None:
    random = np.random.default_rng(0)
    sides = {"x": random.standard_normal((n, 3)), "y": random.standard_normal((n, 4))}
    sides[wide] = random.standard_normal((n, d))
    options = {"variance": 1.0} if measure == "svcca" else {}
    message = rf"\[{measure}\] expected {wide} with at least 21 inputs for the 19 dimensions that it spans, got 20: "
    with pytest.raises(ValueError, match=message):
        value(measure, **sides, **options)


def test_correlations_that_are_forced() -> None:
    """20 inputs, 10 + 12 dimensions in the 19 there are: three correlations are 1."""
    random = np.random.default_rng(0)
    x, y = random.standard_normal((20, 10)), random.standard_normal((20, 12))
    qx, qy = (np.linalg.qr(centred(z))[0] for z in (x, y))
    rho = np.linalg.svd(qx.T @ qy, compute_uv=False)
    assert int((rho > 1 - 1e-9).sum()) == 3
    assert value("cca_mean", x, y) == pytest.approx(rho.mean(), rel=1e-9)
    message = r"\[pwcca\] expected at least 22 inputs for the 10 and 12 dimensions that x and y span, got 20: "
    with pytest.raises(ValueError, match=message):
        repsim.pwcca(x, y)


@pytest.mark.parametrize("variant", ["raghu2017", "wu2020"])
def test_svcca_of_fewer_inputs_than_features(variant: str) -> None:
    random = np.random.default_rng(0)
    latent = random.standard_normal((30, 3))
    x, y = (latent @ random.standard_normal((3, d)) + 0.01 * random.standard_normal((30, d)) for d in (50, 70))
    assert value("svcca", x, y, variant=variant) == pytest.approx(svcca(x, y, wu=variant == "wu2020"), rel=1e-9)


def test_pwcca_of_fewer_inputs_than_features() -> None:
    random = np.random.default_rng(0)
    latent = random.standard_normal((30, 3))
    x, y = latent @ random.standard_normal((3, 50)), latent[:, :2] + 0.3 * random.standard_normal((30, 2))
    left, rho, _ = np.linalg.svd(leading(x, 1 - 1e-9).T @ leading(y, 1.0), full_matrices=False)
    weights = np.abs((leading(x, 1 - 1e-9) @ left).T @ x).sum(axis=1)
    assert value("pwcca", x, y) == pytest.approx(float(np.average(rho, weights=weights)), rel=1e-9)


def test_pls_of_fewer_inputs_than_features() -> None:
    x, y = related(15, 30, 40)
    assert value("pls", x, y) == pytest.approx(pls(x, y), rel=1e-10)
    assert value("pls", x, x) == pytest.approx(1, rel=1e-12)


# ---------------------------------------------------------------------------------------------- inputs


@measures
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_every_dtype(measure: str, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    x, y = (torch.from_numpy(z).to(getattr(torch, dtype)) for z in related(200, 6, 5))
    assert value(measure, x, y) == pytest.approx(ORACLE[measure](as_float64(x), as_float64(y)), rel=1e-9)


@measures
def test_memory_map(measure: str, tmp_path: Path) -> None:
    x, y = (z.astype(np.float32) for z in related(1500, 6, 5))
    for name, rows in (("x", x), ("y", y)):
        np.save(tmp_path / f"{name}.npy", rows)
    mapped = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("x", "y")]
    assert value(measure, *mapped) == value(measure, x, y)


@measures
def test_far_from_the_origin(measure: str) -> None:
    x, y = related(300, 6, 5)
    assert value(measure, x + 1e6, y - 1e6) == pytest.approx(value(measure, x, y), rel=1e-7)


@measures
def test_threads_change_nothing(measure: str) -> None:
    x, y = related(1500, 6, 5)
    assert value(measure, x, y, threads=1) == value(measure, x, y, threads=2)


# ---------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("measure", "options", "message"),
    [
        ("svcca", {"variance": 0}, "[svcca] expected variance as a positive number, got 0"),
        ("svcca", {"variance": 1.5}, "[svcca] expected variance of at most 1, got 1.5"),
        ("svcca", {"variant": "wu"}, "[svcca] expected variant 'raghu2017' or 'wu2020', got 'wu'"),
        ("pwcca", {"variant": "raghu2017"}, "[pwcca] expected variant 'morcos2018' or 'wu2020', got 'raghu2017'"),
    ],
    ids=["no-variance", "too-much-variance", "variant-of-svcca", "variant-of-pwcca"],
)
def test_bad_options(measure: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        value(measure, *related(30, 3, 3), **options)


@pytest.mark.parametrize("measure", OF_CORRELATIONS)
def test_too_few_and_equal_inputs(measure: str) -> None:
    x, y = related(30, 3, 3)
    with pytest.raises(ValueError, match=rf"\[{measure}\] expected at least 3 inputs, got 2"):
        value(measure, x[:2], y[:2])
    with pytest.raises(ValueError, match=rf"\[{measure}\] expected y whose rows differ, got zero variance \(all 30"):
        value(measure, x, np.full((30, 3), 0.1))


@pytest.mark.parametrize("e", [4, 40], ids=["n-above-d", "n-below-d"])
def test_pls_refuses_constant_columns(e: int) -> None:
    x, y = related(30, 3, e)
    y[:, [1, 3]] = 7.0
    message = r"\[pls\] expected y with columns that vary, .*, got 2 constant ones, the first of them column 1; leave"
    with pytest.raises(ValueError, match=message):
        repsim.pls(x, y)


@pytest.mark.parametrize("measure", ["svcca", "pwcca"])
def test_wu_variant_needs_more_than_one_component(measure: str) -> None:
    x, y = related(30, 1, 4)
    message = rf"\[{measure}\] expected x with more than one direction before a share 0.99 of its variance is reached"
    with pytest.raises(ValueError, match=message):
        value(measure, x, y, variant="wu2020")


@measures
def test_names_rows_where_columns_outnumber_inputs(measure: str) -> None:
    """The products of inputs are not taken by the native pass, which names the row elsewhere."""
    x, y = related(30, 3, 40)
    y[7, 33] = np.nan
    message = rf"\[{measure}\] expected y with finite values, got NaN or infinity in row 7"
    with pytest.raises(ValueError, match=message):
        value(measure, x, y)
    with pytest.raises(ValueError, match=rf"\[{measure}\] expected y whose rows differ, got zero variance \(all 30"):
        value(measure, x, np.full((30, 40), 0.1))


@pytest.mark.parametrize("measure", ["svcca", "pls"])
def test_both_routes_agree(measure: str) -> None:
    """With 39 columns of 40 inputs products of columns are taken, with 40 products of inputs."""
    random = np.random.default_rng(0)
    latent = random.standard_normal((40, 4))
    x, y = (latent @ random.standard_normal((4, 39)) + 0.05 * random.standard_normal((40, 39)) for _ in range(2))
    wider = np.hstack([x, x[:, :1]])
    assert value(measure, wider, y) == pytest.approx(ORACLE[measure](wider, y), rel=1e-9)
    assert value(measure, x, y) == pytest.approx(ORACLE[measure](x, y), rel=1e-9)
