"""The layers of a model that is compared: of a store, of a mapping from names to arrays, or one array."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .arrays import DTYPES, Rows, SharedRows, as_rows
from .store import Store, require_same_samples


def layers_of(side: Any, name: str) -> dict[str, SharedRows]:
    """Layers by name, as rows that keep what is found of them.

    Example: ``layers_of({"conv1": x}, "a")["conv1"].name == "a['conv1']"``, x [n, d].

    Parameters: ``side``, a Store, a mapping from names to [n, d] arrays, or one array; ``name``, for messages.

    Raises
    ------
    TypeError, ValueError: no rows of floats; no layers, or two of one name.
    """
    layers: dict[str, Rows] = {}
    if isinstance(side, Store):
        layers = {layer: Rows(side[layer], side.dtype(layer), f"{name}[{layer!r}]") for layer in side.layers}
        for layer, rows in layers.items():
            if rows.dtype not in DTYPES:
                raise TypeError(f"[compare] expected {name}[{layer!r}] of a floating dtype, got {rows.dtype}")
    elif isinstance(side, Mapping):
        for layer, x in side.items():
            if str(layer) in layers:
                raise ValueError(
                    f"[compare] expected {name} with layer names that differ as text, got {str(layer)!r} twice"
                )
            layers[str(layer)] = as_rows(x, function="compare", name=f"{name}[{layer!r}]")
    else:
        layers = {name: as_rows(side, function="compare", name=name)}
    if not layers:
        raise ValueError(f"[compare] expected {name} with at least one layer, got none")
    return {layer: SharedRows(rows.values, rows.dtype, rows.name) for layer, rows in layers.items()}


def require_same_inputs(sides: Sequence[Any]) -> None:
    """Refuse stores whose sample ids, or their order, differ. Raises: ValueError."""
    stores = [side for side in sides if isinstance(side, Store)]
    for other in stores[1:]:
        require_same_samples(stores[0], other)
