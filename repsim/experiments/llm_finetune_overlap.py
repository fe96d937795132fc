"""Do two fine-tuned language models see more alike the more text they are fine-tuned on together? LoRA on one base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from repsim.experiments import language_effects, language_pairs
from repsim.experiments.gpt_corpus_overlap import CORPORA, HUB_CORPORA
from repsim.experiments.language_pairs import FineTuningConfig, estimate
from repsim.experiments.language_work import run_cell
from repsim.experiments.sweep import Cell

__all__ = ["NAME", "PRESETS", "SUMMARY", "Config", "cells", "effects", "estimate", "run_cell"]

NAME = "llm_finetune_overlap"
SUMMARY = "LoRA fine-tunings of one base whose text overlaps, by chunks of a corpus or by whole corpora"

DATA, CORPUS = "data", "corpora"


@dataclass(frozen=True)
class Config(FineTuningConfig):
    """The study of fine-tuned models."""

    overlap: str = field(
        default=DATA,
        metadata={"help": "what is shared: chunks of the same corpora, or corpora", "choices": (DATA, CORPUS)},
    )
    alpha: tuple[float, ...] = field(
        default=(0.0, 0.5, 1.0), metadata={"help": "shared part of the text, with overlap data"}
    )
    shared_corpora: tuple[float, ...] = field(
        default=(0.0, 1 / 3, 2 / 3, 1.0), metadata={"help": "shared part of the corpora, with overlap corpora"}
    )
    corpora: tuple[str, ...] = field(
        default=("python:topics",), metadata={"help": "text to fine-tune on: python:KIND, a path, or hub:owner/name"}
    )
    model: str = field(
        default="llama", metadata={"help": "gpt2 or llama, pre-trained here, or a checkpoint: a folder or owner/name"}
    )
    steps: int = field(default=120, metadata={"help": "steps of the fine-tuning"})
    learning_rate: float = field(default=3e-3, metadata={"help": "of the fine-tuning, after the warm-up"})

    @property
    def per_model(self) -> int:
        """All corpora where chunks are shared, half of them where corpora are."""
        return len(self.corpora) if self.overlap == DATA else max(1, len(self.corpora) // 2)


_FULL = Config(alpha=(0.0, 0.2, 0.4, 0.6, 0.8, 1.0), model="meta-llama/Llama-3.2-1B-Instruct", rank=32,
               adapter_alpha=64.0, adapter_dropout=0.05, corpora=("hub:roneneldan/TinyStories",),
               outside=("hub:Yelp/yelp_review_full",), chunk_blocks=500, block=512, steps=2000,
               batch_size=32, accumulation=8, learning_rate=2e-4, precision="bfloat16", checkpointing=True,
               probe=5000, words=10_000, permutations=1000)  # fmt: skip
PRESETS = {
    "smoke": Config(alpha=(0.0, 1.0), seeds=2, corpora=("python:topics",), base_corpora=("python:topics",),
                    base_blocks=120, base_steps=200, base_learning_rate=1e-2, chunks=20, chunk_blocks=4, block=32,
                    vocabulary=400, width=32, layers=2, heads=2, steps=60, batch_size=8, learning_rate=3e-2, probe=60,
                    probe_words=8, words=100, k=5, permutations=10),
    "quick": Config(),
    "quick_corpora": Config(overlap=CORPUS, corpora=CORPORA, chunks=96, base_corpora=CORPORA),
    # 32 blocks of 512 a step, adapters of rank 32; the number of steps is ours
    "paper": _FULL,
    "paper_corpora": replace(_FULL, overlap=CORPUS, corpora=HUB_CORPORA, chunks=96),
}  # fmt: skip


def cells(config: Config) -> list[Cell]:
    """The base, and for every seed a first model, a second one for each overlap, and a third on the first's text."""
    levels = (
        [{"alpha": alpha} for alpha in config.alpha]
        if config.overlap == DATA
        else [{"corpora": shared} for shared in config.shared_corpora]
    )
    return language_pairs.design_cells(NAME, config, levels)


def effects(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Slopes of similarity and of agreement on the overlap, in every view, and of what fine-tuning changed."""
    by_chunks = any("alpha" in record["params"] for record in records if record["kind"] == "pair")
    factors = {"alpha": "from no to all text shared"} if by_chunks else {"corpora": "from no to all corpora shared"}
    return language_effects.effects_of(NAME, records, factors)
