"""``python -m bench.reach``: how many inputs every measure reaches in 10 minutes and 8 GB here, from memory maps.

Each measure runs at growing n, every call in a process of its own, until a run takes longer than it should, holds more
than it should, is refused, or n is a million. Those that get there run once more at the larger width. What was run and
what was not stand apart: 10 minutes and 8 GB are carried on from the last run, time by the power of n that fits the
last three, or by that of the cost which the measure declares if it is higher (short runs look better than they are),
memory by the power that fits.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import repsim
from repsim.measures.registry import REGISTRY
from repsim.records import write_atomic

from . import CHECKOUT, machine
from .inputs import related_files
from .tables import exponent

SECONDS, BYTES = 600.0, 8e9
WIDTHS = (64, 256)
FIRST, LAST = 1000, 1_000_000
GROWN = ("measure", "run: n", "seconds", "MB held", "fitted: time ~ n^", "carried on: n in 10 min", "n in 8 GB", "end")
WIDE = ("measure", "run: n", "seconds", "MB held")
LEAST_BYTES = 50e6  # less is not told from what else the process holds

# Options that change how far a measure reaches.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "cka, kernel rbf": ("cka", {"kernel": "rbf"}),
    "rsa, pearson": ("rsa", {"comparison": "pearson"}),
}


@dataclass(frozen=True)
class Run:
    """One call."""

    n: int
    seconds: float
    bytes: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m bench.reach", description=__doc__)
    parser.add_argument("--measures", nargs="+", default=_names(), choices=_names(), metavar="NAME")
    parser.add_argument("--stop", type=float, default=8.0, metavar="SECONDS", help="no larger n after such a call")
    parser.add_argument("--last", type=int, default=LAST, metavar="N")
    parser.add_argument("--widths", nargs=2, type=int, default=WIDTHS, metavar="D")
    parser.add_argument("--folder", help="for the memory maps: 2.6 GB (default: where temporary files are)")
    parser.add_argument("--markdown", metavar="FILE")
    parser.add_argument("--one", nargs=3, metavar=("NAME", "N", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        name, n, folder = options.one
        print(json.dumps(asdict(_call(name, int(n), Path(folder)))))
        return 0
    machine.give_all_threads()
    facts = machine.facts()
    narrow, wide = options.widths
    grown: list[tuple[str, list[Run], str]] = []
    widened: list[tuple[str, ...]] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for name in _reported(options.measures, "grown"):
            if not grown:
                related_files(options.last, narrow, _room(folder, narrow))
            runs, end = _grow(name, options.stop, options.last, _room(folder, narrow))
            grown.append((name, runs, end))
            print(_line(_row(*grown[-1])), file=sys.stderr, flush=True)
        arrived = [name for name, runs, _ in grown if runs and runs[-1].n == options.last]
        for name in _reported(arrived, "wide"):
            if not widened:
                related_files(options.last, wide, _room(folder, wide))
            run, why = _run(name, options.last, 40 * options.stop, _room(folder, wide))
            widened.append((name, *(_ran(run) if run else ("-", "-", why))))
            print(_line(widened[-1]), file=sys.stderr, flush=True)
    lines = [
        "# How many inputs every measure reaches",
        "",
        "Columns under *run* and *seconds*, *MB held* were measured: float32 rows from memory maps that the system had",
        "read before, the growth of the peak of the process; of threads, all. What is *fitted* comes from the last",
        "three runs, what is *carried on* was not run.",
        "",
        *(f"- {key}: {value}" for key, value in facts.items()),
        f"- load after the run: {machine.facts()['load before the run']}",
        "",
        *_table(f"d = d' = {narrow}", GROWN, [_row(*one) for one in grown]),
        *_table(f"d = d' = {wide}: those that ran at n = {options.last:,} above", WIDE, widened),
    ]
    page = "\n".join(lines)
    print(page)
    if options.markdown:
        write_atomic(Path(options.markdown), f"{page}\n".encode())
    return 0


def _names() -> list[str]:
    return [*(one.name for one in REGISTRY.values() if one.takes == "representations"), *VARIANTS]


def _room(folder: str, width: int) -> Path:
    room = Path(folder) / str(width)
    room.mkdir(exist_ok=True)
    return room


def _reported(names: Sequence[str], part: str) -> Iterator[str]:
    for done, name in enumerate(names):
        print(f"{part} {done + 1}/{len(names)}: {name}", file=sys.stderr, flush=True)
        yield name


def _grow(name: str, stop: float, last: int, folder: Path) -> tuple[list[Run], str]:
    """Runs at n, from few inputs on, and why there is no larger one; fast ones take larger steps."""
    runs: list[Run] = []
    n = min(FIRST, last)
    while True:
        run, why = _run(name, n, 40 * stop, folder)
        if run is None:
            return runs, why
        runs.append(run)
        if run.seconds > stop:
            return runs, "time"
        if run.bytes > BYTES / 4:
            return runs, "memory"
        if n == last:
            return runs, "all inputs"
        n = min(n * (2 if run.seconds > stop / 16 else 8), last)


def _run(name: str, n: int, most: float, folder: Path) -> tuple[Run | None, str]:
    """A call in a process of its own, so that what one held is not counted for the next; or why there was none."""
    command = [sys.executable, "-m", "bench.reach", "--one", name, str(n), str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=most, cwd=CHECKOUT)
    except subprocess.TimeoutExpired:
        return None, f"more than {most:.0f} s at n = {n:,}"
    if done.returncode:
        return None, (done.stderr.strip().splitlines() or ["failed"])[-1]
    return Run(**json.loads(done.stdout)), ""


def _call(name: str, n: int, folder: Path) -> Run:
    x, y = (np.load(folder / f"{side}.npy", mmap_mode="r")[:n] for side in ("x", "y"))
    measure, options = VARIANTS.get(name, (name, {}))
    function = getattr(repsim, measure)
    few = 4 * x.shape[1]
    function(np.array(x[:few]), np.array(y[:few]), **options)  # libraries are loaded before the measurement
    machine.reset_peak_memory()
    before, start = machine.peak_memory(), time.perf_counter()
    function(x, y, **options)
    return Run(n, time.perf_counter() - start, machine.peak_memory() - before)


def _ran(run: Run) -> tuple[str, str, str]:
    return f"{run.n:,}", f"{run.seconds:.3g}", f"{run.bytes / 1e6:.0f}"


def _row(name: str, runs: Sequence[Run], end: str) -> tuple[str, ...]:
    if not runs:
        return (name, *["-"] * 6, end)
    last, tail = runs[-1], runs[-3:]
    power = exponent((run.n, run.seconds) for run in tail) if len(tail) > 1 else math.nan
    steepest = max(power, _declared(name))
    held = [run for run in tail if run.bytes > LEAST_BYTES]
    goes_on = end in ("time", "memory", "all inputs")
    in_time = f"{last.n * (SECONDS / last.seconds) ** (1 / steepest):.2g}" if goes_on and steepest > 0 else "-"
    growth = exponent((run.n, run.bytes) for run in held) if len(held) > 1 else math.nan
    in_memory = f"{last.n * (BYTES / last.bytes) ** (1 / growth):.2g}" if goes_on and growth > 0.2 else "-"
    return (name, *_ran(last), f"{power:.2f}", in_time, in_memory, end)


def _declared(name: str) -> int:
    """The power of n in the time that a measure declares: "time n^2 (d + d'), memory n" is 2."""
    measure, options = VARIANTS.get(name, (name, {}))
    if measure not in REGISTRY:
        return 1
    if options:
        return 2
    time_part = REGISTRY[measure].cost.split(", memory")[0]
    return max([1, *(int(power) for power in re.findall(r"\bn\^(\d)", time_part))])


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"## {title}", "", *map(_line, (columns, ("---",) * len(columns), *rows)), ""]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
