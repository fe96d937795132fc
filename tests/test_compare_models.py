"""Many models in one table, comparisons that are resumed, and tables for other libraries."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import repsim
from repsim.grids import grids_between
from repsim.saved_grids import SavedGrids

MEASURES = ["cka", "mutual_knn", "pwcca", "cycle_knn", "procrustes", "cka_rbf"]


def models(n: int = 50) -> dict[str, dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    base = random.standard_normal((n, 5))
    return {
        model: {
            f"layer{i}": np.tanh(base @ random.standard_normal((5, 4 + i))) + 0.3 * random.standard_normal((n, 4 + i))
            for i in range(count)
        }
        for model, count in (("bert", 2), ("gpt", 3), ("t5", 1))
    }


# ---------------------------------------------------------------------------------------------- many models


def test_every_two_models_are_compared_as_alone() -> None:
    every = models()
    table = repsim.compare_models(every, measures=MEASURES, permutations=5, seed=1)
    assert table.measures == tuple(MEASURES)
    backwards = [("gpt", "bert"), ("t5", "bert"), ("t5", "gpt")]
    assert set(table.pairs) == {(a, b) for a in every for b in every}
    for (first, second), pair in table.pairs.items():
        # Only the measures that are not symmetric in both orders.
        assert tuple(pair) == (("pwcca", "cycle_knn") if (first, second) in backwards else tuple(MEASURES))
        alone = repsim.compare(every[first], every[second], measures=list(pair), permutations=5, seed=1)
        assert repr(pair.rows()) == repr(alone.rows())  # NaN too
        for measure in pair:
            np.testing.assert_array_equal(pair[measure].values, alone[measure].values)
            np.testing.assert_array_equal(pair[measure].p, alone[measure].p)


def test_every_layer_is_prepared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from repsim.reductions import neighbours, products

    counts = {"own": 0, "search": 0}
    make, search = products._products, neighbours.search

    def products_made(matrices: Any, *given: Any, **named: Any) -> Any:
        counts["own"] += len(matrices) == 1
        return make(matrices, *given, **named)

    def searched(*given: Any, **named: Any) -> Any:
        counts["search"] += 1
        return search(*given, **named)

    monkeypatch.setattr(products, "_products", products_made)
    monkeypatch.setattr(neighbours, "search", searched)
    repsim.compare_models(models(), measures=["cka", "svcca", "gulp", "mutual_knn", "cknna"], permutations=2)
    assert counts == {"own": 6, "search": 6}


def test_rows_and_columns_of_many_models() -> None:
    table = repsim.compare_models(models(), measures=["cka", "pwcca"], within=False)
    rows = table.rows()
    assert list(rows[0])[:6] == ["measure", "model_a", "layer_a", "model_b", "layer_b", "value"]
    assert len(rows) == (6 + 2 + 3) + 2 * (6 + 2 + 3)
    arrow = table.to_arrow()
    assert arrow.num_rows == len(rows)
    assert arrow.column("value").to_pylist() == [row["value"] for row in rows]
    assert arrow.column("variant").to_pylist()[0] is None  # cka has none
    frame = table.to_pandas()
    assert frame.groupby(["model_a", "model_b", "measure"]).size()["gpt", "bert", "pwcca"] == 6
    best = table.best()
    assert {(row["model_a"], row["model_b"]) for row in best if row["measure"] == "cka"} == {
        ("bert", "gpt"), ("bert", "t5"), ("gpt", "t5")
    }  # fmt: skip
    first = table["bert", "gpt"]["cka"]
    assert best[0]["value"] == first.values.max()
    assert "bert (a) and gpt (b)" in repr(table) and "bert (2 layers), gpt (3 layers), t5 (1 layers)" in repr(table)


def test_the_whole_of_a_measure_has_a_block_for_every_two_models(tmp_path: Path) -> None:
    table = repsim.compare_models(models(), measures=["cka", "pwcca"])
    cka, pwcca = table.whole("cka"), table.whole("pwcca")
    np.testing.assert_array_equal(cka.values[:2, 2:5], table["bert", "gpt"]["cka"].values)
    np.testing.assert_array_equal(cka.values[2:5, :2], cka.values[:2, 2:5].T)
    np.testing.assert_allclose(np.diag(cka.values), 1.0, rtol=1e-14)
    np.testing.assert_array_equal(pwcca.values[2:5, :2], table["gpt", "bert"]["pwcca"].values)
    np.testing.assert_array_equal(pwcca.values[:2, 2:5], table["bert", "gpt"]["pwcca"].values)
    without = repsim.compare_models(models(), measures="cka", within=False)
    assert np.isnan(without.whole("cka").values[2:5, 2:5]).all()
    table.to_html(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "<h1>3 models: bert, gpt, t5</h1>" in text
    assert text.count("<table>") == 2 and text.count('<tr class="edge">') == 6 and "gpt layer2" in text
    without.to_html(tmp_path / "without.html")
    assert '<td class="none edge"' in (tmp_path / "without.html").read_text()
    table.to_csv(tmp_path / "t.csv")
    with open(tmp_path / "t.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["layer_b"] for line in lines] == [row["layer_b"] for row in table.rows()]
    pytest.importorskip("matplotlib")
    axes = table.heatmap("pwcca").axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()][2] == "gpt layer0"
    assert len(axes.lines) == 4  # between three models, both ways


def test_stores_of_other_samples_are_refused(tmp_path: Path) -> None:
    every = models()
    ids = np.arange(50)
    stores: dict[str, Any] = {
        name: repsim.Store.from_arrays(tmp_path / name, ids if name != "t5" else ids[::-1].copy(), layers)
        for name, layers in every.items()
    }
    with pytest.raises(ValueError, match=r"ids|sample"):
        repsim.compare_models(stores, measures="cka")
    del stores["t5"]
    stores["array"] = every["t5"]["layer0"]
    found = repsim.compare_models(stores, measures="cka")["bert", "array"]["cka"].values
    np.testing.assert_array_equal(found, repsim.compare(every["bert"], every["t5"], measures="cka")["cka"].values)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        pytest.param({"bert": 1}, "expected a mapping from names to at least two models, got 1", id="one"),
        pytest.param([1, 2], "expected a mapping from names to at least two models, got list", id="list"),
        pytest.param({1: np.ones((9, 2)), "1": np.ones((9, 2))}, "whose names differ as text", id="names"),
    ],
)
def test_what_is_no_set_of_models(asked: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^\[compare_models\] .*{message}"):
        repsim.compare_models(asked)


def test_a_bad_layer_of_a_model_is_named() -> None:
    every = models()
    every["gpt"]["layer1"] = every["gpt"]["layer1"][:-1]
    with pytest.raises(ValueError, match=r"^\[compare\] expected gpt\['layer1'\] with 50 rows like bert\['layer0'\]"):
        repsim.compare_models(every)
    table = repsim.compare_models(models(), measures="cka")
    with pytest.raises(
        ValueError, match=r"\[ModelComparison\] expected two models of \('bert', 'bert'\), .* got 'bert'"
    ):
        table["bert"]  # type: ignore[index]
    with pytest.raises(ValueError, match=r"\[ModelComparison\] expected measure cka, got 'rsa'"):
        table.whole("rsa")


# ---------------------------------------------------------------------------------------------- other libraries


def test_columns_of_one_type_each() -> None:
    every = models()
    asked: dict[str, dict[str, Any]] = {
        "cka": {},
        "ridge_regression": {"lambdas": (0.1, 1.0)},
        "svcca": {"variance": 1},
    }
    table = repsim.compare(every["bert"], every["t5"], measures=asked)
    arrow = table.to_arrow()
    assert arrow.column("lambdas").to_pylist() == [None, None, "(0.1, 1.0)", "(0.1, 1.0)", None, None]
    assert {str(field.type) for field in arrow.schema} <= {"string", "double", "int64", "bool"}
    assert table.to_pandas()["value"].tolist() == [row["value"] for row in table.rows()]
    assert [row["measure"] for row in table.best()] == ["cka", "ridge_regression", "svcca"]


# ---------------------------------------------------------------------------------------------- resumed


def test_what_was_finished_is_read_and_not_computed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    every = models()
    asked: dict[str, Any] = {"measures": MEASURES, "permutations": 4, "jackknife": 3}
    expected = repsim.compare_models(every, **asked)

    class Stop(KeyboardInterrupt):
        pass

    steps: list[int] = []

    def stop(done: int, total: int) -> None:
        steps.append(done)
        if done > 0.6 * total:
            raise Stop

    with pytest.raises(Stop):
        repsim.compare_models(every, **asked, resume=tmp_path / "kept", progress=stop)
    before = {path.name for path in (tmp_path / "kept").iterdir()}
    assert before and not any(name.endswith(".tmp") for name in before)
    written: list[str] = []
    write = SavedGrids.write
    monkeypatch.setattr(
        SavedGrids, "write", lambda self, key, grid: (written.append(f"{key}.npz"), write(self, key, grid))
    )
    found = repsim.compare_models(every, **asked, resume=tmp_path / "kept")
    assert not before & set(written)  # what was there was not computed again
    assert repr(found.rows()) == repr(expected.rows())
    whole = {path.name for path in (tmp_path / "kept").iterdir()}
    assert before | set(written) == whole
    # Everything is there now: nothing is searched or measured.
    monkeypatch.setattr("repsim.grids.cka.statistic_grid", None)
    monkeypatch.setattr("repsim.grids.neighbours.nearest", None)
    monkeypatch.setattr("repsim.measures.method.PRODUCTS_BUDGET", None)
    steps.clear()
    again = repsim.compare_models(
        every, **asked, resume=tmp_path / "kept", progress=lambda *step: steps.append(step[0])
    )
    assert steps == []
    assert repr(again.rows()) == repr(expected.rows())
    assert again["bert", "gpt"]["pwcca"].best() == expected["bert", "gpt"]["pwcca"].best()  # draws are kept too


def test_a_resumed_comparison_searches_the_graphs_that_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from repsim.reductions import neighbours

    every = models()
    expected = repsim.compare_models(every, measures="mutual_knn", resume=tmp_path / "kept")
    repsim.compare(every["gpt"], every["t5"], measures="mutual_knn", resume=tmp_path / "one")
    (one,) = (tmp_path / "one").iterdir()
    (tmp_path / "kept" / one.name).unlink()
    found: list[str] = []
    search, steps = neighbours.search, []
    monkeypatch.setattr(
        neighbours, "search", lambda x, *given, **how: (found.append(x.name), search(x, *given, **how))[1]
    )
    again = repsim.compare_models(
        every, measures="mutual_knn", resume=tmp_path / "kept", progress=lambda *step: steps.append(step)
    )
    assert found == ["gpt['layer0']", "gpt['layer1']", "gpt['layer2']", "t5['layer0']"]
    assert steps == [(done, 5) for done in range(1, 6)]
    assert repr(again.rows()) == repr(expected.rows())


def test_a_comparison_of_two_is_resumed_by_its_content(tmp_path: Path) -> None:
    every = models()
    a, b = every["bert"], every["gpt"]

    def new_files(*sides: Any, **asked: Any) -> int:
        before = set(tmp_path.iterdir())
        repsim.compare(*sides, **{"measures": ["procrustes", "mutual_knn"], "resume": tmp_path, **asked})
        return len(set(tmp_path.iterdir()) - before)

    assert new_files(a, b) == 2
    assert new_files(a, b) == 0
    assert new_files({f"other {name}": x.copy() for name, x in a.items()}, b) == 0  # names are no content
    assert new_files(a, b, measures={"procrustes": {"unit_norm": True}, "mutual_knn": {}}) == 1
    assert new_files(a, b, k=9) == 1
    assert new_files(a, b, permutations=3) == 1  # the chance of mutual_knn is exact
    assert new_files(a, b, seed=3) == 1
    assert new_files({**a, "layer0": a["layer0"] + 1e-9}, b) == 2
    assert new_files({**a, "layer0": a["layer0"].astype(np.float32)}, b) == 2
    assert new_files(b, a) == 2


def test_options_of_numpy_are_kept_and_told_apart_to_the_last_digit(tmp_path: Path) -> None:
    """The text of an array has eight digits, and JSON knows no int64."""
    a, b = (models()[name] for name in ("bert", "gpt"))
    found = []
    for lambdas in (np.array([0.1, 1.0]), np.array([0.1 + 1e-12, 1.0]), [0.1, 1.0]):
        asked = {"ridge_regression": {"folds": np.int64(3), "lambdas": lambdas}, "mutual_knn": {"k": np.int64(5)}}
        for _ in range(2):
            found.append(repsim.compare(a, b, measures=asked, resume=tmp_path, seed=np.int64(1)))
    assert len(list(tmp_path.iterdir())) == 3
    first, again, second, _, listed, _ = (table["ridge_regression"] for table in found)
    assert first.options == again.options == listed.options == {"folds": 3, "lambdas": (0.1, 1.0), "fold_seed": 0}
    assert second.options["lambdas"] == (0.1 + 1e-12, 1.0)
    assert all(table["mutual_knn"].options == {"k": 5, "metric": "cosine"} for table in found)
    assert all(type(table["mutual_knn"].options["k"]) is int for table in found)


def test_grids_that_are_damaged_or_no_folder_are_refused(tmp_path: Path) -> None:
    every = models()
    repsim.compare(every["bert"], every["gpt"], measures="cka", resume=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(ValueError, match=rf"^\[compare\] expected a whole grid in {file}, got .*; remove the file$"):
        repsim.compare(every["bert"], every["gpt"], measures="cka", resume=tmp_path)
    with pytest.raises(NotADirectoryError, match=rf"^\[compare\] expected resume as a folder, got a file at {file}$"):
        repsim.compare(every["bert"], every["gpt"], measures="cka", resume=file)


def test_grids_are_kept_as_soon_as_they_are_finished() -> None:
    """Those of graphs and kernels one by one; those that share products when the last pair is done."""
    from repsim.model_layers import layers_of
    from repsim.request import Request

    sides = [list(layers_of(side, name).values()) for name, side in list(models().items())[:2]]
    request = Request.of(["pls", "mutual_knn", "cka_rbf", "cka"], 5, "cosine", None, 0, 0)
    events: list[str] = []
    grids_between(
        request, *sides, threads=1, memory=None, step=lambda *_: events.append("."),
        keep=lambda name, grid: events.append(name), forget=True,
    )  # fmt: skip
    assert events == ["mutual_knn", ".", "cka_rbf", ".", *"......", "pls", "cka", "."]
