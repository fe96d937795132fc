"""Activations against forward passes written out by hand, and extraction against every way it can be interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from repsim.activations import POOLS, capture, extract, record, weights_hash  # noqa: E402
from repsim.interchange import from_bfloat16, to_bfloat16  # noqa: E402
from repsim.store import Store, StoreInUseError  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def images_of(n: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(7).random((n, *(shape or (3, 8, 8))), dtype=np.float32) - np.float32(0.5)


def seeded(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module


class Net(nn.Module):
    """A convolution under an in-place ReLU, dropout and batch norm that show the mode, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(4, 5)
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        x = self.norm(self.relu(self.conv(x)))
        return self.fc(self.drop(x.mean(dim=(2, 3))))


@pytest.fixture
def net() -> Net:
    return seeded(Net()).train()


def hook_count(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


# What is captured


def test_captured_rows_are_those_of_the_forward_pass(net):
    images = images_of(10)
    got = capture(net, images, ["fc", "conv"], batch_size=4)
    assert list(got) == ["fc", "conv"]
    assert {layer: (x.shape, x.dtype) for layer, x in got.items()} == {
        "fc": ((10, 5), np.float32),
        "conv": ((10, 4), np.float32),
    }
    with torch.no_grad():
        conv = nn.functional.conv2d(torch.from_numpy(images), net.conv.weight, net.conv.bias, padding=1)
        scaled = conv.relu() / (1 + net.norm.eps) ** 0.5 * net.norm.weight[:, None, None] + net.norm.bias[:, None, None]
        logits = scaled.mean((2, 3)) @ net.fc.weight.T + net.fc.bias
    np.testing.assert_allclose(got["conv"], conv.mean((2, 3)).numpy(), atol=1e-5)
    np.testing.assert_allclose(got["fc"], logits.numpy(), atol=1e-4)


@pytest.mark.parametrize("pool", ["mean", "flatten"])
def test_an_in_place_relu_after_the_layer_does_not_change_what_was_captured(net, pool):
    images = images_of(6)
    got = capture(net, images, ["conv"], pool=pool)["conv"]
    with torch.no_grad():
        conv = nn.functional.conv2d(torch.from_numpy(images), net.conv.weight, net.conv.bias, padding=1)
    expected = conv.mean((2, 3)) if pool == "mean" else conv.flatten(1)
    np.testing.assert_allclose(got, expected.numpy(), atol=1e-5)
    assert (got < 0).any()


@pytest.mark.parametrize("pool", POOLS)
def test_the_copy_at_the_hook_is_what_protects_against_in_place_changes(pool):
    """Without the copy the same hook records the ReLU: shown by a hook that keeps the output itself."""
    model = nn.Sequential(seeded(nn.Linear(6, 4)), nn.ReLU(inplace=True)).eval()
    images = images_of(5, 3, 6) if pool in ("cls", "last") else images_of(5, 6)
    kept = []
    handle = model[0].register_forward_hook(lambda module, inputs, output: kept.append(output.detach()))
    with torch.no_grad():
        model(torch.from_numpy(images))
        linear = nn.functional.linear(torch.from_numpy(images), model[0].weight, model[0].bias)
    handle.remove()
    assert (linear < 0).any() and (kept[0] >= 0).all()
    expected = {"mean": linear, "flatten": linear, "cls": linear[:, 0], "last": linear[:, -1]}[pool]
    np.testing.assert_allclose(capture(model, images, ["0"], pool=pool)["0"], expected.numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("shape", "pool", "oracle"),
    [
        ((5,), "mean", lambda x: x),
        ((4, 5), "mean", lambda x: x.mean(1)),
        ((4, 5, 6), "mean", lambda x: x.mean((2, 3))),
        ((4, 2, 3, 6), "mean", lambda x: x.mean((2, 3, 4))),
        ((), "flatten", lambda x: x[:, None]),
        ((4, 5), "flatten", lambda x: x.reshape(9, 20)),
        ((4, 5, 6), "flatten", lambda x: x.reshape(9, 120)),
        ((4, 5), "cls", lambda x: x[:, 0]),
        ((4, 5), "last", lambda x: x[:, 3]),
    ],
)
def test_pools(shape, pool, oracle):
    x = np.random.default_rng(1).standard_normal((9, *shape)).astype(np.float32)
    got = capture(nn.Sequential(nn.Identity()), x, ["0"], pool=pool, batch_size=4)["0"]
    np.testing.assert_allclose(got, oracle(x.astype(np.float64)), atol=1e-6)


def test_means_of_half_precision_outputs_are_taken_wide():
    # 4096 ones and one small value: float16 could hold neither their sum nor their mean to this accuracy.
    x = torch.full((2, 1, 64, 64), 30.0, dtype=torch.float16)
    x[:, 0, 0, 0] = 31.0
    got = capture(nn.Sequential(nn.Identity()), x, ["0"])["0"]
    np.testing.assert_allclose(got, 30 + 1 / 4096, atol=1e-5)


class Several(nn.Module):
    def __init__(self, wrap) -> None:
        super().__init__()
        self.wrap = wrap

    def forward(self, x):
        return self.wrap(x)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda x: (x, x + 1),
        lambda x: [x],
        lambda x: {"hidden": x, "other": x + 1},
        lambda x: (None, (x, x + 1)),
        lambda x: {"none": None, "nested": [x]},
    ],
    ids=["tuple", "list", "dict", "nested", "dict of list"],
)
def test_the_first_tensor_of_a_structured_output_counts(wrap):
    x = images_of(4, 3)
    assert np.array_equal(capture(nn.Sequential(Several(wrap)), x, ["0"])["0"], x)


