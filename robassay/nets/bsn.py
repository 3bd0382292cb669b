"""Binary stochastic neurons: hidden units that are coins.

Pre-activation a, slope s ≥ 1: z ∈ {0, 1} with P(z = 1) = (clip(s·a, −1, 1) + 1) / 2, in training and evaluation alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import torch
from torch import Tensor, nn

from robassay.classifier import Classifier, Net
from robassay.errors import UsageError
from robassay.nets.backbone import Shape, check_sizes, check_widths
from robassay.nets.noisy import Noise, NoisyNet
from robassay.nets.normalise import Preset, check_preset, normalisation
from robassay.nets.ops import HARD_SIGMOID, bernoulli, hard_sigmoid, spike
from robassay.registry import part

GREY, COLOUR = (600, 400, 200), (2000, 750, 100)
"""Hidden units of BSN-4 for images of one channel and of several."""


@dataclass(frozen=True)
class GeometricSlope:
    """The slope grows by ``factor`` ≥ 1 with every epoch. Source: published code that Tan et al. 2020 build on."""

    factor: float = 1.005

    def __post_init__(self) -> None:
        if not self.factor >= 1:
            raise UsageError(f"a slope cannot shrink by factor={self.factor}. Write factor ≥ 1, such as 1.005.")

    def at(self, slope: float, epoch: int) -> float:
        """The slope in an epoch, counted from 0, when it was ``slope`` in the first."""
        return slope * self.factor**epoch


@dataclass(frozen=True)
class LinearSlope:
    """The slope grows by ``step`` ≥ 0 with every epoch and stops at ``most``. Source: Chung et al. 2017."""

    step: float = 0.04
    most: float = 5.0

    def __post_init__(self) -> None:
        if not self.step >= 0 or not self.most >= 1:
            raise UsageError(f"{self} needs step ≥ 0 and most ≥ 1, such as LinearSlope(step=0.04, most=5.0).")

    def at(self, slope: float, epoch: int) -> float:
        """The slope in an epoch, counted from 0, when it was ``slope`` in the first."""
        return max(slope, min(slope + self.step * epoch, self.most))


SlopeSchedule = GeometricSlope | LinearSlope


@part(name="bsn-2", source="Tan et al. 2020, §III-A; unit: Bengio et al. 2013")
class BSN(Net):
    """Fully connected network of binary stochastic units, of one hidden layer unless told otherwise.

    Random in training and evaluation alike. With 28 × 28 grey pixels and ten classes it has 79,510 parameters.

    Args:
        hidden: units of the hidden layers.
        slope: factor on the pre-activations, at least 1. It is a buffer, so it is stored with the weights.
        slope_schedule: how the slope grows while training; None keeps it. Published: GeometricSlope().
        deterministic: every unit gives its likelier value, 0 at an even chance; for ablations.
        normalise: preset of the first layer.
    """

    hidden: tuple[int, ...] = (100,)
    slope: float = 1.0
    slope_schedule: SlopeSchedule | None = None
    deterministic: bool = False
    normalise: Preset | None = None

    def __post_init__(self) -> None:
        check_widths("bsn-2", self.hidden)
        _check_slope("bsn-2", self.slope)
        check_preset("bsn-2", self.normalise)

    def build(self, shape: Shape, classes: int) -> Classifier:
        widths = (math.prod(shape), *self.hidden, classes)
        first = normalisation("bsn-2", self.normalise, shape)
        return BSNClassifier(widths, self.slope, self.slope_schedule, self.deterministic, first)


@part(name="bsn-4", source="Tan et al. 2020, §III-A; slope: Chung et al. 2017")
class BSN4(Net):
    """Fully connected network of three hidden layers of binary stochastic units.

    Random in training and evaluation alike. With ten classes it has 793,610 parameters for 28 × 28 grey pixels and
    7,722,860 for 32 × 32 in colour.

    Args:
        hidden: units of the hidden layers; None takes 600-400-200 for one channel, 2000-750-100 for several.
        slope: factor on the pre-activations in the first epoch, at least 1. It is a buffer, stored with the weights.
        slope_schedule: how the slope grows while training; None keeps it.
        deterministic: every unit gives its likelier value, 0 at an even chance; for ablations.
        normalise: preset of the first layer.
    """

    hidden: tuple[int, ...] | None = None
    slope: float = 1.0
    slope_schedule: SlopeSchedule | None = GeometricSlope()
    deterministic: bool = False
    normalise: Preset | None = None

    def __post_init__(self) -> None:
        if self.hidden is not None:
            check_widths("bsn-4", self.hidden)
        _check_slope("bsn-4", self.slope)
        check_preset("bsn-4", self.normalise)

    def build(self, shape: Shape, classes: int) -> Classifier:
        hidden = self.hidden or (GREY if shape[0] == 1 else COLOUR)
        widths = (math.prod(shape), *hidden, classes)
        first = normalisation("bsn-4", self.normalise, shape)
        return BSNClassifier(widths, self.slope, self.slope_schedule, self.deterministic, first)


def _check_slope(name: str, slope: float) -> None:
    if not slope >= 1:
        raise UsageError(f"{name} was given slope={slope}; it needs slope ≥ 1, such as slope=1.0.")


@final
class BSNClassifier(Classifier):
    """Linear layers with a Bernoulli unit between each two; the first layer is the deterministic prefix.

    Args:
        widths: units of the input, of the hidden layers, and classes.
        slope, slope_schedule, deterministic: see :class:`BSN`.
        first: layers in front of all, that keep the shape.
    """

    slope: Tensor
    rows = "independent"

    def __init__(
        self,
        widths: tuple[int, ...],
        slope: float,
        slope_schedule: SlopeSchedule | None = None,
        deterministic: bool = False,
        first: Iterable[nn.Module] = (),
    ) -> None:
        super().__init__()
        self.first = nn.Sequential(*first)
        self.layers = nn.ModuleList(nn.Linear(before, after) for before, after in pairwise(widths))
        self.register_buffer("slope", torch.tensor(float(slope)))
        self.first_slope, self.slope_schedule = slope, slope_schedule
        self.classes, self.stochastic = widths[-1], not deterministic

    def begin_epoch(self, epoch: int) -> None:
        """The slope of the epoch, computed from the first one, so that a resumed training has the same."""
        if self.slope_schedule is not None:
            self.slope.fill_(self.slope_schedule.at(self.first_slope, epoch))

    def prefix(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) → pre-activations of the first hidden layer (B, units)."""
        first: Tensor = self.layers[0](self.first(x).flatten(1))
        return first

    def draw(self, h: Tensor) -> Tensor:
        if not self.stochastic:
            return self._onwards(h, lambda a: spike(self.slope * a, HARD_SIGMOID))
        return self._onwards(h, lambda a: bernoulli(a, self.slope))

    def quiet(self, h: Tensor) -> Tensor:
        """Every unit gives its probability instead of a coin; a deterministic network is quiet as it is."""
        if not self.stochastic:
            return self.draw(h)
        return self._onwards(h, lambda a: hard_sigmoid(self.slope * a))

    def _onwards(self, a: Tensor, unit: Callable[[Tensor], Tensor]) -> Tensor:
        for layer in self.layers[1:]:
            a = layer(unit(a))
        return a


