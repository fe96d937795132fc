"""Sums over all pairs of inputs and nearest neighbours, streamed: the only room that calls the native core."""

from .arithmetic import add_rows_to, exponential, lengths, upper_factor
from .axes import RELIABLE, Axes, inverse, principal_axes, rounding
from .centre import column_sums, equal_rows, finite_block, robust_centre, squared_norms
from .device import PRECISIONS, device_of, has_gpu_operations, on_host, placed, rows_on, working_on
from .dissimilarities import KINDS as DISSIMILARITIES
from .dissimilarities import Dissimilarities, directions, dissimilarities_of, dissimilarity_pairs, dissimilarity_tiles
from .distance_ranks import DistanceRanks, distance_ranks, rank_correlation
from .distances import median_distance
from .feature_space import feature_sums, less_in_feature_space
from .graphs import (
    ListedRows,
    Lists,
    WeightedLists,
    first_bad_list,
    list_sums,
    list_terms,
    masked_hsic,
    second_order_sums,
    second_order_terms,
)
from .leave_one_out import feature_row_terms
from .moments import has_fourth_powers
from .neighbours import has_bfloat16, nearest
from .products import Block, Products, about, cross_products, fold_products, own_axes, own_products, pooled
from .sums import HsicSums, RowTerms
from .third_moments import ThirdMoments, third_moments
from .tiles import kernel_sums

__all__ = [
    "DISSIMILARITIES",
    "PRECISIONS",
    "RELIABLE",
    "Axes",
    "Block",
    "Dissimilarities",
    "DistanceRanks",
    "HsicSums",
    "ListedRows",
    "Lists",
    "Products",
    "RowTerms",
    "ThirdMoments",
    "WeightedLists",
    "about",
    "add_rows_to",
    "column_sums",
    "cross_products",
    "device_of",
    "directions",
    "dissimilarities_of",
    "dissimilarity_pairs",
    "dissimilarity_tiles",
    "distance_ranks",
    "equal_rows",
    "exponential",
    "feature_row_terms",
    "feature_sums",
    "finite_block",
    "first_bad_list",
    "fold_products",
    "has_bfloat16",
    "has_fourth_powers",
    "has_gpu_operations",
    "inverse",
    "kernel_sums",
    "lengths",
    "less_in_feature_space",
    "list_sums",
    "list_terms",
    "masked_hsic",
    "median_distance",
    "nearest",
    "on_host",
    "own_axes",
    "own_products",
    "placed",
    "pooled",
    "principal_axes",
    "rank_correlation",
    "robust_centre",
    "rounding",
    "rows_on",
    "second_order_sums",
    "second_order_terms",
    "squared_norms",
    "third_moments",
    "upper_factor",
    "working_on",
]
