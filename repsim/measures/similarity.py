"""The result of a measure: a number that knows how it was made and what chance would give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..calibration import Null, normal_p


@dataclass(frozen=True)
class Similarity:
    """How alike two representations of the same n inputs are.

    Example::

        result = repsim.cka(x, y)
        float(result), result.z, result.p

    ``value`` is the measure; ``null`` its exact mean and sd over all relabellings of the inputs of one side; ``z`` its distance from
    that chance level in sds; ``p`` one-sided, for "no more alike than chance". ``options`` are the measure's own (estimator, kernel,
    metric, k). ``precision`` is the arithmetic of the pair work: "float64", or "float32" (tiles in float32, sums exact).
    """

    value: float
    measure: str
    n: int
    options: dict[str, Any]
    precision: str
    null: Null
    p: float

    def __float__(self) -> float:
        return self.value

    @property
    def z(self) -> float:
        return self.null.z(self.value)

    @property
    def estimator(self) -> str:
        """The estimator, of measures that have one."""
        return str(self._option("estimator"))

    @property
    def kernel(self) -> str:
        """The kernel, of measures that have one."""
        return str(self._option("kernel"))

    def _option(self, name: str) -> Any:
        if name not in self.options:
            raise AttributeError(f"{self.measure} has no {name}; it has {', '.join(self.options)}")
        return self.options[name]

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value}" for name, value in self.options.items())
        return f"{self.measure} {self.value:.6g}  (z {self.z:.3g}, p {self.p:.2g}; n={self.n}, {options}, {self.precision})"


@dataclass(frozen=True)
class Grid:
    """One measure between every layer of one model and every layer of another: all arrays are [L1, L2] float64."""

    values: np.ndarray
    null_mean: np.ndarray
    null_sd: np.ndarray
    p: np.ndarray
    n: int
    options: dict[str, Any]
    precision: str

    @property
    def z(self) -> np.ndarray:
        return (self.values - self.null_mean) / np.where(self.null_sd > 0, self.null_sd, np.nan)

    def at(self, i: int, j: int, measure: str) -> Similarity:
        """The pair (i, j) as a result of its own."""
        null = Null(float(self.null_mean[i, j]), float(self.null_sd[i, j]))
        return Similarity(float(self.values[i, j]), measure, self.n, self.options, self.precision, null, float(self.p[i, j]))


def grid_of(
    cells: Sequence[Sequence[tuple[float, Null, float | None]]], n: int, options: dict[str, Any], precision: str
) -> Grid:
    """A grid from (value, null, p) of every pair; p None stands for the normal approximation from the null."""
    shape = (len(cells), len(cells[0]))
    arrays = [np.empty(shape) for _ in range(4)]
    for i, row in enumerate(cells):
        for j, (value, null, p) in enumerate(row):
            entry = (value, null.mean, null.sd, normal_p(null.z(value)) if p is None else p)
            for array, number in zip(arrays, entry, strict=True):
                array[i, j] = number
    return Grid(*arrays, n=n, options=options, precision=precision)
