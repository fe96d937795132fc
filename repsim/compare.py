"""All layers of one model against all layers of another, under several measures: one table."""

from __future__ import annotations

import csv
import html
import inspect
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from .arguments import Progress, memory_budget, thread_count
from .arrays import DTYPES, Rows, as_rows, same_inputs
from .comparison_page import page
from .measures import cka, neighbour_ranks, neighbour_scores, neighbour_sets, neighbours
from .measures.method import Method, Plan, evaluate_grid
from .measures.neighbours import Neighbours
from .measures.registry import REGISTRY
from .measures.similarity import Grid
from .store import Store, require_same_samples
from .whole_files import whole_file

# What a measure takes: the rows of both sides, or the graphs of their nearest neighbours; and the fewest inputs.
_KERNEL_MEASURES: dict[str, dict[str, Any]] = {
    "cka": {"kernel": "linear", "estimator": "debiased"},
    "cka_biased": {"kernel": "linear", "estimator": "biased"},
    "cka_rbf": {"kernel": "rbf", "estimator": "debiased"},
}
_GRAPH_MEASURES: dict[str, Callable[..., Grid]] = {
    "mutual_knn": neighbour_sets.mutual_knn_grid,
    "cknna": neighbour_scores.cknna_grid,
    "knn_jaccard": neighbour_sets.knn_jaccard_grid,
    "cycle_knn": neighbour_sets.cycle_knn_grid,
    "lcs_knn": neighbour_ranks.lcs_knn_grid,
    "edit_distance_knn": neighbour_ranks.edit_distance_knn_grid,
    "rank_similarity": neighbour_ranks.rank_similarity_grid,
    "joint_rank_jaccard": neighbour_ranks.joint_rank_jaccard_grid,
    "second_order_cosine": neighbour_scores.second_order_cosine_grid,
}
_SAMPLED = tuple(measure for measure in _GRAPH_MEASURES if measure != "mutual_knn")  # chance from relabellings drawn

_OF_THEIR_OWN = (*_KERNEL_MEASURES, *_GRAPH_MEASURES)
_SAMPLED_BY_DEFAULT = 200
_LEAST_ROWS = {"cka": 4, "cka_biased": 2, "cka_rbf": 4, **dict.fromkeys(_GRAPH_MEASURES, 2), "cknna": 4}

_SHOWN = 12  # layers of a side that a printed table has room for


