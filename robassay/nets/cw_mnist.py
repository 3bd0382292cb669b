"""The convolutional network that Carlini and Wagner attacked on MNIST."""

from __future__ import annotations

from typing import Literal

from torch import nn

from robassay.errors import UsageError
from robassay.nets.backbone import Backbone, Shape, check_side
from robassay.nets.noisy import Site
from robassay.registry import part


@part(name="cw-mnist", source="Carlini and Wagner 2017, table 1; padding: published code of Ge et al. 2019")
class CWMnist(Backbone):
    """Four 3 × 3 convolutions 32-32-64-64, pooled after every second, then 200-200, all with ReLU.

    With one channel, 28 × 28 pixels and ten classes it has 734,602 parameters with padding and 312,202 without. Images
    from 4 × 4 pixels with padding, from 16 × 16 without. The place for dropout is behind the first dense layer.

    Args:
        padding: "same" keeps the size in every convolution; "valid" loses two pixels, as in the original network.
        features: units of the second dense layer.
        width: factor on the channels and on the units of the first dense layer, such as 0.25 where time is short;
            ``features`` is given apart.
    """

    padding: Literal["same", "valid"] = "same"
    features: int = 200
    width: float = 1.0

    def __post_init__(self) -> None:
        if self.padding not in ("same", "valid"):
            raise UsageError(f"padding={self.padding!r} is not known. Write padding='same' or padding='valid'.")
        if self.features < 1:
            raise UsageError(f"cw-mnist was given features={self.features}; it needs one at least.")
        if not self.width > 0:
            raise UsageError(f"cw-mnist was given width={self.width}; it needs width > 0, such as width=0.25.")

    def trunk(self, shape: Shape, dim: int) -> nn.Sequential:
        loss = 4 if self.padding == "valid" else 0
        check_side("cw-mnist", shape, 16 if loss else 4)
        height, width = (((side - loss) // 2 - loss) // 2 for side in shape[1:])
        few, many, units = (max(1, round(self.width * n)) for n in (32, 64, 200))
        return nn.Sequential(
            nn.Conv2d(shape[0], few, 3, padding=self.padding),
            nn.ReLU(),
            nn.Conv2d(few, few, 3, padding=self.padding),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(few, many, 3, padding=self.padding),
            nn.ReLU(),
            nn.Conv2d(many, many, 3, padding=self.padding),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(many * height * width, units),
            nn.ReLU(),
            Site("dropout"),
            nn.Linear(units, dim),
            nn.ReLU(),
        )
