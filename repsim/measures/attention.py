"""Similarities of attention: head by head, and of all heads together.

Attention is given as an array [inputs, heads, tokens, tokens], or where inputs differ in length as a list of arrays
[heads, tokens, tokens]; rows are queries, columns keys, of which there may be another number (cross-attention).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..arguments import thread_count
from ..reductions import cross_products, own_products
from .attention_maps import each, inputs_of, pair, pair_of_rows, stacked, wide
from .cca import svcca_of
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
register(
    Measure(
        name="attention_svcca",
        family="attention",
        kind="similarity",
        low=0.0,
        high=1.0,
        symmetric=True,
        invariances=invariant_to("orthogonal", "isotropic_scaling", "translation"),
        cost="time inputs tokens^2 heads heads', memory inputs tokens^2 (heads + heads')",
        paper=_WU,
        formula="svcca, rows all pairs of tokens of an input, columns heads",
        takes="attention",
        note="invariances are of heads; of few heads nearly every component is kept, and it is then cca_mean",
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
    models". Their public code takes the same mean norms, but then puts the least of all pairs of heads at 0 and the
    largest at 1, so that a value depends on the worst pair; here norms stay as they are.
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
    sides, inputs = pair_of_rows(x, y, name)
    own = [float(np.linalg.norm(own_products(rows, function=name, threads=cpus).xy)) for rows in sides]
    for rows, norm in zip(sides, own, strict=True):
        if not norm > 0:
            raise ValueError(f"[{name}] expected {rows.name} with heads that vary, got zero variance")
    cross = float(np.linalg.norm(cross_products(sides[0], sides[1], function=name, threads=cpus).xy))
    return Similarity.alone(cross**2 / (own[0] * own[1]), name, inputs, {})


def attention_svcca(
    x: Any, y: Any, *, variance: float = 0.99, variant: str = "raghu2017", threads: int | None = None
) -> Similarity:
    """SVCCA of all heads together: heads are features, all pairs of tokens of an input are examples.

    Example::

        repsim.attention_svcca(a, b)            # a [inputs, heads, tokens, tokens], b [inputs, heads', tokens, tokens]
        repsim.attention_svcca(a, b, variant="wu2020")

    Parameters
    ----------
    x, y: as for :func:`attention_frobenius`.
    variance, variant: as for :func:`repsim.svcca`. "wu2020" is what the public code of the paper does: heads of unit
        variance, and only the components before the one that reaches the share.
    threads: as for :func:`repsim.cka`.

    Returns
    -------
    Similarity in [0, 1], 1 for x with itself, the same for (y, x): ``repsim.svcca`` of :func:`attention_rows`, which
    takes these where chance is asked for.

    Raises
    ------
    TypeError, ValueError: as for :func:`attention_frobenius`; heads none of which varies; another variant or share; no
        component before the share is reached.

    Formula: mean_i rho_i of the components kept, over the smaller number of them.

    Paper: as for :func:`attention_frobenius`; Raghu, Gilmer, Yosinski and Sohl-Dickstein (2017), "SVCCA".
    """
    name = "attention_svcca"
    method = svcca_of(name, variance, variant)
    cpus = thread_count(threads, function=name)
    sides, inputs = pair_of_rows(x, y, name)
    left, right = (method.prepare(rows, cpus) for rows in sides)
    options = {"variance": variance, "variant": variant}
    return Similarity.alone(method.between(left, right, cpus), name, inputs, options)


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
    return stacked(inputs_of(attention, "attention", name), "attention", name)


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
    values = wide(heads, "attention", name)
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
    left, right = pair(x, y, name)
    total: np.ndarray | float = 0.0
    for i, (a, b) in enumerate(zip(each(left, "x", name), each(right, "y", name), strict=True)):
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
