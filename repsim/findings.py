"""What the records and the effects of a run say: pairs by role, values, and sentences with how sure they are."""

# ruff: noqa: RUF001, RUF002 (a page for readers has real dashes, minus signs and crosses)
from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Record = Mapping[str, Any]

TITLES = {
    "data_overlap": ("Shared data", "Do two networks see more alike when they share more of their training data?"),
    "task_overlap": ("Shared tasks", "Do they see more alike when they learn more of the same labels?"),
    "data_task_factorial": ("Data and task together", "Does sharing both do more than the two alone?"),
}
LABELS = {
    "cka": "CKA",
    "cka_rbf": "CKA (RBF)",
    "mutual_knn": "Mutual kNN",
    "cknna": "CKNNA",
    "transfer_auc": "Attack transfer",
    "prediction_agreement": "Agreement of predictions",
    "same_mistake": "Agreement where both are wrong",
    "white_box_exact": "White-box compliance",
    "transfer_exact": "Transferred compliance",
    "transfer_bypass": "Transferred refusal bypass",
    "conditional_exact": "Compliance where the first model fell",
}
SOURCE_ALONE = "corpora, no text shared"
FACTORS = {
    "alpha": "data overlap α",
    "shared": "shared attributes",
    "corpora": "corpus overlap",
    "fork": "shared pre-training",
    "overlap": "shared fine-tuning examples",
    SOURCE_ALONE: "corpus overlap without shared text",
}
WHAT = {**FACTORS, "alpha": "data overlap"}
# What pairs share in a study that crosses two factors.
CROSSED = {
    "data_task_factorial": ("data", "tasks"),
    "gpt_data_corpus_factorial": ("text", "corpora"),
    "jailbreak_transfer": ("pre-training", "fine-tuning examples"),
}


def crossed(study: str) -> tuple[str, str]:
    """The two things of which a study's interaction speaks; what no study here crosses has no better name.

    Example: `crossed("gpt_data_corpus_factorial") == ("text", "corpora")`. Parameters: study. Returns: two nouns.
    """
    return CROSSED.get(study, ("first factor", "second factor"))


@dataclass(frozen=True)
class Study:
    """What the figures read of one study: its pair records by role, those with a failed training apart."""

    name: str
    pairs: tuple[Record, ...]
    ceiling: tuple[Record, ...]
    floor: tuple[Record, ...]
    unlearned: tuple[Record, ...]
    along: str | None  # the factor on the horizontal axis
    hue: str | None  # the factor that the colour shows: the second one of a factorial, else `along`
    measures: tuple[str, ...]

    @property
    def factorial(self) -> bool:
        """Whether two factors were crossed: one along the axis, the other one in colour."""
        return self.along != self.hue

    def levels(self, factor: str | None) -> list[float]:
        """The values that a factor takes over the pairs.

        Example: `study.levels("alpha")` is `[0.0, 0.5, 1.0]`.

        Parameters: factor, None for none. Returns: sorted, each once.
        """
        return sorted({record["params"][factor] for record in self.pairs}) if factor else []

    def at(self, **levels: Any) -> list[Record]:
        """The pairs at given levels.

        Example: `study.at(alpha=0.5, shared=1)`. Parameters: a level for each factor named. Returns: their records.
        """
        return [r for r in self.pairs if all(r["params"].get(name) == value for name, value in levels.items())]

    def groups(self) -> Iterator[tuple[float, float | None, list[Record]]]:
        """The pairs at every level along the axis, and there at every one of the colour's where two factors cross.

        Example: `next(study.groups())` is `(0.0, None, [...])`.

        Returns: level, level of the colour or None, records.
        """
        for level in self.levels(self.along):
            for line in self.levels(self.hue) if self.factorial else [None]:
                crossed = {str(self.hue): line} if line is not None else {}
                yield level, line, self.at(**{str(self.along): level}, **crossed)


