"""experiments/sweep.py and worker.py: order, failures, dead workers, storage, resume; no cell is done twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import toy_study

from repsim.experiments.sweep import Cell, Forecast, execute
from repsim.experiments.worker import THREAD_VARIABLES
from repsim.records import RunDirectory, RunError

RUNNERS = {"toy": "toy_study:run_cell", "probe": f"{__name__}:probe"}


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", {})


def probe(cell: Cell, run: RunDirectory) -> dict:
    """What a worker sees: run in the worker process by its dotted name."""
    return {
        "threads": {name: os.environ.get(name) for name in THREAD_VARIABLES},
        "heavy": sorted({"torch", "transformers"} & set(sys.modules)),
        "session": os.getsid(0) == os.getpid(),
        "params": cell.params,
        "key": cell.key,
    }


def begun(run: RunDirectory) -> Counter[str]:
    path = run.artifact_path("begun.txt")
    return Counter(path.read_text().split()) if path.exists() else Counter()


def test_a_cell_is_its_content():
    cell = Cell("toy", "pair", {"alpha": (0.0, 1), "seed": 0})
    assert cell == Cell("toy", "pair", {"seed": 0, "alpha": [0, 1.0]}, needs=("x",)) and len({cell, cell}) == 1
    assert cell.params["alpha"] == [0.0, 1]
    assert cell.key != Cell("other", "pair", cell.params).key
    assert Cell("toy", "model", cell.params).key == Cell("other", "model", cell.params).key
    assert Cell("toy", "model", cell.params).key != cell.key
    assert Cell.from_json(json.loads(json.dumps(cell.to_json()))).key == cell.key
    named = Cell("toy", "pair", {"seed": 1, "alpha": 0.5, "first": "0123456789abcdef"})
    assert str(named) == "toy pair seed=1 alpha=0.5"


def test_a_cell_does_not_change_with_what_it_was_made_of():
    params = {"list": [1]}
    cell = Cell("toy", "pair", params)
    params["list"].append(2)
    assert cell.params == {"list": [1]}


def test_all_cells_run_models_first_in_few_workers(run):
    cells = toy_study.cells(toy_study.Config(seeds=2))
    updates = []
    # Pairs stand before the models they need: the order must come from the needs.
    summary = execute(
        run, cells[::-1], RUNNERS, workers=2, threads=1, progress=updates.append, estimate=toy_study.estimate
    )
    assert (summary.finished, summary.failed, summary.skipped) == (8, 0, 0)
    records = run.records()
    assert {record["key"] for record in records} == {cell.key for cell in cells}
    assert set(begun(run).values()) == {1}
    pair = next(record for record in records if record["kind"] == "pair" and record["params"]["alpha"] == 1.0)
    letters = len("first") + len("second")
    assert pair["result"]["similarity"]["cka"]["last"] == letters + 2 * pair["params"]["seed"]
    assert len({record["result"]["worker"] for record in records if record["kind"] == "model"}) <= 2
    assert [update.done for update in updates] == list(range(9)) and updates[-1].left == 0.0
    place = {update.cell.key: index for index, update in enumerate(updates) if update.cell}
    assert all(place[need] < place[cell.key] for cell in cells for need in cell.needs)


def test_a_worker_has_its_threads_before_any_library_and_its_own_session(run):
    cell = Cell("probe", "pair", {"alpha": 0.5})
    execute(run, [cell], RUNNERS, workers=1, threads=3)
    result = run.read(cell.key)["result"]
    assert result["threads"] == dict.fromkeys(THREAD_VARIABLES, "3") and result["heavy"] == [] and result["session"]
    assert result["params"] == {"alpha": 0.5} and result["key"] == cell.key


@pytest.mark.parametrize(
    ("trouble", "reason", "inside"),
    [
        ("error", "ArithmeticError: the sum does not add up", "toy_study.py"),
        ("kill", r"the worker process was killed by SIGKILL (out of memory?)", "about to be killed"),
        ("exit", "SystemExit: 3", "sys.exit"),
    ],
)
def test_a_failure_takes_what_needs_it_and_nothing_else(run, trouble, reason, inside):
    cells = toy_study.cells(toy_study.Config(seeds=2, trouble=trouble))
    summary = execute(run, cells, RUNNERS, workers=2, threads=1)
    assert (summary.finished, summary.failed, summary.skipped) == (5, 1, 2)
    failures = {failure["key"]: failure for failure in run.failures()}
    failed = failures.pop(cells[0].key)
    assert failed["reason"] == reason and inside in failed["traceback"] and not failed["skipped"]
    for failure in failures.values():
        assert failure["skipped"] and failure["reason"] == f"it needs {cells[0].key}, which failed"
        assert failure["params"]["seed"] == 0 and failure["kind"] == "pair"
    again = execute(run, cells, RUNNERS, workers=2, threads=1)
    assert (again.finished, again.failed, again.skipped) == (0, 0, 0)


def test_what_failed_and_what_was_skipped_run_again_when_forgotten(run):
    cells = toy_study.cells(toy_study.Config(seeds=2, trouble="error"))
    execute(run, cells, RUNNERS, workers=2, threads=1)
    run.artifact_path("repaired").touch()
    run.clear_failures()
    summary = execute(run, cells, RUNNERS, workers=2, threads=1)
    assert (summary.finished, summary.failed, summary.skipped) == (3, 0, 0)
    assert begun(run) == Counter(cell.key for cell in cells) + Counter([cells[0].key]) and not run.failures()


def test_skipping_goes_down_the_chain_also_in_a_later_run(run):
    first = Cell("toy", "model", {"seed": 0, "pause": 0, "role": "a", "trouble": "error"})
    second = Cell("toy", "sheet", {"n": 2}, needs=(first.key,))
    third = Cell("toy", "sheet", {"n": 3}, needs=(second.key,))
    run.write_failure(first.key, "ValueError: earlier")
    summary = execute(run, [third, second, first], RUNNERS, workers=1, threads=1)
    assert (summary.finished, summary.failed, summary.skipped) == (0, 0, 2)
    reasons = {failure["key"]: failure["reason"] for failure in run.failures()}
    assert reasons[third.key] == f"it needs {second.key}, which was skipped"


def test_full_storage_in_a_cell_stops_the_run_and_blames_no_cell(run):
    cells = toy_study.cells(toy_study.Config(seeds=1, trouble="full"))
    with pytest.raises(RunError, match=r"^cannot write weights: No space left on device$"):
        execute(run, cells, RUNNERS, workers=1, threads=1)
    assert run.failures() == [] and not run.has(cells[0].key)


def test_full_storage_in_the_parent_stops_the_run_and_its_workers(run, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    cells = toy_study.cells(toy_study.Config(seeds=1))
    monkeypatch.setattr("os.replace", full)
    with pytest.raises(RunError, match="No space left on device"):
        execute(run, cells, RUNNERS, workers=2, threads=1)
    monkeypatch.undo()
    assert run.records() == [] and os.listdir(run.path / "records") == []
    execute(run, cells, RUNNERS, workers=2, threads=1)
    assert len(run.records()) == 4


def test_impossible_requests_are_errors(run):
    cell = Cell("toy", "pair", {"n": 1}, needs=("absent",))
    with pytest.raises(ValueError, match=rf"\[execute\] expected needs of {cell.key} among the cells, got absent"):
        execute(run, [cell], RUNNERS, workers=1, threads=1)
    one, two = Cell("toy", "pair", {"n": 1}), Cell("toy", "pair", {"n": 2})
    one, two = Cell("toy", "pair", {"n": 1}, (two.key,)), Cell("toy", "pair", {"n": 2}, (one.key,))
    with pytest.raises(ValueError, match=r"\[execute\] expected needs without a circle, got \w+ -> \w+ -> \w+"):
        execute(run, [one, two], RUNNERS, workers=1, threads=1)
    with pytest.raises(ValueError, match=r"\[execute\] expected a runner for study toy, got none"):
        execute(run, [Cell("toy", "pair", {})], {}, workers=1, threads=1)
    with pytest.raises(ValueError, match=r"\[execute\] expected workers of at least 1, got 0"):
        execute(run, [], RUNNERS, workers=0, threads=1)


def test_a_need_with_a_record_need_not_be_a_cell(run):
    model = Cell("probe", "model", {"n": 1})
    execute(run, [model], RUNNERS, workers=1, threads=1)
    assert execute(run, [Cell("probe", "pair", {}, (model.key,))], RUNNERS, workers=1, threads=1).finished == 1


def test_a_runner_that_does_not_exist_fails_its_cells_with_a_traceback(run):
    cell = Cell("toy", "pair", {"n": 1})
    summary = execute(run, [cell], {"toy": "no_such_module:run_cell"}, workers=1, threads=1)
    assert summary.failed == 1 and "No module named 'no_such_module'" in run.failures()[0]["reason"]


def test_the_forecast_corrects_estimates_by_what_is_finished():
    models = [Cell("toy", "model", {"n": n}) for n in range(3)]
    pairs = [Cell("toy", "pair", {"n": n}) for n in range(4)]
    forecast = Forecast()
    for cell in models + pairs:
        forecast.add(cell, 10.0 if cell.kind == "model" else 1.0)
    assert forecast.left(2) == 17.0
    forecast.finish(models[0], 20.0)  # twice the estimate: so will the rest be
    assert forecast.left(1) == pytest.approx(2 * 20 + 4 * 2)
    forecast.finish(pairs[0], 0.5)
    assert forecast.left(1) == pytest.approx(2 * 20 + 3 * 0.5)
    forecast.drop(models[1])
    assert forecast.left(1) == pytest.approx(20 + 1.5)


def test_the_forecast_without_estimates_waits_for_the_first_cell():
    cells = [Cell("toy", "model", {"n": n}) for n in range(3)]
    forecast = Forecast()
    assert forecast.left(1) == 0.0
    for cell in cells:
        forecast.add(cell, None)
    assert forecast.left(1) is None
    forecast.finish(cells[0], 4.0)
    assert forecast.left(2) == 4.0


MAIN = """
import sys, toy_study
from repsim.experiments.sweep import execute
from repsim.records import RunDirectory
run = RunDirectory.open(sys.argv[1])
with run.lock():
    cells = toy_study.cells(toy_study.Config(seeds=3, pause=float(sys.argv[2])))
    execute(run, cells, {"toy": "toy_study:run_cell"}, workers=2, threads=1)
