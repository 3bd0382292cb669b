"""Estimators against closed forms, with sign: a wrong-signed gradient looks exactly like a robust model."""

from __future__ import annotations

import itertools
import math
import weakref

import numpy as np
import pytest
import torch
from toy_nets import LABELS, GaussianHead, Linear, Step, X, cosine, numbers, true_gradient

from robassay.classifier import Classifier
from robassay.estimators import Augmented, Backprop, Cost, Differences
from robassay.rng import Stream
from robassay.testing import ExamNet
from robassay.threat import Goal

AVERAGES = ("loss", "probs", "logits")


class Slanted(Classifier):
    """Two classes, logits (0, d) with d = a·x + exp(b·x) ε: the noise grows with the image, so it has a gradient."""

    classes, stochastic, rows = 2, True, "independent"

    def __init__(self, pixels: int = 6) -> None:
        super().__init__()
        self.a, self.b = numbers(pixels), 0.6 * numbers(pixels, seed=1)

    def draw(self, h):
        flat = h.flatten(1)
        d = flat @ self.a + (flat @ self.b).exp() * torch.randn(len(h))
        return torch.stack([torch.zeros_like(d), d], 1)

    def mean_ce(self, x):
        """E softplus(d), the mean cross-entropy of class 0, by 80-point Gauss-Hermite quadrature. Differentiable."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(80)
        nodes, weights = torch.from_numpy(nodes).float(), torch.from_numpy(weights / weights.sum()).float()
        flat = x.flatten(1)
        d = (flat @ self.a)[:, None] + (flat @ self.b).exp()[:, None] * nodes
        return torch.nn.functional.softplus(d) @ weights


class Tower(Classifier):
    """A deterministic prefix, then noise that is multiplied and passed through a tanh."""

    classes, stochastic = 3, True

    def __init__(self, split: bool, rows: str = "independent") -> None:
        super().__init__()
        self.split, self.rows = split, rows
        self.into, self.out = numbers(6, 5), numbers(5, 3, seed=1)

    def prefix(self, x):
        return self._features(x) if self.split else x

    def _features(self, x):
        return (x.flatten(1) @ self.into).sin()

    def draw(self, h):
        h = h if self.split else self._features(h)
        noise = torch.randn(h.shape) if self.rows == "independent" else torch.randn(h.shape[1])
        return 3 * (h * (1 + 0.5 * noise)).tanh() @ self.out


# ---------------------------------------------------------------------------------------------------- closed forms


@pytest.mark.parametrize("targeted", [False, True])
def test_linear_margin_gradient_is_a_difference_of_weights(targeted):
    net, goal = Linear(), Goal(LABELS, targeted)
    found = Backprop()(net, X, goal.margin, Stream())
    logits = net(X)
    other = logits.scatter(1, LABELS[:, None], -math.inf).argmax(1)
    sign = -1 if targeted else 1
    assert torch.allclose(found.gradient.flatten(1), sign * (net.weight[other] - net.weight[LABELS]))
    gap = logits.gather(1, other[:, None]) - logits.gather(1, LABELS[:, None])
    assert torch.allclose(found.value, sign * gap[:, 0])
    assert torch.equal(found.logits, logits[None]) and found.cost == Cost(1, 1)


def test_gaussian_head_margin_and_error_probability():
    net, goal = GaussianHead(classes=2), Goal(LABELS % 2)
    found = Backprop(20_000)(net, X, goal.margin, Stream())
    toward = net.weight[1 - goal.labels] - net.weight[goal.labels]
    assert torch.allclose(found.gradient.flatten(1), toward, atol=1e-4)  # linear in the noise: exact for any draws
    mean = (X.flatten(1) * toward).sum(1) + net.bias[1 - goal.labels] - net.bias[goal.labels]
    sd = net.sigma * toward.norm(dim=1)
    error = torch.tensor([0.5 * math.erfc(-(m / s) / 2**0.5) for m, s in zip(mean.tolist(), sd.tolist(), strict=True)])
    assert ((error > 0.02) & (error < 0.98)).any()
    measured = goal.reached(found.logits.argmax(-1)).float().mean(0)
    assert ((measured - error).abs() < 4 * (error * (1 - error) / 20_000).sqrt() + 1e-4).all()
    assert ((found.value - mean).abs() < 4 * sd / 20_000**0.5).all()


@pytest.mark.parametrize("targeted", [False, True])
def test_eot_of_cross_entropy_is_the_quadrature(targeted):
    net = Slanted()
    labels = torch.full((4,), int(targeted))  # leave class 0, or reach class 1: the same direction
    goal = Goal(labels, targeted)
    true = true_gradient(net.mean_ce)
    runs = torch.stack([Backprop(2000)(net, X, goal.cross_entropy, Stream((i,))).gradient for i in range(10)])
    found, error = runs.mean(0), runs.std(0) / 10**0.5
    if targeted:  # −log p₁ = softplus(−d) = softplus(d) − d, so the ascent on log p₁ falls short by the gradient of E d
        true = net.a.reshape(1, 1, 2, 3) - true
    assert ((found - true).abs() < 5 * error + 1e-4).all()
    assert (cosine(found, true) > 0.99).all()
    alone = Backprop(1)(net, X, goal.cross_entropy, Stream()).gradient
    assert (cosine(alone, true) < 0.99).any()  # the noise matters here: one draw would not pass


def test_a_value_is_the_mean_loss():
    net, goal = Slanted(), Goal(torch.zeros(4, dtype=torch.int64))
    found = Backprop(40_000)(net, X, goal.cross_entropy, Stream())
    assert torch.allclose(found.value, net.mean_ce(X), atol=0.05)


# ------------------------------------------------------------------------------------------ averages, folds, prefixes


def reference(net, x, goal, draws, average, rng):
    """All graphs alive at once: what the three averages mean."""
    image = x.clone().requires_grad_()
    parts = []
    for i, k in enumerate(net.groups(net.prefix(image), draws)):
        with rng.child(i).active():
            parts.append(net.fold(net.prefix(image), k))
    logits = torch.cat(parts)
    if average == "loss":
        value = goal.cross_entropy(logits).mean(0)
    elif average == "probs":
        value = goal.cross_entropy(logits.softmax(-1).mean(0).log())
    else:
        value = goal.cross_entropy(logits.mean(0))
    (gradient,) = torch.autograd.grad(value.sum(), image)
    return value.detach(), gradient


@pytest.mark.parametrize("rows", ["independent", "shared"])
@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("average", AVERAGES)
def test_each_average_is_its_reference(average, split, rows):
    net, goal = Tower(split, rows), Goal(LABELS)
    found = Backprop(7, average)(net, X, goal.cross_entropy, Stream(("a",)))
    value, gradient = reference(net, X, goal, 7, average, Stream(("a",)))
    assert torch.allclose(found.value, value, atol=1e-6)
    assert (found.gradient - gradient).abs().max() < 1e-6 * gradient.abs().max() + 3e-7
    assert found.cost == Cost(7 if average == "loss" else 14, 7)
    assert found.logits.shape == (7, 4, 3)


def test_the_averages_are_three_functions():
    net, goal = Tower(False), Goal(LABELS)
    found = {a: Backprop(30, a)(net, X, goal.cross_entropy, Stream()) for a in AVERAGES}
    for a, b in itertools.combinations(AVERAGES, 2):
        assert (found[a].value - found[b].value).abs().max() > 0.05
        assert (found[a].gradient - found[b].gradient).abs().max() > 0.02 * found[a].gradient.abs().max()
    # Jensen: the loss of a mean (here −log p, smaller is better for the defender) is below the mean of the losses.
    assert (found["probs"].value <= found["loss"].value + 1e-6).all()


@pytest.mark.parametrize("average", AVERAGES)
def test_a_prefix_changes_the_cost_alone(average):
    goal, asked = Goal(LABELS), Backprop(9, average)
    for rows in ("independent", "shared"):
        naive = asked(Tower(False, rows), X, goal.cross_entropy, Stream())
        quick = asked(Tower(True, rows), X, goal.cross_entropy, Stream())
        assert torch.allclose(naive.logits, quick.logits, atol=2e-6)
        assert (naive.gradient - quick.gradient).abs().max() < 1e-6 * naive.gradient.abs().max()


def test_a_prefix_is_crossed_once_each_way():
    counts = {"forward": 0, "backward": 0}

    class Counting(Tower):
        def prefix(self, x):
            counts["forward"] += 1
            h = super().prefix(x)
            if h.requires_grad:
                h.register_hook(lambda g: counts.update(backward=counts["backward"] + 1))
            return h

    Backprop(9)(Counting(True, "shared"), X, Goal(LABELS).margin, Stream())
    assert counts == {"forward": 1, "backward": 1}


def test_folded_draws_estimate_the_same_gradient_as_a_loop():
    class Looped(Tower):
        """The same noise, a draw per row, in passes of one draw each."""

        def draw(self, h):
            self.rows = "independent"
            try:
                return super().draw(h)
            finally:
                self.rows = "shared"

    goal = Goal(LABELS)
    folded, looped = Tower(False), Looped(False, "shared")
    assert folded.groups(X, 50) == [50] and looped.groups(X, 50) == [1] * 50
    a, b = (
        torch.stack([Backprop(50)(net, X, goal.cross_entropy, Stream((net.rows, i))).gradient for i in range(20)])
        for net in (folded, looped)
    )
    error = ((a.var(0) + b.var(0)) / 20).sqrt()
    assert ((a.mean(0) - b.mean(0)).abs() < 5 * error).all()
    assert 0.5 < (a.std(0) / b.std(0)).mean() < 2


def test_one_graph_is_alive_at_a_time():
    alive, most = weakref.WeakSet(), [0]

    class Token:
        pass

    class Kept(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.token = Token()  # lives exactly as long as this node of the graph
            alive.add(ctx.token)
            most[0] = max(most[0], len(alive))
            return x * 2

        @staticmethod
        def backward(ctx, gradient):
            return gradient * 2

    class Net(Tower):
        def draw(self, h):
            return super().draw(Kept.apply(h))

    for average in AVERAGES:
        Backprop(12, average)(Net(True, "shared"), X, Goal(LABELS).cross_entropy, Stream())
    assert most[0] == 1 and len(alive) == 0


# --------------------------------------------------------------------------------------------------- blocked gradients


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("where", ["prefix", "draw"])
def test_a_blocked_gradient_is_zero(where, average):
    net = Step(where)
    found = Backprop(3, average)(net, X, Goal(LABELS).margin, Stream())
    assert not found.gradient.any() and torch.equal(found.logits[0], net(X))
    net.weight = torch.nn.Parameter(net.weight)  # a graph to the weights is no graph to the image
    assert not Backprop(3, average)(net, X, Goal(LABELS).margin, Stream()).gradient.any()


def test_a_gradient_that_shares_memory_is_averaged():
    """The gradient of a sum is one number, expanded; a hand-written backward pass may hand out what the model holds."""

    class Total(Linear):
        stochastic = True

        def draw(self, h):
            return torch.stack([torch.zeros(len(h)), h.flatten(1).sum(1)], 1)

    found = Backprop(3)(Total(classes=2), X, Goal(LABELS * 0).margin, Stream())
    assert torch.equal(found.gradient, torch.ones_like(X))

    direction = torch.arange(24.0).reshape(X.shape)
    held = direction.clone()

    class Held(torch.autograd.Function):
        @staticmethod
        def forward(ctx, h):
            return (h * held).flatten(1).sum(1)

        @staticmethod
        def backward(ctx, gradient):
            return held

    class Handing(Total):
        def draw(self, h):
            return torch.stack([torch.zeros(len(h)), Held.apply(h)], 1)

    found = Backprop(3)(Handing(classes=2), X, Goal(LABELS * 0).margin, Stream())
    assert torch.allclose(found.gradient, direction) and torch.equal(held, direction)


def test_nothing_is_left_behind():
    net = ExamNet((1, 2, 3), noise=0.5)
    x = X.clone().requires_grad_()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    for estimator in (Backprop(3), Backprop(3, "probs"), Augmented(copies=2), Differences(pairs=3)):
        found = estimator(net, x, Goal(LABELS).margin, Stream())
        assert not found.gradient.requires_grad and not found.value.requires_grad and not found.logits.requires_grad
    assert x.grad is None and all(p.grad is None for p in net.parameters())
    assert torch.equal(torch.get_rng_state(), before)

    class Broken(Tower):
        def draw(self, h):
            raise ValueError

    with pytest.raises(ValueError) as caught:
        Backprop(3)(Broken(True), X, Goal(LABELS).margin, Stream())
    assert caught and torch.equal(torch.get_rng_state(), before)


def test_a_random_backward_rule_is_reproducible():
    class Rough(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * torch.rand_like(gradient)

    class Net(Linear):
        def draw(self, h):
            return super().draw(Rough.apply(h))

    first = Backprop()(Net(), X, Goal(LABELS).margin, Stream()).gradient
    torch.rand(1)
    assert torch.equal(first, Backprop()(Net(), X, Goal(LABELS).margin, Stream()).gradient)
