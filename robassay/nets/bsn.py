"""Binary stochastic neurons: hidden units that are coins."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import final

import torch
from torch import Tensor, nn

from robassay.classifier import Classifier, Net
from robassay.errors import UsageError
from robassay.nets.backbone import Shape, check_widths
from robassay.nets.ops import bernoulli, hard_sigmoid
from robassay.registry import part


@part(name="bsn-2", source="Tan et al. 2020, §III-A; unit: Bengio et al. 2013")
class BSN(Net):
    """Fully connected network of binary stochastic units; hidden=(600, 400, 200) makes it BSN-4.

    Random in training and evaluation alike. With 28 × 28 grey pixels and ten classes BSN-2 has 79,510 parameters.

    Args:
        hidden: units of the hidden layers.
        slope: factor on the pre-activations, at least 1. It is a buffer, so it is stored with the weights.
    """

    hidden: tuple[int, ...] = (100,)
    slope: float = 1.0

    def __post_init__(self) -> None:
        check_widths("bsn-2", self.hidden)
        if not self.slope >= 1:
            raise UsageError(f"bsn-2 was given slope={self.slope}; it needs slope ≥ 1, such as slope=1.0.")

    def build(self, shape: Shape, classes: int) -> Classifier:
        return BSNClassifier((math.prod(shape), *self.hidden, classes), self.slope)


@final
class BSNClassifier(Classifier):
    """Linear layers with a Bernoulli unit between each two; the first layer is the deterministic prefix.

    Args:
        widths: units of the input, of the hidden layers, and classes.
        slope: see :class:`BSN`.
    """

    slope: Tensor
    stochastic = True
    rows = "independent"

    def __init__(self, widths: tuple[int, ...], slope: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))
        self.register_buffer("slope", torch.tensor(slope))
        self.classes = widths[-1]

    def prefix(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) → pre-activations of the first hidden layer (B, units)."""
        first: Tensor = self.layers[0](x.flatten(1))
        return first

    def draw(self, h: Tensor) -> Tensor:
        return self._onwards(h, lambda a: bernoulli(a, self.slope))

    def quiet(self, h: Tensor) -> Tensor:
        """Every unit gives its probability instead of a coin."""
        return self._onwards(h, lambda a: hard_sigmoid(self.slope * a))

    def _onwards(self, a: Tensor, unit: Callable[[Tensor], Tensor]) -> Tensor:
        for layer in self.layers[1:]:
            a = layer(unit(a))
        return a
