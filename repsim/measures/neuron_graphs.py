"""How far the neurons of a representation fall into groups: the modularity of the graph of their correlations."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arguments import Progress, whole_number
from ..arrays import Rows
from .registry import Measure, invariant_to, register
from .sides import column_lengths, side_of
from .similarity import Distance
from .statistics import difference_in, statistic_of

_LEAST_ROWS = 3  # with two, every correlation is 1
_ROUNDING = 1e-9  # a graph of correlations all below it is one of rounding errors


def _neuron_modularity(rows: Rows, *, function: str, threads: int, starts: int = 5, partition_seed: int = 0) -> float:
    whole_number(starts, "starts", function=function)
    whole_number(partition_seed, "partition_seed", function=function, least=0)
    if len(rows) < _LEAST_ROWS:
        raise ValueError(f"[{function}] expected at least {_LEAST_ROWS} inputs, got {len(rows)}")
    if rows.depth < 2:
        raise ValueError(f"[{function}] expected {rows.name} with at least two columns, got one")
    side = side_of(rows, function=function, threads=threads)
    lengths = column_lengths(side, function=function)
    weights = np.abs(side.own / lengths / lengths[:, None])
    np.fill_diagonal(weights, 0.0)
    if not weights.max() > _ROUNDING:
        raise ValueError(
            f"[{function}] expected {rows.name} with columns that are correlated, got correlations of at most "
            f"{weights.max():.2g}, which is rounding, as principal components have"
        )
    # Neurons in the order of their strength, so that the order of the columns does not matter to the search.
    order = np.argsort(-weights.sum(axis=1), kind="stable")
    weights = weights[np.ix_(order, order)]
    return max(_modularity(weights, _communities(weights, partition_seed + start)) for start in range(starts))


def _communities(weights: np.ndarray, seed: int) -> np.ndarray:
    """[d] the community of every neuron, by the method of Louvain."""
    from networkx import from_numpy_array
    from networkx.algorithms.community import louvain_communities

    found = np.empty(len(weights), np.int64)
    for number, members in enumerate(louvain_communities(from_numpy_array(weights), weight="weight", seed=seed)):
        found[list(members)] = number
    return found


def _modularity(weights: np.ndarray, communities: np.ndarray) -> float:
    of = np.equal.outer(np.arange(communities.max() + 1), communities).astype(np.float64)  # [communities, d]
    between = of @ weights @ of.T / weights.sum()
    return float(np.trace(between) - (between.sum(axis=1) ** 2).sum())


NEURON_MODULARITY_DIFFERENCE = register(
    Measure(
        name="neuron_modularity_difference",
        family="neuron_graphs",
        kind="distance",
        low=0.0,
        high=1.0,
        symmetric=True,
        metric=True,
        invariances=invariant_to("permutation", "isotropic_scaling", "translation"),
        cost="time n (d^2 + d'^2) and, per start, about (d^2 + d'^2) log d, memory d^2 + d'^2",
        paper="Lange, Rolnick and Kording (2022), Clustering units in neural networks: upstream vs downstream "
        "information",
        formula="|Q(x) - Q(y)|, Q the largest modularity found of the graph of neurons with weights |correlation|",
        note="A choice among graphs of neurons, of which there are many; the search for communities is Louvain's, so "
        "that Q is a lower bound. No relabelling of the inputs changes it.",
        method=difference_in(_neuron_modularity, "neuron_modularity_difference", least_rows=_LEAST_ROWS),
        self_value=0.0,
        gpu=True,
    )
)


def neuron_modularity(
    x: Any, *, starts: int = 5, partition_seed: int = 0, threads: int | None = None, device: Any = None
) -> float:
    """The largest modularity found of the graph of neurons: how far they fall into groups that vary together.

    Example::

        groups = np.repeat(rng.normal(size=(1000, 4)), 8, axis=1)        # four groups of eight neurons
        repsim.neuron_modularity(groups + 0.1 * rng.normal(size=(1000, 32)))     # about 0.7

    Parameters
    ----------
    x: [n, d] array as for :func:`repsim.cka`, at least 3 inputs and 2 columns.
    starts: searches for communities, each in another order of the neurons; the best counts. One takes about a tenth of
        a second for 64 neurons, and a second for 256.
    partition_seed: start s takes the orders of seed ``partition_seed + s`` of networkx.
    threads, device: as for :func:`repsim.cka`.

    Returns
    -------
    float in [0, 1): Q = sum over communities c of [w_c / W - (D_c / 2 W)^2], with W the sum of the weights of all
    pairs of neurons, w_c of those within c, D_c the summed weights of the neurons of c. A partition with a larger Q may
    exist: finding the best is NP-hard.

    Raises
    ------
    TypeError, ValueError: as for :func:`repsim.cka`; fewer inputs or columns; a column that does not vary (it is
        named); columns that are not correlated at all; counts that are none.

    Papers: Newman and Girvan (2004), "Finding and evaluating community structure in networks"; Blondel et al. (2008),
        "Fast unfolding of communities in large networks", the method of Louvain.
    """
    options = {"starts": starts, "partition_seed": partition_seed}
    return statistic_of(_neuron_modularity, "neuron_modularity", x, threads, device, **options)


def neuron_modularity_difference(
    x: Any,
    y: Any,
    *,
    starts: int = 5,
    partition_seed: int = 0,
    permutations: int = 0,
    seed: int = 0,
    jackknife: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
    device: Any = None,
) -> Distance:
    """How far the modularities of the graphs of neurons are apart.

    Example::

        repsim.neuron_modularity_difference(x, y)               # x [n, d], y [n, d']

    Parameters
    ----------
    x, y, permutations, seed, jackknife, threads, progress, device: as for :func:`repsim.magnitude_difference`; at least
        3 inputs.
    starts, partition_seed: as for :func:`neuron_modularity`.

    Returns
    -------
    Distance in [0, 1]: |Q(x) - Q(y)| with Q of :func:`neuron_modularity`.

    Raises
    ------
    TypeError, ValueError: as for :func:`neuron_modularity`.

    Papers: as of :func:`neuron_modularity`; Lange, Rolnick and Kording (2022), "Clustering units in neural networks:
        upstream vs downstream information", who compare graphs by many associations of neurons. Weights |correlation|
        and the method of Louvain are the choice here; the paper's search for soft communities is another one.
    """
    return NEURON_MODULARITY_DIFFERENCE.evaluate(
        x, y, {"starts": starts, "partition_seed": partition_seed}, permutations=permutations, seed=seed,
        jackknife=jackknife, threads=threads, progress=progress, device=device,
    )  # fmt: skip
