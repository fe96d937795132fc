"""The steps of every measure, by family: what each keeps and takes. The types are in needs.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import log2
from typing import Any

from ..blocks import MOST_ROWS, PACKED_BUDGET, sample_rows
from ..kernels import Bandwidth, Kernel, Linear, as_kernel
from ..reductions import less_in_feature_space
from ..reductions.dissimilarities import BLOCK_ROWS
from ..reductions.distance_ranks import rank_precision
from ..reductions.distances import IN_MEMORY
from ..reductions.moments import lifted_bytes, room_for
from .needs import Demand, Needs, Step, Steps, Work

_WIDE = 8  # bytes of a float64
_SWEPT = 96 * 2**20  # of a sweep over rows in float64: 8 MiB of float16 rows made wide, and some temporaries of it
_SAMPLED = 200


def needs_of(measure: str, n: int, d: int, e: int, options: Mapping[str, Any]) -> Needs:
    """Of one call of a measure, without relabellings. Raises: ValueError: a measure that does not state its needs."""
    demand = demand_of(measure, options)
    steps = [*demand.layer(n, d).values(), *demand.layer(n, e).values(), *demand.pair(n, d, e).values()]
    return Needs.of(steps, steps)


def demand_of(measure: str, options: Mapping[str, Any]) -> Demand:
    """The steps of a measure with these options.

    Raises
    ------
    ValueError: a measure that does not state its needs.
    """
    if measure not in _DEMANDS:
        raise ValueError(f"[needs] expected a measure of two representations that states its needs, got {measure!r}")
    return _DEMANDS[measure](options)


# ---------------------------------------------------------------------------------------------- steps that are shared


def _lifted(*depths: int) -> float:
    return lifted_bytes(depths, room_for(depths)) + 3 * max(sample_rows(depth) * depth for depth in depths) * _WIDE


def _products(n: int, d: int) -> Step:
    touched = 60.0 * sample_rows(d) * d + 30.0 * d * d + 4.0 * n * d  # the median of some rows, sums about the mean
    work = Work(products=float(n) * d * d, elements=touched)
    return Step(_WIDE * d * d, 5 * _WIDE * (d + 2) ** 2 + _lifted(d), work)


def cross(n: int, d: int, e: int) -> Step:
    """X'Y of one pair."""
    work = Work(products=2.0 * n * d * e, elements=30.0 * d * e)
    return Step(_WIDE * d * e, 3 * _WIDE * (d + 2) * (e + 2) + _lifted(d, e), work)


def _eigen(d: int, kept: float = 1.0) -> Step:
    return Step(kept * _WIDE * d * d, 6 * _WIDE * d * d, Work(factors=9.0 * d**3))


def _singular(d: int, e: int, vectors: bool = False) -> Step:
    small = min(d, e)
    working = _WIDE * (4 * d * e + (4 * small * small + 2 * small * max(d, e) if vectors else 4 * small))
    return Step(0, working, Work(factors=(10.0 if vectors else 4.0) * d * e * small))


def _assignment(d: int, e: int) -> Step:
    # Paths are searched one number at a time; how many depends on the data.
    return Step(0, 4 * _WIDE * d * e, Work(elements=40.0 * min(d, e) ** 2 * max(d, e)))


def _narrow(n: int, d: int) -> dict[str, Step]:
    """Rows that are wider than long are turned into fewer columns."""
    if d <= n:
        return {}
    return {"fewer columns": Step(_WIDE * n * n, 4 * _WIDE * n * d, Work(factors=4.0 * n * n * d))}


def _search(n: int, d: int, k: int) -> Step:
    packed = 2 * min(PACKED_BUDGET, _WIDE * n * d)
    lists = n * (12 * k + 8 * (2 * (2 * k + 12) + 16))
    return Step(12 * n * k + 8 * n, lists + 2 * 2**20, Work(search=float(n) * n * d), packed)


def _tiles(n: int, d: int, traversals: float = 1.0) -> Step:
    block = min(n, BLOCK_ROWS)
    working = _WIDE * (4 * block * block + 5 * min(n, block) * d) + 4 * _WIDE * n + 2**22
    work = Work(distances=traversals * n * n * d, elements=traversals * 4.0 * n * n)
    return Step(0, working, work)


