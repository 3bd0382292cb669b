"""LeNet++: six convolutions without padding or pooling."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from robassay.errors import UsageError
from robassay.nets.backbone import Backbone, Shape, check_side
from robassay.registry import part

CHANNELS = (32, 32, 64, 64, 128, 128)
SHRINK = 4 * len(CHANNELS)
"""Pixels that six unpadded 5 × 5 convolutions take off each side length."""


@part(name="lenet++", source="Wen et al. 2016; layers of the published code of Eustratiadis et al. 2021")
class LeNetPP(Backbone):
    """Six 5 × 5 convolutions 32-32-64-64-128-128 with PReLU, then a linear bottleneck; images from 25 × 25 pixels.

    No padding, no pooling, one slope per PReLU, no activation after the features. With one channel, 28 × 28 pixels
    and ten classes it has 860,752 parameters.

    Args:
        features: units of the bottleneck.
        width: factor on all numbers of channels, such as 0.25 where time is short.
    """

    features: int = 32
    width: float = 1.0

    def __post_init__(self) -> None:
        if self.features < 1 or not self.width > 0:
            raise UsageError("lenet++ needs features ≥ 1 and width > 0, such as LeNetPP(width=0.25).")

    def trunk(self, shape: Shape, dim: int) -> nn.Sequential:
        check_side("lenet++", shape, SHRINK + 1)
        channels, height, width = shape
        counts = [max(1, round(self.width * c)) for c in CHANNELS]
        layers: list[nn.Module] = []
        for before, after in pairwise((channels, *counts)):
            layers += [nn.Conv2d(before, after, 5), nn.PReLU()]
        flat = counts[-1] * (height - SHRINK) * (width - SHRINK)
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(flat, dim))
