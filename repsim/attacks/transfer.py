"""How far an attack on one model carries to another: counts beside a control of the same size.

Correct, throughout: a model is right about an image when ALL of its own heads are right, and errs when any is wrong.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TypedDict, cast

import numpy as np
import torch
from torch import nn

from repsim.attacks.gradient import (
    CONTROL_STREAM,
    GradientAttack,
    bounds,
    classes_of,
    device_of,
    examples,
    heads_of,
    largest_change,
    logits_of,
    predicted,
    require_usable,
    wrong,
)


class Counts(TypedDict):
    """What `transfer` finds; a success is a number of images, and the name of the field says of which."""

    epsilon: float  # image units
    linf: float  # largest change of a pixel
    l2: float  # mean L2 norm of the change
    inputs: int  # images given; every one is attacked
    clean_error_source: int  # of these, images the source errs on before the attack
    clean_error_victim: int  # the same for the victim
    source_success: int  # images the source is right about, and errs on after its own attack
    zero_gradient: int  # images whose first gradient is exactly zero: the attack cannot start from them
    joint_n: int  # images BOTH are right about before the attack
    joint_success: int  # of joint_n: the victim errs on the source's example
    conditional_n: int  # of joint_n: the source errs on its own example
    conditional_success: int  # of conditional_n: the victim errs on it too
    unconditioned_success: int  # of inputs: the victim errs on the source's example, right before or not
    control_success: int  # of joint_n: the victim errs after random signs times epsilon, clipped to [0, 1]
    # Of joint_n: in a shared head both predict the same wrong class for the source's example. A head is shared when the
    # two models have the same labels and number of classes in it; None where no head is shared.
    same_mistake: int | None
    # Mean over joint_n of the victim's margin before minus after, in logits. The margin is that of the true class over
    # the best other, of the head where it is least; None if joint_n is 0.
    margin_drop: float | None
    # Of inputs: the victim's prediction changes in any head. Needs no label: it holds without a common task.
    flips: int
    displacement: float  # mean over inputs of the L2 distance the victim's logits move
    control_flips: int  # flips by the random signs
    control_displacement: float  # displacement by the random signs


def transfer(
    source: nn.Module,
    victim: nn.Module,
    images: np.ndarray,
    labels_source: np.ndarray,
    labels_victim: np.ndarray,
    config: GradientAttack,
    *,
    batch_size: int = 128,
) -> Counts:
    """Attack `source`, show the examples to `victim`, and count.

    >>> counts = transfer(a, b, images, labels, labels, GradientAttack("mifgsm", epsilon=8 / 255))
    >>> excess = (counts["joint_success"] - counts["control_success"]) / counts["joint_n"]

    Args:
        source, victim: models as in `attack`, of the same images.
        images: float32 [n, channels, height, width], in [0, 1].
        labels_source, labels_victim: int64 [n, heads], each for the heads of its own model.
        config: the attack; its seed also draws the random signs.
        batch_size: images per gradient.

    Returns:
        Counts.
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
) -> list[Counts]:
    """Run `transfer` at several radii; the clean passes and the first gradient are made once for all of them.

    >>> rows = transfer_curve(a, b, images, labels, labels)     # five dicts
    >>> [row["joint_success"] / row["joint_n"] for row in rows]

    Args:
        source, victim, images, labels_source, labels_victim, batch_size: as in `transfer`.
        epsilons: radii in 255ths of the image range ("epsilon" in the results is in image units), 0.25 to 255.
        method, steps, seed: as in `GradientAttack`. The random signs of the control are the same at every radius.

    Returns:
        Counts for each of epsilons, in their order.
    Raises:
        ValueError for no epsilons or one out of range, and as `transfer` does.
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
) -> list[Counts]:
    """One row of counts per config; the configs differ in nothing but epsilon."""
    require_usable(name, source, images, labels_source, "source")
    require_usable(name, victim, images, labels_victim, "victim")
    rng = np.random.default_rng([configs[0].seed, CONTROL_STREAM])
    signs = rng.integers(0, 2, size=images.shape, dtype=np.int8) * np.int8(2) - np.int8(1)

    clean: list[tuple[np.ndarray, ...]] = []  # per batch: source logits, victim logits, non-zero gradient
    moved: list[list[tuple[np.ndarray, ...]]] = [[] for _ in configs]  # adversarial, source, victim, control logits
    for batch in examples(name, source, images, labels_source, configs, batch_size):
        shown = batch.clean.to(device_of(victim))
        clean.append((batch.logits, logits_of(victim, shown), batch.nonzero))
        for rows, config, adversarial in zip(moved, configs, batch.moved, strict=True):
            noise = torch.from_numpy(signs[batch.part]).to(shown) * config.epsilon
            control = torch.clamp(shown + noise, *bounds(shown, config.epsilon))
            rows.append(
                (
                    adversarial.cpu().numpy(),
                    logits_of(source, adversarial),
                    logits_of(victim, adversarial.to(shown.device)),
                    logits_of(victim, control),
                )
            )

    clean_source, clean_victim, nonzero = (np.concatenate(column) for column in zip(*clean, strict=True))
    results = []
    for rows, config in zip(moved, configs, strict=True):
        adversarial_images, after_source, after_victim, after_control = (
            np.concatenate(column) for column in zip(*rows, strict=True)
        )
        change = (adversarial_images.astype(np.float64) - images).reshape(len(images), -1)
        counts = {
            "epsilon": config.epsilon,
            "linf": largest_change(images, adversarial_images, config.epsilon),
            "l2": float(np.linalg.norm(change, axis=1).mean()),
            "zero_gradient": int((~nonzero).sum()),
            **_counts(
                (clean_source, after_source),
                (clean_victim, after_victim, after_control),
                labels_source,
                labels_victim,
                classes_of(source),
                classes_of(victim),
            ),
        }
        results.append(cast(Counts, counts))
    return results


def _counts(
    source: tuple[np.ndarray, np.ndarray],  # logits [n, sum(classes_source)]: clean, adversarial
    victim: tuple[np.ndarray, np.ndarray, np.ndarray],  # logits [n, sum(classes_victim)]: clean, adversarial, control
    labels_source: np.ndarray,
    labels_victim: np.ndarray,
    classes_source: tuple[int, ...],
    classes_victim: tuple[int, ...],
) -> dict[str, float | int | None]:
    """The counts that follow from logits and labels alone."""
    source_clean, source_errs = (wrong(logits, labels_source, classes_source) for logits in source)
    victim_clean, victim_errs, control_errs = (wrong(logits, labels_victim, classes_victim) for logits in victim)
    joint = ~source_clean & ~victim_clean
    predicted_source = predicted(source[1], classes_source)
    before, after, control = (predicted(logits, classes_victim) for logits in victim)

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


def _margin(logits: np.ndarray, labels: np.ndarray, classes: tuple[int, ...]) -> np.ndarray:
    rows = np.arange(len(logits))
    margins = []
    for h, head in enumerate(heads_of(logits.astype(np.float64), classes)):
        true = head[rows, labels[:, h]]
        head[rows, labels[:, h]] = -np.inf
        margins.append(true - head.max(axis=1))
    return cast(np.ndarray, np.min(margins, axis=0))


def _displacement(before: np.ndarray, after: np.ndarray) -> float:
    return float(np.linalg.norm(after.astype(np.float64) - before, axis=1).mean())
