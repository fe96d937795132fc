"""All layers of many models against each other: one long table, and one heatmap with a block for every two models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, groupby
from pathlib import Path
from typing import Any

import numpy as np

from .arguments import Progress, memory_budget, thread_count
from .comparison import Comparison, LongTable, figure_of, title, write_text
from .comparison_page import page
from .grids import begin, grids_between, search_graphs, steps_of
from .measures.similarity import Grid
from .model_layers import layers_of, require_same_inputs
from .plan import groups_of
from .reductions import device_of
from .request import Request
from .saved_grids import SavedGrids


@dataclass(frozen=True, eq=False)
class ModelComparison(LongTable):
    """Every measure between every two layers of some models.

    Example::

        table = repsim.compare_models({"bert": store, "gpt2": {"layer1": x, "layer2": y}, "t5": z})
        table["bert", "gpt2"]                           # the Comparison of two models
        table.to_pandas()                               # measure, model_a, layer_a, model_b, layer_b, value, p, ...
        table.heatmap("cka"), table.best()

    ``layers``: names by model. ``pairs``: comparisons by the names of both models, in the order given; of a measure
    that is not symmetric those of both orders.
    """

    layers: dict[str, tuple[str, ...]]
    pairs: dict[tuple[str, str], Comparison]

    def __getitem__(self, models: tuple[str, str]) -> Comparison:
        if models not in self.pairs:
            known = ", ".join(map(repr, self.pairs))
            raise ValueError(f"[ModelComparison] expected two models of {known}, got {models!r}")
        return self.pairs[models]

    @property
    def measures(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(measure for pair in self.pairs.values() for measure in pair))

    def __repr__(self) -> str:
        sizes = ", ".join(f"{model} ({len(layers)} layers)" for model, layers in self.layers.items())
        blocks = [
            f"{first} (a) and {second} (b)\n\n{of!r}" for (first, second), of in self.pairs.items() if first != second
        ]
        return "\n\n".join([sizes, *blocks])

    def rows(self) -> list[dict[str, Any]]:
        """One plain dict per measure and pair of layers; two layers of two models once, unless order matters."""
        return [
            {"measure": row.pop("measure"), "model_a": first, "layer_a": row.pop("layer_a"), "model_b": second, **row}
            for (first, second), pair in self.pairs.items()
            for row in pair.rows()
        ]

    def best(self) -> list[dict[str, Any]]:
        """Of every measure and every two different models the pair of layers that is most alike.

        p is that of the best of all pairs of layers of the two models (see :meth:`repsim.Comparison.best`); it knows
        nothing of the other models.
        """
        return [
            {"measure": row.pop("measure"), "model_a": first, "model_b": second, **row}
            for (first, second), pair in self.pairs.items()
            if first != second
            for row in pair.best()
        ]

    def whole(self, measure: str) -> Grid:
        """A measure between all layers of all models, [layers, layers]; NaN where two models were not compared."""
        starts, total = self._starts()
        numbers = ("values", "null_mean", "null_sd", "null_skewness", "p")
        arrays = {name: np.full((total, total), np.nan) for name in numbers}
        grid = None
        for (first, second), pair in self.pairs.items():
            if measure not in pair.grids:
                continue
            grid = pair.grids[measure]
            down = slice(starts[first], starts[first] + len(self.layers[first]))
            across = slice(starts[second], starts[second] + len(self.layers[second]))
            mirrored = first != second and measure not in getattr(self.pairs.get((second, first)), "grids", {})
            for name, array in arrays.items():
                array[down, across] = getattr(grid, name)
                if mirrored:
                    array[across, down] = getattr(grid, name).T
        if grid is None:
            raise ValueError(f"[ModelComparison] expected measure {' or '.join(self.measures)}, got {measure!r}")
        return Grid(
            **arrays, standard_error=None, n=grid.n, options=grid.options, precision=grid.precision,
            null_from=grid.null_from, p_from=grid.p_from, kind=grid.kind,
        )  # fmt: skip

    def _starts(self) -> tuple[dict[str, int], int]:
        starts, total = {}, 0
        for model, layers in self.layers.items():
            starts[model] = total
            total += len(layers)
        return starts, total

    def _names(self) -> list[str]:
        return [f"{model} {layer}" for model, layers in self.layers.items() for layer in layers]

    def to_html(self, path: str | Path) -> None:
        """Write one self-contained page: per measure a table of all layers of all models, a block for every two."""
        grids = {measure: self.whole(measure) for measure in self.measures}
        titles = {measure: title(measure, grid) for measure, grid in grids.items()}
        names, edges = self._names(), list(self._starts()[0].values())
        head = f"{len(self.layers)} models: {', '.join(self.layers)}"
        write_text(Path(path), page(names, names, grids, titles, head=head, edges=edges))

    def heatmap(self, measure: str | None = None) -> Any:
        """All layers of all models under one measure, the first where none is named, as a matplotlib figure."""
        measure = self.measures[0] if measure is None else measure
        grid, names, starts = self.whole(measure), self._names(), self._starts()[0]
        figure = figure_of(measure, grid.values, grid.kind, names, names, labels=("", ""))
        axes = figure.axes[0]
        for start in list(starts.values())[1:]:
            axes.axhline(start - 0.5, color="white", linewidth=2)
            axes.axvline(start - 0.5, color="white", linewidth=2)
        return figure


def compare_models(
    models: Mapping[str, Any],
    *,
    measures: str | Sequence[str] | Mapping[str, Mapping[str, Any]] = ("cka", "mutual_knn"),
    k: int = 10,
    metric: str = "cosine",
    permutations: int | None = None,
    jackknife: int = 0,
    seed: int = 0,
    within: bool = True,
    threads: int | None = None,
    memory: int | str | None = None,
    resume: str | Path | None = None,
    progress: Progress | None = None,
    device: Any = None,
) -> ModelComparison:
    """Measure every layer of every model against every layer of every other one, on the same inputs.

    Example::

        table = repsim.compare_models({"bert": store, "gpt2": {"layer1": x, "layer2": y}}, measures=["cka", "svcca"])
        table.heatmap("cka")                            # blocks by model
        table["bert", "gpt2"]["svcca"].values           # [layers of bert, 2]

    Parameters
    ----------
    models: a Store, a mapping from layer names to [n, d] arrays, or one array, by name; two or more.
    within: also the layers of a model with each other.
    measures, k, metric, permutations, jackknife, seed, threads, memory, resume, progress, device: as for
        :func:`repsim.compare`. Every layer is prepared once for all its pairs, and given up after the last of them;
        only the tiles of kernels that are not linear are made again for every two models. A measure that is not
        symmetric is taken in both orders. With ``resume``, the grids of every two models that are finished are kept.

    Returns
    -------
    ModelComparison.

    Raises
    ------
    TypeError, ValueError: as for :func:`repsim.compare`, layers named as in ``gpt2['layer1']``; fewer than two models.
    """
    if not isinstance(models, Mapping) or len(models) < 2:
        got = f"{len(models)}" if isinstance(models, Mapping) else type(models).__name__
        raise ValueError(f"[compare_models] expected a mapping from names to at least two models, got {got}")
    request = Request.of(measures, k, metric, permutations, jackknife, seed)
    require_same_inputs(list(models.values()))
    layers = {str(name): layers_of(model, str(name), device) for name, model in models.items()}
    if len(layers) < len(models):
        raise ValueError("[compare_models] expected models whose names differ as text, got one twice")
    cpus, budget = thread_count(threads, function="compare"), memory_budget(memory, function="compare")
    every = [rows for of in layers.values() for rows in of.values()]
    request.check(every)

    saved = None if resume is None else SavedGrids(resume)
    backwards = request.only(name for name in request.measures if not request.symmetric(name))
    asked: dict[tuple[str, str], Request] = {(name, name): request for name in layers} if within else {}
    for first, second in combinations(layers, 2):
        asked[first, second] = request
        if backwards.measures:
            asked[second, first] = backwards
    order = {name: place for place, name in enumerate(layers)}
    begun = {
        pair: begin(of, list(layers[pair[0]].values()), list(layers[pair[1]].values()), saved)
        # All pairs of a model that is first in order come together: it is given up after them.
        for pair, of in sorted(asked.items(), key=lambda item: sorted(map(order.__getitem__, item[0])))
    }
    searching = request.only(name for _, todo, _ in begun.values() for name in todo.measures)
    groups = groups_of(searching, every, every, memory=budget, keeps=True)

    def searched(group: Request) -> list[Any]:
        """The layers whose graphs a pair that is not finished needs."""
        models = {name for pair, (_, todo, _) in begun.items() if todo.only(group.measures).graphs for name in pair}
        return [rows for name, of in layers.items() if name in models for rows in of.values()]

    step = steps_of(
        sum(
            len(searched(group)) * len(group.searches())
            + sum(todo.only(group.measures).steps(0, _pairs(layers, pair)) for pair, (_, todo, _) in begun.items())
            for group in groups
        ),
        progress,
    )
    for group in groups:
        search_graphs(group, searched(group), threads=cpus, memory=budget, step=step)
        for name, pairs_of_it in groupby(begun, key=lambda pair: min(pair, key=order.__getitem__)):
            for pair in pairs_of_it:
                _, todo, keep = begun[pair]
                left, right = (list(layers[side].values()) for side in pair)
                asked_here = todo.only(group.measures)
                grids_between(asked_here, left, right, threads=cpus, memory=budget, step=step, keep=keep, forget=False)
            for rows in layers[name].values():
                rows.found.clear()
        for rows in every:  # the last model comes first in no pair but that with itself
            rows.found.clear()
    names, where = {model: tuple(of) for model, of in layers.items()}, device_of(every[0])
    pairs = {
        pair: Comparison(names[pair[0]], names[pair[1]], {name: grids[name] for name in asked[pair].measures}, where)
        for pair, (grids, _, _) in begun.items()
    }
    return ModelComparison(names, pairs)


def _pairs(layers: Mapping[str, Mapping[str, Any]], models: tuple[str, str]) -> int:
    return len(layers[models[0]]) * len(layers[models[1]])
