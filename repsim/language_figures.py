"""The language sections of the page: similarity in every view, what is saturated, and the ladder of fine-tuning.

They are made of the same records, figures and sentences as the others. A view is a pooling of tokens and a probe; the
first one, the mean over the tokens of texts like those trained on, is a record's own similarity.
"""

# ruff: noqa: RUF001 (a page for readers has real dashes, minus signs and crosses)
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from repsim import figures, statistics
from repsim.findings import (
    FACTORS,
    LABELS,
    SOURCE_ALONE,
    Record,
    Study,
    finite,
    no_verdict,
    number,
    sentence,
    study_of,
    values_of,
    verdict,
)

TITLES = {
    "gpt_data_overlap": ("Shared text", "Do two language models see more alike when they share more of their text?"),
    "gpt_corpus_overlap": ("Shared corpora", "Do they see more alike when they share more of their sources?"),
    "gpt_data_corpus_factorial": ("Text and source together", "Is it the very text that counts, or where it is from?"),
    "llm_finetune_overlap": ("Fine-tuned models", "Do fine-tunings of one base grow alike by the text they share?"),
    "finetune_ladder": (
        "From LoRA to scratch",
        "Does the effect of shared text grow from LoRA to scratch?",
    ),
}
LADDER = "finetune_ladder"
AGREEMENT, MISTAKES = "prediction_agreement", "same_mistake"
VIEWS = {
    "mean/in": "token means",
    "mean_rest/in": "token means without the first",
    "last/in": "last tokens",
    "word/in": "words",
    "change/in": "changes from the start",
    "mean/out": "token means, other text",
    "mean_rest/out": "token means without the first, other text",
    "last/out": "last tokens, other text",
    "word/out": "words, other text",
    "change/out": "changes from the start, other text",
}
MAIN, CHANGED = "mean/in", "change/in"
BY_RUNG, PRETRAINING, SHARED_START = (f"data overlap × {what}" for what in ("rung", "pre-training", "one start"))
CHANGES = {
    BY_RUNG: "a rung from the smallest adapters towards full fine-tuning",
    PRETRAINING: "a pre-trained start in the place of an untrained one",
    SHARED_START: "one untrained start for both models in the place of two",
}
_ONE_BASE = "Fine-tuned models of all seeds start from one base: intervals are over fine-tunings of it, not over bases."
ASKED = (*CHANGES, "alpha", SOURCE_ALONE, "corpora", "interaction")  # factors by their weight for a reader
SURE = ("clear", "likely")


def outcome_name(measure: str, view: str) -> str:
    """What a measure in a view is called in effects and on the page.

    Example: `outcome_name("cka", "last/in")` is "CKA of last tokens". Parameters: measure; view, of VIEWS.
    Returns: text; for the main view the measure's own name.
    """
    return measure if view == MAIN else f"{LABELS.get(measure, measure)} of {VIEWS.get(view, view)}"


def rung_name(rung: str) -> str:
    """What a rung of the ladder is called.

    Example: `rung_name("lora8")` is "LoRA rank 8". Parameters: rung, as the study's Config names it. Returns: text.
    """
    named = {"full": "full fine-tuning", "scratch_one_start": "scratch, one start", "scratch": "scratch"}
    return named.get(rung, f"LoRA rank {rung.removeprefix('lora')}")


def is_language(name: str, records: Sequence[Record]) -> bool:
    """Whether a study's section is one of this module: one of TITLES, or one whose pairs were compared in views.

    Example: `is_language("gpt_data_overlap", [])`. Parameters: name of the study; records. Returns: True or False.
    """
    return name in TITLES or any(
        record.get("study") == name and "views" in (record.get("result") or {}) for record in records
    )


