"""CKA of rows that come in batches and are never held together: from an iterator, or shared out over workers."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .arguments import thread_count
from .arrays import Rows, as_rows, same_inputs
from .calibration import Null
from .kernels import Kernel, Linear, as_kernel
from .measures.centred import LEAST_ROWS, CentredKernels, centred_kernels, check_estimator, checked_sides
from .measures.similarity import Similarity, grid_of
from .reductions import ThirdMoments
from .reductions.centre import a_few
from .reductions.feature_space import sums_of
from .reductions.moments import FIRST_ROWS, FeatureMoments, check_rows, provisional_origin, room_for
from .reductions.third_moments import moments_of_sample

_PAIRS = ((0, 0), (0, 1), (1, 1))


class LinearCKA:
    """Linear CKA of all rows of a stream, the same as :func:`repsim.cka` of all of them at once (to about 1e-12).

    Example::

        stream = repsim.streaming.LinearCKA()
        for x, y in batches:                               # x [m, d], y [m, d'], any m, another one every time
            stream.update(x, y)
        stream.finish()                                    # a Similarity; more batches may follow

        repsim.streaming.LinearCKA().consume(batches)      # the same
        stream.merge(other)                                # what another worker has seen of the same two layers

    The state has (d + 2)^2 + (d + 2)(d' + 2) + (d' + 2)^2 float64 numbers, the rows of the last block, at most 1024,
    and at most 509 evenly spaced rows that the skewness of the null is taken from; it does not grow with the stream. To
    save it, or to send it to another process, pickle the object. How the stream is cut into batches changes no bit of
    the result. A batch that is refused leaves everything as it was.

    Parameters
    ----------
    estimator: "debiased" (at least 4 rows in all) or "biased" (2).
    threads: as for :func:`repsim.cka`; the result does not depend on it.
    """

    def __init__(self, *, estimator: str = "debiased", threads: int | None = None) -> None:
        check_estimator(estimator, function="LinearCKA")
        self.estimator = estimator
        self._threads = thread_count(threads, function="LinearCKA")
        self._widths: tuple[int, ...] = ()
        # The origin is the median of the first rows, so that they wait for it.
        self._waiting: list[list[np.ndarray]] = [[], []]
        self._moments: FeatureMoments | None = None
        self._spaced = _EvenlySpaced()

    def __len__(self) -> int:
        """Rows seen."""
        return sum(map(len, self._waiting[0])) + (len(self._moments) if self._moments else 0)

    def update(self, x: Any, y: Any) -> LinearCKA:
        """Add rows x [m, d] and y [m, d'] of the same inputs; arrays and dtypes as for :func:`repsim.cka`.

        Raises
        ------
        TypeError, ValueError: no rows of floats, another width than before, lengths that differ, a row that is not
            finite (named by its number in the whole stream). Nothing of the batch is then counted.
        """
        batch = _batch(x, y, self._widths, "LinearCKA.update")
        if self._moments is None or len(batch[0]) > self._moments.room_left:
            origins = [None, None] if self._moments is None else self._moments.shifts
            for rows, origin in zip(batch, origins, strict=True):
                check_rows(rows, origin, len(self), function="LinearCKA.update", threads=self._threads)
        seen = len(self)
        self._add(batch)
        self._spaced.see(batch, seen)
        return self

    def consume(self, batches: Iterable[tuple[Any, Any]]) -> Similarity:
        """:meth:`update` with every (x, y) of an iterable, then :meth:`finish`."""
        for x, y in batches:
            self.update(x, y)
        return self.finish()

    def merge(self, other: LinearCKA) -> LinearCKA:
        """Add everything that ``other`` has seen, which stays usable.

        Raises
        ------
        TypeError: no LinearCKA. ValueError: of other layers, by their widths.
        """
        if not isinstance(other, LinearCKA):
            raise TypeError(f"[LinearCKA.merge] expected a LinearCKA, got {type(other).__name__}")
        if not len(other):
            return self
        if self._widths and self._widths != other._widths:
            raise ValueError(
                f"[LinearCKA.merge] expected rows of widths {list(self._widths)}, got {list(other._widths)}"
            )
        if other._moments is None:
            self._add([Rows(np.concatenate(side), "float64", "xy"[i]) for i, side in enumerate(other._waiting)])
        elif not len(self):
            self._moments, self._widths = copy.deepcopy(other._moments), other._widths
        else:
            self._begin().merge(other._moments, threads=self._threads)
        self._spaced.merge(other._spaced)
        return self

    def finish(self) -> Similarity:
        """The CKA of all rows so far, with its z and p.

        Raises
        ------
        ValueError: too few rows; all rows of a side equal; or, for the debiased estimator, one row so much longer than
            all others together that float64 sums over features cannot tell what the others leave.
        """
        least = LEAST_ROWS[self.estimator]
        if len(self) < least:
            raise ValueError(
                f"[LinearCKA.finish] expected at least {least} rows for the {self.estimator} estimator, got {len(self)}"
            )
        moments = self._begin()
        moments.sum_gathered(threads=self._threads)
        names = [Rows(np.empty((0, width)), "float64", name) for width, name in zip(self._widths, "xy", strict=True)]
        moments.check_lengths(names, function="LinearCKA.finish")
        sums = sums_of(2, {pair: moments.centred(*pair) for pair in _PAIRS})
        if self.estimator == "debiased":
            for p, rows in enumerate(names):
                if not sums.debiased[p, p] > sums.rounding[p]:
                    raise ValueError(
                        f"[LinearCKA.finish] expected {rows.name} without a row that outweighs all others: the "
                        "debiased form has lost its digits; use repsim.cka on the whole, or the biased estimator"
                    )
        thirds = self._spaced.third_moments(sums.n)
        made = CentredKernels(self.estimator, sums, thirds).require_variance(names, "LinearCKA.finish")
        norm = math.sqrt(made.inner[0, 0] * made.inner[1, 1])
        cell = (float(made.inner[0, 1]) / norm, made.null(0, 1).scaled(norm), None)
        options = {"estimator": self.estimator, "kernel": "linear"}
        return grid_of([[cell]], made.n, options, made.precision).at(0, 0, "cka")

    def _add(self, batch: Sequence[Rows]) -> None:
        self._widths = tuple(rows.depth for rows in batch)
        if self._moments is not None:
            self._moments.add(batch, function="LinearCKA.update", threads=self._threads)
            return
        first = FIRST_ROWS - len(self)
        for rows, waiting in zip(batch, self._waiting, strict=True):
            waiting.append(rows.wide(slice(0, first)))
        if len(self) == FIRST_ROWS:
            moments = self._begin()
            if first < len(batch[0]):
                rest = [rows.part(first, len(rows)) for rows in batch]
                moments.add(rest, function="LinearCKA.update", threads=self._threads)

    def _begin(self) -> FeatureMoments:
        if self._moments is None:
            first = [Rows(np.concatenate(side), "float64", "xy"[i]) for i, side in enumerate(self._waiting)]
            self._moments = FeatureMoments([provisional_origin(rows) for rows in first], _PAIRS, room_for(self._widths))
            self._moments.add(first, function="LinearCKA.update", threads=self._threads)
            self._waiting = [[], []]
        return self._moments


class MinibatchCKA:
    """CKA from averages over batches: the debiased HSIC terms are averaged, then normalised.

    Example::

        repsim.streaming.MinibatchCKA(kernel="rbf").consume(batches)     # x [m, d], y [m, d'], each m at least 4

    mean_b HSIC_1(x_b, y_b) / sqrt(mean_b HSIC_1(x_b, x_b) mean_b HSIC_1(y_b, y_b)): every kernel, at the cost of the
    batches alone. Pairs of inputs in different batches are left out, so that it is another number than
    :func:`repsim.cka` of all rows, with the same expectation of its terms; of one batch it is that CKA. Each batch
    counts alike. The null relabels inputs within their batch. The state is a few numbers: pickle the object to save it.

    Parameters
    ----------
    kernel, threads, block_rows: as for :func:`repsim.cka`; a median distance is that of each batch.

    Paper: Nguyen, Raghu and Kornblith (2021), "Do wide and deep networks learn the same things?"
    """

    def __init__(
        self, *, kernel: str | Kernel = "linear", threads: int | None = None, block_rows: int | None = None
    ) -> None:
        self.kernel = as_kernel(kernel, function="MinibatchCKA")
        self._threads = thread_count(threads, function="MinibatchCKA")
        self._block_rows = block_rows
        self._widths: tuple[int, ...] = ()
        self._rows = 0
        self.batches = 0
        self._terms = np.zeros(3)  # HSIC_1 of (x, x), (x, y), (y, y), summed over the batches
        self._cumulants = np.zeros(3)
        self._precision = "float64"

    def __len__(self) -> int:
        """Rows seen."""
        return self._rows

    def update(self, x: Any, y: Any) -> MinibatchCKA:
        """Add a batch x [m, d], y [m, d'] of at least 4 of the same inputs.

        Raises
        ------
        TypeError, ValueError: as for :meth:`LinearCKA.update`, and fewer than 4 rows. Nothing of the batch is counted.
        """
        batch = _batch(x, y, self._widths, "MinibatchCKA.update")
        for rows in batch:
            check_rows(rows, None, len(self), function="MinibatchCKA.update", threads=self._threads)
        function = "MinibatchCKA.update"
        sides, _ = checked_sides([batch[0]], [batch[1]], "debiased", self.kernel, function)
        made = centred_kernels(
            *sides, "debiased", self.kernel, function=function, threads=self._threads, block_rows=self._block_rows
        )
        n = made.n
        null = made.null(0, 1).scaled(1 / made.hsic_unit(0, 1, function))
        self._terms += [float(made.inner[pair]) * made.hsic_unit(*pair, function) for pair in _PAIRS]
        # Batches are relabelled independently: the cumulants of chance add.
        self._cumulants += [null.mean, null.sd**2, null.skewness * null.sd**3]
        if made.precision != "float64":
            self._precision = made.precision
        self._widths = tuple(rows.depth for rows in batch)
        self._rows += n
        self.batches += 1
        return self

    def consume(self, batches: Iterable[tuple[Any, Any]]) -> Similarity:
        """:meth:`update` with every (x, y) of an iterable, then :meth:`finish`."""
        for x, y in batches:
            self.update(x, y)
        return self.finish()

    def merge(self, other: MinibatchCKA) -> MinibatchCKA:
        """Add the batches that ``other`` has seen.

        Raises
        ------
        TypeError: no MinibatchCKA. ValueError: of other layers, by their widths, or of another kernel.
        """
        if not isinstance(other, MinibatchCKA):
            raise TypeError(f"[MinibatchCKA.merge] expected a MinibatchCKA, got {type(other).__name__}")
        if other.kernel != self.kernel:
            raise ValueError(f"[MinibatchCKA.merge] expected kernel {self.kernel}, got {other.kernel}")
        if not len(other):
            return self
        if self._widths and self._widths != other._widths:
            raise ValueError(
                f"[MinibatchCKA.merge] expected rows of widths {list(self._widths)}, got {list(other._widths)}"
            )
        self._widths = other._widths
        self._terms += other._terms
        self._cumulants += other._cumulants
        self._rows += other._rows
        self.batches += other.batches
        if other._precision != "float64":
            self._precision = other._precision
        return self

    def finish(self) -> Similarity:
        """The value over all batches so far, with its z and p.

        Raises
        ------
        ValueError: no batch, or a side whose kernel matrices do not vary on average.
        """
        if not self.batches:
            raise ValueError("[MinibatchCKA.finish] expected at least one batch, got none")
        xx, xy, yy = (float(term) for term in self._terms)
        for name, own in (("x", xx), ("y", yy)):
            if not own > 0:
                raise ValueError(
                    f"[MinibatchCKA.finish] expected {name} with kernel matrices that vary, got a mean HSIC of "
                    f"{own / self.batches:.3g} with itself: give larger batches"
                )
        norm = math.sqrt(xx * yy)
        mean, variance, third = (float(cumulant) for cumulant in self._cumulants)
        null = Null(mean, math.sqrt(variance), third / variance**1.5 if variance > 0 else 0.0)
        cell = (xy / norm, null.scaled(norm), None)
        options = {"estimator": "debiased", "kernel": str(self.kernel), "batches": self.batches}
        made = grid_of([[cell]], len(self), options, self._precision, null_from="all relabellings within batches")
        return made.at(0, 0, "minibatch_cka")


def _batch(x: Any, y: Any, widths: tuple[int, ...], function: str) -> list[Rows]:
    batch = [as_rows(x, function=function, name="x"), as_rows(y, function=function, name="y")]
    same_inputs(*batch, function=function)
    for rows, width in zip(batch, widths, strict=False):
        if rows.depth != width:
            raise ValueError(
                f"[{function}] expected {rows.name} with {width} columns like the batches before, got {rows.depth}"
            )
    return batch


class _EvenlySpaced:
    """Rows 0, s, 2s, ... of both sides of a stream, s doubled whenever there are too many."""

    MOST = 2 * FIRST_ROWS - 1

    def __init__(self) -> None:
        self.stride = 1
        self.kept: list[list[np.ndarray]] = [[], []]  # [1, d] each

    def see(self, batch: Sequence[Rows], first: int) -> None:
        """The rows of a batch, the first of which is number ``first``."""
        stop = first + len(batch[0])
        while -(-stop // self.stride) > self.MOST:
            self.thin(2 * self.stride)
        own = slice(-first % self.stride, None, self.stride)
        for rows, kept in zip(batch, self.kept, strict=True):
            wide = rows.wide(own)
            kept.extend(wide[i : i + 1].copy() for i in range(len(wide)))
            rows.release(0, len(rows))

    def thin(self, stride: int) -> None:
        """Keep the rows that stand ``stride`` apart."""
        self.kept = [kept[:: stride // self.stride] for kept in self.kept]
        self.stride = stride

    def merge(self, other: _EvenlySpaced) -> None:
        other = copy.copy(other)
        stride = max(self.stride, other.stride)
        while True:
            self.thin(stride)
            other.thin(stride)
            if len(self.kept[0]) + len(other.kept[0]) <= self.MOST:
                break
            stride *= 2
        self.kept = [a + b for a, b in zip(self.kept, other.kept, strict=True)]

    def third_moments(self, n: int) -> list[ThirdMoments]:
        """What :func:`repsim.cka` takes from evenly spaced rows; the same ones, of up to 509 rows in all."""
        sides = (Rows(np.concatenate(kept), "float64", "xy"[i]) for i, kept in enumerate(self.kept))
        return [moments_of_sample(a_few(rows), n, Linear()) for rows in sides]
