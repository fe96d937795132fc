"""Representational similarity analysis against scipy, and the Frobenius norm of the difference of distance matrices."""

from __future__ import annotations

import itertools
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.distance import cosine, pdist, squareform
from scipy.stats import kendalltau, pearsonr, spearmanr

import repsim
from repsim.arrays import as_rows
from repsim.measures.registry import REGISTRY
from repsim.reductions import dissimilarities_of, dissimilarity_pairs, dissimilarity_tiles

RDMS = ("euclidean", "squared_euclidean", "correlation", "cosine", "mahalanobis")
COMPARISONS = ("spearman", "pearson", "kendall", "cosine")
SCIPY = {"squared_euclidean": "sqeuclidean"}

every_rdm = pytest.mark.parametrize("rdm", RDMS)
every_comparison = pytest.mark.parametrize("comparison", COMPARISONS)


def pair(n: int = 50, d: int = 7, e: int = 5, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng([seed, n, d, e])
    x = random.standard_normal((n, d)) * np.linspace(0.5, 2, d) + random.standard_normal(d)
    return x, np.tanh(x @ random.standard_normal((d, e)) / d**0.5) + 0.3 * random.standard_normal((n, e))


def condensed(x: Any, rdm: str) -> np.ndarray:
    x = np.asarray(x, np.float64)
    if rdm == "mahalanobis":
        return pdist(x, "mahalanobis", VI=np.linalg.inv(np.atleast_2d(np.cov(x.T))))
    return pdist(x, SCIPY.get(rdm, rdm))


def oracle(x: Any, y: Any, comparison: str, rdm: str) -> float:
    a, b = condensed(x, rdm), condensed(y, rdm)
    if comparison == "kendall":
        assert len(set(a)) == len(set(b)) == len(a)  # without ties tau-b is tau-a
    return float(
        {
            "spearman": lambda: spearmanr(a, b).statistic,
            "pearson": lambda: pearsonr(a, b).statistic,
            "kendall": lambda: kendalltau(a, b).statistic,
            "cosine": lambda: 1 - cosine(a, b),
        }[comparison]()
    )


# ---------------------------------------------------------------------------------------------- values


@every_rdm
@every_comparison
def test_agrees_with_scipy(comparison: str, rdm: str) -> None:
    x, y = pair()
    found = repsim.rsa(x, y, comparison=comparison, rdm=rdm)
    assert found == pytest.approx(oracle(x, y, comparison, rdm), abs=1e-11)
    assert abs(found) > 0.01
    assert found.to_dict().items() >= {"measure": "rsa", "n": 50, "comparison": comparison, "rdm": rdm}.items()


@pytest.mark.parametrize("rdm", RDMS[:-1])
@every_comparison
def test_more_features_than_inputs(comparison: str, rdm: str) -> None:
    x, y = pair(16, 40, 90)
    assert repsim.rsa(x, y, comparison=comparison, rdm=rdm) == pytest.approx(oracle(x, y, comparison, rdm), abs=1e-11)


@pytest.mark.parametrize("rdm", ["euclidean", "squared_euclidean", "mahalanobis"])
@every_comparison
def test_one_feature(comparison: str, rdm: str) -> None:
    x, y = pair(12, 1, 1)
    assert repsim.rsa(x, y, comparison=comparison, rdm=rdm) == pytest.approx(oracle(x, y, comparison, rdm), abs=1e-11)


@every_rdm
@pytest.mark.parametrize("comparison", ["pearson", "cosine"])
def test_several_blocks_of_inputs(comparison: str, rdm: str) -> None:
    x, y = pair(1300, 4, 3)
    assert repsim.rsa(x, y, comparison=comparison, rdm=rdm) == pytest.approx(oracle(x, y, comparison, rdm), abs=1e-10)


def kendall_tau_a(a: np.ndarray, b: np.ndarray) -> float:
    agree = [np.sign(a[i] - a[j]) * np.sign(b[i] - b[j]) for i, j in itertools.combinations(range(len(a)), 2)]
    return float(np.sum(agree)) / len(agree)


def test_ties() -> None:
    """Rows on a grid, some of them twice: equal distances share a rank, and tau-a counts them as neither."""
    x = np.array([[0, 0], [1, 0], [0, 2], [1, 0], [3, 1], [0, 0], [2, 2]], float)
    y = np.array([[0], [1], [2], [1], [5], [0], [2]], float)
    a, b = pdist(x), pdist(y)
    assert len(set(a)) < len(a)
    assert repsim.rsa(x, y) == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)
    assert repsim.rsa(x, y, comparison="kendall") == pytest.approx(kendall_tau_a(a, b), abs=1e-12)
    assert repsim.rsa(x, x) == pytest.approx(1, abs=1e-12)
    assert repsim.rsa(x, x, comparison="kendall") == pytest.approx(kendall_tau_a(a, a), abs=1e-12)
    assert repsim.rsa(x, x, comparison="kendall") < 0.95


