"""Backward rules: how the gradient passes a step whose true derivative is zero almost everywhere.

The forward pass of a spike, a sign or a Bernoulli unit is fixed. Its backward pass is the rule *in force* when the
forward pass runs: the rule the network was trained with, unless an attacker chose another one for this pass.

A :class:`BackwardRule` looks at one potential at a time. A :class:`WindowRule` looks at a neuron's whole spike train,
so only neurons that have a time axis can follow it.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ClassVar, NamedTuple

from torch import Tensor

from robassay.errors import UsageError
from robassay.registry import part, part_name


class BackwardRule(abc.ABC):
    """Pseudo-derivative of the unit step at 0, as a function of the distance ``u`` to the threshold."""

    kind: ClassVar[str] = "rules"

    @abc.abstractmethod
    def __call__(self, u: Tensor) -> Tensor:
        """Derivative at ``u``, same shape; ``u`` is in units of the threshold."""


@part(source="Bellec et al. 2018, with width 1")
class Triangle(BackwardRule):
    """height · max(0, 1 − |u|/width) / width.

    Args:
        width: half the base, in units of the threshold, > 0.
        height: area, a factor; at u = 0 the derivative is height / width.
    """

    width: float = 1.0
    height: float = 1.0

    def __call__(self, u: Tensor) -> Tensor:
        return (1 - u.abs() / self.width).clamp_min(0) * (self.height / self.width)


@part(source="Wu et al. 2018")
class Rectangle(BackwardRule):
    """1/width for |u| < width/2, else 0: the straight-through window.

    Args:
        width: in units of the threshold, > 0; the area is 1.
    """

    width: float = 1.0

    def __call__(self, u: Tensor) -> Tensor:
        return (u.abs() < self.width / 2).to(u.dtype) / self.width


@part(source="Fang et al. 2021")
class Atan(BackwardRule):
    """(alpha/2) / (1 + (π alpha u / 2)²), of area 1.

    Args:
        alpha: sharpness, > 0, per threshold: half of the height is left at |u| = 2 / (π alpha).
    """

    alpha: float = 2.0

    def __call__(self, u: Tensor) -> Tensor:
        return (self.alpha / 2) / (1 + (1.5707963267948966 * self.alpha * u) ** 2)


@part(source="Zenke and Ganguli 2018 (SuperSpike)")
class FastSigmoid(BackwardRule):
    """1 / (1 + slope |u|)².

    Args:
        slope: sharpness, ≥ 0, per threshold: a quarter of the height is left at |u| = 1 / slope.
    """

    slope: float = 10.0

    def __call__(self, u: Tensor) -> Tensor:
        return 1 / (1 + self.slope * u.abs()) ** 2


@part(source="Shrestha and Orchard 2018")
class Exponential(BackwardRule):
    """height · exp(−slope |u|).

    Args:
        slope: decay, ≥ 0, per threshold.
        height: factor; the derivative at u = 0.
    """

    slope: float = 1.0
    height: float = 1.0

    def __call__(self, u: Tensor) -> Tensor:
        return self.height * (-self.slope * u.abs()).exp()


@part(source="after Lun et al. 2025 (width from the potentials' statistics), whose form is not public")
class Spread(BackwardRule):
    """Triangle whose width follows the potentials: ``share`` · √(mean u²) over all it is asked for at once.

    That is a layer at one step, batch included, so that an image's gradient depends on its batch mates by a width.
    """

    share: float = 1.0

    def __call__(self, u: Tensor) -> Tensor:
        width = self.share * u.square().mean().sqrt().clamp_min(1e-6)
        return (1 - u.abs() / width).clamp_min(0) / width


@part(source="Bengio et al. 2013")
class StraightThrough(BackwardRule):
    """1 everywhere."""

    def __call__(self, u: Tensor) -> Tensor:
        return u.new_ones(u.shape)


class SpikeTrain(NamedTuple):
    """What a neuron did in all its steps, for a :class:`WindowRule`."""

    spikes: Tensor
    """0 and 1, (steps, …)."""
    current: Tensor
    """Mean input per step (…), in units of the threshold."""
    leak: float
    """Factor on the membrane from step to step."""


class WindowRule(abc.ABC):
    """Pseudo-derivative of a whole spike train: one factor per neuron, the same at all its steps.

    Attributes:
        history: whether the gradient also goes back through the membrane, with its leak taken for 1; otherwise a
            spike's gradient reaches the current of its own step alone.
    """

    kind: ClassVar[str] = "rules"
    history: ClassVar[bool] = False

    @abc.abstractmethod
    def __call__(self, train: SpikeTrain) -> Tensor:
        """Factor per neuron (…), in units of the threshold."""


@part(source="Ding et al. 2022 (backward pass through rate)")
class BPTR(WindowRule):
    """1 for a neuron that fired at all, else 0."""

    def __call__(self, train: SpikeTrain) -> Tensor:
        return (train.spikes.sum(0) > 0).to(train.current.dtype)


@part(source="Bu et al. 2023 (rate gradient approximation)")
class RGA(WindowRule):
    """Slope of the rate over the mean input x, in units of the threshold, of a leaky neuron with hard reset.

    With leak L: ``slope`` for 0 ≤ x < 1 − L, where it is silent; (1 − slope · (1 − L)) / (1 + L) for 1 − L ≤ x ≤ 2;
    else 0. The two straight pieces reach a rate of 1 at x = 2.
    """

    slope: float = 0.2

    def __call__(self, train: SpikeTrain) -> Tensor:
        x, onset = train.current, 1 - train.leak
        firing = (1 - self.slope * onset) / (1 + train.leak)
        silent = ((x >= 0) & (x < onset)).to(x.dtype) * self.slope
        return silent + ((x >= onset) & (x <= 2)).to(x.dtype) * firing


@part(source="Lee et al. 2020; Sharmin et al. 2019, eqs 9 and 10")
class LeakyTrace(WindowRule):
    """1[a > 0.001] + ln(leak) · a / N of the leaky trace a of N spikes at the end: spike-based back-propagation.

    a(t) = leak · a(t − 1) + s(t). The second term is the derivative of the trace, whose time constant is −1 / ln(leak).
    """

    history: ClassVar[bool] = True

    def __call__(self, train: SpikeTrain) -> Tensor:
        trace = train.spikes[0].clone()
        for spikes in train.spikes[1:]:
            trace.mul_(train.leak).add_(spikes)
        count = train.spikes.sum(0).clamp_min(1)
        return (trace > 1e-3).to(trace.dtype) + math.log(train.leak) * trace / count


Rule = BackwardRule | WindowRule

_chosen: ContextVar[Rule | None] = ContextVar("robassay_backward_rule", default=None)


def in_force(trained_with: Rule) -> Rule:
    """The rule to use in this forward pass. Read it in forward: autograd's threads do not see the context."""
    return _chosen.get() or trained_with


def in_force_pointwise(trained_with: BackwardRule) -> BackwardRule:
    """The rule to use in this forward pass, for a unit without a time axis.

    Raises:
        UsageError: it is a rule of whole spike trains.
    """
    rule = in_force(trained_with)
    if isinstance(rule, WindowRule):
        raise UsageError(
            f"The rule {part_name(type(rule))} looks at a whole spike train, and this net has units without time steps "
            "(a step, a sign or a coin). Write a rule of single potentials, such as Triangle(0.5) or StraightThrough()."
        )
    return rule


def chosen() -> Rule | None:
    """The rule that an attacker chose; None where every unit follows the rule it was trained with."""
    return _chosen.get()


@contextmanager
def acting(rule: Rule | None) -> Iterator[None]:
    """Every forward pass inside uses ``rule``, whatever the network was trained with; with None, just that."""
    token = _chosen.set(rule)
    try:
        yield
    finally:
        _chosen.reset(token)
