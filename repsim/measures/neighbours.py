"""The exact graph of nearest neighbours: one serves every measure on it and every relabelling."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import reductions
from ..arguments import Progress, memory_budget, thread_count, whole_number
from ..arrays import DeviceRows, Rows, on_cpu, same_device, same_inputs
from .graph_file import read_graph, write_graph
from .registry import Measure, invariant_to, register

METRICS = ("cosine", "inner_product", "euclidean")
FILTERS = ("auto", "float32", "bfloat16")
GRAM_METRICS = ("cosine", "inner_product")  # those whose scores are the entries of a Gram matrix


def register_neighbours(
    name: str, formula: str, paper: str, *, low: float = 0.0, high: float = 1.0, **account: Any
) -> Measure:
    """Add a measure of two neighbour graphs: with the default metric, the cosine, lengths of rows do not matter."""
    return register(
        Measure(
            name=name,
            family="neighbours",
            kind="similarity",
            low=low,
            high=high,
            formula=formula,
            paper=paper,
            invariances=invariant_to("orthogonal", "isotropic_scaling"),
            cost="time n^2 (d + d'), memory n k",
            **{"symmetric": True, "self_value": 1.0, "gpu": True, **account},
        )
    )


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The k nearest rows of every row, best first.

    ``indices`` [n, k] int64; ``scores`` [n, k] float32, larger is nearer: the cosine, the inner product, or minus the
    Euclidean distance; numpy arrays or, for rows on a GPU, arrays there of the framework that the rows came from.
    ``base_rows`` rows were searched; ``excludes_self`` says that they are the rows themselves.
    ``filter`` says what proposed the candidates, "float32" or "bfloat16", or, by the fused kernels of a Hopper GPU,
    "bfloat16x3" or "bfloat16x6", so many products of bfloat16 parts; the lists are the same. ``scanned`` rows had
    neighbours too close together for it: they were searched a second time, by float64 scores of all that float32 could
    not rule out. ``certified`` graphs are proven exact in every row: each score of a filter is known to lie within a
    bound of the exact one (the measured rounding of the two packed rows, and that of the sums), and no row that was
    turned away can, within its bound, be among the k best.
    """

    indices: np.ndarray
    scores: np.ndarray
    metric: str
    base_rows: int
    excludes_self: bool
    scanned: int = 0
    filter: str = ""
    certified: bool = False

    def cpu(self) -> Neighbours:
        """The same graph with numpy arrays, which saving it and the measures of graphs take; itself if it has them.

        Example::

            graph = repsim.nearest(x, k=10)                  # x a tensor on a GPU: graph.indices is one too
            repsim.mutual_knn(graph.cpu(), other.cpu())
        """
        indices, scores = on_cpu(self.indices), on_cpu(self.scores)
        if indices is self.indices and scores is self.scores:
            return self
        return replace(self, indices=indices, scores=scores)

    @property
    def n(self) -> int:
        return int(self.indices.shape[0])

    @property
    def k(self) -> int:
        return int(self.indices.shape[1])

    def __repr__(self) -> str:
        base = "" if self.excludes_self else f", base_rows={self.base_rows}"
        return f"Neighbours(n={self.n}, k={self.k}, metric={self.metric!r}{base})"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the graph to one safetensors file with a checksum.

        Example::

            repsim.nearest(x, k=10).save("x.graph")
            graph = repsim.Neighbours.load("x.graph")        # the same bits

        Parameters
        ----------
        path: the file; it is there under this name only when it is whole, in the place of one before. Indices are
            stored as int32 where they fit.
        """
        graph = self.cpu()
        values = {field.name: getattr(graph, field.name) for field in fields(graph)}
        arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
        if self.base_rows <= np.iinfo(np.int32).max:
            arrays["indices"] = graph.indices.astype(np.int32)
        write_graph(Path(path), arrays, {name: value for name, value in values.items() if name not in arrays})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Neighbours:
        """Read a graph that :meth:`save` wrote.

        Returns
        -------
        Neighbours, bit for bit what was saved.

        Raises
        ------
        FileNotFoundError: there is no such file.
        ValueError: a damaged file, one that is no graph, or one of a newer version.
        """
        arrays, plain = read_graph(Path(path))
        values = {**plain, **arrays}
        known = {field.name for field in fields(cls)}
        if not values.keys() <= known:
            raise ValueError(
                f"[Neighbours.load] expected the fields {', '.join(sorted(known))}, got {path} with "
                f"{', '.join(sorted(values.keys() - known))} too, from a newer repsim"
            )
        if "indices" in arrays:
            values["indices"] = arrays["indices"].astype(np.int64)
        try:
            graph = cls(**values)
        except TypeError as error:
            raise ValueError(f"[Neighbours.load] expected a whole graph, got {path}: {error}") from None
        require_lists(graph, str(path), function="Neighbours.load")
        return graph

    @functools.cached_property
    def _bad_list(self) -> int:
        """The first row whose list is none of distinct base rows, -1 where there is none; looked for once."""
        return reductions.first_bad_list(
            self.indices,
            self.base_rows,
            excludes_self=self.excludes_self,
            threads=thread_count(None, function="nearest"),
        )


def nearest(
    x: Any,
    k: int = 10,
    *,
    metric: str = "cosine",
    base: Any = None,
    filter: str = "auto",
    threads: int | None = None,
    memory: int | str | None = None,
    block_rows: int | None = None,
    progress: Progress | None = None,
    device: Any = None,
) -> Neighbours:
    """The exact k nearest rows of every row of x, in O(n k) memory.

    Example::

        graph = repsim.nearest(x, k=10)                  # x [n, d]: graph.indices [n, 10]
        graph = repsim.nearest(queries, k=5, base=x)     # among the rows of x

    Parameters
    ----------
    x: [n, d] array of float16, bfloat16, float32 or float64.
    k: neighbours per row; at most n - 1, or the number of rows of ``base``.
    metric: "cosine", "inner_product" or "euclidean".
    base: [m, d] rows to search. None searches x itself and leaves every row out of its own list by its index, so that
        duplicates stay.
    filter: what proposes candidates: "float32", "bfloat16" (twice as fast; only on CPUs that multiply it), or "auto":
        bfloat16 where it pays, which is tried out on a few rows first. The result does not depend on it. With the fused
        kernels for Hopper GPUs (REPSIM_HOPPER=1) rows are sums of bfloat16 parts: float32 takes six products of three,
        and what bfloat16 cannot prove, a few rows or all, three products of two.
    threads, memory, block_rows, progress: as for :func:`repsim.cka`; the result does not depend on the first three. Of
        a memory map, the pages around the candidates of 8192 rows at a time come beside the memory.
    device: as for :func:`repsim.cka`. The graph of rows that are brought to a GPU has numpy arrays.

    Returns
    -------
    Neighbours, exact for the scores in float64, ties to the lower index: tiles of low precision propose candidates,
    float64 ranks them, and a row whose k-th neighbour the tiles could have confused with one they turned away is
    searched again.

    Raises
    ------
    TypeError, ValueError: bad rows (as for :func:`repsim.cka`), k out of range, an unknown metric or filter, bfloat16
        where the CPU does not multiply it, a zero row under the cosine metric.
    """
    return _graph(
        x,
        k,
        metric,
        "nearest",
        "x",
        base=base,
        filter=filter,
        threads=threads,
        memory=memory,
        block_rows=block_rows,
        progress=progress,
        device=device,
    )


def _graph(
    x: Any,
    k: int,
    metric: str,
    function: str,
    name: str,
    *,
    base: Any = None,
    filter: str = "auto",
    threads: int | None = None,
    memory: int | str | None = None,
    block_rows: int | None = None,
    progress: Progress | None = None,
    device: Any = None,
) -> Neighbours:
    check_metric(metric, function=function)
    rows = reductions.rows_on(x, device, function=function, name=name)
    others = None
    if base is not None:
        others = reductions.rows_on(base, device, function=function, name="base")
        same_device(rows, others, function=function)
    _check_filter(filter, rows, function=function)
    if others is not None and others.depth != rows.depth:
        raise ValueError(f"[{function}] expected base with {rows.depth} columns like {name}, got {others.depth}")
    most = len(rows) - 1 if others is None else len(others)
    check_k(k, most, most + (others is None), function=function)
    if block_rows is not None:
        whole_number(block_rows, "block_rows", function=function)
    threads, budget = thread_count(threads, function=function), memory_budget(memory, function=function)
    with reductions.working_on([rows] if others is None else [rows, others], function=function):
        found = reductions.nearest(
            rows,
            others,
            int(k),
            metric,
            function=function,
            filter=filter,
            threads=threads,
            memory=budget,
            block_rows=block_rows,
            progress=progress,
        )
    returned = rows.returned if isinstance(rows, DeviceRows) else lambda array: array
    return Neighbours(
        returned(found.indices),
        returned(found.scores),
        metric,
        base_rows=len(rows) if others is None else len(others),
        excludes_self=others is None,
        scanned=found.scanned,
        filter=found.filter,
        certified=True,
    )


def check_metric(metric: str, *, function: str, among: Sequence[str] = METRICS) -> None:
    """Raises ValueError for a metric that is not among those."""
    if metric not in among:
        *others, last = map(repr, among)
        raise ValueError(f"[{function}] expected metric {', '.join(others)} or {last}, got {metric!r}")


def _check_filter(filter: str, rows: Rows, *, function: str) -> None:
    if filter not in FILTERS:
        raise ValueError(f"[{function}] expected filter 'auto', 'float32' or 'bfloat16', got {filter!r}")
    if filter == "bfloat16" and not (isinstance(rows, DeviceRows) or reductions.has_bfloat16()):
        raise ValueError(
            f"[{function}] expected filter 'auto' or 'float32' on a CPU without AVX512-BF16, got 'bfloat16'"
        )


def check_k(k: Any, most: int, rows: int, *, function: str) -> None:
    """Raises TypeError for a k that is no int, ValueError below 1 or above ``most``, all that ``rows`` rows offer."""
    if whole_number(k, "k", function=function) > most:
        raise ValueError(f"[{function}] expected k of at most {most} for {rows} rows, got {k}")


def check_relabellings(permutations: Any, seed: Any, *, least: int, function: str) -> None:
    """Raises TypeError where one is no int, ValueError for fewer than ``least`` permutations or a negative seed."""
    whole_number(permutations, "permutations", function=function, least=least)
    whole_number(seed, "seed", function=function, least=0)


def require_lists(graph: Neighbours, name: str, *, function: str) -> None:
    """Raises TypeError, ValueError for a graph made by hand that is not what :class:`Neighbours` says."""
    indices, scores = graph.indices, graph.scores
    for what, array, dtype in (("indices", indices, np.int64), ("scores", scores, np.float32)):
        if not isinstance(array, np.ndarray) or array.dtype != dtype:
            got = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            cure = "; pass graph.cpu()" if hasattr(array, "__dlpack__") and not isinstance(array, np.ndarray) else ""
            raise TypeError(f"[{function}] expected {name} with {what} of dtype {np.dtype(dtype)}, got {got}{cure}")
        if array.ndim != 2 or 0 in array.shape or array.shape != indices.shape or not array.flags.c_contiguous:
            raise ValueError(
                f"[{function}] expected {name} with contiguous {what} [n, k], got shape {array.shape}, strides "
                f"{array.strides}"
            )
    if graph._bad_list >= 0:
        rows = f"{graph.base_rows} rows" + (" but its own" if graph.excludes_self else "")
        raise ValueError(
            f"[{function}] expected {name} whose lists name different ones of the {rows}, got row {graph._bad_list} "
            f"with {indices[graph._bad_list][:20]}"
        )


def graph_pair(
    x: Any,
    y: Any,
    k: int,
    metric: str,
    function: str,
    threads: int | None,
    memory: int | str | None = None,
    device: Any = None,
) -> tuple[Neighbours, Neighbours]:
    """The graphs of two arrays of the same inputs, with numpy arrays; two graphs as they are."""
    if isinstance(x, Neighbours) and isinstance(y, Neighbours):
        return x.cpu(), y.cpu()
    if isinstance(x, Neighbours) or isinstance(y, Neighbours):
        raise TypeError(
            f"[{function}] expected x and y both as arrays or both as graphs of repsim.nearest, got one of each"
        )
    rows = [reductions.rows_on(each, device, function=function, name=name) for each, name in ((x, "x"), (y, "y"))]
    same_inputs(*rows, function=function)
    how: dict[str, Any] = {"threads": threads, "memory": memory}
    first, second = (_graph(each, k, metric, function, each.name, **how).cpu() for each in rows)
    return first, second


def one_kind(xs: Sequence[Neighbours], ys: Sequence[Neighbours], function: str) -> tuple[int, int]:
    """n and k of graphs that can be compared: well made, over their own rows, with one n, k and metric."""
    for name, graph in [("x", one) for one in xs] + [("y", one) for one in ys]:
        if not graph.excludes_self:
            raise ValueError(
                f"[{function}] expected {name} as a graph over its own rows, got one searched in another base"
            )
        require_lists(graph, name, function=function)
        for what in ("n", "k", "metric"):
            first, own = getattr(xs[0], what), getattr(graph, what)
            if own != first:
                raise ValueError(f"[{function}] expected {name} as a graph of {what} {first!r} like x, got {own!r}")
    return xs[0].n, xs[0].k
