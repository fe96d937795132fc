"""Image classifiers: own small networks for two CPU cores, and any image classifier of transformers.

All of them map images in [0, 1] to the concatenated logits of their heads, normalise inside, and list the modules whose
outputs are worth comparing. Nothing here seeds: the caller sets the generator from which the weights are drawn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class Classifier(nn.Module):
    """Maps images in [0, 1] to the logits of one or more heads, side by side.

    Args:
        classes: number of classes of each head; the logits have sum(classes) columns.
        mean, std: normalisation per channel, kept with the weights so that an attack works on the images themselves.

    A subclass sets `layers` (names of the modules to compare, input side first), implements `represent`, and calls
    `attach_heads` last, so that with one seed the body's initial weights do not depend on the heads.
    """

    layers: tuple[str, ...]
    mean: Tensor
    std: Tensor
    channels_last = False

    def __init__(self, classes: Sequence[int], mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.classes = tuple(int(count) for count in classes)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def attach_heads(self, width: int) -> None:
        """Add the heads, which read `width` features. To be called last in a subclass's `__init__`."""
        self.features = nn.Identity()  # a name for the penultimate representation [n, width]
        self.heads = nn.Linear(width, sum(self.classes))

    def represent(self, images: Tensor) -> Tensor:
        """Penultimate features [n, width] of normalised images [n, channels, side, side]; a subclass implements it."""
        raise NotImplementedError

    def normalise(self, images: Tensor) -> Tensor:
        """Images in [0, 1] with the mean and std of each channel taken out, in the memory order of the convolutions."""
        images = (images - self.mean) / self.std
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images

    def forward(self, images: Tensor) -> Tensor:
        """Logits [n, sum(classes)] of images [n, channels, side, side] in [0, 1]."""
        return cast(Tensor, self.heads(self.features(self.represent(self.normalise(images)))))


def _convolution(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> list[nn.Module]:
    # Momentum .2: running statistics must have settled after the few dozen steps of a small study.
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs, momentum=0.2),
    ]


class ConvNet(Classifier):
    """Five 3x3 convolutions with batch normalisation, then the mean over positions; made to train fast on a CPU core.

    Widths 1, 2, 2, 4, 8 times `width`; resolution halved at the second, fourth and fifth.
    """

    layers = ("conv1", "conv2", "conv3", "conv4", "conv5", "features")
    channels_last = True

    def __init__(self, classes: Sequence[int], width: int, channels: int) -> None:
        super().__init__(classes, [0.5] * channels, [0.25] * channels)
        self.conv1 = nn.Sequential(*_convolution(channels, width), nn.ReLU())
        self.conv2 = nn.Sequential(*_convolution(width, 2 * width, 2), nn.ReLU())
        self.conv3 = nn.Sequential(*_convolution(2 * width, 2 * width), nn.ReLU())
        self.conv4 = nn.Sequential(*_convolution(2 * width, 4 * width, 2), nn.ReLU())
        self.conv5 = nn.Sequential(*_convolution(4 * width, 8 * width, 2), nn.ReLU())
        self.attach_heads(8 * width)

    def represent(self, images: Tensor) -> Tensor:
        maps = self.conv5(self.conv4(self.conv3(self.conv2(self.conv1(images)))))
        return cast(Tensor, maps.amax(dim=(2, 3)))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(*_convolution(inputs, outputs, stride), nn.ReLU(), *_convolution(outputs, outputs))
        same = stride == 1 and inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Sequential(*_convolution(inputs, outputs, stride, kernel=1))

    def forward(self, maps: Tensor) -> Tensor:
        return F.relu(self.branch(maps) + self.shortcut(maps))


