"""Gradient attacks against closed forms and an independent library, and through their exam."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from toy_nets import RNG, attack, error_rate

from robassay.attacks.gradient import BIM, FGSM, PGD, RFGSM, random_start, steepest
from robassay.classifier import Classifier
from robassay.errors import UsageError
from robassay.estimators import Backprop
from robassay.testing import ExamNet, exam_images
from robassay.threat import Goal, Threat

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
