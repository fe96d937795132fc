"""What ``repsim compare`` takes: stores, safetensors, .npy and .npz files, as layers of rows that are read in place."""

from __future__ import annotations

import fnmatch
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from repsim.arrays import Rows, as_rows
from repsim.interchange import IDS_TENSOR, read_safetensors
from repsim.store import Store, require_same_samples

SUFFIXES = (".safetensors", ".npy", ".npz")
_DAMAGE = (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error)  # what numpy refuses a file with


@dataclass(frozen=True)
class Side:
    """One side of a comparison: its layers by name, not yet read, and sample ids where it has some.

    ``letter`` is what messages call it: a letter, or the name of a model.
    ``data`` is the SHA-256 of the inputs that its store was extracted from, where it says so.
    """

    path: Path
    letter: str
    source: Any
    names: tuple[str, ...]
    ids: np.ndarray | None = None
    data: str | None = None

    def rows(self, patterns: Sequence[str] | None) -> dict[str, Rows]:
        """The layers that a name or pattern fits, all without any, as rows. Raises: TypeError, ValueError: no rows."""
        fit = [name for name in self.names if patterns is None or any(_fits(name, one) for one in patterns)]
        if not fit:
            raise ValueError(
                f"[compare] expected layers of {self.path}, such as {', '.join(self.names[:8])}, "
                f"got {', '.join(patterns or ())}"
            )
        return {name: self._rows(name) for name in fit}

    def _rows(self, name: str) -> Rows:
        label = f"{self.letter}[{name!r}]"
        try:
            values = self.source[name]
        except _DAMAGE as error:  # of an archive only this array may be damaged, or hold objects
            raise ValueError(
                f"[compare] expected an array without pickles as {name!r} of {self.path}, got {error}"
            ) from None
        if isinstance(self.source, Store):
            return Rows(values, self.source.dtype(name), label)
        if self.path.suffix == ".safetensors" and values.dtype == np.uint16:
            return Rows(values, "bfloat16", label)
        return as_rows(values, function="compare", name=label)


def open_side(path: Path, letter: str) -> Side:
    """Open one side without reading its rows.

    Example: ``open_side(Path("a.npz"), "a").names == ("conv1", "conv2")``.

    Parameters: ``path``, a store's folder or a .safetensors, .npy or .npz file; ``letter``, what messages call it.
    Returns: a Side.
    Raises: FileNotFoundError, ValueError: nothing there, another kind of file, a damaged one, or one with pickles.
    """
    if path.is_dir():
        store = Store.open(path)
        data = store.metadata.get("extraction", {})
        return Side(path, letter, store, store.layers, store.ids, data.get("data_sha256") if data else None)
    if not path.exists():
        raise FileNotFoundError(f"[compare] expected a store or a file, got nothing at {path}")
    suffix = path.suffix
    if suffix not in SUFFIXES:
        raise ValueError(f"[compare] expected a store or a {', '.join(SUFFIXES)} file, got {path}")
    if suffix == ".safetensors":
        tensors, _ = read_safetensors(path)
        ids = tensors.pop(IDS_TENSOR, None)
        return Side(path, letter, tensors, tuple(tensors), ids)
    try:
        # A pickle can run anything: none is read.
        loaded = np.load(path, mmap_mode="r" if suffix == ".npy" else None, allow_pickle=False)
    except _DAMAGE as error:
        raise ValueError(f"[compare] expected arrays without pickles in {path}, got {error}") from None
    arrays: Mapping[str, np.ndarray] = loaded if suffix == ".npz" else {path.stem: loaded}
    return Side(path, letter, arrays, tuple(arrays))


def require_same_inputs(sides: Sequence[Side], patterns: Sequence[str] | None) -> None:
    """Refuse sides whose sample ids differ from those of the first that has some, and patterns that fit no layer.

    Raises: ValueError, which names the first position that differs, or the pattern.
    """
    for pattern in patterns or ():
        if not any(_fits(name, pattern) for side in sides for name in side.names):
            paths = " or ".join(str(side.path) for side in sides)
            raise ValueError(f"[compare] expected layers of {paths}, got {pattern!r}")
    known = [side for side in sides if side.ids is not None]
    for other in known[1:]:
        _require_same_samples(known[0], other)


def _require_same_samples(a: Side, b: Side) -> None:
    if isinstance(a.source, Store) and isinstance(b.source, Store):
        require_same_samples(a.source, b.source)
    elif a.ids is not None and b.ids is not None and not np.array_equal(a.ids, b.ids):
        same = min(len(a.ids), len(b.ids))
        at = int(np.argmax(np.append(a.ids[:same] != b.ids[:same], True)))
        got = f"id {b.ids[at]}, not {a.ids[at]}, at position {at}" if at < same else f"{len(b.ids)}, not {len(a.ids)}"
        raise ValueError(f"[compare] expected {b.path} with the samples of {a.path}, got {got}")


def _fits(name: str, pattern: str) -> bool:
    return name == pattern or fnmatch.fnmatchcase(name, pattern)
