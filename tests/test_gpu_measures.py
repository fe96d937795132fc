"""Every measure that declares to work where its rows lie, on rows of an emulated GPU: see emulated_gpu.py.

What is compared: the same call on the CPU, which has tests of its own, and rows that lie there with rows that are
brought there a block at a time, to the bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from emulated_gpu import install, on_gpu, streamed

import repsim
from repsim.arrays import DeviceRows, SharedRows
from repsim.measures.registry import REGISTRY

METHODS = [name for name, one in REGISTRY.items() if one.gpu and one.method is not None]
SAME_WIDTH = [name for name in METHODS if REGISTRY[name].same_width]
N = 210  # four blocks of 64 rows, the last a short one


@pytest.fixture(autouse=True)
def native(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Products are summed 64 rows at a time, and rows are read once 50 at a time."""
    monkeypatch.setattr("repsim.arrays.RESIDENT_ON_DEVICE", 50 * 9 * 8)
    monkeypatch.setattr("repsim.reductions.device_moments.ROWS", 64)
    return install(monkeypatch)


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 9)) * np.linspace(0.5, 2, 9) + 3.0
    return x, np.tanh(x[:, :6] - 3.0) + 0.5 * rng.normal(size=(N, 6))


def pair_for(name: str, data: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    x, y = data
    return (x[:, :6].copy(), y) if name in SAME_WIDTH else (x, y)


def numbers(result: Any) -> list[float]:
    return [result.value, result.null.mean, result.null.sd, result.p, result.standard_error]


@pytest.mark.parametrize("name", METHODS)
def test_values_chance_and_errors_are_those_of_the_cpu(name: str, data: Any) -> None:
    x, y = pair_for(name, data)
    how = {"permutations": 3, "jackknife": 3, "seed": 1}
    here = getattr(repsim, name)(x, y, **how)
    there = getattr(repsim, name)(on_gpu(x), on_gpu(y, "y"), **how)
    np.testing.assert_allclose(numbers(there), numbers(here), rtol=1e-10, atol=1e-10)
    brought = getattr(repsim, name)(streamed(x), streamed(y, "y", late=True), **how)
    assert numbers(brought) == numbers(there)
