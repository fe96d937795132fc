"""A neighbour graph on disk: one safetensors file.

Safetensors and not .npz: its header has room for the plain fields, nothing in it is ever executed, its arrays lie in it
as they are in memory, and it is the format in which stores are exchanged.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..whole_files import whole_file

VERSION = 1
_KEY = "repsim.Neighbours"  # of the file's metadata: JSON of version, fields and checksum


def write_graph(path: Path, arrays: Mapping[str, np.ndarray], fields: Mapping[str, Any]) -> None:
    """Write arrays and plain values into one file, which is under its name only when it is whole."""
    from safetensors.numpy import save_file

    about = {"version": VERSION, "fields": dict(fields), "sha256": _digest(arrays, fields)}
    with whole_file(path) as temporary:
        save_file(dict(arrays), temporary, {_KEY: json.dumps(about, sort_keys=True)})


def read_graph(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and plain values of a file, as they were written.

    Raises
    ------
    FileNotFoundError: there is no such file.
    ValueError: no safetensors file, none of a graph, one of a newer version, or not what its checksum says.
    """
    from safetensors import SafetensorError, safe_open

    where = "[Neighbours.load] expected"
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            if _KEY not in metadata:
                raise ValueError(
                    f"{where} a file that Neighbours.save wrote, got {path} without {_KEY!r} in its header"
                )
            about = json.loads(metadata[_KEY])
            if about["version"] > VERSION:
                raise ValueError(
                    f"{where} a graph of version {VERSION} at most, got {path} of version {about['version']}, "
                    "from a newer repsim"
                )
            fields, sha256 = dict(about["fields"]), about["sha256"]
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except SafetensorError as error:
        raise ValueError(f"{where} a safetensors file, got {path}: {error}") from None
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{where} an undamaged graph, got {path} with a header that lacks sense: {error}") from None
    if _digest(arrays, fields) != sha256:
        raise ValueError(f"{where} an undamaged graph, got {path}, whose checksum is another")
    return arrays, fields


def _digest(arrays: Mapping[str, np.ndarray], fields: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(fields, sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
