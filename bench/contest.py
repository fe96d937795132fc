"""One operation, several libraries: each in a process of its own, with the same inputs, and its answer compared."""

from __future__ import annotations

import multiprocessing
import signal
import statistics
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from . import machine, timer

REPSIM = "repsim-exact"  # its distribution
REHEARSAL_ROWS = 128  # enough to load a library and start its threads
MEMORY_SHARE = 0.6  # of what is available, for one library


class ContestError(Exception):
    """A library that had run before failed while it was timed; the message is one line."""


@dataclass(frozen=True)
class Contender:
    """A library's way to do an operation; ``run`` is importable by name, and imports the library itself."""

    name: str
    distribution: str  # whose version is stated, and whose absence is no error
    run: Callable[..., np.ndarray]
    memory: Callable[[int, int], int] | None = None  # bytes for (n, d), where it grows faster than n


@dataclass(frozen=True)
class Op:
    """What is measured: the first contender is the one that the others are compared with."""

    name: str
    summary: str
    flop: Callable[[int, int], float]  # of (n, d): what the answer needs, not what a library spends
    flop_formula: str
    inputs: Callable[[int, int], dict[str, np.ndarray]]
    contenders: tuple[Contender, ...]
    agreement: Callable[[np.ndarray, np.ndarray], str]
    agreement_name: str
    compares: bool = True  # whether the first contender is repsim


@dataclass(frozen=True)
class Outcome:
    """What one contender did; without times, ``note`` says why."""

    contender: Contender
    version: str
    times: tuple[float, ...] = ()  # seconds
    memory: int = 0  # bytes by which the peak grew over libraries and inputs
    agreement: str = ""
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.times)


def compete(op: Op, n: int, d: int, *, repeats: int, pause: float, say: Callable[[str], None]) -> list[Outcome]:
    """Run every contender at [n, d]: once for its answer and its memory, then ``repeats`` timed rounds.

    Raises
    ------
    ContestError: a process ended while it was timed.
    """
    inputs: dict[str, Any] = op.inputs(n, d)
    outcomes, workers = {}, {}
    with ExitStack() as stack:
        path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="repsim-bench-"))) / "inputs.npz"
        np.savez(path, **inputs)
        for contender in op.contenders:
            say(f"{op.name} {n} x {d}: {contender.name}")
            outcome = Outcome(contender, machine.version(contender.distribution), note=_obstacle(contender, n, d))
            if not outcome.note:
                worker = stack.enter_context(Worker(contender, path))
                outcome = replace(outcome, note=worker.failure, memory=worker.memory)
                if not worker.failure:
                    workers[contender.name] = worker
            outcomes[contender.name] = outcome
        say(f"{op.name} {n} x {d}: {repeats} timed rounds")
        jobs = {name: worker.seconds for name, worker in workers.items()}
        times = timer.rounds(jobs, repeats=repeats, pause=pause)
    first = op.contenders[0].name
    for name, worker in workers.items():
        compared = op.agreement(workers[first].answer, worker.answer) if name != first and first in workers else ""
        outcomes[name] = replace(outcomes[name], times=tuple(times[name]), agreement=compared)
    return list(outcomes.values())


def _obstacle(contender: Contender, n: int, d: int) -> str:
    # repsim may run from the source tree, where it has no distribution.
    if contender.distribution != REPSIM and not machine.version(contender.distribution):
        return "not installed"
    needed = contender.memory(n, d) if contender.memory else 0
    if needed > MEMORY_SHARE * machine.available_memory():
        return f"not run: needs {needed / 1e9:.1f} GB, {machine.available_memory() / 1e9:.1f} GB are available"
    return ""


class Worker:
    """A process that holds the inputs, has run the contender once, and runs it again when asked."""

    def __init__(self, contender: Contender, inputs: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.name, self.answer, self.memory = contender.name, np.empty(0), 0
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
        return float(self._receive())

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


def _serve(pipe: Connection, run: Callable[..., np.ndarray], path: Path) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one ends it
    with np.load(path, allow_pickle=False) as file:
        inputs = dict(file)
    flush = timer.cache_flush()
    try:
        run(**{name: value[:REHEARSAL_ROWS] if value.ndim else value for name, value in inputs.items()})
        machine.reset_peak_memory()
        before = machine.peak_memory()
        answer = run(**inputs)
        memory = machine.peak_memory() - before
    except Exception as error:
        pipe.send((f"failed: {type(error).__name__}: {error}".splitlines()[0], np.empty(0), 0))
        return
    pipe.send(("", answer, memory))
    with suppress(EOFError):  # the other side is gone
        while pipe.recv():
            pipe.send(timer.seconds(lambda: run(**inputs), flush))
