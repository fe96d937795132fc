"""The section of the page about suffixes: refusal bypass in a synthetic grammar, by the history of two models."""

# ruff: noqa: RUF001 (a page for readers has real dashes, minus signs and crosses)
from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from repsim import figures, statistics
from repsim.findings import LABELS, Record, Study, counted, finite, no_verdict, number, sentence, study_of, verdict

STUDY = "jailbreak_transfer"
TITLES = {
    STUDY: (
        "Refusal bypass in a synthetic grammar",
        "Does a suffix that bypasses one model’s refusal bypass another’s?",
    )
}
WHITE_BOX, EXACT, BYPASS, CONDITIONAL = "white_box_exact", "transfer_exact", "transfer_bypass", "conditional_exact"
LIMITS = (
    "Models of some hundred thousand weights, a language of 218 words, a refusal learned from examples: what is shown "
    "here is refusal bypass in a synthetic grammar. It says nothing about the safety of large language models."
)
JUDGES = {"exact": "exact answer", "no_refusal": "no refusal", "likelier": "answer likelier than refusal"}
_LINES = (  # field of a direction's counts, what it counts of, name, colour, dashed
    ("source_exact", "joint_n", "on the model itself", figures.MUTED, False),
    ("victim_exact", "joint_n", "on the other, exact answer", figures.ACCENT, False),
    ("victim_no_refusal", "joint_n", "on the other, no refusal", figures.CEILING, False),
    ("control_no_refusal", "control_n", "random words, no refusal", figures.FLOOR, True),
)

_BLOCKS = {  # title and caption of every group of figures
    "transfer": (
        "How far a suffix carries",
        "Suffixes searched by GCG on one model of a pair and tried on both, for requests that both refuse; means over "
        "seeds, shaded: 95 % intervals. Exact: the right answer to the forbidden request, word for word. No refusal "
        "also counts answers to something else. The horizontal axis is the share of pre-training that the two have in "
        "common: 0 is two independent models, 1 is one base, fine-tuned twice.",
    ),
    "similarity": (
        "How alike the models are",
        "Last layers at the token from which an answer begins, on all 480 plain requests; colour is the overlap of the "
        "fine-tuning examples. Small dots are single pairs, large ones means with 95 % intervals over seeds; the "
        "dotted line is the null.",
    ),
    "scatter": (
        "Do alike models fall together?",
        "One mark for each pair: the share of exact answers that the other’s suffixes bring, less that of random "
        "words.",
    ),
    "heatmap": (
        "Layer by layer, CKA",
        "Every layer of the first model (upwards) against every layer of the second, the mean over seeds and "
        "overlaps; “0.5 shared” is a fork at half of pre-training.",
    ),
    "forest": (
        "Every effect with its interval",
        "Point and 95 % interval; filled where the interval excludes 0. Slopes run from none to all shared.",
    ),
}


def section(
    name: str, effects: Sequence[Record], records: Sequence[Record], failures: Sequence[Record]
) -> dict[str, Any]:
    """What the page's template needs of the study.

    Example: `section("jailbreak_transfer", effects, run.records(), run.failures())["verdict"]["word"]`.

    Parameters: name of the study; effects, rows of effects.json with `p_holm`, of all studies; records; failures.
    Returns: a mapping; everything may be missing, and the section says so.
    """
    study = study_of(name, [_with_score(record) for record in records])
    own = [row for row in effects if row["study"] == name]
    answers = _answers(own)
    title, question = TITLES[STUDY]
    return {
        "jailbreak": True, "name": name, "title": title, "question": question, "limits": LIMITS,
        "answers": answers, "verdict": _verdict(answers), "missing": _missing(study, own, failures),
        "blocks": _blocks(study, own), "rates": [_rates_row(study, *levels) for levels in _levels(study)],
        "judges": _judges(study), "methods": _methods(name, records), "transcripts": _transcripts(study),
        "accuracy": _accuracy(study), "flagged": _flagged(study, records),
        "counts": {"pairs": len(study.pairs)}, "heat": [f"var(--heat-{step})" for step in range(figures.HEAT)],
    }  # fmt: skip


def _with_score(record: Record) -> Record:
    """A pair's record in which the score that figures draw as its transfer is that of exact answers."""
    result = record.get("result") or {}
    return {**record, "result": {**result, "transfer_auc": result.get(EXACT)}} if EXACT in result else record


def rate(records: Sequence[Record], field: str, among: str) -> statistics.Estimate | None:
    """A share of counts over the directions that were tried, as the mean over seeds.

    Example: `rate(study.at(fork=0.5), "victim_exact", "joint_n").value`.

    Parameters: records of pairs; field, of a direction's counts; among, the field that it counts of.
    Returns: an Estimate over seeds, None where nothing counts.
    """
    sums: dict[Any, list[int]] = {}
    for record in records:
        for counts in (record["result"].get("suffixes") or {}).values():
            both = sums.setdefault(record["params"].get("seed"), [0, 0])
            both[0] += counts[field]
            both[1] += counts[among]
    shares = [top / bottom for top, bottom in sums.values() if bottom]
    return statistics.mean(shares) if shares else None


