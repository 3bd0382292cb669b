"""Gaussian logits: the closed form against draws, finite differences and a saturated network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from robassay.access import White
from robassay.attacks.gradient import PGD
from robassay.defences.a2snn import A2SNN, NoiseHead
from robassay.errors import UsageError
from robassay.estimators import Backprop, ClosedForm
from robassay.nets.mlp import MLP
from robassay.rng import Stream
from robassay.threat import Goal, Threat

RNG = Stream(("closed form",))
SHAPE = (1, 4, 4)


def noise_head(classes: int, noise: float = 1.0, logits: float = 1.0) -> NoiseHead:
    with RNG.child("weights").active():
        model = A2SNN(MLP((16,)), dim=6).build(SHAPE, classes)
    assert isinstance(model, NoiseHead)
    with torch.no_grad():
        model.scale.mul_(noise)
        for weights in (model.head.weight, model.head.bias):
            weights.mul_(logits)
    return model.eval().requires_grad_(False)


def images(n: int) -> Tensor:
    return torch.rand(n, *SHAPE, generator=RNG.child("images").generator())


def phi(r: Tensor) -> Tensor:
    return torch.distributions.Normal(0.0, 1.0).cdf(r)


def test_the_mean_and_covariance_are_those_of_draws() -> None:
    model, x = noise_head(3), images(2)
    found = model.gaussian(model.prefix(x))
    assert found is not None
    mean, factor = found
    drawn = model.sample(model.prefix(x), 100_000, RNG.child("draws")).double()
    assert torch.allclose(drawn.mean(0), mean.double(), atol=0.03)
    assert torch.allclose(drawn[:, 0].T.cov(), (factor @ factor.T).double(), rtol=0.03, atol=0.03)


def test_with_two_classes_it_is_the_probability_of_error() -> None:
    model, x = noise_head(2), images(20)
    n = 50_000
    for label in (0, 1):
        goal = Goal(torch.full((20,), label))
        exact = phi(ClosedForm()(model, x, goal.loss("margin"), RNG).value)
        wrong = (model.sample(model.prefix(x), n, RNG.child(label)).argmax(-1) != label).float().mean(0)
        assert ((wrong - exact).abs() <= 4.5 * (exact * (1 - exact) / n).sqrt() + 1e-4).all()
        assert 0.02 < float(exact.min()) < float(exact.max()) < 0.98


@pytest.mark.parametrize("targeted", [False, True])
def test_it_is_the_worst_pair_of_classes_by_hand(targeted: bool) -> None:
    mean = torch.tensor([[2.0, 1.0, -3.0], [0.0, 4.0, 4.5]])
    factor = torch.tensor([[1.0, 0.0], [0.0, 2.0], [8.0, 1.0]])
    labels = torch.tensor([0, 1])
    expected = []
    for i, y in enumerate(labels.tolist()):
        ratios = [float((mean[i, j] - mean[i, y]) / (factor[j] - factor[y]).norm()) for j in range(3) if j != y]
        # Wanted: the label above the strongest rival. Not wanted: some rival above the label.
        expected.append(-max(ratios) if targeted else max(ratios))
    found = Goal(labels, targeted).deviations(mean, factor)
    assert torch.allclose(found, torch.tensor(expected))


def test_the_gradient_is_that_of_finite_differences_with_its_sign() -> None:
    model, x = noise_head(4).double(), images(5).double()
    loss = Goal(torch.arange(5) % 4).loss("margin")
    found = ClosedForm()(model, x, loss, RNG)
    h = 1e-6
    for pixel in range(16):
        step = torch.zeros_like(x)
        step.flatten(1)[:, pixel] = h
        ahead, behind = (ClosedForm()(model, x + s, loss, RNG).value for s in (step, -step))
        assert torch.allclose((ahead - behind) / (2 * h), found.gradient.flatten(1)[:, pixel], atol=1e-6)


def test_it_goes_on_where_cross_entropy_is_saturated() -> None:
    model, x = noise_head(4, noise=0.05, logits=1e4), images(40)
    goal = Goal(model.quiet(model.prefix(x)).argmax(-1))
    assert float(Backprop(20)(model, x, goal.loss("ce"), RNG).gradient.abs().sum()) == 0
    found = ClosedForm()(model, x, goal.loss("margin"), RNG)
    assert (found.gradient.flatten(1).abs().sum(1) > 0).all()
    threat, kept = Threat("linf", 0.5), {}
    for name, attack, estimator in (
        ("ce", PGD(loss="ce", steps=10, random_start=False), Backprop(20)),
        ("closed", PGD(loss="margin", steps=10, random_start=False), ClosedForm()),
    ):
        x_adv = attack(White(estimator).open([model], 40), x, goal, threat, RNG.child(name))
        right = model.sample(model.prefix(x_adv), 100, RNG.child("judge")).argmax(-1) == goal.labels
        kept[name] = float(right.float().mean())
    assert kept["closed"] < kept["ce"] - 0.3


def test_a_constant_on_all_logits_changes_nothing_and_the_books_are_right() -> None:
    model, x = noise_head(3), images(6)
    opened = White(ClosedForm(draws=7)).open([model], 6)
    loss = Goal(torch.arange(6) % 3).loss("margin")
    before = opened.direction(x, loss, RNG)
    model.head.bias += 64.0
    after = ClosedForm(draws=7)(model, x, loss, RNG)
    assert torch.allclose(before.gradient, after.gradient, atol=1e-4)
    assert before.logits.shape == (7, 6, 3)
    assert opened.spent.draws.tolist() == [7] * 6 and opened.spent.gradients.tolist() == [1] * 6


def test_what_it_cannot_do_is_said() -> None:
    goal, x = Goal(torch.zeros(2, dtype=torch.int64)), images(2)
    with pytest.raises(UsageError, match="loss='margin'"):
        ClosedForm()(noise_head(3), x, goal.loss("ce"), RNG)
    with pytest.raises(UsageError, match=r"no closed form. Use Backprop\(draws=20\)"):
        ClosedForm()(MLP().build(SHAPE, 3), x, goal.loss("margin"), RNG)
    with pytest.raises(UsageError, match="draws=0"):
        ClosedForm(draws=0)
