"""Functions that compare dissimilarities of inputs, count dimensions, or compare what models answer."""

from __future__ import annotations

import math

import numpy as np
import oracles

from . import families
from .claims import AGREES, Claim, Function, another_quantity, fewer_digits
from .families import FEW, JENSEN_SHANNON, KAPPA, LOOPS, RTD, TWO_NN, distance_correlation, rsa
from .inputs import Pair
from .questions import FLOAT64

FIXED = dict.fromkeys(("d < n", "d > n", "d < n, float32", "x 2^-13", "duplicates"), AGREES)
MOVED: dict[str, Claim] = {**FIXED, "+ 1e3": AGREES, "+ 1e6": AGREES}

# ---------------------------------------------------------------------------------------------- rsatoolbox


def rsatoolbox(comparison: str, rdm: str, few: bool = False):
    def call(pair: Pair) -> float:
        import rsatoolbox

        sides = (side[: FEW if few else None].astype(np.float64) for side in (pair.x, pair.y))
        rdms = [rsatoolbox.rdm.calc_rdm(rsatoolbox.data.Dataset(side), method=rdm) for side in sides]
        return float(rsatoolbox.rdm.compare(*rdms, method=comparison)[0, 0])

    return call


BY_SQUARES = fewer_digits("distances as |x|^2 + |y|^2 - 2 xy of features that were not centred")
TIES = fewer_digits("dissimilarities of copies of rows, equal but for rounding, are ranked as if they differed")
# What a comparison of an RDM loses.
LOSSES: dict[tuple[str, str], dict[str, Claim]] = {
    ("spearman", "correlation"): {"duplicates": TIES},
    ("kendall", "correlation"): {"duplicates": TIES},
    ("spearman", "euclidean"): {"duplicates": TIES, "+ 1e6": BY_SQUARES},
    ("kendall", "euclidean"): {"duplicates": TIES, "+ 1e6": BY_SQUARES},
    ("pearson", "squared_euclidean"): {"+ 1e6": BY_SQUARES},
    ("cosine", "squared_euclidean"): {"+ 1e6": BY_SQUARES},
}
SQUARES = "its euclidean is the squared distance, over the number of features"


def of_squares(comparison: str):
    return lambda pair: rsa(comparison, "squared_euclidean").oracle(pair)


RSATOOLBOX = [
    *(
        Function(
            "rsatoolbox", f'compare(calc_rdm(.., "{rdm}"), method="{theirs}")', rsa(ours, rdm),
            rsatoolbox(theirs, rdm, ours == "kendall"), FLOAT64, {**MOVED, **LOSSES.get((ours, rdm), {})},
        )
        for theirs, ours in (("spearman", "spearman"), ("corr", "pearson"), ("cosine", "cosine"), ("tau-a", "kendall"))
        for rdm in ("correlation", *(("euclidean",) if ours in ("spearman", "kendall") else ()))
    ),
    *(
        Function(
            "rsatoolbox", f'compare(calc_rdm(.., "euclidean"), method="{theirs}")', rsa(ours, "squared_euclidean"),
            rsatoolbox(theirs, "euclidean"), FLOAT64, {**MOVED, **LOSSES[ours, "squared_euclidean"]},
        )
        for theirs, ours in (("corr", "pearson"), ("cosine", "cosine"))
    ),
    Function(
        "rsatoolbox", 'compare(calc_rdm(.., "euclidean"), method="corr")', rsa("pearson", "euclidean"),
        rsatoolbox("corr", "euclidean"), FLOAT64, {"d < n": another_quantity(SQUARES, of_squares("pearson"))},
    ),
]  # fmt: skip

# ---------------------------------------------------------------------------------------------- scipy


def scipy_rsa(comparison: str, metric: str):
    def call(pair: Pair) -> float:
        from scipy import stats
        from scipy.spatial.distance import pdist

        rows = slice(FEW if comparison == "kendalltau" else None)
        return float(getattr(stats, comparison)(*(pdist(side[rows], metric) for side in (pair.x, pair.y))).statistic)

    return call


def tau_b(pair: Pair) -> float:
    """tau-a over the geometric mean of the shares of entries that are not tied."""
    untied = 1.0
    for side in (pair.x, pair.y):
        places = families.ranks(families.upper(families.euclidean(oracles.as_float64(side)[:FEW])))
        _, counts = np.unique(places, return_counts=True)
        untied *= 1 - float((counts * (counts - 1)).sum()) / (len(places) * (len(places) - 1))
    return rsa("kendall", "euclidean").oracle(pair) / math.sqrt(untied)


TAU_B = {"duplicates": another_quantity("tau-b, which leaves ties out of its denominator", tau_b)}


