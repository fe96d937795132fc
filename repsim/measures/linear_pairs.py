"""Linear HSIC of many pairs of layers, from products of features that other measures of the same layers ask for too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..arrays import Rows
from ..kernels import Linear
from ..reductions import ThirdMoments, cross_products, own_products, third_moments
from ..reductions.centre import equal_rows
from ..reductions.feature_space import sums_of
from ..reductions.moments import Centred, too_long
from .centred import CentredKernels, in_feature_space, keeps_digits


@dataclass(frozen=True)
class _Layer:
    rows: Rows
    own: Centred
    thirds: ThirdMoments


@dataclass(eq=False)
class LinearPairs:
    """What linear HSIC needs of pairs of layers; a few numbers each.

    Example::

        pairs = LinearPairs(xs, ys, threads=2)
        pairs.visit(0, 1)                               # while what was found of xs[0] and ys[1] is at hand
        pairs.of(0, 1, "debiased", "cka")               # the kernel matrices of both, centred

    A pair that :func:`repsim.cka` takes in tiles is passed over.
    """

    left: Sequence[Rows]
    right: Sequence[Rows]
    threads: int
    crossed: dict[tuple[int, int], Centred] = field(default_factory=dict)
    layers: dict[tuple[str, int], _Layer] = field(default_factory=dict)

    def visit(self, i: int, j: int) -> None:
        """Take in the pair (i, j).

        Raises
        ------
        ValueError: rows that are not finite, or all equal.
        """
        x, y = self.left[i], self.right[j]
        if not in_feature_space([x, y], 1):
            return
        for key, rows in ((("x", i), x), (("y", j), y)):
            if key not in self.layers:
                self.layers[key] = self._layer(rows)
        found = cross_products(x, y, function="cka", threads=self.threads).centred
        assert found is not None, "of all inputs as they lie"
        self.crossed[i, j] = found

    def _layer(self, rows: Rows) -> _Layer:
        own = own_products(rows, function="cka", threads=self.threads).centred
        assert own is not None, "of all inputs as they lie"
        if not own.square > 0:
            if own.sum_a > 0:
                raise too_long(rows, own.sum_a, function="cka")
            raise equal_rows(rows, len(rows), function="cka")
        return _Layer(rows, own, third_moments(rows, Linear()))

    def of(self, i: int, j: int, estimator: str, function: str) -> CentredKernels | None:
        """Both kernel matrices, the first that of the left; None for a pair that is taken in tiles.

        Raises
        ------
        ValueError: a kernel matrix that does not vary.
        """
        if (i, j) not in self.crossed:
            return None
        x, y = self.layers["x", i], self.layers["y", j]
        sums = sums_of(2, {(0, 0): x.own, (1, 1): y.own, (0, 1): self.crossed[i, j]})
        if not keeps_digits(sums, estimator):
            return None
        made = CentredKernels(estimator, sums, [x.thirds, y.thirds])
        return made.require_variance([x.rows, y.rows], function)
