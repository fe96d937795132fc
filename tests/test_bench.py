"""bench/: the timer with a clock that the test turns, and the whole command at a tiny size."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # bench is run from a checkout; it is not installed

import oracles  # noqa: E402

from bench import (  # noqa: E402
    contest,
    growth,
    inputs,
    kernel_sums,
    linear_cka,
    nearest,
    page_cache,
    profile,
    reach,
    studies,
    tables,
    timer,
)
from bench.contest import Case, Contender, Op, Outcome, Terms  # noqa: E402
from repsim.records import RunDirectory, RunError  # noqa: E402

QUIET = Terms(repeats=1, pause=0.0, say=lambda line: None)


def bench(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "bench", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=ROOT, env=environment, check=False)


# ---------------------------------------------------------------------------------------------- timer


class Clock:
    """Time passes only where the test says so."""

    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time

    def passes(self, seconds: float) -> None:
        self.time += seconds


def test_the_flush_is_before_the_time_and_not_in_it() -> None:
    clock, seen = Clock(), []

    def flush() -> None:
        seen.append("flush")
        clock.passes(100.0)

    def job() -> None:
        seen.append("job")
        clock.passes(2.5)

    assert timer.seconds(job, flush, clock) == 2.5
    assert seen == ["flush", "job"]


def test_jobs_take_turns_with_a_pause_before_each() -> None:
    seen: list[str] = []
    durations = {"ours": iter([1.0, 2.0, 9.0]), "theirs": iter([4.0, 5.0])}

    def job(name: str):
        def run() -> float:
            seen.append(name)
            return next(durations[name])

        return run

    jobs, turns = {name: job(name) for name in durations}, {"ours": 3, "theirs": 2}
    times = timer.rounds(jobs, turns=turns, pause=0.25, sleep=lambda s: seen.append(f"rest {s}"))
    assert times == {"ours": [1.0, 2.0, 9.0], "theirs": [4.0, 5.0]}
    assert seen == ["rest 0.25", "ours", "rest 0.25", "theirs"] * 2 + ["rest 0.25", "ours"]
    outcome = Outcome(nearest.NEAREST.contenders[0], "1", tuple(times["ours"]))
    assert outcome.median == 2.0  # neither the mean nor the best


# ---------------------------------------------------------------------------------------------- contenders


def test_neighbours_of_duplicates_leave_out_the_row_itself() -> None:
    pytest.importorskip("faiss")
    x = np.repeat(np.eye(3, dtype=np.float32), 20, axis=0)  # more equals than the k + 1 that faiss returns
    found = nearest.with_faiss(x, np.array(10))
    assert found.shape == (60, 10)
    assert not (found == np.arange(60)[:, None]).any()
    assert (found // 20 == np.arange(60)[:, None] // 20).all()


def test_the_share_of_identical_neighbours_is_of_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "COMPARED_ROWS", 2)  # the last part has one row
    ours = np.array([[1, 2], [3, 4], [5, 6], [7, 8], [1, 9]])
    theirs = np.array([[2, 1], [3, 0], [5, 6], [0, 0], [9, 0]])
    assert nearest.NEAREST.agreement(ours, theirs) == "0.600000"  # in any order


def test_the_tiles_of_torch_have_edges(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(kernel_sums, "TORCH_TILE", 17)
    given = kernel_sums.KERNEL_SUMS.inputs(Case(60, 8), tmp_path)
    whole = kernel_sums.with_numpy(**given)
    for upper in (False, True):
        assert abs(kernel_sums.with_torch(**given, upper=upper) - whole) < 1e-5


def test_ckatorch_computes_the_same_quantity(tmp_path: Path) -> None:
    pytest.importorskip("ckatorch")
    given = kernel_sums.KERNEL_SUMS.inputs(Case(300, 8), tmp_path)
    x, y = given["x"], given["y"]
    # Its median is over all n^2 pairs with those of a row and itself, a little less than that over i < j.
    expected = oracles.cka_of_grams(
        oracles.rbf_gram(x, median_fraction=1.0), oracles.rbf_gram(y, median_fraction=1.0), "debiased"
    )
    assert abs(kernel_sums.with_ckatorch(**given) - expected) < 2e-3


@pytest.mark.parametrize(
    ("run", "tolerance"),
    [
        pytest.param(linear_cka.with_repsim, 1e-9, id="repsim"),
        pytest.param(linear_cka.with_numpy, 1e-9, id="numpy-float64"),
        pytest.param(functools.partial(linear_cka.with_torch, dtype="float64"), 1e-9, id="torch-float64"),
        pytest.param(functools.partial(linear_cka.with_torch, dtype="float32"), 1e-5, id="torch-float32"),
    ],
)
def test_linear_cka_of_chunks_far_from_the_origin(run, tolerance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_cka, "CHUNK", 64)  # the last chunk has eight rows
    x, y = (rows[:200] + np.float32(1000) for rows in inputs.related_rows(200, 12))
    y = y[:, :7]
    expected = oracles.cka(x, y, "debiased")
    assert abs(float(run(x, y)) - expected) < tolerance


# ---------------------------------------------------------------------------------------------- files


def test_files_hold_what_the_blocks_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = inputs.related_rows(100, 16)
    files = inputs.related_files(100, 16, tmp_path)
    for rows, file in zip(whole, files, strict=True):
        assert isinstance(file, np.memmap) and not file.flags.writeable
        np.testing.assert_array_equal(rows, file)
    monkeypatch.setattr(inputs, "FILE_ROWS", 32)
    x, y = inputs.related_files(100, 16, tmp_path)
    assert np.unique(np.concatenate([x, y]), axis=0).shape == (200, 16)  # every block, and none of them twice


def test_looking_at_dropped_pages_does_not_bring_them_in(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(os.urandom(2**22))
    page_cache.read([file])
    assert page_cache.cached_share([file]) == 1.0
    page_cache.drop([file])
    dropped = page_cache.cached_share([file])
    if dropped == 1.0:
        pytest.skip("the file system keeps its files in memory")
    assert dropped < 0.5
    assert page_cache.cached_share([file]) == dropped
    page_cache.read([file])
    assert page_cache.cached_share([file]) == 1.0


def kind_of_memory(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.array([isinstance(x, np.memmap), isinstance(y, np.memmap)])


def toy(*contenders: Contender, **fields: Any) -> Op:
    op = Op(
        name="toy",
        summary="",
        cases=(),
        flop=lambda case: 1e9,
        flop_formula="",
        inputs=lambda case, folder: {"x": np.ones((case.n, case.d), np.float32)},
        contenders=contenders,
        agreement=lambda ours, theirs: "",
        agreement_name="same",
    )
    return replace(op, **fields)


def test_only_files_are_mapped_and_they_are_raced_against_their_reading() -> None:
    op = toy(
        Contender("ours", "numpy", kind_of_memory),
        inputs=lambda case, folder: {"x": inputs.related_files(case.n, case.d, folder)[0], "y": np.ones((200, 1))},
        disk=lambda case: 1000,
        reader=Contender("reading", None, linear_cka.read_once),
    )
    outcomes = contest.compete(op, Case(200, 4), QUIET)
    assert [one.contender.name for one in outcomes] == ["ours", "reading"]
    assert [bool(one.times) for one in outcomes] == [True, True]
    assert outcomes[0].answer.tolist() == [True, False]
    text = tables.table(op, Case(200, 4), outcomes, 1e9, 1)
    header, _, ours, reading = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    assert dict(zip(header, reading, strict=True))["of reading"] == "100%"
    assert dict(zip(header, reading, strict=True))["GFLOP/s"] == tables.ABSENT
    assert float(dict(zip(header, ours, strict=True))["GFLOP/s"]) > 0
    assert re.search(r"(at most \d+%|an unknown share) of their pages was still in memory", text)


def test_files_that_the_disk_cannot_hold_are_not_written() -> None:
    outcomes = contest.compete(toy(Contender("ours", "numpy", killed), disk=lambda case: 2**60), Case(200, 2), QUIET)
    assert re.fullmatch(r"not run: needs 1152921504\.6 GB of disk, [\d.]+ GB are free", outcomes[0].note)


# ---------------------------------------------------------------------------------------------- who cannot run


def broken(x: np.ndarray) -> np.ndarray:
    if len(x) > contest.REHEARSAL_ROWS:
        raise RuntimeError("no more\nlines")
    return x


def killed(x: np.ndarray) -> np.ndarray:
    os._exit(3)


def first_column(x: np.ndarray) -> np.ndarray:
    return x[:, 0]


def test_whoever_cannot_run_is_named_and_the_others_go_on() -> None:
    op = toy(
        Contender("absent", "no-such-distribution-of-repsim", first_column),
        Contender("large", "numpy", first_column, memory=lambda case: 2**60),
        Contender("broken", "numpy", broken),
        Contender("killed", "numpy", killed),
        Contender("slow", "numpy", first_column, most_repeats=lambda case: 2),
        Contender("quick", "numpy", first_column),
    )
    outcomes = contest.compete(op, Case(200, 2), replace(QUIET, repeats=3))
    assert [len(one.times) for one in outcomes] == [0, 0, 0, 0, 2, 3]
    assert outcomes[0].note == "not installed"
    assert re.fullmatch(r"not run: needs 1152921504\.6 GB, [\d.]+ GB are available", outcomes[1].note)
    assert outcomes[2].note == "failed: RuntimeError: no more"
    assert outcomes[3].note == "killed: its process ended with status 3"
    text = tables.table(op, Case(200, 2), outcomes, 1e9, 3)
    assert re.search(r"^\| slow .* s \(2 calls\) \|", text, re.MULTILINE)
    assert re.search(r"^\| quick [^|]*\| [^(|]* s \|", text, re.MULTILINE)


# ---------------------------------------------------------------------------------------------- growth, k, profile


def outcome(*times: float, memory: int = 0, name: str = "ours") -> Outcome:
    return Outcome(Contender(name, None, first_column), "", times, memory)


def test_the_fitted_power_of_n() -> None:
    assert tables.exponent([(n, 3e-9 * n**2) for n in (100, 200, 400)]) == pytest.approx(2)
    assert tables.exponent([(100, 1.0), (200, 1.0), (400, 4.0)]) == pytest.approx(1.0)  # least squares, by hand
    assert tables.exponent([(100, 0.0), (200, 2.0), (400, 4.0)]) == pytest.approx(1.0)  # nothing has no logarithm
    assert np.isnan(tables.exponent([(100, 1.0)]))


def test_the_growth_table_states_both_powers() -> None:
    measured = [(Case(n, 4, 10), [outcome(1e-8 * n**2, memory=100 * n)]) for n in (1000, 2000)]
    text = tables.growth_table(toy(), measured, 1e9, 1)
    assert text.startswith("## growth of toy: d = 4, k = 10\n")
    assert "time grows as n^2.00, memory over the inputs as n^1.00" in text


def test_growth_halves_the_largest_size() -> None:
    assert [size.n for size in growth.sizes(Case(200_000, 64))] == [25_000, 50_000, 100_000, 200_000]
    assert [size.n for size in growth.sizes(Case(100, 64))] == [growth.LEAST, 50, 100]
    for op in growth.GROWTH:
        assert len(op.contenders) == 2


def test_more_neighbours_are_set_against_fewer() -> None:
    measured = [
        (Case(50, 4, 10), [outcome(2.0), outcome(name="idle")]),
        (Case(50, 4, 100), [outcome(3.0), outcome(1.0, name="idle")]),
        (Case(60, 4, 10), [outcome(2.0), outcome(2.0, name="idle")]),
    ]
    text = tables.more_neighbours(toy(), measured)
    assert text == "toy, n = 50, d = 4: time of k = 100 over that of k = 10: 1.50 (ours).\n"
    assert tables.more_neighbours(toy(), measured[1:]) == ""


def test_the_profile_names_the_native_operations_and_puts_them_back() -> None:
    from repsim import _core

    before = dict(vars(_core))
    x, y = inputs.related_rows(200, 8)
    spent = profile.spent_in(kernel_sums.with_repsim, 2, 0.0, x=x, y=y, sigma=np.array(3.0))
    assert dict(vars(_core)) == before
    names = spent["name"].tolist()
    assert names[0] == profile.WHOLE and names[-1] == profile.REST
    assert "kernel_sums" in names and "nearest" not in names
    assert (spent["calls"][:-1] > 0).all()
    assert (spent["seconds"][:-1] > 0).all() and spent["seconds"][1:-1].max() < spent["seconds"][0]


# ---------------------------------------------------------------------------------------------- the command


@pytest.mark.parametrize(
    ("parts", "rows"),  # by section
    [
        pytest.param(["nearest", "kernel_sums"], {"gemm": 2, "nearest": 5, "kernel_sums": 6}, id="pairs-of-inputs"),
        pytest.param(["linear_cka"], {"gemm_float64": 2, "linear_cka": 5}, id="float64-and-files"),
        pytest.param(
            ["growth", "profile"],
            {
                "gemm": 2,
                "growth of nearest": 4,
                "growth of kernel_sums": 4,
                "profile of nearest": 4,
                "profile of kernel_sums": 4,
            },
            id="other-tables",
        ),
    ],
)
def test_the_command_writes_its_tables(parts: list[str], rows: dict[str, int], tmp_path: Path) -> None:
    file = tmp_path / "results.md"
    sizes = ("--n", "400", "--d", "16", "--k", "5", "--repeats", "2", "--pause", "0")
    done = bench(*sizes, "--only", *parts, "--markdown", str(file))
    assert done.returncode == 0, done.stderr
    page = file.read_text()
    assert page in done.stdout
    for fact in ("processor", "CPUs", "load before the run", "commit", "date", "duration"):
        assert re.search(rf"^- {fact}: \S", page, re.MULTILINE)
    sections = dict(re.findall(r"^## ([\w ]+): [^\n]*$(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    assert list(sections) == list(rows)
    for name, section in sections.items():
        header, _, *lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
        cells = [dict(zip(header, line, strict=True)) for line in lines]
        if name.startswith("profile"):
            assert cells[0]["operation"] == profile.WHOLE and cells[0]["share"] == "100.0%"
            assert len(cells) >= rows[name]
            continue
        assert len(cells) == rows[name]
        timed = [cell for cell in cells if "range" in cell and cell["range"] != tables.ABSENT]
        # Peers may be missing, and bfloat16 where the CPU does not multiply it.
        assert len(timed) >= len(cells) - 4
        for position, cell in enumerate(timed):
            low, high = map(float, re.fullmatch(r"(\S+) to (\S+) s", cell["range"]).groups())
            assert 0 < low <= float(cell["median"].split(" s")[0]) <= high
            assert float(cell["peak memory growth"].removesuffix(" MB")) >= 0
            if (
                position
                and name in ("nearest", "kernel_sums", "linear_cka")
                and not cell["library"].startswith("reading")
            ):
                assert float(cell["over repsim"]) > 0
            if (agreement := cell[header[-1]].split(" (")[0]) != tables.ABSENT and not name.startswith("gemm"):
                own = "median sigma" in cell.get("library", "")  # of the distances of each side
                assert float(agreement) > 0.999 if "nearest" in name else float(agreement) < (1e-2 if own else 1e-4)
        if name.startswith("growth"):
            assert [cell["n"] for cell in cells] == ["50", "100", "200", "400"]
            assert re.search(r"^Fitted: time grows as n\^[-\d.]+, memory over the inputs as n\^", section, re.MULTILINE)
        if name.startswith("gemm"):
            assert "100%" in [value for cell in cells for value in cell.values()]


def test_sizes_replace_those_of_every_case() -> None:
    from bench.__main__ import _parse, cases_of

    def cases(*words: str) -> list[Case]:
        return cases_of(op, _parse([*words, "--only", "linear_cka"]))

    op = toy(cases=(Case(100, 8, 10), Case(200, 8, 10), Case(200, 16, 20)))
    assert cases() == list(op.cases)
    assert cases("--n", "50") == [Case(50, 8, 10), Case(50, 16, 20)]
    assert cases("--n", "50", "60", "--d", "4", "--k", "3") == [Case(50, 4, 3), Case(60, 4, 3)]
    op = toy(cases=(Case(100, 8),))
    assert cases("--k", "3") == [Case(100, 8)]  # an operation without neighbours


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["--n", "5"], "--n: expected a whole number of at least 32, got '5'", id="few-rows"),
        pytest.param(["--repeats", "0"], "--repeats: expected a whole number of at least 1, got '0'", id="no-repeats"),
        pytest.param(["--d", "x"], "--d: expected a whole number of at least 2, got 'x'", id="no-number"),
        pytest.param(["--k", "0"], "--k: expected a whole number of at least 1, got '0'", id="no-neighbours"),
        pytest.param(
            ["--n", "50"],
            "--k: expected fewer neighbours than rows, got k = 100, n = 50 (nearest)",
            id="few-rows-for-k",
        ),
        pytest.param(
            ["--n", "300", "--k", "40", "--only", "growth"],
            "--k: expected fewer neighbours than rows, got k = 40, n = 37 (growth)",
            id="few-rows-for-k-once-halved",
        ),
        pytest.param(["--pause", "-1"], "--pause: expected", id="negative-pause"),
        pytest.param(["--only", "cka"], "--only: invalid choice: 'cka'", id="unknown-operation"),
        pytest.param(["--markdown", "no/such/folder/x.md"], "--markdown: cannot write", id="no-folder"),
        pytest.param(["--fast"], "unrecognized arguments: --fast", id="unknown-flag"),
    ],
)
def test_a_bad_flag_is_one_clear_error(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    from bench.__main__ import main

    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------- reach


def test_reach_runs_both_widths_and_says_what_was_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = tmp_path / "reach.md"
    options = ["--last", "400", "--widths", "4", "8", "--folder", str(tmp_path), "--markdown", str(page)]
    assert reach.main(["--measures", "procrustes", "rsa, pearson", *options]) == 0
    captured = capsys.readouterr()
    assert page.read_text() == captured.out
    assert "grown 2/2: rsa, pearson" in captured.err and "wide 1/2: procrustes" in captured.err
    assert (
        len(re.findall(r"^\| procrustes \| 400 \|", captured.err, re.MULTILINE)) == 2
    )  # if it is stopped, that is left
    assert list(tmp_path.iterdir()) == [page]
    tables = re.findall(r"^## (.*)\n\n\| (.*) \|\n.*\n((?:\|.*\n)+)", captured.out, re.MULTILINE)
    assert [title for title, *_ in tables] == ["d = d' = 4", "d = d' = 8: those that ran at n = 400 above"]
    for (_, head, lines), columns in zip(tables, (reach.GROWN, reach.WIDE), strict=True):
        assert head.split(" | ") == list(columns)
        cells = [line.strip("| ").split(" | ") for line in lines.splitlines()]
        assert [row[:2] for row in cells] == [["procrustes", "400"], ["rsa, pearson", "400"]]
        assert all(float(row[2]) > 0 for row in cells)
    for fact in ("processor", "CPUs", "load before the run", "load after the run", "commit", "date"):
        assert re.search(rf"^- {fact}: \S", captured.out, re.MULTILINE)


def test_reach_of_a_measure_that_refuses_says_why(tmp_path: Path) -> None:
    for side in "xy":
        np.save(tmp_path / f"{side}.npy", np.ones((40, 4), np.float32))
    runs, end = reach._grow("cca_mean", 8.0, 40, tmp_path)
    assert runs == []
    assert end.startswith("ValueError: [cca_mean] expected x")


def test_reach_grows_until_the_time_is_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def called(name: str, n: int, most: float, folder: Path) -> tuple[reach.Run | None, str]:
        held = n * (100_000 if name == "large" else 1000)
        return (reach.Run(n, n / 1e5, held), "") if n < 2e6 else (None, f"more than {most:.0f} s")

    monkeypatch.setattr(reach, "_run", called)
    runs, end = reach._grow("some", 8.0, 10**6, tmp_path)
    assert [run.n for run in runs] == [1000, 8000, 64_000, 128_000, 256_000, 512_000, 1_000_000]
    assert end == "time"
    assert reach._grow("some", 20.0, 10**6, tmp_path)[1] == "all inputs"
    assert reach._grow("some", 100.0, 10**7, tmp_path)[1] == "more than 4000 s"
    assert reach._grow("large", 100.0, 10**6, tmp_path)[1] == "memory"
    assert reach._grow("some", 1.0, 50, tmp_path) == ([reach.Run(50, 5e-4, 50_000)], "all inputs")


def test_reach_carries_on_the_power_that_fits() -> None:
    runs = [reach.Run(n, 1e-6 * n**1.5, int(8 * n * 1000)) for n in (16_000, 32_000, 64_000)]
    row = reach._row("some", runs, "time")
    assert row[:2] == ("some", "64,000")
    assert float(row[5]) == pytest.approx((600 / 1e-6) ** (1 / 1.5), rel=0.05)
    assert float(row[6]) == pytest.approx(1e6, rel=0.05)
    assert reach._declared("rsa, pearson") == 2
    assert reach._declared("mutual_knn") == 2
    assert reach._declared("procrustes") == 1
    flat = [reach.Run(n, 1.0, 0) for n in (1000, 2000, 4000)]  # what a call costs however few the inputs
    assert reach._row("procrustes", flat, "all inputs")[4:6] == ("0.00", "2.4e+06")
    assert reach._row("procrustes", flat, "ValueError: no more")[4:6] == ("0.00", "-")
    assert reach._row("none", [], "refused")[1:] == ("-", "-", "-", "-", "-", "-", "refused")


def test_the_table_of_a_study_says_what_its_run_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = {"cpu": "a processor", "cpus": 2, "versions": {"torch": "2.0"}, "commit": "0123456789", "dirty": False}
    begun = (datetime.now(timezone.utc) - timedelta(minutes=30)).isoformat()
    run = RunDirectory.create(
        tmp_path / "run",
        {"studies": ["toy"], "preset": "quick", "workers": 1, "created": begun, "environment": where},
    )
    with run.lock():
        for key, kind in (("a", "model"), ("b", "model"), ("c", "pair")):
            run.write_record(key, {"study": "toy", "kind": kind, "params": {}, "result": {}, "seconds": 1.0})
    row = {"study": "toy", "outcome": "cka", "factor": "alpha", "unit": "from none to all", "estimate": 0.25,
           "low": 0.125, "high": 0.375, "p": 0.01, "p_holm": 0.02, "n_seeds": 4, "n_pairs": 12}  # fmt: skip
    effects = [row, {**row, "outcome": "CKA of words"}, {**row, "factor": "same overlap:cka"}, {**row, "study": "b"},
               {**row, "outcome": "mutual_knn", "estimate": None, "low": None, "high": None, "p": None, "p_holm": None},
               {**row, "outcome": "transfer_auc", "saturated": True}]  # fmt: skip
    (tmp_path / "run" / "effects.json").write_text(json.dumps(effects))
    assert studies.main([str(tmp_path / "run"), "--note", "Alone.", "--markdown", str(tmp_path / "page.md")]) == 0
    page = (tmp_path / "page.md").read_text()
    assert page.startswith("# What the studies found\n\nAlone.\n\n## toy")
    assert page in capsys.readouterr().out
    assert "## toy, preset quick" in page
    assert "2 trainings, 1 pairs; 30.0 minutes on 1 of 2 cores (a processor), torch 2.0, commit 0123456" in page
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")][2:]
    assert rows == [
        ["| CKA", "alpha (from none to all)", "0.250", "0.125 to 0.375", ".020", "4", "clear |"],
        ["| Mutual kNN", "alpha (from none to all)", "–", "–", "–", "4", "unknown |"],  # noqa: RUF001
        ["| Attack transfer", "alpha (from none to all)", "0.250", "0.125 to 0.375", ".020", "4", "saturated |"],
    ]


def test_the_table_of_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no run"):
        studies.main([str(tmp_path)])
