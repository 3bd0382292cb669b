"""Adv-BNN: its divergence against torch's, its limit without spread, its means before training."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from robassay.classifier import Net
from robassay.defences.adv_bnn import AdvBNN, Bayesian
from robassay.errors import UsageError
from robassay.nets.backbone import Backbone, Shape
from robassay.nets.cnn import SmallCNN
from robassay.nets.mlp import MLP
from robassay.registry import named
from robassay.rng import Stream
from robassay.testing import check_classifier, exam_images

SHAPE = (3, 8, 8)


class Normed(Backbone):
    features = 6  # type: ignore[assignment]

    def trunk(self, shape: Shape, dim: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 50, 3), nn.BatchNorm2d(50), nn.ReLU(), nn.Flatten(), nn.Linear(1800, dim))


def built(net: Net) -> Bayesian:
    with Stream(("bnn",)).active():
        model = net.build(SHAPE, 4).eval()
    assert isinstance(model, Bayesian)
    return model


def scattered(net: Net) -> Bayesian:
    model = built(net)
    with torch.no_grad(), Stream(("scatter",)).active():
        for s in model.log_spread:
            s.uniform_(-3, 0)
    return model


def test_the_divergence_is_torchs_summed_over_all_layers() -> None:
    model = scattered(AdvBNN(Normed(), prior=0.3, alpha=0.5)).double()
    pairs = list(zip(model.mean.parameters(), model.log_spread, strict=True))
    expected = sum(kl_divergence(Normal(mu, s.exp()), Normal(0.0, 0.3)).sum() for mu, s in pairs)
    assert len(pairs) == 8
    assert torch.allclose(model.divergence(), expected)  # type: ignore[arg-type]
    assert torch.allclose(model.regularizer(250), 0.5 / 250 * expected)  # type: ignore[arg-type,operator]
    assert built(AdvBNN(alpha=0)).regularizer(250) is None


def test_the_divergence_is_zero_at_the_prior_alone() -> None:
    model = built(AdvBNN(prior=0.2, spread=0.2)).double()
    with torch.no_grad():
        for mu in model.mean.parameters():
            mu.zero_()
        for s in model.log_spread:
            s.fill_(math.log(0.2))
        assert abs(model.divergence().item()) < 1e-9
        for tensor in (next(model.mean.parameters()), model.log_spread[0]):
            for sign in (1, -1):
                tensor.view(-1)[0] += sign * 0.01
                assert model.divergence().item() > 1e-5
                tensor.view(-1)[0] -= sign * 0.01


def test_without_spread_it_is_the_deterministic_net() -> None:
    model, plain, x = built(AdvBNN()), SmallCNN().build(SHAPE, 4), exam_images(3, SHAPE)
    plain.load_state_dict(model.mean.state_dict())
    assert not torch.allclose(model(x), plain(x), atol=1e-3)
    assert torch.equal(model.quiet(x), plain(x))
    with torch.no_grad():
        for s in model.log_spread:
            s.fill_(-math.inf)
    assert torch.equal(model(x), plain(x))


def test_parameters_are_twice_the_nets_and_every_one_is_drawn() -> None:
    model = built(AdvBNN(Normed()))
    plain = sum(p.numel() for p in Normed().build(SHAPE, 4).parameters())
    assert sum(p.numel() for p in model.parameters()) == 2 * plain
    gradients = torch.autograd.grad(model(exam_images(3, SHAPE)).square().sum(), list(model.log_spread))
    assert all(bool(g.any()) for g in gradients)
    assert [id(p) for p in model.undecayed()] == [id(p) for p in model.log_spread]


def test_a_drawn_parameter_has_its_mean_and_spread() -> None:
    model, n = built(AdvBNN(MLP((1,)), spread=0.5)), 4_000
    with torch.no_grad(), Stream(("drawn",)).active():
        for mu, s in zip(model.mean.parameters(), model.log_spread, strict=True):
            mu.zero_()
            s.fill_(-math.inf)
        # Only the bias of the last layer is left: it is the logits.
        last = list(model.mean.parameters())[-1]
        last.copy_(torch.tensor([1.0, -2, 0, 3]))
        model.log_spread[-1].copy_(torch.tensor([0.1, 0.5, 1, 2]).log())
        drawn = torch.cat([model(torch.zeros(1, *SHAPE)) for _ in range(n)])
    spread = torch.tensor([0.1, 0.5, 1, 2])
    assert ((drawn.mean(0) - last).abs() < 4.5 * spread / n**0.5).all()
    assert ((drawn.std(0) / spread - 1).abs() < 4.5 / (2 * n) ** 0.5).all()


def test_means_before_training_are_the_published_ones() -> None:
    model = built(AdvBNN(Normed(), spread=0.2))
    convolution, norm = model.mean.trunk[0], model.mean.trunk[1]  # type: ignore[index,union-attr]
    bound = 1 / math.sqrt(27)
    assert 0.98 * bound < convolution.weight.abs().max() <= bound
    assert 0 <= norm.weight.min() < 0.15 and 0.85 < norm.weight.max() <= 1 and not norm.bias.any()
    assert all(torch.allclose(s, torch.tensor(0.2).log()) for s in model.log_spread)


def test_exam() -> None:
    model = built(AdvBNN(Normed())).requires_grad_(False)
    check_classifier(model, exam_images(8, SHAPE))
    assert model.rows == "shared" and not model.coupled


def test_what_it_refuses() -> None:
    assert named("defences", "adv-bnn") is AdvBNN
    for wrong in ({"prior": 0.0}, {"spread": float("inf")}, {"alpha": -1.0}, {"prior": float("nan")}):
        with pytest.raises(UsageError, match="adv-bnn was given"):
            AdvBNN(**wrong)