def test_model_outputs_of_transformers():
    pytest.importorskip("transformers")
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    x = images_of(4, 6, 3)
    wrap = Several(lambda t: BaseModelOutputWithPooling(last_hidden_state=t, pooler_output=t[:, 0] + 1))
    assert np.array_equal(capture(nn.Sequential(wrap), x, ["0"], pool="last")["0"], x[:, -1])


@pytest.mark.parametrize("batch_size", [1, 3, 10, 1000])
def test_the_batch_size_does_not_matter(net, batch_size):
    images = images_of(10)
    expected = capture(net, images, ["conv", "norm", "fc"], batch_size=10)
    got = capture(net, images, ["conv", "norm", "fc"], batch_size=batch_size)
    for layer in expected:
        np.testing.assert_allclose(got[layer], expected[layer], atol=1e-5)


def test_tensors_memmaps_and_strided_arrays_give_the_same(net, tmp_path):
    images = images_of(6)
    np.save(tmp_path / "x.npy", images)
    expected = capture(net, images, ["fc"])["fc"]
    for other in (
        torch.from_numpy(images),
        np.load(tmp_path / "x.npy", mmap_mode="r"),
        images[::-1][::-1],
        images.astype(np.float64),
    ):
        assert np.array_equal(capture(net, other, ["fc"])["fc"], expected)


def test_the_images_follow_the_dtype_of_the_weights(net):
    images = images_of(6)
    got = capture(net.double(), images, ["fc"])["fc"]
    assert got.dtype == np.float32
    low = capture(net.bfloat16(), images, ["fc"])["fc"]
    assert low.dtype == np.float32 and not np.array_equal(low, got)
    np.testing.assert_allclose(low, got, rtol=0.1, atol=0.5)


def test_integer_inputs_stay_integers():
    tokens = np.array([[1, 2], [3, 0]])
    table = seeded(nn.Embedding(4, 5))
    assert np.array_equal(
        capture(nn.Sequential(table), tokens, ["0"], pool="last")["0"], table.weight.detach().numpy()[[2, 0]]
    )


# What is left behind


class InPlaceInput(nn.Module):
    def forward(self, x):
        return x.mul_(2)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_the_callers_images_are_not_changed(kind):
    images = images_of(4, 3)
    given = kind(images.copy())
    assert np.array_equal(capture(nn.Sequential(InPlaceInput()), given, ["0"])["0"], images * 2)
    assert np.array_equal(np.asarray(given), images)


