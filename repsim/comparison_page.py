"""A comparison as one page that needs nothing else: a heatmap table per measure, readable in the dark too."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .measures.similarity import Grid

_STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1a1d21; --faint: #667; --line: #d9dce1; --full: #fff }
@media (prefers-color-scheme: dark) { :root { --page: #14171a; --ink: #e6e8eb; --faint: #99a; --line: #33383e } }
body { margin: 2rem; background: var(--page); color: var(--ink); font: 15px/1.45 system-ui, sans-serif }
h1 { font-size: 1.3rem } h2 { font-size: 1.05rem; margin: 2rem 0 0 }
p { color: var(--faint); margin: .2rem 0 .8rem }
div { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .55rem; border: 1px solid var(--line); white-space: nowrap }
th { font-weight: 500; text-align: left } tbody th { position: sticky; left: 0; background: var(--page) }
tr.edge > * { border-top: 2px solid var(--ink) } .edge:not(tr) { border-left: 2px solid var(--ink) }
td { text-align: right } td.full { color: var(--full) } td.none { color: var(--faint) }
"""


def page(
    layers_a: Sequence[str],
    layers_b: Sequence[str],
    grids: dict[str, Grid],
    titles: dict[str, str],
    *,
    head: str | None = None,
    edges: Sequence[int] = (),
) -> str:
    """The page of a comparison.

    Example: ``page(table.layers_a, table.layers_b, table.grids, {"cka": "cka  (n=50, ...)"})``.

    Parameters: ``layers_a`` and ``layers_b``, names; ``grids`` [layers of a, layers of b] and ``titles``, by measure.
        ``head``, the heading; ``edges``, positions of layers before which a thicker line is drawn, on both sides.
    Returns: HTML without scripts or links; every layer is shown.
    """
    parts = [_section(layers_a, layers_b, grid, titles[measure], set(edges)) for measure, grid in grids.items()]
    head = html.escape(head or f"{len(layers_a)} layers of a, {len(layers_b)} layers of b")
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>repsim: {head}</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>{head}</h1>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _section(layers_a: Sequence[str], layers_b: Sequence[str], grid: Grid, title: str, edges: set[int]) -> str:
    finite = [value for value in grid.values.ravel().tolist() if math.isfinite(value)]
    far = grid.kind == "distance" and any(finite)
    low, high = min([0.0, *finite]), max(finite if far else [1.0, *finite])
    edge = [' class="edge"' * (place in edges) for place in range(max(len(layers_a), len(layers_b)))]
    head = "".join(f"<th{edge[j]}>{html.escape(name)}</th>" for j, name in enumerate(layers_b))
    lines = []
    for i, layer_a in enumerate(layers_a):
        cells = "".join(
            _cell(f"{layer_a} and {layer_b}", grid, i, j, low, high, j in edges) for j, layer_b in enumerate(layers_b)
        )
        lines.append(f"<tr{edge[i]}><th>{html.escape(layer_a)}</th>{cells}</tr>")
    chance = grid.null_from if grid.null_from.startswith("not ") else f"from {grid.null_from}"
    scale = (
        f"No colour is {low:.3g}, full colour {high:.3g}; chance {html.escape(chance)}. A cell tells its chance level, "
        "z and p where they are known."
    )
    return (
        f"<h2>{html.escape(title)}</h2><p>{scale}</p>\n"
        f"<div><table><thead><tr><th>a \\ b</th>{head}</tr></thead>\n"
        "<tbody>" + "\n".join(lines) + "</tbody></table></div>"
    )


def _cell(pair: str, grid: Grid, i: int, j: int, low: float, high: float, edge: bool) -> str:
    value = float(grid.values[i, j])
    numbers: dict[str, Any] = {"chance": grid.null_mean[i, j], "z": grid.z[i, j], "p": grid.p[i, j]}
    known = "".join(f", {name} {number:.3g}" for name, number in numbers.items() if not math.isnan(number))
    label = html.escape(f"{pair}: {value:.6g}{known}", quote=True)
    if not math.isfinite(value):
        words = "none edge" if edge else "none"
        return f'<td class="{words}" title="{label}">{value}</td>'
    share = (value - low) / (high - low)
    # Of a colour that lets the page through, so that zero is the page's own in the light and in the dark.
    words = " ".join(["full"] * (share > 0.85) + ["edge"] * edge)
    named = f' class="{words}"' if words else ""
    return f'<td{named} style="background:rgb(37 99 235/{share:.3f})" title="{label}">{value:.3f}</td>'
