"""The report's figures: small matplotlib panels as inline SVG, with real text and the page's own colours.

Every panel is drawn about as wide as a phone, so a row of panels on a desk is a column of them in the hand and no text
ever shrinks. Colours are placeholders here and CSS variables in the SVG, so a panel follows the page into dark mode.
"""

# ruff: noqa: RUF001 (a page for readers has real dashes, minus signs and crosses)
from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from repsim import statistics
from repsim.findings import FACTORS, LABELS, Study, finite, last, number, values_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, RULE, PAPER, CEILING, FLOOR, ACCENT = (f"#fd00{k:02x}" for k in range(7))
_VARIABLES = dict(
    zip(
        (INK, MUTED, RULE, PAPER, CEILING, FLOOR, ACCENT),
        ["ink", "muted", "rule", "paper", "ceiling", "floor", "accent"],
        strict=True,
    )
)
RAMP, HEAT = 11, 16
_ROUNDING = 1e-6  # of a tenth: a CKA that is 1 but for rounding takes no scale to 1.1
MARKERS = "oD^vPX"  # no square: those are the ceiling's
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "font.size": 8, "font.family": ["DejaVu Sans"],
    "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": RULE, "axes.labelcolor": INK, "text.color": INK, "xtick.color": RULE, "ytick.color": RULE,
    "xtick.labelcolor": MUTED, "ytick.labelcolor": MUTED, "xtick.major.size": 3, "ytick.major.size": 0,
    "axes.grid": True, "axes.grid.axis": "y", "grid.color": RULE, "grid.linewidth": 0.6, "axes.axisbelow": True,
}  # fmt: skip


@dataclass(frozen=True)
class Panel:
    """One drawing with its heading and its description for those who cannot see it."""

    title: str
    svg: str


def level_color(study: Study, level: float) -> str:
    """The placeholder of a level's colour: the levels in order along one ramp.

    Example: `css(level_color(study, 0.5))`.

    Parameters: study; level, one of `study.levels(study.hue)`. Returns: a colour for `css`.
    """
    levels = study.levels(study.hue)
    return ramp(round((RAMP - 1) * levels.index(level) / max(1, len(levels) - 1)))


def similarity(study: Study, measure: str) -> Panel | None:
    """One measure against overlap: every pair, means with 95 % intervals over seeds, ceiling, floor and null.

    Example: `similarity(study, "cka").svg`.

    Parameters: study; measure, one of `study.measures` or "transfer_auc".
    Returns: the panel, None with nothing to draw.
    """
    found = values_of(study.pairs, measure)
    if not found or not study.along:
        return None
    figure, axes = canvas(2.5)
    said, levels = [], study.levels(study.along)
    figure.subplots_adjust(left=0.15, right=0.8, bottom=0.17, top=0.96)
    for line in study.levels(study.hue) if study.factorial else [None]:
        means = []
        chosen = study.at(**({str(study.hue): line} if line is not None else {}))
        for seed in sorted({str(r["params"].get("seed")) for r in chosen}):
            own = sorted(
                (r["params"][study.along], v)
                for r in chosen
                if str(r["params"].get("seed")) == seed and (v := last(r, measure)) is not None
            )
            axes.plot(
                *zip(*own, strict=True),
                color=MUTED if line is None else level_color(study, line),
                lw=0.6,
                alpha=0.35,
                zorder=2,
            ) if own else None
        for level in levels:
            cell = values_of([r for r in chosen if r["params"][study.along] == level], measure)
            if not cell:
                continue
            color, middle = level_color(study, level if line is None else line), statistics.mean(cell)
            axes.plot([level] * len(cell), cell, "o", ms=3.2, color=color, mec=PAPER, mew=0.5, zorder=4.5)
            if math.isfinite(middle.low):
                axes.plot(
                    [level, level], [middle.low, middle.high], color=color, lw=1.6, zorder=4, solid_capstyle="round"
                )
            axes.plot(level, middle.value, "o", ms=6.5, color=color, mec=PAPER, mew=0.8, zorder=5)
            means.append((level, middle.value))
            where = f"{study.hue} {line:.3g}, " if line is not None else ""
            interval = (
                f" (95 % interval {number(middle.low)} to {number(middle.high)})" if math.isfinite(middle.low) else ""
            )
            said.append(f"{where}{study.along} {level:.3g}: {number(middle.value)}{interval}")
        if means:
            axes.plot(
                *zip(*means, strict=True), color=MUTED if line is None else level_color(study, line), lw=1.2, zorder=3.5
            )
    said += _bands(axes, study, measure, found)
    axes.set_xticks(levels, [f"{level:.3g}" for level in levels])
    axes.set_xlabel(FACTORS.get(study.along, study.along))
    pad = 0.08 * ((levels[-1] - levels[0]) or 1)
    axes.set_xlim(levels[0] - pad, levels[-1] + pad)
    return panel(
        figure,
        "Attack transfer against overlap" if measure == "transfer_auc" else LABELS.get(measure, measure),
        f"{LABELS.get(measure, measure)}{'' if measure == 'transfer_auc' else ' of the last layers'}. "
        + "; ".join(said)
        + ".",
        f"{study.name}-sim-{measure}",
    )


