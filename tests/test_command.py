"""experiments/__main__.py and command.py: every command through its real words, every user error as one line."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
import types
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import toy_study

from repsim.experiments import STUDIES, command, load
from repsim.experiments.__main__ import main
from repsim.experiments.command import configurations, machine_share, parse
from repsim.records import RunDirectory, RunError

ROOT = Path(__file__).parents[1]
# The page is another module's matter: here it is one line. LAUNCHER stands for `python -m repsim.experiments`.
STAND_IN = """
import signal, sys, types
def write_report(run):
    path = run.path / "report.html"
    path.write_text(f"{len(run.records())} records")
    return path
sys.modules["repsim.report"] = types.ModuleType("repsim.report")
sys.modules["repsim.report"].write_report = write_report
"""
LAUNCHER = (
    STAND_IN
    + """
from repsim.experiments import STUDIES
from repsim.experiments.__main__ import main
signal.signal(signal.SIGINT, signal.default_int_handler)
STUDIES.clear()
STUDIES["toy"] = "toy_study"
sys.exit(main(sys.argv[1:]))
"""
)


@pytest.fixture(autouse=True)
def only_the_toy(monkeypatch, tmp_path):
    for name in list(STUDIES):
        monkeypatch.delitem(STUDIES, name)
    monkeypatch.setitem(STUDIES, "toy", "toy_study")
    monkeypatch.setitem(sys.modules, "repsim.report", types.ModuleType("repsim.report"))
    exec(STAND_IN)
    monkeypatch.chdir(tmp_path)


def start(*words: str, **options) -> subprocess.Popen:
    paths = os.pathsep.join([str(Path(__file__).parent), str(ROOT), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": paths, "COLUMNS": "150", "TERM": "xterm"}
    return subprocess.Popen([sys.executable, "-c", LAUNCHER, *words], env=environment, text=True, **options)


def run_toy(*flags: str) -> int:
    return main(["run", "toy", "--preset", "smoke", "--workers", "2", "--out", "out", *flags])


# --- flags ----------------------------------------------------------------------------------------------------------


def test_flags_follow_the_fields_of_the_config():
    words = "run toy --alpha 0 0.5 1 --seeds 4 --model product --learning_rate 1e-2 --pretrained --workers 3 --out x"
    request = parse(words.split())
    assert request.overrides == {
        "alpha": (0.0, 0.5, 1.0), "seeds": 4, "model": "product", "learning_rate": 0.01, "pretrained": True,
    }  # fmt: skip
    assert (request.command, request.names, request.preset, request.workers) == ("run", ("toy",), "quick", 3)
    assert request.directory == Path("x")
    config = configurations(request)["toy"]
    assert config == toy_study.Config((0.0, 0.5, 1.0), 4, "product", 0.01, True)
    paper = configurations(parse(["run", "toy", "--preset=paper", "--no-pretrained"]))
    assert paper["toy"] == toy_study.PRESETS["paper"]


def test_no_words_are_all_studies_at_quick():
    request = parse([])
    assert (request.command, request.names, request.preset, request.directory) == ("run", ("toy",), "quick", None)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("fly", "unknown command 'fly'; see python -m repsim.experiments --help"),
        ("statsu x", "unknown command 'statsu'; did you mean status?"),
        ("run", "run needs one study before the flags, toy | language | default | all, got none"),
        ("run --preset smoke toy", "run needs one study before the flags, toy | language | default | all, got none"),
        ("run toy toy", "run needs one study before the flags, toy | language | default | all, got toy toy"),
        ("run tyo", "unknown study 'tyo', expected one of toy; did you mean toy?"),
        ("run no.such.module", "study 'no.such.module' cannot be imported: No module named 'no'"),
        ("run toy --preset huge", "unknown preset 'huge' of toy, expected one of smoke, quick, paper"),
        ("run toy --alhpa 1", "unknown flag --alhpa; did you mean --alpha?"),
        ("run toy --pre smoke", "unknown flag --pre"),
        ("run toy --alpha one", "argument --alpha: expected a number, got 'one'"),
        ("run toy --alpha nan", "argument --alpha: expected a finite number, got 'nan'"),
        ("run toy --alpha", "argument --alpha: expected at least one argument"),
        ("run toy --seeds 1.5", "argument --seeds: expected a whole number, got '1.5'"),
        ("run toy --seeds 0", "toy: [toy.Config] expected seeds of at least 1, got 0"),
        ("run toy --model cube", "argument --model: invalid choice: 'cube'"),
        ("run toy --workers 0", "argument --workers: expected a whole number of at least 1, got '0'"),
        ("status", "the following arguments are required: DIR"),
        ("status nowhere", "nowhere does not exist"),
        ("resume nowhere", "nowhere does not exist"),
        ("status . extra", "unexpected argument extra"),
        ("report .", ". holds no run"),
    ],
)
def test_a_user_error_is_one_line_and_status_2(words, line, capsys, tmp_path):
    assert main(words.split()) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith(f"repsim: {line}") and captured.err.count("\n") == 1
    assert os.listdir(tmp_path) == []


def other_study(name: str, **fields) -> types.ModuleType:
    """A study whose Config has other fields than the toy's."""
    module = types.ModuleType(f"study_{name}")
    module.__dict__.update({part: getattr(toy_study, part) for part in ("SUMMARY", "cells", "run_cell", "effects")})
    module.NAME = name
    module.Config = dataclass(frozen=True)(type("Config", (), {"__annotations__": fields, "seeds": 2, "shared": 1}))
    module.PRESETS = {"quick": module.Config()}
    return module


