"""The page of a run: what its records say, in sentences, figures and tables, in one file that needs nothing else.

The page is made from the manifest, the records, the failures, the effects and the pictures alone, and can be made again
at any time. Estimates come from the run's effects; what the figures add (a mean over seeds) `repsim.statistics` gives.
"""

# ruff: noqa: RUF001 (a page for readers has real dashes, minus signs and crosses)
from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repsim import figures, jailbreak_figures, language_figures, statistics, theme
from repsim.findings import (
    FACTORS,
    LABELS,
    TITLES,
    WHAT,
    Record,
    Study,
    counted,
    crossed,
    finite,
    no_verdict,
    number,
    p_text,
    sentence,
    study_of,
    values_of,
    verdict,
)

if TYPE_CHECKING:
    from repsim.records import RunDirectory


def write_report(run: RunDirectory) -> Path:
    """Write report.html into the run's directory, from what the run has on disk by now.

    Example: `write_report(RunDirectory.open("repsim-runs/quick"))`.

    Parameters: run, which should be locked. Returns: the page's path.
    Raises: RunError when a file of the run is damaged or the page cannot be written.
    """
    from repsim.records import write_atomic

    pictures = {path.name: path.read_bytes() for path in sorted((run.path / "artifacts").glob("*.png"))}
    page = render(run.manifest, run.records(), run.effects(), run.failures(), pictures, cells=run.cells())
    write_atomic(run.path / "report.html", page.encode())
    return run.path / "report.html"


def render(
    manifest: Mapping[str, Any],
    records: Sequence[Record],
    effects: Sequence[Record],
    failures: Sequence[Record],
    artifacts: Mapping[str, bytes],
    *,
    cells: Sequence[Record] | None = None,
) -> str:
    """The page as HTML; everything may be empty or partial, and the page says what is missing.

    Example: `render(run.manifest, run.records(), run.effects(), run.failures(), {}, cells=run.cells())`.

    Parameters: manifest as the run wrote it; records, failures and cells as `RunDirectory` gives them; effects rows of
    effects.json; artifacts PNG bytes by file name.
    Returns: one HTML document without scripts or outside references; the same input gives the same bytes.
    """
    rows = [
        row if "p_holm" in row else adjusted for row, adjusted in zip(effects, statistics.adjust(effects), strict=True)
    ]
    names = list(
        dict.fromkeys(
            [
                *(manifest.get("studies") or []),
                *(r["study"] for r in records if r.get("kind") == "pair"),
                *(e["study"] for e in rows),
            ]
        )
    )
    template = theme.environment().get_template("page.html.j2")
    sections = [
        language_figures.section(str(name), rows, records, failures)
        if language_figures.is_language(str(name), records)
        else jailbreak_figures.section(str(name), rows, records, failures)
        if name == jailbreak_figures.STUDY
        else _section(study_of(str(name), records), rows, records, failures, artifacts)
        for name in names
    ]
    claimed = {sheet["name"] for section in sections for sheet in section.get("sheets", ())}
    done, planned = len(records), len(cells) if cells is not None else None
    return template.render(
        palette=theme.palette(),
        sections=sections,
        effects=[_effect_row(row) for row in rows],
        failures=[_failure(failure) for failure in failures],
        sheets=[_sheet(name, data, records) for name, data in artifacts.items() if name not in claimed],
        facts=_facts(manifest, records),
        manifest=_flat(manifest),
        manifest_json=json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False, default=str),
        state={
            "done": done,
            "failed": len(failures),
            "planned": planned,
            "open": max(0, planned - done - len(failures)) if planned is not None else 0,
        },
    )


