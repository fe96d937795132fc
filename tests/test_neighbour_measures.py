"""The measures on neighbour lists against loops over Python lists."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from typing import Any

import list_oracles
import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from list_oracles import as_lists
from random_graphs import graph_of, near, random_graph, random_lists, related

import repsim
from repsim import calibration
from repsim.measures import list_means, neighbour_ranks, neighbour_sets

MEANS = {
    "mutual_knn": neighbour_sets.MUTUAL_KNN,
    "knn_jaccard": neighbour_sets.KNN_JACCARD,
    "cycle_knn": neighbour_sets.CYCLE_KNN,
    "lcs_knn": neighbour_ranks.LCS_KNN[True],
    "edit_distance_knn": neighbour_ranks.EDIT_DISTANCE_KNN,
    "rank_similarity": neighbour_ranks.RANK_SIMILARITY,
    "joint_rank_jaccard": neighbour_ranks.JOINT_RANK_JACCARD,
}
SAMPLED = tuple(name for name in MEANS if name != "mutual_knn")  # chance from relabellings drawn
EXACT_CHANCE = ("mutual_knn", "knn_jaccard", "cycle_knn", "rank_similarity", "joint_rank_jaccard")
SYMMETRIC = tuple(name for name in MEANS if name != "cycle_knn")
DISTANCES = ("mutual_knn", "knn_jaccard", "lcs_knn", "edit_distance_knn")  # 1 - value is a metric

means = pytest.mark.parametrize("measure", MEANS)
sampled = pytest.mark.parametrize("measure", SAMPLED)


def value(measure: str, *sides: Any, **options: Any) -> float:
    return float(getattr(repsim, measure)(*sides, **options))


# ---------------------------------------------------------------------------------------------- values


@means
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(data=st.data())
def test_agrees_with_the_oracle_on_any_lists(measure: str, data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 30))
    k = data.draw(st.integers(1, n - 1))
    x = random_lists(n, k, data.draw(st.integers(0, 2**20)))
    y = near(x, 1) if data.draw(st.booleans()) else random_lists(n, k, data.draw(st.integers(0, 2**20)))
    found = list_means.per_input_terms(MEANS[measure], graph_of(x), graph_of(y))
    np.testing.assert_allclose(found, list_oracles.terms(measure, as_lists(x), as_lists(y)), rtol=1e-14, atol=1e-15)
    expected = list_oracles.value(measure, as_lists(x), as_lists(y))
    assert value(measure, graph_of(x), graph_of(y), permutations=2) == pytest.approx(expected, rel=1e-14, abs=1e-15)


@means
@pytest.mark.parametrize("metric", ["cosine", "inner_product", "euclidean"])
def test_of_rows(measure: str, metric: str) -> None:
    x, y = related(193, 9, 7)
    lists = [as_lists(oracles.nearest(z, 6, metric)) for z in (x, y)]
    found = getattr(repsim, measure)(x, y, k=6, metric=metric, permutations=2)
    assert found == pytest.approx(list_oracles.value(measure, *lists), rel=1e-13)
    assert (found.measure, found.n, found.options["k"], found.options["metric"]) == (measure, 193, 6, metric)


@means
def test_of_duplicates_and_ties(measure: str) -> None:
    """Small whole numbers: most scores are tied and rows are repeated; ties go to the lower index on both sides."""
    x, y = (np.random.default_rng(seed).integers(-2, 3, (150, 3)).astype(np.float32) for seed in (0, 1))
    lists = [as_lists(oracles.nearest(z, 12, "inner_product")) for z in (x, y)]
    found = value(measure, x, y, k=12, metric="inner_product", permutations=2)
    assert found == pytest.approx(list_oracles.value(measure, *lists), rel=1e-13)


@means
def test_a_thousand_neighbours(measure: str) -> None:
    x, y = related(1500, 12, 9)
    gx, gy = (repsim.nearest(z, 1000) for z in (x, y))
    found = list_means.per_input_terms(MEANS[measure], gx, gy)
    assert value(measure, gx, gy, permutations=2) == pytest.approx(found.mean(), rel=1e-13)
    lists = as_lists(gx.indices), as_lists(gy.indices)
    if measure == "cycle_knn":
        np.testing.assert_array_equal(found, list_oracles.cycles(*lists))
        return
    for i in (0, 777, 1499):
        assert found[i] == pytest.approx(list_oracles.TERM[measure](lists[0][i], lists[1][i]), rel=1e-12)


def test_lcs_raw_and_over_k() -> None:
    x, y = related(120, 6, 5)
    share, raw = (repsim.lcs_knn(x, y, k=8, normalized=each, permutations=50) for each in (True, False))
    assert raw.value == pytest.approx(8 * share.value, rel=1e-15)
    assert raw.null.mean == pytest.approx(8 * share.null.mean, rel=1e-14)
    assert (raw.p, raw.options["normalized"], share.options["normalized"]) == (share.p, False, True)


def test_overlap_counts() -> None:
    x, y = related(150, 6, 5)
    gx, gy = repsim.nearest(x, 7), repsim.nearest(y, 7)
    counts = repsim.overlap_counts(gx, gy)
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(
        counts, [list_oracles.shared(*pair) for pair in zip(as_lists(gx.indices), as_lists(gy.indices), strict=True)]
    )
    np.testing.assert_array_equal(counts, repsim.overlap_counts(gy, gx))
    assert counts.mean() / 7 == pytest.approx(repsim.mutual_knn(gx, gy).value, rel=1e-15)


# ---------------------------------------------------------------------------------------------- declared properties


@means
def test_of_a_graph_with_itself(measure: str) -> None:
    x, _ = related(150, 6, 5)
    graph = repsim.nearest(x, 7)
    found = getattr(repsim, measure)(graph, graph, permutations=200)
    if measure == "cycle_knn":  # as declared: the share of inputs with a mutual neighbour
        lists = as_lists(graph.indices)
        assert found.value == sum(any(i in lists[j] for j in lists[i]) for i in range(150)) / 150 < 1
    else:
        assert found.value == 1.0
    assert found.p == 1 / 201


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(n=st.integers(2, 40), seed=st.integers(0, 2**20))
def test_range_and_symmetry(n: int, seed: int) -> None:
    k = 1 + seed % (n - 1)
    a, b = random_graph(n, k, seed), random_graph(n, k, seed + 1)
    for measure in MEANS:
        there, back = value(measure, a, b, permutations=2), value(measure, b, a, permutations=2)
        assert 0 <= there <= 1
        if measure in ("rank_similarity", "joint_rank_jaccard"):
            assert there == pytest.approx(back, rel=1e-14)
        elif measure in SYMMETRIC:
            assert there == back


def test_cycles_of_rings() -> None:
    """Out by a ring backwards and home by the same ring forwards; by one ring twice nobody comes home."""
    ring, back = ((np.arange(9)[:, None] + step) % 9 for step in (1, -1))
    assert value("cycle_knn", graph_of(ring), graph_of(back), permutations=2) == 1
    assert value("cycle_knn", graph_of(ring), graph_of(ring), permutations=2) == 0


def test_cycles_are_asymmetric_but_of_one_neighbour() -> None:
    """Nobody lists input 3 in x, so that it does not come home by x; y lists everybody."""
    x = graph_of(np.array([[1, 2], [0, 2], [0, 1], [2, 0]]))
    y = graph_of(np.array([[1, 2], [0, 3], [3, 1], [0, 2]]))
    assert value("cycle_knn", x, y, permutations=2) == 3 / 4
    assert value("cycle_knn", y, x, permutations=2) == 1
    for seed in range(20):  # with k = 1, i comes home by y and x exactly where its neighbour in y does by x and y
        x, y = (random_graph(9, 1, 2 * seed + side) for side in (0, 1))
        assert value("cycle_knn", x, y, permutations=2) == value("cycle_knn", y, x, permutations=2)


@pytest.mark.parametrize("measure", DISTANCES)
@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(n=st.integers(3, 12), seed=st.integers(0, 2**20))
def test_one_less_the_value_is_a_metric(measure: str, n: int, seed: int) -> None:
    k = 1 + seed % (n - 1)
    a = random_lists(n, k, seed)
    graphs = [graph_of(each) for each in (a, near(a, seed), near(near(a, seed), seed + 1))]
    ab, bc, ac = (
        1 - value(measure, graphs[i], graphs[j], permutations=2) for i, j in ((0, 1), (1, 2), (0, 2))
    )  # fmt: skip
    assert ac <= ab + bc + 1e-12
    assert ab == pytest.approx(0, abs=1e-15) or not np.array_equal(graphs[0].indices, graphs[1].indices)


def test_rank_similarity_alone_is_one_for_other_lists_too() -> None:
    x, y = graph_of(np.tile([[0, 1, 2]], (9, 1)) + 3), graph_of(np.tile([[0, 4, 5]], (9, 1)) + 3)
    lists = [graph.indices.copy() for graph in (x, y)]
    for each in lists:
        each[3:] = (np.arange(3, 9)[:, None] + [1, 2, 3]) % 9
    x, y = (graph_of(each) for each in lists)
    assert value("rank_similarity", x, y, permutations=2) == 1.0
    assert value("joint_rank_jaccard", x, y, permutations=2) < 1.0


@pytest.mark.parametrize("measure", [*MEANS, "second_order_cosine"])
def test_declared_invariances_hold_and_the_others_fail(measure: str) -> None:
    rng = np.random.default_rng(4)
    x, y = related(200, 8, 6, noise=0.2)
    rotation = np.linalg.qr(rng.standard_normal((8, 8)))[0]
    order = rng.permutation(200)
    base = value(measure, x, y, permutations=2)
    same = pytest.approx(base, abs=2e-3)
    assert value(measure, x @ rotation, y, permutations=2) == same, "orthogonal"
    assert value(measure, 7 * x, y, permutations=2) == same, "isotropic scaling"
    assert value(measure, x[order], y[order], permutations=2) == base, "order of the rows"
    assert abs(value(measure, x + 2.0, y, permutations=2) - base) > 2e-3, "translation"
    assert abs(value(measure, x @ (rotation * np.geomspace(1, 20, 8)), y, permutations=2) - base) > 5e-3, "linear"
    assert abs(value(measure, x[order], y, permutations=2) - base) > 5e-2, "the rows of one side alone"


# ---------------------------------------------------------------------------------------------- chance


@sampled
def test_relabellings_by_hand(measure: str) -> None:
    """p, mean and sd from the relabellings of the seed: input r of y becomes names[r]."""
    x, y = random_lists(40, 5, 1), near(random_lists(40, 5, 1), 2)
    found = getattr(repsim, measure)(graph_of(x), graph_of(y), permutations=40, seed=7)
    rng = np.random.default_rng([7, 40])
    drawn = np.array(
        [
            list_oracles.value(measure, as_lists(x), list_oracles.renamed(as_lists(y), rng.permutation(40)))
            for _ in range(40)
        ]
    )
    assert found.null.mean == pytest.approx(drawn.mean(), rel=1e-12)
    assert found.null.sd == pytest.approx(drawn.std(ddof=1), rel=1e-12)
    assert found.p == oracles.add_one_p(list_oracles.value(measure, as_lists(x), as_lists(y)) - 1e-12, drawn)
    assert (found.null_from, found.p_from) == ("40 relabellings", "permutations")


@pytest.mark.parametrize("measure", [name for name in EXACT_CHANCE if name in SAMPLED])
def test_the_mean_of_the_relabellings_drawn_is_near_the_exact_one(measure: str) -> None:
    x, y = related(100, 6, 5)
    found = getattr(repsim, measure)(x, y, k=6, permutations=2000)
    expected = list_oracles.chance(measure, as_lists(oracles.nearest(x, 6)), 6)
    assert found.null.mean == pytest.approx(expected, abs=5 * found.null.sd / np.sqrt(2000))
    assert found.z > 5


@pytest.mark.parametrize("measure", [*MEANS, "cknna", "second_order_cosine"])
def test_independent_representations_are_at_chance(measure: str) -> None:
    x, y = np.random.default_rng(12).standard_normal((2, 150, 8))
    found = getattr(repsim, measure)(x, y, permutations=200)
    assert abs(found.z) < 4
    assert found.p > 0.01


@pytest.mark.parametrize("measure", [*MEANS, "cknna", "second_order_cosine"])
def test_bits_do_not_depend_on_threads(measure: str) -> None:
    """Three chunks of inputs, and relabellings several at a time and one by one."""
    for n in (300, 2500):
        x, y = related(n, 6, 5)
        first, *others = (
            getattr(repsim, measure)(x, y, k=4, permutations=5, seed=1, threads=threads).to_dict()
            for threads in (1, 2, 3)
        )
        assert all(other == first for other in others)


@pytest.mark.parametrize("measure", [*SAMPLED, "second_order_cosine"])
def test_relabellings_do_not_depend_on_how_many_are_drawn_at_a_time(
    measure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = related(60, 6, 5, noise=2.0)
    first = getattr(repsim, measure)(x, y, permutations=30).to_dict()
    for names in (1, 60 * 7):
        monkeypatch.setattr(list_means, "_NAMES", names)
        assert getattr(repsim, measure)(x, y, permutations=30).to_dict() == first


def test_a_relabelling_that_changes_nothing_ties_with_the_value() -> None:
    """Complete graphs are alike under any names: every relabelling reaches the value, whatever the rounding."""
    x = random_graph(6, 5, 0)
    for measure in ("knn_jaccard", "cycle_knn"):
        assert getattr(repsim, measure)(x, x, permutations=20).p == 1.0


# ---------------------------------------------------------------------------------------------- intervals


@means
def test_standard_error_is_that_of_leaving_one_input_out(measure: str) -> None:
    x, y = related(60, 6, 5)
    terms = list_means.per_input_terms(MEANS[measure], repsim.nearest(x, 5), repsim.nearest(y, 5))
    left_out = np.array([np.delete(terms, i).mean() for i in range(60)])
    expected = np.sqrt(59 / 60 * ((left_out - left_out.mean()) ** 2).sum())
    assert calibration.mean_error(terms) == pytest.approx(expected, rel=1e-10)
    assert terms.mean() == pytest.approx(value(measure, x, y, k=5, permutations=2), rel=1e-13)


def test_standard_error_of_one_term() -> None:
    assert np.isnan(calibration.mean_error(np.ones(1)))


# ---------------------------------------------------------------------------------------------- bad graphs


def hand_made(change: Callable[[np.ndarray], Any]) -> repsim.Neighbours:
    lists = random_lists(20, 4, 0)
    changed = change(lists)
    return repsim.Neighbours(lists if changed is None else changed, np.ones((20, 4), np.float32), "cosine", 20, True)


def put(row: int, entry: int, what: int) -> Callable[[np.ndarray], None]:
    def change(lists: np.ndarray) -> None:
        lists[row, entry] = what

    return change


@pytest.mark.parametrize("measure", [*MEANS, "cknna", "overlap_counts"])
@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        pytest.param(
            put(7, 2, 20), ValueError, r"different ones of the 20 rows but its own, got row 7 with", id="high"
        ),
        pytest.param(put(7, 2, -1), ValueError, r"got row 7 with", id="negative"),
        pytest.param(put(7, 2, 7), ValueError, r"got row 7 with", id="itself"),
        pytest.param(lambda x: put(9, 2, int(x[9, 0]))(x), ValueError, r"got row 9 with", id="twice"),
        pytest.param(lambda x: x.astype(np.int32), TypeError, "indices of dtype int64, got int32", id="int32"),
        pytest.param(lambda x: x.tolist(), TypeError, "indices of dtype int64, got list", id="list"),
        pytest.param(lambda x: x.T.copy().T, ValueError, r"contiguous indices \[n, k\]", id="strides"),
        pytest.param(lambda x: x[:, :2].copy(), ValueError, r"contiguous scores \[n, k\], got shape", id="scores"),
    ],
)
def test_a_graph_that_is_none(measure: str, change: Callable[[np.ndarray], Any], kind: Any, message: str) -> None:
    good = random_graph(20, 4, 1)
    for sides, name in (((hand_made(change), good), "x"), ((good, hand_made(change)), "y")):
        with pytest.raises(kind, match=rf"^\[{measure}\] expected {name} with?[^\n]*{message}|"
                           rf"^\[{measure}\] expected {name} whose[^\n]*{message}"):  # fmt: skip
            getattr(repsim, measure)(*sides)


@pytest.mark.parametrize("measure", MEANS)
def test_graphs_that_do_not_belong_together(measure: str) -> None:
    x = related(40, 6, 5)[0]
    graph = repsim.nearest(x, 5)
    function = getattr(repsim, measure)
    for other, message in (
        (repsim.nearest(x[:39], 5), "expected y as a graph of n 40 like x, got 39"),
        (repsim.nearest(x, 6), "expected y as a graph of k 5 like x, got 6"),
        (repsim.nearest(x, 5, metric="euclidean"), "expected y as a graph of metric 'cosine' like x, got 'euclidean'"),
        (repsim.nearest(x, 5, base=x), "expected y as a graph over its own rows, got one searched in another base"),
    ):
        with pytest.raises(ValueError, match=rf"^\[{measure}\] {re.escape(message)}$"):
            function(graph, other)
    with pytest.raises(TypeError, match=rf"^\[{measure}\] expected x and y both as arrays or both as graphs"):
        function(graph, x)


def test_overlap_counts_of_arrays() -> None:
    x = related(40, 6, 5)[0]
    with pytest.raises(TypeError, match=r"^\[overlap_counts\] expected y as a graph of repsim.nearest, got ndarray$"):
        repsim.overlap_counts(repsim.nearest(x), x)


@pytest.mark.parametrize("bad", [1, "yes", None])
def test_normalized_that_is_no_bool(bad: Any) -> None:
    with pytest.raises(TypeError, match=rf"^\[lcs_knn\] expected normalized as a bool, got {bad!r}$"):
        repsim.lcs_knn(*related(40, 6, 5), normalized=bad)


def test_results_travel_between_processes() -> None:
    found = repsim.lcs_knn(*related(40, 6, 5), permutations=5)
    assert pickle.loads(pickle.dumps(found)).to_dict() == found.to_dict()


def test_the_null_of_drawn_relabellings_has_their_mean_sd_and_skewness() -> None:
    draws = np.random.default_rng(0).gamma(2, size=50)
    found = list_means.sampled_grid(np.array([[9.0]]), draws[:, None, None], 10, {}).at(0, 0, "knn_jaccard")
    assert found.null == calibration.sampled_null(draws)
    assert found.null.skewness > 0.5
    assert found.p == 1 / 51
