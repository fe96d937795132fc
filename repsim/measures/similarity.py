"""The result of a measure: a number that knows how it was made and what chance would give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np

from ..calibration import Null, normal_p


class Similarity(float):
    """How alike two representations of n inputs are: a float that says how it was made and what chance would give.

    Example::

        result = repsim.cka(x, y)                       # x [n, d], y [n, d']
        f"{result:.3f}", result > 0.5, result.z, result.p
        pandas.DataFrame([result.to_dict()])

    Attributes
    ----------
    value: the measure as a plain float.
    measure, n: its name, and the number of inputs.
    options: the measure's own (estimator and kernel, or metric and k), read-only; ``estimator`` and ``kernel`` are at
        hand too.
    precision: the arithmetic of the pair work: "float64", or "float32" (tiles in float32, sums exact).
    null: mean and sd of the value when the inputs of one side are relabelled at random. Exact over all relabellings for
        cka, hsic and mutual_knn (``null_from`` "all relabellings"), sampled for cknna (``null_from`` "200
        relabellings").
    z: how many of these sds the value lies above chance; NaN where chance does not vary.
    p: one-sided, for "no more alike than chance". ``p_from`` "normal": from z. The mean and sd are right, but the tail
        of the relabellings is longer than that of the normal distribution, so that small values of p are too small with
        few dimensions (about d < 10) or few neighbours (k <= 2); ask the neighbour measures for ``permutations`` there.
        ``p_from`` "permutations": the add-one share of the relabellings drawn that reach the value, at least 1 / (1 +
        permutations).
    """

    measure: str
    n: int
    options: Mapping[str, Any]
    precision: str
    null: Null
    null_from: str
    p: float
    p_from: str

    def __new__(
        cls,
        value: float,
        measure: str,
        n: int,
        options: Mapping[str, Any],
        precision: str,
        null: Null,
        null_from: str,
        p: float,
        p_from: str,
    ) -> Similarity:
        self = super().__new__(cls, value)
        self.__dict__.update(
            measure=measure,
            n=n,
            options=MappingProxyType(dict(options)),
            precision=precision,
            null=null,
            null_from=null_from,
            p=p,
            p_from=p_from,
        )
        return self

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(
            f"[Similarity] expected no assignment to a result, which is read-only, got {name} = {value!r}"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        details = {**self.__dict__, "options": dict(self.options)}
        return type(self), (self.value, *details.values())

    @property
    def value(self) -> float:
        return float(self)

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

    def to_dict(self) -> dict[str, Any]:
        """Everything as one flat dict of plain values, ready for a row of a table."""
        return {
            "measure": self.measure,
            "value": self.value,
            "null_mean": self.null.mean,
            "null_sd": self.null.sd,
            "null_from": self.null_from,
            "z": self.z,
            "p": self.p,
            "p_from": self.p_from,
            "n": self.n,
            "precision": self.precision,
            **self.options,
        }

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value}" for name, value in self.options.items())
        p = f"p {self.p:.2g}" if not self.p < 1e-15 else "p < 1e-15"
        return f"{self.measure} {self.value:.6g}  (z {self.z:.3g}, {p}; n={self.n}, {options}, {self.precision})"


@dataclass(frozen=True, eq=False)
class Grid:
    """One measure between every layer of one model and every layer of another: all arrays are [L1, L2] float64.

    ``null_from`` and ``p_from`` are those of :class:`Similarity`, the same for every pair.
    """

    values: np.ndarray
    null_mean: np.ndarray
    null_sd: np.ndarray
    p: np.ndarray
    n: int
    options: dict[str, Any]
    precision: str
    null_from: str
    p_from: str

    @property
    def z(self) -> np.ndarray:
        return (self.values - self.null_mean) / np.where(self.null_sd > 0, self.null_sd, np.nan)

    def at(self, i: int, j: int, measure: str) -> Similarity:
        """The pair (i, j) as a result of its own."""
        value, mean, sd, p = (float(array[i, j]) for array in (self.values, self.null_mean, self.null_sd, self.p))
        return Similarity(
            value, measure, self.n, self.options, self.precision, Null(mean, sd), self.null_from, p, self.p_from
        )


def grid_of(
    cells: Sequence[Sequence[tuple[float, Null, float | None]]],
    n: int,
    options: dict[str, Any],
    precision: str,
    *,
    null_from: str = "all relabellings",
) -> Grid:
    """A grid from (value, null, p) of every pair; p None, in all of them, is taken from the null and the normal law."""
    shape = (len(cells), len(cells[0]))
    arrays = [np.empty(shape) for _ in range(4)]
    for i, row in enumerate(cells):
        for j, (value, null, p) in enumerate(row):
            entry = (value, null.mean, null.sd, normal_p(null.z(value)) if p is None else p)
            for array, number in zip(arrays, entry, strict=True):
                array[i, j] = number
    p_from = "normal" if cells[0][0][2] is None else "permutations"
    values, mean, sd, ps = arrays
    return Grid(values, mean, sd, ps, n, options, precision, null_from, p_from)
