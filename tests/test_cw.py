"""CW and ModCW: exact distances on models whose boundary is known, the transformations, stopping, counting, a peer."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from quick import digits_net
from torch import Tensor, nn

from robassay.access import GradientAccess, White
from robassay.attacks.accept import Acceptance, KOfN, MeanOfDraws, Single, confident
from robassay.attacks.cw import CW, ModCW
from robassay.attacks.turns import draws, moved
from robassay.classifier import Classifier, Wrapped
from robassay.data import find, pixels
from robassay.errors import UsageError
from robassay.estimators import Backprop
from robassay.rng import Stream
from robassay.testing import check_attack
from robassay.threat import Goal, Threat, euclidean

RNG = Stream(("test", "cw"))
L2 = Threat("l2")
DIGITS = find("digits").split("test")
X, Y = pixels(DIGITS.x[:60]), DIGITS.y[:60]
QUICK = CW(search=5, steps=60)


def attacked(
    attack: CW, model: Classifier, x: Tensor, goal: Goal, threat: Threat = L2, draws: int = 1
) -> tuple[Tensor, Any]:
    access = White(Backprop(draws)).open([model], len(x))
    return attack(access, x, goal, threat, RNG), access.spent


def wrapped(module: nn.Module, classes: int = 2, stochastic: bool = False, coupled: bool = False) -> Classifier:
    return Wrapped(module.requires_grad_(False), classes, stochastic, coupled)


def linear(pixels: int, classes: int = 2, seed: int = 0) -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(pixels, classes)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    """A small CNN on digits, a second of training."""
    return digits_net(
        lambda: nn.Sequential(
            nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, 50), nn.ReLU(), nn.Linear(50, 10)
        )
    )


def sizes(x_adv: Tensor, x: Tensor) -> Tensor:
    return euclidean(x_adv - x).float()


@pytest.mark.parametrize("side", [8, 28])
@pytest.mark.parametrize("distance", [0.02, 0.2, 1.0])
def test_on_a_linear_model_the_distance_is_margin_over_gradient_norm(side, distance):
    layer = linear(side * side)
    model, w = wrapped(nn.Sequential(nn.Flatten(), layer)), layer.weight[0] - layer.weight[1]
    x = torch.rand(8, 1, side, side, generator=RNG.generator()) * 0.2 + 0.4
    logits = model(x)
    gap = (logits[:, 0] - logits[:, 1]) / w.norm() - distance
    x = x - (gap[:, None] * w / w.norm()).reshape(x.shape)  # every image at this distance
    goal = Goal(model(x).argmax(1))
    exact = -goal.margin(model(x)) / w.norm()
    x_adv, _ = attacked(CW(), model, x, goal)
    assert goal.reached(model(x_adv).argmax(1)).all()
    ratio = sizes(x_adv, x) / exact
    assert (ratio >= 0.999).all() and (ratio <= 1.02).all()


class Ball(nn.Module):
    """Class 1 beyond a ball of ``radius`` about the grey image, whose steepness grows with the distance."""

    def __init__(self, radius: float) -> None:
        super().__init__()
        self.radius = radius

    def forward(self, x: Tensor) -> Tensor:
        beyond = (x - 0.5).flatten(1).square().sum(1) - self.radius**2
        return torch.stack([torch.zeros_like(beyond), 20 * beyond], 1)


def test_on_a_quadratic_model_the_distance_is_exact():
    way = torch.randn(10, 1, 8, 8, generator=RNG.generator())
    inner = torch.linspace(0.1, 0.9, 10)
    x = 0.5 + way / euclidean(way).float().reshape(-1, 1, 1, 1) * inner.reshape(-1, 1, 1, 1)
    model, goal = wrapped(Ball(1.0)), Goal(torch.zeros(10, dtype=torch.int64))
    x_adv, _ = attacked(CW(), model, x, goal)
    assert goal.reached(model(x_adv).argmax(1)).all()
    assert torch.allclose(sizes(x_adv, x), 1 - inner, rtol=0.03)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("kappa", [0.0, 2.0])
def test_goals_and_confidence_are_reached(net, targeted, kappa):
    goal = Goal((Y + 1) % 10 if targeted else Y, targeted, kappa)
    x_adv, _ = attacked(QUICK, wrapped(net, 10), X, goal)
    assert (goal.margin(net(x_adv)) >= kappa).all() and goal.reached(net(x_adv).argmax(1)).all()
    if kappa:
        near, _ = attacked(QUICK, wrapped(net, 10), X, Goal(goal.labels, targeted))
        assert (sizes(x_adv, X) > sizes(near, X)).float().mean() > 0.9


def test_closer_and_not_less_successful_than_foolbox(net):
    foolbox = pytest.importorskip("foolbox")
    model = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    theirs = foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=9, steps=60).run(model, X, Y)
    x_adv, spent = attacked(CW(steps=60), wrapped(net, 10), X, Goal(Y))
    wrong, their_wrong = net(x_adv).argmax(1) != Y, net(theirs).argmax(1) != Y
    assert wrong.sum() >= their_wrong.sum()
    both = wrong & their_wrong
    assert sizes(x_adv, X)[both].mean() <= sizes(theirs, X)[both].mean()
    assert spent.gradients.float().mean() <= 0.8 * 9 * 60


@pytest.mark.parametrize("batch", [1, 7])
def test_the_batch_size_changes_neither_success_nor_distance(net, batch):
    model, x, y = wrapped(net, 10), X[:12], Y[:12]
    attack = CW(search=3, steps=40)
    whole, _ = attacked(attack, model, x, Goal(y))
    parts = [attacked(attack, model, x[i : i + batch], Goal(y[i : i + batch]))[0] for i in range(0, 12, batch)]
    split = torch.cat(parts)
    assert torch.equal(net(whole).argmax(1) != y, net(split).argmax(1) != y)
    assert (sizes(whole, x) - sizes(split, x)).abs().max() <= 1e-4


class Counting(nn.Module):
    """Counts the images of forward passes; ``noise`` is added to the images."""

    def __init__(self, inner: nn.Module, noise: float = 0.0) -> None:
        super().__init__()
        self.inner, self.noise, self.seen = inner, noise, 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        logits: Tensor = self.inner(x + self.noise * torch.randn_like(x) if self.noise else x)
        return logits


@pytest.mark.parametrize(
    "attack", [QUICK, ModCW(search=2, steps=12, copies=2), CW(search=3, steps=25, accept=KOfN(3, 4))]
)
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_every_pass_is_counted(net, attack, noise):
    module = Counting(net, noise)
    x_adv, spent = attacked(attack, wrapped(module, 10, noise > 0), X[:10], Goal(Y[:10]), draws=2)
    assert int(spent.draws.sum()) == module.seen
    assert spent.gradients.sum() == spent.draws.sum() or (noise and attack.accept.fresh)
    assert L2.holds(x_adv, X[:10]).all()


def test_a_constant_added_to_all_logits_changes_nothing():
    layer = linear(64, 4).double()
    with torch.no_grad():
        layer.weight.copy_((layer.weight * 2**10).round() / 2**10)
        layer.bias.zero_()

    class Grid(nn.Module):
        def __init__(self, shift: float) -> None:
            super().__init__()
            self.shift = shift

        def forward(self, x: Tensor) -> Tensor:
            smooth = layer(x.flatten(1).double())
            return (smooth + ((smooth * 2**12).round() / 2**12 - smooth).detach() + self.shift).float()

    y = Grid(0.0)(X[:10]).argmax(1)
    plain, shifted = (attacked(QUICK, wrapped(Grid(s), 4), X[:10], Goal(y))[0] for s in (0.0, 64.0))
    assert torch.equal(plain, shifted)


def test_where_nothing_is_found_the_clean_image_comes_back_exactly(net):
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([2.0, 0.0]).expand(len(x), 2)

    x = X[:5].clone()
    x_adv, _ = attacked(CW(search=3, steps=20), wrapped(Constant()), x, Goal(torch.zeros(5, dtype=torch.int64)))
    assert torch.equal(x_adv, X[:5]) and torch.equal(x, X[:5])


def test_an_image_that_is_wrong_already_stays_as_it_is_and_costs_one_stretch(net):
    wrong = (net(X).argmax(1) + 1) % 10
    x_adv, spent = attacked(CW(), wrapped(net, 10), X, Goal(wrong))
    assert torch.equal(x_adv, X) and int(spent.gradients.max()) <= 10


def test_a_radius_drops_what_lies_beyond(net):
    free, _ = attacked(QUICK, wrapped(net, 10), X, Goal(Y))
    eps = float(sizes(free, X).median())
    within, _ = attacked(QUICK, wrapped(net, 10), X, Goal(Y), Threat("l2", eps))
    inside = sizes(free, X) <= eps
    assert torch.equal(within[inside], free[inside]) and torch.equal(within[~inside], X[~inside])


def test_several_models_are_all_fooled(net):
    other = nn.Sequential(nn.Flatten(), linear(64, 10, seed=3)).requires_grad_(False)
    models = [wrapped(net, 10), wrapped(other, 10)]
    access = GradientAccess(models, len(X), Backprop())
    x_adv = QUICK(access, X, Goal(Y), L2, RNG)
    moved_away = sizes(x_adv, X) > 0
    fooled = torch.stack([m(x_adv).argmax(1) != Y for m in models]).all(0)
    assert torch.equal(fooled | ~moved_away, torch.ones_like(fooled)) and fooled.float().mean() > 0.95


@pytest.mark.parametrize(("accept", "fooled"), [(Single(), True), (KOfN(2, 3), False), (MeanOfDraws(3), False)])
def test_a_lucky_draw_counts_only_where_it_is_asked_for(accept: Acceptance, fooled: bool):
    logits = torch.tensor([[[0.5, 1.0]], [[0.5, 0.0]], [[0.5, 0.0]]])
    seen = logits if accept.fresh else logits[:1]
    assert bool(accept.accepts(Goal(torch.zeros(1, dtype=torch.int64)), seen)) is fooled


def test_robust_acceptance_lowers_the_luck(net):
    """Judged by 50 fresh draws, what KOfN accepted holds more often than what one draw accepted."""
    model = wrapped(Counting(net, 0.2), 10, stochastic=True)
    share = {}
    for accept in (Single(), KOfN(9, 10)):
        x_adv, _ = attacked(CW(search=4, steps=40, accept=accept), model, X[:20], Goal(Y[:20]))
        logits = model.sample(x_adv, 50, RNG.child("judge"))
        share[accept.fresh] = (logits.argmax(-1) != Y[:20]).float().mean().item()
    assert share[10] > share[0] + 0.1


def test_confident_needs_the_margin_and_the_decision():
    goal = Goal(torch.tensor([0, 0, 0]), kappa=1.0)
    assert confident(goal, torch.tensor([[0.0, 1.5], [0.0, 0.5], [0.0, 1.0]])).tolist() == [True, False, True]
    tie = Goal(torch.tensor([0]))
    assert not confident(tie, torch.tensor([[1.0, 1.0]])).any()  # the arg-max of a tie is the label itself


def test_transforming_by_nothing_is_the_identity_and_half_a_turn_twice_is_too():
    x = torch.rand(3, 2, 9, 12, generator=RNG.generator())
    nothing, half = torch.zeros(3), torch.full((3,), math.pi)
    assert torch.allclose(moved(x, nothing, nothing, nothing), x, atol=1e-5)
    twice = moved(moved(x, half, nothing, nothing), half, nothing, nothing)
    assert torch.allclose(twice[..., 1:-1, 1:-1], x[..., 1:-1, 1:-1], atol=1e-5)
    assert torch.allclose(moved(x, half, nothing, nothing), x.flip(-1, -2), atol=1e-4)


def test_a_turn_comes_before_the_shift_and_what_enters_is_black():
    x = torch.rand(1, 1, 7, 7, generator=RNG.generator())
    right = moved(x, torch.zeros(1), torch.zeros(1), torch.full((1,), 2.0))
    assert torch.allclose(right[..., 2:], x[..., :-2], atol=1e-5) and right[..., :2].max() < 1e-5
    both = moved(x, torch.full((1,), math.pi / 2), torch.zeros(1), torch.full((1,), 2.0))
    turned = moved(x, torch.full((1,), math.pi / 2), torch.zeros(1), torch.zeros(1))
    assert torch.allclose(both[..., 2:], turned[..., :-2], atol=1e-4)
    assert torch.allclose(turned, torch.rot90(x, -1, (-2, -1)), atol=1e-4)


def test_draws_belong_to_the_image():
    triples = draws(X[:5], 70, RNG)
    assert triples.shape == (5, 70, 3)
    assert torch.equal(draws(X[3:4], 70, RNG)[0], triples[3]) and not torch.equal(triples[0], triples[1])
    extra = ModCW(steps=20).extra(X, RNG)
    assert extra.turn.abs().max() <= math.pi and set(extra.far.unique().tolist()) == set(range(11))


class Flat(nn.Module):
    """Class 1 where the right half is the brighter one; no direction leads there."""

    def forward(self, x: Tensor) -> Tensor:
        right = x[..., 4:].sum((1, 2, 3)) > x[..., :4].sum((1, 2, 3))
        score = right.to(x.dtype) + 0.0 * x.sum((1, 2, 3))
        return 3 * torch.stack([1 - score, score], 1)


def test_offered_copies_are_answers_the_closest_that_fools_and_else_they_are_not():
    """On a plateau the image itself never moves: what comes back is the clean image, or one of the turned ones."""
    x = torch.zeros(6, 1, 8, 8)
    x[:, :, 2:6, :4] = torch.rand(6, 1, 4, 4, generator=RNG.generator())
    model, goal = wrapped(Flat()), Goal(torch.zeros(6, dtype=torch.int64))
    attack = ModCW(search=1, steps=10, c0=0.01, copies=3, shift=0, abort_early=False)
    assert torch.equal(attacked(attack, model, x, goal)[0], x)
    found, _ = attacked(replace(attack, offered=True), model, x, goal)
    turns = draws(x, 30, RNG.child("search", 0, "copies"))[..., 0]
    none = torch.zeros(6)
    turned = [moved(x, torch.deg2rad(180 * (2 * turns[:, i] - 1)), none, none) for i in range(30)]
    lengths = torch.stack([torch.where(model(t).argmax(1) == 1, sizes(t, x), torch.inf) for t in turned])
    assert goal.reached(model(found).argmax(1)).all()
    # Adam makes whole steps of rounding errors, so the image itself is not quite still.
    assert torch.allclose(sizes(found, x), lengths.min(0).values, rtol=2e-3)


def test_modcw_succeeds_on_the_image_itself_and_goes_further(net):
    model = wrapped(net, 10)
    near, _ = attacked(CW(search=3, steps=40), model, X[:20], Goal(Y[:20]))
    far, _ = attacked(ModCW(search=3, steps=40, shift=2), model, X[:20], Goal(Y[:20]))
    assert (net(far).argmax(1) != Y[:20]).all()
    assert sizes(far, X[:20]).mean() >= sizes(near, X[:20]).mean()
    again, _ = attacked(ModCW(search=3, steps=40, shift=2), model, X[4:6], Goal(Y[4:6]))
    assert (sizes(again, X[4:6]) - sizes(far, X[:20])[4:6]).abs().max() <= 1e-4


@pytest.mark.parametrize("attack", [CW(search=2, steps=20), CW(search=2, steps=12, accept=MeanOfDraws(3))])
def test_keeps_the_contract(attack):
    check_attack(attack, L2)


@pytest.mark.parametrize(
    "make",
    [
        lambda: CW(search=0),
        lambda: CW(lr=0.0),
        lambda: CW(c0=-1.0),
        lambda: CW(factor=1.0),
        lambda: CW(smoothing=0.0),
        lambda: ModCW(copies=0),
        lambda: KOfN(3, 2),
        lambda: MeanOfDraws(0),
    ],
)
def test_bad_settings_say_what_to_write(make):
    with pytest.raises(UsageError):
        make()


def test_another_norm_is_refused(net):
    with pytest.raises(UsageError, match="l2"):
        attacked(CW(), wrapped(net, 10), X, Goal(Y), Threat("linf", 0.1))
