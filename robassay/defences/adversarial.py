"""Adversarial training: learning from images that an attacker has changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Literal

import torch
from torch import Tensor

from robassay.access import Attack, White, check_match
from robassay.attacks.gradient import PGD
from robassay.classifier import Classifier
from robassay.errors import UsageError
from robassay.estimators import Backprop, Estimator
from robassay.registry import part
from robassay.rng import Stream
from robassay.threat import Goal, Threat


@part(name="adversarial", source="Madry et al. 2018; share of clean images: Goodfellow et al. 2015")
class AdversarialTraining:
    """Adversarial training, a recipe's adversary: every batch is attacked with the weights of the moment.

    Args:
        attack: a gradient attack; one that stops at success teaches less than one that goes on.
        threat: what the attacker may change.
        estimator: how the attacker differentiates the classifier.
        clean: weight in [0, 1] of the loss on unchanged images; the rest is the loss on adversarial ones.
        warmup: epochs at the start that learn from unchanged images alone.
        labels: what the attacker of training images leads away from: the "true" labels, or those "predicted" by one
            draw on the unchanged images, as parametric noise injection and Learn2Perturb have it. The loss always
            has the true ones; so has the attacker of validation images.
    """

    kind: ClassVar[str] = "defences"
    attack: Attack = PGD(steps=7, keep="last")
    threat: Threat = Threat("linf", 0.1)
    estimator: Estimator = Backprop()
    clean: float = 0.0
    warmup: int = 0
    labels: Literal["true", "predicted"] = "true"

    def __post_init__(self) -> None:
        check_match(self.attack, White(self.estimator))
        if not 0 <= self.clean <= 1:
            raise UsageError(f"clean={self.clean} is not a share of the loss. Write a value in [0, 1], such as 0.5.")
        if self.warmup < 0:
            raise UsageError(f"warmup={self.warmup} is no number of epochs. Write 0 for none.")
        if self.labels not in ("true", "predicted"):
            raise UsageError(f"labels={self.labels!r} is not known. Write 'true' or 'predicted'.")

    def lessons(self, model: Classifier, x: Tensor, y: Tensor, epoch: int, rng: Stream) -> list[tuple[float, Tensor]]:
        """What ``model`` learns from in an epoch, counted from 0, instead of ``x`` (B, C, H, W) with labels ``y`` (B,).

        Returns:
            Shares of the loss, positive with sum 1, each with its images.
        """
        if epoch < self.warmup or self.clean == 1:
            return [(1.0, x)]
        if self.labels == "predicted":
            with _evaluating(model), torch.no_grad(), rng.child("labels").active():
                y = model(x).argmax(1)
        attacked = (1 - self.clean, self.images(model, x, y, rng))
        return [(self.clean, x), attacked] if self.clean > 0 else [attacked]

    def images(self, model: Classifier, x: Tensor, y: Tensor, rng: Stream) -> Tensor:
        """Adversarial images for ``x`` (B, C, H, W), labels ``y`` (B,), of ``model`` in evaluation mode."""
        with _evaluating(model):
            return self.attack(White(self.estimator).open([model], len(x)), x, Goal(y), self.threat, rng)


@contextmanager
def _evaluating(model: Classifier) -> Iterator[None]:
    """Evaluation mode inside, the mode from before outside."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
