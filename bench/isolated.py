"""Cases in another process, each within a time limit: one that hangs, or loses its GPU, ends only itself."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Protocol

START = 60  # seconds that a worker may prepare itself: it imports torch
MOST_FAILURES = 3
LAST_WAIT = 10  # seconds that a killed process may take to go

Result = dict[str, Any]  # "failed" or "not_run" say why there is nothing else; a check says whether it is "right"


class Case(Protocol):
    """What a worker is asked for."""

    @property
    def title(self) -> str: ...

    @property
    def limit(self) -> float:
        """Seconds that it may take."""

    @property
    def group(self) -> str:
        """Names what it fails together with."""

    @property
    def request(self) -> dict[str, Any]:
        """All that a worker needs to know, as JSON."""


def serve(answer: Callable[[dict[str, Any]], Result], prepare: Callable[[], object] = lambda: None) -> int:
    """In a worker: a line of JSON for every line of JSON on stdin. After an error a CUDA context may be lost: it ends.

    What takes time once is to be done in ``prepare``, which no case waits for. What libraries print, in whatever
    language, goes to stderr.
    """
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    prepare()
    print("{}", file=replies, flush=True)
    for line in sys.stdin:
        try:
            result = answer(json.loads(line))
        except Exception as error:
            result = {"failed": f"{type(error).__name__}: {error}"[:600]}
        print(json.dumps(result), file=replies, flush=True)
        if "failed" in result:
            return 1
    return 0


class Worker:
    """A process that runs ``command``, which calls :func:`serve`."""

    def __init__(self, command: Sequence[str], folder: Path, errors: IO[str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=folder
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            self._lines.put(line)
        self._lines.put(None)

    def ask(self, request: dict[str, Any], limit: float) -> Result:
        """The reply, within so many seconds."""
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):  # the next line says that it has ended
                self._process.stdin.write(json.dumps(request) + "\n")
                self._process.stdin.flush()
        return self.next(limit)

    def next(self, limit: float) -> Result:
        """What it says next; its first words are that it is prepared."""
        try:
            line = self._lines.get(timeout=max(limit, 0.0))
        except queue.Empty:
            return {"failed": f"no end after {limit:.0f} s"}
        if line is None or not line.endswith("\n"):
            return {"failed": "the process ended; see its .err file"}
        result: Result = json.loads(line)
        return result

    def end(self) -> None:
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(LAST_WAIT)


def follow(
    todo: Sequence[Case],
    command: Sequence[str],
    deadline: float,
    log: Path,
    *,
    folder: Path,
    start: float = START,
    obstacle: Callable[[Any, float], str] = lambda case, left: "",
) -> Iterator[Result]:
    """What came of every case, in order, as it comes; also printed, and added to ``log``.jsonl, errors to ``log``.err.

    Where one fails or hangs, a new worker goes on with the next. What has failed MOST_FAILURES times is given up: what
    is left of the time until ``deadline`` (of time.monotonic) belongs to the others. ``obstacle`` may say why a case
    should not run in the seconds that are left.
    """
    failures: Counter[str] = Counter()
    worker: Worker | None = None
    with open(f"{log}.jsonl", "a") as lines, open(f"{log}.err", "a") as errors:
        try:
            for case in todo:
                begin = time.monotonic()
                left = deadline - begin
                if left <= 0:
                    result = {"not_run": "no time is left"}
                elif failures[case.group] >= MOST_FAILURES:
                    result = {"not_run": f"given up after {MOST_FAILURES} failures"}
                elif why := obstacle(case, left):
                    result = {"not_run": why}
                else:
                    result = {}
                    if worker is None:
                        worker = Worker(command, folder, errors)
                        result = worker.next(min(start, left))
                    if "failed" not in result:
                        begin = time.monotonic()
                        result = worker.ask(case.request, min(case.limit, deadline - begin))
                    if "failed" in result:
                        worker.end()
                        worker = None
                        if time.monotonic() >= deadline:
                            result = {"not_run": "the time was over before it had ended"}
                        else:
                            failures[case.group] += 1
                record = {**case.request, **result, "took": round(time.monotonic() - begin, 1)}
                lines.write(json.dumps(record) + "\n")
                lines.flush()
                print(_line(case, result, record["took"]), flush=True)
                yield record
        finally:
            if worker is not None:
                worker.end()


def _line(case: Case, result: Result, took: float) -> str:
    shown = " ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in result.items())
    return f"{'WRONG ' if is_bad(result) else ''}{case.title} | {shown} | {took} s"


def is_bad(result: Result) -> bool:
    """Whether it failed or is wrong."""
    return "failed" in result or not result.get("right", True)


def tally(records: Sequence[Result], whole: int) -> str:
    """How many of ``whole`` cases ended how."""
    bad = sum(map(is_bad, records))
    skipped = sum("not_run" in one for one in records) + whole - len(records)
    return f"{whole - bad - skipped} of {whole} right or timed, {bad} wrong or failed, {skipped} not run"
