"""The native operations on neighbour lists: their order, their chance, their memory, their edges."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import list_oracles
import numpy as np
import pytest
from list_oracles import as_lists
from random_graphs import graph_of, near, random_graph, random_lists

import repsim
from repsim import _core, reductions
from repsim.measures import list_means, neighbour_ranks, neighbour_sets

ORDER = {"lcs_knn": neighbour_ranks.LCS_KNN[True], "edit_distance_knn": neighbour_ranks.EDIT_DISTANCE_KNN}
EXACT_CHANCE = {
    "mutual_knn": neighbour_sets.MUTUAL_KNN,
    "knn_jaccard": neighbour_sets.KNN_JACCARD,
    "cycle_knn": neighbour_sets.CYCLE_KNN,
    "rank_similarity": neighbour_ranks.RANK_SIMILARITY,
    "joint_rank_jaccard": neighbour_ranks.JOINT_RANK_JACCARD,
}


def value(measure: str, *sides: Any, **options: Any) -> float:
    return float(getattr(repsim, measure)(*sides, **options))


@pytest.mark.parametrize(
    ("n", "k", "how"),
    [
        pytest.param(40, 30, "random", id="one-word-chains"),
        pytest.param(90, 63, "near", id="63-words"),
        pytest.param(90, 64, "near", id="64-words"),
        pytest.param(90, 65, "near", id="65-words"),
        pytest.param(200, 128, "near", id="two-whole-words"),
        pytest.param(200, 130, "random", id="three-words"),
        pytest.param(400, 320, "near", id="five-words"),
        pytest.param(700, 300, "random", id="many-words-few-shared-chains"),
    ],
)
def test_order_of_long_lists(n: int, k: int, how: str) -> None:
    """Both ways to the edit distance: by chains of the shared inputs where these are few, else by words."""
    x = random_lists(n, k, 3)
    y = near(x, 4) if how == "near" else random_lists(n, k, 5)
    picked = np.linspace(0, n - 1, 12).astype(int)
    for measure in ORDER:
        found = list_means.per_input_terms(ORDER[measure], graph_of(x), graph_of(y))
        expected = [list_oracles.TERM[measure](x[i].tolist(), y[i].tolist()) for i in picked]
        np.testing.assert_allclose(found[picked], expected, rtol=1e-13)


def test_reversed_and_shifted_lists() -> None:
    """A reversal leaves a common subsequence of one; a shift by one costs an insertion and a deletion."""
    n, k = 200, 150
    x = random_lists(n, k, 0)
    backwards, shifted = np.ascontiguousarray(x[:, ::-1]), np.roll(x, 1, axis=1)
    assert value("lcs_knn", graph_of(x), graph_of(backwards), permutations=2, normalized=False) == 1
    assert value("lcs_knn", graph_of(x), graph_of(shifted), permutations=2) == (k - 1) / k
    assert value("edit_distance_knn", graph_of(x), graph_of(shifted), permutations=2) == pytest.approx(1 - 2 / k)
    assert value("edit_distance_knn", graph_of(x), graph_of(backwards), permutations=2) == pytest.approx(0.0)


@pytest.mark.parametrize("measure", EXACT_CHANCE)
@pytest.mark.parametrize(("n", "k"), [(5, 1), (5, 3), (6, 2)])
def test_the_mean_over_all_relabellings_is_the_exact_one(measure: str, n: int, k: int) -> None:
    x, y = random_graph(n, k, 8), random_graph(n, k, 9)
    every = np.array(list(itertools.permutations(range(n))))
    how = EXACT_CHANCE[measure]
    sums = reductions.list_sums(how.lists(x), y.indices, how.statistic, every, threads=2)
    expected = list_oracles.chance(measure, as_lists(x.indices), k)
    assert how.value(sums, n, k).mean() == pytest.approx(expected, rel=1e-12)


PEAK = """
import resource, sys
import numpy as np, repsim
n, k = 200_000, 20
steps = np.r_[1:k // 2 + 1, -k // 2:0]
graph = repsim.Neighbours((np.arange(n)[:, None] + steps) % n, np.ones((n, k), np.float32), "cosine", n, True)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for measure in sys.argv[1].split(","):
    getattr(repsim, measure)(graph, graph, permutations=3)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / (n * k))
"""


@pytest.mark.parametrize(
    ("measures", "bytes_an_edge"),
    [
        pytest.param("knn_jaccard,lcs_knn,edit_distance_knn", 4, id="names-only"),
        pytest.param("cycle_knn", 16, id="who-lists-whom"),
        pytest.param("cknna", 64, id="ascending-lists-twice"),
    ],
)
def test_memory_of_an_edge(measures: str, bytes_an_edge: int) -> None:
    """A relabelling holds its names (8 bytes an input) and what the measure needs; no list is copied for it."""
    package = str(Path(repsim.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", PEAK, measures],
        env={**os.environ, "PYTHONPATH": package, "REPSIM_NUM_THREADS": "2"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < bytes_an_edge


# ---------------------------------------------------------------------------------------------- the operations


def test_the_core_refuses_what_would_leave_its_memory() -> None:
    lists, sums = random_lists(20, 4, 0), np.empty(1)
    flat, outside = lists.reshape(-1), lists + 17
    names = np.arange(20)[None]
    for call in (
        lambda: _core.list_statistics(outside.reshape(-1), None, lists, "shared", None, sums, None, 1),
        lambda: _core.list_statistics(flat, None, outside, "shared", None, sums, None, 1),
        lambda: _core.list_statistics(flat[:-1], None, lists, "shared", None, sums, None, 1),
        lambda: _core.list_statistics(flat, np.zeros(21, np.int64), lists, "shared", None, sums, None, 1),
        lambda: _core.list_statistics(flat, None, lists, "shared", names + 1, sums, None, 1),
        lambda: _core.list_statistics(flat, None, lists, "shared", names[:, 1:].copy(), sums, None, 1),
        lambda: _core.list_statistics(flat, None, lists, "shared", None, np.empty(2), None, 1),
        lambda: _core.list_statistics(flat, None, lists, "shared", None, sums, np.empty(19), 1),
        lambda: _core.list_statistics(flat, None, lists, "none", None, sums, None, 1),
        lambda: _core.list_statistics(flat, None, 0 * lists, "shared", None, sums, None, 1),
        lambda: _core.transpose_lists(outside, np.empty(21, np.int64), np.empty(80, np.int64)),
        lambda: _core.transpose_lists(lists, np.empty(20, np.int64), np.empty(80, np.int64)),
        lambda: _core.masked_hsic(
            lists, np.ones((20, 3), np.float32), lists, np.ones((20, 4), np.float32), None, sums, 1
        ),
        lambda: _core.edge_cosines(np.ones((19, 2)), "float64", np.ones(19), lists, np.empty((20, 4)), 1),
    ):
        with pytest.raises(ValueError, match=r"^\w+: expected "):
            call()


def test_who_lists_whom() -> None:
    lists = random_lists(50, 7, 2)
    listed_by = reductions.Lists.listed_by(lists)
    assert listed_by.offsets is not None
    for j in range(50):
        found = listed_by.targets[listed_by.offsets[j] : listed_by.offsets[j + 1]]
        np.testing.assert_array_equal(found, [i for i in range(50) if j in lists[i]])
