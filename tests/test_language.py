"""Training of language models: what is learned, what is the same to the bit, what is saved, and what is refused."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional

from repsim.data.tokens import TokenBlocks
from repsim.training import causal_models, language, training_state
from repsim.training.language import (
    LanguageConfig,
    build,
    evaluate,
    inner,
    learning_rate,
    load,
    predictions,
    save,
    step_blocks,
    train,
    unigram_loss,
)

torch.set_num_threads(1)

SMALL = LanguageConfig(width=16, layers=2, heads=2, positions=12, steps=20, batch_size=8, learning_rate=1e-2)


def chains(count: int = 40, length: int = 12, vocabulary: int = 23, seed: int = 0) -> TokenBlocks:
    """Blocks in which every token has two likely successors: more than frequencies can be learned."""
    rng = np.random.default_rng(seed)
    successors = np.random.default_rng(99).integers(0, vocabulary, (vocabulary, 2))
    rows = [rng.integers(0, vocabulary, count)]
    for _ in range(length - 1):
        rows.append(successors[rows[-1], rng.integers(0, 2, count)])
    return TokenBlocks(np.stack(rows, axis=1).astype(np.int32), vocabulary)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained GPT-2 in a folder."""
    folder = tmp_path_factory.mktemp("base") / "base"
    save(train(SMALL, chains()).model, folder)
    return folder


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(one: Any, other: Any) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --------------------------------------------------------------------------------------------------------- what it does


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_model_from_scratch_learns_more_than_frequencies(kind: str) -> None:
    data = chains()
    trained = train(replace(SMALL, model=kind, steps=40), data)
    assert trained.learned, trained.reason
    assert trained.loss < unigram_loss(data) - 0.5
    assert trained.loss == evaluate(trained.model, data)
    assert trained.steps == len(trained.curves["loss"]) == 40
    assert trained.tokens == 40 * 8 * 12
    assert inner(trained.model).config.model_type == kind


def test_sizes_reach_from_a_fraction_of_a_million_to_gpt2() -> None:
    with torch.device("meta"):
        small = causal_models.from_sizes("gpt2", 2000, width=64, layers=4, heads=4, positions=128, dropout=0.0)
        large = causal_models.from_sizes("gpt2", 50257, width=768, layers=12, heads=12, positions=1024, dropout=0.1)
    assert 0.3e6 < small.num_parameters() < 0.5e6
    assert large.num_parameters() == 124_439_808  # GPT-2's own number


def test_the_loss_is_the_mean_over_counted_tokens() -> None:
    data = chains(6)
    counted = np.random.default_rng(1).random(data.tokens.shape) < 0.4
    counted[:, 3] = True
    masked = TokenBlocks(data.tokens, data.vocabulary, counted)
    model = build(SMALL, data.vocabulary)
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(data.tokens.astype(np.int64))).logits.double()
    chosen = [(i, j) for i in range(6) for j in range(11) if counted[i, j + 1]]
    losses = [
        functional.cross_entropy(logits[i, j], torch.tensor(int(data.tokens[i, j + 1]))).item() for i, j in chosen
    ]
    assert evaluate(model, masked) == pytest.approx(np.mean(losses), rel=1e-5)
    assert evaluate(model, masked, batch_size=2) == pytest.approx(np.mean(losses), rel=1e-5)
    first = train(replace(SMALL, steps=1, batch_size=6), masked).curves["loss"][0]
    assert first == pytest.approx(np.mean(losses), rel=1e-5)


def test_predictions_are_the_likeliest_tokens() -> None:
    data, model = chains(5), build(SMALL, 23)
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(data.tokens.astype(np.int64))).logits
    assert np.array_equal(predictions(model, data, batch_size=2), logits[:, :-1].argmax(2).numpy())


