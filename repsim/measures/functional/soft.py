"""Two models by their class probabilities, and by the maps that say what of an input they look at."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...arguments import positive_number
from ..registry import Measure, invariant_to, register
from ..similarity import Distance, Similarity
from .outputs import map_pair, mean_over_inputs, probability_pair

_NORMS = (1, 2, math.inf)
_COST = "time n d, twice that per relabelling; memory n and a block of rows"

JENSEN_SHANNON_DIVERGENCE = register(
    Measure(
        name="jensen_shannon_divergence",
        family="functional",
        kind="distance",
        low=0.0,
        high=1.0,
        symmetric=True,
        invariances=frozenset(),
        cost=_COST,
        paper="Lin (1991), Divergence measures based on the Shannon entropy",
        formula="mean_i (KL(p_i, m_i) + KL(q_i, m_i)) / 2, m_i = (p_i + q_i) / 2, in bits",
        takes="outputs",
        aliases=("scipy: the mean of jensenshannon(base=2) ** 2",),
        note="No metric; the square root of the divergence of a single input is.",
        self_value=0.0,
    )
)
PREDICTION_DIFFERENCE = register(
    Measure(
        name="prediction_difference",
        family="functional",
        kind="distance",
        low=0.0,
        high=2.0,
        symmetric=True,
        metric=True,
        invariances=frozenset(),
        cost=_COST,
        paper="Shamir and Coviello (2020), Anti-distillation: improving reproducibility of deep networks",
        formula="mean_i |p_i - q_i|, in the 1-, 2- or maximum norm",
        takes="outputs",
        note="At most 2, sqrt(2) and 1 in the three norms. Half of it is the mean distance to the mean of both models.",
        self_value=0.0,
    )
)
SURROGATE_CHURN = register(
    Measure(
        name="surrogate_churn",
        family="functional",
        kind="distance",
        low=0.0,
        high=np.inf,
        symmetric=True,
        metric=True,
        invariances=frozenset(),
        cost=_COST,
        paper="Bhojanapalli et al. (2021), On the reproducibility of neural network predictions",
        formula="mean_i |(p_i / max p_i)^alpha - (q_i / max q_i)^alpha|_1 / 2",
        takes="outputs",
        note="Tends to the disagreement for large alpha. At most half the number of classes.",
        self_value=0.0,
    )
)
SALIENCY_COSINE = register(
    Measure(
        name="saliency_cosine",
        family="functional",
        kind="similarity",
        low=-1.0,
        high=1.0,
        symmetric=True,
        invariances=invariant_to("isotropic_scaling"),
        cost=_COST,
        paper="Klabunde, Schumacher, Strohmaier and Lemmerich (2025), Similarity of neural network models: a survey",
        formula="mean_i cos(s_i, t_i) of the maps s_i of x and t_i of y",
        takes="outputs",
        note="Maps are gradients of a model's score with respect to its input, found by the caller.",
        self_value=1.0,
    )
)


def jensen_shannon_divergence(
    x: Any, y: Any, *, logits: bool = False, permutations: int = 0, seed: int = 0
) -> Distance:
    """Mean Jensen-Shannon divergence of the class probabilities of two models, in bits.

    Example::

        repsim.jensen_shannon_divergence(probabilities_a, probabilities_b)     # [n, classes] twice
        repsim.jensen_shannon_divergence(logits_a, logits_b, logits=True)

    Parameters
    ----------
    x, y: class probabilities [n, classes] of float16, bfloat16, float32 or float64; rows are divided by their sums,
        which may be as far from 1 as rounding to float16 makes them. numpy, memmap, torch CPU.
    logits: x and y are logits, and probabilities their softmax.
    permutations: relabellings of the inputs of y for the null and an add-one p-value, each as long as the value; 0
        leaves both out.
    seed: of the relabellings.

    Returns
    -------
    Distance in [0, 1] with the standard error of a mean over inputs.

    Raises
    ------
    TypeError, ValueError: arrays of other kinds or shapes; rows that are not finite or no probabilities (the row is
        named).

    Formula: mean_i (KL(p_i, m_i) + KL(q_i, m_i)) / 2 with m_i = (p_i + q_i) / 2 and logarithms of base 2.

    Paper: Lin (1991), "Divergence measures based on the Shannon entropy".
    """
    from scipy.special import rel_entr

    def term(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        middle = (p + q) / 2
        return (rel_entr(p, middle) + rel_entr(q, middle)).sum(axis=1) / (2 * math.log(2))

    sides = probability_pair(x, y, logits, function="jensen_shannon_divergence")
    return mean_over_inputs(JENSEN_SHANNON_DIVERGENCE, sides, term, {"logits": logits}, permutations, seed)


def prediction_difference(
    x: Any, y: Any, *, norm: float = 2, logits: bool = False, permutations: int = 0, seed: int = 0
) -> Distance:
    """Mean norm of the difference of the class probabilities of two models.

    Example::

        repsim.prediction_difference(probabilities_a, probabilities_b)         # [n, classes] twice
        repsim.prediction_difference(logits_a, logits_b, norm=1, logits=True)  # twice the total variation

    Parameters
    ----------
    x, y, logits, permutations, seed: as for :func:`jensen_shannon_divergence`.
    norm: 1, 2 or math.inf.

    Returns
    -------
    Distance of at most 2, sqrt(2) or 1, with the standard error of a mean over inputs.

    Raises
    ------
    TypeError, ValueError: as for :func:`jensen_shannon_divergence`; another norm.

    Paper: Shamir and Coviello (2020), "Anti-distillation: improving reproducibility of deep networks": the deviation of
        each of several models from the mean of all, which for two is half of this. Seen in public code that follows the
        survey of Klabunde et al.: that of two models is half of ``norm=1``, and the "norm of soft prediction
        difference" half of ``norm=2``. "Relative prediction difference" divides class by class, and is another measure.
    """
    if norm not in _NORMS:
        raise ValueError(f"[prediction_difference] expected norm 1, 2 or math.inf, got {norm!r}")

    def term(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        return np.linalg.norm(p - q, norm, axis=1)

    sides = probability_pair(x, y, logits, function="prediction_difference")
    options = {"norm": norm, "logits": logits}
    return mean_over_inputs(PREDICTION_DIFFERENCE, sides, term, options, permutations, seed)


def surrogate_churn(
    x: Any, y: Any, *, alpha: float = 1.0, logits: bool = False, permutations: int = 0, seed: int = 0
) -> Distance:
    """Half the mean 1-norm between the class probabilities of two models, each over its largest to the power alpha.

    Example::

        repsim.surrogate_churn(probabilities_a, probabilities_b, alpha=2.0)    # [n, classes] twice

    Parameters
    ----------
    x, y, logits, permutations, seed: as for :func:`jensen_shannon_divergence`.
    alpha: above 0; the larger, the nearer to the disagreement of the predicted classes.

    Returns
    -------
    Distance, at most half the number of classes, with the standard error of a mean over inputs.

    Raises
    ------
    TypeError, ValueError: as for :func:`jensen_shannon_divergence`; an alpha that is not above 0.

    Paper: Bhojanapalli et al. (2021), "On the reproducibility of neural network predictions".
    """
    power = positive_number(alpha, "alpha", function="surrogate_churn")

    def term(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        sharp_p, sharp_q = ((one / one.max(axis=1, keepdims=True)) ** power for one in (p, q))
        return np.abs(sharp_p - sharp_q).sum(axis=1) / 2

    sides = probability_pair(x, y, logits, function="surrogate_churn")
    options = {"alpha": power, "logits": logits}
    return mean_over_inputs(SURROGATE_CHURN, sides, term, options, permutations, seed)


def saliency_cosine(x: Any, y: Any, *, absolute: bool = False, permutations: int = 0, seed: int = 0) -> Similarity:
    """Mean cosine between the saliency maps of two models.

    Example::

        repsim.saliency_cosine(gradients_a, gradients_b)             # [n, 3, 32, 32] twice
        repsim.saliency_cosine(gradients_a, gradients_b, absolute=True)

    Parameters
    ----------
    x, y: one map per input, [n, d] or [n, ...], of float16, bfloat16, float32 or float64: the gradient of a score with
        respect to the input. To compare all classes, put them in as inputs.
    absolute: compare absolute values: where a model looks, not which way its score would change. The value is then not
        negative, and 0.64 for maps of independent normal values.
    permutations, seed: as for :func:`jensen_shannon_divergence`.

    Returns
    -------
    Similarity in [-1, 1] with the standard error of a mean over inputs.

    Raises
    ------
    TypeError, ValueError: arrays of other kinds, maps of different shapes, maps that are not finite or zero everywhere
        (the row is named).

    Paper: Klabunde et al. (2025), "Similarity of neural network models: a survey", after Jones et al. (2022), "If
        you've trained one you've trained them all". Not checked: no public code of it was found, and the second paper
        could not be read.
    """
    sides = map_pair(x, y, absolute, function="saliency_cosine")

    def term(s: np.ndarray, t: np.ndarray) -> np.ndarray:
        return (s * t).sum(axis=1)

    return mean_over_inputs(SALIENCY_COSINE, sides, term, {"absolute": absolute}, permutations, seed)
