"""The geometry score: how many loops witness complexes of a representation have, and for how much of their growth."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arguments import Progress, positive_number, whole_number
from ..arrays import Rows, as_rows
from ..reductions import column_sums, equal_rows
from .method import Method
from .registry import Measure, invariant_to, register
from .similarity import Distance


def _default_gamma(n: int) -> float:
    """The rule of the authors' code, for the 5000 inputs that they take 1/128 of."""
    return n / 5000 / 128


def _geometry_score(
    landmarks: int = 64, gamma: float | None = None, i_max: int = 100, repetitions: int = 100, landmark_seed: int = 0
) -> Method[np.ndarray]:
    for value, name, least in (
        (landmarks, "landmarks", 3), (i_max, "i_max", 1), (repetitions, "repetitions", 1),
        (landmark_seed, "landmark_seed", 0),
    ):  # fmt: skip
        whole_number(value, name, function="geometry_score", least=least)
    if gamma is not None:
        positive_number(gamma, "gamma", function="geometry_score")

    def prepare(rows: Rows, threads: int) -> np.ndarray:
        middle = column_sums(rows, function="geometry_score", threads=threads) / len(rows)  # every row is finite
        points = rows.wide(slice(None)) - middle
        # From the middle outwards, so that the order in which inputs are given does not matter to what is drawn.
        points = points[np.argsort((points * points).sum(axis=1), kind="stable")]
        share = _default_gamma(len(points)) if gamma is None else gamma
        random = np.random.default_rng(landmark_seed)
        if len(points) <= landmarks:  # every draw would be all of them
            drawn = [np.arange(len(points))]
        else:
            drawn = [random.choice(len(points), landmarks, replace=False) for _ in range(repetitions)]
        return np.mean([_living_times(*_bars(points, some, share, rows), i_max) for some in drawn], axis=0)

    def between(x: np.ndarray, y: np.ndarray, threads: int) -> float:
        return float(((x - y) ** 2).sum())

    return Method(prepare, between, lambda times, order: times, least_rows=3)


def _bars(points: np.ndarray, some: np.ndarray, gamma: float, rows: Rows) -> tuple[np.ndarray, float]:
    """[bars, 2], birth and death of the loops of the witness complexes up to alpha, and that alpha.

    A simplex of up to three landmarks is in the complex of alpha where each of its faces has a witness: an input whose
    distance to the farthest landmark of the face is at most alpha more than to the nearest landmark outside of it.
    """
    try:
        from gudhi import WitnessComplex
    except ImportError as error:
        raise ImportError(
            "[geometry_score] expected the package gudhi, got none; pip install 'repsim-exact[topology]'"
        ) from error
    from scipy.spatial.distance import cdist

    between = cdist(points, points[some])
    largest = gamma * float(between.max())
    if not largest > 0:
        raise equal_rows(rows, len(points), function="geometry_score")
    nearest_first = np.argsort(between, axis=1, kind="stable")
    between = np.take_along_axis(between, nearest_first, axis=1)
    # Of three landmarks the nearest one outside is at most the fourth: no landmark farther than that and alpha is in a
    # simplex of this witness. One more ends the list.
    reach = between[:, min(3, len(some) - 1)] + largest
    lengths = (between <= reach[:, None]).sum(axis=1) + 1
    most = int(lengths.max())
    ordered = zip(nearest_first[:, :most].tolist(), between[:, :most].tolist(), lengths.tolist(), strict=True)
    table = [list(zip(near[:length], distances[:length], strict=True)) for near, distances, length in ordered]
    complexes = WitnessComplex(nearest_landmark_table=table).create_simplex_tree(
        max_alpha_square=largest, limit_dimension=2
    )
    # Loops of a graph without triangles are loops too: gudhi leaves out the highest dimension unless asked for it.
    complexes.compute_persistence(homology_coeff_field=2, persistence_dim_max=complexes.dimension() < 2)
    return np.asarray(complexes.persistence_intervals_in_dimension(1), np.float64).reshape(-1, 2), largest


