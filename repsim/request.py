"""What a comparison is asked for: measures by name, each with its options, checked before any work."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arrays import DeviceRows, Rows, same_inputs
from .kernels import Kernel, as_kernel
from .measures import neighbour_ranks, neighbour_scores, neighbour_sets, neighbours
from .measures.centred import LEAST_ROWS, check_estimator
from .measures.method import Asked, Plan
from .measures.registry import REGISTRY
from .measures.similarity import Grid

Measures = str | Sequence[str] | Mapping[str, Mapping[str, Any]]

# Measures that are no Method: of kernel matrices, with what they are unless told otherwise, and of neighbour graphs.
_KERNEL_MEASURES: dict[str, dict[str, str]] = {
    "cka": {"statistic": "cka", "kernel": "linear", "estimator": "debiased"},
    "cka_biased": {"statistic": "cka", "kernel": "linear", "estimator": "biased"},
    "cka_rbf": {"statistic": "cka", "kernel": "rbf", "estimator": "debiased"},
    "angular_cka": {"statistic": "angular_cka", "kernel": "linear", "estimator": "debiased"},
    "hsic": {"statistic": "hsic", "kernel": "linear", "estimator": "debiased"},
}
GRAPH_GRIDS: dict[str, Callable[..., Grid]] = {
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
_OF_THEIR_OWN = (*_KERNEL_MEASURES, *GRAPH_GRIDS)
_SAMPLED_BY_DEFAULT = 200


def comparable() -> tuple[str, ...]:
    """The names that :func:`repsim.compare` takes."""
    others = (one.name for one in REGISTRY.values() if one.method is not None)
    return (*_OF_THEIR_OWN, *others)


@dataclass(frozen=True)
class KernelMeasure:
    """A statistic of centred kernel matrices: "cka", "hsic" or "angular_cka"."""

    statistic: str
    estimator: str
    kernel: Kernel


@dataclass(frozen=True)
class GraphMeasure:
    """A measure of two graphs of the k nearest neighbours, with options of its own."""

    k: int
    metric: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Request:
    """Measures with all their options, in the order asked for, and what is asked beside the values."""

    measures: tuple[str, ...]
    kernels: Mapping[str, KernelMeasure]
    graphs: Mapping[str, GraphMeasure]
    methods: Mapping[str, Asked]
    plan: Plan
    drawn: int  # relabellings of the neighbour measures whose chance is sampled

    @classmethod
    def of(
        cls, measures: Measures, k: int, metric: str, permutations: int | None, jackknife: int, seed: int
    ) -> Request:
        """The request of a call.

        Raises
        ------
        TypeError, ValueError: an unknown measure, or none; options that a measure does not have, or bad ones.
        """
        if not isinstance(measures, (str, Iterable)):
            raise TypeError(
                f"[compare] expected measures as names, or a mapping from names to options, got {measures!r}"
            )
        chosen = tuple(dict.fromkeys([measures] if isinstance(measures, str) else measures))
        options = measures if isinstance(measures, Mapping) else {}
        for name, of in options.items():
            if not isinstance(of, Mapping):
                raise TypeError(f"[compare] expected options of {name} as a mapping such as {{}}, got {of!r}")
        known = comparable()
        for measure in chosen:
            if measure not in known:
                raise ValueError(f"[compare] expected measures from {', '.join(known)}, got {measure!r}")
        if not chosen:
            raise ValueError("[compare] expected at least one measure, got none")
        kernels, graphs, methods = {}, {}, {}
        for name in chosen:
            own = options.get(name, {})
            if name in _KERNEL_MEASURES:
                kernels[name] = _kernel_measure(name, own)
            elif name in GRAPH_GRIDS:
                graphs[name] = _graph_measure(name, own, k, metric)
            else:
                methods[name] = _asked(name, own)
        drawn = _SAMPLED_BY_DEFAULT if permutations is None else _plain(permutations)
        asked = (0 if permutations is None else permutations, seed, jackknife)
        return cls(chosen, kernels, graphs, methods, Plan(*map(_plain, asked)), drawn)

    def check(self, layers: Sequence[Rows]) -> None:
        """Refuse layers that the measures cannot take.

        Raises
        ------
        TypeError, ValueError: lengths that differ, layers on a GPU for measures that do not work there, too few inputs
            or neighbours, widths that differ where they must not, numbers that are no counts.
        """
        first, n = layers[0], len(layers[0])
        for rows in layers:
            same_inputs(first, rows, function="compare")
        if isinstance(first, DeviceRows):
            self._check_gpu(first)
        for name in self.measures:
            if name in self.methods and REGISTRY[name].same_width:
                _check_widths(name, layers)
            least = self._least_rows(name)
            if n < least:
                raise ValueError(f"[compare] expected {first.name} with at least {least} rows for {name}, got {n}")
        if self.methods:
            self.plan.check(function="compare")
            self.plan.check_groups(n, function="compare")
        for name, graph in self.graphs.items():
            among = neighbours.GRAM_METRICS if name == "cknna" else neighbours.METRICS
            neighbours.check_metric(graph.metric, function="compare", among=among)
            neighbours.check_k(graph.k, n - 1, n, function="compare")
        if any(self.sampled(name) for name in self.graphs):
            neighbours.check_relabellings(self.drawn, self.plan.seed, least=2, function="compare")

    def _check_gpu(self, rows: Rows) -> None:
        names = {name: self.kernels[name].statistic if name in self.kernels else name for name in self.measures}
        unable = [name for name, account in names.items() if not REGISTRY[account].gpu]
        if unable:
            raise ValueError(
                f"[compare] expected measures that work on a GPU for {rows.name} there, got {', '.join(unable)}; "
                "leave these out, or pass all layers from the host and no device"
            )

    def _least_rows(self, name: str) -> int:
        if name in self.kernels:
            return LEAST_ROWS[self.kernels[name].estimator]
        return self.methods[name].method.least_rows if name in self.methods else 4 if name == "cknna" else 2

    @staticmethod
    def sampled(name: str) -> bool:
        """Whether a measure of graphs takes chance from relabellings that are drawn."""
        return name != "mutual_knn"

    @staticmethod
    def symmetric(name: str) -> bool:
        """Whether the order of both sides does not matter to a measure."""
        return name in _KERNEL_MEASURES or REGISTRY[name].symmetric

    def searches(self) -> dict[tuple[int, str], None]:
        """(k, metric) of every graph that is needed; the most neighbours first, which serve the others of a metric."""
        return dict.fromkeys(sorted(((one.k, one.metric) for one in self.graphs.values()), reverse=True))

    def steps(self, layers: int, pairs: int) -> int:
        """How often a comparison reports progress."""
        own = len(self.kernels) + len(self.graphs)
        return layers * len(self.searches()) + own + len(self.methods) * self.plan.steps(pairs)

    def account(self, name: str) -> dict[str, Any]:
        """All that the grid of a measure follows from beside its layers, as plain values."""
        if name in self.kernels:
            one = self.kernels[name]
            return {"statistic": one.statistic, "estimator": one.estimator, "kernel": str(one.kernel)}
        if name in self.graphs:
            graph = self.graphs[name]
            drawn = [self.drawn, self.plan.seed] if self.sampled(name) else []
            return {
                "k": graph.k,
                "metric": graph.metric,
                "options": repr(sorted(graph.options.items())),
                "drawn": drawn,
            }
        given = sorted((option, repr(value)) for option, value in self.methods[name].options.items())
        return {"options": given, "plan": [self.plan.permutations, self.plan.seed, self.plan.jackknife]}

    def only(self, names: Iterable[str]) -> Request:
        """The same request of some of its measures."""
        kept = set(names)

        def some(of: Mapping[str, Any]) -> dict[str, Any]:
            return {name: one for name, one in of.items() if name in kept}

        chosen = tuple(name for name in self.measures if name in kept)
        return Request(chosen, some(self.kernels), some(self.graphs), some(self.methods), self.plan, self.drawn)


def _kernel_measure(name: str, own: Mapping[str, Any]) -> KernelMeasure:
    what = _bound(name, lambda kernel=None, estimator=None: None, own)
    asked = {**_KERNEL_MEASURES[name], **what}
    check_estimator(asked["estimator"], function="compare")
    return KernelMeasure(asked["statistic"], asked["estimator"], as_kernel(asked["kernel"], function="compare"))


def _graph_measure(name: str, own: Mapping[str, Any], k: int, metric: str) -> GraphMeasure:
    takes = inspect.signature(GRAPH_GRIDS[name]).parameters
    if "normalized" in takes:
        asked = _bound(name, lambda k=None, metric=None, normalized=None: None, own)
    else:
        asked = _bound(name, lambda k=None, metric=None: None, own)
    return GraphMeasure(_plain(asked.pop("k", k)), asked.pop("metric", metric), asked)


def _asked(name: str, own: Mapping[str, Any]) -> Asked:
    make = REGISTRY[name].method
    assert make is not None, "only those are comparable"
    every = _bound(name, make, own, defaults=True)
    method = make(**own)  # which refuses bad options
    return Asked(method, {option: _plain(value) for option, value in every.items()}, REGISTRY[name].kind)


def _plain(value: Any) -> Any:
    """An option as results show it, and exactly as text: kernels by their formula, arrays as tuples of numbers."""
    if isinstance(value, Kernel):
        return str(value)
    if isinstance(value, (list, tuple, np.ndarray)):
        return tuple(np.asarray(value).tolist())
    return value.item() if isinstance(value, np.generic) else value


def _bound(name: str, takes: Callable[..., Any], own: Mapping[str, Any], *, defaults: bool = False) -> dict[str, Any]:
    """The options given, and those of a measure that were not where ``defaults``."""
    signature = inspect.signature(takes)
    try:
        bound = signature.bind(**own)
    except TypeError as error:
        raise TypeError(f"[compare] expected options that {name} has, got {dict(own)!r}: {error}") from None
    if defaults:
        bound.apply_defaults()
        return dict(bound.arguments)
    return dict(own)


def _check_widths(measure: str, layers: Sequence[Rows]) -> None:
    for rows in layers:
        if rows.depth != layers[0].depth:
            raise ValueError(
                f"[compare] expected layers of one width for {measure}, got {layers[0].name} with {layers[0].depth} "
                f"and {rows.name} with {rows.depth} columns"
            )
