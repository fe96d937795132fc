"""Training of causal language models: one configuration and blocks of tokens in, a trained model and its curve out.

From scratch, full fine-tuning, or LoRA adapters on a frozen base. Everything random comes from two seeds: `init_seed`
draws the weights that are new, `order_seed` the order of the blocks and the dropout. The randomness of a step follows
from its number alone, so a training that was stopped goes on with the same bits, and one can be forked at any step. The
same configuration, blocks and number of threads give the same model to the last bit on a CPU; global random states stay
untouched.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from repsim.training.causal_models import KINDS, context, from_checkpoint, from_sizes, inner, load, save, with_adapters
from repsim.training.optimization import parameter_groups, seeded, warm_up_and_cosine
from repsim.training.training_state import TrainingState, capture, read_state, trained_names, write_state

if TYPE_CHECKING:
    from repsim.data.tokens import TokenBlocks

__all__ = [
    "LanguageConfig",
    "Trained",
    "build",
    "evaluate",
    "inner",
    "load",
    "predictions",
    "save",
    "train",
    "unigram_loss",
]

TUNINGS = ("scratch", "full", "lora")
SCHEDULES = ("cosine", "constant")
PRECISIONS = ("float32", "bfloat16")
LOSS_BLOCKS = 64  # training blocks, at most, on which a training loss is evaluated


@dataclass(frozen=True)
class LanguageConfig:
    """How a causal language model is built and trained.

    >>> LanguageConfig(model="llama", width=128, layers=4, heads=4, positions=128, steps=1000, init_seed=3)
    >>> LanguageConfig(model="base", tuning="lora", rank=8, alpha=16, steps=200, learning_rate=1e-3)
    """

    model: str | Mapping[str, Any] = "gpt2"  # of KINDS, a transformers config, a checkpoint folder or hub id[@revision]
    tuning: str = "scratch"  # new weights, "full" fine-tuning of a checkpoint's, or "lora" adapters on them
    width: int = 128  # of a model of KINDS, as are the next four
    layers: int = 4
    heads: int = 4
    positions: int = 128  # the most tokens it can take
    dropout: float = 0.0  # a checkpoint keeps its own
    rank: int = 8  # of the adapters
    alpha: float = 16.0  # alpha / rank scales the adapters
    adapter_dropout: float = 0.0  # on the adapters' input
    steps: int = 1000  # of the whole schedule
    batch_size: int = 32  # blocks per step
    accumulation: int = 1  # parts that a step's blocks are cut into, one after the other through the model
    learning_rate: float = 1e-3  # at the end of the warm-up
    warmup: float = 0.1  # share of the steps with a rising learning rate
    schedule: str = "cosine"  # after the warm-up: to 0, or "constant"
    weight_decay: float = 0.1  # on matrices; biases and norms are left alone
    betas: tuple[float, float] = (0.9, 0.95)  # of AdamW
    clip: float = 1.0  # the largest norm of a gradient; 0: no clipping
    precision: str = "float32"  # "bfloat16": mixed; what trains is kept in float32, a frozen base in bfloat16
    checkpointing: bool = False  # compute activations again in the backward pass, for less memory
    target_loss: float | None = None  # stop once the training loss is no larger; not learned where it never is
    loss_every: int = 50  # steps between two looks at the training loss
    init_seed: int = 0  # draws the weights that are new
    order_seed: int = 0  # draws the order of the blocks, and the dropout

    def __post_init__(self) -> None:
        counts = ("width", "layers", "heads", "positions", "rank", "steps", "batch_size", "accumulation", "loss_every")
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(f"[LanguageConfig] expected {name} of at least 1, got {getattr(self, name)}")
        for name, known in (("tuning", TUNINGS), ("schedule", SCHEDULES), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"[LanguageConfig] expected {name} one of {known}, got {getattr(self, name)!r}")
        for name, low in (("learning_rate", False), ("alpha", False), ("weight_decay", True), ("clip", True)):
            value = getattr(self, name)
            if not (math.isfinite(value) and (value > 0 or (low and value == 0))):
                expected = "of at least 0" if low else "above 0"
                raise ValueError(f"[LanguageConfig] expected {name} {expected}, got {value}")
        for name, value in (
            ("dropout", self.dropout),
            ("adapter_dropout", self.adapter_dropout),
            *(("betas", beta) for beta in self.betas),
        ):
            if not 0 <= value < 1:
                raise ValueError(f"[LanguageConfig] expected {name} in [0, 1), got {value}")
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"[LanguageConfig] expected warmup in [0, 1], got {self.warmup}")
        if self.target_loss is not None and not self.target_loss > 0:
            raise ValueError(f"[LanguageConfig] expected target_loss above 0, got {self.target_loss}")
        if self.accumulation > self.batch_size:
            raise ValueError(
                f"[LanguageConfig] expected accumulation of at most the {self.batch_size} blocks of a step, "
                f"got {self.accumulation}"
            )
        for name in ("init_seed", "order_seed"):
            if not 0 <= getattr(self, name) < 2**63:
                raise ValueError(f"[LanguageConfig] expected {name} in [0, 2**63), got {getattr(self, name)}")
        if self.model in KINDS and self.tuning != "scratch":
            raise ValueError(
                f"[LanguageConfig] expected tuning 'scratch' for {self.model!r}, which has no checkpoint, "
                f"got {self.tuning!r}"
            )
        if self.model in KINDS and self.width % self.heads:
            raise ValueError(f"[LanguageConfig] expected width as a multiple of {self.heads} heads, got {self.width}")


@dataclass
class Trained:
    """A model after training, in eval mode, and how its training went."""

    model: Any  # of transformers, or of peft where there are adapters
    curves: dict[str, list[Any]]  # "loss", "learning_rate" per step; "training_loss" [step, loss] in eval mode
    steps: int  # done, those before a fork or a resumption among them
    tokens: int  # seen, likewise
    loss: float  # mean over the counted tokens of (at most 64) training blocks, in nats, in eval mode
    learned: bool  # False: leave this model out of any average
    reason: str  # why it did not learn; "" where it did
    seconds: float  # of this call
    tokens_per_second: float


def build(config: LanguageConfig, vocabulary: int) -> Any:
    """Build the model that `train` starts from: untrained, a checkpoint's, or that with new adapters.

    >>> build(LanguageConfig(width=64, layers=2, heads=2), vocabulary=1000).num_parameters()
    172288

    Args:
        config: the architecture and the seed of its new weights.
        vocabulary: number of tokens.

    Returns:
        A transformers or peft model in eval mode on the CPU.
    Raises:
        ValueError for a model that is unknown, cannot be loaded, or knows fewer tokens.
    """
    with seeded(config.init_seed, torch.device("cpu")):
        if isinstance(config.model, str) and config.model in KINDS:
            model = from_sizes(
                config.model, vocabulary, width=config.width, layers=config.layers, heads=config.heads,
                positions=config.positions, dropout=config.dropout,
            )  # fmt: skip
        elif config.tuning == "scratch":
            model = from_checkpoint(config.model, weights=False, vocabulary=vocabulary)
        else:
            frozen = config.tuning == "lora" and config.precision == "bfloat16"
            dtype = torch.bfloat16 if frozen else torch.float32
            model = from_checkpoint(config.model, weights=True, dtype=dtype)
            known = model.get_input_embeddings().num_embeddings
            if vocabulary > known:
                raise ValueError(
                    f"[build] expected tokens of the {known} that {config.model} knows, got a vocabulary of "
                    f"{vocabulary}: the blocks come from another tokenizer"
                )
            if config.tuning == "lora":
                model = with_adapters(model, rank=config.rank, alpha=config.alpha, dropout=config.adapter_dropout)
    return model.eval()


def learning_rate(config: LanguageConfig, step: int) -> float:
    """Learning rate at one step: a straight rise to its peak, then half a cosine towards 0, or the peak.

    >>> learning_rate(LanguageConfig(steps=10, warmup=0.5, learning_rate=0.1), step=4)
    0.1
    """
    if config.schedule == "constant" and step >= round(config.warmup * config.steps):
        return config.learning_rate
    return warm_up_and_cosine(config.learning_rate, config.warmup, step, config.steps)


def step_blocks(config: LanguageConfig, step: int, blocks: int) -> np.ndarray:
    """Which blocks a step trains on: every pass over them takes each once, in an order of its own.

    >>> step_blocks(LanguageConfig(batch_size=4), step=0, blocks=10)
    array([6, 5, 9, 8])

    Args:
        config: the batch size and the seed of the order.
        step: from 0.
        blocks: how many there are.

    Returns:
        int64 [config.batch_size].
    """
    places = np.arange(step * config.batch_size, (step + 1) * config.batch_size)
    orders = {epoch: _order(config.order_seed, epoch, blocks) for epoch in sorted(set((places // blocks).tolist()))}
    return np.array([orders[place // blocks][place % blocks] for place in places.tolist()])


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, blocks: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(blocks)


def unigram_loss(data: TokenBlocks) -> float:
    """The loss of one who knows how frequent every token is and nothing else, in nats: their entropy.

    >>> unigram_loss(TokenBlocks(np.array([[0, 1, 2]], np.int32), 10))      # 0.693..., tokens 1 and 2 are predicted
    """
    targets = data.targets()
    counts = np.bincount(targets[targets >= 0])
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def train(
    config: LanguageConfig,
    data: TokenBlocks,
    *,
    device: str | torch.device = "cpu",
    progress: Callable[[int, int], None] | None = None,
    state: str | Path | None = None,
    state_every: int = 200,
    fork: str | Path | None = None,
    stop: int | None = None,
) -> Trained:
    """Train a causal language model on blocks of tokens, from the seeds in `config`.

    >>> trained = train(LanguageConfig(steps=1000), blocks)             # blocks: tokens int32 [n, 128]
    >>> half = train(config, blocks, state="half.state", stop=500)      # a base that stops half-way ...
    >>> other = train(replace(config, order_seed=7), others, fork="half.state")     # ... and one that forks there

    The loss of a step is the mean cross entropy over the counted tokens of its blocks, however they are cut into parts.

    Args:
        data: the blocks; all of one length that the model can take.
        device: where to train; the model stays there.
        progress: called with (steps done, steps in all) after every step.
        state: a file for the training's state, written every `state_every` steps and at the end. One that is there is
            gone on from, to the same bits as without the interruption.
        fork: a state of another training to begin with: its weights, the averages of its optimizer, its step and its
            curves; blocks and seeds may be others. A `state` that is there goes first.
        stop: the step to end at, where that is not config.steps; the schedule is that of config.steps.

    Returns:
        The model in eval mode with its curves. A loss that is not finite ends the training at once; that, a final
        training loss no better than `unigram_loss`, and a target_loss that was not reached are told by learned=False
        and a reason.
    Raises:
        ValueError for blocks that do not fit the model, and for a state of another training. MemoryError: what may be
        changed; a `state` is of the last multiple of `state_every`.
    """
    if stop is not None and not 0 < stop <= config.steps:
        raise ValueError(f"[train] expected stop from 1 to {config.steps} steps, got {stop}")
    if state_every < 1:
        raise ValueError(f"[train] expected state_every of at least 1, got {state_every}")
    started = time.perf_counter()
    place = torch.device(device)
    model = build(config, data.vocabulary)
    _require_fitting(model, config, data)
    model = model.to(place).train()
    if config.checkpointing:
        body: Any = inner(model)  # transformers 5 calls it by its other name
        enable = getattr(body, "activation_checkpointing_enable", None) or body.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW(
        parameter_groups(model, config.weight_decay), lr=config.learning_rate, betas=config.betas, fused=True
    )
    parameters = list(trained_names(model).values())
    identity = _identity(config, data)
    begun = _beginning(state, fork, identity)
    if begun.step:
        if begun.step > (stop or config.steps):
            raise ValueError(f"[train] expected a state of at most step {stop or config.steps}, got {begun.step}")
        begun.restore(model, optimizer)
    curves = begun.curves or {"loss": [], "learning_rate": [], "training_loss": []}
    tokens, targets = torch.from_numpy(data.tokens.astype(np.int64)), torch.from_numpy(data.targets())
    sample = data.take(np.unique(np.linspace(0, len(data) - 1, min(len(data), LOSS_BLOCKS)).astype(np.int64)))
    last, step, reason, reached = stop or config.steps, begun.step, "", _reached(config, curves)
    seen = 0

    while step < last and not reached and not reason:
        rate = learning_rate(config, step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        chosen = torch.from_numpy(step_blocks(config, step, len(data)))
        optimizer.zero_grad()
        draw = int(np.random.SeedSequence([config.order_seed, step]).generate_state(1, np.uint64)[0])
        try:
            with seeded(draw, place), torch.enable_grad():
                value = _backward(model, config, tokens[chosen], targets[chosen], place)
        except torch.OutOfMemoryError as error:
            raise MemoryError(
                f"[train] expected enough memory for step {step + 1}, got none left: raise accumulation, now "
                f"{config.accumulation} of {config.batch_size}, or set checkpointing or precision='bfloat16'"
            ) from error
        if not math.isfinite(value):
            reason = f"loss is {value} at step {step + 1} of {config.steps}"
            break
        if config.clip:
            torch.nn.utils.clip_grad_norm_(parameters, config.clip)
        optimizer.step()
        step += 1
        seen += data.tokens.shape[1] * len(chosen)
        curves["loss"].append(value)
        curves["learning_rate"].append(rate)
        if config.target_loss is not None and step % config.loss_every == 0:
            curves["training_loss"].append([step, evaluate(model, sample)])
            reached = _reached(config, curves)
        if state is not None and (step % state_every == 0 or step == last or reached):
            write_state(capture(model, optimizer, step, curves, identity), state)
        if progress is not None:
            progress(step, config.steps)

    model.eval()
    loss = evaluate(model, sample)
    seconds = time.perf_counter() - started
    reason = reason or _failure(config, data, parameters, loss)
    return Trained(
        model=model,
        curves=curves,
        steps=step,
        tokens=step * config.batch_size * data.tokens.shape[1],
        loss=loss,
        learned=not reason,
        reason=reason,
        seconds=seconds,
        tokens_per_second=seen / seconds,
    )


def _require_fitting(model: Any, config: LanguageConfig, data: TokenBlocks) -> None:
    limit = context(model)
    if limit is not None and data.tokens.shape[1] > limit:
        raise ValueError(
            f"[train] expected blocks of at most {limit} tokens for {config.model}, got {data.tokens.shape[1]}"
        )


def _identity(config: LanguageConfig, data: TokenBlocks) -> dict[str, Any]:
    return {"config": json.loads(json.dumps(asdict(config))), "data": data.content_hash()}


def _beginning(state: str | Path | None, fork: str | Path | None, identity: Mapping[str, Any]) -> TrainingState:
    if state is not None and Path(state).is_file():
        found = read_state(state)
        if found.identity != identity:
            asked, there = identity["config"], found.identity.get("config", {})
            differs = [name for name in asked if asked[name] != there.get(name)]
            what = ", ".join(f"{name} {there.get(name)!r}" for name in differs) or "other blocks"
            raise ValueError(
                f"[train] expected {state} as the state of this training, got one with {what}; "
                "name another file, or fork from it"
            )
        return found
    return read_state(fork) if fork is not None else TrainingState()


def _backward(model: Any, config: LanguageConfig, tokens: Tensor, targets: Tensor, place: torch.device) -> float:
    """Add the gradient of a step's loss, part after part, and return the loss."""
    counted = int((targets >= 0).sum())
    total = 0.0
    for part, aims in zip(tokens.chunk(config.accumulation), targets.chunk(config.accumulation), strict=True):
        with torch.autocast(place.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
            logits = model(input_ids=part.to(place), use_cache=False).logits
        loss = _summed(logits, aims.to(place)) / counted
        loss.backward()
        total += loss.item()
    return total


def _summed(logits: Tensor, targets: Tensor) -> Tensor:
    """The cross entropy of every position with the token behind it, summed over those that count."""
    ahead = logits[:, :-1].float()
    return F.cross_entropy(ahead.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="sum")


def _reached(config: LanguageConfig, curves: Mapping[str, list[Any]]) -> bool:
    looks = curves["training_loss"]
    return config.target_loss is not None and bool(looks) and looks[-1][1] <= config.target_loss


def _failure(config: LanguageConfig, data: TokenBlocks, parameters: list[Any], loss: float) -> str:
    if not all(bool(torch.isfinite(parameter).all()) for parameter in parameters):
        return "weights are not finite"
    known = unigram_loss(data)
    if not loss < known:
        return f"training loss {loss:.3f}, no better than the {known:.3f} of one who knows how frequent each token is"
    if config.target_loss is not None and loss > config.target_loss:
        return f"training loss {loss:.3f} > {config.target_loss:g}"
    return ""


def evaluate(model: Any, data: TokenBlocks, batch_size: int = 16) -> float:
    """The mean cross entropy over the counted tokens of all blocks, in eval mode, in nats a token.

    >>> evaluate(trained.model, blocks)
    2.71

    Args:
        model: any causal model of transformers or peft.
        data: blocks that it can take.
        batch_size: blocks per forward pass.
    """
    total, counted = 0.0, 0
    for logits, targets in _logits(model, data, batch_size):
        total += float(_summed(logits, targets))
        counted += int((targets >= 0).sum())
    return total / counted


def predictions(model: Any, data: TokenBlocks, batch_size: int = 16) -> np.ndarray:
    """The likeliest token behind every position but the last, in eval mode.

    >>> predictions(trained.model, blocks).shape        # blocks of 128 tokens
    (812, 127)

    Args:
        model, data, batch_size: as in `evaluate`.

    Returns:
        int64 [n, t - 1].
    """
    return np.concatenate([logits[:, :-1].argmax(2).cpu().numpy() for logits, _ in _logits(model, data, batch_size)])


def _logits(model: Any, data: TokenBlocks, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    place, targets = next(model.parameters()).device, torch.from_numpy(data.targets())
    before = model.training
    model.eval()
    try:
        with torch.no_grad():
            for start in range(0, len(data), batch_size):
                part = slice(start, start + batch_size)
                tokens = torch.from_numpy(data.tokens[part].astype(np.int64)).to(place)
                yield model(input_ids=tokens, use_cache=False).logits, targets[part].to(place)
    finally:
        model.train(before)
