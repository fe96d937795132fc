"""A kernel of one representation, made ready for the native tiles: packed rows, scaled terms, and its diagonal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays import DeviceRows, Rows
from ..kernels import Bandwidth, Cosine, Kernel, LaplacianL1, LaplacianL2, Leaf, Polynomial
from . import device
from .centre import Centre, Packer, a_few, power_of_two_below, robust_centre, squared_norms

_EPS64 = float(np.finfo(np.float64).eps)
_NATIVE = {LaplacianL1: "laplacian_l1", LaplacianL2: "laplacian_l2"}


@dataclass(frozen=True)
class Factor:
    """A leaf in the words of the native core. ``bias`` [n] float32, where the rows are, is what a polynomial adds."""

    packing: int
    kernel: str
    gain: float
    coefficients: tuple[float, ...] = ()
    bias: Any = None


@dataclass(frozen=True)
class Term:
    factors: tuple[Factor, ...]
    shift: float
    weight: float


@dataclass(frozen=True)
class KernelBlocks:
    """K / scale - shift of one representation, entries off the diagonal within [-1, 1], as tiles take it.

    What every row adds to all its entries is left out where centring takes it away in any case, so that what remains
    keeps its digits. ``diagonal`` [n] is that of the same matrix, without the shift too; ``error`` [n] is such that
    entry (i, j) errs by about the float32 rounding of sqrt(error_i error_j).
    """

    packers: tuple[Packer, ...]
    terms: tuple[Term, ...]
    diagonal: np.ndarray
    error: np.ndarray
    scale: float

    @property
    def depths(self) -> list[int]:
        return [packer.rows.depth for packer in self.packers]

    def begin(self, first: int, count: int) -> None:
        """Let rows [first, first + count) that are to be brought to a GPU be on their way."""
        rows = self.packers[0].rows
        if isinstance(rows, DeviceRows):
            rows.prefetch(first, first + count)

    def block(self, first: int, count: int) -> list[tuple[Any, Any]]:
        """The packed rows [first, first + count) of every packing."""
        return [packer.block(first, count) for packer in self.packers]

    def matrix(self, i: Sequence[tuple], first_i: int, j: Sequence[tuple], first_j: int) -> list[tuple]:
        """The terms between two blocks, as the native operations take them."""
        return [
            ([self._factor(factor, i, first_i, j, first_j) for factor in term.factors], term.shift, term.weight)
            for term in self.terms
        ]

    @staticmethod
    def _factor(factor: Factor, i: Sequence[tuple], first_i: int, j: Sequence[tuple], first_j: int) -> tuple:
        sides = []
        for blocks, first in ((i, first_i), (j, first_j)):
            panels, halves = blocks[factor.packing]
            if factor.bias is not None:
                halves = factor.bias[first : first + len(halves)]
            sides.append((panels, halves))
        return (*sides, factor.kernel, factor.gain, list(factor.coefficients))


def prepare(rows: Rows, kernel: Kernel, *, function: str, threads: int, words: str = "float32") -> KernelBlocks:
    """Pack the rows for every leaf of the kernel, whose bandwidths are numbers; ``words``: on a GPU, as what.

    Raises
    ------
    ValueError: rows that are not finite, all equal, or of values beyond the range of float64 squares; zero rows under
        the cosine; a kernel whose values float64 cannot hold.
    """
    return _Preparation(rows, kernel, function, threads, words).blocks()


class _Preparation:
    """The packings that the leaves share, each made when the first leaf asks for it."""

    def __init__(self, rows: Rows, kernel: Kernel, function: str, threads: int, words: str) -> None:
        self.rows, self.kernel, self.function, self.threads, self.words = rows, kernel, function, threads, words
        self.centre = robust_centre(rows, function=function, threads=threads)
        self.packers: list[Packer] = []
        self.found: dict[str, _Products] = {}
        sigmas = [leaf.width for _, leaves in kernel.terms() for leaf in leaves if isinstance(leaf, Bandwidth)]
        if sigmas:
            self._not_too_far(1 / min(sigmas), "bandwidths")
        self.inverse_sigma = power_of_two_below(1 / min(sigmas)) if sigmas else 1.0
        self.distances: int | None = None

    def blocks(self) -> KernelBlocks:
        n = len(self.rows)
        sample = a_few(self.rows)
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused below
            parts = [(weight, *self._term(leaves, sample)) for weight, leaves in self.kernel.terms()]
            # Entries of a single factor lie within 1 of its shift by themselves, those of a product within 1 + |shift|.
            reach = [1.0 if len(factors) == 1 else 1.0 + abs(shift) for _, _, factors, shift, *_ in parts]
            scale = self._finite(sum(part[0] * part[1] * far for part, far in zip(parts, reach, strict=True)))
            diagonal, error, terms = np.zeros(n), np.zeros(n), []
            for weight, bound, factors, shift, own_diagonal, own_error in parts:
                share = weight * bound / scale if len(parts) > 1 or len(factors) > 1 else 1.0
                terms.append(Term(factors, shift, share))
                diagonal += share * (own_diagonal - shift)
                error += share * own_error
            self._finite(scale * (1.0 + float(np.abs(diagonal).max() + error.max()) ** 2))
        if isinstance(self.rows, DeviceRows):
            own = [factor for term in terms for factor in term.factors]
            sizes = len(own), sum(len(factor.coefficients) for factor in own)
            device.check_size(*sizes, function=self.function)
        return KernelBlocks(tuple(self.packers), tuple(terms), diagonal, error, scale)

    def _term(
        self, leaves: Sequence[Leaf], sample: np.ndarray
    ) -> tuple[float, tuple[Factor, ...], float, np.ndarray, np.ndarray]:
        """A product of leaves: what it is divided by, and of the quotient the shift, the diagonal, and the error."""
        if len(leaves) == 1:
            (leaf,) = leaves
            if isinstance(leaf, Bandwidth):
                ones = np.ones(len(self.rows))
                return 1.0, (self._distance_factor(leaf),), _off_diagonal_mean(leaf.values(sample)), ones, ones
            bound, factor, diagonal, error = self._alone(leaf)
            return bound, (factor,), 0.0, diagonal, error
        bound, factors = 1.0, []
        diagonal, error = np.ones(len(self.rows)), np.ones(len(self.rows))
        for leaf in leaves:
            if isinstance(leaf, Bandwidth):
                factors.append(self._distance_factor(leaf))
                continue
            own_bound, factor, own_diagonal = self._whole(leaf)
            bound *= own_bound
            factors.append(factor)
            diagonal = diagonal * own_diagonal
            error = error * np.abs(own_diagonal)
        values = np.ones((len(sample), len(sample)))
        for leaf in leaves:
            values *= leaf.values(sample)
        return bound, tuple(factors), _off_diagonal_mean(values / bound), diagonal, error

    def _distance_factor(self, leaf: Bandwidth) -> Factor:
        if self.distances is None:
            self.distances = self._pack(self.centre.middle, self.inverse_sigma)
        inverse = 1 / (leaf.width * self.inverse_sigma)
        return Factor(self.distances, _NATIVE.get(type(leaf), "rbf"), inverse if type(leaf) in _NATIVE else inverse**2)

    def _not_too_far(self, unit: float, name: str) -> None:
        """Products of packed rows, times ``unit``, stay in the range of float32."""
        farthest = int(self.centre.squared_norms.argmax())
        far = math.sqrt(float(self.centre.squared_norms[farthest])) * unit
        if not far < 2.0**61:
            raise ValueError(
                f"[{self.function}] expected {self.rows.name} whose rows float32 can hold beside each other, "
                f"got row {farthest} at {far:.3g} {name} from the middle"
            )

    def _pack(self, middle: np.ndarray, unit: float) -> int:
        scale = np.broadcast_to(unit, len(self.rows))
        self.packers.append(Packer(self.rows, middle, scale, self.threads, words=self.words))
        return len(self.packers) - 1

    def _alone(self, leaf: Leaf) -> tuple[float, Factor, np.ndarray, np.ndarray]:
        """A leaf of products that stands for itself, up to what each row adds to all its entries."""
        products = self._products(leaf)
        unit = products.unit
        if not isinstance(leaf, Polynomial) or leaf.degree == 1:
            gain = leaf.scale if isinstance(leaf, Polynomial) else 1.0
            return gain / unit**2, Factor(products.packing, "linear", 1.0), products.squares, products.squares
        base, gain = products.base(leaf.scale, leaf.constant)
        largest = 1.0 + products.largest_bias
        whole = [
            math.comb(leaf.degree, m) * _power(base, leaf.degree - m) * _power(gain, m) for m in range(leaf.degree + 1)
        ]
        bound = self._finite(abs(whole[1]) + sum(abs(c) * _power(largest, m) for m, c in enumerate(whole) if m > 1))
        first, rest = whole[1] / bound, [0.0, 0.0, *(c / bound for c in whole[2:])]
        squares, twice = products.squares, 2.0 * products.bias
        diagonal = first * squares + sum(c * (squares + twice) ** m for m, c in enumerate(rest))
        error = abs(first) * squares + sum(m * abs(c) * (squares + abs(twice)) ** m for m, c in enumerate(rest))
        factor = Factor(products.packing, "polynomial", first, tuple(rest), self._bias(products))
        return bound, factor, diagonal, error

    def _whole(self, leaf: Leaf) -> tuple[float, Factor, np.ndarray]:
        """A leaf of products with all that it is, for a product with others; divided by its largest value."""
        products = self._products(leaf)
        degree, scale, constant = 1, 1.0, 0.0
        if isinstance(leaf, Polynomial):
            degree, scale, constant = leaf.degree, leaf.scale, leaf.constant
        base, gain = products.base(scale, constant)
        most = scale * products.most + constant
        bound = self._finite(_power(most, degree))
        coefficients = [
            math.comb(degree, m) * (base / most) ** (degree - m) * (gain / most) ** m for m in range(degree + 1)
        ]
        value = (base + gain * (products.squares + 2.0 * products.bias)) / most
        factor = Factor(products.packing, "polynomial", 0.0, tuple(coefficients), self._bias(products))
        return bound, factor, value**degree

    def _bias(self, products: _Products) -> Any:
        return device.placed(self.rows, products.bias.astype(np.float32))

    def _finite(self, bound: float) -> float:
        if not 1e-280 < bound < 1e280:
            raise ValueError(
                f"[{self.function}] expected {self.rows.name} whose kernel {self.kernel} float64 can hold, "
                f"got values of up to {bound:.3g}; scale the rows, or the kernel"
            )
        return bound

    def _products(self, leaf: Leaf) -> _Products:
        kind = "unit rows" if isinstance(leaf, Cosine) else "rows"
        if kind not in self.found:
            self.found[kind] = self._unit_rows() if kind == "unit rows" else self._rows()
        return self.found[kind]

    def _project(self, shift: np.ndarray | None, vector: np.ndarray) -> np.ndarray:
        products, project = np.empty(len(self.rows)), device.native(self.rows).project_rows
        for start, stop in self.rows.sweep():
            part = self.rows.values[start:stop]
            project(part, self.rows.dtype, shift, vector, products[start:stop], self.threads)
        return products

    def _rows(self) -> _Products:
        """x . x' = (x - m) . (x' - m) + b + b', with b = m . (x - m) + |m|^2 / 2."""
        c = self.centre
        bias = self._project(c.middle, c.middle) + 0.5 * float(c.middle @ c.middle)
        raw = squared_norms(self.rows, None, function=self.function, threads=self.threads)
        self._not_too_far(c.unit, "typical distances")
        return _Products.of(self._pack(c.middle, c.unit), c, bias, raw)

    def _unit_rows(self) -> _Products:
        """The same of the rows over their norms."""
        norms = np.sqrt(squared_norms(self.rows, None, function=self.function, threads=self.threads))
        if not norms.min() > 0:
            raise ValueError(
                f"[{self.function}] expected {self.rows.name} with non-zero rows for the cosine kernel, "
                f"got zero norm in row {int(norms.argmin())}"
            )
        sample = a_few(self.rows)
        middle = np.median(sample / np.sqrt((sample * sample).sum(axis=1, keepdims=True)), axis=0)
        length = float(middle @ middle)
        along = self._project(None, middle) / norms
        squares = self._squared_distances(norms, middle)
        if not squares.max() > (8 * _EPS64) ** 2:
            raise ValueError(
                f"[{self.function}] expected {self.rows.name} whose directions differ, got zero variance "
                f"(all {len(self.rows)} rows point one way)"
            )
        c = Centre(middle, squares)
        packer = Packer(self.rows, None, c.unit / norms, self.threads, middle * c.unit, self.words)
        self.packers.append(packer)
        return _Products.of(len(self.packers) - 1, c, along - 0.5 * length, np.ones(len(norms)))

    def _squared_distances(self, norms: np.ndarray, middle: np.ndarray) -> np.ndarray:
        """Of the unit rows to the middle, from the differences: directions may be nearly the same."""
        if isinstance(self.rows, DeviceRows):
            return device.squared_norms_of_packed(self.rows, 1 / norms, middle)
        squares = np.empty(len(norms))
        at_once = max(2**20 // self.rows.depth, 1)
        for start in range(0, len(norms), at_once):
            part = slice(start, start + at_once)
            apart = self.rows.wide(part) / norms[part, None] - middle
            squares[part] = np.einsum("ij,ij->i", apart, apart)
        return squares


@dataclass(frozen=True)
class _Products:
    """Packed rows whose products, with the biases of both, are those of the rows: all in units of ``unit`` squared.

    x . x' unit^2 = packed product + bias + bias' + level, where different rows have a packed product of at most 1.
    """

    packing: int
    unit: float
    squares: np.ndarray  # [n] squared norms of the packed rows
    bias: np.ndarray  # [n]
    level: float
    most: float  # of |x . x'| between different rows

    @classmethod
    def of(cls, packing: int, c: Centre, bias: np.ndarray, raw: np.ndarray) -> _Products:
        unit = c.unit
        bias = bias * unit**2
        middle = float(np.median(bias))
        second, first = np.partition(raw, -2)[-2:]
        most = math.sqrt(float(first)) * math.sqrt(float(second or first))
        return cls(packing, unit, c.squared_norms * unit**2, bias - middle, 2.0 * middle, most)

    @property
    def largest_bias(self) -> float:
        """Of the sum of two rows' biases."""
        return float(np.partition(np.abs(self.bias), -2)[-2:].sum())

    def base(self, scale: float, constant: float) -> tuple[float, float]:
        """a and g such that scale x . x' + constant = a + g (packed product + bias + bias')."""
        gain = scale / self.unit**2
        return constant + gain * self.level, gain


def _power(x: float, m: int) -> float:
    """x^m, infinite rather than an error where float64 cannot hold it."""
    try:
        return x**m
    except OverflowError:
        return math.inf


def _off_diagonal_mean(values: np.ndarray) -> float:
    """A shift near the mean of the kernel, in float32, that keeps the streamed sums small."""
    n = len(values)
    return float(np.float32((values.sum() - np.trace(values)) / (n * (n - 1)))) if n > 1 else 0.0
