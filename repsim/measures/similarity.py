"""The result of a measure: a number that knows how it was made and what chance would give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from ..arguments import positive_number
from ..calibration import Null, add_one_p

if TYPE_CHECKING:
    from typing_extensions import Self


class Result(float):
    """A value of a measure: see :class:`Similarity` and :class:`Distance`, one of which every result is."""

    measure: str
    n: int
    options: Mapping[str, Any]
    precision: str
    null: Null
    null_from: str
    p: float
    p_from: str
    standard_error: float | None

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
        standard_error: float | None = None,
    ) -> Self:
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
            standard_error=standard_error,
        )
        return self

    @classmethod
    def alone(cls, value: float, measure: str, n: int, options: Mapping[str, Any]) -> Self:
        """A value of which no level of chance and no standard error was asked for."""
        unknown = Null(np.nan, np.nan, np.nan)
        return cls(value, measure, n, options, "float64", unknown, "not asked for", np.nan, "not asked for")

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(
            f"[{type(self).__name__}] expected no assignment to a result, which is read-only, got {name} = {value!r}"
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

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The confidence interval over inputs: the value and its jackknife standard error, normally distributed.

        Raises
        ------
        ValueError: the standard error was not asked for, or ``level`` is not between 0 and 1.
        """
        if self.standard_error is None:
            raise ValueError(
                f"[{type(self).__name__}] expected a result with a standard error, got {self.measure} without; "
                "ask for it: jackknife=True for cka and hsic, a number of groups for the other measures"
            )
        half = self.standard_error * NormalDist().inv_cdf(0.5 + _share(level, "level", type(self).__name__) / 2)
        return self.value - half, self.value + half

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
        """Everything as one flat dict of plain values, ready for a row of a table; a standard error if there is one."""
        return {
            "measure": self.measure,
            "value": self.value,
            "null_mean": self.null.mean,
            "null_sd": self.null.sd,
            "null_skewness": self.null.skewness,
            "null_from": self.null_from,
            "z": self.z,
            "p": self.p,
            "p_from": self.p_from,
            **({} if self.standard_error is None else {"standard_error": self.standard_error}),
            "n": self.n,
            "precision": self.precision,
            **self.options,
        }

    def __repr__(self) -> str:
        details = ", ".join(
            [f"n={self.n}", *(f"{name}={value}" for name, value in self.options.items()), self.precision]
        )
        p = f"p {self.p:.2g}" if not self.p < 1e-15 else "p < 1e-15"
        return f"{self.measure} {self.value:.6g}  (z {self.z:.3g}, {p}; {details})"


