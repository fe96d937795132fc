"""Which directions of a representation count: one rule, and what it leaves of nearly dependent columns."""

from __future__ import annotations

import numpy as np
import pytest

from repsim.reductions import RELIABLE, principal_axes, rounding
from repsim.reductions.axes import INVERTIBLE


def with_lengths(lengths: list[float], n: int = 60) -> np.ndarray:
    """Columns [n, d] with these singular values."""
    random = np.random.default_rng(len(lengths))
    left = np.linalg.qr(random.standard_normal((n, len(lengths))))[0]
    return left * lengths @ np.linalg.qr(random.standard_normal((len(lengths), len(lengths))))[0]


@pytest.mark.parametrize("standardised", [False, True])
def test_whitened_columns_are_orthonormal_and_span_the_same(standardised: bool) -> None:
    x = with_lengths([5, 3, 1, 0.5]) * [1, 10, 1, 0.1]
    axes = principal_axes(x.T @ x, RELIABLE, standardised=standardised)
    basis = x @ axes.whitening
    np.testing.assert_allclose(basis.T @ basis, np.eye(4), atol=1e-10)
    np.testing.assert_allclose(basis @ (basis.T @ x), x, atol=1e-9)
    scaled = x / np.linalg.norm(x, axis=0) if standardised else x
    np.testing.assert_allclose(axes.lengths, np.linalg.svd(scaled, compute_uv=False), rtol=1e-9)


@pytest.mark.parametrize(
    ("least", "shortest", "kept"),
    [
        pytest.param(RELIABLE, 1.1e-5, 3, id="reliable"),
        pytest.param(RELIABLE, 0.9e-5, 2, id="not-reliable"),
        pytest.param(INVERTIBLE, 1.1e-6, 3, id="invertible"),
        pytest.param(INVERTIBLE, 0.9e-6, 2, id="not-invertible"),
        pytest.param(rounding(60, 3), 5e-7, 3, id="more-than-rounding"),
        pytest.param(rounding(60, 3), 1e-8, 2, id="rounding"),
    ],
)
def test_what_counts(least: float, shortest: float, kept: int) -> None:
    x = with_lengths([1, 0.5, shortest])
    assert principal_axes(x.T @ x, least).vectors.shape == (3, kept)


def test_units_decide_unless_columns_are_standardised() -> None:
    x = with_lengths([1, 0.8, 0.5]) * [1, 1, 1e-9]
    assert len(principal_axes(x.T @ x, RELIABLE).lengths) == 2
    assert len(principal_axes(x.T @ x, RELIABLE, standardised=True).lengths) == 3


def test_columns_of_zeros_have_no_direction() -> None:
    x = with_lengths([1, 0.8, 0.5]) * [1, 0, 1]
    axes = principal_axes(x.T @ x, RELIABLE, standardised=True)
    assert len(axes.lengths) == 2
    assert not axes.whitening[1].any()
