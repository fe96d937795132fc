"""The measures of shapes against scipy's best maps on the rows themselves."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg

import repsim

Array = np.ndarray


def centred(x: Array) -> Array:
    return x - x.mean(axis=0)


def padded(x: Array, width: int) -> Array:
    return np.hstack([x, np.zeros((len(x), width - x.shape[1]))])


def of_one_width(x: Array, y: Array) -> tuple[Array, Array]:
    width = max(x.shape[1], y.shape[1])
    return padded(x, width), padded(y, width)


def turned_apart(x: Array, y: Array) -> float:
    """|X Q - Y| by scipy's Q, of rows as they are."""
    x, y = of_one_width(x, y)
    return float(np.linalg.norm(x @ scipy.linalg.orthogonal_procrustes(x, y)[0] - y))


def turned_angle(x: Array, y: Array) -> float:
    x, y = of_one_width(x, y)
    x = x @ scipy.linalg.orthogonal_procrustes(x, y)[0]
    return float(np.arccos(min((x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y), 1.0)))


def reordered_apart(x: Array, y: Array) -> float:
    """The least |X P - Y| over all permutations, one after the other."""
    x, y = of_one_width(x, y)
    orders = itertools.permutations(range(x.shape[1]))
    return min(float(np.linalg.norm(x[:, list(order)] - y)) for order in orders)


def related(n: int, d: int, e: int, seed: int = 0, noise: float = 0.5) -> tuple[Array, Array]:
    random = np.random.default_rng([seed, n, d, e])
    x = random.standard_normal((n, d)) * np.linspace(0.5, 2, d) + random.standard_normal(d)
    y = x @ random.standard_normal((d, e)) + noise * random.standard_normal((n, e)) + random.standard_normal(e)
    return x, y


SHAPES = pytest.mark.parametrize(
    ("n", "d", "e"),
    [
        pytest.param(60, 5, 5, id="one width"),
        pytest.param(60, 5, 3, id="y narrower"),
        pytest.param(60, 2, 5, id="y wider"),
        pytest.param(40, 1, 1, id="one feature"),
        pytest.param(40, 1, 4, id="one feature and several"),
        pytest.param(4, 6, 5, id="fewer inputs than features"),
        pytest.param(2, 3, 3, id="two inputs"),
    ],
)


def stored(x: Array, how: str, directory: Path) -> Any:
    """The rows as they may come: what is compared is exactly these numbers."""
    if how == "bfloat16":
        return pytest.importorskip("torch").from_numpy(x).bfloat16()
    if how == "memory map":
        np.save(directory / "x.npy", x.astype(np.float32))
        return np.load(directory / "x.npy", mmap_mode="r")
    return x.astype(how)


def in_float64(x: Any) -> Array:
    return np.asarray(x.double().numpy() if hasattr(x, "double") else x, np.float64)


STORED = pytest.mark.parametrize("how", ["float16", "bfloat16", "float32", "float64", "memory map"])


# ---------------------------------------------------------------------------------------------- procrustes


@SHAPES
def test_procrustes_is_what_is_left_after_the_best_turn(n: int, d: int, e: int) -> None:
    x, y = related(n, d, e)
    assert repsim.procrustes(x, y) == pytest.approx(turned_apart(centred(x), centred(y)), rel=1e-8, abs=1e-6)
    unit_x, unit_y = (centred(z) / np.linalg.norm(centred(z)) for z in (x, y))
    assert repsim.procrustes(x, y, unit_norm=True) == pytest.approx(turned_apart(unit_x, unit_y), rel=1e-8, abs=1e-7)


@SHAPES
def test_angular_procrustes_is_the_angle_after_the_best_turn(n: int, d: int, e: int) -> None:
    x, y = related(n, d, e)
    assert repsim.angular_procrustes(x, y) == pytest.approx(turned_angle(centred(x), centred(y)), rel=1e-8, abs=1e-7)


