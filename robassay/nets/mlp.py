"""Fully connected network."""

from __future__ import annotations

import math
from itertools import pairwise

from torch import nn

from robassay.nets.backbone import Backbone, Shape, check_widths
from robassay.registry import part


@part(source="Rumelhart, Hinton and Williams 1986")
class MLP(Backbone):
    """Fully connected layers with ReLU; images of any size.

    Args:
        hidden: units of the hidden layers; the last of them are the features.
    """

    hidden: tuple[int, ...] = (100,)

    def __post_init__(self) -> None:
        check_widths("mlp", self.hidden)

    @property
    def features(self) -> int:
        return self.hidden[-1]

    def trunk(self, shape: Shape, dim: int) -> nn.Sequential:
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in pairwise((math.prod(shape), *self.hidden[:-1], dim)):
            layers += [nn.Linear(before, after), nn.ReLU()]
        return nn.Sequential(*layers)
