"""Model stitching: can the rest of one model go on from where the front of another stopped?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...arguments import Progress, positive_number, thread_count, whole_number
from ...arrays import Rows, as_rows, same_inputs
from ...calibration import jackknife_error
from ...reductions import column_sums, cross_products, own_products
from ..registry import Measure, register
from ..sides import axes
from ..similarity import Similarity
from .outputs import result_of, true_labels

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

_NAME = "stitching"
_BLOCK = 1024  # inputs that the rest of the model sees at a time where nothing is trained

STITCHING = register(
    Measure(
        name=_NAME,
        family="stitching",
        kind="similarity",
        low=0.0,
        high=np.inf,
        symmetric=False,
        invariances=frozenset(),
        cost="time n (d^2 + d d') and, per epoch, a pass of the rest of the model there and back; memory n (d + d')",
        paper="Lenc and Vedaldi (2015), Understanding image representations by measuring their equivariance and "
        "equivalence; Csiszarik et al. (2021), Similarity and matching of neural network representations; Bansal, "
        "Nakkiran and Barak (2021), Revisiting model stitching to compare neural representations",
        formula="accuracy(back(S x)) / accuracy(back(y)) on inputs held out, S affine, fitted to y, then to the labels",
        takes="models",
        note="A layer is trained: high values say that it can be read by the rest of the model, not that it is like y.",
    )
)


def stitching(
    x: Any,
    y: Any,
    back: Module,
    labels: Any,
    *,
    epochs: int = 10,
    learning_rate: float = 1e-3,
    batch_rows: int = 128,
    held_out: float = 0.25,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Similarity:
    """Relative accuracy of a model that goes on from another one's representation through an affine layer.

    Example::

        repsim.stitching(x, y, back, labels)    # x [n, d], y [n, d'], back: module, [m, d'] -> logits [m, classes]
        repsim.stitching(x, y, back, labels)    # x [n, c, h, w], y [n, c', h, w], back: [m, c', h, w] -> [m, classes]
        repsim.stitching(x, y, back, labels, epochs=0)       # direct matching alone: nothing is trained

    Parameters
    ----------
    x: what the front of one model gives, [n, d] or, of a convolutional one, [n, c, h, w]; float16, bfloat16, float32 or
        float64. numpy, memmap, torch CPU.
    y: what the front of the other gives where ``back`` goes on, for the same inputs.
    back: the rest of the other model, a torch module. It is run in evaluation mode where its parameters are (a GPU has
        not been tried), and left as it was: its parameters, their gradients, and the mode of every part.
    labels: [n] the true classes, whole numbers from 0.
    epochs: passes over the inputs that are not held out; 0 trains nothing.
    learning_rate: of Adam.
    batch_rows: inputs a step.
    held_out: the share of the inputs that accuracies are taken of, and nothing is fitted to.
    seed: of the inputs held out, and of the order in training.
    threads: of the least squares, as for :func:`repsim.cka`; training has torch's.
    progress: called with (epochs done, epochs in all).

    Returns
    -------
    Similarity, 1 where nothing is lost, above 1 where the stitched model is better than that of ``back``. Its options
    have ``accuracy``, ``direct_accuracy`` (before training), ``own_accuracy`` (of ``back`` on y), and the ``penalty``,
    own less stitched (Bansal et al.). The standard error is the jackknife over the inputs held out with the layer as it
    is, which leaves out the randomness of training. No null: shuffle x and call again. On one machine, with one number
    of threads, values are the same every time.

    Raises
    ------
    TypeError, ValueError: bad arrays or labels; different numbers of inputs, or heights and widths; values that are not
        finite; a back that is no module, or gives no finite logits [m, classes] with a class for every label; no input
        left to fit or to hold out; a back that is never right on y; a loss that is not finite.

    Method: S x = W x + b, a 1 x 1 convolution for images. Direct matching: least squares to y over inputs and places,
        by the pseudoinverse in float64. Task loss: from there, cross-entropy of ``back(S x)`` by Adam over W and b.

    Papers: Lenc and Vedaldi (2015); Csiszarik, Korosi-Szabo, Matszangosz, Papp and Varga (2021), whose relative
        accuracy and two ways of matching these are; Bansal, Nakkiran and Barak (2021).
    """
    import torch

    if not isinstance(back, torch.nn.Module):
        raise TypeError(f"[{_NAME}] expected back as a torch.nn.Module, got {type(back).__name__}")
    whole_number(epochs, "epochs", function=_NAME, least=0)
    whole_number(batch_rows, "batch_rows", function=_NAME)
    whole_number(seed, "seed", function=_NAME, least=0)
    rate = positive_number(learning_rate, "learning_rate", function=_NAME)
    share = positive_number(held_out, "held_out", function=_NAME)
    cpus = thread_count(threads, function=_NAME)
    left, right = _Maps.of(x, "x"), _Maps.of(y, "y")
    n = same_inputs(left.rows, right.rows, function=_NAME)
    if left.places != right.places:
        raise ValueError(f"[{_NAME}] expected y of shape {left.like} like x, got {right.shape}")
    truth = torch.from_numpy(true_labels(labels, n, function=_NAME))
    for side in (left, right):
        column_sums(side.rows, function=_NAME, threads=cpus)  # every row is finite
    random = np.random.default_rng(seed)
    order = random.permutation(n)
    count = round(share * n)
    if not 0 < count < n:
        raise ValueError(f"[{_NAME}] expected held_out that leaves inputs of {n} on either side, got {held_out}")
    test, train = np.sort(order[:count]), order[count:]
    start = next(iter(back.parameters()), torch.zeros(0))
    layer = _Layer.matching(left, right, train, cpus).to(start)
    stitched, own = left.tensor(start), right.tensor(start)
    truth = truth.to(start.device)
    with _evaluated(back):
        correct = _right(back, own, truth, test)
        if not correct.any():
            raise ValueError(f"[{_NAME}] expected a back that is right on some of y held out, got none of {count}")
        direct = _right(back, stitched, truth, test, layer)
        for epoch in range(epochs):
            if epoch == 0:
                step = layer.trained(rate)
            for chosen in np.array_split(random.permutation(train), -(-len(train) // batch_rows)):
                step(back, stitched[chosen], truth[chosen])
            if progress:
                progress(epoch + 1, epochs)
        final = _right(back, stitched, truth, test, layer) if epochs else direct
    with np.errstate(divide="ignore", invalid="ignore"):  # back is right once: no standard error
        error = jackknife_error((final.sum() - final) / (correct.sum() - correct))
    accuracies = {
        "accuracy": float(final.mean()), "direct_accuracy": float(direct.mean()),
        "own_accuracy": float(correct.mean()), "penalty": float(correct.mean() - final.mean()),
    }  # fmt: skip
    options = {
        "epochs": epochs, "learning_rate": rate, "batch_rows": batch_rows, "held_out": share, "seed": seed, **accuracies
    }  # fmt: skip
    return result_of(STITCHING, float(final.sum() / correct.sum()), n, options, error=error)


@dataclass(frozen=True)
class _Maps:
    """Representations of n inputs, as rows [n, d h w]; places: (h, w), or nothing of vectors."""

    rows: Rows
    shape: tuple[int, ...]

    @classmethod
    def of(cls, x: Any, name: str) -> _Maps:
        shape = tuple(getattr(x, "shape", ()))
        if len(shape) not in (2, 4):
            raise ValueError(f"[{_NAME}] expected {name} as an array [n, d] or [n, c, h, w], got shape {shape}")
        flat = x.reshape(shape[0], -1) if len(shape) == 4 and 0 not in shape else x
        return cls(as_rows(flat, function=_NAME, name=name), shape)

    @property
    def places(self) -> tuple[int, ...]:
        return self.shape[2:]

    @property
    def like(self) -> str:
        """The shapes that fit to it."""
        return f"[{self.shape[0]}, {', '.join(['any', *map(str, self.places)])}]"

    def vectors(self, some: np.ndarray) -> Rows:
        """Those of the chosen inputs at every place, [inputs h w, d]."""
        values = self.rows.wide(some)
        if self.places:
            values = np.moveaxis(values.reshape(-1, *self.shape[1:]), 1, -1).reshape(-1, self.shape[1])
        return Rows(np.ascontiguousarray(values), "float64", self.rows.name)

    def tensor(self, like: Tensor) -> Tensor:
        """All of it, in the dtype and on the device of ``like``."""
        import torch

        return torch.from_numpy(self.rows.wide(slice(None)).reshape(self.shape)).to(like)


class _Layer:
    """S x = W x + b, of vectors or at every place of an image."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = weight, bias  # [d', d], [d']

    @classmethod
    def matching(cls, x: _Maps, y: _Maps, some: np.ndarray, threads: int) -> _Layer:
        """The affine map of least squares from x to y, of the smallest W where there are several."""
        import torch

        left, right = x.vectors(some), y.vectors(some)
        own = own_products(left, function=_NAME, threads=threads)
        if not np.trace(own.xy) > 0:
            raise ValueError(f"[{_NAME}] expected x whose rows differ, got a sum of squares of 0 in float64")
        both = cross_products(left, right, function=_NAME, threads=threads)
        whitening = axes(own.xy, len(left)).whitening
        weight = (whitening @ (whitening.T @ both.xy)).T
        return cls(torch.from_numpy(weight), torch.from_numpy(both.mean_y - weight @ both.mean_x))

    def to(self, like: Tensor) -> _Layer:
        return _Layer(self.weight.to(like), self.bias.to(like))

    def __call__(self, x: Tensor) -> Tensor:
        import torch

        if x.ndim == 2:
            return torch.nn.functional.linear(x, self.weight, self.bias)
        return torch.nn.functional.conv2d(x, self.weight[:, :, None, None], self.bias)

    def trained(self, rate: float) -> Any:
        """A function that takes one step of Adam for the cross-entropy of a batch."""
        import torch

        ours = [self.weight.requires_grad_(), self.bias.requires_grad_()]
        adam = torch.optim.Adam(ours, lr=rate)

        def step(back: Module, x: Tensor, truth: Tensor) -> None:
            loss = torch.nn.functional.cross_entropy(back(self(x)), truth)
            if not torch.isfinite(loss):
                raise ValueError(
                    f"[{_NAME}] expected a finite loss in training, got {loss.item()}; lower learning_rate"
                )
            for parameter, gradient in zip(ours, torch.autograd.grad(loss, ours), strict=True):
                parameter.grad = gradient  # the parameters of back get none
            adam.step()

        return step


