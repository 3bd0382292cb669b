"""The climb under BIM and PGD: what is kept, what is dropped, and what luck cannot do."""

from __future__ import annotations

import itertools

import pytest
import torch
from toy_nets import RNG, attack, error_rate

from robassay.access import White
from robassay.attacks import gradient
from robassay.attacks.gradient import BIM, FGSM, PGD, steepest, strongest
from robassay.classifier import Classifier, Mixture
from robassay.estimators import Augmented, Backprop, Differences, InputNoise
from robassay.testing import ExamNet, exam_images
from robassay.threat import Goal, Threat

LINF, L2 = Threat("linf", 0.05), Threat("l2", 0.3)


class Fooled(Classifier):
    """Wrong (class 1) where the first pixel is above a level, else right; the gradient always points there."""

    classes, stochastic = 2, False

    def __init__(self, levels: torch.Tensor) -> None:
        super().__init__()
        self.levels = levels

    def draw(self, h):
        flat = h.flatten(1)
        level = self.levels[flat[:, 1].round().long()]  # the second pixel names the image
        return torch.stack([torch.zeros(len(h)), 10 * (flat[:, 0] - level)], 1)


def tagged(count: int = 2) -> torch.Tensor:
    x = torch.zeros(count, 1, 1, 2)
    x[:, 0, 0, 1] = torch.arange(count, dtype=torch.float32)
    return x


def test_bim_stops_at_the_first_success_and_otherwise_goes_on():
    """As published: the clean image counts, later iterates are not tried, failures run to the end."""
    x, goal = tagged(), Goal(torch.zeros(2, dtype=torch.int64))
    box = Threat("linf", 0.5, box=(0.0, 1.0))
    model = Fooled(torch.tensor([0.12, 0.9]))
    early, access = attack(BIM(steps=12, step=0.05, early=True), model, x, goal, box)
    assert early[:, 0, 0, 0].tolist() == pytest.approx([0.15, 0.5])  # the first multiple of .05 above .12
    assert access.spent.gradients.tolist() == [5, 12]  # found at the fourth look, dropped at the next compaction
    last, _ = attack(BIM(steps=12, step=0.05), model, x, goal, box)
    assert last[:, 0, 0, 0].tolist() == pytest.approx([0.5, 0.5])
    wrong, _ = attack(BIM(steps=12, step=0.05, early=True), Fooled(torch.tensor([-1.0, -1.0])), x, goal, box)
    assert torch.equal(wrong, x)


def test_early_stopping_decides_by_the_mean_logits_of_the_draws():
    """Tan et al. 2020 attack the logits averaged over 10 passes: so is success judged, not by a vote of the draws."""

    class Rare(Classifier):
        """Draw i of the three is (0, 9) or (0, −1): two votes for class 0, mean logits for class 1."""

        classes, stochastic, asked = 2, True, 0

        def draw(self, h):
            self.asked += 1
            wrong = torch.full((len(h),), 9.0 if self.asked % 3 == 1 else -1.0)
            return torch.stack([0 * h.flatten(1)[:, 0], wrong + h.flatten(1)[:, 0]], 1)

    x, goal = tagged(), Goal(torch.zeros(2, dtype=torch.int64))
    stopped, access = attack(BIM(steps=8, step=0.05, early=True), Rare(), x, goal, Threat("linf", 0.5), Backprop(3))
    assert torch.equal(stopped, x) and access.spent.gradients.tolist() == [15, 15]


def test_finished_examples_leave_the_batch_unless_it_is_coupled():
    model = ExamNet()
    x = exam_images(8)
    goal = Goal(model.quiet(x).argmax(1))
    _, access = attack(PGD(steps=20), model, x, goal, LINF)
    spent = access.spent.gradients
    assert spent.min() < 20 and spent.max() == 20 and (spent[spent < 20] % 5 == 0).all()
    assert model.batches != {8}

    for method in (PGD(steps=20), PGD(steps=20, restarts=2), BIM(steps=20, step=0.01, early=True), BIM(), FGSM()):
        coupled = ExamNet(coupled=True)
        _, access = attack(method, coupled, x, goal, LINF)
        assert coupled.batches == {8}
        assert len(set(access.spent.gradients.tolist())) == 1


