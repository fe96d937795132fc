"""HSIC of linear kernels from products of features, in float64 and one pass over the rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from .. import _core, blocks
from ..arguments import Progress, require_memory
from ..arrays import RESIDENT_BYTES, DeviceRows, Rows
from . import device_moments
from .centre import power_of_two_below
from .moments import Centred, FeatureMoments, lifted_bytes, provisional_origin, room_for
from .sums import HsicSums, asked_pairs

Pair = tuple[int, int]

# Below this many operations, about a hundredth of a second, float64 costs nothing that anyone would notice.
SMALL_FLOP = 2e9


def feature_sums(
    matrices: Sequence[Rows],
    left: int,
    *,
    function: str,
    threads: int,
    memory: int | None = None,
    progress: Progress | None = None,
) -> HsicSums:
    """HSIC sums of linear kernels from d x d' products in float64, one for each of the pairs asked for.

    Every matrix is read once. With ``memory``, in bytes, products that do not fit at once are made in several passes,
    each of which reads the matrices of its pairs. Memory: (d + 2) (d' + 2) float64 for every pair of a pass, at most
    128 MiB of lifted rows (512 rows where they are wider), and 8 MiB of a memory map. On a GPU products are made in a
    second pass over the rows, about their means, and 8192 rows are lifted at a time: that, and what is on its way
    there, counts too. Cost: 2 n d d' flop a pair, half of that for a matrix with itself.

    Raises
    ------
    ValueError: a row is not finite (it is named), all rows of a matrix are equal, their fourth powers leave the range
        of float64, or the memory does not hold one pair.
    """
    n = len(matrices[0])
    asked = asked_pairs(len(matrices), left)
    if isinstance(matrices[0], DeviceRows):
        return _sums_on_device(matrices, asked, memory, function)
    plan = _passes(matrices, asked, memory, function)
    origins = [provisional_origin(rows) for rows in matrices]
    steps = sum(-(-n // room) for _, room in plan)
    found: dict[Pair, Centred] = {}
    done = 0
    for pairs, room in plan:
        members, own_pairs = _members(pairs)
        moments = FeatureMoments([origins[p] for p in members], own_pairs, room)
        own = [matrices[p] for p in members]
        for start in range(0, n, room):
            stop = min(start + room, n)
            for rows in own:
                rows.prefetch(stop, stop + room)  # while this block is worked on
            moments.add([rows.part(start, stop) for rows in own], function=function, threads=threads)
            done += 1
            if progress:
                progress(done, steps)
        moments.sum_gathered(threads=threads)
        moments.check_lengths(own, function=function)
        found |= {pair: moments.centred(*at) for pair, at in zip(pairs, own_pairs, strict=True)}
    return sums_of(len(matrices), found)


def _sums_on_device(matrices: Sequence[Rows], asked: Sequence[Pair], memory: int | None, function: str) -> HsicSums:
    def least(pairs: Sequence[Pair]) -> int:
        members, own_pairs = _members(pairs)
        return device_moments.moments_bytes([matrices[p] for p in members], own_pairs)

    found: dict[Pair, Centred] = {}
    for pairs in _grouped(matrices, asked, least, memory, function):
        members, own_pairs = _members(pairs)
        own = [matrices[p] for p in members]
        moments = device_moments.feature_moments(own, own_pairs, function=function)
        moments.check_lengths(own, function=function)
        found |= {pair: moments.centred(*at) for pair, at in zip(pairs, own_pairs, strict=True)}
    return sums_of(len(matrices), found)


def _members(pairs: Sequence[Pair]) -> tuple[list[int], list[Pair]]:
    """The matrices of some pairs, and these pairs as places among them."""
    members = sorted({p for pair in pairs for p in pair})
    return members, [(members.index(p), members.index(q)) for p, q in pairs]


def sums_of(count: int, centred: Mapping[Pair, Centred]) -> HsicSums:
    """HSIC sums of ``count`` matrices from the centred products of pairs of them.

    The biased form is |X'Y|_F^2. The debiased one follows from the diagonal a_i = |x_i|^2 of the centred Gram matrix:
    sum = |X'Y|_F^2 - n/(n-2) sum a_i b_i + sum a sum b / ((n-1)(n-2)).
    """
    biased, debiased = np.full((2, count, count), math.nan)
    trace, squares, rounding = np.empty((3, count))
    # Powers of two, so that the product of any two squares is a number.
    scales = np.array([power_of_two_below(math.sqrt(centred[p, p].square)) for p in range(count)])
    n = 0
    for (p, q), c in centred.items():
        n = c.n
        a, b = float(scales[p]), float(scales[q])
        square = c.square / a / b
        biased[p, q] = square
        if n > 2:
            diagonals = n / (n - 2) * (c.sum_ab / a / b) - (c.sum_a / a) * (c.sum_b / b) / ((n - 1) * (n - 2))
            debiased[p, q] = square - diagonals
        if p == q:
            trace[p], squares[p] = c.sum_a / a, c.sum_ab / a / a
            rounding[p] = 1e-6 * square  # a millionth left of the difference: six digits of it are gone
    return HsicSums(n, biased, debiased, trace, squares, rounding, scales, "float64")


def feature_space_flop(n: int, depths: Sequence[int], left: int) -> float:
    """What :func:`feature_sums` of matrices [n, d] costs, in float32 operations: float64 ones count twice."""
    return sum(2.0 * n * depths[p] * depths[q] * (1 if p == q else 2) for p, q in asked_pairs(len(depths), left))


def tiles_flop(n: int, depths: Sequence[int]) -> float:
    """What ``kernel_sums`` costs: the upper triangle of n x n products of every matrix."""
    return float(n) ** 2 * sum(depths)


def less_in_feature_space(n: int, depths: Sequence[int], left: int) -> bool:
    """Whether products of features, in float64, are less work than tiles; or so little that their digits are free."""
    flop = feature_space_flop(n, depths, left)
    return (flop < SMALL_FLOP and max(depths) <= n) or flop <= tiles_flop(n, depths)


def _passes(
    matrices: Sequence[Rows], asked: Sequence[Pair], memory: int | None, function: str
) -> list[tuple[list[Pair], int]]:
    """Pairs to be made in one pass over their matrices, and the rows that it lifts at a time."""

    def depths(pairs: Sequence[Pair]) -> list[int]:
        return [matrices[p].depth for p in {p for pair in pairs for p in pair}]

    # Beside the products; of one map at a time some pages are held, and before that of one matrix some rows.
    resident = max((min(RESIDENT_BYTES, r.values.nbytes) if r.mapping else 0) for r in matrices)
    resident += blocks.sample_bytes([rows.depth for rows in matrices])

    def held(pairs: Sequence[Pair]) -> int:
        return resident + sum((matrices[p].depth + 2) * (matrices[q].depth + 2) * 8 for p, q in pairs)

    def least(pairs: Sequence[Pair]) -> int:
        return held(pairs) + lifted_bytes(depths(pairs), _core.SUMMED_ROWS)

    passes = _grouped(matrices, asked, least, memory, function)
    budgets = [
        blocks.PACKED_BUDGET if memory is None else min(blocks.PACKED_BUDGET, memory - held(pairs)) for pairs in passes
    ]
    return [(pairs, room_for(depths(pairs), budget)) for pairs, budget in zip(passes, budgets, strict=True)]


def _grouped(
    matrices: Sequence[Rows],
    asked: Sequence[Pair],
    least: Callable[[Sequence[Pair]], int],
    memory: int | None,
    function: str,
) -> list[list[Pair]]:
    """Pairs that are made in one pass: as many as the memory holds, of which they take the ``least`` together."""
    passes: list[list[Pair]] = []
    for pair in sorted(asked):  # those of one matrix follow each other: a pass reads few matrices
        if memory is not None:
            width = f"{matrices[pair[0]].depth} x {matrices[pair[1]].depth}"
            require_memory(least([pair]), memory, function=function, purpose=f"the {width} products of features")
        if passes and (memory is None or least([*passes[-1], pair]) <= memory):
            passes[-1].append(pair)
        else:
            passes.append([pair])
    return passes
