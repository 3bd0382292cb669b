"""How a network is trained: values that a training run is named by."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from robassay.augment import Augmentation
from robassay.defences.adversarial import AdversarialTraining
from robassay.errors import UsageError
from robassay.registry import part


@part
class Recipe:
    """How a network is trained.

    The learning rate of epoch e and step i, both from 0 and i counted through all epochs, is
    lr · gamma^k / (1 + decay · i). Here k is ⌊e / step⌋, or the number of milestones that e has reached.

    Args:
        epochs: passes over the training images.
        batch: images per step.
        optimizer: "adam" or "sgd".
        lr: learning rate, > 0.
        momentum: factor of sgd on the sum of past gradients, in [0, 1).
        nesterov: whether sgd's momentum looks ahead.
        weight_decay: factor ≥ 0 of the L2 penalty on all weights.
        step: epochs between two changes of the learning rate; None keeps it.
        gamma: factor on the learning rate at each change; with milestones also one factor for each of them.
        adversary: attacks every batch; None trains on unchanged images.
        keep: the weights of the epoch with the "best" validation accuracy (under the adversary if there is one; of
            equal epochs the last), or of the "last" epoch.
        milestones: epochs, from 0 and rising, at whose start the learning rate changes; instead of ``step``.
        decay: of the learning rate, per step, as Keras has it.
        fresh: begin with a new optimiser, without momentum, whenever ``step`` or ``milestones`` change the learning
            rate, as Adv-BNN does.
        temperature: > 0, divides the logits in the loss. An adversary, the validation and whoever uses the trained
            network see them undivided.
        augment: changes of the training images, in this order and anew at every step, before an adversary sees them.
            Validation images stay as they are.
    """

    kind: ClassVar[str] = "recipes"
    epochs: int = 10
    batch: int = 128
    optimizer: Literal["adam", "sgd"] = "adam"
    lr: float = 1e-3
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    step: int | None = None
    gamma: float | tuple[float, ...] = 0.1
    adversary: AdversarialTraining | None = None
    keep: Literal["best", "last"] = "best"
    milestones: tuple[int, ...] = ()
    decay: float = 0.0
    fresh: bool = False
    temperature: float = 1.0
    augment: tuple[Augmentation, ...] = ()

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1 or (self.step is not None and self.step < 1):
            raise UsageError("a recipe needs epochs ≥ 1, batch ≥ 1 and step ≥ 1 (or None), such as Recipe(epochs=10).")
        if not self.lr > 0:
            raise UsageError(f"lr={self.lr} is no learning rate. Write a positive number, such as lr=1e-3.")
        if not self.weight_decay >= 0 or not 0 <= self.momentum < 1 or (self.nesterov and not self.momentum):
            raise UsageError("a recipe needs weight_decay ≥ 0, 0 ≤ momentum < 1, and with nesterov a momentum above 0.")
        if self.optimizer not in ("adam", "sgd"):
            raise UsageError(f"optimizer={self.optimizer!r} is not known. Write 'adam' or 'sgd'.")
        if self.keep not in ("best", "last"):
            raise UsageError(f"keep={self.keep!r} is not known. Write keep='best' or keep='last'.")
        if not self.temperature > 0:
            raise UsageError(f"temperature={self.temperature} must be positive. Write temperature=1.0 for none.")
        if self.adversary is not None and self.adversary.warmup >= self.epochs:
            raise UsageError(
                f"the adversary waits for warmup={self.adversary.warmup} of {self.epochs} epochs, so it never attacks. "
                "Write a shorter warmup, or adversary=None."
            )
        if not (isinstance(self.augment, tuple) and all(isinstance(a, Augmentation) for a in self.augment)):
            raise UsageError(f"augment={self.augment!r} is no tuple of augmentations. Write augment=(Crop(), Flip()).")
        self._check_schedule()

    def _check_schedule(self) -> None:
        if self.step is not None and self.milestones:
            raise UsageError(
                f"step={self.step} and milestones={self.milestones} both change the learning rate. "
                "Write one of them: step for equal distances, milestones for a list of epochs."
            )
        if any(b <= a for a, b in zip((0, *self.milestones), self.milestones, strict=False)):
            raise UsageError(
                f"milestones={self.milestones} are not rising epochs from 1 on. Write them in order, such as (60, 120)."
            )
        if any(not g > 0 for g in (self.gamma if isinstance(self.gamma, tuple) else (self.gamma,))):
            raise UsageError(f"gamma={self.gamma} would stop or turn round the training. Write factors above 0.")
        if isinstance(self.gamma, tuple) and len(self.gamma) != len(self.milestones):
            raise UsageError(
                f"gamma={self.gamma} has {len(self.gamma)} factors for {len(self.milestones)} milestones. "
                "Write one for each, such as milestones=(101, 142), gamma=(0.2, 0.5)."
            )
        if not self.decay >= 0:
            raise UsageError(f"decay={self.decay} would let the learning rate grow. Write decay=0.0 or more.")
        if self.fresh and self.step is None and not self.milestones:
            raise UsageError(
                "fresh=True starts a new optimiser where the learning rate changes, and it never does. "
                "Give step or milestones, too, or leave fresh out."
            )

    def changes(self, epoch: int) -> int:
        """How often ``step`` or ``milestones`` have changed the learning rate by ``epoch``, counted from 0."""
        if self.step is not None:
            return epoch // self.step
        return sum(milestone <= epoch for milestone in self.milestones)

    def turns(self, epoch: int) -> bool:
        """Whether ``step`` or ``milestones`` change the learning rate at the start of ``epoch``, counted from 0."""
        return epoch > 0 and self.changes(epoch) > self.changes(epoch - 1)

    def rate(self, epoch: int, iteration: int = 0) -> float:
        """The learning rate of an ``epoch`` and of a step (``iteration``), from 0; steps count through all epochs."""
        changes = self.changes(epoch)
        fall = math.prod(self.gamma[:changes]) if isinstance(self.gamma, tuple) else self.gamma**changes
        return self.lr * fall / (1 + self.decay * iteration)