def _section(
    study: Study,
    effects: Sequence[Record],
    records: Sequence[Record],
    failures: Sequence[Record],
    artifacts: Mapping[str, bytes],
) -> dict[str, Any]:
    own = [row for row in effects if row["study"] == study.name]
    said = [(row, *sentence(row)) for row in own]
    title, question = TITLES.get(study.name, (study.name.replace("_", " ").capitalize(), ""))
    first = study.measures[0] if study.measures else "cka"
    lead = [
        ("interaction", first),
        ("alpha", first),
        ("shared", first),
        ("interaction", "transfer_auc"),
        ("alpha", "transfer_auc"),
        ("shared", "transfer_auc"),
        (f"within:{first}", "transfer_auc"),
        (f"correlation:{first}", "transfer_auc"),
    ]
    answers = [
        (grade, text, row)
        for factor, outcome in lead
        for row, grade, text in said
        if (row["factor"], row["outcome"]) == (factor, outcome)
    ]
    slopes = [row for row in own if ":" not in str(row["factor"])]
    links = [row for row in own if ":" in str(row["factor"])]
    mapped = "cka" if "cka" in study.measures else first
    maps, scale = figures.heatmaps(study, mapped)
    curves = (
        [figures.transfer(study, level) for level in (study.levels(study.along) if study.factorial else [None])]
        if study.hue
        else []
    )
    blocks: list[tuple[str, str, list[figures.Panel | None]]] = [
        ("similarity", "How alike they become", [figures.similarity(study, m) for m in study.measures]),
        ("transfer", "How far an attack carries", [*curves, figures.similarity(study, "transfer_auc")]),
        ("scatter", "Do alike networks fall together?", [figures.scatter(study, m) for m in study.measures]),
        ("heatmap", f"Layer by layer, {LABELS.get(mapped, mapped)}", [*maps]),
        ("forest", "Every effect with its interval", [
            figures.forest(study.name, "Slopes and interactions", slopes, [_row_label(r) for r in slopes]),
            figures.forest(study.name, "Transfer with similarity", links, [_row_label(r) for r in links]),
        ]),
    ]  # fmt: skip
    return {
        "name": study.name, "title": title, "question": question, "answers": answers, "verdict": _verdict(answers),
        "disagreement": _disagreement(said), "missing": _missing(study, own, failures),
        "blocks": [{"kind": kind, "title": about, "panels": [p for p in drawn if p]} for kind, about, drawn in blocks],
        "legend": _legend(study), "scale": [f"{end:.1f}" for end in scale],
        "heat": [f"var(--heat-{k})" for k in range(figures.HEAT)],
        "accuracy": _accuracy(study), "flagged": _flagged(study, records),
        "counts": {"pairs": len(study.pairs), "ceiling": len(study.ceiling), "floor": len(study.floor)},
        "sheets": [_sheet(name, data, records) for name, data in artifacts.items() if _owner(name, study.name)],
        "marker": [("●◆▲▼✚✖"[k % 6], f"α = {v:g}") for k, v in enumerate(study.levels(study.along)) if study.factorial],
    }  # fmt: skip


def _verdict(answers: Sequence[tuple[str, str, Record]]) -> dict[str, str]:
    """The few words and the number that a reader takes away: the first answer of the section."""
    if not answers:
        return no_verdict()
    attack = next((said for _, said, r in answers if r["outcome"] == "transfer_auc" and ":" not in r["factor"]), "")
    return verdict(*answers[0], attack=attack)


def _disagreement(said: Sequence[tuple[Record, str, str]]) -> str:
    for factor in WHAT:
        sure = [
            (LABELS.get(str(r["outcome"]), str(r["outcome"])), float(r["estimate"]))
            for r, grade, _ in said
            if r["factor"] == factor and grade in ("clear", "likely") and r["outcome"] != "transfer_auc"
        ]
        up, down = [name for name, value in sure if value > 0], [name for name, value in sure if value < 0]
        if up and down:
            rising = f"{' and '.join(up)} {'rise' if len(up) > 1 else 'rises'}"
            falling = f"{' and '.join(down)} {'fall' if len(down) > 1 else 'falls'}"
            return f"The measures disagree: with more {WHAT[factor]}, {rising} while {falling}."
    return ""


def _missing(study: Study, effects: Sequence[Record], failures: Sequence[Record]) -> list[str]:
    own = [f for f in failures if f.get("study") == study.name]
    said = (
        [
            "One of this study's cells has failed or was skipped: see Failed cells."
            if len(own) == 1
            else f"{len(own)} of this study's cells have failed or were skipped: see Failed cells."
        ]
        if own
        else []
    )
    said += (
        [
            "One pair has a training that failed to learn and is in no figure."
            if len(study.unlearned) == 1
            else f"{len(study.unlearned)} pairs have a training that failed to learn and are in no figure."
        ]
        if study.unlearned
        else []
    )
    if not study.pairs:
        why = (
            "every finished pair has such a training"
            if study.unlearned
            else "no pair of trained models is finished yet"
        )
        return [*said, f"There is nothing to draw: {why}."]
    said += [
        f"No {name} pairs were measured."
        for name, found in (("ceiling", study.ceiling), ("floor", study.floor))
        if not found
    ]
    said += [] if values_of(study.pairs, "transfer_auc") else ["No transfer score could be computed."]
    said += [] if effects else ["No effects were estimated yet: they are written when the whole sweep ends."]
    return said


def _legend(study: Study) -> list[tuple[str, str, str]]:
    name = "shared: " if study.hue == "shared" else "α = "
    items = [
        ("dot", figures.css(figures.level_color(study, level)), f"{name}{level:g}") for level in study.levels(study.hue)
    ]
    few = ", for the fewest labels" if study.name == "task_overlap" else ""
    items += [("band", "var(--ceiling)", "ceiling: same images and task, other seed" + few)] if study.ceiling else []
    items += [("band", "var(--floor)", "floor: untrained, not a lower limit")] if study.floor else []
    return items


def _accuracy(study: Study) -> list[dict[str, Any]]:
    groups: list[tuple[str, Sequence[Record]]] = []
    for level, line, chosen in study.groups():
        label = f"{FACTORS.get(str(study.along))} {level:g}"
        groups.append((label + (f", {FACTORS.get(str(study.hue))} {line:g}" if line is not None else ""), chosen))
    groups += [("ceiling", study.ceiling), ("failed to learn (in no figure)", study.unlearned)]
    rows = []
    for label, records in groups:
        sides = [
            [float(v) for r in records for v in (r["result"].get(f"accuracy_{side}") or []) if finite(v) is not None]
            for side in ("first", "second")
        ]
        real = [v for r in records if (v := finite(r["result"].get("realised_overlap"))) is not None]
        if records:
            means = [f"{statistics.mean(v).value:.3f} (lowest {min(v):.3f})" if v else "–" for v in sides]
            ends = list(dict.fromkeys(f"{end(real):.3f}" for end in (min, max))) if real else ["–"]
            rows.append({"label": label, "pairs": len(records), "sides": means, "realised": " to ".join(ends)})
    return rows


