"""``python -m bench.studies RUN ...``: what runs of the studies found and how long they took, as one Markdown page.

It reads what the runs recorded and computes nothing anew: the main effects of the main outcomes, with interval, p after
Holm and number of seeds. All others are in the run's own page and `effects.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from repsim.findings import LABELS, number, p_text, sentence
from repsim.records import RunDirectory, RunError, write_atomic

from .tables import ABSENT, section

# Of tens of outcomes those that answer a study's question; the views of language beside these are on the page.
OUTCOMES = (
    "cka",
    "mutual_knn",
    "CKA of changes from the start",
    "Mutual kNN of changes from the start",
    "prediction_agreement",
    "transfer_auc",
    "white_box_exact",
    "transfer_exact",
    "transfer_bypass",
)
ASIDE = ("above the start", "same overlap:", "within:", "within_fork:", "mediation")
COLUMNS = ("outcome", "factor", "estimate", "95 % interval", "p, Holm", "seeds", "how sure")


def main(arguments: Sequence[str] | None = None) -> int:
    """Read, print; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m bench.studies", description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="directories of finished runs")
    parser.add_argument("--markdown", type=Path, help="write the page to this file, too")
    parser.add_argument("--note", help="a paragraph for the head of the page, such as what else the machine did")
    chosen = parser.parse_args(arguments)
    head = ["# What the studies found", *([chosen.note] if chosen.note else [])]
    page = "\n\n".join([*head, "\n".join(map(of_run, chosen.runs))])
    print(page)
    if chosen.markdown:
        write_atomic(chosen.markdown, page.encode())
    return 0


def of_run(path: Path) -> str:
    """The sections of one run, a table for every study in it.

    Example: ``print(of_run(Path("repsim-runs/2026-11-21")))``.

    Parameters: path of the run. Returns: Markdown. Raises: RunError where it is no run, or one whose effects
    have not been written yet.
    """
    run = RunDirectory.open(path)
    records, manifest = run.records(), run.manifest
    if not records or not (path / "effects.json").is_file():
        raise RunError(f"{path} has no finished cells, or no effects yet: `resume` or `report` makes them")
    effects = json.loads((path / "effects.json").read_text())
    return "\n".join(_section(name, manifest, records, effects) for name in manifest["studies"])


def _section(
    name: str, manifest: Mapping[str, Any], records: Sequence[Mapping[str, Any]], effects: Sequence[Mapping[str, Any]]
) -> str:
    own = [record for record in records if record["study"] == name]
    ended = max(datetime.fromisoformat(record["finished"]) for record in records)
    seconds = (ended - datetime.fromisoformat(manifest["created"])).total_seconds()
    where = manifest["environment"]
    models, pairs = (sum(record["kind"] == kind for record in own) for kind in ("model", "pair"))
    with_others = f", with {len(manifest['studies']) - 1} other studies" if len(manifest["studies"]) > 1 else ""
    commit = (where["commit"] or "unknown")[:7]
    about = (
        f"{models} trainings, {pairs} pairs; {seconds / 60:.1f} minutes{with_others} on {manifest['workers']} of "
        f"{where['cpus']} cores ({where['cpu']}), torch {where['versions']['torch']}, commit {commit}"
        + (" and changes" if where["dirty"] else "")
    )
    rows = [_row(row) for row in effects if row["study"] == name and _is_main(row)]
    return section(f"{name}, preset {manifest['preset']}", about, COLUMNS, rows)


def _is_main(row: Mapping[str, Any]) -> bool:
    return row["outcome"] in OUTCOMES and not str(row["factor"]).startswith(ASIDE)


def _row(row: Mapping[str, Any]) -> list[str]:
    known = row.get("low") is not None and row.get("high") is not None
    p = row.get("p_holm", row.get("p"))
    sure = "saturated" if row.get("saturated") else sentence(row)[0]
    return [
        LABELS.get(str(row["outcome"]), str(row["outcome"])),
        str(row["factor"]) + (f" ({row['unit']})" if row.get("unit") else ""),
        number(row["estimate"]),
        f"{number(row['low'])} to {number(row['high'])}" if known else ABSENT,
        p_text(p, bare=True) if p is not None else ABSENT,
        str(row.get("n_seeds", ABSENT)),
        sure,
    ]


if __name__ == "__main__":
    sys.exit(main())