def test_the_first_step_is_adamw_with_clipping() -> None:
    data, config = chains(8), replace(SMALL, batch_size=8, warmup=0.0, clip=0.1, weight_decay=0.3)
    one = train(config, data, stop=1).model
    model = build(config, data.vocabulary).train()
    blocks = torch.from_numpy(data.tokens[step_blocks(config, 0, 8)].astype(np.int64))
    model(input_ids=blocks, labels=blocks).loss.backward()
    norm = math.sqrt(sum(float((p.grad.double() ** 2).sum()) for p in model.parameters()))
    assert norm > 0.1  # or nothing would be clipped here
    rate = learning_rate(config, 0)
    for (name, parameter), trained in zip(model.named_parameters(), one.parameters(), strict=True):
        gradient = parameter.grad.double() * 0.1 / norm
        decay = 0.3 if parameter.ndim > 1 else 0.0
        step = gradient / (gradient.abs() + 1e-8)  # AdamW's first step: both averages are the gradient's
        expected = parameter.double() * (1 - rate * decay) - rate * step
        torch.testing.assert_close(trained.double(), expected, atol=2e-4, rtol=1e-3, msg=name)


@pytest.mark.parametrize("parts", [2, 3, 8])
def test_accumulation_changes_memory_and_not_the_step(parts: int) -> None:
    data = chains(16)
    counted = np.random.default_rng(2).random(data.tokens.shape) < 0.3  # parts with unequal numbers of counted tokens
    counted[:, 1] = True
    data = TokenBlocks(data.tokens, data.vocabulary, counted)
    whole, cut = (train(replace(SMALL, accumulation=n, steps=3), data) for n in (1, parts))
    assert cut.curves["loss"] == pytest.approx(whole.curves["loss"], rel=1e-5)
    for one, other in zip(whole.model.parameters(), cut.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


def test_checkpointing_changes_memory_and_not_the_model() -> None:
    data, config = chains(), replace(SMALL, steps=4, dropout=0.2)
    plain, saving = train(config, data), train(replace(config, checkpointing=True), data)
    assert saving.curves["loss"] == pytest.approx(plain.curves["loss"], rel=1e-6)


def test_bfloat16_learns_the_same_within_its_rounding() -> None:
    data = chains()
    wide, narrow = (train(replace(SMALL, precision=precision), data) for precision in ("float32", "bfloat16"))
    assert all(parameter.dtype == torch.float32 for parameter in narrow.model.parameters())
    assert wide.curves["loss"] != narrow.curves["loss"]
    assert narrow.loss == pytest.approx(wide.loss, rel=0.05)


@pytest.mark.parametrize(
    ("schedule", "expected"), [("cosine", [0.05, 0.1, 0.1, 0.05, 0.0]), ("constant", [0.05, 0.1, 0.1, 0.1, 0.1])]
)
def test_the_learning_rate_rises_and_follows_its_schedule(schedule: str, expected: list[float]) -> None:
    config = LanguageConfig(steps=100, warmup=0.2, learning_rate=0.1, schedule=schedule)
    assert [learning_rate(config, step) for step in (9, 19, 20, 60, 99)] == pytest.approx(expected, abs=1e-4)
    assert train(replace(SMALL, steps=3), chains(8)).curves["learning_rate"] == [
        learning_rate(replace(SMALL, steps=3), step) for step in range(3)
    ]


def test_every_pass_takes_each_block_once_in_an_order_of_its_own() -> None:
    config = replace(SMALL, batch_size=4)
    stream = np.concatenate([step_blocks(config, step, 10) for step in range(10)])
    passes = stream.reshape(4, 10)
    assert all(sorted(one) == list(range(10)) for one in passes.tolist())
    assert len({tuple(one) for one in passes.tolist()}) == 4
    assert step_blocks(replace(config, order_seed=1), 0, 10).tolist() != stream[:4].tolist()


def test_a_target_loss_ends_the_training_where_it_is_reached() -> None:
    data, config = chains(), replace(SMALL, steps=200, target_loss=1.5, loss_every=5)
    trained = train(config, data)
    assert trained.learned
    assert trained.steps < 200
    assert trained.steps % 5 == 0
    looks = trained.curves["training_loss"]
    assert looks[-1] == [trained.steps, trained.loss]
    assert trained.loss <= 1.5 < looks[-2][1]
    missed = train(replace(config, steps=10), data)
    assert not missed.learned
    assert "> 1.5" in missed.reason


def test_a_model_that_learned_nothing_is_told() -> None:
    trained = train(replace(SMALL, steps=1, learning_rate=1e-9), chains())
    assert not trained.learned
    assert "no better than the" in trained.reason


def test_a_loss_that_is_not_finite_ends_the_training() -> None:
    trained = train(replace(SMALL, learning_rate=1e30, clip=0.0, warmup=0.0), chains())
    assert not trained.learned
    assert "loss is nan" in trained.reason or "not finite" in trained.reason
    assert trained.steps < SMALL.steps


def test_too_little_memory_says_what_to_change(monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(*arguments: Any) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried ...")

    monkeypatch.setattr(language, "_backward", greedy)
    config = LanguageConfig(width=16, layers=1, heads=1, positions=16, steps=2, batch_size=4, accumulation=2)
    message = r"\[train\] expected enough memory for step 1, got none left: raise accumulation, now 2 of 4"
    with pytest.raises(MemoryError, match=message):
        train(config, TokenBlocks(np.arange(64, dtype=np.int32).reshape(4, 16), 64))


def test_unigram_loss_is_the_entropy_of_what_is_predicted() -> None:
    assert unigram_loss(TokenBlocks(np.array([[0, 1, 2]], np.int32), 10)) == pytest.approx(math.log(2))
    counted = np.array([[True, True, False]])
    assert unigram_loss(TokenBlocks(np.array([[0, 1, 2]], np.int32), 10, counted)) == 0


# --------------------------------------------------------------------------------------------------------- to the bit


def test_the_same_seeds_give_the_same_bits_and_leave_global_states_alone() -> None:
    config = replace(SMALL, dropout=0.1)
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    first = train(config, chains())
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])
    torch.manual_seed(7)
    assert same(first.model, train(config, chains()).model)
    for change in ({"init_seed": 1}, {"order_seed": 1}):
        assert not same(first.model, train(replace(config, **change), chains()).model)  # type: ignore[arg-type]


@pytest.mark.parametrize("tuning", ["scratch", "full", "lora"])
def test_a_training_that_was_interrupted_goes_on_with_the_same_bits(tuning: str, base: Path, tmp_path: Path) -> None:
    start = {} if tuning == "scratch" else {"model": str(base)}
    config = replace(
        SMALL, tuning=tuning, dropout=0.1, adapter_dropout=0.1, steps=14, target_loss=0.1, loss_every=3, **start
    )  # type: ignore[arg-type]
    whole, state = train(config, chains()), tmp_path / "one.state"

    def interrupt(step: int, steps: int) -> None:
        if step == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, chains(), state=state, state_every=4, progress=interrupt)
    assert training_state.read_state(state).step == 8
    done: list[int] = []
    resumed = train(config, chains(), state=state, state_every=4, progress=lambda step, steps: done.append(step))
    assert done == list(range(9, 15))
    assert resumed.curves == whole.curves
    assert same(resumed.model, whole.model)
    assert (resumed.steps, resumed.tokens, resumed.loss) == (whole.steps, whole.tokens, whole.loss)
    finished = train(config, chains(), state=state, progress=lambda step, steps: pytest.fail("trained again"))
    assert same(finished.model, whole.model)


def test_a_fork_shares_the_beginning_and_then_goes_its_own_way(tmp_path: Path) -> None:
    config, trunk = replace(SMALL, steps=12), tmp_path / "trunk.state"
    whole, half = train(config, chains()), train(config, chains(), state=trunk, stop=6)
    assert half.steps == 6
    same_way = train(config, chains(), fork=trunk)
    assert same(same_way.model, whole.model)
    other = train(replace(config, order_seed=5), chains(seed=3), fork=trunk, state=tmp_path / "other.state")
    assert other.curves["loss"][:6] == whole.curves["loss"][:6]
    assert other.curves["loss"][6:] != whole.curves["loss"][6:]
    assert not same(other.model, whole.model)
    again = train(replace(config, order_seed=5), chains(seed=3), fork=trunk, state=tmp_path / "other.state")
    assert same(again.model, other.model)


# ------------------------------------------------------------------------------------------------ fine-tuning and files


@pytest.mark.parametrize(("kind", "rank"), [("gpt2", 1), ("llama", 8)])
def test_adapters_train_alone_and_come_back_as_peft_saves_them(kind: str, rank: int, tmp_path: Path) -> None:
    import peft

    data = chains()
    save(train(replace(SMALL, model=kind), data).model, tmp_path / "base")
    config = replace(SMALL, model=str(tmp_path / "base"), tuning="lora", rank=rank, alpha=2.0 * rank, steps=8)
    trained = train(config, chains(seed=4))
    names = [name for name, parameter in trained.model.named_parameters() if parameter.requires_grad]
    assert names
    assert all("lora_" in name for name in names)
    assert not any("lm_head" in name for name in names)
    original = causal_models.from_checkpoint(str(tmp_path / "base"), weights=True)
    frozen = inner(trained.model).state_dict()
    for name, tensor in original.state_dict().items():
        module, _, kind_of = name.rpartition(".")
        wrapped = f"{module}.base_layer.{kind_of}"
        assert torch.equal(tensor, frozen[wrapped if wrapped in frozen else name])
    save(trained.model, tmp_path / "adapters")
    assert {path.name for path in (tmp_path / "adapters").iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors",
    }  # fmt: skip
    assert same(load(tmp_path / "adapters"), trained.model)  # the base is the one that they name
    moved = (tmp_path / "base").rename(tmp_path / "elsewhere")
    assert same(load(tmp_path / "adapters", base=moved), trained.model)
    theirs = peft.PeftModel.from_pretrained(
        transformers.AutoModelForCausalLM.from_pretrained(moved), str(tmp_path / "adapters")
    )
    assert evaluate(theirs, data) == evaluate(trained.model, data)


def test_adapters_begin_as_nothing(base: Path) -> None:
    data = chains()
    config = replace(SMALL, model=str(base), tuning="lora")
    assert evaluate(build(config, 23), data) == evaluate(load(base), data)
    one, other = (weights(build(replace(config, init_seed=seed), 23)) for seed in (0, 1))
    assert [name for name in one if not torch.equal(one[name], other[name])]
    assert all("lora_A" in name for name in one if not torch.equal(one[name], other[name]))


def test_adapters_on_a_bfloat16_base_are_float32(base: Path) -> None:
    trained = train(
        replace(SMALL, model=str(base), tuning="lora", precision="bfloat16", checkpointing=True, steps=4), chains()
    )
    kinds = {parameter.requires_grad: parameter.dtype for parameter in trained.model.parameters()}
    assert kinds == {True: torch.float32, False: torch.bfloat16}
    assert trained.curves["loss"][-1] < trained.curves["loss"][0] + 0.5


def test_full_fine_tuning_moves_every_weight(base: Path) -> None:
    trained = train(replace(SMALL, model=str(base), tuning="full", steps=3), chains(seed=4))
    before, after = weights(load(base)), weights(trained.model)
    assert all(not torch.equal(before[name], after[name]) for name in before)


