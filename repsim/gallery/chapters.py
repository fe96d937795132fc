"""The traps in words: what was done, what came out in this run, what to do instead, with figures, numbers and code."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from repsim.gallery import traps
from repsim.gallery.drawings import Drawing, Line, beside_chance, lines, shown
from repsim.gallery.example import LABELS, Example, Size
from repsim.measures.registry import Measure

RATIOS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50)
OUTLIERS = (1, 3, 10, 30, 100, 300, 1000)
MEANS = (0, 0.5, 1, 2, 5, 10)
DIMENSIONS = (1, 2, 5, 10, 20, 50)
WIDTHS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.45)  # of the inputs: two layers together stay narrower than the inputs
COPIES = (1, 2, 3, 5, 10)
LEVELS = (2, 3, 4, 8, 16, 64)
COLUMNS = 16  # of the traps in which the width is not the matter
UNITS = 2  # of the trap of ties
MOST_LINES, MOST_ROWS = 6, 14


@dataclass(frozen=True)
class Chapter:
    """One trap as the page shows it."""

    key: str
    title: str
    sentences: tuple[str, ...]
    drawings: tuple[Drawing, ...]
    head: tuple[str, ...]
    numbers: tuple[tuple[str, ...], ...]
    code: str


_Table = tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]  # head, and rows


def _column(rows: Sequence[Mapping[str, float]], name: str) -> list[float]:
    return [float(row[name]) for row in rows]


def _table(rows: Sequence[Mapping[str, float]]) -> _Table:
    cells = tuple((f"{first:g}", *map(shown, rest)) for first, *rest in (tuple(row.values()) for row in rows))
    return tuple(rows[0]), cells


def _tables(first: Sequence[Mapping[str, float]], second: Sequence[Mapping[str, float]]) -> _Table:
    """One table under the other, the second with its head in between; shorter rows end in empty cells."""
    (head, numbers), (other_head, other_numbers) = _table(first), _table(second)
    width = max(len(head), len(other_head))
    return head, tuple((*row, *[""] * (width - len(row))) for row in (*numbers, other_head, *other_numbers))


def _code(*functions: Callable[..., Any]) -> str:
    return "\n\n".join(inspect.getsource(function).rstrip() for function in functions)


def wide(size: Size, seed: int) -> Chapter:
    """More columns than inputs: the biased estimator of CKA."""
    rows = traps.wide_and_unrelated(size.inputs // 2, RATIOS, seed)
    last = rows[-1]
    head, numbers = _table(rows)
    return Chapter(
        "wide",
        "More columns than inputs",
        (
            f"Two unrelated Gaussian representations of {size.inputs // 2} inputs. With {RATIOS[-1]:g} times as many "
            f"columns as inputs, biased CKA is {shown(last['biased'])}; debiased CKA is {shown(last['debiased'])}, and "
            f"99 % of its chance lies between {shown(last['low'])} and {shown(last['high'])} (p = {last['p']:.2g}).",
            "The biased estimator also counts every input's likeness to itself. The more columns there are, the more "
            "these terms outweigh all others, and they are large for any two representations.",
            'Use repsim.cka as it is. Ask for estimator="biased" only to repeat published numbers, and then with many '
            "more inputs than columns.",
        ),
        (
            lines(
                "trap-wide",
                "CKA of unrelated data",
                "columns / inputs",
                RATIOS,
                [Line("biased", _column(rows, "biased")), Line("debiased", _column(rows, "debiased"))],
                band=(_column(rows, "low"), _column(rows, "high"), "99 % of chance, debiased"),
            ),
        ),
        head,
        numbers,
        _code(traps.wide_and_unrelated),
    )


def outlier(size: Size, seed: int) -> Chapter:
    """One row that is much longer than the others."""
    rows = traps.one_outlier(size.inputs, COLUMNS, OUTLIERS, seed)
    first, last = rows[0], rows[-1]
    head, numbers = _table(rows)

    def drawn(which: str, title: str) -> Drawing:
        names = {"biased": "CKA, biased", "debiased": "CKA, debiased", "neighbours": "mutual kNN, Euclidean"}
        found = [Line(label, _column(rows, f"{which} {name}")) for name, label in names.items()]
        return lines(f"trap-outlier-{which}", title, "length of one row, times", OUTLIERS, found)

    return Chapter(
        "outlier",
        "One outlier",
        (
            f"One of {size.inputs} rows is made longer. In both of two unrelated representations, {OUTLIERS[-1]} times "
            f"the length takes biased CKA from {shown(first['unrelated biased'])} to "
            f"{shown(last['unrelated biased'])}; mutual kNN goes from "
            f"{shown(first['unrelated neighbours'])} to {shown(last['unrelated neighbours'])}.",
            "In one of two related representations it takes debiased CKA from "
            f"{shown(first['related debiased'])} to {shown(last['related debiased'])}, and mutual kNN from "
            f"{shown(first['related neighbours'])} to {shown(last['related neighbours'])}: linear CKA weighs inputs by "
            "their squared length, neighbour lists count every input once.",
            "Look at the norms of the rows before you compare. Where few rows carry most of the norm, leave them out, "
            "normalise rows, or use neighbours or an RBF kernel, and say so.",
        ),
        (
            drawn("unrelated", "Unrelated, the row long in both"),
            drawn("related", "Related, the row long in one"),
        ),
        head,
        numbers,
        _code(traps.one_outlier),
    )


def anisotropy(size: Size, seed: int) -> Chapter:
    """A common mean, and one huge dimension."""
    means = traps.common_mean(size.inputs, COLUMNS, MEANS, seed)
    huge = traps.huge_dimension(size.inputs, COLUMNS, DIMENSIONS, seed)
    head, numbers = _tables(means, huge)
    return Chapter(
        "anisotropy",
        "A common direction, a huge dimension",
        (
            f"The same vector, {MEANS[-1]} times as long as a typical row, is added to all rows. Cosine neighbours of "
            f"a representation and of itself so shifted agree by {shown(means[-1]['itself cosine'])} (without the "
            f"shift {shown(means[0]['itself cosine'])}); for CKA and Euclidean neighbours it stays the same "
            f"({shown(means[-1]['itself cka'])} and {shown(means[-1]['itself euclidean'])}).",
            "With a common mean all cosines come close to 1, and so does what is made of them: the second-order cosine "
            f"of two unrelated representations goes from {shown(means[0]['unrelated second order'])} to "
            f"{shown(means[-1]['unrelated second order'])}.",
            f"One column that both share, {DIMENSIONS[-1]} times as large as the {COLUMNS - 1} others, takes CKA of "
            f"otherwise unrelated data from {shown(huge[0]['cka'])} to {shown(huge[-1]['cka'])}, and back to "
            f"{shown(huge[-1]['cka even'])} when every column has the same variance. Centre columns before cosines, "
            "and compare with and without scaling columns.",
        ),
        (
            lines(
                "trap-mean-itself",
                "A representation and itself shifted",
                "length of the shift, in rows",
                MEANS,
                [
                    Line("mutual kNN, cosine", _column(means, "itself cosine")),
                    Line("mutual kNN, Euclidean", _column(means, "itself euclidean")),
                    Line("CKA", _column(means, "itself cka")),
                ],
                log=False,
            ),
            lines(
                "trap-mean-unrelated",
                "Two unrelated ones, both shifted",
                "length of the shift, in rows",
                MEANS,
                [
                    Line("second-order cosine", _column(means, "unrelated second order")),
                    Line("mutual kNN, cosine", _column(means, "unrelated cosine")),
                    Line("CKA", _column(means, "unrelated cka")),
                ],
                log=False,
            ),
            lines(
                "trap-huge",
                "Unrelated but for one shared column",
                "size of that column, times",
                DIMENSIONS,
                [
                    Line("CKA", _column(huge, "cka")),
                    Line("CKA, columns of equal variance", _column(huge, "cka even")),
                    Line("mutual kNN", _column(huge, "neighbours")),
                    Line("mutual kNN, equal variance", _column(huge, "neighbours even")),
                ],
            ),
        ),
        head,
        numbers,
        _code(traps.common_mean, traps.huge_dimension),
    )


def width(measures: Sequence[Measure], size: Size, seed: int) -> Chapter:
    """What grows with the width of unrelated layers."""
    widths = [max(2, round(share * size.inputs)) for share in WIDTHS]
    widths = list(dict.fromkeys(widths))
    found = traps.wider_layers(measures, size.inputs, widths, seed)
    grown = {name: values[-1] - values[0] for name, values in found.items() if math.isfinite(values[-1] - values[0])}
    order = sorted(grown, key=lambda name: -grown[name])
    most, steadiest = order[: MOST_LINES - 1], min(order, key=lambda name: abs(grown[name]))
    chosen = [*most, steadiest] if steadiest not in most else most
    return Chapter(
        "width",
        "Wider layers",
        (
            f"Two unrelated Gaussian representations of {size.inputs} inputs, {widths[0]} to {widths[-1]} columns "
            f"wide, by every similarity of the table that ends at 1. {order[0]} grows most, from "
            f"{shown(found[order[0]][0])} to {shown(found[order[0]][-1])}.",
            f"{sum(value > 0.1 for value in grown.values())} of {len(grown)} grow by more than 0.1, although nothing "
            "is shared at any width: what may be fitted freely fits noise the better, the more columns there are.",
            "Compare layers of different width by calibrated scores, or by measures whose chance does not move; the "
            "raw value of one that grows says as much about the width as about the layers.",
        ),
        (
            lines(
                "trap-width",
                f"The {len(most)} that grow most, and the steadiest" if len(order) > len(chosen) else "Unrelated data",
                "columns",
                widths,
                [Line(name, found[name]) for name in chosen],
            ),
        ),
        ("measure", *(f"{width} columns" for width in widths)),
        tuple((name, *map(shown, found[name])) for name in order),
        _code(traps.wider_layers),
    )


def copies_and_ties(size: Size, seed: int) -> Chapter:
    """Duplicates, and distances that are equal."""
    twice = traps.duplicates(size.inputs, COLUMNS, COPIES, seed, k=10)
    tied = traps.ties(size.inputs, UNITS, LEVELS, seed)
    head, numbers = _tables(twice, tied)
    last, coarse = twice[-1], tied[0]
    return Chapter(
        "ties",
        "Duplicates and ties",
        (
            f"Unrelated representations in which every input occurs {last['copies']:g} times: mutual kNN (k = 10) is "
            f"{shown(last['value'])}, where relabelling inputs one by one says {shown(last['chance'])}. Copies are "
            f"each other's neighbours in both. With every input once it is {shown(last['once'])}, and chance is "
            f"{shown(last['once chance'])}.",
            f"When {UNITS} units take {coarse['levels']:g} values each, many neighbours are equally near, and the "
            f"lower index wins in both: mutual kNN of unrelated data is {shown(coarse['value'])}, {shown(coarse['z'])} "
            "standard deviations above the chance of relabelled graphs. A little noise "
            f"breaks the ties by chance: {shown(coarse['apart'])}.",
            "Remove duplicates first. With quantised or sparse activations count the ties, and break them at random.",
        ),
        (
            lines(
                "trap-duplicates",
                "Inputs that occur several times",
                "times that each input occurs",
                COPIES,
                [
                    Line("mutual kNN", _column(twice, "value")),
                    Line("chance by relabelling", _column(twice, "chance")),
                    Line("each input once", _column(twice, "once")),
                ],
                log=False,
            ),
            lines(
                "trap-ties",
                "Units with few values",
                "values that a unit takes",
                LEVELS,
                [
                    Line("mutual kNN", _column(tied, "value")),
                    Line("with a little noise", _column(tied, "apart")),
                    Line("chance by relabelling", _column(tied, "chance")),
                ],
                low_values=True,
            ),
        ),
        head,
        numbers,
        _code(traps.duplicates, traps.ties),
    )


def calibration(measures: Sequence[Measure], example: Example, size: Size, seed: int) -> Chapter:
    """A value says little before one knows what chance gives."""
    columns = round(WIDTHS[-1] * size.inputs)
    x, y = np.random.default_rng([seed, 7]).standard_normal((2, size.inputs, columns))
    unrelated = traps.against_chance(measures, x, y, size.relabellings, seed)
    trained = traps.against_chance(measures, example.a, example.others["seed"], size.relabellings, seed)
    order = sorted(set(unrelated) & set(trained), key=lambda name: -unrelated[name]["value"])
    top, shown_of = order[0], order[:MOST_ROWS]
    beyond = [name for name in order if unrelated[name]["calibrated"] > 0]
    return Chapter(
        "calibration",
        "Against chance",
        (
            f"Unrelated data, {size.inputs} inputs and {columns} columns: {top} is {shown(unrelated[top]['value'])}, "
            f"and its chance {shown(unrelated[top]['low'])} to {shown(unrelated[top]['high'])}. A calibrated score is "
            "how far a value lies on the way from the 95 % quantile of chance to 1: here "
            f"{shown(unrelated[top]['calibrated'])}; it is above 0 for {len(beyond)} of {len(order)} measures.",
            f"The same for {LABELS['seed']}: {top} is {shown(trained[top]['value'])}, calibrated "
            f"{shown(trained[top]['calibrated'])}. Between widths and "
            "numbers of inputs, compare calibrated scores: what chance gives is taken out of them.",
            "Every result knows its null: result.z, result.p, result.calibrated(). Ask for permutations where a "
            "measure has no exact null.",
        ),
        (
            beside_chance("chance-unrelated", "Unrelated data", {name: unrelated[name] for name in shown_of}),
            beside_chance("chance-trained", LABELS["seed"], {name: trained[name] for name in shown_of}),
        ),
        ("measure", "unrelated", "calibrated", "A and B", "calibrated"),
        tuple(
            (
                name,
                *(shown(found[name][part]) for found in (unrelated, trained) for part in ("value", "calibrated")),
            )
            for name in order
        ),
        _code(traps.against_chance),
    )


def chapters(
    measures: Sequence[Measure], example: Example, size: Size, seed: int, say: Callable[[str], None] = lambda line: None
) -> list[Chapter]:
    """All traps, computed now.

    Example: `chapters(tuple(repsim.measures()), example, SMOKE, seed=0)[0].sentences`.

    Parameters: measures; example, for what is measured on trained networks; size; seed; say, told what is being done.
    Returns: six chapters.
    """
    made = []
    for make in (
        lambda: wide(size, seed),
        lambda: outlier(size, seed),
        lambda: anisotropy(size, seed),
        lambda: width(measures, size, seed),
        lambda: copies_and_ties(size, seed),
        lambda: calibration(measures, example, size, seed),
    ):
        made.append(make())
        say(f"trap: {made[-1].title}")
    return made
