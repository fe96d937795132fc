"""The store against plain numpy copies, against damage, and against SIGKILL at every system call of an append."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import repsim.store as store_module
from repsim import layout
from repsim.interchange import from_bfloat16, to_bfloat16
from repsim.store import Store, StoreCorruptedError, StoreInUseError, require_same_samples


def rows_of(ids, width: int, dtype: str = "float32") -> np.ndarray:
    """Rows that can be computed again from their ids alone: what a store must give back after any interruption."""
    values = np.asarray(ids, dtype=np.float64)[:, None] * 8 + np.arange(width)
    return values.astype(dtype)


def two_layers(ids) -> dict[str, np.ndarray]:
    return {"a": rows_of(ids, 3), "b": rows_of(ids, 5, "float64")}


def run_python(code: str, *arguments: object) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def finished(tmp_path: Path) -> Store:
    return Store.from_arrays(tmp_path / "a.store", np.arange(10), two_layers(np.arange(10)), metadata={"model": "cnn"})


# What goes in comes out


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_rows_come_back_bit_for_bit(tmp_path, dtype):
    x = np.random.default_rng(0).standard_normal((50, 7)).astype(dtype)
    x[3, 2], x[4, 1] = np.nan, -0.0
    with Store.create(tmp_path / "s", metadata={"k": (1, 2)}) as store:
        store.append(range(20), {"x": x[:20]})
        store.append(np.arange(20, 50, dtype=np.uint8), {"x": x[20:]})
        store.finish()
    again = Store.open(tmp_path / "s")
    assert again["x"].tobytes() == x.tobytes()
    assert again.dtype("x") == dtype and again.width("x") == 7 and len(again) == 50
    assert again.ids.dtype == np.int64 and np.array_equal(again.ids, np.arange(50))
    assert again.metadata == {"k": [1, 2]} == store.metadata
    assert again.finished and not again.writable
    again.verify()


def test_files_are_plain_npy_before_and_after_finish(tmp_path):
    with Store.create(tmp_path / "s") as store:
        store.append([5, 3], two_layers([5, 3]))
        store.append([9], two_layers([9]))
        for _ in ("unfinished", "finished"):
            plain = np.load(tmp_path / "s" / "001-b.npy", allow_pickle=False)
            assert np.array_equal(plain, rows_of([5, 3, 9], 5, "float64"))
            assert np.array_equal(np.load(tmp_path / "s" / "ids.npy", allow_pickle=False), [5, 3, 9])
            if store.writable:
                store.finish()


def test_checksums_are_those_of_the_whole_files(finished):
    manifest = json.loads((finished.path / "manifest.json").read_text())
    for entry in [manifest["ids"], *manifest["layers"]]:
        assert hashlib.sha256((finished.path / entry["file"]).read_bytes()).hexdigest() == entry["sha256"]


def test_reading_is_a_read_only_memmap_of_the_file(finished):
    x = finished["a"]
    assert isinstance(x, np.memmap) and not x.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        x[0, 0] = 1
    assert isinstance(finished.ids, np.memmap) and not finished.ids.flags.writeable


def test_a_slice_of_a_large_layer_does_not_load_it(tmp_path):
    # 2 GiB that occupy no disk: a sparse file under a manifest that says so. Loading it all would show in the memory.
    Store.from_arrays(tmp_path / "s", [0], {"x": np.ones((1, 1024), np.float32)})
    manifest_path = tmp_path / "s" / "manifest.json"
    manifest = json.loads(manifest_path.read_text())
    manifest["rows"] = 1 << 19
    manifest_path.write_text(json.dumps(manifest))
    os.truncate(tmp_path / "s" / "000-x.npy", 128 + (1 << 31))
    os.truncate(tmp_path / "s" / "ids.npy", 128 + (1 << 22))
    # The peak of this process alone: on Linux the ru_maxrss of a child starts from the peak of its parent.
    code = (
        "import resource, sys; from pathlib import Path; from repsim.store import Store; s = Store.open(sys.argv[1])\n"
        "assert s['x'].shape == (1 << 19, 1024) and s['x'][-5:].sum() == 0\n"
        "assert s.read('x', slice(7, 9)).shape == (2, 1024)\n"
        "status = Path('/proc/self/status')\n"
        "peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == 'darwin' else 1)\n"
        "lines = status.read_text().splitlines() if status.exists() else []\n"
        "print(next((int(line.split()[1]) for line in lines if line.startswith('VmHWM')), peak))"
    )
    out, err = run_python(code, tmp_path / "s").communicate(timeout=20)
    assert int(out) < 500_000, err


@pytest.mark.parametrize("rows", [slice(2, 6), slice(None, None, 3), [7, 0, 7], np.array([9, 1])])
def test_read_copies_rows(finished, rows):
    got = finished.read("a", rows)
    assert type(got) is np.ndarray and got.flags.writeable and np.array_equal(got, two_layers(np.arange(10))["a"][rows])


def test_append_takes_any_memory_order_and_byte_order(tmp_path):
    x = np.random.default_rng(1).standard_normal((12, 6)).astype(np.float32)
    with Store.create(tmp_path / "s") as store:
        store.append(range(6), {"x": np.asfortranarray(x[:6])})
        store.append(range(6, 9), {"x": x[6:9].astype(">f4")})
        store.append(range(9, 12), {"x": np.repeat(x[9:], 2, axis=0)[::2]})
    assert np.array_equal(Store.open(tmp_path / "s")["x"], x)


def test_large_appends_are_written_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "BLOCK_BYTES", 40)  # three rows of 12 bytes
    Store.from_arrays(tmp_path / "s", np.arange(10), two_layers(np.arange(10)))
    assert np.array_equal(Store.open(tmp_path / "s")["a"], rows_of(np.arange(10), 3))


@given(
    bits=hnp.arrays(np.uint32, st.integers(1, 40)),
)
@settings(max_examples=50, deadline=None)
def test_bfloat16_rounds_to_the_nearest_and_ties_to_even(bits):
    x = bits.view(np.float32)
    got = to_bfloat16(x)
    back = from_bfloat16(got)
    assert np.array_equal(np.isnan(back), np.isnan(x))
    for value, code in zip(x[np.isfinite(x)], got[np.isfinite(x)], strict=True):
        # Oracle: the nearer of the two neighbours in float64 (beyond the largest: 2**128), the even on a tie.
        low = int(value.view(np.uint32)) >> 16
        candidates = []
        for candidate in (low, low + 1):
            magnitude = np.array([(candidate & 0x7FFF) << 16], np.uint32).view(np.float32).astype(np.float64)[0]
            candidates.append(
                (abs((2.0**128 if np.isinf(magnitude) else magnitude) - abs(float(value))), candidate & 1, candidate)
            )
        assert int(code) == min(candidates)[2]


def test_bfloat16_special_values():
    x = np.array([np.inf, -np.inf, 0.0, -0.0, 3.4e38], np.float32)
    assert [hex(b) for b in to_bfloat16(x)] == ["0x7f80", "0xff80", "0x0", "0x8000", "0x7f80"]
    halfway = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0xBF817FFF], np.uint32).view(np.float32)
    assert [hex(b) for b in to_bfloat16(halfway)] == ["0x3f80", "0x3f82", "0x3f81", "0xbf81"]
    payload = np.array([0x7F800001, 0xFFFFFFFF], np.uint32).view(np.float32)
    assert np.isnan(from_bfloat16(to_bfloat16(payload))).all()
    assert to_bfloat16(np.zeros((0, 3), np.float32)).shape == (0, 3)
    with pytest.raises(TypeError, match=r"\[to_bfloat16\] expected values of dtype float32, got float64"):
        to_bfloat16(np.zeros(3))
    with pytest.raises(TypeError, match=r"\[from_bfloat16\] expected bits of dtype uint16, got float32"):
        from_bfloat16(np.zeros(3, np.float32))


def test_bfloat16_layers_agree_with_torch(tmp_path):
    torch = pytest.importorskip("torch")
    x = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    assert np.array_equal(to_bfloat16(x.numpy()), x.bfloat16().view(torch.uint16).numpy())
    Store.from_arrays(tmp_path / "s", range(9), {"x": to_bfloat16(x.numpy())})
    store = Store.open(tmp_path / "s")
    assert store.dtype("x") == "bfloat16" and store["x"].dtype == np.uint16
    assert store.read("x").dtype == np.float32 and np.array_equal(store.read("x"), x.bfloat16().float().numpy())


def test_layer_names_map_to_files_that_are_safe_and_different(tmp_path):
    names = [
        "a/b",
        "a_b",
        "A_b",
        "../../etc/passwd",
        "läyer·0",
        "ids",
        "manifest.json",
        "x" * 300,
        "层",
        "屋",
        " ",
        "a\nb",
        ".lock",
    ]
    x = {name: rows_of([1, 2], i + 1) for i, name in enumerate(names)}
    store = Store.from_arrays(tmp_path / "s", [1, 2], x)
    assert store.layers == tuple(names) == tuple(store)
    files = [entry.name for entry in (tmp_path / "s").glob("*.npy")]
    assert len({name.lower() for name in files}) == len(names) + 1
    assert all(name.isascii() and len(name) < 100 for name in files)
    assert [entry.name for entry in tmp_path.iterdir()] == ["s"]
    for name in names:
        assert name in store and np.array_equal(Store.open(tmp_path / "s")[name], x[name])


# What is refused


@pytest.mark.parametrize(
    ("ids", "rows", "error", "match"),
    [
        ([1, 2], two_layers([1]), ValueError, r"\[append\] expected rows\['a'\] of shape \[2, 3\], got \[1, 3\]"),
        (
            [1],
            {"a": rows_of([1], 3), "b": rows_of([1], 5)},
            TypeError,
            r"rows\['b'\] of float64 as before, got float32",
        ),
        (
            [1],
            {"a": rows_of([1], 4), "b": rows_of([1], 5, "float64")},
            ValueError,
            r"rows\['a'\] of shape \[1, 3\], got \[1, 4\]",
        ),
        ([1], {"a": rows_of([1], 3)}, ValueError, r"exactly the layers \['a', 'b'\], got \['a'\]"),
        (
            [1],
            {**two_layers([1]), "c": rows_of([1], 1)},
            ValueError,
            r"exactly the layers \['a', 'b'\], got \['a', 'b', 'c'\]",
        ),
        ([0], two_layers([0]), ValueError, r"\[append\] expected ids that occur once in the store, got 0 again"),
        ([8, 8], two_layers([8, 8]), ValueError, r"occur once in the store, got 8 again"),
        ([], {}, ValueError, r"ids of shape \[m\] with m >= 1, got \[0\]"),
        ([[1]], two_layers([1]), ValueError, r"ids of shape \[m\] with m >= 1, got \[1, 1\]"),
        ([1.0], two_layers([1]), TypeError, r"expected integer ids, got float64"),
        ([True], two_layers([1]), TypeError, r"expected integer ids, got bool"),
        (np.array([2**63], np.uint64), two_layers([1]), ValueError, r"fit into int64, got 9223372036854775808"),
    ],
)
def test_append_refuses_and_changes_nothing(tmp_path, ids, rows, error, match):
    with Store.create(tmp_path / "s") as store:
        store.append([0, 5], two_layers([0, 5]))
        with pytest.raises(error, match=match):
            store.append(ids, rows)
        store.append([6], two_layers([6]))
        store.finish()
    assert np.array_equal(Store.open(tmp_path / "s")["b"], rows_of([0, 5, 6], 5, "float64"))


@pytest.mark.parametrize(
    ("rows", "error", "match"),
    [
        ({}, ValueError, r"rows of at least one layer, got none"),
        ({"a": np.zeros((1, 2), np.int64)}, TypeError, r"rows\['a'\] of float16, .*, got int64"),
        ({"a": np.zeros((1, 2), object)}, TypeError, r"rows\['a'\] of float16, .*, got object"),
        ({"a": np.zeros((1, 2), np.complex64)}, TypeError, r"rows\['a'\] of float16, .*, got complex64"),
        ({"a": [[1.0]]}, TypeError, r"rows\['a'\] as a numpy array, got list"),
        ({"a": np.zeros(1)}, ValueError, r"rows\['a'\] of shape \[m, d\] with d >= 1, got \[1\]"),
        ({"a": np.zeros((1, 0))}, ValueError, r"rows\['a'\] of shape \[m, d\] with d >= 1, got \[1, 0\]"),
        ({"": np.zeros((1, 1))}, TypeError, r"layer names that are non-empty strings, got ''"),
        ({3: np.zeros((1, 1))}, TypeError, r"layer names that are non-empty strings, got 3"),
    ],
)
def test_first_append_refuses(tmp_path, rows, error, match):
    with Store.create(tmp_path / "s") as store, pytest.raises(error, match=match):
        store.append([0], rows)
    assert len(Store.open(tmp_path / "s")) == 0


def test_repeated_ids_are_found_in_any_order_of_appends(tmp_path):
    generator = np.random.default_rng(3)
    ids = generator.permutation(300)
    with Store.create(tmp_path / "s") as store:
        for part in np.split(ids, [40, 41, 100, 250]):
            store.append(part, {"x": rows_of(part, 1)})
            with pytest.raises(ValueError, match="occur once"):
                store.append([1000, int(generator.choice(part))], {"x": rows_of([0, 0], 1)})
    with Store.open(tmp_path / "s", "a") as store:
        with pytest.raises(ValueError, match=f"got {ids[120]} again"):
            store.append([ids[120]], {"x": rows_of([0], 1)})
        store.append([-1, 5000], {"x": rows_of([-1, 5000], 1)})
    assert np.array_equal(Store.open(tmp_path / "s").ids, [*ids, -1, 5000])


def test_unknown_layer_lists_close_names(finished):
    with pytest.raises(ValueError, match=r"\[Store\] expected layer in .*a\.store, such as \['a', 'b'\], got 'conv9'"):
        finished["conv9"]
    with pytest.raises(ValueError, match="got 0"):
        finished[0]


def test_reading_and_writing_need_the_right_mode(tmp_path, finished):
    with pytest.raises(
        ValueError, match=r"\[append\] expected a store opened with mode 'a', got .*a\.store open for reading"
    ):
        finished.append([99], two_layers([99]))
    with pytest.raises(ValueError, match=r"\[finish\] expected a store opened with mode 'a'"):
        finished.finish()
    with pytest.raises(ValueError, match=r"\[Store.open\] expected mode 'r' or 'a', got 'w'"):
        Store.open(finished.path, "w")
    for mode in "ra":
        with pytest.raises(
            FileNotFoundError, match=r"\[Store.open\] expected a store, got .*nothing without a manifest.json"
        ):
            Store.open(tmp_path / "nothing", mode)
    assert not (tmp_path / "nothing").exists()
    with pytest.raises(
        FileExistsError, match=r"\[Store.create\] expected path to be new or empty, got .*a\.store with files"
    ):
        Store.create(finished.path)
    with (
        Store.create(tmp_path / "empty") as store,
        pytest.raises(ValueError, match=r"\[finish\] expected at least one row"),
    ):
        store.finish()


@pytest.mark.parametrize("metadata", [{"x": object()}, {"x": float("nan")}, {"x": np.float32(1)}])
def test_metadata_must_be_json(tmp_path, metadata):
    with pytest.raises((TypeError, ValueError), match=r"\[Store.create\] expected metadata that JSON can hold"):
        Store.create(tmp_path / "s", metadata=metadata)
    assert not (tmp_path / "s").exists()


# Two writers


def test_a_second_writer_is_refused_and_told_who_writes(tmp_path):
    with Store.create(tmp_path / "s") as store:
        store.append([1], two_layers([1]))
        with pytest.raises(
            StoreInUseError, match=rf"expected .*s to be free for writing, got it in use by process {os.getpid()}$"
        ):
            Store.open(tmp_path / "s", "a")
        code = "import sys; from repsim.store import Store; Store.open(sys.argv[1], 'a')"
        _, err = run_python(code, tmp_path / "s").communicate(timeout=20)
        assert f"StoreInUseError: [Store] expected {tmp_path / 's'} to be free for writing" in err
        assert len(Store.open(tmp_path / "s")) == 1  # reading is free
        store.append([2], two_layers([2]))
    with Store.open(tmp_path / "s", "a") as store:
        assert len(store) == 2


def test_create_is_refused_while_another_creates(tmp_path):
    (tmp_path / "s").mkdir()
    lock = store_module._acquire(tmp_path / "s")
    with pytest.raises(StoreInUseError):
        Store.create(tmp_path / "s")
    lock.close()
    Store.create(tmp_path / "s").close()


def test_a_reader_keeps_its_rows_while_a_writer_goes_on(tmp_path):
    with Store.create(tmp_path / "s") as writer:
        writer.append([1, 2], two_layers([1, 2]))
        reader = Store.open(tmp_path / "s")
        before = reader["a"]
        writer.append([3], two_layers([3]))
        assert len(reader) == 2 and np.array_equal(before, rows_of([1, 2], 3)) and reader["a"].shape == (2, 3)
        assert Store.open(tmp_path / "s")["a"].shape == (3, 3)
        writer.finish()
        assert np.array_equal(before, rows_of([1, 2], 3))


# Crashes

KILLED_AT_CALL = """
import io, os, signal, sys
import numpy as np
import repsim.store as module
from repsim import layout

