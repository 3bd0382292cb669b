"""How far decisions stand still, over several models of a scheme: averages, comparisons, spread. NumPy only.

Source: Ge et al. 2020, §5.3 and the error bars of its Figures 1 and 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robassay.errors import UsageError
from robassay.folds import Fold, Rows, blocks, same_images
from robassay.intervals import Estimate, Matrix, difference, rate, student
from robassay.orderings import Pairs, check_pairs, least, split


@dataclass(frozen=True)
class Steady(Fold):
    """:class:`~robassay.folds.Stability`, averaged over models. Evaluations: disturbed and clean, model by model."""

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        return rate(np.mean(_still(evaluations), axis=0)[None], blocks(evaluations))


@dataclass(frozen=True)
class Steadier(Fold):
    """By how much some schemes stand stiller than others, paired by image; each is averaged over its models.

    Args:
        sizes: evaluations of each scheme, disturbed and clean, model by model.
        pairs: which is claimed to be ahead of which.
    """

    sizes: tuple[int, ...]
    pairs: Pairs

    def __post_init__(self) -> None:
        check_pairs(self.pairs, (0.0,) * len(self.pairs), len(self.sizes))

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        same_images(evaluations)
        sides = [np.mean(_still(group), axis=0)[None] for group in split(evaluations, self.sizes)]
        found = [difference(sides[i], sides[j], blocks(evaluations)) for i, j in self.pairs]
        return least(found, (0.0,) * len(found))


@dataclass(frozen=True)
class Spread(Fold):
    """Standard deviation over models of their stability; of several schemes by how much a first one's is below theirs.

    The interval is the jackknife's over images: of these models, not of all that could be trained.

    Args:
        sizes: as in :class:`Steadier`; a single scheme gives its own spread.
        pairs: the first of a pair is claimed to have the smaller spread.
    """

    sizes: tuple[int, ...]
    pairs: Pairs = ()

    def __post_init__(self) -> None:
        if self.pairs:
            check_pairs(self.pairs, (0.0,) * len(self.pairs), len(self.sizes))
        if any(size < 4 for size in self.sizes):
            raise UsageError(f"sizes={self.sizes}: a spread needs two models at least, four evaluations per scheme.")

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        same_images(evaluations)
        still = [np.array(_still(group)) for group in split(evaluations, self.sizes)]
        if not self.pairs:
            return _jackknifed(lambda kept: _sd(still[0][:, kept]), still[0].shape[1])
        found = [_behind(still[i], still[j]) for i, j in self.pairs]
        return least(found, (0.0,) * len(found))


def _behind(one: Matrix, other: Matrix) -> Estimate:
    """By how much the spread of ``one`` (models, N) is below that of ``other``."""
    return _jackknifed(lambda kept: _sd(other[:, kept]) - _sd(one[:, kept]), one.shape[1])


def _still(evaluations: Sequence[Rows]) -> list[Matrix]:
    """(N,) per model: the share of draws whose decision is one about the clean image."""
    found = []
    for disturbed, clean in zip(evaluations[::2], evaluations[1::2], strict=True):
        same_images([disturbed, clean])
        found.append(np.mean([(disturbed.decisions == one).mean(0) for one in clean.decisions], axis=0))
    return found


def _sd(still: Matrix) -> float:
    return float(still.mean(1).std(ddof=1))


def _jackknifed(statistic: Callable[[NDArray[np.int64]], float], n: int) -> Estimate:
    """A statistic of the images with its jackknife interval (Efron and Stein 1981)."""
    every = np.arange(n)
    value = statistic(every)
    if n < 2:
        return Estimate(value, math.nan, math.nan, n)
    left = np.array([statistic(np.delete(every, i)) for i in range(n)])
    half = student(n - 1.0) * math.sqrt((n - 1) / n * float(((left - left.mean()) ** 2).sum()))
    return Estimate(value, value - half, value + half, n)
