"""Functions that run two models on batches and compare what their layers put out."""

from __future__ import annotations

import contextlib
import io
import warnings

import numpy as np
import oracles

from .claims import AGREES, Function, fewer_digits, no_digits, wrong
from .inputs import Pair
from .questions import FLOAT32, halves, linear_cka, minibatch_cka

LAYER = "layer"


def model(columns: slice, *, overwritten: bool = False):
    """Its layer puts out these columns of an input; a ReLU in place may follow."""
    import torch

    class Columns(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Identity()
            self.after = torch.nn.ReLU(inplace=True) if overwritten else torch.nn.Identity()

        def forward(self, rows):
            return self.after(self.layer(rows[..., columns].clone()))

    return Columns()


def models(pair: Pair, **options) -> tuple:
    d = pair.x.shape[1]
    return model(slice(0, d), **options), model(slice(d, None), **options)


def loader(pair: Pair, batches: int = 1, *, shuffle: bool = False, tokens: int = 0):
    """Batches of float32 rows [x | y]; with `tokens`, an input is a sequence of that many of them."""
    import torch

    rows = torch.from_numpy(np.concatenate([pair.x, pair.y], axis=1).astype(np.float32))
    if tokens:
        rows = rows.unflatten(0, (-1, tokens))
    generator = torch.Generator().manual_seed(0)
    return torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(rows), batch_size=len(rows) // batches, shuffle=shuffle, generator=generator
    )


