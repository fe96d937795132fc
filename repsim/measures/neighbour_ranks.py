"""In what order two representations list the neighbours that they share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .list_means import ListMean, grid_of_means, mean, mean_of_pair, share_of_k
from .neighbours import Neighbours, register_neighbours
from .similarity import Grid, Similarity


def _unedited_share(total: np.ndarray, inputs: int, k: int) -> np.ndarray:
    return 1 - total / (inputs * k)


LCS_KNN = {
    True: ListMean("lcs_knn", "common_subsequence", share_of_k),
    False: ListMean("lcs_knn", "common_subsequence", mean),
}
EDIT_DISTANCE_KNN = ListMean("edit_distance_knn", "edit_distance", _unedited_share)
RANK_SIMILARITY = ListMean("rank_similarity", "ranks", mean)
JOINT_RANK_JACCARD = ListMean("joint_rank_jaccard", "jaccard_ranks", mean)

_PLATONIC = "Huh, Cheung, Wang and Isola (2024), The Platonic representation hypothesis"
_WANG = "Wang et al. (2020), Towards understanding the instability of network embedding"
register_neighbours(
    "lcs_knn",
    "mean_i longest common subsequence of both lists / k",
    _PLATONIC,
    aliases=("platonic-rep: lcs_knn (not over k)",),
)
register_neighbours(
    "edit_distance_knn",
    "1 - mean_i Levenshtein distance of both lists / k",
    _PLATONIC,
    aliases=("platonic-rep: edit_distance_knn",),
    note="a similarity, in spite of its name in the field",
)
register_neighbours(
    "rank_similarity",
    "mean_i sum over shared j of 2 / ((1 + |r - r'|) (r + r')) over its largest value",
    _WANG,
    aliases=("ReSi: RankSimilarity",),
)
register_neighbours("joint_rank_jaccard", "mean_i Jaccard of i times rank similarity of i", _WANG)


def lcs_knn(
    x: Any,
    y: Any,
    *,
    k: int = 10,
    metric: str = "cosine",
    normalized: bool = True,
    permutations: int = 200,
    seed: int = 0,
    threads: int | None = None,
    memory: int | str | None = None,
    device: Any = None,
) -> Similarity:
    """Mean length of the longest common subsequence of the two lists of k nearest neighbours, best first.

    Example::

        repsim.lcs_knn(x, y, k=10)                       # x [n, d], y [n, d']: a share of k
        repsim.lcs_knn(x, y, k=10, normalized=False)     # in neighbours

    Parameters
    ----------
    x, y, k, metric, seed, threads, memory, device: as for :func:`mutual_knn`.
    normalized: whether the length is divided by k.
    permutations: relabellings (at least 2) for the level of chance and the add-one p-value, O(n k) each.

    Returns
    -------
    Similarity in [0, 1], in [0, k] where not normalized, its greatest value for x with itself, the same for (x, y) and
    (y, x). 1 - value, normalized, is a metric between graphs: half the insertions and deletions that turn one list into
    the other, over k. The mean and sd of chance are those of the relabellings drawn.

    Raises
    ------
    TypeError, ValueError: as for :func:`mutual_knn`; fewer than 2 permutations; ``normalized`` that is no bool.

    Paper: Huh, Cheung, Wang and Isola (2024), "The Platonic representation hypothesis".
    """
    measure = _lcs(normalized)
    return mean_of_pair(
        measure, x, y, k, metric, permutations, seed, threads, memory, device, {"normalized": normalized}
    )


def lcs_knn_grid(
    xs: Sequence[Neighbours],
    ys: Sequence[Neighbours],
    *,
    normalized: bool = True,
    permutations: int = 200,
    seed: int = 0,
    threads: int | None = None,
) -> Grid:
    """:func:`lcs_knn` between every graph in ``xs`` and every graph in ``ys``."""
    return grid_of_means(_lcs(normalized), xs, ys, permutations, seed, threads, {"normalized": normalized})


def _lcs(normalized: bool) -> ListMean:
    if not isinstance(normalized, bool):
        raise TypeError(f"[lcs_knn] expected normalized as a bool, got {normalized!r}")
    return LCS_KNN[normalized]


def edit_distance_knn(
    x: Any,
    y: Any,
    *,
    k: int = 10,
    metric: str = "cosine",
    permutations: int = 200,
    seed: int = 0,
    threads: int | None = None,
    memory: int | str | None = None,
    device: Any = None,
) -> Similarity:
    """One less the mean Levenshtein distance of the two lists of k nearest neighbours, best first, over k.

    1 - mean_i Levenshtein(N_x(i), N_y(i)) / k: insertions, deletions and substitutions of one neighbour count 1 each.

    Example::

        repsim.edit_distance_knn(x, y, k=10)             # x [n, d], y [n, d']

    Parameters
    ----------
    x, y, k, metric, seed, threads, memory, device: as for :func:`mutual_knn`.
    permutations: relabellings (at least 2) for the level of chance and the add-one p-value; O(n k) each where few
        neighbours are shared, O(n k^2 / 64) at the most.

    Returns
    -------
    Similarity in [0, 1], 1 for x with itself, its value the same for (x, y) and (y, x). 1 - value is a metric between
    graphs. The mean and sd of chance are those of the relabellings drawn.

    Raises
    ------
    TypeError, ValueError: as for :func:`mutual_knn`; fewer than 2 permutations.

    Paper: Huh, Cheung, Wang and Isola (2024), "The Platonic representation hypothesis".
    """
    return mean_of_pair(EDIT_DISTANCE_KNN, x, y, k, metric, permutations, seed, threads, memory, device)


def edit_distance_knn_grid(
    xs: Sequence[Neighbours],
    ys: Sequence[Neighbours],
    *,
    permutations: int = 200,
    seed: int = 0,
    threads: int | None = None,
) -> Grid:
    """:func:`edit_distance_knn` between every graph in ``xs`` and every graph in ``ys``."""
    return grid_of_means(EDIT_DISTANCE_KNN, xs, ys, permutations, seed, threads)


def rank_similarity(
    x: Any,
    y: Any,
    *,
    k: int = 10,
    metric: str = "cosine",
    permutations: int = 200,
    seed: int = 0,
    threads: int | None = None,
    memory: int | str | None = None,
    device: Any = None,
) -> Similarity:
    """How alike the ranks of the shared nearest neighbours are, near ones counting more.

    With C the neighbours that i has in both and r, r' = 1 ... k the ranks of one of them, the mean over i of
    sum_C 2 / ((1 + |r - r'|) (r + r')) / sum_(m <= |C|) 1 / m, 0 where C is empty.

    Example::

        repsim.rank_similarity(x, y, k=10)               # x [n, d], y [n, d']

    Parameters
    ----------
    x, y, k, metric, seed, threads, memory, device: as for :func:`mutual_knn`.
    permutations: relabellings (at least 2) for the level of chance and the add-one p-value, O(n k) each.

    Returns
    -------
    Similarity in [0, 1], 1 for x with itself but for others too (one shared neighbour is enough where it comes first in
    both lists), its value the same for (x, y) and (y, x) up to rounding. No metric follows. The mean and sd of chance
    are those of the relabellings drawn.

    Raises
    ------
    TypeError, ValueError: as for :func:`mutual_knn`; fewer than 2 permutations.

    Paper: Wang, Rao, Zhang, Qin, Zhang and Wang (2020), "Towards understanding the instability of network embedding".
    """
    return mean_of_pair(RANK_SIMILARITY, x, y, k, metric, permutations, seed, threads, memory, device)


def rank_similarity_grid(
    xs: Sequence[Neighbours],
    ys: Sequence[Neighbours],
    *,
    permutations: int = 200,
    seed: int = 0,
    threads: int | None = None,
) -> Grid:
    """:func:`rank_similarity` between every graph in ``xs`` and every graph in ``ys``."""
    return grid_of_means(RANK_SIMILARITY, xs, ys, permutations, seed, threads)


def joint_rank_jaccard(
    x: Any,
    y: Any,
    *,
    k: int = 10,
    metric: str = "cosine",
    permutations: int = 200,
    seed: int = 0,
    threads: int | None = None,
    memory: int | str | None = None,
    device: Any = None,
) -> Similarity:
    """Mean over inputs of the product of the terms of :func:`rank_similarity` and :func:`knn_jaccard`.

    Example::

        repsim.joint_rank_jaccard(x, y, k=10)            # x [n, d], y [n, d']

    Parameters
    ----------
    x, y, k, metric, seed, threads, memory, device: as for :func:`mutual_knn`.
    permutations: relabellings (at least 2) for the level of chance and the add-one p-value, O(n k) each.

    Returns
    -------
    Similarity in [0, 1], 1 for x with itself and for no graph of other lists or another order, its value the same for
    (x, y) and (y, x) up to rounding. No metric follows. The mean and sd of chance are those of the relabellings drawn.

    Raises
    ------
    TypeError, ValueError: as for :func:`mutual_knn`; fewer than 2 permutations.

    Paper: Wang, Rao, Zhang, Qin, Zhang and Wang (2020), "Towards understanding the instability of network embedding".
    """
    return mean_of_pair(JOINT_RANK_JACCARD, x, y, k, metric, permutations, seed, threads, memory, device)


def joint_rank_jaccard_grid(
    xs: Sequence[Neighbours],
    ys: Sequence[Neighbours],
    *,
    permutations: int = 200,
    seed: int = 0,
    threads: int | None = None,
) -> Grid:
    """:func:`joint_rank_jaccard` between every graph in ``xs`` and every graph in ``ys``."""
    return grid_of_means(JOINT_RANK_JACCARD, xs, ys, permutations, seed, threads)
