"""Steps, signs, Bernoulli units and spike encoders: a fixed forward pass, a replaceable backward pass.

Every op reads the backward rule in force while it runs forward and keeps it: autograd's threads do not see the
context in which an attacker chose a rule.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from robassay.analogue import stand_in
from robassay.rules import BackwardRule, Exponential, Rectangle, in_force_pointwise

HARD_SIGMOID = Rectangle(2.0)
"""Derivative of (clip(u, −1, 1) + 1) / 2: one half for |u| < 1, else 0. The rule of a straight-through Bernoulli unit;
doubled, the usual window 1{|x| < 1} of a sign."""

ONE_HALF = Exponential(slope=0.0, height=0.5)
"""One half everywhere: the rule that lets a gradient pass a sign unchanged."""


class _Step(torch.autograd.Function):
    """``values``, differentiated as ``scale`` · step(u)."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, values: Tensor, scale: float, rule: BackwardRule) -> Tensor:
        ctx.save_for_backward(u)
        ctx.scale, ctx.rule = scale, rule
        return values.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (u,) = ctx.saved_tensors
        return grads[0] * ctx.rule(u) * ctx.scale, None, None, None


def spike(u: Tensor, rule: BackwardRule) -> Tensor:
    """1 where ``u`` > 0, else 0, any shape; backward: the rule in force, by default ``rule``."""
    return _step(u, (u > 0).to(u.dtype), 1.0, rule)


def sign(x: Tensor, rule: BackwardRule = HARD_SIGMOID, zero: Literal[0, 1] = 0) -> Tensor:
    """−1 or 1, any shape, and ``zero`` for 0: 0 as ``torch.sign`` has it, or 1. Source: Courbariaux et al. 2016.

    A sign is two steps minus one, so its backward pass is twice the rule in force.
    """
    return _step(x, x.sign() if zero == 0 else 2 * (x >= 0).to(x.dtype) - 1, 2.0, rule)


def random_sign(x: Tensor, rule: BackwardRule = HARD_SIGMOID) -> Tensor:
    """One draw b ∈ {−1, 1} with P(b = 1) = hard_sigmoid(x), any shape, from torch's global generator.

    E[b] = clip(x, −1, 1). Backward: as for :func:`sign`. Source: Courbariaux et al. 2016, eq. 2.
    """
    drawn = torch.rand_like(x) < hard_sigmoid(x.detach())
    return _step(x, 2 * drawn.to(x.dtype) - 1, 2.0, rule)


def hard_sigmoid(u: Tensor) -> Tensor:
    """(clip(u, −1, 1) + 1) / 2, any shape: gain one half, not ``torch.nn.functional.hardsigmoid``'s one sixth."""
    return (u.clamp(-1, 1) + 1) / 2


def bernoulli(a: Tensor, slope: Tensor | float = 1.0) -> Tensor:
    """One draw z ∈ {0, 1} with P(z = 1) = hard_sigmoid(slope · a), any shape, from torch's global generator.

    Backward: straight through the draw, so dz/da = slope/2 · 1{|slope · a| < 1}; an attacker's rule replaces the
    derivative by slope · rule(slope · a). Source: Bengio et al. 2013; Chung et al. 2017 (slope).
    """
    u = slope * a
    drawn = torch.rand_like(u) < hard_sigmoid(u.detach())
    return _step(u, drawn.to(u.dtype), 1.0, HARD_SIGMOID)


class _Poisson(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, signed: bool) -> Tensor:
        u = torch.rand_like(x)
        return x.sign() * (u < x.abs()) if signed else (u < x).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def poisson(x: Tensor, signed: bool = True) -> Tensor:
    """One draw s = sign(x) · 1[u < |x|] ∈ {−1, 0, 1} per element, u uniform from torch's global generator.

    Unsigned, s = 1[u < x] ∈ {0, 1}: what is negative never spikes. E[s] = x for |x| ≤ 1 (0 ≤ x ≤ 1), hence the identity
    as backward pass, and x itself in an analogue twin. Time steps are draws of an expanded tensor:
    ``poisson(x.expand(steps, *x.shape))``.
    Source: Sharmin et al. 2019, §III; the derivative: Sharmin et al. 2020.
    """
    if stand_in() is not None:
        return x
    drawn: Tensor = _Poisson.apply(x, signed)
    return drawn


def _step(u: Tensor, values: Tensor, scale: float, rule: BackwardRule) -> Tensor:
    stepped: Tensor = _Step.apply(u, values.detach(), scale, in_force_pointwise(rule))
    return stepped
