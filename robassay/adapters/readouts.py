"""How the outputs of all steps become logits."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from robassay.errors import UsageError
from robassay.nets.readouts import first_spike, rate


class Readout(abc.ABC):
    """Turns the last layer's sequence into logits.

    Both arguments are (steps, B, classes); the membrane is None where the network shows none.
    """

    @abc.abstractmethod
    def __call__(self, outputs: Tensor, membrane: Tensor | None) -> Tensor:
        """Logits (B, classes)."""


@dataclass(frozen=True)
class Rate(Readout):
    """Mean of the outputs over the steps: firing rates, or the mean current of a last layer that does not fire."""

    def __call__(self, outputs: Tensor, membrane: Tensor | None) -> Tensor:
        return rate(outputs)


@dataclass(frozen=True)
class Membrane(Readout):
    """Potential of the last layer at the last step, its mean or its maximum over the steps.

    A network that shows no membrane beside its outputs has outputs that are one (a leaky integrator's, a linear
    layer's).
    """

    of: Literal["last", "mean", "max"] = "last"

    def __post_init__(self) -> None:
        if self.of not in ("last", "mean", "max"):
            raise UsageError(f"of={self.of!r} is not known. Write Membrane('last'), 'mean' or 'max'.")

    def __call__(self, outputs: Tensor, membrane: Tensor | None) -> Tensor:
        potential = outputs if membrane is None else membrane
        if self.of == "last":
            return potential[-1]
        return potential.mean(0) if self.of == "mean" else potential.amax(0)


@dataclass(frozen=True)
class FirstSpike(Readout):
    """steps + 1 − t for a first spike at step t from 1, and 0 for a silent output: the earlier, the larger.

    It is the sum over the steps of "has fired by now", which is differentiable in the spikes. Outputs that fire
    first at the same step are told apart by their potential at that step where the network shows one (it adds less
    than ½ to a logit, so it never outweighs a step); otherwise they tie and the lowest class wins.
    """

    def __call__(self, outputs: Tensor, membrane: Tensor | None) -> Tensor:
        logits = first_spike(outputs)
        if membrane is None:
            return logits
        # 1 at the step of the first spike only; a constant, so that the tie's gradient is the potential's.
        fired = 1 - (1 - outputs.detach()).cumprod(0)
        first = torch.cat([fired[:1], fired[1:] - fired[:-1]])
        potential = (first * membrane).sum(0)
        return logits + 0.5 * potential / (1 + potential.abs())
