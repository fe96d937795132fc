"""Measures on outputs, against loops written from their formulas, scikit-learn, scipy and all relabellings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from sklearn.metrics import accuracy_score, cohen_kappa_score

import repsim
from repsim.measures.registry import REGISTRY

N, CLASSES = 150, 4
Array = np.ndarray

WITH_LABELS = ("accuracy_difference", "error_corrected_disagreement", "min_max_normalized_disagreement")
OF_CLASSES = (*WITH_LABELS, "disagreement", "cohens_kappa")
OF_PROBABILITIES = ("jensen_shannon_divergence", "prediction_difference", "surrogate_churn")
OF_PAIRS = (*OF_CLASSES, *OF_PROBABILITIES, "saliency_cosine")
OF_SETS = ("ambiguity", "discrepancy", "label_entropy", "rashomon_capacity")


def models(seed: int = 0, n: int = N, count: int = 2) -> tuple[list[Array], Array]:
    """Logits of models that know something of the labels, and share some of their errors; and the labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, n)
    hard = random.standard_normal((n, CLASSES))
    known = 1.5 * np.eye(CLASSES)[labels] + hard
    return [known + random.standard_normal((n, CLASSES)) for _ in range(count)], labels


def softmax(logits: Array) -> Array:
    return np.array([[math.exp(v) / math.fsum(map(math.exp, row)) for v in row] for row in logits.tolist()])


def call(name: str, x: Any, y: Any, truth: Any = None, **options: Any) -> Any:
    """A measure of a pair, of logits or of what else it takes."""
    function: Callable[..., Any] = getattr(repsim, name)
    if name in OF_PROBABILITIES:
        options = {"logits": True, **options}
    return function(x, y, truth, **options) if name in WITH_LABELS else function(x, y, **options)


def of_set(name: str, logits: list[Array]) -> Any:
    """A measure of a set of models, the first as the baseline."""
    if name == "rashomon_capacity":
        return repsim.rashomon_capacity(logits, logits=True)
    if name == "label_entropy":
        return repsim.label_entropy(logits)
    return getattr(repsim, name)(logits[0], logits[1:])


# ---------------------------------------------------------------------------------------------- oracles


def churn(p: list[float], q: list[float]) -> float:
    return sum(abs(s / max(p) - t / max(q)) for s, t in zip(p, q, strict=True)) / 2


def oracle(name: str, x: Array, y: Array, labels: Array) -> float:
    """From the formula, of float64 logits (or maps) [n, c]."""
    n = len(x)
    a, b, truth = [max(range(CLASSES), key=row.__getitem__) for row in x.tolist()], y.argmax(axis=1).tolist(), labels
    differ = sum(i != j for i, j in zip(a, b, strict=True)) / n
    wrong_x, wrong_y = 1 - accuracy_score(truth, a), 1 - accuracy_score(truth, b)
    p, q = softmax(x), softmax(y)
    least = abs(wrong_x - wrong_y)
    return {
        "accuracy_difference": lambda: least,
        "disagreement": lambda: differ,
        "error_corrected_disagreement": lambda: differ / wrong_y,
        "min_max_normalized_disagreement": lambda: (differ - least) / (min(wrong_x + wrong_y, 1) - least),
        "cohens_kappa": lambda: cohen_kappa_score(a, b),
        "jensen_shannon_divergence": lambda: np.mean(jensenshannon(p, q, base=2, axis=1) ** 2),
        "prediction_difference": lambda: np.mean(list(map(math.dist, p, q))),
        "surrogate_churn": lambda: sum(map(churn, p.tolist(), q.tolist())) / n,
        "saliency_cosine": lambda: np.mean([s @ t / math.sqrt((s @ s) * (t @ t)) for s, t in zip(x, y, strict=True)]),
    }[name]()


@pytest.mark.parametrize("name", OF_PAIRS)
@pytest.mark.parametrize("seed", [0, 1])
def test_value(name: str, seed: int) -> None:
    (x, y), labels = models(seed)
    result = call(name, x, y, labels)
    assert result == pytest.approx(oracle(name, x, y, labels), rel=1e-12, abs=1e-14)
    assert (result.measure, result.n, result.precision) == (name, N, "float64")
    assert isinstance(result, repsim.Similarity if REGISTRY[name].kind == "similarity" else repsim.Distance)


