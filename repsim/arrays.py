"""What counts as rows: numpy, torch, memory maps and anything on the CPU that speaks DLPack, never copied."""

from __future__ import annotations

import functools
import inspect
import mmap
import sys
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

import numpy as np

RESIDENT_BYTES = 8 * 2**20  # of a memory map, held at a time while rows are read once

DTYPES = ("float16", "bfloat16", "float32", "float64")

P = ParamSpec("P")
T = TypeVar("T")


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

    def part(self, start: int, stop: int) -> Rows:
        """Rows start to stop, not copied."""
        return Rows(self.values[start:stop], self.dtype, self.name)

    @functools.cached_property
    def mapping(self) -> mmap.mmap | None:
        """The memory map of a file that the rows lie in, if it may not be written through."""
        base: Any = self.values
        while base is not None and not isinstance(base, mmap.mmap):
            base = base.obj if isinstance(base, memoryview) else getattr(base, "base", None)
        # Pages of a map that can be written may hold what the file does not.
        return base if base is not None and memoryview(base).readonly else None

    def sweep(self, start: int = 0, stop: int | None = None, *, multiple: int = 1) -> Iterator[tuple[int, int]]:
        """Ranges of rows, in order, that together are start to stop; each but the last of a multiple of rows.

        Of a map of a file, the rows behind a range are read ahead while it is used, and its own memory is given back
        afterwards.
        """
        stop = len(self) if stop is None else stop
        rows = max(RESIDENT_BYTES // (self.depth * self.values.itemsize), 1)
        step = -(-rows // multiple) * multiple
        for first in range(start, stop, step):
            last = min(first + step, stop)
            self.prefetch(last, last + step)
            yield first, last
            self.release(first, last)

    def prefetch(self, start: int, stop: int) -> None:
        """Let the system begin to read rows start to stop; for memory that is no map of a file, nothing."""
        self._advise("MADV_WILLNEED", start, min(stop, len(self)))

    def release(self, start: int, stop: int) -> None:
        """Give the memory of rows start to stop back; the file still holds them, and they can be read again."""
        self._advise("MADV_DONTNEED", start, min(stop, len(self)))

    def _advise(self, advice: str, start: int, stop: int) -> None:
        if stop <= start or self.mapping is None or not hasattr(mmap, advice):
            return
        origin = np.frombuffer(self.mapping, np.uint8).ctypes.data
        first, last = sorted(self.values[at : at + 1].ctypes.data - origin for at in (start, stop - 1))
        # A page at the end that the next rows begin in is theirs to give back, unless there are none.
        end = last + self.depth * self.values.itemsize
        first -= first % mmap.PAGESIZE
        if stop < len(self):
            end -= end % mmap.PAGESIZE
        if first < end:
            self.mapping.madvise(getattr(mmap, advice), first, min(end, len(self.mapping)) - first)

    def wide(self, rows: slice | np.ndarray, columns: slice = slice(None)) -> np.ndarray:
        """The chosen rows and columns as a new float64 array."""
        block = self.values[rows, columns]
        if self.dtype == "bfloat16":
            return (block.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        return block.astype(np.float64)


@dataclass(frozen=True)
class SharedRows(Rows):
    """Rows that several measures read: what is found of them for one serves the others.

    ``found`` holds results by the function that found them and its options. A copy of other values begins with none.
    """

    found: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, rows: Rows) -> SharedRows:
        """The same rows; those that are shared already as they are, with what was found of them."""
        return rows if isinstance(rows, SharedRows) else cls(rows.values, rows.dtype, rows.name)


def found_once(find: Callable[P, T]) -> Callable[P, T]:
    """Of shared rows, its first argument, a function then finds the same once; of other rows whenever it is asked.

    ``function`` and ``threads``, which change no result, do not count among the options; all others are hashable.
    """
    signature = inspect.signature(find)

    @functools.wraps(find)
    def ask(*given: P.args, **named: P.kwargs) -> T:
        rows = given[0]
        if not isinstance(rows, SharedRows):
            return find(*given, **named)
        bound = signature.bind(*given, **named)
        bound.apply_defaults()
        _, *options = ((name, value) for name, value in bound.arguments.items() if name not in ("function", "threads"))
        key = (find, *options)
        if key not in rows.found:
            rows.found[key] = find(*given, **named)
        found: T = rows.found[key]
        return found

    return ask


def as_rows(x: Any, *, function: str, name: str) -> Rows:
    """View ``x`` as rows without copying.

    Example::

        rows = as_rows(np.zeros((100, 8), np.float32), function="cka", name="x")   # len(rows) == 100

    Parameters
    ----------
    x: [n, d] numpy array or memmap, torch CPU tensor, or CPU array with ``__dlpack__``; float16, bfloat16, float32 or
        float64; rows may be strided, features must be contiguous. Subclasses are read as the array or tensor they are.
    function, name: who asks, for the error message.

    Raises
    ------
    TypeError: not an array, an unsupported dtype, or a masked array.
    ValueError: not two-dimensional, empty, not on the CPU, requiring gradients, a lazy negation, or with features apart
        in memory.
    """
    if isinstance(x, Rows):
        return x
    where = f"[{function}] expected {name}"
    values, dtype = _as_numpy(x, name, where)
    if dtype not in DTYPES:
        raise TypeError(f"{where} of dtype float16, bfloat16, float32 or float64, got {dtype}{_cast(dtype, name)}")
    if values.ndim != 2:
        raise ValueError(f"{where} with two dimensions [rows, columns], got shape {tuple(values.shape)}")
    if 0 in values.shape:
        raise ValueError(
            f"{where} with at least one row and one column, got shape {tuple(values.shape)}, which is empty"
        )
    if values.shape[1] > 1 and values.strides[1] != values.itemsize:
        cure = f"{name}.contiguous()" if hasattr(x, "contiguous") else f"numpy.ascontiguousarray({name})"
        raise ValueError(
            f"{where} with contiguous features (row-major), got strides {values.strides} bytes; pass {cure}"
        )
    if values.strides[0] % values.itemsize:
        raise ValueError(f"{where} with rows whole elements apart, got strides {values.strides} bytes")
    if not values.dtype.isnative:
        raise TypeError(f"{where} in the machine's byte order, got dtype {values.dtype.str}")
    return Rows(values, dtype, name)


def _as_numpy(x: Any, name: str, where: str) -> tuple[np.ndarray, str]:
    torch = sys.modules.get("torch")  # who has a tensor has imported torch
    if torch is not None and isinstance(x, torch.Tensor):
        return _torch_as_numpy(x, name, where)
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(
            f"{where} without a mask, got {type(x).__name__}; pass {name}.filled(...), or only its complete rows"
        )
    if isinstance(x, np.ndarray):
        values = np.asarray(x)  # a subclass, such as numpy.matrix, brings rules of its own
    elif hasattr(x, "__dlpack__") and hasattr(x, "__dlpack_device__"):
        kind = int(x.__dlpack_device__()[0])
        if kind != 1:  # DLPack's number of the CPU
            root = type(x).__module__.partition(".")[0]
            raise ValueError(
                f"{where} on the CPU (this build has no CUDA operations), got a {root} array on DLPack device {kind}"
            )
        values = np.from_dlpack(x)
    else:
        raise TypeError(
            f"{where} as an array (numpy, torch, memmap, DLPack), got {type(x).__name__}{_conversion(x, name)}"
        )
    if values.dtype.name == "bfloat16" and values.itemsize == 2:  # numpy has none: a package registered it
        return values.view(np.uint16), "bfloat16"
    return values, values.dtype.name


def _conversion(x: Any, name: str) -> str:
    """What to pass in the place of something that is no array."""
    if isinstance(x, (list, tuple)):
        return f"; pass numpy.asarray({name})"
    if hasattr(x, "to_numpy"):  # a data frame is column-major
        return f"; pass numpy.ascontiguousarray({name}.to_numpy())"
    if hasattr(x, "layers") and hasattr(x, "read"):
        return "; use repsim.compare, or pass store.read(layer)"
    return ""


def _cast(dtype: str, name: str) -> str:
    """How to make floats of a dtype that is refused; complex numbers, text and objects have no one way."""
    if not dtype.startswith(("int", "uint", "bool")):
        return ""
    bits = "; if these are bfloat16 bits from a store, store.read(layer)" if dtype == "uint16" else ""
    return f"; pass {name}.astype(numpy.float32){bits}"


def _torch_as_numpy(x: Any, name: str, where: str) -> tuple[np.ndarray, str]:
    import torch

    if x.device.type != "cpu":
        raise ValueError(f"{where} on the CPU (this build has no CUDA operations), got device {x.device}")
    if x.requires_grad:
        raise ValueError(f"{where} without gradient, got a tensor with requires_grad=True; pass {name}.detach()")
    if x.layout != torch.strided:
        raise TypeError(f"{where} as a dense tensor, got layout {x.layout}; pass {name}.to_dense()")
    if x.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        cure = "" if x.dtype.is_complex else f"; pass {name}.float()"
        raise TypeError(f"{where} of dtype float16, bfloat16, float32 or float64, got {x.dtype}{cure}")
    if x.is_neg():
        raise ValueError(
            f"{where} in memory, got a tensor whose negation is still to be done; pass {name}.resolve_neg()"
        )
    try:
        if x.dtype == torch.bfloat16:
            return x.view(torch.int16).numpy().view(np.uint16), "bfloat16"
        return x.numpy(), str(x.dtype).removeprefix("torch.")
    except (RuntimeError, TypeError) as error:  # a subclass without memory of its own
        raise TypeError(f"{where} as a tensor that numpy can read, got {type(x).__name__}") from error


def tracks_gradient(*arrays: Any) -> bool:
    """Whether one of them is a torch tensor that requires grad."""
    torch = sys.modules.get("torch")
    return torch is not None and any(isinstance(x, torch.Tensor) and x.requires_grad for x in arrays)


def same_inputs(x: Rows, y: Rows, *, function: str) -> int:
    """The number of rows of both.

    Raises
    ------
    ValueError: the two differ.
    """
    if len(x) != len(y):
        raise ValueError(f"[{function}] expected {y.name} with {len(x)} rows like {x.name}, got {len(y)}")
    return len(x)
