"""Layers of real checkpoints against forward passes of one input at a time, pooled by hand."""

from __future__ import annotations

import json
import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
import checkpoints  # noqa: E402
import tokenizers  # noqa: E402
from checkpoints import TEXTS  # noqa: E402
from PIL import Image  # noqa: E402

from repsim.extraction import extract_layers, load_checkpoint, load_inputs, write_attention  # noqa: E402
from repsim.extraction.checkpoint import Checkpoint  # noqa: E402
from repsim.extraction.tokens import pool_tokens, tokenize, word_of_tokens, word_starts  # noqa: E402
from repsim.store import Store  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def text_models(folder) -> dict[str, Path]:
    return checkpoints.save_text_models(folder)


@pytest.fixture(scope="module")
def image_models(folder) -> dict[str, Path]:
    return checkpoints.save_image_models(folder)


@pytest.fixture
def lines(tmp_path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def photos(tmp_path) -> tuple[Path, np.ndarray]:
    return tmp_path / "photos", checkpoints.save_images(tmp_path / "photos")


# ---------------------------------------------------------------------------------------------- text


def states_of(path: Path, name: str) -> list[np.ndarray]:
    """float64 [layers, t, d] of every text, run alone, without padding, through the model's own class."""
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(path)
    kinds = {
        "bert": transformers.BertForMaskedLM,
        "gpt2": transformers.GPT2LMHeadModel,
        "llama": transformers.LlamaForCausalLM,
        "t5": transformers.T5EncoderModel,
    }
    model = kinds[name].from_pretrained(path).eval()
    out = []
    for text in TEXTS:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            hidden = model(input_ids=ids, output_hidden_states=True).hidden_states
        out.append(np.stack([state[0].double().numpy() for state in hidden]))
    return out


def pieces_of_words(path: Path, name: str, text: str) -> list[list[bool]]:
    """For every word, tokenized by itself with the white space before it: whether each of its tokens has text."""
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(path)
    special = name not in ("bert", "t5")  # the byte-level tokenizer adds none
    words = [tokenizer(word, add_special_tokens=special)["input_ids"] for word in re.findall(r"\s*\S+", text)]
    return [[bool(tokenizer.decode([token]).strip()) for token in word] for word in words]


def by_hand(path: Path, name: str, pool: str) -> list[np.ndarray]:
    """float64 [rows, d] per layer."""
    rows = []
    for text, states in zip(TEXTS, states_of(path, name), strict=True):
        if pool == "word":
            inner, at = states[:, 1:-1] if name in ("bert", "t5") else states, 0
            for word in pieces_of_words(path, name, text):
                rows.append(inner[:, at : at + len(word)][:, word].mean(1))
                at += len(word)
            assert at == inner.shape[1]
        else:
            rest = states[:, 1:].mean(1)
            rows.append({"mean": states.mean(1), "mean_rest": rest, "last": states[:, -1], "cls": states[:, 0]}[pool])
    return list(np.stack(rows, axis=1))


@pytest.mark.parametrize("pool", ["mean", "mean_rest", "last", "cls", "word"])
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "t5"])
def test_text_in_padded_batches_is_text_alone(text_models, lines, tmp_path, name, pool):
    checkpoint = load_checkpoint(str(text_models[name]), "text")
    store = extract_layers(checkpoint, load_inputs(lines), tmp_path / "s", pool=pool, batch_size=3)
    expected = by_hand(text_models[name], name, pool)
    first = 1 if pool == "cls" else 0
    assert store.layers == ("hidden.0", "hidden.1", "hidden.2")[first:]
    assert len(store) == (sum(len(text.split()) for text in TEXTS) if pool == "word" else len(TEXTS))
    for layer, rows in zip(store.layers, expected[first:], strict=True):
        np.testing.assert_allclose(store[layer], rows, atol=2e-5)
    spread = [np.abs(rows - rows[0]).max() for rows in expected[1:]]
    assert min(spread) > 0.01  # not all rows the same, which would agree whatever is pooled
    store.verify()


