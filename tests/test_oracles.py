"""The oracles among themselves, against closed forms, scipy, scikit-learn, enumeration and the known golden values."""

from __future__ import annotations

import math

import numpy as np
import oracles
import pytest
from scipy.spatial.distance import pdist, squareform
from sklearn.metrics.pairwise import cosine_similarity, rbf_kernel
from sklearn.neighbors import NearestNeighbors


def gaussians(n: int, d: int, e: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([seed, n, d, e])
    return rng.standard_normal((n, d)), rng.standard_normal((n, e))


def test_rbf_gram_is_that_of_scikit_learn() -> None:
    x, _ = gaussians(30, 5, 1)
    np.testing.assert_allclose(oracles.rbf_gram(x, sigma=1.7), rbf_kernel(x, gamma=1 / (2 * 1.7**2)), rtol=1e-12)
    distances = np.sort(squareform(pdist(x))[np.triu_indices(30, 1)])
    assert oracles.median_distance(x) == pytest.approx((distances[217]), rel=1e-15)  # 435 distances: the 218th
    half = 0.5 * distances[217]
    np.testing.assert_allclose(oracles.rbf_gram(x, median_fraction=0.5), oracles.rbf_gram(x, sigma=half), rtol=1e-12)


def test_median_of_an_even_number_of_distances_is_the_mean_of_the_middle_two() -> None:
    x = np.array([[0.0], [1.0], [3.0], [7.0]])  # distances 1 2 3 4 6 7
    assert oracles.median_distance(x) == 3.5


def test_centring_the_columns_changes_no_hsic() -> None:
    x, y = gaussians(25, 4, 6)
    for estimator in ("biased", "debiased"):
        raw = oracles.cka_of_grams((x + 3) @ (x + 3).T, (y - 2) @ (y - 2).T, estimator)
        assert raw == pytest.approx(oracles.cka(x, y, estimator), abs=1e-12)


def test_biased_linear_hsic_is_the_cross_covariance_norm() -> None:
    x, y = gaussians(40, 7, 3)
    xc, yc = x - x.mean(0), y - y.mean(0)
    expected = np.linalg.norm(xc.T @ yc) ** 2 / 39**2
    assert oracles.hsic(x, y, "biased") == pytest.approx(expected, rel=1e-12)


def test_debiased_hsic_is_the_u_statistic_over_quadruples() -> None:
    x, y = gaussians(7, 3, 2)
    k, l = oracles.rbf_gram(x, sigma=1.0), oracles.linear_gram(y)  # noqa: E741
    assert oracles.hsic_debiased(k, l) == pytest.approx(oracles.hsic_debiased_by_quadruples(k, l), rel=1e-11)


def test_debiased_hsic_is_the_u_centred_product() -> None:
    x, y = gaussians(20, 3, 2)
    k, l = oracles.rbf_gram(x, sigma=1.0), oracles.linear_gram(y)  # noqa: E741
    product = np.sum(oracles.u_centred(k) * oracles.u_centred(l)) / (20 * 17)
    assert oracles.hsic_debiased(k, l) == pytest.approx(product, rel=1e-11)
    np.testing.assert_allclose(oracles.u_centred(k).sum(axis=0), 0, atol=1e-12)


def test_debiased_hsic_of_asymmetric_matrices_reads_the_second_transposed() -> None:
    rng = np.random.default_rng(5)
    k, l = rng.standard_normal((9, 9)), rng.standard_normal((9, 9))  # noqa: E741
    np.fill_diagonal(k, 0)
    np.fill_diagonal(l, 0)
    one = np.ones(9)
    literal = np.trace(k @ l) + (one @ k @ one) * (one @ l @ one) / (8 * 7) - 2 / 7 * (one @ k @ l @ one)
    assert oracles.hsic_debiased(k, l) == pytest.approx(literal / (9 * 6), rel=1e-12)
    assert oracles.hsic_debiased(k, l) != pytest.approx(oracles.hsic_debiased(k, l.T), rel=1e-3)


@pytest.mark.parametrize("n", [4, 5, 30, 200])
def test_linear_debiased_closed_form(n: int) -> None:
    x, y = gaussians(n, 6, 3)
    y = y + x[:, :3]
    assert oracles.linear_hsic_debiased_closed_form(x, y) == pytest.approx(oracles.hsic(x, y), rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("n", [4, 5, 6, 7])
@pytest.mark.parametrize("estimator", ["biased", "debiased"])
def test_permutation_moments_against_all_permutations(n: int, estimator: str) -> None:
    x, y = gaussians(n, 3, 2)
    a = oracles.centred(oracles.linear_gram(x), estimator)
    b = oracles.centred(oracles.rbf_gram(y, sigma=1.5), estimator)
    mean, variance = oracles.permutation_moments(a, b)
    every_mean, every_variance = oracles.permutation_moments_by_enumeration(a, b)
    assert mean == pytest.approx(every_mean, abs=float(1e-10 * np.linalg.norm(a) * np.linalg.norm(b)))
    assert variance == pytest.approx(every_variance, rel=1e-9)


def test_permutation_moments_against_random_permutations() -> None:
    x, y = gaussians(30, 4, 5)
    null = oracles.cka_null(x, y, "biased", oracles.LINEAR, 4000, seed=1)
    a, b = oracles.double_centred(oracles.linear_gram(x)), oracles.double_centred(oracles.linear_gram(y))
    mean, variance = oracles.permutation_moments(a, b)
    assert null.mean() == pytest.approx(mean, abs=4 * math.sqrt(variance / 4000))
    assert null.std() == pytest.approx(math.sqrt(variance), rel=0.08)


@pytest.mark.parametrize(("d", "golden"), [(10, 0.05), (100, 0.34), (1000, 0.83), (10_000, 0.98)])
def test_golden_cka_of_independent_gaussians(d: int, golden: float) -> None:
    x, y = gaussians(200, d, d)
    k, l = oracles.linear_gram(x), oracles.linear_gram(y)  # noqa: E741
    assert oracles.cka_of_grams(k, l, "biased") == pytest.approx(golden, abs=0.015)
    assert oracles.cka_of_grams(k, l, "debiased") == pytest.approx(0.0, abs=0.03)


def test_naive_float32_is_right_to_float32_and_not_to_float64() -> None:
    x, y = gaussians(100, 8, 5)
    y[:, :5] += x[:, :5]
    for kernel in (oracles.LINEAR, oracles.Kernel("rbf", 3.0), oracles.Kernel("rbf-median", 0.5)):
        for estimator in ("biased", "debiased"):
            exact = oracles.hsic(x, y, estimator, kernel)
            error = abs(oracles.naive_hsic(x, y, estimator, kernel) / exact - 1)
            assert 1e-12 < error < 1e-4, (kernel, estimator, error)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_nearest_is_that_of_scikit_learn(metric: str) -> None:
    x, base = gaussians(120, 6, 6)
    found = NearestNeighbors(n_neighbors=9, metric=metric, algorithm="brute").fit(x)
    np.testing.assert_array_equal(oracles.nearest(x, 9, metric), found.kneighbors(return_distance=False))
    np.testing.assert_array_equal(oracles.nearest(base, 9, metric, x), found.kneighbors(base, return_distance=False))


def test_nearest_by_inner_product_written_as_a_loop() -> None:
    x, _ = gaussians(25, 4, 1)
    for i, row in enumerate(oracles.nearest(x, 5, "inner_product")):
        by_hand = sorted((j for j in range(25) if j != i), key=lambda j: (-float(x[i] @ x[j]), j))
        assert row.tolist() == by_hand[:5]


def test_nearest_sends_ties_to_the_lower_index_and_keeps_duplicates_of_the_row() -> None:
    x = np.array([[1.0], [0.0], [1.0], [1.0], [5.0]])
    expected = [[2, 3, 1], [0, 2, 3], [0, 3, 1], [0, 2, 1], [0, 2, 3]]
    np.testing.assert_array_equal(oracles.nearest(x, 3, "euclidean"), expected)


def test_mutual_knn_by_hand_and_its_chance_level() -> None:
    a, b = np.array([[1, 2], [0, 2], [0, 1]]), np.array([[1, 2], [2, 0], [3, 1]])
    assert oracles.mutual_knn(a, b) == pytest.approx(5 / 6)
    x, y = gaussians(60, 5, 5)
    null = oracles.mutual_knn_null(oracles.nearest(x, 6), oracles.nearest(y, 6), 400, seed=0)
    assert null.mean() == pytest.approx(6 / 59, abs=5 * null.std() / 20)


def test_relabelling_the_graph_is_the_graph_of_the_relabelled_rows() -> None:
    x, _ = gaussians(40, 5, 1)
    order = np.random.default_rng(3).permutation(40)
    np.testing.assert_array_equal(oracles.relabelled(oracles.nearest(x, 7), order), oracles.nearest(x[order], 7))


def test_cknna_limits() -> None:
    x, y = gaussians(40, 5, 5)
    assert oracles.cknna(x, x, 5) == pytest.approx(1.0, abs=1e-12)
    unit_x = x / np.linalg.norm(x, axis=1, keepdims=True)
    unit_y = y / np.linalg.norm(y, axis=1, keepdims=True)
    full = oracles.cka_of_grams(cosine_similarity(x), unit_y @ unit_y.T, "debiased")
    assert oracles.cknna(x, y, 39) == pytest.approx(full, abs=1e-10)  # every row a neighbour: CKA of the cosine kernel
    assert oracles.cknna(x, y, 39) == pytest.approx(oracles.cka(unit_x, unit_y), abs=1e-10)


def test_add_one_p() -> None:
    assert oracles.add_one_p(2.0, np.array([1.0, 2.0, 3.0])) == 0.75
    assert oracles.add_one_p(9.0, np.zeros(199)) == 1 / 200
