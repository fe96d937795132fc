"""linear_cka: the debiased linear CKA of two representations that lie in files, from one pass over them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from . import page_cache
from .contest import REPSIM, Case, Contender, Op
from .inputs import related_files

CHUNK = 8192  # rows in memory at a time


def _inputs(case: Case, folder: Path) -> dict[str, np.ndarray]:
    x, y = related_files(case.n, case.d, folder)
    return {"x": x, "y": y}


def with_repsim(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    import repsim

    return np.array(repsim.cka(x, y).value)


def with_numpy(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Everything in float64."""

    def lifted(rows: np.ndarray, origin: np.ndarray) -> np.ndarray:
        wide = np.empty((rows.shape[0], rows.shape[1] + 2))
        np.subtract(rows, origin, out=wide[:, :-2])
        wide[:, -2] = np.einsum("ij,ij->i", wide[:, :-2], wide[:, :-2])
        wide[:, -1] = 1
        return wide

    return _in_one_pass(x, y, lifted)


def with_torch(x: np.ndarray, y: np.ndarray, dtype: str) -> np.ndarray:
    """Products of a chunk in the given precision, their sums in float64."""
    import torch

    def lifted(rows: np.ndarray, origin: np.ndarray) -> torch.Tensor:
        wide = torch.empty((rows.shape[0], rows.shape[1] + 2), dtype=getattr(torch, dtype))
        wide[:, :-2] = torch.from_numpy(np.array(rows))
        wide[:, :-2] -= torch.from_numpy(origin).to(wide.dtype)
        torch.linalg.vecdot(wide[:, :-2], wide[:, :-2], out=wide[:, -2])
        wide[:, -1] = 1
        return wide

    return _in_one_pass(x, y, lifted)


def _in_one_pass(x: np.ndarray, y: np.ndarray, lifted: Callable[[np.ndarray, np.ndarray], Any]) -> np.ndarray:
    """With rows z = (x - origin, |x - origin|^2, 1), the three products Z'Z hold every sum that Song et al. need.

    The debiased form does not depend on the origin; the mean of the first chunk keeps the sums small.
    """
    sides = (x, y)
    origins = [side[:CHUNK].mean(axis=0, dtype=np.float64) for side in sides]
    products = {(p, q): np.zeros((sides[p].shape[1] + 2, sides[q].shape[1] + 2)) for p, q in ((0, 0), (0, 1), (1, 1))}
    for start in range(0, len(x), CHUNK):
        z = [lifted(side[start : start + CHUNK], origin) for side, origin in zip(sides, origins, strict=True)]
        for (p, q), product in products.items():
            product += np.asarray(z[p].T @ z[q])
    hsic = {pair: debiased(product) for pair, product in products.items()}
    return np.array(hsic[0, 1] / math.sqrt(hsic[0, 0] * hsic[1, 1]))


def debiased(product: np.ndarray) -> float:
    """Song et al. (2012) from Z'W, where K = XX' and L = YY' without their diagonals a and b."""
    cross, (with_b, sum_x), (a_with, sum_y) = product[:-2, :-2], product[:-2, -2:].T, product[-2:, :-2]
    n, ab, sum_a, sum_b = product[-1, -1], product[-2, -2], product[-2, -1], product[-1, -2]
    traced = float(np.vdot(cross, cross)) - ab
    total = (sum_x @ sum_x - sum_a) * (sum_y @ sum_y - sum_b)
    rows = sum_x @ cross @ sum_y - sum_x @ with_b - a_with @ sum_y + ab
    return float(traced + total / ((n - 1) * (n - 2)) - 2 / (n - 2) * rows)


def read_once(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    page_cache.read([Path(str(side.filename)) for side in (x, y) if isinstance(side, np.memmap)])
    return np.empty(0)


def _difference(ours: np.ndarray, theirs: np.ndarray) -> str:
    return f"{abs(float(ours) - float(theirs)):.1e}"


def _bytes(case: Case) -> int:
    return 2 * 4 * case.n * case.d


def _three(_: Case) -> int:
    return 3


LINEAR_CKA = Op(
    name="linear_cka",
    summary="debiased linear CKA of two float32 .npy files [n, d], memory-mapped",
    cases=(Case(1_000_000, 512),),
    flop=lambda case: 6.0 * case.n * case.d**2,
    flop_formula="3 products, 6 n d^2",
    inputs=_inputs,
    contenders=(
        Contender("repsim.cka", REPSIM, with_repsim),
        Contender("numpy, float64 chunks", "numpy", with_numpy, most_repeats=_three),
        Contender(
            "torch, float64 chunks", "torch", functools.partial(with_torch, dtype="float64"), most_repeats=_three
        ),
        Contender(
            "torch, float32 chunks", "torch", functools.partial(with_torch, dtype="float32"), most_repeats=_three
        ),
    ),
    agreement=_difference,
    agreement_name="difference of CKA",
    gemm="float64",
    disk=_bytes,
    reader=Contender("reading both files, nothing else", None, read_once),
)
