"""nearest: the exact k nearest rows of every row by the cosine, among all others."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from .contest import REPSIM, Case, Contender, Op
from .inputs import related_rows

TORCH_ROWS = 1024  # scores of this many rows at a time
COMPARED_ROWS = 1024  # rows whose lists are compared at a time


def _inputs(case: Case, _: Path) -> dict[str, np.ndarray]:
    """Unit rows: for them inner product, cosine and Euclidean distance rank alike, and no library has to normalise."""
    x, _y = related_rows(case.n, case.d)
    return {"x": x / np.linalg.norm(x, axis=1, keepdims=True), "k": np.array(case.k)}


def with_repsim(x: np.ndarray, k: np.ndarray, filter: str) -> np.ndarray:
    import repsim

    return repsim.nearest(x, k=int(k), metric="cosine", filter=filter).indices


def with_faiss(x: np.ndarray, k: np.ndarray) -> np.ndarray:
    import faiss

    index = faiss.IndexFlatIP(x.shape[1])
    index.add(x)
    found = index.search(x, int(k) + 1)[1]
    other = found != np.arange(len(x))[:, None]
    other[other.all(axis=1), int(k)] = False  # duplicates pushed the row itself off its own list
    return found[other].reshape(-1, int(k))


def with_scikit_learn(x: np.ndarray, k: np.ndarray) -> np.ndarray:
    from sklearn.neighbors import NearestNeighbors

    # The Euclidean metric takes scikit-learn's own fused kernel (ArgKmin); its cosine does not.
    search = NearestNeighbors(n_neighbors=int(k), algorithm="brute", metric="euclidean").fit(x)
    return search.kneighbors(return_distance=False)


def with_torch(x: np.ndarray, k: np.ndarray) -> np.ndarray:
    import torch

    rows = torch.from_numpy(x)
    indices = torch.empty((len(rows), int(k)), dtype=torch.int64)
    for start in range(0, len(rows), TORCH_ROWS):
        scores = rows[start : start + TORCH_ROWS] @ rows.T
        scores.diagonal(start).fill_(-torch.inf)
        indices[start : start + TORCH_ROWS] = scores.topk(int(k)).indices
    return indices.numpy()


def _identical(ours: np.ndarray, theirs: np.ndarray) -> str:
    same = 0
    for start in range(0, len(ours), COMPARED_ROWS):
        part = slice(start, start + COMPARED_ROWS)
        same += (ours[part, :, None] == theirs[part, None, :]).any(axis=2).sum()
    return f"{same / ours.size:.6f}"


NEAREST = Op(
    name="nearest",
    summary="exact k nearest rows by the cosine, all pairs, each row left out of its own list",
    # k = 100 follows k = 10 at the same size: the time of one over that of the other is stated.
    cases=(
        Case(5000, 512, 10),
        Case(20000, 512, 10),
        Case(20000, 512, 100),
        Case(50000, 512, 10),
        Case(20000, 64, 10),
        Case(8000, 4096, 10),
    ),
    flop=lambda case: float(case.n) ** 2 * case.d,
    flop_formula="n^2 d",
    inputs=_inputs,
    contenders=(
        Contender("repsim.nearest, float32 filter", REPSIM, functools.partial(with_repsim, filter="float32")),
        Contender("repsim.nearest, bfloat16 filter", REPSIM, functools.partial(with_repsim, filter="bfloat16")),
        Contender("faiss-cpu IndexFlatIP", "faiss-cpu", with_faiss),
        Contender(
            "scikit-learn brute (ArgKmin)",
            "scikit-learn",
            with_scikit_learn,
            most_repeats=lambda case: 3 if case.n >= 50_000 else None,
        ),
        Contender("torch, matmul + topk in chunks", "torch", with_torch),
    ),
    agreement=_identical,
    agreement_name="identical neighbours",
)