def test_procrustes_of_known_shapes() -> None:
    x = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]])  # |X|^2 = 10
    assert repsim.procrustes(x, 3 * x + 7) == pytest.approx(2 * np.sqrt(10))
    assert repsim.procrustes(x, np.zeros((4, 3))) == pytest.approx(np.sqrt(10))  # to a point
    assert repsim.procrustes(x, x[:, ::-1] * [-1, 1]) == pytest.approx(0, abs=1e-7)  # a reflection counts as a turn
    swapped = np.array([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])  # X'Y = 4 I
    assert repsim.procrustes(x, swapped) == pytest.approx(np.sqrt(20 - 2 * 8))
    assert repsim.angular_procrustes(x, swapped) == pytest.approx(np.arccos(0.8))
    assert repsim.procrustes(x, swapped, unit_norm=True) == pytest.approx(np.sqrt(2 - 1.6))
    apart = np.array([[1.0], [1.0], [-1.0], [-1.0]])  # X'Y = 0
    assert repsim.procrustes(x, apart) == pytest.approx(np.sqrt(10 + 4))
    assert repsim.angular_procrustes(x, apart) == pytest.approx(np.pi / 2)


@STORED
def test_shapes_of_stored_rows(how: str, tmp_path: Path) -> None:
    x, y = related(80, 6, 4)
    mine = stored(x, how, tmp_path)
    exact = in_float64(mine)
    assert repsim.procrustes(mine, y) == pytest.approx(turned_apart(centred(exact), centred(y)), rel=1e-9)
    assert repsim.angular_procrustes(mine, y) == pytest.approx(turned_angle(centred(exact), centred(y)), rel=1e-9)
    assert repsim.permutation_procrustes(mine, y) == pytest.approx(
        reordered_apart(centred(exact), centred(y)), rel=1e-9
    )
    assert repsim.partial_whitening(mine, y) == pytest.approx(whitened_angle(exact, y, 0.5), rel=1e-8)
    assert repsim.aligned_cosine(mine, y) == pytest.approx(cosine_after_the_turn(exact, y), rel=1e-9)


@pytest.mark.parametrize("name", ["procrustes", "angular_procrustes", "permutation_procrustes", "partial_whitening"])
def test_far_from_the_origin_nothing_changes(name: str) -> None:
    x, y = related(80, 5, 5)
    found = getattr(repsim, name)(x + 1e6, y - 1e6)
    assert found == pytest.approx(float(getattr(repsim, name)(x, y)), rel=1e-7)


# ---------------------------------------------------------------------------------------------- permutations


@SHAPES
def test_permutation_procrustes_is_the_best_of_all_orders(n: int, d: int, e: int) -> None:
    x, y = related(n, d, e)
    expected = reordered_apart(centred(x), centred(y))
    assert repsim.permutation_procrustes(x, y) == pytest.approx(expected, rel=1e-9)
    unit_x, unit_y = (centred(z) / np.linalg.norm(centred(z)) for z in (x, y))
    expected = reordered_apart(unit_x, unit_y)
    assert repsim.permutation_procrustes(x, y, unit_norm=True) == pytest.approx(expected, rel=1e-9, abs=1e-7)


def test_permutation_procrustes_finds_a_hidden_order() -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((300, 100))
    y = np.ascontiguousarray(x[:, random.permutation(100)]) + 1
    assert repsim.permutation_procrustes(x, y) == pytest.approx(0, abs=1e-5)
    assert repsim.permutation_procrustes(x, y @ np.linalg.qr(random.standard_normal((100, 100)))[0]) > 100
    assert repsim.procrustes(x, y[:, :60]) <= repsim.permutation_procrustes(x, y[:, :60])