def test_golden_values() -> None:
    """Counted by hand: 10 inputs, x wrong on the first 3, y on the third (as x is) and the fourth."""
    labels = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0])
    x, y = labels.copy(), labels.copy()
    x[:3] = [1, 2, 0]  # classes 4, 3, 3 times
    y[2:4] = [0, 1]  # 4, 4, 2 times
    assert repsim.disagreement(x, y).value == 0.3
    assert repsim.accuracy_difference(x, y, labels).value == 0.1
    assert repsim.error_corrected_disagreement(x, y, labels).value == 3 / 2
    assert repsim.min_max_normalized_disagreement(x, y, labels).value == (3 - 1) / (5 - 1)
    assert repsim.cohens_kappa(x, y).value == pytest.approx(6 / 11, rel=1e-15)  # (0.7 - 0.34) / (1 - 0.34)
    sure, unsure = np.array([[1.0, 0.0], [1.0, 0.0]]), np.array([[0.5, 0.5], [1.0, 0.0]])
    assert repsim.prediction_difference(sure, unsure, norm=1).value == 0.5
    assert repsim.prediction_difference(sure, unsure, norm=2).value == pytest.approx(math.sqrt(0.5) / 2, rel=1e-15)
    assert repsim.prediction_difference(sure, unsure, norm=math.inf).value == 0.25
    assert repsim.surrogate_churn(sure, unsure, alpha=3).value == 0.25
    # KL from (3/4, 1/4): log2(4/3) and (log2(2/3) + log2 2) / 2.
    divergence = (math.log2(4 / 3) + 0.5 * math.log2(2 / 3) + 0.5) / 2
    assert repsim.jensen_shannon_divergence(sure, unsure).value == pytest.approx(divergence / 2, rel=1e-14)


def test_extremes() -> None:
    labels = np.arange(12) % 3
    all_wrong = (labels + 1) % 3
    half = np.where(np.arange(12) < 6, labels, (labels + 2) % 3)
    assert repsim.min_max_normalized_disagreement(all_wrong, half, labels).value == 1  # they never agree
    assert repsim.min_max_normalized_disagreement(half, half, labels).value == 0
    assert repsim.min_max_normalized_disagreement(all_wrong, all_wrong, labels).value == 0
    assert repsim.cohens_kappa(np.array([0, 1]), np.array([1, 0])).value == -1
    disjoint = np.eye(2)[[0, 1, 0]]
    assert repsim.jensen_shannon_divergence(disjoint, 1 - disjoint).value == 1
    assert repsim.prediction_difference(disjoint, 1 - disjoint, norm=1).value == 2
    assert repsim.saliency_cosine(disjoint, -disjoint).value == -1


@pytest.mark.parametrize("name", OF_CLASSES)
def test_scores_and_classes_are_the_same(name: str) -> None:
    (x, y), labels = models(2)
    expected = call(name, x, y, labels)
    classes = x.argmax(axis=1), y.argmax(axis=1)
    assert call(name, *classes, labels).to_dict() == expected.to_dict()
    assert call(name, classes[0].astype(np.uint8), torch.tensor(y), torch.tensor(labels)) == expected
    assert call(name, 7 * classes[0] - 100, 7 * classes[1] - 100, 7 * labels - 100) == expected  # names do not matter


def test_the_first_of_equal_scores_counts() -> None:
    tied = np.array([[1.0, 1.0, 0.0], [0.0, 2.0, 2.0]])
    assert repsim.disagreement(tied, np.array([0, 1])).value == 0


@pytest.mark.parametrize("name", OF_PROBABILITIES)
def test_probabilities_and_logits_are_the_same(name: str) -> None:
    (x, y), _ = models(3)
    function = getattr(repsim, name)
    result = function(softmax(x), softmax(y))
    assert result == pytest.approx(function(x, y, logits=True), rel=1e-12)
    assert result.options["logits"] is False
    far = function(x + 1e4, y - 1e4, logits=True)
    assert far == pytest.approx(function(x, y, logits=True), rel=1e-8)  # the logits themselves are rounded


