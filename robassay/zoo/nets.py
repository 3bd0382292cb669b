"""Networks that only the zoo has, and how all of its networks are trained: on digits, in seconds each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, final

from torch import nn

from robassay.attacks.gradient import PGD
from robassay.classifier import Classifier, Net
from robassay.defences.a2snn import A2SNN
from robassay.defences.adversarial import AdversarialTraining
from robassay.defences.random_spiking import RandomSpiking
from robassay.defences.rse import RSE
from robassay.nets.backbone import Backbone, Plain, Shape
from robassay.nets.binary import BinaryLinear, Sign
from robassay.nets.bnn import BinarisedClassifier
from robassay.nets.bsn import BSN
from robassay.nets.cnn import SmallCNN
from robassay.nets.encoders import Direct
from robassay.nets.mlp import MLP
from robassay.nets.noisy import fill
from robassay.nets.spikes import Spikes
from robassay.nets.spiking import Spiking
from robassay.recipe import Recipe
from robassay.rules import Atan, Triangle
from robassay.threat import Threat
from robassay.zoo.layers import Behind, Thermometer, Winners

EPS = 0.2
"""Radius (L∞) of the threat, unless an entry says otherwise; that of all adversarial training."""
LEVELS = 8
"""Bits of a pixel behind a thermometer."""


@final
@dataclass(frozen=True)
class Measured(Net):
    """A network that reads its pixels off a thermometer; see :class:`~robassay.zoo.layers.Thermometer`."""

    backbone: Backbone
    levels: int = LEVELS
    soft: bool = False

    def build(self, shape: Shape, classes: int) -> Classifier:
        channels, height, width = shape
        inner = self.backbone.build((channels * self.levels, height, width), classes)
        return Behind(inner, Thermometer(self.levels, self.soft))


@final
@dataclass(frozen=True)
class WinnersTakeAll(Net):
    """A network with k winners in the place of every ReLU."""

    backbone: Backbone
    share: float = 0.2

    def build(self, shape: Shape, classes: int) -> Classifier:
        trunk = self.backbone.trunk(shape, self.backbone.features)
        fill(trunk, lambda m: isinstance(m, nn.ReLU), lambda _, __: Winners(self.share))
        return Plain(trunk, self.backbone.features, classes)


@final
@dataclass(frozen=True)
class BinaryMLP(Net):
    """Fully connected layers whose weights and inputs are signs, behind a first one of real numbers."""

    hidden: tuple[int, ...] = (100, 100)

    def build(self, shape: Shape, classes: int) -> Classifier:
        first, *others = self.hidden
        layers: list[nn.Module] = [nn.Flatten(), nn.Linear(math.prod(shape), first), nn.BatchNorm1d(first)]
        for before, after in pairwise((first, *others, classes)):
            layers += [nn.Hardtanh(), BinaryLinear(before, after, Sign(0)), nn.BatchNorm1d(after)]
        return BinarisedClassifier(nn.Sequential(*layers), classes, False)


class Trained(NamedTuple):
    """A network and how it is trained."""

    net: Net
    recipe: Recipe


_SMALL, _LARGER = SmallCNN(width=8, features=64), SmallCNN(width=16, features=64)
_PLAIN = Recipe(epochs=30, batch=32, lr=2e-3, step=10, gamma=0.3)
_ADVERSARY = AdversarialTraining(PGD(steps=4, keep="last"), Threat("linf", EPS))
_HARDENED = Recipe(epochs=40, batch=128, lr=4e-3, step=20, gamma=0.3, weight_decay=2e-3, adversary=_ADVERSARY)
_NOISY = Recipe(epochs=60, batch=32, lr=1e-2, step=45, gamma=0.3, keep="last")
_COINS = Recipe(epochs=60, batch=32, lr=1e-2, step=20, gamma=0.3)


def _spiking(rule: Atan | Triangle) -> Net:
    return Spiking(MLP((64,)), Spikes(steps=8, leak=0.9, encoder=Direct(), rule=rule))


TRAINED: dict[str, Trained] = {
    "plain": Trained(_SMALL, _PLAIN),
    "hardened": Trained(_LARGER, _HARDENED),
    "thermometer": Trained(Measured(_SMALL), _PLAIN),
    "kwta": Trained(WinnersTakeAll(_LARGER, share=0.1), _PLAIN),
    "noise-head": Trained(A2SNN(SmallCNN(width=16), entropy=0.1, wca=0.25), _NOISY),
    "bnn": Trained(BinaryMLP(), Recipe(epochs=40, batch=32, lr=5e-3, step=15, gamma=0.3)),
    "lif-narrow": Trained(_spiking(Triangle(0.004)), _PLAIN),
    "lif-wide": Trained(_spiking(Atan(2.0)), _PLAIN),
    "binary-stochastic": Trained(BSN((64,)), _COINS),
    "random-spiking": Trained(RandomSpiking(_SMALL, q=0.2, scope="example"), _PLAIN),
    "noise-hardened": Trained(RSE(_LARGER, first=0.1, others=0.1), _HARDENED),
}
"""The networks that the zoo has weights of, three training seeds each."""
