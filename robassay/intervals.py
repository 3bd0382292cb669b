"""Rates, means, ratios and paired differences with 95 % intervals. NumPy only.

The unit of an interval is the example: draws of one example are a cluster, not independent observations. Where one
draw of noise is shared by a batch, its examples are correlated too, and the variance between draws is added.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from robassay.errors import UsageError

Z95, ONE_SIDED = 1.959963984540054, 1.6448536269514722
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

    def _repr_html_(self) -> str:
        if not math.isfinite(self.value):
            return f"<i>nothing to judge by</i>, n = {self.n}"
        return f"<b>{100 * self.value:.1f} %</b> [{100 * self.low:.1f}, {100 * self.high:.1f}], n = {self.n}"


def rate(values: Matrix, block: NDArray[np.int64] | None = None) -> Estimate:
    """Mean of ``values`` (R, N) in [0,1] with a 95 % interval; every example counts once, see :func:`ratio`.

    ``block`` (N,) says which examples share a draw's noise; None means that none do.
    """
    return ratio([values], np.ones(values.shape[1]), block)


def ratio(parts: Sequence[Matrix], weights: Matrix, block: NDArray[np.int64] | None = None) -> Estimate:
    """Σ over examples of successes, by Σ over examples of trials, with a 95 % interval; n examples had a trial.

    The trials of one example are a cluster: the variance is that of a ratio of two sums over examples, by
    linearisation (Cochran 1977, §6.3). The interval is Wilson's at the effective number of examples, value · (1 −
    value) / variance: the design-effect form of survey statistics (Korn and Graubard 1998). NaN with n = 0 without
    trials.

    Args:
        parts: successes (R_k, N) in [0,1] of draws of target k, 0 where it has no trial.
        weights: (N,) trials of every example, over all targets.
        block: which examples share a draw's noise; None means that none do.
    """
    n, total = int((weights > 0).sum()), float(weights.sum())
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    value = float(np.sum([part.mean(0).sum() for part in parts])) / total
    residual = np.sum([part.mean(0) for part in parts], axis=0) - value * weights
    found = float((residual**2).sum()) / total**2 * n / max(1, n - 1)
    between, drawn = 0.0, 1
    if block is not None:  # targets draw independently of each other
        between = sum(_between_draws(part, block) for part in parts) * (len(weights) / total) ** 2
        drawn = max(1, sum(len(part) - 1 for part in parts))
    plain, size = value * (1 - value), float((weights**2).sum()) / total**2
    if (
        plain == 0 or found + between <= NOTHING
    ):  # nothing varies: as sure as examples that are each all or nothing allow
        return _wilson(value, student(n - 1.0) ** 2 * size, n)
    # Such examples vary the most. Where few of them carry the variance that was found it may by chance be far too
    # small: it has few degrees of freedom then, but more than the most is not believed.
    seen = _spread(found, _freedom(residual[weights > 0]), between, drawn)
    return _wilson(value, min(seen, _spread(plain * size, n - 1.0, between, drawn)) / plain, n)


def _spread(examples: float, freedom: float, between: float, drawn: int) -> float:
    """t² · variance, of examples and of the draws they share; the degrees of freedom are Satterthwaite's."""
    total = examples + between
    return student(total**2 / (examples**2 / max(freedom, 1.0) + between**2 / drawn)) ** 2 * total


def _freedom(residual: Matrix) -> float:
    """Degrees of freedom of the variance of (n,) residuals, from their kurtosis; n − 1 where they are normal.

    The variance of a sample variance is σ⁴ (κ − (n − 3)/(n − 1))/n, that of one with f degrees 2σ⁴/f.
    """
    n, second = len(residual), float((residual**2).sum())
    if n < 3 or second <= 0:
        return n - 1.0
    kurtosis = n * float((residual**4).sum()) / second**2
    return min(n - 1.0, 2 * n / max(1e-9, kurtosis - (n - 3) / (n - 1)))


def _wilson(value: float, spread: float, n: int) -> Estimate:
    """Wilson's interval with t² / effective number of examples = ``spread``.

    Its ends next to 0 and 1 are too bold (Brown, Cai and DasGupta 2001, §4.1.1): there the one-sided limit of a few
    successes, or failures, holds.
    """
    centre = (value + spread / 2) / (1 + spread)
    half = math.sqrt(value * (1 - value) * spread + spread**2 / 4) / (1 + spread)
    low = min(value, max(0.0, centre - half), value * _few(value, spread))
    high = max(value, min(1.0, centre + half), 1 - (1 - value) * _few(1 - value, spread))
    return Estimate(value, low, high, n)


