"""From stored decisions to rates with intervals, see :mod:`robassay.intervals`. NumPy only."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from robassay.errors import UsageError
from robassay.intervals import Estimate, Matrix, difference, mean, rate

REJECT = -1
TOLD = "told/"


class Rows(NamedTuple):
    """One evaluation: the decisions of R draws on N examples, with what is known of each example."""

    decisions: NDArray[np.int16]
    """(R, N); R = 1 for a deterministic model; −1 rejects."""
    labels: NDArray[np.int64]
    block: NDArray[np.int64]
    """(N,): the batch an example was judged in."""
    shared: bool
    """Whether a draw's noise was shared within a block."""
    linf: Matrix
    l2: Matrix
    queries: Matrix
    gradients: Matrix
    targets: NDArray[np.int64] | None = None
    """(N,): the wanted class of a targeted attack, −1 where any wrong label would do; None for no attack."""
    told: Mapping[str, Matrix] = MappingProxyType({})
    """Further numbers (N,) by name, see :mod:`robassay.told`."""

    def fooled(self) -> Matrix:
        """(R, N), 1 where the attack has what it wanted: the wanted class, or any label but the true one.

        Images that the attack returned unchanged are failures of the attack, whatever is decided about them, and so is
        what a detector refuses.
        """
        targets = np.full(len(self.labels), -1) if self.targets is None else self.targets
        hit = np.where(targets >= 0, self.decisions == targets, self.decisions != self.labels)
        return (hit & (self.decisions != REJECT) & (self.linf > 0)).astype(np.float64)

    def survives(self) -> Matrix:
        """(R, N), 1 where the defender is right; refusing an attacked image is right, refusing a clean one is not."""
        right = self.decisions == self.labels
        attacked = self.linf > 0
        return (right | ((self.decisions == REJECT) & attacked)).astype(np.float64)


def rows(slices: Sequence[dict[str, np.ndarray]]) -> Rows:
    """Join the stored arrays of Score cells over consecutive slices of one evaluation."""
    offsets = np.cumsum([0] + [int(s["block"].max()) + 1 for s in slices])
    block = np.concatenate([s["block"] + o for s, o in zip(slices, offsets, strict=False)])
    none = [np.zeros(len(s["labels"])) for s in slices]

    def joined(name: str) -> Matrix:
        return np.concatenate([s.get(name, z) for s, z in zip(slices, none, strict=True)]).astype(np.float64)

    return Rows(
        np.concatenate([s["decisions"] for s in slices], axis=1),
        np.concatenate([s["labels"] for s in slices]),
        block,
        any(bool(s["shared"]) for s in slices),
        joined("linf"),
        joined("l2"),
        joined("queries"),
        joined("gradients"),
        _targets(slices),
        {name.removeprefix(TOLD): joined(name) for name in slices[0] if name.startswith(TOLD)},
    )


def _targets(slices: Sequence[dict[str, np.ndarray]]) -> NDArray[np.int64] | None:
    if not any("targets" in s for s in slices):
        return None
    return np.concatenate([s.get("targets", np.full(len(s["labels"]), -1)) for s in slices]).astype(np.int64)


def worst(evaluations: Sequence[Rows]) -> Matrix:
    """Survival (R, N) under the worst of several attacks, chosen per example.

    The attack is chosen on one half of the draws and estimated on the other, both ways round: choosing and
    estimating on the same draws would count luck as strength. With one draw (a deterministic model) both are that
    draw, and the worst case is exact.
    """
    same_images(evaluations)
    matrices = [e.survives() for e in evaluations]
    if all(len(m) == 1 for m in matrices):
        return np.min(matrices, axis=0)
    draws = min(len(m) for m in matrices if len(m) > 1)
    full = np.stack([m[:draws] if len(m) > 1 else np.repeat(m, draws, 0) for m in matrices])
    even, odd = full[:, 0::2], full[:, 1::2]
    columns = np.arange(full.shape[2])
    halves = []
    for choose, estimate in ((even, odd), (odd, even)):
        left = choose.mean(1)
        order = left.mean(1).argsort(kind="stable")  # of equals the one that is stronger on the other images, too
        best = order[left[order].argmin(0)]
        halves.append(estimate[best, :, columns].T)
    return np.concatenate(halves)


def same_images(evaluations: Sequence[Rows]) -> None:
    """Raise UsageError where evaluations are of different images: nothing could be paired."""
    first = evaluations[0]
    for other in evaluations[1:]:
        if other.labels is not first.labels and not np.array_equal(other.labels, first.labels):
            raise UsageError(
                f"the evaluations are of different images ({len(first.labels)} and {len(other.labels)} of them, or in "
                "another order). Judge every target on the same images."
            )


def padded(evaluations: Sequence[Rows]) -> list[Rows]:
    """All on the images of the longest; on those that an evaluation lacks no attack has changed anything.

    Raises:
        UsageError: they are not the first of the same images.
    """
    longest = max(evaluations, key=lambda one: len(one.labels))
    found = [_stretched(one, longest.labels) for one in evaluations]
    same_images(found)
    return found


