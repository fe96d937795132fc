"""Whatever is passed: the right answer, or one line `[function] expected ...`. Nothing else.

A few hundred cases, always the same ones, run with the other tests. More, and new ones every time:

    REPSIM_FUZZ_CASES=10000 pytest tests/test_fuzz.py

A new measure or kernel is a line in PAIRS, GRAPHS or KERNELS; a new kind of value or memory is one in strange_rows.py.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import extended
import list_oracles
import numpy as np
import pytest
from extended import Matrix, Truth
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from list_oracles import as_lists
from strange_rows import FLOATS, NO_ROWS, ODD, OTHER_DTYPES, PLAIN, SOUND, VALUES, StrangeRows

import repsim
from repsim import reductions

CASES = int(os.environ.get("REPSIM_FUZZ_CASES") or 0)
pytestmark = [
    pytest.mark.skipif(not extended.PRECISE, reason="long double is float64 here: there is nothing to compare with"),
    pytest.mark.timeout(300 + CASES),
]
Array = np.ndarray


class KernelCase(NamedTuple):
    api: Any
    truth: Callable[[Array], Matrix]
    median: str = ""  # which median distance has to be positive


KERNELS = {
    "linear": KernelCase("linear", extended.linear),
    "rbf": KernelCase("rbf", extended.of_median(1.0), "rbf"),
    "half the median": KernelCase(repsim.RBF(median_fraction=0.5), extended.of_median(0.5), "rbf"),
    "sigma 3": KernelCase(repsim.RBF(sigma=3.0), extended.of_distance(3.0)),
    "laplacian_l1": KernelCase("laplacian_l1", extended.of_median(1.0, "laplacian_l1"), "laplacian_l1"),
    "laplacian_l2": KernelCase("laplacian_l2", extended.of_median(1.0, "laplacian_l2"), "laplacian_l2"),
    "laplacian 5": KernelCase(repsim.LaplacianL2(sigma=5.0), extended.of_distance(5.0, "laplacian_l2")),
    "cosine": KernelCase("cosine", extended.cosine),
    "polynomial": KernelCase("polynomial", extended.polynomial(3, 1.0, 1.0)),
    "a small polynomial": KernelCase(repsim.Polynomial(2, 0.0, 0.1), extended.polynomial(2, 0.0, 0.1)),
    "a sum": KernelCase(
        repsim.RBF(sigma=2.0) + 0.5 * repsim.Cosine(), extended.plus(extended.of_distance(2.0), extended.cosine, 0.5)
    ),
    "a product": KernelCase(
        repsim.RBF(sigma=4.0) * repsim.Polynomial(1, 1.0),
        extended.times(extended.of_distance(4.0), extended.polynomial(1, 1.0, 1.0)),
    ),
}

# Measures on two neighbour graphs: the metrics they take, and the value of two lists [n][k].
Lists = list[list[int]]
Value = Callable[[Lists, Lists], float]
METRICS = ("cosine", "inner_product", "euclidean")
GRAPHS: dict[str, tuple[tuple[str, ...], Value | None]] = {
    **{
        measure: (METRICS, partial(list_oracles.value, measure))
        for measure in ("mutual_knn", "knn_jaccard", "cycle_knn", "lcs_knn", "edit_distance_knn", "rank_similarity",
                        "joint_rank_jaccard")
    },
    "cknna": (METRICS[:2], None),
}  # fmt: skip
PAIRS = ("cka", "hsic")
FUNCTIONS = (*PAIRS, "nearest", *GRAPHS)

# ---------------------------------------------------------------------------------------------- cases


@dataclass(frozen=True)
class Case:
    """One call, as hypothesis prints it."""

    function: str
    x: StrangeRows
    y: StrangeRows | None  # the other side; of nearest the base
    kernel: str = "linear"
    options: dict[str, Any] = field(default_factory=dict)

    def call(self, x: Any, y: Any) -> Any:
        options = dict(self.options)
        if self.function in PAIRS:
            options.setdefault("kernel", KERNELS[self.kernel].api)
        if self.function == "nearest":
            return repsim.nearest(x, base=y, **options)
        return getattr(repsim, self.function)(x, y, **options)


FILTERS = ("bfloat16",) if reductions.has_bfloat16() else ()
WRONG_OPTIONS: dict[str, tuple[Any, ...]] = {
    "k": (0, -1, 10**6, 2.5, None, "3", True),
    "metric": ("manhattan", None, 3, ""),
    "filter": ("float16", None, 0),
    "estimator": ("unbiased", None, 1),
    "kernel": ("sigmoid", None, 3, repsim.RBF),
    "block_rows": (0, -5, 1.5, True, "192"),
    "threads": (0, -1, 1.0, True, "2"),
    "permutations": (-1, 2.0, None),
    "seed": (-1, 0.5, None),
}

rows_count = st.one_of(
    st.integers(2, 40), st.integers(2, 400), st.sampled_from([0, 1, 2, 3, 4, 5, 191, 192, 193, 383, 384, 385])
)
columns_count = st.one_of(st.integers(1, 8), st.integers(1, 40), st.sampled_from([0, 15, 16, 17, 33, 48, 100, 300]))


@st.composite
def strange_rows(draw: st.DrawFn, n: int, d: int) -> StrangeRows:
    dtype = draw(st.sampled_from([*FLOATS, "float32", "float64"]))
    values = draw(st.one_of(st.sampled_from(PLAIN), st.sampled_from(list(VALUES))))
    oddness = draw(st.integers(0, 19))
    lies = "contiguous"
    if oddness < 8:
        lies = draw(st.sampled_from(list(SOUND)))
    elif oddness < 11 and dtype != "bfloat16":
        lies = draw(st.sampled_from(list(ODD)))
    elif oddness == 11:
        lies, dtype = draw(st.sampled_from(list(NO_ROWS))), "float32"
    elif oddness == 12:
        dtype = draw(st.sampled_from(OTHER_DTYPES))
    return StrangeRows(n, d, values, dtype, lies, draw(st.integers(0, 999)))


@st.composite
def cases(draw: st.DrawFn, function: str) -> Case:
    n = draw(rows_count)
    x = draw(strange_rows(n, draw(columns_count)))
    options: dict[str, Any] = {}
    kernel = "linear"
    if function == "nearest":
        y = None
        if draw(st.booleans()):
            y = draw(strange_rows(draw(rows_count), x.d if draw(st.integers(0, 9)) else draw(columns_count)))
    else:
        m = n if draw(st.integers(0, 19)) else draw(rows_count)
        y = draw(strange_rows(m, draw(columns_count)))
    if function in PAIRS:
        kernel = draw(st.sampled_from(list(KERNELS)))
        options["estimator"] = draw(st.sampled_from(["debiased", "biased"]))
    else:
        options["metric"] = draw(st.sampled_from(GRAPHS[function][0] if function in GRAPHS else METRICS))
        most = (y.n if y else n - 1) if function == "nearest" else n - 1
        if function not in ("nearest", "cknna"):
            most = min(most, 40)  # the oracles are loops over Python lists
        options["k"] = draw(st.one_of(st.integers(1, 12), st.integers(1, max(most, 1)), st.just(max(most, 1))))
    if function in GRAPHS:
        options["permutations"] = draw(st.sampled_from([2, 5]))
    else:
        if function == "nearest":
            options["filter"] = draw(st.sampled_from(["auto", "float32", *FILTERS]))
        options["block_rows"] = draw(st.sampled_from([None, 1, 192, 193, 400]))
    options["threads"] = draw(st.integers(1, 3))
    if not draw(st.integers(0, 14)):
        wrong = draw(st.sampled_from([name for name in (*options, "kernel") if name != "kernel" or function in PAIRS]))
        options[wrong] = draw(st.sampled_from(WRONG_OPTIONS[wrong]))
    return Case(function, x, y, kernel, options)


# ---------------------------------------------------------------------------------------------- what may be refused


def squares(x: Array) -> tuple[float, float, float]:
    """Decimal logarithms of the smallest and largest squared norm, and of the largest about the middle."""
    raw, about = (x * x).sum(axis=1), (extended.middle(x) ** 2).sum(axis=1)
    smallest, largest, spread = (float(np.log10(each + extended.LEAST)) for each in (raw.min(), raw.max(), about.max()))
    return smallest, largest, spread


def beyond_float64(logarithm: float) -> bool:
    """A squared length that float64 may not hold to all its digits, give or take a factor."""
    return -3000 < logarithm < -278 or logarithm > 278


def median_square(x: Array) -> float:
    return float(np.log10(np.median((extended.middle(x) ** 2).sum(axis=1)) + extended.LEAST))


def varies_little(x: Array) -> bool:
    spread, size = extended.norms(x - x.mean(axis=0)).max(), extended.norms(x).max()
    return bool(spread <= max(4 * len(x) * extended.FLOAT64 * size, 1e-160))


def median_is_lost(x: Array, kind: str) -> bool:
    return bool(extended.median_distance(x, kind) <= 1e-7 * extended.norms(extended.middle(x)).max())


# What the edge may say of the values of sound rows, and when it is right to.
REFUSALS: dict[str, Callable[[Array], bool]] = {
    "with finite values, got NaN or infinity in row": lambda x: not np.isfinite(x).all(),
    "whose sums are finite": lambda x: bool(extended.norms(x).max() > 1e300),
    "values between about 1e-140 and 1e140": lambda x: any(map(beyond_float64, squares(x))),
    "whose fourth powers float64 can hold": lambda x: not -138 < squares(x)[2] < 138 or not -138 < squares(x)[1] < 138,
    "whose rows differ": varies_little,
    "whose median distance is positive": lambda x: any(median_is_lost(x, kind) for kind in ("rbf", "laplacian_l1")),
    "whose directions differ": lambda x: varies_little(x / extended.norms(x)[:, None]),
    "float64 can hold, got values of up to": lambda x: squares(x)[1] > 90 or squares(x)[1] < -90,
    "float32 can hold beside each other": lambda x: squares(x)[2] > 34 + min(0, median_square(x)),
    "non-zero rows for the cosine": lambda x: squares(x)[0] < -290,
}


def refused_rightly(message: str, named: str, wide: dict[str, Array | None]) -> bool:
    """Whether what the line says of a side is true."""
    x = wide.get(named)
    return x is not None and any(words in message and holds(x) for words, holds in REFUSALS.items())


def bad_by_recipe(case: Case) -> set[str]:
    """The arguments that must be refused, whatever the values: one of them has to be named."""
    bad = {"x"} if case.x.refused else set()
    other = "base" if case.function == "nearest" else "y"
    if case.y is not None and case.y.refused and case.y.lies != "None":
        bad.add(other)
    if case.y is not None and not bad:
        if case.function == "nearest" and case.y.lies != "None" and case.x.d != case.y.d:
            bad.add("base")
        if case.function != "nearest" and case.x.n != case.y.n:
            bad.add("y")
    if case.function != "nearest" and case.y is not None and case.y.lies == "None":
        bad.add("y")
    bad |= {name for name, wrong in WRONG_OPTIONS.items() if any(case.options.get(name, wrong) is w for w in wrong)}
    if case.function in PAIRS and case.x.n < (4 if case.options["estimator"] == "debiased" else 2):
        bad.add("x")
    if case.function == "cknna" and case.x.n < 4:
        bad |= {"x", "k"}
    if "k" in case.options and isinstance(case.options["k"], int):
        most = case.y.n if case.function == "nearest" and case.y is not None and case.y.lies != "None" else case.x.n - 1
        bad |= {"k"} if case.options["k"] > most else set()
    return bad


# ---------------------------------------------------------------------------------------------- what is right


def agrees(got: float, truth: Truth, what: str) -> None:
    if not truth.decided:
        event(f"{what}: too little is left of a matrix to tell")
        return
    assert abs(got - truth.value) <= truth.allowed, (
        f"{what}: got {got!r}, right is {truth.value!r}, allowed {truth.allowed:.3g}"
    )


def judge_pair(case: Case, result: Any, x: Array, y: Array) -> None:
    k, l = (KERNELS[case.kernel].truth(z) for z in (x, y))  # noqa: E741
    hsic, cka, _ = extended.hsic_and_cka(k, l, case.options["estimator"], result.precision)
    agrees(float(result), hsic if case.function == "hsic" else cka, case.function)
    assert np.isnan(result.p) or 0 <= result.p <= 1


def judge_nearest(case: Case, graph: Any, x: Array, base: Array | None) -> None:
    keys, slack = extended.scores(x, case.options["metric"], base)
    k, n = case.options["k"], len(keys)
    assert graph.indices.shape == graph.scores.shape == (n, k)
    assert graph.indices.min() >= 0 and graph.indices.max() < keys.shape[1]
    rows, best = np.arange(n)[:, None], extended.rank(keys, k)
    assert (np.diff(np.sort(graph.indices, axis=1), axis=1) > 0).all(), "a row is listed twice"
    got, ideal = keys[rows, graph.indices], keys[rows, best]
    allowed = slack[rows, graph.indices] + slack[rows, best]
    assert (abs(got - ideal) <= allowed).all(), (
        f"a nearer row is left out: {np.argwhere(abs(got - ideal) > allowed)[0]}"
    )
    group = extended.identical(x if base is None else base)
    same = (group[graph.indices[:, 1:]] == group[graph.indices[:, :-1]]) & (np.diff(graph.indices, axis=1) < 0)
    assert not same.any(), f"identical rows out of order in row {np.argwhere(same)[0]}"
    scores = graph.scores.astype(extended.LONG)
    held = abs(got) < np.finfo(np.float32).max
    off = abs(scores - got) - slack[rows, graph.indices] - extended.FLOAT32 * abs(got) - 1e-44
    assert not (off > 0)[held].any(), f"a score is off by {off.max():.3g}"
    assert (np.diff(graph.scores, axis=1)[held[:, 1:]] <= 0).all(), "not best first"


def judge_graphs(case: Case, result: Any, x: Array, y: Array) -> None:
    k = case.options["k"]
    (lists_x, scores_x, x_decided), (lists_y, scores_y, y_decided) = (
        extended.decided_lists(z, case.options["metric"], k) for z in (x, y)
    )
    assert np.isnan(result.p) or 0 <= result.p <= 1
    value = GRAPHS[case.function][1]
    if not (x_decided and y_decided):
        event(f"{case.function}: near-ties leave the graph open")
    elif value is not None:
        right = value(as_lists(lists_x), as_lists(lists_y))
        assert abs(float(result) - right) < 1e-12, f"got {float(result)}, right is {right}"
    else:
        agrees(float(result), extended.cknna(scores_x, scores_y, lists_x, lists_y), case.function)


def refusal_by_truth(case: Case, message: str, wide: dict[str, Array | None]) -> bool:
    """Whether so little of a matrix is left that a measure may say so."""
    x, y = wide["x"], wide.get("y")
    if x is None or y is None:
        return False
    if case.function in PAIRS:
        k, l = (KERNELS[case.kernel].truth(z) for z in (x, y))  # noqa: E741
        clear = extended.hsic_and_cka(k, l, case.options["estimator"], "float32")[2]
        sizes = [extended.frobenius(extended.centred(m.entries, case.options["estimator"])) for m in (k, l)]
        if "with a kernel matrix that varies" in message:
            side = 0 if "expected x" in message else 1
            return bool(sizes[side] < 1e-140) or not clear[side]
        return "whose kernels' product float64 can hold" in message and not 1e-270 < sizes[0] * sizes[1] < 1e270
    if case.function == "cknna" and "whose masked HSIC with itself is positive" in message:
        side = x if "expected x" in message else y
        lists, scores, decided = extended.decided_lists(side, case.options["metric"], case.options["k"])
        held = 1e-30 < abs(scores[np.isfinite(scores)]).max() < 1e38  # of the graph they are float32
        return not (held and decided and extended.cknna(scores, scores, lists, lists).decided)
    return False


def long_values(made: Any) -> Array | None:
    """The values of what was passed, in extended precision."""
    made = getattr(made, "x", made)
    if hasattr(made, "detach"):
        made = made.detach().to_dense().double().numpy()
    values = np.array(made)
    rows = values.ndim == 2 and values.size and (values.dtype.kind == "f" or values.dtype.name == "bfloat16")
    return values.astype(extended.LONG) if rows else None


def check(case: Case) -> None:
    other = "base" if case.function == "nearest" else "y"
    recipes = {name: recipe for name, recipe in (("x", case.x), (other, case.y)) if recipe is not None}
    made = {name: recipe.make() for name, recipe in recipes.items()}
    bad = bad_by_recipe(case)
    with np.errstate(all="ignore"):
        wide = {name: long_values(one) for name, one in made.items()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            result = case.call(made["x"], made.get(other))
    except (TypeError, ValueError) as error:
        event(f"{case.function}: refused")
        message = str(error)
        named = re.match(rf"^\[{case.function}\] expected (\w+)\b[^\n]*$", message)
        assert named, f"not a line of the edge: {message}"
        odd = {name for name, recipe in recipes.items() if not recipe.sound}
        if named[1] in bad | odd:
            return
        with np.errstate(all="ignore"):
            right = refused_rightly(message, named[1], wide) or (not bad and refusal_by_truth(case, message, wide))
        assert right, f"refused without a reason: {message}"
        return
    event(f"{case.function}: answered")
    assert not bad, f"expected {bad} to be refused, got {result!r}"
    with np.errstate(all="ignore"):
        assert all(np.isfinite(one).all() for one in wide.values() if one is not None), (
            "answered for rows that are not finite"
        )
        judge = judge_pair if case.function in PAIRS else judge_nearest if case.function == "nearest" else judge_graphs
        judge(case, result, wide["x"], wide.get(other))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_right_or_refused(function: str) -> None:
    @settings(
        max_examples=max(CASES // len(FUNCTIONS), 1) if CASES else 100,
        derandomize=not CASES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    @given(case=cases(function))
    def every(case: Case) -> None:
        check(case)

    every()
