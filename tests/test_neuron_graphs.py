"""The modularity of graphs of neurons, against networkx and all partitions of a few neurons."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import networkx
import numpy as np
import pytest

import repsim

Array = np.ndarray


def groups(n: int, sizes: tuple[int, ...], noise: float, seed: int = 0) -> Array:
    """Neurons of each group are one signal and noise; in random order, some with the other sign."""
    random = np.random.default_rng([seed, n])
    x = np.repeat(random.standard_normal((n, len(sizes))), sizes, axis=1)
    x = x + noise * random.standard_normal(x.shape)
    return np.ascontiguousarray(x[:, random.permutation(x.shape[1])] * random.choice([-1, 1], x.shape[1]))


def graph(x: Array) -> networkx.Graph:
    weights = np.abs(np.corrcoef(x, rowvar=False))
    np.fill_diagonal(weights, 0)
    return networkx.from_numpy_array(weights)


def partitions(items: list[int]) -> Iterator[list[set[int]]]:
    if not items:
        yield []
        return
    for rest in partitions(items[1:]):
        for i in range(len(rest)):
            yield [*rest[:i], rest[i] | {items[0]}, *rest[i + 1 :]]
        yield [*rest, {items[0]}]


def best(x: Array) -> float:
    joined = graph(x)
    return max(networkx.community.modularity(joined, one) for one in partitions(list(joined)))


@pytest.mark.parametrize(
    "x",
    [
        pytest.param(groups(60, (3, 4), 0.3), id="two-groups"),
        pytest.param(groups(60, (2, 2, 3), 0.5), id="three-groups"),
        pytest.param(groups(200, (7,), 1.0), id="one-group"),
        pytest.param(groups(9, (3, 4), 0.5), id="few-inputs"),
        pytest.param(groups(6, (4, 4), 0.5), id="n<d"),
        pytest.param(groups(40, (1, 1), 0.5), id="two-neurons"),
    ],
)
def test_of_few_neurons_it_is_the_best_of_all_partitions(x: Array) -> None:
    assert repsim.neuron_modularity(x) == pytest.approx(best(x), abs=1e-12)


def test_it_is_at_least_that_of_a_search_and_of_the_groups() -> None:
    sizes = (10, 8, 6, 6)
    x = groups(300, sizes, 0.4)
    joined, found = graph(x), repsim.neuron_modularity(x)
    louvain = networkx.community.louvain_communities(joined, seed=0)
    assert found >= networkx.community.modularity(joined, louvain) - 1e-12
    assert sorted(map(len, louvain)) == sorted(sizes)
    assert 0.4 < found < 0.75


def test_groups_have_more_of_it_than_turned_groups() -> None:
    x = groups(500, (8, 8, 8, 8), 0.2)
    turned = x @ np.linalg.qr(np.random.default_rng(0).standard_normal((32, 32)))[0]
    assert repsim.neuron_modularity(x) > 0.5
    assert repsim.neuron_modularity(turned) < 0.2
    apart = repsim.neuron_modularity_difference(x, turned)
    assert apart == repsim.neuron_modularity(x) - repsim.neuron_modularity(turned)
    assert (apart.measure, apart.n) == ("neuron_modularity_difference", 500)
    assert apart.options == {"starts": 5, "partition_seed": 0}


def test_neither_the_order_nor_the_sign_nor_the_scale_of_neurons_matters() -> None:
    x = groups(80, (5, 4, 6), 0.8)
    random = np.random.default_rng(1)
    other = x[:, random.permutation(15)] * random.uniform(-3, 3, 15) + 1e5 * random.standard_normal(15)
    assert repsim.neuron_modularity(np.ascontiguousarray(other)) == pytest.approx(repsim.neuron_modularity(x), abs=1e-9)


def test_starts_and_their_seed() -> None:
    x = np.random.default_rng(3).standard_normal((40, 40))
    by_seed = [repsim.neuron_modularity(x, starts=1, partition_seed=seed) for seed in range(6)]
    assert len(set(by_seed)) > 1
    assert repsim.neuron_modularity(x, starts=6) == max(by_seed)
    assert repsim.neuron_modularity(x, starts=2, partition_seed=3) == max(by_seed[3:5])


@pytest.mark.parametrize(
    ("x", "message"),
    [
        pytest.param(np.eye(3)[:2], "at least 3 inputs, got 2", id="inputs"),
        pytest.param(np.arange(6.0)[:, None], "x with at least two columns, got one", id="columns"),
        pytest.param(
            np.array([[1.0, 2], [3, 2], [4, 2]]), "x whose columns all vary, got a constant column 1", id="flat"
        ),
        pytest.param(
            np.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1]]), "x with columns that are correlated, got", id="orthogonal"
        ),
    ],
)
def test_refuses(x: Array, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^\[neuron_modularity\] expected {message}"):
        repsim.neuron_modularity(x)
    with pytest.raises(ValueError, match=r"^\[neuron_modularity_difference\] expected "):
        repsim.neuron_modularity_difference(x, x)


@pytest.mark.parametrize(("name", "least"), [("starts", 1), ("partition_seed", 0)])
@pytest.mark.parametrize("function", ["neuron_modularity", "neuron_modularity_difference"])
def test_no_counts(name: str, least: int, function: str) -> None:
    x = groups(20, (2, 3), 0.5)
    sides: tuple[Any, ...] = (x,) if function == "neuron_modularity" else (x, x)
    with pytest.raises(ValueError, match=rf"^\[{function}\] expected {name} of at least {least}, got {least - 1}$"):
        getattr(repsim, function)(*sides, **{name: least - 1})
