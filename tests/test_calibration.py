"""What chance gives: Pearson's third law, its exact third moment, p in the tail; intervals that hold what they say."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import oracles
import pytest
from oracles import LINEAR, Kernel
from scipy import stats

import repsim
from repsim import calibration
from repsim.calibration import Null, trace_product_skewness
from repsim.reductions.third_moments import u_centred

ESTIMATORS = ("biased", "debiased")


def symmetric(n: int, seed: int, *, heavy: bool = False) -> np.ndarray:
    rng = np.random.default_rng([n, seed])
    one = rng.standard_normal((n, n)) ** (3 if heavy else 1)
    return one + one.T


def skewness(a: np.ndarray, b: np.ndarray) -> float:
    sums = []
    for m in (a, b):
        size = float(np.sum(m * m)) ** 1.5
        sums += [float(np.trace(m @ m @ m)) / size, float(np.sum(m**3)) / size]
    return trace_product_skewness(len(a), *sums)


# ---------------------------------------------------------------------------------------------- the third moment


@pytest.mark.parametrize("heavy", [False, True], ids=["normal", "heavy-tailed"])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n", [6, 7])
def test_skewness_by_enumeration(n: int, seed: int, heavy: bool) -> None:
    """All 720 or 5 040 relabellings of U-centred matrices, of kernels and of none."""
    a, b = (oracles.u_centred(symmetric(n, 10 * seed + side, heavy=heavy)) for side in (0, 1))
    assert skewness(a, b) == pytest.approx(oracles.permutation_skewness_by_enumeration(a, b), rel=1e-9, abs=1e-12)
    x = np.random.default_rng([n, seed]).standard_normal((n, 2))
    kernel = oracles.u_centred(oracles.rbf_gram(x, sigma=1.0))
    expected = oracles.permutation_skewness_by_enumeration(kernel, b)
    assert skewness(kernel, b) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize("n", [6, 7])
def test_skewness_of_the_result_by_enumeration(n: int, kernel: str) -> None:
    rng = np.random.default_rng(n)
    x, y = rng.standard_normal((n, 2)), rng.standard_normal((n, 3))
    grams = [oracles.linear_gram(s) if kernel == "linear" else oracles.rbf_gram(s, median_fraction=1) for s in (x, y)]
    expected = oracles.permutation_skewness_by_enumeration(*(oracles.u_centred(g) for g in grams))
    for name in ("cka", "hsic"):
        assert getattr(repsim, name)(x, y, kernel=kernel).null.skewness == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("n", [4, 5])
def test_too_few_inputs_for_a_skewness_take_the_normal_law(n: int) -> None:
    x, y = np.random.default_rng(n).standard_normal((2, n, 2))
    assert math.isnan(trace_product_skewness(n, 0.1, 0.1, 0.1, 0.1))
    result = repsim.cka(x, y)
    assert (result.null.skewness, result.p_from) == (0.0, "normal")
    assert result.p == pytest.approx(stats.norm.sf(result.z), rel=1e-12)


@pytest.mark.parametrize("d", [1, 3, 20])
def test_skewness_of_many_inputs_from_a_sample_of_them(d: int) -> None:
    rng = np.random.default_rng(d)
    x, y = rng.standard_normal((2, 900, d))
    exact = skewness(*(oracles.u_centred(oracles.linear_gram(side)) for side in (x, y)))
    assert repsim.cka(x, y).null.skewness == pytest.approx(exact, rel=0.15)


def test_u_centring() -> None:
    k = symmetric(9, 1)
    np.testing.assert_allclose(u_centred(k + 1e6), oracles.u_centred(k), atol=1e-8)
    np.testing.assert_allclose(u_centred(k).sum(axis=1), 0, atol=1e-12)


# ---------------------------------------------------------------------------------------------- the law


SKEWNESSES = [-2.5, -0.3, 0.05, 0.7, 1.0, 2.0, 3.5]


@pytest.mark.parametrize("skew", SKEWNESSES)
def test_p_is_pearsons(skew: float) -> None:
    null = Null(0.3, 0.2, skew)
    z = np.linspace(-6, 12, 73)
    expected = stats.pearson3.sf(z, skew)
    got = [null.p(0.3 + 0.2 * one) for one in z]
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-14)
    assert all(a >= b for a, b in itertools.pairwise(got))


@pytest.mark.parametrize("skew", [0.0, 2e-4, -2e-4, *SKEWNESSES])
def test_quantile_undoes_p(skew: float) -> None:
    null = Null(-0.1, 0.03, skew)
    for q in (0.001, 0.05, 0.3, 0.5, 0.9, 0.95, 0.999):
        assert 1 - null.p(null.quantile(q)) == pytest.approx(q, rel=1e-6)
        expected = stats.norm.ppf(q) if skew == 0 else stats.pearson3.ppf(q, skew)
        assert (null.quantile(q) + 0.1) / 0.03 == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("skew", [0.0, -0.0, math.nan, 1e-12, -1e-12])
def test_no_skewness_is_the_normal_law(skew: float) -> None:
    null = Null(0.0, 2.0, skew)
    for z in (-3.0, 0.0, 1.5, 8.0):
        assert null.p(2 * z) == pytest.approx(stats.norm.sf(z), rel=1e-9)
        assert null.quantile(stats.norm.cdf(z / 2)) == pytest.approx(z, abs=1e-9)


@pytest.mark.parametrize("at", [calibration.LEAST_SKEWNESS, calibration.NEARLY_NORMAL])
@pytest.mark.parametrize("side", [1, -1])
def test_the_law_does_not_jump_where_another_formula_begins(side: int, at: float) -> None:
    for z in (-4.0, -0.5, 0.0, 3.0, 5.0, 8.0):
        below, above = (Null(0.0, 1.0, side * f * at) for f in (1 - 1e-6, 1 + 1e-6))
        assert below.p(z) == pytest.approx(above.p(z), rel=1e-5)
        share = stats.norm.cdf(z / 2)
        assert below.quantile(share) == pytest.approx(above.quantile(share), abs=1e-6)


@pytest.mark.parametrize("skew", [1e-2, -1e-2, 1e-3, -1e-3, 1e-5, -1e-5])
def test_the_tail_of_a_nearly_normal_law(skew: float) -> None:
    """By integrating the density, from the term of the mode that all others are quotients of."""
    shape, root = 4 / skew**2, 2 / abs(skew)

    def density(z: float) -> float:  # of the standardised law: log Gamma(shape) by Stirling's series
        mu = z / root if skew > 0 else -z / root
        bracket = sum((-1) ** k * mu**k / k for k in range(2, 14))  # mu - log(1 + mu)
        return math.exp(-shape * bracket - math.log1p(mu) - 1 / (12 * shape)) / math.sqrt(2 * math.pi)

    for z in (-2.0, 0.0, 3.0, 5.0, 9.0):
        nodes, weights = np.polynomial.legendre.leggauss(200)
        tail = 6 * sum(w * density(z + 6 * (t + 1)) for t, w in zip(nodes, weights, strict=True))
        assert Null(0.0, 1.0, skew).p(z) == pytest.approx(tail, rel=1e-7)


@pytest.mark.parametrize("skew", [2.0, -2.0])
def test_beyond_the_end_of_the_law(skew: float) -> None:
    """With a skewness of 2 it ends one sd from the mean."""
    null = Null(0.0, 1.0, skew)
    assert null.p(-50.0) == 1.0
    assert null.p(50.0) == (0.0 if skew < 0 else pytest.approx(stats.pearson3.sf(50, 2)))


def test_chance_that_does_not_vary_has_no_z_and_no_p() -> None:
    for null in (Null(0.5, 0.0, 1.0), Null(math.nan, math.nan)):
        assert math.isnan(null.z(1.0))
        assert math.isnan(null.p(1.0))


def test_scaled() -> None:
    null = Null(4.0, 2.0, 0.5)
    assert null.scaled(2.0) == Null(2.0, 1.0, 0.5)
    assert null.scaled(2.0).p(3.0) == null.p(6.0)


# ---------------------------------------------------------------------------------------------- against relabelling


def products(a: np.ndarray, b: np.ndarray, count: int, seed: int) -> np.ndarray:
    """sum_ij A_ij B_p(i)p(j) for random p, many at a time."""
    rng, n = np.random.default_rng(seed), len(a)
    out = []
    for start in range(0, count, 2000):
        order = rng.permuted(np.tile(np.arange(n), (min(2000, count - start), 1)), axis=1)
        out.append((b[order[:, :, None], order[:, None, :]] * a).sum(axis=(1, 2)))
    return np.concatenate(out)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("d", [1, 2, 5])
def test_p_in_the_tail(d: int, estimator: str) -> None:
    """Where one relabelling in 1 000 lies, Pearson's p is within a factor of 2.5 of it.

    The normal p of the same values is too small, by a factor of 10 or more for d = 1. The biased form takes the
    skewness of the debiased.
    """
    rng = np.random.default_rng([d, 1])
    x, y = rng.standard_normal((2, 30, d))
    a, b = (oracles.centred(oracles.linear_gram(side), estimator) for side in (x, y))
    drawn = products(a, b, 40_000, d)
    null = repsim.hsic(x, y, estimator=estimator).null.scaled(1 / (30 * 27 if estimator == "debiased" else 29**2))
    assert null.mean == pytest.approx(drawn.mean(), abs=6 * drawn.std() / 200)
    assert null.sd == pytest.approx(drawn.std(), rel=0.05)
    assert null.skewness == pytest.approx(stats.skew(drawn), rel=0.25)
    for share in (0.05, 0.01, 0.001):
        value = float(np.quantile(drawn, 1 - share))
        assert share / 2.5 < null.p(value) < share * 2.5
    normal = Null(null.mean, null.sd).p(float(np.quantile(drawn, 0.999)))
    assert normal < 0.001 / (10 if d == 1 else 1.5)


@pytest.mark.parametrize(
    ("kernel", "given", "d"),
    [
        pytest.param(LINEAR, "linear", 1, id="feature-space-one-feature"),
        pytest.param(LINEAR, "linear", 60, id="linear-tiles"),
        pytest.param(Kernel("rbf", 1.0), repsim.RBF(sigma=1.0), 2, id="rbf"),
    ],
)
def test_p_is_uniform_under_independence(kernel: Kernel, given: Any, d: int) -> None:
    """Pearson's law is continuous, and chance nearly so."""
    rng = np.random.default_rng(d)
    p = np.array([repsim.cka(*rng.standard_normal((2, 40, d)), kernel=given, threads=1).p for _ in range(400)])
    assert stats.kstest(p, "uniform").statistic < 0.12
    for share in (0.05, 0.2, 0.5):
        assert np.mean(p < share) == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 400))


