"""kernel_sums: the debiased CKA of two representations under RBF kernels, from sums over all pairs of inputs."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import numpy as np

from .contest import REPSIM, Case, Contender, Op
from .inputs import related_rows

TORCH_TILE = 1024  # rows and columns of a tile of kernel values
CKATORCH_BYTES = 45  # measured, for every pair of inputs
SAMPLE = 512  # rows whose median distance is the bandwidth


def _inputs(case: Case, _: Path) -> dict[str, np.ndarray]:
    from scipy.spatial.distance import pdist

    x, y = related_rows(case.n, case.d)
    return {"x": x, "y": y, "sigma": np.array(np.median(pdist(x[:SAMPLE])))}


def with_repsim(x: np.ndarray, y: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    import repsim

    return np.array(repsim.cka(x, y, kernel=repsim.RBF(sigma=float(sigma))).value)


def with_repsim_median(x: np.ndarray, y: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Finds its sigmas: the median distance of each side."""
    import repsim

    return np.array(repsim.cka(x, y, kernel="rbf").value)


def with_ckatorch(x: np.ndarray, y: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Float64; finds its sigmas, which cannot be given: medians over all n^2 pairs."""
    import torch
    from ckatorch import cka_base

    value = cka_base(torch.from_numpy(x), torch.from_numpy(y), kernel="rbf", unbiased=True)
    return np.array(float(value))


def with_torch(x: np.ndarray, y: np.ndarray, sigma: np.ndarray, upper: bool) -> np.ndarray:
    """Float32 tiles and sums within a row of a tile, float64 beyond; ``upper`` visits every pair of tiles once."""
    import torch

    sides = [torch.from_numpy(rows) / float(sigma) for rows in (x, y)]
    halves = [rows.square().sum(1) / 2 for rows in sides]
    row_sums = torch.zeros((2, len(x)), dtype=torch.float64)
    products = torch.zeros((2, 2), dtype=torch.float64)
    spans = [slice(start, min(start + TORCH_TILE, len(x))) for start in range(0, len(x), TORCH_TILE)]
    for i, here in enumerate(spans):
        for j, there in enumerate(spans[i:] if upper else spans, i if upper else 0):
            twice = upper and j > i
            tiles = []
            for side, (rows, half) in enumerate(zip(sides, halves, strict=True)):
                tile = (rows[here] @ rows[there].T).sub_(half[here, None]).sub_(half[there]).exp_()
                if i == j:
                    tile.fill_diagonal_(0)
                row_sums[side, here] += tile.sum(1)
                if twice:
                    row_sums[side, there] += tile.sum(0)
                tiles.append(tile)
            for p, q in ((0, 0), (0, 1), (1, 1)):
                products[p, q] += (1 + twice) * torch.linalg.vecdot(tiles[p], tiles[q]).sum(dtype=torch.float64)
    return debiased_cka(row_sums.numpy(), products.numpy())


def with_numpy(x: np.ndarray, y: np.ndarray, sigma: np.ndarray) -> np.ndarray:
    """Both kernel matrices in memory."""
    kernels = []
    for rows in (x, y):
        rows = rows / np.float32(sigma)
        half = np.square(rows).sum(axis=1) / 2
        kernel = rows @ rows.T
        kernel -= half[:, None]
        kernel -= half
        np.exp(kernel, out=kernel)
        np.fill_diagonal(kernel, 0)
        kernels.append(kernel)
    row_sums = np.array([kernel.sum(axis=1) for kernel in kernels], np.float64)
    products = [[np.einsum("ij,ij->i", a, b).sum(dtype=np.float64) for b in kernels] for a in kernels]
    return debiased_cka(row_sums, np.array(products))


def debiased_cka(rows: np.ndarray, products: np.ndarray) -> np.ndarray:
    """Song et al. (2012) from row sums [2, n] and inner products [2, 2] (upper half) without the diagonals."""
    n, total = rows.shape[1], rows.sum(axis=1)
    hsic = products + np.outer(total, total) / ((n - 1) * (n - 2)) - 2 / (n - 2) * (rows @ rows.T)
    return np.array(hsic[0, 1] / math.sqrt(hsic[0, 0] * hsic[1, 1]))


def _difference(ours: np.ndarray, theirs: np.ndarray) -> str:
    return f"{abs(float(ours) - float(theirs)):.1e}"


KERNEL_SUMS = Op(
    name="kernel_sums",
    summary="debiased CKA with RBF kernels, both matrices [n, d], of one given sigma or of the median distance",
    cases=(Case(5000, 512), Case(10000, 512), Case(20000, 512)),
    flop=lambda case: 2.0 * case.n**2 * case.d,
    flop_formula="2 n^2 d",
    inputs=_inputs,
    contenders=(
        Contender("repsim.cka, sigma given", REPSIM, with_repsim),
        Contender("repsim.cka, median sigma", REPSIM, with_repsim_median),
        Contender("torch, tiles of all pairs, sigma given", "torch", functools.partial(with_torch, upper=False)),
        Contender("torch, tiles of the upper half, sigma given", "torch", functools.partial(with_torch, upper=True)),
        Contender(
            "numpy, n^2 memory, sigma given",
            "numpy",
            with_numpy,
            memory=lambda case: 8 * case.n**2 + 12 * case.n * case.d,
        ),
        Contender(
            "ckatorch cka_base, median sigma",
            "ckatorch",
            with_ckatorch,
            memory=lambda case: CKATORCH_BYTES * case.n**2,
            most_repeats=lambda case: 3 if case.n <= 5000 else 1,
        ),
    ),
    agreement=_difference,
    agreement_name="difference of CKA",
)
