"""A Norse network on digits: trained with Norse, audited with robassay.

Train:  python examples/norse_digits.py digits.safetensors
Audit:  robassay audit examples/norse_digits.py:build --weights digits.safetensors --data digits --linf 0.1
Cost:   a few seconds each.
"""

import sys

import norse.torch as norse
import torch
from safetensors.torch import save_file
from torch import nn

import robassay as ra
from robassay.adapters import Membrane

STEPS = 8


def net() -> nn.Module:
    """One step of a network: states are passed from step to step. The last layer integrates and never fires."""
    fast = norse.LIFBoxParameters(tau_mem_inv=torch.tensor(200.0))  # leak 0.8 per millisecond
    return norse.SequentialState(
        nn.Flatten(), nn.Linear(64, 100), norse.LIFBoxCell(fast), nn.Linear(100, 10), norse.LICell()
    )


def build() -> ra.Classifier:
    """The network as robassay audits it: Poisson spikes, decided by the integrator's largest potential."""
    return ra.adapt(net(), framework="norse", steps=STEPS, encoder="poisson", readout=Membrane("max"))


def train(file: str, batches: int = 150) -> None:
    """Learn the training images and save the weights of ``net()``."""
    images = ra.find("digits").split("train")
    x, y = images.x.float() / 255, images.y
    torch.manual_seed(0)
    model = net()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(batches):
        rows = torch.randint(len(y), (128,))
        state, potentials = None, []
        for _ in range(STEPS):
            spikes = torch.bernoulli(x[rows])
            potential, state = model(spikes, state)
            potentials.append(potential)
        optimizer.zero_grad()
        nn.functional.cross_entropy(torch.stack(potentials).amax(0), y[rows]).backward()
        optimizer.step()
    save_file(model.state_dict(), file)


if __name__ == "__main__":
    train(sys.argv[1])