def _flagged(study: Study, records: Sequence[Record]) -> list[str]:
    used = {r["params"].get(side) for r in study.unlearned for side in ("first", "second")}
    said = []
    for record in records:
        result = record.get("result") or {}
        if record.get("kind") == "model" and result.get("learned") is False and record.get("key") in used:
            said.append(f"Model {record['key']}: {result.get('reason') or 'failed to learn'}")
    return said or [
        f"Pair {r.get('key')}, {side} model: failed to learn"
        for r in study.unlearned
        for side in ("first", "second")
        if r["result"].get(f"learned_{side}") is False
    ]


def _row_label(row: Record) -> str:
    factor, _, measure = str(row["factor"]).partition(":")
    among = {"correlation": ", all pairs", "within": ", same overlap", "within_fork": ", same fork"}
    if factor in among:
        # Where one study has several ways to count a transfer, the label says which.
        counted_by = (
            "" if row["outcome"] == "transfer_auc" else f"{LABELS.get(str(row['outcome']), row['outcome'])} with "
        )
        return f"{counted_by}{LABELS.get(measure, measure)}{among[factor]}"
    name = " × ".join(crossed(str(row["study"]))) if factor == "interaction" else WHAT.get(factor, factor)
    via = f" via {LABELS.get(measure, measure)}" if measure else ""
    return (
        f"{LABELS.get(str(row['outcome']), str(row['outcome']))}{',' if factor == 'interaction' else ' on'} {name}{via}"
    )


def _effect_row(row: Record) -> dict[str, str]:
    grade, _ = sentence(row)
    title = (TITLES | language_figures.TITLES | jailbreak_figures.TITLES).get(
        str(row["study"]), (str(row["study"]), "")
    )[0]
    low, high = finite(row.get("low")), finite(row.get("high"))
    return {
        "study": title,
        "label": _row_label(row),
        "estimate": number(finite(row.get("estimate"))),
        "interval": f"{number(low)} to {number(high)}" if low is not None and high is not None else "–",
        "p": p_text(finite(row.get("p")), bare=True),
        "holm": p_text(finite(row.get("p_holm")), bare=True),
        "n": f"{row.get('n_seeds', '–')} / {row.get('n_pairs', '–')}",
        "grade": grade,
        "unit": str(row.get("unit") or ""),
        "method": str(row.get("method") or ""),
    }


def _failure(failure: Record) -> dict[str, Any]:
    lines = str(failure.get("traceback") or "").strip().splitlines()
    params = ", ".join(
        f"{k} = {v}" for k, v in (failure.get("params") or {}).items() if not isinstance(v, (dict, list))
    )
    what = " ".join(str(failure[name]) for name in ("study", "kind") if failure.get(name))
    return {
        "key": str(failure.get("key")),
        "what": what,
        "params": params,
        "skipped": bool(failure.get("skipped")),
        "reason": str(failure.get("reason") or (lines[-1] if lines else "no reason was kept")),
    }


def _facts(manifest: Mapping[str, Any], records: Sequence[Record]) -> list[str]:
    machine = manifest.get("environment") or {}
    kinds = [r.get("kind") for r in records]
    facts = [
        counted(kinds.count("model"), "model"),
        counted(kinds.count("pair"), "pair"),
        f"preset {manifest['preset']}" if manifest.get("preset") else "",
        str(machine.get("device") or ""),
        str(manifest.get("created") or "")[:10],
    ]
    return [fact for fact in facts if fact and not fact.startswith("0 ")]


def _flat(value: Any, name: str = "") -> list[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        return [row for key, item in value.items() for row in _flat(item, f"{name} · {key}" if name else str(key))]
    text = (
        ", ".join(str(v) for v in value) if isinstance(value, (list, tuple)) else "–" if value is None else str(value)
    )
    return [(name, text)]


def _owner(picture: str, study: str) -> bool:
    # the longest study name that the picture's name starts with owns it
    return picture.startswith(study) and not any(len(o) > len(study) and picture.startswith(o) for o in TITLES)


def _sheet(name: str, data: bytes, records: Sequence[Record]) -> dict[str, Any]:
    found = [
        r["result"] for r in records if r.get("kind") == "sheet" and (r.get("result") or {}).get("artifact") == name
    ]
    caption = str(found[0].get("caption") or "") if found else ""
    width, height = (
        struct.unpack(">II", data[16:24]) if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) >= 24 else (0, 0)
    )
    return {
        "name": name,
        "caption": caption or name.rsplit(".", 1)[0].replace("_", " "),
        "width": width,
        "height": height,
        "data": base64.b64encode(data).decode() if width else "",
    }
