"""Arrays on a GPU, as far as a machine without one shows: who is taken, who is refused, and what comes back."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from emulated_gpu import install, on_gpu

import repsim
from repsim.arrays import DeviceRows, as_rows, on_cpu, same_device
from repsim.reductions import device


class Producer:
    """An array of another framework whose DLPack device is what it is told to be."""

    def __init__(self, values: Any, kind: int = 2) -> None:
        self.values, self.kind = torch.as_tensor(values), kind

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.kind, 0

    def __dlpack__(self, **how: Any) -> Any:
        raise AssertionError("a GPU's memory cannot be read here")


@pytest.fixture
def from_dlpack(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What torch was asked to take; it hands out the memory that the producer holds on the CPU."""
    asked: list[Any] = []

    def take(x: Producer) -> torch.Tensor:
        asked.append(x)
        return x.values

    monkeypatch.setattr(torch, "from_dlpack", take)
    return asked


def made_by(monkeypatch: pytest.MonkeyPatch, framework: str) -> type[Producer]:
    return type("Array", (Producer,), {"__module__": f"{framework}.core"})


@pytest.mark.parametrize(("framework", "known"), [("cupy", "cupy"), ("jaxlib", "jax"), ("other", "other")])
def test_a_producer_on_a_gpu_is_taken_by_dlpack(
    monkeypatch: pytest.MonkeyPatch, from_dlpack: list[Any], framework: str, known: str
) -> None:
    x = made_by(monkeypatch, framework)(np.zeros((5, 3), np.float32))
    rows = as_rows(x, function="cka", name="x", gpu=True)
    assert isinstance(rows, DeviceRows)
    assert (from_dlpack, rows.framework, rows.dtype, len(rows), rows.depth) == ([x], known, "float32", 5, 3)
    assert rows.values.data_ptr() == x.values.data_ptr()


@pytest.mark.parametrize(("kind", "place"), [(2, "2:0"), (10, "10:0"), (13, "13:0")], ids=["cuda", "rocm", "managed"])
@pytest.mark.parametrize("gpu", [True, False])
def test_other_devices_are_refused_unread(from_dlpack: list[Any], gpu: bool, kind: int, place: str) -> None:
    if gpu and kind == 2:
        pytest.skip("a GPU that is taken")
    message = (
        rf"\[cka\] expected x on the CPU \(this build has no GPU operations for cka\), got .* DLPack device {place}"
    )
    with pytest.raises(ValueError, match=message):
        as_rows(Producer(np.zeros((5, 3), np.float32), kind), function="cka", name="x", gpu=gpu)
    assert from_dlpack == []


def test_a_producer_on_the_cpu_stays_there() -> None:
    class OnCpu(Producer):
        def __dlpack__(self, **how: Any) -> Any:
            return self.values.__dlpack__()

    assert type(as_rows(OnCpu(np.zeros((5, 3), np.float32), 1), function="cka", name="x", gpu=True)) is not DeviceRows


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        pytest.param(np.zeros((5, 3), np.int32), TypeError, "dtype float16, .* got int32; pass x.astype", id="dtype"),
        pytest.param(np.zeros(5, np.float32), ValueError, r"two dimensions .* got shape \(5,\)", id="vector"),
        pytest.param(np.zeros((0, 3), np.float32), ValueError, "at least one row", id="empty"),
        pytest.param(torch.zeros(3, 5).T, ValueError, r"contiguous features .* strides \(1, 5\)", id="columns"),
    ],
)
def test_bad_arrays_on_a_gpu_are_refused(from_dlpack: list[Any], values: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=rf"^\[cka\] expected x .*{message}"):
        as_rows(Producer(values), function="cka", name="x", gpu=True)


def test_measures_of_the_cpu_say_so() -> None:
    with pytest.raises(ValueError, match=r"\(this build has no GPU operations for procrustes\)"):
        repsim.procrustes(Producer(np.zeros((5, 3))), np.zeros((5, 3)))


def test_a_build_without_gpu_operations_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "find_spec", lambda name: None)
    for call in (
        lambda x: repsim.cka(x, x),
        lambda x: repsim.nearest(x, 3),
        lambda x: repsim.mutual_knn(x, x, k=3),
    ):
        with pytest.raises(ValueError, match=r"on the CPU \(this build has no GPU operations for .*\), got a"):
            call(Producer(np.zeros((5, 3))))


def test_whether_a_build_has_gpu_operations_is_what_lies_in_the_package() -> None:
    there = any(Path(repsim.__file__).parent.glob("_cuda*.so"))
    assert repsim.reductions.has_gpu_operations() is there
    assert (importlib.util.find_spec("repsim._cuda") is not None) is there


def test_rows_on_two_devices_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^\[cka\] expected y on meta like x, got cpu$"):
        same_device(
            DeviceRows(torch.empty((2, 2), device="meta"), "float32", "x"), on_gpu(np.ones((2, 2)), "y"), function="cka"
        )


def test_precisions_and_filters_are_checked() -> None:
    x = np.random.default_rng(0).normal(size=(10, 3))
    with pytest.raises(ValueError, match=r"\[cka\] expected precision 'highest', 'high' or 'medium', got 'low'"):
        repsim.cka(x, x, precision="low")
    with pytest.raises(ValueError, match=r"\[hsic\] expected precision 'highest' for rows on the CPU, got 'medium'"):
        repsim.hsic(x, x, precision="medium")


