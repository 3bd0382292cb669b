"""Attacks that follow the gradient inside a fixed ball: FGSM, R-FGSM, BIM (I-FGSM) and PGD."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from robassay.access import Attack, GradientAccess
from robassay.errors import UsageError
from robassay.registry import part
from robassay.rng import Stream, normal, uniform
from robassay.threat import Goal, LossName, Threat, per_example

COMPACT_EVERY = 5
"""Steps between two removals of finished examples; a removal waits for the device once."""


@part(source="Goodfellow et al. 2015")
class FGSM(Attack):
    """One step of size eps along the sign of the gradient (L∞) or the normalised gradient (L2) of ``loss``."""

    access = GradientAccess
    loss: LossName = "ce"

    def __call__(self, access: GradientAccess, x: Tensor, goal: Goal, threat: Threat, rng: Stream) -> Tensor:
        goal.check(len(x))
        eps = radius(threat)
        found = access.direction(x, goal.loss(self.loss), rng.child("step", 0))
        return threat.project(steepest(found.gradient, threat).mul_(eps).add_(x), x)


@part(name="r-fgsm", source="Tramèr et al. 2018; Sharmin et al. 2019 with alpha = eps/2")
class RFGSM(Attack):
    """A random sign step of ``share`` · eps, then a sign step of ``loss`` with what is left of eps. L∞ only."""

    access = GradientAccess
    share: float = 0.5
    loss: LossName = "ce"

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise UsageError(f"share={self.share} is not a part of eps. Write a value in [0,1], such as 0.5.")

    def __call__(self, access: GradientAccess, x: Tensor, goal: Goal, threat: Threat, rng: Stream) -> Tensor:
        goal.check(len(x))
        eps = radius(threat)
        if threat.norm != "linf":
            raise UsageError(f"r-fgsm is an L∞ attack, the threat is {threat.norm}. Use pgd.")
        alpha = self.share * eps
        random = (uniform(x, rng.child("start")) < 0.5).to(x.dtype) * 2 - 1
        start = (x + alpha * random).clamp(*threat.box)
        found = access.direction(start, goal.loss(self.loss), rng.child("step", 0))
        return threat.project(start + (eps - alpha) * found.gradient.sign(), x)


@part(source="Kurakin et al. 2017 (I-FGSM); Tan et al. 2020 with step .05, 100 steps, early=True")
class BIM(Attack):
    """Gradient steps without a random start; returns the last iterate, or with ``early`` the first successful one.

    Args:
        steps: number of steps.
        step: size of a step in pixel units; None means eps / steps, as I-FGSM has it.
        loss: what is ascended.
        early: stop an example at the first iterate, the image itself included, whose mean logits over the attack's
            own draws reach the goal. As published; on a random classifier this picks lucky draws.
    """

    access = GradientAccess
    steps: int = 10
    step: float | None = None
    loss: LossName = "ce"
    early: bool = False

    def __post_init__(self) -> None:
        _check_steps(self.steps, self.step)

    def __call__(self, access: GradientAccess, x: Tensor, goal: Goal, threat: Threat, rng: Stream) -> Tensor:
        goal.check(len(x))
        eps = radius(threat)
        climb = Climb(access, x, goal, threat, self.loss)
        size = eps / self.steps if self.step is None else self.step
        return climb.run(x, self.steps, size, rng, keep="first" if self.early else "last").last


@part(source="Madry et al. 2018")
class PGD(Attack):
    """Projected gradient ascent with random starts and restarts.

    On a random classifier the kept iterates (best by the share of wrong draws, ties by mean margin; and the last) of
    all restarts are compared on fresh draws of the attacker's own.

    Args:
        steps: steps per restart.
        step: size of a step in pixel units; None means 2.5 · eps / steps.
        loss: "ce", "scaled_ce" (logits divided by their standard deviation), "margin" or "dlr".
        restarts: independent random starts; an example that is broken for certain is not restarted.
        random_start: uniform in the ball; otherwise the first start is the image itself. An access with a given
            start begins there instead.
        momentum: factor μ of the accumulated gradient g ← μ g + ∇ / ‖∇‖₁ (Dong et al. 2018); 0 for none.
        keep: "best" as above, or "last" as published (with one restart).
        select: draws used to compare kept iterates on a random classifier.
        settled: with keep "best", on an uncoupled random classifier: an example whose best iterate is wrong in all
            draws of its step and in so many fresh ones is left alone, in later restarts too; 0 for never.
    """

    access = GradientAccess
    steps: int = 40
    step: float | None = None
    loss: LossName = "ce"
    restarts: int = 1
    random_start: bool = True
    keep: Literal["best", "last"] = "best"
    select: int = 20
    momentum: float = 0.0
    settled: int = 0

    def __post_init__(self) -> None:
        _check_steps(self.steps, self.step)
        if self.restarts < 1 or self.select < 1 or self.momentum < 0 or self.settled < 0:
            raise UsageError("pgd needs restarts ≥ 1, select ≥ 1, momentum ≥ 0 and settled ≥ 0.")
        if self.keep not in ("best", "last"):
            raise UsageError(f"keep={self.keep!r} is not known. Write keep='best' or keep='last'.")
        if self.keep == "last" and self.restarts > 1:
            raise UsageError("keep='last' cannot choose between restarts. Write keep='best', or restarts=1.")

    def __call__(self, access: GradientAccess, x: Tensor, goal: Goal, threat: Threat, rng: Stream) -> Tensor:
        goal.check(len(x))
        eps = radius(threat)
        size = 2.5 * eps / self.steps if self.step is None else self.step
        climb = Climb(access, x, goal, threat, self.loss, self.settled)
        candidates = []
        for r in range(self.restarts):
            child = rng.child("restart", r)
            if r == 0 and access.start is not None:
                start = threat.project(access.start, x)
            else:
                start = random_start(x, threat, child.child("start")) if self.random_start or r else x
            found = climb.run(start, self.steps, size, child, self.keep, self.momentum)
            if self.keep == "last":
                return found.last
            candidates += [found.best, found.last] if access.stochastic else [found.best]
        return strongest(access, goal, candidates, rng.child("select"), self.select)


def steepest(gradient: Tensor, threat: Threat) -> Tensor:
    """The direction (B, C, H, W) of unit size in the threat's norm along which a linear loss rises fastest."""
    if threat.norm == "linf":
        return gradient.sign()
    if threat.norm == "l2":
        # Scaled to 1 first: the squares of a saturated network's gradient, say 1e-25, are 0 in float32.
        scaled = gradient / per_example(gradient.flatten(1).abs().amax(1).clamp_min(1e-38), gradient)
        return scaled / per_example(scaled.flatten(1).norm(dim=1).clamp_min(1e-12), scaled)
    raise UsageError("gradient attacks need norm 'linf' or 'l2', the threat is 'l0'. Use one-pixel.")


