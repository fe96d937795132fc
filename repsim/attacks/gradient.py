"""Gradient attacks within an L-infinity ball (FGSM, PGD, MI-FGSM), and how often they carry to a second model.

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
_START, _CONTROL = 1, 2  # streams of the seed


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

    Raises:
        ValueError/TypeError for bad input, and ValueError where a premise of `check_premises` is violated.
    """
    _require("attack", model, images, labels)
    _require_logits_and_determinism("attack", model, images)
    adversarial, logits, erring = [], [], []
    for part, start in _batches(images, config, batch_size):
        clean, target = _tensor(images[part], model), _tensor(labels[part], model)
        clean_logits, gradient = _gradient(model, clean, target)
        erring.append((_wrong(clean_logits.cpu().numpy(), labels[part], _classes(model)), _nonzero(gradient)))
        moved = _perturb(model, clean, target, config, gradient, start)
        adversarial.append(moved.cpu().numpy())
        logits.append(_logits(model, moved))
    _require_gradient("attack", *(np.concatenate(column) for column in zip(*erring, strict=True)))
    result = np.concatenate(adversarial)
    return AttackResult(
        adversarial=result,
        success=_wrong(np.concatenate(logits), labels, _classes(model)),
        linf=_require_bounds(images, result, config.epsilon),
    )


def check_premises(model: nn.Module, images: np.ndarray, labels: np.ndarray) -> None:
    """Raise ValueError unless a gradient attack on the model means something.

    >>> check_premises(model, images[:64], labels[:64])

    1. Every module is in eval mode. 2. Logits come out, not probabilities: no head has all rows >= 0 that sum to 1.
    3. Two forward passes give the same bits. 4. The gradient is non-zero for at least one image the model is right
    about (for any image, where it is right about none). Croce and Hein: RobustBench/AutoAttack check the like.
    `attack` and `transfer` check all four each time, from passes they make anyway.
    """
    _require("check_premises", model, images, labels)
    _require_logits_and_determinism("check_premises", model, images)
    logits, gradient = _gradient(model, _tensor(images, model), _tensor(labels, model))
    _require_gradient("check_premises", _wrong(logits.cpu().numpy(), labels, _classes(model)), _nonzero(gradient))


def transfer(
    source: nn.Module,
    victim: nn.Module,
    images: np.ndarray,
    labels_source: np.ndarray,
    labels_victim: np.ndarray,
    config: GradientAttack,
    *,
    batch_size: int = 128,
) -> dict[str, float | int | None]:
    """Attack `source`, show the examples to `victim`, and count.

    >>> counts = transfer(a, b, images, labels, labels, GradientAttack("mifgsm", epsilon=8 / 255))
    >>> excess = (counts["joint_success"] - counts["control_success"]) / counts["joint_n"]

    Args:
        images: float32 [n, channels, height, width], in [0, 1].
        labels_source, labels_victim: int64 [n, heads], each for the heads of its own model.

    Returns, besides "epsilon" (image units), "linf" (largest change of a pixel) and "l2" (mean L2 norm of the change):
    inputs                 images given; every one is attacked
    clean_error_source     of these, images the source errs on before the attack
    clean_error_victim     the same for the victim
    source_success         images the source is right about, and errs on after its own attack
    zero_gradient          images whose first gradient is exactly zero: the attack cannot start from them
    joint_n                images BOTH are right about before the attack
    joint_success          of joint_n: the victim errs on the source's example
    conditional_n          of joint_n: the source errs on its own example
    conditional_success    of conditional_n: the victim errs on it too
    unconditioned_success  of inputs: the victim errs on the source's example (whether or not it was right before)
    control_success        of joint_n: the victim errs after random signs times epsilon, clipped to [0, 1]
    same_mistake           of joint_n: in a shared head both predict the same wrong class for the source's example.
                           A head is shared when the two models have the same labels and number of classes in it;
                           None where no head is shared.
    margin_drop            mean over joint_n of the victim's margin before minus after, in logits. The margin is that
                           of the true class over the best other, of the head where it is least; None if joint_n is 0.
    flips                  of inputs: the victim's prediction changes in any head. Needs no label, so it holds for
                           models without a common task
    displacement           mean over inputs of the L2 distance the victim's logits move
    control_flips, control_displacement    the same two for the random signs

    Raises:
        ValueError/TypeError for bad input, and ValueError where a premise of `check_premises` is violated
        (the gradient's for the source only).
    """
    return _transfer("transfer", source, victim, images, labels_source, labels_victim, [config], batch_size)[0]


