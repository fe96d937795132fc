"""The studies of language: what they ask for, what they find in invented records, and that they run, small."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repsim import language_figures, report
from repsim.experiments import (
    GROUPS,
    STUDIES,
    chosen,
    finetune_ladder,
    gpt_corpus_overlap,
    gpt_data_corpus_factorial,
    gpt_data_overlap,
    language_pairs,
    language_probes,
    language_tokens,
    language_work,
    llm_finetune_overlap,
)
from repsim.experiments.command import parse
from repsim.records import RunDirectory, table_rows

LANGUAGE = (gpt_data_overlap, gpt_corpus_overlap, gpt_data_corpus_factorial, llm_finetune_overlap, finetune_ladder)
VIEWS = ("mean_rest/in", "last/in", "word/in", "mean/out", "mean_rest/out", "last/out", "word/out")


def small(study: Any, **changes: Any) -> Any:
    return dataclasses.replace(study.PRESETS["smoke"], **changes)


# ------------------------------------------------------------------------------------------------ what a study asks for


def test_language_studies_run_when_named_and_never_by_themselves() -> None:
    names = (*(study.NAME for study in LANGUAGE), "jailbreak_transfer")
    assert GROUPS["language"] == names
    assert not set(parse([]).names) & set(names)
    assert parse([]).names == chosen(["default"]) == ("data_overlap", "task_overlap", "data_task_factorial")
    assert parse(["run", "language", "--seeds", "1"]).names == names
    assert chosen(["all"]) == tuple(STUDIES)
    assert parse(["plan"]).names == chosen(["default"])
    assert chosen(["language", "gpt_data_overlap"]) == names


@pytest.mark.parametrize("study", LANGUAGE, ids=lambda study: study.NAME)
def test_one_tokens_cell_and_one_probe_serve_all_pairs(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language_tokens, "_planned_hash", lambda source, characters: "0" * 16)  # nothing is read
    cells = study.cells(small(study))
    assert [cell.kind for cell in cells].count("tokens") == 1
    tokens = next(cell for cell in cells if cell.kind == "tokens")
    for cell in cells:
        assert cell is tokens or tokens.key in cell.needs
    pairs = [cell.params for cell in cells if cell.kind == "pair"]
    assert len({json.dumps([params["probe"], params["tokens"]]) for params in pairs}) == 1
    assert study.estimate(cells[-1]) > 0


@pytest.mark.parametrize("study", LANGUAGE, ids=lambda study: study.NAME)
@pytest.mark.parametrize("preset", ["quick", "smoke"])
def test_the_first_model_of_a_seed_serves_every_overlap(
    study: Any, preset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(language_tokens, "_planned_hash", lambda source, characters: "0" * 16)  # nothing is read
    config = dataclasses.replace(study.PRESETS[preset], seeds=1)
    pairs = [cell.params for cell in study.cells(config) if cell.kind == "pair" and cell.params["role"] == "pair"]
    for rung in {params.get("rung") for params in pairs}:
        own = [params for params in pairs if params.get("rung") == rung]
        assert len({params["first"] for params in own}) == 1
        assert len({params["second"] for params in own}) == len(own)


@pytest.mark.parametrize("study", LANGUAGE, ids=lambda study: study.NAME)
def test_the_full_size_can_be_planned_without_a_network(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetched(*rest: Any, **options: Any) -> None:
        raise AssertionError("a plan fetched something")

    monkeypatch.setattr("socket.socket.connect", fetched)
    presets = [name for name in study.PRESETS if name.startswith("paper")]
    for preset in presets:
        models = [cell for cell in study.cells(study.PRESETS[preset]) if cell.kind == "model"]
        assert len(models) >= study.PRESETS[preset].seeds * 6
    assert presets


def test_the_full_size_is_the_references() -> None:
    gpt, corpora, llm = (study.PRESETS["paper"] for study in LANGUAGE[:2] + LANGUAGE[3:4])
    assert (gpt.layers, gpt.heads, gpt.width, gpt.block, gpt.steps, gpt.learning_rate, gpt.dropout) == (
        6, 6, 384, 256, 10_000, 5e-4, 0.2,
    )  # fmt: skip
    assert (len(gpt.alpha), gpt.seeds, gpt.chunks) == (6, 6, 80)
    assert (corpora.layers, corpora.heads, corpora.width) == (12, 12, 768)
    assert (corpora.steps, corpora.learning_rate) == (20_000, 1e-4)
    assert (len(corpora.shared_corpora), corpora.seeds, len(corpora.corpora), corpora.per_model) == (4, 6, 6, 3)
    assert (llm.rank, llm.adapter_alpha, llm.adapter_dropout, llm.precision, llm.block, llm.batch_size) == (
        32, 64.0, 0.05, "bfloat16", 512, 32,
    )  # fmt: skip
    by_corpora = llm_finetune_overlap.PRESETS["paper_corpora"]
    levels = {cell.params.get("corpora") for cell in llm_finetune_overlap.cells(by_corpora) if cell.kind == "pair"}
    assert levels - {None} == {0, 1 / 3, 2 / 3, 1}


def test_models_that_two_studies_describe_alike_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language_tokens, "_planned_hash", lambda source, characters: "0" * 16)  # nothing is read
    config = small(gpt_data_corpus_factorial, seeds=1)
    shared = {field.name: getattr(config, field.name) for field in dataclasses.fields(gpt_corpus_overlap.Config)}
    others = gpt_corpus_overlap.cells(gpt_corpus_overlap.Config(**shared))
    own = gpt_data_corpus_factorial.cells(config)
    assert {cell.key for cell in others if cell.kind == "model"} < {cell.key for cell in own if cell.kind == "model"}
    assert others[0].key == own[0].key


def test_a_model_of_ours_is_no_folder_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "gpt2" / "config.json").write_text('{"model_type": "gpt2", "n_layer": 12}')
    assert language_pairs.training_of(gpt_data_overlap.Config(model="gpt2"))["model"] == "gpt2"


def test_a_key_changes_with_the_text_that_a_model_sees(tmp_path: Path) -> None:
    text = tmp_path / "book.txt"
    keys = []
    for word in ("word", "words"):
        text.write_text(f"{word} " * 20_000)
        language_tokens._read.cache_clear()
        cells = gpt_data_overlap.cells(small(gpt_data_overlap, corpora=(str(text),)))
        keys.append([cell.key for cell in cells])
    assert not set(keys[0]) & set(keys[1])
    changes: list[dict[str, Any]] = [
        {"block": 16},
        {"vocabulary": 401},
        {"chunk_blocks": 3},
        {"steps": 9},
        {"width": 16},
    ]
    for change in changes:
        other = gpt_data_overlap.cells(small(gpt_data_overlap, **change))
        base = gpt_data_overlap.cells(small(gpt_data_overlap))
        assert not {c.key for c in other if c.kind == "model"} & {c.key for c in base if c.kind == "model"}


def test_rungs_differ_in_what_trains_and_in_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language_tokens, "_planned_hash", lambda source, characters: "0" * 16)  # nothing is read
    cells = finetune_ladder.cells(dataclasses.replace(finetune_ladder.Config(), seeds=2))
    models = [cell for cell in cells if cell.kind == "model" and cell.params["model"] != "base"]
    assert len({cell.params["training"]["target_loss"] for cell in models}) == 1
    by_role: dict[Any, set[str]] = {}
    for cell in models:
        split = cell.params["split"]
        by_role.setdefault((cell.params["seed"], cell.params["model"], split["alpha"]), set()).add(
            cell.params["hashes"]["chunks"]
        )
    assert all(len(hashes) == 1 for hashes in by_role.values())  # the same text on every rung
    of = {cell.key: cell for cell in models}
    for cell in cells:
        if cell.kind == "pair" and cell.params["role"] == "pair":
            first, second = (of[cell.params[side]].params for side in ("first", "second"))
            assert first["training"]["order_seed"] != second["training"]["order_seed"]
            shared = first["training"]["init_seed"] == second["training"]["init_seed"]
            assert shared == (cell.params["rung"] == "scratch_one_start")
            assert (first["base"] is not None) == (cell.params["rung"] in ("lora1", "lora8", "lora64", "full"))


@pytest.mark.parametrize(
    ("study", "change", "message"),
    [
        (gpt_data_overlap, {"seeds": 0}, "expected seeds of at least 1, got 0"),
        (gpt_data_overlap, {"corpora": ()}, "expected corpora as different sources, at least one, got none"),
        (gpt_data_overlap, {"corpora": ("a", "a")}, "expected corpora as different sources, at least one, got a a"),
        (gpt_data_overlap, {"chunks": 81}, "expected chunks as an even number for each of the 1 corpora, got 81"),
        (gpt_data_overlap, {"alpha": (0.0, 2.0)}, r"expected alpha as distinct levels in \[0, 1\], got 0 2"),
        (gpt_corpus_overlap, {"shared_corpora": (1.0, 1.0)}, "expected shared_corpora as distinct levels"),
        (gpt_data_overlap, {"learning_rate": 0.0}, "expected learning_rate above 0, got 0.0"),
        (gpt_data_overlap, {"permutations": 1}, "expected permutations of at least 2, got 1"),
        (gpt_data_overlap, {"k": 60}, "expected k below the 60 texts and 100 words, got 60"),
        (gpt_data_overlap, {"dropout": 1.0}, r"expected dropout in \[0, 1\), got 1.0"),
        (gpt_data_overlap, {"model": "lama"}, "or owner/name on the hub, got 'lama'; did you mean llama\\?"),
        (gpt_data_overlap, {"model": "./nothing"}, "expected model as a folder with a config.json, got './nothing'"),
        (gpt_data_corpus_factorial, {"shared_corpora": (0.0, 1.0)}, "expected shared_corpora above 0, got 0"),
        (llm_finetune_overlap, {"rank": 0}, "expected rank of at least 1, got 0"),
        (llm_finetune_overlap, {"base_corpora": ()}, "expected base_corpora as different sources, got none"),
        (finetune_ladder, {"rungs": ("lora",)}, "scratch_one_start or scratch, got 'lora'"),
        (finetune_ladder, {"rungs": ("full", "full")}, "expected rungs as different ones, at least one, got full full"),
        (finetune_ladder, {"target_loss": 0.0}, "expected target_loss above 0, got 0.0"),
        (finetune_ladder, {"loss_every": 0}, "expected loss_every of at least 1, got 0"),
    ],
)  # fmt: skip
def test_bad_configurations(study: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(study, **change)


def test_too_little_text_is_told_before_anything_is_made(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("a few words")
    with pytest.raises(ValueError, match=r"expected \d+ characters in .*short.txt, got 11"):
        gpt_data_overlap.cells(small(gpt_data_overlap, corpora=(str(tmp_path / "short.txt"),)))


# --------------------------------------------------------------------------------------------------- views of a model


def test_activations_are_pooled_as_transformers_gives_them(tmp_path: Path) -> None:
    import torch

    from repsim.data.text import train_tokenizer
    from repsim.training.language import LanguageConfig, build

    texts = ["one two three", "a longer text of six words", "short one"]
    tokenizer = train_tokenizer(texts * 9, 270)
    model = build(LanguageConfig(width=16, layers=2, heads=2, positions=64), 270)
    found = language_probes.activations(model, tokenizer, {"in": texts}, words=8)
    assert list(found) == ["mean/in", "mean_rest/in", "last/in", "word/in"]
    expected: dict[str, list[np.ndarray]] = {"mean": [], "mean_rest": [], "last": [], "word": []}
    for text in texts:
        encoded = tokenizer(text, return_offsets_mapping=True)
        with torch.no_grad():
            output = model(input_ids=torch.tensor([encoded["input_ids"]]), output_hidden_states=True)
        state = output.hidden_states[2][0].double().numpy()
        expected["mean"].append(state.mean(0))
        expected["mean_rest"].append(state[1:].mean(0))
        expected["last"].append(state[-1])
        ends = np.cumsum([len(word) + 1 for word in text.split()]) - 1
        spans = np.array(encoded["offset_mapping"])
        told = [bool(text[start:stop].strip()) for start, stop in spans]  # a token of white space is in no word
        word_of = np.where(told, np.searchsorted(ends, spans[:, 1] - 1), -1)
        expected["word"] += [state[word_of == word].mean(0) for word in range(len(ends))]
    every = np.unique(np.linspace(0, 10, 8).astype(int))
    expected["word"] = [expected["word"][row] for row in every]
    for pool, rows in expected.items():
        np.testing.assert_allclose(found[f"{pool}/in"]["hidden.2"], np.stack(rows), atol=1e-5)
    assert list(found["mean/in"]) == ["hidden.0", "hidden.1", "hidden.2"]


def test_changes_leave_out_layers_that_did_not_move() -> None:
    rng = np.random.default_rng(0)
    layers = {"hidden.0": rng.normal(size=(9, 4)), "hidden.1": rng.normal(size=(9, 4))}
    moved = {**layers, "hidden.1": layers["hidden.1"] + np.arange(9)[:, None]}
    found = language_probes.changes({"mean/in": moved, "mean/out": moved}, {"mean/in": layers, "mean/out": layers})
    assert list(found) == ["change/in", "change/out"]
    assert [list(view) for view in found.values()] == [["hidden.1"], ["hidden.1"]]
    np.testing.assert_allclose(found["change/in"]["hidden.1"], np.repeat(np.arange(9.0)[:, None], 4, axis=1))


def test_saturation_is_told_for_every_measure_and_view() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 200, 6))
    near = one + 0.05 * other
    first = {"mean/in": {"a": one}, "last/in": {"a": one}, "change/in": {}}
    second = {"mean/in": {"a": near}, "last/in": {"a": other}, "change/in": {}}
    found = language_probes.compared(first, second, {"k": 5, "permutations": 5}, seed=0)
    assert found["saturated"]["cka"]
    assert not found["saturated"]["mutual_knn"]
    assert found["views"]["last/in"]["saturated"] == {"cka": False, "mutual_knn": False}
    assert list(found["views"]) == ["last/in"]
    assert found["similarity"]["cka"]["last"] >= language_probes.SATURATED > found["similarity"]["mutual_knn"]["last"]


# ------------------------------------------------------------------------------------------------------------- effects


def invented(
    seed: int, value: float, *, saturated: bool = False, role: str = "pair", change: float | None = None, **params: Any
) -> Any:
    """A pair record of a language study whose every measure is `value`."""

    def seen(measures: Any, at: float) -> dict[str, Any]:
        grid = [[at - 0.1, at - 0.05], [at - 0.05, at]]
        return {
            "layers_first": ["hidden.0", "hidden.1"], "layers_second": ["hidden.0", "hidden.1"],
            "similarity": {m: {"values": grid, "last": at, "last_null": 0.0} for m in measures},
            "saturated": dict.fromkeys(measures, saturated),
        }  # fmt: skip

    views = {view: seen(language_probes.MEASURES_OF_VIEWS, value / 2) for view in VIEWS}
    views |= {"change/in": seen(language_probes.MEASURES_OF_VIEWS, change)} if change is not None else {}
    result = {
        **seen(language_pairs.MEASURES, value), "views": views, "learned_first": True, "learned_second": True,
        "prediction_agreement": value / 3, "same_mistake": None, "realised_overlap": params.get("alpha", 1.0),
        "steps_first": 10, "steps_second": 20, "training_loss_first": 3.0, "training_loss_second": 3.1,
        "held_out_loss_first": 4.0, "held_out_loss_second": 4.1,
    }  # fmt: skip
    return {"key": f"{seed}{value}", "study": "s", "kind": "pair", "params": {"role": role, "seed": seed, **params},
            "result": result}  # fmt: skip


def test_effects_find_the_slopes_that_were_put_in_in_every_view() -> None:
    rng = np.random.default_rng(0)
    records = [invented(seed, 0.2 + 0.3 * alpha + rng.normal(0, 0.01), alpha=alpha)
               for seed in range(5) for alpha in (0.0, 0.5, 1.0)]  # fmt: skip
    found = {(row["outcome"], row["factor"]): row for row in gpt_data_overlap.effects(records)}
    assert found["cka", "alpha"]["estimate"] == pytest.approx(0.3, abs=0.03)
    assert found["cka", "alpha"]["low"] > 0
    assert found["CKA of words, other text", "alpha"]["estimate"] == pytest.approx(0.15, abs=0.02)
    assert found["prediction_agreement", "alpha"]["estimate"] == pytest.approx(0.1, abs=0.01)
    assert found["prediction_agreement", "same overlap:cka"]["estimate"] > 0.99
    assert found["same_mistake", "alpha"]["estimate"] is None
    assert not any(row["saturated"] for row in found.values())


def test_a_factorial_finds_both_slopes_and_their_interaction() -> None:
    rng = np.random.default_rng(1)
    records = [
        invented(seed, 0.2 + 0.1 * a + 0.3 * c + 0.2 * (a - 0.5) * (c - 2 / 3) + rng.normal(0, 0.002),
                 alpha=a, corpora=c)
        for seed in range(5) for a in (0.0, 0.5, 1.0) for c in (1 / 3, 1.0)
    ]  # fmt: skip
    found = {(row["outcome"], row["factor"]): row["estimate"] for row in gpt_data_corpus_factorial.effects(records)}
    assert found["cka", "alpha"] == pytest.approx(0.1, abs=0.02)
    assert found["cka", "corpora"] == pytest.approx(0.3, abs=0.02)
    assert found["cka", "interaction"] == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize(
    ("text", "source", "word", "first"),
    [
        (0.2, 0.4, "Both", "data"),
        (0.2, 0.0, "The very text", "data"),
        (0.0, 0.4, "Where it is from", "corpus"),
        (0.0, 0.0, "No clear effect", "data"),
        (0.0, -0.4, "Probably the other way", "corpus"),  # of two levels in six seeds one cannot be surer
    ],
)
def test_a_factorial_says_whether_the_text_counts_or_its_source(
    text: float, source: float, word: str, first: str
) -> None:
    rng = np.random.default_rng(3)
    levels = [(a, c) for a in (0.0, 0.5, 1.0) for c in (1 / 3, 1.0)]
    # Noise that no level has in common over the seeds, so that what is not there is not found.
    noise = {level: rng.permutation(np.linspace(-0.05, 0.05, 6)) for level in levels}
    records = [
        invented(seed, 0.5 + text * a * c + source * c + noise[a, c][seed], alpha=a, corpora=c)
        | {"study": "gpt_data_corpus_factorial"}
        for seed in range(6) for a, c in levels
    ]  # fmt: skip
    effects = gpt_data_corpus_factorial.effects(records)
    found = language_figures.section("gpt_data_corpus_factorial", effects, records, [])["verdict"]
    assert found["word"] == word
    assert f"{first} overlap" in found["text"]
    assert f"{'data' if first == 'corpus' else 'corpus'} overlap" in found["attack"]


def test_what_is_saturated_in_every_pair_is_flagged_and_no_answer() -> None:
    rng = np.random.default_rng(2)
    records = [
        invented(seed, 0.995 + 0.003 * alpha + rng.normal(0, 1e-4), saturated=True,
                 change=0.3 + 0.2 * alpha + rng.normal(0, 0.01), alpha=alpha) | {"study": "llm_finetune_overlap"}
        for seed in range(5) for alpha in (0.0, 0.5, 1.0)
    ]  # fmt: skip
    for record in records:
        record["result"]["views"]["change/in"]["saturated"] = {"cka": False, "mutual_knn": False}
    effects = llm_finetune_overlap.effects(records)
    by_name = {row["outcome"]: row for row in effects if row["factor"] == "alpha"}
    assert by_name["cka"]["saturated"]
    assert by_name["cka"]["low"] > 0  # sure, and still no finding
    assert not by_name["CKA of changes from the start"]["saturated"]
    section = language_figures.section("llm_finetune_overlap", effects, records, [])
    assert section["verdict"]["unit"].startswith("CKA of changes from the start")
    assert section["verdict"]["word"] == "Yes"
    said = {row["outcome"]: (grade, text) for grade, text, row in section["answers"]}
    assert said["cka"][0] == "unknown"
    assert "CKA is saturated: 0.99" in said["cka"][1]
    assert "no finding" in said["cka"][1]
    assert "CKA" in section["saturated"]
    spared = [*records[:-1], {**records[-1], "result": {**records[-1]["result"], "saturated": {"cka": False}}}]
    assert not {row["outcome"]: row for row in llm_finetune_overlap.effects(spared)}["cka"]["saturated"]


def test_overlap_by_corpora_has_its_own_factor() -> None:
    records = [invented(seed, 0.2 + 0.1 * c, corpora=c) for seed in range(3) for c in (0.0, 1 / 3, 1.0)]
    factors = {row["factor"] for row in llm_finetune_overlap.effects(records)}
    assert "corpora" in factors
    assert "alpha" not in factors


def test_pairs_whose_model_did_not_learn_are_left_out() -> None:
    records = [invented(seed, 0.2 + alpha / 2, alpha=alpha) for seed in range(3) for alpha in (0.0, 1.0)]
    spoilt = [invented(seed, 0.9, alpha=1.0) for seed in range(3)]
    for record in spoilt:
        record["result"]["learned_second"] = False
    found = {(row["outcome"], row["factor"]): row for row in gpt_data_overlap.effects([*records, *spoilt])}
    assert found["cka", "alpha"]["estimate"] == pytest.approx(0.5)
    assert found["cka", "alpha"]["n_pairs"] == 6
    assert gpt_data_overlap.effects(spoilt) == []


def ladder(rungs: dict[str, float], seeds: int = 4) -> list[Any]:
    """Records in which every rung has its slope, and its models are .1 more alike than their start is to them."""
    rng, records = np.random.default_rng(3), []
    for place, (rung, slope) in enumerate(rungs.items()):
        for seed in range(seeds):
            records += [
                invented(seed, 0.5 + slope * a + rng.normal(0, 0.002), change=0.2, alpha=a, rung=rung, place=place)
                for a in (0.0, 1.0)
            ]
            records.append(invented(seed, 0.4, role="floor", second="start", rung=rung, place=place))
    return [{**record, "study": "finetune_ladder"} for record in records]


def test_the_ladder_gives_every_rung_its_slope_and_the_rise_between_them() -> None:
    slopes = {"lora1": 0.0, "lora8": 0.05, "full": 0.1, "scratch_one_start": 0.3, "scratch": 0.2}
    effects = finetune_ladder.effects(ladder(slopes))
    found = {(row["outcome"], row["factor"]): row for row in effects}
    for name, slope in (("LoRA rank 1", 0.0), ("full fine-tuning", 0.1), ("scratch", 0.2)):
        assert found["cka", f"data overlap, {name}"]["estimate"] == pytest.approx(slope, abs=0.005)
        assert found["cka", f"above the start, {name}"]["estimate"] == pytest.approx(0.1, abs=0.005)
    changes = {
        language_figures.BY_RUNG: 0.05, language_figures.PRETRAINING: -0.2, language_figures.SHARED_START: 0.1,
    }  # fmt: skip
    for factor, change in changes.items():
        row = found["cka", factor]
        assert row["estimate"] == pytest.approx(change, abs=0.01)
        assert row["low"] < change < row["high"]
        assert row["low"] * row["high"] > 0
    some = {row["factor"] for row in finetune_ladder.effects(ladder({"lora1": 0.0, "scratch": 0.2}))}
    assert not some & set(changes)  # of one rung each nothing can be contrasted
    assert finetune_ladder.effects([]) == []


# ------------------------------------------------------------------------------------------------------------ the page


def page(records: list[Any], effects: Any, name: str) -> str:
    return report.render({"studies": [name]}, records, effects, [], {})


def test_the_page_shows_the_ladder_rung_by_rung() -> None:
    records = ladder({"lora8": 0.0, "full": 0.1, "scratch": 0.2})
    text = page(records, finetune_ladder.effects(records), "finetune_ladder")
    for words in ("How alike do language models become?", "LoRA rank 8", "full fine-tuning", "How alike, rung by rung",
                  "changes the slope on data overlap by 0.1", "changes from the start, LoRA rank 8"):  # fmt: skip
        assert words in text
    assert text.count("<svg") > 10
    assert "Accuracy on held-out images" not in text


def test_the_page_shows_every_view_and_how_trainings_ended() -> None:
    records = [{**invented(seed, 0.2 + alpha / 2, alpha=alpha), "study": "gpt_data_overlap"}
               for seed in range(3) for alpha in (0.0, 1.0)]  # fmt: skip
    effects = [{**row, "study": "gpt_data_overlap"} for row in gpt_data_overlap.effects(records)]
    text = page(records, effects, "gpt_data_overlap")
    for words in (
        "last tokens, other text",
        "Every view in numbers",
        "10 to 20",
        "3.00 to 3.10",
        "4.00 to 4.10",
        "Shared text",
    ):
        assert words in text
    ids = [part.split('"')[0] for part in text.split('id="')[1:]]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", language_figures.TITLES)
def test_a_page_without_records_says_what_is_missing(name: str) -> None:
    text = page([], [], name)
    assert "no pair of models that learned is finished" in text
    assert "Not measured yet" in text


def test_a_page_of_images_and_language_keeps_both() -> None:
    records = [{**invented(seed, 0.2, alpha=1.0), "study": "gpt_data_overlap"} for seed in range(2)]
    text = report.render({"studies": ["data_overlap", "gpt_data_overlap"]}, records, [], [], {})
    assert "does what fools one fool the other?" in text
    assert 'id="gpt_data_overlap"' in text
    assert 'id="data_overlap"' in text


def test_a_table_has_a_row_for_every_view_and_measure() -> None:
    rows = table_rows(invented(0, 0.4, alpha=0.5))
    assert len(rows) == 4 + 2 * len(VIEWS)
    assert {(row.get("view"), row["measure"]): row["value"] for row in rows}["word/out", "cka"] == 0.2
    assert rows[0]["value"] == 0.4


# ---------------------------------------------------------------------------------------------------- the real command


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunDirectory]:
    folder = tmp_path_factory.mktemp("smoke")
    words = ["run", "language", "--preset", "smoke", "--seeds", "1", "--out", "run"]
    done = subprocess.run(
        [sys.executable, "-m", "repsim.experiments", *words], cwd=folder, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-2000:]
    run = RunDirectory.open(folder / "run")
    lost = {record["study"] for record in run.records() if record["result"].get("learned") is False}
    assert lost == {"jailbreak_transfer"}  # whose smoke is too short to teach anything
    yield run


def pairs_of(run: RunDirectory, study: str, role: str = "pair") -> list[dict[str, Any]]:
    return [r for r in run.records() if r["kind"] == "pair" and r["study"] == study and r["params"]["role"] == role]


def models_of(run: RunDirectory) -> list[dict[str, Any]]:
    """Those of this file's studies: the group has one more, with models of its own kind."""
    own = {study.NAME for study in LANGUAGE}
    return [r for r in run.records() if r["kind"] == "model" and r["study"] in own]


