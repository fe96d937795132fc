"""The page: made from invented records, read as a document and looked at in a headless Chromium."""

# ruff: noqa: E501, RUF001 (whole sentences and the browser's probe stay on one line)
from __future__ import annotations

import copy
import html
import io
import itertools
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest

from repsim import figures, findings, report, statistics
from repsim.records import RunDirectory

MEASURES = {  # value without likeness, what likeness adds, noise
    "cka": (0.86, 0.05, 0.004), "cka_rbf": (0.83, 0.05, 0.006), "mutual_knn": (0.39, 0.07, 0.012), "cknna": (0.33, 0.05, 0.012),
}  # fmt: skip
LAYERS = ["stem", "block1", "block2", "features"]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


# --- invented runs ----------------------------------------------------------------------------------------------------


def invented_pair(study: str, seed: int, role: str, likeness: float, rng: np.random.Generator, **params: float) -> dict:
    """One pair record; `likeness` from 0 to 1 moves every measure and the transfer."""
    spread, similarity = rng.normal(0, 0.5), {}
    for measure, (base, gain, noise) in MEASURES.items():
        value = 0.62 * base if role == "floor" else base + gain * likeness + noise * (spread + rng.normal())
        near = 1 - 0.35 * np.abs(np.subtract.outer(np.arange(4), np.arange(4))) ** 0.8
        matrix = np.clip(value * near + rng.normal(0, 0.01, (4, 4)), -1, 1)
        matrix[-1, -1] = value
        similarity[measure] = {
            "values": matrix.tolist(), "null_mean": np.zeros((4, 4)).tolist(), "null_sd": np.full((4, 4), 0.01).tolist(),
            "z": (matrix / 0.01).tolist(), "p": np.full((4, 4), 0.005).tolist(),
            "last": float(value), "last_null": float(rng.normal(0.002, 0.002)),
        }  # fmt: skip
    curves, score = {}, []
    for direction in ("first_to_second", "second_to_first") if role != "floor" else ():
        curves[direction] = []
        for k, step in enumerate((1, 2, 4, 8, 16)):
            joint_n = int(rng.integers(360, 400))
            rate = np.clip(
                (0.02, 0.05, 0.14, 0.36, 0.7)[k] * (1 + 0.35 * likeness + 0.1 * spread) + rng.normal(0, 0.01), 0, 1
            )
            control = (0.0, 0.004, 0.008, 0.02, 0.06)[k]
            point = {
                "joint_n": joint_n,
                "joint_success": int(rate * joint_n),
                "control_success": int(control * joint_n),
            }
            curves[direction].append({"epsilon": step / 255, "inputs": 500, **point, "margin_drop": 2.0 * rate})
            score.append(rate - control)
    result = {
        "layers_first": LAYERS, "layers_second": LAYERS, "similarity": similarity,
        "accuracy_first": [0.95 + 0.02 * rng.random()], "accuracy_second": [0.95 + 0.02 * rng.random()],
        "learned_first": role != "floor", "learned_second": role != "floor",
        "realised_overlap": params.get("alpha", 1.0),
        "transfer": curves or None, "transfer_auc": float(np.mean(score)) if score else None,
    }  # fmt: skip
    return {
        "key": f"{int(rng.integers(2**60)):016x}", "study": study, "kind": "pair",
        "params": {"seed": seed, "role": role, **params, "first": "a" * 16, "second": "b" * 16},
        "result": result, "seconds": 1.5, "finished": "2026-11-20T12:00:00+00:00",
    }  # fmt: skip


