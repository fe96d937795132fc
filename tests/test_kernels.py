"""Every kernel and combination of kernels against float64 Gram matrices: values, chance, jackknife, extremes, bits."""

from __future__ import annotations

import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import oracles
import pytest
from agreement import FLOAT32_FLOOR, FLOAT64_FLOOR, amplification, assert_value_agrees
from scipy.spatial.distance import pdist
from sklearn.metrics import pairwise

import repsim
from repsim import RBF, Cosine, LaplacianL1, LaplacianL2, Linear, Polynomial
from repsim.arrays import as_rows
from repsim.reductions import distances, median_distance

ESTIMATORS = ("biased", "debiased")
Gram = Callable[[np.ndarray], np.ndarray]


class Case(NamedTuple):
    """A kernel of the package, and the same by the definition."""

    kernel: Any
    gram: Gram


def rbf(**bandwidth: float) -> Case:
    return Case(RBF(**bandwidth), lambda x: oracles.rbf_gram(x, **bandwidth))


def polynomial(degree: int, constant: float, scale: float = 1.0) -> Case:
    made = Polynomial(degree=degree, constant=constant, scale=scale)
    return Case(made, lambda x: oracles.polynomial_gram(x, degree, constant, scale))


def l1(**bandwidth: float) -> Case:
    return Case(LaplacianL1(**bandwidth), lambda x: oracles.laplacian_gram(x, "cityblock", **bandwidth))


def l2(**bandwidth: float) -> Case:
    return Case(LaplacianL2(**bandwidth), lambda x: oracles.laplacian_gram(x, "euclidean", **bandwidth))


LINEAR = Case(Linear(), lambda x: oracles.linear_gram(x, centred=False))
COSINE = Case(Cosine(), oracles.cosine_gram)

LEAVES = {
    "linear": LINEAR,
    "cosine": COSINE,
    **{
        f"polynomial-{degree}-{constant}-{scale}": polynomial(degree, constant, scale)
        for degree, constant, scale in [
            (1, 0.0, 1.0), (1, 2.0, 0.5), (2, 0.0, 1.0), (2, 1.0, 0.1), (3, 1.0, 1.0), (3, 0.0, 0.2), (4, 2.5, 0.1),
            (5, 1.0, 0.05),
        ]
    },
    "rbf-sigma": rbf(sigma=2.0),
    "rbf-median": rbf(median_fraction=0.5),
    "l2-sigma": l2(sigma=2.0),
    "l2-median": l2(median_fraction=1.0),
    "l1-sigma": l1(sigma=9.0),
    "l1-median": l1(median_fraction=0.7),
}  # fmt: skip

A, B, C, D = rbf(sigma=2.0), l2(median_fraction=0.8), l1(median_fraction=1.5), polynomial(2, 1.0, 0.1)
COMBINED = {
    "sum": Case(A.kernel + LINEAR.kernel, lambda x: A.gram(x) + LINEAR.gram(x)),
    "sum-of-three-medians": Case(
        RBF(median_fraction=0.5) + RBF(median_fraction=1.0) + RBF(median_fraction=2.0),
        lambda x: sum(oracles.rbf_gram(x, median_fraction=f) for f in (0.5, 1.0, 2.0)),
    ),
    "multiple": Case(0.25 * B.kernel, lambda x: 0.25 * B.gram(x)),
    "multiple-of-linear": Case(Linear() * 7, lambda x: 7.0 * LINEAR.gram(x)),
    "product-of-distances": Case(A.kernel * C.kernel, lambda x: A.gram(x) * C.gram(x)),
    "product-with-linear": Case(0.5 * A.kernel * LINEAR.kernel, lambda x: 0.5 * A.gram(x) * LINEAR.gram(x)),
    "product-with-cosine": Case(Cosine() * C.kernel, lambda x: COSINE.gram(x) * C.gram(x)),
    "product-of-polynomials": Case(D.kernel * Polynomial(degree=3), lambda x: D.gram(x) * (x @ x.T + 1.0) ** 3),
    "nested": Case(
        3.0 * (LINEAR.kernel + B.kernel) * (D.kernel + 2.0 * (COSINE.kernel * A.kernel)),
        lambda x: 3.0 * (LINEAR.gram(x) + B.gram(x)) * (D.gram(x) + 2.0 * COSINE.gram(x) * A.gram(x)),
    ),
}
CASES = {**LEAVES, **COMBINED}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
every_estimator = pytest.mark.parametrize("estimator", ESTIMATORS)


