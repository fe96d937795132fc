"""What counts as rows: numpy, torch, memory maps and anything that speaks DLPack, on the CPU or a GPU, never copied."""

from __future__ import annotations

import functools
import inspect
import mmap
import sys
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any, ParamSpec, TypeVar

import numpy as np

RESIDENT_BYTES = 8 * 2**20  # of a memory map, held at a time while rows are read once

RESIDENT_ON_DEVICE = 64 * 2**20  # of rows on a GPU, worked on at a time while they are read once

DTYPES = ("float16", "bfloat16", "float32", "float64")

P = ParamSpec("P")
T = TypeVar("T")
# Device types of DLPack.
_CPU, _CUDA = 1, 2


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
        return replace(self, values=self.values[start:stop])

    def at(self, positions: np.ndarray | slice) -> Rows:
        """The rows there; of positions that are no slice, a copy."""
        return replace(self, values=self.values[positions])

    def alone(self, positions: np.ndarray) -> Rows:
        """The rows there as a copy that lies where these do: for a sample of them, or all but a few."""
        return self.at(positions)

    def beside(self, values: np.ndarray) -> Rows:
        """Other float64 rows [n, d] where these lie, that were found of them."""
        return replace(self, values=np.ascontiguousarray(values), dtype="float64")

    @property
    def device(self) -> str:
        """Where the rows lie: "cpu", or a GPU such as "cuda:0"."""
        return "cpu"

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
        rows = max(self._resident_bytes // (self.depth * self.values.itemsize), 1)
        step = -(-rows // multiple) * multiple
        for first in range(start, stop, step):
            last = min(first + step, stop)
            self.prefetch(last, last + step)
            yield first, last
            self.release(first, last)

    @property
    def _resident_bytes(self) -> int:
        return RESIDENT_BYTES

    def content(self) -> Iterator[np.ndarray]:
        """All numbers as they are, contiguous and with the host, some rows at a time."""
        for start, stop in self.sweep():
            yield np.ascontiguousarray(self.values[start:stop])

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
        """The chosen rows and columns as a new float64 array, row-major."""
        block = self.values[rows, columns]
        if self.dtype == "bfloat16":
            return (block.astype(np.uint32, order="C") << 16).view(np.float32).astype(np.float64)
        return block.astype(np.float64, order="C")

    def wide_there(self, rows: slice | np.ndarray, columns: slice = slice(None)) -> Any:
        """The same where the rows lie: on a GPU a torch tensor."""
        return self.wide(rows, columns)


@dataclass(frozen=True)
class SharedRows(Rows):
    """Rows that several measures read: what is found of them for one serves the others.

    ``found`` holds results by the function that found them and its options. A copy of other values begins with none.
    """

    found: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def of(cls, rows: Rows) -> SharedRows:
        """The same rows, wherever they lie; those that are shared already as they are, with what was found of them."""
        if isinstance(rows, SharedRows):
            return rows
        kind: Any = type(rows)
        return _shared(kind)(**{one.name: getattr(rows, one.name) for one in fields(rows)})


@functools.cache
def _shared(kind: Any) -> type[SharedRows]:
    """Shared rows that are of that kind, too."""
    if kind is Rows:
        return SharedRows
    return dataclass(frozen=True)(type(f"Shared{kind.__name__}", (SharedRows, kind), {"__module__": __name__}))


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


@dataclass(frozen=True)
class DeviceRows(Rows):
    """Rows in the memory of a GPU: ``values`` is a torch tensor there, of ``framework``'s memory."""

    values: Any
    framework: str = "torch"

    @property
    def device(self) -> str:
        return str(self.values.device)

    @property
    def mapping(self) -> None:
        return None

    @property
    def _resident_bytes(self) -> int:
        return RESIDENT_ON_DEVICE

    def content(self) -> Iterator[np.ndarray]:
        import torch

        for start, stop in self.sweep():
            yield self.values[start:stop].contiguous().view(torch.uint8).cpu().numpy()

    def wide(self, rows: slice | np.ndarray, columns: slice = slice(None)) -> np.ndarray:
        """The chosen rows and columns as a new float64 array, on the CPU: for samples."""
        found: np.ndarray = self.wide_there(rows, columns).cpu().numpy()
        return found

    def beside(self, values: np.ndarray) -> Rows:
        import torch

        there = torch.as_tensor(np.ascontiguousarray(values), device=self.values.device)
        return replace(self, values=there, dtype="float64")

    def wide_there(self, rows: slice | np.ndarray, columns: slice = slice(None)) -> Any:
        import torch

        chosen = rows if isinstance(rows, slice) else torch.as_tensor(rows, device=self.values.device)
        return self.values[chosen][:, columns].to(torch.float64, copy=True)

    def returned(self, tensor: Any) -> Any:
        """A tensor as an array of the framework that the rows came from, without a copy."""
        if self.framework == "cupy":
            return sys.modules["cupy"].from_dlpack(tensor)
        if self.framework == "jax":
            return sys.modules["jax"].dlpack.from_dlpack(tensor)
        return tensor


def as_rows(x: Any, *, function: str, name: str, gpu: bool = False) -> Rows:
    """View ``x`` as rows without copying.

    Example::

        rows = as_rows(np.zeros((100, 8), np.float32), function="cka", name="x")   # len(rows) == 100

    Parameters
    ----------
    x: [n, d] numpy array or memmap, torch CPU tensor, or CPU array with ``__dlpack__``; float16, bfloat16, float32 or
        float64; rows may be strided, features must be contiguous. Subclasses are read as the array or tensor they are.
    function, name: who asks, for the error message.
    gpu: whether a torch, CuPy, JAX or other array on a GPU will do, which becomes a torch tensor of the same memory.

    Raises
    ------
    TypeError: not an array, an unsupported dtype, or a masked array.
    ValueError: not two-dimensional, empty, not where it can be worked on, requiring gradients, a lazy negation,
        or with features apart in memory.
    """
    where = f"[{function}] expected {name}"
    if isinstance(x, DeviceRows) and not gpu:
        raise _not_there(where, name, function, f"device {x.device}")
    if isinstance(x, Rows):
        return x
    found = _on_gpu(x, name, where, function, gpu)
    if found is not None:
        return found
    values, dtype = _as_numpy(x, name, where)
    _require_matrix(dtype, tuple(values.shape), name, where)
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


def _require_matrix(dtype: str, shape: tuple[int, ...], name: str, where: str) -> None:
    if dtype not in DTYPES:
        raise TypeError(f"{where} of dtype float16, bfloat16, float32 or float64, got {dtype}{_cast(dtype, name)}")
    if len(shape) != 2:
        raise ValueError(f"{where} with two dimensions [rows, columns], got shape {shape}")
    if 0 in shape:
        raise ValueError(f"{where} with at least one row and one column, got shape {shape}, which is empty")


def _on_gpu(x: Any, name: str, where: str, function: str, allowed: bool) -> DeviceRows | None:
    """Rows of an array that does not lie on the CPU; None for all others."""
    torch = sys.modules.get("torch")
    framework = type(x).__module__.partition(".")[0]
    if torch is not None and isinstance(x, torch.Tensor):
        if x.device.type == "cpu":
            return None
        framework = "torch"  # of a subclass too
        cuda, place = x.device.type == "cuda", f"device {x.device}"
    elif not isinstance(x, np.ndarray) and hasattr(x, "__dlpack__") and hasattr(x, "__dlpack_device__"):
        kind, number = (int(part) for part in x.__dlpack_device__())
        if kind == _CPU:
            return None
        cuda, place = kind == _CUDA, f"a {framework} array on DLPack device {kind}:{number}"
    else:
        return None
    if not (allowed and cuda):
        raise _not_there(where, name, function, place)
    tensor: Any = x
    if framework == "torch":
        _require_plain(x, name, where)
    else:
        from torch import from_dlpack

        tensor = from_dlpack(x)
    dtype = str(tensor.dtype).removeprefix("torch.")
    _require_matrix(dtype, tuple(tensor.shape), name, where)
    if tensor.shape[1] > 1 and tensor.stride(1) != 1:
        raise ValueError(f"{where} with contiguous features (row-major), got strides {tensor.stride()} elements")
    return DeviceRows(tensor, dtype, name, {"jaxlib": "jax"}.get(framework, framework))


def _not_there(where: str, name: str, function: str, place: str) -> ValueError:
    return ValueError(
        f"{where} on the CPU (this build has no GPU operations for {function}), got {place}; pass {name} from the "
        "host, as .cpu() gives it"
    )


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

    _require_plain(x, name, where)
    try:
        if x.dtype == torch.bfloat16:
            return x.view(torch.int16).numpy().view(np.uint16), "bfloat16"
        return x.numpy(), str(x.dtype).removeprefix("torch.")
    except (RuntimeError, TypeError) as error:  # a subclass without memory of its own
        raise TypeError(f"{where} as a tensor that numpy can read, got {type(x).__name__}") from error


def _require_plain(x: Any, name: str, where: str) -> None:
    """Refuse a torch tensor that is no dense matrix of floats without gradient."""
    import torch

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


def tracks_gradient(*arrays: Any) -> bool:
    """Whether one of them is a torch tensor that requires grad."""
    torch = sys.modules.get("torch")
    return torch is not None and any(isinstance(x, torch.Tensor) and x.requires_grad for x in arrays)


def same_inputs(x: Rows, y: Rows, *, function: str) -> int:
    """The number of rows of both.

    Raises
    ------
    ValueError: the two differ, or lie on different devices.
    """
    same_device(x, y, function=function)
    if len(x) != len(y):
        raise ValueError(f"[{function}] expected {y.name} with {len(x)} rows like {x.name}, got {len(y)}")
    return len(x)


def same_device(x: Rows, y: Rows, *, function: str) -> None:
    """Refuse rows that lie on different devices.

    Raises
    ------
    ValueError: as said.
    """
    if x.device != y.device:
        raise ValueError(f"[{function}] expected {y.name} on {x.device} like {x.name}, got {y.device}")


def on_cpu(array: Any) -> Any:
    """An array of any framework and device as a numpy array; what is one, or no array at all, as it is."""
    if isinstance(array, np.ndarray) or not hasattr(array, "__dlpack__"):
        return array
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, torch.Tensor):
        return array.cpu().numpy()
    return array.get() if hasattr(array, "get") else np.array(array)  # CuPy's word for it; JAX
