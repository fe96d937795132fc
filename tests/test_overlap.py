"""Splits with a stated overlap: sizes, shared counts, nesting and balance, counted with Python sets."""

from __future__ import annotations

import itertools
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from repsim.overlap import ClassSplit, class_overlap, data_overlap, factorial, task_overlap

ATTRIBUTES = ("color", "shape", "digit")
ALPHAS = (0, 0.1, 0.25, 0.3, 0.5, 0.7, 0.75, 0.9, 1)


def equal_classes() -> np.ndarray:
    return np.tile(np.arange(10), 40)  # 40 images a class


def unequal_classes() -> np.ndarray:
    return np.random.default_rng(3).choice([2, 5, 7, 11], 997, p=[0.5, 0.3, 0.15, 0.05])


def many_small_classes() -> np.ndarray:
    return np.stack(np.unravel_index(np.arange(2400) % 800, (10, 8, 10)), axis=1)  # [2400, 3]: 3 images a combination


def half_up(alpha: float, count: int) -> int:
    return int(Fraction(str(alpha)) * count + Fraction(1, 2))


@pytest.mark.parametrize(
    "labels", [equal_classes(), unequal_classes(), many_small_classes()], ids=["equal", "unequal", "small"]
)
@pytest.mark.parametrize("seed", [0, 7])
def test_data_overlap_is_exact_constant_in_size_and_nested(labels: np.ndarray, seed: int) -> None:
    splits = [data_overlap(labels, alpha, seed=seed) for alpha in ALPHAS]
    before: set[int] = set()
    for alpha, split in zip(ALPHAS, splits, strict=True):
        first, second = set(split.first.tolist()), set(split.second.tolist())
        assert split.first.dtype == split.second.dtype == np.int64
        assert len(first) == len(split.first) == len(second) == len(split.second)
        assert len(first & second) == half_up(alpha, len(first))
        assert split.realised == len(first & second) / len(first)
        assert np.array_equal(split.first, splits[0].first)  # the first set never depends on alpha
        assert first & second >= before  # a larger overlap keeps what a smaller one shared
        before = first & second
    assert np.array_equal(splits[-1].first, splits[-1].second)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("labels", [equal_classes(), unequal_classes()], ids=["equal", "unequal"])
