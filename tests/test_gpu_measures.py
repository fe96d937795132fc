"""Every measure that declares to work where its rows lie, on rows of an emulated GPU: see emulated_gpu.py.

What is compared: the same call on the CPU, which has tests of its own, and rows that lie there with rows that are
brought there a block at a time, to the bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from emulated_gpu import EmulatedCopies, install, off_host, on_gpu, streamed
from scipy.spatial.distance import pdist, squareform
from scipy.stats import spearmanr

import repsim
from repsim.arrays import DeviceRows
from repsim.measures.registry import REGISTRY
from repsim.reductions import device_distances, device_streams

METHODS = [name for name, one in REGISTRY.items() if one.gpu and one.method is not None]
GRAPHS = [name for name, one in REGISTRY.items() if one.family == "neighbours"]
N = 210  # four blocks of 64 rows, the last a short one
SAMPLE = 15

Pair = tuple[np.ndarray, np.ndarray]


@pytest.fixture(autouse=True)
def native(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Several blocks of everything; of rows on the GPU the host may read no more than a sample."""
    monkeypatch.setattr("repsim.arrays.RESIDENT_ON_DEVICE", 50 * 9 * 8)
    monkeypatch.setattr("repsim.reductions.device_moments.ROWS", 64)
    monkeypatch.setattr("repsim.reductions.dissimilarities.BLOCK_ROWS", 64)
    monkeypatch.setattr("repsim.blocks.MOST_ROWS", 192)
    monkeypatch.setattr(device_distances, "TILE_ROWS", 70)
    monkeypatch.setattr("repsim.blocks.sample_rows", lambda depth: SAMPLE)
    wide = DeviceRows.wide

    def sampled(self: DeviceRows, rows: Any, columns: Any = slice(None)) -> np.ndarray:
        found = wide(self, rows, columns)
        assert len(found) <= SAMPLE, "the host reads rows that lie on the GPU"
        return found

    monkeypatch.setattr(DeviceRows, "wide", sampled)
    return install(monkeypatch)


@pytest.fixture(scope="module")
def data() -> Pair:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 9)) * np.linspace(0.5, 2, 9) + 3.0
    return x, np.tanh(x[:, :6] - 3.0) + 0.5 * rng.normal(size=(N, 6))


def numbers(result: Any) -> list[float]:
    return [result.value, result.null.mean, result.null.sd, result.p, result.standard_error or 0.0]


def compare(name: str, x: Any, y: Any, *, tolerance: float = 1e-10, **how: Any) -> None:
    """On the CPU, on the GPU, and brought there."""
    measure = getattr(repsim, name)
    there = numbers(measure(off_host(x), off_host(y, "y"), **how))
    np.testing.assert_allclose(there, numbers(measure(x, y, **how)), rtol=tolerance, atol=tolerance)
    np.testing.assert_array_equal(numbers(measure(streamed(x), streamed(y, "y", late=True), **how)), there)


# ------------------------------------------------------------------------------------------------------------- results