@contextlib.contextmanager
def quiet():
    """Without the warnings and progress bars."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


# ---------------------------------------------------------------------------------------------- torch_cka


def torch_cka(batches: int = 1, *, shuffle: bool = False, overwritten: bool = False):
    def call(pair: Pair) -> float:
        from torch_cka import CKA

        with quiet():
            cka = CKA(*models(pair, overwritten=overwritten), model1_layers=[LAYER], model2_layers=[LAYER])
            cka.compare(loader(pair, batches, shuffle=shuffle))
        return float(cka.export()["CKA"][0, 0])

    return call


def in_two_orders(pair: Pair) -> float:
    """x in the first order that the shuffling loader draws, y in the second."""
    shuffled, d = loader(pair, shuffle=True), pair.x.shape[1]
    (first,), (second,) = next(zip(shuffled, shuffled, strict=True))
    return oracles.cka(first[:, :d], second[:, d:])


def after_relu(pair: Pair) -> float:
    return oracles.cka(np.maximum(pair.x, 0), np.maximum(pair.y, 0))


OVERWRITTEN = wrong("keeps the layer's output without a copy, which the ReLU in place overwrites", after_relu)

# ---------------------------------------------------------------------------------------------- pytorch-cka


def compute_cka(batches: int = 1, *, overwritten: bool = False):
    def call(pair: Pair) -> float:
        from cka import compute_cka

        with quiet():
            first, second = models(pair, overwritten=overwritten)
            matrices = compute_cka(first, second, loader(pair, batches), layers=[LAYER], progress=False)
        return float(matrices[0][0, 0])

    return call


def cka_calculator(batches: int = 1, *, overwritten: bool = False):
    def call(pair: Pair) -> float:
        import torch
        from cka_pytorch import CKACalculator

        first, second = models(pair, overwritten=overwritten)
        labelled = [(rows, None) for (rows,) in loader(pair, batches)]
        with quiet():
            calculator = CKACalculator(first, second, [LAYER], device=torch.device("cpu"), verbose=False)
            matrix = calculator.calculate_cka_matrix(labelled, num_epochs=1)
        return float(matrix[0, 0])

    return call


def with_epsilon(pair: Pair) -> float:
    own = oracles.hsic(pair.x, pair.x) * oracles.hsic(pair.y, pair.y)
    return oracles.hsic(pair.x, pair.y) / (own + 1e-4) ** 0.5


# ---------------------------------------------------------------------------------------------- ckatorch.CKA, simtorch


def ckatorch_class(batches: int):
    def call(pair: Pair) -> float:
        from ckatorch import CKA

        with quiet():
            cka = CKA(*models(pair), layers=[LAYER])
            tokens = pair.n // batches
            rows = loader(pair, batches, tokens=tokens).dataset.tensors[0]
            matrix = cka(Batches(rows), epochs=1)
        return float(matrix[0, 0])

    return call


class Batches:
    """A data loader whose batches are one sequence each, in order."""

    drop_last = False
    sampler = None

    def __init__(self, sequences) -> None:
        self.sequences = sequences

    def __len__(self) -> int:
        return len(self.sequences)

    def __iter__(self):
        return ([one[None]] for one in self.sequences)


def last_batch(pair: Pair) -> float:
    return oracles.cka(*halves(pair)[-1])


def simtorch(batches: int):
    def call(pair: Pair) -> float:
        from simtorch.model import SimilarityModel
        from simtorch.similarity import CKA

        with quiet():
            wrapped = [SimilarityModel(one, layers_to_include=[LAYER]) for one in models(pair)]
            matrix = CKA(*wrapped).compute(loader(pair, batches))
        return float(matrix[0, 0])

    return call


def sum_over_batches(pair: Pair) -> float:
    return sum(oracles.cka(*half, "biased") for half in halves(pair))


NOT_CENTRED = no_digits("HSIC from three nearly equal terms, in float32, of features that were not centred")
FUNCTIONS: list[Function] = [
    *(
        Function(
            library, f"{name}, two batches", minibatch_cka(), call, FLOAT32,
            {"d < n, float32": AGREES, "d > n, float32": AGREES},
        )
        for library, name, call in (
            ("torch-cka", "CKA(...).compare(loader)", torch_cka(2)),
            ("pytorch-cka", "compute_cka(..., loader)", compute_cka(2)),
            ("cka-pytorch", "CKACalculator(...).calculate_cka_matrix(loader)", cka_calculator(2)),
        )
    ),
    Function(
        "torch-cka", "CKA(...).compare(loader), one batch", linear_cka("debiased"), torch_cka(), FLOAT32,
        {"d < n, float32": AGREES, "d > n, float32": AGREES, "+ 1e3, float32": NOT_CENTRED},
    ),
    Function(
        "torch-cka", "CKA(...).compare(shuffled loader)", linear_cka("debiased"), torch_cka(shuffle=True), FLOAT32,
        {
            "d < n, float32": wrong(
                "iterates the loader once for each model: their inputs are in different orders", in_two_orders
            )
        },
    ),
    Function(
        "torch-cka", "CKA(...) of a layer before a ReLU in place", linear_cka("debiased"), torch_cka(overwritten=True),
        FLOAT32, {"d < n, float32": OVERWRITTEN},
    ),
    Function(
        "pytorch-cka", "compute_cka(..., loader), one batch", linear_cka("debiased"), compute_cka(), FLOAT32,
        {"d < n, float32": AGREES, "d > n, float32": AGREES, "+ 1e3, float32": NOT_CENTRED},
    ),
    Function(
        "pytorch-cka", "compute_cka(...) of a layer before a ReLU in place", linear_cka("debiased"),
        compute_cka(overwritten=True), FLOAT32, {"d < n, float32": OVERWRITTEN},
    ),
    Function(
        "cka-pytorch", "CKACalculator(...).calculate_cka_matrix(loader), one batch", linear_cka("debiased"),
        cka_calculator(), FLOAT32,
        {
            "d < n, float32": AGREES,
            "d > n, float32": AGREES,
            "+ 1e3, float32": NOT_CENTRED,
            "x 2^-13": wrong("1e-4 added under the root of the denominator", with_epsilon),
        },
    ),
    Function(
        "cka-pytorch", "CKACalculator(...) of a layer before a ReLU in place", linear_cka("debiased"),
        cka_calculator(overwritten=True), FLOAT32, {"d < n, float32": AGREES},
    ),
    Function(
        "ckatorch", "CKA(...)(loader), one batch", linear_cka("debiased"), ckatorch_class(1), FLOAT32,
        {
            "d < n, float32": AGREES,
            "d > n, float32": AGREES,
            "+ 1e3, float32": fewer_digits("HSIC from three nearly equal terms, of features that were not centred"),
        },
    ),
    Function(
        "ckatorch", "CKA(...)(loader), two batches", minibatch_cka(), ckatorch_class(2), FLOAT32,
        {"d < n, float32": wrong("every batch overwrites the one before: the last batch alone", last_batch)},
    ),
    Function(
        "simtorch", "CKA(...).compute(loader), one batch", linear_cka("biased"), simtorch(1), FLOAT32,
        {"d < n, float32": AGREES, "d > n, float32": AGREES, "+ 1e3, float32": AGREES},
    ),
    Function(
        "simtorch", "CKA(...).compute(loader), two batches", linear_cka("biased"), simtorch(2), FLOAT32,
        {"d < n, float32": wrong("the sum over batches, divided by the number of layers", sum_over_batches)},
    ),
]  # fmt: skip
