"""The one timer: cold caches, rounds over all libraries with a pause before each, medians."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
LEAST_FLUSH, MOST_FLUSH = 64 * 2**20, 512 * 2**20  # bytes


def seconds(
    job: Callable[[], object], flush: Callable[[], object], clock: Callable[[], float] = time.perf_counter
) -> float:
    """Wall time of one call with cold caches; the flush is not in it."""
    flush()
    start = clock()
    job()
    return clock() - start


def rounds(
    jobs: Mapping[str, Callable[[], float]],
    *,
    turns: Mapping[str, int],
    pause: float,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, list[float]]:
    """What every job returns, in as many ``turns`` as it has; they alternate, so that a slow minute meets all of them.

    Before each comes a ``pause`` in seconds: the threads of OpenMP and OpenBLAS spin on after a call and take cores.
    """
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(max(turns.values(), default=0)):
        for name, job in jobs.items():
            if turn < turns[name]:
                sleep(pause)
                times[name].append(job())
    return times


def cache_flush() -> Callable[[], object]:
    """A function that writes a buffer twice as large as the largest cache; the buffer is resident from now on."""
    largest = 0
    with suppress(OSError, ValueError):
        largest = max(_bytes(file.read_text()) for file in CACHES.glob("index*/size"))
    buffer = np.ones(min(max(2 * largest, LEAST_FLUSH), MOST_FLUSH), np.uint8)
    return lambda: np.add(buffer, 1, out=buffer)


def _bytes(text: str) -> int:
    """32768K -> bytes."""
    unit = {"K": 2**10, "M": 2**20, "G": 2**30}.get(text.strip()[-1], 0)
    return int(text.strip()[:-1]) * unit if unit else int(text)
