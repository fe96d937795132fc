"""Functions that find nearest neighbours or compare their lists."""

from __future__ import annotations

import numpy as np

from .claims import AGREES, Function, fewer_digits, other_ties
from .inputs import Array, Pair
from .questions import FLOAT32, FLOAT64, K, mutual_knn, nearest


def unit(rows: Array) -> Array:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


# ---------------------------------------------------------------------------------------------- torchdr


def torchdr(metric: str, *, normalised: bool):
    def call(pair: Pair) -> float:
        from torchdr import neighborhood_preservation

        x, y = (unit(side) if normalised else side for side in (pair.x, pair.y))
        return float(neighborhood_preservation(x, y, K=K, metric=metric))

    return call


# ---------------------------------------------------------------------------------------------- scikit-learn


def sklearn_lists(metric: str):
    def call(pair: Pair) -> Array:
        from sklearn.neighbors import NearestNeighbors

        return NearestNeighbors(n_neighbors=K, algorithm="brute", metric=metric).fit(pair.x).kneighbors()[1]

    return call


# ---------------------------------------------------------------------------------------------- faiss, scipy


def faiss_lists(index: str, *, normalised: bool):
    """K + 1 neighbours, the row itself taken out by its index."""

    def call(pair: Pair) -> Array:
        import faiss

        rows = np.ascontiguousarray((unit(pair.x) if normalised else pair.x).astype(np.float32))
        flat = getattr(faiss, index)(rows.shape[1])
        flat.add(rows)
        found = flat.search(rows, K + 1)[1]
        return np.array([[j for j in row if j != i][:K] for i, row in enumerate(found)])

    return call


def scipy_lists(metric: str):
    def call(pair: Pair) -> Array:
        from scipy.spatial.distance import cdist

        distances = cdist(pair.x, pair.x, metric)
        np.fill_diagonal(distances, np.inf)
        return np.argsort(distances, axis=1, kind="stable")[:, :K]

    return call


FIXED = dict.fromkeys(("d < n", "d > n", "d < n, float32", "d > n, float32", "x 2^-13"), AGREES)
PLAIN = {**FIXED, "+ 1e3": AGREES}
ROUNDED = fewer_digits("cosines that differ by less than float32 resolves")
TIES = {"duplicates": other_ties("copies of a row are equally near; repsim names the first ones")}
SQUARES = fewer_digits("distances as |x|^2 + |y|^2 - 2 xy of features that were not centred")

FUNCTIONS: list[Function] = [
    Function(
        "torchdr", "neighborhood_preservation(x/|x|, y/|y|, K=10)", mutual_knn("cosine"),
        torchdr("euclidean", normalised=True), FLOAT32, {**PLAIN, **TIES},
    ),
    Function(
        "torchdr", "neighborhood_preservation(x, y, K=10)", mutual_knn("euclidean"),
        torchdr("euclidean", normalised=False), FLOAT32, {**PLAIN, "+ 1e6": SQUARES, "+ 1e3, float32": SQUARES, **TIES},
    ),
    Function(
        "torchdr", 'neighborhood_preservation(x, y, K=10, metric="angular")', mutual_knn("inner_product"),
        torchdr("angular", normalised=False), FLOAT32, FIXED,
    ),
    *(
        Function(
            "scikit-learn", f'NearestNeighbors(algorithm="brute", metric="{metric}")', nearest(metric),
            sklearn_lists(metric), FLOAT64, {**PLAIN, **others, **TIES},
        )
        for metric, others in (
            ("euclidean", {"+ 1e6": SQUARES, "+ 1e3, float32": AGREES}),
            ("cosine", {"+ 1e3, float32": ROUNDED}),
        )
    ),
    Function(
        "faiss-cpu", "IndexFlatL2", nearest("euclidean"), faiss_lists("IndexFlatL2", normalised=False), FLOAT32,
        {**PLAIN, "+ 1e3, float32": AGREES, "duplicates": AGREES},
    ),
    Function(
        "faiss-cpu", "IndexFlatIP of x/|x|", nearest("cosine"), faiss_lists("IndexFlatIP", normalised=True), FLOAT32,
        {**FIXED, "+ 1e3": ROUNDED, **TIES},
    ),
    Function(
        "faiss-cpu", "IndexFlatIP", nearest("inner_product"), faiss_lists("IndexFlatIP", normalised=False), FLOAT32,
        {**PLAIN},
    ),
    *(
        Function(
            "scipy", f'cdist(x, x, "{metric}"), argsort', nearest(metric), scipy_lists(metric), FLOAT64,
            {**PLAIN, **others},
        )
        for metric, others in (
            ("euclidean", {"+ 1e6": AGREES, "+ 1e3, float32": AGREES, "duplicates": AGREES}),
            ("cosine", {}),
        )
    ),
]  # fmt: skip