class Similarity(Result):
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
    precision: the arithmetic of the pair work: "float64", or "float32" (tiles in float32, sums exact; of rsa by rank:
        dissimilarities rounded to float32, ranks and sums exact).
    null: the law of the value when the inputs of one side are relabelled at random: mean, sd and skewness. Exact over
        all relabellings for cka, hsic and mutual_knn (``null_from`` "all relabellings"; the skewness, which only p
        takes, from 255 inputs where there are more, and unknown for mutual_knn), sampled for the other measures of
        neighbours (``null_from`` "200 relabellings").
    z: how many of these sds the value lies above chance; NaN where chance does not vary.
    p: one-sided, for "no more alike than chance". ``p_from`` "pearson": from mean, sd and skewness by Pearson's third
        law. "normal": without the skewness, too small in the tail with few dimensions (about d < 10) or few neighbours
        (k <= 2); ask the neighbour measures for ``permutations`` there. "permutations": the add-one share of the
        relabellings drawn that reach the value, at least 1 / (1 + permutations).
    standard_error: by the jackknife over inputs, of cka and hsic where it was asked for; of a mean over inputs always,
        with its neighbour graphs taken as fixed; of cknna None.
    """

    def calibrated(self, alpha: float = 0.05) -> float:
        """How far the value lies between chance and 1: (value - t) / (1 - t), but 0 below t.

        t is the 1 - alpha quantile of chance.

        Raises
        ------
        ValueError: a measure without a largest value of 1, chance that does not vary, or ``alpha`` not between 0 and 1.
        """
        if self.measure == "hsic":
            raise ValueError("[Similarity] expected a measure whose largest value is 1, got hsic")
        if not self.null.sd > 0:
            raise ValueError("[Similarity] expected chance that varies, got an sd of zero or NaN")
        threshold = self.null.quantile(1 - _share(alpha, "alpha", "Similarity"))
        return max((self.value - threshold) / (1 - threshold), 0.0)


class Distance(Result):
    """How far two representations of n inputs are apart: a float that says how it was made and what chance would give.

    Example::

        result = repsim.procrustes(x, y, permutations=200)          # x [n, d], y [n, d']
        result < 1.0, result.z, result.p, result.calibrated()

    Attributes: as those of :class:`Similarity`. z is below 0, and p is small, for representations that are closer than
    chance. Both, and the null, are NaN where no relabellings were asked for.
    """

    def calibrated(self, alpha: float = 0.05) -> float:
        """How far the value lies between chance and 0: (t - value) / t, but 0 above t.

        t is the alpha quantile of chance.

        Raises
        ------
        ValueError: chance that does not vary or was not asked for, or ``alpha`` not between 0 and 1.
        """
        if not self.null.sd > 0:
            raise ValueError("[Distance] expected chance that varies, got an sd of zero or NaN; ask for permutations")
        threshold = self.null.quantile(_share(alpha, "alpha", "Distance"))
        return max((threshold - self.value) / threshold, 0.0)


RESULTS: dict[str, type[Similarity] | type[Distance]] = {"similarity": Similarity, "distance": Distance}


@dataclass(frozen=True, eq=False)
class Grid:
    """One measure between every layer of one model and every layer of another: all arrays are [L1, L2] float64.

    ``null_from`` and ``p_from`` are those of :class:`Similarity`, the same for every pair.
    """

    values: np.ndarray
    null_mean: np.ndarray
    null_sd: np.ndarray
    null_skewness: np.ndarray
    p: np.ndarray
    standard_error: np.ndarray | None
    n: int
    options: dict[str, Any]
    precision: str
    null_from: str
    p_from: str
    kind: str = "similarity"  # or "distance"
    draws: np.ndarray | None = None  # [permutations, L1, L2], where relabellings were drawn: the same for all pairs

    @property
    def z(self) -> np.ndarray:
        return (self.values - self.null_mean) / np.where(self.null_sd > 0, self.null_sd, np.nan)

    def at(self, i: int, j: int, measure: str) -> Any:
        """The pair (i, j) as a :class:`Similarity` or :class:`Distance` of its own."""
        numbers = (self.values, self.null_mean, self.null_sd, self.null_skewness, self.p, self.standard_error)
        value, mean, sd, skewness, p, *error = (float(array[i, j]) for array in numbers if array is not None)
        null = Null(mean, sd, skewness)
        return RESULTS[self.kind](
            value, measure, self.n, self.options, self.precision, null, self.null_from, p, self.p_from, *error
        )

    def best(self) -> tuple[int, int, float, str]:
        """The pair that is most alike, and p for "the best of all pairs by chance": (i, j, p, p_from).

        The best of many pairs is better than one pair by chance. Where relabellings were drawn, p is the add-one share
        of them whose own best reaches it ("permutations of the best"); otherwise p of the pair times the number of
        pairs, at most 1 ("pearson x 12 pairs": the bound of Bonferroni). NaN where the pair has none.
        """
        sign = 1.0 if self.kind == "similarity" else -1.0
        i, j = map(int, np.unravel_index(np.argmax(sign * self.values), self.values.shape))
        if self.draws is not None:
            best_by_chance = (sign * self.draws).max(axis=(1, 2))
            return i, j, add_one_p(sign * self.values[i, j], best_by_chance), "permutations of the best"
        p, pairs = float(self.p[i, j]), self.values.size
        if np.isnan(p):
            return i, j, p, self.p_from
        return i, j, min(p * pairs, 1.0), f"{self.p_from} x {pairs} pairs"


def grid_of(
    cells: Sequence[Sequence[tuple[float, Null, float | None]]],
    n: int,
    options: dict[str, Any],
    precision: str,
    *,
    null_from: str = "all relabellings",
    standard_errors: np.ndarray | None = None,
    draws: np.ndarray | None = None,
) -> Grid:
    """A grid from (value, null, p) of every pair; p None, in all of them, is taken from the null.

    ``standard_errors`` are [L1, L2], or None where they were not asked for; ``draws`` the values of relabellings
    [permutations, L1, L2], where p is from them.
    """
    shape = (len(cells), len(cells[0]))
    arrays = [np.empty(shape) for _ in range(5)]
    for i, row in enumerate(cells):
        for j, (value, null, p) in enumerate(row):
            entry = (value, null.mean, null.sd, null.skewness, null.p(value) if p is None else p)
            for array, number in zip(arrays, entry, strict=True):
                array[i, j] = number
    values, mean, sd, skewness, ps = arrays
    p_from = "permutations" if cells[0][0][2] is not None else "pearson" if skewness.any() else "normal"
    kind = "similarity"
    return Grid(values, mean, sd, skewness, ps, standard_errors, n, options, precision, null_from, p_from, kind, draws)


def _share(value: Any, name: str, function: str) -> float:
    if not 0 < positive_number(value, name, function=function) < 1:
        raise ValueError(f"[{function}] expected {name} between 0 and 1, got {value!r}")
    return float(value)
