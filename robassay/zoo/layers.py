"""What the zoo puts around trained networks: the ways in which an evaluation is led astray, and their plain twins."""

from __future__ import annotations

import abc
import math
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from robassay.classifier import Classifier
from robassay.rules import BackwardRule, acting, chosen

LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
"""Quantisation table of ITU-T T.81, Annex K.1, for quality 50."""


class Around(Classifier):
    """A classifier around another one, as random as that."""

    def __init__(self, inner: Classifier) -> None:
        super().__init__()
        self.inner = inner
        self.classes, self.stochastic = inner.classes, inner.stochastic
        self.rows, self.coupled = inner.rows, inner.coupled


@final
class Times(Around):
    """Logits times a factor: the same decisions, a saturated softmax."""

    def __init__(self, inner: Classifier, factor: float) -> None:
        super().__init__(inner)
        self.factor = factor

    def prefix(self, x: Tensor) -> Tensor:
        return self.inner.prefix(x)

    def draw(self, h: Tensor) -> Tensor:
        return self.factor * self.inner.draw(h)

    def quiet(self, h: Tensor) -> Tensor:
        return self.factor * self.inner.quiet(h)


@final
class Tempered(Around):
    """softmax(logits / temperature) as the output, as networks with their softmax inside have it."""

    def __init__(self, inner: Classifier, temperature: float) -> None:
        super().__init__(inner)
        self.temperature = temperature

    def prefix(self, x: Tensor) -> Tensor:
        return self.inner.prefix(x)

    def draw(self, h: Tensor) -> Tensor:
        return (self.inner.draw(h) / self.temperature).softmax(-1)

    def quiet(self, h: Tensor) -> Tensor:
        return (self.inner.quiet(h) / self.temperature).softmax(-1)


@final
class Behind(Around):
    """A classifier behind a change of its images, (B, C, H, W) → (B, C', H, W)."""

    def __init__(self, inner: Classifier, front: nn.Module) -> None:
        super().__init__(inner)
        self.front = front

    def prefix(self, x: Tensor) -> Tensor:
        return self.inner.prefix(self.front(x))

    def draw(self, h: Tensor) -> Tensor:
        return self.inner.draw(h)

    def quiet(self, h: Tensor) -> Tensor:
        return self.inner.quiet(h)


@final
class Ruling(Around):
    """A classifier whose steps are differentiated by ``rule``, unless an attacker chose another one."""

    def __init__(self, inner: Classifier, rule: BackwardRule) -> None:
        super().__init__(inner)
        self.rule = rule

    def prefix(self, x: Tensor) -> Tensor:
        with acting(chosen() or self.rule):
            return self.inner.prefix(x)

    def draw(self, h: Tensor) -> Tensor:
        with acting(chosen() or self.rule):
            return self.inner.draw(h)

    def quiet(self, h: Tensor) -> Tensor:
        with acting(chosen() or self.rule):
            return self.inner.quiet(h)


# ------------------------------------------------------------------------------------------------- changes of images


class Front(nn.Module, abc.ABC):
    """A change of images whose gradient is 0, as that of every rounding.

    Args:
        straight: the gradient passes as if nothing had been changed (BPDA, Athalye et al. 2018).
    """

    def __init__(self, straight: bool = False) -> None:
        super().__init__()
        self.straight = straight

    @abc.abstractmethod
    def changed(self, x: Tensor) -> Tensor:
        """The changed images (B, C, H, W), same shape."""

    def forward(self, x: Tensor) -> Tensor:
        seen = self.changed(x)
        return x + (seen - x).detach() if self.straight else seen


@final
class Levels(Front):
    """Pixels rounded to ``steps`` + 1 levels from 0 to 1: bit depth. Source: Xu et al. 2018."""

    def __init__(self, steps: int, straight: bool = False) -> None:
        super().__init__(straight)
        self.steps = steps

    def changed(self, x: Tensor) -> Tensor:
        return (x * self.steps).round() / self.steps


@final
class Jpeg(Front):
    """JPEG of grey images of 8 × 8 pixels, each of which is one block: what is lost is the rounding of its cosines.

    Args:
        quality: 1 to 100; scales the table as libjpeg does.
        straight: see :class:`Front`.
    """

    cosines: Tensor
    table: Tensor

    def __init__(self, quality: int, straight: bool = False) -> None:
        super().__init__(straight)
        scale = 5000 // quality if quality < 50 else 200 - 2 * quality
        table = ((torch.tensor(LUMINANCE) * scale + 50) // 100).clamp(1, 255).float()
        place = torch.arange(8.0)
        cosines = (math.pi * place[:, None] * (2 * place + 1) / 16).cos() / 2
        cosines[0] /= math.sqrt(2)
        self.register_buffer("cosines", cosines, persistent=False)
        self.register_buffer("table", table, persistent=False)

    def changed(self, x: Tensor) -> Tensor:
        centred = (255 * x).round() - 128
        kept = (self.cosines @ centred @ self.cosines.T / self.table).round() * self.table
        seen = (self.cosines.T @ kept @ self.cosines + 128).round().clamp(0, 255)
        return seen / 255


@final
class Thermometer(nn.Module):
    """Every pixel as ``levels`` bits, bit k = 1[x > (k + ½) / levels]: (B, C, H, W) → (B, C · levels, H, W).

    Args:
        levels: bits of a pixel.
        soft: bit k rises linearly from 0 to 1 over k / levels … (k + 1) / levels; the sum of the bits is then the
            pixel. Otherwise the gradient is 0.

    Source: Buckman et al. 2018.
    """

    def __init__(self, levels: int, soft: bool = False) -> None:
        super().__init__()
        self.levels, self.soft = levels, soft

    def forward(self, x: Tensor) -> Tensor:
        place = torch.arange(self.levels, device=x.device, dtype=x.dtype)[:, None, None]
        height = x[:, :, None] * self.levels - place
        bits = (height - 0.5).sign().clamp_min(0)
        slope = height.clamp(0, 1)
        return (slope + (bits - slope).detach() if self.soft else bits).flatten(1, 2)


class _Disturbed(torch.autograd.Function):
    """The identity, whose gradient gets noise of ``size`` times its own length."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, size: float) -> Tensor:
        ctx.size = size
        return x.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (gradient,) = grads
        length = gradient.flatten(1).norm(dim=1).view(-1, *[1] * (gradient.dim() - 1))
        noise = torch.randn_like(gradient)
        return gradient + ctx.size * length / math.sqrt(gradient[0].numel()) * noise, None


@final
class NoisyBackward(nn.Module):
    """Images as they are; only the gradient is disturbed, by noise of ``size`` times its length in every direction."""

    def __init__(self, size: float) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        disturbed: Tensor = _Disturbed.apply(x, self.size)
        return disturbed


@final
class Winners(nn.Module):
    """k winners take all: of the units (B, …) of an image the largest ``share`` stays, the rest is 0.

    Source: Xiao et al. 2020.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        least = flat.topk(max(1, round(self.share * flat.shape[1])), 1).values[:, -1:]
        return torch.where(flat >= least, flat, 0.0).view_as(x)
