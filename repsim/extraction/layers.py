"""Every layer of a checkpoint, or chosen ones, for all inputs, into a store that an interruption does not spoil."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from repsim.activations import (
    DTYPES,
    POOLS,
    Pool,
    as_dtype,
    evaluation,
    pooled,
    pooled_copy,
    record,
    recorded_once,
    recording,
)
from repsim.extraction.checkpoint import Checkpoint
from repsim.extraction.inputs import Images, Texts
from repsim.extraction.tokens import TEXT_POOLS, tokenize, word_starts
from repsim.records import environment, now, without_home
from repsim.store import Store

IMAGE_POOLS = POOLS
HIDDEN, FINAL = "hidden.", "final"


def extract_layers(
    checkpoint: Checkpoint,
    inputs: Images | Texts,
    path: str | Path,
    *,
    layers: Sequence[str] | None = None,
    pool: str = "mean",
    batch_size: int = 32,
    dtype: str = "float32",
    max_tokens: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Store:
    """Write layers of a checkpoint for all inputs into a store; an unfinished store is continued.

    Example::

        store = extract_layers(checkpoint, load_inputs("photos"), "vit.store", pool="cls")
        store["hidden.1"], store["hidden.12"], store["final"]       # [n, 768] each

    Parameters
    ----------
    checkpoint, inputs: of `load_checkpoint` and `load_inputs`, of the same kind.
    path: folder of the store. One that is there must be of the same weights, data, layers, pool, dtype, precision,
        device and library versions.
    layers: names, or patterns with ``*``; by default "hidden.0" (the embeddings) to "hidden.L", as the model returns
        them, and "final", its last hidden state, where a last norm makes that another one; with pool "cls" without
        "hidden.0", in which the first token is the same for all inputs. Any other name is that of a module.
    pool: of images "mean" (over positions, or all tokens), "cls", "last", "flatten"; of text "mean",
        "mean_rest" (without the first token), "last", "cls" and "word", see `pool_tokens`. With "word" the rows are the
        words of all texts and the sample ids number them.
    batch_size: inputs per forward pass.
    dtype: on disk: "float32", "float16", "bfloat16" or "float64".
    max_tokens: where to cut longer texts; by default they are refused.
    progress: called with (rows done, n) after every batch.

    Returns
    -------
    The finished store. Its metadata hold what it was made of ("extraction") and how ("provenance").

    Raises
    ------
    ValueError: an unknown layer, pool or dtype; an output that the pool does not fit; another extraction in the store.
    StoreInUseError: another process is writing to the store.
    """
    _check(checkpoint, inputs, pool, batch_size, dtype, max_tokens)
    with evaluation(checkpoint.model):
        probe = states(checkpoint, arguments_of(checkpoint, inputs, 0, 1, max_tokens))
        chosen = choose_layers(checkpoint, layers, pool, probe)
    extraction = {
        **basis(checkpoint, inputs, max_tokens),
        "pool": pool,
        "layers": chosen,
        "dtype": dtype,
    }
    starts = _row_starts(inputs, pool)

    def batches(done: int) -> Generator[dict[str, np.ndarray], None, None]:
        first = int(np.searchsorted(starts, done))
        with evaluation(checkpoint.model):
            for start in range(first, len(inputs), batch_size):
                rows = _forward(
                    checkpoint, inputs, start, min(start + batch_size, len(inputs)), chosen, pool, max_tokens
                )
                yield {layer: as_dtype("extract", layer, values, dtype) for layer, values in rows.items()}

    described = {"extraction": extraction}
    noted = {"provenance": provenance(checkpoint, inputs)}
    ids = np.arange(starts[-1], dtype=np.int64)
    return record(path, ids, described, batches, noted=noted, progress=progress)


def basis(checkpoint: Checkpoint, inputs: Images | Texts, max_tokens: int | None) -> dict[str, Any]:
    """What activations depend on besides the choice of layers: the parts of a continued store that must not differ."""
    config = getattr(checkpoint.model, "config", None)
    return {
        "weights_sha256": checkpoint.weights_sha256,
        "data_sha256": inputs.sha256,
        "inputs": len(inputs),
        "precision": checkpoint.precision,
        "device": checkpoint.device.type,
        "attention": getattr(config, "_attn_implementation", None),
        "max_tokens": max_tokens,
        "versions": checkpoint.versions(),
    }


def provenance(checkpoint: Checkpoint, inputs: Images | Texts) -> dict[str, Any]:
    """Where activations come from, for the record."""
    source = inputs.folder if isinstance(inputs, Images) else inputs.path
    return {
        "model": without_home(checkpoint.name),
        "revision": checkpoint.revision,
        "class": type(checkpoint.model).__name__,
        "config": checkpoint.config,
        "weights_drawn_at_random": list(checkpoint.drawn),
        "data": without_home(str(source.resolve())),
        "kind": inputs.kind,
        "environment": environment(),
        "created": now(),
    }


def arguments_of(
    checkpoint: Checkpoint, inputs: Images | Texts, start: int, stop: int, max_tokens: int | None
) -> dict[str, torch.Tensor]:
    """What the model takes for the inputs from start to stop, on its device."""
    if isinstance(inputs, Texts):
        return tokenize(checkpoint, inputs.texts[start:stop], start, max_tokens=max_tokens).arguments
    assert checkpoint.pixels is not None
    pixels = checkpoint.pixels(inputs.load(start, stop))
    return {"pixel_values": pixels.to(checkpoint.device, getattr(torch, checkpoint.precision))}


def states(checkpoint: Checkpoint, arguments: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The hidden states that the model itself returns, by layer; none where it returns none."""
    if checkpoint.library == "timm":
        return {}
    with torch.no_grad():
        return _states_in(checkpoint.run(arguments, output_hidden_states=True))


