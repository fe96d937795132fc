"""Products of features on a GPU, in float64 by torch's GEMM and in a fixed order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..arrays import RESIDENT_ON_DEVICE, Rows
from .centre import column_sums
from .device import on_host, placed
from .device_streams import pinned_bytes, place_bytes
from .moments import LONGEST, FeatureMoments, provisional_origin, too_long

ROWS = 8192  # in float64 at a time; fixed, so that nothing that the caller chooses changes the order of the additions


def moments_bytes(matrices: Sequence[Rows], asked: Sequence[tuple[int, int]]) -> int:
    """The memory of :func:`feature_moments`: of the GPU, or what the host pins, whichever is more.

    On the way to the sums, rows are lifted in float64, three of them for one that is being lifted; before, the sums of
    columns take float64 rows and what tells whether they are finite.
    """
    widths = [rows.depth + 2 for rows in matrices]
    count = min(ROWS, len(matrices[0]))
    products = 8 * sum(widths[p] * widths[q] for p, q in asked)
    lifted = 8 * count * (sum(widths) + 3 * max(widths))
    summed = max(10 * min(RESIDENT_ON_DEVICE // rows.values.itemsize, len(rows) * rows.depth) for rows in matrices)
    least, of_a_row = place_bytes(matrices)
    places = max(least, count * of_a_row)
    return max(products + max(lifted, summed) + places, pinned_bytes(matrices, count))


def feature_moments(
    matrices: Sequence[Rows],
    asked: Sequence[tuple[int, int]],
    *,
    function: str,
    picked: Sequence[np.ndarray | None] | None = None,
) -> FeatureMoments:
    """The sums of products of lifted rows about the means, or close to them, as one pass over all rows leaves them.

    ``picked``: of every matrix the rows to take, in their order, instead of all; the means stay those of all.
    Memory: (d + 2) (d' + 2) float64 for every pair, and 8192 lifted rows of every matrix. Cost: 2 n d d' flop a pair.

    Raises
    ------
    ValueError: a row is not finite (it is named), or so long that its fourth power leaves float64.
    """
    import torch

    which = [None] * len(matrices) if picked is None else picked
    n = len(matrices[0]) if which[0] is None else len(which[0])
    origins = [_origin(rows, function) for rows in matrices]
    moments = FeatureMoments(origins, asked, ROWS)
    placed_origins = [placed(rows, origin) for rows, origin in zip(matrices, origins, strict=True)]
    sums = {pair: placed(matrices[pair[0]], product) for pair, product in moments.products.items()}
    longest = [torch.zeros((), dtype=torch.float64, device=origin.device) for origin in placed_origins]
    for start in range(0, n, ROWS):
        stop = min(start + ROWS, n)
        for rows, some in zip(matrices, which, strict=True):
            if some is None:
                rows.prefetch(stop, stop + ROWS)
        lifted = []
        for p, (rows, origin, some) in enumerate(zip(matrices, placed_origins, which, strict=True)):
            centred = rows.wide_there(slice(start, stop) if some is None else some[start:stop])
            centred -= origin
            if some is None:
                rows.release(start, stop)
            squares = (centred * centred).sum(dim=1, keepdim=True)
            longest[p] = torch.maximum(longest[p], squares.max())
            lifted.append(torch.cat([centred, torch.ones_like(squares), squares], dim=1))
        for (p, q), product in sums.items():
            product.addmm_(lifted[p].T, lifted[q])
    moments.summed = n
    moments.longest = [float(one) for one in longest]
    for rows, here in zip(matrices, moments.longest, strict=True):
        if not here < LONGEST:
            raise too_long(rows, here, function=function)
    for pair, product in sums.items():
        moments.products[pair] = np.ascontiguousarray(on_host(product))
    return moments


def _origin(rows: Rows, function: str) -> np.ndarray:
    """[d]: the mean; of a column whose mean rounding alone may keep from one of its values, that value.

    A column of one value is then exactly zero.
    """
    mean = column_sums(rows, function=function, threads=1) / len(rows)
    value = provisional_origin(rows)
    rounding = len(rows) * np.finfo(np.float64).eps * np.abs(value)
    return np.where(np.abs(mean - value) <= rounding, value, mean)
