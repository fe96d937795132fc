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
    lengths: np.ndarray  # [r]
    scale: np.ndarray  # [d]

    @property
    def whitening(self) -> np.ndarray:
        """W [d, r], such that the columns of X W are orthonormal and span those of X that count."""
        return self.scale[:, None] * self.vectors / self.lengths


def principal_axes(gram: np.ndarray, least: float, *, standardised: bool = False) -> Axes:
    """Of the ``gram`` X'X [d, d]: the directions with more than a share ``least`` of the largest sum of squares.

    ``standardised``: the directions of columns of unit length, so that their units do not decide; columns of zeros have
    none. Cost: d^3.
    """
    scale = np.ones(len(gram))
    if standardised:
        scale = inverse(np.sqrt(np.maximum(np.diagonal(gram), 0.0)))  # rounding may leave -1e-30 of a constant column
        gram = gram * scale * scale[:, None]
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1], vectors[:, ::-1]
    kept = int(np.count_nonzero(values > least * values[0]))
    return Axes(vectors[:, :kept], np.sqrt(values[:kept]), scale)


def inverse(lengths: np.ndarray) -> np.ndarray:
    """1 / length, and 0 for a length of 0."""
    return np.divide(1.0, lengths, out=np.zeros(len(lengths)), where=lengths > 0)
