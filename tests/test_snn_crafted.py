"""Attacks of Sharmin et al. 2019: on the rate image, with a random first step, towards a class."""

from __future__ import annotations

import math

import pytest
import torch

from robassay.access import White
from robassay.attacks.gradient import BIM, FGSM, RFGSM
from robassay.attacks.snn_crafted import SNNCrafted, rate_image
from robassay.attacks.square import Square
from robassay.errors import UsageError
from robassay.rng import Stream
from robassay.surrogates import Twin
from robassay.testing import ExamNet, check_attack
from robassay.threat import Goal, Threat

RNG = Stream(("crafted",))
EPS = 8 / 255
X = 0.2 + 0.6 * torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(5) % 4


def run(attack, threat=None, net=None, goal=None, x=X):
    access = White(Twin()).open([net or ExamNet()], len(x))
    return attack(access, x, goal or Goal(Y), threat or Threat("linf", EPS), RNG)


def test_the_rate_image_is_an_unbiased_mean_of_spikes():
    x = torch.full((1, 1, 100, 100), 0.3)
    found = rate_image(x, 70, RNG)
    assert ((found * 70).round() - found * 70).abs().max() < 1e-4
    assert found.mean().item() == pytest.approx(0.3, abs=3e-3)
    assert torch.equal(rate_image(torch.cat([1 - x, x]), 70, RNG)[1:], found)
    ends = rate_image(torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2), 33, RNG)
    assert ends.flatten().tolist() == [0, 1]


def test_the_noise_of_a_rate_image_is_larger_than_the_published_eps():
    """At ½ and 70 steps: standard deviation ½/√70 = 15.2/255, and 55 % of the pixels lie beyond 8/255, which are those
    with more than 2 spikes too many or too few (the normal approximation says 60 %)."""
    x = torch.full((1, 1, 200, 200), 0.5)
    off = rate_image(x, 70, RNG) - x
    assert 255 * off.std().item() == pytest.approx(15.2, abs=0.3)
    exact = 1 - sum(math.comb(70, k) for k in range(33, 38)) / 2**70
    assert (off.abs() > EPS).float().mean().item() == pytest.approx(exact, abs=0.01) == pytest.approx(0.55, abs=0.01)


def test_on_the_image_the_perturbation_found_on_the_rate_image_is_added():
    rate = rate_image(X, 70, RNG.child("rate"))
    found = run(SNNCrafted(FGSM()))
    assert Threat("linf", EPS).holds(found, X).all()
    # FGSM on the rate image by hand; where it is cut at the box, so is the perturbation.
    access = White(Twin()).open([ExamNet()], 5)
    made = FGSM()(access, rate, Goal(Y), Threat("linf", EPS), RNG.child("attack"))
    assert torch.allclose(found, (X + made - rate).clamp(0, 1), atol=1e-6)


def test_on_the_rate_image_distances_are_not_eps_and_are_left_to_be_reported():
    rate = rate_image(X, 70, RNG.child("rate"))
    found = run(SNNCrafted(FGSM(), base="rate", eps=EPS), Threat("linf"))
    assert (found - rate).abs().max() <= EPS + 1e-6 and found.min() >= 0 and found.max() <= 1
    assert Threat("linf").size(found, X).min() > 2 * EPS


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SNNCrafted(Square()), "Square is none"),
        (lambda: SNNCrafted(base="spikes"), "base='spikes'"),
        (lambda: SNNCrafted(base="rate"), "needs the radius"),
        (lambda: run(SNNCrafted(base="rate", eps=EPS)), "lies outside the threat"),
    ],
)
def test_what_it_cannot_do_it_says(make, words):
    with pytest.raises(UsageError, match=words):
        make()


def test_it_keeps_the_contract_of_attacks():
    assert all(r.ok for r in check_attack(SNNCrafted()))


def test_r_fgsm_moves_every_pixel_by_all_of_eps_or_not_at_all():
    """PROPERTY: with alpha = eps/2, inside the box, entries are −eps, 0 or eps."""
    change = run(RFGSM(0.5)) - X
    assert all((change - c).abs().min() < 1e-6 for c in (-EPS, 0.0, EPS))
    assert (torch.stack([(change - c).abs() for c in (-EPS, 0.0, EPS)]).amin(0) < 1e-6).all()


def test_targeted_i_fgsm_climbs_towards_its_class_in_equal_steps():
    net, goal = ExamNet(), Goal((Y + 1) % 4, targeted=True)
    with torch.no_grad():
        before = goal.cross_entropy(net(X))
        for k in (2, 5, 7):
            found = run(BIM(k), net=net, goal=goal)
            change = (found - X).abs()
            assert (goal.cross_entropy(net(found)) > before).all()
            assert change.max() <= EPS + 1e-6
            # Steps of eps/k, each a sign: a sum of k of them.
            assert ((found - X) * k / EPS - ((found - X) * k / EPS).round()).abs().max() < 1e-3