def invented_run(seeds: int = 4) -> dict:
    """Everything that `render` takes, for the three studies."""
    from PIL import Image

    rng, records = np.random.default_rng([7]), []
    for seed in range(seeds):
        for study in findings.TITLES:
            records.append(invented_pair(study, seed, "floor", 0, rng))
            records.append(invented_pair(study, seed, "ceiling", 1.15, rng))
        records += [invented_pair("data_overlap", seed, "pair", alpha, rng, alpha=alpha) for alpha in (0.0, 0.5, 1.0)]
        records += [
            invented_pair("task_overlap", seed, "pair", 3.5 * shared - 8, rng, shared=shared) for shared in (0, 1, 3)
        ]
        for alpha, shared in itertools.product((0.0, 0.5, 1.0), (0, 1)):
            likeness = alpha * (0.3 + shared) + 2 * shared - 2
            records.append(
                invented_pair("data_task_factorial", seed, "pair", likeness, rng, alpha=alpha, shared=shared)
            )
    for k in range(20):
        result = {"learned": True, "reason": "", "curves": {"loss": [2.0, 0.3]}}
        records.append(
            {"key": f"{k:016x}", "study": "data_overlap", "kind": "model", "params": {"seed": k}, "result": result}
        )
    pictures = {}
    for study in findings.TITLES:
        page = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (64, 400, 3), dtype=np.uint8)).save(page, "PNG")
        pictures[f"{study}_inputs.png"] = page.getvalue()
    manifest = {
        "studies": list(findings.TITLES), "preset": "quick", "created": "2026-11-20T12:00:00+00:00",
        "workers": 2, "threads": 1, "command": "python -m repsim.experiments",
        "configs": {"data_overlap": {"alpha": [0, 0.5, 1], "seeds": 4, "model": "cnn", "epochs": 10}},
        "environment": {"python": "3.11.2", "device": "cpu", "cpu": "A Processor 3000", "commit": "0" * 40, "dirty": False,
                        "versions": {"torch": "2.13.0", "numpy": "2.3.1"}},
    }  # fmt: skip
    return {
        "manifest": manifest,
        "records": records,
        "effects": invented_effects(records),
        "failures": [],
        "artifacts": pictures,
    }


def invented_effects(records: list[dict]) -> list[dict]:
    made = []
    for name in findings.TITLES:
        study = findings.study_of(name, records)
        seeds = [r["params"]["seed"] for r in study.pairs]
        columns = {m: [findings.last(r, m) for r in study.pairs] for m in (*study.measures, "transfer_auc")}
        levels = {f: [r["params"][f] for r in study.pairs] for f in dict.fromkeys((study.along, study.hue))}
        strata = np.stack(list(levels.values()), axis=1)

        def add(outcome: str, factor: str, found: statistics.Estimate, unit: str = "", name: str = name) -> None:
            made.append(statistics.effect(name, outcome, factor, found, unit=unit))

        for outcome, y in columns.items():
            for factor, x in levels.items():
                other = next((v for f, v in levels.items() if f != factor), None)
                found = statistics.slope(x, y, seeds, stratum=other, resamples=300)
                add(outcome, factor, found, "per unit of overlap" if factor == "alpha" else "per shared attribute")
            if study.factorial:
                found = statistics.interaction(*levels.values(), y, seeds, resamples=300)
                add(outcome, "interaction", found, "per unit of both")
        for m in study.measures:
            x, y = columns[m], columns["transfer_auc"]
            add("transfer_auc", f"correlation:{m}", statistics.correlation(x, y, seeds, resamples=300))
            add("transfer_auc", f"within:{m}", statistics.within(x, y, strata, seeds, resamples=300))
    return made


@pytest.fixture(scope="module")
def invented() -> dict:
    return invented_run()


@pytest.fixture(scope="module")
def page(invented: dict) -> str:
    return report.render(**invented)


# --- the document -----------------------------------------------------------------------------------------------------


def one_study(run: dict, name: str = "data_overlap") -> dict:
    """A copy of the run with one study alone, free to be spoilt."""
    run = copy.deepcopy({**run, "records": [r for r in run["records"] if r["study"] == name]})
    run["effects"] = [row for row in run["effects"] if row["study"] == name]
    run["manifest"]["studies"] = [name]
    return run


