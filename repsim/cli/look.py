"""``repsim measures`` and ``repsim info``: what there is to measure with, and what a store holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from repsim.measures.registry import REGISTRY
from repsim.measures.table import MeasureTable
from repsim.records import RunError
from repsim.store import Store
from repsim.terminal import DONE, Parser, new_table, print_table


def measures(words: Sequence[str]) -> int:
    """Print what every measure declares of itself, or those of one family.

    Example: ``measures(["shapes"]) == 0``.
    """
    parser = Parser(prog="repsim measures", allow_abbrev=False, description="All measures, or those of one family.")
    parser.add_argument("family", nargs="?", metavar="FAMILY", help="such as cka or shapes (default: all)")
    family = parser.parse(words)["family"]
    print(MeasureTable.of(REGISTRY, family))
    return DONE


def info(words: Sequence[str]) -> int:
    """Print what a store holds and where it comes from.

    Example: ``info(["a.store", "--verify"]) == 0``.
    """
    parser = Parser(prog="repsim info", allow_abbrev=False, description="What a store holds and where it comes from.")
    parser.add_argument("store", metavar="STORE", type=Path, help="the store's folder")
    parser.add_argument("--verify", action="store_true", help="read every file and compare it with its checksum")
    values = parser.parse(words)
    if not values["store"].is_dir():
        raise RunError(f"{values['store']} is no folder of a store")
    store = Store.open(values["store"])
    if values["verify"]:
        store.verify()
    state = "finished" if store.finished else "unfinished"
    print(f"{store.path}: {len(store)} rows, {len(store.layers)} layers, {state}{', verified' * values['verify']}")
    layers = new_table("layer", "features", "dtype", "MB")
    for layer in store.layers:
        layers.add_row(layer, str(store.width(layer)), store.dtype(layer), f"{store[layer].nbytes / 1e6:.1f}")
    if store.layers:
        print_table(layers)
    for name, value in _facts(store.metadata):
        print(f"{name}: {value}")
    return DONE


def _facts(metadata: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The metadata as lines: what an extraction notes by name, the model's configuration as its size, the rest flat."""
    lines = []
    for key, value in metadata.items():
        parts = value.items() if isinstance(value, Mapping) else [(key, value)]
        for name, part in parts:
            if name == "layers" or part in (None, [], {}):
                continue  # the table has them
            if name == "config" and isinstance(part, Mapping):
                part = f"{part.get('model_type', 'model')}, {len(part)} entries in {key}"
            elif isinstance(part, Mapping):
                part = ", ".join(f"{one} {_short(of)}" for one, of in part.items() if of is not None)
            lines.append((name, _short(part)))
    return lines


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{one} {_short(of)}" for one, of in value.items() if of is not None)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
