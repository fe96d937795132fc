"""REPSIM_HOPPER=1: what the fused kernels take of the measures on a GPU, with a stand-in for the kernels themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from emulated_gpu import Meter, install, on_gpu, streamed
from fused_stand_ins import STAND_INS, calls

import repsim
from repsim.reductions import hopper
from repsim.reductions.centre import Packer
from repsim.reductions.device_neighbours import DeviceSide
from repsim.reductions.neighbours import Side

LISTS_FIT = hopper.lists_fit


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> Any:
    install(monkeypatch)
    monkeypatch.setenv("REPSIM_HOPPER", "1")
    monkeypatch.setattr(hopper, "available", lambda device: True)
    monkeypatch.setattr(hopper, "lists_fit", lambda n, device, room: True)
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


@pytest.mark.parametrize("precision", ["highest", "medium"])
@pytest.mark.parametrize(
    "kernel",
    [
        pytest.param("cosine", id="cosine"),
        pytest.param(repsim.Polynomial(degree=2), id="square"),
        pytest.param(repsim.Polynomial(degree=4), id="fourth-power"),
    ],
)
def test_kernels_of_products_are_fused(fused: Any, data: Any, kernel: Any, precision: str) -> None:
    there = repsim.cka(on_gpu(data[0]), on_gpu(data[1], "y"), kernel=kernel, precision=precision, block_rows=192)
    assert set(calls) == {precision}
    exact = repsim.cka(*data, kernel=kernel).value
    assert there.value == pytest.approx(exact, abs=1e-6 if precision == "highest" else 5e-3)


@pytest.mark.parametrize(
    "kernel",
    [
        pytest.param(repsim.LaplacianL2(sigma=4.0), id="another-kernel"),
        pytest.param(repsim.Polynomial(degree=5), id="a-high-power"),
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


def same_lists(there: Any, x: np.ndarray, base: np.ndarray | None, k: int, metric: str) -> None:
    here = repsim.nearest(x, k, base=base, metric=metric)
    np.testing.assert_array_equal(np.asarray(there.indices), here.indices)
    np.testing.assert_array_equal(np.asarray(there.scores), here.scores)


@pytest.mark.parametrize(
    ("filter", "precision", "said"),
    [
        pytest.param("bfloat16", "medium", "bfloat16", id="one-product"),
        pytest.param("float32", "highest", "bfloat16x6", id="six-products"),
    ],
)
@pytest.mark.parametrize("metric", ["euclidean", "inner_product", "cosine"])
@pytest.mark.parametrize(
    ("base", "place"),
    [
        pytest.param(False, on_gpu, id="all-pairs"),
        pytest.param(True, on_gpu, id="queries"),
        pytest.param(True, streamed, id="queries-with-the-host"),
    ],
)
def test_neighbours_take_the_fused_search(
    fused: Any, data: Any, metric: str, base: bool, filter: str, precision: str, said: str, place: Any
) -> None:
    fused.setattr("repsim.arrays.RESIDENT_ON_DEVICE", 8400)  # 100 rows are packed at a time
    x, other = data[0], data[0][::2].copy() if base else None
    there = repsim.nearest(place(x), 5, base=place(other, "base") if base else None, metric=metric, filter=filter)
    assert calls == [f"{'rows' if base else 'all pairs'} {precision}"]
    assert (there.filter, there.scanned) == (said, 0)
    same_lists(there, x, other, 5, metric)


def two_clusters(data: np.ndarray, apart: float) -> np.ndarray:
    """Rows whose neighbours lie much nearer than the middle of all."""
    x = data.copy()
    x[::2] += np.float32(apart)
    return x


@pytest.mark.parametrize(
    ("base", "place", "block_rows"),
    [
        pytest.param(False, on_gpu, 192, id="all-pairs-there-in-blocks"),
        pytest.param(False, streamed, None, id="all-pairs-with-the-host"),
        pytest.param(True, streamed, 192, id="queries-with-the-host-in-blocks"),
    ],
)
@pytest.mark.parametrize("metric", ["euclidean", "inner_product", "cosine"])
def test_rows_that_one_product_leaves_open_are_promoted(
    fused: Any, data: Any, metric: str, base: bool, block_rows: Any, place: Any
) -> None:
    """Three products decide them; before there were any, float32 scanned all rows again for them."""
    apart = 60.0 if metric == "inner_product" else 20.0
    x, other = two_clusters(data[0], apart), two_clusters(data[0][:300], apart) if base else None
    rows = place(x), place(other, "base") if base else None
    options = {"metric": metric, "filter": "bfloat16", "block_rows": block_rows}
    there = repsim.nearest(rows[0], 5, base=rows[1], **options)
    promoted = 2 if block_rows and metric == "inner_product" else 1  # blocks of rows
    assert calls == ["rows medium"] * 3 * base + ["all pairs medium"] * (not base) + ["rows high"] * promoted
    assert (there.filter, there.scanned) == ("bfloat16", 0)
    same_lists(there, x, other, 5, metric)
    fused.delenv("REPSIM_HOPPER")
    assert repsim.nearest(rows[0], 5, base=rows[1], **options).scanned > 0


def test_what_promotion_leaves_open_is_settled_in_float64(fused: Any, data: Any) -> None:
    x = two_clusters(data[0], 2e5)
    x[300:] = x[:110]
    there = repsim.nearest(on_gpu(x), 10, metric="euclidean", filter="bfloat16")
    assert calls == ["all pairs medium", "rows high"]
    assert there.scanned > 0
    same_lists(there, x, None, 10, "euclidean")


def test_rows_too_close_for_one_product_take_three(fused: Any, data: Any) -> None:
    """Tried out on a few rows."""
    fused.setattr("repsim.reductions.neighbours.PILOT", 40)
    fused.setattr("repsim.reductions.neighbours.LEAST_PAIRS", 1)
    x = two_clusters(data[0], 200.0)
    there = repsim.nearest(on_gpu(x), 5, metric="inner_product")
    assert calls == ["rows medium", "rows medium", "all pairs high"]
    assert (there.filter, there.scanned) == ("bfloat16x3", 0)
    same_lists(there, x, None, 5, "inner_product")


def test_more_neighbours_than_lists_hold_are_left_to_the_tiles(fused: Any, data: Any) -> None:
    for filter in ("bfloat16", "float32"):
        there = repsim.nearest(on_gpu(data[0]), 300, filter=filter)
        assert there.filter == filter
        same_lists(there, data[0], None, 300, "cosine")
    assert not calls


@pytest.mark.parametrize(
    ("place", "keeps", "filter", "overflowing", "base"),
    [
        pytest.param(on_gpu, True, "bfloat16", 0, False, id="packed-whole"),
        pytest.param(on_gpu, False, "float32", 7, True, id="queries-in-blocks-that-overflow"),
        pytest.param(streamed, False, "bfloat16", 7, False, id="with-the-host-in-blocks-that-overflow"),
        pytest.param(streamed, True, "float32", 0, True, id="queries-with-the-host-packed-whole"),
    ],
)
def test_lists_that_do_not_fit_are_made_in_turn(
    fused: Any, data: Any, base: bool, filter: str, overflowing: int, keeps: bool, place: Any
) -> None:
    """Blocks of rows among all rows, or among block after block of them; a list that overflows is made anew."""
    fused.setattr(hopper, "lists_fit", lambda n, device, room: False)
    fused.setattr("fused_stand_ins.overflowing", overflowing)
    if not keeps:
        fused.setattr("repsim.blocks.PACKED_BUDGET", 2**14)
    x, other = data[0], data[0][:300].copy() if base else None
    rows = place(x), place(other, "base") if base else None
    steps: list[tuple[int, int]] = []
    there = repsim.nearest(
        rows[0], 5, base=rows[1], metric="euclidean", filter=filter, block_rows=192,
        progress=lambda *step: steps.append(step),
    )  # fmt: skip
    parts = 1 if keeps else 2 if base else 3
    assert len(calls) == 3 * parts * (2 if overflowing else 1)
    assert steps[-1] == (4, 4)
    assert there.filter == ("bfloat16x6" if filter == "float32" else filter)
    same_lists(there, x, other, 5, "euclidean")


@pytest.mark.parametrize("metric", ["euclidean", "inner_product", "cosine"])
@pytest.mark.parametrize(
    ("filter", "apart"), [pytest.param("bfloat16", 30.0, id="promoted"), pytest.param("float32", 300.0, id="six")]
)
def test_lists_are_exact_whatever_sums_may_err(fused: Any, data: Any, metric: str, filter: str, apart: float) -> None:
    """Every score is off by all that the tensor cores may make of it; rows that this confuses are found in float64."""
    fused.setattr("fused_stand_ins.error", 1.0)
    x = two_clusters(data[0], apart)
    there = repsim.nearest(on_gpu(x), 5, metric=metric, filter=filter)
    same_lists(there, x, None, 5, metric)
    fused.setattr("fused_stand_ins.error", 3e4)
    beyond = repsim.nearest(on_gpu(x), 5, metric=metric, filter=filter)
    assert (np.asarray(beyond.indices) != np.asarray(there.indices)).any(), "no error would be found"


@pytest.mark.parametrize(
    ("place", "filter", "base", "memory", "searches"),
    [
        pytest.param(on_gpu, "float32", False, 9_000_000, {"rows highest"}, id="three-parts-in-blocks"),
        pytest.param(streamed, "float32", True, 12_000_000, {"rows highest"}, id="three-parts-with-the-host"),
        pytest.param(streamed, "bfloat16", False, 10_500_000, {"rows medium", "rows high"}, id="promoted"),
        pytest.param(on_gpu, "float32", False, 24_000_000, {"all pairs highest"}, id="all-pairs"),
    ],
)
def test_a_fused_search_keeps_its_memory(
    fused: Any, place: Any, filter: str, base: bool, memory: int, searches: set[str]
) -> None:
    """Blocks of parts and lists, and rows that are promoted and settled, beside O(n k)."""
    fused.setattr(hopper, "lists_fit", LISTS_FIT)
    for name in ("arrays", "reductions.device_streams", "reductions.streamed_neighbours"):
        fused.setattr(f"repsim.{name}.RESIDENT_ON_DEVICE", 84_000)
    fused.setattr("repsim.reductions.device_neighbours.RESIDENT_ON_DEVICE", 84_000)
    x, other = np.random.default_rng(0).normal(size=(2, 1000, 400)).astype(np.float32)
    x[::2] += 30
    other[::2] += 30
    beside = 1000 * (128 * 8 + 5 * 24 + 44)
    rows = place(x), place(other, "base") if base else None
    with Meter() as meter:
        there = repsim.nearest(rows[0], 5, base=rows[1], metric="euclidean", filter=filter, memory=memory)
    assert there.scanned == 500
    assert set(calls) == searches
    assert 0.3 * memory < meter.peak - beside <= memory


@pytest.mark.parametrize("place", [on_gpu, streamed], ids=["there", "with-the-host"])
@pytest.mark.parametrize("filter", list(hopper.FILTERS))
def test_residuals_bound_what_the_parts_lack(fused: Any, data: Any, filter: str, place: Any) -> None:
    fused.setattr("repsim.arrays.RESIDENT_ON_DEVICE", 8400)
    x = data[0].astype(np.float64) * np.pi
    packer = Packer(place(x), x[0], np.full(len(x), 0.25), 1)
    side = DeviceSide(Side(packer.rows, packer, None), filter, 0.0, None)
    seen = side.parts(0, 410).parts.double().sum(0)[:, :21].numpy()
    lost = np.linalg.norm(seen - (x - x[0]) * 0.25, axis=1)
    norms, residuals = side.known()
    assert (residuals >= lost).all()
    assert (residuals <= 1.01 * lost + 2.0**-24 * norms + 1e-36).all()
    np.testing.assert_allclose(norms, np.linalg.norm(seen, axis=1), rtol=1e-7)
    some = side.parts(100, 50)
    assert torch.equal(some.parts, side.parts(0, 410).parts[:, 100:150])
    assert some.half is not None and np.array_equal(np.sqrt(2 * some.half.double().numpy()), norms[100:150])
