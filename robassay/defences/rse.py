"""Random self-ensemble: Gaussian noise in front of every convolution."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor, nn

from robassay.classifier import Classifier, Net
from robassay.errors import UsageError
from robassay.nets.backbone import Backbone, Shape
from robassay.nets.cnn import SmallCNN
from robassay.nets.noisy import Noise, NoisyNet, fill, layered
from robassay.registry import part

MOST = 1e6
"""Largest standard deviation, in pixel units of [0, 1]."""


@final
class Gaussian(Noise):
    """Adds normal noise, independent for every entry of every row.

    Args:
        std: its standard deviation, > 0.
    """

    def __init__(self, std: float) -> None:
        super().__init__()
        self.std = std

    def noisy(self, x: Tensor) -> Tensor:
        return x + self.std * torch.randn_like(x)


@part(name="rse", source="Liu et al. 2018, §3")
class RSE(Net):
    """Gaussian noise of fixed size in front of every convolution, in training and in evaluation.

    A standard deviation of 0 leaves the place without noise. The authors average the softmax of ten passes.

    Args:
        backbone: the network; it needs a convolution.
        first: standard deviation in front of the first convolution.
        others: standard deviation in front of all others.
    """

    kind: ClassVar[str] = "defences"
    backbone: Backbone = SmallCNN()
    first: float = 0.2
    others: float = 0.1

    def __post_init__(self) -> None:
        if not (0 <= self.first <= MOST and 0 <= self.others <= MOST):
            raise UsageError(
                f"rse was given first={self.first}, others={self.others}; a standard deviation lies between 0 and "
                f"{MOST:g}, beyond which sums of squares overflow in float32. Write RSE(first=0.2, others=0.1)."
            )

    def build(self, shape: Shape, classes: int) -> Classifier:
        trunk = layered(self.backbone.trunk(shape, self.backbone.features))

        def make(number: int, module: nn.Module) -> nn.Module:
            std = self.others if number else self.first
            return nn.Sequential(Gaussian(std), module) if std else module

        if not fill(trunk, lambda m: isinstance(m, nn.Conv2d), make):
            raise UsageError(
                f"rse puts noise in front of convolutions, {type(self.backbone).__name__} has none. "
                "Use small-cnn: RSE(SmallCNN())."
            )
        return NoisyNet(trunk, nn.Linear(self.backbone.features, classes), classes)