"""


def alive_workers(run: RunDirectory) -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes()
        except OSError:
            continue
        if b"worker import serve" in words and str(run.path).encode() in words:
            found.append(int(entry.parent.name))
    return found


def gone(run: RunDirectory) -> bool:
    """Whether the run's workers end soon, which is long before the pause of their cell does."""
    deadline = time.monotonic() + 5
    while alive_workers(run) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not alive_workers(run)


def environment() -> dict[str, str]:
    paths = [str(Path(__file__).parent), str(Path(toy_study.__file__).parents[1]), *filter(None, sys.path)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_nobody_works_on_for_a_parent_that_is_gone(run):
    process = subprocess.Popen([sys.executable, "-c", MAIN, run.path, "60"], env=environment())
    deadline = time.monotonic() + 15
    while len(begun(run)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(alive_workers(run)) == 2
    process.kill()
    process.wait(15)
    assert gone(run)


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_run_that_stops_takes_its_busy_workers_along(run):
    full = {"seed": 0, "pause": 0.5, "role": "first", "trouble": "full"}
    cells = [Cell("toy", "model", full), Cell("toy", "model", {**full, "pause": 60, "trouble": ""})]
    with pytest.raises(RunError, match="No space left on device"):
        execute(run, cells, RUNNERS, workers=2, threads=1)
    assert len(begun(run)) == 2 and alive_workers(run) == []


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_a_run_killed_again_and_again_does_no_finished_cell_twice_and_ends_the_same(run, tmp_path):
    cells = toy_study.cells(toy_study.Config(seeds=3, pause=0.1))
    kills, earlier = 0, []
    for patience in (1, 3, 7, 12):
        process = subprocess.Popen([sys.executable, "-c", MAIN, run.path, "0.1"], env=environment())
        deadline = time.monotonic() + 15
        while process.poll() is None and len(run.records()) < patience and time.monotonic() < deadline:
            time.sleep(0.02)
        if process.poll() is None and patience < len(cells):
            assert patience > 1 or alive_workers(run)
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait(15)
        assert gone(run)
        finished = {record["key"] for record in run.records()}
        assert len(finished) >= patience
        earlier.append({key: begun(run)[key] for key in finished})
    assert kills == 3 and process.returncode == 0
    for times in earlier:
        assert {key: begun(run)[key] for key in times} == times
    whole = RunDirectory.create(tmp_path / "whole", {})
    execute(whole, cells, RUNNERS, workers=2, threads=1)

    def deterministic(run: RunDirectory) -> list[tuple]:
        # The toy model tells its process id; all else must agree.
        records = run.records()
        for record in records:
            record["result"].pop("worker", None)
        return [(r["key"], r["study"], r["kind"], r["params"], r["result"]) for r in records]

    assert deterministic(run) == deterministic(whole)