@pytest.mark.parametrize("name", METHODS)
def test_values_chance_and_errors_are_those_of_the_cpu(name: str, data: Pair) -> None:
    x, y = data
    compare(name, x[:, : y.shape[1]].copy() if REGISTRY[name].same_width else x, y, permutations=2, jackknife=2, seed=1)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        pytest.param("svcca", {"variance": 0.8, "variant": "wu2020"}, id="svcca-wu"),
        pytest.param("pwcca", {"variant": "wu2020"}, id="pwcca-wu"),
        pytest.param("ridge_regression", {"lambdas": 0.1, "folds": 2}, id="one-lambda"),
        pytest.param("procrustes", {"unit_norm": True}, id="unit-norm"),
        pytest.param("distance_correlation", {"estimator": "biased"}, id="biased"),
        pytest.param("uniformity_difference", {"unit_rows": False, "include_self": True}, id="rows-as-they-are"),
        pytest.param("intrinsic_dimension_difference", {"estimator": "levina_bickel"}, id="levina-bickel"),
        pytest.param("rsm_norm_difference", {"rsm": "squared_euclidean"}, id="squared"),
        pytest.param("rsa", {"comparison": "pearson", "rdm": "correlation"}, id="pearson-of-correlations"),
        pytest.param("rsa", {"comparison": "cosine", "rdm": "mahalanobis"}, id="cosine-of-mahalanobis"),
        pytest.param("rsa", {"comparison": "kendall", "rdm": "cosine", "sample": 90}, id="kendall-of-a-sample"),
        pytest.param("rsa", {"ranks": "float32", "permutations": 1}, id="counted-ranks"),
        pytest.param("rsa", {"ranks": "float32", "rdm": "cosine"}, id="counted-ranks-of-cosines"),
    ],
)
def test_options(name: str, how: dict[str, Any], data: Pair) -> None:
    compare(name, *data, **how)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        pytest.param("svcca", {"variance": 0.5}, id="svcca"),
        pytest.param("pwcca", {}, id="pwcca-with-loadings"),
        *(pytest.param(name, {}, id=name) for name in ("pls", "procrustes", "gulp", "aligned_cosine")),
        pytest.param("ridge_regression", {"folds": 3}, id="ridge"),
    ],
)
def test_rows_wider_than_long(name: str, how: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repsim.measures.spaces._PART", 20 * 30)
    rng = np.random.default_rng(1)
    x = rng.normal(size=(24, 8)) @ rng.normal(size=(8, 50))
    monkeypatch.setattr(DeviceRows, "wide", lambda self, *_: self.wide_there(*_).cpu().numpy())  # turned rows [n, n]
    y = np.tanh(x[:, :8]) @ rng.normal(size=(8, 40))
    compare(name, x, y, tolerance=1e-7, **how)  # where their products vanish, several directions are as good


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("name", ["procrustes", "distance_correlation"])
def test_every_dtype_is_read_as_it_is(name: str, dtype: str, data: Pair) -> None:
    compare(name, *(torch.as_tensor(one).to(getattr(torch, dtype)) for one in data))


@pytest.mark.parametrize("name", ["cca_mean", "distance_correlation"])
def test_rows_far_from_the_origin_keep_their_digits(name: str, data: Pair) -> None:
    x, y = data
    compare(name, x + 1e6, y, tolerance=1e-7)


def centred(x: np.ndarray) -> np.ndarray:
    return x - x.mean(axis=0)


def by_definition(name: str, x: np.ndarray, y: np.ndarray) -> float:
    if name == "procrustes":
        a, b = centred(x), centred(y)
        inner = np.linalg.svd(a.T @ b, compute_uv=False).sum()
        return float(np.sqrt((a * a).sum() + (b * b).sum() - 2 * inner))
    if name == "cca_mean":
        bases = [np.linalg.qr(centred(z))[0] for z in (x, y)]
        return float(np.linalg.svd(bases[0].T @ bases[1], compute_uv=False).mean())
    distances = [pdist(z) for z in (x, y)]
    if name == "rsa":
        return float(spearmanr(*distances).statistic)
    a, b = (
        d - d.mean(axis=0) - d.mean(axis=1, keepdims=True) + d.mean() for d in (squareform(one) for one in distances)
    )
    return float(np.sqrt((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum())))


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("procrustes", {}),
        ("cca_mean", {}),
        ("rsa", {"ranks": "float32"}),
        ("distance_correlation", {"estimator": "biased"}),
    ],
    ids=["procrustes", "cca", "counted-ranks", "distance-correlation"],
)
def test_the_measures_agree_with_their_definition(name: str, how: dict[str, Any], data: Pair) -> None:
    there = getattr(repsim, name)(off_host(data[0]), off_host(data[1], "y"), **how)
    assert there.value == pytest.approx(by_definition(name, *data), abs=1e-6 if name == "rsa" else 1e-11)


