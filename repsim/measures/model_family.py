"""Models p(y|x) proportional to exp(f(x)'g(y)): log-likelihoods, their spreads, and the labels and inputs that pin both
representations down."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays import Rows, as_rows
from ..reductions import finite_block

_BLOCK = 2**20  # numbers of one temporary
# Of a spread, against the parts that it is the sum of: what rounding alone may leave.
_ROUNDING = 64 * float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Model:
    """Embeddings f [n, M] and unembeddings g [K, M] of one model; ``g`` is about its mean, which no p(y|x) sees."""

    f: Rows
    g: np.ndarray
    name: str

    @property
    def inputs(self) -> int:
        return len(self.f)

    @property
    def labels(self) -> int:
        return int(self.g.shape[0])

    @property
    def depth(self) -> int:
        return self.f.depth

    def logits(self, rows: slice | np.ndarray) -> np.ndarray:
        """[rows, K], of mean 0 over labels."""
        return self.f.wide(rows) @ self.g.T

    def log_probabilities(self, rows: slice) -> np.ndarray:
        """ln p(y|x), [rows, K]."""
        logits = self.logits(rows)
        logits -= logits.max(axis=1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def model_pair(x: Any, y: Any, *, function: str, same_width: bool) -> tuple[Model, Model]:
    """Two models over the same inputs and labels.

    Raises
    ------
    TypeError, ValueError: no pairs of arrays, numbers of inputs, labels or dimensions that differ, values that are not
        finite, fewer than two inputs or labels.
    """
    left, right = _model(x, "x", function), _model(y, "y", function)
    if left.inputs != right.inputs:
        raise ValueError(f"[{function}] expected y with {left.inputs} inputs like x, got {right.inputs}")
    if left.labels != right.labels:
        raise ValueError(f"[{function}] expected y with {left.labels} labels like x, got {right.labels}")
    if same_width and left.depth != right.depth:
        raise ValueError(f"[{function}] expected y with {left.depth} dimensions like x, got {right.depth}")
    if left.inputs < 2 or left.labels < 2:
        raise ValueError(
            f"[{function}] expected at least 2 inputs and 2 labels, got {left.inputs} inputs and {left.labels} labels"
        )
    return left, right


def _model(value: Any, name: str, function: str) -> Model:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(
            f"[{function}] expected {name} as a pair (embeddings [n, M], unembeddings [K, M]), got "
            f"{type(value).__name__}{f' of length {len(value)}' if isinstance(value, (tuple, list)) else ''}"
        )
    f = as_rows(value[0], function=function, name=f"embeddings of {name}")
    g = as_rows(value[1], function=function, name=f"unembeddings of {name}")
    if f.depth != g.depth:
        raise ValueError(
            f"[{function}] expected unembeddings of {name} with {f.depth} columns like its embeddings, got {g.depth}"
        )
    for rows in (f, g):
        for part in parts(len(rows), rows.depth):
            finite_block(rows, part, function=function)
    labels = g.wide(slice(None))
    labels -= labels[0]  # so that equal labels stay exactly equal, wherever they lie
    return Model(f, labels - labels.mean(axis=0), name)


def parts(n: int, width: int, least: int = 1) -> Iterator[slice]:
    """Slices of the rows, of about _BLOCK numbers each and at least so many rows."""
    step = max(_BLOCK // width, least)
    for start in range(0, n, step):
        yield slice(start, min(start + step, n))


# ---------------------------------------------------------------------------------------------- embeddings


def triangles(x: Rows, y: Rows) -> tuple[np.ndarray, np.ndarray]:
    """Centred x and y in at most d + d' rows: [r, d] and [r, d'] with the products X'X, X'Y and Y'Y of all n rows.

    The triangle of a QR decomposition, block by block: no product is formed, so that small directions keep their
    digits. A leading column of ones takes the means out.
    """
    width = 1 + x.depth + y.depth
    triangle: np.ndarray = np.empty((0, width))
    first = np.concatenate([x.wide(slice(0, 1)), y.wide(slice(0, 1))], axis=1)
    # Every decomposition repeats the triangle before it, so a block is several times as long.
    for part in parts(len(x), width, least=4 * width):
        block = np.ones((part.stop - part.start, width))
        block[:, 1 : 1 + x.depth], block[:, 1 + x.depth :] = x.wide(part), y.wide(part)
        block[:, 1:] -= first
        triangle = np.asarray(np.linalg.qr(np.concatenate([triangle, block]), mode="r"))
    return triangle[1:, 1 : 1 + x.depth], triangle[1:, 1 + x.depth :]


def spreads(triangle: np.ndarray, model: Model, *, function: str) -> np.ndarray:
    """sd over inputs of ln p(y_i|x) - ln p(y_k|x), [K, K]; on the diagonal 1.

    Raises
    ------
    ValueError: one of them does not vary.
    """
    sizes = np.linalg.norm(triangle, axis=0)
    out = np.ones((model.labels, model.labels))
    for k in range(model.labels):
        apart = model.g - model.g[k]
        found = np.linalg.norm(triangle @ apart.T, axis=0)
        constant = found <= _ROUNDING * (np.abs(apart) @ sizes)
        constant[k] = False
        if constant.any():
            raise ValueError(
                f"[{function}] expected {model.name} with log-odds that vary over inputs, got zero variance between "
                f"labels {k} and {int(constant.argmax())}"
            )
        out[k] = found / np.sqrt(model.inputs - 1)
        out[k, k] = 1
    return out


# ---------------------------------------------------------------------------------------------- the distance's terms


@dataclass(frozen=True)
class Choice:
    """A pivot, a label left out and a set of inputs (its pivot first), and the four terms of d_LLV that they leave."""

    pivot: int
    left_out: int
    inputs: np.ndarray  # [M + 1]
    terms: tuple[float, float, float, float]
    embeddings: tuple[np.ndarray, np.ndarray]  # their triangles

    def labels(self, count: int) -> np.ndarray:
        """The labels that are neither, [K - 2]."""
        return np.setdiff1d(np.arange(count), [self.pivot, self.left_out])


def choose(x: Model, y: Model, sets: int, seed: int, *, function: str) -> Choice:
    """The pivot and left-out label with the smallest t1, and of random sets of inputs the one with the smallest t2.

    Raises
    ------
    ValueError: fewer than M + 2 labels or M + 1 inputs; log-odds that do not vary over inputs, or in no set of inputs
        over labels.
    """
    if x.labels < x.depth + 2:
        raise ValueError(
            f"[{function}] expected at least {x.depth + 2} labels (a pivot, one left out, and as many as the "
            f"{x.depth} dimensions), got {x.labels}"
        )
    if x.inputs < x.depth + 1:
        raise ValueError(
            f"[{function}] expected at least {x.depth + 1} inputs (a pivot, and as many as the {x.depth} dimensions), "
            f"got {x.inputs}"
        )
    embeddings = triangles(x.f, y.f)
    over_inputs = [spreads(one, m, function=function) for one, m in zip(embeddings, (x, y), strict=True)]
    by_label = _label_terms(x, y, *over_inputs)
    np.fill_diagonal(by_label, -np.inf)
    # Whatever the pivot, the label best left out is the one with the largest term: the second largest is what stays.
    pivot = int(np.partition(by_label, -2, axis=1)[:, -2].argmin())
    left_out = int(by_label[pivot].argmax())
    rest = np.setdiff1d(np.arange(x.labels), [pivot, left_out])
    t1 = float(by_label[pivot, rest].max())
    t3 = float(np.abs(over_inputs[0] - over_inputs[1])[pivot, rest].max())
    inputs, t2, t4 = _best_inputs(x, y, sets, seed, function)
    return Choice(pivot, left_out, inputs, (t1, t2, t3, t4), embeddings)


def _label_terms(x: Model, y: Model, s_x: np.ndarray, s_y: np.ndarray) -> np.ndarray:
    """max over a of i and k of sd_x[ln p(y_a|x) / s_ik - ln p'(y_a|x) / s'_ik], [K, K].

    With e = ln p - ln p' that is e / s + ln p' (1/s - 1/s'): for models that are close each part is small, and so is
    its rounding.
    """
    n, count = x.inputs, 0
    means = np.zeros((2, x.labels))  # of e and ln p'
    sums = np.zeros((3, x.labels))  # of squares of e, of ln p', and of their products, about the means
    for part in parts(n, x.labels):
        other = y.log_probabilities(part)
        change = x.log_probabilities(part) - other
        more = part.stop - part.start
        here = np.stack([change.mean(axis=0), other.mean(axis=0)])
        change -= here[0]
        other -= here[1]
        step = here - means
        weight = count * more / (count + more)
        sums[0] += (change**2).sum(axis=0) + weight * step[0] ** 2
        sums[1] += (other**2).sum(axis=0) + weight * step[1] ** 2
        sums[2] += (change * other).sum(axis=0) + weight * step[0] * step[1]
        means += step * (more / (count + more))
        count += more
    of_change, of_other, of_both = sums[:, :, None] / (n - 1)
    a, b = 1 / s_x, (s_y - s_x) / (s_x * s_y)  # 1/s and 1/s - 1/s'
    # A sum of squares: what rounding leaves below 0 is 0.
    squares = np.maximum(of_change * a**2 + of_other * b**2 + 2 * of_both * a * b, 0.0)
    return np.sqrt(np.maximum(squares, squares.T))


def _best_inputs(x: Model, y: Model, sets: int, seed: int, function: str) -> tuple[np.ndarray, float, float]:
    random = np.random.default_rng(seed)
    sizes = [np.linalg.norm(model.g, axis=0) for model in (x, y)]
    best: tuple[np.ndarray, float, float] | None = None
    for _ in range(sets):
        inputs = random.choice(x.inputs, x.depth + 1, replace=False)
        found = _input_terms(x, y, inputs, sizes)
        if found is not None and (best is None or found[0] < best[1]):
            best = (inputs, *found)
    if best is None:
        raise ValueError(
            f"[{function}] expected inputs whose log-likelihood ratios vary over labels, got zero variance in all "
            f"{sets} random sets of {x.depth + 1} inputs"
        )
    return best


def _input_terms(x: Model, y: Model, inputs: np.ndarray, sizes: list[np.ndarray]) -> tuple[float, float] | None:
    """t2 and t4 of one set of inputs; None where a ratio does not vary over labels: the inputs are then not diverse."""
    logits, ratios = [], []
    for model, size in zip((x, y), sizes, strict=True):
        f = model.f.wide(inputs)
        apart = f[1:] - f[0]
        # Logits have mean 0 over labels, and ln p differs from them by a constant there.
        ratio = np.linalg.norm(apart @ model.g.T, axis=1)
        if (ratio <= _ROUNDING * (np.abs(apart) @ size)).any():
            return None
        logits.append(f @ model.g.T)
        ratios.append(ratio / np.sqrt(model.labels - 1))
    terms = [
        logits[0][which] / ratios[0][:, None] - logits[1][which] / ratios[1][:, None]
        for which in (slice(1, None), slice(0, 1))
    ]
    t2 = max(float(np.linalg.norm(one, axis=1).max()) for one in terms) / np.sqrt(x.labels - 1)
    return float(t2), float(np.abs(ratios[0] - ratios[1]).max())
