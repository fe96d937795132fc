"""Stitching, against scikit-learn's least squares and a plain torch training loop, on small trained networks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn

import repsim
from repsim.measures.registry import REGISTRY

Array = np.ndarray
CLASSES = 4


def examples(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Classes by the quadrant of two directions out of twelve."""
    points = torch.from_numpy(np.random.default_rng(seed).standard_normal((n, 12))).float()
    return points, 2 * (points[:, 0] > 0).long() + (points[:, 1] > 0).long()


def network(seed: int, steps: int, width: int = 16) -> tuple[nn.Module, nn.Module]:
    """The front and the back of a small network, trained or not."""
    torch.manual_seed(seed)
    front = nn.Sequential(nn.Linear(12, width), nn.Tanh())
    back = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, CLASSES))
    adam = torch.optim.Adam([*front.parameters(), *back.parameters()], lr=0.01)
    points, labels = examples(512, 100)
    for _ in range(steps):
        adam.zero_grad()
        nn.functional.cross_entropy(back(front(points)), labels).backward()
        adam.step()
    return front, back


@pytest.fixture(scope="module")
def sides() -> dict[str, Any]:
    points, labels = examples(400, 7)
    (a, _), (b, back), (random, _) = network(0, 150), network(1, 150, 20), network(2, 0, 6)
    with torch.no_grad():
        x, y, none = (front(points).numpy() for front in (a, b, random))
    return {"x": x, "y": y, "random": none, "back": back, "labels": labels.numpy()}


def split(n: int, seed: int = 0, share: float = 0.25) -> tuple[Array, Array]:
    order = np.random.default_rng(seed).permutation(n)
    return np.sort(order[: round(share * n)]), order[round(share * n) :]


def accuracy(back: nn.Module, x: Array, labels: Array) -> float:
    with torch.no_grad():
        return float((back(torch.from_numpy(x).float()).argmax(dim=1).numpy() == labels).mean())


# ---------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("front", ["x", "random"])
def test_direct_matching_is_least_squares(sides: dict[str, Any], front: str) -> None:
    from sklearn.linear_model import LinearRegression

    x, y, back, labels = (sides[name] for name in (front, "y", "back", "labels"))
    test, train = split(len(x))
    fitted = LinearRegression().fit(x[train].astype(float), y[train].astype(float)).predict(x[test])
    own, expected = accuracy(back, y[test], labels[test]), accuracy(back, fitted, labels[test])
    result = repsim.stitching(x, y, back, labels, epochs=0)
    assert result == pytest.approx(expected / own, rel=1e-12)
    assert result.options["direct_accuracy"] == result.options["accuracy"] == pytest.approx(expected)
    assert result.options["own_accuracy"] == pytest.approx(own)
    assert result.options["penalty"] == pytest.approx(own - expected)
    assert (result.measure, result.n) == ("stitching", len(x))
    assert 0.9 < expected <= own if front == "x" else 0.4 < expected < own - 0.1


def test_task_loss_is_a_plain_training_loop(sides: dict[str, Any]) -> None:
    from sklearn.linear_model import LinearRegression

    x, y, back, labels = (sides[name] for name in ("random", "y", "back", "labels"))
    random = np.random.default_rng(3)
    order = random.permutation(len(x))
    test, train = np.sort(order[:100]), order[100:]
    found = LinearRegression().fit(x[train].astype(float), y[train].astype(float))
    layer = nn.Linear(x.shape[1], y.shape[1])
    layer.weight.data, layer.bias.data = (torch.tensor(one).float() for one in (found.coef_, found.intercept_))
    adam, before = torch.optim.Adam(layer.parameters(), lr=0.01), accuracy(back, found.predict(x[test]), labels[test])
    for _ in range(12):
        for chosen in np.array_split(random.permutation(train), 5):  # 300 inputs, 64 a step at most
            adam.zero_grad()
            loss = nn.functional.cross_entropy(back(layer(torch.from_numpy(x[chosen]))), torch.tensor(labels[chosen]))
            loss.backward()
            adam.step()
    back.zero_grad()
    stitched = nn.Sequential(layer, back)
    result = repsim.stitching(x, y, back, labels, epochs=12, learning_rate=0.01, batch_rows=64, seed=3)
    assert result.options["direct_accuracy"] == pytest.approx(before)
    assert result.options["accuracy"] == pytest.approx(accuracy(stitched, x[test], labels[test]))


