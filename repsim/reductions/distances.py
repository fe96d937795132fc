"""Distances between all pairs of inputs."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import numpy as np

from .. import blocks
from ..arguments import Progress
from ..arrays import Rows
from . import device, device_grid
from .centre import Packer, evenly_spaced, power_of_two_below, robust_centre
from .device_streams import streaming

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

_EPS64 = float(np.finfo(np.float64).eps)

COLUMNS = 2048  # a stripe of them at a time keeps the sample small
IN_MEMORY = 2048  # inputs whose distances are found at once, in float64
BINS = 2**18  # neighbouring float32 values that one traversal tells apart
COARSE = 14  # bits dropped where all 2^31 values are to fit the bins


def median_distance(
    rows: Rows,
    *,
    distance: str = "euclidean",
    sample: int | None = None,
    function: str,
    threads: int,
    memory: int | None = None,
    block_rows: int | None = None,
    progress: Progress | None = None,
) -> float:
    """Median distance over the pairs i < j of all rows, or of ``sample`` evenly spaced ones.

    Up to 2 048 rows in float64, at once. Beyond that the exact median of the float32 distances, in O(n) memory: one
    traversal counts what lies below a bracket around the median of a sample, and every float32 value inside it; where
    the median is not inside, a coarser count brackets it anew.

    Raises
    ------
    ValueError: the median is zero, because most rows are equal; a row so far away that float32 cannot hold the median
        beside it.
    """
    c = robust_centre(rows, function=function, threads=threads)
    few = evenly_spaced(len(rows), sample or IN_MEMORY)
    low, high = _median_of_few(rows, c.middle, c.squared_norms[few], few, distance, threads)
    if sample is None and len(rows) > IN_MEMORY:
        # The median is to lie in the middle of the range of float32, and the farthest row still inside it.
        guess, farthest = (low + high) / 2, math.sqrt(float(c.squared_norms.max()))
        unit = power_of_two_below(min(2.0**60 / farthest, 1 / guess if guess > 0 else math.inf))
        if 0 < guess * unit < 2.0**-50:
            raise ValueError(
                f"[{function}] expected {rows.name} whose rows float32 can hold beside each other, "
                f"got row {int(c.squared_norms.argmax())} at {farthest / guess:.3g} median distances from the middle"
            )
        packer = Packer(rows, c.middle, np.broadcast_to(unit, len(rows)), threads)
        plan = device_grid.square_traversal(
            [rows], [rows.depth], block_rows=block_rows, memory=memory, function=function
        )
        with streaming([rows]):  # the blocks on their way are given up: the next plan has the whole budget
            low, high = _streamed_median(packer, distance, guess * unit, plan, progress)
        low, high = low / unit, high / unit
    median = (low + high) / 2
    if not median > 0:
        raise ValueError(
            f"[{function}] expected {rows.name} whose median distance is positive, got zero; give the kernel a sigma"
        )
    return median


def _median_of_few(
    rows: Rows, middle: np.ndarray, norms: np.ndarray, few: slice | np.ndarray, distance: str, threads: int
) -> tuple[float, float]:
    """The two middle distances (one twice, where there is one) of the chosen rows, all in memory."""
    count = len(norms)
    if distance == "manhattan":
        from scipy.spatial.distance import pdist

        ordered = pdist(rows.wide(few) - middle, "cityblock")
    else:
        squared = np.zeros((count, count))
        with blas().limit(limits=threads, user_api="blas"):
            for start in range(0, rows.depth, COLUMNS):
                columns = slice(start, start + COLUMNS)
                part = rows.wide(few, columns) - middle[columns]
                squared -= part @ part.T
        squared *= 2
        squared += norms
        squared += norms[:, None]
        squared[squared <= 8 * _EPS64 * (norms + norms[:, None])] = 0.0  # equal rows
        ordered = np.sqrt(squared[np.triu_indices(count, 1)])
    middle_place = len(ordered) // 2
    ordered.partition([max(middle_place - 1, 0), middle_place])
    high = float(ordered[middle_place])
    return (high if len(ordered) % 2 else float(ordered[middle_place - 1])), high


def _streamed_median(
    packer: Packer, distance: str, guess: float, plan: blocks.Traversal, progress: Progress | None
) -> tuple[float, float]:
    """The two middle distances between packed rows, found from the bits of float32 numbers, which ascend with them."""
    n = len(packer.rows)
    pairs = n * (n - 1) // 2
    wanted = [2 * ((pairs - 1) // 2), 2 * (pairs // 2)]  # in order, where every pair stands twice, as (i, j) and (j, i)
    found: dict[int, int] = {}
    value = guess if distance == "manhattan" else guess**2 / 2
    first, coarse = max(int(np.float32(value).view(np.uint32)) - BINS // 2, 0), None
    while True:
        upto = _counts(packer, distance, 0, first, plan, progress)
        for place in wanted:
            if upto[0] <= place < upto[-1]:
                found[place] = first + int(np.searchsorted(upto, place, side="right")) - 1
        missing = [place for place in wanted if place not in found]
        if not missing:
            break
        if coarse is None:  # the sample misled: a count of all values, in steps of 2^14
            coarse = _counts(packer, distance, COARSE, 0, plan, progress)
        first = (int(np.searchsorted(coarse, missing[0], side="right")) - 1) << COARSE
    values = np.array([found[place] for place in wanted], np.uint32).view(np.float32).astype(np.float64)
    low, high = values if distance == "manhattan" else np.sqrt(2 * values)
    return float(low), float(high)


def _counts(
    packer: Packer, distance: str, dropped: int, first: int, plan: blocks.Traversal, progress: Progress | None
) -> np.ndarray:
    """[BINS + 1]: how many distances have bits, without the lowest ``dropped``, below first, first + 1, and so on."""
    bins, below = np.zeros(BINS, np.int64), 0
    count = device.native(packer.rows).distance_histogram
    for done, (i, j, span) in enumerate(blocks.packed_pairs(plan, packer.block)):
        below += count(i, j, distance, span.as_tuple(), dropped, first, bins, packer.threads)
        if progress:
            progress(done + 1, len(plan))
    return np.concatenate([[below], below + np.cumsum(bins)])


@functools.lru_cache(maxsize=1)
def blas() -> ThreadpoolController:
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
