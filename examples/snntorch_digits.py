"""An snnTorch network on digits: trained with snnTorch, audited with robassay.

Train:  python examples/snntorch_digits.py digits.safetensors
Audit:  robassay audit examples/snntorch_digits.py:build --weights digits.safetensors --data digits --linf 0.1
Cost:   a few seconds each.
"""

import sys

import snntorch as snn
import torch
from safetensors.torch import save_file
from snntorch import surrogate, utils
from torch import nn

import robassay as ra
from robassay.adapters import Membrane

STEPS = 8


def net() -> nn.Module:
    """One step of a network: every neuron keeps its own potential between steps."""
    slope = surrogate.fast_sigmoid(slope=25)
    hidden = snn.Leaky(beta=0.9, spike_grad=slope, init_hidden=True)
    last = snn.Leaky(beta=0.9, spike_grad=slope, init_hidden=True, output=True)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 100), hidden, nn.Linear(100, 10), last)


def build() -> ra.Classifier:
    """The network as robassay audits it: the image as a constant current, decided by the mean potential."""
    return ra.adapt(net(), framework="snntorch", steps=STEPS, encoder="direct", readout=Membrane("mean"))


def train(file: str, batches: int = 150) -> None:
    """Learn the training images and save the weights of ``net()``."""
    images = ra.find("digits").split("train")
    x, y = images.x.float() / 255, images.y
    torch.manual_seed(0)
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(batches):
        rows = torch.randint(len(y), (128,))
        utils.reset(model)
        potentials = torch.stack([model(x[rows])[1] for _ in range(STEPS)])
        optimizer.zero_grad()
        nn.functional.cross_entropy(potentials.mean(0), y[rows]).backward()
        optimizer.step()
    save_file(model.state_dict(), file)


if __name__ == "__main__":
    train(sys.argv[1])
