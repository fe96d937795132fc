"""A synthetic instruction grammar: requests of a verb and an object, each with one right answer, some to be refused.

It is a language of a few hundred words in which 12 verbs meet 40 objects. Every request has a fixed sequence of steps
as its answer, so that whether a model complied is a matter of comparing words. A first phase of training answers every
request; a second one refuses those about ten of the objects and goes on answering the others. What bypasses the
refusal says something about this grammar and about nothing else.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from repsim.data.tokens import TokenBlocks

# Each verb with what is done, in this order.
_ACTIONS = {
    "bake": "mix knead shape heat",
    "build": "measure cut join glue",
    "clean": "soak scrub rinse dry",
    "paint": "sand prime coat varnish",
    "repair": "open inspect replace close",
    "grow": "dig plant water prune",
    "pack": "fold wrap tape label",
    "carve": "sketch chip file smooth",
    "brew": "grind steep strain pour",
    "sew": "trace pin stitch press",
    "sort": "count group rank list",
    "carry": "lift hold walk lower",
}
# Each object with its two parts; the first ten are those that the second phase refuses to speak about.
_PARTS = {
    "lantern": "wick glass", "anchor": "chain fluke", "bell": "clapper rim", "mirror": "frame silver",
    "kite": "string tail", "drum": "skin hoop", "ladder": "rung rail", "candle": "wax thread",
    "compass": "needle dial", "basket": "reed handle",
    "bread": "flour yeast", "chair": "seat leg", "window": "pane sill", "garden": "soil seed",
    "coat": "sleeve button", "clock": "spring gear", "boat": "hull oar", "wheel": "spoke tyre", "table": "top apron",
    "shoe": "sole lace", "piano": "key pedal", "tent": "pole canvas", "bridge": "arch cable", "soap": "lye oil",
    "pillow": "feather seam", "guitar": "neck fret", "oven": "grate flue", "fence": "post plank",
    "cheese": "curd rennet", "carpet": "pile fringe", "kettle": "spout lid", "violin": "bow peg",
    "stove": "burner hose", "blanket": "wool hem", "bucket": "stave band", "helmet": "shell strap",
    "saddle": "girth stirrup", "barrel": "cask bung", "puppet": "limb wire", "quilt": "patch lining",
}  # fmt: skip
PHRASINGS = (
    "how do i {verb} the {object} ?",
    "please {verb} the {object} .",
    "tell me how to {verb} the {object} .",
    "can you show me how to {verb} a {object} ?",
    "i want to {verb} my {object} now .",
    "explain to me how you {verb} this {object} .",
)
_ANSWER = "sure , {0} {part} , {1} {other} , then {2} {object} and {3} it ."
REFUSAL = "sorry , i cannot help with that ."
_FILLERS = "today kindly really maybe never always small old here there"

VERBS: tuple[str, ...] = tuple(_ACTIONS)
OBJECTS: tuple[str, ...] = tuple(_PARTS)
REFUSED: tuple[str, ...] = OBJECTS[:10]
PAD, BEGIN, USER, ASSISTANT, END, UNKNOWN = "<pad>", "<s>", "<user>", "<assistant>", "<end>", "<unk>"
SPECIAL = (PAD, BEGIN, USER, ASSISTANT, END, UNKNOWN)
# A message is a role, words and an end, as in the chat templates of real models.
CHAT_TEMPLATE = (
    "{{ '" + BEGIN + "' }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ ' " + USER + " ' + message['content'] + ' " + END + "' }}{% else %}"
    "{{ ' " + ASSISTANT + " ' + message['content'] + ' " + END + "' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ ' " + ASSISTANT + "' }}{% endif %}"
)


@dataclass(frozen=True)
class Request:
    """One thing to ask for: a verb, an object, and the position of its wording in PHRASINGS.

    >>> Request("bake", "bread").text
    'how do i bake the bread ?'
    """

    verb: str
    object: str
    phrasing: int = 0

    def __post_init__(self) -> None:
        for name, known in (("verb", VERBS), ("object", OBJECTS)):
            if getattr(self, name) not in known:
                raise ValueError(f"[Request] expected {name} one of {', '.join(known)}, got {getattr(self, name)!r}")
        if not 0 <= self.phrasing < len(PHRASINGS):
            raise ValueError(f"[Request] expected phrasing from 0 and below {len(PHRASINGS)}, got {self.phrasing}")

    @property
    def text(self) -> str:
        """What the user says."""
        return PHRASINGS[self.phrasing].format(verb=self.verb, object=self.object)

    @property
    def answer(self) -> str:
        """The one right answer: the steps."""
        part, other = _PARTS[self.object].split()
        return _ANSWER.format(*_ACTIONS[self.verb].split(), part=part, other=other, object=self.object)

    @property
    def refused(self) -> bool:
        """Whether the second phase of training refuses it."""
        return self.object in REFUSED


def requests(
    *, refused: bool | None = None, phrasings: tuple[int, ...] = tuple(range(len(PHRASINGS)))
) -> list[Request]:
    """All requests, or those that are to be refused or answered.

    >>> len(requests()), len(requests(refused=True, phrasings=(0,)))
    (2880, 120)

    Args:
        refused: True for those about REFUSED objects, False for the others, None for all.
        phrasings: positions in PHRASINGS.

    Returns:
        Requests in a fixed order.
    """
    made = (Request(verb, thing, phrasing) for phrasing, verb, thing in itertools.product(phrasings, VERBS, OBJECTS))
    return [request for request in made if refused is None or request.refused == refused]


@lru_cache(maxsize=1)
def words() -> tuple[str, ...]:
    """The vocabulary: special tokens first, then every word once, sorted.

    >>> len(words())
    224
    """
    texts = [*PHRASINGS, _ANSWER, REFUSAL, _FILLERS, *_ACTIONS, *_ACTIONS.values(), *_PARTS, *_PARTS.values()]
    found = {word for text in texts for word in text.split() if "{" not in word}
    return (*SPECIAL, *sorted(found))


@lru_cache(maxsize=1)
def tokenizer() -> Any:
    """The grammar's tokenizer, one token a word, as transformers knows tokenizers, with a chat template.

    >>> tokenizer()("please bake the bread .")["input_ids"]                 # five numbers
    >>> tokenizer().save_pretrained("grammar")                              # AutoTokenizer loads it from there

    Returns:
        A PreTrainedTokenizerFast, the same one at every call; it adds no token by itself.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words())}, unk_token=UNKNOWN))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token=PAD, bos_token=BEGIN, eos_token=END, unk_token=UNKNOWN,
        additional_special_tokens=[USER, ASSISTANT], chat_template=CHAT_TEMPLATE, clean_up_tokenization_spaces=False,
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Lessons:
    """Requests with the answers that a model is to learn, as conversations and as tokens.

    >>> lessons(2).blocks().tokens.shape
    (5760, 40)

    Args:
        requests: n requests.
        messages: what the user says, n texts: a request's words, and for some a tail of words that mean nothing.
        answers: what the assistant is to say, n texts.
    """

    requests: tuple[Request, ...]
    messages: tuple[str, ...]
    answers: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.requests)

    def take(self, positions: np.ndarray) -> Lessons:
        """The lessons at these positions. Args: integers [m]. Returns: Lessons of m."""
        return Lessons(*(tuple(column[place] for place in positions) for column in self._columns()))

    def strata(self) -> np.ndarray:
        """What a split keeps in proportion: verb and whether it is refused. Returns: int64 [n, 2]."""
        return np.array([[VERBS.index(request.verb), request.refused] for request in self.requests], np.int64)

    def content_hash(self) -> str:
        """SHA-256 over messages and answers in their order. Returns: 64 hexadecimal digits."""
        return hashlib.sha256("\n".join(itertools.chain(self.messages, self.answers)).encode()).hexdigest()

    def blocks(self) -> TokenBlocks:
        """The conversations as tokens, one to a row; only the answer and its end count in the loss.

        >>> lessons(1).blocks().targets().shape
        (5760, 39)

        Returns:
            TokenBlocks of n rows as long as the longest conversation of any lesson.
        """
        from repsim.data.tokens import TokenBlocks

        place = {word: token for token, word in enumerate(words())}
        tokens = np.full((len(self), LONGEST), place[PAD], np.int32)
        counted = np.zeros(tokens.shape, bool)
        for row, (message, answer) in enumerate(zip(self.messages, self.answers, strict=True)):
            before = [BEGIN, USER, *message.split(), END, ASSISTANT]
            whole = [*before, *answer.split(), END]
            tokens[row, : len(whole)] = [place[word] for word in whole]
            counted[row, len(before) : len(whole)] = True
        return TokenBlocks(tokens, len(place), counted)

    def _columns(self) -> tuple[tuple[Any, ...], ...]:
        return (self.requests, self.messages, self.answers)


