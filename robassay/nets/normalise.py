"""Normalisation inside a network, so that attacks and norms see pixels in [0,1]."""

from __future__ import annotations

from typing import Literal, final, get_args

import torch
from torch import Tensor, nn

from robassay.errors import UsageError
from robassay.nets.backbone import Shape

Preset = Literal["cifar10", "cifar10-image-std", "cifar10-wide", "half", "mnist"]
"""Named constants. "cifar10" has the standard deviations of all pixels of the training images, "cifar10-image-std" the
mean of those of single images, which much published code uses in their place, "cifar10-wide" larger ones, which keep
most pixels within −1 and 1 (Lee et al. 2020); "half" maps [0,1] to [−1,1] (SVHN)."""

_CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
_CONSTANTS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "cifar10": (_CIFAR10_MEAN, (0.2470, 0.2435, 0.2616)),
    "cifar10-image-std": (_CIFAR10_MEAN, (0.2023, 0.1994, 0.2010)),
    "cifar10-wide": (_CIFAR10_MEAN, (0.557, 0.549, 0.5534)),
    "half": ((0.5,), (0.5,)),
    "mnist": ((0.1307,), (0.3081,)),
}


@final
class Normalise(nn.Module):
    """(x − mean) / std per channel, for images (B, C, H, W).

    Args:
        mean, std: one value per channel, or one for all.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).reshape(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def check_preset(name: str, preset: Preset | None) -> None:
    """Raise UsageError unless there is such a preset."""
    if preset is not None and preset not in get_args(Preset):
        known = ", ".join(map(repr, get_args(Preset)))
        raise UsageError(f"{name} was given normalise={preset!r}; it knows {known} and None.")


def normalisation(name: str, preset: Preset | None, shape: Shape) -> list[nn.Module]:
    """The first layer of a network for images of ``shape`` (C, H, W): one :class:`Normalise`, or nothing for None.

    Raises:
        UsageError: the preset is for another number of channels.
    """
    if preset is None:
        return []
    mean, std = _CONSTANTS[preset]
    if len(mean) not in (1, shape[0]) or (preset == "mnist" and shape[0] != 1):
        raise UsageError(
            f"{name}: normalise={preset!r} is for {len(mean)} channels, the images have {shape[0]}. "
            "Write normalise='half', which suits any number, or None."
        )
    return [Normalise(mean, std)]