@dataclass(frozen=True, eq=False)
class Comparison:
    """Every measure between every layer of a and every layer of b.

    Example::

        table = repsim.compare(a, b, measures=["cka", "mutual_knn"])
        table                                           # one table of values per measure
        table["cka"].values, table["cka"].z             # [layers of a, layers of b] each
        pandas.DataFrame(table.rows())
    """

    layers_a: tuple[str, ...]
    layers_b: tuple[str, ...]
    grids: dict[str, Grid]

    def __getitem__(self, measure: str) -> Grid:
        if measure not in self.grids:
            raise ValueError(f"[Comparison] expected measure {' or '.join(map(repr, self.grids))}, got {measure!r}")
        return self.grids[measure]

    def __iter__(self) -> Iterator[str]:
        return iter(self.grids)

    def __repr__(self) -> str:
        return "\n\n".join(self._as_text(measure, grid) for measure, grid in self.grids.items())

    def _repr_html_(self) -> str:
        return "\n".join(self._as_html(measure, grid) for measure, grid in self.grids.items())

    def _as_text(self, measure: str, grid: Grid) -> str:
        table = [["a \\ b", *(name for _, name in _shown(self.layers_b))]]
        for i, layer in _shown(self.layers_a):
            table.append([layer, *(_number(grid, i, j) for j, _ in _shown(self.layers_b))])
        first, *others = (max(map(len, column)) for column in zip(*table, strict=True))
        lines = [
            "  ".join([row[0].ljust(first), *(cell.rjust(width) for cell, width in zip(row[1:], others, strict=True))])
            for row in table
        ]
        return "\n".join([_title(measure, grid), *lines])

    def _as_html(self, measure: str, grid: Grid) -> str:
        head = "".join(f"<th>{html.escape(name)}</th>" for _, name in _shown(self.layers_b))
        lines = [f"<tr><th>a \\ b</th>{head}</tr>"]
        for i, layer in _shown(self.layers_a):
            cells = "".join(f"<td>{_number(grid, i, j)}</td>" for j, _ in _shown(self.layers_b))
            lines.append(f"<tr><th>{html.escape(layer)}</th>{cells}</tr>")
        return f"<table><caption>{html.escape(_title(measure, grid))}</caption>{''.join(lines)}</table>"

    def rows(self) -> list[dict[str, Any]]:
        """One plain dict per measure and pair of layers, ready for pandas.DataFrame or pyarrow."""
        return [
            {"measure": measure, "layer_a": layer_a, "layer_b": layer_b, **grid.at(i, j, measure).to_dict()}
            for measure, grid in self.grids.items()
            for i, layer_a in enumerate(self.layers_a)
            for j, layer_b in enumerate(self.layers_b)
        ]

    def to_html(self, path: str | Path) -> None:
        """Write one self-contained page: per measure a table of all layers with coloured cells, light or dark."""
        titles = {measure: _title(measure, grid) for measure, grid in self.grids.items()}
        _write(Path(path), page(self.layers_a, self.layers_b, self.grids, titles))

    def to_csv(self, path: str | Path) -> None:
        """Write the `rows` as CSV; an option that a measure does not have is an empty field."""
        rows = self.rows()
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        _write(Path(path), text.getvalue())

    def heatmap(self, measure: str | None = None) -> Any:
        """The grid of one measure, the first where none is named, as a matplotlib figure."""
        measure = next(iter(self.grids)) if measure is None else measure
        values = self[measure].values
        from matplotlib.figure import Figure

        figure = Figure(figsize=(1.6 + 0.7 * len(self.layers_b), 1.2 + 0.55 * len(self.layers_a)), layout="constrained")
        axes = figure.add_subplot()
        most = 1.0 if self[measure].kind == "similarity" else float(values.max())
        image = axes.imshow(values, vmin=min(0.0, float(values.min())), vmax=most, cmap="viridis", aspect="auto")
        axes.set_xticks(range(len(self.layers_b)), self.layers_b, rotation=45, ha="right")
        axes.set_yticks(range(len(self.layers_a)), self.layers_a)
        axes.set_xlabel("b")
        axes.set_ylabel("a")
        figure.colorbar(image, ax=axes, label=measure)
        return figure


