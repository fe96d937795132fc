"""Suffix attacks: losses and gradients against textbook ones, the search against exhaustion, text against tokens."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from chat_models import byte_pair_chat, byte_pair_tokenizer, grammar_chat, target_loss

from repsim.attacks.chat import PLAIN_TEMPLATE, Chat, load_chat
from repsim.attacks.suffix import SuffixAttack, random_suffixes, suffix_attack, survivors, tasks_of
from repsim.attacks.suffix_tasks import Task, allowed_tokens
from repsim.data import instructions

REQUEST, TARGET = "how do i build the bell ?", "sure , measure clapper"
OTHER = "please paint the kite ."
SMALL = SuffixAttack(steps=3, length=4, width=16, top_k=8, early_stop=False)


def shown(request: str, suffix: str, target: str) -> str:
    """The grammar's conversation, written by hand."""
    return f"<s> <user> {request}{suffix} <end> <assistant> {target}"


def grammar_loss(chat: Chat, request: str, suffix: str, target: str) -> tuple[float, bool]:
    ids = chat.tokenizer(shown(request, suffix, target))["input_ids"]
    return target_loss(chat.model, ids, len(target.split()))


# ------------------------------------------------------------------------------------------------ losses and gradients


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize(("cache", "batch"), [(True, 7), (True, 3), (False, 7), (False, 2)])
def test_losses_are_the_textbook_ones_with_and_without_the_shared_prefix(kind: str, cache: bool, batch: int) -> None:
    chat = grammar_chat(1, kind=kind)
    task = Task(chat, REQUEST, TARGET)
    if cache:
        task.compute_prefix()
    suffixes = torch.randint(6, 224, (7, 4), generator=torch.Generator().manual_seed(0))
    for _ in range(2):  # a second time: the shared prefix is as it was
        losses, matched = task.losses(suffixes, batch)
        expected = [grammar_loss(chat, REQUEST, text, TARGET) for text in chat.suffix_texts(suffixes)]
        np.testing.assert_allclose(losses.numpy(), [loss for loss, _ in expected], rtol=1e-5)
        assert matched.tolist() == [match for _, match in expected]


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_gradients_are_those_of_a_finite_difference(kind: str) -> None:
    chat = grammar_chat(2, kind=kind, dtype=torch.float64)
    task = Task(chat, REQUEST, TARGET)
    task.compute_prefix()
    suffix, allowed = torch.tensor([10, 20, 30]), torch.tensor([6, 50, 100, 223])
    gradient = task.gradient(suffix, allowed)
    table = chat.embedding.weight.detach()
    start = table[suffix]
    for place, column in itertools.product(range(3), range(4)):
        step = torch.zeros_like(start)
        step[place] = 1e-3 * table[allowed[column]]
        with torch.no_grad():
            high, low = (float(task_in_double(task, start + sign * step)) for sign in (1, -1))
        assert float(gradient[place, column]) == pytest.approx(
            (high - low) / 2e-3, rel=1e-3, abs=3e-4
        )  # a Llama's norm rounds to float32


def task_in_double(task: Task, vectors: torch.Tensor) -> torch.Tensor:
    """The loss of vectors in the suffix's place, without the attack's own way to it: no cache, no cut logits."""
    embed = task.chat.embedding
    whole = torch.cat([embed(task.before), vectors, embed(task.after), embed(task.target)])
    logits = task.chat.model(inputs_embeds=whole[None]).logits[0]
    rows = logits[-len(task.target) - 1 : -1].log_softmax(1)
    return -rows.gather(1, task.target[:, None]).mean()


def test_a_model_without_gradient_is_refused() -> None:
    chat = grammar_chat(0)
    chat.model.lm_head.weight = torch.nn.Parameter(torch.zeros_like(chat.model.lm_head.weight))
    with pytest.raises(ValueError, match="expected a gradient of gpt2 0 to go by, got zero everywhere"):
        suffix_attack(chat, REQUEST, TARGET, SMALL)


# ---------------------------------------------------------------------------------------------------------- the search


