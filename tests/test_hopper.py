"""The kernels for Hopper GPUs as far as a CPU can show them right: schedule, ring, registers, sums and candidates.

Everything runs the headers that the GPU kernels are made of (hopper/emulation.cpp); products come from numpy instead of
tensor cores. What only a GPU can show is in test_hopper_gpu.py.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from fused_stand_ins import PRODUCTS, STAND_INS, split

from bench import hopper_cases
from repsim.reductions import hopper as fused

ROOT = Path(__file__).parents[1]
ROW_BITS = 40
sys.path.append(str(ROOT / "csrc/cuda"))
import no_spills  # noqa: E402
import sass  # noqa: E402


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler to build tests/hopper/emulation.cpp")
    built = tmp_path_factory.mktemp("hopper") / "emulation.so"
    command = [compiler, "-std=c++20", "-O2", "-shared", "-fPIC", "-Wno-unknown-pragmas", f"-I{ROOT / 'csrc'}"]
    done = subprocess.run(
        [*command, str(ROOT / "tests/hopper/emulation.cpp"), "-o", str(built)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    library = ctypes.CDLL(str(built))
    library.walk.restype = ctypes.c_int64
    library.ring.restype = ctypes.c_char_p
    library.roundings.restype = ctypes.c_double
    return library


def ints(*values: int) -> Any:
    return (ctypes.c_int * len(values))(*values)


def pointers(arrays: Sequence[np.ndarray]) -> Any:
    return (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))


def at(array: np.ndarray) -> ctypes.c_void_p:
    assert array.flags.c_contiguous
    return array.ctypes.data_as(ctypes.c_void_p)  # keeps the array


# ---------------------------------------------------------------------------------------------- schedule


@pytest.mark.parametrize(
    ("tile", "side"),
    [
        pytest.param((128, 192), 384, id="128x192-smallest-supertile"),
        pytest.param((128, 192), 1920, id="128x192"),
        pytest.param((256, 192), 768, id="cluster-2x1"),
        pytest.param((128, 384), 1152, id="cluster-1x2"),
        pytest.param((256, 512), 2048, id="cluster-2x2-of-256-columns"),
    ],
)
@pytest.mark.parametrize("workers", [1, 7, 132])
def test_every_pair_lies_in_one_tile(native: ctypes.CDLL, tile: tuple[int, int], side: int, workers: int) -> None:
    for rows, columns, triangle in [
        *((n, n, True) for n in (1, 2, 127, 128, 129, 383, 384, 385, 1000, 2500, 5003)),
        *((r, c, False) for r, c in ((1, 1), (3000, 100), (100, 3000), (385, 193), (2049, 2047))),
    ]:
        visits = np.zeros((20000, 3), np.int32)
        schedule = ints(rows, columns, *tile, side, triangle)
        count = native.walk(schedule, workers, len(visits), at(visits))
        assert count >= 0
        visits = visits[:count]
        across = -(-columns // tile[1])
        assert not (visits[:, 1] % tile[0]).any() and not (visits[:, 2] % tile[1]).any()
        tiles = visits[:, 1] // tile[0] * across + visits[:, 2] // tile[1]
        assert len(set(tiles)) == count, "a tile came twice"
        i, j = np.arange(0, rows, tile[0]), np.arange(0, columns, tile[1])
        # In a triangle a tile has a pair i < j if its first row lies before its last column that exists.
        last = np.minimum(j + tile[1], columns) - 1
        needed = i[:, None] < last if triangle else np.ones((len(i), len(j)), bool)
        assert set(np.flatnonzero(needed)) <= set(tiles), "a tile is missing"
        assert count <= needed.sum() + 1, "tiles without pairs"  # one may have them only beyond the last column
        shares = np.bincount(visits[:, 0], minlength=workers)
        assert shares.max() - shares.min() <= 1


def test_workers_that_start_together_share_a_supertile(native: ctypes.CDLL) -> None:
    visits = np.zeros((200_000, 3), np.int32)
    workers = 66
    count = native.walk(ints(40_000, 40_000, 256, 192, 2304, 1), workers, len(visits), at(visits))
    visits = visits[:count]
    turns = [visits[visits[:, 0] == worker, 1:] // 2304 for worker in range(workers)]
    for turn in range(min(map(len, turns))):
        assert len({tuple(own[turn]) for own in turns}) <= 3


# ---------------------------------------------------------------------------------------------- ring


@pytest.mark.parametrize("cluster", [(1, 1), (2, 1), (1, 2), (2, 2)], ids=lambda c: f"cluster-{c[0]}x{c[1]}")
def test_ring_never_overwrites_what_is_read_and_never_stands_still(
    native: ctypes.CDLL, cluster: tuple[int, int]
) -> None:
    for stages in (2, 3, 4, 5):
        for seed in range(6):
            fault = native.ring(*cluster, stages, 23, ctypes.c_uint64(seed))
            assert fault is None, f"{stages} stages, seed {seed}: {fault.decode()}"


# ---------------------------------------------------------------------------------------------- copies


@pytest.mark.parametrize("step", [1, 3], ids=["every-row", "every-third-row"])
def test_boxes_hold_the_rows_and_zeros_beyond_them(native: ctypes.CDLL, step: int) -> None:
    n, depth, width, parts = 100, 70, 72, 3
    rows = np.random.default_rng(0).integers(1, 2**16, (parts, n, width)).astype(np.uint16)
    sampled = rows[:, ::step, :depth]
    form = np.array([sampled.shape[1], depth, width * step, n * width, parts, 96])
    padded = np.zeros((parts, 400, 128), np.uint16)
    padded[:, : sampled.shape[1], :depth] = sampled
    for k, row, part in [(0, 0, 0), (64, 0, 2), (0, 32, 1), (64, 96, 1), (0, 200, 0)]:
        box = np.zeros((96, 64), np.uint16)
        native.read_box(at(rows), at(form), at(np.array([k, row, part], np.int32)), at(box))
        np.testing.assert_array_equal(box, padded[part, row : row + 96, k : k + 64])


# ---------------------------------------------------------------------------------------------- registers


def test_fragment_holds_every_entry_once(native: ctypes.CDLL) -> None:
    for columns in (128, 192, 256):
        places = np.zeros((128, columns // 2, 2), np.int32)
        native.fragment_places(columns, at(places))
        flat = places[..., 0] * columns + places[..., 1]
        np.testing.assert_array_equal(np.sort(flat.ravel()), np.arange(64 * columns))
        # The rows of PTX's m64nNk16: a warp has 16, a lane two that are 8 apart.
        assert places[37, 0].tolist() == [17, 2] and places[37, 2].tolist() == [25, 2]
        assert places[127, 1].tolist() == [55, 7] and places[127, columns // 2 - 1].tolist() == [63, columns - 1]


def cute_headers() -> list[Path]:
    """Folders to include for CuTe on the host, or none."""
    spec = find_spec("cutlass_library")
    places = [Path(os.environ["REPSIM_CUTLASS_DIR"])] if "REPSIM_CUTLASS_DIR" in os.environ else []
    places += [Path(place) / "source" for place in (spec.submodule_search_locations or [])] if spec else []
    cuda = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "include"
    found = [place / "include" for place in places if (place / "include/cute/tensor.hpp").exists()]
    return [found[0], cuda, cuda / "cccl"] if found and cuda.exists() else []


def test_accumulators_and_stages_lie_where_cute_has_them(tmp_path: Path) -> None:
    compiler, headers = shutil.which("c++"), cute_headers()
    if compiler is None or not headers:
        pytest.skip("no compiler, CUDA headers or CUTLASS headers (pip install --no-deps nvidia-cutlass==4.2.0.0)")
    program = tmp_path / "layouts"
    includes = [f"-I{path}" for path in (ROOT / "csrc", *headers)]
    source = str(ROOT / "tests/hopper/layouts.cpp")
    subprocess.run([compiler, "-std=c++20", "-O0", "-w", *includes, source, "-o", str(program)], check=True)
    assert subprocess.run([program], capture_output=True, text=True).stdout == "same\n"


def test_fold_leaves_every_sum_in_one_lane(native: ctypes.CDLL) -> None:
    values = np.random.default_rng(0).integers(-1000, 1000, (32, 8)).astype(np.float32)
    sums, which = np.zeros(32, np.float32), np.zeros(32, np.int32)
    native.fold_lanes(at(values), at(sums), at(which))
    whole = values.reshape(8, 4, 8).sum(axis=0)  # over lanes with the same two lower bits
    np.testing.assert_array_equal(sums, whole[np.arange(32) % 4, which])
    assert len({(lane % 4, which[lane]) for lane in range(32)}) == 32


# ---------------------------------------------------------------------------------------------- sums of kernels


POLYNOMIAL = [0.05, 0.0, 2e-4, -1e-6, 1e-8]


def kernel_matrix(x: np.ndarray, y: np.ndarray, gain: float, shift: float, *, kind: str) -> np.ndarray:
    x, y = x.astype(np.float64), y.astype(np.float64)
    if kind == "linear":
        return gain * (x @ y.T) - shift
    if kind == "polynomial":
        base = ((x[:, None] + y) ** 2).sum(-1) / 2
        return gain * (x @ y.T) + sum(c * base**m for m, c in enumerate(POLYNOMIAL)) - shift
    squared = ((x[:, None] - y) ** 2).sum(-1)
    return np.exp(-gain * squared / 2) - shift


def emulated_sums(
    native: ctypes.CDLL, blocks: Sequence[tuple[np.ndarray, np.ndarray, str, float, float]], *, tile: int,
    first: tuple[int, int], n: int, side: int, workers: int = 5, cluster: tuple[int, int] = (1, 1),
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Row sums [2, n] and the products KK, KL, LL of one pair of blocks, by the kernel's own code."""
    rows, columns = len(blocks[0][0]), len(blocks[0][1])
    products = [np.ascontiguousarray(x @ y.T) for x, y, *_ in blocks]
    halves = [[np.ascontiguousarray((r * r).sum(1) / 2, np.float32) for r in block[:2]] for block in blocks]
    gains, shifts = (np.array([block[of] for block in blocks], np.float32) for of in (3, 4))
    coefficients = np.array([POLYNOMIAL, POLYNOMIAL], np.float32)
    assert coefficients.shape[1] == fused.MOST_DEGREE + 1
    row_sums, totals = np.zeros((2, n), np.int64), np.zeros((3, 2), np.int64)
    native.kernel_sums(
        ints(rows, columns, 128 * cluster[0], tile * cluster[1], side, first[0] == first[1]), tile, workers,
        pointers(products), pointers([h[0] for h in halves]), pointers([h[1] for h in halves]),
        ints(*(fused.KERNELS[block[2]] for block in blocks)), at(gains), at(shifts), at(coefficients),
        ctypes.c_int64(first[0]), ctypes.c_int64(first[1]), ctypes.c_int64(n), ROW_BITS, at(row_sums), at(totals),
    )  # fmt: skip
    assert (totals[:, 1] >= 0).all() and (totals[:, 1] < 2**32).all()
    return row_sums, totals


