"""The native operations themselves: layout, arithmetic, edges, instruction sets, threads, refusals."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repsim import _core

TILE, PANEL = 192, 16
LOWEST = -np.finfo(np.float32).max
Block = tuple[np.ndarray, np.ndarray]


# -------------------------------------------------------------------------------------------------- calling the core


def aligned(shape: tuple[int, ...], dtype: Any = np.float32) -> np.ndarray:
    size = int(np.prod(shape))
    raw = np.full(size + 16, 7, dtype)  # what an operation forgets to write shows
    skip = (-raw.ctypes.data % 64) // raw.itemsize
    return raw[skip : skip + size].reshape(shape)


def pack(
    x: np.ndarray,
    *,
    dtype: str | None = None,
    shift: Any = None,
    scale: Any = None,
    offset: Any = None,
    threads: int = 1,
) -> Block:
    n, d = x.shape
    panels, halves = aligned((-(-n // TILE) * TILE // PANEL, d, PANEL)), np.empty(n, np.float32)
    scale = np.ones(n) if scale is None else scale
    _core.pack_rows(x, dtype or x.dtype.name, shift, scale, offset, panels, halves, threads)
    return panels, halves


def unpacked(panels: np.ndarray) -> np.ndarray:
    return panels.transpose(0, 2, 1).reshape(-1, panels.shape[1])


def spans(n: int, block: int, m: int | None = None) -> list[tuple[int, int, int, int]]:
    """Every pair of blocks of n rows against m, or of the upper triangle of n x n."""
    across = n if m is None else m
    return [
        (i, min(block, n - i), j, min(block, across - j))
        for i in range(0, n, block)
        for j in range(0, across, block)
        if m is not None or j >= i
    ]


def matrix(i: Block, j: Block, kernel: str, shift: float = 0.0, *, gain: float = 1.0, **more: Any) -> list[Any]:
    """A matrix of one term of one factor."""
    return [([(i, j, kernel, gain, more.get("coefficients", []))], shift, more.get("weight", 1.0))]


def kernel_sums(
    matrices: list[np.ndarray],
    kernel: str,
    *,
    left: int = 1,
    block: int = 1 << 20,
    threads: int = 1,
    shift: float = 0.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Row sums [P, n] and products [P, P] as exact integers."""
    n, count = len(matrices[0]), len(matrices)
    bits = 62 - int(np.ceil(np.log2(n)))
    row_sums, products = np.zeros((count, n), np.int64), np.zeros((count, count, 2), np.int64)
    for i, rows_i, j, rows_j in spans(n, block):
        block_i = [pack(x[i : i + rows_i]) for x in matrices]
        block_j = block_i if i == j else [pack(x[j : j + rows_j]) for x in matrices]
        pairs = [matrix(a, b, kernel, shift) for a, b in zip(block_i, block_j, strict=True)]
        _core.kernel_sums(pairs, left, (i, rows_i, j, rows_j), bits, row_sums, products, threads)
    assert products[..., 1].min() >= 0 and products[..., 1].max() < 2**32
    return row_sums / 2.0**bits, (products[..., 0] * 2.0**32 + products[..., 1]) / 2.0**_core.PRODUCT_BITS


def nearest(
    x: np.ndarray, k: int, metric: str = "inner_product", *, base: np.ndarray | None = None, **how: int
) -> tuple[np.ndarray, np.ndarray]:
    block, threads, room = how.get("block", 1 << 20), how.get("threads", 1), how.get("room", 2 * k + 16)
    n, other = len(x), x if base is None else base
    keys, counts = np.empty((n, room), np.uint64), np.zeros(n, np.int32)
    thresholds = np.full(n, LOWEST, np.float32)
    for i, rows_i, j, rows_j in spans(n, block, None if base is None else len(base)):
        left = pack(x[i : i + rows_i])
        right = left if base is None and i == j else pack(other[j : j + rows_j])
        where = (i, rows_i, j, rows_j)
        _core.nearest(left, right, "float32", metric, where, base is None, k, keys, counts, thresholds, threads)
    indices, scores = np.empty((n, k), np.int64), np.empty((n, k), np.float32)
    rank(x, metric, keys, counts, thresholds, indices, scores, base=base, threads=threads)
    return indices, scores


def rank(
    x: np.ndarray,
    metric: str,
    keys: np.ndarray,
    counts: np.ndarray,
    thresholds: np.ndarray,
    indices: np.ndarray,
    scores: np.ndarray,
    *,
    base: np.ndarray | None = None,
    heavy: tuple[int, ...] = (),
    kept: int | None = None,
    threads: int = 1,
) -> int:
    """rank_neighbours for rows that were packed as they are; returns how many rows are left open."""
    open_rows = np.empty(len(x), np.uint8)
    exact = np.empty(scores.shape)
    k = indices.shape[1]
    kept = kept or k
    keys = np.pad(keys, ((0, 0), (0, max(0, 2 * kept - keys.shape[1]))))  # scores stand beside candidates
    found = _core.rank_neighbours(
        ranking(x, metric, k, base), keys, counts, thresholds, certificate(x, base, heavy=heavy, kept=kept),
        indices, exact, open_rows, threads,
    )  # fmt: skip
    scores[:] = exact
    assert open_rows.sum() == found
    return int(found)


def ranking(x: np.ndarray, metric: str, k: int, base: np.ndarray | None = None) -> tuple[Any, ...]:
    other = x if base is None else base
    own = np.arange(len(x)) if base is None else np.full(len(x), -1)
    with np.errstate(over="ignore"):
        squared = [(rows.astype(np.float64) ** 2).sum(axis=1) for rows in (x, other)]
    return (x, x.dtype.name, other, other.dtype.name, metric, *squared, own, k)


def certificate(
    x: np.ndarray, base: np.ndarray | None = None, *, heavy: tuple[int, ...] = (), kept: int
) -> tuple[Any, ...]:
    """What is known of rows that float32 packed as they are."""
    sides = [x, x if base is None else base]
    with np.errstate(over="ignore"):  # a test of rows that float64 cannot square
        norms = [np.sqrt((rows.astype(np.float64) ** 2).sum(axis=1)) for rows in sides]
        halves = [(norm**2 / 2).astype(np.float32) for norm in norms]
        residuals = [(norm * 2.0**-23).astype(np.float32) for norm in norms]
    longest = float(norms[1].max())
    return (
        "float32", halves[0], residuals[0], 1.0, 2.0**-23, 0.0, longest, longest * 2.0**-23,
        np.array(heavy, np.int64), kept,
    )  # fmt: skip


