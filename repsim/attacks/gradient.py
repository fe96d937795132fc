"""Gradient attacks within an L-infinity ball (FGSM, PGD, MI-FGSM), and the premises under which they mean something.

Images stay in their real range [0, 1] and in float32; models normalise inside. The perturbation never exceeds epsilon
and the result never leaves [0, 1]: the bounds are rounded inwards and every step is clamped to them.

Correct, throughout: a model is right about an image when ALL of its own heads are right, and errs when any is wrong.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

METHODS = ("fgsm", "pgd", "mifgsm")
START_STREAM, CONTROL_STREAM = 1, 2  # of the seed


@dataclass(frozen=True)
class GradientAttack:
    """An untargeted attack on the mean over heads of the cross entropy.

    >>> GradientAttack("mifgsm", epsilon=8 / 255, steps=10)

    fgsm: Goodfellow, Shlens, Szegedy (2015). pgd: Madry et al. (2018). mifgsm: Dong et al. (2018).
    """

    method: str = "mifgsm"  # one of METHODS
    epsilon: float = 8 / 255  # L-infinity radius in image units, in (0, 1]
    steps: int = 10  # gradients taken; "fgsm" always takes one
    step_size: float | None = None  # image units; None: epsilon / steps ("mifgsm"), 2.5 epsilon / steps ("pgd")
    momentum: float = 1.0  # decay of the accumulated gradient of "mifgsm"
    random_start: bool = False  # "pgd" and "mifgsm": start from a uniform point of the ball
    seed: int = 0  # draws the random start and the random-sign control

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"[GradientAttack] expected method one of {METHODS}, got {self.method!r}")
        if not 0 < self.epsilon <= 1:
            raise ValueError(f"[GradientAttack] expected epsilon in (0, 1], got {self.epsilon}")
        if self.steps < 1:
            raise ValueError(f"[GradientAttack] expected steps of at least 1, got {self.steps}")
        if self.step_size is not None and not (self.step_size > 0 and math.isfinite(self.step_size)):
            raise ValueError(f"[GradientAttack] expected step_size above 0, got {self.step_size}")
        if not (self.momentum >= 0 and math.isfinite(self.momentum)):
            raise ValueError(f"[GradientAttack] expected momentum of at least 0, got {self.momentum}")
        if self.seed < 0:
            raise ValueError(f"[GradientAttack] expected seed of at least 0, got {self.seed}")
        if self.method == "fgsm" and (self.random_start or self.step_size is not None):
            raise ValueError("[GradientAttack] expected neither random_start nor step_size with 'fgsm'")

    @property
    def schedule(self) -> tuple[int, float]:
        """Number of steps and the size of each in image units."""
        if self.method == "fgsm":
            return 1, self.epsilon
        factor = 2.5 if self.method == "pgd" else 1.0
        return self.steps, self.step_size if self.step_size is not None else factor * self.epsilon / self.steps


@dataclass
class AttackResult:
    """What an attack made of its images."""

    adversarial: np.ndarray  # float32 [n, channels, height, width], in [0, 1]
    success: np.ndarray  # bool [n]: the attacked model errs on the adversarial image (it may have erred before)
    linf: float  # largest change of any pixel, <= epsilon


@dataclass(frozen=True)
class Batch:
    """Some of the images on their way through an attack, as `examples` yields them."""

    part: slice  # which of the images
    clean: Tensor  # they, on the model's device
    logits: np.ndarray  # float32 [m, sum(classes)] of the clean ones
    nonzero: np.ndarray  # bool [m]: the gradient at the clean image has an entry other than 0
    moved: tuple[Tensor, ...]  # the adversarial images of each config


def attack(
    model: nn.Module, images: np.ndarray, labels: np.ndarray, config: GradientAttack, *, batch_size: int = 128
) -> AttackResult:
    """Move every image away from its labels, within epsilon.

    >>> result = attack(model, images, labels, GradientAttack("pgd", epsilon=4 / 255, steps=20))
    >>> result.adversarial.shape, result.success.shape
    ((200, 3, 28, 28), (200,))

    Args:
        model: in eval mode, with `model.classes`; float32 logits [n, sum(classes)].
        images: float32 [n, channels, height, width], in [0, 1].
        labels: int64 [n, heads].
        batch_size: images per gradient.

    Returns:
        AttackResult over all n images.
    Raises:
        ValueError/TypeError for bad input, and ValueError where a premise of `check_premises` is violated.
    """
    require_usable("attack", model, images, labels)
    adversarial, logits = [], []
    for batch in examples("attack", model, images, labels, [config], batch_size):
        adversarial.append(batch.moved[0].cpu().numpy())
        logits.append(logits_of(model, batch.moved[0]))
    result = np.concatenate(adversarial)
    return AttackResult(
        adversarial=result,
        success=wrong(np.concatenate(logits), labels, classes_of(model)),
        linf=largest_change(images, result, config.epsilon),
    )


def examples(
    name: str,
    model: nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    configs: Sequence[GradientAttack],
    batch_size: int,
) -> Iterator[Batch]:
    """Attack batch by batch at several radii; the clean pass and the first gradient are made once for all of them.

    >>> for batch in examples("attack", model, images, labels, [GradientAttack()], 128): ...

    Args:
        name: the function that an error message states.
        model, images, labels: as `require_usable` has found them good.
        configs: they differ in nothing but epsilon.
        batch_size: images per gradient.

    Returns:
        The batches in the order of the images.
    Raises:
        ValueError after the last one, where the gradient was zero for every image that counts.
    """
    erring, nonzero = [], []
    for part, start in _batches(images, configs[0], batch_size):
        clean, target = _tensor(images[part], model), _tensor(labels[part], model)
        clean_logits, gradient = _gradient(model, clean, target)
        logits = clean_logits.cpu().numpy()
        erring.append(wrong(logits, labels[part], classes_of(model)))
        nonzero.append(_nonzero(gradient))
        moved = tuple(_perturb(model, clean, target, config, gradient, start) for config in configs)
        yield Batch(part, clean, logits, nonzero[-1], moved)
    _require_gradient(name, np.concatenate(erring), np.concatenate(nonzero))


def check_premises(model: nn.Module, images: np.ndarray, labels: np.ndarray) -> None:
    """Raise ValueError unless a gradient attack on the model means something.

    >>> check_premises(model, images[:64], labels[:64])

    1. Every module is in eval mode. 2. Logits come out, not probabilities: no head has all rows >= 0 that sum to 1.
    3. Two forward passes give the same bits. 4. The gradient is non-zero for at least one image the model is right
    about (for any image, where it is right about none). Croce and Hein: RobustBench/AutoAttack check the like.
    `attack` and `transfer` check all four each time, from passes they make anyway.

    Args:
        model, images, labels: as in `attack`.

    Raises:
        ValueError for a premise that does not hold, and ValueError/TypeError for bad input.
    """
    require_usable("check_premises", model, images, labels)
    logits, gradient = _gradient(model, _tensor(images, model), _tensor(labels, model))
    _require_gradient("check_premises", wrong(logits.cpu().numpy(), labels, classes_of(model)), _nonzero(gradient))


def require_usable(name: str, model: nn.Module, images: np.ndarray, labels: np.ndarray, role: str = "model") -> None:
    """Refuse bad input, and a model that breaks one of the first three premises of `check_premises`.

    >>> require_usable("transfer", victim, images, labels, "victim")

    Args:
        name, role: the function and the model's part in it that an error message states.
        model, images, labels: as in `attack`.

    Raises:
        ValueError/TypeError, one line that says what was expected.
    """
    _require_input(name, model, images, labels, role)
    _require_logits_and_determinism(name, model, images)


def classes_of(model: nn.Module) -> tuple[int, ...]:
    """Number of classes of each head.

    >>> classes_of(model)
    (10, 8)

    Args: a model with `.classes`. Returns: them as a tuple.
    """
    return tuple(model.classes)  # type: ignore[arg-type]


def device_of(model: nn.Module) -> torch.device:
    """Where the model's weights lie.

    >>> images.to(device_of(model))

    Args: any model. Returns: a device, the CPU for a model without weights.
    """
    tensor = next(itertools.chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


def logits_of(model: nn.Module, images: Tensor) -> np.ndarray:
    """The model's answer, without a gradient.

    >>> logits_of(model, images)                # [n, sum(classes)]

    Args: a model, and images [n, channels, height, width] on its device. Returns: float32 logits.
    """
    with torch.no_grad():
        return cast(np.ndarray, model(images).cpu().numpy())


def heads_of(logits: np.ndarray, classes: tuple[int, ...]) -> list[np.ndarray]:
    """Cut the logits of all heads into one view per head.

    >>> color, shape = heads_of(logits, (10, 8))

    Args: logits [n, sum(classes)], and the number of classes of each head. Returns: [n, classes[h]] for each head h.
    """
    return np.split(logits, np.cumsum(classes)[:-1], axis=1)


def predicted(logits: np.ndarray, classes: tuple[int, ...]) -> np.ndarray:
    """The class with the largest logit in each head.

    >>> predicted(logits, (10, 8))              # int64 [n, 2]

    Args: as `heads_of`. Returns: int64 [n, heads].
    """
    return np.stack([head.argmax(axis=1) for head in heads_of(logits, classes)], axis=1)


def wrong(logits: np.ndarray, labels: np.ndarray, classes: tuple[int, ...]) -> np.ndarray:
    """Whether any head errs.

    >>> wrong(logits, labels, (10, 8)).mean()   # share of images that are not all right

    Args: as `heads_of`, and labels int64 [n, heads]. Returns: bool [n].
    """
    return cast(np.ndarray, (predicted(logits, classes) != labels).any(axis=1))


def _tensor(array: np.ndarray, model: nn.Module) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device_of(model))


def _gradient(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [n, sum(classes)] and the gradient of each image's loss [n, ...], zero where the image plays no part."""
    with torch.enable_grad():
        images = images.detach().requires_grad_(True)
        logits = model(images)
        if not logits.requires_grad:
            return logits, torch.zeros_like(images)
        heads = logits.split(list(classes_of(model)), dim=1)
        # Summed over images, so that no image's gradient depends on its batch.
        losses = [F.cross_entropy(head, labels[:, h], reduction="sum") for h, head in enumerate(heads)]
        # Asking for the images' gradient alone spares that of the weights.
        (gradient,) = torch.autograd.grad(torch.stack(losses).mean(), images, allow_unused=True)
    if gradient is None:
        return logits.detach(), torch.zeros_like(images)
    if not bool(torch.isfinite(gradient).all()):  # the sign of NaN is 0: it would pass for an image without gradient
        raise ValueError("[attack] expected finite gradients, got NaN or infinity")
    return logits.detach(), gradient


