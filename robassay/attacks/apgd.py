"""Auto-PGD: projected gradient ascent that halves its step where it stalls (Croce and Hein 2020, algorithm 1).

On a random classifier neither the loss nor one draw says whether a step was good: the step control works on the
estimated probability of error, the share of wrong draws in the sample the gradient came from, ties by mean margin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from robassay.access import Attack, GradientAccess
from robassay.attacks.gradient import COMPACT_EVERY, radius, random_start, settle, settles, steepest, strongest
from robassay.errors import UsageError
from robassay.registry import part
from robassay.rng import Stream
from robassay.threat import TINY, Goal, Loss, LossName, Threat, per_example

MOMENTUM = 0.75
ENOUGH = 0.75
"""Share of rising steps below which a stretch counts as stalled."""
TARGET_DRAWS = 10


@part(source="Croce and Hein 2020")
class APGD(Attack):
    """Auto-PGD in L∞ or L2.

    Args:
        steps: gradient steps per restart and target.
        loss: "ce", "scaled_ce", "margin" or "dlr".
        restarts: independent starts; the first is the access's given start if it has one, the others are random.
        targets: 0 ascends the loss of the goal; k > 0 goes for each of the k most likely wrong classes in turn
            ("dlr" is then the targeted form, eq. 7). Needs an untargeted goal.
        select: draws by which the kept iterates of a random classifier are compared.
        settled: as in :class:`~robassay.attacks.gradient.PGD`.
    """

    access = GradientAccess
    steps: int = 100
    loss: LossName = "dlr"
    restarts: int = 1
    targets: int = 0
    select: int = 20
    settled: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1 or self.select < 1 or self.targets < 0 or self.settled < 0:
            raise UsageError("apgd needs steps ≥ 1, restarts ≥ 1, select ≥ 1, targets ≥ 0 and settled ≥ 0.")

    def __call__(self, access: GradientAccess, x: Tensor, goal: Goal, threat: Threat, rng: Stream) -> Tensor:
        goal.check(len(x))
        eps = radius(threat)
        if self.targets and goal.targeted:
            raise UsageError("apgd chooses its targets itself: write targets=0 for a targeted goal.")
        ranked = self._ranked(access, x, goal, rng.child("targets")) if self.targets else [None]
        done = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        candidates: list[Tensor] = []
        for r in range(self.restarts):
            for t, target in enumerate(ranked):
                child = rng.child("restart", r, "target", t)
                given = access.start if r == 0 else None
                start = random_start(x, threat, child.child("start")) if given is None else threat.project(given, x)
                search = _Search(access, x, goal, target, threat, self.loss, done, self.settled)
                best, last = search.run(start, self.steps, 2 * eps, child)
                candidates += [best, last] if access.stochastic else [best]
        return strongest(access, goal, candidates, rng.child("select"), self.select)

    def _ranked(self, access: GradientAccess, x: Tensor, goal: Goal, rng: Stream) -> list[Tensor | None]:
        """The most likely wrong classes, int64 (B,) each, by mean logit on the clean image."""
        mean = access.logits(x, rng, TARGET_DRAWS).mean(0).scatter(-1, goal.labels[:, None], float("-inf"))
        order = mean.argsort(-1, descending=True)[:, : min(self.targets, access.classes - 1)]
        return list(order.T)


def targeted_dlr(labels: Tensor, targets: Tensor) -> Loss:
    """Croce and Hein's eq. 7: (z_target − z_label) / (z_1st − (z_3rd + z_4th)/2), logits (…, B, C) → (…, B)."""

    def loss(logits: Tensor) -> Tensor:
        if logits.shape[-1] < 4:
            raise UsageError(f"targeted 'dlr' needs 4 classes, the model has {logits.shape[-1]}. Use loss='margin'.")
        ordered = logits.sort(-1, descending=True).values
        span = ordered[..., 0] - (ordered[..., 2] + ordered[..., 3]) / 2
        gaps = [logits.gather(-1, c.expand(logits.shape[:-1]).unsqueeze(-1)).squeeze(-1) for c in (targets, labels)]
        # Equal logits have no scale: dividing by almost nothing would let one such draw outweigh all others.
        return (gaps[0] - gaps[1]) / torch.where(span > TINY, span, 1.0)

    return loss


def checkpoints(steps: int) -> list[int]:
    """Steps after which the progress is judged: shares 0, .22, then ever shorter stretches down to .06."""
    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    return [w for w in sorted({math.ceil(round(s * steps, 9)) for s in shares[1:]}) if w < steps]