def test_all_takes_only_the_flags_that_every_study_has(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "study_other", other_study("other", seeds=int, shared=int))
    monkeypatch.setitem(STUDIES, "other", "study_other")
    request = parse(["run", "all", "--seeds", "3"])
    assert request.names == ("toy", "other") and request.overrides == {"seeds": 3}
    with pytest.raises(RunError, match=r"^--alpha belongs to toy; flags of all chosen studies: --seeds$"):
        parse(["run", "all", "--alpha", "1"])
    with pytest.raises(RunError, match=r"^--shared belongs to other;"):
        parse(["plan", "--shared", "1"])
    monkeypatch.setitem(sys.modules, "study_other", other_study("other", seeds=float, shared=int))
    with pytest.raises(RunError, match=r"^--seeds differs in kind between toy, other; .*: none$"):
        parse(["plan", "--seeds", "3"])


def test_tuples_options_and_their_kinds(monkeypatch):
    kinds = {"seeds": "int", "shared": "int", "depth": "int | None"}
    kinds |= {"corner": "tuple[int, int]", "flags": "tuple[bool, ...]"}
    module = other_study("kinds")
    body = {"__annotations__": kinds, "seeds": 2, "shared": 1, "depth": None, "corner": (0, 0), "flags": ()}
    module.Config = dataclass(frozen=True)(type("Config", (), body))
    monkeypatch.setitem(sys.modules, "study_kinds", module)
    monkeypatch.setitem(STUDIES, "kinds", "study_kinds")
    words = "run kinds --depth none --corner 3 4 --flags true false"
    assert parse(words.split()).overrides == {"depth": None, "corner": (3, 4), "flags": (True, False)}
    assert parse(["run", "kinds", "--depth", "5"]).overrides == {"depth": 5}
    with pytest.raises(RunError, match="argument --corner: expected 2 arguments"):
        parse(["run", "kinds", "--corner", "3"])


def test_a_config_must_not_use_a_general_flag_or_a_strange_type(monkeypatch):
    monkeypatch.setitem(STUDIES, "kinds", "study_kinds")
    for fields, error, text in (
        ({"seeds": int, "workers": int}, ValueError, "that are no general flags, got workers"),
        ({"seeds": dict}, TypeError, "expected int, float, str, bool or tuples of them for Config.seeds"),
    ):
        module = other_study("kinds")
        body = {"__annotations__": fields, "seeds": field(default=0), "workers": 1}
        module.Config = dataclass(frozen=True)(type("Config", (), body))
        monkeypatch.setitem(sys.modules, "study_kinds", module)
        with pytest.raises(error, match=text):
            parse(["run", "kinds"])


