"""The machine's own rates: products of 4096 x 512 by 512 x 4096, the shape of a large tile of scores."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np

from .contest import Case, Contender, Op

ROWS, DEPTH = 4096, 512


def _inputs(case: Case, _: Path) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal((case.n, case.d), np.float32) for name in ("a", "b")}


def _wide_inputs(case: Case, folder: Path) -> dict[str, np.ndarray]:
    return {name: rows.astype(np.float64) for name, rows in _inputs(case, folder).items()}


@functools.cache  # a fresh result would add the cost of its page faults
def _result(rows: int, columns: int, dtype: np.dtype) -> np.ndarray:
    return np.empty((rows, columns), dtype)


def with_numpy(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.matmul(a, b.T, out=_result(len(a), len(b), a.dtype))


def with_torch(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    import torch

    out = _result(len(a), len(b), a.dtype)
    torch.mm(torch.from_numpy(a), torch.from_numpy(b).T, out=torch.from_numpy(out))
    return out


def _difference(ours: np.ndarray, theirs: np.ndarray) -> str:
    return f"{np.abs(ours - theirs).max():.1e}"


_SINGLE = Op(
    name="gemm",
    summary=f"float32 matrix product, {ROWS} x {DEPTH} by {DEPTH} x {ROWS}",
    cases=(Case(ROWS, DEPTH),),
    flop=lambda case: 2.0 * case.n * case.n * case.d,
    flop_formula="2 n^2 d",
    inputs=_inputs,
    contenders=(Contender("numpy", "numpy", with_numpy), Contender("torch", "torch", with_torch)),
    agreement=_difference,
    agreement_name="largest difference",
    compares=False,
)
GEMM: dict[str, Op] = {
    "float32": _SINGLE,
    "float64": replace(
        _SINGLE,
        name="gemm_float64",
        summary=_SINGLE.summary.replace("float32", "float64"),
        inputs=_wide_inputs,
        gemm="float64",
    ),
}
