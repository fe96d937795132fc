"""Matched neurons against all permutations, all subsets, linear programmes and loops over the definitions."""

from __future__ import annotations

import itertools
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
from test_shapes import STORED, Array, centred, in_float64, related, stored

import repsim
from repsim.measures.transport import linear_programme, most_transported

SHAPES = pytest.mark.parametrize(
    ("n", "d", "e"),
    [
        pytest.param(60, 5, 5, id="one width"),
        pytest.param(60, 5, 3, id="y narrower"),
        pytest.param(60, 2, 4, id="y twice as wide"),
        pytest.param(40, 1, 1, id="one feature"),
        pytest.param(40, 1, 4, id="one feature and several"),
        pytest.param(5, 6, 4, id="fewer inputs than features"),
    ],
)


def correlation(a: Array, b: Array) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def correlations(x: Array, y: Array) -> Array:
    return np.array([[correlation(a, b) for b in y.T] for a in x.T])


def best_one_to_one(x: Array, y: Array) -> float:
    """Over every way of giving each neuron of the narrower side a partner of its own."""
    if x.shape[1] > y.shape[1]:
        x, y = y, x
    table = correlations(x, y)
    ways = itertools.permutations(range(y.shape[1]), x.shape[1])
    return max(float(np.mean([table[i, j] for i, j in enumerate(way)])) for way in ways)


# ---------------------------------------------------------------------------------------------- correlation


@SHAPES
def test_hard_correlation_match_is_the_best_of_all_ways(n: int, d: int, e: int) -> None:
    x, y = related(n, d, e)
    assert repsim.hard_correlation_match(x, y) == pytest.approx(best_one_to_one(x, y), rel=1e-10)
    assert repsim.hard_correlation_match(y, x) == pytest.approx(best_one_to_one(x, y), rel=1e-10)


@SHAPES
def test_soft_correlation_match_takes_the_best_partner_of_each(n: int, d: int, e: int) -> None:
    x, y = related(n, d, e)
    there = float(np.mean([max(correlation(a, b) for b in y.T) for a in x.T]))
    back = float(np.mean([max(correlation(a, b) for a in x.T) for b in y.T]))
    assert repsim.soft_correlation_match(x, y) == pytest.approx(there, rel=1e-10)
    assert repsim.soft_correlation_match(y, x) == pytest.approx(back, rel=1e-10)
    both = repsim.soft_correlation_match(x, y, symmetric=True)
    assert both == pytest.approx((there + back) / 2, rel=1e-10)
    assert both.options == {"symmetric": True}


def test_correlations_of_known_neurons() -> None:
    x = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])  # two neurons that are not correlated
    same = np.hstack([x[:, :1], 5 * x[:, :1] + 3])
    assert repsim.soft_correlation_match(same, x) == pytest.approx(1)  # both have the same partner
    assert repsim.soft_correlation_match(x, same) == pytest.approx(0.5)
    assert repsim.hard_correlation_match(same, x) == pytest.approx(0.5)  # here one of them is left with the other
    assert repsim.hard_correlation_match(x, -x) == pytest.approx(0)  # the sign counts
    assert repsim.hard_correlation_match(x[:, :1], -x[:, :1]) == pytest.approx(-1)
    assert repsim.hard_correlation_match(x, x[:, 1:]) == pytest.approx(1)  # the one without a partner does not


@STORED
def test_matches_of_stored_rows(how: str, tmp_path: Path) -> None:
    x, y = related(80, 4, 5)
    mine = stored(x, how, tmp_path)
    exact = in_float64(mine)
    assert repsim.hard_correlation_match(mine, y) == pytest.approx(best_one_to_one(exact, y), rel=1e-10)
    expected = float(correlations(exact, y).max(axis=1).mean())
    assert repsim.soft_correlation_match(mine, y) == pytest.approx(expected, rel=1e-10)
    assert repsim.soft_matching(mine, y) == pytest.approx(transport(exact, y), rel=1e-7)
    assert repsim.maximum_matching(mine, y, epsilon=0.5) == largest_match(exact, y, 0.5)


@pytest.mark.parametrize("name", ["hard_correlation_match", "soft_correlation_match", "soft_matching"])
def test_far_from_the_origin_nothing_changes(name: str) -> None:
    x, y = related(80, 5, 4)
    assert getattr(repsim, name)(x + 1e6, y - 1e6) == pytest.approx(float(getattr(repsim, name)(x, y)), rel=1e-7)


# ---------------------------------------------------------------------------------------------- transport


def transport(x: Array, y: Array) -> float:
    """The linear programme as it is defined, one constraint per neuron, from the distances of centred neurons."""
    x, y = centred(x).T, centred(y).T
    cost = ((x[:, None, :] - y[None, :, :]) ** 2).sum(axis=2)
    d, e = cost.shape
    rows = [np.kron(np.eye(d)[i], np.ones(e)) for i in range(d)]
    columns = [np.kron(np.ones(d), np.eye(e)[j]) for j in range(e)]
    found = scipy.optimize.linprog(
        cost.ravel(), A_eq=np.array(rows + columns), b_eq=[1 / d] * d + [1 / e] * e, method="highs"
    )
    return float(np.sqrt(found.fun))