# ---------------------------------------------------------------------------------------------- what results say of it


def pair(n: int = 80) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, 4))
    return x, x @ rng.standard_normal((4, 3)) + rng.standard_normal((n, 3))


@pytest.mark.parametrize("alpha", [0.5, 0.05, 0.001])
def test_calibrated(alpha: float) -> None:
    x, y = pair()
    result = repsim.cka(x, y)
    threshold = result.null.quantile(1 - alpha)
    assert result.null.p(threshold) == pytest.approx(alpha, rel=1e-6)
    assert result.calibrated(alpha) == pytest.approx((float(result) - threshold) / (1 - threshold), rel=1e-12)
    assert repsim.cka(x, x).calibrated(alpha) == pytest.approx(1.0)
    assert repsim.cka(x, x).calibrated() == repsim.cka(x, x).calibrated(0.05)
    below = repsim.cka(*np.random.default_rng(4).standard_normal((2, 50, 3)))
    assert float(below) < below.null.quantile(0.95)
    assert below.calibrated() == 0.0
    assert 0 < repsim.mutual_knn(x, y, k=5).calibrated() < 1


def test_calibrated_refuses() -> None:
    x, y = pair()
    with pytest.raises(ValueError, match=r"^\[Similarity\] expected a measure whose largest value is 1, got hsic$"):
        repsim.hsic(x, y).calibrated()
    constant = repsim.cka(np.random.default_rng(3).standard_normal((41, 6)), np.eye(41), estimator="biased")
    with pytest.raises(ValueError, match=r"^\[Similarity\] expected chance that varies, got an sd of zero or NaN$"):
        constant.calibrated()
    for call in (repsim.cka(x, y).calibrated, repsim.cka(x, y, jackknife=True).interval):
        name = "alpha" if call.__name__ == "calibrated" else "level"
        for value in (1, 1.0, 1.5):
            with pytest.raises(ValueError, match=rf"^\[Similarity\] expected {name} between 0 and 1, got {value}$"):
                call(value)
        for value in (0, -0.5, math.nan):
            with pytest.raises(
                ValueError, match=rf"^\[Similarity\] expected {name} as a positive number, got {value}$"
            ):
                call(value)
        with pytest.raises(TypeError, match=rf"^\[Similarity\] expected {name} as a number, got str$"):
            call("0.05")


