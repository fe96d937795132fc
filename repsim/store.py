"""Activations on disk: a folder with one `.npy` per layer, the sample ids, and a manifest.

    a.store/
        manifest.json        rows committed, layers, dtypes, metadata; SHA-256 of every file once finished
        ids.npy              int64 [n], unique, one per row of every layer
        000-conv1.npy        [n, d], one file per layer; numpy.load reads it without this package
        .lock                held by the one process that writes

The manifest's row count is the truth. An append writes the rows behind the committed ones, flushes them to
the disk, and only then replaces the manifest in one step: whatever moment a process dies at, the store opens with the
rows of the last commit. The headers of the `.npy` files have a fixed length, so that the row count in them is rewritten
in place, after the commit: they never promise a row that is not there. Nothing here reads a pickle.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import os
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

MANIFEST = "manifest.json"
LOCK = ".lock"
HEADER_BYTES = 128
BLOCK_BYTES = 1 << 24  # what a write, an export or a checksum holds in memory at once

# Logical dtype -> what lies in the file and its name in safetensors. numpy has no bfloat16: its bits are put in uint16.
_STORAGE = {"float16": "<f2", "float32": "<f4", "float64": "<f8", "bfloat16": "<u2", "int64": "<i8"}
_SAFETENSORS = {"float16": "F16", "float32": "F32", "float64": "F64", "bfloat16": "BF16", "int64": "I64"}
_FLOATS = ("float16", "float32", "float64", "bfloat16")
_IDS_TENSOR = "repsim.ids"
_LAYER_FILE = re.compile(r"\d{3,}-[0-9A-Za-z._-]*\.npy")


class StoreInUseError(RuntimeError):
    """Another writer holds this store."""


class StoreCorruptedError(ValueError):
    """A file of the store is missing, truncated or not what its checksum says; the message names it."""


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """Round float32 values to bfloat16, ties to even, as bits in uint16.

        to_bfloat16(np.float32([1.0, 3.14159]))    # uint16 [2]: 0x3f80, 0x4049

    Args:
        values: float32, any shape.
    Returns:
        uint16 of the same shape. NaN stays NaN; a finite value beyond the range becomes infinite, as IEEE 754 rounds.
    Raises:
        TypeError: values are not float32.
    """
    if values.dtype != np.float32:
        raise TypeError(f"[to_bfloat16] expected values of dtype float32, got {values.dtype}")
    bits = np.ascontiguousarray(values).view(np.uint32).reshape(values.shape)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> 16) & 1))) >> 16
    # The carry above would turn some NaNs into zero or infinity: these keep their sign and become the quiet NaN.
    return np.where(np.isnan(values), (bits >> 16) | 0x0040, rounded).astype(np.uint16)


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    """Widen bfloat16 bits to the float32 of exactly the same value.

        from_bfloat16(np.uint16([0x3f80, 0x4049]))    # float32 [2]: 1.0, 3.140625

    Args:
        bits: uint16, any shape.
    Returns:
        float32 of the same shape.
    Raises:
        TypeError: bits are not uint16.
    """
    if bits.dtype != np.uint16:
        raise TypeError(f"[from_bfloat16] expected bits of dtype uint16, got {bits.dtype}")
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


@dataclass(frozen=True)
class _Column:
    """One file of the store: the ids (width None) or a layer."""

    name: str
    file: str
    dtype: str
    width: int | None
    sha256: str | None = None

    @property
    def storage(self) -> np.dtype:
        return np.dtype(_STORAGE[self.dtype])

    @property
    def row_bytes(self) -> int:
        return self.storage.itemsize * (1 if self.width is None else self.width)

    def shape(self, rows: int) -> tuple[int, ...]:
        return (rows,) if self.width is None else (rows, self.width)

    def size(self, rows: int) -> int:
        return HEADER_BYTES + rows * self.row_bytes

    def header(self, rows: int) -> bytes:
        text = f"{{'descr': '{_STORAGE[self.dtype]}', 'fortran_order': False, 'shape': {self.shape(rows)}, }}"
        body = text.encode("ascii").ljust(HEADER_BYTES - 11) + b"\n"
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(body)) + body

    def check(self, folder: Path, rows: int) -> None:
        """Refuse a file that does not hold the committed rows in the form the manifest says."""
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


@dataclass(frozen=True)
class _Manifest:
    rows: int
    finished: bool
    ids: _Column
    layers: tuple[_Column, ...]
    metadata: dict[str, Any]

    @property
    def columns(self) -> tuple[_Column, ...]:
        return (self.ids, *self.layers) if self.layers else ()

    def dumps(self) -> str:
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
    def load(cls, path: Path) -> _Manifest:
        try:
            content = json.loads(path.read_bytes())
            if (content["format"], content["version"]) != ("repsim-store", 1):
                raise ValueError(f"format {content['format']!r} version {content['version']!r}")
            ids = _Column("", "ids.npy", "int64", None, content["ids"]["sha256"])
            layers = tuple(_Column(**layer) for layer in content["layers"])
            for layer in layers:
                # The manifest may come from a stranger: no file outside of the folder, no dtype but ours.
                sized = type(layer.width) is int and layer.width > 0
                if not (sized and _LAYER_FILE.fullmatch(layer.file) and layer.dtype in _FLOATS):
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


class _KnownIds:
    """The ids a store holds, sorted; ids that only grow are queued, so that the usual append leaves them alone."""

    def __init__(self, ids: np.ndarray) -> None:
        self._sorted = np.sort(ids)
        self._queue: list[np.ndarray] = []
        self._largest = int(self._sorted[-1]) if len(ids) else None

    def repeated(self, ids: np.ndarray) -> int | None:
        """An id that occurs twice in `ids`, or once here and once there."""
        ordered = np.sort(ids)
        twice = ordered[1:][ordered[1:] == ordered[:-1]]
        if len(twice):
            return int(twice[0])
        if self._largest is None or ordered[0] > self._largest:
            return None
        if self._queue:
            self._sorted = np.sort(np.concatenate([self._sorted, *self._queue]), kind="stable")
            self._queue = []
        at = np.minimum(np.searchsorted(self._sorted, ordered), len(self._sorted) - 1)
        known = ordered[self._sorted[at] == ordered]
        return int(known[0]) if len(known) else None

    def add(self, ids: np.ndarray) -> None:
        self._queue.append(ids.copy())
        self._largest = int(max(ids.max(), ids.max() if self._largest is None else self._largest))


class Store:
    """Rows of activations with their sample ids, one array per layer, on disk.

        with Store.create("a.store", metadata={"model": "cnn"}) as store:
            store.append(ids, {"conv1": x, "conv2": y})      # ids [m] int, x [m, 16], y [m, 32]; as often as needed
            store.finish()
        store = Store.open("a.store")
        store["conv1"]                                       # read-only memmap [n, 16]; a slice reads only that slice

    One process writes at a time, any number read; a reader sees the rows committed when it opened. Not thread-safe.
    bfloat16 layers are kept as their bits: `store[layer]` is uint16 then, and `store.read` gives float32.
    """

    def __init__(self, path: Path, manifest: _Manifest, lock: IO[str] | None) -> None:
        """Use `Store.create` or `Store.open`."""
        self.path = path
        self._manifest = manifest
        self._lock = lock
        self._known: _KnownIds | None = None

    @classmethod
    def create(cls, path: str | Path, *, metadata: Mapping[str, Any] | None = None) -> Store:
        """Start a new store and hold it for writing.

            store = Store.create("a.store", metadata={"model": "cnn", "seed": 0})

        Args:
            path: a folder that does not exist or is empty; parents are made.
            metadata: anything JSON can say.
        Returns:
            An empty store, open for appending.
        Raises:
            FileExistsError: the path holds something already.
            StoreInUseError: another process is just creating it.
            TypeError, ValueError: the metadata are not JSON.
        """
        path = Path(path)
        manifest = _Manifest(0, False, _Column("", "ids.npy", "int64", None), (), dict(metadata or {}))
        try:
            as_json = json.loads(manifest.dumps())
        except (TypeError, ValueError) as error:
            raise type(error)(f"[Store.create] expected metadata that JSON can hold, got {error}") from None
        # Through JSON once, so that the metadata are the same now and after opening (tuples become lists).
        manifest = replace(manifest, metadata=as_json["metadata"])
        path.mkdir(parents=True, exist_ok=True)
        # A creation that was killed leaves the lock and perhaps the temporary manifest: those are no content.
        if any(entry.name not in (LOCK, MANIFEST + ".tmp") for entry in path.iterdir()):
            raise FileExistsError(f"[Store.create] expected path to be new or empty, got {path} with files in it")
        store = cls(path, manifest, _acquire(path))
        try:
            if (path / MANIFEST).exists():
                raise FileExistsError(f"[Store.create] expected path to be new or empty, got {path} with files in it")
            store._commit(manifest)
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def open(cls, path: str | Path, mode: str = "r") -> Store:
        """Open a store to read it ("r") or to continue it ("a").

            store = Store.open("a.store", "a")    # len(store) rows are safe; append the rest

        Args:
            path: the folder.
            mode: "r" touches nothing; "a" takes the lock and cuts off rows that were never committed.
        Returns:
            The store, with the rows of the last commit.
        Raises:
            FileNotFoundError: there is no store at this path.
            StoreInUseError: mode "a", and another writer holds it.
            StoreCorruptedError: a file is missing, truncated, of another dtype or width, or holds Python objects.
        """
        path = Path(path)
        if mode not in ("r", "a"):
            raise ValueError(f"[Store.open] expected mode 'r' or 'a', got {mode!r}")
        if mode == "a" and not (path / MANIFEST).exists():
            raise FileNotFoundError(f"[Store.open] expected a store, got {path} without a {MANIFEST}")
        lock = _acquire(path) if mode == "a" else None
        try:
            store = cls(path, _Manifest.load(path / MANIFEST), lock)
            for column in store._manifest.columns:
                column.check(path, len(store))
            if lock is not None and not store.finished:
                store._drop_uncommitted()
        except BaseException:
            if lock is not None:
                lock.close()
            raise
        return store

    @classmethod
    def from_arrays(
        cls,
        path: str | Path,
        ids: np.ndarray | Sequence[int],
        arrays: Mapping[str, np.ndarray],
        *,
        metadata: Mapping[str, Any] | None = None,
    ) -> Store:
        """Write a whole finished store in one call.

            store = Store.from_arrays("a.store", np.arange(1000), {"conv1": x, "conv2": y})    # x [1000, 16]

        Args:
            path, metadata: as in `Store.create`.
            ids, arrays: as in `append`; memmaps are copied in blocks, never loaded whole.
        Returns:
            The finished store, open for reading.
        Raises:
            As `Store.create` and `append` do.
        """
        with cls.create(path, metadata=metadata) as store:
            store.append(ids, arrays)
            store.finish()
        return store

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers, in the order of the first append."""
        return tuple(layer.name for layer in self._manifest.layers)

    @property
    def ids(self) -> np.ndarray:
        """Sample ids, int64 [n], read-only."""
        if not len(self):
            return np.empty(0, dtype=np.int64)
        return self._map(self._manifest.ids)

    @property
    def metadata(self) -> dict[str, Any]:
        """A copy of what `Store.create` was given."""
        return json.loads(json.dumps(self._manifest.metadata))

    @property
    def finished(self) -> bool:
        """Whether `finish` has sealed the store with checksums."""
        return self._manifest.finished

    @property
    def writable(self) -> bool:
        """Whether this object holds the store for writing."""
        return self._lock is not None

    def __len__(self) -> int:
        return self._manifest.rows

    def __contains__(self, layer: object) -> bool:
        return layer in self.layers

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __getitem__(self, layer: str) -> np.memmap:
        return self._map(self._layer(layer))

    def __repr__(self) -> str:
        state = "finished" if self.finished else "unfinished"
        return f"Store({str(self.path)!r}, {len(self)} rows, {len(self.layers)} layers, {state})"

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def dtype(self, layer: str) -> str:
        """The logical dtype of a layer: "float16", "float32", "float64" or "bfloat16"."""
        return self._layer(layer).dtype

    def width(self, layer: str) -> int:
        """The number of features of a layer."""
        return self._layer(layer).width or 0

    def read(self, layer: str, rows: slice | np.ndarray | Sequence[int] = slice(None)) -> np.ndarray:
        """Copy some rows of a layer into memory, bfloat16 widened to float32.

            store.read("conv1", slice(0, 256))    # [256, 16]

        Args:
            layer: its name.
            rows: a slice, positions or a mask; all rows by default.
        Returns:
            A new array [m, d], of the layer's dtype or float32.
        Raises:
            ValueError: unknown layer.
        """
        column = self._layer(layer)
        values = np.array(self._map(column)[rows])
        return from_bfloat16(values) if column.dtype == "bfloat16" else values

    def append(self, ids: np.ndarray | Sequence[int], rows: Mapping[str, np.ndarray]) -> None:
        """Add rows to every layer and commit them: after the return they survive a killed process or a power cut.

            store.append([3, 1, 7], {"conv1": x, "conv2": y})    # x [3, 16], y [3, 32]

        Args:
            ids: integers [m], m >= 1, none of them in the store yet.
            rows: layer name -> [m, d], float16, float32, float64 or bfloat16 (as uint16 bits). The first append fixes
                layers, dtypes and widths.
        Raises:
            ValueError: not open for writing; an id twice; another set of layers, dtype, width or number of rows.
            TypeError: ids that are not integers, rows that are not arrays of a supported dtype.
            StoreCorruptedError: a finished store is verified before it grows, and a file was corrupted.
        """
        self._require_writer("append")
        ids = _checked_ids(ids)
        arrays = {name: _checked_rows(name, values) for name, values in rows.items()}
        layers = self._manifest.layers or _layout(arrays)
        _require_layout(arrays, layers, len(ids))
        if self._known is None:
            self._known = _KnownIds(self.ids)
        repeated = self._known.repeated(ids)
        if repeated is not None:
            raise ValueError(f"[append] expected ids that occur once in the store, got {repeated} again")
        if self.finished:
            # New checksums must not bless a corruption that the old ones would have shown.
            self.verify()
            layers = tuple(replace(layer, sha256=None) for layer in layers)
            ids_column = replace(self._manifest.ids, sha256=None)
            self._commit(replace(self._manifest, finished=False, ids=ids_column, layers=layers))
        if not self._manifest.layers:
            # What a failed first append has left: the manifest does not know it, and this one may have other layers.
            for entry in list(self.path.iterdir()):
                if entry.name == "ids.npy" or _LAYER_FILE.fullmatch(entry.name):
                    entry.unlink()
        before, after = self._manifest, replace(self._manifest, layers=layers, rows=len(self) + len(ids))
        self._write(after.ids, ids, before)
        for layer in layers:
            self._write(layer, arrays[layer.name], before)
        if not before.layers:
            _sync_folder(self.path)
        self._commit(after)
        self._known.add(ids)
        for column in after.columns:
            self._write_header(column, len(self))

    def finish(self) -> Store:
        """Seal the store with the SHA-256 of every file and give up writing.

            store.finish()    # store.finished, store["conv1"] still readable

        Returns:
            The store itself, read-only from now on.
        Raises:
            ValueError: not open for writing, or empty.
        """
        self._require_writer("finish")
        if not len(self):
            raise ValueError(f"[finish] expected at least one row in {self.path}, got an empty store")
        if not self.finished:
            self._drop_uncommitted()
            ids, *layers = (replace(column, sha256=self._digest(column)) for column in self._manifest.columns)
            self._commit(replace(self._manifest, finished=True, ids=ids, layers=tuple(layers)))
        self.close()
        return self

    def close(self) -> None:
        """Give up writing without sealing; what was appended stays, and the store can be continued later."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def verify(self) -> None:
        """Read every file and compare it with its checksum.

            Store.open("a.store").verify()

        Raises:
            ValueError: the store is unfinished, so that there are no checksums.
            StoreCorruptedError: a file is missing or differs; the message names it.
        """
        if not self.finished:
            raise ValueError(f"[verify] expected a finished store, got {self.path} unfinished with {len(self)} rows")
        for column in self._manifest.columns:
            column.check(self.path, len(self))
            digest = self._digest(column)
            if digest != column.sha256:
                file = self.path / column.file
                raise StoreCorruptedError(
                    f"[verify] expected {file} with SHA-256 {column.sha256}, got {digest}: it is corrupted"
                )

    def to_safetensors(self, path: str | Path) -> None:
        """Write the store into one safetensors file, block by block, checking the checksums on the way.

            store.to_safetensors("a.safetensors")    # one tensor [n, d] per layer and the ids as "repsim.ids" [n]

        Args:
            path: the file; it must not exist.
        Raises:
            ValueError: the store is unfinished, or a layer is called "repsim.ids".
            FileExistsError: the path exists.
            StoreCorruptedError: a file differs from its checksum; nothing is left at the path.
        """
        path = Path(path)
        if not self.finished:
            raise ValueError(
                f"[to_safetensors] expected a finished store, got {self.path} unfinished with {len(self)} rows"
            )
        if _IDS_TENSOR in self:
            raise ValueError(
                f"[to_safetensors] expected no layer called {_IDS_TENSOR!r}, got one: that is the name of the ids"
            )
        if path.exists():
            raise FileExistsError(f"[to_safetensors] expected a path that does not exist, got {path}")
        described = {"metadata": self._manifest.metadata, "layers": self.layers}
        header: dict[str, Any] = {"__metadata__": {"repsim": json.dumps(described, allow_nan=False)}}
        # Wide elements first: every tensor then starts at a multiple of its element size.
        columns = sorted(self._manifest.columns, key=lambda column: -column.storage.itemsize)
        offset = 0
        for column in columns:
            end = offset + len(self) * column.row_bytes
            name = column.name or _IDS_TENSOR
            shape = column.shape(len(self))
            header[name] = {"dtype": _SAFETENSORS[column.dtype], "shape": shape, "data_offsets": [offset, end]}
            offset = end
        text = json.dumps(header).encode()
        text = text.ljust(-(-len(text) // 8) * 8)
        temporary = path.with_name(path.name + ".tmp")
        try:
            with open(temporary, "wb") as out:
                out.write(struct.pack("<Q", len(text)) + text)
                for column in columns:
                    if self._digest(column, out) != column.sha256:
                        file = self.path / column.file
                        raise StoreCorruptedError(
                            f"[to_safetensors] expected {file} with its SHA-256, got another: it is corrupted"
                        )
                out.flush()
                os.fsync(out.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def from_safetensors(
        cls, path: str | Path, destination: str | Path, *, ids: np.ndarray | Sequence[int] | None = None
    ) -> Store:
        """Make a finished store of a safetensors file, block by block.

            store = Store.from_safetensors("a.safetensors", "a.store")

        Args:
            path: the file; every tensor [n, d] is F16, BF16, F32 or F64.
            destination: folder of the new store.
            ids: integers [n] for a file of another program, which has none.
        Returns:
            The finished store, open for reading, with the metadata of the file.
        Raises:
            ValueError: a damaged or unsuited file, no ids or ids twice over.
            FileExistsError: the destination holds something already.
        """
        tensors, described = _open_safetensors(Path(path))
        if (_IDS_TENSOR in tensors) == (ids is not None):
            got = "neither" if ids is None else "both"
            raise ValueError(f"[from_safetensors] expected either ids or a tensor {_IDS_TENSOR!r} in {path}, got {got}")
        samples = tensors.pop(_IDS_TENSOR) if ids is None else ids
        order, metadata = list(tensors), dict(described)
        if "repsim" in described:
            content = json.loads(described["repsim"])
            order, metadata = content["layers"], content["metadata"]
            if sorted(order) != sorted(tensors):
                raise ValueError(
                    f"[from_safetensors] expected the tensors {sorted(order)} in {path}, got {sorted(tensors)}"
                )
        return cls.from_arrays(destination, samples, {name: tensors[name] for name in order}, metadata=metadata)

    def _layer(self, layer: str) -> _Column:
        for column in self._manifest.layers:
            if column.name == layer:
                return column
        close = difflib.get_close_matches(str(layer), self.layers, n=3) or list(self.layers)[:8]
        raise ValueError(f"[Store] expected layer in {self.path}, such as {close}, got {layer!r}")

    def _map(self, column: _Column) -> np.memmap:
        shape = column.shape(len(self))
        return np.memmap(self.path / column.file, dtype=column.storage, mode="r", offset=HEADER_BYTES, shape=shape)

    def _require_writer(self, function: str) -> None:
        if self._lock is None:
            raise ValueError(f"[{function}] expected a store opened with mode 'a', got {self.path} open for reading")

    def _write(self, column: _Column, values: np.ndarray, before: _Manifest) -> None:
        """Put rows behind the committed ones and flush them; the header still tells the old count."""
        with open(self.path / column.file, "r+b" if before.layers else "wb", buffering=0) as file:
            if not before.layers:
                _write_all(file, column.header(0))
            file.seek(column.size(before.rows))  # over what a failed append may have left
            step = max(1, BLOCK_BYTES // column.row_bytes)
            for start in range(0, len(values), step):
                block = np.ascontiguousarray(values[start : start + step], dtype=column.storage)
                _write_all(file, block.reshape(-1).view(np.uint8).data)
            os.fsync(file.fileno())

    def _write_header(self, column: _Column, rows: int) -> None:
        # 128 bytes at the start of the file lie in one disk sector: the header is the old one or the new one.
        with open(self.path / column.file, "r+b", buffering=0) as file:
            _write_all(file, column.header(rows))

    def _drop_uncommitted(self) -> None:
        """Make every file hold exactly the committed rows."""
        for column in self._manifest.columns:
            self._write_header(column, len(self))
            with open(self.path / column.file, "r+b") as file:
                file.truncate(column.size(len(self)))
                os.fsync(file.fileno())

    def _commit(self, manifest: _Manifest) -> None:
        """Replace the manifest in one step; on any doubt whether that happened, stop writing."""
        temporary = self.path / (MANIFEST + ".tmp")
        try:
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(manifest.dumps())
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path / MANIFEST)
            self._manifest = manifest
            _sync_folder(self.path)
        except BaseException:
            self.close()
            raise

    def _digest(self, column: _Column, out: IO[bytes] | None = None) -> str:
        """SHA-256 of a whole file, its rows copied to `out` in the same pass."""
        digest = hashlib.sha256()
        with open(self.path / column.file, "rb") as file:
            digest.update(file.read(HEADER_BYTES))
            while block := file.read(BLOCK_BYTES):
                digest.update(block)
                if out is not None:
                    out.write(block)
        return digest.hexdigest()


def require_same_samples(a: Store, b: Store) -> None:
    """Refuse two stores whose rows are not the same samples in the same order.

        require_same_samples(Store.open("a.store"), Store.open("b.store"))

    Args:
        a, b: the stores, n rows each.
    Raises:
        ValueError: another number of rows, or another id at some position; the first such position is named.
    """
    if len(a) != len(b):
        raise ValueError(f"[require_same_samples] expected {b.path} with {len(a)} samples like {a.path}, got {len(b)}")
    first, second = np.asarray(a.ids), np.asarray(b.ids)
    differs = np.flatnonzero(first != second)
    if len(differs):
        at = int(differs[0])
        same = (
            "the same samples in another order" if np.array_equal(np.sort(first), np.sort(second)) else "other samples"
        )
        raise ValueError(
            f"[require_same_samples] expected {b.path} with id {first[at]} at position {at} like {a.path}, "
            f"got id {second[at]}: {same}, {len(differs)} of {len(first)} positions differ"
        )


def _acquire(folder: Path) -> IO[str]:
    """Take the folder's lock; the operating system gives it back when the process ends, however it ends."""
    import fcntl  # not on Windows, where stores can still be read

    handle = open(folder / LOCK, "a+", encoding="ascii")  # noqa: SIM115 (open as long as the lock is held)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        handle.seek(0)
        owner = handle.read().strip() or "unknown"
        handle.close()
        raise StoreInUseError(
            f"[Store] expected {folder} to be free for writing, got it in use by process {owner}"
        ) from None
    except BaseException:
        handle.close()
        raise
    handle.truncate(0)
    handle.write(str(os.getpid()))
    handle.flush()
    return handle


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


