"""Data larger than memory: maps of files that are read ahead and given back, and budgets that are kept."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import repsim
from repsim import blocks
from repsim.arguments import memory_budget
from repsim.arrays import RESIDENT_BYTES, as_rows

# ---------------------------------------------------------------------------------------------- the argument


@pytest.mark.parametrize(
    ("given", "size"),
    [
        (None, None),
        (1, 1),
        (np.int64(5000), 5000),
        ("4096", 4096),
        ("512MiB", 512 * 2**20),
        ("1GB", 10**9),
        ("1.5 gib", 3 * 2**29),
        (" 20 kB ", 20_000),
        ("2T", 2 * 10**12),
        ("7B", 7),
    ],
)
def test_budgets(given: Any, size: int | None) -> None:
    assert memory_budget(given, function="test") == size


@pytest.mark.parametrize("given", ["", "GB", "-1GB", "1 PB", "1,5GB", "0", "0.0001k", "nan"])
def test_budgets_of_another_form(given: str) -> None:
    with pytest.raises(ValueError, match=r"\[test\] expected memory as bytes or text such as \"512MiB\" or \"1GB\""):
        memory_budget(given, function="test")


def test_budgets_that_are_no_numbers() -> None:
    for given in (1.5, True, [1]):
        with pytest.raises(TypeError, match=r"\[test\] expected memory as bytes or text such as \"512MiB\", got"):
            memory_budget(given, function="test")
    with pytest.raises(ValueError, match=r"\[test\] expected memory of at least 1, got 0"):
        memory_budget(0, function="test")


def test_blocks_fit_the_budget() -> None:
    depths = [512, 512]
    for memory in (13 * 2**20, 50 * 2**20, 10**9):
        plan = blocks.traversal(10**6, 10**6, depths, symmetric=True, block_rows=None, memory=memory)
        assert 3 * plan.block_rows * 1024 * 4 + RESIDENT_BYTES <= memory
    assert blocks.traversal(10**6, 10**6, depths, symmetric=True, block_rows=400, memory=10**9).block_rows == 384
    with pytest.raises(ValueError, match=r"\[cka\] expected memory of at least \d+ bytes .* three blocks of 192 rows"):
        blocks.traversal(10**6, 10**6, depths, symmetric=True, block_rows=None, memory=10**6, function="cka")


@pytest.mark.parametrize(
    ("rows", "columns", "symmetric", "packed"),
    [
        pytest.param(10, 10, True, 1 + 4 * 3 // 2, id="triangle"),
        pytest.param(3, 3, True, 1, id="one-block"),
        pytest.param(7, 10, False, 3 + 3 * 4, id="other-rows"),
    ],
)
def test_pairs_of_blocks_take_over_what_is_packed(rows: int, columns: int, symmetric: bool, packed: int) -> None:
    plan = blocks.Traversal(rows, columns, 3, symmetric)
    made = []

    def pack(side: str, first: int, count: int) -> tuple[str, int]:
        made.append((side, first, count))
        return side, first

    other = None if symmetric else lambda *block: pack("j", *block)
    seen = np.zeros((rows, columns), int)
    for i, j, span in blocks.packed_pairs(plan, lambda *block: pack("i", *block), other):
        assert (i, j) == (("i", span.first_i), ("i" if symmetric else "j", span.first_j))
        down, across = (slice(f, f + r) for f, r in ((span.first_i, span.rows_i), (span.first_j, span.rows_j)))
        seen[down, across] += 1
        if symmetric and down != across:
            seen[across, down] += 1
    assert (seen == 1).all()
    assert len(made) == packed


# ---------------------------------------------------------------------------------------------- maps of files


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", np.arange(6000 * 100, dtype=np.float32).reshape(6000, 100))
    return tmp_path / "x.npy"


def test_which_memory_is_a_map(saved: Path, tmp_path: Path) -> None:
    def mapping(x: Any) -> Any:
        return as_rows(x, function="test", name="x").mapping

    mapped = np.load(saved, mmap_mode="r")
    assert isinstance(mapping(mapped), mmap.mmap)
    assert mapping(mapped[100:200, 3:50]) is mapping(mapped)
    assert mapping(np.array(mapped)) is None
    # Written pages of a private map are in no file: to give them back would lose them.
    assert mapping(np.load(saved, mmap_mode="c")) is None
    assert mapping(np.load(saved, mmap_mode="r+")) is None
    ids = np.arange(6000)
    store = repsim.Store.from_arrays(tmp_path / "a.store", ids, {"fc": np.array(mapped)})
    assert isinstance(mapping(store["fc"]), mmap.mmap)


@pytest.mark.parametrize("view", [slice(None), slice(7, 5900, 3), slice(None, None, -1)], ids=str)
def test_only_pages_of_the_rows_are_given_back(saved: Path, view: slice) -> None:
    given: list[tuple[str, int, int]] = []
    native = mmap.mmap.madvise

    class Noting(mmap.mmap):
        def madvise(self, option: int, start: int = 0, length: int = 0) -> None:
            given.append((option, start, start + length))
            native(self, option, start, length)

    with open(saved, "rb") as file:
        noting = Noting(file.fileno(), 0, access=mmap.ACCESS_READ)
    base = np.frombuffer(noting, np.float32, offset=128).reshape(6000, 100)[view]
    rows = as_rows(base, function="test", name="x")
    assert rows.mapping is noting
    copy = np.array(base)
    rows.prefetch(10, 500)
    rows.release(0, 1000)
    rows.release(1000, len(rows))
    rows.release(5, 5)
    assert given
    assert all(start % mmap.PAGESIZE == 0 and 0 <= start < stop <= len(noting) for _, start, stop in given)
    np.testing.assert_array_equal(base, copy)


def test_sweeps_cover_every_row_once() -> None:
    rows = as_rows(np.zeros((5000, 2048)), function="test", name="x")
    ranges = list(rows.sweep(10, 4000, multiple=192))
    assert [start for start, _ in ranges] == [10, *(stop for _, stop in ranges[:-1])]
    assert ranges[-1][1] == 4000
    assert {stop - start for start, stop in ranges[:-1]} == {576}  # 8 MiB are 512 rows; whole tiles of 192


# ---------------------------------------------------------------------------------------------- resident memory

CODE = """
import json, sys
import numpy as np
import repsim

