"""``python -m bench``: time, rate, memory and agreement of repsim and its peers on this machine."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

try:
    importlib.import_module("repsim")
except ImportError as error:
    print(f"bench: repsim is not installed, or its native module is not built: {error}", file=sys.stderr)
    sys.exit(2)

from repsim.records import RunError, write_atomic

from . import gpu, machine, profile
from .contest import Case, ContestError, Op, Outcome, Terms, compete
from .gemm import GEMM
from .growth import GROWTH, measure, sizes
from .kernel_sums import KERNEL_SUMS
from .linear_cka import LINEAR_CKA
from .nearest import NEAREST
from .tables import growth_table, more_neighbours, show, table

PARTS: dict[str, tuple[Op, ...]] = {
    **{op.name: (op,) for op in (NEAREST, KERNEL_SUMS, LINEAR_CKA)},
    "growth": GROWTH,
    "profile": profile.PROFILED,
}
METHOD = """\
Each library runs in a process of its own on the same float32 inputs. Times: medians over calls (repeats: {repeats},
or as many as stand beside the time), after a warm-up, in turns, caches flushed and {pause:g} s of rest before each.
GFLOP/s count what the formula under a title says, whatever a library spends: where that counts every pair of inputs
once, a library that visits both halves can reach 50 % of GEMM, the faster of the two products of its precision below.
Peak memory growth: VmHWM during one call, above libraries and inputs. "Over repsim" is the time over that of the first
row: above 1, repsim is faster.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; returns 0, 1 when repsim or a library being timed failed, 2 for a bad request."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["gpu"]:
        return gpu.main(words[1:])
    options = _parse(words)
    machine.give_all_threads()
    facts = machine.facts()
    for name, value in facts.items():
        if machine.BUSY in value:
            _say(f"warning: {name}: {value}")
    run = Run(options)
    try:
        for part in options.only:
            run.add(part)
        page = "\n".join(
            [
                "# Measured speed\n",
                *(f"- {name}: {value}" for name, value in facts.items()),
                f"- duration: {run.minutes():.1f} minutes",
                "",
                METHOD.format(repeats=options.repeats, pause=options.pause),
                *run.gemm_sections,
                *run.sections,
            ]
        )
        show(page)
        if options.markdown:
            write_atomic(options.markdown, page.encode())
    except (ContestError, RunError) as error:
        _say(str(error))
        return 1
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    for failure in run.failures:
        _say(failure)
    return 1 if run.failures else 0


class Run:
    """The sections of the page so far, the rates of GEMM that they needed, and which measurements of repsim failed."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.sections: list[str] = []
        self.gemm_sections: list[str] = []
        self.failures: list[str] = []
        self._options = options
        self._terms = Terms(options.repeats, options.pause, _say)
        self._rates: dict[str, float] = {}
        self._start = time.monotonic()

    def minutes(self) -> float:
        return (time.monotonic() - self._start) / 60

    def add(self, part: str) -> None:
        """Measure one of ``PARTS``."""
        way = {"growth": self._grow, "profile": self._profile}.get(part, self._contend)
        for op in PARTS[part]:
            way(op)

    def _contend(self, op: Op) -> None:
        measured: list[tuple[Case, Sequence[Outcome]]] = []
        for case in cases_of(op, self._options):
            rate = self._gemm(op.gemm)
            outcomes = compete(op, case, self._terms)
            measured.append((case, outcomes))
            self._add(op, case, table(op, case, outcomes, rate, self._options.repeats), outcomes[0].note)
        self.sections += filter(None, [more_neighbours(op, measured)])

    def _grow(self, op: Op) -> None:
        for case in cases_of(op, self._options):
            rate = self._gemm(op.gemm)
            measured = measure(op, case, self._terms)
            failure = next((outcomes[0].note for _, outcomes in measured if outcomes[0].note), "")
            self._add(op, case, growth_table(op, measured, rate, self._options.repeats), failure)

    def _profile(self, op: Op) -> None:
        for case in cases_of(op, self._options):
            text, failure = profile.profile(op, case, self._terms)
            self._add(op, case, text, failure)

    def _add(self, op: Op, case: Case, text: str, failure: str) -> None:
        self.sections.append(text)
        if failure:
            self.failures.append(f"{op.name}, {case}: {op.contenders[0].name} {failure}")

    def _gemm(self, precision: str) -> float:
        """The machine's rate in flop/s, measured once."""
        if precision not in self._rates:
            op = GEMM[precision]
            (case,) = op.cases
            outcomes = compete(op, case, self._terms)
            self._rates[precision] = max(op.flop(case) / one.median for one in outcomes if one.times)
            text = table(op, case, outcomes, self._rates[precision], self._options.repeats)
            self.gemm_sections.append(text)
        return self._rates[precision]


def cases_of(op: Op, options: argparse.Namespace) -> list[Case]:
    """Those of the operation, with the sizes that were asked for in place of theirs, each once."""
    asked = [
        Case(n, options.d or case.d, case.k and (options.k or case.k))
        for case in op.cases
        for n in (options.n or [case.n])
    ]
    return list(dict.fromkeys(asked))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, allow_abbrev=False,
        epilog="On a machine with a GPU: python -m bench gpu.",
    )  # fmt: skip
    parser.add_argument("--n", type=_at_least(32), nargs="+", help="rows, in place of those of every case")
    parser.add_argument("--d", type=_at_least(2), help="features, in place of those of every case")
    parser.add_argument("--k", type=_at_least(1), help="neighbours, in place of those of every case")
    parser.add_argument("--repeats", type=_at_least(1), default=5, help="timed calls per library (default: 5)")
    parser.add_argument("--pause", type=_pause, default=0.5, help="seconds of rest before each (default: 0.5)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="some parts instead of all")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the results there, too")
    options = parser.parse_args(arguments)
    if options.markdown and (options.markdown.is_dir() or not os.access(options.markdown.parent, os.W_OK)):
        parser.error(f"argument --markdown: cannot write {options.markdown}")
    for part in options.only:
        for case in (case for op in PARTS[part] for case in cases_of(op, options)):
            fewest = min(size.n for size in sizes(case)) if part == "growth" else case.n
            if fewest <= case.k:
                parser.error(
                    f"argument --k: expected fewer neighbours than rows, got k = {case.k}, n = {fewest} ({part})"
                )
    return options


def _at_least(least: int) -> Callable[[str], int]:
    def whole_number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, got {text!r}")
        return int(text)

    return whole_number


def _pause(text: str) -> float:
    if not text.replace(".", "", 1).isdecimal():
        raise argparse.ArgumentTypeError(f"expected seconds, got {text!r}")
    return float(text)


def _say(line: str) -> None:
    print(f"bench: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