def test_help_lists_every_field_with_its_text(capsys):
    assert main(["--help"]) == 0
    assert "retry-failed DIR" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ending:
        main(["run", "toy", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert ending.value.code == 0 and "--learning-rate" in text and "--preset" in text
    assert "number of seeds; 100% of them are used (default: 2, or the preset's)" in text


def test_a_study_may_be_named_by_its_path(monkeypatch, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "study.py").write_text(Path(toy_study.__file__).read_text().replace('"toy"', '"mine"'))
    (tmp_path / "mine" / "none.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(STUDIES, "mine", raising=False)
    assert main(["run", "mine.study", "--preset", "smoke", "--out", "out"]) == 0
    assert RunDirectory.open("out").manifest["modules"] == {"mine": "mine.study"}
    STUDIES.pop("mine")  # a later process does not know it
    assert main(["resume", "out"]) == 0
    STUDIES.pop("mine")
    with pytest.raises(RunError, match=r"mine.none is no study: it lacks NAME, SUMMARY"):
        load("mine.none")


def test_the_share_of_the_machine(monkeypatch):
    monkeypatch.setattr(command, "available_cores", lambda: 8)
    monkeypatch.setattr(command.os, "sysconf", lambda name: {"SC_PHYS_PAGES": 2**22, "SC_PAGE_SIZE": 2**12}[name])
    assert machine_share(100, None, None) == (8, 1)
    assert machine_share(3, None, None) == (3, 2)
    assert machine_share(100, None, 4) == (2, 4)
    assert machine_share(100, 5, None) == (5, 1)
    monkeypatch.setattr(command, "MEMORY_PER_WORKER", 8 * 2**30)
    assert machine_share(100, None, None) == (2, 4)


def test_the_command_is_light():
    code = "import sys, repsim.experiments.__main__; print({'torch', 'transformers', 'rich'} & set(sys.modules))"
    paths = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": paths}, capture_output=True)
    assert done.stdout == b"set()\n", done.stderr


# --- runs -----------------------------------------------------------------------------------------------------------


def test_a_run_leaves_everything_and_says_where(capsys, tmp_path):
    assert run_toy("--alpha", "0", "0.5") == 0
    out = capsys.readouterr().out
    assert "[4/4] toy pair" in out and "about 0 s left" in out and f"page: {tmp_path}/out/report.html" in out
    assert "5.5" in out and "0 .. 1" in out  # the effect and its interval
    run = RunDirectory.open("out")
    manifest = run.manifest
    assert manifest["studies"] == ["toy"] and manifest["modules"] == {"toy": "toy_study"} and manifest["workers"] == 2
    assert manifest["configs"]["toy"]["alpha"] == [0.0, 0.5] and manifest["preset"] == "smoke"
    assert manifest["command"].startswith("python -m repsim.experiments run toy --preset smoke")
    assert {"environment", "threads", "created", "format"} < set(manifest)
    assert len(run.records()) == len(run.cells()) == 4 and run.effects()[0]["estimate"] == 5.5
    assert (run.path / "report.html").read_text() == "4 records"
    assert (run.path / "table.parquet").exists() and (run.path / "table.csv").read_text().count("\n") == 3
    assert all(cell["studies"] == ["toy"] for cell in run.cells())


def test_without_a_directory_a_run_gets_a_new_one(tmp_path, capsys):
    for _ in range(2):
        assert main(["run", "toy", "--seeds", "1", "--alpha", "0"]) == 0
    folders = sorted((tmp_path / "repsim-runs").iterdir())
    assert len(folders) == 2 and all(folder.name.startswith("quick-") for folder in folders)


def test_a_failed_cell_is_shown_retried_and_status_1(capsys):
    assert run_toy("--trouble", "error", "--seeds", "2") == 1
    captured = capsys.readouterr()
    assert "FAILED: ArithmeticError: the sum does not add up" in captured.out
    assert "3 failed or skipped" in captured.err and "retry-failed out" in captured.err
    assert "Traceback" not in captured.err
    run = RunDirectory.open("out")
    failed = next(failure["key"] for failure in run.failures() if not failure["skipped"])

    assert main(["status", "out"]) == 0
    words = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["toy", "model", "4", "3", "1", "0", "0"] in words and ["all", "8", "5", "1", "2", "0"] in words
    assert main(["show", "out", failed[:9]]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"failed: toy model {failed}") and 'raise ArithmeticError("the sum' in out

    assert main(["resume", "out"]) == 1  # resume leaves failures alone
    run.artifact_path("repaired").touch()
    assert main(["retry-failed", "out"]) == 0
    assert run.failures() == [] and len(run.records()) == 8
    key = run.records()[0]["key"]
    capsys.readouterr()
    assert main(["show", "out", key]) == 0
    assert json.loads(capsys.readouterr().out) == run.read(key)
    assert main(["show", "out", ""]) == 2 and "is the beginning of 8 cells" in capsys.readouterr().err
    assert main(["show", "out", "zz"]) == 2 and "zz is no cell of this run" in capsys.readouterr().err


def test_effects_or_a_page_that_cannot_be_made_are_kept_with_their_traceback(capsys, monkeypatch):
    assert run_toy("--trouble", "error") == 1  # no pair is left, so toy_study.effects raises
    run = RunDirectory.open("out")
    assert {failure["key"] for failure in run.failures() if not failure.get("params")} == {"effects-toy"}
    assert main(["show", "out", "effects-toy"]) == 0
    assert "[toy.effects] expected at least one pair" in capsys.readouterr().out
    assert (run.path / "table.csv").exists() and (run.path / "report.html").exists()
    monkeypatch.setattr(sys.modules["repsim.report"], "write_report", lambda run: 1 / 0)
    assert main(["report", "out"]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_report_makes_table_and_page_anew(capsys):
    assert run_toy() == 0
    for name in ("table.csv", "table.parquet", "report.html", "effects.json"):
        Path("out", name).unlink()
    assert main(["report", "out"]) == 0
    assert all(Path("out", name).exists() for name in ("table.csv", "table.parquet", "report.html", "effects.json"))


def test_status_of_a_run_that_has_only_begun(capsys):
    run = RunDirectory.create(
        "out",
        {
            "studies": ["toy"],
            "modules": {"toy": "toy_study"},
            "workers": 2,
            "threads": 1,
            "configs": {"toy": {"seeds": 1, "alpha": [0.0]}},
        },
    )
    assert main(["status", "out"]) == 0
    assert main(["resume", "out"]) == 0  # the cells follow from the configurations
    assert len(run.records()) == 3
    first = run.records()[0]["key"]
    (run.path / "records" / f"{first}.json").unlink()
    capsys.readouterr()
    assert main(["status", "out"]) == 0
    assert "left on 2 workers" in capsys.readouterr().out
    assert main(["show", "out", first]) == 0
    assert capsys.readouterr().out.startswith("pending: toy")


def test_plan_counts_cells_and_time(capsys):
    assert main(["plan", "toy", "--preset", "paper", "--workers", "2", "--seeds", "10", "--cells"]) == 0
    out = capsys.readouterr().out
    assert ["toy", "40", "20", "20", "0", "about", "30", "s"] in [line.split() for line in out.splitlines()]
    assert sum(" toy pair " in line for line in out.splitlines()) == 20
    assert main(["plan"]) == 0 and "preset quick" in capsys.readouterr().out


def test_list_shows_the_studies(capsys):
    assert main(["list"]) == 0
    assert "smoke, quick, paper" in (out := capsys.readouterr().out) and "Does adding work?" in out


def test_directories_that_cannot_take_a_run(capsys, tmp_path, monkeypatch):
    assert run_toy() == 0
    Path("file").write_text("")
    Path("mine").mkdir()
    Path("mine", "thesis.tex").write_text("")
    capsys.readouterr()
    for out, line in (
        ("out", "out already holds a run: go on with `resume out` or name another directory"),
        ("mine", "mine is not empty and holds no run: name a new directory"),
        ("file/run", "cannot create file/run: Not a directory"),
    ):
        assert main(["run", "toy", "--out", out]) == 2
        assert capsys.readouterr().err == f"repsim: {line}\n"
    run = RunDirectory.open("out")
    with run.lock():
        for words in (["resume", "out"], ["retry-failed", "out"], ["report", "out"], ["run", "toy", "--out", "out"]):
            assert main(words) == 2
            assert capsys.readouterr().err == f"repsim: out is in use by process {os.getpid()}\n"
        assert main(["status", "out"]) == 0


def test_a_full_disk_is_one_line_status_2_and_resume_goes_on(capsys, monkeypatch):
    replace = os.replace

    def full(source, target):
        if "records" in str(target) and len(RunDirectory.open("out").records()) == 2:
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr("repsim.records.os.replace", full)
    assert run_toy() == 2
    err = capsys.readouterr().err
    assert err.startswith("repsim: cannot write out/records/") and err.endswith(".json: No space left on device\n")
    assert err.count("\n") == 1 and RunDirectory.open("out").failures() == []
    monkeypatch.setattr("repsim.records.os.replace", replace)
    assert main(["resume", "out"]) == 0
    assert len(RunDirectory.open("out").records()) == 4


def test_ctrl_c_says_how_to_go_on_and_resume_does(tmp_path):
    process = start(
        "run",
        "toy",
        "--pause",
        "0.3",
        "--seeds",
        "3",
        "--out",
        "out",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
    )
    assert process.stdout.readline().startswith("12 cells on ")
    assert process.stdout.readline().startswith("[1/12]")
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=10)[1]
    assert process.returncode == 130
    assert "of 12 cells finished; go on with: python -m repsim.experiments resume out\n" in err and err.count("\n") == 1
    run = RunDirectory.open(tmp_path / "out")
    finished = {record["key"]: record for record in run.records()}
    assert 1 <= len(finished) < 12 and run.failures() == []
    assert main(["resume", "out"]) == 0
    assert len(run.records()) == 12 and all(run.read(key) == record for key, record in finished.items())


def test_a_terminal_gets_a_bar_with_the_time_left(tmp_path):
    leader, follower = pty.openpty()
    process = start(
        "run",
        "toy",
        "--preset",
        "smoke",
        "--trouble",
        "error",
        "--out",
        "out",
        stdout=follower,
        stderr=subprocess.STDOUT,
        cwd=tmp_path,
    )
    os.close(follower)
    seen = b""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            part = os.read(leader, 4096)
        except OSError:
            break
        if not part:
            break
        seen += part
    os.close(leader)
    assert process.wait(10) == 1
    assert b"4/4" in seen and b" left" in seen and b"FAILED: ArithmeticError" in seen


def test_the_real_module_answers_in_one_line():
    paths = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-m", "repsim.experiments", "status", "/nowhere"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert (done.returncode, done.stderr) == (2, "repsim: /nowhere does not exist\n")
