"""What the bench of the GPU checks and times; every function that a case names runs on one GPU and returns JSON.

``python -m bench.gpu_cases`` serves the cases that come on stdin; with ``cpu`` behind it, on the CPU, as the tests do.
"""

from __future__ import annotations

import functools
import importlib
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from . import gpu_peers, isolated, page_cache, timer
from .gpu_peers import Answer

DEVICE = "cuda"
MOST_CALLS, ENOUGH = 5, 3.0  # calls, and seconds of them, after which no more are timed
REHEARSAL_ROWS = 4096  # enough to load a library and compile what it compiles
GEMM_SIZE = 8192
WRITTEN_ROWS = 2**18  # of a file, made on the GPU at a time
SAMPLED_ROWS = 256  # whose neighbours are also found in float64
CKA_TOLERANCE = {"highest": 1e-6, "high": 2e-5, "medium": 2e-4}  # ten times what the emulated kernels are off, or more


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
    with gpu_peers.products_in(precision):
        torch.mm(a, b, out=out)
        return timed(lambda: torch.mm(a, b, out=out))[0]


# ----------------------------------------------------------------------------------------------------------------- rbf


def rbf_with_repsim(x: Any, y: Any, sigma: float, precision: str) -> float:
    import repsim

    return repsim.cka(x, y, kernel=repsim.RBF(sigma=sigma), precision=precision).value


def rbf_cka(contender: str, precision: str, n: int, d: int) -> dict[str, Any]:
    """Debiased CKA under RBF kernels of one sigma, about the median distance."""
    x, y = related_rows(n, d)
    sigma = (2.0 * d * 2) ** 0.5  # of two rows: d features, each of variance 2, twice for the difference
    run: Answer = {"torch": gpu_peers.rbf_with_torch, "cupy": gpu_peers.rbf_with_cupy}.get(contender, rbf_with_repsim)
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


def nearest(contender: str, filter: str, n: int, d: int, k: int) -> dict[str, Any]:
    """k best of all other rows; ``identical`` is the share of neighbours that float64 finds, too, of sampled rows."""
    x = unit_rows(n, d)
    run = gpu_peers.NEAREST.get(contender, nearest_with_repsim)
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
    for start in range(0, len(x), gpu_peers.LIFTED_ROWS):
        part = torch.nn.functional.normalize(x[start : start + gpu_peers.LIFTED_ROWS].double(), dim=1)
        scores[:, start : start + gpu_peers.LIFTED_ROWS] = queries @ part.T
    scores.scatter_(1, own[:, None], -torch.inf)
    return scores.topk(k, dim=1).indices


# -------------------------------------------------------------------------------------------------------------- linear


def linear_with_repsim(x: Any, y: Any) -> float:
    import repsim

    return repsim.cka(x, y).value


def linear(contender: str, n: int, d: int) -> dict[str, Any]:
    """Debiased linear CKA in float64."""
    x, y = related_rows(n, d)
    run = gpu_peers.linear_with_torch if contender == "torch" else linear_with_repsim
    few = min(8 * d, n)  # as many as are summed by features, too
    run(x[:few], y[:few])
    found, value = timed(lambda: run(x, y))
    return {**found, "value": value}


@contextmanager
def on_disk(n: int, d: int) -> Iterator[list[Path]]:
    """Files of two related matrices [n, d] float32, made in parts, each of directions of its own."""
    with tempfile.TemporaryDirectory(prefix="repsim-bench-") as folder:
        files = [Path(folder) / f"{name}.npy" for name in "xy"]
        maps = [np.lib.format.open_memmap(file, "w+", np.float32, (n, d)) for file in files]
        for start in range(0, n, WRITTEN_ROWS):
            parts = related_rows(min(WRITTEN_ROWS, n - start), d, seed=start)
            for file, part in zip(maps, parts, strict=True):
                file[start : start + len(part)] = part.cpu().numpy()
        for file in maps:
            file.flush()
        del maps
        yield files


