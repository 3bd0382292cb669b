"""Attacks on random classifiers leave alone what many fresh draws find wrong, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from robassay.access import White
from robassay.attacks.apgd import APGD
from robassay.attacks.gradient import PGD
from robassay.classifier import Classifier
from robassay.errors import UsageError
from robassay.estimators import Backprop
from robassay.rng import Stream
from robassay.threat import Goal, Threat

RNG = Stream(("test", "settled"))
THREAT = Threat("linf", 0.1)
N = 40
X, Y = torch.full((2 * N, 1, 1, 1), 0.5), torch.zeros(2 * N, dtype=torch.int64)
X[N:] = 0.1


class Bright(Classifier):
    """Class 1 where a pixel is bright: surely for the first half of the images, once it is moved up; never for the
    second, which is too dark. ``luck`` is the share of draws in which the first half's answer is right all the same."""

    classes, stochastic, rows = 2, True, "independent"

    def __init__(self, luck: float = 0.0) -> None:
        super().__init__()
        self.luck = luck

    def draw(self, h: Tensor) -> Tensor:
        pixel = h[:, 0, 0, 0]
        right = torch.rand(len(h)) < self.luck
        gap = 10 * (pixel - 0.55) + 0.1 * torch.randn(len(h))
        return torch.stack([torch.zeros_like(gap), torch.where(right, -1 + 0 * gap, gap)], 1)


class Coupled(Bright):
    coupled = True


def spent(attack: Any, model: Classifier, draws: int = 5) -> tuple[Tensor, Tensor]:
    """The images, and the gradients asked for per image."""
    access = White(Backprop(draws)).open([model.eval()], len(X))
    return attack(access, X, Goal(Y), THREAT, RNG), access.spent.gradients


ATTACKS = {
    "PGD": lambda **more: PGD(steps=40, loss="margin", restarts=2, **more),
    "APGD": lambda **more: APGD(steps=40, loss="margin", restarts=2, **more),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_what_is_surely_wrong_leaves_and_the_rest_gets_every_step(name):
    whole, all_steps = spent(ATTACKS[name](), Bright())
    found, fewer = spent(ATTACKS[name](settled=30), Bright())
    assert (all_steps == 2 * 40 * 5).all()
    assert torch.equal(fewer[N:], all_steps[N:])
    assert (fewer[:N] <= all_steps[:N] / 4).all() and (fewer[:N] > 0).all()
    with torch.no_grad():
        for images in (whole, found):
            wrong = Bright().sample(images, 200, RNG.child("judge")).argmax(-1) != Y
            assert wrong[:, :N].all() and not wrong[:, N:].any()


@pytest.mark.parametrize("name", ATTACKS)
def test_luck_settles_nothing(name):
    """Wrong in seven draws of ten: five are all wrong every sixth time, fifty never (.7⁵⁰ is 2e-8)."""
    _, lucky = spent(ATTACKS[name](settled=50), Bright(luck=0.3))
    assert (lucky == 2 * 40 * 5).all()
    _, fooled = spent(ATTACKS[name](settled=1), Bright(luck=0.3))
    assert (fooled[:N] < 2 * 40 * 5).any()


@pytest.mark.parametrize("name", ATTACKS)
def test_a_coupled_classifier_keeps_its_batch(name):
    first, every = spent(ATTACKS[name](settled=30), Coupled())
    second, _ = spent(ATTACKS[name](), Coupled())
    assert (every == 2 * 40 * 5).all() and torch.equal(first, second)


def test_unchanged_where_it_is_not_asked_for_or_nothing_is_random():
    class Fixed(Bright):
        stochastic = False

        def draw(self, h: Tensor) -> Tensor:
            gap = 10 * (h[:, 0, 0, 0] - 0.55)
            return torch.stack([torch.zeros_like(gap), gap], 1)

    for attack in ATTACKS.values():
        assert torch.equal(spent(attack(settled=30), Fixed())[0], spent(attack(), Fixed())[0])
    with pytest.raises(UsageError, match="settled"):
        PGD(settled=-1)
    with pytest.raises(UsageError, match="settled"):
        APGD(settled=-1)
