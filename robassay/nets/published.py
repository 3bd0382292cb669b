"""The spiking networks of Sharmin et al. 2019 and 2020 and Rathi et al. 2020, under their names."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Literal, final

from robassay.classifier import Classifier, Net
from robassay.errors import UsageError
from robassay.nets.backbone import Backbone, Shape
from robassay.nets.encoders import Poisson
from robassay.nets.normalise import Preset, check_preset
from robassay.nets.residual import ReluResNet20
from robassay.nets.spikes import Spikes
from robassay.nets.spiking import counterpart
from robassay.nets.vgg import VGG
from robassay.registry import part
from robassay.rules import LeakyTrace

BACKPROPAGATED = Spikes(
    steps=100, leak=0.99, reset="hard", pooling="spiking", rule=LeakyTrace(), output_leak=0.99, strict=True
)
"""Lee et al. 2020: spikes pass all layers in one step; poolings spike; the gradient follows leaky traces."""

HYBRID = Spikes(steps=175, leak=0.99, scale=0.7, delay=True, strict=True)
"""Sharmin et al. 2020: trained behind a conversion, with a delay of one step per layer."""


class Published(Net, abc.ABC):
    """A network of ReLU and its spiking counterpart under one name.

    Attributes:
        spikes: how it spikes; None is the network of ReLU.
    """

    spikes: Spikes | None

    @property
    @abc.abstractmethod
    def analogue(self) -> Backbone:
        """The network of ReLU."""

    @final
    def build(self, shape: Shape, classes: int) -> Classifier:
        if self.spikes is None:
            return self.analogue.build(shape, classes)
        return counterpart(self.analogue, self.spikes, shape, classes)


@dataclass(frozen=True)
class _Vgg(Published):
    """Fields of the VGG networks."""

    width: float = 1.0
    kernel: int | None = None
    normalise: Preset | None = "half"
    spikes: Spikes | None = HYBRID

    def __post_init__(self) -> None:
        _ = self.analogue  # which refuses what it cannot be

    @property
    @abc.abstractmethod
    def depth(self) -> Literal[5, 9, 11]:
        """Layers with weights."""

    @property
    def analogue(self) -> VGG:
        return VGG(self.depth, self.kernel, self.width, self.normalise)


@part(name="vgg5", source="Sharmin et al. 2020; Rathi et al. 2020")
class VGG5(_Vgg):
    """Spiking VGG of 5 layers, 3 × 3: 64–pool–128–128–pool–1024–1024; images from 4 × 4 pixels.

    Args:
        width: factor on all numbers of channels and units, such as 0.125 where time is short.
        kernel: side length of the kernels; None takes the published one.
        normalise: preset of the first layer; Poisson input needs values within −1 and 1.
        spikes: how it spikes; None is the network of ReLU.
    """

    @property
    def depth(self) -> Literal[5, 9, 11]:
        return 5


@part(name="vgg9", source="Sharmin et al. 2019 (5 × 5); Lee et al. 2020 (3 × 3, training)")
class VGG9(_Vgg):
    """Spiking VGG of 9 layers, 5 × 5: 64–64–pool–128–128–pool–256–256–256–pool–1024; images from 8 × 8 pixels.

    The published pixels are normalised with "cifar10-wide"; the default suits any number of channels.

    Args:
        width, kernel, normalise: see :class:`VGG5`; kernel=3 is the network of Lee et al.
        spikes: how it spikes; None is the network of ReLU. Published: 100 steps (Lee), 70 steps (Sharmin).
    """

    spikes: Spikes | None = BACKPROPAGATED

    @property
    def depth(self) -> Literal[5, 9, 11]:
        return 9


@part(name="vgg11", source="Sharmin et al. 2020; Rathi et al. 2020 (their spiking table)")
class VGG11(_Vgg):
    """Spiking VGG of 11 layers, 3 × 3, with poolings behind the first three groups; images from 8 × 8 pixels.

    Args:
        width, kernel, normalise, spikes: see :class:`VGG5`.
    """

    @property
    def depth(self) -> Literal[5, 9, 11]:
        return 11


@part(name="resnet20", source="Rathi et al. 2020; Sharmin et al. 2020")
class ResNet20(Published):
    """Spiking residual network: a stem of three convolutions, eight blocks, no normalisation; 32 × 32 pixels.

    A conversion sets the thresholds of the stem; those of the blocks keep ``spikes.threshold``.

    Args:
        width: factor on all numbers of channels.
        normalise: preset of the first layer.
        spikes: how it spikes; None is the network of ReLU.
    """

    width: float = 1.0
    normalise: Preset | None = "half"
    spikes: Spikes | None = Spikes(steps=250, scale=0.7, delay=True, strict=True, encoder=Poisson(0.9))

    def __post_init__(self) -> None:
        if not self.width > 0:
            raise UsageError(f"resnet20 was given width={self.width}; it needs width > 0, such as width=0.25.")
        check_preset("resnet20", self.normalise)

    @property
    def analogue(self) -> ReluResNet20:
        return ReluResNet20(self.width, self.normalise)
