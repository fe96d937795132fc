"""bench/: the timer with a clock that the test turns, and the whole command at a tiny size."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # bench is run from a checkout; it is not installed

from bench import contest, kernel_sums, nearest, timer  # noqa: E402


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
    durations = {"ours": iter([1.0, 2.0, 9.0]), "theirs": iter([4.0, 5.0, 6.0])}

    def job(name: str):
        def run() -> float:
            seen.append(name)
            return next(durations[name])

        return run

    times = timer.rounds(
        {name: job(name) for name in durations}, repeats=3, pause=0.25, sleep=lambda s: seen.append(f"rest {s}")
    )
    assert times == {"ours": [1.0, 2.0, 9.0], "theirs": [4.0, 5.0, 6.0]}
    assert seen == ["rest 0.25", "ours", "rest 0.25", "theirs"] * 3
    outcome = contest.Outcome(nearest.NEAREST.contenders[0], "1", tuple(times["ours"]))
    assert outcome.median == 2.0  # neither the mean nor the best


# ---------------------------------------------------------------------------------------------- contenders


def test_neighbours_of_duplicates_leave_out_the_row_itself() -> None:
    pytest.importorskip("faiss")
    x = np.repeat(np.eye(3, dtype=np.float32), 20, axis=0)  # more equals than the k + 1 that faiss returns
    found = nearest.with_faiss(x)
    assert found.shape == (60, nearest.K)
    assert not (found == np.arange(60)[:, None]).any()
    assert (found // 20 == np.arange(60)[:, None] // 20).all()


def test_the_tiles_of_torch_have_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_sums, "TORCH_TILE", 17)
    inputs = kernel_sums.KERNEL_SUMS.inputs(60, 8)
    whole = kernel_sums.with_numpy(**inputs)
    for upper in (False, True):
        assert abs(kernel_sums.with_torch(**inputs, upper=upper) - whole) < 1e-5


def broken(x: np.ndarray) -> np.ndarray:
    if len(x) > contest.REHEARSAL_ROWS:
        raise RuntimeError("no more\nlines")
    return x


def killed(x: np.ndarray) -> np.ndarray:
    os._exit(3)


def large(n: int, d: int) -> int:
    return 2**60


def test_whoever_cannot_run_is_named_and_the_others_go_on() -> None:
    def first_column(x: np.ndarray) -> np.ndarray:
        return x[:, 0]

    contenders = (
        contest.Contender("absent", "no-such-distribution-of-repsim", first_column),
        contest.Contender("large", "numpy", first_column, memory=large),
        contest.Contender("broken", "numpy", broken),
        contest.Contender("killed", "numpy", killed),
    )
    op = contest.Op(
        "toy",
        "",
        lambda n, d: 1.0,
        "",
        lambda n, d: {"x": np.ones((n, d), np.float32)},
        contenders,
        lambda a, b: "",
        "",
    )
    outcomes = contest.compete(op, 200, 2, repeats=1, pause=0.0, say=lambda line: None)
    assert [one.times for one in outcomes] == [()] * 4
    assert outcomes[0].note == "not installed"
    assert re.fullmatch(r"not run: needs 1152921504\.6 GB, [\d.]+ GB are available", outcomes[1].note)
    assert outcomes[2].note == "failed: RuntimeError: no more"
    assert outcomes[3].note == "killed: its process ended with status 3"


# ---------------------------------------------------------------------------------------------- the command


def test_the_command_writes_its_tables(tmp_path: Path) -> None:
    file = tmp_path / "results.md"
    done = bench("--n", "400", "--d", "16", "--repeats", "2", "--pause", "0", "--markdown", str(file))
    assert done.returncode == 0, done.stderr
    page = file.read_text()
    assert page in done.stdout
    for fact in ("processor", "CPUs", "load before the run", "commit", "date"):
        assert re.search(rf"^- {fact}: \S", page, re.MULTILINE)
    sections = dict(re.findall(r"^## (\w+): n = \d+, d = \d+$(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    assert list(sections) == ["gemm", "nearest", "kernel_sums"]
    shares = []
    for name, section in sections.items():
        header, _, *rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
        assert len(rows) == {"gemm": 2, "nearest": 4, "kernel_sums": 4}[name]
        for position, row in enumerate(rows):
            cell = dict(zip(header, row, strict=True))
            if cell["median"] == "not installed":
                continue
            low, high = map(float, re.fullmatch(r"(\S+) to (\S+) s", cell["range"]).groups())
            assert 0 < low <= float(cell["median"].removesuffix(" s")) <= high
            assert float(cell["peak memory growth"].removesuffix(" MB")) >= 0
            if name == "gemm":
                shares.append(cell["of GEMM"])
            elif position:
                assert float(cell["repsim is faster by"]) > 0
                agreement = float(cell[header[-1]])
                assert agreement > 0.999 if name == "nearest" else agreement < 1e-4
    assert "100%" in shares


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["--n", "5"], "--n: expected a whole number of at least 32, got '5'", id="few-rows"),
        pytest.param(["--repeats", "0"], "--repeats: expected a whole number of at least 1, got '0'", id="no-repeats"),
        pytest.param(["--d", "x"], "--d: expected a whole number of at least 2, got 'x'", id="no-number"),
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
