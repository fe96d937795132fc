"""Similarities of attention, head by head and together, and attention between words."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import repsim
from repsim.measures.registry import INVARIANCES, REGISTRY

BY_HEAD = ("attention_frobenius", "attention_pearson", "attention_jensen_shannon")
NAMES = (*BY_HEAD, "attention_cka", "attention_svcca")


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def attention(seed: int = 0, inputs: int = 4, heads: int = 3, tokens: int = 5, *, causal: bool = False) -> np.ndarray:
    logits = 2 * np.random.default_rng([seed, inputs, heads, tokens]).standard_normal((inputs, heads, tokens, tokens))
    return softmax(np.where(np.tri(tokens, dtype=bool), logits, -np.inf) if causal else logits)


def ragged(seed: int = 0, heads: int = 3) -> list[np.ndarray]:
    return [attention(seed, 1, heads, tokens)[0] for tokens in (2, 7, 4)]


def related(x: Any, heads: int) -> list[np.ndarray]:
    """Mixtures of the heads of x with noise: more alike than two at random."""
    random = np.random.default_rng(heads)
    mix = softmax(2 * random.standard_normal((heads, len(x[0]))))
    noise = [softmax(random.standard_normal((heads, *one.shape[1:]))) for one in x]
    return [0.8 * np.tensordot(mix, one, axes=1) + 0.2 * more for one, more in zip(x, noise, strict=True)]


# ---------------------------------------------------------------------------------------------- oracles


def head_frobenius(a: np.ndarray, b: np.ndarray) -> float:
    return 1 - math.sqrt(sum((p - q) ** 2 for p, q in zip(a.ravel(), b.ravel(), strict=True)))


def head_pearson(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


def head_jensen_shannon(a: np.ndarray, b: np.ndarray) -> float:
    from scipy.spatial.distance import jensenshannon

    return 1 - float(np.mean([jensenshannon(p, q) ** 2 for p, q in zip(a, b, strict=True)]))


HEADS = dict(zip(BY_HEAD, (head_frobenius, head_pearson, head_jensen_shannon), strict=True))


def by_head(x: Any, y: Any, similarity: Callable[[np.ndarray, np.ndarray], float]) -> float:
    """mean_h max_h' mean_s, as it is written."""
    best = [
        max(np.mean([similarity(a[h], b[other]) for a, b in zip(x, y, strict=True)]) for other in range(len(y[0])))
        for h in range(len(x[0]))
    ]
    return float(np.mean(best))


def pairs_of_tokens(x: Any) -> np.ndarray:
    return np.array([one[:, q, k] for one in x for q in range(one.shape[1]) for k in range(one.shape[2])])


def kornblith(x: np.ndarray, y: np.ndarray) -> float:
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    return float(np.linalg.norm(x.T @ y) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))


# ---------------------------------------------------------------------------------------------- values

SIDES = [
    pytest.param(attention(0), attention(1), id="unrelated"),
    pytest.param(attention(0), attention(1, heads=6), id="more-heads"),
    pytest.param(attention(0, heads=1), attention(1, heads=1), id="one-head"),
    pytest.param(attention(0, inputs=1), attention(1, inputs=1), id="one-input"),
    pytest.param(attention(0, causal=True), attention(1, causal=True), id="causal"),
    pytest.param(attention(0)[..., :2, :] * 1, attention(1)[..., :2, :] * 1, id="fewer-queries-than-keys"),
    pytest.param(ragged(0), ragged(1, heads=2), id="ragged"),
    pytest.param(ragged(0), related(ragged(0), 4), id="related"),
]


@pytest.mark.parametrize(("x", "y"), SIDES)
@pytest.mark.parametrize("name", BY_HEAD)
def test_head_by_head(name: str, x: Any, y: Any) -> None:
    for a, b in ((x, y), (y, x)):
        found = getattr(repsim, name)(a, b)
        assert found == pytest.approx(by_head(a, b, HEADS[name]), rel=1e-10)
        assert (found.measure, found.n) == (name, len(x))


@pytest.mark.parametrize(("x", "y"), SIDES)
def test_all_heads_together(x: Any, y: Any) -> None:
    left, right = pairs_of_tokens(x), pairs_of_tokens(y)
    assert np.array_equal(repsim.attention_rows(x), left)
    found = repsim.attention_cka(x, y)
    assert found == pytest.approx(kornblith(left, right), rel=1e-10)
    assert found == pytest.approx(float(repsim.cka(left, right, estimator="biased")), rel=1e-9)
    assert repsim.attention_cka(x, y, threads=1) == found


