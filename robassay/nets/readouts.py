"""Readouts: how the spikes or potentials of an output layer become logits. Time comes first."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


def rate(spikes: Tensor) -> Tensor:
    """Mean spikes per step: (steps, B, C) → (B, C)."""
    return spikes.mean(0)


def membrane(current: Tensor, leak: float = 1.0) -> Tensor:
    """Last potential, over the steps, of an output that never fires: input (steps, B, C) → (B, C).

    With ``leak`` 1 it is the mean input. Source: Lee et al. 2020.
    """
    if leak == 1:
        return current.mean(0)
    ages = torch.arange(len(current) - 1, -1, -1, device=current.device, dtype=current.dtype)
    return (current * (leak**ages)[:, None, None]).sum(0) / len(current)


def first_spike(spikes: Tensor) -> Tensor:
    """T + 1 − t for a first spike at step t of 1 … T, and 0 without a spike: (steps, B, C) → (B, C).

    Differentiable: it is the sum over time of "has fired", whose derivative at a spike is how much later the neuron
    would first have fired without it. Equal logits are a tie, which argmax gives to the lowest class.
    """
    return (1 - (1 - spikes).cumprod(0)).sum(0)


class Undecided(NamedTuple):
    """Shares of images, in [0,1], whose decision by a readout is none."""

    silent: float
    """No output fired at all."""
    tied: float
    """The largest logit is that of two classes or more; silent images are among them."""


def undecided(spikes: Tensor, logits: Tensor) -> Undecided:
    """How many decisions an output's spikes (steps, B, C) and their logits (B, C) leave open; B ≥ 1.

    Above 1 % an attack's success says little: read out the membrane as well.
    """
    silent = (spikes == 0).all(0).all(-1)
    tied = (logits == logits.amax(-1, keepdim=True)).sum(-1) > 1
    return Undecided(silent.double().mean().item(), tied.double().mean().item())
