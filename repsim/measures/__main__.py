"""``python -m repsim.measures``: the table of all measures in Markdown; repsim/measures/MEASURES.md is this output."""

from __future__ import annotations

from . import REGISTRY
from .table import MeasureTable

_HEAD = """\
# The measures

Made by `python -m repsim.measures` from what every measure declares of itself; `tests/test_registry.py` holds each to
it: what is declared holds, and what is not declared fails. A range is that of the value; "invariant to" names the most
general maps of the features of either side that leave the value as it is; "GPU", whether rows may lie on one, or be
brought there by `device=`. The same table is `repsim.measures()`.
"""


def page() -> str:
    """The table of every family, one after the other."""
    parts = [_HEAD]
    for family in dict.fromkeys(one.family for one in REGISTRY.values()):
        table = MeasureTable.of(REGISTRY, family)
        notes = [f"- `{one.name}`: {one.note}" for one in table if one.note]
        names = [f"- `{one.name}` is {', '.join(one.aliases)}" for one in table if one.aliases]
        said = ["", *notes, *names] if notes or names else []
        parts.append("\n".join([f"## {family}\n", table.to_markdown(), *said]))
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    print(page(), end="")
