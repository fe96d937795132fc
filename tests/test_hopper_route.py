"""REPSIM_HOPPER=1: what the fused kernels take of the measures on a GPU, with a stand-in for the kernels themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from emulated_gpu import install, on_gpu

import repsim
from repsim.reductions import hopper

calls: list[str] = []


def split(x: torch.Tensor, precision: str, *, residuals: bool = False) -> tuple[hopper.Split, None]:
    parts, rest = [], x.clone()
    for _ in range(hopper.PARTS[precision]):
        parts.append(rest.to(torch.bfloat16))
        rest = rest - parts[-1].float()
    half = (x.double() - rest.double()).square().sum(1) / 2
    return hopper.Split(torch.stack(parts), half.float(), x.shape[1]), None


def summed(rows: hopper.Split) -> torch.Tensor:
    return rows.parts.double().sum(0)


def kernel_sums(
    matrices: Sequence[hopper.FusedMatrix], precision: str, span: Any, row_bits: int, row_sums: Any, products: Any
) -> None:
    calls.append(precision)
    first_i, rows_i, first_j, rows_j = span
    values = []
    for one in matrices:
        t = summed(one.i) @ summed(one.j).T
        assert one.i.half is not None and one.j.half is not None
        if one.kernel == "rbf":
            t = t - one.i.half[:, None].double() - one.j.half.double()
        k = (one.gain * t).exp() if one.kernel == "rbf" else one.gain * t
        counts = torch.ones_like(k).triu(1) if first_i == first_j else torch.ones_like(k)
        values.append((k - one.shift) * counts)
    for p, k in enumerate(values):
        row_sums[p, first_i : first_i + rows_i] += (k.sum(1) * 2.0**row_bits).round().long()
        row_sums[p, first_j : first_j + rows_j] += (k.sum(0) * 2.0**row_bits).round().long()
    for to, (p, q) in zip(products, ((0, 0), (0, 1), (1, 1)), strict=True):
        whole = round(float(2 * (values[p] * values[q]).sum()) * 2**45)
        to += torch.tensor([whole >> 32, whole & 0xFFFFFFFF])


def best(i: hopper.Split, j: hopper.Split, kept: int, lists: hopper.Lists, *, own: bool) -> None:
    scores = (summed(i) @ summed(j).T).float()
    if i.half is not None and j.half is not None:
        scores = scores - (i.half[:, None] + j.half)
    if own:
        scores.fill_diagonal_(-torch.inf)
    found = scores.topk(kept, dim=1)
    bits = found.values.numpy().view(np.uint32)
    ordered = np.where(bits & 0x80000000, ~bits, bits | 0x80000000).astype(np.uint64) << np.uint64(32)
    keys = ordered | (np.uint64(0xFFFFFFFF) - found.indices.numpy().astype(np.uint64))
    lists.keys[:, :kept] = torch.from_numpy(keys.view(np.int64))
    lists.counts[:] = kept
    lists.floors[:] = lists.keys[:, kept - 1]


def search_all_pairs(x: hopper.Split, precision: str, kept: int, lists: hopper.Lists) -> None:
    calls.append("all pairs")
    best(x, x, kept, lists, own=True)


def search_rows(i: hopper.Split, j: hopper.Split, precision: str, kept: int, lists: hopper.Lists, **_: Any) -> None:
    calls.append("rows")
    best(i, j, kept, lists, own=False)


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> Any:
    install(monkeypatch)
    monkeypatch.setenv("REPSIM_HOPPER", "1")
    monkeypatch.setattr(hopper, "available", lambda device: True)
    monkeypatch.setattr(hopper, "lists_fit", lambda n, kept, device: True)
    for stand_in in (split, kernel_sums, search_all_pairs, search_rows):
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