def text_of(page: str) -> str:
    """What a reader sees: no styles, no tags, every run of white space one space."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", re.sub(r"<style.*?</style>", " ", page, flags=re.S))).split())


def test_the_page_refers_to_nothing_outside_and_runs_nothing(page: str) -> None:
    assert "<script" not in page and "@import" not in page
    sources = re.findall(r"""(?:src|href)=["']([^"']*)""", page) + re.findall(r"url\(([^)]*)\)", page)
    assert sources and all(s.startswith(("#", "data:image/png;base64,", "data:,")) for s in sources)


def test_every_figure_is_there_described_and_follows_the_theme(page: str) -> None:
    drawings = re.findall(r'<svg class="drawn".*?</svg>', page, flags=re.S)
    # per study: 4 measures, transfer score, 4 scatters, 2 forests; curves 1, 1, 3; heatmaps 5, 5, 8
    assert len(drawings) == 3 * 11 + 5 + 18
    for svg in drawings:
        assert 'role="img"' in svg and re.search(r"<desc[^>]*>[^<]{20,}</desc>", svg) and "<text" in svg
        assert not re.search(r"#f[a-d]00[0-9a-f]{2}", svg), "a placeholder colour was left"
        assert not re.search(r"(?:fill|stroke): #(?!fff\b)", svg), "a fixed colour does not follow the theme"
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', page)) <= set(ids)
    used, defined = set(re.findall(r"var\((--[a-z0-9-]+)", page)), set(re.findall(r"(--[a-z0-9-]+):", page))
    assert used <= defined | {"--c", "--tone"}


def test_a_scale_ends_at_one_where_rounding_passes_it() -> None:
    grid = {"values": [[1 + 1e-9, 0.3 - 1e-9]], "null": None}
    pair = {"params": {"alpha": 0.0}, "result": {"layers_first": ["a"], "layers_second": ["a", "b"],
                                                  "similarity": {"cka": grid}}}  # fmt: skip
    _, scale = figures.heatmaps(findings.Study("s", (pair,), (), (), (), "alpha", "alpha", ("cka",)))
    assert scale == (0.3, 1.0)


def test_tables_and_pictures_speak(page: str) -> None:
    assert page.count("<table") == page.count("<caption>") >= 5
    assert len(re.findall(r'<img alt="Contact sheet: [^"]+"', page)) == page.count("<img") == 3


def test_the_same_records_make_the_same_page_in_any_order(invented: dict) -> None:
    run = one_study(invented)
    page = report.render(**run)
    run["records"].reverse()
    assert report.render(**run) == page


def test_the_manifest_is_shown_whole(page: str) -> None:
    seen = text_of(page)
    for fact in (
        "configs · data_overlap · epochs 10",
        "environment · versions · torch 2.13.0",
        "environment · device cpu",
        "0" * 40,
    ):
        assert fact in seen


@pytest.mark.parametrize(
    ("row", "grade", "said"),
    [
        ({}, "clear", "CKA rises with data overlap, by 0.026 per unit of overlap (95 % interval 0.014 to 0.038; p = .002, after Holm .006; 4 seeds, 12 pairs)."),
        ({"estimate": -0.026, "low": -0.038, "high": -0.014}, "clear", "CKA falls with data overlap, by 0.026"),
        ({"low": -0.004}, "unclear", "No clear effect of data overlap on CKA: +0.026 per unit of overlap; the 95 % interval, −0.004 to 0.038, includes 0 (p = .002"),
        ({"p": 0.03, "p_holm": 0.09}, "likely", "p = .030, after Holm .090; 4 seeds, 12 pairs), which is less than sure."),
        ({"low": None, "high": None}, "unknown", "CKA, too little data to judge: +0.026 per unit of overlap (no interval;"),
        ({"estimate": None}, "unknown", "CKA: not estimated."),
        ({"factor": "interaction", "study": "data_task_factorial"}, "clear", "CKA: shared data and shared tasks reinforce each other, +0.026"),
        ({"factor": "interaction", "study": "gpt_data_corpus_factorial"}, "clear", "CKA: shared text and shared corpora reinforce each other, +0.026"),
        ({"factor": "interaction", "study": "jailbreak_transfer"}, "clear", "CKA: shared pre-training and shared fine-tuning examples reinforce each other, +0.026"),
        ({"factor": "within:mutual_knn", "outcome": "transfer_auc"}, "clear", "Among pairs of the same overlap, those more alike by mutual kNN pass more attacks on, correlation 0.03"),
        ({"factor": "correlation:cka", "low": -1, "high": 1}, "unclear", "No clear link between CKA and transfer: correlation 0.03; the 95 % interval, −1.00 to 1.00, includes 0"),
        ({"p": 0.0002, "p_holm": 0.0002}, "clear", "p < .001; 4 seeds"),
    ],
)  # fmt: skip
def test_sentences_say_what_was_found_and_how_sure(row: dict, grade: str, said: str) -> None:
    effect = {"study": "data_overlap", "outcome": "cka", "factor": "alpha", "estimate": 0.026, "low": 0.014, "high": 0.038,
              "p": 0.002, "p_holm": 0.006, "n_seeds": 4, "n_pairs": 12, "method": "", "unit": "per unit of overlap"}  # fmt: skip
    found = findings.sentence({**effect, **row})
    assert found[0] == grade and said in found[1].replace("\u00a0", " ")


def test_the_first_answer_of_every_study_is_at_the_top(invented: dict, page: str) -> None:
    seen = text_of(page)
    assert (
        seen.index("How alike do networks become")
        < seen.index("CKA rises with data overlap, by")
        < seen.index("How alike they become")
    )
    assert "shared data and shared tasks reinforce each other" in seen and "after Holm" in seen


def test_measures_that_disagree_are_flagged(invented: dict) -> None:
    run = one_study(invented)
    for row in run["effects"]:
        if (row["study"], row["outcome"], row["factor"]) == ("data_overlap", "cknna", "alpha"):
            row.update(estimate=-0.05, low=-0.06, high=-0.04, p=0.001)
    assert (
        "The measures disagree: with more data overlap, CKA and CKA (RBF) and Mutual kNN rise while CKNNA falls."
        in text_of(report.render(**run))
    )


def test_a_training_that_failed_is_flagged_and_in_no_mean(invented: dict) -> None:
    run = one_study(invented)
    bad = next(r for r in run["records"] if r["study"] == "data_overlap" and r["params"].get("alpha") == 0.0)
    bad["result"].update(learned_first=False, accuracy_first=[0.1])
    bad["result"]["similarity"]["cka"]["last"] = 123.0
    bad["params"]["first"] = f"{3:016x}"
    model = next(r for r in run["records"] if r["key"] == f"{3:016x}")
    model["result"].update(learned=False, reason="accuracy 0.10 < 0.50")
    seen = text_of(report.render(**run))
    assert "One pair has a training that failed to learn and is in no figure." in seen
    assert (
        "Model 0000000000000003: accuracy 0.10 < 0.50" in seen and "123.00" not in seen and seen.count("4 0.000") == 0
    )


def test_failed_and_missing_cells_are_said(invented: dict) -> None:
    run = one_study(invented)
    run["failures"] = [{"key": "f" * 16, "study": "data_overlap", "kind": "pair", "params": {"seed": 2}, "skipped": False,
                        "reason": "RuntimeError: out of memory", "traceback": "Traceback\n  hidden\nRuntimeError: out of memory"}]  # fmt: skip
    seen = text_of(report.render(**run, cells=[{}] * (len(run["records"]) + 4)))
    total = len(run["records"])
    assert (
        f"This page is partial. {total} of {total + 4} cells are finished, 1 failed or was skipped , 3 are still to run."
        in seen
    )
    assert (
        "f" * 16 in seen
        and "data_overlap pair" in seen
        and "RuntimeError: out of memory" in seen
        and "hidden" not in seen
    )


def partial(run: dict, name: str) -> None:
    """Take something away, as a killed or failing run would."""
    pairs = [r for r in run["records"] if r["kind"] == "pair"]
    if name == "nothing":
        run.update(manifest={}, records=[], effects=[], artifacts={})
    elif name == "one pair":
        run.update(records=pairs[8:9], effects=[])
    elif name == "no transfer":
        for record in pairs:
            record["result"].pop("transfer"), record["result"].pop("transfer_auc")
    elif name == "no similarity":
        for record in pairs:
            record["result"].pop("similarity")
    elif name == "empty results":
        for record in pairs:
            record["result"] = {}
    elif name == "nulls":
        for record in pairs:
            for found in record["result"]["similarity"].values():
                found.update(last=None, last_null=None, values=[[None]])
            record["result"]["transfer_auc"] = None
    elif name == "no floor or ceiling":
        run["records"] = [r for r in pairs if r["params"]["role"] == "pair"]
    elif name == "one seed":
        run["records"] = [r for r in pairs if r["params"]["seed"] == 0]
        run["effects"] = invented_effects_of_one_seed(run["records"])
    elif name == "damaged picture":
        run["artifacts"] = {"task_overlap_inputs.png": b"half a picture", "else.png": b""}


def invented_effects_of_one_seed(records: list[dict]) -> list[dict]:
    study = findings.study_of("data_overlap", records)
    found = statistics.slope(
        [r["params"]["alpha"] for r in study.pairs], findings.values_of(study.pairs, "cka"), [0, 0, 0]
    )
    return [statistics.effect("data_overlap", "cka", "alpha", found, unit="")]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nothing", "Nothing to show yet."),
        ("one pair", "No effects were estimated yet: they are written when the whole sweep ends."),
        ("no transfer", "No transfer score could be computed."),
        ("no similarity", "How far an attack carries"),
        ("empty results", "No transfer score could be computed."),
        ("nulls", "No transfer score could be computed."),
        ("no floor or ceiling", "No ceiling pairs were measured. No floor pairs were measured."),
        ("one seed", "too little data to judge"),
        ("damaged picture", "The picture task_overlap_inputs.png is damaged."),
    ],
)
def test_a_partial_run_still_gives_a_page(invented: dict, name: str, said: str) -> None:
    run = one_study(invented)
    partial(run, name)
    assert said in text_of(report.render(**run))


