"""Functions that take two arrays and give a CKA or an HSIC."""

from __future__ import annotations

import math

import numpy as np
import oracles

from .claims import AGREES, Function, another_quantity, fewer_digits, no_digits, wrong
from .inputs import Array, Pair
from .questions import (
    FLOAT32,
    FLOAT64,
    halves,
    linear_cka,
    linear_hsic,
    minibatch_cka,
    orders_of,
    rbf_cka,
    rbf_median_cka,
    share_of_relabellings,
    sigma_of,
)

UNCENTRED = fewer_digits("Gram matrix of features that were not centred")
BY_SQUARES = fewer_digits("distances as |x|^2 + |y|^2 - 2 xy of features that were not centred")
BY_TERMS = fewer_digits("HSIC from three nearly equal terms, of features that were not centred")
NOTHING = no_digits("HSIC from three nearly equal terms, of features that were not centred")
LINEAR = {
    "d < n": AGREES,
    "d > n": AGREES,
    "+ 1e3": AGREES,
    "+ 1e6": UNCENTRED,
    "x 2^-13": AGREES,
    "duplicates": AGREES,
}
RBF = {**LINEAR, "+ 1e6": BY_SQUARES}


def tensors(pair: Pair) -> list:
    import torch

    return [torch.from_numpy(side) for side in (pair.x, pair.y)]


# ---------------------------------------------------------------------------------------------- ckatorch


def ckatorch_base(**options):
    def call(pair: Pair) -> float:
        from ckatorch import cka_base

        return float(cka_base(*tensors(pair), **options))

    return call


