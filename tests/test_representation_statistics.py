"""Statistics of one representation against scikit-learn, networkx and their definitions; their differences."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import logsumexp

import repsim
from repsim.measures.registry import REGISTRY

Statistic = Callable[..., float]
LABELS = np.arange(60) % 4

# (statistic, difference, whether they take labels)
PAIRS = [
    pytest.param("magnitude", False, id="magnitude"),
    pytest.param("concentricity", False, id="concentricity"),
    pytest.param("uniformity", False, id="uniformity"),
    pytest.param("intrinsic_dimension", False, id="intrinsic_dimension"),
    pytest.param("tolerance", True, id="tolerance"),
    pytest.param("modularity", True, id="modularity"),
]
every_statistic = pytest.mark.parametrize(("name", "labelled"), PAIRS)


def pair(n: int = 60, d: int = 7, e: int = 5) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng([n, d, e])
    x = random.standard_normal((n, d)) * np.linspace(0.5, 2, d) + random.standard_normal(d)
    x += 2 * np.eye(d)[np.arange(n) % min(4, d)]
    return x, np.tanh(x @ random.standard_normal((d, e)) / d**0.5) + 0.3 * random.standard_normal((n, e))


def statistic(name: str, labelled: bool) -> Statistic:
    function = getattr(repsim, name)
    return (lambda x, **options: function(x, LABELS, **options)) if labelled else function


def difference(name: str, labelled: bool) -> Callable[..., repsim.Distance]:
    function = getattr(repsim, f"{name}_difference")
    return (lambda x, y, **options: function(x, y, LABELS, **options)) if labelled else function


# ---------------------------------------------------------------------------------------------- all of them


@every_statistic
def test_the_difference_is_that_of_the_statistics(name: str, labelled: bool) -> None:
    x, y = pair()
    of = statistic(name, labelled)
    result = difference(name, labelled)(x, y)
    assert isinstance(result, repsim.Distance)
    assert result == pytest.approx(abs(of(x) - of(y)), abs=1e-13)
    assert result > 1e-3
    assert difference(name, labelled)(y, x) == result
    assert difference(name, labelled)(x, x) == 0
    assert result.measure == f"{name}_difference"


@every_statistic
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtypes(name: str, labelled: bool, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(pair()[0]).to(getattr(torch, dtype))
    of = statistic(name, labelled)
    assert of(x) == pytest.approx(of(x.double().numpy()), rel=1e-12)


@every_statistic
def test_memory_maps(name: str, labelled: bool, tmp_path: Path) -> None:
    x, _ = pair()
    np.save(tmp_path / "x.npy", x)
    of = statistic(name, labelled)
    assert of(np.load(tmp_path / "x.npy", mmap_mode="r")) == of(x)


@every_statistic
def test_more_features_than_inputs(name: str, labelled: bool) -> None:
    x, y = pair(60, 300, 200)
    of = statistic(name, labelled)
    assert difference(name, labelled)(x, y) == pytest.approx(abs(of(x) - of(y)), abs=1e-13)
    turned = x @ np.linalg.qr(np.random.default_rng(0).standard_normal((300, 300)))[0]
    assert of(turned) == pytest.approx(of(x), rel=1e-9)


@pytest.mark.parametrize("name", ["magnitude", "concentricity", "uniformity", "intrinsic_dimension"])
def test_no_relabelling_changes_the_statistic(name: str) -> None:
    x, y = pair()
    result = difference(name, False)(x, y, permutations=9)
    assert result.p == 1
    assert result.null.sd == 0
    assert np.isnan(result.z)


@every_statistic
def test_names_the_row_that_is_not_finite(name: str, labelled: bool) -> None:
    x, y = pair()
    y[7, 2] = np.nan
    with pytest.raises(ValueError, match=rf"^\[{name}_difference\] expected y with finite values, .* in row 7"):
        difference(name, labelled)(x, y)
    with pytest.raises(ValueError, match=rf"^\[{name}\] expected x with finite values, .* in row 7"):
        statistic(name, labelled)(y)


@every_statistic
def test_other_numbers_of_rows(name: str, labelled: bool) -> None:
    x, y = pair()
    with pytest.raises(ValueError, match=rf"^\[{name}_difference\] expected y with 60 rows like x, got 59"):
        difference(name, labelled)(x, y[1:])


@pytest.mark.parametrize("name", ["uniformity", "tolerance"])
def test_needs_two_inputs(name: str) -> None:
    labels = [[0]] if name == "tolerance" else []
    with pytest.raises(ValueError, match=rf"^\[{name}\] expected at least 2 inputs, got 1"):
        getattr(repsim, name)(np.ones((1, 3)), *labels)
    with pytest.raises(ValueError, match=rf"^\[{name}_difference\] expected at least 2 inputs, got 1"):
        getattr(repsim, f"{name}_difference")(np.ones((1, 3)), np.ones((1, 3)), *labels)


# ---------------------------------------------------------------------------------------------- of the mean row


def test_magnitude() -> None:
    x, _ = pair()
    assert repsim.magnitude(x) == pytest.approx(np.linalg.norm(x.mean(axis=0)), rel=1e-14)
    assert repsim.magnitude(np.array([[3.0, 0.0], [0.0, 4.0]])) == pytest.approx(2.5, rel=1e-15)
    assert repsim.magnitude(np.array([[3.0], [-3.0]])) == 0
    assert repsim.magnitude(np.array([[1e200, 1e200]])) == pytest.approx(2**0.5 * 1e200, rel=1e-14)  # no overflow


def test_concentricity() -> None:
    cosine_similarity = pytest.importorskip("sklearn.metrics.pairwise").cosine_similarity
    x, _ = pair()
    assert repsim.concentricity(x) == pytest.approx(
        cosine_similarity(x, x.mean(axis=0, keepdims=True)).mean(), abs=1e-14
    )
    assert repsim.concentricity(np.array([[1.0, 1.0], [1.0, -1.0]])) == pytest.approx(0.5**0.5, rel=1e-15)
    assert repsim.concentricity(np.ones((5, 3))) == pytest.approx(1, rel=1e-15)
    assert repsim.concentricity(1e200 * x) == pytest.approx(repsim.concentricity(x), rel=1e-14)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        pytest.param(np.array([[1.0, 2.0], [0.0, 0.0], [1.0, 1.0]]), "x with non-zero rows, got row 1", id="zero-row"),
        pytest.param(pair()[0] - pair()[0].mean(axis=0), "x whose mean has a direction", id="centred"),
        pytest.param(
            np.array([[1.0, 2.0], [-1.0, -2.0]]), "x whose mean has a direction, got a mean of length 0", id="mean-zero"
        ),
    ],
)
def test_concentricity_errors(bad: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=r"^\[concentricity\] expected " + message):
        repsim.concentricity(bad)


# ---------------------------------------------------------------------------------------------- uniformity


def uniformity(x: np.ndarray, t: float = 2.0, unit_rows: bool = True, include_self: bool = False) -> float:
    pairwise = pytest.importorskip("sklearn.metrics").pairwise_distances
    rows = x / np.linalg.norm(x, axis=1, keepdims=True) if unit_rows else x
    exponents = -t * pairwise(rows, metric="sqeuclidean").astype(np.float64)
    chosen = exponents.ravel() if include_self else exponents[np.triu_indices(len(x), 1)]
    return float(logsumexp(chosen) - np.log(len(chosen)))


@pytest.mark.parametrize("include_self", [False, True])
@pytest.mark.parametrize("unit_rows", [False, True])
@pytest.mark.parametrize("t", [2.0, 0.1, 5])
@pytest.mark.parametrize("n", [60, 1100], ids=["one-block", "several-blocks"])
def test_uniformity(n: int, t: float, unit_rows: bool, include_self: bool) -> None:
    x, y = pair(n)
    options: dict[str, Any] = {"t": t, "unit_rows": unit_rows, "include_self": include_self}
    assert repsim.uniformity(x, **options) == pytest.approx(uniformity(x, **options), abs=1e-11)
    result = repsim.uniformity_difference(x, y, **options)
    assert result == pytest.approx(abs(uniformity(x, **options) - uniformity(y, **options)), abs=1e-11)
    assert result.options == options


def test_uniformity_of_rows_far_apart_does_not_underflow() -> None:
    x = 100 * pair()[0]
    assert repsim.uniformity(x, unit_rows=False) == pytest.approx(uniformity(x, unit_rows=False), rel=1e-12)
    assert repsim.uniformity(x, unit_rows=False) < -1000
    with_self = repsim.uniformity(x, unit_rows=False, include_self=True)
    assert with_self == pytest.approx(-np.log(60), rel=1e-12)  # which says nothing but n


def test_uniformity_of_equal_rows() -> None:
    assert repsim.uniformity(np.ones((5, 3))) == pytest.approx(0, abs=1e-12)
    assert repsim.uniformity(np.ones((5, 3)), unit_rows=False) == pytest.approx(0, abs=1e-12)


def test_uniformity_errors() -> None:
    x, y = pair()
    with pytest.raises(ValueError, match=r"^\[uniformity\] expected t as a positive number, got 0"):
        repsim.uniformity(x, t=0)
    y[4] = 0
    with pytest.raises(ValueError, match=r"^\[uniformity_difference\] expected y with non-zero rows .*, got row 4"):
        repsim.uniformity_difference(x, y)
    assert repsim.uniformity_difference(x, y, unit_rows=False) > 0


# ---------------------------------------------------------------------------------------------- intrinsic dimension


def neighbour_distances(x: np.ndarray, k: int) -> np.ndarray:
    search = pytest.importorskip("sklearn.neighbors").NearestNeighbors(n_neighbors=k + 1, algorithm="brute")
    indices = search.fit(x).kneighbors(x, return_distance=False)
    return np.array([sorted(np.linalg.norm(x[i] - x[j]) for j in row if j != i)[:k] for i, row in enumerate(indices)])


def two_nn(x: np.ndarray, discard: float = 0.1) -> float:
    """Facco et al. (2017), steps 1 to 5 of the algorithm."""
    near = neighbour_distances(x, 2)
    ratios = sorted(near[:, 1] / near[:, 0])
    n = len(ratios)
    points = [
        (np.log(ratio), -np.log(1 - i / n))
        for i, ratio in enumerate(ratios, 1)
        if i < n and i <= n * (1 - discard) + 1e-9
    ]
    across, up = np.array(points).T
    return float(np.linalg.lstsq(across[:, None], up, rcond=None)[0][0])


def levina_bickel(x: np.ndarray, k: int) -> float:
    """Levina and Bickel (2004), equations (8) and (9)."""
    estimates = []
    for near in neighbour_distances(x, k):
        estimates.append(1 / (sum(np.log(near[k - 1] / near[j]) for j in range(k - 1)) / (k - 1)))
    return float(np.mean(estimates))


@pytest.mark.parametrize(("n", "d"), [(60, 7), (25, 40), (200, 1), (3, 2)], ids=["n>d", "n<d", "d=1", "n=3"])
@pytest.mark.parametrize("discard", [None, 0.0, 0.25])
def test_two_nn(n: int, d: int, discard: float | None) -> None:
    x, _ = pair(n, d)
    expected = two_nn(x, 0.1 if discard is None else discard)
    assert repsim.intrinsic_dimension(x, discard=discard) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("n", "d"), [(60, 7), (25, 40), (200, 1)], ids=["n>d", "n<d", "d=1"])
@pytest.mark.parametrize("k", [None, 2, 24])
def test_levina_bickel(n: int, d: int, k: int | None) -> None:
    x, _ = pair(n, d)
    expected = levina_bickel(x, 10 if k is None else k)
    assert repsim.intrinsic_dimension(x, estimator="levina_bickel", k=k) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("estimator", ["two_nn", "levina_bickel"])
@pytest.mark.parametrize("dimension", [1, 2, 4])
def test_finds_the_dimension_of_a_flat_piece(dimension: int, estimator: str) -> None:
    random = np.random.default_rng(0)
    x = random.uniform(size=(2000, dimension)) @ random.standard_normal((dimension, 20)) + 1e3
    assert repsim.intrinsic_dimension(x, estimator=estimator) == pytest.approx(dimension, rel=0.15)


@pytest.mark.parametrize("estimator", ["two_nn", "levina_bickel"])
def test_intrinsic_dimension_of_far_and_small_rows(estimator: str) -> None:
    """The ratios of distances are those of float64, not of the float32 scores of the graph."""
    x, _ = pair()
    exact = repsim.intrinsic_dimension(x, estimator=estimator)
    assert repsim.intrinsic_dimension(x * 2.0**-60, estimator=estimator) == pytest.approx(exact, rel=1e-12)
    assert repsim.intrinsic_dimension(x + 1e5, estimator=estimator) == pytest.approx(exact, rel=1e-8)


TWICE = np.vstack([pair()[0], pair()[0][5]])


@pytest.mark.parametrize(
    ("bad", "options", "message"),
    [
        pytest.param(TWICE, {}, "x whose rows differ, got row 5 equal to row 60", id="equal-rows"),
        pytest.param(np.ones((9, 2)), {}, "x whose rows differ", id="all-equal"),
        pytest.param(np.eye(9), {}, "x whose first and second neighbours lie at different distances", id="lattice"),
        pytest.param(
            np.eye(9),
            {"estimator": "levina_bickel", "k": 3},
            "x whose neighbours lie at different distances, got row 0 with all 3",
            id="lattice-mle",
        ),
        pytest.param(TWICE, {"estimator": "mle"}, "estimator 'two_nn' or 'levina_bickel', got 'mle'", id="estimator"),
        pytest.param(TWICE, {"k": 5}, "k only with estimator 'levina_bickel', got k=5", id="k-of-two-nn"),
        pytest.param(
            TWICE,
            {"estimator": "levina_bickel", "discard": 0.1},
            "discard only with estimator 'two_nn', got discard=0.1",
            id="discard-of-mle",
        ),
        pytest.param(TWICE, {"estimator": "levina_bickel", "k": 1}, "k of at least 2, got 1", id="k-too-small"),
        pytest.param(
            TWICE, {"estimator": "levina_bickel", "k": 61}, "k of at most 60 for 61 rows, got 61", id="k-too-large"
        ),
        pytest.param(TWICE, {"discard": 1.0}, "discard of at least 0 and below 1, got 1.0", id="discard"),
        pytest.param(TWICE[:2], {}, "at least 3 inputs, got 2", id="two-inputs"),
    ],
)
def test_intrinsic_dimension_errors(bad: np.ndarray, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=r"^\[intrinsic_dimension\] expected " + message):
        repsim.intrinsic_dimension(bad, **options)
    with pytest.raises(ValueError, match=r"^\[intrinsic_dimension_difference\] expected " + message):
        repsim.intrinsic_dimension_difference(bad, bad, **options)


def test_discard_that_is_no_number() -> None:
    with pytest.raises(TypeError, match=r"^\[intrinsic_dimension\] expected discard as a number, got 'a'"):
        repsim.intrinsic_dimension(pair()[0], discard="a")  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------- with labels


@pytest.mark.parametrize("include_self", [False, True])
@pytest.mark.parametrize("unit_rows", [False, True])
def test_tolerance(unit_rows: bool, include_self: bool) -> None:
    x, y = pair()
    options: dict[str, Any] = {"unit_rows": unit_rows, "include_self": include_self}

    def tolerance(x: np.ndarray) -> float:
        rows = [row / np.linalg.norm(row) if unit_rows else row for row in x]
        terms = [
            rows[i] @ rows[j] if LABELS[i] == LABELS[j] else 0.0
            for i in range(60)
            for j in range(60)
            if include_self or i != j
        ]
        return float(np.mean(terms))

    assert repsim.tolerance(x, LABELS, **options) == pytest.approx(tolerance(x), rel=1e-12)
    result = repsim.tolerance_difference(x, y, LABELS, **options)
    assert result == pytest.approx(abs(tolerance(x) - tolerance(y)), abs=1e-13)
    assert result.options == options


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "inner_product"])
@pytest.mark.parametrize("k", [1, 5])
def test_modularity(k: int, metric: str) -> None:
    networkx = pytest.importorskip("networkx")
    x, y = pair()

    def modularity(x: np.ndarray) -> float:
        closeness = x @ x.T
        lengths = np.linalg.norm(x, axis=1)
        if metric == "cosine":
            closeness = closeness / np.outer(lengths, lengths)
        elif metric == "euclidean":
            closeness = 2 * closeness - lengths**2 - (lengths**2)[:, None]
        np.fill_diagonal(closeness, -np.inf)
        graph = networkx.Graph()
        graph.add_nodes_from(range(60))
        graph.add_edges_from((i, int(j)) for i in range(60) for j in np.argsort(-closeness[i])[:k])
        return networkx.community.modularity(graph, [set(np.flatnonzero(c == LABELS).tolist()) for c in range(4)])

    assert repsim.modularity(x, LABELS, k=k, metric=metric) == pytest.approx(modularity(x), abs=1e-13)
    result = repsim.modularity_difference(x, y, LABELS, k=k, metric=metric)
    assert result == pytest.approx(abs(modularity(x) - modularity(y)), abs=1e-13)
    assert result.options == {"k": k, "metric": metric}


def test_modularity_of_clusters() -> None:
    """c groups without an edge between them, each with a c-th of all edges: 1 - 1 / c."""
    x = np.random.default_rng(0).standard_normal((60, 4)) * 0.01 + 10 * np.eye(4)[LABELS]
    assert repsim.modularity(x, LABELS, k=14) == pytest.approx(0.75, abs=1e-13)  # all edges inside a group
    assert repsim.modularity(x, np.zeros(60, int), k=14) == 0
    assert repsim.modularity(x, (np.arange(60) // 4) % 4, k=14) < 0.1


@pytest.mark.parametrize("name", ["tolerance", "modularity"])
def test_labels_are_names(name: str) -> None:
    x, _ = pair()
    of = getattr(repsim, name)
    expected = of(x, LABELS)
    words = np.array(["red", "green", "blue", "grey"])[LABELS]
    for same in (words, words.tolist(), LABELS.tolist(), 7 * LABELS - 3, LABELS.astype(np.uint8)):
        assert of(x, same) == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize("name", ["tolerance", "modularity"])
def test_relabelling_moves_the_inputs_of_y(name: str) -> None:
    x, y = pair()
    of = getattr(repsim, name)
    result = getattr(repsim, f"{name}_difference")(x, y, LABELS, permutations=30, seed=2)
    random = np.random.default_rng(2)
    draws = [abs(of(x, LABELS) - of(y[random.permutation(60)], LABELS)) for _ in range(30)]
    assert result.null.mean == pytest.approx(np.mean(draws), rel=1e-10)
    assert result.null.sd == pytest.approx(np.std(draws, ddof=1), rel=1e-10)
    assert result.p == (1 + np.sum(np.array(draws) <= result.value)) / 31


@pytest.mark.parametrize("name", ["tolerance", "modularity"])
@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        pytest.param(LABELS[1:], ValueError, r"one label for each of 60 inputs, got shape \(59,\)", id="too-few"),
        pytest.param(LABELS[:, None], ValueError, r"one label for each of 60 inputs, got shape \(60, 1\)", id="2d"),
        pytest.param(LABELS * 1.0, TypeError, "labels as whole numbers or text, got dtype float64", id="floats"),
        pytest.param([None] * 60, TypeError, "labels as whole numbers or text, got dtype object", id="objects"),
    ],
)
def test_labels_errors(name: str, labels: Any, error: type[Exception], message: str) -> None:
    x, y = pair()
    with pytest.raises(error, match=rf"^\[{name}\] expected {message}"):
        getattr(repsim, name)(x, labels)
    with pytest.raises(error, match=rf"^\[{name}_difference\] expected {message}"):
        getattr(repsim, f"{name}_difference")(x, y, labels)


def test_graph_errors() -> None:
    x, y = pair()
    with pytest.raises(ValueError, match=r"^\[modularity\] expected k of at most 59 for 60 rows, got 60"):
        repsim.modularity(x, LABELS, k=60)
    with pytest.raises(ValueError, match=r"^\[modularity_difference\] expected metric .*, got 'l1'"):
        repsim.modularity_difference(x, y, LABELS, metric="l1")
    y[4] = 0
    with pytest.raises(ValueError, match=r"^\[tolerance_difference\] expected y with non-zero rows, got row 4"):
        repsim.tolerance_difference(x, y, LABELS)


@pytest.mark.parametrize("name", ["tolerance_difference", "modularity_difference"])
@pytest.mark.parametrize("how", ["orthogonal", "isotropic_scaling", "translation", "invertible_linear"])
def test_declared_invariances_with_labels(name: str, how: str) -> None:
    x, y = pair()
    random = np.random.default_rng(7)
    changed = {
        "orthogonal": x @ np.linalg.qr(random.standard_normal((7, 7)))[0],
        "isotropic_scaling": 3.7 * x,
        "translation": x + random.standard_normal(7),
        "invertible_linear": x @ random.standard_normal((7, 7)),
    }[how]
    measure = getattr(repsim, name)
    apart = abs(measure(x, y, LABELS) - measure(changed, y, LABELS))
    if how in REGISTRY[name].invariances:
        assert apart <= 1e-10
    else:
        assert apart > 1e-5
