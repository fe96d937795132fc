"""Gradients of repsim.cka and repsim.hsic against finite differences and against autograd over whole n x n matrices."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import repsim
from repsim import RBF, Cosine, LaplacianL1, LaplacianL2, Linear, Polynomial

torch = pytest.importorskip("torch")

ESTIMATORS = ("biased", "debiased")
MEASURES = ("cka", "hsic")

KERNELS = [
    pytest.param(Linear(), id="linear"),
    pytest.param(2.5 * Linear(), id="linear-scaled"),
    pytest.param(RBF(sigma=2.0), id="rbf"),
    pytest.param(Cosine(), id="cosine"),
    pytest.param(Polynomial(degree=3, constant=1.0, scale=0.5), id="polynomial"),
    pytest.param(Polynomial(degree=1, constant=0.0), id="polynomial-degree-1"),
    pytest.param(LaplacianL1(sigma=3.0), id="laplacian-l1"),
    pytest.param(LaplacianL2(sigma=2.0), id="laplacian-l2"),
    pytest.param(Linear() + 0.5 * RBF(sigma=2.0), id="sum-linear-about-a-middle"),
    pytest.param(Linear() * RBF(sigma=3.0), id="product-linear-where-it-lies"),
    pytest.param(
        0.3 * Cosine() * LaplacianL2(sigma=2.0) + Polynomial(degree=2) * LaplacianL1(sigma=4.0) * RBF(sigma=3.0),
        id="sum-of-products",
    ),
    pytest.param(RBF(sigma=2.0) * RBF(sigma=2.0), id="the-same-leaf-twice"),
]


# ---------------------------------------------------------------------------------------------- the truth, n x n


def naive_kernel(x: Any, kernel: Any) -> Any:
    """[n, n] from the definition, in the dtype of x; distances by differences, with gradient 0 where they are 0."""
    total = 0
    for weight, leaves in kernel.terms():
        product = weight
        for leaf in leaves:
            product = product * naive_leaf(x, leaf)
        total = total + product
    return total


def naive_leaf(x: Any, leaf: Any) -> Any:
    if isinstance(leaf, Linear):
        return x @ x.T
    if isinstance(leaf, Cosine):
        unit = x / x.norm(dim=1, keepdim=True)
        return unit @ unit.T
    if isinstance(leaf, Polynomial):
        return (leaf.scale * (x @ x.T) + leaf.constant) ** leaf.degree
    apart = x[:, None] - x[None]
    if isinstance(leaf, RBF):
        return torch.exp(-apart.square().sum(2) / (2 * leaf.sigma**2))
    if isinstance(leaf, LaplacianL1):
        return torch.exp(-apart.abs().sum(2) / leaf.sigma)
    squared = apart.square().sum(2)
    distances = torch.where(squared > 0, squared.where(squared > 0, 1.0).sqrt(), 0.0)
    return torch.exp(-distances / leaf.sigma)


def naive_centred(k: Any, estimator: str) -> Any:
    n = len(k)
    if estimator == "biased":
        h = torch.eye(n, dtype=k.dtype) - 1 / n
        return h @ k @ h
    k = k * (1 - torch.eye(n, dtype=k.dtype))
    rows = k.sum(1) / (n - 2)
    u = k - rows[:, None] - rows[None] + rows.sum() / (n - 1)
    return u * (1 - torch.eye(n, dtype=k.dtype))


def naive(measure: str, x: Any, y: Any, kernel: Any, estimator: str) -> Any:
    a, b = (naive_centred(naive_kernel(z, kernel), estimator) for z in (x, y))
    n = len(x)
    if measure == "hsic":
        return (a * b).sum() / (n * (n - 3) if estimator == "debiased" else (n - 1) ** 2)
    return (a * b).sum() / ((a * a).sum() * (b * b).sum()).sqrt()


def pair(n: int, d: int, e: int, seed: int = 0, dtype: Any = torch.float64) -> tuple[Any, Any]:
    """Two representations with a common part."""
    rng = np.random.default_rng([seed, n, d, e])
    common = rng.standard_normal((n, 3))
    x = common @ rng.standard_normal((3, d)) / 2 + rng.standard_normal((n, d))
    y = np.tanh(common @ rng.standard_normal((3, e))) + rng.standard_normal((n, e))
    return torch.from_numpy(x / math.sqrt(d) * 2).to(dtype), torch.from_numpy(y / math.sqrt(e) * 2).to(dtype)


def gradients(f: Callable[[Any, Any], Any], x: Any, y: Any) -> tuple[float, Any, Any]:
    """Value, and gradients by x and y."""
    x, y = x.detach().clone().requires_grad_(), y.detach().clone().requires_grad_()
    value = f(x, y)
    value.backward()
    return value.item(), x.grad, y.grad


def relative(got: Any, expected: Any) -> float:
    """Error of an array, in units of its norm."""
    return float((got.double() - expected.double()).norm() / expected.double().norm())


def check(
    x: Any, y: Any, kernel: Any, estimator: str, *, value_to: float = 1e-10, to: float = 1e-9, **options: Any
) -> None:
    """CKA, and HSIC, with both gradients, against autograd over whole matrices in float64.

    Times 1000, as a loss is scaled so that float16 can hold its gradients.
    """
    for measure in MEASURES:

        def ours(a: Any, b: Any, measure: str = measure) -> Any:
            return 1000 * getattr(repsim, measure)(a, b, kernel=kernel, estimator=estimator, **options)

        exact = gradients(lambda a, b, m=measure: 1000 * naive(m, a, b, kernel, estimator), x.double(), y.double())
        found = gradients(ours, x, y)
        assert found[0] == pytest.approx(exact[0], rel=value_to)
        for got, expected in zip(found[1:], exact[1:], strict=True):
            assert relative(got, expected) < to, measure


# ---------------------------------------------------------------------------------------------- finite differences


@pytest.mark.parametrize(("n", "d", "e"), [(7, 2, 3), (5, 7, 6)], ids=["d<n", "d>n"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_finite_differences(kernel: Any, estimator: str, n: int, d: int, e: int) -> None:
    """In tiles of 3 rows; linear kernels with d < n in feature space, without tiles."""
    x, y = (z.requires_grad_() for z in pair(n, d, e))
    for measure in MEASURES:

        def f(a: Any, b: Any, measure: str = measure) -> Any:
            return getattr(repsim, measure)(a, b, kernel=kernel, estimator=estimator, block_rows=3)

        assert torch.autograd.gradcheck(f, (x, y))


@pytest.mark.parametrize("kernel", KERNELS)
def test_one_side_alone(kernel: Any) -> None:
    x, y = pair(40, 8, 5)
    _, on_x, on_y = gradients(lambda a, b: repsim.cka(a, b, kernel=kernel, block_rows=16), x, y)
    one, two = x.clone().requires_grad_(), y.clone().requires_grad_()
    repsim.cka(one, y, kernel=kernel, block_rows=16).backward()
    repsim.cka(x, two, kernel=kernel, block_rows=16).backward()
    torch.testing.assert_close((one.grad, two.grad), (on_x, on_y), rtol=0, atol=0)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_the_same_tensor_twice(kernel: Any, estimator: str) -> None:
    x = pair(7, 3, 3)[0].requires_grad_()
    value = repsim.cka(x, x, kernel=kernel, estimator=estimator)
    value.backward()
    assert abs(value.item() - 1.0) <= 4 * torch.finfo(torch.float64).eps
    assert x.grad.abs().max() < 1e-12
    assert torch.autograd.gradcheck(lambda a: repsim.hsic(a, a, kernel=kernel, estimator=estimator, block_rows=4), (x,))


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("kernel", [Linear(), RBF(sigma=2.0)], ids=["linear", "rbf"])
def test_biased_with_the_fewest_rows(kernel: Any, n: int) -> None:
    x, y = (z.requires_grad_() for z in pair(n, 2, 2))
    assert torch.autograd.gradcheck(lambda a, b: repsim.hsic(a, b, kernel=kernel, estimator="biased"), (x, y))


@pytest.mark.parametrize("kernel", [Linear(), RBF(sigma=2.0)], ids=["linear", "rbf"])
def test_debiased_with_the_fewest_rows(kernel: Any) -> None:
    x, y = (z.requires_grad_() for z in pair(4, 2, 3))
    assert torch.autograd.gradcheck(lambda a, b: repsim.cka(a, b, kernel=kernel), (x, y))


# ---------------------------------------------------------------------------------------------- whole matrices


@pytest.mark.parametrize(("d", "e"), [(20, 8), (310, 40)], ids=["d<n", "d>n"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_agrees_with_autograd_over_whole_matrices(kernel: Any, estimator: str, d: int, e: int) -> None:
    n = 300 if d < 300 else 120
    check(*pair(n, d, e), kernel, estimator, block_rows=64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_narrow_dtypes(kernel: Any, estimator: str, dtype: Any) -> None:
    """The truth is of the same, rounded rows; gradients are returned in their dtype, values in float32."""
    x, y = pair(150, 12, 30, dtype=dtype)
    check(x, y, kernel, estimator, value_to=2e-6, to=max(2e-5, 2 * torch.finfo(dtype).eps), block_rows=64)
    result = repsim.cka(x.requires_grad_(), y, kernel=kernel, estimator=estimator)
    result.backward()
    assert (result.dtype, result.shape, x.grad.dtype) == (torch.float32, (), dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("kernel", ["linear", "rbf", "cosine", "polynomial", "laplacian_l1", "laplacian_l2"])
def test_agrees_with_the_value_without_gradient(kernel: str, estimator: str, dtype: Any) -> None:
    """To the rounding of the tiles: without gradient these are float32, but for linear kernels in feature space."""
    x, y = pair(400, 20, 8, dtype=dtype)
    exact = kernel == "linear" and dtype == torch.float64
    for measure in MEASURES:
        plain = float(getattr(repsim, measure)(x, y, kernel=kernel, estimator=estimator))
        ours = getattr(repsim, measure)(x.clone().requires_grad_(), y, kernel=kernel, estimator=estimator).item()
        assert ours == pytest.approx(plain, rel=1e-10 if exact else 1e-6)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("kernel", KERNELS)
def test_tiles_of_any_size(kernel: Any, estimator: str) -> None:
    x, y = pair(40, 45, 5)

    def at(rows: int | None) -> tuple[float, Any, Any]:
        return gradients(lambda a, b: repsim.cka(a, b, kernel=kernel, estimator=estimator, block_rows=rows), x, y)

    first = at(None)
    for rows in (7, 39, 40, 200):
        value, on_x, on_y = at(rows)
        assert value == pytest.approx(first[0], rel=1e-11)
        assert max(relative(on_x, first[1]), relative(on_y, first[2])) < 1e-11


def test_a_fraction_of_the_median_is_held_constant() -> None:
    x, y = pair(80, 6, 4)
    sigmas = [float(torch.nn.functional.pdist(z).quantile(0.5)) for z in (x, y)]
    _, on_x, _ = gradients(lambda a, b: repsim.cka(a, b, kernel=RBF(median_fraction=0.5)), x, y)
    x = x.requires_grad_()
    a = naive_centred(naive_kernel(x, RBF(sigma=0.5 * sigmas[0])), "debiased")
    b = naive_centred(naive_kernel(y, RBF(sigma=0.5 * sigmas[1])), "debiased")
    ((a * b).sum() / ((a * a).sum() * (b * b).sum()).sqrt()).backward()
    assert relative(on_x, x.grad) < 1e-9


def test_gradients_follow_what_comes_after() -> None:
    x, y = pair(50, 4, 4)
    for kernel in (Linear(), RBF(sigma=2.0)):
        _, once, _ = gradients(lambda a, b, k=kernel: repsim.cka(a, b, kernel=k), x, y)
        _, after, _ = gradients(lambda a, b, k=kernel: (3 * repsim.cka(a, b, kernel=k) + 1).square(), x, y)
        value = repsim.cka(x.clone().requires_grad_(), y, kernel=kernel).item()
        assert relative(after, once * 6 * (3 * value + 1)) < 1e-12


# ---------------------------------------------------------------------------------------------- hard rows

STANDING = [
    pytest.param(Linear(), 150, 12, id="linear-feature-space"),
    pytest.param(Linear(), 60, 80, id="linear-tiles"),
    pytest.param(RBF(sigma=2.0), 150, 12, id="rbf"),
    pytest.param(LaplacianL2(sigma=2.0), 150, 12, id="laplacian-l2"),
    pytest.param(LaplacianL1(sigma=4.0), 150, 12, id="laplacian-l1"),
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize(("kernel", "n", "d"), STANDING)
def test_far_from_the_origin(kernel: Any, n: int, d: int, estimator: str, dtype: Any) -> None:
    """+1e5. In float32 the rows themselves are then multiples of 1/128; the truth is of the same rows moved back."""
    x, y = (z + 1e5 for z in pair(n, d, 6, dtype=dtype))
    truth = [gradients(lambda a, b: naive("cka", a, b, kernel, estimator), x.double() - 1e5, y.double() - 1e5)]
    value, on_x, on_y = gradients(lambda a, b: repsim.cka(a, b, kernel=kernel, estimator=estimator), x, y)
    to = 1e-9 if dtype == torch.float64 else 2e-5
    assert value == pytest.approx(truth[0][0], rel=to)
    assert max(relative(on_x, truth[0][1]), relative(on_y, truth[0][2])) < to


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("kernel", [Cosine(), Polynomial(degree=2)], ids=["cosine", "polynomial"])
def test_rows_in_a_narrow_cone(kernel: Any, estimator: str) -> None:
    """Values near one another are told apart in float64 before they are rounded."""
    x, y = (0.01 * z + 1 for z in pair(150, 12, 6, dtype=torch.float32))
    check(x, y, kernel, estimator, value_to=1e-5, to=1e-4)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("scale", [1e-15, 1e15])
@pytest.mark.parametrize(("kernel", "n", "d"), STANDING)
def test_scales(kernel: Any, n: int, d: int, scale: float, estimator: str) -> None:
    """Squares of these rows, or squares of squares, do not fit in float32."""
    x, y = pair(n, d, 6, dtype=torch.float32)
    wider = kernel if kernel == Linear() else type(kernel)(sigma=kernel.sigma * scale)
    _, on_x, _ = gradients(lambda a, b: repsim.cka(a, b, kernel=kernel, estimator=estimator), x, y)
    _, scaled, _ = gradients(lambda a, b: repsim.cka(a, b, kernel=wider, estimator=estimator), x * scale, y * scale)
    assert relative(scaled.double() * scale, on_x) < 2e-5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_one_huge_row(estimator: str, dtype: Any) -> None:
    """The debiased form in feature space is then a difference of nearly equal sums: tiles take over."""
    x, y = pair(150, 12, 6, dtype=dtype)
    x[11] *= 1e4
    to = 1e-6 if dtype == torch.float64 else 1e-2
    _, on_x, on_y = gradients(lambda a, b: repsim.cka(a, b, estimator=estimator), x, y)
    middle = x.double().median(0).values  # about the mean float64 itself would lose the small rows
    exact = gradients(lambda a, b: naive("cka", a, b, Linear(), estimator), x.double() - middle, y.double())
    small = torch.arange(150) != 11
    assert relative(on_x[small], exact[1][small]) < to
    assert relative(on_y, exact[2]) < to


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("kernel", [RBF(sigma=2.0), LaplacianL2(sigma=2.0), LaplacianL1(sigma=4.0)], ids=str)
def test_equal_and_nearly_equal_rows(kernel: Any, dtype: Any) -> None:
    x, y = pair(120, 8, 5, dtype=dtype)
    x[60:90] = x[:30]
    x[90:] = x[:30] * (1 + 1e-4)
    x.add_(3)
    check(x, y, kernel, "debiased", value_to=1e-6, to=1e-8 if dtype == torch.float64 else 5e-5, block_rows=50)


# ---------------------------------------------------------------------------------------------- what comes in


def test_the_other_side_may_be_any_array(tmp_path: Path) -> None:
    x, y = pair(60, 5, 7, dtype=torch.float32)
    for kernel in (Linear(), RBF(sigma=2.0), RBF(median_fraction=1.0)):

        def both(other: Any, k: Any = kernel) -> tuple[float, Any, float, Any]:
            one, two = x.clone().requires_grad_(), x.clone().requires_grad_()
            left, right = repsim.cka(one, other, kernel=k, block_rows=25), repsim.cka(other, two, kernel=k)
            left.backward()
            right.backward()
            return left.item(), one.grad, right.item(), two.grad

        expected = both(y)
        np.save(tmp_path / "y.npy", y.numpy())
        frozen = y.numpy().copy()
        frozen.flags.writeable = False
        places = {
            "numpy": y.numpy(),
            "read-only": frozen,
            "memmap": np.load(tmp_path / "y.npy", mmap_mode="r"),
            "backwards": y.numpy()[::-1].copy()[::-1],
            "strided tensor": torch.stack([y, y], 1)[:, 0],
        }
        for place, other in places.items():
            for got, exact in zip(both(other), expected, strict=True):
                torch.testing.assert_close(got, exact, msg=place)


def test_bfloat16_beside_float64() -> None:
    """Arithmetic and result are float64 where one of the sides is; each gradient has its side's dtype."""
    x, y = pair(60, 5, 7)
    x = x.bfloat16()
    value, on_x, on_y = gradients(lambda a, b: repsim.cka(a, b, kernel=RBF(sigma=2.0)), x, y)
    exact = gradients(lambda a, b: naive("cka", a, b, RBF(sigma=2.0), "debiased"), x.double(), y)
    assert repsim.cka(x.requires_grad_(), y).dtype == torch.float64
    assert value == pytest.approx(exact[0], rel=1e-11)
    assert (on_x.dtype, on_y.dtype) == (torch.bfloat16, torch.float64)
    assert relative(on_y, exact[2]) < 1e-10
    assert relative(on_x, exact[1]) < 4e-3