def raghu(x: np.ndarray, y: np.ndarray, share: float, wu: bool) -> float:
    """Mean canonical correlation of principal components, by singular vectors of the rows themselves."""
    bases = []
    for side in (x, y):
        centred = side - side.mean(axis=0)
        u, s, _ = np.linalg.svd(centred / centred.std(axis=0) if wu else centred, full_matrices=False)
        before = int((np.cumsum(s**2) < share * np.sum(s**2)).sum())
        bases.append(u[:, : before if wu else before + 1])
    return float(np.linalg.svd(bases[0].T @ bases[1], compute_uv=False).mean())


@pytest.mark.parametrize(("x", "y"), [case for case in SIDES if case.id != "one-head"])
@pytest.mark.parametrize("variance", [0.99, 0.7])
@pytest.mark.parametrize("variant", ["raghu2017", "wu2020"])
def test_svcca_of_all_heads(x: Any, y: Any, variance: float, variant: str) -> None:
    left, right = pairs_of_tokens(x), pairs_of_tokens(y)
    found = repsim.attention_svcca(x, y, variance=variance, variant=variant)
    assert found == pytest.approx(raghu(left, right, variance, variant == "wu2020"), rel=1e-9)
    assert found == pytest.approx(float(repsim.svcca(left, right, variance=variance, variant=variant)), rel=1e-9)
    assert found.options == {"variance": variance, "variant": variant}
    assert (found.measure, found.n) == ("attention_svcca", len(x))


def test_svcca_refuses() -> None:
    x, y = attention(0), attention(1)
    with pytest.raises(ValueError, match=r"^\[attention_svcca\] expected variance of at most 1, got 2$"):
        repsim.attention_svcca(x, y, variance=2)
    with pytest.raises(ValueError, match=r"^\[attention_svcca\] expected variant 'raghu2017' or 'wu2020', got 'wu'$"):
        repsim.attention_svcca(x, y, variant="wu")
    with pytest.raises(ValueError, match=r"^\[attention_svcca\] expected"):
        repsim.attention_svcca(x, np.full(x.shape, 1 / 5))
    one = attention(0, heads=1)
    with pytest.raises(ValueError, match=r"^\[attention_svcca\] expected"):
        repsim.attention_svcca(one, one, variant="wu2020")


def test_golden() -> None:
    """By hand: attention to oneself, to the other, and to both alike."""
    oneself, other, both = np.eye(2), np.eye(2)[::-1], np.full((2, 2), 0.5)
    x = np.stack([oneself, other])[None]
    assert repsim.attention_frobenius(x, x[:, :1]) == 1 - (0 + 2) / 2
    assert repsim.attention_pearson(x, x[:, :1]) == 0  # 1 and -1
    assert repsim.attention_jensen_shannon(x, x[:, :1]) == pytest.approx(1 - math.log(2) / 2)
    assert repsim.attention_frobenius(x, both[None, None]) == 0
    distance = 0.5 * math.log(4 / 3) + 0.5 * (0.5 * math.log(2 / 3) + 0.5 * math.log(2))
    assert repsim.attention_jensen_shannon(x, both[None, None]) == pytest.approx(1 - distance)
    assert repsim.attention_cka(x, x[:, :1]) == pytest.approx(1)  # centred, one is the other's negative


def test_the_best_head_is_that_of_all_inputs() -> None:
    """Another head wins on each input: the mean over inputs comes before the maximum over heads."""
    one, two = attention(0, 2, 1), attention(1, 2, 1)
    y = np.concatenate([np.stack([one[0], two[1]]), np.stack([two[0], one[1]])], axis=1)
    for name in BY_HEAD:
        assert getattr(repsim, name)(one, y) < 0.99
        assert getattr(repsim, name)(one, np.concatenate([y, one], axis=1)) == pytest.approx(1, abs=1e-12)


# ---------------------------------------------------------------------------------------------- properties


@pytest.mark.parametrize("name", NAMES)
def test_the_account_of_it(name: str) -> None:
    account, function = REGISTRY[name], getattr(repsim, name)
    assert (account.family, account.takes, account.kind) == ("attention", "attention", "similarity")
    for seed in range(4):
        x = attention(seed)
        y = np.stack(related(x, 4))
        found = function(x, y)
        assert isinstance(found, repsim.Similarity)
        assert account.low - 1e-12 <= found <= account.high + 1e-12
        assert function(x, x) == pytest.approx(account.self_value, abs=1e-12)
        assert (function(y, x) == pytest.approx(float(found), rel=1e-9)) == account.symmetric
        assert math.isnan(found.p)