def test_permutation_procrustes_is_a_metric_of_one_width_and_of_no_more() -> None:
    for seed in range(30):
        random = np.random.default_rng(seed)
        x = random.standard_normal((12, 4))
        y = np.roll(x, seed, axis=1) + 10.0 ** random.uniform(-2, 0.5) * random.standard_normal((12, 4))
        z = y + 10.0 ** random.uniform(-2, 0.5) * random.standard_normal((12, 4))
        xy, yz, xz = (float(repsim.permutation_procrustes(*pair)) for pair in ((x, y), (y, z), (x, z)))
        assert xz <= xy + yz + 1e-9
    # A neuron, its opposite, and both at half their size: the way through the wider one is shorter.
    x = np.array([[1.0], [-1.0]])
    both = np.hstack([x, -x]) / 2
    there, back = repsim.permutation_procrustes(x, both), repsim.permutation_procrustes(both, -x)
    assert there == pytest.approx(1.0)
    assert back == pytest.approx(1.0)
    assert repsim.permutation_procrustes(x, -x) == pytest.approx(2 * np.sqrt(2))
    assert repsim.permutation_procrustes(x, -x) > there + back
    assert not repsim.measures.REGISTRY["permutation_procrustes"].metric


# ---------------------------------------------------------------------------------------------- partial whitening


def whitened(x: Array, alpha: float) -> Array:
    """H X (alpha I + (1 - alpha) (X'HX)^(-1/2)), the inverse root on the span of the rows, from the rows' own SVD."""
    _, lengths, vt = np.linalg.svd(centred(x), full_matrices=False)
    inverse = np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths > 1e-9 * lengths[0])
    return np.asarray(centred(x) @ (alpha * np.eye(x.shape[1]) + (1 - alpha) * (vt.T * inverse) @ vt))


def whitened_angle(x: Array, y: Array, alpha: float) -> float:
    return turned_angle(whitened(x, alpha), whitened(y, alpha))


@SHAPES
@pytest.mark.parametrize("alpha", [0.0, 0.01, 0.5, 0.99, 1.0])
def test_partial_whitening(n: int, d: int, e: int, alpha: float) -> None:
    x, y = related(n, d, e)
    assert repsim.partial_whitening(x, y, alpha=alpha) == pytest.approx(whitened_angle(x, y, alpha), rel=1e-7, abs=1e-7)


def test_the_ends_of_partial_whitening() -> None:
    x, y = related(90, 6, 4, noise=3.0)
    assert repsim.partial_whitening(x, y, alpha=1) == pytest.approx(float(repsim.angular_procrustes(x, y)), rel=1e-9)
    # Wholly whitened, the sum of canonical correlations: scipy's angles between the spans are their arccos.
    correlations = np.cos(scipy.linalg.subspace_angles(centred(x), centred(y)))
    expected = np.arccos(correlations.sum() / np.sqrt(6 * 4))
    assert repsim.partial_whitening(x, y, alpha=0) == pytest.approx(expected, rel=1e-8)
    changed = x @ np.random.default_rng(1).standard_normal((6, 6)) + 5
    assert repsim.partial_whitening(changed, y, alpha=0) == pytest.approx(expected, rel=1e-8)
    assert repsim.partial_whitening(changed, y, alpha=0.1) != pytest.approx(expected, rel=1e-3)
    assert repsim.partial_whitening(x, y).options == {"alpha": 0.5}


def test_partial_whitening_of_columns_that_depend_on_each_other() -> None:
    x, y = related(50, 4, 5)
    again = np.hstack([x, x[:, :1] + x[:, 1:2], np.ones((50, 2))])
    expected = whitened_angle(again, y, 0.3)
    assert repsim.partial_whitening(again, y, alpha=0.3) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("alpha", [0.0, 0.2])
def test_partial_whitening_keeps_the_triangle_inequality(alpha: float) -> None:
    for seed in range(20):
        x, y = related(20, 3, 4, seed, noise=0.1)
        z = y[:, :2] + np.random.default_rng(seed).standard_normal((20, 2))
        xy, yz, xz = (float(repsim.partial_whitening(*pair, alpha=alpha)) for pair in ((x, y), (y, z), (x, z)))
        assert xz <= xy + yz + 1e-9


# ---------------------------------------------------------------------------------------------- aligned cosine


def cosine_after_the_turn(x: Array, y: Array) -> float:
    x, y = of_one_width(x, y)
    x = x @ scipy.linalg.orthogonal_procrustes(x, y)[0]
    return float(np.mean([a @ b / np.sqrt((a @ a) * (b @ b)) for a, b in zip(x, y, strict=True)]))


