"""repsim.compare: every layer against every layer, checked first, and readable."""

from __future__ import annotations

import csv
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import repsim
from repsim.comparison import Comparison
from repsim.measures import cka, neighbours
from repsim.measures.similarity import Grid

SAMPLED = (
    "cknna",
    "knn_jaccard",
    "cycle_knn",
    "lcs_knn",
    "edit_distance_knn",
    "rank_similarity",
    "joint_rank_jaccard",
    "second_order_cosine",
)
MEASURES = ("cka", "cka_biased", "cka_rbf", "mutual_knn", *SAMPLED)


def rows(n: int = 50, d: int = 5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, n, d]).standard_normal((n, d))


def sides() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    first = rows()
    a = {"conv1": first, "fc": np.tanh(first @ rows(5, 4))}
    return a, {"conv1": first + rows(seed=1), "conv2": rows(d=60), "fc": a["fc"] + 0.1 * rows(d=4, seed=2)}


class Refuse:
    """Stands in for every function that works: a check that comes too late reaches it."""

    def __call__(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("work was done before the check")


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "nearest", Refuse())
    monkeypatch.setattr(cka, "statistic_grid", Refuse())


# ---------------------------------------------------------------------------------------------- values


def test_agrees_with_the_measures_one_by_one() -> None:
    a, b = sides()
    table = repsim.compare(a, b, measures=MEASURES, k=6, permutations=30, seed=3)
    assert (table.layers_a, table.layers_b, tuple(table)) == (tuple(a), tuple(b), MEASURES)
    for i, x in enumerate(a.values()):
        for j, y in enumerate(b.values()):
            singles = {
                "cka_biased": repsim.cka(x, y, estimator="biased"),
                "cka_rbf": repsim.cka(x, y, kernel="rbf"),
                "mutual_knn": repsim.mutual_knn(x, y, k=6),
                **{name: getattr(repsim, name)(x, y, k=6, permutations=30, seed=3) for name in SAMPLED},
            }
            for measure, single in singles.items():
                grid = table[measure]
                assert grid.values[i, j] == pytest.approx(single.value, abs=1e-6)
                assert grid.z[i, j] == pytest.approx(single.z, rel=1e-5)
                assert grid.p[i, j] == pytest.approx(single.p, rel=1e-4)


@pytest.mark.parametrize("measure", SAMPLED)
def test_layers_of_one_side_share_the_relabellings(measure: str) -> None:
    """What a pair gives does not depend on the other layers beside it."""
    a, b = sides()
    whole = repsim.compare(a, b, measures=[measure], permutations=20)[measure]
    alone = repsim.compare(a["fc"], b["conv2"], measures=measure, permutations=20)[measure]
    for name in ("values", "null_mean", "null_sd", "p"):
        assert getattr(whole, name)[1, 1] == getattr(alone, name)[0, 0]


def test_rows_of_a_table() -> None:
    a, b = sides()
    table = repsim.compare(a, b, measures=["cka", "mutual_knn", "cknna"], permutations=25).rows()
    assert len(table) == 3 * 2 * 3
    assert list(table[0])[:4] == ["measure", "layer_a", "layer_b", "value"]
    assert (table[5]["layer_a"], table[5]["layer_b"]) == ("fc", "fc")
    assert {(row["measure"], row["null_from"], row["p_from"]) for row in table} == {
        ("cka", "all relabellings", "pearson"),
        ("mutual_knn", "all relabellings", "normal"),
        ("cknna", "25 relabellings", "permutations"),
    }
    assert {type(value) for row in table for value in row.values()} == {str, float, int}


def test_stores_and_mappings(tmp_path: Path) -> None:
    a, b = sides()
    ids = np.arange(50)
    store_a, store_b = (repsim.Store.from_arrays(tmp_path / n, ids, side) for n, side in (("a", a), ("b", b)))
    expected = repsim.compare(a, b)["cka"].values
    for left, right in ((store_a, store_b), (store_a, b), (a, store_b)):
        np.testing.assert_array_equal(repsim.compare(left, right)["cka"].values, expected)
    other = repsim.Store.from_arrays(tmp_path / "c", ids[::-1].copy(), b)
    with pytest.raises(ValueError, match=r"ids|sample"):
        repsim.compare(store_a, other)


