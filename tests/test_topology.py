"""Measures of shape, against persistent homology by matrix reduction and heat kernels by matrix exponentials."""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from scipy.linalg import expm

import repsim
from repsim.measures import topology

Array = np.ndarray


def pair(n: int, d: int = 3, seed: int = 0) -> tuple[Array, Array]:
    random = np.random.default_rng([seed, n, d])
    x = random.standard_normal((n, d))
    return x, np.tanh(x @ random.standard_normal((d, d + 1))) + 0.3 * random.standard_normal((n, d + 1))


# ---------------------------------------------------------------------------------------------- oracles


def distances(x: Array) -> Array:
    return np.array([[math.dist(a, b) for b in x.tolist()] for a in x.tolist()])


def loop_lengths(between: Array) -> float:
    """Summed lengths of the H1 bars of the flag complexes, by reducing the boundary matrix over the field of two."""
    n = len(between)
    size = {(i,): 0.0 for i in range(n)}
    size |= {edge: float(between[edge]) for edge in itertools.combinations(range(n), 2)}
    size |= {(i, j, k): max(size[i, j], size[i, k], size[j, k]) for i, j, k in itertools.combinations(range(n), 3)}
    ordered = sorted(size, key=lambda simplex: (size[simplex], len(simplex), simplex))
    place = {simplex: at for at, simplex in enumerate(ordered)}
    reduced: dict[int, set[int]] = {}  # by its last place
    total = 0.0
    for simplex in ordered:
        column = (
            {place[face] for face in itertools.combinations(simplex, len(simplex) - 1)} if len(simplex) > 1 else set()
        )
        while column and max(column) in reduced:
            column = column ^ reduced[max(column)]
        if column:
            reduced[max(column)] = column
            if len(simplex) == 3:  # it fills the loop that this edge has closed
                total += size[simplex] - size[ordered[max(column)]]
    return total


def divergence(x: Array, y: Array) -> float:
    w, v = (distances(one) / np.quantile(distances(one), 0.9) for one in (x, y))
    least = np.minimum(w, v)
    zeros = np.zeros_like(w)
    blocks = (np.block([[zeros, one.T], [one, least]]) for one in (w, v))
    return sum(map(loop_lengths, blocks)) / 2


def heat_distance(x: Array, y: Array, k: int) -> float:
    def traces(points: Array, times: Array) -> Array:
        between, n = distances(points), len(points)
        joined = np.zeros((n, n))
        for i in range(n):
            others = sorted((j for j in range(n) if j != i), key=lambda j: between[i, j])
            joined[i, others[:k]] = joined[others[:k], i] = 1
        root = np.diag(joined.sum(axis=1) ** -0.5)
        laplacian = np.eye(n) - root @ joined @ root
        return np.array([np.trace(expm(-t * laplacian)) / n for t in times])

    times = np.logspace(-1, 1, 256)
    return 1e6 * float((np.exp(-2 * (times + 1 / times)) * abs(traces(x, times) - traces(y, times))).max())


def test_the_oracle_knows_a_loop() -> None:
    """A square of side 1 has one loop, from its sides to its diagonals; a regular hexagon one, from 1 to sqrt(3)."""
    square = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    assert loop_lengths(distances(square)) == pytest.approx(math.sqrt(2) - 1, rel=1e-14)
    turns = np.arange(6) * np.pi / 3
    hexagon = np.stack([np.cos(turns), np.sin(turns)], axis=1)
    assert loop_lengths(distances(hexagon)) == pytest.approx(math.sqrt(3) - 1, rel=1e-13)


# ---------------------------------------------------------------------------------------------- rtd


@pytest.mark.parametrize(
    ("n", "d"), [pytest.param(3, 2, id="least"), pytest.param(6, 1, id="d=1"), pytest.param(10, 3, id="d=3"),
                 pytest.param(9, 40, id="n<d")],
)  # fmt: skip
def test_rtd(n: int, d: int) -> None:
    x, y = pair(n, d)
    result = repsim.rtd(x, y)
    assert result == pytest.approx(divergence(x, y), rel=1e-6, abs=1e-6)  # distances in float32
    if n > 3:
        assert result > 0.01
    assert (result.measure, result.n) == ("rtd", n)
    assert result.options == {"batches": 10, "batch_rows": 500, "batch_seed": 0}


def test_rtd_sees_a_loop_that_is_cut() -> None:
    """A circle against the same points on a line: the closing edge is what they do not share."""
    turns = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    circle = np.stack([np.cos(turns), np.sin(turns)], axis=1)
    wobbly = circle + 0.01 * np.random.default_rng(0).standard_normal(circle.shape)
    line = turns[:, None].copy()
    assert repsim.rtd(circle, line) > 5 * repsim.rtd(circle, wobbly)


