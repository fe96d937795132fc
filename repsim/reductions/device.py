"""The native operations on a GPU, for rows that are torch tensors there, under the names that they have on the CPU.

Products of rows are torch's GEMM, a tile at a time into one buffer; the kernels of repsim._cuda reduce a tile while it
lies in the cache. Which tiles there are is in device_grid.py.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import _core
from ..arrays import DeviceRows, Rows, as_rows
from . import hopper
from .device_grid import Span, TileAt, tiles_of
from .device_streams import rows_for, streaming

if TYPE_CHECKING:
    import torch

LEAST_CAPABILITY = (8, 0)
PRECISIONS = {"highest": "float32", "high": "tfloat32", "medium": "bfloat16"}


@functools.cache
def gpu_module() -> Any:
    """repsim._cuda, imported when the first rows on a GPU come."""
    return import_module("repsim._cuda")


def has_gpu_operations() -> bool:
    """Whether this build has the operations on the GPU."""
    return find_spec("repsim._cuda") is not None


def tensor_of(rows: Rows) -> torch.Tensor:
    """The tensor of rows that lie on a GPU."""
    values: Any = rows.values
    return values


def native(rows: Rows) -> Any:
    """Where the operations on such rows are: ``repsim._core``, or this module, which has the same names."""
    return sys.modules[__name__] if isinstance(rows, DeviceRows) else _core


def rows_on(x: Any, device: Any, *, function: str, name: str, gpu: bool = True) -> Rows:
    """What a caller gave as rows, for a device; ``gpu``: whether who asks works where rows lie, on a GPU too.

    Raises
    ------
    TypeError, ValueError: as :func:`repsim.arrays.as_rows` and :func:`rows_for`.
    """
    return rows_for(
        as_rows(x, function=function, name=name, gpu=gpu and has_gpu_operations()), device, function=function
    )


def device_of(rows: Rows) -> str:
    """Where rows are worked on: "cpu", or a GPU, such as "cuda:0 (NVIDIA H200)"."""
    if not isinstance(rows, DeviceRows):
        return "cpu"
    import torch

    where = rows.values.device
    return f"{where} ({torch.cuda.get_device_name(where) if where.type == 'cuda' else 'emulated'})"


@contextmanager
def _working(device: Any, function: str) -> Iterator[None]:
    import torch

    if torch.cuda.get_device_capability(device) < LEAST_CAPABILITY:
        raise ValueError(
            f"[{function}] expected a GPU of compute capability 8.0 or later, got {torch.cuda.get_device_name(device)}"
        )
    try:
        off = torch.autocast("cuda", enabled=False)
        with torch.cuda.device(device), _products_in_float32(), torch.no_grad(), off:
            gpu_module().set_device(torch.cuda.current_device())
            yield
    except torch.cuda.OutOfMemoryError as error:
        free, total = torch.cuda.mem_get_info(device)
        raise MemoryError(
            f"[{function}] expected room on {device}, got out of memory with {free / 2**30:.1f} of {total / 2**30:.1f} "
            f'GiB free; give a budget, such as memory="{max(free // 2**21, 1)}MiB", or free what else is held there'
        ) from error


@contextmanager
def working_on(matrices: Sequence[Rows], *, function: str) -> Iterator[None]:
    """While native operations run: on the GPU of the rows, in float32 without TF32, and without gradients.

    Of rows that are brought to a GPU nothing is held there, or under way, any more afterwards.

    Raises
    ------
    ValueError: the GPU is too old. MemoryError: its memory is used up; the error names the budget to set.
    """
    where = next((rows.values.device for rows in matrices if isinstance(rows, DeviceRows)), None)
    on_gpu = where is not None and where.type != "cpu"
    with _working(where, function) if on_gpu else nullcontext(), streaming(matrices):
        yield


@contextmanager
def _products_in_float32() -> Iterator[None]:
    """float32 products in float32, and those of bfloat16 summed in it, whatever the process has asked torch for."""
    import torch

    settings = torch.backends.cuda.matmul
    reduced = settings.allow_bf16_reduced_precision_reduction
    settings.allow_bf16_reduced_precision_reduction = False
    # The newer name, where there is one: torch refuses to read the older one once the newer one was set.
    name, exact = ("fp32_precision", "ieee") if hasattr(settings, "fp32_precision") else ("allow_tf32", False)
    before = getattr(settings, name)
    setattr(settings, name, exact)
    try:
        yield
    finally:
        setattr(settings, name, before)
        settings.allow_bf16_reduced_precision_reduction = reduced


def has_bfloat16_products() -> bool:
    """Whether this torch adds products of bfloat16 in float32: since 2.8."""
    import torch

    return hasattr(torch.ops.aten.mm, "dtype_out")


def zeros(rows: Rows, shape: tuple[int, ...]) -> Any:
    """int64 zeros where the rows are."""
    if not isinstance(rows, DeviceRows):
        return np.zeros(shape, np.int64)
    import torch

    return torch.zeros(shape, dtype=torch.int64, device=rows.values.device)


def product_sums(rows: Rows, count: int) -> Any:
    """Zeros for the ``products`` of kernel_sums [count, count, 2]; a GPU adds to several of them at once."""
    return zeros(rows, (count, count, gpu_module().SLOTS, 2) if isinstance(rows, DeviceRows) else (count, count, 2))


def on_host(array: Any) -> np.ndarray:
    """As a numpy array, after all work on it."""
    return array if isinstance(array, np.ndarray) else array.cpu().numpy()


def summed_products(products: Any) -> np.ndarray:
    """[count, count, 2] two limbs of 2^32 from what :func:`product_sums` made."""
    limbs = on_host(products)
    if limbs.ndim == 3:
        return limbs
    high, low = limbs[..., 0].sum(axis=2), (limbs[..., 1] & 0xFFFFFFFF).sum(axis=2)
    return np.stack([high + (low >> 32), low & 0xFFFFFFFF], axis=2)


def placed(rows: Rows, values: np.ndarray) -> Any:
    """The values where the rows are."""
    return _to(rows.values, values) if isinstance(rows, DeviceRows) else values


def _to(like: torch.Tensor, values: Any) -> torch.Tensor:
    import torch

    return torch.as_tensor(np.ascontiguousarray(values), device=like.device)


def address(tensor: torch.Tensor | None) -> int:
    """Where a tensor lies; 0 for none."""
    return 0 if tensor is None else tensor.data_ptr()


def stream_of(tensor: torch.Tensor) -> int:
    """torch's current stream on the device of a tensor."""
    import torch

    return int(torch.cuda.current_stream(tensor.device).cuda_stream) if tensor.device.type == "cuda" else 0


