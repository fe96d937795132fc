"""Texts as tokens: padded on the right, pooled where the mask is, and put back together to words."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from repsim.activations import Pool

TEXT_POOLS = ("mean", "mean_rest", "last", "cls", "word")
_WORD = re.compile(r"\S+")


def word_starts(text: str) -> list[int]:
    """Where the words of a text begin; words are what white space separates, whatever the tokenizer.

    Example: ``word_starts("it's  so") == [0, 6]``.
    """
    return [found.start() for found in _WORD.finditer(text)]


def word_of_tokens(text: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """The word that every token belongs to: the one with the token's first character that is no white space.

    Example: ``word_of_tokens("an embedding", [(0, 0), (0, 2), (2, 8), (8, 12)]) == [-1, 0, 1, 1]``.

    Parameters: ``text``; ``offsets``, the characters [start, stop) of every token, empty for special tokens.
    Returns: positions of words; -1 for special tokens and white space.
    """
    starts = word_starts(text)
    words = []
    for start, stop in offsets:
        piece = text[start:stop]
        first = start + len(piece) - len(piece.lstrip())
        words.append(bisect_right(starts, first) - 1 if first < stop else -1)
    return words


@dataclass(frozen=True, eq=False)
class TokenBatch:
    """Texts of a batch as a model takes them.

    ``arguments``: "input_ids" and "attention_mask" [m, t]; ``lengths``: tokens of every text, special ones among them;
    ``words``: the word of every token of every text, where words are asked for.
    """

    arguments: dict[str, torch.Tensor]
    lengths: list[int]
    words: list[list[int]]

    def pool(self, how: str) -> Pool:
        """What makes rows of the states of these tokens: see `pool_tokens`."""
        return partial(pool_tokens, how, self.lengths, self.words)


def token_limit(checkpoint: Any, max_tokens: int | None) -> int | None:
    """The most tokens that a text may have: what the model can take, or what the user says where that is less."""
    stated = getattr(checkpoint.tokenizer, "model_max_length", None)
    limits = [stated if stated is not None and stated < 10**9 else None]
    limits.append(getattr(checkpoint.model.config, "max_position_embeddings", None))
    known = [limit for limit in limits if isinstance(limit, int) and limit > 0]
    limit = min(known) if known else None
    if max_tokens is not None and limit is not None and max_tokens > limit:
        raise ValueError(f"[extract] expected max_tokens of at most {limit} for {checkpoint.name}, got {max_tokens}")
    return limit


def tokenize(
    checkpoint: Any, texts: Sequence[str], first: int, *, max_tokens: int | None = None, words: bool = False
) -> TokenBatch:
    """Texts as one batch of tokens, padded on the right.

    Example: ``tokenize(checkpoint, ["one", "two more"], 0).arguments["input_ids"]``, [2, t].

    Parameters: ``checkpoint``; ``texts``, m of them; ``first``, the position of the first one, for error messages;
        ``max_tokens``, where to cut longer texts; None refuses texts that are too long for the model. ``words``,
        whether the words of the tokens are needed.
    Returns: a TokenBatch on the model's device.
    Raises: ValueError: a text that is too long, or has no token; a tokenizer that cannot say where tokens come from.
    """
    tokenizer, limit = checkpoint.tokenizer, token_limit(checkpoint, max_tokens)
    if words and not tokenizer.is_fast:
        raise ValueError(
            f"[extract] expected a tokenizer that says where its tokens come from for pool 'word', got "
            f"{type(tokenizer).__name__}, which is a slow one"
        )
    cut = {} if max_tokens is None else {"truncation": True, "max_length": max_tokens}
    encoded = tokenizer(list(texts), return_offsets_mapping=words, **cut)
    ids: list[list[int]] = encoded["input_ids"]
    lengths = [len(tokens) for tokens in ids]
    for place, length in enumerate(lengths, first):
        if not length:
            raise ValueError(f"[extract] expected at least one token of text {place}, got none")
        if limit is not None and length > limit:
            raise ValueError(
                f"[extract] expected texts of at most {limit} tokens for {checkpoint.name}, got {length} in text "
                f"{place}; max_tokens cuts longer ones"
            )
    of_tokens: list[list[int]] = []
    if words:
        of_tokens = [word_of_tokens(text, spans) for text, spans in zip(texts, encoded["offset_mapping"], strict=True)]
        for place, (text, found) in enumerate(zip(texts, of_tokens, strict=True), first):
            lost = set(range(len(word_starts(text)))) - set(found)
            if lost:
                word = _WORD.findall(text)[min(lost)]
                raise ValueError(f"[extract] expected a token of every word, got none of {word!r} in text {place}")
    # Behind the last token no causal model looks, and the mask hides it from the others; the id itself must only exist.
    padding = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
    longest = max(lengths)
    padded = torch.tensor([tokens + [padding] * (longest - len(tokens)) for tokens in ids])
    mask = torch.tensor([[1] * length + [0] * (longest - length) for length in lengths])
    device = checkpoint.device
    arguments = {"input_ids": padded.to(device), "attention_mask": mask.to(device)}
    return TokenBatch(arguments, lengths, of_tokens)


def pool_tokens(
    how: str,
    lengths: Sequence[int],
    words: Sequence[Sequence[int]],
    where: str,
    tensor: torch.Tensor,
    wide: torch.dtype,
) -> torch.Tensor:
    """One row per text, or per word, from the states of tokens.

    Parameters: ``how``, "mean" over the tokens of a text, special ones among them; "mean_rest" over all but the first,
        whose state in many causal models is a constant of great norm that outweighs the text (Sun et al. 2024, "Massive
        activations in large language models"); "last" or "cls", its last or first token; "word", for every word the
        mean over its tokens, text after text; ``lengths`` and ``words`` as in `TokenBatch`; ``where``, the beginning of
        an error message; ``tensor`` [m, t, d]; ``wide``, the dtype of sums.
    Returns: [m, d], or [words of all texts, d].
    Raises: ValueError: the tensor has no state for every token; a text of one token has no mean of the rest.
    """
    if tensor.ndim == 2 and how == "mean":
        return tensor  # a row per text already
    if tensor.ndim != 3 or tensor.shape[1] != max(lengths):
        raise ValueError(
            f"{where} expected a state for each of {max(lengths)} tokens [n, t, c] for pool {how!r}, "
            f"got {list(tensor.shape)}"
        )
    rows = torch.arange(len(lengths), device=tensor.device)
    counts = torch.tensor(lengths, device=tensor.device)
    if how == "cls":
        return tensor[:, 0]
    if how == "last":
        return tensor[rows, counts - 1]
    # Not times the mask: what stands at a padding may be NaN or infinite, and 0 times that is NaN.
    places = torch.arange(tensor.shape[1], device=tensor.device)
    inside = places < counts[:, None]
    if how == "mean_rest":
        inside, counts = inside & (places > 0), counts - 1
        if min(lengths) < 2:
            place = list(lengths).index(1)
            raise ValueError(
                f"{where} expected at least two tokens of every text for pool {how!r}, got one of text {place} of these"
            )
    states = torch.where(inside[:, :, None], tensor.to(wide), torch.zeros((), dtype=wide, device=tensor.device))
    if how in ("mean", "mean_rest"):
        return states.sum(dim=1) / counts[:, None].to(wide)
    means = []
    for text, found in enumerate(words):
        word = torch.tensor(found, device=tensor.device)
        members = (word == torch.arange(max(found) + 1, device=tensor.device)[:, None]).to(wide)  # [words, tokens]
        means.append(members @ states[text, : len(found)] / members.sum(dim=1, keepdim=True))
    return torch.cat(means)