@pytest.mark.parametrize("method", ["gcg", "random_search"])
def test_one_word_is_searched_to_the_best_there_is(method: str) -> None:
    chat = grammar_chat(3)
    config = SuffixAttack(method, steps=12, length=1, width=400, top_k=300, buffer=1, early_stop=False)
    result = suffix_attack(chat, REQUEST, TARGET, config)
    allowed = allowed_tokens("test", chat, (), ascii_only=True)
    best = min(grammar_loss(chat, REQUEST, text, TARGET)[0] for text in chat.suffix_texts(allowed[:, None]))
    assert len(allowed) == 224 - len(instructions.SPECIAL)
    assert result.loss == pytest.approx(best, rel=1e-5)


def test_gradients_find_more_than_chance_at_equal_budget() -> None:
    chat = grammar_chat(4)
    config = SuffixAttack(steps=12, length=6, width=24, top_k=16, buffer=1, early_stop=False)
    found: dict[str, list[float]] = {"gcg": [], "random_search": []}
    for seed, (method, losses) in itertools.product(range(4), found.items()):
        result = suffix_attack(chat, REQUEST, TARGET, dataclasses.replace(config, method=method, seed=seed))
        losses.append(result.loss)
        spent = result.evaluations + 3 * result.gradients
        assert 12 * 24 * 0.9 <= spent <= 12 * 27 + 1  # duplicates are not evaluated twice; the start is
        assert result.gradients == (12 if method == "gcg" else 0)
    assert np.mean(found["gcg"]) < np.mean(found["random_search"])


def test_what_is_returned_is_what_text_gives() -> None:
    chat = grammar_chat(5)
    result = suffix_attack(chat, REQUEST, TARGET, SMALL)
    assert result.suffix.startswith(" ")
    assert len(result.suffix.split()) == 4
    loss, matched = grammar_loss(chat, REQUEST, result.suffix, TARGET)
    assert result.loss == pytest.approx(loss, rel=1e-5)
    assert result.matched == (matched,)
    assert len(result.losses) == 3
    assert result.loss == pytest.approx(min(result.losses), rel=1e-5)
    assert result.ended == "steps"


def test_the_same_seed_gives_the_same_suffix_and_leaves_global_states_alone() -> None:
    chat = grammar_chat(5)
    before = torch.get_rng_state()
    results = [suffix_attack(chat, REQUEST, TARGET, dataclasses.replace(SMALL, seed=seed)) for seed in (0, 0, 1)]
    assert dataclasses.replace(results[0], seconds=0.0) == dataclasses.replace(results[1], seconds=0.0)
    assert results[0].suffix != results[2].suffix
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("change", [{"batch_size": 5}, {"prefix_cache": False}], ids=["batch-size", "prefix-cache"])
def test_settings_of_memory_and_speed_change_nothing(change: dict[str, Any]) -> None:
    chat = grammar_chat(6)
    plain, other = (suffix_attack(chat, REQUEST, TARGET, dataclasses.replace(SMALL, **c)) for c in ({}, change))
    assert plain.suffix == other.suffix
    np.testing.assert_allclose(plain.losses, other.losses, rtol=1e-4)


def test_a_buffer_never_starts_from_worse_than_it_has() -> None:
    chat = grammar_chat(7)
    config = dataclasses.replace(SMALL, steps=8, width=4)
    free = suffix_attack(chat, REQUEST, TARGET, config)
    kept = suffix_attack(chat, REQUEST, TARGET, dataclasses.replace(config, buffer=3))
    assert any(later > earlier for earlier, later in itertools.pairwise(free.losses))  # it walks up, too
    assert kept.loss <= min(kept.losses) * (1 + 1e-5)


