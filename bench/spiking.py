"""A convolutional spiking network, forward and backward, against SpikingJelly, snnTorch and Norse.

The same weights, neurons, surrogate gradient and input in all of them. Their logits are compared before they are
timed: speed with another result would be no speed. SpikingJelly runs as it is fastest here (all steps of a layer at
once); the two others step through time, as their documentation does.

Run:   python bench/spiking.py
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import norse.torch as norse
import snntorch
import torch
from harness import Figures, Rivals, Way, compare, save
from norse.torch.functional.reset import reset_value
from spikingjelly.activation_based import functional, neuron
from spikingjelly.activation_based import surrogate as theirs
from torch import Tensor, nn

from robassay.nets.neurons import neurons
from robassay.rng import Stream
from robassay.rules import Atan

STEPS, IMAGES, LEAK = 16, 32, 0.5
CHANNELS = (1, 32, 64)
Forward = Callable[[Tensor], Tensor]


def layers(scale: float = 1.0) -> nn.ModuleList:
    """Two convolutions and the readout, always the same; what goes into neurons is multiplied by ``scale``."""
    with Stream(("bench", "spiking")).active():
        found = nn.ModuleList([nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(CHANNELS)])
        found.append(nn.Linear(CHANNELS[-1] * 7 * 7, 10))
    with torch.no_grad():
        for conv in list(found)[:2]:
            for weight in conv.parameters():
                weight.mul_(3 * scale)
    return found.requires_grad_(False).to(torch.get_default_dtype())


def ours() -> Forward:
    first, second, last = layers()

    def forward(x: Tensor) -> Tensor:
        # The image is the same at every step: its convolution is made once.
        now = neurons(first(x).expand(STEPS, -1, -1, -1, -1), LEAK, 1.0, "hard", Atan())
        now = second(nn.functional.max_pool2d(now.flatten(0, 1), 2))
        now = neurons(now.unflatten(0, (STEPS, -1)), LEAK, 1.0, "hard", Atan())
        # The readout is linear and its mean is asked for: it reads the mean of the spikes.
        return last(nn.functional.max_pool2d(now.flatten(0, 1), 2).unflatten(0, (STEPS, -1)).mean(0).flatten(1))

    return forward


def spikingjelly() -> Forward:
    first, second, last = layers()
    nodes = [
        neuron.LIFNode(1 / (1 - LEAK), False, surrogate_function=theirs.ATan(), detach_reset=True, step_mode="m")
        for _ in range(2)
    ]

    def forward(x: Tensor) -> Tensor:
        functional.reset_net(nn.ModuleList(nodes))
        now = nodes[0](first(x).expand(STEPS, -1, -1, -1, -1))
        now = second(nn.functional.max_pool2d(now.flatten(0, 1), 2))
        now = nodes[1](now.unflatten(0, (STEPS, -1)))
        return last(nn.functional.max_pool2d(now.flatten(0, 1), 2).unflatten(0, (STEPS, -1)).mean(0).flatten(1))

    return forward


def stepped(
    first: nn.Module, second: nn.Module, last: nn.Module, one: Callable[..., Any], two: Callable[..., Any]
) -> Forward:
    """A loop over time; ``one`` and ``two`` map a current and a state to spikes and the next state."""

    def forward(x: Tensor) -> Tensor:
        states: list[Any] = [None, None]
        total, current = torch.zeros(len(x), 10), first(x)
        for _ in range(STEPS):
            spikes, states[0] = one(current, states[0])
            seen = nn.functional.max_pool2d(spikes.to(x.dtype), 2)  # Norse gives float32 whatever it gets
            spikes, states[1] = two(second(seen), states[1])
            total = total + last(nn.functional.max_pool2d(spikes.to(x.dtype), 2).flatten(1))
        return total / STEPS

    return forward


def snntorchs() -> Forward:
    def layer() -> Callable[..., Any]:
        # alpha 2 as in Atan(); its default reset comes a step late
        node = snntorch.Leaky(
            beta=LEAK, reset_mechanism="zero", reset_delay=False, spike_grad=snntorch.surrogate.atan(alpha=2.0)
        )
        return lambda current, state: node(current, torch.zeros_like(current) if state is None else state)

    return stepped(*layers(), layer(), layer())


def norses() -> Forward:
    how = norse.LIFBoxParameters(tau_mem_inv=torch.tensor(1000 * (1 - LEAK)), reset_method=reset_value)
    # Norse scales its input by 1 − leak.
    return stepped(*layers(1 / (1 - LEAK)), norse.LIFBoxCell(how), norse.LIFBoxCell(how))


def built() -> dict[str, Forward]:
    return {"ours": ours(), "SpikingJelly": spikingjelly(), "snnTorch": snntorchs(), "Norse": norses()}


@torch.no_grad()
def agree(x: Tensor) -> None:
    """All compute the same: asked in double precision, since in single a rounding moves a spike now and then."""
    torch.set_default_dtype(torch.float64)
    logits = {name: net(x.double()) for name, net in built().items()}
    torch.set_default_dtype(torch.float32)
    for name, found in logits.items():
        apart = float((found - logits["ours"]).abs().max())
        print(f"{name}: logits differ by {apart:.2g}, mean size {float(found.abs().mean()):.2g}")
        assert apart < 1e-9, f"{name} computes something else."


def main() -> None:
    torch.set_num_threads(1)
    x = torch.rand(IMAGES, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    agree(x)
    nets = built()

    def backward(net: Forward) -> Way:
        def run() -> Figures:
            image = x.clone().requires_grad_()
            torch.autograd.grad(net(image).square().sum(), image)
            return {}

        return run

    @torch.no_grad()
    def alone(net: Forward) -> Figures:
        net(x)
        return {}

    rivals = Rivals("ours", ("SpikingJelly", "snnTorch", "Norse"))
    task = f"spiking conv net, {STEPS} steps, {IMAGES} images"
    rows = [
        compare(f"{task}, forward", {n: (lambda net=net: alone(net)) for n, net in nets.items()}, 7, rivals, True),
        compare(f"{task}, forward and backward", {n: backward(net) for n, net in nets.items()}, 7, rivals, True),
    ]
    save("spiking", rows)


if __name__ == "__main__":
    main()
