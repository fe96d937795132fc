"""repsim: how alike the representations of neural networks are, exactly, at millions of inputs.

import repsim
repsim.cka(x, y)            # x [n, d], y [n, d']
repsim.mutual_knn(x, y)
repsim.nearest(x, k=10)
repsim.compare({"layer1": x1, "layer2": x2}, {"layer1": y1})
"""

from __future__ import annotations

from . import streaming
from .compare import Comparison, compare
from .kernels import RBF, Cosine, Kernel, LaplacianL1, LaplacianL2, Linear, Polynomial
from .measures.cka import angular_cka, cka, hsic
from .measures.neighbours import Neighbours, cknna, mutual_knn, nearest
from .measures.similarity import Similarity
from .store import Store

__version__ = "0.1.0"

__all__ = [
    "RBF",
    "Comparison",
    "Cosine",
    "Kernel",
    "LaplacianL1",
    "LaplacianL2",
    "Linear",
    "Neighbours",
    "Polynomial",
    "Similarity",
    "Store",
    "angular_cka",
    "cka",
    "cknna",
    "compare",
    "hsic",
    "mutual_knn",
    "nearest",
    "streaming",
]