def mapped(x: np.ndarray, how: str) -> np.ndarray:
    """Heads as columns."""
    random = np.random.default_rng(3)
    h = x.shape[1]
    q = np.linalg.qr(random.standard_normal((h, h)))[0]
    linear = q * np.linspace(0.5, 3, h) @ np.linalg.qr(random.standard_normal((h, h)))[0]
    if how == "isotropic_scaling":
        return 3.7 * x
    if how == "translation":
        return x + random.uniform(0.1, 0.4, h)[:, None, None]
    matrix = {"permutation": np.eye(h)[::-1], "orthogonal": q}.get(how, linear)
    moved = np.einsum("shqk,hg->sgqk", x, matrix)
    return moved + random.uniform(0.1, 0.4, h)[:, None, None] if how == "affine" else moved


@pytest.mark.parametrize("how", INVARIANCES)
@pytest.mark.parametrize("name", NAMES)
def test_invariances(name: str, how: str) -> None:
    """Those declared hold for heads, on either side; the others fail, or leave no distributions to compare."""
    function, account = getattr(repsim, name), REGISTRY[name]
    x = attention(0)
    y = np.stack(related(x, 4))
    before = function(x, y)
    if name == "attention_jensen_shannon" and how != "permutation":
        with pytest.raises(ValueError, match=r"negative attention|1 in all"):
            function(mapped(x, how), y)
        assert how not in account.invariances
        return
    apart = max(abs(function(mapped(x, how), y) - before), abs(function(x, mapped(y, how)) - before))
    assert apart < 1e-10 if how in account.invariances else apart > 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_dtypes_and_containers(name: str, tmp_path: Path) -> None:
    function = getattr(repsim, name)
    x, y = attention(0), attention(1)
    for dtype in (np.float16, np.float32):
        narrow = x.astype(dtype)
        assert function(narrow, y) == function(narrow.astype(np.float64), y)
    brain = torch.from_numpy(x).bfloat16()
    assert function(brain, y) == function(brain.double().numpy(), y)
    assert function(list(brain), tuple(y)) == function(brain, y)
    np.save(tmp_path / "x.npy", x)
    assert function(np.load(tmp_path / "x.npy", mmap_mode="r"), y) == function(x, y)
    strided = np.ascontiguousarray(x.swapaxes(0, 1)).swapaxes(0, 1)
    assert function(strided, y) == function(x, y)