def rows(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Rows of norm at most 1."""
    x = np.random.default_rng([seed, n, d]).standard_normal((n, d))
    return (x / np.linalg.norm(x, axis=1).max()).astype(np.float32)


def whole(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Rows whose products float32 holds exactly, with many ties."""
    return np.random.default_rng([seed, n, d]).integers(-3, 4, (n, d)).astype(np.float32)


# ------------------------------------------------------------------------------------------------------- reading rows


HALVES = np.arange(1 << 16, dtype=np.uint32).astype(np.uint16)  # every float16 and every bfloat16 there is


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize(
    ("n", "d"),
    [
        pytest.param(1, 1, id="one-number"),
        pytest.param(17, 3, id="second-panel-begins"),
        pytest.param(192, 5, id="a-whole-tile"),
        pytest.param(193, 64, id="second-tile-begins"),
    ],
)
def test_pack_rows(n: int, d: int, dtype: str) -> None:
    rng = np.random.default_rng([n, d])
    x = rng.standard_normal((n, d)) * 10
    values = (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16) if dtype == "bfloat16" else x.astype(dtype)
    wide = (values.astype(np.uint32) << 16).view(np.float32) if dtype == "bfloat16" else values
    shift, scale = rng.standard_normal(d), rng.uniform(0.5, 2, n)
    expected = ((wide.astype(np.float64) - shift) * scale[:, None]).astype(np.float32)
    panels, halves = pack(values, dtype=dtype, shift=shift, scale=scale, threads=3)
    packed = unpacked(panels)
    np.testing.assert_array_equal(packed[:n], expected)
    np.testing.assert_array_equal(packed[n:], 0)
    np.testing.assert_allclose(halves, (expected.astype(np.float64) ** 2).sum(axis=1) / 2, rtol=2e-7)
    np.testing.assert_array_equal(panels[0, :, 0], expected[0])  # [panel, feature, row]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_half_is_read_exactly(dtype: str) -> None:
    """Subnormals, zeros of both signs and the largest: every bit pattern that is a number."""
    numbers = HALVES.view(np.float16) if dtype == "float16" else (HALVES.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(invalid="ignore"):  # signalling NaNs
        wide = numbers.astype(np.float64)
    finite = np.isfinite(wide) & (np.abs(wide) < 1e15)  # beyond, the squared norm leaves float32
    values, exact = HALVES[finite][:, None], wide[finite]
    values = values.view(np.float16) if dtype == "float16" else values
    packed = unpacked(pack(values, dtype=dtype)[0])[: len(exact), 0]
    np.testing.assert_array_equal(packed.view(np.uint32), exact.astype(np.float32).view(np.uint32))
    norms = np.empty(len(exact))
    _core.squared_norms(values, dtype, None, norms, 2)
    np.testing.assert_array_equal(norms, exact**2)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_column_sums_name_the_first_row_that_is_not_finite(value: float, dtype: str) -> None:
    x = np.ones((300, 130), np.float32)
    sums = np.empty(130)

    def call() -> int:
        given = (x.view(np.uint32) >> 16).astype(np.uint16) if dtype == "bfloat16" else x.astype(dtype)
        return int(_core.column_sums(given, dtype, sums, 3))

    assert call() == -1
    np.testing.assert_array_equal(sums, 300)
    x[217, 3] = x[211, 129] = value  # two stripes of columns, which two threads read
    assert call() == 211


def test_rows_may_lie_apart_or_backwards() -> None:
    x = rows(400, 6)
    for view in (x[::2], x[::-1], x[:, 1:5]):
        np.testing.assert_array_equal(pack(view)[0], pack(view.copy())[0])


def test_rows_too_long_for_float32_are_refused() -> None:
    with pytest.raises(ValueError, match="expected scaled rows whose squared norms float32 can hold"):
        pack(np.full((20, 2), 1e30))


needs_bfloat16 = pytest.mark.skipif(not _core.multiplies_bfloat16(), reason="this CPU does not multiply bfloat16")


def pack_pairs(x: np.ndarray, *, shift: Any = None, scale: Any = None, offset: Any = None) -> tuple[np.ndarray, ...]:
    n, d = x.shape
    panels = aligned((-(-n // TILE) * TILE // PANEL, -(-d // 2), PANEL), np.uint32)
    halves, residuals = np.empty(n, np.float32), np.empty(n, np.float32)
    scale = np.ones(n) if scale is None else scale
    _core.pack_pairs(x, x.dtype.name, shift, scale, offset, panels, halves, residuals, 2)
    return panels, halves, residuals


def as_bfloat16(x: np.ndarray) -> np.ndarray:
    """Rounded to nearest, ties to even, as float32; subnormals are 0."""
    bits = x.astype(np.float32).view(np.uint32)
    bits = (bits + np.uint32(0x7FFF) + (bits >> 16 & np.uint32(1))) & np.uint32(0xFFFF0000)
    return np.where(bits & np.uint32(0x7F800000), bits, np.uint32(0)).view(np.float32)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(
    ("n", "d"),
    [
        pytest.param(1, 1, id="half-a-word"),
        pytest.param(17, 33, id="odd-depth-and-second-panel"),
        pytest.param(193, 64, id="second-tile-and-two-whole-steps"),
    ],
)
def test_pack_pairs(n: int, d: int, dtype: str) -> None:
    rng = np.random.default_rng([n, d])
    x = (rng.standard_normal((n, d)) * 10).astype(dtype)
    shift, scale, offset = rng.standard_normal(d), rng.uniform(0.5, 2, n), rng.standard_normal(d)
    x[0] = shift  # rounded alike, so that little is left of it but the offset
    exact = (x.astype(np.float64) - shift) * scale[:, None] - offset
    panels, halves, residuals = pack_pairs(x, shift=shift, scale=scale, offset=offset)
    words = unpacked(panels)
    assert (words[n:] == 0).all()
    features = np.stack([words << 16, words & np.uint32(0xFFFF0000)], axis=2).reshape(len(words), -1).view(np.float32)
    np.testing.assert_array_equal(features[:n, :d], as_bfloat16(exact))
    assert (features[:, d:] == 0).all()
    packed = features[:n, :d].astype(np.float64)
    np.testing.assert_allclose(halves, (packed**2).sum(axis=1) / 2, rtol=2e-7)
    off = np.linalg.norm(packed - exact, axis=1)
    assert (residuals >= off).all()
    np.testing.assert_allclose(residuals, off, rtol=1e-5)


def test_pack_pairs_of_ties_and_subnormals() -> None:
    """1 + 2^-8 lies halfway and goes to even; 2^-130 is no number to a product of bfloat16, so the residual has it."""
    x = np.array([[1 + 2.0**-8, 1 + 3 * 2.0**-8, -(2.0**-130)], [2.0**-130, 0, 0]])
    panels, _, residuals = pack_pairs(x)
    assert panels[0, :, 0].tolist() == [0x3F80 | 0x3F82 << 16, 0]
    assert residuals[1] >= 2.0**-130


@needs_bfloat16
@pytest.mark.parametrize(
    ("n", "d"),
    [
        pytest.param(193, 1, id="half-a-word"),
        pytest.param(385, 47, id="odd-depth"),
        pytest.param(200, 1300, id="two-chunks-of-depth"),
    ],
)
def test_bfloat16_search_of_whole_numbers_is_exact(n: int, d: int) -> None:
    """bfloat16 holds small integers, and float32 their products and sums: the tiles decide alone."""
    x, k = whole(n, d), 6
    panels, halves, _ = pack_pairs(x)
    keys, counts = np.empty((n, 2 * k), np.uint64), np.zeros(n, np.int32)
    thresholds = np.full(n, LOWEST, np.float32)
    block = (panels, halves)
    _core.nearest(block, block, "bfloat16", "euclidean", (0, n, 0, n), True, k, keys, counts, thresholds, 2)
    found = [
        0xFFFFFFFF - (np.sort(row[:count])[::-1][:k] & 0xFFFFFFFF) for row, count in zip(keys, counts, strict=True)
    ]
    np.testing.assert_array_equal(found, oracle(x, k, "euclidean"))


# -------------------------------------------------------------------------------------------------------- kernel sums


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize(
    ("n", "d"),
    [
        pytest.param(2, 1, id="one-pair"),
        pytest.param(191, 3, id="a-row-short-of-a-tile"),
        pytest.param(192, 4, id="a-tile"),
        pytest.param(193, 5, id="a-row-over-a-tile"),
        pytest.param(577, 1, id="one-feature"),
        pytest.param(400, 513, id="a-feature-over-a-chunk-of-depth"),
    ],
)
def test_kernel_sums_against_float64(n: int, d: int, kernel: str) -> None:
    x, y, shift = rows(n, d), rows(n, d + 2, seed=1), 0.25
    wide = [one.astype(np.float64) for one in (x, y)]
    grams = [one @ one.T for one in wide]
    if kernel == "rbf":
        grams = [np.exp(g - (np.diag(g)[:, None] + np.diag(g)) / 2) for g in grams]
    grams = [g - shift for g in grams]
    for gram in grams:
        np.fill_diagonal(gram, 0)
    sums, products = kernel_sums([x, y], kernel, shift=shift)
    np.testing.assert_allclose(sums, [g.sum(axis=1) for g in grams], atol=4e-7 * n**0.5)
    exact = [[(a * b).sum() for b in grams] for a in grams]
    np.testing.assert_allclose(np.triu(products), np.triu(exact), atol=2e-7 * n)


def exponentials(arguments: np.ndarray, bits: int) -> np.ndarray:
    """The kernel exp(x) at every argument: two rows each, whose halves say the exponent."""
    n = len(arguments)
    first = -(-n // TILE) * TILE
    row_sums, products = np.zeros((1, first + 1), np.int64), np.zeros((1, 1, 2), np.int64)
    left, right = pack(np.zeros((n, 1), np.float32)), pack(np.zeros((1, 1), np.float32))
    pair = matrix((left[0], -arguments.astype(np.float32)), right, "rbf")
    _core.kernel_sums([pair], 1, (0, n, first, 1), bits, row_sums, products, 1)
    return row_sums[0, :n] / 2.0**bits


def test_exponential() -> None:
    """1.25 ulp of float32 where the fixed point resolves it, its own half unit below."""
    x = -np.geomspace(1e-7, 17, 100_000).astype(np.float32)
    exact = np.exp(x.astype(np.float64))
    ulp = 2.0 ** (np.frexp(exact)[1] - 24)
    error = np.abs(exponentials(x, bits=45) - exact) - 2.0**-46
    assert (error / ulp).max() < 1.25
    far = -np.linspace(17, 300, 2000).astype(np.float32)
    np.testing.assert_allclose(exponentials(far, bits=45), np.exp(far.astype(np.float64)), rtol=2e-7, atol=2.0**-46)


def test_no_kernel_exceeds_one() -> None:
    """Far from the origin rounding makes distances negative; their exponential would overflow the fixed point."""
    np.testing.assert_array_equal(exponentials(np.array([0.0, -0.0, 1e-7, 3.0, 88.0, 1e6]), bits=40), 1)
    x = (1e4 * rows(1, 30) + 1e-3 * rows(300, 30, seed=1)).astype(np.float32)
    sums, products = kernel_sums([x], "rbf")
    assert (sums >= 0).all()
    assert sums.max() <= 299
    assert products[0, 0] <= 300 * 299


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_kernel_sums_are_the_same_bits_however_they_are_cut(kernel: str) -> None:
    x = [rows(1000, 20), rows(1000, 7, seed=1)]
    sums, products = kernel_sums(x, kernel)
    for threads in range(1, 6):
        for block in (192, 384, 960, 1152):
            again = kernel_sums(x, kernel, block=block, threads=threads)
            np.testing.assert_array_equal(again[0], sums)
            np.testing.assert_array_equal(again[1], products)


@pytest.mark.parametrize("left", [0, 1, 2, 4])
def test_only_the_products_that_are_asked_for(left: int) -> None:
    x = [rows(200, 3, seed=s) for s in range(4)]
    grams = [one.astype(np.float64) @ one.T.astype(np.float64) for one in x]
    for gram in grams:
        np.fill_diagonal(gram, 0)
    exact = np.array([[(a * b).sum() for b in grams] for a in grams])
    p, q = np.indices((4, 4))
    asked = (p == q) | ((p < left) & (left <= q))
    np.testing.assert_allclose(kernel_sums(x, "linear", left=left)[1], np.where(asked, exact, 0), atol=1e-4)


def test_products_carry_between_their_limbs() -> None:
    """Small negative products borrow from the upper limb, and the lower one begins full."""
    x = np.array([[1.0], [-(2.0**-20)], [2.0**-10]], np.float32)
    y = np.ones((3, 1), np.float32)
    grams = [one.astype(np.float64) @ one.T.astype(np.float64) for one in (x, y)]
    for gram in grams:
        np.fill_diagonal(gram, 0)
    row_sums, products = np.zeros((2, 3), np.int64), np.zeros((2, 2, 2), np.int64)
    products[0, 1] = (5, 2**32 - 1)
    pairs = [matrix(pack(one), pack(one), "linear") for one in (x, y)]
    _core.kernel_sums(pairs, 1, (0, 3, 0, 3), 40, row_sums, products, 1)
    exact = 6 * 2**32 - 1 + round(float((grams[0] * grams[1]).sum()) * 2**45)
    assert divmod(exact, 2**32) == tuple(products[0, 1])


# --------------------------------------------------------------------------------- rows on a vector, terms and factors


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize(
    ("n", "d"),
    [pytest.param(1, 1, id="one"), pytest.param(2050, 7, id="three-chunks"), pytest.param(9, 300, id="wide")],
)
def test_project_rows(n: int, d: int, dtype: str) -> None:
    rng = np.random.default_rng([n, d])
    x, vector, shift = rng.standard_normal((n, d)).astype(dtype), rng.standard_normal(d), rng.standard_normal(d)
    for moved in (None, shift):
        expected = (x.astype(np.float64) - (0 if moved is None else moved)) @ vector
        for threads in (1, 3):
            products = np.full(n, np.nan)
            _core.project_rows(x, dtype, moved, vector, products, threads)
            np.testing.assert_allclose(products, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"vector": np.ones(4)}, "vector: expected one number per column", id="vector"),
        pytest.param({"shift": np.ones(2)}, "shift: expected one number per column", id="shift"),
        pytest.param({"products": np.empty(19)}, "products: expected one number per row", id="products"),
        pytest.param({"dtype": "float64"}, "rows: expected memory of the dtype that is named", id="dtype"),
    ],
)
def test_project_rows_refuses(change: dict[str, Any], message: str) -> None:
    known = {"x": np.ones((20, 3), np.float32), "dtype": "float32", "shift": None, "vector": np.ones(3)}
    known |= {"products": np.empty(20), "threads": 1}
    _core.project_rows(**known)
    with pytest.raises(ValueError, match=message):
        _core.project_rows(**{**known, **change})


COEFFICIENTS = [0.125, -0.25, 0.5, 0.0625]
FACTORS = ("linear", "polynomial", "rbf", "laplacian_l2", "laplacian_l1")


def values(x: np.ndarray, kernel: str, gain: float, bias: np.ndarray | None = None) -> np.ndarray:
    """A factor in float64, as ops.h states it."""
    x = x.astype(np.float64)
    products, apart = x @ x.T, x[:, None] - x[None]
    if kernel == "linear":
        return products
    if kernel == "polynomial":
        assert bias is not None
        t = products + bias[:, None] + bias
        return gain * products + sum(c * t**m for m, c in enumerate(COEFFICIENTS))
    if kernel == "laplacian_l1":
        return np.exp(-gain * np.abs(apart).sum(axis=2))
    squared = (apart**2).sum(axis=2)
    return np.exp(-gain * squared / 2 if kernel == "rbf" else -gain * np.sqrt(squared))


def blocks_of(x: np.ndarray, block: int, make: Any) -> Any:
    """Every pair of blocks of rows, and what `make` gives of both: (block, first row) twice."""
    for i, rows_i, j, rows_j in spans(len(x), block):
        yield (i, rows_i, j, rows_j), make((pack(x[i : i + rows_i]), i), (pack(x[j : j + rows_j]), j))


def factor_of(one: tuple[Block, int], two: tuple[Block, int], kernel: str, gain: float, bias: np.ndarray) -> Any:
    if kernel != "polynomial":
        return (one[0], two[0], kernel, gain, [])
    sides = [(panels, bias[first : first + len(halves)].copy()) for (panels, halves), first in (one, two)]
    return (*sides, kernel, gain, COEFFICIENTS)


@pytest.mark.parametrize(
    "terms",
    [
        *[pytest.param([([(name, 0.75)], 0.125, 1.0)], id=name) for name in FACTORS],
        pytest.param([([("rbf", 0.75)], 0.5, 0.25)], id="weight"),
        pytest.param([([("rbf", 0.75), ("linear", 1.0)], 0.1, 1.0)], id="product-with-shift"),
        pytest.param([([("laplacian_l1", 0.3), ("polynomial", 0.1), ("laplacian_l2", 2.0)], 0.0, 0.5)], id="three"),
        pytest.param(
            [
                ([("linear", 1.0)], 0.0, 0.25),
                ([("rbf", 0.5), ("laplacian_l2", 1.0)], 0.3, 0.5),
                ([("rbf", 3.0)], 0.2, 0.25),
            ],
            id="three-terms",
        ),
    ],
)
@pytest.mark.parametrize(("n", "block"), [(5, 192), (193, 192), (400, 384), (400, 4096)])
def test_terms_and_what_each_row_adds(n: int, block: int, terms: Any) -> None:
    """kernel_sums and kernel_row_terms of sums of products, with shifts and weights, against float64."""
    x = 0.7 * rows(n, 6)
    bias = np.random.default_rng(n).uniform(-0.2, 0.2, n).astype(np.float32)
    exact = np.zeros((n, n))
    for factors, shift, weight in terms:
        exact += weight * (np.prod([values(x, kernel, gain, bias) for kernel, gain in factors], axis=0) - shift)
    np.fill_diagonal(exact, 0)
    vectors = np.random.default_rng(1).uniform(-1, 1, (1, n)).astype(np.float32)

    def matrix_of(one: Any, two: Any) -> Any:
        return [
            ([factor_of(one, two, kernel, gain, bias) for kernel, gain in factors], shift, weight)
            for factors, shift, weight in terms
        ]

    for threads in (1, 3):
        row_sums, products = np.zeros((1, n), np.int64), np.zeros((1, 1, 2), np.int64)
        pair_sums, vector_sums = np.zeros((2, 1, 1, n), np.int64)
        for span, one in blocks_of(x, block, matrix_of):
            _core.kernel_sums([one], 1, span, 40, row_sums, products, threads)
            _core.kernel_row_terms([one], 1, span, 40, vectors, pair_sums, vector_sums, threads)
        np.testing.assert_allclose(row_sums[0] / 2**40, exact.sum(axis=1), atol=4e-7 * n**0.5)
        total = products[0, 0, 0] * 2.0**32 + products[0, 0, 1]
        np.testing.assert_allclose(total / 2.0**_core.PRODUCT_BITS, (exact**2).sum(), atol=3e-7 * n, rtol=3e-6)
        np.testing.assert_allclose(pair_sums[0, 0] / 2**40, (exact**2).sum(axis=1), atol=6e-7 * n**0.5)
        np.testing.assert_allclose(vector_sums[0, 0] / 2**40, exact @ vectors[0].astype(float), atol=6e-7 * n**0.5)


@pytest.mark.parametrize("left", [0, 1, 2, 3])
def test_row_terms_of_the_pairs_that_are_asked_for(left: int) -> None:
    x = [rows(250, 3, seed=s) for s in range(3)]
    grams = [one.astype(np.float64) @ one.T.astype(np.float64) for one in x]
    for gram in grams:
        np.fill_diagonal(gram, 0)
    vectors = np.random.default_rng(1).uniform(-1, 1, (3, 250)).astype(np.float32)
    found = {}
    for block, threads in ((192, 3), (4096, 1)):
        pair_sums, vector_sums = np.zeros((2, 3, 3, 250), np.int64)
        for i, rows_i, j, rows_j in spans(250, block):
            pairs = [matrix(pack(one[i : i + rows_i]), pack(one[j : j + rows_j]), "linear") for one in x]
            _core.kernel_row_terms(pairs, left, (i, rows_i, j, rows_j), 40, vectors, pair_sums, vector_sums, threads)
        found[block] = (pair_sums, vector_sums)
    np.testing.assert_array_equal(found[192], found[4096])
    for p in range(3):
        for q in range(3):
            asked = p == q or p < left <= q
            pairs = (grams[p] * grams[q]).sum(axis=1) * asked
            through = grams[p] @ vectors[q].astype(float) * (asked or q < left <= p)
            np.testing.assert_allclose(pair_sums[p, q] / 2**40, pairs, atol=1e-5)
            np.testing.assert_allclose(vector_sums[p, q] / 2**40, through, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"left": 2}, "left: expected some of the matrices", id="left"),
        pytest.param({"vectors": np.zeros((2, 400), np.float32)}, "vectors: expected one per matrix", id="vectors"),
        pytest.param({"vectors": np.zeros((1, 399), np.float32)}, "expected every row of the blocks", id="too-short"),
        pytest.param(
            {"pair_sums": np.zeros((1, 1, 401), np.int64)}, r"sums: expected \[matrices, matrices, n\]", id="n"
        ),
        pytest.param({"vector_sums": np.zeros((1, 2, 400), np.int64)}, "sums: expected", id="count"),
        pytest.param({"row_bits": 60}, r"row_bits: expected n 2\^row_bits of at most 2\^62", id="row-bits"),
        pytest.param({"matrices": []}, "matrices: expected at least one", id="nothing"),
    ],
)
def test_kernel_row_terms_refuses(change: dict[str, Any], message: str) -> None:
    block = pack(rows(400, 3))
    sums = {name: np.zeros((1, 1, 400), np.int64) for name in ("pair_sums", "vector_sums")}
    known = {"matrices": [matrix(block, block, "rbf")], "left": 1, "range": (0, 400, 0, 400), "row_bits": 40}
    known |= {"vectors": np.zeros((1, 400), np.float32), **sums, "threads": 1}
    _core.kernel_row_terms(**known)
    with pytest.raises(ValueError, match=message):
        _core.kernel_row_terms(**{**known, **change})


