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
from .measures.functional.classes import (
    accuracy_difference,
    cohens_kappa,
    disagreement,
    error_corrected_disagreement,
    min_max_normalized_disagreement,
)
from .measures.functional.multiplicity import ambiguity, discrepancy, rashomon_capacities, rashomon_capacity
from .measures.functional.soft import (
    jensen_shannon_divergence,
    prediction_difference,
    saliency_cosine,
    surrogate_churn,
)
from .measures.neighbour_ranks import edit_distance_knn, joint_rank_jaccard, lcs_knn, rank_similarity
from .measures.neighbour_scores import cknna, second_order_cosine
from .measures.neighbour_sets import cycle_knn, knn_jaccard, mutual_knn, overlap_counts
from .measures.neighbours import Neighbours, nearest
from .measures.shapes import procrustes
from .measures.similarity import Distance, Similarity
from .measures.topology import imd, rtd
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
    "accuracy_difference",
    "ambiguity",
    "angular_cka",
    "cka",
    "cknna",
    "cmake_dir",
    "cohens_kappa",
    "compare",
    "cycle_knn",
    "disagreement",
    "discrepancy",
    "edit_distance_knn",
    "error_corrected_disagreement",
    "hsic",
    "imd",
    "jensen_shannon_divergence",
    "joint_rank_jaccard",
    "knn_jaccard",
    "lcs_knn",
    "measures",
    "min_max_normalized_disagreement",
    "mutual_knn",
    "nearest",
    "overlap_counts",
    "prediction_difference",
    "procrustes",
    "rank_similarity",
    "rashomon_capacities",
    "rashomon_capacity",
    "rtd",
    "saliency_cosine",
    "second_order_cosine",
    "streaming",
    "surrogate_churn",
]