@dataclass
class _Search:
    """One ascent of a batch. ``done`` marks examples broken for certain, by this or an earlier search."""

    access: GradientAccess
    x: Tensor
    goal: Goal
    target: Tensor | None
    threat: Threat
    loss: LossName
    done: Tensor
    settled: int = 0

    def run(self, start: Tensor, steps: int, size: float, rng: Stream) -> tuple[Tensor, Tensor]:
        """Best and last iterate, (B, C, H, W) each."""
        n = len(self.x)
        state = _State(start.clone(), start.clone(), self.x.clone(), start.new_full((n,), size))
        certain = not (self.access.stochastic or self.access.coupled)
        rows, counted = torch.arange(n, device=start.device), torch.arange(n)
        judged, since = set(checkpoints(steps)), 0
        settling, share = settles(self.access, self.settled), torch.zeros_like(state.top)
        for k in range(steps + 1):
            if (certain or settling) and k % COMPACT_EVERY == 0:
                if settling and k:
                    self._settle(state, share, rng.child("settle", k))
                rows = (~self.done).nonzero().flatten()
                counted = rows.cpu()
                if not len(rows):
                    break
            at, stream = state.now[rows], rng.child("step", k)
            if k == steps:  # the last iterate is only looked at
                logits, gradient = self.access.logits(at, stream, self.access.estimator.draws, counted), None
            else:
                found = self.access.direction(at, self._loss(rows), stream, counted)
                logits, gradient = found.logits, found.gradient
            wrong = self.goal[rows].won(logits).float().mean(0) * self.access.undetected(at)
            height = self._height(rows, logits, wrong, certain)
            share[rows] = torch.where(height > state.top[rows], wrong, share[rows])
            state.see(rows, at, height, gradient)
            if certain:
                self.done[rows] |= wrong == 1
            if gradient is None:
                break
            if k in judged:
                state.judge(rows, k - since)
                since = k
            self._step(state, rows, first=k == 0)
        return state.best, state.now

    def _settle(self, state: _State, share: Tensor, rng: Stream) -> None:
        asked = (share == 1) & ~self.done
        settle(self.access, self.goal, state.best, share, self.done, rng, self.settled)
        lucky = asked & ~self.done
        state.top[lucky] *= share[lucky]

    def _loss(self, rows: Tensor) -> Loss:
        goal = self.goal[rows]
        if self.target is None:
            return goal.loss(self.loss)
        if self.loss == "dlr":
            return targeted_dlr(goal.labels, self.target[rows])
        return Goal(self.target[rows], targeted=True).loss(self.loss)

    def _height(self, rows: Tensor, logits: Tensor, wrong: Tensor, certain: bool) -> Tensor:
        """What is to rise, (b,): the loss, topped by success; on a random classifier the number of wrong draws."""
        if certain:
            # The value of "scaled_ce" does not grow with the margin (with two classes it is constant).
            rising = self.goal[rows].margin if self.loss == "scaled_ce" else self._loss(rows)
            value = rising(logits).mean(0)
            return torch.where(wrong == 1, torch.inf, value)
        gap = self.goal[rows].margin(logits).mean(0)
        return 2 * len(logits) * wrong + gap / (1 + gap.abs())  # ties of the share are broken by less than one draw

    def _step(self, state: _State, rows: Tensor, first: bool) -> None:
        now, before, x = state.now[rows], state.before[rows], self.x[rows]
        size = per_example(state.size[rows], now)
        ahead = self.threat.project(now + size * steepest(state.gradient[rows], self.threat), x)
        share = 1.0 if first else MOMENTUM
        moved = self.threat.project(now + share * (ahead - now) + (1 - share) * (now - before), x)
        held = per_example(self.done[rows], now)
        state.before[rows] = now
        state.now[rows] = torch.where(held, now, moved)


class _State:
    """Where every example is, was, and was best; its step size, and what has happened since the last judgement."""

    def __init__(self, now: Tensor, before: Tensor, best: Tensor, size: Tensor) -> None:
        self.now, self.before, self.best, self.size = now, before, best, size
        self.gradient = torch.zeros_like(now)
        self.at_best = torch.zeros_like(now)
        """Gradient at the best iterate, so that going back to it costs no pass."""
        self.top = torch.full_like(size, float("-inf"))
        self.last = torch.full_like(size, float("inf"))
        self.rises = torch.zeros_like(size)
        self.top_before = self.top.clone()
        self.halved = torch.ones_like(size, dtype=torch.bool)

    def see(self, rows: Tensor, at: Tensor, height: Tensor, gradient: Tensor | None) -> None:
        """Take note of an iterate ``at`` (b, C, H, W), its height (b,) and its gradient."""
        better = height > self.top[rows]
        self.best[rows] = torch.where(per_example(better, at), at, self.best[rows])
        self.top[rows] = torch.where(better, height, self.top[rows])
        self.rises[rows] += (height > self.last[rows]).to(self.rises.dtype)
        self.last[rows] = height
        if gradient is not None:
            self.gradient[rows] = gradient
            self.at_best[rows] = torch.where(per_example(better, at), gradient, self.at_best[rows])

    def judge(self, rows: Tensor, steps: int) -> None:
        """Where too few of the last ``steps`` rose, or nothing has come of them, halve the step and go back."""
        few = self.rises[rows] < ENOUGH * steps
        nothing = ~self.halved[rows] & (self.top_before[rows] >= self.top[rows])
        stalled = few | nothing
        self.halved[rows] = stalled
        self.top_before[rows] = self.top[rows]
        self.rises[rows] = 0
        self.size[rows] = torch.where(stalled, self.size[rows] / 2, self.size[rows])
        wide = per_example(stalled, self.now[rows])
        self.now[rows] = torch.where(wide, self.best[rows], self.now[rows])
        self.before[rows] = torch.where(wide, self.best[rows], self.before[rows])
        self.gradient[rows] = torch.where(wide, self.at_best[rows], self.gradient[rows])
        self.last[rows] = torch.where(stalled, self.top[rows], self.last[rows])
