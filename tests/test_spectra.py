"""Spans, hat matrices, fidelities and geodesics from [n, n] matrices that the measures never build."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
from test_shapes import STORED, Array, centred, in_float64, related, stored

import repsim
from repsim.arrays import as_rows

SHAPES = pytest.mark.parametrize(
    ("n", "d", "e"),
    [
        pytest.param(60, 5, 5, id="one width"),
        pytest.param(60, 5, 3, id="y narrower"),
        pytest.param(60, 2, 7, id="y wider"),
        pytest.param(40, 1, 1, id="one feature"),
        pytest.param(40, 1, 4, id="one feature and several"),
    ],
)
ALSO_WIDE = pytest.mark.parametrize(
    ("n", "d", "e"),
    [
        *SHAPES.args[1],
        pytest.param(6, 9, 4, id="fewer inputs than features of x"),
        pytest.param(6, 9, 8, id="fewer inputs than features"),
        pytest.param(2, 3, 3, id="two inputs"),
    ],
)


def gram(x: Array) -> Array:
    """Of centred rows, with trace 1."""
    x = centred(x)
    return np.asarray(x @ x.T / (x * x).sum())


# ---------------------------------------------------------------------------------------------- eigenspace overlap


def overlap(x: Array, y: Array) -> float:
    u, v = (np.linalg.svd(z, full_matrices=False)[0] for z in (x, y))
    return float(np.linalg.norm(u.T @ v) ** 2 / max(x.shape[1], y.shape[1]))


@SHAPES
def test_eigenspace_overlap(n: int, d: int, e: int) -> None:
    x, y = related(n, d, e, noise=5.0)
    assert repsim.eigenspace_overlap(x, y) == pytest.approx(overlap(x, y), rel=1e-9)


def test_eigenspace_overlap_of_known_spans() -> None:
    axes = np.eye(8)
    assert repsim.eigenspace_overlap(axes[:, :4], axes[:, :2]) == pytest.approx(0.5)
    assert repsim.eigenspace_overlap(axes[:, :4], axes[:, 2:6]) == pytest.approx(0.5)
    assert repsim.eigenspace_overlap(axes[:, :4], axes[:, 4:]) == pytest.approx(0)
    random = np.random.default_rng(0)
    x = random.standard_normal((5000, 40))
    assert repsim.eigenspace_overlap(x, random.standard_normal((5000, 20))) == pytest.approx(20 / 5000, rel=0.2)


def test_eigenspace_overlap_counts_columns_of_all_sizes() -> None:
    x, y = related(60, 5, 5, noise=5.0)
    assert repsim.eigenspace_overlap(x * np.geomspace(1e-9, 1e9, 5), y) == pytest.approx(overlap(x, y), rel=1e-9)
    near = x.copy()
    near[:, 1] = x[:, 0] + 1e-4 * x[:, 1]  # the same span, of columns that nearly agree
    assert repsim.eigenspace_overlap(near, y) == pytest.approx(overlap(x, y), rel=1e-6)


# ---------------------------------------------------------------------------------------------- gulp


def hat(x: Array, ridge: float) -> Array:
    """The matrix of ridge regression on centred rows whose variances sum to 1."""
    x = centred(x) / np.linalg.norm(centred(x)) * np.sqrt(len(x))
    return np.asarray(x @ np.linalg.solve(x.T @ x / len(x) + ridge * np.eye(x.shape[1]), x.T) / len(x))


def gulp_of_covariances(x: Array, y: Array, ridge: float) -> float:
    """The plug-in estimate of Boix-Adsera et al., squared, term by term."""
    x, y = (centred(z) / np.linalg.norm(centred(z)) * np.sqrt(len(z)) for z in (x, y))
    s, t, r = x.T @ x / len(x), y.T @ y / len(x), x.T @ y / len(x)
    s_inverse, t_inverse = (np.linalg.inv(one + ridge * np.eye(len(one))) for one in (s, t))
    square = np.trace(s_inverse @ s @ s_inverse @ s) + np.trace(t_inverse @ t @ t_inverse @ t)
    return float(square - 2 * np.trace(s_inverse @ r @ t_inverse @ r.T))


@ALSO_WIDE
@pytest.mark.parametrize("ridge", [1e-5, 0.01, 1.0, 100.0])
def test_gulp_is_the_distance_of_hat_matrices(n: int, d: int, e: int, ridge: float) -> None:
    x, y = related(n, d, e, noise=2.0)
    expected = float(np.linalg.norm(hat(x, ridge) - hat(y, ridge)))
    assert repsim.gulp(x, y, ridge=ridge) == pytest.approx(expected, rel=1e-7, abs=2e-7)
    assert expected**2 == pytest.approx(gulp_of_covariances(x, y, ridge), rel=1e-7, abs=1e-9)


def test_gulp_without_ridge_is_of_canonical_correlations() -> None:
    x, y = related(80, 6, 4, noise=4.0)
    correlations = np.cos(scipy.linalg.subspace_angles(centred(x), centred(y)))
    expected = np.sqrt(6 + 4 - 2 * (correlations**2).sum())
    assert repsim.gulp(x, y, ridge=0) == pytest.approx(expected, rel=1e-9)
    changed = x @ np.random.default_rng(1).standard_normal((6, 6)) + 5
    assert repsim.gulp(changed, y, ridge=0) == pytest.approx(expected, rel=1e-8)
    assert repsim.gulp(x, y).options == {"ridge": 0.01}


def test_gulp_bounds_how_differently_ridge_regressions_predict() -> None:
    """For any target of unit variance, the root mean square difference of predictions is at most the distance."""
    x, y = related(60, 5, 7, noise=3.0)
    distance = float(repsim.gulp(x, y, ridge=0.1))
    difference = hat(x, 0.1) - hat(y, 0.1)
    targets = np.random.default_rng(0).standard_normal((60, 500))
    shares = np.linalg.norm(difference @ targets, axis=0) / np.linalg.norm(targets, axis=0)
    assert shares.max() <= distance
    assert np.sqrt((shares**2).mean() * 60) == pytest.approx(distance, rel=0.1)  # the mean over targets


@pytest.mark.parametrize("ridge", [0.0, 1.0])
def test_gulp_keeps_the_triangle_inequality(ridge: float) -> None:
    for seed in range(20):
        x, y = related(20, 3, 4, seed, noise=0.1)
        z = y[:, :2] + np.random.default_rng(seed).standard_normal((20, 2))
        xy, yz, xz = (float(repsim.gulp(*pair, ridge=ridge)) for pair in ((x, y), (y, z), (x, z)))
        assert xz <= xy + yz + 1e-9


# ---------------------------------------------------------------------------------------------- bures


def fidelity(k: Array, m: Array) -> float:
    """tr((K^(1/2) M K^(1/2))^(1/2)), from the eigenvalues of the [n, n] matrices."""
    values, vectors = np.linalg.eigh(k)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    return float(np.sqrt(np.maximum(np.linalg.eigvalsh(root @ m @ root), 0)).sum())


@ALSO_WIDE
def test_bures_is_the_fidelity_of_gram_matrices(n: int, d: int, e: int) -> None:
    x, y = related(n, d, e, noise=2.0)
    found = repsim.bures(x, y)
    assert found == pytest.approx(fidelity(gram(x), gram(y)), abs=1e-6)  # roots of rounding in the fidelity
    assert np.arccos(min(found, 1.0)) == pytest.approx(float(repsim.angular_procrustes(x, y)), abs=1e-7)


def test_bures_of_known_shapes() -> None:
    x = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
    assert repsim.bures(x, x * [2, 0.5]) == pytest.approx(0.8)  # X'Y = 4 I, |X|^2 = |Y|^2 = 10
    assert repsim.bures(x, np.array([[1.0], [1.0], [-1.0], [-1.0]])) == pytest.approx(0)
    random = np.random.default_rng(0)  # independent, and wide: near 1 for no reason
    assert repsim.bures(random.standard_normal((20, 3000)), random.standard_normal((20, 3000))) > 0.95


# ---------------------------------------------------------------------------------------------- riemannian


def geodesic(x: Array, y: Array, ridge: float) -> float:
    """From the generalised eigenvalues of the two regularised [n, n] Gram matrices."""
    k, m = (gram(z) + ridge * np.eye(len(z)) for z in (x, y))
    return float(np.sqrt((np.log(scipy.linalg.eigvalsh(k, m)) ** 2).sum()))


@ALSO_WIDE
@pytest.mark.parametrize("ridge", [1e-4, 0.01, 1.0])
def test_riemannian_is_the_geodesic_of_gram_matrices(n: int, d: int, e: int, ridge: float) -> None:
    x, y = related(n, d, e, noise=2.0)
    assert repsim.riemannian(x, y, ridge=ridge) == pytest.approx(geodesic(x, y, ridge), rel=1e-8, abs=1e-9)


def test_riemannian_of_known_spectra() -> None:
    one = np.array([[1.0], [-1.0], [0.0], [0.0]])
    other = np.array([[0.0], [0.0], [1.0], [-1.0]])  # Gram matrices that share no direction: (1 + r) / r, twice
    assert repsim.riemannian(one, other, ridge=0.5) == pytest.approx(np.sqrt(2) * np.log(3))
    assert repsim.riemannian(one, other).options == {"ridge": 0.01}
    both = np.hstack([one, other])
    expected = np.hypot(np.log(1.5 / 1), np.log(1 / 0.5))
    assert repsim.riemannian(one, both, ridge=0.5) == pytest.approx(expected)


def test_riemannian_of_columns_that_depend_on_each_other() -> None:
    x, y = related(30, 4, 5)
    again = np.hstack([x, x, np.ones((30, 1))])
    assert repsim.riemannian(again, y) == pytest.approx(float(repsim.riemannian(x, y)), rel=1e-9)
    assert repsim.riemannian(again, x) == pytest.approx(0, abs=1e-9)


# ---------------------------------------------------------------------------------------------- all


@STORED
def test_spectra_of_stored_rows(how: str, tmp_path: Path) -> None:
    x, y = related(80, 6, 4)
    mine = stored(x, how, tmp_path)
    exact = in_float64(mine)
    assert repsim.eigenspace_overlap(mine, y) == pytest.approx(overlap(exact, y), rel=1e-9)
    assert repsim.gulp(mine, y) == pytest.approx(np.linalg.norm(hat(exact, 0.01) - hat(y, 0.01)), rel=1e-8)
    assert repsim.bures(mine, y) == pytest.approx(fidelity(gram(exact), gram(y)), abs=1e-6)
    assert repsim.riemannian(mine, y) == pytest.approx(geodesic(exact, y, 0.01), rel=1e-8)


TURNED = pytest.mark.parametrize(
    "name",
    ["procrustes", "angular_procrustes", "partial_whitening", "aligned_cosine", "gulp", "bures", "riemannian"],
)


@TURNED
def test_more_features_than_inputs_are_turned_into_their_span(name: str) -> None:
    """The value is that of rows as wide as they are many, however they were turned to be wider."""
    x, y = related(12, 12, 5)
    random = np.random.default_rng(2)
    wide = x @ np.linalg.qr(random.standard_normal((300, 12)))[0].T
    expected = float(getattr(repsim, name)(x, y))
    assert getattr(repsim, name)(wide, y) == pytest.approx(expected, rel=1e-8)
    assert getattr(repsim, name)(y, wide) == pytest.approx(expected, rel=1e-8)
    order = np.random.default_rng(0).permutation(12)
    method = repsim.measures.REGISTRY[name].method
    assert method is not None
    left, right, again = (method().prepare(as_rows(z, function="f", name="z"), 1) for z in (y, wide, wide[order]))
    relabelled = method().between(left, method().relabel(right, order), 1)
    assert relabelled == pytest.approx(method().between(left, again, 1), rel=1e-9)
    wide[7, 200] = np.inf
    message = rf"^\[{name}\] expected y with finite values, got NaN or infinity in row 7$"
    with pytest.raises(ValueError, match=message):
        getattr(repsim, name)(x, wide)


@pytest.mark.parametrize("name", [one for one in TURNED.args[1] if one != "aligned_cosine"])
def test_many_features_far_from_the_origin_lose_nothing(name: str) -> None:
    random = np.random.default_rng(4)
    x, y = random.integers(-64, 64, (12, 200)) / 8, random.standard_normal((12, 5))
    expected = float(getattr(repsim, name)(x, y))
    assert getattr(repsim, name)(x + 2.0**36, y) == pytest.approx(expected, rel=1e-9)  # the sum is exact


@pytest.mark.parametrize("name", ["gulp", "bures", "riemannian"])
def test_far_from_the_origin_nothing_changes(name: str) -> None:
    x, y = related(80, 5, 4)
    assert getattr(repsim, name)(x + 1e6, y - 1e6) == pytest.approx(float(getattr(repsim, name)(x, y)), rel=1e-7)


@pytest.mark.parametrize("name", ["gulp", "bures", "riemannian"])
def test_rows_that_are_all_equal_have_no_spectrum(name: str) -> None:
    x, y = related(20, 3, 3)
    message = rf"^\[{name}\] expected y whose rows differ, got a sum of squares of 0 in float64$"
    with pytest.raises(ValueError, match=message):
        getattr(repsim, name)(x, np.full_like(y, 0.1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            lambda x: np.hstack([x, x[:, :1] - x[:, 1:2]]),
            r"expected x with linearly independent columns, got rank 4 of 5$",
            id="a difference of columns",
        ),
        pytest.param(
            lambda x: x[:3], r"expected x with linearly independent columns, got rank 3 of 4$", id="too few inputs"
        ),
        pytest.param(
            lambda x: x * [1, 0, 1, 1], r"expected x without zero columns, got zeros in column 1$", id="a zero column"
        ),
    ],
)
def test_what_eigenspace_overlap_refuses(change: object, message: str) -> None:
    x, y = related(20, 4, 2)
    x = change(x)  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"^\[eigenspace_overlap\] " + message):
        repsim.eigenspace_overlap(x, y[: len(x)])


def test_what_gulp_and_riemannian_refuse() -> None:
    x, y = related(20, 4, 4)
    flat = np.hstack([x, x[:, :1]])
    message = r"^\[gulp\] expected y with linearly independent columns, or a ridge above 0, got rank 4 of 5$"
    with pytest.raises(ValueError, match=message):
        repsim.gulp(x, flat, ridge=0)
    with pytest.raises(ValueError, match=r"^\[gulp\] expected ridge as a number of at least 0, got -1$"):
        repsim.gulp(x, y, ridge=-1)
    with pytest.raises(ValueError, match=r"^\[riemannian\] expected ridge as a positive number, got 0$"):
        repsim.riemannian(x, y, ridge=0)
