"""python -m repsim.gallery: train the example, try every measure on it, and write the page."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from repsim.records import RunError, environment, now, without_home, write_atomic

PROGRAM = "python -m repsim.gallery"


class _Parser(argparse.ArgumentParser):
    """argparse that raises one line instead of printing its usage and leaving."""

    def error(self, message: str) -> NoReturn:
        raise RunError(message)


def _seed(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to {2**31 - 1}, got {text!r}")
    return int(text)


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = _Parser(prog=PROGRAM, description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("gallery.html"), help="the page (default: %(default)s)"
    )
    parser.add_argument("--seed", type=_seed, default=0, help="of data, networks and copies (default: %(default)s)")
    parser.add_argument("--smoke", action="store_true", help="as small as possible, to see that it works")
    chosen = parser.parse_args(list(words))
    if not chosen.output.parent.is_dir():
        raise RunError(f"expected an existing folder for the page, got {chosen.output.parent}")
    if chosen.output.is_dir():
        raise RunError(f"expected a file for the page, got the folder {chosen.output}")
    return chosen


def write_gallery(output: Path, *, seed: int, smoke: bool, command: str) -> None:
    """Compute everything and write the page.

    Example: `write_gallery(Path("gallery.html"), seed=0, smoke=True, command="")`.

    Parameters: output, in a folder that exists; seed; smoke, whether to be small; command, as the page quotes it.
    Raises: RunError when the page cannot be written.
    """
    from repsim.gallery.chapters import chapters
    from repsim.gallery.example import FULL, SMOKE, train_example
    from repsim.gallery.page import render
    from repsim.gallery.table import compared, questions
    from repsim.measures.registry import REGISTRY

    started = time.perf_counter()

    def say(line: str) -> None:
        print(f"{time.perf_counter() - started:6.1f} s  {line}", file=sys.stderr)

    size, measures = SMOKE if smoke else FULL, tuple(REGISTRY.values())
    example = train_example(size, seed, say)
    of_representations = [one for one in measures if one.takes == "representations"]
    rows = compared(of_representations, example, relabellings=size.relabellings, seed=seed, say=say)
    page = render(
        example,
        rows,
        questions(measures, rows),
        chapters(of_representations, example, size, seed, say),
        [one for one in measures if one.takes != "representations"],
        size=size,
        seed=seed,
        environment=environment(),
        made=now(),
        command=without_home(command),
        seconds=time.perf_counter() - started,
    )
    write_atomic(output, page.encode())


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what a command line asks for.

    Example: `main(["--smoke", "-o", "gallery.html"]) == 0`.

    Parameters: arguments, the words after the program's name; None: those of this process.
    Returns: 0 done, 2 the request cannot be met, 130 interrupted.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        chosen = _arguments(words)
        command = shlex.join([*PROGRAM.split(), *words])
        write_gallery(chosen.output, seed=chosen.seed, smoke=chosen.smoke, command=command)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (RunError, OSError) as error:
        print(f"repsim: {error}", file=sys.stderr)
        return 2
    print(chosen.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