def test_many_alphas_lead_to_the_disagreement() -> None:
    (x, y), _ = models(4)
    expected = repsim.disagreement(x, y).value
    churn = [repsim.surrogate_churn(x, y, alpha=alpha, logits=True).value for alpha in (1, 100, 1e5)]
    assert abs(churn[0] - expected) > 0.05
    assert churn[2] == pytest.approx(expected, abs=1e-9)


def test_alpha_is_a_power() -> None:
    (x, y), _ = models(4)
    p, q = softmax(x), softmax(y)
    expected = np.mean(
        [np.abs((r / r.max()) ** 2.5 - (s / s.max()) ** 2.5).sum() / 2 for r, s in zip(p, q, strict=True)]
    )
    assert repsim.surrogate_churn(p, q, alpha=2.5) == pytest.approx(expected, rel=1e-12)


def test_absolute_maps() -> None:
    x, y = np.random.default_rng(0).standard_normal((2, 20_000, 6))
    expected = np.mean([abs(s) @ abs(t) / np.linalg.norm(s) / np.linalg.norm(t) for s, t in zip(x, y, strict=True)])
    assert repsim.saliency_cosine(x, y, absolute=True) == pytest.approx(expected, rel=1e-12)
    assert abs(repsim.saliency_cosine(x, y)) < 0.02
    wide = np.random.default_rng(1).standard_normal((2, 200, 4000))
    assert repsim.saliency_cosine(*wide, absolute=True) == pytest.approx(2 / math.pi, abs=0.005)  # as documented


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_maps_of_images(kind: str) -> None:
    x, y = np.random.default_rng(0).standard_normal((2, 30, 3, 4, 5))
    expected = repsim.saliency_cosine(x.reshape(30, 60), y.reshape(30, 60)).value
    given = (torch.tensor(x), torch.tensor(y)) if kind == "torch" else (x, y)
    assert repsim.saliency_cosine(*given).value == expected
    tiny = repsim.saliency_cosine(x * 1e-200, y * 1e200)  # whose squares float64 does not hold
    assert tiny == pytest.approx(expected, rel=1e-12)


# ---------------------------------------------------------------------------------------------- dtypes and memory


@pytest.mark.parametrize("name", OF_PAIRS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "bfloat16-numpy", "float32", "float64"])
def test_dtypes(name: str, dtype: str) -> None:
    (x, y), labels = models(5)
    if dtype == "bfloat16":
        given = [torch.tensor(one).bfloat16() for one in (x, y)]
        exact = [one.double().numpy() for one in given]
    else:
        given = [one.astype(ml_dtypes.bfloat16 if "bf" in dtype else dtype) for one in (x, y)]
        exact = [one.astype(np.float64) for one in given]
    assert call(name, *given, labels) == pytest.approx(oracle(name, *exact, labels), rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_rounded_probabilities_are_probabilities(dtype: str) -> None:
    """Of 5 000 classes each has lost up to a part in 256."""
    random = np.random.default_rng(0)
    p, q = random.dirichlet(np.full(5000, 0.5), (2, 6))
    given = [one.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype) for one in (p, q)]
    expected = np.mean(jensenshannon(*(one.astype(np.float64) for one in given), base=2, axis=1) ** 2)
    assert repsim.jensen_shannon_divergence(*given) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", ["disagreement", "prediction_difference", "saliency_cosine"])
def test_memory_maps_of_several_blocks(name: str, tmp_path: Path) -> None:
    n = 300_000  # a block holds 262 144 rows of 4 float64
    x, y = np.random.default_rng(0).standard_normal((2, n, 4))
    y += x
    for side, values in (("x", x), ("y", y)):
        np.save(tmp_path / f"{side}.npy", values)
    maps = [np.load(tmp_path / f"{side}.npy", mmap_mode="r") for side in "xy"]
    if name == "prediction_difference":
        p, q = (np.exp(one) / np.exp(one).sum(axis=1, keepdims=True) for one in (x, y))
        expected = np.linalg.norm(p - q, axis=1).mean()
    elif name == "disagreement":
        expected = (x.argmax(axis=1) != y.argmax(axis=1)).mean()
    else:
        expected = ((x * y).sum(axis=1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)).mean()
    assert call(name, *maps) == pytest.approx(expected, rel=1e-10)
    bad = y.copy()
    bad[299_999, 2] = np.inf
    with pytest.raises(
        ValueError, match=rf"\[{name}\] expected y with finite values, got NaN or infinity in row 299999"
    ):
        call(name, x, bad)


