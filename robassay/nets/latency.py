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

Gate = Literal["contrast", "hard"]
"""What passes a spike of the filters backwards, see :func:`final_wave`."""


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


def contrasts(x: Tensor) -> Tensor:
    """Responses of the filters to grey images (B, 1, H, W), in units of 255ths: (B, 6, H, W)."""
    return F.conv2d(x * 255, filters().to(x), padding=6)


def normalised(contrast: Tensor) -> Tensor:
    """Contrasts (B, 6, H, W) over their local mean; 0 below the threshold."""
    kept = contrast * (contrast >= THRESHOLD)
    local = F.avg_pool2d(kept, 2 * REACH + 1, stride=1, padding=REACH)
    return kept / (local + 1e-12)


def responses(x: Tensor) -> Tensor:
    """Locally normalised responses (B, 6, H, W) to grey images (B, 1, H, W)."""
    return normalised(contrasts(x))


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


def final_wave(x: Tensor, gate: Gate = "contrast") -> Tensor:
    """Who has spiked by the last step, 0 or 1, (B, 6, H, W), for grey images (B, 1, H, W).

    Backward: the rule in force, by default straight through.

    Args:
        gate: where the step is differentiated. "contrast": at the threshold of 50, which is what decides whether there
            is a spike. "hard": at the normalised response, as Tan et al. 2020 suggest; nothing passes where there is no
            response, so the gradient adds no stroke, and it rewards weaker neighbours, which make no spike either.
    """
    contrast = contrasts(x)
    spiked = (times(normalised(contrast.detach())) < STEPS).to(x.dtype)
    u = contrast / THRESHOLD - 1 if gate == "contrast" else normalised(contrast)
    # The step's value is not taken: the weakest responses have no step left and never spike.
    through = spike(u, StraightThrough())
    return through - through.detach() + spiked
