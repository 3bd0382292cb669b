"""Backward rules: how the gradient passes a step whose true derivative is zero almost everywhere.

The forward pass of a spike, a sign or a Bernoulli unit is fixed. Its backward pass is the rule *in force* when the
forward pass runs: the rule the network was trained with, unless an attacker chose another one for this pass.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ClassVar

from torch import Tensor

from robassay.registry import part


class BackwardRule(abc.ABC):
    """Pseudo-derivative of the unit step at 0, as a function of the distance ``u`` to the threshold."""

    kind: ClassVar[str] = "rules"

    @abc.abstractmethod
    def __call__(self, u: Tensor) -> Tensor:
        """Derivative at ``u``, same shape; ``u`` is in units of the threshold."""


@part
class Triangle(BackwardRule):
    """height · max(0, 1 − |u|/width) / width; area = height. Source: Bellec et al. 2018 with width 1."""

    width: float = 1.0
    height: float = 1.0

    def __call__(self, u: Tensor) -> Tensor:
        return (1 - u.abs() / self.width).clamp_min(0) * (self.height / self.width)


@part
class Rectangle(BackwardRule):
    """1/width for |u| < width/2, else 0: the straight-through window. Source: Wu et al. 2018."""

    width: float = 1.0

    def __call__(self, u: Tensor) -> Tensor:
        return (u.abs() < self.width / 2).to(u.dtype) / self.width


@part
class Atan(BackwardRule):
    """(alpha/2) / (1 + (π alpha u / 2)²). Source: Fang et al. 2021."""

    alpha: float = 2.0

    def __call__(self, u: Tensor) -> Tensor:
        return (self.alpha / 2) / (1 + (1.5707963267948966 * self.alpha * u) ** 2)


@part
class FastSigmoid(BackwardRule):
    """1 / (1 + slope |u|)². Source: Zenke and Ganguli 2018 (SuperSpike)."""

    slope: float = 10.0

    def __call__(self, u: Tensor) -> Tensor:
        return 1 / (1 + self.slope * u.abs()) ** 2


@part
class Exponential(BackwardRule):
    """height · exp(−slope |u|). Source: Shrestha and Orchard 2018."""

    slope: float = 1.0
    height: float = 1.0

    def __call__(self, u: Tensor) -> Tensor:
        return self.height * (-self.slope * u.abs()).exp()


@part
class StraightThrough(BackwardRule):
    """1 everywhere. Source: Bengio et al. 2013."""

    def __call__(self, u: Tensor) -> Tensor:
        return u.new_ones(u.shape)


_chosen: ContextVar[BackwardRule | None] = ContextVar("robassay_backward_rule", default=None)


def chosen() -> BackwardRule | None:
    """The rule that an attacker chose for this forward pass; None when the network's own is in force."""
    return _chosen.get()


def in_force(trained_with: BackwardRule) -> BackwardRule:
    """The rule to use in this forward pass. Read it in forward: autograd's threads do not see the context."""
    return _chosen.get() or trained_with


@contextmanager
def acting(rule: BackwardRule) -> Iterator[None]:
    """Every forward pass inside uses ``rule``, whatever the network was trained with."""
    token = _chosen.set(rule)
    try:
        yield
    finally:
        _chosen.reset(token)
