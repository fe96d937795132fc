"""The kernels as nvcc compiles them, instruction by instruction: their PTX, executed by tests/ptx on the host.

Where `cmake -S tests/ptx -B FOLDER` has built them, REPSIM_PTX=FOLDER runs these tests, and REPSIM_EMULATED_CUDA=FOLDER
makes tests/test_gpu_emulated.py run the portable kernels that way too.
"""

from __future__ import annotations

import ctypes
import gc
import os
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import emulated_gpu
import numpy as np
import pytest

import repsim
from repsim.reductions import hopper

sys.path.append(str(Path(__file__).parents[1]))  # bench is run from a checkout; it is not installed
from bench import hopper_cases

torch = pytest.importorskip("torch")
FOLDER = os.environ.get("REPSIM_PTX")
pytestmark = pytest.mark.skipif(
    FOLDER is None, reason="REPSIM_PTX names no folder in which CMake has built tests/ptx, which takes nvcc"
)


def loaded(name: str) -> ctypes.CDLL:
    assert FOLDER is not None
    path = Path(FOLDER) / name
    if not path.exists():
        pytest.skip(f"{path.name} was not built: no CuTe headers in REPSIM_CUTLASS_DIR")
    library = ctypes.CDLL(str(path))
    for function in (library.repsim_ptx_load, library.repsim_ptx_run):
        function.restype = ctypes.c_char_p
    return library


def allow(library: ctypes.CDLL, arrays: Iterator[tuple[int, int]]) -> None:
    """Global memory is these arrays, as (address, bytes), and nothing else."""
    library.repsim_ptx_allow(ctypes.c_uint64(0), ctypes.c_uint64(0))
    for begin, size in arrays:
        if size:
            library.repsim_ptx_allow(ctypes.c_uint64(begin), ctypes.c_uint64(size))


# ---------------------------------------------------------------------------------------------------- the machine


HEAD = ".version 8.0\n.target sm_90a\n.address_size 64\n.extern .shared .align 1024 .b8 room[];\n"


def run(body: str, array: np.ndarray, *, threads: int = 64, cluster: int = 1, shared: int = 4096) -> str:
    """A kernel with this body and %rd1 the address of the array. Empty, or what the machine said."""
    library = loaded(f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}")
    text = f"""{HEAD}.entry kernel(.param .u64 kernel_param_0)
{{
    .reg .pred %p<8>; .reg .b32 %r<32>; .reg .f32 %f<32>; .reg .b64 %rd<16>;
    ld.param.u64 %rd1, [kernel_param_0];
    mov.u32 %r0, %tid.x;
    mov.u32 %r1, room;
    {body}
    ret;
}}
"""
    error = library.repsim_ptx_load(text.encode())
    assert error is None, error
    allow(library, iter([(array.ctypes.data, array.nbytes)]))
    argument = ctypes.c_uint64(array.ctypes.data)
    arguments = (ctypes.c_void_p * 1)(ctypes.addressof(argument))
    error = library.repsim_ptx_run(b"kernel", cluster, threads, cluster, ctypes.c_uint64(shared), arguments)
    library.repsim_ptx_allow(ctypes.c_uint64(0), ctypes.c_uint64(0))
    return "" if error is None else error.decode()


OWN_WORD = "shl.b32 %r2, %r0, 2; add.s32 %r2, %r1, %r2; st.shared.u32 [%r2], %r0;"
NEIGHBOURS_WORD = "xor.b32 %r3, %r2, {by}; ld.shared.u32 %r4, [%r3];"
TO_ARRAY = "mul.wide.u32 %rd2, %r0, 4; add.s64 %rd3, %rd1, %rd2; st.global.u32 [%rd3], %r4;"


