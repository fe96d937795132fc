"""Products of features in one pass: the native operations, the algebra of origins, passes within a budget."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import oracles
import pytest

from repsim import _core, reductions
from repsim.arrays import Rows, as_rows
from repsim.reductions import feature_space, moments
from repsim.reductions.moments import FeatureMoments

PANEL, SUMMED = _core.PANEL, _core.SUMMED_ROWS


def rows_of(*matrices: Any) -> list[Rows]:
    return [as_rows(x, function="test", name=f"m{i}") for i, x in enumerate(matrices)]


def sums(*matrices: Any, left: int = 1, **how: Any) -> reductions.HsicSums:
    return reductions.feature_sums(rows_of(*matrices), left, function="test", **{"threads": 1, **how})


def pair(n: int, d: int, e: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([seed, n, d, e])
    common = rng.standard_normal((n, 3))
    x = common @ rng.standard_normal((3, d)) + rng.standard_normal((n, d))
    return x, np.tanh(common @ rng.standard_normal((3, e))) + rng.standard_normal((n, e))


# ---------------------------------------------------------------------------------------------- native operations


def panels_for(depth: int, room: int) -> np.ndarray:
    shape = (-(-(depth + 2) // 48) * 3, room, PANEL)
    raw = np.full(int(np.prod(shape)) + 8, 7.0)  # what an operation forgets to write shows
    skip = (-raw.ctypes.data % 64) // 8
    return raw[skip : skip + int(np.prod(shape))].reshape(shape)


def unpacked(panels: np.ndarray) -> np.ndarray:
    return panels.transpose(1, 0, 2).reshape(panels.shape[1], -1)


def lifted(x: np.ndarray, shift: np.ndarray) -> np.ndarray:
    moved = x.astype(np.float64) - shift
    return np.concatenate([moved, np.ones((len(x), 1)), (moved * moved).sum(axis=1, keepdims=True)], axis=1)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize(
    "depth",
    [
        pytest.param(1, id="both-extra-entries-in-the-first-panel"),
        pytest.param(15, id="the-norm-begins-a-panel"),
        pytest.param(16, id="whole-panels"),
        pytest.param(46, id="three-panels-filled"),
        pytest.param(47, id="the-norm-begins-a-group-of-three"),
        pytest.param(130, id="many"),
    ],
)
def test_lifted_rows(depth: int, dtype: str) -> None:
    x = np.random.default_rng(depth).standard_normal((70, depth)) * 4
    if dtype == "bfloat16":
        bits = (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        x, given = (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64), bits
    else:
        given = x.astype(dtype)
        x = given.astype(np.float64)
    shift = np.linspace(-1, 2, depth)
    panels = panels_for(depth, 80)
    before = panels.copy()
    bad, longest = _core.lift_rows(given, dtype, shift, 5, panels, 2)
    expected = lifted(x, shift)
    got = unpacked(panels)
    assert bad == -1
    np.testing.assert_array_equal(got[5:75, : depth + 1], expected[:, : depth + 1])
    np.testing.assert_allclose(got[5:75, depth + 1], expected[:, depth + 1], rtol=1e-14)
    assert not got[5:75, depth + 2 :].any(), "padding"
    assert longest == got[5:75, depth + 1].max()
    np.testing.assert_array_equal(panels[:, :5], before[:, :5])
    np.testing.assert_array_equal(panels[:, 75:], before[:, 75:])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", [0, 17, 39])
def test_lifting_names_the_first_row_that_is_not_finite(value: float, column: int) -> None:
    x = np.ones((300, 40), np.float32)
    x[[77, 250], column] = value
    assert _core.lift_rows(x, "float32", np.zeros(40), 0, panels_for(40, 300), 3)[0] == 77


def test_squares_beyond_float64_are_told_by_the_longest() -> None:
    x = np.ones((30, 4))
    x[7, 2] = 1e200
    assert _core.lift_rows(x, "float64", np.zeros(4), 0, panels_for(4, 30), 1) == (-1, np.inf)


SHAPES = [
    pytest.param(1, 1, 1, id="smallest"),
    pytest.param(14, 190, 40, id="one-piece-just-filled"),
    pytest.param(191, 22, 513, id="more-than-one-piece-and-one-sum"),
    pytest.param(200, 420, 1100, id="many-pieces-many-sums"),
]


def products(x: np.ndarray, y: np.ndarray, threads: int, cuts: tuple[int, ...] = ()) -> list[np.ndarray]:
    """Z'Z, Z'W, W'W about 0.5, the rows in calls that end at the cuts."""
    out = [np.zeros((a + 2, b + 2)) for a, b in ((x.shape[1],) * 2, (x.shape[1], y.shape[1]), (y.shape[1],) * 2)]
    for start, stop in zip((0, *cuts), (*cuts, len(x)), strict=True):
        both = []
        for z in (x, y):
            both.append(panels_for(z.shape[1], stop - start))
            _core.lift_rows(z[start:stop], "float64", np.full(z.shape[1], 0.5), 0, both[-1], threads)
        left, right = both
        _core.feature_products(
            [(left, left, out[0]), (left, right, out[1]), (right, right, out[2])], stop - start, threads
        )
    return out


