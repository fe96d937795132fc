"""Products of features on a GPU, in float64 by torch's GEMM and in a fixed order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..arrays import RESIDENT_ON_DEVICE, Rows
from .centre import column_sums
from .device import on_host, placed, tensor_of
from .device_streams import pinned_bytes, place_bytes
from .moments import LONGEST, FeatureMoments, too_long

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


def feature_moments(matrices: Sequence[Rows], asked: Sequence[tuple[int, int]], *, function: str) -> FeatureMoments:
    """The sums of products of lifted rows about the means, as one pass over all rows leaves them.

    Memory: (d + 2) (d' + 2) float64 for every pair, and 8192 lifted rows of every matrix. Cost: 2 n d d' flop a pair.

    Raises
    ------
    ValueError: a row is not finite (it is named), or so long that its fourth power leaves float64.
    """
    import torch

    n = len(matrices[0])
    means = [column_sums(rows, function=function, threads=1) / n for rows in matrices]
    moments = FeatureMoments(means, asked, ROWS)
    placed_means = [placed(rows, mean) for rows, mean in zip(matrices, means, strict=True)]
    sums = {pair: placed(matrices[pair[0]], product) for pair, product in moments.products.items()}
    longest = [torch.zeros((), dtype=torch.float64, device=mean.device) for mean in placed_means]
    for start in range(0, n, ROWS):
        for rows in matrices:
            rows.prefetch(start + ROWS, start + 2 * ROWS)
        lifted = []
        for p, (rows, mean) in enumerate(zip(matrices, placed_means, strict=True)):
            centred = tensor_of(rows)[start : start + ROWS].to(torch.float64) - mean
            rows.release(start, start + ROWS)
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
