"""Two models by the classes they predict, and by how often they are right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...calibration import Null, jackknife_error
from ..registry import Measure, invariant_to, register
from ..similarity import Distance, Similarity
from .outputs import predicted_pair, relabellings, result_of, true_labels

_ANY_SCALE = invariant_to("isotropic_scaling")  # of scores only the largest counts


@dataclass(frozen=True)
class _Counts:
    """Of n inputs, those that differ and those that each model has wrong; arrays where one input each is left out.

    ``alike`` is sum_c a_c b_c of the class frequencies: n times the agreements that they alone give.
    """

    n: int
    differ: Any
    wrong_x: Any
    wrong_y: Any
    alike: Any


_Value = Callable[[_Counts], Any]  # linear in the inputs that differ


def _share(counts: _Counts) -> Any:
    return counts.differ / counts.n


def _accuracies_apart(counts: _Counts) -> Any:
    return abs(counts.wrong_x - counts.wrong_y) / counts.n


def _over_errors(counts: _Counts) -> Any:
    return counts.differ / counts.wrong_y


def _between_extremes(counts: _Counts) -> Any:
    least = abs(counts.wrong_x - counts.wrong_y)
    most = np.minimum(counts.wrong_x + counts.wrong_y, counts.n)
    return (counts.differ - least) / (most - least)


def _beyond_chance(counts: _Counts) -> Any:
    n = counts.n
    return (n * (n - counts.differ) - counts.alike) / (n * n - counts.alike)


@dataclass(frozen=True)
class _Predictions:
    """Predicted classes of two models, coded 0, 1, ..., and the true ones, or one stratum of all inputs."""

    x: np.ndarray
    y: np.ndarray
    strata: np.ndarray
    wrong_x: np.ndarray
    wrong_y: np.ndarray
    classes: int

    @classmethod
    def of(cls, x: Any, y: Any, labels: Any, *, function: str) -> _Predictions:
        a, b = predicted_pair(x, y, function=function)
        n = len(a)
        names, codes = np.unique(np.concatenate([a, b]), return_inverse=True)
        right = np.zeros(n, bool)
        if labels is None:
            return cls(codes[:n], codes[n:], np.zeros(n, np.int64), right, right, len(names))
        truth = true_labels(labels, n, function=function)
        strata = np.unique(truth, return_inverse=True)[1]
        return cls(codes[:n], codes[n:], strata, a != truth, b != truth, len(names))

    def counts(self) -> tuple[_Counts, _Counts]:
        """Those of all inputs, and of all but input i for every i [n]."""
        n, differ = len(self.x), self.x != self.y
        of_x, of_y = (np.bincount(side, minlength=self.classes).astype(np.float64) for side in (self.x, self.y))
        alike = float(of_x @ of_y)
        every = _Counts(n, int(differ.sum()), int(self.wrong_x.sum()), int(self.wrong_y.sum()), alike)
        without = _Counts(
            n - 1,
            every.differ - differ,
            every.wrong_x - self.wrong_x,
            every.wrong_y - self.wrong_y,
            alike - of_y[self.x] - of_x[self.y] + ~differ,
        )
        return every, without

    def agreements(self) -> Null:
        """Exact mean and sd of the inputs on which both agree when those of y are relabelled within each stratum.

        The moments of a sum of the entries of a 0-1 matrix that a permutation picks: Hoeffding (1951), "A combinatorial
        central limit theorem".
        """
        n = len(self.x)
        sizes = np.bincount(self.strata).astype(np.float64)
        pairs = np.concatenate([self.strata * self.classes + side for side in (self.x, self.y)])
        cells, place = np.unique(pairs, return_inverse=True)  # those pairs of stratum and class that there are
        of_x, of_y = (np.bincount(side, minlength=len(cells)).astype(np.float64) for side in (place[:n], place[n:]))

        def per_stratum(values: np.ndarray) -> np.ndarray:
            return np.bincount(cells // self.classes, weights=values, minlength=len(sizes))

        ones = per_stratum(of_x * of_y)
        squares = per_stratum(of_x * of_y * (of_x + of_y))
        spread = ones - squares / sizes + (ones / sizes) ** 2
        spread[spread < 1e-12 * ones] = 0.0  # rounding, where a relabelling changes nothing
        variance = spread[sizes > 1] / (sizes[sizes > 1] - 1)
        return Null(float((ones / sizes).sum()), float(np.sqrt(variance.sum())))

    def relabelled(self, random: np.random.Generator) -> int:
        """Inputs that differ once those of y are relabelled within each stratum."""
        places = np.argsort(self.strata, kind="stable")
        drawn = np.lexsort((random.random(len(self.x)), self.strata))
        return int(np.count_nonzero(self.x[places] != self.y[drawn]))


def _compare(
    measure: Measure,
    value: _Value,
    predictions: _Predictions,
    permutations: int,
    seed: int,
    *,
    by_chance: str = "all relabellings",
) -> Any:
    relabellings(permutations, seed, function=measure.name)
    counts, left_out = predictions.counts()
    found, n = float(value(counts)), counts.n
    with np.errstate(divide="ignore", invalid="ignore"):  # no value without one of the inputs: no standard error
        without = value(left_out)
        error = jackknife_error(without)
    if not by_chance:
        return result_of(measure, found, n, {}, error=error)
    agreements = predictions.agreements()
    mean, next_one = (float(value(replace(counts, differ=n - agreements.mean + one))) for one in (0, 1))
    random = np.random.default_rng(seed)
    draws = [float(value(replace(counts, differ=predictions.relabelled(random)))) for _ in range(permutations)]
    exact = Null(mean, abs(next_one - mean) * agreements.sd)
    return result_of(measure, found, n, {}, error=error, exact=exact, exact_from=by_chance, draws=draws)


_WITHIN = "all relabellings within labels"
_TIME = "time n classes, memory n"

ACCURACY_DIFFERENCE = register(
    Measure(
        name="accuracy_difference",
        family="functional",
        kind="distance",
        low=0.0,
        high=1.0,
        symmetric=True,
        metric=True,
        invariances=_ANY_SCALE,
        cost=_TIME,
        paper="Klabunde, Schumacher, Strohmaier and Lemmerich (2025), Similarity of neural network models: a survey",
        formula="|accuracy(x) - accuracy(y)|",
        takes="outputs",
        note="0 for models that err equally often, even on different inputs.",
        self_value=0.0,
    )
)
DISAGREEMENT = register(
    Measure(
        name="disagreement",
        family="functional",
        kind="distance",
        low=0.0,
        high=1.0,
        symmetric=True,
        metric=True,
        invariances=_ANY_SCALE,
        cost=_TIME,
        paper="Skalak (1996), The sources of increased accuracy for two proposed boosting algorithms",
        formula="mean_i [class(x_i) != class(y_i)]",
        takes="outputs",
        aliases=("scikit-learn: hamming_loss, zero_one_loss, 1 - accuracy_score",),
        note="Accurate models cannot disagree much: see min_max_normalized_disagreement.",
        self_value=0.0,
    )
)
ERROR_CORRECTED_DISAGREEMENT = register(
    Measure(
        name="error_corrected_disagreement",
        family="functional",
        kind="distance",
        low=0.0,
        high=np.inf,
        symmetric=False,
        invariances=_ANY_SCALE,
        cost=_TIME,
        paper="Fort, Hu and Lakshminarayanan (2019), Deep ensembles: a loss landscape perspective",
        formula="mean_i [class(x_i) != class(y_i)] / mean_i [class(y_i) != label_i]",
        takes="outputs",
        note="The error rate is that of y; none where y makes no error.",
        self_value=0.0,
    )
)
MIN_MAX_NORMALIZED_DISAGREEMENT = register(
    Measure(
        name="min_max_normalized_disagreement",
        family="functional",
        kind="distance",
        low=0.0,
        high=1.0,
        symmetric=True,
        invariances=_ANY_SCALE,
        cost=_TIME,
        paper="Klabunde and Lemmerich (2023), On the prediction instability of graph neural networks",
        formula="(disagreement - |e_x - e_y|) / (min(e_x + e_y, 1) - |e_x - e_y|), e the error rates",
        takes="outputs",
        note="With two classes 1 is out of reach beyond e_x + e_y = 1: both wrong is then both alike.",
        self_value=0.0,
    )
)
COHENS_KAPPA = register(
    Measure(
        name="cohens_kappa",
        family="functional",
        kind="similarity",
        low=-1.0,
        high=1.0,
        symmetric=True,
        invariances=_ANY_SCALE,
        cost=_TIME,
        paper="Cohen (1960), A coefficient of agreement for nominal scales",
        formula="(p_o - p_e) / (1 - p_e), p_o the share of agreement, p_e = sum_c a_c b_c of the class frequencies",
        takes="outputs",
        aliases=("scikit-learn: cohen_kappa_score",),
        note="The agreement that labels alone bring counts as agreement: two accurate models are near 1.",
        self_value=1.0,
    )
)


def accuracy_difference(x: Any, y: Any, labels: Any) -> Distance:
    """How far apart two models are in accuracy: |accuracy(x) - accuracy(y)|.

    Example::

        repsim.accuracy_difference(logits_a, logits_b, labels)     # [n, classes] twice, [n]
        repsim.accuracy_difference(predicted_a, predicted_b, labels)

    Parameters
    ----------
    x, y: logits or probabilities [n, classes] of float16, bfloat16, float32 or float64 (the largest counts, the first
        of equal ones), or predicted classes [n] of integers. numpy, memmap, torch CPU.
    labels: the true classes [n], integers.

    Returns
    -------
    Distance with the jackknife standard error over inputs, exactly. No null: relabelling the inputs of y would change
    its accuracy too.

    Raises
    ------
    TypeError, ValueError: arrays of other kinds; different numbers of inputs or classes; scores that are not finite
        (the row is named).
    """
    predictions = _Predictions.of(x, y, _needed(labels, "accuracy_difference"), function="accuracy_difference")
    return _compare(ACCURACY_DIFFERENCE, _accuracies_apart, predictions, 0, 0, by_chance="")


def disagreement(x: Any, y: Any, *, labels: Any = None, permutations: int = 0, seed: int = 0) -> Distance:
    """Share of the inputs on which two models predict different classes.

    Example::

        result = repsim.disagreement(logits_a, logits_b, labels=labels)     # [n, classes] twice, [n]
        result.null.mean, result.z         # of models with these confusion matrices that err independently

    Parameters
    ----------
    x, y: as for :func:`accuracy_difference`.
    labels: the true classes [n], which change the null alone: it then relabels within each class.
    permutations: relabellings for an add-one p-value, O(n log n) each; 0 takes p from the normal distribution.
    seed: of the relabellings.

    Returns
    -------
    Distance with the exact mean and sd over all relabellings of the inputs of y, within each true class where labels
    are given: models that know the same labels agree, and only the second null leaves that aside. The standard error is
    the jackknife over inputs, exactly.

    Raises
    ------
    TypeError, ValueError: as for :func:`accuracy_difference`.

    Paper: Skalak (1996), "The sources of increased accuracy for two proposed boosting algorithms".
    """
    predictions = _Predictions.of(x, y, labels, function="disagreement")
    by_chance = "all relabellings" if labels is None else _WITHIN
    return _compare(DISAGREEMENT, _share, predictions, permutations, seed, by_chance=by_chance)


def error_corrected_disagreement(x: Any, y: Any, labels: Any, *, permutations: int = 0, seed: int = 0) -> Distance:
    """Disagreement over the error rate of y: about 1 where y differs from x as often as from the truth.

    Example::

        repsim.error_corrected_disagreement(logits_a, logits_b, labels)     # [n, classes] twice, [n]

    Parameters, returns: as for :func:`disagreement`, the null within each true class, which keeps every error rate. The
    standard error is NaN where y has a single error.

    Raises
    ------
    TypeError, ValueError: as for :func:`accuracy_difference`; y without an error.

    Paper: Fort, Hu and Lakshminarayanan (2019), "Deep ensembles: a loss landscape perspective", who divide by the error
        rate of the model that is compared with a fixed one. Seen in public code: the same quotient, of the survey of
        Klabunde et al., by the error rate of the first of two models (exchange x and y for it). "Normalized
        disagreement" elsewhere divides by the error rate of the ensemble of both, which this is not.
    """
    name = "error_corrected_disagreement"
    predictions = _Predictions.of(x, y, _needed(labels, name), function=name)
    if not predictions.wrong_y.any():
        raise ValueError(f"[{name}] expected y with at least one error, got none in {len(predictions.y)} inputs")
    return _compare(ERROR_CORRECTED_DISAGREEMENT, _over_errors, predictions, permutations, seed, by_chance=_WITHIN)


def min_max_normalized_disagreement(x: Any, y: Any, labels: Any, *, permutations: int = 0, seed: int = 0) -> Distance:
    """Disagreement between the least (0) and the most (1) that the two error rates allow.

    Example::

        repsim.min_max_normalized_disagreement(logits_a, logits_b, labels)     # [n, classes] twice, [n]

    Parameters, returns: as for :func:`disagreement`, the null within each true class, which keeps every error rate. The
    standard error is NaN where a model has a single error.

    Raises
    ------
    TypeError, ValueError: as for :func:`accuracy_difference`; a model without an error, whose disagreement with the
        other is fixed by the error rates.

    Formula: (D - |e_x - e_y|) / (min(e_x + e_y, 1) - |e_x - e_y|), with D the disagreement, e the error rates.

    Paper: Klabunde and Lemmerich (2023), "On the prediction instability of graph neural networks". Public code of it
        has this formula, without a guard for models that make no error.
    """
    name = "min_max_normalized_disagreement"
    predictions = _Predictions.of(x, y, _needed(labels, name), function=name)
    errors = int(predictions.wrong_x.sum()), int(predictions.wrong_y.sum())
    if not min(errors):
        raise ValueError(
            f"[{name}] expected x and y with at least one error each, got {errors[0]} and {errors[1]} in "
            f"{len(predictions.x)} inputs"
        )
    return _compare(
        MIN_MAX_NORMALIZED_DISAGREEMENT, _between_extremes, predictions, permutations, seed, by_chance=_WITHIN
    )


def cohens_kappa(x: Any, y: Any, *, permutations: int = 0, seed: int = 0) -> Similarity:
    """Agreement of predicted classes beyond that of their frequencies: (p_o - p_e) / (1 - p_e).

    Example::

        repsim.cohens_kappa(logits_a, logits_b)          # [n, classes] twice, or predicted classes [n]

    Parameters
    ----------
    x, y, permutations, seed: as for :func:`disagreement`.

    Returns
    -------
    Similarity, 0 on average over all relabellings, with their exact sd; the standard error is the jackknife over
    inputs, exactly.

    Raises
    ------
    TypeError, ValueError: as for :func:`accuracy_difference`; one class predicted everywhere by both.

    Paper: Cohen (1960), "A coefficient of agreement for nominal scales".
    """
    predictions = _Predictions.of(x, y, None, function="cohens_kappa")
    if predictions.classes < 2:
        raise ValueError("[cohens_kappa] expected predictions of at least two classes, got one class everywhere")
    return _compare(COHENS_KAPPA, _beyond_chance, predictions, permutations, seed)


def _needed(labels: Any, function: str) -> Any:
    if labels is None:
        raise TypeError(f"[{function}] expected labels as an array of integers [n], got None")
    return labels
