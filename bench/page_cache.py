"""The system's copies of file contents in memory: let go before a call, and how much of them stayed."""

from __future__ import annotations

import ctypes
import math
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

_LIBC = ctypes.CDLL(None)
READ = 8 * 2**20  # bytes at a time


def drop(files: Sequence[Path]) -> None:
    """Ask for cold files, which needs no privileges; pages that a process still maps or has not written stay."""
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def cached_share(files: Sequence[Path]) -> float:
    """The share of their pages that memory holds, which brings none in; NaN where the system does not tell."""
    held = pages = 0
    for path in files:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            view = np.frombuffer(mapped, np.uint8)
            resident = np.zeros(-(-view.size // mmap.PAGESIZE), np.uint8)
            address, size, vector = (
                ctypes.c_void_p(view.ctypes.data),
                ctypes.c_size_t(view.size),
                resident.ctypes.data,
            )
            del view  # the map can be closed only without it
            if _LIBC.mincore(address, size, ctypes.c_void_p(vector)):
                return math.nan
        held += int(np.count_nonzero(resident & 1))
        pages += resident.size
    return held / pages


def read(files: Sequence[Path]) -> None:
    """From the first byte to the last, one file after the other, in one thread that says so beforehand."""
    buffer = bytearray(READ)
    for path in files:
        with path.open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)  # reads further ahead
            while file.readinto(buffer):
                pass