def resident(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name + ":")) * 1024

folder, rows, width = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
a, b = (np.memmap(f"{folder}/{side}.bin", np.float32, "r", shape=(rows, width)) for side in "ab")
small = np.random.default_rng(0).standard_normal((2, 700, 8), dtype=np.float32)
repsim.cka(*small); repsim.cka(*small, kernel=repsim.RBF(sigma=2.0)); repsim.nearest(small[0], k=3)  # loads libraries
open("/proc/self/clear_refs", "w").write("5")
before = resident("VmRSS")
value = CALL
print(json.dumps([float(value), resident("VmHWM") - before, resident("VmRSS") - before]))
"""


def sparse_layers(folder: Path, rows: int, width: int) -> None:
    """Two layers of mostly zeros, which take next to no disk, with a few rows of numbers in every part."""
    rng = np.random.default_rng(0)
    for side in "ab":
        mapped = np.memmap(folder / f"{side}.bin", np.float32, "w+", shape=(rows, width))
        for at in range(0, rows, max(rows // 16, 1)):
            mapped[at : at + 8] = rng.standard_normal((len(mapped[at : at + 8]), width))
        mapped.flush()


def run(folder: Path, rows: int, width: int, call: str) -> tuple[float, float, float]:
    package = str(Path(repsim.__file__).parents[1])
    code = f"import sys; sys.path.insert(0, {package!r})\n" + CODE.replace("CALL", call)
    command = [sys.executable, "-c", code, str(folder), str(rows), str(width)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    value, peak, after = json.loads(done.stdout)
    return value, peak / 2**20, after / 2**20


needs_linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="asks Linux for resident memory")


@needs_linux
@pytest.mark.parametrize(
    ("call", "rows", "width", "budget"),
    [
        # 1 GiB a layer, whose products take 3 * 132 KiB.
        pytest.param("repsim.cka(a, b, memory='64MiB')", 2**21, 128, 64, id="feature-space-2GiB"),
        pytest.param("repsim.cka(a[:, :32], b[:, :64], memory='40MiB')", 2**18, 512, 40, id="columns-of-a-wider-file"),
        pytest.param(
            "repsim.streaming.LinearCKA().consume("
            "(a[i : i + 5000], b[i : i + 5000]) for i in range(0, len(a), 5000))",
            2**19, 128, 64, id="stream-of-slices",
        ),
        # 64 MiB a layer: more than the budget, and work that a test may take.
        pytest.param(
            "repsim.cka(a, b, kernel=repsim.RBF(sigma=90.0), memory='48MiB')", 2**12, 4096, 48, id="tiles-128MiB"
        ),
    ],
)  # fmt: skip
def test_resident_memory_stays_within_the_budget(call: str, rows: int, width: int, budget: int, tmp_path: Path) -> None:
    """What the process holds beyond the start, pages of the files among it, and an eighth more for temporaries."""
    sparse_layers(tmp_path, rows, width)
    value, peak, after = run(tmp_path, rows, width, call)
    assert np.isfinite(value)
    assert peak < budget * 1.125 + 16, f"peak {peak:.0f} MiB"
    assert after < budget / 2 + 16, f"afterwards {after:.0f} MiB"


@needs_linux
@pytest.mark.parametrize("filter", ["float32", "auto"])
def test_the_search_gives_memory_maps_back(filter: str, tmp_path: Path) -> None:
    """Of rows that take 64 MiB: while candidates are ranked, the system maps what lies around them."""
    rows, width, budget = 2**13, 2048, 32
    for side in "ab":
        np.random.default_rng(0).standard_normal((rows, width), dtype=np.float32).tofile(tmp_path / f"{side}.bin")
    call = f"repsim.nearest(a, k=5, filter='{filter}', memory='{budget}MiB').scores[0, 0]"
    value, peak, after = run(tmp_path, rows, width, call)
    assert np.isfinite(value)
    assert peak < budget * 1.125 + 16 + 64, f"peak {peak:.0f} MiB"
    assert after < budget / 2 + 16, f"afterwards {after:.0f} MiB"


@pytest.mark.parametrize("filter", ["float32", "auto"])
def test_neighbours_do_not_depend_on_the_budget(filter: str) -> None:
    x = np.random.default_rng(2).standard_normal((3000, 120), dtype=np.float32)
    first = repsim.nearest(x, k=7, filter=filter)
    for memory in ("12MiB", "20MiB", 2**30):
        again = repsim.nearest(x, k=7, filter=filter, memory=memory)
        assert np.array_equal(again.indices, first.indices) and np.array_equal(again.scores, first.scores), memory
    with pytest.raises(ValueError, match=r"\[nearest\] expected memory of at least \d+ bytes .* blocks of 192 rows"):
        repsim.nearest(x, k=7, memory=1000)


@pytest.mark.parametrize("kernel", ["linear", repsim.RBF(sigma=5.0)], ids=["feature-space", "tiles"])
def test_bits_do_not_depend_on_the_budget_or_on_where_rows_lie(kernel: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2500, 40), dtype=np.float32)
    y = (np.tanh(x[:, :30]) + rng.standard_normal((2500, 30))).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    mapped = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "xy"]
    first = repsim.cka(x, y, kernel=kernel)
    for a, b, how in (
        (x, y, {"memory": "12MiB"}),
        (*mapped, {"memory": "12MiB", "threads": 3}),
        (*mapped, {"threads": 1}),
        (x, y, {"memory": 2**30, "threads": 2}),
    ):
        again = repsim.cka(a, b, kernel=kernel, **how)
        assert (again.value, again.z, again.p) == (first.value, first.z, first.p), how


@needs_linux
@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_the_measurement_runs(kernel: str, tmp_path: Path) -> None:
    command = ["-m", "bench.out_of_core", "--size", "2MB", "--memory", "32MB", "--width", "64", "--kernel"]
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, *command, kernel, "--folder", str(tmp_path)],
        capture_output=True, text=True, timeout=120, cwd=root, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"{kernel} CKA of 3906 rows, 2 layers of 64 float32: 0.00 GB" in done.stdout
    assert "budget 32 MB, peak growth of VmHWM" in done.stdout
    assert not list(tmp_path.iterdir()), "the store is removed"
