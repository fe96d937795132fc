"""Distances between models p(y|x) proportional to exp(f(x)'g(y)): against the formulas, the paper's table and bound."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import repsim
from repsim.measures import model_family
from repsim.measures.registry import REGISTRY

NAMES = ("d_llv", "d_svd", "d_fg", "mcca", "kl_divergence", "logit_distance")
Model = tuple[np.ndarray, np.ndarray]


def model(seed: int, n: int = 60, m: int = 2, k: int = 6) -> Model:
    random = np.random.default_rng([seed, n, m, k])
    return random.standard_normal((n, m)) + 0.3, random.standard_normal((k, m)) - 0.2


def near(one: Model, noise: float, seed: int = 0) -> Model:
    random = np.random.default_rng([seed, 99])
    return tuple(part + noise * random.standard_normal(part.shape) for part in one)  # type: ignore[return-value]


def same_distribution(one: Model, seed: int = 0) -> Model:
    """(f A, g A^-T + c)."""
    random = np.random.default_rng([seed, 7])
    m = one[0].shape[1]
    a = random.standard_normal((m, m)) + 2 * np.eye(m)
    return one[0] @ a, one[1] @ np.linalg.inv(a).T + random.standard_normal(m)


# ---------------------------------------------------------------------------------------------- oracles


def log_p(one: Model) -> np.ndarray:
    """[n, K], the softmax as it is written."""
    f, g = (np.asarray(part, np.float64) for part in one)
    e = np.exp(f @ g.T)
    return np.log(e / e.sum(axis=1, keepdims=True))


def sd(values: np.ndarray) -> float:
    return float(np.std(values, ddof=1))


def label_term(p: np.ndarray, q: np.ndarray, pivot: int, i: int) -> float:
    s, t = sd(p[:, i] - p[:, pivot]), sd(q[:, i] - q[:, pivot])
    return max(sd(p[:, a] / s - q[:, a] / t) for a in (i, pivot))


def oracle_labels(x: Model, y: Model) -> tuple[float, int, int, float]:
    """t1, pivot, left out, t3, over every choice of the two."""
    p, q = log_p(x), log_p(y)
    labels = range(p.shape[1])
    best = (math.inf, -1, -1)
    for pivot, out in itertools.permutations(labels, 2):
        t1 = max(label_term(p, q, pivot, i) for i in labels if i not in (pivot, out))
        best = min(best, (t1, pivot, out))
    t1, pivot, out = best
    t3 = max(abs(sd(p[:, i] - p[:, pivot]) - sd(q[:, i] - q[:, pivot])) for i in labels if i not in (pivot, out))
    return t1, pivot, out, t3


def oracle_inputs(x: Model, y: Model, inputs: tuple[int, ...]) -> tuple[float, float]:
    """t2 and t4 of a set whose pivot is first."""
    p, q = log_p(x), log_p(y)
    t2 = t4 = 0.0
    for j in inputs[1:]:
        r, s = sd(p[j] - p[inputs[0]]), sd(q[j] - q[inputs[0]])
        t2 = max([t2, *(sd(p[b] / r - q[b] / s) for b in (j, inputs[0]))])
        t4 = max(t4, abs(r - s))
    return t2, t4


def oracle_pls(z: np.ndarray, other: np.ndarray) -> float:
    """1 - mean covariance of the components that scikit-learn's PLS-SVD finds."""
    from sklearn.cross_decomposition import PLSSVD

    left, right = ((side - side.mean(axis=0)) / side.std(axis=0, ddof=1) for side in (z, other))
    m = z.shape[1]
    found = PLSSVD(n_components=m, scale=False).fit(left, right).transform(left, right)
    return 1 - float(np.mean([np.cov(found[0][:, i], found[1][:, i])[0, 1] for i in range(m)]))


