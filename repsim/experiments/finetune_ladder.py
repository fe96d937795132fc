"""Is the effect of shared data weak in fine-tuned models because of LoRA, of fine-tuning, or of language?

A ladder from the smallest adapters to training from scratch, on one small base, the same text and the same overlaps.
Every model stops once its training loss reaches the same target, so rungs differ in how far they went and not in how
well they learned. Between full fine-tuning and scratch stands a rung that starts from one untrained model, as the
fine-tuned ones start from one base: it tells a shared start from a pre-trained one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from repsim import statistics
from repsim.experiments import language_effects, language_pairs
from repsim.experiments.language_pairs import FineTuningConfig, estimate
from repsim.experiments.language_work import run_cell
from repsim.experiments.pairs import FIRST, SECOND, learned_pairs, outcome, slopes_of, tried
from repsim.experiments.sweep import Cell
from repsim.language_figures import BY_RUNG, PRETRAINING, SHARED_START, rung_name

__all__ = ["NAME", "PRESETS", "SUMMARY", "Config", "cells", "effects", "estimate", "run_cell"]

NAME = "finetune_ladder"
SUMMARY = "LoRA of rising rank, full fine-tuning, from scratch: one base, equal overlap, equal training loss"

FULL, ONE_START, SCRATCH = "full", "scratch_one_start", "scratch"


@dataclass(frozen=True)
class Config(FineTuningConfig):
    """The study of the ladder."""

    alpha: tuple[float, ...] = field(default=(0.0, 1.0), metadata={"help": "shared part of the text"})
    rungs: tuple[str, ...] = field(
        default=("lora1", "lora8", "lora64", FULL, ONE_START, SCRATCH),
        metadata={"help": "loraRANK, full, scratch_one_start or scratch, from the first rung to the last"},
    )
    target_loss: float = field(default=4.8, metadata={"help": "training loss at which every model stops, in nats"})
    corpora: tuple[str, ...] = field(
        default=("python:topics",), metadata={"help": "text to fine-tune on: python:KIND, a path, or hub:owner/name"}
    )
    model: str = field(
        default="llama", metadata={"help": "gpt2 or llama, pre-trained here, or a checkpoint: a folder or owner/name"}
    )
    seeds: int = field(
        default=3, metadata={"help": "independent repetitions; each draws its own split, weights and order"}
    )
    chunk_blocks: int = field(default=4, metadata={"help": "blocks of each chunk"})
    base_steps: int = field(default=1000, metadata={"help": "steps of the pre-training"})
    steps: int = field(default=500, metadata={"help": "steps of the optimizer at most"})
    loss_every: int = field(default=10, metadata={"help": "steps between two looks at the training loss"})
    adapter_learning_rate: float = field(
        default=1e-2, metadata={"help": "of adapters of rank 1; of others by the square root of the rank less"}
    )
    learning_rate: float = field(default=1e-3, metadata={"help": "of the other models, after the warm-up"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.rungs)) < len(self.rungs) or not self.rungs:
            raise ValueError(f"expected rungs as different ones, at least one, got {' '.join(self.rungs) or 'none'}")
        for rung in self.rungs:
            if rung not in (FULL, ONE_START, SCRATCH) and _rank(rung) < 1:
                raise ValueError(f"expected rungs as loraRANK, {FULL}, {ONE_START} or {SCRATCH}, got {rung!r}")
        for name in ("target_loss", "adapter_learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"expected {name} above 0, got {getattr(self, name)}")
        if self.loss_every < 1:
            raise ValueError(f"expected loss_every of at least 1, got {self.loss_every}")

    @property
    def per_model(self) -> int:
        """Every corpus: models differ in the chunks."""
        return len(self.corpora)


def _rank(rung: str) -> int:
    digits = rung.removeprefix("lora")
    return int(digits) if rung.startswith("lora") and digits.isdigit() else 0


PRESETS = {
    "smoke": Config(rungs=("lora2", FULL, ONE_START), seeds=2, base_corpora=("python:topics",), base_blocks=120,
                    base_steps=200, base_learning_rate=1e-2, chunks=20, chunk_blocks=4, block=32, vocabulary=400,
                    width=32, layers=2, heads=2, steps=120, batch_size=8, learning_rate=1e-2,
                    adapter_learning_rate=4e-2, target_loss=4.55, loss_every=10, probe=60, probe_words=8, words=100,
                    k=5, permutations=10),
    "quick": Config(),
    "paper": Config(alpha=(0.0, 0.2, 0.4, 0.6, 0.8, 1.0), seeds=6,
                    rungs=("lora1", "lora2", "lora4", "lora8", "lora16", "lora32", "lora64", FULL, ONE_START, SCRATCH),
                    model="openai-community/gpt2", corpora=("hub:roneneldan/TinyStories",),
                    outside=("hub:Salesforce/wikitext:wikitext-103-raw-v1",), chunk_blocks=500, block=256,
                    steps=20_000, batch_size=32, loss_every=100, adapter_learning_rate=1e-3, learning_rate=2e-4,
                    target_loss=2.0, precision="bfloat16", probe=5000, words=10_000, permutations=1000),
}  # fmt: skip


def cells(config: Config) -> list[Cell]:
    """The base; for every seed and rung a first model, a second one for each overlap, and the start against the first.

    With all text shared the second differs in its order and its new weights only: that pair is the rung's ceiling.
    """
    made, tokens, base = language_pairs.foundation(NAME, config)
    for seed in range(config.seeds):
        for place, rung in enumerate(config.rungs):
            training, start = _training(config, rung, seed), base if _rank(rung) or rung == FULL else None
            first = language_pairs.model_cell(NAME, config, tokens, training, seed=seed, role=FIRST, base=start)
            made.append(first)
            level: dict[str, Any] = {"rung": rung, "place": place}
            for alpha in config.alpha:
                second = language_pairs.model_cell(
                    NAME, config, tokens, training, seed=seed, role=SECOND, alpha=alpha, base=start
                )
                made += [
                    second,
                    language_pairs.pair_cell(
                        NAME, config, tokens, first, second, seed=seed, role="pair", changes=True, alpha=alpha, **level
                    ),
                ]
            made.append(language_pairs.pair_cell(NAME, config, tokens, first, None, seed=seed, role="floor", **level))
    return made


def _training(config: Config, rung: str, seed: int) -> dict[str, Any]:
    rank = _rank(rung)
    training = language_pairs.training_of(
        config, target_loss=config.target_loss, loss_every=config.loss_every, schedule="constant", warmup=0.02
    )
    if rank:
        return {
            **training, "model": None, "tuning": "lora", "rank": rank, "alpha": 2.0 * rank,
            "adapter_dropout": config.adapter_dropout, "learning_rate": config.adapter_learning_rate / math.sqrt(rank),
        }  # fmt: skip
    if rung == FULL:
        return {**training, "model": None, "tuning": "full"}
    # One start for both models of a seed, and another one for every seed.
    return {**training, "init_seed": seed} if rung == ONE_START else training


def effects(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What changes the slope on alpha: the rung, pre-training, one start; every rung's slopes; and its likeness at 0.

    Between adapters and full fine-tuning it is the interaction of alpha with the place of the rung; full fine-tuning
    against scratch from one start tells what pre-training does, and that against scratch what one start does. The
    likeness of two models is held against that of the first to what it started from.
    """
    pairs = learned_pairs(records)
    floors = {
        (record["params"]["seed"], record["params"]["rung"]): record
        for record in records
        if record["kind"] == "pair" and record["params"]["role"] == "floor"
    }
    found: list[dict[str, Any]] = []
    places = {str(pair["params"]["rung"]): float(pair["params"]["place"]) for pair in pairs}
    tuned = {rung: place for rung, place in places.items() if rung not in (ONE_START, SCRATCH)}
    asked = {BY_RUNG: tuned, PRETRAINING: {ONE_START: 0.0, FULL: 1.0}, SHARED_START: {SCRATCH: 0.0, ONE_START: 1.0}}
    for factor, levels in asked.items():
        own = [pair for pair in pairs if pair["params"]["rung"] in levels]
        if len({pair["params"]["rung"] for pair in own}) < 2:
            continue
        seeds = np.array([pair["params"]["seed"] for pair in own])
        alpha = np.array([float(pair["params"]["alpha"]) for pair in own])
        level = np.array([levels[pair["params"]["rung"]] for pair in own])
        unit = "in the data effect, per rung" if factor == BY_RUNG else "in the data effect"
        for name, y in language_effects.outcomes_of(own).items():
            kept = np.isfinite(y)
            columns = [alpha[kept], level[kept], y[kept], seeds[kept]]
            rows = tried(NAME, name, factor, unit, statistics.interaction, *columns)
            found += [{**row, "saturated": False} for row in rows]
    for rung in dict.fromkeys(pair["params"]["rung"] for pair in sorted(pairs, key=lambda p: p["params"]["place"])):
        own = [pair for pair in pairs if pair["params"]["rung"] == rung]
        seeds = np.array([pair["params"]["seed"] for pair in own])
        alpha = np.array([float(pair["params"]["alpha"]) for pair in own])
        outcomes = language_effects.outcomes_of(own)
        rows = slopes_of(NAME, outcomes, {"alpha": alpha}, seeds, {"alpha": "from no to all text shared"})
        full = language_effects.saturated_outcomes(own)
        found += [
            {**row, "factor": f"data overlap, {rung_name(rung)}", "rung": rung, "saturated": row["outcome"] in full}
            for row in rows
        ]
        for name in ("cka", "mutual_knn"):
            values = [
                outcome(pair, name) - outcome(floors[pair["params"]["seed"], rung], name)
                for pair in own
                if pair["params"]["alpha"] == alpha.min() and (pair["params"]["seed"], rung) in floors
            ]
            values = [value for value in values if np.isfinite(value)]
            if values:
                row = statistics.effect(
                    NAME, name, f"above the start, {rung_name(rung)}", statistics.mean(values),
                    unit="more alike to each other than the start to the first",
                )  # fmt: skip
                found.append({**row, "rung": rung, "saturated": False})
    return statistics.adjust(found)
