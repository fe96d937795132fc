"""Training of image classifiers: one configuration and labelled images in, a trained model and its curves out.

Everything random comes from two seeds: `init_seed` draws the weights, `order_seed` the order of the images (and
dropout, where a model has any). Which images a model sees is the caller's choice, with a seed of its own. The same
configuration, images and number of threads give the same model to the last bit; global random states stay untouched.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from repsim.training.networks import ConvNet, ResNet, VisionTransformer, from_transformers
from repsim.training.optimization import parameter_groups, seeded, warm_up_and_cosine
from repsim.training.weight_files import write_whole

if TYPE_CHECKING:
    from repsim.data.images import LabelledImages

MODELS = ("cnn", "resnet8", "resnet20", "vit")
OPTIMIZERS = ("adamw", "sgd")
_METADATA = "repsim"  # one key only: the order of several would change the file's bytes from run to run


@dataclass(frozen=True)
class VisionConfig:
    """How an image classifier is built and trained.

    >>> VisionConfig(model="resnet8", epochs=20, init_seed=3)
    """

    model: str | Mapping[str, Any] = "cnn"  # one of MODELS, or a transformers config, checkpoint folder or hub id
    width: int = 16  # channels of the first stage of our own networks ("vit": tokens of 6 * width)
    pretrained: bool = False  # load the weights of a transformers checkpoint, not just its architecture
    epochs: int = 10  # passes over the images
    batch_size: int = 128  # images per step at most; an epoch is cut into equal batches
    optimizer: str = "adamw"  # one of OPTIMIZERS
    learning_rate: float = 3e-3  # at the end of the warm-up
    weight_decay: float = 0.05  # on matrices and kernels; biases and norms are left alone
    momentum: float = 0.9  # of "sgd"
    warmup: float = 0.1  # share of the steps with a rising learning rate; a cosine to 0 follows
    label_smoothing: float = 0.0  # share of the target spread over all classes
    init_seed: int = 0  # draws the initial weights
    order_seed: int = 0  # draws the order of the images
    minimum_accuracy: float = 0.5  # of every head on the training images, below which the model counts as not learned

    def __post_init__(self) -> None:
        for name in ("width", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"[VisionConfig] expected {name} of at least 1, got {getattr(self, name)}")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"[VisionConfig] expected optimizer one of {OPTIMIZERS}, got {self.optimizer!r}")
        if not (self.learning_rate > 0 and math.isfinite(self.learning_rate)):
            raise ValueError(f"[VisionConfig] expected learning_rate above 0, got {self.learning_rate}")
        if not (self.weight_decay >= 0 and math.isfinite(self.weight_decay)):
            raise ValueError(f"[VisionConfig] expected weight_decay of at least 0, got {self.weight_decay}")
        for name, closed in (
            ("momentum", False),
            ("warmup", True),
            ("label_smoothing", False),
            ("minimum_accuracy", True),
        ):
            value = getattr(self, name)
            if not (0 <= value < 1 or (closed and value == 1)):
                interval = "[0, 1]" if closed else "[0, 1)"
                raise ValueError(f"[VisionConfig] expected {name} in {interval}, got {value}")
        for name in ("init_seed", "order_seed"):
            if not 0 <= getattr(self, name) < 2**63:
                raise ValueError(f"[VisionConfig] expected {name} in [0, 2**63), got {getattr(self, name)}")
        if self.pretrained and self.model in MODELS:
            raise ValueError(f"[VisionConfig] expected pretrained=False for {self.model!r}: it has no checkpoint")


@dataclass
class Trained:
    """A model after training, in eval mode, and how its training went."""

    model: nn.Module
    curves: dict[str, list[float]]  # per finished epoch: "loss", "accuracy" (running, mean over heads), "learning_rate"
    learned: bool  # False: leave this model out of any average
    reason: str  # why it did not learn; "" where it did
    accuracy: list[float]  # of each head in eval mode on (at most 2 000) training images; what `learned` goes by
    seconds: float
    images_per_second: float


def split_heads(logits: Tensor, classes: Sequence[int]) -> tuple[Tensor, ...]:
    """Cut the logits of all heads into one view per head.

    >>> [head.shape for head in split_heads(model(images), (10, 8))]
    [torch.Size([5, 10]), torch.Size([5, 8])]

    Args:
        logits: [n, sum(classes)].
        classes: number of classes of each head.

    Returns:
        [n, classes[h]] for each head h.
    """
    return torch.split(logits, list(classes), dim=1)


def representation_layers(model: nn.Module) -> tuple[str, ...]:
    """Names of the modules worth comparing, input side first; the last gives the penultimate features [n, d].

    >>> representation_layers(build(VisionConfig(), classes=(10,), image_size=16))
    ('conv1', 'conv2', 'conv3', 'conv4', 'conv5', 'features')

    Args:
        model: one that `build` made.

    Returns:
        Names as in `model.named_modules()`.
    """
    return tuple(model.layers)  # type: ignore[arg-type]


def build(config: VisionConfig, classes: Sequence[int], image_size: int, channels: int = 3) -> nn.Module:
    """Build the untrained model that `train` starts from: the floor of any comparison.

    >>> model = build(VisionConfig(model="vit", init_seed=3), classes=(10, 8), image_size=28)
    >>> model(torch.zeros(5, 3, 28, 28)).shape
    torch.Size([5, 18])

    Args:
        config: the architecture and the seed of its weights.
        classes: number of classes of each head.
        image_size: side of the square images in pixels.
        channels: of the images.

    Returns:
        A model in eval mode on the CPU. With one init_seed the weights below the heads do not depend on `classes`.
    Raises:
        ValueError for an unknown model or one that does not fit the images.
    """
    return _build(config, classes, image_size, channels, weights=config.pretrained)


def _build(config: VisionConfig, classes: Sequence[int], image_size: int, channels: int, *, weights: bool) -> nn.Module:
    if not classes or min(classes) < 2:
        raise ValueError(f"[build] expected classes with at least 2 classes in each of 1 or more heads, got {classes}")
    name = config.model
    if isinstance(name, str) and name not in MODELS and "/" not in name and not Path(name).is_dir():
        raise ValueError(
            f"[build] expected model one of {MODELS}, a transformers config, a checkpoint folder or a hub id "
            f"(owner/name), got {name!r}"
        )
    if image_size < 8:
        raise ValueError(f"[build] expected image_size of at least 8 pixels, got {image_size}")
    model: nn.Module
    with seeded(config.init_seed, torch.device("cpu")):
        if name == "cnn":
            model = ConvNet(classes, config.width, channels)
        elif name == "resnet8":
            model = ResNet(classes, config.width, channels, blocks=1)
        elif name == "resnet20":
            model = ResNet(classes, config.width, channels, blocks=3)
        elif name == "vit":
            model = VisionTransformer(classes, config.width, channels, image_size)
        else:
            model = from_transformers(
                name, classes, image_size, channels, pretrained=config.pretrained, weights=weights
            )
    if getattr(model, "channels_last", False):
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model.eval()


def learning_rate(config: VisionConfig, step: int, steps: int) -> float:
    """Learning rate at one step: a straight rise to its peak, then half a cosine towards 0.

    >>> learning_rate(VisionConfig(warmup=0.5, learning_rate=0.1), step=4, steps=10)
    0.1

    Args:
        config: the peak and the share of the steps that rise to it.
        step: from 0 and below `steps`.
        steps: of the whole training.

    Returns:
        The rate of this step.
    """
    return warm_up_and_cosine(config.learning_rate, config.warmup, step, steps)


def _optimizer(config: VisionConfig, model: nn.Module) -> torch.optim.Optimizer:
    groups = parameter_groups(model, config.weight_decay)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, fused=True)
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)


def train(
    config: VisionConfig,
    data: LabelledImages,
    *,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Trained:
    """Train a classifier of every attribute of `data`, from the seeds in `config`.

    >>> trained = train(VisionConfig(epochs=10), handwriting(16))       # images [1797, 3, 16, 16], one head
    >>> trained.learned, trained.reason
    (True, '')

    The loss is the mean over heads of the cross entropy. An epoch visits every image once.

    Args:
        device: where to train; the model stays there.
        progress: called with (steps done, steps in all) after every step.

    Returns:
        The model in eval mode with its curves. A loss that is not finite ends the training at once; that, and a
        training accuracy below config.minimum_accuracy in any head, is told by learned=False and a reason.
    Raises:
        ValueError for a single image, and for images that are not square or do not fit the model.
    """
    _require_trainable(data)
    started = time.perf_counter()
    place = torch.device(device)
    model = build(config, data.classes, data.images.shape[-1], data.images.shape[1]).to(place).train()
    images, labels = torch.from_numpy(data.images), torch.from_numpy(data.labels)
    optimizer = _optimizer(config, model)
    n, heads = len(images), len(data.classes)
    batches = math.ceil(n / config.batch_size)
    steps = config.epochs * batches
    curves: dict[str, list[float]] = {"loss": [], "accuracy": [], "learning_rate": []}
    reason, step, seen = "", 0, 0

    with seeded(config.order_seed, place), torch.enable_grad():
        for epoch in range(config.epochs):
            order = np.random.default_rng([config.order_seed, epoch]).permutation(n)
            loss_sum, right = 0.0, 0
            for positions in np.array_split(order, batches):  # equal batches: a lone last image would upset batch norm
                rate = learning_rate(config, step, steps)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                chosen = torch.from_numpy(positions)
                batch, targets = images[chosen].to(place), labels[chosen].to(place)
                logits = split_heads(model(batch), data.classes)
                losses = [
                    F.cross_entropy(head, targets[:, h], label_smoothing=config.label_smoothing)
                    for h, head in enumerate(logits)
                ]
                loss = torch.stack(losses).mean()
                value = loss.item()
                if not math.isfinite(value):
                    reason = f"loss is {value} at step {step + 1} of {steps}"
                    break
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                step += 1
                seen += len(positions)
                loss_sum += value * len(positions)
                right += sum(int((head.detach().argmax(1) == targets[:, h]).sum()) for h, head in enumerate(logits))
                if progress is not None:
                    progress(step, steps)
            if reason:
                break
            curves["loss"].append(loss_sum / n)
            curves["accuracy"].append(right / (n * heads))
            curves["learning_rate"].append(rate)

    seconds = time.perf_counter() - started
    model.eval()
    spread = np.unique(np.linspace(0, n - 1, min(n, 2000)).astype(np.int64))
    accuracy = evaluate(model, data.take(spread))
    reason = reason or _failure(config, model, data.attributes, accuracy)
    return Trained(
        model=model,
        curves=curves,
        learned=not reason,
        reason=reason,
        accuracy=accuracy,
        seconds=seconds,
        images_per_second=seen / seconds,
    )


def _require_trainable(data: LabelledImages) -> None:
    n, _, height, width = data.images.shape
    if n < 2:
        raise ValueError(f"[train] expected data with at least 2 images, got {n}")
    if height != width:
        raise ValueError(f"[train] expected square images, got {height} x {width} pixels")


def _failure(config: VisionConfig, model: nn.Module, attributes: Sequence[str], accuracy: Sequence[float]) -> str:
    if not all(bool(torch.isfinite(tensor).all()) for tensor in model.state_dict().values()):
        return "weights are not finite"
    worst = int(np.argmin(accuracy))
    if accuracy[worst] < config.minimum_accuracy:
        return f"training accuracy {accuracy[worst]:.3f} of {attributes[worst]} < {config.minimum_accuracy:g}"
    return ""


def evaluate(model: nn.Module, data: LabelledImages, batch_size: int = 512) -> list[float]:
    """Accuracy of each head on labelled images, in eval mode.

    >>> evaluate(trained.model, handwriting(16))        # one number per head

    Args:
        model: one that `build` made, on any device; its mode is as before afterwards.
        data: images with the labels of its heads.
        batch_size: images per forward pass.

    Returns:
        Share of the images that each head gets right.
    Raises:
        ValueError where the heads of the model are not those of the data.
    """
    classes: tuple[int, ...] = tuple(model.classes)  # type: ignore[arg-type]
    if classes != tuple(data.classes):
        raise ValueError(f"[evaluate] expected data with classes {classes} like the model, got {tuple(data.classes)}")
    n = len(data.images)
    device = next(model.parameters()).device
    right = np.zeros(len(classes), dtype=np.int64)
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for start in range(0, n, batch_size):
                logits = model(torch.from_numpy(data.images[start : start + batch_size]).to(device))
                predicted = torch.stack([head.argmax(1) for head in split_heads(logits, classes)], dim=1).cpu().numpy()
                right += (predicted == data.labels[start : start + batch_size]).sum(axis=0)
    finally:
        model.train(training)
    return [float(count) / n for count in right]


def save(model: nn.Module, path: str | Path) -> None:
    """Write the weights as safetensors: whole under its name, or not at all.

    >>> save(trained.model, "digits.safetensors")

    The same weights give the same bytes.

    Args:
        model: one that `build` made.
        path: the file, in a folder that exists.

    Raises:
        OSError where it cannot be written; what was there is as before.
    """
    from safetensors.torch import save as to_bytes

    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    content = to_bytes(tensors, metadata={_METADATA: json.dumps({"classes": list(model.classes)})})  # type: ignore[arg-type]
    write_whole(Path(path), content)


def load(
    config: VisionConfig, classes: Sequence[int], image_size: int, path: str | Path, channels: int = 3
) -> nn.Module:
    """Build the model of `config` and fill it with the weights that `save` wrote.

    >>> model = load(VisionConfig(), (10,), 16, "digits.safetensors")

    Args:
        config, classes, image_size, channels: as in `build`.
        path: the file.

    Returns:
        The model in eval mode on the CPU, the same to the last bit as the one saved.
    Raises:
        FileNotFoundError, and ValueError where the file is no safetensors file or holds another model.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"[load] expected a safetensors file, got {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"[load] expected a safetensors file, got {path}: {error}") from error
    if _METADATA in metadata:
        saved = json.loads(metadata[_METADATA])["classes"]
        if saved != list(classes):
            raise ValueError(f"[load] expected a model with classes {tuple(classes)}, got {tuple(saved)} in {path}")
    # The weights come from the file, so a pretrained checkpoint is asked for its architecture only.
    model = _build(config, classes, image_size, channels, weights=False)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if wanted != found:
        name = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))[0]
        raise ValueError(f"[load] expected {name} of shape {wanted.get(name)}, got {found.get(name)} in {path}")
    model.load_state_dict(tensors)
    return model.eval()
