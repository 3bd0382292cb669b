"""Spiking neurons over a window of time steps, as one node of the graph.

Per step t the membrane is h, a spike s = 1 where h reaches the threshold, and what is left goes into the next step:

    soft   leak · (h − threshold · s)
    hard   leak · h · (1 − s)
    late   leak · h − threshold · s      (the reset comes after the leak: Sharmin et al. 2020; snnTorch's default)

To that the next step's current is added. With ``delay`` a step emits before its own current arrives, so that every
layer is one step behind the one in front of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from robassay.errors import UsageError
from robassay.rules import Rule, WindowRule, in_force

Reset = Literal["soft", "hard", "late"]


@dataclass(frozen=True)
class Dynamics:
    """What neurons do in a step.

    Args:
        leak: factor on the membrane from step to step, in (0, 1]; 1 integrates without loss.
        threshold: potential at which a neuron fires.
        reset: "soft", "hard" or "late", see the module.
        delay: emit from the membrane as it was before the step's own current.
        strict: fire above the threshold only, not at it.
        attached: let the gradient pass through the reset, too.
    """

    leak: float = 0.9
    threshold: float = 1.0
    reset: Reset = "soft"
    delay: bool = False
    strict: bool = False
    attached: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.leak <= 1 or not self.threshold > 0:
            raise UsageError(
                f"neurons were given leak={self.leak}, threshold={self.threshold}; they need 0 < leak ≤ 1 and "
                "threshold > 0, such as leak=0.9, threshold=1.0."
            )
        if self.reset not in ("soft", "hard", "late"):
            raise UsageError(f"reset={self.reset!r} is not known. Write 'soft', 'hard' or 'late'.")

    def fires(self, h: Tensor) -> Tensor:
        """Where potentials (…) give a spike: bool (…)."""
        return h > self.threshold if self.strict else h >= self.threshold


class Fired(NamedTuple):
    """What neurons did in a window."""

    spikes: Tensor
    """0 or 1, (steps, …)."""
    left: Tensor
    """What goes into the step behind the window (…): give it to the next window as ``start``."""


class _Neurons(torch.autograd.Function):
    """All steps in one node, which keeps the potentials before the reset and nothing else."""

    @staticmethod
    def forward(ctx: Any, current: Tensor, start: Tensor, how: Dynamics, rule: Rule) -> tuple[Tensor, Tensor]:
        kept = any(ctx.needs_input_grad[:2])
        potentials = torch.empty_like(current) if kept else current
        spikes = torch.empty_like(current)
        left = start
        for t, arriving in enumerate(current):
            out = potentials[t] if kept else None
            h = torch.add(left, 0, out=out) if how.delay else torch.add(arriving, left, out=out)
            s = _fire(h, how, spikes[t])
            left = _left(h, s, how)
            if how.delay:
                left = left.add_(arriving)
        ctx.how, ctx.rule = how, rule
        if isinstance(rule, WindowRule):
            ctx.save_for_backward(spikes, current.mean(0))
        else:
            ctx.save_for_backward(potentials)
        return spikes, left

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        if isinstance(ctx.rule, WindowRule):
            return *_by_window(ctx.saved_tensors, grads, ctx.how, ctx.rule), None, None
        return *_by_potential(ctx.saved_tensors[0], grads, ctx.how, ctx.rule), None, None


def _fire(h: Tensor, how: Dynamics, out: Tensor) -> Tensor:
    return torch.gt(h, how.threshold, out=out) if how.strict else torch.ge(h, how.threshold, out=out)


def _left(h: Tensor, s: Tensor, how: Dynamics) -> Tensor:
    if how.reset == "soft":
        return torch.sub(h, s, alpha=how.threshold).mul_(how.leak)
    if how.reset == "hard":
        return torch.addcmul(h, h, s, value=-1).mul_(how.leak)
    return torch.mul(h, how.leak).sub_(s, alpha=how.threshold)


def _by_potential(potentials: Tensor, grads: tuple[Tensor, ...], how: Dynamics, rule: Any) -> tuple[Tensor, Tensor]:
    """Through time, step by step: whole windows at once would pass every temporary through main memory."""
    of_spikes, carried = grads
    found = torch.empty_like(potentials)
    for t in reversed(range(len(potentials))):
        h = potentials[t]
        slope = rule(torch.div(h, how.threshold).sub_(1))
        upstream = of_spikes[t]
        if how.attached:
            effect = h * how.leak if how.reset == "hard" else how.threshold * (how.leak if how.reset == "soft" else 1)
            upstream = upstream - carried * effect
        kept = carried
        if how.reset == "hard":
            kept = carried.masked_fill(how.fires(h), 0)
        g = torch.mul(upstream, slope, out=None if how.delay else found[t])
        g = g.mul_(1 / how.threshold).add_(kept, alpha=how.leak)
        if how.delay:
            found[t] = carried
        carried = g
    return found, carried


def _by_window(
    saved: tuple[Tensor, ...], grads: tuple[Tensor, ...], how: Dynamics, rule: WindowRule
) -> tuple[Tensor, Tensor]:
    spikes, mean = saved
    of_spikes, carried = grads
    factor = rule(spikes, mean / how.threshold, how.leak) / how.threshold
    if not rule.through_time:
        each = factor * of_spikes.mean(0)
        return each.expand_as(spikes), torch.zeros_like(carried)
    found = torch.empty_like(spikes)
    for t in reversed(range(len(spikes))):
        kept = carried * (1 - spikes[t]) if how.reset == "hard" else carried
        g = torch.addcmul(kept, of_spikes[t], factor)
        found[t] = carried if how.delay else g
        carried = g
    return found, carried


def neurons(current: Tensor, how: Dynamics, rule: Rule, start: Tensor | None = None) -> Fired:
    """Spikes of neurons that receive ``current`` (steps, …).

    Backward: through time, with the rule in force (by default ``rule``) at h/threshold − 1 for the step and, unless
    ``how.attached``, the reset held constant. Source: Neftci et al. 2019; rules of whole trains: :class:`WindowRule`.

    Args:
        start: what an earlier window left, shape of a step; None is a membrane at rest.
    """
    begun = torch.zeros_like(current[0]) if start is None else start
    spikes, left = _Neurons.apply(current, begun, how, in_force(rule))
    return Fired(spikes, left)
