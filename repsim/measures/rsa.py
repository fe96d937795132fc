"""Representational similarity analysis: how alike the dissimilarities between inputs are on both sides."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from .. import reductions
from ..arguments import Progress, memory_budget, require_memory, thread_count, whole_number
from ..arrays import Rows, same_inputs
from ..reductions import DISSIMILARITIES, Dissimilarities, DistanceRanks, dissimilarities_of, dissimilarity_pairs
from ..reductions.distance_ranks import HELD, held_bytes, rank_precision
from .method import Method, evaluate
from .registry import Measure, invariant_to, register
from .similarity import Distance, Similarity

COMPARISONS = ("spearman", "pearson", "kendall", "cosine")
MOST_HELD = 16384  # inputs, whose n (n - 1) / 2 dissimilarities or ranks take 1 GiB of float64 a side
CONSTANT = 1e-10  # dissimilarities that differ by less than this share of the largest are equal up to rounding
_CHUNK = 2**16


def _rsa(
    comparison: str = "spearman", rdm: str = "euclidean", ranks: str | None = None, memory: int | str | None = None
) -> Method[Any]:
    _check_choice("comparison", comparison, COMPARISONS, "rsa")
    _check_choice("rdm", rdm, DISSIMILARITIES, "rsa")
    if ranks is not None:
        _check_choice("ranks", ranks, ("float64", "float32"), "rsa")
    budget = memory_budget(memory, function="rsa")
    side = partial(_side, kind=rdm, function="rsa")
    if comparison == "spearman":
        precision = partial(rank_precision, ranks=ranks, memory=budget)

        def prepare(rows: Rows, threads: int) -> _Ranked | _Counted:
            if precision(len(rows)) == "float32":
                return _counted(rows, side, threads, budget)
            return _ranked(rows, side, _unit_ranks, threads, budget)

        return Method(prepare, _spearman, lambda state, order: state.relabelled(order), 3, precision=precision)
    for name, given in (("ranks", ranks), ("memory", memory)):
        if given is not None:
            raise ValueError(f"[rsa] expected {name} only where comparison is 'spearman', got {name}={given!r}")
    if comparison == "kendall":
        return Method(lambda rows, threads: _ranked(rows, side, lambda v: v, threads), _kendall, _Ranked.relabelled, 3)
    streamed = partial(_streamed, side=side, centred=comparison == "pearson")
    return Method(streamed, _correlation, _Streamed.relabelled, 3)


def _check_choice(name: str, value: Any, among: tuple[str, ...], function: str) -> None:
    if value not in among:
        *others, last = map(repr, among)
        raise ValueError(f"[{function}] expected {name} {', '.join(others)} or {last}, got {value!r}")


def _side(rows: Rows, threads: int, *, kind: str, function: str) -> Dissimilarities:
    least = {"correlation": 3, "cosine": 2}.get(kind, 1)
    if rows.depth < least:  # of fewer values every correlation, or every cosine, is 1 or -1
        raise ValueError(
            f"[{function}] expected {rows.name} with at least {least} columns for the {kind} distance, got {rows.depth}"
        )
    return dissimilarities_of(rows, kind, function=function, threads=threads)


def _require_spread(rows: Rows, least: float, most: float) -> None:
    if not most - least > CONSTANT * most:
        raise ValueError(
            f"[rsa] expected {rows.name} whose dissimilarities differ, got all pairs of inputs {most:.3g} apart up to "
            "rounding"
        )


# ---------------------------------------------------------------------------------------------- Pearson and cosine


@dataclass(frozen=True)
class _Streamed:
    """Sums over the pairs i < j of D - shift; shift, and with it the sum, are 0 for the cosine."""

    side: Dissimilarities
    shift: float
    total: float
    squares: float

    def relabelled(self, order: np.ndarray) -> _Streamed:
        return replace(self, side=self.side.relabelled(order))


def _streamed(rows: Rows, threads: int, *, side: Callable[..., Dissimilarities], centred: bool) -> _Streamed:
    own = side(rows, threads)
    shift = own.typical(threads) if centred else 0.0
    totals, squares, least, most = [], [], math.inf, 0.0
    for values in dissimilarity_pairs([own], threads=threads):
        least, most = min(least, float(values[0].min())), max(most, float(values[0].max()))
        values[0] -= shift
        totals.append(float(values[0].sum()))
        squares.append(float((values[0] * values[0]).sum()))
    if centred:
        _require_spread(rows, least, most)
    elif most == 0:
        raise ValueError(f"[rsa] expected {rows.name} whose rows differ, got all dissimilarities zero")
    return _Streamed(own, shift, math.fsum(totals) if centred else 0.0, math.fsum(squares))


def _correlation(x: _Streamed, y: _Streamed, threads: int) -> float:
    pairs = len(x.side) * (len(x.side) - 1) // 2
    product = math.fsum(
        float(((a - x.shift) * (b - y.shift)).sum()) for a, b in dissimilarity_pairs([x.side, y.side], threads=threads)
    )
    product -= x.total * y.total / pairs
    return product / math.sqrt((x.squares - x.total**2 / pairs) * (y.squares - y.total**2 / pairs))


# ---------------------------------------------------------------------------------------------- Spearman and Kendall


@dataclass(frozen=True)
class _Ranked:
    """A number for every pair i < j, [n (n - 1) / 2] in the order of scipy's pdist."""

    n: int
    values: np.ndarray

    def relabelled(self, order: np.ndarray) -> _Ranked:
        """Input i of the result is input ``order[i]`` of this."""
        n, values, start = self.n, np.empty_like(self.values), 0
        for i in range(n - 1):
            low, high = np.minimum(order[i], order[i + 1 :]), np.maximum(order[i], order[i + 1 :])
            stop = start + n - 1 - i
            values[start:stop] = self.values[low * (2 * n - 3 - low) // 2 + high - 1]
            start = stop
        return _Ranked(n, values)


def _ranked(
    rows: Rows,
    side: Callable[..., Dissimilarities],
    of: Callable[[np.ndarray], np.ndarray],
    threads: int,
    memory: int | None = None,
) -> _Ranked:
    n = len(rows)
    if n > MOST_HELD:
        instead = 'ranks="float32"' if of is _unit_ranks else 'comparison="spearman"'
        raise ValueError(
            f"[rsa] expected at most {MOST_HELD} inputs where all n (n - 1) / 2 dissimilarities are held, got {n}; "
            f"give {instead}, or sample={MOST_HELD} or fewer"
        )
    purpose = f"{HELD} vectors of the n (n - 1) / 2 dissimilarities of {rows.name}"
    require_memory(held_bytes(n), memory, function="rsa", purpose=purpose)
    values = side(rows, threads).condensed()
    _require_spread(rows, float(values.min()), float(values.max()))
    return _Ranked(n, of(values))


@dataclass(frozen=True)
class _Counted:
    """Ranks of dissimilarities rounded to float32, found by counting."""

    ranks: DistanceRanks
    memory: int | None

    def relabelled(self, order: np.ndarray) -> _Counted:
        return replace(self, ranks=self.ranks.relabelled(order))


def _counted(rows: Rows, side: Callable[..., Dissimilarities], threads: int, memory: int | None) -> _Counted:
    ranks = reductions.distance_ranks(side(rows, threads), function="rsa", threads=threads, memory=memory)
    _require_spread(rows, ranks.least, ranks.most)
    return _Counted(ranks, memory)


def _unit_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks, ties at their mean, less the mean of all and over their length, in the place of the values."""
    m = len(values)
    order = np.argsort(values)
    first = np.ones(m, bool)  # of the entries, ascending, that are equal to each other
    ascending = values[order]
    np.not_equal(ascending[1:], ascending[:-1], out=first[1:])
    del ascending
    bounds = np.append(np.flatnonzero(first), m)
    ranks = np.add(bounds[1:], bounds[:-1], dtype=np.float64)
    ranks -= m
    ranks /= 2
    values[order] = ranks if len(ranks) == m else np.repeat(ranks, np.diff(bounds))
    values /= math.sqrt(_product(values, values))
    return values


def _product(a: np.ndarray, b: np.ndarray) -> float:
    """a.b in one order of additions, whatever the threads."""
    return math.fsum(float((a[s : s + _CHUNK] * b[s : s + _CHUNK]).sum()) for s in range(0, len(a), _CHUNK))


def _spearman(x: Any, y: Any, threads: int) -> float:
    """Of two :class:`_Ranked`, or of two :class:`_Counted`: the number of inputs decides, which is that of both."""
    if isinstance(x, _Counted):
        return reductions.rank_correlation(x.ranks, y.ranks, function="rsa", threads=threads, memory=x.memory)
    return _product(x.values, y.values)


def _kendall(x: _Ranked, y: _Ranked, threads: int) -> float:
    from scipy.stats import kendalltau

    # tau-b is (concordant - discordant) over the root of the pairs that are not tied in x times those not in y; tau-a
    # is the same over all pairs.
    tau_b = float(kendalltau(x.values, y.values, method="asymptotic").statistic)
    return tau_b * math.sqrt(_untied(x.values)) * math.sqrt(_untied(y.values))


def _untied(values: np.ndarray) -> float:
    """The share of pairs of entries that differ."""
    counts = np.unique(values, return_counts=True)[1].astype(float)
    m = float(len(values))
    return 1 - float((counts * (counts - 1)).sum()) / (m * (m - 1))


# ---------------------------------------------------------------------------------------------- the measures

RSA = register(
    Measure(
        name="rsa",
        family="rsa",
        kind="similarity",
        low=-1.0,
        high=1.0,
        symmetric=True,
        invariances=invariant_to("orthogonal", "isotropic_scaling", "translation"),
        cost="time n^2 (d + d'), memory of the numbers that occur; float64 ranks, kendall: time n^2 (d + d' + log n), "
        "memory n^2; pearson, cosine: time n^2 (d + d'), memory n",
        paper="Kriegeskorte, Mur and Bandettini (2008), Representational similarity analysis",
        formula="corr(D_ij, D'_ij over i < j), D and D' the dissimilarities between inputs",
        aliases=("resi: RSA", "rsatoolbox: rdm.compare"),
        note="The correlation, cosine and mahalanobis RDMs have other invariances than the euclidean.",
        method=_rsa,
        self_value=1.0,
        gpu=True,
    )
)


def rsa(
    x: Any,
    y: Any,
    *,
    comparison: str = "spearman",
    rdm: str = "euclidean",
    ranks: str | None = None,
    memory: int | str | None = None,
    sample: int | None = None,
    permutations: int = 0,
    seed: int = 0,
    jackknife: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
    device: Any = None,
) -> Similarity:
    """Correlation of the dissimilarities between all pairs of inputs in both representations.

    Example::

        repsim.rsa(x, y)                                               # x [n, d], y [n, d']
        repsim.rsa(x, y, ranks="float32", memory="1GB")                # of 50 000 inputs and more
        repsim.rsa(x, y, comparison="pearson", rdm="correlation")      # any n, in O(n) memory
        repsim.rsa(x, y, comparison="kendall", sample=2000, seed=1)    # of 2 000 inputs

    Parameters
    ----------
    x, y: [n, d] and [n, d'] arrays, as for :func:`repsim.cka`; at least 3 inputs.
    comparison: of the entries above the diagonals of both matrices of dissimilarities. "spearman": correlation of their
        ranks, ties at their mean. "kendall": tau-a, concordant less discordant over all pairs of entries, so that ties
        count against it, and x with itself gives less than 1 where it has any; of at most 16 384 inputs. "pearson".
        "cosine", which does not subtract the means. The last two are summed tile by tile.
    ranks: what "spearman" ranks. "float64": the dissimilarities as they are. All n (n - 1) / 2 are held, about seven
        such vectors while they are sorted: 7 GiB at 16 384 inputs, the most it takes. "float32": the dissimilarities
        rounded to the 24 significant bits of float32; those that then are equal share a rank, and nothing else is
        rounded: ranks and their products are whole numbers, summed exactly, the same for any memory and number of
        threads. Every number that occurs is counted in a table, from three traversals, at any n. Of Gaussian rows the
        two differ by 2e-9 at 1 000 inputs, by 1e-10 at 5 000. None: "float64" up to 2 048 inputs, where the memory has
        room for it, and "float32" beyond; ``precision`` of the result says which.
    memory: bytes, or text such as "2GB", for the ranks of both sides, in tables or held. Tables take up to 4 GiB unless
        it is given, in most cases a tenth of that.
    rdm: "euclidean"; "squared_euclidean"; "correlation" and "cosine", 1 less that of the two rows (over their d
        features; at least 3 and 2); "mahalanobis", sqrt((a - b)' S^-1 (a - b)) with S the sample covariance (over
        n - 1) of all rows of that side, which must have full rank: directions below 1e-12 of the variance of the
        largest, of standardised features, count as missing.
    sample: so many inputs, drawn without replacement from the seed and the same on both sides, stand for all: these
        alone are then relabelled, and left out. Their rows are copied. None takes every input.
    permutations: relabellings of the inputs of y for the null and p. Each costs one comparison; for "pearson", "cosine"
        and ranks of float32 one more traversal.
    seed: of the sample, the relabellings, and the groups of the jackknife.
    jackknife: groups of inputs, each left out once for the standard error; 0 leaves it out.
    threads, device: as for :func:`repsim.cka`; on a GPU, too, what is held is found and sorted by the host.

    Returns
    -------
    Similarity from -1 to 1. Dissimilarities are found in float64: where they are held from the differences of the rows,
    otherwise from products, with those that would lose digits from the differences. Equal rows are tied in each.

    Raises
    ------
    TypeError, ValueError: as for :func:`repsim.cka`; an unknown comparison, rdm or ranks; more inputs than are held; a
        memory without room for the ranks, or with a comparison that has none; a sample above n; rows that have no such
        dissimilarity; dissimilarities that are all equal.

    Papers: Kriegeskorte, Mur and Bandettini (2008); Nili et al. (2014), "A toolbox for representational similarity
        analysis", for tau-a.
    """
    options: dict[str, Any] = {"comparison": comparison, "rdm": rdm}
    method = _rsa(**options, ranks=ranks, memory=memory)
    if sample is not None:
        x, y = _sampled(x, y, sample, seed, threads, device)
        options |= {"sample": sample, "sample_seed": seed}
    return evaluate(
        method, x, y, name="rsa", options=options, kind="similarity", permutations=permutations, seed=seed,
        jackknife=jackknife, threads=threads, progress=progress, gpu=RSA.gpu, device=device,
    )  # fmt: skip


def _sampled(x: Any, y: Any, sample: int, seed: int, threads: int | None, device: Any) -> tuple[Rows, Rows]:
    """The same inputs of both sides, drawn without replacement, in their order."""
    whole_number(sample, "sample", function="rsa", least=3)
    whole_number(seed, "seed", function="rsa", least=0)
    cpus = thread_count(threads, function="rsa")
    left, right = (reductions.rows_on(one, device, function="rsa", name=name) for one, name in ((x, "x"), (y, "y")))
    n = same_inputs(left, right, function="rsa")
    if sample > n:
        raise ValueError(f"[rsa] expected sample of at most the {n} inputs, got {sample}")
    chosen = np.sort(np.random.default_rng([seed, n]).choice(n, sample, replace=False))
    with reductions.working_on([left, right], function="rsa"):
        for rows in (left, right):  # by the number of the row among all, which the sample would not tell
            reductions.column_sums(rows, function="rsa", threads=cpus)
        return left.alone(chosen), right.alone(chosen)


def _rsm_norm_difference(rsm: str = "euclidean") -> Method[Dissimilarities]:
    function = "rsm_norm_difference"
    _check_choice("rsm", rsm, DISSIMILARITIES, function)

    def between(x: Dissimilarities, y: Dissimilarities, threads: int) -> float:
        squares = math.fsum(float(((a - b) ** 2).sum()) for a, b in dissimilarity_pairs([x, y], threads=threads))
        return math.sqrt(2 * squares)  # every pair stands in the matrix twice

    return Method(partial(_side, kind=rsm, function=function), between, Dissimilarities.relabelled)


RSM_NORM_DIFFERENCE = register(
    Measure(
        name="rsm_norm_difference",
        family="rsa",
        kind="distance",
        low=0.0,
        high=np.inf,
        symmetric=True,
        metric=True,
        invariances=invariant_to("orthogonal", "translation"),
        cost="time n^2 (d + d'), memory n",
        paper="Klabunde, Schumacher, Strohmaier and Lemmerich (2023), Similarity of neural network models",
        formula="|D - D'|_F, D and D' the matrices [n, n] of distances between inputs",
        aliases=("resi: RSMNormDifference",),
        note="The Frobenius norm of the definition; the resi benchmark takes the spectral norm. It grows with n.",
        method=_rsm_norm_difference,
        self_value=0.0,
        gpu=True,
    )
)


def rsm_norm_difference(
    x: Any,
    y: Any,
    *,
    rsm: str = "euclidean",
    permutations: int = 0,
    seed: int = 0,
    jackknife: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
    device: Any = None,
) -> Distance:
    """Frobenius norm of the difference of the two matrices of distances between inputs.

    Example::

        repsim.rsm_norm_difference(x, y)                     # x [n, d], y [n, d']; 0 for y = x @ orthogonal
        repsim.rsm_norm_difference(x, y, rsm="cosine")       # between cosine similarities: 1 less them cancels

    Parameters
    ----------
    x, y, permutations, seed, jackknife, threads, device: as for :func:`rsa`; at least 2 inputs.
    rsm: the kinds of ``rdm`` of :func:`rsa`. The matrices of similarities 1 - D have the same difference.

    Returns
    -------
    Distance, at least 0: sqrt(sum_ij (D_ij - D'_ij)^2) over all n^2 entries, summed in float64 tile by tile.

    Raises
    ------
    TypeError, ValueError: as for :func:`rsa`, but for dissimilarities that are all equal.

    Paper: Klabunde, Schumacher, Strohmaier and Lemmerich (2023), "Similarity of neural network models: a survey of
        functional and representational measures".
    """
    return RSM_NORM_DIFFERENCE.evaluate(
        x, y, {"rsm": rsm}, permutations=permutations, seed=seed, jackknife=jackknife, threads=threads,
        progress=progress, device=device,
    )  # fmt: skip
