"""Similarities of single neurons, their ranking over a pool of models, and localization."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import repsim

NAMES = ("maxcorr", "mincorr", "linreg")


def pair(n: int = 80, d: int = 5, e: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two that share something, of columns with other means and scales."""
    random = np.random.default_rng([seed, n, d, e])
    x = random.standard_normal((n, d))
    y = x @ random.standard_normal((d, e)) + random.standard_normal((n, e))
    return x * np.linspace(0.1, 30, d) + random.standard_normal(d), y * np.linspace(2, 0.01, e) - 3


# ---------------------------------------------------------------------------------------------- oracles


def oracle_correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Of every neuron of x with its best one in y."""
    return np.array([max(abs(np.corrcoef(a, b)[0, 1]) for b in y.T) for a in x.T])


def oracle_regressions(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The correlation of every neuron with its least-squares prediction."""
    from sklearn.linear_model import LinearRegression

    predicted = LinearRegression().fit(y, x).predict(y)
    return np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(x.T, predicted.T, strict=True)])


# ---------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("n", "d", "e"),
    [
        pytest.param(80, 5, 4, id="wide-x"),
        pytest.param(80, 3, 7, id="wide-y"),
        pytest.param(60, 1, 1, id="single-neurons"),
        pytest.param(1500, 6, 6, id="several-blocks"),
        pytest.param(6, 9, 12, id="fewer-inputs-than-neurons"),
        pytest.param(3, 2, 2, id="fewest-inputs"),
    ],
)
def test_maxcorr_is_its_formula(n: int, d: int, e: int) -> None:
    x, y = pair(n, d, e)
    for a, b in ((x, y), (y, x)):
        assert repsim.maxcorr(a, b) == pytest.approx(oracle_correlations(a, b).mean(), rel=1e-10)
        assert repsim.mincorr(a, b) == repsim.maxcorr(a, b)
    assert repsim.mincorr(x, y).measure == "mincorr"


@pytest.mark.parametrize(
    ("n", "d", "e"),
    [
        pytest.param(80, 5, 4, id="wide-x"),
        pytest.param(80, 3, 7, id="wide-y"),
        pytest.param(60, 1, 1, id="single-neurons"),
        pytest.param(1500, 6, 6, id="several-blocks"),
        pytest.param(6, 12, 4, id="more-predicted-than-inputs"),
    ],
)
def test_linreg_is_that_of_scikit_learn(n: int, d: int, e: int) -> None:
    x, y = pair(n, d, e)
    assert repsim.linreg(x, y) == pytest.approx(oracle_regressions(x, y).mean(), rel=1e-10)


def test_linreg_takes_the_span_of_y() -> None:
    """Columns that repeat or add up add nothing; the other way round they count as neurons."""
    x, y = pair()
    again = np.column_stack([y, 3 * y[:, 0] + 1, y[:, 1] - y[:, 2]])
    assert repsim.linreg(x, again) == pytest.approx(float(repsim.linreg(x, y)), rel=1e-9)
    assert repsim.linreg(again, x) != pytest.approx(float(repsim.linreg(y, x)), rel=1e-4)
    assert repsim.linreg(again, y) == pytest.approx(1, abs=1e-9)
    affine = y @ np.array([[1.0, 2, 0, 0], [0, 1, 0, 5], [1, 0, 1, 0], [0, 0, 3, 1]]) + 4
    assert repsim.linreg(x, affine) == pytest.approx(float(repsim.linreg(x, y)), rel=1e-9)
    few = slice(0, 7)  # as many inputs as columns, but a rank of 4
    assert repsim.linreg(x[few], np.column_stack([again, y[:, 3]])[few]) < 1


def test_what_each_sees() -> None:
    """A rotation hides every neuron from correlations, none from regression."""
    x = np.random.default_rng(0).standard_normal((4000, 32))
    rotated = x @ np.linalg.qr(np.random.default_rng(1).standard_normal((32, 32)))[0]
    assert repsim.maxcorr(x, rotated) < 0.6
    assert repsim.linreg(x, rotated) == pytest.approx(1, abs=1e-9)
    assert repsim.maxcorr(x, -2 * x[:, ::-1] + 1) == pytest.approx(1, abs=1e-12)
    part = np.column_stack([x[:, :4], np.random.default_rng(2).standard_normal((4000, 4))])
    assert repsim.maxcorr(part, x) == pytest.approx(0.5, abs=0.05)


def test_linreg_by_chance() -> None:
    """About sqrt(d' / n), which the null of relabelled inputs shows."""
    random = np.random.default_rng(3)
    x, y = random.standard_normal((400, 10)), random.standard_normal((400, 40))
    found = repsim.linreg(x, y, permutations=30)
    assert found == pytest.approx(np.sqrt(40 / 400), abs=0.03)
    assert found.null.mean == pytest.approx(np.sqrt(40 / 400), abs=0.01)
    assert abs(found.z) < 3


