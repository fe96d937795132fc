"""Comparisons of layers that lie on an emulated GPU, or are brought there: see emulated_gpu.py."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emulated_gpu import EmulatedCopies, install, off_host, on_gpu

import repsim
from repsim.cli.compare import compare
from repsim.measures.registry import REGISTRY
from repsim.records import RunError
from repsim.reductions import device_streams
from repsim.request import GRAPH_GRIDS, comparable

N = 130
ON_GPU = [name for name in comparable() if REGISTRY[name.removesuffix("_biased").removesuffix("_rbf")].gpu]
KERNELS = {
    "cka": {},
    "cka_biased": {"estimator": "biased"},
    "cka_rbf": {"kernel": "rbf"},
    "hsic": {},
    "angular_cka": {},
}
KEYS = ("value", "null_mean", "null_sd", "p", "p_from", "standard_error", "precision", "null_from")

Layers = dict[str, np.ndarray]


@pytest.fixture(autouse=True)
def native(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("repsim.arrays.RESIDENT_ON_DEVICE", 50 * 5 * 8)
    monkeypatch.setattr("repsim.reductions.device_moments.ROWS", 64)
    return install(monkeypatch)


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[EmulatedCopies]:
    """Those that ``device="cuda"`` makes."""
    made: list[EmulatedCopies] = []

    def make(device: Any, function: str) -> EmulatedCopies:
        made.append(EmulatedCopies(late=True))
        return made[-1]

    monkeypatch.setattr(device_streams, "copies_to", make)
    return made


@pytest.fixture(scope="module")
def sides() -> tuple[Layers, Layers]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 5)) + 30.0  # far from the origin
    a = {"a1": x, "a2": np.tanh(x @ rng.normal(size=(5, 4)) / 30)}
    return a, {"b1": x + rng.normal(size=(N, 5)), "b2": np.tanh(x[:, :4] - 30) + 0.3 * rng.normal(size=(N, 4))}


def placed(layers: Layers, place: Any = on_gpu) -> dict[str, Any]:
    return {name: place(x, name) for name, x in layers.items()}


def alone(name: str, x: Any, y: Any) -> dict[str, Any]:
    """What the measure's own function gives."""
    if name in KERNELS:
        found = getattr(repsim, name.partition("_biased")[0].partition("_rbf")[0])(x, y, **KERNELS[name])
        return {"value": found} if name == "angular_cka" else found.to_dict()
    how: dict[str, Any] = {"permutations": 2, "seed": 5}
    if name in GRAPH_GRIDS:
        how = {"seed": 5, "k": 7} | ({} if name == "mutual_knn" else {"permutations": 2})
    else:
        how["jackknife"] = 2
    found = getattr(repsim, name)(x, y, **how)
    return dict(found.to_dict())


def test_all_measures_together_have_the_bits_of_each_alone_and_the_values_of_the_cpu(sides: Any) -> None:
    a, b = {"a2": sides[0]["a2"]}, {"b2": sides[1]["b2"]}
    how: dict[str, Any] = {"measures": ON_GPU, "permutations": 2, "jackknife": 2, "seed": 5, "k": 7}
    there = repsim.compare(placed(a, off_host), placed(b, off_host), **how)
    here = repsim.compare(a, b, **how)
    for name in ON_GPU:
        own = alone(name, on_gpu(a["a2"]), on_gpu(b["b2"], "y"))
        got = there[name].at(0, 0, name).to_dict()
        for key in KEYS:
            if key in own:
                np.testing.assert_equal(got[key], own[key], f"{name} {key}")
        tolerance = 1e-6 if name == "cka_rbf" else 1e-9
        np.testing.assert_allclose(there[name].values, here[name].values, rtol=tolerance, atol=tolerance, err_msg=name)
    assert {row["device"] for row in there.rows()} == {"cpu (emulated)"}
    assert {row["device"] for row in here.rows()} == {"cpu"}


MIXED = ["cka", "cka_rbf", "svcca", "procrustes", "rsa", "mutual_knn", "second_order_cosine", "distance_correlation"]


def test_stores_are_brought_there_with_the_same_bits(sides: Any, copies: list[EmulatedCopies], tmp_path: Path) -> None:
    stores = [
        repsim.Store.from_arrays(tmp_path / name, np.arange(N), side) for name, side in zip("ab", sides, strict=True)
    ]
    how: dict[str, Any] = {"measures": MIXED, "jackknife": 2, "permutations": 2}
    there = repsim.compare(*map(placed, sides), **how)
    brought = repsim.compare(*stores, device="cuda", **how)
    for name in MIXED:
        np.testing.assert_array_equal(brought[name].values, there[name].values, name)
        np.testing.assert_array_equal(brought[name].null_mean, there[name].null_mean, name)
    assert len(copies) == 4
    assert [one.held(kind) for one in copies for kind in ("pinned", "there")] == [0] * 8


