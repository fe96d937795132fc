"""What repsim is compared with on a GPU, and what one would write with torch or CuPy alone.

Every function takes rows that lie on the GPU, or on the CPU where a test has them there.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from . import kernel_sums, linear_cka

TORCH_ROWS = 2048  # rows whose products with all others are in memory at once
LIFTED_ROWS = 8192  # rows in float64 at once

Answer = Callable[..., Any]


class NotHereError(Exception):
    """A library is not installed, or has nothing for this GPU; the message is one line."""


def peer(module: str) -> Any:
    """A library that need not be installed.

    Raises
    ------
    NotHereError: it cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise NotHereError(f"{module} cannot be imported: {error}".splitlines()[0]) from None


@contextmanager
def products_in(precision: str) -> Iterator[None]:
    """torch's float32 products rounded to tf32 where that is "high", and not otherwise."""
    import torch

    settings = torch.backends.cuda.matmul
    # The newer name, where there is one: torch refuses to read the older one once the newer one was set.
    newer = hasattr(settings, "fp32_precision")
    name, exact, rounded = ("fp32_precision", "ieee", "tf32") if newer else ("allow_tf32", False, True)
    before = getattr(settings, name)
    setattr(settings, name, rounded if precision == "high" else exact)
    try:
        yield
    finally:
        setattr(settings, name, before)


# ------------------------------------------------------------------------------------------------------------------ rbf


def rbf_with_torch(x: Any, y: Any, sigma: float, precision: str, dtype: str = "float32") -> float:
    """Products of chunks of rows with all rows, exp and sums: a line each; sums in ``dtype`` within a chunk."""
    import torch

    wide = getattr(torch, dtype)
    sides = [rows.to(wide) / sigma for rows in (x, y)]
    halves = [rows.square().sum(1) / 2 for rows in sides]
    if precision == "medium":
        sides = [rows.bfloat16() for rows in sides]
    n = len(x)
    row_sums = torch.empty((2, n), dtype=torch.float64, device=x.device)
    products = torch.zeros((2, 2), dtype=torch.float64, device=x.device)
    with products_in(precision):
        for start in range(0, n, TORCH_ROWS):
            part = slice(start, start + TORCH_ROWS)
            k = []
            for side, (rows, half) in enumerate(zip(sides, halves, strict=True)):
                tile = (rows[part] @ rows.T).to(wide).sub_(half[part, None]).sub_(half).exp_()
                tile.diagonal(start).zero_()
                row_sums[side, part] = tile.sum(1, dtype=torch.float64)
                k.append(tile)
            for p, q in ((0, 0), (0, 1), (1, 1)):
                products[p, q] += torch.linalg.vecdot(k[p], k[q]).sum(dtype=torch.float64)
    return float(kernel_sums.debiased_cka(row_sums.cpu().numpy(), products.cpu().numpy()))


def rbf_with_cupy(x: Any, y: Any, sigma: float, precision: str) -> float:
    """The same as with torch."""
    cupy = peer("cupy")
    sides = [cupy.from_dlpack(rows) / np.float32(sigma) for rows in (x, y)]
    halves = [cupy.square(rows).sum(axis=1) / 2 for rows in sides]
    row_sums, products = np.empty((2, len(x))), np.zeros((2, 2))
    for start in range(0, len(x), TORCH_ROWS):
        k = []
        for side, (rows, half) in enumerate(zip(sides, halves, strict=True)):
            tile = rows[start : start + TORCH_ROWS] @ rows.T
            tile -= half[start : start + TORCH_ROWS, None]
            tile -= half
            cupy.exp(tile, out=tile)
            own = cupy.arange(len(tile))
            tile[own, start + own] = 0
            row_sums[side, start : start + TORCH_ROWS] = cupy.asnumpy(tile.sum(axis=1, dtype=np.float64))
            k.append(tile)
        for p, q in ((0, 0), (0, 1), (1, 1)):
            products[p, q] += float(cupy.vdot(k[p], k[q]))
    return float(kernel_sums.debiased_cka(row_sums, products))


# ----------------------------------------------------------------------------------------------------------- neighbours


