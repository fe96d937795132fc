"""Distances between models p(y|x) proportional to exp(f(x)'g(y)), and between the representations that they identify.

Such a model fixes its embeddings f and unembeddings g up to (A f, A^-T g + c). A model is given as a pair (f, g): f
[n, M] of n inputs, g [K, M] of all K labels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..arguments import positive_number, whole_number
from .model_family import Choice, Model, choose, model_pair, parts, triangles
from .registry import Measure, invariant_to, register
from .similarity import Distance, Similarity

_MOST_SUBSETS = 100_000
_AT_ONCE = 2**20  # numbers of the matrices decomposed together
_NIELSEN = (
    "Nielsen, Marconato, Dittadi and Gresele (2025), When does closeness in distribution imply representational "
    "similarity? An identifiability perspective"
)
_LOGITS = "Nielsen, Marconato, Gresele, Dittadi and Buchholz (2026), Logit distance bounds representational similarity"
_JOINTLY = "unchanged by (f, g) -> (f A, g A^-T + c) of either model; by maps of f or g alone it is not"

register(
    Measure(
        name="d_llv",
        family="identifiability",
        kind="distance",
        low=0.0,
        high=np.inf,
        symmetric=True,
        invariances=frozenset(),
        cost="time n (M^2 + K M) + K^2 M + S K M, memory K^2",
        paper=_NIELSEN,
        formula="max of sd[ln p/sd - ln p'/sd'] over inputs, over labels, and lambda |sd - sd'| of both",
        same_width=True,
        takes="embeddings",
        note=f"{_JOINTLY}; pivot, left-out label and inputs are chosen for each pair of models",
        self_value=0.0,
    )
)


def d_llv(x: Any, y: Any, *, weight: float = 1e-5, sets: int = 100, seed: int = 0) -> Distance:
    """Log-likelihood variance distance between two models: small values bound the distance of their representations.

    Example::

        result = repsim.d_llv((f, g), (f2, g2))     # f [n, M] of the same inputs, g [K, M] of the same labels
        result.options["t1"], result.options["pivot"], result.options["left_out"], result.options["inputs"]

    Parameters
    ----------
    x, y: pairs (embeddings [n, M], unembeddings [K, M]) with K at least M + 2 and n at least M + 1; arrays as for
        :func:`repsim.cka`.
    weight: of t3 and t4 (lambda).
    sets: random sets of M + 1 inputs, of which the one with the smallest t2 is taken; sets whose pivot has the
        same p(y|x) as another of their inputs are passed over.
    seed: of the sets.

    Returns
    -------
    Distance max(t1, t2, weight t3, weight t4). The options hold t1 to t4, the pivot and left-out labels, and the
    inputs (their pivot first).

    Raises
    ------
    TypeError, ValueError: no such pairs, too few labels or inputs, values that are not finite (the row is named),
        log-odds without variance.

    Formula: with s_i(p) = sd_x[ln p(y_i|x) - ln p(y_0|x)] and r_j(p) = sd_y[ln p(y|x_j) - ln p(y|x_0)] (n - 1 and K - 1
    in the denominators), t1 = max over labels i other than the pivot 0 and the one left out, and over a of i and 0, of
    sd_x[ln p(y_a|x) / s_i(p) - ln p'(y_a|x) / s_i(p')]; t2 the same over the inputs of the set and over labels;
    t3 = max_i |s_i(p) - s_i(p')|, t4 = max_j |r_j(p) - r_j(p')|. Pivot and left-out label minimise t1.

    Paper: Nielsen, Marconato, Dittadi and Gresele (2025), "When does closeness in distribution imply representational
    similarity? An identifiability perspective". The authors' public code (bemigini/close-dist-rep-sim) has these four
    terms, choices and denominators; it draws its sets of inputs without overlap, and can sum the terms instead.
    """
    share = positive_number(weight, "weight", function="d_llv", or_zero=True)
    left, _, chosen = _chosen(x, y, sets, seed, "d_llv")
    t1, t2, t3, t4 = chosen.terms
    options = {"weight": share, "sets": sets, "seed": seed, "t1": t1, "t2": t2, "t3": t3, "t4": t4, **_named(chosen)}
    return Distance.alone(max(t1, t2, share * t3, share * t4), "d_llv", left.inputs, options)


register(
    Measure(
        name="d_svd",
        family="identifiability",
        kind="distance",
        low=0.0,
        high=1.0,
        symmetric=True,
        invariances=frozenset(),
        cost="time n M^2 + K^2 M + subsets M^3, memory K^2",
        paper=_NIELSEN,
        formula="max of 1 - |Cov(Z, Z')|_* / M, Z = f(x)'[g(y_i) - g(y_0)] standardised",
        same_width=True,
        takes="embeddings",
        note=_JOINTLY,
        self_value=0.0,
    )
)


def d_svd(x: Any, y: Any, *, of: str = "f", subsets: int | None = None, sets: int = 100, seed: int = 0) -> Distance:
    """1 - mean covariance of the PLS-SVD of the embeddings, or unembeddings, of two models in shared coordinates.

    Example::

        repsim.d_svd((f, g), (f2, g2))                       # f [n, M], g [K, M]: the largest over M labels of K - 2
        repsim.d_svd((f, g), (f2, g2), of="g")

    Parameters
    ----------
    x, y, sets, seed: as for :func:`d_llv`, which chooses the pivot and left-out labels, and the inputs.
    of: "f" for embeddings, "g" for unembeddings.
    subsets: of M labels, drawn at random, instead of all (K - 2 over M) of them: the value is then the largest among
        these. Needed where there are more than 100 000. Only for embeddings.

    Returns
    -------
    Distance in [0, 1].

    Raises
    ------
    TypeError, ValueError: as for :func:`d_llv`; more subsets than can be tried.

    Formula: 1 - |Cov(Z, Z')|_* / M with Z = L'f(x), L = [g(y_i) - g(y_0)] over M labels, every coordinate standardised;
    over unembeddings Z = N'g(y), N = [f(x_j) - f(x_0)] over the chosen inputs.

    Paper: as for :func:`d_llv`.
    """
    if of not in ("f", "g"):
        raise ValueError(f"[d_svd] expected of 'f' or 'g', got {of!r}")
    left, right, chosen = _chosen(x, y, sets, seed, "d_svd", subsets)
    options = {"of": of, "subsets": subsets, "sets": sets, "seed": seed, **_named(chosen)}
    if of == "g":
        return Distance.alone(_of_unembeddings(left, right, chosen), "d_svd", left.labels, options)
    return Distance.alone(_of_embeddings(left, right, chosen, subsets, seed, "d_svd"), "d_svd", left.inputs, options)


register(
    Measure(
        name="d_fg",
        family="identifiability",
        kind="distance",
        low=0.0,
        high=1.0,
        symmetric=True,
        invariances=frozenset(),
        cost="time n M^2 + K^2 M + subsets M^3, memory K^2",
        paper=_NIELSEN,
        formula="max(d_svd of f, d_svd of g)",
        same_width=True,
        takes="embeddings",
        note=f"{_JOINTLY}; at most 2 M d_llv with the same sets and seed",
        self_value=0.0,
    )
)


def d_fg(x: Any, y: Any, *, subsets: int | None = None, sets: int = 100, seed: int = 0) -> Distance:
    """Distance between the representations of two models: the larger :func:`d_svd` of embeddings and unembeddings.

    Example::

        repsim.d_fg((f, g), (f2, g2))                        # f [n, M], g [K, M]; at most 2 M repsim.d_llv(...)

    Parameters, raises: as for :func:`d_svd`.

    Returns
    -------
    Distance in [0, 1], at most 2 M times the :func:`d_llv` of the same sets and seed. The options hold ``d_f`` and
    ``d_g``, of which it is the larger, and what :func:`d_llv` chose.

    Paper: as for :func:`d_llv`.
    """
    left, right, chosen = _chosen(x, y, sets, seed, "d_fg", subsets)
    d_f = _of_embeddings(left, right, chosen, subsets, seed, "d_fg")
    d_g = _of_unembeddings(left, right, chosen)
    options = {"subsets": subsets, "sets": sets, "seed": seed, "d_f": d_f, "d_g": d_g, **_named(chosen)}
    return Distance.alone(max(d_f, d_g), "d_fg", left.inputs, options)


def _chosen(
    x: Any, y: Any, sets: int, seed: int, function: str, subsets: int | None = None
) -> tuple[Model, Model, Choice]:
    whole_number(sets, "sets", function=function)
    whole_number(seed, "seed", function=function, least=0)
    if subsets is not None:
        whole_number(subsets, "subsets", function=function)
    left, right = model_pair(x, y, function=function, same_width=True)
    return left, right, choose(left, right, sets, seed, function=function)


def _named(chosen: Choice) -> dict[str, Any]:
    return {"pivot": chosen.pivot, "left_out": chosen.left_out, "inputs": tuple(chosen.inputs.tolist())}


def _of_embeddings(x: Model, y: Model, chosen: Choice, subsets: int | None, seed: int, function: str) -> float:
    """The covariances of all labels hold those of any M of them: coordinates are standardised one by one."""
    labels = chosen.labels(x.labels)
    tried = math.comb(len(labels), x.depth)
    if subsets is None and tried > _MOST_SUBSETS:
        raise ValueError(
            f"[{function}] expected at most {_MOST_SUBSETS} sets of {x.depth} labels out of {len(labels)}, got "
            f"{tried}; pass subsets for how many to draw"
        )
    sides = zip(chosen.embeddings, (x, y), strict=True)
    covariance = _correlations(*(one @ (m.g[labels] - m.g[chosen.pivot]).T for one, m in sides))
    least = np.inf
    for some in _subsets(len(labels), x.depth, subsets, seed):
        singular = np.linalg.svd(covariance[some[:, :, None], some[:, None, :]], compute_uv=False)
        least = min(least, float(singular.sum(axis=1).min()))
    return 1 - least / x.depth


def _of_unembeddings(x: Model, y: Model, chosen: Choice) -> float:
    sides = []
    for model in (x, y):
        f = model.f.wide(chosen.inputs)
        sides.append(model.g @ (f[1:] - f[0]).T)
    return 1 - float(np.linalg.svd(_correlations(*sides), compute_uv=False).sum()) / x.depth


def _correlations(z: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Between the columns of two matrices whose columns have mean 0."""
    return (z / np.linalg.norm(z, axis=0)).T @ (other / np.linalg.norm(other, axis=0))


def _subsets(count: int, size: int, drawn: int | None, seed: int) -> Iterator[np.ndarray]:
    """All subsets of so many labels, or so many drawn, [some, size] at a time."""
    random = np.random.default_rng(seed)
    every: Iterator[Any] = (
        itertools.combinations(range(count), size)
        if drawn is None
        else (random.choice(count, size, replace=False) for _ in range(drawn))
    )
    while some := list(itertools.islice(every, max(_AT_ONCE // size**2, 1))):
        yield np.array(some)


register(
    Measure(
        name="mcca",
        family="identifiability",
        kind="similarity",
        low=0.0,
        high=1.0,
        symmetric=True,
        invariances=invariant_to("affine"),
        cost="time n M^2, memory M^2",
        paper=_NIELSEN,
        formula="mean of the M canonical correlations of f and f', or of g and g'",
        same_width=True,
        takes="embeddings",
        note="of full rank M only; more than M inputs (or labels) are needed, and many more to mean anything",
        self_value=1.0,
    )
)


def mcca(x: Any, y: Any, *, of: str = "f") -> Similarity:
    """Mean of the M canonical correlations between the embeddings, or the unembeddings, of two models.

    Example::

        repsim.mcca((f, g), (f2, g2))                        # f [n, M], g [K, M]
        repsim.mcca((f, g), (f2, g2), of="g")

    Parameters
    ----------
    x, y: as for :func:`d_llv`, with any number of labels.
    of: "f" for embeddings (more than M inputs), "g" for unembeddings (more than M labels).

    Returns
    -------
    Similarity in [0, 1].

    Raises
    ------
    TypeError, ValueError: as for :func:`d_llv`; representations that, centred, span fewer than M dimensions.

    Paper: as for :func:`d_llv`.
    """
    if of not in ("f", "g"):
        raise ValueError(f"[mcca] expected of 'f' or 'g', got {of!r}")
    left, right = model_pair(x, y, function="mcca", same_width=True)
    sides = triangles(left.f, right.f) if of == "f" else (left.g, right.g)
    n = left.inputs if of == "f" else left.labels
    bases = []
    for side, model in zip(sides, (left, right), strict=True):
        # Of columns at unit norm, so that their scales cost no digits.
        norms = np.linalg.norm(side, axis=0)
        basis, singular, _ = np.linalg.svd(side / np.where(norms > 0, norms, 1), full_matrices=False)
        rank = int(np.count_nonzero(singular > max(n, model.depth) * np.finfo(np.float64).eps * singular.max()))
        if rank < model.depth:
            raise ValueError(
                f"[mcca] expected {of} of {model.name} that spans {model.depth} dimensions about its mean, got {rank}"
            )
        bases.append(basis)
    correlations = np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)
    return Similarity.alone(float(correlations.mean()), "mcca", n, {"of": of})


register(
    Measure(
        name="kl_divergence",
        family="identifiability",
        kind="distance",
        low=0.0,
        high=np.inf,
        symmetric=False,
        invariances=frozenset(),
        cost="time n K M, memory blocks of rows",
        paper=_NIELSEN,
        formula="mean_x sum_y p(y|x) ln[p(y|x) / p'(y|x)]",
        takes="embeddings",
        note=f"{_JOINTLY}; small values do not bound the distance of representations",
        self_value=0.0,
    )
)


def kl_divergence(x: Any, y: Any) -> Distance:
    """Mean Kullback-Leibler divergence, in nats, of the distributions of model x from those of model y.

    Example::

        repsim.kl_divergence((f, g), (f2, g2))               # f [n, M], g [K, M]; f2 [n, M'], g2 [K, M']

    Parameters
    ----------
    x, y: as for :func:`d_llv`, with any number of labels and dimensions.

    Returns
    -------
    Distance from 0 up; kl_divergence(y, x) is another number.

    Raises
    ------
    TypeError, ValueError: no such pairs, values that are not finite (the row is named).

    Formula: mean over inputs of sum_y p(y|x) ln[p(y|x) / p'(y|x)].

    Paper: as for :func:`d_llv`.
    """
    left, right = model_pair(x, y, function="kl_divergence", same_width=False)
    total = 0.0
    for part in parts(left.inputs, left.labels):
        ours, theirs = left.log_probabilities(part), right.log_probabilities(part)
        p, more = np.exp(ours), theirs - ours
        # p ln(p/q) - p + q, which sums to the same and is nowhere negative; with q = p e^more for q close to p.
        near = np.abs(more) < 1
        close = np.where(near, more, 0)
        total += float(np.where(near, p * (np.expm1(close) - close), np.exp(theirs) - p - p * more).sum())
    return Distance.alone(total / left.inputs, "kl_divergence", left.inputs, {})


register(
    Measure(
        name="logit_distance",
        family="identifiability",
        kind="distance",
        low=0.0,
        high=np.inf,
        symmetric=True,
        metric=True,
        invariances=frozenset(),
        cost="time n K M, memory blocks of rows",
        paper=_LOGITS,
        formula="sqrt(mean_x |u(x) - u'(x)|^2), u(x)_y = f(x)'[g(y) - mean g]",
        takes="embeddings",
        note=_JOINTLY,
        self_value=0.0,
    )
)


def logit_distance(x: Any, y: Any) -> Distance:
    """Root mean squared distance between the logits of two models, each centred over labels.

    Example::

        repsim.logit_distance((f, g), (f2, g2))              # f [n, M], g [K, M]; f2 [n, M'], g2 [K, M']

    Parameters, raises: as for :func:`kl_divergence`.

    Returns
    -------
    Distance from 0 up, a metric between the distributions of the models on these inputs.

    Formula: sqrt(mean_x |u(x) - u'(x)|^2) with u(x)_y = f(x)'[g(y) - mean g].

    Paper: Nielsen, Marconato, Gresele, Dittadi and Buchholz (2026), "Logit distance bounds representational
    similarity". The authors' public code (bemigini/logit-distance-bounds-rep-sim) computes the square of this.

    Bound: of M + 1 labels, with L = [g(y_i) - g(y_0)] of x, L' of y and A = L^-T L'^T, the mean of |f(x) - A f'(x)|^2
    is at most (M + 1) / sigma_min(L)^2 times the square of this. That follows, as L^T f are differences of logits; the
    constants of the paper could not be read.
    """
    left, right = model_pair(x, y, function="logit_distance", same_width=False)
    total = 0.0
    for part in parts(left.inputs, left.labels):
        total += float(((left.logits(part) - right.logits(part)) ** 2).sum())
    return Distance.alone(math.sqrt(total / left.inputs), "logit_distance", left.inputs, {})
