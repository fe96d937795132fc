"""The system's copies of file contents in memory: let go before a call, and how much of them stayed."""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

SAMPLE = 256  # pages of a file that are looked at
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
    """The share of evenly spaced pages that memory still holds; NaN where the file system does not tell."""
    held = looked = 0
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            # A look must not bring pages in: neither the one it is at, nor those behind it.
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
            pages = max(1, os.fstat(descriptor).st_size // mmap.PAGESIZE)
            for page in range(0, pages, max(1, pages // SAMPLE)):
                held += _held(descriptor, page * mmap.PAGESIZE)
                looked += 1
        except OSError:
            return math.nan
        finally:
            os.close(descriptor)
    return held / looked


def _held(descriptor: int, offset: int) -> bool:
    try:
        os.preadv(descriptor, [bytearray(1)], offset, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    return True


def read(files: Sequence[Path]) -> None:
    """From the first byte to the last, one file after the other, in one thread."""
    buffer = bytearray(READ)
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
