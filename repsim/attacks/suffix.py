"""Suffixes that make a language model begin its answer as the attacker wants: GCG, and random search at equal budget.

    loss(s) = mean over tasks of -1/T log p(target | template(request + s)), T tokens of the target

A task is a request to a model with the beginning of the answer that is wanted of it. One suffix may serve one task,
several requests (universal) or several models (multi-model). GCG (Zou et al. 2023, arXiv 2307.15043) takes the loss's
gradient at the suffix's one-hot tokens, draws candidates that differ in a token among the most promising, and evaluates
all of them exactly; random search draws them from all tokens. Candidates share the keys and values of what stands
before them, and are kept only if their text is tokenised back to them: a suffix that is found works as text.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from repsim.attacks.chat import Chat, memory_named
from repsim.attacks.suffix_tasks import Task, allowed_tokens, require_usable

METHODS = ("gcg", "random_search")
GRADIENT_COST = 3  # forward passes that a gradient counts for: one forward, and a backward of twice its work
_DRAWS = 64  # batches of random tokens that are tried until a suffix survives being tokenised again
_MATCHED, _UNMATCHED = 0, 1  # in this order
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class SuffixAttack:
    """A search for a suffix.

    >>> SuffixAttack(steps=100, width=128, length=12)
    """

    method: str = "gcg"  # one of METHODS; random search gets the budget of "gcg" with the same fields
    steps: int = 250  # at most
    length: int = 20  # tokens of the suffix
    width: int = 512  # candidates of a step
    top_k: int = 256  # tokens with the best gradient, of which "gcg" draws in each position
    replace: int = 1  # tokens in which a candidate differs
    buffer: int = 0  # best suffixes kept, at first random ones; a step starts from the best. 0: from the last step's
    init: str = ""  # text to start from, in place of random tokens; its tokens then count, not `length`
    exclude: tuple[str, ...] = ()  # words that the suffix must not hold
    ascii_only: bool = True  # no token outside printable ASCII
    round_trip: bool = True  # keep only candidates that are tokenised back to themselves
    early_stop: bool = True  # end when every target is what the model would say
    incremental: bool = True  # several tasks: take in the next one when the suffix works on those before it
    prefix_cache: bool = True  # compute what stands before the suffix once
    batch_size: int | None = None  # candidates per forward pass; None: all of a step
    seed: int = 0  # draws the start and the candidates

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"[SuffixAttack] expected method one of {METHODS}, got {self.method!r}")
        for name in ("steps", "length", "width", "top_k", "replace"):
            if getattr(self, name) < 1:
                raise ValueError(f"[SuffixAttack] expected {name} of at least 1, got {getattr(self, name)}")
        for name in ("buffer", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"[SuffixAttack] expected {name} of at least 0, got {getattr(self, name)}")
        if self.replace > self.length and not self.init:
            raise ValueError(f"[SuffixAttack] expected replace of at most the length {self.length}, got {self.replace}")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"[SuffixAttack] expected batch_size of at least 1, got {self.batch_size}")

    @property
    def candidates(self) -> int:
        """Candidates drawn in a step: random search spends on them what a gradient costs."""
        return self.width if self.method == "gcg" else self.width + GRADIENT_COST


@dataclass(frozen=True)
class Progress:
    """Where a search stands after a step; `suffix` is worth keeping should it be interrupted."""

    step: int
    steps: int
    loss: float
    suffix: str


@dataclass(frozen=True)
class SuffixResult:
    """What a search found."""

    suffix: str  # to append to a request as it stands: it brings its own blank
    loss: float  # of this suffix, the mean over all tasks
    matched: tuple[bool, ...]  # of each task: the target is what the model would say
    losses: tuple[float, ...]  # of the best candidate of each step, over the tasks of that step
    evaluations: int  # candidates evaluated, times tasks
    gradients: int  # gradients taken, times tasks
    ended: str  # "matched", "steps", or "no candidate": none survived being tokenised again
    seconds: float


def suffix_attack(
    chats: Chat | Sequence[Chat],
    requests: str | Sequence[str],
    targets: str | Sequence[str],
    config: SuffixAttack | None = None,
    *,
    progress: Callable[[Progress], None] | None = None,
) -> SuffixResult:
    """Search for one suffix under which every model begins its answer to every request with its target.

    >>> result = suffix_attack(chat, "how do i build the bell ?", "sure , first measure", SuffixAttack(steps=50))
    >>> victim.answers(["how do i build the bell ?" + result.suffix])

    Args:
        chats: a model, or several with the same tokenizer.
        requests: one, or several.
        targets: for each request the beginning of the answer.
        config: of the search; None: SuffixAttack().
        progress: called after every step.

    Returns:
        SuffixResult. The suffix is the one of least loss among those that matched, if any did.

    Raises:
        ValueError: bad input; models with different tokenizers; a model whose gradient is zero or not finite.
        MemoryError: naming batch_size, where the candidates of a step do not fit.
    """
    config = config or SuffixAttack()
    tasks = tasks_of("suffix_attack", chats, requests, targets, prefix_cache=config.prefix_cache)
    with memory_named(f"SuffixAttack.batch_size, now {config.batch_size or config.candidates}"):
        return _Search(tasks, config).run(progress)


def random_suffixes(chat: Chat, request: str, config: SuffixAttack, count: int) -> list[str]:
    """Suffixes of random tokens, as a search of this configuration starts from: the control of every attack.

    >>> random_suffixes(chat, "how do i build the bell ?", SuffixAttack(length=12, seed=7), 4)      # four texts

    Args:
        chat: whose tokens.
        request: what they are to stand behind.
        config: its length, exclude, ascii_only, round_trip and seed count.
        count: how many, at least 1.

    Returns:
        count texts.

    Raises:
        ValueError: no token is allowed, or too few random suffixes survive being tokenised again.
    """
    task = Task(chat, request, "")
    allowed = allowed_tokens("random_suffixes", chat, config.exclude, ascii_only=config.ascii_only)
    generator = torch.Generator().manual_seed(config.seed)
    return [chat.suffix_texts(row[None])[0] for row in _random([task], allowed, config, generator, count)]


def tasks_of(
    name: str,
    chats: Chat | Sequence[Chat],
    requests: str | Sequence[str],
    targets: str | Sequence[str],
    *,
    prefix_cache: bool = True,
) -> list[Task]:
    """Every request to every model, checked.

    >>> tasks_of("suffix_attack", chat, ["one", "two"], ["sure", "sure"])       # two tasks

    Args:
        name: the function that an error message states.
        chats, requests, targets: as in `suffix_attack`.
        prefix_cache: whether to compute the keys and values before the suffix now.

    Raises:
        ValueError: no request, another number of targets, an empty target, models with different tokenizers.
    """
    models = [chats] if isinstance(chats, Chat) else list(chats)
    asked = [requests] if isinstance(requests, str) else list(requests)
    wanted = [targets] if isinstance(targets, str) else list(targets)
    if not models or not asked:
        raise ValueError(f"[{name}] expected at least one model and one request, got {len(models)} and {len(asked)}")
    if len(wanted) != len(asked):
        raise ValueError(f"[{name}] expected a target for each of {len(asked)} requests, got {len(wanted)}")
    vocabulary = models[0].tokenizer.get_vocab()
    for other in models[1:]:
        if other.tokenizer.get_vocab() != vocabulary:
            raise ValueError(
                f"[{name}] expected models with one tokenizer, got another one of {other.name} than of "
                f"{models[0].name}; attack one of them, and try the suffix on the other as text"
            )
    tasks = [Task(chat, request, target) for request, target in zip(asked, wanted, strict=True) for chat in models]
    for task in tasks:
        if not len(task.target):
            raise ValueError(f"[{name}] expected targets of at least one token, got none for {task.request!r}")
        if prefix_cache:
            task.compute_prefix()
    return tasks


class _Search:
    """One search on its way: the tokens that may stand in a suffix, the current one, and what was spent."""

    def __init__(self, tasks: list[Task], config: SuffixAttack) -> None:
        self._tasks, self._config = tasks, config
        first = tasks[0].chat
        self._allowed = allowed_tokens("suffix_attack", first, config.exclude, ascii_only=config.ascii_only)
        self._generator = torch.Generator().manual_seed(config.seed)
        self._active = 1 if config.incremental else len(tasks)
        self.evaluations = self.gradients = 0
        self._buffer: list[tuple[float, Tensor]] = []  # least loss first
        self._best: tuple[int, float, Tensor]  # of all suffixes evaluated on the active tasks

    def run(self, progress: Callable[[Progress], None] | None) -> SuffixResult:
        begun, config = time.perf_counter(), self._config
        starts = self._starts()
        for task in self._tasks:
            task.require_room(starts.shape[1])
        require_usable("suffix_attack", self._tasks, starts[0])
        self._begin(starts)
        losses: list[float] = []
        ended = "steps"
        for step in range(config.steps):
            while self._best[0] == _MATCHED and self._active < len(self._tasks):
                self._active += 1
                self._begin(torch.stack([self._best[2], *(suffix for _, suffix in self._buffer)]).unique(dim=0))
            if self._best[0] == _MATCHED and config.early_stop:
                ended = "matched"
                break
            candidates = self._candidates(self._buffer[0][1])
            if candidates is None:
                ended = "no candidate"
                break
            loss, matched = self._evaluate(candidates)
            least = int(loss.argmin())
            losses.append(float(loss[least]))
            self._keep(losses[-1], candidates[least])
            self._best = min(self._best, _best_of(loss, matched, candidates), key=lambda found: found[:2])
            if progress is not None:
                progress(Progress(step + 1, config.steps, self._best[1], self._text(self._best[2])))
        return self._result(self._best[2], losses, ended, time.perf_counter() - begun)

    def _begin(self, suffixes: Tensor) -> None:
        """Rank suffixes [m, length] by the active tasks: the buffer holds those of least loss."""
        loss, matched = self._evaluate(suffixes)
        order = loss.argsort(stable=True)[: max(1, self._config.buffer)].tolist()
        self._buffer = [(float(loss[place]), suffixes[place]) for place in order]
        self._best = _best_of(loss, matched, suffixes)

    def _result(self, suffix: Tensor, losses: list[float], ended: str, seconds: float) -> SuffixResult:
        each = [task.losses(suffix[None], 1) for task in self._tasks]
        matched = tuple(bool(match[0]) for _, match in each)
        return SuffixResult(
            suffix=self._text(suffix),
            loss=float(torch.stack([loss[0] for loss, _ in each]).mean()),
            matched=matched,
            losses=tuple(losses),
            evaluations=self.evaluations,
            gradients=self.gradients,
            # The last step may be the one that succeeds.
            ended="matched" if ended == "steps" and self._config.early_stop and all(matched) else ended,
            seconds=seconds,
        )

    def _text(self, suffix: Tensor) -> str:
        return self._tasks[0].chat.suffix_texts(suffix[None])[0]

    def _starts(self) -> Tensor:
        """Where the search starts: the init, and random suffixes that fill the buffer."""
        config = self._config
        given: list[Tensor] = []
        if config.init:
            given = [torch.tensor(self._tasks[0].chat.suffix_tokens(config.init))]
            if len(given[0]) < config.replace:
                raise ValueError(
                    f"[suffix_attack] expected init of at least {config.replace} tokens, got {len(given[0])}: "
                    f"{config.init!r}"
                )
            config = replace(config, length=len(given[0]))
        count = max(1, config.buffer) - len(given)
        drawn = _random(self._tasks, self._allowed, config, self._generator, count) if count else []
        return torch.stack([*given, *drawn])

    def _evaluate(self, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss over the active tasks [m], and whether all of them match [m]."""
        tasks = self._tasks[: self._active]
        self.evaluations += len(candidates) * len(tasks)
        each = [task.losses(candidates, self._config.batch_size or len(candidates)) for task in tasks]
        return torch.stack([loss for loss, _ in each]).mean(0), torch.stack([match for _, match in each]).all(0)

    def _keep(self, loss: float, suffix: Tensor) -> None:
        """A better suffix takes the place of the buffer's worst; without a buffer the last step's best always does."""
        if self._config.buffer == 0 or loss < self._buffer[-1][0]:
            self._buffer[-1] = (loss, suffix)
            self._buffer.sort(key=lambda entry: entry[0])

    def _candidates(self, current: Tensor) -> Tensor | None:
        """Neighbours of the current suffix that survive being tokenised again, each once; None if none does."""
        pool = self._allowed.expand(len(current), -1)
        if self._config.method == "gcg":
            tasks = self._tasks[: self._active]
            self.gradients += len(tasks)
            gradient = _mean_direction([task.gradient(current, self._allowed) for task in tasks])
            best = gradient.topk(min(self._config.top_k, len(self._allowed)), dim=1, largest=False).indices
            pool = self._allowed[best]
        for _ in range(_DRAWS):
            drawn = _neighbours(current, pool, self._config.replace, self._config.candidates, self._generator)
            distinct = torch.unique(drawn, dim=0)
            # Of the requests still to be taken in, too: the suffix is to work as text on all of them.
            kept = distinct[survivors(self._tasks, distinct, self._config)]
            if len(kept):
                return kept
        return None


