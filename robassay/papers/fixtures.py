"""Networks on MNIST that protocols are shown on; at scale "small" they train in seconds to minutes."""

from __future__ import annotations

from dataclasses import replace

from robassay.cell import Model, Source
from robassay.classifier import Net
from robassay.converted import Convert
from robassay.defences.random_spiking import RandomSpiking
from robassay.models import Signed, Train
from robassay.nets.backbone import Backbone
from robassay.nets.bnn import BNND, BNNS
from robassay.nets.bsn import BSN, GeometricSlope
from robassay.nets.cnn import SmallCNN
from robassay.nets.cw_mnist import CWMnist
from robassay.nets.encoders import Direct
from robassay.nets.mlp import MLP
from robassay.nets.spikes import Spikes
from robassay.nets.spiking import Spiking
from robassay.recipe import Recipe
from robassay.rules import Atan

IMAGES = 20_000
"""Training images of each."""
LIF = Spikes(steps=8, leak=0.9, reset="hard", encoder=Direct(), rule=Atan(2.0))
RATES = Spikes(steps=50, encoder=Direct())


def nets(data: Source, full: bool = False, seed: int = 0) -> dict[str, Model]:
    """A plain network, three random ones (binary stochastic, binarised stochastic, random spiking) and a spiking one.

    Args:
        data: MNIST.
        full: train the C&W network and wide binarised ones on all images, for as long as it pays.
        seed: of all trainings; two seeds are networks of the same kinds that know nothing of each other.
    """
    limit, conv, binary, flat = _recipes(full)
    body: Backbone = CWMnist() if full else SmallCNN()
    widths = (80, 160, 320) if full else (20, 40, 80)  # in narrower ones the coins of a BNN-S drown its signal

    def made(net: Net, recipe: Recipe) -> Train:
        return Train(net, data, recipe, seed, limit)

    signs = made(BNND(widths=widths), binary)
    drawn = replace(binary, batch=64, lr=3e-3)
    return {
        "plain": made(body, conv),
        "BSN-2": made(BSN(slope_schedule=GeometricSlope()), flat),
        "BNN-S": Train(BNNS(widths=widths), data, drawn, seed, limit, begin=Signed(signs)),
        "LIF": made(Spiking(MLP((200,)), LIF), replace(flat, epochs=flat.epochs - 2)),
        "RS-1": made(RandomSpiking(body), conv),
    }


def spiking_kinds(data: Source, full: bool = False, seed: int = 0) -> dict[str, Model]:
    """A network of ReLU, the same converted, and one of its shape that was trained spiking."""
    limit, _, _, flat = _recipes(full)
    plain = Train(MLP((200,)), data, flat, seed, limit)
    return {
        "ANN": plain,
        "SNN-I": Convert(plain, RATES, steps=200),
        "SNN-II": nets(data, full, seed)["LIF"],
    }


def _recipes(full: bool) -> tuple[int | None, Recipe, Recipe, Recipe]:
    """Training images, and how convolutional, binarised and flat networks learn."""
    conv = Recipe(epochs=3, batch=64, lr=2e-3, step=1, gamma=0.5)
    binary = Recipe(epochs=3, batch=128, lr=5e-3, step=1, gamma=0.4)
    flat = Recipe(epochs=6, batch=64, lr=2e-3, step=2, gamma=0.5)
    if not full:
        return IMAGES, conv, binary, flat
    return None, replace(conv, epochs=20, step=5), replace(binary, epochs=20, step=4), replace(flat, epochs=30, step=8)