def test_a_saved_model_is_that_of_transformers_and_its_bytes_are_its_weights(base: Path, tmp_path: Path) -> None:
    theirs = transformers.AutoModelForCausalLM.from_pretrained(base)
    assert same(theirs, load(base))
    save(load(base), tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()


def test_what_cannot_be_written_leaves_what_was_there(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, folder = load(base), tmp_path / "model"
    save(model, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("repsim.training.causal_models.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        save(model, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_configuration_gives_its_architecture_to_new_weights(base: Path) -> None:
    described = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
                 "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 12}  # fmt: skip
    model = build(replace(SMALL, model=described), 23)
    assert (model.config.model_type, model.config.vocab_size) == ("llama", 23)
    scratch = build(replace(SMALL, model=str(base), init_seed=5), 40)
    assert scratch.config.vocab_size == 40
    assert not torch.equal(scratch.transformer.h[0].attn.c_attn.weight, load(base).transformer.h[0].attn.c_attn.weight)


# --------------------------------------------------------------------------------------------------- what it refuses


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "expected width of at least 1, got 0"),
        ({"tuning": "prefix"}, r"expected tuning one of \('scratch', 'full', 'lora'\), got 'prefix'"),
        ({"schedule": "linear"}, "expected schedule one of"),
        ({"precision": "float16"}, "expected precision one of"),
        ({"learning_rate": 0.0}, "expected learning_rate above 0, got 0.0"),
        ({"weight_decay": -1.0}, "expected weight_decay of at least 0, got -1.0"),
        ({"clip": math.nan}, "expected clip of at least 0, got nan"),
        ({"dropout": 1.0}, r"expected dropout in \[0, 1\), got 1.0"),
        ({"betas": (0.9, 1.0)}, r"expected betas in \[0, 1\), got 1.0"),
        ({"warmup": 1.5}, r"expected warmup in \[0, 1\], got 1.5"),
        ({"target_loss": 0.0}, "expected target_loss above 0, got 0.0"),
        ({"batch_size": 4, "accumulation": 5}, "expected accumulation of at most the 4 blocks of a step, got 5"),
        ({"init_seed": -1}, r"expected init_seed in \[0, 2\*\*63\), got -1"),
        ({"tuning": "lora"}, "expected tuning 'scratch' for 'gpt2', which has no checkpoint, got 'lora'"),
        ({"width": 10, "heads": 4}, "expected width as a multiple of 4 heads, got 10"),
    ],
)
def test_bad_configurations(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LanguageConfig(**change)


def _spoil(base: Path, folder: Path) -> dict[str, Callable[[], Any]]:
    """What goes wrong at the edge, by name."""
    other = folder / "other.state"
    train(replace(SMALL, steps=2), chains(), state=other)
    (folder / "no.state").write_bytes(b"nothing")
    adapters = folder / "adapters"
    save(train(replace(SMALL, model=str(base), tuning="lora", steps=1), chains()).model, adapters)
    wide = folder / "wide"
    save(build(replace(SMALL, width=32), 23), wide)
    empty = folder / "empty"
    empty.mkdir()
    bert = folder / "bert"
    transformers.BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
                            vocab_size=30).save_pretrained(bert)  # fmt: skip
    cut = folder / "cut"
    save(load(base), cut)
    from safetensors.torch import load_file, save_file

    tensors = {name: value for name, value in load_file(cut / "model.safetensors").items() if ".h.1." not in name}
    save_file(tensors, cut / "model.safetensors", metadata={"format": "pt"})
    tuned = replace(SMALL, model=str(base), tuning="full")
    return {
        "longer-blocks": lambda: train(SMALL, chains(length=13)),
        "other-tokenizer": lambda: train(tuned, chains(vocabulary=24)),
        "stop": lambda: train(SMALL, chains(), stop=21),
        "state-every": lambda: train(SMALL, chains(), state=other, state_every=0),
        "other-training": lambda: train(SMALL, chains(), state=other),
        "other-blocks": lambda: train(replace(SMALL, steps=2), chains(seed=8), state=other),
        "no-state": lambda: train(SMALL, chains(), state=folder / "no.state"),
        "no-fork": lambda: train(SMALL, chains(), fork=folder / "none"),
        "fork-of-another-size": lambda: train(replace(SMALL, width=32), chains(), fork=other),
        "fork-behind-the-end": lambda: train(replace(SMALL, steps=1), chains(), fork=other),
        "missing-folder": lambda: load(folder / "none"),
        "empty-folder": lambda: load(empty),
        "missing-model": lambda: build(replace(tuned, model=str(empty)), 23),
        "configuration-with-weights": lambda: build(replace(tuned, model={"model_type": "gpt2"}), 23),
        "no-model-type": lambda: build(replace(SMALL, model={"n_embd": 8}), 23),
        "no-causal-weights": lambda: build(replace(tuned, model=str(bert)), 23),
        "lacking-weights": lambda: build(replace(tuned, model=str(cut)), 23),
        "adapters-of-another-base": lambda: load(adapters, base=wide),
    }


MESSAGES = {
    "longer-blocks": r"\[train\] expected blocks of at most 12 tokens for gpt2, got 13",
    "other-tokenizer": r"\[build\] expected tokens of the 23 that .* knows, got a vocabulary of 24: the blocks",
    "stop": "expected stop from 1 to 20 steps, got 21",
    "state-every": "expected state_every of at least 1, got 0",
    "other-training": "as the state of this training, got one with steps 2; name another file, or fork from it",
    "other-blocks": "as the state of this training, got one with other blocks",
    "no-state": "expected a state of a training, got",
    "no-fork": "expected a state of a training, got no file",
    "fork-of-another-size": r"expected a state with .* \(.*\), got \(.*\)",
    "fork-behind-the-end": "expected a state of at most step 1, got 2",
    "missing-folder": "expected a folder with config.json or adapter_config.json, got",
    "empty-folder": "expected a folder with config.json or adapter_config.json, got",
    "missing-model": "expected a causal model of transformers, got",
    "configuration-with-weights": "expected a checkpoint folder or hub id to load weights of, got a configuration",
    "no-model-type": "expected a causal model of transformers, got a configuration without model_type",
    "no-causal-weights": "expected a causal model of transformers, got",
    "lacking-weights": "expected a checkpoint with all weights, got .* without transformer.h.1",
    "adapters-of-another-base": "expected adapters that fit .*wide, got",
}


@pytest.fixture(scope="module")
def spoilt(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable[[], Any]]:
    return _spoil(base, tmp_path_factory.mktemp("spoilt"))


@pytest.mark.parametrize("case", MESSAGES)
def test_what_does_not_fit_is_one_clear_error(case: str, spoilt: dict[str, Callable[[], Any]]) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=MESSAGES[case]):
        spoilt[case]()


