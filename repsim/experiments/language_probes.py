"""Two language models on the fixed probe texts: every layer, pooled in four ways, and what training changed.

A view is a pooling and a probe: "mean/in" is the mean over the tokens of texts like those that the models were trained
on, "mean_rest/in" the same without the first token, "last/out" the last token of texts like none of them, "word/in"
single words. "change/in" is the mean over tokens of what fine-tuning added: the model's activations minus its base's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from repsim.experiments.pairs import MEASURES, similarity_of

# Of the views that do not come first in every table and figure.
MEASURES_OF_VIEWS = ("cka", "mutual_knn")
POOLS, PROBES = ("mean", "mean_rest", "last", "word"), ("in", "out")
MAIN, CHANGE = "mean/in", "change"
# From here on a measure that cannot exceed 1 has no room to tell pairs apart.
SATURATED = 0.99
_BATCH = 16

Activations = dict[str, dict[str, np.ndarray]]  # view -> layer -> float32 [n, d]


def activations(model: Any, tokenizer: Any, probe: Mapping[str, Sequence[str]], words: int) -> Activations:
    """What every layer of a model puts out for the probe texts, in every view.

    Example: ``activations(model, tokens.tokenizer, tokens.probe, 1000)["mean/in"]["hidden.4"]``, [n, d].

    Parameters: ``model``, of transformers or peft; ``tokenizer``; ``probe``, texts by name of the probe; ``words``, at
    most as many rows of single words, the same ones for every model, evenly spread over the texts.
    Returns: float32 rows by view and layer, "hidden.0" (the embeddings) to "hidden.L".
    """
    from repsim.activations import evaluation, pooled_copy
    from repsim.extraction.checkpoint import Checkpoint
    from repsim.extraction.layers import HIDDEN, states
    from repsim.extraction.tokens import tokenize, word_starts
    from repsim.training.language import inner

    body: Any = inner(model).base_model  # without the head, whose logits nobody asks for here
    body.config.use_cache = False
    checkpoint = Checkpoint("the model", "text", body, {}, tokenizer=tokenizer)
    made: Activations = {}
    for name, texts in probe.items():
        parts: dict[str, dict[str, list[np.ndarray]]] = {pool: {} for pool in POOLS}
        ends = np.cumsum([0, *(len(word_starts(text)) for text in texts)])
        kept = _spread(int(ends[-1]), words)
        with evaluation(body):
            for start in range(0, len(texts), _BATCH):
                few = texts[start : start + _BATCH]
                batch = tokenize(checkpoint, few, start, words=True)
                for layer, tensor in states(checkpoint, batch.arguments).items():
                    if not layer.startswith(HIDDEN):
                        continue
                    for pool in POOLS:
                        rows = pooled_copy(f"[probe] layer {layer!r}:", tensor, batch.pool(pool), len(few))
                        if pool == "word":  # all words of all texts would not fit beside each other
                            first, last = ends[start], ends[start + len(few)]
                            rows = rows[kept[(kept >= first) & (kept < last)] - first]
                        parts[pool].setdefault(layer, []).append(rows.cpu().numpy())
        for pool, layers in parts.items():
            made[f"{pool}/{name}"] = {layer: np.concatenate(rows) for layer, rows in layers.items()}
    return made


def _spread(count: int, most: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def changes(tuned: Activations, base: Activations) -> Activations:
    """What fine-tuning added to the mean over tokens, layer by layer; layers that nothing was added to are left out.

    Example: ``changes(tuned, base)["change/in"]["hidden.4"]``, [n, d]; adapters leave "hidden.0" as it was.

    Parameters: activations of a fine-tuned model, and of the model that it started from.
    Returns: the views "change/in" and "change/out".
    """
    made: Activations = {}
    for name in PROBES:
        added = {layer: rows - base[f"mean/{name}"][layer] for layer, rows in tuned[f"mean/{name}"].items()}
        made[f"{CHANGE}/{name}"] = {layer: rows for layer, rows in added.items() if np.any(rows != rows[:1])}
    return made


def compared(first: Activations, second: Activations, asked: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Every layer of one model against every layer of the other, in every view that both have.

    Example: ``compared(first, second, {"k": 10, "permutations": 50}, seed=0)["views"]["last/in"]["saturated"]``.

    Parameters: activations of both; ``asked``, k of the neighbour measures and permutations of their null; ``seed`` of
    the permutations.
    Returns: "layers_first", "layers_second", "similarity" (the view MAIN) and "saturated" (measure -> whether it is
    SATURATED at the last layers), and "views" with the same of all others.
    """
    from repsim.compare import compare

    found: dict[str, Any] = {}
    measure = partial(compare, k=asked["k"], permutations=asked["permutations"], seed=seed)
    for view in first:
        if view not in second or not first[view] or not second[view]:
            continue  # a change of nothing
        table = measure(first[view], second[view], measures=list(MEASURES if view == MAIN else MEASURES_OF_VIEWS))
        found[view] = {
            "layers_first": list(first[view]),
            "layers_second": list(second[view]),
            "rows": len(next(iter(first[view].values()))),
            "similarity": similarity_of(table),
            "saturated": {name: bool(grid.values[-1, -1] >= SATURATED) for name, grid in table.grids.items()},
        }
    main = found.pop(MAIN)
    return {**main, "views": found}
