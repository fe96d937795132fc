"""The gallery's two kinds of drawing: lines over a setting, and values beside their chance."""

# ruff: noqa: RUF001 (a page for readers has real dashes, minus signs and crosses)
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from repsim.figures import ACCENT, INK, MUTED, PAPER, RAMP, Panel, canvas, css, panel, plain, ramp
from repsim.findings import number

MARKERS = (("o", "●"), ("s", "■"), ("^", "▲"), ("D", "◆"), ("v", "▼"), ("P", "✚"))  # in matplotlib, and in the legend


@dataclass(frozen=True)
class Line:
    """One series: its name in the legend and its values, NaN where there is none."""

    label: str
    values: Sequence[float]


@dataclass(frozen=True)
class Drawing:
    """A panel and the entries of its legend: (mark, CSS colour, label)."""

    panel: Panel
    legend: tuple[tuple[str, str, str], ...]


def shown(value: float) -> str:
    """A number as the page writes it: three digits after the point, fewer for large ones, a dash for none.

    Example: `shown(0.98765)` is "0.988", `shown(12345.6)` is "12346". Parameters: value. Returns: text.
    """
    if math.isfinite(value) and abs(value) >= 1000:
        return f"{value:.0f}".replace("-", "−")
    return number(round(value, 3)) if math.isfinite(value) else number(None)  # 0.9999 is 1.00, as 1 is


def lines(
    name: str,
    title: str,
    along: str,
    at: Sequence[float],
    series: Sequence[Line],
    *,
    band: tuple[Sequence[float], Sequence[float], str] | None = None,
    log: bool = True,
    low_values: bool = False,
) -> Drawing:
    """Lines over a setting, told apart by colour and by mark.

    Example: `lines("trap-width", "Unrelated data", "d / n", [1, 10], [Line("biased", [0.5, 0.9])])`.

    Parameters: name, of which there is one on a page; title; along, what the horizontal axis is; at, its values;
    series, at most six; band, its lower and upper ends and its label; log, whether that axis is logarithmic;
    low_values, whether to end above the largest value instead of at 1.
    Returns: the drawing.
    """
    figure, axes = canvas(2.5)
    figure.subplots_adjust(left=0.13, right=0.97, bottom=0.17, top=0.96)
    legend, said = [], []
    if band is not None:
        axes.fill_between(at, band[0], band[1], color=MUTED, alpha=0.3, lw=0, zorder=1)
        legend.append(("▬", css(MUTED), band[2]))
    for place, line in enumerate(series):
        marker, sign = MARKERS[place]
        color = ramp(round((RAMP - 1) * place / max(1, len(series) - 1)))
        axes.plot(at, line.values, "-", marker=marker, color=color, lw=1.5, ms=5, mec=PAPER, mew=0.6, zorder=4)
        legend.append((sign, css(color), line.label))
        said.append(f"{line.label}: " + ", ".join(f"{shown(v)} at {a:g}" for a, v in zip(at, line.values, strict=True)))
    if log:
        axes.set_xscale("log")
    ticks = _apart([math.log(value) for value in at] if log else at)
    axes.set_xticks([at[k] for k in ticks], [f"{at[k]:g}" for k in ticks])
    axes.minorticks_off()
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0 if low_values else -0.04), high if low_values else max(high, 1.04))
    axes.set_xlabel(along)
    return Drawing(panel(figure, title, "; ".join(said) + ".", name), tuple(legend))


def _apart(places: Sequence[float]) -> list[int]:
    """Which of these rising places have room for a label."""
    chosen = [0]
    for k, place in enumerate(places):
        if place - places[chosen[-1]] >= 0.09 * (places[-1] - places[0]) and k:
            chosen.append(k)
    return chosen


def beside_chance(name: str, title: str, found: Mapping[str, Mapping[str, float]]) -> Drawing:
    """A line for each measure: its chance as a bar, its value as a ring, its calibrated score as a disc.

    Example: `beside_chance("chance", "Unrelated", against_chance(measures, x, y, 19, 0))`.

    Parameters: name, of which there is one on a page; title; found, of `repsim.gallery.traps.against_chance`.
    Returns: the drawing.
    """
    figure, axes = canvas(0.55 + 0.34 * len(found))
    height = figure.get_size_inches()[1]
    figure.subplots_adjust(left=0.03, right=0.97, bottom=0.32 / height, top=1 - 0.12 / height)
    axes.grid(True, axis="x")
    axes.grid(False, axis="y")
    said = []
    for place, (measure, row) in enumerate(found.items()):
        axes.plot([row["low"], row["high"]], [place + 0.2] * 2, color=MUTED, lw=5, alpha=0.5, solid_capstyle="butt")
        axes.plot(row["value"], place + 0.2, "o", ms=6.5, mfc="none", mec=INK, mew=1.3, zorder=4)
        axes.plot(row["calibrated"], place + 0.2, "o", ms=4.2, color=ACCENT, zorder=5)
        axes.annotate(
            plain(measure), (0, place - 0.2), xycoords=("axes fraction", "data"), va="center", fontsize=7.5, color=INK
        )
        said.append(
            f"{measure}: {shown(row['value'])}, by chance {shown(row['low'])} to {shown(row['high'])}, "
            f"calibrated {shown(row['calibrated'])}"
        )
    lowest = min([0.0, *(min(row["low"], row["value"]) for row in found.values())])
    axes.set_xlim(lowest - 0.04, 1.04)
    axes.set_ylim(len(found) - 0.35, -0.6)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    legend = (("○", css(INK), "value"), ("▬", css(MUTED), "chance, 5 % to 95 %"), ("●", css(ACCENT), "calibrated"))
    return Drawing(panel(figure, title, "; ".join(said) + ".", name), legend)