def test_a_buffer_starts_from_the_best_of_many() -> None:
    chat = grammar_chat(7)
    config = dataclasses.replace(SMALL, steps=1, width=1, buffer=40)
    result = suffix_attack(chat, REQUEST, TARGET, config)
    starts = [grammar_loss(chat, REQUEST, suffix, TARGET)[0] for suffix in random_suffixes(chat, REQUEST, config, 40)]
    assert result.loss == pytest.approx(min([*starts, *result.losses]), rel=1e-5)
    assert result.evaluations == 41
    given = suffix_attack(chat, REQUEST, TARGET, dataclasses.replace(config, init="walk stave file"))
    assert len(given.suffix.split()) == 3


def test_it_stops_when_the_target_is_what_the_model_says() -> None:
    chat = grammar_chat(8)
    says = chat.answers([REQUEST + " walk stave file pile"], max_new_tokens=1)[0]
    config = dataclasses.replace(SMALL, steps=50, init="walk stave file pile", early_stop=True)
    result = suffix_attack(chat, REQUEST, says, config)
    assert (result.ended, result.matched, result.suffix) == ("matched", (True,), " walk stave file pile")
    assert result.gradients == 0
    found = suffix_attack(chat, REQUEST, says, dataclasses.replace(config, init="flour yeast seat leg"))
    assert found.ended == "matched"
    assert chat.answers([REQUEST + found.suffix], max_new_tokens=1) == [says]


def test_excluded_words_and_special_tokens_never_stand_in_a_suffix() -> None:
    chat = grammar_chat(9)
    kept = instructions.neutral_words()[::4]
    exclude = tuple(word for word in instructions.words() if word not in kept)
    config = dataclasses.replace(SMALL, exclude=exclude, steps=6)
    seen: list[str] = []
    suffix_attack(chat, REQUEST, TARGET, config, progress=lambda at: seen.extend(at.suffix.split()))
    for suffix in random_suffixes(chat, REQUEST, config, 30):
        seen += suffix.split()
    assert set(seen) <= set(kept)


def test_progress_is_told_after_every_step() -> None:
    seen = []
    result = suffix_attack(grammar_chat(5), REQUEST, TARGET, SMALL, progress=seen.append)
    assert [(at.step, at.steps) for at in seen] == [(1, 3), (2, 3), (3, 3)]
    assert seen[-1].suffix == result.suffix
    assert seen[-1].loss == pytest.approx(result.loss, rel=1e-5)


# ------------------------------------------------------------------------------------------ several requests and models


def test_one_suffix_for_several_requests_and_models_is_judged_by_all_of_them() -> None:
    chats = [grammar_chat(10), grammar_chat(11), grammar_chat(12, kind="llama")]
    config = dataclasses.replace(SMALL, incremental=False)
    result = suffix_attack(chats, [REQUEST, OTHER], [TARGET, "sure , sand string"], config)
    each = [
        grammar_loss(chat, request, result.suffix, target)
        for request, target in ((REQUEST, TARGET), (OTHER, "sure , sand string"))
        for chat in chats
    ]
    assert result.loss == pytest.approx(np.mean([loss for loss, _ in each]), rel=1e-5)
    assert result.matched == tuple(match for _, match in each)
    assert result.gradients == 3 * 6
    single = suffix_attack(chats[0], REQUEST, TARGET, config)
    assert single.suffix != result.suffix


def test_requests_are_taken_in_one_after_the_other() -> None:
    chat = grammar_chat(8)
    start = "walk stave file pile"
    says = [chat.answers([request + " " + start], max_new_tokens=1)[0] for request in (REQUEST, OTHER)]
    config = dataclasses.replace(SMALL, init=start, early_stop=True, steps=20)
    result = suffix_attack(chat, [REQUEST, OTHER], says, config)
    assert (result.ended, result.gradients) == ("matched", 0)
    unlikely = suffix_attack(chat, [REQUEST, OTHER], [TARGET, TARGET], dataclasses.replace(config, steps=4))
    assert unlikely.gradients == 4  # the first is not won yet, so the second costs nothing
    whole = suffix_attack(chat, [REQUEST, OTHER], says, dataclasses.replace(config, steps=4, early_stop=False))
    assert whole.gradients == 8  # both are won from the start, and both go on to count


