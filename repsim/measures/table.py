"""The table of all measures."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .registry import INVARIANCES, Measure

_COLUMNS = ("measure", "family", "kind", "range", "symmetric", "metric", "invariant to", "GPU", "cost")
_PLAIN = (
    "name",
    "family",
    "kind",
    "low",
    "high",
    "symmetric",
    "metric",
    "takes",
    "same_width",
    "gpu",
    "formula",
    "cost",
)


@dataclass(frozen=True)
class MeasureTable:
    """Measures and what they declare; printed as text, shown as HTML in a notebook.

    Example::

        print(repsim.measures())
        repsim.measures("cca").rows()                       # plain dicts, ready for pandas.DataFrame
        [one.name for one in repsim.measures() if one.metric]
    """

    measures: tuple[Measure, ...]

    @classmethod
    def of(cls, registry: Mapping[str, Measure], family: str | None) -> MeasureTable:
        """All of a registry, or one family.

        Raises
        ------
        ValueError: a family that no measure is of.
        """
        families = list(dict.fromkeys(one.family for one in registry.values()))
        if family is not None and family not in families:
            raise ValueError(f"[measures] expected family {', '.join(families)}, got {family!r}")
        return cls(tuple(one for one in registry.values() if family in (None, one.family)))

    def __iter__(self) -> Iterator[Measure]:
        return iter(self.measures)

    def __len__(self) -> int:
        return len(self.measures)

    def rows(self) -> list[dict[str, Any]]:
        """One plain dict per measure, invariances as one column each."""
        return [
            {
                **{key: getattr(one, key) for key in _PLAIN},
                **{invariance: invariance in one.invariances for invariance in INVARIANCES},
                "paper": one.paper,
                "aliases": "; ".join(one.aliases),
                "note": one.note,
            }
            for one in self.measures
        ]

    def __repr__(self) -> str:
        table = [_COLUMNS, *map(_cells, self.measures)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in table)
        return "\n".join(line.rstrip() for line in lines)

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in _COLUMNS)
        rows = ("".join(f"<td>{html.escape(cell)}</td>" for cell in _cells(one)) for one in self.measures)
        return f"<table><tr>{head}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>"

    def to_markdown(self) -> str:
        """The same as a table in Markdown, with papers."""
        head = (*_COLUMNS, "paper")
        lines = [(*_cells(one), one.paper) for one in self.measures]
        return "\n".join("| " + " | ".join(line) + " |" for line in (head, ("---",) * len(head), *lines))


def _cells(one: Measure) -> tuple[str, ...]:
    return (
        one.name,
        one.family,
        one.kind,
        f"[{_bound(one.low)}, {_bound(one.high)}]",
        "yes" if one.symmetric else "no",
        "yes" if one.metric else "no",
        ", ".join(_most_general(one)).replace("_", " ") or "nothing",
        "yes" if one.gpu else "no",
        one.cost,
    )


def _bound(value: float) -> str:
    return f"{value:g}" if math.isfinite(value) else "-inf" if value < 0 else "inf"


def _most_general(one: Measure) -> list[str]:
    """Invariances that no other of them implies."""
    held = one.invariances
    if "affine" in held:
        return ["affine"]
    hidden: set[str] = set()
    if "invertible_linear" in held:
        hidden = {"permutation", "orthogonal", "isotropic_scaling"}
    elif "orthogonal" in held:
        hidden = {"permutation"}
    return [name for name in INVARIANCES if name in held and name not in hidden]
