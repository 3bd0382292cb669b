"""Rates, means, ratios and paired differences with 95 % intervals. NumPy only.

The unit of an interval is the example: draws of one example are a cluster, not independent observations. Where one
draw of noise is shared by a batch, its examples are correlated too, and the variance between draws is added.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Z95 = 1.959963984540054
Matrix = NDArray[np.float64]
NOTHING = 1e-14
"""A variance below this is rounding: images that are all alike, or a single one, tell nothing of their spread."""


class Estimate(NamedTuple):
    """A value with its 95 % interval and the number of examples it rests on."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}] (n={self.n})"


def rate(values: Matrix, block: NDArray[np.int64] | None = None) -> Estimate:
    """Mean of ``values`` (R, N) in [0,1] with a 95 % interval.

    Wilson's interval at the effective number of examples, mean·(1 − mean) / variance of the mean: the design-effect
    form of survey statistics (Korn and Graubard 1998). ``block`` (N,) says which examples share a draw's noise;
    None means that none do.
    """
    n = values.shape[1]
    per_example = values.mean(0)
    variance, freedom = _variance(values, per_example, block)
    return _wilson(float(per_example.mean()), variance, freedom, n, float(values.size))


def _wilson(mean: float, variance: float, freedom: float, n: int, most: float) -> Estimate:
    """Wilson's interval at the number of examples that would have this variance, at most ``most``."""
    plain = mean * (1 - mean)
    # Never fewer than the examples would give if each were all or nothing, never more than independent draws would.
    effective = float(n) if variance <= NOTHING else plain / variance
    effective = min(max(effective, 1.0), most)
    if plain == 0:
        effective = float(n)
    t = student(freedom)
    centre = (mean + t * t / (2 * effective)) / (1 + t * t / effective)
    half = t / (1 + t * t / effective) * math.sqrt(plain / effective + t * t / (4 * effective**2))
    return Estimate(mean, min(mean, max(0.0, centre - half)), max(mean, min(1.0, centre + half)), n)


def ratio(parts: Sequence[Matrix], weights: Matrix, block: NDArray[np.int64] | None = None) -> Estimate:
    """Σ over examples of successes, by Σ over examples of trials, with a 95 % interval; n examples had a trial.

    The trials of one example are a cluster: the variance is that of a ratio of two sums over examples, by
    linearisation (Cochran 1977, §6.3), used in Wilson's interval as in :func:`rate`. NaN with n = 0 without trials.

    Args:
        parts: successes (R_k, N) in [0,1] of draws of target k, 0 where it has no trial.
        weights: (N,) trials of every example, over all targets.
        block: which examples share a draw's noise; None means that none do.
    """
    n, total = int((weights > 0).sum()), float(weights.sum())
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    successes = np.sum([part.mean(0) for part in parts], axis=0)
    value = float(successes.sum()) / total
    residual = (successes - value * weights)[weights > 0]
    variance = float((residual**2).sum()) / total**2 * n / max(1, n - 1)
    freedom = n - 1.0
    if block is not None:  # targets draw independently of each other
        scale = len(weights) / total
        between = sum(_between_draws(part, block) for part in parts) * scale**2
        drawn = [len(part) - 1 for part in parts if len(part) > 1]
        if between > 0:
            both = variance + between
            freedom = both**2 / (variance**2 / freedom + between**2 / max(1, sum(drawn)))
            variance = both
    most = total * max(len(part) for part in parts)
    return _wilson(value, variance, freedom, n, most)


def ahead(
    one: tuple[Sequence[Matrix], Matrix],
    other: tuple[Sequence[Matrix], Matrix],
    block: NDArray[np.int64] | None = None,
) -> Estimate:
    """Difference one − other of two ratios as in :func:`ratio`, paired by example, with a 95 % interval.

    By linearisation of both ratios. Half a pseudo-example for each of the four outcomes of a pair, with the average
    number of trials of each side, keeps the interval honest where few pairs differ: with one trial per example it is
    the interval of :func:`difference`. n is the smaller number of examples that had a trial; NaN with n = 0 if a side
    has none.

    Args:
        one, other: successes of every target (R_k, N) and trials (N,), the same examples on both sides.
        block: which examples share a draw's noise; None means that none do.
    """
    n = min(int((weights > 0).sum()) for _, weights in (one, other))
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    value, centre, between, drawn = 0.0, 0.0, 0.0, 0
    influence, pseudo = np.zeros(len(one[1])), np.zeros((2, 2))
    for sign, axis, (parts, weights) in ((1, 0, one), (-1, 1, other)):
        total, each = float(weights.sum()), float(weights[weights > 0].mean())
        successes = np.sum([part.mean(0) for part in parts], axis=0)
        padded = total + 2 * each
        towards = (float(successes.sum()) + each) / padded
        value += sign * float(successes.sum()) / total
        centre += sign * towards
        influence += sign * (successes - towards * weights) / padded
        outcomes = sign * (np.array([0.0, each]) - towards * each) / padded
        pseudo += outcomes[:, None] if axis == 0 else outcomes
        if block is not None:
            between += sum(_between_draws(part, block) for part in parts) * (len(weights) / total) ** 2
            drawn += sum(len(part) - 1 for part in parts if len(part) > 1)
    examples = float((influence**2).sum() + (pseudo**2).sum() / 2)
    variance, freedom = examples + between, n - 1.0
    if between > 0:
        freedom = variance**2 / (examples**2 / max(1.0, freedom) + between**2 / max(1, drawn))
    half = student(freedom) * math.sqrt(variance)
    return Estimate(value, max(-1.0, min(value, centre - half)), min(1.0, max(value, centre + half)), n)


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