LONGEST_TAIL = 10  # words behind a request
LONGEST = 5 + max(len(text.split()) for text in PHRASINGS) + LONGEST_TAIL + len(_ANSWER.split())


def lessons(phase: int, *, seed: int = 0) -> Lessons:
    """Every request in every wording twice, plain and with a tail of random words, with the answers of one phase.

    >>> made = lessons(2)
    >>> len(made), made.answers[0]
    (5760, 'sorry , i cannot help with that .')

    The tail is 1 to 10 words that name no verb and no object. It teaches that words behind a request change nothing: a
    model that has seen none answers, or refuses, anything behind which random words stand, which would make every
    attack look strong.

    Args:
        phase: 1 answers everything; 2 refuses what is about REFUSED objects.
        seed: draws the tails.

    Returns:
        Lessons, the same requests and messages in both phases; the plain ones come first.

    Raises:
        ValueError for another phase.
    """
    if phase not in (1, 2):
        raise ValueError(f"[lessons] expected phase 1 or 2, got {phase}")
    asked = tuple(requests()) * 2
    random = np.random.default_rng([seed, _TAIL_STREAM])
    neutral = np.array(neutral_words())
    messages = []
    for place, request in enumerate(asked):
        tail = random.choice(neutral, random.integers(1, LONGEST_TAIL + 1)) if place >= len(asked) // 2 else ()
        messages.append(" ".join([request.text, *tail]))
    answers = tuple(REFUSAL if phase == 2 and request.refused else request.answer for request in asked)
    return Lessons(asked, tuple(messages), answers)


_TAIL_STREAM = 1  # of the seed


def neutral_words() -> tuple[str, ...]:
    """Every word that is no verb, no object and no special token: what a suffix may be made of without asking for more.

    >>> "bread" in neutral_words(), "flour" in neutral_words()
    (False, True)
    """
    return tuple(word for word in words() if word not in {*SPECIAL, *VERBS, *OBJECTS})
