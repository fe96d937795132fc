"""Neurons matched with neurons: one to one, softly, by transport, and group by group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arguments import Progress, positive_number
from ..arrays import Rows
from .alignment import best_assignment
from .method import Method
from .registry import Measure, invariant_to, register
from .sides import Side, axes, column_lengths, cross, relabelled, side_of
from .similarity import Distance, Similarity
from .transport import most_transported, most_transported_by_pot


@dataclass(frozen=True, kw_only=True)
class _Neurons(Side):
    lengths: np.ndarray  # [d], norms of the columns

    @property
    def cosines(self) -> np.ndarray:
        """[d, d], between the neurons of this side."""
        return self.own / np.outer(self.lengths, self.lengths)


def _neurons(rows: Rows, *, function: str, threads: int, centred: bool) -> _Neurons:
    side = side_of(rows, function=function, threads=threads, centred=centred)
    return _Neurons(**vars(side), lengths=column_lengths(side, function=function))


def _cosines(x: _Neurons, y: _Neurons, *, function: str, threads: int) -> np.ndarray:
    """[d, d'], between the neurons of both sides; of centred ones, their correlations."""
    return cross(x, y, function=function, threads=threads) / np.outer(x.lengths, y.lengths)


def _hard_correlation_match() -> Method[_Neurons]:
    function = "hard_correlation_match"

    def prepare(rows: Rows, threads: int) -> _Neurons:
        return _neurons(rows, function=function, threads=threads, centred=True)

    def between(x: _Neurons, y: _Neurons, threads: int) -> float:
        correlations = _cosines(x, y, function=function, threads=threads)
        return best_assignment(correlations) / min(correlations.shape)

    return Method(prepare, between, relabelled)


def _soft_correlation_match(symmetric: bool = False) -> Method[_Neurons]:
    function = "soft_correlation_match"

    def prepare(rows: Rows, threads: int) -> _Neurons:
        return _neurons(rows, function=function, threads=threads, centred=True)

    def between(x: _Neurons, y: _Neurons, threads: int) -> float:
        correlations = _cosines(x, y, function=function, threads=threads)
        there = float(correlations.max(axis=1).mean())
        return (there + float(correlations.max(axis=0).mean())) / 2 if symmetric else there

    return Method(prepare, between, relabelled)


def _soft_matching(solver: str = "scipy") -> Method[Side]:
    function = "soft_matching"
    if solver not in ("scipy", "pot"):
        raise ValueError(f"[{function}] expected solver scipy or pot, got {solver!r}")
    most = most_transported if solver == "scipy" else most_transported_by_pot

    def prepare(rows: Rows, threads: int) -> Side:
        return side_of(rows, function=function, threads=threads)

    def between(x: Side, y: Side, threads: int) -> float:
        product = cross(x, y, function=function, threads=threads)
        squares = x.squares / x.rows.depth + y.squares / y.rows.depth
        return float(np.sqrt(max(squares - 2 * most(product), 0.0)))  # rounding leaves -1e-16

    return Method(prepare, between, relabelled)


def _maximum_matching(epsilon: float = 0.25) -> Method[_Neurons]:
    function = "maximum_matching"
    if not positive_number(epsilon, "epsilon", function=function) < 1:
        raise ValueError(f"[{function}] expected epsilon between 0 and 1, got {epsilon!r}")

    def prepare(rows: Rows, threads: int) -> _Neurons:
        return _neurons(rows, function=function, threads=threads, centred=False)

    def between(x: _Neurons, y: _Neurons, threads: int) -> float:
        cosines = _cosines(x, y, function=function, threads=threads)
        within = {0: x.cosines, 1: y.cosines}
        left = {0: np.arange(x.rows.depth), 1: np.arange(y.rows.depth)}
        checked, side = 0, 0
        # Neurons that the others cannot explain leave; a set that shrinks explains less, so the other side is next.
        while checked < 2:
            other = 1 - side
            mine, theirs = left[side], left[other]
            across = (cosines if side == 0 else cosines.T)[np.ix_(mine, theirs)]
            unexplained = _unexplained(across, within[other][np.ix_(theirs, theirs)], len(x.rows))
            left[side] = mine[unexplained <= epsilon]
            checked = checked + 1 if len(left[side]) == len(mine) else 1
            side = other
        return (len(left[0]) + len(left[1])) / (x.rows.depth + y.rows.depth)

    return Method(prepare, between, relabelled)


def _unexplained(across: np.ndarray, within: np.ndarray, n: int) -> np.ndarray:
    """[a]: how far unit vectors are from the span of b others, from the cosines across [a, b] and of those [b, b]."""
    if not across.size:
        return np.ones(len(across))
    explained = ((across @ axes(within, n).whitening) ** 2).sum(axis=1)
    return np.asarray(np.sqrt(np.maximum(1 - explained, 0.0)))  # rounding leaves -1e-16


HARD_CORRELATION_MATCH = register(
    Measure(
        name="hard_correlation_match",
        family="matching",
        kind="similarity",
        low=-1.0,
        high=1.0,
        symmetric=True,
        invariances=invariant_to("permutation", "isotropic_scaling", "translation"),
        cost="time n (d + d')^2 + max(d, d')^3, memory d^2 + d'^2",
        paper="Li, Yosinski, Clune, Lipson and Hopcroft (2016), Convergent learning: do different neural networks "
        "learn the same representations?",
        formula="max over one-to-one matches m of the mean over j of corr(x_j, y_m(j))",
        aliases=("ReSi: hard_correlation_match",),
        note="of unequal widths, the neurons of the wider side without a partner do not count; correlations keep their "
        "sign.",
        method=_hard_correlation_match,
        self_value=1.0,
        gpu=True,
    )
)

SOFT_CORRELATION_MATCH = register(
    Measure(
        name="soft_correlation_match",
        family="matching",
        kind="similarity",
        low=-1.0,
        high=1.0,
        symmetric=False,
        invariances=invariant_to("permutation", "isotropic_scaling", "translation"),
        cost="time n (d + d')^2, memory d^2 + d'^2",
        paper="Li, Yosinski, Clune, Lipson and Hopcroft (2016), Convergent learning: do different neural networks "
        "learn the same representations?",
        formula="mean over j of max over k of corr(x_j, y_k)",
        aliases=("ReSi: soft_correlation_match (symmetric=True)",),
        note="how well y has the neurons of x, many of which may share a partner; correlations keep their sign.",
        method=_soft_correlation_match,
        self_value=1.0,
        gpu=True,
    )
)

SOFT_MATCHING = register(
    Measure(
        name="soft_matching",
        family="matching",
        kind="distance",
        low=0.0,
        high=np.inf,
        symmetric=True,
        metric=True,
        invariances=invariant_to("permutation", "translation"),
        cost="time n (d + d')^2 + max(d, d')^3, more where neither width divides the other; memory d^2 + d'^2",
        paper="Khosla and Williams (2024), Soft matching distance: a metric on neural representations that captures "
        "single-neuron tuning",
        formula="sqrt(min of sum_ij P_ij |x_i - y_j|^2 over P >= 0 with rows of sum 1 / d, columns of 1 / d')",
        note="the 2-Wasserstein distance of centred neurons, across any widths; of one width d it is "
        "permutation_procrustes / sqrt(d). It grows with the number of inputs.",
        method=_soft_matching,
        self_value=0.0,
        gpu=True,
    )
)

MAXIMUM_MATCHING = register(
    Measure(
        name="maximum_matching",
        family="matching",
        kind="similarity",
        low=0.0,
        high=1.0,
        symmetric=True,
        invariances=invariant_to("permutation", "isotropic_scaling"),
        cost="time n (d + d')^2 + (d + d')^3 for each round of removals, memory d^2 + d'^2",
        paper="Wang, Hu, Gu, Hu, Wu, He and Hopcroft (2018), Towards understanding learning representations",
        formula="(a + b) / (d + d'), of the largest sets of a neurons of x and b of y, each within epsilon of its own "
        "length from the span of the other set",
        note="not centred, as defined. With n <= d or d' a span is everything, and all neurons match.",
        method=_maximum_matching,
        self_value=1.0,
        gpu=True,
    )
)


def hard_correlation_match(
    x: Any,
    y: Any,
    *,
    permutations: int = 0,
    seed: int = 0,
    jackknife: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
    device: Any = None,
) -> Similarity:
    """Mean correlation of neurons that are matched one to one as well as can be.

    Example::

        repsim.hard_correlation_match(x, 2 * x[:, ::-1] + 3)   # x [1000, 64]: 1
        repsim.hard_correlation_match(x, y)                    # y [1000, 32]: over 32 pairs

    Parameters
    ----------
    x, y: [n, d] and [n, d'] arrays, as for :func:`repsim.cka`. Of unequal widths, the neurons of the wider side that
        find no partner do not count.
    permutations: relabellings of the inputs of y that the null and p are taken from; 0 leaves them out.
    seed: of the relabellings, and of the groups of the jackknife.
    jackknife: groups of inputs, at least 2, each left out once for the standard error; 0 leaves it out.
    threads: default REPSIM_NUM_THREADS, else every CPU of the process.
    progress: called with (steps done, steps in all).
    device: where to work, as for :func:`repsim.cka`; rows on a GPU stay there.

    Returns
    -------
    Similarity in [-1, 1]. Chance is well above 0 for few inputs and many neurons: ask for ``permutations``.

    Raises
    ------
    TypeError, ValueError: inputs that are no rows of floats, differ in length or are not finite (the row is named);
        a constant column (it is named).

    Paper: Li, Yosinski, Clune, Lipson and Hopcroft (2016), "Convergent learning".
    """
    return HARD_CORRELATION_MATCH.evaluate(
        x, y, {}, permutations=permutations, seed=seed, jackknife=jackknife, threads=threads, progress=progress,
        device=device,
    )  # fmt: skip


def soft_correlation_match(
    x: Any,
    y: Any,
    *,
    symmetric: bool = False,
    permutations: int = 0,
    seed: int = 0,
    jackknife: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
    device: Any = None,
) -> Similarity:
    """Mean correlation of every neuron of x with the neuron of y that is most like it.

    Example::

        repsim.soft_correlation_match(x, y)                    # x [1000, 64], y [1000, 32]: mean over 64 neurons
        repsim.soft_correlation_match(x, y, symmetric=True)    # the mean of both directions

    Parameters
    ----------
    symmetric: take the mean of soft_correlation_match(x, y) and soft_correlation_match(y, x).
    x, y, permutations, seed, jackknife, threads, progress, device: as for :func:`repsim.hard_correlation_match`.

    Returns
    -------
    Similarity in [-1, 1], not symmetric unless asked to be; at least that of :func:`repsim.hard_correlation_match`
    where d <= d'.

    Raises
    ------
    TypeError, ValueError: as for :func:`repsim.hard_correlation_match`.

    Paper: Li, Yosinski, Clune, Lipson and Hopcroft (2016), "Convergent learning", who call it semi-matching.
    """
    return SOFT_CORRELATION_MATCH.evaluate(
        x, y, {"symmetric": symmetric}, permutations=permutations, seed=seed, jackknife=jackknife, threads=threads,
        progress=progress, device=device,
    )  # fmt: skip


def soft_matching(
    x: Any,
    y: Any,
    *,
    solver: str = "scipy",
    permutations: int = 0,
    seed: int = 0,
    jackknife: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
    device: Any = None,
) -> Distance:
    """How far the neurons of one centred representation must be moved to become those of the other.

    Example::

        repsim.soft_matching(x, x[:, ::-1] + 3)                # x [1000, 64]: 0
        repsim.soft_matching(x, np.repeat(x, 2, axis=1))       # 0 too: every neuron counts for its share
        repsim.soft_matching(x, y, solver="pot")               # y [1000, 48]

    Parameters
    ----------
    solver: "scipy", an assignment where one width is a multiple of the other and else a linear programme (a second for
        200 neurons, a minute for 600), or "pot", the network simplex of POT, which takes half a second for 1000 and
        comes with ``pip install "repsim-exact[transport]"``. Both are exact.
    x, y, permutations, seed, jackknife, threads, progress, device: as for :func:`repsim.hard_correlation_match`.

    Returns
    -------
    Distance, a metric across any widths: the root of the least sum_ij P_ij |x_i - y_j|^2, where P >= 0 moves 1 / d away
    from every neuron of x and 1 / d' to every neuron of y. For one width d that is
    ``permutation_procrustes(x, y) / sqrt(d)``.

    Raises
    ------
    TypeError, ValueError: inputs that are no rows of floats, differ in length or are not finite (the row is named); a
        solver of another name.
    ImportError: POT was asked for and is not there.
    RuntimeError: the solver found no optimum.

    Paper: Khosla and Williams (2024), "Soft matching distance: a metric on neural representations that captures
        single-neuron tuning".
    """
    return SOFT_MATCHING.evaluate(
        x, y, {"solver": solver}, permutations=permutations, seed=seed, jackknife=jackknife, threads=threads,
        progress=progress, device=device,
    )  # fmt: skip


def maximum_matching(
    x: Any,
    y: Any,
    *,
    epsilon: float = 0.25,
    permutations: int = 0,
    seed: int = 0,
    jackknife: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
    device: Any = None,
) -> Similarity:
    """The share of neurons in the largest two sets that explain each other linearly.

    Example::

        repsim.maximum_matching(x, x @ invertible)             # x [1000, 64]: 1
        repsim.maximum_matching(x, y, epsilon=0.5)             # y [1000, 32]

    Parameters
    ----------
    epsilon: between 0 and 1, exclusive: how far, as a share of its own length, a neuron may be from the span of the
        neurons matched on the other side. Below about 1e-6 rounding decides.
    x, y, permutations, seed, jackknife, threads, progress, device: as for :func:`repsim.hard_correlation_match`.

    Returns
    -------
    Similarity in [0, 1]: (a + b) / (d + d'), of the unique largest match. Vectors are those of the n activations, not
    centred. Directions of a span that are shorter than about 1e-7 of its longest, of neurons of unit length, count as
    none.

    Raises
    ------
    TypeError, ValueError: as for :func:`repsim.hard_correlation_match`, but for constant columns; a column of zeros (it
        is named); ``epsilon`` not between 0 and 1.

    Paper: Wang, Hu, Gu, Hu, Wu, He and Hopcroft (2018), "Towards understanding learning representations: to what extent
        do different neural networks learn the same representation".
    """
    return MAXIMUM_MATCHING.evaluate(
        x, y, {"epsilon": epsilon}, permutations=permutations, seed=seed, jackknife=jackknife, threads=threads,
        progress=progress, device=device,
    )  # fmt: skip