def compare(
    a: Any,
    b: Any,
    *,
    measures: str | Sequence[str] | Mapping[str, Mapping[str, Any]] = ("cka", "mutual_knn"),
    k: int = 10,
    metric: str = "cosine",
    permutations: int | None = None,
    jackknife: int = 0,
    seed: int = 0,
    threads: int | None = None,
    memory: int | str | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Measure every layer of a against every layer of b on the same inputs.

    Example::

        table = repsim.compare({"conv1": a1, "conv2": a2}, {"conv1": b1}, measures=["cka", "cknna"])
        table["cka"].values                             # [2, 1]
        table.rows()                                    # one dict per measure and pair

    Parameters
    ----------
    a, b: a Store, a mapping from layer names to [n, d] arrays, or one array.
    measures: names from ``repsim.measures()`` that are of representations, beside "cka" (linear, debiased) also
        "cka_biased" and "cka_rbf"; or a mapping from names to options of the measure, as in
        ``{"cka": {}, "svcca": {"variance": 0.9}}`` (CKA and the neighbour measures have none of their own here). What
        belongs to a layer is found once and serves all pairs: its Gram tiles, its graph of neighbours, its products of
        features, its distances.
    k, metric: of the neighbour measures; every layer's graph is found once and serves all of them.
    permutations, seed: relabellings that chance and p are taken from. None: 200 for the neighbour measures but
        "mutual_knn", which like CKA knows mean and sd exactly (see ``p_from`` of :class:`Similarity`), and none, and so
        no p, for the measures that would evaluate every pair again for each.
    jackknife: groups of inputs for the standard error of those measures, each left out once; 0 leaves it out. The
        neighbour measures always have one; CKA does not have it here.
    threads, memory: as for :func:`repsim.cka`.
    progress: called with (steps done, steps in all): the graph of every layer is a step, every CKA and neighbour
        measure, and every evaluation of a pair by another one.

    Returns
    -------
    Comparison with a grid per measure, each beside its null.

    Raises
    ------
    TypeError, ValueError: as for the measures, the layer named as in ``b['conv2']``; stores whose sample ids or their
        order differ; an unknown measure; no layers, or two of one name. What can be known beforehand is checked before
        any work.
    """
    chosen = tuple(dict.fromkeys([measures] if isinstance(measures, str) else measures))
    options = dict(measures) if isinstance(measures, Mapping) else {}
    known = comparable()
    for measure in chosen:
        if measure not in known:
            raise ValueError(f"[compare] expected measures from {', '.join(known)}, got {measure!r}")
    if not chosen:
        raise ValueError("[compare] expected at least one measure, got none")
    if isinstance(a, Store) and isinstance(b, Store):
        require_same_samples(a, b)
    layers_a, layers_b = _layers(a, "a"), _layers(b, "b")
    rows_a, rows_b = list(layers_a.values()), list(layers_b.values())
    cpus, budget = thread_count(threads, function="compare"), memory_budget(memory, function="compare")
    drawn = _SAMPLED_BY_DEFAULT if permutations is None else permutations
    plan = Plan(permutations or 0, seed, jackknife)
    evaluated = {name: _method(name, options.get(name, {})) for name in chosen if name not in _OF_THEIR_OWN}
    for name in set(chosen).intersection(_OF_THEIR_OWN, options):
        if options[name]:
            raise ValueError(f"[compare] expected no options for {name}, got {dict(options[name])!r}")
    least_rows = _LEAST_ROWS | {name: method.least_rows for name, method in evaluated.items()}
    _check_rows(chosen, [*rows_a, *rows_b], least_rows)
    if evaluated:
        plan.check(function="compare")
        plan.check_groups(len(rows_a[0]), function="compare")
    _check_graph_options(chosen, len(rows_a[0]), k, metric, drawn, seed)

    searched = [*rows_a, *rows_b] if any(measure in _GRAPH_MEASURES for measure in chosen) else []
    steps = count(1)
    pairs = len(rows_a) * len(rows_b)
    total = len(searched) + len(chosen) - len(evaluated) + len(evaluated) * plan.steps(pairs)

    def step(*_: int) -> None:
        if progress:
            progress(next(steps), total)

    graphs: list[Neighbours] = []
    for rows in searched:
        graphs.append(neighbours.nearest(rows, k, metric=metric, threads=cpus, memory=budget))
        step()
    sides = graphs[: len(rows_a)], graphs[len(rows_a) :]
    grids: dict[str, Grid] = {}
    for measure in chosen:
        if measure in evaluated:
            grids[measure] = evaluate_grid(
                evaluated[measure], rows_a, rows_b, options=options.get(measure, {}), kind=REGISTRY[measure].kind,
                plan=plan, threads=cpus, progress=step,
            )  # fmt: skip
            continue
        if measure in _KERNEL_MEASURES:
            grids[measure] = cka.cka_grid(rows_a, rows_b, threads=cpus, memory=budget, **_KERNEL_MEASURES[measure])
        else:
            how: dict[str, Any] = {"permutations": drawn, "seed": seed} if measure in _SAMPLED else {}
            if measure == "second_order_cosine":
                how["rows"] = (rows_a, rows_b)
            grids[measure] = _GRAPH_MEASURES[measure](*sides, threads=cpus, **how)
        step()
    return Comparison(tuple(layers_a), tuple(layers_b), grids)


def comparable() -> tuple[str, ...]:
    """The names that :func:`compare` takes."""
    others = (one.name for one in REGISTRY.values() if one.method is not None)
    return (*_OF_THEIR_OWN, *others)


def _method(measure: str, options: Mapping[str, Any]) -> Method[Any]:
    make = REGISTRY[measure].method
    assert make is not None
    try:
        inspect.signature(make).bind(**options)
    except TypeError as error:
        raise TypeError(f"[compare] expected options that {measure} has, got {dict(options)!r}: {error}") from None
    return make(**options)


def _check_rows(measures: Sequence[str], layers: Sequence[Rows], least_rows: Mapping[str, int]) -> None:
    for rows in layers:
        same_inputs(layers[0], rows, function="compare")
    n = len(layers[0])
    for measure in measures:
        if measure not in _OF_THEIR_OWN and REGISTRY[measure].same_width:
            _check_widths(measure, layers)
        least = least_rows[measure]
        if n < least:
            raise ValueError(f"[compare] expected {layers[0].name} with at least {least} rows for {measure}, got {n}")


def _check_graph_options(measures: Sequence[str], n: int, k: int, metric: str, permutations: int, seed: int) -> None:
    if any(measure in _GRAPH_MEASURES for measure in measures):
        among = neighbours.GRAM_METRICS if "cknna" in measures else neighbours.METRICS
        neighbours.check_metric(metric, function="compare", among=among)
        neighbours.check_k(k, n - 1, n, function="compare")
    if any(measure in _SAMPLED for measure in measures):
        neighbours.check_relabellings(permutations, seed, least=2, function="compare")


def _check_widths(measure: str, layers: Sequence[Rows]) -> None:
    for rows in layers:
        if rows.depth != layers[0].depth:
            raise ValueError(
                f"[compare] expected layers of one width for {measure}, got {layers[0].name} with {layers[0].depth} "
                f"and {rows.name} with {rows.depth} columns"
            )


def _layers(side: Any, name: str) -> dict[str, Rows]:
    if isinstance(side, Store):
        layers = {layer: Rows(side[layer], side.dtype(layer), f"{name}[{layer!r}]") for layer in side.layers}
        for layer, rows in layers.items():
            if rows.dtype not in DTYPES:
                raise TypeError(f"[compare] expected {name}[{layer!r}] of a floating dtype, got {rows.dtype}")
    elif isinstance(side, Mapping):
        layers = {}
        for layer, x in side.items():
            if str(layer) in layers:
                raise ValueError(
                    f"[compare] expected {name} with layer names that differ as text, got {str(layer)!r} twice"
                )
            layers[str(layer)] = as_rows(x, function="compare", name=f"{name}[{layer!r}]")
    else:
        layers = {name: as_rows(side, function="compare", name=name)}
    if not layers:
        raise ValueError(f"[compare] expected {name} with at least one layer, got none")
    return layers


def _write(path: Path, text: str) -> None:
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def _shown(layers: Sequence[str]) -> list[tuple[int | None, str]]:
    """Positions and names of the layers to print; where there are too many, a gap without a position in the middle."""
    every: list[tuple[int | None, str]] = list(enumerate(layers))
    if len(every) <= _SHOWN:
        return every
    return [*every[: _SHOWN // 2], (None, "..."), *every[-(_SHOWN // 2) :]]


def _number(grid: Grid, i: int | None, j: int | None) -> str:
    return "..." if i is None or j is None else f"{grid.values[i, j]:.3f}"


def _title(measure: str, grid: Grid) -> str:
    options = ", ".join(f"{name}={value}" for name, value in grid.options.items())
    return f"{measure}  (n={grid.n}, {options}, {grid.precision})"
