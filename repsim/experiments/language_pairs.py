"""Two language models of one recipe, described: what the studies of language choose, and the cells that follow.

A model is described by the tokens cell that its text comes from, its share of that text, what it starts from and its
training. A pair holds the keys of its two models and how they are compared: on fixed probe texts that no model was
trained on and that never depend on any overlap.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from repsim.experiments import language_tokens
from repsim.experiments.language_probes import POOLS
from repsim.experiments.pairs import FIRST, MEASURES, SECOND, THIRD, architecture, check_model
from repsim.experiments.sweep import Cell

KINDS = ("gpt2", "llama")
_ROLES = {FIRST: "first", SECOND: "second", THIRD: "third"}


@dataclass(frozen=True)
class LanguageStudyConfig:
    """What every study of pairs of language models has to choose."""

    seeds: int = field(
        default=4, metadata={"help": "independent repetitions; each draws its own split, weights and order"}
    )
    corpora: tuple[str, ...] = field(
        default=("python:docstrings",),
        metadata={"help": "text to train on: python:KIND, a path, or hub:owner/name[:config[:split[:column]]]"},
    )
    outside: tuple[str, ...] = field(
        default=("python:tables",), metadata={"help": "text like none that models are trained on, for the second probe"}
    )
    chunks: int = field(default=80, metadata={"help": "parts of the text, of all corpora; each model gets its share"})
    chunk_blocks: int = field(default=6, metadata={"help": "blocks of each chunk"})
    block: int = field(default=128, metadata={"help": "tokens of a block"})
    vocabulary: int = field(default=2000, metadata={"help": "tokens of the BPE tokenizer that is trained"})
    model: str = field(
        default="gpt2", metadata={"help": "gpt2, llama, or a causal checkpoint: a folder or owner/name on the hub"}
    )
    width: int = field(default=128, metadata={"help": "of the gpt2 or llama, as are layers, heads and dropout"})
    layers: int = field(default=4, metadata={"help": "layers"})
    heads: int = field(default=4, metadata={"help": "attention heads"})
    dropout: float = field(default=0.0, metadata={"help": "dropout"})
    steps: int = field(default=250, metadata={"help": "steps of the optimizer"})
    batch_size: int = field(default=8, metadata={"help": "blocks per step"})
    accumulation: int = field(default=1, metadata={"help": "parts that the blocks of a step are cut into"})
    learning_rate: float = field(default=2e-3, metadata={"help": "after the warm-up"})
    precision: str = field(
        default="float32", metadata={"help": "float32 or bfloat16", "choices": ("float32", "bfloat16")}
    )
    checkpointing: bool = field(default=False, metadata={"help": "compute activations twice, for less memory"})
    probe: int = field(default=200, metadata={"help": "fixed texts of each probe, on which all pairs are compared"})
    probe_words: int = field(default=24, metadata={"help": "words of each of them"})
    words: int = field(default=800, metadata={"help": "words, at most, that are compared one by one"})
    k: int = field(default=10, metadata={"help": "nearest neighbours"})
    permutations: int = field(default=50, metadata={"help": "relabellings for the null of CKNNA"})

    def __post_init__(self) -> None:
        for name in (
            "seeds", "chunks", "chunk_blocks", "width", "layers", "heads", "steps", "batch_size", "accumulation",
            "probe_words", "k",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of at least 1, got {getattr(self, name)}")
        for name in ("corpora", "outside"):
            sources = getattr(self, name)
            if not sources or len(set(sources)) < len(sources):
                raise ValueError(
                    f"expected {name} as different sources, at least one, got {' '.join(sources) or 'none'}"
                )
        if self.chunks % (2 * len(self.corpora)):
            raise ValueError(
                f"expected chunks as an even number for each of the {len(self.corpora)} corpora, got {self.chunks}"
            )
        for name in ("alpha", "shared_corpora"):  # the factors of the studies that have them
            levels = getattr(self, name, ())
            if len(set(levels)) < len(levels) or any(not 0 <= level <= 1 for level in levels):
                got = " ".join(f"{level:g}" for level in levels)
                raise ValueError(f"expected {name} as distinct levels in [0, 1], got {got}")
        if not self.learning_rate > 0:
            raise ValueError(f"expected learning_rate above 0, got {self.learning_rate}")
        if self.permutations < 2:
            raise ValueError(f"expected permutations of at least 2, got {self.permutations}")
        if not self.k < min(self.probe, self.words):
            raise ValueError(f"expected k below the {self.probe} texts and {self.words} words, got {self.k}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"expected dropout in [0, 1), got {self.dropout}")
        check_model(self.model, KINDS, revision=True)

    @property
    def checkpoint(self) -> str:
        """Whose tokenizer and weights models have; "" where both are made here."""
        return ""

    @property
    def per_model(self) -> int:
        """Corpora of each model."""
        return max(1, len(self.corpora) // 2)


@dataclass(frozen=True)
class FineTuningConfig(LanguageStudyConfig):
    """What studies of fine-tuned models choose besides."""

    tuning: str = field(default="lora", metadata={"help": "lora or full", "choices": ("lora", "full")})
    rank: int = field(default=8, metadata={"help": "of the adapters"})
    adapter_alpha: float = field(default=16.0, metadata={"help": "adapter_alpha / rank scales the adapters"})
    adapter_dropout: float = field(default=0.0, metadata={"help": "on the adapters' input"})
    base_corpora: tuple[str, ...] = field(
        default=("python:docstrings", "python:comments", "python:code"),
        metadata={"help": "what a gpt2 or llama is pre-trained on, here, before it is fine-tuned"},
    )
    base_blocks: int = field(default=1200, metadata={"help": "blocks of them"})
    base_steps: int = field(default=1200, metadata={"help": "steps of the pre-training"})
    base_learning_rate: float = field(default=2e-3, metadata={"help": "of the pre-training, after the warm-up"})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rank", "base_blocks", "base_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"expected {name} of at least 1, got {getattr(self, name)}")
        if not self.base_corpora or len(set(self.base_corpora)) < len(self.base_corpora):
            raise ValueError(f"expected base_corpora as different sources, got {' '.join(self.base_corpora) or 'none'}")

    @property
    def checkpoint(self) -> str:
        """The checkpoint that is fine-tuned; "" for a base that is trained here."""
        return "" if self.model in KINDS else self.model


# ----------------------------------------------------------------------------------------------------- cells of a study


def training_of(config: LanguageStudyConfig, **changes: Any) -> dict[str, Any]:
    """The fields of a `LanguageConfig` that a study's configuration sets, with changes."""
    names = ("width", "layers", "heads", "dropout", "steps", "batch_size", "accumulation", "learning_rate",
             "precision", "checkpointing")  # fmt: skip
    training = {name: getattr(config, name) for name in names}
    return {"model": architecture(config.model, KINDS), "positions": config.block, **training, **changes}


