"""What every function takes: whole numbers, threads, progress."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
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
    if not (math.isfinite(value) and (value > 0 or (or_zero and value == 0))):
        kind = "a number of at least 0" if or_zero else "a positive number"
        raise ValueError(f"[{function}] expected {name} as {kind}, got {value!r}")
    return float(value)
