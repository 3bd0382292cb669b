"""Small networks on MNIST that train in seconds to minutes: what protocols are shown on at scale "small"."""

from __future__ import annotations

from dataclasses import replace

from robassay.cell import Model, Source
from robassay.defences.random_spiking import RandomSpiking
from robassay.models import Signed, Train
from robassay.nets.bnn import BNND, BNNS
from robassay.nets.bsn import BSN, GeometricSlope
from robassay.nets.cnn import SmallCNN
from robassay.nets.encoders import Direct
from robassay.nets.mlp import MLP
from robassay.nets.spikes import Spikes
from robassay.nets.spiking import Spiking
from robassay.recipe import Recipe
from robassay.rules import Atan

IMAGES = 20_000
"""Training images of each; binarised ones, whose steps are slow on a CPU, learn half of them."""
WIDTHS = (10, 20, 40)
CONV = Recipe(epochs=3, batch=64, lr=2e-3, step=1, gamma=0.5)
BINARY = Recipe(epochs=4, batch=64, lr=5e-3, step=1, gamma=0.5)
MLPS = Recipe(epochs=6, batch=64, lr=2e-3, step=2, gamma=0.5)


def small_nets(data: Source, seed: int = 0) -> dict[str, Model]:
    """A plain network, three random ones (binary stochastic, binarised stochastic, random spiking) and a spiking one.

    Args:
        data: MNIST.
        seed: of all trainings; two seeds are networks of the same kinds that know nothing of each other.
    """
    plain = Train(SmallCNN(), data, CONV, seed, IMAGES)
    signs = Train(BNND(widths=WIDTHS), data, BINARY, seed, IMAGES // 2)
    drawn = Train(BNNS(widths=WIDTHS), data, replace(BINARY, lr=2e-3), seed, IMAGES // 2, begin=Signed(signs))
    spikes = Spikes(steps=8, leak=0.9, reset="hard", encoder=Direct(), rule=Atan(2.0))
    return {
        "plain": plain,
        "BSN-2": Train(BSN(slope_schedule=GeometricSlope()), data, MLPS, seed, IMAGES),
        "BNN-S": drawn,
        "LIF": Train(Spiking(MLP((200,)), spikes), data, replace(MLPS, epochs=4), seed, IMAGES),
        "RS-1": Train(RandomSpiking(SmallCNN()), data, CONV, seed, IMAGES),
    }
