"""A data set, models and an attack for the translucent box: who is fooled by what is known beforehand.

A file of its own: its text is in the key of every cell that uses it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from robassay.access import Attack, GradientAccess
from robassay.cell import Model, cell
from robassay.classifier import Classifier
from robassay.data import Images
from robassay.portions import Portion


@dataclass(frozen=True)
class Blank:
    """Black images of four pixels, the last of which tells them apart; labels 0, 1, 0, 1 …"""

    kind: ClassVar[str] = "data"
    name: ClassVar[str] = "blank"
    checksum: ClassVar[str] = "blank"
    note: ClassVar[str] = ""
    classes: ClassVar[int] = 10
    shape: ClassVar[tuple[int, int, int]] = (1, 1, 4)

    def split(self, name):
        x = torch.zeros(16, 1, 1, 4, dtype=torch.uint8)
        x[:, 0, 0, 3] = torch.arange(16)
        return Images(x, torch.arange(16) % 2)


class Weak(Classifier):
    """Follows a mark in the first pixel where the second one, as a byte, reaches a threshold; else class 0."""

    classes = 10

    def __init__(self, threshold: int, refuses: bool) -> None:
        super().__init__()
        self.threshold, self.refuses = threshold, refuses

    def draw(self, h):
        mark, strength = h.flatten(1)[:, 0] * 255, (h.flatten(1)[:, 1] * 255 + 1e-3).floor()
        label = torch.where((mark > 0.5) & (strength >= 10 + self.threshold), mark.round().long(), 0)
        return 3 * torch.nn.functional.one_hot(label, 10) - 1 + 0 * h.flatten(1)[:, :1]

    def alarms(self, x):
        return torch.full((len(x), 1), 1.0 if self.refuses else -1.0)


@cell
class Spot(Model):
    """A model of known weakness: ``seed`` modulo eight, and ``more``."""

    data: Portion
    seed: int
    more: int = 0
    refuses: bool = False

    def compute(self, ctx):
        return {"none": torch.zeros(1)}

    def open(self, ctx):
        return Weak(self.seed % 8 + self.more, self.refuses)


@dataclass(frozen=True)
class Marks(Attack):
    """Marks the target; image j gets strength j modulo 8, half of it where one model is attacked alone.

    Half a byte is missing, so that the strength is what it should be after rounding only. The third pixel sets the
    size: L2 .2 in images 0–3 and 8–11, .6 in the others.
    """

    access = GradientAccess
    gives_up: bool = False

    def __call__(self, access, x, goal, threat, rng):
        if self.gives_up:
            return x.clone()
        j = torch.arange(len(x))
        strength = j % 8 if len(access.models) > 1 else j % 8 // 2
        made = x.clone().flatten(1)
        made[:, 0], made[:, 1] = goal.labels / 255, (10 + strength - 0.4) / 255
        made[:, 2] = torch.where(j % 8 < 4, 0.2, 0.6)
        return made.reshape(x.shape)