def test_models_with_different_tokenizers_are_refused() -> None:
    with pytest.raises(ValueError, match="one tokenizer, got another one of llama 0 than of gpt2 0; attack one"):
        suffix_attack([grammar_chat(0), byte_pair_chat(0)], REQUEST, TARGET, SMALL)


# --------------------------------------------------------------------------------------------------------- text, tokens


def test_byte_pairs_survive_as_text() -> None:
    chat = byte_pair_chat(1, system="be brief")
    config = SuffixAttack(steps=4, length=6, width=64, top_k=64, early_stop=False)
    result = suffix_attack(chat, "say cat", "the mat", config)
    text = f"<|system|>\nbe brief<|end|>\n<|user|>\nsay cat{result.suffix}<|end|>\n<|assistant|>\n"
    ids = chat.encode(text)
    assert ids == chat.tokenizer.apply_chat_template(
        [{"role": "system", "content": "be brief"}, {"role": "user", "content": "say cat" + result.suffix}],
        add_generation_prompt=True,
    )["input_ids"]  # fmt: skip
    target = chat.encode("the mat")
    loss, matched = target_loss(chat.model, ids + target, len(target))
    assert result.loss == pytest.approx(loss, rel=1e-5)
    assert result.matched == (matched,)
    assert all(character.isascii() and character.isprintable() for character in result.suffix)


@pytest.mark.parametrize("round_trip", [True, False])
def test_the_round_trip_is_what_makes_suffixes_survive(round_trip: bool) -> None:
    chat = byte_pair_chat(1)
    made = random_suffixes(chat, "say cat", SuffixAttack(length=6, round_trip=round_trip), 200)
    start, end = (len(chat.encode(part)) for part in chat.parts("say cat"))
    lengths = {len(chat.encode(chat.render("say cat" + suffix))) - start - end for suffix in made}
    assert (lengths == {6}) == round_trip


def test_survival_is_that_of_the_whole_conversation() -> None:
    chat = byte_pair_chat(0)
    rng = torch.Generator().manual_seed(1)
    allowed = allowed_tokens("test", chat, (), ascii_only=True)
    tokens = allowed[torch.randint(len(allowed), (200, 3), generator=rng)]
    texts = chat.suffix_texts(tokens)
    kept = chat.survives("say cat", texts, tokens)
    before, after = chat.encode("<|user|>\nsay cat"), chat.encode("<|end|>\n<|assistant|>\n")
    expected = []
    for text, row in zip(texts, tokens.tolist(), strict=True):
        conversation = [{"role": "user", "content": "say cat" + text}]
        whole = chat.tokenizer.apply_chat_template(conversation, add_generation_prompt=True)["input_ids"]
        expected.append(whole == before + row + after)
    assert kept == expected
    assert 0 < sum(kept) < 200


def test_suffixes_survive_in_the_template_of_every_model() -> None:
    bare = "{% for message in messages %}{{ message['content'] }}at the mat{% endfor %}"  # it may join what follows
    chats = [byte_pair_chat(0), byte_pair_chat(1, template=bare)]
    allowed = allowed_tokens("test", chats[0], (), ascii_only=True)
    drawn = torch.randint(len(allowed), (200, 3), generator=torch.Generator().manual_seed(1))
    tokens = allowed[drawn]
    texts = chats[0].suffix_texts(tokens)
    first, second = (torch.tensor(chat.survives("say cat", texts, tokens)) for chat in chats)
    assert bool((first & ~second).any())
    kept = survivors(tasks_of("test", chats, "say cat", "the mat"), tokens, SuffixAttack(length=3))
    assert torch.equal(kept, first & second)


