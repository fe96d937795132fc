"""What the studies of language find: slopes of similarity and of agreement on overlap, in every view."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from repsim import statistics
from repsim.experiments.language_probes import MEASURES_OF_VIEWS
from repsim.experiments.pairs import MEASURES, learned_pairs, links_of, slopes_of
from repsim.language_figures import AGREEMENT, MISTAKES, outcome_name


def outcomes_of(pairs: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """What pairs are compared by: every measure in every view, and how far their predictions agree; NaN for missing.

    Example: ``outcomes_of(learned_pairs(records))["cka"]``, float [pairs].
    """

    def column(values: Sequence[Any]) -> np.ndarray:
        return np.array([np.nan if value is None else float(value) for value in values])

    results = [pair["result"] for pair in pairs]
    found = {name: column([result["similarity"][name]["last"] for result in results]) for name in MEASURES}
    for view in dict.fromkeys(view for result in results for view in result["views"]):
        for name in MEASURES_OF_VIEWS:
            seen = [result["views"].get(view) for result in results]
            found[outcome_name(name, view)] = column([one and one["similarity"][name]["last"] for one in seen])
    return found | {name: column([result[name] for result in results]) for name in (AGREEMENT, MISTAKES)}


def saturated_outcomes(pairs: Sequence[Mapping[str, Any]]) -> set[str]:
    """Outcomes that are saturated in every pair: what is left of their slope is no finding."""
    by_name: dict[str, list[bool]] = {}
    for pair in pairs:
        for name, full in pair["result"]["saturated"].items():
            by_name.setdefault(name, []).append(full)
        for view, found in pair["result"]["views"].items():
            for name, full in found["saturated"].items():
                by_name.setdefault(outcome_name(name, view), []).append(full)
    return {name for name, flags in by_name.items() if all(flags)}


def effects_of(study: str, records: Iterable[Mapping[str, Any]], factors: Mapping[str, str]) -> list[dict[str, Any]]:
    """Slopes on every factor (a name and its unit) of every outcome, their interaction, and agreement with CKA."""
    pairs = learned_pairs(records)
    if not pairs:
        return []
    seeds = np.array([pair["params"]["seed"] for pair in pairs])
    levels = {name: np.array([float(pair["params"][name]) for pair in pairs]) for name in factors}
    outcomes = outcomes_of(pairs)
    units = {**factors, "interaction": "in the data effect, from no to all corpora shared"}
    found = slopes_of(study, outcomes, levels, seeds, units)
    stratum = np.stack(list(levels.values()), axis=1)
    found += links_of(study, outcomes, AGREEMENT, {"same overlap": stratum}, seeds)
    full = saturated_outcomes(pairs)
    return [{**row, "saturated": row["outcome"] in full} for row in statistics.adjust(found)]
