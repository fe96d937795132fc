"""One operation, several libraries: each in a process of its own, with the same inputs, and its answer compared."""

from __future__ import annotations

import math
import multiprocessing
import signal
import statistics
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from . import machine, page_cache, timer

REPSIM = "repsim-exact"  # its distribution
REHEARSAL_ROWS = 128  # enough to load a library and start its threads
MEMORY_SHARE = 0.6  # of what is available, for one library
DISK_SHARE = 0.9  # of what is free, for the inputs

Answer = Callable[..., np.ndarray]


class ContestError(Exception):
    """A library that had run before failed while it was timed; the message is one line."""


@dataclass(frozen=True)
class Case:
    """Sizes that an operation is measured at: rows, features and, where there are any, neighbours."""

    n: int
    d: int
    k: int = 0

    def __str__(self) -> str:
        return f"n = {self.n}, d = {self.d}" + (f", k = {self.k}" if self.k else "")


@dataclass(frozen=True)
class Contender:
    """A library's way to do an operation; ``run`` is importable by name, and imports the library itself."""

    name: str
    distribution: str | None  # whose version is stated, and whose absence is no error; None: only Python
    run: Answer
    memory: Callable[[Case], int] | None = None  # bytes, where it grows faster than n
    most_repeats: Callable[[Case], int | None] = lambda case: None  # timed calls, where one takes long


@dataclass(frozen=True)
class Op:
    """What is measured: the first contender is the one that the others are compared with."""

    name: str
    summary: str
    cases: tuple[Case, ...]
    flop: Callable[[Case], float]  # what the answer needs, not what a library spends
    flop_formula: str
    inputs: Callable[[Case, Path], dict[str, np.ndarray]]  # maps of files in the folder are mapped by all
    contenders: tuple[Contender, ...]
    agreement: Callable[[np.ndarray, np.ndarray], str]
    agreement_name: str
    compares: bool = True  # whether the first contender is repsim
    gemm: str = "float32"  # the precision of the matrix products that rates are compared with
    disk: Callable[[Case], int] | None = None  # bytes of files
    reader: Contender | None = None  # takes the inputs, reads them once and does nothing with them


@dataclass(frozen=True)
class Terms:
    """How every contest is held."""

    repeats: int
    pause: float  # seconds of rest before each call
    say: Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """What one contender did; without times, ``note`` says why."""

    contender: Contender
    version: str
    times: tuple[float, ...] = ()  # seconds
    memory: int = 0  # bytes by which the peak grew over libraries and inputs
    agreement: str = ""
    note: str = ""
    cached: float = math.nan  # largest share of the files that was still in memory before a call
    answer: np.ndarray | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.times)


def compete(op: Op, case: Case, terms: Terms) -> list[Outcome]:
    """Run every contender, the reader last: once for its answer and its memory, then in timed rounds.

    Raises
    ------
    ContestError: a process ended while it was timed.
    """
    contenders = (*op.contenders, op.reader) if op.reader else op.contenders
    outcomes = {one.name: Outcome(one, machine.version(one.distribution)) for one in contenders}
    workers: dict[str, Worker] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="repsim-bench-")))
        needed, free = op.disk(case) if op.disk else 0, machine.free_disk(folder)
        if needed > DISK_SHARE * free:
            note = f"not run: needs {needed / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free"
            return [replace(outcome, note=note) for outcome in outcomes.values()]
        terms.say(f"{op.name} {case}: inputs")
        inputs = _store(op.inputs(case, folder), folder)
        for one in contenders:
            terms.say(f"{op.name} {case}: {one.name}")
            note = _obstacle(one, case)
            if not note:
                worker = stack.enter_context(Worker(one, inputs))
                note = worker.failure
                outcomes[one.name] = replace(outcomes[one.name], memory=worker.memory, answer=worker.answer)
                if not note:
                    workers[one.name] = worker
            outcomes[one.name] = replace(outcomes[one.name], note=note)
        if terms.repeats:
            terms.say(f"{op.name} {case}: {terms.repeats} timed rounds")
        jobs = {name: worker.seconds for name, worker in workers.items()}
        turns = {one.name: min(terms.repeats, one.most_repeats(case) or terms.repeats) for one in contenders}
        times = timer.rounds(jobs, turns=turns, pause=terms.pause)
    first = op.contenders[0]
    for name, worker in workers.items():
        compared = ""
        if first.name in workers and outcomes[name].contender not in (first, op.reader):
            compared = op.agreement(workers[first.name].answer, worker.answer)
        outcomes[name] = replace(outcomes[name], times=tuple(times[name]), agreement=compared, cached=worker.cached)
    return list(outcomes.values())


