"""Distances between shapes: what is left when one representation is turned onto the other as well as can be."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..arguments import Progress
from ..arrays import Rows
from ..reductions import cross_products, own_products
from .method import Method
from .registry import Measure, invariant_to, register
from .similarity import Distance


@dataclass(frozen=True)
class _Shape:
    rows: Rows
    norm: float  # of the centred rows
    order: np.ndarray | None = None


def _procrustes(unit_norm: bool = False) -> Method[_Shape]:
    def prepare(rows: Rows, threads: int) -> _Shape:
        return _Shape(rows, float(np.sqrt(np.trace(own_products(rows, function="procrustes", threads=threads).xy))))

    def between(x: _Shape, y: _Shape, threads: int) -> float:
        product = cross_products(x.rows, y.rows, y.order, function="procrustes", threads=threads).xy
        nuclear = float(np.linalg.svd(product, compute_uv=False).sum())
        if unit_norm:
            return float(np.sqrt(max(2 - 2 * nuclear / (x.norm * y.norm), 0.0)))
        return float(np.sqrt(max(x.norm**2 + y.norm**2 - 2 * nuclear, 0.0)))

    return Method(prepare, between, lambda shape, order: replace(shape, order=order))


PROCRUSTES = register(
    Measure(
        name="procrustes",
        family="shapes",
        kind="distance",
        low=0.0,
        high=np.inf,
        symmetric=True,
        metric=True,
        invariances=invariant_to("orthogonal", "translation"),
        cost="time n d d', memory d d'",
        paper="Williams, Kunz, Kornblith and Linderman (2021), Generalized shape metrics on neural representations",
        formula="sqrt(|X|^2 + |Y|^2 - 2 |X'Y|_*), X and Y centred",
        method=_procrustes,
        self_value=0.0,
    )
)


def procrustes(
    x: Any,
    y: Any,
    *,
    unit_norm: bool = False,
    permutations: int = 0,
    seed: int = 0,
    jackknife: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Distance:
    """min over orthogonal Q of |X Q - Y|_F, of centred X and Y: sqrt(|X|^2 + |Y|^2 - 2 |X'Y|_*)."""
    return PROCRUSTES.evaluate(
        x, y, {"unit_norm": unit_norm}, permutations=permutations, seed=seed, jackknife=jackknife, threads=threads,
        progress=progress,
    )  # fmt: skip