def _kernel_tiles(n: int, d: int, kernel: Kernel) -> Step:
    """Of one matrix: its share of one traversal, and the median distance where its bandwidth is a fraction of that."""
    packed, sampled = 2 * min(PACKED_BUDGET, _WIDE * n * d), 0
    work = Work(tiles=float(n) * n * d)
    leaves = [leaf for _, leaves in kernel.terms() for leaf in leaves]
    if any(isinstance(leaf, Bandwidth) for leaf in leaves):
        few = min(n, IN_MEMORY)  # the median of a few, then of all by counting
        sampled = 26 * few * few + 2**23
        work = Work(tiles=2.0 * n * n * d, elements=100.0 * few * few)
    return Step(4 * _WIDE * n, 12 * _WIDE * n + sampled, work, packed)


def _nothing(n: int, d: int, e: int) -> Steps:
    return {}


# ---------------------------------------------------------------------------------------------- by family


def _kernels(options: Mapping[str, Any]) -> Demand:
    kernel = as_kernel(options.get("kernel", "linear"), function="needs")
    tiled = f"tiles of {kernel}"

    def in_features(n: int, d: int, e: int) -> bool:  # as centred.in_feature_space has it, but for very long rows
        return kernel == Linear() and less_in_feature_space(n, [d, e], 1)

    def layer(n: int, d: int) -> Steps:
        few = sample_rows(d)
        thirds = {
            f"third moments of {kernel}": Step(0, 0, Work(factors=2.0 * few**2 * (d + few), elements=600.0 * few**2))
        }
        own = {"products": _products(n, d)} if in_features(n, d, d) else {tiled: _kernel_tiles(n, d, kernel)}
        return {**own, **thirds}

    def pair(n: int, d: int, e: int) -> Steps:
        if in_features(n, d, e):
            return {"cross products": cross(n, d, e)}
        if in_features(n, d, d) or in_features(n, e, e):
            return {f"{tiled} of the pair": _kernel_tiles(n, d + e, kernel)}
        return {}

    return Demand(layer, pair)


def _graphs(name: str) -> Callable[[Mapping[str, Any]], Demand]:
    def demand(options: Mapping[str, Any]) -> Demand:
        k, metric = options.get("k", 10), options.get("metric", "cosine")
        sampled = 0 if name == "mutual_knn" else options.get("permutations", _SAMPLED)
        # Entries of lists are compared one by one: each takes as long as some forty numbers that are added.
        per_list = {"lcs_knn": 20 * k + 2 * k * k, "edit_distance_knn": 20 * k + 2 * k * k, "cknna": 70 * k}.get(
            name, 40 * k
        )

        def pair(n: int, d: int, e: int) -> Steps:
            each = per_list if name != "second_order_cosine" else 2 * k * (d + e)
            wide = 4 * n * (d + e) if name == "second_order_cosine" else 0
            return {name: Step(wide, _WIDE * (4 * n * k + 2**17), Work(elements=float(n) * each * (2 + sampled)))}

        return Demand(lambda n, d: {f"{metric} neighbours": _search(n, d, k)}, pair)

    return demand


def _spaces(name: str, *, raw: bool = False, vectors: bool = False) -> Callable[[Mapping[str, Any]], Demand]:
    def demand(options: Mapping[str, Any]) -> Demand:
        axes = "axes" if raw and options.get("variant") != "wu2020" else "axes of unit columns"

        def layer(n: int, d: int) -> Steps:
            m = min(n, d)
            wide = {"fewer columns by rows": _gram(n, d)} if d >= n else {}
            own = name if raw or vectors else "space"
            kept = _WIDE * m * (m + d if vectors else m)
            return {**wide, "products": _products(n, m), axes: _eigen(m), own: Step(kept)}

        def pair(n: int, d: int, e: int) -> Steps:
            d, e = min(n, d), min(n, e)
            dense = Step(0, 4 * _WIDE * (d + e) * max(d, e), Work(factors=2.0 * d * e * (d + e)))
            return {"cross products": cross(n, d, e), f"{name} turned": dense, name: _singular(d, e, vectors)}

        return Demand(layer, pair)

    return demand


def _gram(n: int, d: int) -> Step:
    parts = min(3 * 2**26, 3 * _WIDE * n * d)  # columns, some at a time
    return Step(_WIDE * n * n, 5 * _WIDE * n * n + parts, Work(factors=2.0 * n * n * d + 9.0 * n**3))


def _pls(options: Mapping[str, Any]) -> Demand:
    def layer(n: int, d: int) -> Steps:
        wide = {"fewer unit columns": _gram(n, d)} if d >= n else {}
        return {**wide, "products": _products(n, min(n, d))}

    def pair(n: int, d: int, e: int) -> Steps:
        d, e = min(n, d), min(n, e)
        return {"cross products": cross(n, d, e), "pls": _singular(d, e)}

    return Demand(layer, pair)


def _linear_regression(options: Mapping[str, Any]) -> Demand:
    spaces = _spaces("linear_regression")({})

    def pair(n: int, d: int, e: int) -> Steps:
        d = min(n, d)
        dense = Step(0, 2 * _WIDE * d * e, Work(factors=2.0 * d * d * e))
        return {"cross products": cross(n, d, e), "linear_regression": dense}

    return Demand(spaces.layer, pair)


def _ridge_regression(options: Mapping[str, Any]) -> Demand:
    folds, lambdas = options.get("folds", 5), _count(options.get("lambdas"))
    sets = folds * (folds + 1) // 2 if lambdas > 1 else folds

    def layer(n: int, d: int) -> Steps:
        wide = {"fewer columns by rows": _gram(n, d)} if d >= n else {}
        m = min(n, d)
        kept = _WIDE * m * m * (folds + sets) + 8 * n
        working = 6 * _WIDE * m * m + folds * lifted_bytes([m], 512) + _lifted(m)
        work = Work(products=float(n) * m * m, factors=sets * 9.0 * m**3)
        return {**wide, "ridge_regression of a layer": Step(kept, working, work)}

    def pair(n: int, d: int, e: int) -> Steps:
        d, e = min(n, d), min(n, e)
        kept = _WIDE * d * e * 2 * folds
        working = 8 * _WIDE * d * (d + e) + folds * lifted_bytes([d, e], 512) + _lifted(d, e)
        tested = (folds * (folds - 1) if lambdas > 1 else 0) + folds
        work = Work(
            products=2.0 * n * d * e, factors=tested * (2.0 * lambdas * d * d * e + 4.0 * d * d * (d + e)),
        )  # fmt: skip
        return {"ridge_regression": Step(kept, working, work)}

    return Demand(layer, pair)


def _kernel_ridge(options: Mapping[str, Any]) -> Demand:
    folds, lambdas = options.get("folds", 5), _count(options.get("lambdas"))

    def pair(n: int, d: int, e: int) -> Steps:
        kept = _WIDE * n * n * (1 + folds)  # of the left side alone
        working = _WIDE * (4 * n * n + 6 * n * max(d, e))
        work = Work(factors=folds * lambdas * 2.0 * n * n * e, elements=(2.0 * folds * lambdas + 5.0) * n * n)
        return {"kernel_ridge": Step(kept, working, work)}

    def layer(n: int, d: int) -> Steps:  # half of the work for every layer: it is done of the left ones
        return {"spectra of kernels": Step(0, 0, Work(factors=folds * 4.5 * (n * (1 - 1 / folds)) ** 3))}

    return Demand(layer, pair)


def _count(lambdas: Any) -> int:
    return 11 if lambdas is None else len(lambdas) if hasattr(lambdas, "__len__") else 1


