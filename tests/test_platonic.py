"""The preprocessing of the Platonic representation hypothesis, against its definition by sorting."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import repsim


def rows(n: int = 40, d: int = 7) -> np.ndarray:
    return np.random.default_rng([n, d]).standard_t(2, size=(n, d))


@pytest.mark.parametrize("quantile", [0.5, 0.95, 0.999])
def test_is_clamped_at_the_order_statistic_and_of_length_one(quantile: float) -> None:
    x = rows()
    bound = torch.from_numpy(x).reshape(-1).abs().sort().values[int(quantile * x.size)]
    expected = torch.nn.functional.normalize(torch.from_numpy(x).clamp(-bound, bound), dim=1)
    before = x.copy()
    np.testing.assert_allclose(repsim.platonic_rows(x, quantile=quantile), expected.numpy(), rtol=1e-14)
    np.testing.assert_array_equal(x, before)


def test_a_quantile_of_one_only_scales() -> None:
    x = rows()
    np.testing.assert_allclose(repsim.platonic_rows(x, quantile=1), x / np.linalg.norm(x, axis=1, keepdims=True))


def test_one_huge_feature_no_longer_decides_who_is_near() -> None:
    x = np.random.default_rng(0).standard_normal((200, 40))
    huge = x.copy()
    huge[:, 3] = 1e4 * np.sign(x[:, 3])
    assert repsim.mutual_knn(x, huge) < 0.5 < repsim.mutual_knn(repsim.platonic_rows(x), repsim.platonic_rows(huge))


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        pytest.param(rows(), {"quantile": 1.5}, "quantile above 0 and at most 1, got 1.5", id="above-1"),
        pytest.param(rows(), {"quantile": 0.0}, "quantile", id="zero"),
        pytest.param(np.zeros((3, 2)), {}, "rows that are not zero, got row 0", id="zero-row"),
        pytest.param(np.array([[1.0, 2], [np.nan, 1]]), {}, "finite values, got NaN or infinity in row 1", id="nan"),
    ],
)
def test_bad_requests(x: np.ndarray, options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=rf"\[platonic_rows\] expected .*{message}"):
        repsim.platonic_rows(x, **options)
