"""Kernels on inputs: what CKA and HSIC are taken of. Sums, products and multiples of kernels are kernels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .arguments import positive_number, whole_number

# The leaf kernels that make up one term of a sum, each kernel a sum of weighted products.
Term = tuple[float, tuple["Leaf", ...]]


class Kernel:
    """A positive definite function of two inputs. ``+`` and ``*`` combine kernels; numbers scale them.

    Example::

        kernel = repsim.RBF(sigma=1.0) + 0.5 * repsim.Linear() * repsim.RBF(median_fraction=1.0)
        repsim.cka(x, y, kernel=kernel)
        kernel.gram(x)                                  # [n, n] float64, where all bandwidths are numbers
    """

    def terms(self) -> tuple[Term, ...]:
        """The kernel as a sum of weighted products of leaves."""
        raise NotImplementedError

    def gram(self, x: np.ndarray) -> np.ndarray:
        """The kernel matrix [n, n] float64 of the rows of x [n, d] float64: n^2 memory, for samples and for checks.

        Raises
        ------
        ValueError: a bandwidth is still a fraction of a distance.
        """
        total = np.zeros((len(x), len(x)))
        for weight, leaves in self.terms():
            product = np.full_like(total, weight)
            for leaf in leaves:
                product *= leaf.values(x)
            total += product
        return total

    def resolve(self, typical: Callable[[Bandwidth], float]) -> Kernel:
        """The kernel with every bandwidth a number; ``typical`` gives the distance that a leaf's fraction is of."""
        raise NotImplementedError

    def __add__(self, other: Any) -> Kernel:
        return Sum(self, other) if isinstance(other, Kernel) else NotImplemented

    def __mul__(self, other: Any) -> Kernel:
        if isinstance(other, Kernel):
            return Product(self, other)
        return Scaled(other, self) if _is_number(other) else NotImplemented

    def __rmul__(self, other: Any) -> Kernel:
        return Scaled(other, self) if _is_number(other) else NotImplemented


def _is_number(x: Any) -> bool:
    return isinstance(x, (int, float, np.integer, np.floating)) and not isinstance(x, bool)


def _digits(x: float | None) -> str:
    """A number with as many digits as tell it from every other."""
    return repr(float(x or 0)).removesuffix(".0")


class Leaf(Kernel):
    """A kernel that is no combination of others."""

    def terms(self) -> tuple[Term, ...]:
        return ((1.0, (self,)),)

    def values(self, x: np.ndarray) -> np.ndarray:
        """[n, n] float64 of the rows of x [n, d] float64."""
        raise NotImplementedError

    def resolve(self, typical: Callable[[Bandwidth], float]) -> Kernel:
        return self


@dataclass(frozen=True)
class Linear(Leaf):
    """k(x, x') = x . x'."""

    def values(self, x: np.ndarray) -> np.ndarray:
        return x @ x.T

    def __str__(self) -> str:
        return "linear"


@dataclass(frozen=True)
class Cosine(Leaf):
    """k(x, x') = x . x' / (|x| |x'|); rows of zeros are refused."""

    def values(self, x: np.ndarray) -> np.ndarray:
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        return unit @ unit.T

    def __str__(self) -> str:
        return "cosine"


@dataclass(frozen=True)
class Polynomial(Leaf):
    """k(x, x') = (scale x . x' + constant)^degree, which neither a shift nor a scaling of the features leaves as it is.

    ``degree`` 1 to 16, ``constant`` at least 0, ``scale`` above 0, in units of one over the features squared.
    """

    degree: int = 3
    constant: float = 1.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        if whole_number(self.degree, "degree", function="Polynomial") > MOST_DEGREE:
            raise ValueError(f"[Polynomial] expected degree of at most {MOST_DEGREE}, got {self.degree}")
        positive_number(self.constant, "constant", function="Polynomial", or_zero=True)
        positive_number(self.scale, "scale", function="Polynomial")

    def values(self, x: np.ndarray) -> np.ndarray:
        return (self.scale * (x @ x.T) + self.constant) ** self.degree

    def __str__(self) -> str:
        scale = "" if self.scale == 1 else f", scale={_digits(self.scale)}"
        return f"polynomial(degree={self.degree}, constant={_digits(self.constant)}{scale})"


MOST_DEGREE = 16


@dataclass(frozen=True)
class Bandwidth(Leaf):
    """A kernel of the distance in units of sigma; :class:`RBF` says what its fields are."""

    sigma: float | None = None
    median_fraction: float | None = None
    sample: int | None = None

    name = "bandwidth"
    distance = "euclidean"

    def __post_init__(self) -> None:
        function = type(self).__name__
        if (self.sigma is None) == (self.median_fraction is None):
            got = "neither" if self.sigma is None else "both"
            raise ValueError(f"[{function}] expected exactly one of sigma and median_fraction, got {got}")
        for name in ("sigma", "median_fraction"):
            if getattr(self, name) is not None:
                positive_number(getattr(self, name), name, function=function)
        if self.sample is not None:
            whole_number(self.sample, "sample", function=function, least=2)
            if self.sigma is not None:
                raise ValueError(f"[{function}] expected sample only with median_fraction, got sigma={self.sigma!r}")

    @property
    def width(self) -> float:
        """sigma as a number.

        Raises
        ------
        ValueError: it is a fraction of a distance that is not known here.
        """
        if self.sigma is None:
            raise ValueError(f"[{type(self).__name__}] expected sigma as a number here, got {self}")
        return float(self.sigma)

    def resolve(self, typical: Callable[[Bandwidth], float]) -> Kernel:
        if self.median_fraction is None:
            return self
        return replace(self, sigma=float(self.median_fraction) * typical(self), median_fraction=None, sample=None)

    def __str__(self) -> str:
        if self.sigma is not None:
            return f"{self.name}(sigma={_digits(self.sigma)})"
        sample = "" if self.sample is None else f", sample={self.sample}"
        return f"{self.name}(median_fraction={_digits(self.median_fraction)}{sample})"


