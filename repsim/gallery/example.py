"""One small real example: two trained networks, one untrained, copies of a representation, and a random matrix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from repsim.data import ColorShapeDigit
from repsim.measures.registry import INVARIANCES


@dataclass(frozen=True)
class Size:
    """How much is trained, compared and drawn at random."""

    images: int = 2400  # that each network is trained on
    epochs: int = 8
    width: int = 8  # channels of the first convolution; the features are 8 times as many
    probes: int = 300  # test images on which all pairs are compared
    relabellings: int = 19  # of every null that has to be sampled; p is at least 1 / 20
    inputs: int = 200  # of the traps


FULL = Size()
SMOKE = Size(images=160, epochs=1, width=4, probes=60, relabellings=5, inputs=120)

LABELS = {
    "permutation": "A, units reordered",
    "orthogonal": "A, rotated",
    "isotropic_scaling": "A, scaled",
    "translation": "A, shifted",
    "invertible_linear": "A, linear map",
    "affine": "A, affine map",
    "seed": "A and B, other seed",
    "untrained": "A and untrained",
    "random": "A and random",
}


@dataclass(frozen=True)
class Network:
    """One network as the page names it; accuracy per attribute on new images, None where it was not trained."""

    name: str
    about: str
    accuracy: tuple[float, ...] | None
    trouble: str = ""  # why it did not learn


@dataclass(frozen=True)
class Example:
    """The representation A [n, d], and by key of LABELS what it is compared with, each [n, d]."""

    a: np.ndarray
    others: dict[str, np.ndarray]
    networks: tuple[Network, ...]
    attributes: tuple[str, ...]
    layer: str
    images: np.ndarray  # [n, 3, side, side], the probes


def copies(a: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """A copy of a representation for each invariance that a measure may declare.

    Example::

        copies(a, 0)["orthogonal"]                     # a [n, d] -> [n, d]

    The linear map stretches some directions 25 times as much as others; the shift is as long as three typical rows.
    """
    random = np.random.default_rng([seed, 1])
    d = a.shape[1]
    turn, back = (np.linalg.qr(random.standard_normal((d, d)))[0] for _ in range(2))
    linear = turn * np.geomspace(0.2, 5, d) @ back
    direction = random.standard_normal(d)
    step = direction / np.linalg.norm(direction) * 3 * np.sqrt((a**2).sum(axis=1).mean())
    made = {
        "permutation": np.ascontiguousarray(a[:, random.permutation(d)]),
        "orthogonal": a @ turn,
        "isotropic_scaling": 3 * a,
        "translation": a + step,
        "invertible_linear": a @ linear,
        "affine": a @ linear + step,
    }
    return {name: made[name] for name in INVARIANCES}


def train_example(size: Size, seed: int, say: Callable[[str], None] = lambda line: None) -> Example:
    """Train two networks that differ in their seed alone, and represent the same new images by them.

    Example: `train_example(SMOKE, seed=0).a.shape == (60, 32)`.

    Parameters: size; seed of the data, the networks and the copies; say, told what is being done.
    Returns: the example; everything in float64.
    """
    from repsim.activations import capture
    from repsim.training.vision import VisionConfig, build, evaluate, representation_layers, train

    data = ColorShapeDigit(seed=seed).labelled(range(size.images))
    probes = ColorShapeDigit(seed=seed, source="test").labelled(range(size.probes))
    config = VisionConfig(width=size.width, epochs=size.epochs, batch_size=64)
    networks, models = [], {}
    for name, own in (("A", 2 * seed), ("B", 2 * seed + 1)):
        say(f"training network {name} on {size.images} images for {size.epochs} epochs")
        trained = train(replace(config, init_seed=own, order_seed=own), data)
        models[name] = trained.model
        accuracy = tuple(evaluate(trained.model, probes))
        networks.append(Network(name, f"weights and order of images from seed {own}", accuracy, trained.reason))
    fresh = replace(config, init_seed=2 * seed + 2)
    models["untrained"] = build(fresh, data.classes, probes.images.shape[-1])
    networks.append(Network("untrained", f"weights from seed {fresh.init_seed}, never trained", None))
    layer = representation_layers(models["A"])[-1]
    rows = {name: capture(model, probes.images, [layer])[layer].astype(float) for name, model in models.items()}
    a = rows["A"]
    noise = np.random.default_rng([seed, 2]).standard_normal(a.shape)
    others = {
        **copies(a, seed),
        "seed": rows["B"],
        "untrained": rows["untrained"],
        "random": noise * np.linalg.norm(a - a.mean(axis=0)) / np.linalg.norm(noise - noise.mean(axis=0)),
    }
    return Example(a, others, tuple(networks), data.attributes, layer, probes.images)