def _levels(study: Study) -> list[tuple[float, float]]:
    return sorted({(r["params"]["fork"], r["params"]["overlap"]) for r in study.pairs})


def _answers(effects: Sequence[Record]) -> list[tuple[str, str, Record]]:
    asked = [("fork", EXACT), ("overlap", EXACT), ("fork", BYPASS), ("fork", WHITE_BOX), ("fork", "cka"),
             ("correlation:cka", EXACT), ("within:cka", EXACT), ("within_fork:cka", EXACT)]  # fmt: skip
    found = [
        (*sentence(row), row) for factor, outcome in asked for row in effects
        if (row["factor"], row["outcome"]) == (factor, outcome) and finite(row.get("estimate")) is not None
    ]  # fmt: skip
    # The sentence knows of one factor to hold; here two are.
    both = "Among pairs of the same fork depth and overlap"
    return [(grade, text.replace("Among pairs of the same overlap", both), row) for grade, text, row in found]


def _verdict(answers: Sequence[tuple[str, str, Record]]) -> dict[str, str]:
    lead = next((answer for answer in answers if (answer[2]["factor"], answer[2]["outcome"]) == ("fork", EXACT)), None)
    return verdict(*lead, how=", with shared history", attack=LIMITS) if lead else no_verdict(attack=LIMITS)


def _missing(study: Study, effects: Sequence[Record], failures: Sequence[Record]) -> list[str]:
    lost = sum(failure.get("study") == study.name for failure in failures)
    said = (
        [f"{counted(lost, 'cell')} of this study failed or {'was' if lost == 1 else 'were'} skipped."] if lost else []
    )
    if study.unlearned:
        said.append(
            f"{counted(len(study.unlearned), 'pair')} with a model that answers or refuses less than 98 % rightly: in "
            "no figure and no effect."
        )
    if not study.pairs:
        return [*said, "There is nothing to draw: no pair of models that both learned is finished."]
    return said if effects else [*said, "No effects were estimated yet: they are written when the whole sweep ends."]


def _blocks(study: Study, effects: Sequence[Record]) -> list[dict[str, Any]]:
    if not study.pairs:
        return []
    overlaps = sorted({r["params"]["overlap"] for r in study.pairs})
    by_fork = replace(study, along="fork", hue="fork")
    scattered = replace(study, along="overlap", hue="fork") if len(overlaps) > 1 else by_fork
    colors = [
        ("dot", figures.css(figures.level_color(by_fork, level)), f"fork at {level:g}")
        for level in by_fork.levels("fork")
    ]
    marks = [("mark", "●◆▲▼✚✖"[k % 6], f"overlap {level:g}") for k, level in enumerate(overlaps) if len(overlaps) > 1]
    hues = [
        ("dot", figures.css(figures.level_color(study, level)), f"overlap {level:g}")
        for level in (study.levels("overlap") if study.hue == "overlap" else [])
    ]
    maps, scale = figures.heatmaps(by_fork, "cka")
    slopes = [row for row in effects if ":" not in str(row["factor"])]
    links = [row for row in effects if ":" in str(row["factor"]) and row["outcome"] == EXACT]
    lines = [("line" if dashed else "dot", figures.css(color), label) for _, _, label, color, dashed in _LINES]
    made: list[tuple[str, list[Any], Sequence[Any], Sequence[str]]] = [
        ("transfer", [_curves(study, level) for level in overlaps], lines, ()),
        ("similarity", [figures.similarity(study, measure) for measure in study.measures], hues, ()),
        ("scatter", [figures.scatter(scattered, measure) for measure in study.measures], [*colors, *marks], ()),
        ("heatmap", list(maps), (), [f"{end:.1f}" for end in scale]),
        ("forest", [
            figures.forest(study.name, "Slopes", slopes, [_label(row) for row in slopes]),
            figures.forest(study.name, "Exact transfer with similarity", links, [_label(row) for row in links]),
        ], (), ()),
    ]  # fmt: skip
    return [
        {"kind": kind, "title": _BLOCKS[kind][0], "caption": _BLOCKS[kind][1], "panels": [p for p in panels if p],
         "legend": legend, "scale": scale}
        for kind, panels, legend, scale in made if any(panels)
    ]  # fmt: skip


def _label(row: Record) -> str:
    factor, _, measure = str(row["factor"]).partition(":")
    among = {"within": ", same fork and overlap", "within_fork": ", same fork", "correlation": ", all pairs"}
    if measure:
        return f"{LABELS.get(measure, measure)}{among.get(factor, '')}"
    names = {"fork": "on shared pre-training", "overlap": "on shared examples", "interaction": "both together"}
    return f"{LABELS.get(str(row['outcome']), str(row['outcome']))}, {names.get(factor, factor)}"