def source(values: torch.Tensor, dtype: str) -> tuple[int, str, int, int, int]:
    """Rows as the operations take them."""
    return values.data_ptr(), dtype, len(values), values.shape[1], values.stride(0)


# --------------------------------------------------------------------------------------------------------------- rows


def column_sums(values: torch.Tensor, dtype: str, sums: np.ndarray, threads: int) -> int:
    """Sum of every column; returns the first row that is not finite, or -1."""
    import torch

    bad = ~torch.isfinite(values).all(dim=1)
    if bool(bad.any()):
        return int(bad.to(torch.uint8).argmax())
    sums[:] = values.to(torch.float64).sum(dim=0).cpu().numpy()
    return -1


def squared_norms(values: torch.Tensor, dtype: str, shift: np.ndarray | None, norms: np.ndarray, threads: int) -> None:
    """norms[i] = |x_i - shift|^2."""
    norms[:] = _norms(values, dtype, shift, None, None)


def squared_norms_of_packed(rows: DeviceRows, scale: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """|x_i scale_i - offset|^2 [n]."""
    norms = np.empty(len(rows))
    for start, stop in rows.sweep():
        norms[start:stop] = _norms(rows.values[start:stop], rows.dtype, None, scale[start:stop], offset)
    return norms


def _norms(
    values: torch.Tensor, dtype: str, shift: np.ndarray | None, scale: np.ndarray | None, offset: np.ndarray | None
) -> np.ndarray:
    import torch

    found = torch.empty(len(values), dtype=torch.float64, device=values.device)
    given = [None if one is None else _to(values, one) for one in (shift, scale, offset)]
    gpu_module().squared_norms(source(values, dtype), *map(address, given), address(found), stream_of(values))
    return found.cpu().numpy()


def project_rows(
    values: torch.Tensor, dtype: str, shift: np.ndarray | None, vector: np.ndarray, products: np.ndarray, threads: int
) -> None:
    """products[i] = (x_i - shift) . vector."""
    import torch

    found = torch.empty(len(values), dtype=torch.float64, device=values.device)
    moved, along = None if shift is None else _to(values, shift), _to(values, vector)
    gpu_module().project_rows(source(values, dtype), address(moved), address(along), address(found), stream_of(values))
    products[:] = found.cpu().numpy()


@dataclass(frozen=True)
class Packed:
    """A block of packed rows [room, width] in whole tiles, with 8 features at a time; zero beyond both."""

    values: torch.Tensor
    words: str  # "float32", "tfloat32" or "bfloat16"
    count: int
    tile: int  # rows of a tile

    def rows(self, first: int) -> torch.Tensor:
        """The rows of the tile that begins there."""
        return self.values[first : first + self.tile]


def pack(
    rows: Rows,
    shift: np.ndarray | None,
    scale: np.ndarray,
    offset: np.ndarray | None,
    words: str,
    *,
    tile: int,
    residuals: bool = False,
) -> tuple[Packed, torch.Tensor, torch.Tensor | None]:
    """(row - shift) * scale - offset as ``words``, half the squared norms of that, how far it lies from the rows."""
    import torch

    values, count = tensor_of(rows), len(rows)
    room, width = -(-count // tile) * tile, -(-rows.depth // 8) * 8
    new = functools.partial(torch.empty, device=values.device)
    packed = new((room, width), dtype=torch.bfloat16 if words == "bfloat16" else torch.float32)
    halves = new(count, dtype=torch.float32)
    misses = new(count, dtype=torch.float32) if residuals else None
    given = [None if one is None else _to(values, one) for one in (shift, scale, offset)]
    gpu_module().pack_rows(
        source(values, rows.dtype), *map(address, given), words, address(packed), room, width, address(halves),
        address(misses), stream_of(values),
    )  # fmt: skip
    return Packed(packed, words, count, tile), halves, misses


# -------------------------------------------------------------------------------------------------------------- tiles


def product_tile(i: Packed, j: Packed, at: TileAt, to: torch.Tensor) -> None:
    """to[r][c] = x_r . x_c, in float32 sums; what lies beyond the rows and columns of the tile has no meaning."""
    import torch

    a, b = i.rows(at.i), j.rows(at.j)
    if i.words != "bfloat16":
        torch.mm(a, b.T, out=to)
    elif a.device.type == "cuda" and has_bfloat16_products():
        torch.mm(a, b.T, out_dtype=torch.float32, out=to)
    else:
        gpu_module().bfloat16_tile(address(a), address(b), a.shape[1], at.as_tuple(), address(to), stream_of(to))


class _Products:
    """Buffers for the tiles of products that the factors of one traversal share."""

    def __init__(self, matrices: Sequence[Sequence[tuple]], tile: int) -> None:
        import torch

        self.of: dict[tuple[int, bool], torch.Tensor] = {}
        self.blocks: dict[tuple[int, bool], tuple[Packed, Packed]] = {}
        for terms in matrices:
            for factors, _, _ in terms:
                for (i, _), (j, _), kernel, *_ in factors:
                    key = (id(i), kernel == "laplacian_l1")
                    if key not in self.of:
                        self.of[key] = torch.empty((tile, tile), dtype=torch.float32, device=i.values.device)
                        self.blocks[key] = (i, j)

    def make(self, at: TileAt) -> None:
        for key, (i, j) in self.blocks.items():
            if key[1]:
                manhattan_tile(i, j, at, self.of[key])
            else:
                product_tile(i, j, at, self.of[key])

    def matrix(self, terms: Sequence[tuple], at: TileAt) -> list[tuple]:
        """A matrix as the operations take it."""
        return [([self._factor(factor, at) for factor in factors], shift, weight) for factors, shift, weight in terms]

    def _factor(self, factor: tuple, at: TileAt) -> tuple:
        (i, half_i), (j, half_j), kernel, gain, coefficients = factor
        products = self.of[id(i), kernel == "laplacian_l1"]
        return pair_at(i, half_i, j, half_j, at, products), kernel, gain, coefficients


def pair_at(
    i: Packed, half_i: torch.Tensor, j: Packed, half_j: torch.Tensor, at: TileAt, products: torch.Tensor
) -> tuple[int, int, int, str, int, int, int]:
    """Both sides of a tile, and its products, as the operations take them."""
    width, size = i.values.shape[1], i.values.element_size()
    return (
        products.data_ptr(), i.values.data_ptr() + at.i * width * size, j.values.data_ptr() + at.j * width * size,
        i.words, width, half_i.data_ptr() + 4 * at.i, half_j.data_ptr() + 4 * at.j,
    )  # fmt: skip


def manhattan_tile(i: Packed, j: Packed, at: TileAt, to: torch.Tensor) -> None:
    """to[r][c] = -|x_r - x_c|_1."""
    a, b = i.rows(at.i).float(), j.rows(at.j).float()  # of float32 and tf32 itself
    gpu_module().manhattan_tile(address(a), address(b), a.shape[1], at.as_tuple(), address(to), stream_of(to))


def _values_as_matrix(values: torch.Tensor) -> list[tuple]:
    """A tile of values as a matrix of its own."""
    pair = (address(values), 0, 0, "float32", 0, 0, 0)
    return [([(pair, "linear", 1.0, [])], 0.0, 1.0)]


def check_size(factors: int, coefficients: int, *, function: str) -> None:
    """Refuse a kernel of more parts than one launch takes.

    Raises
    ------
    ValueError: as said.
    """
    if factors > gpu_module().MOST_FACTORS or coefficients > gpu_module().MOST_COEFFICIENTS:
        raise ValueError(
            f"[{function}] expected a kernel of at most {gpu_module().MOST_FACTORS} factors and "
            f"{gpu_module().MOST_COEFFICIENTS} coefficients on a GPU, got {factors} and {coefficients}"
        )


def _fit_together(matrices: Sequence[Sequence[tuple]]) -> bool:
    factors = [factor for terms in matrices for part, _, _ in terms for factor in part]
    coefficients = sum(len(factor[4]) for factor in factors)
    return (
        len(matrices) <= 2
        and len(factors) <= gpu_module().MOST_FACTORS
        and coefficients <= gpu_module().MOST_COEFFICIENTS
    )


def _first_block(matrices: Sequence[Sequence[tuple]]) -> Packed:
    return matrices[0][0][0][0][0][0]


def _across(count: int, left: int) -> list[tuple[int, int]]:
    return [(p, q) for p in range(left) for q in range(left, count)]


def kernel_sums(
    matrices: Sequence[Sequence[tuple]],
    left: int,
    span: Span,
    row_bits: int,
    row_sums: torch.Tensor,
    products: torch.Tensor,
    threads: int,
) -> None:
    """As repsim::kernel_sums, for matrices of :class:`Packed` blocks; ``products`` [count, count, slots, 2]."""
    import torch

    if hopper.takes(matrices, left):
        hopper.sum_blocks(matrices, span, row_bits, row_sums, products)
        return

    count, tile, stream = len(matrices), _first_block(matrices).tile, stream_of(row_sums)
    buffers = _Products(matrices, tile)
    together = count == 2 and left == 1 and _fit_together(matrices)
    apart = 0 if together else count
    values = [torch.empty((tile, tile), dtype=torch.float32, device=row_sums.device) for _ in range(apart)]
    rows = [address(row_sums[p]) for p in range(count)]
    for at in tiles_of(span, tile, tile, symmetric=True):
        buffers.make(at)
        made = [buffers.matrix(terms, at) for terms in matrices]
        where = at.as_tuple()
        if together:
            pairs = [address(products[p, q]) for p, q in ((0, 0), (0, 1), (1, 1))]
            gpu_module().kernel_sums(made, where, row_bits, 0, rows, pairs, stream)
            continue
        for p in range(count):
            own = [address(products[p, p]), 0, 0]
            gpu_module().kernel_sums([made[p]], where, row_bits, address(values[p]), [rows[p], 0], own, stream)
        for p, q in _across(count, left):
            both = [_values_as_matrix(values[p]), _values_as_matrix(values[q])]
            gpu_module().kernel_sums(both, where, row_bits, 0, [0, 0], [0, address(products[p, q]), 0], stream)


def kernel_row_terms(
    matrices: Sequence[Sequence[tuple]],
    left: int,
    span: Span,
    row_bits: int,
    vectors: torch.Tensor,
    pair_sums: torch.Tensor,
    vector_sums: torch.Tensor,
    threads: int,
) -> None:
    """As repsim::kernel_row_terms."""
    import torch

    count, tile, stream = len(matrices), _first_block(matrices).tile, stream_of(vectors)
    buffers = _Products(matrices, tile)
    values = [torch.empty((tile, tile), dtype=torch.float32, device=vectors.device) for _ in matrices]
    own = [_values_as_matrix(one) for one in values]
    for at in tiles_of(span, tile, tile, symmetric=True):
        buffers.make(at)
        where = at.as_tuple()
        for p, terms in enumerate(matrices):
            made = [buffers.matrix(terms, at)]
            gpu_module().kernel_sums(made, where, row_bits, address(values[p]), [0, 0], [0, 0, 0], stream)
            gpu_module().kernel_pair_sums([own[p]], where, row_bits, [address(pair_sums[p, p]), 0, 0], stream)
            through = [address(vector_sums[p, p]), 0, 0, 0]
            gpu_module().kernel_vector_sums([own[p]], where, row_bits, [address(vectors[p])], through, stream)
        for p, q in _across(count, left):
            both, ahead = [own[p], own[q]], [address(vectors[p]), address(vectors[q])]
            gpu_module().kernel_pair_sums(both, where, row_bits, [0, address(pair_sums[p, q]), 0], stream)
            through = [0, address(vector_sums[p, q]), address(vector_sums[q, p]), 0]
            gpu_module().kernel_vector_sums(both, where, row_bits, ahead, through, stream)


def distance_histogram(
    i: tuple, j: tuple, distance: str, span: Span, dropped: int, first: int, bins: np.ndarray, threads: int
) -> int:
    """As repsim::distance_histogram."""
    import torch

    (packed_i, half_i), (packed_j, half_j) = i, j
    tile, device = packed_i.tile, packed_i.values.device
    buffer = torch.empty((tile, tile), dtype=torch.float32, device=device)
    found = torch.zeros(len(bins) + 1, dtype=torch.int64, device=device)  # the last: how many lie below
    for at in tiles_of(span, tile, tile, symmetric=True):
        if distance == "manhattan":
            manhattan_tile(packed_i, packed_j, at, buffer)
        else:
            product_tile(packed_i, packed_j, at, buffer)
        pair = pair_at(packed_i, half_i, packed_j, half_j, at, buffer)
        gpu_module().distance_histogram(
            pair, distance, at.as_tuple(), dropped, first, address(found), len(bins), address(found[-1:]),
            stream_of(buffer),
        )  # fmt: skip
    counts = on_host(found)
    bins += counts[:-1]
    return int(counts[-1])
