"""How alike two representations are in shape at all scales: their loops, and how heat spreads over their neighbours."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..arguments import Progress, whole_number
from ..arrays import Rows, as_rows
from ..reductions import column_sums, nearest
from .method import Method
from .neighbours import check_k
from .registry import Measure, invariant_to, register
from .similarity import Distance

# ---------------------------------------------------------------------------------------------- loops

QUANTILE = 0.9  # of all n^2 distances, that is 1 after scaling


@dataclass(frozen=True)
class _Cloud:
    rows: Rows
    order: np.ndarray | None = None

    def distances(self, some: np.ndarray) -> np.ndarray:
        """[m, m] between the inputs named, over their own quantile."""
        from scipy.spatial.distance import pdist, squareform

        chosen = some if self.order is None else self.order[some]
        between = squareform(pdist(self.rows.wide(chosen)))
        unit = float(np.quantile(between, QUANTILE))
        if not unit > 0:
            raise ValueError(
                f"[rtd] expected {self.rows.name} whose rows differ, got a {QUANTILE} quantile of {unit} of the "
                f"distances of {len(some)} rows"
            )
        return between / unit


def _rtd(batches: int = 10, batch_rows: int = 500, batch_seed: int = 0) -> Method[_Cloud]:
    for value, name, least in ((batches, "batches", 1), (batch_rows, "batch_rows", 3), (batch_seed, "batch_seed", 0)):
        whole_number(value, name, function="rtd", least=least)

    def prepare(rows: Rows, threads: int) -> _Cloud:
        column_sums(rows, function="rtd", threads=threads)  # every row is finite
        return _Cloud(rows)

    def between(x: _Cloud, y: _Cloud, threads: int) -> float:
        n = len(x.rows)
        random = np.random.default_rng(batch_seed)
        if n <= batch_rows:  # every batch would be all of them
            drawn = [np.arange(n)]
        else:
            drawn = [random.choice(n, batch_rows, replace=False) for _ in range(batches)]
        lengths = []
        for some in drawn:
            left, right = x.distances(some), y.distances(some)
            lengths.append((_loops_that_differ(left, right) + _loops_that_differ(right, left)) / 2)
        return float(np.mean(lengths))

    return Method(prepare, between, lambda cloud, order: replace(cloud, order=order), least_rows=3)


def _loops_that_differ(w: np.ndarray, other: np.ndarray) -> float:
    """Summed lengths of the H1 bars of [[0, w'], [w, min(w, other)]]: loops of one graph that the other has not."""
    least = np.minimum(w, other)
    bars = _bars(np.block([[np.zeros_like(w), w.T], [w, least]]))
    return float((bars[:, 1] - bars[:, 0]).sum())


def _bars(distances: np.ndarray) -> np.ndarray:
    """[bars, 2]: birth and death of the one-dimensional homology of the Vietoris-Rips complexes, all of them finite."""
    try:
        from ripser import ripser
    except ImportError as error:
        raise ImportError(
            "[rtd] expected the package ripser, got none; pip install 'repsim-exact[topology]'"
        ) from error
    return np.asarray(ripser(distances, maxdim=1, distance_matrix=True)["dgms"][1], np.float64)


RTD = register(
    Measure(
        name="rtd",
        family="topology",
        kind="distance",
        low=0.0,
        high=np.inf,
        symmetric=True,
        invariances=invariant_to("orthogonal", "isotropic_scaling", "translation"),
        cost="per batch of m rows: m^2 d for distances, and the first homology of 2 m points; memory m^2",
        paper="Barannikov, Trofimov, Balabin and Burnaev (2022), Representation topology divergence",
        formula="mean over batches and both directions of the summed H1 bar lengths of [[0, w'], [w, min(w, v)]]",
        aliases=("RTD: rtd", "ReSi: RTD"),
        note="Grows with the rows of a batch: compare values of one n or one batch_rows.",
        method=_rtd,
        self_value=0.0,
    )
)


def rtd(
    x: Any,
    y: Any,
    *,
    batches: int = 10,
    batch_rows: int = 500,
    batch_seed: int = 0,
    permutations: int = 0,
    seed: int = 0,
    jackknife: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Distance:
    """Representation topology divergence: how long loops of one neighbourhood graph live that the other has not.

    Example::

        repsim.rtd(x, y)                                 # x [n, d], y [n, d']; pip install 'repsim-exact[topology]'
        repsim.rtd(x, y, batches=1, batch_rows=200)

    Parameters
    ----------
    x, y, permutations, seed, jackknife, threads, progress: as for :func:`repsim.procrustes`.
    batches: random sets of inputs that the value is a mean over; one of all inputs where they are no more than
        ``batch_rows``.
    batch_rows: inputs in each. Time grows faster than its square: of normal data in 64 dimensions a batch of
        200 takes 7 s, one of 500 a minute.
    batch_seed: the sets are ``numpy.random.default_rng(batch_seed).choice(n, batch_rows, replace=False)``, one after
        another.

    Returns
    -------
    Distance, 0 for x with itself, its value the same for (x, y) and (y, x). The homology is computed on distances
    rounded to float32. The jackknife takes the sets of inputs anew without each group.

    Raises
    ------
    TypeError, ValueError: bad arrays (as for :func:`repsim.procrustes`); nine in ten distances zero. ImportError: the
        package ripser is missing.

    Formula: Euclidean distances w of x and v of y, each over its own 0.9 quantile; the summed lengths of the bars of
        the first homology of the Vietoris-Rips filtration of [[0, w'], [w, min(w, v)]], averaged with those of w and v
        exchanged.

    Paper: Barannikov, Trofimov, Balabin and Burnaev (2022), "Representation topology divergence: a method for comparing
        neural network representations".
    """
    options = {"batches": batches, "batch_rows": batch_rows, "batch_seed": batch_seed}
    return RTD.evaluate(
        x, y, options, permutations=permutations, seed=seed, jackknife=jackknife, threads=threads, progress=progress
    )


# ---------------------------------------------------------------------------------------------- heat

SPECTRA = ("auto", "exact", "probes")
EXACT_ROWS = 2048  # up to as many inputs "auto" finds all eigenvalues
TEMPERATURES = np.logspace(-1, 1, 256)
UNIT = 1e6  # the values as the paper and its code report them
_DEGREE = 32  # of the Chebyshev series of exp(-t lambda), whose rest is below 1e-16 for t up to 10
_TOGETHER = 16  # probes at a time


def _imd(k: int = 5, spectrum: str = "auto", probes: int = 100, probe_seed: int = 0) -> Method[np.ndarray]:
    if spectrum not in SPECTRA:
        raise ValueError(f"[imd] expected spectrum 'auto', 'exact' or 'probes', got {spectrum!r}")
    for value, name, least in ((k, "k", 1), (probes, "probes", 1), (probe_seed, "probe_seed", 0)):
        whole_number(value, name, function="imd", least=least)

    def prepare(rows: Rows, threads: int) -> np.ndarray:
        check_k(k, len(rows) - 1, len(rows), function="imd")
        lists = nearest(rows, None, k, "euclidean", function="imd", threads=threads).indices
        moves = _normalised_adjacency(lists)
        exact = spectrum == "exact" or (spectrum == "auto" and len(rows) <= EXACT_ROWS)
        return _heat_traces(moves) if exact else _probed_heat_traces(moves, probes, probe_seed)

    def between(x: np.ndarray, y: np.ndarray, threads: int) -> float:
        weight = np.exp(-2 * (TEMPERATURES + 1 / TEMPERATURES))
        return UNIT * float((weight * np.abs(x - y)).max())

    # Which input is which does not matter to it.
    return Method(prepare, between, lambda traces, order: traces)


def _normalised_adjacency(lists: np.ndarray) -> Any:
    """Sparse S [n, n] = D^-1/2 A D^-1/2 of the graph that joins i and j where either lists the other; 1 - S is L."""
    from scipy.sparse import csr_array

    n, k = lists.shape
    directed = csr_array((np.ones(n * k), lists.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))
    joined = (directed + directed.T).tocsr()
    joined.data[:] = 1.0
    root = 1 / np.sqrt(joined.sum(axis=1))
    joined.data *= root[joined.indices] * np.repeat(root, np.diff(joined.indptr))
    return joined


def _heat_traces(moves: Any) -> np.ndarray:
    """mean_j exp(-t lambda_j) at every temperature t, from all eigenvalues of the Laplacian 1 - S. O(n^3)."""
    eigenvalues = 1 - np.linalg.eigvalsh(moves.toarray())
    return np.exp(-np.outer(TEMPERATURES, eigenvalues)).mean(axis=1)


def _probed_heat_traces(moves: Any, probes: int, seed: int) -> np.ndarray:
    """The same from random vectors v of signs: mean v' exp(-t L) v / n, in the Chebyshev polynomials T_m of S.

    exp(-t (1 - s)) = sum_m c_m exp(-t) I_m(t) T_m(s) with c_0 = 1 and c_m = 2, I_m the modified Bessel functions. The
    traces of T_0, T_1 and T_2 are known exactly, and only those of higher degrees are left to the probes. Cost: degree
    / 2 products of S with every probe.
    """
    from scipy.special import ive

    n = moves.shape[0]
    moments = np.zeros(_DEGREE + 1)
    random = np.random.default_rng(seed)
    for first in range(0, probes, _TOGETHER):
        signs = random.integers(0, 2, (n, min(_TOGETHER, probes - first))) * 2.0 - 1
        before, now = signs, moves @ signs
        start = float((before * now).sum())
        for m in range(1, _DEGREE // 2 + 1):  # 2 T_m T_m = T_2m + T_0, and 2 T_m T_m+1 = T_2m+1 + T_1
            moments[2 * m] += 2 * float((now * now).sum()) - signs.size
            before, now = now, 2 * (moves @ now) - before
            if 2 * m < _DEGREE:
                moments[2 * m + 1] += 2 * float((before * now).sum()) - start
    moments /= n * probes
    moments[:3] = 1, 0, 2 * float((moves.data**2).sum()) / n - 1
    degrees = np.arange(_DEGREE + 1)
    series = ive(degrees, TEMPERATURES[:, None]) * np.where(degrees, 2, 1)
    return series @ moments


IMD = register(
    Measure(
        name="imd",
        family="topology",
        kind="distance",
        low=0.0,
        high=UNIT * float(np.exp(-4)),
        symmetric=True,
        metric=True,
        invariances=invariant_to("orthogonal", "isotropic_scaling", "translation"),
        cost="time n^2 d, and n^3 (exact) or n k per probe; memory n^2 (exact) or n k",
        paper="Tsitsulin et al. (2020), The shape of data: intrinsic distance for data distributions",
        formula="10^6 max_t exp(-2 (t + 1/t)) |h_x(t) - h_y(t)|, h(t) the mean of exp(-t lambda) over the eigenvalues",
        aliases=("msid: msid_score", "ReSi: IMDScore"),
        note="It compares spectra, not inputs: in any order of the inputs it is the same, so no relabelling tests it.",
        method=_imd,
        self_value=0.0,
    )
)


def imd(
    x: Any,
    y: Any,
    *,
    k: int = 5,
    spectrum: str = "auto",
    probes: int = 100,
    probe_seed: int = 0,
    permutations: int = 0,
    seed: int = 0,
    jackknife: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Distance:
    """Multi-scale intrinsic distance: how differently heat spreads over the neighbourhood graphs, at its worst time.

    Example::

        repsim.imd(x, y)                                 # x [n, d], y [n, d']
        repsim.imd(x, y, spectrum="probes", probes=400)  # for many inputs

    Parameters
    ----------
    x, y, permutations, seed, jackknife, threads, progress: as for :func:`repsim.procrustes`.
    k: neighbours of every input, by Euclidean distance, found exactly; two inputs are joined where either lists the
        other.
    spectrum: "exact": all eigenvalues, O(n^3) time, O(n^2) memory. "probes": the traces from random vectors, O(n k) per
        probe, with an error that falls as 1 / sqrt(n probes). "auto": exact up to 2048 inputs. The options of the
        result say which it was.
    probes, probe_seed: their number, and the seed they are drawn from; x and y take the same.

    Returns
    -------
    Distance, 0 for x with itself, its value the same for (x, y) and (y, x). Relabellings leave it as it is: z is NaN
    and p 1.

    Raises
    ------
    TypeError, ValueError: bad arrays (as for :func:`repsim.procrustes`); k out of range; another spectrum.

    Formula: 10^6 max_t exp(-2 (t + 1/t)) |h_x(t) - h_y(t)| over 256 values of t from 0.1 to 10, h(t) = mean_j
        exp(-t lambda_j) over the eigenvalues of the normalised Laplacian.

    Paper: Tsitsulin et al. (2020), "The shape of data: intrinsic distance for data distributions"; their code takes the
        spectrum from Lanczos quadrature where this takes it from Chebyshev moments.
    """
    x, y = as_rows(x, function="imd", name="x"), as_rows(y, function="imd", name="y")
    if spectrum == "auto":
        spectrum = "exact" if len(x) <= EXACT_ROWS else "probes"
    options = {"k": k, "spectrum": spectrum, "probes": probes, "probe_seed": probe_seed}
    return IMD.evaluate(
        x, y, options, permutations=permutations, seed=seed, jackknife=jackknife, threads=threads, progress=progress
    )