def test_a_coupled_example_is_not_frozen_at_its_first_success():
    """Its batch mates move on, and so may its logits: only the last looks tell."""
    x = exam_images(8)
    goal = Goal(ExamNet().quiet(x).argmax(1))
    free, _ = attack(PGD(steps=20, random_start=False), ExamNet(coupled=True), x, goal, LINF)
    stopped, _ = attack(PGD(steps=20, random_start=False), ExamNet(), x, goal, LINF)
    gain = goal.margin(ExamNet()(free)) - goal.margin(ExamNet()(stopped))
    assert (gain >= -1e-6).all() and gain.max() > 0.1


def test_restarts_never_lose_and_sometimes_win():
    model, x = ExamNet(), exam_images(40)
    goal, threat = Goal(model.quiet(x).argmax(1)), Threat("linf", 0.1)
    margins = [
        goal.margin(model(attack(PGD(steps=3, loss="margin", restarts=r), model, x, goal, threat)[0]))
        for r in (1, 2, 6)
    ]
    for fewer, more in itertools.pairwise(margins):
        assert ((more >= fewer - 1e-6) | (more > 0)).all()
    assert (margins[2] > margins[0] + 1e-4).any()
    assert ((margins[0] > 0) <= (margins[2] > 0)).all()


def test_several_models_are_all_to_be_fooled():
    """An example is finished when every model is fooled, not when most are."""

    class Many(Fooled):
        pass

    models = [Many(torch.tensor([level, level])) for level in (0.05, 0.05, 0.33)]
    x, goal = tagged(), Goal(torch.zeros(2, dtype=torch.int64))
    found, _ = attack(PGD(steps=20, step=0.05, random_start=False), models, x, goal, Threat("linf", 0.6))
    assert (found[:, 0, 0, 0] > 0.33).all()


@pytest.mark.parametrize("estimator", [Differences(0.3, 20), Augmented(InputNoise(0.3), 8)], ids=repr)
def test_success_is_seen_at_the_image_not_beside_it(estimator):
    """Most of the estimator's own inputs are misclassified here, the image is not: it must not count as finished."""

    class Rim(Classifier):
        """Right within .35 of the first image, wrong outside, and a loss that leads away."""

        classes = 2

        def draw(self, h):
            away = (h - 0.5).flatten(1)
            return torch.stack([torch.zeros(len(h)), 20 * (away.square().sum(1) + 0.3 * away.sum(1) - 0.6)], 1)

    x, goal = torch.full((4, 1, 3, 3), 0.5), Goal(torch.zeros(4, dtype=torch.int64))
    beside, _ = attack(PGD(steps=1, random_start=False), Rim(), x, goal, Threat("linf", 0.5), estimator)
    assert not goal.reached(Rim()(x).argmax(1)).any() and beside.shape == x.shape
    found, _ = attack(PGD(steps=10, random_start=False), Rim(), x, goal, Threat("linf", 0.5), estimator)
    assert goal.reached(Rim()(found).argmax(1)).all()