def test_a_barrier_orders_what_warps_write_and_read() -> None:
    found = np.zeros(64, np.uint32)
    assert run(OWN_WORD + "bar.sync 0;" + NEIGHBOURS_WORD.format(by=128) + TO_ARRAY, found) == ""
    np.testing.assert_array_equal(found, np.arange(64) ^ 32)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        pytest.param(OWN_WORD + NEIGHBOURS_WORD.format(by=128) + TO_ARRAY,
                     r"(reads|writes) what warp \d of the cluster (writes|reads), with no barrier between",
                     id="race-of-warps"),
        pytest.param(OWN_WORD + NEIGHBOURS_WORD.format(by=4) + TO_ARRAY, "reads what another lane of its warp writes",
                     id="race-of-lanes"),
        pytest.param("mov.u32 %r2, 5120; ld.shared.u32 %r4, [%r2];", "shared memory at 5120, which ends at 5120",
                     id="beyond-shared-memory"),
        pytest.param("st.global.u32 [%rd1+256], %r0;", "touches global memory that it was not given",
                     id="beyond-global-memory"),
        pytest.param("ld.global.u32 %r4, [%rd1+2];", "4 bytes that are not aligned so", id="not-aligned"),
        pytest.param("setp.lt.u32 %p1, %r0, 32; @%p1 bra L; bar.sync 0, 64; L: bar.sync 1, 64;", "all warps wait:",
                     id="two-barriers"),
        pytest.param("mbarrier.init.shared::cta.b64 [%r1], 1;"
                     " L: mbarrier.try_wait.parity.shared::cta.b64 %p1, [%r1], 0; @!%p1 bra L;", "all warps wait:",
                     id="nobody-arrives"),
        pytest.param("mbarrier.init.shared::cta.b64 [%r1], 4; mbarrier.arrive.expect_tx.shared::cta.b64 _, [%r1], 8;",
                     "more arrivals at a barrier than it expects", id="too-many-arrive"),
        pytest.param("and.b32 %r2, %r0, 1; setp.eq.s32 %p1, %r2, 0; @%p1 bra L;"
                     " shfl.sync.bfly.b32 %r4|%p2, %r0, 1, 31, -1; L: bar.warp.sync -1;", "lanes wait for one another",
                     id="lanes-that-never-come"),
        pytest.param("mapa.shared::cluster.u32 %r2, %r1, 2;", "maps an address to block 2", id="no-such-block"),
        pytest.param("mov.u32 %r5, %cluster_ctarank; mbarrier.init.shared::cta.b64 [%r1], 100;"
                     " barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;"
                     " setp.eq.s32 %p1, %r5, 1; @%p1 bra OUT; mov.u32 %r6, 1; mapa.shared::cluster.u32 %r2, %r1, %r6;"
                     " mov.u32 %r7, 0; L: add.s32 %r7, %r7, 1; setp.lt.s32 %p2, %r7, 20000; @%p2 bra L;"
                     " mbarrier.arrive.shared::cluster.b64 _, [%r2]; OUT:", "a barrier of a block that has left",
                     id="signal-to-a-block-that-left"),
        pytest.param("trap;", "trap", id="trap"),
    ],
)  # fmt: skip
def test_what_a_gpu_would_pass_over_is_said(body: str, said: str) -> None:
    answer = run(body, np.zeros(64, np.uint32), cluster=2 if "cluster" in body else 1)
    assert re.search(said, answer), answer
    assert re.search(r"kernel, line \d+|kernel: all warps wait", answer) or "trap" in said


def test_lanes_that_part_meet_again() -> None:
    found = np.zeros(64, np.uint32)
    body = (
        "and.b32 %r2, %r0, 1; setp.eq.s32 %p1, %r2, 0; mov.u32 %r4, 7; @%p1 bra EVEN; add.s32 %r4, %r4, %r0; EVEN:"
        " shfl.sync.bfly.b32 %r4|%p2, %r4, 1, 31, -1;" + TO_ARRAY
    )
    assert run(body, found) == ""
    lanes = np.arange(64) ^ 1
    np.testing.assert_array_equal(found, np.where(lanes % 2 == 0, 7, 7 + lanes))


def test_instructions_that_it_does_not_know_are_refused() -> None:
    library = loaded(f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}")
    text = HEAD + ".entry other()\n{\n  .reg .b32 %r<2>;\n  prmt.b32 %r0, %r1, %r1, 1;\n}\n"
    assert library.repsim_ptx_load(text.encode()) == b"[ptx] line 8: unknown instruction prmt.b32"


# -------------------------------------------------------------------------------------- the fused kernels for Hopper


