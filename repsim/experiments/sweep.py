"""Cells → worker processes → records.

A cell is one piece of work named by its content: a model to train, a pair to compare. Cells run as soon as the cells
they need are finished, in worker processes that live from cell to cell. The parent alone writes records, so a run can
be stopped at any moment, also by kill -9: what has a record is finished, everything else is still to do.
"""

from __future__ import annotations

import graphlib
import heapq
import json
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, cast

from repsim.experiments.worker import Outcome, Worker
from repsim.records import RunDirectory, RunError, content_key

# Kinds of cells that belong to no study; "tokens" are what language models are trained on.
SHARED = ("model", "tokens")


@dataclass(frozen=True, eq=False)
class Cell:
    """One piece of work; two cells of equal content are the same cell.

    Example: ``Cell("data_overlap", "pair", {"seed": 0, "first": a.key, "second": b.key}, needs=(a.key, b.key))``.

    Parameters: ``params``, JSON values that say all the result depends on; ``needs``, keys of cells to finish before.
    ``key`` follows from kind and params, and from the study unless the kind is one of SHARED: a model that two studies
    describe alike is trained once.
    """

    study: str
    kind: str
    params: Mapping[str, Any]
    needs: tuple[str, ...] = ()
    key: str = field(init=False)

    def __post_init__(self) -> None:
        owner = {} if self.kind in SHARED else {"study": self.study}
        object.__setattr__(self, "key", content_key({**owner, "kind": self.kind, "params": self.params}))
        # A worker, a resumed run and the first run must see the same values: those that JSON gives back.
        object.__setattr__(self, "params", json.loads(json.dumps(self.params)))
        object.__setattr__(self, "needs", tuple(self.needs))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cell) and other.key == self.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __str__(self) -> str:
        """Study, kind and the short parameters: ``task_overlap pair seed=1 shared=1``."""
        short = [
            f"{name}={value}"
            for name, value in self.params.items()
            if isinstance(value, (bool, int, float)) or (isinstance(value, str) and len(value) < 16)
        ]
        return " ".join([self.study, self.kind, *short[:6]])

    def to_json(self) -> dict[str, Any]:
        """The cell as ``cells.json`` holds it.

        Example: ``cell.to_json()["key"] == cell.key``. Returns: key, study, kind, params and needs.
        """
        return {"key": self.key, "study": self.study, "kind": self.kind, "params": self.params, "needs": self.needs}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> Cell:
        """The cell of an entry of ``cells.json``.

        Example: ``Cell.from_json(cell.to_json()) == cell``. Parameters: ``entry``. Returns: the cell.
        """
        return cls(entry["study"], entry["kind"], entry["params"], tuple(entry["needs"]))


@dataclass(frozen=True)
class Update:
    """What the progress of a run is told after every cell: counts over all cells, also those of earlier runs."""

    cell: Cell | None  # None: the state before the first cell
    state: str  # "finished" | "failed" | "skipped"
    done: int  # finished, failed and skipped
    total: int
    seconds: float  # of this cell
    left: float | None  # seconds until the end; None while nothing is known
    reason: str = ""  # why it failed or was skipped


@dataclass(frozen=True)
class Summary:
    """What one `execute` did; cells that were done before it are not counted."""

    finished: int
    failed: int
    skipped: int
    seconds: float


class Forecast:
    """The seconds that pending cells will take: the study's estimates, corrected by the cells that are finished.

    Example: ``forecast.add(cell, 20.0)`` for every cell, ``forecast.finish(cell, 14.2)`` for one, ``forecast.left(2)``.
    """

    def __init__(self) -> None:
        self._cost: dict[str, float] = {}
        self._known: dict[str, bool] = {}
        self._pending: dict[tuple[str, str], float] = defaultdict(float)
        self._done: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])

    def add(self, cell: Cell, estimate: float | None) -> None:
        """Expect a cell.

        Example: ``forecast.add(cell, 20.0)``.

        Parameters: ``cell``; ``estimate`` in seconds, None for a study that gives none.
        """
        self._known[cell.key] = estimate is not None
        self._cost[cell.key] = 1.0 if estimate is None else estimate
        self._pending[cell.study, cell.kind] += self._cost[cell.key]

    def finish(self, cell: Cell, seconds: float) -> None:
        """A cell has ended.

        Example: ``forecast.finish(cell, 14.2)``. Parameters: ``cell``, one that was added; ``seconds`` it took.
        """
        self.drop(cell)
        sums = self._done[cell.study, cell.kind]
        sums[0] += self._cost[cell.key]
        sums[1] += seconds

    def drop(self, cell: Cell) -> None:
        """A cell will not run. Example: ``forecast.drop(cell)``. Parameters: ``cell``, one that was added."""
        self._pending[cell.study, cell.kind] -= self._cost[cell.key]

    def left(self, workers: int) -> float | None:
        """The time left.

        Example: ``forecast.left(2)``. Parameters: ``workers`` that share the cells.
        Returns: seconds; None without any estimate and any finished cell.
        """
        cost, seconds = (sum(sums[part] for sums in self._done.values()) for part in (0, 1))
        if cost > 0:
            overall = seconds / cost
        elif self._known and all(self._known.values()):
            overall = 1.0
        else:
            return None if any(value > 1e-9 for value in self._pending.values()) else 0.0
        total = 0.0
        for group, pending in self._pending.items():
            done = self._done[group]
            total += max(pending, 0.0) * (done[1] / done[0] if done[0] > 0 else overall)
        return total / workers


