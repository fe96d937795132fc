"""Which neighbours two representations share, whatever their order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..calibration import Null, add_one_p, edge_patterns, shared_edges_moments
from .list_means import (
    ListMean,
    grid_of_means,
    mean,
    mean_of_pair,
    means_and_relabelled,
    per_input_terms,
    share_of_k,
    standard_errors,
)
from .neighbours import Neighbours, check_relabellings, graph_pair, one_kind, register_neighbours
from .similarity import Grid, Similarity, grid_of

MUTUAL_KNN = ListMean("mutual_knn", "shared", share_of_k)
KNN_JACCARD = ListMean("knn_jaccard", "jaccard", mean)
CYCLE_KNN = ListMean("cycle_knn", "meets", mean, listed_by=True)

_PLATONIC = "Huh, Cheung, Wang and Isola (2024), The Platonic representation hypothesis"
register_neighbours(
    "mutual_knn",
    "mean_i |N_x(i) & N_y(i)| / k",
    _PLATONIC,
    aliases=("platonic-rep: mutual_knn", "torchdr: neighborhood_preservation"),
    note="chance is k / (n - 1); its null is exact",
)
register_neighbours(
    "knn_jaccard",
    "mean_i |N_x(i) & N_y(i)| / |N_x(i) | N_y(i)|",
    "Schumacher et al. (2021), The effects of randomness on the stability of node embeddings",
    aliases=("ReSi: JaccardSimilarity",),
)
register_neighbours(
    "cycle_knn",
    "mean_i [i in N_x(nearest of i in y)]",
    _PLATONIC,
    symmetric=False,
    self_value=None,
    aliases=("platonic-rep: cycle_knn",),
)
_OVERLAP = ListMean("overlap_counts", "shared", mean)


def mutual_knn(
    x: Any,
    y: Any,
    *,
    k: int = 10,
    metric: str = "cosine",
    permutations: int = 0,
    seed: int = 0,
    threads: int | None = None,
    memory: int | str | None = None,
    device: Any = None,
) -> Similarity:
    """Mean share of the k nearest neighbours that an input has in both representations: mean_i |N_x(i) & N_y(i)| / k.

    Example::

        repsim.mutual_knn(x, y, k=10)                    # x [n, d], y [n, d']; chance is k / (n - 1)
        repsim.mutual_knn(graph_x, graph_y)              # graphs from repsim.nearest

    Parameters
    ----------
    x, y: [n, d] and [n, d'] arrays, or graphs of one k and metric from :func:`nearest` (then ``k`` and ``metric`` are
        theirs).
    permutations: relabellings for an add-one p-value, O(n k) each; 0 takes p from the normal distribution with the
        exact mean and sd, which is too small in the tail for few dimensions (about d < 10) or k <= 2.
    seed: of the relabellings, at least 0.
    threads: as for :func:`repsim.cka`; the result does not depend on it.
    memory, device: of the searches, as for :func:`nearest`; graphs that are given are not searched again.

    Returns
    -------
    Similarity in [0, 1], 1 for x with itself, its value the same for (x, y) and (y, x), with the exact mean and sd over
    all relabellings. 1 - value is a metric between graphs (without their order): half the symmetric difference, over k.

    Raises
    ------
    TypeError, ValueError: as for :func:`nearest`; graphs of different n, k or metric, or that do not exclude self;
        ``permutations`` or ``seed`` that are no ints or negative.

    Paper: Huh, Cheung, Wang and Isola (2024), "The Platonic representation hypothesis".
    """
    check_relabellings(permutations, seed, least=0, function="mutual_knn")
    gx, gy = graph_pair(x, y, k, metric, "mutual_knn", threads, memory, device)
    return mutual_knn_grid([gx], [gy], permutations=permutations, seed=seed, threads=threads).at(0, 0, "mutual_knn")


def mutual_knn_grid(
    xs: Sequence[Neighbours],
    ys: Sequence[Neighbours],
    *,
    permutations: int = 0,
    seed: int = 0,
    threads: int | None = None,
) -> Grid:
    """:func:`mutual_knn` between every graph in ``xs`` and every graph in ``ys``."""
    check_relabellings(permutations, seed, least=0, function="mutual_knn")
    n, k = one_kind(xs, ys, "mutual_knn")
    values, by_chance = means_and_relabelled(MUTUAL_KNN, xs, ys, permutations, seed, threads)
    patterns_x, patterns_y = ([edge_patterns(graph.indices) for graph in side] for side in (xs, ys))
    edges = n * k
    cells = []
    for i, row_of_values in enumerate(values.tolist()):
        row = []
        for j, value in enumerate(row_of_values):
            exact = shared_edges_moments(n, patterns_x[i], patterns_y[j])
            p = add_one_p(value, by_chance[:, i, j]) if permutations else None
            row.append((value, Null(exact.mean / edges, exact.sd / edges), p))
        cells.append(row)
    errors = standard_errors(lambda i, j: per_input_terms(MUTUAL_KNN, xs[i], ys[j], threads=threads), values.shape)
    draws = by_chance if permutations else None
    return grid_of(cells, n, {"k": k, "metric": xs[0].metric}, "float32", standard_errors=errors, draws=draws)


def overlap_counts(x: Neighbours, y: Neighbours, *, threads: int | None = None) -> np.ndarray:
    """How many of its neighbours every input has in both graphs: |N_x(i) & N_y(i)|.

    Example::

        counts = repsim.overlap_counts(graph_x, graph_y)     # [n] int64; counts.mean() / k is mutual_knn

    Parameters
    ----------
    x, y: graphs of one n, k and metric from :func:`nearest`.

    Returns
    -------
    [n] int64 from 0 to k, the same for (x, y) and (y, x).

    Raises
    ------
    TypeError, ValueError: arrays in the place of graphs; graphs as for :func:`mutual_knn`.
    """
    for name, graph in (("x", x), ("y", y)):
        if not isinstance(graph, Neighbours):
            raise TypeError(
                f"[overlap_counts] expected {name} as a graph of repsim.nearest, got {type(graph).__name__}"
            )
    return per_input_terms(_OVERLAP, x, y, threads=threads).astype(np.int64)


def knn_jaccard(
    x: Any,
    y: Any,
    *,
    k: int = 10,
    metric: str = "cosine",
    permutations: int = 200,
    seed: int = 0,
    threads: int | None = None,
    memory: int | str | None = None,
    device: Any = None,
) -> Similarity:
    """Mean Jaccard similarity of the sets of k nearest neighbours: mean_i |N_x(i) & N_y(i)| / |N_x(i) | N_y(i)|.

    Example::

        repsim.knn_jaccard(x, y, k=10)                   # x [n, d], y [n, d']

    Parameters
    ----------
    x, y, k, metric, seed, threads, memory, device: as for :func:`mutual_knn`.
    permutations: relabellings (at least 2) for the level of chance and the add-one p-value, O(n k) each.

    Returns
    -------
    Similarity in [0, 1], 1 for x with itself, its value the same for (x, y) and (y, x). 1 - value is a metric between
    graphs (without their order), a mean of Jaccard distances. The mean and sd of chance are those of the relabellings
    drawn.

    Raises
    ------
    TypeError, ValueError: as for :func:`mutual_knn`; fewer than 2 permutations.

    Paper: Schumacher et al. (2021), "The effects of randomness on the stability of node embeddings".
    """
    return mean_of_pair(KNN_JACCARD, x, y, k, metric, permutations, seed, threads, memory, device)


def knn_jaccard_grid(
    xs: Sequence[Neighbours],
    ys: Sequence[Neighbours],
    *,
    permutations: int = 200,
    seed: int = 0,
    threads: int | None = None,
) -> Grid:
    """:func:`knn_jaccard` between every graph in ``xs`` and every graph in ``ys``."""
    return grid_of_means(KNN_JACCARD, xs, ys, permutations, seed, threads)


def cycle_knn(
    x: Any,
    y: Any,
    *,
    k: int = 10,
    metric: str = "cosine",
    permutations: int = 200,
    seed: int = 0,
    threads: int | None = None,
    memory: int | str | None = None,
    device: Any = None,
) -> Similarity:
    """Share of the inputs that find back to themselves over a neighbour in y and a neighbour of that in x.

    mean_i [i is in N_x(j) for some j in N_y(i)], all k neighbours counting in both steps; for k = 1, whether i is the
    nearest neighbour in x of its nearest neighbour in y.

    Example::

        repsim.cycle_knn(x, y, k=10)                     # x [n, d], y [n, d']: out by y, back by x

    Parameters
    ----------
    x, y, k, metric, seed, threads, memory, device: as for :func:`mutual_knn`.
    permutations: relabellings (at least 2) for the level of chance and the add-one p-value, O(n k) each.

    Returns
    -------
    Similarity in [0, 1]; for k > 1 cycle_knn(y, x) is another number, and no metric follows. Of x with itself it is the
    share of inputs with a mutual neighbour, 1 only where every input has one. The mean and sd of chance are those of
    the relabellings drawn.

    Raises
    ------
    TypeError, ValueError: as for :func:`mutual_knn`; fewer than 2 permutations.

    Paper: Huh, Cheung, Wang and Isola (2024), "The Platonic representation hypothesis".
    """
    return mean_of_pair(CYCLE_KNN, x, y, k, metric, permutations, seed, threads, memory, device)


def cycle_knn_grid(
    xs: Sequence[Neighbours],
    ys: Sequence[Neighbours],
    *,
    permutations: int = 200,
    seed: int = 0,
    threads: int | None = None,
) -> Grid:
    """:func:`cycle_knn` between every graph in ``xs`` and every graph in ``ys``."""
    return grid_of_means(CYCLE_KNN, xs, ys, permutations, seed, threads)
