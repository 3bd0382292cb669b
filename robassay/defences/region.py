"""Region-based classification: the majority label of a cube around the image."""

from __future__ import annotations

from typing import ClassVar, final

import torch
from torch import Tensor

from robassay.classifier import Classifier
from robassay.errors import UsageError
from robassay.policy import VoteOf
from robassay.registry import part


@part(name="region", source="Cao and Gong 2017; Ge et al. 2020, RC")
class Region:
    """Votes of noisy copies: uniform noise in (−radius, radius) on every pixel, clipped to [0, 1], then the network.

    It goes around a trained network, whose own noise stays on. :data:`PUBLISHED` has the settings of Ge et al. 2020,
    who take the Dropout network and reach errors of .77, 5.39 and 5.72 %. So many votes are for one decision per image:
    Score(…, policy=region.policy, repeats=1).

    Args:
        radius: half the side of the cube, in pixel units of [0, 1].
        votes: copies that vote.
    """

    kind: ClassVar[str] = "defences"
    radius: float = 0.4
    votes: int = 10_000

    def __post_init__(self) -> None:
        if not self.radius >= 0 or self.votes < 1:
            raise UsageError(
                f"region was given radius={self.radius}, votes={self.votes}; it needs radius ≥ 0 and votes ≥ 1. "
                "Write Region(radius=0.02, votes=1000)."
            )

    @property
    def policy(self) -> VoteOf:
        """How the defender decides."""
        return VoteOf(self.votes)

    def around(self, inner: Classifier) -> Classifier:
        """``inner`` at one random point of the cube per pass."""
        return Surrounded(inner, self.radius)


PUBLISHED = {
    "mnist": Region(0.4, 10_000),
    "fashion-mnist": Region(0.02, 1000),
    "cifar10": Region(0.02, 1000),
}
"""Ge et al. 2020, Table 2 and §A.1; a tenth of the votes where they measure stability."""


@final
class Surrounded(Classifier):
    """A classifier that sees its images with uniform noise.

    Args:
        inner: the classifier.
        radius: largest change of a pixel.
    """

    def __init__(self, inner: Classifier, radius: float) -> None:
        super().__init__()
        self.inner, self.radius = inner, radius
        self.classes, self.coupled = inner.classes, inner.coupled
        self.stochastic = radius > 0 or inner.stochastic
        # Copies of one image differ: folded, they would be mates of a coupled classifier.
        self.rows = "shared" if inner.coupled or (inner.stochastic and inner.rows == "shared") else "independent"

    def draw(self, h: Tensor) -> Tensor:
        noise = self.radius * (2 * torch.rand_like(h) - 1)
        logits: Tensor = self.inner((h + noise).clamp(0, 1))
        return logits

    def quiet(self, h: Tensor) -> Tensor:
        """The inner classifier at the image itself, its noise off, too."""
        return self.inner.quiet(self.inner.prefix(h))

    def alarms(self, x: Tensor) -> Tensor:
        """The inner classifier's, at the image itself."""
        return self.inner.alarms(x)
