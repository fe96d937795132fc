"""``python -m repsim.experiments``: plan, run, stop, resume and look at studies; `command.USAGE` lists the commands."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repsim.experiments import STUDIES, chosen, load
from repsim.experiments.command import PROGRAM, USAGE, Request, configurations, machine_share, parse, restore
from repsim.experiments.sweep import Cell, Forecast, Update, execute
from repsim.records import RunDirectory, RunError, environment, now, without_home
from repsim.terminal import new_table, print_table, status_of

if TYPE_CHECKING:
    from rich.table import Table

MAIN_EFFECTS = 24  # rows of effects on the terminal; all are in effects.json and on the page


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what a command line asks for.

    Example: ``main(["run", "data_overlap", "--preset", "smoke"]) == 0``.

    Parameters: ``arguments``, the words after the program's name; None: those of this process.
    Returns: the exit status, see `command.USAGE`.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)

    def action() -> int:
        request = parse(words)
        return ACTIONS[request.command](request, words)

    return status_of(action)


# --- runs -----------------------------------------------------------------------------------------------------------


def _run(request: Request, words: Sequence[str]) -> int:
    configs = configurations(request)
    entries = _cells(configs)
    workers, threads = machine_share(len(entries), request.workers, request.threads)
    manifest = {
        "format": 1,
        "studies": list(configs),
        "modules": {name: STUDIES[name] for name in configs},
        "configs": {name: dataclasses.asdict(config) for name, config in configs.items()},
        "preset": request.preset,
        "environment": environment(),
        "workers": workers,
        "threads": threads,
        "created": now(),
        "command": without_home(shlex.join(["python", "-m", "repsim.experiments", *words])),
    }
    run = RunDirectory.create(request.directory or _new_directory(request), manifest)
    with run.lock():
        run.write_cells(entries)
        return _sweep(run, workers)


def _new_directory(request: Request) -> Path:
    what = [] if request.names == chosen(["default"]) else list(request.names)
    name = "-".join([*what, request.preset, time.strftime("%Y%m%d-%H%M%S")])
    folder = Path("repsim-runs")
    taken = (f"-{number}" if number > 1 else "" for number in range(1, 1000))
    return next(path for ending in taken if not (path := folder / (name + ending)).exists())


def _resume(request: Request, words: Sequence[str]) -> int:
    run = _open(request)
    with run.lock():
        if request.command == "retry-failed":
            run.clear_failures()
        if run.cells() is None:  # stopped before they were written
            names = run.manifest["configs"]
            run.write_cells(_cells({name: restore(name, values) for name, values in names.items()}))
        return _sweep(run, request.workers or run.manifest["workers"])


def _report(request: Request, words: Sequence[str]) -> int:
    run = _open(request)
    with run.lock():
        return _publish(run)


def _sweep(run: RunDirectory, workers: int) -> int:
    cells = [Cell.from_json(entry) for entry in run.cells() or ()]
    runners = {name: f"{path}:run_cell" for name, path in run.manifest["modules"].items()}
    _say(f"{len(cells)} cells on {workers} workers x {run.manifest['threads']} threads in {run.path}")
    progress, close = _progress()
    try:
        execute(
            run, cells, runners, workers=workers, threads=run.manifest["threads"], progress=progress, estimate=_estimate
        )
    except KeyboardInterrupt:
        close()
        done = sum(run.has(cell.key) for cell in cells)
        resume = f"{PROGRAM} resume {shlex.quote(str(run.path))}"
        print(f"interrupted with {done} of {len(cells)} cells finished; go on with: {resume}", file=sys.stderr)
        return 130
    finally:
        close()
    return _publish(run)


def _publish(run: RunDirectory) -> int:
    """Table, effects and page from the records; what cannot be made is kept as a failure and the rest goes on."""
    run.merge()
    effects: list[Mapping[str, Any]] = []
    for name in run.manifest["studies"]:
        with _Kept(run, f"effects-{name}", name):
            effects += load(name).effects(_records_of(run, name))
    run.write_effects(effects)
    page: Path | None = None
    with _Kept(run, "report", ""):
        from repsim.report import write_report

        page = write_report(run)
    if effects:
        print_table(_effects_table(run.effects()))
    else:
        _say("no effect could be estimated")
    trainings = [record["result"]["learned"] for record in run.records() if "learned" in record["result"]]
    if not all(trainings):
        lost = f"{trainings.count(False)} of {len(trainings)} trainings failed to learn"
        print(f"{lost}: their pairs are in no figure and no effect", file=sys.stderr)
    failures = run.failures()
    for failure in failures[:10]:
        print(f"{_ending(failure)} {failure['key']}  {failure['reason']}", file=sys.stderr)
    if failures:
        where = shlex.quote(str(run.path))
        print(
            f"{len(failures)} failed or skipped: `{PROGRAM} show {where} KEY` says why, "
            f"`{PROGRAM} retry-failed {where}` does them again",
            file=sys.stderr,
        )
    if page is not None:
        print(f"page: {page.resolve()}")
    unfinished = any(not run.has(entry["key"]) for entry in run.cells() or ())
    return 1 if failures or unfinished else 0


def _say(text: str) -> None:
    """Print a line; a reader that left, as `head` does, must not cost the run."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Kept:
    """A step after the sweep whose exception becomes a failure of the run, with its traceback, and not its end."""

    def __init__(self, run: RunDirectory, key: str, study: str) -> None:
        self._run, self._key, self._study = run, key, study

    def __enter__(self) -> None:
        self._run.clear_failures([self._key])

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> bool:
        if not isinstance(error, Exception) or isinstance(error, RunError):
            return False
        text = "".join(traceback.format_exception(error))
        self._run.write_failure(self._key, text, {"study": self._study, "kind": self._key.split("-")[0], "params": {}})
        return True


