"""Neighbours.save and Neighbours.load: the same bits, or one line that says what is wrong with the file."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import repsim
from repsim.measures import graph_file

KEY = "repsim.Neighbours"


def rows(n: int = 60, d: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, n, d]).standard_normal((n, d))


def contents(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()[KEY])  # noqa: SIM118


def rewritten(path: Path, change: Callable[[dict[str, np.ndarray], dict[str, Any]], None], *, seal: bool) -> None:
    """The file with other contents, under its old checksum or (sealed) its own."""
    arrays, about = contents(path)
    change(arrays, about)
    if seal:
        about["sha256"] = graph_file._digest(arrays, about["fields"])
    save_file(arrays, path, {KEY: json.dumps(about)})


def assert_same(graph: repsim.Neighbours, loaded: repsim.Neighbours) -> None:
    for field in fields(graph):
        left, right = getattr(graph, field.name), getattr(loaded, field.name)
        assert type(left) is type(right), field.name
        if isinstance(left, np.ndarray):
            assert (left.dtype, left.shape, left.tobytes()) == (right.dtype, right.shape, right.tobytes()), field.name
        else:
            assert left == right, field.name


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    repsim.nearest(rows(), 5).save(tmp_path / "x.graph")
    return tmp_path / "x.graph"


# ---------------------------------------------------------------------------------------------- the same bits


@pytest.mark.parametrize("metric", ["cosine", "inner_product", "euclidean"])
@pytest.mark.parametrize("base", [None, rows(90)], ids=["own-rows", "another-base"])
def test_a_graph_comes_back(tmp_path: Path, metric: str, base: np.ndarray | None) -> None:
    x = rows()
    x[30:] += 1e5 * (metric == "euclidean")  # rows that are scanned, so that the count is not 0
    graph = repsim.nearest(x, 5, metric=metric, base=base)
    assert graph.save(tmp_path / "g") is None
    assert_same(graph, repsim.Neighbours.load(tmp_path / "g"))
    assert_same(graph, repsim.Neighbours.load(str(tmp_path / "g")))
    assert os.listdir(tmp_path) == ["g"]


def test_a_loaded_graph_measures_alike(saved: Path) -> None:
    graph, other = repsim.nearest(rows(), 5), repsim.nearest(rows(seed=1), 5)
    for measure in (repsim.mutual_knn, repsim.cknna, repsim.lcs_knn):
        found = measure(repsim.Neighbours.load(saved), other)
        assert found.to_dict() == measure(graph, other).to_dict()


def test_indices_are_small_where_they_fit(saved: Path, tmp_path: Path) -> None:
    assert contents(saved)[0]["indices"].dtype == np.int32
    far = repsim.Neighbours(np.array([[2**32, 5]]), np.zeros((1, 2), np.float32), "cosine", 2**32 + 1, False)
    far.save(tmp_path / "far")
    assert contents(tmp_path / "far")[0]["indices"].dtype == np.int64
    assert_same(far, repsim.Neighbours.load(tmp_path / "far"))


def test_the_same_graph_is_the_same_file(saved: Path, tmp_path: Path) -> None:
    repsim.Neighbours.load(saved).save(tmp_path / "again")
    assert saved.read_bytes() == (tmp_path / "again").read_bytes()


def test_a_later_field_takes_its_default_from_an_older_file(saved: Path) -> None:
    rewritten(saved, lambda arrays, about: about["fields"].pop("scanned"), seal=True)
    assert repsim.Neighbours.load(saved).scanned == 0


def test_a_write_that_fails_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def refuse(*_: Any) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(OSError, match="the disk is gone"):
        repsim.nearest(rows(), 7).save(saved)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


# ---------------------------------------------------------------------------------------------- what is wrong


def refused(path: Path, message: str) -> None:
    with pytest.raises(ValueError, match=r"^\[Neighbours\.load\] expected " + message):
        repsim.Neighbours.load(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.graph"):
        repsim.Neighbours.load(tmp_path / "none.graph")


@pytest.mark.parametrize("place", [100, 0.5, -1], ids=["header", "middle", "end"])
def test_one_byte_is_another(saved: Path, place: float) -> None:
    raw = bytearray(saved.read_bytes())
    raw[int(place * len(raw)) if isinstance(place, float) else place] ^= 1
    saved.write_bytes(raw)
    refused(saved, "")


@pytest.mark.parametrize("left", [0, 4, 200, -1], ids=["empty", "no-length", "in-the-header", "last-byte-gone"])
def test_a_file_cut_short(saved: Path, left: int) -> None:
    saved.write_bytes(saved.read_bytes()[:left])
    refused(saved, rf"a safetensors file, got {re.escape(str(saved))}")


def test_another_kind_of_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", indices=np.zeros(3))
    refused(tmp_path / "x.npz", "a safetensors file, got")
    save_file({"indices": np.zeros((3, 1), np.int32)}, tmp_path / "y")
    refused(tmp_path / "y", "a file that Neighbours.save wrote, got [^\n]* without 'repsim.Neighbours' in its header$")


def change_score(arrays: dict[str, np.ndarray], about: dict[str, Any]) -> None:
    arrays["scores"][3, 2] += 1


def change_field(name: str, to: Any) -> Callable[[dict[str, np.ndarray], dict[str, Any]], None]:
    return lambda arrays, about: about["fields"].update({name: to})


def test_contents_that_are_not_those_of_the_checksum(saved: Path) -> None:
    for change in (change_score, change_field("metric", "euclidean"), change_field("base_rows", 61)):
        repsim.nearest(rows(), 5).save(saved)
        rewritten(saved, change, seal=False)
        refused(saved, "an undamaged graph, got [^\n]*, whose checksum is another$")


def test_a_newer_version(saved: Path) -> None:
    rewritten(saved, lambda arrays, about: about.update(version=2, fields="in another shape"), seal=False)
    refused(saved, "a graph of version 1 at most, got [^\n]* of version 2, from a newer repsim$")


def test_a_field_of_a_newer_repsim(saved: Path) -> None:
    rewritten(saved, change_field("colour", "red"), seal=True)
    refused(saved, "the fields [^\n]* with colour too, from a newer repsim$")


def without(name: str) -> Callable[[dict[str, np.ndarray], dict[str, Any]], None]:
    return lambda arrays, about: (arrays if name in arrays else about["fields"]).pop(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(without("scores"), "a whole graph, got [^\n]*'scores'", id="no-scores"),
        pytest.param(without("indices"), "a whole graph, got [^\n]*'indices'", id="no-indices"),
        pytest.param(without("metric"), "a whole graph, got [^\n]*'metric'", id="no-metric"),
        pytest.param(change_field("base_rows", 4), "[^\n]* whose lists name different ones of the 4 rows", id="base"),
        pytest.param(
            lambda arrays, about: arrays.update(scores=arrays["scores"][:, :3].copy()),
            "[^\n]* with contiguous scores",
            id="shapes",
        ),
        pytest.param(
            lambda arrays, about: arrays.update(scores=arrays["scores"].astype(np.float64)),
            "[^\n]* with scores of dtype float32, got float64",
            id="dtype",
        ),
    ],
)
def test_a_file_that_is_no_whole_graph(saved: Path, change: Any, message: str) -> None:
    rewritten(saved, change, seal=True)
    with pytest.raises((ValueError, TypeError), match=r"^\[Neighbours\.load\] expected " + message):
        repsim.Neighbours.load(saved)


def test_a_header_that_lacks_a_part(saved: Path) -> None:
    rewritten(saved, lambda arrays, about: about.pop("fields"), seal=False)
    refused(saved, "an undamaged graph, got [^\n]* with a header that lacks sense: 'fields'$")