class _Schedule:
    """Which cell may run next: in the given order, each after the cells it needs."""

    def __init__(self, cells: Sequence[Cell], finished: set[str], failed: set[str]) -> None:
        self._cells = {cell.key: cell for cell in cells}
        self._rank = {key: rank for rank, key in enumerate(self._cells)}
        self._unmet = {cell.key: set(cell.needs) - finished for cell in cells}
        self._users: dict[str, list[str]] = defaultdict(list)
        for key, needs in self._unmet.items():
            for need in needs:
                if need not in self._cells:
                    raise ValueError(f"[execute] expected needs of {key} among the cells, got {need}")
                self._users[need].append(key)
        try:
            graphlib.TopologicalSorter(self._unmet).prepare()
        except graphlib.CycleError as error:
            raise ValueError(f"[execute] expected needs without a circle, got {' -> '.join(error.args[1])}") from None
        self._open = set(self._cells) - finished - failed
        self._ready = [self._rank[key] for key in self._open if not self._unmet[key]]
        heapq.heapify(self._ready)
        self._order = list(self._cells.values())

    def take(self) -> Cell | None:
        """The next cell that may run, None if all others wait for running ones."""
        return self._order[heapq.heappop(self._ready)] if self._ready else None

    def give_back(self, cell: Cell) -> None:
        """A taken cell was not begun."""
        heapq.heappush(self._ready, self._rank[cell.key])

    def finish(self, cell: Cell) -> None:
        """A cell is done: those that waited for it alone may run."""
        self._open.discard(cell.key)
        for user in self._users[cell.key]:
            self._unmet[user].discard(cell.key)
            if not self._unmet[user] and user in self._open:
                heapq.heappush(self._ready, self._rank[user])

    def fail(self, key: str) -> list[tuple[Cell, str]]:
        """A cell failed: those that will never run, each with the key of the need that is missing."""
        self._open.discard(key)
        lost: list[tuple[Cell, str]] = []
        for user in self._users[key]:
            if user in self._open:
                lost.append((self._cells[user], key))
                lost += self.fail(user)
        return lost


