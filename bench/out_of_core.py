"""``python -m bench.out_of_core``: CKA of a store larger than memory, through a budget; prints the peak of the process.

The store is two layers in sparse files: mostly zeros that take no disk, and a few rows of numbers in every part. All of
it is read, little of it is kept. No limit is set on the process; what it held is measured (VmHWM).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import repsim
from repsim.arguments import memory_budget
from repsim.layout import MANIFEST, Column, Manifest

from . import machine

PARTS, ROWS_OF_NUMBERS = 64, 32
LAYERS = ("a", "b")


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the store, measure, print; returns 0."""
    options = _parse(arguments)
    rows = options.size // (len(LAYERS) * options.width * 4)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        store = sparse_store(Path(folder) / "sparse.store", rows, options.width)
        kernel = repsim.RBF(sigma=float(np.sqrt(options.width))) if options.kernel == "rbf" else "linear"
        small = np.random.default_rng(0).standard_normal((2, 256, 8), dtype=np.float32)
        repsim.cka(small[0], small[1], kernel=kernel)  # libraries are loaded before the measurement
        machine.reset_peak_memory()
        before, start = machine.peak_memory(), time.perf_counter()
        value = repsim.cka(store["a"], store["b"], kernel=kernel, memory=options.memory)
        seconds, peak = time.perf_counter() - start, machine.peak_memory() - before
    width = options.width
    flop = 6.0 * rows * width**2 if options.kernel == "linear" else 2.0 * rows**2 * width
    facts = machine.facts()
    megabytes = [round(size / 1e6) for size in (options.memory, peak, before)]
    lines = [
        f"{options.kernel} CKA of {rows} rows, 2 layers of {width} float32: {rows * width * 8 / 1e9:.2f} GB",
        "budget {} MB, peak growth of VmHWM {} MB (before: {} MB)".format(*megabytes),
        f"{seconds:.1f} s: {rows * width * 8 / seconds / 1e9:.2f} GB/s, {flop / seconds / 1e9:.0f} GFLOP/s",
        repr(value),
        *(f"{name}: {fact}" for name, fact in facts.items()),
    ]
    print("\n".join(lines))
    return 0


def sparse_store(path: Path, rows: int, width: int) -> repsim.Store:
    """An unfinished store of two float32 layers [rows, width] whose files are mostly holes."""
    path.mkdir()
    ids = Column("", "ids.npy", "int64", None)
    layers = tuple(Column(name, f"{i:03d}-{name}.npy", "float32", width) for i, name in enumerate(LAYERS))
    for column in (ids, *layers):
        with open(path / column.file, "wb") as file:
            file.write(column.header(rows))
            file.truncate(column.size(rows))
    rng = np.random.default_rng(0)
    count = min(ROWS_OF_NUMBERS, rows)
    for start in np.linspace(0, rows - count, PARTS).astype(int):
        shared = rng.standard_normal((count, 8)) @ rng.standard_normal((8, width))
        for layer in layers:
            with open(path / layer.file, "r+b") as file:
                file.seek(layer.size(int(start)))
                file.write((shared + rng.standard_normal((count, width))).astype(np.float32).tobytes())
    (path / MANIFEST).write_text(Manifest(rows, False, ids, layers, {}).dumps())
    return repsim.Store.open(path)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    def size(text: str) -> int:
        try:
            return memory_budget(text, function="bench") or 0
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    parser = argparse.ArgumentParser(prog="python -m bench.out_of_core", description=__doc__, allow_abbrev=False)
    parser.add_argument("--size", type=size, default=size("20GB"), help="bytes of both layers (default: 20GB)")
    parser.add_argument("--memory", type=size, default=size("1GB"), help="the budget (default: 1GB)")
    parser.add_argument("--width", type=int, default=512, help="features of a layer (default: 512)")
    parser.add_argument("--kernel", choices=["linear", "rbf"], default="linear")
    parser.add_argument("--folder", type=Path, help="where to make the store (default: the system's temporary folder)")
    options = parser.parse_args(arguments)
    if options.width < 1 or options.size < 4 * len(LAYERS) * options.width * 4:
        parser.error("argument --size: expected at least 4 rows")
    return options


if __name__ == "__main__":
    sys.exit(main())
