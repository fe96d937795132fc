"""Stand-ins for the fused operations of repsim.reductions.hopper: the same contract in float64, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

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


STAND_INS = (split, kernel_sums, search_all_pairs, search_rows)
