"""All layers of one model against all layers of another, under several measures: one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .arguments import Progress, memory_budget, thread_count
from .comparison import Comparison
from .grids import begin, grids_between, search_graphs, steps_of
from .model_layers import layers_of, require_same_inputs
from .plan import groups_of
from .reductions import device_of
from .request import Request
from .saved_grids import SavedGrids


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
    resume: str | Path | None = None,
    progress: Progress | None = None,
    device: Any = None,
) -> Comparison:
    """Measure every layer of a against every layer of b on the same inputs.

    Example::

        table = repsim.compare({"conv1": a1, "conv2": a2}, {"conv1": b1}, measures=["cka", "cknna"])
        table["cka"].values                             # [2, 1]
        table.rows()                                    # one dict per measure and pair

    Parameters
    ----------
    a, b: a Store, a mapping from layer names to [n, d] arrays, or one array. More than two models:
        :func:`repsim.compare_models`.
    measures: names from ``repsim.measures()`` that are of representations, beside "cka" (linear, debiased) also
        "cka_biased" and "cka_rbf"; or a mapping from names to options of the measure, as in
        ``{"cka": {"kernel": repsim.RBF(median_fraction=0.5)}, "mutual_knn": {"k": 20}, "svcca": {"variance": 0.9}}``:
        kernel and estimator of CKA, angular CKA and HSIC, k and metric of the neighbour measures, all of the others.
        What several measures need of a layer or of a pair is found once and serves all of them: its products of
        features and their axes, its graph of neighbours, its distances, its Gram tiles. Every value is bit for bit
        what the measure's own function gives.
    k, metric: of the neighbour measures that are not told otherwise.
    permutations, seed: relabellings that chance and p are taken from. None: 200 for the neighbour measures but
        "mutual_knn", which like CKA knows mean and sd exactly (see ``p_from`` of :class:`Similarity`), and none, and so
        no p, for the measures that would evaluate every pair again for each.
    jackknife: groups of inputs for the standard error of those measures, each left out once; 0 leaves it out. The
        neighbour measures always have one; CKA does not have it here.
    threads: as for :func:`repsim.cka`.
    memory: bytes, or text such as "4GB", beside the inputs: measures that together need more are evaluated in groups,
        and one that alone needs more is refused before any work (see :func:`repsim.plan`). None: what the machine, or
        its container, has.
    resume: a folder, made where there is none, in which every finished grid is kept under a name made of its content
        (the numbers of the layers, the measure, its options): what is there is read, not computed again.
    progress: called with (steps done, steps in all): the graph of every layer is a step, every CKA and neighbour
        measure, and every evaluation of a pair by another one.
    device: where to work, as for :func:`repsim.cka`. Layers may lie on a GPU, all on one; those on the CPU and of
        stores are brought there a block at a time. What is summed over inputs, or over pairs of them, is summed there,
        and the rest by the host; ``memory`` is then that of the GPU for tiles and blocks, and nothing is planned. The
        table of :func:`repsim.measures` says which measures work there; the others are named by one error.

    Returns
    -------
    Comparison with a grid per measure, each beside its null, and the device that all of it was worked out on.

    Raises
    ------
    TypeError, ValueError: as for the measures, the layer named as in ``b['conv2']``; stores whose sample ids or their
        order differ; an unknown measure; no layers, or two of one name; a measure that the memory does not hold. What
        can be known beforehand is checked before any work.
    """
    request = Request.of(measures, k, metric, permutations, jackknife, seed)
    require_same_inputs([a, b])
    layers_a, layers_b = layers_of(a, "a", device), layers_of(b, "b", device)
    left, right = list(layers_a.values()), list(layers_b.values())
    cpus, budget = thread_count(threads, function="compare"), memory_budget(memory, function="compare")
    request.check([*left, *right])
    grids, todo, keep = begin(request, left, right, None if resume is None else SavedGrids(resume))
    groups = groups_of(todo, left, right, memory=budget)
    step = steps_of(sum(one.steps(len(left) + len(right), len(left) * len(right)) for one in groups), progress)
    for group in groups:
        search_graphs(group, [*left, *right], threads=cpus, memory=budget, step=step)
        grids_between(group, left, right, threads=cpus, memory=budget, step=step, keep=keep, forget=True)
        for rows in (*left, *right):
            rows.found.clear()
    found = {name: grids[name] for name in request.measures}
    return Comparison(tuple(layers_a), tuple(layers_b), found, device_of(left[0]))
