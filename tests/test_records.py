"""records.py: keys by content, files that are whole or absent, one writer at a time, one flat table."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from repsim.records import DirectoryInUseError, RunDirectory, RunError, content_key, environment, plain, table_rows

PAIR = {
    "key": "ab", "study": "toy", "kind": "pair", "params": {"seed": 1, "alpha": 0.5, "split": {"size": 10}},
    "result": {
        "layers_first": ["conv1", "conv2"],
        "similarity": {
            "cka": {"values": [[0.1, 0.2], [0.3, 0.7]], "null_mean": [[0.0, 0.0], [0.0, 0.01]],
                    "z": [[1, 2], [3, 4.5]], "p": [[1, 1], [1, 0.01]], "last": 0.7, "last_null": 0.01},
            "mutual_knn": {"values": [[0.1, 0.2], [0.3, 0.4]], "k": 10},
        },
        "accuracy_first": [0.5, 1.0], "learned_first": True, "transfer_auc": 0.31,
        "transfer": {"first_to_second": [{"epsilon": 1 / 255, "joint_n": 90, "joint_success": 9},
                                         {"epsilon": 16 / 255, "joint_n": 90, "joint_success": 80}],
                     "second_to_first": [{"epsilon": 1 / 255, "joint_n": 80, "joint_success": 8}]},
    },
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(tmp_path / "run", {"studies": ["toy"]})


def test_key_is_the_hash_of_the_sorted_compact_json():
    expected = hashlib.sha256(b'{"alpha":1,"names":["a"],"seed":0,"x":0.5}').hexdigest()[:16]
    assert content_key({"seed": 0, "alpha": 1.0, "x": 0.5, "names": ("a",)}) == expected
    assert content_key({"names": ["a"], "x": 0.5, "alpha": 1, "seed": -0.0}) == expected


@pytest.mark.parametrize("other", [{"a": 2}, {"b": 1}, {"a": "1"}, {"a": [1]}, {"a": True}, {"a": None}, {"a": 1.5}])
def test_key_tells_contents_apart(other):
    assert content_key(other) != content_key({"a": 1})


def test_key_refuses_what_has_no_canonical_json():
    with pytest.raises(ValueError, match=r"\[content_key\] expected finite numbers, got nan at payload.a\[1\]"):
        content_key({"a": [0.0, float("nan")]})
    with pytest.raises(TypeError, match=r"\[content_key\] expected JSON values, got ndarray at payload.a"):
        content_key({"a": np.zeros(2)})
    with pytest.raises(TypeError, match=r"\[content_key\] expected text as field names, got 1 at payload.a"):
        content_key({"a": {1: 2}})


def test_plain_turns_arrays_into_lists_and_nan_into_null():
    nested = ({"x": np.float32(0.5)},)
    value = {"loss": np.array([1.0, np.nan]), "n": np.int64(3), "ok": np.bool_(True), "nested": nested}
    assert plain(value) == {"loss": [1.0, None], "n": 3, "ok": True, "nested": [{"x": 0.5}]}
    assert plain({"ok": np.bool_(True)})["ok"] is True
    with pytest.raises(TypeError, match=r"\[plain\] expected numbers, .* got PosixPath at record.where"):
        plain({"where": Path("x")})


def test_environment_names_versions_and_no_home():
    found = environment()
    assert found["versions"]["numpy"] == np.__version__
    assert {"python", "platform", "cpu", "cpus", "device", "versions", "commit", "dirty"} == set(found)
    assert len(str(Path.home())) == 1 or str(Path.home()) not in json.dumps(found)


def test_records_come_back_sorted_and_replace_their_failure(run):
    run.write_failure("bb", "Traceback\nValueError: no", {"study": "toy"})
    assert [(f["key"], f["reason"], f["skipped"]) for f in run.failures()] == [("bb", "ValueError: no", False)]
    for key in ("bb", "aa"):
        run.write_record(key, {"study": "toy", "kind": "model", "params": {}, "result": {"x": np.float64("inf")}})
    assert [record["key"] for record in run.records()] == ["aa", "bb"]
    assert run.read("aa")["result"] == {"x": None} and run.has("aa") and not run.has("cc")
    assert run.failures() == []


def test_failures_can_be_forgotten_one_by_one_or_all(run):
    for key in ("a", "b", "c"):
        run.write_failure(key, "no")
    run.clear_failures(["a", "never"])
    assert [failure["key"] for failure in run.failures()] == ["b", "c"]
    run.clear_failures()
    assert run.failures() == []


def test_a_failure_does_not_tell_the_home_directory(run, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    run.write_failure("a", 'File "/home/ada/x.py"\nOSError: /home/ada/y')
    assert run.failures()[0]["traceback"] == 'File "~/x.py"\nOSError: ~/y'


def test_the_manifest_and_paths(run):
    opened = RunDirectory.open(run.path)
    assert opened.manifest == {"studies": ["toy"]} and opened.cells() is None and opened.effects() == []
    assert run.model_path("ab") == run.path / "models" / "ab.safetensors" and run.model_path("ab").parent.is_dir()
    assert run.artifact_path("a.png") == run.path / "artifacts" / "a.png" and run.artifact_path("a.png").parent.is_dir()


@pytest.mark.parametrize("step", ["open", "fsync", "replace"])
def test_a_full_disk_is_one_line_and_leaves_the_old_file_and_no_other(run, monkeypatch, step):
    run.write_record("aa", {"result": 1})
    before = run.read("aa")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if step == "open":
        monkeypatch.setattr(Path, "write_bytes", full)
    else:
        monkeypatch.setattr(os, step, full)
    with pytest.raises(RunError, match=r"^cannot write \S+aa.json: No space left on device$"):
        run.write_record("aa", {"result": 2})
    monkeypatch.undo()
    assert run.read("aa") == before
    assert os.listdir(run.path / "records") == ["aa.json"]


def test_a_file_is_flushed_to_the_disk_before_it_gets_its_name(run, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append("replace"), replace(a, b))[1])
    run.write_record("aa", {})
    assert order == ["fsync", "replace", "fsync"]  # the data, the name, the folder that holds the name


def test_create_refuses_a_run_a_foreign_directory_and_a_file(run, tmp_path):
    with pytest.raises(RunError, match="already holds a run: go on with `resume"):
        RunDirectory.create(run.path, {})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / ".precious.tmp").write_text("x")
    with pytest.raises(RunError, match="mine is not empty and holds no run"):
        RunDirectory.create(tmp_path / "mine", {})
    assert os.listdir(tmp_path / "mine") == [".precious.tmp"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match=r"cannot create \S+file: File exists"):
        RunDirectory.create(tmp_path / "file", {})
    with pytest.raises(RunError, match=r"cannot create \S+file/run: Not a directory"):
        RunDirectory.create(tmp_path / "file" / "run", {})


def test_create_goes_on_where_a_killed_creation_stopped(run, tmp_path):
    (run.path / "manifest.json").rename(run.path / ".manifest.json.17.tmp")
    again = RunDirectory.create(run.path, {"studies": []})
    assert again.manifest == {"studies": []} and RunDirectory.open(run.path).manifest == {"studies": []}


def test_open_refuses_what_is_no_run_and_what_is_damaged(run, tmp_path):
    with pytest.raises(RunError, match="none does not exist"):
        RunDirectory.open(tmp_path / "none")
    with pytest.raises(RunError, match="holds no run"):
        RunDirectory.open(tmp_path)
    (run.path / "records" / "aa.json").write_text("{")
    with pytest.raises(RunError, match=r"aa\.json is damaged"):
        run.records()


def test_only_one_writer_and_the_system_releases_a_killed_one(run):
    code = (
        "import sys, time; from repsim.records import RunDirectory\n"
        "with RunDirectory.open(sys.argv[1]).lock(): print('locked', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, run.path], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "locked\n"
        (run.path / "records" / ".aa.json.17.tmp").write_text("half")
        with pytest.raises(DirectoryInUseError, match=f"run is in use by process {holder.pid}$"), run.lock():
            pass
        assert (run.path / "records" / ".aa.json.17.tmp").exists()
    finally:
        holder.kill()
        holder.communicate()
    with run.lock():
        assert not (run.path / "records" / ".aa.json.17.tmp").exists()
        with pytest.raises(DirectoryInUseError, match=f"process {os.getpid()}$"), run.lock():
            pass
    with run.lock():
        pass


def test_a_pair_becomes_one_row_per_measure():
    cka, knn = table_rows(PAIR)
    assert cka["measure"] == "cka" and knn["measure"] == "mutual_knn"
    assert (cka["key"], cka["seed"], cka["alpha"], cka["split.size"]) == ("ab", 1, 0.5, 10)
    assert (cka["value"], cka["null"], cka["null_mean"], cka["z"], cka["p"]) == (0.7, 0.01, 0.01, 4.5, 0.01)
    assert (knn["value"], knn["null"], knn["k"]) == (0.4, None, 10)
    assert (cka["accuracy_first"], cka["accuracy_first.0"], cka["accuracy_first.1"]) == (0.75, 0.5, 1.0)
    assert cka["learned_first"] is True and cka["transfer_auc"] == 0.31 and cka["layers_first"] == "conv1 conv2"
    assert cka["first_to_second.1/255.joint_n"] == 90 and cka["first_to_second.16/255.joint_success"] == 80
    assert cka["second_to_first.1/255.joint_success"] == 8
    assert table_rows({**PAIR, "result": {"accuracy": [1.0]}}) == []


def test_a_result_never_hides_a_parameter():
    clash = {**PAIR, "result": {**PAIR["result"], "seed": 99}}
    assert table_rows(clash)[0]["seed"] == 1 and table_rows(clash)[0]["result.seed"] == 99


def test_merge_writes_the_same_table_twice(run):
    import pyarrow.parquet

    run.write_record("ab", PAIR)
    other = {**PAIR, "params": {"seed": 2, "shared": 3, "alpha": 0}, "study": "other"}
    run.write_record("ac", other)
    run.write_record("ad", {"study": "toy", "kind": "model", "params": {}, "result": {"accuracy": 1}})
    path = run.merge()
    assert path == run.path / "table.parquet"
    table = pyarrow.parquet.read_table(path).to_pylist()
    assert [(row["key"], row["measure"], row["alpha"], row["shared"]) for row in table] == [
        ("ab", "cka", 0.5, None), ("ab", "mutual_knn", 0.5, None), ("ac", "cka", 0.0, 3), ("ac", "mutual_knn", 0.0, 3),
    ]  # fmt: skip
    with open(run.path / "table.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["value"] for line in lines] == ["0.7", "0.4", "0.7", "0.4"]
    assert list(lines[0]) == pyarrow.parquet.read_table(path).column_names


def test_merge_of_text_beside_numbers_and_of_nothing(run):
    import pyarrow.parquet

    assert pyarrow.parquet.read_table(run.merge()).num_rows == 0
    for key, alpha in (("ab", 0.5), ("ac", "none")):
        run.write_record(key, {**PAIR, "params": {"alpha": alpha}})
    assert pyarrow.parquet.read_table(run.merge()).column("alpha").to_pylist() == ["0.5", "0.5", "none", "none"]
