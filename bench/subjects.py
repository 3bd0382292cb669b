"""The networks that are attacked in measurements: trained once, kept in a store beside the results."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn

from robassay.cell import Model
from robassay.cells import Examples
from robassay.classifier import Classifier, Wrapped
from robassay.data import find, pixels
from robassay.defences.a2snn import A2SNN
from robassay.models import Train
from robassay.nets.bsn import BSN
from robassay.nets.cnn import SmallCNN
from robassay.nets.cw_mnist import CWMnist
from robassay.nets.lif import LIF
from robassay.run import carry_out
from robassay.run.worker import LocalContext
from robassay.store import Store
from robassay.training import Recipe

STORE = Path(os.environ.get("ROBASSAY_BENCH_STORE", "robassay-store-bench"))
NAME = "mnist" if os.environ.get("ROBASSAY_DATA") else "digits"


def images(n: int, first: int = 0) -> tuple[Tensor, Tensor]:
    """``n`` test images from ``first`` on, float32 in [0,1], and labels: MNIST if ROBASSAY_DATA is set, else digits."""
    first = first if NAME == "mnist" else 0
    found = Examples(find(NAME), "test", first, first + n).load()
    return pixels(found.x), found.y


def trained(model: Model) -> Classifier:
    """The classifier of a cell, trained on the first call."""
    store = Store(STORE)
    if carry_out([model], store, 0, quiet=False).failed:
        raise SystemExit(1)
    return LocalContext(model, store, torch.device("cpu")).open(model)


def cnn() -> Classifier:
    """A plain small CNN."""
    return trained(Train(SmallCNN(), find(NAME), Recipe(epochs=3, batch=64, lr=2e-3, step=1, gamma=0.4), limit=20_000))


def published_cnn() -> Classifier:
    """Carlini and Wagner's network, after one pass over a third of the images: what it costs is that of the whole."""
    net = CWMnist(padding="valid" if NAME == "mnist" else "same")
    return trained(Train(net, find(NAME), Recipe(epochs=1, batch=64), limit=20_000))


class InputNoise(nn.Module):
    """A network whose input gets fresh Gaussian noise at every pass."""

    def __init__(self, inner: nn.Module, sd: float) -> None:
        super().__init__()
        self.inner, self.sd = inner, sd

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x + self.sd * torch.randn_like(x))


def random_nets() -> dict[str, Classifier]:
    """Input noise of sd .5, a binary stochastic MLP, a learned noise head, a Poisson LIF net."""
    data = find(NAME)
    noise = Wrapped(InputNoise(cnn(), 0.5), 10, stochastic=True)
    noise.rows = "independent"
    head = Recipe(epochs=12, lr=1e-2, step=8, gamma=0.2, keep="last")
    return {
        "input noise": noise,
        "binary stochastic": trained(Train(BSN(), data, Recipe(epochs=6, batch=64, lr=5e-3), limit=20_000)),
        "noise head": trained(Train(A2SNN(entropy=0.1, wca=0.5), data, head)),
        "Poisson LIF": trained(Train(LIF(), data, Recipe(epochs=5, batch=64, lr=2e-3), limit=20_000)),
    }
