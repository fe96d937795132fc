"""Distance correlation: the correlation of centred distances, which is 0 for independent inputs alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..arguments import Progress
from ..arrays import Rows
from ..reductions import Dissimilarities, dissimilarities_of, dissimilarity_tiles, on_host, placed
from ..reductions.dissimilarities import BLOCK_ENTRIES, BLOCK_ROWS
from .centred import LEAST_ROWS, check_estimator
from .method import Method
from .registry import Measure, invariant_to, register
from .similarity import Similarity

_NAME = "distance_correlation"
LAYERS_AT_ONCE = 12  # of either side, whose tiles of 8 MiB are held together
WIDEST = BLOCK_ENTRIES // BLOCK_ROWS  # features up to which every side has the same tiles, whatever is beside it
# Centred distances below this share of the distances, in the mean of squares, are what rounding leaves of a constant.
_ROUNDING = 1e-11


@dataclass(frozen=True)
class _Centred:
    """A_ij = D_ij - shares_i - shares_j, with the sums by rows that the estimator wants; never held."""

    side: Dissimilarities
    shares: np.ndarray  # [n]
    squares: float = math.nan  # the inner product of A with itself

    def relabelled(self, order: np.ndarray) -> _Centred:
        return replace(self, side=self.side.relabelled(order), shares=self.shares[order])


def _distance_correlation(estimator: str = "debiased") -> Method[_Centred]:
    check_estimator(estimator, function=_NAME)
    debiased = estimator == "debiased"

    def prepare(rows: Rows, threads: int) -> _Centred:
        n = len(rows)
        side = dissimilarities_of(rows, "euclidean", function=_NAME, threads=threads)
        sums = _row_sums(side, threads)
        total = float(sums.sum())
        if debiased:
            own = _Centred(side, sums / (n - 2) - total / (2 * (n - 1) * (n - 2)))
        else:
            own = _Centred(side, sums / n - total / (2 * n**2))
        squares = _inner([own], threads, debiased)
        if not squares > (_ROUNDING * total / n) ** 2:
            raise ValueError(
                f"[{_NAME}] expected {rows.name} whose distances vary, got zero variance up to rounding: in the "
                f"{estimator} form every pair of inputs looks equally far apart"
            )
        return replace(own, squares=squares)

    def between(x: _Centred, y: _Centred, threads: int) -> float:
        return _correlation(x, y, _inner([x, y], threads, debiased), debiased)

    def across(xs: Sequence[_Centred], ys: Sequence[_Centred], threads: int) -> np.ndarray:
        values = np.empty((len(xs), len(ys)))
        for i in range(0, len(xs), LAYERS_AT_ONCE):
            for j in range(0, len(ys), LAYERS_AT_ONCE):
                some, others = xs[i : i + LAYERS_AT_ONCE], ys[j : j + LAYERS_AT_ONCE]
                if max(one.side.rows.depth for one in (*some, *others)) > WIDEST:
                    found = [[_inner([x, y], threads, debiased) for y in others] for x in some]
                else:
                    found = _inner_of_all(some, others, threads, debiased)
                for p, x in enumerate(some):
                    for q, y in enumerate(others):
                        values[i + p, j + q] = _correlation(x, y, found[p][q], debiased)
        return values

    return Method(prepare, between, _Centred.relabelled, LEAST_ROWS[estimator], across=across)


def _correlation(x: _Centred, y: _Centred, inner: float, debiased: bool) -> float:
    value = inner / math.sqrt(x.squares * y.squares)
    if debiased:
        return value
    return math.sqrt(max(value, 0.0))  # never negative of distances, but by rounding


def _row_sums(side: Dissimilarities, threads: int) -> np.ndarray:
    sums = np.zeros(len(side))
    for i, j, (tile,) in dissimilarity_tiles([side], threads=threads):
        sums[i] += on_host(tile.sum(axis=1))
        if i != j:
            sums[j] += on_host(tile.sum(axis=0))
    return sums


def _inner(sides: Sequence[_Centred], threads: int, debiased: bool) -> float:
    """sum_ij A_ij B_ij of two sides, or of one with itself; debiased over i != j."""

    return math.fsum(
        times * float((tiles[0] * tiles[-1]).sum()) for times, tiles in _centred_tiles(sides, threads, debiased)
    )


def _inner_of_all(xs: Sequence[_Centred], ys: Sequence[_Centred], threads: int, debiased: bool) -> list[list[float]]:
    """The same of every x with every y: the tiles of each are made once."""
    parts: list[list[list[float]]] = [[[] for _ in ys] for _ in xs]
    for times, tiles in _centred_tiles([*xs, *ys], threads, debiased):
        for row, mine in zip(parts, tiles, strict=False):
            for part, theirs in zip(row, tiles[len(xs) :], strict=True):
                part.append(times * float((mine * theirs).sum()))
    return [[math.fsum(part) for part in row] for row in parts]


def _centred_tiles(sides: Sequence[_Centred], threads: int, debiased: bool) -> Iterator[tuple[int, list[Any]]]:
    """A of every side, tile by tile, and how often each stands in A: the mirror image of one beside the diagonal is not
    visited."""
    for i, j, tiles in dissimilarity_tiles([one.side for one in sides], threads=threads):
        for one, tile in zip(sides, tiles, strict=True):
            tile -= placed(one.side.rows, one.shares[i, None])
            tile -= placed(one.side.rows, one.shares[j])
            if debiased and i == j:
                every = np.arange(len(tile))
                tile[every, every] = 0.0
        yield 1 if i == j else 2, tiles


DISTANCE_CORRELATION = register(
    Measure(
        name=_NAME,
        family=_NAME,
        kind="similarity",
        low=-1.0,
        high=1.0,
        symmetric=True,
        invariances=invariant_to("orthogonal", "isotropic_scaling", "translation"),
        cost="time n^2 (d + d'), memory n",
        paper="Szekely and Rizzo (2014), Partial distance correlation with methods for dissimilarities",
        formula="<A, B> / sqrt(<A, A> <B, B>), A and B the centred distances of x and of y",
        aliases=("energy: bcdcor", "energy: dcor", "dcor: distance_correlation", "resi: DistanceCorrelation"),
        note="The debiased form estimates the square of what the biased form estimates, and may be negative.",
        method=_distance_correlation,
        self_value=1.0,
        gpu=True,
    )
)


def distance_correlation(
    x: Any,
    y: Any,
    *,
    estimator: str = "debiased",
    permutations: int = 0,
    seed: int = 0,
    jackknife: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
    device: Any = None,
) -> Similarity:
    """Correlation of the centred Euclidean distances of both representations, exact in O(n) memory.

    Example::

        x, y = rng.normal(size=(1000, 64)), rng.normal(size=(1000, 32))
        repsim.distance_correlation(x, y)                        # about 0
        repsim.distance_correlation(x, y, estimator="biased")    # about 0.39: it grows with d / n

    Parameters
    ----------
    x, y: [n, d] and [n, d'] arrays, as for :func:`repsim.cka`.
    estimator: "debiased", the bias-corrected R* of U-centred distances (at least 4 inputs), which may be negative and
        is of the square of distance correlation; or "biased", of double-centred distances, with its root (at least 2
        inputs), which grows towards 1 with d / n whatever the data.
    permutations: relabellings of the inputs of y for the null and p, each one more traversal.
    seed: of the relabellings, and of the groups of the jackknife.
    jackknife: groups of inputs, each left out once for the standard error; 0 leaves it out.
    threads, device: as for :func:`repsim.cka`.

    Returns
    -------
    Similarity. With D the distances |x_i - x_j|, r their sums by rows and t the sum of all: debiased A_ij = D_ij -
    (r_i + r_j) / (n - 2) + t / ((n - 1) (n - 2)), A_ii = 0, the value <A, B> / sqrt(<A, A> <B, B>) in [-1, 1];
    biased A_ij = D_ij - (r_i + r_j) / n + t / n^2, the value the root of the same in [0, 1]. In float64: distances from
    products of rows, or from their differences where products lose digits. Every matrix takes two traversals of its own
    and one with the other.

    Raises
    ------
    TypeError, ValueError: as for :func:`repsim.cka`; distances that do not vary.

    Papers: Szekely, Rizzo and Bakirov (2007), "Measuring and testing dependence by correlation of distances"; Szekely
        and Rizzo (2014), "Partial distance correlation with methods for dissimilarities", for the debiased form.
    """
    return DISTANCE_CORRELATION.evaluate(
        x, y, {"estimator": estimator}, permutations=permutations, seed=seed, jackknife=jackknife, threads=threads,
        progress=progress, device=device,
    )  # fmt: skip
