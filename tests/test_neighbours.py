"""repsim.nearest, mutual_knn and cknna against the float64 oracle."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import oracles
import pytest
from agreement import (
    assert_duplicates_in_order,
    assert_graph_agrees,
    assert_neighbours_agree,
    rounding,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import repsim
from repsim import reductions

METRICS = ("cosine", "inner_product", "euclidean")
metrics = pytest.mark.parametrize("metric", METRICS)


def rows(n: int, d: int, seed: int = 0, dtype: Any = np.float64) -> np.ndarray:
    rng = np.random.default_rng([seed, n, d])
    return (rng.standard_normal((n, d)) * np.geomspace(1, 0.1, d)).astype(dtype)


def related(n: int, d: int, e: int, noise: float = 0.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([seed, n, d, e])
    common = rng.standard_normal((n, 4))
    x = common @ rng.standard_normal((4, d)) + noise * rng.standard_normal((n, d))
    return x, common @ rng.standard_normal((4, e)) + noise * rng.standard_normal((n, e))


# ---------------------------------------------------------------------------------------------- the graph


@metrics
@pytest.mark.parametrize(
    ("n", "d", "k"),
    [
        pytest.param(2, 3, 1, id="two-rows"),
        pytest.param(5, 2, 4, id="k-is-n-minus-1-tiny"),
        pytest.param(17, 30, 3, id="more-columns-than-rows"),
        pytest.param(50, 6, 49, id="k-is-n-minus-1"),
        pytest.param(193, 1, 1, id="one-column"),
        pytest.param(513, 16, 10, id="no-multiple-of-a-tile"),
        pytest.param(1000, 40, 30, id="n1000"),
        pytest.param(2000, 16, 1, id="n2000-k1"),
        pytest.param(2000, 16, 10, id="n2000-k10"),
        pytest.param(2000, 16, 100, id="n2000-k100"),
    ],
)
def test_agrees_with_the_oracle(n: int, d: int, k: int, metric: str) -> None:
    x = rows(n, d)
    graph = repsim.nearest(x, k, metric=metric)
    assert_graph_agrees(graph, x, k, metric)
    assert (graph.metric, graph.k, graph.n) == (metric, k, n)
    assert graph.indices.dtype == np.int64
    assert graph.scores.dtype == np.float32


def test_defaults() -> None:
    x = rows(60, 5)
    graph = repsim.nearest(x)
    assert (graph.metric, graph.k, graph.indices.shape) == ("cosine", 10, (60, 10))


@metrics
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_numpy_dtypes(dtype: str, metric: str) -> None:
    x = rows(193, 12, dtype=dtype)
    assert_graph_agrees(repsim.nearest(x, 7, metric=metric), x, 7, metric)


@metrics
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_torch_dtypes(dtype: str, metric: str) -> None:
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(rows(193, 12)).to(getattr(torch, dtype))
    graph = repsim.nearest(x, 7, metric=metric)
    assert isinstance(graph.indices, np.ndarray)
    assert_graph_agrees(graph, oracles.as_float64(x), 7, metric)


@metrics
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_scales(scale: float, metric: str) -> None:
    x = rows(300, 9) * scale
    assert_graph_agrees(repsim.nearest(x, 10, metric=metric), x, 10, metric)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_euclidean_far_from_the_origin(dtype: str) -> None:
    x = (8 * rows(500, 12) + 1e6).astype(dtype)
    graph = repsim.nearest(x, 10, metric="euclidean")
    assert_graph_agrees(graph, x, 10, "euclidean")
    found = oracles.mutual_knn(graph.indices, oracles.nearest(x, 10, "euclidean"))
    assert found > 0.999  # far from the rounding of 1e12, where hardly a neighbour would be right


@pytest.mark.parametrize("metric", ["cosine", "inner_product"])
def test_a_common_offset(metric: str) -> None:
    x = rows(400, 12) + 10
    assert_graph_agrees(repsim.nearest(x, 10, metric=metric), x, 10, metric)


@metrics
def test_one_huge_row(metric: str) -> None:
    """A mean follows one huge row away from all the others: distances must not lose digits by it."""
    x = rows(400, 12)
    x[11] *= 1e4
    assert_graph_agrees(repsim.nearest(x, 10, metric=metric), x, 10, metric)


@metrics
def test_near_duplicates(metric: str) -> None:
    x = rows(300, 12)
    x = x[np.arange(300) // 4 * 4] + 1e-5 * np.random.default_rng(1).standard_normal((300, 12))
    assert_graph_agrees(repsim.nearest(x, 10, metric=metric), x, 10, metric)


@metrics
def test_columns_of_zero_variance(metric: str) -> None:
    x = np.concatenate([rows(200, 5), np.full((200, 2), 1.5), np.zeros((200, 4))], axis=1)
    assert_graph_agrees(repsim.nearest(x, 10, metric=metric), x, 10, metric)


@metrics
@pytest.mark.parametrize("k", [1, 8, 25, 100])
def test_identical_rows_come_in_ascending_order(k: int, metric: str) -> None:
    """About ten copies of each of 60 rows, dealt over all tiles; copies of the row itself are neighbours of it."""
    rng = np.random.default_rng(8)
    group = rng.integers(0, 60, 700)
    x = rng.standard_normal((60, 13), dtype=np.float32)[group]
    graph = repsim.nearest(x, k, metric=metric)
    assert_graph_agrees(graph, x, k, metric)
    assert_duplicates_in_order(graph.indices, group)


@metrics
def test_all_rows_identical(metric: str) -> None:
    graph = repsim.nearest(np.ones((9, 4), dtype=np.float32), 3, metric=metric)
    expected = [[j for j in range(9) if j != i][:3] for i in range(9)]
    np.testing.assert_array_equal(graph.indices, expected)


def test_exact_ties_of_different_rows_go_to_the_lower_index() -> None:
    """Small integers: every product is exact in float32, most scores are tied, so the lists are the oracle's."""
    x = np.random.default_rng(2).integers(-2, 3, (600, 5)).astype(np.float32)
    for k in (1, 10, 77):
        graph = repsim.nearest(x, k, metric="inner_product")
        np.testing.assert_array_equal(graph.indices, oracles.nearest(x, k, "inner_product"))