def test_the_kept_iterate_is_not_a_lucky_one():
    """On noise alone there is nothing to find: fresh draws must say what they say of the clean image."""

    class Coin(Classifier):
        classes, stochastic, rows = 2, True, "independent"

        def draw(self, h):
            return torch.stack([0 * h.flatten(1)[:, 0], (torch.rand(len(h)) < 0.1).float() - 0.5], 1)

    x = torch.rand(20, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    goal = Goal(torch.zeros(20, dtype=torch.int64))
    x_adv, access = attack(PGD(steps=10), Coin(), x, goal, LINF, Backprop(2))
    assert abs(error_rate(Coin(), x_adv, goal, 4000).mean() - 0.1) < 4 * (0.09 / 80_000) ** 0.5
    assert access.spent.draws.tolist() == [10 * 2 + 2 + 2 * 20] * 20


def test_keeping_the_best_costs_little_and_restarts_pay_on_a_random_model():
    model, x = ExamNet(noise=0.8), exam_images(30)
    goal, threat = Goal(model.quiet(x).argmax(1)), Threat("linf", 0.03)
    rates = {}
    for name, method in (
        ("last", PGD(steps=20, loss="margin", keep="last")),
        ("best", PGD(steps=20, loss="margin")),
        ("often", PGD(steps=20, loss="margin", restarts=4)),
    ):
        x_adv, _ = attack(method, model, x, goal, threat, Backprop(3))
        rates[name] = error_rate(model, x_adv, goal, 1000).mean().item()
    clean = error_rate(model, x, goal, 1000).mean().item()
    assert rates["last"] > clean + 0.1
    assert rates["best"] > rates["last"] - 0.01
    assert rates["often"] > rates["last"] - 0.01


def test_candidates_are_compared_on_the_same_draws():
    """With fresh draws for each, noise that all candidates have in common would decide."""

    class Loud(Classifier):
        classes, stochastic = 2, True

        def draw(self, h):
            return torch.stack([torch.zeros(len(h)), h.flatten(1)[:, 0] - 0.5 + 5 * torch.randn(1)], 1)

    x, goal = torch.full((3, 1, 1, 1), 0.5), Goal(torch.zeros(3, dtype=torch.int64))
    access = White().open([Loud()], 3)
    for i in range(10):
        chosen = strongest(access, goal, [x, x + 0.01, x - 0.01], RNG.child(i), 5)
        assert torch.equal(chosen, x + 0.01)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_momentum_accumulates_gradients_of_unit_l1_size(norm):
    """Dong et al. 2018, eq. 6, step by step."""
    threat, net, x = Threat(norm, 0.2), ExamNet(), exam_images(6)
    goal = Goal(net.quiet(x).argmax(1))
    now, pace = x, torch.zeros_like(x)
    for _ in range(7):
        image = now.clone().requires_grad_()
        (found,) = torch.autograd.grad(goal.cross_entropy(net(image)).sum(), image)
        pace = 0.9 * pace + found / found.abs().sum((1, 2, 3), keepdim=True)
        now = threat.project(now + 0.03 * steepest(pace, threat), x)
    method = PGD(steps=7, step=0.03, momentum=0.9, random_start=False, keep="last")
    assert torch.allclose(attack(method, net, x, goal, threat)[0], now, atol=1e-5)
    without = PGD(steps=7, step=0.03, random_start=False, keep="last")
    assert (attack(without, net, x, goal, threat)[0] - now).abs().max() > 1e-3


def test_a_given_start_is_projected_and_used_once():
    x = exam_images(4)
    given = x + 0.5
    goal, asked = Goal(torch.zeros(4, dtype=torch.int64)), []

    class Recording(Classifier):
        classes, stochastic = 2, True

        def draw(self, h):
            asked.append(h.detach().clone())
            return torch.stack([torch.zeros(len(h)), h.flatten(1).sum(1) * 1e-3 - 9], 1)

    access = White().open([Recording()], 4)
    access.start = given
    PGD(steps=1, restarts=2)(access, x, goal, LINF, RNG)
    assert torch.equal(asked[0], LINF.project(given, x))
    assert not torch.equal(asked[2], asked[0])  # the second restart is random


@pytest.mark.parametrize(("restarts", "first_random", "expected"), [(1, True, 1), (1, False, 0), (3, False, 2)])
def test_later_restarts_are_random(restarts, first_random, expected, monkeypatch):
    starts = []
    real = gradient.random_start
    monkeypatch.setattr(gradient, "random_start", lambda *a: starts.append(real(*a)) or starts[-1])
    x, goal = exam_images(4), Goal(torch.zeros(4, dtype=torch.int64))
    attack(PGD(steps=2, restarts=restarts, random_start=first_random), ExamNet(noise=0.5), x, goal, LINF)
    assert len(starts) == expected
    assert all(not torch.equal(s, x) for s in starts)
    assert len({s.sum().item() for s in starts}) == expected  # each from a stream of its own


def test_a_mixture_is_attacked_through_its_members():
    members = [ExamNet(), ExamNet(noise=0.5)]
    mixture, x = Mixture(members), exam_images(8)
    goal, threat = Goal(members[0].quiet(x).argmax(1)), Threat("linf", 0.08)
    x_adv, access = attack(BIM(steps=20), members, x, goal, threat, Backprop(4))
    assert error_rate(mixture, x_adv, goal).mean() > error_rate(mixture, x, goal).mean() + 0.5
    assert access.spent.gradients.tolist() == [20 * 5] * 8
    for member in members:
        member.requires_grad_(False)
    direct, _ = attack(PGD(steps=20, loss="margin"), mixture, x, goal, threat, Backprop(10))
    assert error_rate(mixture, direct, goal).mean() > error_rate(mixture, x, goal).mean() + 0.5