class ResNet(Classifier):
    """The residual network for small images, of 6 * blocks + 2 layers: a stem, then three stages of `blocks` blocks.

    He, Zhang, Ren, Sun: Deep Residual Learning for Image Recognition (2016), section 4.2; shortcuts by projection.
    """

    channels_last = True

    def __init__(self, classes: Sequence[int], width: int, channels: int, blocks: int) -> None:
        super().__init__(classes, [0.5] * channels, [0.25] * channels)
        self.stem = nn.Sequential(*_convolution(channels, width), nn.ReLU())
        self.blocks = nn.ModuleList()
        inputs = width
        for stage in range(3):
            outputs = width << stage
            for block in range(blocks):
                self.blocks.append(ResidualBlock(inputs, outputs, 2 if stage > 0 and block == 0 else 1))
                inputs = outputs
        self.layers = ("stem", *(f"blocks.{index}" for index in range(len(self.blocks))), "features")
        self.attach_heads(inputs)

    def represent(self, images: Tensor) -> Tensor:
        maps = self.stem(images)
        for block in self.blocks:
            maps = block(maps)
        return cast(Tensor, maps.mean(dim=(2, 3)))


class AttentionBlock(nn.Module):
    """Self-attention and a two-layer perceptron of twice the width, each after a layer norm and beside a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.perceptron_norm = nn.LayerNorm(width)
        self.perceptron = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        n, length, width = tokens.shape
        packed = self.query_key_value(self.attention_norm(tokens)).view(n, length, 3, self.heads, width // self.heads)
        query, key, value = packed.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(n, length, width)
        tokens = tokens + self.output(mixed)
        return cast(Tensor, tokens + self.perceptron(self.perceptron_norm(tokens)))


class VisionTransformer(Classifier):
    """Four attention blocks over 4x4 patches, learned positions, then the mean over tokens.

    Tokens have 6 * width columns (96 at the default width). Dosovitskiy et al.: An Image is Worth 16x16 Words (2021).
    """

    def __init__(self, classes: Sequence[int], width: int, channels: int, image_size: int) -> None:
        super().__init__(classes, [0.5] * channels, [0.25] * channels)
        if image_size % 4:
            raise ValueError(f'[build] expected image_size divisible by 4, the patch of "vit", got {image_size}')
        size = 6 * width
        if size % 4:
            raise ValueError(f'[build] expected an even width for "vit" (4 attention heads of 1.5 width), got {width}')
        self.patches = nn.Conv2d(channels, size, kernel_size=4, stride=4)
        self.positions = nn.Parameter(nn.init.trunc_normal_(torch.empty(1, (image_size // 4) ** 2, size), std=0.02))
        self.blocks = nn.ModuleList(AttentionBlock(size, heads=4) for _ in range(4))
        self.norm = nn.LayerNorm(size)
        self.layers = ("patches", *(f"blocks.{index}" for index in range(len(self.blocks))), "features")
        self.attach_heads(size)

    def represent(self, images: Tensor) -> Tensor:
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            tokens = block(tokens)
        return cast(Tensor, self.norm(tokens).mean(dim=1))


class TransformersClassifier(Classifier):
    """An image classifier of transformers under the same interface: its own head makes way for ours.

    Args:
        network: what AutoModelForImageClassification gives; its last Linear with num_labels outputs is the head.
        resolution: side in pixels to which images are resized inside the model, None for as they come.
        keep_head: leave the weights of the head as they are (they have sum(classes) outputs).
    """

    def __init__(
        self,
        network: nn.Module,
        classes: Sequence[int],
        *,
        mean: Sequence[float],
        std: Sequence[float],
        resolution: int | None,
        keep_head: bool,
    ) -> None:
        super().__init__(classes, mean, std)
        self.resolution = resolution
        labels = network.config.num_labels  # type: ignore[union-attr]
        linear = {name: module for name, module in network.named_modules() if isinstance(module, nn.Linear)}
        names = [name for name, module in linear.items() if module.out_features == labels]
        if not names:
            raise ValueError(
                f"[build] expected a transformers classifier that ends in a Linear with {labels} outputs, "
                f"got {type(network).__name__} without one"
            )
        head = linear[names[-1]]
        if not keep_head:
            head = nn.Linear(head.in_features, sum(self.classes))
        parent, _, leaf = names[-1].rpartition(".")
        named = nn.Sequential()
        named.add_module("features", nn.Identity())
        named.add_module("heads", head)
        network.get_submodule(parent)._modules[leaf] = named
        self.network = network
        self.layers = (*_stages(network, "network"), f"network.{names[-1]}.features")

    def forward(self, images: Tensor) -> Tensor:
        images = self.normalise(images)
        if self.resolution is not None:
            images = F.interpolate(images, size=(self.resolution, self.resolution), mode="bilinear", antialias=True)
        return cast(Tensor, self.network(pixel_values=images).logits)


def _stages(network: nn.Module, prefix: str) -> tuple[str, ...]:
    """Names of the stages: entries of the shallowest list of two or more modules of one class (none: nothing)."""
    lists = [
        (name.count("."), f"{prefix}.{name}", len(module))
        for name, module in network.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential)
        and len(module) > 1
        and len({type(entry) for entry in module}) == 1
    ]
    if not lists:
        return ()
    _, name, length = min(lists, key=lambda entry: entry[0])  # min keeps the first of equals: the input side
    return tuple(f"{name}.{index}" for index in range(length))


def from_transformers(
    source: str | Mapping[str, Any],
    classes: Sequence[int],
    image_size: int,
    channels: int,
    *,
    pretrained: bool,
    weights: bool,
) -> TransformersClassifier:
    """Build a transformers image classifier from a config, a checkpoint folder or a hub id; no torchvision.

    >>> from_transformers("microsoft/resnet-18", (10,), 32, 3, pretrained=True, weights=True)

    The head is new, except where a pretrained checkpoint has one for exactly `classes` (one head, as many labels).

    Args:
        source: {"model_type": "resnet", "depths": [1, 1], ...}, a folder with config.json, or "microsoft/resnet-18".
        classes: number of classes of each head.
        image_size: side of the square images in pixels.
        channels: of the images.
        pretrained: the checkpoint's resolution and normalisation hold: images are resized inside the model.
            Otherwise the architecture is built for image_size.
        weights: read the checkpoint's weights too (False where they are about to be overwritten).

    Returns:
        The classifier; new weights are drawn from torch's global generator.
    Raises:
        ValueError for an unknown source, and for one that takes another number of channels.
    """
    from transformers import AutoConfig, AutoModelForImageClassification
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

    if isinstance(source, Mapping):
        if "model_type" not in source:
            raise ValueError(f'[build] expected a transformers config with "model_type", got keys {sorted(source)}')
        if pretrained:
            raise ValueError("[build] expected a checkpoint folder or hub id with pretrained=True, got a config dict")
        settings = dict(source)
        kind = settings.pop("model_type")
        if kind not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES:
            raise ValueError(f"[build] expected a transformers image classifier, got model_type {kind!r}")
        config = AutoConfig.for_model(kind, **settings)
    else:
        try:
            config = AutoConfig.from_pretrained(source)
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:160]
            raise ValueError(f"[build] expected a transformers checkpoint, got {source!r}: {reason}") from error
        if config.model_type not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES:
            raise ValueError(f"[build] expected a transformers image classifier, got model_type {config.model_type!r}")
    expected = getattr(config, "num_channels", channels)
    if expected != channels:
        raise ValueError(f"[build] expected images with {expected} channels for {config.model_type}, got {channels}")

    mean: Sequence[float] = [0.5] * channels
    std: Sequence[float] = [0.5] * channels
    keep_head = pretrained and tuple(classes) == (config.num_labels,)
    resolution = None
    if pretrained:
        native = getattr(config, "image_size", None)
        resolution = native if isinstance(native, int) and native != image_size else None
        mean, std = _checkpoint_normalisation(cast(str, source), mean, std)
    elif hasattr(config, "image_size"):
        config.image_size = image_size
    if weights:
        network = AutoModelForImageClassification.from_pretrained(cast(str, source), config=config, dtype=torch.float32)
    else:
        network = AutoModelForImageClassification.from_config(config, dtype=torch.float32)
    return TransformersClassifier(network, classes, mean=mean, std=std, resolution=resolution, keep_head=keep_head)


def _checkpoint_normalisation(
    source: str, mean: Sequence[float], std: Sequence[float]
) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and std from the checkpoint's preprocessor_config.json; the given ones where it has no such file."""
    from transformers.utils.hub import cached_file

    try:
        file = cached_file(source, "preprocessor_config.json")
    except OSError:  # a checkpoint without the file is legitimate
        return mean, std
    settings = json.loads(Path(cast(str, file)).read_text())
    return settings.get("image_mean", mean), settings.get("image_std", std)