def test_data_overlap_holds_in_every_class(labels: np.ndarray, alpha: float) -> None:
    split = data_overlap(labels, alpha, seed=1)
    first, second = Counter(labels[split.first].tolist()), Counter(labels[split.second].tolist())
    shared = Counter(labels[np.array(sorted(set(split.first) & set(split.second)), dtype=int)].tolist())
    assert first == second == {c: count // 2 for c, count in Counter(labels.tolist()).items()}
    for c, count in first.items():
        assert abs(shared[c] - alpha * count) < 1.5


def test_small_classes_do_not_all_round_the_same_way() -> None:
    split = data_overlap(many_small_classes(), 0.5, seed=0)  # one image a combination: none can share half an image
    assert len(split.first) == 800
    assert split.realised == 0.5
    colors = Counter(many_small_classes()[sorted(set(split.first) & set(split.second)), 0].tolist())
    assert len(colors) == 10
    assert max(colors.values()) < 60  # 40 expected of 80


def test_size_is_dealt_in_proportion() -> None:
    labels = np.repeat([0, 1, 2], [100, 50, 50])
    split = data_overlap(labels, 0.5, size=50, seed=0)
    counts = np.bincount(labels[split.first])
    assert counts.sum() == 50 and counts[0] == 25 and set(counts[1:]) == {12, 13}
    assert {int(np.bincount(labels[data_overlap(labels, 0, size=50, seed=s).first])[1]) for s in range(8)} == {12, 13}


def test_one_image_set_may_be_all_of_the_data_when_everything_is_shared() -> None:
    labels = equal_classes()
    split = data_overlap(labels, 1, size=len(labels), seed=0)
    assert np.array_equal(split.first, np.arange(len(labels)))
    with pytest.raises(
        ValueError,
        match=r"sharing 0.5 fit, got size 400: a class needs 60 images and has 40",
    ):
        data_overlap(labels, 0.5, size=len(labels), seed=0)


def test_data_overlap_depends_on_the_seed_alone() -> None:
    labels = unequal_classes()
    state = np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
    a, b, c = (data_overlap(labels, 0.5, seed=seed) for seed in (5, 5, 6))
    assert np.array_equal(a.second, b.second) and not np.array_equal(a.first, c.first)
    assert np.array_equal(state, np.random.get_state()[1])  # type: ignore[index]


@pytest.mark.parametrize("alpha", [0, 0.2, 0.4, 0.6, 0.8, 1])
def test_class_overlap_relabels_shared_classes_alike(alpha: float) -> None:
    split = class_overlap(100, alpha, seed=4)
    first, second = set(split.first), set(split.second)
    assert len(first) == len(second) == 50 and first | second <= set(range(100))
    assert len(first & second) == half_up(alpha, 50) == split.realised * 50
    assert split.first == class_overlap(100, 0, seed=4).first
    shared = np.array(sorted(first & second), dtype=np.int64)
    if len(shared):
        assert np.array_equal(split.relabel(shared, "first"), split.relabel(shared, "second"))
    for which, classes in (("first", first), ("second", second)):
        assert sorted(split.relabel(np.array(sorted(classes)), which)) == list(range(50))


def test_class_overlap_is_nested_and_finds_its_images() -> None:
    shared = [set(s.first) & set(s.second) for s in (class_overlap(20, a, seed=2) for a in (0, 0.3, 0.5, 1))]
    assert all(a <= b for a, b in itertools.pairwise(shared))
    split = class_overlap(20, 0.3, seed=2, per_model=5)
    assert split.realised == 0.4  # round(1.5) of 5
    labels = np.random.default_rng(0).integers(0, 20, 300)
    rows = split.positions(labels, "second")
    assert rows.tolist() == [i for i, label in enumerate(labels) if label in split.second]
    new = split.relabel(labels[rows], "second")
    assert [split.second[label] for label in new] == labels[rows].tolist()


@pytest.mark.parametrize(("shared", "size"), [(0, 1), (1, 2), (3, 3), (2, 2)])
def test_task_overlap_defaults(shared: int, size: int) -> None:
    for seed in range(12):
        split = task_overlap(ATTRIBUTES, shared, seed=seed)
        assert len(split.first) == len(split.second) == size
        assert len(set(split.first) & set(split.second)) == shared == split.shared
        for names in (split.first, split.second):
            assert list(names) == [name for name in ATTRIBUTES if name in names]  # in the order given
    assert split == task_overlap(ATTRIBUTES, shared, seed=11)


def test_seeds_use_every_ordered_pair_of_attributes_equally_often() -> None:
    pairs = Counter((s.first, s.second) for s in (task_overlap(ATTRIBUTES, 0, seed=seed) for seed in range(12)))
    assert pairs == {((a,), (b,)): 2 for a, b in itertools.permutations(ATTRIBUTES, 2)}


def test_factorial_crosses_all_levels_and_holds_the_first_model_fixed() -> None:
    cells = factorial(equal_classes(), ATTRIBUTES, alphas=(0, 0.5, 1), shared=(0, 1), seed=3, size=100)
    assert [(cell.data.realised, cell.task.shared) for cell in cells] == list(itertools.product((0, 0.5, 1), (0, 1)))
    assert len({cell.data.first.tobytes() for cell in cells}) == len({cell.task.first for cell in cells}) == 1
    assert all(len(cell.data.first) == len(cell.data.second) == 100 for cell in cells)
    for alpha in (0, 1, 2):  # the second's images do not depend on the task, nor its task on the images
        assert np.array_equal(cells[2 * alpha].data.second, cells[2 * alpha + 1].data.second)
        assert cells[2 * alpha].task == cells[0].task and cells[2 * alpha + 1].task == cells[1].task


LABELS = equal_classes()
BAD = [
    (lambda: data_overlap(LABELS, 1.2, seed=0), ValueError, r"\[data_overlap\] expected alpha in \[0, 1\], got 1.2"),
    (lambda: data_overlap(LABELS, -0.1, seed=0), ValueError, r"expected alpha in \[0, 1\], got -0.1"),
    (lambda: data_overlap(LABELS, float("nan"), seed=0), ValueError, r"expected alpha in \[0, 1\], got nan"),
    (lambda: data_overlap(LABELS, "1", seed=0), TypeError, r"expected alpha as a number in \[0, 1\], got '1'"),
    (lambda: data_overlap(LABELS, True, seed=0), TypeError, r"expected alpha as a number in \[0, 1\], got True"),
    (lambda: data_overlap(LABELS, 0, size=0, seed=0), ValueError, r"expected size of at least 1, got 0"),
    (
        lambda: data_overlap(LABELS, 0, size=401, seed=0),
        ValueError,
        r"expected size of at most the 400 images, got 401",
    ),
    (
        lambda: data_overlap(LABELS, 0, size=210, seed=0),
        ValueError,
        r"got size 210: a class needs 42 images and has 40",
    ),
    (lambda: data_overlap(LABELS, 0, size=9.5, seed=0), TypeError, r"expected size as an integer, got 9.5"),
    (lambda: data_overlap(LABELS, 0, seed=-1), ValueError, r"expected seed of at least 0, got -1"),
    (lambda: data_overlap(LABELS[:0], 0, seed=0), ValueError, r"expected labels that are not empty, got shape \(0,\)"),
    (lambda: data_overlap(LABELS / 2, 0, seed=0), TypeError, r"expected labels as integers, got float64"),
    (lambda: data_overlap(LABELS.reshape(2, 2, -1), 0, seed=0), ValueError, r"expected labels with one axis"),
    (lambda: data_overlap(np.arange(5), 0, seed=0), ValueError, r"at least 2 images in some class, got 1 in each"),
    (lambda: class_overlap(1, 0, seed=0), ValueError, r"\[class_overlap\] expected classes of at least 2, got 1"),
    (lambda: class_overlap(10, 2, seed=0), ValueError, r"\[class_overlap\] expected alpha in \[0, 1\], got 2"),
    (lambda: class_overlap(10, 0, seed=0, per_model=6), ValueError, r"fit into 10 classes, got 6, which needs 12"),
    (
        lambda: ClassSplit((1,), (2,), 0, 0, 0).relabel(np.array([1, 3])),
        ValueError,
        r"the first model's classes, got 3 at position 1",
    ),
    (
        lambda: ClassSplit((1,), (2,), 0, 0, 0).relabel(np.array([1]), "third"),
        ValueError,
        r"expected which as 'first' or 'second', got 'third'",
    ),
    (
        lambda: task_overlap(ATTRIBUTES, 4, seed=0),
        ValueError,
        r"\[task_overlap\] expected shared of at most the 3 attributes, got 4",
    ),
    (lambda: task_overlap(ATTRIBUTES, -1, seed=0), ValueError, r"expected shared of at least 0, got -1"),
    (
        lambda: task_overlap(ATTRIBUTES, 0, seed=0, size=2),
        ValueError,
        r"share 0 of 3 attributes, got 2, which needs shared <= size and 4",
    ),
    (lambda: task_overlap(ATTRIBUTES, 2, seed=0, size=1), ValueError, r"share 2 of 3 attributes, got 1"),
    (lambda: task_overlap(("color",), 0, seed=0), ValueError, r"share 0 of 1 attributes, got 0"),
    (lambda: task_overlap(("a", "a"), 0, seed=0), ValueError, r"expected attributes as distinct names, at least one"),
    (lambda: task_overlap("color", 0, seed=0), TypeError, r"expected attributes as a tuple of names, got 'color'"),
    (
        lambda: factorial(LABELS, ATTRIBUTES, alphas=(0, 0), shared=(0,), seed=0),
        ValueError,
        r"\[factorial\] expected alphas as distinct levels",
    ),
    (
        lambda: factorial(LABELS, ATTRIBUTES, alphas=(0,), shared=(), seed=0),
        ValueError,
        r"\[factorial\] expected shared as distinct levels",
    ),
    (
        lambda: factorial(LABELS, ATTRIBUTES, alphas=(0,), shared=(2,), seed=0),
        ValueError,
        r"share 2 of 3 attributes, got 1",
    ),
]


@pytest.mark.parametrize(("call", "kind", "message"), BAD)
def test_an_impossible_request_is_one_clear_error(call, kind, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(kind, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
