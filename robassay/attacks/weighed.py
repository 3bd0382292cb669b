"""The search that CW and its variants share: Adam on distance plus weighed loss, and a search for the weight.

Minimises ‖x' − x‖² + c · max(0, κ − margin(x')) by Adam and searches for the smallest c that succeeds, per example.

Instead of a tanh of infinite range the box is mapped with a margin: pixels of exactly 0 or 1, which are most of a
drawing's, have a finite place on the curve and a slope that is not zero, and the distance is that to the true image.
"""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass, field, fields
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from robassay.access import Attack, GradientAccess
from robassay.attacks.accept import Acceptance, Single
from robassay.attacks.curve import Curve, guessed
from robassay.errors import UsageError
from robassay.rng import Stream
from robassay.threat import Goal, Loss, Threat, per_example

CHECK_EVERY = 10
"""Steps between two removals of examples that got stuck; a removal waits for the device once."""
BETAS = (0.9, 0.999)
TINY = 1e-8
SHARE = 0.2
"""No first step of a round is longer than this share of the best distance so far: 0.02 is not found in steps of 0.7."""
DECAY = 0.9
"""Share of the step size that a round gives up from its first to its last step."""
NARROW = 1.3
"""Ratio of the smallest c that succeeded to the largest that failed below which c is known well enough."""
PROGRESS = 0.9999
"""An objective above this share of the one before is stuck."""


SINGLE = Single()


class Term(NamedTuple):
    """What a variant adds to the objective in one step, signed as losses to ascend.

    Args:
        value: (b,).
        gradient: at the images, (b, C, H, W).
        offers: other images (b, C, H, W) that may be answers, each with its logits.
    """

    value: Tensor
    gradient: Tensor
    offers: list[tuple[Tensor, Tensor]]


class Extra(Protocol):
    """A term that a variant adds to the objective during one round."""

    def __call__(self, access: GradientAccess, live: Live, at: Tensor, k: int, rng: Stream) -> Term:
        """The term of step ``k`` at the images ``at`` (b, C, H, W)."""


@dataclass(frozen=True)
class Weighed(Attack):
    """Closest image, in L2, that reaches the goal with its confidence; the clean image where none is found.

    With a radius in the threat, images beyond it count as not found. Several models must all be fooled; their losses
    are summed. Images that the access gives as a start are the first best ones where they succeed.

    Args:
        search: rounds of the search over c.
        steps: Adam steps per round.
        lr: largest step of Adam, in units of the box's curve; smaller where the best distance so far is small.
        c0: first weight of the classification loss; None guesses it per image from the first gradient.
        factor: > 1, by which c grows until the first success (and falls until the first failure); then the geometric
            mean of the largest that failed and the smallest that succeeded.
        abort_early: end a round for an example whose objective stopped falling, and the search for one whose c is
            known to a third.
        smoothing: margin of the curve beyond the box, as a share of the box.
        accept: what counts as success: Single() as published, KOfN(k, n) or MeanOfDraws(n).
    """

    access = GradientAccess
    search: int = 9
    steps: int = 200
    lr: float = 0.05
    c0: float | None = None
    factor: float = 10.0
    abort_early: bool = True
    smoothing: float = 0.05
    accept: Acceptance = SINGLE

    def __post_init__(self) -> None:
        if self.search < 1 or self.steps < 1:
            raise UsageError("cw needs search ≥ 1 and steps ≥ 1, such as search=9, steps=200.")
        if not (self.lr > 0 and (self.c0 is None or self.c0 > 0) and self.factor > 1 and self.smoothing > 0):
            raise UsageError("cw needs lr > 0, c0 > 0, factor > 1 and smoothing > 0.")

    def __call__(self, access: GradientAccess, x: Tensor, goal: Goal, threat: Threat, rng: Stream) -> Tensor:
        goal.check(len(x))
        if threat.norm != "l2":
            raise UsageError(f"cw minimises the L2 distance, the threat is {threat.norm}. Write Threat('l2').")
        state = _Search(self, access, x.detach(), goal, Curve(*threat.box, self.smoothing))
        if access.start is not None:
            state.begin(access.start.clamp(*threat.box), rng.child("start"))
        for i in range(self.search):
            if not state.round(rng.child("search", i)):
                break
        return torch.where(per_example(threat.holds(state.best, x), x), state.best, x.detach())

    @abc.abstractmethod
    def extra(self, x: Tensor, rng: Stream) -> Extra | None:
        """What is added to the objective during one round."""


