"""Encoders: how pixels or normalised pixels become the input of a spiking network, step by step."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from robassay.errors import UsageError
from robassay.nets.ops import poisson


class Encoder(abc.ABC):
    """Codes images (B, …) as ``steps`` time steps.

    Attributes:
        stochastic: whether two codes of one image can differ; the numbers come from torch's global generator.
    """

    stochastic: ClassVar[bool] = False

    @abc.abstractmethod
    def __call__(self, x: Tensor, steps: int, start: int = 0, stop: int | None = None) -> Tensor:
        """Steps ``start`` to ``stop`` (by default all) of the code: (B, …) → (stop − start, B, …)."""

    def mean(self, x: Tensor) -> Tensor:
        """The expected input per step, shape of ``x``: the encoder with its noise off."""
        return x


@dataclass(frozen=True)
class Poisson(Encoder):
    """A spike with probability |scale · x| per step, of the sign of x; the backward pass is that of scale · x.

    Beyond 1 the rate saturates, and the gradient passes on. Source: Sharmin et al. 2019, §III; the derivative: Sharmin
    et al. 2020; scale 0.9: Rathi et al. 2020 (ResNet20).

    Args:
        scale: factor on the rates, positive.
        signed: whether there are negative spikes; otherwise what is negative never spikes.
    """

    stochastic = True
    scale: float = 1.0
    signed: bool = True

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise UsageError(
                f"Poisson was given scale={self.scale}; it needs a positive one, such as Poisson(scale=1)."
            )

    def __call__(self, x: Tensor, steps: int, start: int = 0, stop: int | None = None) -> Tensor:
        rates = x if self.scale == 1 else self.scale * x
        return poisson(rates.expand(_length(steps, start, stop), *x.shape), self.signed)

    def mean(self, x: Tensor) -> Tensor:
        """The rate, which saturates."""
        return (self.scale * x).clamp(-1.0 if self.signed else 0.0, 1.0)


@dataclass(frozen=True)
class Direct(Encoder):
    """The images themselves as a constant input current. Source: Rueckauer et al. 2017."""

    def __call__(self, x: Tensor, steps: int, start: int = 0, stop: int | None = None) -> Tensor:
        return x.expand(_length(steps, start, stop), *x.shape)


@dataclass(frozen=True)
class Latency(Encoder):
    """One spike per pixel, the earlier the brighter: at step T − k, from 0, of T steps for x near k / T.

    A pixel below 1 / (2T) never spikes, so a blank image gives no spike at all; above 1 it spikes at once. The backward
    pass is the change of the loss, to first order, when the spike moves by one step to either side (to its only
    neighbour at the ends). Source: linear time-to-first-spike coding, Thorpe et al. 2001; the derivative is ours.
    """

    def __call__(self, x: Tensor, steps: int, start: int = 0, stop: int | None = None) -> Tensor:
        code: Tensor = _Latency.apply(x, steps, start, start + _length(steps, start, stop))
        return code


class _Latency(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, steps: int, start: int, stop: int) -> Tensor:
        level = (x * steps).round().clamp(0, steps)
        ctx.save_for_backward(level)
        ctx.part = steps, start, stop
        return (level == _levels(level, steps, start, stop)).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (level,) = ctx.saved_tensors
        steps, start, stop = ctx.part
        # A brighter pixel's spike leaves its own level for the next: a slope per 1/T, one-sided at the ends.
        up, down = (level + 1).clamp_max(steps), (level - 1).clamp_min(0)
        each = _levels(level, steps, start, stop)
        change = (each == up).to(level.dtype) - (each == down).to(level.dtype)
        return (grads[0] * change).sum(0) * steps / (up - down), None, None, None


def _levels(like: Tensor, steps: int, start: int, stop: int) -> Tensor:
    """The level k = T − t that spikes at each step t, shaped to compare with (B, …)."""
    levels = torch.arange(steps - start, steps - stop, -1, device=like.device, dtype=like.dtype)
    return levels.reshape(-1, *[1] * like.dim())


def _length(steps: int, start: int, stop: int | None) -> int:
    return (steps if stop is None else stop) - start
