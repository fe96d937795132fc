"""Sums over all pairs of inputs and nearest neighbours, streamed: the only room that calls the native core."""

from .distances import median_distance
from .feature_space import feature_sums
from .neighbours import has_bfloat16, nearest
from .sums import HsicSums
from .tiles import kernel_sums

__all__ = ["HsicSums", "feature_sums", "has_bfloat16", "kernel_sums", "median_distance", "nearest"]
