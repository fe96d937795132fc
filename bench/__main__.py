"""``python -m bench``: time, rate, memory and agreement of repsim and its peers on this machine."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

CHECKOUT = Path(__file__).parents[1]
# The checkout comes first on the path; where its native module was not built in place, an installed repsim is meant.
if not list((CHECKOUT / "repsim").glob("_core.*.so")):
    sys.path.sort(key=lambda entry: Path(entry).resolve() == CHECKOUT)
try:
    importlib.import_module("repsim")
except ImportError as error:
    print(f"bench: repsim is not installed, or its native module is not built: {error}", file=sys.stderr)
    sys.exit(2)

from repsim.records import RunError, write_atomic  # noqa: E402

from . import machine  # noqa: E402
from .contest import ContestError, Op, compete  # noqa: E402
from .gemm import DEPTH, GEMM, ROWS  # noqa: E402
from .kernel_sums import KERNEL_SUMS  # noqa: E402
from .nearest import NEAREST  # noqa: E402
from .tables import show, table  # noqa: E402

OPS: dict[str, Op] = {op.name: op for op in (NEAREST, KERNEL_SUMS)}
METHOD = """\
Each library runs in a process of its own on the same float32 inputs. Times: medians of {repeats} calls after a warm-up,
in turns, caches flushed and {pause:g} s of rest before each call. GFLOP/s count every pair of inputs once, so that a
library that visits both halves can reach 50 % of GEMM, the faster of the two products below. Peak memory growth: VmHWM
during one call, above libraries and inputs. "Faster by" is the time over that of repsim: below 1, repsim is slower.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; returns 0, 1 when repsim or a library being timed failed, 2 for a bad request."""
    options = _parse(arguments)
    machine.give_all_threads()
    facts = machine.facts()
    for name, value in facts.items():
        if machine.BUSY in value:
            _say(f"warning: {name}: {value}")

    def outcomes(op: Op, n: int, d: int) -> tuple[str, float, str]:
        results = compete(op, n, d, repeats=options.repeats, pause=options.pause, say=_say)
        rates = [op.flop(n, d) / one.median for one in results if one.times]
        best = rate or max(rates)
        failure = results[0].note and f"{op.name}: {results[0].contender.name} {results[0].note}"
        return table(op, n, d, results, best), best, failure

    try:
        rate = 0.0
        first, rate, _ = outcomes(GEMM, ROWS, DEPTH)
        measured = [outcomes(OPS[name], n, options.d) for name in options.only for n in options.n]
        page = "\n".join(
            [
                "# Measured speed\n",
                *(f"- {name}: {value}" for name, value in facts.items()),
                "",
                METHOD.format(repeats=options.repeats, pause=options.pause),
                first,
                *(text for text, _, _ in measured),
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
    failures = [failure for _, _, failure in measured if failure]
    for failure in failures:
        _say(failure)
    return 1 if failures else 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__, allow_abbrev=False)
    parser.add_argument("--n", type=_at_least(32), nargs="+", default=[5000, 20000], help="rows (default: 5000 20000)")
    parser.add_argument("--d", type=_at_least(2), default=512, help="features (default: 512)")
    parser.add_argument("--repeats", type=_at_least(1), default=5, help="timed calls per library (default: 5)")
    parser.add_argument("--pause", type=_pause, default=0.5, help="seconds of rest before each (default: 0.5)")
    parser.add_argument("--only", nargs=1, choices=list(OPS), default=list(OPS), help="one operation instead of all")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the results there, too")
    options = parser.parse_args(arguments)
    if options.markdown and (options.markdown.is_dir() or not os.access(options.markdown.parent, os.W_OK)):
        parser.error(f"argument --markdown: cannot write {options.markdown}")
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