path, die_at, torn = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "torn"
def rows(ids):
    values = np.asarray(ids, dtype=np.float64)[:, None] * 8
    return {"a": (values + np.arange(3)).astype("float32"), "b": values + np.arange(5)}
def scenario():
    layout.BLOCK_BYTES = 64
    if os.path.exists(os.path.join(path, "manifest.json")):
        store = module.Store.open(path, "a")
    else:
        store = module.Store.create(path)
    start = len(store)
    store.append(range(start, start + 4), rows(range(start, start + 4)))
    store.append(range(start + 4, start + 6), rows(range(start + 4, start + 6)))
    store.finish()
    return start

calls = 0
def dying(call, half=None):
    def wrapped(*arguments):
        global calls
        calls += 1
        if calls == die_at:
            if half is not None and torn:
                half(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments)
    return wrapped
module.os.fsync = dying(os.fsync)
module.os.replace = dying(os.replace, os.replace)
whole = layout._write_all
layout._write_all = dying(whole, lambda file, data: whole(file, memoryview(data)[: len(data) // 2]))
# Forking costs a hundredth of an interpreter start: one process tries every call.
die_at = 0
outcomes = []
for point in range(1, 200):
    child = os.fork()
    if child == 0:
        die_at = point
        scenario()
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
        break
    if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
        sys.exit(f"call {point}: status {status}")
    try:
        store = module.Store.open(path)
    except FileNotFoundError:
        outcomes.append(-1)
        continue
    count = len(store)
    expected = rows(range(count))
    if list(store.ids) != list(range(count)):
        sys.exit(f"call {point}: ids {store.ids}")
    for layer in store:
        if not np.array_equal(store[layer], expected[layer]):
            sys.exit(f"call {point}: rows of {layer} differ")
        plain = np.load(os.path.join(path, {"a": "000-a.npy", "b": "001-b.npy"}[layer]), allow_pickle=False)
        if len(plain) > count or not np.array_equal(plain, expected[layer][:len(plain)]):
            sys.exit(f"call {point}: numpy reads other rows of {layer}")
    if store.finished:
        store.verify()
    outcomes.append(count)
    # Half of the points go on from what the killed one left, the others from nothing.
    if point % 2:
        import shutil
        shutil.rmtree(path)
print(*outcomes)
"""


@pytest.mark.parametrize("torn", ["before", "torn"])
def test_a_writer_killed_at_any_call_leaves_the_committed_rows(tmp_path, torn):
    """SIGKILL before, or in the middle of, every write, flush and rename of create, two appends and finish."""
    out, err = run_python(KILLED_AT_CALL, tmp_path / "s", 0, torn).communicate(timeout=60)
    outcomes = [int(word) for word in out.split()]
    assert len(outcomes) > 25, err
    assert err == ""
    assert {-1, 0, 4, 6} <= set(outcomes)
    store = Store.open(tmp_path / "s")
    assert store.finished and np.array_equal(store["a"], rows_of(np.arange(len(store)), 3))
    store.verify()


APPENDING = """
import sys
import numpy as np
from repsim.store import Store
try:
    store = Store.open(sys.argv[1], "a")
except FileNotFoundError:
    store = Store.create(sys.argv[1])
width = 40_000
while True:
    ids = np.arange(len(store), len(store) + 3)
    narrow, wide = ids[:, None] * 8.0 + np.arange(3), np.repeat(ids[:, None], width, 1)
    store.append(ids, {"a": narrow.astype("float32"), "wide": wide.astype("float32")})
    print(len(store), flush=True)
"""


def test_a_writer_killed_at_random_times_can_always_be_continued(tmp_path):
    path, generator, rows = tmp_path / "s", np.random.default_rng(0), 0
    for _ in range(5):
        process = run_python(APPENDING, path)
        promised = int(process.stdout.readline())
        time.sleep(float(generator.uniform(0, 0.05)))
        process.send_signal(signal.SIGKILL)
        out, err = process.communicate(timeout=20)
        assert process.returncode == -signal.SIGKILL and err == ""
        promised = max([promised, *map(int, out.splitlines())])
        store = Store.open(path)  # the lock died with its holder
        # Whatever append() returned from is there; at most the one under way may have been committed as well.
        assert rows < promised <= len(store) <= promised + 3
        rows = len(store)
        assert np.array_equal(store.ids, np.arange(rows)) and np.array_equal(store["a"], rows_of(np.arange(rows), 3))
        assert (store["wide"] == np.arange(rows)[:, None]).all()
    with Store.open(path, "a") as store:
        assert {entry.stat().st_size for entry in path.glob("000-a.npy")} == {128 + 12 * rows}
        store.finish()
    store.verify()


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs a limit on the size of files")
def test_a_full_disk_loses_nothing_and_the_writer_goes_on(tmp_path):
    code = """
import resource, signal, sys
import numpy as np
from repsim.store import Store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = Store.create(sys.argv[1])
store.append([0], {"x": np.zeros((1, 1000), "float32"), "y": np.zeros((1, 1), "float32")})
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
try:
    store.append([1, 2, 3], {"x": np.ones((3, 1000), "float32"), "y": np.ones((3, 1), "float32")})
except OSError as error:
    print(type(error).__name__, len(store))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
store.append([4], {"x": np.full((1, 1000), 4, "float32"), "y": np.full((1, 1), 4, "float32")})
store.finish()
"""
    out, err = run_python(code, tmp_path / "s").communicate(timeout=20)
    assert out == "OSError 1\n", err
    store = Store.open(tmp_path / "s")
    store.verify()
    assert (store.path / "000-x.npy").stat().st_size == 128 + 2 * 4000
    assert list(store.ids) == [0, 4] and store["x"][1, 0] == 4 and list(store["y"][:, 0]) == [0, 4]


def test_what_a_failed_first_append_left_does_not_stay(tmp_path, monkeypatch):
    with Store.create(tmp_path / "s") as store:
        with monkeypatch.context() as patch:
            patch.setattr(store_module, "sync_folder", lambda folder: (_ for _ in ()).throw(OSError("full")))
            with pytest.raises(OSError, match="full"):
                store.append([1], two_layers([1]))
        store.append([2], {"other": rows_of([2], 2)})
        store.finish()
    assert sorted(entry.name for entry in (tmp_path / "s").glob("*.npy")) == ["000-other.npy", "ids.npy"]


def test_what_killed_writers_left_of_manifests_is_no_content(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / ".manifest.json.17.tmp").write_text("half")
    with Store.create(tmp_path / "s") as store:
        store.append([1], two_layers([1]))
    assert not Store.open(tmp_path / "s").finished
    with Store.open(tmp_path / "s", "a"):
        assert not list((tmp_path / "s").glob(".*.tmp"))
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / ".mine.tmp").write_text("precious")
    with pytest.raises(FileExistsError, match=r"^\[Store.create\] expected path to be new or empty"):
        Store.create(tmp_path / "t")


def test_a_doubtful_commit_ends_the_writing(tmp_path, monkeypatch):
    store = Store.create(tmp_path / "s")
    store.append([1], two_layers([1]))
    with monkeypatch.context() as patch:
        patch.setattr(store_module.os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            store.append([2], two_layers([2]))
    assert not store.writable and len(store) == 1
    with Store.open(tmp_path / "s", "a") as store:
        store.append([2], two_layers([2]))


def test_a_finished_store_can_grow(finished):
    path = finished.path
    with Store.open(path, "a") as store:
        store.append([10, 11], two_layers([10, 11]))
        assert not Store.open(path).finished
        with pytest.raises(
            ValueError, match=r"\[verify\] expected a finished store, got .*a\.store unfinished with 12 rows"
        ):
            store.verify()
        store.finish()
    Store.open(path).verify()
    assert np.array_equal(Store.open(path)["a"], rows_of(np.arange(12), 3))


def test_opening_to_append_does_not_change_a_finished_store(finished):
    before = {entry.name: entry.read_bytes() for entry in finished.path.glob("*.*") if entry.name != ".lock"}
    with Store.open(finished.path, "a") as store:
        store.finish()
    assert before == {entry.name: entry.read_bytes() for entry in finished.path.glob("*.*") if entry.name != ".lock"}


def test_a_corrupted_store_does_not_grow(finished):
    flip(finished.path / "000-a.npy", 130)
    with Store.open(finished.path, "a") as store, pytest.raises(StoreCorruptedError, match=r"000-a\.npy"):
        store.append([10], two_layers([10]))
    assert Store.open(finished.path).finished  # the old checksums still accuse the file


# Corruption


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("file", ["ids.npy", "000-a.npy", "001-b.npy"])
@pytest.mark.parametrize("position", [128, -1])
def test_verify_names_the_file_with_one_wrong_bit(finished, file, position):
    finished.verify()
    flip(finished.path / file, position)
    with pytest.raises(
        StoreCorruptedError, match=rf"\[verify\] expected .*{file} with SHA-256 \w+, got \w+: it is corrupted"
    ):
        Store.open(finished.path).verify()


def test_verify_notices_bytes_that_were_added(finished):
    with open(finished.path / "001-b.npy", "ab") as file:
        file.write(b"x")
    with pytest.raises(StoreCorruptedError, match=r"001-b\.npy"):
        Store.open(finished.path).verify()


def damage_missing(path: Path) -> None:
    path.unlink()


def damage_truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


def damage_dtype(path: Path) -> None:
    np.save(path, np.zeros((10, 3), np.float64))


def damage_width(path: Path) -> None:
    np.save(path, np.zeros((10, 4), np.float32))


def damage_order(path: Path) -> None:
    np.save(path, np.zeros((10, 3), np.float32, order="F"))


@pytest.mark.parametrize("mode", ["r", "a"])
@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (damage_missing, r"expected 000-a.npy in .*a\.store, got no such file"),
        (damage_truncated, r"expected 248 bytes in .*000-a.npy, got 247: it is truncated"),
        (damage_empty, r"expected a \.npy header in .*000-a.npy, got "),
        (damage_dtype, r"expected float32 \(10, 3\) in .*000-a.npy, got float64 \(10, 3\)"),
        (damage_width, r"expected float32 \(10, 3\) in .*000-a.npy, got float32 \(10, 4\)"),
        (damage_order, r"expected float32 \(10, 3\) in .*000-a.npy, got "),
    ],
)
def test_opening_names_a_damaged_file(finished, damage, match, mode):
    damage(finished.path / "000-a.npy")
    with pytest.raises(StoreCorruptedError, match=match):
        Store.open(finished.path, mode)
    with pytest.raises(StoreCorruptedError, match=r"000-a\.npy"):
        finished.verify()
    store_module._acquire(finished.path).close()  # the failed opening holds no lock


class Trap:
    """Unpickling one leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_no_pickle_is_ever_read(tmp_path, finished):
    trap = np.empty((10, 3), object)
    trap[:] = Trap(tmp_path / "trapped")
    np.save(finished.path / "000-a.npy", trap, allow_pickle=True)
    for mode in "ra":
        with pytest.raises(
            StoreCorruptedError, match=r"expected float32 in .*000-a.npy, got Python objects: no pickle is read"
        ):
            Store.open(finished.path, mode)
    with pytest.raises(StoreCorruptedError, match="Python objects"):
        finished.verify()
    (finished.path / "000-a.npy").write_bytes(pickle.dumps(Trap(tmp_path / "trapped")))
    with pytest.raises(StoreCorruptedError, match=r"expected a \.npy header in"):
        Store.open(finished.path)
    assert not (tmp_path / "trapped").exists()
    np.load(save_trap(tmp_path / "t.npy", trap), allow_pickle=True)  # the trap does work
    assert (tmp_path / "trapped").exists()


def save_trap(path: Path, trap: np.ndarray) -> Path:
    np.save(path, trap, allow_pickle=True)
    return path


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(version=2),
        lambda m: m.update(format="other"),
        lambda m: m.update(rows=-1),
        lambda m: m.update(rows="10"),
        lambda m: m.update(rows=0),
        lambda m: m.update(layers=[]),
        lambda m: m.pop("ids"),
        lambda m: m.update(metadata=3),
        lambda m: m["layers"][0].update(file="../001-b.npy"),
        lambda m: m["layers"][0].update(file="/etc/passwd"),
        lambda m: m["layers"][0].update(file="001-b.npy"),
        lambda m: m["layers"][0].update(name="b"),
        lambda m: m["layers"][0].update(dtype="object"),
        lambda m: m["layers"][0].update(dtype="int64"),
        lambda m: m["layers"][0].update(width=0),
        lambda m: m["layers"][0].update(extra=1),
    ],
)
def test_a_wrong_manifest_is_refused(finished, change):
    path = finished.path / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(
        StoreCorruptedError, match=r"\[Store.open\] expected a manifest of version 1 in .*manifest.json, got "
    ):
        Store.open(finished.path)


def test_a_manifest_that_is_not_json_is_refused(finished):
    (finished.path / "manifest.json").write_bytes(b"\xff{")
    with pytest.raises(StoreCorruptedError, match="expected a manifest of version 1"):
        Store.open(finished.path)


# Same samples


def test_require_same_samples(tmp_path):
    def with_ids(name, ids):
        return Store.from_arrays(tmp_path / name, ids, {name: rows_of(ids, 2)})

    a = with_ids("a", [4, 2, 7, 1])
    require_same_samples(a, with_ids("same", [4, 2, 7, 1]))
    with pytest.raises(
        ValueError,
        match=r"\[require_same_samples\] expected .*order with id 2 at position 1 like .*a, got id 7: "
        r"the same samples in another order, 2 of 4 positions differ",
    ):
        require_same_samples(a, with_ids("order", [4, 7, 2, 1]))
    with pytest.raises(
        ValueError, match=r"id 1 at position 3 like .*, got id 9: other samples, 1 of 4 positions differ"
    ):
        require_same_samples(a, with_ids("others", [4, 2, 7, 9]))
    with pytest.raises(ValueError, match=r"\[require_same_samples\] expected .*fewer with 4 samples like .*a, got 3"):
        require_same_samples(a, with_ids("fewer", [4, 2, 7]))


# safetensors


@pytest.fixture
def mixed(tmp_path: Path) -> Store:
    generator = np.random.default_rng(5)
    x = generator.standard_normal((11, 3)).astype(np.float32)
    arrays = {
        "half": x.astype(np.float16),
        "brain/层": to_bfloat16(x),
        "single": x,
        "double": x.astype(np.float64),
    }
    return Store.from_arrays(
        tmp_path / "mixed", generator.permutation(11), arrays, metadata={"seed": 3, "deep": {"a": [1]}}
    )


def test_safetensors_there_and_back(tmp_path, mixed, monkeypatch):
    monkeypatch.setattr(layout, "BLOCK_BYTES", 50)
    mixed.to_safetensors(tmp_path / "m.safetensors")
    again = Store.from_safetensors(tmp_path / "m.safetensors", tmp_path / "again")
    assert again.layers == mixed.layers and again.metadata == mixed.metadata and again.finished
    require_same_samples(mixed, again)
    for layer in mixed:
        assert again.dtype(layer) == mixed.dtype(layer) and again[layer].tobytes() == mixed[layer].tobytes()
    assert not list(tmp_path.glob("*.tmp"))


def test_the_safetensors_library_reads_what_was_written(tmp_path, mixed):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    mixed.to_safetensors(tmp_path / "m.safetensors")
    tensors = load_file(tmp_path / "m.safetensors")
    assert np.array_equal(tensors["repsim.ids"].numpy(), mixed.ids)
    assert tensors["brain/层"].dtype == torch.bfloat16
    for layer in mixed:
        assert np.array_equal(tensors[layer].double().numpy(), mixed.read(layer).astype(np.float64))


def test_a_file_that_the_safetensors_library_wrote_is_read(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    save_file({"z": x, "b": x.bfloat16(), "h": x.half()}, tmp_path / "f.safetensors", metadata={"from": "elsewhere"})
    store = Store.from_safetensors(tmp_path / "f.safetensors", tmp_path / "s", ids=range(10, 16))
    assert np.array_equal(store["z"], x.numpy()) and np.array_equal(store.read("b"), x.bfloat16().float().numpy())
    assert (
        store.dtype("h") == "float16"
        and store.metadata == {"from": "elsewhere"}
        and list(store.ids) == list(range(10, 16))
    )
    with pytest.raises(
        ValueError, match=r"\[from_safetensors\] expected either ids or a tensor 'repsim.ids' in .*, got neither"
    ):
        Store.from_safetensors(tmp_path / "f.safetensors", tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_safetensors_refusals(tmp_path, mixed):
    path = tmp_path / "m.safetensors"
    mixed.to_safetensors(path)
    with pytest.raises(
        FileExistsError, match=r"\[to_safetensors\] expected a path that does not exist, got .*m\.safetensors"
    ):
        mixed.to_safetensors(path)
    with pytest.raises(ValueError, match="got both"):
        Store.from_safetensors(path, tmp_path / "t", ids=range(11))
    with pytest.raises(FileExistsError, match=r"\[Store.create\]"):
        Store.from_safetensors(path, mixed.path)
    with Store.create(tmp_path / "u") as store:
        store.append([1], {"repsim.ids": rows_of([1], 1)})
        with pytest.raises(
            ValueError, match=r"\[to_safetensors\] expected a finished store, got .*u unfinished with 1 rows"
        ):
            store.to_safetensors(tmp_path / "u.safetensors")
        store.finish()
    with pytest.raises(ValueError, match=r"expected no layer called 'repsim.ids'"):
        store.to_safetensors(tmp_path / "u.safetensors")
    flip(mixed.path / "002-single.npy", 140)
    with pytest.raises(StoreCorruptedError, match=r"002-single\.npy"):
        mixed.to_safetensors(tmp_path / "v.safetensors")
    assert not list(tmp_path.glob("v.*"))


def entry(dtype="F32", shape=(2, 3), offsets=(0, 24)) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("header", "match"),
    [
        ({"x": entry("I32")}, r"tensor 'x' of I32 \[2, 3\], not \[n, d\] of F16, BF16, F32 or F64"),
        ({"x": entry(shape=(2, 3, 1))}, r"tensor 'x' of F32 \[2, 3, 1\]"),
        ({"x": entry(shape=(2, 4), offsets=(0, 32))}, r"tensor 'x' at bytes 0 to 32, which are not its own"),
        ({"x": entry(offsets=(0, 20))}, r"tensor 'x' at bytes 0 to 20"),
        ({"x": entry(), "y": entry()}, r"tensor 'y' at bytes 0 to 24, which are not its own"),
        ({"x": entry(shape=(1, 3), offsets=(12, 24))}, r"tensor 'x' at bytes 12 to 24"),
        ({"x": entry(shape=(-2, -3))}, r"with "),
        ({"x": {"dtype": "F32"}}, r"with 'data_offsets'"),
        ([1], r"with "),
    ],
)
def test_a_hostile_safetensors_header_is_refused(tmp_path, header, match):
    text = json.dumps(header).encode()
    (tmp_path / "f").write_bytes(struct.pack("<Q", len(text)) + text + bytes(24))
    with pytest.raises(ValueError, match=r"\[from_safetensors\] expected a suited safetensors file, got .*" + match):
        Store.from_safetensors(tmp_path / "f", tmp_path / "s", ids=[0, 1])
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("content", [b"", b"abc", struct.pack("<Q", 1 << 60) + b"{}", struct.pack("<Q", 3) + b"{}"])
def test_a_file_that_is_no_safetensors_is_refused(tmp_path, content):
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(
        ValueError, match=r"\[from_safetensors\] expected a safetensors file, got .*without a valid header length"
    ):
        Store.from_safetensors(tmp_path / "f", tmp_path / "s", ids=[0])


def test_the_store_needs_no_torch():
    code = "import sys, repsim.store; sys.exit(any(name in sys.modules for name in ('torch', 'safetensors', 'fcntl')))"
    process = run_python(code)
    process.communicate(timeout=20)
    assert process.returncode == 0
