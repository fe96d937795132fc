"""The layers of a model that is compared: of a store, of a mapping from names to arrays, or one array."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .arrays import DTYPES, Rows, SharedRows
from .reductions import rows_on
from .store import Store, require_same_samples


def layers_of(side: Any, name: str, device: Any = None, *, gpu: bool = True) -> dict[str, SharedRows]:
    """Layers by name, as rows that keep what is found of them.

    Example: ``layers_of({"conv1": x}, "a")["conv1"].name == "a['conv1']"``, x [n, d].

    Parameters: ``side``, a Store, a mapping from names to [n, d] arrays, or one array; ``name``, for messages;
    ``device``, where to work, as for :func:`repsim.cka`; ``gpu``, whether rows may lie on a GPU.

    Raises
    ------
    TypeError, ValueError: no rows of floats; no layers, or two of one name; no such device.
    """

    def rows_of(x: Any, label: str) -> SharedRows:
        return SharedRows.of(rows_on(x, device, function="compare", name=label, gpu=gpu))

    layers: dict[str, SharedRows] = {}
    if isinstance(side, Store):
        for layer in side.layers:
            label, dtype = f"{name}[{layer!r}]", side.dtype(layer)
            if dtype not in DTYPES:
                raise TypeError(f"[compare] expected {label} of a floating dtype, got {dtype}")
            layers[layer] = rows_of(Rows(side[layer], dtype, label), label)
    elif isinstance(side, Mapping):
        for layer, x in side.items():
            if str(layer) in layers:
                raise ValueError(
                    f"[compare] expected {name} with layer names that differ as text, got {str(layer)!r} twice"
                )
            layers[str(layer)] = rows_of(x, f"{name}[{layer!r}]")
    else:
        layers = {name: rows_of(side, name)}
    if not layers:
        raise ValueError(f"[compare] expected {name} with at least one layer, got none")
    return layers


def require_same_inputs(sides: Sequence[Any]) -> None:
    """Refuse stores whose sample ids, or their order, differ. Raises: ValueError."""
    stores = [side for side in sides if isinstance(side, Store)]
    for other in stores[1:]:
        require_same_samples(stores[0], other)