def scatter(study: Study, measure: str) -> Panel | None:
    """Transfer against similarity, one mark for each pair: colour for overlap, shape for a factorial's other factor.

    Example: `scatter(study, "mutual_knn").svg`.

    Parameters: study; measure, one of `study.measures`. Returns: the panel, None with nothing to draw.
    """
    points = [
        (r, a, b)
        for r in study.pairs
        if (a := last(r, measure)) is not None and (b := last(r, "transfer_auc")) is not None
    ]
    if not points or not study.hue:
        return None
    figure, axes = canvas(2.5)
    figure.subplots_adjust(left=0.17, right=0.96, bottom=0.17, top=0.96)
    axes.grid(True, axis="both")
    for record in study.ceiling:
        a, b = last(record, measure), last(record, "transfer_auc")
        if a is not None and b is not None:
            axes.plot(a, b, "s", ms=5, mfc="none", mec=CEILING, mew=1.3, zorder=3)
    along = study.levels(study.along)
    for record, a, b in points:
        marker = MARKERS[along.index(record["params"][study.along]) % len(MARKERS)] if study.factorial else "o"
        axes.plot(
            a, b, marker, ms=6, color=level_color(study, record["params"][study.hue]), mec=PAPER, mew=0.7, zorder=4
        )
    axes.set_xlabel(f"{plain(LABELS.get(measure, measure))} of the last layers")
    axes.set_ylabel("attack transfer")
    axes.locator_params(axis="x", nbins=6)
    spans = [
        f"{number(min(column))} to {number(max(column))}" for column in ([p[1] for p in points], [p[2] for p in points])
    ]
    text = f"{len(points)} pairs; {LABELS.get(measure, measure)} from {spans[0]}, transfer score from {spans[1]}."
    return panel(figure, LABELS.get(measure, measure), text, f"{study.name}-scatter-{measure}")


def transfer(study: Study, level: float | None = None) -> Panel | None:
    """Joint success over epsilon for every colour level, beside random signs as large.

    Example: `transfer(study, 0.5).svg` of a factorial.

    Parameters: study; level, where `study.along` is held, None for everywhere.
    Returns: the panel, None with nothing to draw.
    """
    figure, axes = canvas(2.6)
    figure.subplots_adjust(left=0.15, right=0.97, bottom=0.16, top=0.96)
    said, ticks = [], set()
    groups = [
        (
            level_color(study, h),
            f"{study.hue} {h:g}",
            study.at(**{str(study.hue): h}, **({str(study.along): level} if level is not None else {})),
        )
        for h in study.levels(study.hue)
    ]
    groups.append((CEILING, "ceiling", list(study.ceiling) if level is None else []))
    for color, label, records in groups:
        success, control = (_rates(records, field) for field in ("joint_success", "control_success"))
        if not success:
            continue
        epsilons = sorted(success)
        ticks.update(epsilons)
        middle = {e: statistics.mean(success[e]) for e in epsilons}
        if all(math.isfinite(middle[e].low) for e in epsilons) and color != CEILING:
            axes.fill_between(
                epsilons,
                [max(0, middle[e].low) for e in epsilons],
                [min(1, middle[e].high) for e in epsilons],
                color=color,
                alpha=0.13,
                lw=0,
            )
        axes.plot(epsilons, [middle[e].value for e in epsilons], "-o", color=color, lw=1.6, ms=3.6, mec=PAPER, mew=0.6)
        if control:
            axes.plot(
                sorted(control),
                [float(np.mean(control[e])) for e in sorted(control)],
                "--",
                color=color,
                lw=1,
                alpha=0.9,
            )
        said.append(f"{label}: " + ", ".join(f"{number(middle[e].value)} at {e:g}/255" for e in epsilons))
    if not said:
        return None
    axes.set_xscale("log", base=2)
    axes.set_xticks(sorted(ticks), [f"{tick:g}" for tick in sorted(ticks)])
    axes.minorticks_off()
    axes.set_ylim(0, None)
    axes.set_xlabel("ε, in 1/255 (L∞)")
    axes.set_ylabel("share the other gets wrong")
    title = "Transfer against ε" if level is None else f"{FACTORS.get(str(study.along), study.along)} {level:.3g}"
    return panel(
        figure,
        title,
        "Share of jointly correct images that the other model gets wrong. " + "; ".join(said) + ".",
        f"{study.name}-eps-{level}",
    )