# ---------------------------------------------------------------------------------------------- chance and errors


def small() -> tuple[Array, Array, Array]:
    labels = np.array([0, 0, 0, 0, 1, 1, 1])
    x = np.array([0, 0, 1, 2, 1, 1, 0])
    y = np.array([0, 0, 0, 1, 1, 2, 1])
    return x, y, labels


@pytest.mark.parametrize(
    ("name", "within"),
    [
        ("disagreement", False),
        ("cohens_kappa", False),
        ("disagreement", True),
        *((name, True) for name in WITH_LABELS[1:]),
    ],
    ids=["disagreement", "cohens_kappa", "disagreement-within-labels", *WITH_LABELS[1:]],
)
def test_null_is_that_of_all_relabellings(name: str, within: bool) -> None:
    """Every one of 7! or of 4! 3! relabellings of y, and the value of each."""
    x, y, labels = small()
    orders = [order for order in itertools.permutations(range(7)) if not within or set(order[:4]) == set(range(4))]
    assert len(orders) == (144 if within else 5040)
    values = [call(name, x, y[list(order)], labels).value for order in orders]
    options = {"labels": labels} if name == "disagreement" and within else {}
    result = call(name, x, y, labels, permutations=3000, seed=1, **options)
    assert result.null.mean == pytest.approx(np.mean(values), rel=1e-12, abs=1e-15)
    assert result.null.sd == pytest.approx(np.std(values), rel=1e-12)
    assert result.null_from == ("all relabellings within labels" if within else "all relabellings")
    closer = [v >= result - 1e-12 if name == "cohens_kappa" else v <= result + 1e-12 for v in values]
    assert result.p == pytest.approx(np.mean(closer), abs=0.03)
    assert result.p_from == "permutations"
    by_normal = call(name, x, y, labels, **options)
    assert by_normal.p_from == "normal"
    toward = result.z if name == "cohens_kappa" else -result.z
    assert by_normal.p == pytest.approx(0.5 * math.erfc(toward / math.sqrt(2)), rel=1e-9)
    assert call(name, x, y, labels, permutations=3000, seed=1, **options).to_dict() == result.to_dict()
    assert call(name, x, y, labels, permutations=3000, seed=2, **options).p != result.p


def test_disagreement_without_labels_knows_only_all_relabellings() -> None:
    """Both nulls of the same pair: models that know the labels agree far more than by chance, but err independently."""
    random = np.random.default_rng(3)
    labels = random.integers(0, 3, 3000)
    x, y = (np.where(random.random(3000) < 0.8, labels, random.integers(0, 3, 3000)) for _ in range(2))
    blind, sighted = repsim.disagreement(x, y), repsim.disagreement(x, y, labels=labels)
    assert blind.value == sighted.value
    assert blind.z < -30
    assert abs(sighted.z) < 3
    assert sighted.p > 0.001


@pytest.mark.parametrize("name", [*OF_PROBABILITIES, "saliency_cosine"])
def test_sampled_null(name: str) -> None:
    (x, y), _ = models(6, n=6)
    result = call(name, x, y, permutations=2000, seed=3)
    values = [call(name, x, y[list(order)]).value for order in itertools.permutations(range(6))]
    assert result.null.mean == pytest.approx(np.mean(values), abs=5 * np.std(values) / math.sqrt(2000))
    assert result.null.sd == pytest.approx(np.std(values), rel=0.1)
    closer = np.mean([v >= result - 1e-12 if name == "saliency_cosine" else v <= result + 1e-12 for v in values])
    assert result.p == pytest.approx(closer, abs=0.03)
    assert result.null_from == "2000 relabellings"
    plain = call(name, x, y)
    assert (plain.null_from, plain.p_from) == ("not asked for", "not asked for")
    assert math.isnan(plain.p)


