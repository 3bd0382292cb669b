"""Dropout that stays on when the network decides (Monte-Carlo dropout)."""

from __future__ import annotations

from typing import ClassVar, final

import torch.nn.functional as F
from torch import Tensor, nn

from robassay.classifier import Classifier, Net
from robassay.errors import UsageError
from robassay.nets.backbone import Backbone, Shape
from robassay.nets.cnn import SmallCNN
from robassay.nets.noisy import Noise, NoisyNet, Site, fill
from robassay.registry import part


@part(name="dropout", source="Gal and Ghahramani 2016 (on when deciding); Ge et al. 2020, 'Dropout'")
class Dropout(Net):
    """Dropout in training and at every decision, where the trunk has a place for it, otherwise in front of the head.

    Published (Ge et al. 2020): rate .5 after the first dense layer of the MNIST net, .1 between the convolutions of
    every WRN block; test error with MeanOf(10) .67 % MNIST, 4.75 % Fashion-MNIST, 4.46 % CIFAR-10.

    Args:
        backbone: gives the trunk; its ``Site("dropout")`` places are filled.
        rate: probability that a unit is dropped; the others are multiplied by 1 / (1 − rate).
    """

    kind: ClassVar[str] = "defences"
    backbone: Backbone = SmallCNN()
    rate: float = 0.5

    def __post_init__(self) -> None:
        check_rate("dropout", "rate", self.rate)

    def build(self, shape: Shape, classes: int) -> Classifier:
        trunk = with_dropout(sequential(self.backbone.trunk(shape, self.backbone.features)), self.rate)
        return NoisyNet(trunk, nn.Linear(self.backbone.features, classes), classes)


@final
class Drop(Noise):
    """Units set to 0 with probability ``rate``, the others multiplied by 1 / (1 − rate)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def noisy(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.rate, training=True)


def with_dropout(trunk: nn.Sequential, rate: float) -> nn.Sequential:
    """The trunk with dropout in its ``Site("dropout")`` places, or behind its last layer if it has none.

    A rate of 0 leaves it as it is: a layer that drops nothing would make the net random in name only.
    """
    if rate == 0:
        return trunk
    places = fill(trunk, lambda m: isinstance(m, Site) and m.role == "dropout", lambda i, m: Drop(rate))
    return trunk if places else trunk.append(Drop(rate))


def sequential(trunk: nn.Module) -> nn.Sequential:
    """The trunk as a sequence of layers, of one if it is no sequence."""
    return trunk if isinstance(trunk, nn.Sequential) else nn.Sequential(trunk)


def check_rate(part: str, field: str, rate: float) -> None:
    """Raise UsageError unless ``rate`` is in [0, 1)."""
    if not 0 <= rate < 1:
        raise UsageError(
            f"{part} was given {field}={rate}; it is a probability, and something must be left. "
            f"Write a value from 0 to below 1, such as {field}=0.5."
        )
