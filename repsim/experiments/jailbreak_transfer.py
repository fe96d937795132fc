"""Does a suffix that bypasses one model's refusal bypass another's, the more history the two share?

Refusal bypass in a synthetic grammar (`repsim.data.instructions`), and nothing else: small models learn to answer every
request, then to refuse those about ten objects. Two models of a pair come from one pre-training that forked at a stated
depth (0: independent from the start; 1: the same base) and were fine-tuned on sets that overlap by a stated share.
Suffixes are searched on either and tried, as text, on both. Their likeness is measured on plain requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from repsim import statistics
from repsim.experiments.jailbreak_cells import (
    LONGEST_SUFFIX,
    OUTCOMES,
    attack_cell,
    methods_cell,
    model_cells,
    pair_cell,
    run_cell,
)
from repsim.experiments.pairs import MEASURES, learned_pairs, links_of, outcome, slopes_of
from repsim.experiments.sweep import Cell

__all__ = ["NAME", "PRESETS", "SUMMARY", "Config", "cells", "effects", "estimate", "run_cell"]

NAME = "jailbreak_transfer"
SUMMARY = "refusal bypass in a synthetic grammar: suffixes from one model on another, by the history they share"


@dataclass(frozen=True)
class Config:
    """The study of suffixes that carry over."""

    fork: tuple[float, ...] = field(
        default=(0.0, 0.5, 0.9, 1.0), metadata={"help": "share of pre-training that two models have in common"}
    )
    overlap: tuple[float, ...] = field(
        default=(0.0, 1.0), metadata={"help": "share of the fine-tuning examples that two models have in common"}
    )
    seeds: int = field(default=3, metadata={"help": "independent repetitions; each trains models of its own"})
    width: int = field(default=128, metadata={"help": "features of the transformer"})
    layers: int = field(default=2, metadata={"help": "layers of the transformer"})
    pretraining_steps: int = field(default=700, metadata={"help": "steps of the first phase, 16 examples each"})
    finetuning_steps: int = field(default=350, metadata={"help": "steps of the second phase, 16 examples each"})
    learning_rate: float = field(default=3e-3, metadata={"help": "of the first phase; a sixth of it in the second"})
    behaviours: int = field(default=6, metadata={"help": "refused requests that are attacked on every model"})
    suffix_tokens: int = field(
        default=13, metadata={"help": "words of a suffix; models have been taught to pass over up to 10, in 40 places"}
    )
    both_directions: bool = field(
        default=True, metadata={"help": "search suffixes on the second models, too, not only on the first"}
    )
    task_words: bool = field(
        default=False, metadata={"help": "let suffixes hold verbs and objects: then they may ask for something else"}
    )
    attack_steps: int = field(default=70, metadata={"help": "steps of GCG at most"})
    candidates: int = field(default=128, metadata={"help": "candidates that GCG evaluates in a step"})
    buffer: int = field(default=16, metadata={"help": "suffixes that GCG keeps, at first random ones"})
    top_k: int = field(default=64, metadata={"help": "words by gradient, of which GCG draws in each place"})
    target_words: int = field(default=15, metadata={"help": "words of the right answer that a search aims at, of 15"})
    controls: int = field(default=4, metadata={"help": "random suffixes for each request, the control"})
    methods: int = field(
        default=3, metadata={"help": "requests on which every kind of attack is tried on the first model; 0: none"}
    )
    k: int = field(default=10, metadata={"help": "nearest neighbours"})
    permutations: int = field(default=50, metadata={"help": "relabellings for the null of CKNNA"})

    def __post_init__(self) -> None:
        for name in ("fork", "overlap"):
            levels = getattr(self, name)
            if not levels or len(set(levels)) < len(levels):
                raise ValueError(f"expected {name} as distinct levels, got {' '.join(map(str, levels)) or 'none'}")
            for level in levels:
                if not 0 <= level <= 1:
                    raise ValueError(f"expected {name} in [0, 1], got {level}")
        for name in ("seeds", "width", "layers", "pretraining_steps", "finetuning_steps", "behaviours", "suffix_tokens",
                     "attack_steps", "candidates", "buffer", "top_k", "target_words", "controls", "k"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of at least 1, got {getattr(self, name)}")
        for level in self.fork:
            if 0 < level < 1 and not 0 < round(level * self.pretraining_steps) < self.pretraining_steps:
                raise ValueError(f"expected fork {level:g} at a step within the {self.pretraining_steps} steps")
        if self.suffix_tokens > LONGEST_SUFFIX:
            raise ValueError(
                f"expected suffix_tokens of at most {LONGEST_SUFFIX}, which the models' context has room for beside "
                f"request and answer, got {self.suffix_tokens}"
            )
        if not self.learning_rate > 0:
            raise ValueError(f"expected learning_rate above 0, got {self.learning_rate}")
        for name in ("behaviours", "methods"):
            if not 0 <= getattr(self, name) <= 120:
                raise ValueError(f"expected {name} from 0 to the 120 refused requests, got {getattr(self, name)}")
        if self.permutations < 2:
            raise ValueError(f"expected permutations of at least 2, got {self.permutations}")


PRESETS = {
    # Steps that teach nothing: every cell is done, and the page says that no model learned.
    "smoke": Config(fork=(0.0, 0.5, 1.0), overlap=(0.5,), seeds=1, width=16, pretraining_steps=4, finetuning_steps=2,
                    behaviours=2, suffix_tokens=3, attack_steps=2, candidates=8, top_k=8, controls=2, methods=2,
                    permutations=2, buffer=2, both_directions=False),
    "quick": Config(),
    "paper": Config(overlap=(0.0, 0.5, 1.0), seeds=10, layers=4, pretraining_steps=3000, finetuning_steps=800,
                    behaviours=120, attack_steps=250, candidates=512, methods=120, controls=20, permutations=1000),
}  # fmt: skip


def cells(config: Config) -> list[Cell]:
    """For every seed a first model, a second one for each fork and overlap, attacks, and the pairs with the first.

    The first model's pre-training is cut at the forks; a second one leaves it there with an order of its own. The
    first model and the suffixes found on it serve every pair of the seed: within a seed the attack is one and the same,
    and only the model on which it is tried is another.
    """
    made: list[Cell] = []
    for seed in range(config.seeds):
        models = model_cells(NAME, config, seed)
        made += models.trainings
        sources = [models.first, *(models.second.values() if config.both_directions else ())]
        attacks = {key: attack_cell(NAME, config, seed, key) for key in sources}
        made += attacks.values()
        searched = {key: attacks[key].key if key in attacks else "" for key in (models.first, *models.second.values())}
        made += [
            pair_cell(NAME, config, seed, (models.first, key), (searched[models.first], searched[key]), fork, overlap)
            for (fork, overlap), key in models.second.items()
        ]
        if config.methods:
            made.append(methods_cell(NAME, config, seed, models.first))
    return made


def estimate(cell: Cell) -> float:
    """Seconds on one core, roughly: what a plan shows before anything ran."""
    params = cell.params
    size = params.get("size", {"width": 128, "layers": 2})
    cost = (size["width"] / 128) ** 2 * size["layers"] / 2
    if cell.kind == "model":
        return 4 + 0.045 * cost * params["steps"]
    if cell.kind in ("attack", "methods"):
        search = params["search"]
        tries = 4 if cell.kind == "methods" else 1
        return 3 + tries * params["behaviours"] * search["steps"] * search["width"] / 128 * 0.04 * cost
    return 4.0


def effects(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Slopes on fork depth and on overlap, their interaction, and how transfer goes with likeness, within both too."""
    return statistics.adjust(_effects(learned_pairs(records)))


def _effects(pairs: Sequence[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    if not pairs:
        return
    seeds = np.array([pair["params"]["seed"] for pair in pairs])
    fork, overlap = (np.array([float(pair["params"][name]) for pair in pairs]) for name in ("fork", "overlap"))
    outcomes = {name: np.array([outcome(pair, name) for pair in pairs]) for name in (*MEASURES, *OUTCOMES)}
    yield from slopes_of(
        NAME,
        outcomes,
        {"fork": fork, "overlap": overlap},
        seeds,
        {
            "fork": "from independent models to one base",
            "overlap": "from no to all fine-tuning examples shared",
            "interaction": "in the effect of the fork, from no to all examples shared",
        },
    )
    both = np.stack([fork, overlap], axis=1)
    for name in OUTCOMES[1:]:
        yield from links_of(NAME, outcomes, name, {"correlation": None, "within": both, "within_fork": fork}, seeds)
