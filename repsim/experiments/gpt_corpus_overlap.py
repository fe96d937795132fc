"""Do two language models see more alike the more corpora they share? Three of six corpora a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from repsim.experiments import language_effects, language_pairs
from repsim.experiments.language_pairs import LanguageStudyConfig, estimate
from repsim.experiments.language_work import run_cell
from repsim.experiments.sweep import Cell

__all__ = ["CORPORA", "NAME", "PRESETS", "SUMMARY", "Config", "cells", "effects", "estimate", "run_cell"]

NAME = "gpt_corpus_overlap"
SUMMARY = "GPTs from scratch on three of six corpora each, of which none to three are shared"

# What comes with Python, and what the hub holds for the full size.
CORPORA = (
    "python:topics", "python:docstrings", "python:comments", "python:messages", "python:code", "python:characters",
)  # fmt: skip
HUB_CORPORA = (
    "hub:roneneldan/TinyStories",
    "hub:Salesforce/wikitext:wikitext-103-raw-v1",
    "hub:stanfordnlp/imdb",
    "hub:fancyzhx/ag_news",
    "hub:ccdv/arxiv-summarization:document:train:article",
    "hub:codeparrot/codeparrot-clean-valid::train:content",
)


@dataclass(frozen=True)
class Config(LanguageStudyConfig):
    """The study of shared corpora."""

    shared_corpora: tuple[float, ...] = field(
        default=(0.0, 1 / 3, 2 / 3, 1.0), metadata={"help": "shared part of the corpora of a model"}
    )
    corpora: tuple[str, ...] = field(
        default=CORPORA,
        metadata={"help": "text to train on, half of it a model: python:KIND, a path, or hub:owner/name"},
    )
    chunks: int = field(default=96, metadata={"help": "parts of the text, of all corpora; each model gets a quarter"})
    chunk_blocks: int = field(default=10, metadata={"help": "blocks of each chunk"})


PRESETS = {
    "smoke": Config(shared_corpora=(0.0, 1.0), seeds=2, corpora=("python:topics", "python:characters"), chunks=24,
                    chunk_blocks=4, block=32, vocabulary=400, width=32, layers=2, heads=2, steps=80, batch_size=8,
                    learning_rate=1e-2, probe=60, probe_words=8, words=100, k=5, permutations=10),
    "quick": Config(),
    # 12 layers of 768 and 20 000 iterations; the batch size is ours, and so is the choice of six public corpora
    "paper": Config(seeds=6, corpora=HUB_CORPORA, outside=("hub:Yelp/yelp_review_full",), chunk_blocks=1000,
                    block=256, vocabulary=16_000, width=768, layers=12, heads=12, steps=20_000, batch_size=64,
                    learning_rate=1e-4, precision="bfloat16", probe=5000, words=10_000, permutations=1000),
}  # fmt: skip


def cells(config: Config) -> list[Cell]:
    """For every seed a first model, a second one for each overlap, and a third on the first's corpora: the ceiling."""
    return language_pairs.design_cells(NAME, config, [{"corpora": shared} for shared in config.shared_corpora])


def effects(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Slopes of similarity and of agreement on corpus overlap, in every view."""
    return language_effects.effects_of(NAME, records, {"corpora": "from no to all corpora shared"})
