"""Stand-ins for the fused operations of repsim.reductions.hopper: the same contract in float64, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import _disable_current_modes

from repsim.reductions import hopper

calls: list[str] = []
error = 0.0  # by which every tenth score of a search is too low, as a share of what sums on tensor cores may err
overflowing = 0
PRODUCTS = {
    "medium": [(0, 0)],
    "high": [(1, 0), (0, 1), (0, 0)],
    "highest": [(2, 0), (1, 1), (0, 2), (1, 0), (0, 1), (0, 0)],
}


def split(x: torch.Tensor, precision: str, *, residuals: bool = False) -> tuple[hopper.Split, torch.Tensor | None]:
    with _disable_current_modes():  # what it takes itself is counted nowhere, but for what it returns
        parts, rest = [], x.clone()
        for _ in range(hopper.PARTS[precision]):
            parts.append(rest.to(torch.bfloat16))
            rest = rest - parts[-1].float()
        half = (x.double() - rest.double()).square().sum(1) / 2
        lost = (rest.double().norm(dim=1) * (1 + 2.0**-23)).float() if residuals else None
        made = torch.stack(parts)
    return hopper.Split(made.clone(), half.float(), x.shape[1]), lost


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
        if one.kernel == "polynomial":
            base = t + one.i.half[:, None].double() + one.j.half.double()
            k = k + sum(c * base**m for m, c in enumerate(one.coefficients))
        counts = torch.ones_like(k).triu(1) if first_i == first_j else torch.ones_like(k)
        values.append((k - one.shift) * counts)
    for p, k in enumerate(values):
        row_sums[p, first_i : first_i + rows_i] += (k.sum(1) * 2.0**row_bits).round().long()
        row_sums[p, first_j : first_j + rows_j] += (k.sum(0) * 2.0**row_bits).round().long()
    for to, (p, q) in zip(products, ((0, 0), (0, 1), (1, 1)), strict=True):
        whole = round(float(2 * (values[p] * values[q]).sum()) * 2**45) + (int(to[0]) << 32) + int(to[1])
        to.copy_(torch.tensor([whole >> 32, whole & 0xFFFFFFFF]))


def products_of(i: hopper.Split, j: hopper.Split, precision: str) -> torch.Tensor:
    """Without those that are left out, and with errors."""
    exact = sum(i.parts[p].double() @ j.parts[q].double().T for p, q in PRODUCTS[precision])
    assert isinstance(exact, torch.Tensor)
    sizes = sum(i.parts[p].double().abs() @ j.parts[q].double().abs().T for p, q in PRODUCTS[precision])
    some = torch.rand(exact.shape, generator=torch.Generator().manual_seed(0)) < 0.1
    return (exact - error * some * 2.0**-22 * i.depth * sizes).float()


def best(
    i: hopper.Split, j: hopper.Split, precision: str, kept: int, lists: hopper.Lists, first_j: int, inputs: Any
) -> None:
    scores = products_of(i, j, precision)
    if i.half is not None and j.half is not None:
        scores = scores - (i.half[:, None] + j.half)
    columns = first_j + np.arange(scores.shape[1])
    bits = scores.numpy().view(np.uint32)
    ordered = np.where(bits & 0x80000000, ~bits, bits | 0x80000000).astype(np.uint64) << np.uint64(32)
    keys = ordered | (np.uint64(0xFFFFFFFF) - columns.astype(np.uint64))
    if inputs is not None:
        keys[columns == np.asarray(inputs)[:, None]] = 0
    held = np.where(np.arange(kept) < lists.counts.numpy()[:, None], lists.keys[:, :kept].numpy().view(np.uint64), 0)
    keys = np.sort(np.concatenate([held, keys], axis=1), axis=1)[:, ::-1][:, :kept]
    full = torch.as_tensor(keys[:, -1] != 0)
    lists.keys[:, :kept] = torch.from_numpy(np.ascontiguousarray(keys).view(np.int64))
    lists.counts[:] = torch.as_tensor((keys != 0).sum(axis=1), dtype=torch.int32)
    lists.floors[:] = torch.where(full, lists.keys[:, kept - 1], lists.floors)


def search_all_pairs(x: hopper.Split, precision: str, kept: int, lists: hopper.Lists) -> None:
    calls.append(f"all pairs {precision}")
    with _disable_current_modes():
        best(x, x, precision, kept, lists, 0, np.arange(x.parts.shape[1]))


def search_rows(
    i: hopper.Split, j: hopper.Split, precision: str, kept: int, lists: hopper.Lists, *, first_j: int = 0,
    inputs: Any = None, own: bool = False, certain: bool = False,
) -> None:  # fmt: skip
    """Of lists whose every ``overflowing``-th is too short, unless that is avoided."""
    calls.append(f"rows {precision}")
    assert own == (inputs is not None)
    with _disable_current_modes():
        best(i, j, precision, kept, lists, first_j, inputs)
    if overflowing and not certain:
        lists.counts[::overflowing] = 0
        lists.overflowed[::overflowing] = 1


STAND_INS = (split, kernel_sums, search_all_pairs, search_rows)