def weights_hash(folder: Path) -> str:
    """Of the files of weights in a folder. Example: ``weights_hash(run.model_folder(key))``, 16 digits."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin")):
        with open(path, "rb") as file:
            while part := file.read(1 << 22):
                digest.update(part)
    return digest.hexdigest()[:16]


def model_cell(
    study: str,
    config: LanguageStudyConfig,
    tokens: Cell,
    training: Mapping[str, Any],
    *,
    seed: int,
    role: int,
    corpora: float = 1.0,
    alpha: float = 1.0,
    base: Mapping[str, str] | None = None,
) -> Cell:
    """The cell that trains one model: the first of a seed, or one whose text overlaps the first's by as much."""
    split = {"seed": seed, "per_model": config.per_model, "corpora": float(corpora), "alpha": float(alpha)}
    own = len(_ROLES) * seed + role
    params = {
        "seed": seed,
        "model": _ROLES[role],
        "tokens": tokens.key,
        "split": split,
        "base": dict(base) if base else None,
        "training": {"init_seed": own, "order_seed": own, **training},
        "hashes": {"chunks": _chunk_hash(tokens, split, role)},
    }
    return Cell(study, "model", params, needs=(tokens.key, *([base["key"]] if base and "key" in base else [])))


def chunks_of(params: Mapping[str, Any], split: Mapping[str, Any], role: str) -> tuple[np.ndarray, float]:
    """A model's chunks of the pool, and the share of them that the first model has, too."""
    made = language_tokens.chunk_positions(params, split)
    return (made.first, 1.0) if role == "first" else (made.second, made.realised)


def _chunk_hash(tokens: Cell, split: Mapping[str, Any], role: int) -> str:
    chunks, _ = chunks_of(tokens.params, split, _ROLES[role])
    return hashlib.sha256(chunks.astype("<i8").tobytes()).hexdigest()[:16]


