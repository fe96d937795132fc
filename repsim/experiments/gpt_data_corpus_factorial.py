"""Is it the very text that makes language models alike, or its source? Data overlap crossed with corpus overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from repsim.experiments import gpt_corpus_overlap, language_effects, language_pairs
from repsim.experiments.language_pairs import estimate
from repsim.experiments.language_work import run_cell
from repsim.experiments.sweep import Cell
from repsim.findings import SOURCE_ALONE

__all__ = ["NAME", "PRESETS", "SUMMARY", "Config", "cells", "effects", "estimate", "run_cell"]

NAME = "gpt_data_corpus_factorial"
SUMMARY = "GPTs from scratch: shared corpora crossed with shared text of those corpora"


@dataclass(frozen=True)
class Config(gpt_corpus_overlap.Config):
    """The factorial study of text."""

    alpha: tuple[float, ...] = field(
        default=(0.0, 0.5, 1.0), metadata={"help": "shared part of the text of a corpus that both models have"}
    )
    # Without a shared corpus there is no text to share: that level belongs to gpt_corpus_overlap.
    shared_corpora: tuple[float, ...] = field(
        default=(1 / 3, 1.0), metadata={"help": "shared part of the corpora of a model, above 0"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if 0 in self.shared_corpora:
            raise ValueError("expected shared_corpora above 0, got 0: two models without a common corpus share no text")


_FOUR = ("python:topics", "python:characters", "python:code", "python:comments")
PRESETS = {
    "smoke": Config(**{**vars(gpt_corpus_overlap.PRESETS["smoke"]), "corpora": _FOUR, "alpha": (0.0, 1.0),
                       "shared_corpora": (0.5, 1.0)}),
    "quick": Config(),
    "paper": Config(**{**vars(gpt_corpus_overlap.PRESETS["paper"]), "alpha": (0.0, 0.5, 1.0),
                       "shared_corpora": (1 / 3, 2 / 3, 1.0)}),
}  # fmt: skip


def cells(config: Config) -> list[Cell]:
    """For every seed a first model, a second one for each cell of the design, and a third like the first."""
    levels = [{"alpha": alpha, "corpora": shared} for alpha in config.alpha for shared in config.shared_corpora]
    return language_pairs.design_cells(NAME, config, levels)


def effects(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Slopes on both factors, each at fixed levels of the other, their interaction, and the slope on corpora alone.

    Of shared corpora a share alpha of the text is shared, too: what the source does by itself shows where alpha is 0.
    """
    factors = {"alpha": "from no to all text shared", "corpora": "from no to all corpora shared"}
    apart = [record for record in records if record["kind"] == "pair" and record["params"].get("alpha") == 0]
    alone = [
        {**row, "factor": SOURCE_ALONE}
        for row in language_effects.effects_of(NAME, apart, {"corpora": factors["corpora"]})
        if row["factor"] == "corpora"
    ]
    return [*language_effects.effects_of(NAME, records, factors), *alone]