@pytest.mark.parametrize("kernel", KERNELS)
def test_columns_need_not_lie_side_by_side(kernel: Any) -> None:
    x, y = pair(40, 5, 7)
    across = x.T.contiguous().requires_grad_()
    repsim.cka(across.T, y, kernel=kernel).backward()
    _, on_x, _ = gradients(lambda a, b: repsim.cka(a, b, kernel=kernel), x, y)
    assert relative(across.grad.T, on_x) < 1e-12


def test_parameters_and_other_subclasses_of_tensors() -> None:
    class Activations(torch.Tensor):
        """A class of another package than torch."""

    x, y = pair(40, 5, 7)
    for kernel in (Linear(), RBF(sigma=2.0)):
        value, on_x, _ = gradients(lambda a, b, k=kernel: repsim.cka(a, b, kernel=k), x, y)
        for given in (torch.nn.Parameter(x), x.clone().as_subclass(Activations).requires_grad_()):
            result = repsim.cka(given, y.as_subclass(Activations), kernel=kernel)
            result.backward()
            assert result.item() == value
            torch.testing.assert_close(given.grad.as_subclass(torch.Tensor), on_x, rtol=0, atol=0)


def test_automatic_mixed_precision_stays_outside() -> None:
    x, y = pair(200, 30, 20, dtype=torch.float32)
    for kernel in (Linear(), RBF(sigma=2.0)):

        def f(a: Any, b: Any, k: Any = kernel) -> Any:
            return repsim.cka(a, b, kernel=k)

        expected = gradients(f, x, y)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = gradients(f, x, y)
        assert got[0] == expected[0]
        torch.testing.assert_close(got[1:], expected[1:], rtol=0, atol=0)


