"""What Wu et al. (2020) find between language models, in direction, between small networks trained on digits.

Their models, texts and numbers are not here: the networks have two hidden layers and train for a fraction of a second.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import repsim

Array = np.ndarray
STEPS = 80


class Network(nn.Module):
    """64 pixels, 24 units with tanh, 16 units without, 10 classes: the second layer may be turned."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second, self.last = nn.Linear(64, 24), nn.Linear(24, 16), nn.Linear(16, 10)

    def layers(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        one = torch.tanh(self.first(images))
        return one, self.second(one)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(self.layers(images)[1])


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    from sklearn.datasets import load_digits

    found = load_digits()
    return torch.from_numpy(found.data / 16).float(), torch.from_numpy(found.target)


def trained(network: Network, images: torch.Tensor, labels: torch.Tensor) -> Network:
    adam = torch.optim.Adam(network.parameters(), lr=0.003)
    for _ in range(STEPS):
        adam.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        adam.step()
    return network


@pytest.fixture(scope="module")
def networks() -> dict[str, Network]:
    """Three from one start, each on other images; two more from starts of their own; two that were not trained."""
    images, labels = digits()
    thirds = [slice(third, 1400, 3) for third in range(3)]
    found = {f"third {i}": trained(Network(0), images[third], labels[third]) for i, third in enumerate(thirds)}
    others = {f"start {seed}": trained(Network(seed), images[thirds[0]], labels[thirds[0]]) for seed in (1, 2)}
    return {**found, **others, "untrained 3": Network(3), "untrained 4": Network(4)}


def representation(network: Network, layer: int) -> Array:
    """Of images that none was trained on."""
    with torch.no_grad():
        return network.layers(digits()[0][1400:])[layer].double().numpy()


def test_they_have_learned(networks: dict[str, Network]) -> None:
    images, labels = digits()
    with torch.no_grad():
        right = {
            name: float((one(images[1400:]).argmax(1) == labels[1400:]).float().mean())
            for name, one in networks.items()
        }
    assert min(value for name, value in right.items() if "untrained" not in name) > 0.7
    assert max(value for name, value in right.items() if "untrained" in name) < 0.3


@pytest.mark.parametrize("measure", ["maxcorr", "linreg", "svcca", "pwcca", "cka"])
def test_trained_networks_are_alike(networks: dict[str, Network], measure: str) -> None:
    """Each of three pairs of trained networks more than any pair of a trained and an untrained one."""
    of = {name: representation(one, 1) for name, one in networks.items()}
    function = getattr(repsim, measure)
    starts, untrained = ["third 0", "start 1", "start 2"], ["untrained 3", "untrained 4"]
    alike = [function(of[a], of[b]) for a in starts for b in starts if a != b]
    apart = [function(*sides) for a in starts for b in untrained for sides in ((of[a], of[b]), (of[b], of[a]))]
    assert min(alike) > max(apart)


def test_neurons_recur_where_networks_start_alike(networks: dict[str, Network]) -> None:
    """maxcorr sees that single units are the same; svcca sees less of a difference."""
    of = {name: representation(one, 1) for name, one in networks.items()}
    for other in ("start 1", "start 2"):
        gains = [
            measure(of["third 0"], of["third 1"]) - measure(of["third 0"], of[other])
            for measure in (repsim.maxcorr, repsim.svcca)
        ]
        assert gains[0] > 0.1
        assert gains[0] > 2 * gains[1]


def turned(network: Network, seed: int) -> Network:
    """The same function with its second layer turned."""
    q = torch.from_numpy(np.linalg.qr(np.random.default_rng(seed).standard_normal((16, 16)))[0]).float()
    other = Network(0)
    other.load_state_dict(network.state_dict())
    with torch.no_grad():
        other.second.weight.copy_(q @ network.second.weight)
        other.second.bias.copy_(q @ network.second.bias)
        other.last.weight.copy_(network.last.weight @ q.T)
    return other


def test_localization_is_of_neurons_and_not_of_functions(networks: dict[str, Network]) -> None:
    """Networks turned within give the same answers and span the same subspaces, but their neurons do not recur."""
    images = digits()[0][1400:]
    straight = [networks[f"third {i}"] for i in range(3)]
    around = [turned(network, seed) for seed, network in enumerate(straight)]
    with torch.no_grad():
        for network, other in zip(straight, around, strict=True):
            torch.testing.assert_close(network(images), other(images), atol=1e-4, rtol=1e-4)
    pool = [representation(network, 1) for network in (*straight, *around)]
    neurons, subspaces = ([[getattr(repsim, name)(a, b) for b in pool] for a in pool] for name in ("maxcorr", "svcca"))
    score = repsim.localization_score(neurons, subspaces)
    assert (score[:3] - score[3:]).min() > 0.5  # each network and itself turned
