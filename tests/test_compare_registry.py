"""repsim.compare over the measures of the registry: what is shared, drawn, left out, and which pair is the best."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import repsim
from repsim.arrays import as_rows
from repsim.measures.method import Method, Plan, evaluate_grid
from repsim.measures.registry import REGISTRY
from repsim.measures.similarity import Grid
from repsim.request import comparable


def rows(n: int = 40, d: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, n, d]).standard_normal((n, d))


def sides(d: int = 5) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    first = rows()
    return {"a1": first, "a2": np.tanh(first @ rows(5, d))}, {"b1": first + rows(seed=1), "b2": rows(d=d, seed=2)}


@pytest.mark.parametrize("measure", [name for name in comparable() if name in REGISTRY])
def test_every_comparable_measure_agrees_with_its_function(measure: str) -> None:
    a, b = sides()
    grid = repsim.compare(a, b, measures=measure, k=10)[measure]
    for i, x in enumerate(a.values()):
        for j, y in enumerate(b.values()):
            single = getattr(repsim, measure)(x, y)
            assert grid.values[i, j] == pytest.approx(float(single), rel=1e-9, abs=1e-12)
            assert type(grid.at(i, j, measure)).__name__.lower() == REGISTRY[measure].kind


def test_statistics_of_one_side_show_their_options() -> None:
    names = ["uniformity_difference", "intrinsic_dimension_difference", "neuron_modularity_difference"]
    table = repsim.compare(rows(), rows(seed=1), measures=names)
    for name in names:
        assert table[name].options == getattr(repsim, name)(rows(), rows(seed=1)).options != {}


def test_options_of_a_measure() -> None:
    a, b = sides()
    table = repsim.compare(a, b, measures={"cka": {}, "procrustes": {"unit_norm": True}})
    assert float(table["procrustes"].values[0, 0]) == float(repsim.procrustes(a["a1"], b["b1"], unit_norm=True))
    assert table["procrustes"].at(0, 0, "procrustes").options == {"unit_norm": True}


def test_relabellings_and_groups_are_those_of_the_function() -> None:
    a, b = sides()
    asked = {"procrustes": {"unit_norm": False}}
    grid = repsim.compare(a, b, measures=asked, permutations=9, seed=4, jackknife=5)["procrustes"]
    single = repsim.procrustes(a["a2"], b["b1"], permutations=9, seed=4, jackknife=5)
    assert grid.at(1, 0, "procrustes").to_dict() == single.to_dict()


def test_none_are_drawn_unless_asked_for() -> None:
    a, b = sides()
    grid = repsim.compare(a, b, measures=["procrustes"])["procrustes"]
    assert np.isnan(grid.p).all()
    assert np.isnan(grid.null_mean).all()
    assert grid.null_from == grid.p_from == "not asked for"


def test_what_belongs_to_a_layer_is_found_once() -> None:
    prepared: list[int] = []

    def prepare(side: Any, threads: int) -> np.ndarray:
        prepared.append(threads)
        return side.wide(slice(None))

    method = Method(prepare, lambda x, y, _: float((x[:, 0] * y[:, 0]).sum()), lambda x, order: x[order])
    layers = [as_rows(rows(seed=i), function="t", name="x") for i in range(3)]
    seen: list[tuple[int, int]] = []
    grid = evaluate_grid(
        method, layers[:1], layers[1:], options={}, kind="similarity", plan=Plan(permutations=4), threads=1,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert len(prepared) == 3
    assert seen == [(step, 10) for step in range(1, 11)]
    x, y = (layer.values for layer in layers[:2])
    order = np.random.default_rng(0).permutation(len(x))
    assert grid.draws is not None
    assert grid.draws[0, 0, 0] == float((x[:, 0] * y[order][:, 0]).sum())


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    method = Method(lambda side, _: side.wide(slice(None)), lambda x, y, _: float((x * y).mean()), lambda x, o: x[o])
    n = 30
    x, y = rows(n, 1), rows(n, 1, seed=1)
    layers = [as_rows(side, function="t", name="x") for side in (x, y)]
    plan = Plan(jackknife=n)
    grid = evaluate_grid(method, layers[:1], layers[1:], options={}, kind="similarity", plan=plan, threads=1)
    assert grid.standard_error is not None
    assert grid.standard_error[0, 0] == pytest.approx((x * y).std(ddof=1) / np.sqrt(n), rel=1e-12)


# ---------------------------------------------------------------------------------------------- the best pair


def test_p_of_the_best_pair_is_that_of_the_best_by_chance() -> None:
    values = np.array([[0.1, 0.5], [0.2, 0.3]])
    draws = np.zeros((9, 2, 2))
    draws[:3, 1, 1] = 0.6  # another pair reaches it three times
    nan = np.full((2, 2), np.nan)
    grid = Grid(values, nan, nan, nan, nan, None, 40, {}, "float64", "9 relabellings", "permutations", draws=draws)
    assert grid.best() == (0, 1, 4 / 10, "permutations of the best")
    apart = Grid(values, nan, nan, nan, nan, None, 40, {}, "float64", "", "permutations", "distance", draws)
    assert apart.best() == (0, 0, 1.0, "permutations of the best")


def test_p_of_the_best_pair_without_draws_is_corrected_for_the_pairs() -> None:
    a, b = sides()
    grid = repsim.compare(a, b, measures="cka")["cka"]
    i, j, p, p_from = grid.best()
    assert (i, j) == np.unravel_index(grid.values.argmax(), grid.values.shape)
    assert p == min(4 * grid.p[i, j], 1.0)
    assert p_from == "pearson x 4 pairs"
    *_, p, p_from = repsim.compare(a, b, measures="procrustes")["procrustes"].best()
    assert np.isnan(p) and p_from == "not asked for"


def test_chance_picks_a_best_pair_that_is_not_called_alike() -> None:
    """The best of 12 x 12 unrelated pairs looks alike by itself, and does not among the best of 144."""
    layers = [{f"layer{i}": rows(seed=100 * side + i) for i in range(12)} for side in (1, 2)]
    grid = repsim.compare(*layers, measures="procrustes", permutations=40)["procrustes"]
    i, j, p, _ = grid.best()
    assert grid.p[i, j] < 0.05 < p


# ---------------------------------------------------------------------------------------------- bad requests


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        pytest.param({"measures": {"cka": {"sigma": 1}}}, TypeError, "expected options that cka has", id="cka"),
        pytest.param({"measures": {"hsic": {"estimator": "x"}}}, ValueError, "expected estimator", id="estimator"),
        pytest.param({"measures": {"mutual_knn": {"q": 1}}}, TypeError, "that mutual_knn has", id="graph"),
        pytest.param({"measures": {"mutual_knn": {"k": 40}}}, ValueError, "expected k of at most 39", id="own-k"),
        pytest.param({"measures": {"procrustes": {"sigma": 1}}}, TypeError, "that procrustes has", id="unknown"),
        pytest.param(
            {"measures": {"uniformity_difference": {"sigma": 1}}},
            TypeError,
            "that uniformity_difference has",
            id="of-one",
        ),
        pytest.param({"measures": "procrustes", "jackknife": 1}, ValueError, "expected jackknife 0 or", id="one-group"),
        pytest.param({"measures": "procrustes", "jackknife": -1}, ValueError, "jackknife of at least 0", id="negative"),
        pytest.param({"measures": "procrustes", "permutations": -1}, ValueError, "permutations of at", id="draws"),
    ],
)
def test_options_are_checked_before_any_work(options: Any, kind: Any, message: str) -> None:
    a, b = sides()
    with pytest.raises(kind, match=rf"\[compare\] .*{message}"):
        repsim.compare(a, b, **options)


@pytest.mark.parametrize(
    ("measure", "option", "bad", "message"),
    [
        ("imd", "spectrum", "lanczos", "spectrum 'auto', 'exact' or 'probes', got 'lanczos'"),
        ("imd", "k", "5", "k as an int, got '5'"),
        ("imd", "probes", 0, "probes of at least 1, got 0"),
        ("rtd", "batches", 0, "batches of at least 1, got 0"),
        ("rtd", "batch_rows", 2, "batch_rows of at least 3, got 2"),
        ("geometry_score", "repetitions", 0, "repetitions of at least 1, got 0"),
        ("geometry_score", "i_max", 0, "i_max of at least 1, got 0"),
        ("geometry_score", "gamma", -1, "gamma as a positive number, got -1"),
    ],
)
def test_bad_options_of_a_measure_are_refused_as_by_its_function(
    measure: str, option: str, bad: Any, message: str
) -> None:
    rows_without_a_number = np.full((10, 2), np.nan)  # which no measure takes
    with pytest.raises((TypeError, ValueError), match=rf"^\[{measure}\] expected {message}$"):
        repsim.compare(rows_without_a_number, rows_without_a_number, measures={measure: {option: bad}})
    with pytest.raises((TypeError, ValueError), match=rf"^\[{measure}\] expected {message}$"):
        getattr(repsim, measure)(rows(), rows(), **{option: bad})


def test_neuron_modularity_without_a_start_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^\[neuron_modularity_difference\] expected starts of at least 1, got 0$"):
        repsim.compare(rows(), rows(), measures={"neuron_modularity_difference": {"starts": 0}})