def ckatorch_rbf(estimator: str):
    """sigma^2: the lower median of all n^2 squared distances."""

    def gram(rows: Array) -> Array:
        squares = oracles.squared_distances(rows)
        return oracles.rbf_gram(rows, sigma=math.sqrt(np.sort(squares, axis=None)[(squares.size - 1) // 2]))

    return lambda pair: oracles.cka_of_grams(gram(pair.x), gram(pair.y), estimator)


def ckatorch_batch(pair: Pair) -> float:
    from ckatorch import cka_batch

    return float(cka_batch(*(side[None] for side in tensors(pair))))


def ckatorch_batches(pair: Pair) -> float:
    import torch
    from ckatorch import cka_batch

    return float(cka_batch(*(torch.from_numpy(np.stack(side)) for side in zip(*halves(pair), strict=True))))


OWN_MEDIAN = "its median is over all n^2 distances, the n zeros of the diagonal too"
CKATORCH = [
    Function(
        "ckatorch", "cka_base(x, y)", linear_cka("biased"), ckatorch_base(), FLOAT64,
        {**LINEAR, "d < n, float32": AGREES, "d > n, float32": AGREES, "+ 1e3, float32": AGREES},
    ),
    Function(
        "ckatorch", "cka_base(x, y, unbiased=True)", linear_cka("debiased"), ckatorch_base(unbiased=True), FLOAT64,
        {**LINEAR, "d < n, float32": AGREES, "d > n, float32": AGREES, "unrelated": AGREES},
    ),
    Function(
        "ckatorch", 'cka_base(x, y, method="hsic")', linear_cka("biased"), ckatorch_base(method="hsic"), FLOAT64,
        {"d < n": AGREES, "d > n": AGREES, "+ 1e6": no_digits("Gram matrix of features that were not centred: NaN")},
    ),
    Function(
        "ckatorch", 'cka_base(x, y, method="hsic", unbiased=True)', linear_cka("debiased"),
        ckatorch_base(method="hsic", unbiased=True), FLOAT64,
        {
            name: wrong("ignores unbiased=True: the biased value", lambda pair: oracles.cka(pair.x, pair.y, "biased"))
            for name in ("d < n", "d > n", "unrelated")
        },
    ),
    *(
        Function(
            "ckatorch", f'cka_base(x, y, kernel="rbf"{argument})', rbf_median_cka(estimator),
            ckatorch_base(kernel="rbf", **options), FLOAT64,
            {name: another_quantity(OWN_MEDIAN, ckatorch_rbf(estimator)) for name in ("d < n", "d > n")},
        )
        for estimator, argument, options in (("biased", "", {}), ("debiased", ", unbiased=True", {"unbiased": True}))
    ),
    Function(
        "ckatorch", "cka_batch(x[None], y[None])", linear_cka("debiased"), ckatorch_batch, FLOAT64,
        {**LINEAR, "+ 1e3": BY_TERMS, "+ 1e6": NOTHING, "unrelated": AGREES},
    ),
    Function(
        "ckatorch", "cka_batch of two batches", minibatch_cka(), ckatorch_batches, FLOAT64,
        {"d < n": AGREES, "d > n": AGREES, "+ 1e6": NOTHING},
    ),
]  # fmt: skip

# ---------------------------------------------------------------------------------------------- pytorch-cka


def pytorch_cka(pair: Pair) -> float:
    from cka import cka_from_features

    return float(cka_from_features(*tensors(pair)))


def cka_pytorch_hsic(pair: Pair) -> float:
    from cka_pytorch.hsic import hsic1

    return float(hsic1(*((side @ side.T)[None] for side in tensors(pair))))


PYTORCH_CKA = [
    Function(
        "pytorch-cka", "cka_from_features(x, y)", linear_cka("debiased"), pytorch_cka, FLOAT64,
        {
            **LINEAR,
            "+ 1e3": BY_TERMS,
            "+ 1e6": NOTHING,
            "unrelated": wrong("clamps a negative estimate to 0", lambda pair: 0.0),
            "d < n, float32": AGREES,
            "d > n, float32": AGREES,
            "+ 1e3, float32": no_digits("the same in float32; clamped to 0"),
        },
    ),
    Function(
        "cka-pytorch", "hsic.hsic1(x x', y y')", linear_hsic("debiased"), cka_pytorch_hsic, FLOAT64,
        {**LINEAR, "+ 1e3": BY_TERMS, "+ 1e6": NOTHING, "d < n, float32": AGREES},
    ),
]  # fmt: skip

# ---------------------------------------------------------------------------------------------- rsatoolbox


def rsatoolbox_cosine_cov(pair: Pair) -> float:
    from rsatoolbox.data import Dataset
    from rsatoolbox.rdm import calc_rdm, compare

    distances = [calc_rdm(Dataset(side), method="euclidean") for side in (pair.x, pair.y)]
    return float(compare(*distances, method="cosine_cov")[0, 0])


RSATOOLBOX = [
    Function(
        "rsatoolbox", 'compare(calc_rdm(x), calc_rdm(y), "cosine_cov")', linear_cka("biased"), rsatoolbox_cosine_cov,
        FLOAT64, {**LINEAR, "+ 1e6": BY_SQUARES, "d < n, float32": AGREES},
    ),
]  # fmt: skip

# ---------------------------------------------------------------------------------------------- shesha-geometry


def shesha(**options):
    def call(pair: Pair) -> float:
        from shesha.sim import cka

        return cka(pair.x, pair.y, **options)

    return call


def with_diagonal_in_the_trace(pair: Pair) -> float:
    """HSIC_1 whose first term is tr(KL) of the centred Gram matrices, diagonals and all."""
    k, l = (oracles.double_centred(oracles.linear_gram(side)) for side in (pair.x, pair.y))  # noqa: E741

    def hsic(a: Array, b: Array) -> float:
        n = len(a)
        return oracles.hsic_debiased(a, b) + float(np.diag(a) @ np.diag(b)) / (n * (n - 3))

    return hsic(k, l) / math.sqrt(hsic(k, k) * hsic(l, l))


DIAGONAL_KEPT = wrong("keeps the diagonals in tr(KL): not debiased", with_diagonal_in_the_trace)
SHESHA = [
    Function(
        "shesha-geometry", "sim.cka(x, y)", linear_cka("biased"), shesha(), FLOAT64,
        {**LINEAR, "+ 1e6": AGREES, "x 2^-13": fewer_digits("1e-12 added to the denominator")},
    ),
    Function(
        "shesha-geometry", "sim.cka(x, y, debiased=True)", linear_cka("debiased"), shesha(debiased=True), FLOAT64,
        dict.fromkeys(("d < n", "d > n", "unrelated"), DIAGONAL_KEPT),
    ),
]  # fmt: skip

# ---------------------------------------------------------------------------------------------- hyppo


def hyppo(kernel: str, bias: bool, **options):
    def call(pair: Pair) -> float:
        from hyppo.independence import Hsic

        own = {name: value(pair) for name, value in options.items()}
        return float(Hsic(compute_kernel=kernel, bias=bias, **own).statistic(pair.x, pair.y))

    return call


def gamma(pair: Pair) -> float:
    return 1.0 / (2.0 * sigma_of(pair) ** 2)


def root(estimator: str, kernel):
    return lambda pair: math.sqrt(oracles.cka(pair.x, pair.y, estimator, kernel(pair)))


def bandwidth_of_x_for_both(pair: Pair) -> float:
    return oracles.cka(pair.x, pair.y, "debiased", oracles.Kernel("rbf", oracles.median_distance(pair.x)))


def diagonal_in_the_sums(pair: Pair) -> float:
    """D = 1 - K / max K, U-centred by row sums that hold its diagonal, which is no zero under the linear kernel."""

    def centred(rows: Array) -> Array:
        k = oracles.linear_gram(rows, centred=False)
        d, n = 1.0 - k / k.max(), len(k)
        sums = d.sum(axis=0)
        out = d - (sums[:, None] + sums[None, :]) / (n - 2) + sums.sum() / ((n - 1) * (n - 2))
        np.fill_diagonal(out, 0.0)
        return out

    k, l = centred(pair.x), centred(pair.y)  # noqa: E741
    return float(np.sum(k * l) / (np.linalg.norm(k) * np.linalg.norm(l)))


ROOT = "the square root of CKA"
IN_SUMS = wrong("the diagonal of 1 - K / max K, not zero for this kernel, enters the row sums", diagonal_in_the_sums)
HYPPO = [
    Function(
        "hyppo", 'Hsic("linear").statistic(x, y)', linear_cka("debiased"), hyppo("linear", bias=False), FLOAT64,
        {"d < n": IN_SUMS, "unrelated": IN_SUMS},
    ),
    Function(
        "hyppo", 'Hsic("linear", bias=True).statistic(x, y)', linear_cka("biased"), hyppo("linear", bias=True), FLOAT64,
        {
            name: another_quantity(ROOT, root("biased", lambda pair: oracles.LINEAR))
            for name in ("d < n", "d > n")
        },
    ),
    Function(
        "hyppo", 'Hsic("rbf", gamma=1/(2 s^2)).statistic(x, y)', rbf_cka("debiased"),
        hyppo("rbf", bias=False, gamma=gamma), FLOAT64, RBF,
    ),
    Function(
        "hyppo", "Hsic().statistic(x, y)", rbf_median_cka("debiased"), hyppo("gaussian", bias=False), FLOAT64,
        {
            name: another_quantity("the bandwidth of y, too, is the median distance of x", bandwidth_of_x_for_both)
            for name in ("d < n", "d > n")
        },
    ),
]  # fmt: skip

# ---------------------------------------------------------------------------------------------- scikit-learn, scipy


def sklearn_cka(kernel: str, **options):
    """Kernel matrices of sklearn.metrics.pairwise, centred by KernelCenterer; their cosine is the biased CKA."""

    def call(pair: Pair) -> float:
        from sklearn.metrics.pairwise import pairwise_kernels
        from sklearn.preprocessing import KernelCenterer

        own = {name: value(pair) for name, value in options.items()}
        k, l = (  # noqa: E741
            KernelCenterer().fit_transform(pairwise_kernels(side, metric=kernel, **own)) for side in (pair.x, pair.y)
        )
        return float(np.sum(k * l) / (np.linalg.norm(k) * np.linalg.norm(l)))

    return call


def scipy_cka(pair: Pair) -> float:
    """HSIC_1 of exp(-d^2 / 2 s^2), d from pdist, whose sums need no diagonal."""
    from scipy.spatial.distance import pdist, squareform

    def u_centred(side: Array) -> Array:
        return oracles.u_centred(squareform(np.exp(-gamma(pair) * pdist(side, "sqeuclidean"))))

    k, l = u_centred(pair.x), u_centred(pair.y)  # noqa: E741
    return float(np.sum(k * l) / (np.linalg.norm(k) * np.linalg.norm(l)))


SKLEARN = [
    Function(
        "scikit-learn", "linear_kernel, KernelCenterer", linear_cka("biased"), sklearn_cka("linear"), FLOAT64, LINEAR
    ),
    Function(
        "scikit-learn", "rbf_kernel(gamma=1/(2 s^2)), KernelCenterer", rbf_cka("biased"),
        sklearn_cka("rbf", gamma=gamma), FLOAT64, RBF,
    ),
]  # fmt: skip
SCIPY = [
    Function(
        "scipy", "pdist, exp, U-centred", rbf_cka("debiased"), scipy_cka, FLOAT64, {**RBF, "+ 1e6": AGREES},
    ),
]  # fmt: skip

# ---------------------------------------------------------------------------------------------- calibrated-similarity


def calibrated_p(pair: Pair) -> float:
    """It permutes the rows and counts; the similarity is the caller's: here the oracle's."""
    from calibrated_similarity import calibrate

    orders = iter(orders_of(pair))

    def similarity(x, y) -> float:
        return oracles.cka(x.numpy(), y.numpy())

    def permuted(n: int, device):
        import torch

        return torch.from_numpy(next(orders)).to(device)

    return float(calibrate(*tensors(pair), similarity, K=len(orders_of(pair)), perm_fn=permuted)[1])


CALIBRATED = [
    Function(
        "calibrated-similarity", "calibrate(x, y, cka, K=99)[1]", share_of_relabellings(), calibrated_p, FLOAT32,
        {"d < n": AGREES, "unrelated": AGREES},
    ),
]  # fmt: skip

FUNCTIONS: list[Function] = [
    *CKATORCH, *PYTORCH_CKA, *RSATOOLBOX, *SHESHA, *HYPPO, *SKLEARN, *SCIPY, *CALIBRATED,
]  # fmt: skip
