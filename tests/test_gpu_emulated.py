"""The GPU operations and the Python that drives them, on kernels that are loops on the host: see emulated_gpu.py.

What is compared: float64 oracles, and the CPU's operations, which have tests of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import oracles
import pytest
import torch
from emulated_gpu import install, on_gpu

import repsim
from repsim import _core, blocks
from repsim.measures.cka import cka_grid
from repsim.reductions import device, device_grid

COMPOUND = repsim.RBF(sigma=6.0) + 0.5 * repsim.Linear() * repsim.RBF(median_fraction=1.0)
KERNELS = [
    pytest.param("cosine", id="cosine"),
    pytest.param(repsim.Polynomial(degree=3), id="polynomial"),
    pytest.param("rbf", id="rbf"),
    pytest.param("laplacian_l2", id="laplacian_l2"),
    pytest.param("laplacian_l1", id="laplacian_l1"),
    pytest.param(COMPOUND, id="sum-of-products"),
]


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    """More than two tiles of 192 rows, the last one partly filled; depths that are no multiple of 8."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(410, 21)).astype(np.float32)
    return x, (x[:, :13] ** 2 + rng.normal(size=(410, 13))).astype(np.float32)


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> Any:
    return install(monkeypatch)


def both(x: np.ndarray, y: np.ndarray) -> Iterator[Any]:
    return iter((on_gpu(x), on_gpu(y, "y")))


# ---------------------------------------------------------------------------------------------------------------- cka


