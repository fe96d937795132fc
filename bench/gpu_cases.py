"""What the bench of the GPU checks and times; every function that a case names runs on one GPU and returns JSON.

``python -m bench.gpu_cases`` serves the cases that come on stdin; with ``cpu`` behind it, on the CPU, as the tests do.
"""

from __future__ import annotations

import functools
import importlib
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from . import isolated, kernel_sums, linear_cka, timer

DEVICE = "cuda"
MOST_CALLS, ENOUGH = 5, 3.0  # calls, and seconds of them, after which no more are timed
REHEARSAL_ROWS = 4096  # enough to load a library and compile what it compiles
GEMM_SIZE = 8192
TORCH_ROWS = 2048  # rows whose products with all others are in memory at once
LIFTED_ROWS = 8192  # rows in float64 at once
SAMPLED_ROWS = 256  # whose neighbours are also found in float64
CKA_TOLERANCE = {"highest": 2e-6, "high": 2e-4, "medium": 2e-3}

Answer = Callable[..., Any]


class NotHereError(Exception):
    """A library is not installed, or has nothing for this GPU; the message is one line."""


# ---------------------------------------------------------------------------------------------------------------- rows


def related_rows(n: int, d: int, seed: int = 0) -> tuple[Any, Any]:
    """Two [n, d] float32 on the GPU, half of whose variance comes from the same d // 16 directions."""
    import torch

    made = torch.Generator(DEVICE).manual_seed(seed)
    draw = functools.partial(torch.randn, generator=made, device=DEVICE)
    rank = max(1, d // 16)
    shared = draw((n, rank))
    x, y = (draw((n, d)).addmm_(shared, draw((rank, d)) / rank**0.5) for _ in range(2))
    return x, y


def unit_rows(n: int, d: int) -> Any:
    """[n, d] float32: for them cosine, inner product and distance rank alike, and no library has to normalise."""
    x = related_rows(n, d)[0]
    return x.div_(x.norm(dim=1, keepdim=True))


# -------------------------------------------------------------------------------------------------------------- routes


@contextmanager
def route(name: str) -> Iterator[None]:
    """repsim's "fused" kernels or its "portable" ones.

    Raises
    ------
    RuntimeError: fused kernels were asked for and passed over, or used though not asked for: no time of theirs.
    """
    from repsim.reductions import hopper

    names = ("kernel_sums", "search_all_pairs", "search_rows")
    before = {one: getattr(hopper, one) for one in names}
    used = []

    def counted(one: str) -> Answer:
        @functools.wraps(before[one])
        def call(*arguments: Any, **options: Any) -> Any:
            used.append(one)
            return before[one](*arguments, **options)

        return call

    asked = os.environ.get("REPSIM_HOPPER")
    os.environ["REPSIM_HOPPER"] = "1" if name == "fused" else "0"
    for one in names:
        setattr(hopper, one, counted(one))
    try:
        yield
        if bool(used) != (name == "fused"):
            raise RuntimeError(f"expected the {name} kernels, got {'the fused ones' if used else 'the portable ones'}")
    finally:
        for one in names:
            setattr(hopper, one, before[one])
        os.environ.pop("REPSIM_HOPPER")
        if asked is not None:
            os.environ["REPSIM_HOPPER"] = asked


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


# --------------------------------------------------------------------------------------------------------------- times


def synchronize() -> None:
    import torch

    if DEVICE == "cuda":
        torch.cuda.synchronize()


def timed(job: Answer) -> tuple[dict[str, Any], Any]:
    """Median wall time of calls that end when the GPU has nothing left to do, the peak of torch's memory, an answer."""
    import torch

    answers: list[Any] = []

    def whole() -> None:
        answers[:] = [job()]
        synchronize()

    def ready() -> None:
        answers.clear()
        synchronize()

    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    times: list[float] = []
    while len(times) < MOST_CALLS and sum(times) < ENOUGH:
        times.append(timer.seconds(whole, ready))
    found: dict[str, Any] = {"seconds": statistics.median(times), "calls": len(times)}
    if DEVICE == "cuda":
        found["peak_bytes"] = torch.cuda.max_memory_allocated()
    return found, answers[0]


def gemm(precision: str) -> dict[str, Any]:
    """torch's product of two square matrices of random numbers."""
    import torch

    dtype = {"medium": torch.bfloat16, "float64": torch.float64}.get(precision, torch.float32)
    made = torch.Generator(DEVICE).manual_seed(0)
    a, b = (torch.randn((GEMM_SIZE,) * 2, generator=made, device=DEVICE).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    with products_in(precision):
        torch.mm(a, b, out=out)
        return timed(lambda: torch.mm(a, b, out=out))[0]


# ----------------------------------------------------------------------------------------------------------------- rbf


def rbf_with_repsim(x: Any, y: Any, sigma: float, precision: str) -> float:
    import repsim

    return repsim.cka(x, y, kernel=repsim.RBF(sigma=sigma), precision=precision).value


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


def rbf_cka(contender: str, precision: str, n: int, d: int) -> dict[str, Any]:
    """Debiased CKA under RBF kernels of one sigma, about the median distance."""
    x, y = related_rows(n, d)
    sigma = (2.0 * d * 2) ** 0.5  # of two rows: d features, each of variance 2, twice for the difference
    run: Answer = {"torch": rbf_with_torch, "cupy": rbf_with_cupy}.get(contender, rbf_with_repsim)
    few = min(REHEARSAL_ROWS, n)
    with route_of(contender):
        run(x[:few], y[:few], sigma, precision)
    with route_of(contender):
        found, value = timed(lambda: run(x, y, sigma, precision))
    return {**found, "value": value}


# ----------------------------------------------------------------------------------------------------------- neighbours


def nearest_with_repsim(x: Any, k: int, filter: str) -> Any:
    import repsim

    return repsim.nearest(x, k=k, metric="cosine", filter=filter).indices


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


def nearest(contender: str, filter: str, n: int, d: int, k: int) -> dict[str, Any]:
    """k best of all other rows; ``identical`` is the share of neighbours that float64 finds, too, of sampled rows."""
    x = unit_rows(n, d)
    run = NEAREST.get(contender, nearest_with_repsim)
    with route_of(contender):
        run(x[: min(REHEARSAL_ROWS, n)], k, filter)
    with route_of(contender):
        found, indices = timed(lambda: run(x, k, filter))
    return {**found, "identical": identical(indices, x, k)}


def identical(indices: Any, x: Any, k: int) -> float:
    """Share of the float64 neighbours of SAMPLED_ROWS evenly spaced rows that are in their lists."""
    import torch

    own = torch.linspace(0, len(x) - 1, min(SAMPLED_ROWS, len(x)), device=x.device).long()
    best = exact_neighbours(x, own, k)
    listed = torch.as_tensor(indices, device=x.device)[own]
    return float((best[:, :, None] == listed[:, None, :]).any(dim=2).double().mean())


def exact_neighbours(x: Any, own: Any, k: int) -> Any:
    """[m, k] by the cosine in float64, for rows ``own`` [m]."""
    import torch

    queries = torch.nn.functional.normalize(x[own].double(), dim=1)
    scores = torch.empty((len(own), len(x)), dtype=torch.float64, device=x.device)
    for start in range(0, len(x), LIFTED_ROWS):
        part = torch.nn.functional.normalize(x[start : start + LIFTED_ROWS].double(), dim=1)
        scores[:, start : start + LIFTED_ROWS] = queries @ part.T
    scores.scatter_(1, own[:, None], -torch.inf)
    return scores.topk(k, dim=1).indices


# -------------------------------------------------------------------------------------------------------------- linear


def linear_with_repsim(x: Any, y: Any) -> float:
    import repsim

    return repsim.cka(x, y).value


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


def linear(contender: str, n: int, d: int) -> dict[str, Any]:
    """Debiased linear CKA in float64."""
    x, y = related_rows(n, d)
    run = linear_with_torch if contender == "torch" else linear_with_repsim
    few = min(8 * d, n)  # as many as are summed by features, too
    run(x[:few], y[:few])
    found, value = timed(lambda: run(x, y))
    return {**found, "value": value}


# -------------------------------------------------------------------------------------------------------------- checks


def cka_is_right(contender: str, kernel: str, precision: str, n: int, d: int) -> dict[str, Any]:
    """Against float64, again for the same bits, and in blocks of another size."""
    import repsim

    x, y = related_rows(n, d, seed=n)
    sigma = (4.0 * d) ** 0.5
    options: dict[str, Any] = {} if kernel == "linear" else {"kernel": repsim.RBF(sigma=sigma), "precision": precision}
    exact = (
        linear_with_torch(x, y) if kernel == "linear" else rbf_with_torch(x, y, sigma, "highest", "float64")
    )  # fmt: skip
    with route_of(contender):
        cuts = (None, None, max(n // 3, 192))
        values = [repsim.cka(x, y, block_rows=rows, **options).value for rows in cuts]
    off = abs(values[0] - exact)
    same = len(set(values)) == 1
    return {"right": same and off <= (1e-9 if kernel == "linear" else CKA_TOLERANCE[precision]), "off": off,
            "same_bits": same}  # fmt: skip


def nearest_is_right(contender: str, metric: str, filter: str, n: int, d: int, k: int) -> dict[str, Any]:
    """Every list against float64, up to what rounding in float64 leaves open, and again for the same bits."""
    import torch

    import repsim

    x = related_rows(n, d, seed=n)[0]
    with route_of(contender):
        graphs = [repsim.nearest(x, k=k, metric=metric, filter=filter) for _ in range(2)]
    indices, again = (torch.as_tensor(graph.indices, device=x.device) for graph in graphs)
    wide = x.double()
    if metric == "cosine":
        wide = torch.nn.functional.normalize(wide, dim=1)
    half = wide.square().sum(1) / 2 if metric == "euclidean" else torch.zeros(n, dtype=wide.dtype, device=x.device)
    worst = 0.0
    for start in range(0, n, TORCH_ROWS):
        scores = wide[start : start + TORCH_ROWS] @ wide.T - half
        scores.diagonal(start).fill_(-torch.inf)
        listed = scores.gather(1, indices[start : start + TORCH_ROWS]).sort(dim=1, descending=True).values
        worst = max(worst, float((scores.topk(k, dim=1).values - listed).abs().max()))
    once = int((indices.sort(dim=1).values.diff(dim=1) == 0).sum()) == 0
    same = bool((indices == again).all())
    tolerance = 1e-12 * max(1.0, float(wide.square().sum(1).max()))
    return {"right": once and same and worst <= tolerance, "worst": worst, "same_bits": same}


# ------------------------------------------------------------------------------------------------------------- serving


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
def route_of(contender: str) -> Iterator[None]:
    """Of ``repsim, fused`` or ``repsim, portable``; nothing for the others."""
    name, _, kernels = contender.partition(", ")
    if name != "repsim":
        yield
        return
    with route(kernels):
        yield


CASES: dict[str, Answer] = {
    one.__name__: one for one in (gemm, rbf_cka, nearest, linear, cka_is_right, nearest_is_right)
}


def answer(request: dict[str, Any]) -> isolated.Result:
    """One case, and nothing of it left on the GPU."""
    import torch

    try:
        result: isolated.Result = CASES[request["case"]](**request["options"])
    except NotHereError as why:
        result = {"not_run": str(why)}
    if DEVICE == "cuda":
        torch.cuda.empty_cache()
        if "cupy" in sys.modules:
            sys.modules["cupy"].get_default_memory_pool().free_all_blocks()
    return result


def prepare() -> None:
    """Import what every case needs, and wake the GPU."""
    import torch

    importlib.import_module("repsim")
    torch.ones(1, device=DEVICE).sum().item()


if __name__ == "__main__":
    DEVICE = "cpu" if sys.argv[1:] == ["cpu"] else DEVICE
    sys.exit(isolated.serve(answer, prepare))