@pytest.mark.parametrize("name", [*OF_PAIRS, "ambiguity", "discrepancy", "rashomon_capacity"])
def test_standard_error_is_the_jackknife(name: str) -> None:
    many, labels = models(7, n=40, count=4)

    def value(kept: Array) -> Any:
        few = [one[kept] for one in many]
        if name in OF_SETS:
            return (
                repsim.rashomon_capacity(few, logits=True) if name[0] == "r" else getattr(repsim, name)(few[0], few[1:])
            )
        return call(name, few[0], few[1], labels[kept])

    without = np.array([value(np.arange(40) != i).value for i in range(40)])
    expected = math.sqrt(39 / 40 * ((without - without.mean()) ** 2).sum())
    result = value(np.arange(40))
    assert expected > 0
    assert result.standard_error == pytest.approx(expected, rel=1e-9)
    low, high = result.interval(0.9)
    assert low < result < high


@pytest.mark.parametrize("name", WITH_LABELS[1:])
def test_no_standard_error_without_a_value_for_every_sample(name: str) -> None:
    labels = np.array([0, 1, 2, 0, 1, 2])
    x, y = labels.copy(), labels.copy()
    x[:2], y[1] = 2, 0  # y has a single error
    result = call(name, x, y, labels)
    assert math.isfinite(result)
    assert math.isnan(result.standard_error)


def test_what_is_shown() -> None:
    (x, y), labels = models(8)
    assert repr(repsim.accuracy_difference(x, y, labels)).endswith(f"(z nan, p nan; n={N}, float64)")
    result = repsim.accuracy_difference(x, y, labels)
    assert (result.null_from, result.p_from) == ("none", "none")
    assert repsim.cohens_kappa(x, y).calibrated() > 0
    assert repsim.disagreement(x, y).calibrated() > 0


# ---------------------------------------------------------------------------------------------- what they declare


def of_two(name: str, x: Array, y: Array, labels: Array) -> float:
    return float(of_set(name, [x, y]) if name in OF_SETS else call(name, x, y, labels))


@pytest.mark.parametrize("name", [*OF_PAIRS, *OF_SETS])
def test_declared_properties(name: str) -> None:
    measure = REGISTRY[name]
    (x, y, z), labels = models(9, count=3)
    assert (measure.takes, measure.family, measure.method) == ("outputs", "functional", None)
    there, back = of_two(name, x, y, labels), of_two(name, y, x, labels)
    if measure.symmetric:
        assert there == pytest.approx(back, rel=1e-9)
    elif name not in OF_SETS:  # a set of one is a pair
        assert abs(there - back) > 1e-3
    assert measure.low <= there <= measure.high
    assert of_two(name, x, x, labels) == pytest.approx(measure.self_value, abs=1e-12)
    if measure.metric:
        assert of_two(name, x, z, labels) <= there + of_two(name, y, z, labels) + 1e-12
    changed = {
        "isotropic_scaling": lambda one: 3.7 * one,
        "permutation": lambda one: np.roll(one, 1, axis=1),
        "translation": lambda one: one + np.arange(CLASSES),
    }
    for how, change in changed.items():
        same = all(
            abs(of_two(name, *both, labels) - there) < 1e-9 * max(1, there) for both in ((change(x), y), (x, change(y)))
        )
        if name in ("ambiguity", "discrepancy", "label_entropy") and how == "isotropic_scaling":
            assert same  # though of probabilities there is none
        else:
            assert same == (how in measure.invariances), how


def test_every_measure_of_outputs_is_tested_here() -> None:
    outputs = {one.name for one in REGISTRY.values() if one.takes == "outputs"}
    assert outputs == {*OF_PAIRS, *OF_SETS}
    assert {row["name"] for row in repsim.measures("functional").rows()} == outputs
    assert outputs < set(repsim.__all__)


# ---------------------------------------------------------------------------------------------- sets of models