def test_words_do_not_depend_on_the_tokenizer(text_models, lines, tmp_path):
    stores = [
        extract_layers(
            load_checkpoint(str(text_models[name]), "text"), load_inputs(lines), tmp_path / name, pool="word"
        )
        for name in ("bert", "llama")
    ]
    assert np.array_equal(stores[0].ids, stores[1].ids)
    assert stores[0].metadata["extraction"]["data_sha256"] == stores[1].metadata["extraction"]["data_sha256"]


@pytest.mark.parametrize(
    ("text", "offsets", "words"),
    [
        pytest.param("a bc", [(0, 0), (0, 1), (2, 4), (0, 0)], [-1, 0, 1, -1], id="special-tokens"),
        pytest.param("a bc", [(0, 1), (1, 3), (3, 4)], [0, 1, 1], id="white-space-before-the-token"),
        pytest.param("a \n b", [(0, 1), (1, 3), (3, 5)], [0, -1, 1], id="token-of-white-space"),
        pytest.param("  é!", [(2, 3), (2, 3), (3, 4)], [0, 0, 0], id="bytes-of-a-character"),
        pytest.param("a b", [(0, 3)], [0], id="across-words-counts-for-the-first"),
        pytest.param("a\u2028b", [(0, 1), (2, 3)], [0, 1], id="line-separator-is-white-space"),
    ],
)
def test_words_of_tokens(text, offsets, words):
    assert word_of_tokens(text, offsets) == words
    assert len(word_starts(text)) == len(text.split())


def test_padding_that_is_not_a_number_is_left_out():
    states = torch.tensor([[[1.0], [3.0], [float("nan")]], [[2.0], [4.0], [9.0]]])
    lengths, words = [2, 3], [[0, 0], [0, 1, 1]]
    pools = {how: pool_tokens(how, lengths, words, "", states, torch.float32).ravel().tolist()
             for how in ("mean", "mean_rest", "last", "cls", "word")}  # fmt: skip
    assert pools == {"mean": [2, 5], "mean_rest": [3, 6.5], "last": [3, 9], "cls": [1, 2], "word": [2, 2, 6.5]}


def test_a_state_per_text_and_states_that_are_not_of_tokens():
    rows = torch.ones(2, 5)
    assert pool_tokens("mean", [2, 3], [], "", rows, torch.float32) is rows
    for how, tensor in (("cls", rows), ("mean", torch.ones(2, 4, 5)), ("last", torch.ones(2, 3, 5, 1))):
        shape = re.escape(str(list(tensor.shape)))
        with pytest.raises(
            ValueError, match=rf"^where expected a state for each of 3 tokens \[n, t, c\] .*got {shape}$"
        ):
            pool_tokens(how, [2, 3], [], "where", tensor, torch.float32)


def test_a_text_of_one_token_has_no_mean_of_the_rest():
    with pytest.raises(ValueError, match=r"^where expected at least two tokens of every text for pool 'mean_rest'"):
        pool_tokens("mean_rest", [3, 1], [], "where", torch.ones(2, 3, 5), torch.float32)


