"""Activations on disk: a folder with one `.npy` per layer, the sample ids, and a manifest.

    a.store/
        manifest.json        rows committed, layers, dtypes, metadata; SHA-256 of every file once finished
        ids.npy              int64 [n], unique, one per row of every layer
        000-conv1.npy        [n, d], one file per layer; numpy.load reads it without this package
        .lock                held by the one process that writes

The manifest's row count is the truth. An append writes the rows behind the committed ones, flushes them to
the disk, and only then replaces the manifest in one step: whatever moment a process dies at, the store opens with the
rows of the last commit. The row counts in the headers of the `.npy` files are rewritten after the commit: they never
promise a row that is not there. Nothing here reads a pickle.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from repsim.interchange import IDS_TENSOR, from_bfloat16, read_safetensors, write_safetensors
from repsim.layout import LAYER_FILE, MANIFEST, Column, Manifest, StoreCorruptedError, checked_append
from repsim.whole_files import left_behind, sync_folder, whole_file

__all__ = ["Store", "StoreCorruptedError", "StoreInUseError", "require_same_samples"]

LOCK = ".lock"


class StoreInUseError(RuntimeError):
    """Another writer holds this store."""


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

    def __init__(self, path: Path, manifest: Manifest, lock: IO[str] | None) -> None:
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
        manifest = Manifest(0, False, Column("", "ids.npy", "int64", None), (), dict(metadata or {}))
        try:
            as_json = json.loads(manifest.dumps())
        except (TypeError, ValueError) as error:
            raise type(error)(f"[Store.create] expected metadata that JSON can hold, got {error}") from None
        # Through JSON once, so that the metadata are the same now and after opening (tuples become lists).
        manifest = replace(manifest, metadata=as_json["metadata"])
        path.mkdir(parents=True, exist_ok=True)
        # A creation that was killed leaves the lock and perhaps the temporary manifest: those are no content.
        content = {*path.iterdir()} - {path / LOCK, *left_behind(path / MANIFEST)}
        if content:
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
            store = cls(path, Manifest.load(path / MANIFEST), lock)
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
        return self._manifest.ids.map(self.path, len(self))

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
        return self._layer(layer).map(self.path, len(self))

    def __repr__(self) -> str:
        state = "finished" if self.finished else "unfinished"
        return f"Store({str(self.path)!r}, {len(self)} rows, {len(self.layers)} layers, {state})"

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def dtype(self, layer: str) -> str:
        """The logical dtype of a layer.

            store.dtype("conv1")    # "float32"

        Args:
            layer: its name.
        Returns:
            "float16", "float32", "float64" or "bfloat16".
        Raises:
            ValueError: unknown layer.
        """
        return self._layer(layer).dtype

    def width(self, layer: str) -> int:
        """The number of features of a layer.

            store.width("conv1")    # 16

        Args:
            layer: its name.
        Returns:
            d, where `store[layer]` is [n, d].
        Raises:
            ValueError: unknown layer.
        """
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
        values = np.array(column.map(self.path, len(self))[rows])
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
        samples, arrays, layers = checked_append(ids, rows, self._manifest.layers)
        if self._known is None:
            self._known = _KnownIds(self.ids)
        repeated = self._known.repeated(samples)
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
                if entry.name == "ids.npy" or LAYER_FILE.fullmatch(entry.name):
                    entry.unlink()
        before, after = self._manifest, replace(self._manifest, layers=layers, rows=len(self) + len(samples))
        committed = before.rows if before.layers else None
        after.ids.append(self.path, samples, committed)
        for layer in layers:
            layer.append(self.path, arrays[layer.name], committed)
        if not before.layers:
            sync_folder(self.path)
        self._commit(after)
        self._known.add(samples)
        for column in after.columns:
            column.write_header(self.path, len(self))

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
            ids, *layers = (replace(column, sha256=column.digest(self.path)) for column in self._manifest.columns)
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
            digest = column.digest(self.path)
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
        if IDS_TENSOR in self:
            raise ValueError(
                f"[to_safetensors] expected no layer called {IDS_TENSOR!r}, got one: that is the name of the ids"
            )
        if path.exists():
            raise FileExistsError(f"[to_safetensors] expected a path that does not exist, got {path}")
        described = {"metadata": self._manifest.metadata, "layers": self.layers}
        metadata = {"repsim": json.dumps(described, allow_nan=False)}
        write_safetensors(path, self._manifest.columns, len(self), metadata, self._copy_checked)

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
        tensors, described = read_safetensors(Path(path))
        if (IDS_TENSOR in tensors) == (ids is not None):
            got = "neither" if ids is None else "both"
            raise ValueError(f"[from_safetensors] expected either ids or a tensor {IDS_TENSOR!r} in {path}, got {got}")
        samples = tensors.pop(IDS_TENSOR) if ids is None else ids
        order, metadata = list(tensors), dict(described)
        if "repsim" in described:
            content = json.loads(described["repsim"])
            order, metadata = content["layers"], content["metadata"]
            if sorted(order) != sorted(tensors):
                raise ValueError(
                    f"[from_safetensors] expected the tensors {sorted(order)} in {path}, got {sorted(tensors)}"
                )
        return cls.from_arrays(destination, samples, {name: tensors[name] for name in order}, metadata=metadata)

    def _layer(self, layer: str) -> Column:
        for column in self._manifest.layers:
            if column.name == layer:
                return column
        close = difflib.get_close_matches(str(layer), self.layers, n=3) or list(self.layers)[:8]
        raise ValueError(f"[Store] expected layer in {self.path}, such as {close}, got {layer!r}")

    def _require_writer(self, function: str) -> None:
        if self._lock is None:
            raise ValueError(f"[{function}] expected a store opened with mode 'a', got {self.path} open for reading")

    def _drop_uncommitted(self) -> None:
        """Make every file hold exactly the committed rows, and leave no other."""
        for file in left_behind(self.path / MANIFEST):
            file.unlink()
        for column in self._manifest.columns:
            column.cut(self.path, len(self))

    def _commit(self, manifest: Manifest) -> None:
        """Replace the manifest in one step; on any doubt whether that happened, stop writing."""
        try:
            with whole_file(self.path / MANIFEST) as temporary:
                temporary.write_text(manifest.dumps(), encoding="utf-8")
            self._manifest = manifest
        except BaseException:
            self.close()
            raise

    def _copy_checked(self, column: Column, out: IO[bytes]) -> None:
        if column.digest(self.path, out) != column.sha256:
            file = self.path / column.file
            raise StoreCorruptedError(
                f"[to_safetensors] expected {file} with its SHA-256, got another: it is corrupted"
            )


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
