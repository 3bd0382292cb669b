"""A model behind rounded pixels."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from robassay.cell import Arrays, Context, Model, cell
from robassay.classifier import Classifier
from robassay.errors import UsageError


@final
class Rounded(Classifier):
    """A classifier of images whose pixels are rounded to equally spaced ``levels`` from 0 to 1.

    The backward pass is that of no rounding at all: an attacker who knows of it loses nothing by it. Source of the
    backward pass: Athalye et al. 2018 (BPDA with the identity).
    """

    def __init__(self, inner: Classifier, levels: int) -> None:
        super().__init__()
        self.inner, self.levels = inner, levels
        self.classes, self.stochastic = inner.classes, inner.stochastic
        self.rows, self.coupled = inner.rows, inner.coupled

    def rounded(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) of ``levels`` different values at most."""
        return x + ((x * (self.levels - 1)).round() / (self.levels - 1) - x).detach()

    def prefix(self, x: Tensor) -> Tensor:
        return self.inner.prefix(self.rounded(x))

    def draw(self, h: Tensor) -> Tensor:
        return self.inner.draw(h)

    def quiet(self, h: Tensor) -> Tensor:
        return self.inner.quiet(h)

    def alarms(self, x: Tensor) -> Tensor:
        return self.inner.alarms(self.rounded(x))

    def lasting(self, steps: int) -> Classifier:
        return Rounded(self.inner.lasting(steps), self.levels)


@cell
class Quantised(Model):
    """A model that sees pixels of a few levels; see :class:`Rounded`. 256 levels are those of a file.

    Args:
        of: the model.
        levels: from 0 to 1, two at least.
    """

    of: Model
    levels: int

    def __post_init__(self) -> None:
        if self.levels < 2:
            raise UsageError(f"levels={self.levels}: black and white are two. Write levels=2 or more.")

    def compute(self, ctx: Context) -> Arrays:
        return {"levels": torch.tensor(self.levels)}

    def open(self, ctx: Context) -> Classifier:
        return Rounded(ctx.open(self.of), self.levels)
