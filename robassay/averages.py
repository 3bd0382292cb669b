"""Numbers per example as estimates, and what many draws leave of the images that an attack takes. NumPy only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robassay.errors import UsageError
from robassay.folds import Fold, Rows, blocks, same_images
from robassay.intervals import Estimate, Matrix, mean, rate


@dataclass(frozen=True)
class Told(Fold):
    """Mean of a number that the first cell tells of every example, with a normal interval."""

    name: str

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        return mean(_told(evaluations[0], self.name))


@dataclass(frozen=True)
class Above(Fold):
    """Share of examples of which the first cell tells a number above a limit."""

    name: str
    limit: float

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        return rate((_told(evaluations[0], self.name) > self.limit)[None].astype(np.float64))


@dataclass(frozen=True)
class Middle(Fold):
    """Median of a number that the first cell tells of every example, with the interval of its order statistics."""

    name: str

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        values = np.sort(_told(evaluations[0], self.name))
        n = len(values)
        if n == 0:
            return Estimate(math.nan, math.nan, math.nan, 0)
        # Ranks by the normal approximation of the binomial: how many of n lie below the median.
        half = 0.98 * math.sqrt(n)
        low, high = math.floor((n + 1) / 2 - half), math.ceil((n + 1) / 2 + half)
        ends = (values[low - 1] if low >= 1 else -math.inf, values[high - 1] if high <= n else math.inf)
        return Estimate(float(np.median(values)), float(ends[0]), float(ends[1]), n)


@dataclass(frozen=True)
class Times(Fold):
    """What one number is times another, the mean over examples; of several ones the least value and the least ends.

    Args:
        ones, other: names of the numbers, which are above 0.
    """

    ones: tuple[str, ...]
    other: str

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        by = _told(evaluations[0], self.other)
        found = [mean(_told(evaluations[0], one) / by) for one in self.ones]
        value, low, high = (min(one[i] for one in found) for i in range(3))
        return Estimate(value, low, high, len(by))


@dataclass(frozen=True)
class Spared(Fold):
    """Share of images that draws leave right, of those that are right when clean and wrong under attacks.

    Evaluations: the draws that are looked at, the clean images, and the attacks. An image is right where most of its
    draws are, and wrong under attacks where most draws are under one of them (Eustratiadis et al. 2020, §4.5,
    criterion 4).

    Args:
        every: an image is spared where every draw is right, which falls with their number; otherwise the share of
            draws is taken.
    """

    every: bool = True

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        if len(evaluations) < 3:
            raise UsageError(f"{len(evaluations)} evaluations: Spared needs draws, clean images and an attack.")
        same_images(evaluations)
        seen, clean, *attacks = evaluations
        left = np.min([one.survives().mean(0) for one in attacks], axis=0)
        kept = (clean.survives().mean(0) > 0.5) & (left < 0.5)
        if not kept.any():
            return Estimate(math.nan, math.nan, math.nan, 0)
        right: Matrix = seen.survives()[:, kept]
        if self.every:
            return rate(right.min(0, keepdims=True))
        shared: NDArray[np.int64] | None = blocks(evaluations[:1])
        return rate(right, None if shared is None else shared[kept])


def _told(cell: Rows, name: str) -> Matrix:
    if name not in cell.told:
        known = ", ".join(sorted(cell.told)) or "nothing"
        raise UsageError(f"no number is called '{name}' here. The cell tells {known}.")
    return cell.told[name]
