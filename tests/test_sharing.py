"""What several measures of a comparison need of a layer or a pair is found once, and changes no bit."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import pytest

import repsim
from repsim.arrays import Rows, SharedRows, found_once
from repsim.measures.method import Asked, Plan, evaluate_grids
from repsim.measures.registry import REGISTRY
from repsim.reductions import Block, cross_products, feature_space, neighbours, own_products, products, tiles
from repsim.request import comparable

METHODS = [name for name in comparable() if name in REGISTRY and REGISTRY[name].method is not None]
OPTIONS: dict[str, dict[str, Any]] = {"kernel_ridge": {"folds": 2}, "rtd": {"batches": 1, "batch_rows": 20}}


def rows(n: int = 60, d: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, n, d]).standard_normal((n, d))


def sides(n: int = 60) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    first = rows(n) + 30.0  # far from the origin
    a = {"a1": first, "a2": np.tanh(first @ rows(5, 4) / 30)}
    return a, {"b1": first + rows(n, seed=1), "b2": rows(n, 6, seed=2), "b3": a["a2"] + 0.3 * rows(n, 4, seed=3)}


def count_calls(monkeypatch: pytest.MonkeyPatch, module: Any, *names: str) -> Counter[str]:
    """How often functions are called from now on."""
    calls: Counter[str] = Counter()

    def counting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            calls[name] += 1
            return function(*given, **named)

        return call

    for name in names:
        monkeypatch.setattr(module, name, counting(name, getattr(module, name)))
    return calls


# ---------------------------------------------------------------------------------------------- the same bits


def test_all_measures_together_have_the_bits_of_each_alone() -> None:
    a, b = sides()
    a, b = {name: a[name] for name in ("a2", "a1")}, {"b3": b["b3"]}
    asked = {name: OPTIONS.get(name, {}) for name in comparable()}
    table = repsim.compare(a, b, measures=asked, permutations=2, jackknife=2, seed=5, k=7)
    own = {
        "cka": {},
        "cka_biased": {"estimator": "biased"},
        "cka_rbf": {"kernel": "rbf"},
        "hsic": {},
        "angular_cka": {},
    }
    for name, grid in table.grids.items():
        x, y = a["a1"], b["b3"]
        got = grid.at(1, 0, name).to_dict()
        if name in own:
            single = getattr(repsim, name.partition("_biased")[0].partition("_rbf")[0])(x, y, **own[name])
            expected = {"value": float(single)} if name == "angular_cka" else single.to_dict()
        elif name in METHODS:
            expected = getattr(repsim, name)(x, y, permutations=2, jackknife=2, seed=5, **asked[name]).to_dict()
        else:
            how = {} if name == "mutual_knn" else {"permutations": 2}
            expected = getattr(repsim, name)(x, y, k=7, seed=5, **how).to_dict()
        for key in ("value", "null_mean", "null_sd", "p", "p_from", "standard_error", "precision", "null_from"):
            if key in expected:
                np.testing.assert_equal(got[key], expected[key], f"{name} {key}")


WIDE = ["cka", "pls", "procrustes", "bures", "angular_procrustes", "partial_whitening", "gulp", "riemannian", "svcca"]


def test_layers_wider_than_long_have_the_same_bits() -> None:
    """They are turned into fewer columns, which share in their turn."""
    a, b = {"a": rows(20, 50), "narrow": rows(20, 4)}, {"b": rows(20, 30, seed=1)}
    asked = {name: {"variance": 0.5} if name == "svcca" else {} for name in WIDE}
    table = repsim.compare(a, b, measures=asked)
    for name, options in asked.items():
        for i, x in enumerate(a.values()):
            assert table[name].values[i, 0] == float(getattr(repsim, name)(x, b["b"], **options)), name


def test_blocks_of_pairs_change_no_bit() -> None:
    a, b = ([Rows(x, "float64", name) for name, x in side.items()] for side in sides())
    asked = {
        name: Asked(REGISTRY[name].method(), {}, REGISTRY[name].kind)  # type: ignore[misc]
        for name in ("pls", "procrustes", "linreg", "svcca")
    }
    plan = Plan(permutations=2, jackknife=2)
    whole, one_pair, two = (
        evaluate_grids(asked, a, b, plan=plan, threads=1, products=budget) for budget in (10**9, 1, 2 * 7 * 8 * 8 + 1)
    )
    for name, grid in whole.items():
        for other in (one_pair[name], two[name]):
            for what in ("values", "draws", "standard_error"):
                np.testing.assert_array_equal(getattr(grid, what), getattr(other, what))


def test_fewer_neighbours_are_the_first_of_more() -> None:
    x = rows(300, 8)
    for metric in ("cosine", "inner_product", "euclidean"):
        shared = SharedRows(x, "float64", "x")
        for k in (20, 7):
            found, alone = repsim.nearest(shared, k, metric=metric), repsim.nearest(x, k, metric=metric)
            np.testing.assert_array_equal(found.indices, alone.indices)
            np.testing.assert_array_equal(found.scores, alone.scores)


# ---------------------------------------------------------------------------------------------- found once


def test_products_of_features_are_made_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 2 and 3 layers: X'X of each in a pass, and X'Y of all pairs in one, again for every relabelling."""
    a, b = sides()
    measures = ["cka", "cka_biased", "hsic", "angular_cka", "cca_mean", "svcca", "pwcca", "pls", "linear_regression"]
    measures += ["procrustes", "permutation_procrustes", "bures", "gulp", "linreg", "maxcorr", "soft_correlation_match"]
    calls = count_calls(monkeypatch, products, "_products")
    sums = count_calls(monkeypatch, feature_space, "feature_sums")
    tiled = count_calls(monkeypatch, tiles, "kernel_sums")
    repsim.compare(a, b, measures=measures)
    assert (calls["_products"], sums["feature_sums"], tiled["kernel_sums"]) == (5 + 1, 0, 0)
    calls.clear()
    repsim.compare(a, b, measures=measures, permutations=4)
    assert calls["_products"] == 5 + 1 + 4


