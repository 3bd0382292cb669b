"""A model behind rounded pixels sees the rounded image, and lets an attacker's gradient through as if it did not."""

from __future__ import annotations

import pytest
import torch

from robassay.classifier import Wrapped
from robassay.data import find
from robassay.errors import UsageError
from robassay.models import Train
from robassay.nets.mlp import MLP
from robassay.quantised import Quantised, Rounded
from robassay.recipe import Recipe
from robassay.rng import Stream


def inner() -> Wrapped:
    with Stream(("test", "quantised")).active():
        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    return Wrapped(net, 3, stochastic=False)


X = torch.tensor([[[[0.0, 0.24, 0.26, 0.5]]], [[[0.74, 0.76, 1.0, 0.1]]]])
SEEN = torch.tensor([[[[0.0, 0.0, 0.5, 0.5]]], [[[0.5, 1.0, 1.0, 0.0]]]])


def test_three_levels_by_hand():
    model = Rounded(inner(), 3)
    assert torch.equal(model.rounded(X), SEEN)
    assert torch.equal(model(X), inner()(SEEN)) and not torch.allclose(model(X), inner()(X))


def test_the_gradient_is_that_at_the_rounded_image():
    found, at = X.clone().requires_grad_(), SEEN.clone().requires_grad_()
    Rounded(inner(), 3)(found).square().sum().backward()
    inner()(at).square().sum().backward()
    assert found.grad is not None and at.grad is not None
    assert torch.equal(found.grad, at.grad) and found.grad.abs().min() > 0


def test_the_levels_of_a_file_change_nothing():
    pixels = torch.arange(256).reshape(64, 1, 1, 4) / 255
    torch.testing.assert_close(Rounded(inner(), 256)(pixels), inner()(pixels), rtol=0, atol=1e-6)


def test_a_cell_of_less_than_two_levels_is_refused():
    with pytest.raises(UsageError, match="levels=1"):
        Quantised(Train(MLP((4,)), find("digits"), Recipe(epochs=1)), 1)
