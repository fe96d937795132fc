"""The machine's own rate: float32 products of 4096 x 512 by 512 x 4096, the shape of a large tile of scores."""

from __future__ import annotations

import functools

import numpy as np

from .contest import Contender, Op

ROWS, DEPTH = 4096, 512


def _inputs(rows: int, depth: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal((rows, depth), np.float32) for name in ("a", "b")}


@functools.cache  # a fresh result would add the cost of its page faults
def _result(rows: int, columns: int) -> np.ndarray:
    return np.empty((rows, columns), np.float32)


def with_numpy(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.matmul(a, b.T, out=_result(len(a), len(b)))


def with_torch(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    import torch

    out = _result(len(a), len(b))
    torch.mm(torch.from_numpy(a), torch.from_numpy(b).T, out=torch.from_numpy(out))
    return out


def _difference(ours: np.ndarray, theirs: np.ndarray) -> str:
    return f"{np.abs(ours - theirs).max():.1e}"


GEMM = Op(
    name="gemm",
    summary=f"float32 matrix product, {ROWS} x {DEPTH} by {DEPTH} x {ROWS}",
    flop=lambda rows, depth: 2.0 * rows * rows * depth,
    flop_formula="2 rows^2 depth",
    inputs=_inputs,
    contenders=(Contender("numpy", "numpy", with_numpy), Contender("torch", "torch", with_torch)),
    agreement=_difference,
    agreement_name="largest difference",
    compares=False,
)
