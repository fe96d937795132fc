"""Grids on disk, each under a name made of all that it follows from: a comparison that was stopped goes on there."""

from __future__ import annotations

import functools
import hashlib
import json
import zipfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from .arrays import DeviceRows, Rows, SharedRows, found_once
from .measures.similarity import Grid
from .reductions import device_of
from .request import Request
from .whole_files import whole_file

_FORMAT = 1
_ARRAYS = ("values", "null_mean", "null_sd", "null_skewness", "p", "standard_error", "draws")


class SavedGrids:
    """Finished grids in a folder, keyed by content: measure, options, the numbers of the layers, version, GPU.

    Example::

        saved = SavedGrids("comparison/")
        key = saved.key(request, "cka", left, right)
        saved.write(key, grid)
        saved.read(key)                                 # the same grid, or None

    Raises
    ------
    NotADirectoryError: there is something else at ``folder``. It is made where there is nothing.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(f"[compare] expected resume as a folder, got a file at {self.folder}")
        self.folder.mkdir(parents=True, exist_ok=True)

    def key(self, request: Request, measure: str, left: Sequence[SharedRows], right: Sequence[SharedRows]) -> str:
        """The name of a grid; every layer is read once for it."""
        content: dict[str, Any] = {
            "format": _FORMAT,
            "repsim": _version(),
            "measure": measure,
            "asked": request.account(measure),
            "left": [_digest(rows) for rows in left],
            "right": [_digest(rows) for rows in right],
        }
        if isinstance(left[0], DeviceRows):  # whose last bits are its own
            content["device"] = device_of(left[0])
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]

    def read(self, key: str) -> Grid | None:
        """A grid that was saved; None where there is none.

        Raises
        ------
        ValueError: a damaged file.
        """
        path = self.folder / f"{key}.npz"
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                plain = json.loads(str(file["plain"]))
                arrays: dict[str, Any] = {name: file.get(name) for name in _ARRAYS}
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"[compare] expected a whole grid in {path}, got {error}; remove the file") from None
        options = {name: tuple(of) if isinstance(of, list) else of for name, of in plain.pop("options").items()}
        return Grid(**arrays, **plain, options=options)

    def write(self, key: str, grid: Grid) -> None:
        """Save a grid; it is there under its key only when it is whole."""
        arrays = {name: getattr(grid, name) for name in _ARRAYS if getattr(grid, name) is not None}
        plain: dict[str, Any] = {one.name: getattr(grid, one.name) for one in fields(grid) if one.name not in _ARRAYS}
        with whole_file(self.folder / f"{key}.npz") as temporary, open(temporary, "wb") as file:
            np.savez(file, plain=np.array(json.dumps(plain, default=str)), **arrays)


@found_once
def _digest(rows: Rows) -> str:
    """Of the numbers, their dtype and shape."""
    content = hashlib.blake2b(f"{rows.dtype} {(len(rows), rows.depth)}".encode(), digest_size=16)
    for part in rows.content():
        content.update(part.data)
    return content.hexdigest()


@functools.cache
def _version() -> str:
    from importlib import metadata  # some 30 ms, for which `import repsim` need not wait

    try:
        return metadata.version("repsim-exact")
    except metadata.PackageNotFoundError:  # run from its sources
        return "sources"
