"""A language model as its users meet it: messages in by its chat template, greedy answers out, and what lies between.

An attack works on tokens, but what it leaves behind is text: it is appended to a request, goes through the template of
whatever model it meets and is tokenised anew. `Chat` keeps the two apart and can tell where they differ.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from repsim.data.text import LOADING_ERRORS, split_revision, why
from repsim.training.causal_models import base_of, context, from_checkpoint, inner, load

PLAIN_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
_MARK = "\u2063suffix\u2063"  # stands where a suffix will stand while a template is taken apart


@dataclass(frozen=True, eq=False)
class Chat:
    """A causal language model, its tokenizer and its chat template.

    >>> chat = Chat(model, tokenizer)
    >>> chat.answers(["how do i bake the bread ?"], max_new_tokens=24)
    ['sure , first mix the flour , ...']

    Args:
        model: of transformers, in eval mode, on any device.
        tokenizer: of transformers.
        name: what error messages call it.
        system: a system message before every request; None for none.
        template: Jinja, in place of the tokenizer's own chat template; PLAIN_TEMPLATE, for a model that has none
            because it was not trained to chat, is the request alone.

    Raises:
        ValueError: no chat template, or one that loses or repeats what the user says; a model in train mode.
    """

    model: Any
    tokenizer: Any
    name: str = "model"
    system: str | None = None
    template: str | None = None

    def __post_init__(self) -> None:
        if self.template is None and not getattr(self.tokenizer, "chat_template", None):
            raise ValueError(
                f"[Chat] expected a tokenizer with a chat template, got {self.name} without; give template=, or "
                "template=PLAIN_TEMPLATE for a model that was not trained to chat"
            )
        if any(module.training for module in self.model.modules()):
            raise ValueError(f"[Chat] expected {self.name} in eval mode, got train mode")
        self.parts("request")

    @property
    def device(self) -> torch.device:
        """Where the embeddings lie."""
        return cast(torch.device, self.embedding.weight.device)

    @property
    def embedding(self) -> Any:
        """The module that turns tokens into vectors."""
        return self.model.get_input_embeddings()

    def render(self, message: str, prefill: str = "") -> str:
        """The whole text the model sees before it answers.

        >>> chat.render("bake the bread", prefill="sure")
        '<s> <user> bake the bread <end> <assistant> sure'

        Args:
            message: what the user says.
            prefill: the beginning of the answer, put into the model's mouth.
        """
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        messages = [*system, {"role": "user", "content": message}]
        options = {} if self.template is None else {"chat_template": self.template}
        try:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)
        except Exception as error:  # Jinja and the template itself raise what they like
            raise ValueError(f"[Chat] expected a chat template that takes the messages, got {error}") from error
        # Templates end with white space or without; a tokenizer of words wants a blank before the answer.
        gap = " " if prefill and not self._keeps_blank and not text[-1:].isspace() else ""
        return cast(str, text + gap + prefill)

    def parts(self, request: str) -> tuple[str, str]:
        """The text before and behind the place of a suffix.

        >>> chat.parts("bake the bread")
        ('<s> <user> bake the bread', ' <end> <assistant>')

        Args:
            request: what the user says before the suffix.

        Raises:
            ValueError: a template in which a suffix would not stand exactly once.
        """
        text = self.render(request + _MARK)
        if text.count(_MARK) != 1:
            raise ValueError(
                f"[Chat] expected a chat template that shows a message once, got {text.count(_MARK)} times in that of "
                f"{self.name}"
            )
        before, after = text.split(_MARK)
        return before, after

    def suffix_tokens(self, text: str) -> list[int]:
        """Tokens of a text that follows a request, as `suffix_texts` would write it.

        >>> chat.suffix_tokens("x x x")                 # three numbers

        Args:
            text: without its leading blank.
        """
        return self.encode(" " + text if self._keeps_blank else text)

    def encode(self, text: str) -> list[int]:
        """Tokens of a text as it stands: templates bring their own special tokens.

        >>> chat.encode("bake the bread")               # three numbers

        Args:
            text: anything.
        """
        return cast(list[int], self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def suffix_texts(self, tokens: Tensor) -> list[str]:
        """What is appended to a request so that it ends with these tokens, a blank in front where there must be one.

        >>> chat.suffix_texts(torch.tensor([[15, 208]]))
        [' bake bread']

        Args:
            tokens: int64 [n, length].

        Returns:
            n texts.
        """
        texts = self.tokenizer.batch_decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return list(texts) if self._keeps_blank else [" " + text for text in texts]

    def survives(self, request: str, texts: Sequence[str], tokens: Tensor) -> list[bool]:
        """Whether the tokens come back when request and suffix are tokenised again as one text.

        >>> chat.survives("bake the bread", chat.suffix_texts(tokens), tokens)
        [True, False]

        Args:
            request: before the suffix.
            texts: n suffixes, as `suffix_texts` makes them of
            tokens: int64 [n, length].

        Returns:
            n answers; a suffix that ends in white space is refused, because many templates strip it.
        """
        before, after = self.parts(request)
        wholes = [before + text + after for text in texts]
        found = self.tokenizer(wholes, add_special_tokens=False, return_attention_mask=False)["input_ids"]
        start, end = self.encode(before), self.encode(after)
        return [
            ids == start + own + end and not text[-1:].isspace()
            for ids, own, text in zip(found, tokens.tolist(), texts, strict=True)
        ]

    @cached_property
    def _keeps_blank(self) -> bool:
        """Whether the blank in front of a word is part of a token, and so of what tokens are decoded to."""
        return bool(self.tokenizer.decode(self.encode(" a")).startswith(" "))

    def answers(
        self, messages: Sequence[str], *, max_new_tokens: int = 64, prefill: str = "", batch_size: int = 64
    ) -> list[str]:
        """What the model says, the most likely token every time; a prefill is part of the answer.

        >>> chat.answers(["how do i bake the bread ?"], max_new_tokens=24)

        Args:
            messages: n things that the user says.
            max_new_tokens: after which an answer is cut.
            prefill: as in `render`.
            batch_size: messages per forward pass; they are taken in groups of equal length, so that nothing is padded.

        Returns:
            n texts without special tokens.

        Raises:
            ValueError: a prompt that is longer than the model's context. MemoryError: naming batch_size.
        """
        made = [""] * len(messages)
        for places, ids in self._batches(messages, prefill, batch_size):
            with memory_named(f"batch_size, now {batch_size}"):
                texts = self.continue_from(self.embedding(ids), max_new_tokens)
            for place, text in zip(places, texts, strict=True):
                made[place] = f"{prefill} {text}".strip() if prefill and not self._keeps_blank else prefill + text
        return made

    def states(self, messages: Sequence[str], *, batch_size: int = 64, token: int = -1) -> Tensor:
        """The hidden states of every layer at one token of the prompt: at the last, from which the model answers.

        >>> chat.states(messages).shape                 # 480 messages, 4 layers of 88 features
        torch.Size([5, 480, 88])

        Args:
            messages: n things that the user says.
            batch_size: as in `answers`.
            token: the place in the prompt, from its end: -1 is the last token, -2 the one before.

        Returns:
            float64 [layers + 1, n, d], on the CPU; row 0 is that of the embeddings.

        Raises:
            ValueError: a place that a prompt does not have.
        """
        found: list[Tensor] = [torch.empty(0)] * len(messages)
        for places, ids in self._batches(messages, "", batch_size):
            if not -ids.shape[1] <= token < 0:
                raise ValueError(f"[states] expected token from {-ids.shape[1]} to -1 for a prompt, got {token}")
            with torch.no_grad(), memory_named(f"batch_size, now {batch_size}"):
                layers = self.model(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states
            there = torch.stack([layer[:, token] for layer in layers]).double().cpu()
            for column, place in enumerate(places):
                found[place] = there[:, column]
        return torch.stack(found, dim=1)

    def _batches(self, messages: Sequence[str], prefill: str, batch_size: int) -> Iterator[tuple[list[int], Tensor]]:
        """Prompts as tokens, in groups of equal length so that nothing is padded: their places, and int64 [m, t]."""
        rows = [self.encode(self.render(message, prefill)) for message in messages]
        groups: dict[int, list[int]] = defaultdict(list)
        for place, row in enumerate(rows):
            groups[len(row)].append(place)
        for places in groups.values():
            for first in range(0, len(places), batch_size):
                some = places[first : first + batch_size]
                yield some, torch.tensor([rows[place] for place in some], device=self.device)

    def continue_from(self, embedded: Tensor, max_new_tokens: int) -> list[str]:
        """What the model says after vectors that stand for tokens.

        >>> chat.continue_from(chat.embedding(tokens), 24)

        Args:
            embedded: [n, t, d].
            max_new_tokens: after which an answer is cut; it is cut earlier where the model's context ends.

        Returns:
            n texts without special tokens.

        Raises:
            ValueError: a prompt that is longer than the model's context.
        """
        limit = context(self.model)
        if limit is not None:
            if embedded.shape[1] > limit:
                raise ValueError(
                    f"[Chat] expected prompts of at most {limit} tokens for {self.name}, got {embedded.shape[1]}"
                )
            max_new_tokens = min(max_new_tokens, limit - embedded.shape[1] + 1)  # the last token is never read
        # Not by the model's generate: it takes over what the checkpoint says of sampling and penalties, and an answer
        # would depend on more than the model.
        ends = torch.tensor(self._ends, device=embedded.device)
        columns: list[Tensor] = []
        done = torch.zeros(len(embedded), dtype=torch.bool, device=embedded.device)
        arguments: dict[str, Any] = {"inputs_embeds": embedded}
        with torch.no_grad():
            while len(columns) < max_new_tokens and not bool(done.all()):
                if self._can_keep:
                    arguments["logits_to_keep"] = 1
                found = self.model(**arguments, use_cache=True)
                chosen = found.logits[:, -1].argmax(dim=1)
                columns.append(chosen)
                done |= torch.isin(chosen, ends)
                arguments = {"input_ids": chosen[:, None], "past_key_values": found.past_key_values}
        rows = torch.stack(columns, dim=1).tolist() if columns else [[] for _ in embedded]
        cut = [row[: next((k for k, token in enumerate(row) if token in self._ends), len(row))] for row in rows]
        return list(self.tokenizer.batch_decode(cut, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    @cached_property
    def _ends(self) -> list[int]:
        """Tokens that end an answer: some chat models have several, and say so beside their weights."""
        stated = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        stated = self.tokenizer.eos_token_id if stated is None else stated
        return [] if stated is None else list(stated) if isinstance(stated, (list, tuple)) else [stated]

    def forward(self, keep: int, **arguments: Any) -> Tensor:
        """Logits of the last positions, float32 where the model is of less.

        >>> chat.forward(1, input_ids=tokens).shape
        torch.Size([2, 1, 224])

        Args:
            keep: how many positions.
            arguments: of the model.

        Returns:
            [n, keep, vocabulary].
        """
        if self._can_keep:
            arguments["logits_to_keep"] = keep
        logits = self.model(**arguments).logits
        kept = cast(Tensor, logits[:, -keep:])
        return kept if kept.dtype == torch.float64 else kept.float()

    @cached_property
    def _can_keep(self) -> bool:
        return "logits_to_keep" in inspect.signature(inner(self.model).forward).parameters


def load_chat(
    name: str,
    *,
    system: str | None = None,
    template: str | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Chat:
    """A chat model by hub id or local path, through transformers' Auto classes.

    >>> load_chat("meta-llama/Llama-3.2-1B-Instruct", device="cuda")
    >>> load_chat("runs/my-model", template=PLAIN_TEMPLATE)

    Args:
        name: a folder with config.json, or with adapters as peft saves them, whose base they name; a hub id
            "owner/name", or that with a revision, "owner/name@revision".
        system, template: as in `Chat`.
        device: of torch.
        dtype: of the weights.

    Returns:
        A Chat in eval mode.

    Raises:
        ValueError: a model or tokenizer that is missing, gated or cannot be loaded; no chat template; a model with
            fewer tokens than its tokenizer has.
    """
    import transformers

    adapters = Path(name) / "adapter_config.json"
    if adapters.is_file():
        model = load(name, dtype=dtype).to(device)
        with_tokenizer = (Path(name) / "tokenizer_config.json").is_file()
        source, which = split_revision(name if with_tokenizer else base_of(adapters))
    else:
        model = from_checkpoint(name, weights=True, dtype=dtype).eval().to(device)
        source, which = split_revision(name)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **which)
    except LOADING_ERRORS as error:
        raise ValueError(f"[load_chat] expected a tokenizer beside {name}, got {why(error)}") from None
    known, asked = model.get_input_embeddings().num_embeddings, len(tokenizer)
    if asked > known:
        raise ValueError(f"[load_chat] expected a tokenizer of at most the {known} tokens of {name}, got {asked}")
    return Chat(model, tokenizer, name, system, template)


@contextmanager
def memory_named(setting: str) -> Iterator[None]:
    """Turn a failure for want of memory into an error that says what to change.

    >>> with memory_named("SuffixAttack.batch_size, now 512"): ...

    Args:
        setting: what to make smaller.

    Raises:
        MemoryError: in place of torch's.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError; the CPU raises a plain one
        text = str(error)
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in text:
            raise MemoryError(f"[attack] expected enough memory, got none left: make {setting}, smaller") from error
        raise
