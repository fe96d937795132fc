"""From a checkpoint and data on disk to a store: transformers or timm, images or text, every layer or chosen ones.

checkpoint = load_checkpoint("gpt2", "text", device="cpu")
store = extract_layers(checkpoint, load_inputs("sentences.txt"), "gpt2.store", pool="mean")
store["hidden.6"]                                   # [n, 768], one row per line of the file
"""

from __future__ import annotations

from repsim.extraction.attention import write_attention
from repsim.extraction.checkpoint import Checkpoint, load_checkpoint
from repsim.extraction.inputs import Images, Texts, load_inputs
from repsim.extraction.layers import IMAGE_POOLS, TEXT_POOLS, extract_layers

__all__ = [
    "IMAGE_POOLS",
    "TEXT_POOLS",
    "Checkpoint",
    "Images",
    "Texts",
    "extract_layers",
    "load_checkpoint",
    "load_inputs",
    "write_attention",
]
