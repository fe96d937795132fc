"""Training: what it learns, what it repeats to the bit, what it leaves alone, and what it says when it fails."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from repsim.data.images import LabelledImages, handwriting
from repsim.training import vision
from repsim.training.networks import Classifier
from repsim.training.vision import (
    VisionConfig,
    build,
    evaluate,
    learning_rate,
    load,
    representation_layers,
    save,
    split_heads,
    train,
)

torch.set_num_threads(1)

RESNET = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
VIT = {
    "model_type": "vit",
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "patch_size": 4,
    "image_size": 32,
    "hidden_dropout_prob": 0.1,
}
OWN = ("cnn", "resnet8", "resnet20", "vit")


@pytest.fixture(scope="module")
def digits() -> LabelledImages:
    data = handwriting(16)
    return data.take(np.random.default_rng(0).permutation(len(data)))


def stripes(n: int, size: int = 16, seed: int = 0) -> LabelledImages:
    """Two attributes: the direction of the stripes (2 classes) and which colour channel is bright (3 classes)."""
    rng = np.random.default_rng(seed)
    labels = np.stack([rng.integers(0, 2, n), rng.integers(0, 3, n)], axis=1)
    wave = 0.5 + 0.4 * np.sin(np.arange(size) * 1.2)
    images = np.full((n, 3, size, size), 0.3)
    for i, (direction, channel) in enumerate(labels):
        images[i, channel] = wave[:, None] if direction else wave[None, :]
    images = np.clip(images + rng.normal(scale=0.05, size=images.shape), 0, 1).astype(np.float32)
    return LabelledImages(images, labels, (2, 3), ("direction", "channel"), np.arange(n))


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def identical(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def outputs(model: nn.Module, images: np.ndarray, names: tuple[str, ...]) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _module, _inputs, output, name=name: found.__setitem__(name, output.detach().clone())
        )
        for name in names
    ]
    with torch.no_grad():
        found["logits"] = model(torch.from_numpy(images))
    for handle in handles:
        handle.remove()
    return found


# --- models ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [16, 28])
@pytest.mark.parametrize("model", [*OWN, RESNET, VIT], ids=[*OWN, "transformers-resnet", "transformers-vit"])
def test_every_model_gives_logits_of_all_heads_and_ends_its_layers_at_the_input_of_the_heads(model, size):
    classifier = build(VisionConfig(model=model), classes=(10, 8), image_size=size)
    images = np.random.default_rng(0).uniform(size=(3, 3, size, size)).astype(np.float32)
    layers = representation_layers(classifier)
    found = outputs(classifier, images, layers)
    assert not classifier.training
    assert classifier.classes == (10, 8)
    assert found["logits"].shape == (3, 18)
    assert [head.shape for head in split_heads(found["logits"], (10, 8))] == [(3, 10), (3, 8)]
    assert len(layers) == len(set(layers)) >= 3
    features = found[layers[-1]]
    assert features.ndim == 2
    heads = next(module for name, module in classifier.named_modules() if name.endswith("heads"))
    torch.testing.assert_close(
        features @ heads.weight.T + heads.bias, found["logits"]
    )  # the last layer feeds the heads


def test_the_layers_of_each_model_are_in_the_order_they_run():
    for model in (*OWN, RESNET, VIT):
        classifier = build(VisionConfig(model=model), (10,), 16)
        ran: list[str] = []
        for name in representation_layers(classifier):
            classifier.get_submodule(name).register_forward_hook(lambda *_, name=name, ran=ran: ran.append(name))
        classifier(torch.zeros(2, 3, 16, 16))
        assert tuple(ran) == representation_layers(classifier)


def test_the_networks_have_the_depth_their_names_say():
    def weighted(model: str) -> int:
        modules = build(VisionConfig(model=model), (10,), 16).named_modules()
        return sum(isinstance(module, nn.Conv2d | nn.Linear) and "shortcut" not in name for name, module in modules)

    assert (weighted("resnet8"), weighted("resnet20"), weighted("cnn")) == (8, 20, 6)
    vit = build(VisionConfig(model="vit"), (10,), 16)
    assert sum(name.startswith("blocks.") and name.count(".") == 1 for name, _ in vit.named_modules()) == 4
    assert vit.heads.in_features == 96


def test_normalisation_is_inside_the_model():
    model = build(VisionConfig(), (10,), 16)
    seen: list[torch.Tensor] = []
    model.conv1.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    model(torch.full((1, 3, 16, 16), 0.75))
    torch.testing.assert_close(seen[0], torch.ones(1, 3, 16, 16))  # (.75 - .5) / .25
    assert {"mean", "std"} <= set(model.state_dict())


@pytest.mark.parametrize("model", ["cnn", "vit", RESNET], ids=["cnn", "vit", "transformers-resnet"])
def test_the_initial_weights_are_a_matter_of_init_seed_alone_and_the_body_does_not_know_the_heads(model):
    config = VisionConfig(model=model, init_seed=3)
    first = build(config, (10,), 16)
    torch.rand(7)  # somebody else draws
    assert identical(first, build(replace(config, order_seed=9), (10,), 16))
    other = weights(build(replace(config, init_seed=4), (10,), 16))
    two = weights(build(config, (10, 8), 16))
    for name, tensor in weights(first).items():
        if tensor.ndim > 1 and name not in ("mean", "std"):
            assert not torch.equal(tensor, other[name])
        if "heads" not in name:
            assert torch.equal(tensor, two[name])


def test_grey_images_and_other_widths():
    model = build(VisionConfig(width=8), (4,), 16, channels=1)
    assert model(torch.zeros(2, 1, 16, 16)).shape == (2, 4)
    assert model.heads.in_features == build(VisionConfig(width=16), (4,), 16).heads.in_features // 2


# --- training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_it_learns_handwriting_well_beyond_its_training_images(digits, optimizer):
    rate = 3e-3 if optimizer == "adamw" else 0.1
    config = VisionConfig(optimizer=optimizer, learning_rate=rate, epochs=8, batch_size=64)
    calls: list[tuple[int, int]] = []
    trained = train(config, digits.take(np.arange(600)), progress=lambda *call: calls.append(call))
    assert trained.learned
    assert trained.reason == ""
    assert evaluate(trained.model, digits.take(np.arange(600, 1000)))[0] > 0.93
    assert trained.curves["loss"][-1] < 0.3 * trained.curves["loss"][0]
    assert trained.curves["accuracy"][-1] > 0.95
    assert [len(curve) for curve in trained.curves.values()] == [8, 8, 8]
    assert calls == [(step, 80) for step in range(1, 81)]
    assert trained.images_per_second == pytest.approx(600 * 8 / trained.seconds)
    assert not trained.model.training


@pytest.mark.parametrize("model", ["resnet8", "vit", RESNET, VIT], ids=["resnet8", "vit", "hf-resnet", "hf-vit"])
def test_every_kind_of_model_learns_two_attributes_at_once(model):
    data = stripes(96)
    trained = train(VisionConfig(model=model, epochs=12, batch_size=16, learning_rate=2e-3), data)
    assert trained.learned, trained.reason
    assert min(evaluate(trained.model, stripes(64, seed=1))) > 0.9


@pytest.mark.parametrize("model", ["cnn", "vit", VIT], ids=["cnn", "vit", "vit-with-dropout"])
def test_the_same_seeds_give_the_same_bits_and_each_seed_matters(model):
    data = stripes(48)
    config = VisionConfig(model=model, epochs=2, batch_size=16, init_seed=1, order_seed=2)
    first = train(config, data)
    torch.rand(3)
    np.random.rand(3)
    again = train(config, data)
    assert identical(first.model, again.model)
    assert first.curves == again.curves
    assert not identical(first.model, train(replace(config, init_seed=5), data).model)
    assert not identical(first.model, train(replace(config, order_seed=5), data).model)


def test_global_random_states_stay_untouched():
    data = stripes(32)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    for model in ("cnn", VIT):
        train(VisionConfig(model=model, epochs=1), data)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    np.testing.assert_array_equal(np.random.get_state()[1], states[2])


def test_an_epoch_visits_every_image_once_in_nearly_equal_batches(monkeypatch):
    data = stripes(50)
    seen: list[np.ndarray] = []

    class Spy(vision.ConvNet):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if self.training:
                seen.append(images.numpy().copy())
            return super().forward(images)

    monkeypatch.setattr(vision, "ConvNet", Spy)
    train(VisionConfig(epochs=2, batch_size=16), data)
    assert [len(batch) for batch in seen] == [13, 13, 12, 12] * 2
    epochs = [np.concatenate(seen[:4]), np.concatenate(seen[4:])]
    for epoch in epochs:
        order = np.lexsort(epoch.reshape(50, -1).T)
        expected = np.lexsort(data.images.reshape(50, -1).T)
        np.testing.assert_array_equal(epoch[order], data.images[expected])
    assert not np.array_equal(epochs[0], epochs[1])  # another order in the second epoch


def test_one_step_of_sgd_is_the_gradient_of_the_mean_over_heads(monkeypatch):
    """Oracle: float64 gradient of the mean cross entropy of a linear classifier, with smoothing and weight decay."""

    class Plain(Classifier):
        layers = ("features",)

        def __init__(self, classes, width, channels):
            super().__init__(classes, [0.0] * channels, [1.0] * channels)
            self.attach_heads(channels * 64)

        def represent(self, images):
            return images.flatten(1)

    monkeypatch.setattr(vision, "ConvNet", Plain)
    data = stripes(10, size=8)
    config = VisionConfig(
        optimizer="sgd", learning_rate=0.1, weight_decay=0.01, warmup=0, epochs=1, batch_size=10, label_smoothing=0.1
    )
    before = build(config, data.classes, 8)
    weight, bias = (tensor.detach().double().numpy() for tensor in (before.heads.weight, before.heads.bias))
    x = data.images.reshape(10, -1).astype(np.float64)
    logits = x @ weight.T + bias
    gradient, loss = np.zeros_like(logits), 0.0
    for head, (first, count) in enumerate([(0, 2), (2, 3)]):
        part = logits[:, first : first + count]
        log_p = part - np.log(np.exp(part).sum(axis=1, keepdims=True))
        target = np.full((10, count), 0.1 / count)
        target[np.arange(10), data.labels[:, head]] += 0.9
        gradient[:, first : first + count] = (np.exp(log_p) - target) / 10 / 2
        loss += -(target * log_p).sum(axis=1).mean() / 2
    trained = train(config, data)
    after = trained.model.heads
    np.testing.assert_allclose(after.weight.detach(), weight - 0.1 * (gradient.T @ x + 0.01 * weight), atol=1e-6)
    np.testing.assert_allclose(after.bias.detach(), bias - 0.1 * gradient.sum(axis=0), atol=1e-6)  # no decay on biases
    assert trained.curves["loss"][0] == pytest.approx(loss, abs=1e-6)


def test_the_learning_rate_rises_to_its_peak_and_falls_along_a_cosine():
    config = VisionConfig(learning_rate=0.2, warmup=0.1)
    rates = [learning_rate(config, step, 100) for step in range(100)]
    np.testing.assert_allclose(rates[:10], 0.02 * np.arange(1, 11))
    np.testing.assert_allclose(rates[10:], [0.1 * (1 + math.cos(math.pi * k / 90)) for k in range(90)])
    assert learning_rate(replace(config, warmup=0.0), 0, 5) == 0.2
    assert learning_rate(replace(config, warmup=1.0), 4, 5) == 0.2
    curve = train(VisionConfig(epochs=3, batch_size=16, learning_rate=0.01), stripes(32)).curves["learning_rate"]
    assert curve == [learning_rate(VisionConfig(learning_rate=0.01), step, 6) for step in (1, 3, 5)]


def test_a_training_that_fails_to_learn_is_flagged_by_its_worst_attribute():
    data = stripes(200)
    noise = np.random.default_rng(0).integers(0, 3, size=200)
    data = LabelledImages(
        data.images, np.stack([data.labels[:, 0], noise], axis=1), (2, 3), ("stripes", "noise"), data.ids
    )
    trained = train(VisionConfig(epochs=6, width=2, batch_size=16, learning_rate=1e-2, minimum_accuracy=0.7), data)
    assert not trained.learned
    assert trained.accuracy[0] > 0.9
    assert trained.reason == f"training accuracy {trained.accuracy[1]:.3f} of noise < 0.7"


def test_a_loss_that_is_not_finite_ends_the_training_at_once():
    steps: list[int] = []
    config = VisionConfig(model="vit", optimizer="sgd", learning_rate=1e30, warmup=0, epochs=50, batch_size=16)
    trained = train(config, stripes(64), progress=lambda step, _: steps.append(step))
    assert not trained.learned
    assert trained.reason.startswith("loss is nan at step ")
    assert len(steps) < 10
    assert trained.curves["loss"] == []  # an epoch that did not end leaves no point


def test_accuracy_is_counted_by_head_in_eval_mode(digits):
    data = stripes(37)
    model = build(VisionConfig(), data.classes, 16).train()
    accuracy = evaluate(model, data, batch_size=10)
    assert model.training  # left as it was
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(data.images)).numpy()
    expected = [
        (logits[:, :2].argmax(1) == data.labels[:, 0]).mean(),
        (logits[:, 2:].argmax(1) == data.labels[:, 1]).mean(),
    ]
    assert accuracy == pytest.approx(expected)
    with pytest.raises(
        ValueError, match=r"\[evaluate\] expected data with classes \(2, 3\) like the model, got \(10,\)"
    ):
        evaluate(model, digits)


# --- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["cnn", "vit", RESNET], ids=["cnn", "vit", "transformers-resnet"])
def test_weights_come_back_to_the_bit(tmp_path, model):
    data = stripes(32)
    config = VisionConfig(model=model, epochs=1)
    trained = train(config, data).model
    save(trained, tmp_path / "a.safetensors")
    save(trained, tmp_path / "b.safetensors")
    back = load(config, data.classes, 16, tmp_path / "a.safetensors")
    assert identical(trained, back)
    assert not back.training
    images = torch.from_numpy(data.images)
    with torch.no_grad():
        assert torch.equal(trained(images), back(images))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]  # no leftovers


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    model = build(VisionConfig(width=2), (10,), 16)
    path = tmp_path / "model.safetensors"
    save(model, path)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("repsim.training.weight_files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(build(VisionConfig(width=4), (10,), 16), path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.safetensors"]


def test_files_that_hold_something_else_are_named(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(FileNotFoundError, match=r"\[load\] expected a safetensors file, got .*model.safetensors"):
        load(VisionConfig(), (10,), 16, path)
    path.write_bytes(b"not one")
    with pytest.raises(ValueError, match=r"\[load\] expected a safetensors file, got .*model.safetensors"):
        load(VisionConfig(), (10,), 16, path)
    save(build(VisionConfig(), (10,), 16), path)
    with pytest.raises(ValueError, match=r"\[load\] expected a model with classes \(8,\), got \(10,\)"):
        load(VisionConfig(), (8,), 16, path)
    with pytest.raises(
        ValueError, match=r"\[load\] expected conv1.0.weight of shape \(8, 3, 3, 3\), got \(16, 3, 3, 3\)"
    ):
        load(VisionConfig(width=8), (10,), 16, path)


# --- transformers checkpoints, made here, without network -----------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    from transformers import ViTConfig, ViTForImageClassification

    settings = {name: value for name, value in VIT.items() if name != "model_type"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ViTForImageClassification(ViTConfig(**settings, num_labels=7)).save_pretrained(tmp_path / "vit")
    (tmp_path / "vit" / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]})
    )
    return tmp_path / "vit"


def test_a_pretrained_checkpoint_keeps_weights_normalisation_resolution_and_its_own_head(checkpoint):
    from transformers import ViTForImageClassification

    original = ViTForImageClassification.from_pretrained(checkpoint).eval()
    model = build(VisionConfig(model=str(checkpoint), pretrained=True), (7,), 32)
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1), torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(model(images), original(pixel_values=(images - mean) / std).logits)
    small = build(VisionConfig(model=str(checkpoint), pretrained=True), (7,), 16)  # resized inside
    assert small(images[:, :, :16, :16]).shape == (4, 7)
    other = build(VisionConfig(model=str(checkpoint), pretrained=True), (5, 4), 32)
    for name, tensor in weights(model).items():
        if "heads" not in name:
            assert torch.equal(tensor, weights(other)[name])


def test_a_checkpoint_without_pretrained_gives_the_architecture_at_the_size_of_the_images(checkpoint):
    config = VisionConfig(model=str(checkpoint), init_seed=2)
    model = build(config, (7,), 16)
    pretrained = build(replace(config, pretrained=True), (7,), 16)
    assert identical(model, build(config, (7,), 16))
    tokens = [weights(m)["network.vit.embeddings.position_embeddings"].shape[1] for m in (model, pretrained)]
    assert tokens == [4 * 4 + 1, 8 * 8 + 1]
    assert not torch.equal(
        weights(model)["network.vit.embeddings.cls_token"], weights(pretrained)["network.vit.embeddings.cls_token"]
    )


def test_a_fine_tuned_checkpoint_comes_back_to_the_bit(checkpoint, tmp_path):
    data = stripes(24)
    config = VisionConfig(model=str(checkpoint), pretrained=True, epochs=1, learning_rate=1e-4)
    trained = train(config, data).model
    save(trained, tmp_path / "tuned.safetensors")
    (checkpoint / "model.safetensors").unlink()  # its weights are not needed again
    assert identical(trained, load(config, data.classes, 16, tmp_path / "tuned.safetensors"))


# --- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "expected width of at least 1, got 0"),
        ({"epochs": 0}, "expected epochs of at least 1, got 0"),
        ({"batch_size": 0}, "expected batch_size of at least 1, got 0"),
        ({"optimizer": "adam"}, r"expected optimizer one of \('adamw', 'sgd'\), got 'adam'"),
        ({"learning_rate": 0.0}, "expected learning_rate above 0, got 0.0"),
        ({"learning_rate": float("nan")}, "expected learning_rate above 0, got nan"),
        ({"weight_decay": -1.0}, "expected weight_decay of at least 0, got -1.0"),
        ({"momentum": 1.0}, r"expected momentum in \[0, 1\), got 1.0"),
        ({"warmup": 1.5}, r"expected warmup in \[0, 1\], got 1.5"),
        ({"label_smoothing": -0.1}, r"expected label_smoothing in \[0, 1\), got -0.1"),
        ({"minimum_accuracy": 50}, r"expected minimum_accuracy in \[0, 1\], got 50"),
        ({"init_seed": -1}, r"expected init_seed in \[0, 2\*\*63\), got -1"),
        ({"order_seed": -1}, r"expected order_seed in \[0, 2\*\*63\), got -1"),
        ({"pretrained": True}, "expected pretrained=False for 'cnn'"),
    ],
)
def test_a_bad_configuration_is_named(change, message):
    with pytest.raises(ValueError, match=r"\[VisionConfig\] " + message):
        VisionConfig(**change)


@pytest.mark.parametrize(
    ("config", "arguments", "message"),
    [
        (VisionConfig(model="resnet9"), ((10,), 16), "expected model one of .* got 'resnet9'"),
        (VisionConfig(), ((), 16), r"expected classes with at least 2 classes .* got \(\)"),
        (VisionConfig(), ((10, 1), 16), r"expected classes with at least 2 classes .* got \(10, 1\)"),
        (VisionConfig(), ((10,), 4), "expected image_size of at least 8 pixels, got 4"),
        (VisionConfig(model="vit"), ((10,), 30), "expected image_size divisible by 4, .* got 30"),
        (VisionConfig(model="vit", width=3), ((10,), 16), 'expected an even width for "vit" .* got 3'),
        (VisionConfig(model={"depths": [1]}), ((10,), 16), r"expected a transformers config with \"model_type\", got"),
        (VisionConfig(model={"model_type": "nope"}), ((10,), 16), "expected a transformers image classifier, got"),
        (VisionConfig(model={"model_type": "gpt2"}), ((10,), 16), "expected a transformers image classifier, got"),
        (VisionConfig(model=RESNET, pretrained=True), ((10,), 16), "expected a checkpoint folder or hub id"),
        (VisionConfig(model=RESNET), ((10,), 16, 1), "expected images with 3 channels for resnet, got 1"),
    ],
)
def test_a_model_that_cannot_be_built_is_named(config, arguments, message):
    with pytest.raises(ValueError, match=r"\[build\] " + message):
        build(config, *arguments)


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"\[build\] expected a transformers checkpoint, got .*"):
        build(VisionConfig(model=str(tmp_path)), (10,), 16)


def test_data_that_cannot_be_trained_on_is_named():
    data = stripes(4)
    with pytest.raises(ValueError, match=r"\[train\] expected data with at least 2 images, got 1"):
        train(VisionConfig(), data.take(np.arange(1)))
    flat = LabelledImages(
        np.ascontiguousarray(data.images[:, :, :8]), data.labels, data.classes, data.attributes, data.ids
    )
    with pytest.raises(ValueError, match=r"\[train\] expected square images, got 8 x 16 pixels"):
        train(VisionConfig(), flat)
