"""Sums over all pairs of inputs and nearest neighbours, streamed: the only room that calls the native core."""

from .centre import column_sums, not_finite
from .distances import median_distance
from .feature_space import feature_space_flop, feature_sums, tiles_flop
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
from .products import Products, cross_products, own_products
from .sums import HsicSums, RowTerms
from .third_moments import ThirdMoments, third_moments
from .tiles import kernel_sums

__all__ = [
    "HsicSums",
    "ListedRows",
    "Lists",
    "Products",
    "RowTerms",
    "ThirdMoments",
    "WeightedLists",
    "column_sums",
    "cross_products",
    "feature_row_terms",
    "feature_space_flop",
    "feature_sums",
    "first_bad_list",
    "has_bfloat16",
    "has_fourth_powers",
    "kernel_sums",
    "list_sums",
    "list_terms",
    "masked_hsic",
    "median_distance",
    "nearest",
    "not_finite",
    "own_products",
    "second_order_sums",
    "second_order_terms",
    "third_moments",
    "tiles_flop",
]
