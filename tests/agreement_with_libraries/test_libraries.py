"""Every line of AGREEMENT.md holds: repsim agrees with the oracle, and the library does what is said of it."""

from __future__ import annotations

import importlib.metadata
import math
import re

import numpy as np
import oracles
import pytest

from . import table, versions
from .claims import AGREES, Agreement, Function, Outcome, another_quantity, check, fewer_digits, no_digits, wrong
from .inputs import PAIRS
from .questions import (
    FLOAT32,
    FLOAT64,
    K,
    closeness,
    digits,
    lists_alike,
    nearest,
    neighbours,
    overlap,
    overlap_range,
    rbf_cka,
)

# ---------------------------------------------------------------------------------------------- the libraries


@pytest.mark.parametrize(
    ("function", "pair"),
    [pytest.param(f, pair.name, id=f"{f.library}: {f.name} on {pair.name}") for f, pair in table.ASKED],
)
def test_claims(function: Function, pair: str) -> None:
    reason = versions.missing(function.library)
    if reason:
        pytest.skip(reason)
    check(function, PAIRS[pair], table.ask(function, pair))


def test_the_committed_table_is_what_the_libraries_say() -> None:
    reasons = [reason for reason in map(versions.missing, table.LIBRARIES) if reason]
    if reasons:
        pytest.skip(f"{len(reasons)} of {len(table.LIBRARIES)} libraries are missing; {versions.INSTALL}")
    changed = table.differences(table.PAGE.read_text(), table.page())
    assert not changed, "\n".join(["python -m tests.agreement_with_libraries writes it again:", *changed])


def test_the_committed_table_has_every_line_that_is_claimed() -> None:
    """Without any library: their cells aside, the page is what the claims say."""
    lines = [re.split(r"(?<!\\)\|", line) for line in table.PAGE.read_text().splitlines() if line.startswith("| `")]
    listed = sorted((line[1].strip(), line[3].strip(), line[6].strip().split(" (that to")[0]) for line in lines)
    blank = Outcome(Agreement(0.0), Agreement(0.0), None, 0.0)
    claimed = sorted(
        (f"`{table.escaped(f.name)}`", pair.name, table.escaped(table.verdict(f, pair.name, blank)))
        for f, pair in table.ASKED
    )
    assert listed == claimed


# ---------------------------------------------------------------------------------------------- versions


def test_every_library_is_pinned_once() -> None:
    extra = re.search(r"\nagreement = \[(.*?)\n\]", (versions.CHECKOUT / "pyproject.toml").read_text(), re.DOTALL)
    assert extra
    listed = versions.pins(extra[1])
    apart = versions.pins((table.PAGE.parent / "requirements.txt").read_text())
    assert not listed.keys() & apart.keys()
    assert {**listed, **apart}.items() <= versions.CONSTRAINTS.items()
    base = {"faiss-cpu", "gudhi", "pot", "scikit-learn", "scipy"}  # of the extra `test` and of repsim itself
    assert set(table.LIBRARIES) <= listed.keys() | apart.keys() | base
    assert listed.keys() <= set(table.LIBRARIES)


def test_another_release_is_no_test_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0.1")
    assert versions.missing("ckatorch").startswith("ckatorch 0.0.1 is installed, the table is of 1.")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: versions.CONSTRAINTS[name])
    assert versions.missing("ckatorch") == ""

    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    assert re.match(r"ckatorch [\d.]+ is not installed; how to install it: tests/", versions.missing("ckatorch"))


# ---------------------------------------------------------------------------------------------- the rules themselves


def test_digits() -> None:
    assert digits(1.0 + 1e-5, 1.0) == pytest.approx(5.0, abs=1e-4)
    assert digits(-2e-3, -2.002e-3) == pytest.approx(3.0, abs=1e-2)
    assert digits(0.5, 0.5) == digits(0.0, 0.0) == 16.0
    assert digits(math.nan, 0.5) == digits(math.inf, 0.5) == digits(-0.5, 0.5) == digits(1e-9, 0.0) == 0.0
    assert lists_alike(np.array([[1, 2], [3, 4], [5, 6]]), np.array([[1, 2], [4, 3], [5, 6]])) == 2


def claimed(claim, answer: float, *, ours: float = 1.0) -> None:
    """`check` of a library that answers so, where the oracle says 1."""
    question = rbf_cka("biased")
    pair = PAIRS["d < n"]
    function = Function("a library", "a function", question, lambda pair: answer, FLOAT64, {pair.name: claim})
    instead = Agreement.between(answer, claim.instead(pair)) if claim.instead else None
    check(function, pair, Outcome(Agreement.between(ours, 1.0), Agreement.between(answer, 1.0), instead, answer))