def study_of(name: str, records: Sequence[Record]) -> Study:
    """Sort one study's pair records into roles and find its factors: what takes several values, data before task.

    Example: `study_of("data_overlap", run.records()).along` is `"alpha"`.

    Parameters: name of the study; records, those of other studies and kinds are passed over.
    Returns: the Study; empty where there are no such records.
    """
    roles: dict[str, list[Record]] = {"pair": [], "ceiling": [], "floor": [], "unlearned": []}
    measures: list[str] = []
    for record in records:
        params, result = record.get("params") or {}, record.get("result") or {}
        if record.get("kind") != "pair" or record.get("study") != name:
            continue
        role = params.get("role", "pair")
        # an untrained floor never learned and is not meant to: only trained pairs can fail
        if role != "floor" and not (result.get("learned_first", True) and result.get("learned_second", True)):
            role = "unlearned"
        roles.setdefault(role, []).append(record)
        measures += [measure for measure in result.get("similarity") or {} if measure not in measures]
    named = [f for f in FACTORS if roles["pair"] and all((r["params"]).get(f) is not None for r in roles["pair"])]
    factors = [f for f in named if len({r["params"][f] for r in roles["pair"]}) > 1] or named[:1]
    order = [m for m in LABELS if m in measures] + [m for m in measures if m not in LABELS]
    groups = {role: tuple(sorted(found, key=lambda r: str(r.get("key")))) for role, found in roles.items()}
    return Study(
        name,
        groups["pair"],
        groups["ceiling"],
        groups["floor"],
        groups["unlearned"],
        factors[0] if factors else None,
        factors[-1] if factors else None,
        tuple(order),
    )


def last(record: Record, measure: str) -> float | None:
    """One measure at both last layers, or the transfer score.

    Example: `last(record, "cka")` is `0.71`.

    Parameters: record of a pair; measure, a name in its similarity, or "transfer_auc".
    Returns: the value; None where the record has none or it is not finite.
    """
    result = record.get("result") or {}
    if measure == "transfer_auc":
        return finite(result.get("transfer_auc"))
    return finite(((result.get("similarity") or {}).get(measure) or {}).get("last"))


def values_of(records: Sequence[Record], measure: str) -> list[float]:
    """The values of one measure over records.

    Example: `values_of(study.pairs, "cka")`.

    Parameters: records; measure, as in `last`. Returns: one value each, records without one left out.
    """
    return [value for record in records if (value := last(record, measure)) is not None]


def number(value: float | None, digits: int = 3) -> str:
    """A value with the digits that a reader can use, a real minus sign, and a dash for what is missing.

    Example: `number(-0.0264)` is "−0.026".

    Parameters: value, None for missing; digits after the point, at most 2 of them from 1 on. Returns: text.
    """
    if value is None or not math.isfinite(value):
        return "–"
    digits = min(digits, 2) if abs(value) >= 1 else digits
    text = f"{value:.{digits}f}".replace("-", "−")
    return text[1:] if float(f"{value:.{digits}f}") == 0 and text.startswith("−") else text


def sentence(effect: Record) -> tuple[str, str]:
    """What an effect says, and how sure it is.

    Clear: the interval excludes 0 and p, after Holm where it is known, is at most .05. Likely: the interval excludes
    0 but p is larger. Unclear: the interval includes 0. Unknown: no estimate, or no interval.
    Example: `sentence(effects[0])[1]` is "CKA rises with data overlap, by 0.026 per unit of overlap (95 % ...".

    Parameters: effect, a row of effects.json.
    Returns: ("clear" | "likely" | "unclear" | "unknown", sentence).
    """
    estimate, low, high = (finite(effect.get(name)) for name in ("estimate", "low", "high"))
    factor, _, measure = str(effect.get("factor", "")).partition(":")
    outcome = LABELS.get(str(effect.get("outcome")), str(effect.get("outcome")))
    if estimate is None:
        return "unknown", f"{outcome}: not estimated."
    p, holm = finite(effect.get("p")), finite(effect.get("p_holm"))
    design = f"{counted(effect.get('n_seeds', '?'), 'seed')}, {counted(effect.get('n_pairs', '?'), 'pair')}"
    chance = (
        f"p\u00a0{p_text(p)}"
        + (f", after Holm\u00a0{p_text(holm, bare=True)}" if holm is not None and holm != p else "")
        if p is not None
        else "no p"
    )
    digits = 2 if factor in ("correlation", "within", "within_fork") else 3
    ends = f"{number(low, digits)} to {number(high, digits)}" if low is not None and high is not None else ""
    interval = f"95\u00a0% interval {ends}" if ends else "no interval"
    excludes = low is not None and high is not None and not low <= 0 <= high
    small = p is not None and (holm if holm is not None else p) <= 0.05
    grade = "unknown" if not ends else "clear" if excludes and small else "likely" if excludes else "unclear"
    size = f"{'+' if estimate > 0 else ''}{number(estimate)}"
    unit = f" {effect['unit']}" if effect.get("unit") else ""
    if factor in WHAT:
        claim = (
            f"{outcome} {'rises' if estimate > 0 else 'falls'} with {WHAT[factor]}, by {number(abs(estimate))}{unit}"
        )
        none = f"No clear effect of {WHAT[factor]} on {inside(outcome)}: {size}{unit}"
    elif factor == "interaction":
        verb = "reinforce" if estimate > 0 else "dampen"
        one, other = crossed(str(effect.get("study")))
        claim = f"{outcome}: shared {one} and shared {other} {verb} each other, {size}{unit}"
        none = f"No clear interaction in {inside(outcome)}: {size}{unit}"
    elif factor in ("correlation", "within", "within_fork"):
        same = {"within": "overlap", "within_fork": "fork depth"}.get(factor)
        who, no = (f"Among pairs of the same {same}, {word}" if same else word.capitalize() for word in ("those", "no"))
        who = who if same else "Pairs"
        likeness, many = inside(LABELS.get(measure, measure)), "more" if estimate > 0 else "fewer"
        claim = f"{who} more alike by {likeness} pass {many} attacks on, correlation {number(estimate, 2)}"
        none = f"{no} clear link between {likeness} and transfer: correlation {number(estimate, 2)}"
    else:
        claim = none = f"{outcome}, {factor}{' of ' + LABELS.get(measure, measure) if measure else ''}: {size}{unit}"
    if grade == "unknown":
        return grade, f"{outcome}, too little data to judge: {size}{unit} ({interval}; {chance}; {design})."
    if grade == "unclear":
        return grade, f"{none}; the 95\u00a0% interval, {ends}, includes 0 ({chance}; {design})."
    return grade, f"{claim} ({interval}; {chance}; {design})" + (
        "." if grade == "clear" else ", which is less than sure."
    )


