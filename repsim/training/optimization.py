"""What all trainings share: random states that come from a seed, the rate's rise and fall, which weights decay."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Run with torch's generators at `seed`, and leave them afterwards as they were found.

    >>> with seeded(3, torch.device("cpu")):
    ...     weights = torch.randn(8)

    Args:
        seed: in [0, 2**64).
        device: whose generator is set beside the CPU's.
    """
    cuda = device.type == "cuda"
    index = torch.cuda.current_device() if cuda and device.index is None else device.index
    with torch.random.fork_rng(devices=[index] if cuda else []):
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.default_generators[index].manual_seed(seed)
        yield


def warm_up_and_cosine(peak: float, warmup: float, step: int, steps: int) -> float:
    """Learning rate at one step: a straight rise to its peak, then half a cosine towards 0.

    >>> warm_up_and_cosine(0.1, 0.5, step=4, steps=10)
    0.1

    Args:
        peak: the rate at the end of the rise.
        warmup: share of the steps that rise, in [0, 1].
        step: from 0 and below `steps`.
        steps: of the whole training.

    Returns:
        A number in [0, peak].
    """
    rising = round(warmup * steps)
    if step < rising:
        return peak * (step + 1) / rising
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rising) / (steps - rising)))


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The weights that train, as an optimizer takes them: matrices and kernels decay, biases and norms do not.

    >>> torch.optim.AdamW(parameter_groups(model, 0.1), lr=1e-3)

    Args:
        model: any module; parameters without gradient are left out.
        weight_decay: of the first group.

    Returns:
        Two groups, in the order of `model.parameters()`.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