def test_longer_texts_are_refused_or_cut(text_models, tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("one\n" + "the cat " * 60)
    checkpoint = load_checkpoint(str(text_models["bert"]), "text")
    with pytest.raises(
        ValueError,
        match=r"^\[extract\] expected texts of at most 100 tokens for .*bert, got \d+ in text 1; max_tokens cuts",
    ):
        extract_layers(checkpoint, load_inputs(path), tmp_path / "s")
    store = extract_layers(checkpoint, load_inputs(path), tmp_path / "t", max_tokens=8, pool="cls")
    tokens = tokenize(checkpoint, ["the cat " * 60], 0, max_tokens=8).arguments["input_ids"]
    assert tokens.shape == (1, 8) and tokens[0, -1] == checkpoint.tokenizer.sep_token_id
    with torch.no_grad():
        hidden = checkpoint.model(input_ids=tokens, output_hidden_states=True).hidden_states
    np.testing.assert_allclose(store["hidden.2"][1], hidden[2][0, 0], atol=1e-5)
    with pytest.raises(ValueError, match=r"^\[extract\] expected max_tokens of at most 100 for .*bert, got 101$"):
        extract_layers(checkpoint, load_inputs(path), tmp_path / "u", max_tokens=101)


def test_the_side_of_a_model_of_images_and_text(folder, lines, photos, tmp_path):
    path = checkpoints.save_clip(folder)
    model = transformers.CLIPModel.from_pretrained(path).eval()
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(path)
    store = extract_layers(load_checkpoint(str(path), "text"), load_inputs(lines), tmp_path / "t", pool="mean")
    with torch.no_grad():
        ids = torch.tensor([tokenizer(TEXTS[1])["input_ids"]])
        hidden = model.text_model(input_ids=ids, output_hidden_states=True).hidden_states
    np.testing.assert_allclose(store["hidden.1"][1], hidden[1][0].mean(0), atol=1e-5)
    images = extract_layers(load_checkpoint(str(path), "images"), load_inputs(photos[0]), tmp_path / "i", pool="cls")
    assert images["hidden.2"].shape == (7, 16) and images.layers[:2] == ("hidden.1", "hidden.2")


# ---------------------------------------------------------------------------------------------- images


def pixels_of(images: np.ndarray) -> torch.Tensor:
    scaled = (images / 255 - np.array([0.5, 0.4, 0.3])) / np.array([0.2, 0.25, 0.3])
    return torch.from_numpy(scaled.transpose(0, 3, 1, 2).astype(np.float32))


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_vision_transformer(image_models, photos, tmp_path, pool):
    checkpoint = load_checkpoint(str(image_models["vit"]), "images")
    store = extract_layers(checkpoint, load_inputs(photos[0]), tmp_path / "s", pool=pool, batch_size=3)
    model = transformers.ViTForImageClassification.from_pretrained(image_models["vit"]).eval()
    with torch.no_grad():
        hidden = list(model(pixels_of(photos[1]), output_hidden_states=True).hidden_states)
        hidden.append(model.vit(pixels_of(photos[1])).last_hidden_state)  # behind the last norm
    every = ("hidden.0", "hidden.1", "hidden.2", "final")
    first = 1 if pool == "cls" else 0
    assert store.layers == every[first:]
    for layer, state in zip(every[first:], hidden[first:], strict=True):
        expected = state[:, 0] if pool == "cls" else state.mean(1)
        np.testing.assert_allclose(store[layer], expected, atol=2e-5)


def test_a_class_token_before_the_first_layer_is_kept_where_it_is_asked_for(image_models, photos, tmp_path):
    checkpoint = load_checkpoint(str(image_models["vit"]), "images")
    store = extract_layers(checkpoint, load_inputs(photos[0]), tmp_path / "s", pool="cls", layers=["hidden.0"])
    assert store.layers == ("hidden.0",) and (store["hidden.0"] == store["hidden.0"][0]).all()


@pytest.mark.parametrize("pool", ["mean", "flatten"])
def test_convolutional_network(image_models, photos, tmp_path, pool):
    checkpoint = load_checkpoint(str(image_models["resnet"]), "images")
    store = extract_layers(checkpoint, load_inputs(photos[0]), tmp_path / "s", pool=pool)
    model = transformers.ResNetForImageClassification.from_pretrained(image_models["resnet"]).eval()
    with torch.no_grad():
        hidden = model(pixels_of(photos[1]), output_hidden_states=True).hidden_states
    assert len(store.layers) == len(hidden) == 3
    for layer, state in zip(store.layers, hidden, strict=True):
        np.testing.assert_allclose(
            store[layer], state.mean((2, 3)) if pool == "mean" else state.flatten(1), rtol=1e-5, atol=2e-5
        )


def test_layers_by_pattern_and_by_module(text_models, lines, tmp_path):
    checkpoint = load_checkpoint(str(text_models["gpt2"]), "text")
    inputs = load_inputs(lines)
    store = extract_layers(checkpoint, inputs, tmp_path / "s", layers=["h.0", "hidden.*", "h.?.mlp"], pool="last")
    assert store.layers == ("h.0", "hidden.0", "hidden.1", "hidden.2", "h.0.mlp", "h.1.mlp")
    assert np.array_equal(store["h.0"], store["hidden.1"])
    with pytest.raises(
        ValueError, match=r"^\[extract\] expected layers of .*gpt2, such as hidden\..*, got 'hidden.9'$"
    ):
        extract_layers(checkpoint, inputs, tmp_path / "t", layers=["hidden.9"])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_on_disk_and_in_the_model(text_models, lines, tmp_path, dtype):
    wide = extract_layers(load_checkpoint(str(text_models["bert"]), "text"), load_inputs(lines), tmp_path / "w")
    disk = extract_layers(
        load_checkpoint(str(text_models["bert"]), "text"), load_inputs(lines), tmp_path / "d", dtype=dtype
    )
    both = load_checkpoint(str(text_models["bert"]), "text", precision=dtype)
    model = extract_layers(both, load_inputs(lines), tmp_path / "m")
    assert disk.dtype("hidden.2") == dtype and model.dtype("hidden.2") == "float32"
    error = [np.abs(store.read("hidden.2").astype(float) - wide["hidden.2"]).max() for store in (disk, model)]
    assert 0 < error[0] < 0.02 and 0 < error[1] < 0.2


def test_a_narrow_model_keeps_what_must_be_wide(text_models):
    model = load_checkpoint(str(text_models["llama"]), "text", precision="bfloat16").model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for name, buffer in model.named_buffers() if "inv_freq" in name} == {torch.float32}


