"""Attention maps of two models over the same inputs, read from arrays and lists of arrays, and as rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..arrays import Rows, as_rows


def pair(x: Any, y: Any, name: str) -> tuple[list[Any], list[Any]]:
    """Both sides as lists of [heads, tokens, tokens], not yet read."""
    left, right = inputs_of(x, "x", name), inputs_of(y, "y", name)
    if len(left) != len(right):
        raise ValueError(f"[{name}] expected y with {len(left)} inputs like x, got {len(right)}")
    for i, (a, b) in enumerate(zip(left, right, strict=True)):
        if tuple(a.shape[1:]) != tuple(b.shape[1:]):
            raise ValueError(
                f"[{name}] expected y[{i}] over {a.shape[1]} x {a.shape[2]} tokens like x[{i}], got "
                f"{b.shape[1]} x {b.shape[2]}"
            )
    return left, right


def pair_of_rows(x: Any, y: Any, name: str) -> tuple[list[Rows], int]:
    """Both sides as rows, one for each pair of tokens, and the number of inputs."""
    left, right = pair(x, y, name)
    sides = ((left, "x"), (right, "y"))
    return [Rows(stacked(side, which, name), "float64", which) for side, which in sides], len(left)


def inputs_of(value: Any, which: str, name: str) -> list[Any]:
    listed = isinstance(value, (list, tuple))
    if not listed and len(getattr(value, "shape", ())) != 4:
        raise ValueError(
            f"[{name}] expected {which} as an array [inputs, heads, tokens, tokens] or a list of arrays [heads, "
            f"tokens, tokens], got {type(value).__name__} of shape {tuple(getattr(value, 'shape', ()))}"
        )
    inputs = list(value)
    if not inputs:
        raise ValueError(f"[{name}] expected {which} with at least one input, got none")
    for i, one in enumerate(inputs):
        shape = tuple(getattr(one, "shape", ()))
        if len(shape) != 3 or 0 in shape:
            raise ValueError(f"[{name}] expected {which}[{i}] as an array [heads, tokens, tokens], got shape {shape}")
        if shape[0] != inputs[0].shape[0]:
            raise ValueError(
                f"[{name}] expected {which}[{i}] with {inputs[0].shape[0]} heads like {which}[0], got {shape[0]}"
            )
    return inputs


def each(inputs: list[Any], which: str, name: str) -> Iterator[np.ndarray]:
    for i, one in enumerate(inputs):
        yield wide(one, f"{which}[{i}]", name)


def wide(one: Any, which: str, name: str) -> np.ndarray:
    """[heads, queries, keys] float64."""
    shape = tuple(one.shape)
    rows = one.reshape(shape[0] * shape[1], shape[2])  # what an array may be is said in one place
    values = as_rows(rows, function=name, name=which).wide(slice(None)).reshape(shape)
    if not np.isfinite(values).all():
        raise ValueError(f"[{name}] expected {which} with finite values, got NaN or infinity")
    return values


def stacked(inputs: list[Any], which: str, name: str) -> np.ndarray:
    heads = int(inputs[0].shape[0])
    stacked = np.empty((sum(int(np.prod(one.shape[1:])) for one in inputs), heads))
    at = 0
    for one in each(inputs, which, name):
        flat = one.reshape(heads, -1)
        stacked[at : at + flat.shape[1]] = flat.T
        at += flat.shape[1]
    return stacked