def test_nothing_is_recorded_under_no_grad() -> None:
    x, y = pair(40, 5, 7)
    with torch.no_grad():
        result = repsim.cka(x.requires_grad_(), y)
    assert isinstance(result, torch.Tensor)
    assert not result.requires_grad
    assert result.item() == pytest.approx(float(repsim.cka(x.detach(), y)), rel=1e-12)


def test_without_gradient_the_result_is_a_similarity() -> None:
    x, y = pair(40, 5, 7)
    assert isinstance(repsim.cka(x, y), repsim.Similarity)
    assert isinstance(repsim.hsic(x, y), repsim.Similarity)
    with torch.no_grad():
        assert isinstance(repsim.cka(x.requires_grad_() * 2, y), repsim.Similarity)


# ---------------------------------------------------------------------------------------------- use


@pytest.mark.parametrize("kernel", ["linear", "rbf"])
def test_a_penalty_lowers_alikeness_in_training(kernel: str) -> None:
    """A linear network that starts as its teacher: with the penalty it ends less alike, with as good a fit."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(256, 12, generator=generator)
    fixed = inputs @ torch.randn(12, 8, generator=generator)
    goal = inputs @ torch.randn(12, 1, generator=generator)

    def train(much: float) -> tuple[float, float]:
        torch.manual_seed(1)
        body, head = torch.nn.Linear(12, 8), torch.nn.Linear(8, 1)
        optimiser = torch.optim.Adam([*body.parameters(), *head.parameters()], lr=0.02)
        for _ in range(150):
            optimiser.zero_grad()
            hidden = body(inputs)
            loss = (head(hidden) - goal).square().mean()
            if much:
                loss = loss + much * repsim.cka(hidden, fixed, kernel=kernel)
            loss.backward()
            optimiser.step()
        with torch.no_grad():
            hidden = body(inputs)
            left = (head(hidden) - goal).square().mean()
        return float(repsim.cka(hidden, fixed, kernel=kernel)), float(left)

    without, with_it = train(0.0), train(5.0)
    assert with_it[0] < without[0] - 0.1
    assert with_it[1] < 0.2 * float(goal.var())


MEMORY = """
import sys
import torch
import repsim