def heatmaps(
    study: Study, measure: str = "cka", *, floor: str = "untrained (floor)"
) -> tuple[list[Panel], tuple[float, float]]:
    """Layer by layer, the mean over seeds: a panel for the floor, each overlap and the ceiling.

    Example: `panels, (low, high) = heatmaps(study, "cka")`.

    Parameters: study; measure, one of `study.measures`; floor, the title of its panel.
    Returns: the panels, and the ends of the scale they share.
    """
    groups: list[tuple[str, Sequence[Mapping[str, Any]]]] = [(floor, study.floor)]
    for level, line, chosen in study.groups():
        title = f"α = {level:.3g}" if study.along == "alpha" else f"{level:.3g} shared"
        groups.append((title + (f", {line:.3g} shared" if line is not None else ""), chosen))
    groups.append(("other seed (ceiling)", study.ceiling))
    found = [(title, *made) for title, records in groups if (made := _mean_matrix(records, measure))]
    if not found:
        return [], (0.0, 1.0)
    low = math.floor(10 * min(float(m.min()) for _, m, *_ in found) + _ROUNDING) / 10
    high = max(low + 0.1, math.ceil(10 * max(float(m.max()) for _, m, *_ in found) - _ROUNDING) / 10)
    return [
        _heatmap(study, title, matrix, rows, columns, low, high, k)
        for k, (title, matrix, rows, columns) in enumerate(found)
    ], (low, high)