def seen_in(records: Sequence[Record], view: str) -> list[Record]:
    """The records with the similarity of another view in the place of their own; without it, they are left out.

    Example: `study_of("llm_finetune_overlap", seen_in(records, "change/in"))`.

    Parameters: records; view, of VIEWS. Returns: copies; others than pairs are left out.
    """
    if view == MAIN:
        return [record for record in records if record.get("kind") == "pair"]
    chosen = [(record, ((record.get("result") or {}).get("views") or {}).get(view)) for record in records]
    return [{**record, "result": {**record["result"], **found}} for record, found in chosen if found]


def section(
    name: str, effects: Sequence[Record], records: Sequence[Record], failures: Sequence[Record]
) -> dict[str, Any]:
    """What the page's template needs of one study.

    Example: `section("gpt_data_overlap", effects, run.records(), run.failures())["verdict"]["word"]`.

    Parameters: name of the study; effects, rows of effects.json with `p_holm`, of all studies; records; failures.
    Returns: a mapping; everything may be missing, and the section says so.
    """
    study, own = study_of(name, records), [row for row in effects if row["study"] == name]
    title, question = TITLES.get(name, (name.replace("_", " ").capitalize(), ""))
    answers = _answers(study, own)
    return {
        "language": True, "name": name, "title": title, "question": question, "answers": answers,
        "verdict": _verdict(answers), "saturated": _saturated(own), "missing": _missing(study, own, failures),
        "blocks": _ladder_blocks(study, own, records) if name == LADDER else _blocks(study, own, records),
        "views": _views(study, own, records) if name != LADDER else [],
        "levels": [f"{FACTORS.get(str(study.along), '')} {level:.2g}" for level in _ends(study)],
        "trainings": _trainings(study), "flagged": _flagged(study, records), "probes": _probes(name, records),
        "counts": {"pairs": len(study.pairs), "ceiling": len(study.ceiling), "floor": len(study.floor)},
        "heat": [f"var(--heat-{step})" for step in range(figures.HEAT)],
    }  # fmt: skip


def _answers(study: Study, effects: Sequence[Record]) -> list[tuple[str, str, Record]]:
    """Grade, sentence and effect of what the study asks first; of a saturated measure, what it cannot say."""
    outcomes = ["cka", outcome_name("cka", CHANGED), "mutual_knn", outcome_name("mutual_knn", CHANGED), AGREEMENT]
    found = []
    for row in effects:
        if row["factor"] in ASKED and row["outcome"] in outcomes:
            grade, text = sentence(row)
            label = LABELS.get(str(row["outcome"]), str(row["outcome"]))
            if row.get("saturated"):
                grade, text = "unknown", f"{label} is saturated: {_no_room(study, str(row['outcome']))}"
            elif row["factor"] in CHANGES and finite(row["estimate"]) is not None:
                low, high = number(finite(row.get("low"))), number(finite(row.get("high")))
                interval = "no interval" if finite(row.get("low")) is None else f"95\u00a0% interval {low} to {high}"
                text = (
                    f"{label}: {CHANGES[row['factor']]} changes the slope on data overlap by "
                    f"{number(finite(row['estimate']))} ({interval})."
                )
            found.append((grade, text, row))
    found.sort(key=lambda item: (
        item[0] == "unknown", ASKED.index(item[2]["factor"]), outcomes.index(item[2]["outcome"])
    ))  # fmt: skip
    return found


def _no_room(study: Study, outcome: str) -> str:
    """How high a saturated measure stands, and what follows."""
    values = values_of(study.pairs, outcome) if outcome in study.measures else []
    range_ = f"{number(min(values))} to {number(max(values))} over all pairs; " if values else ""
    return f"{range_}it has no room left to tell overlaps apart, and its slope is no finding."


def _verdict(answers: Sequence[tuple[str, str, Record]]) -> dict[str, str]:
    if not answers:
        return no_verdict()
    if all(grade == "unknown" for grade, *_ in answers):
        return no_verdict("Too little data", answers[0][1])
    first = {str(row["factor"]): (grade, text, row) for grade, text, row in reversed(answers)}
    if {"alpha", SOURCE_ALONE} <= first.keys():
        return _text_or_source(first["alpha"], first[SOURCE_ALONE])
    return verdict(*answers[0], attack=next((said for _, said, row in answers if row.get("saturated")), ""))


