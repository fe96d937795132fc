"""What a run leaves on disk: a manifest, one JSON record per cell, and the table merged from them.

    run/manifest.json       studies, configurations, environment, workers, threads, command
    run/cells.json          every cell of the run, in order, with what it needs
    run/records/KEY.json    a finished cell          run/failures/KEY.json   a failed or skipped one
    run/models/             weights by key           run/artifacts/          pictures and other files by name
    run/table.parquet, table.csv, effects.json, report.html

A file appears under its final name only when it is complete: it is written beside it, flushed to the disk and renamed.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

DISTRIBUTION = "repsim-exact"
LIBRARIES = (
    "numpy", "scipy", "scikit-learn", "torch", "transformers", "tokenizers", "peft", "safetensors", "pyarrow",
)  # fmt: skip
FOLDERS = ("records", "failures", "artifacts", "models")
LOCK = "lock"


class RunError(Exception):
    """A run cannot go on for a reason its user can remove; the message is one line."""


class DirectoryInUseError(RunError):
    """Another process holds the run's directory."""


def content_key(payload: Mapping[str, Any]) -> str:
    """The name of a configuration by what it says: equal contents have equal keys, in any order of fields.

    Example: ``content_key({"alpha": 1.0, "seed": 0}) == content_key({"seed": 0, "alpha": 1})``, 16 hexadecimal digits.

    Parameters: ``payload``, JSON values with text keys; tuples count as lists, and numbers by value (1 is 1.0).
    Returns: the first 16 digits of the SHA-256 of the canonical JSON.
    Raises: ValueError for NaN or infinity, TypeError for what JSON cannot hold; both name the field.
    """
    text = json.dumps(_canonical(payload, "payload"), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _canonical(value: Any, where: str) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"[content_key] expected finite numbers, got {value} at {where}")
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise TypeError(f"[content_key] expected text as field names, got {name!r} at {where}")
        return {name: _canonical(item, f"{where}.{name}") for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise TypeError(f"[content_key] expected JSON values, got {type(value).__name__} at {where}")


def plain(value: Any, where: str = "record") -> Any:
    """A value as JSON holds it: arrays and numpy scalars become lists and numbers, NaN and infinity become null.

    Example: ``plain({"loss": np.float32("nan"), "ids": np.arange(2)}) == {"loss": None, "ids": [0, 1]}``.

    Parameters: ``value``, numbers, text, arrays, lists or mappings of them; ``where``, its name in an error message.
    Returns: the same as None, text, numbers, lists and dictionaries.
    Raises: TypeError naming the field that JSON cannot hold.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(name): plain(item, f"{where}.{name}") for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise TypeError(f"[plain] expected numbers, text, lists or mappings, got {type(value).__name__} at {where}")


def without_home(text: str) -> str:
    """The text with the user's home directory written as ``~``, so that a shared run names nobody.

    Example: ``without_home("/home/ada/digits.py") == "~/digits.py"`` for the user ada.

    Parameters: ``text``, anything. Returns: the text, changed where it names the directory.
    """
    home = str(Path.home())
    return text.replace(home, "~") if len(home) > 1 else text


def now() -> str:
    """This moment in UTC. Returns: ISO 8601 to the second. Example: ``now() == "2025-01-31T09:30:00+00:00"``."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def environment() -> dict[str, Any]:
    """What a result may depend on besides its configuration: versions, processor, device and commit; imports nothing.

    Example: ``environment()["versions"]["torch"] == "2.9.0"``.

    Returns: JSON values; ``commit`` and ``dirty`` are None where the package is not in a git checkout of its own.
    """
    versions = {name: _version(name) for name in ("repsim", *LIBRARIES)}
    gpus = _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    commit, dirty = _commit()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _processor(),
        "cpus": os.cpu_count(),
        "device": gpus.splitlines()[0] if gpus and "+cpu" not in (versions["torch"] or "") else "cpu",
        "versions": versions,
        "commit": commit,
        "dirty": dirty,
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(DISTRIBUTION if name == "repsim" else name)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _commit() -> tuple[str | None, bool | None]:
    here = Path(__file__).resolve()
    top = _output("git", "-C", str(here.parent), "rev-parse", "--show-toplevel")
    # An installed package can lie inside somebody else's checkout (a virtual environment in a project).
    if not top or Path(top).resolve() != here.parent.parent:
        return None, None
    commit = _output("git", "-C", top, "rev-parse", "HEAD")
    return (commit, bool(_output("git", "-C", top, "status", "--porcelain"))) if commit else (None, None)


def _output(*command: str) -> str | None:
    with suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL)
        return done.stdout.strip() if done.returncode == 0 else None
    return None


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file that is either whole under its name or not there, also after a power cut.

    Example: ``write_atomic(run.path / "report.html", page.encode())``.

    Parameters: ``path``, the file, in a folder that exists; ``data``, all of its bytes.
    Raises: RunError naming the file when the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


