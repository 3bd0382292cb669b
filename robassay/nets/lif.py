"""A fully connected spiking network of leaky integrate-and-fire neurons.

The membrane is 0 before the first step of every pass: nothing is kept between passes. Neurons fire at the threshold.
Layers of one step see each other without delay.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import final

from torch import Tensor, nn

from robassay.classifier import Classifier, Net
from robassay.errors import UsageError
from robassay.nets.backbone import Shape, check_widths
from robassay.nets.neurons import Reset, neurons
from robassay.nets.ops import poisson
from robassay.registry import part
from robassay.rules import Atan, Rule


@part(source="Sharmin et al. 2019 (Poisson input); Neftci et al. 2019 (training)")
class LIF(Net):
    """Fully connected spiking network with Poisson-coded images, read out by the membrane.

    The output layer integrates without leak and never fires; logits are its potential divided by the steps.

    Args:
        hidden: neurons of the hidden layers.
        steps: time steps of a pass.
        leak: factor on the membrane from step to step, in (0, 1].
        threshold: potential from which on a neuron fires, > 0, in units of the input current.
        reset: "soft" subtracts the threshold, "hard" sets the membrane to 0.
        rule: derivative of the step in training, and by default in attacks.
    """

    hidden: tuple[int, ...] = (200,)
    steps: int = 10
    leak: float = 0.9
    threshold: float = 1.0
    reset: Reset = "soft"
    rule: Rule = Atan(2.0)

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

    def lasting(self, steps: int) -> LIFClassifier:
        other = copy.copy(self)
        other.net = replace(self.net, steps=steps)
        return other

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