@pytest.fixture
def on_the_machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[ctypes.CDLL]:
    """The cases of `python -m bench.hopper` on tensors of the CPU; kernels may touch tensors and nothing else."""
    loaded("_hopper.so")
    monkeypatch.setenv("REPSIM_HOPPER_LIBRARY", str(Path(FOLDER or "") / "_hopper.so"))
    library = hopper_cases.operations()._library()
    library.repsim_ptx_load.restype = ctypes.c_char_p

    def tensors() -> Iterator[tuple[int, int]]:
        for one in gc.get_objects():
            if type(one) is torch.Tensor:
                yield one.data_ptr() - one.storage_offset() * one.element_size(), one.untyped_storage().nbytes()

    def call(name: str, where: Any, *arguments: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            allow(library, tensors())
        error = getattr(library, f"repsim_hopper_{name}")(*arguments, ctypes.c_void_p(None))
        if error is not None:
            raise RuntimeError(error.decode())

    monkeypatch.setattr(hopper_cases.operations(), "_call", call)
    monkeypatch.setattr(hopper_cases, "DEVICE", "cpu")
    yield library
    library.repsim_ptx_allow(ctypes.c_uint64(0), ctypes.c_uint64(0))


SUMS = [
    {"n": 2, "d": 8, "other": 8, "kinds": "rbf rbf", "precision": "medium"},
    {"n": 300, "d": 64, "other": 65, "kinds": "rbf linear", "precision": "medium"},
    {"n": 500, "d": 96, "other": 40, "kinds": "rbf rbf", "precision": "high"},
    {"n": 129, "d": 130, "other": 257, "kinds": "linear linear", "precision": "highest"},
    {"n": 400, "d": 130, "other": 72, "kinds": "rbf rbf", "precision": "highest", "rows": "anisotropic"},
    {"n": 300, "d": 40, "other": 72, "kinds": "polynomial rbf", "precision": "high"},
]
SEARCHES = [
    {"n": 300, "d": 64, "metric": "euclidean", "rows": "random"},
    {"n": 450, "d": 130, "metric": "inner_product", "rows": "clusters"},
    {"n": 500, "d": 72, "metric": "euclidean", "rows": "anisotropic"},
    {"n": 200, "d": 72, "metric": "euclidean", "rows": "clusters", "precision": "high"},
    {"n": 450, "d": 64, "metric": "euclidean", "rows": "clusters", "capacity": 64},  # lists overflow
]
CASES = [
    *(("sums_are_right", options) for options in SUMS),
    ("two_blocks_are_right", {"n": 600, "first": 384}),
    *(("search_is_right", options) for options in SEARCHES),
    ("queries_are_right", {"n": 200, "m": 1000, "d": 64, "certain": True}),
    ("queries_are_right", {"n": 257, "m": 2500, "d": 96, "certain": False}),
    ("queries_are_right", {"n": 100, "m": 500, "d": 40, "certain": False, "precision": "highest"}),
]


def label(value: Any) -> str:
    return " ".join(str(each) for each in value.values()) if isinstance(value, dict) else str(value)


@pytest.mark.parametrize(("kind", "options"), CASES, ids=label)
def test_fused_kernels_are_right(
    on_the_machine: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch, kind: str, options: dict[str, Any]
) -> None:
    # Another order of warps and copies for every case, and grids of one to four clusters.
    number = CASES.index((kind, options))
    monkeypatch.setenv("REPSIM_PTX_SEED", str(number))
    monkeypatch.setenv("REPSIM_PTX_CLUSTERS", str(1 + number % 4))
    result = getattr(hopper_cases, kind)(**options)
    assert result["right"], result


@pytest.mark.parametrize(
    ("filter", "in_turn", "base"),
    [
        pytest.param("bfloat16", False, False, id="all-pairs-and-promotion"),
        pytest.param("float32", True, True, id="six-products-in-turn"),
    ],
)
def test_neighbours_through_the_fused_kernels_are_exact(
    on_the_machine: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch, filter: str, in_turn: bool, base: bool
) -> None:
    """From `repsim.nearest` on: lists in turn among block after block, and rows that one product leaves open."""
    emulated_gpu.install(monkeypatch)
    for name, stand_in in (("_call", hopper_cases.operations()._call), ("available", lambda device: True)):
        monkeypatch.setattr(hopper, name, stand_in)
    monkeypatch.setenv("REPSIM_HOPPER", "1")
    monkeypatch.setattr(hopper, "lists_fit", lambda n, device, room: not in_turn)
    if in_turn:
        monkeypatch.setattr("repsim.blocks.PACKED_BUDGET", 2**14)
    x = np.random.default_rng(0).normal(size=(410, 21)).astype(np.float32)
    x[::2] += 20
    other = x[:300].copy() if base else None
    rows = emulated_gpu.on_gpu(x), None if other is None else emulated_gpu.on_gpu(other, "base")
    options = {"metric": "euclidean", "filter": filter, "block_rows": 192}
    there = repsim.nearest(rows[0], 5, base=rows[1], **options)
    here = repsim.nearest(x, 5, base=other, metric="euclidean")
    np.testing.assert_array_equal(there.indices.numpy(), here.indices)
    np.testing.assert_array_equal(there.scores.numpy(), here.scores)
    assert there.filter == {"float32": "bfloat16x6"}.get(filter, filter)


def test_neither_the_order_nor_the_grid_changes_a_bit(
    on_the_machine: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [hopper_cases.rows_of(400, d, "random", d) for d in (64, 40)]
    found = []
    for seed, clusters in ((1, 1), (2, 2), (3, 5)):
        monkeypatch.setenv("REPSIM_PTX_SEED", str(seed))
        monkeypatch.setenv("REPSIM_PTX_CLUSTERS", str(clusters))
        found.append(hopper_cases.run_sums(rows, "rbf linear", "medium")[:2])
    for sums, products in found[1:]:
        assert torch.equal(sums, found[0][0]) and torch.equal(products, found[0][1])


def texts_of(path: Path) -> list[str]:
    """The PTX in a library."""
    return [text.decode() for text in re.findall(rb"\.version [^\0]*", path.read_bytes()) if b".entry" in text]


def without(text: str, pattern: str, which: int = 0) -> str:
    """A text less the instruction of the kernel that a pattern finds."""
    found = list(re.finditer(pattern, text))[which]
    return text[: found.start()] + text[found.end() :]


# What the kernel cannot do without, by what takes its place: an instruction, which of them, the case that shows it.
SUMS_CASE = ("sums_are_right", {"n": 400, "d": 130, "other": 130, "kinds": "rbf rbf", "precision": "medium"})
SEARCH_CASE = ("search_is_right", {"n": 300, "d": 130, "metric": "euclidean", "rows": "random"})
NEEDED = [
    pytest.param("sums_kernel", r"wgmma\.wait_group\S* 1;", 0, SUMS_CASE, id="sums-waits-for-products"),
    pytest.param("sums_kernel", r"mbarrier\.arrive\.shared::cluster\S*\s+_, \[remAddr32\];", 0, SUMS_CASE,
                 id="sums-gives-stages-back"),
    pytest.param("sums_kernel", r"bar\.sync\s+%r\d+, 128;", 0, SUMS_CASE, id="sums-waits-for-halves"),
    pytest.param("sums_kernel", r"bar\.sync\s+%r\d+, 128;", 1, SUMS_CASE, id="sums-waits-for-columns"),
    pytest.param("select_kernel", r"bar\.sync\s+%r\d+, 128;", 0, SEARCH_CASE, id="search-waits-for-the-last-tile"),
    pytest.param("select_kernel", r"bar\.sync\s+%r\d+, 128;", 1, SEARCH_CASE, id="search-waits-for-thresholds"),
]  # fmt: skip


@pytest.mark.parametrize(("kernel", "pattern", "which", "case"), NEEDED)
def test_a_kernel_without_a_barrier_is_found_out(
    on_the_machine: ctypes.CDLL, kernel: str, pattern: str, which: int, case: tuple[str, dict[str, Any]]
) -> None:
    assert FOLDER is not None
    text = next(text for text in texts_of(Path(FOLDER) / "_hopper.so") if kernel in text)
    broken = without(text, pattern, which)
    assert on_the_machine.repsim_ptx_load(broken.encode()) is None
    try:
        with pytest.raises(RuntimeError, match=r"with no barrier between|all warps wait"):
            getattr(hopper_cases, case[0])(**case[1])
    finally:
        assert on_the_machine.repsim_ptx_load(text.encode()) is None
