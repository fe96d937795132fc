"""Two language models of one recipe: described, trained, compared. What the studies of language share.

A model is described by the tokens cell that its text comes from, its share of that text, what it starts from and its
training. A pair holds the keys of its two models and how they are compared: on fixed probe texts that no model was
trained on and that never depend on any overlap.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from repsim import statistics
from repsim.experiments import language_probes, language_tokens
from repsim.experiments.language_probes import Activations
from repsim.experiments.pairs import FIRST, MEASURES, SECOND, THIRD, learned_pairs, slopes_of, tried
from repsim.experiments.sweep import Cell
from repsim.language_figures import AGREEMENT, MISTAKES, outcome_name
from repsim.records import RunDirectory

KINDS = ("gpt2", "llama")
_ROLES = {FIRST: "first", SECOND: "second", THIRD: "third"}
_CURVE_POINTS = 200  # of a loss curve, in a record


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
    steps: int = field(default=300, metadata={"help": "steps of the optimizer"})
    batch_size: int = field(default=16, metadata={"help": "blocks per step"})
    accumulation: int = field(default=1, metadata={"help": "parts that the blocks of a step are cut into"})
    learning_rate: float = field(default=1e-3, metadata={"help": "after the warm-up"})
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
        _check_model(self.model)

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


def _check_model(model: str) -> None:
    """Raises ValueError for a model that is none of KINDS, no folder with a configuration, and no hub id by form."""
    if model in KINDS:
        return
    if Path(model).is_dir() or model.startswith((".", "/", "~")):
        if not (Path(model).expanduser() / "config.json").is_file():
            raise ValueError(f"expected model as a folder with a config.json, got {model!r}")
    elif not re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", model):
        near = difflib.get_close_matches(model.lower(), KINDS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        own = ", ".join(KINDS)
        raise ValueError(f"expected model as {own}, a checkpoint folder or owner/name on the hub, got {model!r}{hint}")


# ----------------------------------------------------------------------------------------------------- cells of a study


def training_of(config: LanguageStudyConfig, **changes: Any) -> dict[str, Any]:
    """The fields of a `LanguageConfig` that a study's configuration sets, with changes."""
    names = ("width", "layers", "heads", "dropout", "steps", "batch_size", "accumulation", "learning_rate",
             "precision", "checkpointing")  # fmt: skip
    training = {name: getattr(config, name) for name in names}
    return {"model": config.model, "positions": config.block, **training, **changes}


@functools.lru_cache(maxsize=4)
def _weights_hash(folder: str) -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(folder).glob("*.safetensors")) or sorted(Path(folder).glob("*.bin")):
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


def _chunks_of(params: Mapping[str, Any], split: Mapping[str, Any], role: str) -> tuple[np.ndarray, float]:
    """A model's chunks of the pool, and the share of them that the first model has, too."""
    made = language_tokens.chunk_positions(params, split)
    return (made.first, 1.0) if role == "first" else (made.second, made.realised)


