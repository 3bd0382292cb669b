"""Claims that several comparisons make together: of survivals or of sizes, paired by example. NumPy only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from robassay.errors import UsageError
from robassay.folds import Fold, Rows, blocks, padded, same_images, worst
from robassay.intervals import Estimate, Matrix, difference, mean


@dataclass(frozen=True)
class Contrasts(Fold):
    """Several contrasts, and of their values, lower ends and upper ends the one that says least for a claim about all.

    A contrast is a sum of survivals with weights, such as the loss of one network less that of another. With the lowest
    ends a claim "all are above" holds when each does by its own interval, fails when one does, and is undecided
    otherwise. That all hold needs no correction for their number (an intersection-union test); that one fails has none,
    so that one of many that barely does may be chance. A single contrast is just itself.

    Args:
        sizes: evaluations of each group, which follow each other; a group survives what its worst evaluation leaves.
        weights: one per group, contrast after contrast.
        told: "lowest", or "farthest": distances from 0 and the largest of them, for a claim "all are within".
        allowed: added to each contrast: that a and b are within .05 is a − b + .05 and b − a + .05 above 0. None is
            added where there are none.

    Raises:
        UsageError: weights that are no whole number of contrasts, another word for ``told``, or allowances that are not
            one for each contrast.
    """

    sizes: tuple[int, ...]
    weights: tuple[float, ...]
    told: Literal["lowest", "farthest"] = "lowest"
    allowed: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.weights or not self.sizes or len(self.weights) % len(self.sizes):
            raise UsageError(
                f"{len(self.weights)} weights are no whole number of contrasts over {len(self.sizes)} groups. Write "
                "one per group, such as Contrasts((1, 1), (1.0, -1.0))."
            )
        if self.told not in ("lowest", "farthest"):
            raise UsageError(f"told={self.told!r} is not known. Write told='lowest' or told='farthest'.")
        contrasts = len(self.weights) // len(self.sizes)
        if self.allowed and len(self.allowed) != contrasts:
            raise UsageError(f"{len(self.allowed)} allowances for {contrasts} contrasts. Write one for each, or none.")

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        if len(evaluations) != sum(self.sizes):
            raise UsageError(
                f"groups of {list(self.sizes)} need {sum(self.sizes)} evaluations, not {len(evaluations)}."
            )
        same_images(evaluations)
        ends = np.cumsum(self.sizes)
        left = [worst(evaluations[end - size : end]) for end, size in zip(ends, self.sizes, strict=True)]
        draws = min((len(m) for m in left if len(m) > 1), default=1)
        left = [np.broadcast_to(m[:draws], (draws, m.shape[1])) for m in left]
        shape = (-1, len(self.sizes))
        found = [_contrast(left, row, blocks(evaluations)) for row in np.reshape(self.weights, shape)]
        if self.allowed:
            found = [_plus(one, more) for one, more in zip(found, self.allowed, strict=True)]
        if self.told == "farthest":
            found = [_distance(one) for one in found]
        pick = min if self.told == "lowest" else max
        if any(math.isnan(one.value) for one in found):
            return Estimate(math.nan, math.nan, math.nan, 0)
        value, low, high = (pick(one[i] for one in found) for i in range(3))
        return Estimate(value, low, high, min(one.n for one in found))


def _contrast(left: list[Matrix], weights: Matrix, block: NDArray[np.int64] | None) -> Estimate:
    """Σ weight · survival (R, N) of the groups; an example's sum may pass 1, where a difference of rates may not."""
    gained, lost = (np.sum([w * m for w, m in zip(side, left, strict=True)], axis=0) for side in _sides(weights))
    most = max(1.0, float(np.abs((gained - lost).mean(0)).max(initial=0.0)))
    value, low, high, n = difference(gained / most, lost / most, block)
    return Estimate(value * most, low * most, high * most, n)


def _plus(one: Estimate, more: float) -> Estimate:
    return Estimate(one.value + more, one.low + more, one.high + more, one.n)


def _sides(weights: Matrix) -> tuple[Matrix, Matrix]:
    return np.maximum(weights, 0.0), np.maximum(-weights, 0.0)


def _distance(one: Estimate) -> Estimate:
    """From 0: the nearest and the farthest point of the interval."""
    low, high = max(0.0, one.low, -one.high), max(-one.low, one.high)
    return Estimate(abs(one.value), low, high, one.n)


@dataclass(frozen=True)
class Farther(Fold):
    """By what share of another strategy's mean L2 size the changes of one are longer, on the images that both changed.

    Of several pairs of strategies the lowest value and ends, as in :class:`Contrasts`; some may be on fewer of the same
    images than others.

    Args:
        sizes: evaluations of the first strategy, of the second, and so on by pairs; a strategy of several attacks moves
            an image by their mean.

    Raises:
        UsageError: strategies that are no pairs.
    """

    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.sizes or len(self.sizes) % 2:
            raise UsageError(f"{len(self.sizes)} strategies are no pairs. Write an even number: Farther((1, 2)).")

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        evaluations = padded(evaluations)
        ends = np.cumsum(self.sizes)
        sizes = [_moves(evaluations[end - size : end]) for end, size in zip(ends, self.sizes, strict=True)]
        found = []
        for one, other in zip(sizes[::2], sizes[1::2], strict=True):
            both = ~np.isnan(one - other)
            # The second one's mean is a unit here: whether the gap is 0 does not depend on it.
            found.append(mean((one - other)[both] / (other[both].mean() if both.any() else 1.0)))
        if any(one.n == 0 for one in found):  # of a pair that has nothing nothing is less
            return Estimate(math.nan, math.nan, math.nan, 0)
        value, low, high = (min(one[i] for one in found) for i in range(3))
        return Estimate(value, low, high, min(one.n for one in found))


@dataclass(frozen=True)
class Sizes(Fold):
    """Sums of mean L2 sizes with weights, one evaluation each, and of several sums the lowest value and ends.

    What the sizes are is a matter of the evaluations, such as :class:`robassay.propagation.Layer`; images without one
    in any evaluation are left out.

    Args:
        weights: one per evaluation, sum after sum; (1.0,) is the mean itself.

    Raises:
        UsageError: no weight; when used, weights that are no whole number of sums.
    """

    weights: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        if not self.weights:
            raise UsageError("a sum of sizes needs a weight for each. Write Sizes((1.0,)) for the mean of one.")

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        if len(self.weights) % len(evaluations):
            raise UsageError(f"{len(self.weights)} weights are no whole number of sums over {len(evaluations)} sizes.")
        same_images(evaluations)
        sizes = np.array([one.l2 for one in evaluations])
        known = sizes[:, ~np.isnan(sizes).any(0)]
        found = [mean(row @ known) for row in np.reshape(self.weights, (-1, len(evaluations)))]
        value, low, high = (min(one[i] for one in found) for i in range(3))
        return Estimate(value, low, high, found[0].n)


def _moves(evaluations: Sequence[Rows]) -> Matrix:
    """(N,) mean L2 size of the attacks that changed an image, NaN where none did."""
    moved = np.array([one.linf > 0 for one in evaluations])
    total = np.array([one.l2 for one in evaluations]) * moved
    with np.errstate(invalid="ignore"):
        found: Matrix = total.sum(0) / moved.sum(0)
    return found