def _stretched(one: Rows, labels: np.ndarray) -> Rows:
    have = len(one.labels)
    if have == len(labels):
        return one
    more = len(labels) - have
    rest = np.broadcast_to(labels[have:], (len(one.decisions), more)).astype(np.int16)

    def filled(values: Matrix) -> Matrix:
        return np.pad(values, (0, more))

    return one._replace(
        decisions=np.concatenate([one.decisions, rest], axis=1),
        labels=np.concatenate([one.labels, labels[have:]]),
        block=np.pad(one.block, (0, more), mode="edge"),
        linf=filled(one.linf),
        l2=filled(one.l2),
        queries=filled(one.queries),
        gradients=filled(one.gradients),
        targets=None if one.targets is None else np.pad(one.targets, (0, more), constant_values=-1),
    )


def blocks(evaluations: Sequence[Rows]) -> NDArray[np.int64] | None:
    """The blocks within which noise was shared, None when it never was."""
    return next((e.block for e in evaluations if e.shared), None)


class Fold(abc.ABC):
    """A number from one or several evaluations of the same images."""

    @abc.abstractmethod
    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        """The estimate."""


@dataclass(frozen=True)
class Accuracy(Fold):
    """Share of examples that survive a fresh draw; of several evaluations the first."""

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        return rate(evaluations[0].survives(), blocks(evaluations[:1]))


@dataclass(frozen=True)
class WorstCase(Fold):
    """Share of examples that survive the worst of all evaluations, chosen per example on other draws."""

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        return rate(worst(evaluations), blocks(evaluations))


@dataclass(frozen=True)
class Gap(Fold):
    """First evaluation's survival minus that under the worst of all, paired by example."""

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        return difference(evaluations[0].survives(), worst(evaluations), blocks(evaluations))


@dataclass(frozen=True)
class Difference(Fold):
    """First evaluation's survival minus the second's, paired by example."""

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        same_images(evaluations)
        one, other = evaluations
        return difference(one.survives(), other.survives(), blocks(evaluations))


@dataclass(frozen=True)
class Success(Fold):
    """Attack success rate: share of draws that give the attack what it wants, among examples right when clean.

    Evaluations: attacked, clean, and clean ones of further models, where an example counts only if a majority of draws
    of each is right (Tan et al. 2020, mixtures). Denominator as in Tan et al. 2020; an image that the attack returned
    unchanged is a failure.
    """

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        same_images(evaluations)
        attacked, *clean = evaluations
        kept = np.all([one.survives().mean(0) > 0.5 for one in clean], axis=0)
        if not kept.any():
            return Estimate(math.nan, math.nan, math.nan, 0)
        shared = blocks(evaluations)
        return rate(attacked.fooled()[:, kept], None if shared is None else shared[kept])


@dataclass(frozen=True)
class Agreement(Fold):
    """Share of draws of the first evaluation that decide as the second one's first draw, right or wrong."""

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        same_images(evaluations)
        one, other = evaluations
        return rate((one.decisions == other.decisions[:1]).astype(np.float64), blocks(evaluations))


@dataclass(frozen=True)
class Refused(Fold):
    """Share of draws that decide nothing: −1, whatever the label."""

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        return rate((evaluations[0].decisions == REJECT).astype(np.float64), blocks(evaluations[:1]))


@dataclass(frozen=True)
class Majority(Fold):
    """Share of examples that a majority of draws gets right."""

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        return rate((evaluations[0].survives().mean(0, keepdims=True) > 0.5).astype(np.float64))


@dataclass(frozen=True)
class EveryDraw(Fold):
    """Share of examples that every draw gets right. Falls with the number of draws: never a headline."""

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        return rate(evaluations[0].survives().min(0, keepdims=True))


@dataclass(frozen=True)
class Distortion(Fold):
    """Mean L2 size of the change over examples where at least half of the draws give the attack what it wants; of
    several evaluations of the same attacked images, half of each."""

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        fooled = np.all([one.fooled().mean(0) >= 0.5 for one in evaluations], axis=0)
        return mean(evaluations[0].l2[fooled])


@dataclass(frozen=True)
class Broken(Fold):
    """Share of draws that an attack fools within an L2 distance, over all examples: what a minimum-distance attack
    has achieved with what it was allowed to spend."""

    within: float = math.inf

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        only = evaluations[0]
        return rate(only.fooled() * (only.l2 <= self.within), blocks(evaluations[:1]))


@dataclass(frozen=True)
class Stability(Fold):
    """Share of decisions about disturbed images that are the decision about the clean one, right or wrong.

    Evaluations: disturbed, clean. A random scheme's own decisions on the clean image are the reference, every draw of
    them; a refusal is a decision like any other, so two refusals agree. Source: Ge et al. 2020, §5.3.
    """

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        disturbed, clean = evaluations
        same = [(disturbed.decisions == one).mean(0) for one in clean.decisions]
        # Draws of the reference are all compared with all draws of the noise; the unit stays the example.
        return rate(np.stack(same).astype(np.float64), blocks(evaluations))


@dataclass(frozen=True)
class Queries(Fold):
    """Mean number of questions the attacker asked per example."""

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        return mean(evaluations[0].queries)