def test_what_a_store_says_of_itself(text_models, lines, tmp_path):
    checkpoint = load_checkpoint(str(text_models["bert"]), "text")
    metadata = extract_layers(checkpoint, load_inputs(lines), tmp_path / "s").metadata
    extraction, origin = metadata["extraction"], metadata["provenance"]
    assert extraction["versions"] == {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
    }
    assert (extraction["device"], extraction["precision"], extraction["pool"]) == ("cpu", "float32", "mean")
    assert len(extraction["weights_sha256"]) == len(extraction["data_sha256"]) == 64
    assert origin["config"]["model_type"] == "bert" and origin["class"] == "BertModel"
    assert origin["model"].endswith("bert") and origin["data"].endswith("texts.txt") and origin["revision"] is None
    assert origin["weights_drawn_at_random"] == ["pooler.dense.bias", "pooler.dense.weight"]
    assert {"commit", "versions", "cpu", "device"} <= set(origin["environment"])


def test_weights_that_are_not_there(text_models, lines, tmp_path, folder):
    """BERT was saved without a pooler: no hidden state needs it, the same is drawn every time, and it is no layer."""
    state = torch.random.get_rng_state()
    first, second = (load_checkpoint(str(text_models["bert"]), "text") for _ in range(2))
    assert first.weights_sha256 == second.weights_sha256 and torch.equal(torch.random.get_rng_state(), state)
    with pytest.raises(
        ValueError, match=r"^\[extract\] expected layers with weights in .*, got 'pooler.dense', drawn at random$"
    ):
        extract_layers(first, load_inputs(lines), tmp_path / "s", layers=["pooler.dense"])
    config = transformers.BertConfig.from_pretrained(text_models["bert"], num_hidden_layers=3)
    path = folder / "deeper"
    transformers.BertModel.from_pretrained(text_models["bert"]).save_pretrained(path)
    config.save_pretrained(path)
    with pytest.raises(
        ValueError, match=r"^\[extract\] expected a checkpoint with all weights, got .*deeper without encoder.layer.2"
    ):
        load_checkpoint(str(path), "text")


# ---------------------------------------------------------------------------------------------- attention


