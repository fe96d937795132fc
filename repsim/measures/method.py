"""How a measure of two representations is evaluated: once for the value, again for chance and for its interval."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Generic, TypeVar

import numpy as np

from ..arguments import Progress, thread_count, whole_number
from ..arrays import Rows, SharedRows, same_inputs
from ..calibration import add_one_p, jackknife_error, sampled_null
from ..reductions import Block, rows_on, working_on
from .similarity import Grid

State = TypeVar("State")


@dataclass(frozen=True)
class Method(Generic[State]):
    """A measure in three parts, so that what belongs to one side is found once.

    prepare: what a measure needs of one side, from its rows [n, d] and a number of threads.
    between: the value, from that of both sides.
    relabel: the same side with its inputs in the order given, [n] a permutation; what ``prepare`` would find of
        ``rows[order]``, for less.
    least_rows: inputs below which the measure has no meaning.
    across: the values [L1, L2] of all pairs of some sides, bit for bit those of ``between``, where that is less work.
    precision: of what so many inputs are compared by: "float64" but for measures that say otherwise.
    """

    prepare: Callable[[Rows, int], State]
    between: Callable[[State, State, int], float]
    relabel: Callable[[State, np.ndarray], State]
    least_rows: int = 2
    across: Callable[[Sequence[State], Sequence[State], int], np.ndarray] | None = None
    precision: Callable[[int], str] = lambda n: "float64"


@dataclass(frozen=True)
class Plan:
    """What is asked of an evaluation beside the values.

    permutations: relabellings of the inputs of the second side for the null and p; 0 leaves them out.
    jackknife: groups of inputs, each left out once for the standard error; 0 leaves it out.
    seed: of the relabellings and of the groups.
    """

    permutations: int = 0
    seed: int = 0
    jackknife: int = 0

    def check_groups(self, n: int, *, function: str) -> None:
        """Refuse groups that n inputs cannot be dealt to.

        Raises
        ------
        ValueError: as said.
        """
        if self.jackknife and not 2 <= self.jackknife <= n:
            raise ValueError(f"[{function}] expected jackknife 0 or between 2 and the {n} inputs, got {self.jackknife}")

    def check(self, *, function: str) -> None:
        """Refuse what are no counts.

        Raises
        ------
        TypeError, ValueError: as said.
        """
        for name in ("permutations", "seed", "jackknife"):
            whole_number(getattr(self, name), name, function=function, least=0)

    def steps(self, pairs: int) -> int:
        """How often :func:`evaluate_grid` reports."""
        return (1 + self.permutations + self.jackknife) * pairs


@dataclass(frozen=True)
class Asked:
    """One of the measures that are evaluated together."""

    method: Method[Any]
    options: Mapping[str, Any]
    kind: str


PRODUCTS_BUDGET = 512 * 2**20


def products_budget(memory: int | None) -> int:
    """Bytes of the products of one block of pairs, of a ``memory`` in bytes: a quarter of it, up to 512 MiB."""
    return PRODUCTS_BUDGET if memory is None else min(PRODUCTS_BUDGET, memory // 4)


def evaluate_grids(
    asked: Mapping[str, Asked],
    xs: Sequence[Rows],
    ys: Sequence[Rows],
    *,
    plan: Plan,
    threads: int,
    function: str = "compare",
    products: int = PRODUCTS_BUDGET,
    progress: Progress | None = None,
    beside: Callable[[int, int], None] | None = None,
    forget: bool = False,
) -> dict[str, Grid]:
    """Every measure between every two layers; all see the same relabellings and the same groups.

    Every layer is prepared once for a measure, and what several measures need of a layer or of a pair is found once:
    see :class:`repsim.arrays.SharedRows` and :class:`repsim.reductions.Block`. Shared rows that are given keep it.

    Parameters
    ----------
    function: who asks, for error messages.
    products: bytes of the products of features that the pairs of one block may have at once.
    beside: called once with every pair (i, j), while what was found of it is at hand.
    forget: what was found of a layer of ``xs`` is given up after its last pair.
    """
    layers_x, layers_y = ([SharedRows.of(rows) for rows in side] for side in (xs, ys))
    n, shape = len(xs[0]), (len(xs), len(ys))
    steps, total = count(1), len(asked) * plan.steps(len(xs) * len(ys))
    random = np.random.default_rng(plan.seed)

    def report(done: int) -> None:
        if progress:
            for _ in range(done):
                progress(next(steps), total)

    def one_pass(
        left: Sequence[SharedRows],
        right: Sequence[SharedRows],
        order: np.ndarray | None,
        out: Mapping[str, np.ndarray],
        also: Callable[[int, int], None] | None = None,
        last: bool = False,
    ) -> None:
        for down, across in _blocks(left, right, products):
            with Block(left[down], right[across], order):
                for one in asked.values():  # an error names the first side first
                    _state(one.method, left[down.start], None, threads)
                theirs = {
                    name: [_state(one.method, rows, order, threads) for rows in right[across]]
                    for name, one in asked.items()
                }
                pairwise = {name: one for name, one in asked.items() if one.method.across is None}
                for name, one in asked.items():
                    if one.method.across is not None:
                        mine = [_state(one.method, rows, None, threads) for rows in left[down]]
                        out[name][down, across] = one.method.across(mine, theirs[name], threads)
                        report(len(mine) * len(theirs[name]))
                for i in range(down.start, down.stop):
                    for j in range(across.start, across.stop):
                        for name, one in pairwise.items():
                            mine = _state(one.method, left[i], None, threads)
                            out[name][i, j] = one.method.between(mine, theirs[name][j - across.start], threads)
                            report(1)
                        if also:
                            also(i, j)
                    if last and across.stop == len(right):
                        left[i].found.clear()

    def empty(*first: int) -> dict[str, np.ndarray]:
        return {name: np.empty((*first, *shape)) for name in asked}

    values, draws, without = empty(), empty(plan.permutations), empty(plan.jackknife)
    try:
        with working_on([*layers_x, *layers_y], function=function):
            one_pass(layers_x, layers_y, None, values, beside, forget and not plan.permutations)
            for draw in range(plan.permutations):
                here = {name: of[draw] for name, of in draws.items()}
                one_pass(layers_x, layers_y, random.permutation(n), here, last=forget and draw == plan.permutations - 1)
    finally:
        _give_up(rows for rows, given in zip((*layers_x, *layers_y), (*xs, *ys), strict=True) if rows is not given)
    groups = np.array_split(random.permutation(n), plan.jackknife) if plan.jackknife else []
    for left_out, group in enumerate(groups):
        kept = np.delete(np.arange(n), group)
        with working_on([*layers_x, *layers_y], function=function):
            left, right = ([SharedRows.of(rows.alone(kept)) for rows in side] for side in (layers_x, layers_y))
        try:
            with working_on([*left, *right], function=function):
                one_pass(left, right, None, {name: of[left_out] for name, of in without.items()})
        finally:
            _give_up((*left, *right))
    return {
        name: _grid(
            values[name], draws[name], n, one.options, one.kind,
            np.apply_along_axis(jackknife_error, 0, without[name]) if plan.jackknife else None,
            one.method.precision(n),
        )
        for name, one in asked.items()
    }  # fmt: skip


def _give_up(layers: Iterable[SharedRows]) -> None:
    """Forget what was found: it refers to its rows, and would hold its memory until Python looks for cycles."""
    for rows in layers:
        rows.found.clear()


def _state(method: Method[State], rows: SharedRows, order: np.ndarray | None, threads: int) -> State:
    """What a measure needs of one side; it is kept as the inputs lie."""
    if method not in rows.found:
        rows.found[method] = method.prepare(rows, threads)
    state: State = rows.found[method]
    return state if order is None else method.relabel(state, order)


def _blocks(left: Sequence[Rows], right: Sequence[Rows], budget: int) -> Iterator[tuple[slice, slice]]:
    """Parts of both sides whose pairs' products fit the budget, at least one pair; in the order of the left."""
    widest = [max(rows.depth for rows in side) + 2 for side in (left, right)]
    fitting = max(1, budget // (8 * widest[0] * widest[1]))
    across = min(len(right), fitting)
    down = max(1, fitting // across)
    for i in range(0, len(left), down):
        for j in range(0, len(right), across):
            yield slice(i, min(i + down, len(left))), slice(j, min(j + across, len(right)))


def evaluate_grid(
    method: Method[State],
    xs: Sequence[Rows],
    ys: Sequence[Rows],
    *,
    options: Mapping[str, Any],
    kind: str,
    plan: Plan,
    threads: int,
    function: str = "compare",
    progress: Progress | None = None,
) -> Grid:
    """One measure between every two layers: see :func:`evaluate_grids`."""
    asked = {"": Asked(method, options, kind)}
    return evaluate_grids(asked, xs, ys, plan=plan, threads=threads, function=function, progress=progress)[""]


def _grid(
    values: np.ndarray,
    draws: np.ndarray,
    n: int,
    options: Mapping[str, Any],
    kind: str,
    errors: np.ndarray | None,
    precision: str,
) -> Grid:
    mean, sd, skewness, p = np.full((4, *values.shape), np.nan)
    if len(draws):
        for i, j in np.ndindex(*values.shape):
            null = sampled_null(draws[:, i, j])
            mean[i, j], sd[i, j], skewness[i, j] = null.mean, null.sd, null.skewness
            p[i, j] = add_one_p(float(values[i, j]), draws[:, i, j], kind)
    asked = "not asked for"
    return Grid(
        values, mean, sd, skewness, p, errors, n, dict(options), precision,
        f"{len(draws)} relabellings" if len(draws) else asked, "permutations" if len(draws) else asked,
        kind, draws if len(draws) else None,
    )  # fmt: skip


def evaluate(
    method: Method[State],
    x: Any,
    y: Any,
    *,
    name: str,
    options: Mapping[str, Any],
    kind: str,
    same_width: bool = False,
    permutations: int = 0,
    seed: int = 0,
    jackknife: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
    gpu: bool = False,
    device: Any = None,
) -> Any:
    """A value with its null and its standard error.

    Parameters
    ----------
    x, y: [n, d] and [n, d'] arrays, as for :func:`repsim.cka`.
    permutations, seed, jackknife: see :class:`Plan`.
    gpu: whether the measure works where its rows lie, on a GPU too.
    device: as for :func:`repsim.cka`, where ``gpu``.

    Raises
    ------
    TypeError, ValueError: bad arrays, fewer inputs than the measure takes, widths that differ where they must not,
        numbers that are no counts.
    """
    plan = Plan(permutations, seed, jackknife)
    plan.check(function=name)
    cpus = thread_count(threads, function=name)
    rows_x, rows_y = (rows_on(one, device, function=name, name=which, gpu=gpu) for one, which in ((x, "x"), (y, "y")))
    same_inputs(rows_x, rows_y, function=name)
    n = len(rows_x)
    if n < method.least_rows:
        raise ValueError(f"[{name}] expected at least {method.least_rows} inputs, got {n}")
    if same_width and rows_x.depth != rows_y.depth:
        raise ValueError(f"[{name}] expected y with {rows_x.depth} columns like x, got {rows_y.depth}")
    plan.check_groups(n, function=name)
    grid = evaluate_grid(
        method, [rows_x], [rows_y], options=options, kind=kind, plan=plan, threads=cpus, function=name,
        progress=progress,
    )  # fmt: skip
    return grid.at(0, 0, name)
