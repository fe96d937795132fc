"""growth: how time and memory grow with the number of inputs, and an answer compared where a peer is still quick."""

from __future__ import annotations

from dataclasses import replace

from .contest import Case, Op, Outcome, Terms, compete
from .kernel_sums import KERNEL_SUMS
from .nearest import NEAREST

LARGEST, FEATURES = 200_000, 64
LEAST = 32  # rows
MOST_REPEATS = 3


def growing(op: Op, peer: str, k: int = 0) -> Op:
    """The operation with its first contender, and beside it the named one."""
    beside = tuple(one for one in op.contenders if one.name == peer)
    return replace(op, cases=(Case(LARGEST, FEATURES, k),), contenders=(op.contenders[0], *beside))


GROWTH = (
    growing(NEAREST, "faiss-cpu IndexFlatIP", k=10),
    growing(KERNEL_SUMS, "torch, tiles of the upper half, sigma given"),
)


def sizes(case: Case) -> list[Case]:
    """The case and three halvings of it, smallest first."""
    return [replace(case, n=n) for n in sorted({max(LEAST, case.n >> power) for power in range(4)})]


def measure(op: Op, case: Case, terms: Terms) -> list[tuple[Case, list[Outcome]]]:
    """Outcomes of every size; those of the smallest have the peer beside them."""
    terms = replace(terms, repeats=min(terms.repeats, MOST_REPEATS))
    measured = []
    for number, size in enumerate(sizes(case)):
        alone = replace(op, contenders=op.contenders[:1])
        measured.append((size, compete(alone if number else op, size, terms)))
    return measured
