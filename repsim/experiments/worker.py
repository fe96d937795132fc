"""A process that does one cell after another for a run, and dies with it.

The worker is a fresh interpreter: its thread counts stand in its environment before numpy or torch is loaded, nothing
is inherited but one pipe, and a signal that ends it ends one cell. It has a session of its own, so that Ctrl-C reaches
the parent alone, and asks the kernel to be killed when the parent is.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import TYPE_CHECKING, Any

from repsim.records import RunDirectory, plain

if TYPE_CHECKING:
    from repsim.experiments.sweep import Cell

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "REPSIM_NUM_THREADS",
)
# Storage that takes no more is the run's trouble, not the cell's: the run stops and the cell stays to be done.
STORAGE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
KILL_WITH_PARENT = 1  # PR_SET_PDEATHSIG
OUTPUT_KEPT = 4000  # characters of a dead worker's last output
START = "import json, sys; a = json.loads(sys.argv[1]); sys.path[:] = a.pop('path')\n" + (
    "from repsim.experiments.worker import serve; serve(**a)"
)


@dataclass(frozen=True)
class Outcome:
    """How a cell ended; ``text`` is the result as JSON, a traceback, or the line of a storage error."""

    cell: Cell
    state: str  # "finished" | "failed" | "storage"
    text: str
    seconds: float


class Worker:
    """The parent's side of a worker process.

    Example: ``worker.assign(cell)``, then ``worker.collect()`` when ``worker.pipe`` is readable.

    Parameters: ``runners``, for each study the dotted name ``module:function`` of its ``run_cell``; ``threads``, native
    threads of the process.
    """

    def __init__(self, run: RunDirectory, runners: Mapping[str, str], threads: int) -> None:
        self.pipe, theirs = Pipe()
        self.cell: Cell | None = None
        self.alive = True
        self._since = 0.0
        # Prints and warnings of a cell would tear the progress bar; they matter when the process dies of a signal.
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 (closed by kill)
        arguments = {
            "path": [entry or os.getcwd() for entry in sys.path],
            "descriptor": theirs.fileno(),
            "parent": os.getpid(),
            "run": str(run.path.resolve()),
            "runners": dict(runners),
        }
        # PYTHONHASHSEED: the order of a set in a study's code is no source of difference between two runs.
        variables = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads)), "PYTHONHASHSEED": "0"}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-u", "-c", START, json.dumps(arguments)],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                env=variables,
                start_new_session=True,
            )

    def assign(self, cell: Cell) -> bool:
        """Give the worker a cell.

        Example: ``worker.assign(cell)``.

        Parameters: ``cell``. Returns: False when the process died while it had nothing to do.
        """
        os.ftruncate(self._output.fileno(), 0)
        self._output.seek(0)  # the offset is the child's, too
        self._since = time.monotonic()
        try:
            self.pipe.send(cell)
        except OSError:
            self.alive = False
            return False
        self.cell = cell
        return True

    def collect(self) -> Outcome:
        """Wait for the assigned cell to end. A worker that died with it takes no other: `assign` is False.

        Example: ``worker.collect().state == "finished"``.

        Returns: how it ended. Raises: ValueError when no cell is assigned.
        """
        cell, self.cell = self.cell, None
        if cell is None:
            raise ValueError("[Worker.collect] expected an assigned cell, got none")
        try:
            return Outcome(cell, *self.pipe.recv())
        except (EOFError, OSError):
            return Outcome(cell, "failed", self._last_words(), time.monotonic() - self._since)

    def _last_words(self) -> str:
        status = self._process.wait()
        if status < 0:
            name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
            ending = f"the worker process was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
        else:
            ending = f"the worker process exited with status {status}"
        length = os.fstat(self._output.fileno()).st_size
        output = os.pread(self._output.fileno(), OUTPUT_KEPT, max(0, length - OUTPUT_KEPT)).decode(errors="replace")
        return f"{output.rstrip()}\n{ending}".lstrip()

    def kill(self) -> None:
        """End the process now; nothing it wrote so far is half-written under a final name.

        Example: ``worker.kill()``.
        """
        self._process.kill()
        self._process.wait()
        self.pipe.close()
        self._output.close()


def serve(descriptor: int, parent: int, run: str, runners: Mapping[str, str]) -> None:
    """The worker's side: take cells from the pipe until it closes. Called in the worker process only.

    Example: the last line of START.

    Parameters: ``descriptor`` of the pipe; ``parent``, the process to die with; ``run``, the directory; ``runners``, as
    in `Worker`.
    """
    die_with(parent)
    import faulthandler

    faulthandler.enable()  # a crash in native code leaves its Python stack in the output
    pipe: Connection = Connection(descriptor)
    while True:
        try:
            cell = pipe.recv()
        except EOFError:
            return
        begin = time.perf_counter()
        state, text = do(cell, run, runners)
        pipe.send((state, text, time.perf_counter() - begin))


def do(cell: Cell, run: str, runners: Mapping[str, str]) -> tuple[str, str]:
    """Run a cell's function; no exception leaves it.

    Example: ``do(cell, "runs/one", {"mine": "mypackage.mine:run_cell"})[0] == "finished"``.

    Parameters: as in `serve`. Returns: the state and text of its `Outcome`.
    """
    try:
        module, function = runners[cell.study].split(":")
        run_cell = getattr(importlib.import_module(module), function)
        result: Any = run_cell(cell, RunDirectory.open(run))
        return "finished", json.dumps(plain(result, "result"), allow_nan=False)
    except BaseException as error:  # also sys.exit: a cell must not take the worker with it
        full = _full_storage(error)
        if full is not None:
            return "storage", f"cannot write {full.filename or run}: {full.strerror}"
        return "failed", traceback.format_exc()


def _full_storage(error: BaseException | None) -> OSError | None:
    while error is not None:
        if isinstance(error, OSError) and error.errno in STORAGE_ERRORS:
            return error
        error = error.__cause__ or error.__context__
    return None


def die_with(parent: int) -> None:
    """Arrange that this process ends when its parent does, whatever way that is.

    Example: ``die_with(os.getppid())``. Parameters: ``parent``, its process number.
    """
    if sys.platform == "linux":
        # The kernel's promise holds even while native code keeps the interpreter busy.
        ctypes.CDLL(None, use_errno=True).prctl(KILL_WITH_PARENT, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it died before the promise was given
        os._exit(1)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)