def test_attention_of_padded_text(text_models, lines, tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    checkpoint = load_checkpoint(str(text_models["gpt2"]), "text", attention=True)
    inputs, path = load_inputs(lines), tmp_path / "a.safetensors"
    assert write_attention(checkpoint, inputs, path, batch_size=3) == path
    tensors = safetensors.load_file(path)
    model = transformers.GPT2LMHeadModel.from_pretrained(text_models["gpt2"], attn_implementation="eager").eval()
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(text_models["gpt2"])
    longest = 0
    for number, text in enumerate(TEXTS):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        own = ids.shape[1]
        longest = max(longest, own)
        with torch.no_grad():
            maps = model(input_ids=ids, output_attentions=True).attentions
        assert tensors["tokens"][number] == own
        for layer, expected in enumerate(maps, 1):
            got = tensors[f"attention.{layer}"][number]
            np.testing.assert_allclose(got[:, :own, :own], expected[0], atol=1e-5)
            assert not got[:, own:].any() and not got[:, :, own:].any()
    assert tensors["attention.2"].shape == (len(TEXTS), 2, longest, longest)
    assert np.array_equal(tensors["repsim.ids"], np.arange(len(TEXTS))) and sorted(tmp_path.glob("*.tmp")) == []


def test_attention_of_images_is_not_written_twice_nor_over_something_else(image_models, photos, tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    checkpoint = load_checkpoint(str(image_models["vit"]), "images", attention=True)
    inputs, path = load_inputs(photos[0]), tmp_path / "a.safetensors"
    steps: list[tuple[int, int]] = []
    write_attention(checkpoint, inputs, path, dtype="float16", batch_size=4, progress=lambda *step: steps.append(step))
    tensors = safetensors.load_file(path)
    assert tensors["attention.1"].shape == (7, 2, 17, 17) and tensors["attention.1"].dtype == np.float16
    np.testing.assert_allclose(tensors["attention.1"].astype(float).sum(-1), 1, atol=0.01)
    assert steps == [(4, 7), (7, 7)] and (tensors["tokens"] == 17).all()
    before = path.stat().st_mtime_ns
    write_attention(checkpoint, inputs, path, dtype="float16")
    assert path.stat().st_mtime_ns == before
    for other in (path, photos[0] / "a" / "0.png"):
        with pytest.raises(
            FileExistsError, match=r"^\[extract\] expected a new path for attention maps, got .* with something else$"
        ):
            write_attention(checkpoint, inputs, other)
    with pytest.raises(
        ValueError, match=r"^\[extract\] expected dtype 'float32' or 'float16' of attention maps, got 'int8'$"
    ):
        write_attention(checkpoint, inputs, tmp_path / "b", dtype="int8")


def test_a_model_without_attention(image_models, photos, tmp_path):
    checkpoint = load_checkpoint(str(image_models["resnet"]), "images")
    with pytest.raises(ValueError, match=r"^\[extract\] expected a model with attention maps, got .*resnet without$"):
        write_attention(checkpoint, load_inputs(photos[0]), tmp_path / "a.safetensors")
    assert not (tmp_path / "a.safetensors").exists()


# ---------------------------------------------------------------------------------------------- inputs


def test_texts_from_every_kind_of_file_are_the_same(lines, tmp_path):
    import pyarrow
    from pyarrow import parquet

    texts = list(TEXTS)
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"id": 1, "said": text}) + "\n" for text in texts))
    parquet.write_table(pyarrow.table({"n": list(range(len(texts))), "said": texts}), tmp_path / "t.parquet")
    (tmp_path / "bom.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(texts).encode())
    first = load_inputs(lines)
    for name in ("t.jsonl", "t.parquet", "bom.txt"):
        other = load_inputs(tmp_path / name, column="said")
        assert (other.texts, other.sha256) == (first.texts, first.sha256)
    changed = tmp_path / "changed.txt"
    changed.write_text("\n".join([*texts[:-1], "x"]))
    assert load_inputs(changed).sha256 != first.sha256


def test_images_are_sorted_by_path_and_hashed_by_content(photos):
    inputs = load_inputs(photos[0])
    assert inputs.files == ("a/0.png", "a/1.png", "a/2.png", "b/3.png", "b/4.png", "b/5.png", "b/6.png")
    assert np.array_equal(np.stack([np.asarray(image) for image in inputs.load(1, 4)]), photos[1][1:4])
    (photos[0] / "notes.txt").write_text("no image")
    assert load_inputs(photos[0]).sha256 == inputs.sha256
    Image.fromarray(photos[1][0]).save(photos[0] / "a" / "1.png")
    assert load_inputs(photos[0]).sha256 != inputs.sha256


def test_images_of_other_modes(tmp_path):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(grey).save(tmp_path / "0.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "1.png")
    inputs = load_inputs(tmp_path)
    assert np.array_equal(np.asarray(inputs.load(0, 1)[0]), np.repeat(grey[:, :, None], 3, axis=2))
    with pytest.raises(
        ValueError, match=r"^\[extract\] expected .*1\.png as an image of 8 bits per channel, got mode I;16"
    ):
        inputs.load(1, 2)
    (tmp_path / "1.png").write_bytes((tmp_path / "0.png").read_bytes()[:45])
    with pytest.raises(ValueError, match=r"^\[extract\] expected .*1\.png as an image of 8 bits per channel, got "):
        inputs.load(1, 2)


@pytest.mark.parametrize(
    ("name", "content", "error", "message"),
    [
        ("none.txt", None, FileNotFoundError, r"expected data, got no file or folder .*none\.txt"),
        ("a.txt", "one\n\nthree", ValueError, r"expected a text in line 2 of .*a\.txt, got an empty one"),
        ("a.txt", "", ValueError, r"expected at least one text in .*a\.txt, got none"),
        ("a.txt", b"\xff\xfe", ValueError, r"expected .*a\.txt in UTF-8, got "),
        ("a.csv", "text", ValueError, r"expected data as a folder of images or a .txt, .jsonl, .parquet file, got "),
        ("a.jsonl", '{"text": "x"}\n{', ValueError, r"expected JSON in line 2 of .*a\.jsonl, got "),
        ("a.jsonl", '{"said": 1}', ValueError, r"expected an object with 'text' in line 1 of .*, got the fields said"),
        ("a.jsonl", "[1]", ValueError, r"expected an object with 'text' in line 1 of .*a\.jsonl, got list"),
        ("a.jsonl", '{"text": 3}', ValueError, r"expected a text in line 1 of .*a\.jsonl, got 3"),
        ("a.parquet", "no", ValueError, r"expected a Parquet file, got .*a\.parquet: "),
    ],
)  # fmt: skip
def test_inputs_that_are_refused(tmp_path, name, content, error, message):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(error, match=r"^\[extract\] " + message):
        load_inputs(tmp_path / name)


def test_a_folder_without_images_and_a_table_without_the_column(tmp_path):
    import pyarrow
    from pyarrow import parquet

    with pytest.raises(ValueError, match=r"^\[extract\] expected images \(\.bmp, .*\) in the folder .*, got none$"):
        load_inputs(tmp_path)
    parquet.write_table(pyarrow.table({"said": ["x"]}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"^\[extract\] expected a column 'text' in .*t\.parquet, got said$"):
        load_inputs(tmp_path / "t.parquet")


# ---------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"pool": "flatten"},
            r"expected pool as one of \('mean', 'mean_rest', 'last', 'cls', 'word'\) for text, got 'flatten'",
        ),
        ({"dtype": "int8"}, r"expected dtype as one of .*, got 'int8'"),
        ({"batch_size": 0}, r"expected batch_size of at least 1, got 0"),
        ({"max_tokens": 0}, r"expected max_tokens only with at least 1, got 0"),
        ({"max_tokens": 4, "pool": "word"}, r"expected max_tokens only with another pool than 'word', got 4"),
    ],
)
def test_options_that_are_refused(text_models, lines, tmp_path, options, message):
    checkpoint = load_checkpoint(str(text_models["gpt2"]), "text")
    with pytest.raises(ValueError, match=r"^\[extract\] " + message):
        extract_layers(checkpoint, load_inputs(lines), tmp_path / "s", **options)
    assert not (tmp_path / "s").exists()