def values_of(totals: np.ndarray) -> np.ndarray:
    return (totals[:, 0].astype(np.float64) * 2.0**32 + totals[:, 1]) / 2.0**45


@pytest.mark.parametrize("tile", [128, 192])
@pytest.mark.parametrize(
    "kinds", [("rbf", "rbf"), ("linear", "linear"), ("rbf", "linear"), ("polynomial", "rbf")], ids="-".join
)
@pytest.mark.parametrize("n", [2, 130, 449])
def test_sums_are_those_of_float64(native: ctypes.CDLL, tile: int, kinds: tuple[str, str], n: int) -> None:
    rng = np.random.default_rng(n)
    x, y = rng.standard_normal((n, 9), dtype=np.float32), rng.standard_normal((n, 5), dtype=np.float32)
    forms = [(0.2, 0.3) if kind == "rbf" else (0.01, 0.002) for kind in kinds]
    rows, totals = emulated_sums(
        native, [(x, x, kinds[0], *forms[0]), (y, y, kinds[1], *forms[1])], tile=tile, first=(0, 0), n=n, side=768
    )
    k, other = (
        kernel_matrix(r, r, *form, kind=kind) * (1 - np.eye(n))
        for r, form, kind in zip((x, y), forms, kinds, strict=True)
    )
    scale = np.abs(k).sum(1).max() + np.abs(other).sum(1).max()
    np.testing.assert_allclose(rows / 2.0**ROW_BITS, [k.sum(1), other.sum(1)], atol=3e-6 * scale)
    exact = np.array([(k * k).sum(), (k * other).sum(), (other * other).sum()])
    sizes = np.array([(k * k).sum(), np.abs(k * other).sum(), (other * other).sum()])
    assert (np.abs(values_of(totals) - exact) <= 1e-5 * sizes).all()


