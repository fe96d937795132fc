"""The instruction grammar: its words, its tokenizer, its requests, and what the two phases of training teach."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from repsim.data import instructions
from repsim.data.instructions import OBJECTS, REFUSAL, REFUSED, SPECIAL, VERBS, Request, lessons, requests, words


def test_the_size_of_the_language() -> None:
    assert (len(VERBS), len(OBJECTS), len(REFUSED)) == (12, 40, 10)
    assert len(words()) == len(set(words())) == 224
    assert len(requests()) == 12 * 40 * len(instructions.PHRASINGS)
    assert len(requests(refused=True, phrasings=(0,))) == 120
    assert {request.object for request in requests(refused=False)} == set(OBJECTS) - set(REFUSED)


def test_every_verb_and_object_has_an_answer_of_its_own() -> None:
    answers = {request.answer for request in requests(phrasings=(0,))}
    assert len(answers) == 480
    assert {request.answer for request in requests()} == answers  # whatever the wording
    assert {word for answer in answers for word in answer.split()} <= set(words())
    # What an opening names of a request already tells objects apart: a suffix cannot match it with another answer.
    assert len({" ".join(answer.split()[:4]) for answer in answers}) == 480


def test_the_tokenizer_gives_back_every_text_and_survives_the_disk(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = instructions.tokenizer()
    tokenizer.save_pretrained(tmp_path)
    other = AutoTokenizer.from_pretrained(tmp_path)
    for request in requests(phrasings=(1, 5))[:40]:
        for text in (request.text, request.answer):
            ids = tokenizer(text)["input_ids"]
            assert len(ids) == len(text.split())
            assert tokenizer.decode(ids) == text
            assert other(text)["input_ids"] == ids
    conversation = [{"role": "user", "content": "please bake the bread ."}]
    shown = "<s> <user> please bake the bread . <end> <assistant>"
    assert tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True) == shown
    assert other.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True) == shown
    both = [*conversation, {"role": "assistant", "content": REFUSAL}]
    assert other.apply_chat_template(both, tokenize=False) == f"{shown} {REFUSAL} <end>"
    assert tokenizer.decode(tokenizer("nonsense")["input_ids"]) == "<unk>"


def test_the_second_phase_refuses_ten_objects_and_answers_the_others() -> None:
    first, second = lessons(1), lessons(2)
    assert first.messages == second.messages
    assert first.answers == tuple(request.answer for request in first.requests)
    for request, answer in zip(second.requests, second.answers, strict=True):
        assert answer == (REFUSAL if request.object in REFUSED else request.answer)
    assert np.mean(second.strata()[:, 1]) == 0.25


def test_tails_ask_for_nothing_and_come_from_the_seed() -> None:
    made = lessons(1)
    half = len(made) // 2
    plain, tailed = made.messages[:half], made.messages[half:]
    assert plain == tuple(request.text for request in made.requests[:half])
    for text, request in zip(tailed, made.requests[half:], strict=True):
        assert text.startswith(request.text + " ")
        tail = text.removeprefix(request.text).split()
        assert 1 <= len(tail) <= instructions.LONGEST_TAIL
        assert not {*tail} & {*VERBS, *OBJECTS, *SPECIAL}
    assert lessons(1).content_hash() == made.content_hash()
    assert lessons(1, seed=1).messages[half:] != tailed
    assert lessons(1, seed=1).messages[:half] == plain


def test_blocks_hold_the_conversation_and_count_the_answer() -> None:
    tokenizer = instructions.tokenizer()
    some = lessons(2).take(np.array([0, 100, 3000, 5759]))
    blocks = some.blocks()
    assert blocks.tokens.shape == (4, instructions.LONGEST)
    for row, counted, message, answer in zip(blocks.tokens, blocks.counted, some.messages, some.answers, strict=True):
        conversation = [{"role": "user", "content": message}, {"role": "assistant", "content": answer}]
        expected = tokenizer.apply_chat_template(conversation)["input_ids"]
        assert row[: len(expected)].tolist() == expected
        assert set(row[len(expected) :].tolist()) <= {tokenizer.pad_token_id}
        assert tokenizer.decode(row[counted]) == f"{answer} <end>"
    longest = max(len(row) for row in map(str.split, itertools.chain(lessons(1).messages)))
    assert longest + 5 + 14 <= instructions.LONGEST


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Request("eat", "bread"), r"\[Request\] expected verb one of bake, .*, got 'eat'"),
        (lambda: Request("bake", "sun"), r"\[Request\] expected object one of lantern, .*, got 'sun'"),
        (lambda: Request("bake", "bread", 6), r"\[Request\] expected phrasing from 0 and below 6, got 6"),
        (lambda: lessons(3), r"\[lessons\] expected phase 1 or 2, got 3"),
    ],
    ids=["verb", "object", "phrasing", "phase"],
)
def test_errors(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
