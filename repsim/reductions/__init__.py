"""Sums over all pairs of inputs and nearest neighbours, streamed: the only room that calls the native core."""

from .distances import median_distance
from .feature_space import feature_space_flop, feature_sums, tiles_flop
from .leave_one_out import feature_row_terms
from .neighbours import nearest
from .sums import HsicSums, RowTerms
from .third_moments import ThirdMoments, third_moments
from .tiles import kernel_sums

__all__ = [
    "HsicSums",
    "RowTerms",
    "ThirdMoments",
    "feature_row_terms",
    "feature_space_flop",
    "feature_sums",
    "kernel_sums",
    "median_distance",
    "nearest",
    "third_moments",
    "tiles_flop",
]
