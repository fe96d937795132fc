"""repsim: how alike the representations of neural networks are, exactly, at millions of inputs.

import repsim
repsim.cka(x, y)            # x [n, d], y [n, d']
repsim.mutual_knn(x, y)
repsim.nearest(x, k=10)
repsim.compare({"layer1": x1, "layer2": x2}, {"layer1": y1})
"""

from __future__ import annotations

from . import measures, streaming
from .compare import Comparison, compare
from .kernels import RBF, Cosine, Kernel, LaplacianL1, LaplacianL2, Linear, Polynomial
from .measures.cka import angular_cka, cka, hsic
from .measures.matching import hard_correlation_match, maximum_matching, soft_correlation_match, soft_matching
from .measures.neighbour_ranks import edit_distance_knn, joint_rank_jaccard, lcs_knn, rank_similarity
from .measures.neighbour_scores import cknna, second_order_cosine
from .measures.neighbour_sets import cycle_knn, knn_jaccard, mutual_knn, overlap_counts
from .measures.neighbours import Neighbours, nearest
from .measures.shapes import (
    aligned_cosine,
    angular_procrustes,
    partial_whitening,
    permutation_procrustes,
    procrustes,
)
from .measures.similarity import Distance, Similarity
from .measures.spectra import bures, eigenspace_overlap, gulp, riemannian
from .native import cmake_dir
from .store import Store

__version__ = "0.1.0"

__all__ = [
    "RBF",
    "Comparison",
    "Cosine",
    "Distance",
    "Kernel",
    "LaplacianL1",
    "LaplacianL2",
    "Linear",
    "Neighbours",
    "Polynomial",
    "Similarity",
    "Store",
    "aligned_cosine",
    "angular_cka",
    "angular_procrustes",
    "bures",
    "cka",
    "cknna",
    "cmake_dir",
    "compare",
    "cycle_knn",
    "edit_distance_knn",
    "eigenspace_overlap",
    "gulp",
    "hard_correlation_match",
    "hsic",
    "joint_rank_jaccard",
    "knn_jaccard",
    "lcs_knn",
    "maximum_matching",
    "measures",
    "mutual_knn",
    "nearest",
    "overlap_counts",
    "partial_whitening",
    "permutation_procrustes",
    "procrustes",
    "rank_similarity",
    "riemannian",
    "second_order_cosine",
    "soft_correlation_match",
    "soft_matching",
    "streaming",
]
