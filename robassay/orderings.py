"""Orderings of defences under many attacks: who is fooled more, who stands stiller, whose changes must be longer.

The images are those of the evaluation with the most; one with fewer of the same has no trial on the others. Of several
comparisons the least is told, and of their ends the least, as in :class:`~robassay.contrasts.Contrasts`. NumPy only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robassay.errors import UsageError
from robassay.folds import Fold, Rows, blocks, padded, same_images, worst
from robassay.gates import ANY, Crossed, Lead, Rotations, Within, counted
from robassay.intervals import Estimate, Matrix, ahead, difference

NOTHING = Estimate(math.nan, math.nan, math.nan, 0)
Pairs = tuple[tuple[int, int], ...]
"""Comparisons: the first of two groups is claimed to be ahead of the second."""


def split(evaluations: Sequence[Rows], sizes: Sequence[int]) -> list[list[Rows]]:
    """Groups that follow each other. Raises UsageError where the sizes do not add up."""
    if sum(sizes) != len(evaluations):
        raise UsageError(f"groups of {list(sizes)} need {sum(sizes)} evaluations, not {len(evaluations)}.")
    ends = np.cumsum(sizes)
    return [list(evaluations[end - size : end]) for end, size in zip(ends, sizes, strict=True)]


def least(found: Sequence[Estimate], allowed: Sequence[float]) -> Estimate:
    """The least value and ends, each with what it is allowed; nothing where one comparison has no image."""
    if any(one.n == 0 or math.isnan(one.value) for one in found):
        return NOTHING
    raised = [(one.value + more, one.low + more, one.high + more) for one, more in zip(found, allowed, strict=True)]
    value, low, high = (min(one[i] for one in raised) for i in range(3))
    return Estimate(value, low, high, min(one.n for one in found))


def check_pairs(pairs: Pairs, allowed: Sequence[float], groups: int) -> None:
    """Raise UsageError for pairs of groups that are not there."""
    if len(allowed) != len(pairs) or not pairs or not all(0 <= k < groups for pair in pairs for k in pair):
        raise UsageError(
            f"pairs={pairs} with allowed={tuple(allowed)} are no comparisons of {groups} groups. Write pairs of their "
            "numbers from 0 and a number for each, such as pairs=((0, 1),), allowed=(0.0,)."
        )


@dataclass(frozen=True)
class Passing(Fold):
    """By how much some transfers succeed more often than others: differences of :class:`~robassay.gates.Crossed`.

    A group is what a heat map has in a column, or in part of one: for every attack ``size`` targets and as many gates.

    Args:
        sizes: evaluations of each group.
        size: targets of an attack.
        pairs: which group against which.
        allowed: added to each difference, such as .1 for "nearly".
        pass_at, above, within: as in Crossed.

    Raises:
        UsageError: pairs of groups that are not there.
    """

    sizes: tuple[int, ...]
    size: int
    pairs: Pairs
    allowed: tuple[float, ...]
    pass_at: int = 0
    above: float = 0.5
    within: Within = ANY

    def __post_init__(self) -> None:
        check_pairs(self.pairs, self.allowed, len(self.sizes))
        Crossed(self.size, self.pass_at)

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        evaluations = padded(evaluations)
        crossed = Crossed(self.size, self.pass_at)
        sides = [
            counted(crossed.trials(group), self.pass_at, self.above, self.within)
            for group in split(evaluations, self.sizes)
        ]
        shared = blocks(evaluations)
        return least([ahead(sides[i], sides[j], shared) for i, j in self.pairs], self.allowed)


@dataclass(frozen=True)
class Fooled(Fold):
    """By how much the worst of some attacks fools more often than the worst of others; several models each.

    Per image and model the attack that counts is chosen on one half of the draws and judged on the other, among those
    whose change is within the distance: no gate, and no attack has a larger threat than another.

    Args:
        sizes: evaluations of each group, model by model.
        models: of each group.
        pairs, allowed: as in :class:`Passing`.
        within: L2 distances that count.
    """

    sizes: tuple[int, ...]
    models: tuple[int, ...]
    pairs: Pairs
    allowed: tuple[float, ...]
    within: Within = ANY

    def __post_init__(self) -> None:
        check_pairs(self.pairs, self.allowed, len(self.sizes))
        if len(self.models) != len(self.sizes) or any(
            m < 1 or n % m for n, m in zip(self.sizes, self.models, strict=False)
        ):
            raise UsageError(
                f"{self.sizes} evaluations are not as many for each of {self.models} models. Give every model the same."
            )

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        groups = split(padded(evaluations), self.sizes)
        sides = [union(group, models, self.within) for group, models in zip(groups, self.models, strict=True)]
        return least([difference(sides[i], sides[j]) for i, j in self.pairs], self.allowed)


def union(group: Sequence[Rows], models: int, within: Within) -> Matrix:
    """(1, N): share of models and draws that each image's worst attack within a distance fools."""
    each = len(group) // models
    found = []
    for start in range(0, len(group), each):
        judged = [_withheld(rows, within) for rows in group[start : start + each]]
        found.append(1 - worst(judged).mean(0))
    total: Matrix = np.mean(found, axis=0)[None]
    return total


