"""What every function takes: whole numbers, threads, memory, progress."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

Progress = Callable[[int, int], None]


def thread_count(threads: int | None, *, function: str) -> int:
    """Threads to use: the argument, else REPSIM_NUM_THREADS, else the CPUs this process may run on."""
    if threads is None:
        asked = os.environ.get("REPSIM_NUM_THREADS", "")
        if asked and not (asked.isdigit() and int(asked) > 0):
            raise ValueError(f"[{function}] expected REPSIM_NUM_THREADS as a positive whole number, got {asked!r}")
        if asked:
            return int(asked)
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return whole_number(threads, "threads", function=function)


def whole_number(value: Any, name: str, *, function: str, least: int = 1) -> int:
    """A whole number of at least ``least``.

    Raises
    ------
    TypeError: no int. ValueError: too small.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"[{function}] expected {name} as an int, got {value!r}")
    if value < least:
        raise ValueError(f"[{function}] expected {name} of at least {least}, got {value}")
    return int(value)


def positive_number(value: Any, name: str, *, function: str, or_zero: bool = False) -> float:
    """A finite number above 0, or at least 0 where zero may be.

    Raises
    ------
    TypeError: no number. ValueError: not finite, or too small.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"[{function}] expected {name} as a number, got {type(value).__name__}")
    try:
        finite = math.isfinite(value)
    except OverflowError:  # an int beyond the range of float64
        finite = False
    if not (finite and (value > 0 or (or_zero and value == 0))):
        kind = "a number of at least 0" if or_zero else "a positive number"
        raise ValueError(f"[{function}] expected {name} as {kind}, got {value!r}")
    return float(value)


_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def memory_budget(value: int | str | None, *, function: str) -> int | None:
    """Bytes from a number, or from text such as "512MiB" and "1.5 GB"; None stays None: each function's own default.

    Raises
    ------
    TypeError: neither. ValueError: text of another form, or less than one byte.
    """
    if value is None:
        return None
    if not isinstance(value, str):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
            raise TypeError(f'[{function}] expected memory as bytes or text such as "512MiB", got {value!r}')
        return whole_number(value, "memory", function=function)
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*", value, re.IGNORECASE)
    size = float(found[1]) * _UNITS[(found[2] or "").lower()] if found else 0
    if not size >= 1:
        raise ValueError(f'[{function}] expected memory as bytes or text such as "512MiB" or "1GB", got {value!r}')
    return int(size)


def require_memory(least: int, budget: int | None, *, function: str, purpose: str) -> None:
    """Refuse a budget that the work cannot be done in.

    Raises
    ------
    ValueError: it says the least that is possible.
    """
    if budget is not None and budget < least:
        raise ValueError(
            f"[{function}] expected memory of at least {least} bytes ({-(-least // 2**20)}MiB) for {purpose}, "
            f"got {budget}"
        )


def available_memory() -> int | None:
    """Bytes that new work may take without swapping, of the machine or of the container; None where it is not known."""
    found = []
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found.append(int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) * 1024)
    with suppress(OSError, ValueError):  # "max" where there is no limit
        limit, used = (Path(f"/sys/fs/cgroup/memory.{name}").read_text() for name in ("max", "current"))
        found.append(max(int(limit) - int(used), 0))
    return min(found, default=None)
