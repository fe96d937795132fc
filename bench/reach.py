"""``python -m bench.reach``: how many inputs every measure reaches in 10 minutes and 8 GB here, from growing runs.

Each measure runs at n, 2n, 4n, ... until a run takes longer than it should, holds more than it should, or is refused.
What follows for 10 minutes and 8 GB is carried on from the last run: time by the power of n that fits the last three,
or by that of the cost which the measure declares if it is higher (short runs look better than they are), memory by the
power that fits.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import repsim
from repsim.measures.registry import REGISTRY
from repsim.records import write_atomic

from . import CHECKOUT, machine
from .tables import exponent

SECONDS, BYTES = 600.0, 8e9
FEATURES = 64
FIRST, LAST = 1000, 1_024_000
COLUMNS = ("measure", "largest n run", "seconds", "MB held", "time ~ n^", "n in 10 min", "n in 8 GB", "why no more")
LEAST_BYTES = 50e6  # less is not told from what else the process holds


@dataclass(frozen=True)
class Run:
    """One call."""

    n: int
    seconds: float
    bytes: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m bench.reach", description=__doc__)
    parser.add_argument("--measures", nargs="+", default=list(_names()), metavar="NAME")
    parser.add_argument("--stop", type=float, default=8.0, metavar="SECONDS", help="no larger n after such a call")
    parser.add_argument("--last", type=int, default=LAST, metavar="N")
    parser.add_argument("--markdown", metavar="FILE")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "N"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        print(json.dumps(asdict(_call(options.one[0], int(options.one[1])))))
        return 0
    machine.give_all_threads()
    facts = machine.facts()
    lines = [_line(COLUMNS), _line(("---",) * len(COLUMNS))]
    for name in options.measures:
        runs, why = _grow(name, options.stop, options.last)
        lines.append(_line(_row(name, runs, why)))
        print(lines[-1], file=sys.stderr, flush=True)
    conditions = ["", f"d = d' = {FEATURES}, float32.", *(f"- {key}: {value}" for key, value in facts.items())]
    page = "\n".join([*lines, *conditions])
    print(page)
    if options.markdown:
        write_atomic(Path(options.markdown), f"{page}\n".encode())
    return 0


def _names() -> list[str]:
    return [one.name for one in REGISTRY.values() if one.takes == "representations"]


def _grow(name: str, stop: float, last: int) -> tuple[list[Run], str]:
    """Every call in a process of its own, so that what one held is not counted for the next."""
    runs: list[Run] = []
    n = FIRST
    while n <= last:
        command = [sys.executable, "-m", "bench.reach", "--one", name, str(n)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=40 * stop, cwd=CHECKOUT)
        except subprocess.TimeoutExpired:
            return runs, "time"
        if done.returncode:
            return runs, (done.stderr.strip().splitlines() or ["failed"])[-1]
        runs.append(Run(**json.loads(done.stdout)))
        if runs[-1].seconds > stop:
            return runs, "time"
        if runs[-1].bytes > BYTES / 4:
            return runs, "memory"
        n *= 2
    return runs, ""


def _call(name: str, n: int) -> Run:
    random = np.random.default_rng(0)
    x = random.standard_normal((n, FEATURES), dtype=np.float32)
    y = np.tanh(x @ random.standard_normal((FEATURES, FEATURES), dtype=np.float32) / 8)
    y += 0.5 * random.standard_normal(y.shape, dtype=np.float32)
    function = getattr(repsim, name)
    function(x[:500], y[:500])  # libraries are loaded before the measurement
    machine.reset_peak_memory()
    before, start = machine.peak_memory(), time.perf_counter()
    function(x, y)
    return Run(n, time.perf_counter() - start, machine.peak_memory() - before)


def _row(name: str, runs: Sequence[Run], why: str) -> tuple[str, ...]:
    if not runs:
        return (name, *["-"] * 6, why)
    last, tail = runs[-1], runs[-3:]
    power = exponent((run.n, run.seconds) for run in tail) if len(tail) > 1 else math.nan
    steepest = max(power, _declared(name)) if name in REGISTRY else power
    held = [run for run in tail if run.bytes > LEAST_BYTES]
    refused = why not in ("", "time", "memory")
    in_time = "-" if refused or not steepest > 0 else f"{last.n * (SECONDS / last.seconds) ** (1 / steepest):.2g}"
    growth = exponent((run.n, run.bytes) for run in held) if len(held) > 1 else math.nan
    in_memory = "-" if refused or not growth > 0.2 else f"{last.n * (BYTES / last.bytes) ** (1 / growth):.2g}"
    cells = (f"{last.n:,}", f"{last.seconds:.2f}", f"{last.bytes / 1e6:.0f}", f"{power:.2f}", in_time, in_memory, why)
    return (name, *cells)


def _declared(name: str) -> int:
    """The power of n in the time that a measure declares: "time n^2 (d + d'), memory n" is 2."""
    time_part = REGISTRY[name].cost.split(", memory")[0]
    return max([1, *(int(power) for power in re.findall(r"\bn\^(\d)", time_part))])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
