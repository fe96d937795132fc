"""repsim: how alike the representations of neural networks are, exactly, at millions of inputs.

import repsim
repsim.cka(x, y)            # x [n, d], y [n, d']
repsim.mutual_knn(x, y)
repsim.nearest(x, k=10)
repsim.compare({"layer1": x1, "layer2": x2}, {"layer1": y1})
"""

from __future__ import annotations

from . import measures, streaming
from .compare import compare
from .compare_models import ModelComparison, compare_models
from .comparison import Comparison
from .kernels import RBF, Cosine, Kernel, LaplacianL1, LaplacianL2, Linear, Polynomial
from .measures.attention import (
    attention_cka,
    attention_frobenius,
    attention_jensen_shannon,
    attention_pearson,
    attention_rows,
    attention_svcca,
    word_attention,
)
from .measures.cca import cca_mean, cca_mean_squared, pwcca, svcca
from .measures.cka import angular_cka, cka, hsic
from .measures.distance_correlation import distance_correlation
from .measures.functional.classes import (
    accuracy_difference,
    cohens_kappa,
    disagreement,
    error_corrected_disagreement,
    min_max_normalized_disagreement,
)
from .measures.functional.multiplicity import (
    ambiguity,
    discrepancy,
    label_entropy,
    rashomon_capacities,
    rashomon_capacity,
)
from .measures.functional.soft import jensen_shannon_divergence, prediction_difference, saliency_cosine, surrogate_churn
from .measures.functional.stitching import stitching
from .measures.geometry_score import geometry_score
from .measures.identifiability import d_fg, d_llv, d_svd, kl_divergence, logit_distance, mcca
from .measures.intrinsic_dimension import intrinsic_dimension, intrinsic_dimension_difference
from .measures.kernel_ridge import kernel_ridge
from .measures.labelled_statistics import modularity, modularity_difference, tolerance, tolerance_difference
from .measures.matching import hard_correlation_match, maximum_matching, soft_correlation_match, soft_matching
from .measures.neighbour_ranks import edit_distance_knn, joint_rank_jaccard, lcs_knn, rank_similarity
from .measures.neighbour_scores import cknna, second_order_cosine
from .measures.neighbour_sets import cycle_knn, knn_jaccard, mutual_knn, overlap_counts
from .measures.neighbours import Neighbours, nearest
from .measures.neuron_graphs import neuron_modularity, neuron_modularity_difference
from .measures.neurons import NeuronRanking, linreg, localization_score, maxcorr, mincorr, rank_neurons
from .measures.platonic import platonic_rows
from .measures.pls import pls
from .measures.regression import linear_regression, ridge_regression
from .measures.rsa import rsa, rsm_norm_difference
from .measures.shapes import aligned_cosine, angular_procrustes, partial_whitening, permutation_procrustes, procrustes
from .measures.similarity import Distance, Similarity
from .measures.spectra import bures, eigenspace_overlap, gulp, riemannian
from .measures.statistics import (
    concentricity,
    concentricity_difference,
    magnitude,
    magnitude_difference,
    uniformity,
    uniformity_difference,
)
from .measures.topology import imd, rtd
from .native import cmake_dir
from .plan import ComparisonPlan, plan
from .store import Store

__version__ = "0.1.0"

__all__ = [
    "RBF",
    "Comparison",
    "ComparisonPlan",
    "Cosine",
    "Distance",
    "Kernel",
    "LaplacianL1",
    "LaplacianL2",
    "Linear",
    "ModelComparison",
    "Neighbours",
    "NeuronRanking",
    "Polynomial",
    "Similarity",
    "Store",
    "accuracy_difference",
    "aligned_cosine",
    "ambiguity",
    "angular_cka",
    "angular_procrustes",
    "attention_cka",
    "attention_frobenius",
    "attention_jensen_shannon",
    "attention_pearson",
    "attention_rows",
    "attention_svcca",
    "bures",
    "cca_mean",
    "cca_mean_squared",
    "cka",
    "cknna",
    "cmake_dir",
    "cohens_kappa",
    "compare",
    "compare_models",
    "concentricity",
    "concentricity_difference",
    "cycle_knn",
    "d_fg",
    "d_llv",
    "d_svd",
    "disagreement",
    "discrepancy",
    "distance_correlation",
    "edit_distance_knn",
    "eigenspace_overlap",
    "error_corrected_disagreement",
    "geometry_score",
    "gulp",
    "hard_correlation_match",
    "hsic",
    "imd",
    "intrinsic_dimension",
    "intrinsic_dimension_difference",
    "jensen_shannon_divergence",
    "joint_rank_jaccard",
    "kernel_ridge",
    "kl_divergence",
    "knn_jaccard",
    "label_entropy",
    "lcs_knn",
    "linear_regression",
    "linreg",
    "localization_score",
    "logit_distance",
    "magnitude",
    "magnitude_difference",
    "maxcorr",
    "maximum_matching",
    "mcca",
    "measures",
    "min_max_normalized_disagreement",
    "mincorr",
    "modularity",
    "modularity_difference",
    "mutual_knn",
    "nearest",
    "neuron_modularity",
    "neuron_modularity_difference",
    "overlap_counts",
    "partial_whitening",
    "permutation_procrustes",
    "plan",
    "platonic_rows",
    "pls",
    "prediction_difference",
    "procrustes",
    "pwcca",
    "rank_neurons",
    "rank_similarity",
    "rashomon_capacities",
    "rashomon_capacity",
    "ridge_regression",
    "riemannian",
    "rsa",
    "rsm_norm_difference",
    "rtd",
    "saliency_cosine",
    "second_order_cosine",
    "soft_correlation_match",
    "soft_matching",
    "stitching",
    "streaming",
    "surrogate_churn",
    "svcca",
    "tolerance",
    "tolerance_difference",
    "uniformity",
    "uniformity_difference",
    "word_attention",
]
