"""Boundary attack: the exact distance on a linear model, budgets counted pass by pass, no failure spreads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from quick import digits_net
from torch import Tensor, nn

from robassay.access import Decisions
from robassay.attacks.accept import KOfN, MeanOfDraws, Single
from robassay.attacks.boundary import Boundary
from robassay.attacks.hopskipjump import HopSkipJump
from robassay.classifier import Classifier, Wrapped
from robassay.data import find, pixels
from robassay.errors import UsageError
from robassay.rng import Stream
from robassay.testing import check_attack
from robassay.threat import Goal, Threat

RNG = Stream(("test", "boundary"))
L2 = Threat("l2")
DIGITS = find("digits").split("test")
X, Y = pixels(DIGITS.x[:40]), DIGITS.y[:40]
SHORT = (Boundary(queries=150), HopSkipJump(queries=250, first=20))


class Counted(Classifier):
    """Logits of ``layers``, with Gaussian input noise; counts the images that it sees."""

    def __init__(self, layers: nn.Module, classes: int, noise: float = 0.0, coupled: bool = False) -> None:
        super().__init__()
        self.layers, self.classes, self.noise, self.coupled = layers.requires_grad_(False), classes, noise, coupled
        self.stochastic = noise > 0
        self.seen = 0

    def draw(self, h: Tensor) -> Tensor:
        self.seen += len(h)
        return self.layers(h + self.noise * torch.randn_like(h) if self.noise else h)


def attacked(attack: Any, model: Classifier, x: Tensor, goal: Goal, threat: Threat = L2, start: Any = None) -> Any:
    access = Decisions().open([model], len(x))
    access.start = start
    return attack(access, x, goal, threat, RNG), access.spent


def linear(noise: float = 0.0) -> tuple[Counted, Tensor, Tensor, Tensor]:
    """A linear model of two classes, images inside the box, their labels and exact L2 distances."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        layer = nn.Linear(64, 2)
    x = 0.45 + 0.1 * torch.rand(20, 1, 8, 8, generator=RNG.generator())
    w = layer.weight[0] - layer.weight[1]
    layer.bias.data[0] += 0.3 * w.norm() - (layer(x.flatten(1)).mean(0) @ torch.tensor([1.0, -1.0]))
    logits = layer(x.flatten(1))
    model = Counted(nn.Sequential(nn.Flatten(), layer), 2, noise)
    return model, x, logits.argmax(1), ((logits[:, 0] - logits[:, 1]).abs() / w.norm()).detach()


@pytest.fixture(scope="module")
def net() -> Classifier:
    """A small net on digits, a second of training."""
    return Wrapped(
        digits_net(lambda: nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, 10))),
        10,
        stochastic=False,
    )


def test_it_reaches_the_distance_of_a_linear_boundary():
    model, x, y, exact = linear()
    before = x.clone()
    x_adv, _ = attacked(Boundary(queries=2000), model, x, Goal(y))
    assert (model(x_adv).argmax(1) != y).all()
    assert torch.equal(x, before)
    assert (x_adv >= 0).all() and (x_adv <= 1).all()
    ratio = L2.size(x_adv, x) / exact
    assert ratio.min() >= 0.999 and ratio.max() <= 1.05


@pytest.mark.parametrize("attack", SHORT, ids=repr)
def test_it_is_never_farther_than_its_start(attack, net):
    other = torch.where((Y == 0).reshape(-1, 1, 1, 1), X[Y == 1][0], X[Y == 0][0])
    wanted = Goal(net(other).argmax(1), targeted=True)
    x_adv, _ = attacked(attack, net, X, wanted, start=other)
    assert wanted.reached(net(x_adv).argmax(1)).all()
    assert (L2.size(x_adv, X) <= L2.size(other, X)).all()
    assert L2.size(x_adv, X).mean() < 0.6 * L2.size(other, X).mean()


class FirstPixel(nn.Module):
    """Class 0 for images whose first pixel is 0.7 or more, whatever the rest; class 1 for others. Never class 2."""

    def forward(self, x: Tensor) -> Tensor:
        high = (x[:, 0, 0, 0] >= 0.7).float()
        return torch.stack([high, 1 - high, torch.full_like(high, -1.0)], 1)


@pytest.mark.parametrize("attack", SHORT, ids=repr)
def test_an_image_without_a_start_is_returned_unchanged(attack):
    """Wanted labels that the model never gives spoil nothing for the other images."""
    x = torch.full((4, 1, 4, 4), 0.5)
    x += 0.01 * torch.rand(x.shape, generator=RNG.generator())
    model = Counted(FirstPixel(), 3)
    goal = Goal(torch.tensor([0, 2, 0, 2]), targeted=True)
    x_adv, spent = attacked(attack, model, x, goal)
    assert torch.equal(x_adv[1::2], x[1::2])
    assert (x_adv[::2, 0, 0, 0] >= 0.7).all()
    assert int(spent.queries.max()) <= attack.queries
    alone, _ = attacked(attack, model, x[::2], goal[torch.tensor([0, 2])])
    assert torch.equal(alone, x_adv[::2])