@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_interval(level: float) -> None:
    result = repsim.cka(*pair(), jackknife=True)
    low, high = result.interval(level)
    half = stats.norm.ppf(0.5 + level / 2) * result.standard_error
    assert (low, high) == pytest.approx((float(result) - half, float(result) + half), rel=1e-12)
    assert result.interval() == result.interval(0.95)
    assert result.to_dict()["standard_error"] == result.standard_error
    with pytest.raises(
        ValueError,
        match=r"^\[Similarity\] expected a result with a standard error, got cka without; ask for it: jackknife=True",
    ):
        repsim.cka(*pair()).interval()


@pytest.mark.parametrize("kernel", ["linear", repsim.RBF(sigma=2.0)], ids=["feature-space", "rbf"])
def test_the_interval_covers_the_value_of_very_many_inputs(kernel: Any) -> None:
    """95 of 100 intervals of 120 inputs hold the CKA of 6 000 of the same kind."""
    rng = np.random.default_rng(2)
    mixing = rng.standard_normal((3, 3))

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        x = rng.standard_normal((n, 3))
        return x, x @ mixing + 1.5 * rng.standard_normal((n, 3))

    truth = float(repsim.cka(*draw(6000), kernel=kernel))
    inside = 0
    for _ in range(200):
        low, high = repsim.cka(*draw(120), kernel=kernel, jackknife=True, threads=1).interval()
        inside += low <= truth <= high
    assert 0.88 <= inside / 200 <= 0.985
