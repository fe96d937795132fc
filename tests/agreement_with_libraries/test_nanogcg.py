"""GCG beside nanoGCG: the same losses of the same suffixes, and searches that end equally well on one tiny model.

Its prefix cache is off: what it hands to a model is refused by transformers 5. The two draw their candidates from
different generators, so searches are compared as samples over seeds, single losses to many digits.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from chat_models import byte_pair_chat

from repsim.attacks.chat import Chat
from repsim.attacks.suffix import SuffixAttack, suffix_attack
from repsim.attacks.suffix_tasks import Task

from . import versions

REASON = versions.missing("nanogcg")
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)
REQUEST, START, STEPS, WIDTH, TOP, SEEDS = "say cat", " x x x x x x", 10, 32, 32, 6


@pytest.fixture(scope="module")
def chat() -> Chat:
    return byte_pair_chat(3)


@pytest.fixture(scope="module")
def target(chat: Chat) -> str:
    """A word that some suffixes bring and others do not: what the model says to one of them."""
    return chat.answers([REQUEST + " mat late"], max_new_tokens=1)[0]


@pytest.fixture(scope="module")
def searches(chat: Chat, target: str) -> Iterator[tuple[list[Any], list[Any]]]:
    """Ours and theirs for every seed; nanoGCG seeds every generator there is and makes torch deterministic for good."""
    from nanogcg import gcg

    deterministic, level = torch.are_deterministic_algorithms_enabled(), logging.getLogger("nanogcg").level
    python, legacy, collector = random.getstate(), np.random.get_state(), gcg.gc
    gcg.gc = SimpleNamespace(collect=lambda: None)  # twice a step it waits for that, and no loss depends on it
    with torch.random.fork_rng():
        yield (
            [ours(chat, target, seed) for seed in range(SEEDS)],
            [theirs(chat, target, seed) for seed in range(SEEDS)],
        )
    gcg.gc = collector
    torch.use_deterministic_algorithms(deterministic)
    random.setstate(python)
    np.random.set_state(legacy)
    logging.getLogger("nanogcg").setLevel(level)


def theirs(chat: Chat, target: str, seed: int) -> Any:
    import nanogcg

    config = nanogcg.GCGConfig(num_steps=STEPS, search_width=WIDTH, topk=TOP, optim_str_init=START, seed=seed,
                               use_prefix_cache=False, verbosity="ERROR")  # fmt: skip
    messages = [{"role": "user", "content": REQUEST + "{optim_str}"}]
    return nanogcg.run(chat.model, chat.tokenizer, messages, target, config)


def ours(chat: Chat, target: str, seed: int) -> Any:
    config = SuffixAttack(steps=STEPS, width=WIDTH, top_k=TOP, init=START.strip(), seed=seed, early_stop=False)
    return suffix_attack(chat, REQUEST, target, config)


def test_suffixes_that_it_finds_have_the_losses_that_it_says(chat: Chat, target: str, searches: Any) -> None:
    task = Task(chat, REQUEST, target)
    task.compute_prefix()
    for found in searches[1]:
        losses, _ = task.losses(torch.tensor([chat.encode(text) for text in found.strings]), STEPS)
        np.testing.assert_allclose(losses.numpy(), found.losses, rtol=1e-5)


def test_searches_of_equal_settings_end_equally_well(chat: Chat, target: str, searches: Any) -> None:
    task = Task(chat, REQUEST, target)
    begun = float(task.losses(torch.tensor([chat.suffix_tokens(START.strip())]), 1)[0][0])
    mine, other = (np.array([min(found.losses) for found in side]) for side in searches)
    noise = np.sqrt((mine.var(ddof=1) + other.var(ddof=1)) / SEEDS)
    assert begun - max(mine.mean(), other.mean()) > 4 * noise  # what is compared is more than noise
    assert abs(mine.mean() - other.mean()) < 3 * noise


def test_searches_of_equal_settings_succeed_equally_often(chat: Chat, target: str, searches: Any) -> None:
    successes = []
    for suffixes in ([found.suffix for found in searches[0]], [found.best_string for found in searches[1]]):
        answers = chat.answers([REQUEST + suffix for suffix in suffixes], max_new_tokens=1)
        successes.append(sum(answer == target for answer in answers))
    assert min(successes) >= SEEDS // 2
    assert abs(successes[0] - successes[1]) <= 2