def _layout(rows: Mapping[str, np.ndarray]) -> tuple[_Column, ...]:
    """Columns of a first append; the number keeps apart names that are one as files (a/b, a_b, A_b on some disks)."""
    if not rows:
        raise ValueError("[append] expected rows of at least one layer, got none")
    columns = []
    for number, (name, values) in enumerate(rows.items()):
        safe = re.sub(r"[^0-9A-Za-z._-]+", "_", name)[:80]
        dtype = "bfloat16" if values.dtype == np.uint16 else values.dtype.name
        columns.append(_Column(name, f"{number:03d}-{safe}.npy", dtype, values.shape[1]))
    return tuple(columns)


def _require_layout(rows: Mapping[str, np.ndarray], layers: tuple[_Column, ...], count: int) -> None:
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


def _open_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Map the tensors of a file without reading them; the header comes from a stranger and is checked."""
    storage = {code: _STORAGE[dtype] for dtype, code in _SAFETENSORS.items()}
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if length > min(size - 8, 100_000_000):
            raise ValueError(
                f"[from_safetensors] expected a safetensors file, got {path} without a valid header length"
            )
        try:
            header = json.loads(file.read(length))
            described = header.pop("__metadata__", {})
            tensors: dict[str, np.ndarray] = {}
            end = 0
            for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
                shape, (start, stop) = tuple(entry["shape"]), entry["data_offsets"]
                code, suited = entry["dtype"], ("I64",) if name == _IDS_TENSOR else ("F16", "BF16", "F32", "F64")
                if code not in suited or len(shape) != (1 if name == _IDS_TENSOR else 2):
                    raise ValueError(f"tensor {name!r} of {code} {list(shape)}, not [n, d] of F16, BF16, F32 or F64")
                dtype = np.dtype(storage[code])
                fits = stop - start == math.prod(shape) * dtype.itemsize and stop <= size - 8 - length
                if start != end or stop <= start or not fits:
                    raise ValueError(f"tensor {name!r} at bytes {start} to {stop}, which are not its own")
                tensors[name] = np.memmap(path, dtype=dtype, mode="r", offset=8 + length + start, shape=shape)
                end = stop
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"[from_safetensors] expected a suited safetensors file, got {path} with {error}"
            ) from None
    return tensors, described