def test_smoke_runs_all_studies_to_a_page(smoke: RunDirectory) -> None:
    assert not smoke.failures()
    text = (smoke.path / "report.html").read_text()
    assert all(f'id="{study.NAME}"' in text for study in LANGUAGE)
    assert {row["study"] for row in smoke.effects()} == {study.NAME for study in LANGUAGE}
    assert smoke.manifest["environment"]["versions"]["peft"]
    assert not list(smoke.path.rglob("*.state"))  # of finished trainings nothing is left to resume


def test_smoke_realises_the_overlap_that_was_asked_for(smoke: RunDirectory) -> None:
    for study in LANGUAGE:
        for record in pairs_of(smoke, study.NAME):
            expected = record["params"].get("alpha", 1.0) * record["params"].get("corpora", 1.0)
            assert record["result"]["realised_overlap"] == expected
    for record in models_of(smoke):
        assert record["result"]["blocks"] in (24, 40, 48, 120)
        assert len(record["result"]["blocks_sha256"]) == 64


def test_smoke_measures_every_pair_of_layers_in_every_view(smoke: RunDirectory) -> None:
    for study in LANGUAGE:
        tuned = study in (llm_finetune_overlap, finetune_ladder)
        for record in pairs_of(smoke, study.NAME):
            result = record["result"]
            assert set(result["views"]) == {*VIEWS, *(("change/in", "change/out") if tuned else ())}
            for found in (result, *result["views"].values()):
                shape = (len(found["layers_first"]), len(found["layers_second"]))
                assert all(np.shape(grid["values"]) == shape for grid in found["similarity"].values())
            assert result["layers_first"] == ["hidden.0", "hidden.1", "hidden.2"]
            assert result["rows"] == 60
            assert result["views"]["word/out"]["rows"] == 100
            assert 0 < result["prediction_agreement"] < 1