def random_start(x: Tensor, threat: Threat, rng: Stream) -> Tensor:
    """Images uniform in the ball around ``x`` (B, C, H, W), cut to the box."""
    eps = radius(threat)
    if threat.norm == "linf":
        return threat.project(x + eps * (2 * uniform(x, rng) - 1), x)
    direction = steepest(normal(x, rng.child("direction")), threat)
    share = uniform(x, rng.child("radius")).flatten(1)[:, 0] ** (1 / x[0].numel())
    return threat.project(x + eps * per_example(share, x) * direction, x)


@dataclass
class Kept:
    """The iterates that a climb keeps, (B, C, H, W) each."""

    last: Tensor
    best: Tensor


@dataclass
class Climb:
    """Projected ascent for one batch; remembers per example the best iterate over several runs.

    On a deterministic, uncoupled classifier an example whose goal is reached cannot lose it again: it stops moving,
    and every few steps such examples leave the batch. On a random one those leave that ``settled`` fresh draws, if
    any are asked for, find wrong without exception.
    """

    access: GradientAccess
    x: Tensor
    goal: Goal
    threat: Threat
    loss: LossName
    settled: int = 0
    done: Tensor = field(init=False)
    ball: Ball = field(init=False)

    def __post_init__(self) -> None:
        self.ball = Ball(self.threat, self.x)
        self.done = torch.zeros(len(self.x), dtype=torch.bool, device=self.x.device)

    def run(
        self,
        start: Tensor,
        steps: int,
        size: float,
        rng: Stream,
        keep: Literal["best", "first", "last"],
        momentum: float = 0.0,
    ) -> Kept:
        """``steps`` steps of ``size`` from ``start``. "last" moves on whatever happens, "first" stops at success."""
        pace = torch.zeros_like(start) if momentum else None
        x_adv, best = start.clone(), self.x.clone()
        share = torch.full((len(self.x),), -1.0, device=self.x.device)
        margin = torch.full_like(share, float("-inf"))
        certain = keep == "first" or (keep == "best" and not (self.access.stochastic or self.access.coupled))
        settling = keep == "best" and settles(self.access, self.settled)
        rows: Tensor | None = None  # None: every example, without copying it
        counted: Tensor | None = None
        done = self.done if keep == "best" else torch.zeros_like(self.done)
        for k in range(steps + (keep == "best")):
            if ((certain and not self.access.coupled) or settling) and k % COMPACT_EVERY == 0:
                if settling and k:
                    settle(self.access, self.goal, best, share, done, rng.child("settle", k), self.settled)
                rows = (~done).nonzero().flatten()
                counted = rows.cpu()
                if not len(rows):
                    break
            at, goal, stream = _of(x_adv, rows), self.goal if rows is None else self.goal[rows], rng.child("step", k)
            if k == steps:
                logits, moved = self.access.logits(at, stream, self.access.estimator.draws, counted), at
            else:
                found = self.access.direction(at, goal.loss(self.loss), stream, counted)
                logits = found.logits
                way = found.gradient if pace is None else _accumulated(pace, rows, found.gradient, momentum)
                moved = self.ball.project(steepest(way, self.threat).mul_(size).add_(at), rows)
            if keep == "last":
                x_adv = moved
                continue
            where = slice(None) if rows is None else rows
            passed = self.access.undetected(at)
            wrong = goal.won(logits).float().mean(0) * passed
            gap = goal.margin(logits).mean(0)
            better = ((wrong > share[where]) & ~gap.isnan()) | ((wrong == share[where]) & (gap > margin[where]))
            share[where] = torch.where(better, wrong, share[where])
            margin[where] = torch.where(better, gap, margin[where])
            best[where] = torch.where(per_example(better, at), at, best[where])
            if certain:
                done[where] |= goal.reached(logits.mean(0).argmax(-1)) & passed if keep == "first" else wrong == 1
                moved = torch.where(per_example(done[where], at), at, moved)
            x_adv[where] = moved
        return Kept(x_adv, best)