@SHAPES
def test_aligned_cosine(n: int, d: int, e: int) -> None:
    x, y = related(n, d, e)
    assert repsim.aligned_cosine(x, y) == pytest.approx(cosine_after_the_turn(x, y), rel=1e-9)


def test_aligned_cosine_of_known_rows() -> None:
    x = np.array([[1.0], [2.0], [3.0], [4.0]])
    assert repsim.aligned_cosine(x, -x) == pytest.approx(1)
    assert repsim.aligned_cosine(x, x * [[-1], [1], [1], [1]]) == pytest.approx(0.5)
    # The row that is long decides how all are turned.
    assert repsim.aligned_cosine(x, x * [[-1], [-1], [-1], [1]]) == pytest.approx(-0.5)


def test_aligned_cosine_reads_rows_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = related(300, 7, 5)
    whole = float(repsim.aligned_cosine(x, y))
    relabelled = repsim.aligned_cosine(x, y, permutations=3).null.mean
    monkeypatch.setattr("repsim.arrays.RESIDENT_BYTES", 7 * 8 * 13)  # 13 rows at a time
    assert repsim.aligned_cosine(x, y) == pytest.approx(whole, rel=1e-13)
    assert repsim.aligned_cosine(x, y, permutations=3).null.mean == pytest.approx(relabelled, rel=1e-12)


def test_aligned_cosine_where_one_side_has_no_more_directions() -> None:
    x, y = related(40, 5, 5)
    flat = x.copy()
    flat[:, 3] = 0  # X'Y has rank 4, but nothing of x is turned by what is free
    assert repsim.aligned_cosine(flat, y) == pytest.approx(cosine_after_the_turn(flat, y), rel=1e-9)
    assert repsim.aligned_cosine(flat, flat) == pytest.approx(1)


# ---------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("name", ["angular_procrustes", "partial_whitening"])
def test_directions_of_a_point(name: str) -> None:
    x, y = related(20, 3, 3)
    message = rf"^\[{name}\] expected y whose rows differ, got a sum of squares of 0 in float64$"
    with pytest.raises(ValueError, match=message):
        getattr(repsim, name)(x, np.full_like(y, 0.1))


@pytest.mark.parametrize("name", ["procrustes", "permutation_procrustes"])
def test_unit_norm_of_a_point(name: str) -> None:
    x, y = related(20, 3, 3)
    assert getattr(repsim, name)(x, np.full_like(y, 0.1)) == pytest.approx(np.linalg.norm(centred(x)))
    with pytest.raises(ValueError, match=rf"^\[{name}\] expected x whose rows differ, got a sum of squares of 0"):
        getattr(repsim, name)(np.full_like(x, 0.1), y, unit_norm=True)


def test_what_partial_whitening_refuses() -> None:
    x, y = related(20, 3, 3)
    with pytest.raises(ValueError, match=r"^\[partial_whitening\] expected alpha between 0 and 1, got 1.5$"):
        repsim.partial_whitening(x, y, alpha=1.5)
    with pytest.raises(ValueError, match=r"^\[partial_whitening\] expected alpha as a number of at least 0, got -0.1$"):
        repsim.partial_whitening(x, y, alpha=-0.1)
    with pytest.raises(TypeError, match=r"^\[partial_whitening\] expected alpha as a number, got str$"):
        repsim.partial_whitening(x, y, alpha="half")  # type: ignore[arg-type]


def test_what_aligned_cosine_refuses() -> None:
    x, y = related(20, 3, 3)
    y[7] = 0
    with pytest.raises(ValueError, match=r"^\[aligned_cosine\] expected y with non-zero rows, [^\n]* zeros in row 7$"):
        repsim.aligned_cosine(x, y)
    apart = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, -1]])
    other = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]])  # the third axes never meet
    with pytest.raises(ValueError, match=r"^\[aligned_cosine\] expected x and y with one best orthogonal map, got sev"):
        repsim.aligned_cosine(apart, other)
