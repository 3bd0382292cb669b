"""Orderings that a paper states, as one number: by how much the weakest of several paired comparisons is ahead.

NumPy only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from robassay.errors import UsageError
from robassay.folds import Fold, Rows, blocks, same_images, worst
from robassay.intervals import Estimate, Matrix, difference, mean, rate

Kind = Literal["more", "shorter", "sure"]
"""What a comparison compares, see :class:`Leads`."""
NOTHING = Estimate(math.nan, math.nan, math.nan, 0)


@dataclass(frozen=True)
class Leads(Fold):
    """The least lead of several comparisons, so that it is above 0 only where all of them are.

    A comparison has two sides; each is ``of`` attacks on one model, of which the worst per image counts (chosen on
    other draws), and the model's decisions about the clean images. Evaluations come side by side: attacks, clean,
    attacks, clean, and so on; both sides of a comparison have the same images. Its lead is

    - "more": success of the first side less that of the second, over images that both models get right when clean;
    - "shorter": over images that both fool in at least half of the launches (by their first attack), the share where
      the first side's change has the smaller L2 size, less the share where it has the larger one;
    - "sure": success of the first side, less 1.

    To each lead what it is allowed is added: "almost as often" is "more" with 0.2. The interval's ends are the least of
    the ends. Without spared comparisons the lower end needs no correction for their number; the upper one is the
    bolder the more there are, and so is the lower one where the worst are spared.

    Args:
        kinds: of each comparison.
        allowed: added to each lead, ≥ 0.
        spare: so many of the comparisons that are allowed nothing may point the other way: the least of them are left
            out, of values and of ends.
        of: attacks on a side.

    Raises:
        UsageError: kinds and allowances do not match, or ``spare`` leaves nothing.
    """

    kinds: tuple[Kind, ...]
    allowed: tuple[float, ...]
    spare: int = 0
    of: int = 1

    def __post_init__(self) -> None:
        strange = [kind for kind in self.kinds if kind not in get_args(Kind)]
        if strange or len(self.kinds) != len(self.allowed) or min(self.allowed, default=-1) < 0 or self.of < 1:
            raise UsageError(
                f"Leads(kinds={self.kinds}, allowed={self.allowed}, of={self.of}) is no list of comparisons. Write a "
                f"kind of {', '.join(get_args(Kind))} and an allowance ≥ 0 for each."
            )
        if not 0 <= self.spare < max(1, self.allowed.count(0)):
            raise UsageError(
                f"spare={self.spare} leaves none of {self.allowed.count(0)} comparisons. Write a smaller one."
            )

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        side = self.of + 1
        if len(evaluations) != 2 * side * len(self.kinds):
            raise UsageError(
                f"{len(evaluations)} evaluations are not two sides of {side} for {len(self.kinds)} comparisons."
            )
        found = []
        for i, kind in enumerate(self.kinds):
            start = 2 * side * i
            one, other = evaluations[start : start + side], evaluations[start + side : start + 2 * side]
            found.append(_lead(kind, one, other))
        if any(lead.n == 0 for lead in found):
            return NOTHING
        return self._least([_raised(lead, more) for lead, more in zip(found, self.allowed, strict=True)])

    def _least(self, leads: list[Estimate]) -> Estimate:
        """Of values and of ends the least, but for those that are spared."""
        strict = [lead for lead, allowed in zip(leads, self.allowed, strict=True) if allowed == 0]
        others = [lead for lead, allowed in zip(leads, self.allowed, strict=True) if allowed > 0]

        def least(field: int) -> float:
            kept = sorted(lead[field] for lead in strict)[self.spare :]
            return min(*kept, *(lead[field] for lead in others), math.inf)

        return Estimate(least(0), least(1), least(2), min(lead.n for lead in leads))


@dataclass(frozen=True)
class Union(Fold):
    """Success rate of several attacks, the worst per image (chosen on other draws), over images right when clean.

    Evaluations: the attacks, then the clean images.
    """

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        return _success(evaluations)


@dataclass(frozen=True)
class PerPixel(Fold):
    """Mean L2 size of the change, by the number of values of an image and times 1,000 (Tan et al. 2020, Table IIb).

    Over images that are right when clean and of which at least one launch is fooled. Evaluations: attacked, clean.

    Args:
        values: C · H · W.
    """

    values: int

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        same_images(evaluations)
        attacked, clean = evaluations
        counted = _right(clean) & (attacked.fooled().max(0) > 0)
        return mean(1000 * attacked.l2[counted] / self.values)


def _lead(kind: Kind, one: Sequence[Rows], other: Sequence[Rows]) -> Estimate:
    if kind == "sure":
        return _raised(_success(one), -1.0)
    same_images([*one, *other])
    if kind == "shorter":
        both = (one[0].fooled().mean(0) >= 0.5) & (other[0].fooled().mean(0) >= 0.5)
        a, b = one[0].l2[both], other[0].l2[both]
        return difference((a < b)[None].astype(np.float64), (a > b)[None].astype(np.float64))
    kept = _right(one[-1]) & _right(other[-1])
    if not kept.any():
        return NOTHING
    shared = blocks([*one, *other])
    ahead, behind = (_fooled(side[:-1])[:, kept] for side in (one, other))
    return difference(ahead, behind, None if shared is None else shared[kept])


def _success(side: Sequence[Rows]) -> Estimate:
    same_images(side)
    kept, shared = _right(side[-1]), blocks(side)
    if not kept.any():
        return NOTHING
    return rate(_fooled(side[:-1])[:, kept], None if shared is None else shared[kept])


def _right(clean: Rows) -> np.ndarray:
    """(N,): a majority of draws is right."""
    return clean.survives().mean(0) > 0.5


def _fooled(attacks: Sequence[Rows]) -> Matrix:
    """(R, N), 1 where the worst attack has what it wants. An image that it left alone is a failure of the attack."""
    if len(attacks) == 1:
        return attacks[0].fooled()
    judged = [
        rows._replace(decisions=np.where(rows.fooled() > 0, rows.decisions, rows.labels).astype(np.int16))
        for rows in attacks
    ]
    return 1 - worst(judged)


def _raised(lead: Estimate, more: float) -> Estimate:
    return Estimate(lead.value + more, lead.low + more, lead.high + more, lead.n)