def forest(study: str, title: str, effects: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> Panel | None:
    """Estimates with intervals, each label above its own line; the mark is filled where the interval excludes 0.

    Example: `forest("data_overlap", "Slopes", effects, ["CKA on data overlap"]).svg` with one effect.

    Parameters: study, its name; title of the panel; effects [n], rows of effects.json; labels [n].
    Returns: the panel, None with nothing to draw.
    """
    rows = [(label, e) for label, e in zip(labels, effects, strict=True) if isinstance(e.get("estimate"), (int, float))]
    if not rows:
        return None
    figure, axes = canvas(0.55 + 0.36 * len(rows))
    height = figure.get_size_inches()[1]
    figure.subplots_adjust(left=0.03, right=0.97, bottom=0.32 / height, top=1 - 0.12 / height)
    axes.grid(True, axis="x")
    axes.grid(False, axis="y")
    at = np.arange(len(rows))  # beside the marks only, not through the labels above them
    axes.vlines(np.zeros(len(rows)), at - 0.02, at + 0.5, color=INK, lw=1, zorder=1)
    ends = [0.0]
    for k, (label, row) in enumerate(rows):
        low, high = row.get("low"), row.get("high")
        sure = low is not None and high is not None and not low <= 0 <= high
        if low is not None and high is not None:
            axes.plot(
                [low, high], [k + 0.18, k + 0.18], color=ACCENT, lw=2 if sure else 1.2, solid_capstyle="round", zorder=2
            )
            ends += [low, high]
        axes.plot(row["estimate"], k + 0.18, "o", ms=6, mfc=ACCENT if sure else PAPER, mec=ACCENT, mew=1.4, zorder=3)
        axes.annotate(
            f"{plain(label)}  {number(row['estimate'])}",
            (0, k - 0.24),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=7.5,
            color=INK,
        )
        ends.append(row["estimate"])
    pad = 0.06 * (max(ends) - min(ends) or 1)
    axes.set_xlim(min(ends) - pad, max(ends) + pad)
    axes.set_ylim(len(rows) - 0.35, -0.65)
    axes.set_yticks([])
    axes.locator_params(axis="x", nbins=6)
    axes.spines["left"].set_visible(False)
    said = "; ".join(
        f"{label}: {number(row['estimate'])} (95 % interval {number(row.get('low'))} to {number(row.get('high'))})"
        for label, row in rows
    )
    return panel(figure, title, said + ".", f"{study}-forest-{title}")


def _bands(axes: Axes, study: Study, measure: str, found: list[float]) -> list[str]:
    """Ceiling and floor as bands from the lowest to the highest seed, the null as a line.

    What lies so far off that the pairs would be squeezed together is named at the edge instead.
    """
    ends, said = [min(found), max(found)], []
    reach = 3 * ((max(found) - min(found)) or 0.01)
    inside: list[tuple[float, str, str]] = []
    outside: list[tuple[str, str, bool]] = []
    entries = [((r.get("result") or {}).get("similarity") or {}).get(measure) or {} for r in study.pairs]
    nulls = [value for entry in entries if (value := finite(entry.get("last_null"))) is not None]
    for name, color, values in (
        ("ceiling", CEILING, values_of(study.ceiling, measure)),
        ("floor", FLOOR, values_of(study.floor, measure)),
        ("null", MUTED, nulls),
    ):
        if not values:
            continue
        middle = float(np.mean(values))
        said.append(f"{name} {number(middle)}")
        if min(values) < min(found) - reach or max(values) > max(found) + reach:
            below = middle < min(found)
            outside.append((f"{name} {number(middle)} {'↓' if below else '↑'}", color, below))
            continue
        ends += [min(values), max(values)]
        if name != "null":
            axes.axhspan(min(values), max(values), color=color, alpha=0.16, lw=0, zorder=1)
        axes.axhline(middle, color=color, lw=1.1, ls=":" if name == "null" else "-", zorder=1.5)
        inside.append((middle, name, color))
    low, high = min(*ends, axes.dataLim.y0), max(*ends, axes.dataLim.y1)
    pad = 0.07 * ((high - low) or 0.01)
    axes.set_ylim(low - pad, high + pad)
    beside: dict[str, Any] = {"xycoords": "axes fraction", "fontsize": 7}
    for below in (True, False):
        for k, (text, color, _) in enumerate(mark for mark in outside if mark[2] == below):
            y, align = (0.01 + 0.075 * k, "bottom") if below else (0.99 - 0.075 * k, "top")
            axes.annotate(text, (1.02, y), color=color, va=align, **beside)
    lowest = 0.075 * sum(mark[2] for mark in outside) + 0.03
    for value, text, color in sorted(inside):
        y = max((value - low + pad) / (high - low + 2 * pad), lowest)
        lowest = y + 0.075
        axes.annotate(text, (1.02, y), color=color, va="center", **beside)
    return said


def _rates(records: Sequence[Mapping[str, Any]], field: str) -> dict[float, list[float]]:
    """One rate for each epsilon (in 1/255) and pair, the mean of both directions, where any image counts."""
    rates: dict[float, list[float]] = {}
    for record in records:
        own: dict[float, list[float]] = {}
        for curve in ((record.get("result") or {}).get("transfer") or {}).values():
            for point in curve or []:
                if point.get("joint_n") and point.get(field) is not None:
                    own.setdefault(round(point["epsilon"] * 255, 3), []).append(point[field] / point["joint_n"])
        for epsilon, values in own.items():
            rates.setdefault(epsilon, []).append(float(np.mean(values)))
    return rates


def _mean_matrix(records: Sequence[Mapping[str, Any]], measure: str) -> tuple[np.ndarray, list[str], list[str]] | None:
    found = []
    for record in records:
        result = record.get("result") or {}
        values = ((result.get("similarity") or {}).get(measure) or {}).get("values")
        if values and all(isinstance(v, (int, float)) and math.isfinite(v) for row in values for v in row):
            found.append(
                (
                    np.asarray(values, np.float64),
                    list(result.get("layers_first") or []),
                    list(result.get("layers_second") or []),
                )
            )
    alike = [item for item in found if item[0].shape == found[0][0].shape]
    return (np.mean([item[0] for item in alike], axis=0), found[0][1], found[0][2]) if found else None


def _heatmap(
    study: Study, title: str, matrix: np.ndarray, rows: list[str], columns: list[str], low: float, high: float, k: int
) -> Panel:
    from matplotlib.patches import Rectangle

    figure, axes = canvas(2.2, width=2.2)
    figure.subplots_adjust(left=0.24, right=0.99, bottom=0.2, top=0.99)
    axes.grid(False)
    for i, line in enumerate(matrix):
        for j, value in enumerate(line):
            step = min(HEAT - 1, max(0, int(HEAT * (value - low) / (high - low))))
            axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, color=f"#fb00{step:02x}", lw=0.3))
            if max(matrix.shape) <= 6:
                axes.text(
                    j,
                    i,
                    f"{value:.2f}".replace("0.", ".").replace("-", "−"),
                    ha="center",
                    va="center",
                    fontsize=7.5,
                    color=f"#fa00{step:02x}",
                )
    axes.set_xlim(-0.5, matrix.shape[1] - 0.5)
    axes.set_ylim(-0.5, matrix.shape[0] - 0.5)
    axes.set_xticks(
        range(matrix.shape[1]),
        _names(columns, matrix.shape[1]),
        fontsize=6.5,
        rotation=30,
        ha="right",
        rotation_mode="anchor",
    )
    axes.set_yticks(range(matrix.shape[0]), _names(rows, matrix.shape[0]), fontsize=6.5)
    for spine in axes.spines.values():
        spine.set_visible(False)
    said = "; ".join(
        f"{rows[i] if i < len(rows) else i}: " + ", ".join(number(v) for v in line) for i, line in enumerate(matrix)
    )
    return panel(
        figure,
        title,
        f"Mean over seeds, layers of the first model by layers of the second. {said}.",
        f"{study.name}-heat-{k}",
    )