@pytest.mark.parametrize("estimator", ["debiased", "biased"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_cka_is_that_of_the_cpu(native: Any, data: Any, kernel: Any, estimator: str) -> None:
    options = {"kernel": kernel, "estimator": estimator, "jackknife": True}
    there, here = repsim.cka(*both(*data), **options), repsim.cka(*data, **options)
    assert there.precision == "float32"
    assert there.value == pytest.approx(here.value, abs=5e-8)
    assert there.standard_error == pytest.approx(here.standard_error, rel=1e-5)
    assert there.z == pytest.approx(here.z, rel=1e-5)


@pytest.mark.parametrize("estimator", ["debiased", "biased"])
@pytest.mark.parametrize(
    ("kernel", "oracle"),
    [
        pytest.param("linear", oracles.LINEAR, id="linear-in-float64"),
        pytest.param(repsim.RBF(sigma=4.0), oracles.Kernel("rbf", 4.0), id="rbf-in-tiles"),
    ],
)
def test_cka_is_that_of_the_definition(native: Any, data: Any, kernel: Any, oracle: Any, estimator: str) -> None:
    there = repsim.cka(*both(*data), kernel=kernel, estimator=estimator)
    exact = oracles.cka(*data, estimator, oracle)
    assert there.value == pytest.approx(exact, abs=1e-12 if kernel == "linear" else 1e-7)
    assert there.precision == ("float64" if kernel == "linear" else "float32")


def test_linear_tiles_are_the_feature_space(native: Any, data: Any) -> None:
    """With the jackknife the linear kernel goes through tiles, without it through products of features."""
    tiles, features = repsim.cka(*both(*data), jackknife=True), repsim.cka(*both(*data))
    assert (tiles.precision, features.precision) == ("float32", "float64")
    assert tiles.value == pytest.approx(features.value, abs=1e-7)
    assert tiles.standard_error == pytest.approx(repsim.cka(*data, jackknife=True).standard_error, rel=1e-5)


@pytest.mark.parametrize("estimator", ["debiased", "biased"])
def test_hsic_is_that_of_the_definition(native: Any, data: Any, estimator: str) -> None:
    there = repsim.hsic(*both(*data), kernel=repsim.RBF(sigma=4.0), estimator=estimator)
    assert there.value == pytest.approx(oracles.hsic(*data, estimator, oracles.Kernel("rbf", 4.0)), rel=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_every_dtype_is_read_as_it_is(native: Any, data: Any, dtype: str) -> None:
    x, y = (torch.as_tensor(z).to(getattr(torch, dtype)) for z in data)
    there = repsim.cka(on_gpu(x), on_gpu(y, "y"), kernel="rbf")
    assert there.value == pytest.approx(repsim.cka(x, y, kernel="rbf").value, abs=5e-8)


@pytest.mark.parametrize("block_rows", [pytest.param(1, id="a-tile"), pytest.param(384, id="two-tiles")])
def test_blocks_change_no_bit(native: Any, data: Any, block_rows: int) -> None:
    options = {"kernel": COMPOUND, "jackknife": True}
    whole, cut = repsim.cka(*both(*data), **options), repsim.cka(*both(*data), **options, block_rows=block_rows)
    assert (whole.value, whole.z, whole.standard_error) == (cut.value, cut.z, cut.standard_error)
    lists = [repsim.nearest(on_gpu(data[0]), 5, block_rows=rows) for rows in (None, block_rows)]
    assert torch.equal(lists[0].indices, lists[1].indices)


def test_strided_rows_are_read_in_place(native: Any, data: Any) -> None:
    x, y = data
    apart = torch.as_tensor(np.repeat(x, 2, axis=0))[::2]
    assert not apart.is_contiguous()
    assert repsim.cka(on_gpu(apart), on_gpu(y), kernel="rbf").value == repsim.cka(*both(x, y), kernel="rbf").value


@pytest.mark.parametrize("kernel", [pytest.param("rbf", id="rbf"), pytest.param(COMPOUND, id="sum-of-products")])
def test_many_layers_have_the_bits_of_pairs(native: Any, data: Any, kernel: Any) -> None:
    """Two matrices are reduced by one launch, more by one each and one for every pair of stored tiles."""
    x, y = data
    z = x[:, 3:9] - 1
    grid = cka_grid([on_gpu(x), on_gpu(z)], [on_gpu(y)], kernel=kernel, jackknife=True)
    for i, left in enumerate((x, z)):
        cell, pair = grid.at(i, 0, "cka"), repsim.cka(on_gpu(left), on_gpu(y), kernel=kernel, jackknife=True)
        assert (cell.value, cell.z, cell.standard_error) == (pair.value, pair.z, pair.standard_error)


@pytest.mark.parametrize(
    ("precision", "name", "error"),
    [pytest.param("high", "tfloat32", 2e-4, id="tf32"), pytest.param("medium", "bfloat16", 2e-3, id="bfloat16")],
)
@pytest.mark.parametrize("kernel", KERNELS)
def test_lower_precisions_say_so(native: Any, data: Any, kernel: Any, precision: str, name: str, error: float) -> None:
    exact = repsim.cka(*data, kernel=kernel)
    there = repsim.cka(*both(*data), kernel=kernel, precision=precision)
    assert there.precision == name
    assert 0 < abs(there.value - exact.value) < error


def test_rows_far_from_the_origin_keep_their_digits(native: Any, data: Any) -> None:
    x, y = (z.astype(np.float64) for z in data)
    there = repsim.cka(on_gpu(x + 1e6), on_gpu(y - 1e6, "y"), kernel="rbf")
    assert there.value == pytest.approx(repsim.cka(x, y, kernel="rbf").value, abs=1e-6)


@pytest.mark.parametrize("kernel", [repsim.RBF(sigma=1.0), repsim.LaplacianL2(sigma=1.0)], ids=["rbf", "laplacian"])
def test_clusters_far_apart_keep_their_digits(native: Any, kernel: Any) -> None:
    """Products lose the distances within a cluster; these are taken from the differences of the rows."""
    rng = np.random.default_rng(1)
    centres = 5e3 * rng.normal(size=(4, 6))
    x, y = (centres[np.arange(200) % 4] + rng.normal(size=(200, 6)) for _ in range(2))
    there = repsim.cka(on_gpu(x), on_gpu(y, "y"), kernel=kernel)
    grams = [np.exp(-oracles.squared_distances(z) / 2) for z in (x, y)]
    if isinstance(kernel, repsim.LaplacianL2):
        grams = [np.exp(-np.sqrt(oracles.squared_distances(z))) for z in (x, y)]
    assert there.value == pytest.approx(oracles.cka_of_grams(*grams, "debiased"), abs=2e-6)


@pytest.mark.parametrize(("kernel", "metric"), [("rbf", "euclidean"), ("laplacian_l1", "cityblock")])
def test_bandwidths_are_exact_medians(
    native: Any, data: Any, kernel: str, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With more rows than fit at once the median comes from the histogram of all distances."""
    from scipy.spatial.distance import pdist

    monkeypatch.setattr("repsim.reductions.distances.IN_MEMORY", 50)
    rows = on_gpu(data[0])
    name = {"cityblock": "manhattan"}.get(metric, metric)
    found = repsim.reductions.median_distance(rows, distance=name, function="t", threads=1)
    assert found == pytest.approx(float(np.median(pdist(data[0].astype(np.float64), metric))), rel=3e-7)
    assert repsim.cka(rows, on_gpu(data[1], "y"), kernel=kernel).value == pytest.approx(
        repsim.cka(*data, kernel=kernel).value, abs=5e-8
    )


def test_a_misled_median_is_found_by_the_coarse_count(native: Any, data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.spatial.distance import pdist

    monkeypatch.setattr("repsim.reductions.distances.IN_MEMORY", 50)
    x = data[0].copy()
    x[np.linspace(0, len(x) - 1, 50).astype(np.int64)] *= np.float32(0.01)  # those that are sampled
    found = repsim.reductions.median_distance(on_gpu(x), function="t", threads=1)
    assert found == pytest.approx(float(np.median(pdist(x.astype(np.float64)))), rel=3e-7)


def test_progress_is_told(native: Any, data: Any) -> None:
    seen: list[tuple[int, int]] = []
    repsim.cka(*both(*data), kernel=repsim.RBF(sigma=4.0), block_rows=192, progress=lambda *step: seen.append(step))
    assert seen == [(i, 6) for i in range(1, 7)]


# ------------------------------------------------------------------------------------------------------------- nearest


@pytest.mark.parametrize("filter", ["float32", "bfloat16"])
@pytest.mark.parametrize("metric", ["cosine", "inner_product", "euclidean"])
@pytest.mark.parametrize("k", [1, 10, 100])
def test_neighbours_are_those_of_the_cpu(native: Any, data: Any, k: int, metric: str, filter: str) -> None:
    there = repsim.nearest(on_gpu(data[0]), k, metric=metric, filter=filter)
    here = repsim.nearest(data[0], k, metric=metric)
    assert there.filter == filter
    assert there.certified
    assert there.indices.dtype == torch.int64
    np.testing.assert_array_equal(there.indices.numpy(), here.indices)
    np.testing.assert_array_equal(there.scores.numpy(), here.scores)


@pytest.mark.parametrize("metric", ["cosine", "inner_product", "euclidean"])
def test_neighbours_in_a_base(native: Any, data: Any, metric: str) -> None:
    queries, base = data[0][:230], data[0][100:]
    there = repsim.nearest(on_gpu(queries), 7, base=on_gpu(base, "base"), metric=metric)
    here = repsim.nearest(queries, 7, base=base, metric=metric)
    np.testing.assert_array_equal(there.indices.numpy(), here.indices)
    np.testing.assert_array_equal(there.scores.numpy(), here.scores)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_neighbours_of_every_dtype(native: Any, data: Any, metric: str, dtype: str) -> None:
    x = torch.as_tensor(data[0]).to(getattr(torch, dtype))
    there, here = repsim.nearest(on_gpu(x), 5, metric=metric), repsim.nearest(x, 5, metric=metric)
    np.testing.assert_array_equal(there.indices.numpy(), here.indices)
    np.testing.assert_array_equal(there.scores.numpy(), here.scores)


@pytest.mark.parametrize("filter", ["float32", "bfloat16"])
@pytest.mark.parametrize("k", [1, 10, 399])
def test_neighbours_that_the_filter_cannot_tell_apart(native: Any, data: Any, k: int, filter: str) -> None:
    """Duplicates, and two clusters as far apart as float32 can hold beside each other: rows are settled."""
    x = data[0][:400, :12].copy()
    x[300:] = x[:100]
    x[::2] += np.float32(2e5)
    there, here = (repsim.nearest(z, k, metric="euclidean", filter=f) for z, f in ((on_gpu(x), filter), (x, "auto")))
    if k < 399:  # else all rows are candidates of all
        assert there.scanned > 0
    np.testing.assert_array_equal(there.indices.numpy(), here.indices)
    np.testing.assert_array_equal(there.scores.numpy(), here.scores)


def test_equal_scores_go_to_the_lower_index(native: Any) -> None:
    x = np.tile(np.eye(4, dtype=np.float32), (100, 1))
    there = repsim.nearest(on_gpu(x), 20, metric="euclidean")
    expected = oracles.nearest(x, 20, "euclidean")
    np.testing.assert_array_equal(there.indices.numpy(), expected)


def test_one_far_row_loosens_no_bound(native: Any, data: Any) -> None:
    """Under the inner product the longest rows are candidates of every row."""
    x = data[0].copy()
    x[7] *= np.float32(3e4)
    there, here = (repsim.nearest(z, 10, metric="inner_product") for z in (on_gpu(x), x))
    np.testing.assert_array_equal(there.indices.numpy(), here.indices)


def test_bfloat16_is_tried_out_first(native: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repsim.reductions.neighbours.PILOT", 40)
    monkeypatch.setattr("repsim.reductions.neighbours.LEAST_PAIRS", 1)
    x = np.random.default_rng(3).normal(size=(400, 16)).astype(np.float32)
    there = repsim.nearest(on_gpu(x), 10)
    assert there.filter == "bfloat16"
    np.testing.assert_array_equal(there.indices.numpy(), repsim.nearest(x, 10).indices)


def test_neighbour_measures_take_rows_on_a_gpu(native: Any, data: Any) -> None:
    assert repsim.mutual_knn(*both(*data), k=5) == repsim.mutual_knn(*data, k=5)
    graphs = [repsim.nearest(rows, 5) for rows in both(*data)]
    assert repsim.mutual_knn(*graphs) == repsim.mutual_knn(*data, k=5)
    assert isinstance(graphs[0].cpu().indices, np.ndarray)
    assert graphs[0].cpu().cpu().indices is not None


def test_a_graph_on_a_gpu_is_saved(native: Any, data: Any, tmp_path: Any) -> None:
    graph = repsim.nearest(on_gpu(data[0]), 5)
    graph.save(tmp_path / "graph")
    np.testing.assert_array_equal(repsim.Neighbours.load(tmp_path / "graph").indices, graph.indices.numpy())


# ---------------------------------------------------------------------------------------------------------- operations


def packed_by_the_cpu(x: np.ndarray, shift: np.ndarray, scale: np.ndarray, offset: np.ndarray) -> Any:
    n, d = x.shape
    panels, pairs = blocks.empty_panels(n, d), blocks.empty_panels(n, -(-d // 2)).view(np.uint32)
    halves, pair_halves, residuals = np.empty((3, n), np.float32)
    _core.pack_rows(x, "float32", shift, scale, offset, panels, halves, 1)
    _core.pack_pairs(x, "float32", shift, scale, offset, pairs, pair_halves, residuals, 1)
    rows = panels.transpose(0, 2, 1).reshape(-1, d)
    words = np.ascontiguousarray(pairs.transpose(0, 2, 1)).reshape(-1, pairs.shape[1]).view(np.uint16)
    return rows, halves, (words.astype(np.uint32) << 16).view(np.float32), pair_halves, residuals


def test_rows_are_packed_to_the_bits_of_the_cpu(native: Any, data: Any) -> None:
    x = data[0]
    shift, scale, offset = x[:50].mean(axis=0, dtype=np.float64), 1 / (1 + np.arange(410.0)), x[3].astype(np.float64)
    rows, halves, words, pair_halves, residuals = packed_by_the_cpu(x, shift, scale, offset)
    for kind, expected, expected_halves in (("float32", rows, halves), ("bfloat16", words, pair_halves)):
        packed, found, misses = device.pack(on_gpu(x), shift, scale, offset, kind, tile=192, residuals=True)
        assert packed.values.shape == (576, 24)
        values = packed.values.float().numpy()
        np.testing.assert_array_equal(values[:, :21], expected[:, :21])
        assert not values[:, 21:].any()
        np.testing.assert_array_equal(found.numpy(), expected_halves)
        exact = (x - shift) * scale[:, None] - offset
        distances = np.sqrt(((values[:410, :21].astype(np.float64) - exact) ** 2).sum(axis=1))
        assert (misses.numpy() >= distances).all()
        assert (misses.numpy() <= 1.001 * distances + 1e-12).all()
        if kind == "bfloat16":
            np.testing.assert_allclose(misses.numpy(), residuals, rtol=1e-6)


def test_tf32_keeps_eleven_bits(native: Any) -> None:
    x = np.array([[1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-10, -(1 + 2**-11 + 2**-20)]], np.float32)
    packed, *_ = device.pack(on_gpu(x), None, np.ones(1), None, "tfloat32", tile=192)
    even = [1, 1 + 2**-9, 1 + 2**-10, -(1 + 2**-10)]  # ties to even
    np.testing.assert_array_equal(packed.values[0, :4].numpy(), np.array(even, np.float32))


@pytest.mark.parametrize(
    ("rows", "columns", "width"),
    [
        pytest.param(192, 192, 32, id="whole"),
        pytest.param(150, 70, 24, id="rows-columns-and-features-short-of-a-step"),
        pytest.param(3, 5, 8, id="less-than-a-fragment"),
        pytest.param(65, 129, 72, id="one-more-than-a-part"),
    ],
)
def test_products_of_bfloat16_are_those_of_float64(native: Any, rows: int, columns: int, width: int) -> None:
    made = torch.Generator().manual_seed(rows)
    a, b = (torch.randn(n, width, generator=made).bfloat16() for n in (rows, columns))
    products = torch.full((192, 192), float("nan"))
    tile = (0, rows, 0, columns, 192, False)
    native.bfloat16_tile(a.data_ptr(), b.data_ptr(), width, tile, products.data_ptr(), 0)
    exact = a.double() @ b.double().T
    torch.testing.assert_close(products[:rows, :columns].double(), exact, rtol=1e-6, atol=1e-6)
    assert products[rows:].isnan().all()
    assert products[:, columns:].isnan().all()
    with pytest.raises(ValueError, match="rows: expected whole sixteen bytes"):
        native.bfloat16_tile(a.data_ptr(), b.data_ptr(), width + 1, tile, products.data_ptr(), 0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_norms_are_the_bits_of_the_cpu(native: Any, data: Any, dtype: str) -> None:
    x = torch.as_tensor(data[0]).to(getattr(torch, dtype))
    rows, shift = x.view(torch.int16).numpy().view(np.uint16) if dtype == "bfloat16" else x.numpy(), np.full(21, 0.3)
    for about in (None, shift):
        here, there = np.empty((2, len(x)))
        _core.squared_norms(rows, dtype, about, here, 1)
        device.squared_norms(x, dtype, about, there, 1)
        np.testing.assert_array_equal(there, here)
    here, there = np.empty((2, len(x)))
    _core.project_rows(rows, dtype, shift, shift, here, 1)
    device.project_rows(x, dtype, shift, shift, there, 1)
    np.testing.assert_allclose(there, here, rtol=1e-12, atol=1e-12)


def tile_of_ones(native: Any, n: int, value: float, times: int) -> tuple[np.ndarray, np.ndarray]:
    """Row sums and products of a matrix that is `value` off its diagonal, added so many times."""
    values = torch.full((192, 192), value)
    row_sums, slots = torch.zeros(n, dtype=torch.int64), torch.zeros((native.SLOTS, 2), dtype=torch.int64)
    matrix = [([((values.data_ptr(), 0, 0, "float32", 0, 0, 0), "linear", 1.0, [])], 0.0, 1.0)]
    for _ in range(times):
        products = [slots.data_ptr(), 0, 0]
        native.kernel_sums([matrix], (0, n, 0, n, 192, True), 40, 0, [row_sums.data_ptr(), 0], products, 0)
    return row_sums.numpy(), device.summed_products(slots[None, None].clone())[0, 0]


@pytest.mark.parametrize("times", [1, 3, 40])
@pytest.mark.parametrize("value", [1.0, -1.0, 0.75])
def test_fixed_point_sums_carry(native: Any, value: float, times: int) -> None:
    """36 672 terms of up to 2^45 units leave 2^32 after the first tile, of either sign."""
    row_sums, (high, low) = tile_of_ones(native, 192, value, times)
    np.testing.assert_array_equal(row_sums, int(191 * times * value * 2**40))
    assert 0 <= low < 2**32
    assert int(high) * 2**32 + int(low) == int(192 * 191 * times * value * value * 2**45)


def test_two_limbs_of_many_slots_are_one_number() -> None:
    slots = torch.tensor([[[[2, 2**32 - 1], [-1, 5 + 2**40]]]])  # bits above 32 of the lower limb were carried before
    np.testing.assert_array_equal(device.summed_products(slots), [[[2, 4]]])
    alone = np.array([[[7, 9]]])
    assert device.summed_products(alone) is alone


@pytest.mark.parametrize(
    ("span", "symmetric", "expected"),
    [
        pytest.param((0, 500, 0, 500), True, 6, id="upper-triangle"),
        pytest.param((0, 384, 384, 200), True, 4, id="two-blocks"),
        pytest.param((0, 500, 0, 500), False, 9, id="one-sided"),
    ],
)
def test_tiles_cover_every_pair_once(span: device_grid.Span, symmetric: bool, expected: int) -> None:
    seen = np.zeros((600, 600), int)
    tiles = list(device_grid.tiles_of(span, 192, 192, symmetric=symmetric))
    assert len(tiles) == expected
    for at in tiles:
        assert (at.first_i, at.first_j) == (span[0] + at.i, span[2] + at.j)
        seen[at.first_i : at.first_i + at.rows, at.first_j : at.first_j + at.columns] += 1
        if symmetric and not at.diagonal:
            seen[at.first_j : at.first_j + at.columns, at.first_i : at.first_i + at.rows] += 1
    first_i, rows, first_j, columns = span
    wanted = np.zeros_like(seen)
    wanted[first_i : first_i + rows, first_j : first_j + columns] = 1
    if symmetric:
        wanted |= wanted.T
    np.testing.assert_array_equal(seen, wanted)


def test_tiles_follow_from_the_number_of_rows() -> None:
    assert [device_grid.tile_rows(n) for n in (1, 192, 193, 3000, 3072, 10**6)] == [192, 192, 384, 3072, 3072, 3072]
    plan = device_grid.traversal(
        torch.device("cpu"), 10**6, 10**6, [64], symmetric=True, block_rows=None, memory=2**30, function="t"
    )
    assert plan.block_rows % 3072 == 0
    assert 3072 <= plan.block_rows <= device_grid.MOST_ROWS


@pytest.mark.parametrize("k", [1, 30, 100, 500])
def test_candidates_are_the_best_whatever_their_order(native: Any, k: int) -> None:
    """Scores with many ties, offered in tiles from the last to the first."""
    from repsim.reductions.device_neighbours import Candidates

    rng = np.random.default_rng(k)
    scores = rng.integers(-40, 40, size=(5, 960)).astype(np.float32) / 8
    best = Candidates.of(5, k, k, torch.device("cpu"), "t")
    for first in range(768, -1, -192):
        tile = torch.as_tensor(scores[:, first : first + 192]).contiguous()
        best.offer(tile, 0, 0, (0, 5, first, 192, 192, False), False)
    keys = best.keys.numpy().view(np.uint64)
    for i in range(5):
        found = np.sort(keys[i, : best.counts[i]])[::-1][:k]
        order = np.lexsort((np.arange(960), -scores[i]))[:k]
        np.testing.assert_array_equal(0xFFFFFFFF - (found & 0xFFFFFFFF).astype(np.int64), order)


# -------------------------------------------------------------------------------------------------------------- errors


def test_a_row_that_is_not_finite_is_named(native: Any, data: Any) -> None:
    x = data[0].copy()
    x[303, 5] = np.nan
    for call in (
        lambda rows: repsim.cka(rows, on_gpu(data[1], "y"), kernel="rbf"),
        lambda rows: repsim.cka(rows, on_gpu(data[1], "y")),
        lambda rows: repsim.nearest(rows, 5),
    ):
        with pytest.raises(ValueError, match=r"expected x with finite values, got NaN or infinity in row 303"):
            call(on_gpu(x))


def test_rows_of_no_use_are_refused(native: Any, data: Any) -> None:
    same = on_gpu(np.ones((410, 3), np.float32))
    with pytest.raises(ValueError, match=r"\[cka\] expected x whose rows differ"):
        repsim.cka(same, on_gpu(data[1], "y"), kernel="rbf")
    with pytest.raises(ValueError, match=r"\[cka\] expected x whose rows differ"):
        repsim.cka(same, on_gpu(data[1], "y"))
    long = on_gpu(data[0].astype(np.float64) * 1e75)
    with pytest.raises(ValueError, match=r"fourth powers float64 can hold"):
        repsim.reductions.device_moments.feature_moments([long], [(0, 0)], function="t")  # type: ignore[attr-defined]
    zero = data[0].copy()
    zero[9] = 0
    with pytest.raises(ValueError, match=r"\[nearest\] expected x with non-zero rows for the cosine.* in row 9"):
        repsim.nearest(on_gpu(zero), 5)


def test_rows_beyond_float64_are_refused(native: Any, data: Any) -> None:
    with pytest.raises(ValueError, match=r"\[nearest\] expected x .* whose squares float64 can hold"):
        repsim.nearest(on_gpu(data[0].astype(np.float64) * 1e150), 3, metric="inner_product")


def test_unbounded_scores_are_refused(native: Any) -> None:
    from repsim.reductions.device_neighbours import DeviceSearch

    search = object.__new__(DeviceSearch)
    with pytest.raises(ValueError, match="expected rows whose scores float64 can hold"):
        search._require_bounded(torch.ones(1, dtype=torch.int32))


def test_more_neighbours_than_room_are_refused(native: Any) -> None:
    x = on_gpu(np.random.default_rng(0).normal(size=(2600, 2)).astype(np.float32))
    with pytest.raises(ValueError, match=r"\[nearest\] expected k of at most 1984 on a GPU, got 2400"):
        repsim.nearest(x, 2400)


def test_a_kernel_of_too_many_parts_is_refused(native: Any, data: Any) -> None:
    many: Any = repsim.RBF(sigma=1.0)
    for i in range(16):
        many = many + repsim.RBF(sigma=2.0 + i)
    with pytest.raises(
        ValueError, match=r"\[cka\] expected a kernel of at most 16 factors and 64 coeff.* got 17 and 0"
    ):
        repsim.cka(*both(*data), kernel=many)


def test_kernels_that_fit_alone_go_one_by_one(native: Any, data: Any) -> None:
    many: Any = repsim.RBF(sigma=3.0)
    for i in range(9):
        many = many + repsim.RBF(sigma=4.0 + i)
    assert repsim.cka(*both(*data), kernel=many).value == pytest.approx(repsim.cka(*data, kernel=many).value, abs=5e-8)


def test_a_memory_too_small_is_refused(native: Any, data: Any) -> None:
    with pytest.raises(ValueError, match=r"\[cka\] expected memory of at least .* for blocks and tiles of 192 rows"):
        repsim.cka(*both(*data), kernel=repsim.RBF(sigma=1.0), memory=10_000)
    enough = repsim.cka(*both(*data), kernel=repsim.RBF(sigma=4.0), memory="2MB")
    assert enough.value == repsim.cka(*both(*data), kernel=repsim.RBF(sigma=4.0)).value


def test_more_rows_than_integers_hold_are_refused(native: Any) -> None:
    rows = on_gpu(torch.zeros(1).expand(2**25 + 1, 1))
    with pytest.raises(ValueError, match=r"\[cka\] expected at most 2\^25 rows, .* got 33554433"):
        device_grid.square_traversal([rows], [1], block_rows=None, memory=None, function="cka")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"tile": (0, 5, 0, 300, 192, False)}, "tile: expected rows and columns", id="wider-than-pitch"),
        pytest.param({"tile": (0, 5, 0, 192, 190, False)}, "tile: expected rows and columns", id="pitch"),
        pytest.param({"tile": (0, 5, 192, 5, 192, True)}, "tile: expected rows and columns", id="diagonal"),
        pytest.param({"kept": 100}, "candidates: expected a capacity of a power of two", id="no-room"),
        pytest.param({"candidates": (0, 0, 0, 100)}, "candidates: expected a capacity", id="no-power-of-two"),
    ],
)
def test_the_module_refuses_what_does_not_fit(native: Any, change: dict[str, Any], message: str) -> None:
    known = {
        "products": 0, "half_i": 0, "half_j": 0, "tile": (0, 5, 0, 5, 192, False), "same_rows": False, "kept": 3,
        "candidates": (0, 0, 0, 128), "stream": 0,
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        native.nearest(**{**known, **change})


def test_the_module_refuses_names_and_counts(native: Any) -> None:
    with pytest.raises(ValueError, match="dtype: expected float16, bfloat16, float32 or float64, got int8"):
        native.squared_norms((0, "int8", 0, 0, 0), 0, 0, 0, 0, 0)
    with pytest.raises(ValueError, match="matrices: expected one or two"):
        native.kernel_sums([], (0, 5, 0, 5, 192, False), 40, 0, [0, 0], [0, 0, 0], 0)
    with pytest.raises(ValueError, match="addresses: expected one for every result"):
        matrix = [([((0, 0, 0, "float32", 0, 0, 0), "linear", 1.0, [])], 0.0, 1.0)]
        native.kernel_sums([matrix], (0, 5, 0, 5, 192, False), 40, 0, [0], [0, 0, 0], 0)
    with pytest.raises(ValueError, match="packed: expected room"):
        native.pack_rows((0, "float32", 10, 3, 3), 0, 0, 0, "float32", 0, 5, 8, 0, 0, 0)
    with pytest.raises(ValueError, match="bins: expected some of finite distances"):
        native.distance_histogram(
            (0, 0, 0, "float32", 0, 0, 0), "euclidean", (0, 5, 0, 5, 192, False), 24, 0, 0, 4, 0, 0
        )
    assert native.device_count() == 0
    assert math.isfinite(native.NO_FLOOR)