def test_training_undoes_what_least_squares_shrinks() -> None:
    """Of a noisy sign least squares keeps half, which a back that asks for 0.8 takes for nothing."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 800)
    y = 2.0 * labels[:, None] - 1
    back = _Gives(lambda u: torch.cat([torch.full_like(u, 4.0), 5 * u], dim=1))
    result = repsim.stitching(y + random.standard_normal(y.shape), y, back, labels, epochs=10, learning_rate=0.05)
    assert result.options["own_accuracy"] == 1
    assert result.options["direct_accuracy"] < 0.7
    assert result > 0.75


def test_an_affine_map_is_undone(sides: dict[str, Any]) -> None:
    y, back, labels = (sides[name] for name in ("y", "back", "labels"))
    random = np.random.default_rng(0)
    x = y.astype(float) @ random.standard_normal((20, 30)) + 1e3
    result = repsim.stitching(x, y, back, labels, epochs=0)
    assert result == 1
    assert result.options["penalty"] == 0
    assert result.standard_error == 0


def test_trained_networks_stitch_and_random_ones_less(sides: dict[str, Any]) -> None:
    """The finding of the papers: fronts trained on the task serve the back of another network."""
    back, y, labels = sides["back"], sides["y"], sides["labels"]
    trained, random = (repsim.stitching(sides[name], y, back, labels, epochs=5) for name in ("x", "random"))
    assert trained > 0.93
    assert random < trained - 0.03
    shuffled = repsim.stitching(np.random.default_rng(0).permutation(sides["x"]), y, back, labels, epochs=5)
    assert shuffled < 0.5


@pytest.mark.parametrize("places", [(1, 1), (3, 2)], ids=["one-place", "six-places"])
def test_images_are_stitched_at_every_place(places: tuple[int, int]) -> None:
    """A 1 x 1 convolution of 5 channels to 3 is undone; with a single place it is what vectors are."""
    random = np.random.default_rng(1)
    y = random.standard_normal((120, 3, *places)).astype(np.float32)
    x = np.einsum("nchw,dc->ndhw", y, random.standard_normal((5, 3))).astype(np.float32) + 2
    torch.manual_seed(0)
    back = nn.Sequential(nn.Flatten(), nn.Linear(3 * places[0] * places[1], CLASSES))
    with torch.no_grad():
        labels = back(torch.from_numpy(y)).argmax(dim=1).numpy()
    assert repsim.stitching(x, y, back, labels, epochs=0) == 1
    noisy = x + random.standard_normal(x.shape).astype(np.float32)
    result = repsim.stitching(noisy, y, back, labels, epochs=2)
    assert result.options["direct_accuracy"] < 1
    if places == (1, 1):
        flat = repsim.stitching(noisy[:, :, 0, 0], y[:, :, 0, 0], back, labels, epochs=2)
        assert result.options == flat.options


def test_directions_that_x_has_not_are_left_alone(sides: dict[str, Any]) -> None:
    """Constant and repeated columns: of all least squares the smallest."""
    x, y, back, labels = (sides[name] for name in ("x", "y", "back", "labels"))
    more = np.concatenate([x, x[:, :3], np.ones((len(x), 2), np.float32)], axis=1)
    plain, again = (repsim.stitching(one, y, back, labels, epochs=0) for one in (x, more))
    assert again == plain


def test_standard_error_is_the_jackknife(sides: dict[str, Any]) -> None:
    x, y, back, labels = (sides[name] for name in ("random", "y", "back", "labels"))
    test, train = split(len(x))
    from sklearn.linear_model import LinearRegression

    stitched = LinearRegression().fit(x[train].astype(float), y[train].astype(float)).predict(x[test])
    with torch.no_grad():
        right, own = (
            back(torch.from_numpy(one).float()).argmax(dim=1).numpy() == labels[test] for one in (stitched, y[test])
        )
    ratios = [np.delete(right, i).sum() / np.delete(own, i).sum() for i in range(len(test))]
    expected = math.sqrt((len(test) - 1) * np.var(ratios))
    assert repsim.stitching(x, y, back, labels, epochs=0).standard_error == pytest.approx(expected, rel=1e-9)


# ---------------------------------------------------------------------------------------------- as it is told


def test_the_same_every_time_and_by_its_seed(sides: dict[str, Any]) -> None:
    x, y, back, labels = (sides[name] for name in ("random", "y", "back", "labels"))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again, other = (repsim.stitching(x, y, back, labels, epochs=2, seed=seed) for seed in (0, 0, 1))
    assert first.to_dict() == again.to_dict()
    assert other.options["own_accuracy"] != first.options["own_accuracy"]
    assert torch.equal(torch.get_rng_state(), state)
    more = repsim.stitching(x, y, back, labels, epochs=0, held_out=0.5)
    test, _ = split(len(x), share=0.5)
    assert more.options["own_accuracy"] == pytest.approx(accuracy(back, y[test], labels[test]))


def test_back_is_left_as_it_was(sides: dict[str, Any]) -> None:
    x, y, labels = sides["x"], sides["y"], sides["labels"]
    torch.manual_seed(0)
    back = nn.Sequential(nn.BatchNorm1d(20), nn.Dropout(0.5), nn.Linear(20, CLASSES))
    back.train()
    back[1].eval()
    before = {name: value.clone() for name, value in back.state_dict().items()}
    results = [repsim.stitching(x, y, back, labels, epochs=1) for _ in range(2)]
    assert results[0].to_dict() == results[1].to_dict()  # no dropout
    assert [part.training for part in back.modules()] == [True, True, False, True]
    assert all(parameter.grad is None and parameter.requires_grad for parameter in back.parameters())
    assert all(torch.equal(value, before[name]) for name, value in back.state_dict().items())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "bfloat16-numpy", "float64"])
def test_dtypes(sides: dict[str, Any], dtype: str) -> None:
    x, y, back, labels = (sides[name] for name in ("x", "y", "back", "labels"))
    if dtype == "bfloat16":
        given = [torch.from_numpy(one).bfloat16() for one in (x, y)]
        exact = [one.double().numpy() for one in given]
    else:
        given = [one.astype(ml_dtypes.bfloat16 if "bf" in dtype else dtype) for one in (x, y)]
        exact = [one.astype(np.float64) for one in given]
    results = [
        repsim.stitching(*pair, back, as_labels, epochs=1)
        for pair, as_labels in ((given, labels.astype(np.uint8)), (exact, torch.from_numpy(labels)))
    ]
    assert results[0].to_dict() == results[1].to_dict()


def test_a_back_in_float64_is_trained_in_float64(sides: dict[str, Any]) -> None:
    seen = set()

    class Back(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.add(x.dtype)
            return super().forward(x)

    repsim.stitching(sides["x"], sides["y"], Back(20, CLASSES).double(), sides["labels"], epochs=1)
    assert seen == {torch.float64}


def test_progress(sides: dict[str, Any]) -> None:
    steps: list[tuple[int, int]] = []
    x, y, back, labels = (sides[name] for name in ("x", "y", "back", "labels"))
    repsim.stitching(x, y, back, labels, epochs=3, progress=lambda *step: steps.append(step))
    assert steps == [(1, 3), (2, 3), (3, 3)]


def test_the_account_of_it() -> None:
    account = REGISTRY["stitching"]
    assert (account.takes, account.family, account.kind, account.method) == ("models", "stitching", "similarity", None)


# ---------------------------------------------------------------------------------------------- what is refused


class _Gives(nn.Module):
    def __init__(self, what: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.what = what

    def forward(self, x: torch.Tensor) -> Any:
        return self.what(x)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        pytest.param({"back": len}, TypeError, r"back as a torch\.nn\.Module, got builtin", id="no-module"),
        pytest.param(
            {"x": np.ones(3)}, ValueError, r"x as an array \[n, d\] or \[n, c, h, w\], got shape \(3,\)", id="1d"
        ),
        pytest.param({"x": np.ones((5, 2))}, ValueError, "y with 5 rows like x, got 400", id="inputs"),
        pytest.param(
            {"x": np.ones((400, 2, 3, 3))},
            ValueError,
            r"y of shape \[400, any, 3, 3\] like x, got \(400, 20\)",
            id="vectors-to-images",
        ),
        pytest.param(
            {"x": np.ones((400, 2, 3, 3)), "y": np.ones((400, 2, 3, 2))},
            ValueError,
            r"y of shape \[400, any, 3, 3\] like x, got \(400, 2, 3, 2\)",
            id="other-places",
        ),
        pytest.param(
            {"x": np.ones((400, 3))}, ValueError, "x whose rows differ, got a sum of squares of 0", id="equal"
        ),
        pytest.param(
            {"x": np.full((400, 3), np.nan)}, ValueError, "x with finite values, got NaN or infinity in row 0", id="nan"
        ),
        pytest.param({"labels": np.zeros(400)}, TypeError, "labels as an array of integers", id="float-labels"),
        pytest.param({"labels": np.zeros(3, int)}, ValueError, "labels of 400 inputs like x, got 3", id="few-labels"),
        pytest.param(
            {"labels": np.full(400, 4)}, ValueError, "labels from 0 to 3, the classes of back, got 4 to 4", id="labels"
        ),
        pytest.param(
            {"labels": np.full(400, -1)},
            ValueError,
            "labels from 0 to 3, the classes of back, got -1 to -1",
            id="below",
        ),
        pytest.param({"epochs": -1}, ValueError, "epochs of at least 0, got -1", id="epochs"),
        pytest.param({"batch_rows": 0}, ValueError, "batch_rows of at least 1, got 0", id="batch"),
        pytest.param({"seed": -1}, ValueError, "seed of at least 0, got -1", id="seed"),
        pytest.param({"learning_rate": 0}, ValueError, "learning_rate as a positive number, got 0", id="rate"),
        pytest.param({"held_out": 0}, ValueError, "held_out as a positive number, got 0", id="nothing-held-out"),
        pytest.param({"held_out": 1.0}, ValueError, "held_out that leaves inputs of 400 on either side", id="all-held"),
        pytest.param(
            {"held_out": 1e-3}, ValueError, "held_out that leaves inputs of 400 on either side", id="none-held"
        ),
        pytest.param(
            {"back": _Gives(lambda x: x.sum(dim=1))},
            ValueError,
            r"a back that gives logits \[100, classes\], got shape \(100,\)",
            id="1d-out",
        ),
        pytest.param(
            {"back": _Gives(lambda x: [x])},
            ValueError,
            r"a back that gives logits \[100, classes\], got shape \(\)",
            id="list",
        ),
        pytest.param(
            {"back": _Gives(lambda x: x / 0)},
            ValueError,
            "a back that gives finite logits, got NaN or infinity",
            id="infinite",
        ),
        pytest.param(
            {"labels": np.full(400, 7), "back": _Gives(lambda x: torch.eye(20)[torch.zeros(len(x)).long()])},
            ValueError,
            "a back that is right on some of y held out, got none of 100",
            id="never-right",
        ),
        pytest.param(
            {"back": _Gives(lambda x: x.sign().log() if x.requires_grad else x[:, :4])},
            ValueError,
            "a finite loss in training, got nan; lower learning_rate",
            id="loss",
        ),
    ],
)
def test_refuses(sides: dict[str, Any], change: dict[str, Any], kind: type, message: str) -> None:
    given = {name: sides[name] for name in ("x", "y", "back", "labels")} | change
    with pytest.raises(kind, match=rf"^\[stitching\] expected {message}"):
        repsim.stitching(**given)


def test_back_is_left_as_it_was_after_an_error(sides: dict[str, Any]) -> None:
    back = nn.Sequential(nn.Dropout(0.5), nn.Linear(20, 2)).train()
    with pytest.raises(ValueError, match="the classes of back"):
        repsim.stitching(sides["x"], sides["y"], back, sides["labels"])
    assert all(part.training for part in back.modules())
