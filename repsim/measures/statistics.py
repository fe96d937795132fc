"""Statistics of one representation, and how far apart two representations are in one: |statistic - statistic'|."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..arguments import Progress, positive_number, thread_count
from ..arrays import Rows
from ..reductions import (
    column_sums,
    directions,
    dissimilarities_of,
    dissimilarity_pairs,
    exponential,
    placed,
    rows_on,
    working_on,
)
from .method import Method
from .registry import Measure, invariant_to, register
from .similarity import Distance

# A mean shorter than this share of the largest entry is what rounding leaves of rows that were centred.
CENTRED = 1e-12


def statistic_of(
    statistic: Callable[..., float], function: str, x: Any, threads: int | None, device: Any, **options: Any
) -> float:
    """A statistic of what a caller gave as x."""
    rows, cpus = rows_on(x, device, function=function, name="x"), thread_count(threads, function=function)
    with working_on([rows], function=function):
        return statistic(rows, function=function, threads=cpus, **options)


def difference_in(
    statistic: Callable[..., float], function: str, *, least_rows: int = 1
) -> Callable[..., Method[float]]:
    """What makes the method |statistic - statistic'| from a statistic's options; no order of inputs changes it."""

    def method(**options: Any) -> Method[float]:
        def prepare(rows: Rows, threads: int) -> float:
            return statistic(rows, function=function, threads=threads, **options)

        return Method(prepare, _apart, lambda value, order: value, least_rows)

    given = inspect.signature(statistic).parameters
    own = [given[name] for name in given if name not in ("rows", "function", "threads")]
    method.__signature__ = inspect.Signature(own)  # type: ignore[attr-defined]  # the options that it takes
    return method


def _apart(x: float, y: float, threads: int) -> float:
    return abs(x - y)


def _mean_row(rows: Rows, function: str, threads: int) -> tuple[np.ndarray, float]:
    """The mean of the rows over its length, and that length."""
    mean = column_sums(rows, function=function, threads=threads) / len(rows)
    largest = float(np.abs(mean).max())
    if largest == 0:
        return mean, 0.0
    length = largest * math.sqrt(float(((mean / largest) ** 2).sum()))
    return mean / length, length


def _magnitude(rows: Rows, *, function: str, threads: int) -> float:
    return _mean_row(rows, function, threads)[1]


def unit_block(rows: Rows, start: int, stop: int, function: str) -> Any:
    """Rows over their lengths, where they lie."""
    found, fine = directions(rows.wide_there(slice(start, stop)))
    if not fine.all():
        raise ValueError(f"[{function}] expected {rows.name} with non-zero rows, got row {start + int(fine.argmin())}")
    return found


def _concentricity(rows: Rows, *, function: str, threads: int) -> float:
    direction, length = _mean_row(rows, function, threads)
    cosines, largest = [], 0.0
    for start, stop in rows.sweep():
        cosines.append(float((unit_block(rows, start, stop, function) * placed(rows, direction)).sum()))
        largest = max(largest, float(abs(rows.wide_there(slice(start, stop))).max()))
    if not length > CENTRED * largest:
        raise ValueError(
            f"[{function}] expected {rows.name} whose mean has a direction, got a mean of length {length:.3g} with "
            f"entries up to {largest:.3g}: rows that were centred have no concentricity"
        )
    return math.fsum(cosines) / len(rows)


def _uniformity(
    rows: Rows, *, function: str, threads: int, t: float = 2.0, unit_rows: bool = True, include_self: bool = False
) -> float:
    rate, n = positive_number(t, "t", function=function), len(rows)
    if n < 2:
        raise ValueError(f"[{function}] expected at least 2 inputs, got {n}")
    # Of unit rows |x - y|^2 = 2 (1 - cosine).
    kind, rate = ("cosine", 2 * rate) if unit_rows else ("squared_euclidean", rate)
    side = dissimilarities_of(rows, kind, function=function, threads=threads)
    largest, total = -math.inf, 0.0  # the sum of exp is total exp(largest)
    for (exponents,) in dissimilarity_pairs([side], threads=threads):
        exponents *= -rate
        top = float(exponents.max())
        if top > largest:
            total, largest = total * math.exp(largest - top), top
        exponents -= largest
        total += float(exponential(exponents).sum())
    log_sum = largest + math.log(total)  # over i < j
    if include_self:
        return float(np.logaddexp(math.log(2) + log_sum, math.log(n))) - 2 * math.log(n)
    return log_sum - math.log(n * (n - 1) / 2)


def magnitude(x: Any, *, threads: int | None = None, device: Any = None) -> float:
    """Length of the mean row: |mean_i x_i|. ``x`` [n, d] and ``device`` as for :func:`repsim.cka`."""
    return statistic_of(_magnitude, "magnitude", x, threads, device)


def concentricity(x: Any, *, threads: int | None = None, device: Any = None) -> float:
    """Mean cosine between the rows and their mean, from -1 to 1. ``x`` [n, d] as for :func:`repsim.cka`, without zero
    rows and with a mean that is not 0 up to rounding; see :func:`concentricity_difference`."""
    return statistic_of(_concentricity, "concentricity", x, threads, device)


def uniformity(
    x: Any,
    *,
    t: float = 2.0,
    unit_rows: bool = True,
    include_self: bool = False,
    threads: int | None = None,
    device: Any = None,
) -> float:
    """log mean exp(-t |x_i - x_j|^2) over the pairs of inputs, at most 0. ``x`` [n, d] as for :func:`repsim.cka`, n at
    least 2; the options are those of :func:`uniformity_difference`."""
    options: dict[str, Any] = {"t": t, "unit_rows": unit_rows, "include_self": include_self}
    return statistic_of(_uniformity, "uniformity", x, threads, device, **options)


MAGNITUDE_DIFFERENCE = register(
    Measure(
        name="magnitude_difference",
        family="statistics",
        kind="distance",
        low=0.0,
        high=np.inf,
        symmetric=True,
        metric=True,
        invariances=invariant_to("orthogonal"),
        cost="time n (d + d'), memory d + d'",
        paper="Klabunde, Schumacher, Strohmaier and Lemmerich (2023), Similarity of neural network models",
        formula="| |mean_i x_i| - |mean_i y_i| |",
        aliases=("resi: MagnitudeDifference",),
        note="Of the mean row, not the mean length of the rows. No relabelling of the inputs changes it.",
        method=difference_in(_magnitude, "magnitude_difference"),
        self_value=0.0,
        gpu=True,
    )
)
CONCENTRICITY_DIFFERENCE = register(
    Measure(
        name="concentricity_difference",
        family="statistics",
        kind="distance",
        low=0.0,
        high=2.0,
        symmetric=True,
        metric=True,
        invariances=invariant_to("orthogonal", "isotropic_scaling"),
        cost="time n (d + d'), memory d + d'",
        paper="Klabunde, Schumacher, Strohmaier and Lemmerich (2023), Similarity of neural network models",
        formula="|mean_i cos(x_i, mean x) - mean_i cos(y_i, mean y)|",
        aliases=("resi: ConcentricityDifference",),
        note="It has no meaning for rows that were centred. No relabelling of the inputs changes it.",
        method=difference_in(_concentricity, "concentricity_difference"),
        self_value=0.0,
        gpu=True,
    )
)
UNIFORMITY_DIFFERENCE = register(
    Measure(
        name="uniformity_difference",
        family="statistics",
        kind="distance",
        low=0.0,
        high=np.inf,
        symmetric=True,
        metric=True,
        invariances=invariant_to("orthogonal", "isotropic_scaling"),
        cost="time n^2 (d + d'), memory n",
        paper="Wang and Isola (2020), Understanding contrastive representation learning",
        formula="|u(x) - u(y)|, u(x) = log mean over i != j of exp(-2 |x_i - x_j|^2), rows of length 1",
        aliases=("resi: UniformityDifference",),
        note="resi takes rows as they are and counts every row beside itself, which holds u at -log n for long rows.",
        method=difference_in(_uniformity, "uniformity_difference", least_rows=2),
        self_value=0.0,
        gpu=True,
    )
)


def magnitude_difference(
    x: Any,
    y: Any,
    *,
    permutations: int = 0,
    seed: int = 0,
    jackknife: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
    device: Any = None,
) -> Distance:
    """How far the lengths of the mean rows are apart: | |mean_i x_i| - |mean_i y_i| |.

    Example::

        repsim.magnitude_difference(x, y)                    # x [n, d], y [n, d']
        abs(repsim.magnitude(x) - repsim.magnitude(y))       # the same number

    Parameters
    ----------
    x, y: [n, d] and [n, d'] arrays, as for :func:`repsim.cka`.
    permutations: relabellings of the inputs of y. None of them changes a statistic of one representation: the null is
        the value itself, and p is 1.
    seed: of the groups of the jackknife.
    jackknife: groups of inputs, each left out once for the standard error; 0 leaves it out.
    threads, device: as for :func:`repsim.cka`.

    Returns
    -------
    Distance, at least 0.

    Raises
    ------
    TypeError, ValueError: as for :func:`repsim.cka`; equal rows are taken.

    Paper: as a measure of similarity in Klabunde, Schumacher, Strohmaier and Lemmerich (2023), "Similarity of neural
        network models: a survey of functional and representational measures".
    """
    return MAGNITUDE_DIFFERENCE.evaluate(
        x, y, {}, permutations=permutations, seed=seed, jackknife=jackknife, threads=threads, progress=progress,
        device=device,
    )  # fmt: skip


def concentricity_difference(
    x: Any,
    y: Any,
    *,
    permutations: int = 0,
    seed: int = 0,
    jackknife: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
    device: Any = None,
) -> Distance:
    """How far the mean cosines between the rows and their mean are apart.

    Example::

        repsim.concentricity_difference(x, y)                # x [n, d], y [n, d']; near 1 each for a narrow cone

    Parameters
    ----------
    x, y, permutations, seed, jackknife, threads, device: as for :func:`magnitude_difference`.

    Returns
    -------
    Distance from 0 to 2: |c(x) - c(y)| with c(x) = mean_i cos(x_i, mean_j x_j), :func:`concentricity`.

    Raises
    ------
    TypeError, ValueError: as for :func:`magnitude_difference`; a zero row; rows whose mean is 0 up to rounding (1e-12
        of the largest entry).

    Paper: as of :func:`magnitude_difference`.
    """
    return CONCENTRICITY_DIFFERENCE.evaluate(
        x, y, {}, permutations=permutations, seed=seed, jackknife=jackknife, threads=threads, progress=progress,
        device=device,
    )  # fmt: skip


def uniformity_difference(
    x: Any,
    y: Any,
    *,
    t: float = 2.0,
    unit_rows: bool = True,
    include_self: bool = False,
    permutations: int = 0,
    seed: int = 0,
    jackknife: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
    device: Any = None,
) -> Distance:
    """How far the uniformities are apart, each the log of the mean Gaussian potential between its inputs.

    Example::

        repsim.uniformity_difference(x, y)                                        # x [n, d], y [n, d']
        repsim.uniformity_difference(x, y, unit_rows=False, include_self=True)    # as the survey has it

    Parameters
    ----------
    x, y, permutations, seed, jackknife, threads, device: as for :func:`magnitude_difference`; at least 2 inputs.
    t: rate of the potential exp(-t |x_i - x_j|^2), above 0; in units of 1 / |x|^2 without ``unit_rows``.
    unit_rows: over their lengths first, as the paper has them; False takes the rows as they are.
    include_self: the mean over all n^2 pairs, every input beside itself among them, in the place of the pairs i < j.

    Returns
    -------
    Distance, at least 0: |u(x) - u(y)| with u of :func:`uniformity`. Potentials are summed in float64 tile by tile,
    over the largest of them: none is lost to underflow.

    Raises
    ------
    TypeError, ValueError: as for :func:`magnitude_difference`; a zero row where they are brought to length 1.

    Paper: Wang and Isola (2020), "Understanding contrastive representation learning through alignment and uniformity on
        the hypersphere".
    """
    options = {"t": t, "unit_rows": unit_rows, "include_self": include_self}
    return UNIFORMITY_DIFFERENCE.evaluate(
        x, y, options, permutations=permutations, seed=seed, jackknife=jackknife, threads=threads, progress=progress,
        device=device,
    )  # fmt: skip