def golden_pair(rho: float, seed: int = 0) -> tuple[Model, Model]:
    """Seven classes around a circle; the second model has them in another order. Spread belongs to the place."""
    random = np.random.default_rng(seed)
    classes, each, order = 7, 500, [5, 0, 2, 4, 6, 1, 3]
    at = 2 * np.pi * np.arange(classes) / classes
    around = random.uniform(-np.pi / 64, np.pi / 64, (classes, each))
    length = 2 + np.abs(0.01 * random.standard_normal((classes, each)))

    def placed(order: Any) -> Model:
        angles = at[order]
        f = (angles[:, None] + around[order]).ravel()
        return (
            length.ravel()[:, None] * np.stack([np.cos(f), np.sin(f)], axis=1),
            rho * np.stack([np.cos(angles), np.sin(angles)], axis=1),
        )

    return placed(slice(None)), placed(order)


# ---------------------------------------------------------------------------------------------- golden values


@pytest.mark.parametrize(
    ("rho", "divergence", "digit"),
    [(3, 0.887, 3), (5, 0.382, 3), (8, 0.069, 3), (10, 0.020, 3), (15, 0.0008, 4), (18, 0.0001, 4)],
    ids=lambda value: str(value),
)
def test_the_table_of_the_paper(rho: float, divergence: float, digit: int) -> None:
    """Model distributions come close while their representations stay apart."""
    x, y = golden_pair(rho)
    assert repsim.kl_divergence(x, y) == pytest.approx(divergence, abs=0.6 * 10.0**-digit)
    # The table is of one draw of the inputs: over draws these have an sd of 2e-4, 1e-4 and 1e-4.
    assert repsim.d_llv(x, y) == pytest.approx(1.317, abs=1e-3)
    assert repsim.mcca(x, y) == pytest.approx(0.001, abs=5e-4)
    assert repsim.d_svd(x, y) == pytest.approx(0.9994, abs=4e-4)
    assert repsim.d_fg(x, y).options["d_f"] == repsim.d_svd(x, y)


# ---------------------------------------------------------------------------------------------- against the formulas

SHAPES = [
    pytest.param(60, 2, 6, id="m2"),
    pytest.param(40, 1, 3, id="one-dimension-fewest-labels"),
    pytest.param(9, 4, 6, id="few-inputs"),
    pytest.param(200, 3, 9, id="more-labels"),
]


@pytest.mark.parametrize(("n", "m", "k"), SHAPES)
@pytest.mark.parametrize("noise", [1e-3, None], ids=["close", "unrelated"])
def test_d_llv_is_its_formula(n: int, m: int, k: int, noise: float | None) -> None:
    x = model(1, n, m, k)
    y = near(x, noise) if noise else model(2, n, m, k)
    found = repsim.d_llv(x, y, weight=0.7, sets=20)
    t1, pivot, left_out, t3 = oracle_labels(x, y)
    assert (found.options["pivot"], found.options["left_out"]) == (pivot, left_out)
    t2, t4 = oracle_inputs(x, y, found.options["inputs"])
    assert len(set(found.options["inputs"])) == m + 1
    assert [found.options[name] for name in ("t1", "t2", "t3", "t4")] == pytest.approx([t1, t2, t3, t4], rel=1e-9)
    assert found == pytest.approx(max(t1, t2, 0.7 * t3, 0.7 * t4), rel=1e-9)
    assert isinstance(found, repsim.Distance)


def test_the_weight_is_of_the_terms_of_scale() -> None:
    x, y = model(1), model(2)
    terms = repsim.d_llv(x, y).options
    assert repsim.d_llv(x, y, weight=0) == max(terms["t1"], terms["t2"])
    assert repsim.d_llv(x, y, weight=1000) == 1000 * max(terms["t3"], terms["t4"])
    assert repsim.d_llv(x, y) == max(terms["t1"], terms["t2"], 1e-5 * terms["t3"], 1e-5 * terms["t4"])


def test_the_inputs_are_the_best_of_the_sets() -> None:
    """Of five inputs every set and every pivot comes up in 2000 draws."""
    x, y = model(3, 5), model(4, 5)
    every = [
        (first, *rest) for first in range(5) for rest in itertools.combinations([j for j in range(5) if j != first], 2)
    ]
    best = min(oracle_inputs(x, y, inputs)[0] for inputs in every)
    found = repsim.d_llv(x, y, sets=2000)
    assert found.options["t2"] == pytest.approx(best, rel=1e-9)
    assert repsim.d_llv(x, y, sets=1, seed=5).options["t2"] > best * 1.01
    assert repsim.d_llv(x, y, sets=1, seed=5).options["inputs"] != repsim.d_llv(x, y, sets=1).options["inputs"]


