"""From images to the times of first spikes: differences of Gaussians, local contrast, and ranks.

Source: Mozafari et al. 2019 and its published example. Images are grey here, (B, 1, H, W) in [0,1].
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from robassay.nets.ops import spike
from robassay.rules import StraightThrough

STEPS = 15
"""Time steps of a presentation; as a time it says "never"."""
MAPS = 6
THRESHOLD = 50.0
"""Responses to pixels of 0 … 255 below this are none."""
REACH = 8
"""The local mean is that of a square of 2 · 8 + 1 pixels."""
LEAST = THRESHOLD / (2 * REACH + 1) ** 2
"""The local mean around a single response that just reaches the threshold."""

Gate = Literal["hard", "straight"]


@lru_cache(maxsize=1)
def filters() -> Tensor:
    """Differences of Gaussians, on and off centre, at three sizes: (6, 1, 13, 13).

    Each is divided by its largest value, not its largest size: off-centre filters are six to ten times stronger.
    """
    found = []
    for window in (3, 7, 13):
        one, two = window / 9, 2 * window / 9
        for inner, outer in ((one, two), (two, one)):
            kernel = _gaussian(window, inner) - _gaussian(window, outer)
            kernel -= kernel.mean()
            found.append(F.pad(kernel / kernel.max(), [(13 - window) // 2] * 4))
    return torch.stack(found)[:, None].float()


def _gaussian(window: int, sd: float) -> Tensor:
    at = torch.arange(window, dtype=torch.float64) - window // 2
    square = at[:, None] ** 2 + at**2
    return torch.exp(-square / (2 * sd**2)) / (2 * torch.pi * sd**2)


def responses(x: Tensor, gate: Gate = "hard") -> Tensor:
    """Locally normalised filter responses (B, 6, H, W), 0 below the threshold.

    Args:
        x: grey images (B, 1, H, W).
        gate: what passes the threshold backwards. "hard", as it is: nothing where there is no response, so an
            attacker who follows it cannot add a stroke. "straight": everything.
    """
    r = F.conv2d(x * 255, filters().to(x), padding=6)
    kept = r * (r >= THRESHOLD)
    if gate == "straight":
        kept = kept.detach() + r - r.detach()
    local = F.avg_pool2d(kept, 2 * REACH + 1, stride=1, padding=REACH)
    if gate == "straight":  # where nothing responds, as if one pixel just did
        return kept / torch.where(local > 0, local, torch.full_like(local, LEAST))
    return kept / (local + 1e-12)


def times(response: Tensor) -> Tensor:
    """Steps of the first spikes, uint8 (B, 6, H, W): 0 for the strongest responses of an image, 15 for never.

    The N responses of all maps together are sorted; each step takes N // 15 of them, and the up to 14 weakest never
    spike. Fewer than 15 responses spike one per step.
    """
    flat = response.detach().flatten(1)
    share = ((flat > 0).sum(1, keepdim=True) // STEPS).clamp_min(1)
    order = flat.argsort(dim=1, descending=True, stable=True)
    step = (torch.arange(flat.shape[1], device=flat.device) // share).clamp_max(STEPS)
    found = torch.empty_like(order).scatter_(1, order, step.expand_as(order))
    return torch.where(flat > 0, found, STEPS).to(torch.uint8).view_as(response)


def final_wave(response: Tensor) -> Tensor:
    """Who has spiked by the last step: 0 or 1, (B, 6, H, W); backward: the rule in force, by default straight through.

    Ranks are constants of the backward pass: with a hard gate only those that spike pass a gradient.
    """
    spiked = (times(response) < STEPS).to(response.dtype)
    through = spike(response, StraightThrough())
    # The weakest responses, which have no step left, are above 0 and do not spike.
    return through - through.detach() + spiked