def test_far_from_the_origin() -> None:
    x, y = pair(300)
    for name in NAMES:
        function = getattr(repsim, name)
        assert function(x + 1e6, y - 1e6) == pytest.approx(float(function(x, y)), rel=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_dtypes_and_memory_maps(name: str, tmp_path: Path) -> None:
    function = getattr(repsim, name)
    x, y = pair()
    for dtype in (np.float16, np.float32):
        narrow = x.astype(dtype)
        assert function(narrow, y) == pytest.approx(float(function(narrow.astype(np.float64), y)), rel=1e-12)
    brain = torch.from_numpy(x).bfloat16()
    assert function(y, brain) == pytest.approx(float(function(y, brain.double().numpy())), rel=1e-12)
    np.save(tmp_path / "x.npy", x)
    assert function(np.load(tmp_path / "x.npy", mmap_mode="r"), y) == function(x, y)
    assert function(x, y, threads=1) == function(x, y, threads=2)


# ---------------------------------------------------------------------------------------------- ranking


def pool() -> dict[str, np.ndarray]:
    random = np.random.default_rng(5)
    shared = random.standard_normal((120, 3))
    return {
        name: np.column_stack([shared + noise * random.standard_normal((120, 3)), random.standard_normal((120, more))])
        for name, noise, more in (("a", 0.1, 2), ("b", 0.4, 4), ("c", 0.9, 1))
    }


@pytest.mark.parametrize("over", ["max", "min"])
@pytest.mark.parametrize("match", ["correlation", "regression"])
def test_ranking(match: str, over: str) -> None:
    models = pool()
    oracle = oracle_correlations if match == "correlation" else oracle_regressions
    ranked = repsim.rank_neurons(models, match=match, over=over)
    assert list(ranked) == list(models)
    for name, x in models.items():
        others = {other: oracle(x, y) for other, y in models.items() if other != name}
        best = max if over == "max" else min
        scores = [best(found[i] for found in others.values()) for i in range(x.shape[1])]
        assert ranked[name].scores == pytest.approx(scores, rel=1e-9)
        assert ranked[name].order.tolist() == sorted(range(x.shape[1]), key=lambda i: -scores[i])
        assert list(ranked[name].by_model) == list(others)
        for other, found in others.items():
            assert ranked[name].by_model[other] == pytest.approx(found, rel=1e-9)


def test_ranking_by_best_and_by_worst_differ() -> None:
    """A neuron that one other model has, but not the third, comes first by max and last by min."""
    random = np.random.default_rng(0)
    everyone, two = random.standard_normal((200, 1)), random.standard_normal((200, 1))
    weak = everyone + 0.5 * random.standard_normal((200, 1))
    models = {
        "a": np.column_stack([weak, two]),
        "b": np.column_stack([everyone, two]),
        "c": np.column_stack([everyone, random.standard_normal((200, 1))]),
    }
    assert repsim.rank_neurons(models)["a"].order.tolist() == [1, 0]
    assert repsim.rank_neurons(models, over="min")["a"].order.tolist() == [0, 1]


def test_ties_are_by_number() -> None:
    """Two neurons, forty times each in turn; only a stable sort keeps both in order."""
    x = np.random.default_rng(0).standard_normal((50, 2))
    order = repsim.rank_neurons({"a": np.tile(x, 40), "b": x[:, :1] + 0.1 * x[:, 1:]})["a"].order
    assert order.tolist() == [*range(0, 80, 2), *range(1, 80, 2)]


# ---------------------------------------------------------------------------------------------- localization


def test_localization_is_its_formula() -> None:
    from scipy.stats import zscore

    random = np.random.default_rng(0)
    neurons, subspaces = random.uniform(size=(5, 5)), random.uniform(size=(5, 5))
    rows = [[a for j, a in enumerate(row) if j != i] for i, row in enumerate(neurons)]
    others = [[a for j, a in enumerate(row) if j != i] for i, row in enumerate(subspaces)]
    expected = zscore(np.mean(rows, axis=1)) - zscore(np.mean(others, axis=1))
    np.fill_diagonal(neurons, np.nan)  # not read
    assert repsim.localization_score(neurons, subspaces.tolist()) == pytest.approx(expected, rel=1e-12)
    assert expected.sum() == pytest.approx(0, abs=1e-12)


def test_localization_leaves_out_layers_of_the_same_model() -> None:
    from scipy.stats import zscore

    random = np.random.default_rng(1)
    neurons, subspaces = random.uniform(size=(5, 5)), random.uniform(size=(5, 5))
    models = ["a", "b", "a", "c", "b"]
    means = [
        [np.mean([side[i, j] for j in range(5) if models[j] != models[i]]) for i in range(5)]
        for side in (neurons, subspaces)
    ]
    found = repsim.localization_score(neurons, subspaces, models=models)
    assert found == pytest.approx(zscore(means[0]) - zscore(means[1]), rel=1e-12)
    assert found != pytest.approx(repsim.localization_score(neurons, subspaces), rel=1e-3)


def test_localization_finds_the_layers_whose_neurons_recur() -> None:
    """The same subspaces in all; in half of the layers also the same neurons."""
    random = np.random.default_rng(2)
    shared = random.standard_normal((500, 6))
    layers = []
    for seed in range(6):
        x = shared + (0.1 + 0.02 * seed) * random.standard_normal((500, 6))
        layers.append(x if seed % 2 else x @ np.linalg.qr(random.standard_normal((6, 6)))[0])
    neurons = [[repsim.maxcorr(a, b) for b in layers] for a in layers]
    subspaces = [[repsim.cka(a, b) for b in layers] for a in layers]
    score = repsim.localization_score(neurons, subspaces)
    assert score[1::2].min() > score[::2].max()


# ---------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("argument", ["x", "y"])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e6], ids=["zero", "tenth", "far"])
@pytest.mark.parametrize("name", NAMES)
def test_a_neuron_that_does_not_vary(name: str, value: float, argument: str) -> None:
    sides = dict(zip("xy", pair(), strict=True))
    sides[argument][:, 2] = value
    message = rf"^\[{name}\] expected {argument} whose columns all vary, got zero variance in column 2; leave such"
    with pytest.raises(ValueError, match=message):
        getattr(repsim, name)(sides["x"], sides["y"])
    with pytest.raises(ValueError, match=rf"^\[rank_neurons\] expected {argument} whose columns .* in column 2"):
        repsim.rank_neurons(sides)


@pytest.mark.parametrize("name", NAMES)
def test_too_few_inputs(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^\[{name}\] expected at least 3 inputs, got 2$"):
        getattr(repsim, name)(*pair(2))


def test_linreg_needs_more_inputs_than_columns() -> None:
    x, y = pair(6, 3, 5)
    message = r"^\[linreg\] expected y with fewer independent columns than inputs less one .*, got 5 and 6 inputs$"
    with pytest.raises(ValueError, match=message):
        repsim.linreg(x, y)
    assert repsim.linreg(x, y[:, :4]) < 1
    with pytest.raises(ValueError, match=r"^\[rank_neurons\] expected y with fewer independent columns"):
        repsim.rank_neurons({"x": x, "y": y}, match="regression")


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        pytest.param({"match": "cka"}, ValueError, "match 'correlation' or 'regression', got 'cka'", id="match"),
        pytest.param({"over": "mean"}, ValueError, "over 'max' or 'min', got 'mean'", id="over"),
        pytest.param({"models": [1, 2]}, TypeError, "models as a mapping of names to arrays, got list", id="list"),
        pytest.param({"models": {"a": pair()[0]}}, ValueError, "at least two models, got 1", id="one-model"),
        pytest.param(
            {"models": {"a": pair()[0], "b": pair(79)[0]}}, ValueError, "b with 80 rows like a, got 79", id="inputs"
        ),
        pytest.param(
            {"models": dict(zip("ab", pair(2), strict=True))}, ValueError, "at least 3 inputs, got 2", id="few-inputs"
        ),
        pytest.param({"models": {"a": pair()[0], "b": "text"}}, TypeError, "b as an array", id="no-array"),
        pytest.param({"threads": 0}, ValueError, "threads of at least 1, got 0", id="threads"),
    ],
)
def test_bad_pools(change: dict[str, Any], kind: type, message: str) -> None:
    with pytest.raises(kind, match=rf"^\[rank_neurons\] expected {message}"):
        repsim.rank_neurons(**{"models": pool(), **change})


