"""Distances between rows on a GPU in float64, under the names that the operations on them have on the CPU.

A tile of them is torch's products of rows, repaired where products lose digits. What is counted and summed of it are
whole numbers, in any order. Shapes, and what the arguments are, as csrc/ops.h says of the CPU's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .device_grid import Span

if TYPE_CHECKING:
    import torch

    Points = tuple[torch.Tensor, torch.Tensor, bool]
    Table = tuple[torch.Tensor, torch.Tensor]

TILE_ROWS = 2048  # 32 MiB of float64
LOST = 1e-5  # a share of |a|^2 + |b|^2, below which a squared distance is found from the difference of the rows
REPAIRED = 2**24  # numbers of such differences at a time
LIMB = 17  # bits of a part of a rank: of 4 million products of two parts the sum is below 2^57
LIMBS = 3
PAGE = 10  # bits of the key of a distance within its page


def distances(a: torch.Tensor, b: torch.Tensor, rooted: bool) -> torch.Tensor:
    """|a_i - b_j| [len a, len b] or its square; where both are the same tensor, symmetric, with a diagonal of zeros."""
    norms_a, norms_b = ((rows * rows).sum(dim=1) for rows in (a, b))
    found = a @ b.T
    found *= -2
    found += norms_a[:, None]
    found += norms_b
    lost = (found < LOST * (norms_a[:, None] + norms_b)).nonzero()
    for some in lost.split(max(REPAIRED // a.shape[1], 1)):
        i, j = some.unbind(dim=1)
        difference = a[i] - b[j]
        found[i, j] = (difference * difference).sum(dim=1)
    if a is b:
        found = found.triu_(1)
        found = found + found.T
    return found.sqrt_() if rooted else found


def distance_pages(points: Points, span: Span, seen: torch.Tensor, threads: int) -> None:
    for keys in _keys(points, span):
        seen[keys >> PAGE] = 1


def distance_counts(points: Points, span: Span, lines: torch.Tensor, counts: torch.Tensor, threads: int) -> None:
    import torch

    for keys in _keys(points, span):
        counts.view(-1).index_add_(0, _places(keys, lines), torch.ones_like(keys))


def rank_products(x: Points, x_table: Table, y: Points, y_table: Table, span: Span, threads: int) -> int:
    import torch

    total = 0
    for keys_x, keys_y in zip(_keys(x, span), _keys(y, span), strict=True):
        left, right = (
            _limbs(ranks.view(-1)[_places(keys, lines)])
            for keys, (lines, ranks) in ((keys_x, x_table), (keys_y, y_table))
        )
        sums = torch.stack([(a * b).sum() for a in left for b in right]).tolist()
        total += sum(one << LIMB * (at // LIMBS + at % LIMBS) for at, one in enumerate(sums))
    return total


def _limbs(numbers: torch.Tensor) -> list[torch.Tensor]:
    """Parts of whole numbers below 2^51, lowest first; the last has the sign."""
    parts = [(numbers >> LIMB * i) & ((1 << LIMB) - 1) for i in range(LIMBS - 1)]
    return [*parts, numbers >> LIMB * (LIMBS - 1)]


def _places(keys: torch.Tensor, lines: torch.Tensor) -> torch.Tensor:
    """Where distances are in a table of lines of 1 024 places."""
    return (lines[keys >> PAGE].long() << PAGE) + (keys & ((1 << PAGE) - 1))


def _keys(points: Points, span: Span) -> Iterator[torch.Tensor]:
    """The distances of pairs i < j rounded to 24 significant bits, as whole numbers that ascend with them."""
    import torch

    rows_i, rows_j, rooted = points
    same = span[0] == span[2]
    for i in range(0, len(rows_i), TILE_ROWS):
        a = rows_i[i : i + TILE_ROWS]
        for j in range(i if same else 0, len(rows_j), TILE_ROWS):
            diagonal = same and i == j
            found = distances(a, a if diagonal else rows_j[j : j + TILE_ROWS], rooted)
            if diagonal:
                above = torch.triu_indices(len(a), len(a), 1, device=a.device)
                found = found[above[0], above[1]]
            yield (found.flatten().view(torch.int64) + 2**28) >> 29