@pytest.mark.parametrize(("n", "m", "k"), SHAPES)
@pytest.mark.parametrize("noise", [1e-2, None], ids=["close", "unrelated"])
def test_d_svd_is_that_of_scikit_learn(n: int, m: int, k: int, noise: float | None) -> None:
    x = model(1, n, m, k)
    y = near(x, noise) if noise else model(2, n, m, k)
    chosen = repsim.d_llv(x, y).options
    rest = [i for i in range(k) if i not in (chosen["pivot"], chosen["left_out"])]

    def coordinates(one: Model, labels: tuple[int, ...]) -> np.ndarray:
        return one[0] @ (one[1][list(labels)] - one[1][chosen["pivot"]]).T

    d_f = max(oracle_pls(coordinates(x, some), coordinates(y, some)) for some in itertools.combinations(rest, m))
    first, *others = chosen["inputs"]
    d_g = oracle_pls(*(one[1] @ (one[0][others] - one[0][first]).T for one in (x, y)))
    assert repsim.d_svd(x, y) == pytest.approx(d_f, abs=1e-10)
    assert repsim.d_svd(x, y, of="g") == pytest.approx(d_g, abs=1e-10)
    both = repsim.d_fg(x, y)
    assert both == pytest.approx(max(d_f, d_g), abs=1e-10)
    assert (both.options["d_f"], both.options["d_g"]) == (repsim.d_svd(x, y), repsim.d_svd(x, y, of="g"))
    assert (repsim.d_svd(x, y).n, repsim.d_svd(x, y, of="g").n) == (n, k)


def test_subsets_drawn() -> None:
    x, y = model(1, 80, 3, 9), model(2, 80, 3, 9)
    full = repsim.d_svd(x, y)
    few = [float(repsim.d_svd(x, y, subsets=1, seed=seed)) for seed in range(5)]
    assert max(few) <= full
    assert len(set(few)) > 1
    assert repsim.d_svd(x, y, subsets=2000) == pytest.approx(full, abs=1e-12)  # of 35
    assert repsim.d_fg(x, y, subsets=1).options["d_f"] == few[0]


@pytest.mark.parametrize(("n", "m", "k"), SHAPES)
def test_mcca_is_that_of_whitened_covariances(n: int, m: int, k: int) -> None:
    x, y = model(1, n, m, k), model(2, n, m, k)
    for of, which in (("f", 0), ("g", 1)):
        a, b = (one[which] - one[which].mean(axis=0) for one in (x, y))
        squares = np.linalg.eigvals(np.linalg.solve(a.T @ a, a.T @ b) @ np.linalg.solve(b.T @ b, b.T @ a)).real
        found = repsim.mcca(x, y, of=of)
        assert found == pytest.approx(np.sqrt(np.maximum(squares, 0)).mean(), abs=1e-7)
        assert isinstance(found, repsim.Similarity)


def test_mcca_is_that_of_scikit_learn() -> None:
    from sklearn.cross_decomposition import CCA

    x, y = model(1, 300, 2, 6), model(2, 300, 2, 6)
    y = (y[0] + x[0] @ np.array([[1.0, 0.5], [-0.5, 0.2]]), y[1])
    a, b = CCA(n_components=2, max_iter=5000, tol=1e-12).fit(x[0], y[0]).transform(x[0], y[0])
    expected = np.mean([np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(2)])
    assert repsim.mcca(x, y) == pytest.approx(expected, abs=1e-6)


def test_kl_divergence_is_that_of_scipy() -> None:
    from scipy.stats import entropy

    x, y = model(1, 50, 3, 8), model(2, 50, 5, 8)  # of other dimension
    expected = entropy(np.exp(log_p(x)), np.exp(log_p(y)), axis=1).mean()
    assert repsim.kl_divergence(x, y) == pytest.approx(expected, rel=1e-12)
    assert repsim.kl_divergence(y, x) != pytest.approx(expected, rel=1e-3)


