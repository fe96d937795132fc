"""Rows that lie with the host and are brought to a GPU a block at a time: the whole schedule, on an emulated GPU.

Results are those of rows that lie there, to the bit; the emulation finds memory that is overwritten too early.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from emulated_gpu import EmulatedCopies, Meter, install, on_gpu, streamed

import repsim
from repsim.arrays import as_rows
from repsim.reductions import device, device_grid, device_moments, device_streams

ORDERS = [pytest.param(False, id="early"), pytest.param(True, id="late")]
BLOCKS = [
    pytest.param(192, False, id="a-tile-early"),
    pytest.param(192, True, id="a-tile-late"),
    pytest.param(384, True, id="two-tiles-late"),
    pytest.param(None, False, id="one-block-early"),
]
COMPOUND = repsim.RBF(sigma=6.0) + 0.5 * repsim.Cosine() * repsim.RBF(sigma=4.0)
N = 650  # four blocks of 192 rows, the last a short one


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Rows are read once 100 at a time, so that there is something to read ahead, and by several threads."""
    monkeypatch.setattr("repsim.arrays.RESIDENT_ON_DEVICE", 8400)
    monkeypatch.setattr("repsim.reductions.streamed_neighbours.RESIDENT_ON_DEVICE", 100_000)
    monkeypatch.setattr("repsim.reductions.device_moments.ROWS", 128)
    monkeypatch.setattr(device_streams, "ALONE", 5000)
    monkeypatch.setattr(device_streams, "MOST_READERS", 2)
    return install(monkeypatch)


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    """Of two widths."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 21)).astype(np.float32)
    return x, (x[:, :13] ** 2 + rng.normal(size=(N, 13))).astype(np.float32)


def same(there: Any, brought: Any) -> None:
    np.testing.assert_array_equal(brought.indices, there.indices.numpy())
    np.testing.assert_array_equal(brought.scores, there.scores.numpy())
    assert brought.scanned == there.scanned


# ------------------------------------------------------------------------------------------------------------- results


@pytest.mark.parametrize(("block_rows", "late"), BLOCKS)
@pytest.mark.parametrize("kernel", ["linear", repsim.RBF(sigma=5.0), COMPOUND], ids=["linear", "rbf", "compound"])
def test_cka_is_that_of_rows_that_lie_there(native: Any, data: Any, kernel: Any, block_rows: Any, late: bool) -> None:
    options = {"kernel": kernel, "jackknife": block_rows == 384}
    there = repsim.cka(*map(on_gpu, data), **options)
    brought = repsim.cka(*(streamed(one, late=late) for one in data), block_rows=block_rows, **options)
    assert (brought.value, brought.z, brought.standard_error) == (there.value, there.z, there.standard_error)


def test_bandwidths_are_those_of_rows_that_lie_there(native: Any, data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repsim.reductions.distances.IN_MEMORY", 50)
    there = repsim.hsic(*map(on_gpu, data), kernel="rbf")
    assert repsim.hsic(*map(streamed, data), kernel="rbf", block_rows=192).value == there.value


@pytest.mark.parametrize(("block_rows", "late"), BLOCKS[1::2])
@pytest.mark.parametrize("filter", ["float32", "bfloat16"])
@pytest.mark.parametrize("metric", ["cosine", "inner_product", "euclidean"])
def test_neighbours_are_those_of_rows_that_lie_there(
    native: Any, data: Any, metric: str, filter: str, block_rows: Any, late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if block_rows is not None:  # blocks are not kept packed
        monkeypatch.setattr("repsim.blocks.PACKED_BUDGET", 2**14)
    there = repsim.nearest(on_gpu(data[0]), 7, metric=metric, filter=filter)
    same(there, repsim.nearest(streamed(data[0], late=late), 7, metric=metric, filter=filter, block_rows=block_rows))


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_neighbours_in_a_base(native: Any, data: Any, metric: str) -> None:
    """The rows, the base or both lie with the host."""
    queries, base = data[0][:230], data[0][100:]
    there = repsim.nearest(on_gpu(queries), 7, base=on_gpu(base, "base"), metric=metric)
    for x, other in ((streamed(queries), streamed(base, "base")), (streamed(queries), on_gpu(base, "base"))):
        same(there, repsim.nearest(x, 7, base=other, metric=metric, block_rows=192))
    one_there = repsim.nearest(on_gpu(queries), 7, base=streamed(base, "base"), metric=metric, block_rows=192)
    assert torch.equal(one_there.indices, there.indices)


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("filter", ["float32", "bfloat16"])
def test_neighbours_that_the_filter_cannot_tell_apart(
    native: Any, data: Any, filter: str, keeps: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are settled, by scores of rows that are brought with every block, whether that is packed already or not."""
    monkeypatch.setattr("repsim.blocks.PACKED_BUDGET", 2**27 if keeps else 2**14)
    x = data[0][:400, :12].copy()
    x[300:] = x[:100]
    x[::2] += np.float32(2e5)
    there = repsim.nearest(on_gpu(x), 10, metric="euclidean", filter=filter)
    assert there.scanned > 0
    same(there, repsim.nearest(streamed(x, late=True), 10, metric="euclidean", filter=filter, block_rows=192))