def test_modes_hooks_gradients_and_random_state_are_as_before(net):
    net.norm.eval()  # a frozen part
    statistics = net.norm.running_mean.clone()
    random_state = torch.random.get_rng_state()
    capture(net, images_of(6), ["conv", "fc"], batch_size=2)
    assert [net.training, net.norm.training, net.drop.training] == [True, False, True]
    assert hook_count(net) == 0
    assert torch.equal(net.norm.running_mean, statistics)
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert all(parameter.grad is None for parameter in net.parameters()) and torch.is_grad_enabled()


class Broken(nn.Module):
    def forward(self, x):
        raise RuntimeError("broken on purpose")


def test_hooks_are_removed_and_modes_restored_when_the_forward_raises():
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(), Broken()).train()
    model[1].eval()
    handle = model[0].register_forward_hook(lambda *_: None)  # somebody else's hook stays
    with pytest.raises(RuntimeError, match="broken on purpose"):
        capture(model, images_of(4, 3), ["0", "1"])
    assert hook_count(model) == 1 and model.training and not model[1].training and torch.is_grad_enabled()
    handle.remove()


def test_the_mode_is_restored_when_the_consumer_raises(net, tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as held:  # the exception keeps every frame alive
        extract(net, images_of(6), range(6), ["fc"], tmp_path / "s", progress=stop)
    assert held.value is not None and net.training and hook_count(net) == 0
    Store.open(tmp_path / "s", "a").close()  # nor is the store still held


class Caching(nn.Module):
    """Keeps a tensor from its first forward pass, as rotary embeddings do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.cache: torch.Tensor | None = None

    def forward(self, x):
        if self.cache is None:
            self.cache = x.mean(0) * 0 + 1
        return x * self.weight * self.cache


def test_a_model_that_caches_can_be_trained_afterwards():
    model = nn.Sequential(Caching())
    capture(model, images_of(4, 3), ["0"])
    model(torch.ones(2, 3)).sum().backward()
    assert torch.equal(model[0].weight.grad, torch.full((3,), 2.0))


# What is refused


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.act, self.unused = nn.Linear(3, 3), nn.ReLU(), nn.ReLU()

    def forward(self, x):
        return self.act(self.fc(self.act(x)))


@pytest.mark.parametrize(("layer", "calls"), [("act", 2), ("unused", 0)])
def test_a_layer_must_run_once(layer, calls):
    model = Twice()
    with pytest.raises(
        ValueError, match=rf"\[capture\] expected layer '{layer}' to run once per forward pass, got {calls} calls"
    ):
        capture(model, images_of(4, 3), ["fc", layer])
    assert hook_count(model) == 0
    assert capture(model, images_of(4, 3), ["fc"])["fc"].shape == (4, 3)


@pytest.mark.parametrize(
    ("wrap", "pool", "error", "match"),
    [
        (
            lambda x: x.argmax(1),
            "flatten",
            TypeError,
            r"\[capture\] layer '0': expected an output with a floating-point tensor, got torch.int64",
        ),
        (lambda x: (None, "text"), "mean", TypeError, r"expected an output with a floating-point tensor, got tuple"),
        (lambda x: x.sum(), "flatten", ValueError, r"expected an output of 4 samples on axis 0, got \[\]"),
        (lambda x: x.T, "mean", ValueError, r"expected an output of 4 samples on axis 0, got \[3, 4\]"),
        (lambda x: x[:, 0], "mean", ValueError, r"expected at least two axes for pool 'mean', got \[4\]"),
        (lambda x: x, "cls", ValueError, r"expected tokens \[n, t, c\] for pool 'cls', got \[4, 3\]"),
        (
            lambda x: x[:, :, None, None],
            "last",
            ValueError,
            r"expected tokens \[n, t, c\] for pool 'last', got \[4, 3, 1, 1\]",
        ),
    ],
)
def test_an_unsuited_output_is_refused(wrap, pool, error, match):
    model = nn.Sequential(Several(wrap))
    with pytest.raises(error, match=match):
        capture(model, images_of(4, 3), ["0"], pool=pool)
    assert hook_count(model) == 0


def test_a_width_that_changes_between_batches_is_refused(tmp_path):
    model = nn.Sequential(Several(lambda x: x[:, : int(x[0, 0]) + 1]))
    images = np.array([[0, 1, 2], [1, 1, 1]], np.float32)
    with pytest.raises(ValueError, match=r"\[capture\] expected 1 features of '0' in every batch, got 2"):
        capture(model, images, ["0"], batch_size=1)
    with pytest.raises(ValueError, match=r"expected rows\['0'\] of shape \[1, 1\], got \[1, 2\]"):
        extract(model, images, [0, 1], ["0"], tmp_path / "s", batch_size=1)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (
            {"layers": ["conv1"]},
            ValueError,
            r"expected layers among the model's modules, such as \['conv'\], got 'conv1'",
        ),
        (
            {"layers": [""]},
            ValueError,
            r"expected layers among the model's modules, such as \['conv', 'relu', 'norm', 'drop', 'fc'\], got ''",
        ),
        ({"layers": "conv"}, ValueError, r"expected layers as a sequence of different names, got 'conv'"),
        ({"layers": []}, ValueError, r"expected layers as a sequence of different names, got \[\]"),
        ({"layers": ["fc", "fc"]}, ValueError, r"expected layers as a sequence of different names, got \['fc', 'fc'\]"),
        ({"pool": "max"}, ValueError, r"expected pool as one of \('mean', 'flatten', 'cls', 'last'\), got 'max'"),
        ({"batch_size": 0}, ValueError, r"expected batch_size >= 1, got 0"),
        ({"images": [[1.0]]}, TypeError, r"expected images as a numpy array or a tensor, got list"),
        (
            {"images": np.zeros((0, 3, 8, 8))},
            ValueError,
            r"expected images of shape \[n, ...\] with n >= 1, got \[0, 3, 8, 8\]",
        ),
    ],
)
def test_bad_arguments_are_refused_at_the_edge(net, tmp_path, change, error, match):
    arguments = {"images": images_of(4), "layers": ["fc"], **change}
    with pytest.raises(error, match=r"\[capture\] " + match):
        capture(net, **arguments)
    with pytest.raises(error, match=r"\[extract\] " + match):
        extract(net, ids=range(len(arguments["images"])), path=tmp_path / "s", **arguments)
    assert net.calls == 0 and not (tmp_path / "s").exists()


# Into a store


def test_extract_writes_what_capture_returns(net, tmp_path):
    images, seen = images_of(10), []
    store = extract(
        net,
        images,
        np.arange(10)[::-1],
        ("conv", "fc"),
        tmp_path / "s",
        batch_size=4,
        metadata={"name": "net", "shape": (3, 8)},
        progress=lambda done, total: seen.append((done, total)),
    )
    expected = capture(net, images, ["conv", "fc"], batch_size=4)
    assert store.finished and not store.writable and store.layers == ("conv", "fc")
    assert all(np.array_equal(store[layer], expected[layer]) for layer in expected)
    assert np.array_equal(store.ids, np.arange(10)[::-1]) and seen == [(4, 10), (8, 10), (10, 10)]
    extraction = {"layers": ["conv", "fc"], "pool": "mean", "dtype": "float32", "weights_sha256": weights_hash(net)}
    assert store.metadata == {"name": "net", "shape": [3, 8], "extraction": extraction}
    store.verify()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_dtypes_on_disk(net, tmp_path, dtype):
    expected = capture(net.double(), images_of(5), ["fc"])["fc"]
    store = extract(net, images_of(5), range(5), ["fc"], tmp_path / "s", dtype=dtype)
    assert store.dtype("fc") == dtype
    rounded = from_bfloat16(to_bfloat16(expected)) if dtype == "bfloat16" else expected.astype(dtype)
    np.testing.assert_allclose(store.read("fc"), rounded, rtol=1e-6 if dtype in ("float32", "float64") else 1e-2)
    if dtype == "float64":  # the model's own precision, not one that went through float32
        assert not np.array_equal(store["fc"], store["fc"].astype(np.float32))


@pytest.mark.parametrize(("dtype", "value"), [("float16", 65520.0), ("bfloat16", 3.4e38)])
def test_a_value_that_the_dtype_cannot_hold_is_refused(tmp_path, dtype, value):
    model, images = nn.Sequential(nn.Identity()), np.array([[1, np.inf], [value, np.nan]], np.float32)
    with pytest.raises(
        ValueError,
        match=rf"\[extract\] expected values of '0' that fit into {dtype}, got magnitude {value:.6g}".replace(
            "+", r"\+"
        ),
    ):
        extract(model, images, [0, 1], ["0"], tmp_path / "s", dtype=dtype, batch_size=1)
    store = Store.open(tmp_path / "s")
    assert len(store) == 1 and np.isinf(store.read("0")[0, 1])  # an infinity of the model itself is kept


def test_a_broken_off_extract_continues_at_the_first_missing_row(net, tmp_path):
    images = images_of(11)
    whole = extract(net, images, range(11), ["conv", "fc"], tmp_path / "whole", batch_size=2)

    def stop(done, total):
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(net, images, range(11), ["conv", "fc"], tmp_path / "s", batch_size=2, progress=stop)
    assert len(Store.open(tmp_path / "s")) == 6 and not Store.open(tmp_path / "s").finished
    net.calls = 0
    store = extract(net, images, range(11), ["conv", "fc"], tmp_path / "s", batch_size=2)
    assert net.calls == 3
    for file in ("ids.npy", "000-conv.npy", "001-fc.npy", "manifest.json"):
        assert (store.path / file).read_bytes() == (whole.path / file).read_bytes()
    net.calls = 0
    again = extract(net, images, range(11), ["conv", "fc"], tmp_path / "s", batch_size=2)
    assert net.calls == 0 and again.finished and np.array_equal(again["fc"], whole["fc"])


def test_a_finished_store_grows_with_the_samples(net, tmp_path):
    images = images_of(9)
    extract(net, images[:4], range(4), ["fc"], tmp_path / "s")
    store = extract(net, images, range(9), ["fc"], tmp_path / "s")
    np.testing.assert_allclose(store["fc"], capture(net, images, ["fc"])["fc"], atol=1e-5)
    store.verify()


EXTRACTING = """
import os, signal, sys
import numpy as np, torch
from torch import nn
from repsim.activations import extract
torch.set_num_threads(1)
model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True))
with torch.no_grad():
    model[0].weight.copy_(torch.arange(12.0).reshape(4, 3)); model[0].bias.fill_(-9)
