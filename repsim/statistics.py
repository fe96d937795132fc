"""Slopes, interactions, correlations and mediation where the seed, not the pair of models, is the independent unit.

Every interval is a 95 % interval over seeds. Below 20 seeds it is a delete-one-seed jackknife with Student's t on
(seeds - 1) degrees of freedom: where all seeds have the same design, this is exactly the t interval over the slopes of
the single seeds. A percentile bootstrap over 4 seeds knows only 35 different samples and covers about four times in
five instead of nineteen times in twenty; it takes over at 20 seeds. Every p is two-sided and comes from permutations
that the design allows, all of them where they are few; the method says how many there were and the smallest p that
they could have given.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LEVEL = 0.95
BOOTSTRAP_FROM = 20
ENUMERATE_UP_TO = 200_000
_TIE = 1e-9  # sums of the same numbers in another order differ by rounding: they are ties, and count as extreme

Statistic = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class Estimate:
    """A number with its uncertainty; `low` and `high` are NaN where the seeds are too few for an interval."""

    value: float
    low: float
    high: float
    p: float
    n: int
    clusters: int
    method: str


@dataclass(frozen=True)
class Mediation:
    """The path x -> m -> y and its parts: `total` = `direct` + `indirect`, `indirect` = `first` * `second`."""

    total: Estimate
    direct: Estimate
    indirect: Estimate
    first: Estimate
    second: Estimate


def slope(x: Any, y: Any, cluster: Any, *, stratum: Any = None, seed: int = 0, resamples: int = 2000) -> Estimate:
    """The least-squares slope of y on x within clusters.

    Example: 4 seeds x 3 overlaps, all float [12]: `slope(alpha, cka, seeds).value` is CKA's change from 0 to 1.

    Parameters: x, y [n]; cluster [n] the seed of each pair; stratum [n] or [n, k] a second factor held fixed (pairs are
    compared, and x permuted, only where it is equal); seed and resamples for what is not enumerated.
    Returns: Estimate, in units of y per unit of x; p permutes x within cluster (and stratum).
    Raises: ValueError for unequal lengths, values that are not finite, or x constant within every cluster.
    """
    x, y, codes = _columns("slope", cluster, x=x, y=y)
    held = _codes("slope", "stratum", stratum, len(x)) if stratum is not None else np.zeros(len(x), np.int64)

    def statistic(rows: np.ndarray, groups: np.ndarray) -> float:
        block = _codes("slope", "cluster", np.stack([groups, held[rows]], axis=1), len(rows))
        centred = _centre(x[rows], block)
        return _ratio(centred @ y[rows], centred @ centred)

    block = _codes("slope", "cluster", np.stack([codes, held], axis=1), len(x))
    weights = _centre(x, block)
    if weights @ weights <= _TIE * (x @ x):
        raise ValueError("[slope] expected x to vary within at least one cluster, got x constant in each")
    value = statistic(np.arange(len(x)), codes)
    low, high, interval = _interval(statistic, codes, seed, resamples)
    p, permuted = _permute_within(weights, y, block, seed, resamples)
    return Estimate(
        value, low, high, p, len(x), _count(codes), f"least-squares slope within seed; {interval}; {permuted}"
    )


def interaction(x1: Any, x2: Any, y: Any, cluster: Any, *, seed: int = 0, resamples: int = 2000) -> Estimate:
    """How much the slope of y on x1 changes for each unit of x2: the product's coefficient within clusters.

    Example: a 3 x 2 grid in 4 seeds, all float [24]: `interaction(alpha, shared, cka, seeds)`.

    Parameters: x1, x2, y [n]; cluster [n] the seed of each pair.
    Returns: Estimate; p permutes the residuals of the additive model within cluster (Freedman and Lane 1983).
    Raises: ValueError for unequal lengths, values that are not finite, or a design that cannot tell the product from
    the two factors.
    """
    x1, x2, y, codes = _columns("interaction", cluster, x1=x1, x2=x2, y=y)

    def product(rows: np.ndarray, groups: np.ndarray) -> np.ndarray:
        # centring the factors first leaves the coefficient alone and keeps the system well conditioned
        return _residual((x1[rows] - x1.mean()) * (x2[rows] - x2.mean()), [x1[rows], x2[rows]], groups)

    def statistic(rows: np.ndarray, groups: np.ndarray) -> float:
        weights = product(rows, groups)
        return _ratio(weights @ y[rows], weights @ weights)

    everything = np.arange(len(y))
    weights = product(everything, codes)
    if weights @ weights <= _TIE * max(1.0, float((x1 @ x1) * (x2 @ x2))):
        raise ValueError(
            "[interaction] expected x1 and x2 crossed within clusters, got a product that the factors determine"
        )
    value = statistic(everything, codes)
    low, high, interval = _interval(statistic, codes, seed, resamples)
    # the product has no part along clusters, x1 or x2, so permuting residuals and refitting is one dot product
    p, permuted = _permute_within(weights, _residual(y, [x1, x2], codes), codes, seed, resamples, residuals=True)
    return Estimate(
        value,
        low,
        high,
        p,
        len(y),
        _count(codes),
        f"product term beside both factors, within seed; {interval}; {permuted}",
    )


def correlation(
    x: Any, y: Any, cluster: Any, *, kind: str = "spearman", seed: int = 0, resamples: int = 2000
) -> Estimate:
    """The correlation of x and y over all pairs, with the seeds as the independent units.

    Example: `correlation(similarity, transfer, seeds)` with float [12] each; `kind="pearson"` for the linear one.

    Parameters: x, y [n]; cluster [n]; kind "spearman" or "pearson".
    Returns: Estimate in [-1, 1]; the interval is made on the arcsine scale; p permutes y within cluster (over all pairs
    where every cluster is one pair).
    Raises: ValueError for unequal lengths, values that are not finite, a constant x or y, or an unknown kind.
    """
    x, y, codes = _columns("correlation", cluster, x=x, y=y)
    return _correlation("correlation", x, y, codes, None, kind, seed, resamples)


def within(
    x: Any, y: Any, stratum: Any, cluster: Any, *, kind: str = "spearman", seed: int = 0, resamples: int = 2000
) -> Estimate:
    """The correlation of x and y among pairs of the same stratum (the same overlap): both are centred by stratum first.

    Example: `within(similarity, transfer, alpha, seeds)` with float [12] each: does likeness go with transfer where the
    overlap is the same?

    Parameters: x, y [n]; stratum [n] or [n, k]; cluster [n]; kind "spearman" (of the centred values) or "pearson".
    Returns: Estimate in [-1, 1]; p exchanges whole seeds, the same exchange in every stratum, because pairs of one seed
    may share a model.
    Raises: as `correlation`, also where x or y is constant in every stratum.
    """
    x, y, codes = _columns("within", cluster, x=x, y=y)
    return _correlation("within", x, y, codes, _codes("within", "stratum", stratum, len(x)), kind, seed, resamples)


def mediation(x: Any, m: Any, y: Any, cluster: Any, *, seed: int = 0, resamples: int = 2000) -> Mediation:
    """How much of the slope of y on x runs through m: the product of coefficients, within clusters.

    Example: `mediation(alpha, similarity, transfer, seeds).indirect` with float [12] each.

    Parameters: x the cause, m the mediator, y the outcome, each [n]; cluster [n].
    Returns: Mediation. `first` is m on x; `second` is y on m at fixed x and exchanges whole seeds at fixed x for its p;
    the indirect path's p is the larger of the two. It is a causal share only if nothing else moves m and y together.
    Raises: ValueError for unequal lengths, values that are not finite, or m that x and the clusters determine.
    """
    x, m, y, codes = _columns("mediation", cluster, x=x, m=m, y=y)
    first = slope(x, m, codes, seed=seed, resamples=resamples)
    total = slope(x, y, codes, seed=seed, resamples=resamples)

    def parts(rows: np.ndarray, groups: np.ndarray) -> tuple[float, float, float]:
        cause, free = _centre(x[rows], groups), _residual(m[rows], [x[rows]], groups)
        a = _ratio(cause @ m[rows], cause @ cause)
        b = _ratio(free @ y[rows], free @ free)
        return a * b, b, _ratio(cause @ y[rows], cause @ cause) - a * b

    everything = np.arange(len(x))
    free = _residual(m, [x], codes)
    if free @ free <= _TIE * float(_centre(m, codes) @ _centre(m, codes)):
        raise ValueError("[mediation] expected m to vary at fixed x within clusters, got m determined by x and cluster")
    indirect, second, direct = parts(everything, codes)
    p_second, exchanged = _permute_seeds(
        free, _residual(y, [x], codes), _codes("mediation", "x", x, len(x)), codes, seed, resamples
    )
    made = []
    for position, (value, p, name) in enumerate(
        [
            (indirect, max(first.p, p_second), "product of the two paths; p is the larger of theirs"),
            (second, p_second, f"slope on the mediator at fixed cause, within seed; {exchanged}"),
            (direct, math.nan, "what the mediator leaves of the total slope; no p"),
        ]
    ):

        def statistic(rows: np.ndarray, groups: np.ndarray, part: int = position) -> float:
            return parts(rows, groups)[part]

        low, high, interval = _interval(statistic, codes, seed, resamples)
        made.append(Estimate(value, low, high, p, len(x), _count(codes), f"{name}; {interval}"))
    return Mediation(total=total, direct=made[2], indirect=made[0], first=first, second=made[1])


def mean(values: Any) -> Estimate:
    """The mean of independent values with its t interval and t test against 0.

    Example: `mean([0.71, 0.74, 0.69, 0.72]).low`. Parameters: values [n], one for each seed. Returns: Estimate.
    Raises: ValueError for no values or values that are not finite.
    """
    from scipy import stats

    values = np.asarray(values, np.float64)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(f"[mean] expected values [n] finite with n >= 1, got shape {values.shape}: {values.tolist()}")
    centre, count = float(values.mean()), len(values)
    if count == 1:
        return Estimate(centre, math.nan, math.nan, math.nan, 1, 1, "one value: no interval")
    spread = float(values.std(ddof=1)) / math.sqrt(count)
    reach = float(stats.t.ppf(0.5 + LEVEL / 2, count - 1)) * spread
    p = 2 * float(stats.t.sf(abs(centre) / spread, count - 1)) if spread else float(centre == 0)
    return Estimate(centre, centre - reach, centre + reach, p, count, count, f"mean of {count}, t interval")


def holm(p: Any) -> np.ndarray:
    """p adjusted so that the chance of any false finding in the family stays below the level (Holm 1979).

    Example: `holm([0.01, 0.04, 0.03])` is `[0.03, 0.06, 0.06]`. Parameters: p [n] in [0, 1]. Returns: float64 [n].
    Raises: ValueError for values outside [0, 1].
    """
    p, order = _p_values("holm", p)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def benjamini_hochberg(p: Any) -> np.ndarray:
    """p adjusted so that the expected share of false findings stays below the level (Benjamini and Hochberg 1995).

    Example: `benjamini_hochberg([0.01, 0.04, 0.03])` is `[0.03, 0.04, 0.04]`. Parameters: p [n] in [0, 1].
    Returns: float64 [n]. Raises: ValueError for values outside [0, 1].
    """
    p, order = _p_values("benjamini_hochberg", p)
    adjusted, raised = np.empty(len(p)), p[order] * len(p) / np.arange(1, len(p) + 1)
    adjusted[order] = np.minimum.accumulate(raised[::-1])[::-1]
    return adjusted


def effect(study: str, outcome: str, factor: str, estimate: Estimate, *, unit: str) -> dict[str, Any]:
    """One row of effects.json: an Estimate with its names, NaN written as None.

    Example: `effect("data_overlap", "cka", "alpha", slope(alpha, cka, seeds), unit="per unit of overlap")`.

    Parameters: study, outcome, factor: what was estimated; estimate; unit of the estimate, in words.
    Returns: names, estimate, low, high, p, n_seeds, n_pairs, method and unit.
    """
    numbers = {"estimate": estimate.value, "low": estimate.low, "high": estimate.high, "p": estimate.p}
    return {
        "study": study, "outcome": outcome, "factor": factor,
        **{name: float(value) if math.isfinite(value) else None for name, value in numbers.items()},
        "n_seeds": estimate.clusters, "n_pairs": estimate.n, "method": estimate.method, "unit": unit,
    }  # fmt: skip


def adjust(effects: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same effects with `p_holm`: Holm over the measures that answer one question of one study.

    Example: `adjust(effects)[0]["p_holm"]`; None where p is None.

    Parameters: effects, rows of `effect`. A family is a study and a kind of factor: all outcomes' slopes on alpha, all
    correlations, all within-overlap ones.
    Returns: copies of the rows, in their order.
    """
    rows = [dict(row) for row in effects]
    families: dict[tuple[str, str], list[int]] = {}
    for position, row in enumerate(rows):
        row["p_holm"] = None
        if row.get("p") is not None:
            families.setdefault((str(row["study"]), str(row["factor"]).split(":")[0]), []).append(position)
    for positions in families.values():
        for position, value in zip(positions, holm([rows[k]["p"] for k in positions]), strict=True):
            rows[position]["p_holm"] = float(value)
    return rows