def test_a_mixture_of_layers_of_one_block_has_the_bits_of_each_pair(data: Pair) -> None:
    """What several measures share of rows there is found once, and changes no bit."""
    from repsim.measures.method import Asked, Plan, evaluate_grids

    x, y = data
    asked = {
        name: Asked(REGISTRY[name].method(), {}, REGISTRY[name].kind)  # type: ignore[misc]
        for name in ("pls", "procrustes", "distance_correlation")
    }
    grids = evaluate_grids(asked, [on_gpu(x), on_gpu(x[:, :4])], [on_gpu(y, "y")], plan=Plan(2, 1), threads=1)
    for name, grid in grids.items():
        for i, one in enumerate((x, x[:, :4])):
            alone = getattr(repsim, name)(on_gpu(one), on_gpu(y, "y"), permutations=2, seed=1)
            assert (grid.values[i, 0], grid.null_mean[i, 0]) == (alone.value, alone.null.mean), name


def test_the_angle_of_kernels(data: Pair) -> None:
    there = repsim.angular_cka(off_host(data[0]), off_host(data[1], "y"), kernel=repsim.RBF(sigma=2.0))
    assert there == pytest.approx(repsim.angular_cka(*data, kernel=repsim.RBF(sigma=2.0)), abs=1e-7)
    coarse = repsim.angular_cka(on_gpu(data[0]), on_gpu(data[1], "y"), kernel="cosine", precision="medium")
    assert 0 < abs(coarse - repsim.angular_cka(*data, kernel="cosine")) < 2e-3


