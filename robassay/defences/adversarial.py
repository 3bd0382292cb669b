"""Adversarial training: learning from images that an attacker has changed."""

from __future__ import annotations

from typing import ClassVar

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
    """

    kind: ClassVar[str] = "defences"
    attack: Attack = PGD(steps=7, keep="last")
    threat: Threat = Threat("linf", 0.1)
    estimator: Estimator = Backprop()
    clean: float = 0.0

    def __post_init__(self) -> None:
        check_match(self.attack, White(self.estimator))
        if not 0 <= self.clean <= 1:
            raise UsageError(f"clean={self.clean} is not a share of the loss. Write a value in [0, 1], such as 0.5.")

    def images(self, model: Classifier, x: Tensor, y: Tensor, rng: Stream) -> Tensor:
        """Adversarial images for ``x`` (B, C, H, W), labels ``y`` (B,), of ``model`` in evaluation mode."""
        training = model.training
        model.eval()
        try:
            return self.attack(White(self.estimator).open([model], len(x)), x, Goal(y), self.threat, rng)
        finally:
            model.train(training)