def survivors(tasks: Sequence[Task], suffixes: Tensor, config: SuffixAttack) -> Tensor:
    """Which suffixes may be used: without excluded words, and tokenised back to themselves in every conversation.

    >>> suffixes[survivors(tasks, suffixes, SuffixAttack(exclude=("bread",)))]

    Args:
        tasks: requests to models with one tokenizer.
        suffixes: int64 [m, length].
        config: its exclude and round_trip count.

    Returns:
        bool [m].
    """
    texts = tasks[0].chat.suffix_texts(suffixes)
    kept = [True] * len(texts)
    if config.exclude:
        forbidden = {word.lower() for word in config.exclude}
        kept = [forbidden.isdisjoint(_WORD.findall(text.lower())) for text in texts]
    if config.round_trip:
        for task in {task.chat.parts(task.request): task for task in tasks}.values():  # each has its own template
            back = task.chat.survives(task.request, texts, suffixes)
            kept = [one and other for one, other in zip(kept, back, strict=True)]
    return torch.tensor(kept)


def _best_of(loss: Tensor, matched: Tensor, suffixes: Tensor) -> tuple[int, float, Tensor]:
    """The suffix of least loss among those that matched, if any did."""
    place = int(torch.where(matched, loss, torch.inf).argmin()) if bool(matched.any()) else int(loss.argmin())
    return _MATCHED if bool(matched[place]) else _UNMATCHED, float(loss[place]), suffixes[place]