def _text_or_source(text: tuple[str, str, Record], source: tuple[str, str, Record]) -> dict[str, str]:
    """Which of two crossed factors counts: the number of one that does, else of the surer, and a sentence on each."""
    ranks = (*SURE, "unclear", "unknown")
    counts = [grade in SURE and (finite(row["estimate"]) or 0) > 0 for grade, _, row in (text, source)]
    words = {(True, True): "Both", (True, False): "The very text", (False, True): "Where it is from"}
    # What counts comes first, then what is surer.
    pairs = sorted(zip((text, source), counts, strict=True), key=lambda pair: (not pair[1], ranks.index(pair[0][0])))
    (first, _), (other, _) = pairs
    found = verdict(*first, attack=other[1])
    return {**found, "word": words.get((counts[0], counts[1]), found["word"])}


def _saturated(effects: Sequence[Record]) -> list[str]:
    """Names of what is saturated in every pair, each once, with its rung where there are rungs."""
    names = [
        LABELS.get(str(row["outcome"]), str(row["outcome"]))
        + (f" ({rung_name(row['rung'])})" if row.get("rung") else "")
        for row in effects
        if row.get("saturated")
    ]
    return list(dict.fromkeys(names))


def _missing(study: Study, effects: Sequence[Record], failures: Sequence[Record]) -> list[str]:
    lost = sum(failure.get("study") == study.name for failure in failures)
    said = [f"{lost} of this study's cells failed or were skipped: see Failed cells."] if lost else []
    if study.unlearned:
        said.append(f"{len(study.unlearned)} of the pairs have a training that did not learn and are in no figure.")
    if not study.pairs:
        return [*said, "There is nothing to draw: no pair of models that learned is finished."]
    return said + ([] if effects else ["No effects were estimated yet: they are written when the whole sweep ends."])


def _blocks(study: Study, effects: Sequence[Record], records: Sequence[Record]) -> list[dict[str, Any]]:
    own = [record for record in records if record.get("study") == study.name]
    blocks = [
        _block(
            "similarity", "How alike they become",
            "Similarity of the last layers, token means of fixed texts like those trained on. Small dots are single "
            "pairs, thin lines join the pairs of one seed, large dots are means with 95 % intervals over seeds. Bands "
            "run from the lowest to the highest seed. The dotted line is the null: the same rows, wrongly matched.",
            [figures.similarity(study, measure) for measure in study.measures], legend=_legend(study),
        ),
        _block(
            "similarity", "Do they say the same?",
            "Share of the places in held-out text where both models predict the same token; and of those where both "
            "are wrong.",
            [figures.similarity(_of_outputs(study), name) for name in (AGREEMENT, MISTAKES)], legend=_legend(study),
        ),
    ]  # fmt: skip
    changed = _changed(study.name, own)
    if changed.pairs:
        blocks.append(_block(
            "similarity", "What fine-tuning changed",
            "The same, of fine-tuned minus base activations: two models that have hardly moved are alike because of "
            "their base, and only what was added can tell what sharing did. " + _ONE_BASE,
            [figures.similarity(changed, measure) for measure in changed.measures], legend=_legend(changed),
        ))  # fmt: skip
    blocks.append(_forests(study, effects))
    for seen, about in ((study, "token means"), (changed, "what fine-tuning changed")):
        for measure in ("cka", "mutual_knn") if seen is study else ("cka",):
            blocks.append(_heat_block(seen, measure, about))
    return [block for block in blocks if block["panels"]]


def _block(kind: str, title: str, caption: str, panels: Sequence[Any], **more: Any) -> dict[str, Any]:
    drawn = [panel for panel in panels if panel]
    return {"kind": kind, "title": title, "caption": caption, "panels": drawn, "legend": [], "scale": [], **more}


