"""Leaky integrate-and-fire neurons, and a fully connected spiking network of them.

Per step h = leak · v + current; a spike where h ≥ threshold (at the threshold it fires); then the reset, soft
v = h − threshold · spike or hard v = h · (1 − spike). The membrane is 0 before the first step of every pass: nothing
is kept between passes. Layers of one step see each other without delay.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal, final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from robassay.classifier import Classifier, Net
from robassay.errors import UsageError
from robassay.nets.backbone import Shape, check_widths
from robassay.nets.ops import poisson
from robassay.registry import part
from robassay.rules import Atan, BackwardRule, in_force

Reset = Literal["soft", "hard"]


class _Neurons(torch.autograd.Function):
    """All steps in one node of the graph, which keeps the potentials before the reset and nothing else."""

    @staticmethod
    def forward(ctx: Any, current: Tensor, leak: float, threshold: float, reset: Reset, rule: BackwardRule) -> Tensor:
        potentials = torch.empty_like(current)
        v = torch.zeros_like(current[0])
        for t, arriving in enumerate(current):
            h = torch.add(arriving, v, alpha=leak, out=potentials[t])
            fires = h >= threshold
            v = h - threshold * fires if reset == "soft" else h.masked_fill(fires, 0)
        ctx.save_for_backward(potentials)
        ctx.settings = leak, threshold, reset, rule
        return (potentials >= threshold).to(current.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        (potentials,) = ctx.saved_tensors
        leak, threshold, reset, rule = ctx.settings
        direct = grads[0] * rule(potentials / threshold - 1) / threshold
        carried = torch.zeros_like(potentials[0])
        # The reset is not differentiated: dv/dh is 1 after a soft reset, 1 − spike after a hard one.
        for t in reversed(range(len(potentials))):
            kept = carried if reset == "soft" else carried.masked_fill(potentials[t] >= threshold, 0)
            carried = leak * direct[t].add_(kept)
        return direct, None, None, None, None


def neurons(current: Tensor, leak: float, threshold: float, reset: Reset, rule: BackwardRule) -> Tensor:
    """Spikes of leaky integrate-and-fire neurons, both (steps, …); leak = 1 integrates without loss.

    Backward: through time, with the rule in force (by default ``rule``) at h/threshold − 1 for the step and the
    reset held constant. Source: Neftci et al. 2019.
    """
    spikes: Tensor = _Neurons.apply(current, leak, threshold, reset, in_force(rule))
    return spikes


@part(source="Sharmin et al. 2019 (Poisson input); Neftci et al. 2019 (training)")
class LIF(Net):
    """Fully connected spiking network with Poisson-coded images, read out by the membrane.

    The output layer integrates without leak and never fires; logits are its potential divided by the steps.

    Args:
        hidden: neurons of the hidden layers.
        steps: time steps of a pass.
        leak: factor on the membrane from step to step, in (0, 1].
        threshold: potential at which a neuron fires.
        reset: "soft" subtracts the threshold, "hard" sets the membrane to 0.
        rule: derivative of the step in training, and by default in attacks.
    """

    hidden: tuple[int, ...] = (200,)
    steps: int = 10
    leak: float = 0.9
    threshold: float = 1.0
    reset: Reset = "soft"
    rule: BackwardRule = Atan(2.0)

    def __post_init__(self) -> None:
        check_widths("lif", self.hidden)
        if self.steps < 1 or not 0 < self.leak <= 1 or not self.threshold > 0:
            raise UsageError("lif needs steps ≥ 1, 0 < leak ≤ 1 and threshold > 0, such as LIF(steps=10, leak=0.9).")
        if self.reset not in ("soft", "hard"):
            raise UsageError(f"reset={self.reset!r} is not known. Write reset='soft' or reset='hard'.")

    def build(self, shape: Shape, classes: int) -> Classifier:
        return LIFClassifier(self, (math.prod(shape), *self.hidden, classes))


@final
class LIFClassifier(Classifier):
    """The network of a :class:`LIF` description; ``widths`` are the units of input, hidden layers and output."""

    stochastic = True
    rows = "independent"

    def __init__(self, net: LIF, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.net = net
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))
        self.classes = widths[-1]

    def draw(self, h: Tensor) -> Tensor:
        pixels = h.flatten(1)
        return self._run(self.layers[0](poisson(pixels.expand(self.net.steps, *pixels.shape))))

    def quiet(self, h: Tensor) -> Tensor:
        """The pixels themselves as a constant input current."""
        current = self.layers[0](h.flatten(1))
        return self._run(current.expand(self.net.steps, *current.shape))

    def _run(self, current: Tensor) -> Tensor:
        """Input current of the first hidden layer (steps, B, units) → logits (B, classes)."""
        fire: Callable[[Tensor], Tensor] = lambda c: neurons(
            c, self.net.leak, self.net.threshold, self.net.reset, self.net.rule
        )
        for layer in self.layers[1:-1]:
            current = layer(fire(current))
        # The output's potential is the sum of its inputs, so averaging the spikes first gives the same logits.
        logits: Tensor = self.layers[-1](fire(current).mean(0))
        return logits