def test_inputs_of_the_other_kind_and_pools_of_images(image_models, lines, photos, tmp_path):
    checkpoint = load_checkpoint(str(image_models["resnet"]), "images")
    with pytest.raises(ValueError, match=r"^\[extract\] expected inputs of kind 'images' for .*resnet, got 'text'$"):
        extract_layers(checkpoint, load_inputs(lines), tmp_path / "s")
    with pytest.raises(ValueError, match=r"^\[extract\] expected pool as one of .* for images, got 'word'$"):
        extract_layers(checkpoint, load_inputs(photos[0]), tmp_path / "s", pool="word")
    with pytest.raises(ValueError, match=r"^\[extract\] expected max_tokens only with text, got 4$"):
        extract_layers(checkpoint, load_inputs(photos[0]), tmp_path / "s", max_tokens=4)
    with pytest.raises(
        ValueError, match=r"^\[extract\] layer 'hidden.1': expected tokens \[n, t, c\] for pool 'cls', got"
    ):
        extract_layers(checkpoint, load_inputs(photos[0]), tmp_path / "t", pool="cls")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pool": "cls"}, r"expected pool mean as in the store .*s, got cls"),
        ({"dtype": "float16"}, r"expected dtype float32 as in the store .*s, got float16"),
        ({"layers": ["hidden.0"]}, r"expected layers \['hidden.0', 'hidden.1', 'hidden.2'\] as in the store .*s, got"),
        ({"model": "llama"}, r"expected weights_sha256 \w{64} as in the store .*s, got \w{64}"),
        ({"data": "other"}, r"expected data_sha256 \w{64} as in the store .*s, got \w{64}"),
        ({"precision": "bfloat16"}, r"expected weights_sha256 \w{64} as in the store .*s, got \w{64}"),
        ({"max_tokens": 70}, r"expected max_tokens None as in the store .*s, got 70"),
    ],
)
def test_another_extraction_does_not_continue_a_store(text_models, lines, tmp_path, change, message):
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    inputs = load_inputs(lines)
    with pytest.raises(KeyboardInterrupt):
        extract_layers(
            load_checkpoint(str(text_models["gpt2"]), "text"), inputs, tmp_path / "s", batch_size=2, progress=stop
        )
    assert len(Store.open(tmp_path / "s")) == 2
    options = {**change}
    checkpoint = load_checkpoint(
        str(text_models[options.pop("model", "gpt2")]), "text", precision=options.pop("precision", "float32")
    )
    if options.pop("data", None):
        lines.write_text("another\ntext\nand a third")
        inputs = load_inputs(lines)
    with pytest.raises(ValueError, match=r"^\[extract\] " + message):
        extract_layers(checkpoint, inputs, tmp_path / "s", **options)