def peak():  # of this process alone: ru_maxrss of a child starts from the peak of its parent on Linux
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024
    except FileNotFoundError:
        import resource
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

def work(n):
    torch.manual_seed(0)
    x, y = torch.randn(n, 16, requires_grad=True), torch.randn(n, 16, requires_grad=True)
    repsim.cka(x, y, kernel=KERNEL).backward()
    print(x.grad.norm(), y.grad.norm())
    return 2 * (x.nbytes + y.nbytes)

work(700)
before = peak()
rows = work(N)
print("GROWTH", (peak() - before - rows) / 2**20)
"""


@pytest.mark.parametrize(
    ("kernel", "n"),
    [
        pytest.param("repsim.RBF(sigma=4.0)", 9_000, id="rbf"),
        pytest.param("repsim.Linear() + repsim.RBF(sigma=4.0)", 6_000, id="sum"),
        pytest.param("'linear'", 20_000, id="linear-feature-space"),
    ],
)
def test_memory_is_linear_in_the_rows(kernel: str, n: int) -> None:
    """One n x n float32 matrix would be 137, 309 or 1 526 MB; the rows, their gradients and 120 MB are allowed."""
    package = str(Path(repsim.__file__).parents[1])
    code = f"import sys; sys.path.insert(0, {package!r})\n" + MEMORY.replace("KERNEL", kernel)
    code = code.replace("(N)", f"({n})")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split("GROWTH")[1]) < 120


# ---------------------------------------------------------------------------------------------- errors


def rows(n: int = 40, d: int = 6, **how: Any) -> Any:
    return torch.from_numpy(np.random.default_rng([n, d]).standard_normal((n, d))).to(**how).requires_grad_()


@pytest.mark.parametrize("kernel", ["linear", "rbf", RBF(sigma=1.0)], ids=str)
def test_a_second_derivative_is_refused(kernel: Any) -> None:
    x, y = rows(), rows(40, 5)
    for other in (y, y.detach(), y.detach().numpy()):
        (first,) = torch.autograd.grad(repsim.cka(x, other, kernel=kernel), x, create_graph=True)
        with pytest.raises(RuntimeError, match=r"^\[cka\] expected to be differentiated once, got a gradient of its"):
            (first.sum() + x.sum()).backward()
    (plain,) = torch.autograd.grad(repsim.cka(x, y, kernel=kernel), x)
    assert (plain.requires_grad, first.requires_grad) == (False, True)
    torch.testing.assert_close(plain, first.detach(), rtol=0, atol=0)


def test_rows_changed_before_the_backward_pass_are_refused() -> None:
    x = rows()
    hidden = x * 2
    result = repsim.cka(hidden, rows(40, 5).detach())
    hidden.mul_(3)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.backward()


X = rows()
ALIKE = "with a kernel matrix that varies, got zero variance up to rounding: in the"


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    ("y", "options", "message"),
    [
        pytest.param(rows(39), {}, "with 40 rows like x, got 39$", id="row-counts"),
        pytest.param(rows()[:, 0], {}, r"with two dimensions .*, got shape \(40,\)$", id="1-D"),
        pytest.param(rows(40, 0), {}, r"with at least one row and one column, .* \(40, 0\), .*empty$", id="empty"),
        pytest.param(X.detach().int(), {}, "of dtype .* got torch.int32$", id="integers"),
        pytest.param(X.detach().to_sparse(), {}, r"as a dense tensor, .*pass y\.to_dense\(\)$", id="sparse"),
        pytest.param(torch.ones(40, 6, device="meta"), {}, "with data, got a tensor on device meta$", id="no-data"),
        pytest.param([[1.0]], {}, "as an array .*, got list", id="no-array"),
        pytest.param(torch.ones(40, 6), {}, r"whose rows differ, .*\(all 40 rows are equal\)$", id="equal-rows"),
        pytest.param(
            torch.arange(1.0, 41)[:, None], {"kernel": "cosine"},
            r"whose directions differ, .*\(all 40 rows point one way\)$", id="one-direction",
        ),
        pytest.param(torch.eye(40), {}, ALIKE, id="alike-linear"),
        pytest.param(torch.eye(40), {"kernel": RBF(sigma=1.0)}, ALIKE, id="alike-rbf"),
        pytest.param(X.detach() * 1e150, {}, "with values between about 1e-140 and 1e140", id="huge"),
    ],
)  # fmt: skip
def test_bad_rows(measure: str, y: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"^\[{measure}\] expected y {message}"):
        getattr(repsim, measure)(X, y, **options)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize(
    ("n", "options", "message"),
    [
        pytest.param(3, {}, "x with at least 4 rows for the debiased estimator, got 3$", id="few"),
        pytest.param(1, {"estimator": "biased"}, "x with at least 2 rows for the biased estimator, got 1$", id="one"),
        pytest.param(40, {"estimator": "unbiased"}, "estimator .*, got 'unbiased'$", id="estimator"),
        pytest.param(40, {"kernel": "gaussian"}, "kernel .*, got 'gaussian'$", id="kernel"),
        pytest.param(40, {"block_rows": 0}, "block_rows of at least 1, got 0$", id="block-rows"),
        pytest.param(40, {"memory": "1GB"}, "memory only with .* no gradient, got '1GB';", id="memory"),
        pytest.param(40, {"threads": 2}, "threads only with .* no gradient, got 2;", id="threads"),
        pytest.param(40, {"jackknife": True}, "jackknife only with .* got True;", id="jackknife"),
        pytest.param(40, {"precision": "medium"}, "precision only with .* got 'medium';", id="precision"),
        pytest.param(40, {"progress": print}, "progress only with .* no gradient", id="progress"),
    ],
)
def test_bad_options(measure: str, n: int, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^\[{measure}\] expected {message}"):
        getattr(repsim, measure)(rows(n), rows(n, 5), **options)


def test_a_kernel_matrix_that_float32_cannot_hold() -> None:
    x, y = rows(dtype=torch.float32), rows(dtype=torch.float32).detach() * 1e19
    kernel = Linear() + RBF(sigma=1.0)
    with pytest.raises(ValueError, match=r"^\[cka\] expected y .* float32 can hold, got overflow; .* y\.double\(\)$"):
        repsim.cka(x, y, kernel=kernel)
    assert math.isfinite(repsim.cka(x, y.double(), kernel=kernel).item())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["x", "y"])
def test_the_first_row_that_is_not_finite_is_named(name: str, bad: float) -> None:
    sides = {"x": rows(5000, 3), "y": rows(5000, 4)}
    with torch.no_grad():
        sides[name][4321, 1] = sides[name][4900, 0] = bad
    with pytest.raises(ValueError, match=rf"^\[cka\] expected {name} with finite values, .* in row 4321$"):
        repsim.cka(**sides)


def test_the_row_of_zeros_under_the_cosine_is_named() -> None:
    x = rows()
    with torch.no_grad():
        x[17] = 0
    with pytest.raises(ValueError, match=r"^\[cka\] expected x with non-zero rows for the cosine kernel, .* row 17$"):
        repsim.cka(x, rows(40, 5), kernel="cosine")


def test_rows_without_data_that_require_grad() -> None:
    with pytest.raises(ValueError, match=r"^\[cka\] expected x with data, got a tensor on device meta$"):
        repsim.cka(torch.ones(40, 6, device="meta", requires_grad=True), rows(40, 5))


def test_the_angle_has_no_gradient() -> None:
    with pytest.raises(ValueError, match=r"expected x without gradient, .*pass x\.detach\(\)$"):
        repsim.angular_cka(rows(), rows(40, 5))
