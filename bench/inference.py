"""Binary networks at work: 100 draws of a binary stochastic one, forward and gradient of binarised ones.

The peer is the form that one writes by hand and finds in most repositories: a value is replaced by
``x + (sign(x) - x).detach()``, and the whole network runs once per draw. Weights and decisions are the same.

Run:   python bench/inference.py
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import torch
from harness import Figures, Rivals, compare, save
from torch import Tensor, nn

from robassay.classifier import Classifier
from robassay.nets.binary import BinaryConv, BinaryLinear
from robassay.nets.bnn import BNND
from robassay.nets.bsn import BSN4, BSNClassifier
from robassay.rng import Stream

SHAPE, DRAWS = (1, 28, 28), 100
RNG = Stream(("bench", "inference"))


def straight(x: Tensor, value: Tensor) -> Tensor:
    """``value``, differentiated as a hard tanh of ``x``: the trick by hand."""
    soft = x.clamp(-1, 1)
    return soft + (value - soft).detach()


class HandMade(nn.Module):
    """A binary convolution or linear layer as it is written by hand."""

    def __init__(self, layer: BinaryConv | BinaryLinear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        latent = self.layer.weight
        weight = straight(latent, latent.sign())
        return self.layer.apply_weight(straight(x, x.sign()) if self.layer.binarize_input else x, weight)


def by_hand(module: nn.Module) -> nn.Module:
    for name, child in list(module.named_children()):
        if isinstance(child, (BinaryConv, BinaryLinear)):
            setattr(module, name, HandMade(child))
        else:
            by_hand(child)
    return module


def binarised_rows() -> list[dict[str, Any]]:
    with RNG.child("bnn").active():
        model: Classifier = BNND(widths=(20, 40, 80)).build(SHAPE, 10).eval().requires_grad_(False)
        x = torch.rand(64, *SHAPE)
    made = by_hand(copy.deepcopy(model.layers))  # type: ignore[attr-defined]
    with torch.no_grad():
        assert torch.equal(model(x).argmax(1), made(x).argmax(1))

    @torch.no_grad()
    def forward(net: nn.Module) -> Figures:
        net(x)
        return {}

    def gradient(net: nn.Module) -> Figures:
        image = x.clone().requires_grad_()
        torch.autograd.grad(net(image).square().sum(), image)
        return {}

    rows = []
    for name, way in (("forward", forward), ("gradient", gradient)):
        ways = {"ours": partial(way, model), "by hand": partial(way, made)}
        rows.append(compare(f"BNN-D 20-40-80, {name}, 64 images", ways, 9, Rivals("ours", ("by hand",))))
    return rows


def stochastic_rows() -> list[dict[str, Any]]:
    with RNG.child("bsn").active():
        model = BSN4().build(SHAPE, 10).eval().requires_grad_(False)
        x = torch.rand(64, *SHAPE)
    assert isinstance(model, BSNClassifier)

    def whole(image: Tensor) -> Tensor:
        a = model.layers[0](image.flatten(1))
        for layer in model.layers[1:]:
            p = ((model.slope * a).clamp(-1, 1) + 1) / 2
            a = layer(p + (torch.bernoulli(p) - p).detach())
        return a

    @torch.no_grad()
    def ours() -> Figures:
        logits = model.sample(model.features(x), DRAWS, RNG.child("ours"))
        return {"mean": float(logits.mean()), "spread": float(logits.std(0).mean())}

    @torch.no_grad()
    def theirs() -> Figures:
        with RNG.child("theirs").active():
            logits = torch.stack([whole(x) for _ in range(DRAWS)])
        return {"mean": float(logits.mean()), "spread": float(logits.std(0).mean())}

    a, b = ours(), theirs()
    assert abs(a["mean"] - b["mean"]) < 0.05 * b["spread"], (a, b)
    ways = {"ours": ours, "by hand": theirs}
    return [compare(f"BSN-4, {DRAWS} draws of 64 images", ways, 7, Rivals("ours", ("by hand",)))]


def main() -> None:
    torch.set_num_threads(1)
    save("inference", binarised_rows() + stochastic_rows())


if __name__ == "__main__":
    main()