def _shapes(
    name: str, *, turnable: bool = True, match: bool = False, turned: bool = False
) -> Callable[[Mapping[str, Any]], Demand]:
    """turned: coordinates along the axes of each side; match: an assignment in the place of singular values."""

    def demand(options: Mapping[str, Any]) -> Demand:
        def layer(n: int, d: int) -> Steps:
            m = min(n, d) if turnable else d
            steps = {**(_narrow(n, d) if turnable else {}), "products": _products(n, m)}
            return {**steps, "axes": _eigen(m), name: Step(_WIDE * m * m)} if turned else steps

        def pair(n: int, d: int, e: int) -> Steps:
            d, e = (min(n, d), min(n, e)) if turnable else (d, e)
            steps = {"cross products": cross(n, d, e)}
            if turned:
                steps[f"{name} turned"] = Step(0, 4 * _WIDE * max(d, e) ** 2, Work(factors=2.0 * d * e * (d + e)))
            if match:
                steps[name] = _assignment(d, e)
            elif name != "gulp":
                steps[name if turned else "singular values"] = _singular(d, e)
            return steps

        return Demand(layer, pair)

    return demand


def _aligned_cosine(options: Mapping[str, Any]) -> Demand:
    def layer(n: int, d: int) -> Steps:
        m = min(n, d)
        own = Step(_WIDE * (m * m + n), 4 * _WIDE * m * m)
        return {**_narrow(n, d), "products": _products(n, m), "products about 0": own}

    def pair(n: int, d: int, e: int) -> Steps:
        d, e = min(n, d), min(n, e)
        swept = min(_SWEPT, 4 * _WIDE * n * (d + e)) + 3 * _WIDE * d * e
        rows = Step(0, swept, Work(factors=2.0 * n * d * e, elements=4.0 * n * e))
        return {"cross products": cross(n, d, e), "aligned_cosine": _singular(d, e, True), "rows that are turned": rows}

    return Demand(layer, pair)


def _eigenspace_overlap(options: Mapping[str, Any]) -> Demand:
    def layer(n: int, d: int) -> Steps:
        return {"products": _products(n, d), "eigenspace_overlap": _eigen(d, 2.0)}

    def pair(n: int, d: int, e: int) -> Steps:
        dense = Step(0, 4 * _WIDE * max(d, e) ** 2, Work(factors=2.0 * d * e * (d + e)))
        return {"cross products": cross(n, d, e), "eigenspace_overlap": dense}

    return Demand(layer, pair)


def _riemannian(options: Mapping[str, Any]) -> Demand:
    def layer(n: int, d: int) -> Steps:
        return {**_narrow(n, d), "products": _products(n, min(n, d))}

    def pair(n: int, d: int, e: int) -> Steps:
        d, e = min(n, d), min(n, e)
        joint = Step(0, 12 * _WIDE * (d + e) ** 2, Work(factors=20.0 * (d + e) ** 3))
        return {"cross products": cross(n, d, e), "riemannian": joint}

    return Demand(layer, pair)


def _matched(name: str) -> Callable[[Mapping[str, Any]], Demand]:
    def demand(options: Mapping[str, Any]) -> Demand:
        def layer(n: int, d: int) -> Steps:
            basis = {name: _eigen(d)} if name == "linreg" else {}
            uncentred = {"products about 0": Step(2 * _WIDE * d * d)} if name == "maximum_matching" else {}
            return {"products": _products(n, d), **basis, **uncentred}

        def pair(n: int, d: int, e: int) -> Steps:
            wide, small = max(d, e), min(d, e)
            own = Step(0, 5 * _WIDE * d * e, Work(elements=6.0 * d * e))
            if name == "hard_correlation_match" or (name == "soft_matching" and wide % small == 0):
                own = _assignment(wide, wide if name == "soft_matching" else small)
            elif name == "soft_matching":  # a linear programme of d d' variables
                own = Step(0, 4096.0 * d * e, Work(elements=200.0 * (d + e) * d * e))
            elif name == "maximum_matching":
                work = Work(factors=4 * 9.0 * (d**3 + e**3))
                own = Step(0, 10 * _WIDE * wide * wide, work)
            elif name == "linreg":
                own = Step(0, 5 * _WIDE * wide * wide, Work(factors=2.0 * d * e * e))
            return {"cross products": cross(n, d, e), name: own}

        return Demand(layer, pair)

    return demand


