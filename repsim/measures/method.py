"""How a measure of two representations is evaluated: once for the value, again for chance and for its interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np

from ..arguments import Progress, thread_count, whole_number
from ..arrays import Rows, as_rows, same_inputs
from ..calibration import Null, sampled_null
from .similarity import Distance, Similarity

State = TypeVar("State")


@dataclass(frozen=True)
class Method(Generic[State]):
    """A measure in three parts, so that what belongs to one side is found once.

    prepare: what a measure needs of one side, from its rows [n, d].
    between: the value, from that of both sides.
    relabel: the same side with its inputs in the order given, [n] a permutation; what ``prepare`` would find of
        ``rows[order]``, for less.
    least_rows: inputs below which the measure has no meaning.
    """

    prepare: Callable[[Rows, int], State]  # rows, threads
    between: Callable[[State, State, int], float]
    relabel: Callable[[State, np.ndarray], State]
    least_rows: int = 2


def evaluate(
    method: Method[State],
    x: Any,
    y: Any,
    *,
    name: str,
    options: Mapping[str, Any],
    result: type[Similarity] | type[Distance],
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
    permutations: relabellings of the inputs of y that the null and p are taken from; 0 leaves them out.
    seed: of the relabellings, and of the groups of the jackknife.
    jackknife: groups of inputs, at least 2, each left out once for the standard error; 0 leaves it out.

    Raises
    ------
    TypeError, ValueError: bad arrays, fewer inputs than the measure takes, widths that differ where they must not,
        numbers that are no counts.
    """
    whole_number(permutations, "permutations", function=name, least=0)
    whole_number(seed, "seed", function=name, least=0)
    whole_number(jackknife, "jackknife", function=name, least=0)
    cpus = thread_count(threads, function=name)
    rows_x, rows_y = as_rows(x, function=name, name="x"), as_rows(y, function=name, name="y")
    same_inputs(rows_x, rows_y, function=name)
    n = len(rows_x)
    if n < method.least_rows:
        raise ValueError(f"[{name}] expected at least {method.least_rows} inputs, got {n}")
    if same_width and rows_x.depth != rows_y.depth:
        raise ValueError(f"[{name}] expected y with {rows_x.depth} columns like x, got {rows_y.depth}")
    if jackknife and not 2 <= jackknife <= n:
        raise ValueError(f"[{name}] expected jackknife 0 or between 2 and the {n} inputs, got {jackknife}")
    left, right = method.prepare(rows_x, cpus), method.prepare(rows_y, cpus)
    value = method.between(left, right, cpus)
    steps, done = permutations + jackknife + 1, 1
    if progress:
        progress(done, steps)
    random = np.random.default_rng(seed)
    draws = np.empty(permutations)
    for draw in range(permutations):
        draws[draw] = method.between(left, method.relabel(right, random.permutation(n)), cpus)
        done += 1
        if progress:
            progress(done, steps)
    error = None
    if jackknife:
        without = np.empty(jackknife)
        for group, out in enumerate(np.array_split(random.permutation(n), jackknife)):
            kept = np.ones(n, bool)
            kept[out] = False
            left, right = (method.prepare(_taken(rows, kept), cpus) for rows in (rows_x, rows_y))
            without[group] = method.between(left, right, cpus)
            done += 1
            if progress:
                progress(done, steps)
        error = float(np.sqrt((jackknife - 1) / jackknife * ((without - without.mean()) ** 2).sum()))
    closer = draws >= value if result is Similarity else draws <= value
    return result(
        value,
        name,
        n,
        options,
        "float64",
        sampled_null(draws) if permutations else Null(np.nan, np.nan, np.nan),
        f"{permutations} relabellings" if permutations else "not asked for",
        (1 + int(np.count_nonzero(closer))) / (1 + permutations) if permutations else np.nan,
        "permutations" if permutations else "not asked for",
        error,
    )


def _taken(rows: Rows, kept: np.ndarray) -> Rows:
    return replace(rows, values=rows.values[kept])