def transfer_curve(
    source: nn.Module,
    victim: nn.Module,
    images: np.ndarray,
    labels_source: np.ndarray,
    labels_victim: np.ndarray,
    *,
    epsilons: Sequence[float] = (1, 2, 4, 8, 16),
    method: str = "mifgsm",
    steps: int = 10,
    seed: int = 0,
    batch_size: int = 128,
) -> list[dict[str, float | int | None]]:
    """Run `transfer` at several radii; the clean passes and the first gradient are made once for all of them.

    >>> rows = transfer_curve(a, b, images, labels, labels)     # five dicts
    >>> [row["joint_success"] / row["joint_n"] for row in rows]

    Args:
        epsilons: radii in 255ths of the image range ("epsilon" in the results is in image units).

    The random signs of the control are the same at every radius.
    """
    for epsilon in epsilons:
        if not 0.25 <= epsilon <= 255:
            raise ValueError(f"[transfer_curve] expected epsilons in 255ths, from 0.25 to 255, got {epsilon}")
    if not epsilons:
        raise ValueError("[transfer_curve] expected at least one of epsilons, got none")
    configs = [GradientAttack(method, epsilon=epsilon / 255, steps=steps, seed=seed) for epsilon in epsilons]
    return _transfer("transfer_curve", source, victim, images, labels_source, labels_victim, configs, batch_size)


def _transfer(
    name: str,
    source: nn.Module,
    victim: nn.Module,
    images: np.ndarray,
    labels_source: np.ndarray,
    labels_victim: np.ndarray,
    configs: Sequence[GradientAttack],
    batch_size: int,
) -> list[dict[str, float | int | None]]:
    """One row of counts per config; the configs differ in nothing but epsilon."""
    _require(name, source, images, labels_source, "source")
    _require(name, victim, images, labels_victim, "victim")
    _require_logits_and_determinism(name, source, images)
    _require_logits_and_determinism(name, victim, images)
    rng = np.random.default_rng([configs[0].seed, _CONTROL])
    signs = rng.integers(0, 2, size=images.shape, dtype=np.int8) * np.int8(2) - np.int8(1)

    clean: list[tuple[np.ndarray, ...]] = []  # per batch: source logits, victim logits, non-zero gradient
    moved: list[list[tuple[np.ndarray, ...]]] = [[] for _ in configs]  # adversarial, source, victim, control logits
    for part, start in _batches(images, configs[0], batch_size):
        batch, target = _tensor(images[part], source), _tensor(labels_source[part], source)
        logits, gradient = _gradient(source, batch, target)
        shown = batch.to(_device(victim))
        clean.append((logits.cpu().numpy(), _logits(victim, shown), _nonzero(gradient)))
        for rows, config in zip(moved, configs, strict=True):
            adversarial = _perturb(source, batch, target, config, gradient, start)
            noise = _tensor(signs[part], victim).to(torch.float32) * config.epsilon
            control = torch.clamp(shown + noise, *_bounds(shown, config.epsilon))
            rows.append(
                (
                    adversarial.cpu().numpy(),
                    _logits(source, adversarial),
                    _logits(victim, adversarial.to(_device(victim))),
                    _logits(victim, control),
                )
            )

    clean_source, clean_victim, nonzero = (np.concatenate(column) for column in zip(*clean, strict=True))
    _require_gradient(name, _wrong(clean_source, labels_source, _classes(source)), nonzero)
    results = []
    for rows, config in zip(moved, configs, strict=True):
        adversarial_images, after_source, after_victim, after_control = (
            np.concatenate(column) for column in zip(*rows, strict=True)
        )
        change = (adversarial_images.astype(np.float64) - images).reshape(len(images), -1)
        results.append(
            {
                "epsilon": config.epsilon,
                "linf": _require_bounds(images, adversarial_images, config.epsilon),
                "l2": float(np.linalg.norm(change, axis=1).mean()),
                "zero_gradient": int((~nonzero).sum()),
                **_counts(
                    (clean_source, after_source),
                    (clean_victim, after_victim, after_control),
                    labels_source,
                    labels_victim,
                    _classes(source),
                    _classes(victim),
                ),
            }
        )
    return results


def _counts(
    source: tuple[np.ndarray, np.ndarray],  # logits [n, sum(classes_source)]: clean, adversarial
    victim: tuple[np.ndarray, np.ndarray, np.ndarray],  # logits [n, sum(classes_victim)]: clean, adversarial, control
    labels_source: np.ndarray,
    labels_victim: np.ndarray,
    classes_source: tuple[int, ...],
    classes_victim: tuple[int, ...],
) -> dict[str, float | int | None]:
    """The counts that `transfer` documents."""
    source_clean, source_errs = (_wrong(logits, labels_source, classes_source) for logits in source)
    victim_clean, victim_errs, control_errs = (_wrong(logits, labels_victim, classes_victim) for logits in victim)
    joint = ~source_clean & ~victim_clean
    predicted_source = _predicted(source[1], classes_source)
    before, after, control = (_predicted(logits, classes_victim) for logits in victim)

    shared = [
        (s, v)
        for s, v in itertools.product(range(len(classes_source)), range(len(classes_victim)))
        if classes_source[s] == classes_victim[v] and np.array_equal(labels_source[:, s], labels_victim[:, v])
    ]
    same = np.zeros(len(joint), dtype=bool)
    for s, v in shared:
        same |= (predicted_source[:, s] == after[:, v]) & (after[:, v] != labels_victim[:, v])

    drop = _margin(victim[0], labels_victim, classes_victim) - _margin(victim[1], labels_victim, classes_victim)
    counts = {
        "inputs": len(joint),
        "clean_error_source": source_clean.sum(),
        "clean_error_victim": victim_clean.sum(),
        "source_success": (~source_clean & source_errs).sum(),
        "joint_n": joint.sum(),
        "joint_success": (joint & victim_errs).sum(),
        "conditional_n": (joint & source_errs).sum(),
        "conditional_success": (joint & source_errs & victim_errs).sum(),
        "unconditioned_success": victim_errs.sum(),
        "control_success": (joint & control_errs).sum(),
        "flips": (before != after).any(axis=1).sum(),
        "control_flips": (before != control).any(axis=1).sum(),
    }
    return {
        **{name: int(count) for name, count in counts.items()},
        "same_mistake": int((joint & same).sum()) if shared else None,
        "margin_drop": float(drop[joint].mean()) if joint.any() else None,
        "displacement": _displacement(victim[0], victim[1]),
        "control_displacement": _displacement(victim[0], victim[2]),
    }


