"""Similarities of attention: head by head, and of all heads together.

Attention is given as an array [inputs, heads, tokens, tokens], or where inputs differ in length as a list of arrays
[heads, tokens, tokens]; rows are queries, columns keys, of which there may be another number (cross-attention).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..arguments import thread_count
from ..arrays import Rows, as_rows
from ..reductions import cross_products, own_products
from .registry import Measure, invariant_to, register
from .similarity import Similarity

_WU = (
    "Wu, Belinkov, Sajjad, Durrani, Dalvi and Glass (2020), Similarity analysis of contextual word representation "
    "models"
)
_TOTAL = 0.01  # how far the attention of a query may be from 1 in all: 16-bit softmax, but no logits

for _name, _low, _invariances, _formula, _note in (
    (
        "attention_frobenius",
        -np.inf,
        ("permutation",),
        "mean_h max_h' 1 - mean over inputs of |A_h - B_h'|_F",
        "falls with the number of tokens, below 0 for long inputs",
    ),
    (
        "attention_pearson",
        -1.0,
        ("permutation", "isotropic_scaling", "translation"),
        "mean_h max_h' mean over inputs of correlation(A_h, B_h')",
        "undefined for a head that attends to all tokens equally",
    ),
    (
        "attention_jensen_shannon",
        1 - float(np.log(2)),
        ("permutation",),
        "mean_h max_h' 1 - mean over inputs and queries of JS(A_h, B_h'), in nats",
        "never below 1 - ln 2 = 0.307",
    ),
):
    register(
        Measure(
            name=_name,
            family="attention",
            kind="similarity",
            low=_low,
            high=1.0,
            symmetric=False,
            invariances=invariant_to(*_invariances),
            cost="time inputs heads heads' tokens^2, memory heads tokens^2",
            paper=_WU,
            formula=_formula,
            takes="attention",
            note=f"invariances are of heads; {_note}",
            self_value=1.0,
        )
    )
register(
    Measure(
        name="attention_cka",
        family="attention",
        kind="similarity",
        low=0.0,
        high=1.0,
        symmetric=True,
        invariances=invariant_to("orthogonal", "isotropic_scaling", "translation"),
        cost="time inputs tokens^2 heads heads', memory inputs tokens^2 (heads + heads')",
        paper=_WU,
        formula="|X'Y|_F^2 / (|X'X|_F |Y'Y|_F), rows all pairs of tokens of an input, columns heads, centred",
        takes="attention",
        note="invariances are of heads; biased CKA, whose bias is small as there are far more pairs than heads",
        self_value=1.0,
    )
)


def attention_frobenius(x: Any, y: Any) -> Similarity:
    """1 - mean Frobenius norm of the difference from the closest head: mean_h max_h' (1 - mean_s |A_h(s) - B_h'(s)|_F).

    Example::

        repsim.attention_frobenius(a, b)        # a [inputs, heads, tokens, tokens], b [inputs, heads', tokens, tokens]
        repsim.attention_frobenius([a0, a1], [b0, b1])       # a0, b0 [., 7, 7] of one input, a1, b1 [., 12, 12]

    Parameters
    ----------
    x, y: attention over the same tokens of the same inputs, heads may differ in number: arrays [inputs, heads, tokens,
        tokens] or lists of arrays [heads, tokens, tokens], of float16, bfloat16, float32 or float64.

    Returns
    -------
    Similarity of at most 1, which it is where y has every head of x. The value of (y, x) is another number.

    Raises
    ------
    TypeError, ValueError: no such arrays, inputs or tokens that differ, values that are not finite (the input is
        named).

    Paper: Wu, Belinkov, Sajjad, Durrani, Dalvi and Glass (2020), "Similarity analysis of contextual word representation
    models".
    """
    return _by_head(x, y, _frobenius, "attention_frobenius")


def attention_pearson(x: Any, y: Any) -> Similarity:
    """Mean correlation with the most correlated head: mean_h max_h' mean_s correlation(A_h(s), B_h'(s)).

    Example::

        repsim.attention_pearson(a, b)          # a [inputs, heads, tokens, tokens], b [inputs, heads', tokens, tokens]

    Parameters: as for :func:`attention_frobenius`. The correlation is over all queries and keys of an input, then
    averaged over inputs.

    Returns
    -------
    Similarity in [-1, 1], 1 where y has every head of x. The value of (y, x) is another number.

    Raises
    ------
    TypeError, ValueError: as for :func:`attention_frobenius`; a head whose attention to an input does not vary.

    Paper: as for :func:`attention_frobenius`.
    """
    return _by_head(x, y, _pearson, "attention_pearson")


def attention_jensen_shannon(x: Any, y: Any) -> Similarity:
    """1 - mean Jensen-Shannon divergence, in nats, from the closest head: mean_h max_h' (1 - mean JS(A_h, B_h')).

    Example::

        repsim.attention_jensen_shannon(a, b)   # a [inputs, heads, tokens, tokens], b [inputs, heads', tokens, tokens]

    Parameters: as for :func:`attention_frobenius`; every query's attention is a distribution over keys. The mean is
    over the queries of an input, then over inputs.

    Returns
    -------
    Similarity in [1 - ln 2, 1], 1 where y has every head of x. The value of (y, x) is another number.

    Raises
    ------
    TypeError, ValueError: as for :func:`attention_frobenius`; attention that is negative, or of a query far from 1 in
        all (logits, padding).

    Formula: JS(a, b) = sum_k [a_k ln(a_k / m_k) + b_k ln(b_k / m_k)] / 2 with m = (a + b) / 2.

    Paper: as for :func:`attention_frobenius`.
    """
    return _by_head(x, y, _jensen_shannon, "attention_jensen_shannon")


def attention_cka(x: Any, y: Any, *, threads: int | None = None) -> Similarity:
    """Linear (biased) CKA of all heads together: heads are features, all pairs of tokens of an input are examples.

    Example::

        repsim.attention_cka(a, b)              # a [inputs, heads, tokens, tokens], b [inputs, heads', tokens, tokens]

    Parameters
    ----------
    x, y: as for :func:`attention_frobenius`.
    threads: as for :func:`repsim.cka`.

    Returns
    -------
    Similarity in [0, 1], 1 for x with itself, the same for (y, x). For chance, the debiased form or another measure of
    representations take the rows of :func:`attention_rows`.

    Raises
    ------
    TypeError, ValueError: as for :func:`attention_frobenius`; heads none of which varies.

    Formula: |X'Y|_F^2 / (|X'X|_F |Y'Y|_F), X and Y of :func:`attention_rows`, centred.

    Paper: as for :func:`attention_frobenius`.
    """
    name = "attention_cka"
    cpus = thread_count(threads, function=name)
    left, right = _pair(x, y, name)
    sides = [Rows(_stacked(side, which, name), "float64", which) for side, which in ((left, "x"), (right, "y"))]
    own = [float(np.linalg.norm(own_products(rows, function=name, threads=cpus).xy)) for rows in sides]
    for rows, norm in zip(sides, own, strict=True):
        if not norm > 0:
            raise ValueError(f"[{name}] expected {rows.name} with heads that vary, got zero variance")
    cross = float(np.linalg.norm(cross_products(sides[0], sides[1], function=name, threads=cpus).xy))
    return Similarity.alone(cross**2 / (own[0] * own[1]), name, len(left), {})


def attention_rows(attention: Any) -> np.ndarray:
    """Attention as rows for any measure of representations: one for each pair of tokens of an input, one column a head.

    Example::

        rows = repsim.attention_rows(a)         # a [inputs, heads, tokens, tokens] -> [inputs * tokens^2, heads]
        repsim.cka(rows, repsim.attention_rows(b))

    Parameters
    ----------
    attention: as x of :func:`attention_frobenius`.

    Returns
    -------
    [pairs, heads] float64; inputs in order, then queries, then keys.

    Raises
    ------
    TypeError, ValueError: as for :func:`attention_frobenius`.

    Paper: as for :func:`attention_frobenius`.
    """
    name = "attention_rows"
    return _stacked(_inputs(attention, "attention", name), "attention", name)


def word_attention(attention: Any, words: Sequence[int]) -> np.ndarray:
    """Attention between words from that between their pieces: summed over the pieces of a key, averaged over a query's.

    Example::

        repsim.word_attention(a, [0, 1, 1, 2])               # a [heads, 4, 4] -> [heads, 3, 3]

    Parameters
    ----------
    attention: [heads, tokens, tokens] of one input, or [tokens, tokens] of one head.
    words: [tokens] the word that each token is a piece of, from 0 without gaps; a special token is a word of its own.

    Returns
    -------
    [heads, words, words] or [words, words] float64. What every query attends in all stays 1.

    Raises
    ------
    TypeError, ValueError: no such array, values that are not finite, words that are no ints, leave a number out or are
        not one for each token.

    Paper: as for :func:`attention_frobenius`, after Clark, Khandelwal, Levy and Manning (2019), "What does BERT look
    at?".
    """
    name = "word_attention"
    shape = tuple(getattr(attention, "shape", ()))
    if len(shape) not in (2, 3) or shape[-1] != shape[-2]:
        raise ValueError(f"[{name}] expected attention as an array [heads, tokens, tokens], got shape {shape}")
    heads = attention if len(shape) == 3 else attention[None]
    values = _wide(heads, "attention", name)
    numbers = list(words)
    if not all(isinstance(one, (int, np.integer)) and not isinstance(one, bool) for one in numbers):
        raise TypeError(f"[{name}] expected words as ints, got {numbers!r}; give special tokens words of their own")
    if len(numbers) != shape[-1]:
        raise ValueError(f"[{name}] expected words for each of {shape[-1]} tokens, got {len(numbers)}")
    if sorted(set(numbers)) != list(range(len(set(numbers)))):
        raise ValueError(f"[{name}] expected words numbered from 0 without gaps, got {sorted(set(numbers))}")
    pieces = np.equal.outer(np.arange(max(numbers) + 1), numbers).astype(np.float64)  # [words, tokens]
    joined: np.ndarray = (pieces / pieces.sum(axis=1, keepdims=True)) @ values @ pieces.T
    return joined if len(shape) == 3 else joined[0]


# ---------------------------------------------------------------------------------------------- heads, one by one


def _by_head(x: Any, y: Any, similarities: Callable[..., np.ndarray], name: str) -> Similarity:
    left, right = _pair(x, y, name)
    total: np.ndarray | float = 0.0
    for i, (a, b) in enumerate(zip(_each(left, "x", name), _each(right, "y", name), strict=True)):
        total = total + similarities(a, b, i, name)
    best = np.max(total, axis=1) / len(left)
    return Similarity.alone(float(best.mean()), name, len(left), {})


def _frobenius(a: np.ndarray, b: np.ndarray, i: int, name: str) -> np.ndarray:
    """[heads, heads'] of one input. By differences: a head that is there has a distance of exactly 0."""
    return np.stack([1 - np.sqrt(((a - other) ** 2).sum(axis=(1, 2))) for other in b], axis=1)


def _pearson(a: np.ndarray, b: np.ndarray, i: int, name: str) -> np.ndarray:
    sides = []
    for side, which in ((a, "x"), (b, "y")):
        flat = side.reshape(len(side), -1)
        centred = flat - flat.mean(axis=1, keepdims=True)
        # All values equal, which a mean that was rounded would hide.
        constant = (flat == flat[:, :1]).all(axis=1)
        if constant.any():
            raise ValueError(
                f"[{name}] expected {which}[{i}] whose heads all vary, got zero variance in head "
                f"{int(constant.argmax())}"
            )
        sides.append(centred / np.linalg.norm(centred, axis=1, keepdims=True))
    return sides[0] @ sides[1].T


def _jensen_shannon(a: np.ndarray, b: np.ndarray, i: int, name: str) -> np.ndarray:
    from scipy.special import rel_entr

    for side, which in ((a, "x"), (b, "y")):
        if (side < 0).any():
            raise ValueError(f"[{name}] expected {which}[{i}] without negative attention, got {float(side.min()):.3g}")
        totals = side.sum(axis=2)
        worst = float(totals.flat[int(np.abs(totals - 1).argmax())])
        if abs(worst - 1) > _TOTAL:
            raise ValueError(f"[{name}] expected {which}[{i}] with attention of 1 in all for a query, got {worst:.3g}")
    out = np.empty((len(a), len(b)))
    for column, other in enumerate(b):
        middle = (a + other) / 2
        out[:, column] = (rel_entr(a, middle) + rel_entr(other, middle)).sum(axis=2).mean(axis=1) / 2
    return 1 - out


# ---------------------------------------------------------------------------------------------- what comes in


def _pair(x: Any, y: Any, name: str) -> tuple[list[Any], list[Any]]:
    """Both sides as lists of [heads, tokens, tokens], not yet read."""
    left, right = _inputs(x, "x", name), _inputs(y, "y", name)
    if len(left) != len(right):
        raise ValueError(f"[{name}] expected y with {len(left)} inputs like x, got {len(right)}")
    for i, (a, b) in enumerate(zip(left, right, strict=True)):
        if tuple(a.shape[1:]) != tuple(b.shape[1:]):
            raise ValueError(
                f"[{name}] expected y[{i}] over {a.shape[1]} x {a.shape[2]} tokens like x[{i}], got "
                f"{b.shape[1]} x {b.shape[2]}"
            )
    return left, right


def _inputs(value: Any, which: str, name: str) -> list[Any]:
    listed = isinstance(value, (list, tuple))
    if not listed and len(getattr(value, "shape", ())) != 4:
        raise ValueError(
            f"[{name}] expected {which} as an array [inputs, heads, tokens, tokens] or a list of arrays [heads, "
            f"tokens, tokens], got {type(value).__name__} of shape {tuple(getattr(value, 'shape', ()))}"
        )
    inputs = list(value)
    if not inputs:
        raise ValueError(f"[{name}] expected {which} with at least one input, got none")
    for i, one in enumerate(inputs):
        shape = tuple(getattr(one, "shape", ()))
        if len(shape) != 3 or 0 in shape:
            raise ValueError(f"[{name}] expected {which}[{i}] as an array [heads, tokens, tokens], got shape {shape}")
        if shape[0] != inputs[0].shape[0]:
            raise ValueError(
                f"[{name}] expected {which}[{i}] with {inputs[0].shape[0]} heads like {which}[0], got {shape[0]}"
            )
    return inputs


def _each(inputs: list[Any], which: str, name: str) -> Iterator[np.ndarray]:
    for i, one in enumerate(inputs):
        yield _wide(one, f"{which}[{i}]", name)


def _wide(one: Any, which: str, name: str) -> np.ndarray:
    """[heads, queries, keys] float64."""
    shape = tuple(one.shape)
    rows = one.reshape(shape[0] * shape[1], shape[2])  # what an array may be is said in one place
    values = as_rows(rows, function=name, name=which).wide(slice(None)).reshape(shape)
    if not np.isfinite(values).all():
        raise ValueError(f"[{name}] expected {which} with finite values, got NaN or infinity")
    return values


def _stacked(inputs: list[Any], which: str, name: str) -> np.ndarray:
    heads = int(inputs[0].shape[0])
    stacked = np.empty((sum(int(np.prod(one.shape[1:])) for one in inputs), heads))
    at = 0
    for one in _each(inputs, which, name):
        flat = one.reshape(heads, -1)
        stacked[at : at + flat.shape[1]] = flat.T
        at += flat.shape[1]
    return stacked
