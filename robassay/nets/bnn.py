"""Binarised residual networks: weights and activations are signs, deterministic or random."""

from __future__ import annotations

import abc
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal, final

from torch import Tensor, nn

from robassay.classifier import Classifier, Net
from robassay.errors import UsageError
from robassay.nets.backbone import Shape, check_side
from robassay.nets.binary import Binary, BinaryConv, BinaryLinear, RandomSign, Sign, Zero
from robassay.nets.noisy import silence
from robassay.nets.normalise import Preset, check_preset, normalisation
from robassay.registry import part

BLOCKS = 2
"""Residual blocks of a stage."""

Binariser = Sign | RandomSign


@dataclass(frozen=True)
class BinarisedNet(Net):
    """What both variants have in common: the description of their layers."""

    label: ClassVar[str]
    widths: tuple[int, int, int] = (80, 160, 320)
    binarize_input: Literal["auto", False] = "auto"
    sign_zero: Zero = 0
    normalise: Preset | None = None

    def __post_init__(self) -> None:
        if len(self.widths) != 3 or min(self.widths) < 1:
            raise UsageError(f"{self.label} was given widths={self.widths}; it has three stages: widths=(80, 160, 320)")
        if self.binarize_input not in ("auto", False) or self.sign_zero not in (0, 1):
            raise UsageError(f"{self.label} needs binarize_input='auto' or False, and sign_zero=0 or 1.")
        check_preset(self.label, self.normalise)

    @abc.abstractmethod
    def binariser(self) -> Binariser:
        """What makes signs of weights and activations."""

    @final
    def layers(self, shape: Shape, classes: int) -> nn.Sequential:
        """Images of ``shape`` (C, H, W) → logits (B, classes)."""
        check_side(self.label, shape, 4)
        signs, first, last = self.binariser(), self.widths[0], self.widths[-1]
        # The published layers leave an input of exactly three channels as it is, and no other.
        binarize_input = self.binarize_input == "auto" and shape[0] != 3
        blocks = []
        for stage, (before, after) in enumerate(pairwise((first, *self.widths))):
            for i in range(BLOCKS):
                final_block = stage == len(self.widths) - 1 and i == BLOCKS - 1
                stride = 2 if stage and not i else 1
                blocks.append(Block(after if i else before, after, stride, signs, final_block))
        return nn.Sequential(
            *normalisation(self.label, self.normalise, shape),
            BinaryConv(shape[0], first, 3, 1, signs, binarize_input),
            nn.BatchNorm2d(first),
            nn.Hardtanh(),
            *blocks,
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.BatchNorm1d(last),
            nn.Hardtanh(),
            BinaryLinear(last, classes, signs),
            nn.BatchNorm1d(classes),
        )


@part(name="bnn-d", source="Tan et al. 2020, App. A4; Hubara et al. 2016; layers of the latter's published code")
class BNND(BinarisedNet):
    """Binarised residual network of three stages with two blocks each; images from 4 × 4 pixels.

    With ten classes it has 4,338,030 parameters for three channels and 4,336,590 for one. An input of one channel is
    binarised, too, so that the network sees whether a pixel is above 0: published results depend on it.

    Args:
        widths: channels of the stages.
        binarize_input: "auto" binarises an image unless it has three channels; False never does.
        sign_zero: the sign of 0.
        normalise: preset of the first layer.
    """

    label: ClassVar[str] = "bnn-d"

    def binariser(self) -> Binariser:
        return Sign(self.sign_zero)

    def build(self, shape: Shape, classes: int) -> Classifier:
        return BinarisedClassifier(self.layers(shape, classes), classes, False)


@part(name="bnn-s", source="Tan et al. 2020, App. A4; Courbariaux et al. 2016, eq. 2")
class BNNS(BinarisedNet):
    """Binarised residual network whose weights and activations are drawn in every pass; images from 4 × 4 pixels.

    The layers are those of bnn-d; x becomes 1 with probability (clip(x, −1, 1) + 1) / 2, else −1. The latent weights
    stay as they are. It learns far more slowly than bnn-d: a small latent weight is nearly a fair coin.

    Args:
        widths: channels of the stages.
        binarize_input: "auto" binarises an image unless it has three channels; False never does.
        sign_zero: the sign of 0 where nothing is drawn.
        normalise: preset of the first layer.
        test_mode: "stochastic" also draws in evaluation mode, as Tan et al. do; "deterministic" takes signs there, as
            Hubara et al. do.
    """

    label: ClassVar[str] = "bnn-s"
    test_mode: Literal["stochastic", "deterministic"] = "stochastic"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.test_mode not in ("stochastic", "deterministic"):
            raise UsageError(f"test_mode={self.test_mode!r} is not known. Write 'stochastic' or 'deterministic'.")

    def binariser(self) -> Binariser:
        return RandomSign(self.sign_zero)

    def build(self, shape: Shape, classes: int) -> Classifier:
        return BinarisedClassifier(self.layers(shape, classes), classes, self.test_mode == "stochastic")


@final
class Block(nn.Module):
    """Two convolutions and a shortcut, (B, before, H, W) → (B, after, H/stride, W/stride).

    The normalisation behind the second convolution comes after the sum, and the network's final block has none. The
    shortcut carries real numbers.

    Args:
        before, after: channels.
        stride: of the first convolution.
        signs: the binariser.
        final_block: whether this is the last of the network.
    """

    def __init__(self, before: int, after: int, stride: int, signs: Binariser, final_block: bool) -> None:
        super().__init__()
        self.conv1 = BinaryConv(before, after, 3, stride, signs)
        self.norm1 = nn.BatchNorm2d(after)
        self.conv2 = BinaryConv(after, after, 3, 1, signs)
        # Never used in the final block; kept because it is among the published number of parameters.
        self.norm2 = nn.BatchNorm2d(after)
        self.shortcut = nn.Sequential()
        if stride != 1 or before != after:
            self.shortcut.extend([BinaryConv(before, after, 1, stride, signs), nn.BatchNorm2d(after)])
        self.window = nn.Hardtanh()
        self.final_block = final_block

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv2(self.window(self.norm1(self.conv1(x)))) + self.shortcut(x)
        return y if self.final_block else self.window(self.norm2(y))


@final
class BinarisedClassifier(Classifier):
    """The layers of a :class:`BinarisedNet`, whose latent weights are clipped after every step.

    Drawn weights serve a whole batch, so the rows share noise.

    Args:
        layers: images (B, C, H, W) → logits (B, classes).
        classes: number of logits.
        stochastic: whether signs are drawn in evaluation mode; in training mode their modules decide.
    """

    rows = "shared"

    def __init__(self, layers: nn.Sequential, classes: int, stochastic: bool) -> None:
        super().__init__()
        self.layers = layers
        self.classes, self.stochastic = classes, stochastic

    def draw(self, h: Tensor) -> Tensor:
        with nullcontext() if self.stochastic or self.training else silence():
            logits: Tensor = self.layers(h)
        return logits

    def quiet(self, h: Tensor) -> Tensor:
        """Signs in the place of draws."""
        with silence():
            logits: Tensor = self.layers(h)
        return logits

    def after_step(self, rate: float) -> None:
        for module in self.layers.modules():
            if isinstance(module, Binary):
                module.clip()
