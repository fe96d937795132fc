"""Do two networks see more alike the more labels they share, on the very same images? ColorShapeDigit, 0, 1 or 3."""

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

NAME = "task_overlap"
SUMMARY = "classifiers of one set of images that learn 0, 1 or 3 attributes in common (ColorShapeDigit)"


@dataclass(frozen=True)
class Config(PairConfig):
    """The study of shared labels."""

    shared: tuple[int, ...] = field(
        default=(0, 1, 3), metadata={"help": "attributes both models learn, of color, shape, digit"}
    )


PRESETS = {
    "smoke": Config(shared=(0, 3), seeds=2, images=1200, epochs=2, probe=200, permutations=10, attack_images=32),
    "quick": Config(),
    "paper": Config(seeds=10, images=400_000, model="resnet20", epochs=20, batch_size=512, probe=10_000,
                    permutations=1000, attack_images=500, attack_steps=10),
}  # fmt: skip


def cells(config: Config) -> list[Cell]:
    """For every seed two models at each level, and at the lowest a third of the first's task: the ceiling.

    With 0 shared each model learns one attribute, with 1 shared two, with 3 all: the number of labels grows with the
    overlap, as in the reference; ``data_task_factorial`` holds it constant.
    """
    made = [pairs.sheet_cell(NAME, config, SYNTHETIC)]
    for seed in range(config.seeds):

        def model(role: int, attributes: Sequence[str], seed: int = seed) -> Cell:
            return pairs.model_cell(NAME, config, SYNTHETIC, seed=seed, role=role, alpha=1.0, attributes=attributes)

        tasks = {shared: overlap.task_overlap(ATTRIBUTES, shared, seed=seed) for shared in config.shared}
        for shared, task in tasks.items():
            first, second = model(FIRST, task.first), model(SECOND, task.second)
            made += [first, second]
            made += [pairs.pair_cell(NAME, config, SYNTHETIC, first, second, seed=seed, role="pair", shared=shared)]
        simplest = tasks[min(tasks)]
        first, third = model(FIRST, simplest.first), model(THIRD, simplest.first)
        made += [third]
        made += [
            pairs.pair_cell(NAME, config, SYNTHETIC, first, third, seed=seed, role=role)
            for role in ("ceiling", "floor")
        ]
    return made


def effects(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Slopes of similarity and transfer on the number of shared attributes, and their correlation."""
    return pairs.effects_of(NAME, records, {"shared": "per shared attribute"})