def pair_cell(
    study: str,
    config: LanguageStudyConfig,
    tokens: Cell,
    first: Cell,
    second: Cell | None,
    *,
    seed: int,
    role: str,
    changes: bool = False,
    **levels: float | str,
) -> Cell:
    """The cell that compares two trained models (role "pair" or "ceiling"), or what they come from ("floor").

    The floor of two models is the same two untrained; without a second one it is the first against what it started
    from. With `changes`, what training added is compared, too.
    """
    origin = (first.params["base"] or {}).get("key")
    needs = [tokens.key, *([origin] if origin else [])]
    params = {
        "seed": seed,
        "role": role,
        **levels,
        "first": first.key,
        "second": second.key if second else "start",
        "tokens": tokens.key,
        "probe": tokens.params["probe"],
        "compare": {"measures": list(MEASURES), "pools": list(POOLS), "words": config.words, "k": config.k,
                    "permutations": config.permutations, "changes": changes},
    }  # fmt: skip
    if second is None:
        needs.append(first.key)
    elif role == "floor":  # no training is waited for: the descriptions are enough to build both
        params["untrained"] = [first.params["training"], second.params["training"]]
    else:
        needs += [first.key, second.key]
    return Cell(study, "pair", params, needs=tuple(needs))


def design_cells(study: str, config: LanguageStudyConfig, levels: Sequence[Mapping[str, float]]) -> list[Cell]:
    """For every seed a first model, a second one for each level of overlap, a third like the first: the ceiling.

    Parameters: ``levels``, factors by name, "alpha" and "corpora"; one that is not named is 1.
    """
    made, tokens, start = foundation(study, config)
    training = training_of(config)
    if isinstance(config, FineTuningConfig):
        training = training_of(
            config, model=None, tuning=config.tuning, rank=config.rank, alpha=config.adapter_alpha,
            adapter_dropout=config.adapter_dropout,
        )  # fmt: skip
    changes = start is not None
    for seed in range(config.seeds):

        def model(role: int, corpora: float = 1.0, alpha: float = 1.0, seed: int = seed) -> Cell:
            return model_cell(
                study, config, tokens, training, seed=seed, role=role, corpora=corpora, alpha=alpha, base=start
            )

        first, third = model(FIRST), model(THIRD)
        made += [first, third]
        for level in levels:
            second = model(SECOND, level.get("corpora", 1.0), level.get("alpha", 1.0))
            made += [
                second,
                pair_cell(study, config, tokens, first, second, seed=seed, role="pair", changes=changes, **level),
            ]
        made += [
            pair_cell(study, config, tokens, first, third, seed=seed, role="ceiling", changes=changes),
            pair_cell(study, config, tokens, first, None if changes else third, seed=seed, role="floor"),
        ]
    return made


def foundation(study: str, config: LanguageStudyConfig) -> tuple[list[Cell], Cell, dict[str, str] | None]:
    """The cells that come before all others, the tokens cell among them, and what fine-tuned models start from."""
    if not isinstance(config, FineTuningConfig):
        tokens = language_tokens.tokens_cell(study, config)
        return [tokens], tokens, None
    if config.checkpoint:
        tokens = language_tokens.tokens_cell(study, config)
        folder = Path(config.checkpoint).expanduser()
        named = {"checkpoint": language_tokens.located(config.checkpoint)}
        return [tokens], tokens, {**named, "sha256": weights_hash(folder)} if folder.is_dir() else named
    tokens = language_tokens.tokens_cell(study, config, base=config.base_corpora, base_blocks=config.base_blocks)
    training = training_of(config, steps=config.base_steps, learning_rate=config.base_learning_rate)
    params = {"model": "base", "tokens": tokens.key, "split": None, "base": None, "training": training}
    base = Cell(study, "model", params, needs=(tokens.key,))
    return [tokens, base], tokens, {"key": base.key}


def estimate(cell: Cell) -> float:
    """Seconds on one core, roughly: what a plan shows before anything ran."""
    if cell.kind == "model":
        training = cell.params["training"]
        # 7 000 tokens a second and core with 4 layers of 128; a checkpoint is taken for a billion parameters
        ours = training["model"] in KINDS or "key" in (cell.params["base"] or {})
        size = 12 * training["layers"] * training["width"] ** 2 + 2000 * training["width"] if ours else 1e9
        # A training that stops at a loss has taken a fifth of the steps that it was allowed.
        steps = training["steps"] / (5 if training.get("target_loss") else 1)
        return 2.0 + steps * training["batch_size"] * training["positions"] / 7000 * size / 1.04e6
    return 4.0 if cell.kind == "tokens" else 6.0
