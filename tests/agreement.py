"""When does a result agree with the oracle? One rule for values, one for neighbour lists.

Values: error <= 2 x the error of a naive float32 version + a floor. The floor is there because a naive version can be
right by luck; it is stated in units of the quantity's own scale (1 for CKA).
Neighbours: at every rank the row named is as near as the oracle's row of that rank, up to the rounding of float32.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import oracles

FLOAT32 = float(np.finfo(np.float32).eps)
FLOAT64_FLOOR = 1e-10  # sums in feature space, all in float64
FLOAT32_FLOOR = 2e-6  # float32 Gram tiles, sums in float64


def assert_value_agrees(got: float, exact: float, naive: float | None = None, *, floor: float) -> None:
    """|got - exact| <= 2 |naive - exact| + floor; without a naive version the floor alone."""
    if not math.isfinite(got):
        raise AssertionError(f"got {got}, the oracle says {exact}")
    allowed = floor
    if naive is not None and math.isfinite(naive):
        allowed += 2.0 * abs(naive - exact)
    error = abs(got - exact)
    if error > allowed:
        raise AssertionError(f"got {got!r}, the oracle says {exact!r}: error {error:.2e}, allowed {allowed:.2e}")


def amplification(k: np.ndarray, l: np.ndarray, estimator: str) -> float:  # noqa: E741
    """How much larger the centred Gram matrices are than what the estimator keeps of them (1 when biased)."""
    if estimator == "biased":
        return 1.0

    def off_diagonal(m: np.ndarray) -> float:
        c = oracles.double_centred(m)
        return float(np.linalg.norm(c - np.diag(np.diag(c))))

    kept = math.sqrt(float(np.sum(oracles.u_centred(k) ** 2) * np.sum(oracles.u_centred(l) ** 2)))
    return max(1.0, off_diagonal(k) * off_diagonal(l) / kept)


def rounding(x: Any, metric: str, base: Any = None) -> np.ndarray:
    """What float32 may change in every entry of `oracles.closeness` [n, m]: 2 x the row's naive error + a floor."""
    exact, naive = oracles.closeness(x, metric, base), oracles.naive_closeness(x, metric, base)
    scale = oracles.closeness_scale(x, metric, base)
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = np.abs(naive - exact) / scale
    relative = np.where(np.isfinite(relative), relative, 0.0)
    return (2.0 * relative.max(axis=1, keepdims=True) + 4.0 * FLOAT32) * scale


def assert_neighbours_agree(indices: np.ndarray, keys: np.ndarray, slack: np.ndarray | float) -> None:
    """Lists `indices` [n, k] against `keys` [n, m] (larger is nearer, -inf: never), near-ties within `slack`."""
    indices = np.asarray(indices)
    n, m = keys.shape
    if indices.ndim != 2 or len(indices) != n or not np.issubdtype(indices.dtype, np.integer):
        raise AssertionError(f"expected integer lists for {n} rows, got {indices.dtype} {indices.shape}")
    k = indices.shape[1]
    if indices.size and (indices.min() < 0 or indices.max() >= m):
        raise AssertionError(f"an index is outside 0..{m - 1}: {indices.min()}..{indices.max()}")
    repeated = np.flatnonzero((np.diff(np.sort(indices, axis=1), axis=1) == 0).any(axis=1))
    if repeated.size:
        raise AssertionError(f"row {repeated[0]} lists an index twice: {indices[repeated[0]]}")
    best = np.argsort(-keys, axis=1, kind="stable")[:, :k]
    slack = np.broadcast_to(np.asarray(slack, dtype=np.float64), keys.shape)
    got, ideal = np.take_along_axis(keys, indices, 1), np.take_along_axis(keys, best, 1)
    if np.isneginf(got).any():
        row = np.flatnonzero(np.isneginf(got).any(axis=1))[0]
        raise AssertionError(f"row {row} lists itself or an excluded row: {indices[row]}")
    allowed = np.maximum(np.take_along_axis(slack, indices, 1), np.take_along_axis(slack, best, 1))
    wrong = np.argwhere(~(np.abs(got - ideal) <= allowed))
    if wrong.size:
        i, r = wrong[0]
        raise AssertionError(
            f"row {i}, rank {r}: row {indices[i, r]} at {got[i, r]:.9g}, the oracle has row {best[i, r]} at "
            f"{ideal[i, r]:.9g}; near-ties within {allowed[i, r]:.2e} ({len(wrong)} such places)"
        )


def assert_graph_agrees(graph: Any, x: Any, k: int, metric: str, base: Any = None) -> None:
    """Lists and scores of a graph from `repsim.nearest` against the oracle."""
    keys, slack = oracles.closeness(x, metric, base), rounding(x, metric, base)
    if graph.indices.shape != (len(keys), k) or graph.scores.shape != (len(keys), k):
        raise AssertionError(f"expected {(len(keys), k)}, got {graph.indices.shape} and {graph.scores.shape}")
    assert_neighbours_agree(graph.indices, keys, slack)
    scores = graph.scores.astype(np.float64)
    if np.any(np.diff(scores, axis=1) > 0):
        raise AssertionError("scores are not best first")
    if metric == "euclidean":
        if np.any(scores > 0):
            raise AssertionError("a euclidean score is a negative distance, got a positive one")
        scores = -(scores**2)
    expected = np.take_along_axis(keys, graph.indices, 1)
    error = np.abs(scores - expected)
    allowed = np.take_along_axis(slack, graph.indices, 1) + 2.0 * FLOAT32 * np.abs(expected)
    if np.any(error > allowed):
        i, r = np.argwhere(error > allowed)[0]
        raise AssertionError(f"row {i}, rank {r}: score {scores[i, r]:.9g}, the oracle says {expected[i, r]:.9g}")


def assert_duplicates_in_order(indices: np.ndarray, group: np.ndarray, *, self_excluded: bool = True) -> None:
    """Rows of one group are identical: a list holds the lowest indices of the group, in ascending order. No slack."""
    members = {int(g): np.flatnonzero(group == g) for g in np.unique(group)}
    for i, row in enumerate(indices):
        for g in np.unique(group[row]):
            listed = row[group[row] == g]
            possible = members[int(g)]
            if self_excluded:
                possible = possible[possible != i]
            if not np.array_equal(listed, possible[: len(listed)]):
                raise AssertionError(f"row {i} lists {listed} of the identical rows {possible}")