def test_sums_of_two_blocks_count_for_both(native: ctypes.CDLL) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((500, 6), dtype=np.float32), rng.standard_normal((500, 6), dtype=np.float32)
    blocks = [(r[:300], r[300:], "rbf", 0.2, 0.25) for r in (x, y)]
    rows, totals = emulated_sums(native, blocks, tile=192, first=(0, 300), n=500, side=384, cluster=(1, 2))
    k, other = (kernel_matrix(a, b, gain, shift, kind="rbf") for a, b, _, gain, shift in blocks)
    expected = [np.concatenate([m.sum(1), m.sum(0)]) for m in (k, other)]
    np.testing.assert_allclose(rows / 2.0**ROW_BITS, expected, atol=1e-4)
    np.testing.assert_allclose(
        values_of(totals), [2 * (k * k).sum(), 2 * (k * other).sum(), 2 * (other * other).sum()], rtol=1e-4
    )


def test_sums_have_the_same_bits_for_any_number_of_workers_and_cluster(native: ctypes.CDLL) -> None:
    x = np.random.default_rng(2).standard_normal((400, 4), dtype=np.float32)
    runs = [
        emulated_sums(
            native, [(x, x, "rbf", 0.3, 0.1), (x, x, "linear", 0.02, 0.0)], tile=192, first=(0, 0), n=400, side=side,
            workers=workers, cluster=cluster,
        )
        for workers, cluster, side in [(1, (1, 1), 384), (13, (1, 1), 1920), (4, (2, 1), 768), (3, (2, 2), 768)]
    ]  # fmt: skip
    for rows, totals in runs[1:]:
        np.testing.assert_array_equal(rows, runs[0][0])
        np.testing.assert_array_equal(totals, runs[0][1])