def test_axes_and_singular_values_are_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = sides()
    calls = count_calls(monkeypatch, np.linalg, "eigh", "svd")
    repsim.compare(a, b, measures=["cca_mean", "cca_mean_squared", "pwcca", "linear_regression"])
    assert calls["eigh"] == 5  # of columns of unit variance
    calls.clear()
    repsim.compare(a, b, measures=["svcca", "gulp", "partial_whitening"])
    assert calls["eigh"] == 5  # of the columns as they are
    calls.clear()
    repsim.compare(a, b, measures=["procrustes", "angular_procrustes", "bures"])
    assert calls["svd"] == 6  # of every pair


def test_a_graph_of_a_metric_is_searched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = sides()
    calls = count_calls(monkeypatch, neighbours, "search")
    measures = {"mutual_knn": {"k": 5}, "knn_jaccard": {"k": 9}, "cknna": {}, "intrinsic_dimension_difference": {}}
    repsim.compare(a, b, measures=measures, permutations=2, metric="cosine")
    assert calls["search"] == 5 + 5  # by cosine for three measures, by distance for the last
    calls.clear()
    repsim.compare(a, b, measures={"mutual_knn": {"metric": "euclidean"}, "intrinsic_dimension_difference": {}})
    assert calls["search"] == 5


def test_tiles_of_distances_are_made_once_for_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = sides()
    module = import_module("repsim.measures.distance_correlation")
    calls = count_calls(monkeypatch, module, "dissimilarity_tiles")
    expected = repsim.compare(a, b, measures="distance_correlation", permutations=3)["distance_correlation"]
    assert calls["dissimilarity_tiles"] == 2 * 5 + 1 + 3  # two traversals of a layer, one of all, one a relabelling
    # Two layers of either side at once make two traversals of a pass; wide layers one for each of the six pairs.
    for limit, value, traversals in (("LAYERS_AT_ONCE", 2, 2), ("WIDEST", 4, 6)):
        monkeypatch.setattr(module, limit, value)
        calls.clear()
        found = repsim.compare(a, b, measures="distance_correlation", permutations=3)["distance_correlation"]
        np.testing.assert_array_equal(found.values, expected.values)
        np.testing.assert_array_equal(found.draws, expected.draws)
        assert calls["dissimilarity_tiles"] == 2 * 5 + traversals * 4