def test_smoke_ladder_reaches_one_loss_on_every_rung_and_records_its_steps(smoke: RunDirectory) -> None:
    target = finetune_ladder.PRESETS["smoke"].target_loss
    rungs = {}
    for record in pairs_of(smoke, "finetune_ladder"):
        result = record["result"]
        assert max(result["training_loss_first"], result["training_loss_second"]) <= target
        rungs[record["params"]["rung"]] = result["steps_first"]
        adapters = record["params"]["rung"].startswith("lora")
        assert result["views"]["change/in"]["layers_first"][0] == ("hidden.1" if adapters else "hidden.0")
    assert len(rungs) == 3
    assert len({record["params"]["rung"] for record in pairs_of(smoke, "finetune_ladder", "floor")}) == 3


def test_smoke_adapters_lie_as_peft_saves_them(smoke: RunDirectory) -> None:
    tuned = [record for record in models_of(smoke) if record["params"]["training"].get("tuning") == "lora"]
    for record in tuned:
        assert (smoke.path / record["result"]["saved"] / "adapter_model.safetensors").is_file()
    assert tuned


@pytest.fixture
def threads_of_a_worker() -> Iterator[None]:
    """One thread, as the runs of these tests give their workers: with others the last bits of products may differ."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads_of_a_worker")
def test_a_training_that_was_killed_goes_on_in_its_middle(smoke: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    from repsim.experiments.sweep import Cell
    from repsim.training import language

    entry = next(e for e in smoke.cells() or () if e["study"] == "gpt_data_overlap" and e["kind"] == "model")
    cell = Cell.from_json(entry)
    before = smoke.read(cell.key)["result"]
    written = language.write_state

    def cut(state: Any, path: Any) -> None:
        written(state, path)
        raise KeyboardInterrupt

    real = language.train
    monkeypatch.setattr(language, "train", lambda *a, **k: real(*a, **{**k, "state_every": 25}))
    monkeypatch.setattr(language, "write_state", cut)
    with pytest.raises(KeyboardInterrupt):
        language_work.run_cell(cell, smoke)
    state = smoke.model_folder(cell.key).with_suffix(".state")
    assert language.read_state(state).step == 25
    monkeypatch.setattr(language, "write_state", written)
    again = json.loads(json.dumps(language_work.run_cell(cell, smoke)))
    assert again["weights"] == before["weights"]
    assert again["curves"] == before["curves"]
    assert not state.exists()


def test_a_model_whose_folder_is_gone_is_trained_again(smoke: RunDirectory) -> None:
    from repsim.experiments.sweep import _lost_weights

    record = next(r for r in smoke.records() if r["kind"] == "model" and r["study"] == "gpt_corpus_overlap")
    folder = smoke.path / record["result"]["saved"]
    assert not _lost_weights(smoke, record["key"])
    moved = folder.rename(folder.with_name("elsewhere"))
    assert _lost_weights(smoke, record["key"])
    moved.rename(folder)


def test_text_that_was_changed_since_the_plan_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "book.txt"
    text.write_text("many words of a book " * 4000)
    tokens = gpt_data_overlap.cells(small(gpt_data_overlap, corpora=(str(text),)))[0]
    text.write_text("other words in a book " * 4000)
    language_tokens._read.cache_clear()
    run = RunDirectory.create(tmp_path / "run", {})
    with pytest.raises(ValueError, match=r"expected the text of .*book.txt that was planned, [0-9a-f]{16}, got"):
        language_work.run_cell(tokens, run)


def test_one_long_document_is_cut_between_words() -> None:
    parted = language_tokens._parted
    assert parted(["one two three", "four"], 5) == (["one two"], [" three", "four"])
    assert parted(["one", "two", "three"], 6) == (["one", "two"], ["three"])
    assert parted(["one", "two"], 0) == ([], ["one", "two"])
    assert parted(["one", "two"], 99) == (["one", "two"], [])


def test_paragraphs_that_come_again_are_left_out_and_short_ones_stay() -> None:
    seen: set[bytes] = set()
    first = language_tokens._unrepeated(["one two three four five\n\nhello\n\nhello"], seen)
    assert first == ["one two three four five\n\nhello\n\nhello"]
    again = ["hello\n \n one two\n three four five\n\nsix seven eight nine ten", "one two three four five"]
    assert language_tokens._unrepeated(again, seen) == ["hello\n\nsix seven eight nine ten"]


def test_what_is_probed_is_trained_on_nowhere_even_if_a_corpus_repeats_itself(tmp_path: Path) -> None:
    words = np.random.default_rng(0).integers(100, 999, size=(400, 12)).astype(str)
    paragraphs = ["word " + " ".join(row) for row in words]
    again = [f"  {text}\n" for text in paragraphs[:40]]  # right behind what is kept for the probe
    (tmp_path / "book.txt").write_text("\n\n".join([*paragraphs[:78], *again, *paragraphs[78:]]))
    (tmp_path / "other.txt").write_text("\n\n".join(paragraphs[::-1]))
    config = small(
        gpt_data_overlap, corpora=(str(tmp_path / "book.txt"),), outside=(str(tmp_path / "other.txt"),), chunks=4,
        chunk_blocks=4, probe=20,
    )  # fmt: skip
    run = RunDirectory.create(tmp_path / "run", {})
    cell = next(cell for cell in gpt_data_overlap.cells(config) if cell.kind == "tokens")
    language_tokens.prepare(cell, run)
    found = language_tokens.load(str(run.model_folder(cell.key)))
    trained = found.tokenizer.decode(found.arrays["pool"].reshape(-1)).split("<|endoftext|>")
    flat = " ".join(" ".join(trained).split())
    assert not [text for text in found.probe["in"] if text in flat]
    assert sum(text in flat for text in paragraphs) > 5


def test_no_text_is_in_two_parts(smoke: RunDirectory) -> None:
    tokens = next(r for r in smoke.records() if r["kind"] == "tokens" and r["params"]["base"])
    found = language_tokens.load(str(smoke.path / tokens["result"]["saved"]))
    parts = {name: {row.tobytes() for row in found.arrays[name]} for name in ("pool", "base", "held_out")}
    assert not parts["pool"] & parts["base"]
    assert not parts["pool"] & parts["held_out"]
    trained = found.tokenizer.decode(np.concatenate([found.arrays["pool"], found.arrays["base"]]).reshape(-1))
    flat = " ".join(trained.split())
    assert not [text for text in found.probe["in"] if text in flat]
    assert os.path.isfile(smoke.path / tokens["result"]["saved"] / "tokenizer.json")