def _states_in(output: Any) -> dict[str, torch.Tensor]:
    hidden = getattr(output, "hidden_states", None) or ()
    found = {f"{HIDDEN}{number}": state for number, state in enumerate(hidden)}
    last = getattr(output, "last_hidden_state", None)
    return found if last is None else {**found, FINAL: last}


def choose_layers(
    checkpoint: Checkpoint, asked: Sequence[str] | None, pool: str, probe: Mapping[str, torch.Tensor]
) -> list[str]:
    """The names of the layers to extract.

    Parameters: ``checkpoint``; ``asked``, names and patterns, None for every layer that makes sense with ``pool``;
        ``probe``, what `states` gives for one input. Raises: ValueError for a name that fits no layer.
    """
    hidden = [name for name in probe if name.startswith(HIDDEN)]
    if asked is None:
        if checkpoint.layers:
            return list(checkpoint.layers)
        if not hidden:
            raise ValueError(
                f"[extract] expected hidden states from {checkpoint.name}, got a model that returns none; "
                "name its modules with layers"
            )
        # Of most language models the last hidden state is the last layer's; vision models often have a norm between.
        last, final = probe[hidden[-1]], probe.get(FINAL)
        twice = final is None or (final.shape == last.shape and torch.equal(final, last))
        # Before the first layer a class token has seen nothing of its input: a row that is the same for all of them.
        kept = hidden[1:] if pool == "cls" else hidden
        return kept if twice else [*kept, FINAL]
    known = list(dict.fromkeys([*probe, *(name for name, _ in checkpoint.model.named_modules() if name)]))
    chosen: list[str] = []
    for name in asked:
        found = [name] if name in known else fnmatch.filter(known, name)
        if not found:
            close = difflib.get_close_matches(name, known, n=5) or known[:8]
            raise ValueError(
                f"[extract] expected layers of {checkpoint.name}, such as {', '.join(close)}, got {name!r}"
            )
        chosen += found
    for layer in chosen:
        if checkpoint.drawn and "pooler" in layer.split("."):
            raise ValueError(
                f"[extract] expected layers with weights in {checkpoint.name}, got {layer!r}, drawn at random"
            )
    return list(dict.fromkeys(chosen))


def _check(
    checkpoint: Checkpoint, inputs: Images | Texts, pool: str, batch_size: int, dtype: str, max_tokens: int | None
) -> None:
    if checkpoint.kind != inputs.kind:
        raise ValueError(
            f"[extract] expected inputs of kind {checkpoint.kind!r} for {checkpoint.name}, got {inputs.kind!r}"
        )
    pools = TEXT_POOLS if inputs.kind == "text" else IMAGE_POOLS
    if pool not in pools:
        raise ValueError(f"[extract] expected pool as one of {pools} for {inputs.kind}, got {pool!r}")
    if dtype not in DTYPES:
        raise ValueError(f"[extract] expected dtype as one of {DTYPES}, got {dtype!r}")
    if batch_size < 1:
        raise ValueError(f"[extract] expected batch_size of at least 1, got {batch_size}")
    if max_tokens is not None and (inputs.kind != "text" or pool == "word" or max_tokens < 1):
        what = "text" if inputs.kind != "text" else "another pool than 'word'" if pool == "word" else "at least 1"
        raise ValueError(f"[extract] expected max_tokens only with {what}, got {max_tokens}")


def _row_starts(inputs: Images | Texts, pool: str) -> np.ndarray:
    """int64 [n + 1]: the first row of every input, and the number of all rows."""
    if isinstance(inputs, Texts) and pool == "word":
        return np.cumsum([0, *(len(word_starts(text)) for text in inputs.texts)])
    return np.arange(len(inputs) + 1)


def _forward(
    checkpoint: Checkpoint,
    inputs: Images | Texts,
    start: int,
    stop: int,
    layers: Sequence[str],
    pool: str,
    max_tokens: int | None,
) -> dict[str, np.ndarray]:
    """Layer -> rows of the inputs from start to stop."""
    how: Pool = partial(pooled, pool)
    if isinstance(inputs, Texts):
        texts = inputs.texts[start:stop]
        batch = tokenize(checkpoint, texts, start, max_tokens=max_tokens, words=pool == "word")
        arguments, how = batch.arguments, batch.pool(pool)
    else:
        arguments = arguments_of(checkpoint, inputs, start, stop, max_tokens)
    returned = [layer for layer in layers if layer == FINAL or layer.startswith(HIDDEN)]
    hooked = [layer for layer in layers if layer not in returned]
    count = stop - start
    with recording("extract", checkpoint.model, hooked, how, count) as recorded, torch.no_grad():
        output = checkpoint.run(arguments, **({"output_hidden_states": True} if returned else {}))
    rows = recorded_once("extract", recorded)
    found = _states_in(output) if returned else {}
    for layer in returned:
        rows[layer] = pooled_copy(f"[extract] layer {layer!r}:", found[layer], how, count)
    return {layer: rows[layer].cpu().numpy() for layer in layers}
