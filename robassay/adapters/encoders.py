"""How images become input over time. The encoder belongs to the adapted network, so an attacker goes through it.

Every encoder maps x (B, C, H, W) to (steps, B, C, H, W), time first.
"""

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
    """Turns images into a sequence. Random numbers come from torch's global generator, fresh in every pass."""

    stochastic: ClassVar[bool] = False

    @abc.abstractmethod
    def __call__(self, x: Tensor, steps: int) -> Tensor:
        """Images (B, C, H, W) → sequence (steps, B, C, H, W)."""


@dataclass(frozen=True)
class Direct(Encoder):
    """The image itself at every step, as an input current."""

    def __call__(self, x: Tensor, steps: int) -> Tensor:
        return x.expand(steps, *x.shape)


@dataclass(frozen=True)
class Poisson(Encoder):
    """A spike with probability |x| per step; the backward pass is the identity. Source: Sharmin et al. 2020.

    Args:
        signed: a negative value (there are some after a normalisation) gives spikes of −1; otherwise it gives none.
    """

    stochastic: ClassVar[bool] = True
    signed: bool = False

    def __call__(self, x: Tensor, steps: int) -> Tensor:
        if not self.signed:
            # The gradient goes past the clamp: it is the identity for every pixel, as E[s] = x on [0,1].
            x = x + (x.clamp_min(0) - x).detach()
        return poisson(x.expand(steps, *x.shape))


class _Latency(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, steps: int) -> Tensor:
        time = ((1 - x.clamp(0, 1)) * (steps - 1)).round().long()
        spikes = x.new_zeros(steps, *x.shape).scatter_(0, time.unsqueeze(0), 1.0)
        ctx.save_for_backward(time)
        return spikes * (x > 0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (time,) = ctx.saved_tensors
        grad, last = grads[0], len(grads[0]) - 1
        before, after = (time - 1).clamp_min(0), (time + 1).clamp_max(last)
        slope = grad.gather(0, before.unsqueeze(0)) - grad.gather(0, after.unsqueeze(0))
        return slope.squeeze(0) * (last / (after - before).clamp_min(1)), None


@dataclass(frozen=True)
class Latency(Encoder):
    """One spike per pixel, at step round((1 − x)·(steps − 1)) from 0: bright pixels fire first, black ones never.

    Backward: the central difference of the gradient over the spike's time, times how fast the time moves with x.
    """

    def __call__(self, x: Tensor, steps: int) -> Tensor:
        if steps < 2:
            raise UsageError(f"steps={steps}: one step has no early and late. Write steps=8, or encoder=Direct().")
        spikes: Tensor = _Latency.apply(x, steps)
        return spikes
