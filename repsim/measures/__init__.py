"""Measures of similarity, one file per family; calling the package gives the table of all: ``repsim.measures()``."""

from __future__ import annotations

import sys
from types import ModuleType

# Importing a family registers its measures.
from . import (  # noqa: F401
    attention,
    cca,
    cka,
    distance_correlation,
    functional,
    geometry_score,
    identifiability,
    intrinsic_dimension,
    kernel_ridge,
    labelled_statistics,
    matching,
    neighbour_ranks,
    neighbour_scores,
    neighbour_sets,
    neuron_graphs,
    neurons,
    pls,
    regression,
    rsa,
    shapes,
    spectra,
    statistics,
    topology,
)
from .registry import REGISTRY, Measure
from .table import MeasureTable


class _Measures(ModuleType):
    def __call__(self, family: str | None = None) -> MeasureTable:
        """What every measure declares of itself, as a table; of one family where it is named."""
        return MeasureTable.of(REGISTRY, family)


sys.modules[__name__].__class__ = _Measures

__all__ = ["REGISTRY", "Measure"]
