"""nearest: the exact 10 nearest rows of every row by the cosine, among all others."""

from __future__ import annotations

import numpy as np

from .contest import REPSIM, Contender, Op
from .inputs import related_rows

K = 10
TORCH_ROWS = 1024  # scores of this many rows at a time


def _inputs(n: int, d: int) -> dict[str, np.ndarray]:
    """Unit rows: for them inner product, cosine and Euclidean distance rank alike, and no library has to normalise."""
    x, _ = related_rows(n, d)
    return {"x": x / np.linalg.norm(x, axis=1, keepdims=True)}


def with_repsim(x: np.ndarray) -> np.ndarray:
    import repsim

    return repsim.nearest(x, k=K, metric="cosine").indices


def with_faiss(x: np.ndarray) -> np.ndarray:
    import faiss

    index = faiss.IndexFlatIP(x.shape[1])
    index.add(x)
    found = index.search(x, K + 1)[1]
    other = found != np.arange(len(x))[:, None]
    other[other.all(axis=1), K] = False  # duplicates pushed the row itself off its own list
    return found[other].reshape(-1, K)


def with_scikit_learn(x: np.ndarray) -> np.ndarray:
    from sklearn.neighbors import NearestNeighbors

    # The Euclidean metric takes scikit-learn's own fused kernel (ArgKmin); its cosine does not.
    search = NearestNeighbors(n_neighbors=K, algorithm="brute", metric="euclidean").fit(x)
    return search.kneighbors(return_distance=False)


def with_torch(x: np.ndarray) -> np.ndarray:
    import torch

    rows = torch.from_numpy(x)
    indices = torch.empty((len(rows), K), dtype=torch.int64)
    for start in range(0, len(rows), TORCH_ROWS):
        scores = rows[start : start + TORCH_ROWS] @ rows.T
        scores.diagonal(start).fill_(-torch.inf)
        indices[start : start + TORCH_ROWS] = scores.topk(K).indices
    return indices.numpy()


def _identical(ours: np.ndarray, theirs: np.ndarray) -> str:
    return f"{(ours[:, :, None] == theirs[:, None, :]).any(axis=2).mean():.6f}"


NEAREST = Op(
    name="nearest",
    summary=f"exact {K} nearest rows by the cosine, all pairs, each row left out of its own list",
    flop=lambda n, d: float(n) ** 2 * d,
    flop_formula="n^2 d",
    inputs=_inputs,
    contenders=(
        Contender("repsim.nearest", REPSIM, with_repsim),
        Contender("faiss-cpu IndexFlatIP", "faiss-cpu", with_faiss),
        Contender("scikit-learn brute (ArgKmin)", "scikit-learn", with_scikit_learn),
        Contender("torch, matmul + topk in chunks", "torch", with_torch),
    ),
    agreement=_identical,
    agreement_name="identical neighbours",
)
