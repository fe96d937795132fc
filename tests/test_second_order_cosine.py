"""second_order_cosine against loops over the union of the lists."""

from __future__ import annotations

from typing import Any

import list_oracles
import numpy as np
import oracles
import pytest
from list_oracles import as_lists
from random_graphs import related

import repsim
from repsim.arrays import as_rows
from repsim.measures import neighbour_scores


def value(measure: str, *sides: Any, **options: Any) -> float:
    return float(getattr(repsim, measure)(*sides, **options))


# ---------------------------------------------------------------------------------------------- second_order_cosine


@pytest.mark.parametrize("metric", ["cosine", "inner_product", "euclidean"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_second_order_cosine_agrees_with_the_oracle(metric: str, dtype: str) -> None:
    x, y = (z.astype(dtype) for z in related(90, 13, 7))
    gx, gy = (repsim.nearest(z, 6, metric=metric) for z in (x, y))
    terms = list_oracles.second_order_terms(x, y, as_lists(gx.indices), as_lists(gy.indices))
    found = neighbour_scores.second_order_terms(
        gx, gy, (as_rows(x, function="f", name="x"), as_rows(y, function="f", name="y"))
    )
    np.testing.assert_allclose(found, terms, rtol=1e-12)
    of_rows = repsim.second_order_cosine(x, y, k=6, metric=metric, permutations=3)
    assert of_rows == pytest.approx(np.mean(terms), rel=1e-12)
    of_graphs = repsim.second_order_cosine(x, y, graphs=(gx, gy), permutations=3)
    assert of_graphs.to_dict() == of_rows.to_dict()
    assert of_rows.precision == "float64"


def test_second_order_cosine_takes_bfloat16_and_two_dtypes() -> None:
    torch = pytest.importorskip("torch")
    x, y = related(60, 9, 7)
    half = torch.from_numpy(x).to(torch.bfloat16)
    gx, gy = repsim.nearest(half, 5), repsim.nearest(y, 5)
    terms = list_oracles.second_order_terms(half, y, as_lists(gx.indices), as_lists(gy.indices))
    assert value("second_order_cosine", half, y, k=5, permutations=2) == pytest.approx(np.mean(terms), rel=1e-12)


def test_second_order_cosine_relabelled_by_hand() -> None:
    x, y = related(30, 6, 5, noise=2.0)
    lists = [as_lists(oracles.nearest(z, 4)) for z in (x, y)]
    found = repsim.second_order_cosine(x, y, k=4, permutations=25, seed=3)
    rng, drawn = np.random.default_rng([3, 30]), []
    for _ in range(25):
        names = rng.permutation(30)
        moved = np.empty_like(y)
        moved[names] = y
        drawn.append(
            np.mean(list_oracles.second_order_terms(x, moved, lists[0], list_oracles.renamed(lists[1], names)))
        )
    assert found.null.mean == pytest.approx(np.mean(drawn), rel=1e-12)
    assert found.null.sd == pytest.approx(np.std(drawn, ddof=1), rel=1e-10)
    assert found.p == oracles.add_one_p(found.value, np.array(drawn))


def test_second_order_cosine_of_itself_range_and_symmetry() -> None:
    x, y = related(120, 6, 5)
    assert value("second_order_cosine", x, x, permutations=2) == 1.0
    there, back = value("second_order_cosine", x, y, permutations=2), value("second_order_cosine", y, x, permutations=2)
    assert there == pytest.approx(back, rel=1e-14)
    assert 0 < there < 1
    spread = np.random.default_rng(0).standard_normal((3, 2))
    assert -1 <= value("second_order_cosine", spread, -spread[::-1], k=1, permutations=2) <= 1


def test_what_second_order_cosine_refuses() -> None:
    x, y = related(40, 6, 5)
    gx, gy = repsim.nearest(x), repsim.nearest(y)
    with pytest.raises(TypeError, match=r"^\[second_order_cosine\] expected x and y as arrays, and graphs as graphs="):
        repsim.second_order_cosine(gx, gy)
    for bad in ((gx,), (x, y), gx):
        with pytest.raises(
            TypeError, match=r"^\[second_order_cosine\] expected graphs as two graphs of repsim.nearest"
        ):
            repsim.second_order_cosine(x, y, graphs=bad)
    with pytest.raises(ValueError, match=r"^\[second_order_cosine\] expected the graph of x with its 39 rows, got 40$"):
        repsim.second_order_cosine(x[:39], y[:39], graphs=(gx, gy), k=5)


def test_second_order_cosine_without_cosines() -> None:
    x, y = related(40, 6, 5)
    x[11] = 0
    with pytest.raises(ValueError, match=r"^\[second_order_cosine\] expected x with non-zero rows, [^\n]*row 11$"):
        repsim.second_order_cosine(x, y, metric="euclidean")
    apart = np.eye(40)
    with pytest.raises(ValueError, match=r"in which no input is orthogonal to all neighbours [^\n]*got row 0$"):
        repsim.second_order_cosine(apart, y, k=3)