def test_ambiguity_and_discrepancy() -> None:
    base = np.array([0, 0, 0, 0, 0])
    sets = [np.array([1, 0, 0, 0, 0]), np.array([0, 2, 2, 0, 0]), np.array([0, 0, 1, 0, 0])]
    assert repsim.ambiguity(base, sets).value == 3 / 5
    assert repsim.discrepancy(base, sets).value == 2 / 5
    assert repsim.ambiguity(base, np.array(sets)).value == 3 / 5
    assert repsim.discrepancy(base, np.array(sets)).options == {"models": 3}
    assert repsim.ambiguity(sets[1], [base, sets[0], sets[2]]).value == 3 / 5  # any of them may be the baseline
    assert repsim.discrepancy(sets[1], [base, sets[0], sets[2]]).value == 3 / 5
    many, _ = models(10, count=5)
    differ = np.array([one.argmax(axis=1) != many[0].argmax(axis=1) for one in many[1:]])
    assert repsim.ambiguity(many[0], many[1:]) == pytest.approx(np.mean(differ.any(axis=0)), rel=1e-15)
    assert repsim.discrepancy(many[0], many[1:]) == pytest.approx(max(row.mean() for row in differ), rel=1e-15)


def test_label_entropy() -> None:
    from scipy.stats import entropy

    logits, _ = models(3, count=5)
    classes = np.stack([one.argmax(axis=1) for one in logits])
    each = [entropy(np.unique(column, return_counts=True)[1], base=2) for column in classes.T]
    found = repsim.label_entropy(logits)
    assert found == pytest.approx(np.mean(each), rel=1e-12)
    assert found.standard_error == pytest.approx(np.std(each, ddof=1) / math.sqrt(N), rel=1e-12)
    assert found.options == {"models": 5}
    assert repsim.label_entropy(list(classes)) == found
    assert repsim.label_entropy(logits[:2]) == pytest.approx(float(repsim.disagreement(*logits[:2])), abs=1e-12)
    assert repsim.label_entropy([np.arange(4), np.arange(4)[::-1], np.zeros(4, int)]) == pytest.approx(
        (2 * entropy([1, 2], base=2) + 2 * np.log2(3)) / 4
    )
    assert str(float(repsim.label_entropy([classes[0]] * 3))) == "0.0"
    with pytest.raises(ValueError, match=r"^\[label_entropy\] expected at least two models, got 1$"):
        repsim.label_entropy(logits[:1])
    with pytest.raises(ValueError, match=r"^\[label_entropy\] expected models\[1\] "):
        repsim.label_entropy([logits[0], logits[1][1:]])


def test_standard_error_of_tied_models() -> None:
    """Without an input the largest count is less only if no model that has it is spared."""
    base = np.zeros(8, int)
    first, second = np.array([1, 1, 1, 0, 0, 0, 0, 0]), np.array([0, 1, 1, 1, 0, 0, 0, 0])
    without = []
    for i in range(8):
        kept = np.arange(8) != i
        without.append(max(first[kept].mean(), second[kept].mean()))
    expected = math.sqrt(7 * np.var(without))
    assert repsim.discrepancy(base, [first, second]).standard_error == pytest.approx(expected, rel=1e-12)


def entropy(p: float) -> float:
    return -p * math.log2(p) - (1 - p) * math.log2(1 - p)


@pytest.mark.parametrize(
    ("channel", "capacity"),
    [
        pytest.param([[0.9, 0.1], [0.1, 0.9]], 1 - entropy(0.1), id="symmetric"),
        pytest.param([[0.7, 0.3, 0.0], [0.0, 0.3, 0.7]], 0.7, id="erasure"),
        pytest.param([[1.0, 0.0], [0.25, 0.75]], math.log2(1 + 0.75 * 0.25 ** (0.25 / 0.75)), id="z"),
        pytest.param([[0.2, 0.5, 0.3]] * 3, 0.0, id="all-alike"),
        pytest.param(np.eye(4).tolist(), 2.0, id="all-apart"),
        pytest.param([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]], 1.0, id="a-model-that-says-nothing"),
        pytest.param([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]], 1.0, id="two-alike"),
    ],
)
def test_known_capacities(channel: list[list[float]], capacity: float) -> None:
    of_one = [np.array([row, row]) for row in channel]
    found = repsim.rashomon_capacities(of_one)
    assert found.bits[0] == pytest.approx(capacity, abs=1e-6)
    assert (found.bits <= capacity + 1e-12).all()
    assert (capacity <= found.bits + found.gap + 1e-12).all()
    result = repsim.rashomon_capacity(of_one)
    assert result.value == pytest.approx(capacity, abs=1e-6)
    assert result.options["gap"] == found.gap.max() <= 1e-6
    assert (result.null_from, result.options["models"]) == ("none", len(channel))


