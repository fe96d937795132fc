"""Distance correlation against its definition, of matrices that are stored."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import oracles
import pytest
from scipy.spatial.distance import pdist, squareform

import repsim
from repsim.arrays import as_rows
from repsim.measures.registry import REGISTRY

ESTIMATORS = ("debiased", "biased")
SHAPES = [
    pytest.param(50, 7, 5, id="n>d"),
    pytest.param(12, 40, 90, id="n<d"),
    pytest.param(30, 1, 1, id="d=1"),
    pytest.param(4, 3, 2, id="n=4"),
    pytest.param(1300, 4, 3, id="several-blocks"),
]

every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS)


def pair(n: int = 50, d: int = 7, e: int = 5) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng([n, d, e])
    x = random.standard_normal((n, d)) * np.linspace(0.5, 2, d) + random.standard_normal(d)
    return x, np.tanh(x @ random.standard_normal((d, e)) / d**0.5) + 0.3 * random.standard_normal((n, e))


def centred(x: np.ndarray, estimator: str) -> np.ndarray:
    """Szekely, Rizzo and Bakirov (2007), section 2.3; Szekely and Rizzo (2014), definition 2."""
    a = squareform(pdist(np.asarray(x, np.float64)))
    n = len(a)
    if estimator == "biased":
        return a - a.mean(axis=0) - a.mean(axis=1)[:, None] + a.mean()
    u = a - a.sum(axis=0) / (n - 2) - a.sum(axis=1)[:, None] / (n - 2) + a.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(u, 0.0)
    return u


def oracle(x: np.ndarray, y: np.ndarray, estimator: str) -> float:
    a, b = centred(x, estimator), centred(y, estimator)
    squared = (a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())
    return float(squared if estimator == "debiased" else np.sqrt(squared))


# ---------------------------------------------------------------------------------------------- values


@every_estimator
@pytest.mark.parametrize(("n", "d", "e"), SHAPES)
def test_agrees_with_the_definition(n: int, d: int, e: int, estimator: str) -> None:
    x, y = pair(n, d, e)
    found = repsim.distance_correlation(x, y, estimator=estimator)
    assert found == pytest.approx(oracle(x, y, estimator), abs=1e-11)
    assert found.estimator == estimator


def test_biased_from_three_sums() -> None:
    """Theorem 1 of the paper of 2007: dCov^2 = S1 + S2 - 2 S3, raw means of distances."""
    x, y = pair()

    def covariance(a: np.ndarray, b: np.ndarray) -> float:
        return float((a * b).mean() + a.mean() * b.mean() - 2 * (a.mean(axis=1) * b.mean(axis=1)).mean())

    a, b = squareform(pdist(x)), squareform(pdist(y))
    expected = np.sqrt(covariance(a, b) / np.sqrt(covariance(a, a) * covariance(b, b)))
    assert repsim.distance_correlation(x, y, estimator="biased") == pytest.approx(expected, abs=1e-12)


def test_debiased_from_all_quadruples_of_inputs() -> None:
    """The inner product of U-centred matrices over n (n - 3) is a U-statistic over quadruples, like that of HSIC."""
    x, y = pair(9, 3, 2)
    a, b = squareform(pdist(x)), squareform(pdist(y))
    terms = [oracles.hsic_debiased_by_quadruples(*two) for two in ((a, b), (a, a), (b, b))]
    expected = terms[0] / np.sqrt(terms[1] * terms[2])
    assert repsim.distance_correlation(x, y) == pytest.approx(expected, abs=1e-12)


@every_estimator
def test_of_a_line(estimator: str) -> None:
    x = np.random.default_rng(0).standard_normal((60, 1))
    assert repsim.distance_correlation(x, 5 - 3 * x, estimator=estimator) == pytest.approx(1, abs=1e-12)


def test_sees_what_correlation_does_not() -> None:
    x = np.linspace(-1, 1, 101)[:, None]
    assert np.corrcoef(x[:, 0], x[:, 0] ** 2)[0, 1] == pytest.approx(0, abs=1e-12)
    result = repsim.distance_correlation(x, x**2, permutations=99)
    assert result > 0.1
    assert result.p == 0.01


def test_independent_and_wide() -> None:
    """The biased form nears 1 for independent rows with d > n; the debiased stays at 0, below it as often as above."""
    draws = []
    for seed in range(12):
        random = np.random.default_rng(seed)
        x, y = random.standard_normal((2, 40, 500))
        draws.append(float(repsim.distance_correlation(x, y)))
        assert repsim.distance_correlation(x, y, estimator="biased") > 0.9
    assert np.mean(draws) == pytest.approx(0, abs=4 * np.std(draws) / 12**0.5)
    assert 1 < np.sum(np.array(draws) < 0) < 11


@every_estimator
def test_one_input_far_from_all_others(estimator: str) -> None:
    x, y = pair()
    x[3] += 1e6
    y[8] -= 1e5
    assert repsim.distance_correlation(x, y, estimator=estimator) == pytest.approx(oracle(x, y, estimator), abs=1e-8)


@every_estimator
def test_far_from_the_origin(estimator: str) -> None:
    x, y = (z + 1e6 for z in pair())
    assert repsim.distance_correlation(x, y, estimator=estimator) == pytest.approx(oracle(x, y, estimator), abs=1e-11)


@every_estimator
def test_clusters_of_near_and_equal_rows(estimator: str) -> None:
    x, y = pair(60)
    x = 1e-5 * x + np.arange(60)[:, None] % 3
    x[6], y[6] = x[3], y[3]
    assert repsim.distance_correlation(x, y, estimator=estimator) == pytest.approx(oracle(x, y, estimator), abs=1e-10)


@every_estimator
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtypes(dtype: str, estimator: str) -> None:
    torch = pytest.importorskip("torch")
    x, y = (torch.from_numpy(z).to(getattr(torch, dtype)) for z in pair())
    expected = oracle(x.double().numpy(), y.double().numpy(), estimator)
    assert repsim.distance_correlation(x, y, estimator=estimator) == pytest.approx(expected, abs=1e-12)


@every_estimator
def test_memory_maps(estimator: str, tmp_path: Path) -> None:
    x, y = pair(1100, 4, 4)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    maps = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "xy"]
    assert repsim.distance_correlation(*maps, estimator=estimator) == repsim.distance_correlation(
        x, y, estimator=estimator
    )


def test_takes_no_memory_of_all_pairs() -> None:
    x, y = pair(4500, 3, 3)
    tracemalloc.start()
    repsim.distance_correlation(x, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4500 * 4500 * 8 / 2  # one matrix of distances would be twice this


def test_threads_do_not_matter() -> None:
    x, y = pair(400, 40, 30)
    one, two = (repsim.distance_correlation(x, y, threads=threads) for threads in (1, 2))
    assert one == pytest.approx(two, abs=1e-13)


# ---------------------------------------------------------------------------------------------- chance


@every_estimator
def test_relabelling_is_that_of_the_rows(estimator: str) -> None:
    make = REGISTRY["distance_correlation"].method
    assert make is not None
    method = make(estimator=estimator)
    x, y = pair(1100, 3, 3)
    order = np.random.default_rng(0).permutation(1100)
    left, right = (method.prepare(as_rows(z, function="t", name="z"), 1) for z in (x, y))
    found = method.between(left, method.relabel(right, order), 1)
    assert found == pytest.approx(oracle(x, y[order], estimator), abs=1e-10)


@every_estimator
def test_null(estimator: str) -> None:
    x, y = pair(20)
    result = repsim.distance_correlation(x, y, estimator=estimator, permutations=50, seed=3)
    random = np.random.default_rng(3)
    draws = [oracle(x, y[random.permutation(20)], estimator) for _ in range(50)]
    assert result.null.mean == pytest.approx(np.mean(draws), abs=1e-10)
    assert result.p == pytest.approx((1 + np.sum(np.array(draws) >= result.value)) / 51)


# ---------------------------------------------------------------------------------------------- errors


@every_estimator
def test_refuses_distances_that_do_not_vary(estimator: str) -> None:
    x, _ = pair()
    with pytest.raises(
        ValueError, match=rf"^\[distance_correlation\] expected y whose distances vary, .* in the {estimator} form"
    ):
        repsim.distance_correlation(x, np.ones((50, 3)), estimator=estimator)


def test_refuses_inputs_that_are_all_equally_far_apart() -> None:
    """Only U-centring leaves nothing of them; the double-centred form has the diagonal."""
    turned = np.linalg.qr(np.random.default_rng(0).standard_normal((50, 50)))[0]
    for simplex in (np.eye(50), turned):
        with pytest.raises(ValueError, match=r"^\[distance_correlation\] expected x whose distances vary"):
            repsim.distance_correlation(simplex, pair()[1])
        found = repsim.distance_correlation(simplex, pair()[1], estimator="biased")
        assert found == pytest.approx(oracle(simplex, pair()[1], "biased"), abs=1e-10)


@pytest.mark.parametrize(("estimator", "least"), [("debiased", 4), ("biased", 2)], ids=ESTIMATORS)
def test_refuses_too_few_inputs(estimator: str, least: int) -> None:
    x, y = pair(4, 3, 2)
    assert np.isfinite(repsim.distance_correlation(x[:least], y[:least], estimator=estimator))
    with pytest.raises(
        ValueError, match=rf"^\[distance_correlation\] expected at least {least} inputs, got {least - 1}"
    ):
        repsim.distance_correlation(x[: least - 1], y[: least - 1], estimator=estimator)


def test_refuses_an_unknown_estimator() -> None:
    with pytest.raises(
        ValueError, match=r"^\[distance_correlation\] expected estimator 'debiased' or 'biased', got 'u'"
    ):
        repsim.distance_correlation(*pair(), estimator="u")


@every_estimator
def test_names_the_row_that_is_not_finite(estimator: str) -> None:
    x, y = pair()
    x[7, 2] = np.nan
    with pytest.raises(
        ValueError, match=r"^\[distance_correlation\] expected x with finite values, got NaN or infinity in row 7"
    ):
        repsim.distance_correlation(x, y, estimator=estimator)
