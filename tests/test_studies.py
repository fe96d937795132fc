"""The three studies of images: what they ask for, and that they run, small, through the real command."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repsim.experiments import data_overlap, data_task_factorial, pairs, task_overlap
from repsim.records import RunDirectory

SMALL = ("--seeds", "1", "--epochs", "1", "--images", "200", "--probe", "60", "--attack-images", "16")


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "repsim.experiments", *words]


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), cwd=cwd, capture_output=True, text=True, timeout=280)


def pair_records(run: RunDirectory, study: str) -> list[dict[str, Any]]:
    return [r for r in run.records() if r["kind"] == "pair" and r["study"] == study]


# ------------------------------------------------------------------------------------------------ what a study asks for


def test_the_first_model_of_a_seed_serves_every_overlap() -> None:
    cells = data_overlap.cells(data_overlap.Config(seeds=2))
    for seed in (0, 1):
        asked = [c.params for c in cells if c.kind == "pair" and c.params["seed"] == seed]
        assert len({params["first"] for params in asked}) == 1
        by_alpha = {params["alpha"]: params["second"] for params in asked if params["role"] == "pair"}
        assert len(set(by_alpha.values())) == len(by_alpha) == 5


def test_models_that_two_studies_describe_alike_are_one() -> None:
    factorial = {c.key for c in data_task_factorial.cells(data_task_factorial.Config(seeds=3)) if c.kind == "model"}
    tasks = {c.key for c in task_overlap.cells(task_overlap.Config(seeds=3)) if c.kind == "model"}
    assert len(factorial & tasks) == 3 * 3  # of a seed: the first, its ceiling, and the second with no shared attribute
    assert len(factorial) == 3 * 8
    assert len(tasks) == 3 * 7


@pytest.mark.parametrize("study", [data_overlap, task_overlap, data_task_factorial])
def test_the_probe_does_not_depend_on_the_design(study: Any) -> None:
    cells = [c for c in study.cells(study.PRESETS["smoke"]) if c.kind == "pair"]
    assert len({json.dumps(c.params["probe"]) for c in cells}) == 1
    roles = [c.params["role"] for c in cells]
    assert roles.count("floor") == roles.count("ceiling") == study.PRESETS["smoke"].seeds
    assert all(c.needs == () for c in cells if c.params["role"] == "floor")


def test_probe_and_training_images_are_disjoint() -> None:
    shown, trained = pairs.probe("handwriting", 16, 500), pairs.pool("handwriting", 16, 0, 500)
    assert not set(shown.ids) & set(trained.ids)
    assert len(shown) + len(trained) == 1797
    drawn = pairs.pool("color_shape_digit", 28, 100, 0)
    assert not set(drawn.ids) & set(pairs.probe("color_shape_digit", 28, 100).ids)


def test_a_key_changes_with_what_the_model_sees() -> None:
    config = data_overlap.Config()
    cell = pairs.model_cell("s", config, "handwriting", seed=0, role=pairs.SECOND, alpha=0.5, attributes=("digit",))
    assert len(cell.params["hashes"]["positions"]) == len(cell.params["hashes"]["pixels"]) == 16
    changes: list[dict[str, int]] = [{"images": 599}, {"pixels": 20}, {"epochs": 3}, {"probe": 499}, {"width": 8}]
    changed = []
    for change in changes:
        other = dataclasses.replace(config, **change)
        changed.append(
            pairs.model_cell("s", other, "handwriting", seed=0, role=pairs.SECOND, alpha=0.5, attributes=("digit",))
        )
    assert len({cell.key, *(c.key for c in changed)}) == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": 0}, "expected seeds of at least 1, got 0"),
        ({"attack_images": 501}, "expected attack_images of at most the 500 probe images, got 501"),
        ({"k": 500}, "expected k below the 500 probe images, got 500"),
        ({"permutations": 1}, "expected permutations of at least 2, got 1"),
        ({"epsilons": (0.1,)}, r"expected epsilons from 0.25 to 255 \(in 1/255\), got 0.1"),
    ],
)
def test_bad_configurations(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data_overlap.Config(**change)


# ------------------------------------------------------------------------------------------------------------- effects


def invented(seed: int, alpha: float, shared: int, value: float, transfer: float | None = 0.1, **more: Any) -> Any:
    similarity = {name: {"last": value} for name in pairs.MEASURES}
    result = {"similarity": similarity, "transfer_auc": transfer, "learned_first": True, "learned_second": True, **more}
    return {
        "kind": "pair",
        "params": {"role": "pair", "seed": seed, "alpha": alpha, "shared": shared},
        "result": result,
    }


def test_effects_find_the_slopes_and_the_interaction_that_were_put_in() -> None:
    rng = np.random.default_rng(0)
    records = []
    for seed in range(6):
        for alpha in (0.0, 0.5, 1.0):
            for shared in (0, 1):
                value = 0.1 + 0.2 * alpha + 0.5 * shared + 0.3 * (alpha - 0.5) * (shared - 0.5) + rng.normal(0, 0.01)
                records.append(invented(seed, alpha, shared, value, transfer=value / 2 + rng.normal(0, 0.01)))
    found = {(e["outcome"], e["factor"]): e for e in data_task_factorial.effects(records)}
    assert found["cka", "alpha"]["estimate"] == pytest.approx(0.2, abs=0.03)
    assert found["cka", "shared"]["estimate"] == pytest.approx(0.5, abs=0.03)
    assert found["cka", "interaction"]["estimate"] == pytest.approx(0.3, abs=0.05)
    assert found["cka", "interaction"]["low"] > 0
    assert found["transfer_auc", "correlation:cka"]["estimate"] > 0.9


def test_pairs_whose_model_did_not_learn_are_left_out() -> None:
    records = [invented(seed, alpha, 0, alpha) for seed in range(3) for alpha in (0.0, 1.0)]
    spoilt = [invented(seed, 1.0, 0, -9.0, learned_second=False) for seed in range(3)]
    found = {(e["outcome"], e["factor"]): e for e in data_overlap.effects([*records, *spoilt])}
    assert found["cka", "alpha"]["estimate"] == pytest.approx(1.0)
    assert found["cka", "alpha"]["n_pairs"] == 6


def test_an_interaction_takes_only_seeds_with_every_cell() -> None:
    rng = np.random.default_rng(1)
    records = [invented(s, a, t, rng.normal()) for s in range(4) for a in (0.0, 1.0) for t in (0, 1)][:-1]
    found = {(e["outcome"], e["factor"]): e for e in data_task_factorial.effects(records)}
    assert found["cka", "interaction"]["n_seeds"] == 3


def test_a_missing_value_costs_its_own_pair_only() -> None:
    rng = np.random.default_rng(2)
    records = [
        invented(s, a, 0, a + rng.normal(0, 0.1), a + rng.normal(0, 0.1)) for s in range(4) for a in (0.0, 0.5, 1.0)
    ]
    records[0]["result"]["similarity"]["cka"]["last"] = None
    found = {(e["outcome"], e["factor"]): e for e in data_overlap.effects(records)}
    assert found["cka", "alpha"]["n_pairs"] == found["transfer_auc", "correlation:cka"]["n_pairs"] == 11
    assert found["transfer_auc", "correlation:cknna"]["n_pairs"] == 12


def test_a_slope_that_cannot_be_had_still_counts_its_seeds() -> None:
    records = [invented(seed, 0.5, shared, seed / 9) for seed in range(4) for shared in (0, 1)]
    found = {(e["outcome"], e["factor"]): e for e in data_task_factorial.effects(records)}
    assert found["cka", "alpha"]["estimate"] is None
    assert found["cka", "alpha"]["n_seeds"] == 4


def test_a_constant_transfer_costs_no_other_effect() -> None:
    records = [invented(seed, alpha, 0, alpha + seed / 9, transfer=0.0) for seed in range(3) for alpha in (0.0, 1.0)]
    found = {(e["outcome"], e["factor"]): e for e in data_overlap.effects(records)}
    assert found["transfer_auc", "correlation:cka"]["estimate"] is None
    assert found["cka", "alpha"]["estimate"] == pytest.approx(1.0)


# ---------------------------------------------------------------------------------------------------- the real command


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunDirectory, str]]:
    folder = tmp_path_factory.mktemp("smoke")
    done = run("run", "default", "--preset", "smoke", "--out", "run", cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    yield RunDirectory.open(folder / "run"), done.stdout


def test_smoke_runs_the_default_studies_to_a_page(smoke: tuple[RunDirectory, str]) -> None:
    directory, printed = smoke
    assert "report.html" in printed
    assert (directory.path / "report.html").stat().st_size > 100_000
    assert (directory.path / "table.parquet").is_file()
    assert not directory.failures()
    assert {e["study"] for e in directory.effects()} == {"data_overlap", "task_overlap", "data_task_factorial"}
    assert {"config", "configs"} & set(directory.manifest)


def test_smoke_realises_the_overlap_that_was_asked_for(smoke: tuple[RunDirectory, str]) -> None:
    for record in pair_records(smoke[0], "data_overlap"):
        if record["params"]["role"] == "pair":
            assert record["result"]["realised_overlap"] == record["params"]["alpha"]


def test_smoke_measures_every_pair_of_layers_beside_its_null(smoke: tuple[RunDirectory, str]) -> None:
    for record in pair_records(smoke[0], "task_overlap"):
        result = record["result"]
        shape = (len(result["layers_first"]), len(result["layers_second"]))
        for name in pairs.MEASURES:
            grid = result["similarity"][name]
            assert np.shape(grid["values"]) == np.shape(grid["null_mean"]) == np.shape(grid["p"]) == shape
            assert grid["last"] == grid["values"][-1][-1]
        if record["params"]["role"] != "floor":
            assert [row["epsilon"] * 255 for row in result["transfer"]["first_to_second"]] == pytest.approx(
                [1, 2, 4, 8, 16]
            )


def test_smoke_shows_the_effect_of_a_shared_task(smoke: tuple[RunDirectory, str]) -> None:
    by_level: dict[int, list[float]] = {}
    for record in pair_records(smoke[0], "data_task_factorial"):
        if record["params"]["role"] == "pair":
            by_level.setdefault(record["params"]["shared"], []).append(record["result"]["similarity"]["cka"]["last"])
    assert np.mean(by_level[1]) > np.mean(by_level[0]) + 0.2


def test_killed_and_resumed_gives_the_records_of_an_undisturbed_run(tmp_path: Path) -> None:
    words = ("run", "data_overlap", "--preset", "smoke", *SMALL, "--workers", "1", "--out")
    whole = run(*words, "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr[-2000:]
    process = subprocess.Popen(command(*words, "cut"), cwd=tmp_path, stdout=subprocess.DEVNULL)
    records = tmp_path / "cut" / "records"
    deadline = time.monotonic() + 120
    while not (records.is_dir() and len(list(records.glob("*.json"))) >= 3):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = {path.name: path.stat().st_mtime_ns for path in records.glob("*.json")}
    assert 3 <= len(before) < len(list((tmp_path / "whole" / "records").glob("*.json")))
    resumed = run("resume", "cut", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    for name, stamp in before.items():
        assert (records / name).stat().st_mtime_ns == stamp  # nothing finished was done again
    told = [
        {r["key"]: (r["params"], r["result"]) for r in RunDirectory.open(tmp_path / name).records()}
        for name in ("whole", "cut")
    ]
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--alpha", "2"), "expected alpha in [0, 1], got 2.0"),
        (("--alpha", "0", "0"), "expected alpha as distinct levels"),
        (("--epochs", "0"), "expected epochs of at least 1, got 0"),
        (("--learning-rate", "0"), "expected learning_rate above 0, got 0.0"),
        (("--model", "Vit"), "did you mean vit?"),
        (("--model", "/no/such/folder"), "expected model as a folder with a config.json, got '/no/such/folder'"),
        (("--images", "5000"), "[data_overlap] expected size"),
    ],
)
def test_bad_values_are_one_line_before_anything_is_made(words: tuple[str, ...], message: str, tmp_path: Path) -> None:
    done = run("run", "data_overlap", "--preset", "smoke", *words, "--out", "new", cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_a_lost_model_is_trained_again_for_a_pair_that_waits_for_it(tmp_path: Path) -> None:
    words = ("run", "data_overlap", "--preset", "smoke", *SMALL, "--alpha", "0", "--out", "run")
    assert run(*words, cwd=tmp_path).returncode == 0
    directory = RunDirectory.open(tmp_path / "run")
    pair = next(r for r in pair_records(directory, "data_overlap") if r["params"]["role"] == "pair")
    directory.model_path(pair["params"]["second"]).unlink()
    (directory.path / "records" / f"{pair['key']}.json").unlink()
    again = run("resume", "run", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "trainings failed to learn" in again.stderr  # one epoch on 200 images is too little, and it says so
    assert directory.read(pair["key"])["result"] == pair["result"]


def test_a_checkpoint_folder_gives_its_architecture_to_the_key(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder = tmp_path / "checkpoint"
    transformers.ViTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
                           image_size=16, patch_size=8).save_pretrained(folder)  # fmt: skip

    def key() -> str:
        config = data_overlap.Config(model=str(folder))
        return pairs.model_cell("s", config, "handwriting", seed=0, role=0, alpha=1.0, attributes=("digit",)).key

    before = key()
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"num_hidden_layers": 1', '"num_hidden_layers": 2'))
    assert key() != before
    words = ("run", "data_overlap", "--preset", "smoke", *SMALL, "--alpha", "0", "--model", "checkpoint")
    done = run(*words, "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-800:]


def test_a_model_of_ours_is_no_folder_of_its_name_and_a_tilde_is_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("cnn", "net"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text('{"model_type": "resnet"}')
    assert pairs.architecture("cnn", pairs.OWN_MODELS) == "cnn"
    assert pairs.architecture(data_overlap.Config(model="~/net").model, pairs.OWN_MODELS) == {"model_type": "resnet"}


def test_a_reader_that_leaves_does_not_stop_the_run(tmp_path: Path) -> None:
    words = " ".join(command("run", "data_overlap", "--preset", "smoke", *SMALL, "--alpha", "0", "--out", "run"))
    subprocess.run(f"{words} | head -1", shell=True, cwd=tmp_path, capture_output=True, timeout=280, check=True)
    assert (tmp_path / "run" / "report.html").is_file()