@metrics
@pytest.mark.parametrize(("m", "k"), [(193, 10), (40, 40), (1000, 3), (1, 1)])
def test_queries_against_another_base(m: int, k: int, metric: str) -> None:
    x, base = rows(130, 8), rows(m, 8, seed=1)
    base[: min(m, 130)] = x[: min(m, 130)]  # equal rows at equal indices: nothing is left out
    graph = repsim.nearest(x, k, metric=metric, base=base)
    assert_graph_agrees(graph, x, k, metric, base)
    if metric == "euclidean" and m > 1:
        assert graph.indices[5, 0] == 5


@metrics
def test_a_base_that_is_the_same_array_leaves_nothing_out(metric: str) -> None:
    x = rows(80, 8)
    graph = repsim.nearest(x, 4, metric=metric, base=x)
    assert_graph_agrees(graph, x, 4, metric, x)
    if metric != "inner_product":
        np.testing.assert_array_equal(graph.indices[:, 0], np.arange(80))


@metrics
def test_bits_do_not_depend_on_threads_blocks_or_where_the_rows_lie(metric: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    x = rows(1201, 20, dtype=np.float32)
    x[700:900] = x[100:300]
    first = repsim.nearest(x, 12, metric=metric)
    wide = np.full((2402, 26), np.float32(9e9))
    wide[1::2, 2:22] = x
    np.save(tmp_path / "x.npy", x)
    ways: dict[str, tuple[Any, dict[str, Any]]] = {
        "1 thread": (x, {"threads": 1}),
        "2 threads": (x, {"threads": 2}),
        "3 threads, 192": (x, {"threads": 3, "block_rows": 192}),
        "384": (x, {"block_rows": 384}),
        "2 threads, 1000": (x, {"threads": 2, "block_rows": 1000}),
        "5000": (x, {"block_rows": 5000}),
        "memmap": (np.load(tmp_path / "x.npy", mmap_mode="r"), {}),
        "row-strided view": (wide[1::2, 2:22], {}),
        "torch": (torch.from_numpy(x), {}),
    }
    for way, (array, how) in ways.items():
        again = repsim.nearest(array, 12, metric=metric, **how)
        np.testing.assert_array_equal(again.indices, first.indices, err_msg=way)
        np.testing.assert_array_equal(again.scores, first.scores, err_msg=way)


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_any_shape_dtype_and_values(data: st.DataObject) -> None:
    n, d = data.draw(st.integers(2, 70)), data.draw(st.integers(1, 40))
    k, metric = data.draw(st.integers(1, n - 1)), data.draw(st.sampled_from(METRICS))
    dtype = data.draw(st.sampled_from([np.float16, np.float32, np.float64]))
    x = np.random.default_rng(data.draw(st.integers(0, 2**20))).standard_normal((n, d))
    if data.draw(st.booleans()):  # many exact ties
        x = np.round(x)
        x[:, 0] += x[:, 0] == 0  # no zero row
    x = x.astype(dtype)
    assert_graph_agrees(repsim.nearest(x, k, metric=metric), x, k, metric)


def test_a_graph_prints_on_one_line_and_is_equal_to_itself_alone() -> None:
    x = rows(60, 5)
    graph, same = repsim.nearest(x, 4), repsim.nearest(x, 4)
    assert repr(graph) == "Neighbours(n=60, k=4, metric='cosine')"
    assert repr(repsim.nearest(x[:7], 2, base=x)) == "Neighbours(n=7, k=2, metric='cosine', base_rows=60)"
    assert graph == graph
    assert graph != same
    assert len({graph, same}) == 2


# ---------------------------------------------------------------------------------------------- mutual_knn


@metrics
@pytest.mark.parametrize(("n", "d", "e", "k"), [(20, 3, 5, 1), (193, 16, 7, 10), (500, 12, 30, 40), (50, 6, 4, 49)])
def test_mutual_knn_agrees_with_the_oracle(n: int, d: int, e: int, k: int, metric: str) -> None:
    x, y = related(n, d, e)
    result = repsim.mutual_knn(x, y, k=k, metric=metric)
    exact = oracles.mutual_knn(oracles.nearest(x, k, metric), oracles.nearest(y, k, metric))
    assert float(result) == pytest.approx(exact, abs=3 / (n * k))  # a near-tie or three
    assert float(result) == result.value
    assert (result.measure, result.n) == ("mutual_knn", n)


def test_mutual_knn_is_the_overlap_of_its_own_graphs() -> None:
    x, y = related(300, 8, 12)
    gx, gy = repsim.nearest(x, 10), repsim.nearest(y, 10)
    expected = oracles.mutual_knn(gx.indices, gy.indices)
    assert float(repsim.mutual_knn(x, y)) == pytest.approx(expected, rel=1e-15)
    of_graphs, of_rows = repsim.mutual_knn(gx, gy), repsim.mutual_knn(x, y)
    assert (of_graphs.value, of_graphs.z, of_graphs.p) == (of_rows.value, of_rows.z, of_rows.p)


@metrics
def test_mutual_knn_with_itself_is_one_and_independent_is_chance(metric: str) -> None:
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((2, 400, 10))
    itself = repsim.mutual_knn(x, x, k=10, metric=metric, permutations=200)
    assert itself.value == 1.0
    assert itself.p == 1 / 201
    assert itself.z > 50
    independent = repsim.mutual_knn(x, y, k=10, metric=metric)
    sd = oracles.mutual_knn_null(oracles.nearest(x, 10, metric), oracles.nearest(y, 10, metric), 100, 0).std()
    assert independent.value == pytest.approx(10 / 399, abs=5 * sd)
    assert abs(independent.z) < 4


def test_mutual_knn_null_by_relabelling() -> None:
    x, y = related(120, 6, 6, noise=4.0)
    nx, ny = oracles.nearest(x, 8), oracles.nearest(y, 8)
    null = oracles.mutual_knn_null(nx, ny, 2000, seed=5)
    observed = oracles.mutual_knn(nx, ny)
    result = repsim.mutual_knn(x, y, k=8, permutations=1000, seed=1)
    assert result.z == pytest.approx((observed - null.mean()) / null.std(), rel=0.12, abs=0.2)
    assert result.p == pytest.approx(oracles.add_one_p(observed, null), abs=0.06)
    assert (result.p * 1001) == pytest.approx(round(result.p * 1001), abs=1e-9)
    assert result.p >= 1 / 1001


def test_mutual_knn_relabellings_are_drawn_from_the_seed() -> None:
    x, y = related(100, 6, 6, noise=16.0)
    first = repsim.mutual_knn(x, y, permutations=500, seed=4)
    again, other = (repsim.mutual_knn(x, y, permutations=500, seed=seed) for seed in (4, 5))
    assert (first.value, first.z, first.p) == (again.value, again.z, again.p)
    assert (first.value, first.z) == (other.value, other.z)  # the moments are exact
    assert first.p != other.p


@pytest.mark.parametrize("measure", ["mutual_knn", "cknna", "knn_jaccard", "cycle_knn", "edit_distance_knn"])
def test_relabellings_take_the_memory_of_one(measure: str) -> None:
    """A hundred relabellings at once would be a hundred int64 [n]; one graph and its copy are ten times k n each."""
    n = 20_000
    ring = (np.arange(n)[:, None] + np.array([1, -1])) % n
    graph = repsim.Neighbours(ring, np.ones((n, 2), np.float32), "cosine", n, True)
    peaks = []
    for permutations in (2, 100):
        tracemalloc.start()
        getattr(repsim, measure)(graph, graph, permutations=permutations)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 10 * 8 * n


@pytest.mark.parametrize("measure", ["mutual_knn", "cknna"])
def test_relabellings_by_hand(measure: str) -> None:
    """p from the relabellings of the seed, the right-hand rows renamed with their neighbours."""
    x, y = related(60, 6, 6, noise=3.0)
    result = getattr(repsim, measure)(x, y, k=5, permutations=40, seed=7)
    graphs = oracles.nearest(x, 5), oracles.nearest(y, 5)
    masks = [oracles.mask(graph) for graph in graphs]
    kernels = [oracles.similarity(z, "cosine") for z in (x, y)]

    def value(order: np.ndarray) -> float:
        back = np.ix_(np.argsort(order), np.argsort(order))
        if measure == "mutual_knn":
            return np.count_nonzero(masks[0] & masks[1][back]) / (60 * 5)
        return oracles.cknna_of(kernels[0], kernels[1][back], masks[0], masks[1][back])

    rng = np.random.default_rng([7, 60])
    drawn = np.array([value(rng.permutation(60)) for _ in range(40)])
    assert result.p == oracles.add_one_p(value(np.arange(60)), drawn)
    if measure == "cknna":
        assert result.null.mean == pytest.approx(drawn.mean(), rel=1e-5)
        assert result.null.sd == pytest.approx(drawn.std(ddof=1), rel=1e-5)


def test_symmetry_and_range() -> None:
    x, y = related(200, 8, 6)
    assert repsim.mutual_knn(x, y) == repsim.mutual_knn(y, x)
    there, back = repsim.cknna(x, y), repsim.cknna(y, x)
    assert 0 < abs(there - back) < 1e-3  # as documented: close, and not equal
    x, y = np.random.default_rng(28).standard_normal((2, 4, 2))
    few = repsim.cknna(x, y, k=2, metric="inner_product")
    assert few > 1.5
    assert few == pytest.approx(oracles.cknna(x, y, 2, "inner_product"), abs=1e-5)


def test_cknna_of_a_graph_whose_masked_hsic_is_not_positive() -> None:
    """A ring one way round: no two rows list each other, so that nothing is left of tr(AB)."""
    x = repsim.Neighbours((np.arange(9)[:, None] + 1) % 9, np.ones((9, 1), np.float32), "cosine", 9, True)
    with pytest.raises(ValueError, match=r"^\[cknna\] expected x whose masked HSIC with itself is positive, got -"):
        repsim.cknna(x, x)


def test_mutual_knn_p_is_about_uniform_under_independence() -> None:
    rng = np.random.default_rng(10)
    p = [repsim.mutual_knn(*rng.standard_normal((2, 60, 5)), k=5, seed=i).p for i in range(80)]
    assert 0.35 < np.mean(p) < 0.65
    assert np.mean(np.array(p) <= 0.1) < 0.25


@pytest.mark.parametrize(
    ("measure", "metric", "translation"),
    [
        pytest.param("mutual_knn", "cosine", False, id="mutual_knn-cosine"),
        pytest.param("mutual_knn", "inner_product", False, id="mutual_knn-inner_product"),
        pytest.param("mutual_knn", "euclidean", True, id="mutual_knn-euclidean"),
        pytest.param("cknna", "cosine", False, id="cknna-cosine"),
        pytest.param("cknna", "inner_product", False, id="cknna-inner_product"),
    ],
)
def test_declared_invariances_hold_and_the_others_fail(measure: str, metric: str, translation: bool) -> None:
    rng = np.random.default_rng(4)
    x, y = related(200, 8, 6)
    rotation = np.linalg.qr(rng.standard_normal((8, 8)))[0]
    order = rng.permutation(200)

    def value(a: np.ndarray, b: np.ndarray) -> float:
        return float(getattr(repsim, measure)(a, b, k=10, metric=metric))

    base, same = value(x, y), pytest.approx(value(x, y), abs=2e-3)
    assert value(x @ rotation, y) == same, "orthogonal"
    assert value(7 * x, y) == same, "isotropic scaling"
    assert value(x[order], y[order]) == same, "order of the rows"
    assert (abs(value(x + 2.0, y) - base) < 2e-3) == translation, "translation"
    assert abs(value(x @ (rotation * np.geomspace(1, 20, 8)), y) - base) > 5e-3, "an invertible linear map"
    assert abs(value(x[order], y) - base) > 5e-2, "the rows of one side alone"


# ---------------------------------------------------------------------------------------------- cknna


@pytest.mark.parametrize("metric", ["cosine", "inner_product"])
@pytest.mark.parametrize(("n", "d", "e", "k"), [(20, 3, 5, 3), (193, 16, 7, 10), (500, 12, 30, 40), (50, 6, 4, 49)])
def test_cknna_agrees_with_the_oracle(n: int, d: int, e: int, k: int, metric: str) -> None:
    x, y = related(n, d, e)
    result = repsim.cknna(x, y, k=k, metric=metric)
    for z in (x, y):  # the lists are clear of near-ties here, so the value has no excuse
        ours = repsim.nearest(z, k, metric=metric).indices
        np.testing.assert_array_equal(np.sort(ours, 1), np.sort(oracles.nearest(z, k, metric), 1))
        assert_neighbours_agree(ours, oracles.closeness(z, metric), rounding(z, metric))
    assert float(result) == pytest.approx(oracles.cknna(x, y, k, metric), abs=1e-5)
    assert (result.measure, result.n) == ("cknna", n)


def test_cknna_with_itself_is_one_and_with_every_neighbour_is_cka() -> None:
    x, y = related(80, 7, 5)
    assert float(repsim.cknna(x, x)) == pytest.approx(1.0, abs=4 * np.finfo(np.float64).eps)
    unit = [z / np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y)]
    assert float(repsim.cknna(x, y, k=79)) == pytest.approx(float(repsim.cka(*unit)), abs=1e-5)


