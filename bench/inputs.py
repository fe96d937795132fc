"""Rows like those of two networks: a shared part of few dimensions, and noise of each one's own."""

from __future__ import annotations

import numpy as np

SEED = 0


def related_rows(n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    """Two float32 [n, d] matrices, half of whose variance comes from the same d // 16 directions."""
    rng = np.random.default_rng([SEED, n, d])
    rank = max(1, d // 16)
    shared = rng.standard_normal((n, rank), np.float32)
    sides = []
    for _ in range(2):
        rows = shared @ rng.standard_normal((rank, d), np.float32) / np.float32(np.sqrt(rank))
        sides.append(rows + rng.standard_normal((n, d), np.float32))
    return sides[0], sides[1]
