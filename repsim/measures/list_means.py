"""Measures that are a mean over inputs of a statistic of two neighbour lists, and their level of chance."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import reductions
from ..arguments import thread_count
from ..calibration import add_one_p, mean_error, sampled_null
from .neighbours import Neighbours, check_relabellings, graph_pair, one_kind
from .similarity import Grid, Similarity, grid_of

# Relabellings at a time hold about this many names: one for many inputs, several where a call would cost more.
_NAMES = 2**16


@dataclass(frozen=True)
class ListMean:
    """A measure that is a mean over inputs.

    ``statistic`` of csrc/ops.h, ``value`` what the measure makes of its total over so many inputs, with k; with
    ``listed_by`` the lists of x are those of the inputs that list one.
    """

    name: str
    statistic: str
    value: Callable[[np.ndarray, int, int], np.ndarray]
    listed_by: bool = False

    def lists(self, graph: Neighbours) -> reductions.Lists:
        return reductions.Lists.listed_by(graph.indices) if self.listed_by else reductions.Lists(graph.indices)


def share_of_k(total: np.ndarray, inputs: int, k: int) -> np.ndarray:
    return total / (inputs * k)


def mean(total: np.ndarray, inputs: int, k: int) -> np.ndarray:
    return total / inputs


def per_input_terms(measure: ListMean, x: Neighbours, y: Neighbours, *, threads: int | None = None) -> np.ndarray:
    """The terms [n] float64 whose mean is the measure."""
    cpus = thread_count(threads, function=measure.name)
    one_kind([x], [y], measure.name)
    return measure.value(reductions.list_terms(measure.lists(x), y.indices, measure.statistic, threads=cpus), 1, x.k)


def standard_errors(terms: Callable[[int, int], np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """The standard error of the mean of the terms of every pair [L1, L2].

    It takes the graphs as fixed. The neighbours of an input are other inputs, so that the terms of a new sample would
    not be independent of each other as this has it.
    """
    return np.array([[mean_error(terms(i, j)) for j in range(shape[1])] for i in range(shape[0])])


def grid_of_means(
    measure: ListMean,
    xs: Sequence[Neighbours],
    ys: Sequence[Neighbours],
    permutations: int,
    seed: int,
    threads: int | None,
    options: Mapping[str, Any] | None = None,
) -> Grid:
    """The measure between every graph in ``xs`` and every graph in ``ys``, with chance from relabellings."""
    check_relabellings(permutations, seed, least=2, function=measure.name)
    n, k = one_kind(xs, ys, measure.name)
    values, null = means_and_relabelled(measure, xs, ys, permutations, seed, threads)
    errors = standard_errors(lambda i, j: per_input_terms(measure, xs[i], ys[j], threads=threads), values.shape)
    return sampled_grid(values, null, n, {"k": k, "metric": xs[0].metric, **(options or {})}, errors=errors)


def means_and_relabelled(
    measure: ListMean,
    xs: Sequence[Neighbours],
    ys: Sequence[Neighbours],
    permutations: int,
    seed: int,
    threads: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    """The measure [L1, L2] and under every relabelling [permutations, L1, L2], the same for every pair."""
    cpus = thread_count(threads, function=measure.name)
    n, k = xs[0].n, xs[0].k
    left, right = [measure.lists(graph) for graph in xs], [graph.indices for graph in ys]

    def total(i: int, j: int, names: np.ndarray | None) -> np.ndarray:
        return reductions.list_sums(left[i], right[j], measure.statistic, names, threads=cpus)

    observed, relabelled = every_pair(total, (len(xs), len(ys)), n, permutations, seed)
    return measure.value(observed, n, k), measure.value(relabelled, n, k)


def every_pair(
    statistic: Callable[[int, int, np.ndarray | None], np.ndarray],
    shape: tuple[int, int],
    n: int,
    permutations: int,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    """statistic(i, j, names), [relabellings], of every pair as it is and relabelled: [L1, L2], [permutations, L1, L2].

    The relabellings are drawn from the seed and n alone, and shared by all pairs.
    """
    pairs = [(i, j) for i in range(shape[0]) for j in range(shape[1])]
    observed, relabelled = np.empty(shape), np.empty((permutations, *shape))
    for i, j in pairs:
        observed[i, j] = statistic(i, j, None)[0]
    for part, names in _relabellings(n, permutations, seed):
        for i, j in pairs:
            relabelled[part, i, j] = statistic(i, j, names)
    return observed, relabelled


def _relabellings(n: int, permutations: int, seed: int) -> Iterator[tuple[slice, np.ndarray]]:
    rng = np.random.default_rng([seed, n])
    at_once = max(1, _NAMES // n)
    for start in range(0, permutations, at_once):
        names = np.empty((min(at_once, permutations - start), n), np.int64)
        for one in names:
            one[:] = rng.permutation(n)
        yield slice(start, start + len(names)), names


def sampled_grid(
    values: np.ndarray,
    null: np.ndarray,
    n: int,
    options: dict[str, Any],
    *,
    precision: str = "float32",
    errors: np.ndarray | None = None,
) -> Grid:
    """Values [L1, L2] beside mean, sd and add-one p of the relabellings [permutations, L1, L2]."""
    cells = [
        [
            (value, sampled_null(chance), add_one_p(value, chance))
            for value, chance in zip(row.tolist(), np.moveaxis(null[:, i], 0, -1), strict=True)
        ]
        for i, row in enumerate(values)
    ]
    drawn = f"{len(null)} relabellings"
    return grid_of(cells, n, options, precision, null_from=drawn, standard_errors=errors, draws=null)


def mean_of_pair(
    measure: ListMean,
    x: Any,
    y: Any,
    k: int,
    metric: str,
    permutations: int,
    seed: int,
    threads: int | None,
    memory: int | str | None,
    device: Any,
    options: Mapping[str, Any] | None = None,
) -> Similarity:
    """The measure of two arrays or graphs."""
    check_relabellings(permutations, seed, least=2, function=measure.name)
    gx, gy = graph_pair(x, y, k, metric, measure.name, threads, memory, device)
    return grid_of_means(measure, [gx], [gy], permutations, seed, threads, options).at(0, 0, measure.name)
