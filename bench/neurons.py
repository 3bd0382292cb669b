"""Speed and memory of spiking neurons, forward and backward, against SpikingJelly's multi-step neurons.

One thread, equal surrogates, [16, 32, 64, 32, 32] values: 16 steps of 2.1 million neurons. The gradients are compared
first: speed with another result would be no speed.

Run:   python bench/neurons.py
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from harness import Figures, Rivals, compare, save
from spikingjelly.activation_based import functional, neuron, surrogate
from torch import Tensor

from robassay.nets.neurons import Reset, neurons
from robassay.rules import Atan, BackwardRule, Triangle, acting

SIZE = (16, 32, 64, 32, 32)
LEAK = 0.5
ROUNDS = 9


def ours(x: Tensor, upon: Tensor, reset: Reset, swapped: BackwardRule | None = None) -> Tensor:
    if swapped is None:
        spikes = neurons(x, LEAK, 1.0, reset, Atan())
    else:
        with acting(swapped):
            spikes = neurons(x, LEAK, 1.0, reset, Atan())
    (gradient,) = torch.autograd.grad(spikes, x, upon)
    return gradient


def theirs(x: Tensor, upon: Tensor, reset: Reset) -> Tensor:
    node = neuron.LIFNode(
        tau=1 / (1 - LEAK),
        decay_input=False,
        v_reset=0.0 if reset == "hard" else None,
        surrogate_function=surrogate.ATan(),
        detach_reset=True,
        step_mode="m",
    )
    spikes = node(x)
    (gradient,) = torch.autograd.grad(spikes, x, upon)
    functional.reset_net(node)
    return gradient


def row(x: Tensor, upon: Tensor, reset: Reset) -> dict[str, Any]:
    small = x[:, :1].detach().clone().requires_grad_()
    gap = (ours(small, upon[:, :1], reset) - theirs(small, upon[:, :1], reset)).abs().max().item()
    ways: dict[str, Callable[[], Tensor]] = {
        "fused": lambda: ours(x, upon, reset),
        "fused, another rule": lambda: ours(x, upon, reset, Triangle(0.5)),
        "SpikingJelly": lambda: theirs(x, upon, reset),
    }

    def timed(way: Callable[[], Tensor]) -> Callable[[], Figures]:
        def run() -> Figures:
            way()
            return {}

        return run

    timings = {n: timed(w) for n, w in ways.items()}
    found = compare(f"LIF, {reset} reset, {SIZE}", timings, ROUNDS, Rivals("fused", ("SpikingJelly",)), memory=True)
    found["gradient_gap"] = gap
    print(f"  gradients differ by {gap:.2g}")
    return found


def main() -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SIZE, generator=generator).requires_grad_()
    upon = torch.randn(SIZE, generator=generator)
    rows = [row(x, upon, reset) for reset in ("hard", "soft")]
    if "--look" not in sys.argv:
        save("neurons", rows)


if __name__ == "__main__":
    main()
