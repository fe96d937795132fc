"""Do two networks see more alike the more training images they share? Real handwriting, one task, a known overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from repsim.experiments import pairs
from repsim.experiments.pairs import FIRST, HANDWRITING, SECOND, THIRD, PairConfig, estimate, run_cell
from repsim.experiments.sweep import Cell

__all__ = ["NAME", "PRESETS", "SUMMARY", "Config", "cells", "effects", "estimate", "run_cell"]

NAME = "data_overlap"
SUMMARY = "digit classifiers whose training images overlap by alpha, at constant size (scikit-learn's load_digits)"


@dataclass(frozen=True)
class Config(PairConfig):
    """The study of shared data."""

    alpha: tuple[float, ...] = field(
        default=(0.0, 0.25, 0.5, 0.75, 1.0), metadata={"help": "shared part of the training images"}
    )
    seeds: int = field(
        default=8, metadata={"help": "independent repetitions; each draws its own split, weights and order"}
    )
    images: int = field(
        default=600, metadata={"help": "training images of each model; two disjoint sets must fit into 1 297"}
    )
    pixels: int = field(default=16, metadata={"help": "side of the images; the scans have 8"})
    epochs: int = field(default=24, metadata={"help": "passes over the training images"})
    # Attacks of 8/255 and less hardly move a net that reads clean digits: two larger radii show the curve's rise.
    epsilons: tuple[float, ...] = field(
        default=(1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0), metadata={"help": "L-infinity radii in 1/255"}
    )


PRESETS = {
    "smoke": Config(alpha=(0.0, 1.0), seeds=2, images=200, epochs=8, probe=200, permutations=10, attack_images=40),
    "quick": Config(),
    "paper": Config(alpha=tuple(step / 10 for step in range(11)), seeds=20, model="resnet20", epochs=60,
                    permutations=1000, attack_images=500, attack_steps=10),
}  # fmt: skip


def cells(config: Config) -> list[Cell]:
    """For every seed a first model, one second model for each alpha, and a third on the first's images: the ceiling."""
    made = [pairs.sheet_cell(NAME, config, HANDWRITING)]
    for seed in range(config.seeds):

        def model(role: int, alpha: float, seed: int = seed) -> Cell:
            return pairs.model_cell(NAME, config, HANDWRITING, seed=seed, role=role, alpha=alpha, attributes=("digit",))

        first, third = model(FIRST, 1.0), model(THIRD, 1.0)
        made += [first, third]
        for alpha in config.alpha:
            second = model(SECOND, alpha)
            made += [
                second,
                pairs.pair_cell(NAME, config, HANDWRITING, first, second, seed=seed, role="pair", alpha=alpha),
            ]
        made += [
            pairs.pair_cell(NAME, config, HANDWRITING, first, third, seed=seed, role=role)
            for role in ("ceiling", "floor")
        ]
    return made


def effects(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Slopes of similarity and transfer on alpha, and their correlation overall and within alpha."""
    return pairs.effects_of(NAME, records, {"alpha": "from no to all images shared"})