def call_histogram(x: np.ndarray, block: int = 4096, **change: Any) -> int:
    below = 0
    for i, rows_i, j, rows_j in spans(len(x), block):
        known = {"block_i": pack(x[i : i + rows_i]), "block_j": pack(x[j : j + rows_j])}
        known |= {"range": (i, rows_i, j, rows_j), "dropped": 0, "first": 0, "threads": 1}
        below += _core.distance_histogram(**{**known, **change})
    return below


@pytest.mark.parametrize("distance", ["euclidean", "manhattan"])
@pytest.mark.parametrize(("n", "block"), [(2, 192), (193, 192), (500, 192), (500, 4096)])
def test_distance_histogram(n: int, block: int, distance: str) -> None:
    """Whole numbers, whose distances float32 holds: the histogram of their bits is exact, at any coarseness."""
    x = whole(n, 3)
    apart = np.abs(x[:, None] - x[None])
    exact = apart.sum(axis=2) if distance == "manhattan" else (apart**2).sum(axis=2) / 2
    bits = exact[~np.eye(n, dtype=bool)].astype(np.float32).view(np.uint32)  # both (i, j) and (j, i)
    for dropped, first, count in ((20, 0, 2047), (16, 16_100, 300), (12, 1 << 18, 5000), (0, int(bits.max()), 1)):
        place = (bits >> dropped).astype(np.int64)
        inside = place[(place >= first) & (place < first + count)] - first
        for threads in (1, 3):
            bins = np.zeros(count, np.int64)
            below = call_histogram(
                x, block, distance=distance, bins=bins, dropped=dropped, first=first, threads=threads
            )
            assert below == np.count_nonzero(place < first)
            np.testing.assert_array_equal(bins, np.bincount(inside, minlength=count))


