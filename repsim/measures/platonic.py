"""What the authors of the Platonic representation hypothesis do to features before they compare them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arguments import positive_number
from ..arrays import as_rows
from ..reductions import finite_block


def platonic_rows(x: Any, *, quantile: float = 0.95) -> np.ndarray:
    """Clamp at a quantile of the absolute values of the whole array, then scale every row to length 1.

    Example::

        repsim.mutual_knn(repsim.platonic_rows(x), repsim.platonic_rows(y), metric="inner_product")

    Parameters
    ----------
    x: [n, d] array as for :func:`repsim.cka`.
    quantile: above 0 and at most 1, which leaves the values as they are. With m values sorted by size, the bound is
        that number floor(quantile m), counted from 0. (The authors' quicker variant, the mean over rows of each row's
        own quantile, gives another bound.)

    Returns
    -------
    [n, d] float64, a new array. No measure does this unless it is given these rows: clamping takes away the few huge
    features that dominate cosines, and with them whatever they say.

    Raises
    ------
    TypeError, ValueError: as for :func:`repsim.cka`; a quantile out of range; a row that is zero after clamping.

    Paper: Huh, Cheung, Wang and Isola (2024), "The Platonic representation hypothesis".
    """
    rows = as_rows(x, function="platonic_rows", name="x")
    if positive_number(quantile, "quantile", function="platonic_rows") > 1:
        raise ValueError(f"[platonic_rows] expected quantile above 0 and at most 1, got {quantile}")
    values = finite_block(rows, slice(None), function="platonic_rows")
    if quantile < 1:
        at = int(quantile * values.size)
        bound = np.partition(np.abs(values).ravel(), at)[at]
        np.clip(values, -bound, bound, out=values)
    lengths = np.sqrt((values * values).sum(axis=1, keepdims=True))
    if not lengths.min() > 0:
        raise ValueError(f"[platonic_rows] expected rows that are not zero, got row {int(lengths.argmin())}")
    values /= lengths
    return values