def _store(arrays: Mapping[str, np.ndarray], folder: Path) -> dict[str, tuple[Path, bool]]:
    """Where each array lies, and whether a worker maps it instead of loading it."""
    stored = {}
    for name, array in arrays.items():
        if isinstance(array, np.memmap):
            stored[name] = (Path(str(array.filename)), True)
        else:
            stored[name] = (folder / f"{name}.npy", False)
            np.save(stored[name][0], array)
    return stored


def _obstacle(contender: Contender, case: Case) -> str:
    # repsim may run from the source tree, where it has no distribution.
    if contender.distribution not in (REPSIM, None) and not machine.version(contender.distribution):
        return "not installed"
    needed = contender.memory(case) if contender.memory else 0
    if needed > MEMORY_SHARE * machine.available_memory():
        return f"not run: needs {needed / 1e9:.1f} GB, {machine.available_memory() / 1e9:.1f} GB are available"
    return ""


class Worker:
    """A process that holds the inputs, has run the contender once, and runs it again when asked."""

    def __init__(self, contender: Contender, inputs: Mapping[str, tuple[Path, bool]]) -> None:
        context = multiprocessing.get_context("spawn")
        self.name, self.answer, self.memory, self.cached = contender.name, np.empty(0), 0, math.nan
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, contender.run, inputs), daemon=True)
        self._process.start()
        theirs.close()
        self.failure = ""
        try:
            self.failure, self.answer, self.memory = self._receive()
        except ContestError as error:
            self.failure = str(error)

    def seconds(self) -> float:
        """Time of one more call."""
        with suppress(BrokenPipeError):  # the next line says who died
            self._pipe.send(True)
        seconds, cached = self._receive()
        self.cached = max(cached, self.cached, key=lambda share: -1 if math.isnan(share) else share)
        return float(seconds)

    def _receive(self) -> Any:
        try:
            return self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join()
            raise ContestError(f"{self.name}: its process ended with status {self._process.exitcode}") from None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join()
        self._pipe.close()


def _serve(pipe: Connection, run: Answer, inputs: Mapping[str, tuple[Path, bool]]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one ends it
    loaded = {name: np.load(path) for name, (path, mapped) in inputs.items() if not mapped}
    files = [path for path, mapped in inputs.values() if mapped]
    flush = timer.cache_flush()

    # Files are mapped anew for every call, and dropped before it: they can be, only while no process holds their pages.
    def arguments() -> dict[str, np.ndarray]:
        given = {
            name: np.load(path, mmap_mode="r") if mapped else loaded[name] for name, (path, mapped) in inputs.items()
        }
        page_cache.drop(files)
        return given

    def first() -> tuple[np.ndarray, int]:
        run(**{name: value[:REHEARSAL_ROWS] if value.ndim else value for name, value in arguments().items()})
        given = arguments()
        machine.reset_peak_memory()
        before = machine.peak_memory()
        answer = run(**given)
        return answer, machine.peak_memory() - before

    def again() -> tuple[float, float]:
        given = arguments()
        cached = page_cache.cached_share(files) if files else math.nan
        return timer.seconds(lambda: run(**given), flush), cached

    try:
        answer, memory = first()
    except Exception as error:
        pipe.send((f"failed: {type(error).__name__}: {error}".splitlines()[0], np.empty(0), 0))
        return
    pipe.send(("", answer, memory))
    with suppress(EOFError):  # the other side is gone
        while pipe.recv():
            pipe.send(again())
