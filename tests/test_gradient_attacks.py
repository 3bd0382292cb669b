"""Gradient attacks against closed forms and an independent library, and through their exam."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from robassay.access import Attack, GradientAccess, White
from robassay.attacks.gradient import BIM, FGSM, PGD, RFGSM, Climb, random_start, steepest
from robassay.classifier import Classifier, Mixture
from robassay.errors import UsageError
from robassay.estimators import Augmented, Backprop, Differences, InputNoise
from robassay.registry import part
from robassay.rng import Stream
from robassay.testing import ContractError, ExamNet, check_attack, exam_images
from robassay.threat import Goal, Threat

RNG = Stream(("test",))
LINF, L2 = Threat("linf", 0.05), Threat("l2", 0.3)


class Linear(Classifier):
    """Two classes, images in the middle of the box: every step of an attack is known."""

    classes = 2

    def __init__(self, sigma: float = 0.0) -> None:
        super().__init__()
        self.weight = torch.randn(2, 12, generator=torch.Generator().manual_seed(0))
        self.sigma, self.stochastic, self.rows = sigma, sigma > 0, "independent"

    def draw(self, h):
        flat = h.flatten(1)
        return (flat + self.sigma * torch.randn(flat.shape) if self.sigma else flat) @ self.weight.T


MIDDLE = 0.5 + 0.1 * torch.rand(6, 3, 2, 2, generator=torch.Generator().manual_seed(1))
TOWARD = Linear().weight[1] - Linear().weight[0]
LABELS = torch.tensor([0, 1, 0, 1, 0, 1])


def attack(method, model, x, goal, threat, estimator=None, rng=RNG):
    access = White(estimator or Backprop()).open([model] if isinstance(model, Classifier) else model, len(x))
    return method(access, x, goal, threat, rng), access


def error_rate(model, x_adv, goal, draws=2000):
    with torch.no_grad():
        logits = model.sample(model.prefix(x_adv), draws, Stream(("judge",)))
    return goal.reached(logits.argmax(-1)).float().mean(0)


# ------------------------------------------------------------------------------------------------------ closed forms

LINEAR = [
    (FGSM(), ("linf", "l2")),
    (FGSM(loss="margin"), ("linf", "l2")),
    (RFGSM(share=0.0), ("linf",)),
    (BIM(steps=7), ("linf", "l2")),
    (PGD(steps=40, step=0.02, loss="margin", keep="last"), ("linf", "l2")),
    (PGD(steps=30, keep="last", random_start=False), ("linf", "l2")),
    (PGD(steps=40, step=0.02, loss="scaled_ce", keep="last"), ("linf", "l2")),
]


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(("method", "norm"), [(m, n) for m, norms in LINEAR for n in norms], ids=repr)
def test_a_linear_margin_drops_by_exactly_the_dual_norm(method, norm, targeted):
    """eps ‖w_y − w_j‖₁ in L∞, eps ‖w_y − w_j‖₂ in L2, for leaving the label and for reaching the other one."""
    threat = Threat(norm, 0.05)
    goal = Goal(1 - LABELS if targeted else LABELS, targeted)
    x_adv, _ = attack(method, Linear(), MIDDLE, goal, threat)
    dual = TOWARD.abs().sum() if norm == "linf" else TOWARD.norm()
    gain = goal.margin(Linear()(x_adv)) - goal.margin(Linear()(MIDDLE))
    assert torch.allclose(gain, 0.05 * dual.expand(6), rtol=1e-3)
    assert threat.holds(x_adv, MIDDLE).all()


def test_rfgsm_spends_its_share_on_a_random_sign():
    """Of eps, the share goes in ± directions and the rest along the gradient."""
    eps, share = 0.05, 0.4
    x_adv, _ = attack(RFGSM(share=share), Linear(), MIDDLE, Goal(LABELS), Threat("linf", eps))
    along = (x_adv - MIDDLE).flatten(1) * torch.where(LABELS == 0, 1.0, -1.0)[:, None] * TOWARD.sign()
    sizes = {round(v, 4) for v in along.flatten().tolist()}
    assert sizes == {round(eps, 4), round(eps * (1 - 2 * share), 4)}


def test_eot_on_a_gaussian_head_reaches_the_known_error_probability():
    model, eps, goal = Linear(sigma=0.4), 0.05, Goal(LABELS)
    x_adv, _ = attack(PGD(steps=20, loss="margin"), model, MIDDLE, goal, Threat("linf", eps), Backprop(10))
    sign = torch.where(LABELS == 0, 1.0, -1.0)
    mean = sign * (MIDDLE.flatten(1) @ TOWARD) + eps * TOWARD.abs().sum()
    expected = 0.5 * torch.erfc(-mean / (0.4 * TOWARD.norm()) / 2**0.5)
    measured = error_rate(model, x_adv, goal, 20_000)
    # The kept iterate was chosen on draws; the last ones all lie at the optimum, so little is lost.
    assert (measured < expected + 4 * (0.25 / 20_000) ** 0.5).all()
    assert (measured > expected - 0.03).all()
    assert ((expected > 0.05) & (expected < 0.95)).any()


# -------------------------------------------------------------------------------------------------------- the oracle


@pytest.fixture(scope="module")
def oracle():
    """A smooth network, its images, and the same in foolbox."""
    foolbox = pytest.importorskip("foolbox")
    torch.manual_seed(0)
    module = (
        nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.Softplus(), nn.Linear(32, 5)).eval().requires_grad_(False)
    )

    class Net(Classifier):
        classes = 5

        def draw(self, h):
            return module(h)

    x = exam_images(16)
    labels = module(x).argmax(1)
    return foolbox, foolbox.PyTorchModel(module, bounds=(0, 1), device="cpu"), Net(), x, labels


def agree(found, theirs, eps):
    """Equal up to float rounding; where a gradient entry is zero to rounding, its sign may differ."""
    gap = (found - theirs).abs()
    assert (gap > 1e-5).float().mean() < 0.002, f"{(gap > 1e-5).float().mean():.4f} of the pixels differ"
    assert gap.max() <= 2 * eps + 1e-5


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fgsm_is_foolboxs(oracle, norm):
    foolbox, theirs, ours, x, labels = oracle
    method = {"linf": foolbox.attacks.FGSM, "l2": foolbox.attacks.FGM}[norm]()
    expected = method(theirs, x, labels, epsilons=0.1)[1]
    agree(attack(FGSM(), ours, x, Goal(labels), Threat(norm, 0.1))[0], expected, 0.1)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_is_foolboxs_from_the_same_start(oracle, norm, targeted):
    foolbox, theirs, ours, x, labels = oracle
    goal = Goal((labels + 1) % 5 if targeted else labels, targeted)
    threat, rng = Threat(norm, 0.1), RNG.child("oracle")
    start = random_start(x, threat, rng.child("restart", 0).child("start"))
    kind = {"linf": foolbox.attacks.LinfPGD, "l2": foolbox.attacks.L2PGD}[norm]

    class SameStart(kind):
        def get_random_start(self, x0, epsilon):
            return type(x0)(start)

    criteria = foolbox.criteria
    criterion = (criteria.TargetedMisclassification if targeted else criteria.Misclassification)(goal.labels)
    expected = SameStart(steps=15, abs_stepsize=0.02)(theirs, x, criterion, epsilons=0.1)[1]
    found, _ = attack(PGD(steps=15, step=0.02, keep="last"), ours, x, goal, threat, rng=rng)
    agree(found, expected, 0.1)


def test_bim_is_foolboxs(oracle):
    foolbox, theirs, ours, x, labels = oracle
    method = foolbox.attacks.LinfBasicIterativeAttack(steps=10, abs_stepsize=0.02)
    expected = method(theirs, x, labels, epsilons=0.1)[1]
    agree(attack(BIM(steps=10, step=0.02), ours, x, Goal(labels), Threat("linf", 0.1))[0], expected, 0.1)


# ------------------------------------------------------------------------------------------------ directions and starts


@pytest.mark.parametrize("size", [1e-30, 1e-25, 1e-10, 1.0, 1e10])
def test_the_steepest_direction_has_unit_size_however_small_the_gradient(size):
    gradient = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0)) * size
    assert torch.allclose(steepest(gradient, L2).flatten(1).norm(dim=1), torch.ones(3), atol=1e-4)
    assert (steepest(gradient, LINF).abs() == 1).all()
    assert torch.allclose(steepest(gradient, L2), steepest(gradient / size, L2), atol=1e-4)


def test_no_gradient_is_no_direction():
    zero = torch.zeros(2, 1, 2, 2)
    assert not steepest(zero, L2).any() and not steepest(zero, LINF).any()
    with pytest.raises(UsageError, match="one-pixel"):
        steepest(zero, Threat("l0", 2))


def test_random_starts_are_uniform_in_the_ball():
    x = torch.rand(3000, 1, 1, 3, generator=torch.Generator().manual_seed(0)) * 0.001 + 0.5
    x[::2, 0, 0, 0] = 0.5  # a pixel in common, as the black border of digits
    linf = (random_start(x, Threat("linf", 0.2), RNG) - x) / 0.2
    assert linf.abs().max() <= 1 + 1e-5 and abs(linf.mean()) < 0.03 and abs(linf.var() - 1 / 3) < 0.02
    radius = (random_start(x, Threat("l2", 0.2), RNG) - x).flatten(1).norm(dim=1) / 0.2
    volume = radius**3  # uniform, if the start is
    assert volume.max() <= 1 + 1e-5
    assert (volume.sort().values - torch.linspace(0, 1, 3000)).abs().max() < 1.6 / 3000**0.5  # Kolmogorov-Smirnov
    half = volume[::2].sort().values
    assert (half - torch.linspace(0, 1, 1500)).abs().max() < 1.6 / 1500**0.5
    direction = (random_start(x, Threat("l2", 0.2), RNG) - x).flatten(1)
    assert (direction.mean(0).abs() < 0.02).all()


# ------------------------------------------------------------------------------------------------------------- climbs


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
    goal, threat = Goal(model.quiet(x).argmax(1)), Threat("linf", 0.03)
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
    """With fresh draws for each, noise common to all candidates would decide."""
    model = ExamNet(noise=3.0)
    x = exam_images(8)
    access = White().open([model], 8)
    climb = Climb(access, x, Goal(model.quiet(x).argmax(1)), LINF, "ce")
    worse = x.clone()
    goal = climb.goal
    better = LINF.project(x + 0.05 * steepest(Backprop(200)(model, x, goal.margin, RNG).gradient, LINF), x)
    chosen = climb.choose([worse, better], RNG, 20)
    assert (chosen == better).flatten(1).all(1).float().mean() >= 0.75
    assert torch.equal(climb.choose([worse, x.clone()], RNG, 1), x)  # equal candidates get equal scores


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


def test_impossible_settings_are_refused():
    x, goal = exam_images(2), Goal(torch.tensor([0, 1]))
    for make in (
        lambda: BIM(steps=0),
        lambda: BIM(step=0.0),
        lambda: PGD(steps=-1),
        lambda: PGD(restarts=0),
        lambda: PGD(select=0),
        lambda: PGD(keep="first"),
        lambda: PGD(keep="last", restarts=2),
        lambda: RFGSM(share=1.5),
        lambda: PGD(step=math.nan),
    ):
        with pytest.raises(UsageError):
            make()
    for method, threat, message in (
        (FGSM(), Threat("linf"), "needs a radius"),
        (PGD(), Threat("l0", 3), "one-pixel"),
        (RFGSM(), L2, "Use pgd"),
        (FGSM(loss="hinge"), LINF, "ce, scaled_ce"),
    ):
        with pytest.raises(UsageError, match=message):
            attack(method, ExamNet(), x, goal, threat)


# ------------------------------------------------------------------------------------------------------------ the exam

ATTACKS = [
    (FGSM(), LINF),
    (FGSM(loss="dlr"), L2),
    (RFGSM(), LINF),
    (BIM(steps=8), L2),
    (BIM(steps=25, step=0.05, early=True), LINF),
    (PGD(steps=8), LINF),
    (PGD(steps=8, restarts=2, loss="margin"), L2),
    (PGD(steps=8, loss="dlr"), LINF),
    (PGD(steps=8, loss="scaled_ce"), L2),
    (PGD(steps=8, keep="last", random_start=False), LINF),
]


@pytest.mark.parametrize(("method", "threat"), ATTACKS, ids=[f"{a!r}-{t.norm}" for a, t in ATTACKS])
def test_a_gradient_attack_passes_its_exam(method, threat):
    assert all(r.ok for r in check_attack(method, threat))


def test_an_attack_passes_with_several_draws():
    assert all(r.ok for r in check_attack(PGD(steps=8), LINF, White(Backprop(3, "logits"))))


class Base(Attack):
    """An honest two-step attack, the parent of all broken ones."""

    access = GradientAccess

    def __call__(self, access, x, goal, threat, rng):
        x_adv = x
        for k in range(2):
            gradient = access.direction(x_adv, self.loss(goal), rng.child(k)).gradient
            x_adv = threat.project(x_adv + self.step(gradient, threat), x)
        return self.finish(x_adv, x, threat)

    def loss(self, goal):
        return goal.margin

    def step(self, gradient, threat):
        return 0.6 * threat.eps * gradient.sign()

    def finish(self, x_adv, x, threat):
        return x_adv


class WrongSign(Base):
    def step(self, gradient, threat):
        return -super().step(gradient, threat)


class UntargetedOnly(Base):
    """Ascends the loss of the label whether it is to be left or to be reached."""

    def loss(self, goal):
        return Goal(goal.labels).margin


class TooFar(Base):
    def finish(self, x_adv, x, threat):
        return x_adv + 1e-5 * (x_adv - x).sign()


class OutOfBox(Base):
    def finish(self, x_adv, x, threat):
        return x + (0.9 * threat.eps * (x_adv - x).sign())


class Global(Base):
    def step(self, gradient, threat):
        return super().step(gradient, threat) * torch.rand(1)


class InPlace(Base):
    def finish(self, x_adv, x, threat):
        return x.copy_(x_adv)


class Remembers(Base):
    calls = 0

    def step(self, gradient, threat):
        type(self).calls += 1
        return super().step(gradient, threat) / type(self).calls


class PerBatch(Base):
    """Noise by place in the batch, not by image."""

    def __call__(self, access, x, goal, threat, rng):
        noise = 2 * torch.rand(x.shape, generator=rng.generator()) - 1
        return threat.project(super().__call__(access, x, goal, threat, rng) + 0.3 * threat.eps * noise, x)


class Bypass(Base):
    """Asks the model behind the access's back."""

    def __call__(self, access, x, goal, threat, rng):
        access.models[0](x)
        return super().__call__(access, x, goal, threat, rng)