def _heat_block(study: Study, measure: str, about: str) -> dict[str, Any]:
    if not study.pairs:
        return _block("heatmap", "", "", [])
    floor = "its start (to the right)" if _from_a_start(study) else "untrained (floor)"
    panels, ends = figures.heatmaps(replace(study, name=f"{study.name} {measure}"), measure, floor=floor)
    return _block(
        "heatmap",
        f"Layer by layer, {LABELS.get(measure, measure)} of {about}",
        "Every layer of the first model (upwards) against every layer of the second (to the right), the mean over "
        "seeds. hidden.0 is the embeddings.",
        panels,
        scale=[f"{end:.1f}" for end in ends],
    )


def _changed(name: str, records: Sequence[Record]) -> Study:
    return replace(study_of(name, seen_in(records, CHANGED)), name=f"{name} change", floor=())


def _of_outputs(study: Study) -> Study:
    """The study with the agreement of predictions in the place of measures."""

    def turned(record: Record) -> Record:
        values = {name: record["result"].get(name) for name in (AGREEMENT, MISTAKES)}
        similarity = {name: {"last": value} for name, value in values.items()}
        return {**record, "result": {**record["result"], "similarity": similarity}}

    pairs, ceiling, floor = (tuple(map(turned, records)) for records in (study.pairs, study.ceiling, study.floor))
    name = f"{study.name} outputs"
    return replace(study, name=name, pairs=pairs, ceiling=ceiling, floor=floor, measures=(AGREEMENT, MISTAKES))


def _forests(study: Study, effects: Sequence[Record]) -> dict[str, Any]:
    panels = []
    for measure in ("cka", "mutual_knn"):
        for factor in (study.along, study.hue) if study.factorial else (study.along,):
            rows = [
                (view, row)
                for view in VIEWS
                for row in effects
                if row["factor"] == factor and row["outcome"] == outcome_name(measure, view)
            ]
            labels = [VIEWS[view] + (" (saturated)" if row.get("saturated") else "") for view, row in rows]
            title = f"{LABELS[measure]} on {FACTORS.get(str(factor), factor)}"
            panels.append(figures.forest(study.name, title, [row for _, row in rows], labels))
    return _block(
        "forest", "In every view",
        "Slope from no to all text shared, with its 95 % interval; filled where the interval excludes 0. A view is a "
        "way to pool tokens, on texts like those trained on or on others.", panels,
    )  # fmt: skip


def _ends(study: Study) -> list[float]:
    levels = study.levels(study.along)
    return [levels[0], levels[-1]] if len(levels) > 1 else levels


def _views(study: Study, effects: Sequence[Record], records: Sequence[Record]) -> list[dict[str, Any]]:
    """For every view: the means at the ends of the overlap, and whether the measure is saturated."""
    own, rows = [record for record in records if record.get("study") == study.name], []
    for view in VIEWS:
        seen = study_of(study.name, seen_in(own, view))
        for measure in ("cka", "mutual_knn"):
            if not values_of(seen.pairs, measure):
                continue
            full = any(row.get("saturated") for row in effects if row["outcome"] == outcome_name(measure, view))
            means = [_mean(seen.at(**{str(study.along): level}), measure) for level in _ends(study)]
            ceiling, floor = _mean(seen.ceiling, measure), _mean(seen.floor, measure)
            rows.append({"view": VIEWS[view], "measure": LABELS[measure], "means": means, "ceiling": ceiling,
                         "floor": floor, "saturated": full})  # fmt: skip
    return rows


def _mean(records: Sequence[Record], measure: str) -> str:
    values = values_of(records, measure)
    return number(statistics.mean(values).value) if values else "–"


