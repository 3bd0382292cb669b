"""Backward rules: how the gradient passes a step whose true derivative is zero almost everywhere.

The forward pass of a spike, a sign or a Bernoulli unit is fixed. Its backward pass is the rule *in force* when the
forward pass runs: the rule the network was trained with, unless an attacker chose another one for this pass.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ClassVar

import torch
from torch import Tensor

from robassay.errors import UsageError
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


class WindowRule(abc.ABC):
    """Pseudo-derivative of spiking neurons by their whole trains: one factor per neuron for all time steps.

    Only neurons have trains: a sign or a Bernoulli unit refuses such a rule.
    """

    kind: ClassVar[str] = "rules"
    through_time: ClassVar[bool]
    """True: a spike's gradient runs back through the membrane, its leak passed as 1, until the neuron's last spike
    before (of a hard reset). False: the gradient is averaged over time, as if the rate alone mattered."""

    @abc.abstractmethod
    def __call__(self, spikes: Tensor, mean: Tensor, leak: float) -> Tensor:
        """Factor (…) of neurons with trains ``spikes`` (steps, …).

        Args:
            mean: input current, averaged over the steps, in units of the threshold (…).
            leak: factor on the membrane from step to step.
        """


@part(source="Ding et al. 2022 (backward pass through rate)")
class BPTR(WindowRule):
    """1 for neurons that fire at all, else 0; time-constant."""

    through_time: ClassVar[bool] = False

    def __call__(self, spikes: Tensor, mean: Tensor, leak: float) -> Tensor:
        return spikes.amax(0)


@part(source="Bu et al. 2023 (rate gradient approximation)")
class RGA(WindowRule):
    """Slope of the rate over the mean input x of neurons with hard reset, in three pieces; time-constant.

    ``low`` below the onset of firing at x = 1 − leak, (1 − low + low · leak) / (1 + leak) from there to x = 2, else 0.
    """

    through_time: ClassVar[bool] = False
    low: float = 0.2

    def __call__(self, spikes: Tensor, mean: Tensor, leak: float) -> Tensor:
        high = (1 - self.low + self.low * leak) / (1 + leak)
        onset = 1 - leak
        below, above = (mean >= 0) & (mean < onset), (mean >= onset) & (mean <= 2)
        return self.low * below.to(mean.dtype) + high * above.to(mean.dtype)


@part(source="Lee et al. 2020; Sharmin et al. 2019, eqs 9 and 10")
class LeakyTrace(WindowRule):
    """1[a > 0.001] + ln(leak) · a / N, with the leaky trace a(t) = leak · a(t − 1) + s(t) at the end, N spikes."""

    through_time: ClassVar[bool] = True

    def __call__(self, spikes: Tensor, mean: Tensor, leak: float) -> Tensor:
        trace = torch.zeros_like(spikes[0])
        for s in spikes:
            trace = torch.add(s, trace, alpha=leak)
        return (trace > 1e-3).to(spikes.dtype) + math.log(leak) * trace / spikes.sum(0).clamp_min(1)


Rule = BackwardRule | WindowRule


def pointwise(rule: Rule) -> BackwardRule:
    """The rule, if it can be asked for single potentials.

    Raises:
        UsageError: it is a window rule.
    """
    if isinstance(rule, WindowRule):
        raise UsageError(
            f"{type(rule).__name__} needs spike trains, and this network has signs or coins without time. "
            "Write a rule for single potentials, such as StraightThrough() or Triangle(0.5)."
        )
    return rule


_chosen: ContextVar[Rule | None] = ContextVar("robassay_backward_rule", default=None)


def in_force(trained_with: Rule) -> Rule:
    """The rule to use in this forward pass. Read it in forward: autograd's threads do not see the context."""
    return _chosen.get() or trained_with


@contextmanager
def acting(rule: Rule) -> Iterator[None]:
    """Every forward pass inside uses ``rule``, whatever the network was trained with."""
    token = _chosen.set(rule)
    try:
        yield
    finally:
        _chosen.reset(token)