def test_rtd_is_a_mean_over_batches() -> None:
    x, y = pair(30)
    random = np.random.default_rng(5)
    drawn = [random.choice(30, 8, replace=False) for _ in range(3)]
    expected = np.mean([divergence(x[some], y[some]) for some in drawn])
    assert repsim.rtd(x, y, batches=3, batch_rows=8, batch_seed=5) == pytest.approx(expected, rel=1e-6)
    assert repsim.rtd(x, y, batches=3, batch_rows=8, batch_seed=6) != pytest.approx(expected, rel=1e-3)
    assert repsim.rtd(x, y, batches=3, batch_rows=8) == repsim.rtd(x, y, batches=3, batch_rows=8, batch_seed=0)
    assert repsim.rtd(y, x, batches=2, batch_rows=8) == repsim.rtd(x, y, batches=2, batch_rows=8)
    assert repsim.rtd(x, x, batches=2, batch_rows=8) == 0


def test_rtd_relabelled_in_batches() -> None:
    """The batches name places: under a relabelling input i of x meets another of y."""
    x, y = pair(30)
    order = np.random.default_rng(0).permutation(30)
    method = topology.RTD.method(batches=2, batch_rows=8)
    rows = [topology.as_rows(one, function="test", name="x") for one in (x, y, y[order])]
    left, right, moved = (method.prepare(one, 1) for one in rows)
    assert method.between(left, method.relabel(right, order), 1) == method.between(left, moved, 1)
    assert method.between(left, right, 1) != method.between(left, moved, 1)


def test_rtd_by_chance() -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((40, 3))
    result = repsim.rtd(x, x + 0.1 * random.standard_normal((40, 3)), permutations=19, seed=1)
    assert result.p == 1 / 20
    assert result.z < -3


def test_without_ripser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ripser", None)
    with pytest.raises(ImportError, match=r"\[rtd\] expected the package ripser, got none; .*repsim-exact\[topology\]"):
        repsim.rtd(*pair(10))


def test_rtd_refuses() -> None:
    x, y = pair(10)
    with pytest.raises(ValueError, match=r"\[rtd\] expected y whose rows differ, got a 0.9 quantile of 0.0 .* 10 rows"):
        repsim.rtd(x, np.ones((10, 2)))
    with pytest.raises(ValueError, match=r"\[rtd\] expected at least 3 inputs, got 2"):
        repsim.rtd(x[:2], y[:2])
    for name, least in (("batches", 1), ("batch_rows", 3), ("batch_seed", 0)):
        with pytest.raises(ValueError, match=rf"\[rtd\] expected {name} of at least {least}, got {least - 1}"):
            repsim.rtd(x, y, **{name: least - 1})


# ---------------------------------------------------------------------------------------------- imd


@pytest.mark.parametrize(
    ("n", "d", "k"), [pytest.param(2, 2, 1, id="two"), pytest.param(30, 1, 3, id="d=1"),
                      pytest.param(60, 4, 5, id="d=4"), pytest.param(20, 50, 19, id="n<d, complete")],
)  # fmt: skip
def test_imd(n: int, d: int, k: int) -> None:
    x, y = pair(n, d)
    result = repsim.imd(x, y, k=k)
    assert result == pytest.approx(heat_distance(x, y, k), rel=1e-9, abs=1e-7)
    if n > 2 and k < n - 1:
        assert result > 1
    assert result.options == {"k": k, "spectrum": "exact", "probes": 100, "probe_seed": 0}


def test_imd_of_two_known_graphs() -> None:
    """Two far pairs of points, eigenvalues 0, 2, 0, 2, against four in a row that are all joined: 0, 4/3, 4/3, 4/3."""
    apart = np.array([[0.0], [1.0], [100.0], [101.0]])
    found = repsim.imd(apart, apart + 1, k=1)
    assert found.value == 0
    times = np.logspace(-1, 1, 256)
    pairs, complete = (1 + np.exp(-2 * times)) / 2, (1 + 3 * np.exp(-4 / 3 * times)) / 4
    traces = [topology.IMD.method(k=k).prepare(topology.as_rows(apart, function="t", name="x"), 1) for k in (1, 3)]
    np.testing.assert_allclose(traces[0], pairs, rtol=1e-13)
    np.testing.assert_allclose(traces[1], complete, rtol=1e-13)


