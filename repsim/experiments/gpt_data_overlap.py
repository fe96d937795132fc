"""Do two language models see more alike the more training text they share? One corpus, a known overlap of its parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from repsim.experiments import language_effects, language_pairs
from repsim.experiments.language_pairs import LanguageStudyConfig, estimate
from repsim.experiments.language_work import run_cell
from repsim.experiments.sweep import Cell

__all__ = ["NAME", "PRESETS", "SUMMARY", "Config", "cells", "effects", "estimate", "run_cell"]

NAME = "gpt_data_overlap"
SUMMARY = "GPTs from scratch whose training text overlaps by alpha, at constant size (80 chunks, 40 a model)"


@dataclass(frozen=True)
class Config(LanguageStudyConfig):
    """The study of shared text."""

    alpha: tuple[float, ...] = field(
        default=(0.0, 0.25, 0.5, 0.75, 1.0), metadata={"help": "shared part of the training text"}
    )

    @property
    def per_model(self) -> int:
        """Every corpus: models differ in the chunks."""
        return len(self.corpora)


PRESETS = {
    "smoke": Config(alpha=(0.0, 1.0), seeds=2, corpora=("python:topics",), chunks=20, chunk_blocks=4, block=32,
                    vocabulary=400, width=32, layers=2, heads=2, steps=60, batch_size=8, learning_rate=1e-2, probe=60,
                    probe_words=8, words=100, k=5, permutations=10),
    "quick": Config(),
    # 6 layers of 384 and 10 000 iterations; the batch size is ours
    "paper": Config(alpha=(0.0, 0.2, 0.4, 0.6, 0.8, 1.0), seeds=6, corpora=("hub:roneneldan/TinyStories",),
                    outside=("hub:Salesforce/wikitext:wikitext-103-raw-v1",), chunk_blocks=1000, block=256,
                    vocabulary=8000, width=384, layers=6, heads=6, dropout=0.2, steps=10_000, batch_size=64,
                    learning_rate=5e-4, precision="bfloat16", probe=5000, words=10_000, permutations=1000),
}  # fmt: skip


def cells(config: Config) -> list[Cell]:
    """For every seed a first model, one second model for each alpha, and a third on the first's text: the ceiling."""
    return language_pairs.design_cells(NAME, config, [{"alpha": alpha} for alpha in config.alpha])


def effects(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Slopes of similarity and of agreement on alpha, in every view."""
    return language_effects.effects_of(NAME, records, {"alpha": "from no to all text shared"})
