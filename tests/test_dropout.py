"""Dropout that stays on: its mean, its places, and what is left without it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from robassay.classifier import Classifier, Net
from robassay.defences.dropout import Drop, Dropout
from robassay.errors import UsageError
from robassay.nets.backbone import Backbone, Plain, Shape
from robassay.nets.mlp import MLP
from robassay.nets.noisy import NoisyNet, Site
from robassay.registry import named
from robassay.rng import Stream
from robassay.testing import check_classifier, exam_images

SHAPE = (3, 4, 4)
X = exam_images(8)


class Placed(Backbone):
    """A trunk with a place for dropout inside a block, and one for something else."""

    features = 10

    def trunk(self, shape: Shape, dim: int) -> nn.Module:
        block = nn.Sequential(nn.Linear(48, 12), nn.ReLU(), Site("dropout"), nn.Linear(12, dim), Site("else"))
        return nn.Sequential(nn.Flatten(), block, nn.ReLU())


def built(net: Net, classes: int = 4) -> Classifier:
    with Stream(("test", "init")).active():
        return net.build(SHAPE, classes).eval()


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_kept_units_are_scaled_so_that_the_mean_stays(rate: float) -> None:
    layer, n = Drop(rate).eval(), 1_000_000
    with Stream(("mean",)).active():
        y = layer(torch.ones(1, n))
    assert set(y.unique().tolist()) == {0.0, torch.tensor(1 / (1 - rate)).item()}
    assert abs(y.double().mean().item() - 1) < 4 * math.sqrt(rate / (1 - rate) / n)
    assert abs((y == 0).double().mean().item() - rate) < 4 * math.sqrt(rate * (1 - rate) / n)


def test_the_places_of_a_trunk_are_filled_and_no_others() -> None:
    model = built(Dropout(Placed(), 0.3))
    found = {name: m.rate for name, m in model.named_modules() if isinstance(m, Drop)}
    assert found == {"trunk.1.2": 0.3}
    assert [m.role for m in model.modules() if isinstance(m, Site)] == ["else"]
    assert isinstance(model, NoisyNet) and model.first == 1


def test_a_trunk_without_places_gets_it_in_front_of_the_head() -> None:
    model = built(Dropout(MLP((6,)), 0.5))
    assert isinstance(model, NoisyNet) and isinstance(model.trunk[-1], Drop)
    assert model.prefix(X).shape == (8, 6)  # the whole trunk is computed once
    # The head is linear: the mean of the draws is the quiet net.
    h, n = model.prefix(X), 20_000
    with torch.no_grad():
        draws = model.sample(h, n, Stream(("mean",)))
    error = (draws.mean(0) - model.quiet(h)).abs() / (draws.std(0) / math.sqrt(n))
    assert error.max() < 4.5


@pytest.mark.parametrize("net", [MLP((6,)), Placed()], ids=["head", "place"])
def test_quiet_is_the_plain_net_with_the_same_weights(net: Backbone) -> None:
    model, plain = built(Dropout(net, 0.5)), built(net)
    assert isinstance(model, NoisyNet) and isinstance(plain, Plain)
    assert torch.equal(model.quiet(model.prefix(X)), plain(X))
    assert not torch.equal(model(X), plain(X)) and not torch.equal(model.train()(X), plain(X))
    off = built(Dropout(net, 0.0))
    assert torch.equal(off(X), plain(X)) and not off.stochastic


@pytest.mark.parametrize(
    "net", [Dropout(), Dropout(MLP((6,)), 0.1), Dropout(Placed())], ids=["default", "mlp", "place"]
)
def test_it_keeps_the_contract(net: Dropout) -> None:
    model = built(net)
    assert model.stochastic and model.rows == "independent" and not model.coupled
    assert all(r.ok for r in check_classifier(model, X))


def test_it_is_registered_and_refuses_impossible_rates() -> None:
    import robassay.defences  # noqa: F401

    assert named("defences", "dropout") is Dropout
    for rate in (-0.1, 1.0, math.nan):
        with pytest.raises(UsageError, match=r"Write .* rate=0\.5"):
            Dropout(rate=rate)