@pytest.mark.parametrize(("d", "e", "n"), SHAPES)
def test_products_of_features(d: int, e: int, n: int) -> None:
    x, y = pair(n, d, e)
    z, w = lifted(x, np.full(d, 0.5)), lifted(y, np.full(e, 0.5))
    for got, (a, b) in zip(products(x, y, 2), [(z, z), (z, w), (w, w)], strict=True):
        expected, scale = a.T @ b, np.abs(a).T @ np.abs(b)
        if a is b:
            got, expected = np.triu(got), np.triu(expected)
        assert (np.abs(got - expected) <= 1e-13 * scale).all()


@pytest.mark.parametrize(("d", "e", "n"), SHAPES)
def test_bits_of_products_do_not_depend_on_threads_or_calls(d: int, e: int, n: int) -> None:
    x, y = pair(n, d, e)
    first = products(x, y, 1)
    cuts = tuple(range(SUMMED, n, SUMMED))
    for again in (products(x, y, 2), products(x, y, 3), products(x, y, 40), products(x, y, 2, cuts)):
        for which, (one, other) in enumerate(zip(first, again, strict=True)):
            if which != 1:
                one, other = np.triu(one), np.triu(other)
            np.testing.assert_array_equal(one, other)


CHECKS = """
import json, sys
import numpy as np
from repsim import _core
sys.path.insert(0, TESTS)
from test_feature_space import lifted, pair, products
x, y = pair(700, 100, 30)
z, w = lifted(x, np.full(100, 0.5)), lifted(y, np.full(30, 0.5))
got = products(x, y, 2)
errors = [np.abs(np.triu(got[0] - z.T @ z)).max() / (np.abs(z).T @ np.abs(z)).max()]
errors.append((np.abs(got[1] - z.T @ w) / (np.abs(z).T @ np.abs(w))).max())
print(json.dumps([_core.instruction_set(), max(errors)]))
"""


