"""How a store lies on disk: one `.npy` per column (the sample ids, every layer) and the manifest that counts the rows.

The headers of the `.npy` files have a fixed length, so that the row count in them is rewritten in place. Nothing here
reads a pickle.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

MANIFEST = "manifest.json"
HEADER_BYTES = 128
BLOCK_BYTES = 1 << 24  # what a write, an export or a checksum holds in memory at once
LAYER_FILE = re.compile(r"\d{3,}-[0-9A-Za-z._-]*\.npy")

# Logical dtype -> what lies in the file. numpy has no bfloat16: its bits are put in uint16.
STORAGE = {"float16": "<f2", "float32": "<f4", "float64": "<f8", "bfloat16": "<u2", "int64": "<i8"}
_FLOATS = ("float16", "float32", "float64", "bfloat16")


class StoreCorruptedError(ValueError):
    """A file of the store is missing, truncated or not what its checksum says; the message names it."""


@dataclass(frozen=True)
class Column:
    """One file of the store: the ids (width None) or a layer; `folder` is the store's, `rows` what it has committed."""

    name: str
    file: str
    dtype: str
    width: int | None
    sha256: str | None = None

    @property
    def storage(self) -> np.dtype:
        """The dtype of what lies in the file."""
        return np.dtype(STORAGE[self.dtype])

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.storage.itemsize * (1 if self.width is None else self.width)

    def shape(self, rows: int) -> tuple[int, ...]:
        """[rows] of the ids, [rows, width] of a layer."""
        return (rows,) if self.width is None else (rows, self.width)

    def size(self, rows: int) -> int:
        """Bytes of the file."""
        return HEADER_BYTES + rows * self.row_bytes

    def header(self, rows: int) -> bytes:
        """What a .npy of version 1.0 begins with, padded to HEADER_BYTES."""
        text = f"{{'descr': '{STORAGE[self.dtype]}', 'fortran_order': False, 'shape': {self.shape(rows)}, }}"
        body = text.encode("ascii").ljust(HEADER_BYTES - 11) + b"\n"
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(body)) + body

    def check(self, folder: Path, rows: int) -> None:
        """Raise StoreCorruptedError unless the file holds the committed rows in the form the manifest says."""
        path = folder / self.file
        try:
            with open(path, "rb") as file:
                if np.lib.format.read_magic(file) != (1, 0):
                    raise ValueError("a .npy of another version")
                shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
                start, size = file.tell(), os.fstat(file.fileno()).st_size
        except FileNotFoundError:
            raise StoreCorruptedError(f"[Store] expected {self.file} in {folder}, got no such file") from None
        except ValueError as error:
            raise StoreCorruptedError(
                f"[Store] expected a .npy header in {path}, got {error}".replace("\n", " ")
            ) from None
        if dtype.hasobject:
            raise StoreCorruptedError(f"[Store] expected {self.dtype} in {path}, got Python objects: no pickle is read")
        if (dtype, fortran, shape[1:], start) != (self.storage, False, self.shape(0)[1:], HEADER_BYTES):
            raise StoreCorruptedError(
                f"[Store] expected {self.dtype} {self.shape(rows)} in {path}, got {dtype} {shape}"
            )
        # The row count in the header may be behind (a writer died after its commit) or ahead (one is at work).
        if size < self.size(rows):
            raise StoreCorruptedError(
                f"[Store] expected {self.size(rows)} bytes in {path}, got {size}: it is truncated"
            )

    def map(self, folder: Path, rows: int) -> np.memmap:
        """The committed rows, read-only."""
        return np.memmap(folder / self.file, self.storage, mode="r", offset=HEADER_BYTES, shape=self.shape(rows))

    def append(self, folder: Path, values: np.ndarray, rows: int | None) -> None:
        """Put values behind the rows (None: into a new file) and flush them; the header still tells the old count."""
        with open(folder / self.file, "wb" if rows is None else "r+b", buffering=0) as file:
            if rows is None:
                _write_all(file, self.header(0))
            file.seek(self.size(rows or 0))  # over what a failed append may have left
            step = max(1, BLOCK_BYTES // self.row_bytes)
            for start in range(0, len(values), step):
                block = np.ascontiguousarray(values[start : start + step], dtype=self.storage)
                _write_all(file, block.reshape(-1).view(np.uint8).data)
            os.fsync(file.fileno())

    def write_header(self, folder: Path, rows: int) -> None:
        """Make the header tell so many rows."""
        # 128 bytes at the start of the file lie in one disk sector: the header is the old one or the new one.
        with open(folder / self.file, "r+b", buffering=0) as file:
            _write_all(file, self.header(rows))

    def cut(self, folder: Path, rows: int) -> None:
        """Make the file hold exactly so many rows."""
        self.write_header(folder, rows)
        with open(folder / self.file, "r+b") as file:
            file.truncate(self.size(rows))
            os.fsync(file.fileno())

    def digest(self, folder: Path, out: IO[bytes] | None = None) -> str:
        """SHA-256 of the whole file, its rows copied to `out` in the same pass."""
        digest = hashlib.sha256()
        with open(folder / self.file, "rb") as file:
            digest.update(file.read(HEADER_BYTES))
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
                if out is not None:
                    out.write(block)
        return digest.hexdigest()


@dataclass(frozen=True)
class Manifest:
    """What the store has committed: rows, columns, whether it is sealed, and the user's metadata."""

    rows: int
    finished: bool
    ids: Column
    layers: tuple[Column, ...]
    metadata: dict[str, Any]

    @property
    def columns(self) -> tuple[Column, ...]:
        """The ids and all layers; nothing before the first append."""
        return (self.ids, *self.layers) if self.layers else ()

    def dumps(self) -> str:
        """The manifest as JSON."""
        content = {
            "format": "repsim-store",
            "version": 1,
            "rows": self.rows,
            "finished": self.finished,
            "ids": {"file": self.ids.file, "sha256": self.ids.sha256},
            "layers": [vars(layer) for layer in self.layers],
            "metadata": self.metadata,
        }
        return json.dumps(content, indent=1, allow_nan=False) + "\n"

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Read a manifest, which may come from a stranger; StoreCorruptedError where it is not one of ours."""
        try:
            content = json.loads(path.read_bytes())
            if (content["format"], content["version"]) != ("repsim-store", 1):
                raise ValueError(f"format {content['format']!r} version {content['version']!r}")
            ids = Column("", "ids.npy", "int64", None, content["ids"]["sha256"])
            layers = tuple(Column(**layer) for layer in content["layers"])
            for layer in layers:
                # No file outside of the folder, no dtype but ours.
                sized = type(layer.width) is int and layer.width > 0
                if not (sized and LAYER_FILE.fullmatch(layer.file) and layer.dtype in _FLOATS):
                    raise ValueError(f"layer {vars(layer)}")
            if not len({layer.name for layer in layers}) == len({layer.file for layer in layers}) == len(layers):
                raise ValueError("two layers of one name")
            rows = content["rows"]
            if type(rows) is not int or rows < 0 or (rows > 0) != bool(layers):
                raise ValueError(f"{rows!r} rows of {len(layers)} layers")
            return cls(rows, content["finished"] is True, ids, layers, dict(content["metadata"]))
        except FileNotFoundError:
            raise FileNotFoundError(f"[Store.open] expected a store, got {path.parent} without a {MANIFEST}") from None
        except (ValueError, TypeError, KeyError) as error:
            raise StoreCorruptedError(
                f"[Store.open] expected a manifest of version 1 in {path}, got {error!r}"
            ) from None


def checked_append(
    ids: np.ndarray | Sequence[int], rows: Mapping[str, np.ndarray], layers: tuple[Column, ...]
) -> tuple[np.ndarray, dict[str, np.ndarray], tuple[Column, ...]]:
    """What an append may write: ids and rows that fit each other and the layers there are.

        ids, arrays, layers = checked_append([3, 1], {"conv1": x}, ())    # x [2, 16]

    Args:
        ids, rows: as in `Store.append`.
        layers: the store's; empty before the first append, whose rows then make them.
    Returns:
        (int64 ids [m], layer name -> rows [m, d] in a storable dtype, layers).
    Raises:
        TypeError, ValueError: as in `Store.append`.
    """
    samples = _checked_ids(ids)
    arrays = {name: _checked_rows(name, values) for name, values in rows.items()}
    layers = layers or _columns_of(arrays)
    _require_columns(arrays, layers, len(samples))
    return samples, arrays, layers


def _write_all(file: IO[bytes], data: bytes | memoryview) -> None:
    view = memoryview(data)
    while len(view):
        view = view[file.write(view) :]


def _checked_ids(ids: np.ndarray | Sequence[int]) -> np.ndarray:
    array = np.asarray(ids)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"[append] expected ids of shape [m] with m >= 1, got {list(array.shape)}")
    if array.dtype.kind not in "iu":
        raise TypeError(f"[append] expected integer ids, got {array.dtype}")
    if array.dtype.kind == "u" and int(array.max()) > np.iinfo(np.int64).max:
        raise ValueError(f"[append] expected ids that fit into int64, got {int(array.max())}")
    return array.astype(np.int64)


def _checked_rows(name: object, values: object) -> np.ndarray:
    if not isinstance(name, str) or not name:
        raise TypeError(f"[append] expected layer names that are non-empty strings, got {name!r}")
    if not isinstance(values, np.ndarray):
        raise TypeError(f"[append] expected rows[{name!r}] as a numpy array, got {type(values).__name__}")
    if values.dtype.name == "bfloat16":
        values = values.view(np.uint16)  # another package's bfloat16 and our bits are the same bytes
    if values.dtype.newbyteorder("<").str not in ("<f2", "<f4", "<f8", "<u2"):
        got = values.dtype
        raise TypeError(
            f"[append] expected rows[{name!r}] of float16, float32, float64 or bfloat16 as uint16, got {got}"
        )
    if values.ndim != 2 or not values.shape[1]:
        raise ValueError(f"[append] expected rows[{name!r}] of shape [m, d] with d >= 1, got {list(values.shape)}")
    return values


def _columns_of(rows: Mapping[str, np.ndarray]) -> tuple[Column, ...]:
    """Columns of a first append; the number keeps apart names that are one as files (a/b, a_b, A_b on some disks)."""
    if not rows:
        raise ValueError("[append] expected rows of at least one layer, got none")
    columns = []
    for number, (name, values) in enumerate(rows.items()):
        safe = re.sub(r"[^0-9A-Za-z._-]+", "_", name)[:80]
        dtype = "bfloat16" if values.dtype == np.uint16 else values.dtype.name
        columns.append(Column(name, f"{number:03d}-{safe}.npy", dtype, values.shape[1]))
    return tuple(columns)


def _require_columns(rows: Mapping[str, np.ndarray], layers: tuple[Column, ...], count: int) -> None:
    names = [layer.name for layer in layers]
    if set(rows) != set(names):
        raise ValueError(f"[append] expected rows of exactly the layers {names}, got {list(rows)}")
    for layer in layers:
        values = rows[layer.name]
        if values.shape != (count, layer.width):
            got = list(values.shape)
            raise ValueError(f"[append] expected rows[{layer.name!r}] of shape {[count, layer.width]}, got {got}")
        if values.dtype.newbyteorder("<") != layer.storage:
            raise TypeError(f"[append] expected rows[{layer.name!r}] of {layer.dtype} as before, got {values.dtype}")
