"""Small convolutional network for audits and demonstrations."""

from __future__ import annotations

from torch import nn

from robassay.errors import UsageError
from robassay.nets.backbone import Backbone, Shape, check_side
from robassay.registry import part


@part(source="layers of Wong and Kolter 2018 (MNIST)")
class SmallCNN(Backbone):
    """Two strided convolutions and a hidden layer, ReLU; images from 4 × 4 pixels, any number of channels.

    Args:
        width: channels of the first convolution; the second has twice as many.
        features: units of the hidden layer.
    """

    width: int = 16
    features: int = 100

    def __post_init__(self) -> None:
        if self.width < 1 or self.features < 1:
            raise UsageError("small-cnn needs width ≥ 1 and features ≥ 1, such as SmallCNN(width=16).")

    def trunk(self, shape: Shape, dim: int) -> nn.Sequential:
        check_side("small-cnn", shape, 4)
        channels, height, width = shape
        return nn.Sequential(
            nn.Conv2d(channels, self.width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(self.width, 2 * self.width, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2 * self.width * (height // 4) * (width // 4), dim),
            nn.ReLU(),
        )