def hinge(goal: Goal) -> Loss:
    """Minus what the margin lacks to the goal's kappa: (…, B, C) → (…, B), never positive."""
    return lambda logits: (goal.margin(logits) - goal.kappa).clamp_max(0.0)


@dataclass
class Live:
    """The examples still in a round, b of them. Adam's means ``m``, ``v`` belong to the round."""

    rows: Tensor
    counted: Tensor
    """``rows`` on the CPU, for the books."""
    goal: Goal
    x: Tensor
    start: Tensor
    """tanh of the clean image's place."""
    c: Tensor
    rate: Tensor
    """Step sizes of Adam, (b,)."""
    w: Tensor
    m: Tensor
    v: Tensor
    best: Tensor
    square: Tensor
    """Squared distance of ``best``; infinite while there is none."""
    hit: Tensor
    """Whether any iterate of the round succeeded."""
    least: Tensor
    """Smallest objective since the last check."""
    before: Tensor
    """Smallest objective before the last check."""

    def take(self, chosen: Tensor) -> Live:
        """The rows at positions ``chosen``."""
        return Live(
            self.rows[chosen],
            self.counted[chosen.cpu()],
            **{f.name: getattr(self, f.name)[chosen] for f in fields(self) if f.name not in ("rows", "counted")},
        )