def pair(n: int, d: int, e: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two representations with a common part, not about the origin."""
    rng = np.random.default_rng([seed, n, d, e])
    common = rng.standard_normal((n, 2))
    x = common @ rng.standard_normal((2, d)) + 0.7 * rng.standard_normal((n, d)) + 0.5
    y = np.tanh(common @ rng.standard_normal((2, e))) + 0.7 * rng.standard_normal((n, e)) - 0.3
    return x / math.sqrt(d), y / math.sqrt(e)


def naive_hsic(k: np.ndarray, l: np.ndarray, estimator: str) -> float:  # noqa: E741
    """In float32 from Gram matrices whose every entry is right to float32, each about its own mean."""
    k, l = ((m - m.mean()).astype(np.float32) for m in (k, l))  # noqa: E741
    n = len(k)
    if estimator == "biased":
        h = np.eye(n, dtype=np.float32) - np.float32(1.0 / n)
        return float(np.sum((h @ k @ h) * l) / np.float32((n - 1) ** 2))
    np.fill_diagonal(k, 0)
    np.fill_diagonal(l, 0)
    totals = k.sum() * l.sum() / np.float32((n - 1) * (n - 2))
    cross = np.float32(2) * (k.sum(axis=0) @ l.sum(axis=1)) / np.float32(n - 2)
    return float((np.sum(k * l) + totals - cross) / np.float32(n * (n - 3)))


def check(
    x: np.ndarray,
    y: np.ndarray,
    kernel: Any,
    k: np.ndarray,
    l: np.ndarray,  # noqa: E741
    estimator: str,
    *,
    in_feature_space: bool = False,
    floor: float = FLOAT32_FLOOR,
    with_z: bool = True,
) -> None:
    """CKA, HSIC and their chance against the Gram matrices k and l."""
    h = oracles.HSIC[estimator]
    exact, own = h(k, l), math.sqrt(h(k, k) * h(l, l))
    floor = (FLOAT64_FLOOR if in_feature_space else floor) * amplification(k, l, estimator)
    naive = None if in_feature_space else naive_hsic(k, l, estimator) / own
    cka = repsim.cka(x, y, kernel=kernel, estimator=estimator)
    hsic = repsim.hsic(x, y, kernel=kernel, estimator=estimator)
    assert_value_agrees(float(cka), exact / own, naive, floor=floor)
    assert_value_agrees(float(hsic) / own, exact / own, naive, floor=floor)
    assert cka.precision == ("float64" if in_feature_space else "float32")
    if not with_z or len(k) < 4:
        return
    a, b = oracles.centred(k, estimator), oracles.centred(l, estimator)
    mean, variance = oracles.permutation_moments(a, b)
    size = math.sqrt(float(np.sum(a * a)) * float(np.sum(b * b)))
    pairs = float(np.sum(a * b)) / exact
    for one, unit in ((cka, size), (hsic, pairs)):
        assert one.null.mean == pytest.approx(mean / unit, rel=1e-4, abs=1e-4 * size / unit)
        assert one.null.sd == pytest.approx(math.sqrt(variance) / unit, rel=1e-3)
        assert one.z == pytest.approx((float(np.sum(a * b)) - mean) / math.sqrt(variance), rel=2e-3, abs=2e-3)


def in_feature_space(case: Case, *sides: np.ndarray) -> bool:
    return case.kernel == Linear() and max(side.shape[1] for side in sides) <= len(sides[0])


# ---------------------------------------------------------------------------------------------- agreement


@every_estimator
@pytest.mark.parametrize(
    ("n", "d", "e"),
    [
        pytest.param(4, 2, 3, id="four-inputs"),
        pytest.param(5, 1, 1, id="one-feature"),
        pytest.param(193, 7, 300, id="a-row-over-a-tile-and-wide"),
        pytest.param(400, 12, 5, id="three-tiles"),
    ],
)
@every_case
def test_agrees_with_the_gram_matrices(case: Case, n: int, d: int, e: int, estimator: str) -> None:
    x, y = pair(n, d, e)
    if (d, e) == (1, 1) and "cosine" in str(case.kernel):
        x, y = np.hstack([x, 1 + x * x]), np.hstack([y, 1 - y])  # one feature has two directions only
    k, l = case.gram(x), case.gram(y)  # noqa: E741
    if n < 6 and amplification(k, l, estimator) > 30:
        pytest.skip("next to nothing is left of so few inputs")
    check(x, y, case.kernel, k, l, estimator, in_feature_space=in_feature_space(case, x, y), with_z=n > 5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@every_case
def test_dtypes(case: Case, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    x, y = (torch.from_numpy(side).to(getattr(torch, dtype)) for side in pair(200, 9, 5))
    k, l = (case.gram(oracles.as_float64(side)) for side in (x, y))  # noqa: E741
    got = float(repsim.cka(x, y, kernel=case.kernel))
    exact = oracles.cka_of_grams(k, l, "debiased")
    assert_value_agrees(got, exact, None, floor=FLOAT32_FLOOR * amplification(k, l, "debiased"))


@every_case
def test_gram(case: Case) -> None:
    x, _ = pair(60, 5, 2)
    if "median" in str(case.kernel):
        with pytest.raises(
            ValueError, match=r"^\[(RBF|LaplacianL[12])\] expected sigma as a number here, got .*median"
        ):
            case.kernel.gram(x)
        return
    np.testing.assert_allclose(case.kernel.gram(x), case.gram(x), rtol=1e-11, atol=1e-13)


def test_gram_against_scikit_learn() -> None:
    x, _ = pair(80, 7, 2)
    sigma = 1.7
    for kernel, expected in [
        (LaplacianL1(sigma=sigma), pairwise.laplacian_kernel(x, gamma=1 / sigma)),
        (RBF(sigma=sigma), pairwise.rbf_kernel(x, gamma=0.5 / sigma**2)),
        (Cosine(), pairwise.cosine_similarity(x)),
        (Linear(), pairwise.linear_kernel(x)),
        (
            Polynomial(degree=4, constant=0.5, scale=0.3),
            pairwise.polynomial_kernel(x, degree=4, gamma=0.3, coef0=0.5),
        ),
    ]:
        np.testing.assert_allclose(kernel.gram(x), expected, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("kernel", [RBF(sigma=1.0), LaplacianL2(sigma=1.0)], ids=["rbf", "l2"])
def test_gram_keeps_small_distances_far_from_the_middle(kernel: Any) -> None:
    x = np.random.default_rng(0).standard_normal((30, 4))
    x[::2] += 1e6
    x[10] = x[12]
    apart = oracles.squared_distances(x)
    expected = np.exp(-apart / 2 if isinstance(kernel, RBF) else -np.sqrt(apart))
    np.testing.assert_allclose(kernel.gram(x), expected, atol=1e-9)
    assert kernel.gram(x)[10, 12] == 1.0


def test_names_stand_for_kernels() -> None:
    x, y = pair(100, 4, 3)
    for name, kernel in {
        "linear": Linear(),
        "cosine": Cosine(),
        "polynomial": Polynomial(),
        "rbf": RBF(median_fraction=1.0),
        "laplacian_l1": LaplacianL1(median_fraction=1.0),
        "laplacian_l2": LaplacianL2(median_fraction=1.0),
    }.items():
        named, made = repsim.cka(x, y, kernel=name), repsim.cka(x, y, kernel=kernel)
        assert named.to_dict() == made.to_dict()
    assert Polynomial() == Polynomial(degree=3, constant=1.0, scale=1.0)


# ---------------------------------------------------------------------------------------------- extremes


INVARIANT = {name: case for name, case in CASES.items() if name.startswith(("rbf", "l1", "l2", "product-of-dist"))}


@every_estimator
@pytest.mark.parametrize("far", [1e3, 1e6])
@pytest.mark.parametrize("case", [*INVARIANT.values(), LINEAR], ids=[*INVARIANT, "linear"])
def test_translation_of_kernels_that_do_not_see_it(case: Case, far: float, estimator: str) -> None:
    """Rows in steps of 2^-20 move without rounding: the oracle sees them where they were."""
    x, y = (np.round(side * 2**20) / 2**20 for side in pair(250, 6, 4))
    check(
        x + far, y - far, case.kernel, case.gram(x), case.gram(y), estimator,
        in_feature_space=case is LINEAR, floor=FLOAT32_FLOOR,
    )  # fmt: skip


@pytest.mark.parametrize("far", [1_000, 1_000_000])
@pytest.mark.parametrize(("degree", "constant"), [(1, 0), (2, 1), (3, 1), (5, 2)])
def test_translation_of_polynomials_in_whole_numbers(degree: int, constant: int, far: int) -> None:
    """A polynomial far from the origin is nearly linear; the oracle has no rounding at all."""
    x, y = ((side * 64).round().astype(int) for side in pair(40, 4, 3))
    grams = [
        ((side + far * 64).astype(object) @ (side + far * 64).T.astype(object) + 64**2 * constant) ** degree
        for side in (x, y)
    ]
    hsic = {(p, q): oracles.hsic_debiased_of_whole_numbers(grams[p], grams[q]) for p, q in ((0, 0), (0, 1), (1, 1))}
    exact = math.sqrt(hsic[0, 1] ** 2 / (hsic[0, 0] * hsic[1, 1])) * (1 if hsic[0, 1] > 0 else -1)
    kernel = Polynomial(degree=degree, constant=float(constant))
    assert float(repsim.cka(x / 64 + far, y / 64 + far, kernel=kernel)) == pytest.approx(exact, abs=FLOAT32_FLOOR)
    size = float(hsic[0, 1] / Fraction(64) ** (4 * degree))
    assert float(repsim.hsic(x / 64 + far, y / 64 + far, kernel=kernel)) == pytest.approx(size, rel=1e-5)


@every_estimator
@pytest.mark.parametrize("narrow", [1e-3, 1e-6, 1e-8])
def test_cosine_of_rows_in_a_narrow_cone(narrow: float, estimator: str) -> None:
    """Cosines of 1 - 1e-16: the unit rows about their mean keep what the cosines lose."""
    rng = np.random.default_rng(3)
    x, y = pair(220, 5, 4)
    x = rng.standard_normal(5) + narrow * x
    u = x / np.linalg.norm(x, axis=1, keepdims=True)
    k = oracles.linear_gram(u)
    expected = oracles.cka_of_grams(k / np.abs(k).max(), oracles.cosine_gram(y), estimator)
    assert float(repsim.cka(x, y, kernel=Cosine(), estimator=estimator)) == pytest.approx(expected, abs=3e-6)


SCALED = {
    "cosine": lambda s: COSINE,
    "linear": lambda s: LINEAR,
    "polynomial": lambda s: polynomial(3, 1.0, 0.4 / s**2),
    "rbf": lambda s: rbf(sigma=2.0 * s),
    "l2": lambda s: l2(sigma=2.0 * s),
    "l1": lambda s: l1(sigma=3.0 * s),
    "nested": lambda s: Case(
        (1 / s**2) * LINEAR.kernel * RBF(sigma=s) + LaplacianL1(median_fraction=1.0),
        lambda x: (
            x @ x.T / s**2 * oracles.rbf_gram(x, sigma=s) + oracles.laplacian_gram(x, "cityblock", median_fraction=1.0)
        ),
    ),
}


@every_estimator
@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1e3, 1e6])
@pytest.mark.parametrize("made", SCALED.values(), ids=SCALED.keys())
def test_scales(made: Any, scale: float, estimator: str) -> None:
    x, y = (scale * side for side in pair(220, 6, 4))
    case = made(scale)
    check(x, y, case.kernel, case.gram(x), case.gram(y), estimator, in_feature_space=in_feature_space(case, x, y))


@every_estimator
@pytest.mark.parametrize("scale", [1e-130, 1e-80, 1e-45, 1e45, 1e80, 1e130])
@pytest.mark.parametrize(
    "kernel",
    [Linear(), 2.0 * Linear(), Cosine(), RBF(median_fraction=1.0), LaplacianL2(median_fraction=1.0), "laplacian_l1"],
    ids=str,
)
def test_cka_has_no_size(kernel: Any, scale: float, estimator: str) -> None:
    """The squares of the kernel matrices would leave the range of float64; CKA, z and standard errors do not."""
    x, y = pair(60, 5, 4)
    far = repsim.cka(x * scale, y * scale, kernel=kernel, estimator=estimator, jackknife=True)
    near = repsim.cka(x, y, kernel=kernel, estimator=estimator, jackknife=True)
    assert float(far) == pytest.approx(float(near), abs=1e-6)
    assert far.z == pytest.approx(near.z, rel=1e-5)
    assert far.p == pytest.approx(near.p, rel=1e-3)
    assert far.standard_error == pytest.approx(near.standard_error, rel=1e-4)


@pytest.mark.parametrize("degree", [2, 3, 5])
def test_polynomials_of_large_rows(degree: int) -> None:
    """With a scale to match, the kernel's size alone is large; without, its constant is nothing."""
    x, y = pair(60, 5, 4)
    large = 10.0 ** (200 // (4 * degree))
    near = float(repsim.cka(x, y, kernel=Polynomial(degree=degree, constant=0.0)))
    assert float(repsim.cka(x * large, y * large, kernel=Polynomial(degree=degree))) == pytest.approx(near, abs=1e-5)
    with pytest.raises(ValueError, match=r"^\[cka\] expected x whose kernel polynomial.* float64 can hold, got values"):
        repsim.cka(x * 1e130, y, kernel=Polynomial(degree=degree))


@pytest.mark.parametrize(
    ("kernel", "scale"),
    [
        pytest.param(Linear(), 1e80, id="feature-space-large"),
        pytest.param(Linear(), 1e-80, id="feature-space-small"),
        pytest.param(1e200 * RBF(sigma=1.0), 1.0, id="tiles-large"),
        pytest.param(1e-200 * RBF(sigma=1.0), 1.0, id="tiles-small"),
    ],
)
def test_hsic_beyond_float64_is_refused(kernel: Any, scale: float) -> None:
    x, y = pair(60, 5, 4)
    with pytest.raises(ValueError, match=r"^\[hsic\] expected x and y whose kernels' product float64 can hold, got"):
        repsim.hsic(x * scale, y * scale, kernel=kernel)
    assert 0 < float(repsim.cka(x * scale, y * scale, kernel=kernel)) < 1


@pytest.mark.parametrize("weight", [1e-300, 1e300])
def test_weights_beyond_float64_are_refused(weight: float) -> None:
    x, y = pair(60, 5, 4)
    for kernel in (weight * RBF(sigma=1.0), weight * (Linear() + RBF(sigma=1.0)), weight * (weight * Linear())):
        with pytest.raises(ValueError, match=r"^\[cka\] expected x whose kernel .* float64 can hold"):
            repsim.cka(x, y, kernel=kernel)


@every_estimator
@pytest.mark.parametrize("noise", [0.0, 1e-6])
@every_case
def test_duplicates_and_near_duplicates(case: Case, noise: float, estimator: str) -> None:
    """The root of LaplacianL2 magnifies what rounding leaves of a distance of zero."""
    x, y = pair(200, 6, 4)
    twins = np.arange(200) // 3 * 3
    x, y = x[twins] + noise * np.random.default_rng(1).standard_normal(x.shape), y[twins]
    check(x, y, case.kernel, case.gram(x), case.gram(y), estimator, in_feature_space=in_feature_space(case, x, y))


@every_estimator
@pytest.mark.parametrize("size", [1e4, 1e8])
@pytest.mark.parametrize(
    "case",
    [LINEAR, COSINE, A, B, C, l2(sigma=2.0), COMBINED["product-of-distances"], COMBINED["product-with-cosine"]],
    ids=["linear", "cosine", "rbf", "l2-median", "l1-median", "l2", "product", "product-with-cosine"],
)
def test_one_huge_row(case: Case, size: float, estimator: str) -> None:
    x, y = pair(250, 6, 4)
    x[11] *= size
    k, l = case.gram(x), case.gram(y)  # noqa: E741
    got = float(repsim.cka(x, y, kernel=case.kernel, estimator=estimator))
    if case is LINEAR and estimator == "debiased":  # of x only the entries in one row are left
        assert got == pytest.approx(oracles.cka_of_grams(k / size, l, estimator), abs=1e-5)
        return
    floor = FLOAT32_FLOOR * amplification(k, l, estimator)
    assert_value_agrees(got, oracles.cka_of_grams(k, l, estimator), naive_hsic(k, l, estimator), floor=floor)


@pytest.mark.parametrize(
    "kernel", [RBF(sigma=1.0), LaplacianL1(sigma=1.0), LaplacianL2(sigma=1.0), Linear() + RBF(sigma=1.0)], ids=str
)
def test_a_row_out_of_range_is_named(kernel: Any) -> None:
    x, y = pair(60, 5, 4)
    x[17] *= 1e30
    with pytest.raises(
        ValueError, match=r"^\[cka\] expected x whose rows float32 can hold beside each other, got row 17"
    ):
        repsim.cka(x, y, kernel=kernel)


@pytest.mark.parametrize("sigma", [1e6, 1e300])
def test_a_bandwidth_beyond_all_distances_is_refused_or_is_linear(sigma: float) -> None:
    x, y = pair(60, 5, 4)
    with pytest.raises(ValueError, match=r"^\[cka\] expected x with a kernel matrix that varies"):
        repsim.cka(x, y, kernel=RBF(sigma=sigma))
    wide = float(repsim.cka(x, y, kernel=RBF(sigma=500.0)))
    assert wide == pytest.approx(float(repsim.cka(x, y)), abs=1e-5)


@every_estimator
@pytest.mark.parametrize("far", [3e3, 1e5, 1e7])
@pytest.mark.parametrize(
    "case",
    [
        rbf(sigma=1.0),
        l2(sigma=1.0),
        l1(sigma=1.0),
        Case(
            RBF(sigma=1.0) * LaplacianL2(sigma=3.0) + LaplacianL1(sigma=2.0),
            lambda x: (
                oracles.rbf_gram(x, sigma=1.0) * oracles.laplacian_gram(x, "euclidean", sigma=3.0)
                + oracles.laplacian_gram(x, "cityblock", sigma=2.0)
            ),
        ),
    ],
    ids=["rbf", "l2", "l1", "combined"],
)
def test_clusters_thousands_of_bandwidths_from_the_middle(case: Case, far: float, estimator: str) -> None:
    """Products of float32 lose the distances inside the clusters: they come from the differences of the rows.

    Rows far from the middle are held in float32 about it, in steps of 2^-24 of the way there; what that leaves of a
    distance of about 1 is the floor.
    """
    rng = np.random.default_rng(5)
    centres = far * rng.standard_normal((5, 6))
    label = rng.integers(0, 5, 400)
    noise = 0.3 * rng.standard_normal((400, 6))
    x, y = centres[label] + noise, noise[:, :3] + 0.1 * rng.standard_normal((400, 3))
    x = np.float32(x).astype(np.float64)
    check(x, y, case.kernel, case.gram(x), case.gram(y), estimator, with_z=far < 1e6, floor=FLOAT32_FLOOR + 1e-8 * far)


def test_the_shift_of_a_product_keeps_its_sums_in_range() -> None:
    """All rows but one tile of them point one way: entries of -1 lie almost 2 from the mean."""
    n = 192 * 36
    rng = np.random.default_rng(0)
    x = np.zeros((n, 2))
    x[:, 0] = 1
    x[192 * 5 : 192 * 6] *= -1
    x += 0.1 * rng.standard_normal((n, 2))
    y = x[:, :1] + 0.1 * rng.standard_normal((n, 1))
    u, v = x / np.linalg.norm(x, axis=1, keepdims=True), np.sign(y)
    kernel = Cosine() * RBF(sigma=1e4)  # the second factor is 1 to 1e-8: the cosine is all there is
    # Cosines are products of unit rows: HSIC of them in feature space, in float64.
    got = repsim.cka(x, y, kernel=kernel, jackknife=True)
    exact = repsim.cka(u, v, jackknife=True)
    assert float(got) == pytest.approx(
        oracles.linear_hsic_debiased_closed_form(u, v)
        / math.sqrt(oracles.linear_hsic_debiased_closed_form(u, u) * oracles.linear_hsic_debiased_closed_form(v, v)),
        abs=1e-5,
    )
    assert got.standard_error == pytest.approx(exact.standard_error, rel=1e-3)


# ---------------------------------------------------------------------------------------------- the median


def median(x: np.ndarray, distance: str, **how: Any) -> float:
    rows = as_rows(x, function="cka", name="x")
    return median_distance(rows, distance=distance, function="cka", threads=how.pop("threads", 1), **how)


METRICS = {"euclidean": "euclidean", "manhattan": "cityblock"}
every_distance = pytest.mark.parametrize("distance", METRICS)


@every_distance
@pytest.mark.parametrize(
    "n",
    [
        pytest.param(2, id="one-pair"),
        pytest.param(3, id="three-pairs"),
        pytest.param(4, id="six-pairs"),
        pytest.param(2047, id="in-memory-odd"),
        pytest.param(2048, id="in-memory-even"),
        pytest.param(2049, id="streamed-even"),
        pytest.param(2050, id="streamed-odd"),
        pytest.param(2501, id="streamed-several-tiles"),
    ],
)
def test_median_distance(n: int, distance: str) -> None:
    """Even numbers of pairs have two in the middle: n (n - 1) / 2 is odd for n = 2, 3, 2047, 2050."""
    x, _ = pair(n, 3, 1)
    exact = float(np.median(pdist(x, METRICS[distance])))
    assert median(x, distance) == pytest.approx(exact, rel=1e-14 if n <= 2048 else 3e-7)


@every_distance
def test_two_values_in_the_middle_are_both_found(distance: str) -> None:
    """1 075 inputs at 0, and so many at 10 that half of all pairs are apart; the middle lies between 0 and 10."""
    counts = (1081, 1035)  # (a - b)^2 = a + b: as many pairs within as across
    x = np.repeat([0.0, 10.0], counts)[:, None] + np.zeros((1, 2))
    assert len(x) > 2048
    length = 10 * math.sqrt(2) if distance == "euclidean" else 20.0
    assert float(np.median(pdist(x, METRICS[distance]))) == pytest.approx(length / 2)
    assert median(x, distance) == pytest.approx(length / 2, rel=1e-6)


@every_distance
@pytest.mark.parametrize("order", ["sorted", "clustered", "misleading"])
def test_median_of_rows_in_an_unlucky_order(order: str, distance: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bracket that the sample misses is counted anew, coarsely first; few bins force several traversals."""
    rng = np.random.default_rng(7)
    x = rng.standard_normal((2300, 2)) * np.exp(rng.standard_normal((2300, 1)))
    if order == "sorted":
        x = x[np.argsort((x * x).sum(axis=1))]
    elif order == "clustered":
        x[:1500] += 40
    else:  # the sample of 2 048 leaves out every row but one of the far ones, so that it sees half of the spread
        taken = np.unique(np.linspace(0, 2299, 2048).astype(int))
        left_out = np.setdiff1d(np.arange(2300), taken)
        x[left_out] *= 1e3
        x[taken[:1100]] *= 1e-3
    traversals = []
    counts = distances._counts

    def counted(*given: Any) -> np.ndarray:
        traversals.append(given[2])
        return counts(*given)

    monkeypatch.setattr(distances, "_counts", counted)
    exact = float(np.median(pdist(x, METRICS[distance])))
    assert median(x, distance) == pytest.approx(exact, rel=3e-7)
    if order == "misleading":
        assert traversals == [0, distances.COARSE, 0]
    monkeypatch.setattr(distances, "BINS", 2**16)  # the fewest in which both counts find their place
    monkeypatch.setattr(distances, "COARSE", 16)
    assert median(x, distance) == pytest.approx(exact, rel=3e-7)


@every_distance
@pytest.mark.parametrize("size", [1e10, 1e22, 1e30])
def test_median_beside_a_huge_row(size: float, distance: str) -> None:
    x, _ = pair(2100, 4, 1)
    x[3] *= size
    exact = float(np.median(pdist(x, METRICS[distance])))
    assert median(x, distance) == pytest.approx(exact, rel=3e-7)


@every_distance
def test_a_median_that_float32_cannot_hold_beside_a_row_is_refused(distance: str) -> None:
    x, _ = pair(2100, 4, 1)
    x[3] *= 1e40
    with pytest.raises(
        ValueError, match=r"^\[cka\] expected x whose rows float32 can hold beside each other, got row 3 at"
    ):
        median(x, distance)


@every_distance
def test_median_of_a_sample(distance: str) -> None:
    x, _ = pair(2500, 4, 1)
    for sample in (2, 50, 2400):
        few = x[np.linspace(0, 2499, sample).astype(int)]
        assert median(x, distance, sample=sample) == pytest.approx(
            float(np.median(pdist(few, METRICS[distance]))), rel=1e-12
        )
    assert median(x, distance, sample=10_000) == pytest.approx(median(x, distance), rel=1e-6)


@every_distance
@pytest.mark.parametrize("n", [300, 2300])
def test_a_median_of_zero_is_refused(n: int, distance: str) -> None:
    x = np.zeros((n, 3))
    x[: n // 5] = np.random.default_rng(0).standard_normal((n // 5, 3))
    with pytest.raises(ValueError, match=r"^\[cka\] expected x whose median distance is positive, got zero"):
        median(x, distance)


@every_distance
def test_median_of_many_duplicates(distance: str) -> None:
    x = np.random.default_rng(0).integers(0, 3, (2300, 2)).astype(np.float64)
    exact = float(np.median(pdist(x, METRICS[distance])))
    assert median(x, distance) == pytest.approx(exact, rel=3e-7)


@every_distance
def test_median_is_the_same_bits_for_threads_and_blocks(distance: str) -> None:
    x, _ = pair(2300, 4, 1)
    first = median(x, distance)
    for threads, block_rows in ((1, 192), (2, 384), (3, 1000), (2, None)):
        assert median(x, distance, threads=threads, block_rows=block_rows) == first


# ---------------------------------------------------------------------------------------------- the jackknife


JACKKNIFED = {
    "feature-space": (LINEAR, 4),
    "linear-tiles": (LINEAR, 300),
    "cosine": (COSINE, 4),
    "polynomial": (polynomial(3, 1.0, 0.3), 4),
    "rbf": (rbf(sigma=1.0), 4),
    "l2": (l2(sigma=1.0), 4),
    "l1": (l1(sigma=2.0), 4),
    "combined": (
        Case(
            LINEAR.kernel * RBF(sigma=1.0) + 0.5 * Cosine(),
            lambda x: LINEAR.gram(x) * oracles.rbf_gram(x, sigma=1.0) + 0.5 * COSINE.gram(x),
        ),
        4,
    ),
}


@every_estimator
@pytest.mark.parametrize("n", [5, 6, 30, 200])
@pytest.mark.parametrize(("case", "d"), JACKKNIFED.values(), ids=JACKKNIFED.keys())
def test_standard_errors_by_deleting_every_input(case: Case, d: int, n: int, estimator: str) -> None:
    x, y = pair(n, d, 3)
    k, l = case.gram(x), case.gram(y)  # noqa: E741
    hsic = repsim.hsic(x, y, kernel=case.kernel, estimator=estimator, jackknife=True)
    expected = oracles.standard_error_by_deletion(k, l, oracles.HSIC[estimator])
    size = math.sqrt(oracles.HSIC[estimator](k, k) * oracles.HSIC[estimator](l, l))
    wide = case is not LINEAR or d > n
    tolerance = 1e-4 if wide else 1e-8
    assert hsic.standard_error == pytest.approx(expected, rel=tolerance, abs=tolerance * size)
    plain = repsim.hsic(x, y, kernel=case.kernel, estimator=estimator)
    assert (float(hsic), hsic.z, hsic.p) == (float(plain), plain.z, plain.p)
    assert plain.standard_error is None
    if n < 30:  # four inputs may leave next to nothing of a norm
        return
    cka = repsim.cka(x, y, kernel=case.kernel, estimator=estimator, jackknife=True)
    expected = oracles.standard_error_by_deletion(k, l, lambda a, b: oracles.cka_of_grams(a, b, estimator))
    assert cka.standard_error == pytest.approx(expected, rel=1e-3 if wide else 1e-7)
    low, high = cka.interval(0.9)
    assert (low + high) / 2 == pytest.approx(float(cka))
    assert (high - low) / 2 == pytest.approx(1.6448536269514722 * cka.standard_error)


@every_estimator
def test_standard_errors_of_biased_estimates_need_three_inputs(estimator: str) -> None:
    least = {"biased": 3, "debiased": 5}[estimator]
    for kernel in ("linear", RBF(sigma=1.0)):
        x, y = pair(least, 2, 2)
        assert repsim.hsic(x, y, kernel=kernel, estimator=estimator, jackknife=True).standard_error > 0
        for name in ("cka", "hsic"):
            with pytest.raises(
                ValueError,
                match=rf"^\[{name}\] expected x with at least {least} rows for the jackknife, got {least - 1}",
            ):
                getattr(repsim, name)(x[1:], y[1:], kernel=kernel, estimator=estimator, jackknife=True)


@every_estimator
@pytest.mark.parametrize("kernel", [Linear(), RBF(sigma=1.0)], ids=str)
def test_standard_errors_of_a_grid(kernel: Any, estimator: str) -> None:
    from repsim.measures.cka import cka_grid

    xs, ys = [pair(210, d, 2)[0] for d in (2, 5, 3)], [pair(210, 5, e)[1] for e in (3, 4)]
    grid = cka_grid(xs, ys, kernel=kernel, estimator=estimator, jackknife=True)
    for i, x in enumerate(xs):
        for j, y in enumerate(ys):
            one = repsim.cka(x, y, kernel=kernel, estimator=estimator, jackknife=True)
            assert grid.at(i, j, "cka").to_dict() == one.to_dict()
    assert cka_grid(xs, ys, kernel=kernel).standard_error is None


def test_progress_counts_both_traversals() -> None:
    x, y = pair(600, 3, 3)
    steps: list[tuple[int, int]] = []
    repsim.cka(x, y, kernel=RBF(sigma=1.0), jackknife=True, block_rows=192, progress=lambda *step: steps.append(step))
    assert steps == [(done, 20) for done in range(1, 21)]  # 10 blocks of the upper triangle, twice


# ---------------------------------------------------------------------------------------------- bits


@every_case
def test_the_same_bits_for_threads_blocks_and_maps(case: Case, tmp_path: Path) -> None:
    x, y = (side.astype(np.float32) for side in pair(601, 20, 5))

    def bits(*sides: np.ndarray, **how: Any) -> list[Any]:
        result = repsim.cka(*sides, kernel=case.kernel, jackknife=True, **how)
        return [float(result), result.z, result.p, result.standard_error]

    first = bits(x, y)
    for how in ({"threads": 1}, {"threads": 2}, {"threads": 3, "block_rows": 192}, {"block_rows": 384}):
        assert bits(x, y, **how) == first, how
    for name, side in (("x", x), ("y", y)):
        np.save(tmp_path / f"{name}.npy", side)
    assert bits(*(np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in "xy")) == first


ANSWERS = """
import json, sys
sys.path.insert(0, sys.argv[1])
import repsim, test_kernels as t
x, y = t.pair(300, 9, 5)
print(json.dumps([[float(r), r.standard_error] for r in
    (repsim.cka(x, y, kernel=case.kernel, jackknife=True) for case in t.CASES.values())]))
"""


@pytest.mark.parametrize("name", ["generic", "avx2", "avx512"])
def test_instruction_sets_agree(name: str) -> None:
    import json

    package = Path(repsim.__file__).parents[1]
    environment = {**os.environ, "REPSIM_ISA": name, "PYTHONPATH": str(package)}
    command = [sys.executable, "-c", ANSWERS, str(Path(__file__).parent)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if "as this CPU has it" in run.stderr:
        pytest.skip(f"this CPU has no {name}")
    assert run.returncode == 0, run.stderr
    x, y = pair(300, 9, 5)
    for case, found in zip(CASES.values(), json.loads(run.stdout), strict=True):
        here = repsim.cka(x, y, kernel=case.kernel, jackknife=True)
        np.testing.assert_allclose(found, [float(here), here.standard_error], atol=2e-6, err_msg=str(case.kernel))


# ---------------------------------------------------------------------------------------------- words


NAMESPACE = {
    "linear": Linear(),
    "cosine": Cosine(),
    "polynomial": Polynomial,
    "rbf": RBF,
    "laplacian_l1": LaplacianL1,
    "laplacian_l2": LaplacianL2,
}


@every_case
def test_the_name_of_a_kernel_says_all_of_it(case: Case) -> None:
    x, y = pair(50, 4, 3)
    again = eval(str(case.kernel), NAMESPACE)
    assert str(again) == str(case.kernel)
    assert float(repsim.cka(x, y, kernel=again)) == pytest.approx(float(repsim.cka(x, y, kernel=case.kernel)), abs=1e-6)
    result = repsim.cka(x, y, kernel=case.kernel)
    assert result.kernel == result.options["kernel"] == str(case.kernel)
    assert repsim.hsic(x, y, kernel=case.kernel).kernel == str(case.kernel)


@pytest.mark.parametrize(
    ("kernel", "name"),
    [
        (RBF(sigma=3.0), "rbf(sigma=3)"),
        (RBF(sigma=1.2345678901234), "rbf(sigma=1.2345678901234)"),
        (RBF(sigma=np.float32(0.5)), "rbf(sigma=0.5)"),
        (RBF(sigma=2), "rbf(sigma=2)"),
        (LaplacianL1(median_fraction=0.1, sample=500), "laplacian_l1(median_fraction=0.1, sample=500)"),
        (Polynomial(degree=2, constant=0.25, scale=1e-9), "polynomial(degree=2, constant=0.25, scale=1e-09)"),
        (1 / 3 * Linear(), "0.3333333333333333 * linear"),
        (2 * (Linear() + Cosine()) * Linear(), "2 * (linear + cosine) * linear"),
        (Linear() * (2 * (Linear() + Cosine())), "linear * 2 * (linear + cosine)"),
        (Linear() + 2 * Linear() * Cosine() + Cosine(), "linear + 2 * linear * cosine + cosine"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_names(kernel: Any, name: str) -> None:
    assert str(kernel) == name
    x = np.random.default_rng(0).standard_normal((9, 3))
    if "median" not in name:
        np.testing.assert_allclose(eval(name, NAMESPACE).gram(x), kernel.gram(x), rtol=1e-12)


@every_case
def test_kernels_are_values(case: Case) -> None:
    again = pickle.loads(pickle.dumps(case.kernel))
    assert again == case.kernel
    assert hash(again) == hash(case.kernel)
    assert {case.kernel: 1}[again] == 1
    assert all(case.kernel != other.kernel for other in CASES.values() if other is not case)


def test_kernels_that_look_alike_are_not_equal() -> None:
    assert RBF(sigma=1.0) != LaplacianL2(sigma=1.0)
    assert Linear() + Cosine() != Linear() * Cosine()
    assert RBF(sigma=1.0) == RBF(sigma=1)
    with pytest.raises(AttributeError):
        RBF(sigma=1.0).sigma = 2.0  # type: ignore[misc]


# ---------------------------------------------------------------------------------------------- refusals


BANDWIDTHS = pytest.mark.parametrize("kind", [RBF, LaplacianL1, LaplacianL2])


@BANDWIDTHS
@pytest.mark.parametrize("name", ["sigma", "median_fraction"])
@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (0, ValueError, "as a positive number, got 0"),
        (-1.5, ValueError, r"as a positive number, got -1\.5"),
        (math.nan, ValueError, "as a positive number, got nan"),
        (math.inf, ValueError, "as a positive number, got inf"),
        ("1", TypeError, "as a number, got str"),
        (True, TypeError, "as a number, got bool"),
        ([1.0], TypeError, "as a number, got list"),
        (1j, TypeError, "as a number, got complex"),
    ],
)
def test_bandwidths_refuse(kind: Any, name: str, value: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=rf"^\[{kind.__name__}\] expected {name} {message}$"):
        kind(**{name: value})


@BANDWIDTHS
def test_bandwidths_take_exactly_one(kind: Any) -> None:
    one = rf"^\[{kind.__name__}\] expected exactly one of sigma and median_fraction, got "
    with pytest.raises(ValueError, match=one + "neither"):
        kind()
    with pytest.raises(ValueError, match=one + "both"):
        kind(sigma=1.0, median_fraction=1.0)
    with pytest.raises(ValueError, match=r"expected sample only with median_fraction, got sigma=1\.0"):
        kind(sigma=1.0, sample=10)
    with pytest.raises(ValueError, match="expected sample of at least 2, got 1"):
        kind(median_fraction=1.0, sample=1)
    for sample in (10.0, "all", True):
        with pytest.raises(TypeError, match="expected sample as an int, got"):
            kind(median_fraction=1.0, sample=sample)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"degree": 0}, ValueError, "degree of at least 1, got 0"),
        ({"degree": 17}, ValueError, "degree of at most 16, got 17"),
        ({"degree": 2.0}, TypeError, r"degree as an int, got 2\.0"),
        ({"degree": True}, TypeError, "degree as an int, got True"),
        ({"constant": -0.5}, ValueError, r"constant as a number of at least 0, got -0\.5"),
        ({"constant": math.nan}, ValueError, "constant as a number of at least 0, got nan"),
        ({"constant": "1"}, TypeError, "constant as a number, got str"),
        ({"scale": 0.0}, ValueError, r"scale as a positive number, got 0\.0"),
        ({"scale": -1.0}, ValueError, r"scale as a positive number, got -1\.0"),
        ({"scale": math.inf}, ValueError, "scale as a positive number, got inf"),
        ({"scale": None}, TypeError, "scale as a number, got NoneType"),
    ],
)
def test_polynomials_refuse(change: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error, match=rf"^\[Polynomial\] expected {message}$"):
        Polynomial(**change)


@pytest.mark.parametrize("weight", [0, -1, 0.0, -2.5, math.nan, math.inf, np.float64(-1)])
def test_weights_refuse(weight: Any) -> None:
    for combine in (lambda: weight * RBF(sigma=1.0), lambda: RBF(sigma=1.0) * weight):
        with pytest.raises(ValueError, match=r"^\[Scaled\] expected weight as a positive number, got"):
            combine()


@pytest.mark.parametrize("other", ["x", None, [1], True, 1j], ids=repr)
def test_kernels_combine_with_kernels_and_numbers_only(other: Any) -> None:
    kernel = RBF(sigma=1.0)
    for combine in (lambda: kernel * other, lambda: other * kernel, lambda: kernel + other, lambda: other + kernel):
        with pytest.raises(TypeError, match=r"unsupported operand|can only concatenate|can't multiply|must be str"):
            combine()
    for combine in (lambda: kernel + 1, lambda: 1.0 + kernel, lambda: kernel - kernel, lambda: -kernel):
        with pytest.raises(TypeError, match=r"unsupported operand|bad operand"):
            combine()


def test_numbers_of_numpy_scale_kernels() -> None:
    for number in (np.float64(2), np.float32(2), np.int64(2)):
        for kernel in (number * Linear(), Linear() * number):
            assert isinstance(kernel, repsim.Kernel)
            assert str(kernel) == "2 * linear"


@pytest.mark.parametrize("kernel", [RBF, 3, None, "gauss", np.eye(3), "RBF", ["rbf"]], ids=repr)
def test_what_is_no_kernel_is_refused(kernel: Any) -> None:
    x, y = pair(20, 3, 3)
    for name in ("cka", "hsic", "angular_cka"):
        with pytest.raises(ValueError, match=rf"^\[{name}\] expected kernel as one of 'linear', 'cosine'"):
            getattr(repsim, name)(x, y, kernel=kernel)


@every_estimator
@pytest.mark.parametrize("kernel", [Cosine(), Cosine() + RBF(sigma=1.0), RBF(sigma=1.0) * Cosine()], ids=str)
def test_cosines_of_zero_rows_and_of_one_direction_are_refused(kernel: Any, estimator: str) -> None:
    x, y = pair(40, 3, 3)
    zero = x.copy()
    zero[[23, 31]] = 0
    for a, b, name in ((zero, y, "x"), (y, zero, "y")):
        message = rf"^\[cka\] expected {name} with non-zero rows for the cosine kernel, got zero norm in row 23$"
        with pytest.raises(ValueError, match=message):
            repsim.cka(a, b, kernel=kernel, estimator=estimator)
    one_way = np.linspace(0.1, 9, 40)[:, None] * np.random.default_rng(0).standard_normal(3)
    with pytest.raises(
        ValueError, match=r"^\[cka\] expected x whose directions differ, got zero variance \(all 40 rows"
    ):
        repsim.cka(one_way, y, kernel=kernel, estimator=estimator)


@every_case
def test_rows_that_are_no_numbers_are_named(case: Case) -> None:
    x, y = pair(40, 3, 3)
    x[13, 1] = math.nan
    with pytest.raises(ValueError, match=r"^\[cka\] expected x with finite values, got NaN or infinity in row 13$"):
        repsim.cka(x, y, kernel=case.kernel)
