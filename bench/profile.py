"""profile: where the time of a public call goes, by the native operations under it."""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from . import timer
from .contest import Answer, Case, Op, Terms, compete
from .kernel_sums import KERNEL_SUMS
from .nearest import NEAREST
from .tables import section

COLUMNS = ("operation", "calls", "median", "share")
SPENT = np.dtype([("name", "U64"), ("calls", np.int64), ("seconds", np.float64)])
WHOLE, REST = "whole call", "rest: Python and numpy"
PROFILED = tuple(
    replace(op, cases=(case,), contenders=op.contenders[:1], compares=False)
    for op, case in ((NEAREST, Case(20000, 512, 10)), (KERNEL_SUMS, Case(20000, 512)))
)


@contextmanager
def timed_operations() -> Iterator[dict[str, tuple[int, float]]]:
    """Calls and seconds of every function of the native module while the block runs, by name."""
    from repsim import _core

    spent: dict[str, tuple[int, float]] = {}

    def timed(name: str, operation: Callable[..., object]) -> Callable[..., object]:
        def run(*arguments: object, **named: object) -> object:
            start = time.perf_counter()
            try:
                return operation(*arguments, **named)
            finally:
                calls, seconds = spent.get(name, (0, 0.0))
                spent[name] = (calls + 1, seconds + time.perf_counter() - start)

        return run

    operations = {name: value for name, value in vars(_core).items() if callable(value) and not isinstance(value, type)}
    for name, operation in operations.items():
        setattr(_core, name, timed(name, operation))
    try:
        yield spent
    finally:
        for name, operation in operations.items():
            setattr(_core, name, operation)


def spent_in(run: Answer, repeats: int, pause: float, **inputs: np.ndarray) -> np.ndarray:
    """Medians over calls with cold caches: the whole call first, then its operations in the order of their first call,
    then the rest.
    """
    flush = timer.cache_flush()
    seconds: dict[str, list[float]] = {WHOLE: []}
    calls: dict[str, int] = {WHOLE: 1}
    for _ in range(repeats):
        time.sleep(pause)
        with timed_operations() as spent:
            whole = timer.seconds(lambda: run(**inputs), flush)
        rest = whole - sum(one for _, one in spent.values())
        for name, (count, one) in {WHOLE: (1, whole), **spent, REST: (0, rest)}.items():
            seconds.setdefault(name, []).append(one)
            calls[name] = count
    names = [*(name for name in seconds if name != REST), REST]
    return np.array([(name, calls[name], statistics.median(seconds[name])) for name in names], SPENT)


def profile(op: Op, case: Case, terms: Terms) -> tuple[str, str]:
    """The table, and why there is none."""
    first = op.contenders[0]
    run = functools.partial(spent_in, first.run, terms.repeats, terms.pause)
    watched = replace(op, name=f"profile of {op.name}", contenders=(replace(first, run=run),))
    outcome = compete(watched, case, replace(terms, repeats=0))[0]
    title, summary = f"{watched.name}: {case}", f"{first.name}: {op.summary}; medians of {terms.repeats} calls"
    if outcome.note or outcome.answer is None:
        return section(title, summary, COLUMNS, [[first.name, "", outcome.note, ""]]), outcome.note
    whole = float(outcome.answer["seconds"][0])
    rows = [
        [str(name), str(calls) if calls else "", f"{seconds:.3g} s", f"{seconds / whole:.1%}"]
        for name, calls, seconds in outcome.answer
    ]
    return section(title, summary, COLUMNS, rows), ""
