"""A result is a float that knows how it was made; the moments that chance gives it, by enumeration."""

from __future__ import annotations

import copy
import itertools
import json
import math
import pickle
import warnings
from typing import Any

import numpy as np
import pytest

import repsim
from repsim import calibration


def pair(n: int = 60, d: int = 5, e: int = 7) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng([n, d, e]).standard_normal((n, d))
    return x, np.tanh(x @ np.random.default_rng(1).standard_normal((d, e)))


def result(measure: str = "mutual_knn", **options: Any) -> repsim.Similarity:
    return getattr(repsim, measure)(*pair(), **options)


# ---------------------------------------------------------------------------------------------- a float


@pytest.mark.parametrize("measure", ["cka", "hsic", "mutual_knn", "cknna"])
def test_is_a_float(measure: str) -> None:
    one = result(measure)
    plain = float(one)
    assert isinstance(one, float)
    assert type(plain) is type(one.value) is float
    assert one == plain == one.value
    assert hash(one) == hash(plain)
    assert {one: "kept"}[plain] == "kept"
    assert f"{one:.3f}" == f"{plain:.3f}"
    assert f"{one:>12.2e}" == f"{plain:>12.2e}"
    assert round(one, 2) == round(plain, 2)
    assert one > plain - 1
    assert not one < plain
    assert sorted([2.0, one, -1.0]) == sorted([2.0, plain, -1.0])
    assert max(one, -9.0) is one
    assert one + 1 == plain + 1
    assert math.sqrt(abs(one)) == math.sqrt(abs(plain))
    assert np.mean([one, one]) == plain
    assert np.asarray([one]).dtype == np.float64
    assert json.loads(json.dumps({"value": one})) == {"value": plain}


@pytest.mark.parametrize(
    "again",
    [
        pytest.param(copy.copy, id="copy"),
        pytest.param(copy.deepcopy, id="deepcopy"),
        *[
            pytest.param(lambda one, p=protocol: pickle.loads(pickle.dumps(one, p)), id=f"pickle-{protocol}")
            for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
        ],
    ],
)
@pytest.mark.parametrize("measure", ["cka", "cknna"])
def test_survives_copies(measure: str, again: Any) -> None:
    one = result(measure)
    other = again(one)
    assert type(other) is repsim.Similarity
    assert other.to_dict() == one.to_dict()
    assert (other.options, other.null, repr(other)) == (one.options, one.null, repr(one))


def test_is_read_only() -> None:
    one = result("cka")
    with pytest.raises(AttributeError, match=r"^\[Similarity\] expected no assignment[^\n]*got p = 0"):
        one.p = 0.0
    with pytest.raises(TypeError):
        one.options["kernel"] = "rbf"  # type: ignore[index]
    assert one.kernel == "linear"
    with pytest.raises(AttributeError, match="mutual_knn has no kernel; it has k, metric"):
        _ = result().kernel


def test_as_a_row_of_a_table() -> None:
    one = result("cka")
    row = one.to_dict()
    assert {type(value) for value in row.values()} <= {str, float, int}
    assert json.loads(json.dumps(row)) == row
    assert (row["value"], row["null_mean"], row["null_sd"]) == (one.value, one.null.mean, one.null.sd)
    assert (row["z"], row["p"], row["n"], row["estimator"]) == (one.z, one.p, 60, "debiased")


def test_repr() -> None:
    null = calibration.Null(0.25, 0.125)
    options = {"k": 3, "metric": "cosine"}
    one = repsim.Similarity(0.5, "mutual_knn", 9, options, "float32", null, "all relabellings", 0.0228, "normal")
    assert repr(one) == str(one) == "mutual_knn 0.5  (z 2, p 0.023; n=9, k=3, metric=cosine, float32)"


@pytest.mark.parametrize(
    ("measure", "how", "null_from", "p_from"),
    [
        ("cka", {}, "all relabellings", "pearson"),
        ("hsic", {"kernel": "rbf"}, "all relabellings", "pearson"),
        ("mutual_knn", {}, "all relabellings", "normal"),
        ("mutual_knn", {"permutations": 20}, "all relabellings", "permutations"),
        ("cknna", {}, "200 relabellings", "permutations"),
        ("cknna", {"permutations": np.int64(30)}, "30 relabellings", "permutations"),
    ],
)
def test_says_where_chance_and_p_come_from(measure: str, how: dict[str, Any], null_from: str, p_from: str) -> None:
    one = result(measure, **how)
    assert (one.null_from, one.p_from) == (null_from, p_from)
    assert (one.to_dict()["null_from"], one.to_dict()["p_from"]) == (null_from, p_from)


