"""Speed of stochastic and binarised networks: EoT-50 against one pass, training steps against plain nets of one shape.

Run:   python bench/networks.py
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from harness import Figures, compare, save
from torch import nn

from robassay.classifier import Classifier, Wrapped
from robassay.defences.a2snn import A2SNN
from robassay.estimators import Backprop
from robassay.nets.binary import BinaryConv, BinaryLinear
from robassay.nets.bnn import BNND, BNNS
from robassay.nets.bsn import BSN, BSN4
from robassay.nets.lenet import LeNetPP
from robassay.nets.mlp import MLP
from robassay.rng import Stream
from robassay.threat import Goal

SHAPE = (1, 28, 28)
RNG = Stream(("bench", "networks"))


def eot_row(width: float) -> dict[str, Any]:
    """A gradient from 50 draws of a noise head against one from a single draw."""
    with RNG.child("weights").active():
        model = A2SNN(LeNetPP(width=width)).build(SHAPE, 10).eval().requires_grad_(False)
        x, y = torch.rand(64, *SHAPE), torch.arange(64) % 10

    def way(draws: int) -> Callable[[], Figures]:
        def run() -> Figures:
            Backprop(draws)(model, x, Goal(y).loss("ce"), RNG)
            return {}

        return run

    return compare(f"A2SNN on LeNet++ × {width:g}, 64 images", {"one pass": way(1), "EoT-50": way(50)}, repeats=9)


def training_row(task: str, nets: dict[str, Classifier], batch: int = 128) -> dict[str, Any]:
    """Seconds per training step; the first net is the plain one."""
    x, y = torch.rand(batch, *SHAPE), torch.arange(batch) % 10

    def way(model: Classifier) -> Callable[[], Figures]:
        optimizer = torch.optim.Adam(model.parameters())
        model.train()

        def run() -> Figures:
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
            model.after_step(1e-3)
            return {}

        return run

    row = compare(task, {name: way(model) for name, model in nets.items()}, repeats=7)
    for found in row["ways"].values():
        found["steps per second"] = 1 / found["cpu"]
    return row


def plain(net: BNND) -> Classifier:
    """The same layers with real weights and activations, and a ReLU for every window."""
    model = net.build(SHAPE, 10)
    layers = _unbinarised(model.layers)  # type: ignore[attr-defined]
    assert not any(isinstance(m, (BinaryConv, BinaryLinear)) for m in layers.modules())
    return Wrapped(layers, 10, stochastic=False)


def _unbinarised(module: nn.Module) -> nn.Module:
    for name, child in list(module.named_children()):
        if isinstance(child, BinaryConv):
            after, before, kernel, _ = child.weight.shape
            setattr(module, name, nn.Conv2d(before, after, kernel, child.stride, kernel // 2, bias=False))
        elif isinstance(child, BinaryLinear):
            setattr(module, name, nn.Linear(child.weight.shape[1], child.weight.shape[0]))
        elif isinstance(child, nn.Hardtanh):
            setattr(module, name, nn.ReLU())
        else:
            _unbinarised(child)
    return module


def main() -> None:
    rows = [eot_row(0.5), eot_row(1.0)]
    built: dict[str, Classifier] = {}
    for hidden, net in (((100,), BSN()), ((600, 400, 200), BSN4())):
        pair = {"plain": MLP(hidden).build(SHAPE, 10), "binary stochastic": net.build(SHAPE, 10)}
        rows.append(training_row(f"training step, {hidden}", pair))
    narrow = BNND(widths=(20, 40, 80))
    built = {"plain": plain(narrow), "BNN-D": narrow.build(SHAPE, 10)}
    built["BNN-S"] = replace(BNNS(), widths=(20, 40, 80)).build(SHAPE, 10)
    rows.append(training_row("training step, 20-40-80", built))
    save("networks", rows)


if __name__ == "__main__":
    main()
