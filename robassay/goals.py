"""Aims: how an attacker chooses the goal of a batch from its true labels."""

from __future__ import annotations

import abc
from typing import ClassVar

import torch
from torch import Tensor

from robassay.access import GradientAccess, Opened
from robassay.errors import UsageError
from robassay.registry import part
from robassay.rng import Stream
from robassay.threat import Goal


class Aim(abc.ABC):
    """Makes the goal of a batch from its true labels."""

    kind: ClassVar[str] = "goals"

    @abc.abstractmethod
    def goal(self, labels: Tensor, classes: int, opened: Opened | None, x: Tensor, rng: Stream) -> Goal:
        """The goal for true ``labels`` int64 (B,)."""


@part
class Untargeted(Aim):
    """Any wrong label."""

    def goal(self, labels: Tensor, classes: int, opened: Opened | None, x: Tensor, rng: Stream) -> Goal:
        return Goal(labels)


@part
class RandomTarget(Aim):
    """A class other than the true one, drawn uniformly per image."""

    def goal(self, labels: Tensor, classes: int, opened: Opened | None, x: Tensor, rng: Stream) -> Goal:
        shift = torch.randint(1, classes, labels.shape, generator=rng.generator()).to(labels.device)
        return Goal((labels + shift) % classes, targeted=True)


@part(source="Kurakin et al. 2017")
class LeastLikely(Aim):
    """The class with the smallest mean logit on the clean image; the true class is never taken."""

    draws: int = 10

    def goal(self, labels: Tensor, classes: int, opened: Opened | None, x: Tensor, rng: Stream) -> Goal:
        if not isinstance(opened, GradientAccess):
            raise UsageError("LeastLikely asks the model for logits: use it with White access.")
        mean = opened.logits(x, rng, self.draws).mean(0)
        return Goal(mean.scatter(-1, labels[:, None], float("inf")).argmin(-1), targeted=True)
