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
from .measures.attention import (
    attention_cka,
    attention_frobenius,
    attention_jensen_shannon,
    attention_pearson,
    attention_rows,
    word_attention,
)
from .measures.cka import angular_cka, cka, hsic
from .measures.identifiability import d_fg, d_llv, d_svd, kl_divergence, logit_distance, mcca
from .measures.neighbour_ranks import edit_distance_knn, joint_rank_jaccard, lcs_knn, rank_similarity
from .measures.neighbour_scores import cknna, second_order_cosine
from .measures.neighbour_sets import cycle_knn, knn_jaccard, mutual_knn, overlap_counts
from .measures.neighbours import Neighbours, nearest
from .measures.neurons import (
    NeuronRanking,
    linreg,
    localization_score,
    maxcorr,
    mincorr,
    rank_neurons,
)
from .measures.shapes import procrustes
from .measures.similarity import Distance, Similarity
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
    "NeuronRanking",
    "Polynomial",
    "Similarity",
    "Store",
    "angular_cka",
    "attention_cka",
    "attention_frobenius",
    "attention_jensen_shannon",
    "attention_pearson",
    "attention_rows",
    "cka",
    "cknna",
    "cmake_dir",
    "compare",
    "cycle_knn",
    "d_fg",
    "d_llv",
    "d_svd",
    "edit_distance_knn",
    "hsic",
    "joint_rank_jaccard",
    "kl_divergence",
    "knn_jaccard",
    "lcs_knn",
    "linreg",
    "localization_score",
    "logit_distance",
    "maxcorr",
    "mcca",
    "measures",
    "mincorr",
    "mutual_knn",
    "nearest",
    "overlap_counts",
    "procrustes",
    "rank_neurons",
    "rank_similarity",
    "second_order_cosine",
    "streaming",
    "word_attention",
]