def _chunk_hash(tokens: Cell, split: Mapping[str, Any], role: int) -> str:
    chunks, _ = _chunks_of(tokens.params, split, _ROLES[role])
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
        "compare": {"measures": list(MEASURES), "words": config.words, "k": config.k,
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
        return [tokens], tokens, {**named, "sha256": _weights_hash(str(folder))} if folder.is_dir() else named
    tokens = language_tokens.tokens_cell(study, config, base=config.base_corpora, base_blocks=config.base_blocks)
    training = training_of(config, steps=config.base_steps, learning_rate=config.base_learning_rate)
    params = {"model": "base", "tokens": tokens.key, "split": None, "base": None, "training": training}
    base = Cell(study, "model", params, needs=(tokens.key,))
    return [tokens, base], tokens, {"key": base.key}


def estimate(cell: Cell) -> float:
    """Seconds on one core, roughly: what a plan shows before anything ran."""
    if cell.kind == "model":
        training = cell.params["training"]
        # 9 000 tokens a second and core with 4 layers of 128; a checkpoint is taken for a billion parameters
        size = 1e9 if training["model"] not in KINDS and not (cell.params["base"] or {}).get("key") else (
            12 * training["layers"] * training["width"] ** 2 + 2000 * training["width"]
        )  # fmt: skip
        return 2.0 + training["steps"] * training["batch_size"] * training["positions"] / 9000 * size / 1.04e6
    return 4.0 if cell.kind == "tokens" else 6.0


# ------------------------------------------------------------------------------------------------ work, in a worker


def run_cell(cell: Cell, run: RunDirectory) -> Mapping[str, Any]:
    """Do one cell and return the result of its record."""
    work: dict[str, Callable[[Cell, RunDirectory], dict[str, Any]]] = {
        "tokens": language_tokens.prepare, "model": _train, "pair": _compare,
    }  # fmt: skip
    return work[cell.kind](cell, run)


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _config(training: Mapping[str, Any], source: str | None) -> Any:
    """The `LanguageConfig` that a record describes; JSON has no tuples."""
    from repsim.training.language import LanguageConfig

    named = {**training, "model": source} if source else dict(training)
    fields: dict[str, Any] = {name: tuple(item) if isinstance(item, list) else item for name, item in named.items()}
    return LanguageConfig(**fields)


def _source(base: Mapping[str, str] | None, run: RunDirectory) -> str | None:
    """Where the model lies that another one starts from."""
    if base is None:
        return None
    if "key" in base:
        return str(run.model_folder(base["key"]))
    named = base["checkpoint"]
    return str(Path(named).expanduser()) if named.startswith("~") else named


def _train(cell: Cell, run: RunDirectory) -> dict[str, Any]:
    from repsim.training import language

    params = cell.params
    tokens = language_tokens.load(str(run.model_folder(params["tokens"])))
    realised = 1.0
    if params["split"] is None:
        data = tokens.blocks("base")
    else:
        described = run.read(params["tokens"])["params"]
        chunks, realised = _chunks_of(described, params["split"], params["model"])
        data = tokens.of_chunks(chunks, described["chunk_blocks"])
    config = _config(params["training"], _source(params["base"], run))
    state = run.model_folder(cell.key).with_suffix(".state")
    trained = language.train(config, data, device=_device(), state=state)
    folder = run.model_folder(cell.key)
    language.save(trained.model, folder, tokenizer=tokens.tokenizer if params["split"] is None else None)
    state.unlink(missing_ok=True)
    return {
        "saved": f"models/{cell.key}",
        "weights": _weights_hash(str(folder)),
        "curves": {name: _thinned(curve) for name, curve in trained.curves.items()},
        "learned": trained.learned,
        "reason": trained.reason,
        "steps": trained.steps,
        "tokens_seen": trained.tokens,
        "loss": trained.loss,
        "unigram_loss": language.unigram_loss(data),
        "realised_overlap": realised,
        "blocks": len(data),
        "blocks_sha256": data.content_hash(),
    }


def _thinned(curve: Sequence[Any]) -> list[Any]:
    """At most as many points as a figure shows, the last one among them."""
    every = -(-len(curve) // _CURVE_POINTS)
    return list(curve[::-1][:: every or 1])[::-1]


@dataclass(frozen=True, eq=False)
class _Seen:
    """A model on the probes and on held-out blocks."""

    activations: Activations
    predicted: np.ndarray  # int64 [n, t - 1]
    loss: float


def _seen(model: Any, tokens_folder: str, words: int) -> _Seen:
    from repsim.training.language import evaluate, predictions

    tokens = language_tokens.load(tokens_folder)
    model, held_out = model.to(_device()), tokens.blocks("held_out")
    return _Seen(
        language_probes.activations(model, tokens.tokenizer, tokens.probe, words),
        predictions(model, held_out),
        evaluate(model, held_out),
    )


@functools.lru_cache(maxsize=3)  # a first model and a base meet many others
def _look(folder: str, base: str | None, tokens_folder: str, words: int) -> _Seen:
    from repsim.training import language

    return _seen(language.load(folder, base=base), tokens_folder, words)


def _look_at_start(params: Mapping[str, Any], run: RunDirectory, words: int) -> _Seen:
    """What a model started from: its base, or itself untrained."""
    from repsim.training.causal_models import from_checkpoint

    folder, source = str(run.model_folder(params["tokens"])), _source(params["base"], run)
    if source is None:
        return _untrained(params["training"], folder, words)
    if "key" in params["base"]:
        return _look(source, None, folder, words)
    return _seen(from_checkpoint(source, weights=True), folder, words)


def _untrained(training: Mapping[str, Any], tokens_folder: str, words: int) -> _Seen:
    from repsim.training import language

    vocabulary = language_tokens.load(tokens_folder).vocabulary
    return _seen(language.build(_config(training, None), vocabulary), tokens_folder, words)


def _compare(cell: Cell, run: RunDirectory) -> dict[str, Any]:
    params = cell.params
    folder, words = str(run.model_folder(params["tokens"])), params["compare"]["words"]
    result: dict[str, Any] = {}
    if "untrained" in params:
        first, second = (_untrained(training, folder, words) for training in params["untrained"])
    else:
        records = [run.read(params[side]) for side in ("first", "second") if params[side] != "start"]
        seen = [
            _look(str(run.model_folder(record["key"])), _source(record["params"]["base"], run), folder, words)
            for record in records
        ]
        if len(seen) == 1:
            seen.append(_look_at_start(records[0]["params"], run, words))
        else:
            for side, record in zip(("first", "second"), records, strict=True):
                result |= {
                    f"learned_{side}": record["result"]["learned"],
                    f"steps_{side}": record["result"]["steps"],
                    f"training_loss_{side}": record["result"]["loss"],
                }
            result["realised_overlap"] = records[1]["result"]["realised_overlap"]
        first, second = seen
    sides = [first.activations, second.activations]
    if params["compare"]["changes"]:
        starts = [_look_at_start(record["params"], run, words).activations for record in records]
        sides = [side | language_probes.changes(side, start) for side, start in zip(sides, starts, strict=True)]
    targets = language_tokens.load(folder).blocks("held_out").targets()
    same = first.predicted == second.predicted
    wrong = (first.predicted != targets) & (second.predicted != targets)
    return {
        **result,
        **language_probes.compared(sides[0], sides[1], params["compare"], params["seed"]),
        "held_out_loss_first": first.loss,
        "held_out_loss_second": second.loss,
        AGREEMENT: float(same.mean()),
        MISTAKES: float(same[wrong].mean()) if wrong.any() else None,
    }


# --------------------------------------------------------------------------------------------------------- the effects


def outcomes_of(pairs: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """What pairs are compared by: every measure in every view, and how far their predictions agree; NaN for missing.

    Example: ``outcomes_of(learned_pairs(records))["cka"]``, float [pairs].
    """

    def column(values: Sequence[Any]) -> np.ndarray:
        return np.array([np.nan if value is None else float(value) for value in values])

    results = [pair["result"] for pair in pairs]
    found = {name: column([result["similarity"][name]["last"] for result in results]) for name in MEASURES}
    for view in dict.fromkeys(view for result in results for view in result["views"]):
        for name in language_probes.MEASURES_OF_VIEWS:
            seen = [result["views"].get(view) for result in results]
            found[outcome_name(name, view)] = column([one and one["similarity"][name]["last"] for one in seen])
    return found | {name: column([result[name] for result in results]) for name in (AGREEMENT, MISTAKES)}


def saturated_outcomes(pairs: Sequence[Mapping[str, Any]]) -> set[str]:
    """Outcomes that are saturated in every pair: what is left of their slope is no finding."""
    by_name: dict[str, list[bool]] = {}
    for pair in pairs:
        for name, full in pair["result"]["saturated"].items():
            by_name.setdefault(name, []).append(full)
        for view, found in pair["result"]["views"].items():
            for name, full in found["saturated"].items():
                by_name.setdefault(outcome_name(name, view), []).append(full)
    return {name for name, flags in by_name.items() if all(flags)}


def effects_of(study: str, records: Iterable[Mapping[str, Any]], factors: Mapping[str, str]) -> list[dict[str, Any]]:
    """Slopes on every factor (a name and its unit) of every outcome, their interaction, and agreement with CKA."""
    pairs = learned_pairs(records)
    if not pairs:
        return []
    seeds = np.array([pair["params"]["seed"] for pair in pairs])
    levels = {name: np.array([float(pair["params"][name]) for pair in pairs]) for name in factors}
    outcomes = outcomes_of(pairs)
    units = {**factors, "interaction": "in the data effect, from no to all corpora shared"}
    found = slopes_of(study, outcomes, levels, seeds, units)
    stratum = np.stack(list(levels.values()), axis=1)
    for name in MEASURES:
        kept = np.isfinite(outcomes[name]) & np.isfinite(outcomes[AGREEMENT])
        found += tried(
            study, AGREEMENT, f"same overlap:{name}", "Spearman", statistics.within, outcomes[name][kept],
            outcomes[AGREEMENT][kept], stratum[kept], seeds[kept],
        )  # fmt: skip
    full = saturated_outcomes(pairs)
    return [{**row, "saturated": row["outcome"] in full} for row in statistics.adjust(found)]