@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        ("GatedRepoError", "it is gated: accept its terms on the hub, then log in"),
        ("RepositoryNotFoundError", "the hub knows no such model, or it is private"),
        ("LocalEntryNotFoundError", "it is not in the local cache and the hub cannot be reached"),
    ],
)
def test_a_checkpoint_that_the_hub_keeps_back(kind: str, advice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cause = type(kind, (Exception,), {})

    def refuse(*rest: Any, **options: Any) -> Any:
        raise OSError("no access to owner/name.\nA page of text follows.") from cause("403")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", refuse)
    config = LanguageConfig(model="owner/name@main", tuning="lora")
    with pytest.raises(ValueError, match=r"got owner/name: no access to owner/name. \(" + advice):
        build(config, 10)


def test_a_revision_is_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    def note(name: str, **options: Any) -> Any:
        asked.append((name, options))
        raise OSError("enough")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", note)
    for source in ("owner/name@abc", "owner/name", str(tmp_path)):
        with pytest.raises(ValueError, match="enough"):
            causal_models.from_checkpoint(source, weights=True)
    assert asked == [("owner/name", {"revision": "abc"}), ("owner/name", {}), (str(tmp_path), {})]


def test_a_state_says_what_it_is_of(tmp_path: Path) -> None:
    train(replace(SMALL, steps=2), chains(), state=tmp_path / "two.state")
    state = training_state.read_state(tmp_path / "two.state")
    assert (state.step, state.identity["data"]) == (2, chains().content_hash())
    assert LanguageConfig(**{**state.identity["config"], "betas": (0.9, 0.95)}) == replace(SMALL, steps=2)
    assert json.loads(json.dumps(state.curves)) == state.curves
    assert language.TUNINGS == ("scratch", "full", "lora")
