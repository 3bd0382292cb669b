"""Noise layers: what is put where, what is computed once, what silence does."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor, nn

from robassay.classifier import Mixture
from robassay.defences.region import Region
from robassay.nets.noisy import Noise, NoisyNet, Site, fill
from robassay.rng import Stream


class Additive(Noise):
    def __init__(self, rows: Literal["shared", "independent"] = "independent") -> None:
        super().__init__()
        self.rows = rows

    def noisy(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x if self.rows == "independent" else x[:1])


def trunk() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Sequential(nn.Linear(6, 6), nn.ReLU()))


def test_fill_replaces_in_order_and_goes_inside() -> None:
    layers, seen = trunk(), []

    def make(number: int, module: nn.Module) -> nn.Module:
        seen.append(number)
        return nn.Sequential(module, Site(f"after {number}"))

    assert fill(layers, lambda m: isinstance(m, nn.ReLU), make) == 2
    assert seen == [0, 1]
    assert [m.role for m in layers.modules() if isinstance(m, Site)] == ["after 0", "after 1"]
    assert layers(torch.ones(2, 1, 2, 2)).shape == (2, 6)


@pytest.mark.parametrize(("number", "first"), [(0, 2), (1, 3)])
def test_everything_before_the_first_noise_is_the_prefix(number: int, first: int) -> None:
    layers = trunk()
    fill(layers, lambda m: isinstance(m, nn.ReLU), lambda i, m: nn.Sequential(m, Additive()) if i == number else m)
    net = NoisyNet(layers, nn.Linear(6, 3), 3)
    assert net.first == first and net.stochastic
    x = torch.rand(5, 1, 2, 2)
    with Stream(("a",)).active():
        whole = net.head(net.trunk(x))
    with Stream(("a",)).active():
        assert torch.equal(net.draw(net.prefix(x)), whole)


def test_silence_gives_the_plain_net_and_ends() -> None:
    layers = trunk()
    plain = nn.Sequential(*trunk(), nn.Linear(6, 3))
    net = NoisyNet(layers, nn.Linear(6, 3), 3)
    plain.load_state_dict({k.replace("head.", "4.").replace("trunk.", ""): v for k, v in net.state_dict().items()})
    fill(layers, lambda m: isinstance(m, nn.ReLU), lambda i, m: nn.Sequential(m, Additive()))
    net = NoisyNet(layers, net.head, 3)
    x = torch.rand(5, 1, 2, 2)
    assert torch.equal(net.quiet(net.prefix(x)), plain(x))
    assert not torch.equal(net(x), net(x))


class Extremes(Noise):
    """Noise between the extremes of the whole batch, so that mates matter."""

    coupled = True

    def noisy(self, x: Tensor) -> Tensor:
        return x + (x.max() - x.min()) * torch.rand_like(x)


def test_a_coupled_noise_behind_another_forbids_folding() -> None:
    """Folded draws of the first noise would widen the extremes that the second one sees."""
    before = nn.Sequential(Extremes(), nn.Flatten(), Additive(), nn.Linear(4, 6))
    behind = nn.Sequential(Additive(), nn.Flatten(), Extremes(), nn.Linear(4, 6))
    nets = [NoisyNet(trunk, nn.Linear(6, 3), 3) for trunk in (before, behind)]
    assert [net.rows for net in nets] == ["independent", "shared"] and all(net.coupled for net in nets)
    for wrapped in (Region(0.3).around(nets[0]), Mixture(nets[:1])):
        assert wrapped.rows == "shared" and wrapped.coupled


def test_one_shared_noise_makes_the_net_shared() -> None:
    layers = trunk()
    fill(
        layers,
        lambda m: isinstance(m, nn.ReLU),
        lambda i, m: nn.Sequential(m, Additive("shared" if i else "independent")),
    )
    assert NoisyNet(layers, nn.Linear(6, 3), 3).rows == "shared"
    assert not NoisyNet(trunk(), nn.Linear(6, 3), 3).stochastic