def _columns(name: str, cluster: Any, **columns: Any) -> tuple[np.ndarray, ...]:
    made: list[np.ndarray] = []
    first, length = next(iter(columns)), -1
    for label, values in columns.items():
        column = np.asarray(values, np.float64)
        if column.ndim != 1 or len(column) == 0:
            raise ValueError(f"[{name}] expected {label} [n] with n >= 1, got shape {column.shape}")
        length = len(column) if length < 0 else length
        if len(column) != length:
            raise ValueError(f"[{name}] expected {label} with {length} values like {first}, got {len(column)}")
        if not np.isfinite(column).all():
            raise ValueError(
                f"[{name}] expected {label} finite, got {column[~np.isfinite(column)][0]} "
                f"at position {int(np.flatnonzero(~np.isfinite(column))[0])}"
            )
        made.append(column)
    return (*made, _codes(name, "cluster", cluster, length))


def _codes(name: str, label: str, values: Any, length: int) -> np.ndarray:
    table = np.asarray(values)
    if table.ndim not in (1, 2) or len(table) != length:
        raise ValueError(f"[{name}] expected {label} with {length} values, got shape {table.shape}")
    return np.unique(table, axis=0, return_inverse=True)[1].reshape(-1)


def _p_values(name: str, p: Any) -> tuple[np.ndarray, np.ndarray]:
    p = np.asarray(p, np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"[{name}] expected p [n] in [0, 1], got {p.tolist()}")
    return p, np.argsort(p, kind="stable")