def _distance_correlation(options: Mapping[str, Any]) -> Demand:
    return Demand(
        lambda n, d: {"distance_correlation of a layer": replace(_tiles(n, d, 2), kept=3 * _WIDE * n)},
        lambda n, d, e: {"distance_correlation": replace(_both_tiles(n, d, e), at_once=5)},
    )


def _rsm_norm(options: Mapping[str, Any]) -> Demand:
    return Demand(lambda n, d: {}, lambda n, d, e: {"rsm_norm_difference": _both_tiles(n, d, e)})


def _both_tiles(n: int, d: int, e: int) -> Step:
    x, y = _tiles(n, d), _tiles(n, e)
    return Step(0, x.working + y.working, x.work + y.work)


def _rsa(options: Mapping[str, Any]) -> Demand:
    if options.get("comparison", "spearman") not in ("spearman", "kendall"):
        return Demand(
            lambda n, d: {"rsa of a layer": _tiles(n, d)}, lambda n, d, e: {"rsa": _both_tiles(n, d, e)},
        )  # fmt: skip

    kendall = options.get("comparison") == "kendall"

    def counted(n: int) -> bool:
        return not kendall and rank_precision(n, ranks=options.get("ranks"), memory=None) == "float32"

    def layer(n: int, d: int) -> Steps:
        pairs = n * (n - 1) / 2
        if counted(n):
            # A table of distances that span a factor of 16, and the places of its pages; a wider one asks for itself.
            kept, blocks = 4 * 70e6 + 2**26, 4.0 * _WIDE * d * min(n, MOST_ROWS)
            return {"ranks": Step(kept, blocks + 2**24, Work(distances=2.0 * n * n * d, elements=21.0 * pairs))}
        working = _WIDE * (3.5 * pairs + 3 * n * d) + 2**22
        return {"rsa of a layer": Step(_WIDE * pairs, working, Work(distances=1.5 * n * n * d, elements=600.0 * pairs))}

    def pair(n: int, d: int, e: int) -> Steps:
        pairs = n * (n - 1) / 2
        if counted(n):
            blocks = _WIDE * (2.0 * (d + e) + 2 * max(d, e)) * min(n, MOST_ROWS)
            return {"rsa": Step(0, blocks, Work(distances=n * n * (d + e), elements=30.0 * pairs))}
        return {"rsa": Step(0, (60 * pairs if kendall else 2**22), Work(elements=(200.0 if kendall else 2.0) * pairs))}

    return Demand(layer, pair)


def _swept(name: str) -> Callable[[Mapping[str, Any]], Demand]:
    """Statistics of one side."""

    def demand(options: Mapping[str, Any]) -> Demand:
        def layer(n: int, d: int) -> Steps:
            if name == "uniformity_difference":
                return {name: _tiles(n, d)}
            wide = min(_SWEPT, 4 * _WIDE * n * d) if name == "concentricity_difference" else 2**20
            return {name: Step(0, wide, Work(elements=(24.0 if name == "concentricity_difference" else 1.0) * n * d))}

        return Demand(layer, _nothing)

    return demand


def _intrinsic_dimension(options: Mapping[str, Any]) -> Demand:
    k = 2 if options.get("estimator", "two_nn") == "two_nn" else options.get("k") or 10

    def layer(n: int, d: int) -> Steps:
        steps = min(6 * _WIDE * 2**22, 6 * _WIDE * n * (k + 1) * d) + 4 * _WIDE * n * k
        return {
            "euclidean neighbours": _search(n, d, k),
            "intrinsic_dimension_difference": Step(0, steps, Work(elements=6.0 * n * k * d)),
        }

    return Demand(layer, _nothing)


def _imd(options: Mapping[str, Any]) -> Demand:
    k, spectrum, probes = options.get("k", 5), options.get("spectrum", "auto"), options.get("probes", 100)

    def layer(n: int, d: int) -> Steps:
        exact = spectrum == "exact" or (spectrum == "auto" and n <= 2048)
        joined = 60.0 * n * k + 2**20
        heat = Step(0, 3 * _WIDE * n * n + joined, Work(factors=4.0 * n**3 / 3))
        if not exact:
            heat = Step(0, 8 * _WIDE * 16 * n + joined, Work(elements=probes * 32 * n * (2.0 * k + 4)))
        return {"euclidean neighbours": _search(n, d, k), "imd": heat}

    return Demand(layer, _nothing)


