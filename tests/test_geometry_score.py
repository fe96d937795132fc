"""The geometry score, against witness complexes by their definition and Betti numbers by ranks modulo two."""

from __future__ import annotations

import itertools
import math
import sys
from typing import Any

import numpy as np
import pytest

import repsim
from repsim.arrays import as_rows
from repsim.measures import geometry_score as module

Array = np.ndarray
SMALL: dict[str, Any] = {"landmarks": 8, "gamma": 0.1, "repetitions": 3, "i_max": 5}


def pair(n: int, d: int = 3, seed: int = 0) -> tuple[Array, Array]:
    random = np.random.default_rng([seed, n, d])
    x = random.standard_normal((n, d))
    return x, np.tanh(x @ random.standard_normal((d, d + 1))) + 0.3 * random.standard_normal((n, d + 1))


# ---------------------------------------------------------------------------------------------- oracle


def entries(points: Array, some: Array) -> dict[tuple[int, ...], float]:
    """The alpha at which every simplex of up to three landmarks enters: when the last of its faces has a witness."""
    between = np.array([[math.dist(one, points[j]) for j in some] for one in points])
    own = {}
    for size in (1, 2, 3):
        for simplex in itertools.combinations(range(len(some)), size):
            others = [j for j in range(len(some)) if j not in simplex]
            own[simplex] = min(
                max(0.0, max(row[j] for j in simplex) - min((row[j] for j in others), default=math.inf))
                for row in between
            )
    return {
        simplex: max(own[face] for size in range(1, len(simplex) + 1) for face in itertools.combinations(simplex, size))
        for simplex in own
    }


def rank(columns: list[set[int]]) -> int:
    """Over the field of two."""
    reduced: dict[int, set[int]] = {}
    for column in columns:
        while column and max(column) in reduced:
            column = column ^ reduced[max(column)]
        if column:
            reduced[max(column)] = column
    return len(reduced)


def loops(alpha: float, enters: dict[tuple[int, ...], float]) -> int:
    """The first Betti number of the complex of alpha: edges - rank of their boundary - rank of that of triangles."""
    inside = [simplex for simplex, at in enters.items() if at <= alpha]
    place = {simplex: i for i, simplex in enumerate(inside)}
    edges, triangles = (
        [{place[face] for face in itertools.combinations(one, size - 1)} for one in inside if len(one) == size]
        for size in (2, 3)
    )
    return len(edges) - rank(edges) - rank(triangles)


def living_times(points: Array, some: Array, gamma: float, i_max: int) -> Array:
    largest = gamma * max(math.dist(one, points[j]) for one in points for j in some)
    enters = entries(points, some)
    cuts = sorted({0.0, largest, *(at for at in enters.values() if at < largest)})
    times = np.zeros(i_max)
    for low, high in itertools.pairwise(cuts):
        found = loops((low + high) / 2, enters)
        if found < i_max:
            times[found] += (high - low) / largest
    return times


def score(x: Array, y: Array, *, landmarks: int, gamma: float, repetitions: int, i_max: int, seed: int = 0) -> float:
    random = np.random.default_rng(seed)
    drawn = [random.choice(len(x), landmarks, replace=False) for _ in range(repetitions)]
    outwards = [side[np.argsort([math.dist(row, side.mean(axis=0)) for row in side])] for side in (x, y)]
    means = [np.mean([living_times(side, some, gamma, i_max) for some in drawn], axis=0) for side in outwards]
    return float(((means[0] - means[1]) ** 2).sum())


def test_the_oracle_knows_a_loop() -> None:
    """Landmarks at the corners of a square, witnesses along its sides: its four edges, and no diagonal, at once."""
    along = np.linspace(0, 1, 9)
    sides = [np.stack([along, 0 * along], 1), np.stack([along, 0 * along + 1], 1)]
    points = np.concatenate([*sides, *(side[:, ::-1] for side in sides)])
    corners = np.array(
        [int(np.abs(points - corner).sum(axis=1).argmin()) for corner in ((0, 0), (1, 0), (1, 1), (0, 1))]
    )
    assert loops(0.01, entries(points, corners)) == 1
    assert living_times(points, corners, 0.01, 3).tolist() == [0, 1, 0]
    assert loops(0.5, entries(points, corners)) == 0  # filled


# ---------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("n", "d", "change"),
    [
        pytest.param(24, 2, {}, id="plane"),
        pytest.param(24, 1, {}, id="line"),
        pytest.param(9, 12, {}, id="n<d"),
        pytest.param(24, 2, {"gamma": 0.02}, id="few-triangles"),
        pytest.param(24, 2, {"i_max": 1}, id="more-loops-than-are-counted"),
        pytest.param(20, 2, {"landmarks": 3, "gamma": 0.5}, id="fewest-landmarks"),
        pytest.param(20, 2, {"landmarks": 4, "gamma": 0.4}, id="four-landmarks"),
    ],
)
def test_geometry_score(n: int, d: int, change: dict[str, Any]) -> None:
    options = {**SMALL, **change}
    x, y = pair(n, d)
    result = repsim.geometry_score(x, y, **options)
    assert result == pytest.approx(score(x, y, **options), rel=1e-9, abs=1e-12)
    assert (result.measure, result.n) == ("geometry_score", n)
    assert result.options == {**options, "landmark_seed": 0}
    assert repsim.geometry_score(y, x, **options) == result
    assert repsim.geometry_score(x, x, **options) == 0


def test_some_of_these_values_differ_from_zero() -> None:
    assert repsim.geometry_score(*pair(24, 2), **SMALL) > 1e-3


