"""Networks that end in a linear layer: features, then logits. A defence can put its noise between the two."""

from __future__ import annotations

import abc
from typing import ClassVar, final

from torch import Tensor, nn

from robassay.classifier import Classifier, Net
from robassay.errors import UsageError

Shape = tuple[int, int, int]


@final
class Plain(Classifier):
    """Features, then a linear layer; nothing random.

    Args:
        trunk: images (B, C, H, W) → features (B, features).
        features: their number.
        classes: number of logits.
        bias: whether the linear layer has one.
    """

    def __init__(self, trunk: nn.Sequential, features: int, classes: int, bias: bool = True) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(features, classes, bias=bias)
        self.classes = classes

    def draw(self, h: Tensor) -> Tensor:
        logits: Tensor = self.head(self.trunk(h))
        return logits


class Backbone(Net):
    """A trunk to features, then a linear layer. A defence may ask for another number of features.

    Attributes:
        bias: whether the linear layer has one.
    """

    bias: ClassVar[bool] = True
    half: ClassVar[bool] = True

    @property
    @abc.abstractmethod
    def features(self) -> int:
        """Number of inputs of the last layer."""

    @abc.abstractmethod
    def trunk(self, shape: Shape, dim: int) -> nn.Sequential:
        """Images of ``shape`` (C, H, W) → ``dim`` features.

        Raises:
            UsageError: the net cannot take that shape.
        """

    @final
    def build(self, shape: Shape, classes: int) -> Classifier:
        return Plain(self.trunk(shape, self.features), self.features, classes, self.bias)


def check_side(name: str, shape: Shape, least: int) -> None:
    """Raise UsageError when an image of ``shape`` (C, H, W) is lower or narrower than ``least`` pixels."""
    _, height, width = shape
    if min(height, width) < least:
        raise UsageError(
            f"{name} cannot take images of {height} × {width} pixels: it takes {least} × {least} and larger. "
            "Use small-cnn (from 4 × 4) or mlp (any size)."
        )


def check_sizes(name: str, shape: Shape, sides: tuple[int, ...]) -> None:
    """Raise UsageError unless an image of ``shape`` (C, H, W) is square with one of the side lengths."""
    _, height, width = shape
    if height != width or height not in sides:
        raise UsageError(
            f"{name} cannot take images of {height} × {width} pixels: it takes "
            f"{' or '.join(f'{side} × {side}' for side in sides)}. Use small-cnn (from 4 × 4) or mlp (any size)."
        )


def check_widths(name: str, widths: tuple[int, ...]) -> None:
    """Raise UsageError unless there is a hidden layer and every one has a unit."""
    if not widths or min(widths) < 1:
        raise UsageError(f"{name} was given hidden={widths}; it needs hidden layers of one unit or more: hidden=(100,)")


def pooled(features: int, dim: int) -> list[nn.Module]:
    """The end of a residual trunk: the mean over each map, and if ``dim`` is not their number a layer with ReLU."""
    layers: list[nn.Module] = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return layers if dim == features else [*layers, nn.Linear(features, dim), nn.ReLU()]
