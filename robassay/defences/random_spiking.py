"""Random spiking: some units of an early layer are replaced by noise between the layer's extremes."""

from __future__ import annotations

from typing import ClassVar, Literal, final

import torch
from torch import Tensor, nn

from robassay.classifier import Classifier, Net
from robassay.defences.dropout import check_rate, sequential, with_dropout
from robassay.errors import UsageError
from robassay.nets.backbone import Backbone, Shape
from robassay.nets.cnn import SmallCNN
from robassay.nets.noisy import ACTIVATIONS, Noise, NoisyNet, fill
from robassay.registry import part

Scope = Literal["batch", "example"]


@part(name="random-spiking", source="Ge et al. 2020, §4.2")
class RandomSpiking(Net):
    """Random spiking behind an activation of the trunk, in training and at every decision (RS-1).

    Published (Ge et al. 2020), test error with MeanOf(10) on MNIST, Fashion-MNIST, CIFAR-10: RS-1 .88, 5.34, 5.59 %;
    RS-1-Dropout (dropout .5, .1, .1) .71, 5.32, 5.81 %. Mean L2 of CW against one model: RS-1 2.06, .31, .32;
    RS-1-Dropout 1.79, .36, .32.

    Args:
        backbone: gives the trunk.
        q: probability that a unit is replaced; the paper's p is 1 − q.
        scope: the extremes are those of the whole "batch", as published, so that a prediction depends on who shares
            the batch; or of each "example" alone.
        position: behind which activation of the trunk, from 0. The paper spikes once, behind the first.
        dropout: probability that a unit is dropped in the trunk's places for it (RS-1-Dropout); 0 for none.
    """

    kind: ClassVar[str] = "defences"
    backbone: Backbone = SmallCNN()
    q: float = 0.2
    scope: Scope = "batch"
    position: int = 0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.q <= 1:
            raise UsageError(f"q={self.q} is not a probability. Write a value in [0, 1], such as q=0.2.")
        if self.scope not in ("batch", "example"):
            raise UsageError(f"scope={self.scope!r} is not known. Write 'batch' or 'example'.")
        check_rate("random-spiking", "dropout", self.dropout)

    def build(self, shape: Shape, classes: int) -> Classifier:
        trunk = sequential(self.backbone.trunk(shape, self.backbone.features))
        places = fill(trunk, lambda m: isinstance(m, ACTIVATIONS), self._behind)
        if not 0 <= self.position < places:
            have = f"{places} activation{'s' * (places != 1)} to stand behind"
            mend = f"Write position={places - 1} at most" if places else "Take another backbone, such as SmallCNN()"
            raise UsageError(
                f"random-spiking was given position={self.position}; {type(self.backbone).__name__} has {have}. {mend}."
            )
        trunk = with_dropout(trunk, self.dropout)
        return NoisyNet(trunk, nn.Linear(self.backbone.features, classes), classes)

    def _behind(self, number: int, activation: nn.Module) -> nn.Module:
        if number != self.position or self.q == 0:  # a layer that spikes nothing would be random in name only
            return activation
        return nn.Sequential(activation, Spiking(self.q, self.scope))


@final
class Spiking(Noise):
    """Units replaced with probability ``q`` by numbers uniform between the smallest and the largest unit.

    What is kept is not rescaled. Neither the noise nor the extremes pass a gradient on.

    Args:
        q: probability of a replacement, per unit.
        scope: whose extremes, see :class:`RandomSpiking`.
    """

    def __init__(self, q: float, scope: Scope) -> None:
        super().__init__()
        self.q = q
        # Draws folded into the batch axis repeat every row, which moves no extreme of the batch: rows are independent
        # given their mates.
        self.coupled = scope == "batch"

    def noisy(self, x: Tensor) -> Tensor:
        held = x.detach()
        own = [] if self.coupled else list(range(1, x.dim()))
        low, high = (held.amin(own, keepdim=True), held.amax(own, keepdim=True)) if own else (held.min(), held.max())
        # lerp never leaves [low, high]; low + u · (high − low) can, by a rounding.
        noise = torch.lerp(low, high, torch.rand_like(held))
        return torch.where(torch.rand_like(held) < self.q, noise, x)
