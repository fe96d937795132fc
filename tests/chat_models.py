"""Small chat models with random weights: of the instruction grammar, and of a byte-pair tokenizer with a template."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import transformers
from checkpoints import byte_pairs

from repsim.attacks.chat import Chat
from repsim.data import instructions

# Its own in every detail, as chat templates are: special tokens that also end a turn, white space around, stripping.
BYTE_PAIR_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] | trim + '<|end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


def randomised(model: Any, seed: int, scale: float = 0.3) -> Any:
    """Weights large enough that tokens and layers differ; in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def grammar_chat(seed: int = 0, *, kind: str = "gpt2", dtype: torch.dtype = torch.float32, **options: Any) -> Chat:
    """A random model of the grammar's words."""
    words = len(instructions.words())
    if kind == "gpt2":
        config = transformers.GPT2Config(vocab_size=words, n_layer=2, n_head=2, n_embd=16, n_positions=64,
                                         bos_token_id=None, eos_token_id=None)  # fmt: skip
        model = transformers.GPT2LMHeadModel(config)
    else:
        model = llama(words)
    return Chat(randomised(model, seed).to(dtype), instructions.tokenizer(), f"{kind} {seed}", **options)


def llama(tokens: int) -> Any:
    """A small Llama with grouped keys, untied embeddings and more rows of them than there are tokens."""
    config = transformers.LlamaConfig(vocab_size=tokens + 5, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
                                      num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
                                      bos_token_id=None, eos_token_id=None)  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def byte_pair_tokenizer() -> Any:
    """Byte-level BPE as of Llama 3, with tokens that begin and end a turn."""
    tokenizer = byte_pairs()
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<|system|>", "<|user|>", "<|assistant|>", "<|end|>"], "eos_token": "<|end|>"}
    )
    tokenizer.chat_template = BYTE_PAIR_TEMPLATE
    return tokenizer


def byte_pair_chat(seed: int = 0, **options: Any) -> Chat:
    """A random Llama that chats in byte pairs."""
    tokenizer = byte_pair_tokenizer()
    return Chat(randomised(llama(len(tokenizer)), seed), tokenizer, f"llama {seed}", **options)


def target_loss(model: Any, ids: list[int], count: int) -> tuple[float, bool]:
    """Textbook: mean of -log p of the last `count` tokens given all before, and whether each is the likeliest."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0].double().numpy()
    total, likeliest = 0.0, True
    for place in range(len(ids) - count, len(ids)):
        row = logits[place - 1]
        exponentials = np.exp(row - row.max())
        total -= np.log(exponentials[ids[place]] / exponentials.sum())
        likeliest &= int(row.argmax()) == ids[place]
    return total / count, likeliest
