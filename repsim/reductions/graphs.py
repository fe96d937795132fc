"""Two neighbour graphs, one of them relabelled: what their lists and weights share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .. import _core
from ..arrays import DeviceRows, Rows
from . import device_lists
from .centre import squared_norms


def first_bad_list(indices: np.ndarray, base_rows: int, *, excludes_self: bool, threads: int) -> int:
    """The first row of lists [n, k] that names no base row, one twice or (``excludes_self``) itself; -1 for none."""
    return int(_core.first_bad_list(indices, base_rows, excludes_self, threads))


@dataclass(frozen=True, eq=False)
class Lists:
    """Lists of inputs: those of every input's neighbours, or (with ``offsets``) of those whose neighbour it is."""

    targets: np.ndarray  # [n, k] int64, or [n k] with offsets
    offsets: np.ndarray | None = None  # [n + 1] int64

    @classmethod
    def listed_by(cls, indices: np.ndarray) -> Lists:
        """Who lists an input, in lists of unequal lengths. O(n k)."""
        offsets, sources = np.empty(len(indices) + 1, np.int64), np.empty(indices.size, np.int64)
        _core.transpose_lists(indices, offsets, sources)
        return cls(sources, offsets)


def list_sums(a: Lists, b: np.ndarray, statistic: str, names: np.ndarray | None, *, threads: int) -> np.ndarray:
    """Sums over the inputs of a statistic of two lists, a's and the relabelled b's: float64 [relabellings].

    Parameters: b [n, k] int64; statistic as csrc/ops.h names them; names [relabellings, n] int64: input r of b becomes
    input names[t, r]; None leaves b as it is, one sum.
    """
    sums = np.empty(1 if names is None else len(names))
    _core.list_statistics(a.targets.reshape(-1), a.offsets, b, statistic, names, sums, None, threads)
    return sums


def list_terms(a: Lists, b: np.ndarray, statistic: str, *, threads: int) -> np.ndarray:
    """The statistic of every input: float64 [n]."""
    terms = np.empty(len(b))
    _core.list_statistics(a.targets.reshape(-1), a.offsets, b, statistic, None, np.empty(1), terms, threads)
    return terms


@dataclass(frozen=True, eq=False)
class WeightedLists:
    """Lists [n, k] int64 and a weight for each of their entries, float32."""

    targets: np.ndarray
    weights: np.ndarray

    def ascending(self) -> WeightedLists:
        order = np.argsort(self.targets, axis=1)
        return WeightedLists(np.take_along_axis(self.targets, order, 1), np.take_along_axis(self.weights, order, 1))


def masked_hsic(a: WeightedLists, b: WeightedLists, names: np.ndarray | None, *, threads: int) -> np.ndarray:
    """HSIC_1 of the weights of both on their shared edges, b relabelled as in :func:`list_sums`; a's lists ascend."""
    hsic = np.empty(1 if names is None else len(names))
    _core.masked_hsic(a.targets, a.weights, b.targets, b.weights, names, hsic, threads)
    return hsic


@dataclass(frozen=True, eq=False)
class ListedRows:
    """Rows, their lengths, the lists of their neighbours and the cosines to these."""

    rows: Rows
    lengths: np.ndarray  # [n] float64
    lists: np.ndarray  # [n, k] int64
    cosines: np.ndarray  # [n, k] float64

    @classmethod
    def of(cls, rows: Rows, lists: np.ndarray, *, function: str, threads: int) -> ListedRows:
        """The cosine of every edge. O(n k d).

        Raises
        ------
        ValueError: a row is zero.
        """
        norms = squared_norms(rows, None, function=function, threads=threads)
        if not norms.min() > 0:
            raise ValueError(
                f"[{function}] expected {rows.name} with non-zero rows, whose cosines are defined, "
                f"got zero norm in row {int(norms.argmin())}"
            )
        lengths, cosines = np.sqrt(norms), np.empty(lists.shape)
        if isinstance(rows, DeviceRows):
            return cls(rows, lengths, lists, device_lists.cosines(rows, lengths, np.arange(len(rows)), lists))
        _core.edge_cosines(rows.values, rows.dtype, lengths, lists, cosines, threads)
        return cls(rows, lengths, lists, cosines)

    def as_tuple(self) -> tuple[np.ndarray, str, np.ndarray, np.ndarray, np.ndarray]:
        return self.rows.values, self.rows.dtype, self.lengths, self.lists, self.cosines


def second_order_sums(
    a: ListedRows, b: ListedRows, names: np.ndarray | None, *, function: str, threads: int
) -> np.ndarray:
    """Sums over the inputs of the cosine of the cosines to both lists, b relabelled as in :func:`list_sums`.

    Raises
    ------
    ValueError: an input is orthogonal to all rows of both lists.
    """
    sums = np.empty(1 if names is None else len(names))
    if isinstance(a.rows, DeviceRows):
        for t, order in enumerate([None] if names is None else names):
            terms, bad = device_lists.second_order_terms(a, b, order)
            _require_cosines(a, b, bad, function)
            sums[t] = terms.sum()
        return sums
    _require_cosines(a, b, _core.second_order_cosines(a.as_tuple(), b.as_tuple(), names, sums, None, threads), function)
    return sums


def second_order_terms(a: ListedRows, b: ListedRows, *, function: str, threads: int) -> np.ndarray:
    """The same of every input: float64 [n]."""
    if isinstance(a.rows, DeviceRows):
        terms, found = device_lists.second_order_terms(a, b, None)
        _require_cosines(a, b, found, function)
        return terms
    terms = np.empty(len(a.lists))
    found = _core.second_order_cosines(a.as_tuple(), b.as_tuple(), None, np.empty(1), terms, threads)
    _require_cosines(a, b, found, function)
    return terms


def _require_cosines(a: ListedRows, b: ListedRows, bad: int, function: str) -> None:
    if bad >= 0:
        raise ValueError(
            f"[{function}] expected {a.rows.name} and {b.rows.name} in which no input is orthogonal to all neighbours "
            f"that it is compared on, got row {bad}"
        )