def test_untrusted_text_is_escaped(invented: dict) -> None:
    run, evil = one_study(invented), "<script>alert('$x$')</script>\"&"
    for record in run["records"]:
        if record["kind"] == "pair":
            record["result"]["layers_first"] = [evil, "$\\frac{", "<b>", "&"]
            record["result"]["similarity"][evil] = record["result"]["similarity"].pop("cknna")
        record["study"] = evil
    run["effects"] = [
        {**row, "study": evil, "method": evil, "unit": evil, "outcome": evil} for row in run["effects"][:3]
    ]
    run["manifest"] = {"studies": [evil], evil: evil, "preset": evil}
    run["artifacts"] = {f"{evil}.png": b"x"}
    run["failures"] = [{"key": evil, "study": evil, "reason": evil, "params": {evil: evil}}]
    page = report.render(**run)
    assert "<script" not in page and "<b>&" not in page and "&lt;script&gt;" in page


def test_write_report_reads_the_run_alone(invented: dict, tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", invented["manifest"])
    for record in invented["records"]:
        if record["study"] == "data_overlap":
            run.write_record(record["key"], record)
    run.write_effects([e for e in invented["effects"] if e["study"] == "data_overlap"])
    for name, picture in invented["artifacts"].items():
        run.artifact_path(name).write_bytes(picture)
    run.write_failure("e" * 16, "Traceback\nValueError: no", {"study": "data_overlap", "kind": "pair", "params": {}})
    path = report.write_report(RunDirectory.open(run.path))
    assert path == run.path / "report.html" and not list(run.path.glob(".*.tmp"))
    seen = text_of(path.read_text(encoding="utf-8"))
    assert "CKA rises with data overlap" in seen and "ValueError: no" in seen
    assert path.read_bytes() == report.write_report(run).read_bytes()


# --- in a browser -----------------------------------------------------------------------------------------------------

PROBE = """<script>addEventListener("load", () => {
  const rgb = c => (c.match(/[\\d.]+/g) || [0, 0, 0]).map(Number);
  const light = c => { const l = rgb(c).slice(0, 3).map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
                       return .2126 * l[0] + .7152 * l[1] + .0722 * l[2]; };
  const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + .05) / (y + .05); };
  const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (rgb(c)[3] !== 0) return c; } };
  const words = [...document.querySelectorAll("p, li, td, th, h1, h2, h3, h4, figcaption, caption, a, .badge, small, code")];
  const drawn = [...document.querySelectorAll(".panel")].filter(p => !p.parentElement.matches(".heatmap")).flatMap(p => [...p.querySelectorAll("svg text")]);
  const contrast = [...words.map(e => [ratio(getComputedStyle(e).color, behind(e)), e.textContent.slice(0, 40)]),
                    ...drawn.map(e => [ratio(getComputedStyle(e).fill, behind(e)), "svg: " + e.textContent])].sort((a, b) => a[0] - b[0]);
  const wide = [...document.querySelectorAll("body *")].filter(e => !e.closest("svg, .scroll, .skip, thead") && e.getBoundingClientRect().right > innerWidth + .5);
  parent.postMessage({ width: innerWidth, page: document.documentElement.scrollWidth, paper: getComputedStyle(document.body).backgroundColor,
    figures: [...document.querySelectorAll("svg.drawn")].map(s => { const b = s.getBoundingClientRect(); return [b.width, b.height]; }),
    pictures: [...document.images].map(i => [i.naturalWidth, i.width]), smallest: Math.min(...drawn.map(t => t.getBoundingClientRect().height)),
    wide: wide.map(e => e.tagName + "." + e.className).slice(0, 5), contrast: contrast.slice(0, 3) }, "*");
});</script>"""
FRAMES = """<!doctype html><link rel="icon" href="data:,"><pre></pre><iframe src="page.html" style="width:375px;height:800px;border:0"></iframe>
<iframe src="page.html" style="width:1280px;height:800px;border:0"></iframe><script>const seen = [];
addEventListener("message", e => { seen.push(e.data); document.querySelector("pre").textContent = JSON.stringify(seen); });</script>"""
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine (Debian: apt-get install chromium)"
)


