"""Bad input to the measures: one line that says which argument, what was expected and what came."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import repsim

SAMPLED = (  # chance from relabellings drawn
    "cknna",
    "knn_jaccard",
    "cycle_knn",
    "lcs_knn",
    "edit_distance_knn",
    "rank_similarity",
    "joint_rank_jaccard",
    "second_order_cosine",
)
RELABELLED = ("mutual_knn", *SAMPLED)
PAIRS = ("cka", "hsic", *RELABELLED)
KERNELS = ("cka", "hsic")
GRAPHS = (*RELABELLED, "nearest")
EVERY = (*PAIRS, "nearest")


def rows(n: int = 40, d: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, n, d]).standard_normal((n, d))


def call(name: str, bad: Any, argument: str = "x", **options: Any) -> Any:
    """The function `name` with `bad` in the place of `argument` and good rows in the other."""
    function: Callable[..., Any] = getattr(repsim, name)
    n = bad.shape[0] if getattr(bad, "ndim", 0) and bad.shape[0] else 40
    good = rows(n, 6, seed=1)
    if name == "nearest":
        return function(bad, **options) if argument == "x" else function(rows(), base=bad, **options)
    return function(bad, good, **options) if argument == "x" else function(good, bad, **options)


def places(names: tuple[str, ...] = EVERY) -> pytest.MarkDecorator:
    """Every function with every one of its arrays."""
    both = [(name, argument) for name in names for argument in ("x", "base" if name == "nearest" else "y")]
    return pytest.mark.parametrize(("name", "argument"), both, ids=[f"{n}-{a}" for n, a in both])


def expected(name: str, argument: str, *pieces: str) -> str:
    """Pattern: `[name] expected argument ... piece ... piece` on one line, the last pieces after `got`."""
    return rf"^\[{name}\] expected {argument}\b[^\n]*" + r"[^\n]*".join(pieces) + r"[^\n]*$"


def raises(kind: Any, pattern: str) -> Any:
    return pytest.raises(kind, match=pattern)


# ---------------------------------------------------------------------------------------------- shapes


@pytest.mark.parametrize("name", PAIRS)
def test_different_row_counts(name: str) -> None:
    with raises(ValueError, expected(name, "y", "1000 rows like x, got 999")):
        getattr(repsim, name)(rows(1000), rows(999))


def test_the_whole_message_of_different_row_counts() -> None:
    with raises(ValueError, re.escape("[cka] expected y with 1000 rows like x, got 999") + "$"):
        repsim.cka(rows(1000), rows(999))


def test_base_with_another_number_of_columns() -> None:
    with raises(ValueError, expected("nearest", "base", "8 columns", "x", "got 7")):
        repsim.nearest(rows(40, 8), base=rows(50, 7))


@places()
@pytest.mark.parametrize(
    ("shape", "got"),
    [
        pytest.param((40,), r"1|\(40,\)", id="1-D"),
        pytest.param((40, 2, 3), r"3|\(40, 2, 3\)", id="3-D"),
        pytest.param((), r"0|\(\)", id="0-D"),
    ],
)
def test_not_two_dimensional(name: str, argument: str, shape: tuple[int, ...], got: str) -> None:
    with raises(ValueError, expected(name, argument, "(?:2|two)", f"got[^\n]*(?:{got})")):
        call(name, np.ones(shape), argument)


@places()
def test_no_columns(name: str, argument: str) -> None:
    with raises(ValueError, expected(name, argument, "column", r"got[^\n]*0")):
        call(name, np.ones((40, 0)), argument)


@pytest.mark.parametrize("name", EVERY)
def test_no_rows(name: str) -> None:
    empty = np.ones((0, 6))
    with raises(ValueError, expected(name, "x", "row", r"got[^\n]*0")):
        repsim.nearest(empty) if name == "nearest" else getattr(repsim, name)(empty, empty)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize(("estimator", "least"), [("debiased", 4), ("biased", 2)])
def test_too_few_rows_for_the_estimator(name: str, kernel: str, estimator: str, least: int) -> None:
    few = rows(least - 1)
    with raises(ValueError, expected(name, "x", rf"at least {least} rows", f"got {least - 1}")):
        getattr(repsim, name)(few, few + 1, estimator=estimator, kernel=kernel)


# ---------------------------------------------------------------------------------------------- k


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("k", [40, 41, 1000])
def test_k_not_below_the_number_of_rows(name: str, k: int) -> None:
    with raises(ValueError, expected(name, "k", "(?:40|39)", f"got {k}")):
        call(name, rows(), k=k)


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one(name: str, k: int) -> None:
    with raises(ValueError, expected(name, "k", "1", f"got {k}")):
        call(name, rows(), k=k)


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("k", [2.5, "10", None])
def test_k_that_is_no_integer(name: str, k: Any) -> None:
    with raises(TypeError, expected(name, "k", "int", "got")):
        call(name, rows(), k=k)


def test_k_may_be_a_numpy_integer() -> None:
    assert repsim.nearest(rows(), np.int64(3)).indices.shape == (40, 3)


def test_k_above_the_rows_of_the_base() -> None:
    with raises(ValueError, expected("nearest", "k", "[78]", "got 8")):
        repsim.nearest(rows(40), 8, base=rows(7))


def test_cknna_needs_four_rows() -> None:
    with raises(ValueError, expected("cknna", "x", "at least 4 rows", "got 3")):
        repsim.cknna(rows(3), rows(3, 5), k=1)


def test_graphs_that_do_not_belong_together() -> None:
    with raises(ValueError, expected("mutual_knn", "y", "40", "got 39")):
        repsim.mutual_knn(repsim.nearest(rows(40), 10), repsim.nearest(rows(39), 10))
    with raises(ValueError, r"^\[mutual_knn\] expected [^\n]*k[^\n]*10[^\n]*got 5"):
        repsim.mutual_knn(repsim.nearest(rows(40), 10), repsim.nearest(rows(40), 5))
    for name in ("mutual_knn", "cknna"):
        with raises(ValueError, expected(name, "y", "metric 'cosine' like x, got 'euclidean'")):
            getattr(repsim, name)(repsim.nearest(rows(40)), repsim.nearest(rows(40), metric="euclidean"))
    euclidean = repsim.nearest(rows(40), metric="euclidean")
    with raises(ValueError, expected("cknna", "metric", "'cosine' or 'inner_product', got 'euclidean'")):
        repsim.cknna(euclidean, euclidean)


# ---------------------------------------------------------------------------------------------- values


@places()
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_not_finite(name: str, argument: str, value: float, dtype: str) -> None:
    bad = rows().astype(dtype)
    bad[17, 3] = value
    with raises(ValueError, expected(name, argument, "finite", r"row 17\b")):
        call(name, bad, argument)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("kernel", ["linear", "rbf"])
@pytest.mark.parametrize("d", [6, 90], ids=["feature-space", "gram"])
def test_not_finite_on_every_path(name: str, kernel: str, d: int) -> None:
    bad = rows(40, d)
    bad[17, 3], bad[30, 0] = np.nan, np.inf
    with raises(ValueError, expected(name, "x", "finite", r"row 17\b")):
        call(name, bad, kernel=kernel)


@places()
def test_not_finite_in_bfloat16(name: str, argument: str) -> None:
    torch = pytest.importorskip("torch")
    bad = torch.from_numpy(rows()).to(torch.bfloat16)
    bad[17, 3] = float("nan")
    with raises(ValueError, expected(name, argument, "finite", r"row 17\b")):
        call(name, bad, argument)


@places(("cka",))
@pytest.mark.parametrize("estimator", ["biased", "debiased"])
@pytest.mark.parametrize("kernel", ["linear", repsim.RBF(sigma=2.0)], ids=["linear", "rbf"])
@pytest.mark.parametrize(
    "constant",
    [
        pytest.param(np.zeros((40, 6)), id="zeros"),
        pytest.param(np.full((40, 6), 0.1), id="no-binary-fraction"),
        pytest.param(np.full((40, 6), 1e6 + 0.1), id="far-from-the-origin"),
        pytest.param(np.full((40, 60), 0.1, dtype=np.float32), id="wide"),
        pytest.param(np.tile(np.linspace(0.1, 7.7, 6), (40, 1)), id="equal-rows"),
    ],
)
def test_zero_variance(name: str, argument: str, constant: np.ndarray, kernel: Any, estimator: str) -> None:
    with raises(ValueError, expected(name, argument, "zero variance")):
        call(name, constant, argument, kernel=kernel, estimator=estimator)


@places(("cka",))
@pytest.mark.parametrize(
    ("x", "kernel"),
    [
        pytest.param(np.eye(40), "linear", id="one-hot"),
        pytest.param(np.eye(40)[:, :1] * 3, "linear", id="one-row-apart"),
        pytest.param(np.eye(40), repsim.RBF(sigma=0.7), id="rbf-of-equal-distances"),
    ],
)
def test_debiased_estimator_with_nothing_off_the_diagonal(name: str, argument: str, x: np.ndarray, kernel: Any) -> None:
    """All inner products off the diagonal are equal, so HSIC_1 of x with itself is 0 and CKA is 0 / 0."""
    with raises(ValueError, expected(name, argument, "zero variance")):
        call(name, x, argument, kernel=kernel, estimator="debiased")


@places(GRAPHS)
def test_zero_row_under_cosine(name: str, argument: str) -> None:
    bad = rows()
    bad[5] = 0
    with raises(ValueError, rf"^\[{name}\] expected {argument}\b(?=[^\n]*zero norm)(?=[^\n]*row 5\b)"):
        call(name, bad, argument, metric="cosine")


@pytest.mark.parametrize("metric", ["inner_product", "euclidean"])
def test_zero_row_is_welcome_elsewhere(metric: str) -> None:
    x = rows()
    x[5] = 0
    assert repsim.nearest(x, 3, metric=metric).indices.shape == (40, 3)


# ---------------------------------------------------------------------------------------------- types and memory


@places()
@pytest.mark.parametrize(
    ("dtype", "word"),
    [
        ("int64", "int64"),
        ("uint8", "uint8"),
        ("bool", "bool"),
        ("complex128", "complex128"),
        ("object", "object"),
        ("U4", "(?:str|<?U)"),
    ],
)
def test_unsupported_dtype(name: str, argument: str, dtype: str, word: str) -> None:
    bad: Any = (rows() * 4).astype("int64").astype(dtype)
    with raises(TypeError, expected(name, argument, "float32", f"got[^\n]*{word}")):
        call(name, bad, argument)


@places()
@pytest.mark.parametrize("dtype", ["int64", "bool", "complex64"])
def test_unsupported_torch_dtype(name: str, argument: str, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    bad = torch.ones((40, 6), dtype=getattr(torch, dtype))
    with raises(TypeError, expected(name, argument, "float32", f"got[^\n]*{dtype}")):
        call(name, bad, argument)


@places()
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(np.asfortranarray, id="fortran-order"),
        pytest.param(lambda x: np.repeat(x, 2, axis=1)[:, ::2], id="every-other-column"),
        pytest.param(lambda x: x[:, ::-1], id="columns-backwards"),
        pytest.param(lambda x: np.ascontiguousarray(x.T).T, id="transposed"),
        pytest.param(lambda x: np.broadcast_to(x[:, :1], (40, 6)), id="broadcast-columns"),
    ],
)
def test_features_that_are_not_contiguous(name: str, argument: str, make: Callable[[np.ndarray], np.ndarray]) -> None:
    with raises(ValueError, expected(name, argument, "contiguous", "got")):
        call(name, make(rows()), argument)


@places()
def test_torch_features_that_are_not_contiguous(name: str, argument: str) -> None:
    torch = pytest.importorskip("torch")
    with raises(ValueError, expected(name, argument, "contiguous", "got")):
        call(name, torch.from_numpy(rows(6, 40)).t(), argument)


@pytest.mark.parametrize("name", KERNELS)
def test_one_column_is_contiguous_however_it_lies(name: str) -> None:
    wide, y = np.asfortranarray(rows(40, 6)), rows(40, 3, seed=2)
    for x in (wide[:, 2:3], np.asfortranarray(rows(40, 6))[:, 2:3], rows(40, 6)[:, 2:3]):
        assert float(getattr(repsim, name)(x, y)) == float(getattr(repsim, name)(x.copy(), y))


@places()
@pytest.mark.parametrize(
    "bad", [[[1.0, 2.0]] * 40, None, 3.0, "rows", ((1.0, 2.0),) * 40], ids=["list", "None", "float", "str", "tuple"]
)
def test_no_array(name: str, argument: str, bad: Any) -> None:
    if argument == "base" and bad is None:
        pytest.skip("base=None is the default")
    with raises(TypeError, expected(name, argument, "array", f"got[^\n]*{type(bad).__name__}")):
        call(name, bad, argument)


@places()
def test_tensor_without_data(name: str, argument: str) -> None:
    torch = pytest.importorskip("torch")
    with raises((TypeError, ValueError), expected(name, argument, "got[^\n]*meta")):
        call(name, torch.ones((40, 6), device="meta"), argument)


@places(GRAPHS)
def test_tensor_that_requires_grad(name: str, argument: str) -> None:
    torch = pytest.importorskip("torch")
    with raises((TypeError, ValueError), expected(name, argument, "(?:requires_grad|detach)")):
        call(name, torch.from_numpy(rows()).requires_grad_(), argument)


@places()
def test_the_cure_names_the_argument_as_given(name: str, argument: str) -> None:
    torch = pytest.importorskip("torch")
    if name not in KERNELS:  # these can be differentiated
        with raises(ValueError, expected(name, argument, rf"pass {argument}\.detach\(\)")):
            call(name, torch.from_numpy(rows()).requires_grad_(), argument)
    with raises(ValueError, expected(name, argument, rf"pass {argument}\.contiguous\(\)")):
        call(name, torch.from_numpy(rows(6, 40)).t(), argument)
    with raises(ValueError, expected(name, argument, rf"pass numpy\.ascontiguousarray\({argument}\)")):
        call(name, np.asfortranarray(rows()), argument)
    with raises(TypeError, expected(name, argument, rf"pass numpy\.asarray\({argument}\)")):
        call(name, rows().tolist(), argument)
    with raises(TypeError, expected(name, argument, rf"got int64; pass {argument}\.astype\(numpy\.float32\)")):
        call(name, np.ones((40, 6), int), argument)
    with raises(TypeError, expected(name, argument, rf"got torch\.int32; pass {argument}\.float\(\)")):
        call(name, torch.ones((40, 6), dtype=torch.int32), argument)


def test_bits_of_bfloat16_are_no_integers_to_convert() -> None:
    with raises(TypeError, expected("cka", "x", "got uint16;", r"bfloat16 bits from a store, store\.read\(layer\)")):
        repsim.cka(np.ones((40, 6), np.uint16), rows())


def test_an_argument_inside_a_mapping_is_named_in_the_cure() -> None:
    torch = pytest.importorskip("torch")
    bad = torch.from_numpy(rows()).requires_grad_()
    with raises(ValueError, r"^\[compare\] expected a\['my layer'\] [^\n]*pass a\['my layer'\]\.detach\(\)$"):
        repsim.compare({"my layer": bad}, rows())


@places()
def test_data_frame(name: str, argument: str) -> None:
    pandas = pytest.importorskip("pandas")
    pattern = rf"got DataFrame; pass numpy\.ascontiguousarray\({argument}\.to_numpy\(\)\)"
    with raises(TypeError, expected(name, argument, pattern)):
        call(name, pandas.DataFrame(rows()), argument)


@places()
def test_store(name: str, argument: str, tmp_path: Path) -> None:
    store = repsim.Store.from_arrays(tmp_path / "a", np.arange(40), {"fc": rows()})
    with raises(TypeError, expected(name, argument, r"got Store; use repsim\.compare, or pass store\.read\(layer\)")):
        call(name, store, argument)


@places()
def test_masked_array(name: str, argument: str) -> None:
    with raises(TypeError, expected(name, argument, "without a mask, got MaskedArray", rf"{argument}\.filled")):
        call(name, np.ma.masked_array(rows(), mask=rows() > 2), argument)


def test_subclasses_are_read_as_their_base() -> None:
    x, y = rows(40, 6), rows(40, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        matrix = np.asmatrix(x)
    for name in PAIRS:
        measure = getattr(repsim, name)
        assert measure(matrix, y).to_dict() == measure(x, y).to_dict()
    np.testing.assert_array_equal(repsim.nearest(matrix, 3).indices, repsim.nearest(x, 3).indices)
    assert repsim.cka(matrix, y, kernel="rbf") == repsim.cka(x, y, kernel="rbf")


def test_subclasses_of_tensors_wherever_they_come_from() -> None:
    torch = pytest.importorskip("torch")

    class Activations(torch.Tensor):
        """A class of another package than torch."""

    x, y = torch.from_numpy(rows()), rows(40, 5)
    for dtype in (torch.float32, torch.bfloat16):
        plain = x.to(dtype)
        assert repsim.cka(plain.as_subclass(Activations), y) == repsim.cka(plain, y)
    with raises(ValueError, expected("mutual_knn", "x", r"pass x\.detach\(\)")):
        repsim.mutual_knn(torch.nn.Parameter(x), y)


@places()
def test_lazy_negation(name: str, argument: str) -> None:
    torch = pytest.importorskip("torch")
    lazy = torch.complex(*torch.from_numpy(np.stack([rows(), rows(seed=1)]))).conj().imag
    assert lazy.is_neg()
    lazy = torch._neg_view(torch.from_numpy(rows()))
    with raises(ValueError, expected(name, argument, rf"pass {argument}\.resolve_neg\(\)")):
        call(name, lazy, argument)
    call(name, lazy.resolve_neg(), argument)


def test_tensor_class_without_memory() -> None:
    torch = pytest.importorskip("torch")
    wrapper = torch.Tensor._make_wrapper_subclass(
        type("Remote", (torch.Tensor,), {"__torch_dispatch__": classmethod(lambda *_: NotImplemented)}), (40, 6)
    )
    with raises(TypeError, expected("cka", "x", "numpy can read, got Remote")):
        repsim.cka(wrapper, rows())


def test_bfloat16_of_numpy() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x, y = rows().astype(ml_dtypes.bfloat16), rows(40, 5)
    for name in PAIRS:
        assert getattr(repsim, name)(x, y) == getattr(repsim, name)(x.astype(np.float32), y)
    with raises(ValueError, expected("cka", "x", "contiguous")):
        repsim.cka(np.asfortranarray(x), y)


# ---------------------------------------------------------------------------------------------- words and numbers


@pytest.mark.parametrize("name", KERNELS)
def test_unknown_estimator(name: str) -> None:
    with raises(
        ValueError, rf"^\[{name}\] expected estimator\b(?=[^\n]*['\"]biased)(?=[^\n]*debiased)[^\n]*got 'unbiased'"
    ):
        call(name, rows(), estimator="unbiased")


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("kernel", ["gaussian", 3, None, repsim.RBF], ids=["word", "number", "None", "class"])
def test_unknown_kernel(name: str, kernel: Any) -> None:
    got = "'gaussian'" if isinstance(kernel, str) else ""
    with raises(
        (TypeError, ValueError), rf"^\[{name}\] expected kernel\b(?=[^\n]*linear)(?=[^\n]*rbf)[^\n]*got[^\n]*{got}"
    ):
        call(name, rows(), kernel=kernel)


@pytest.mark.parametrize("name", GRAPHS)
def test_unknown_metric(name: str) -> None:
    words = r"(?=[^\n]*cosine)(?=[^\n]*inner_product)" + ("" if name == "cknna" else r"(?=[^\n]*euclidean)")
    with raises(ValueError, rf"^\[{name}\] expected metric\b{words}[^\n]*got 'manhattan'"):
        call(name, rows(), metric="manhattan")


@pytest.mark.parametrize("field", ["sigma", "median_fraction"])
@pytest.mark.parametrize("value", [0, 0.0, -1.0, float("nan"), float("inf")])
def test_rbf_width_that_is_not_positive_and_finite(field: str, value: float) -> None:
    with raises(ValueError, rf"expected {field}\b[^\n]*positive[^\n]*got {re.escape(str(value))}"):
        repsim.RBF(**{field: value})


def test_rbf_with_neither_or_both_widths() -> None:
    with raises(ValueError, r"(?=[^\n]*sigma)(?=[^\n]*median_fraction)[^\n]*one[^\n]*got"):
        repsim.RBF()
    with raises(ValueError, r"(?=[^\n]*sigma)(?=[^\n]*median_fraction)[^\n]*one[^\n]*got"):
        repsim.RBF(sigma=1.0, median_fraction=1.0)


@places(KERNELS)
def test_median_distance_of_zero(name: str, argument: str) -> None:
    mostly_equal = np.zeros((40, 6))
    mostly_equal[0] = 1.0
    with raises(ValueError, expected(name, argument, "median", "(?:zero|0)")):
        call(name, mostly_equal, argument, kernel="rbf")


@pytest.mark.parametrize("name", ["cka", "hsic", "nearest"])
@pytest.mark.parametrize("option", ["threads", "block_rows"])
@pytest.mark.parametrize("value", [0, -2])
def test_threads_and_block_rows_below_one(name: str, option: str, value: int) -> None:
    options: dict[str, Any] = {option: value}
    with raises(ValueError, expected(name, option, f"got {value}")):
        call(name, rows(), **options)


@pytest.mark.parametrize(("name", "least"), [("mutual_knn", 0), *((name, 2) for name in SAMPLED)])
@pytest.mark.parametrize("value", [-1, np.int64(-3)])
def test_too_few_permutations(name: str, least: int, value: Any) -> None:
    with raises(ValueError, expected(name, "permutations", f"of at least {least}, got {value}")):
        call(name, rows(), permutations=value)
    with raises(ValueError, expected(name, "seed", f"of at least 0, got {value}")):
        call(name, rows(), permutations=5, seed=value)


@pytest.mark.parametrize("name", RELABELLED)
@pytest.mark.parametrize("option", ["permutations", "seed"])
@pytest.mark.parametrize("value", [True, np.bool_(True), 20.0, "20", None, (1, 2)])
def test_permutations_and_seed_that_are_no_integer(name: str, option: str, value: Any) -> None:
    options = {"permutations": 20, option: value}
    with raises(TypeError, expected(name, option, f"as an int, got {re.escape(repr(value))}")):
        call(name, rows(), **options)


@pytest.mark.parametrize("name", RELABELLED)
def test_permutations_and_seed_may_be_numpy_integers(name: str) -> None:
    plain = call(name, rows(), permutations=20, seed=3)
    assert call(name, rows(), permutations=np.int32(20), seed=np.uint8(3)).to_dict() == plain.to_dict()


@pytest.mark.parametrize("name", RELABELLED)
@pytest.mark.parametrize("option", ["permutations", "seed"])
def test_permutations_and_seed_are_checked_before_the_search(
    name: str, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repsim.reductions.nearest", None)
    with raises(ValueError, expected(name, option, "got -1")):
        call(name, rows(), **{option: -1})


def test_a_refused_call_leaves_the_next_one_right() -> None:
    good = float(repsim.cka(rows(), rows(40, 5)))
    bad = rows()
    bad[39, 5] = np.nan
    for _ in range(3):
        with raises(ValueError, r"row 39\b"):
            repsim.cka(bad, rows(40, 5))
    assert float(repsim.cka(rows(), rows(40, 5))) == good
