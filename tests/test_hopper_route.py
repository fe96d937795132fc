"""REPSIM_HOPPER=1: what the fused kernels take of the measures on a GPU, with a stand-in for the kernels themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from emulated_gpu import install, on_gpu
from fused_stand_ins import STAND_INS, calls

import repsim
from repsim.reductions import hopper


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> Any:
    install(monkeypatch)
    monkeypatch.setenv("REPSIM_HOPPER", "1")
    monkeypatch.setattr(hopper, "available", lambda device: True)
    monkeypatch.setattr(hopper, "lists_fit", lambda n, kept, device: True)
    for stand_in in STAND_INS:
        monkeypatch.setattr(hopper, stand_in.__name__, stand_in)
    calls.clear()
    return monkeypatch


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(410, 21)).astype(np.float32)
    return x, (x[:, :13] ** 2 + rng.normal(size=(410, 13))).astype(np.float32)


@pytest.mark.parametrize(
    ("precision", "tolerance"),
    [pytest.param("highest", 1e-6, id="six-products"), pytest.param("high", 2e-5, id="three-products"),
     pytest.param("medium", 5e-3, id="one-product")],
)  # fmt: skip
@pytest.mark.parametrize("block_rows", [192, 576], ids=["blocks", "whole"])
def test_cka_takes_the_fused_kernel(fused: Any, data: Any, precision: str, tolerance: float, block_rows: int) -> None:
    x, y = on_gpu(data[0]), on_gpu(data[1], "y")
    options = {"kernel": repsim.RBF(sigma=4.0), "precision": precision, "block_rows": block_rows}
    there = repsim.cka(x, y, **options)
    assert set(calls) == {precision}
    fused.delenv("REPSIM_HOPPER")
    calls.clear()
    assert there.value == pytest.approx(repsim.cka(x, y, **options).value, abs=tolerance)
    assert not calls, "without REPSIM_HOPPER nothing is fused"


@pytest.mark.parametrize(
    "kernel",
    [
        pytest.param(repsim.LaplacianL2(sigma=4.0), id="another-kernel"),
        pytest.param(repsim.RBF(sigma=4.0) + repsim.Linear(), id="a-sum"),
        pytest.param(repsim.RBF(sigma=4.0) * repsim.RBF(sigma=2.0), id="a-product"),
    ],
)
def test_other_kernels_are_left_to_the_tiles(fused: Any, data: Any, kernel: Any) -> None:
    repsim.cka(on_gpu(data[0]), on_gpu(data[1], "y"), kernel=kernel)
    assert not calls


def test_near_rows_far_from_the_middle_are_left_to_the_tiles(fused: Any, data: Any) -> None:
    x = 0.1 * data[0]
    x[::2, 0] += 10
    for sigma, taken in ((0.3, set()), (3.0, {"highest"})):
        repsim.cka(on_gpu(x), on_gpu(x[:, :9].copy(), "y"), kernel=repsim.RBF(sigma=sigma))
        assert set(calls) == taken


@pytest.mark.parametrize("metric", ["euclidean", "inner_product", "cosine"])
@pytest.mark.parametrize("base", [False, True], ids=["all-pairs", "queries"])
def test_neighbours_take_the_fused_search(fused: Any, data: Any, metric: str, base: bool) -> None:
    from repsim.reductions.neighbours import nearest

    rows = on_gpu(data[0]), on_gpu(data[0][::2].copy(), "base") if base else None
    found = nearest(*rows, 5, metric, function="nearest", threads=1, filter="bfloat16")
    assert calls == ["rows" if base else "all pairs"]
    exact = nearest(*rows, 5, metric, function="nearest", threads=1, filter="float32")
    assert len(calls) == 1, "float32 tiles are not fused"
    np.testing.assert_array_equal(np.asarray(found.indices), np.asarray(exact.indices))