@pytest.mark.parametrize("framework", ["cupy", "jax", "torch", "other"])
def test_graphs_come_back_in_the_framework_of_the_rows(monkeypatch: pytest.MonkeyPatch, framework: str) -> None:
    install(monkeypatch)
    there = types.SimpleNamespace(from_dlpack=lambda tensor: (framework, tensor))
    monkeypatch.setitem(sys.modules, "cupy", there)
    monkeypatch.setitem(sys.modules, "jax", types.SimpleNamespace(dlpack=there))
    rows = DeviceRows(torch.as_tensor(np.random.default_rng(0).normal(size=(30, 3))), "float64", "x", framework)
    graph = repsim.nearest(rows, 3)
    if framework in ("torch", "other"):
        assert isinstance(graph.indices, torch.Tensor)
    else:
        assert graph.indices[0] == framework
        assert graph.scores[1].dtype == torch.float32


def test_measures_and_comparisons_take_arrays_of_any_framework(
    monkeypatch: pytest.MonkeyPatch, from_dlpack: list[Any]
) -> None:
    install(monkeypatch)
    x, y = (np.random.default_rng(seed).normal(size=(40, 4)) for seed in range(2))
    array = made_by(monkeypatch, "other")
    there, here = repsim.procrustes(array(x), array(y)), repsim.procrustes(x, y)
    assert there.value == pytest.approx(here.value, rel=1e-12)
    table = repsim.compare({"a": array(x)}, array(y), measures=["procrustes", "mutual_knn"])
    assert table["procrustes"].values[0, 0] == there.value
    assert table["mutual_knn"].values[0, 0] == repsim.mutual_knn(x, y).value
    assert len(from_dlpack) == 4


def test_graphs_that_are_not_on_the_cpu_are_brought_there() -> None:
    class OfCupy:
        def get(self) -> np.ndarray:
            return np.arange(3)

        def __dlpack__(self) -> None:
            raise AssertionError("this is the memory of a GPU")

    class OfJax:
        def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
            return np.arange(3)

        __dlpack__ = OfCupy.__dlpack__

    np.testing.assert_array_equal(on_cpu(OfJax()), np.arange(3))
    np.testing.assert_array_equal(on_cpu(OfCupy()), np.arange(3))
    np.testing.assert_array_equal(on_cpu(torch.arange(3)), np.arange(3))
    assert on_cpu([0, 1, 2]) == [0, 1, 2]


# ----------------------------------------------------------------------------------------- what holds while a GPU works


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """torch.cuda as it would answer for one GPU."""
    known: dict[str, Any] = {"capability": (9, 0), "set": []}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda place: known["capability"])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda place: "Some GPU")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda place: (3 * 2**30, 8 * 2**30))
    monkeypatch.setattr(torch.cuda, "device", lambda place: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch, "autocast", lambda kind, enabled: nullcontext())
    monkeypatch.setattr(device, "gpu_module", lambda: types.SimpleNamespace(set_device=known["set"].append))
    return known


def working() -> Any:
    return device._working(torch.device("cuda", 3), "cka")


def test_products_are_made_in_float32_whatever_was_set(fake_gpu: Any) -> None:
    settings = torch.backends.cuda.matmul
    before = settings.fp32_precision, settings.allow_bf16_reduced_precision_reduction
    try:
        settings.fp32_precision = "tf32"
        with working():
            assert settings.fp32_precision == "ieee"
            assert not settings.allow_bf16_reduced_precision_reduction
            assert not torch.is_grad_enabled()
        assert settings.fp32_precision == "tf32"
        with pytest.raises(RuntimeError, match="on purpose"), working():
            raise RuntimeError("on purpose")
        assert settings.fp32_precision == "tf32"
    finally:
        settings.fp32_precision = before[0]
    assert settings.allow_bf16_reduced_precision_reduction == before[1]
    assert fake_gpu["set"] == [3, 3]


def test_memory_that_is_used_up_names_the_budget(fake_gpu: Any) -> None:
    message = (
        r"^\[cka\] expected room on cuda:3, got out of memory with 3.0 of 8.0 GiB free; "
        r'give a budget, such as memory="1536MiB"'
    )
    with pytest.raises(MemoryError, match=message), working():
        raise torch.OutOfMemoryError("no more")


def test_an_old_gpu_is_refused(fake_gpu: Any) -> None:
    fake_gpu["capability"] = (7, 5)
    message = r"\[cka\] expected a GPU of compute capability 8.0 or later, got Some GPU"
    with pytest.raises(ValueError, match=message), working():
        raise AssertionError("not reached")


# ------------------------------------------------------------------------------------------------------- the CI's check


def no_spills() -> Any:
    path = Path(__file__).parents[1] / "csrc" / "cuda" / "no_spills.py"
    if not path.exists():
        pytest.skip("no source tree here")
    spec = importlib.util.spec_from_file_location("no_spills", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


LOG = """ptxas info    : Compiling entry function 'first' for 'sm_80'
ptxas info    : Function properties for first
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Compiling entry function 'second' for 'sm_90a'
ptxas info    : Function properties for second
    {stack} bytes stack frame, {stores} bytes spill stores, {loads} bytes spill loads
"""


def test_spilled_registers_are_found() -> None:
    spills = no_spills().spills
    assert spills(LOG.format(stack=0, stores=0, loads=0)) == (2, [])
    assert spills(LOG.format(stack=48, stores=0, loads=0)) == (2, [])
    assert spills(LOG.format(stack=8, stores=20, loads=8)) == (2, ["sm_90a second: 20 bytes stored, 8 loaded"])
    assert spills("") == (0, [])