class Slow:
    """Stands in for a tokenizer in Python: no offsets."""

    is_fast = False


class Losing:
    """Stands in for a tokenizer that drops characters, or whole texts."""

    is_fast, pad_token_id, eos_token_id = True, None, None

    def __init__(self, ids: list[int]) -> None:
        self.ids = ids

    def __call__(self, texts: list[str], **_: Any) -> dict[str, Any]:
        return {"input_ids": [self.ids for _ in texts], "offset_mapping": [[(0, 1)] * len(self.ids) for _ in texts]}


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (
            Slow(),
            r"expected a tokenizer that says where its tokens come from for pool 'word', got Slow, which is a slow",
        ),
        (Losing([]), r"expected at least one token of text 5, got none"),
        (Losing([7]), r"expected a token of every word, got none of 'second' in text 5"),
    ],
)
def test_tokenizers_that_are_refused(tokenizer, message):
    checkpoint = Checkpoint("stand-in", "text", torch.nn.Linear(2, 2), {}, tokenizer=tokenizer)
    checkpoint.model.config = types.SimpleNamespace()
    with pytest.raises(ValueError, match=r"^\[extract\] " + message):
        tokenize(checkpoint, ["a second"], 5, words=True)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("{folder}/none", {}, r"expected a checkpoint that transformers can load, got .*none: "),
        ("{folder}/bert", {"device": "nowhere"}, r"expected a device that torch can use, got 'nowhere': "),
        ("{folder}/bert", {"precision": "int8"}, r"expected precision as one of .*, got 'int8'"),
        ("{folder}/bert", {"kind": "sound"}, r"expected kind 'images' or 'text', got 'sound'"),
        ("{folder}/bert", {"kind": "images"}, r"expected a checkpoint with an image processor, got .*bert: "),
        ("{folder}/vit", {}, r"expected a checkpoint with a tokenizer, got .*vit: "),
        ("timm:resnet18", {}, r"expected a model of transformers for a model of text, got timm:resnet18"),
        (
            "timm:vit",
            {"kind": "images", "attention": True},
            r"expected a model of transformers for attention maps, got",
        ),
        ("timm:vit", {"kind": "images", "revision": "x"}, r"expected a model of transformers for a revision, got timm"),
    ],
)
def test_checkpoints_that_are_refused(text_models, image_models, folder, name, options, message):
    with pytest.raises(ValueError, match=r"^\[extract\] " + message) as held:
        load_checkpoint(name.format(folder=folder), **{"kind": "text", **options})
    assert "\n" not in str(held.value)


