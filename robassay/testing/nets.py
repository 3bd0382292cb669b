"""The networks that attacks and estimators are examined on."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from robassay.classifier import Classifier
from robassay.rng import uniform
from robassay.testing.exam import RNG


@final
class ExamNet(Classifier):
    """A small smooth network with a random hidden layer, which counts the rows that pass it.

    It works in float64, so that the size of the batch changes no bit, and its logits lie on a grid of 2**-12, so that
    adding a power of two to them changes no difference.

    Args:
        shape: of the images (C, H, W).
        classes: number of logits.
        noise: relative standard deviation of the hidden units, independent per row.
        shift: added to all logits.
        coupled: what it says of itself; its rows are independent in any case.
    """

    def __init__(
        self,
        shape: tuple[int, int, int] = (3, 4, 4),
        classes: int = 4,
        noise: float = 0.0,
        shift: float = 0.0,
        coupled: bool = False,
    ) -> None:
        super().__init__()
        self.classes, self.stochastic, self.rows, self.coupled = classes, noise > 0, "independent", coupled
        self.noise, self.shift = noise, shift
        pixels, generator = shape[0] * shape[1] * shape[2], RNG.child("net", *shape, classes).generator()
        self.straight = nn.Parameter(torch.randn(pixels, classes, generator=generator, dtype=torch.float64))
        self.into = nn.Parameter(torch.randn(pixels, 8, generator=generator, dtype=torch.float64) / pixels**0.5)
        self.out = nn.Parameter(torch.randn(8, classes, generator=generator, dtype=torch.float64))
        self.forwards = self.backwards = 0
        self.batches: set[int] = set()

    def draw(self, h: Tensor) -> Tensor:
        return self._logits(h, self.noise)

    def quiet(self, h: Tensor) -> Tensor:
        return self._logits(h, 0.0)

    def _logits(self, h: Tensor, noise: float) -> Tensor:
        seen = h.view_as(h)
        self.forwards += len(h)
        self.batches.add(len(h))
        if seen.requires_grad:
            seen.register_hook(self._passed_back)
        pixels = seen.flatten(1).double() - 0.5
        hidden = (pixels @ self.into).tanh()
        if noise:
            hidden = hidden * (1 + noise * torch.randn(hidden.shape).to(hidden))
        smooth = pixels @ self.straight + hidden @ self.out
        grid = smooth + ((smooth * 4096).round() / 4096 - smooth).detach()
        return (grid + self.shift).float()

    def _passed_back(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


def exam_images(count: int, shape: tuple[int, int, int] = (3, 4, 4)) -> Tensor:
    """Images (count, C, H, W) with some pixels at the ends of [0,1]."""
    places = torch.arange(count, dtype=torch.float32).reshape(-1, 1, 1, 1).expand(count, *shape).contiguous()
    return (uniform(places, RNG.child("images")) * 1.2 - 0.1).clamp(0, 1)
