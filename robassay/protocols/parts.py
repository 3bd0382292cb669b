"""What the protocols have in common: an attack with what it may ask, and evaluations in slices."""

from __future__ import annotations

from dataclasses import dataclass, replace

from robassay.access import Access, Attack, White
from robassay.cell import Model
from robassay.cells import Craft, Examples, Score
from robassay.goals import Aim, Untargeted
from robassay.policy import Once, Policy
from robassay.study import Evaluation
from robassay.threat import Threat

WHITE, UNTARGETED, ONCE = White(), Untargeted(), Once()
SLICE = 100
"""Images per cell, so that several workers share an evaluation."""


@dataclass(frozen=True)
class Means:
    """What an attacker does, within what, knowing what, to what end.

    Args:
        attack, threat, access, aim: as in :class:`~robassay.cells.Craft`.
    """

    attack: Attack
    threat: Threat
    access: Access | None = WHITE
    aim: Aim = UNTARGETED

    def at(self, eps: float) -> Means:
        """The same with another radius."""
        return replace(self, threat=replace(self.threat, eps=eps))

    def on(self, sources: tuple[Model, ...], images: Examples) -> tuple[Craft, ...]:
        """What it makes of the images, slice by slice, with the losses of all sources summed."""
        return tuple(
            Craft(sources, part, self.attack, self.threat, self.access, self.aim) for part in images.slices(SLICE)
        )


def judged(target: Model, crafts: tuple[Craft, ...], policy: Policy = ONCE, repeats: int = 20) -> Evaluation:
    """Decisions of fresh draws about attacked images."""
    return tuple(Score(target, craft, policy, repeats) for craft in crafts)


def clean(target: Model, images: Examples, policy: Policy = ONCE, repeats: int = 20) -> Evaluation:
    """Decisions of fresh draws about the images themselves."""
    return tuple(Score(target, part, policy, repeats) for part in images.slices(SLICE))
