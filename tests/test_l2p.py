"""Learn2Perturb: its places, its noise, and the step that keeps the noise from vanishing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from robassay.classifier import Net
from robassay.defences.l2p import L2P, LearntNoise, Perturbed, sites
from robassay.errors import RobassayError, UsageError
from robassay.nets.backbone import Backbone, Shape
from robassay.nets.cnn import SmallCNN
from robassay.nets.lenet import LeNetPP
from robassay.nets.mlp import MLP
from robassay.nets.noisy import Junction
from robassay.registry import named
from robassay.rng import Stream
from robassay.testing import check_classifier, exam_images

SHAPE = (3, 8, 8)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
        self.out = Junction()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(x + self.body(x))
        return y


class Residual(Backbone):
    features = 4  # type: ignore[assignment]

    def trunk(self, shape: Shape, dim: int) -> nn.Module:
        stem = (nn.Conv2d(shape[0], 4, 3, padding=1), nn.BatchNorm2d(4), Junction())
        return nn.Sequential(*stem, nn.MaxPool2d(2), Block(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, dim))


def built(net: Net, shape: Shape = SHAPE) -> Perturbed:
    with Stream(("l2p",)).active():
        model = net.build(shape, 4).eval()
    assert isinstance(model, Perturbed)
    return model


def noises(model: nn.Module) -> list[LearntNoise]:
    return [m for m in model.modules() if isinstance(m, LearntNoise)]


def test_places_and_sizes() -> None:
    for net, shape, behind, sizes in (
        (L2P(Residual()), SHAPE, Junction, [(4, 8, 8), (4, 4, 4)]),
        (L2P(SmallCNN(width=5)), SHAPE, nn.ReLU, [(5, 4, 4), (10, 2, 2)]),
        (L2P(LeNetPP(width=0.1)), (1, 25, 25), nn.PReLU, [(c, 25 - 4 * i, 25 - 4 * i) for i, c in
                                                         enumerate((3, 3, 6, 6, 13, 13), 1)]),
    ):  # fmt: skip
        model = built(net, shape)
        assert [tuple(n.sigma.shape) for n in noises(model)] == sizes
        assert all(bool((n.sigma == 0.25).all()) for n in noises(model))
        pairs = [m for m in model.modules() if isinstance(m, nn.Sequential) and isinstance(m[0], LearntNoise)]
        assert [type(p[1]) for p in pairs] == [behind] * len(sizes)
    assert bool((built(L2P(Residual())).inner.trunk[1].running_mean == 0).all())


@pytest.mark.parametrize("per_example", [True, False])
def test_the_noise_has_mean_x_and_spread_sigma(per_example: bool) -> None:
    noise, n = LearntNoise(torch.Size((2, 1, 1)), per_example), 20_000
    x = torch.tensor([3.0, -1.0]).reshape(1, 2, 1, 1)
    with torch.no_grad(), Stream(("noise",)).active():
        noise.sigma.copy_(torch.tensor([0.5, 2.0]).reshape(2, 1, 1))
        drawn = noise(x.expand(n, -1, -1, -1)) if per_example else torch.cat([noise(x) for _ in range(n)])
        two = noise(x.expand(2, -1, -1, -1))
    sigma = torch.tensor([0.5, 2.0])
    assert ((drawn.mean(0) - x[0]).flatten().abs() < 4.5 * sigma / n**0.5).all()
    assert ((drawn.std(0).flatten() / sigma - 1).abs() < 4.5 / (2 * n) ** 0.5).all()
    assert torch.equal(two[0], two[1]) is not per_example


@pytest.mark.parametrize(("epoch", "harmonic"), [(10, 1.0), (11, 1.5), (13, 1 + 1 / 2 + 1 / 3 + 1 / 4)])
def test_the_step_of_sigma_follows_its_regulariser(epoch: int, harmonic: float) -> None:
    model, rate = built(L2P(gamma=0.3, delay=10)), 0.7
    sigma = noises(model)[0].sigma
    with torch.no_grad():
        sigma.uniform_(0.02, 2)
    loss = -(0.3 / harmonic) * sigma.sqrt().sum()
    (gradient,) = torch.autograd.grad(loss, sigma)
    expected = (sigma - rate * gradient).detach()
    model.begin_epoch(epoch)
    model.after_step(rate)
    assert torch.allclose(sigma, expected, rtol=1e-5)


@pytest.mark.parametrize("epoch", [0, 5])
def test_sigma_is_never_below_its_least(epoch: int) -> None:
    model = built(L2P(gamma=0, delay=3))
    with torch.no_grad():
        noises(model)[0].sigma.fill_(-2.0)
    model.begin_epoch(epoch)
    model.after_step(0.1)
    assert min(n.sigma.min().item() for n in noises(model)) == pytest.approx(0.01)
    assert noises(model)[1].sigma.max().item() == 0.25


def test_before_the_delay_it_is_deterministic_and_a_reloaded_net_knows() -> None:
    net, x = L2P(delay=2), exam_images(3, SHAPE)
    model, plain, fresh = built(net), SmallCNN().build(SHAPE, 4), built(net)
    names = [k for k in model.state_dict() if "sigma" not in k and k != "epoch"]
    plain.load_state_dict(dict(zip(plain.state_dict(), (model.state_dict()[k] for k in names), strict=True)))
    for epoch in (0, 1):
        model.begin_epoch(epoch)
        assert not model.stochastic and torch.equal(model(x), plain(x))
    model.begin_epoch(2)
    assert model.stochastic and not torch.equal(model(x), model(x))
    assert torch.equal(model.quiet(model.prefix(x)), plain(x))
    assert not fresh.stochastic
    fresh.load_state_dict(model.state_dict())
    assert fresh.stochastic


@pytest.mark.parametrize("net", [L2P(Residual()), L2P(per_example=False), L2P(delay=1)], ids=["res", "shared", "off"])
def test_exam(net: L2P) -> None:
    model = built(net).requires_grad_(False)
    check_classifier(model, exam_images(8, SHAPE))
    assert model.rows == ("independent" if net.per_example else "shared") and not model.coupled


def test_sigma_does_not_decay_and_faults_are_named() -> None:
    model = built(L2P())
    assert [id(p) for p in model.undecayed()] == [id(n.sigma) for n in noises(model)]
    with torch.no_grad():
        noises(model)[1].sigma.fill_(float("inf"))
    with pytest.raises(RobassayError, match="overflowed"):
        model.after_step(0.1)
    assert named("defences", "l2p") is L2P
    for wrong in ({"gamma": -1.0}, {"gamma": float("nan")}, {"delay": -1}):
        with pytest.raises(UsageError, match="gamma="):
            L2P(**wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="convolution"):
        L2P(MLP()).build(SHAPE, 4)


def test_only_the_first_activation_behind_a_convolution_is_a_place() -> None:
    trunk = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Tanh(), nn.Linear(6, 6), nn.ReLU())
    assert sites(trunk) == [trunk[2]]
