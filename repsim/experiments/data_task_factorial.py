"""Does sharing data and task together do more than the two alone? Data overlap crossed with task overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from repsim import overlap
from repsim.data.color_shape_digit import ATTRIBUTES
from repsim.experiments import pairs
from repsim.experiments.pairs import FIRST, SECOND, SYNTHETIC, THIRD, PairConfig, estimate, run_cell
from repsim.experiments.sweep import Cell

__all__ = ["NAME", "PRESETS", "SUMMARY", "Config", "cells", "effects", "estimate", "run_cell"]

NAME = "data_task_factorial"
SUMMARY = "data overlap crossed with task overlap at a constant number of images and of labels (ColorShapeDigit)"


@dataclass(frozen=True)
class Config(PairConfig):
    """The factorial study."""

    alpha: tuple[float, ...] = field(default=(0.0, 0.5, 1.0), metadata={"help": "shared part of the training images"})
    shared: tuple[int, ...] = field(default=(0, 1), metadata={"help": "attributes both models learn"})
    task_size: int = field(default=1, metadata={"help": "attributes that each model learns"})


PRESETS = {
    "smoke": Config(alpha=(0.0, 1.0), seeds=2, images=1200, epochs=2, probe=200, permutations=10, attack_images=32),
    "quick": Config(),
    "paper": Config(alpha=(0.0, 0.2, 0.4, 0.6, 0.8, 1.0), shared=(1, 2), task_size=2, seeds=10, images=400_000,
                    model="resnet20", epochs=20, batch_size=512, probe=10_000, permutations=1000,
                    attack_images=500, attack_steps=10),
}  # fmt: skip


def cells(config: Config) -> list[Cell]:
    """For every seed one first model, a second for each cell of the design, and a third like the first: the ceiling."""
    made = [pairs.sheet_cell(NAME, config, SYNTHETIC)]
    for seed in range(config.seeds):

        def model(role: int, alpha: float, attributes: Sequence[str], seed: int = seed) -> Cell:
            return pairs.model_cell(NAME, config, SYNTHETIC, seed=seed, role=role, alpha=alpha, attributes=attributes)

        tasks = {
            shared: overlap.task_overlap(ATTRIBUTES, shared, seed=seed, size=config.task_size)
            for shared in config.shared
        }
        own = next(iter(tasks.values())).first
        first, third = model(FIRST, 1.0, own), model(THIRD, 1.0, own)
        made += [first, third]
        for alpha in config.alpha:
            for shared, task in tasks.items():
                second = model(SECOND, alpha, task.second)
                levels = {"alpha": alpha, "shared": shared}
                made += [
                    second,
                    pairs.pair_cell(NAME, config, SYNTHETIC, first, second, seed=seed, role="pair", **levels),
                ]
        made += [
            pairs.pair_cell(NAME, config, SYNTHETIC, first, third, seed=seed, role=role)
            for role in ("ceiling", "floor")
        ]
    return made


def effects(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Slopes on both factors, each at fixed levels of the other, their interaction, and transfer against similarity."""
    return pairs.effects_of(NAME, records, {"alpha": "from no to all images shared", "shared": "per shared attribute"})
