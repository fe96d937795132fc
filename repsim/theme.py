"""What every page of repsim shares: its stylesheet, the colours of both themes, and the templates."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jinja2

_RAMPS = {
    "light": {
        "ramp": ((0, "#b3660b"), (5, "#b0305c"), (10, "#3a1a78")),
        "heat": ((0, "#edf3f1"), (8, "#4b9a97"), (15, "#053440")),
    },
    "dark": {
        "ramp": ((0, "#ffd166"), (5, "#ff7aa2"), (10, "#a99bff")),
        "heat": ((0, "#23272e"), (8, "#33807f"), (15, "#9cf0e0")),
    },
}


def environment() -> jinja2.Environment:
    """Templates of this package, in which every text is escaped and an unknown name is an error.

    Example: `environment().get_template("page.html.j2").render(palette=palette(), ...)`.

    Returns: the environment, with the filter `svg` for drawings of `repsim.figures`.
    """
    import jinja2

    def source(name: str) -> str:
        return resources.files("repsim").joinpath(name).read_text(encoding="utf-8")

    made = jinja2.Environment(
        loader=jinja2.FunctionLoader(source),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    made.filters["svg"] = _markup
    return made


def _markup(svg: str) -> Any:
    from markupsafe import Markup

    return Markup(svg)  # made by repsim.figures, which escapes every text


def palette() -> dict[str, str]:
    """The CSS variables of both ramps: of lines (--ramp-0 to 10) and of cells (--heat-0 to 15, --on-heat-0 for text).

    Example: `palette()["dark"]`. Returns: declarations by theme, "light" and "dark".
    """
    themes = {}
    for theme, ramps in _RAMPS.items():
        lines = []
        for name, stops in ramps.items():
            for (start, one), (end, other) in itertools.pairwise(stops):
                for step in range(start, end + (end == stops[-1][0])):
                    share = (step - start) / (end - start)
                    mixed = [
                        round((1 - share) * int(one[k : k + 2], 16) + share * int(other[k : k + 2], 16))
                        for k in (1, 3, 5)
                    ]
                    lines.append(f"--{name}-{step}:#{''.join(f'{channel:02x}' for channel in mixed)}")
                    if name == "heat":
                        lines.append(f"--on-heat-{step}:{'#000' if _luminance(mixed) > 0.179 else '#fff'}")
        themes[theme] = ";".join(lines)
    return themes


def _luminance(color: Sequence[int]) -> float:
    # WCAG 2: above .179 black text has the higher contrast, and either choice has at least 4.58
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (channel / 255 for channel in color)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