def _withheld(rows: Rows, within: Within) -> Rows:
    """Decisions where the attack has what it wants by a change of the right size; elsewhere the true label."""
    low, high = within
    counts = (rows.fooled() > 0) & (rows.l2 > low) & (rows.l2 <= high)
    return rows._replace(decisions=np.where(counts, rows.decisions, rows.labels).astype(np.int16))


@dataclass(frozen=True)
class Fading(Fold):
    """A lead of :class:`Fooled` or :class:`Passing` in one data set, less that in another; independent images.

    Both have two groups. The intervals' distances are added as squares (Zou and Donner 2008).

    Args:
        sizes: evaluations of the four groups: first and second of one data set, then of the other.
        models: of each data set; targets of an attack where there are gates.
        pass_at: gates to pass in each data set; −1 for the worst of all attacks instead of gates.
        within: distances in each data set.
    """

    sizes: tuple[int, int, int, int]
    models: tuple[int, int]
    pass_at: tuple[int, int]
    within: tuple[Within, Within]

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        cut = sum(self.sizes[:2])
        parts = (evaluations[:cut], evaluations[cut:])
        one, other = (self._lead(k, part) for k, part in enumerate(parts))
        if not one.n or not other.n:
            return NOTHING
        low = math.hypot(one.value - one.low, other.high - other.value)
        high = math.hypot(one.high - one.value, other.value - other.low)
        gap = one.value - other.value
        return Estimate(gap, gap - low, gap + high, min(one.n, other.n))

    def _lead(self, k: int, evaluations: Sequence[Rows]) -> Estimate:
        sizes, models, within = self.sizes[2 * k : 2 * k + 2], self.models[k], self.within[k]
        if self.pass_at[k] < 0:
            return Fooled(sizes, (models, models), ((0, 1),), (0.0,), within)(evaluations)
        return Passing(sizes, models, ((0, 1),), (0.0,), self.pass_at[k], within=within)(evaluations)


@dataclass(frozen=True)
class Pooled(Fold):
    """:class:`~robassay.gates.Rotations` over attacks on more and on fewer of the same images."""

    size: int
    pass_at: int = 0
    within: Within = ANY

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        return Rotations(self.size, self.pass_at, within=self.within)(padded(evaluations))


@dataclass(frozen=True)
class Ranked(Fold):
    """Three strategies in one order: validated ≥ joint ≥ single, the lesser of both :class:`~robassay.gates.Lead`.

    Args:
        split: evaluations of the joint strategy, the others are those of the single one.
        size: unseen models per attack.
        pass_at, within: as in Rotations; the gate is that of the validated strategy.
    """

    split: int
    size: int
    pass_at: int
    within: Within = ANY

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        evaluations = padded(evaluations)
        joint, single = evaluations[: self.split], evaluations[self.split :]
        steps = (
            Lead(len(joint), self.size, self.size, self.pass_at, 0, within=self.within)([*joint, *joint]),
            Lead(len(joint), self.size, self.size, 0, 0, within=self.within)([*joint, *single]),
        )
        return least(steps, (0.0, 0.0))


@dataclass(frozen=True)
class Longer(Fold):
    """The share of images that one model needs a longer change for than another, less the share where it is shorter.

    A model's distance to an image is the L2 size of the shortest change, of several attacks, that fools it in half of
    the fresh draws; where attacks are on several models at once, it must fool each of them. Infinite where none does.

    Args:
        sizes: evaluations of each group, attack by attack.
        models: of each group, per attack.
        pairs: which group is claimed to need the longer changes.
    """

    sizes: tuple[int, ...]
    models: tuple[int, ...]
    pairs: Pairs

    def __post_init__(self) -> None:
        Fooled(self.sizes, self.models, self.pairs, (0.0,) * len(self.pairs))

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        groups = split(evaluations, self.sizes)
        far = [_distance(group, models) for group, models in zip(groups, self.models, strict=True)]
        found = []
        for i, j in self.pairs:
            n = min(len(far[i]), len(far[j]))
            one, other = far[i][:n], far[j][:n]
            same_images([_first(groups[k][0], n) for k in (i, j)])
            found.append(difference((one > other)[None].astype(float), (one < other)[None].astype(float)))
        return least(found, (0.0,) * len(found))


def _first(rows: Rows, n: int) -> Rows:
    return rows._replace(labels=rows.labels[:n])


def _distance(group: Sequence[Rows], models: int) -> Matrix:
    """(N,) over the images that all attacks of the group have; infinite where none succeeds."""
    n = min(len(rows.labels) for rows in group)
    found = np.full(n, math.inf)
    for start in range(0, len(group), models):
        own = group[start : start + models]
        good = np.all([rows.fooled().mean(0)[:n] >= 0.5 for rows in own], axis=0)
        found = np.where(good, np.minimum(found, own[0].l2[:n]), found)
    return found


@dataclass(frozen=True)
class NoData(Fold):
    """Nothing: the images that a claim is about are not here."""

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        return NOTHING
