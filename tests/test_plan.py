"""What a comparison needs is stated beforehand: bytes that hold, groups that fit, refusals that say what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import repsim
from repsim import arguments
from repsim.grids import search_graphs
from repsim.measures.demands import demand_of, needs_of
from repsim.measures.needs import KINDS, Needs, Step, Work
from repsim.measures.registry import REGISTRY
from repsim.request import comparable

# The modules, not the functions of their names.
COMPARE, PLAN = (import_module(f"repsim.{name}") for name in ("compare", "plan"))
# Options under which a call is short.
SHORT: dict[str, dict[str, Any]] = {
    "kernel_ridge": {"folds": 2, "lambdas": 0.1},
    "rtd": {"batches": 1, "batch_rows": 40},
    "soft_matching": {},
}
SHAPES = {"long": (1200, 96, 64), "wide": (150, 400, 300)}

MEASURED = """
import json, sys
import numpy as np
import repsim

def status(name):
    lines = open("/proc/self/status").read().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])

n, d, e = json.loads(sys.argv[1])
random = np.random.default_rng(0)
x = random.standard_normal((n, d), dtype=np.float32)
y = x[:, :min(d, e)] @ random.standard_normal((min(d, e), e), dtype=np.float32)
y += random.standard_normal((n, e), dtype=np.float32)
found = {}
for name, options in json.loads(sys.argv[2]).items():
    asked = {"measures": {name: options}, "threads": 1, "k": 5}
    asked["permutations"] = 2 if name in json.loads(sys.argv[3]) else None  # each is a short step of many
    few = slice(0, len(x) // 2), slice(0, min(d, e, len(x) // 4))
    repsim.compare(x[few], y[few], **asked)  # libraries are loaded before the measurement
    open("/proc/self/clear_refs", "w").write("5")
    before = status("VmHWM")
    repsim.compare(x, y, **asked)
    found[name] = status("VmHWM") - before
print(json.dumps(found))
"""


def layers(count: int = 3, n: int = 400, d: int = 32, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {f"layer{i}": random.standard_normal((n, d)).astype(np.float32) for i in range(count)}


# ---------------------------------------------------------------------------------------------- every measure


def test_every_comparable_measure_states_its_needs() -> None:
    for name in comparable():
        assert demand_of(name, {}).layer(100, 10) or demand_of(name, {}).pair(100, 10, 20), name


@pytest.mark.parametrize("shape", SHAPES)
def test_no_measure_takes_more_memory_than_it_states(shape: str) -> None:
    """The growth of the resident memory of a process that frees what it no longer uses."""
    if not os.access("/proc/self/clear_refs", os.W_OK):
        pytest.skip("the system does not let a process reset its peak memory")
    n, d, e = SHAPES[shape]
    # Wide layers are turned or refused: of those families one of each way.
    of_wide = (
        "procrustes",
        "gulp",
        "svcca",
        "pls",
        "riemannian",
        "aligned_cosine",
        "ridge_regression",
        "cka",
    )
    names = [name for name in comparable() if shape == "long" or name in of_wide]
    options = {name: SHORT.get(name, {}) for name in names}
    if shape == "wide":
        options["svcca"] = {"variance": 0.5}
    sampled = [name for name in names if name not in REGISTRY or REGISTRY[name].family == "neighbours"]
    # Every larger array is given back when it is freed; libraries have one thread each, and its one buffer.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    words = [sys.executable, "-c", MEASURED, json.dumps([n, d, e]), json.dumps(options), json.dumps(sampled)]
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(repsim.__file__).parents[1]), *sys.path])
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    grown = json.loads(done.stdout)
    slack = 2**20  # of Python's own
    stated_bytes = {name: needs_of(name, n, d, e, {"k": 5, **options[name]}).bytes for name in names}
    over = {name: (grown[name], stated_bytes[name]) for name in names}
    assert {name: pair for name, pair in over.items() if pair[0] > pair[1] + slack} == {}
    # A bound that is far off would refuse what fits.
    assert {name: pair for name, pair in over.items() if pair[1] > 12 * pair[0] + 16 * slack} == {}


def test_needs_follow_from_shapes_and_options() -> None:
    rsa = REGISTRY["rsa"]
    held, longer = (rsa.needs(n, 64, ranks="float64").bytes for n in (2000, 4000))
    assert longer / held == pytest.approx(4, rel=0.2)
    assert rsa.needs(16_000, 64, ranks="float64").bytes > 16 * rsa.needs(16_000, 64, comparison="pearson").bytes
    assert rsa.needs(10**6, 64).bytes == rsa.needs(10**5, 64).bytes < rsa.needs(16_000, 64, ranks="float64").bytes
    assert REGISTRY["cca_mean"].needs(10**6, 64).flops / REGISTRY["cca_mean"].needs(10**5, 64).flops > 9
    assert REGISTRY["gulp"].needs(10**6, 64).bytes < 2**24  # one pass, whatever the inputs
    assert REGISTRY["procrustes"].needs(1000, 64, 32).flops < REGISTRY["procrustes"].needs(1000, 64).flops
    with pytest.raises(ValueError, match=r"\[needs\] expected a measure .* that states its needs, got 'disagreement'"):
        REGISTRY["disagreement"].needs(100, 10)


def test_operations_add_up() -> None:
    assert (Work(products=2, tiles=1) + Work(products=3)).times(2) == Work(products=10, tiles=2)
    needs = Needs.of([Step(kept=5)], [Step(working=7, packed=2, work=Work(tiles=3)), Step(working=8)])
    assert (needs.bytes, needs.flops) == (5 + 9, 3)


# ---------------------------------------------------------------------------------------------- a plan


def test_a_plan_has_every_measure_alone_and_all_together() -> None:
    measures = ["linear_regression", "cca_mean", "cca_mean_squared", "procrustes"]
    plan = repsim.plan(layers(), layers(2, d=16), measures=measures)
    assert plan.groups == (tuple(measures),)
    assert [row["measure"] for row in plan.rows()] == measures
    alone = [plan[name] for name in measures]
    # What is shared is counted once.
    assert max(one.work.flops for one in alone) < plan.together.work.flops < 0.6 * sum(one.work.flops for one in alone)
    assert max(one.bytes for one in alone) <= plan.together.bytes < sum(one.bytes for one in alone)
    assert all(one.seconds is not None and one.seconds > 0 for one in alone)
    lines = repr(plan).splitlines()
    assert lines[0].startswith("3 x 2 layers, n=400; memory ")
    assert [line.split()[0] for line in lines[1:]] == ["measure", *measures, "together"]
    with pytest.raises(ValueError, match=r"\[ComparisonPlan\] expected measure linear_regression, .*, got 'rsa'"):
        plan["rsa"]


def test_a_plan_counts_relabellings_and_groups() -> None:
    plain, drawn = (
        repsim.plan(layers(), layers(), measures=["procrustes", "cka"], permutations=permutations, jackknife=jackknife)
        for permutations, jackknife in ((0, 0), (9, 5))
    )
    assert 8 < drawn["procrustes"].work.flops / plain["procrustes"].work.flops < 15
    assert drawn["cka"].work == plain["cka"].work  # its chance is exact
    few, many = (repsim.plan(layers(), layers(), measures=["cknna"], permutations=p) for p in (10, 1000))
    held = repsim.plan(layers(), layers(), measures=["procrustes"], jackknife=5)["procrustes"].bytes
    assert held > plain["procrustes"].bytes + 6 * 400 * 32 * 4  # rows without a group are copies
    assert 50 < many["cknna"].work.elements / few["cknna"].work.elements < 100


def test_a_plan_does_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    PLAN.rates(1)
    monkeypatch.setattr("repsim.reductions.products._products", None)
    bad = {"nan": np.full((50, 4), np.nan)}  # rows are not read
    assert repsim.plan(bad, bad, measures="pls", threads=1)["pls"].bytes > 0


def test_rates_are_measured_for_every_kind() -> None:
    found = PLAN.rates(1)
    assert set(found) == set(KINDS)
    assert all(1e7 < rate < 1e14 for rate in found.values())


# ---------------------------------------------------------------------------------------------- what does not fit


@pytest.mark.parametrize(
    ("measures", "message"),
    [
        pytest.param("rsa", r'got rsa, which needs 5\.\d+ MB .* take comparison="pearson", which streams', id="ranks"),
        pytest.param("kernel_ridge", r"got kernel_ridge, .* take ridge_regression, or a sample", id="kernel-matrix"),
        pytest.param(["pls", "mutual_knn"], r"got pls, .* take fewer layers at a time", id="features"),
        pytest.param("cka_rbf", r"got cka_rbf, .* take fewer layers at a time, or a sample of the inputs", id="tiles"),
        pytest.param(["mutual_knn", "pls"], r"got mutual_knn, .* take a smaller k", id="graphs"),
    ],
)
def test_what_cannot_fit_is_refused_before_any_work(
    monkeypatch: pytest.MonkeyPatch, measures: Any, message: str
) -> None:
    monkeypatch.setattr(COMPARE, "search_graphs", None)
    monkeypatch.setattr(COMPARE, "grids_between", None)
    expected = rf"^\[compare\] expected measures that fit memory= of 100 kB, {message}"
    for call in (repsim.compare, repsim.plan):
        with pytest.raises(ValueError, match=expected):
            call(layers(1, n=200, d=64), layers(1, n=200, d=64), measures=measures, memory="100kB")
    with pytest.raises(ValueError, match=expected):
        models = {"x": layers(1, n=200, d=64), "y": layers(1, n=200, d=64)}
        repsim.compare_models(models, measures=measures, memory="100kB")


def test_the_available_memory_is_the_limit_where_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (arguments.available_memory() or 2**40) > 2**20
    monkeypatch.setattr(PLAN, "available_memory", lambda: 10**5)
    with pytest.raises(ValueError, match=r"fit the available memory of 100 kB, got pls, which needs"):
        repsim.compare(layers(), layers(), measures="pls")
    monkeypatch.setattr(PLAN, "available_memory", lambda: None)  # not known: nothing is refused
    assert repsim.plan(layers(), layers(), measures="pls").memory is None


def test_measures_that_do_not_fit_together_are_evaluated_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = layers(), layers(seed=1)
    measures = ["cca_mean", "mutual_knn", "svcca", "gulp", "linreg", "rsa"]
    alone = repsim.plan(a, b, measures=measures, permutations=2)
    memory = max(one.bytes for one in alone.measures) + 2**16
    planned = repsim.plan(a, b, measures=measures, permutations=2, memory=memory)
    assert len(planned.groups) > 1
    assert [name for group in planned.groups for name in group] == measures
    assert planned.together.bytes <= memory
    assert f"in {len(planned.groups)} groups" in repr(planned)
    seen: list[Any] = []
    monkeypatch.setattr(COMPARE, "search_graphs", lambda *args, **how: (seen.append(args), search_graphs(*args, **how)))
    steps: list[tuple[int, int]] = []
    table = repsim.compare(a, b, measures=measures, memory=memory, permutations=2, progress=lambda *s: steps.append(s))
    assert len(seen) == len(planned.groups)
    assert steps == [(i, len(steps)) for i in range(1, len(steps) + 1)]
    whole = repsim.compare(a, b, measures=measures, permutations=2)
    assert tuple(table) == tuple(measures)
    for name in measures:
        np.testing.assert_array_equal(table[name].values, whole[name].values)