@part(name="bsn-l", source="Tan et al. 2020, App. A3 (its layers are not published: those of LeCun et al. 1998)")
class BSNL(Net):
    """LeNet with binary stochastic units of slope 1: 6c5–pool–16c5–pool–120–84; images of 28 × 28 or 32 × 32 pixels.

    Random in training and evaluation alike. Smaller images are padded by 2 pixels, so that both end at 16 × 5 × 5.
    Pooling takes the maximum of coins: a logical or.

    Args:
        deterministic: every unit gives its likelier value, 0 at an even chance; for ablations.
        normalise: preset of the first layer.
    """

    deterministic: bool = False
    normalise: Preset | None = None

    def __post_init__(self) -> None:
        check_preset("bsn-l", self.normalise)

    def build(self, shape: Shape, classes: int) -> Classifier:
        check_sizes("bsn-l", shape, (28, 32))
        unit = Likelier if self.deterministic else Coin
        trunk = nn.Sequential(
            *normalisation("bsn-l", self.normalise, shape),
            nn.Conv2d(shape[0], 6, 5, padding=2 if shape[1] == 28 else 0),
            unit(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            unit(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * 5 * 5, 120),
            unit(),
            nn.Linear(120, 84),
            unit(),
        )
        return NoisyNet(trunk, nn.Linear(84, classes), classes)


@final
class Coin(Noise):
    """A binary stochastic unit of slope 1 for each input (B, …); silent, its probability."""

    def noisy(self, x: Tensor) -> Tensor:
        return bernoulli(x)

    def silent(self, x: Tensor) -> Tensor:
        return hard_sigmoid(x)


@final
class Likelier(nn.Module):
    """The likelier value of a :class:`Coin`, 0 at an even chance; differentiated like it."""

    def forward(self, x: Tensor) -> Tensor:
        return spike(x, HARD_SIGMOID)
