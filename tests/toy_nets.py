"""Small networks whose behaviour is known, and what tests of them share."""

from __future__ import annotations

import torch
from torch import nn

from robassay.access import White
from robassay.classifier import Classifier
from robassay.estimators import Backprop
from robassay.rng import Stream

RNG = Stream(("test",))
WEIGHTS = torch.randn(48, 4, generator=torch.Generator().manual_seed(0))
X = torch.rand(4, 1, 2, 3, generator=torch.Generator().manual_seed(5))
LABELS = torch.tensor([0, 1, 2, 1])


class Net(Classifier):
    """Linear with Gaussian logit noise, one draw per row; the parent of all that follows."""

    classes, stochastic, rows = 4, True, "independent"

    def draw(self, h):
        return self.linear(h) + self.noise(h)

    def linear(self, h):
        return h.flatten(1) @ WEIGHTS

    def noise(self, h):
        return torch.randn(len(h), 4)

    def quiet(self, h):
        return self.linear(h)


class Shared(Net):
    rows = "shared"

    def noise(self, h):
        return torch.randn(1, 4).expand(len(h), 4)


class Deterministic(Net):
    stochastic, rows = False, "shared"

    def noise(self, h):
        return 0.0


class AlwaysDropout(nn.Dropout):
    """Dropout that stays on in eval mode, as Monte-Carlo dropout is written."""

    def train(self, mode: bool = True):
        return super().train(True)


def dropout_net(noisy: bool = False) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(48, 16), AlwaysDropout(0.5), nn.Linear(16, 4)]
    return nn.Sequential(*layers, Jitter()) if noisy else nn.Sequential(*layers)


class Jitter(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Linear(Classifier):
    """logits = W x + b."""

    def __init__(self, classes: int = 3, pixels: int = 6) -> None:
        super().__init__()
        self.classes, self.weight, self.bias = classes, numbers(classes, pixels), numbers(classes, seed=1)

    def draw(self, h):
        return h.flatten(1) @ self.weight.T + self.bias


class GaussianHead(Linear):
    """logits = W (x + σ ε) + b, a draw of ε per row."""

    stochastic, rows = True, "independent"
    sigma = 0.7

    def draw(self, h):
        return super().draw(h.flatten(1) + self.sigma * torch.randn(len(h), self.weight.shape[1]))


class Step(Linear):
    """A quantised front end: the gradient is zero, or there is no graph at all."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def prefix(self, x):
        return (x > 0.5).float() if self.where == "prefix" else x

    def draw(self, h):
        return super().draw((h > 0.5).float() if self.where == "draw" else h)


def cosine(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cosine_similarity(a.flatten(1).double(), b.flatten(1).double())


def true_gradient(value, x=X):
    image = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(image).sum(), image)
    return gradient


def attack(method, model, x, goal, threat, estimator=None, rng=RNG):
    access = White(estimator or Backprop()).open([model] if isinstance(model, Classifier) else model, len(x))
    return method(access, x, goal, threat, rng), access


def error_rate(model, x_adv, goal, draws=2000):
    with torch.no_grad():
        logits = model.sample(model.prefix(x_adv), draws, Stream(("judge",)))
    return goal.reached(logits.argmax(-1)).float().mean(0)
