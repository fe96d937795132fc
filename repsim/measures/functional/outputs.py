"""What models say of the same inputs: predicted classes, probabilities and maps, read from arrays of many kinds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ...arguments import whole_number
from ...arrays import Rows, as_rows, same_inputs
from ...calibration import Null, add_one_p, mean_error, sampled_null
from ...reductions import finite_block
from ..registry import Measure
from ..similarity import RESULTS

# How far from 1 probabilities may sum: what rounding each of them to its dtype can do to many classes, and room.
_SUM_TOLERANCE = {"float16": 1e-2, "bfloat16": 1e-2, "float32": 1e-4, "float64": 1e-4}


class Blocks(Protocol):
    """Vectors of n inputs, some at a time."""

    @property
    def rows(self) -> Rows:
        """Where they come from."""
        ...  # pragma: no cover

    def block(self, which: slice | np.ndarray) -> np.ndarray:
        """Of the chosen inputs, in float64."""
        ...  # pragma: no cover


@dataclass(frozen=True)
class Probabilities:
    """Class probabilities of n inputs: rows [n, classes] that sum to 1, or logits that softmax makes such."""

    rows: Rows
    logits: bool
    function: str

    def block(self, which: slice | np.ndarray) -> np.ndarray:
        """[inputs, classes] float64, every row divided by its sum.

        Raises
        ------
        ValueError: a row is not finite, has a negative entry, or sums to something else than 1.
        """
        scores = finite_block(self.rows, which, function=self.function)
        if self.logits:
            scores -= scores.max(axis=1, keepdims=True)
            np.exp(scores, out=scores)
        sums = scores.sum(axis=1)
        if not self.logits:
            least = scores.min(axis=1)
            wrong = (least < 0) | (np.abs(sums - 1) > _SUM_TOLERANCE[self.rows.dtype])
            if wrong.any():
                at = int(wrong.argmax())
                got = f"{least[at]:.6g}" if least[at] < 0 else f"a sum of {sums[at]:.6g}"
                raise ValueError(
                    f"[{self.function}] expected {self.rows.name} with probabilities, at least 0 and summing to 1, got "
                    f"{got} in row {_row(which, at)}; pass logits=True for logits"
                )
        scores /= sums[:, None]
        return scores


@dataclass(frozen=True)
class Directions:
    """Maps of n inputs [n, d], each divided by its length; of their absolute values where that is asked for."""

    rows: Rows
    absolute: bool
    function: str

    def block(self, which: slice | np.ndarray) -> np.ndarray:
        """[inputs, d] float64.

        Raises
        ------
        ValueError: a map is not finite, or zero everywhere.
        """
        maps = finite_block(self.rows, which, function=self.function)
        if self.absolute:
            np.abs(maps, out=maps)
        largest = np.abs(maps).max(axis=1)
        if not largest.min() > 0:
            raise ValueError(
                f"[{self.function}] expected {self.rows.name} with maps that are not zero everywhere, "
                f"got a zero map in row {_row(which, int(largest.argmin()))}"
            )
        maps /= largest[:, None]  # the squares of tiny gradients would underflow
        maps /= np.sqrt((maps * maps).sum(axis=1, keepdims=True))
        return maps


def _row(which: slice | np.ndarray, at: int) -> int:
    return int(which.start) + at if isinstance(which, slice) else int(which[at])


def class_scores(x: Any, *, function: str, name: str) -> Rows:
    """Logits or probabilities as rows [n, classes].

    Raises
    ------
    TypeError, ValueError: no array of floats [n, classes], or of fewer than two classes.
    """
    rows = as_rows(x, function=function, name=name)
    if rows.depth < 2:
        raise ValueError(f"[{function}] expected {name} with at least two classes, got shape {rows.values.shape}")
    return rows


def predicted(x: Any, *, function: str, name: str) -> tuple[np.ndarray, int | None]:
    """Predicted classes [n] int64, and the number of classes where scores say it: the largest score, ties to the first.

    Raises
    ------
    TypeError, ValueError: neither integers [n] nor scores [n, classes]; a score that is not finite.
    """
    given = _integers(x, function=function, name=name)
    if given is not None:
        return given, None
    rows = class_scores(x, function=function, name=name)
    classes = np.empty(len(rows), np.int64)
    for start, stop in rows.sweep():
        classes[start:stop] = finite_block(rows, slice(start, stop), function=function).argmax(axis=1)
    return classes, rows.depth


def true_labels(labels: Any, n: int, *, function: str) -> np.ndarray:
    """Labels [n] int64.

    Raises
    ------
    TypeError, ValueError: no integers, or not n of them.
    """
    given = _integers(labels, function=function, name="labels")
    if given is None:
        got = getattr(labels, "dtype", type(labels).__name__)
        raise TypeError(f"[{function}] expected labels as an array of integers [n], got {got}")
    if len(given) != n:
        raise ValueError(f"[{function}] expected labels of {n} inputs like x, got {len(given)}")
    return given


def _integers(x: Any, *, function: str, name: str) -> np.ndarray | None:
    torch = sys.modules.get("torch")  # who has a tensor has imported torch
    if torch is not None and isinstance(x, torch.Tensor):
        if x.dtype.is_floating_point or x.dtype.is_complex or x.dtype == torch.bool:
            return None
        if x.device.type != "cpu":
            raise ValueError(f"[{function}] expected {name} on the CPU, got device {x.device}")
        x = x.numpy()
    if not isinstance(x, np.ndarray) or x.dtype.kind not in "iu":
        return None
    if x.ndim != 1 or not x.size:
        raise ValueError(f"[{function}] expected {name} with one class per input [n], got shape {x.shape}")
    return np.asarray(x, np.int64)


def predicted_pair(x: Any, y: Any, *, function: str) -> tuple[np.ndarray, np.ndarray]:
    """Predicted classes of two models, [n] each, n at least 2.

    Raises
    ------
    TypeError, ValueError: as for :func:`predicted`; different numbers of inputs or classes; a single input.
    """
    left, classes = predicted(x, function=function, name="x")
    right, others = predicted(y, function=function, name="y")
    like(len(left), classes, len(right), others, "y", function=function)
    return left, right


def like(
    n: int, classes: int | None, rows: int, others: int | None, name: str, *, first: str = "x", function: str
) -> None:
    """Raises ValueError for outputs of another number of inputs or of classes than those before, or of one input."""
    if rows != n:
        raise ValueError(f"[{function}] expected {name} with {n} rows like {first}, got {rows}")
    if None not in (classes, others) and classes != others:
        raise ValueError(f"[{function}] expected {name} with {classes} classes like {first}, got {others}")
    if n < 2:
        raise ValueError(f"[{function}] expected at least 2 inputs, got {n}")


def probability_pair(x: Any, y: Any, logits: bool, *, function: str) -> tuple[Probabilities, Probabilities]:
    """Class probabilities of two models, [n, classes] each, n at least 2."""
    left, right = (class_scores(one, function=function, name=name) for one, name in ((x, "x"), (y, "y")))
    like(len(left), left.depth, len(right), right.depth, "y", function=function)
    return Probabilities(left, logits, function), Probabilities(right, logits, function)


def map_pair(x: Any, y: Any, absolute: bool, *, function: str) -> tuple[Directions, Directions]:
    """Maps of two models [n, ...], one per input, n at least 2; of one shape."""
    shapes = [tuple(getattr(one, "shape", ())) for one in (x, y)]
    left, right = (_flat(one, function=function, name=name) for one, name in ((x, "x"), (y, "y")))
    n = same_inputs(left, right, function=function)
    if shapes[0] != shapes[1]:
        raise ValueError(f"[{function}] expected y of shape {shapes[0]} like x, got {shapes[1]}")
    if n < 2:
        raise ValueError(f"[{function}] expected at least 2 inputs, got {n}")
    return Directions(left, absolute, function), Directions(right, absolute, function)


def _flat(x: Any, *, function: str, name: str) -> Rows:
    shape = tuple(getattr(x, "shape", ()))
    if len(shape) > 2 and 0 not in shape and hasattr(x, "reshape"):
        x = x.reshape(shape[0], -1)
    return as_rows(x, function=function, name=name)


def mean_over_inputs(
    measure: Measure,
    sides: tuple[Blocks, Blocks],
    term: Callable[[np.ndarray, np.ndarray], np.ndarray],
    options: Mapping[str, Any],
    permutations: int,
    seed: int,
) -> Any:
    """A measure that is the mean over inputs of ``term`` [inputs] of the vectors of both sides, in one pass.

    Relabelled: input i of x beside another of y.
    """
    relabellings(permutations, seed, function=measure.name)
    left, right = sides
    n = len(left.rows)

    def terms(order: np.ndarray | None) -> np.ndarray:
        found = np.empty(n)
        for start, stop in left.rows.sweep():
            part = slice(start, stop)
            found[part] = term(left.block(part), right.block(part if order is None else order[part]))
        return found

    observed = terms(None)
    random = np.random.default_rng(seed)
    draws = np.array([terms(random.permutation(n)).mean() for _ in range(permutations)])
    return result_of(measure, float(observed.mean()), n, options, draws=draws, error=mean_error(observed))


def relabellings(permutations: Any, seed: Any, *, function: str) -> None:
    """Raises TypeError, ValueError for counts that are none."""
    whole_number(permutations, "permutations", function=function, least=0)
    whole_number(seed, "seed", function=function, least=0)


def result_of(
    measure: Measure,
    value: float,
    n: int,
    options: Mapping[str, Any],
    *,
    error: float,
    exact: Null | None = None,
    exact_from: str = "all relabellings",
    draws: np.ndarray | Sequence[float] | None = None,
) -> Any:
    """A value with its chance: exact moments where they are known, else those of ``draws``, else none.

    ``draws`` is None for a measure that relabelling says nothing about, and empty where none were asked for.
    """
    null, null_from, p, p_from = Null(np.nan, np.nan, np.nan), "none", np.nan, "none"
    if exact is not None:
        null, null_from = exact, exact_from
        # A distance below chance is what a similarity above it is.
        p, p_from = exact.p(value if measure.kind == "similarity" else 2 * exact.mean - value), "normal"
    elif draws is not None:
        null_from = p_from = "not asked for"
    if draws is not None and len(draws):
        relabelled = np.asarray(draws)
        if exact is None:
            null, null_from = sampled_null(relabelled), f"{len(relabelled)} relabellings"
        p, p_from = add_one_p(value, relabelled, measure.kind), "permutations"
    return RESULTS[measure.kind](value, measure.name, n, options, "float64", null, null_from, p, p_from, error)
