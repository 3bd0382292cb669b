"""Carlini and Wagner's L2 attack, and Tan et al.'s variant that is robust to rotations and shifts (ModCW)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from robassay.access import GradientAccess
from robassay.attacks.turns import draws, moved
from robassay.attacks.weighed import Live, Weighed, hinge
from robassay.errors import UsageError
from robassay.registry import part
from robassay.rng import Stream


@part(source="Carlini and Wagner 2017; schedule as foolbox's L2CarliniWagnerAttack")
class CW(Weighed):
    __doc__ = Weighed.__doc__

    def extra(self, x: Tensor, rng: Stream) -> None:
        return None


@part(name="modcw", source="Tan et al. 2020, eq. 4")
class ModCW(Weighed):
    """CW plus the mean classification loss of randomly rotated and shifted copies, which c does not multiply.

    Success is judged on the image itself. The fields ``search``, ``steps``, ``lr``, ``c0``, ``factor``,
    ``abort_early``, ``smoothing`` and ``accept`` are those of :class:`CW`.

    Args:
        copies: transformed copies per step, fresh each time.
        degrees: rotations are uniform between −degrees and degrees.
        shift: translations are by 0 … shift pixels, a whole number, in a uniform direction; what enters is black.
    """

    copies: int = 5
    degrees: float = 180.0
    shift: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.copies < 1 or self.degrees < 0 or self.shift < 0:
            raise UsageError("modcw needs copies ≥ 1, degrees ≥ 0 and shift ≥ 0.")

    def extra(self, x: Tensor, rng: Stream) -> _Turned:
        angle, way, far = draws(x, self.steps * self.copies, rng).unbind(-1)
        turn = torch.deg2rad(self.degrees * (2 * angle - 1))
        return _Turned(self.copies, turn, 2 * math.pi * way, (far * (self.shift + 1)).floor())


@dataclass(frozen=True)
class _Turned:
    """Transformed copies for the examples of one round: angles, directions, distances, (B, steps · copies) each."""

    copies: int
    turn: Tensor
    way: Tensor
    far: Tensor

    def __call__(self, access: GradientAccess, live: Live, at: Tensor, k: int, rng: Stream) -> tuple[Tensor, Tensor]:
        """Mean loss (b,) of the copies of step ``k`` and its gradient at the images, signed as losses to ascend."""
        value, gradient = at.new_zeros(len(at)), torch.zeros_like(at)
        for j in range(self.copies):
            turn, way, far = (t[live.rows, k * self.copies + j] for t in (self.turn, self.way, self.far))
            with torch.enable_grad():
                image = at.detach().requires_grad_()
                copy = moved(image, turn, way, far)
            found = access.direction(copy.detach(), hinge(live.goal), rng.child("copy", j), live.counted)
            (at_image,) = torch.autograd.grad(copy, image, found.gradient)
            value += found.value / self.copies
            gradient += at_image / self.copies
        return value, gradient
