"""How near two representations put the neighbours: measures of the scores, not of the lists alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import reductions
from ..arguments import thread_count
from ..arrays import Rows, same_inputs
from .list_means import every_pair, sampled_grid, standard_errors
from .neighbours import (
    GRAM_METRICS,
    Neighbours,
    check_metric,
    check_relabellings,
    graph_pair,
    one_kind,
    register_neighbours,
)
from .similarity import Grid, Similarity

register_neighbours(
    "cknna",
    "debiased CKA of the Gram matrices where both graphs have an edge",
    "Huh, Cheung, Wang and Isola (2024), The Platonic representation hypothesis",
    low=-np.inf,
    high=np.inf,
    symmetric=False,
    note="masked Gram matrices are not symmetric: no bounds, and (y, x) differs a little from (x, y)",
    aliases=("platonic-rep: cknna",),
)
register_neighbours(
    "second_order_cosine",
    "mean_i cosine of the vectors of cosines to N_x(i) | N_y(i)",
    "Hamilton, Leskovec and Jurafsky (2016), Cultural shift or linguistic drift?",
    low=-1.0,
    aliases=("ReSi: SecondOrderCosineSimilarity",),
)


def cknna(
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
    """CKA of the Gram matrices restricted to mutual nearest neighbours, with the debiased HSIC.

    With K, L the Gram matrices of the metric, M_x, M_y the masks of the k nearest neighbours and HSIC_1 on masked
    matrices, HSIC_1(M_x M_y K, M_x M_y L) / sqrt(HSIC_1(M_x K, M_x K) HSIC_1(M_y L, M_y L)).

    Example::

        repsim.cknna(x, y, k=10)                         # x [n, d], y [n, d']

    Parameters
    ----------
    x, y: [n, d] and [n, d'] arrays with at least 4 rows, or graphs of one k and metric from :func:`nearest`.
    metric: "cosine" or "inner_product".
    permutations, seed: relabellings (at least 2) for the level of chance and the add-one p-value, O(n k) each.
    threads: as for :func:`repsim.cka`; the result does not depend on it.
    memory, device: of the searches, as for :func:`nearest`; graphs that are given are not searched again.

    Returns
    -------
    Similarity, 1 for x with itself, above 0 by chance (``null.mean``), and within no bounds: the masked matrices are
    not symmetric, so that HSIC_1 is no inner product of them, and with a handful of inputs the value can leave [-1, 1].
    For the same reason cknna(y, x) is not quite cknna(x, y); they differ by about 1e-4 at 200 inputs. No metric
    follows. The mean and sd of chance are those of the relabellings drawn, and carry their sampling error.

    Raises
    ------
    TypeError, ValueError: as for :func:`mutual_knn`; the Euclidean metric, which has no Gram matrix here; a side whose
        HSIC with itself is not positive.

    Paper: Huh, Cheung, Wang and Isola (2024).
    """
    check_metric(metric, function="cknna", among=GRAM_METRICS)
    check_relabellings(permutations, seed, least=2, function="cknna")
    gx, gy = graph_pair(x, y, k, metric, "cknna", threads, memory, device)
    return cknna_grid([gx], [gy], permutations=permutations, seed=seed, threads=threads).at(0, 0, "cknna")


def cknna_grid(
    xs: Sequence[Neighbours],
    ys: Sequence[Neighbours],
    *,
    permutations: int = 200,
    seed: int = 0,
    threads: int | None = None,
) -> Grid:
    """:func:`cknna` between every graph in ``xs`` and every graph in ``ys``."""
    check_relabellings(permutations, seed, least=2, function="cknna")
    n, k = one_kind(xs, ys, "cknna")
    check_metric(xs[0].metric, function="cknna", among=GRAM_METRICS)
    if n < 4:
        raise ValueError(f"[cknna] expected x with at least 4 rows, got {n}")
    cpus = thread_count(threads, function="cknna")
    left, right = (
        [reductions.WeightedLists(graph.indices, graph.scores).ascending() for graph in side] for side in (xs, ys)
    )

    def hsic(a: reductions.WeightedLists, b: reductions.WeightedLists, names: np.ndarray | None = None) -> np.ndarray:
        return reductions.masked_hsic(a, b, names, threads=cpus)

    own_x, own_y = (np.array([hsic(one, one)[0] for one in side]) for side in (left, right))
    for name, own in (("x", own_x), ("y", own_y)):
        if not own.min() > 0:
            which = f"{name}[{own.argmin()}]" if len(own) > 1 else name
            raise ValueError(f"[cknna] expected {which} whose masked HSIC with itself is positive, got {own.min():.3g}")
    norms = np.sqrt(own_x[:, None] * own_y)
    observed, relabelled = every_pair(
        lambda i, j, names: hsic(left[i], right[j], names), (len(xs), len(ys)), n, permutations, seed
    )
    return sampled_grid(observed / norms, relabelled / norms, n, {"k": k, "metric": xs[0].metric})


def second_order_cosine(
    x: Any,
    y: Any,
    *,
    graphs: tuple[Neighbours, Neighbours] | None = None,
    k: int = 10,
    metric: str = "cosine",
    permutations: int = 200,
    seed: int = 0,
    threads: int | None = None,
    memory: int | str | None = None,
    device: Any = None,
) -> Similarity:
    """Mean cosine of the two vectors of cosine similarities of an input to the union of its nearest neighbours.

    With U_i the union of N_x(i) and N_y(i), the mean over i of cos((cos(x_i, x_j))_(j in U_i), (cos(y_i, y_j))_(j in
    U_i)), all in float64.

    Example::

        repsim.second_order_cosine(x, y, k=10)           # x [n, d], y [n, d']
        repsim.second_order_cosine(x, y, graphs=(graph_x, graph_y))

    Parameters
    ----------
    x, y: [n, d] and [n, d'] arrays without zero rows.
    graphs: those of x and y from :func:`nearest`, of one k and metric, so that they are not searched again.
    k, metric: of the neighbours, where no graphs are given; the similarities are cosines under any metric.
    permutations: relabellings (at least 2) for the level of chance and the add-one p-value. Every one takes cosines to
        other rows: O(n k (d + d')) each.
    seed, threads, memory, device: as for :func:`mutual_knn`.

    Returns
    -------
    Similarity in [-1, 1], 1 for x with itself, its value the same for (x, y) and (y, x) up to rounding. No metric
    follows: every pair is compared on neighbours of its own. By chance it is far from 0 where all cosines of a side
    are of one sign. The mean and sd of chance are those of the relabellings drawn.

    Raises
    ------
    TypeError, ValueError: as for :func:`mutual_knn`; graphs of another number of rows; a zero row; an input that is
        orthogonal to all of U_i, in a relabelling too.

    Paper: Hamilton, Leskovec and Jurafsky (2016), "Cultural shift or linguistic drift? Comparing two computational
    measures of semantic change".
    """
    function = "second_order_cosine"
    check_relabellings(permutations, seed, least=2, function=function)
    if isinstance(x, Neighbours) or isinstance(y, Neighbours):
        raise TypeError(
            f"[{function}] expected x and y as arrays, and graphs as graphs=(graph_x, graph_y), got a graph"
        )
    rows = [reductions.rows_on(each, device, function=function, name=name) for each, name in ((x, "x"), (y, "y"))]
    same_inputs(*rows, function=function)
    if graphs is None:
        gx, gy = graph_pair(rows[0], rows[1], k, metric, function, threads, memory)
    elif isinstance(graphs, tuple) and len(graphs) == 2 and all(isinstance(each, Neighbours) for each in graphs):
        gx, gy = graphs[0].cpu(), graphs[1].cpu()
    else:
        raise TypeError(f"[{function}] expected graphs as two graphs of repsim.nearest, got {graphs!r}")
    grid = second_order_cosine_grid(
        [gx], [gy], rows=([rows[0]], [rows[1]]), permutations=permutations, seed=seed, threads=threads
    )
    return grid.at(0, 0, function)


def second_order_cosine_grid(
    xs: Sequence[Neighbours],
    ys: Sequence[Neighbours],
    *,
    rows: tuple[Sequence[Rows], Sequence[Rows]],
    permutations: int = 200,
    seed: int = 0,
    threads: int | None = None,
) -> Grid:
    """:func:`second_order_cosine` between every graph in ``xs`` and every one in ``ys``, of the ``rows`` of each."""
    function = "second_order_cosine"
    check_relabellings(permutations, seed, least=2, function=function)
    n, k = one_kind(xs, ys, function)
    cpus = thread_count(threads, function=function)
    with reductions.working_on([*rows[0], *rows[1]], function=function):
        left, right = (
            [_listed(*pair, function, cpus) for pair in zip(graphs, side, strict=True)]
            for graphs, side in zip((xs, ys), rows, strict=True)
        )
        observed, relabelled = every_pair(
            lambda i, j, names: reductions.second_order_sums(left[i], right[j], names, function=function, threads=cpus),
            (len(xs), len(ys)),
            n,
            permutations,
            seed,
        )
        errors = standard_errors(
            lambda i, j: reductions.second_order_terms(left[i], right[j], function=function, threads=cpus),
            observed.shape,
        )
    options = {"k": k, "metric": xs[0].metric}
    return sampled_grid(observed / n, relabelled / n, n, options, precision="float64", errors=errors)


def second_order_terms(
    x: Neighbours, y: Neighbours, rows: tuple[Rows, Rows], *, threads: int | None = None
) -> np.ndarray:
    """The terms [n] float64 whose mean is :func:`second_order_cosine`."""
    function = "second_order_cosine"
    one_kind([x], [y], function)
    cpus = thread_count(threads, function=function)
    with reductions.working_on(rows, function=function):
        left, right = (_listed(graph, side, function, cpus) for graph, side in zip((x, y), rows, strict=True))
        return reductions.second_order_terms(left, right, function=function, threads=cpus)


def _listed(graph: Neighbours, rows: Rows, function: str, threads: int) -> reductions.ListedRows:
    if graph.n != len(rows):
        raise ValueError(f"[{function}] expected the graph of {rows.name} with its {len(rows)} rows, got {graph.n}")
    return reductions.ListedRows.of(rows, graph.indices, function=function, threads=threads)
