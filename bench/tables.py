"""Outcomes as Markdown: what is printed and what is written are the same text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from .contest import Case, Op, Outcome

TIME = ("median", "range", "GFLOP/s")
ABSENT = "–"  # noqa: RUF001


def table(op: Op, case: Case, outcomes: Sequence[Outcome], gemm: float, repeats: int) -> str:
    """One row per contender; ``gemm`` is the machine's rate in flop/s."""
    reading = outcomes[-1] if op.reader else None
    files = ("GB/s", "of reading") if reading else ()
    columns = ("library", *_columns(op), *files, "over repsim", op.agreement_name)
    rows = []
    for one in outcomes:
        if not one.times:
            rows.append([_library(one), one.note, *[ABSENT] * (len(columns) - 2)])
            continue
        compared = op.compares and one not in (outcomes[0], reading) and outcomes[0].times
        rows.append([
            _library(one),
            *_cells(op, case, one, gemm, repeats, works=one is not reading),
            *(_read(op, case, one, reading) if reading else ()),
            f"{one.median / outcomes[0].median:.2f}" if compared else ABSENT,
            one.agreement or ABSENT,
        ])  # fmt: skip
    notes = [_dropped(outcomes)] if reading else []
    return section(f"{op.name}: {case}", f"{op.summary}; {op.flop_formula} flop", columns, rows, notes)


def more_neighbours(op: Op, measured: Sequence[tuple[Case, Sequence[Outcome]]]) -> str:
    """What more neighbours cost: one line for every two cases that differ in k alone; empty without any."""
    lines = []
    for few, outcomes in measured:
        for many, others in measured:
            if (few.n, few.d) == (many.n, many.d) and few.k < many.k:
                ratios = [
                    f"{other.median / one.median:.2f} ({one.contender.name})"
                    for one, other in zip(outcomes, others, strict=True)
                    if one.times and other.times
                ]
                lines.append(f"{op.name}, n = {few.n}, d = {few.d}: time of k = {many.k} over that of k = {few.k}: ")
                lines[-1] += ", ".join(ratios) + ".\n"
    return "\n".join(lines)


def growth_table(op: Op, measured: Sequence[tuple[Case, Sequence[Outcome]]], gemm: float, repeats: int) -> str:
    """One row per size of the first contender, and the powers of n that its time and memory grow with."""
    columns = ("n", *_columns(op), "bytes per row", op.agreement_name)
    rows, fitted = [], []
    for case, outcomes in measured:
        one = outcomes[0]
        if not one.times:
            rows.append([str(case.n), one.note, *[ABSENT] * (len(columns) - 2)])
            continue
        fitted.append((case.n, one))
        # The agreement is that of the peer beside it.
        compared = next((f"{peer.agreement} ({peer.contender.name})" for peer in outcomes[1:] if peer.agreement), "")
        cells = _cells(op, case, one, gemm, repeats)
        rows.append([str(case.n), *cells, f"{one.memory / case.n:.0f}", compared or ABSENT])
    time = exponent([(n, one.median) for n, one in fitted])
    memory = exponent([(n, one.memory) for n, one in fitted])
    fit = f"Fitted: time grows as n^{time:.2f}, memory over the inputs as n^{memory:.2f} (least squares of logarithms)."
    sizes = f"d = {measured[0][0].d}" + (f", k = {measured[0][0].k}" if measured[0][0].k else "")
    title = f"growth of {op.name}: {sizes}"
    summary = f"{measured[0][1][0].contender.name}: {op.summary}; {op.flop_formula} flop"
    return section(title, summary, columns, rows, [fit])


def exponent(points: Iterable[tuple[float, float]]) -> float:
    """The power p of the least-squares fit c n^p to (n, value) in logarithms; NaN where two positive ones are missing.

    Example: ``exponent([(10, 3.0), (20, 12.0)]) == 2``.
    """
    logs = [(math.log(n), math.log(value)) for n, value in points if value > 0]
    if len({x for x, _ in logs}) < 2:
        return math.nan
    middle = [sum(values) / len(logs) for values in zip(*logs, strict=True)]
    rise = sum((x - middle[0]) * (y - middle[1]) for x, y in logs)
    return rise / sum((x - middle[0]) ** 2 for x, _ in logs)


def section(
    title: str, summary: str, columns: Sequence[str], rows: Iterable[Sequence[str]], notes: Sequence[str] = ()
) -> str:
    lines = [_line(columns), _line(["---"] * len(columns)), *map(_line, rows)]
    return "\n".join([f"## {title}", "", summary, "", *lines, "", *(text + "\n" for text in notes)])


def _columns(op: Op) -> tuple[str, ...]:
    return (*TIME, "of GEMM" if op.gemm == "float32" else f"of {op.gemm} GEMM", "peak memory growth")


def _cells(op: Op, case: Case, one: Outcome, gemm: float, repeats: int, works: bool = True) -> list[str]:
    rate = op.flop(case) / one.median
    calls = "" if len(one.times) == repeats else f" ({len(one.times)} call{'s' * (len(one.times) > 1)})"
    return [
        f"{one.median:.3g} s{calls}",
        f"{min(one.times):.3g} to {max(one.times):.3g} s",
        f"{rate / 1e9:.1f}" if works else ABSENT,
        f"{rate / gemm:.0%}" if works else ABSENT,
        f"{one.memory / 1e6:.0f} MB",
    ]


def _library(one: Outcome) -> str:
    # repsim run from its checkout has no version of its own; the commit stands above.
    return one.contender.name + (f" ({one.contender.distribution} {one.version})" if one.version else "")


def _read(op: Op, case: Case, one: Outcome, reading: Outcome) -> list[str]:
    size = op.disk(case) if op.disk else 0
    share = f"{reading.median / one.median:.0%}" if reading.times else ABSENT
    return [f"{size / one.median / 1e9:.2f}", share]


def _dropped(outcomes: Sequence[Outcome]) -> str:
    cached = max((one.cached for one in outcomes if not math.isnan(one.cached)), default=math.nan)
    left = "an unknown share" if math.isnan(cached) else f"at most {cached:.0%}"
    return (
        f"Before each call the files were dropped from the page cache (fsync, POSIX_FADV_DONTNEED, while no process "
        f"mapped them): {left} of their pages was still in memory (mincore). What the disk or a hypervisor keeps "
        f"cannot be dropped. Peak memory counts mapped pages of the files."
    )


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