@pytest.mark.parametrize("distance", ["euclidean", "manhattan"])
def test_distances_far_from_the_origin_keep_their_digits(distance: str) -> None:
    """Products of float32 rows near (1000, 1000, ...) lose distances of 1; differences do not."""
    x = whole(300, 3) + np.float32(1000)
    bins = np.zeros(1 << 18, np.int64)
    near = np.zeros_like(bins)
    for side, counted in ((x, bins), (x - 1000, near)):
        assert call_histogram(side, distance=distance, bins=counted, dropped=14) == 0
        assert counted.sum() == 300 * 299
    np.testing.assert_array_equal(bins, near)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"distance": "cosine"}, "distance: expected euclidean or manhattan", id="distance"),
        pytest.param({"dropped": 24}, "dropped: expected 0 to 23 bits", id="dropped"),
        pytest.param({"dropped": -1}, "dropped: expected 0 to 23 bits", id="negative"),
        pytest.param({"first": 0x7F800000}, "first: expected a bin of finite distances", id="first"),
        pytest.param({"bins": np.zeros(0, np.int64)}, r"bins: expected 1 to 2\^31", id="bins"),
        pytest.param({"range": (0, 50, 0, 49)}, "expected one block twice", id="range"),
        pytest.param({"block_j": pack(rows(50, 4))}, "blocks: expected one depth", id="depth"),
    ],
)
def test_distance_histogram_refuses(change: dict[str, Any], message: str) -> None:
    known = {"distance": "euclidean", "bins": np.zeros(4, np.int64)}
    with pytest.raises(ValueError, match=message):
        call_histogram(rows(50, 3), **{**known, **change})


