"""Outcomes as Markdown: what is printed and what is written are the same text."""

from __future__ import annotations

from collections.abc import Sequence

from .contest import Op, Outcome

COLUMNS = ("library", "median", "range", "GFLOP/s", "of GEMM", "peak memory growth", "repsim is faster by")


def table(op: Op, n: int, d: int, outcomes: Sequence[Outcome], gemm: float) -> str:
    """One row per contender; ``gemm`` is the machine's rate in flop/s."""
    columns = (*COLUMNS, op.agreement_name)
    rows = [_row(op, n, d, outcome, outcomes[0], gemm) for outcome in outcomes]
    lines = [_line(columns), _line(["---"] * len(columns)), *map(_line, rows)]
    return "\n".join([f"## {op.name}: n = {n}, d = {d}", "", f"{op.summary}; {op.flop_formula} flop", "", *lines, ""])


def _row(op: Op, n: int, d: int, outcome: Outcome, ours: Outcome, gemm: float) -> list[str]:
    # repsim run from its checkout has no version of its own; the commit stands above.
    release = f" ({outcome.contender.distribution} {outcome.version})" if outcome.version else ""
    if not outcome.times:
        return [outcome.contender.name, outcome.note, *["–"] * (len(COLUMNS) - 1)]  # noqa: RUF001
    rate = op.flop(n, d) / outcome.median
    compared = op.compares and outcome is not ours and bool(ours.times)
    return [
        outcome.contender.name + release,
        f"{outcome.median:.3g} s",
        f"{min(outcome.times):.3g} to {max(outcome.times):.3g} s",
        f"{rate / 1e9:.1f}",
        f"{rate / gemm:.0%}",
        f"{outcome.memory / 1e6:.0f} MB",
        f"{outcome.median / ours.median:.2f}" if compared else "–",  # noqa: RUF001
        outcome.agreement or "–",  # noqa: RUF001
    ]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def show(page: str) -> None:
    """On a terminal with borders, elsewhere as it is."""
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console()
    if console.is_terminal:
        console.print(Markdown(page))
    else:
        print(page)