def verdict(grade: str, text: str, effect: Record, *, how: str = "", attack: str = "") -> dict[str, str]:
    """The few words and the number that a reader takes away from one answer.

    Example: `verdict(*sentence(row), row)["word"]` is "Yes".

    Parameters: grade and text, as in `sentence`; effect, a row of effects.json; how, said behind a yes; attack, a
    second sentence.
    Returns: grade, word, number, unit, text and attack.
    """
    estimate = finite(effect.get("estimate"))
    value, outcome = estimate or 0.0, str(effect["outcome"])
    word = {
        "clear": f"Yes{how}" if value > 0 else "The other way",
        "likely": f"Probably{how}" if value > 0 else "Probably the other way",
        "unclear": "No clear effect",
        "unknown": "Too little data",
    }[grade]
    return {
        "grade": grade,
        "word": word,
        "number": ("+" if value > 0 else "") + number(estimate),
        "unit": f"{LABELS.get(outcome, outcome)} {effect.get('unit') or ''}",
        "text": text,
        "attack": attack,
    }


def no_verdict(
    word: str = "Not measured yet", text: str = "No effect was estimated for this study.", *, attack: str = ""
) -> dict[str, str]:
    """What stands in the place of a `verdict` without an estimate.

    Example: `no_verdict()["grade"]` is "unknown". Parameters: word, text and attack, as there. Returns: as there.
    """
    return {"grade": "unknown", "word": word, "number": "", "unit": "", "text": text, "attack": attack}


def counted(n: Any, noun: str) -> str:
    """A number with its noun: "1 seed", "8 seeds"."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def p_text(value: float | None, *, bare: bool = False) -> str:
    """A p value as papers print it.

    Example: `p_text(0.012)` is "= .012". Parameters: value, None for missing; bare leaves out the sign of equality.
    Returns: text, "< .001" below that.
    """
    if value is None:
        return "–"
    text = "<\u00a0.001" if value < 0.001 else f"{value:.3f}".lstrip("0") if value < 0.9995 else "1"
    return text if bare or value < 0.001 else f"=\u00a0{text}"


def finite(value: Any) -> float | None:
    """A number that can be drawn and compared.

    Example: `finite(math.nan)` is None. Parameters: value, anything.
    Returns: it as float; None for what is missing, no number, or not finite.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def inside(label: str) -> str:
    """A label within a sentence; acronyms keep their capitals.

    Example: `inside("Mutual kNN")` is "mutual kNN". Parameters: label, of one letter or more. Returns: text.
    """
    return label if label[:2].isupper() else label[:1].lower() + label[1:]