def test_equal_rows_are_tied_wherever_they_stand() -> None:
    x, y = pair(40, 64, 64)
    copies = np.random.default_rng(0).permutation(np.arange(200) % 40)
    a, b = pdist(x), pdist(y)
    few = squareform(np.unique(a, return_inverse=True)[1] + 1.0), squareform(np.unique(b, return_inverse=True)[1] + 1.0)
    upper = np.triu_indices(200, 1)
    exact = spearmanr(few[0][np.ix_(copies, copies)][upper], few[1][np.ix_(copies, copies)][upper]).statistic
    assert repsim.rsa(x[copies], y[copies]) == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize("comparison", ["spearman", "pearson", "cosine"])
def test_far_from_the_origin(comparison: str) -> None:
    x, y = (z + 1e6 for z in pair())
    assert repsim.rsa(x, y, comparison=comparison) == pytest.approx(oracle(x, y, comparison, "euclidean"), abs=1e-11)


@pytest.mark.parametrize("rdm", ["euclidean", "squared_euclidean"])
def test_distances_that_products_of_rows_would_lose(rdm: str) -> None:
    """Two clusters 1e4 apart, 1e-3 wide: of these squares products hold two digits, differences eight."""
    random = np.random.default_rng(0)
    x = 1e-3 * random.standard_normal((60, 5)) + 1e4 * (np.arange(60) % 2)[:, None]
    rows = as_rows(x, function="test", name="x")
    side = dissimilarities_of(rows, rdm, function="test", threads=1)
    (found,) = next(dissimilarity_pairs([side], threads=1))
    np.testing.assert_allclose(found, condensed(x, rdm), rtol=1e-8)


@every_rdm
@pytest.mark.parametrize("block_rows", [1, 7, 64, 1024])
def test_tiles_make_up_the_matrix(rdm: str, block_rows: int) -> None:
    x, _ = pair(65, 6)
    side = dissimilarities_of(as_rows(x, function="test", name="x"), rdm, function="test", threads=1)
    order = np.random.default_rng(1).permutation(65)
    for one, rows in (
        (side, x),
        (side.relabelled(order), x[order]),
        (side.relabelled(order).relabelled(order), x[order][order]),
    ):
        whole = np.full((65, 65), np.nan)
        for i, j, (tile,) in dissimilarity_tiles([one], threads=1, block_rows=block_rows):
            whole[i, j], whole[j, i] = tile, tile.T
        np.testing.assert_allclose(whole, squareform(condensed(rows, rdm)), rtol=1e-9, atol=1e-12)
        assert not np.diag(whole).any()