def _rtd(options: Mapping[str, Any]) -> Demand:
    batches, rows = options.get("batches", 10), options.get("batch_rows", 500)

    def pair(n: int, d: int, e: int) -> Steps:
        m, count = min(n, rows), 1 if n <= rows else batches
        # What the homology takes depends on the data: from 7 s and a minute for 200 and 500 normal rows, m^2.4 each.
        work = Work(elements=count * 6e9 * (m / 200) ** 2.4)
        return {"rtd": Step(0, 16 * _WIDE * (2 * m) ** 2 + 200 * m * m + _WIDE * m * (d + e), work)}

    return Demand(lambda n, d: {}, pair)


def _geometry_score(options: Mapping[str, Any]) -> Demand:
    landmarks, repetitions = options.get("landmarks", 64), options.get("repetitions", 100)

    def layer(n: int, d: int) -> Steps:
        few = min(n, landmarks)
        count = 1 if n <= landmarks else repetitions
        # Lists of Python hold a part of the n x l distances; how many, and how many simplices, depends on the data.
        working = 4 * _WIDE * n * d + (4 * _WIDE + 120) * n * few + 20 * few**3
        return {"geometry_score": Step(0, working, Work(elements=4.0 * count * (n * few * (d + 60.0) + 30.0 * few**3)))}

    return Demand(layer, _nothing)


def _neuron_modularity(options: Mapping[str, Any]) -> Demand:
    starts = options.get("starts", 5)

    def layer(n: int, d: int) -> Steps:
        # A graph of networkx: two dicts of every edge, and the graphs of communities beside it.
        communities = Work(elements=starts * 4000.0 * d * d * max(1.0, log2(d)))
        return {"products": _products(n, d), "neuron_modularity": Step(0, 2600 * d * d, communities)}

    return Demand(layer, _nothing)


_DEMANDS: dict[str, Callable[[Mapping[str, Any]], Demand]] = {
    **dict.fromkeys(("cka", "cka_biased", "angular_cka", "hsic"), _kernels),
    "cka_rbf": lambda options: _kernels({"kernel": "rbf", **options}),
    **{
        name: _graphs(name)
        for name in (
            "mutual_knn", "cknna", "knn_jaccard", "cycle_knn", "lcs_knn", "edit_distance_knn", "rank_similarity",
            "joint_rank_jaccard", "second_order_cosine",
        )
    },
    "cca_mean": _spaces("cca_mean"),
    "cca_mean_squared": _spaces("cca_mean_squared"),
    "svcca": _spaces("svcca", raw=True),
    "pwcca": _spaces("pwcca", vectors=True),
    "pls": _pls,
    "linear_regression": _linear_regression,
    "ridge_regression": _ridge_regression,
    "kernel_ridge": _kernel_ridge,
    "procrustes": _shapes("procrustes"),
    "angular_procrustes": _shapes("angular_procrustes"),
    "bures": _shapes("bures"),
    "permutation_procrustes": _shapes("permutation_procrustes", turnable=False, match=True),
    "partial_whitening": _shapes("partial_whitening", turned=True),
    "gulp": _shapes("gulp", turned=True),
    "aligned_cosine": _aligned_cosine,
    "eigenspace_overlap": _eigenspace_overlap,
    "riemannian": _riemannian,
    **{
        name: _matched(name)
        for name in (
            "hard_correlation_match", "soft_correlation_match", "soft_matching", "maximum_matching", "maxcorr",
            "mincorr", "linreg",
        )
    },
    "distance_correlation": _distance_correlation,
    "rsa": _rsa,
    "rsm_norm_difference": _rsm_norm,
    **{
        name: _swept(name)
        for name in ("magnitude_difference", "concentricity_difference", "uniformity_difference")
    },
    "intrinsic_dimension_difference": _intrinsic_dimension,
    "imd": _imd,
    "rtd": _rtd,
    "geometry_score": _geometry_score,
    "neuron_modularity_difference": _neuron_modularity,
}  # fmt: skip
