"""Statistics of one representation and the labels of its inputs, and how far apart two representations are in one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..arguments import Progress, thread_count
from ..arrays import Rows, on_cpu
from ..reductions import add_rows_to, column_sums, nearest, on_host, placed, rows_on, working_on
from .method import Method, evaluate
from .neighbours import check_k, check_metric
from .registry import Measure, invariant_to, register
from .similarity import Distance
from .statistics import unit_block

# What is known of one representation: its statistic, from the label of every input as a number [n] from 0 on.
OfLabels = Callable[[np.ndarray], float]


@dataclass(frozen=True)
class _Labelled:
    statistic: OfLabels
    codes: np.ndarray
    value: float

    def relabelled(self, order: np.ndarray) -> _Labelled:
        codes = np.empty_like(self.codes)
        codes[order] = self.codes  # row order[i] is now input i
        return replace(self, codes=codes, value=self.statistic(codes))


def _difference(
    measure: Measure,
    prepare: Callable[..., OfLabels],
    x: Any,
    y: Any,
    labels: Any,
    options: dict[str, Any],
    device: Any,
    **how: Any,
) -> Distance:
    """|statistic - statistic'|, both of the same labels."""
    rows = rows_on(x, device, function=measure.name, name="x", gpu=measure.gpu)
    codes = _label_codes(labels, len(rows), measure.name)

    def labelled(rows: Rows, threads: int) -> _Labelled:
        statistic = prepare(rows, function=measure.name, threads=threads, **options)
        return _Labelled(statistic, codes, statistic(codes))

    method = Method(labelled, lambda x, y, threads: abs(x.value - y.value), _Labelled.relabelled)
    how |= {"name": measure.name, "gpu": measure.gpu, "device": device}
    return evaluate(method, rows, y, options=options, kind="distance", **how)


def _statistic(
    prepare: Callable[..., OfLabels],
    function: str,
    x: Any,
    labels: Any,
    threads: int | None,
    device: Any,
    **options: Any,
) -> float:
    rows, cpus = rows_on(x, device, function=function, name="x"), thread_count(threads, function=function)
    codes = _label_codes(labels, len(rows), function)
    with working_on([rows], function=function):
        return prepare(rows, function=function, threads=cpus, **options)(codes)


def _label_codes(labels: Any, n: int, function: str) -> np.ndarray:
    array = np.asarray(on_cpu(labels))
    if array.dtype.kind not in "iubUS":
        raise TypeError(f"[{function}] expected labels as whole numbers or text, got dtype {array.dtype}")
    if array.shape != (n,):
        raise ValueError(f"[{function}] expected one label for each of {n} inputs, got shape {array.shape}")
    return np.unique(array, return_inverse=True)[1].astype(np.int64)


def _tolerance(rows: Rows, *, function: str, threads: int, unit_rows: bool, include_self: bool) -> OfLabels:
    n = len(rows)
    if n < 2:
        raise ValueError(f"[{function}] expected at least 2 inputs, got {n}")
    column_sums(rows, function=function, threads=threads)  # names a row that is not finite

    def statistic(codes: np.ndarray) -> float:
        sums, own = placed(rows, np.zeros((int(codes.max()) + 1, rows.depth))), 0.0
        for start, stop in rows.sweep():
            block = unit_block(rows, start, stop, function) if unit_rows else rows.wide_there(slice(start, stop))
            add_rows_to(sums, codes[start:stop], block)
            own += float((block * block).sum())
        # The inner products of all pairs of one label, (i, i) among them, are those of the sums over the label.
        every = float((sums * sums).sum())
        return every / n**2 if include_self else (every - own) / (n * (n - 1))

    return statistic


def _modularity(rows: Rows, *, function: str, threads: int, k: int, metric: str) -> OfLabels:
    n = len(rows)
    check_metric(metric, function=function)
    check_k(k, n - 1, n, function=function)
    lists = on_host(nearest(rows, None, int(k), metric, function=function, threads=threads).indices)
    ends = np.stack([np.repeat(np.arange(n), k), lists.ravel()])
    low, high = np.divmod(np.unique(ends.min(axis=0) * n + ends.max(axis=0)), n)  # every edge once
    degrees = np.bincount(low, minlength=n) + np.bincount(high, minlength=n)

    def statistic(codes: np.ndarray) -> float:
        edges = len(low)
        inside = np.count_nonzero(codes[low] == codes[high]) / edges
        shares = np.bincount(codes, weights=degrees) / (2 * edges)
        return float(inside - (shares**2).sum())

    return statistic


