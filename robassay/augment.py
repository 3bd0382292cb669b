"""Augmentations: random changes of training images, a whole batch at once."""

from __future__ import annotations

import abc
import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from robassay.errors import UsageError
from robassay.registry import part
from robassay.rng import Stream


class Augmentation(abc.ABC):
    """A random change of training images that leaves their labels right. Every image gets numbers of its own."""

    kind: ClassVar[str] = "augmentations"

    @abc.abstractmethod
    def __call__(self, x: Tensor, rng: Stream) -> Tensor:
        """Images (B, C, H, W) in [0, 1] → changed images, same shape, range and order."""


@part(name="crop", source="He et al. 2016, §4.2")
class Crop(Augmentation):
    """A random window of the image's own size, from the image with a black border.

    Args:
        padding: width of the border in pixels.
    """

    padding: int = 4

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise UsageError(f"padding={self.padding} is no width in pixels. Write padding=4.")

    def __call__(self, x: Tensor, rng: Stream) -> Tensor:
        n, (height, width) = len(x), x.shape[2:]
        corner = torch.randint(2 * self.padding + 1, (2, n, 1), generator=rng.generator())
        rows = (corner[0] + torch.arange(height)).to(x.device)
        columns = (corner[1] + torch.arange(width)).to(x.device)
        padded = F.pad(x, (self.padding,) * 4)
        image = torch.arange(n, device=x.device)[:, None, None]
        # Indices around the slice move the channels to the end.
        return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


@part(name="flip", source="He et al. 2016, §4.2")
class Flip(Augmentation):
    """The image as in a mirror, left for right.

    Args:
        chance: probability of each image to be flipped.
    """

    chance: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.chance <= 1:
            raise UsageError(f"chance={self.chance} is no probability. Write a value in [0, 1], such as 0.5.")

    def __call__(self, x: Tensor, rng: Stream) -> Tensor:
        chosen = torch.rand(len(x), 1, 1, 1, generator=rng.generator()) < self.chance
        return torch.where(chosen.to(x.device), x.flip(3), x)


@part(name="affine", source="Ge et al. 2020, Table 7; the composition is Keras' ImageDataGenerator's")
class Affine(Augmentation):
    """The image turned, sheared, zoomed and shifted at random; bilinear, beyond the border its mirror image.

    Everything is uniform and about the centre of the image. Where an output pixel comes from, in pixels from the
    centre with rows first: turn · (shear · zoom · pixel + shift). The published training uses the same but for the
    centre, which an older Keras has off by up to a pixel.

    Args:
        rotation: up to so many degrees either way.
        shear: up to so many degrees either way. Keras' ``shear_range=0.2`` is 0.2 degrees: next to nothing.
        zoom: factors in [1 − zoom, 1 + zoom], one for rows and one for columns.
        shift: up to so many pixels either way, not whole ones, along rows and along columns.
    """

    rotation: float = 10.0
    shear: float = 0.2
    zoom: float = 0.2
    shift: float = 8.0

    def __post_init__(self) -> None:
        if not (self.rotation >= 0 and self.shear >= 0 and self.shift >= 0 and 0 <= self.zoom < 1):
            raise UsageError(f"{self} has an impossible range. Write ranges ≥ 0 and zoom < 1, such as Affine(10.0).")

    def __call__(self, x: Tensor, rng: Stream) -> Tensor:
        if not (self.rotation or self.shear or self.zoom or self.shift):
            return x  # bit for bit, which no interpolation is
        u = torch.rand(6, len(x), generator=rng.generator(), dtype=torch.float64) * 2 - 1
        turned = turn(math.radians(self.rotation) * u[0])
        sheared = skew(math.radians(self.shear) * u[1])
        zoomed = torch.diag_embed(1 + self.zoom * u[2:4].T)
        shifted = turned @ (self.shift * u[4:6].T)[:, :, None]
        return warp(x, turned @ sheared @ zoomed, shifted[:, :, 0])


def turn(angle: Tensor) -> Tensor:
    """Rotations (B, 2, 2) of (row, column) by angles (B,) in radians."""
    sin, cos = angle.sin(), angle.cos()
    return torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)


def skew(angle: Tensor) -> Tensor:
    """Keras' shears (B, 2, 2) of (row, column) by angles (B,) in radians: the column axis leans."""
    sin, cos, zero = angle.sin(), angle.cos(), torch.zeros_like(angle)
    return torch.stack([torch.stack([zero + 1, -sin], -1), torch.stack([zero, cos], -1)], -2)


def warp(x: Tensor, linear: Tensor, shift: Tensor) -> Tensor:
    """Images whose pixel at p, in pixels (row, column) from the centre, is that of ``x`` at linear · p + shift.

    Args:
        x: images (B, C, H, W); between pixels bilinear, beyond the border its mirror image with the edge repeated.
        linear: (B, 2, 2), float64.
        shift: (B, 2) in pixels, float64.
    """
    height, width = x.shape[2:]
    # The grid has columns first, and counts in half images.
    half = torch.tensor([width / 2, height / 2], dtype=torch.float64)
    theta = torch.cat([linear.flip(1, 2) * half / half[:, None], (shift.flip(1) / half)[:, :, None]], 2)
    # In float64: in float32 the places themselves are off by about a millionth of a pixel.
    grid = F.affine_grid(theta.to(x.device), list(x.shape), align_corners=False)
    found = F.grid_sample(x.double(), grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return found.to(x.dtype)


PUBLISHED = {
    "mnist": (),
    "mnist, code": (Affine(10.0, 0.2, 0.2, 4.0),),
    "fashion-mnist": (Affine(10.0, 0.2, 0.2, 4.0), Flip()),
    "cifar10": (Affine(10.0, 0.2, 0.2, 8.0), Flip()),
}
"""Ge et al. 2020, Table 7. It says none for MNIST, where the published code has one, and less for Fashion-MNIST."""
