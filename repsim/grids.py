"""The grids of a request between the layers of two models: what is needed of a layer or a pair is found once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from .arguments import Progress
from .arrays import SharedRows
from .kernels import Linear
from .measures import cka, neighbours
from .measures.linear_pairs import LinearPairs
from .measures.method import Plan, evaluate_grids, products_budget
from .measures.neighbours import Neighbours
from .measures.similarity import Grid
from .request import GRAPH_GRIDS, GraphMeasure, Request
from .saved_grids import SavedGrids

Keep = Callable[[str, Grid], None]


def grids_between(
    request: Request,
    left: Sequence[SharedRows],
    right: Sequence[SharedRows],
    *,
    threads: int,
    memory: int | None,
    step: Callable[..., None],
    keep: Keep,
    forget: bool,
) -> None:
    """Every measure of a request between every layer of ``left`` and every layer of ``right``.

    Parameters
    ----------
    memory: bytes, as for :func:`repsim.cka`; a quarter of it is for products of features.
    step: called for every step of :meth:`Request.steps`, searches left out.
    keep: called with the name of a measure and its grid as soon as it is finished.
    forget: what was found of a layer of ``left`` is given up after its last pair.
    """

    def keep_kernels(names: Sequence[str], linear: LinearPairs | None) -> None:
        for name in names:
            one = request.kernels[name]
            keep(name, cka.statistic_grid(
                one.statistic, left, right, estimator=one.estimator, kernel=one.kernel, linear=linear, threads=threads,
                memory=memory,
            ))  # fmt: skip
            step()

    for name, graph in request.graphs.items():
        keep(name, _graph_grid(request, name, graph, left, right, threads=threads, memory=memory))
        step()
    linear = LinearPairs(left, right, threads)
    in_products = [name for name, one in request.kernels.items() if one.kernel == Linear()]
    keep_kernels([name for name in request.kernels if name not in in_products], None)
    if request.methods or in_products:
        evaluated = evaluate_grids(
            request.methods, left, right, threads=threads, progress=step,
            plan=request.plan if request.methods else Plan(),  # for a kernel none is relabelled or left out
            products=products_budget(memory), beside=linear.visit if in_products else None, forget=forget,
        )  # fmt: skip
        for name, grid in evaluated.items():
            keep(name, grid)
    keep_kernels(in_products, linear)


def search_graphs(
    request: Request, layers: Sequence[SharedRows], *, threads: int, memory: int | None, step: Callable[..., None]
) -> None:
    """Find all neighbour graphs of a request; the layers keep them."""
    for rows in layers:
        for k, metric in request.searches():
            _graph(rows, k, metric, threads, memory)
            step()


def _graph(rows: SharedRows, k: int, metric: str, threads: int, memory: int | None) -> Neighbours:
    key = (Neighbours, k, metric)
    if key not in rows.found:
        rows.found[key] = neighbours.nearest(rows, k, metric=metric, threads=threads, memory=memory).cpu()
    graph: Neighbours = rows.found[key]
    return graph


def _graph_grid(
    request: Request,
    name: str,
    graph: GraphMeasure,
    left: Sequence[SharedRows],
    right: Sequence[SharedRows],
    *,
    threads: int,
    memory: int | None,
) -> Grid:
    sides = [[_graph(rows, graph.k, graph.metric, threads, memory) for rows in side] for side in (left, right)]
    how: dict[str, Any] = dict(graph.options)
    if request.sampled(name):
        how |= {"permutations": request.drawn, "seed": request.plan.seed}
    if name == "second_order_cosine":
        how["rows"] = (left, right)
    return GRAPH_GRIDS[name](*sides, threads=threads, **how)


def begin(
    request: Request, left: Sequence[SharedRows], right: Sequence[SharedRows], saved: SavedGrids | None
) -> tuple[dict[str, Grid], Request, Keep]:
    """The grids that were saved, the request of the others, and what keeps one of these."""
    keys = {} if saved is None else {name: saved.key(request, name, left, right) for name in request.measures}
    read = {} if saved is None else {name: saved.read(key) for name, key in keys.items()}
    grids = {name: grid for name, grid in read.items() if grid is not None}

    def keep(name: str, grid: Grid) -> None:
        grids[name] = grid
        if saved is not None:
            saved.write(keys[name], grid)

    return grids, request.only(name for name in request.measures if name not in grids), keep


def steps_of(total: int, progress: Progress | None) -> Callable[..., None]:
    """What reports the next of so many steps whenever it is called."""
    steps = count(1)

    def step(*_: int) -> None:
        if progress:
            progress(next(steps), total)

    return step