# ---------------------------------------------------------------------------------------------- the moments


@pytest.mark.parametrize(("n", "k", "q"), [(2, 1, 1), (3, 1, 1), (3, 2, 1), (4, 2, 1), (5, 2, 2), (5, 4, 2), (6, 2, 3)])
def test_moments_of_shared_edges_by_enumeration(n: int, k: int, q: int) -> None:
    rng = np.random.default_rng([n, k, q])
    first, second = (
        np.array([rng.choice([j for j in range(n) if j != i], size, replace=False) for i in range(n)])
        for size in (k, q)
    )
    edges = {(i, int(j)) for i in range(n) for j in first[i]}
    counts = [
        sum((names[i], names[j]) in edges for i in range(n) for j in second[i])
        for names in itertools.permutations(range(n))
    ]
    null = calibration.shared_edges_moments(n, calibration.edge_patterns(first), calibration.edge_patterns(second))
    assert null.mean == pytest.approx(np.mean(counts), rel=1e-12)
    assert null.sd == pytest.approx(np.std(counts), rel=1e-7, abs=1e-7)


@pytest.mark.parametrize("n", [3, 8, 300])
def test_a_complete_graph_has_no_spread(n: int) -> None:
    """All n - 1 neighbours: every relabelling shares every edge, and no rounding pretends otherwise."""
    full = np.array([[j for j in range(n) if j != i] for i in range(n)])
    one = np.array([[(i + 1) % n] for i in range(n)])
    full_patterns, one_patterns = calibration.edge_patterns(full), calibration.edge_patterns(one)
    assert calibration.shared_edges_moments(n, full_patterns, one_patterns) == calibration.Null(float(n), 0.0)


@pytest.mark.parametrize("n", [2, 3])
def test_mutual_knn_of_two_or_three_inputs_warns_of_nothing(n: int) -> None:
    x, y = pair(n, 3, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one = repsim.mutual_knn(x, y, k=1)
        assert one.null.mean == pytest.approx(1 / (n - 1))
        assert math.isnan(one.z) == math.isnan(one.p) == (n == 2)  # two inputs have one graph


@pytest.mark.parametrize("scale", [1.0, 0.3, 1e5])
def test_a_variance_of_rounding_alone_is_none(scale: float) -> None:
    """Every pair of one-hot rows is equally alike: no relabelling changes anything, so z and p have no meaning."""
    x, one_hot = np.random.default_rng(3).standard_normal((41, 6)), scale * np.eye(41)[:, ::-1].copy()
    for a, b in ((x, one_hot), (one_hot, x)):
        one = repsim.hsic(a, b, estimator="biased")
        assert one.null.sd == 0
        assert math.isnan(one.z)
        assert math.isnan(one.p)
    assert calibration.trace_product_moments(41, 3.3, 3.3**2 / 40 * (1 + 1e-14), 0.3, 7.0, 4.0, 1.5).sd == 0


def test_a_small_variance_beside_a_large_mean_is_kept() -> None:
    """Many more features than inputs: Gram matrices are nearly multiples of the identity, and yet not the same."""
    n, d = 40, 1e7
    rng = np.random.default_rng(5)
    centre = np.eye(n) - 1 / n
    grams = []
    for _ in range(2):
        noise = np.triu(rng.standard_normal((n, n)), 1)
        grams.append(centre @ (np.eye(n) + (noise + noise.T) / math.sqrt(d)) @ centre)
    sizes = [(float(np.trace(a)), float((a * a).sum()), float((np.diag(a) ** 2).sum())) for a in grams]
    null = calibration.trace_product_moments(n, *sizes[0], *sizes[1])
    orders = (rng.permutation(n) for _ in range(2000))
    drawn = np.array([float((grams[0] * (grams[1][np.ix_(p, p)] - centre)).sum()) for p in orders])
    assert null.sd == pytest.approx(drawn.std(), rel=0.1)