@dataclass
class _Search:
    """The search over c of one batch of B examples."""

    attack: Weighed
    access: GradientAccess
    x: Tensor
    goal: Goal
    curve: Curve
    best: Tensor = field(init=False)
    square: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.best = self.x.clone()
        self.guess = self.attack.c0 is None
        self.square = self.x.new_full((len(self.x),), math.inf)
        self.c = torch.full_like(self.square, self.attack.c0 or 1.0)
        self.low, self.high = torch.zeros_like(self.square), self.square.clone()

    def begin(self, start: Tensor, rng: Stream) -> None:
        """Take the images ``start`` (B, C, H, W) for the best so far where they succeed."""
        draws = self.attack.accept.fresh or self.access.estimator.draws
        good = self._agreed(self.goal, start, self.access.logits(start, rng, draws), draws)
        self.best = torch.where(per_example(good, start), start, self.best)
        self.square = torch.where(good, (start - self.x).flatten(1).square().sum(1), self.square)

    def round(self, rng: Stream) -> bool:
        """Adam for every unfinished example at its c, then its next c. False when nobody is left."""
        coupled = self.access.coupled
        finished = self.square == 0
        if self.attack.abort_early:
            finished |= self.high <= NARROW * self.low
        rows = (~finished | coupled).nonzero().flatten()  # mates of a coupled classifier never leave
        if not len(rows):
            return False
        live = self._entered(rows)
        extra = self.attack.extra(self.x, rng.child("copies"))
        for k in range(self.attack.steps):
            if self.attack.abort_early and k and k % CHECK_EVERY == 0 and not coupled:
                stay = (live.least <= PROGRESS * live.before) & (live.square > 0)
                live.before, live.least = torch.minimum(live.before, live.least), torch.full_like(live.least, math.inf)
                live = self._left(live, stay)
                if not len(live.rows):
                    break
            self._step(live, extra, k, rng.child("step", k))
        self._left(live, torch.zeros_like(live.hit))
        return True

    def _entered(self, rows: Tensor) -> Live:
        x, infinite = self.x[rows], torch.full_like(self.c[rows], math.inf)
        start = self.curve.tanh(x)
        return Live(
            rows=rows,
            counted=rows.cpu(),
            goal=self.goal[rows],
            x=x,
            start=start,
            c=self.c[rows],
            rate=self._rate(rows, start),
            w=start.atanh(),
            m=torch.zeros_like(x),
            v=torch.zeros_like(x),
            best=self.best[rows],
            square=self.square[rows],
            hit=torch.zeros_like(rows, dtype=torch.bool),
            least=infinite,
            before=infinite.clone(),
        )

    def _rate(self, rows: Tensor, start: Tensor) -> Tensor:
        """Adam's step: lr, but not so large that one step is longer than a share of the best distance so far."""
        slope = self.curve.half * (1 - start.square()).flatten(1).norm(dim=1)
        return (SHARE * self.square[rows].sqrt() / slope).clamp_max(self.attack.lr)

    def _step(self, live: Live, extra: Extra | None, k: int, rng: Stream) -> None:
        tanh = live.w.tanh()
        delta = self.curve.half * (tanh - live.start)
        at = (live.x + delta).clamp(self.curve.low, self.curve.high)
        found = self.access.direction(at, hinge(live.goal), rng, live.counted)
        square = delta.flatten(1).square().sum(1)
        if self.guess:
            self.guess = False
            live.c = guessed(found)
        gradient = 2 * delta - per_example(live.c, at) * found.gradient
        objective = square - live.c * found.value
        if extra is not None:
            term = extra(self.access, live, at, k, rng.child("copies"))
            gradient, objective = gradient - term.gradient, objective - term.value
            for j, (image, logits) in enumerate(term.offers):
                self._offer(live, image, logits, k, rng.child("offer", j))
        self._keep(live, at, square, self._accepted(live, at, found.logits, k, rng))
        live.least = torch.minimum(live.least, objective)
        gradient *= self.curve.half * (1 - tanh.square())
        live.m.lerp_(gradient, 1 - BETAS[0])
        live.v.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        bias = 1 - BETAS[0] ** (k + 1), math.sqrt(1 - BETAS[1] ** (k + 1))
        # Full steps until something is found: with too few of them no c would succeed.
        fall = 1 - DECAY * k / self.attack.steps * live.square.isfinite()
        rate = live.rate * fall / bias[0]
        live.w -= per_example(rate, live.w) * live.m / live.v.sqrt().div_(bias[1]).add_(TINY)
        live.w.clamp_(-self.curve.end, self.curve.end)

    def _accepted(self, live: Live, at: Tensor, logits: Tensor, k: int, rng: Stream) -> Tensor:
        """Whether each iterate counts as successful. Fresh draws are taken every few steps only: they cost more."""
        accept = self.attack.accept
        if accept.fresh and self.access.stochastic:
            if (k + 1) % CHECK_EVERY and k + 1 < self.attack.steps:
                return torch.zeros_like(live.hit)
            logits = self.access.logits(at, rng.child("accept"), accept.fresh, live.counted)
            each = accept.fresh
        else:
            each = self.access.estimator.draws
        return self._agreed(live.goal, at, logits, each)

    def _agreed(self, goal: Goal, at: Tensor, logits: Tensor, each: int) -> Tensor:
        """Whether every model accepts, from ``each`` draws of the random ones, and no detector refuses: bool (b,)."""
        parts = logits.split([each if model.stochastic else 1 for model in self.access.models])
        accepted = torch.stack([self.attack.accept.accepts(goal, part) for part in parts]).all(0)
        return accepted & self.access.undetected(at)

    def _keep(self, live: Live, at: Tensor, square: Tensor, accepted: Tensor) -> None:
        live.hit |= accepted
        closer = accepted & (square < live.square)
        live.square = torch.where(closer, square, live.square)
        live.best = torch.where(per_example(closer, at), at, live.best)

    def _offer(self, live: Live, image: Tensor, logits: Tensor, k: int, rng: Stream) -> None:
        """Take an image that the objective does not move, where it succeeds and is closer; to c it is a success."""
        image = image.clamp(self.curve.low, self.curve.high)
        square = (image - live.x).flatten(1).square().sum(1)
        self._keep(live, image, square, self._accepted(live, image, logits, k, rng))

    def _left(self, live: Live, stay: Tensor) -> Live:
        """Write down the rows that leave, with their next c; return the others."""
        gone = live.take((~stay).nonzero().flatten())
        rows, c = gone.rows, gone.c
        self.best[rows], self.square[rows] = gone.best, gone.square
        low, high = self.low[rows], self.high[rows]
        self.low[rows] = low = torch.where(gone.hit, low, c)
        self.high[rows] = high = torch.where(gone.hit, c, high)
        between = torch.where(low == 0, high / self.attack.factor, (low * high).sqrt())
        self.c[rows] = torch.where(high.isinf(), low * self.attack.factor, between)
        return live.take(stay.nonzero().flatten())
