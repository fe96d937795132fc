"""Measures on the exact graph of nearest neighbours: one graph serves all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import reductions
from ..arguments import Progress, thread_count, whole_number
from ..arrays import as_rows, same_inputs
from ..calibration import Null, add_one_p, edge_patterns, shared_edges_moments
from .similarity import Grid, Similarity, grid_of

METRICS = ("cosine", "inner_product", "euclidean")
FILTERS = ("auto", "float32", "bfloat16")
GRAM_METRICS = ("cosine", "inner_product")  # those whose scores are the entries of a Gram matrix


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The k nearest rows of every row, best first.

    ``indices`` [n, k] int64; ``scores`` [n, k] float32, larger is nearer: the cosine, the inner product, or minus the
    Euclidean distance. ``base_rows`` rows were searched; ``excludes_self`` says that they are the rows themselves.
    ``filter`` says what proposed the candidates, "float32" or "bfloat16"; the lists are the same. ``scanned`` rows had
    neighbours too close together for it: they were searched a second time, by float64 scores of all that float32 could
    not rule out. ``certified`` graphs are proven exact in every row: each score of a filter is known to lie within a
    bound of the exact one (the measured rounding of the two packed rows, and that of the sums), and no row that was
    turned away can, within its bound, be among the k best.
    """

    indices: np.ndarray
    scores: np.ndarray
    metric: str
    base_rows: int
    excludes_self: bool
    scanned: int = 0
    filter: str = ""
    certified: bool = False

    @property
    def n(self) -> int:
        return int(self.indices.shape[0])

    @property
    def k(self) -> int:
        return int(self.indices.shape[1])

    def __repr__(self) -> str:
        base = "" if self.excludes_self else f", base_rows={self.base_rows}"
        return f"Neighbours(n={self.n}, k={self.k}, metric={self.metric!r}{base})"


