"""Spiking networks learn: spike-based back-propagation, surrogate gradients, and behind a conversion."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from robassay.data import find, pixels
from robassay.nets.backbone import Plain
from robassay.nets.conversion import convert
from robassay.nets.mlp import MLP
from robassay.nets.spikes import Neurons, Spikes
from robassay.nets.spiking import Spiking
from robassay.recipe import Recipe
from robassay.rng import Stream
from robassay.rules import BPTR, Atan, LeakyTrace, Rule, acting
from robassay.training import restore, train

DIGIT = (1, 8, 8)
RNG = Stream(("test", "spiking training"))
LEE = Spikes(steps=12, leak=0.95, reset="hard", rule=LeakyTrace(), output_leak=0.95)
DEEP = MLP((60, 60, 40))
RECIPE = Recipe(epochs=5, batch=64, lr=3e-3)


def learnt(
    net: Spiking | MLP, folder: Path, recipe: Recipe = RECIPE, begin: dict[str, Tensor] | None = None
) -> tuple[dict[str, Tensor], float]:
    """Arrays of a training on digits, and the accuracy on test images."""
    data = find("digits", None)
    images, val = data.split("train"), data.split("val")
    arrays = train(net, DIGIT, 10, images, val, recipe, RNG, folder, lambda done, total: None, begin=begin)
    model, test = restore(net, DIGIT, 10, arrays), data.split("test")
    with torch.no_grad(), RNG.child("test").active():
        right = (model(pixels(test.x)).argmax(1) == test.y).float().mean().item()
    return arrays, right


@pytest.mark.parametrize(
    "how",
    [LEE, replace(LEE, rule=Atan(), reset="soft"), replace(LEE, rule=BPTR()), replace(LEE, delay=True, strict=True)],
    ids=["leaky trace", "surrogate", "bptr", "delayed"],
)
def test_small_networks_learn_digits(how: Spikes, tmp_path: Path) -> None:
    """In five epochs; chance is a tenth."""
    _, right = learnt(Spiking(MLP((60,)), how), tmp_path)
    assert right > 0.8


def test_a_hybrid_begins_where_the_conversion_ends_and_gains_at_few_steps(tmp_path: Path) -> None:
    data = find("digits", None)
    for name in ("plain", "hybrid"):
        (tmp_path / name).mkdir()
    arrays, exact = learnt(DEEP, tmp_path / "plain", replace(RECIPE, epochs=10))
    plain = restore(DEEP, DIGIT, 10, arrays)
    assert isinstance(plain, Plain)
    how = Spikes(steps=6, delay=True, strict=True, scale=0.7, leak=0.95)
    begin = convert(plain, how, DIGIT, pixels(data.split("train").x[:100]), 200, RNG)
    test = data.split("test")
    with torch.no_grad(), RNG.child("test").active():
        before = (begin(pixels(test.x)).argmax(1) == test.y).float().mean().item()
    net = Spiking(DEEP, how)
    after, right = learnt(net, tmp_path / "hybrid", Recipe(epochs=4, batch=64, lr=1e-3), begin.state_dict())
    assert exact > 0.9 and right > before + 0.02
    thresholds = [m.threshold for m in begin.modules() if isinstance(m, Neurons)]
    assert after["weight/layers.2.threshold"] == thresholds[0]  # the conversion's thresholds stay


def test_the_rule_of_the_description_is_the_one_that_trains() -> None:
    """Same spikes, other gradients: a training by one rule is not that of another."""
    x, y = torch.rand(8, *DIGIT, generator=RNG.generator()), torch.arange(8)
    found = []
    rules: list[tuple[Rule, Rule | None]] = [(LeakyTrace(), None), (Atan(), None), (Atan(), LeakyTrace())]
    for trained_with, chosen in rules:
        with RNG.child("init").active():
            model = Spiking(MLP((30,)), replace(LEE, rule=trained_with)).build(DIGIT, 10)
        with RNG.child("draw").active(), acting(chosen):
            loss = torch.nn.functional.cross_entropy(model(x), y)
        found.append(torch.autograd.grad(loss, list(model.parameters()))[0])
    assert torch.equal(found[0], found[2]) and not torch.allclose(found[0], found[1], rtol=0.05)


@pytest.mark.parametrize("rule", [Atan(1.0), Atan(0.5)], ids=str)
def test_surrogate_gradient_is_the_slope_of_the_softened_neuron(rule: Atan) -> None:
    """With every step replaced by its integrated surrogate, numeric differences of one layer's rate agree."""
    from robassay.nets.neurons import neurons

    steps, leak = 6, 0.9
    current = torch.randn(steps, 50, generator=RNG.generator(), dtype=torch.float64)

    def soft(x: Tensor) -> Tensor:
        """No reset is differentiated, so the spikes' part in it is that of the hard neuron."""
        v, total = torch.zeros(50, dtype=torch.float64), torch.zeros(50, dtype=torch.float64)
        for arriving, s in zip(x, held, strict=True):
            h = leak * v + arriving
            total = total + 0.5 + torch.atan(torch.pi * rule.alpha / 2 * (h - 1)) / torch.pi
            v = h - s
        return total

    held = neurons(current, leak, 1.0, "soft", rule)
    x = current.clone().requires_grad_()
    (analytic,) = torch.autograd.grad(neurons(x, leak, 1.0, "soft", rule).sum(), x)
    numeric = torch.zeros_like(current)
    for t in range(steps):
        ahead, behind = current.clone(), current.clone()
        ahead[t] += 1e-5
        behind[t] -= 1e-5
        numeric[t] = (soft(ahead) - soft(behind)) / 2e-5
    assert torch.allclose(analytic, numeric, atol=1e-6)