def _curves(study: Study, overlap: float) -> figures.Panel | None:
    """The rates of one overlap against the depth of the fork."""
    chosen = study.at(overlap=overlap)
    forks = sorted({r["params"]["fork"] for r in chosen})
    figure, axes = figures.canvas(2.6)
    figure.subplots_adjust(left=0.13, right=0.97, bottom=0.16, top=0.96)
    said = []
    for field, among, label, color, dashed in _LINES:
        found = [(fork, rate(study.at(overlap=overlap, fork=fork), field, among)) for fork in forks]
        points = [(fork, estimate) for fork, estimate in found if estimate is not None]
        if not points:
            continue
        across, middle = [fork for fork, _ in points], [estimate.value for _, estimate in points]
        if all(math.isfinite(estimate.low) for _, estimate in points):
            axes.fill_between(across, [max(0.0, e.low) for _, e in points], [min(1.0, e.high) for _, e in points],
                              color=color, alpha=0.13, lw=0)  # fmt: skip
        axes.plot(across, middle, "--" if dashed else "-o", color=color, lw=1.6, ms=3.6)
        said.append(f"{label}: " + ", ".join(f"{number(e.value)} at {fork:g}" for fork, e in points))
    axes.set_ylim(-0.02, 1.02)
    axes.set_xticks(forks, [f"{fork:g}" for fork in forks])
    axes.set_xlabel("share of pre-training in common")
    axes.set_ylabel("share of requests")
    title = f"{overlap:g} of the fine-tuning examples shared"
    return figures.panel(figure, title, "; ".join(said) + ".", f"{study.name}-rates-{overlap}") if said else None


def _rates_row(study: Study, fork: float, overlap: float) -> dict[str, Any]:
    chosen = study.at(fork=fork, overlap=overlap)

    def shown(field: str, among: str) -> str:
        top, bottom = (
            sum(c[name] for r in chosen for c in r["result"]["suffixes"].values()) for name in (field, among)
        )
        return f"{number(top / bottom, 2)} ({top} of {bottom})" if bottom else "–"

    return {
        "label": f"fork at {fork:g}, overlap {overlap:g}", "pairs": len(chosen),
        "cells": [shown("source_exact", "joint_n"), shown("victim_exact", "joint_n"),
                  shown("conditional_exact", "conditional_n"), shown("victim_no_refusal", "joint_n"),
                  shown("control_exact", "control_n"), shown("control_no_refusal", "control_n")],
    }  # fmt: skip


def _judges(study: Study) -> list[dict[str, Any]]:
    """For every two judges, how often they agree about the other model's answers."""
    totals: dict[str, Counter[str]] = {}
    for record in study.pairs:
        for counts in record["result"]["suffixes"].values():
            for names, table in counts["judges_victim"].items():
                totals.setdefault(names, Counter()).update(table)
    rows = []
    for names, table in totals.items():
        first, second = (JUDGES.get(name, name) for name in names.split(" / "))
        cells = [table["both"], table["first only"], table["second only"], table["neither"]]
        rows.append({"label": f"{first} / {second}", "cells": cells})
    return rows


def _methods(name: str, records: Sequence[Record]) -> list[dict[str, Any]]:
    """Every kind of attack on the first models that learned: mean shares over seeds."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    unlearned = {record.get("key") for record in records if (record.get("result") or {}).get("learned") is False}
    for record in records:
        of_kind = record.get("kind") == "methods" and record.get("study") == name
        if of_kind and record["params"]["model"] not in unlearned:
            for method, row in record["result"]["methods"].items():
                found.setdefault(method, []).append({**row, "requests": record["result"]["requests"]})
    return [
        {
            "label": method,
            "cells": [
                number(statistics.mean([row["exact"] for row in rows]).value, 2),
                number(statistics.mean([row["no_refusal"] for row in rows]).value, 2),
                f"{sum(row['disagree'] for row in rows)} of {sum(row['requests'] for row in rows)}",
            ],
        }
        for method, rows in found.items()
    ]


def _transcripts(study: Study) -> list[dict[str, Any]]:
    """The first request of the first seed, one pair for each fork at the largest overlap."""
    if not study.pairs:
        return []
    seed, overlap = min(r["params"]["seed"] for r in study.pairs), max(r["params"]["overlap"] for r in study.pairs)
    chosen = sorted(study.at(seed=seed, overlap=overlap), key=lambda r: r["params"]["fork"])
    return [
        {"label": f"fork at {r['params']['fork']:g}", **r["result"]["transcripts"][0]}
        for r in chosen if r["result"].get("transcripts")
    ]  # fmt: skip


def _accuracy(study: Study) -> str:
    found: dict[str, list[float]] = {"answered": [], "refused": []}
    for record in study.pairs:
        for side in ("first", "second"):
            for kind, values in found.items():
                values.append(record["result"][f"accuracy_{side}"][kind])
    if not found["answered"]:
        return ""
    ends = {kind: f"{number(min(values))} to {number(max(values))}" for kind, values in found.items()}
    return (
        f"Without a suffix the models of these pairs answer {ends['answered']} of the 360 allowed requests word for "
        f"word, and refuse {ends['refused']} of the 120 others."
    )


def _flagged(study: Study, records: Sequence[Record]) -> list[str]:
    return [
        f"Model {record['key']}: {record['result'].get('reason') or 'failed to learn'}" for record in records
        if record.get("study") == study.name and (record.get("result") or {}).get("learned") is False
    ]  # fmt: skip
