"""A checkpoint in the format of Hugging Face on disk, all the way: LoRA, extraction, comparison, attack; and errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from chat_models import target_loss
from checkpoints import byte_pairs, save_text_models

import repsim
from repsim.attacks.chat import PLAIN_TEMPLATE, load_chat
from repsim.attacks.suffix import SuffixAttack, suffix_attack
from repsim.data.text import load_tokenizer, pack
from repsim.data.tokens import TokenBlocks
from repsim.experiments import language_work, llm_finetune_overlap
from repsim.experiments.sweep import Cell
from repsim.extraction import extract_layers, load_checkpoint, load_inputs
from repsim.records import RunDirectory
from repsim.training.language import LanguageConfig, inner, load, save, train

torch.set_num_threads(1)

SENTENCES = [f"the {colour} cat number {k} sat on the mat" for k in range(6) for colour in ("red", "grey", "old")]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama and its tokenizer, as `save_pretrained` writes them."""
    return save_text_models(tmp_path_factory.mktemp("hub"))["llama"]


@pytest.fixture(scope="module")
def adapters(llama: Path) -> Path:
    """LoRA adapters trained on it, as peft saves them."""
    tokenizer = load_tokenizer(llama)
    blocks = TokenBlocks(pack(tokenizer, SENTENCES, 16), len(tokenizer))
    config = LanguageConfig(
        model=str(llama), tuning="lora", rank=4, alpha=16, steps=12, batch_size=8, learning_rate=3e-2
    )
    trained = train(config, blocks)
    assert trained.curves["loss"][-1] < trained.curves["loss"][0]
    save(trained.model, llama.with_name("adapters"))
    return llama.with_name("adapters")


@pytest.fixture
def texts(tmp_path: Path) -> Any:
    (tmp_path / "texts.txt").write_text("\n".join(SENTENCES) + "\n")
    return load_inputs(tmp_path / "texts.txt")


def test_lora_then_extract_then_compare(llama: Path, adapters: Path, texts: Any, tmp_path: Path) -> None:
    stores = {
        name: extract_layers(load_checkpoint(str(path), "text", device="cpu"), texts, tmp_path / name)
        for name, path in (("base", llama), ("tuned", adapters))
    }
    assert stores["base"].layers == stores["tuned"].layers == ("hidden.0", "hidden.1", "hidden.2")
    table = repsim.compare(stores["base"], stores["tuned"], measures=["cka"])
    assert table["cka"].values[0, 0] == pytest.approx(1)  # adapters leave the embeddings alone
    assert table["cka"].values[2, 2] < 0.999
    assert stores["tuned"].metadata["provenance"]["config"]["adapters"]["r"] == 4
    tuned = transformers.AutoModelForCausalLM.from_pretrained(llama)
    import peft

    tuned = peft.PeftModel.from_pretrained(tuned, str(adapters)).eval()
    tokens = load_tokenizer(llama)(SENTENCES[3], return_tensors="pt")
    with torch.no_grad():
        state = inner(tuned)(**tokens, output_hidden_states=True).hidden_states[2]
    np.testing.assert_allclose(stores["tuned"]["hidden.2"][3], state[0].mean(0), atol=2e-4)


def test_adapters_are_attacked_by_their_folder(llama: Path, adapters: Path) -> None:
    chats = [load_chat(str(path), template=PLAIN_TEMPLATE) for path in (adapters, llama)]
    config = SuffixAttack(steps=2, length=4, width=16, top_k=16, early_stop=False)
    request, target = "the red cat", " sat on"
    found, other = (suffix_attack(chat, request, target, config) for chat in chats)
    assert found.losses != other.losses
    for model, result in ((load(adapters), found), (load(llama), other)):
        ids, wanted = chats[1].encode(request + result.suffix), chats[1].encode(target)
        assert result.loss == pytest.approx(target_loss(model, ids + wanted, len(wanted))[0], rel=1e-5)
    assert chats[1].answers([request + found.suffix], max_new_tokens=2)


def test_the_study_fine_tunes_a_checkpoint_by_its_folder(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("\n".join(SENTENCES * 60))
    (tmp_path / "other.txt").write_text("attention, convolution and recurrence: three ways to look " * 300)
    config = llm_finetune_overlap.Config(
        model=str(llama), corpora=(str(tmp_path / "book.txt"),), outside=(str(tmp_path / "other.txt"),), alpha=(0.0,),
        seeds=1, chunks=8, chunk_blocks=2, block=16, steps=6, batch_size=4, rank=2, learning_rate=3e-2, probe=12,
        probe_words=5, words=30, k=3, permutations=4,
    )  # fmt: skip
    run = RunDirectory.create(tmp_path / "run", {})
    cells = llm_finetune_overlap.cells(config)
    assert [cell.kind for cell in cells].count("model") == 3  # no base is trained
    for cell in cells:
        restored = Cell.from_json(json.loads(json.dumps(cell.to_json())))
        result = language_work.run_cell(restored, run)
        record = {"study": cell.study, "kind": cell.kind, "params": cell.params, "result": result, "seconds": 0.0}
        run.write_record(cell.key, record)
    tokens, pair = run.read(cells[0].key)["result"], run.read(next(c.key for c in cells if c.kind == "pair"))["result"]
    assert tokens["vocabulary"] == len(byte_pairs())
    assert pair["views"]["change/in"]["layers_first"] == ["hidden.1", "hidden.2"]
    floor = next(run.read(c.key)["result"] for c in cells if c.params.get("role") == "floor")
    assert floor["similarity"]["cka"]["values"][0][0] == pytest.approx(1)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(shutil.rmtree, "expected a checkpoint that transformers can load", id="missing"),
        pytest.param(lambda path: _task(path, "SEQ_CLS"), "expected adapters of a causal language model, got .*SEQ_CLS",
                     id="another-task"),
        pytest.param(lambda path: _base(path, str(path / "none")), "expected a checkpoint that transformers can load",
                     id="missing-base"),
        pytest.param(lambda path: (path / "adapter_model.safetensors").unlink(),
                     "expected a checkpoint that transformers can load", id="without-weights"),
    ],
)  # fmt: skip
def test_adapters_that_cannot_be_loaded(spoil: Any, message: str, adapters: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy"
    shutil.copytree(adapters, path)
    spoil(path)
    with pytest.raises(ValueError, match=message):
        load_checkpoint(str(path), "text", device="cpu")


def _task(path: Path, task: str) -> None:
    settings = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps({**settings, "task_type": task}))


def _base(path: Path, base: str) -> None:
    settings = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps({**settings, "base_model_name_or_path": base}))


def test_a_larger_tokenizer_than_the_model_knows_is_named(llama: Path) -> None:
    blocks = TokenBlocks(np.zeros((2, 8), np.int32), 5000)
    with pytest.raises(ValueError, match="got a vocabulary of 5000: the blocks come from another tokenizer"):
        train(LanguageConfig(model=str(llama), tuning="full", steps=1), blocks)
