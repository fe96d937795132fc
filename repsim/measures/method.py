"""How a measure of two representations is evaluated: once for the value, again for chance and for its interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Generic, TypeVar

import numpy as np

from ..arguments import Progress, thread_count, whole_number
from ..arrays import Rows, as_rows, same_inputs
from ..calibration import add_one_p, jackknife_error, sampled_null
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
    precision: of what so many inputs are compared by: "float64" but for measures that say otherwise.
    """

    prepare: Callable[[Rows, int], State]
    between: Callable[[State, State, int], float]
    relabel: Callable[[State, np.ndarray], State]
    least_rows: int = 2
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


def evaluate_grid(
    method: Method[State],
    xs: Sequence[Rows],
    ys: Sequence[Rows],
    *,
    options: Mapping[str, Any],
    kind: str,
    plan: Plan,
    threads: int,
    progress: Progress | None = None,
) -> Grid:
    """Every pair of layers; each is prepared once, and all pairs see the same relabellings and the same groups."""
    n, pairs = len(xs[0]), [(i, j) for i in range(len(xs)) for j in range(len(ys))]
    steps, total = count(1), plan.steps(len(pairs))

    def between(left: Sequence[State], right: Sequence[State], values: np.ndarray) -> None:
        for i, j in pairs:
            values[i, j] = method.between(left[i], right[j], threads)
            if progress:
                progress(next(steps), total)

    def prepared(side: Sequence[Rows]) -> list[State]:
        return [method.prepare(rows, threads) for rows in side]

    left, right = prepared(xs), prepared(ys)
    random = np.random.default_rng(plan.seed)
    values = np.empty((len(xs), len(ys)))
    between(left, right, values)
    draws = np.empty((plan.permutations, *values.shape))
    for draw in draws:
        order = random.permutation(n)
        between(left, [method.relabel(side, order) for side in right], draw)
    errors = None
    if plan.jackknife:
        without = np.empty((plan.jackknife, *values.shape))
        for left_out, group in zip(without, np.array_split(random.permutation(n), plan.jackknife), strict=True):
            kept = np.ones(n, bool)
            kept[group] = False
            left, right = (prepared([replace(r, values=r.values[kept]) for r in side]) for side in (xs, ys))
            between(left, right, left_out)
        errors = np.apply_along_axis(jackknife_error, 0, without)
    return _grid(values, draws, n, options, kind, errors, method.precision(n))


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
) -> Any:
    """A value with its null and its standard error.

    Parameters
    ----------
    x, y: [n, d] and [n, d'] arrays, as for :func:`repsim.cka`.
    permutations, seed, jackknife: see :class:`Plan`.

    Raises
    ------
    TypeError, ValueError: bad arrays, fewer inputs than the measure takes, widths that differ where they must not,
        numbers that are no counts.
    """
    plan = Plan(permutations, seed, jackknife)
    plan.check(function=name)
    cpus = thread_count(threads, function=name)
    rows_x, rows_y = as_rows(x, function=name, name="x"), as_rows(y, function=name, name="y")
    same_inputs(rows_x, rows_y, function=name)
    n = len(rows_x)
    if n < method.least_rows:
        raise ValueError(f"[{name}] expected at least {method.least_rows} inputs, got {n}")
    if same_width and rows_x.depth != rows_y.depth:
        raise ValueError(f"[{name}] expected y with {rows_x.depth} columns like x, got {rows_y.depth}")
    plan.check_groups(n, function=name)
    grid = evaluate_grid(
        method, [rows_x], [rows_y], options=options, kind=kind, plan=plan, threads=cpus, progress=progress
    )
    return grid.at(0, 0, name)