GOOD = np.random.default_rng(0).uniform(size=(3, 3))


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        pytest.param({"neurons": "text"}, TypeError, "neurons as a matrix of numbers, got str", id="text"),
        pytest.param(
            {"subspaces": GOOD[:2]}, ValueError, r"subspaces as a matrix \[L, L\] .*, got \(2, 3\)", id="shape"
        ),
        pytest.param({"neurons": [[1.0]]}, ValueError, r"neurons as a matrix \[L, L\] of at least two", id="one-layer"),
        pytest.param({"subspaces": np.eye(4)}, ValueError, "subspaces with 3 layers like neurons, got 4", id="sizes"),
        pytest.param({"models": "ab"}, ValueError, "models with 3 names, one for each layer, got 2", id="names"),
        pytest.param(
            {"models": "aaa"}, ValueError, "layers of at least two models, got those of 'a' alone", id="alone"
        ),
        pytest.param({"neurons": GOOD * np.nan}, ValueError, "neurons with finite similarities, got NaN", id="nan"),
        pytest.param(
            {"subspaces": np.ones((3, 3))}, ValueError, "subspaces whose means differ .* zero variance", id="equal"
        ),
    ],
)
def test_bad_similarities(change: dict[str, Any], kind: type, message: str) -> None:
    with pytest.raises(kind, match=rf"^\[localization_score\] expected {message}"):
        repsim.localization_score(**{"neurons": GOOD, "subspaces": GOOD.T, **change})
