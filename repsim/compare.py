"""All layers of one model against all layers of another, under several measures: one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .arrays import DTYPES, Rows, as_rows
from .measures import cka, neighbours
from .measures.similarity import Grid
from .reductions import thread_count
from .store import Store, require_same_samples

# What a measure takes: the rows of the layers of both sides, and the graphs of their nearest neighbours when asked for.
_KERNEL_MEASURES: dict[str, dict[str, str]] = {
    "cka": {"kernel": "linear", "estimator": "debiased"},
    "cka_biased": {"kernel": "linear", "estimator": "biased"},
    "cka_rbf": {"kernel": "rbf", "estimator": "debiased"},
}
_GRAPH_MEASURES: dict[str, Callable[..., Grid]] = {
    "mutual_knn": neighbours.mutual_knn_grid,
    "cknna": neighbours.cknna_grid,
}
MEASURES = (*_KERNEL_MEASURES, *_GRAPH_MEASURES)


@dataclass(frozen=True)
class Comparison:
    """Every measure between every layer of a and every layer of b; ``grids[measure].values`` is [layers of a, layers of b]."""

    layers_a: tuple[str, ...]
    layers_b: tuple[str, ...]
    grids: dict[str, Grid]

    def __getitem__(self, measure: str) -> Grid:
        return self.grids[measure]

    def rows(self) -> list[dict[str, Any]]:
        """One plain dict per measure and pair of layers, ready for pandas.DataFrame or pyarrow."""
        return [
            {
                "measure": measure,
                "layer_a": layer_a,
                "layer_b": layer_b,
                "value": float(grid.values[i, j]),
                "null_mean": float(grid.null_mean[i, j]),
                "null_sd": float(grid.null_sd[i, j]),
                "z": float(grid.z[i, j]),
                "p": float(grid.p[i, j]),
                "n": grid.n,
                "precision": grid.precision,
                **grid.options,
            }
            for measure, grid in self.grids.items()
            for i, layer_a in enumerate(self.layers_a)
            for j, layer_b in enumerate(self.layers_b)
        ]

    def heatmap(self, measure: str) -> Any:
        """The grid of one measure as a matplotlib figure."""
        if measure not in self.grids:
            raise ValueError(f"[heatmap] expected measure {' or '.join(map(repr, self.grids))}, got {measure!r}")
        from matplotlib.figure import Figure

        values = self.grids[measure].values
        figure = Figure(figsize=(1.6 + 0.7 * len(self.layers_b), 1.2 + 0.55 * len(self.layers_a)), layout="constrained")
        axes = figure.add_subplot()
        image = axes.imshow(values, vmin=min(0.0, float(values.min())), vmax=1.0, cmap="viridis", aspect="auto")
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
    measures: Sequence[str] = ("cka", "mutual_knn"),
    k: int = 10,
    metric: str = "cosine",
    permutations: int = 200,
    seed: int = 0,
    threads: int | None = None,
) -> Comparison:
    """Measure every layer of a against every layer of b on the same inputs.

    Example::

        table = repsim.compare({"conv1": a1, "conv2": a2}, {"conv1": b1}, measures=["cka", "cknna"])
        table["cka"].values                             # [2, 1]
        table.rows()                                    # one dict per measure and pair

    Parameters
    ----------
    a, b: a Store, a mapping from layer names to [n, d] arrays, or one array.
    measures: of "cka" (linear, debiased), "cka_biased", "cka_rbf", "mutual_knn", "cknna".
    k, metric: of the neighbour measures; every layer's graph is found once and serves all of them.
    permutations, seed: relabellings from which "cknna" takes its chance level and p; the others know theirs exactly.
    threads: as for :func:`repsim.cka`.

    Returns
    -------
    Comparison with a grid per measure, each beside its null.

    Raises
    ------
    TypeError, ValueError: as for the measures; stores whose sample ids or their order differ; an unknown measure; no layers.
    """
    chosen = tuple(dict.fromkeys([measures] if isinstance(measures, str) else measures))
    for measure in chosen:
        if measure not in MEASURES:
            raise ValueError(f"[compare] expected measures from {', '.join(MEASURES)}, got {measure!r}")
    if not chosen:
        raise ValueError("[compare] expected at least one measure, got none")
    if isinstance(a, Store) and isinstance(b, Store):
        require_same_samples(a, b)
    layers_a, layers_b = _layers(a, "a"), _layers(b, "b")
    rows_a, rows_b = list(layers_a.values()), list(layers_b.values())

    graphs: tuple[list[Any], list[Any]] = ([], [])
    if any(measure in _GRAPH_MEASURES for measure in chosen):
        graphs = tuple(  # type: ignore[assignment]
            [neighbours.nearest(rows, k, metric=metric, threads=threads) for rows in side] for side in (rows_a, rows_b)
        )
    grids: dict[str, Grid] = {}
    for measure in chosen:
        if measure in _KERNEL_MEASURES:
            grids[measure] = cka.cka_grid(
                rows_a, rows_b, threads=thread_count(threads, function="compare"), **_KERNEL_MEASURES[measure]
            )
        elif measure == "mutual_knn":
            grids[measure] = neighbours.mutual_knn_grid(*graphs)
        else:
            grids[measure] = neighbours.cknna_grid(*graphs, permutations=permutations, seed=seed)
    return Comparison(tuple(layers_a), tuple(layers_b), grids)


def _layers(side: Any, name: str) -> dict[str, Rows]:
    if isinstance(side, Store):
        layers = {layer: Rows(side[layer], side.dtype(layer), f"{name}[{layer!r}]") for layer in side.layers}
        for layer, rows in layers.items():
            if rows.dtype not in DTYPES:
                raise TypeError(f"[compare] expected {name}[{layer!r}] of a floating dtype, got {rows.dtype}")
    elif isinstance(side, Mapping):
        layers = {
            str(layer): as_rows(x, function="compare", name=f"{name}[{layer!r}]") for layer, x in side.items()
        }
    else:
        layers = {name: as_rows(side, function="compare", name=name)}
    if not layers:
        raise ValueError(f"[compare] expected {name} with at least one layer, got none")
    return layers
