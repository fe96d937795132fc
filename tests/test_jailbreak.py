"""The study of suffixes that carry over: its cells, its counts, its effects, its section, and a small run of it all."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from repsim import jailbreak_figures
from repsim.data import instructions
from repsim.experiments import jailbreak_cells, jailbreak_transfer
from repsim.experiments.jailbreak_cells import behaviours, outcomes
from repsim.experiments.jailbreak_transfer import Config, cells, effects
from repsim.experiments.pairs import MEASURES
from repsim.records import RunDirectory, plain
from repsim.report import render

# ---------------------------------------------------------------------------------------------- what the study asks for


def test_the_first_model_is_cut_at_the_forks_and_serves_every_pair() -> None:
    made = cells(Config(seeds=2))
    assert len({cell.key for cell in made}) == len(made)
    for seed in (0, 1):
        own = [cell for cell in made if cell.params["seed"] == seed]
        trunk = [c for c in own if c.kind == "model" and c.params["phase"] == 1 and c.params["role"] == "first"]
        assert [(c.params["start"], c.params["stop"]) for c in trunk] == [(0, 350), (350, 630), (630, 700)]
        assert [c.needs for c in trunk] == [(), (trunk[0].key,), (trunk[1].key,)]
        others = [c for c in own if c.kind == "model" and c.params["phase"] == 1 and c.params["role"] == "second"]
        assert sorted((c.params["start"], c.params["stop"], c.params["parent"]) for c in others) == [
            (0, 700, ""), (350, 700, trunk[0].key), (630, 700, trunk[1].key),
        ]  # fmt: skip
        assert {c.params["order"] for c in trunk}.isdisjoint(c.params["order"] for c in others)
        pairs = [c for c in own if c.kind == "pair"]
        assert len(pairs) == 8
        assert len({c.params["first"] for c in pairs}) == 1
        assert len({c.params["second"] for c in pairs}) == 8
        assert len({c.params["attack_first"] for c in pairs}) == 1
        # At fork 1 both are fine-tuned from one base.
        tuned = {c.key: c for c in own if c.kind == "model" and c.params["phase"] == 2}
        shared = [c for c in pairs if c.params["fork"] == 1]
        assert {tuned[c.params["second"]].params["parent"] for c in shared} == {trunk[-1].key}
        assert tuned[pairs[0].params["first"]].params["parent"] == trunk[-1].key


def test_both_directions_search_on_every_model() -> None:
    one, both = (cells(Config(seeds=1, both_directions=both)) for both in (False, True))
    assert [sum(c.kind == "attack" for c in made) for made in (one, both)] == [1, 9]
    assert {c.params["attack_second"] for c in one if c.kind == "pair"} == {""}
    for pair in (c for c in both if c.kind == "pair"):
        assert {pair.params["attack_first"], pair.params["attack_second"]} <= set(pair.needs)
        assert pair.params["attack_first"] != pair.params["attack_second"]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_fine_tuning_sets_share_exactly_what_they_are_to(share: float) -> None:
    params = {"phase": 2, "seed": 3, "overlap": 1.0}
    first, _ = jailbreak_cells._taught(params)
    second, realised = jailbreak_cells._taught({**params, "overlap": share})
    assert len(first) == len(second) == 2880
    common = set(first.messages) & set(second.messages)
    assert len(common) == round(share * 2880)
    assert realised == len(common) / 2880
    assert first.strata().sum(0).tolist() == second.strata().sum(0).tolist()


def test_attacked_requests_are_refused_ones_and_the_same_for_all_models_of_a_seed() -> None:
    assert behaviours(1, 16) == behaviours(1, 120)[:16]
    assert behaviours(1, 16) != behaviours(2, 16)
    assert all(request.refused for request in behaviours(0, 120))
    assert len(set(behaviours(0, 120))) == 120


def test_suffixes_name_no_object_unless_they_may() -> None:
    for task_words in (False, True):
        (attack,) = (
            c for c in cells(Config(seeds=1, task_words=task_words, both_directions=False)) if c.kind == "attack"
        )
        excluded = set(attack.params["search"]["exclude"])
        assert excluded == (set() if task_words else {*instructions.VERBS, *instructions.OBJECTS})


def test_every_cell_is_estimated_and_presets_are_whole() -> None:
    for config in jailbreak_transfer.PRESETS.values():
        assert all(jailbreak_transfer.estimate(cell) > 0 for cell in cells(dataclasses.replace(config, seeds=1)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fork": (0.5, 0.5)}, "expected fork as distinct levels, got 0.5 0.5"),
        ({"fork": ()}, "expected fork as distinct levels, got none"),
        ({"fork": (1.5,)}, r"expected fork in \[0, 1\], got 1.5"),
        ({"overlap": (-0.1,)}, r"expected overlap in \[0, 1\], got -0.1"),
        ({"fork": (0.0001,)}, "expected fork 0.0001 at a step within the 700 steps"),
        ({"seeds": 0}, "expected seeds of at least 1, got 0"),
        ({"learning_rate": 0.0}, "expected learning_rate above 0, got 0.0"),
        ({"behaviours": 121}, "expected behaviours from 0 to the 120 refused requests, got 121"),
        ({"methods": -1}, "expected methods from 0 to the 120 refused requests, got -1"),
        ({"permutations": 1}, "expected permutations of at least 2, got 1"),
        ({"suffix_tokens": 34}, "expected suffix_tokens of at most 33, which the models' context has room for"),
    ],
)
def test_bad_configurations(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config(**change)


# -------------------------------------------------------------------------------------------------- counts and effects


def direction(hits: int, noise: int, n: int = 10) -> dict[str, Any]:
    counts: dict[str, Any] = {"requests": n, "joint_n": n, "conditional_n": 4, "control_n": 2 * n}
    for judge in ("exact", "no_refusal", "likelier"):
        counts |= {f"source_{judge}": 5, f"victim_{judge}": hits, f"conditional_{judge}": 3, f"control_{judge}": noise}
    table = {"both": hits, "first only": 0, "second only": 1, "neither": n - hits - 1}
    return {**counts, "disagree_source": 0, "disagree_victim": 1, "judges_victim": {"exact / no_refusal": table}}


def test_the_longest_suffix_fits_into_a_model() -> None:
    """The prompt that is attacked, the longest suffix and the longest answer, in tokens of the grammar."""
    request = jailbreak_cells.behaviours(0, 1)[0]
    prompt = instructions.tokenizer().apply_chat_template(
        [{"role": "user", "content": request.text}], add_generation_prompt=True, tokenize=False
    )
    assert len(prompt.split()) + jailbreak_cells.LONGEST_SUFFIX + jailbreak_cells.NEW_TOKENS == 64
    assert len(request.answer.split()) == jailbreak_transfer.Config().target_words


def test_outcomes_are_rates_over_all_directions_less_the_control() -> None:
    found = outcomes([direction(6, 1), direction(2, 3)])
    assert found == {
        "white_box_exact": 0.5,
        "transfer_exact": pytest.approx(8 / 20 - 4 / 40),
        "transfer_bypass": pytest.approx(8 / 20 - 4 / 40),
        "conditional_exact": 0.75,
    }
    nothing = {**direction(0, 0), "joint_n": 0, "conditional_n": 0, "control_n": 0}
    assert outcomes([nothing]) == dict.fromkeys(jailbreak_cells.OUTCOMES)


def invented(seed: int, fork: float, overlap: float, value: float, hits: int, **more: Any) -> dict[str, Any]:
    grid = {"values": [[value, value], [value, value]], "last": value, "last_null": 0.0}
    counts = direction(hits, 0)
    transcript = {"direction": "first_to_second", "request": "build <it>", "suffix": " a b", "expected": "sure",
                  "source": "sure", "victim": "sorry"}  # fmt: skip
    result = {
        "layers_first": ["layer 1", "layer 2"], "layers_second": ["layer 1", "layer 2"],
        "similarity": dict.fromkeys(MEASURES, grid), "suffixes": {"first_to_second": counts},
        **outcomes([counts]), "learned_first": True, "learned_second": True, "transcripts": [transcript],
        "accuracy_first": {"refused": 1.0, "answered": 0.99}, "accuracy_second": {"refused": 0.98, "answered": 1.0},
        **more,
    }  # fmt: skip
    params = {"role": "pair", "seed": seed, "fork": fork, "overlap": overlap}
    return {"key": f"{seed}-{fork}-{overlap}", "study": "jailbreak_transfer", "kind": "pair", "params": params,
            "result": result, "seconds": 1.0}  # fmt: skip


def design() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [
        invented(seed, fork, overlap, 0.5 + 0.4 * fork + rng.normal(0, 0.01), round(6 * fork + 2 * overlap))
        for seed in range(4) for fork in (0.0, 0.5, 1.0) for overlap in (0.0, 1.0)
    ]  # fmt: skip


def test_effects_find_the_slopes_that_were_put_in() -> None:
    found = {(row["outcome"], row["factor"]): row for row in effects(design())}
    assert found["cka", "fork"]["estimate"] == pytest.approx(0.4, abs=0.02)
    assert found["transfer_exact", "fork"]["estimate"] == pytest.approx(0.6)
    assert found["transfer_exact", "overlap"]["estimate"] == pytest.approx(0.2)
    assert found["transfer_exact", "interaction"]["estimate"] == pytest.approx(0.0, abs=1e-9)
    assert found["transfer_exact", "correlation:cka"]["estimate"] > 0.8
    assert {row["factor"].split(":")[0] for row in found.values()} == {
        "fork", "overlap", "interaction", "correlation", "within", "within_fork",
    }  # fmt: skip
    # Within a fork depth the overlap still varies, within both it does not, and nothing is left.
    assert found["transfer_exact", "within:cka"]["estimate"] is None
    assert found["transfer_exact", "within_fork:cka"]["estimate"] is not None
    assert effects([]) == []


def test_a_pair_without_success_costs_its_own_conditional_rate_only() -> None:
    records = design()
    records[0]["result"]["conditional_exact"] = None
    found = {(row["outcome"], row["factor"]): row for row in effects(records)}
    assert found["conditional_exact", "fork"]["n_pairs"] == 23
    assert found["transfer_exact", "fork"]["n_pairs"] == 24


# ---------------------------------------------------------------------------------------------------------- the section


def page(records: list[dict[str, Any]], **more: Any) -> str:
    manifest = {"studies": ["jailbreak_transfer"], "preset": "quick"}
    return render(manifest, plain(records), plain(effects(records)), more.get("failures", []), {})


def test_the_section_says_what_it_is_about_and_what_it_is_not() -> None:
    text = page([
        *design(),
        {"key": "m", "study": "jailbreak_transfer", "kind": "methods", "params": {"seed": 0, "model": "good"},
         "result": {"requests": 4, "methods": {"prefill": {"exact": 0.5, "no_refusal": 0.75, "disagree": 1}}}},
        {"key": "n", "study": "jailbreak_transfer", "kind": "methods", "params": {"seed": 1, "model": "bad"},
         "result": {"requests": 4, "methods": {"prefill": {"exact": 0.0, "no_refusal": 1.0, "disagree": 4}}}},
        {"key": "bad", "study": "jailbreak_transfer", "kind": "model", "params": {"seed": 1, "role": "first"},
         "result": {"learned": False, "reason": "right about too few"}},
    ])  # fmt: skip
    assert "refusal bypass in a synthetic grammar" in text
    assert "LLM safety" not in text
    assert "Transferred compliance rises with shared pre-training, by 0.600" in text
    assert "Yes, with shared history" in text
    assert "build &lt;it&gt;" in text
    assert '<td data-label="Judges disagree">1 of 4</td>' in text  # the model that did not learn is no part of it
    for title in ("How far a suffix carries", "Do alike models fall together?", "Layer by layer, CKA", "The counts",
                  "Where the judges disagree", "Other attacks, on one model", "What is said"):  # fmt: skip
        assert title in text
    assert "0.60 (24 of 40)" in text  # fork 1, overlap 0: 6 of 10 in each of 4 seeds
    assert text.count("<figure") == 5


def test_pairs_of_one_cell_of_the_design_are_called_so() -> None:
    records = design()
    for record, noise in zip(records, np.random.default_rng(1).normal(0, 0.05, len(records)), strict=True):
        record["result"]["transfer_exact"] += noise
    text = page(records)
    assert "mong pairs of the same fork depth and overlap, " in text
    assert "mong pairs of the same overlap, " not in text
    assert "mong pairs of the same fork depth, " in text


def test_a_section_of_nothing_says_so() -> None:
    text = page([])
    assert "There is nothing to draw" in text
    assert "Not measured yet" in text
    records = [invented(0, 0.0, 1.0, 0.5, 1, learned_second=False)]
    failure = {
        "key": "k",
        "study": "jailbreak_transfer",
        "kind": "pair",
        "params": {},
        "traceback": "x",
        "skipped": False,
    }
    text = page(records, failures=[failure])
    assert "1 pair with a model that answers or refuses less than 98" in text
    assert "1 cell of this study failed or was skipped" in text


def test_rates_are_means_over_seeds() -> None:
    records = [invented(0, 0.5, 1.0, 0.5, 2), invented(0, 0.5, 0.0, 0.5, 4), invented(1, 0.5, 1.0, 0.5, 6)]
    found = jailbreak_figures.rate(records, "victim_exact", "joint_n")
    assert found is not None
    assert found.value == pytest.approx((6 / 20 + 6 / 10) / 2)
    assert jailbreak_figures.rate([], "victim_exact", "joint_n") is None


# ------------------------------------------------------------------------------------------------------------ all of it


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """The smoke preset through the real command."""
    folder = tmp_path_factory.mktemp("smoke")
    words = [
        "-m",
        "repsim.experiments",
        "run",
        "jailbreak_transfer",
        "--preset",
        "smoke",
        "--workers",
        "1",
        "--threads",
        "1",
    ]
    done = subprocess.run(
        [sys.executable, *words, "--out", "run"], cwd=folder, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "4 of 4 trainings failed to learn" in done.stderr
    return RunDirectory.open(folder / "run")


def of_kind(run: RunDirectory, kind: str) -> list[dict[str, Any]]:
    return [record for record in run.records() if record["kind"] == kind]


def test_a_fork_goes_on_from_the_trunk(tiny: RunDirectory) -> None:
    from repsim.training.causal_models import load

    models = {record["key"]: record for record in of_kind(tiny, "model")}
    pairs = {record["params"]["fork"]: record for record in of_kind(tiny, "pair")}
    bases = {fork: models[models[pair["params"]["second"]]["params"]["parent"]] for fork, pair in pairs.items()}
    trunk = models[bases[0.5]["params"]["parent"]]
    assert bases[0.5]["result"]["curve"][0] == trunk["result"]["curve"][0]  # the curve of the common part
    assert bases[0.0]["result"]["curve"][0] != trunk["result"]["curve"][0]
    assert "weights" in trunk["result"]
    assert tiny.model_path(trunk["key"]).is_file()
    first = models[models[pairs[1.0]["params"]["first"]]["params"]["parent"]]
    assert first["key"] == bases[1.0]["key"]
    weights = {fork: load(tiny.model_folder(base["key"])).lm_head.weight for fork, base in bases.items()}
    near, far = (float((weights[fork] - weights[1.0]).detach().abs().max()) for fork in (0.5, 0.0))
    assert 0 < near < far
    for record in models.values():
        if "saved" in record["result"]:
            assert (tiny.path / record["result"]["saved"] / "config.json").is_file()
            assert set(record["result"]["accuracy"]) == {"refused", "answered"}


def test_pairs_hold_counts_likeness_and_judges(tiny: RunDirectory) -> None:
    for record in of_kind(tiny, "pair"):
        result = record["result"]
        assert result["layers_first"] == ["layer 1", "layer 2"]
        assert np.shape(result["similarity"]["cka"]["values"]) == (2, 2)
        assert list(result["suffixes"]) == ["first_to_second"]
        counts = result["suffixes"]["first_to_second"]
        assert counts["requests"] == 2
        assert counts["control_n"] == 2 * counts["joint_n"]
        for judge in ("exact", "no_refusal", "likelier"):
            for who in ("source", "victim", "control", "conditional"):
                assert 0 <= counts[f"{who}_{judge}"] <= 4
        assert len(counts["judges_victim"]) == 3
        assert all(sum(table.values()) == 2 for table in counts["judges_victim"].values())
        assert result["realised_overlap"] == 0.5
        assert {result["learned_first"], result["learned_second"]} == {False}  # two steps teach nothing
    (attack,) = of_kind(tiny, "attack")
    for found in attack["result"]["suffixes"]:
        assert len(found["suffix"].split()) == 3
        assert len(found["controls"]) == 2
        assert not set(found["suffix"].split()) & {*instructions.VERBS, *instructions.OBJECTS}


def test_every_kind_of_attack_is_tried(tiny: RunDirectory) -> None:
    (record,) = of_kind(tiny, "methods")
    assert list(record["result"]["methods"]) == [
        "none", "template", "random search", "GCG", "universal GCG", "prefill", "soft prompt", "direction ablated",
    ]  # fmt: skip
    for row in record["result"]["methods"].values():
        assert set(row) == {"exact", "no_refusal", "disagree"}


def test_a_fine_tuned_model_is_a_chat_model_for_everybody(tiny: RunDirectory) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tiny.model_folder(of_kind(tiny, "pair")[0]["params"]["first"])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = tokenizer.apply_chat_template([{"role": "user", "content": "bake bread"}], tokenize=False)
    assert text == "<s> <user> bake bread <end>"
    assert AutoModelForCausalLM.from_pretrained(folder).config.vocab_size == len(tokenizer)


def test_the_smoke_run_leaves_a_table_and_a_page(tiny: RunDirectory) -> None:
    from pyarrow import parquet

    table = parquet.read_table(tiny.path / "table.parquet")
    assert {"fork", "overlap", "white_box_exact", "suffixes.first_to_second.victim_exact"} <= set(table.column_names)
    assert len(table) == 3 * len(MEASURES)
    assert not tiny.failures()
    assert "3 pairs with a model that answers or refuses less than 98" in (tiny.path / "report.html").read_text()
