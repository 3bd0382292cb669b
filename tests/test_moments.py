"""A margin over its estimated deviation: against the closed form, finite differences and a hand count."""

from __future__ import annotations

import pytest
import torch
from test_closed_form import images, noise_head

from robassay.access import White
from robassay.attacks.gradient import PGD
from robassay.classifier import Quiet
from robassay.errors import UsageError
from robassay.estimators import Backprop, ClosedForm
from robassay.moments import Moments
from robassay.rng import Stream
from robassay.threat import Goal, Threat

RNG = Stream(("moments",))


@pytest.mark.parametrize("targeted", [False, True])
def test_the_ratio_by_hand(targeted: bool) -> None:
    # Label 0; margins of class 1 are −1 and −3, of class 2 they are −2.5 twice over ± 0.5.
    logits = torch.tensor([[[0.0, -1.0, -2.0]], [[0.0, -3.0, -3.0]]], dtype=torch.float64)
    ratios = [-2 / 2**0.5, -2.5 / 0.5**0.5]
    found = Goal(torch.tensor([0]), targeted=targeted).drawn_deviations(logits)
    assert float(found) == pytest.approx(-max(ratios) if targeted else max(ratios))


def test_many_draws_give_the_closed_form() -> None:
    model, x = noise_head(4, noise=2.0), images(6)
    goal = Goal(torch.tensor([0, 1, 2, 3, 0, 1]))
    exact = ClosedForm()(model, x, goal.loss("margin"), RNG)
    found = Moments(20_000)(model, x, goal.loss("margin"), RNG)
    assert torch.allclose(found.value, exact.value, atol=0.05, rtol=0.03)
    cosine = torch.cosine_similarity(found.gradient.flatten(1), exact.gradient.flatten(1))
    assert float(cosine.min()) > 0.99


def test_the_gradient_is_that_of_the_estimate_with_its_sign() -> None:
    """The same draws at both sides of a difference: what is left is the derivative, of the deviation, too."""
    model, x = noise_head(3).double(), images(1).double()
    estimator, goal = Moments(7), Goal(torch.tensor([1]))
    found = estimator(model, x, goal.loss("margin"), RNG)
    assert float(found.gradient.abs().max()) > 1e-3
    for pixel in range(0, 16, 3):
        step = torch.zeros_like(x).flatten()
        step[pixel] = 1e-5
        step = step.view_as(x)
        ahead, behind = (estimator(model, x + s, goal.loss("margin"), RNG).value for s in (step, -step))
        slope = float(ahead - behind) / 2e-5
        assert slope == pytest.approx(float(found.gradient.flatten()[pixel]), rel=1e-3, abs=1e-6)


def test_a_deterministic_network_gives_its_margin() -> None:
    model, x = Quiet(noise_head(3)), images(4)
    goal = Goal(torch.tensor([0, 1, 2, 0]))
    plain = Backprop()(model, x, goal.loss("margin"), RNG)
    found = Moments()(model, x, goal.loss("margin"), RNG)
    assert torch.allclose(found.value, plain.value) and torch.allclose(found.gradient, plain.gradient)


def test_it_goes_on_where_cross_entropy_is_saturated_and_keeps_its_books() -> None:
    model, x = noise_head(4, noise=0.05, logits=1e4), images(40)
    goal, threat, left = Goal(model.quiet(model.prefix(x)).argmax(-1)), Threat("linf", 0.5), {}
    for name, estimator, loss in (("ce", Backprop(5), "ce"), ("moments", Moments(5), "margin")):
        attack = PGD(loss=loss, steps=10, random_start=False)
        x_adv = attack(White(estimator).open([model], 40), x, goal, threat, RNG.child("attack"))
        right = model.sample(model.prefix(x_adv), 50, RNG.child("judge")).argmax(-1) == goal.labels
        left[name] = float(right.float().mean())
    assert left["moments"] < left["ce"] - 0.3
    cost = Moments(5)(model, x, goal.loss("margin"), RNG).cost
    assert cost == (10, 5)


def test_what_it_cannot_do_is_said() -> None:
    model, x = noise_head(3), images(1)
    with pytest.raises(UsageError, match="loss='margin'"):
        Moments()(model, x, Goal(torch.tensor([0])).loss("ce"), RNG)
    with pytest.raises(UsageError, match="two draws"):
        Moments(draws=1)
