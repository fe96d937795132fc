"""Pairs of training sets, class sets and tasks that overlap by a stated amount, from a seed.

A pair is what two models are trained on. Its size never depends on the overlap, and neither does the first model's
part: only the second one's moves. So the first model is trained once per seed and meets every second one; and along
alpha the second's parts are nested, for a larger overlap keeps all that a smaller one shared.

An overlap `alpha` is the shared fraction of a part. A shared count is rounded (half up), so each result also carries
`realised`, the fraction it truly has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Streams of the random generator: the same seed gives unrelated data and class splits.
_DATA_STREAM = 1
_CLASS_STREAM = 2
_DEAL_STREAM = 3


@dataclass(frozen=True, eq=False)
class DataSplit:
    """Positions of two training sets; made by `data_overlap`.

    Args:
        first: int64 [m], sorted, the same for every alpha.
        second: int64 [m], sorted.
        alpha: the overlap asked for.
        realised: |first and second| / m.
        seed: what the split was drawn from.
    """

    first: np.ndarray
    second: np.ndarray
    alpha: float
    realised: float
    seed: int


def data_overlap(labels: np.ndarray, alpha: float, *, size: int | None = None, seed: int) -> DataSplit:
    """Two training sets of equal size that share a fraction alpha of the images of every class.

    Example:
        split = data_overlap(digits, 0.5, size=600, seed=0)     # digits: int64 [1797]
        split.first, split.second                               # int64 [600] each, about 300 in both

    In each class the images are shuffled: the first set takes the leading ones, the second shares some of those and
    fills up from the ones behind them. All classes together share exactly round(alpha * size) images; how the rounding
    falls on the single classes is drawn from the seed, so that many small classes do not all round the same way.

    Args:
        labels: integers [n], the class of every image; or [n, heads], where each distinct row counts as a class.
        alpha: shared fraction in [0, 1].
        size: images in each set, dealt to the classes in proportion (largest remainder, ties drawn from the seed).
            None: half of every class, rounded down.
        seed: a non-negative integer.

    Returns:
        DataSplit: |first| == |second| == size for every alpha; `first` does not depend on alpha.

    Raises:
        TypeError, ValueError: labels that are no integers or empty; alpha outside [0, 1]; a size that cannot be had:
            a class needs (2 - alpha) times its count.
    """
    strata = _strata(labels, "data_overlap")
    alpha = _fraction(alpha, "data_overlap")
    seed = _whole(seed, 0, "data_overlap", "seed")
    available = np.bincount(strata)
    turn = np.random.default_rng([seed, _DEAL_STREAM]).permutation(len(available))
    if size is None:
        counts = available // 2
        if counts.sum() == 0:
            raise ValueError("[data_overlap] expected labels with at least 2 images in some class, got 1 in each")
    else:
        size = _whole(size, 1, "data_overlap", "size")
        if size > len(strata):
            raise ValueError(f"[data_overlap] expected size of at most the {len(strata)} images, got {size}")
        counts = _in_proportion(size, available, turn)
    shared = _shared_counts(_rounded(alpha, int(counts.sum())), counts, turn)
    short = np.flatnonzero(2 * counts - shared > available)
    if short.size:
        worst = short[np.argmax((2 * counts - shared - available)[short])]
        raise ValueError(
            f"[data_overlap] expected size such that two sets sharing {alpha:g} fit, got size {counts.sum()}: "
            f"a class needs {2 * counts[worst] - shared[worst]} images and has {available[worst]}"
        )
    first, second = [], []
    for stratum, (count, common) in enumerate(zip(counts, shared, strict=True)):
        shuffled = np.random.default_rng([seed, _DATA_STREAM, stratum]).permutation(np.flatnonzero(strata == stratum))
        first.append(shuffled[:count])
        second.append(np.concatenate([shuffled[:common], shuffled[count : 2 * count - common]]))
    return DataSplit(
        first=np.sort(np.concatenate(first)).astype(np.int64),
        second=np.sort(np.concatenate(second)).astype(np.int64),
        alpha=alpha,
        realised=float(shared.sum() / counts.sum()),
        seed=seed,
    )


@dataclass(frozen=True)
class ClassSplit:
    """The classes two models learn; made by `class_overlap`.

    Args:
        first: classes of the first model, the same for every alpha. A class's place is its new label.
        second: classes of the second model. A shared class has the same place in both.
        alpha: the overlap asked for.
        realised: shared classes / classes of a model.
        seed: what the split was drawn from.
    """

    first: tuple[int, ...]
    second: tuple[int, ...]
    alpha: float
    realised: float
    seed: int

    def positions(self, labels: np.ndarray, which: str = "first") -> np.ndarray:
        """The images that belong to a model's classes.

        Example:
            rows = split.positions(labels, "second")                # int64 [m], sorted
            new = split.relabel(labels[rows], "second")             # int64 [m] in [0, len(split.second))

        Args:
            labels: integers [n], the original classes.
            which: "first" or "second".

        Returns:
            int64 [m], sorted positions in `labels`.
        """
        function = "ClassSplit.positions"
        old = _integers(labels, function)
        return np.flatnonzero(np.isin(old, self._classes(which, function))).astype(np.int64)

    def relabel(self, labels: np.ndarray, which: str = "first") -> np.ndarray:
        """New labels 0, 1, ... of images of a model's classes; a shared class gets the same one in both models.

        Example:
            ClassSplit((4, 2), (4, 7), 0.5, 0.5, 0).relabel(np.array([2, 4, 4]))      # array([1, 0, 0])

        Args:
            labels: integers [n], every one a class of that model (`positions` finds them).
            which: "first" or "second".

        Returns:
            int64 [n] in [0, number of the model's classes).

        Raises:
            ValueError: a label that is no class of that model.
        """
        function = "ClassSplit.relabel"
        old = _integers(labels, function)
        matches = old[:, None] == np.array(self._classes(which, function))
        foreign = np.flatnonzero(~matches.any(axis=1))
        if foreign.size:
            where = int(foreign[0])
            raise ValueError(
                f"[{function}] expected labels among the {which} model's classes, got {old[where]} at position {where}"
            )
        return matches.argmax(axis=1).astype(np.int64)

    def _classes(self, which: str, function: str) -> tuple[int, ...]:
        if which not in ("first", "second"):
            raise ValueError(f"[{function}] expected which as 'first' or 'second', got {which!r}")
        return self.first if which == "first" else self.second


def class_overlap(classes: int, alpha: float, *, seed: int, per_model: int | None = None) -> ClassSplit:
    """Two sets of classes of equal size that share a fraction alpha.

    Example:
        class_overlap(100, 0.2, seed=0)     # 50 classes a model, 10 of them shared

    Args:
        classes: number of classes there are, at least 2.
        alpha: shared fraction in [0, 1].
        seed: a non-negative integer.
        per_model: classes of each model; None: half of them, rounded down.

    Returns:
        ClassSplit; `first` does not depend on alpha.

    Raises:
        TypeError, ValueError: alpha outside [0, 1]; fewer than (2 - alpha) * per_model classes.
    """
    classes = _whole(classes, 2, "class_overlap", "classes")
    alpha = _fraction(alpha, "class_overlap")
    seed = _whole(seed, 0, "class_overlap", "seed")
    count = classes // 2 if per_model is None else _whole(per_model, 1, "class_overlap", "per_model")
    shared = _rounded(alpha, count)
    if 2 * count - shared > classes:
        raise ValueError(
            f"[class_overlap] expected per_model such that two sets sharing {alpha:g} fit into {classes} classes, "
            f"got {count}, which needs {2 * count - shared}"
        )
    order = [int(c) for c in np.random.default_rng([seed, _CLASS_STREAM]).permutation(classes)]
    second = order[:shared] + order[count : 2 * count - shared]
    return ClassSplit(tuple(order[:count]), tuple(second), alpha, shared / count, seed)


@dataclass(frozen=True, eq=False)
class CorpusSplit:
    """Corpora and chunks of two language models; made by `corpus_overlap`.

    Args:
        first: int64 [m], sorted positions of the first model's chunks, the same for every overlap.
        second: int64 [m], sorted.
        corpora_first, corpora_second: which corpora they come from.
        corpora: the share of corpora in common that was asked for.
        alpha: the share of the chunks in common that was asked for, within a corpus that both have.
        realised_corpora: corpora that both have / corpora of a model.
        realised: |first and second| / m, over all corpora.
        seed: what the split was drawn from.
    """

    first: np.ndarray
    second: np.ndarray
    corpora_first: tuple[int, ...]
    corpora_second: tuple[int, ...]
    corpora: float
    alpha: float
    realised_corpora: float
    realised: float
    seed: int


def corpus_overlap(
    chunks: np.ndarray, corpora: float, *, alpha: float = 1.0, seed: int, per_model: int | None = None
) -> CorpusSplit:
    """Two training sets of chunks of text that share a fraction of their corpora, and of the chunks in those.

    Example:
        chunks = np.repeat(np.arange(6), 14)                                # 6 corpora of 14 chunks each
        split = corpus_overlap(chunks, 1 / 3, seed=0)                       # 3 corpora a model, 1 of them shared
        split.first, split.second                                           # int64 [21] each, 7 in both
        corpus_overlap(np.zeros(80, int), 1, alpha=0.5, per_model=1, seed=0).first          # 40 of 80 chunks, 20 shared

    A model takes half of the chunks of each of its corpora. In a corpus that both have, the second model's half shares
    a fraction alpha with the first one's; of a corpus that only one has, it shares nothing. So corpora and chunks, data
    of one source and the very data, can be crossed.

    Args:
        chunks: integers [n], the corpus of every chunk; each corpus has as many, an even number.
        corpora: shared fraction of the corpora in [0, 1].
        alpha: shared fraction of the chunks of a shared corpus in [0, 1].
        seed: a non-negative integer.
        per_model: corpora of each model; None: half of them, rounded down.

    Returns:
        CorpusSplit; `first` depends on neither overlap, and both sets have the same size for all.

    Raises:
        TypeError, ValueError: fractions outside [0, 1]; corpora of different or odd numbers of chunks; too few corpora.
    """
    strata = _strata(chunks, "corpus_overlap")
    counts = np.bincount(strata)
    if len(set(counts.tolist())) > 1 or counts[0] % 2:
        raise ValueError(
            f"[corpus_overlap] expected as many chunks in each corpus, an even number, got {counts.tolist()}"
        )
    per_model = len(counts) // 2 if per_model is None else _whole(per_model, 1, "corpus_overlap", "per_model")
    if len(counts) == 1:
        if per_model != 1 or corpora != 1:
            raise ValueError(
                "[corpus_overlap] expected corpora 1 and per_model 1 of a single corpus, "
                f"got {corpora:g} and {per_model}"
            )
        owned = ClassSplit((0,), (0,), 1.0, 1.0, seed)
    else:
        owned = class_overlap(len(counts), corpora, seed=seed, per_model=per_model)
    halves = data_overlap(strata, alpha, seed=seed)
    first, second = (
        part[np.isin(strata[part], own)] for part, own in ((halves.first, owned.first), (halves.second, owned.second))
    )
    return CorpusSplit(
        first=first,
        second=second,
        corpora_first=owned.first,
        corpora_second=owned.second,
        corpora=owned.alpha,
        alpha=halves.alpha,
        realised_corpora=owned.realised,
        realised=len(np.intersect1d(first, second)) / len(first),
        seed=halves.seed,
    )


@dataclass(frozen=True)
class TaskSplit:
    """The attributes two models learn on the same images; made by `task_overlap`.

    Args:
        first: attributes of the first model, in the order of the attributes given.
        second: attributes of the second model, likewise.
        shared: how many are in both.
        seed: which turn of the attributes was taken.
    """

    first: tuple[str, ...]
    second: tuple[str, ...]
    shared: int
    seed: int


def task_overlap(attributes: Sequence[str], shared: int, *, seed: int, size: int | None = None) -> TaskSplit:
    """Two tasks, sets of attributes of equal size, of which a stated number is shared.

    Example:
        task_overlap(("color", "shape", "digit"), 1, seed=0)
        # TaskSplit(first=("color", "shape"), second=("color", "digit"), shared=1, seed=0)

    The seed turns the attributes around, and every other full turn runs backwards, so that over consecutive seeds
    every attribute plays every part equally often.

    Args:
        attributes: the distinct names there are, k of them.
        shared: attributes in both tasks, 0 to k.
        seed: a non-negative integer.
        size: attributes of each task. None: shared + 1 where the attributes suffice for that, else as many as they do:
            of three attributes 1 for shared 0, 2 for shared 1, 3 for shared 3 (Li et al. 2025, arXiv 2505.13899).

    Returns:
        TaskSplit. With a size given, seed by seed, `first` does not depend on `shared`.

    Raises:
        TypeError, ValueError: names that repeat or are missing; shared above size; 2 * size - shared above k.
    """
    if isinstance(attributes, str):
        raise TypeError(f"[task_overlap] expected attributes as a tuple of names, got {attributes!r}")
    names = tuple(attributes)
    if not names or len(set(names)) != len(names):
        raise ValueError(f"[task_overlap] expected attributes as distinct names, at least one, got {names}")
    shared = _whole(shared, 0, "task_overlap", "shared")
    seed = _whole(seed, 0, "task_overlap", "seed")
    k = len(names)
    if shared > k:
        raise ValueError(f"[task_overlap] expected shared of at most the {k} attributes, got {shared}")
    count = min(shared + 1, (k + shared) // 2) if size is None else _whole(size, 1, "task_overlap", "size")
    if count < max(shared, 1) or 2 * count - shared > k:
        raise ValueError(
            f"[task_overlap] expected size such that two tasks of that size share {shared} of {k} attributes, "
            f"got {count}, which needs shared <= size and {max(2 * count - shared, 1)} attributes"
        )
    turn = seed % k
    order = [*range(turn, k), *range(turn)]
    if (seed // k) % 2:  # the other way round, or some ordered pairs of attributes would never occur
        order = [order[0], *order[:0:-1]]

    def chosen(places: list[int]) -> tuple[str, ...]:
        return tuple(names[place] for place in sorted(places))

    return TaskSplit(chosen(order[:count]), chosen(order[:shared] + order[count : 2 * count - shared]), shared, seed)


@dataclass(frozen=True, eq=False)
class FactorialCell:
    """One cell of the data x task design: what two models see, and what they learn from it."""

    data: DataSplit
    task: TaskSplit


def factorial(
    labels: np.ndarray,
    attributes: Sequence[str],
    *,
    alphas: Sequence[float],
    shared: Sequence[int],
    seed: int,
    size: int | None = None,
    task_size: int = 1,
) -> tuple[FactorialCell, ...]:
    """Every data overlap crossed with every task overlap, on the same images.

    Example:
        factorial(labels, ("color", "shape", "digit"), alphas=(0, 0.5, 1), shared=(0, 1), seed=0)   # 6 cells

    Args:
        labels: integers [n] or [n, heads], as in `data_overlap`.
        attributes: names, as in `task_overlap`.
        alphas: distinct data overlaps in [0, 1].
        shared: distinct numbers of shared attributes, 0 to task_size.
        seed: a non-negative integer.
        size: images of each model; None: half of every class.
        task_size: attributes of each model, the same in all cells.

    Returns:
        len(alphas) * len(shared) cells, alpha by alpha. The first model, data and task, is the same in all of them.

    Raises:
        TypeError, ValueError: levels that repeat or are missing, and whatever `data_overlap`, `task_overlap` raise.
    """
    for name, levels in (("alphas", alphas), ("shared", shared)):
        if len(levels) == 0 or len(set(levels)) != len(levels):
            raise ValueError(f"[factorial] expected {name} as distinct levels, at least one, got {tuple(levels)}")
    splits = [data_overlap(labels, alpha, size=size, seed=seed) for alpha in alphas]
    tasks = [task_overlap(attributes, count, seed=seed, size=task_size) for count in shared]
    return tuple(FactorialCell(split, task) for split in splits for task in tasks)


def _integers(labels: np.ndarray, function: str) -> np.ndarray:
    array = np.asarray(labels)
    if array.size == 0:
        raise ValueError(f"[{function}] expected labels that are not empty, got shape {array.shape}")
    if array.dtype.kind not in "iu":
        raise TypeError(f"[{function}] expected labels as integers, got {array.dtype}")
    if array.ndim != 1:
        raise ValueError(f"[{function}] expected labels with one axis, got shape {array.shape}")
    return array


def _strata(labels: np.ndarray, function: str) -> np.ndarray:
    """int64 [n]: the labels, or the rows of labels [n, heads], numbered 0, 1, ... in sorted order."""
    array = np.asarray(labels)
    if array.ndim == 2 and array.size and array.dtype.kind in "iu":
        return np.unique(array, axis=0, return_inverse=True)[1].reshape(-1)
    return np.unique(_integers(array, function), return_inverse=True)[1]


def _fraction(alpha: float, function: str) -> float:
    if isinstance(alpha, (bool, np.bool_)) or not isinstance(alpha, (int, float, np.integer, np.floating)):
        raise TypeError(f"[{function}] expected alpha as a number in [0, 1], got {alpha!r}")
    if not 0 <= alpha <= 1:  # NaN fails too
        raise ValueError(f"[{function}] expected alpha in [0, 1], got {float(alpha):g}")
    return float(alpha)


def _whole(value: int, low: int, function: str, argument: str) -> int:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"[{function}] expected {argument} as an integer, got {value!r}")
    if value < low:
        raise ValueError(f"[{function}] expected {argument} of at least {low}, got {value}")
    return int(value)


def _rounded(alpha: float, count: int) -> int:
    """alpha * count, half up; 0.145 * 100 is 14.499... in binary, so the product is cleaned first."""
    return math.floor(round(alpha * count, 9) + 0.5)


def _in_proportion(size: int, available: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """int64 [classes]: size dealt in proportion to `available`, exact in total; equal remainders are served by turn."""
    whole, remainder = np.divmod(size * available.astype(np.int64), int(available.sum()))
    whole[np.lexsort((turn, -remainder))[: size - int(whole.sum())]] += 1
    return whole


def _shared_counts(total: int, counts: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """int64 [classes]: `total` dealt in proportion to `counts`; a larger total takes nothing away from any class.

    The j-th image of a class becomes shared when the overlap passes (j - offset) / count, the offsets spread evenly
    over the classes. So every class stays in step with the overlap, and the order in which images join is fixed.
    """
    owner = np.repeat(np.arange(len(counts)), counts)
    place = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts) + 1
    joins = (place - (turn[owner] + 0.5) / len(counts)) / counts[owner]
    return np.bincount(owner[np.argsort(joins, kind="stable")[:total]], minlength=len(counts))
