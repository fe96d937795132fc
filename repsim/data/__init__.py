"""Labelled images that need no download: real handwriting, and ColorShapeDigit, which is drawn from a seed."""

from __future__ import annotations

from repsim.data.color_shape_digit import ATTRIBUTES, CLASSES, COLORS, SHAPES, ColorShapeDigit
from repsim.data.images import LabelledImages, contact_sheet, handwriting

__all__ = [
    "ATTRIBUTES",
    "CLASSES",
    "COLORS",
    "SHAPES",
    "ColorShapeDigit",
    "LabelledImages",
    "contact_sheet",
    "handwriting",
]
