"""Small real checkpoints in the format of Hugging Face, from configurations, with tokenizers trained on the spot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXTS = (
    "the cat sat on the mat",
    "representations of neural networks become alike",
    "it's late",
    "attention, convolution and recurrence: three ways to look at the same sentence",
    "naïve  spacing\tis kept apart",
    "one",
    "the mat sat on the cat, said the neural network",
)
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def word_pieces() -> transformers.PreTrainedTokenizerFast:
    """A WordPiece tokenizer as of BERT: pieces never cross white space or punctuation."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(TEXTS, trainers.WordPieceTrainer(vocab_size=60, special_tokens=SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="[MASK]", **names)


def byte_pairs(**names: str) -> transformers.PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer as of GPT-2: white space begins a token, there is no padding token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", **{"bos_token": "<|endoftext|>", **names}
    )


def save_text_models(folder: Path) -> dict[str, Path]:
    """BERT without a pooler, GPT-2, Llama, and the encoder of T5, each with its tokenizer; name -> its folder."""
    pieces, pairs = word_pieces(), byte_pairs()
    one = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 20}
    built: dict[str, tuple[Any, Any]] = {
        "bert": (
            transformers.BertForMaskedLM(
                transformers.BertConfig(vocab_size=len(pieces), max_position_embeddings=100, **one)
            ),
            pieces,
        ),
        "gpt2": (
            transformers.GPT2LMHeadModel(
                transformers.GPT2Config(vocab_size=len(pairs), n_layer=2, n_head=2, n_embd=16, n_positions=80)
            ),
            pairs,
        ),
        "llama": (
            transformers.LlamaForCausalLM(
                transformers.LlamaConfig(vocab_size=len(pairs), max_position_embeddings=90, **one)
            ),
            pairs,
        ),
        "t5": (
            transformers.T5ForConditionalGeneration(
                transformers.T5Config(
                    vocab_size=len(pieces), d_model=16, d_kv=8, d_ff=20, num_layers=2, num_heads=2,
                    decoder_start_token_id=0,
                )
            ),
            pieces,
        ),
    }  # fmt: skip
    return {name: _save(folder / name, seed, model, tokenizer) for seed, (name, (model, tokenizer)) in _seeded(built)}


def save_image_models(folder: Path) -> dict[str, Path]:
    """ViT and ResNet with heads, each with its image processor; name -> its folder."""
    vit = transformers.ViTConfig(
        image_size=16, patch_size=4, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=20
    )
    resnet = transformers.ResNetConfig(
        embedding_size=6, hidden_sizes=[6, 10], depths=[1, 1], layer_type="basic", num_labels=3
    )
    pixels = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True}
    pixels |= {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.25, 0.3], "resample": 2}
    pixels |= {"size": {"height": 16, "width": 16}, "image_processor_type": "ViTImageProcessor"}
    built = {
        "vit": (transformers.ViTForImageClassification(vit), pixels),
        "resnet": (transformers.ResNetForImageClassification(resnet), pixels),
    }
    return {name: _save(folder / name, seed, model, processor) for seed, (name, (model, processor)) in _seeded(built)}


def save_clip(folder: Path) -> Path:
    """A model of images and of text in one checkpoint."""
    one = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 20}
    pieces = word_pieces()
    ends = {"eos_token_id": pieces.sep_token_id, "bos_token_id": pieces.cls_token_id, "pad_token_id": 0}
    config = transformers.CLIPConfig(
        text_config={**one, **ends, "vocab_size": len(pieces), "max_position_embeddings": 100},
        vision_config={**one, "image_size": 16, "patch_size": 8},
    )
    path = _save(folder / "clip", 9, transformers.CLIPModel(config), pieces)
    pixels = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
    (path / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "CLIPImageProcessor", **pixels}))
    return path


def save_images(folder: Path, n: int = 7) -> np.ndarray:
    """n PNG files of 16 x 16 in two folders; uint8 [n, 16, 16, 3] in the order of their paths."""
    pixels = np.random.default_rng(4).integers(0, 256, (n, 16, 16, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        path = folder / ("a" if number < 3 else "b") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return pixels


def _seeded(built: dict[str, Any]) -> Any:
    return enumerate(built.items())


def _save(path: Path, seed: int, model: Any, companion: Any) -> Path:
    """Weights large enough that layers differ, saved with the tokenizer or the processor's configuration."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(path)
    if isinstance(companion, dict):
        (path / "preprocessor_config.json").write_text(json.dumps(companion))
    else:
        companion.save_pretrained(path)
    return path
