"""Aims: how an attacker chooses the goal of a batch from its true labels."""

from __future__ import annotations

import abc
from typing import ClassVar

import torch
from torch import Tensor

from robassay.access import GradientAccess, Opened
from robassay.errors import UsageError
from robassay.registry import part
from robassay.rng import Stream, uniform
from robassay.threat import Goal


class Aim(abc.ABC):
    """Makes the goal of a batch from its true labels."""

    kind: ClassVar[str] = "goals"

    @abc.abstractmethod
    def goal(self, labels: Tensor, classes: int, opened: Opened | None, x: Tensor, rng: Stream) -> Goal:
        """The goal for true ``labels`` int64 (B,)."""


@part
class Untargeted(Aim):
    """Any wrong label, ``kappa`` logits above the true one."""

    kappa: float = 0.0

    def goal(self, labels: Tensor, classes: int, opened: Opened | None, x: Tensor, rng: Stream) -> Goal:
        return Goal(labels, kappa=self.kappa)


@part
class RandomTarget(Aim):
    """A class other than the true one, drawn uniformly per image; an image's does not depend on its batch mates.

    Args:
        kappa: confidence margin that a minimum-distance attack must reach, in logit units; of the other aims, too.
    """

    version: ClassVar[int] = 2
    kappa: float = 0.0

    def goal(self, labels: Tensor, classes: int, opened: Opened | None, x: Tensor, rng: Stream) -> Goal:
        shift = 1 + (uniform(x, rng).flatten(1)[:, 0] * (classes - 1)).long().clamp_max(classes - 2)
        return Goal((labels + shift) % classes, targeted=True, kappa=self.kappa)


@part
class GivenTarget(Aim):
    """One class for all images.

    Args:
        target: the wanted class.
        instead: the wanted class of images that are of class ``target``; None refuses such images.
        kappa: as in :class:`RandomTarget`.

    Raises (when used):
        UsageError: a class that the model has not, or with instead=None an image of class ``target``.
    """

    target: int
    instead: int | None = None
    kappa: float = 0.0

    def __post_init__(self) -> None:
        if self.instead == self.target:
            raise UsageError(f"instead={self.instead} is the target itself. Write another class, or None.")

    def goal(self, labels: Tensor, classes: int, opened: Opened | None, x: Tensor, rng: Stream) -> Goal:
        wanted = [c for c in (self.target, self.instead) if c is not None]
        if not 0 <= min(wanted) <= max(wanted) < classes:
            raise UsageError(f"{self} asks for a class that is not there: the model has classes 0 to {classes - 1}.")
        same = labels == self.target
        if self.instead is None and same.any():
            raise UsageError(
                f"{int(same.sum())} of {len(labels)} images are of class {self.target}, which is the target: they "
                f"would count as won unattacked. Leave them out, or write GivenTarget({self.target}, instead=…)."
            )
        targets = torch.full_like(labels, self.target)
        return Goal(torch.where(same, self.instead or 0, targets), targeted=True, kappa=self.kappa)


@part(source="Kurakin et al. 2017")
class LeastLikely(Aim):
    """The class with the smallest mean logit over ``draws`` on the clean image; the true class is never taken.

    Args:
        kappa: as in :class:`RandomTarget`.

    Raises (when used):
        UsageError: the access has no logits.
    """

    draws: int = 10
    kappa: float = 0.0

    def goal(self, labels: Tensor, classes: int, opened: Opened | None, x: Tensor, rng: Stream) -> Goal:
        if not isinstance(opened, GradientAccess):
            raise UsageError("LeastLikely asks the model for logits: use it with White access.")
        mean = opened.logits(x, rng, self.draws).mean(0)
        least = mean.scatter(-1, labels[:, None], float("inf")).argmin(-1)
        return Goal(least, targeted=True, kappa=self.kappa)


@part(source="Ge et al. 2020; published code")
class UnlikePredictions(Aim):
    """A class drawn uniformly from those that are neither true nor what an attacked model predicts, one draw each.

    Where every other class is predicted by some model, from all but the true one. The number that chooses depends on
    the image alone; the predictions of a random model are one draw for the batch.

    Args:
        kappa: as in :class:`RandomTarget`.

    Raises (when used):
        UsageError: the access has no logits.
    """

    kappa: float = 0.0

    def goal(self, labels: Tensor, classes: int, opened: Opened | None, x: Tensor, rng: Stream) -> Goal:
        if not isinstance(opened, GradientAccess):
            raise UsageError("UnlikePredictions asks the models for logits: use it with White access.")
        others = torch.ones(len(labels), classes, dtype=torch.bool, device=labels.device)
        others.scatter_(1, labels[:, None], False)
        predicted = opened.logits(x, rng.child("predictions")).argmax(-1)
        left = others.scatter(1, predicted.T, False)
        left = torch.where(left.any(1, keepdim=True), left, others)
        count = left.sum(1)
        chosen = (uniform(x, rng.child("choice")).flatten(1)[:, 0] * count).long().clamp_max(count - 1)
        targets = (left.cumsum(1) > chosen[:, None]).int().argmax(1)
        return Goal(targets, targeted=True, kappa=self.kappa)
