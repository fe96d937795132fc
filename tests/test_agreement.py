"""The rules of agreement accept what they should and refuse what they should."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import oracles
import pytest
from agreement import (
    amplification,
    assert_duplicates_in_order,
    assert_graph_agrees,
    assert_neighbours_agree,
    assert_value_agrees,
    rounding,
)

KEYS = np.array([[-np.inf, 0.9, 0.8, 0.8 - 1e-7, 0.1], [0.5, -np.inf, 0.4, 0.3, 0.2]])
SLACK = 1e-6


def test_values() -> None:
    assert_value_agrees(1.0 + 1e-7, 1.0, floor=1e-6)
    assert_value_agrees(1.0 + 3e-5, 1.0, 1.0 + 2e-5, floor=1e-6)
    with pytest.raises(AssertionError, match=r"error 1\.00e-05"):
        assert_value_agrees(1.0 + 1e-5, 1.0, floor=1e-6)
    with pytest.raises(AssertionError, match=r"allowed 4\.10e-05"):
        assert_value_agrees(1.0 + 5e-5, 1.0, 1.0 + 2e-5, floor=1e-6)
    with pytest.raises(AssertionError, match="got nan"):
        assert_value_agrees(float("nan"), 1.0, floor=1.0)
    with pytest.raises(AssertionError, match=r"got 2\.0"):
        assert_value_agrees(2.0, 1.0, float("nan"), floor=1e-6)  # a naive version that overflowed gives no licence


def test_amplification_is_one_when_biased_and_grows_when_little_is_kept() -> None:
    rng = np.random.default_rng(0)
    k = oracles.linear_gram(rng.standard_normal((50, 5)))
    assert amplification(k, k, "biased") == 1.0
    assert 1.0 <= amplification(k, k, "debiased") < 2.0
    nearly = oracles.rbf_gram(rng.standard_normal((5, 3)), sigma=10.0)
    assert amplification(nearly, nearly, "debiased") > 2.0


def test_lists_equal_to_the_oracle_and_near_ties_are_accepted() -> None:
    assert_neighbours_agree(np.array([[1, 2, 3], [0, 2, 3]]), KEYS, 0.0)
    assert_neighbours_agree(np.array([[1, 3, 2], [0, 2, 3]]), KEYS, SLACK)  # swapped inside the list
    assert_neighbours_agree(np.array([[1, 3], [0, 2]]), KEYS, SLACK)  # swapped across the end of the list
    assert_neighbours_agree(np.array([[1, 3], [0, 2]]), KEYS, np.full(KEYS.shape, SLACK))


@pytest.mark.parametrize(
    ("lists", "slack", "message"),
    [
        pytest.param([[1, 3], [0, 2]], 0.0, "row 0, rank 1", id="near-tie-without-slack"),
        pytest.param([[2, 1], [0, 2]], SLACK, "row 0, rank 0: row 2 at 0.8", id="clear-order"),
        pytest.param([[1, 4], [0, 2]], SLACK, "row 0, rank 1: row 4 at 0.1", id="clear-neighbour-missing"),
        pytest.param([[2, 3], [0, 2]], SLACK, "row 0, rank 0", id="best-neighbour-missing"),
        pytest.param([[1, 2], [1, 0]], SLACK, "row 1 lists itself", id="itself"),
        pytest.param([[1, 1], [0, 2]], SLACK, "row 0 lists an index twice", id="twice"),
        pytest.param([[1, 2], [0, 5]], SLACK, "outside 0..4: 0..5", id="beyond-the-end"),
        pytest.param([[1, 2], [0, -1]], SLACK, "outside 0..4: -1", id="negative"),
        pytest.param([[1, 2]], SLACK, "lists for 2 rows", id="a-row-missing"),
        pytest.param([[1.0, 2.0], [0.0, 2.0]], SLACK, "integer lists", id="not-integers"),
    ],
)
def test_wrong_lists_are_refused(lists: list[list[int]], slack: float, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        assert_neighbours_agree(np.array(lists), KEYS, slack)


@pytest.mark.parametrize("metric", ["cosine", "inner_product", "euclidean"])
def test_graphs(metric: str) -> None:
    x = np.random.default_rng(1).standard_normal((60, 5))
    keys = oracles.closeness(x, metric)
    indices = oracles.nearest(x, 4, metric)
    best = np.take_along_axis(keys, indices, 1)
    scores = (-np.sqrt(-best) if metric == "euclidean" else best).astype(np.float32)
    assert_graph_agrees(SimpleNamespace(indices=indices, scores=scores), x, 4, metric)
    with pytest.raises(AssertionError, match="the oracle says"):
        assert_graph_agrees(SimpleNamespace(indices=indices, scores=scores - np.float32(1e-3)), x, 4, metric)
    with pytest.raises(AssertionError, match="best first"):
        assert_graph_agrees(SimpleNamespace(indices=indices, scores=scores[:, ::-1]), x, 4, metric)
    with pytest.raises(AssertionError, match="rank 0"):
        assert_graph_agrees(SimpleNamespace(indices=indices[:, ::-1], scores=scores), x, 4, metric)
    with pytest.raises(AssertionError, match=r"expected \(60, 5\)"):
        assert_graph_agrees(SimpleNamespace(indices=indices, scores=scores), x, 5, metric)


def test_rounding_is_small_and_knows_one_huge_row_from_the_others() -> None:
    x = np.random.default_rng(2).standard_normal((80, 6))
    for metric in ("cosine", "inner_product", "euclidean"):
        assert rounding(x, metric).max() < 2e-4
    x[7] *= 1e4
    slack = np.delete(np.delete(rounding(x, "euclidean"), 7, 0), 7, 1)
    assert slack.max() < 2e-4


def test_duplicates() -> None:
    group = np.array([0, 1, 0, 1, 0])
    assert_duplicates_in_order(np.array([[2, 4], [3, 0], [0, 4], [1, 0], [0, 2]]), group)
    with pytest.raises(AssertionError, match=r"row 0 lists \[4 2\]"):
        assert_duplicates_in_order(np.array([[4, 2], [3, 0], [0, 4], [1, 0], [0, 2]]), group)
    with pytest.raises(AssertionError, match=r"row 1 lists \[2\]"):
        assert_duplicates_in_order(np.array([[2, 4], [3, 2], [0, 4], [1, 0], [0, 2]]), group)
    assert_duplicates_in_order(np.array([[0, 2]]), group, self_excluded=False)
