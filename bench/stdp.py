"""Speed of the STDP network against its naive form, which takes every image alone through all steps and layers.

Decisions and winners are compared first: speed with another result would be no speed.

Run:   python bench/stdp.py
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from harness import Figures, Rivals, compare, save

from robassay.data import find, pixels
from robassay.nets.latency import responses, times
from robassay.nets.plasticity import strengthen, winners
from robassay.nets.stdp import LAYERS, SNNM, STDPNetwork
from robassay.rng import Stream

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from naive_stdp import forward, inhibited, layer, update, waves
from naive_stdp import winners as naive_winners

IMAGES = 40


def decision_row(model: STDPNetwork, x: torch.Tensor) -> dict[str, Any]:
    """From pixels to potentials of the last layer."""
    weights = [w.detach() for w in model.weights]
    seen: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def batched() -> Figures:
        seen["ours"] = model.potentials(model.prefix(x))
        return {}

    @torch.no_grad()
    def naive() -> Figures:
        seen["naive"] = torch.stack([forward(times(responses(one[None]))[0], weights) for one in x])
        return {}

    row = compare(
        f"decisions of {IMAGES} MNIST images",
        {"last step, batched": batched, "naive": naive},
        5,
        Rivals("last step, batched", ("naive",)),
    )
    assert torch.allclose(seen["ours"], seen["naive"], rtol=1e-4, atol=1e-3)
    return row


def learning_row(model: STDPNetwork, fronts: torch.Tensor) -> dict[str, Any]:
    """STDP of the first layer from the filters' spike times: convolution, competition and update."""
    how, seen = LAYERS[0], {}

    @torch.no_grad()
    def ours() -> Figures:
        weight = model.weights[0].clone()
        for t in fronts:
            for w in winners(t, weight, how):
                strengthen(weight, t, w, how.padding, 0.004, -0.003)
        seen["ours"] = weight
        return {}

    @torch.no_grad()
    def naive() -> Figures:
        weight = model.weights[0].clone()
        for t in fronts:
            wave = waves(t)
            potential, spikes = layer(wave, weight, how.padding, how.threshold)
            for w in naive_winners(inhibited(potential), how.winners, how.radius):
                update(weight, wave, spikes, w, how.padding, (0.004, -0.003))
        seen["naive"] = weight
        return {}

    row = compare(
        f"STDP of layer 1 on {IMAGES} MNIST images",
        {"step by step": ours, "naive": naive},
        5,
        Rivals("step by step", ("naive",)),
    )
    assert torch.allclose(seen["ours"], seen["naive"], atol=1e-5)
    return row


def main() -> None:
    data = find("mnist")
    x = pixels(data.split("train").x[:IMAGES])
    with Stream(("bench", "stdp")).active():
        model = SNNM().build(data.shape, data.classes).eval().requires_grad_(False)
    assert isinstance(model, STDPNetwork)
    fronts = times(responses(x))
    rows = [decision_row(model, x), learning_row(model, fronts)]
    save("stdp", rows)


if __name__ == "__main__":
    main()