def test_kl_divergence_keeps_its_digits_where_models_are_close() -> None:
    """For small changes of the logits it is half their variance under p; p ln(p/q) summed is lost in rounding."""
    x = model(1, 40, 2, 5)
    y = (x[0], x[1] + 1e-9 * model(5)[1][:5])
    p, change = np.exp(log_p(x)), x[0] @ (y[1] - x[1]).T
    variance = (p * change**2).sum(axis=1) - (p * change).sum(axis=1) ** 2
    assert repsim.kl_divergence(x, y) == pytest.approx(variance.mean() / 2, rel=1e-5)


def test_kl_divergence_of_probabilities_below_float64() -> None:
    f, g = np.array([[1.0], [1.0]]), np.array([[0.0], [2000.0]])
    assert repsim.kl_divergence((f, g), (f, g[::-1])) == pytest.approx(2000, rel=1e-12)
    assert repsim.kl_divergence((f, g), (f, g)) == 0


def test_logit_distance_is_its_formula() -> None:
    x, y = model(1, 50, 3, 8), model(2, 50, 5, 8)
    u, v = (one[0] @ (one[1] - one[1].mean(axis=0)).T for one in (x, y))
    assert repsim.logit_distance(x, y) == pytest.approx(math.sqrt(((u - v) ** 2).sum() / 50), rel=1e-12)
    for seed in range(20):
        a, b, c = model(seed), near(model(seed), 0.3), near(model(seed), 0.5, seed=1)
        assert repsim.logit_distance(a, c) <= repsim.logit_distance(a, b) + repsim.logit_distance(b, c)


# ---------------------------------------------------------------------------------------------- properties


@pytest.mark.parametrize("name", NAMES)
def test_the_account_of_it(name: str) -> None:
    account, function = REGISTRY[name], getattr(repsim, name)
    assert (account.family, account.takes, account.method) == ("identifiability", "embeddings", None)
    for seed in range(4):
        x, y = model(seed), model(seed + 10)
        value = function(x, y)
        assert isinstance(value, repsim.Similarity if account.kind == "similarity" else repsim.Distance)
        assert account.low <= value <= account.high
        assert function(x, x) == pytest.approx(account.self_value, abs=1e-12)
        back = function(y, x)
        assert (back == pytest.approx(value, rel=1e-9)) == account.symmetric
        assert value.measure == name
        assert math.isnan(value.p)
        assert value.to_dict()["value"] == value
    if account.same_width:
        with pytest.raises(ValueError, match=rf"^\[{name}\] expected y with 2 dimensions like x, got 3$"):
            function(model(1), model(1, m=3))
    else:
        assert function(model(1), model(1, m=3)) > 0