class LeavesGradients(Base):
    def __call__(self, access, x, goal, threat, rng):
        image = x.clone().requires_grad_()
        access.models[0](image).sum().backward()
        return super().__call__(access, x, goal, threat, rng)


class OneLogit(Base):
    """Follows a ratio of logits: it changes when a constant is added to all."""

    def loss(self, goal):
        return lambda z: -z.gather(-1, goal.labels.expand(z.shape[:-1])[..., None])[..., 0] / (1 + z.square().sum(-1))


class Shrinks(Base):
    """Drops half of the batch, coupled or not."""

    def __call__(self, access, x, goal, threat, rng):
        half, rows = x.clone(), torch.arange(len(x) // 2)
        found = access.direction(x[rows], goal[rows].margin, rng, rows).gradient
        half[rows] = threat.project(x[rows] + self.step(found, threat), x[rows])
        return super().__call__(access, half, goal, threat, rng)


class Detaches(Base):
    def finish(self, x_adv, x, threat):
        return x_adv.clone().requires_grad_()


class Flag(Base):
    def finish(self, x_adv, x, threat):
        return x_adv, True


BROKEN = [
    (WrongSign(), "an unlimited eps succeeds", "wrong sign"),
    (WrongSign(), "moves towards the goal, targeted or not", "untargeted, the margin rose on 0"),
    (UntargetedOnly(), "moves towards the goal, targeted or not", "targeted, the margin rose"),
    (TooFar(), "keeps the budget and the box", "project"),
    (OutOfBox(), "keeps the budget and the box", "project"),
    (Global(), "is a pure function of its arguments", "global random state"),
    (InPlace(), "is a pure function of its arguments", "clone"),
    (Remembers(), "is a pure function of its arguments", "two calls"),
    (PerBatch(), "the size of the batch changes nothing", "normal"),
    (Bypass(), "every question is counted", "through the access only"),
    (LeavesGradients(), "leaves the model's parameters alone", "autograd.grad"),
    (OneLogit(), "a constant added to all logits changes nothing", "differences of logits"),
    (Shrinks(), "keeps the batch of a coupled classifier together", "saw 4 of 8"),
    (Detaches(), "returns images of the same shape", "detach"),
    (Flag(), "returns images of the same shape", "Return the images alone"),
]


def test_the_parent_of_the_broken_attacks_is_honest():
    assert all(r.ok for r in check_attack(Base(), LINF))


@pytest.mark.parametrize(
    ("method", "promise", "message"), BROKEN, ids=[f"{type(m).__name__}-{p}" for m, p, _ in BROKEN]
)
def test_the_exam_finds_the_broken_promise(method, promise, message):
    with pytest.raises(ContractError, match=message) as caught:
        check_attack(method, LINF)
    assert not {r.promise: r.ok for r in caught.value.results}[promise]


def test_the_exam_finds_a_threat_that_the_attack_takes():
    @part
    class Needs(Base):
        def __call__(self, access, x, goal, threat, rng):
            if threat.norm != "l2" or threat.eps is not None:
                raise UsageError("needs Threat('l2').")
            return x

    with pytest.raises(ContractError, match="unlimited") as caught:
        check_attack(Needs())
    assert "Threat(norm='l2', eps=None" in caught.value.results[0].detail

    class Never(Base):
        def __call__(self, access, x, goal, threat, rng):
            raise UsageError("never.")

    with pytest.raises(UsageError, match="refuses every threat: never"):
        check_attack(Never())


def test_the_exam_refuses_what_it_cannot_examine():
    class NoAccess(Attack):
        def __call__(self, access, x, goal, threat, rng):
            return x

    with pytest.raises(ContractError, match="Write access = GradientAccess"):
        check_attack(NoAccess())
    with pytest.raises(UsageError, match="Attack"):
        check_attack(nn.Flatten())