def browse(folder: Path, name: str, *flags: str) -> tuple[str, list[str]]:
    """The document after its scripts ran, and every line that reached the console."""
    with tempfile.TemporaryDirectory() as profile:
        done = subprocess.run(
            [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync", f"--user-data-dir={profile}",
             "--enable-logging=stderr", "--v=0", "--virtual-time-budget=8000", *flags, "--dump-dom", (folder / name).as_uri()],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@needs_chromium
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_in_a_browser(page: str, tmp_path: Path, theme: str) -> None:
    (tmp_path / "page.html").write_text(page.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    (tmp_path / "frames.html").write_text(FRAMES, encoding="utf-8")
    document, console = browse(
        tmp_path, "frames.html", f"--blink-settings=preferredColorScheme={int(theme == 'light')}"
    )
    assert console == []
    views = json.loads(html.unescape(re.search(r"<pre>(.*?)</pre>", document, flags=re.S).group(1)))
    assert sorted(view["width"] for view in views) == [375, 1280]
    for view in views:
        assert view["page"] <= view["width"] and view["wide"] == [], "something is wider than the window"
        assert len(view["figures"]) == page.count('<svg class="drawn"')
        assert all(width >= 150 and height >= 60 for width, height in view["figures"])
        assert all(natural > 0 and 0 < shown <= view["width"] for natural, shown in view["pictures"])
        assert view["smallest"] >= 8, "the text in a figure is too small to read"
        assert view["contrast"][0][0] >= 4.5, view["contrast"]
        assert view["paper"] == {"light": "rgb(251, 250, 247)", "dark": "rgb(20, 21, 26)"}[theme]


@needs_chromium
def test_the_console_is_really_watched(tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_text("<!doctype html><script>missing()</script>")
    _, console = browse(tmp_path, "bad.html")
    assert any("missing is not defined" in line for line in console)
