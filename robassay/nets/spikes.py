"""How a network spikes, and the layers that do: over parts of the time steps, with state handed from part to part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robassay.errors import UsageError
from robassay.nets.encoders import Encoder, Poisson
from robassay.nets.neurons import Reset, neurons_from
from robassay.nets.parts import State
from robassay.nets.residual import Residual
from robassay.rules import Rule, Triangle

SIGNED, SHARMIN = Poisson(), Triangle(height=0.3)
"""Encoder and rule unless told otherwise. Source: Sharmin et al. 2020."""

POOL_THRESHOLD = 0.75
"""Of the neurons behind a pooling, which do not leak. Source: Lee et al. 2020."""


@dataclass(frozen=True)
class Spikes:
    """How a network spikes.

    Args:
        steps: time steps of a pass, T.
        leak: factor on the membrane from step to step, in (0, 1].
        threshold: of every layer before training or conversion; each layer keeps its own, stored with the weights.
        scale: factor on all thresholds while the network runs, such as 0.7 for training behind a conversion.
        reset: "soft" subtracts the threshold, "hard" sets the membrane to 0.
        delay: every layer emits from what it held before the step, so that depth costs time.
        strict: fire above the threshold only, not at it.
        pooling: "graded" hands averages of spikes on; "spiking" puts neurons of threshold .75 behind every pooling.
        encoder: how images become input.
        rule: derivative of the step in training, and by default in attacks.
        output_leak: factor on the output's potential from step to step; the output never fires, and logits are its last
            potential over T. A rule that takes the membrane's leak for 1 takes this one for 1, too.
    """

    steps: int = 100
    leak: float = 1.0
    threshold: float = 1.0
    scale: float = 1.0
    reset: Reset = "soft"
    delay: bool = False
    strict: bool = False
    pooling: Literal["graded", "spiking"] = "graded"
    encoder: Encoder = SIGNED
    rule: Rule = SHARMIN
    output_leak: float = 1.0

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 < self.leak <= 1 or not 0 < self.output_leak <= 1:
            raise UsageError("Spikes needs steps ≥ 1 and leaks in (0, 1], such as Spikes(steps=100, leak=0.99).")
        if not self.threshold > 0 or not self.scale > 0:
            raise UsageError("Spikes needs threshold > 0 and scale > 0, such as Spikes(threshold=1.0, scale=0.7).")
        if self.reset not in get_args(Reset) or self.pooling not in ("graded", "spiking"):
            raise UsageError(
                f"reset={self.reset!r}, pooling={self.pooling!r}: write reset='soft' or 'hard', and pooling='graded' "
                "or 'spiking'."
            )


class Carry:
    """What the layers of a network hand from one part of the steps to the next, in the order of the layers."""

    def __init__(self, state: State) -> None:
        self._before = iter(state)
        self.after: list[Tensor] = []

    def take(self) -> Tensor | None:
        """What the layer left in the part before; None in the first part."""
        return next(self._before, None)


@final
class Neurons(nn.Module):
    """A layer of neurons: current (steps, B, …) → spikes. The threshold is a buffer.

    Args:
        spikes: how they spike.
        threshold: at first.
        balanced: whether a conversion sets the threshold.
        leak: factor on the membrane.
    """

    threshold: Tensor

    def __init__(self, spikes: Spikes, threshold: float, balanced: bool, leak: float) -> None:
        super().__init__()
        self.spikes, self.balanced, self.leak = spikes, balanced, leak
        self.register_buffer("threshold", torch.tensor(float(threshold)))
        self._known: float | None = None

    def forward(self, current: Tensor, carry: Carry) -> Tensor:
        how, threshold = self.spikes, self._number() * (self.spikes.scale if self.balanced else 1.0)
        settings = (current, self.leak, threshold, how.reset, how.rule)
        fired, state = neurons_from(carry.take(), *settings, delay=how.delay, strict=how.strict)
        carry.after.append(state)
        return fired

    def _number(self) -> float:
        """The threshold as a number. torch.export sees no values: there it is that of the pass before."""
        if self._known is None or not torch.compiler.is_exporting():
            self._known = self.threshold.item()
        return self._known


@final
class FixedDropout(nn.Module):
    """Dropout whose mask is drawn once per pass and kept over time, (steps, B, …). Source: Lee et al. 2020."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor, carry: Carry) -> Tensor:
        if not self.training or self.p == 0:
            return x
        mask = carry.take()
        if mask is None:
            mask = F.dropout(x.new_ones(x.shape[1:]), self.p)
        carry.after.append(mask)
        return x * mask


@final
class Synapses(nn.Module):
    """A layer without state at every step: (steps, B, …) → (steps, B, …)."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, carry: Carry) -> Tensor:
        return self.current(x)

    def current(self, x: Tensor) -> Tensor:
        """The layer at every step; a constant input passes it once."""
        if x.stride(0) == 0:
            once: Tensor = self.layer(x[0])
            return once.expand(len(x), *once.shape)
        folded: Tensor = self.layer(x.flatten(0, 1))
        return folded.unflatten(0, x.shape[:2])


@final
class SpikingResidual(nn.Module):
    """The counterpart of a :class:`Residual`: its second neurons integrate residual and shortcut together.

    A conversion leaves both thresholds alone. Source: Rathi et al. 2020.
    """

    def __init__(self, block: Residual, spikes: Spikes) -> None:
        super().__init__()
        self.conv1, self.conv2, self.shortcut = (Synapses(m) for m in (block.conv1, block.conv2, block.shortcut))
        self.inner, self.outer = (Neurons(spikes, spikes.threshold, False, spikes.leak) for _ in range(2))
        self.dropout = FixedDropout(block.dropout.p)

    def forward(self, x: Tensor, carry: Carry) -> Tensor:
        y = self.dropout(self.inner(self.conv1.current(x), carry), carry)
        fired: Tensor = self.outer(self.conv2.current(y) + self.shortcut.current(x), carry)
        return fired