def _cells(configs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The cells of all studies in order, each once, with the studies that use it."""
    entries: dict[str, dict[str, Any]] = {}
    for name, config in configs.items():
        try:
            cells = load(name).cells(config)
        except ValueError as error:
            raise RunError(f"{name}: {error}") from error
        for cell in cells:
            entries.setdefault(cell.key, {**cell.to_json(), "studies": []})["studies"].append(name)
    return [{**entry, "studies": list(dict.fromkeys(entry["studies"]))} for entry in entries.values()]


def _records_of(run: RunDirectory, study: str) -> list[dict[str, Any]]:
    keys = {entry["key"] for entry in run.cells() or () if study in entry["studies"]}
    return [record for record in run.records() if record["key"] in keys]


def _estimate(cell: Cell) -> float | None:
    estimate: Callable[[Cell], float] | None = getattr(load(cell.study), "estimate", None)
    return estimate(cell) if estimate else None


def _open(request: Request) -> RunDirectory:
    if request.directory is None:
        raise RunError(f"{request.command} needs the directory of a run")
    run = RunDirectory.open(request.directory)
    lacking = [part for part in ("studies", "modules", "configs", "workers", "threads") if part not in run.manifest]
    if lacking:
        raise RunError(f"{run.path / 'manifest.json'} is damaged: it lacks {', '.join(lacking)}")
    # A study that was named by its module's path is not in the registry of this process yet.
    for name, path in run.manifest["modules"].items():
        STUDIES.setdefault(name, path)
    return run


# --- questions ------------------------------------------------------------------------------------------------------


def _help(request: Request, words: Sequence[str]) -> int:
    print(USAGE)
    return 0


def _list(request: Request, words: Sequence[str]) -> int:
    table = new_table("study", "presets", "what it asks")
    for name in STUDIES:
        study = load(name)
        table.add_row(name, ", ".join(study.PRESETS), study.SUMMARY)
    print_table(table)
    return 0


def _plan(request: Request, words: Sequence[str]) -> int:
    entries = _cells(configurations(request))
    workers, threads = machine_share(len(entries), request.workers, request.threads)
    table = new_table("study", "cells", "models", "pairs", "other", "about")
    for name in request.names:
        chosen = [entry for entry in entries if name in entry["studies"]]
        table.add_row(name, *_counts(chosen), _duration(_forecast(chosen).left(workers)))
    if len(request.names) > 1:
        table.add_row("all, shared models once", *_counts(entries), _duration(_forecast(entries).left(workers)))
    print_table(table)
    print(f"with {workers} workers x {threads} threads, preset {request.preset}")
    if request.every_cell:
        for entry in entries:
            print(entry["key"], Cell.from_json(entry))
    return 0


def _counts(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    kinds = Counter(entry["kind"] for entry in entries)
    models, pairs = kinds["model"], kinds["pair"]
    return [str(count) for count in (len(entries), models, pairs, len(entries) - models - pairs)]


def _forecast(entries: Iterable[Mapping[str, Any]]) -> Forecast:
    forecast = Forecast()
    for entry in entries:
        cell = Cell.from_json(entry)
        forecast.add(cell, _estimate(cell))
    return forecast


def _status(request: Request, words: Sequence[str]) -> int:
    run = _open(request)
    entries = run.cells() or []
    forecast = _forecast(entries)
    failures = {failure["key"]: failure for failure in run.failures()}
    table = new_table("study", "kind", "cells", "finished", "failed", "skipped", "pending")
    groups: dict[tuple[str, str], Counter[str]] = {}
    for entry in entries:
        cell, failure = Cell.from_json(entry), failures.get(entry["key"])
        state = "finished" if run.has(cell.key) else "pending"
        if failure is not None:
            state = "skipped" if failure["skipped"] else "failed"
        groups.setdefault((cell.study, cell.kind), Counter())[state] += 1
        if state == "finished":
            forecast.finish(cell, run.read(cell.key)["seconds"])
        elif state != "pending":
            forecast.drop(cell)
    states = ("finished", "failed", "skipped", "pending")
    for (study, kind), counts in groups.items():
        table.add_row(study, kind, str(counts.total()), *(str(counts[state]) for state in states))
    total = sum(groups.values(), Counter())
    table.add_row("all", "", str(total.total()), *(str(total[state]) for state in states))
    print_table(table)
    if total["pending"]:
        print(f"{_duration(forecast.left(run.manifest['workers']))} left on {run.manifest['workers']} workers")
    return 0


def _show(request: Request, words: Sequence[str]) -> int:
    run = _open(request)
    failures = {failure["key"]: failure for failure in run.failures()}
    known = sorted({entry["key"] for entry in run.cells() or ()} | set(failures))
    found = [key for key in known if key.startswith(request.cell)]
    if len(found) != 1 and request.cell not in found:
        what = f"is the beginning of {len(found)} cells: {', '.join(found[:5])}" if found else "is no cell of this run"
        raise RunError(f"{request.cell} {what}")
    key = request.cell if request.cell in found else found[0]
    if run.has(key):
        print(json.dumps(run.read(key), indent=1, ensure_ascii=False))
    elif key in failures:
        failure = failures[key]
        print(f"{_ending(failure)}: {failure.get('study', '')} {failure.get('kind', '')} {key}")
        print(json.dumps(failure.get("params", {}), ensure_ascii=False))
        print(failure["traceback"])
    else:
        entry = next(entry for entry in run.cells() or () if entry["key"] == key)
        print(f"pending: {Cell.from_json(entry)}\n{json.dumps(entry['params'], ensure_ascii=False)}")
    return 0


def _ending(failure: Mapping[str, Any]) -> str:
    return "skipped" if failure["skipped"] else "failed"


# --- the terminal ---------------------------------------------------------------------------------------------------


def _effects_table(effects: Sequence[Mapping[str, Any]]) -> Table:
    table = new_table("study", "outcome", "factor", "estimate", "interval", "p", "seeds")
    main_effects = [effect for effect in effects if not str(effect["factor"]).startswith("within:")]
    for effect in main_effects[:MAIN_EFFECTS]:
        interval = f"{_number(effect.get('low'))} .. {_number(effect.get('high'))}"
        table.add_row(
            str(effect["study"]),
            str(effect["outcome"]),
            str(effect["factor"]),
            _number(effect["estimate"]),
            interval,
            _number(effect.get("p")),
            str(effect.get("n_seeds", "")),
        )
    if len(effects) > table.row_count:
        table.caption = f"{len(effects) - table.row_count} more in effects.json"
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    if seconds < 90:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"


def _progress() -> tuple[Callable[[Update], None], Callable[[], None]]:
    """A bar with the time left on a terminal, one line per cell otherwise; and what ends it."""
    if not sys.stdout.isatty():
        return _print_line, lambda: None
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    bar = Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]} left"),
        TextColumn("{task.description}"),
    )
    task = bar.add_task("", total=None, left="unknown")

    def update(state: Update) -> None:
        name = str(state.cell or "")
        bar.update(task, total=state.total, completed=state.done, left=_duration(state.left), description=name)
        if state.state in ("failed", "skipped"):
            bar.console.print(_line(state), markup=False, highlight=False)

    bar.start()
    return update, bar.stop


def _print_line(state: Update) -> None:
    if state.cell is not None:
        _say(_line(state))
    elif state.done:
        _say(f"{state.done} of {state.total} cells were done before, {_duration(state.left)} left")


def _line(state: Update) -> str:
    ending = f"{state.seconds:.1f} s" if state.state == "finished" else f"{state.state.upper()}: {state.reason}"
    return f"[{state.done}/{state.total}] {state.cell}  {ending}, {_duration(state.left)} left"


ACTIONS: dict[str, Callable[[Request, Sequence[str]], int]] = {
    "help": _help, "list": _list, "plan": _plan, "run": _run, "resume": _resume, "retry-failed": _resume,
    "status": _status, "show": _show, "report": _report,
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())
