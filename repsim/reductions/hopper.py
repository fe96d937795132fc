"""The fused operations for Hopper GPUs (csrc/cuda/hopper.h), for torch tensors.

They are a library of their own, repsim/_hopper.so, which REPSIM_HOPPER_LIBRARY overrides. No measure uses them unless
REPSIM_HOPPER=1 asks for it: they have been compiled and emulated, and not yet run on a GPU.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

PRECISIONS = {"medium": 0, "high": 1, "highest": 2}
PARTS = {"medium": 1, "high": 2, "highest": 3}
FILTERS = {"bfloat16": "medium", "bfloat16x3": "high", "bfloat16x6": "highest"}  # of neighbours: products of parts
KERNELS = {"linear": 0, "polynomial": 1, "rbf": 2}
MOST_DEGREE = 4  # of a polynomial in registers
NO_FLOOR = 0x00800000 << 32  # the key of -FLT_MAX, in the last place
LIST_ROOM = 1024  # candidates that a list holds while it is searched
FARTHEST = 128.0  # gain times both halves: beyond, float32 products lose digits of the distances between near rows
LIBRARY = Path(__file__).parents[1] / "_hopper.so"


class _SplitRows(ctypes.Structure):
    _fields_ = (
        ("parts", ctypes.c_void_p), ("half", ctypes.c_void_p), ("rows", ctypes.c_int64), ("depth", ctypes.c_int64),
        ("row_stride", ctypes.c_int64), ("part_stride", ctypes.c_int64), ("half_stride", ctypes.c_int64),
    )  # fmt: skip


class _FusedKernel(ctypes.Structure):
    _fields_ = (
        ("i", _SplitRows), ("j", _SplitRows), ("kernel", ctypes.c_int), ("gain", ctypes.c_float),
        ("shift", ctypes.c_float), ("coefficients", ctypes.POINTER(ctypes.c_float)), ("degree", ctypes.c_int),
    )  # fmt: skip


class _BlockRange(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_int64) for name in ("first_i", "rows_i", "first_j", "rows_j"))


class _Search(ctypes.Structure):
    _fields_ = (("i", _SplitRows), ("j", _SplitRows), ("precision", ctypes.c_int))


class _Served(ctypes.Structure):
    _fields_ = (
        ("first_i", ctypes.c_int64), ("index_j", ctypes.c_int64), ("step_j", ctypes.c_int64),
        ("inputs_i", ctypes.c_void_p), ("triangle", ctypes.c_bool), ("columns_too", ctypes.c_bool),
        ("own", ctypes.c_bool),
    )  # fmt: skip


class _Candidates(ctypes.Structure):
    _fields_ = (
        ("keys", ctypes.c_void_p), ("counts", ctypes.c_void_p), ("floors", ctypes.c_void_p),
        ("capacity", ctypes.c_int64),
    )  # fmt: skip


def library_path() -> Path:
    """Where the library is, or would be."""
    return Path(os.environ.get("REPSIM_HOPPER_LIBRARY", LIBRARY))


@functools.cache
def _library() -> ctypes.CDLL:
    path = library_path()
    if not path.exists():
        raise FileNotFoundError(
            f"[hopper] expected the library of the fused operations at {path}, got none: build with REPSIM_CUDA=ON "
            f"where the CUTLASS headers are"
        )
    library = ctypes.CDLL(str(path))
    sizes = np.zeros(6, np.int64)
    library.repsim_hopper_sizes(ctypes.c_void_p(sizes.ctypes.data))
    own = [ctypes.sizeof(one) for one in (_SplitRows, _FusedKernel, _BlockRange, _Search, _Served, _Candidates)]
    if own != sizes.tolist():
        raise RuntimeError(f"[hopper] expected structures of {own} bytes in {path}, got {sizes.tolist()}; rebuild it")
    for name in ("set_device", "split_rows", "kernel_sums", "collect", "search_rows", "search_all_pairs"):
        getattr(library, f"repsim_hopper_{name}").restype = ctypes.c_char_p
    return library


def forget_library() -> None:
    """Load the library again the next time: REPSIM_HOPPER_LIBRARY has changed."""
    _library.cache_clear()


def _call(name: str, where: torch.Tensor, *arguments: Any) -> None:
    """Queues an operation on torch's current stream of the device of a tensor."""
    import torch

    if not where.is_cuda:
        raise ValueError(f"[hopper] expected tensors on a Hopper GPU, got {where.device}")
    stream = ctypes.c_void_p(torch.cuda.current_stream(where.device).cuda_stream)
    for operation, given in (("set_device", (where.device.index,)), (name, (*arguments, stream))):
        error = getattr(_library(), f"repsim_hopper_{operation}")(*given)
        if error is not None:
            raise RuntimeError(error.decode())


