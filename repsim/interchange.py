"""What stores exchange with other programs: safetensors files, and bfloat16 as its bits."""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

import numpy as np

from repsim.layout import STORAGE, Column
from repsim.whole_files import whole_file

IDS_TENSOR = "repsim.ids"
_CODES = {"float16": "F16", "float32": "F32", "float64": "F64", "bfloat16": "BF16", "int64": "I64"}


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


def write_safetensors(
    path: Path,
    columns: Sequence[Column],
    rows: int,
    metadata: dict[str, str],
    copy: Callable[[Column, IO[bytes]], None],
) -> None:
    """Write columns into one safetensors file, which is under its name when it is whole.

        write_safetensors(path, columns, 1000, {"from": "here"}, lambda column, out: out.write(bytes_of(column)))

    Args:
        path: the file.
        columns: of `rows` rows each; the ids, the column without a name, become the tensor IDS_TENSOR.
        metadata: kept in the file's header.
        copy: writes the rows of a column, as they lie in the store, to the open file.
    Raises:
        Whatever `copy` raises; nothing is left at the path then.
    """
    # Wide elements first: every tensor then starts at a multiple of its element size.
    columns = sorted(columns, key=lambda column: -column.storage.itemsize)
    tensors = {column.name or IDS_TENSOR: (column.dtype, column.shape(rows)) for column in columns}
    sizes = [rows * column.row_bytes for column in columns]
    with whole_file(path) as temporary, open(temporary, "wb") as out:
        out.write(safetensors_head(tensors, sizes, metadata)[0])
        for column in columns:
            copy(column, out)


def safetensors_head(
    tensors: Mapping[str, tuple[str, Sequence[int]]], sizes: Sequence[int], metadata: Mapping[str, str]
) -> tuple[bytes, list[int]]:
    """What a safetensors file begins with, before tensors that follow each other; and where each of them begins.

    Args:
        tensors: name to (dtype, shape), those of wide elements first, so that each is aligned to its elements.
        sizes: their bytes.
        metadata: kept in the header.
    """
    ends = list(accumulate(sizes, initial=0))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    for (name, (dtype, shape)), start, end in zip(tensors.items(), ends[:-1], ends[1:], strict=True):
        header[name] = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    return struct.pack("<Q", len(text)) + text, [8 + len(text) + start for start in ends[:-1]]


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Map the tensors of a file without reading them; the header comes from a stranger and is checked.

        tensors, metadata = read_safetensors(Path("a.safetensors"))    # tensors["conv1"] memmap [n, 16]

    Args:
        path: the file; every tensor [n, d] is F16, BF16, F32 or F64, the ids [n], if any, I64.
    Returns:
        (tensor name -> read-only memmap, bfloat16 as bits in uint16; the file's metadata).
    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a damaged or unsuited file.
    """
    storage = {code: STORAGE[dtype] for dtype, code in _CODES.items()}
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
                code, suited = entry["dtype"], ("I64",) if name == IDS_TENSOR else ("F16", "BF16", "F32", "F64")
                if code not in suited or len(shape) != (1 if name == IDS_TENSOR else 2):
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