@pytest.mark.parametrize("name", ["generic", "avx2", "avx512"])
def test_every_instruction_set(name: str) -> None:
    code = f"TESTS = {str(Path(__file__).parent)!r}" + CHECKS
    environment = {**os.environ, "REPSIM_ISA": name, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    if "REPSIM_ISA: expected" in done.stderr:
        pytest.skip(f"this CPU has no {name}")
    assert done.returncode == 0, done.stderr
    chosen, error = json.loads(done.stdout)
    assert (chosen, error < 1e-13) == (name, True)


def misaligned(panels: np.ndarray) -> np.ndarray:
    raw = np.zeros(panels.size + 16)
    skip = (-raw.ctypes.data % 64) // 8 + 1
    return raw[skip : skip + panels.size].reshape(panels.shape)


def test_what_the_native_operations_refuse() -> None:
    x, good = np.ones((10, 4)), panels_for(4, 10)
    with pytest.raises(ValueError, match="shift: expected one number per column"):
        _core.lift_rows(x, "float64", np.zeros(5), 0, good, 1)
    with pytest.raises(ValueError, match="panels: expected room for the rows"):
        _core.lift_rows(x, "float64", np.zeros(4), 1, good, 1)
    with pytest.raises(ValueError, match=r"panels: expected \[3 ceil"):
        _core.lift_rows(x, "float64", np.zeros(4), 0, panels_for(60, 10), 1)
    with pytest.raises(ValueError, match="aligned to 64 bytes"):
        _core.lift_rows(x, "float64", np.zeros(4), 0, misaligned(good), 1)
    with pytest.raises(ValueError, match="rows: expected some of the rows"):
        _core.feature_products([(good, good, np.zeros((6, 6)))], 11, 1)
    with pytest.raises(ValueError, match="panels: expected one room"):
        _core.feature_products([(good, panels_for(4, 11), np.zeros((6, 6)))], 10, 1)
    with pytest.raises(ValueError, match="pairs: expected at least one"):
        _core.feature_products([], 10, 1)
    with pytest.raises(TypeError):
        _core.feature_products([(good, good, np.zeros((6, 6), np.float32))], 10, 1)


# ---------------------------------------------------------------------------------------------- against Gram matrices


def moved(x: np.ndarray, offset: float) -> np.ndarray:
    """Moved so that nothing is rounded: the oracle sees the same differences."""
    return np.round(x * 2**20) / 2**20 + offset


def huge_row(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x[11] *= 1e4
    return x


def first_rows_elsewhere(x: np.ndarray) -> np.ndarray:
    return x + 1e6 * (np.arange(len(x)) >= 100)[:, None]


def sampled_rows_elsewhere(x: np.ndarray) -> np.ndarray:
    """The rows that the provisional origin is taken from lie far from all others."""
    sampled = np.linspace(0, len(x) - 1, 255).astype(int)
    x = x + 1e6
    x[sampled] -= 1e6
    return x


CASES = [
    pytest.param(lambda x: x, 1e-13, id="ordinary"),
    pytest.param(lambda x: moved(x, 1e6), 1e-12, id="translated-by-1e6"),
    pytest.param(lambda x: x * 1e-6, 1e-13, id="scale-1e-6"),
    pytest.param(lambda x: x * 1e6, 1e-13, id="scale-1e6"),
    pytest.param(lambda x: x * 1e30, 1e-13, id="scale-1e30"),
    pytest.param(lambda x: x[:, :1], 1e-12, id="one-feature"),
    pytest.param(huge_row, 1e-7, id="one-huge-row"),  # of whose debiased form 1e-8 is left
    pytest.param(first_rows_elsewhere, 1e-11, id="first-rows-elsewhere"),
    pytest.param(sampled_rows_elsewhere, 1e-11, id="sampled-rows-elsewhere"),
    pytest.param(lambda x: x + 1e3 * np.arange(len(x))[:, None], 1e-11, id="drift"),
]


@pytest.mark.parametrize(("change", "tolerance"), CASES)
def test_sums_agree_with_gram_matrices(change: Any, tolerance: float) -> None:
    """Relative to what CKA divides by, and the trace and squares to themselves."""
    x, y = pair(1300, 12, 7)
    x = change(x)
    got = sums(x, y)
    grams = [oracles.linear_gram(z) for z in (x, y)]
    biased = [oracles.double_centred(k) for k in grams]
    for found, centred in ((got.biased, biased), (got.debiased, [oracles.u_centred(k) for k in grams])):
        norms = [np.sum(k * k) for k in centred]
        for p, q in ((0, 0), (0, 1), (1, 1)):
            exact = np.sum(centred[p] * centred[q])
            size = got.scales[p] * got.scales[q]
            assert abs(found[p, q] * size - exact) <= tolerance * np.sqrt(norms[p] * norms[q]), (p, q)
    for p, own in enumerate(map(np.diag, biased)):
        assert got.trace[p] * got.scales[p] == pytest.approx(own.sum(), rel=max(tolerance, 1e-12))
        assert got.squares[p] * got.scales[p] ** 2 == pytest.approx((own**2).sum(), rel=max(tolerance, 1e-12))
    assert np.isnan(got.biased[1, 0])
    assert got.n == 1300
    assert got.precision == "float64"


def test_a_grid_is_its_pairs() -> None:
    layers = [pair(600, d, 3, seed=d)[0] for d in (5, 40, 17)]
    whole = sums(*layers, left=2)
    for p, q in ((0, 2), (1, 2)):
        alone = sums(layers[p], layers[q])
        assert whole.debiased[p, q] == alone.debiased[0, 1]
        assert whole.biased[p, p] == alone.biased[0, 0]
    assert np.isnan(whole.debiased[0, 1]), "two layers of one side are not asked for"


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_narrow_dtypes_are_widened_exactly(dtype: str) -> None:
    x, y = (z.astype(dtype) for z in pair(700, 9, 5))
    narrow, wide = sums(x, y), sums(x.astype(np.float64), y.astype(np.float64))
    np.testing.assert_array_equal(narrow.debiased, wide.debiased)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        pytest.param(lambda x: np.where(np.arange(len(x))[:, None] == 1500, np.nan, x), "in row 1500", id="nan-late"),
        pytest.param(lambda x: np.where(np.arange(len(x))[:, None] == 0, np.inf, x), "in row 0", id="infinite-first"),
        pytest.param(lambda x: np.full_like(x, 0.1), r"zero variance \(all 1600 rows are equal\)", id="equal"),
        pytest.param(lambda x: x * 1e75, "between about 1e-70 and 1e70", id="too-large"),
        pytest.param(lambda x: x * 1e200, "between about 1e-70 and 1e70", id="squares-overflow"),
        pytest.param(lambda x: x * 1e-75, "between about 1e-70 and 1e70", id="too-small"),
    ],
)
def test_what_is_refused(bad: Any, message: str) -> None:
    x, y = pair(1600, 6, 4)
    with pytest.raises(ValueError, match=r"\[test\] expected m1 .*" + message):
        sums(x, bad(y))