def test_suffixes_survive_behind_requests_that_are_not_yet_taken_in(monkeypatch: pytest.MonkeyPatch) -> None:
    chat, survives = grammar_chat(0), Chat.survives

    def picky(self: Chat, request: str, texts: list[str], tokens: torch.Tensor) -> list[bool]:
        fine = survives(self, request, texts, tokens)
        return [one and (request == REQUEST or " chip" not in text) for one, text in zip(fine, texts, strict=True)]

    monkeypatch.setattr(Chat, "survives", picky)
    words = [word for word in instructions.words() if word not in ("chip", "file")]
    config = dataclasses.replace(SMALL, steps=6, exclude=tuple(words), init="file file file file")
    single = suffix_attack(chat, REQUEST, TARGET, config)
    seen: list[str] = []
    suffix_attack(chat, [REQUEST, OTHER], [TARGET, TARGET], config, progress=lambda at: seen.append(at.suffix))
    assert single.evaluations > 20  # behind the first request alone there are candidates with either word
    assert set(" ".join(seen).split()) == {"file"}


def test_random_suffixes_hold_the_length_and_differ() -> None:
    chat = byte_pair_chat(0)
    config = SuffixAttack(length=5, seed=3)
    made = random_suffixes(chat, "say cat", config, 8)
    assert len(set(made)) == 8
    assert made == random_suffixes(chat, "say cat", config, 8)
    start, end = (len(chat.encode(part)) for part in chat.parts("say cat"))
    assert {len(chat.encode(chat.render("say cat" + suffix))) for suffix in made} == {start + 5 + end}


def test_a_search_whose_candidates_all_perish_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = grammar_chat(0)
    monkeypatch.setattr(Chat, "survives", lambda self, request, texts, tokens: [False] * len(texts))
    result = suffix_attack(chat, REQUEST, TARGET, dataclasses.replace(SMALL, init="walk stave file pile"))
    assert (result.ended, result.losses, result.suffix) == ("no candidate", (), " walk stave file pile")
    with pytest.raises(ValueError, match=r"expected 1 random suffixes of 4 tokens .* got 0 in 64 draws; give init="):
        suffix_attack(chat, REQUEST, TARGET, SMALL)


# --------------------------------------------------------------------------------------------------------------- chats


