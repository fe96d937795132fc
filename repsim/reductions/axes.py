"""The directions that the columns of a representation span, from their inner products: which count, and which are none.

One rule: a direction counts where what it holds of the sums of squares is more than a share of what the largest holds.
The shares are three, because what a direction too many does is not the same:

  rounding(n, d)  is the least that can be told from nothing in squares of float64. For measures that weigh a direction
                  by its length, in which a short one changes nothing, kept or not, and for those that ask whether
                  columns depend on each other at all.
  RELIABLE        for measures that divide by the length and weigh all directions alike, as canonical correlations and
                  regression do: a direction at the share leaves them about six digits.
  INVERTIBLE      for a distance that divides by the length, of which no direction may be left out: it decides what is
                  refused, so that it is lower, and a direction at the share leaves about four digits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RELIABLE = 1e-10
INVERTIBLE = 1e-12


def rounding(n: int, d: int) -> float:
    """The share of sums of n squares, or of a matrix of them [d, d], that rounding makes."""
    return max(n, d) * float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Axes:
    """Directions of X, or of X with its columns scaled, longest first: X diag(scale) vectors has the lengths given."""

    vectors: np.ndarray  # [d, r], orthonormal
    squares: np.ndarray  # [r] of the lengths
    scale: np.ndarray  # [d]

    @property
    def lengths(self) -> np.ndarray:
        """[r]: of directions that count."""
        return np.sqrt(self.squares)

    @property
    def whitening(self) -> np.ndarray:
        """W [d, r], such that the columns of X W are orthonormal and span those of X that count."""
        return self.scale[:, None] * self.vectors / self.lengths

    def counting(self, least: float) -> Axes:
        """Those with more than a share ``least`` of the largest sum of squares."""
        kept = int(np.count_nonzero(self.squares > least * self.squares[0]))
        return Axes(self.vectors[:, :kept], self.squares[:kept], self.scale)


def all_axes(gram: np.ndarray, *, standardised: bool = False) -> Axes:
    """Of the ``gram`` X'X [d, d]: all d, those too that only rounding tells from nothing.

    ``standardised``: the directions of columns of unit length, so that their units do not decide; columns of zeros have
    none. Cost: d^3.
    """
    scale = np.ones(len(gram))
    if standardised:
        scale = inverse(np.sqrt(np.maximum(np.diagonal(gram), 0.0)))  # rounding may leave -1e-30 of a constant column
        gram = gram * scale * scale[:, None]
    squares, vectors = np.linalg.eigh(gram)
    return Axes(vectors[:, ::-1], squares[::-1], scale)


def principal_axes(gram: np.ndarray, least: float, *, standardised: bool = False) -> Axes:
    """The axes that count: see :func:`all_axes` and :meth:`Axes.counting`."""
    return all_axes(gram, standardised=standardised).counting(least)


def inverse(lengths: np.ndarray) -> np.ndarray:
    """1 / length, and 0 for a length of 0."""
    return np.divide(1.0, lengths, out=np.zeros(len(lengths)), where=lengths > 0)