@SHAPES
def test_soft_matching_is_the_least_transport(n: int, d: int, e: int) -> None:
    x, y = related(n, d, e)
    assert repsim.soft_matching(x, y) == pytest.approx(transport(x, y), rel=1e-7)


WIDTHS = pytest.mark.parametrize(
    ("d", "e"),
    [
        pytest.param(6, 6, id="as many"),
        pytest.param(12, 3, id="a multiple"),
        pytest.param(3, 12, id="a divisor"),
        pytest.param(8, 12, id="a common divisor"),
        pytest.param(7, 9, id="none"),
        pytest.param(1, 5, id="one neuron"),
    ],
)


@WIDTHS
def test_assignment_and_linear_programme_agree(d: int, e: int) -> None:
    x, y = (1e6 * z for z in related(30, d, e))
    gain = centred(x).T @ centred(y)
    assert most_transported(gain) == pytest.approx(linear_programme(gain), rel=1e-11)
    assert repsim.soft_matching(x, y) == pytest.approx(1e6 * transport(x / 1e6, y / 1e6), rel=1e-7)


@WIDTHS
def test_both_solvers_agree(d: int, e: int) -> None:
    pytest.importorskip("ot")
    x, y = (1e6 * z for z in related(30, d, e))
    by_pot = repsim.soft_matching(x, y, solver="pot")
    assert by_pot == pytest.approx(float(repsim.soft_matching(x, y)), rel=1e-9)
    assert by_pot.options == {"solver": "pot"}


