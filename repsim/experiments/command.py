"""The command line: what may be asked for, and the flags that a study's Config makes."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import math
import os
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repsim.experiments import GROUPS, STUDIES, chosen, load
from repsim.records import RunError
from repsim.terminal import Parser, count

PROGRAM = "python -m repsim.experiments"
DEFAULT_PRESET = "quick"
USAGE = f"""usage: {PROGRAM} [COMMAND]

Without a command: `run default`, the studies of no group, at preset {DEFAULT_PRESET}, to one page in ./repsim-runs.

  list                       the studies and their presets
  plan [NAME ...] [FLAGS]    cells, models and estimated time of a run
  run NAME [FLAGS]           train, compare, attack, and write the page; `run NAME --help` lists the flags;
                             NAME is a study, a group ({", ".join(GROUPS)}), default, or all
  resume DIR                 go on with a stopped run; what is finished is not done again
  retry-failed DIR           do the failed cells again, and those skipped because of them
  status DIR                 finished, failed and pending cells, time left
  show DIR CELL              one cell's record, or its traceback; CELL is a key or the beginning of one
  report DIR                 write table, effects and page anew from the records

Exit status: 0 done, 1 some cell failed, 2 the request cannot be met, 130 interrupted."""
DIRECTORY_COMMANDS = ("resume", "retry-failed", "status", "show", "report")
COMMANDS = ("list", "plan", "run", *DIRECTORY_COMMANDS)
# One worker holds torch, its data and its models: about this much memory (bytes).
MEMORY_PER_WORKER = 2 * 2**30


@dataclass(frozen=True)
class Request:
    """What the user asked for, checked as far as no run is needed for it."""

    command: str  # one of COMMANDS, or "help"
    names: tuple[str, ...] = ()  # of studies
    preset: str = DEFAULT_PRESET
    overrides: Mapping[str, Any] = field(default_factory=dict)  # Config fields given as flags
    directory: Path | None = None  # of the run; None with `run`: a new one under ./repsim-runs
    workers: int | None = None  # None: chosen for the machine
    threads: int | None = None
    cell: str = ""  # of `show`
    every_cell: bool = False  # of `plan`


def parse(arguments: Sequence[str]) -> Request:
    """The request that the words of a command line make.

    Example: ``parse(["run", "data_overlap", "--alpha", "0", "0.5", "1"]).overrides == {"alpha": (0.0, 0.5, 1.0)}``.

    Parameters: ``arguments``, the words; none at all ask for the default run.
    Returns: the request.
    Raises: RunError, one line, for an unknown command, study, preset or flag, or a value of the wrong kind.
    """
    if not arguments:
        return Request("run", chosen(["default"]))
    command, rest = arguments[0], list(arguments[1:])
    if command in ("-h", "--help", "help"):
        return Request("help")
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"see {PROGRAM} --help"
        raise RunError(f"unknown command {command!r}; {hint}")
    if command in ("plan", "run"):
        return _parse_studies(command, rest)
    parser = Parser(prog=f"{PROGRAM} {command}", allow_abbrev=False)
    if command in DIRECTORY_COMMANDS:
        parser.add_argument("directory", type=Path, metavar="DIR", help="directory of the run")
    if command == "show":
        parser.add_argument("cell", metavar="CELL", help="the cell's key, or the beginning of it")
    if command in ("resume", "retry-failed"):
        parser.add_argument("--workers", type=count, help="processes (default: as the run began)")
    return Request(command, **parser.parse(rest))


def _parse_studies(command: str, arguments: list[str]) -> Request:
    split = next((place for place, word in enumerate(arguments) if word.startswith("-")), len(arguments))
    names, flags = arguments[:split], arguments[split:]
    if command == "run" and len(names) != 1 and not {"-h", "--help"} & set(flags):
        got = " ".join(names) or "none"
        known = " | ".join([*STUDIES, *GROUPS, "default", "all"])
        raise RunError(f"run needs one study before the flags, {known}, got {got}")
    studies = chosen(names or ["default"])
    parser = Parser(prog=f"{PROGRAM} {command} {' '.join(names)}", allow_abbrev=False, add_help=True)
    parser.add_argument("--preset", default=DEFAULT_PRESET, help="smoke, quick or paper (default: %(default)s)")
    parser.add_argument("--workers", type=count, help="processes (default: chosen for the machine)")
    parser.add_argument("--threads", type=count, help="native threads of each (default: chosen for the machine)")
    if command == "run":
        parser.add_argument("--out", type=Path, dest="directory", metavar="DIR", help="new directory for the run")
    else:
        parser.add_argument("--cells", action="store_true", dest="every_cell", help="list every cell, too")
    taken = {action.dest for action in parser._actions}
    shared = _shared_fields(studies)
    flags_of_fields = parser.add_argument_group(
        "fields of the study's Config" if len(studies) == 1 else "shared fields"
    )
    for entry, kind in shared.values():
        if entry.name in taken:
            raise ValueError(f"[parse] expected Config fields that are no general flags, got {entry.name}")
        _add_flag(flags_of_fields, entry, kind)
    _explain_unshared(flags, studies, shared)
    values = parser.parse(flags)
    overrides = {name: values.pop(name) for name in list(values) if name in shared}
    overrides = {name: tuple(value) if isinstance(value, list) else value for name, value in overrides.items()}
    return Request(command, studies, overrides=overrides, **values)


def _shared_fields(names: Sequence[str]) -> dict[str, tuple[dataclasses.Field[Any], Any]]:
    found: dict[str, tuple[dataclasses.Field[Any], Any]] = {}
    for position, name in enumerate(names):
        config = load(name).Config
        kinds = typing.get_type_hints(config)
        fields = {entry.name: (entry, kinds[entry.name]) for entry in dataclasses.fields(config)}
        if position == 0:
            found = fields
        found = {key: pair for key, pair in found.items() if key in fields and fields[key][1] == pair[1]}
    return found


def _explain_unshared(flags: Sequence[str], names: Sequence[str], shared: Mapping[str, Any]) -> None:
    for word in flags:
        name = word.split("=")[0].removeprefix("--").removeprefix("no-").replace("-", "_")
        owners = [study for study in names if name in {entry.name for entry in dataclasses.fields(load(study).Config)}]
        if word.startswith("--") and owners and name not in shared:
            known = ", ".join(_flag(key) for key in shared) or "none"
            why = "belongs to" if len(owners) < len(names) else "differs in kind between"
            raise RunError(f"{_flag(name)} {why} {', '.join(owners)}; flags of all chosen studies: {known}")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _add_flag(group: argparse._ArgumentGroup, entry: dataclasses.Field[Any], kind: Any) -> None:
    options = list(dict.fromkeys([_flag(entry.name), f"--{entry.name}"]))
    default = "" if entry.default is dataclasses.MISSING else f" (default: {_show(entry.default)}, or the preset's)"
    text = str(entry.metadata.get("help", "")).replace("%", "%%") + default
    settings: dict[str, Any] = {"dest": entry.name, "default": argparse.SUPPRESS, "help": text}
    if kind is bool:
        group.add_argument(*options, action=argparse.BooleanOptionalAction, **settings)
        return
    if typing.get_origin(kind) is tuple:
        parts = typing.get_args(kind)
        settings["nargs"] = "+" if parts[-1] is Ellipsis else len(parts)
        kind = parts[0]
    choices = entry.metadata.get("choices")
    metavar = None if choices else entry.name.upper()
    group.add_argument(*options, type=_reader(entry.name, kind), choices=choices, metavar=metavar, **settings)


def _show(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _reader(name: str, kind: Any) -> Any:
    parts = typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)
    optional = type(None) in parts
    parts = tuple(part for part in parts if part is not type(None))
    if len(parts) != 1 or parts[0] not in (int, float, str, bool):
        raise TypeError(f"[parse] expected int, float, str, bool or tuples of them for Config.{name}, got {kind}")

    def read(text: str) -> Any:
        if optional and text.lower() == "none":
            return None
        if parts[0] is bool and text.lower() not in ("true", "false"):
            raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")
        try:
            value = text.lower() == "true" if parts[0] is bool else parts[0](text)
        except ValueError:
            noun = {int: "a whole number", float: "a number"}[parts[0]]
            raise argparse.ArgumentTypeError(f"expected {noun}, got {text!r}") from None
        if isinstance(value, float) and not math.isfinite(value):
            raise argparse.ArgumentTypeError(f"expected a finite number, got {text!r}")
        return value

    return read


def configurations(request: Request) -> dict[str, Any]:
    """The Config of every study of the request: its preset with the flags put in.

    Example: ``configurations(parse(["run", "data_overlap", "--seeds", "2"]))["data_overlap"].seeds == 2``.

    Parameters: ``request``, of "run" or "plan".
    Returns: a Config by study.
    Raises: RunError for a preset that a study does not have, or values that its Config refuses.
    """
    configs = {}
    for name in request.names:
        presets = load(name).PRESETS
        if request.preset not in presets:
            raise RunError(f"unknown preset {request.preset!r} of {name}, expected one of {', '.join(presets)}")
        try:
            configs[name] = dataclasses.replace(presets[request.preset], **request.overrides)
        except (TypeError, ValueError) as error:
            raise RunError(f"{name}: {error}") from error
    return configs


def restore(name: str, values: Mapping[str, Any]) -> Any:
    """A study's Config from the values that a manifest holds.

    Example: ``restore("data_overlap", run.manifest["configs"]["data_overlap"])``.

    Parameters: ``name`` of the study; ``values`` by field, lists for tuples.
    Returns: the Config.
    Raises: RunError for values that the Config of this version refuses.
    """
    fields = {key: tuple(item) if isinstance(item, list) else item for key, item in values.items()}
    try:
        return load(name).Config(**fields)
    except (TypeError, ValueError) as error:
        raise RunError(f"the run's configuration of {name} does not fit this version: {error}") from error


def machine_share(cells: int, workers: int | None, threads: int | None) -> tuple[int, int]:
    """Workers and threads that fill the machine: one-thread workers first, as many as cells and memory allow.

    Example: on two cores ``machine_share(84, None, None) == (2, 1)`` and ``machine_share(1, None, None) == (1, 2)``.

    Parameters: ``cells``, how many there are; ``workers`` and ``threads`` as the user wants them, None: to be chosen.
    Returns: (worker processes, threads of each).
    """
    cores = available_cores()
    if workers is None:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        workers = max(1, min(cores // (threads or 1), cells, memory // MEMORY_PER_WORKER))
    return workers, threads or max(1, cores // workers)


def available_cores() -> int:
    """CPU cores this process may use, by its affinity and its container's quota.

    Example: ``available_cores() == 2`` in a container with two. Returns: at least 1.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return cores if quota == "max" else max(1, min(cores, round(int(quota) / int(period))))
    except (OSError, ValueError):
        return cores
