"""The manner of every command: words that are wrong are one line and status 2; tables and bars that fit a pipe too."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from repsim.records import RunError

if TYPE_CHECKING:
    from rich.table import Table

DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, 130  # what a command exits with


class Parser(argparse.ArgumentParser):
    """argparse that raises one line instead of printing its usage and leaving.

    Example: ``Parser(prog="repsim info").parse(["a.store"])`` raises RunError("unexpected argument a.store").
    """

    def error(self, message: str) -> NoReturn:
        raise RunError(message)

    def parse(self, arguments: Sequence[str]) -> dict[str, Any]:
        """The values of the words, by name. Raises: RunError, one line, for an unknown, missing or wrong word."""
        values, extra = self.parse_known_args(list(arguments))
        if extra:
            flag = extra[0].split("=")[0]
            near = difflib.get_close_matches(flag, self._option_string_actions, n=1)
            what = "unknown flag" if flag.startswith("-") else "unexpected argument"
            raise RunError(f"{what} {flag}" + (f"; did you mean {near[0]}?" if near else ""))
        return vars(values)


def count(text: str) -> int:
    """The type of a flag that counts something: ``count("3") == 3``; below 1 argparse reports it."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def require_folder(path: Path) -> None:
    """Refuse a file to be written where there is no folder for it, before any work. Raises: RunError."""
    if not path.resolve().parent.is_dir():
        raise RunError(f"{path} cannot be written: there is no folder {path.resolve().parent}")


def status_of(action: Callable[[], int], *, refusals: tuple[type[Exception], ...] = ()) -> int:
    """Do a command's work and turn what stops it into one line and an exit status.

    Example: ``status_of(lambda: 0) == 0``.

    Parameters: ``action``, which returns the status; ``refusals``, exceptions that are the user's to remove where their
        message begins with the name of a function, as all of this package's do; others are errors of the program and
        keep their traceback.
    Returns: the status; 2 where the request cannot be met, 130 where the user interrupted it.
    """
    try:
        return action()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except RunError as error:
        print(f"repsim: {error}", file=sys.stderr)
        return REFUSED
    except BrokenPipeError:  # the reader of our output left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Exception as error:
        ours = getattr(error, "errno", None) is None  # the system's own begin with "[Errno"
        if ours and isinstance(error, refusals) and str(error).startswith("["):
            line = " ".join(str(error).split())
        elif isinstance(error, OSError):
            line = (error.strerror or str(error)) + (f" ({error.filename})" if error.filename else "")
        else:
            raise
        print(f"repsim: {line}", file=sys.stderr)
        return REFUSED


def new_table(*titles: str) -> Table:
    """An empty table with these columns, to be filled with ``add_row``."""
    from rich import box
    from rich.table import Table

    empty = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in titles:
        empty.add_column(title, justify="left", overflow="fold")
    return empty


def print_table(filled: Table) -> None:
    """Print it as wide as the terminal; without one in its own width, so that a file or a pipe gets whole lines."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 200).print(filled)


class Bar:
    """Progress on the standard error stream: a bar with the time left on a terminal, a line per tenth otherwise.

    Example::

        with Bar("conv1") as bar:
            bar(1, 10)                                  # 1 of 10 is done
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._tenth = 0
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Bar:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task(self._what, total=None)
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        if self._bar is not None:
            self._bar.update(self._task, total=total, completed=done)
        elif 10 * done // total > self._tenth:
            self._tenth = 10 * done // total
            print(f"{self._what}: {done} of {total}", file=sys.stderr, flush=True)