def linear_from_disk(contender: str, n: int, d: int) -> dict[str, Any]:
    """The same of two memory maps: ``cold_seconds`` of files that memory does not hold, then as often as time allows.

    Raises
    ------
    RuntimeError: the value of the first rows is not, bit for bit, that of the same rows on the GPU.
    """
    import torch

    import repsim

    with on_disk(n, d) as files:
        x, y = (np.load(file, mmap_mode="r") for file in files)
        few = min(8 * d + n // 10, n)
        there = repsim.cka(*(torch.from_numpy(np.array(one[:few])).to(DEVICE) for one in (x, y))).value
        brought = repsim.cka(x[:few], y[:few], device=DEVICE).value
        if brought != there:
            raise RuntimeError(f"expected {there!r} as of rows on the GPU, got {brought!r}")
        page_cache.drop(files)
        held = page_cache.cached_share(files)
        cold = timer.seconds(lambda: repsim.cka(x, y, device=DEVICE), synchronize)
        found, value = timed(lambda: repsim.cka(x, y, device=DEVICE).value)
        gigabytes = 2 * 2 * x.nbytes / 1e9  # every file is read twice
    return {**found, "value": value, "cold_seconds": cold, "cached_before": held,
            "gigabytes_per_second": gigabytes / found["seconds"]}  # fmt: skip


# -------------------------------------------------------------------------------------------------------------- checks


def cka_is_right(contender: str, kernel: str, precision: str, n: int, d: int) -> dict[str, Any]:
    """Against float64, again for the same bits, and in blocks of another size."""
    import repsim

    x, y = related_rows(n, d, seed=n)
    sigma = (4.0 * d) ** 0.5
    options: dict[str, Any] = {} if kernel == "linear" else {"kernel": repsim.RBF(sigma=sigma), "precision": precision}
    if kernel == "linear":
        exact = gpu_peers.linear_with_torch(x, y)
    else:
        exact = gpu_peers.rbf_with_torch(x, y, sigma, "highest", "float64")
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
    for start in range(0, n, gpu_peers.TORCH_ROWS):
        scores = wide[start : start + gpu_peers.TORCH_ROWS] @ wide.T - half
        scores.diagonal(start).fill_(-torch.inf)
        listed = scores.gather(1, indices[start : start + gpu_peers.TORCH_ROWS]).sort(dim=1, descending=True).values
        worst = max(worst, float((scores.topk(k, dim=1).values - listed).abs().max()))
    once = int((indices.sort(dim=1).values.diff(dim=1) == 0).sum()) == 0
    same = bool((indices == again).all())
    tolerance = 1e-12 * max(1.0, float(wide.square().sum(1).max()))
    return {"right": once and same and worst <= tolerance, "worst": worst, "same_bits": same}


def from_the_host_is_right(contender: str, n: int, d: int) -> dict[str, Any]:
    """Rows that are brought to the GPU in blocks of several sizes, against the bits of those that lie there."""
    import repsim

    there = related_rows(n, d, seed=n)
    host = [one.cpu().numpy() for one in there]
    kernels: list[dict[str, Any]] = [{}, {"kernel": repsim.RBF(sigma=(4.0 * d) ** 0.5)}]
    wrong = []
    with route_of(contender):
        for options in kernels:
            exact = repsim.cka(*there, **options).value
            for rows in (None, max(n // 5, 192)):
                if repsim.cka(*host, device=DEVICE, block_rows=rows, **options).value != exact:
                    wrong.append(f"cka {options} {rows}")
        for metric in ("cosine", "euclidean"):
            lists = repsim.nearest(there[0], k=10, metric=metric).cpu()
            for rows in (None, max(n // 5, 192)):
                graph = repsim.nearest(host[0], k=10, metric=metric, device=DEVICE, block_rows=rows)
                same = (np.array_equal(getattr(graph, one), getattr(lists, one)) for one in ("indices", "scores"))
                if not all(same):
                    wrong.append(f"nearest {metric} {rows}")
    return {"right": not wrong, "wrong": wrong}


def measure_is_right(contender: str, measure: str, n: int, d: int) -> dict[str, Any]:
    """A measure against the CPU's, again for the same bits, and of rows that are brought there."""
    import repsim

    there = related_rows(n, d, seed=n)
    host = [one.cpu().numpy() for one in there]
    call = getattr(repsim, measure)
    with route_of(contender):
        exact = call(*host).value
        values = [call(*there).value, call(*there).value, call(*host, device=DEVICE).value]
    off, same = abs(values[0] - exact), len(set(values)) == 1
    return {"right": same and off <= 1e-8 * max(1.0, abs(exact)), "off": off, "same_bits": same}


# ------------------------------------------------------------------------------------------------------------- serving


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
    one.__name__: one
    for one in (
        gemm, rbf_cka, nearest, linear, linear_from_disk, cka_is_right, nearest_is_right, from_the_host_is_right,
        measure_is_right,
    )
}  # fmt: skip


def answer(request: dict[str, Any]) -> isolated.Result:
    """One case, and nothing of it left on the GPU."""
    import torch

    try:
        result: isolated.Result = CASES[request["case"]](**request["options"])
    except gpu_peers.NotHereError as why:
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