@pytest.mark.parametrize("comparison", ["spearman", "pearson"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtypes(dtype: str, comparison: str) -> None:
    torch = pytest.importorskip("torch")
    x, y = (torch.from_numpy(z).to(getattr(torch, dtype)) for z in pair())
    wide = x.double().numpy(), y.double().numpy()
    assert repsim.rsa(x, y, comparison=comparison) == pytest.approx(repsim.rsa(*wide, comparison=comparison), abs=1e-12)
    if dtype != "bfloat16":
        assert repsim.rsa(x.numpy(), y.numpy(), comparison=comparison) == repsim.rsa(x, y, comparison=comparison)


@every_comparison
def test_memory_maps(comparison: str, tmp_path: Path) -> None:
    x, y = pair()
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    maps = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "xy"]
    assert repsim.rsa(*maps, comparison=comparison) == repsim.rsa(x, y, comparison=comparison)


def test_threads_do_not_matter() -> None:
    x, y = pair(400, 40, 30)
    for comparison in ("spearman", "pearson"):
        one, two = (repsim.rsa(x, y, comparison=comparison, threads=threads) for threads in (1, 2))
        assert one == pytest.approx(two, abs=1e-13)


@pytest.mark.parametrize("comparison", ["pearson", "cosine"])
def test_sums_take_no_memory_of_all_pairs(comparison: str) -> None:
    x, y = pair(4500, 3, 3)
    tracemalloc.start()
    repsim.rsa(x, y, comparison=comparison)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4500 * 4500 * 8 / 2  # one matrix of distances would be twice this


# ---------------------------------------------------------------------------------------------- invariances of the RDMs


def changed(x: np.ndarray, rdm: str) -> np.ndarray:
    """The rows after something that leaves the dissimilarities, up to one factor, as they are."""
    random = np.random.default_rng(3)
    d = x.shape[1]
    if rdm == "mahalanobis":
        return x @ random.standard_normal((d, d)) + random.standard_normal(d)
    if rdm == "correlation":
        return x * random.uniform(0.5, 2, (len(x), 1)) + random.standard_normal((len(x), 1))
    turned = x @ np.linalg.qr(random.standard_normal((d, d)))[0]
    return turned * random.uniform(0.5, 2, (len(x), 1)) if rdm == "cosine" else 3 * turned + 1


@every_rdm
@every_comparison
def test_what_the_dissimilarities_do_not_see(comparison: str, rdm: str) -> None:
    x, y = pair()
    before = repsim.rsa(x, y, comparison=comparison, rdm=rdm)
    assert repsim.rsa(changed(x, rdm), y, comparison=comparison, rdm=rdm) == pytest.approx(before, abs=1e-9)


# ---------------------------------------------------------------------------------------------- chance


@every_rdm
@every_comparison
def test_relabelling_is_that_of_the_rows(comparison: str, rdm: str) -> None:
    make = REGISTRY["rsa"].method
    assert make is not None
    method = make(comparison=comparison, rdm=rdm)
    x, y = pair(30)
    order = np.random.default_rng(0).permutation(30)
    left, right, moved = (method.prepare(as_rows(z, function="t", name="z"), 1) for z in (x, y, y[order]))
    found = method.between(left, method.relabel(right, order), 1)
    assert found == pytest.approx(method.between(left, moved, 1), abs=1e-10)
    assert abs(found - method.between(left, right, 1)) > 1e-3


@pytest.mark.parametrize("comparison", ["spearman", "pearson"])
def test_p(comparison: str) -> None:
    x, y = pair(30)
    other = np.random.default_rng(5).standard_normal((30, 4))
    assert repsim.rsa(x, y, comparison=comparison, permutations=99).p == 0.01
    assert repsim.rsa(x, other, comparison=comparison, permutations=99).p > 0.05


def test_jackknife_is_that_of_the_inputs() -> None:
    x, y = pair(40)
    without = np.array([oracle(np.delete(x, i, 0), np.delete(y, i, 0), "pearson", "euclidean") for i in range(40)])
    exact = np.sqrt(39 / 40 * ((without - without.mean()) ** 2).sum())
    assert repsim.rsa(x, y, comparison="pearson", jackknife=40).standard_error == pytest.approx(exact, rel=1e-9)


# ---------------------------------------------------------------------------------------------- a sample of the inputs


@every_comparison
def test_sample(comparison: str) -> None:
    x, y = pair(80)
    one = repsim.rsa(x, y, comparison=comparison, sample=30, seed=1, permutations=5, jackknife=5)
    again = repsim.rsa(x, y, comparison=comparison, sample=30, seed=1, permutations=5, jackknife=5)
    assert one.to_dict() == again.to_dict()
    assert one.n == 30
    assert one.options["sample"] == 30
    assert one.options["sample_seed"] == 1
    whole = repsim.rsa(x, y, comparison=comparison)
    assert "sample" not in whole.options
    draws = [float(repsim.rsa(x, y, comparison=comparison, sample=30, seed=seed)) for seed in range(20)]
    assert len(set(draws)) == 20
    assert np.mean(draws) == pytest.approx(float(whole), abs=3 * np.std(draws) / 20**0.5 + 0.02)
    assert repsim.rsa(x, y, comparison=comparison, sample=80) == pytest.approx(float(whole), abs=1e-12)


def test_sample_is_of_the_same_inputs_on_both_sides() -> None:
    x, _ = pair(200)
    assert repsim.rsa(x, 2 * x[:, ::-1] + 1, sample=20) == pytest.approx(1, abs=1e-12)


def test_sample_reads_memory_maps(tmp_path: Path) -> None:
    x, y = pair(80)
    np.save(tmp_path / "x.npy", x)
    assert repsim.rsa(np.load(tmp_path / "x.npy", mmap_mode="r"), y, sample=20) == repsim.rsa(x, y, sample=20)


# ---------------------------------------------------------------------------------------------- beyond what is held


def rounded(distances: np.ndarray) -> np.ndarray:
    """To 24 significant bits, as numpy's float32 does, whatever their exponent."""
    mantissa, exponent = np.frexp(distances)
    return np.ldexp(mantissa.astype(np.float32).astype(np.float64), exponent)


def counted(x: Any, y: Any, **options: Any) -> Any:
    return repsim.rsa(x, y, ranks="float32", **options)


@every_rdm
@pytest.mark.parametrize(
    ("n", "d", "e"),
    [(50, 7, 5), (193, 5, 4), (450, 6, 150)],
    ids=["one-tile", "two-tiles", "three-tiles-and-chunks-of-features"],
)
def test_counted_ranks_are_those_of_rounded_distances(n: int, d: int, e: int, rdm: str) -> None:
    x, y = pair(n, d, e)
    exact = spearmanr(rounded(condensed(x, rdm)), rounded(condensed(y, rdm))).statistic
    found = counted(x, y, rdm=rdm)
    # A distance that lies half way between two such numbers up to rounding may go either way.
    assert found == pytest.approx(exact, abs=1e-11)
    assert found.precision == "float32"
    assert repsim.rsa(x, y, rdm=rdm).precision == "float64"


def test_counted_ranks_of_three_inputs() -> None:
    x, y = np.array([[0.0], [1.0], [3.0]]), np.array([[0.0], [3.0], [1.0]])
    assert counted(x, y) == -1.0  # distances 1, 3, 2 and 3, 1, 2: ranks 1, 3, 2 and 3, 1, 2
    assert counted(x, x) == 1.0


@pytest.mark.parametrize("rdm", RDMS)
def test_counted_ranks_are_nearly_those_of_float64(rdm: str) -> None:
    x, y = pair(1000, 20, 15)
    assert counted(x, y, rdm=rdm) == pytest.approx(oracle(x, y, "spearman", rdm), abs=2e-8)


def whole_numbers(n: int, d: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, (n, d)).astype(float)


def test_counted_ties_share_their_mean() -> None:
    """Distances that are roots of whole numbers: a dozen values, each thousands of times."""
    x, y = whole_numbers(200, 6, 0), whole_numbers(200, 5, 1)
    x[:, :3] += y[:, :3]
    a, b = pdist(x, "sqeuclidean"), pdist(y, "sqeuclidean")
    assert len(np.unique(a)) < 60
    assert counted(x, y) == pytest.approx(spearmanr(a, b).statistic, abs=1e-15)
    assert counted(x, y) == counted(x, y, rdm="squared_euclidean")
    assert counted(x, x) == 1.0


def test_counted_ranks_of_equal_rows() -> None:
    """Copies are at a distance of exactly 0, and equally far from all others, wherever they stand among the tiles."""
    x, y = pair(60, 64, 64)
    copies = np.random.default_rng(0).permutation(np.arange(420) % 60)
    names = [squareform(np.unique(pdist(z), return_inverse=True)[1] + 1.0) for z in (x, y)]
    upper = np.triu_indices(420, 1)
    exact = spearmanr(*(name[np.ix_(copies, copies)][upper] for name in names)).statistic
    assert counted(x[copies], y[copies]) == pytest.approx(exact, abs=1e-10)
    assert counted(x[copies], x[copies]) == 1.0


@pytest.mark.parametrize("rdm", ["euclidean", "correlation"])
def test_counted_ranks_of_distances_that_products_would_lose(rdm: str) -> None:
    """Two clusters 1e4 apart, 1e-2 wide: within one, products of rows hold too few digits for 24 bits."""
    random = np.random.default_rng(0)
    x = 1e-2 * random.standard_normal((250, 5)) + 1e4 * np.eye(5)[np.arange(250) % 2]
    y = x @ random.standard_normal((5, 4)) if rdm == "euclidean" else x + 1e-2 * random.standard_normal(x.shape)
    exact = spearmanr(rounded(condensed(x, rdm)), rounded(condensed(y, rdm))).statistic
    assert counted(x, y, rdm=rdm) == pytest.approx(exact, abs=1e-6 if rdm == "correlation" else 1e-9)


@pytest.mark.parametrize("power", [-400, 400])
def test_counted_ranks_know_no_scale(power: int) -> None:
    x, y = pair(100)
    assert counted(np.ldexp(x, power), y) == counted(x, y)


def test_counted_ranks_are_the_same_bits_for_any_threads_and_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = pair(800, 30, 20)
    one = counted(x, y, threads=1)
    assert counted(x, y, threads=3) == one
    assert counted(x, y, memory="1GB") == one
    monkeypatch.setattr("repsim.blocks.MOST_ROWS", 192)
    assert counted(x, y, threads=2) == one


def test_counted_ranks_of_memory_maps_and_of_one_row_repeated(tmp_path: Path) -> None:
    x, y = pair(300)
    np.save(tmp_path / "x.npy", x.astype(np.float32))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert counted(mapped, y) == counted(x.astype(np.float32), y)
    with pytest.raises(
        ValueError, match=r"^\[rsa\] expected y whose dissimilarities differ, got all pairs of .* 0 apart"
    ):
        counted(x, np.broadcast_to(y[0], (300, 5)))


def test_permutations_and_jackknife_of_counted_ranks() -> None:
    x, y = pair(80)
    held, found = (repsim.rsa(x, y, ranks=r, permutations=19, jackknife=8, seed=1) for r in ("float64", "float32"))
    assert found.p == held.p == 0.05
    assert found.null.mean == pytest.approx(held.null.mean, abs=1e-6)
    assert found.standard_error == pytest.approx(held.standard_error, rel=1e-4)


def test_what_is_held_and_what_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = pair(60)
    assert repsim.rsa(x, y).precision == "float64"
    assert repsim.rsa(x, y, comparison="pearson").precision == "float64"
    assert repsim.rsa(x, y, memory=7 * 8 * 60 * 59 // 2).precision == "float64"
    assert repsim.rsa(x, y, memory=7 * 8 * 60 * 59 // 2 + 10**9).precision == "float64"
    monkeypatch.setattr(sys.modules["repsim.reductions.distance_ranks"], "HELD_UNASKED", 59)
    assert repsim.rsa(x, y).precision == "float32"
    assert repsim.rsa(x, y, ranks="float64").precision == "float64"
    monkeypatch.setattr("repsim.measures.rsa.MOST_HELD", 59)
    assert repsim.rsa(x, y, sample=50).precision == "float64"
    for options, instead in (({"ranks": "float64"}, 'ranks="float32"'), ({"comparison": "kendall"}, "comparison=")):
        message = (
            rf"^\[rsa\] expected at most 59 inputs where all n .* are held, got 60; give {instead}.*, or sample=59"
        )
        with pytest.raises(ValueError, match=message):
            repsim.rsa(x, y, **options)


@pytest.mark.parametrize(
    ("ranks", "memory", "purpose"),
    [
        pytest.param("float32", "60MB", "the ranks of the dissimilarities of x", id="tables"),
        pytest.param("float32", 1000, "blocks of 192 rows", id="blocks"),
        pytest.param("float64", 277199, "7 vectors of the n .* dissimilarities of x", id="held"),
    ],
)
def test_memory_too_small_for_ranks(ranks: str, memory: int | str, purpose: str) -> None:
    x, y = pair(100)
    with pytest.raises(
        ValueError, match=rf"^\[rsa\] expected memory of at least \d+ bytes .* {purpose}, got"
    ) as refused:
        repsim.rsa(x, y, ranks=ranks, memory=memory)
    least = int(str(refused.value).split()[6])
    with pytest.raises(ValueError, match=f"at least {least} bytes"):
        repsim.rsa(x, y, ranks=ranks, memory=least - 1)
    if purpose[0] != "b":  # blocks alone are not all that it takes
        assert repsim.rsa(x, y[:, :5] + x[:, :5], ranks=ranks, memory=2 * least)


GROWTH = """
import sys
import numpy as np
import repsim
from bench.machine import peak_memory, reset_peak_memory
random = np.random.default_rng(0)
x = random.standard_normal((8000, 32), dtype=np.float32)
y = x + random.standard_normal(x.shape, dtype=np.float32)
repsim.rsa(x[:300], y[:300], ranks="float32", threads=2)
reset_peak_memory()
before = peak_memory()
found = repsim.rsa(x, y, memory=int(sys.argv[1]), threads=2)
print(found.precision, peak_memory() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux to read its peak memory")
def test_counted_ranks_keep_within_the_memory() -> None:
    """Held ranks would take 1.8 GB, one vector of all distances 256 MB."""
    memory = 300_000_000
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, str(memory)], capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    assert done.returncode == 0, done.stderr
    precision, growth = done.stdout.split()
    assert precision == "float32"
    assert int(growth) < memory


# ---------------------------------------------------------------------------------------------- errors

X = pair(9, 4)[0]
CONSTANT_ROW = np.vstack([X[:5], np.full((1, 4), 0.1), X[6:]])
NEARLY_CONSTANT_ROW = np.vstack([X[:5], 1e6 + 1e-9 * X[5:6], X[6:]])
ZERO_ROW = np.vstack([X[:5], np.zeros((1, 4)), X[6:]])
ORTHOGONAL = np.linalg.qr(np.random.default_rng(0).standard_normal((9, 9)))[0]


@pytest.mark.parametrize(
    ("bad", "options", "message"),
    [
        pytest.param(
            X,
            {"comparison": "kendal"},
            "comparison 'spearman', 'pearson', 'kendall' or 'cosine', got 'kendal'",
            id="comparison",
        ),
        pytest.param(X, {"ranks": "float16"}, "ranks 'float64' or 'float32', got 'float16'", id="ranks"),
        pytest.param(
            X,
            {"comparison": "pearson", "ranks": "float32"},
            "ranks only where comparison is 'spearman', got ranks='float32'",
            id="ranks-of-sums",
        ),
        pytest.param(
            X,
            {"comparison": "kendall", "memory": "1GB"},
            "memory only where comparison is 'spearman', got memory='1GB'",
            id="memory-of-kendall",
        ),
        pytest.param(X, {"memory": "much"}, "memory as bytes or text such as .*, got 'much'", id="memory"),
        pytest.param(
            np.eye(9),
            {"ranks": "float32"},
            "x whose dissimilarities differ, got all pairs of inputs 1.41 apart",
            id="equidistant-counted",
        ),
        pytest.param(X, {"rdm": "l1"}, "rdm 'euclidean', .* or 'mahalanobis', got 'l1'", id="rdm"),
        pytest.param(
            X[:, :2],
            {"rdm": "correlation"},
            "x with at least 3 columns for the correlation distance, got 2",
            id="correlation-of-two",
        ),
        pytest.param(
            X[:, :1], {"rdm": "cosine"}, "x with at least 2 columns for the cosine distance, got 1", id="cosine-of-one"
        ),
        pytest.param(
            CONSTANT_ROW,
            {"rdm": "correlation"},
            "x with rows whose features differ for the correlation distance, got row 5",
            id="constant-row",
        ),
        pytest.param(
            NEARLY_CONSTANT_ROW,
            {"rdm": "correlation"},
            "x with rows whose features differ .*, got row 5",
            id="row-constant-up-to-rounding",
        ),
        pytest.param(
            ZERO_ROW, {"rdm": "cosine"}, "x with non-zero rows for the cosine distance, got row 5", id="zero-row"
        ),
        pytest.param(
            X[:4],
            {"rdm": "mahalanobis"},
            "x whose sample covariance has an inverse .*, got rank 3 of 4 columns from 4 inputs",
            id="fewer-inputs-than-columns",
        ),
        pytest.param(
            np.column_stack([X[:, :2], X[:, 0]]),
            {"rdm": "mahalanobis"},
            "x whose sample covariance .*, got rank 2 of 3 columns",
            id="collinear",
        ),
        pytest.param(
            X * [1, 1, 0, 1] + 0.1,
            {"rdm": "mahalanobis"},
            "x whose sample covariance .*, got a constant column",
            id="constant-column",
        ),
        pytest.param(
            np.eye(9), {}, "x whose dissimilarities differ, got all pairs of inputs 1.41 apart", id="equidistant"
        ),
        pytest.param(
            ORTHOGONAL,
            {},
            "x whose dissimilarities differ, got all pairs of inputs 1.41 apart",
            id="equidistant-up-to-rounding",
        ),
        pytest.param(
            ORTHOGONAL, {"comparison": "pearson"}, "x whose dissimilarities differ", id="equidistant-streamed"
        ),
        pytest.param(
            np.ones((9, 2)), {}, "x whose dissimilarities differ, got all pairs of inputs 0 apart", id="equal-rows"
        ),
        pytest.param(
            np.ones((9, 2)),
            {"comparison": "cosine"},
            "x whose rows differ, got all dissimilarities zero",
            id="equal-rows-cosine",
        ),
        pytest.param(X[:2], {}, "at least 3 inputs, got 2", id="two-inputs"),
        pytest.param(X, {"sample": 10}, "sample of at most the 9 inputs, got 10", id="sample-too-large"),
        pytest.param(X, {"sample": 2}, "sample of at least 3, got 2", id="sample-too-small"),
        pytest.param(X, {"sample": 5, "seed": -1}, "seed of at least 0, got -1", id="seed"),
        pytest.param(1e200 * X, {}, "x with values between about 1e-140 and 1e140", id="beyond-squares"),
    ],
)
def test_errors(bad: np.ndarray, options: dict[str, Any], message: str) -> None:
    y = np.random.default_rng(1).standard_normal((len(bad), 5 if len(bad) > 6 else 2))
    with pytest.raises(ValueError, match=r"^\[rsa\] expected " + message):
        repsim.rsa(bad, y, **options)


def test_sample_that_is_no_int() -> None:
    with pytest.raises(TypeError, match=r"^\[rsa\] expected sample as an int, got 5.0"):
        repsim.rsa(X, X, sample=5.0)  # type: ignore[arg-type]


@every_comparison
def test_names_the_row_that_is_not_finite(comparison: str) -> None:
    bad = X.copy()
    bad[7, 2] = np.inf
    for options in ({}, {"sample": 3}):
        with pytest.raises(ValueError, match=r"^\[rsa\] expected y with finite values, got NaN or infinity in row 7"):
            repsim.rsa(X, bad, comparison=comparison, **options)


# ---------------------------------------------------------------------------------------------- rsm_norm_difference


@every_rdm
@pytest.mark.parametrize(("n", "d", "e"), [(50, 7, 5), (1100, 3, 3)], ids=["one-block", "several-blocks"])
def test_norm_of_the_difference(n: int, d: int, e: int, rdm: str) -> None:
    x, y = pair(n, d, e)
    apart = squareform(condensed(x, rdm)) - squareform(condensed(y, rdm))
    found = repsim.rsm_norm_difference(x, y, rsm=rdm)
    assert found == pytest.approx(np.linalg.norm(apart, "fro"), rel=1e-10)
    assert found > 1.01 * np.linalg.norm(apart, 2)  # not the spectral norm


def test_norm_of_two_inputs() -> None:
    x, y = np.array([[0.0], [3.0]]), np.array([[0.0, 0.0], [0.0, 1.0]])
    assert repsim.rsm_norm_difference(x, y) == pytest.approx(np.sqrt(8), rel=1e-14)
    assert repsim.rsm_norm_difference(x, np.ones((2, 1))) == pytest.approx(
        np.sqrt(18), rel=1e-14
    )  # equal rows are taken


def test_similarities_have_the_same_difference() -> None:
    x, y = pair()
    apart = np.corrcoef(x) - np.corrcoef(y)
    assert repsim.rsm_norm_difference(x, y, rsm="correlation") == pytest.approx(np.linalg.norm(apart), rel=1e-10)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_norm_of_dtypes(dtype: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    x, y = (torch.from_numpy(z).to(getattr(torch, dtype)) for z in pair())
    wide = x.double().numpy(), y.double().numpy()
    assert repsim.rsm_norm_difference(x, y) == pytest.approx(float(repsim.rsm_norm_difference(*wide)), rel=1e-13)


def test_norm_errors() -> None:
    with pytest.raises(ValueError, match=r"^\[rsm_norm_difference\] expected rsm 'euclidean', .*, got 'dot'"):
        repsim.rsm_norm_difference(X, X, rsm="dot")
    with pytest.raises(ValueError, match=r"^\[rsm_norm_difference\] expected at least 2 inputs, got 1"):
        repsim.rsm_norm_difference(X[:1], X[:1])
    with pytest.raises(ValueError, match=r"^\[rsm_norm_difference\] expected x with non-zero rows .*, got row 5"):
        repsim.rsm_norm_difference(ZERO_ROW, X, rsm="cosine")