def _nonzero(gradient: Tensor) -> np.ndarray:
    return (gradient != 0).flatten(1).any(dim=1).cpu().numpy()


def bounds(images: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Smallest and largest float32 images within epsilon of `images` and within [0, 1], rounded inwards.

    >>> torch.clamp(moved, *bounds(images, 8 / 255))

    Args: float32 images in [0, 1], and a radius in image units. Returns: two tensors of the images' shape.
    """
    exact = images.double()
    low, high = (exact - epsilon).float(), (exact + epsilon).float()
    low = torch.where(exact - low.double() > epsilon, torch.nextafter(low, low.new_tensor(2.0)), low)
    high = torch.where(high.double() - exact > epsilon, torch.nextafter(high, high.new_tensor(-2.0)), high)
    return low.clamp_(min=0.0), high.clamp_(max=1.0)


def _perturb(
    model: nn.Module, clean: Tensor, labels: Tensor, config: GradientAttack, gradient: Tensor, start: np.ndarray | None
) -> Tensor:
    """Adversarial images; `gradient` is that at the clean images, the first step's where there is no random start."""
    low, high = bounds(clean, config.epsilon)
    steps, size = config.schedule
    current = clean
    if start is not None:
        current = torch.clamp(clean + _tensor(start, model) * config.epsilon, low, high)
        _, gradient = _gradient(model, current, labels)
    velocity = torch.zeros_like(clean)
    for step in range(steps):
        if step > 0:
            _, gradient = _gradient(model, current, labels)
        direction = gradient
        if config.method == "mifgsm":
            norm = gradient.abs().flatten(1).sum(dim=1).view(-1, *[1] * (clean.ndim - 1))
            velocity = config.momentum * velocity + gradient / torch.where(norm == 0, 1.0, norm)  # 0 / 1 where it is 0
            direction = velocity
        current = torch.clamp(current + size * direction.sign(), low, high)
    return current


def _batches(images: np.ndarray, config: GradientAttack, batch_size: int) -> Iterator[tuple[slice, np.ndarray | None]]:
    """Slices of the images with their random starts in units of epsilon, which do not depend on the batch size."""
    start = None
    if config.random_start:
        rng = np.random.default_rng([config.seed, START_STREAM])
        start = rng.uniform(-1.0, 1.0, size=images.shape).astype(np.float32)
    for first in range(0, len(images), batch_size):
        part = slice(first, min(first + batch_size, len(images)))
        yield part, None if start is None else start[part]


def _require_input(name: str, model: nn.Module, images: np.ndarray, labels: np.ndarray, role: str = "model") -> None:
    if not hasattr(model, "classes"):
        raise TypeError(f"[{name}] expected {role} with .classes, got {type(model).__name__} without")
    if any(module.training for module in model.modules()):
        raise ValueError(f"[{name}] expected {role} in eval mode, got train mode")
    if not isinstance(images, np.ndarray) or images.dtype != np.float32:
        got = images.dtype if isinstance(images, np.ndarray) else type(images).__name__
        raise TypeError(f"[{name}] expected images as a float32 array, got {got}")
    if images.ndim != 4 or len(images) == 0:
        raise ValueError(f"[{name}] expected images [n, channels, height, width], n > 0, got {list(images.shape)}")
    if not (images.min() >= 0 and images.max() <= 1):
        raise ValueError(f"[{name}] expected images in [0, 1], got {images.min():g} to {images.max():g}")
    classes = classes_of(model)
    if not isinstance(labels, np.ndarray) or labels.dtype != np.int64:
        got = labels.dtype if isinstance(labels, np.ndarray) else type(labels).__name__
        raise TypeError(f"[{name}] expected labels of the {role} as an int64 array, got {got}")
    if labels.shape != (len(images), len(classes)):
        raise ValueError(
            f"[{name}] expected labels of the {role} [{len(images)}, {len(classes)}], got {list(labels.shape)}"
        )
    if (labels < 0).any() or (labels >= np.array(classes)).any():
        raise ValueError(
            f"[{name}] expected labels of the {role} from 0 and below {classes}, got {labels.min()} to {labels.max()}"
        )


def _require_logits_and_determinism(name: str, model: nn.Module, images: np.ndarray) -> None:
    sample = _tensor(images[:64], model)
    with torch.no_grad():
        first, second = model(sample), model(sample)
    classes = classes_of(model)
    if first.dtype != torch.float32 or tuple(first.shape) != (len(sample), sum(classes)):
        raise ValueError(
            f"[{name}] expected float32 logits [{len(sample)}, {sum(classes)}], got {first.dtype} {list(first.shape)}"
        )
    if not bool(torch.isfinite(first).all()):
        raise ValueError(f"[{name}] expected finite logits, got NaN or infinity")
    for h, head in enumerate(first.split(list(classes), dim=1)):
        if bool((head >= 0).all()) and bool(((head.sum(dim=1) - 1).abs() < 1e-4).all()):
            raise ValueError(f"[{name}] expected logits, got probabilities in head {h} (rows >= 0 that sum to 1)")
    if not torch.equal(first, second):
        raise ValueError(f"[{name}] expected a deterministic model, got other logits in a second forward pass")


def _require_gradient(name: str, wrong: np.ndarray, nonzero: np.ndarray) -> None:
    considered = nonzero[~wrong] if (~wrong).any() else nonzero
    if not considered.any():
        raise ValueError(f"[{name}] expected a non-zero gradient for some image, got zero for all {len(considered)}")


def largest_change(images: np.ndarray, adversarial: np.ndarray, epsilon: float) -> float:
    """The largest change of any pixel, once it is sure to be within epsilon and the images within [0, 1].

    >>> largest_change(images, result.adversarial, 8 / 255)

    Args: the images before and after, and the radius they had. Returns: image units. Raises: RuntimeError if not.
    """
    linf = float(np.abs(adversarial.astype(np.float64) - images).max())
    if not (linf <= epsilon and adversarial.min() >= 0 and adversarial.max() <= 1):
        raise RuntimeError(f"[attack] expected a change of at most {epsilon:g} within [0, 1], got {linf:g}")
    return linf