def _trainings(study: Study) -> list[dict[str, str]]:
    """Pairs, the overlap that they have in truth, and how their trainings ended."""
    groups: list[tuple[str, Sequence[Record]]] = []
    if _rungs(study):
        groups = [(rung_name(rung), [r for r in study.pairs if r["params"]["rung"] == rung]) for rung in _rungs(study)]
    else:
        for level, line, chosen in study.groups():
            label = f"{FACTORS.get(str(study.along))} {level:.3g}"
            groups.append((label + (f", {FACTORS.get(str(study.hue))} {line:.3g}" if line is not None else ""), chosen))
    groups += [("ceiling", study.ceiling), ("did not learn (in no figure)", study.unlearned)]
    return [
        {
            "label": label,
            "pairs": str(len(records)),
            "realised": _span(records, ["realised_overlap"], 3),
            "steps": _span(records, ["steps_first", "steps_second"], 0),
            "loss": _span(records, ["training_loss_first", "training_loss_second"], 2),
            "held_out": _span(records, ["held_out_loss_first", "held_out_loss_second"], 2),
        }
        for label, records in groups
        if records
    ]


def _span(records: Sequence[Record], names: Sequence[str], digits: int) -> str:
    values = [finite(record["result"].get(name)) for record in records for name in names]
    found = [value for value in values if value is not None]
    ends = dict.fromkeys(f"{end:.{digits}f}" for end in (min(found), max(found))) if found else {"–": None}
    return " to ".join(ends)


def _flagged(study: Study, records: Sequence[Record]) -> list[str]:
    used = {r["params"].get(side) for r in study.unlearned for side in ("first", "second")}
    return [
        f"Model {record['key']}: {record['result'].get('reason') or 'did not learn'}"
        for record in records
        if record.get("kind") == "model" and record.get("key") in used and record["result"].get("learned") is False
    ]


def _probes(name: str, records: Sequence[Record]) -> list[dict[str, Any]]:
    """A few texts of both probes, from the cell that made them."""
    keys = {(record.get("params") or {}).get("tokens") for record in records if record.get("study") == name}
    found = [record for record in records if record.get("kind") == "tokens" and record.get("key") in keys]
    return [
        {"name": {"in": "Texts like those trained on", "out": "Other texts"}[probe], "texts": texts}
        for record in found[:1]
        for probe, texts in (record["result"].get("examples") or {}).items()
    ]


def _legend(study: Study) -> list[tuple[str, str, str]]:
    items = [
        ("dot", figures.css(figures.level_color(study, level)), f"{FACTORS.get(str(study.hue))} {level:.3g}")
        for level in study.levels(study.hue)
    ]
    items += [("band", "var(--ceiling)", "ceiling: same text, other seed")] if study.ceiling else []
    start = "floor: the first model against what it started from"
    floor = start if _from_a_start(study) else "floor: untrained, not a lower limit"
    return items + ([("band", "var(--floor)", floor)] if study.floor else [])


def _from_a_start(study: Study) -> bool:
    """Whether the floor is a model against what it started from, and not two untrained ones."""
    return any(record["params"].get("second") == "start" for record in study.floor)


# ---------------------------------------------------------------------------------------------------------- the ladder


def _rungs(study: Study) -> list[str]:
    """The rungs of a ladder from its first; none of other studies."""
    places = {record["params"].get("rung"): record["params"].get("place") for record in study.pairs}
    return sorted((str(rung) for rung in places if rung is not None), key=lambda rung: places[rung])


