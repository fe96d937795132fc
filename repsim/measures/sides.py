"""One side of a measure of shapes, neurons or spectra: its rows, and the products of its features."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from ..arrays import Rows, found_once
from ..reductions import (
    Axes,
    column_sums,
    cross_products,
    own_axes,
    own_products,
    placed,
    principal_axes,
    rounding,
    upper_factor,
)


@dataclass(frozen=True, kw_only=True)
class Side:
    """Rows X [n, d], and all that is needed of one side alone; measures add to it what they find.

    own: X'X [d, d], of the rows about their mean, or about 0 where they are not ``centred``.
    order: [n], where the inputs are relabelled.
    """

    rows: Rows
    own: np.ndarray
    centred: bool
    order: np.ndarray | None = None

    @property
    def squares(self) -> float:
        """|X|_F^2."""
        return float(np.trace(self.own))


S = TypeVar("S", bound=Side)


def relabelled(side: S, order: np.ndarray) -> S:
    """The same side with its inputs in another order: only products with other sides change."""
    return replace(side, order=order)


def side_of(rows: Rows, *, function: str, threads: int, centred: bool = True) -> Side:
    """One pass, n d^2 flop, d^2 memory.

    Raises
    ------
    ValueError: a row is not finite (it is named), or too long for float64.
    """
    found = own_products(rows, function=function, threads=threads)
    own = found.xy if centred else found.xy + len(rows) * np.outer(found.mean_x, found.mean_x)
    return Side(rows=rows, own=own, centred=centred)


@found_once
def narrowed(rows: Rows, *, function: str, threads: int, centred: bool = True) -> Rows:
    """Rows [n, n] for rows [n, d] where n < d, turned into the n directions that they span; other rows as they are.

    For measures that no turn changes: of n inputs they cost n^2 d, and not d^3. Memory: 3 n d float64.

    Raises
    ------
    ValueError: a row is not finite (it is named).
    """
    if rows.depth <= len(rows):
        return rows
    sums = column_sums(rows, function=function, threads=threads)
    values = rows.wide_there(slice(None))
    if centred:
        values -= placed(rows, sums / len(rows))
    return rows.beside(upper_factor(values.T).T)


def cross(x: Side, y: Side, *, function: str, threads: int) -> np.ndarray:
    """X'Y [d, d'], centred as the sides are: one pass, 2 n d d' flop."""
    found = cross_products(x.rows, y.rows, y.order, function=function, threads=threads)
    return found.xy if x.centred else found.xy + found.n * np.outer(found.mean_x, found.mean_y)


def check_varies(side: Side, *, function: str) -> None:
    """Refuse rows that are all equal, or all zero where they are not centred.

    Raises
    ------
    ValueError: as said.
    """
    if not side.squares > 0:
        wanted = "whose rows differ" if side.centred else "that is not zero"
        raise ValueError(f"[{function}] expected {side.rows.name} {wanted}, got a sum of squares of 0 in float64")


def column_lengths(side: Side, *, function: str) -> np.ndarray:
    """[d]: the norm of every column.

    Raises
    ------
    ValueError: a column that has none; the first is named.
    """
    squares = np.diagonal(side.own)
    none = np.flatnonzero(~(squares > 0))
    if len(none):
        what = "whose columns all vary, got a constant" if side.centred else "without zero columns, got zeros in"
        raise ValueError(f"[{function}] expected {side.rows.name} {what} column {none[0]}")
    return np.sqrt(squares)


def axes(gram: np.ndarray, n: int) -> Axes:
    """The directions of X, of the ``gram`` X'X [d, d] of n rows, that rounding did not make.

    Squares in float64 tell a direction from rounding only where X is longer along it than sqrt(max(n, d) 2e-16), about
    1e-7 to 1e-5, of its longest. That holds for n < d too, where X'X has at most n directions.
    """
    return principal_axes(gram, rounding(n, len(gram)))


def counted_axes(rows: Rows, *, function: str, threads: int) -> Axes:
    """The :func:`axes` of the rows about their mean."""
    return own_axes(rows, function=function, threads=threads).counting(rounding(len(rows), rows.depth))
