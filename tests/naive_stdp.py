"""The STDP network as its papers write it: every image alone, every step, every layer. For tests and measurements."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

STEPS = 15


def waves(t: Tensor) -> Tensor:
    """Spike times (maps, H, W) → cumulative waves (15, maps, H, W)."""
    return torch.stack([(t <= step).float() for step in range(STEPS)])


def layer(wave: Tensor, weight: Tensor, padding: int, threshold: float) -> tuple[Tensor, Tensor]:
    """Potentials above the threshold, else 0, and spikes, both (15, maps, H', W')."""
    potential = F.conv2d(wave, weight, padding=padding)
    if threshold == float("inf"):
        potential[:-1] = 0
        threshold = 0.0
    kept = potential * (potential > threshold)
    return kept, kept.sign()


def forward(t: Tensor, weights: list[Tensor]) -> Tensor:
    """Final potentials of the last layer (maps, h, w) for spike times (6, H, W) of the filters."""
    wave = waves(t)
    _, wave = layer(wave, weights[0], 2, 15.0)
    _, wave = layer(F.max_pool2d(wave, 2), weights[1], 1, 10.0)
    potential, _ = layer(F.max_pool2d(wave, 3), weights[2], 2, float("inf"))
    return potential[-1]


def inhibited(potential: Tensor) -> Tensor:
    """Pointwise inhibition of (15, maps, H, W): only the map that spikes first keeps its potentials."""
    spikes = potential > 0
    first = (STEPS - spikes.sum(0)).clamp_max(STEPS)  # step of the first spike, 15 for none
    height = potential.amax() + 1
    at_first = potential.gather(0, first.clamp_max(STEPS - 1)[None])[0]
    value = (STEPS - first) * height + at_first
    keep = torch.zeros_like(value, dtype=torch.bool).scatter_(0, value.argmax(0, keepdim=True), True)
    return potential * keep


def winners(potential: Tensor, k: int, radius: int) -> list[tuple[int, int, int]]:
    """k-winners-take-all over (15, maps, H, W): map and position, the earliest first, then the largest potential."""
    spikes = potential > 0
    count = spikes.sum(0)
    at_first = potential.gather(0, (STEPS - count).clamp(0, STEPS - 1)[None])[0]
    value = (count * (potential.amax() + 1) + at_first) * (count > 0)
    found = []
    for _ in range(k):
        place = int(value.argmax())
        if value.flatten()[place] <= 0:
            break
        m, rest = divmod(place, value[0].numel())
        y, x = divmod(rest, value.shape[2])
        found.append((m, y, x))
        value[m] = 0
        value[:, max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1] = 0
    return found


def update(
    weight: Tensor, wave: Tensor, spikes: Tensor, winner: tuple[int, int, int], padding: int, rates: tuple[float, float]
) -> None:
    """STDP of one winner by counts of steps: inputs on for at least as long as the neuron came before or with it."""
    m, y, x = winner
    k = weight.shape[-1]
    ins = F.pad(wave.sum(0), [padding] * 4)[:, y : y + k, x : x + k]
    before = ins >= spikes[:, m, y, x].sum()
    rate = torch.where(before, rates[0], rates[1])
    weight[m] = (weight[m] + rate * weight[m] * (1 - weight[m])).clamp(0, 1)
