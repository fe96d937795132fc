"""repsim.streaming: the same numbers as of all rows at once, whatever the batches; nothing lost by a refused batch."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import oracles
import pytest

import repsim
from repsim.streaming import LinearCKA, MinibatchCKA

Batch = tuple[np.ndarray, np.ndarray]


def pair(n: int, d: int, e: int, seed: int = 0) -> Batch:
    rng = np.random.default_rng([seed, n, d, e])
    common = rng.standard_normal((n, 3))
    x = common @ rng.standard_normal((3, d)) + rng.standard_normal((n, d))
    return x, np.tanh(common @ rng.standard_normal((3, e))) + rng.standard_normal((n, e))


def batches(x: np.ndarray, y: np.ndarray, *sizes: int) -> Iterator[Batch]:
    """Batches of these sizes, over and over."""
    start = turn = 0
    while start < len(x):
        stop = start + sizes[turn % len(sizes)]
        yield x[start:stop], y[start:stop]
        start, turn = stop, turn + 1


def numbers(result: repsim.Similarity) -> tuple[float, ...]:
    return (result.value, result.null.mean, result.null.sd, result.p)


# ---------------------------------------------------------------------------------------------- the whole stream

SIZES = [
    pytest.param((1,), id="single-rows"),
    pytest.param((3, 500, 7), id="mixed"),
    pytest.param((255,), id="just-what-the-origin-waits-for"),
    pytest.param((1024,), id="just-the-room"),
    pytest.param((100_000,), id="all-at-once"),
]


@pytest.mark.parametrize("estimator", ["debiased", "biased"])
@pytest.mark.parametrize("n", [5, 255, 256, 1300])
def test_the_same_numbers_as_of_all_rows(n: int, estimator: str) -> None:
    x, y = pair(n, 4, 3)
    whole = repsim.cka(x, y, estimator=estimator)
    stream = LinearCKA(estimator=estimator).consume(batches(x, y, 100))
    assert stream.value == pytest.approx(whole.value, rel=0, abs=1e-12)
    assert stream.z == pytest.approx(whole.z, rel=1e-9)
    # Both take the skewness from evenly spaced rows, which are the same ones where the stream has kept every row.
    assert stream.p == pytest.approx(whole.p, rel=1e-6 if n < 510 else 0.2)
    assert (stream.measure, stream.n, dict(stream.options)) == (whole.measure, whole.n, dict(whole.options))
    assert stream.value == pytest.approx(oracles.cka(x, y, estimator), abs=1e-12)


@pytest.mark.parametrize("sizes", SIZES)
def test_no_bit_depends_on_the_batches(sizes: tuple[int, ...]) -> None:
    x, y = pair(2500, 6, 5)
    first = LinearCKA(threads=1).consume(batches(x, y, 777))
    assert numbers(LinearCKA(threads=3).consume(batches(x, y, *sizes))) == numbers(first)


@pytest.mark.parametrize(
    ("change", "tolerance"),
    [
        pytest.param(lambda x: x + 1e6, 1e-9, id="far-from-the-origin"),
        pytest.param(lambda x: x + 1e6 * (np.arange(len(x)) >= 300)[:, None], 1e-9, id="first-rows-elsewhere"),
        pytest.param(lambda x: x + np.arange(len(x))[:, None], 1e-11, id="drift"),
        pytest.param(lambda x: x.astype(np.float32), 1e-12, id="float32"),
    ],
)
def test_streams_that_move(change: Callable[[np.ndarray], np.ndarray], tolerance: float) -> None:
    x, y = pair(3000, 5, 4)
    x = change(x)
    got = LinearCKA().consume(batches(x, y, 400))
    assert got.value == pytest.approx(oracles.cka(x, y), abs=tolerance)


@pytest.mark.parametrize("sizes", [(2600, 1400), (100, 3900), (3900, 100), (40, 50)], ids=str)
def test_workers_share_a_stream(sizes: tuple[int, int]) -> None:
    n = sum(sizes)
    x, y = pair(n, 6, 5)
    x[: sizes[0]] += 40  # so that the two have origins of their own
    first, second = LinearCKA(), LinearCKA()
    first.update(x[: sizes[0]], y[: sizes[0]])
    second.update(x[sizes[0] :], y[sizes[0] :])
    alone = second.finish()
    first.merge(pickle.loads(pickle.dumps(second)))
    whole = repsim.cka(x, y)
    assert len(first) == n
    assert first.finish().value == pytest.approx(whole.value, abs=1e-12)
    assert first.finish().z == pytest.approx(whole.z, rel=1e-9)
    assert second.finish().value == alone.value, "the other is left as it was"


def test_merging_with_nothing() -> None:
    x, y = pair(700, 4, 3)
    full = LinearCKA().update(x, y)
    assert numbers(LinearCKA().merge(full).finish()) == numbers(full.finish())
    assert numbers(full.merge(LinearCKA()).finish()) == numbers(full.finish())


@pytest.mark.parametrize("seen", [3, 300, 1800])
def test_a_pickled_stream_goes_on(seen: int) -> None:
    x, y = pair(2000, 6, 5)
    stream = LinearCKA().update(x[:seen], y[:seen])
    again = pickle.loads(pickle.dumps(stream))
    for one in (stream, again):
        one.update(x[seen:], y[seen:])
    assert numbers(again.finish()) == numbers(stream.finish())


def test_finishing_is_no_end() -> None:
    x, y = pair(2000, 6, 5)
    stream = LinearCKA()
    for number, (a, b) in enumerate(batches(x, y, 500)):
        stream.update(a, b)
        so_far = repsim.cka(x[: 500 * (number + 1)], y[: 500 * (number + 1)])
        assert stream.finish().value == pytest.approx(so_far.value, abs=1e-12)


def test_the_state_does_not_grow_with_the_stream() -> None:
    x, y = pair(5000, 6, 5)
    stream = LinearCKA().update(x[:2000], y[:2000])
    early = len(pickle.dumps(stream))
    for a, b in batches(x[2000:], y[2000:], 1, 200):
        stream.update(a, b)
    assert len(pickle.dumps(stream)) < early + 1024 * 96 * 8 + 509 * 200


def test_inputs_are_not_held() -> None:
    x, y = pair(400, 4, 3)
    a, b = x.copy(), y.copy()
    stream = LinearCKA().update(a[:100], b[:100])
    a[:] = b[:] = 7.0
    stream.update(x[100:], y[100:])
    assert stream.finish().value == pytest.approx(repsim.cka(x, y).value, abs=1e-12)


# ---------------------------------------------------------------------------------------------- refusals


def nan_at(x: np.ndarray, row: int) -> np.ndarray:
    x = x.copy()
    x[row, 1] = np.nan
    return x


REFUSED = [
    pytest.param(lambda x, y: (x[:, :3], y), ValueError, "x with 4 columns like the batches before, got 3", id="width"),
    pytest.param(lambda x, y: (x, y[:-1]), ValueError, "y with 600 rows like x, got 599", id="lengths"),
    pytest.param(lambda x, y: (nan_at(x, 599), y), ValueError, "x .*NaN or infinity in row {last}", id="nan-in-x"),
    pytest.param(lambda x, y: (x, nan_at(y, 0)), ValueError, "y .*NaN or infinity in row {first}", id="nan-in-y"),
    pytest.param(lambda x, y: (x * 1e80, y), ValueError, "x with values between about 1e-70", id="too-large"),
    pytest.param(lambda x, y: (x.tolist(), y), TypeError, "x as an array", id="no-array"),
]


@pytest.mark.parametrize("seen", [0, 100, 800, 1000], ids="after-{}".format)
@pytest.mark.parametrize(("spoil", "error", "message"), REFUSED)
def test_a_refused_batch_leaves_everything(
    spoil: Callable[..., Any], error: type[Exception], message: str, seen: int
) -> None:
    x, y = pair(1700, 4, 3)
    if seen == 0 and "like the batches" in message:
        return  # the first batch has the widths it has
    stream, clean = LinearCKA(), LinearCKA()
    for one in (stream, clean):
        if seen:
            one.update(x[:seen], y[:seen])
    with pytest.raises(error, match=r"\[LinearCKA.update\] expected " + message.format(first=seen, last=seen + 599)):
        stream.update(*spoil(x[seen : seen + 600], y[seen : seen + 600]))
    assert len(stream) == seen
    for one in (stream, clean):
        one.update(x[seen:], y[seen:])
    assert numbers(stream.finish()) == numbers(clean.finish())


def test_what_else_is_refused() -> None:
    x, y = pair(500, 4, 3)
    with pytest.raises(ValueError, match=r"\[LinearCKA\] expected estimator 'debiased' or 'biased', got 'best'"):
        LinearCKA(estimator="best")
    with pytest.raises(ValueError, match=r"\[LinearCKA.finish\] expected at least 4 rows .*, got 3"):
        LinearCKA().update(x[:3], y[:3]).finish()
    with pytest.raises(ValueError, match=r"\[LinearCKA.finish\] expected at least 2 rows .*, got 0"):
        LinearCKA(estimator="biased").finish()
    with pytest.raises(ValueError, match=r"\[LinearCKA.finish\] expected y .* zero variance \(all 500 rows"):
        LinearCKA().update(x, np.full_like(y, 0.1)).finish()
    heavy = x.copy()
    heavy[5] *= 1e9
    with pytest.raises(ValueError, match=r"\[LinearCKA.finish\] expected x without a row that outweighs all others"):
        LinearCKA().update(heavy, y).finish()
    with pytest.raises(TypeError, match=r"\[LinearCKA.merge\] expected a LinearCKA, got float"):
        LinearCKA().merge(1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\[LinearCKA.merge\] expected rows of widths \[4, 3\], got \[3, 4\]"):
        LinearCKA().update(x, y).merge(LinearCKA().update(y, x))


# ---------------------------------------------------------------------------------------------- minibatches


@pytest.mark.parametrize(
    "kernel", ["linear", "rbf", repsim.RBF(sigma=2.0)], ids=["linear", "rbf-median-of-the-batch", "rbf-sigma"]
)
def test_one_batch_is_debiased_cka(kernel: Any) -> None:
    x, y = pair(200, 6, 5)
    one, whole = MinibatchCKA(kernel=kernel).update(x, y).finish(), repsim.cka(x, y, kernel=kernel)
    assert one.value == pytest.approx(whole.value, abs=1e-14)
    assert one.z == pytest.approx(whole.z, rel=1e-9)
    assert one.p == pytest.approx(whole.p, rel=1e-6)
    assert (one.measure, one.n, one.options["batches"], one.precision) == ("minibatch_cka", 200, 1, whole.precision)


def test_terms_are_averaged_before_they_are_normalised() -> None:
    x, y = pair(300, 5, 4)
    parts = list(batches(x, y, 40, 100))
    got = MinibatchCKA().consume(iter(parts))

    def mean(terms: Iterator[float]) -> float:
        return float(np.mean(list(terms)))

    xy = mean(oracles.hsic(a, b) for a, b in parts)
    norm = math.sqrt(mean(oracles.hsic(a, a) for a, _ in parts) * mean(oracles.hsic(b, b) for _, b in parts))
    assert got.value == pytest.approx(xy / norm, abs=1e-12)
    assert got.options["batches"] == len(parts)
    assert got.value != pytest.approx(np.mean([repsim.cka(a, b).value for a, b in parts]), abs=1e-6)


def test_the_null_relabels_within_batches() -> None:
    x, y = pair(90, 5, 4, seed=3)
    parts = list(batches(x, y, 30))
    got = MinibatchCKA().consume(parts)
    rng = np.random.default_rng(0)
    values = [
        MinibatchCKA(threads=1).consume((a, b[rng.permutation(len(b))]) for a, b in parts).value for _ in range(600)
    ]
    assert got.null_from == "all relabellings within batches"
    assert np.mean(values) == pytest.approx(got.null.mean, abs=4 * got.null.sd / math.sqrt(600))
    assert np.std(values) == pytest.approx(got.null.sd, rel=0.15)
    skewness = np.mean((np.array(values) - np.mean(values)) ** 3) / np.std(values) ** 3
    assert got.null.skewness == pytest.approx(skewness, abs=0.35)


def test_minibatches_merge_and_pickle() -> None:
    x, y = pair(400, 5, 4)
    whole = MinibatchCKA(kernel="rbf").consume(batches(x, y, 100))
    first, second = MinibatchCKA(kernel="rbf"), MinibatchCKA(kernel="rbf")
    first.update(x[:100], y[:100]).update(x[100:200], y[100:200])
    second.update(x[200:300], y[200:300]).update(x[300:], y[300:])
    merged = pickle.loads(pickle.dumps(first)).merge(second).finish()
    assert merged.value == pytest.approx(whole.value, abs=1e-14)
    assert merged.null.sd == pytest.approx(whole.null.sd, rel=1e-12)
    assert (merged.n, merged.options["batches"], merged.precision) == (400, 4, "float32")


def test_what_minibatches_refuse() -> None:
    x, y = pair(100, 4, 3)
    stream = MinibatchCKA().update(x, y)
    before = numbers(stream.finish())
    with pytest.raises(ValueError, match=r"\[MinibatchCKA.update\] expected x .*NaN or infinity in row 107"):
        stream.update(nan_at(x, 7), y)
    with pytest.raises(ValueError, match=r"\[MinibatchCKA.update\] expected x with at least 4 rows .*, got 3"):
        stream.update(x[:3], y[:3])
    with pytest.raises(ValueError, match=r"\[MinibatchCKA.update\] expected y with 3 columns like the batches before"):
        stream.update(x, x)
    with pytest.raises(ValueError, match=r"\[MinibatchCKA.update\] expected x .* zero variance"):
        stream.update(np.ones_like(x), y)
    assert numbers(stream.finish()) == before
    with pytest.raises(ValueError, match=r"\[MinibatchCKA.finish\] expected at least one batch, got none"):
        MinibatchCKA().finish()
    with pytest.raises(ValueError, match=r"\[MinibatchCKA.merge\] expected kernel linear, got rbf"):
        stream.merge(MinibatchCKA(kernel="rbf"))
    with pytest.raises(TypeError, match=r"\[MinibatchCKA.merge\] expected a MinibatchCKA, got LinearCKA"):
        stream.merge(LinearCKA())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"\[MinibatchCKA\] expected kernel as one of 'linear'"):
        MinibatchCKA(kernel="quadratic")
