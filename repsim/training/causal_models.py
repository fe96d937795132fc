"""Causal language models of transformers: from sizes, from a checkpoint, with adapters; saved and loaded in its format.

A folder holds what transformers and peft write: `config.json` and the weights of a whole model, or
`adapter_config.json` and the adapters alone, whose base lies elsewhere.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from repsim.data.text import LOADING_ERRORS, split_revision, why

KINDS = ("gpt2", "llama")


def from_sizes(
    kind: str, vocabulary: int, *, width: int, layers: int, heads: int, positions: int, dropout: float
) -> Any:
    """Build an untrained model in the style of GPT-2 or Llama; input and output embeddings are one.

    >>> from_sizes("llama", 4096, width=128, layers=4, heads=4, positions=128, dropout=0.0)

    Args:
        kind: one of KINDS.
        vocabulary: number of tokens.
        width, layers, heads: of the transformer; a Llama's feed-forward part is 8/3 of the width, rounded up to 16s.
        positions: the most tokens it can take.
        dropout: of embeddings, attention and residuals ("llama": of attention).

    Returns:
        A transformers model; its weights are drawn from torch's global generator.
    """
    import transformers

    if kind == "gpt2":
        made = transformers.GPT2Config(
            vocab_size=vocabulary, n_embd=width, n_layer=layers, n_head=heads, n_positions=positions,
            resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout, bos_token_id=None, eos_token_id=None,
        )  # fmt: skip
        return transformers.GPT2LMHeadModel(made)
    inner = 16 * -(-8 * width // 48)
    made = transformers.LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=inner, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=positions,
        attention_dropout=dropout, tie_word_embeddings=True, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(made)


def from_checkpoint(
    source: str | Mapping[str, Any], *, weights: bool, vocabulary: int | None = None, dtype: torch.dtype = torch.float32
) -> Any:
    """Build a causal model of a checkpoint, or of a configuration alone.

    >>> from_checkpoint("meta-llama/Llama-3.2-1B-Instruct", weights=True, dtype=torch.bfloat16)

    Args:
        source: a folder with config.json, a hub id, "owner/name" or with a revision "owner/name@revision", or a
            transformers configuration with "model_type".
        weights: load the checkpoint's weights; False draws new ones from torch's global generator.
        vocabulary: number of tokens of a model with new weights; None: what the configuration says.
        dtype: of the weights.

    Returns:
        A transformers model.
    Raises:
        ValueError for a source that transformers cannot load as a causal model, a gated or missing one, and one that
        lacks weights.
    """
    import transformers

    which: dict[str, str] = {}
    if isinstance(source, Mapping):
        name = dict(source).get("model_type", "a configuration without model_type")
        if weights:
            raise ValueError("[build] expected a checkpoint folder or hub id to load weights of, got a configuration")
    else:
        name, which = split_revision(source)
    try:
        if isinstance(source, Mapping):
            settings = {**source}
            config = transformers.AutoConfig.for_model(settings.pop("model_type"), **settings)
        else:
            config = transformers.AutoConfig.from_pretrained(name, **which)
        if weights:
            model, report = transformers.AutoModelForCausalLM.from_pretrained(
                name, config=config, output_loading_info=True, dtype=dtype, **which
            )
        else:
            if vocabulary is not None:
                config.vocab_size = vocabulary
            return transformers.AutoModelForCausalLM.from_config(config).to(dtype)
    except LOADING_ERRORS as error:
        raise ValueError(f"[build] expected a causal model of transformers, got {name}: {why(error)}") from None
    lacking = sorted([*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])])
    if lacking:
        raise ValueError(f"[build] expected a checkpoint with all weights, got {name} without {', '.join(lacking[:3])}")
    return model


def with_adapters(model: Any, *, rank: int, alpha: float, dropout: float) -> Any:
    """Wrap a model with LoRA adapters on all its linear layers but the output's; the rest is frozen.

    >>> with_adapters(model, rank=8, alpha=16, dropout=0.05).print_trainable_parameters()

    Hu et al. 2021 (arXiv 2106.09685): W x becomes W x + (alpha / rank) B A x, with A [rank, in] and B [out, rank].

    Args:
        model: a transformers model.
        rank: of B A.
        alpha: alpha / rank scales B A.
        dropout: on the adapters' input.

    Returns:
        A peft model; A is drawn from torch's global generator, B is 0. Adapters are float32 beside weights of less.
    """
    import peft
    from transformers.pytorch_utils import Conv1D

    settings = peft.LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM",
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
    )  # fmt: skip
    return peft.get_peft_model(model, settings)


def save(model: Any, folder: str | Path, *, tokenizer: Any = None) -> None:
    """Write a model as transformers does, or its adapters as peft does; whole under its name, or not at all.

    >>> save(trained.model, "base", tokenizer=tokenizer)

    The same weights give the same bytes of weights.

    Args:
        model: of `build` or `train`.
        folder: to be made, in one that exists; one that is there is replaced.
        tokenizer: of transformers, saved beside the weights.

    Raises:
        OSError where it cannot be written.
    """
    path = Path(folder)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        if hasattr(model, "peft_config"):
            model.save_pretrained(temporary, save_embedding_layers=False)
            (temporary / "README.md").unlink(missing_ok=True)  # peft's empty form of a model card
        else:
            model.save_pretrained(temporary)
        if tokenizer is not None:
            tokenizer.save_pretrained(temporary)
        for file in temporary.iterdir():
            with open(file, "rb") as written:
                os.fsync(written.fileno())
        shutil.rmtree(path, ignore_errors=True)
        os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def load(folder: str | Path, *, base: str | Path | None = None, dtype: torch.dtype = torch.float32) -> Any:
    """Load what `save`, transformers or peft wrote: a whole model, or adapters on their base.

    >>> load("adapters", base="base")

    Args:
        folder: of the model or of the adapters.
        base: folder or hub id of the adapters' base; None: the one that they name.
        dtype: of the weights.

    Returns:
        The model in eval mode on the CPU.
    Raises:
        FileNotFoundError for a folder that holds neither, ValueError for one that does not fit.
    """
    path = Path(folder)
    settings = path / "adapter_config.json"
    if not settings.is_file():
        if not (path / "config.json").is_file():
            raise FileNotFoundError(f"[load] expected a folder with config.json or adapter_config.json, got {path}")
        return from_checkpoint(str(path), weights=True, dtype=dtype).eval()
    import peft

    named = base_of(settings)
    model = from_checkpoint(str(base if base is not None else named), weights=True, dtype=dtype)
    try:
        return peft.PeftModel.from_pretrained(model, str(path)).eval()
    except LOADING_ERRORS as error:
        raise ValueError(f"[load] expected adapters that fit {base or named}, got {path}: {why(error)}") from None


def base_of(settings: Path) -> str:
    """The base that adapters name. Example: ``base_of(Path("adapters/adapter_config.json"))``, a folder or hub id."""
    return str(json.loads(settings.read_text())["base_model_name_or_path"])


def inner(model: Any) -> nn.Module:
    """The transformers model itself, under the adapters where there are any: `named_modules` as before wrapping.

    >>> inner(load("adapters", base="base")).config.model_type
    'gpt2'
    """
    found: nn.Module = model.get_base_model() if hasattr(model, "get_base_model") else model
    return found


def context(model: Any) -> int | None:
    """The most tokens that a model can take, None where its configuration states no number.

    >>> context(from_sizes("llama", 4096, width=128, layers=4, heads=4, positions=128, dropout=0.0))
    128
    """
    limit = getattr(inner(model).config, "max_position_embeddings", None)
    return limit if isinstance(limit, int) else None