def _at(tensor: torch.Tensor | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def available(device: Any) -> bool:
    """Whether the library is there and the device is a Hopper GPU."""
    import torch

    return library_path().exists() and torch.cuda.get_device_capability(device) == (9, 0)


@dataclass(frozen=True)
class Split:
    """Rows as sums of bfloat16 parts, and half their squared norms."""

    parts: torch.Tensor  # [parts, n, width] bfloat16, width a multiple of 8
    half: torch.Tensor | None  # [n] float32; None: 0, for the inner product
    depth: int

    def rows(self, which: slice | torch.Tensor) -> Split:
        """A copy of some of them."""
        half = None if self.half is None else self.half[which].contiguous()
        return Split(self.parts[:, which].contiguous(), half, self.depth)

    def _flat(self) -> _SplitRows:
        parts, n, _ = self.parts.shape
        if self.parts.stride(2) != 1 or self.parts.stride(1) % 8 or self.parts.data_ptr() % 16:
            raise ValueError("[hopper] expected parts with unit stride and rows that begin at multiples of 16 bytes")
        stride = self.parts.stride(1)
        half = None if self.half is None else self.half.data_ptr()
        part_stride = self.parts.stride(0) if parts > 1 else n * stride
        return _SplitRows(self.parts.data_ptr(), half, n, self.depth, stride, part_stride, 1)


def split(x: torch.Tensor, precision: str, *, residuals: bool = False) -> tuple[Split, torch.Tensor | None]:
    """Rows [n, d] float32 on a Hopper GPU as the parts that a precision takes; how far they lie from the rows [n]."""
    import torch

    n, depth = x.shape
    width = -(-depth // 8) * 8
    parts = torch.empty((PARTS[precision], n, width), dtype=torch.bfloat16, device=x.device)
    half = torch.empty(n, dtype=torch.float32, device=x.device)
    lost = torch.empty(n, dtype=torch.float32, device=x.device) if residuals else None
    _call(
        "split_rows", x, _at(x), ctypes.c_int64(n), ctypes.c_int64(depth), ctypes.c_int64(x.stride(0)),
        PRECISIONS[precision], _at(parts), ctypes.c_int64(width), _at(half), _at(lost),
    )  # fmt: skip
    return Split(parts, half, depth), lost


Base = Callable[[], Iterable[tuple[int, Split]]]  # the rows that are searched, in parts: where one begins, and it


@dataclass(frozen=True)
class FusedMatrix:
    """A kernel matrix minus a shift, between two blocks."""

    i: Split
    j: Split
    kernel: str  # "linear", "polynomial" or "rbf"
    gain: float
    shift: float
    coefficients: Sequence[float] = ()  # of a polynomial; its halves are what is added for both rows

    def _flat(self) -> _FusedKernel:
        count = len(self.coefficients)
        own = (ctypes.c_float * max(count, 1))(*self.coefficients)
        kernel = KERNELS[self.kernel]
        return _FusedKernel(self.i._flat(), self.j._flat(), kernel, self.gain, self.shift, own, count - 1)


def kernel_sums(
    matrices: Sequence[FusedMatrix],
    precision: str,
    span: tuple[int, int, int, int],
    row_bits: int,
    row_sums: torch.Tensor,
    products: Sequence[torch.Tensor],
) -> None:
    """Adds one pair of blocks to ``row_sums`` [2, n] int64 and ``products``, three times [2] int64."""
    flat = (_FusedKernel * 2)(*(one._flat() for one in matrices))
    to = (ctypes.c_void_p * 3)(*(one.data_ptr() for one in products))
    _call(
        "kernel_sums", row_sums, flat, PRECISIONS[precision], ctypes.byref(_BlockRange(*span)),
        ctypes.c_int64(row_sums.shape[1]), row_bits, _at(row_sums), to,
    )  # fmt: skip


@dataclass(frozen=True)
class Lists:
    """The candidates of n rows: the best of each in any order once a search has ended."""

    keys: torch.Tensor  # [n, capacity] int64, whose bits are unsigned keys
    counts: torch.Tensor  # [n] int32
    floors: torch.Tensor  # [n] int64
    overflowed: torch.Tensor  # [n] uint8: more came than fitted, the list is empty

    @classmethod
    def empty(cls, n: int, capacity: int, device: Any) -> Lists:
        import torch

        return cls(
            torch.empty((n, capacity), dtype=torch.int64, device=device),
            torch.zeros(n, dtype=torch.int32, device=device),
            torch.full((n,), NO_FLOOR, dtype=torch.int64, device=device),
            torch.zeros(n, dtype=torch.uint8, device=device),
        )

    def _flat(self) -> Any:
        return ctypes.byref(
            _Candidates(
                self.keys.data_ptr(), self.counts.data_ptr(), self.floors.data_ptr(), ctypes.c_int64(self.keys.shape[1])
            )
        )


def search_rows(
    i: Split, j: Split, precision: str, kept: int, lists: Lists, *, first_j: int = 0,
    inputs: torch.Tensor | None = None, own: bool = False, certain: bool = False,
) -> None:  # fmt: skip
    """The ``kept`` best rows of j, and of those that the lists hold, for every row of i.

    ``first_j``: the input that row 0 of j is. ``own``: row r is input ``inputs[r]``, or r, and not its own.
    """
    _call(
        "search_rows", lists.keys, ctypes.byref(_Search(i._flat(), j._flat(), PRECISIONS[precision])),
        ctypes.byref(_Served(0, first_j, 1, None if inputs is None else inputs.data_ptr(), False, False, own)),
        ctypes.c_int64(kept), int(certain), lists._flat(), _at(lists.overflowed),
    )  # fmt: skip


def _again(lists: Lists, x: Split, base: Base, precision: str, kept: int, own: int | None) -> None:
    """Searches the rows whose lists overflowed again, in rounds so narrow that none can."""
    rows = lists.overflowed.nonzero()[:, 0]
    if not len(rows):
        return
    again = Lists.empty(len(rows), lists.keys.shape[1], lists.keys.device)
    inputs = None if own is None else rows + own
    _search(x.rows(rows), base, precision, kept, again, inputs, certain=True)
    lists.keys[rows], lists.counts[rows], lists.floors[rows] = again.keys, again.counts, again.floors
    lists.overflowed[rows] = again.overflowed


def _search(
    x: Split, base: Base, precision: str, kept: int, lists: Lists, inputs: torch.Tensor | None, *, certain: bool
) -> None:
    for first, part in base():
        search_rows(
            x, part, precision, kept, lists, first_j=first, inputs=inputs, own=inputs is not None, certain=certain
        )


def search_all_pairs(x: Split, precision: str, kept: int, lists: Lists, *, sampled: int | None = None) -> None:
    """The ``kept`` best of all other rows, every pair once; lists that overflow are searched again one by one.

    ``sampled``: rows that the first thresholds are found among; by default as many as let half a list fill.
    """
    n, capacity = lists.keys.shape
    if sampled is None:
        sampled = min(max(2 * kept * n // capacity, 16 * kept), n)
    _call(
        "search_all_pairs", lists.keys, ctypes.byref(_Search(x._flat(), x._flat(), PRECISIONS[precision])),
        ctypes.c_int64(kept), ctypes.c_int64(sampled), lists._flat(), _at(lists.overflowed),
    )  # fmt: skip
    _again(lists, x, lambda: [(0, x)], precision, kept, 0)


# ------------------------------------------------------------------------------------- in place of tiles of products


def asked_for(device: Any) -> bool:
    """Whether REPSIM_HOPPER=1 asks for the fused operations, and there they are."""
    return os.environ.get("REPSIM_HOPPER") == "1" and available(device)


def takes(matrices: Sequence[Sequence[tuple]], left: int) -> bool:
    """Whether these matrices of packed blocks, as repsim::kernel_sums has them, are summed by the fused kernel.

    They are two, each a single linear, polynomial or RBF kernel; rows of the last lie so near to the origin that no
    distance between near rows loses its digits. To know that, the halves are looked at, which waits for the GPU.
    """
    if len(matrices) != 2 or left != 1 or any(len(terms) != 1 or len(terms[0][0]) != 1 for terms in matrices):
        return False
    if not asked_for(matrices[0][0][0][0][0][0].values.device):
        return False
    for (factors, _, weight), *_ in matrices:
        (_, half_i), (_, half_j), kernel, gain, coefficients = factors[0]
        if kernel not in KERNELS or weight != 1.0 or len(coefficients) > MOST_DEGREE + 1:
            return False
        if kernel == "rbf" and gain * float(half_i.max() + half_j.max()) > FARTHEST:
            return False
    return True


def _split_block(block: Any, half: torch.Tensor) -> tuple[Split, str]:
    """A packed block as parts, and the precision that its words stand for."""
    values = block.values[: block.count]
    if block.words == "bfloat16":
        return Split(values[None], half, values.shape[1]), "medium"
    precision = "high" if block.words == "tfloat32" else "highest"
    return split(values, precision)[0], precision


def sum_blocks(
    matrices: Sequence[Sequence[tuple]],
    span: tuple[int, int, int, int],
    row_bits: int,
    row_sums: torch.Tensor,
    products: torch.Tensor,
) -> None:
    """As :func:`repsim.reductions.device.kernel_sums`, for matrices that the fused kernel takes."""
    fused = []
    for (factors, shift, _), *_ in matrices:
        (i, half_i), (j, half_j), kernel, gain, coefficients = factors[0]
        left, precision = _split_block(i, half_i)
        right = left if i is j else _split_block(j, half_j)[0]
        if kernel == "polynomial":  # what is added for a row, not half its squared norm
            left, right = replace(left, half=half_i), replace(right, half=half_j)
        fused.append(FusedMatrix(left, right, kernel, gain, shift, coefficients))
    kernel_sums(fused, precision, span, row_bits, row_sums, [products[p, q, 0] for p, q in ((0, 0), (0, 1), (1, 1))])


def lists_fit(n: int, device: Any, room: int | None) -> bool:
    """Whether the lists of so many rows fit in the room, or in a quarter of the memory that is free."""
    import torch

    return 8 * LIST_ROOM * n <= (torch.cuda.mem_get_info(device)[0] // 4 if room is None else room)


def best_rows(x: Split, base: Base, precision: str, kept: int, *, own: int | None) -> Lists:
    """The ``kept`` best rows of a base for every row. ``own``: row r of x is row ``own`` + r of it, and not its own."""
    import torch

    n, device = x.parts.shape[1], x.parts.device
    lists = Lists.empty(n, LIST_ROOM, device)
    inputs = None if own is None else torch.arange(own, own + n, device=device)
    _search(x, base, precision, kept, lists, inputs, certain=False)
    _again(lists, x, base, precision, kept, own)
    return lists
