"""Sums over all pairs of inputs of kernel matrices that are never stored."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from .. import _core, blocks
from ..arguments import Progress
from ..arrays import Rows
from ..kernels import Kernel
from . import device, device_grid
from .kernel_blocks import KernelBlocks, prepare
from .sums import HsicSums, RowTerms, asked_pairs, finish


def kernel_sums(
    matrices: Sequence[Rows],
    left: int,
    kernels: Sequence[Kernel],
    *,
    function: str,
    threads: int,
    memory: int | None = None,
    block_rows: int | None = None,
    progress: Progress | None = None,
    row_terms: str | None = None,
    precision: str = "highest",
) -> tuple[HsicSums, RowTerms | None]:
    """HSIC sums of P kernel matrices that are never stored; O(n) memory, cost n^2 sum(d) flop.

    ``kernels``: one for each of the matrices, every bandwidth a number. Tiles are float32, sums exact integers of them.
    ``row_terms`` names the estimator for which leaving one input out is asked: a second traversal, O(n P^2) memory.
    ``precision``: of the rows that a GPU multiplies, in torch's words.
    """
    n, count = len(matrices[0]), len(matrices)
    made = [
        prepare(rows, kernel, function=function, threads=threads, words=device.PRECISIONS[precision])
        for rows, kernel in zip(matrices, kernels, strict=True)
    ]
    row_bits = min(50, 62 - math.ceil(math.log2(n)))
    where = matrices[0]
    native = device.native(where)
    row_sums, products = device.zeros(where, (count, n)), device.product_sums(where, count)
    plan = device_grid.square_traversal(
        matrices,
        [depth for one in made for depth in one.depths],
        block_rows=block_rows,
        memory=memory,
        function=function,
    )
    passes = 1 if row_terms is None else 2
    for pairs, span in _traverse(made, plan, passes, 0, progress):
        native.kernel_sums(pairs, left, span, row_bits, row_sums, products, threads)

    asked = asked_pairs(count, left)
    diagonals, errors = [one.diagonal for one in made], [one.error for one in made]
    rows = device.on_host(row_sums) * 2.0**-row_bits
    del row_sums
    limbs = device.summed_products(products)
    whole = (limbs[..., 0].astype(np.float64) * 2.0**32 + limbs[..., 1]) / 2.0**_core.PRODUCT_BITS
    scales = np.array([one.scale for one in made])
    sums = finish(rows, whole, asked, diagonals, errors, scales, device.PRECISIONS[precision])
    if row_terms is None:
        return sums, None

    exact = rows if row_terms == "debiased" else rows + np.array(diagonals)
    largest = np.array([_power_of_two_above(float(np.abs(v).max())) for v in exact])
    vectors = device.placed(where, (exact / largest[:, None]).astype(np.float32))
    pair_sums, vector_sums = device.zeros(where, (2, count, count, n))
    for pairs, span in _traverse(made, plan, passes, 1, progress):
        native.kernel_row_terms(pairs, left, span, row_bits, vectors, pair_sums, vector_sums, threads)
    unit = 2.0**-row_bits
    through = device.on_host(vector_sums) * (unit * largest[None, :, None])
    return sums, RowTerms(row_terms, exact, diagonals, whole, device.on_host(pair_sums) * unit, through)


def _traverse(
    made: Sequence[KernelBlocks], plan: blocks.Traversal, passes: int, number: int, progress: Progress | None
) -> Iterator[tuple[list, tuple[int, int, int, int]]]:
    """The matrices between every two blocks, and where these lie; one of ``passes`` traversals that are counted."""

    def packed(first: int, count: int) -> list:
        for one in made:
            one.begin(first, count)  # of all of them, before the packing of one waits for the GPU
        return [one.block(first, count) for one in made]

    for done, (i, j, span) in enumerate(blocks.packed_pairs(plan, packed)):
        yield (
            [
                one.matrix(own_i, span.first_i, own_j, span.first_j)
                for one, own_i, own_j in zip(made, i, j, strict=True)
            ],
            span.as_tuple(),
        )
        if progress:
            progress(number * len(plan) + done + 1, passes * len(plan))


def _power_of_two_above(x: float) -> float:
    return math.ldexp(1.0, math.frexp(x)[1]) if x > 0 else 1.0
