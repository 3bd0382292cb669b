"""Parametric noise injection against closed forms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robassay.classifier import Classifier, Net
from robassay.defences.pni import PNI, ActivationNoise, WeightNoise
from robassay.errors import UsageError
from robassay.nets.cnn import SmallCNN
from robassay.nets.mlp import MLP
from robassay.registry import named
from robassay.rng import Stream
from robassay.testing import check_classifier, exam_images
from robassay.training import Recipe, optimizer_for

SHAPE = (3, 8, 8)
DETAILS: list[Any] = ["layer", "channel", "element"]


def built(net: Net, shape: tuple[int, int, int] = SHAPE) -> Classifier:
    with Stream(("pni",)).active():
        return net.build(shape, 4).eval()


def alphas(model: Classifier) -> list[nn.Parameter]:
    return [m.alpha for m in model.modules() if isinstance(m, (WeightNoise, ActivationNoise))]


@pytest.mark.parametrize("place", ["weights", "activations"])
@pytest.mark.parametrize("detail", DETAILS)
def test_without_alpha_or_when_quiet_it_is_its_backbone(place: Any, detail: Any) -> None:
    x, plain, model = exam_images(3, SHAPE), built(SmallCNN()), built(PNI(place=place, detail=detail))
    assert torch.equal(model.quiet(model.prefix(x)), plain(x))
    assert not torch.equal(model(x), plain(x))
    with torch.no_grad():
        for alpha in alphas(model):
            alpha.zero_()
    assert torch.equal(model(x), plain(x))


@pytest.mark.parametrize(("detail", "shape"), [("layer", ()), ("channel", (3, 1)), ("element", (3, 5))])
def test_weights_have_the_mean_and_the_spread_stated(detail: Any, shape: tuple[int, ...]) -> None:
    layer, n = nn.Linear(5, 3), 4_000
    noise = WeightNoise(layer, detail)
    assert noise.alpha.shape == shape and bool((noise.alpha == 0.25).all())
    with torch.no_grad(), Stream(("weights",)).active():
        noise.alpha.copy_(torch.linspace(-0.5, 0.4, noise.alpha.numel()).reshape(shape))
        # The identity's outputs are the weights, transposed; the bias must stay as it is.
        drawn = torch.stack([noise(torch.eye(5)) - layer.bias for _ in range(n)])
    spread = (noise.alpha.abs() * layer.weight.std()).expand(3, 5).T.detach()
    assert ((drawn.mean(0) - layer.weight.T).abs() <= 4.5 * spread / n**0.5 + 1e-6).all()
    assert ((drawn.std(0) / spread - 1).abs() <= 4.5 / (2 * n) ** 0.5).all()


def test_the_gradient_of_alpha_is_the_sum_over_the_noise() -> None:
    layer, x = nn.Conv2d(2, 3, 3, bias=False), torch.rand(4, 2, 5, 5)
    for detail, dims in (("layer", (0, 1, 2, 3)), ("channel", (1, 2, 3)), ("element", ())):
        noise = WeightNoise(layer, detail)  # type: ignore[arg-type]
        with Stream(("gradient",)).active():
            of_alpha, of_weight = torch.autograd.grad(noise(x).square().sum(), (noise.alpha, layer.weight))
        with Stream(("gradient",)).active():
            eta = layer.weight.std().detach() * torch.randn_like(layer.weight)
        weight = (layer.weight + 0.25 * eta).detach().requires_grad_()
        (expected,) = torch.autograd.grad(F.conv2d(x, weight).square().sum(), weight)
        # No gradient passes through the standard deviation.
        assert torch.allclose(of_weight, expected, rtol=1e-4, atol=1e-5)
        summed = (expected * eta).sum(dims, keepdim=bool(detail == "channel")) if dims else expected * eta
        assert torch.allclose(of_alpha, summed, rtol=1e-4, atol=1e-4)


def test_activation_noise_has_the_spread_of_the_image() -> None:
    noise, n = ActivationNoise(nn.Identity(), torch.Size((1, 2, 2)), "layer"), 50_000
    y = torch.tensor([[1.0, 2, 3, 6], [0, 0, 0, 10]]).reshape(2, 1, 2, 2)
    with torch.no_grad(), Stream(("maps",)).active():
        drawn = noise(y.repeat(n, 1, 1, 1)).reshape(n, 2, 4)
    expected = 0.25 * torch.tensor([(14 / 3) ** 0.5, 5.0])
    assert ((drawn.std(0) / expected[:, None] - 1).abs() < 4.5 / (2 * n) ** 0.5).all()
    assert ((drawn.mean(0) - y.reshape(2, 4)).abs() < 4.5 * expected[:, None] / n**0.5).all()


def test_the_gradient_of_activation_noise_does_not_know_its_spread() -> None:
    noise, x = (
        ActivationNoise(nn.Identity(), torch.Size((2, 3, 3)), "layer"),
        torch.rand(4, 2, 3, 3, requires_grad=True),
    )
    upstream = torch.rand(4, 2, 3, 3)
    with Stream(("passed on",)).active():
        (of_x,) = torch.autograd.grad(noise(x), x, upstream)
    assert torch.equal(of_x, upstream)  # y + α η with η a constant: what comes in goes out


def test_alpha_does_not_decay() -> None:
    model = built(PNI())
    assert {id(p) for p in model.undecayed()} == {id(a) for a in alphas(model)} and len(alphas(model)) == 3
    decayed, free = optimizer_for(model, Recipe(weight_decay=0.1)).param_groups
    assert decayed["weight_decay"] == 0.1 and free["weight_decay"] == 0
    assert {id(p) for p in free["params"]} == {id(a) for a in alphas(model)}


@pytest.mark.parametrize(("place", "rows"), [("weights", "shared"), ("activations", "independent")])
def test_exam(place: Any, rows: str) -> None:
    model = built(PNI(place=place, detail="channel")).requires_grad_(False)
    check_classifier(model, exam_images(8, SHAPE))
    assert model.rows == rows and not model.coupled


def test_what_it_refuses() -> None:
    assert named("defences", "pni") is PNI
    with pytest.raises(UsageError, match="place='bias'"):
        PNI(place="bias")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="detail='row'"):
        PNI(detail="row")  # type: ignore[arg-type]
    for place in ("weights", "activations"):
        with pytest.raises(UsageError, match="convolutions"):
            PNI(MLP(), place=place).build(SHAPE, 4)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="standard deviation"):
        WeightNoise(nn.Linear(1, 1), "layer")
    with pytest.raises(UsageError, match="standard deviation"):
        ActivationNoise(nn.Identity(), torch.Size((1, 1, 1)), "layer")
