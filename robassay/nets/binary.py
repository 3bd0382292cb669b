"""Layers whose weights and inputs are signs; real ("latent") weights behind them collect the gradients.

The gradient of a sign is passed on unchanged: what limits it is the Hardtanh in front of a layer and, for weights,
the clipping of the latent ones after every step. Source: Hubara et al. 2016 and the published code of that paper.
"""

from __future__ import annotations

import abc
from typing import Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robassay.nets.noisy import Noise
from robassay.nets.ops import ONE_HALF, random_sign, sign

Zero = Literal[0, 1]


@final
class Sign(nn.Module):
    """The sign of every input (B, …); ``zero`` is the sign of 0."""

    def __init__(self, zero: Zero) -> None:
        super().__init__()
        self.zero = zero

    def forward(self, x: Tensor) -> Tensor:
        return sign(x, ONE_HALF, self.zero)


@final
class RandomSign(Noise):
    """1 with probability (clip(x, −1, 1) + 1) / 2, else −1; silent, the sign, ``zero`` for 0."""

    def __init__(self, zero: Zero) -> None:
        super().__init__()
        self.zero = zero

    def noisy(self, x: Tensor) -> Tensor:
        return random_sign(x, ONE_HALF)

    def silent(self, x: Tensor) -> Tensor:
        return sign(x, ONE_HALF, self.zero)


class Binary(nn.Module, abc.ABC):
    """A layer with latent weights.

    Args:
        weight: the latent weights.
        binariser: of the weights and, unless it is off, of the input.
        binarize_input: whether the input is binarised, too.
    """

    def __init__(self, weight: Tensor, binariser: Sign | RandomSign, binarize_input: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.binariser = binariser
        self.binarize_input = binarize_input

    @abc.abstractmethod
    def apply_weight(self, x: Tensor, weight: Tensor) -> Tensor:
        """The layer's output for an input (B, …) and effective weights."""

    def forward(self, x: Tensor) -> Tensor:
        return self.apply_weight(self.binariser(x) if self.binarize_input else x, self.binariser(self.weight))

    @torch.no_grad()
    def clip(self) -> None:
        """Latent weights back into [−1, 1]."""
        for latent in self.parameters(recurse=False):
            latent.clamp_(-1, 1)


@final
class BinaryConv(Binary):
    """Convolution without a bias, (B, Cin, H, W) → (B, Cout, H', W'); zeros around the image stay zeros.

    Args:
        before, after: channels.
        kernel: side length of the kernel; the padding is half of it.
        stride: of the kernel.
        binariser, binarize_input: see :class:`Binary`.
    """

    def __init__(
        self,
        before: int,
        after: int,
        kernel: int,
        stride: int,
        binariser: Sign | RandomSign,
        binarize_input: bool = True,
    ) -> None:
        # Standard deviation by the fan-out, as published.
        weight = torch.randn(after, before, kernel, kernel) * (2 / (kernel**2 * after)) ** 0.5
        super().__init__(weight, binariser, binarize_input)
        self.stride, self.padding = stride, kernel // 2

    def apply_weight(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(x, weight, stride=self.stride, padding=self.padding)


@final
class BinaryLinear(Binary):
    """Linear layer, (B, before) → (B, after); its bias is real, and clipped like the weights."""

    def __init__(self, before: int, after: int, binariser: Sign | RandomSign) -> None:
        initial = nn.Linear(before, after)
        super().__init__(initial.weight.detach(), binariser, True)
        self.bias = nn.Parameter(initial.bias.detach())

    def apply_weight(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight, self.bias)
