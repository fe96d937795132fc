"""The same contract on a GPU as on the CPU. Needs one, and a build with REPSIM_CUDA=ON: `pytest -m gpu`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import oracles
import pytest
import torch

import repsim
from repsim.measures.cka import cka_grid
from repsim.measures.registry import REGISTRY
from repsim.reductions import device, device_grid, device_streams, has_gpu_operations


def missing() -> str:
    """Why these tests cannot run here; empty where they can."""
    if not torch.cuda.is_available():
        return "no GPU that torch sees"
    if not has_gpu_operations():
        return "built without GPU operations"
    return "" if torch.cuda.get_device_capability() >= (8, 0) else "a GPU before compute capability 8.0"


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(missing()), reason=f"needs a GPU: {missing()}")]

COMPOUND = repsim.RBF(sigma=9.0) + 0.5 * repsim.Linear() * repsim.RBF(median_fraction=1.0)
KERNELS = [
    pytest.param("linear", id="linear"),
    pytest.param("cosine", id="cosine"),
    pytest.param(repsim.Polynomial(degree=3), id="polynomial"),
    pytest.param("rbf", id="rbf"),
    pytest.param("laplacian_l2", id="laplacian_l2"),
    pytest.param("laplacian_l1", id="laplacian_l1"),
    pytest.param(COMPOUND, id="sum-of-products"),
]
SIZES = [pytest.param(1000, id="one-tile"), pytest.param(7001, id="three-tiles")]


def data(n: int, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(n)
    x = rng.normal(size=(n, 51))
    y = x[:, :40] ** 2 + rng.normal(size=(n, 40))
    return torch.as_tensor(x).to(dtype).cuda(), torch.as_tensor(y).to(dtype).cuda()


def on_host(*tensors: torch.Tensor) -> list[torch.Tensor]:
    return [tensor.cpu() for tensor in tensors]


# ---------------------------------------------------------------------------------------------------------------- cka


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("estimator", ["debiased", "biased"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_cka_is_that_of_the_cpu(kernel: Any, estimator: str, n: int) -> None:
    x, y = data(n)
    options = {"kernel": kernel, "estimator": estimator, "jackknife": n < 2000}
    there, here = repsim.cka(x, y, **options), repsim.cka(*on_host(x, y), **options)
    assert there.value == pytest.approx(here.value, abs=1e-7)
    assert there.z == pytest.approx(here.z, rel=1e-4)
    if n < 2000:
        assert there.standard_error == pytest.approx(here.standard_error, rel=1e-5)


@pytest.mark.parametrize("estimator", ["debiased", "biased"])
@pytest.mark.parametrize(
    ("kernel", "oracle"),
    [
        pytest.param("linear", oracles.LINEAR, id="linear-in-float64"),
        pytest.param(repsim.RBF(sigma=8.0), oracles.Kernel("rbf", 8.0), id="rbf-in-tiles"),
    ],
)
def test_cka_is_that_of_the_definition(kernel: Any, oracle: Any, estimator: str) -> None:
    x, y = data(1500)
    exact = oracles.cka(*on_host(x, y), estimator, oracle)
    there = repsim.cka(x, y, kernel=kernel, estimator=estimator)
    assert there.value == pytest.approx(exact, abs=1e-11 if kernel == "linear" else 2e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_dtype_is_read_as_it_is(dtype: torch.dtype) -> None:
    x, y = data(1000, dtype)
    assert repsim.cka(x, y, kernel="rbf").value == pytest.approx(
        repsim.cka(*on_host(x, y), kernel="rbf").value, abs=1e-7
    )


@pytest.mark.parametrize("kernel", [pytest.param("linear", id="linear"), pytest.param("rbf", id="rbf")])
@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_bits_do_not_change(kernel: str, precision: str) -> None:
    """From run to run, with the block size, beside other work, and with TF32 allowed to everybody else."""
    x, y = data(7001)
    first = repsim.cka(x, y, kernel=kernel, precision=precision)
    settings = torch.backends.cuda.matmul
    before = settings.fp32_precision
    settings.fp32_precision = "tf32"
    try:
        beside = torch.cuda.Stream()
        with torch.cuda.stream(beside):
            busy = torch.randn(4096, 4096, device="cuda")
            for _ in range(20):
                busy = busy @ busy * 1e-4
        for options in ({}, {"block_rows": 3072}, {"block_rows": 6144}, {"memory": "1GB"}):
            again = repsim.cka(x, y, kernel=kernel, precision=precision, **options)
            assert (again.value, again.z) == (first.value, first.z)
        assert settings.fp32_precision == "tf32"
    finally:
        settings.fp32_precision = before


@pytest.mark.parametrize(
    ("precision", "name", "error"),
    [pytest.param("high", "tfloat32", 2e-4, id="tf32"), pytest.param("medium", "bfloat16", 2e-3, id="bfloat16")],
)
@pytest.mark.parametrize("kernel", KERNELS[1:])
def test_lower_precisions_say_so(kernel: Any, precision: str, name: str, error: float) -> None:
    x, y = data(7001)
    exact, there = repsim.cka(x, y, kernel=kernel), repsim.cka(x, y, kernel=kernel, precision=precision)
    assert there.precision == name
    assert 0 < abs(there.value - exact.value) < error


def test_many_layers_have_the_bits_of_pairs() -> None:
    x, y = data(4000)
    z = x[:, :9].contiguous() - 1
    grid = cka_grid([x, z], [y], kernel="rbf")
    for i, left in enumerate((x, z)):
        pair = repsim.cka(left, y, kernel="rbf")
        assert (grid.at(i, 0, "cka").value, grid.at(i, 0, "cka").z) == (pair.value, pair.z)


def test_rows_far_from_the_origin_and_clusters_keep_their_digits() -> None:
    x, y = data(2000, torch.float64)
    here = repsim.cka(*on_host(x, y), kernel="rbf").value
    assert repsim.cka(x + 1e6, y - 1e6, kernel="rbf").value == pytest.approx(here, abs=1e-6)
    centres = 5e3 * torch.randn(4, 51, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).cuda()
    apart = centres[torch.arange(2000, device="cuda") % 4] + x
    kernel = repsim.RBF(sigma=5.0)
    assert repsim.cka(apart, y, kernel=kernel).value == pytest.approx(
        repsim.cka(*on_host(apart, y), kernel=kernel).value, abs=1e-6
    )


@pytest.mark.parametrize("kernel", ["rbf", "laplacian_l1"])
def test_bandwidths_are_exact_medians_of_all_pairs(kernel: str) -> None:
    x, _ = data(5000)
    name = "manhattan" if kernel == "laplacian_l1" else "euclidean"
    there, here = (
        repsim.reductions.median_distance(
            repsim.arrays.as_rows(z, function="t", name="x", gpu=True), distance=name, function="t", threads=2
        )
        for z in (x, x.cpu())
    )
    assert there == pytest.approx(here, rel=3e-7)


# ------------------------------------------------------------------------------------------------------------- nearest


@pytest.mark.parametrize("filter", ["auto", "float32", "bfloat16"])
@pytest.mark.parametrize("metric", ["cosine", "inner_product", "euclidean"])
@pytest.mark.parametrize(("n", "k"), [(1000, 1), (7001, 10), (7001, 100), (3500, 1500)])
def test_neighbours_are_the_bits_of_the_cpu(n: int, k: int, metric: str, filter: str) -> None:
    x, _ = data(n)
    there, here = repsim.nearest(x, k, metric=metric, filter=filter), repsim.nearest(x.cpu(), k, metric=metric)
    assert there.indices.device == x.device
    np.testing.assert_array_equal(there.cpu().indices, here.indices)
    np.testing.assert_array_equal(there.cpu().scores, here.scores)


@pytest.mark.parametrize("metric", ["cosine", "inner_product", "euclidean"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_neighbours_in_a_base_of_every_dtype(dtype: torch.dtype, metric: str) -> None:
    x, _ = data(5000, dtype)
    there = repsim.nearest(x[:700], 9, base=x[300:], metric=metric).cpu()
    here = repsim.nearest(x[:700].cpu(), 9, base=x[300:].cpu(), metric=metric)
    np.testing.assert_array_equal(there.indices, here.indices)
    np.testing.assert_array_equal(there.scores, here.scores)


@pytest.mark.parametrize("filter", ["float32", "bfloat16"])
def test_neighbours_that_the_filter_cannot_tell_apart(filter: str) -> None:
    x = data(4000)[0][:, :12].clone()
    x[3000:] = x[:1000]
    x[::2] += 2e5
    there, here = (
        repsim.nearest(x, 10, metric="euclidean", filter=filter),
        repsim.nearest(x.cpu(), 10, metric="euclidean"),
    )
    assert there.scanned > 0
    np.testing.assert_array_equal(there.cpu().indices, here.indices)
    np.testing.assert_array_equal(there.cpu().scores, here.scores)


def test_the_bound_holds_for_products_of_bfloat16() -> None:
    """What the certificate assumes of tensor cores: see csrc/bounds.h."""
    for depth, seed in ((64, 0), (1024, 1), (4096, 2)):
        made = torch.Generator(device="cuda").manual_seed(seed)
        a, b = (torch.randn(512, depth, device="cuda", generator=made).abs().bfloat16() for _ in range(2))
        found = torch.mm(a, b.T, out_dtype=torch.float32).double()
        exact = a.double() @ b.double().T
        norms = a.double().norm(dim=1)[:, None] * b.double().norm(dim=1)
        assert ((found - exact).abs() / norms).max() < 2.0**-24 * 4 * depth


@pytest.mark.parametrize("n", [pytest.param(3072, id="a-tile"), pytest.param(500, id="part-of-one")])
@pytest.mark.parametrize("width", [8, 72, 1024])
def test_own_products_of_bfloat16_are_those_of_the_library(n: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = torch.Generator(device="cuda").manual_seed(width)
    packed = device.Packed(torch.randn(3072, width, device="cuda", generator=made).bfloat16(), "bfloat16", n, 3072)
    (at,) = device_grid.tiles_of((0, n, 0, n), 3072, 3072, symmetric=True)
    ours, theirs = torch.empty((2, 3072, 3072), device="cuda")
    device.product_tile(packed, packed, at, theirs)
    monkeypatch.setattr(device, "has_bfloat16_products", lambda: False)
    device.product_tile(packed, packed, at, ours)
    torch.testing.assert_close(ours[:n, :n], theirs[:n, :n], rtol=1e-5, atol=1e-5 * width**0.5)
    x, _ = data(3500)
    monkeypatch.undo()
    expected = repsim.nearest(x, 10, filter="bfloat16")
    monkeypatch.setattr(device, "has_bfloat16_products", lambda: False)
    assert torch.equal(repsim.nearest(x, 10, filter="bfloat16").indices, expected.indices)


def test_neighbour_measures_take_rows_on_a_gpu() -> None:
    x, y = data(3500)
    assert repsim.mutual_knn(x, y) == repsim.mutual_knn(*on_host(x, y))


# ------------------------------------------------------------------------------------------------ all other measures

# Of equal groups of neurons a search takes either: rounding decides.
OTHERS = [
    name for name, one in REGISTRY.items() if one.gpu and one.method is not None and one.family != "neuron_graphs"
]


def of_a_width(name: str, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return (x[:, : y.shape[1]].contiguous(), y) if REGISTRY[name].same_width else (x, y)


@pytest.mark.parametrize("name", OTHERS)
def test_other_measures_are_those_of_the_cpu_and_of_rows_that_are_brought(name: str) -> None:
    x, y = of_a_width(name, *data(3500))
    measure, how = getattr(repsim, name), {"permutations": 1, "jackknife": 2}
    there, here = measure(x, y, **how), measure(*on_host(x, y), **how)
    assert there.value == pytest.approx(here.value, rel=1e-8, abs=1e-9)
    assert there.null.mean == pytest.approx(here.null.mean, rel=1e-8, abs=1e-9)
    assert there.standard_error == pytest.approx(here.standard_error, rel=1e-6, abs=1e-9)
    brought = measure(*on_host(x, y), device="cuda", **how)
    assert (brought.value, brought.null.mean, brought.standard_error) == (
        there.value, there.null.mean, there.standard_error,
    )  # fmt: skip
    assert measure(x, y, **how).value == there.value  # from run to run


@pytest.mark.parametrize("name", ["svcca", "procrustes", "pls", "gulp"])
def test_rows_wider_than_long(name: str) -> None:
    x, y = (torch.randn(200, depth, generator=torch.Generator().manual_seed(depth)) for depth in (700, 600))
    how = {"variance": 0.5} if name == "svcca" else {}
    here = getattr(repsim, name)(x, y, **how)
    assert getattr(repsim, name)(x.cuda(), y.cuda(), **how).value == pytest.approx(here.value, rel=1e-8)


def test_a_comparison_has_the_bits_of_each_measure() -> None:
    x, y = data(3500)
    asked = ["cka", "cka_rbf", "svcca", "rsa", "distance_correlation", "mutual_knn", "second_order_cosine"]
    there = repsim.compare({"x": x, "x2": x[:, :20]}, {"y": y}, measures=asked)
    assert {row["device"] for row in there.rows()} == {f"cuda:0 ({torch.cuda.get_device_name()})"}
    brought = repsim.compare({"x": x.cpu(), "x2": x[:, :20].cpu()}, {"y": y.cpu()}, measures=asked, device="cuda")
    for name in asked:
        np.testing.assert_array_equal(brought[name].values, there[name].values, name)
        alone = repsim.cka(x, y, kernel="rbf") if name == "cka_rbf" else getattr(repsim, name)(x, y)
        assert there[name].values[0, 0] == alone.value, name


# -------------------------------------------------------------------------------------------------- rows of the host


@pytest.mark.parametrize("memory", [None, "400MB"])
@pytest.mark.parametrize("kernel", ["linear", "cosine", repsim.RBF(sigma=8.0)], ids=str)
def test_rows_that_are_brought_have_the_bits_of_those_there(kernel: Any, memory: Any, tmp_path: Path) -> None:
    x, y = data(20_001)
    np.save(tmp_path / "x.npy", x.cpu().numpy())
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    there = repsim.cka(x, y, kernel=kernel)
    for rows in (3072, 9216, None):
        brought = repsim.cka(mapped, y.cpu(), kernel=kernel, device="cuda", block_rows=rows, memory=memory)
        assert (brought.value, brought.z) == (there.value, there.z)
    assert repsim.cka(mapped, y, kernel=kernel, device="cuda").value == there.value


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("metric", ["cosine", "inner_product", "euclidean"])
def test_neighbours_of_rows_that_are_brought(metric: str, dtype: torch.dtype) -> None:
    x = data(20_001, dtype)[0]
    for base in (None, x[500:]):
        there = repsim.nearest(x, 10, base=base, metric=metric).cpu()
        for rows in (3072, None):
            other = None if base is None else base.cpu()
            brought = repsim.nearest(x.cpu(), 10, base=other, metric=metric, device="cuda", block_rows=rows)
            np.testing.assert_array_equal(brought.indices, there.indices)
            np.testing.assert_array_equal(brought.scores, there.scores)


def test_rows_are_copied_while_others_are_worked_on() -> None:
    """The copies wait for what they are told to, and for nothing else."""
    copies = device_streams.copies_to("cuda", "t")
    pinned, there = copies.pinned(2**20), copies.there(2**20)
    pinned.fill_(7)
    free = copies.so_far()
    torch.cuda._sleep(2_000_000_000)  # about a second
    busy = copies.so_far()
    copies.settle(copies.copy(pinned, there, free))
    assert not busy.query()
    after = copies.copy(pinned, there, busy)
    assert not after.query()
    copies.wait(after)
    assert int(there.sum()) == 7 * 2**20


def test_memory_on_the_way_is_of_the_budget() -> None:
    x, y = (one.cpu() for one in data(400_000))
    options = {"kernel": repsim.RBF(sigma=8.0), "memory": "700MB", "precision": "medium", "device": "cuda"}
    repsim.cka(x[:5000], y[:5000], **options)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    repsim.cka(x, y, **options)
    assert torch.cuda.max_memory_allocated() - before < 700e6 + 64 * 400_000
    assert torch.cuda.memory_allocated() == before


# ------------------------------------------------------------------------------------------- streams, memory, devices


@pytest.mark.parametrize("call", [lambda x: repsim.cka(x, x * x, kernel="rbf").value, lambda x: repsim.nearest(x, 5)])
def test_work_waits_for_its_producer(call: Any) -> None:
    """Rows that are still being made, on a stream of their own, are read when they are there."""
    x, _ = data(3500)
    expected = call(x.clone())
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        made = torch.full_like(x, float("nan"))
        torch.cuda._sleep(200_000_000)  # about a tenth of a second
        made.copy_(x)
        found = call(made)
    if isinstance(found, float):
        assert found == expected
    else:
        assert torch.equal(found.indices, expected.indices)


def test_work_runs_on_the_stream_that_is_current() -> None:
    """Nothing that a measure queues may wait for, or run on, the default stream."""
    x, _ = data(3500)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # its memory is there then
        expected = repsim.nearest(x, 5)
    side.synchronize()
    torch.cuda._sleep(2_000_000_000)  # the default stream is busy for about a second
    busy = torch.cuda.Event()
    busy.record()
    with torch.cuda.stream(side):
        found = repsim.nearest(x, 5)
        side.synchronize()
    assert not busy.query()
    assert torch.equal(found.indices, expected.indices)


def test_memory_grows_by_what_is_said() -> None:
    x, y = data(20_000)
    repsim.cka(x, y, kernel="rbf")
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    repsim.cka(x, y, kernel=repsim.RBF(sigma=8.0), memory="300MB")
    assert torch.cuda.max_memory_allocated() - before < 300e6 + 64 * 20_000


def test_memory_that_is_used_up_names_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = data(20_000)
    monkeypatch.setattr(torch, "empty", out_of_memory)
    with pytest.raises(MemoryError, match=r"^\[cka\] expected room on cuda:0, got out of memory .* memory=\"\d+MiB\""):
        repsim.cka(x, y, kernel=repsim.RBF(sigma=8.0))


def out_of_memory(*shape: Any, **options: Any) -> torch.Tensor:
    return torch.zeros(2**50, device="cuda")


def test_rows_on_two_devices_are_refused() -> None:
    x, y = data(100)
    for pair in ((x, y.cpu()), (x.cpu(), y)):
        with pytest.raises(ValueError, match=r"^\[cka\] expected y on .* like x, got"):
            repsim.cka(*pair)
    with pytest.raises(ValueError, match=r"^\[nearest\] expected base on cuda:0 like x, got cpu"):
        repsim.nearest(x, 3, base=x.cpu())


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_rows_on_the_second_device() -> None:
    x, y = data(4000)
    there = repsim.cka(x.to("cuda:1"), y.to("cuda:1"), kernel="rbf")
    assert there.value == repsim.cka(x, y, kernel="rbf").value


def test_a_row_that_is_not_finite_is_named() -> None:
    x, y = data(7001)
    x[6503, 5] = float("inf")
    for call in (lambda: repsim.cka(x, y), lambda: repsim.cka(x, y, kernel="rbf"), lambda: repsim.nearest(x, 5)):
        with pytest.raises(ValueError, match="expected x with finite values, got NaN or infinity in row 6503"):
            call()


def test_gradients_run_on_a_gpu() -> None:
    x, y = data(600)
    x.requires_grad_(True)
    repsim.cka(x, y, kernel=repsim.RBF(sigma=8.0)).backward()
    there = x.grad.cpu()
    z = x.detach().cpu().requires_grad_(True)
    repsim.cka(z, y.cpu(), kernel=repsim.RBF(sigma=8.0)).backward()
    torch.testing.assert_close(there, z.grad, rtol=1e-4, atol=1e-9)


def test_cupy_arrays_go_in_and_come_out() -> None:
    cupy = pytest.importorskip("cupy")
    x, y = data(3500)
    there = repsim.nearest(cupy.from_dlpack(x), 5)
    assert isinstance(there.indices, cupy.ndarray)
    np.testing.assert_array_equal(there.cpu().indices, repsim.nearest(x, 5).cpu().indices)
    both = [cupy.from_dlpack(z) for z in (x, y)]
    assert repsim.cka(*both, kernel="rbf").value == repsim.cka(x, y, kernel="rbf").value


def test_jax_arrays_go_in_and_come_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # or it takes most of the memory
    jax = pytest.importorskip("jax")
    x, _ = data(3500)
    array = jax.dlpack.from_dlpack(x)
    if array.device.platform != "gpu":
        pytest.skip("a JAX without GPU")
    there = repsim.nearest(array, 5)
    assert isinstance(there.indices, jax.Array)
    np.testing.assert_array_equal(there.cpu().scores, repsim.nearest(x, 5).cpu().scores)


def test_this_runtime_sees_the_device() -> None:
    assert device.gpu_module().device_count() == torch.cuda.device_count()
