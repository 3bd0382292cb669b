"""Wide residual network."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from robassay.errors import UsageError
from robassay.nets.backbone import Backbone, Shape, check_side, pooled
from robassay.nets.noisy import Site
from robassay.nets.normalise import Preset, check_preset, normalisation
from robassay.registry import part

STEM, CHANNELS = 16, (16, 32, 64)
"""Channels of the first convolution, and of the three groups at widen = 1."""


@part(name="wrn", source="Zagoruyko and Komodakis 2016; layers of the published code of Ge et al. 2019")
class WRN(Backbone):
    """Wide residual network; images from 4 × 4 pixels, any number of channels.

    WRN-28-10 has 36,479,194 parameters for three channels and ten classes. The first block of a group gets its input
    normalised, and both its branches see that; behind every group follow a normalisation and a ReLU. Asked for another
    number of features than its own, it ends in a linear layer and a ReLU. Running statistics move by 0.1 per step and
    scales begin at 1; the published code has other values for both.

    Args:
        depth: 6 n + 4, with n blocks in each of the three groups.
        widen: factor on the numbers of channels.
        normalise: preset of the first layer.
    """

    depth: int = 28
    widen: int = 10
    normalise: Preset | None = None

    def __post_init__(self) -> None:
        if self.depth < 10 or (self.depth - 4) % 6:
            raise UsageError(f"wrn was given depth={self.depth}; it needs 6 n + 4 layers: 10, 16, 22, 28 and so on.")
        if self.widen < 1:
            raise UsageError(f"wrn was given widen={self.widen}; it needs widen ≥ 1, such as WRN(depth=16, widen=1).")
        check_preset("wrn", self.normalise)

    @property
    def features(self) -> int:
        return self.widen * CHANNELS[-1]

    def trunk(self, shape: Shape, dim: int) -> nn.Sequential:
        check_side("wrn", shape, 4)
        layers = normalisation("wrn", self.normalise, shape)
        layers += [conv(shape[0], STEM, 3, 1), nn.BatchNorm2d(STEM), nn.ReLU()]
        before = STEM
        for group, channels in enumerate(CHANNELS):
            after = self.widen * channels
            layers.append(FirstBlock(before, after, 2 if group else 1))
            layers += [LaterBlock(after) for _ in range((self.depth - 4) // 6 - 1)]
            layers += [nn.BatchNorm2d(after), nn.ReLU()]
            before = after
        return nn.Sequential(*layers, *pooled(self.features, dim))


@final
class FirstBlock(nn.Module):
    """First of a group, (B, before, H, W) → (B, after, H/stride, W/stride), for an input that is normalised already.

    Args:
        before, after: channels.
        stride: of the first convolution and of the shortcut.
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(before, after, 3, stride), *_second(after))
        self.shortcut = conv(before, after, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x) + self.shortcut(x)
        return out


@final
class LaterBlock(nn.Module):
    """Any other block of a group, (B, channels, H, W) → the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        first = [nn.BatchNorm2d(channels), nn.ReLU(), conv(channels, channels, 3, 1)]
        self.body = nn.Sequential(*first, *_second(channels))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


def _second(channels: int) -> list[nn.Module]:
    """What follows a block's first convolution; dropout has its place between the two."""
    return [Site("dropout"), nn.BatchNorm2d(channels), nn.ReLU(), conv(channels, channels, 3, 1)]


def conv(before: int, after: int, kernel: int, stride: int) -> nn.Conv2d:
    """A convolution without bias, padded by half its kernel; normal weights by the fan-in. Source: He et al. 2015."""
    layer = nn.Conv2d(before, after, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
    return layer