# ---------------------------------------------------------------------------------------------------------- neighbours


def oracle(x: np.ndarray, k: int, metric: str, base: np.ndarray | None = None) -> np.ndarray:
    a, b = x.astype(np.float64), (x if base is None else base).astype(np.float64)
    score = a @ b.T if metric == "inner_product" else -((a[:, None] - b[None]) ** 2).sum(axis=2)
    if base is None:
        np.fill_diagonal(score, -np.inf)
    return np.argsort(-score, axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("metric", ["inner_product", "euclidean"])
@pytest.mark.parametrize(
    ("n", "d", "k", "room"),
    [
        pytest.param(2, 1, 1, 2, id="two-rows-least-room"),
        pytest.param(191, 2, 190, 191, id="every-row-but-itself-least-room"),
        pytest.param(193, 1, 192, 500, id="k-is-n-minus-1-over-a-tile"),
        pytest.param(385, 4, 10, 11, id="many-ties-least-room"),
        pytest.param(400, 6, 7, 30, id="many-ties"),
    ],
)
def test_nearest_with_ties(n: int, d: int, k: int, room: int, metric: str) -> None:
    x = whole(n, d)
    np.testing.assert_array_equal(nearest(x, k, metric, room=room, block=192, threads=3)[0], oracle(x, k, metric))


@pytest.mark.parametrize("metric", ["inner_product", "euclidean"])
@pytest.mark.parametrize(("n", "m"), [(1, 500), (500, 3), (200, 385)])
def test_nearest_in_a_base(n: int, m: int, metric: str) -> None:
    x, base, k = whole(n, 5), whole(m, 5, seed=1), min(m, 4)
    found = nearest(x, k, metric, base=base, block=192, threads=3)[0]
    np.testing.assert_array_equal(found, oracle(x, k, metric, base))


def test_pack_rows_takes_the_offset_after_the_scale() -> None:
    x, scale, offset = rows(20, 3).astype(np.float64), np.linspace(1, 2, 20), np.array([0.5, -1.0, 3.0])
    panels, halves = pack(x, scale=scale, offset=offset)
    expected = (x * scale[:, None] - offset).astype(np.float32)
    np.testing.assert_array_equal(unpacked(panels)[:20], expected)
    np.testing.assert_allclose(halves, (expected.astype(np.float64) ** 2).sum(axis=1) / 2, rtol=1e-7)


@pytest.mark.parametrize(
    ("spread", "left_open"),
    [pytest.param(1.0, False, id="float32-decides"), pytest.param(1e-6, True, id="settled")],
)
def test_what_float32_cannot_tell_apart_is_left_open_and_settled(spread: float, left_open: bool) -> None:
    x = rows(600, 8).astype(np.float64) * spread
    x[:, 0] += 1.0  # the packed rows lie far from the origin where the spread is small
    n, k, kept = 600, 5, 12
    keys, counts = np.empty((n, 40), np.uint64), np.zeros(n, np.int32)
    thresholds = np.full(n, LOWEST, np.float32)
    block = pack(x)
    _core.nearest(block, block, "float32", "euclidean", (0, n, 0, n), True, kept, keys, counts, thresholds, 2)
    indices, scores = np.empty((n, k), np.int64), np.empty((n, k), np.float32)
    found = rank(x, "euclidean", keys, counts, thresholds, indices, scores, kept=kept, threads=2)
    exact = oracle(x, k, "euclidean")
    if not left_open:
        assert found < n // 10
        np.testing.assert_array_equal(indices, exact)
        return
    assert found == n
    assert (indices != exact).any()
    scores64 = -np.linalg.norm(x[:, None] - x[indices], axis=2)
    for j, count in ((0, 192), (192, 408)):
        where, part = (0, n, j, count), pack(x[j : j + count])
        known = certificate(x, kept=kept)
        _core.settle_neighbours(block, part, "float32", where, ranking(x, "euclidean", k), known, indices, scores64, 2)
    np.testing.assert_array_equal(indices, exact)
    np.testing.assert_allclose(scores64, -np.linalg.norm(x[:, None] - x[exact], axis=2), rtol=1e-9)


def test_rank_neighbours_takes_heavy_rows_as_candidates() -> None:
    x = rows(50, 3).astype(np.float64)
    x[7] *= 1e9
    keys = np.tile(np.array([[0xFFFFFFFF - j] for j in range(40, 44)], np.uint64).T, (50, 1))  # none of them is row 7
    counts, thresholds = np.full(50, 4, np.int32), np.full(50, LOWEST, np.float32)
    indices, scores = np.empty((50, 1), np.int64), np.empty((50, 1), np.float32)
    rank(x, "inner_product", keys, counts, thresholds, indices, scores, heavy=(7,), kept=3)
    ahead = np.flatnonzero((x @ x[7] > 0) & (np.arange(50) != 7))
    assert (indices[ahead, 0] == 7).all()


def test_nearest_is_the_same_bits_however_it_is_cut() -> None:
    x = rows(1000, 8)
    x[500:] = x[:500]  # every score twice
    indices, scores = nearest(x, 10)
    for threads in range(1, 6):
        for block in (192, 384, 960, 1152):
            again = nearest(x, 10, block=block, threads=threads)
            np.testing.assert_array_equal(again[0], indices)
            np.testing.assert_array_equal(again[1], scores)


def test_scores_beyond_float64_are_refused() -> None:
    x = np.full((5, 3), 1e160)
    keys = np.tile(np.array([0xFFFFFFFF, 0xFFFFFFFE], np.uint64), (5, 1))
    counts, thresholds = np.full(5, 2, np.int32), np.zeros(5, np.float32)
    indices, scores = np.empty((5, 1), np.int64), np.empty((5, 1), np.float32)
    for metric in ("cosine", "inner_product"):
        with pytest.raises(ValueError, match="expected rows whose scores float64 can hold"):
            rank(x, metric, keys, counts, thresholds, indices, scores, base=x, threads=2)


# ---------------------------------------------------------------------------------------------------- the machine below


ANSWERS = """
import json, sys
sys.path.insert(0, sys.argv[1])
import test_core as t
print(json.dumps(t.answers()))
"""


def answers() -> dict[str, Any]:
    x = [rows(300, 40), rows(300, 9, seed=1)]
    found = {kernel: [part.tolist() for part in kernel_sums(x, kernel, shift=0.1)] for kernel in ("linear", "rbf")}
    neighbours = nearest(whole(400, 5), 12, "euclidean")[0].tolist()
    return {"isa": _core.instruction_set(), **found, "nearest": neighbours}


def with_instruction_set(name: str) -> subprocess.CompletedProcess[str]:
    package = Path(sys.modules["repsim"].__file__ or "").parents[1]
    environment = {**os.environ, "REPSIM_ISA": name, "PYTHONPATH": str(package)}
    command = [sys.executable, "-c", ANSWERS, str(Path(__file__).parent)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["generic", "avx2", "avx512", "avx512bf16"])
def test_instruction_sets_agree(name: str) -> None:
    run = with_instruction_set(name)
    if name != "generic" and "as this CPU has it" in run.stderr:
        pytest.skip(f"this CPU has no {name}")
    found, here = json.loads(run.stdout), answers()
    assert found["isa"] == name
    for kernel in ("linear", "rbf"):
        for got, expected, size in zip(found[kernel], here[kernel], (300, 300 * 300), strict=True):
            np.testing.assert_allclose(got, expected, atol=1e-7 * size)
    np.testing.assert_array_equal(found["nearest"], here["nearest"])


def test_unknown_instruction_set() -> None:
    run = with_instruction_set("mmx")
    assert run.returncode == 1
    message = "ValueError: REPSIM_ISA: expected avx512bf16, avx512, avx2 or generic, as this CPU has it, got mmx"
    assert message in run.stderr


REFUSED_THREADS = """
import resource, sys
sys.path.insert(0, sys.argv[1])
import numpy as np, test_core as t
x = t.rows(2000, 4)
expected = t.kernel_sums([x], "rbf")
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (40 << 20), -1))
try:
    found = t.kernel_sums([x], "rbf", threads=60)
except MemoryError:
    sys.exit("MemoryError")
print(all(np.array_equal(a, b) for a, b in zip(expected, found)))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux to limit its memory")
def test_refused_threads_are_done_without() -> None:
    """Sixty stacks of 8 MB do not fit: the threads there are do all the work, or say MemoryError; nothing aborts."""
    package = Path(sys.modules["repsim"].__file__ or "").parents[1]
    command = [sys.executable, "-c", REFUSED_THREADS, str(Path(__file__).parent)]
    environment = {**os.environ, "PYTHONPATH": str(package)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "True" or run.stderr.strip() == "MemoryError", run.stderr


# ------------------------------------------------------------------------------------------------------------ refusals


def call_pack(**change: Any) -> None:
    x = np.ones((20, 3), np.float32)
    panels, halves = aligned((12, 3, 16)), np.empty(20, np.float32)
    known = {
        "x": x,
        "dtype": "float32",
        "shift": None,
        "scale": np.ones(20),
        "offset": None,
        "panels": panels,
        "halves": halves,
    }
    _core.pack_rows(**{**known, "threads": 1, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"dtype": "int8"}, "dtype: expected float16, bfloat16, float32 or float64, got int8", id="dtype"),
        pytest.param({"dtype": "float64"}, "rows: expected memory of the dtype that is named", id="another-dtype"),
        pytest.param({"x": np.ones((3, 20), np.float32).T}, "rows: expected features next to each other", id="columns"),
        pytest.param({"scale": np.ones(19)}, "scale: expected one number per row", id="scale"),
        pytest.param({"shift": np.ones(4)}, "shift: expected one number per column", id="shift"),
        pytest.param({"panels": aligned((11, 3, 16))}, r"panels: expected \[12 ceil", id="panels"),
        pytest.param({"panels": aligned((12 * 3 * 16 + 4,))[4:].reshape(12, 3, 16)}, "aligned to 64", id="misaligned"),
        pytest.param({"halves": np.empty(21, np.float32)}, "halves: expected one number per row", id="halves"),
    ],
)
def test_pack_rows_refuses(change: dict[str, Any], message: str) -> None:
    call_pack()
    with pytest.raises(ValueError, match=message):
        call_pack(**change)


def call_sums(block_j: Any = None, kernel: str = "rbf", **change: Any) -> None:
    block = pack(rows(400, 3))
    known = {
        "matrices": [matrix(block, block_j or block, kernel)],
        "left": 1,
        "range": (0, 400, 0, 400),
        "row_bits": 50,
        "row_sums": np.zeros((1, 1000), np.int64),
        "products": np.zeros((1, 1, 2), np.int64),
    }
    _core.kernel_sums(**{**known, "threads": 1, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"matrices": []}, "matrices: expected at least one", id="nothing"),
        pytest.param({"left": 2}, "left: expected some of the matrices", id="left"),
        pytest.param({"kernel": "cubic"}, "kernel: expected linear, polynomial, rbf, laplacian_l2", id="kernel"),
        pytest.param({"kernel": "polynomial"}, "coefficients: expected some of a polynomial", id="no-coefficients"),
        pytest.param({"matrices": [[]]}, "matrices: expected every one with a term", id="no-term"),
        pytest.param({"matrices": [[([], 0.0, 1.0)]]}, "terms: expected every one with a factor", id="no-factor"),
        pytest.param({"range": (100, 400, 100, 400)}, "begin at a multiple of 192", id="misaligned"),
        pytest.param({"range": (-192, 400, 0, 400)}, "begin at a multiple of 192", id="negative"),
        pytest.param({"range": (0, 0, 192, 400)}, "range: expected rows", id="no-rows"),
        pytest.param({"range": (0, 2**62, 192, 2**62)}, r"range: expected at most 2\^32 rows", id="overflow"),
        pytest.param({"range": (0, 400, 0, 192)}, "expected one block twice", id="two-sizes"),
        pytest.param({"range": (0, 400, 192, 400)}, "or two without a common row", id="common-rows"),
        pytest.param({"range": (0, 500, 0, 500)}, "block i: expected float32 panels and halves", id="too-few-panels"),
        pytest.param({"range": (768, 400, 0, 400)}, "row_sums: expected every row of the blocks", id="beyond-the-sums"),
        pytest.param({"row_bits": 53}, r"row_bits: expected n 2\^row_bits of at most 2\^62", id="row-bits"),
        pytest.param({"row_bits": -1}, "row_bits: expected", id="negative-row-bits"),
        pytest.param({"row_sums": np.zeros((2, 1000), np.int64)}, "expected one row per matrix", id="row-sums"),
        pytest.param({"products": np.zeros((1, 2, 2), np.int64)}, "products: expected", id="products"),
        pytest.param({"block_j": pack(rows(400, 4))}, "blocks: expected one depth", id="depth"),
        pytest.param({"block_j": (pack(rows(400, 3))[0],)}, "block j: expected float32 panels", id="no-halves"),
        pytest.param(
            {"block_j": (pack(rows(400, 3))[0].astype(np.float64), np.zeros(400, np.float32))},
            "block j: expected float32 panels",
            id="float64-panels-are-not-converted",
        ),
        pytest.param(
            {"block_j": (aligned((36, 0, 16)), np.zeros(400, np.float32))}, "block j: expected", id="no-features"
        ),
    ],
)
def test_kernel_sums_refuses(change: dict[str, Any], message: str) -> None:
    call_sums()
    with pytest.raises(ValueError, match=message):
        call_sums(**change)


def test_kernel_sums_refuses_more_rows_than_its_integers_hold() -> None:
    n = 2**25 + 1
    sums = np.lib.stride_tricks.as_strided(np.zeros(1, np.int64), (1, n), (8 * n, 8), writeable=True)
    with pytest.raises(ValueError, match=r"row_sums: expected at most 2\^25 rows"):
        call_sums(row_sums=sums, row_bits=30)


def call_nearest(**change: Any) -> None:
    block = pack(rows(400, 3))
    known = {
        "block_i": block,
        "block_j": block,
        "filter": "float32",
        "metric": "euclidean",
        "range": (0, 400, 0, 400),
        "symmetric": True,
        "k": 3,
        "keys": np.empty((400, 8), np.uint64),
        "counts": np.zeros(400, np.int32),
        "thresholds": np.full(400, LOWEST, np.float32),
    }
    _core.nearest(**{**known, "threads": 1, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            {"metric": "cosin"}, "metric: expected cosine, inner_product or euclidean, got cosin", id="metric"
        ),
        pytest.param({"range": (0, 400, 10, 400), "symmetric": False}, "multiple of 192", id="misaligned"),
        pytest.param({"range": (-192, 400, 0, 400), "symmetric": False}, "multiple of 192", id="negative"),
        pytest.param({"range": (0, 400, 192 * 2**25, 400), "symmetric": False}, r"at most 2\^32 rows", id="too-far"),
        pytest.param(
            {"range": (192, 400, 0, 400), "symmetric": False}, "every row of the blocks", id="beyond-the-rows"
        ),
        pytest.param({"range": (0, 400, 576, 400)}, "every row of the blocks", id="beyond-the-columns"),
        pytest.param({"k": 0}, "expected room for more than k", id="k-is-0"),
        pytest.param({"k": 8}, "expected room for more than k", id="no-room"),
        pytest.param({"counts": np.zeros(399, np.int32)}, "candidates: expected one length", id="counts"),
        pytest.param({"filter": "float16"}, "filter: expected float32 or bfloat16", id="filter"),
    ],
)
def test_nearest_refuses(change: dict[str, Any], message: str) -> None:
    call_nearest()
    with pytest.raises(ValueError, match=message):
        call_nearest(**change)


@pytest.mark.parametrize("count", [1, 9])
def test_rank_neighbours_refuses_counts_that_cannot_be(count: int) -> None:
    x = rows(10, 3)
    keys, thresholds = np.full((10, 8), 0xFFFFFFFF, np.uint64), np.zeros(10, np.float32)
    indices, scores = np.empty((10, 2), np.int64), np.empty((10, 2), np.float32)
    counts = np.full(10, count, np.int32)
    with pytest.raises(ValueError, match="candidates: expected at least k in every row"):
        rank(x, "cosine", keys, counts, thresholds, indices, scores)


def test_rank_neighbours_wants_room_for_scores_beside_candidates() -> None:
    x = rows(10, 3)
    candidates = np.full((10, 7), 0xFFFFFFFF, np.uint64), np.full(10, 4, np.int32), np.zeros(10, np.float32)
    lists = np.empty((10, 2), np.int64), np.empty((10, 2)), np.empty(10, np.uint8)
    with pytest.raises(ValueError, match="kept: expected at least k, and at most half of the candidates' room"):
        _core.rank_neighbours(ranking(x, "euclidean", 2), *candidates, certificate(x, kept=4), *lists, 1)


def test_outputs_of_another_dtype_are_not_copied() -> None:
    with pytest.raises(TypeError, match="incompatible function arguments"):
        call_nearest(counts=np.zeros(400, np.int64))
