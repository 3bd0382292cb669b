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
from robassay.folds import Fold, Rows, blocks, same_images
from robassay.intervals import Estimate, Matrix, ahead, mean, rate, ratio

Within = tuple[float, float]
"""L2 distances (low, high]; images that the attack moved by other distances do not count."""
ANY = (0.0, math.inf)
Trial = tuple[Rows, Sequence[Rows]]
"""A target and the gates in front of it."""


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
        _check_gate(self.size, self.pass_at)

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        return _pooled(self.trials(evaluations), self.pass_at, self.above, self.within)

    def trials(self, evaluations: Sequence[Rows]) -> list[Trial]:
        """Every target with its gates."""
        return [
            (target, [*group[:i], *group[i + 1 :]])
            for group in _groups(evaluations, self.size)
            for i, target in enumerate(group)
        ]


@dataclass(frozen=True)
class Crossed(Fold):
    """Every model of one kind is the target once, gated by the models of another kind but the one of its place.

    Evaluations come in groups of twice ``size``, one group per attack: the targets, then as many gates. Where both are
    the same evaluations this is :class:`Rotations`.

    Args:
        size: targets of a group.
        pass_at, above, within: as in :class:`Gated`.
    """

    size: int
    pass_at: int = 0
    above: float = 0.5
    within: Within = ANY

    def __post_init__(self) -> None:
        _check_gate(self.size, self.pass_at)

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        return _pooled(self.trials(evaluations), self.pass_at, self.above, self.within)

    def trials(self, evaluations: Sequence[Rows]) -> list[Trial]:
        """Every target with its gates."""
        found: list[Trial] = []
        for group in _groups(evaluations, 2 * self.size):
            targets, gates = group[: self.size], group[self.size :]
            found += [(target, [*gates[:i], *gates[i + 1 :]]) for i, target in enumerate(targets)]
        return found


@dataclass(frozen=True)
class Lead(Fold):
    """Rate of one :class:`Rotations` minus that of another, paired by image.

    Args:
        split: the first so many evaluations are the first one's, the others the second one's.
        size, pass_at: of the first.
        than_size, than_at: of the second.
        above, within: of both, as in :class:`Gated`.
    """

    split: int
    size: int
    than_size: int
    pass_at: int = 0
    than_at: int = 0
    above: float = 0.5
    within: Within = ANY

    def __post_init__(self) -> None:
        _check_gate(self.size, self.pass_at)
        _check_gate(self.than_size, self.than_at)

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        ours = Rotations(self.size, self.pass_at).trials(evaluations[: self.split])
        theirs = Rotations(self.than_size, self.than_at).trials(evaluations[self.split :])
        same_images([target for target, _ in (*ours, *theirs)])
        one = counted(ours, self.pass_at, self.above, self.within)
        other = counted(theirs, self.than_at, self.above, self.within)
        return ahead(one, other, blocks(evaluations))


@dataclass(frozen=True)
class MeanAccuracy(Fold):
    """Accuracy averaged over the evaluations, which are of several models on the same images."""

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        return _averaged(evaluations, [rows.survives() for rows in evaluations])


@dataclass(frozen=True)
class Reached(Fold):
    """Share of draws in which the attacks have what they wanted, over all images: where one found nothing it failed."""

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        return _averaged(evaluations, [rows.fooled() for rows in evaluations])


@dataclass(frozen=True)
class Changed(Fold):
    """Share of the images that the attacks changed: those for which they took something for a success."""

    within: Within = ANY

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        moved = [_moved(rows, self.within)[None].astype(np.float64) for rows in evaluations]
        return _averaged(evaluations, moved, judged=False)


@dataclass(frozen=True)
class Moved(Fold):
    """Mean L2 size of what the attacks changed; several attacks on one image are averaged first."""

    within: Within = ANY

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        same_images(evaluations)
        moved = np.array([_moved(rows, self.within) for rows in evaluations])
        lengths = np.array([rows.l2 for rows in evaluations])
        count = moved.sum(0)
        return mean((lengths * moved).sum(0)[count > 0] / count[count > 0])


@dataclass(frozen=True)
class Joint(Fold):
    """Share of draws, one of each evaluation, in which the attack has what it wants of all of them."""

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        same_images(evaluations)
        draws = min((len(one.decisions) for one in evaluations if len(one.decisions) > 1), default=1)
        fooled = [one.fooled()[:draws] for one in evaluations]
        return rate(np.prod(np.broadcast_arrays(*fooled), axis=0), blocks(evaluations))


def _averaged(evaluations: Sequence[Rows], hits: Sequence[Matrix], judged: bool = True) -> Estimate:
    """Mean of ``hits`` (R, N) of every evaluation over all images; ``judged`` unless no draw of a judge is in them."""
    same_images(evaluations)
    trials = np.full(len(evaluations[0].labels), float(len(evaluations)))
    return ratio(hits, trials, blocks(evaluations) if judged else None)


def _check_gate(size: int, pass_at: int) -> None:
    if not 0 <= pass_at < size:
        raise UsageError(
            f"pass_at={pass_at} of the {size - 1} models that are left when one of {size} is the "
            f"target can never be met. Hold out more models, or write pass_at={max(0, size - 1)} or less."
        )


def _groups(evaluations: Sequence[Rows], size: int) -> list[Sequence[Rows]]:
    if len(evaluations) % size:
        raise UsageError(f"{len(evaluations)} evaluations are no whole number of groups of {size}.")
    return [evaluations[i : i + size] for i in range(0, len(evaluations), size)]


def _pooled(trials: Sequence[Trial], pass_at: int, above: float, within: Within) -> Estimate:
    """Successes over trials, a trial being a gated image on one target."""
    same_images([rows for target, gates in trials for rows in (target, *gates)])
    return ratio(*counted(trials, pass_at, above, within), blocks([target for target, _ in trials]))


def counted(trials: Sequence[Trial], pass_at: int, above: float, within: Within) -> tuple[list[Matrix], Matrix]:
    """Successes (R, N) of every target, 0 where an image is no trial of it, and the number of trials (N,)."""
    models = {id(rows): rows for target, gates in trials for rows in (target, *gates)}
    fooled = {name: rows.fooled() for name, rows in models.items()}
    opens = {name: hit.mean(0) > above for name, hit in fooled.items()}
    successes, weights = [], []
    for target, gates in trials:
        opened = _moved(target, within)
        if pass_at > 0:  # else all pass, whatever the number of gates
            opened = opened & (np.sum([opens[id(gate)] for gate in gates], axis=0) >= pass_at)
        weights.append(opened.astype(np.float64))
        successes.append(fooled[id(target)] * opened)
    return successes, np.sum(weights, axis=0)


def _moved(rows: Rows, within: Within) -> NDArray[np.bool_]:
    low, high = within
    return (rows.linf > 0) & (rows.l2 > low) & (rows.l2 <= high)
