"""The gallery: through its real command at the smallest size, its claims in numbers, and the page in a browser."""

# ruff: noqa: RUF001 (the page has real dashes)
from __future__ import annotations

import html
import inspect
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_report import FRAMES, PROBE, browse, needs_chromium, text_of

import repsim
from repsim.gallery import chapters, example, traps
from repsim.gallery.__main__ import main
from repsim.gallery.drawings import Line, lines, shown
from repsim.gallery.table import Row, compared, questions, value_of
from repsim.measures.registry import INVARIANCES, REGISTRY, Measure, invariant_to

MEASURES = tuple(REGISTRY.values())
OF_REPRESENTATIONS = [one for one in MEASURES if one.takes == "representations"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("gallery")
    done = subprocess.run(
        [sys.executable, "-m", "repsim.gallery", "--smoke", "--seed", "3", "-o", "page.html"],
        cwd=folder, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    return folder / "page.html", done


@pytest.fixture(scope="module")
def page(written: tuple[Path, subprocess.CompletedProcess[str]]) -> str:
    path, done = written
    assert done.returncode == 0, done.stderr
    return path.read_text(encoding="utf-8")


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_writes_one_page_and_says_where(
    written: tuple[Path, subprocess.CompletedProcess[str]], page: str
) -> None:
    path, done = written
    assert done.stdout == "page.html\n"
    assert [one.name for one in path.parent.iterdir()] == ["page.html"]
    assert f"[{len(OF_REPRESENTATIONS)}/{len(OF_REPRESENTATIONS)}]" in done.stderr
    seen = text_of(page)
    assert "command python -m repsim.gallery --smoke --seed 3 -o page.html" in seen
    assert "seeds 3; networks A, B and untrained 6, 7, 8" in seen
    assert re.search(r"commit ([0-9a-f]{40}|not in a checkout)", seen)
    assert re.search(r"made 20\d\d-\d\d-\d\dT[\d:+]+, in \d+ s", seen)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(
            ["--seed", "-1"], "argument --seed: expected a whole number from 0 to .*, got '-1'", id="negative"
        ),
        pytest.param(["--seed", "x"], "argument --seed: expected a whole number from 0 to .*, got 'x'", id="no-number"),
        pytest.param(["--seed", str(2**31)], "expected a whole number from 0 to 2147483647", id="too-large"),
        pytest.param(["--sed", "1"], "unrecognized arguments: --sed 1", id="unknown-flag"),
        pytest.param(["page.html"], "unrecognized arguments: page.html", id="no-flag"),
        pytest.param(["-o", "none/page.html"], "expected an existing folder for the page, got none", id="no-folder"),
        pytest.param(["-o", "."], "expected a file for the page, got the folder .", id="a-folder"),
    ],
)
def test_bad_arguments_are_one_line(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    assert re.match(f"repsim: .*({said})", err), err
    assert not list(tmp_path.iterdir())


# --- the document -----------------------------------------------------------------------------------------------------


def test_the_page_refers_to_nothing_outside_and_runs_nothing(page: str) -> None:
    assert "<script" not in page and "@import" not in page
    sources = re.findall(r"""(?:src|href)=["']([^"']*)""", page) + re.findall(r"url\(([^)]*)\)", page)
    assert sources and all(s.startswith(("#", "data:image/png;base64,", "data:,")) for s in sources)
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', page)) <= set(ids)


def test_every_measure_and_every_pair_is_there(page: str) -> None:
    table = page[page.index('<table class="cards gallery">') :]
    table = table[: table.index("</table>")]
    rows = re.findall(r'<th scope="row"><code>(\w+)</code>(.*?)</tr>', table, flags=re.S)
    assert sorted(name for name, _ in rows) == sorted(one.name for one in OF_REPRESENTATIONS)
    for _, cells in rows:
        labels = re.findall(r'<td data-label="([^"]+)"><span class="value"', cells)
        assert [html.unescape(label) for label in labels] == [
            "A with itself", *example.LABELS.values(), "Chance, A and B",
        ]  # fmt: skip
    seen = re.search(r"(\d+) of (\d+) invariances that measures declare were seen to hold", page)
    assert seen is not None and seen.group(1) == seen.group(2) and int(seen.group(1)) > 0
    asked = page[page.index('<div class="ask">') : page.index('id="example"')]
    assert sorted(re.findall(r"<code>(\w+)</code>", asked)) == sorted(REGISTRY)


def test_every_trap_has_figures_numbers_and_the_code_that_made_them(page: str) -> None:
    sections = re.findall(r'<section id="(\w+)" class="trap">(.*?)</section>', page, flags=re.S)
    assert [key for key, _ in sections] == ["wide", "outlier", "anisotropy", "width", "ties", "calibration"]
    for _, section in sections:
        drawings = re.findall(r'<svg class="drawn".*?</svg>', section, flags=re.S)
        assert drawings and "<table" in section
        for svg in drawings:
            assert 'role="img"' in svg and re.search(r"<desc[^>]*>[^<]{20,}</desc>", svg) and "<text" in svg
            assert not re.search(r"#f[a-d]00[0-9a-f]{2}", svg), "a placeholder colour was left"
    code = html.unescape(page)
    for function in (
        traps.wide_and_unrelated, traps.one_outlier, traps.common_mean, traps.huge_dimension, traps.wider_layers,
        traps.duplicates, traps.ties, traps.against_chance, example.copies,
    ):  # fmt: skip
        assert inspect.getsource(function).rstrip() in code


def test_the_numbers_in_the_text_are_those_of_the_code(page: str) -> None:
    last = traps.wide_and_unrelated(example.SMOKE.inputs // 2, chapters.RATIOS, seed=3)[-1]
    seen = text_of(page)
    assert f"biased CKA is {shown(last['biased'])}; debiased CKA is {shown(last['debiased'])}" in seen
    rows = traps.one_outlier(example.SMOKE.inputs, chapters.COLUMNS, chapters.OUTLIERS, seed=3)
    assert f"from {shown(rows[0]['unrelated biased'])} to {shown(rows[-1]['unrelated biased'])};" in seen


# --- what the page claims ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
def test_biased_cka_of_wide_unrelated_data_is_near_one_and_debiased_is_chance(seed: int) -> None:
    rows = traps.wide_and_unrelated(100, chapters.RATIOS, seed)
    assert rows[-1]["ratio"] == 50
    biased = [row["biased"] for row in rows]
    assert biased[-1] > 0.9 and biased[0] < 0.2 and biased == sorted(biased)
    for row in rows:
        assert row["low"] < 0 < row["high"]
        assert row["p"] > 1e-3
    assert sum(row["low"] <= row["debiased"] <= row["high"] for row in rows) >= len(rows) - 1


def test_one_outlier_moves_cka_and_not_the_neighbours() -> None:
    first, *_, last = traps.one_outlier(200, 16, chapters.OUTLIERS, seed=0)
    assert first["unrelated biased"] < 0.3 and last["unrelated biased"] > 0.9
    assert first["related debiased"] > 0.7 and last["related debiased"] < 0.3
    for which in ("unrelated", "related"):
        assert last[f"{which} neighbours"] == pytest.approx(first[f"{which} neighbours"], abs=0.02)
    assert first["related neighbours"] > 0.5 > first["unrelated neighbours"]


def test_a_common_mean_moves_cosines_and_nothing_else() -> None:
    first, *_, last = traps.common_mean(200, 16, chapters.MEANS, seed=0)
    assert first["itself cosine"] == 1 and last["itself cosine"] < 0.8
    for row in (first, last):
        assert row["itself cka"] == pytest.approx(1) and row["itself euclidean"] == pytest.approx(1, abs=0.01)
        assert abs(row["unrelated cka"]) < 0.1 and row["unrelated cosine"] < 0.15
    assert first["unrelated second order"] < 0.3 and last["unrelated second order"] > 0.9


def test_one_huge_dimension_is_all_that_cka_sees() -> None:
    first, *_, last = traps.huge_dimension(200, 16, chapters.DIMENSIONS, seed=0)
    assert first["cka"] < 0.2 and last["cka"] > 0.95
    assert last["cka even"] == pytest.approx(first["cka"], abs=0.1)
    assert last["neighbours"] > last["neighbours even"]


def test_values_of_unrelated_layers_grow_with_their_width() -> None:
    values = traps.wider_layers(OF_REPRESENTATIONS, 120, [4, 50], seed=0)
    assert set(values) == {"cka, biased"} | {
        m.name for m in OF_REPRESENTATIONS if m.kind == "similarity" and m.high == 1
    }
    assert values["cka, biased"][1] > values["cka, biased"][0] + 0.2
    if "cka" in values:
        assert max(map(abs, values["cka"])) < 0.1


def test_copies_and_ties_look_like_likeness() -> None:
    rows = traps.duplicates(200, 16, chapters.COPIES, seed=0)
    for row in rows:
        # the other copies come first in both lists; what is left of the lists is chance
        assert row["value"] >= (row["copies"] - 1) / 10
        assert row["once"] == pytest.approx(row["once chance"], abs=0.12)
        assert row["chance"] == pytest.approx(10 / (row["n"] - 1))
    assert rows[-1]["value"] > 0.9
    coarse, *_, fine = traps.ties(200, chapters.UNITS, chapters.LEVELS, seed=0)
    assert coarse["value"] > 3 * coarse["chance"] and coarse["z"] > 5
    assert coarse["apart"] < 2 * coarse["chance"] and fine["value"] < 2 * fine["chance"]


def test_calibrated_scores_of_unrelated_data_are_near_zero() -> None:
    x, y = np.random.default_rng(0).standard_normal((2, 120, 50))
    found = traps.against_chance(OF_REPRESENTATIONS, x, y, 19, seed=0)
    assert found["cka, biased"]["value"] > 0.2
    for row in found.values():
        assert row["low"] <= row["high"] and 0 <= row["calibrated"] < 0.2


# --- the table --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """Networks do not matter here: numbers that are alike stand for them."""
    random = np.random.default_rng(0)
    a = np.maximum(random.standard_normal((80, 12)) * np.linspace(0.5, 2, 12) + 0.3, 0)
    seed, untrained, noise = (
        a @ np.linalg.qr(random.standard_normal((12, 12)))[0] + 0.3 * random.standard_normal(a.shape),
        a @ random.standard_normal((12, 12)) + 2 * random.standard_normal(a.shape),
        random.standard_normal(a.shape),
    )
    others = {**example.copies(a, 0), "seed": seed, "untrained": untrained, "random": noise}
    made = example.Example(a, others, (), (), "features", np.zeros((0, 3, 8, 8)))
    return compared(OF_REPRESENTATIONS, made, relabellings=5, seed=0)


def test_cells_hold_what_the_measure_says(rows: list[Row]) -> None:
    assert [row.measure.name for row in rows] == [one.name for one in OF_REPRESENTATIONS]
    for row in rows:
        assert row.cells["random"].share == pytest.approx(0) or row.cells["random"].refusal
        assert list(row.cells) == list(example.LABELS)
        assert row.broken == []
        if row.measure.self_value is not None and not row.cells["random"].refusal:
            assert row.own == pytest.approx(row.measure.self_value, abs=1e-5)


def test_what_a_measure_declares_is_seen_on_the_copies(rows: list[Row]) -> None:
    tried = 0
    for row in rows:
        refusals = {cell.refusal for cell in row.cells.values()} - {""}
        # an optional library may be missing; the copies themselves are no data that a measure may refuse
        assert all("pip install" in why for why in refusals), refusals
        if not refusals:
            assert row.measure.invariances <= set(row.kept)
            tried += 1
    assert tried


def test_an_invariance_that_does_not_hold_is_seen(rows: list[Row]) -> None:
    from dataclasses import replace

    row = next(row for row in rows if row.measure.name == "procrustes")
    boasting = replace(row, measure=replace(row.measure, invariances=invariant_to("orthogonal", "isotropic_scaling")))
    assert boasting.broken == ["isotropic_scaling"]


def test_a_measure_that_refuses_leaves_a_reason() -> None:
    x = np.ones((8, 2))
    value, reason = value_of(REGISTRY["procrustes"], x, x[1:])
    assert math.isnan(value) and reason == "[procrustes] expected y with 8 rows like x, got 7"


def test_every_measure_answers_one_question(rows: list[Row]) -> None:
    def measure(name: str, *invariances: str, takes: str = "representations", family: str = "f") -> Measure:
        return Measure(name, family, "distance", 0, 1, True, invariant_to(*invariances), "", "", "", takes=takes)

    invented = [
        measure("linear", "affine"), measure("angles", "orthogonal", "isotropic_scaling"),
        measure("sizes", "orthogonal"), measure("units", "permutation"), measure("axes"),
        measure("answers", takes="outputs"),
        measure("lists", "orthogonal", "isotropic_scaling", family="neighbours"),
    ]  # fmt: skip
    found = {one.names: one.asked for one in questions(invented, [])}
    assert len(found) == len(invented)
    assert "linear map" in found[("linear",)] and "size included" in found[("sizes",)]
    assert "single units" in found[("units",)] and "answers" in found[("answers",)]
    asked = questions(MEASURES, rows)
    assert sorted(name for one in asked for name in one.names) == sorted(REGISTRY)


def test_copies_are_what_they_are_called() -> None:
    a = np.random.default_rng(1).standard_normal((50, 6)) + 1
    made = example.copies(a, 0)
    assert tuple(made) == INVARIANCES
    assert sorted(map(tuple, made["permutation"].T)) == sorted(map(tuple, a.T))
    np.testing.assert_allclose(made["orthogonal"] @ made["orthogonal"].T, a @ a.T, atol=1e-12)
    np.testing.assert_array_equal(made["isotropic_scaling"], 3 * a)
    np.testing.assert_allclose(np.ptp(made["translation"] - a, axis=0), 0, atol=1e-12)
    linear = np.linalg.lstsq(a, made["invertible_linear"], rcond=None)[0]
    np.testing.assert_allclose(a @ linear, made["invertible_linear"], atol=1e-10)
    assert np.linalg.cond(linear) == pytest.approx(25)
    np.testing.assert_allclose(np.ptp(made["affine"] - made["invertible_linear"], axis=0), 0, atol=1e-10)


# --- drawings and a browser -------------------------------------------------------------------------------------------


def test_a_drawing_says_its_numbers_and_skips_what_is_missing() -> None:
    drawn = lines("t", "Title", "width", [1, 10], [Line("one", [0.5, math.nan]), Line("two <b>", [0.1, 0.2])])
    assert "one: 0.500 at 1, – at 10; two &lt;b&gt;: 0.100 at 1, 0.200 at 10." in drawn.panel.svg
    assert [label for _, _, label in drawn.legend] == ["one", "two <b>"]
    assert len({(mark, color) for mark, color, _ in drawn.legend}) == 2


@pytest.mark.page
@needs_chromium
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_in_a_browser(page: str, tmp_path: Path, theme: str) -> None:
    opened = page.replace("<details>", "<details open>")
    (tmp_path / "page.html").write_text(opened.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    (tmp_path / "frames.html").write_text(FRAMES, encoding="utf-8")
    document, console = browse(
        tmp_path, "frames.html", f"--blink-settings=preferredColorScheme={int(theme == 'light')}"
    )
    assert console == []
    found = re.search(r"<pre>(.*?)</pre>", document, flags=re.S)
    assert found is not None
    views = json.loads(html.unescape(found.group(1)))
    assert sorted(view["width"] for view in views) == [375, 1280]
    for view in views:
        assert view["page"] <= view["width"] and view["wide"] == [], "something is wider than the window"
        assert len(view["figures"]) == page.count('<svg class="drawn"')
        assert all(width >= 150 and height >= 60 for width, height in view["figures"])
        assert all(natural > 0 and 0 < shown <= view["width"] for natural, shown in view["pictures"])
        assert view["smallest"] >= 8, "the text in a figure is too small to read"
        assert view["contrast"][0][0] >= 4.5, view["contrast"]
        assert view["paper"] == {"light": "rgb(251, 250, 247)", "dark": "rgb(20, 21, 26)"}[theme]


def test_the_public_functions_are_what_is_compared() -> None:
    for one in OF_REPRESENTATIONS:
        assert callable(getattr(repsim, one.name))
