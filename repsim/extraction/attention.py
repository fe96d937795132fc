"""Attention maps of every layer and head in one safetensors file, text padded to the longest."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from repsim.activations import as_dtype, evaluation
from repsim.extraction.checkpoint import Checkpoint
from repsim.extraction.inputs import Images, Texts
from repsim.extraction.layers import arguments_of, basis, provenance
from repsim.extraction.tokens import tokenize
from repsim.interchange import IDS_TENSOR, safetensors_head
from repsim.whole_files import whole_file


def write_attention(
    checkpoint: Checkpoint,
    inputs: Images | Texts,
    path: str | Path,
    *,
    batch_size: int = 32,
    dtype: str = "float32",
    max_tokens: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write the attention maps of all layers for all inputs.

    Example::

        write_attention(checkpoint, load_inputs("a.txt"), "a.safetensors")
        safetensors.numpy.load_file("a.safetensors")["attention.1"]     # [n, heads, t, t]; a query's row sums to 1

    Parameters
    ----------
    checkpoint: loaded with ``attention=True``.
    inputs, batch_size, max_tokens: as in `extract_layers`.
    path: the file. One that is there and of the same extraction is left as it is. It appears when it is whole: unlike a
        store, it is not continued.
    dtype: "float32" or "float16".
    progress: called with (inputs done, n) after every batch.

    Returns
    -------
    The path. The tensors are "attention.1" to "attention.L" [n, heads, t, t], t the tokens of the longest text and
    zeros beyond a text's own; "tokens" int64 [n], how many are its own; and the sample ids.

    Raises
    ------
    ValueError: a model without attention maps of all its tokens; another dtype.
    FileExistsError: the path holds something else.
    """
    path = Path(path)
    if dtype not in ("float32", "float16"):
        raise ValueError(f"[extract] expected dtype 'float32' or 'float16' of attention maps, got {dtype!r}")
    content = {"extraction": {**basis(checkpoint, inputs, max_tokens), "dtype": dtype}}
    if path.exists():
        if _described(path).get("extraction") == content["extraction"]:
            return path
        raise FileExistsError(f"[extract] expected a new path for attention maps, got {path} with something else")
    n = len(inputs)
    lengths = _lengths(checkpoint, inputs, batch_size, max_tokens)
    with evaluation(checkpoint.model):
        maps = _maps(checkpoint, inputs, 0, 1, max_tokens)
        longest = int(lengths.max()) if lengths is not None else maps[0].shape[-1]
        if lengths is None:
            lengths = np.full(n, longest, dtype=np.int64)
        shapes: dict[str, tuple[tuple[int, ...], str]] = {IDS_TENSOR: ((n,), "int64"), "tokens": ((n,), "int64")}
        for number, one in enumerate(maps, 1):
            shapes[f"attention.{number}"] = ((n, one.shape[1], longest, longest), dtype)
        with _new_file(path, shapes, {**content, "provenance": provenance(checkpoint, inputs)}) as tensors:
            tensors[IDS_TENSOR][:] = np.arange(n)
            tensors["tokens"][:] = lengths
            for start in range(0, n, batch_size):
                stop = min(start + batch_size, n)
                for number, one in enumerate(_maps(checkpoint, inputs, start, stop, max_tokens), 1):
                    name = f"attention.{number}"
                    values = as_dtype("extract", name, one, dtype)
                    for place in range(start, stop):
                        own = int(lengths[place])
                        tensors[name][place, :, :own, :own] = values[place - start, :, :own, :own]
                if progress is not None:
                    progress(stop, n)
    return path


def _lengths(
    checkpoint: Checkpoint, inputs: Images | Texts, batch_size: int, max_tokens: int | None
) -> np.ndarray | None:
    """Tokens of every text, int64 [n]; None for images, which all have as many."""
    if isinstance(inputs, Images):
        return None
    found: list[int] = []
    for start in range(0, len(inputs), batch_size):
        batch = tokenize(checkpoint, inputs.texts[start : start + batch_size], start, max_tokens=max_tokens)
        found += batch.lengths
    return np.asarray(found, dtype=np.int64)


def _maps(
    checkpoint: Checkpoint, inputs: Images | Texts, start: int, stop: int, max_tokens: int | None
) -> list[np.ndarray]:
    """float32 [m, heads, t, t] of every layer, for the inputs from start to stop."""
    with torch.no_grad():
        output = checkpoint.run(arguments_of(checkpoint, inputs, start, stop, max_tokens), output_attentions=True)
    maps = [one for one in getattr(output, "attentions", None) or () if one is not None]
    if not maps:
        raise ValueError(f"[extract] expected a model with attention maps, got {checkpoint.name} without")
    for one in maps:
        if one.ndim != 4 or one.shape[0] != stop - start or one.shape[2] != one.shape[3]:
            raise ValueError(
                f"[extract] expected attention maps [n, heads, t, t], got {list(one.shape)} of {checkpoint.name}"
            )
    return [one.to(device="cpu", dtype=torch.float32).numpy() for one in maps]


def _described(path: Path) -> dict[str, Any]:
    """The metadata that this package wrote into a safetensors file; empty for any other file."""
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, 100_000_000)))
        return json.loads(header["__metadata__"]["repsim"])
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return {}


@contextmanager
def _new_file(
    path: Path, shapes: dict[str, tuple[tuple[int, ...], str]], metadata: dict[str, Any]
) -> Iterator[dict[str, np.ndarray]]:
    """The tensors of a new safetensors file, zero and writable; it is under its name when the block ends well."""
    described = {name: (dtype, shape) for name, (shape, dtype) in shapes.items()}
    sizes = [math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in shapes.values()]
    head, starts = safetensors_head(described, sizes, {"repsim": json.dumps(metadata)})
    with whole_file(path) as temporary:
        with open(temporary, "wb") as file:
            file.write(head)
            file.truncate(len(head) + sum(sizes))
        tensors: dict[str, np.ndarray] = {
            name: np.memmap(temporary, dtype=dtype, mode="r+", offset=start, shape=shape)
            for (name, (shape, dtype)), start in zip(shapes.items(), starts, strict=True)
        }
        yield tensors
        for tensor in tensors.values():
            tensor.flush()  # type: ignore[attr-defined]
