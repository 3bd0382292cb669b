"""A SpikingJelly network on digits: trained with SpikingJelly, audited with robassay.

Train:  python examples/spikingjelly_digits.py digits.safetensors
Audit:  robassay audit examples/spikingjelly_digits.py:build --weights digits.safetensors --data digits --linf 0.1
Cost:   a few seconds each.
"""

import sys

import torch
from safetensors.torch import save_file
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn

import robassay as ra

STEPS = 8


def net() -> nn.Module:
    """A network that takes a sequence (steps, B, C, H, W)."""
    made = nn.Sequential(
        layer.Flatten(),
        layer.Linear(64, 100),
        neuron.LIFNode(tau=2.0, surrogate_function=surrogate.ATan()),
        layer.Linear(100, 10),
        neuron.LIFNode(tau=2.0, surrogate_function=surrogate.ATan()),
    )
    functional.set_step_mode(made, "m")
    return made


def build() -> ra.Classifier:
    """The network as robassay audits it: the image as a constant current, decided by the output's firing rate."""
    return ra.adapt(net(), framework="spikingjelly", steps=STEPS, encoder="direct", readout="rate")


def train(file: str, batches: int = 150) -> None:
    """Learn the training images and save the weights of ``net()``."""
    images = ra.find("digits").split("train")
    x, y = images.x.float() / 255, images.y
    torch.manual_seed(0)
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(batches):
        rows = torch.randint(len(y), (128,))
        functional.reset_net(model)
        rate = model(x[rows].expand(STEPS, 128, 1, 8, 8)).mean(0)
        optimizer.zero_grad()
        nn.functional.cross_entropy(4 * rate, y[rows]).backward()
        optimizer.step()
    save_file(model.state_dict(), file)


if __name__ == "__main__":
    train(sys.argv[1])