def test_bfloat16_is_tried_out_first(native: Any, data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repsim.reductions.neighbours.PILOT", 40)
    monkeypatch.setattr("repsim.reductions.neighbours.LEAST_PAIRS", 1)
    there, brought = repsim.nearest(on_gpu(data[0]), 10), repsim.nearest(streamed(data[0]), 10)
    assert brought.filter == there.filter == "bfloat16"
    same(there, brought)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_every_dtype_is_read_as_it_is(native: Any, data: Any, dtype: str) -> None:
    x, y = (torch.as_tensor(one).to(getattr(torch, dtype)) for one in data)
    brought = repsim.cka(streamed(x), streamed(y, "y"), kernel=repsim.RBF(sigma=5.0), block_rows=192)
    assert brought.value == repsim.cka(on_gpu(x), on_gpu(y, "y"), kernel=repsim.RBF(sigma=5.0)).value


def test_a_store_and_strided_rows_are_read_in_place(native: Any, data: Any, tmp_path: Path) -> None:
    store = repsim.Store.from_arrays(tmp_path / "a.store", np.arange(N), {"x": data[0]})
    y = np.repeat(data[1], 2, axis=0)[::2]
    brought = [streamed(store["x"]), streamed(y, "y")]
    assert brought[0].host.mapping is not None
    assert repsim.cka(*brought, kernel=COMPOUND).value == repsim.cka(*map(on_gpu, data), kernel=COMPOUND).value
    same(repsim.nearest(on_gpu(y), 5), repsim.nearest(brought[1], 5, block_rows=192))


# ------------------------------------------------------------------------------------------------------------ schedule


def test_every_upload_is_counted(native: Any, data: Any) -> None:
    """Two sweeps, for sums and for norms; of b blocks the first, and of b - 1 all that come later.

    The last is still in its place when it is packed for the last time.
    """
    x, y = map(streamed, data)
    repsim.cka(x, y, kernel=repsim.RBF(sigma=5.0), block_rows=192)
    for rows in (x, y):
        assert rows.values.uploaded == 2 * N + 192 + sum(N - first for first in (192, 384))
        assert sum(rows.values.copies.copied) == rows.values.uploaded * rows.depth * 4
    x, y = map(streamed, data)
    repsim.cka(x, y)
    assert (x.values.uploaded, y.values.uploaded) == (2 * N, 2 * N)


def test_one_block_is_copied_while_another_is_worked_on(native: Any, data: Any) -> None:
    rows = streamed(data[0], late=True)
    copies = rows.values.copies
    under_way = []
    for start, stop in rows.sweep():
        assert torch.equal(rows.values[start:stop], torch.as_tensor(data[0][start:stop]))
        under_way.append(len(copies.queue))
    assert under_way == [0] + [1] * 5 + [0]  # the second block comes before the first, which waits for both
    rows.values.close()


def test_blocks_of_all_matrices_are_on_their_way_before_one_is_packed(
    native: Any, data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packing waits for what the GPU has been given before: to read a block after that would leave it idle."""
    x, y = map(streamed, data)
    pack, packed = device.pack, []

    def packs(rows: Any, *arguments: Any, **options: Any) -> Any:
        lent, *_ = [place.rows for place in x.values._places if place.lent] or [None]
        if lent is not None:
            packed.append(lent)
            assert any(place.rows == lent for place in y.values._places)
        return pack(rows, *arguments, **options)

    monkeypatch.setattr(device, "pack", packs)
    repsim.cka(x, y, kernel=repsim.RBF(sigma=5.0), block_rows=192)
    assert packed == [(0, 192), (576, N), (384, 576), (192, 384), (576, N), (384, 576), (576, N)]


def test_a_block_that_is_there_is_not_copied_again(native: Any, data: Any) -> None:
    """The two packings of a product of kernels."""
    x, y = map(streamed, data)
    repsim.cka(x, y, kernel=COMPOUND, block_rows=192)
    packed_once = x.values.uploaded
    x, y = map(streamed, data)
    repsim.cka(x, y, kernel=repsim.Cosine(), block_rows=192)
    assert packed_once - x.values.uploaded <= 2 * N  # sweeps, of distances


@pytest.mark.parametrize(
    ("broken", "found"),
    [
        pytest.param("_end", "a place is overwritten while it may be read", id="consumed"),
        pytest.param("settle", "pinned memory is written while it may be copied", id="copied"),
    ],
)
def test_the_emulation_finds_what_is_overwritten_too_early(
    native: Any, data: Any, broken: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(uploads: Any, place: Any) -> None:
        place.lent -= 1

    if broken == "_end":
        monkeypatch.setattr(device_streams.Uploads, "_end", end)
    else:
        monkeypatch.setattr(EmulatedCopies, "settle", lambda copies, event: None)
    with pytest.raises(AssertionError, match=found):
        repsim.cka(*map(streamed, data), kernel=repsim.RBF(sigma=5.0), block_rows=192)


def test_blocks_are_to_be_given_back(native: Any, data: Any) -> None:
    rows = streamed(data[0])
    first, second = rows.values[:100], rows.values[100:200]
    with pytest.raises(RuntimeError, match="expected one of 2 blocks of x to be given back first"):
        rows.values[200:300]
    rows.values.begin(200, 300)  # no place: nothing happens
    rows.release(0, 100)
    third = rows.values[200:300]
    assert first.data_ptr() == third.data_ptr() != second.data_ptr()
    assert rows.values.uploaded == 300
    rows.values.close()


@pytest.mark.parametrize("late", ORDERS)
@pytest.mark.parametrize("at", [1, 4])
def test_interrupted_work_leaves_nothing_behind(native: Any, data: Any, at: int, late: bool) -> None:
    def stop(done: int, _: int) -> None:
        if done == at:
            raise KeyboardInterrupt

    sides = [streamed(one, late=late) for one in data]
    for call in (
        lambda: repsim.cka(*sides, kernel=repsim.RBF(sigma=5.0), block_rows=192, progress=stop),
        lambda: repsim.nearest(sides[0], 5, block_rows=192, progress=stop),
    ):
        with pytest.raises(KeyboardInterrupt):
            call()
        for rows in sides:
            copies = rows.values.copies
            assert not copies.queue
            assert copies.held("pinned") == copies.held("there") == 0
        assert not [one for one in threading.enumerate() if one.name.startswith("repsim-reader")]


@pytest.mark.parametrize("block_rows", [192, 384, None])
def test_places_take_what_is_planned(native: Any, data: Any, block_rows: Any) -> None:
    x, y = map(streamed, data)
    least, of_a_row = device_streams.place_bytes([x, y, x])
    assert (least, of_a_row) == (2 * 4 * N * (21 + 13), 2 * 4 * (21 + 13))
    repsim.cka(x, y, kernel=repsim.RBF(sigma=5.0), block_rows=block_rows)
    for rows in (x, y):
        peak, most = rows.values.copies.peak, 2 * (block_rows or N) * rows.depth * 4
        assert peak["pinned"] == peak["there"] <= most <= least + (block_rows or N) * of_a_row
        assert block_rows != 192 or peak["there"] == most  # a larger block comes but once
        copies = rows.values.copies
        assert copies.most_blocks <= device_streams.pinned_bytes([rows], block_rows or N)
        assert not copies.blocks, "what was pinned is given back"
        assert rows.values.copies.held("there") == 0


@pytest.mark.parametrize(
    ("place", "memory"),
    [
        pytest.param(on_gpu, 5_500_000, id="there"),
        pytest.param(streamed, 5_500_000, id="with-the-host-in-blocks"),
        pytest.param(streamed, 11_000_000, id="with-the-host-packed-whole"),
    ],
)
def test_a_search_keeps_its_memory(native: Any, place: Any, memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two sides that are kept packed where they fit, and half of the rows settled, beside the lists."""
    monkeypatch.setattr("repsim.arrays.RESIDENT_ON_DEVICE", 84_000)
    monkeypatch.setattr(device_streams, "RESIDENT_ON_DEVICE", 84_000)
    x, base = np.random.default_rng(0).normal(size=(2, 1000, 400)).astype(np.float32)
    x[::2] += 200
    base[::2] += 200
    lists = 1000 * (128 * 8 + 5 * 24 + 44)
    rows = place(x), place(base, "base")
    with Meter() as meter:
        found = repsim.nearest(rows[0], 5, base=rows[1], metric="euclidean", filter="float32", memory=memory)
    assert found.scanned == 500
    assert 0.6 * memory < meter.peak - lists <= memory
    if place is streamed:
        assert all(one.values.copies.most_blocks <= memory / 2 for one in rows)


def test_what_the_host_pins_is_planned(native: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of float64 rows, in powers of two, it may be more than the same blocks take on the GPU."""
    monkeypatch.setattr(device_streams, "RESIDENT_ON_DEVICE", 84_000)
    rows = streamed(np.zeros((6000, 128)))
    options = {"symmetric": True, "block_rows": None, "function": "t", "matrices": [rows]}
    where = torch.device("cpu")
    smaller = 0
    for memory in range(4_000_000, 12_000_000, 250_000):
        plan = device_grid.traversal(where, 6000, 6000, [128], memory=memory, **options)
        assert device_streams.pinned_bytes([rows], plan.block_rows) <= memory
        with monkeypatch.context() as without:
            without.setattr(device_grid, "pinned_bytes", lambda matrices, rows: 0)
            unplanned = device_grid.traversal(where, 6000, 6000, [128], memory=memory, **options)
        smaller += plan.block_rows < unplanned.block_rows
    assert smaller > 0
    with pytest.raises(
        ValueError, match=r"\[t\] expected memory of at least .* for what the host pins of two blocks of"
    ):
        monkeypatch.setattr(device_grid, "pinned_bytes", lambda matrices, rows: 2**30)
        device_grid.traversal(where, 6000, 6000, [128], memory=10**8, **options)


@pytest.mark.parametrize("place", [on_gpu, streamed], ids=["there", "with-the-host"])
def test_linear_cka_keeps_its_memory(native: Any, data: Any, place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In as many passes as that takes, to the same bits."""
    monkeypatch.setattr(device_streams, "RESIDENT_ON_DEVICE", 8400)
    monkeypatch.setattr(device_moments, "RESIDENT_ON_DEVICE", 8400)
    both = [place(data[0]), place(data[1], "y")]
    whole = repsim.cka(*both)
    for pairs, sweeps in (([(0, 1)], 4), ([(0, 0), (0, 1), (1, 1)], 2)):
        rows = [place(data[0]), place(data[1], "y")]
        memory = device_moments.moments_bytes(rows, pairs)
        with Meter() as meter:
            assert repsim.cka(*rows, memory=memory).value == whole.value
        assert 0.5 * memory < meter.peak <= memory
        if place is streamed:
            assert [one.values.uploaded for one in rows] == [sweeps * N, sweeps * N]
    with pytest.raises(
        ValueError, match=r"\[cka\] expected memory of at least \d+ .* the 21 x 13 products of features"
    ):
        repsim.cka(*both, memory=device_moments.moments_bytes(both, [(0, 1)]) - 1)


def test_a_memory_too_small_is_refused(native: Any, data: Any) -> None:
    x, y = map(streamed, data)
    message = r"\[cka\] expected memory of at least .* for blocks and tiles of 192 rows, and two blocks on their way"
    with pytest.raises(ValueError, match=message):
        repsim.cka(x, y, kernel=repsim.RBF(sigma=5.0), memory=10_000)
    enough = repsim.cka(x, y, kernel=repsim.RBF(sigma=5.0), memory="2MB")
    assert enough.value == repsim.cka(*map(on_gpu, data), kernel=repsim.RBF(sigma=5.0)).value


# -------------------------------------------------------------------------------------------------------------- device


def test_the_device_is_an_argument(native: Any, data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_streams, "copies_to", lambda device, function: EmulatedCopies())
    options = {"kernel": repsim.RBF(sigma=5.0), "precision": "medium"}
    there = repsim.cka(*map(on_gpu, data), **options)
    assert repsim.cka(*data, **options, device="cuda").value == there.value
    assert repsim.hsic(*data, device="cuda").value == repsim.hsic(*map(on_gpu, data)).value
    graph = repsim.nearest(data[0][:300], 5, base=data[0], device="cuda")
    assert isinstance(graph.indices, np.ndarray)
    same(repsim.nearest(on_gpu(data[0][:300]), 5, base=on_gpu(data[0], "base")), graph)
    assert repsim.cka(on_gpu(data[0]), data[1], device="cuda").value == repsim.cka(*map(on_gpu, data)).value


def test_devices_are_refused(data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = data
    assert repsim.cka(x, y, device="cpu") == repsim.cka(x, y)
    for wrong in ("gpu", 3.5, "mps"):
        with pytest.raises(ValueError, match=r"\[cka\] expected device 'cpu' or a GPU such as 'cuda', got"):
            repsim.cka(x, y, device=wrong)
    monkeypatch.setattr("repsim.reductions.device.has_gpu_operations", lambda: False)
    with pytest.raises(ValueError, match=r"\[nearest\] expected device 'cpu' in a build without GPU op.* got 'cuda'"):
        repsim.nearest(x, 5, device="cuda")
    monkeypatch.setattr("repsim.reductions.device.has_gpu_operations", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=r"\[cka\] expected device to be one of the 1 GPUs that torch sees, got"):
        repsim.cka(x, y, device="cuda:1")
    rows = on_gpu(x)
    with pytest.raises(ValueError, match=r"\[cka\] expected x on the CPU for device 'cpu', got cpu"):
        device_streams.rows_for(rows, "cpu", function="cka")
    other = EmulatedCopies()
    other.device = torch.device("cuda", 1)
    monkeypatch.setattr(device_streams, "copies_to", lambda device, function: other)
    with pytest.raises(ValueError, match=r"\[cka\] expected x on cuda:1 or the CPU, got cpu"):
        device_streams.rows_for(rows, "cuda:1", function="cka")
    with pytest.raises(ValueError, match=r"\[cka\].*device"):
        repsim.cka(torch.as_tensor(x).requires_grad_(), y, device="cuda")
    assert isinstance(device_streams.rows_for(as_rows(x, function="t", name="x"), "cuda:1", function="t").device, str)
