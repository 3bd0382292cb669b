"""The residual network of the spiking literature: no normalisation, no bias, a stem of three convolutions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

from torch import Tensor, nn

from robassay.errors import UsageError
from robassay.nets.backbone import Backbone, Shape
from robassay.nets.normalise import Preset, normalisation

STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))
"""Channels and stride of the four stages of two blocks each."""


@dataclass(frozen=True)
class ReluResNet20(Backbone):
    """ResNet20 with ReLU; see :class:`~robassay.nets.published.ResNet20`."""

    bias: ClassVar[bool] = False
    width: float = 1.0
    normalise: Preset | None = "half"
    dropout: float = 0.2

    @property
    def features(self) -> int:
        return self._scaled(STAGES[-1][0]) * 4

    def _scaled(self, channels: int) -> int:
        return max(1, round(self.width * channels))

    def trunk(self, shape: Shape, dim: int) -> nn.Sequential:
        if shape[1:] != (32, 32):
            raise UsageError(
                f"resnet20 cannot take images of {shape[1]} × {shape[2]} pixels: it takes 32 × 32. Use vgg5 or vgg9."
            )
        layers, before = normalisation("resnet20", self.normalise, shape), shape[0]
        first = self._scaled(STAGES[0][0])
        for place in range(3):
            layers += [plain_conv(before, first, 3, 1), nn.ReLU()]
            layers += [nn.Dropout(self.dropout)] if place < 2 else [nn.AvgPool2d(2)]
            before = first
        for channels, stride in STAGES:
            for place in range(2):
                after = self._scaled(channels)
                layers.append(Residual(before, after, stride if place == 0 else 1, self.dropout))
                before = after
        layers.append(nn.Flatten())
        return nn.Sequential(*layers)


@final
class Residual(nn.Module):
    """ReLU(conv(dropout(ReLU(conv(x)))) + shortcut(x)), (B, before, H, W) → (B, after, H/stride, W/stride)."""

    def __init__(self, before: int, after: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.conv1, self.conv2 = plain_conv(before, after, 3, stride), plain_conv(after, after, 3, 1)
        same = stride == 1 and before == after
        self.shortcut = nn.Sequential() if same else nn.Sequential(plain_conv(before, after, 1, stride))
        self.dropout, self.relu = nn.Dropout(dropout), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.dropout(self.relu(self.conv1(x))))
        out: Tensor = self.relu(y + self.shortcut(x))
        return out


def plain_conv(before: int, after: int, kernel: int, stride: int) -> nn.Conv2d:
    """A convolution without bias, padded by half its kernel; weights of deviation √(2 / (kernel² · after))."""
    layer = nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.normal_(layer.weight, std=math.sqrt(2 / (kernel * kernel * after)))
    return layer