def test_attention_of_a_transformer() -> None:
    """What transformers returns for a layer goes in as it is."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=16, vocab_size=50,
        attn_implementation="eager",
    )  # fmt: skip
    with torch.no_grad():
        layers = BertModel(config).eval()(torch.randint(0, 50, (3, 6)), output_attentions=True).attentions
    assert layers[0].shape == (3, 4, 6, 6)
    for name in NAMES:
        assert getattr(repsim, name)(layers[0], layers[0]) == pytest.approx(1, abs=1e-6)
        assert getattr(repsim, name)(layers[0], layers[1]) < 1


# ---------------------------------------------------------------------------------------------- words


def oracle_words(a: np.ndarray, words: list[int]) -> np.ndarray:
    count = max(words) + 1
    out = np.zeros((len(a), count, count))
    for h, q, k in np.ndindex(out.shape):
        queries = [t for t, word in enumerate(words) if word == q]
        keys = [t for t, word in enumerate(words) if word == k]
        out[h, q, k] = np.mean([sum(a[h, t, s] for s in keys) for t in queries])
    return out


@pytest.mark.parametrize(
    "words",
    [
        pytest.param([0, 1, 1, 2, 2, 2, 3], id="pieces"),
        pytest.param([0, 1, 2, 3, 4, 5, 6], id="whole-words"),
        pytest.param([0] * 7, id="one-word"),
        pytest.param([2, 0, 1, 1, 0, 2, 2], id="apart"),
    ],
)
def test_word_attention(words: list[int]) -> None:
    a = ragged()[1]
    found = repsim.word_attention(a, words)
    assert found == pytest.approx(oracle_words(a, words), rel=1e-12)
    assert found.sum(axis=-1) == pytest.approx(np.ones(found.shape[:2]), rel=1e-12)
    assert np.array_equal(repsim.word_attention(a[1], np.array(words)), found[1])
    assert repsim.word_attention(torch.from_numpy(a), words) == pytest.approx(found, rel=1e-12)


def test_words_are_not_pieces_summed_twice() -> None:
    a = np.array([[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.4, 0.4, 0.2]])
    assert repsim.word_attention(a, [0, 0, 1]) == pytest.approx(np.array([[0.75, 0.25], [0.8, 0.2]]))


# ---------------------------------------------------------------------------------------------- errors


def changed(what: str) -> Any:
    y = attention(1)
    invalid = y.copy()
    invalid[2, 1, 0, 0] = np.nan
    return {
        "three-dimensional": y[0],
        "text": "attention",
        "empty": [],
        "inputs": y[1:],
        "tokens": [*y[:3], attention(1, 1, 3, 6)[0]],
        "heads": [*y[:3], y[3][:2]],
        "flat": [*y[:3], y[3][0]],
        "no-tokens": [*y[:3], y[3][:, :0]],
        "nan": invalid,
        "integers": y.astype(np.int64),
    }[what]


@pytest.mark.parametrize(
    ("what", "kind", "message"),
    [
        pytest.param(
            "three-dimensional", ValueError, r"y as an array \[inputs, .* of shape \(3, 5, 5\)", id="three-dimensional"
        ),
        pytest.param("text", ValueError, r"y as an array .*, got str of shape \(\)", id="text"),
        pytest.param("empty", ValueError, "y with at least one input, got none", id="empty"),
        pytest.param("inputs", ValueError, "y with 4 inputs like x, got 3", id="inputs"),
        pytest.param("tokens", ValueError, r"y\[3\] over 5 x 5 tokens like x\[3\], got 6 x 6", id="tokens"),
        pytest.param("heads", ValueError, r"y\[3\] with 3 heads like y\[0\], got 2", id="heads"),
        pytest.param("flat", ValueError, r"y\[3\] as an array \[heads, .*, got shape \(5, 5\)", id="one-head-flat"),
        pytest.param("no-tokens", ValueError, r"y\[3\] as an array .*, got shape \(3, 0, 5\)", id="no-tokens"),
        pytest.param("nan", ValueError, r"y\[2\] with finite values, got NaN or infinity", id="nan"),
        pytest.param("integers", TypeError, r"y\[0\] of dtype float16, .*, got int64", id="integers"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_bad_attention(name: str, what: str, kind: type, message: str) -> None:
    with pytest.raises(kind, match=rf"^\[{name}\] expected {message}"):
        getattr(repsim, name)(attention(0), changed(what))


def test_bad_rows() -> None:
    with pytest.raises(ValueError, match=r"^\[attention_rows\] expected attention\[2\] with finite values"):
        repsim.attention_rows(changed("nan"))
    with pytest.raises(ValueError, match=r"^\[attention_rows\] expected attention as an array \[inputs"):
        repsim.attention_rows(np.eye(3))


def test_attention_that_is_no_distribution() -> None:
    x, logits = attention(0), np.random.default_rng(0).standard_normal((4, 3, 5, 5))
    message = r"^\[attention_jensen_shannon\] expected y\[0\] without negative attention, got -"
    with pytest.raises(ValueError, match=message):
        repsim.attention_jensen_shannon(x, logits)
    padded = x.copy()
    padded[1, :, 4] = 0
    message = r"^\[attention_jensen_shannon\] expected x\[1\] with attention of 1 in all for a query, got 0$"
    with pytest.raises(ValueError, match=message):
        repsim.attention_jensen_shannon(padded, x)
    assert repsim.attention_frobenius(padded, x) < 1  # the others take any numbers


def test_heads_that_do_not_vary() -> None:
    x, uniform = attention(0), attention(1)
    uniform[3, 2] = 1 / 5
    message = r"^\[attention_pearson\] expected y\[3\] whose heads all vary, got zero variance in head 2$"
    with pytest.raises(ValueError, match=message):
        repsim.attention_pearson(x, uniform)
    with pytest.raises(ValueError, match=r"^\[attention_pearson\] expected x\[0\] .* in head 0$"):
        repsim.attention_pearson([np.ones((2, 1, 1))], [np.ones((2, 1, 1))])
    message = r"^\[attention_cka\] expected y with heads that vary, got zero variance$"
    with pytest.raises(ValueError, match=message):
        repsim.attention_cka(x, np.full(x.shape, 1 / 5))


@pytest.mark.parametrize(
    ("shape", "words", "kind", "message"),
    [
        pytest.param(
            (3, 4, 5), [0] * 5, ValueError, r"attention as an array .*, got shape \(3, 4, 5\)", id="not-square"
        ),
        pytest.param((2, 3, 4, 4), [0] * 4, ValueError, r"attention as an array .*, got shape \(2, 3", id="all-inputs"),
        pytest.param((3, 4, 4), [0, 1, 1], ValueError, "words for each of 4 tokens, got 3", id="length"),
        pytest.param(
            (3, 4, 4), [0, 1, 1, 3], ValueError, r"words numbered from 0 without gaps, got \[0, 1, 3\]", id="gap"
        ),
        pytest.param(
            (3, 4, 4), [-1, 0, 0, 1], ValueError, r"words numbered from 0 .*, got \[-1, 0, 1\]", id="negative"
        ),
        pytest.param((3, 4, 4), [None, 0, 0, 1], TypeError, "words as ints, got .*; give special tokens", id="none"),
    ],
)
def test_bad_words(shape: tuple[int, ...], words: list[Any], kind: type, message: str) -> None:
    with pytest.raises(kind, match=rf"^\[word_attention\] expected {message}"):
        repsim.word_attention(np.ones(shape), words)