def scipy_divergence(pair: Pair) -> float:
    from scipy.spatial.distance import jensenshannon

    p, q = families.probabilities(pair)
    return float((jensenshannon(p, q, base=2, axis=1) ** 2).mean())


SCIPY = [
    *(
        Function(
            "scipy", f'stats.{theirs}(pdist(x, "{metric}"), pdist(y, "{metric}"))', rsa(ours, metric),
            scipy_rsa(theirs, metric), FLOAT64, {**MOVED, **TAU_B} if ours == "kendall" else MOVED,
        )
        for theirs, ours, metric in (
            ("spearmanr", "spearman", "euclidean"),
            ("pearsonr", "pearson", "euclidean"),
            ("pearsonr", "pearson", "correlation"),
            ("kendalltau", "kendall", "euclidean"),
        )
    ),
    Function(
        "scipy", "spatial.distance.jensenshannon(p, q, base=2) ** 2, mean", JENSEN_SHANNON, scipy_divergence, FLOAT64,
        {"d < n": AGREES, "d > n": AGREES, "d < n, float32": AGREES},
    ),
]  # fmt: skip

# ---------------------------------------------------------------------------------------------- dcor, hyppo


def dcor(name: str):
    def call(pair: Pair) -> float:
        import dcor

        return float(getattr(dcor, name)(pair.x, pair.y))

    return call


def hyppo(bias: bool):
    def call(pair: Pair) -> float:
        from hyppo.independence import Dcorr

        return float(Dcorr(bias=bias).statistic(pair.x, pair.y))

    return call


DCOR = [
    Function(
        "dcor",
        "distance_correlation(x, y)",
        distance_correlation("biased"),
        dcor("distance_correlation"),
        FLOAT64,
        MOVED,
    ),
    Function(
        "dcor",
        "u_distance_correlation_sqr(x, y)",
        distance_correlation("debiased"),
        dcor("u_distance_correlation_sqr"),
        FLOAT64,
        MOVED,
    ),
]
NOT_FLOAT32 = {name: claim for name, claim in MOVED.items() if "float32" not in name}  # it takes float64 alone
HYPPO = [
    Function(
        "hyppo",
        "Dcorr().statistic(x, y)",
        distance_correlation("debiased"),
        hyppo(False),
        FLOAT64,
        {**NOT_FLOAT32, "+ 1e6": BY_SQUARES, "duplicates": BY_SQUARES},
    ),
    Function(
        "hyppo",
        "Dcorr(bias=True).statistic(x, y)",
        distance_correlation("biased"),
        hyppo(True),
        FLOAT64,
        {**NOT_FLOAT32, "+ 1e6": BY_SQUARES, "duplicates": BY_SQUARES},
    ),
]

# ------------------------------------------------------------------------------------------- loops, dimensions, answers


def gudhi_rtd(pair: Pair) -> float:
    import gudhi
    from scipy.spatial.distance import pdist, squareform

    w, v = (squareform(pdist(side[:LOOPS])) for side in (pair.x, pair.y))
    w, v = (one / np.quantile(one, 0.9) for one in (w, v))
    total = 0.0
    for one in (w, v):
        blocks = np.block([[np.zeros_like(one), one.T], [one, np.minimum(w, v)]])
        rips = gudhi.RipsComplex(distance_matrix=blocks).create_simplex_tree(max_dimension=2)
        rips.compute_persistence(homology_coeff_field=2)
        bars = rips.persistence_intervals_in_dimension(1)
        total += float((bars[:, 1] - bars[:, 0]).sum())
    return total / 2


def skdim_two_nn(pair: Pair) -> float:
    from skdim.id import TwoNN

    return float(TwoNN(discard_fraction=0.1).fit(pair.x).dimension_)


def sklearn_kappa(pair: Pair) -> float:
    from sklearn.metrics import cohen_kappa_score

    return float(cohen_kappa_score(*families.classes(pair)))


GUDHI = [
    Function("gudhi", "RipsComplex(distance_matrix=[[0, w'], [w, min]]), both ways", RTD, gudhi_rtd, FLOAT64, MOVED),
]
DIMENSIONS = [
    Function(
        "scikit-dimension",
        "id.TwoNN().fit(x).dimension_",
        TWO_NN,
        skdim_two_nn,
        FLOAT64,
        {**{name: claim for name, claim in MOVED.items() if name != "duplicates"}, "+ 1e6": BY_SQUARES},
    ),
]
SKLEARN = [
    Function(
        "scikit-learn",
        "metrics.cohen_kappa_score(a, b)",
        KAPPA,
        sklearn_kappa,
        FLOAT64,
        {"d < n": AGREES, "d > n": AGREES},
    ),
]

FUNCTIONS: list[Function] = [*RSATOOLBOX, *SCIPY, *DCOR, *HYPPO, *GUDHI, *DIMENSIONS, *SKLEARN]
