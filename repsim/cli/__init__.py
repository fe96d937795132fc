"""The ``repsim`` command: extract layers into stores, compare stores, look at measures and stores."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Sequence
from typing import Any

from repsim.records import RunError
from repsim.store import StoreInUseError
from repsim.terminal import DONE, status_of

__all__ = ["main"]

USAGE = """usage: repsim COMMAND

  extract MODEL DATA -o STORE   run a model over images or texts, write its layers to a store
  compare A B [C ...]           every layer of every model against the others': stores, .safetensors, .npy, .npz
  measures [FAMILY]             all measures, and what each declares of itself
  info STORE                    what a store holds and where it comes from

`repsim COMMAND --help` lists the flags. Models are Hugging Face ids or folders, or timm:NAME.
The studies have a command of their own: python -m repsim.experiments.

Exit status: 0 done, 2 the request cannot be met, 130 interrupted."""
COMMANDS = ("extract", "compare", "measures", "info")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what a command line asks for.

    Example: ``main(["compare", "a.store", "b.store", "--measures", "cka"]) == 0``.

    Parameters: ``arguments``, the words after the program's name; None: those of this process.
    Returns: the exit status, see `USAGE`.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    return status_of(lambda: _do(words), refusals=(TypeError, ValueError, OSError, StoreInUseError))


def _do(words: Sequence[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE)
        return DONE
    command, rest = words[0], words[1:]
    if command == "--version":
        import repsim

        print(f"repsim {repsim.__version__}")
        return DONE
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else "see repsim --help"
        raise RunError(f"unknown command {command!r}; {hint}")
    return _action(command)(rest)


def _action(command: str) -> Callable[[Sequence[str]], Any]:
    # torch and transformers take seconds to import: only the command that needs them does.
    if command == "extract":
        from repsim.cli.extract import extract

        return extract
    from repsim.cli import compare, look

    return {"compare": compare.compare, "measures": look.measures, "info": look.info}[command]
