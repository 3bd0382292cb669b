"""MagNet: auto-encoders that move an image towards the training images, and others that detect what lies far off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor, nn

from robassay.classifier import Classifier
from robassay.defences.autoencoders import AutoEncoder
from robassay.errors import RobassayError, UsageError
from robassay.registry import part


@dataclass(frozen=True)
class Detector:
    """A score of how much an auto-encoder changes an image.

    Args:
        encoder: the auto-encoder; every detector has one of its own.
        score: "l2", the mean squared difference of the pixels (not a norm); "l1", the mean absolute one; or "jsd",
            the Jensen-Shannon divergence of the network's softmax before and after.
        temperature: divides the logits of "jsd".
    """

    encoder: AutoEncoder
    score: Literal["l2", "l1", "jsd"]
    temperature: float = 10.0

    def __post_init__(self) -> None:
        if self.score not in ("l2", "l1", "jsd"):
            raise UsageError(f"score={self.score!r} is not known. Write 'l2', 'l1' or 'jsd'.")
        if not self.temperature > 0:
            raise UsageError(f"temperature={self.temperature} must be positive. Write temperature=10.0.")

    def of(self, x: Tensor, changed: Tensor, network: Classifier) -> Tensor:
        """Scores (B,) of images ``x`` and what the auto-encoder made of them, both (B, C, H, W)."""
        if self.score == "l2":
            return (x - changed).square().flatten(1).mean(1)
        if self.score == "l1":
            return (x - changed).abs().flatten(1).mean(1)
        # The network's noise is off: a detector that drew its own luck would refuse an image now and then.
        before, after = (network.quiet(network.prefix(image)) for image in (x, changed))
        return divergence(after / self.temperature, before / self.temperature)


@part(name="magnet", source="Meng and Chen 2017; settings of Ge et al. 2020, §A.1")
class MagNet:
    """A reforming auto-encoder in front of a trained network, and detectors that refuse images.

    It goes around a trained network, in the papers the Dropout one: see :func:`robassay.defended.guard`, which trains
    the auto-encoders. The defaults are those for MNIST, :data:`PUBLISHED` has the others. Published (Ge et al. 2020)
    on MNIST, Fashion-MNIST, CIFAR-10: test error .87, 5.36, 5.52 %, mean L2 of CW 2.22, .28, .29.

    Args:
        reformer: the auto-encoder in front.
        detectors: any one of them refuses an image.
        fpr: share of validation images that each detector alone refuses.
    """

    kind: ClassVar[str] = "defences"
    reformer: AutoEncoder = AutoEncoder("I")
    detectors: tuple[Detector, ...] = (Detector(AutoEncoder("I"), "l2"), Detector(AutoEncoder("II"), "l1"))
    fpr: float = 0.001

    def __post_init__(self) -> None:
        if not 0 < self.fpr < 1:
            raise UsageError(f"fpr={self.fpr} is no false positive rate. Write a value in (0, 1), such as fpr=0.001.")

    def around(
        self, inner: Classifier, reformer: nn.Module, encoders: Sequence[nn.Module], thresholds: Tensor
    ) -> Guard:
        """``inner`` behind trained auto-encoders: ``reformer``, and ``encoders``, one per detector.

        ``thresholds`` (detectors,) say above which score each detector refuses an image.
        """
        return Guard(inner, reformer, self.detectors, encoders, thresholds)


_SMALL = AutoEncoder("II", noise=0.025, epochs=400)
_COLOUR = MagNet(
    _SMALL, (Detector(_SMALL, "l1"), Detector(_SMALL, "jsd", 10.0), Detector(_SMALL, "jsd", 40.0)), fpr=0.004
)
PUBLISHED = {"mnist": MagNet(), "fashion-mnist": _COLOUR, "cifar10": _COLOUR}
"""Ge et al. 2020, §A.1; the temperatures as in the published code, the paper's text has lost them."""


@final
class Guard(Classifier):
    """A classifier of reformed images that refuses what a detector finds too far off.

    Args:
        inner: the network.
        reformer: images (B, C, H, W) → images.
        detectors: how they score.
        encoders: the detectors' auto-encoders.
        thresholds: (detectors,); a score at its threshold is refused.
    """

    thresholds: Tensor

    def __init__(
        self,
        inner: Classifier,
        reformer: nn.Module,
        detectors: Sequence[Detector],
        encoders: Sequence[nn.Module],
        thresholds: Tensor,
    ) -> None:
        super().__init__()
        if not len(detectors) == len(encoders) == len(thresholds):
            raise UsageError(
                f"{len(detectors)} detectors were given {len(encoders)} auto-encoders and {len(thresholds)} "
                "thresholds. Each detector needs one of both."
            )
        self.inner, self.reformer, self.detectors = inner, reformer, tuple(detectors)
        self.encoders = nn.ModuleList(encoders)
        self.register_buffer("thresholds", thresholds)
        self.classes, self.stochastic = inner.classes, inner.stochastic
        self.rows, self.coupled = inner.rows, inner.coupled

    def prefix(self, x: Tensor) -> Tensor:
        """The reformed image, and the inner network's prefix."""
        return self.inner.prefix(self.reformer(x).clamp(0, 1))

    def draw(self, h: Tensor) -> Tensor:
        return self.inner.draw(h)

    def quiet(self, h: Tensor) -> Tensor:
        return self.inner.quiet(h)

    def scores(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) → the detectors' scores (B, detectors)."""
        pairs = zip(self.detectors, self.encoders, strict=True)
        columns = [detector.of(x, encoder(x), self.inner)[:, None] for detector, encoder in pairs]
        return torch.cat([x.new_zeros(len(x), 0), *columns], 1)

    def alarms(self, x: Tensor) -> Tensor:
        return self.scores(x) - self.thresholds


def divergence(one: Tensor, other: Tensor) -> Tensor:
    """Jensen-Shannon divergence in nats of the softmax of two sets of logits (B, C) → (B,), from 0 to ln 2."""
    p, q = one.log_softmax(-1), other.log_softmax(-1)
    middle = torch.logaddexp(p, q) - math.log(2)
    return ((p.exp() * (p - middle)).sum(-1) + (q.exp() * (q - middle)).sum(-1)) / 2


def threshold(scores: Tensor, fpr: float) -> Tensor:
    """The k-th largest of validation ``scores`` (N,), k = ⌊N · fpr⌋: k of them are at it or above, more if some tie.

    Raises:
        UsageError: N · fpr < 1; there is no 0-th largest score.
        RobassayError: a score is not finite.
    """
    if not scores.isfinite().all():
        raise RobassayError(
            f"{int((~scores.isfinite()).sum())} of {len(scores)} validation scores are not finite: no threshold can be "
            "read off them. Look for an overflow in the network or in the auto-encoder."
        )
    k = math.floor(len(scores) * fpr + 1e-9)  # 100 · .29 is 28.999…
    if k < 1:
        least = math.ceil(1e4 / max(len(scores), 1)) / 1e4
        raise UsageError(
            f"fpr={fpr:g} of {len(scores)} validation images is less than one image: no threshold keeps it. "
            f"Use {math.ceil(1 / fpr)} validation images, or fpr={least:g} or more."
        )
    return scores.topk(k).values[-1]
