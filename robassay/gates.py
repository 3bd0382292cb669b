"""Transfer: what an attack does to models it never saw, over the images on which it worked where it was made.

Rates are ratios over images: the unit is the image, with all its targets and draws. Source: Ge et al. 2020, §4.3 and
§5.2 (Multi-8, validation by other held-out models); Tan et al. 2020, Table III (images that fool the source).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robassay.errors import UsageError
from robassay.folds import Fold, Rows, blocks
from robassay.intervals import Estimate, rate, ratio

Within = tuple[float, float]
"""L2 distances (low, high]; images that the attack moved by other distances do not count."""
ANY = (0.0, math.inf)


@dataclass(frozen=True)
class Gated(Fold):
    """The attack's success on the first evaluation, over the images that pass a gate of the others.

    An image passes when it fools at least ``pass_at`` of the other evaluations, each in more than ``above`` of its
    draws; pass_at = 0 lets all images pass that the attack changed. Empty (n = 0) when none passes.

    Args:
        pass_at: how many of the gates.
        above: share of a gate's draws.
        within: distances that count.
    """

    pass_at: int = 1
    above: float = 0.5
    within: Within = ANY

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        return _pooled([(evaluations[0], evaluations[1:])], self.pass_at, self.above, self.within)


@dataclass(frozen=True)
class Rotations(Fold):
    """Every evaluation is the target once, gated by the others of its group; the rate is over all rotations.

    Evaluations come in groups of ``size``, one group per attack, all on the same images. With pass_at = 0 there is no
    gate: the transfer of an attack, or of several, to every held-out model.

    Args:
        size: evaluations of a group.
        pass_at, above, within: as in :class:`Gated`.

    Raises:
        UsageError: the gate cannot be passed, as fewer than ``pass_at`` others are there.
    """

    size: int
    pass_at: int = 0
    above: float = 0.5
    within: Within = ANY

    def __post_init__(self) -> None:
        if not 0 <= self.pass_at < self.size:
            raise UsageError(
                f"pass_at={self.pass_at} of the {self.size - 1} models that are left when one of {self.size} is the "
                f"target can never be met. Hold out more models, or write pass_at={max(0, self.size - 1)} or less."
            )

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        if len(evaluations) % self.size:
            raise UsageError(f"{len(evaluations)} evaluations are no whole number of groups of {self.size}.")
        groups = [evaluations[i : i + self.size] for i in range(0, len(evaluations), self.size)]
        trials = [(target, [*group[:i], *group[i + 1 :]]) for group in groups for i, target in enumerate(group)]
        return _pooled(trials, self.pass_at, self.above, self.within)


@dataclass(frozen=True)
class Joint(Fold):
    """Share of draws, one of each evaluation, in which the attack has what it wants of all of them."""

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        same_images(evaluations)
        draws = min((len(one.decisions) for one in evaluations if len(one.decisions) > 1), default=1)
        fooled = [one.fooled()[:draws] for one in evaluations]
        return rate(np.prod(np.broadcast_arrays(*fooled), axis=0), blocks(evaluations))


def _pooled(trials: Sequence[tuple[Rows, Sequence[Rows]]], pass_at: int, above: float, within: Within) -> Estimate:
    """Successes over trials, a trial being a gated image on one target."""
    same_images([rows for target, gates in trials for rows in (target, *gates)])
    successes, weights = [], []
    for target, gates in trials:
        opened = passed(gates, pass_at, above) & _moved(target, within)
        weights.append(opened.astype(np.float64))
        successes.append(target.fooled() * opened)
    shared = blocks([target for target, _ in trials])
    return ratio(successes, np.sum(weights, axis=0), shared)


def passed(gates: Sequence[Rows], pass_at: int, above: float) -> NDArray[np.bool_]:
    """(N,): which images fool at least ``pass_at`` of the gates, each in more than ``above`` of its draws."""
    if pass_at == 0:
        return np.ones(1, dtype=bool)  # whatever their number
    return np.sum([gate.fooled().mean(0) > above for gate in gates], axis=0) >= pass_at


def _moved(rows: Rows, within: Within) -> NDArray[np.bool_]:
    low, high = within
    return (rows.linf > 0) & (rows.l2 > low) & (rows.l2 <= high)


def same_images(evaluations: Sequence[Rows]) -> None:
    first = evaluations[0]
    for other in evaluations[1:]:
        if not np.array_equal(other.labels, first.labels):
            raise UsageError(
                f"the evaluations are of different images ({len(first.labels)} and {len(other.labels)} of them, or in "
                "another order). Judge every target on the same images."
            )