def test_sums_have_the_same_bits_however_the_rows_are_cut(native: ctypes.CDLL) -> None:
    rng = np.random.default_rng(3)
    x, y = (rng.integers(-2, 3, (600, d)).astype(np.float32) for d in (6, 4))  # whose products are exact
    whole, cut = [
        [
            emulated_sums(
                native, [(x[i], x[j], "rbf", 0.3, 0.1), (y[i], y[j], "linear", 0.03, 0.0)], tile=192,
                first=(i.start, j.start), n=600, side=384,
            )
            for a, i in enumerate(cuts)
            for j in cuts[a:]
        ]
        for cuts in ([slice(0, 600)], [slice(0, 384), slice(384, 600)])
    ]  # fmt: skip
    np.testing.assert_array_equal(sum(rows for rows, _ in cut), whole[0][0])
    limbs = sum(totals for _, totals in cut)
    np.testing.assert_array_equal(limbs[:, 0] + (limbs[:, 1] >> 32), whole[0][1][:, 0])
    np.testing.assert_array_equal(limbs[:, 1] & 0xFFFFFFFF, whole[0][1][:, 1])


# ---------------------------------------------------------------------------------------------- candidates


def emulated_candidates(
    native: ctypes.CDLL, x: np.ndarray, y: np.ndarray, thresholds: np.ndarray, *, tile: int = 256, first_i: int = 0,
    index_j: int = 0, step_j: int = 1, triangle: bool = False, columns_too: bool = False, own: bool = False,
    euclidean: bool = True, capacity: int = 512, inputs: np.ndarray | None = None,
) -> tuple[list[dict[int, float]], np.ndarray]:  # fmt: skip
    """The candidates {input: score} of every list, and how many every row counted."""
    products = np.ascontiguousarray(x @ y.T)
    halves = [(r * r).sum(1) / 2 if euclidean else np.zeros(len(r)) for r in (x, y)]
    lists = len(thresholds)
    keys, counts = np.zeros((lists, capacity), np.uint64), np.zeros(lists, np.int32)
    native.collect(
        ints(len(x), len(y), 128, tile, 768, triangle), tile, 3, at(products), at(halves[0].astype(np.float32)),
        at(halves[1].astype(np.float32)), at(thresholds.astype(np.float32)),
        at(np.array([first_i, index_j, step_j, triangle, triangle or columns_too, own], np.int64)),
        None if inputs is None else at(inputs), ctypes.c_int64(capacity), at(keys), at(counts),
    )  # fmt: skip
    bits = (keys >> np.uint64(32)).astype(np.uint32)
    scores = np.where(bits & 0x80000000, bits & 0x7FFFFFFF, ~bits).astype(np.uint32).view(np.float32)
    indices = 0xFFFFFFFF - (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)
    kept = np.minimum(counts, capacity)
    found = [
        dict(zip(indices[r, : kept[r]].tolist(), scores[r, : kept[r]].tolist(), strict=True)) for r in range(lists)
    ]
    assert all(len(one) == count for one, count in zip(found, kept, strict=True)), "an input came twice"
    return found, counts