@pytest.mark.parametrize("name", NAMES)
def test_what_leaves_the_distribution_alone(name: str) -> None:
    function, account = getattr(repsim, name), REGISTRY[name]
    x, y = model(1, 60, 3, 8), model(2, 60, 3, 8)
    before = function(x, y)
    assert function(same_distribution(x), y) == pytest.approx(before, rel=1e-8)
    assert function(x, same_distribution(y)) == pytest.approx(before, rel=1e-8)
    assert function(x, same_distribution(x)) == pytest.approx(account.self_value, abs=1e-9)
    # A shift of g far from the origin costs digits of g alone: 1e6 leaves about ten.
    assert function(x, (y[0], y[1] + 1e6)) == pytest.approx(before, rel=1e-6)


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(lambda f: f[:, ::-1].copy(), id="permutation"),
        pytest.param(lambda f: f @ np.linalg.qr(np.arange(9.0).reshape(3, 3) ** 2 - 5)[0], id="orthogonal"),
        pytest.param(lambda f: 3.7 * f, id="isotropic-scaling"),
        pytest.param(lambda f: f + np.array([1.0, -2, 0.5]), id="translation"),
        pytest.param(lambda f: f @ np.array([[1.0, 2, 0], [0, 1, 0], [3, 0, 0.2]]), id="invertible-linear"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_maps_of_the_embeddings_alone(name: str, how: Callable[[np.ndarray], np.ndarray]) -> None:
    """The canonical correlations do not see them; no other measure is invariant to them."""
    function, apart = getattr(repsim, name), 0.0
    for seed in range(8):  # d_svd sees some of them only where another pivot is chosen
        x, y = model(seed, 60, 3, 8), model(seed + 20, 60, 3, 8)
        apart = max(apart, abs(function(x, (how(y[0]), y[1])) - function(x, y)))
    if REGISTRY[name].invariances:
        assert name == "mcca"
        assert apart < 1e-10
    else:
        assert apart > 1e-5


@pytest.mark.parametrize("noise", [1e-6, 1e-4, 1e-2, 0.1])
@pytest.mark.parametrize(("n", "m", "k"), SHAPES)
def test_close_distributions_have_close_representations(n: int, m: int, k: int, noise: float) -> None:
    for seed in range(6):
        x = model(seed, n, m, k)
        y = near(same_distribution(x, seed), noise, seed)
        distribution, representation = repsim.d_llv(x, y), repsim.d_fg(x, y)
        rounding = 1e-14
        assert representation <= 2 * m * distribution + rounding
        # Sharper, from 1 - correlation = variance of the difference / 2: one term for embeddings, one for unembeddings.
        assert representation.options["d_f"] <= 2 * distribution.options["t1"] ** 2 + rounding
        assert representation.options["d_g"] <= 2 * distribution.options["t2"] ** 2 + rounding
        assert representation.options["inputs"] == distribution.options["inputs"]
        assert distribution > 0


def test_the_sharper_bound_is_nearly_reached() -> None:
    """Small logits, opposite labels: half of the difference is in each of the two terms that the bound adds up."""
    random = np.random.default_rng(0)
    f = random.standard_normal((500, 1))
    g = 0.01 * np.array([[-1.0], [0], [1]])
    x, y = (f, g), (f + 0.1 * random.standard_normal((500, 1)), g)
    found = repsim.d_fg(x, y).options["d_f"]
    bound = 2 * repsim.d_llv(x, y).options["t1"] ** 2
    assert 0.98 * bound < found <= bound


@pytest.mark.parametrize(("n", "m", "k"), SHAPES)
def test_logit_distance_bounds_the_embeddings(n: int, m: int, k: int) -> None:
    """In the coordinates of any M + 1 labels."""
    for seed in range(4):
        x = model(seed, n, m, k)
        y = near(same_distribution(x, seed), 0.1, seed)
        labels = np.random.default_rng(seed).choice(k, m + 1, replace=False)
        first, second = ((g[labels[1:]] - g[labels[0]]) for _, g in (x, y))  # L and L', transposed
        apart = x[0] - np.linalg.solve(first, second @ y[0].T).T
        bound = math.sqrt(m + 1) / np.linalg.svd(first, compute_uv=False)[-1] * repsim.logit_distance(x, y)
        assert 0 < math.sqrt((apart**2).sum(axis=1).mean()) <= bound * (1 + 1e-12)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = model(1, 300, 3, 8), model(2, 300, 3, 8)
    before = [float(getattr(repsim, name)(x, y)) for name in NAMES]
    monkeypatch.setattr(model_family, "_BLOCK", 8 * 37)
    assert [float(getattr(repsim, name)(x, y)) for name in NAMES] == pytest.approx(before, rel=1e-11)


def test_small_directions_keep_their_digits() -> None:
    """Stretching f by A and g by A^-T over eighteen decades: squared, they would leave float64."""
    x, y = model(1, 100, 3, 8), model(2, 100, 3, 8)
    stretch = np.array([1e9, 1, 1e-9])
    far = (y[0] * stretch, y[1] / stretch)
    for name in NAMES:
        function = getattr(repsim, name)
        assert function(x, far) == pytest.approx(function(x, y), rel=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_dtypes_and_memory_maps(name: str, tmp_path: Path) -> None:
    function = getattr(repsim, name)
    x, y = model(1), model(2)
    for dtype in (np.float16, np.float32):
        narrow = tuple(part.astype(dtype) for part in x)
        wide = tuple(part.astype(np.float64) for part in narrow)
        assert function(narrow, y) == function(wide, y)
    brain = tuple(torch.from_numpy(part).bfloat16() for part in x)
    assert function(brain, y) == function(tuple(part.double().numpy() for part in brain), y)
    paths = [tmp_path / "f.npy", tmp_path / "g.npy"]
    for path, part in zip(paths, x, strict=True):
        np.save(path, part)
    assert function([np.load(path, mmap_mode="r") for path in paths], y) == function(x, y)


# ---------------------------------------------------------------------------------------------- errors


def broken(argument: str, what: str) -> tuple[Any, Any]:
    x, y = model(1), model(2)
    changed: Any = {
        "array": lambda f, g: f,
        "triple": lambda f, g: (f, g, g),
        "columns": lambda f, g: (f, g[:, :1].copy()),
        "inputs": lambda f, g: (f[1:], g),
        "labels": lambda f, g: (f, g[1:]),
        "nan": lambda f, g: (np.where(np.arange(60)[:, None] == 7, np.nan, f), g),
        "infinite-label": lambda f, g: (f, np.where(np.arange(6)[:, None] == 4, np.inf, g)),
        "integers": lambda f, g: (f.astype(int), g),
        "one-dimensional": lambda f, g: (f[:, 0], g),
    }[what]
    return (changed(*x), y) if argument == "x" else (x, changed(*y))


@pytest.mark.parametrize(
    ("argument", "what", "kind", "message"),
    [
        pytest.param("x", "array", TypeError, r"x as a pair \(embeddings \[n, M\], .*\), got ndarray", id="no-pair"),
        pytest.param("y", "triple", TypeError, "y as a pair .*, got tuple of length 3", id="three"),
        pytest.param("y", "columns", ValueError, "unembeddings of y with 2 columns like its embeddings, got 1", id="g"),
        pytest.param("y", "inputs", ValueError, "y with 60 inputs like x, got 59", id="inputs"),
        pytest.param("y", "labels", ValueError, "y with 6 labels like x, got 5", id="labels"),
        pytest.param(
            "x", "nan", ValueError, "embeddings of x with finite values, got NaN or infinity in row 7", id="nan"
        ),
        pytest.param("y", "infinite-label", ValueError, "unembeddings of y with finite .* in row 4", id="infinity"),
        pytest.param("y", "integers", TypeError, "embeddings of y of dtype float16, .* got int64", id="integers"),
        pytest.param("x", "one-dimensional", ValueError, "embeddings of x with two dimensions", id="one-dimensional"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_models_that_are_none(name: str, argument: str, what: str, kind: type, message: str) -> None:
    with pytest.raises(kind, match=rf"^\[{name}\] expected {message}"):
        getattr(repsim, name)(*broken(argument, what))


@pytest.mark.parametrize("name", NAMES)
def test_one_input_or_label(name: str) -> None:
    function = getattr(repsim, name)
    with pytest.raises(ValueError, match=rf"^\[{name}\] expected at least 2 inputs and 2 labels, got 1 inputs and 6"):
        function(model(1, 1), model(2, 1))
    with pytest.raises(ValueError, match=rf"^\[{name}\] expected at least 2 inputs and 2 labels, got 60 .* 1 labels"):
        function(model(1, k=1), model(2, k=1))


@pytest.mark.parametrize("name", ["d_llv", "d_svd", "d_fg"])
def test_models_that_identify_nothing(name: str) -> None:
    function = getattr(repsim, name)
    x, y = model(1), model(2)
    with pytest.raises(ValueError, match=rf"^\[{name}\] expected at least 4 labels .* 2 dimensions\), got 3$"):
        function(model(1, k=3), model(2, k=3))
    with pytest.raises(ValueError, match=rf"^\[{name}\] expected at least 3 inputs .* 2 dimensions\), got 2$"):
        function(model(1, 2), model(2, 2))
    equal = x[1].copy()
    equal[4] = equal[1]
    message = rf"^\[{name}\] expected x with log-odds that vary over inputs, got zero variance between labels 1 and 4$"
    with pytest.raises(ValueError, match=message):
        function((x[0], equal), y)
    for constant in (np.ones((60, 2)), np.full((60, 2), 0.1) * [1, 1e8]):
        with pytest.raises(
            ValueError, match=rf"^\[{name}\] expected y with log-odds .* zero variance between labels 0"
        ):
            function(x, (constant, y[1]))
    # Labels that differ only in a coordinate that all inputs share.
    flat = np.column_stack([x[0][:, 0], np.full(60, 0.3)])
    along = np.column_stack([[0.1, 0.1, 1, 2, 3, 4], np.arange(6.0)])
    with pytest.raises(ValueError, match=rf"^\[{name}\] expected x with log-odds .* between labels 0 and 1$"):
        function((flat, along), y)
    pairs = model(1, 4, 3, 6)[0][[0, 0, 1, 1]]  # any four inputs hold an equal pair with the pivot
    with pytest.raises(ValueError, match=rf"^\[{name}\] expected inputs whose .* in all 30 random sets of 4 inputs$"):
        function((pairs, model(1, m=3)[1]), model(2, 4, 3), sets=30)


def test_sets_of_equal_inputs_are_passed_over() -> None:
    """Only a set whose pivot differs from both others can be taken."""
    f = np.array([[0.0, 0], [0, 0], [1, 2], [0, 0], [2, -1], [0, 0]])
    x, y = (f, model(1)[1]), (f[:, ::-1] + 0.0, model(2)[1])
    for seed in range(10):
        first, *rest = repsim.d_llv(x, y, sets=50, seed=seed).options["inputs"]
        assert all((f[first] != f[j]).any() for j in rest)


@pytest.mark.parametrize(
    ("name", "options", "kind", "message"),
    [
        pytest.param("d_llv", {"weight": -1}, ValueError, "weight as a number of at least 0, got -1", id="weight"),
        pytest.param("d_llv", {"weight": "1"}, TypeError, "weight as a number, got str", id="weight-text"),
        pytest.param("d_llv", {"sets": 0}, ValueError, "sets of at least 1, got 0", id="no-sets"),
        pytest.param("d_fg", {"sets": 2.0}, TypeError, "sets as an int, got 2.0", id="sets-float"),
        pytest.param("d_svd", {"seed": -1}, ValueError, "seed of at least 0, got -1", id="seed"),
        pytest.param("d_svd", {"subsets": 0}, ValueError, "subsets of at least 1, got 0", id="no-subsets"),
        pytest.param("d_fg", {"subsets": True}, TypeError, "subsets as an int, got True", id="subsets-bool"),
        pytest.param("d_svd", {"of": "h"}, ValueError, "of 'f' or 'g', got 'h'", id="d-svd-of"),
        pytest.param("mcca", {"of": "x"}, ValueError, "of 'f' or 'g', got 'x'", id="mcca-of"),
    ],
)
def test_bad_options(name: str, options: dict[str, Any], kind: type, message: str) -> None:
    with pytest.raises(kind, match=rf"^\[{name}\] expected {message}"):
        getattr(repsim, name)(model(1), model(2), **options)


@pytest.mark.parametrize("name", ["d_svd", "d_fg"])
def test_too_many_subsets(name: str) -> None:
    x, y = model(1, 30, 8, 30), model(2, 30, 8, 30)
    message = rf"^\[{name}\] expected at most 100000 sets of 8 labels out of 28, got 3108105; pass subsets"
    with pytest.raises(ValueError, match=message):
        getattr(repsim, name)(x, y)
    assert 0 <= getattr(repsim, name)(x, y, subsets=50) <= 1


def test_mcca_needs_all_dimensions() -> None:
    x, y = model(1), model(2)
    flat = x[0] @ np.array([[1.0, 2], [2, 4]])
    with pytest.raises(ValueError, match=r"^\[mcca\] expected f of x that spans 2 dimensions about its mean, got 1$"):
        repsim.mcca((flat, x[1]), y)
    with pytest.raises(ValueError, match=r"^\[mcca\] expected g of y that spans 2 dimensions about its mean, got 0$"):
        repsim.mcca(model(1, k=10), (y[0], np.full((10, 2), 0.1)), of="g")  # ten tenths have another mean
    with pytest.raises(ValueError, match=r"^\[mcca\] expected f of x that spans 4 dimensions about its mean, got 3$"):
        repsim.mcca(model(1, 4, 4), model(2, 4, 4))
