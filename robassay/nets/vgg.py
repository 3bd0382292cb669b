"""VGG networks without bias and normalisation, as they are converted to spiking networks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from robassay.errors import UsageError
from robassay.nets.backbone import Backbone, Shape, check_side
from robassay.nets.normalise import Preset, check_preset, normalisation
from robassay.registry import part


@dataclass(frozen=True)
class Layout:
    """Layers of a VGG network.

    Args:
        groups: channels of the convolutions; average pooling stands between the groups.
        dense: units of the dense layers but the last one.
        kernel: side length of the kernels.
        dropout: probability behind convolutions.
        dense_dropout: probability behind dense layers.
        pooled_dropout: whether dropout also stands between a convolution and a pooling.
        last_pool: whether a pooling follows the last group.
        he: normal weights by the fan-in everywhere; otherwise by the fan-out, of dense layers with deviation 0.01.
    """

    groups: tuple[tuple[int, ...], ...]
    dense: tuple[int, ...]
    kernel: int = 3
    dropout: float = 0.2
    dense_dropout: float = 0.5
    pooled_dropout: bool = False
    last_pool: bool = True
    he: bool = False


LAYOUTS = {
    5: Layout(((64,), (128, 128)), (1024, 1024)),
    9: Layout(((64, 64), (128, 128), (256, 256, 256)), (1024,), 5, 0.2, 0.2, True, he=True),
    11: Layout(((64,), (128, 256, 256), (512, 512, 512), (512, 512)), (1024, 1024), last_pool=False),
}


@part(name="vgg", source="Sharmin et al. 2019 (9 layers); Sharmin et al. 2020 and Rathi et al. 2020 (5 and 11)")
class VGG(Backbone):
    """VGG with average pooling and dropout, without bias and batch normalisation: what conversion to spikes asks for.

    Images from 4 × 4 pixels with 5 layers, from 8 × 8 with 9 and 11. For 32 × 32 pixels in three channels and ten
    classes the weights are 9,670,336 (5 layers), 9,022,144 (9 layers) and 5,938,880 (9 layers, 3 × 3).

    Args:
        depth: which network.
        kernel: side length of the kernels, odd; None takes the published 3, or 5 with 9 layers.
        width: factor on all numbers of channels and units, such as 0.25 where time is short.
        normalise: preset of the first layer.
    """

    bias: ClassVar[bool] = False
    depth: Literal[5, 9, 11] = 5
    kernel: int | None = None
    width: float = 1.0
    normalise: Preset | None = None

    def __post_init__(self) -> None:
        if self.depth not in LAYOUTS:
            raise UsageError(f"vgg was given depth={self.depth}; it has 5, 9 or 11 layers.")
        if self.kernel is not None and (self.kernel < 1 or self.kernel % 2 == 0):
            raise UsageError(f"vgg was given kernel={self.kernel}; it needs an odd one, such as kernel=3.")
        if not self.width > 0:
            raise UsageError(f"vgg was given width={self.width}; it needs width > 0, such as VGG(width=0.25).")
        check_preset("vgg", self.normalise)

    @property
    def features(self) -> int:
        return self._scaled(LAYOUTS[self.depth].dense[-1])

    def _scaled(self, units: int) -> int:
        return max(1, round(self.width * units))

    def trunk(self, shape: Shape, dim: int) -> nn.Sequential:
        layout = LAYOUTS[self.depth]
        pools = len(layout.groups) - (not layout.last_pool)
        check_side("vgg", shape, 2**pools)
        layers, before = normalisation("vgg", self.normalise, shape), shape[0]
        kernel = self.kernel or layout.kernel
        for number, group in enumerate(layout.groups):
            pooled = number < pools
            for place, channels in enumerate(group):
                layers += [_conv(before, self._scaled(channels), kernel, layout.he), nn.ReLU()]
                before = self._scaled(channels)
                if layout.pooled_dropout or not pooled or place < len(group) - 1:
                    layers.append(nn.Dropout(layout.dropout))
            if pooled:
                layers.append(nn.AvgPool2d(2))
        layers.append(nn.Flatten())
        before *= (shape[1] >> pools) * (shape[2] >> pools)
        for units in (*map(self._scaled, layout.dense[:-1]), dim):
            layers += [_dense(before, units, layout.he), nn.ReLU(), nn.Dropout(layout.dense_dropout)]
            before = units
        return nn.Sequential(*layers)


def _conv(before: int, after: int, kernel: int, he: bool) -> nn.Conv2d:
    layer = nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(layer.weight, mode="fan_in" if he else "fan_out", nonlinearity="relu")
    return layer


def _dense(before: int, after: int, he: bool) -> nn.Linear:
    layer = nn.Linear(before, after, bias=False)
    nn.init.normal_(layer.weight, std=math.sqrt(2 / before) if he else 0.01)
    return layer
