"""Textbook versions of the measures on neighbour lists: plain loops over Python lists, one input at a time.

Written from the definitions alone, as in oracles.py; `lists` are [n][k], best first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from oracles import as_float64

List = Sequence[int]
Lists = Sequence[List]


def as_lists(indices: np.ndarray) -> list[list[int]]:
    return [[int(j) for j in row] for row in indices]


# ---------------------------------------------------------------------------------------------- two lists


def shared(a: List, b: List) -> int:
    return len([j for j in a if j in b])


def jaccard(a: List, b: List) -> float:
    return len(set(a) & set(b)) / len(set(a) | set(b))


def longest_common_subsequence(a: List, b: List) -> int:
    """The table of the textbook."""
    above = [0] * (len(b) + 1)
    for one in a:
        here = [0]
        for j, other in enumerate(b):
            here.append(above[j] + 1 if one == other else max(above[j + 1], here[j]))
        above = here
    return above[-1]


def levenshtein(a: List, b: List) -> int:
    above = list(range(len(b) + 1))
    for i, one in enumerate(a):
        here = [i + 1]
        for j, other in enumerate(b):
            here.append(min(above[j + 1] + 1, here[j] + 1, above[j] + (one != other)))
        above = here
    return above[-1]


def rank(a: List, b: List) -> float:
    both = [j for j in a if j in b]
    if not both:
        return 0.0
    total = 0.0
    for j in both:
        r, s = a.index(j) + 1, b.index(j) + 1
        total += 2 / ((1 + abs(r - s)) * (r + s))
    return total / sum(1 / m for m in range(1, len(both) + 1))


def joint(a: List, b: List) -> float:
    return jaccard(a, b) * rank(a, b)


TERM: dict[str, Callable[[List, List], float]] = {
    "mutual_knn": lambda a, b: shared(a, b) / len(a),
    "knn_jaccard": jaccard,
    "lcs_knn": lambda a, b: longest_common_subsequence(a, b) / len(a),
    "edit_distance_knn": lambda a, b: 1 - levenshtein(a, b) / len(a),
    "rank_similarity": rank,
    "joint_rank_jaccard": joint,
}


# ---------------------------------------------------------------------------------------------- all inputs


def cycles(x: Lists, y: Lists) -> list[bool]:
    """Whether i is a neighbour in x of one of its neighbours in y."""
    return [any(i in x[j] for j in y[i]) for i in range(len(y))]


def terms(measure: str, x: Lists, y: Lists) -> list[float]:
    if measure == "cycle_knn":
        return [float(found) for found in cycles(x, y)]
    return [TERM[measure](a, b) for a, b in zip(x, y, strict=True)]


def value(measure: str, x: Lists, y: Lists) -> float:
    found = terms(measure, x, y)
    return math.fsum(found) / len(found)


def renamed(lists: Lists, names: Sequence[int]) -> list[list[int]]:
    """Input r becomes input names[r], as a row and where it is listed."""
    out: list[list[int]] = [[] for _ in lists]
    for r, row in enumerate(lists):
        out[int(names[r])] = [int(names[j]) for j in row]
    return out


def cosine(u: np.ndarray, v: np.ndarray) -> float:
    return float(u @ v) / math.sqrt(float(u @ u) * float(v @ v))


def second_order_terms(x: Any, y: Any, lists_x: Lists, lists_y: Lists) -> list[float]:
    x, y = as_float64(x), as_float64(y)
    out = []
    for i, (a, b) in enumerate(zip(lists_x, lists_y, strict=True)):
        union = sorted({*a, *b})
        s, t = (np.array([cosine(z[i], z[j]) for j in union]) for z in (x, y))
        out.append(cosine(s, t))
    return out


# ---------------------------------------------------------------------------------------------- exact chance


def overlap_probabilities(n: int, listed: int, k: int) -> list[Fraction]:
    """P(m of the k neighbours that a relabelling deals to an input are among `listed` of the n - 1 others)."""
    return [
        Fraction(math.comb(listed, m) * math.comb(n - 1 - listed, k - m), math.comb(n - 1, k)) if m <= listed else
        Fraction(0)
        for m in range(k + 1)
    ]  # fmt: skip


def chance(measure: str, x: Lists, k: int) -> float:
    """The exact mean over all relabellings: which m neighbours are shared, and at which ranks, is uniform."""
    n = len(x)
    if measure == "cycle_knn":
        listed_by = [sum(i in row for row in x) for i in range(n)]
        return float(sum(1 - overlap_probabilities(n, count, k)[0] for count in listed_by) / n)
    weight = sum(
        Fraction(2, (1 + abs(r - s)) * (r + s)) for r in range(1, k + 1) for s in range(1, k + 1)
    ) / k**2  # fmt: skip
    total = Fraction(0)
    for m, p in enumerate(overlap_probabilities(n, k, k)):
        harmonic = sum((Fraction(1, h) for h in range(1, m + 1)), Fraction(0))
        ranks = m * weight / harmonic if m else Fraction(0)
        overlap = Fraction(m, 2 * k - m)
        total += (
            p
            * {
                "mutual_knn": Fraction(m, k),
                "knn_jaccard": overlap,
                "rank_similarity": ranks,
                "joint_rank_jaccard": overlap * ranks,
            }[measure]
        )
    return float(total)