@pytest.mark.parametrize("name", GRAPHS)
def test_measures_of_neighbours_are_those_of_the_cpu(name: str, data: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lists are the same to the bit, wherever the rows lie; cosines to their rows are float64."""
    monkeypatch.setattr(device_streams, "copies_to", lambda device, function: EmulatedCopies(late=True))
    monkeypatch.setattr("repsim.reductions.device_lists.NUMBERS", 500)
    measure, (x, y) = getattr(repsim, name), data
    how = {"k": 5, "metric": "inner_product", "permutations": 3}
    here = numbers(measure(x, y, **how))
    there = numbers(measure(off_host(x), off_host(y, "y"), **how))
    np.testing.assert_allclose(there, here, rtol=1e-12 if name == "second_order_cosine" else 0)
    assert numbers(measure(x, y, device="cuda", memory="8MiB", **how)) == there


def test_a_budget_of_neighbours_is_checked(data: Pair) -> None:
    with pytest.raises(ValueError, match=r"^\[mutual_knn\] expected memory of at least \d+ bytes .* got 1000"):
        repsim.mutual_knn(*data, memory=1000)
    assert repsim.mutual_knn(*data, memory="16MiB") == repsim.mutual_knn(*data)


def test_graphs_of_two_sides_with_rows_there(data: Pair) -> None:
    x, y = off_host(data[0]), off_host(data[1], "y")
    graphs = repsim.nearest(x, 5), repsim.nearest(y, 5)
    expected = repsim.second_order_cosine(*data, k=5, permutations=2).value
    assert repsim.second_order_cosine(x, y, graphs=graphs, permutations=2).value == pytest.approx(expected, rel=1e-12)


def test_inputs_without_a_cosine_there_are_refused_as_on_the_cpu() -> None:
    x = np.array([[9.0, 0], [1, 0], [0, 1], [0, 9]])  # the nearest of the second is the third
    for rows in ((x, x), (off_host(x), off_host(x, "y"))):
        with pytest.raises(ValueError, match=r"in which no input is orthogonal to all neighbours .* got row 1$"):
            repsim.second_order_cosine(*rows, k=1, metric="euclidean", permutations=2)


def test_the_device_is_an_argument(data: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_streams, "copies_to", lambda device, function: EmulatedCopies())
    for name in ("cca_mean", "rsa", "magnitude_difference", "angular_cka"):
        there = getattr(repsim, name)(on_gpu(data[0]), on_gpu(data[1], "y"))
        assert getattr(repsim, name)(*data, device="cuda") == there
    sampled = repsim.rsa(on_gpu(data[0]), on_gpu(data[1], "y"), sample=50)
    assert repsim.rsa(*data, sample=50, device="cuda") == sampled
    pool = {"a": data[0], "b": data[1]}
    ranked = repsim.rank_neurons(pool, device="cuda")["a"].scores
    np.testing.assert_allclose(ranked, repsim.rank_neurons(pool)["a"].scores, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("magnitude", {}),
        ("concentricity", {}),
        ("uniformity", {"t": 1.0}),
        ("intrinsic_dimension", {}),
        ("neuron_modularity", {"starts": 1}),
    ],
    ids=lambda one: one if isinstance(one, str) else "",
)
def test_statistics_of_one_side(name: str, how: dict[str, Any], data: Pair) -> None:
    statistic, x = getattr(repsim, name), data[0]
    there = statistic(off_host(x), **how)
    assert there == pytest.approx(statistic(x, **how), rel=1e-10)
    assert statistic(streamed(x, late=True), **how) == there


@pytest.mark.parametrize(
    ("name", "how"),
    [("tolerance", {}), ("tolerance", {"unit_rows": False}), ("modularity", {"k": 4})],
    ids=["tolerance", "tolerance-of-rows-as-they-are", "modularity"],
)
def test_statistics_of_labels(name: str, how: dict[str, Any], data: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_streams, "copies_to", lambda device, function: EmulatedCopies())
    labels = np.random.default_rng(6).integers(0, 5, N)
    statistic, difference = getattr(repsim, name), getattr(repsim, f"{name}_difference")
    there = statistic(off_host(data[0]), torch.as_tensor(labels), **how)
    assert there == pytest.approx(statistic(data[0], labels, **how), rel=1e-10)
    assert statistic(data[0], labels, device="cuda", **how) == there
    here = difference(*data, labels, permutations=3, **how)
    apart = difference(off_host(data[0]), off_host(data[1], "y"), labels, permutations=3, **how)
    np.testing.assert_allclose(numbers(apart), numbers(here), rtol=1e-10, atol=1e-12)
    assert numbers(difference(*data, labels, permutations=3, device="cuda", **how)) == numbers(apart)


def test_neurons_are_ranked_there(data: Pair) -> None:
    pool = {"a": data[0], "b": data[1], "c": data[0][:, ::2] ** 2}
    for match in ("correlation", "regression"):
        here = repsim.rank_neurons(pool, match=match)
        there = repsim.rank_neurons({name: off_host(np.ascontiguousarray(x)) for name, x in pool.items()}, match=match)
        for name in pool:
            np.testing.assert_allclose(there[name].scores, here[name].scores, atol=1e-12)


@pytest.mark.parametrize("late", [False, True], ids=["early", "late"])
def test_nothing_is_held_there_afterwards(late: bool, data: Pair) -> None:
    x, y = streamed(data[0], late=late), streamed(data[1], "y", late=late)
    for name in ("cca_mean", "distance_correlation", "ridge_regression"):
        getattr(repsim, name)(x, y, permutations=1, jackknife=2)
    for rows in (x, y):
        assert (rows.values.copies.held("pinned"), rows.values.copies.held("there")) == (0, 0)  # type: ignore[attr-defined]


# -------------------------------------------------------------------------------------------------------------- errors


def bad_rows(how: str) -> np.ndarray:
    x = np.random.default_rng(2).normal(size=(N, 6)) + 0.1
    if how == "NaN":
        x[150, 3] = np.nan
    elif how == "constant column":
        x[:, 2] = 0.1
    elif how == "equal rows":
        x[:] = x[0]
    elif how == "zero row":
        x[77] = 0
    else:
        x *= 1e80
    return x


@pytest.mark.parametrize(
    ("name", "how"),
    [
        *(("procrustes", how) for how in ("NaN", "too long")),
        *(
            (name, "equal rows")
            for name in ("cka", "cca_mean", "linear_regression", "gulp", "distance_correlation", "bures")
        ),
        *((name, "constant column") for name in ("pls", "maxcorr", "hard_correlation_match")),
        *((name, "zero row") for name in ("aligned_cosine", "concentricity_difference", "uniformity_difference")),
        *(("rsa", how) for how in ("NaN", "equal rows")),
        ("intrinsic_dimension_difference", "equal rows"),
    ],
)
def test_bad_rows_are_refused_as_on_the_cpu(name: str, how: str, data: Pair) -> None:
    x, y = bad_rows(how), data[1]
    with pytest.raises(ValueError, match=rf"^\[{name}\] expected x ") as here:
        getattr(repsim, name)(x, y)
    with pytest.raises(ValueError) as there:
        getattr(repsim, name)(off_host(x), off_host(y, "y"))
    assert str(there.value).split(", got")[0] == str(here.value).split(", got")[0]


def test_rows_on_two_devices_are_refused(data: Pair) -> None:
    x, y = data
    meta = DeviceRows(torch.as_tensor(y).to("meta"), "float64", "y")
    with pytest.raises(ValueError, match=r"^\[procrustes\] expected y on cpu like x, got meta"):
        repsim.procrustes(x, meta)


@pytest.mark.parametrize("name", ["kernel_ridge", "rtd", "imd", "geometry_score"])
def test_measures_that_cannot_work_there_say_so(name: str, data: Pair) -> None:
    with pytest.raises(ValueError, match=rf"^\[{name}\] expected x on the CPU .* got device cpu; pass x from the host"):
        getattr(repsim, name)(on_gpu(data[0]), data[1])


def test_a_device_that_is_not_there_is_refused(data: Pair) -> None:
    with pytest.raises(ValueError, match=r"^\[cca_mean\] expected device to be one of the 0 GPUs .* got 'cuda'"):
        repsim.cca_mean(*data, device="cuda")
    assert repsim.cca_mean(*data, device="cpu").value == repsim.cca_mean(*data).value


# --------------------------------------------------------------------------------------------------- distances, counted


def test_distances_of_rows_close_together_keep_their_digits() -> None:
    rng = np.random.default_rng(3)
    a = torch.as_tensor(np.repeat(rng.normal(size=(5, 7)), 4, axis=0) + 100)
    a[1::4] += 1e-6 * torch.as_tensor(rng.normal(size=(5, 7)))
    a[3::4] = a[2::4]
    exact = (a[:, None] - a[None]).square().sum(dim=2)
    for b in (a, a.clone()):
        found = device_distances.distances(a, b, False)
        np.testing.assert_allclose(found, exact, rtol=1e-9, atol=0)
        assert float(found[2, 3]) == 0 == float(found[5, 5])
    assert torch.equal(device_distances.distances(a, a, True), device_distances.distances(a, a, True).T)


def test_products_of_ranks_of_any_size_are_exact() -> None:
    """A table of ranks near 2^49 in the place of those that so few inputs have; distances that are whole numbers."""
    rng = np.random.default_rng(4)
    sides = [rng.integers(0, 9, size=(90, 3)).astype(np.float64) for _ in range(2)]
    lines = torch.zeros(2**24, dtype=torch.int32)
    tables = [rng.integers(-(2**49), 2**49, size=(1, 1024)) for _ in range(2)]
    places = [((pdist(z, "sqeuclidean").view(np.int64) + 2**28) >> 29) & 1023 for z in sides]
    expected = sum(int(tables[0][0, i]) * int(tables[1][0, j]) for i, j in zip(*places, strict=True))
    x, y = ((torch.as_tensor(z), torch.as_tensor(z), False) for z in sides)
    a, b = ((lines, torch.as_tensor(table)) for table in tables)
    assert device_distances.rank_products(x, a, y, b, (0, 90, 0, 90), 1) == expected
