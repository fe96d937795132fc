"""The studies: each one module that says which models to train and what to ask of every pair of them.

`STUDIES` maps a study's name to its module, which is imported only when the study is named. It is open: add an entry,
or name a module by its dotted path (``python -m repsim.experiments run mypackage.mystudy``).
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

from repsim.records import RunDirectory, RunError

if TYPE_CHECKING:
    from repsim.experiments.sweep import Cell

STUDIES: dict[str, str] = {
    "data_overlap": "repsim.experiments.data_overlap",
    "task_overlap": "repsim.experiments.task_overlap",
    "data_task_factorial": "repsim.experiments.data_task_factorial",
    "gpt_data_overlap": "repsim.experiments.gpt_data_overlap",
    "gpt_corpus_overlap": "repsim.experiments.gpt_corpus_overlap",
    "gpt_data_corpus_factorial": "repsim.experiments.gpt_data_corpus_factorial",
    "llm_finetune_overlap": "repsim.experiments.llm_finetune_overlap",
    "finetune_ladder": "repsim.experiments.finetune_ladder",
    "jailbreak_transfer": "repsim.experiments.jailbreak_transfer",
}
# Studies that run when they or their group are named; the others are the default run, which takes minutes.
GROUPS: dict[str, tuple[str, ...]] = {
    "language": (
        "gpt_data_overlap", "gpt_corpus_overlap", "gpt_data_corpus_factorial", "llm_finetune_overlap",
        "finetune_ladder", "jailbreak_transfer",
    ),
}  # fmt: skip

__all__ = ["GROUPS", "STUDIES", "Study", "chosen", "load"]


class Study(Protocol):
    """What a study module holds. It may also hold ``estimate(cell) -> float``, a cell's seconds on one CPU core."""

    NAME: str
    SUMMARY: str
    Config: type
    PRESETS: Mapping[str, Any]

    def cells(self, config: Any) -> Sequence[Cell]:
        """All cells of the study; a pair names its models' keys in ``needs``. Raises ValueError for a bad config."""

    def run_cell(self, cell: Cell, run: RunDirectory) -> Mapping[str, Any]:
        """Do one cell, in a worker process, and return the result of its record."""

    def effects(self, records: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """The study's effects from its finished records, ordered by key."""


def chosen(words: Sequence[str]) -> tuple[str, ...]:
    """The studies that names and groups of them stand for, each once.

    Example: ``chosen(["language"])``; "all" is every study, "default" those of no group.

    Parameters: ``words``, names of studies, or of GROUPS, "all" or "default".
    Returns: names, registered. Raises: as `load`.
    """
    grouped = {name for names in GROUPS.values() for name in names}
    groups = {**GROUPS, "all": tuple(STUDIES), "default": tuple(name for name in STUDIES if name not in grouped)}
    named = [name for word in words for name in (groups[word] if word in groups else (load(word).NAME,))]
    return tuple(dict.fromkeys(named))


def load(name: str) -> Study:
    """Import a study by its registered name or its module's dotted path; the latter is registered by its NAME.

    Example: ``load("data_overlap").PRESETS["quick"]``.

    Parameters: ``name``, one of STUDIES or such as "mypackage.mystudy".
    Returns: the module.
    Raises: RunError for an unknown name, a module that cannot be imported, or one that is no study.
    """
    path = STUDIES.get(name, name)
    if name not in STUDIES and "." not in name:
        near = difflib.get_close_matches(name, STUDIES, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise RunError(f"unknown study {name!r}, expected one of {', '.join(STUDIES)}{hint}")
    try:
        module = importlib.import_module(path)
    except ImportError as error:
        raise RunError(f"study {name!r} cannot be imported: {error}") from error
    missing = [
        part
        for part in ("NAME", "SUMMARY", "Config", "PRESETS", "cells", "run_cell", "effects")
        if not hasattr(module, part)
    ]
    if missing:
        raise RunError(f"{path} is no study: it lacks {', '.join(missing)}")
    if STUDIES.setdefault(module.NAME, path) != path:
        raise RunError(f"study {name!r} calls itself {module.NAME}, which is {STUDIES[module.NAME]}")
    return cast(Study, module)