def test_living_times_of_every_set() -> None:
    """Term by term, so that errors cannot hide in a mean of differences."""
    x, _ = pair(30, 2)
    rows = as_rows(x, function="test", name="x")
    random = np.random.default_rng(1)
    seen = set()
    for gamma in (0.03, 0.1, 0.3):
        for _ in range(4):
            some = random.choice(30, 8, replace=False)
            found = module._living_times(*module._bars(x, some, gamma, rows), 9)
            np.testing.assert_allclose(found, living_times(x, some, gamma, 9), atol=1e-12)
            seen |= set(np.flatnonzero(found))
    assert len(seen) >= 3  # none, one and more loops


def test_all_inputs_are_landmarks_where_they_are_few() -> None:
    x, y = pair(7, 2)
    every = np.arange(7)
    expected = ((living_times(x, every, 0.1, 5) - living_times(y, every, 0.1, 5)) ** 2).sum()
    assert repsim.geometry_score(x, y, **SMALL) == pytest.approx(expected, abs=1e-12)
    many = {**SMALL, "landmarks": 64, "repetitions": 1}
    assert repsim.geometry_score(x, y, **many) == pytest.approx(expected, abs=1e-12)


def test_it_sees_a_circle() -> None:
    """As in the paper: a circle against another draw of it, a disc, and two circles."""
    random = np.random.default_rng(0)

    def circle(n: int, centre: float = 0.0) -> Array:
        turn = random.uniform(0, 2 * np.pi, n)
        return np.stack([np.cos(turn) + centre, np.sin(turn)], axis=1)

    disc = circle(300) * np.sqrt(random.uniform(0, 1, 300))[:, None]
    options: dict[str, Any] = {"landmarks": 16, "gamma": 1 / 8, "repetitions": 20, "i_max": 10}
    again = repsim.geometry_score(circle(300), circle(300), **options)
    others = [
        repsim.geometry_score(circle(300), one, **options)
        for one in (disc, np.concatenate([circle(150, -2), circle(150, 2)]))
    ]
    assert min(others) > 20 * again


def test_gamma_grows_with_the_inputs() -> None:
    x, y = pair(40, 2)
    result = repsim.geometry_score(x, y, landmarks=8, repetitions=2)
    assert result.options["gamma"] == 40 / 5000 / 128
    assert result == repsim.geometry_score(x, y, landmarks=8, repetitions=2, gamma=40 / 5000 / 128)


def test_landmarks_are_drawn_from_their_seed() -> None:
    x, y = pair(40, 2)
    values = {float(repsim.geometry_score(x, y, **SMALL, landmark_seed=seed)) for seed in (0, 0, 1)}
    assert len(values) == 2
    expected = score(x, y, **SMALL, seed=1)
    assert repsim.geometry_score(x, y, **SMALL, landmark_seed=1) == pytest.approx(expected, abs=1e-12)


def test_it_asks_for_no_order() -> None:
    x, y = pair(40, 2)
    shuffled = y[np.random.default_rng(0).permutation(40)]
    result = repsim.geometry_score(x, shuffled, **SMALL, permutations=5)
    assert result == pytest.approx(repsim.geometry_score(x, y, **SMALL), abs=1e-12)
    assert repsim.geometry_score(y, shuffled, **SMALL) == pytest.approx(0, abs=1e-12)
    assert math.isnan(result.z)
    assert result.p == 1


def test_far_from_the_origin_and_narrow() -> None:
    x, y = pair(30, 2)
    before = repsim.geometry_score(x, y, **SMALL)
    assert repsim.geometry_score(x + 1e6, y - 1e6, **SMALL) == pytest.approx(before, abs=1e-7)
    narrow = [side.astype(np.float32) for side in (x, y)]
    assert repsim.geometry_score(*narrow, **SMALL) == repsim.geometry_score(*(n.astype(float) for n in narrow), **SMALL)


def test_progress() -> None:
    steps: list[tuple[int, int]] = []
    repsim.geometry_score(*pair(12), **SMALL, permutations=2, jackknife=2, progress=lambda *step: steps.append(step))
    assert steps == [(i, 5) for i in range(1, 6)]


# ---------------------------------------------------------------------------------------------- what is refused


def test_rows_that_do_not_differ() -> None:
    x, y = pair(12)
    with pytest.raises(ValueError, match=r"\[geometry_score\] expected y .*"):
        repsim.geometry_score(x, np.ones_like(y), **SMALL)
    with pytest.raises(ValueError, match=r"\[geometry_score\] expected at least 3 inputs, got 2"):
        repsim.geometry_score(x[:2], y[:2])


@pytest.mark.parametrize(("name", "least"), [("landmarks", 3), ("i_max", 1), ("repetitions", 1), ("landmark_seed", 0)])
def test_no_counts(name: str, least: int) -> None:
    with pytest.raises(ValueError, match=rf"\[geometry_score\] expected {name} of at least {least}, got {least - 1}"):
        repsim.geometry_score(*pair(12), **{name: least - 1})
    with pytest.raises(TypeError, match=rf"\[geometry_score\] expected {name} as an int, got 2.5"):
        repsim.geometry_score(*pair(12), **{name: 2.5})


@pytest.mark.parametrize("gamma", [0, -1.0, math.nan])
def test_gamma_that_is_none(gamma: float) -> None:
    with pytest.raises(ValueError, match=r"\[geometry_score\] expected gamma as a positive number, got"):
        repsim.geometry_score(*pair(12), gamma=gamma)


def test_without_gudhi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gudhi", None)
    with pytest.raises(ImportError, match=r"\[geometry_score\] expected the package gudhi, got none; pip install 'rep"):
        repsim.geometry_score(*pair(12), **SMALL)
