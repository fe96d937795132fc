"""Sums over all pairs of inputs and nearest neighbours, streamed: the only room that calls the native core."""

from .distances import median_distance
from .feature_space import feature_sums
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
from .neighbours import nearest
from .sums import HsicSums
from .tiles import kernel_sums

__all__ = [
    "HsicSums",
    "ListedRows",
    "Lists",
    "WeightedLists",
    "feature_sums",
    "first_bad_list",
    "kernel_sums",
    "list_sums",
    "list_terms",
    "masked_hsic",
    "median_distance",
    "nearest",
    "second_order_sums",
    "second_order_terms",
]
