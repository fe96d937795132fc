"""Sets of models that are about equally good: on how many inputs they contradict each other, and how much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...arguments import positive_number, whole_number
from ...calibration import mean_error
from ..registry import Measure, register
from ..similarity import Distance
from .outputs import Probabilities, class_scores, like, predicted, result_of

_TIME = "time n models classes, memory n models"
_STRETCH, _MOST_STRETCH = 1.2, 1e4
_LEAST_WEIGHT = 1e-30  # from 0 a weight could not come back

AMBIGUITY = register(
    Measure(
        name="ambiguity",
        family="functional",
        kind="distance",
        low=0.0,
        high=1.0,
        symmetric=False,
        invariances=frozenset(),
        cost=_TIME,
        paper="Marx, Calmon and Ustun (2020), Predictive multiplicity in classification",
        formula="mean_i max_h [class(h_i) != class(baseline_i)]",
        takes="outputs",
        note="Of a set of models; never less than their discrepancy.",
        self_value=0.0,
    )
)
DISCREPANCY = register(
    Measure(
        name="discrepancy",
        family="functional",
        kind="distance",
        low=0.0,
        high=1.0,
        symmetric=False,
        invariances=frozenset(),
        cost=_TIME,
        paper="Marx, Calmon and Ustun (2020), Predictive multiplicity in classification",
        formula="max_h mean_i [class(h_i) != class(baseline_i)]",
        takes="outputs",
        note="Of a set of models against a baseline; the maximum over all pairs of models is another number.",
        self_value=0.0,
    )
)
LABEL_ENTROPY = register(
    Measure(
        name="label_entropy",
        family="functional",
        kind="distance",
        low=0.0,
        high=np.inf,
        symmetric=True,
        invariances=frozenset(),
        cost="time n models classes, memory n models",
        paper="Klabunde, Schumacher, Strohmaier and Lemmerich (2025), Similarity of neural network models: a survey",
        formula="mean_i of -sum_c s_ic log2 s_ic, s_ic the share of the models that predict class c",
        takes="outputs",
        note="Of a set of models; at most log2 of their number and of that of classes. Of two models it is the "
        "disagreement.",
        self_value=0.0,
    )
)
RASHOMON_CAPACITY = register(
    Measure(
        name="rashomon_capacity",
        family="functional",
        kind="distance",
        low=0.0,
        high=np.inf,
        symmetric=True,
        invariances=frozenset(),
        cost="time n models classes per iteration, memory a block of rows",
        paper="Hsu and Calmon (2022), Rashomon capacity: a metric for predictive multiplicity in classification",
        formula="mean_i max_w I(M; Y_i), M a model drawn by w, Y_i the class that it gives input i, in bits",
        takes="outputs",
        note="Of a set of models; at most log2 of their number and of that of classes.",
        self_value=0.0,
    )
)


@dataclass(frozen=True, eq=False)
class RashomonCapacities:
    """The capacity of every input: ``bits`` [n], and ``gap`` [n]: the true one lies between bits and bits + gap."""

    bits: np.ndarray
    gap: np.ndarray


def ambiguity(baseline: Any, models: Sequence[Any]) -> Distance:
    """Share of the inputs on which at least one of the models predicts another class than the baseline.

    Example::

        repsim.ambiguity(logits, [logits_1, logits_2, logits_3])     # [n, classes] each, or predicted classes [n]

    Parameters
    ----------
    baseline: as x of :func:`repsim.disagreement`.
    models: at least one, of the same inputs. That they are as good as the baseline is the caller's to see to.

    Returns
    -------
    Distance with the standard error of a mean over inputs, for these models. No null. Any of the models may be the
    baseline: the value is the same.

    Raises
    ------
    TypeError, ValueError: as for :func:`repsim.disagreement`; no models.

    Paper: Marx, Calmon and Ustun (2020), "Predictive multiplicity in classification".
    """
    conflicts = _conflicts(baseline, models, function="ambiguity")
    found, n = np.asarray(conflicts.any(axis=0)), conflicts.shape[1]
    return result_of(AMBIGUITY, float(found.mean()), n, {"models": len(conflicts)}, error=mean_error(found))


def discrepancy(baseline: Any, models: Sequence[Any]) -> Distance:
    """The largest disagreement of one of the models with the baseline.

    Example::

        repsim.discrepancy(logits, [logits_1, logits_2, logits_3])   # [n, classes] each, or predicted classes [n]

    Parameters, raises: as for :func:`ambiguity`.

    Returns
    -------
    Distance with the jackknife standard error over inputs, exactly, for these models. No null.

    Paper: Marx, Calmon and Ustun (2020), "Predictive multiplicity in classification".
    """
    conflicts = _conflicts(baseline, models, function="discrepancy")
    counts = conflicts.sum(axis=1)
    most, n = int(counts.max()), conflicts.shape[1]
    # Without one input the largest count is one less where every model that has it differs there.
    without = (most - conflicts[counts == most].all(axis=0)) / (n - 1)
    error = float(np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum()))
    return result_of(DISCREPANCY, most / n, n, {"models": len(conflicts)}, error=error)


def label_entropy(models: Sequence[Any]) -> Distance:
    """Mean over inputs of the entropy of the classes that a set of models predicts, in bits.

    Example::

        repsim.label_entropy([logits_1, logits_2, logits_3])         # [n, classes] each, or predicted classes [n]

    Parameters
    ----------
    models: at least two, each as x of :func:`repsim.disagreement`, of the same inputs.

    Returns
    -------
    Distance, 0 where all models predict the same, with the standard error of a mean over inputs, for these models. Of
    two models it is their disagreement. No null.

    Raises
    ------
    TypeError, ValueError: as for :func:`repsim.disagreement`; fewer than two models.

    Formula: mean_i of -sum_c s_ic log2 s_ic with s_ic the share of the models that predict class c for input i.

    Paper: Klabunde et al. (2025), "Similarity of neural network models: a survey", after Datta et al. Not checked
        against public code, of which none was found.
    """
    if len(models) < 2:
        raise ValueError(f"[label_entropy] expected at least two models, got {len(models)}")
    classes = _predictions(
        models[0], "models[0]", [(f"models[{i}]", one) for i, one in enumerate(models[1:], 1)], function="label_entropy"
    )
    # For every model the share of those that predict what it does: a class counts once for each model that has it.
    shares = np.stack([(classes == own).mean(axis=0) for own in classes])
    found = np.abs(np.log2(shares).mean(axis=0))  # and not -0
    return result_of(LABEL_ENTROPY, float(found.mean()), len(found), {"models": len(classes)}, error=mean_error(found))


def rashomon_capacity(
    models: Sequence[Any], *, logits: bool = False, tolerance: float = 1e-6, iterations: int = 100_000
) -> Distance:
    """Mean over inputs of the information that a class gives of which model it is from, at most, in bits.

    Example::

        repsim.rashomon_capacity([probabilities_1, probabilities_2, probabilities_3])     # [n, classes] each
        2 ** repsim.rashomon_capacities(models).bits      # of every input: as many models contradict each other fully

    Parameters
    ----------
    models: class probabilities, as x of :func:`repsim.jensen_shannon_divergence`, of at least two models.
    logits: they are logits.
    tolerance: bits; how far the capacity of any input may lie above the one that is returned. This is certain, by the
        bounds of Blahut and Arimoto: the information under the weights that were found, and the largest divergence of a
        model from the mixture of all.
    iterations: of Blahut and Arimoto's algorithm, at most.

    Returns
    -------
    Distance, 0 where all models agree, with the standard error of a mean over inputs, for these models. Its options
    have the largest gap left, ``gap``. No null.

    Raises
    ------
    TypeError, ValueError: as for :func:`repsim.jensen_shannon_divergence`; fewer than two models; a tolerance that the
        iterations do not reach.

    Papers: Hsu and Calmon (2022), "Rashomon capacity: a metric for predictive multiplicity in classification"; Blahut
        (1972), "Computation of channel capacity and rate-distortion functions"; Arimoto (1972).
    """
    found = rashomon_capacities(models, logits=logits, tolerance=tolerance, iterations=iterations)
    n, gap = len(found.bits), float(found.gap.max())
    options = {"models": len(models), "logits": logits, "tolerance": tolerance, "gap": gap}
    return result_of(RASHOMON_CAPACITY, float(found.bits.mean()), n, options, error=mean_error(found.bits))


def rashomon_capacities(
    models: Sequence[Any], *, logits: bool = False, tolerance: float = 1e-6, iterations: int = 100_000
) -> RashomonCapacities:
    """:func:`rashomon_capacity` of every input, each with its certificate.

    Example::

        found = repsim.rashomon_capacities(models)       # found.bits [n], found.gap [n]
    """
    function = "rashomon_capacity"
    least = positive_number(tolerance, "tolerance", function=function)
    whole_number(iterations, "iterations", function=function)
    rows = [class_scores(one, function=function, name=f"models[{i}]") for i, one in enumerate(models)]
    if len(rows) < 2:
        raise ValueError(f"[{function}] expected at least two models, got {len(rows)}")
    for one in rows:
        like(len(rows[0]), rows[0].depth, len(one), one.depth, one.name, first="models[0]", function=function)
    sides = [Probabilities(one, logits, function) for one in rows]
    bits, gap = np.empty(len(rows[0])), np.empty(len(rows[0]))
    for start, stop in rows[0].sweep():
        part = slice(start, stop)
        channels = np.stack([side.block(part) for side in sides], axis=1)
        bits[part], gap[part] = _capacities(channels, least, iterations)
        if not gap[part].max() <= least:
            row = start + int(gap[part].argmax())
            raise ValueError(
                f"[{function}] expected a tolerance that {iterations} iterations reach, got {tolerance} where "
                f"{gap[row]:.3g} is left in row {row}"
            )
    return RashomonCapacities(bits, gap)


def _capacities(channels: np.ndarray, tolerance: float, iterations: int) -> tuple[np.ndarray, np.ndarray]:
    """Capacity [n] in bits of the channels [n, models, classes], from below, and how far it may lie above.

    Blahut and Arimoto multiply every weight by 2 to the divergence of its model from the mixture, which never loses
    information. Here the exponent is stretched further each time until it does, and starts again at 1 then, which takes
    a tenth of the time. Both bounds hold for any weights, so that no step can harm them.
    """
    from scipy.special import rel_entr

    n, models, _ = channels.shape
    lower, upper = np.full(n, -np.inf), np.full(n, np.inf)
    left = np.arange(n)  # those still to be settled
    weights = np.full((n, models), 1 / models)
    kept, known, stretch = weights, np.zeros((n, models)), np.ones(n)
    for _ in range(iterations):
        mixture = np.einsum("im,imc->ic", weights, channels)
        divergence = rel_entr(channels, mixture[:, None, :]).sum(axis=2) / np.log(2)  # [left, models]
        information = (weights * divergence).sum(axis=1)
        upper[left] = np.minimum(upper[left], divergence.max(axis=1))
        lost = information < lower[left]
        lower[left] = np.maximum(lower[left], information)
        more = upper[left] - lower[left] > tolerance
        if not more.any():
            break
        kept, known = (np.where(lost[:, None], *both)[more] for both in ((kept, weights), (known, divergence)))
        stretch = np.where(lost, 1.0, np.minimum(_STRETCH * stretch, _MOST_STRETCH))[more]
        left, channels = left[more], channels[more]
        weights = kept * np.exp2(stretch[:, None] * (known - known.max(axis=1, keepdims=True)))
        weights = np.maximum(weights / weights.sum(axis=1, keepdims=True), _LEAST_WEIGHT)
        weights /= weights.sum(axis=1, keepdims=True)
    return lower, upper - lower


def _conflicts(baseline: Any, models: Sequence[Any], *, function: str) -> np.ndarray:
    """[models, n]: where each of the models predicts another class than the baseline."""
    if not len(models):
        raise ValueError(f"[{function}] expected at least one model, got none")
    named = [(f"models[{i}]", one) for i, one in enumerate(models)]
    classes = _predictions(baseline, "baseline", named, function=function)
    return classes[1:] != classes[0]


def _predictions(first: Any, name: str, others: Sequence[tuple[str, Any]], *, function: str) -> np.ndarray:
    """[1 + others, n]: the classes that each predicts."""
    base, classes = predicted(first, function=function, name=name)
    found = [base]
    for other, one in others:
        given, count = predicted(one, function=function, name=other)
        like(len(base), classes, len(given), count, other, first=name, function=function)
        found.append(given)
    return np.array(found)