def _ladder_blocks(study: Study, effects: Sequence[Record], records: Sequence[Record]) -> list[dict[str, Any]]:
    changed = _changed(study.name, [record for record in records if record.get("study") == study.name])
    blocks = [
        _block(
            "similarity", "How alike, rung by rung",
            "Similarity of the last layers at equal training loss: every pair, and the mean with its 95 % interval "
            "over seeds. With all text shared only the order and the new weights differ: the seed ceiling of the "
            "rung. The open square is the first model against what it started from: where pairs are no more alike than "
            "that, their likeness is the start's. " + _ONE_BASE,
            [_climb(study, measure) for measure in ("cka", "mutual_knn")]
            + [_climb(changed, measure) for measure in changed.measures],
            legend=[("dot", figures.css(figures.level_color(study, level)), f"{FACTORS['alpha']} {level:.3g}")
                    for level in study.levels("alpha")] + [("mark", "□", "the start")],
        ),
        _block(
            "forest", "What sharing all the text does, rung by rung",
            "Slope from no to all text shared, with its 95 % interval; filled where the interval excludes 0.",
            [_rung_forest(study, effects, outcome)
             for outcome in ("cka", "mutual_knn", outcome_name("cka", CHANGED), outcome_name("mutual_knn", CHANGED),
                             AGREEMENT)],
        ),
    ]  # fmt: skip
    for seen, about in ((study, "token means"), (changed, "changes from the start")):
        for rung in _rungs(study):
            pairs = tuple(record for record in seen.pairs if record["params"]["rung"] == rung)
            floor = tuple(record for record in seen.floor if record["params"]["rung"] == rung)
            own = replace(seen, name=f"{seen.name} {rung}", pairs=pairs, floor=floor, ceiling=())
            blocks.append(_heat_block(own, "cka", f"{about}, {rung_name(rung)}"))
    return [block for block in blocks if block["panels"]]


def _rung_forest(study: Study, effects: Sequence[Record], outcome: str) -> figures.Panel | None:
    rows = [
        row for rung in _rungs(study) for row in effects
        if row["outcome"] == outcome and row["factor"] == f"data overlap, {rung_name(rung)}"
    ]  # fmt: skip
    labels = [rung_name(str(row["rung"])) + (" (saturated)" if row.get("saturated") else "") for row in rows]
    return figures.forest(study.name, LABELS.get(outcome, outcome), rows, labels)


def _climb(study: Study, measure: str) -> figures.Panel | None:
    """One measure along the rungs, a colour for each overlap, with the start of the first model beside it."""
    rungs, levels = _rungs(study), study.levels("alpha")
    if not values_of(study.pairs, measure):
        return None
    figure, axes = figures.canvas(2.9)
    figure.subplots_adjust(left=0.14, right=0.98, bottom=0.31, top=0.97)
    said = []
    for place, rung in enumerate(rungs):
        for k, level in enumerate(levels):
            values = values_of([r for r in study.at(alpha=level) if r["params"]["rung"] == rung], measure)
            if not values:
                continue
            x, middle = place + 0.16 * (k - (len(levels) - 1) / 2), statistics.mean(values)
            color = figures.level_color(study, level)
            axes.plot([x] * len(values), values, "o", ms=2.8, color=color, alpha=0.7, mew=0, zorder=3)
            if math.isfinite(middle.low):
                axes.plot([x, x], [middle.low, middle.high], color=color, lw=1.5, zorder=4, solid_capstyle="round")
            axes.plot(x, middle.value, "o", ms=6, color=color, mec=figures.PAPER, mew=0.8, zorder=5)
            said.append(f"{rung_name(rung)}, overlap {level:g}: {number(middle.value)}")
        start = values_of([r for r in study.floor if r["params"]["rung"] == rung], measure)
        if start:
            axes.plot(place, statistics.mean(start).value, "s", ms=5, mfc="none", mec=figures.FLOOR, mew=1.3, zorder=4)
            said.append(f"{rung_name(rung)}, start: {number(statistics.mean(start).value)}")
    names = [figures.plain(rung_name(rung)) for rung in rungs]
    axes.set_xticks(range(len(rungs)), names, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.5, len(rungs) - 0.5)
    about = " of changes from the start" if study.name.endswith("change") else ""
    title = LABELS.get(measure, measure) + about
    return figures.panel(figure, title, "; ".join(said) + ".", f"{study.name}-climb-{measure}")
