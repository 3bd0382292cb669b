"""Stochastic mixtures of models: their gradients, their coins, their place in the lists."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from robassay.access import White
from robassay.classifier import Classifier, Mixture
from robassay.errors import UsageError
from robassay.estimators import Backprop
from robassay.goals import Goal
from robassay.models import Mixed
from robassay.nets.cnn import SmallCNN
from robassay.registry import entries, named
from robassay.rng import Stream
from robassay.testing import check_classifier, exam_images

SHAPE = (3, 8, 8)
X, Y = exam_images(6, SHAPE), torch.tensor([0, 1, 2, 3, 0, 1])


def members(count: int) -> list[Classifier]:
    with Stream(("members",)).active():
        return [SmallCNN(width=4).build(SHAPE, 4).eval().requires_grad_(False) for _ in range(count)]


def slope(models: list[Classifier]) -> Tensor:
    """Gradient of the mean over models of the cross-entropy."""
    x = X.clone().requires_grad_()
    loss = torch.stack([F.cross_entropy(m(x), Y, reduction="sum") for m in models]).mean()
    return torch.autograd.grad(loss, x)[0]


def test_the_mean_of_the_members_gradients_is_that_of_the_mean_cross_entropy() -> None:
    models, goal = members(3), Goal(Y)
    mean = slope(models)
    joint = White(Backprop()).open(models, 6).direction(X, goal.cross_entropy, Stream()).gradient / 3
    assert torch.allclose(joint.reshape(X.shape).to(mean), mean, atol=1e-6)
    # An attacker who only draws from the mixture comes to the same in the mean.
    with Stream(("draws",)).active():
        drawn = Backprop(3000)(Mixture(models), X, goal.cross_entropy, Stream(("many",))).gradient
    cosine = F.cosine_similarity(drawn.flatten(1).to(mean), mean.flatten(1))
    assert (cosine > 0.99).all()


def test_a_member_is_drawn_for_each_row_with_equal_frequency() -> None:
    models, n = members(4), 8_000
    answers = torch.cat([m(X[:1]) for m in models])
    with Stream(("rows",)).active():
        logits = Mixture(models)(X[:1].expand(n, -1, -1, -1))
    chosen = torch.cdist(logits, answers).argmin(1)
    assert torch.cdist(logits, answers).min(1).values.max() < 1e-3
    counts = chosen.bincount(minlength=4).double()
    assert ((counts / n - 0.25).abs() < 4.5 * (0.25 * 0.75 / n) ** 0.5).all()


def test_a_mixture_of_one_is_its_member() -> None:
    (model,) = members(1)
    assert torch.equal(Mixture([model])(X), model(X))


def test_exam_and_list() -> None:
    check_classifier(Mixture(members(2)), X)
    assert named("defences", "mixture") is Mixed
    (entry,) = [e for e in entries("defences") if e.name == "mixture"]
    assert entry.source == "Tan et al. 2020, §V" and "draws one of several models" in entry.summary
    with pytest.raises(UsageError, match="one member at least"):
        Mixture([])
