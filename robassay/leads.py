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
from robassay.intervals import Estimate, Matrix, ahead, difference, mean, rate, ratio

Kind = Literal["more", "shorter", "sure"]
"""What a comparison compares, see :class:`Leads`."""
RESAMPLES = 400
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
        return _least(found, self.allowed, self.spare)


def _least(found: list[Estimate], allowed: tuple[float, ...], spare: int) -> Estimate:
    """Of leads, raised by what they are allowed, the least of values and of ends, but for those that are spared.

    Only leads that are allowed nothing are spared. n = 0 where one comparison had no image.
    """
    if any(lead.n == 0 for lead in found):
        return NOTHING
    leads = [_raised(lead, more) for lead, more in zip(found, allowed, strict=True)]
    strict = [lead for lead, more in zip(leads, allowed, strict=True) if more == 0]
    others = [lead for lead, more in zip(leads, allowed, strict=True) if more > 0]

    def least(field: int) -> float:
        kept = sorted(lead[field] for lead in strict)[spare:]
        return min(*kept, *(lead[field] for lead in others), math.inf)

    return Estimate(least(0), least(1), least(2), min(lead.n for lead in leads))


@dataclass(frozen=True)
class Carried(Fold):
    """Success on one network of what fools another one (Tan et al. 2020, Table III and App. G2).

    Evaluations: the network under the attack and on the clean images, and the same of the one that was attacked, the
    gate. An image counts where both are right when it is clean, the attack has changed it, and it fools the gate in
    more than ``above`` of its draws: so what a network gets wrong by itself is no success of an attack.

    Args:
        above: share of the gate's draws.
    """

    above: float = 0.5

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        same_images(evaluations)
        return ratio(*carried(evaluations, self.above), blocks(evaluations[:1]))


def carried(four: Sequence[Rows], above: float) -> tuple[list[Matrix], Matrix]:
    """Successes (R, N) on the target, 0 where an image does not count, and which do (N,)."""
    target, clean, gate, gate_clean = four
    fooled = (gate.linf > 0) & (gate.fooled().mean(0) > above)
    counts = (fooled & _right(clean) & _right(gate_clean)).astype(np.float64)
    return [target.fooled() * counts], counts


@dataclass(frozen=True)
class Passed(Fold):
    """The least lead of several comparisons of two rates as of :class:`Carried`.

    Evaluations come by eights: the four of the first side of a comparison, those of the second. Both are of the same
    images, of which different ones may count; what the two have in common is in the interval. n is the smaller number
    that counts.

    Args:
        allowed: added to each lead, ≥ 0; "almost as much" is .2.
        spare: as in :class:`Leads`.
        above: share of the gate's draws.

    Raises:
        UsageError: an allowance below 0, or ``spare`` leaves nothing.
    """

    allowed: tuple[float, ...]
    spare: int = 0
    above: float = 0.5

    def __post_init__(self) -> None:
        if min(self.allowed, default=-1) < 0 or not 0 <= self.spare < max(1, self.allowed.count(0)):
            raise UsageError(f"{self} compares nothing. Write allowances ≥ 0 and spare fewer than those that are 0.")

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        if not evaluations:  # a claim whose data are not at hand
            return NOTHING
        if len(evaluations) != 8 * len(self.allowed):
            raise UsageError(f"{len(evaluations)} evaluations are not two sides of four for {self.allowed}.")
        found = []
        for i in range(0, len(evaluations), 8):
            eight = evaluations[i : i + 8]
            same_images(eight)
            one, other = carried(eight[:4], self.above), carried(eight[4:], self.above)
            found.append(ahead(one, other, blocks((eight[0], eight[4]))))
        return _least(found, self.allowed, self.spare)


@dataclass(frozen=True)
class Boxes(Fold):
    """Two ways to decide over many settings, as two boxes of a box plot: whose success rates lie higher and closer.

    Evaluations come by threes, one three per setting: the attacked images under the first way, under the second, and
    the clean ones under the first; a rate is over images that are right when clean. The interval is that of a
    bootstrap of the images, 95 % by percentiles; images of one group, of which a setting may have only the first so
    many, are drawn together. Settings are not drawn: they are the ones that there are.

    Args:
        groups: of each setting, which images it has; settings of one number have the same ones.
        told: "median" of the first less that of the second; "spread", the range between quartiles of the second less
            that of the first; "both", the lesser one of these in values and ends.

    Raises:
        UsageError: another word for ``told``, or no settings.
    """

    groups: tuple[int, ...]
    told: Literal["median", "spread", "both"] = "both"

    def __post_init__(self) -> None:
        if not self.groups or self.told not in ("median", "spread", "both"):
            raise UsageError(f"{self} compares nothing. Write a group per setting, and told='both'.")

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        if len(evaluations) != 3 * len(self.groups):
            raise UsageError(f"{len(evaluations)} evaluations are not three for each of {len(self.groups)} settings.")
        threes = [evaluations[i : i + 3] for i in range(0, len(evaluations), 3)]
        for three in threes:
            same_images(three)
        sizes = {g: max(len(t[0].labels) for t, h in zip(threes, self.groups, strict=True) if h == g)
                 for g in self.groups}  # fmt: skip
        hits = [(_right(clean), one.fooled().mean(0), other.fooled().mean(0)) for one, other, clean in threes]
        if not any(kept.any() for kept, _, _ in hits):
            return NOTHING
        value = self._told(hits, {g: np.ones(n) for g, n in sizes.items()})
        rng = np.random.default_rng(0)
        again = [
            self._told(hits, {g: rng.multinomial(n, np.full(n, 1 / n)).astype(float) for g, n in sizes.items()})
            for _ in range(RESAMPLES)
        ]
        low, high = np.nanpercentile(again, (2.5, 97.5), axis=0)
        return Estimate(float(value.min()), float(low.min()), float(high.min()), sum(sizes.values()))

    def _told(self, hits: list[tuple[Matrix, Matrix, Matrix]], weights: dict[int, Matrix]) -> Matrix:
        """Median lead and spread lead, or one of them, with weights of the images of every group."""
        rates = []
        for (kept, *sides), group in zip(hits, self.groups, strict=True):
            counted = weights[group][: len(kept)] * kept
            if counted.sum() > 0:
                rates.append([float((counted * side).sum() / counted.sum()) for side in sides])
        low, middle, high = np.percentile(np.array(rates).reshape(-1, 2), (25, 50, 75), axis=0)
        spread = high - low
        both = {"median": middle[0] - middle[1], "spread": spread[1] - spread[0]}
        return np.array(list(both.values()) if self.told == "both" else [both[self.told]])


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
