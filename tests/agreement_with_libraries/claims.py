"""A function of a library, what it is asked, and what is claimed of its answer on each pair; `check` holds us to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import agreement
import numpy as np

from .inputs import Pair
from .questions import FLOAT32, Answer, Question, closeness, digits, lists_alike, overlap_range


@dataclass(frozen=True)
class Claim:
    """``word``: what AGREEMENT.md says; ``why``: the reason; ``instead``: the oracle of what it computes instead."""

    word: str
    why: str = ""
    instead: Callable[[Pair], Answer] | None = None


AGREES = Claim("agrees")


def fewer_digits(why: str) -> Claim:
    """The right quantity, digits lost."""
    return Claim("fewer digits", why)


def no_digits(why: str) -> Claim:
    """The right quantity, nothing left of it."""
    return Claim("no digits left", why)


def another_quantity(why: str, instead: Callable[[Pair], Answer]) -> Claim:
    """Something else, by a definition of its own that one may want."""
    return Claim("another quantity", why, instead)


def wrong(why: str, instead: Callable[[Pair], Answer] | None = None) -> Claim:
    """Not what its documentation says."""
    return Claim("wrong", why, instead)


def other_ties(why: str) -> Claim:
    """Right up to rows that are equally near, of which it names others."""
    return Claim("other ties", why)


@dataclass(frozen=True, eq=False)
class Function:
    """``library``: its name on PyPI; ``digits``: of its arithmetic on float64 inputs; ``on``: claims by pair."""

    library: str
    name: str
    question: Question
    call: Callable[[Pair], Answer]
    digits: float
    on: Mapping[str, Claim]

    def least(self, pair: Pair) -> float:
        """Digits that the library gives of this pair where it says what we claim it says."""
        return self.digits if pair.x.dtype == np.float64 else min(self.digits, FLOAT32)


@dataclass(frozen=True)
class Agreement:
    """An answer beside the oracle's: ``digits`` of a number, or how many of ``of`` lists are ``alike``."""

    digits: float
    alike: int = 0
    of: int = 0

    @classmethod
    def between(cls, got: Answer, exact: Answer) -> Agreement:
        if isinstance(exact, np.ndarray):
            alike = lists_alike(np.asarray(got), exact)
            return cls(16.0 if alike == len(exact) else 0.0, alike, len(exact))
        return cls(digits(float(got), exact))

    def __str__(self) -> str:
        return f"{self.alike} of {self.of} lists" if self.of else f"{int(self.digits)}"

    def below(self, other: Agreement) -> bool:
        """Clearly worse."""
        return self.alike < other.alike if self.of else self.digits < other.digits - 1


@dataclass(frozen=True)
class Outcome:
    """What came of one function on one pair; ``instead``: the library beside the oracle of what it computes instead."""

    ours: Agreement
    theirs: Agreement
    instead: Agreement | None
    answer: Answer


def outcome(function: Function, pair: Pair) -> Outcome:
    """Ask repsim, the library and the oracles."""
    claim, exact, answer = function.on[pair.name], function.question.oracle(pair), function.call(pair)
    instead = Agreement.between(answer, claim.instead(pair)) if claim.instead else None
    ours = Agreement.between(function.question.ours(pair), exact)
    return Outcome(ours, Agreement.between(answer, exact), instead, answer)


def check(function: Function, pair: Pair, found: Outcome) -> None:
    """The claim holds, and repsim agrees with the oracle whatever the library does."""
    claim, least, theirs = function.on[pair.name], function.least(pair), found.theirs
    where = f"{function.library} {function.name} on {pair.name}: claimed {claim.word!r}, "
    promised = function.question.least(pair)
    if found.ours.digits < promised:
        raise AssertionError(f"{where}repsim agrees with the oracle to {found.ours}, expected {promised:g} digits")
    if claim.instead and (found.instead is None or found.instead.digits < least):
        raise AssertionError(f"{where}but it agrees with that quantity to {found.instead} alone")
    holds = {
        "agrees": theirs.digits >= least,
        "fewer digits": theirs.digits < least and theirs.below(found.ours),
        "no digits left": theirs.digits < 1 and theirs.below(found.ours),
        "another quantity": theirs.digits < least,
        "wrong": theirs.digits < 4 and theirs.below(found.ours),
        "other ties": True,
    }[claim.word]
    if not holds:
        raise AssertionError(f"{where}but it agrees with the oracle to {theirs}, repsim to {found.ours}")
    if claim.word == "other ties":
        _check_ties(function, pair, found.answer, where)


def _check_ties(function: Function, pair: Pair, answer: Answer, where: str) -> None:
    """The answer is right for some choice among rows that are equally near."""
    metric = function.question.metric
    if isinstance(answer, np.ndarray):
        slack = agreement.rounding(pair.x, metric) if function.digits == FLOAT32 else 1e-9
        agreement.assert_neighbours_agree(answer, closeness(pair.x, pair.copy_of, metric), slack)
        return
    low, high = overlap_range(pair, metric)
    if not low - 1e-6 <= answer <= high + 1e-6:
        raise AssertionError(f"{where}but {answer} is outside the {low} to {high} of any choice among equals")
