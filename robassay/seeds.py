"""Folds over models that differ in the training seed alone. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robassay.errors import UsageError
from robassay.folds import Fold, Rows, blocks, same_images, worst
from robassay.intervals import Estimate, Matrix, rate


@dataclass(frozen=True)
class Seeds(Fold):
    """Mean survival of models that differ in the training seed, on the same images.

    The interval is of another training and other images: images and seeds are two crossed random effects, and the
    variance between seeds is added to that between images. n counts images.

    Args:
        size: evaluations of one seed, next to each other; its survival is that under the worst of them.

    Raises:
        UsageError: fewer than two seeds, or evaluations that are no whole number of seeds.
    """

    size: int = 1

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        means = np.stack([m.mean(0) for m, _ in by_seed(evaluations, self.size)])
        if len(means) < 2:
            raise UsageError("one seed says nothing of the spread between seeds. Give evaluations of two at least.")
        return rate(means, np.zeros(means.shape[1], np.int64))


@dataclass(frozen=True)
class Lowest(Fold):
    """The seed with the lowest survival, with the interval of that model alone; see :class:`Seeds`."""

    size: int = 1

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        return min((rate(*one) for one in by_seed(evaluations, self.size)), key=lambda e: e.value)


@dataclass(frozen=True)
class Highest(Fold):
    """The seed with the highest survival, with the interval of that model alone; see :class:`Seeds`."""

    size: int = 1

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        return max((rate(*one) for one in by_seed(evaluations, self.size)), key=lambda e: e.value)


def by_seed(evaluations: Sequence[Rows], size: int) -> list[tuple[Matrix, NDArray[np.int64] | None]]:
    """Survival (R, N) of every seed under the worst of its ``size`` evaluations, and the blocks that share noise."""
    same_images(evaluations)
    if len(evaluations) % size:
        raise UsageError(f"{len(evaluations)} evaluations are no whole number of seeds with {size} each.")
    groups = [evaluations[i : i + size] for i in range(0, len(evaluations), size)]
    return [(group[0].survives() if size == 1 else worst(group), blocks(group)) for group in groups]
