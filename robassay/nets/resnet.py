"""ResNet18: residual network of eight basic blocks."""

from __future__ import annotations

from typing import Literal, final

from torch import Tensor, nn

from robassay.errors import UsageError
from robassay.nets.backbone import Backbone, Shape, check_side, pooled
from robassay.nets.noisy import Junction
from robassay.nets.normalise import Preset, check_preset, normalisation
from robassay.registry import part

CHANNELS = (64, 128, 256, 512)
"""Of the four stages of two blocks each, at width 1."""


@part(name="resnet18", source="He et al. 2016, table 1; CIFAR stem: Jeddi et al. 2020 (Learn2Perturb)")
class ResNet18(Backbone):
    """ResNet18; images from 8 × 8 pixels, any number of channels.

    With three channels and the ImageNet stem 11,176,512 parameters precede the last layer. Asked for another number of
    features than its own, it ends in a linear layer and a ReLU.

    Args:
        stem: "imagenet" begins with a 7 × 7 convolution of stride 2 and a pooling, so that 32 × 32 pixels end as
            1 × 1; "cifar" with a 3 × 3 convolution of stride 1.
        width: factor on all numbers of channels, such as 0.25 where time is short.
        zero_init: every block begins as its shortcut: the scale of its last normalisation is 0 before training.
        normalise: preset of the first layer.
    """

    stem: Literal["imagenet", "cifar"] = "imagenet"
    width: float = 1.0
    zero_init: bool = False
    normalise: Preset | None = None

    def __post_init__(self) -> None:
        if self.stem not in ("imagenet", "cifar"):
            raise UsageError(f"stem={self.stem!r} is not known. Write stem='imagenet' or stem='cifar'.")
        if not self.width > 0:
            raise UsageError(f"resnet18 was given width={self.width}; it needs width > 0, such as ResNet18(width=0.25)")
        check_preset("resnet18", self.normalise)

    @property
    def channels(self) -> list[int]:
        """Channels of the four stages."""
        return [max(1, round(self.width * c)) for c in CHANNELS]

    @property
    def features(self) -> int:
        return self.channels[-1]

    def trunk(self, shape: Shape, dim: int) -> nn.Sequential:
        check_side("resnet18", shape, 8)
        first = self.channels[0]
        layers = normalisation("resnet18", self.normalise, shape)
        if self.stem == "imagenet":
            layers += [conv(shape[0], first, 7, 2), nn.BatchNorm2d(first), Junction(), nn.MaxPool2d(3, 2, padding=1)]
        else:
            layers += [conv(shape[0], first, 3, 1), nn.BatchNorm2d(first), Junction()]
        before = first
        for stage, after in enumerate(self.channels):
            layers.append(BasicBlock(before, after, 2 if stage else 1, self.zero_init))
            layers.append(BasicBlock(after, after, 1, self.zero_init))
            before = after
        return nn.Sequential(*layers, *pooled(self.features, dim))


@final
class BasicBlock(nn.Module):
    """Two 3 × 3 convolutions and a shortcut, (B, before, H, W) → (B, after, H/stride, W/stride).

    Args:
        before, after: channels.
        stride: of the first convolution.
        zero_init: whether the last normalisation begins with scale 0.
    """

    def __init__(self, before: int, after: int, stride: int, zero_init: bool) -> None:
        super().__init__()
        self.conv1, self.norm1, self.relu = conv(before, after, 3, stride), nn.BatchNorm2d(after), nn.ReLU()
        self.conv2, self.norm2 = conv(after, after, 3, 1), nn.BatchNorm2d(after)
        self.shortcut = nn.Sequential()
        if stride != 1 or before != after:
            self.shortcut.extend([conv(before, after, 1, stride), nn.BatchNorm2d(after)])
        self.junction = Junction()
        if zero_init:
            nn.init.zeros_(self.norm2.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        out: Tensor = self.junction(y + self.shortcut(x))
        return out


def conv(before: int, after: int, kernel: int, stride: int) -> nn.Conv2d:
    """A convolution without bias, padded by half its kernel; normal weights by the fan-out. Source: He et al. 2015."""
    layer = nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer
