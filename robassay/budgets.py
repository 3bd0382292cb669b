"""What the three budgets of an audit mean."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from robassay.errors import UsageError

Budget = Literal["quick", "standard", "thorough"]


@dataclass(frozen=True)
class Effort:
    """What a budget means.

    Args:
        steps, restarts: of a gradient attack.
        random_steps, random_restarts: the same of a random model, whose every step averages the gradients of ``draws``.
        draws: see there.
        adequate_draws: of the attack that has enough of what was claimed.
        queries: of Square.
        samples: of the random search in the ball.
        searched: draws that a search without gradients averages for one question where gradients reach the image, too;
            it asks thousands, and averages its leader's.
        walk: decisions per image of an attack that sees nothing else; 0 for none.
        lessons: images that the small CNN learns from, epochs times images; fewer of larger images.
        agreed: agreement with the model after which it stops, where gradients reach the image; None for never.
        settled: fresh draws, all wrong, after which an image of a random model is left alone by a gradient attack.
        onwards: whether the battery leaves alone what the adequate attack has broken for certain, and on a random model
            a last attack begins at each image's strongest.
    """

    steps: int
    restarts: int
    random_steps: int
    random_restarts: int
    draws: int
    adequate_draws: int
    queries: int
    samples: int
    walk: int
    lessons: int
    searched: int = 5
    settled: int = 0
    agreed: float | None = None
    onwards: bool = False

    def on(self, stochastic: bool) -> Effort:
        """The effort on a random model, or on another."""
        return dataclasses.replace(self, steps=self.random_steps, restarts=self.random_restarts) if stochastic else self


EFFORT: dict[str, Effort] = {
    "quick": Effort(
        steps=40,
        restarts=2,
        random_steps=40,
        random_restarts=2,
        draws=5,
        adequate_draws=10,
        queries=300,
        samples=100,
        walk=0,
        lessons=40_000,
    ),
    "standard": Effort(
        steps=100,
        restarts=2,
        random_steps=50,
        random_restarts=1,
        draws=10,
        adequate_draws=20,
        queries=1000,
        samples=300,
        walk=1000,
        lessons=60_000,
        searched=3,
        settled=30,
        agreed=0.9,
        onwards=True,
    ),
    "thorough": Effort(
        steps=300,
        restarts=5,
        random_steps=300,
        random_restarts=5,
        draws=20,
        adequate_draws=50,
        queries=5000,
        samples=1000,
        walk=5000,
        lessons=600_000,
        settled=100,
        onwards=True,
    ),
}


def effort_of(budget: str) -> Effort:
    """The effort of a budget.

    Raises:
        UsageError: unknown name.
    """
    if budget not in EFFORT:
        raise UsageError(f"budget='{budget}' is not known. Write quick, standard or thorough.")
    return EFFORT[budget]
