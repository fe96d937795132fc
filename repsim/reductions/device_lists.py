"""Cosines to the neighbours of inputs whose rows lie on a GPU, in float64, some inputs at a time.

The lists stay with the host, whose numbers they are; the rows that they name are brought together on the GPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..arrays import Rows
from .device import on_host

if TYPE_CHECKING:
    from .graphs import ListedRows

NUMBERS = 2**24  # of the rows that are brought together at a time


def cosines(rows: Rows, lengths: np.ndarray, inputs: np.ndarray, others: np.ndarray) -> np.ndarray:
    """cos(x_i, x_j) [len, k] of inputs i [len] and the k others j of each [len, k]. Cost: 2 len k d flop."""
    found = np.empty(others.shape)
    step = max(NUMBERS // (others.shape[1] * rows.depth), 1)
    for start in range(0, len(inputs), step):
        part = slice(start, start + step)
        near = rows.wide_there(others[part].ravel()).reshape(*others[part].shape, rows.depth)
        own = rows.wide_there(inputs[part])
        found[part] = on_host((near * own[:, None]).sum(axis=2))
    found /= lengths[inputs][:, None]
    found /= lengths[others]
    return found


def second_order_terms(a: ListedRows, b: ListedRows, names: np.ndarray | None) -> tuple[np.ndarray, int]:
    """The terms [n] whose sum second_order_cosines of csrc/ops.h is for one relabelling, and the first bad input."""
    n = len(a.lists)
    every = np.arange(n)
    names = every if names is None else names
    was = np.empty(n, np.int64)  # which input of b an input of a is beside
    was[names] = every
    theirs = names[b.lists[was]]
    own = _not_in(theirs, a.lists)
    of_a = np.concatenate([a.cosines, cosines(a.rows, a.lengths, every, theirs) * own], axis=1)
    of_b = np.concatenate([cosines(b.rows, b.lengths, was, was[a.lists]), b.cosines[was] * own], axis=1)
    squares = (of_a * of_a).sum(axis=1), (of_b * of_b).sum(axis=1)
    bad = np.flatnonzero((squares[0] == 0) | (squares[1] == 0))
    with np.errstate(invalid="ignore", divide="ignore"):
        terms = (of_a * of_b).sum(axis=1) / np.sqrt(squares[0]) / np.sqrt(squares[1])
    return terms, int(bad[0]) if len(bad) else -1


def _not_in(lists: np.ndarray, others: np.ndarray) -> np.ndarray:
    """[n, k]: whether what a list names is not in the other list of the same input."""
    found = np.empty(lists.shape, bool)
    step = max(NUMBERS // (lists.shape[1] * others.shape[1]), 1)
    for start in range(0, len(lists), step):
        part = slice(start, start + step)
        found[part] = (lists[part, :, None] != others[part, None, :]).all(axis=2)
    return found
