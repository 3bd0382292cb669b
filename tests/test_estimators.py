"""Estimators against closed forms, with sign: a wrong-signed gradient looks exactly like a robust model."""

from __future__ import annotations

import itertools
import math
import weakref

import numpy as np
import pytest
import torch

from robassay.classifier import Classifier
from robassay.errors import UsageError
from robassay.estimators import Augmented, Backprop, Cost, Differences, Directed, Estimator, InputNoise, Ruled
from robassay.rng import Stream
from robassay.rules import BackwardRule, Rectangle, StraightThrough, Triangle, acting, in_force
from robassay.testing import ContractError, ExamNet, check_estimator, exam_images
from robassay.threat import Goal

AVERAGES = ("loss", "probs", "logits")


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Linear(Classifier):
    """logits = W x + b."""

    def __init__(self, classes: int = 3, pixels: int = 6) -> None:
        super().__init__()
        self.classes, self.weight, self.bias = classes, numbers(classes, pixels), numbers(classes, seed=1)

    def draw(self, h):
        return h.flatten(1) @ self.weight.T + self.bias


class GaussianHead(Linear):
    """logits = W (x + σ ε) + b, a draw of ε per row."""

    stochastic, rows = True, "independent"
    sigma = 0.7

    def draw(self, h):
        return super().draw(h.flatten(1) + self.sigma * torch.randn(len(h), self.weight.shape[1]))


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


X = torch.rand(4, 1, 2, 3, generator=torch.Generator().manual_seed(5))
LABELS = torch.tensor([0, 1, 2, 1])


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cosine_similarity(a.flatten(1).double(), b.flatten(1).double())


def true_gradient(value, x=X):
    image = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(image).sum(), image)
    return gradient


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


class Step(Linear):
    """A quantised front end: the gradient is zero, or there is no graph at all."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def prefix(self, x):
        return (x > 0.5).float() if self.where == "prefix" else x

    def draw(self, h):
        return super().draw((h > 0.5).float() if self.where == "draw" else h)


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("where", ["prefix", "draw"])
def test_a_blocked_gradient_is_zero(where, average):
    net = Step(where)
    found = Backprop(3, average)(net, X, Goal(LABELS).margin, Stream())
    assert not found.gradient.any() and torch.equal(found.logits[0], net(X))
    net.weight = torch.nn.Parameter(net.weight)  # a graph to the weights is no graph to the image
    assert not Backprop(3, average)(net, X, Goal(LABELS).margin, Stream()).gradient.any()


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


# ------------------------------------------------------------------------------------------------- the other estimators


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


# ------------------------------------------------------------------------------------------------------------ the exam

ESTIMATORS = [
    Backprop(),
    Backprop(5),
    Backprop(5, "probs"),
    Backprop(5, "logits"),
    Ruled(StraightThrough(), Backprop(2)),
    Augmented(InputNoise(0.02), 3),
    Differences(0.01, 60),
]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_an_honest_estimator_passes(estimator):
    assert all(r.ok for r in check_estimator(estimator))


class Altered(Estimator):
    """Backprop whose answer is changed."""

    draws = 2

    def __init__(self, change):
        self.change = change

    def __call__(self, model, x, loss, rng):
        return self.change(Backprop(2)(model, x, loss, rng), x)


def leaks(found: Directed, x: torch.Tensor) -> Directed:
    torch.rand(1)
    return found


BROKEN = [
    (lambda f, x: f._replace(gradient=-f.gradient), "wrong sign"),
    (lambda f, x: f._replace(gradient=f.gradient.roll(1, -1)), "cosine"),
    (lambda f, x: f._replace(gradient=f.gradient.sign()), "cosine"),
    (lambda f, x: f._replace(gradient=f.gradient.roll(1, 0)), "cosine"),
    (lambda f, x: f._replace(gradient=f.gradient.flatten(1)), "gradient has shape"),
    (lambda f, x: f._replace(value=-f.value), "value is"),
    (lambda f, x: f._replace(value=f.value.sum()), "value has shape"),
    (lambda f, x: f._replace(logits=f.logits[0]), "logits have shape"),
    (lambda f, x: f._replace(logits=f.logits + 1), "logits differ"),
    (lambda f, x: f._replace(cost=Cost(1, 1)), "cost says"),
    (lambda f, x: (f.value, f.gradient), "returned a tuple"),
    (lambda f, x: f._replace(gradient=f.gradient * torch.rand(1)), "global random state"),
    (leaks, "global random state"),
    (lambda f, x: f._replace(gradient=x.mul_(0.5) * 0 + f.gradient), "changes the images"),
    (lambda f, x: f._replace(gradient=f.gradient * torch.nan), "not finite"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN, ids=[f"{i}-{m}" for i, (_, m) in enumerate(BROKEN)])
def test_the_exam_finds_a_broken_estimator(change, message):
    with pytest.raises(ContractError, match=message):
        check_estimator(Altered(change))


def test_the_exam_finds_an_average_over_one_draw_in_the_batch():
    """EoT by replication on shared noise is no EoT: every copy sees the same draw."""

    class Replicated(Altered):
        def __call__(self, model, x, loss, rng):
            return Backprop(1)(model, x, loss, Stream())  # the same draw on every stream

    with pytest.raises(ContractError, match="cosine"):
        check_estimator(Replicated(None))


def test_the_exam_refuses_what_it_cannot_examine():
    with pytest.raises(UsageError, match="Estimator"):
        check_estimator(torch.nn.Flatten())
    assert exam_images(3).shape == (3, 3, 4, 4)