def _few(share: float, spread: float) -> float:
    """One-sided 5 % limit of a count, by the count (cube root of a gamma variable: Wilson and Hilferty 1931)."""
    count = share * Z95**2 / spread if spread > 0 else math.inf
    if count <= 0:
        return 0.0
    return max(0.0, 1 - 1 / (9 * count) - ONE_SIDED * math.sqrt((1 - share) / count) / 3) ** 3


def difference(one: Matrix, other: Matrix, block: NDArray[np.int64] | None = None) -> Estimate:
    """Mean of the paired difference one − other, (R, N) each, with a 95 % interval.

    It is the mean gain of the examples where ``one`` is ahead less the mean loss of those where it is behind, as
    McNemar's test counts them. Each has limits as a rate; their distances are added as squares, with the correlation
    that the examples show (Zou and Donner 2008). NaN without examples.
    """
    if one.shape[1] == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    between = 0.0
    if block is not None:  # draws that examples share are not shared by the two sides
        for values in (one, other):
            between += student(max(1, len(values) - 1)) ** 2 * _between_draws(values, block)
    return _gap(one.mean(0) - other.mean(0), between)


def _gap(gaps: Matrix, between: float) -> Estimate:
    """Mean of signed numbers (n,) with limits from gains and losses; ``between`` is t² · variance of shared draws."""
    most = max(1.0, float(np.abs(gaps).max()))
    gains, losses = np.maximum(gaps, 0.0) / most, np.maximum(-gaps, 0.0) / most
    gain, loss = rate(gains[None]), rate(losses[None])
    both = float(gains.std() * losses.std())
    shared = float(((gains - gain.value) * (losses - loss.value)).mean()) / both if both > 0 else 0.0

    def distance(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a - 2 * shared * a * b + b * b) * most**2 + between)

    gap = float(gaps.mean())
    low = gap - distance(gain.value - gain.low, loss.high - loss.value)
    high = gap + distance(gain.high - gain.value, loss.value - loss.low)
    return Estimate(gap, max(-1.0, low), min(1.0, high), gain.n)


def ahead(
    one: tuple[Sequence[Matrix], Matrix],
    other: tuple[Sequence[Matrix], Matrix],
    block: NDArray[np.int64] | None = None,
) -> Estimate:
    """Difference one − other of two ratios as in :func:`ratio`, paired by example, with a 95 % interval.

    By linearisation of both ratios: what each example adds to the difference is taken for its gap in
    :func:`difference`, and with one trial per example it is. n is the smaller number of examples that had a trial; NaN
    with n = 0 if a side has none.

    Args:
        one, other: successes of every target (R_k, N) and trials (N,), the same examples on both sides.
        block: which examples share a draw's noise; None means that none do.
    """
    n = min(int((weights > 0).sum()) for _, weights in (one, other))
    if n == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    tried = (one[1] > 0) | (other[1] > 0)
    gaps, between = np.zeros(int(tried.sum())), 0.0
    for sign, (parts, weights) in ((1, one), (-1, other)):
        total = float(weights.sum())
        successes = np.sum([part.mean(0) for part in parts], axis=0)
        value = float(successes.sum()) / total
        gaps += sign * (value + len(gaps) * (successes - value * weights)[tried] / total)
        if block is not None:
            drawn = max(1, sum(len(part) - 1 for part in parts))
            shared = sum(_between_draws(part, block) for part in parts) * (len(weights) / total) ** 2
            between += student(drawn) ** 2 * shared
    return _gap(gaps, between)._replace(n=n)


def images_for(width: float, rate: float = 0.5, draws: int = 1, correlation: float = 1.0) -> int:
    """Images needed so that the 95 % interval of a ``rate`` is at most ``width`` wide, see :func:`rate`.

    Args:
        width: from end to end, in (0,1); .06 for ± 3 points.
        rate: that is expected, in [0,1]; .5 needs the most images.
        draws: decisions per image.
        correlation: of two draws of one image, in [0,1]. At 1 each image is all or nothing and draws do not help; at 0
            all images are alike.

    Raises:
        UsageError: a value outside of these ranges.
    """
    if not (0 < width < 1 and 0 <= rate <= 1 and draws >= 1 and 0 <= correlation <= 1):
        raise UsageError(
            f"images_for(width={width}, rate={rate}, draws={draws}, correlation={correlation}) asks for no interval. "
            "Write a width in (0, 1), a rate and a correlation in [0, 1] and one draw at least."
        )
    each = correlation + (1 - correlation) / draws

    def enough(n: int) -> bool:
        found = _wilson(rate, student(n - 1.0) ** 2 * each / n, n)
        return found.high - found.low <= width

    many = 2
    while not enough(many):
        many *= 2
    return bisect.bisect_left(range(many), True, lo=2, key=enough)


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
