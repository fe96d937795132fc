"""The gallery's page: one HTML document with everything in it."""

from __future__ import annotations

import base64
import inspect
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import repsim
from repsim import theme
from repsim.figures import HEAT
from repsim.findings import number
from repsim.gallery import example as examples
from repsim.gallery.chapters import Chapter
from repsim.gallery.drawings import shown
from repsim.gallery.example import LABELS, Example, Size
from repsim.gallery.table import Cell, Question, Row
from repsim.measures.registry import INVARIANCES, Measure

SHEET = 24  # images shown


def render(
    example: Example,
    rows: Sequence[Row],
    questions: Sequence[Question],
    chapters: Sequence[Chapter],
    others: Sequence[Measure],
    *,
    size: Size,
    seed: int,
    environment: Mapping[str, Any],
    made: str,
    command: str,
    seconds: float,
) -> str:
    """The page as HTML.

    Example: see `repsim.gallery.__main__`.

    Parameters: what was computed; others, the measures that do not take representations; size and seed of the run;
    environment as `repsim.records.environment` gives it; made, the date; command; seconds that the run took.
    Returns: one document without scripts or outside references.
    """
    families: dict[str, list[Row]] = {}
    for row in rows:
        families.setdefault(row.measure.family, []).append(row)
    # Where a measure refuses, or gives unrelated networks what it gives A with itself, nothing could be seen.
    declared = sum(math.isfinite(row.cells[name].share) for row in rows for name in row.measure.invariances)
    held = sum(len(row.measure.invariances & set(row.kept)) for row in rows)
    broken = [(row.measure.name, LABELS[name]) for row in rows for name in row.broken]
    return (
        theme.environment()
        .get_template("gallery/gallery.html.j2")
        .render(
            palette=theme.palette(),
            labels=LABELS,
            heat=[f"var(--heat-{step})" for step in range(HEAT)],
            networks=[
                {
                    "name": one.name,
                    "about": one.about,
                    "accuracy": [number(value) for value in one.accuracy] if one.accuracy else None,
                    "trouble": one.trouble,
                }
                for one in example.networks
            ],
            attributes=example.attributes,
            shape=example.a.shape,
            layer=example.layer,
            constant=sum(int((rows.std(axis=0) == 0).sum()) for rows in (example.a, *example.others.values())),
            sheet=_sheet(example),
            families=[{"name": name, "rows": [_row(row) for row in found]} for name, found in families.items()],
            refused=[
                (row.measure.name, LABELS[name], cell.refusal)
                for row in rows
                for name, cell in row.cells.items()
                if cell.refusal
            ],
            declared=declared,
            held=held,
            broken=broken,
            questions=[_question(one) for one in questions],
            others=others,
            chapters=chapters,
            copies=inspect.getsource(examples.copies),
            facts=[environment.get("device") or "cpu", made[:10], f"seed {seed}"],
            provenance=_provenance(size, seed, environment, made, command, seconds),
        )
    )


def _row(row: Row) -> dict[str, Any]:
    measure = row.measure
    kept = measure.invariances
    return {
        "name": measure.name,
        "kind": measure.kind,
        "formula": measure.formula,
        "note": measure.note.rstrip("."),
        "kept": "every affine map" if "affine" in kept else ", ".join(_plain(n) for n in INVARIANCES if n in kept),
        "own": shown(row.own),
        "chance": shown(row.chance),
        "chance_from": row.chance_from,
        "cells": [_cell(name, row.cells[name]) for name in LABELS],
    }


def _plain(invariance: str) -> str:
    return invariance.replace("_", " ")


def _cell(name: str, cell: Cell) -> dict[str, str]:
    known = math.isfinite(cell.share)
    step = min(HEAT - 1, max(0, int(HEAT * cell.share))) if known else 0
    return {
        "label": LABELS[name],
        "text": "refused" if cell.refusal else shown(cell.value),
        "style": f"background:var(--heat-{step});color:var(--on-heat-{step})" if known else "",
        "same": "=" if cell.same else "",
    }


def _question(one: Question) -> dict[str, Any]:
    low, high = (shown(min(one.shares)), shown(max(one.shares))) if one.shares else ("", "")
    return {"asked": one.asked, "means": one.means, "names": one.names, "low": low, "high": high}


def _sheet(example: Example) -> dict[str, Any]:
    from repsim.data import contact_sheet

    picture = contact_sheet(example.images[:SHEET], columns=12, scale=2)
    png = io.BytesIO()
    picture.save(png, "PNG")
    data = base64.b64encode(png.getvalue()).decode()
    return {"data": data, "width": picture.width, "height": picture.height, "count": min(SHEET, len(example.images))}


def _provenance(
    size: Size, seed: int, environment: Mapping[str, Any], made: str, command: str, seconds: float
) -> list[tuple[str, str]]:
    versions = environment.get("versions") or {}
    commit = environment.get("commit")
    return [
        ("repsim", repsim.__version__),
        (
            "commit",
            f"{commit}{', with changes' if environment.get('dirty') else ''}" if commit else "not in a checkout",
        ),
        ("command", command),
        ("seeds", f"{seed}; networks A, B and untrained {2 * seed}, {2 * seed + 1}, {2 * seed + 2}"),
        ("size", ", ".join(f"{name} {value}" for name, value in vars(size).items())),
        ("device", f"{environment.get('device')}; {environment.get('cpu')}, {environment.get('cpus')} cores"),
        ("platform", str(environment.get("platform"))),
        ("python", str(environment.get("python"))),
        *((name, str(version)) for name, version in versions.items() if name != "repsim" and version),
        ("made", f"{made}, in {seconds:.0f} s"),
    ]