def _count(codes: np.ndarray) -> int:
    return int(codes.max()) + 1


def _ratio(top: float, bottom: float) -> float:
    return float(top) / float(bottom) if bottom > 0 else math.nan


def _centre(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
    size = np.bincount(codes)
    return values - (np.bincount(codes, values) / np.maximum(size, 1))[codes]


def _residual(values: np.ndarray, regressors: Sequence[np.ndarray], codes: np.ndarray) -> np.ndarray:
    design = np.stack([_centre(column, codes) for column in regressors], axis=1)
    centred = _centre(values, codes)
    return centred - design @ np.linalg.lstsq(design, centred, rcond=None)[0]


def _correlation(
    name: str,
    x: np.ndarray,
    y: np.ndarray,
    codes: np.ndarray,
    strata: np.ndarray | None,
    kind: str,
    seed: int,
    resamples: int,
) -> Estimate:
    from scipy import stats

    if kind not in ("spearman", "pearson"):
        raise ValueError(f'[{name}] expected kind "spearman" or "pearson", got {kind!r}')

    def prepared(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        values = values[rows] if strata is None else _centre(values[rows], strata[rows])
        # centring leaves rounding that would break ties between equal values
        return stats.rankdata(np.round(values, 12)) if kind == "spearman" else values

    def statistic(rows: np.ndarray, groups: np.ndarray) -> float:
        a, b = prepared(x, rows), prepared(y, rows)
        a, b = a - a.mean(), b - b.mean()
        return (
            math.asin(max(-1.0, min(1.0, _ratio(a @ b, math.sqrt((a @ a) * (b @ b))))))
            if a @ a > 0 and b @ b > 0
            else math.nan
        )

    everything = np.arange(len(x))
    a, b = prepared(x, everything), prepared(y, everything)
    for label, values, raw in (("x", a, x), ("y", b, y)):
        if np.var(values) <= _TIE**2 * max(1.0, float(np.abs(raw).max())) ** 2:
            raise ValueError(
                f"[{name}] expected {label} to vary{' within a stratum' if strata is not None else ''}, got a constant"
            )
    value = math.sin(statistic(everything, codes))
    low, high, interval = _interval(statistic, codes, seed, resamples)
    low, high = math.sin(max(low, -math.pi / 2)), math.sin(min(high, math.pi / 2))
    if strata is not None:
        p, permuted = _permute_seeds(a - a.mean(), b - b.mean(), strata, codes, seed, resamples)
    else:
        block = codes if np.bincount(codes).max() > 1 else np.zeros_like(codes)
        p, permuted = _permute_within(_centre(a, block), b, block, seed, resamples)
    where = " of values centred by overlap" if strata is not None else ""
    return Estimate(
        value, low, high, p, len(x), _count(codes), f"{kind.capitalize()} correlation{where}; {interval}; {permuted}"
    )


def _interval(statistic: Statistic, codes: np.ndarray, seed: int, resamples: int) -> tuple[float, float, str]:
    from scipy import stats

    clusters = _count(codes)
    members = [np.flatnonzero(codes == code) for code in range(clusters)]
    if clusters < 2:
        return math.nan, math.nan, "one seed: no interval"
    if clusters < BOOTSTRAP_FROM:
        left_out = [
            statistic(rows, codes[rows]) for rows in (np.flatnonzero(codes != code) for code in range(clusters))
        ]
        spread = math.sqrt((clusters - 1) / clusters * float(np.sum((np.asarray(left_out) - np.mean(left_out)) ** 2)))
        if not math.isfinite(spread):
            return math.nan, math.nan, "too few seeds for an interval: without one of them there is no estimate"
        centre = statistic(np.arange(len(codes)), codes)
        reach = float(stats.t.ppf(0.5 + LEVEL / 2, clusters - 1)) * spread
        return (
            centre - reach,
            centre + reach,
            f"95 % interval from leaving out one seed at a time, t with {clusters - 1} degrees of freedom",
        )
    random = np.random.default_rng([seed, 1])
    values = []
    for draw in random.integers(0, clusters, size=(resamples, clusters)):
        rows = np.concatenate([members[code] for code in draw])
        groups = np.repeat(np.arange(clusters), [len(members[code]) for code in draw])
        values.append(statistic(rows, groups))
    low, high = np.nanquantile(values, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    return float(low), float(high), f"95 % percentile interval of {resamples:,} bootstrap samples of the seeds"


def _permute_within(
    weights: np.ndarray, y: np.ndarray, block: np.ndarray, seed: int, resamples: int, *, residuals: bool = False
) -> tuple[float, str]:
    members = [rows for rows in (np.flatnonzero(block == code) for code in range(_count(block))) if len(rows) > 1]
    what = "residuals permuted within seed" if residuals else "p from permuting within seed"
    sums = np.zeros(1)
    if math.prod(math.factorial(len(rows)) for rows in members) <= ENUMERATE_UP_TO:
        for rows in members:
            orders = np.array(list(itertools.permutations(range(len(rows)))))
            sums = (sums[:, None] + weights[rows][orders] @ y[rows]).reshape(-1)
        return _share(sums, sums[0], what, exact=True)
    random = np.random.default_rng([seed, 2])
    sums = np.zeros(resamples)
    for rows in members:
        orders = random.permuted(np.tile(np.arange(len(rows)), (resamples, 1)), axis=1)
        sums += weights[rows][orders] @ y[rows]
    return _share(sums, sum(float(weights[rows] @ y[rows]) for rows in members), what, exact=False)


def _permute_seeds(
    weights: np.ndarray, y: np.ndarray, strata: np.ndarray, codes: np.ndarray, seed: int, resamples: int
) -> tuple[float, str]:
    """Seeds swap places as wholes, each stratum for the same stratum; a seed that lacks a stratum stays put."""
    order = np.lexsort((np.arange(len(codes)), strata, codes))
    rows_of = [order[codes[order] == code] for code in range(_count(codes))]
    profile = [tuple(strata[rows]) for rows in rows_of]
    most = max(set(profile), key=lambda p: (profile.count(p), len(p)))
    whole = [rows for rows, own in zip(rows_of, profile, strict=True) if own == most]
    fixed = np.concatenate(
        [np.zeros(0, np.int64), *(rows for rows, own in zip(rows_of, profile, strict=True) if own != most)]
    )
    # products[i, j]: the statistic's part if seed j's outcomes stood in seed i's place
    products = np.array([[weights[a] @ y[b] for b in whole] for a in whole])
    rest, count = float(weights[fixed] @ y[fixed]), len(whole)
    what, places = "p from exchanging whole seeds at fixed overlap", np.arange(count)
    if math.factorial(count) <= ENUMERATE_UP_TO:
        orders = np.array(list(itertools.permutations(range(count))))
        return _share(products[places, orders].sum(axis=1) + rest, float(np.trace(products)) + rest, what, exact=True)
    random = np.random.default_rng([seed, 3])
    orders = random.permuted(np.tile(places, (resamples, 1)), axis=1)
    return _share(products[places, orders].sum(axis=1) + rest, float(np.trace(products)) + rest, what, exact=False)


def _share(sums: np.ndarray, observed: float, what: str, *, exact: bool) -> tuple[float, str]:
    slack = _TIE * max(float(np.abs(sums).max()), abs(observed))
    extreme = int(np.count_nonzero(np.abs(sums) >= abs(observed) - slack))
    if exact:
        smallest = np.count_nonzero(np.abs(sums) >= np.abs(sums).max() - slack) / len(sums)
        return extreme / len(sums), f"{what}, all {len(sums):,} arrangements, smallest possible p {smallest:.2g}"
    return (extreme + 1) / (
        len(sums) + 1
    ), f"{what}, {len(sums):,} random arrangements, smallest possible p {1 / (len(sums) + 1):.2g}"