def test_capacities_of_any_models() -> None:
    """No weights have more information than the certificate allows, and some have as much: by a search of them all."""
    many, _ = models(11, n=12, count=3)
    probabilities = np.array([softmax(one) for one in many])
    found = repsim.rashomon_capacities(many, logits=True, tolerance=1e-7)
    steps = np.linspace(0, 1, 201)
    grid = np.array([(a, b, 1 - a - b) for a in steps for b in steps if a + b <= 1 + 1e-12]).clip(0)
    for i in range(12):
        channel = probabilities[:, i]
        mixture = grid @ channel
        # I(M; Y) = H(Y) - H(Y | M)
        information = -(mixture * np.log2(mixture)).sum(axis=1) + grid @ (channel * np.log2(channel)).sum(axis=1)
        assert information.max() <= found.bits[i] + found.gap[i] + 1e-12
        assert information.max() >= found.bits[i] - 1e-4
    assert (found.gap <= 1e-7).all()
    coarse = repsim.rashomon_capacity(many, logits=True, tolerance=0.1)
    assert 1e-7 < coarse.options["gap"] <= 0.1


# ---------------------------------------------------------------------------------------------- bad input


def bad(name: str, x: Any, y: Any, labels: Any, kind: Any, message: str, **options: Any) -> None:
    with pytest.raises(kind, match=rf"^\[{name}\] expected {message}"):
        call(name, x, y, labels, **options)


@pytest.mark.parametrize("name", OF_PAIRS)
def test_bad_arrays(name: str) -> None:
    (x, y), labels = models(0)
    bad(name, x, y[1:], labels, ValueError, f"y with {N} rows like x, got {N - 1}$")
    bad(name, x.tolist(), y, labels, TypeError, "x as an array")
    bad(name, x, y[:, :2].copy(order="F"), labels, ValueError, "y with contiguous features")
    broken = y.copy()
    broken[7, 2] = np.nan
    bad(name, x, broken, labels, ValueError, "y with finite values, got NaN or infinity in row 7$")
    bad(name, x[:1], y[:1], labels[:1], ValueError, "at least 2 inputs, got 1$")
    bad(name, x, y.astype(complex), labels, TypeError, "y of dtype float16")
    if name == "saliency_cosine":
        bad(name, x, y[:, :3].copy(), labels, ValueError, rf"y of shape \({N}, 4\) like x, got \({N}, 3\)$")
        broken[7] = 0
        bad(name, broken, y, labels, ValueError, "x with maps that are not zero everywhere, got a zero map in row 7$")
    else:
        bad(name, x, y[:, :3].copy(), labels, ValueError, "y with 4 classes like x, got 3$")
        bad(name, x[:, :1].copy(), y, labels, ValueError, rf"x with at least two classes, got shape \({N}, 1\)$")
    if name != "accuracy_difference":
        bad(name, x, y, labels, ValueError, "permutations of at least 0, got -1", permutations=-1)
        bad(name, x, y, labels, TypeError, "seed as an int, got 1.5", seed=1.5)


@pytest.mark.parametrize("name", [*WITH_LABELS, "disagreement"])
def test_bad_labels(name: str) -> None:
    (x, y), labels = models(0)
    function = getattr(repsim, name)
    for wrong, kind, message in (
        (labels[1:], ValueError, f"labels of {N} inputs like x, got {N - 1}"),
        (labels * 1.0, TypeError, r"labels as an array of integers \[n\], got float64"),
        (torch.tensor(labels) > 1, TypeError, r"labels as an array of integers \[n\], got torch.bool"),
        (labels.tolist(), TypeError, r"labels as an array of integers \[n\], got list"),
        (labels[:, None], ValueError, rf"labels with .* \[n\], got shape \({N}, 1\)"),
    ):
        with pytest.raises(kind, match=rf"^\[{name}\] expected {message}$"):
            function(x, y, labels=wrong)
    if name in WITH_LABELS:
        with pytest.raises(TypeError, match=rf"^\[{name}\] expected labels as an array of integers \[n\], got None$"):
            function(x, y, None)


