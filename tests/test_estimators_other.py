"""Ruled, Augmented and Differences against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from toy_nets import LABELS, GaussianHead, Linear, Step, X, cosine, true_gradient

from robassay.errors import UsageError
from robassay.estimators import Augmented, Backprop, Cost, Differences, InputNoise, Ruled
from robassay.rng import Stream
from robassay.rules import BackwardRule, Rectangle, StraightThrough, Triangle, acting, in_force
from robassay.threat import Goal


class Heaviside(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u, rule):
        ctx.save_for_backward(u)
        ctx.rule = rule
        return (u > 0).to(u.dtype)

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.rule(ctx.saved_tensors[0]), None


class Spiking(Linear):
    trained_with: BackwardRule = Rectangle(1.0)

    def draw(self, h):
        return super().draw(Heaviside.apply(h - 0.5, in_force(self.trained_with)))


def test_ruled_replaces_the_rule_the_net_was_trained_with():
    net, goal = Spiking(), Goal(LABELS)

    def by(rule):
        other = net(X).scatter(1, LABELS[:, None], -math.inf).argmax(1)
        return ((net.weight[other] - net.weight[LABELS]) * rule(X.flatten(1) - 0.5)).reshape(X.shape)

    def found(estimator):
        return estimator(net, X, goal.margin, Stream()).gradient

    wide, straight = Triangle(2.0), StraightThrough()
    assert torch.allclose(found(Backprop()), by(Rectangle(1.0)))
    assert torch.allclose(found(Ruled(wide, Backprop())), by(wide))
    assert torch.allclose(found(Ruled(straight, Backprop())), by(straight))
    assert torch.allclose(found(Ruled(wide, Ruled(straight, Backprop()))), by(straight))  # the innermost is in force
    assert torch.allclose(found(Backprop()), by(Rectangle(1.0)))  # and nothing is left of it
    assert Ruled(wide, Backprop(6)).draws == 6


def test_a_rule_is_dropped_when_a_pass_fails():
    with pytest.raises(ValueError), acting(StraightThrough()):
        raise ValueError
    assert in_force(Rectangle(2.0)) == Rectangle(2.0)


@pytest.mark.parametrize("estimator", [Augmented(InputNoise(0.3), 4), Augmented(InputNoise(0.3), 2, Backprop(3))])
def test_augmented_is_exact_on_a_linear_net(estimator):
    goal = Goal(LABELS % 2)
    true = true_gradient(lambda x: goal.margin(Linear(classes=2)(x)))
    for net in (Linear(classes=2), GaussianHead(classes=2)):
        found = estimator(net, X, goal.margin, Stream())
        assert torch.allclose(found.gradient, true, atol=1e-5)
    assert torch.equal(estimator(Linear(), X, Goal(LABELS).margin, Stream()).logits[0], Linear()(X))


def test_augmented_smooths():
    """The mean of (u + σ ε)³ over the noise has the gradient 3 u² + 3 σ², the image's own is 3 u²."""

    class Cubic(Linear):
        def draw(self, h):
            u = h.flatten(1)[:, 0]
            return torch.stack([torch.zeros_like(u), u**3], 1)

    goal = Goal(torch.zeros(4, dtype=torch.int64))
    found = Augmented(InputNoise(0.6), 500)(Cubic(classes=2), X, goal.margin, Stream())
    u = X[:, 0, 0, 0]
    assert torch.allclose(found.gradient[:, 0, 0, 0], 3 * u**2 + 3 * 0.6**2, atol=0.6)
    assert not found.gradient[:, 0, 1].any()
    assert torch.allclose(found.value, u**3 + 3 * u * 0.6**2, atol=0.4)


def test_differences_are_unbiased_on_a_linear_net():
    net, goal = Linear(classes=2), Goal(LABELS % 2)
    true = true_gradient(lambda x: goal.margin(net(x)))
    runs = torch.stack([Differences(0.01, 50)(net, X, goal.margin, Stream((i,))).gradient for i in range(20)])
    assert ((runs.mean(0) - true).abs() < 5 * runs.std(0) / 20**0.5 + 1e-3).all()
    assert (cosine(runs.mean(0), true) > 0.99).all()
    found = Differences(0.01, 50)(net, X, goal.margin, Stream())
    assert torch.allclose(found.value, goal.margin(net(X)), atol=1e-3)
    assert torch.equal(found.logits[0], net(X)) and found.cost == Cost(101, 0)


def test_both_sides_of_a_difference_see_the_same_draws():
    """Weight noise a hundred times the step's effect cancels; with fresh draws per side nothing would be left."""

    class Loud(Linear):
        stochastic = True

        def draw(self, h):
            return super().draw(h) + 50 * torch.randn(1, self.classes)

    net, goal = Loud(classes=2), Goal(LABELS % 2)
    true = true_gradient(lambda x: goal.margin(Linear.draw(net, x)))
    found = Differences(0.01, 400)(net, X, goal.margin, Stream()).gradient
    assert (cosine(found, true) > 0.95).all()


def test_differences_need_no_gradient():
    smooth, goal = Step("nowhere"), Goal(LABELS)

    class Hidden(Linear):
        def draw(self, h):
            return super().draw(h).detach()

    assert not Backprop()(Hidden(), X, goal.margin, Stream()).gradient.any()
    found = Differences(0.01, 500)(Hidden(), X, goal.cross_entropy, Stream()).gradient
    assert (cosine(found, Backprop()(smooth, X, goal.cross_entropy, Stream()).gradient) > 0.97).all()


def test_impossible_estimators_are_refused():
    for make in (
        lambda: Backprop(0),
        lambda: Backprop(2, "margins"),
        lambda: Augmented(copies=0),
        lambda: Differences(0.0),
        lambda: Differences(pairs=0),
        lambda: Differences(draws=0),
    ):
        with pytest.raises(UsageError):
            make()
