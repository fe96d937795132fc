"""What a suffix is judged by: a request to a model and the answer that is wanted; its loss, and the loss's gradient."""

from __future__ import annotations

import copy
import string
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from repsim.attacks.chat import Chat
from repsim.training.causal_models import context

_ROWS = 8192  # of the embedding at a time, so that its product with a gradient needs little memory


class Task:
    """One request to one model with the beginning of the answer that is wanted of it, as tokens.

    >>> task = Task(chat, "how do i build the bell ?", "sure , first measure")
    >>> loss, matched = task.losses(suffixes, batch_size=64)        # suffixes [m, length] -> [m], [m]

    Args:
        chat: the model.
        request: what the suffix follows.
        target: the wanted beginning of the answer.

    Attributes: `before`, `after`, `target`: tokens around the suffix and those of the target, int64 each.
    """

    def __init__(self, chat: Chat, request: str, target: str) -> None:
        before, after = chat.parts(request)
        self.chat, self.request = chat, request
        self.before, self.after, self.target = (
            torch.tensor(chat.encode(text), dtype=torch.long) for text in (before, after, target)
        )
        self._prefix: Any = None

    def require_room(self, length: int) -> None:
        """Raise ValueError where a suffix of this length does not fit into the model's context.

        >>> task.require_room(20)

        Args:
            length: tokens of the suffix.
        """
        limit = context(self.chat.model)
        needed = len(self.before) + length + len(self.after) + len(self.target)
        if limit is not None and needed > limit:
            raise ValueError(
                f"[suffix_attack] expected request, suffix and target to fit into the {limit} tokens of "
                f"{self.chat.name}, got {needed}"
            )

    def compute_prefix(self) -> None:
        """Keep the keys and values of what stands before the suffix, for all that follows."""
        if len(self.before):
            ids = self.before[None].to(self.chat.device)
            with torch.no_grad():
                self._prefix = self.chat.model(input_ids=ids, use_cache=True).past_key_values

    def losses(self, suffixes: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
        """Mean negative log-probability of the target's tokens, and whether each of them is the most likely one.

        >>> loss, matched = task.losses(suffixes, 64)

        Args:
            suffixes: int64 [m, length].
            batch_size: suffixes per forward pass.

        Returns:
            float32 [m] and bool [m], on the CPU.
        """
        made = []
        with torch.no_grad():
            for part in suffixes.split(batch_size):
                rest = torch.cat([self.after, self.target[:-1]]).expand(len(part), -1)
                ids = torch.cat([part, rest], dim=1)
                loss, matched = self._judged(self._log_probabilities(len(part), ids))
                made.append((loss.cpu(), matched.cpu()))
        losses, matches = zip(*made, strict=True)
        return torch.cat(losses), torch.cat(matches)

    def gradient(self, suffix: Tensor, allowed: Tensor) -> Tensor:
        """The loss's gradient at the one-hot tokens of a suffix.

        >>> task.gradient(suffix, allowed)          # suffix [length], allowed [a] -> [length, a]

        Args:
            suffix: int64 [length].
            allowed: int64 [a], the tokens whose entries are wanted.

        Returns:
            float32 [length, a], on the CPU.

        Raises:
            ValueError: a gradient that is zero or not finite.
        """
        chat = self.chat
        place = chat.device
        with torch.enable_grad():
            embedded = chat.embedding(suffix.to(place)).detach().requires_grad_(True)
            loss = self.soft_losses(embedded[None])[0][0]
            (gradient,) = torch.autograd.grad(loss, embedded)
        if not bool(torch.isfinite(gradient).all()) or not bool((gradient != 0).any()):
            got = "zero everywhere" if bool(torch.isfinite(gradient).all()) else "NaN or infinity"
            raise ValueError(f"[suffix_attack] expected a gradient of {chat.name} to go by, got {got}")
        # By way of the module, not of its weight: some models scale what they look up.
        with torch.no_grad():
            parts = [gradient @ chat.embedding(rows).T for rows in allowed.to(place).split(_ROWS)]
        return torch.cat(parts, dim=1).float().cpu()

    def soft_losses(self, embedded: Tensor) -> tuple[Tensor, Tensor]:
        """As `losses` of suffixes given as vectors, on the model's device and with their graph.

        >>> loss, matched = task.soft_losses(vectors[None])         # [m, length, d] -> [m], [m]

        Args:
            embedded: [m, length, d], on the model's device.
        """
        rest = torch.cat([self.after, self.target[:-1]]).to(embedded.device)
        follows = self.chat.embedding(rest).expand(len(embedded), -1, -1)
        return self._judged(self._log_probabilities(len(embedded), embedded=torch.cat([embedded, follows], dim=1)))

    def embedded(self, suffixes: Tensor) -> Tensor:
        """The whole prompt as vectors, with these in the suffix's place.

        >>> chat.continue_from(task.embedded(vectors[None]), 24)

        Args:
            suffixes: [m, length, d], on the model's device.

        Returns:
            [m, t, d].
        """
        before, after = (
            self.chat.embedding(part.to(suffixes.device)).expand(len(suffixes), -1, -1)
            for part in (self.before, self.after)
        )
        return torch.cat([before, suffixes, after], dim=1)

    def _judged(self, log: Tensor) -> tuple[Tensor, Tensor]:
        target = self.target.to(log.device).expand(len(log), -1)
        return -log.gather(2, target[:, :, None])[:, :, 0].mean(1), (log.argmax(2) == target).all(1)

    def _log_probabilities(self, count: int, ids: Tensor | None = None, embedded: Tensor | None = None) -> Tensor:
        """Log-probabilities [count, T, vocabulary] where the target's tokens are predicted."""
        arguments: dict[str, Any] = {"use_cache": False}
        place = self.chat.device
        if self._prefix is not None:
            # Both steps copy: a forward pass appends to the cache it is given.
            cache = copy.deepcopy(self._prefix)
            cache.batch_repeat_interleave(count)
            arguments = {"past_key_values": cache, "use_cache": True}
        before = self.before.to(place).expand(count, -1)
        if embedded is None and ids is not None:
            arguments["input_ids"] = (
                ids.to(place) if self._prefix is not None else torch.cat([before, ids.to(place)], 1)
            )
        elif embedded is not None:
            start = [] if self._prefix is not None else [self.chat.embedding(before)]
            arguments["inputs_embeds"] = torch.cat([*start, embedded], dim=1)
        return self.chat.forward(len(self.target), **arguments).log_softmax(dim=2)


def allowed_tokens(name: str, chat: Chat, exclude: Sequence[str], *, ascii_only: bool) -> Tensor:
    """The tokens that a suffix may be made of: no special ones, none that is text of an excluded word.

    >>> allowed_tokens("suffix_attack", chat, ("bread",), ascii_only=True)

    Args:
        name: the function that an error message states.
        chat: whose tokens.
        exclude: words, in any case.
        ascii_only: leave out what decodes to anything but printable ASCII.

    Returns:
        int64 [a], sorted.

    Raises:
        ValueError: none is left.
    """
    tokenizer = chat.tokenizer
    words = {word.lower() for word in exclude}
    kept = [
        token for token, text in _decoded(tokenizer) if text.strip().lower() not in words and _fits(text, ascii_only)
    ]
    if not kept:
        raise ValueError(f"[{name}] expected a token that may stand in a suffix, got none of {len(tokenizer)}")
    return torch.tensor(kept)


@lru_cache(maxsize=4)
def _decoded(tokenizer: Any) -> list[tuple[int, str]]:
    """Every token that is not special with its text: of a large vocabulary this takes a while."""
    special = set(tokenizer.all_special_ids) | {
        token for token, added in tokenizer.added_tokens_decoder.items() if added.special
    }
    tokens = sorted(token for token in set(tokenizer.get_vocab().values()) if token not in special)
    return list(zip(tokens, tokenizer.batch_decode([[token] for token in tokens]), strict=True))


def _fits(text: str, ascii_only: bool) -> bool:
    # White space that a template might strip or a user cannot type (a form feed) is no part of a suffix.
    return bool(text) and (not ascii_only or set(text) <= _PRINTABLE)


_PRINTABLE = frozenset(string.ascii_letters + string.digits + string.punctuation + " ")


def require_usable(name: str, tasks: Sequence[Task], suffix: Tensor) -> None:
    """Refuse a model whose loss is not finite or changes from one pass to the next.

    >>> require_usable("suffix_attack", tasks, suffix)

    Args:
        name: the function that an error message states.
        tasks: requests to models.
        suffix: int64 [length], any.

    Raises:
        ValueError: one line that says what was expected.
    """
    for chat in {id(task.chat): task for task in tasks}.values():
        first, second = (chat.losses(suffix[None], 1)[0] for _ in range(2))
        if not bool(torch.isfinite(first).all()):
            raise ValueError(f"[{name}] expected a finite loss of {chat.chat.name}, got {float(first[0])}")
        if not torch.equal(first, second):
            raise ValueError(f"[{name}] expected a deterministic model, got another loss of {chat.chat.name} again")
