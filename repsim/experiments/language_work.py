"""What a worker does for the studies of language: prepare tokens, train a model, compare two."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from repsim.experiments import language_pairs, language_probes, language_tokens
from repsim.experiments.language_probes import Activations
from repsim.experiments.sweep import Cell
from repsim.language_figures import AGREEMENT, MISTAKES
from repsim.records import RunDirectory

_CURVE_POINTS = 200  # of a loss curve, in a record


def run_cell(cell: Cell, run: RunDirectory) -> Mapping[str, Any]:
    """Do one cell and return the result of its record."""
    work: dict[str, Callable[[Cell, RunDirectory], dict[str, Any]]] = {
        "tokens": language_tokens.prepare, "model": _train, "pair": _compare,
    }  # fmt: skip
    return work[cell.kind](cell, run)


def device() -> str:
    """Where models of language are trained and looked at: "cuda" where torch has a GPU, otherwise "cpu"."""
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
    return os.path.expanduser(base["checkpoint"])


def _train(cell: Cell, run: RunDirectory) -> dict[str, Any]:
    from repsim.training import language

    params = cell.params
    tokens = language_tokens.load(str(run.model_folder(params["tokens"])))
    realised = 1.0
    if params["split"] is None:
        data = tokens.blocks("base")
    else:
        described = run.read(params["tokens"])["params"]
        chunks, realised = language_pairs.chunks_of(described, params["split"], params["model"])
        data = tokens.of_chunks(chunks, described["chunk_blocks"])
    config = _config(params["training"], _source(params["base"], run))
    state = run.model_folder(cell.key).with_suffix(".state")
    trained = language.train(config, data, device=device(), state=state)
    folder = run.model_folder(cell.key)
    language.save(trained.model, folder, tokenizer=tokens.tokenizer if params["split"] is None else None)
    state.unlink(missing_ok=True)
    return {
        "saved": f"models/{cell.key}",
        "weights": language_pairs.weights_hash(folder),
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
    model, held_out = model.to(device()), tokens.blocks("held_out")
    return _Seen(
        language_probes.activations(model, tokens.tokenizer, tokens.probe, words),
        predictions(model, held_out),
        evaluate(model, held_out),
    )


@functools.lru_cache(maxsize=3)  # a first model and a base meet many others
def _look(folder: str, base: str | None, tokens_folder: str, words: int) -> _Seen:
    from repsim.training import causal_models, language

    if Path(folder).is_dir():
        return _seen(language.load(folder, base=base), tokens_folder, words)
    return _seen(causal_models.from_checkpoint(folder, weights=True), tokens_folder, words)


def _look_at_start(params: Mapping[str, Any], run: RunDirectory, words: int) -> _Seen:
    """What a model started from: its base, or itself untrained."""
    folder, source = str(run.model_folder(params["tokens"])), _source(params["base"], run)
    if source is None:
        return _untrained(params["training"], folder, words)
    return _look(source, None, folder, words)


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