@pytest.mark.parametrize("probes", [1, 16, 37])
def test_probes_of_a_graph_whose_traces_they_know(probes: int) -> None:
    """Every v'S^m v of pairs of points is n or depends on v alone by S: only even degrees stay, and these are exact."""
    points = np.repeat(np.arange(20.0) * 100, 2)[:, None] + np.tile([0.0, 1.0], 20)[:, None]
    rows = topology.as_rows(points, function="test", name="x")
    exact, found = (
        topology.IMD.method(k=1, spectrum=how, probes=probes).prepare(rows, 1) for how in ("exact", "probes")
    )
    moves = topology._normalised_adjacency(np.arange(40)[:, None] ^ 1)
    # T_m is T_0 or T_1 of S here, so that all that the probes can err in is v'Sv: take it out.
    random = np.random.default_rng(0)
    total = sum(
        float((v * (moves @ v)).sum())
        for first in range(0, probes, 16)
        for v in [random.integers(0, 2, (40, min(16, probes - first))) * 2.0 - 1]
    ) / (40 * probes)
    times = topology.TEMPERATURES
    np.testing.assert_allclose(found - exact, total * (np.exp(-times) * np.sinh(times) - odd_first(times)), atol=1e-13)


def odd_first(times: Array) -> Array:
    """The term of T_1 in exp(-t) exp(t s), whose trace is put in exactly."""
    from scipy.special import ive

    return 2 * ive(1, times)


def test_probes_come_near_the_exact_traces() -> None:
    x, y = pair(600, 1)[0], pair(600, 8)[0]
    exact = repsim.imd(x, y, spectrum="exact")
    errors = {}
    for probes in (4, 400):
        found = [repsim.imd(x, y, spectrum="probes", probes=probes, probe_seed=seed).value for seed in range(4)]
        errors[probes] = np.sqrt(np.mean((np.array(found) - exact) ** 2))
        assert len(set(found)) == 4
    assert exact > 200
    assert errors[400] < 0.05 * exact
    assert errors[400] < errors[4] / 3  # a tenth, were there more seeds
    assert repsim.imd(x, x, spectrum="probes") == 0


def test_auto_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = pair(50)
    assert topology.EXACT_ROWS == 2048
    monkeypatch.setattr(topology, "EXACT_ROWS", 50)
    assert repsim.imd(x, y).options["spectrum"] == "exact"
    monkeypatch.setattr(topology, "EXACT_ROWS", 49)
    result = repsim.imd(x, y)
    assert result.options["spectrum"] == "probes"
    assert result == repsim.imd(x, y, spectrum="probes")


def test_imd_asks_for_no_order() -> None:
    x, y = pair(40)
    result = repsim.imd(x, y[np.random.default_rng(0).permutation(40)], permutations=5)
    assert result == pytest.approx(repsim.imd(x, y), rel=1e-9)
    assert math.isnan(result.z)
    assert result.p == 1


def test_imd_refuses() -> None:
    x, y = pair(10)
    with pytest.raises(ValueError, match=r"\[imd\] expected k of at most 9 for 10 rows, got 10"):
        repsim.imd(x, y, k=10)
    with pytest.raises(ValueError, match=r"\[imd\] expected spectrum 'auto', 'exact' or 'probes', got 'lanczos'"):
        repsim.imd(x, y, spectrum="lanczos")
    for name, least in (("k", 1), ("probes", 1), ("probe_seed", 0)):
        with pytest.raises(ValueError, match=rf"\[imd\] expected {name} of at least {least}, got {least - 1}"):
            repsim.imd(x, y, **{name: least - 1})


# ---------------------------------------------------------------------------------------------- both


@pytest.mark.parametrize("name", ["rtd", "imd"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "bfloat16-numpy", "float32", "memmap"])
def test_dtypes(name: str, dtype: str, tmp_path: Path) -> None:
    x, y = pair(30)
    given: list[Any]
    if dtype == "memmap":
        for side, values in (("x", x), ("y", y)):
            np.save(tmp_path / f"{side}.npy", values)
        given = [np.load(tmp_path / f"{side}.npy", mmap_mode="r") for side in "xy"]
        exact = [x, y]
    elif dtype == "bfloat16":
        given = [torch.tensor(one).bfloat16() for one in (x, y)]
        exact = [one.double().numpy() for one in given]
    else:
        given = [one.astype(ml_dtypes.bfloat16 if "bf" in dtype else dtype) for one in (x, y)]
        exact = [one.astype(np.float64) for one in given]
    function = getattr(repsim, name)
    assert function(*given) == function(*exact)
    assert function(*given, threads=2) == function(*exact)


@pytest.mark.parametrize("name", ["rtd", "imd"])
def test_far_from_the_origin(name: str) -> None:
    x, y = pair(40)
    function = getattr(repsim, name)
    assert function(x + 1e6, y - 1e6) == pytest.approx(function(x, y), rel=1e-5)


@pytest.mark.parametrize("name", ["rtd", "imd"])
def test_progress(name: str) -> None:
    steps: list[tuple[int, int]] = []
    getattr(repsim, name)(
        *pair(12), permutations=2, jackknife=2, progress=lambda done, total: steps.append((done, total))
    )
    assert steps == [(i, 5) for i in range(1, 6)]
