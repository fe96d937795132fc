"""Data that mislead measures. The page prints these functions beside what they return.

Each gives one dict of plain numbers per setting; all data are Gaussian and unrelated unless it says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

import repsim
from repsim.gallery.table import REFUSALS, value_of, with_null
from repsim.measures.registry import Measure

Setting = dict[str, float]


def wide_and_unrelated(n: int, ratios: Sequence[float], seed: int) -> list[Setting]:
    """CKA of unrelated representations with ever more columns than inputs."""
    rows = []
    for ratio in ratios:
        random = np.random.default_rng([seed, round(1000 * ratio)])
        x, y = random.standard_normal((2, n, round(n * ratio)))
        biased, debiased = repsim.cka(x, y, estimator="biased"), repsim.cka(x, y)
        low, high = debiased.null.quantile(0.005), debiased.null.quantile(0.995)
        rows.append({"ratio": ratio, "biased": biased, "debiased": debiased, "low": low, "high": high, "p": debiased.p})
    return rows


def one_outlier(n: int, d: int, scales: Sequence[float], seed: int) -> list[Setting]:
    """One row, times `scale`: in both of two unrelated representations, then in one of two related ones."""
    random = np.random.default_rng([seed, 1])
    x, y = random.standard_normal((2, n, d))
    related = x @ np.linalg.qr(random.standard_normal((d, d)))[0] + 0.3 * random.standard_normal((n, d))
    rows = []
    for scale in scales:
        far = np.ones((n, 1))
        far[0] = scale
        row: Setting = {"scale": scale}
        for name, left, right in (("unrelated", x * far, y * far), ("related", x * far, related)):
            row[f"{name} biased"] = repsim.cka(left, right, estimator="biased")
            row[f"{name} debiased"] = repsim.cka(left, right)
            row[f"{name} neighbours"] = repsim.mutual_knn(left, right, metric="euclidean")
        rows.append(row)
    return rows


def common_mean(n: int, d: int, lengths: Sequence[float], seed: int) -> list[Setting]:
    """The same vector added to all rows, `length` times as long as a typical row."""
    random = np.random.default_rng([seed, 2])
    x, y = random.standard_normal((2, n, d))
    rows = []
    for length in lengths:
        mean = np.full(d, length)  # rows have a length of about sqrt(d), as has a vector of ones
        rows.append(
            {
                "length": length,
                "itself cosine": repsim.mutual_knn(x, x + mean),
                "itself euclidean": repsim.mutual_knn(x, x + mean, metric="euclidean"),
                "itself cka": repsim.cka(x, x + mean),
                "unrelated second order": repsim.second_order_cosine(x + mean, y + mean),
                "unrelated cosine": repsim.mutual_knn(x + mean, y + mean),
                "unrelated cka": repsim.cka(x + mean, y + mean),
            }
        )
    return rows


def huge_dimension(n: int, d: int, scales: Sequence[float], seed: int) -> list[Setting]:
    """One column that both share, `scale` times as large as the others, which are unrelated."""
    random = np.random.default_rng([seed, 3])
    x, y = random.standard_normal((2, n, d))
    shared = random.standard_normal(n)
    rows = []
    for scale in scales:
        x[:, 0] = y[:, 0] = scale * shared
        even_x, even_y = x / x.std(axis=0), y / y.std(axis=0)
        row = {"scale": scale, "cka": repsim.cka(x, y), "neighbours": repsim.mutual_knn(x, y)}
        row |= {"cka even": repsim.cka(even_x, even_y), "neighbours even": repsim.mutual_knn(even_x, even_y)}
        rows.append(row)
    return rows


def wider_layers(measures: Sequence[Measure], n: int, widths: Sequence[int], seed: int) -> dict[str, list[float]]:
    """Every similarity that ends at 1, of unrelated representations of n inputs and ever more columns."""
    values = {one.name: [math.nan] * len(widths) for one in measures if one.kind == "similarity" and one.high == 1}
    values["cka, biased"] = [math.nan] * len(widths)
    for place, width in enumerate(widths):
        x, y = np.random.default_rng([seed, 4, width]).standard_normal((2, n, width))
        values["cka, biased"][place] = repsim.cka(x, y, estimator="biased")
        for one in measures:
            if one.name in values:
                values[one.name][place], _ = value_of(one, x, y)
    return values


def duplicates(n: int, d: int, copies: Sequence[int], seed: int, k: int = 10) -> list[Setting]:
    """Unrelated representations of inputs that each occur several times."""
    rows = []
    for count in copies:
        x, y = np.random.default_rng([seed, 5, count]).standard_normal((2, n // count, d))
        with_copies = repsim.mutual_knn(np.repeat(x, count, axis=0), np.repeat(y, count, axis=0), k=k)
        once = repsim.mutual_knn(x, y, k=k)
        chance, fewer = with_copies.null.mean, once.null.mean
        row = {"copies": count, "value": with_copies, "chance": chance, "once": once, "once chance": fewer}
        rows.append({**row, "n": n // count * count})
    return rows


def ties(n: int, d: int, levels: Sequence[int], seed: int) -> list[Setting]:
    """Unrelated representations whose units take a few values only: many neighbours are equally near."""
    rows = []
    for level in levels:
        random = np.random.default_rng([seed, 6, level])
        x, y = np.ceil(level * random.random((2, n, d)))
        tied = repsim.mutual_knn(x, y, metric="euclidean")
        noise_x, noise_y = 1e-3 * random.standard_normal((2, n, d))
        apart = repsim.mutual_knn(x + noise_x, y + noise_y, metric="euclidean")
        rows.append({"levels": level, "value": tied, "z": tied.z, "apart": apart, "chance": tied.null.mean})
    return rows


def against_chance(
    measures: Sequence[Measure], x: np.ndarray, y: np.ndarray, relabellings: int, seed: int
) -> dict[str, Setting]:
    """Every similarity that ends at 1: its value, its null, and how far it lies from there to 1."""
    biased = repsim.cka(x, y, estimator="biased")
    found = {"cka, biased": _calibrated(biased)}
    for one in measures:
        if one.kind == "similarity" and one.high == 1:
            try:
                found[one.name] = _calibrated(with_null(one, x, y, relabellings, seed))
            except REFUSALS:
                continue
    return found


def _calibrated(result: repsim.Similarity) -> Setting:
    low, high = result.null.quantile(0.05), result.null.quantile(0.95)
    return {"value": result, "low": low, "high": high, "calibrated": result.calibrated()}
