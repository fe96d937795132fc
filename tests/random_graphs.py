"""Neighbour lists without rows: random ones, and others near them."""

from __future__ import annotations

import numpy as np

import repsim


def random_lists(n: int, k: int, seed: int) -> np.ndarray:
    """k different others of every input, in any order."""
    scores = np.random.default_rng([seed, n, k]).random((n, n))
    np.fill_diagonal(scores, 2.0)
    return np.argsort(scores, axis=1)[:, :k].astype(np.int64)


def graph_of(lists: np.ndarray, metric: str = "cosine") -> repsim.Neighbours:
    scores = np.broadcast_to(np.linspace(0.9, 0.1, lists.shape[1], dtype=np.float32), lists.shape)
    return repsim.Neighbours(lists, np.ascontiguousarray(scores), metric, len(lists), True)


def random_graph(n: int, k: int, seed: int) -> repsim.Neighbours:
    return graph_of(random_lists(n, k, seed))


def near(lists: np.ndarray, seed: int) -> np.ndarray:
    """The lists with some entries exchanged, moved and replaced."""
    rng = np.random.default_rng(seed)
    n, k = lists.shape
    out = lists.copy()
    for i, row in enumerate(out):
        for _ in range(1 + k // 4):
            a, b = rng.integers(k, size=2)
            row[a], row[b] = row[b], row[a]
        others = np.setdiff1d(np.arange(n), [*row, i])
        if len(others):
            row[rng.integers(k)] = rng.choice(others)
    return out


def related(n: int, d: int, e: int, noise: float = 0.5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([seed, n, d, e])
    common = rng.standard_normal((n, 4))
    x = common @ rng.standard_normal((4, d)) + noise * rng.standard_normal((n, d))
    return x, common @ rng.standard_normal((4, e)) + noise * rng.standard_normal((n, e))
