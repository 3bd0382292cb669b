"""Attacks on a rate-coded image, for networks whose input is spikes."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from robassay.access import Attack, GradientAccess
from robassay.attacks.gradient import FGSM
from robassay.errors import UsageError
from robassay.registry import part
from robassay.rng import Stream, uniform
from robassay.threat import Goal, Threat

AT_ONCE = 16
"""Draws of a rate image that are held at once; a constant, because it decides which bits a draw gets."""


@part(name="snn-crafted", source="Sharmin et al. 2019, Algorithm 2")
class SNNCrafted(Attack):
    """``attack`` on the rate image: the mean of ``steps`` Poisson draws of the image. With ``White(Twin())``.

    The rate image is noise of a standard deviation up to ½/√steps away from the image (15/255 at 70 steps), so that
    the published eps is not the distance from the image. The paper adds to the rate image (base="rate"), here cut to
    the box, too; its distances are whatever they are, and Score reports them. With base="image" what was found there
    is added to the image itself and projected into the threat.

    Args:
        attack: a gradient attack.
        base: what the perturbation is added to.
        steps: Poisson draws of the rate image.
        eps: radius around the rate image in pixel units of [0,1]; None takes the threat's.
    """

    access = GradientAccess
    attack: Attack = FGSM()
    base: Literal["rate", "image"] = "image"
    steps: int = 70
    eps: float | None = None

    def __post_init__(self) -> None:
        if self.attack.access is not GradientAccess:
            raise UsageError(f"snn-crafted runs a gradient attack, {type(self.attack).__name__} is none. Write FGSM().")
        if self.base not in ("rate", "image") or self.steps < 1:
            raise UsageError(
                f"base={self.base!r}, steps={self.steps}: write base='rate' or 'image', and steps=70 or another number "
                "of Poisson draws."
            )
        if self.base == "rate" and self.eps is None:
            raise UsageError("base='rate' needs the radius: SNNCrafted(base='rate', eps=8/255).")

    def __call__(self, access: GradientAccess, x: Tensor, goal: Goal, threat: Threat, rng: Stream) -> Tensor:
        if self.base == "rate" and threat.eps is not None:
            raise UsageError(
                f"the rate image itself lies outside the threat {threat}. Write Threat('{threat.norm}') without a "
                "radius, which reports distances, or base='image'."
            )
        rate = rate_image(x, self.steps, rng.child("rate"))
        ball = threat if self.eps is None else replace(threat, eps=self.eps)
        found = self.attack(access, rate, goal, ball, rng.child("attack"))
        if self.base == "rate":
            return found.clamp(*threat.box)
        return threat.project(x + (found - rate), x)


def rate_image(x: Tensor, steps: int, rng: Stream) -> Tensor:
    """Mean of ``steps`` Poisson draws of images (B, C, H, W) in [0,1]: values k/steps, unbiased.

    An image's draws do not depend on its batch mates.
    """
    total = torch.zeros_like(x)
    for start in range(0, steps, AT_ONCE):
        some = x.unsqueeze(1).expand(-1, min(AT_ONCE, steps - start), *x.shape[1:])
        total += (uniform(some, rng.child(start)) < some).sum(1)
    return total / steps