def test_models_are_compared_there(sides: Any, copies: list[EmulatedCopies]) -> None:
    models = {"a": sides[0], "b": sides[1], "c": sides[1]["b1"] ** 2}
    there = repsim.compare_models(models, measures=["cka", "pwcca", "knn_jaccard"], device="cuda")
    pair = repsim.compare(placed(sides[0]), placed(sides[1]), measures=["cka", "pwcca", "knn_jaccard"])
    for name in pair:
        np.testing.assert_array_equal(there["a", "b"][name].values, pair[name].values)
    assert {row["device"] for row in there.rows()} == {"cpu (emulated)"}


def test_grids_of_a_gpu_are_kept_apart(sides: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Last bits differ from the CPU's; of one place what is there is read, whether rows lie there or are brought."""
    how: dict[str, Any] = {"measures": ["procrustes", "cka"], "resume": tmp_path}
    here = repsim.compare(*sides, **how)
    there = repsim.compare(*map(placed, sides), **how)
    assert len(list(tmp_path.glob("*.npz"))) == 4
    again = import_module("repsim.compare")  # the package has a function of this name
    monkeypatch.setattr(
        again,
        "groups_of",
        lambda request, *_, **__: pytest.fail(f"again {request.measures}") if request.measures else [],
    )
    monkeypatch.setattr(device_streams, "copies_to", lambda device, function: EmulatedCopies())
    for read, first in (
        (repsim.compare(*map(placed, sides), **how), there),
        (repsim.compare(*sides, device="cuda", **how), there),
        (repsim.compare(*sides, **how), here),
    ):
        np.testing.assert_array_equal(read["procrustes"].values, first["procrustes"].values)


# -------------------------------------------------------------------------------------------------------------- errors


def test_measures_that_do_not_work_there_are_named_before_any_work(sides: Any, copies: Any) -> None:
    message = (
        r"^\[compare\] expected measures that work on a GPU for a\['a1'\] there, got rtd, kernel_ridge; leave these "
        "out, or pass all layers from the host and no device"
    )
    asked = ["cka", "rtd", "kernel_ridge"]
    for given in ((placed(sides[0], lambda x, _: on_gpu(x, "a['a1']")), placed(sides[1])), sides):
        with pytest.raises(ValueError, match=message):
            repsim.compare(*given, measures=asked, device="cuda")


def test_layers_on_two_devices_are_refused(sides: Any) -> None:
    elsewhere = on_gpu(sides[1]["b1"], "b['b1']")
    elsewhere = type(elsewhere)(elsewhere.values.to("meta"), "float64", elsewhere.name)
    with pytest.raises(ValueError, match=r"^\[compare\] expected b\['b1'\] on cpu like a\['a1'\], got meta"):
        repsim.compare({"a1": sides[0]["a1"]}, {"b1": elsewhere})


def test_a_device_that_is_not_there_is_refused(sides: Any) -> None:
    for call in (repsim.compare, lambda a, b, **how: repsim.compare_models({"a": a, "b": b}, **how)):
        with pytest.raises(ValueError, match=r"^\[compare\] expected device to be one of the 0 GPUs .* got 'cuda'"):
            call(*sides, device="cuda")


def test_only_work_on_the_cpu_is_planned(sides: Any) -> None:
    with pytest.raises(ValueError, match=r"^\[compare\] expected a\['a1'\] on the CPU .* pass a\['a1'\] from the host"):
        repsim.plan(placed(sides[0]), sides[1])


def test_the_command_takes_a_device(
    sides: Any, copies: list[EmulatedCopies], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [str(tmp_path / f"{letter}.npz") for letter in "ab"]
    for path, side in zip(paths, sides, strict=True):
        np.savez(path, **side)
    table = tmp_path / "table.csv"
    asked = ["--measures", "procrustes", "--permutations", "0", "--device", "cuda"]
    assert compare([*paths, *asked, "--csv", str(table)]) == 0
    assert table.read_text().count("cpu (emulated)") == 4
    with pytest.raises(RunError, match="expected --plan without --device"):
        compare([*paths, *asked, "--plan"])
