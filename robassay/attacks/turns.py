"""Images turned and shifted, differentiably, by amounts that belong to each image (Tan et al. 2020, ModCW)."""

from __future__ import annotations

import torch
from torch import Tensor

from robassay.rng import Stream, uniform


def draws(x: Tensor, count: int, rng: Stream) -> Tensor:
    """``count`` triples of uniform numbers (B, count, 3) for each image of ``x``, independent of its batch mates."""
    size = x[0].numel()
    # Whole copies of the image: who an example is must show in what is hashed.
    wide = x.flatten(1).repeat(1, -(-3 * count // size))
    return uniform(wide, rng)[:, : 3 * count].reshape(len(x), count, 3)


def moved(x: Tensor, turn: Tensor, way: Tensor, far: Tensor) -> Tensor:
    """Images (B, C, H, W) turned by ``turn`` (radians) and then shifted by ``far`` pixels in the direction ``way``.

    All (B,). Bilinear, black outside, differentiable.
    """
    height, width = x.shape[2:]
    cos, sin = turn.cos(), turn.sin()
    dx, dy = far * way.cos(), far * way.sin()
    # From a place in the result to the place it is taken from, in units of half the image.
    rows = [
        torch.stack([cos, sin * height / width, -(cos * dx + sin * dy) * 2 / width], -1),
        torch.stack([-sin * width / height, cos, -(cos * dy - sin * dx) * 2 / height], -1),
    ]
    grid = torch.nn.functional.affine_grid(torch.stack(rows, 1).to(x.dtype), list(x.shape), align_corners=False)
    return torch.nn.functional.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
