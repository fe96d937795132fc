"""What the bench of the fused kernels checks and times; every function is a case, run on a Hopper GPU."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from . import CHECKOUT

PARTS = ("COLUMNS", "STAGES", "CLUSTER_ROWS", "CLUSTER_COLUMNS", "SUPERTILE")
# Shapes of tiles in these parts. The first is what is installed.
SUMS = [(192, 4, 2, 1, 160), (192, 4, 1, 1, 160), (192, 4, 1, 2, 160), (192, 4, 2, 2, 160), (192, 4, 2, 1, 640),
        (192, 5, 2, 1, 160), (128, 6, 2, 1, 160)]  # fmt: skip
SELECT = [(256, 4, 2, 1, 160), (256, 4, 1, 1, 160), (256, 4, 1, 2, 160), (256, 4, 2, 2, 160), (256, 4, 2, 1, 640),
          (256, 3, 2, 1, 160), (192, 4, 2, 1, 160)]  # fmt: skip
LIMIT = 25  # seconds of a case
DEVICE = "cuda"
TOLERANCE = {"medium": 2e-5, "high": 2e-4, "highest": 2e-5}  # of the largest row sum and of the products


def name_of(shape: tuple[int, ...]) -> str:
    columns, stages, cluster_rows, cluster_columns, supertile = shape
    return f"128x{columns} {stages} stages cluster {cluster_rows}x{cluster_columns} supertile {supertile}"


@dataclass(frozen=True)
class Case:
    """One check or one time; ``library`` is the number of the variant."""

    kind: str  # a function of this module
    library: int
    options: dict[str, Any]
    limit: int = LIMIT

    def label(self) -> str:
        return f"{self.kind} {' '.join(f'{k}={v}' for k, v in self.options.items())}"

    @property
    def title(self) -> str:
        return f"{self.label()} | {self.shape}"

    @property
    def request(self) -> dict[str, Any]:
        return {"case": self.kind, "library": self.library, "options": self.options, "shape": self.shape}

    @property
    def group(self) -> str:
        """The kernel, and its variant."""
        return f"{'select' if self._selects else 'sums'}:{self.library}"

    @property
    def _selects(self) -> bool:
        return "search" in self.kind or "queries" in self.kind

    @property
    def shape(self) -> str:
        return name_of((SELECT if self._selects else SUMS)[self.library])


def cases(variants: int) -> Iterator[Case]:
    """A first look at both kernels with and without a cluster; then all checks, and last the times."""
    for number in range(min(variants, 2)):
        yield Case(
            "sums_are_right", number, {"n": 300, "d": 64, "other": 64, "kinds": "rbf rbf", "precision": "medium"}
        )
        yield Case("queries_are_right", number, {"n": 200, "m": 1000, "d": 64, "certain": True})
        yield Case("search_is_right", number, {"n": 700, "d": 64, "metric": "euclidean", "rows": "random"})
    for precision in ("medium", "high", "highest"):
        for n, d, other in [(2, 8, 8), (129, 64, 40), (1000, 96, 65), (5003, 130, 257)]:
            for kinds in ("rbf rbf", "linear linear", "rbf linear", "polynomial polynomial"):
                yield Case(
                    "sums_are_right", 0, {"n": n, "d": d, "other": other, "kinds": kinds, "precision": precision}
                )
    yield Case("sums_are_right", 0, {"n": 20000, "d": 512, "other": 384, "kinds": "rbf rbf", "precision": "medium"})
    yield Case("sums_are_right", 0, {"n": 9001, "d": 200, "other": 72, "kinds": "rbf rbf", "precision": "highest",
                                     "rows": "anisotropic"})  # fmt: skip
    yield Case("two_blocks_are_right", 0, {"n": 4000, "first": 1920})
    for rows in ("random", "anisotropic", "clusters"):
        for n, d in [(300, 64), (5003, 130), (40000, 256)]:
            for metric in ("euclidean", "inner_product"):
                yield Case("search_is_right", 0, {"n": n, "d": d, "metric": metric, "rows": rows})
    for precision in ("high", "highest"):
        options = {"n": 5003, "d": 130, "metric": "euclidean", "rows": "clusters", "precision": precision}
        yield Case("search_is_right", 0, options)
        yield Case("queries_are_right", 0, {"n": 3001, "m": 20011, "d": 96, "certain": False, "precision": precision})
    # Lists so short that some overflow, and are searched again.
    yield Case("search_is_right", 0, {"n": 2000, "d": 64, "metric": "euclidean", "rows": "clusters", "capacity": 64})
    yield Case("queries_are_right", 0, {"n": 3001, "m": 20011, "d": 96, "certain": False})
    yield Case("queries_are_right", 0, {"n": 257, "m": 20011, "d": 96, "certain": True})
    for precision in ("medium", "highest"):
        yield Case("as_the_portable_path", 0, {"n": 20000, "d": 256, "precision": precision})
    for number in range(1, variants):
        yield Case(
            "sums_are_right", number, {"n": 5003, "d": 130, "other": 257, "kinds": "rbf rbf", "precision": "medium"}
        )
        yield Case("search_is_right", number, {"n": 5003, "d": 130, "metric": "euclidean", "rows": "random"})
    for d in (1024, 128):
        for number in range(variants):
            yield Case("time_of_sums", number, {"n": 131072, "d": d, "precision": "medium"})
        for number in range(variants):
            yield Case("time_of_search", number, {"n": 131072, "d": d, "k": 10})
    yield Case("time_of_chunked_torch", 0, {"n": 131072, "d": 1024})
    for d in (64, 256, 512):
        yield Case("time_of_sums", 0, {"n": 131072, "d": d, "precision": "medium"})
    for precision in ("high", "highest"):
        yield Case("time_of_sums", 0, {"n": 131072, "d": 1024, "precision": precision})
    yield Case("time_of_sums", 0, {"n": 1000000, "d": 1024, "precision": "medium"}, 120)
    yield Case("time_of_search", 0, {"n": 1000000, "d": 1024, "k": 10}, 120)
    yield Case("time_of_search", 0, {"n": 1000000, "d": 128, "k": 15}, 120)
    yield Case("time_of_sums", 0, {"n": 1000000, "d": 1024, "precision": "high"}, 120)


def rows_of(n: int, d: int, kind: str, seed: int) -> Any:
    """[n, d] float32 on the GPU."""
    import torch

    made = torch.Generator(DEVICE).manual_seed(seed)
    x = torch.randn((n, d), generator=made, device=DEVICE)
    if kind == "anisotropic":  # variances over three decades, far from the origin
        x = x * torch.logspace(0, -1.5, d, device=DEVICE) + torch.randn(d, generator=made, device=DEVICE)
    elif kind == "clusters":  # sorted, and many rows twice: what evenly spaced samples see least of
        x = x * 0.01 + torch.randn((8, d), generator=made, device=DEVICE).repeat_interleave(-(-n // 8), dim=0)[:n]
        x[1::4] = x[0::4][: len(x[1::4])]
    return x


@functools.cache
def operations() -> Any:
    """repsim.reductions.hopper, by its file: it needs nothing else of repsim, which need not be built here."""
    spec = importlib.util.spec_from_file_location("fused_operations", CHECKOUT / "repsim/reductions/hopper.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


def median_seconds(work: Callable[[], Any], repeats: int) -> float:
    import torch

    work()
    times = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return sorted(times)[len(times) // 2]


def gemm_rate() -> float:
    """Flop per second of torch's bfloat16 product of random data."""
    import torch

    a, b = (torch.randn((8192, 8192), device=DEVICE).to(torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / median_seconds(lambda: a @ b, 15)


def rates(flop: float, seconds: float, rate: float) -> dict[str, Any]:
    """Times, and the share of the library product's rate in the same process. Every pair counts once."""
    return {"seconds": seconds, "tflops": flop / seconds / 1e12, "gemm_tflops": rate / 1e12,
            "share": flop / seconds / rate}  # fmt: skip


def run_sums(rows: list[Any], kinds: str, precision: str, first: int = 0) -> tuple[Any, Any, list[Any], list[float]]:
    """Row sums [2, n], the products KK, KL, LL, the rows that the parts stand for, and the gains; the shift is 0.25."""
    import torch

    hopper = operations()

    n = len(rows[0])
    splits = [hopper.split(x, precision)[0] for x in rows]
    seen = [s.parts.double().sum(0)[:, : s.depth] for s in splits]
    gains = [
        1.0 / x.shape[1] if kind == "rbf" else 1.0 / (8 * x.shape[1])
        for x, kind in zip(rows, kinds.split(), strict=True)
    ]
    row_sums = torch.zeros((2, n), dtype=torch.int64, device=DEVICE)
    products = [torch.zeros(2, dtype=torch.int64, device=DEVICE) for _ in range(3)]

    cuts = [(0, n)] if first == 0 else [(0, first), (first, n)]
    for a, (i, end_i) in enumerate(cuts):
        for j, end_j in cuts[a:]:
            matrices = [
                hopper.FusedMatrix(s.rows(slice(i, end_i)), s.rows(slice(j, end_j)), kind, gain, 0.25, powers(gain))
                for s, kind, gain in zip(splits, kinds.split(), gains, strict=True)
            ]
            hopper.kernel_sums(matrices, precision, (i, end_i - i, j, end_j - j), 36, row_sums, products)
    values = torch.stack([p[0].double() * 2.0**32 + (p[1] & 0xFFFFFFFF).double() for p in products]) / 2.0**45
    return row_sums, values, seen, gains


def powers(gain: float) -> list[float]:
    """The coefficients of a polynomial, of what is about 1 / gain."""
    return [c * gain**m for m, c in enumerate((0.05, 0.0, 0.3, -0.2, 0.05))]


def exact_sums(seen: list[Any], kinds: str, gains: list[float]) -> tuple[Any, Any, Any]:
    """The same in float64: row sums, products, and the sums of the products' absolute values."""
    import torch

    n = len(seen[0])
    rows = torch.zeros((2, n), dtype=torch.float64, device=DEVICE)
    products, sizes = torch.zeros((2, 3), dtype=torch.float64, device=DEVICE)
    for begin in range(0, n, 2048):
        matrices = []
        for x, kind, gain in zip(seen, kinds.split(), gains, strict=True):
            part = x[begin : begin + 2048]
            t = part @ x.T
            half = (x * x).sum(1) / 2
            k = (gain * (t - half[begin : begin + 2048, None] - half)).exp() if kind == "rbf" else gain * t
            if kind == "polynomial":
                k += sum(c * (t + half[begin : begin + 2048, None] + half) ** m for m, c in enumerate(powers(gain)))
            k -= 0.25
            k[torch.arange(len(part)), begin + torch.arange(len(part))] = 0
            matrices.append(k)
        k, other = matrices
        rows[:, begin : begin + 2048] = torch.stack([k.sum(1), other.sum(1)])
        pairs = [(k, k), (k, other), (other, other)]
        products += torch.stack([(a * b).sum() for a, b in pairs])
        sizes += torch.stack([(a * b).abs().sum() for a, b in pairs])
    return rows, products, sizes


def compare_sums(rows: list[Any], kinds: str, precision: str, first: int) -> dict[str, Any]:
    found, products, seen, gains = run_sums(rows, kinds, precision, first)
    again, products_again, *_ = run_sums(rows, kinds, precision, first)
    exact, exact_products, sizes = exact_sums(seen, kinds, gains)
    scale = float(exact.abs().max()) + 1e-9
    off_rows = float((found.double() / 2.0**36 - exact).abs().max()) / scale
    off_products = float(((products - exact_products).abs() / (sizes + 1e-9)).max())
    same = bool((found == again).all()) and bool((products == products_again).all())
    right = max(off_rows, off_products) <= TOLERANCE[precision] and same
    return {"right": right, "rows_off": off_rows, "products_off": off_products, "same_bits_again": same}


def sums_are_right(n: int, d: int, other: int, kinds: str, precision: str, rows: str = "random") -> dict[str, Any]:
    both = [rows_of(n, d, rows, n), rows_of(n, other, rows, n + 1)]
    return compare_sums([x - x.mean(0) for x in both], kinds, precision, 0)


def two_blocks_are_right(n: int, first: int) -> dict[str, Any]:
    return compare_sums([rows_of(n, 96, "random", 1), rows_of(n, 40, "random", 2)], "rbf linear", "medium", first)


def check_lists(lists: Any, scores_of: Callable[[int, int], Any], n: int, kept: int, tolerance: Any) -> dict[str, Any]:
    """Whether every list holds the best of the float64 scores, up to what float32 sums can err."""
    counts = lists.counts.long()
    indices = 0xFFFFFFFF - (lists.keys[:, :kept] & 0xFFFFFFFF)
    worst, repeated = 0.0, 0
    for begin in range(0, n, 2048):
        scores = scores_of(begin, min(begin + 2048, n))
        best = scores.topk(kept, dim=1).values
        own = indices[begin : begin + 2048]
        found = scores.gather(1, own.clamp(0, scores.shape[1] - 1)).sort(dim=1, descending=True).values
        worst = max(worst, float(((best - found).abs() / tolerance).max()))
        repeated += int((own.sort(dim=1).values.diff(dim=1) == 0).sum())
    short = int((counts != kept).sum())
    right = short == 0 and repeated == 0 and worst <= 1 and not bool(lists.overflowed.any())
    return {"right": right, "worst": worst, "lists_too_short": short, "indices_twice": repeated,
            "overflowed": int(lists.overflowed.sum())}  # fmt: skip


LEFT_OUT = {"medium": 0, "high": 260, "highest": 3}  # products of parts, in units of 2^-24 of those of the norms


def search_is_right(
    n: int, d: int, metric: str, rows: str, kept: int = 25, precision: str = "medium", capacity: int = 1024
) -> dict[str, Any]:  # fmt: skip
    import torch

    hopper = operations()

    x = rows_of(n, d, rows, n)
    split, _ = hopper.split(x / x.norm(dim=1).max(), precision)
    if metric == "inner_product":
        split = hopper.Split(split.parts, None, split.depth)
    seen = split.parts.double().sum(0)[:, :d]
    half = (seen * seen).sum(1) / 2 if metric == "euclidean" else torch.zeros(n, dtype=torch.float64, device=DEVICE)

    def scores_of(begin: int, end: int) -> Any:
        scores = seen[begin:end] @ seen.T - half[begin:end, None] - half
        scores[torch.arange(end - begin), torch.arange(begin, end)] = -torch.inf
        return scores

    found = []
    for _ in range(2):
        lists = hopper.Lists.empty(n, capacity, DEVICE)
        hopper.search_all_pairs(split, precision, kept, lists)
        found.append(lists)
    result = check_lists(found[0], scores_of, n, kept, 2 * 2.0**-24 * (4.2 * d + 8 + LEFT_OUT[precision]))
    same = bool((found[0].keys[:, :kept].sort().values == found[1].keys[:, :kept].sort().values).all())
    return {**result, "right": result["right"] and same, "same_again": same}


def queries_are_right(
    n: int, m: int, d: int, certain: bool, kept: int = 25, precision: str = "medium"
) -> dict[str, Any]:
    hopper = operations()

    x, base = rows_of(n, d, "random", 1) / d**0.5, rows_of(m, d, "random", 2) / d**0.5
    (i, _), (j, _) = hopper.split(x, precision), hopper.split(base, precision)
    seen, other = (one.parts.double().sum(0)[:, :d] for one in (i, j))
    lists = hopper.Lists.empty(n, 512, DEVICE)
    hopper.search_rows(i, j, precision, kept, lists, certain=certain)
    half, half_j = (seen * seen).sum(1) / 2, (other * other).sum(1) / 2
    return check_lists(
        lists, lambda begin, end: seen[begin:end] @ other.T - half[begin:end, None] - half_j, n, kept,
        4 * 2 * 2.0**-24 * (4.2 * d + 8 + LEFT_OUT[precision]),
    )  # fmt: skip


def time_of_sums(n: int, d: int, precision: str) -> dict[str, Any]:
    import torch

    hopper = operations()

    rate = gemm_rate()
    matrices = []
    for seed in range(2):
        split, _ = hopper.split(rows_of(n, d, "random", seed), precision)
        matrices.append(hopper.FusedMatrix(split, split, "rbf", 1.0 / d, 0.3))
    row_sums = torch.zeros((2, n), dtype=torch.int64, device=DEVICE)
    products = [torch.zeros(2, dtype=torch.int64, device=DEVICE) for _ in range(3)]

    def traverse() -> None:
        hopper.kernel_sums(matrices, precision, (0, n, 0, n), 36, row_sums, products)

    seconds = median_seconds(traverse, 3 if n > 500_000 else 7)
    flop = n * n * 2 * d * {"medium": 1, "high": 3, "highest": 6}[precision]
    return rates(flop, seconds, rate)


def time_of_search(n: int, d: int, k: int) -> dict[str, Any]:
    hopper = operations()

    rate = gemm_rate()
    split, _ = hopper.split(rows_of(n, d, "random", 0) / d**0.5, "medium")
    lists = hopper.Lists.empty(n, 1024, DEVICE)
    kept = k + 15

    def search() -> None:
        lists.counts.zero_()
        lists.floors.fill_(hopper.NO_FLOOR)
        lists.overflowed.zero_()
        hopper.search_all_pairs(split, "medium", kept, lists)

    seconds = median_seconds(search, 3)
    flop = n * n * d
    return {**rates(flop, seconds, rate), "overflowed": int(lists.overflowed.sum())}


def time_of_chunked_torch(n: int, d: int) -> dict[str, Any]:
    """What one would write without repsim: bfloat16 products by chunks of rows, then exp and sums, or topk."""
    import torch

    x = [rows_of(n, d, "random", seed) for seed in range(2)]
    halves = [(a * a).sum(1) / 2 for a in x]
    small = [a.to(torch.bfloat16) for a in x]

    def sums() -> None:
        for begin in range(0, n, 4096):
            part = slice(begin, begin + 4096)
            k, other = (
                ((a[part] @ a.T).float() - h[part, None] - h).mul_(1 / d).exp_()
                for a, h in zip(small, halves, strict=True)
            )
            _ = k.sum(1), other.sum(1), (k * other).sum(), (k * k).sum(), (other * other).sum()

    def search() -> None:
        for begin in range(0, n, 4096):
            (small[0][begin : begin + 4096] @ small[0].T).topk(10, dim=1)

    return {"sums_seconds": median_seconds(sums, 3), "search_seconds": median_seconds(search, 3)}


def as_the_portable_path(n: int, d: int, precision: str) -> dict[str, Any]:
    """The measures themselves with the fused kernels and without, and their times; needs repsim built for this GPU."""
    import torch

    try:
        import repsim

        importlib.import_module("repsim._cuda")
    except ImportError as error:
        return {"not_run": f"repsim with its GPU operations: {error}"}
    x, y = rows_of(n, d, "random", 1), rows_of(n, d // 2, "random", 2)
    y += x[:, : d // 2]
    kernel = repsim.RBF(sigma=float(d) ** 0.5)
    found: dict[str, Any] = {}
    for path, asked in (("fused", "1"), ("portable", "0")):
        os.environ["REPSIM_HOPPER"] = asked
        for _ in range(2):  # the first warms up
            begin = time.perf_counter()
            cka = float(repsim.cka(x, y, kernel=kernel, precision=precision))
            between = time.perf_counter()
            indices = torch.as_tensor(repsim.nearest(x, k=10, metric="euclidean").indices)
            torch.cuda.synchronize()
            found[path] = cka, indices, between - begin, time.perf_counter() - between
    (cka, indices, *seconds), (other_cka, other_indices, *other_seconds) = found["fused"], found["portable"]
    same, off = bool((indices == other_indices).all()), abs(cka - other_cka)
    return {"right": same and off < 1e-4, "cka_off": off, "same_neighbours": same, "cka_seconds": seconds[0],
            "cka_portable_seconds": other_seconds[0], "nearest_seconds": seconds[1],
            "nearest_portable_seconds": other_seconds[1]}  # fmt: skip