def test_progress_counts_graphs_and_measures() -> None:
    a, b = sides()
    steps: list[tuple[int, int]] = []
    repsim.compare(a, b, measures=["cka", "mutual_knn"], progress=lambda *step: steps.append(step))
    assert steps == [(i, 7) for i in range(1, 8)]
    steps.clear()
    repsim.compare(a, b, measures=["cka", "cka_biased"], progress=lambda *step: steps.append(step))
    assert steps == [(1, 2), (2, 2)]


# ---------------------------------------------------------------------------------------------- what is shown


def test_repr_is_a_table_for_every_measure() -> None:
    x = rows()
    table = repsim.compare({"conv1": x, "a longer name": x}, {"fc": x, "b": x}, measures=["cka", "mutual_knn"])
    assert repr(table) == "\n".join(
        [
            "cka  (n=50, estimator=debiased, kernel=linear, float64)",
            "a \\ b             fc      b",
            "conv1          1.000  1.000",
            "a longer name  1.000  1.000",
            "",
            "mutual_knn  (n=50, k=10, metric=cosine, float32)",
            "a \\ b             fc      b",
            "conv1          1.000  1.000",
            "a longer name  1.000  1.000",
        ]
    )


def test_repr_of_many_layers_leaves_out_the_middle() -> None:
    x = rows()
    table = repsim.compare({f"a{i}": x for i in range(13)}, {f"b{i}": x for i in range(12)}, measures=["cka"])
    lines = repr(table).splitlines()
    assert len(lines) == 2 + 13  # the title, the head, 6 + the gap + 6
    assert [line.split()[0] for line in lines[2:]] == [
        *[f"a{i}" for i in range(6)],
        "...",
        *[f"a{i}" for i in range(7, 13)],
    ]
    assert "b11" in lines[1]
    assert "..." not in lines[1]


def test_html_escapes_the_names() -> None:
    x = rows()
    shown = repsim.compare({"<b>": x}, {"fc": x}, measures=["cka"])._repr_html_()
    assert "&lt;b&gt;" in shown
    assert "<b>" not in shown
    assert shown.count("<td>1.000</td>") == 1
    assert "cka  (n=50" in shown


def test_an_unknown_measure_of_the_table() -> None:
    table = repsim.compare(rows(), rows(seed=1))
    for ask in (table.__getitem__, table.heatmap):
        with pytest.raises(ValueError, match=r"^\[Comparison\] expected measure 'cka' or 'mutual_knn', got 'cknna'$"):
            ask("cknna")
    assert "cka" in table
    assert "cknna" not in table


def test_equality_is_identity() -> None:
    table, same = (repsim.compare(rows(), rows(seed=1)) for _ in range(2))
    assert table == table
    assert table != same
    assert table["cka"] != same["cka"]
    assert len({table, same, table["cka"]}) == 3