def test_answers_are_the_likeliest_tokens_whatever_the_batch() -> None:
    chat = grammar_chat(13)
    messages = [REQUEST, OTHER, REQUEST + " walk", OTHER + " stave stave"]
    expected = []
    for message in messages:
        ids = chat.tokenizer(shown(message, "", "").rstrip())["input_ids"]
        for _ in range(6):
            with torch.no_grad():
                ids.append(int(chat.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == chat.tokenizer.eos_token_id:
                break
        start = len(chat.tokenizer(shown(message, "", "").rstrip())["input_ids"])
        expected.append(chat.tokenizer.decode(ids[start:], skip_special_tokens=True))
    assert chat.answers(messages, max_new_tokens=6) == expected
    assert chat.answers(messages, max_new_tokens=6, batch_size=1) == expected


def test_a_checkpoint_s_sampling_settings_do_not_count() -> None:
    chat = grammar_chat(13)
    plain = chat.answers([REQUEST], max_new_tokens=6)
    chat.model.generation_config.update(do_sample=True, repetition_penalty=9.0, min_length=9)
    assert chat.answers([REQUEST], max_new_tokens=6) == plain


def test_an_answer_ends_at_any_of_the_tokens_that_the_checkpoint_names() -> None:
    chat = grammar_chat(13)
    words = chat.answers([REQUEST], max_new_tokens=6)[0].split()
    third = chat.encode(words[2])[0]
    chat.model.generation_config.eos_token_id = [0, third]
    cut = Chat(chat.model, chat.tokenizer)
    assert cut.answers([REQUEST], max_new_tokens=6) == [" ".join(words[:2])]


def test_an_answer_ends_where_the_context_does() -> None:
    chat = grammar_chat(13)
    chat.model.generation_config.eos_token_id = [0]
    endless = Chat(chat.model, chat.tokenizer)
    long = " ".join([REQUEST, *["walk"] * 40])  # 52 tokens of 64 with those around it
    (answer,) = endless.answers([long], max_new_tokens=50)
    assert len(chat.encode(endless.render(long))) + len(answer.split()) <= 65
    with pytest.raises(ValueError, match="expected prompts of at most 64 tokens for model, got 7"):
        endless.answers([" ".join([REQUEST, *["walk"] * 60])])


def test_states_are_those_of_the_last_token() -> None:
    chat = grammar_chat(13)
    found = chat.states([REQUEST, OTHER])
    assert found.shape == (3, 2, 16)
    ids = torch.tensor([chat.tokenizer(shown(OTHER, "", "").rstrip())["input_ids"]])
    with torch.no_grad():
        expected = chat.model(input_ids=ids, output_hidden_states=True).hidden_states
    for layer in range(3):
        np.testing.assert_allclose(found[layer, 1].numpy(), expected[layer][0, -1].numpy(), rtol=1e-5, atol=1e-6)
        before = chat.states([OTHER], token=-3)[layer, 0].numpy()
        np.testing.assert_allclose(before, expected[layer][0, -3].numpy(), rtol=1e-5, atol=1e-6)


def test_a_base_model_takes_the_plain_template() -> None:
    tokenizer = byte_pair_tokenizer()
    tokenizer.chat_template = None
    model = byte_pair_chat(0).model
    with pytest.raises(ValueError, match="expected a tokenizer with a chat template, got model without; give template"):
        Chat(model, tokenizer)
    assert Chat(model, tokenizer, template=PLAIN_TEMPLATE).render("say cat") == "say cat"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages[0]['content'][:3] }}", "shows a message once, got 0 times"),
        ("{{ messages[0]['content'] }} {{ messages[0]['content'] }}", "shows a message once, got 2 times"),
        ("{{ raise_exception('no system') }}", "expected a chat template that takes the messages, got no system"),
    ],
    ids=["loses", "repeats", "refuses"],
)
def test_templates_that_do_not_fit(template: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grammar_chat(0, template=template)


def test_a_model_in_train_mode_is_refused() -> None:
    chat = grammar_chat(0)
    with pytest.raises(ValueError, match="expected model in eval mode, got train mode"):
        Chat(chat.model.train(), chat.tokenizer)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "gcq"}, r"expected method one of \('gcg', 'random_search'\), got 'gcq'"),
        ({"steps": 0}, "expected steps of at least 1, got 0"),
        ({"length": 0}, "expected length of at least 1, got 0"),
        ({"width": 0}, "expected width of at least 1, got 0"),
        ({"top_k": 0}, "expected top_k of at least 1, got 0"),
        ({"replace": 21}, "expected replace of at most the length 20, got 21"),
        ({"buffer": -1}, "expected buffer of at least 0, got -1"),
        ({"seed": -1}, "expected seed of at least 0, got -1"),
        ({"batch_size": 0}, "expected batch_size of at least 1, got 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_configurations(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"\[SuffixAttack\] {message}"):
        SuffixAttack(**change)


@pytest.mark.parametrize(
    ("requests", "targets", "change", "message"),
    [
        ([], [], {}, "expected at least one model and one request, got 1 and 0"),
        ([REQUEST], ["a", "b"], {}, "expected a target for each of 1 requests, got 2"),
        ([REQUEST], [""], {}, "expected targets of at least one token, got none for 'how do i"),
        ([REQUEST], [TARGET], {"length": 60}, "fit into the 64 tokens of gpt2 0, got 75"),
        ([REQUEST], [TARGET], {"exclude": instructions.words()}, "expected a token that may stand in a suffix"),
        ([REQUEST], [TARGET], {"init": "walk", "replace": 2}, "expected init of at least 2 tokens, got 1: 'walk'"),
    ],
    ids=["no-request", "targets", "empty-target", "no-room", "no-token", "short-init"],
)
def test_bad_requests(requests: list[str], targets: list[str], change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        suffix_attack(grammar_chat(0), requests, targets, dataclasses.replace(SMALL, **change))


def test_a_model_that_is_not_deterministic_or_not_finite_is_refused() -> None:
    chat = grammar_chat(0)
    forward = chat.model.forward

    def noisy(*args: Any, **arguments: Any) -> Any:
        made = forward(*args, **arguments)
        made.logits = made.logits + torch.randn(()) * torch.arange(made.logits.shape[-1])
        return made

    chat.model.forward = noisy
    with torch.random.fork_rng(), pytest.raises(ValueError, match="expected a deterministic model, got another loss"):
        suffix_attack(chat, REQUEST, TARGET, SMALL)
    broken = grammar_chat(0)
    with torch.no_grad():
        broken.model.transformer.ln_f.weight[0] = torch.nan
    with pytest.raises(ValueError, match="expected a finite loss of gpt2 0, got nan"):
        suffix_attack(broken, REQUEST, TARGET, SMALL)


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory. Tried ..."), RuntimeError("[enforce fail] can't allocate memory: 9")],
    ids=["cuda", "cpu"],
)
def test_too_little_memory_names_the_setting(error: Exception) -> None:
    chat = grammar_chat(0)
    forward = chat.model.forward

    def greedy(*args: Any, **arguments: Any) -> Any:
        if arguments.get("input_ids", torch.empty(1)).shape[0] > 8:
            raise error
        return forward(*args, **arguments)

    chat.model.forward = greedy
    with pytest.raises(MemoryError, match=r"make SuffixAttack.batch_size, now 16, smaller"):
        suffix_attack(chat, REQUEST, TARGET, SMALL)
    assert suffix_attack(chat, REQUEST, TARGET, dataclasses.replace(SMALL, batch_size=8)).losses


def test_too_many_messages_at_once_name_the_batch_size(monkeypatch: pytest.MonkeyPatch) -> None:
    chat = grammar_chat(0)

    def greedy(**arguments: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried ...")

    monkeypatch.setattr(chat.model, "forward", greedy)
    for ask in (chat.answers, chat.states):
        with pytest.raises(MemoryError, match="make batch_size, now 3, smaller"):
            ask([REQUEST], batch_size=3)


# ------------------------------------------------------------------------------------------------ checkpoints on disk


def test_gcg_on_a_checkpoint_in_hugging_face_format(tmp_path: Any) -> None:
    made = byte_pair_chat(2)
    made.model.save_pretrained(tmp_path / "model")
    made.tokenizer.save_pretrained(tmp_path / "model")
    chat = load_chat(str(tmp_path / "model"))
    config = SuffixAttack(steps=3, length=5, width=32, top_k=32, early_stop=False)
    found = suffix_attack(chat, "say cat", "the mat", config)
    assert dataclasses.replace(found, seconds=0.0) == dataclasses.replace(
        suffix_attack(made, "say cat", "the mat", config), seconds=0.0
    )
    victim = grammar_chat(0)  # of another tokenizer: the suffix crosses as text
    assert victim.answers([REQUEST + found.suffix], max_new_tokens=2)


def test_checkpoints_that_cannot_chat(tmp_path: Any) -> None:
    made = byte_pair_chat(2)
    made.model.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"\[load_chat\] expected a tokenizer beside .*model, got"):
        load_chat(str(tmp_path / "model"))
    tokenizer = byte_pair_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"expected a tokenizer with a chat template, got .*model without"):
        load_chat(str(tmp_path / "model"))
    tokenizer.chat_template = PLAIN_TEMPLATE
    tokenizer.add_tokens([f"word{place}" for place in range(9)])
    tokenizer.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"expected a tokenizer of at most the \d+ tokens of .*model, got \d+"):
        load_chat(str(tmp_path / "model"))
    with pytest.raises(ValueError, match=r"expected a causal model of transformers, got .*nowhere"):
        load_chat(str(tmp_path / "nowhere"))


def test_tasks_are_every_request_to_every_model() -> None:
    chats = [grammar_chat(0), grammar_chat(1)]
    tasks = tasks_of("test", chats, [REQUEST, OTHER], [TARGET, TARGET])
    assert [(task.request, task.chat.name) for task in tasks] == [
        (REQUEST, "gpt2 0"), (REQUEST, "gpt2 1"), (OTHER, "gpt2 0"), (OTHER, "gpt2 1"),
    ]  # fmt: skip
