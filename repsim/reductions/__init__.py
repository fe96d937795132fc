"""Sums over all pairs of inputs and nearest neighbours, streamed: the only room that calls the native core."""

from .distances import median_distance
from .feature_space import feature_sums
from .neighbours import nearest
from .sums import HsicSums
from .tiles import kernel_sums

__all__ = ["HsicSums", "feature_sums", "kernel_sums", "median_distance", "nearest"]