TOLERANCE_DIFFERENCE = register(
    Measure(
        name="tolerance_difference",
        family="labelled_statistics",
        kind="distance",
        low=0.0,
        high=np.inf,
        symmetric=True,
        metric=True,
        invariances=invariant_to("orthogonal", "isotropic_scaling"),
        cost="time n (d + d'), memory (d + d') labels",
        paper="Wang and Liu (2021), Understanding the behaviour of contrastive loss",
        formula="|t(x) - t(y)|, t(x) = mean over i != j of x_i . x_j [label i = label j], rows of length 1",
        takes="labelled representations",
        self_value=0.0,
        gpu=True,
    )
)
MODULARITY_DIFFERENCE = register(
    Measure(
        name="modularity_difference",
        family="labelled_statistics",
        kind="distance",
        low=0.0,
        high=1.5,
        symmetric=True,
        metric=True,
        invariances=invariant_to("orthogonal", "isotropic_scaling"),
        cost="time n^2 (d + d'), memory n k",
        paper="Lu, Yang, Zhang, Chen, Chen, Xuan, Wang and Yang (2022), Dynamics of DNNs using graph modularity",
        formula="|Q(x) - Q(y)|, Q = sum_c [edges in c / m - (degrees in c / 2m)^2], c labels, m edges to neighbours",
        takes="labelled representations",
        note="The communities are the labels: it looks for no others. Edges have no weights.",
        self_value=0.0,
        gpu=True,
    )
)


def tolerance(
    x: Any,
    labels: Any,
    *,
    unit_rows: bool = True,
    include_self: bool = False,
    threads: int | None = None,
    device: Any = None,
) -> float:
    """Mean over the pairs of inputs of x_i . x_j where both have one label, and of 0 elsewhere.

    ``x`` [n, d] as for :func:`repsim.cka`, n at least 2; the rest is that of :func:`tolerance_difference`.
    """
    options = {"unit_rows": unit_rows, "include_self": include_self}
    return _statistic(_tolerance, "tolerance", x, labels, threads, device, **options)


def tolerance_difference(
    x: Any,
    y: Any,
    labels: Any,
    *,
    unit_rows: bool = True,
    include_self: bool = False,
    permutations: int = 0,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
    device: Any = None,
) -> Distance:
    """How far the tolerances are apart, each how alike the inputs of one label are.

    Example::

        repsim.tolerance_difference(x, y, labels)            # x [n, d], y [n, d'], labels [n]

    Parameters
    ----------
    x, y: [n, d] and [n, d'] arrays, as for :func:`repsim.cka`; at least 2 inputs.
    labels: [n] whole numbers or text, the label of every input.
    unit_rows: over their lengths first, as the paper has them; False takes the rows as they are.
    include_self: the mean over all n^2 pairs, every input beside itself among them, in the place of the pairs i != j.
    permutations: relabellings of the inputs of y for the null and p: the rows of y then meet the labels of others.
    seed: of the relabellings.
    threads, device: as for :func:`repsim.cka`.

    Returns
    -------
    Distance, at least 0, of unit rows at most 2: |t(x) - t(y)| with t(x) = sum_ij [label i = label j] x_i . x_j / (n (n
    - 1)), from the sums of the rows of each label.

    Raises
    ------
    TypeError, ValueError: as for :func:`repsim.cka`, but equal rows are taken; labels that are no whole numbers or
        text, or not n of them; a zero row where they are brought to length 1.

    Paper: Wang and Liu (2021), "Understanding the behaviour of contrastive loss".
    """
    options = {"unit_rows": unit_rows, "include_self": include_self}
    return _difference(
        TOLERANCE_DIFFERENCE, _tolerance, x, y, labels, options, device, permutations=permutations, seed=seed,
        threads=threads, progress=progress,
    )  # fmt: skip


def modularity(
    x: Any, labels: Any, *, k: int = 10, metric: str = "cosine", threads: int | None = None, device: Any = None
) -> float:
    """Newman's modularity of the graph of nearest neighbours with the labels as its communities, from -1/2 to 1.

    ``x`` [n, d] as for :func:`repsim.nearest`; the rest is that of :func:`modularity_difference`.
    """
    return _statistic(_modularity, "modularity", x, labels, threads, device, k=k, metric=metric)


def modularity_difference(
    x: Any,
    y: Any,
    labels: Any,
    *,
    k: int = 10,
    metric: str = "cosine",
    permutations: int = 0,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
    device: Any = None,
) -> Distance:
    """How far the modularities of the graphs of inputs are apart, with the labels as communities.

    Example::

        repsim.modularity_difference(x, y, labels, k=10)     # x [n, d], y [n, d'], labels [n]

    Parameters
    ----------
    x, y, labels, permutations, seed, threads, device: as for :func:`tolerance_difference`.
    k, metric: of the exact graph of :func:`repsim.nearest`. Two inputs share an edge, of weight 1 and without
        direction, where either is among the k nearest of the other.

    Returns
    -------
    Distance from 0 to 1.5: |Q(x) - Q(y)| with Q = sum over labels c of [m_c / m - (D_c / 2m)^2], m all edges, m_c those
    with both ends in c, D_c the sum of the degrees of c.

    Raises
    ------
    TypeError, ValueError: as for :func:`repsim.nearest` and :func:`tolerance_difference`.

    Papers: Newman and Girvan (2004), "Finding and evaluating community structure in networks"; Lu et al. (2022),
        "Understanding the dynamics of DNNs using graph modularity", for labels as communities of representations.
    """
    return _difference(
        MODULARITY_DIFFERENCE, _modularity, x, y, labels, {"k": k, "metric": metric}, device,
        permutations=permutations, seed=seed, threads=threads, progress=progress,
    )  # fmt: skip
