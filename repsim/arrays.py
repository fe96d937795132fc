"""What counts as rows: numpy, torch, memory maps and anything on the CPU that speaks DLPack, never copied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

DTYPES = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True)
class Rows:
    """Representations of n inputs, one row each, in the memory they came in.

    ``values`` is [n, d] with neighbouring features next to each other; bfloat16 is held as its uint16 bits.
    """

    values: np.ndarray
    dtype: str
    name: str

    def __len__(self) -> int:
        return int(self.values.shape[0])

    @property
    def depth(self) -> int:
        return int(self.values.shape[1])

    def wide(self, start: int, stop: int) -> np.ndarray:
        """Rows start to stop as a new float64 array [stop - start, d]."""
        block = self.values[start:stop]
        if self.dtype == "bfloat16":
            return (block.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        return block.astype(np.float64)


def as_rows(x: Any, *, function: str, name: str) -> Rows:
    """View ``x`` as rows without copying.

    Example::

        rows = as_rows(np.zeros((100, 8), np.float32), function="cka", name="x")   # len(rows) == 100

    Parameters
    ----------
    x: [n, d] numpy array or memmap, torch CPU tensor, or CPU array with ``__dlpack__``; float16, bfloat16, float32 or float64;
        rows may be strided, features must be contiguous.
    function, name: who asks, for the error message.

    Raises
    ------
    TypeError: not an array, or an unsupported dtype.
    ValueError: not two-dimensional, empty, not on the CPU, requiring gradients, or with features apart in memory.
    """
    if isinstance(x, Rows):
        return x
    where = f"[{function}] expected {name}"
    values, dtype = _as_numpy(x, where)
    if dtype not in DTYPES:
        raise TypeError(f"{where} of dtype float16, bfloat16, float32 or float64, got {dtype}")
    if values.ndim != 2:
        raise ValueError(f"{where} with two dimensions [rows, columns], got shape {tuple(values.shape)}")
    if 0 in values.shape:
        raise ValueError(f"{where} with at least one row and one column, got shape {tuple(values.shape)}, which is empty")
    if values.shape[1] > 1 and values.strides[1] != values.itemsize:
        raise ValueError(
            f"{where} with contiguous features (row-major), got strides {values.strides} bytes; "
            "pass numpy.ascontiguousarray(...)"
        )
    if values.strides[0] % values.itemsize:
        raise ValueError(f"{where} with rows whole elements apart, got strides {values.strides} bytes")
    if not values.dtype.isnative:
        raise TypeError(f"{where} in the machine's byte order, got dtype {values.dtype.str}")
    return Rows(values, dtype, name)


def _as_numpy(x: Any, where: str) -> tuple[np.ndarray, str]:
    if isinstance(x, np.ndarray):
        return x, x.dtype.name
    root = type(x).__module__.partition(".")[0]
    if root == "torch":
        return _torch_as_numpy(x, where)
    if hasattr(x, "__dlpack__") and hasattr(x, "__dlpack_device__"):
        kind = int(x.__dlpack_device__()[0])
        if kind != 1:  # DLPack's number of the CPU
            raise ValueError(f"{where} on the CPU (this build has no CUDA operations), got a {root} array on DLPack device {kind}")
        values = np.from_dlpack(x)
        return values, values.dtype.name
    raise TypeError(f"{where} as an array (numpy, torch, memmap, DLPack), got {type(x).__name__}")


def _torch_as_numpy(x: Any, where: str) -> tuple[np.ndarray, str]:
    import torch

    if not isinstance(x, torch.Tensor):
        raise TypeError(f"{where} as an array (numpy, torch, memmap, DLPack), got {type(x).__name__}")
    if x.device.type != "cpu":
        raise ValueError(f"{where} on the CPU (this build has no CUDA operations), got device {x.device}")
    if x.requires_grad:
        raise ValueError(f"{where} without gradient, got a tensor with requires_grad=True; pass {where.split()[-1]}.detach()")
    if x.layout != torch.strided:
        raise TypeError(f"{where} as a dense tensor, got layout {x.layout}")
    if x.dtype == torch.bfloat16:
        return x.view(torch.int16).numpy().view(np.uint16), "bfloat16"
    if x.dtype in (torch.float16, torch.float32, torch.float64):
        return x.numpy(), str(x.dtype).removeprefix("torch.")
    raise TypeError(f"{where} of dtype float16, bfloat16, float32 or float64, got {x.dtype}")


def same_inputs(x: Rows, y: Rows, *, function: str) -> int:
    """The number of rows of both.

    Raises
    ------
    ValueError: the two differ.
    """
    if len(x) != len(y):
        raise ValueError(f"[{function}] expected {y.name} with {len(x)} rows like {x.name}, got {len(y)}")
    return len(x)
