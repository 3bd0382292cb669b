"""Staged scoring: a few draws choose each image's strongest attacks, many fresh ones judge only those."""

from __future__ import annotations

import numpy as np
import torch

from robassay.cell import Arrays, Context, cell
from robassay.cells import Attacked, Examples, Score
from robassay.errors import UsageError
from robassay.threat import REJECT

COUNTS = ("queries", "draws", "gradients")


@cell
class Finalist(Attacked):
    """For every image, what the ``place``-th strongest of several attacks has made of it.

    Strength is the share of wrong decisions in the heats' few draws, ties by the order of the heats. Draws that chose
    must not judge: score a finalist, which draws afresh.

    Args:
        heats: scores of one model on attacked images, all of the same examples.
        on: these examples.
        place: 0 for the strongest.
    """

    runs_network = False

    heats: tuple[Score, ...]
    on: Examples
    place: int = 0

    def __post_init__(self) -> None:
        if any(not isinstance(heat.on, Attacked) or heat.examples != self.on for heat in self.heats):
            raise UsageError("a finalist is chosen among attacked images of one range: give scores of such.")
        if not 0 <= self.place < len(self.heats):
            raise UsageError(f"place={self.place}, but {len(self.heats)} attacks compete. Write 0 to one less.")

    def compute(self, ctx: Context) -> Arrays:
        wrong = np.stack([_wrong(ctx.load(heat)) for heat in self.heats])
        chosen = np.argsort(-wrong, axis=0, kind="stable")[self.place]
        found: dict[str, np.ndarray] = {}
        for place, heat in enumerate(self.heats):
            assert isinstance(heat.on, Attacked)
            rows, made = chosen == place, ctx.load(heat.on)
            for name in ("x_adv", "x", "targets", *COUNTS):
                found.setdefault(name, np.zeros_like(made[name]))[rows] = made[name][rows]
        return {**{name: torch.from_numpy(value) for name, value in found.items()}, "heat": torch.from_numpy(chosen)}


def _wrong(heat: dict[str, np.ndarray]) -> np.ndarray:
    """Share (N,) of the draws that neither decide rightly nor refuse."""
    decisions = heat["decisions"]
    return ((decisions != heat["labels"]) & (decisions != REJECT)).mean(0)