class Ball:
    """A threat around fixed images ``x`` (B, C, H, W): the L∞ ball's corners are computed once."""

    def __init__(self, threat: Threat, x: Tensor) -> None:
        self.threat, self.x = threat, x
        self._corners: tuple[Tensor, Tensor] | None = None
        if threat.norm == "linf" and threat.eps is not None:
            self._corners = threat.corners(x)

    def project(self, x_adv: Tensor, rows: Tensor | None) -> Tensor:
        """``x_adv``, which stands for the examples ``rows`` (None: all), inside the threat."""
        if self._corners is None:
            return self.threat.project(x_adv, _of(self.x, rows))
        low, high = self._corners
        return torch.clamp(x_adv, _of(low, rows), _of(high, rows))


def settles(access: GradientAccess, draws: int) -> bool:
    """Whether examples can be left alone after ``draws`` wrong ones: not where they depend on their batch mates."""
    return draws > 0 and access.stochastic and not access.coupled


def settle(
    access: GradientAccess, goal: Goal, best: Tensor, share: Tensor, done: Tensor, rng: Stream, draws: int
) -> None:
    """Ask ``draws`` fresh ones about every example that is not ``done`` (B,) and wrong in all of its step's draws.

    Those that are wrong in all of them are done; the ``share`` (B,) of the others becomes that of the fresh draws: the
    step's was luck, and should not bar a better iterate. Both are changed in place.
    """
    rows = ((share == 1) & ~done).nonzero().flatten()
    if not len(rows):
        return
    at = best[rows]
    wrong = goal[rows].won(access.logits(at, rng, draws, rows.cpu())).float().mean(0) * access.undetected(at)
    done[rows] = wrong == 1
    share[rows] = wrong


def _of(values: Tensor, rows: Tensor | None) -> Tensor:
    return values if rows is None else values[rows]


def strongest(access: GradientAccess, goal: Goal, candidates: list[Tensor], rng: Stream, draws: int) -> Tensor:
    """Per example the candidate (B, C, H, W) with the largest share of wrong draws, ties by mean margin.

    Fresh draws, the same for every candidate: what differs is then the candidates' alone.
    """
    if len(candidates) == 1:
        return candidates[0]
    chosen = candidates[0]
    share = torch.full((len(chosen),), -1.0, device=chosen.device)
    margin = torch.full_like(share, float("-inf"))
    for candidate in candidates:
        logits = access.logits(candidate, rng, draws)
        wrong = goal.won(logits).float().mean(0) * access.undetected(candidate)
        gap = goal.margin(logits).mean(0)
        better = ((wrong > share) & ~gap.isnan()) | ((wrong == share) & (gap > margin))
        share, margin = torch.where(better, wrong, share), torch.where(better, gap, margin)
        chosen = torch.where(per_example(better, candidate), candidate, chosen)
    return chosen


def _accumulated(pace: Tensor, rows: Tensor | None, gradient: Tensor, momentum: float) -> Tensor:
    """Update the accumulated gradient of ``rows`` (None: all) in place and return it."""
    size = gradient.flatten(1).abs().sum(1).clamp_min(1e-38)
    where = slice(None) if rows is None else rows
    pace[where] = momentum * pace[where] + gradient / per_example(size, gradient)
    return pace[where]


def radius(threat: Threat) -> float:
    """The threat's eps, for attacks that need one."""
    if threat.eps is None:
        raise UsageError("this attack works inside a ball: the threat needs a radius, such as Threat('linf', 0.1).")
    return threat.eps


def _check_steps(steps: int, step: float | None) -> None:
    if steps < 1:
        raise UsageError(f"steps={steps}: at least one step is needed. Write steps=40.")
    if step is not None and not step > 0:
        raise UsageError(f"step={step} is no step size. Write a positive size in pixel units, such as 0.01, or None.")