def test_nothing_is_shared_between_other_rows() -> None:
    asked: list[int] = []

    @found_once
    def total(one: Rows, *, power: int = 1, function: str, threads: int) -> float:
        asked.append(power)
        return float((one.values**power).sum())

    x, y = SharedRows(rows(), "float64", "x"), SharedRows(rows(seed=1), "float64", "y")
    plain = Rows(rows(), "float64", "x")
    for one in (x, x, y, plain, plain):
        assert total(one, function="t", threads=1) == one.values.sum()
    assert len(asked) == 1 + 1 + 2
    total(x, power=1, function="other", threads=2)
    assert len(asked) == 4  # neither who asks nor the threads matter
    assert total(x, power=2, function="t", threads=1) == (x.values**2).sum()
    assert len(asked) == 5


def test_a_product_that_is_shared_cannot_be_written_on() -> None:
    x, y = SharedRows(rows(), "float64", "x"), SharedRows(rows(seed=1), "float64", "y")
    with Block([x], [y], None):
        for found in (own_products(x, function="t", threads=1), cross_products(x, y, function="t", threads=1)):
            with pytest.raises(ValueError, match="read-only"):
                found.xy[0, 0] = 1.0


def test_layers_are_given_up_after_their_last_pair() -> None:
    layers = [SharedRows(rows(seed=seed), "float64", "x") for seed in range(4)]
    left, right = layers[:2], layers[2:]
    asked = {"pls": Asked(REGISTRY["pls"].method(), {}, "similarity")}  # type: ignore[misc]
    held: list[list[bool]] = []

    def look(i: int, j: int) -> None:
        held.append([bool(one.found) for one in left])

    evaluate_grids(asked, left, right, plan=Plan(), threads=1, products=1, beside=look, forget=True)
    # Of the second layer nothing is there before its first pair; of the first nothing after its last.
    assert held == [[True, False], [True, False], [False, True], [False, True]]
    assert not any(one.found for one in left)


# ---------------------------------------------------------------------------------------------- options


def test_options_of_kernels_and_graphs() -> None:
    a, b = sides()
    kernel = repsim.RBF(median_fraction=0.5)
    asked: dict[str, dict[str, Any]] = {
        "cka": {"kernel": kernel, "estimator": "biased"},
        "hsic": {"estimator": "biased"},
        "angular_cka": {"kernel": "cosine"},
        "mutual_knn": {"k": 20, "metric": "euclidean"},
        "lcs_knn": {"normalized": False},
    }
    table = repsim.compare(a, b, measures=asked, permutations=5)
    x, y = a["a2"], b["b1"]
    expected = {
        "cka": repsim.cka(x, y, kernel=kernel, estimator="biased"),
        "hsic": repsim.hsic(x, y, estimator="biased"),
        "angular_cka": repsim.angular_cka(x, y, kernel="cosine"),
        "mutual_knn": repsim.mutual_knn(x, y, k=20, metric="euclidean"),
        "lcs_knn": repsim.lcs_knn(x, y, normalized=False, permutations=5),
    }
    for name, single in expected.items():
        got = table[name].at(1, 0, name)
        assert float(got) == float(single), name
        if name != "angular_cka":
            assert got.to_dict() == single.to_dict()
    assert table["mutual_knn"].options == {"k": 20, "metric": "euclidean"}


def test_the_p_of_an_angle_is_that_of_its_cosine() -> None:
    a, b = sides()
    table = repsim.compare(a, b, measures=["cka", "angular_cka"])
    np.testing.assert_array_equal(table["angular_cka"].p, table["cka"].p)
    assert isinstance(table["angular_cka"].at(0, 0, "angular_cka"), repsim.Distance)
    assert table["angular_cka"].p_from == "pearson of cka"
    assert table["angular_cka"].best()[:2] == table["cka"].best()[:2]


