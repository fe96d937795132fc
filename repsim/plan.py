"""What a comparison will need, before any work: bytes and time for every measure, and which are evaluated together."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arguments import available_memory, memory_budget, thread_count
from .arrays import DeviceRows, Rows
from .kernels import Linear
from .measures.demands import demand_of
from .measures.method import products_budget
from .measures.needs import KINDS, Demand, Step, Work
from .model_layers import layers_of, require_same_inputs
from .reductions import dissimilarities_of, dissimilarity_tiles, kernel_sums, nearest, own_products
from .reductions.moments import lifted_bytes, room_for
from .request import Request

_OF_TILES = "fewer layers at a time, or a sample of the inputs"
_INSTEAD = {
    **dict.fromkeys(("distance_correlation", "rsm_norm_difference", "uniformity_difference"), _OF_TILES),
    "rsa": 'comparison="pearson", which streams, or a sample of the inputs',
    "kernel_ridge": "ridge_regression, or a sample of the inputs",
    "imd": 'spectrum="probes", or a sample of the inputs',
    "soft_matching": 'solver="pot", or layers whose widths divide each other',
    "rtd": "a smaller batch_rows",
}
_RELABELLED = ("rsa of a layer",)  # steps whose results are copied for another order of the inputs
_OF_GRAPHS = "a smaller k, or a sample of the inputs"
_OF_FEATURES = "fewer layers at a time, or a measure of neighbours or cka with a kernel, which hold no d x d products"


@dataclass(frozen=True)
class Planned:
    """One measure: bytes beside the inputs, operations by kind, and seconds where rates were measured."""

    measure: str
    bytes: int
    work: Work
    seconds: float | None = None


@dataclass(frozen=True)
class ComparisonPlan:
    """What every measure of a comparison needs alone, and what all need together, where they share.

    Example::

        plan = repsim.plan(a, b, measures=["cka", "procrustes", "rsa"])
        plan                                            # a table
        plan["rsa"].bytes, plan.together.seconds

    ``groups``: measures that are evaluated together, so that their needs fit ``memory``. Bytes are bounds, of the ranks
    of rsa for distances that span a factor of 16; seconds are operations over rates that were measured on this machine,
    one kind of operation each, and mostly within a factor of three of what a call takes.
    """

    n: int
    layers: tuple[int, int]
    measures: tuple[Planned, ...]
    together: Planned
    groups: tuple[tuple[str, ...], ...]
    memory: int | None

    def __getitem__(self, measure: str) -> Planned:
        for one in self.measures:
            if one.measure == measure:
                return one
        known = ", ".join(one.measure for one in self.measures)
        raise ValueError(f"[ComparisonPlan] expected measure {known}, got {measure!r}")

    def rows(self) -> list[dict[str, Any]]:
        """One plain dict per measure: bytes, operations, seconds."""
        return [
            {"measure": one.measure, "bytes": one.bytes, "flops": one.work.flops, "seconds": one.seconds}
            for one in self.measures
        ]

    def __repr__(self) -> str:
        lines = [("measure", "memory", "Gflop", "seconds (about)")]
        for one in (*self.measures, self.together):
            seconds = "" if one.seconds is None else f"{one.seconds:.2g}"
            lines.append((one.measure, _size(one.bytes), f"{one.work.flops / 1e9:.3g}", seconds))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
        fits = "not known" if self.memory is None else _size(self.memory)
        head = f"{self.layers[0]} x {self.layers[1]} layers, n={self.n}; memory {fits}"
        if len(self.groups) > 1:
            head += f"; in {len(self.groups)} groups, each of which fits"
        return "\n".join([head, *table])


def plan(
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
) -> ComparisonPlan:
    """What :func:`repsim.compare` with the same arguments will need on the CPU: memory, operations and about how long.

    Example::

        repsim.plan(a, b, measures=["cka", "svcca", "rsa"])     # a table; nothing of a and b is read but shapes

    Parameters: as for :func:`repsim.compare`.

    Returns
    -------
    ComparisonPlan.

    Raises
    ------
    TypeError, ValueError: what :func:`repsim.compare` refuses beforehand; a measure that needs more than ``memory``,
        or, where that is None, than the memory that is available.
    """
    request = Request.of(measures, k, metric, permutations, jackknife, seed)
    require_same_inputs([a, b])
    left, right = (list(layers_of(side, name, gpu=False).values()) for side, name in ((a, "a"), (b, "b")))
    request.check([*left, *right])
    cpus, budget = thread_count(threads, function="plan"), memory_budget(memory, function="plan")
    return plan_of(request, left, right, memory=budget, rates=rates(cpus))


def plan_of(
    request: Request,
    left: Sequence[Rows],
    right: Sequence[Rows],
    *,
    memory: int | None,
    keeps: bool = False,
    rates: Mapping[str, float] | None = None,
) -> ComparisonPlan:
    """The plan of a request that was checked.

    ``keeps``: layers of the left are not given up one after the other.

    Raises
    ------
    ValueError: one of the measures cannot fit.
    """
    limit = available_memory() if memory is None else memory
    n, down, across = len(left[0]), [rows.depth for rows in left], [rows.depth for rows in right]
    keeps = keeps or bool(request.graphs) or (bool(request.methods) and request.plan.permutations > 0)

    def of(names: Sequence[str], label: str) -> Planned:
        demands = [_demand(request, name) for name in names]
        needed, work = _planned(demands, n, down, across, keeps, _times(request, names), memory)
        if request.plan.jackknife and any(name in request.methods for name in names):  # layers without a group of rows
            needed = 2 * needed + sum(rows.values.nbytes for rows in (*left, *right))
        seconds = None
        if rates is not None:
            seconds = sum(getattr(work, kind) / rates[kind] for kind in KINDS)
        return Planned(label, needed, work, seconds)

    measures = tuple(of([name], name) for name in request.measures)
    for one in measures:
        if limit is not None and one.bytes > limit:
            raise _too_much(one, request, limit, memory)
    groups: list[list[str]] = []
    for name in request.measures:
        if groups and (limit is None or of([*groups[-1], name], "").bytes <= limit):
            groups[-1].append(name)
        else:
            groups.append([name])
    together = of(request.measures, "together") if request.measures else Planned("together", 0, Work())
    if len(groups) > 1:
        parts = [of(group, "") for group in groups]
        seconds = None if rates is None else sum(part.seconds or 0.0 for part in parts)
        work = functools.reduce(Work.__add__, (part.work for part in parts))
        together = Planned("together", max(part.bytes for part in parts), work, seconds)
    return ComparisonPlan(n, (len(left), len(right)), measures, together, tuple(map(tuple, groups)), limit)


def groups_of(
    request: Request, left: Sequence[Rows], right: Sequence[Rows], *, memory: int | None, keeps: bool = False
) -> list[Request]:
    """The measures that are evaluated together, as :func:`plan_of` has them; on a GPU, which it knows nothing of, all.

    Raises
    ------
    ValueError: one of the measures cannot fit.
    """
    if isinstance(left[0], DeviceRows):
        return [request] if request.measures else []
    return [request.only(names) for names in plan_of(request, left, right, memory=memory, keeps=keeps).groups]


def _demand(request: Request, name: str) -> Demand:
    if name in request.kernels:
        return demand_of(name, {"kernel": request.kernels[name].kernel})
    if name in request.graphs:
        graph = request.graphs[name]
        return demand_of(name, {"k": graph.k, "metric": graph.metric, "permutations": request.drawn})
    return demand_of(name, request.methods[name].options)


def _times(request: Request, names: Sequence[str]) -> tuple[float, float]:
    """How often layers are prepared and pairs evaluated."""
    if not any(name in request.methods for name in names):
        return 1.0, 1.0
    return 1.0 + request.plan.jackknife, 1.0 + request.plan.permutations + request.plan.jackknife


def _planned(
    demands: Sequence[Demand],
    n: int,
    down: Sequence[int],
    across: Sequence[int],
    keeps: bool,
    times: tuple[float, float],
    memory: int | None,
) -> tuple[int, Work]:
    """Bytes and operations of measures together: steps of one name are done once."""

    def layer(d: int) -> dict[str, Step]:
        return {name: step for demand in demands for name, step in demand.layer(n, d).items()}

    def pair(d: int, e: int) -> dict[str, Step]:
        return {name: step for demand in demands for name, step in demand.pair(n, d, e).items()}

    layers = {d: layer(d) for d in {*down, *across}}
    pairs = {(d, e): pair(d, e) for d in set(down) for e in set(across)}
    work = functools.reduce(
        Work.__add__,
        [
            *(step.work.times(times[0]) for d in (*down, *across) for step in layers[d].values()),
            *(step.work.times(times[1]) for d in down for e in across for step in pairs[d, e].values()),
        ],
        Work(),
    )
    kept = {d: sum(step.kept for step in steps.values()) for d, steps in layers.items()}
    held = sum(kept[e] for e in across) + (sum(kept[d] for d in down) if keeps else max(kept[d] for d in down))
    steps = [step for found in (*layers.values(), *pairs.values()) for step in found.values()]
    most = max(len(down), len(across))
    working = max((step.working * min(step.at_once, most) for step in steps), default=0.0)
    packed = 2 * max((step.packed for step in steps), default=0.0)  # of several layers there are blocks of each
    crossed = [steps["cross products"].kept for steps in pairs.values() if "cross products" in steps]
    own = max(
        (s.kept for found in pairs.values() for name, s in found.items() if name != "cross products"), default=0.0
    )
    if crossed:
        total = sum(pairs[d, e]["cross products"].kept for d in down for e in across if "cross products" in pairs[d, e])
        depths = [*down, *across]
        held += max(min(total, products_budget(memory)), max(crossed))
        working = max(working, lifted_bytes(depths, room_for(depths)) + 3 * max(crossed))
    if memory is not None:
        packed = min(packed, memory // 2)
    if times[1] > 1:
        held += sum(layers[e][name].kept for e in across for name in _RELABELLED if name in layers[e])
    own *= len(down) if keeps else 1  # what the pairs of one layer of the left keep with it
    return int(held + own + working + packed), work


def _too_much(one: Planned, request: Request, limit: int, memory: int | None) -> ValueError:
    kernel = request.kernels[one.measure].kernel if one.measure in request.kernels else Linear()
    of_its_kind = _OF_GRAPHS if one.measure in request.graphs else _OF_FEATURES if kernel == Linear() else _OF_TILES
    instead = _INSTEAD.get(one.measure, of_its_kind)
    where = "memory=" if memory is not None else "the available memory"
    return ValueError(
        f"[compare] expected measures that fit {where} of {_size(limit)}, got {one.measure}, which needs "
        f"{_size(one.bytes)} beside the inputs; take {instead}, or more memory"
    )


def _size(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"


# ---------------------------------------------------------------------------------------------- rates


@functools.cache
def rates(threads: int) -> Mapping[str, float]:
    """Operations a second of every kind, measured in about a quarter of a second; kept for this process."""
    random = np.random.default_rng(0)
    x = Rows(random.standard_normal((3072, 128)).astype(np.float32), "float32", "x")
    wide = Rows(random.standard_normal((8192, 256)).astype(np.float32), "float32", "x")
    square = random.standard_normal((192, 192))
    square = square @ square.T
    flat = random.standard_normal(2**18)
    how: dict[str, Any] = {"function": "plan", "threads": threads}
    n, d = len(x), x.depth

    def tiles() -> None:
        side = dissimilarities_of(x, "euclidean", **how)
        for _, _, (tile,) in dissimilarity_tiles([side], threads=threads):
            tile.sum()

    done: dict[str, tuple[float, Callable[[], Any]]] = {
        "products": (float(len(wide)) * wide.depth**2, lambda: own_products(wide, **how)),
        "factors": (9.0 * len(square) ** 3, lambda: np.linalg.eigh(square)),
        "tiles": (2.0 * n * n * d, lambda: kernel_sums([x, x], 1, [Linear(), Linear()], **how)),
        "search": (float(n) * n * d, lambda: nearest(x, None, 10, "cosine", **how)),
        "distances": (float(n) * n * d, tiles),
        "elements": (2.0 * len(flat), lambda: (flat * flat).sum()),
    }
    return {kind: work / _seconds(call) for kind, (work, call) in done.items()}


def _seconds(call: Callable[[], Any]) -> float:
    """The shorter of two calls, after one that is not counted."""
    call()
    taken = []
    for _ in range(2):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return min(taken)