_CURE = "delete a damaged record and resume to do its cell again"
_RECORD = ("key",)  # what write_record puts into every record


def _read_json(path: Path, needs: Sequence[str] | None = None) -> Any:
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise RunError(f"{path} is damaged: it holds no JSON ({error}); {_CURE}") from error
    if needs is not None and not (isinstance(value, dict) and all(name in value for name in needs)):
        raise RunError(f"{path} is damaged: expected a JSON object with {', '.join(needs) or 'values'}; {_CURE}")
    return value


class RunDirectory:
    """A run on disk.

    Example: ``with RunDirectory.create("runs/one", manifest).lock() as run: run.write_record(key, {...})``.

    Keys are those of `content_key`. Every method that writes raises RunError naming the file when the disk is full or
    the folder cannot be written; every one that reads, when a file is damaged.
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest

    @classmethod
    def create(cls, path: str | Path, manifest: Mapping[str, Any]) -> RunDirectory:
        """Start a run in a new or empty directory.

        Example: ``RunDirectory.create("runs/one", {"studies": ["data_overlap"]})``.

        Parameters: ``path``, the directory, made with its parents; ``manifest``, JSON values that say what the run is.
        Returns: the run, not locked.
        Raises: RunError when the directory holds a run or anything else, or cannot be written; DirectoryInUseError.
        """
        path = Path(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            if not (path / "manifest.json").exists() and any(map(_is_foreign, path.iterdir())):
                raise RunError(f"{path} is not empty and holds no run: name a new directory")
            run = cls(path, plain(manifest, "manifest"))
            with run.lock():
                if (path / "manifest.json").exists():
                    raise RunError(f"{path} already holds a run: go on with `resume {path}` or name another directory")
                for folder in FOLDERS:
                    (path / folder).mkdir(exist_ok=True)
                run._write_json("manifest.json", run.manifest)
        except OSError as error:
            raise RunError(f"cannot create {path}: {error.strerror or error}") from error
        return run

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """Open an existing run.

        Example: ``RunDirectory.open("runs/one").manifest["studies"]``.

        Parameters: ``path``, the directory. Returns: the run, not locked. Raises: RunError when there is none.
        """
        if not ((path := Path(path)) / "manifest.json").is_file():
            raise RunError(
                f"{path} holds no run"
                if path.is_dir()
                else f"{path} is no directory"
                if path.exists()
                else f"{path} does not exist"
            )
        return cls(path, _read_json(path / "manifest.json", ()))

    @contextmanager
    def lock(self) -> Iterator[RunDirectory]:
        """Hold the directory for one writer; the system releases it whatever way the process ends.

        Example: ``with run.lock(): run.merge()``.

        Returns: a context that gives the run itself.
        Raises: DirectoryInUseError naming the process that holds it.
        """
        import fcntl

        try:
            descriptor = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise RunError(f"cannot write {self.path / LOCK}: {error.strerror or error}") from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
                raise DirectoryInUseError(f"{self.path} is in use by process {holder}") from None
            except OSError as error:
                raise RunError(f"cannot lock {self.path}: {error.strerror or error}") from error
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
            if (self.path / "manifest.json").exists():
                for leftover in self.path.rglob(".*.tmp"):  # of a writer that was killed
                    leftover.unlink(missing_ok=True)
            yield self
            os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)

    def _write_json(self, name: str, value: Any) -> None:
        text = json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False)
        write_atomic(self.path / name, text.encode() + b"\n")

    def write_cells(self, cells: Sequence[Mapping[str, Any]]) -> None:
        """Write the list of all cells, in order.

        Example: ``run.write_cells([{**cell.to_json(), "studies": ["data_overlap"]}])``.

        Parameters: ``cells``, ``{"key", "study", "studies", "kind", "params", "needs"}`` each.
        """
        self._write_json("cells.json", plain(list(cells), "cells"))

    def cells(self) -> list[dict[str, Any]] | None:
        """The list of all cells.

        Example: ``[entry["key"] for entry in run.cells() or ()]``.

        Returns: what `write_cells` was given; None for a run that was stopped before it wrote them.
        """
        path = self.path / "cells.json"
        return _read_json(path) if path.is_file() else None

    def has(self, key: str) -> bool:
        """Whether the cell is finished. Example: ``run.has(cell.key)``. Parameters: ``key``. Returns: True or False."""
        return (self.path / "records" / f"{key}.json").is_file()

    def read(self, key: str) -> dict[str, Any]:
        """The record of a finished cell.

        Example: ``run.read(key)["result"]``.

        Parameters: ``key``. Returns: what `write_record` was given, with ``key`` and ``finished``.
        Raises: RunError when it is missing or damaged.
        """
        record: dict[str, Any] = _read_json(self.path / "records" / f"{key}.json", _RECORD)
        return record

    def write_record(self, key: str, record: Mapping[str, Any]) -> None:
        """Store a finished cell; ``key`` and the time are added, and an earlier failure of the cell is forgotten.

        Example: ``run.write_record(key, {"study": "data_overlap", "kind": "pair", "params": {}, "result": {}})``.

        Parameters: ``key``; ``record``, numbers, arrays, text, lists and mappings.
        """
        self._write_json(f"records/{key}.json", plain({"key": key} | dict(record) | {"key": key, "finished": now()}))
        with suppress(OSError):
            (self.path / "failures" / f"{key}.json").unlink(missing_ok=True)

    def records(self) -> list[dict[str, Any]]:
        """All records. Returns: those of the finished cells, ordered by key. Example: ``len(run.records())``."""
        return [_read_json(path, _RECORD) for path in sorted((self.path / "records").glob("[!.]*.json"))]

    def write_failure(self, key: str, traceback: str, details: Mapping[str, Any] | None = None) -> None:
        """Keep why a cell failed.

        Example: ``run.write_failure(key, traceback.format_exc(), {"study": "data_overlap", "kind": "pair"})``.

        Parameters: ``key``; ``traceback``, text whose last line is the reason; ``details``, the cell's study, kind and
        params, and ``skipped`` and ``reason`` where they are not False and that line.
        """
        lines = traceback.strip().splitlines() or ["no reason was given"]
        failure = {"key": key, "skipped": False, "reason": lines[-1], **(details or {})}
        failure |= {"traceback": traceback, "finished": now()}
        for name in ("reason", "traceback"):
            failure[name] = without_home(failure[name])
        self._write_json(f"failures/{key}.json", plain(failure, "failure"))

    def failures(self) -> list[dict[str, Any]]:
        """All failed and skipped cells. Example: ``run.failures()[0]["reason"]``.

        Returns: ``{"key", "skipped", "reason", "traceback", ...}`` each, ordered by key.
        """
        found = sorted((self.path / "failures").glob("[!.]*.json"))
        return [_read_json(path) for path in found if not self.has(path.stem)]

    def clear_failures(self, keys: Sequence[str] | None = None) -> None:
        """Forget failures, so that their cells run again.

        Example: ``run.clear_failures([key])``. Parameters: ``keys``, of the cells; None: of all.
        """
        for key in [failure["key"] for failure in self.failures()] if keys is None else keys:
            (self.path / "failures" / f"{key}.json").unlink(missing_ok=True)

    def artifact_path(self, name: str) -> Path:
        """Where a picture or other file of the run lies.

        Example: ``sheet.save(run.artifact_path("digits.png"))``.

        Parameters: ``name``, of the file. Returns: its path.
        """
        return self.path / "artifacts" / name

    def model_path(self, key: str) -> Path:
        """Where the weights of a model lie.

        Example: ``save(model, run.model_path(key))``.

        Parameters: ``key``, of the model's cell. Returns: the file's path.
        """
        return self.path / "models" / f"{key}.safetensors"

    def model_folder(self, key: str) -> Path:
        """Where a model of many files lies, as transformers and peft write it, or what several models need.

        Example: ``save(model, run.model_folder(key))``.

        Parameters: ``key``, of its cell. Returns: the folder's path; a record with ``saved`` says that it was made.
        """
        return self.path / "models" / key

    def write_effects(self, effects: Sequence[Mapping[str, Any]]) -> None:
        """Write effects.json.

        Example: ``run.write_effects(statistics.adjust(effects))``. Parameters: ``effects``, one mapping each.
        """
        self._write_json("effects.json", plain(list(effects), "effects"))

    def effects(self) -> list[dict[str, Any]]:
        """The effects.

        Example: ``run.effects()[0]["estimate"]``. Returns: what `write_effects` was given; empty before.
        """
        path = self.path / "effects.json"
        return _read_json(path) if path.is_file() else []

    def merge(self) -> Path:
        """Write all records as one table, ``table.parquet`` and ``table.csv``, with the rows of `table_rows`.

        Example: ``pyarrow.parquet.read_table(run.merge())``. Returns: the path of the first.
        """
        import pyarrow
        import pyarrow.parquet

        rows = [row for record in self.records() for row in table_rows(record)]
        names = dict.fromkeys(name for row in rows for name in row) or ["key", "study", "kind", "measure"]
        columns = {name: _column([row.get(name) for row in rows]) for name in names}
        parquet = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.table(columns), parquet)
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(zip(*columns.values(), strict=True))
        write_atomic(self.path / "table.csv", text.getvalue().encode())
        write_atomic(self.path / "table.parquet", parquet.getvalue())
        return self.path / "table.parquet"


def _is_foreign(entry: Path) -> bool:
    # What a creation that was killed before its manifest leaves behind is no obstacle to the next one.
    if entry.name == LOCK or (entry.name.startswith(".manifest.json.") and entry.suffix == ".tmp"):
        return False
    return entry.name not in FOLDERS or not entry.is_dir() or any(entry.iterdir())


def _column(values: list[Any]) -> list[Any]:
    # Parquet columns have one type: text beside numbers turns the whole column into text.
    kinds = {"number" if type(value) in (int, float) else type(value).__name__ for value in values if value is not None}
    return values if len(kinds) <= 1 else [None if value is None else str(value) for value in values]


def table_rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A pair record as flat rows, one per measure; other records have none.

    Example: ``table_rows(record)[0]["value"]`` is the first measure at both models' last layers.

    Parameters: ``record``, as `RunDirectory.read` gives it.
    Returns: key, study, kind, parameters, ``view`` (of a pair that was compared in several), ``measure``, ``value`` and
    ``null`` (last layers), the corner of every layer-by-layer matrix (z, p, ...), the result's other numbers (a list as
    its mean and as ``name.0``, ``name.1``), and the transfer counts as ``first_to_second.8/255.joint_n``.
    """
    result = record["result"]
    if "similarity" not in result:
        return []
    shared = {name: record[name] for name in ("key", "study", "kind")} | _flat(record["params"])
    numbers = _flat({name: item for name, item in result.items() if name not in ("similarity", "views", "transfer")})
    for direction, curve in (result.get("transfer") or {}).items():
        for point in curve:
            counts = {name: item for name, item in point.items() if name != "epsilon"}
            numbers |= _flat(counts, f"{direction}.{round(255 * point['epsilon'], 6):g}/255.")
    rows = []
    views = {"": result["similarity"]} | {
        name: view["similarity"] for name, view in (result.get("views") or {}).items()
    }
    for view, similarity in views.items():
        named = {**shared, "view": view} if view else shared
        for measure, found in similarity.items():
            entry = {name: item for name, item in found.items() if name not in ("values", "last", "last_null")}
            corners = {name: item[-1][-1] if _is_matrix(item) else item for name, item in entry.items()}
            value = found["last"] if "last" in found else found["values"][-1][-1]
            row = {**named, "measure": measure, "value": value, "null": found.get("last_null"), **_flat(corners)}
            rows.append(row | {name if name not in row else f"result.{name}": item for name, item in numbers.items()})
    return rows


def _is_matrix(item: Any) -> bool:
    return isinstance(item, list) and bool(item) and isinstance(item[0], list) and bool(item[0])


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, item in values.items():
        if isinstance(item, Mapping):
            flat |= _flat(item, f"{prefix}{name}.")
        elif isinstance(item, list) and item and all(type(entry) in (int, float) for entry in item):
            flat[prefix + name] = math.fsum(item) / len(item)
            if 1 < len(item) <= 16:
                flat |= {f"{prefix}{name}.{index}": entry for index, entry in enumerate(item)}
        elif isinstance(item, list) and all(isinstance(entry, str) for entry in item):
            flat[prefix + name] = " ".join(item)
        elif not isinstance(item, list):
            flat[prefix + name] = item
    return flat