def progress(done, total):
    if done == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
images = np.arange(30, dtype="float32").reshape(10, 3)
extract(model, images, range(10), ["0"], sys.argv[1], batch_size=2, progress=progress)
"""


def test_an_extract_that_was_killed_is_continued_by_the_next(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    for die_at, status, rows in ((4, -signal.SIGKILL, 4), (0, 0, 10)):
        command = [sys.executable, "-c", EXTRACTING, str(tmp_path / "s"), str(die_at)]
        done = subprocess.run(command, env=environment, capture_output=True, timeout=60)
        assert done.returncode == status, done.stderr
        assert len(Store.open(tmp_path / "s")) == rows
    store = Store.open(tmp_path / "s")
    store.verify()
    expected = np.arange(30.0).reshape(10, 3) @ np.arange(12.0).reshape(4, 3).T - 9
    assert np.array_equal(store["0"], expected) and (expected < 0).any()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"ids": [0, 1, 2, 9, 4, 5]}, r"expected id 3 at position 3 as in the store .*s, got 9"),
        ({"pool": "flatten"}, r"expected pool mean as in the store .*s, got flatten"),
        ({"dtype": "float16"}, r"expected dtype float32 as in the store .*s, got float16"),
        ({"layers": ["fc", "conv"]}, r"expected layers \['conv', 'fc'\] as in the store .*s, got \['fc', 'conv'\]"),
        ({"metadata": {"seed": 1}}, r"expected metadata 'seed' 0 as in the store .*s, got 1"),
        ({"metadata": {}}, r"expected metadata 'seed' 0 as in the store .*s, got None"),
        ({"images": images_of(3), "ids": [0, 1, 2]}, r"expected at least the 4 ids in the store .*s, got 3"),
        ({"model": Net()}, r"expected weights_sha256 \w+ as in the store .*s, got \w+"),
    ],
)
def test_another_extraction_does_not_continue_a_store(net, tmp_path, change, match):
    def stop(done, total):
        raise KeyboardInterrupt

    arguments = {
        "model": net,
        "images": images_of(6),
        "ids": range(6),
        "layers": ["conv", "fc"],
        "metadata": {"seed": 0},
    }
    with pytest.raises(KeyboardInterrupt):
        extract(**arguments, path=tmp_path / "s", batch_size=4, progress=stop)
    before = (tmp_path / "s" / "manifest.json").read_bytes()
    with pytest.raises(ValueError, match=r"\[extract\] " + match):
        extract(**{**arguments, **change}, path=tmp_path / "s")
    assert (tmp_path / "s" / "manifest.json").read_bytes() == before
    assert len(extract(**arguments, path=tmp_path / "s")) == 6


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"ids": [0, 1]}, ValueError, r"expected ids of shape \[3\], one per input, got \[2\]"),
        ({"ids": [0, 1, 1]}, ValueError, r"expected ids that occur once, got 1 repetitions"),
        ({"ids": [0.0, 1.0, 2.0]}, TypeError, r"expected integer ids, got float64"),
        ({"dtype": "int8"}, ValueError, r"expected dtype as one of \('float16', .*\), got 'int8'"),
        ({"metadata": {"extraction": 1}}, ValueError, r"expected metadata without the key 'extraction'"),
    ],
)
def test_extract_refuses(net, tmp_path, change, error, match):
    arguments = {"ids": range(3), "layers": ["fc"], "path": tmp_path / "s", **change}
    with pytest.raises(error, match=r"\[extract\] " + match):
        extract(net, images_of(3), **arguments)
    assert net.calls == 0 and not (tmp_path / "s").exists()


def test_extract_into_a_store_in_use_or_of_another_origin(net, tmp_path):
    with Store.create(tmp_path / "s") as held:
        with pytest.raises(StoreInUseError):
            extract(net, images_of(3), range(3), ["fc"], tmp_path / "s")
        held.append([0], {"fc": np.zeros((1, 5), np.float32)})
    with pytest.raises(ValueError, match=r"expected metadata 'extraction' None as in the store"):
        extract(net, images_of(3), range(3), ["fc"], tmp_path / "s")


def test_rows_from_elsewhere_are_recorded_resumed_and_counted(tmp_path):
    rows = images_of(6, 2)
    asked = []

    def batches(done):
        asked.append(done)
        for start in range(done, 4 if len(asked) == 1 else 6, 2):
            yield {"a": rows[start : start + 2]}

    with pytest.raises(ValueError, match=r"\[extract\] expected rows of 6 ids, got 4"):
        record(tmp_path / "s", np.arange(6), {"of": 1}, batches, noted={"when": "first"})
    with pytest.raises(ValueError, match=r"\[extract\] expected metadata 'of' 1 as in the store .*s, got 2"):
        record(tmp_path / "s", np.arange(6), {"of": 2}, batches, noted={"when": "first"})
    store = record(tmp_path / "s", np.arange(6), {"of": 1}, batches, noted={"when": "later"})
    assert np.array_equal(store["a"], rows) and asked == [0, 4]
    assert store.metadata == {"of": 1, "when": "first"}


def test_weights_hash_tells_weights_apart_and_nothing_else(net):
    before = weights_hash(net)
    assert len(before) == 64 and weights_hash(seeded(Net()).eval()) == before
    net.fc.weight.grad = torch.ones_like(net.fc.weight)
    assert weights_hash(net) == before
    with torch.no_grad():
        net.norm.running_var[2] += 1e-6
    changed = weights_hash(net)
    assert changed != before and weights_hash(net.bfloat16()) not in (before, changed)
    assert weights_hash(nn.Linear(2, 3, bias=False).requires_grad_(False)) != weights_hash(nn.Linear(3, 2, bias=False))