def _neighbours(current: Tensor, pool: Tensor, replace: int, count: int, generator: torch.Generator) -> Tensor:
    """Suffixes [count, length] that differ from the current one in `replace` places, by tokens of pool [length, k]."""
    places = torch.rand(count, len(current), generator=generator).argsort(dim=1)[:, :replace]
    choices = torch.randint(pool.shape[1], (count, replace), generator=generator)
    return current.repeat(count, 1).scatter_(1, places, pool[places, choices])


def _random(
    tasks: Sequence[Task], allowed: Tensor, config: SuffixAttack, generator: torch.Generator, count: int
) -> list[Tensor]:
    found: list[Tensor] = []
    for _ in range(_DRAWS):
        drawn = allowed[torch.randint(len(allowed), (max(64, count), config.length), generator=generator)]
        found += list(drawn[survivors(tasks, drawn, config)])
        if len(found) >= count:
            return found[:count]
    raise ValueError(
        f"[suffix_attack] expected {count} random suffixes of {config.length} tokens that are tokenised back to "
        f"themselves, got {len(found)} in {_DRAWS} draws; give init=, or round_trip=False"
    )


def _mean_direction(gradients: list[Tensor]) -> Tensor:
    """One task's gradient as it is; of several each is brought to length 1 in every position first, as in the paper."""
    if len(gradients) == 1:
        return gradients[0]
    norms = [gradient.norm(dim=1, keepdim=True) for gradient in gradients]
    return torch.stack(
        [gradient / torch.where(norm == 0, 1.0, norm) for gradient, norm in zip(gradients, norms, strict=True)]
    ).mean(0)
