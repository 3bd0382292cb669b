"""The exam of an attack finds every broken promise, and passes the gradient attacks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robassay.access import Attack, GradientAccess, White
from robassay.attacks.gradient import BIM, FGSM, PGD, RFGSM
from robassay.errors import UsageError
from robassay.estimators import Backprop
from robassay.registry import part
from robassay.testing import ContractError, check_attack
from robassay.threat import Goal, Threat

LINF, L2 = Threat("linf", 0.05), Threat("l2", 0.3)


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