def test_bad_classes() -> None:
    (x, _), labels = models(0)
    bad("disagreement", labels[:, None], x, None, ValueError, rf"x with .* \[n\], got shape \({N}, 1\)$")
    bad("disagreement", labels[:0], labels[:0], None, ValueError, r"x with .* \[n\], got shape \(0,\)$")
    bad("disagreement", labels, x[1:], None, ValueError, f"y with {N} rows like x, got {N - 1}$")


def test_no_errors_to_go_by() -> None:
    labels = np.arange(6) % 3
    wrong = labels.copy()
    wrong[0] = 2
    function = repsim.error_corrected_disagreement
    with pytest.raises(ValueError, match=r"\[error_corrected_disagreement\] expected y with .* one error, got none"):
        function(wrong, labels, labels)
    assert function(labels, wrong, labels).value == 1
    for pair, got in (((wrong, labels), "1 and 0"), ((labels, wrong), "0 and 1"), ((labels, labels), "0 and 0")):
        with pytest.raises(ValueError, match=rf"\[min_max_.*\] expected x and y .* error each, got {got} in 6 inputs"):
            repsim.min_max_normalized_disagreement(*pair, labels)
    with pytest.raises(ValueError, match=r"\[cohens_kappa\] expected .* at least two classes, got one class"):
        repsim.cohens_kappa(np.zeros(5, int), np.zeros(5, int))
    assert repsim.cohens_kappa(np.zeros(5, int), np.ones(5, int)).value == 0


@pytest.mark.parametrize("name", OF_PROBABILITIES)
def test_no_probabilities(name: str) -> None:
    p = np.full((5, 4), 0.25)
    q = p.copy()
    q[3] = [0.5, 0.5, 0.5, -0.5]
    bad(name, p, q, None, ValueError, "y with probabilities, .* got -0.5 in row 3; pass logits=True", logits=False)
    q[3] = 0.3
    bad(name, q, p, None, ValueError, "x with probabilities, .* got a sum of 1.2 in row 3; pass", logits=False)


def test_bad_options() -> None:
    p = np.full((5, 4), 0.25)
    with pytest.raises(ValueError, match=r"\[prediction_difference\] expected norm 1, 2 or math.inf, got 3"):
        repsim.prediction_difference(p, p, norm=3)
    with pytest.raises(ValueError, match=r"\[surrogate_churn\] expected alpha as a positive number, got 0"):
        repsim.surrogate_churn(p, p, alpha=0)
    for function in (repsim.ambiguity, repsim.discrepancy):
        with pytest.raises(ValueError, match=r"expected at least one model, got none"):
            function(p, [])
        with pytest.raises(ValueError, match=r"expected models\[1\] with 5 rows like baseline, got 4"):
            function(p, [p, p[1:]])
        with pytest.raises(ValueError, match=r"expected models\[0\] with 4 classes like baseline, got 3"):
            function(p, [p[:, :3].copy()])
    with pytest.raises(ValueError, match=r"\[rashomon_capacity\] expected at least two models, got 1"):
        repsim.rashomon_capacity([p])
    with pytest.raises(ValueError, match=r"\[rashomon_capacity\] expected models\[1\] .* like models\[0\], got 4"):
        repsim.rashomon_capacity([p, p[1:]])
    with pytest.raises(ValueError, match=r"\[rashomon_capacity\] expected tolerance as a positive number, got 0"):
        repsim.rashomon_capacity([p, p], tolerance=0)
    with pytest.raises(ValueError, match=r"\[rashomon_capacity\] expected iterations of at least 1, got 0"):
        repsim.rashomon_capacity([p, p], iterations=0)
    apart = np.array([[0.9, 0.1], [0.2, 0.8]])
    with pytest.raises(ValueError, match=r"expected a tolerance that 2 iterations reach, got 1e-06 where .* in row \d"):
        repsim.rashomon_capacity([apart, apart[::-1].copy(), np.full((2, 2), 0.5)], iterations=2)
