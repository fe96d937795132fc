"""Measures on the exact graph of nearest neighbours: one graph serves all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import reductions
from ..arrays import as_rows
from ..calibration import Null, add_one_p, shared_edges_moments
from ..reductions import Progress
from .similarity import Grid, Similarity, grid_of

METRICS = ("cosine", "inner_product", "euclidean")


@dataclass(frozen=True)
class Neighbours:
    """The k nearest rows of every row, best first.

    ``indices`` [n, k] int64; ``scores`` [n, k] float32, larger is nearer: the cosine, the inner product, or minus the Euclidean
    distance. ``base_rows`` rows were searched; ``excludes_self`` says that they are the rows themselves.
    """

    indices: np.ndarray
    scores: np.ndarray
    metric: str
    base_rows: int
    excludes_self: bool

    @property
    def n(self) -> int:
        return int(self.indices.shape[0])

    @property
    def k(self) -> int:
        return int(self.indices.shape[1])


def nearest(
    x: Any,
    k: int = 10,
    *,
    metric: str = "cosine",
    base: Any = None,
    threads: int | None = None,
    block_rows: int | None = None,
    progress: Progress | None = None,
) -> Neighbours:
    """The exact k nearest rows of every row of x, in O(n k) memory.

    Example::

        graph = repsim.nearest(x, k=10)                  # x [n, d]: graph.indices [n, 10]
        graph = repsim.nearest(queries, k=5, base=x)     # among the rows of x

    Parameters
    ----------
    x: [n, d] array of float16, bfloat16, float32 or float64.
    k: neighbours per row; at most n - 1, or the number of rows of ``base``.
    metric: "cosine", "inner_product" or "euclidean".
    base: [m, d] rows to search. None searches x itself and leaves every row out of its own list by its index, so that duplicates stay.
    threads, block_rows, progress: as for :func:`repsim.cka`; the result does not depend on the first two.

    Returns
    -------
    Neighbours. Candidates are ranked by float32 scores, ties to the lower index; the k kept are scored again in float64 and sorted.

    Raises
    ------
    TypeError, ValueError: bad rows (as for :func:`repsim.cka`), k out of range, an unknown metric, a zero row under the cosine metric.
    """
    return _graph(x, k, metric, "nearest", "x", base=base, threads=threads, block_rows=block_rows, progress=progress)


def _graph(
    x: Any,
    k: int,
    metric: str,
    function: str,
    name: str,
    *,
    base: Any = None,
    threads: int | None = None,
    block_rows: int | None = None,
    progress: Progress | None = None,
) -> Neighbours:
    if metric not in METRICS:
        raise ValueError(f"[{function}] expected metric 'cosine', 'inner_product' or 'euclidean', got {metric!r}")
    rows = as_rows(x, function=function, name=name)
    others = None if base is None else as_rows(base, function=function, name="base")
    if others is not None and others.depth != rows.depth:
        raise ValueError(f"[{function}] expected base with {rows.depth} columns like {name}, got {others.depth}")
    most = len(rows) - 1 if others is None else len(others)
    if reductions.positive_count(k, "k", function=function) > most:
        raise ValueError(f"[{function}] expected k of at most {most} for {most + (others is None)} rows, got {k}")
    if block_rows is not None:
        reductions.positive_count(block_rows, "block_rows", function=function)
    indices, scores = reductions.nearest(
        rows,
        others,
        int(k),
        metric,
        function=function,
        threads=reductions.thread_count(threads, function=function),
        block_rows=block_rows,
        progress=progress,
    )
    return Neighbours(indices, scores, metric, len(rows) if others is None else len(others), others is None)


def mutual_knn(
    x: Any,
    y: Any,
    *,
    k: int = 10,
    metric: str = "cosine",
    permutations: int = 0,
    seed: int = 0,
    threads: int | None = None,
) -> Similarity:
    """Mean share of the k nearest neighbours that every input has in both representations: mean_i |N_x(i) & N_y(i)| / k.

    Example::

        repsim.mutual_knn(x, y, k=10)                    # x [n, d], y [n, d']; chance is k / (n - 1)
        repsim.mutual_knn(graph_x, graph_y)              # graphs from repsim.nearest

    Parameters
    ----------
    x, y: [n, d] and [n, d'] arrays, or graphs of one k from :func:`nearest` (then ``k`` and ``metric`` are theirs).
    permutations: relabellings for an add-one p-value; 0 takes p from the normal distribution with the exact mean and sd.
    seed: of the relabellings.

    Returns
    -------
    Similarity in [0, 1] with the exact mean and sd over all relabellings.

    Raises
    ------
    TypeError, ValueError: as for :func:`nearest`; graphs of different n or k, or that do not exclude self.

    Paper: Huh, Cheung, Wang and Isola (2024), "The Platonic representation hypothesis".
    """
    graphs = _graphs(x, y, k, metric, "mutual_knn", threads)
    return mutual_knn_grid([graphs[0]], [graphs[1]], permutations=permutations, seed=seed).at(0, 0, "mutual_knn")


def cknna(
    x: Any,
    y: Any,
    *,
    k: int = 10,
    metric: str = "cosine",
    permutations: int = 200,
    seed: int = 0,
    threads: int | None = None,
) -> Similarity:
    """CKA of the Gram matrices restricted to mutual nearest neighbours, with the debiased HSIC.

    With K, L the Gram matrices of the metric, M_x, M_y the masks of the k nearest neighbours and HSIC_1 on masked matrices,
    HSIC_1(M_x M_y K, M_x M_y L) / sqrt(HSIC_1(M_x K, M_x K) HSIC_1(M_y L, M_y L)).

    Example::

        repsim.cknna(x, y, k=10)                         # x [n, d], y [n, d']

    Parameters
    ----------
    x, y: [n, d] and [n, d'] arrays with at least 4 rows, or graphs from :func:`nearest`.
    metric: "cosine" or "inner_product".
    permutations, seed: relabellings from which chance and the add-one p-value are taken, O(n k) each.

    Returns
    -------
    Similarity; the mean and sd of chance are those of the relabellings drawn.

    Raises
    ------
    TypeError, ValueError: as for :func:`nearest`; the Euclidean metric, which has no Gram matrix here.

    Paper: Huh, Cheung, Wang and Isola (2024).
    """
    if metric not in ("cosine", "inner_product"):
        raise ValueError(f"[cknna] expected metric 'cosine' or 'inner_product', got {metric!r}")
    graphs = _graphs(x, y, k, metric, "cknna", threads)
    return cknna_grid([graphs[0]], [graphs[1]], permutations=permutations, seed=seed).at(0, 0, "cknna")


def mutual_knn_grid(
    xs: Sequence[Neighbours], ys: Sequence[Neighbours], *, permutations: int = 0, seed: int = 0
) -> Grid:
    """:func:`mutual_knn` between every graph in ``xs`` and every graph in ``ys``."""
    n, k = _one_kind(xs, ys, "mutual_knn")
    relabellings = _relabellings(n, permutations, seed, "mutual_knn")
    edges_x, edges_y = [_Edges.of(graph) for graph in xs], [_Edges.of(graph) for graph in ys]
    cells = []
    for a, first in zip(edges_x, xs, strict=True):
        row = []
        for b, second in zip(edges_y, ys, strict=True):
            exact = shared_edges_moments(first.indices, second.indices)
            null = Null(exact.mean / (n * k), exact.sd / (n * k))
            value = a.shared(b)[0].size / (n * k)
            p = None
            if permutations:
                p = add_one_p(value, np.array([a.shared(b.relabelled(order))[0].size / (n * k) for order in relabellings]))
            row.append((value, null, p))
        cells.append(row)
    return grid_of(cells, n, {"k": k, "metric": xs[0].metric}, "float32")


def cknna_grid(xs: Sequence[Neighbours], ys: Sequence[Neighbours], *, permutations: int = 200, seed: int = 0) -> Grid:
    """:func:`cknna` between every graph in ``xs`` and every graph in ``ys``."""
    n, k = _one_kind(xs, ys, "cknna")
    if n < 4:
        raise ValueError(f"[cknna] expected x with at least 4 rows, got {n}")
    if permutations < 2:
        raise ValueError(f"[cknna] expected permutations of at least 2, got {permutations!r}")
    relabellings = _relabellings(n, permutations, seed, "cknna")
    edges_x, edges_y = [_Edges.of(graph) for graph in xs], [_Edges.of(graph) for graph in ys]
    own_x, own_y = [_masked_hsic(a, a) for a in edges_x], [_masked_hsic(b, b) for b in edges_y]
    if not min(own_x + own_y) > 0:
        raise ValueError("[cknna] expected masked Gram matrices whose HSIC with themselves is positive, got one that is not")
    cells = []
    for a, own_a in zip(edges_x, own_x, strict=True):
        row = []
        for b, own_b in zip(edges_y, own_y, strict=True):
            norm = math.sqrt(own_a * own_b)
            value = _masked_hsic(a, b) / norm
            null = np.array([_masked_hsic(a, b.relabelled(order)) for order in relabellings]) / norm
            row.append((value, Null(float(null.mean()), float(null.std(ddof=1))), add_one_p(value, null)))
        cells.append(row)
    return grid_of(cells, n, {"k": k, "metric": xs[0].metric}, "float32")


@dataclass(frozen=True)
class _Edges:
    """A directed graph as sorted codes source * n + target, with a weight each."""

    n: int
    codes: np.ndarray  # [n k] int64, ascending
    weights: np.ndarray  # [n k] float64

    @classmethod
    def of(cls, graph: Neighbours) -> _Edges:
        codes = (np.arange(graph.n)[:, None] * graph.n + graph.indices).ravel()
        return cls.sorted(graph.n, codes, graph.scores.astype(np.float64).ravel())

    @classmethod
    def sorted(cls, n: int, codes: np.ndarray, weights: np.ndarray) -> _Edges:
        order = np.argsort(codes, kind="stable")
        return cls(n, codes[order], weights[order])

    def relabelled(self, order: np.ndarray) -> _Edges:
        """Input i becomes input order[i]; not sorted: only the other side of a comparison has to be."""
        return _Edges(self.n, order[self.codes // self.n] * self.n + order[self.codes % self.n], self.weights)

    def find(self, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of ``codes`` are edges here, and where."""
        at = np.searchsorted(self.codes, codes)
        at[at == len(self.codes)] = 0
        return self.codes[at] == codes, at

    def shared(self, other: _Edges) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Edges in both: their codes, the weights here, the weights there."""
        found, at = self.find(other.codes)
        return other.codes[found], self.weights[at[found]], other.weights[found]


def _masked_hsic(a: _Edges, b: _Edges) -> float:
    """HSIC_1 of the two weight matrices on their shared edges; the matrices are not symmetric: tr(AB) = sum A_ij B_ji."""
    n = a.n
    codes, left, right = a.shared(b)
    sources, targets = codes // n, codes % n
    whole = _Edges.sorted(n, codes, right)
    mutual, at = whole.find(targets * n + sources) if len(codes) else (np.zeros(0, bool), np.zeros(0, np.int64))
    trace = float(left[mutual] @ whole.weights[at[mutual]])
    into = np.bincount(targets, weights=left, minlength=n)
    out = np.bincount(sources, weights=right, minlength=n)
    total = float(left.sum()) * float(right.sum())
    return (trace + total / ((n - 1) * (n - 2)) - 2 / (n - 2) * float(into @ out)) / (n * (n - 3))


def _graphs(x: Any, y: Any, k: int, metric: str, function: str, threads: int | None) -> tuple[Neighbours, Neighbours]:
    if isinstance(x, Neighbours) and isinstance(y, Neighbours):
        return x, y
    if isinstance(x, Neighbours) or isinstance(y, Neighbours):
        raise TypeError(f"[{function}] expected x and y both as arrays or both as graphs of repsim.nearest, got one of each")
    rows = [as_rows(each, function=function, name=name) for each, name in ((x, "x"), (y, "y"))]
    if len(rows[0]) != len(rows[1]):
        raise ValueError(f"[{function}] expected y with {len(rows[0])} rows like x, got {len(rows[1])}")
    first, second = (_graph(each, k, metric, function, each.name, threads=threads) for each in rows)
    return first, second


def _one_kind(xs: Sequence[Neighbours], ys: Sequence[Neighbours], function: str) -> tuple[int, int]:
    n, k = xs[0].n, xs[0].k
    for name, graph in [("x", one) for one in xs] + [("y", one) for one in ys]:
        if not graph.excludes_self:
            raise ValueError(f"[{function}] expected {name} as a graph over its own rows, got one searched in another base")
        if graph.n != n:
            raise ValueError(f"[{function}] expected {name} with {n} rows like x, got {graph.n}")
        if graph.k != k:
            raise ValueError(f"[{function}] expected {name} with k {k} like x, got {graph.k}")
        if graph.metric not in ("cosine", "inner_product") and function == "cknna":
            raise ValueError(f"[cknna] expected graphs of metric 'cosine' or 'inner_product', got {graph.metric!r}")
    return n, k


def _relabellings(n: int, permutations: int, seed: int, function: str) -> list[np.ndarray]:
    if isinstance(permutations, bool) or not isinstance(permutations, int) or permutations < 0:
        raise ValueError(f"[{function}] expected permutations as a whole number, got {permutations!r}")
    rng = np.random.default_rng([seed, n])
    return [rng.permutation(n) for _ in range(permutations)]