def ramp(step: int) -> str:
    """The placeholder of a step of the ramp.

    Example: `css(ramp(3))`. Parameters: step, from 0 to RAMP - 1. Returns: a colour for `css`.
    """
    return f"#fc00{step:02x}"


def _names(layers: list[str], count: int) -> list[str]:
    # the end of a long module name tells layers apart, its beginning seldom does
    return [plain(str(name)[-9:]) for name in layers] if len(layers) == count else [str(k + 1) for k in range(count)]


def plain(text: str) -> str:
    """The text with its dollars kept as dollars: matplotlib would read what is between two as mathematics.

    Example: `axes.set_xlabel(plain("$loss$"))`. Parameters: text. Returns: text for matplotlib.
    """
    return text.replace("$", r"\$")


def css(color: str) -> str:
    """The CSS variable behind a placeholder colour.

    Example: `css(INK)` is "var(--ink)". Parameters: color, one of this module's. Returns: a CSS value.
    """
    kind, step = color[:5], int(color[5:], 16)
    return (
        f"var(--{_VARIABLES[color]})"
        if kind == "#fd00"
        else f"var(--{ {'#fc00': 'ramp', '#fb00': 'heat', '#fa00': 'on-heat'}[kind] }-{step})"
    )


def canvas(height: float, width: float = 3.5) -> tuple[Figure, Axes]:
    """An empty drawing in the page's style.

    Example: `figure, axes = canvas(2.5)`. Parameters: height and width in inches. Returns: the figure and its axes.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height))
        FigureCanvasSVG(figure)
        return figure, figure.add_subplot()


def panel(figure: Figure, title: str, description: str, name: str) -> Panel:
    """The drawing as inline SVG, whose colours follow the page's theme.

    Example: `panel(figure, "CKA", "CKA from 0.1 to 0.9.", "study-cka").svg`.

    Parameters: figure; title; description, for those who cannot see it; name, of which there is one on a page.
    Returns: the panel.
    """
    import matplotlib

    name = re.sub(r"[^A-Za-z0-9]+", "-", name)
    page = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure.savefig(
            page, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    svg = page.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r"#f[a-d]00[0-9a-f]{2}\b", lambda m: css(m.group()), svg)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font: \1 var(--sans)", svg)
    # several drawings share one page: their ids must not meet
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)
    box = re.search(r'viewBox="([^"]+)"', svg)
    opening = (
        f'<svg class="drawn" viewBox="{box.group(1) if box else "0 0 252 180"}" role="img" '
        f'aria-labelledby="{name}-title {name}-about"><title id="{name}-title">{html.escape(title)}</title>'
        f'<desc id="{name}-about">{html.escape(description)}</desc>'
    )
    return Panel(title, opening + re.sub(r"\n\s*", "\n", svg[svg.index(">") + 1 :]).strip())
