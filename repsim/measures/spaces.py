"""The space that the columns of one representation span: an orthonormal basis of it, as a map of the features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays import Rows, found_once
from ..reductions import (
    RELIABLE,
    Axes,
    cross_products,
    equal_rows,
    inverse,
    on_host,
    own_axes,
    own_products,
    placed,
    principal_axes,
    robust_centre,
    rounding,
)

_PART = 2**23  # numbers of a temporary


@dataclass(frozen=True, eq=False)
class Space:
    """H = X W is an orthonormal basis [n, r] of the columns of the centred X, or of some of their directions.

    ``rows`` are X, or others with the same inner products; ``loadings`` are X'H [d, r] where they were asked for.
    """

    rows: Rows
    whitening: np.ndarray  # W
    loadings: np.ndarray | None = None
    order: np.ndarray | None = None

    @property
    def rank(self) -> int:
        return self.whitening.shape[1]


def whitening(axes: Axes, *, share: float = 1.0, short: bool = False) -> np.ndarray:
    """W [d, r] with W' X'X W = 1, from the principal axes of X: those that lead, each over its length.

    Parameters
    ----------
    axes: of :func:`repsim.reductions.own_axes`.
    share: the fewest directions that hold this share of the variance are kept; 1 keeps all that are reliable.
    short: keep only the directions before the one that reaches the share.
    """
    found = axes.counting(RELIABLE)
    upto = np.cumsum(found.squares)
    kept = min(int(np.count_nonzero(upto < share * upto[-1])) + (not short), len(upto))
    return found.whitening[:, :kept]


def space(
    rows: Rows,
    *,
    share: float = 1.0,
    standardised: bool = True,
    short: bool = False,
    loaded: bool = False,
    function: str,
    threads: int,
) -> Space:
    """The space of the centred rows; options as for :func:`whitening`, and whether to take the loadings.

    ``standardised``: take the directions of columns of unit variance; constant columns count as none.

    In one pass, with X'X, where there are more inputs than columns; otherwise with the inner products of all pairs of
    inputs: O(min(n, d)^2) memory.

    Raises
    ------
    ValueError: rows that are not finite or all equal; no direction before the share is reached.
    """
    used = rows
    if rows.depth >= len(rows):
        used = narrowed(rows, standardised=standardised, function=function, threads=threads)
    xx = own_products(used, function=function, threads=threads).xy
    if not np.trace(xx) > 0:
        raise equal_rows(rows, len(rows), function=function)
    found = own_axes(used, standardised=standardised and used is rows, function=function, threads=threads)
    kept = whitening(found, share=share, short=short)
    if not kept.shape[1]:
        raise ValueError(
            f"[{function}] expected {rows.name} with more than one direction before a share {share:g} of its variance "
            "is reached, got one that holds it all"
        )
    loadings = None
    if loaded and used is rows:
        loadings = xx @ kept
    elif loaded:
        middle = robust_centre(rows, function=function, threads=threads).middle
        basis = placed(rows, used.wide(slice(None)) @ kept)
        loadings = np.concatenate([on_host(part.T @ basis) for part in _centred_columns(rows, middle)])
    return Space(used, kept, loadings)


@found_once
def narrowed(rows: Rows, *, standardised: bool = False, function: str, threads: int) -> Rows:
    """Fewer than n columns with the same inner products of rows about the mean, for rows with more columns.

    What no rotation of the columns changes is the same of both. ``standardised`` brings the columns to unit variance
    first. Memory: n^2 float64. Cost: n^2 d + n^3.

    Raises
    ------
    ValueError: rows that are not finite, all equal, or beyond the range of squares.
    """
    n = len(rows)
    middle = robust_centre(rows, function=function, threads=threads).middle
    gram = placed(rows, np.zeros((n, n)))
    for part in _centred_columns(rows, middle):
        if standardised:
            part = part * placed(rows, inverse(_lengths(part)))
        gram += part @ part.T
    found = principal_axes(on_host(gram), rounding(n, n))
    return rows.beside(found.vectors * found.lengths)


def column_lengths(rows: Rows, *, function: str, threads: int) -> np.ndarray:
    """[d] Euclidean norms of the centred columns.

    Raises
    ------
    ValueError: rows that are not finite, all equal, or beyond the range of squares.
    """
    if rows.depth < len(rows):
        return np.sqrt(np.diagonal(own_products(rows, function=function, threads=threads).xy))
    middle = robust_centre(rows, function=function, threads=threads).middle
    return np.concatenate([_lengths(part) for part in _centred_columns(rows, middle)])


def _lengths(columns: Any) -> np.ndarray:
    return np.asarray(np.sqrt(on_host((columns * columns).sum(axis=0))))


def _centred_columns(rows: Rows, middle: np.ndarray) -> Iterator[Any]:
    """All rows, some columns at a time, in float64 and about their means; constant columns are exactly zero.

    They lie where the rows do.
    """
    step = max(1, _PART // len(rows))
    for start in range(0, rows.depth, step):
        columns = slice(start, start + step)
        part = rows.wide_there(slice(None), columns)
        part -= placed(rows, middle[columns])
        yield part - part.mean(axis=0)


def bases_product(x: Space, y: Space, *, function: str, threads: int) -> np.ndarray:
    """H'G [r, r'] of both bases: its singular values are the canonical correlations.

    Raises
    ------
    ValueError: one of the spaces holds every centred vector of n numbers.
    """
    for side in (x, y):
        require_room(side, "cka, or more inputs", function=function)
    product = cross_products(x.rows, y.rows, y.order, function=function, threads=threads).xy
    return x.whitening.T @ product @ y.whitening


def require_room(side: Space, instead: str, *, function: str) -> None:
    """Refuse columns that span all centred vectors of n numbers, and so can make any other columns.

    Raises
    ------
    ValueError: as said.
    """
    n = len(side.rows)
    if side.rank >= n - 1:
        raise ValueError(
            f"[{function}] expected {side.rows.name} with at least {side.rank + 2} inputs for the {side.rank} "
            f"dimensions that it spans, got {n}: the value is then 1 whatever the other side is; use {instead}"
        )


def canonical_correlations(product: np.ndarray) -> np.ndarray:
    """Singular values [min(r, r')] of H'G, largest first."""
    # Cosines of angles: what rounding leaves beyond 1 counts as 1.
    return np.minimum(np.linalg.svd(product, compute_uv=False), 1.0)