# ---------------------------------------------------------------------------------------------- timm


class TimmNet(torch.nn.Module):
    """What timm's models have of what is used: modules, feature_info, a preparation of its own."""

    feature_info = ({"module": "first"}, {"module": "second"})

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


def stand_in_for_timm(monkeypatch, model: torch.nn.Module, **data: Any) -> None:
    timm, sub = types.ModuleType("timm"), types.ModuleType("timm.data")
    timm.create_model = lambda name, pretrained: model
    base = {"input_size": (3, 14, 14), "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.3), "crop_pct": 0.875}
    sub.resolve_model_data_config = lambda model: {**base, "interpolation": "bicubic", **data}
    monkeypatch.setitem(sys.modules, "timm", timm)
    monkeypatch.setitem(sys.modules, "timm.data", sub)
    monkeypatch.setattr("repsim.extraction.checkpoint.metadata.version", lambda name: f"{name} 1")


def test_timm_by_name(monkeypatch, photos, tmp_path):
    """The images are 16 = 14 / 0.875 pixels wide already: only the centre is cut out."""
    model = TimmNet().eval()
    stand_in_for_timm(monkeypatch, model)
    store = extract_layers(load_checkpoint("timm:net", "images"), load_inputs(photos[0]), tmp_path / "s")
    with torch.no_grad():
        first = model.first(pixels_of(photos[1])[:, :, 1:15, 1:15])
        second = model.second(first)
    assert store.layers == ("first", "second") and store.metadata["extraction"]["versions"]["timm"] == "timm 1"
    np.testing.assert_allclose(store["first"], first.mean((2, 3)), atol=1e-5)
    np.testing.assert_allclose(store["second"], second.mean((2, 3)), atol=1e-5)


@pytest.mark.parametrize(("size", "mode", "shape"), [((40, 20), "center", (28, 14)), ((40, 20), "squash", (14, 14))])
def test_timm_resizes_the_shorter_side_or_both(monkeypatch, size, mode, shape):
    stand_in_for_timm(monkeypatch, TimmNet(), crop_pct=1.0, crop_mode=mode, interpolation="bilinear")
    pixels = load_checkpoint("timm:net", "images").pixels
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    resized = np.asarray(image.resize(shape, Image.Resampling.BILINEAR))
    left = (shape[0] - 14) // 2
    expected = pixels_of(resized[None, :, left : left + 14])
    np.testing.assert_allclose(pixels([image]), expected, atol=1e-5)


def test_timm_that_is_refused(monkeypatch, photos, tmp_path):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(
        ValueError, match=r"^\[extract\] expected timm to be importable for timm:x, got .*; pip install"
    ):
        load_checkpoint("timm:x", "images")
    stand_in_for_timm(monkeypatch, TimmNet(), crop_mode="border")
    with pytest.raises(
        ValueError, match=r"^\[extract\] expected square inputs, cut from the centre, .*, border, bicubic$"
    ):
        load_checkpoint("timm:x", "images")
    last = TimmNet()
    last.output_fmt = "NHWC"
    stand_in_for_timm(monkeypatch, last)
    with pytest.raises(
        ValueError, match=r"^\[extract\] expected a timm model with channels before positions, got timm:x with NHWC$"
    ):
        load_checkpoint("timm:x", "images")
    bare = TimmNet()
    bare.feature_info = ()
    stand_in_for_timm(monkeypatch, bare)
    with pytest.raises(
        ValueError,
        match=r"^\[extract\] expected hidden states from timm:x, got a model that returns none; name its modules",
    ):
        extract_layers(load_checkpoint("timm:x", "images"), load_inputs(photos[0]), tmp_path / "s")
    sys.modules["timm"].create_model = lambda name, pretrained: (_ for _ in ()).throw(
        RuntimeError("Unknown model (x)\nmore")
    )
    with pytest.raises(
        ValueError, match=r"^\[extract\] expected a model that timm can load, got timm:x: Unknown model \(x\)$"
    ):
        load_checkpoint("timm:x", "images")