@pytest.mark.parametrize(
    ("claim", "holds", "fails"),
    [
        pytest.param(AGREES, 1.0 + 1e-12, 1.0 + 1e-8, id="agrees"),
        pytest.param(fewer_digits("why"), 1.0 + 1e-8, 1.0 + 1e-12, id="fewer-digits"),
        pytest.param(no_digits("why"), math.nan, 0.9, id="no-digits"),
        pytest.param(another_quantity("why", lambda pair: 0.7), 0.7, 0.71, id="another-quantity"),
        pytest.param(wrong("why"), 0.99, 1.0 + 1e-5, id="wrong"),
        pytest.param(wrong("why", lambda pair: 0.5), 0.5, 0.6, id="wrong-for-a-reason"),
    ],
)
def test_a_claim_that_does_not_hold_is_refused(claim, holds: float, fails: float) -> None:
    claimed(claim, holds)
    with pytest.raises(AssertionError, match=f"claimed '{claim.word}'"):
        claimed(claim, fails)
    with pytest.raises(AssertionError, match="repsim agrees with the oracle to 4, expected 5 digits"):
        claimed(claim, holds, ours=1.0 + 5e-5)


def test_other_ties_are_accepted_and_other_neighbours_refused() -> None:
    pair = PAIRS["duplicates"]
    claim = next(f.on[pair.name] for f, one in table.ASKED if one is pair and f.on[pair.name].word == "other ties")
    right = neighbours(pair.x, pair.copy_of, "euclidean")
    question = nearest("euclidean")

    def found(lists) -> None:
        function = Function("a library", "a function", question, lambda pair: lists, FLOAT64, {pair.name: claim})
        of = Agreement.between(lists, right)
        check(function, pair, Outcome(Agreement.between(right, right), of, None, lists))

    swapped = right.copy()
    swapped[:, [0, 1]] = right[:, [1, 0]]  # both are copies of the row
    found(swapped)
    swapped[:, [2, 3]] = right[:, [3, 2]]  # a copy and the next nearest
    with pytest.raises(AssertionError, match="row 0, rank 2"):
        found(swapped)


def test_the_overlap_of_any_choice_among_equals() -> None:
    alone = PAIRS["d < n"]
    assert overlap_range(alone, "cosine") == (overlap(alone, "cosine"),) * 2  # nothing is equally near
    pair = PAIRS["duplicates"]
    low, high = overlap_range(pair, "cosine")
    assert low < overlap(pair, "cosine") <= high
    keys = [closeness(side, pair.copy_of, "cosine") for side in (pair.x, pair.y)]
    for seed in range(3):  # ties to whichever row comes first in a random order
        order = np.random.default_rng(seed).permutation(pair.n)
        lists = [order[np.argsort(-one[:, order], axis=1, kind="stable")[:, :K]] for one in keys]
        assert low <= oracles.mutual_knn(*lists) <= high


# ---------------------------------------------------------------------------------------------- the page


@pytest.mark.parametrize(
    ("made", "alike"),
    [
        pytest.param("| f | c | d < n | 14 | 6 | agrees (that to 12 digits) |", True, id="digits-of-rounding"),
        pytest.param("| f | c | d < n | 16 | 4 | agrees (that to 15 digits) |", True, id="two-digits"),
        pytest.param("| f | c | d < n | 11 | 6 | agrees (that to 15 digits) |", False, id="ours"),
        pytest.param("| f | c | d < n | 16 | 9 | agrees (that to 15 digits) |", False, id="theirs"),
        pytest.param("| f | c | d < n | 16 | 6 | agrees (that to 7 digits) |", False, id="instead"),
        pytest.param("| f | c | d < n | 16 | 6 | wrong (that to 15 digits) |", False, id="verdict"),
        pytest.param("| f | c | d > n | 16 | 6 | agrees (that to 15 digits) |", False, id="data"),
    ],
)
def test_what_counts_as_the_same_line(made: str, alike: bool) -> None:
    committed = "| f | c | d < n | 16 | 6 | agrees (that to 15 digits) |"
    assert (table.differences(committed, made) == []) == alike


def test_lists_may_differ_by_a_tenth() -> None:
    committed = "| f | c | d | 300 of 300 lists | 45 of 300 lists | x |"
    assert table.differences(committed, committed.replace("45", "70")) == []
    assert table.differences(committed, committed.replace("45", "80"))
    assert table.differences(committed, committed.replace("45 of 300", "45 of 200"))
    assert table.differences(committed, committed + "\n" + committed) == ["expected 2 lines, got 1"]


def test_float32_inputs_ask_for_the_digits_of_float32() -> None:
    function = Function("a library", "a function", rbf_cka("biased"), lambda pair: 0.0, FLOAT64, {})
    assert function.least(PAIRS["d < n"]) == FLOAT64
    assert function.least(PAIRS["d < n, float32"]) == FLOAT32
