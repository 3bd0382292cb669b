"""From stored decisions to rates with intervals. NumPy only.

The unit of an interval is the example: draws of one example are a cluster, not independent observations. Where one
draw of noise is shared by a batch, its examples are correlated too, and the variance between draws is added.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

REJECT = -1
Z95 = 1.959963984540054
Matrix = NDArray[np.float64]


class Estimate(NamedTuple):
    """A value with its 95 % interval and the number of examples it rests on."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}] (n={self.n})"


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
    )


# ---------------------------------------------------------------------------------------------------------- intervals


def rate(values: Matrix, block: NDArray[np.int64] | None = None) -> Estimate:
    """Mean of ``values`` (R, N) in [0,1] with a 95 % interval.

    Wilson's interval at the effective number of examples, mean·(1 − mean) / variance of the mean: the design-effect
    form of survey statistics (Korn and Graubard 1998). ``block`` (N,) says which examples share a draw's noise;
    None means that none do.
    """
    n = values.shape[1]
    per_example = values.mean(0)
    mean = float(per_example.mean())
    variance, freedom = _variance(values, per_example, block)
    plain = mean * (1 - mean)
    # Never fewer than the examples would give if each were all or nothing, never more than independent draws would.
    effective = float(n) if variance <= 0 else plain / variance
    effective = min(max(effective, 1.0), float(values.size))
    if plain == 0:
        effective = float(n)
    t = student(freedom)
    centre = (mean + t * t / (2 * effective)) / (1 + t * t / effective)
    half = t / (1 + t * t / effective) * math.sqrt(plain / effective + t * t / (4 * effective**2))
    return Estimate(mean, min(mean, max(0.0, centre - half)), max(mean, min(1.0, centre + half)), n)


def difference(one: Matrix, other: Matrix, block: NDArray[np.int64] | None = None) -> Estimate:
    """Mean of the paired difference one − other, (R, N) each, with a 95 % interval.

    Two pseudo-examples, one for each side, keep the interval honest when few pairs differ (Agresti and Min 2005).
    """
    gaps = one.mean(0) - other.mean(0)
    n = len(gaps)
    padded = n + 2
    centre = float(gaps.sum()) / padded
    spread = (float((gaps**2).sum()) + 1) / padded - centre**2
    variance = spread / padded
    freedom = float(n - 1)
    if block is not None:
        for values in (one, other):
            between = _between_draws(values, block)
            if between > 0:
                freedom = min(freedom, float(max(1, values.shape[0] - 1)))
            variance += between
    half = student(freedom) * math.sqrt(variance)
    mean = float(gaps.mean())
    return Estimate(mean, max(-1.0, min(mean, centre - half)), min(1.0, max(mean, centre + half)), n)


def mean(values: Matrix) -> Estimate:
    """Mean of one number per example with a normal 95 % interval; NaN when there is none."""
    n = len(values)
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    half = student(n - 1) * float(values.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf
    centre = float(values.mean())
    return Estimate(centre, centre - half, centre + half, n)


def student(freedom: float) -> float:
    """97.5 % quantile of Student's t (Cornish and Fisher's expansion; within .5 % from 4 degrees on)."""
    v, z = max(freedom, 2.0), Z95
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / v + second / v**2 + third / v**3


def _variance(values: Matrix, per_example: Matrix, block: NDArray[np.int64] | None) -> tuple[float, float]:
    """Variance of the mean and its degrees of freedom (Satterthwaite)."""
    n = len(per_example)
    if n < 2:
        return 0.0, 2.0
    examples = float(per_example.var(ddof=1)) / n
    between = 0.0 if block is None else _between_draws(values, block)
    total = examples + between
    if total <= 0:
        return 0.0, n - 1.0
    draws = max(1, values.shape[0] - 1)
    return total, total**2 / (examples**2 / (n - 1) + between**2 / draws)


def _between_draws(values: Matrix, block: NDArray[np.int64]) -> float:
    """What noise shared within a block adds to the variance of the mean over draws: two-way random effects."""
    draws, n = values.shape
    if draws < 2:
        return 0.0
    added = 0.0
    for b in np.unique(block):
        part = values[:, block == b]
        size = part.shape[1]
        by_draw = part.mean(1)
        residual = part - part.mean(0) - by_draw[:, None] + part.mean()
        noise = float((residual**2).sum()) / max(1, (draws - 1) * (size - 1))
        between = max(0.0, float(by_draw.var(ddof=1)) - noise / size)
        added += (size / n) ** 2 * between / draws
    return added


# -------------------------------------------------------------------------------------------------------------- folds


def worst(evaluations: Sequence[Rows]) -> Matrix:
    """Survival (R, N) under the worst of several attacks, chosen per example.

    The attack is chosen on one half of the draws and estimated on the other, both ways round: choosing and
    estimating on the same draws would count luck as strength. With one draw (a deterministic model) both are that
    draw, and the worst case is exact.
    """
    matrices = [e.survives() for e in evaluations]
    if all(len(m) == 1 for m in matrices):
        return np.min(matrices, axis=0)
    draws = min(len(m) for m in matrices if len(m) > 1)
    full = np.stack([m[:draws] if len(m) > 1 else np.repeat(m, draws, 0) for m in matrices])
    even, odd = full[:, 0::2], full[:, 1::2]
    columns = np.arange(full.shape[2])
    halves = []
    for choose, estimate in ((even, odd), (odd, even)):
        best = choose.mean(1).argmin(0)
        halves.append(estimate[best, :, columns].T)
    return np.concatenate(halves)


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
        one, other = evaluations
        return difference(one.survives(), other.survives(), blocks(evaluations))


@dataclass(frozen=True)
class Success(Fold):
    """Attack success rate: share of wrong draws among examples that a majority of clean draws gets right.

    Evaluations: attacked, clean. Denominator as in Tan et al. 2020.
    """

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        attacked, clean = evaluations
        kept = clean.survives().mean(0) > 0.5
        if not kept.any():
            return Estimate(math.nan, math.nan, math.nan, 0)
        shared = blocks(evaluations)
        return rate(1 - attacked.survives()[:, kept], None if shared is None else shared[kept])


@dataclass(frozen=True)
class Agreement(Fold):
    """Share of draws of the first evaluation that decide as the second one's first draw, right or wrong."""

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
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
    """Mean L2 size of the change over examples that a majority of draws gets wrong."""

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        only = evaluations[0]
        return mean(only.l2[(only.survives().mean(0) <= 0.5) & (only.l2 > 0)])


@dataclass(frozen=True)
class Queries(Fold):
    """Mean number of questions the attacker asked per example."""

    def __call__(self, evaluations: Sequence[Rows]) -> Estimate:
        return mean(evaluations[0].queries)


FOLDS: dict[str, type[Fold]] = {
    c.__name__: c
    for c in (
        Accuracy,
        WorstCase,
        Gap,
        Difference,
        Success,
        Agreement,
        Refused,
        Majority,
        EveryDraw,
        Distortion,
        Queries,
    )
}


def thaw(frozen: dict[str, Any]) -> Fold:
    """The fold that a frozen study names."""
    return FOLDS[frozen["type"]](**{k: v for k, v in frozen.items() if k != "type"})