class _Ledger:
    """Writes down how cells end and tells the progress; starts with what earlier runs have done."""

    def __init__(
        self,
        run: RunDirectory,
        cells: Sequence[Cell],
        progress: Callable[[Update], None] | None,
        estimate: Callable[[Cell], float | None] | None,
        workers: int,
    ) -> None:
        named = {key for cell in cells for key in (cell.key, *cell.needs)}
        finished = {key for key in named if run.has(key)}
        # A trained model whose file is gone is trained again where a cell still waits for it.
        wanted = {need for cell in cells if cell.key not in finished for need in cell.needs}
        finished -= {key for key in finished & wanted if _lost_weights(run, key)}
        failed = {failure["key"] for failure in run.failures()}
        self._run, self._progress, self._workers = run, progress, workers
        self.schedule = _Schedule(cells, finished, failed)
        self.counts = {"finished": 0, "failed": 0, "skipped": 0}
        self._total = len(cells)
        self._done = sum(cell.key in finished or cell.key in failed for cell in cells)
        self._forecast = Forecast()
        for cell in cells:
            if cell.key not in failed:
                self._forecast.add(cell, estimate(cell) if estimate else None)
            if cell.key in finished:
                self._forecast.finish(cell, run.read(cell.key)["seconds"])
        if progress:
            progress(Update(None, "", self._done, self._total, 0.0, self._forecast.left(workers)))
        for key in sorted(failed & {cell.key for cell in cells}):
            self._skip_users(key)

    def enter(self, outcome: Outcome) -> None:
        """Write a cell's end. Raises: RunError when the storage takes no more."""
        cell = outcome.cell
        if outcome.state == "storage":
            raise RunError(outcome.text)
        if outcome.state == "finished":
            result = json.loads(outcome.text)
            self._run.write_record(cell.key, {**_identity(cell), "result": result, "seconds": outcome.seconds})
            self.schedule.finish(cell)
            self._forecast.finish(cell, outcome.seconds)
            self._tell(cell, "finished", outcome.seconds)
        else:
            self._run.write_failure(cell.key, outcome.text, {**_identity(cell), "seconds": outcome.seconds})
            self._forecast.drop(cell)
            self._tell(cell, "failed", outcome.seconds, outcome.text.strip().splitlines()[-1])
            self._skip_users(cell.key)

    def _skip_users(self, key: str) -> None:
        for cell, need in self.schedule.fail(key):
            reason = f"it needs {need}, which {'failed' if need == key else 'was skipped'}"
            self._run.write_failure(cell.key, reason, {**_identity(cell), "skipped": True})
            self._forecast.drop(cell)
            self._tell(cell, "skipped", 0.0, reason)

    def _tell(self, cell: Cell, state: str, seconds: float, reason: str = "") -> None:
        self._done += 1
        self.counts[state] += 1
        if self._progress:
            left = self._forecast.left(self._workers)
            self._progress(Update(cell, state, self._done, self._total, seconds, left, reason))


def _lost_weights(run: RunDirectory, key: str) -> bool:
    result = run.read(key)["result"]
    if "saved" in result:
        return not (run.path / result["saved"]).is_dir()
    return "weights" in result and not run.model_path(key).is_file()


def _identity(cell: Cell) -> dict[str, Any]:
    return {"study": cell.study, "kind": cell.kind, "params": cell.params}


def execute(
    run: RunDirectory,
    cells: Sequence[Cell],
    runners: Mapping[str, str],
    *,
    workers: int,
    threads: int,
    progress: Callable[[Update], None] | None = None,
    estimate: Callable[[Cell], float | None] | None = None,
) -> Summary:
    """Do every cell that has neither a record nor a failure, and write one or the other for each.

    Example: ``execute(run, cells, {"mine": "mypackage.mine:run_cell"}, workers=2, threads=1).finished == len(cells)``.

    Parameters: ``runners``, for each study the dotted name of ``run_cell(cell, run) -> dict``; ``workers`` processes of
    ``threads`` native threads each; ``estimate``, a cell's expected seconds.
    Returns: how many cells finished, failed, and were skipped because a cell they need failed.
    Raises: ValueError for a need that is no cell, a circle or a study without runner; RunError when the run's directory
    takes no more data (the cell in question stays pending). On any exception all workers are killed first.
    """
    for name, value in (("workers", workers), ("threads", threads)):
        if value < 1:
            raise ValueError(f"[execute] expected {name} of at least 1, got {value}")
    for study in {cell.study for cell in cells}:
        if study not in runners:
            raise ValueError(f"[execute] expected a runner for study {study}, got {', '.join(runners) or 'none'}")
    cells = list({cell.key: cell for cell in cells}.values())
    begin = time.monotonic()
    ledger = _Ledger(run, cells, progress, estimate, workers)
    crew: list[Worker] = []
    try:
        while True:
            _employ(crew, ledger.schedule, lambda: Worker(run, runners, threads), workers)
            busy = {worker.pipe: worker for worker in crew if worker.cell is not None}
            if not busy:
                break
            for pipe in wait(list(busy)):
                ledger.enter(busy[cast(Connection, pipe)].collect())
    finally:
        for worker in crew:
            worker.kill()
    counts = ledger.counts
    return Summary(counts["finished"], counts["failed"], counts["skipped"], time.monotonic() - begin)


def _employ(crew: list[Worker], schedule: _Schedule, hire: Callable[[], Worker], workers: int) -> None:
    """Give every cell that may run to an idle worker, or to a new one while there may be more."""
    while (cell := schedule.take()) is not None:
        for worker in [worker for worker in crew if not worker.alive]:
            worker.kill()
            crew.remove(worker)
        idle = [worker for worker in crew if worker.cell is None]
        if not idle and len(crew) < workers:
            idle = [hire()]
            crew += idle
        if not idle:
            schedule.give_back(cell)
            break
        if not idle[0].assign(cell):  # it died while it had nothing to do: no cell is to blame
            schedule.give_back(cell)
