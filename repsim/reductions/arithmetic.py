"""What numpy and torch call by different names, of float64 arrays of the host and of tensors on a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from .device import on_host


def exponential(values: Any) -> Any:
    """exp of every number, in its place."""
    return np.exp(values, out=values) if isinstance(values, np.ndarray) else values.exp_()


def largest(rows: Any) -> Any:
    """The largest |number| of every row [..., d], as [..., 1]."""
    return np.abs(rows).max(axis=-1, keepdims=True) if isinstance(rows, np.ndarray) else rows.abs().amax(-1, True)


def lengths(rows: Any) -> np.ndarray:
    """|row| of rows [..., d], on the host; of zeros NaN. No square leaves float64."""
    most = largest(rows)
    with np.errstate(invalid="ignore", divide="ignore"):
        return on_host((most * ((rows / most) ** 2).sum(axis=-1, keepdims=True) ** 0.5)[..., 0])


def upper_factor(matrix: Any) -> np.ndarray:
    """R of the QR decomposition [m, d], on the host."""
    if isinstance(matrix, np.ndarray):
        return np.asarray(np.linalg.qr(matrix, mode="r"))
    import torch

    return on_host(torch.linalg.qr(matrix, mode="r").R)


def add_rows_to(sums: Any, which: np.ndarray, rows: Any) -> None:
    """sums[which[i]] += rows[i], in a fixed order of additions; ``which`` is the host's."""
    if isinstance(rows, np.ndarray):
        np.add.at(sums, which, rows)
        return
    chosen = rows.new_zeros((len(sums), len(rows)))
    chosen[which, np.arange(len(rows))] = 1.0
    sums.addmm_(chosen, rows)