def test_cknna_null_by_relabelling() -> None:
    x, y = related(120, 6, 6, noise=2.0)
    null = oracles.cknna_null(x, y, 8, 500, seed=5)
    observed = oracles.cknna(x, y, 8)
    result = repsim.cknna(x, y, k=8)
    assert result.z == pytest.approx((observed - null.mean()) / null.std(), rel=0.25, abs=0.3)
    assert result.p == pytest.approx(oracles.add_one_p(observed, null), abs=0.08)
    assert (result.p * 201) == pytest.approx(round(result.p * 201), abs=1e-9)
    related_result = repsim.cknna(*related(120, 6, 6))
    assert related_result.p == 1 / 201
    assert related_result.z > 5


def _exact(x: np.ndarray, k: int, metric: str) -> np.ndarray:
    """Neighbours from differences in float64, which lose nothing where scores are nearly equal."""
    if metric == "inner_product":
        score = x @ x.T
    else:
        rows = x / np.linalg.norm(x, axis=1, keepdims=True) if metric == "cosine" else x
        score = -((rows[:, None] - rows[None]) ** 2).sum(axis=2)
    np.fill_diagonal(score, -np.inf)
    return np.argsort(-score, axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("axis", [1.0, 100.0, 3000.0])
def test_cosines_in_a_narrow_cone(axis: float) -> None:
    x = np.random.default_rng(0).standard_normal((400, 24))
    x[:, 0] += axis * 5
    np.testing.assert_array_equal(repsim.nearest(x, 8).indices, _exact(x, 8, "cosine"))


@pytest.mark.parametrize(
    ("apart", "scanned"), [pytest.param(10.0, False, id="float32-decides"), pytest.param(1e5, True, id="float64-scan")]
)
def test_two_far_clusters(apart: float, scanned: bool) -> None:
    x = np.random.default_rng(1).standard_normal((400, 24))
    x[200:] += apart
    graph = repsim.nearest(x, 8, metric="euclidean")
    np.testing.assert_array_equal(graph.indices, _exact(x, 8, "euclidean"))
    assert (graph.scanned > 100) == scanned


@metrics
def test_one_row_a_thousand_times_longer(metric: str) -> None:
    x = np.random.default_rng(2).standard_normal((400, 24))
    x[17] *= 1e3
    graph = repsim.nearest(x, 8, metric=metric)
    np.testing.assert_array_equal(graph.indices, _exact(x, 8, metric))
    assert graph.scanned < 40


# ---------------------------------------------------------------------------------------------- filters


bfloat16 = pytest.mark.skipif(not reductions.has_bfloat16(), reason="this CPU does not multiply bfloat16")


def hard(kind: str) -> np.ndarray:
    rng = np.random.default_rng(11)
    x = rng.standard_normal((900, 24))
    if kind == "narrow-cone":
        x[:, 0] += 3000
    if kind == "two-far-clusters":
        x[450:] += 1000
    if kind == "duplicates":
        x = x[np.arange(900) // 90]
    if kind == "near-duplicates":
        x = x[np.arange(900) // 90] + 1e-6 * rng.standard_normal((900, 24))
    if kind == "huge-rows":
        x[[3, 500]] *= 1e4
    if kind == "a-common-offset":
        x += 10
    return x * {"tiny": 2.0**-100, "large": 2.0**100}.get(kind, 1.0)


HARD = (
    "plain", "narrow-cone", "two-far-clusters", "duplicates", "near-duplicates", "huge-rows", "a-common-offset", "tiny",
    "large",
)  # fmt: skip


@bfloat16
@metrics
@pytest.mark.parametrize("kind", HARD)
def test_filters_give_the_same_bits(kind: str, metric: str) -> None:
    x = hard(kind)
    graphs = [repsim.nearest(x, 9, metric=metric, filter=filter) for filter in ("float32", "bfloat16")]
    assert [graph.filter for graph in graphs] == ["float32", "bfloat16"]
    assert all(graph.certified for graph in graphs)
    np.testing.assert_array_equal(graphs[0].indices, graphs[1].indices)
    np.testing.assert_array_equal(graphs[0].scores, graphs[1].scores)
    if kind in ("tiny", "large"):  # beyond the oracle's float32; a power of two changes no neighbour
        np.testing.assert_array_equal(graphs[1].indices, oracles.nearest(hard("plain"), 9, metric))
        return
    assert_graph_agrees(graphs[1], x, 9, metric)
    if kind in ("duplicates", "near-duplicates"):
        assert graphs[1].scanned == 900  # bfloat16 cannot tell ninety rows that differ by a millionth
    if kind == "plain":
        assert graphs[1].scanned < 90


@bfloat16
@metrics
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(("m", "k"), [pytest.param(700, 12, id="margin"), pytest.param(12, 12, id="every-row-is-kept")])
def test_bfloat16_queries_against_another_base(m: int, k: int, dtype: str, metric: str) -> None:
    x, base = rows(130, 33, dtype=dtype), rows(m, 33, seed=1, dtype=dtype)
    base[: min(m, 130)] = x[: min(m, 130)]
    graph = repsim.nearest(x, k, metric=metric, base=base, filter="bfloat16")
    assert_graph_agrees(graph, x, k, metric, base)


@bfloat16
@metrics
def test_bfloat16_bits_do_not_depend_on_threads_or_blocks(metric: str) -> None:
    x = rows(1201, 20, dtype=np.float32)
    x[700:900] = x[100:300]
    first = repsim.nearest(x, 12, metric=metric, filter="bfloat16")
    for how in ({"threads": 1}, {"threads": 3, "block_rows": 192}, {"block_rows": 384}, {"block_rows": 5000}):
        again = repsim.nearest(x, 12, metric=metric, filter="bfloat16", **how)
        np.testing.assert_array_equal(again.indices, first.indices)
        np.testing.assert_array_equal(again.scores, first.scores)
        assert again.scanned == first.scanned


@bfloat16
@pytest.mark.parametrize(
    ("kind", "chosen"),
    [
        pytest.param("plain", "bfloat16", id="pilot-passes"),
        pytest.param("near-duplicates", "float32", id="pilot-fails"),
    ],
)
def test_auto_tries_the_filter_on_a_few_rows(kind: str, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repsim.reductions.neighbours.LEAST_PAIRS", 0)
    monkeypatch.setattr("repsim.reductions.neighbours.PILOT", 40)
    x = hard(kind)
    graph = repsim.nearest(x, 9, metric="euclidean")
    assert (graph.filter, graph.certified) == (chosen, True)
    assert_graph_agrees(graph, x, 9, "euclidean")


@bfloat16
def test_auto_searches_all_with_float32_where_the_pilot_was_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows that are tried out, every 47th, are far from all others, which have many near-duplicates."""
    monkeypatch.setattr("repsim.reductions.neighbours.LEAST_PAIRS", 0)
    monkeypatch.setattr("repsim.reductions.neighbours.PILOT", 20)
    x, alone = hard("near-duplicates"), np.linspace(0, 899, 20).astype(np.int64)
    x[alone] = 100 + np.random.default_rng(5).standard_normal((20, 24))
    steps: list[tuple[int, int]] = []
    graph = repsim.nearest(x, 9, metric="euclidean", progress=lambda *step: steps.append(step))
    assert graph.filter == "float32"
    assert steps[-1][0] == steps[-1][1] == 3  # both searches of one block each, and what follows
    np.testing.assert_array_equal(graph.indices, repsim.nearest(x, 9, metric="euclidean", filter="float32").indices)


def test_few_rows_are_searched_with_float32() -> None:
    graph = repsim.nearest(rows(300, 5), 3)
    assert (graph.filter, graph.scanned, graph.certified) == ("float32", 0, True)


def test_a_graph_made_by_hand_is_not_certified() -> None:
    assert not repsim.Neighbours(np.zeros((2, 1), np.int64), np.ones((2, 1), np.float32), "cosine", 2, True).certified


def test_unknown_filter() -> None:
    message = r"^\[nearest\] expected filter 'auto', 'float32' or 'bfloat16', got 'float16'$"
    with pytest.raises(ValueError, match=message):
        repsim.nearest(rows(30, 5), 3, filter="float16")


def test_bfloat16_on_a_cpu_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repsim.reductions.has_bfloat16", lambda: False)
    message = r"^\[nearest\] expected filter 'auto' or 'float32' on a CPU without AVX512-BF16, got 'bfloat16'$"
    with pytest.raises(ValueError, match=message):
        repsim.nearest(rows(30, 5), 3, filter="bfloat16")