class Page(HTMLParser):
    """The cells of every table, the rest of the text, and every tag with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data


def test_a_page_of_its_own(tmp_path: Path) -> None:
    """Every layer is there, also of many; names are escaped in text and attributes; nothing comes from elsewhere."""
    a, b = sides()
    name = "<script>alert('a')</script>\"&"
    a = {name: a["conv1"], **{f"layer{i}": a["fc"] for i in range(14)}}
    table = repsim.compare(a, b, measures=["cka", "cknna"], permutations=20)
    table.to_html(tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.open == [] and len(page.tables) == 2
    for measure, cells in zip(table, page.tables, strict=True):
        assert cells[0] == ["a \\ b", *b]
        assert [line[0] for line in cells[1:]] == list(a)
        assert [line[1:] for line in cells[1:]] == [[f"{v:.3f}" for v in row] for row in table[measure].values]
    assert not {"script", "link", "img"} & {tag for tag, _ in page.tags} and "http" not in text
    assert "prefers-color-scheme: dark" in text
    first = next(attributes for tag, attributes in page.tags if tag == "td")
    single = table["cka"].at(0, 0, "cka")
    assert first["title"] == (
        f"{name} and conv1: {single:.6g}, chance {single.null.mean:.3g}, z {single.z:.3g}, p {single.p:.3g}"
    )
    low = min(0.0, table["cka"].values.min())  # the debiased estimator goes below 0
    assert first["style"] == f"background:rgb(37 99 235/{(single - low) / (1 - low):.3f})"
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]


def test_the_colours_of_a_page_span_its_values(tmp_path: Path) -> None:
    values = np.array([[-0.5, 0.0, 2.0, np.nan]])
    shape = np.zeros_like(values)
    grid = Grid(values, shape, shape + 1, shape, shape + 0.5, None, 9, {}, "float64", "all relabellings", "normal")
    Comparison(("x",), ("a", "b", "c", "d"), {"some": grid}).to_html(tmp_path / "p.html")
    text = (tmp_path / "p.html").read_text()
    assert re.findall(r"235/([\d.]+)", text) == ["0.000", "0.200", "1.000"]
    assert re.findall(r'class="(\w+)"', text) == ["full", "none"] and ">nan</td>" in text
    assert "No colour is -0.5, full colour 2; chance from all relabellings." in text


def test_titles_and_pages_of_measures_without_options_or_chance(tmp_path: Path) -> None:
    table = repsim.compare(*sides(), measures=["bures", "rsa", "angular_cka"])
    lines = repr(table).splitlines()
    assert "bures  (n=50, float64)" in lines
    assert "rsa  (n=50, comparison=spearman, rdm=euclidean, float64)" in lines  # no ranks or memory were given
    table.to_html(tmp_path / "p.html")
    text = (tmp_path / "p.html").read_text()
    assert "; chance not asked for. A" in text and "; chance not known. A" in text


def test_csv_has_a_line_per_row_and_the_options_of_every_measure(tmp_path: Path) -> None:
    a, b = sides()
    table = repsim.compare({'a, "1"': a["conv1"], "é": a["fc"]}, b, measures=["cka", "mutual_knn"])
    table.to_csv(str(tmp_path / "t.csv"))
    with open(tmp_path / "t.csv", encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(table.rows()) == 12
    for line, row in zip(lines, table.rows(), strict=True):
        assert {name: value for name, value in line.items() if value} == {k: str(v) for k, v in row.items()}
    assert lines[0]["k"] == "" and lines[-1]["k"] == "10" and lines[0]["layer_a"] == 'a, "1"'
    table.to_csv(tmp_path / "t.csv")  # over what is there
    with pytest.raises(FileNotFoundError):
        table.to_csv(tmp_path / "none" / "t.csv")


def test_heatmap() -> None:
    pytest.importorskip("matplotlib")
    axes = repsim.compare(*sides()).heatmap("cka").axes
    assert [label.get_text() for label in axes[0].get_xticklabels()] == ["conv1", "conv2", "fc"]


def test_the_colours_of_a_heatmap_reach_similarities_above_1() -> None:
    pytest.importorskip("matplotlib")
    a, b = ({name: 10 * x for name, x in side.items()} for side in sides())
    table = repsim.compare(a, b, measures=["hsic", "cka"])
    tops = [table.heatmap(measure).axes[0].images[0].get_clim()[1] for measure in table]
    assert tops == [table["hsic"].values.max(), 1.0]
    assert tops[0] > 1


# ---------------------------------------------------------------------------------------------- what is refused, first


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"k": 50}, ValueError, "expected k of at most 49 for 50 rows, got 50"),
        ({"k": 0}, ValueError, "expected k of at least 1, got 0"),
        ({"k": 2.0}, TypeError, "expected k as an int, got 2.0"),
        ({"metric": "l1"}, ValueError, "expected metric 'cosine', 'inner_product' or 'euclidean', got 'l1'"),
        (
            {"metric": "euclidean", "measures": ["mutual_knn", "cknna"]},
            ValueError,
            "expected metric 'cosine' or 'inner_product', got 'euclidean'",
        ),
        ({"permutations": 1, "measures": "cknna"}, ValueError, "expected permutations of at least 2, got 1"),
        ({"permutations": 1, "measures": "lcs_knn"}, ValueError, "expected permutations of at least 2, got 1"),
        ({"permutations": 9.5, "measures": "cknna"}, TypeError, "expected permutations as an int, got 9.5"),
        ({"seed": -1, "measures": "cknna"}, ValueError, "expected seed of at least 0, got -1"),
        ({"threads": 0}, ValueError, "expected threads of at least 1, got 0"),
        ({"measures": ["cka", "attention_cka"]}, ValueError, "expected measures from cka, "),
        ({"measures": []}, ValueError, "expected at least one measure, got none"),
        ({"measures": 3}, TypeError, "expected measures as names, or a mapping from names to options, got 3"),
        ({"measures": {"cka": None}}, TypeError, "expected options of cka as a mapping such as {}, got None"),
        ({"measures": {"pls": "x"}}, TypeError, "expected options of pls as a mapping such as {}, got 'x'"),
    ],
)
def test_options_are_checked_before_any_work(no_work: None, options: Any, kind: Any, message: str) -> None:
    with pytest.raises(kind, match=r"^\[compare\] " + re.escape(message)):
        repsim.compare(*sides(), **options)


def test_options_of_measures_not_asked_for_are_left_alone() -> None:
    repsim.compare(*sides(), measures=["cka"], k=1000, metric="none", permutations=-1)
    repsim.compare(*sides(), measures=["mutual_knn"], metric="euclidean", permutations=0)


def test_rows_are_counted_before_any_work(no_work: None) -> None:
    a, b = sides()
    with pytest.raises(ValueError, match=r"^\[compare\] expected b\['conv2'\] with 50 rows like a\['conv1'\], got 49$"):
        repsim.compare(a, {**b, "conv2": b["conv2"][:-1]})
    with pytest.raises(ValueError, match=r"^\[compare\] expected a\['fc'\] with 50 rows like a\['conv1'\], got 49$"):
        repsim.compare({**a, "fc": a["fc"][:-1]}, b)
    with pytest.raises(ValueError, match=r"^\[compare\] expected a with at least 4 rows for cka, got 3$"):
        repsim.compare(rows(3), rows(3, seed=1), measures=["cka_biased", "cka"], k=1)


def test_a_bad_layer_is_named() -> None:
    a, b = sides()
    for bad, message in (
        (b["conv2"][:, ::-1], r"\[compare\] expected b\['conv2'\] with contiguous features"),
        (b["conv2"].astype(int), r"\[compare\] expected b\['conv2'\] of dtype [^\n]*pass b\['conv2'\]\.astype"),
        (
            b["conv2"].tolist(),
            r"\[compare\] expected b\['conv2'\] as an array [^\n]*pass numpy\.asarray\(b\['conv2'\]\)",
        ),
        (np.where(b["conv2"] > 2, np.nan, b["conv2"]), r"expected b\['conv2'\] with finite values"),
        (0 * b["conv2"], r"expected b\['conv2'\] (?:whose rows differ|with non-zero rows)"),
    ):
        for measure in ("cka", "mutual_knn"):
            with pytest.raises((TypeError, ValueError), match=message):
                repsim.compare(a, {**b, "conv2": bad}, measures=[measure])


def test_layers_of_one_name(no_work: None) -> None:
    with pytest.raises(
        ValueError, match=r"^\[compare\] expected b with layer names that differ as text, got '1' twice$"
    ):
        repsim.compare(rows(), {1: rows(), "1": rows()})
    with pytest.raises(ValueError, match=r"^\[compare\] expected a with at least one layer, got none$"):
        repsim.compare({}, rows())