@dataclass(frozen=True)
class RBF(Bandwidth):
    """k(x, x') = exp(-|x - x'|^2 / (2 sigma^2)).

    Example::

        repsim.RBF(sigma=3.0); repsim.RBF(median_fraction=0.5)

    Give ``sigma``, in units of the features, or ``median_fraction``: sigma is then that fraction of the median distance
    between the inputs, of each side its own. The median is over all pairs of inputs, found in O(n) memory by one more
    traversal (to the rounding of float32 distances), or over ``sample`` evenly spaced inputs where that is given.
    """

    name = "rbf"

    def values(self, x: np.ndarray) -> np.ndarray:
        return np.exp(_squared_distances(x) / self.width / (-2 * self.width))


@dataclass(frozen=True)
class LaplacianL2(Bandwidth):
    """k(x, x') = exp(-|x - x'|_2 / sigma), of the Euclidean distance; ``sigma`` or ``median_fraction`` as for RBF."""

    name = "laplacian_l2"

    def values(self, x: np.ndarray) -> np.ndarray:
        return np.exp(-np.sqrt(_squared_distances(x)) / self.width)


@dataclass(frozen=True)
class LaplacianL1(Bandwidth):
    """k(x, x') = exp(-|x - x'|_1 / sigma), of the sum of absolute differences, the kernel that scikit-learn calls
    laplacian (its gamma is 1 / sigma); ``median_fraction`` is of the median L1 distance."""

    name = "laplacian_l1"
    distance = "manhattan"

    def values(self, x: np.ndarray) -> np.ndarray:
        from scipy.spatial.distance import pdist, squareform

        return np.exp(-squareform(pdist(x, "cityblock")) / self.width)


def _squared_distances(x: np.ndarray) -> np.ndarray:
    """[n, n] squared distances about the middle of the rows; from the differences where products lose their digits."""
    x = x - np.median(x, axis=0)
    norms = (x * x).sum(axis=1)
    norms = norms + norms[:, None]
    squared = norms - 2 * (x @ x.T)
    for i in np.flatnonzero((squared < 1e-6 * norms).sum(axis=1) > 1):  # a row beside itself is always one of them
        near = np.flatnonzero(squared[i] < 1e-6 * norms[i])
        squared[i, near] = ((x[near] - x[i]) ** 2).sum(axis=1)
    np.fill_diagonal(squared, 0.0)
    return squared


@dataclass(frozen=True)
class Sum(Kernel):
    """k + k'."""

    left: Kernel
    right: Kernel

    def terms(self) -> tuple[Term, ...]:
        return (*self.left.terms(), *self.right.terms())

    def resolve(self, typical: Callable[[Bandwidth], float]) -> Kernel:
        return Sum(self.left.resolve(typical), self.right.resolve(typical))

    def __str__(self) -> str:
        return f"{self.left} + {self.right}"


@dataclass(frozen=True)
class Product(Kernel):
    """k k', entry by entry."""

    left: Kernel
    right: Kernel

    def terms(self) -> tuple[Term, ...]:
        return tuple((a * b, (*ours, *theirs)) for a, ours in self.left.terms() for b, theirs in self.right.terms())

    def resolve(self, typical: Callable[[Bandwidth], float]) -> Kernel:
        return Product(self.left.resolve(typical), self.right.resolve(typical))

    def __str__(self) -> str:
        return " * ".join(f"({side})" if isinstance(side, Sum) else f"{side}" for side in (self.left, self.right))


@dataclass(frozen=True)
class Scaled(Kernel):
    """weight k, with a weight above 0."""

    weight: float
    kernel: Kernel

    def __post_init__(self) -> None:
        positive_number(self.weight, "weight", function="Scaled")

    def terms(self) -> tuple[Term, ...]:
        return tuple((float(self.weight) * weight, leaves) for weight, leaves in self.kernel.terms())

    def resolve(self, typical: Callable[[Bandwidth], float]) -> Kernel:
        return Scaled(self.weight, self.kernel.resolve(typical))

    def __str__(self) -> str:
        return f"{_digits(self.weight)} * " + (f"({self.kernel})" if isinstance(self.kernel, Sum) else f"{self.kernel}")


_NAMED: dict[str, Callable[[], Kernel]] = {
    "linear": Linear,
    "cosine": Cosine,
    "polynomial": Polynomial,
    "rbf": lambda: RBF(median_fraction=1.0),
    "laplacian_l1": lambda: LaplacianL1(median_fraction=1.0),
    "laplacian_l2": lambda: LaplacianL2(median_fraction=1.0),
}


def as_kernel(kernel: Any, *, function: str) -> Kernel:
    """The kernel a caller named ("rbf" and the Laplacians with sigma = the median distance), or an instance.

    Raises
    ------
    ValueError: neither.
    """
    if isinstance(kernel, Kernel):
        return kernel
    if isinstance(kernel, str) and kernel in _NAMED:
        return _NAMED[kernel]()
    names = ", ".join(map(repr, _NAMED))
    raise ValueError(
        f"[{function}] expected kernel as one of {names}, or as an instance like repsim.RBF(sigma=1.0), got {kernel!r}"
    )