def nearest(
    x: Any,
    k: int = 10,
    *,
    metric: str = "cosine",
    base: Any = None,
    filter: str = "auto",
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
    base: [m, d] rows to search. None searches x itself and leaves every row out of its own list by its index, so that
        duplicates stay.
    filter: what proposes candidates: "float32", "bfloat16" (twice as fast; only on CPUs that multiply it), or "auto":
        bfloat16 where it pays, which is tried out on a few rows first. The result does not depend on it.
    threads, block_rows, progress: as for :func:`repsim.cka`; the result does not depend on the first two.

    Returns
    -------
    Neighbours, exact for the scores in float64, ties to the lower index: tiles of low precision propose candidates,
    float64 ranks them, and a row whose k-th neighbour the tiles could have confused with one they turned away is
    searched again.

    Raises
    ------
    TypeError, ValueError: bad rows (as for :func:`repsim.cka`), k out of range, an unknown metric or filter, bfloat16
        where the CPU does not multiply it, a zero row under the cosine metric.
    """
    return _graph(
        x,
        k,
        metric,
        "nearest",
        "x",
        base=base,
        filter=filter,
        threads=threads,
        block_rows=block_rows,
        progress=progress,
    )


def _graph(
    x: Any,
    k: int,
    metric: str,
    function: str,
    name: str,
    *,
    base: Any = None,
    filter: str = "auto",
    threads: int | None = None,
    block_rows: int | None = None,
    progress: Progress | None = None,
) -> Neighbours:
    check_metric(metric, function=function)
    _check_filter(filter, function=function)
    rows = as_rows(x, function=function, name=name)
    others = None if base is None else as_rows(base, function=function, name="base")
    if others is not None and others.depth != rows.depth:
        raise ValueError(f"[{function}] expected base with {rows.depth} columns like {name}, got {others.depth}")
    most = len(rows) - 1 if others is None else len(others)
    check_k(k, most, most + (others is None), function=function)
    if block_rows is not None:
        whole_number(block_rows, "block_rows", function=function)
    found = reductions.nearest(
        rows,
        others,
        int(k),
        metric,
        function=function,
        filter=filter,
        threads=thread_count(threads, function=function),
        block_rows=block_rows,
        progress=progress,
    )
    return Neighbours(
        found.indices,
        found.scores,
        metric,
        base_rows=len(rows) if others is None else len(others),
        excludes_self=others is None,
        scanned=found.scanned,
        filter=found.filter,
        certified=True,
    )


def check_metric(metric: str, *, function: str, among: Sequence[str] = METRICS) -> None:
    """Raises ValueError for a metric that is not among those."""
    if metric not in among:
        *others, last = map(repr, among)
        raise ValueError(f"[{function}] expected metric {', '.join(others)} or {last}, got {metric!r}")


def _check_filter(filter: str, *, function: str) -> None:
    if filter not in FILTERS:
        raise ValueError(f"[{function}] expected filter 'auto', 'float32' or 'bfloat16', got {filter!r}")
    if filter == "bfloat16" and not reductions.has_bfloat16():
        raise ValueError(
            f"[{function}] expected filter 'auto' or 'float32' on a CPU without AVX512-BF16, got 'bfloat16'"
        )


def check_k(k: Any, most: int, rows: int, *, function: str) -> None:
    """Raises TypeError for a k that is no int, ValueError below 1 or above ``most``, all that ``rows`` rows offer."""
    if whole_number(k, "k", function=function) > most:
        raise ValueError(f"[{function}] expected k of at most {most} for {rows} rows, got {k}")


def check_relabellings(permutations: Any, seed: Any, *, least: int, function: str) -> None:
    """Raises TypeError where one is no int, ValueError for fewer than ``least`` permutations or a negative seed."""
    whole_number(permutations, "permutations", function=function, least=least)
    whole_number(seed, "seed", function=function, least=0)


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
    """Mean share of the k nearest neighbours that an input has in both representations: mean_i |N_x(i) & N_y(i)| / k.

    Example::

        repsim.mutual_knn(x, y, k=10)                    # x [n, d], y [n, d']; chance is k / (n - 1)
        repsim.mutual_knn(graph_x, graph_y)              # graphs from repsim.nearest

    Parameters
    ----------
    x, y: [n, d] and [n, d'] arrays, or graphs of one k and metric from :func:`nearest` (then ``k`` and ``metric`` are
        theirs).
    permutations: relabellings for an add-one p-value, O(n k log n) each; 0 takes p from the normal distribution with
        the exact mean and sd, which is too small in the tail for few dimensions (about d < 10) or k <= 2.
    seed: of the relabellings, at least 0.

    Returns
    -------
    Similarity in [0, 1], its value the same for (x, y) and (y, x), with the exact mean and sd over all relabellings.

    Raises
    ------
    TypeError, ValueError: as for :func:`nearest`; graphs of different n, k or metric, or that do not exclude self;
        ``permutations`` or ``seed`` that are no ints or negative.

    Paper: Huh, Cheung, Wang and Isola (2024), "The Platonic representation hypothesis".
    """
    check_relabellings(permutations, seed, least=0, function="mutual_knn")
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

    With K, L the Gram matrices of the metric, M_x, M_y the masks of the k nearest neighbours and HSIC_1 on masked
    matrices, HSIC_1(M_x M_y K, M_x M_y L) / sqrt(HSIC_1(M_x K, M_x K) HSIC_1(M_y L, M_y L)).

    Example::

        repsim.cknna(x, y, k=10)                         # x [n, d], y [n, d']

    Parameters
    ----------
    x, y: [n, d] and [n, d'] arrays with at least 4 rows, or graphs of one k and metric from :func:`nearest`.
    metric: "cosine" or "inner_product".
    permutations, seed: relabellings (at least 2) for the level of chance and the add-one p-value, O(n k log n) each.

    Returns
    -------
    Similarity, 1 for x with itself, above 0 by chance (``null.mean``), and within no bounds: the masked matrices are
    not symmetric, so that HSIC_1 is no inner product of them, and with a handful of inputs the value can leave [-1, 1].
    For the same reason cknna(y, x) is not quite cknna(x, y); they differ by about 1e-4 at 200 inputs. The mean and sd
    of chance are those of the relabellings drawn, and carry their sampling error.

    Raises
    ------
    TypeError, ValueError: as for :func:`mutual_knn`; the Euclidean metric, which has no Gram matrix here; a side whose
        HSIC with itself is not positive.

    Paper: Huh, Cheung, Wang and Isola (2024).
    """
    check_metric(metric, function="cknna", among=GRAM_METRICS)
    check_relabellings(permutations, seed, least=2, function="cknna")
    graphs = _graphs(x, y, k, metric, "cknna", threads)
    return cknna_grid([graphs[0]], [graphs[1]], permutations=permutations, seed=seed).at(0, 0, "cknna")


def mutual_knn_grid(
    xs: Sequence[Neighbours], ys: Sequence[Neighbours], *, permutations: int = 0, seed: int = 0
) -> Grid:
    """:func:`mutual_knn` between every graph in ``xs`` and every graph in ``ys``."""
    n, k = _one_kind(xs, ys, "mutual_knn")
    left, right = [_Edges.of(graph) for graph in xs], [_Edges.of(graph) for graph in ys]
    patterns_x, patterns_y = ([edge_patterns(graph.indices) for graph in side] for side in (xs, ys))
    edges = n * k
    by_chance = _relabelled(_share, left, right, permutations, seed)
    cells = []
    for i, a in enumerate(left):
        row = []
        for j, b in enumerate(right):
            exact = shared_edges_moments(n, patterns_x[i], patterns_y[j])
            value = _share(a, b)
            p = add_one_p(value, by_chance[:, i, j]) if permutations else None
            row.append((value, Null(exact.mean / edges, exact.sd / edges), p))
        cells.append(row)
    return grid_of(cells, n, {"k": k, "metric": xs[0].metric}, "float32")


def cknna_grid(xs: Sequence[Neighbours], ys: Sequence[Neighbours], *, permutations: int = 200, seed: int = 0) -> Grid:
    """:func:`cknna` between every graph in ``xs`` and every graph in ``ys``."""
    n, k = _one_kind(xs, ys, "cknna")
    check_metric(xs[0].metric, function="cknna", among=GRAM_METRICS)
    if n < 4:
        raise ValueError(f"[cknna] expected x with at least 4 rows, got {n}")
    left, right = [_Edges.of(graph) for graph in xs], [_Edges.of(graph) for graph in ys]
    own_x, own_y = [_masked_hsic(a, a) for a in left], [_masked_hsic(b, b) for b in right]
    for name, own in (("x", own_x), ("y", own_y)):
        if not min(own) > 0:
            which = f"{name}[{own.index(min(own))}]" if len(own) > 1 else name
            raise ValueError(f"[cknna] expected {which} whose masked HSIC with itself is positive, got {min(own):.3g}")
    by_chance = _relabelled(_masked_hsic, left, right, permutations, seed)
    cells = []
    for i, (a, own_a) in enumerate(zip(left, own_x, strict=True)):
        row = []
        for j, (b, own_b) in enumerate(zip(right, own_y, strict=True)):
            norm = math.sqrt(own_a * own_b)
            value = _masked_hsic(a, b) / norm
            null = by_chance[:, i, j] / norm
            row.append((value, Null(float(null.mean()), float(null.std(ddof=1))), add_one_p(value, null)))
        cells.append(row)
    return grid_of(cells, n, {"k": k, "metric": xs[0].metric}, "float32", null_from=f"{permutations} relabellings")


@dataclass(frozen=True, eq=False)
class _Edges:
    """A directed graph with weights; as the targets of a row ascend, so do the codes source * n + target."""

    targets: np.ndarray  # [n, k] int64
    weights: np.ndarray  # [n, k] float64
    codes: np.ndarray  # [n k] int64

    @classmethod
    def of(cls, graph: Neighbours) -> _Edges:
        return cls.sorted(graph.indices, graph.scores.astype(np.float64))

    @classmethod
    def sorted(cls, targets: np.ndarray, weights: np.ndarray) -> _Edges:
        n, order = len(targets), np.argsort(targets, axis=1)
        targets = np.take_along_axis(targets, order, 1)
        return cls(targets, np.take_along_axis(weights, order, 1), (np.arange(n)[:, None] * n + targets).ravel())

    def relabelled(self, names: np.ndarray) -> _Edges:
        """Input i becomes input names[i]."""
        rows = np.argsort(names)
        return _Edges.sorted(names[self.targets[rows]], self.weights[rows])


def _find(codes: np.ndarray, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which codes are among the others, which ascend, and where; one sweep for the cache if the codes ascend too."""
    at = np.searchsorted(among, codes)
    at[at == len(among)] = 0
    return among[at] == codes, at


def _share(a: _Edges, b: _Edges) -> float:
    """Edges in both graphs over the edges of one."""
    return np.count_nonzero(_find(b.codes, a.codes)[0]) / len(a.codes)


def _masked_hsic(a: _Edges, b: _Edges) -> float:
    """HSIC_1 of the two weight matrices on their shared edges; they are not symmetric: tr(AB) = sum A_ij B_ji."""
    n = len(a.targets)
    found, at = _find(b.codes, a.codes)
    if not found.any():
        return 0.0
    codes, left, right = b.codes[found], a.weights.ravel()[at[found]], b.weights.ravel()[found]
    sources, targets = codes // n, codes % n
    mutual, back = _find(targets * n + sources, codes)
    trace = float(left[mutual] @ right[back[mutual]])
    into = np.bincount(targets, weights=left, minlength=n)
    out = np.bincount(sources, weights=right, minlength=n)
    total = float(left.sum()) * float(right.sum())
    return (trace + total / ((n - 1) * (n - 2)) - 2 / (n - 2) * float(into @ out)) / (n * (n - 3))


def _relabelled(
    statistic: Callable[[_Edges, _Edges], float],
    left: Sequence[_Edges],
    right: Sequence[_Edges],
    permutations: int,
    seed: int,
) -> np.ndarray:
    """The statistic of every pair [permutations, L1, L2], the right graphs under one relabelling at a time."""
    values = np.empty((permutations, len(left), len(right)))
    for t, names in enumerate(_relabellings(len(left[0].targets), permutations, seed)):
        for j, b in enumerate(right):
            moved = b.relabelled(names)
            values[t, :, j] = [statistic(a, moved) for a in left]
    return values


def _relabellings(n: int, permutations: int, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng([seed, n])
    return (rng.permutation(n) for _ in range(permutations))


def _graphs(x: Any, y: Any, k: int, metric: str, function: str, threads: int | None) -> tuple[Neighbours, Neighbours]:
    if isinstance(x, Neighbours) and isinstance(y, Neighbours):
        return x, y
    if isinstance(x, Neighbours) or isinstance(y, Neighbours):
        raise TypeError(
            f"[{function}] expected x and y both as arrays or both as graphs of repsim.nearest, got one of each"
        )
    rows = [as_rows(each, function=function, name=name) for each, name in ((x, "x"), (y, "y"))]
    same_inputs(*rows, function=function)
    first, second = (_graph(each, k, metric, function, each.name, threads=threads) for each in rows)
    return first, second


def _one_kind(xs: Sequence[Neighbours], ys: Sequence[Neighbours], function: str) -> tuple[int, int]:
    """n and k of graphs that can be compared: over their own rows, with one n, k and metric."""
    for name, graph in [("x", one) for one in xs] + [("y", one) for one in ys]:
        if not graph.excludes_self:
            raise ValueError(
                f"[{function}] expected {name} as a graph over its own rows, got one searched in another base"
            )
        for what in ("n", "k", "metric"):
            first, own = getattr(xs[0], what), getattr(graph, what)
            if own != first:
                raise ValueError(f"[{function}] expected {name} as a graph of {what} {first!r} like x, got {own!r}")
    return xs[0].n, xs[0].k
