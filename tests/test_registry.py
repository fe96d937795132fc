"""Every measure is held to what it declares of itself; what it does not declare must fail."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import repsim
from repsim.arrays import as_rows
from repsim.measures.__main__ import page as measures_page
from repsim.measures.registry import INVARIANCES, REGISTRY, Measure, invariant_to

N, D = 48, 5
OF_REPRESENTATIONS = [one for one in REGISTRY.values() if one.takes == "representations"]
every_measure = pytest.mark.parametrize("measure", OF_REPRESENTATIONS, ids=lambda one: one.name)
# Options under which a measure tells the representations below apart: within a threshold, all of them may be alike.
TELLING: dict[str, dict[str, Any]] = {
    "maximum_matching": {"epsilon": 0.6},
    "geometry_score": {"landmarks": 8, "gamma": 0.3, "repetitions": 4},
}
with_method = pytest.mark.parametrize("measure", [m for m in OF_REPRESENTATIONS if m.method], ids=lambda one: one.name)


def representations(seed: int = 0, width: int = D) -> tuple[np.ndarray, np.ndarray]:
    """Two that share something; their columns differ in scale, and their means are not 0."""
    random = np.random.default_rng([seed, width])
    x = random.standard_normal((N, D)) * np.linspace(0.5, 2, D) + random.standard_normal(D)
    y = np.tanh(x @ random.standard_normal((D, width))) + 0.3 * random.standard_normal((N, width))
    return x, y + random.standard_normal(width)


def transformed(x: np.ndarray, how: str) -> np.ndarray:
    random = np.random.default_rng(7)
    d = x.shape[1]
    q = np.linalg.qr(random.standard_normal((d, d)))[0]
    linear = q * np.linspace(0.5, 3, d) @ np.linalg.qr(random.standard_normal((d, d)))[0]
    step = random.standard_normal(d)
    return {
        "permutation": np.roll(x, 1, axis=1),
        "orthogonal": x @ q,
        "isotropic_scaling": 3.7 * x,
        "translation": x + step,
        "invertible_linear": x @ linear,
        "affine": x @ linear + step,
    }[how]


def value(measure: Measure, x: np.ndarray, y: np.ndarray) -> float:
    function: Callable[..., Any] = getattr(repsim, measure.name)
    return float(function(x, y, **TELLING.get(measure.name, {})))


@every_measure
@pytest.mark.parametrize("how", INVARIANCES)
def test_invariances(measure: Measure, how: str) -> None:
    apart = []
    for seed in range(2):  # a measure of whole numbers may keep its value by chance
        x, y = representations(seed)
        before = value(measure, x, y)
        for pair in ((transformed(x, how), y), (x, transformed(y, how))):
            apart.append(abs(value(measure, *pair) - before) / max(1.0, abs(before)))
    if how in measure.invariances:
        assert max(apart) <= 1e-7
    else:
        assert max(apart) > 1e-5


@every_measure
def test_declared_invariances_contain_what_they_imply(measure: Measure) -> None:
    assert measure.invariances == invariant_to(*measure.invariances)


@every_measure
def test_symmetry(measure: Measure) -> None:
    x, y = representations(1, D if measure.same_width else D - 1)
    there, back = value(measure, x, y), value(measure, y, x)
    if measure.symmetric:
        assert there == pytest.approx(back, rel=1e-9, abs=1e-9)
        return
    x, y = representations(2, D if measure.same_width else D - 1)
    again = abs(value(measure, x, y) - value(measure, y, x))  # one pair may agree by chance
    assert max(abs(there - back), again) > 1e-5 * max(1.0, abs(there))


@every_measure
def test_of_itself(measure: Measure) -> None:
    x, _ = representations(2)
    own = value(measure, x, x)
    if measure.metric:
        assert measure.self_value == 0
    if measure.self_value is not None:
        # A distance may be the root of a difference that rounding leaves at about 1e-16.
        assert own == pytest.approx(measure.self_value, abs=1e-6 if measure.kind == "distance" else 1e-9)


@every_measure
def test_range(measure: Measure) -> None:
    for seed in range(6):
        x, y = representations(seed, D if measure.same_width else 2 + seed)
        for other in (y, x, np.random.default_rng(seed).standard_normal(y.shape)):
            found = value(measure, x, other)
            assert math.isfinite(found)
            assert measure.low - 1e-9 <= found <= measure.high + 1e-9


@pytest.mark.parametrize("measure", [one for one in OF_REPRESENTATIONS if one.metric], ids=lambda one: one.name)
def test_triangle_inequality(measure: Measure) -> None:
    assert measure.kind == "distance"
    assert measure.symmetric
    for seed in range(40):
        random = np.random.default_rng(seed)
        noise = 10.0 ** random.uniform(-3, 0.5, 2)
        x = random.standard_normal((24, 3))
        y = x @ np.linalg.qr(random.standard_normal((3, 3)))[0] + noise[0] * random.standard_normal((24, 3))
        z = y + noise[1] * random.standard_normal((24, 3))
        xy, yz, xz = value(measure, x, y), value(measure, y, z), value(measure, x, z)
        assert xz <= xy + yz + 1e-9


@every_measure
def test_refuses_other_inputs(measure: Measure) -> None:
    x, y = representations()
    with pytest.raises(ValueError, match=rf"\[{measure.name}\] expected y with {N} rows like x, got {N - 1}"):
        value(measure, x, y[1:])
    y[3, 1] = np.nan
    with pytest.raises(
        ValueError, match=rf"\[{measure.name}\] expected y with finite values, got NaN or infinity in row 3"
    ):
        value(measure, x, y)


@with_method
def test_null_and_interval(measure: Measure) -> None:
    x, y = representations(3)
    function = functools.partial(getattr(repsim, measure.name), **TELLING.get(measure.name, {}))
    result = function(x, y, permutations=19, seed=1, jackknife=6)
    assert isinstance(result, repsim.Similarity if measure.kind == "similarity" else repsim.Distance)
    assert result.value == value(measure, x, y)
    assert 1 / 20 <= result.p <= 1
    assert result.null_from == "19 relabellings"
    assert result.standard_error >= 0
    low, high = result.interval()
    assert low <= result <= high
    assert result.to_dict() == function(x, y, permutations=19, seed=1, jackknife=6).to_dict()


@with_method
def test_relabelling_is_that_of_the_rows(measure: Measure) -> None:
    assert measure.method is not None
    x, y = representations(4)
    order = np.random.default_rng(0).permutation(N)
    method = measure.method(**TELLING.get(measure.name, {}))
    sides = [method.prepare(as_rows(rows, function="test", name="rows"), 1) for rows in (x, y, y[order])]
    relabelled = method.between(sides[0], method.relabel(sides[1], order), 1)
    assert relabelled == pytest.approx(method.between(sides[0], sides[2], 1), rel=1e-9, abs=1e-9)


def test_the_page_of_measures_is_what_they_declare() -> None:
    page = Path(repsim.measures.__file__).parent / "MEASURES.md"
    assert page.read_text() == measures_page(), "python -m repsim.measures > repsim/measures/MEASURES.md"


def test_the_table_has_every_measure() -> None:
    table = repsim.measures()  # type: ignore[operator]
    assert [one.name for one in table] == list(REGISTRY)
    assert len(repr(table).splitlines()) == len(REGISTRY) + 1
    with pytest.raises(ValueError, match=r"\[measures\] expected family .*, got 'none'"):
        repsim.measures("none")  # type: ignore[operator]