@pytest.mark.parametrize("name", METHODS)
def test_a_result_has_all_options_of_its_measure(name: str) -> None:
    a, b = sides()
    options = OPTIONS.get(name, {})
    single = getattr(repsim, name)(a["a1"], b["b1"], **options)
    got = repsim.compare(a["a1"], b["b1"], measures={name: options})[name].options
    named = {"spectrum": "auto", "kernel": "rbf"}  # words of a request that a result spells out
    assert {key: got[key] for key in got if got[key] != named.get(key)} == {
        key: value for key, value in single.options.items() if key in got and got[key] != named.get(key)
    }


def test_linear_cka_of_a_layer_that_does_not_vary() -> None:
    a, b = sides()
    with pytest.raises(ValueError, match=r"^\[cka\] expected b\['b2'\] whose rows differ, got zero variance"):
        repsim.compare(a, {**b, "b2": np.ones_like(b["b2"])}, measures="cka")


def test_pairs_in_feature_space_beside_pairs_in_tiles() -> None:
    """Some layers are so wide that tiles are less work; every pair is taken as the function takes it alone."""
    narrow, wide = rows(400, 8).astype(np.float32), rows(400, 900, seed=1).astype(np.float32)
    table = repsim.compare({"n": narrow, "w": wide}, {"n": narrow + 1, "w": 2 * wide}, measures=["cka", "cka_biased"])
    for name, estimator in (("cka", "debiased"), ("cka_biased", "biased")):
        for i, x in enumerate((narrow, wide)):
            for j, y in enumerate((narrow + 1, 2 * wide)):
                assert table[name].values[i, j] == float(repsim.cka(x, y, estimator=estimator))
        assert table[name].precision == "float32 or float64"


def test_what_was_found_is_given_up_without_a_search_for_cycles() -> None:
    """Else every call of rsa would hold its tables of ranks, hundreds of megabytes, until Python looks for cycles."""
    (x, _), (y, *_) = (list(side.values()) for side in sides())
    models = {"a": x, "b": y, "c": rows(60, 6, seed=2)}
    everything = {"measures": ["cka", "rsa", "svcca", "mutual_knn", "imd"], "permutations": 2, "jackknife": 2}
    calls: list[Callable[[], Any]] = [
        lambda: repsim.rsa(x, y, ranks="float32", permutations=1, jackknife=2),
        lambda: repsim.procrustes(rows(20, 50), rows(20, 30)),
        lambda: repsim.compare(x, y, **everything),
        lambda: repsim.compare_models(models, **everything),
        lambda: repsim.compare_models(models, **everything, within=False),
    ]
    for number, call in enumerate(calls):
        gc.collect()
        gc.disable()
        try:
            call()
            assert not [one for one in gc.get_objects() if isinstance(one, SharedRows)], number
        finally:
            gc.enable()


def test_a_comparison_of_kernels_alone_draws_and_leaves_out_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their chance is known without relabellings; of a million inputs every one takes time, and every group a copy."""
    a, b = sides()
    seen: list[Plan] = []

    def evaluate(*given: Any, plan: Plan, **named: Any) -> Any:
        seen.append(plan)
        return evaluate_grids(*given, plan=plan, **named)

    monkeypatch.setattr("repsim.grids.evaluate_grids", evaluate)
    steps: list[tuple[int, int]] = []
    asked = {"permutations": 50, "jackknife": 5}
    table = repsim.compare(a, b, measures=["cka", "hsic"], **asked, progress=lambda *step: steps.append(step))
    assert seen == [Plan()]
    assert steps == [(1, 2), (2, 2)]
    np.testing.assert_array_equal(table["cka"].values, repsim.compare(a, b, measures=["cka"])["cka"].values)
    repsim.compare(a, b, measures=["cka", "pls"], **asked)
    assert seen[-1] == Plan(50, 0, 5)
