"""Rows like those of two networks: a shared part of few dimensions, and noise of each one's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

SEED = 0
FILE_ROWS = 16384  # rows in memory while a file is written


def related_rows(n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Two float32 [n, d] matrices, half of whose variance comes from the same d // 16 directions."""
    return next(_blocks(n, d, n))


def related_files(n: int, d: int, folder: Path) -> tuple[np.memmap, np.memmap]:
    """The like in two .npy files, mapped read-only: x.npy and y.npy of 4 n d bytes each."""
    paths = [folder / f"{side}.npy" for side in ("x", "y")]
    files = [np.lib.format.open_memmap(path, "w+", np.float32, (n, d)) for path in paths]
    start = 0
    for blocks in _blocks(n, d, FILE_ROWS):
        for file, block in zip(files, blocks, strict=True):
            file[start : start + len(block)] = block
        start += len(blocks[0])
    for file in files:
        file.flush()
    del file, files  # ends the writable maps
    x, y = (np.lib.format.open_memmap(path, "r") for path in paths)
    return x, y


def _blocks(n: int, d: int, rows: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng([SEED, n, d])
    rank = max(1, d // 16)
    directions = rng.standard_normal((2, rank, d), np.float32) / np.float32(np.sqrt(rank))
    for start in range(0, n, rows):
        count = min(rows, n - start)
        shared = rng.standard_normal((count, rank), np.float32)
        x, y = (shared @ side + rng.standard_normal((count, d), np.float32) for side in directions)
        yield x, y