def _heads(logits: np.ndarray, classes: tuple[int, ...]) -> list[np.ndarray]:
    return np.split(logits, np.cumsum(classes)[:-1], axis=1)


def _predicted(logits: np.ndarray, classes: tuple[int, ...]) -> np.ndarray:
    return np.stack([head.argmax(axis=1) for head in _heads(logits, classes)], axis=1)


def _wrong(logits: np.ndarray, labels: np.ndarray, classes: tuple[int, ...]) -> np.ndarray:
    return cast(np.ndarray, (_predicted(logits, classes) != labels).any(axis=1))


def _margin(logits: np.ndarray, labels: np.ndarray, classes: tuple[int, ...]) -> np.ndarray:
    rows = np.arange(len(logits))
    margins = []
    for h, head in enumerate(_heads(logits.astype(np.float64), classes)):
        true = head[rows, labels[:, h]]
        head[rows, labels[:, h]] = -np.inf
        margins.append(true - head.max(axis=1))
    return cast(np.ndarray, np.min(margins, axis=0))


def _displacement(before: np.ndarray, after: np.ndarray) -> float:
    return float(np.linalg.norm(after.astype(np.float64) - before, axis=1).mean())


def _classes(model: nn.Module) -> tuple[int, ...]:
    return tuple(model.classes)  # type: ignore[arg-type]


def _device(model: nn.Module) -> torch.device:
    tensor = next(itertools.chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if tensor is None else tensor.device


def _tensor(array: np.ndarray, model: nn.Module) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(_device(model))


def _logits(model: nn.Module, images: Tensor) -> np.ndarray:
    with torch.no_grad():
        return cast(np.ndarray, model(images).cpu().numpy())


def _gradient(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [n, sum(classes)] and the gradient of each image's loss [n, ...], zero where the image plays no part."""
    with torch.enable_grad():
        images = images.detach().requires_grad_(True)
        logits = model(images)
        if not logits.requires_grad:
            return logits, torch.zeros_like(images)
        heads = logits.split(list(_classes(model)), dim=1)
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


def _bounds(images: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Smallest and largest float32 images within epsilon of `images` and within [0, 1], rounded inwards."""
    exact = images.double()
    low, high = (exact - epsilon).float(), (exact + epsilon).float()
    low = torch.where(exact - low.double() > epsilon, torch.nextafter(low, low.new_tensor(2.0)), low)
    high = torch.where(high.double() - exact > epsilon, torch.nextafter(high, high.new_tensor(-2.0)), high)
    return low.clamp_(min=0.0), high.clamp_(max=1.0)


def _perturb(
    model: nn.Module, clean: Tensor, labels: Tensor, config: GradientAttack, gradient: Tensor, start: np.ndarray | None
) -> Tensor:
    """Adversarial images; `gradient` is that at the clean images, the first step's where there is no random start."""
    low, high = _bounds(clean, config.epsilon)
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
        rng = np.random.default_rng([config.seed, _START])
        start = rng.uniform(-1.0, 1.0, size=images.shape).astype(np.float32)
    for first in range(0, len(images), batch_size):
        part = slice(first, min(first + batch_size, len(images)))
        yield part, None if start is None else start[part]


def _require(name: str, model: nn.Module, images: np.ndarray, labels: np.ndarray, role: str = "model") -> None:
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
    classes = _classes(model)
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
    classes = _classes(model)
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


def _require_bounds(images: np.ndarray, adversarial: np.ndarray, epsilon: float) -> float:
    """The largest change, once it is sure to be within epsilon and the images within [0, 1]."""
    linf = float(np.abs(adversarial.astype(np.float64) - images).max())
    if not (linf <= epsilon and adversarial.min() >= 0 and adversarial.max() <= 1):
        raise RuntimeError(f"[attack] expected a change of at most {epsilon:g} within [0, 1], got {linf:g}")
    return linf