def nearest_with_torch(x: Any, k: int, filter: str) -> Any:
    """Products of chunks of rows with all rows, and topk."""
    import torch

    rows = x.bfloat16() if filter == "bfloat16" else x
    indices = torch.empty((len(x), k), dtype=torch.int64, device=x.device)
    with products_in("highest"):
        for start in range(0, len(x), TORCH_ROWS):
            scores = rows[start : start + TORCH_ROWS] @ rows.T
            scores.diagonal(start).fill_(-torch.inf)
            indices[start : start + TORCH_ROWS] = scores.topk(k).indices
    return indices


def nearest_with_cupy(x: Any, k: int, filter: str) -> Any:
    """The same in float32; CuPy's argpartition sorts whole rows."""
    import torch

    cupy = peer("cupy")
    rows = cupy.from_dlpack(x)
    indices = cupy.empty((len(x), k), dtype=np.int64)
    for start in range(0, len(x), TORCH_ROWS):
        scores = rows[start : start + TORCH_ROWS] @ rows.T
        own = cupy.arange(len(scores))
        scores[own, start + own] = -np.inf
        indices[start : start + TORCH_ROWS] = cupy.argpartition(scores, -k, axis=1)[:, -k:]
    return torch.from_dlpack(indices)


def nearest_with_faiss(x: Any, k: int, filter: str) -> Any:
    """Exact search without an index, in float32."""
    import torch

    faiss = peer("faiss")
    if not hasattr(faiss, "StandardGpuResources"):
        raise NotHereError("this faiss has no GPU")
    importlib.import_module("faiss.contrib.torch_utils")
    resources = faiss.StandardGpuResources()
    resources.setDefaultNullStreamAllDevices()
    found = torch.as_tensor(faiss.knn_gpu(resources, x, x, k + 1, metric=faiss.METRIC_INNER_PRODUCT)[1])
    return without_itself(found.to(x.device), k)


def nearest_with_cuvs(x: Any, k: int, filter: str) -> Any:
    """Brute force, in float32."""
    import torch

    brute_force = peer("cuvs.neighbors.brute_force")
    found = brute_force.search(brute_force.build(x, metric="inner_product"), x, k + 1)[1]
    return without_itself(torch.as_tensor(found, device=x.device).long(), k)


def nearest_with_flashlib(x: Any, k: int, filter: str) -> Any:
    """Its exact search, by squared distances, of rows in the words of the filter."""
    rows = x.bfloat16() if filter == "bfloat16" else x
    return without_itself(peer("flashlib").flash_knn(rows, rows, k + 1, return_distances=False).long(), k)


def without_itself(found: Any, k: int) -> Any:
    """Of [n, k + 1] lists: row r without r, or without its last where duplicates pushed r off."""
    import torch

    other = found != torch.arange(len(found), device=found.device)[:, None]
    other[other.all(dim=1), k] = False
    return found[other].reshape(-1, k)


NEAREST: dict[str, Answer] = {
    "torch": nearest_with_torch,
    "cupy": nearest_with_cupy,
    "faiss": nearest_with_faiss,
    "cuvs": nearest_with_cuvs,
    "flashlib": nearest_with_flashlib,
}


# --------------------------------------------------------------------------------------------------------------- linear


def linear_with_torch(x: Any, y: Any) -> float:
    """One pass over chunks of rows, everything in float64."""
    import torch

    sides = (x, y)
    origins = [side[:LIFTED_ROWS].mean(0, dtype=torch.float64) for side in sides]
    pairs = ((0, 0), (0, 1), (1, 1))
    products = {
        (p, q): torch.zeros((sides[p].shape[1] + 2, sides[q].shape[1] + 2), dtype=torch.float64, device=x.device)
        for p, q in pairs
    }
    for start in range(0, len(x), LIFTED_ROWS):
        lifted = []
        for side, origin in zip(sides, origins, strict=True):
            z = side[start : start + LIFTED_ROWS].double() - origin
            squares = z.square().sum(1, keepdim=True)
            lifted.append(torch.cat([z, squares, torch.ones_like(squares)], dim=1))
        for p, q in pairs:
            products[p, q].addmm_(lifted[p].T, lifted[q])
    hsic = {pair: linear_cka.debiased(product.cpu().numpy()) for pair, product in products.items()}
    return float(hsic[0, 1] / (hsic[0, 0] * hsic[1, 1]) ** 0.5)