@pytest.mark.parametrize("e", [4, 8], ids=["one width", "twice the width"])
def test_multiples_of_a_width_are_assigned(e: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repsim.measures.transport.linear_programme", None)
    x, y = related(30, 4, e)
    assert repsim.soft_matching(x, y) == pytest.approx(transport(x, y), rel=1e-7)


def test_soft_matching_of_one_width_is_the_permutation_distance() -> None:
    x, y = related(50, 9, 9)
    expected = float(repsim.permutation_procrustes(x, y)) / 3
    assert repsim.soft_matching(x, y) == pytest.approx(expected, rel=1e-10)


def test_soft_matching_on_a_line() -> None:
    """Of two inputs a centred neuron is one number, and the transport of numbers keeps their order."""
    random = np.random.default_rng(3)
    x, y = random.standard_normal((2, 4)), random.standard_normal((2, 6))
    a, b = (np.sort((z[0] - z[1]) / np.sqrt(2)) for z in (x, y))
    expected = np.sqrt(np.mean((np.repeat(a, 3) - np.repeat(b, 2)) ** 2))  # 12 parts each
    assert repsim.soft_matching(x, y) == pytest.approx(expected, rel=1e-9)


def test_soft_matching_does_not_count_neurons_twice() -> None:
    x, y = related(40, 4, 3)
    assert repsim.soft_matching(x, np.repeat(x, 3, axis=1)) == pytest.approx(0, abs=1e-6)
    assert repsim.soft_matching(np.repeat(x, 2, axis=1), y) == pytest.approx(float(repsim.soft_matching(x, y)))


def test_soft_matching_keeps_the_triangle_inequality_across_widths() -> None:
    for seed in range(25):
        random = np.random.default_rng(seed)
        x = random.standard_normal((12, 3))
        y = np.repeat(x, 2, axis=1) + 10.0 ** random.uniform(-2, 0.3) * random.standard_normal((12, 6))
        z = y[:, :4] + 10.0 ** random.uniform(-2, 0.3) * random.standard_normal((12, 4))
        xy, yz, xz = (float(repsim.soft_matching(*pair)) for pair in ((x, y), (y, z), (x, z)))
        assert xz <= xy + yz + 1e-9


# ---------------------------------------------------------------------------------------------- subspaces


def explained(vector: Array, others: Array, epsilon: float) -> bool:
    """Whether a neuron [n] is within epsilon of its length from the span of others [n, b], by least squares."""
    if not others.shape[1]:
        return False
    off = vector - others @ np.linalg.lstsq(others, vector, rcond=1e-9)[0]
    return bool(np.linalg.norm(off) <= epsilon * np.linalg.norm(vector))


def largest_match(x: Array, y: Array, epsilon: float) -> float:
    """The largest of all pairs of subsets that explain each other: the definition, with no algorithm."""
    best = 0
    subsets = [
        [list(some) for size in range(1, z.shape[1] + 1) for some in itertools.combinations(range(z.shape[1]), size)]
        for z in (x, y)
    ]
    for a, b in itertools.product(*subsets):
        if len(a) + len(b) > best and all(
            [explained(x[:, i], y[:, b], epsilon) for i in a] + [explained(y[:, j], x[:, a], epsilon) for j in b]
        ):
            best = len(a) + len(b)
    return best / (x.shape[1] + y.shape[1])


def partly_shared(seed: int, n: int = 50, d: int = 4, e: int = 4) -> tuple[Array, Array]:
    """Some neurons of each side are mixtures of what both have, with noise of different strength."""
    random = np.random.default_rng([seed, 7])
    shared = random.standard_normal((n, 2))
    x, y = (
        shared @ random.standard_normal((2, width))
        + random.standard_normal((n, width)) * 10.0 ** random.uniform(-2, 0.5, width)
        for width in (d, e)
    )
    return x, y


@pytest.mark.parametrize("epsilon", [0.1, 0.3, 0.6])
def test_maximum_matching_is_the_largest_of_all_matches(epsilon: float) -> None:
    found = set()
    for seed in range(12):
        x, y = partly_shared(seed, d=4 - seed % 2, e=4)
        value = float(repsim.maximum_matching(x, y, epsilon=epsilon))
        assert value == largest_match(x, y, epsilon)
        assert value == repsim.maximum_matching(y, x, epsilon=epsilon)
        found.add(value)
    assert len(found) > 1  # neither everything nor nothing


def test_maximum_matching_removes_neurons_until_none_is_left_to_remove() -> None:
    """One neuron is explained by two that cannot be explained without those that leave first."""
    axes = np.eye(6)
    x = np.stack([axes[0], axes[1] + axes[2], axes[2]], axis=1)
    y = np.stack([axes[0] + axes[1], axes[1]], axis=1)
    assert largest_match(x, y, 0.25) == 0
    assert repsim.maximum_matching(x, y) == 0
    assert repsim.maximum_matching(y, x) == 0
    assert repsim.maximum_matching(np.hstack([x, axes[:, 1:2]]), y) == pytest.approx(4 / 6)


def test_maximum_matching_of_spans() -> None:
    random = np.random.default_rng(5)
    x = random.standard_normal((200, 30))
    assert repsim.maximum_matching(x, x @ random.standard_normal((30, 30)), epsilon=0.001) == 1
    assert repsim.maximum_matching(x, random.standard_normal((200, 30))) == 0
    mixed = np.hstack([x[:, :10] @ random.standard_normal((10, 10)), random.standard_normal((200, 20))])
    assert repsim.maximum_matching(x, mixed) == pytest.approx(20 / 60)
    again = np.hstack([x, x[:, :5]])  # columns that depend on each other span no more
    assert repsim.maximum_matching(again, x) == 1
    assert repsim.maximum_matching(x[:20], random.standard_normal((20, 25))) == 1  # a span of all inputs


def test_maximum_matching_of_angles_about_epsilon() -> None:
    x = np.array([[1.0], [0.0]])
    y = np.array([[np.cos(0.3)], [np.sin(0.3)]])
    assert repsim.maximum_matching(x, y, epsilon=np.sin(0.301)) == 1
    assert repsim.maximum_matching(x, y, epsilon=np.sin(0.299)) == 0
    assert repsim.maximum_matching(x, y, epsilon=0.5).options == {"epsilon": 0.5}


# ---------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("name", ["hard_correlation_match", "soft_correlation_match"])
def test_constant_neurons_have_no_correlation(name: str) -> None:
    x, y = related(20, 3, 3)
    y[:, 2] = 0.1
    with pytest.raises(ValueError, match=rf"^\[{name}\] expected y whose columns all vary, got a constant column 2$"):
        getattr(repsim, name)(x, y)


def test_what_maximum_matching_refuses() -> None:
    x, y = related(20, 3, 3)
    x[:, 1] = 0
    message = r"^\[maximum_matching\] expected x without zero columns, got zeros in column 1$"
    with pytest.raises(ValueError, match=message):
        repsim.maximum_matching(x, y)
    with pytest.raises(ValueError, match=r"^\[maximum_matching\] expected epsilon between 0 and 1, got 1$"):
        repsim.maximum_matching(y, y, epsilon=1)
    with pytest.raises(ValueError, match=r"^\[maximum_matching\] expected epsilon as a positive number, got 0$"):
        repsim.maximum_matching(y, y, epsilon=0)


def test_solvers_that_fail_or_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = related(20, 3, 4)
    with pytest.raises(ValueError, match=r"^\[soft_matching\] expected solver scipy or pot, got 'simplex'$"):
        repsim.soft_matching(x, y, solver="simplex")

    class Failed:
        status, message = 4, "numerical difficulties"

    monkeypatch.setattr(scipy.optimize, "linprog", lambda *args, **options: Failed())
    with pytest.raises(RuntimeError, match=r"^\[soft_matching\] expected an optimum [^\n]*: numerical difficulties$"):
        repsim.soft_matching(x, y)
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(ImportError, match=r'^\[soft_matching\] expected POT [^\n]* "repsim-exact\[transport\]"$'):
        repsim.soft_matching(x, y, solver="pot")
    pot = types.ModuleType("ot")
    pot.emd = lambda *args, **options: (None, {"warning": "numItermax reached"})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ot", pot)
    with pytest.raises(RuntimeError, match=r"^\[soft_matching\] expected an optimum from POT, got: numItermax rea"):
        repsim.soft_matching(x, y, solver="pot")
