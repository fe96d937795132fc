"""The measure as a torch function: input checks, the choice of the route, forward and backward."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ... import reductions
from ...arguments import whole_number
from ...arrays import as_rows
from ...kernels import Bandwidth, Kernel, as_kernel
from ..centred import LEAST_ROWS, check_estimator
from .feature_space import FeatureSums
from .kernel_tiles import TiledKernel, only_linear, tiled
from .rows import Place, Side
from .statistic import Task
from .tiles import TileSums


def alikeness(
    x: Any,
    y: Any,
    *,
    statistic: str,
    estimator: str,
    kernel: str | Kernel,
    block_rows: int | None = None,
    **others: Any,
) -> Tensor:
    """:func:`repsim.cka` or :func:`repsim.hsic` (the ``statistic``) as a tensor that can be differentiated.

    Example::

        x = torch.randn(1000, 64, requires_grad=True)
        repsim.cka(x, y).backward()                     # y [1000, 32]; then x.grad is [1000, 64]

    Parameters
    ----------
    x, y: [n, d] and [n, d'] tensors of float16, bfloat16, float32 or float64 on one device, of which at least one
        requires grad. The other may be whatever the measure takes without gradient; blocks of an array are brought to
        the tensor's device as they are needed. The dtypes may differ. Tested on the CPU; the same code is meant for
        CUDA, where it is untested.
    estimator, kernel: as without gradient. A bandwidth given as a fraction of the median distance is taken from the
        data and held constant in the gradient; it needs CPU tensors.
    block_rows: rows and columns of a tile (default: what fits 64 MiB, on a GPU 512 MiB). The last digits depend on it.
    others: what only the measure without gradient takes: None.

    Returns
    -------
    A tensor without dimensions: no Similarity, no z and no p. It is float64 where one of the inputs is, and float32
    otherwise. Linear kernels with no more features than inputs are summed in float64; tiles have the result's dtype,
    but float64 for polynomials, LaplacianL2, and linear and cosine kernels within products, which float32 would serve
    badly; sums over tiles are float64. Automatic mixed precision does not reach in here; float32 products are as exact
    as torch.set_float32_matmul_precision makes them. A gradient has the dtype of its input. Where torch records no
    gradients (torch.no_grad), the result has none.

    Raises
    ------
    TypeError, ValueError: as without gradient, and for tensors on two devices.
    RuntimeError: where the gradient is itself differentiated.
    """
    check_estimator(estimator, function=statistic)
    chosen = as_kernel(kernel, function=statistic)
    if block_rows is not None:
        whole_number(block_rows, "block_rows", function=statistic)
    for name, value in others.items():
        if value is not None:
            raise ValueError(
                f"[{statistic}] expected {name} only with inputs that require no gradient, got {value!r}; "
                f"leave it out, or pass x.detach() and y.detach()"
            )
    device = next(z.device for z in (x, y) if isinstance(z, Tensor) and z.requires_grad)
    sides = (Side.of(x, "x", device, statistic), Side.of(y, "y", device, statistic))
    n = len(sides[0])
    if len(sides[1]) != n:
        raise ValueError(f"[{statistic}] expected y with {n} rows like x, got {len(sides[1])}")
    least = LEAST_ROWS[estimator]
    if n < least:
        raise ValueError(f"[{statistic}] expected x with at least {least} rows for the {estimator} estimator, got {n}")
    double = any(side.dtype == torch.float64 for side in sides)
    task = Task(statistic, estimator, chosen, torch.float64 if double else torch.float32, block_rows)
    tensors = [side.values if isinstance(side.values, Tensor) else None for side in sides]
    result: Tensor = _Alikeness.apply(*tensors, sides, task)
    return result


class _Alikeness(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor | None, y: Tensor | None, sides: tuple[Side, Side], task: Task) -> Tensor:
        with _exactly(sides[0].device):
            sums = _sums(sides, task)
        value, mixtures = sums.inner.statistic(task)
        ctx.save_for_backward(x, y)
        ctx.arrays = [None if isinstance(side.values, Tensor) else side for side in sides]
        ctx.sums, ctx.mixtures, ctx.function = sums, mixtures, task.name
        return torch.tensor(value, dtype=task.dtype, device=sides[0].device)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        # The tensors as torch saved them: it has then seen to it that nobody changed them in place.
        sides = [
            Side(tensor, name, gradient.device) if array is None else array
            for array, tensor, name in zip(ctx.arrays, ctx.saved_tensors, "xy", strict=True)
        ]
        by = gradient.detach().item()
        mixtures = [(by * other, by * own) for other, own in ctx.mixtures]
        with _exactly(gradient.device):
            found = ctx.sums.gradients(sides, mixtures, ctx.needs_input_grad[:2])
        if torch.is_grad_enabled():  # create_graph=True
            found = [
                None if one is None else _OnceOnly.apply(one, tensor, ctx.function)
                for one, tensor in zip(found, ctx.saved_tensors, strict=True)
            ]
        return found[0], found[1], None, None


class _OnceOnly(torch.autograd.Function):
    """A gradient that is recorded as one of the rows, so that its own gradient is refused rather than taken for 0."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, rows: Tensor, function: str) -> Tensor:
        ctx.function = function
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise RuntimeError(f"[{ctx.function}] expected to be differentiated once, got a gradient of its gradient")


@contextlib.contextmanager
def _exactly(device: torch.device) -> Iterator[None]:
    """Without a graph, and without the lower precision of automatic mixed precision."""
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        yield


def _sums(sides: tuple[Side, Side], task: Task) -> FeatureSums | TileSums:
    places = (Place.of(sides[0], task.name), Place.of(sides[1], task.name))
    weight = only_linear(task.kernel)
    if weight is not None and max(side.depth for side in sides) <= len(sides[0]):
        sums = FeatureSums.of(sides, places, weight, task)
        # Where one input outweighs all others, the debiased form is a difference of nearly equal sums; the tiles,
        # which leave the diagonal out, do not have to take it.
        if sums.keeps_digits():
            return sums
    x, y = (_tiled(side, place, task) for side, place in zip(sides, places, strict=True))
    return TileSums.of(sides, (x, y), task)


def _tiled(side: Side, place: Place, task: Task) -> TiledKernel:
    """The kernel over the rows of one side, of the bandwidths that these give it."""

    def typical(leaf: Bandwidth) -> float:
        if side.device.type != "cpu":
            raise ValueError(
                f"[{task.name}] expected kernel with sigma as a number for tensors on {side.device}, got {task.kernel}"
            )
        values = side.values.detach() if isinstance(side.values, Tensor) else side.values
        return reductions.median_distance(
            as_rows(values, function=task.name, name=side.name),
            distance=leaf.distance,
            sample=leaf.sample,
            function=task.name,
            threads=torch.get_num_threads(),
        )

    return tiled(task.kernel.resolve(typical), side, place, task.name)