def float32_scores(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    half = [((r * r).sum(1) / 2).astype(np.float32) for r in (x, y)]
    return x @ y.T - (half[0][:, None] + half[1])


@pytest.mark.parametrize("tile", [128, 256])
@pytest.mark.parametrize("n", [3, 129, 700])
def test_candidates_of_all_pairs(native: ctypes.CDLL, tile: int, n: int) -> None:
    x = np.random.default_rng(n).standard_normal((n, 7), dtype=np.float32)
    scores = float32_scores(x, x)
    np.fill_diagonal(scores, -np.inf)
    thresholds = np.sort(scores, axis=1)[:, -min(n - 1, 40)]
    upper = np.triu(scores, 1)
    scores = upper + upper.T  # both directions take the score of i < j
    np.fill_diagonal(scores, -np.inf)
    found, _ = emulated_candidates(native, x, x, thresholds, tile=tile, triangle=True, own=True)
    for i in range(n):
        assert found[i] == {j: scores[i, j] for j in np.flatnonzero(scores[i] >= thresholds[i]).tolist()}


def test_candidates_of_two_blocks_serve_both(native: ctypes.CDLL) -> None:
    x = np.random.default_rng(5).standard_normal((600, 7), dtype=np.float32)
    scores = float32_scores(x[:250], x[250:])
    thresholds = np.concatenate([np.sort(scores, axis=1)[:, -30], np.sort(scores, axis=0)[-20]])
    found, _ = emulated_candidates(native, x[:250], x[250:], thresholds, index_j=250, columns_too=True)
    for i in range(250):
        assert found[i].keys() == set((250 + np.flatnonzero(scores[i] >= thresholds[i])).tolist())
    for j in range(350):
        assert found[250 + j].keys() == set(np.flatnonzero(scores[:, j] >= thresholds[250 + j]).tolist())


@pytest.mark.parametrize("euclidean", [True, False], ids=["euclidean", "inner-product"])
def test_candidates_of_a_sample_carry_its_inputs(native: ctypes.CDLL, euclidean: bool) -> None:
    x = np.random.default_rng(6).standard_normal((310, 7), dtype=np.float32)
    base = np.ascontiguousarray(x[::3])
    scores = float32_scores(x, base) if euclidean else x @ base.T
    thresholds = np.sort(scores, axis=1)[:, -12]
    found, _ = emulated_candidates(native, x, base, thresholds, step_j=3, own=True, euclidean=euclidean)
    for i in range(310):
        assert found[i].keys() == set((3 * np.flatnonzero(scores[i] >= thresholds[i])).tolist()) - {i}


def test_rows_with_names_are_not_their_own_candidates(native: ctypes.CDLL) -> None:
    base = np.random.default_rng(9).standard_normal((300, 5), dtype=np.float32)
    inputs = np.random.default_rng(10).permutation(300)[:170]
    x = np.ascontiguousarray(base[inputs])
    scores = float32_scores(x, base)
    thresholds = np.sort(scores, axis=1)[:, -9]
    found, _ = emulated_candidates(native, x, base, thresholds, own=True, inputs=inputs.astype(np.int64))
    for row, name in enumerate(inputs):
        assert scores[row].argmax() == name
        assert found[row].keys() == set(np.flatnonzero(scores[row] >= thresholds[row]).tolist()) - {name}


def test_candidates_count_on_beyond_the_capacity(native: ctypes.CDLL) -> None:
    x = np.random.default_rng(7).standard_normal((140, 3), dtype=np.float32)
    y = np.random.default_rng(8).standard_normal((400, 3), dtype=np.float32)
    lowest = np.full(140, -np.finfo(np.float32).max, np.float32)
    found, counts = emulated_candidates(native, x, y, lowest, capacity=64)
    assert (counts == 400).all() and all(len(one) == 64 for one in found)
    all_of_them, _ = emulated_candidates(native, x, y, lowest, capacity=400)
    assert all(one.keys() == set(range(400)) for one in all_of_them)


@pytest.mark.parametrize("size", [1, 2, 64, 1024])
def test_keys_sort_largest_first(native: ctypes.CDLL, size: int) -> None:
    keys = np.random.default_rng(size).integers(0, 2**63, size, dtype=np.uint64) * np.uint64(2)
    keys[: size // 3] = keys[-1]
    sorted_keys = keys.copy()
    native.sort(at(sorted_keys), size, 32)
    np.testing.assert_array_equal(sorted_keys, np.sort(keys)[::-1])


# ---------------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize(
    ("precision", "rest", "product"),
    [
        pytest.param(0, 2.0**-8, 2.0**-6.9, id="medium"),
        pytest.param(1, 2.0**-16, 2.0**-14.4, id="high"),
        pytest.param(2, 2.0**-24, 2.0**-22.4, id="highest"),
    ],
)
def test_parts_and_their_products_lose_what_they_state(
    native: ctypes.CDLL, precision: int, rest: float, product: float
) -> None:
    rng = np.random.default_rng(precision)
    count = 200_000
    x, y = ((rng.standard_normal(count) * 2.0 ** rng.integers(-20, 20, count)).astype(np.float32) for _ in range(2))
    x[:4] = [1.0 + 2.0**-8, 1.99609375, 255.5, 1.0 + 2.0**-23]  # ties and the largest remainders
    values, rests = np.zeros(count), np.zeros(count, np.float32)
    native.split_products(precision, ctypes.c_int64(count), at(x), at(y), at(values), at(rests))
    assert (np.abs(rests) <= rest * np.abs(x)).all()
    exact = x.astype(np.float64) * y
    off = np.abs(values - exact) / np.abs(exact)
    assert off.max() <= product
    assert off.max() > product / 64, "the bound would let a product too few pass"


def cut(x: np.ndarray, unit: np.ndarray) -> np.ndarray:
    """Towards zero, to whole multiples."""
    return np.trunc(x / unit) * unit


def on_tensor_cores(terms: np.ndarray, step: int) -> np.ndarray:
    """Sums [..] of terms [.., m] as bounds.h supposes: in a step all are cut to 23 bits below the first of the largest,
    and so is their sum, of its own."""
    held = np.zeros(terms.shape[:-1])
    for first in range(0, terms.shape[-1], step):
        some = np.concatenate([held[..., None], terms[..., first : first + step]], axis=-1)
        largest = np.abs(some).max(axis=-1, keepdims=True)
        unit = np.exp2(np.floor(np.log2(np.where(largest > 0, largest, 1))) - 23)
        held = cut(some, unit).sum(axis=-1)
        held = cut(held, np.exp2(np.floor(np.log2(np.where(held != 0, np.abs(held), 1))) - 23))
    return held


@pytest.mark.parametrize("step", [4, 8, 16])
@pytest.mark.parametrize(("filter", "precision"), [(1, "medium"), (2, "high"), (3, "highest")])
@pytest.mark.parametrize("rows", ["of-one-sign", "of-both-signs", "worst"])
def test_sums_of_products_err_by_no_more_than_their_bound(
    native: ctypes.CDLL, filter: int, precision: str, step: int, rows: str
) -> None:
    """``worst``: parts as large as they can be, of one sign, so that what is left out adds up."""
    depth, rng = 80, np.random.default_rng(step)
    x, y = (rng.uniform(-1 if rows == "of-both-signs" else 0.5, 1, (40, depth)).astype(np.float32) for _ in range(2))
    if rows == "worst":
        x[:], y[:] = 1 + 2.0**-8 + 2.0**-17 + 2.0**-23, 1 + 2.0**-8 + 2.0**-17
    parts = [[part.double().numpy() for part in split(torch.as_tensor(z), precision)[0].parts] for z in (x, y)]
    terms = np.concatenate([parts[0][p] * parts[1][q] for p, q in PRODUCTS[precision]], axis=1)
    seen = [sum(part) for part in parts]
    off = np.abs(on_tensor_cores(terms, step) - (seen[0] * seen[1]).sum(axis=1))
    bound = (
        native.roundings(filter, ctypes.c_int64(depth))
        * 2.0**-24
        * np.prod([np.linalg.norm(z, axis=1) for z in seen], axis=0)
    )
    assert (off <= bound).all()
    if rows == "worst" and precision == "high":
        assert off.max() > bound.max() / 3, "the bound would let a product too few pass"


# ---------------------------------------------------------------------------------------------- what watches over it


def test_a_kernel_off_the_tensor_cores_is_found() -> None:
    whole = "\n".join(f"        /*00{m}0*/                   {one} R1, R2 ;" for m, one in enumerate(sass.NEEDED))
    listing = "\n".join(f"\t\tFunction : _Z3{kernel}v\n{whole}" for kernel in sass.KERNELS)
    assert sass.faults(sass.instructions(listing)) == []
    slow = listing.replace("HGMMA", "HMMA", 1).replace("UTMALDG R1", "@!P0 LDL R1", 1)
    assert sass.faults(sass.instructions(slow)) == [
        "_Z3sums_kernelv: no HGMMA", "_Z3sums_kernelv: no UTMALDG", "_Z3sums_kernelv: 1 HMMA", "_Z3sums_kernelv: 1 LDL",
    ]  # fmt: skip
    assert sass.faults({}) == ["sums_kernel: not there", "select_kernel: not there"]


def test_matrix_instructions_that_wait_are_found_in_the_log() -> None:
    log = "ptxas info : (C7514) Potential Performance Loss: wgmma.mma_async instructions are serialized"
    count, bad = no_spills.spills(f"Compiling entry function 'f' for 'sm_90a'\n{log}")
    assert count == 1
    assert bad == ["(C7514) Potential Performance Loss: wgmma.mma_async instructions are serialized"]


def test_every_case_names_a_check_or_a_time_and_a_variant() -> None:
    for case in hopper_cases.cases(len(hopper_cases.SUMS)):
        assert callable(getattr(hopper_cases, case.kind)) and case.shape


@pytest.fixture
def cases_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The checks and times of the bench with stand-ins for the kernels."""
    operations = SimpleNamespace(**vars(fused))
    for stand_in in STAND_INS:
        setattr(operations, stand_in.__name__, stand_in)
    monkeypatch.setattr(hopper_cases, "operations", lambda: operations)
    monkeypatch.setattr(hopper_cases, "DEVICE", "cpu")
    monkeypatch.setattr(hopper_cases, "median_seconds", lambda work, repeats: work() or 0.5)
    return monkeypatch


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("sums_are_right", {"n": 2, "d": 8, "other": 8, "kinds": "rbf rbf", "precision": "medium"}),
        ("sums_are_right", {"n": 300, "d": 20, "other": 9, "kinds": "rbf linear", "precision": "high"}),
        ("sums_are_right", {"n": 200, "d": 20, "other": 9, "kinds": "polynomial rbf", "precision": "highest"}),
        ("sums_are_right", {"n": 90, "d": 33, "other": 9, "kinds": "linear linear", "precision": "highest",
                            "rows": "anisotropic"}),
        ("two_blocks_are_right", {"n": 200, "first": 70}),
        ("search_is_right", {"n": 300, "d": 20, "metric": "euclidean", "rows": "clusters"}),
        ("search_is_right", {"n": 150, "d": 70, "metric": "inner_product", "rows": "anisotropic"}),
        ("queries_are_right", {"n": 40, "m": 130, "d": 24, "certain": True}),
        ("search_is_right", {"n": 150, "d": 20, "metric": "euclidean", "rows": "clusters", "precision": "high"}),
        ("queries_are_right", {"n": 40, "m": 130, "d": 24, "certain": False, "precision": "highest"}),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)  # fmt: skip
def test_checks_of_the_bench_pass_what_is_right(cases_on_the_cpu: Any, kind: str, options: dict[str, Any]) -> None:
    result = getattr(hopper_cases, kind)(**options)
    assert result["right"], result


def test_checks_of_the_bench_find_what_is_wrong(cases_on_the_cpu: pytest.MonkeyPatch) -> None:
    operations = hopper_cases.operations()
    right, best = operations.kernel_sums, operations.search_all_pairs

    def one_row_off(matrices: Any, precision: str, span: Any, row_bits: int, row_sums: Any, products: Any) -> None:
        right(matrices, precision, span, row_bits, row_sums, products)
        row_sums[1, 5] += 1 << (row_bits - 2)

    def one_product_off(matrices: Any, precision: str, span: Any, row_bits: int, row_sums: Any, products: Any) -> None:
        right(matrices, precision, span, row_bits, row_sums, products)
        products[1][0] += 1 << 9

    def one_neighbour_off(x: Any, precision: str, kept: int, lists: Any) -> None:
        best(x, precision, kept, lists)
        lists.keys[7, 3] = lists.keys[7, 2]

    options = {"n": 60, "d": 8, "other": 8, "kinds": "rbf rbf", "precision": "medium"}
    for wrong in (one_row_off, one_product_off):
        operations.kernel_sums = wrong
        assert not hopper_cases.sums_are_right(**options)["right"]
    operations.search_all_pairs = one_neighbour_off
    assert not hopper_cases.search_is_right(n=60, d=8, metric="euclidean", rows="random")["right"]


def test_times_of_the_bench_are_told_as_shares(cases_on_the_cpu: Any) -> None:
    cases_on_the_cpu.setattr(hopper_cases, "gemm_rate", lambda: 1e6)
    sums = hopper_cases.time_of_sums(n=100, d=10, precision="high")
    assert sums == {"seconds": 0.5, "tflops": 1.2e-6, "gemm_tflops": 1e-6, "share": pytest.approx(1.2)}
    search = hopper_cases.time_of_search(n=100, d=10, k=5)
    assert search["share"] == pytest.approx(0.2) and search["overflowed"] == 0
    assert hopper_cases.time_of_chunked_torch(n=64, d=8).keys() == {"sums_seconds", "search_seconds"}
