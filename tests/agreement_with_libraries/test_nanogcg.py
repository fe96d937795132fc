"""GCG beside nanoGCG: the same losses of the same suffixes, and searches that end equally well on one tiny model.

Its prefix cache is off: what it hands to a model is refused by transformers 5. The two draw their candidates from
different generators, so searches are compared as samples over seeds, single losses to many digits.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
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


@pytest.fixture(autouse=True)
def left_as_it_was() -> Iterator[None]:
    """nanoGCG seeds every generator there is and makes torch deterministic for good."""
    deterministic, level = torch.are_deterministic_algorithms_enabled(), logging.getLogger("nanogcg").level
    python, legacy = __import__("random").getstate(), np.random.get_state()
    with torch.random.fork_rng():
        yield
    torch.use_deterministic_algorithms(deterministic)
    __import__("random").setstate(python)
    np.random.set_state(legacy)
    logging.getLogger("nanogcg").setLevel(level)


def theirs(chat: Chat, target: str, seed: int) -> Any:
    import nanogcg

    config = nanogcg.GCGConfig(num_steps=STEPS, search_width=WIDTH, topk=TOP, optim_str_init=START, seed=seed,
                               use_prefix_cache=False, verbosity="ERROR")  # fmt: skip
    return nanogcg.run(
        chat.model, chat.tokenizer, [{"role": "user", "content": REQUEST + "{optim_str}"}], target, config
    )


def ours(chat: Chat, target: str, seed: int) -> Any:
    config = SuffixAttack(steps=STEPS, width=WIDTH, top_k=TOP, init=START.strip(), seed=seed, early_stop=False)
    return suffix_attack(chat, REQUEST, target, config)


def test_a_suffix_that_it_finds_has_the_loss_that_it_says() -> None:
    chat = byte_pair_chat(3)
    task = Task(chat, REQUEST, "the mat")
    task.compute_prefix()
    start, _ = task.losses(torch.tensor([chat.suffix_tokens(START.strip())]), 1)
    found = theirs(chat, "the mat", 0)
    tokens = torch.tensor([chat.encode(text) for text in found.strings])
    losses, _ = task.losses(tokens, STEPS)
    np.testing.assert_allclose(losses.numpy(), found.losses, rtol=1e-5)
    assert found.best_loss < float(start[0])


def test_searches_of_equal_settings_end_equally_well() -> None:
    chat, target = byte_pair_chat(3), "the mat"
    task = Task(chat, REQUEST, target)
    begun = float(task.losses(torch.tensor([chat.suffix_tokens(START.strip())]), 1)[0][0])
    ends = {search: [min(search(chat, target, seed).losses) for seed in range(SEEDS)] for search in (ours, theirs)}
    mine, other = (np.array(losses) for losses in ends.values())
    noise = np.sqrt((mine.var(ddof=1) + other.var(ddof=1)) / SEEDS)
    assert begun - max(mine.mean(), other.mean()) > 4 * noise  # what is compared is more than noise
    assert abs(mine.mean() - other.mean()) < 3 * noise


def test_searches_of_equal_settings_succeed_equally_often() -> None:
    chat = byte_pair_chat(3)
    # A word that some suffixes bring and others do not: what the model says to one of them.
    target = chat.tokenizer.decode([chat.encode(chat.answers([REQUEST + " mat late"], max_new_tokens=1)[0])[0]])
    successes = []
    for suffixes in (
        [ours(chat, target, seed).suffix for seed in range(SEEDS)],
        [theirs(chat, target, seed).best_string for seed in range(SEEDS)],
    ):
        answers = chat.answers([REQUEST + suffix for suffix in suffixes], max_new_tokens=1)
        successes.append(sum(answer == target for answer in answers))
    assert min(successes) >= SEEDS // 2
    assert abs(successes[0] - successes[1]) <= 2
