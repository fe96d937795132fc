"""Data that needs no download: real handwriting, ColorShapeDigit, which is drawn from a seed, and Python's own text."""

from __future__ import annotations

from repsim.data.color_shape_digit import ATTRIBUTES, CLASSES, COLORS, SHAPES, ColorShapeDigit
from repsim.data.images import LabelledImages, contact_sheet, handwriting
from repsim.data.text import Corpus, load_tokenizer, pack, passages, read_corpus, train_tokenizer
from repsim.data.tokens import TokenBlocks

__all__ = [
    "ATTRIBUTES",
    "CLASSES",
    "COLORS",
    "SHAPES",
    "ColorShapeDigit",
    "Corpus",
    "LabelledImages",
    "TokenBlocks",
    "contact_sheet",
    "handwriting",
    "load_tokenizer",
    "pack",
    "passages",
    "read_corpus",
    "train_tokenizer",
]