# ---------------------------------------------------------------------------------------------- passes, memory


def fields(found: reductions.HsicSums) -> tuple[bytes, ...]:
    return tuple(np.asarray(getattr(found, name)).tobytes() for name in ("biased", "debiased", "trace", "squares"))


def test_bits_depend_neither_on_threads_nor_on_passes_nor_on_the_room(tmp_path: Path) -> None:
    layers = [(pair(4500, d, 3, seed=d)[0] + 50 * (np.arange(4500) > 900)[:, None]) for d in (100, 40, 200)]
    first = fields(sums(*layers, left=2))
    products = 202 * 202 * 8
    for how in ({"threads": 2}, {"threads": 3}, {"memory": 2**30}, {"memory": products + 2_400_000, "threads": 2}):
        assert fields(sums(*layers, left=2, **how)) == first, how
    for i, layer in enumerate(layers):
        np.save(tmp_path / f"{i}.npy", layer)
    mapped = [np.load(tmp_path / f"{i}.npy", mmap_mode="r") for i in range(3)]
    assert fields(sums(*mapped, left=2)) == first


class Reads:
    """Which rows of which matrix are lifted, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lifted: list[tuple[int, int]] = []
        native = _core.lift_rows

        def lift(x: np.ndarray, *rest: Any) -> Any:
            self.lifted.append((x.shape[1], len(x)))
            return native(x, *rest)

        monkeypatch.setattr(moments._core, "lift_rows", lift)

    def rows(self, depth: int) -> int:
        return sum(count for d, count in self.lifted if d == depth)


def test_every_matrix_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [pair(3000, d, 3, seed=d)[0] for d in (5, 6, 7, 8)]
    reads = Reads(monkeypatch)
    sums(*layers, left=2)
    assert [reads.rows(d) for d in (5, 6, 7, 8)] == [3000] * 4


def test_a_budget_makes_passes_and_the_least_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = pair(1300, 300, 200)
    with pytest.raises(ValueError, match=r"\[test\] expected memory of at least (\d+) bytes \(\d+MiB\) for") as refused:
        sums(x, y, memory=1000)
    first = sums(x, y)
    # The largest pair alone, as the error would have said of it.
    least = max(
        (d + 2) * (e + 2) * 8 + moments.lifted_bytes({d, e}, SUMMED) + 255 * 300 * 8
        for d, e in ((300, 300), (300, 200), (200, 200))
    )
    assert "300 x 300" in str(refused.value)
    reads = Reads(monkeypatch)
    assert fields(sums(x, y, memory=least)) == fields(first)
    assert reads.rows(300) > 1300, "more than one pass"
    with pytest.raises(ValueError, match=f"at least {least} bytes"):
        sums(x, y, memory=least - 1)


def test_progress_ends_at_its_total() -> None:
    seen: list[tuple[int, int]] = []
    sums(*pair(2500, 30, 20), progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == list(range(1, seen[-1][1] + 1))


def test_costs() -> None:
    tall, wide = (1000, [10, 10]), (10, [999, 999])
    assert feature_space.feature_space_flop(*tall, 1) == 2 * (2 * 1000 * 100) + 4 * 1000 * 100
    assert feature_space.tiles_flop(*tall) == 1000**2 * 20
    assert feature_space.feature_space_flop(*wide, 1) > feature_space.tiles_flop(*wide)
    assert feature_space.less_in_feature_space(*tall, 1) and not feature_space.less_in_feature_space(*wide, 1)


# ---------------------------------------------------------------------------------------------- moving the origin


def test_moving_the_origin_is_summing_about_it() -> None:
    x, y = pair(900, 30, 20)
    rng = np.random.default_rng(1)
    here, there = [[rng.standard_normal(d) for d in (30, 20)] for _ in range(2)]
    asked = [(0, 0), (0, 1), (1, 1)]

    def about(origins: list[np.ndarray]) -> FeatureMoments:
        made = FeatureMoments(origins, asked, 512)
        made.add(rows_of(x, y), function="test", threads=1)
        made.sum_gathered(threads=1)
        return made

    walked, direct = about(here), about(there)
    walked.move(there)
    for p, q in asked:
        a, b = walked.products[p, q], direct.products[p, q]
        if p == q:
            a, b = np.triu(a), np.triu(b)
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-11 * np.abs(b).max())


def test_the_origin_follows_rows_that_go_away() -> None:
    x, y = pair(4 * moments.MOST_ROOM, 5, 4)
    x[600:] += 1e4
    made = FeatureMoments([np.zeros(5), np.zeros(4)], [(0, 0), (0, 1), (1, 1)], 512)
    made.add(rows_of(x, y), function="test", threads=1)
    assert np.abs(made.shifts[0] - x.mean(axis=0)).max() < 5e3
    assert not made.shifts[1].any(), "the other side has stayed"
    # What is summed about the new origin is what rows about it would give.
    again = FeatureMoments(made.shifts, [(0, 1)], 512)
    again.add(rows_of(x, y), function="test", threads=1)
    np.testing.assert_allclose(
        made.products[0, 1], again.products[0, 1], atol=1e-9 * np.abs(again.products[0, 1]).max()
    )
