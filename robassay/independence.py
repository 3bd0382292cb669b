"""Whether every row of a batch gets noise of its own, so that draws may be folded into one pass."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robassay.classifier import Classifier
from robassay.rng import Stream

ROWS, PASSES = 64, 32
SIGMAS = 6.0
MOST = 2**20
"""Elements in the batch of equal rows. Larger images gain nothing by folding, so they are not even asked."""
TOGETHER = 0.95
"""A correlation that two of the rows do not reach by chance: its standard error is 1/√PASSES."""


@torch.no_grad()
def independent(model: Classifier, h: Tensor, rng: Stream) -> bool:
    """Whether rows with equal features have independent noise; False in doubt.

    A batch of equal rows is drawn again and again. The mean over rows of independent noise has 1/rows of its variance;
    noise that is shared by a share ρ has about ρ more, rows in opposite pairs have less. The same is asked of the
    squares, since rows may share the size of their noise alone, and no two rows may go together.

    Args:
        model: a random classifier.
        h: features (B, …), of which the first two are asked about.
        rng: randomness of the passes.
    """
    if h[0].numel() * ROWS > MOST:
        return False
    for j, one in enumerate(h[:2]):
        rows = one.expand(ROWS, *one.shape)
        drawn = []
        for i in range(PASSES):
            with rng.child(j, i).active():
                drawn.append(model.draw(rows.clone()))
        if not _apart(torch.stack(drawn).double()):
            return False
    return True


def _apart(drawn: Tensor) -> bool:
    """Whether the rows of ``drawn`` (passes, rows, C) look independent; False where nothing varies."""
    noise = drawn - drawn.mean((0, 1))
    noise = noise[..., noise.square().mean((0, 1)) > 1e-12 * drawn.square().mean((0, 1))]
    if noise.shape[-1] == 0 or not noise.isfinite().all():
        return False
    spread = SIGMAS * math.sqrt(2 / (len(noise) - 1))
    for part in (noise, noise.square() - noise.square().mean((0, 1))):
        ratio = part.shape[1] * part.mean(1).var(0) / part.square().mean((0, 1)).clamp_min(1e-300)
        if bool((ratio > 1 + spread).any()) or bool((ratio < 1 / (1 + spread) ** 2).any()):
            return False
    return not _in_pairs(noise)


def _in_pairs(noise: Tensor) -> bool:
    """Whether two rows of ``noise`` (passes, rows, C) go together, or against each other, in all passes and classes."""
    flat = noise.transpose(0, 1).flatten(1)
    flat = flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-300)
    together = (flat @ flat.T).fill_diagonal_(0.0)
    return bool(together.abs().max() > TOGETHER)