def test_a_hopeless_image_costs_a_thousand_noise_images():
    x = torch.full((1, 1, 4, 4), 0.5)
    _, spent = attacked(Boundary(queries=5000), Counted(FirstPixel(), 3), x, Goal(torch.tensor([2]), targeted=True))
    assert spent.queries.tolist() == [1001]


@pytest.mark.parametrize("attack", SHORT, ids=repr)
def test_a_misclassified_image_stays_as_it_is(attack, net):
    x_adv, spent = attacked(attack, net, X, Goal((net(X).argmax(1) + 1) % 10))
    assert torch.equal(x_adv, X)
    assert set(spent.queries.tolist()) == {1}


@pytest.mark.parametrize("attack", SHORT, ids=repr)
def test_beyond_the_radius_the_clean_image_is_returned(attack, net):
    free, _ = attacked(attack, net, X, Goal(net(X).argmax(1)))
    eps = float(L2.size(free, X).median())
    bound, _ = attacked(attack, net, X, Goal(net(X).argmax(1)), Threat("l2", eps))
    near = L2.size(free, X) <= eps
    assert 0 < near.sum() < len(X)
    assert torch.equal(bound[near], free[near]) and torch.equal(bound[~near], X[~near])


@pytest.mark.parametrize("attack", [Boundary(queries=151), HopSkipJump(queries=251, first=20)], ids=repr)
@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("coupled", [False, True])
def test_every_pass_is_counted_and_the_budget_holds(attack, noise, coupled, net):
    model = Counted(net.module, 10, noise, coupled)
    _, spent = attacked(attack, model, X[:12], Goal(Y[:12]))
    assert int(spent.queries.sum()) == int(spent.draws.sum()) == model.seen
    assert int(spent.queries.max()) <= attack.queries
    assert int(spent.queries.max()) > 0.7 * attack.queries  # and is used
    assert int(spent.gradients.sum()) == 0


@pytest.mark.parametrize("attack", SHORT, ids=repr)
def test_an_example_does_not_depend_on_its_batch_mates(attack, net):
    goal = Goal(net(X).argmax(1))
    whole, _ = attacked(attack, net, X, goal)
    for size in (1, 7):
        rows = torch.arange(len(X)).split(size)
        parts = torch.cat([attacked(attack, net, X[r], goal[r])[0] for r in rows])
        assert torch.equal(goal.reached(net(parts).argmax(1)), goal.reached(net(whole).argmax(1)))
        assert (L2.size(parts, X) - L2.size(whole, X)).abs().max() <= 1e-4


@pytest.mark.parametrize("make", [Boundary, HopSkipJump])
def test_on_a_random_model_votes_keep_flukes_out(make):
    model, x, y, _ = linear(noise=0.1)
    share = {}
    for rule in (Single(), KOfN(4, 5)):
        x_adv, spent = attacked(make(queries=1500, accept=rule), model, x, Goal(y))
        with torch.no_grad():
            drawn = model.sample(model.prefix(x_adv), 200, RNG.child("judge")).argmax(-1)
        share[rule] = float((drawn != y).float().mean())
        assert int(spent.queries.max()) <= 1500
    published, voted = share.values()
    assert voted >= 0.5
    assert voted > published


def test_nearer_than_foolbox_at_equal_queries(net):
    foolbox = pytest.importorskip("foolbox")
    y = net(X).argmax(1)
    peer = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    with RNG.child("foolbox").active():  # 1.1 queries per step and 52 at the start, in foolbox 3.3.4
        theirs = foolbox.attacks.BoundaryAttack(steps=860).run(peer, X, foolbox.criteria.Misclassification(y))
    ours, _ = attacked(Boundary(queries=1000), net, X, Goal(y))
    assert (net(ours).argmax(1) != y).all()
    assert L2.size(ours, X).mean() <= 0.65 * L2.size(theirs, X).mean()


def test_bad_settings_are_explained(net):
    with pytest.raises(UsageError, match="sees decisions only"):
        Boundary(accept=MeanOfDraws(5))
    with pytest.raises(UsageError, match="candidates ≥ 1"):
        Boundary(candidates=0)
    with pytest.raises(UsageError, match="Use hopskipjump"):
        attacked(Boundary(), net, X, Goal(Y), Threat("linf", 0.1))


def test_it_passes_the_exam():
    check_attack(Boundary(queries=120))
    check_attack(Boundary(queries=120, candidates=3, accept=KOfN(2, 3)))
