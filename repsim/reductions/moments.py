"""Sums of products of features, of several matrices over the same rows, in one pass and about any origin.

A row x is lifted to z = (x', 1, |x'|^2) with x' = x - shift. The products Z'W of two lifted matrices hold X'Y, the sums
of x' and y', of their squared norms p and q, of p y', q x' and p q: moving the origin is a linear map of them, so that
rows centred at their mean need no second pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .. import _core, blocks
from ..arrays import Rows, found_once
from .centre import a_few, column_medians, column_sums, equal_rows, not_finite, squared_norms

FIRST_ROWS = 255  # whose median is the provisional origin
MOST_ROOM = 1024  # lifted rows held at a time: a power of two times the 512 rows that are summed together
LONGEST = 1e140  # squared norm: its square and sums of that are numbers, and so are they of 1 / LONGEST

_PART = 2**17  # numbers of a temporary


@dataclass(frozen=True)
class Centred:
    """What HSIC needs of two matrices about their means; a_i and b_i are the squared norms of their rows."""

    n: int
    square: float  # |X'Y|_F^2
    sum_a: float
    sum_b: float
    sum_ab: float


class FeatureMoments:
    """Z'W for the pairs asked for, summed while rows come in blocks of any size.

    Rows are gathered in lifted form until ``room`` of them are there. Their products are taken 512 at a time, counted
    from the first row of all: neither the blocks nor the room nor the threads change a bit. Memory: (d + 2) (d' + 2)
    float64 for each pair, and ``room`` lifted rows.
    """

    def __init__(self, shifts: Sequence[np.ndarray], asked: Sequence[tuple[int, int]], room: int) -> None:
        self.shifts = list(shifts)
        self.longest = [0.0] * len(shifts)  # largest squared norms about the shifts
        self.summed = 0
        self.gathered = 0
        self.products = {(p, q): np.zeros((len(shifts[p]) + 2, len(shifts[q]) + 2)) for p, q in asked}
        self._room = room
        self._panels: list[np.ndarray] = []

    def __len__(self) -> int:
        return self.summed + self.gathered

    def __getstate__(self) -> dict[str, object]:
        """Gathered rows travel as they are; memory that is aligned is made anew."""
        panels = [one[:, : self.gathered].copy() for one in self._panels] if self.gathered else []
        return {**self.__dict__, "_panels": panels}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        gathered, self._panels = self._panels, []
        for panels, rows in zip(self._gathering() if gathered else [], gathered, strict=True):
            panels[:, : self.gathered] = rows

    def add(self, block: Sequence[Rows], *, function: str, threads: int) -> None:
        """The next rows of all matrices.

        Raises
        ------
        ValueError: a row is not finite (it is named, counted from the first of all), or too long for float64. The rows
            before it are kept.
        """
        start, count = 0, len(block[0])
        while start < count:
            stop = min(start + self.room_left, count)
            longest = [
                self._lift(p, rows, start, stop, panels, function=function, threads=threads)
                for p, (rows, panels) in enumerate(zip(block, self._gathering(), strict=True))
            ]
            self.longest = [max(pair) for pair in zip(self.longest, longest, strict=True)]
            self.gathered += stop - start
            if not self.room_left:
                self.sum_gathered(threads=threads)
            start = stop

    @property
    def room_left(self) -> int:
        """Rows that can come before products are taken: so many are added wholly or, after an error, not at all."""
        return self._room - self.gathered

    def check(self, block: Sequence[Rows], *, function: str, threads: int) -> None:
        """Raise what :meth:`add` would raise."""
        for rows, shift in zip(block, self.shifts, strict=True):
            check_rows(rows, shift, len(self), function=function, threads=threads)

    def _lift(
        self, p: int, rows: Rows, start: int, stop: int, panels: np.ndarray, *, function: str, threads: int
    ) -> float:
        at, longest = self.gathered, 0.0
        for first, last in rows.sweep(start, stop):
            bad, here = _core.lift_rows(rows.values[first:last], rows.dtype, self.shifts[p], at, panels, threads)
            if bad >= 0:
                raise not_finite(rows, self.summed + at + bad, function=function)
            if not here < LONGEST:
                raise too_long(rows, here, function=function)
            longest = max(longest, here)
            at += last - first
        return longest

    def _gathering(self) -> list[np.ndarray]:
        if not self._panels:
            self._panels = [
                blocks.aligned((-(-(len(shift) + 2) // 48) * 3, self._room, _core.PANEL), np.float64)
                for shift in self.shifts
            ]
        return self._panels

    def sum_gathered(self, *, threads: int) -> None:
        """Take the products of all rows so far."""
        if not self.gathered:
            return
        pairs = [(self._panels[p], self._panels[q], product) for (p, q), product in self.products.items()]
        _core.feature_products(pairs, self.gathered, threads)
        self.summed += self.gathered
        self.gathered = 0
        if self.summed % MOST_ROOM == 0 and (self.summed // MOST_ROOM).bit_count() == 1:
            self._follow()

    def _follow(self) -> None:
        """Move the origin of a matrix to the mean of its rows where that has gone further away than they lie apart."""
        moves: dict[int, np.ndarray] = {}
        for (p, q), product in self.products.items():
            seen = _Seen(product, p == q)
            for which, total, norms in ((p, seen.sum_x, seen.sum_p), (q, seen.sum_y, seen.sum_q)):
                mean = total / seen.n
                away = seen.n * float((mean * mean).sum())
                if which not in moves and away > norms - away:
                    moves[which] = self.shifts[which] + mean
        if moves:
            self.move([moves.get(p, shift) for p, shift in enumerate(self.shifts)])

    def move(self, shifts: Sequence[np.ndarray]) -> None:
        """Make these the origins, of all that was summed; no rows are gathered."""
        steps = [new - old for new, old in zip(shifts, self.shifts, strict=True)]
        for (p, q), product in self.products.items():
            _move(product, steps[p], steps[q], p == q)
        self.shifts = list(shifts)

    def merge(self, other: FeatureMoments, *, threads: int) -> None:
        """Add the rows that another one has seen, about its own origins; it stays as it is but for gathered rows."""
        self.sum_gathered(threads=threads)
        other.sum_gathered(threads=threads)
        steps = [new - old for new, old in zip(self.shifts, other.shifts, strict=True)]
        for (p, q), product in self.products.items():
            moved = other.products[p, q].copy()
            _move(moved, steps[p], steps[q], p == q)
            product += moved
        self.summed += other.summed
        self.longest = [max(pair) for pair in zip(self.longest, other.longest, strict=True)]

    def centred(self, p: int, q: int) -> Centred:
        """Sums about the means, for one of the pairs; the state is left as it is. No rows are gathered."""
        product = self.products[p, q]
        seen = _Seen(product, p == q)
        n = seen.n
        mean_x, mean_y = seen.sum_x / n, seen.sum_y / n
        square = 0.0
        for rows in _parts(product):
            own = slice(rows.start, min(rows.stop, len(mean_x)))
            part = product[own, : len(mean_y)] - seen.sum_x[own, None] * mean_y
            if p != q:
                square += float((part * part).sum())
                continue
            above = np.triu(part, own.start)
            diagonal = np.diagonal(part, own.start)
            square += 2 * float((above * above).sum()) - float((diagonal * diagonal).sum())
        after = seen.moved(mean_x, mean_y)
        return Centred(n, square, after.sum_p, after.sum_q, after.sum_pq)

    def check_lengths(self, matrices: Sequence[Rows], *, function: str) -> None:
        """Refuse matrices whose rows are all equal, or differ by less than float64 can square.

        Raises
        ------
        ValueError: as said.
        """
        for rows, longest in zip(matrices, self.longest, strict=True):
            if longest == 0:
                raise equal_rows(rows, len(self), function=function)
            if not longest > 1 / LONGEST:
                raise too_long(rows, longest, function=function)


@found_once
def provisional_origin(rows: Rows) -> np.ndarray:
    """The coordinate-wise median of up to 255 evenly spaced rows: one far row among them does not move it."""
    with np.errstate(all="ignore"):
        origin = column_medians(a_few(rows))
    return np.where(np.isfinite(origin), origin, 0.0)  # rows that are not finite are named when they are read


@found_once
def has_fourth_powers(rows: Rows) -> bool:
    """Whether the fourth powers of distances between some of the rows are well inside float64."""
    sample = a_few(rows)
    with np.errstate(all="ignore"):
        longest = float(((sample - np.median(sample, axis=0)) ** 2).sum(axis=1).max())
    return longest == 0 or 1e-100 < longest < 1e100 or not np.isfinite(longest)


def check_rows(rows: Rows, origin: np.ndarray | None, first: int, *, function: str, threads: int) -> None:
    """Refuse rows that are not finite, named from ``first`` on, or too far from the origin.

    Raises
    ------
    ValueError: as said.
    """
    column_sums(rows, function=function, threads=threads, first=first)
    longest = float(squared_norms(rows, origin, function=function, threads=threads).max())
    if not longest < LONGEST:
        raise too_long(rows, longest, function=function)


def lifted_bytes(depths: Iterable[int], rows: int) -> int:
    """Memory of so many lifted rows of each matrix."""
    return sum(-(-(depth + 2) // 48) * 48 * rows * 8 for depth in depths)


def room_for(depths: Sequence[int], budget: int = blocks.PACKED_BUDGET) -> int:
    """Rows of all matrices to lift at a time: what fits the budget, at least those that are summed together."""
    room = MOST_ROOM
    while room > _core.SUMMED_ROWS and lifted_bytes(depths, room) > budget:
        room //= 2
    return room


def too_long(rows: Rows, longest: float, *, function: str) -> ValueError:
    return ValueError(
        f"[{function}] expected {rows.name} with values between about 1e-70 and 1e70, whose fourth powers float64 can "
        f"hold, got a largest squared norm of {longest:.3g}"
    )


class _Seen:
    """Sums in the last two rows and columns of Z'W; of Z'Z, only the upper triangle is read."""

    def __init__(self, product: np.ndarray, same: bool) -> None:
        self.product, self.same = product, same
        d, e = product.shape[0] - 2, product.shape[1] - 2
        self.n = round(float(product[d, e]))
        self.sum_x, self.sum_qx = product[:d, e].copy(), product[:d, e + 1].copy()
        self.sum_y = self.sum_x if same else product[d, :e].copy()
        self.sum_py = self.sum_qx if same else product[d + 1, :e].copy()
        self.sum_q, self.sum_pq = float(product[d, e + 1]), float(product[d + 1, e + 1])
        self.sum_p = self.sum_q if same else float(product[d + 1, e])

    def moved(self, step_x: np.ndarray, step_y: np.ndarray) -> _Moved:
        """The same sums of rows less a step."""
        n, d, e = self.n, len(step_x), len(step_y)
        # Sums of products of numbers are taken by numpy, not BLAS, whose order of additions follows its threads.
        cross_y, cross_x = np.zeros(d), np.zeros(e)  # X'Y step_y, Y'X step_x
        for rows in _parts(self.product):
            own = slice(rows.start, min(rows.stop, d))
            part = self.product[own, :e]
            if self.same:
                part = np.triu(part, own.start)
            cross_y[own] += (part * step_y).sum(axis=1)
            cross_x += (part * step_x[own, None]).sum(axis=0)
        if self.same:
            diagonal = np.diagonal(self.product)[:d]
            cross_y, cross_x = cross_y + cross_x - diagonal * step_y, cross_x + cross_y - diagonal * step_x
        xx, yy = float((step_x * step_x).sum()), float((step_y * step_y).sum())
        along_x, along_y = float((step_x * self.sum_x).sum()), float((step_y * self.sum_y).sum())
        sum_p, sum_q = self.sum_p - 2 * along_x + n * xx, self.sum_q - 2 * along_y + n * yy
        sum_pq = (
            self.sum_pq
            - 2 * float((step_y * self.sum_py).sum())
            - 2 * float((step_x * self.sum_qx).sum())
            + 4 * float((step_x * cross_y).sum())
            + yy * self.sum_p
            + xx * self.sum_q
            - 2 * yy * along_x
            - 2 * xx * along_y
            + n * xx * yy
        )
        sum_qx = self.sum_qx - 2 * cross_y + yy * self.sum_x - step_x * sum_q
        sum_py = self.sum_py - 2 * cross_x + xx * self.sum_y - step_y * sum_p
        return _Moved(sum_p, sum_q, sum_pq, sum_qx, sum_py)


@dataclass(frozen=True)
class _Moved:
    sum_p: float
    sum_q: float
    sum_pq: float
    sum_qx: np.ndarray
    sum_py: np.ndarray


def _move(product: np.ndarray, step_x: np.ndarray, step_y: np.ndarray, same: bool) -> None:
    """Z'W of rows less a step, in place."""
    seen = _Seen(product, same)
    after = seen.moved(step_x, step_y)
    d, e = len(step_x), len(step_y)
    sum_x, sum_y = seen.sum_x - seen.n * step_x, seen.sum_y - seen.n * step_y
    for rows in _parts(product):
        own = slice(rows.start, min(rows.stop, d))
        product[own, :e] -= step_x[own, None] * sum_y + seen.sum_x[own, None] * step_y
    product[:d, e], product[:d, e + 1] = sum_x, after.sum_qx
    product[d, :e], product[d + 1, :e] = sum_y, after.sum_py
    product[d, e + 1], product[d + 1, e], product[d + 1, e + 1] = after.sum_q, after.sum_p, after.sum_pq


def _parts(product: np.ndarray) -> Iterator[slice]:
    """Rows of X'Y, some at a time."""
    step = max(1, _PART // product.shape[1])
    for start in range(0, len(product) - 2, step):
        yield slice(start, start + step)