def _right(back: Module, x: Tensor, truth: Tensor, some: np.ndarray, layer: _Layer | None = None) -> np.ndarray:
    """[inputs] bool: where the largest logit is that of the label."""
    import torch

    found = []
    with torch.no_grad():
        for part in np.array_split(some, -(-len(some) // _BLOCK)):
            scores = back(layer(x[part]) if layer else x[part])
            _check_logits(scores, len(part), truth)
            found.append((scores.argmax(dim=1) == truth[part]).cpu().numpy())
    return np.concatenate(found)


def _check_logits(scores: Any, inputs: int, truth: Tensor) -> None:
    import torch

    shape = tuple(getattr(scores, "shape", ()))
    if not isinstance(scores, torch.Tensor) or len(shape) != 2 or shape[0] != inputs:
        raise ValueError(f"[{_NAME}] expected a back that gives logits [{inputs}, classes], got shape {shape}")
    if not torch.isfinite(scores).all():
        raise ValueError(f"[{_NAME}] expected a back that gives finite logits, got NaN or infinity")
    low, high = int(truth.min()), int(truth.max())
    if not 0 <= low <= high < shape[1]:
        raise ValueError(
            f"[{_NAME}] expected labels from 0 to {shape[1] - 1}, the classes of back, got {low} to {high}"
        )


@contextmanager
def _evaluated(back: Module) -> Iterator[None]:
    """Every part in evaluation mode, and then as it was."""
    modes = {part: part.training for part in back.modules()}
    back.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training