def _living_times(bars: np.ndarray, largest: float, i_max: int) -> np.ndarray:
    """[i_max]: the share of [0, largest] in which 0, 1, ..., i_max - 1 of the bars are alive."""
    born, dead = bars[:, 0], np.minimum(bars[:, 1], largest)
    ends = np.unique(np.concatenate([[0.0, largest], born, dead]))
    alive = np.searchsorted(np.sort(born), ends[:-1], side="right") - np.searchsorted(
        np.sort(dead), ends[:-1], side="right"
    )
    lengths, few = np.diff(ends), alive < i_max
    return np.bincount(alive[few], weights=lengths[few], minlength=i_max) / largest


GEOMETRY_SCORE = register(
    Measure(
        name="geometry_score",
        family="topology",
        kind="distance",
        low=0.0,
        high=2.0,
        symmetric=True,
        invariances=invariant_to("orthogonal", "isotropic_scaling", "translation"),
        cost="per set of l landmarks: time n l d and the first homology of their witness complexes; memory n (d + l)",
        paper="Khrulkov and Oseledets (2018), Geometry score: a method for comparing generative adversarial networks",
        formula="sum_i (m_i - m'_i)^2, m_i the mean over sets of landmarks of the share of [0, alpha] with i loops",
        aliases=("geometry-score: geom_score of rlts", "ReSi: GeometryScore"),
        note="It compares shapes, not inputs: in any order of the inputs it is the same, so no relabelling tests it. "
        "With the default gamma, which grows with n, few inputs have no loops at all: it is then 0.",
        method=_geometry_score,
        self_value=0.0,
    )
)


def geometry_score(
    x: Any,
    y: Any,
    *,
    landmarks: int = 64,
    gamma: float | None = None,
    i_max: int = 100,
    repetitions: int = 100,
    landmark_seed: int = 0,
    permutations: int = 0,
    seed: int = 0,
    jackknife: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Distance:
    """Geometry score: how differently the numbers of loops of random witness complexes are distributed.

    Example::

        repsim.geometry_score(x, y)                      # x [n, d], y [n, d']; pip install 'repsim-exact[topology]'
        repsim.geometry_score(x, y, gamma=1 / 8, landmarks=32, repetitions=1000)

    Parameters
    ----------
    x, y, permutations, seed, jackknife, threads, progress: as for :func:`repsim.procrustes`.
    landmarks: inputs in each random set, without replacement; one set of all inputs where there are no more.
    gamma: the largest alpha, as a share of the largest distance of an input to a landmark. None: n / 5000 / 128, the
        rule of the authors' code.
    i_max: numbers of loops 0, 1, ..., i_max - 1 are told apart; complexes with more are left out of the sum.
    repetitions: sets of landmarks. The authors' function draws 1000, their examples 100.
    landmark_seed: the sets are ``numpy.random.default_rng(landmark_seed).choice(n, landmarks, replace=False)``, one
        after another, as places among the inputs of each side in the order of their distance from the mean.

    Returns
    -------
    Distance in [0, 2], 0 for x with itself, its value the same for (x, y) and (y, x). Relabellings leave it as it is: z
    is NaN and p 1. Inputs that are equally far from the mean, and differ, are drawn in the order given.

    Raises
    ------
    TypeError, ValueError: bad arrays (as for :func:`repsim.procrustes`); rows that are all equal; numbers that are no
        counts; a gamma that is not above 0. ImportError: the package gudhi is missing.

    Formula: sum_i (m_i - m'_i)^2 with m_i the mean over sets of landmarks of the share of alpha in [0, gamma max
        distance] at which the first Betti number (over the field of two) of the witness complex is i.

    Paper: Khrulkov and Oseledets (2018), "Geometry score: a method for comparing generative adversarial networks".
        Their code, which ReSi calls, draws landmarks with replacement and anew for each side, so that x has a distance
        from itself, and counts no loop of a complex without triangles.
    """
    function = "geometry_score"
    x = as_rows(x, function=function, name="x")
    share = _default_gamma(len(x)) if gamma is None else positive_number(gamma, "gamma", function=function)
    options = {
        "landmarks": landmarks, "gamma": share, "i_max": i_max, "repetitions": repetitions,
        "landmark_seed": landmark_seed,
    }  # fmt: skip
    return GEOMETRY_SCORE.evaluate(
        x, y, options, permutations=permutations, seed=seed, jackknife=jackknife, threads=threads, progress=progress
    )
