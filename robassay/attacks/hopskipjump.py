"""HopSkipJump: decisions about noisy copies of a boundary point tell the direction of its normal (Chen et al. 2020).

All images of a batch move at once, each on a budget and with random numbers of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robassay.access import Attack, DecisionAccess
from robassay.attacks.accept import Acceptance, Single
from robassay.attacks.decisions import Begun, Numbers, Questions, begin, check_counts, kept, search_back, settle
from robassay.errors import UsageError
from robassay.registry import part
from robassay.rng import Stream
from robassay.threat import Goal, Threat, euclidean, per_example

CHUNK = 20
"""Noisy copies per image and forward pass, whatever the batch, so that sums are rounded alike."""
HALVINGS = 12
"""Of a step, before an example stays where it is."""
SEARCH = 10
"""Halvings of the way back to the boundary."""
RESERVE = HALVINGS + SEARCH


@part(name="hopskipjump", source="Chen et al. 2020, algorithm 2")
class HopSkipJump(Attack):
    """Steps along an estimated normal of the decision boundary and back to the boundary, L2 or L∞.

    Args:
        queries: decisions per image and model, the start included.
        first: noisy copies B₀ in the first step; B₀ · √t in step t.
        most: largest number of noisy copies in a step.
        radius: size of the noise, as a share of the distance to the image, both L2.
        accept: when an image counts as adversarial on a random classifier: KOfN(k, n) decisions, or Single(), the
            published rule, which collects lucky draws.
        starts: noise images from among which the search begins.
    """

    access = DecisionAccess
    queries: int = 2500
    first: int = 100
    most: int = 10_000
    radius: float = 0.01
    accept: Acceptance = Single()
    starts: int = 4

    def __post_init__(self) -> None:
        check_counts(self, self.queries, self.accept)
        if not 1 <= self.first <= self.most or self.starts < 1 or not self.radius > 0:
            raise UsageError("hopskipjump needs 1 ≤ first ≤ most, starts ≥ 1 and radius > 0.")

    def __call__(self, access: DecisionAccess, x: Tensor, goal: Goal, threat: Threat, rng: Stream) -> Tensor:
        goal.check(len(x))
        if threat.norm == "l0":
            raise UsageError("hopskipjump minimises an L2 or L∞ distance, the threat is l0.")
        ask = Questions(access, x, goal, rng.child("ask"), self.queries, self.accept)
        begun = begin(ask, threat, rng.child("start"), self.starts)
        hops = _Hops(ask, begun, threat, Numbers(x, rng.child("hops"), self.queries), self.radius)
        step = 1
        while len(rows := hops.able()):
            hops.hop(rows, step, min(int(self.first * step**0.5), self.most))
            step += 1
        settle(ask, hops.best, begun.found, threat)
        return kept(hops.best, x, threat)


class _Hops:
    """Where every example is, and the nearest image that it has found."""

    def __init__(self, ask: Questions, begun: Begun, threat: Threat, numbers: Numbers, radius: float) -> None:
        self.ask, self.threat, self.numbers, self.radius = ask, threat, numbers, radius
        self.now, self.active = begun.now, begun.walking
        search_back(ask, self.now, self.active, SEARCH, threat.norm)
        self.best = self.now.clone()

    def able(self) -> Tensor:
        """The examples (b,) whose budget allows a hop."""
        return self.ask.affordable(self.active, CHUNK + RESERVE)

    def hop(self, rows: Tensor, step: int, copies: int) -> None:
        """Estimate the normal, step along it, search back to the boundary; for the examples ``rows`` (b,)."""
        normal = self._normal(rows, copies)
        if self.threat.norm == "linf":
            normal = normal.sign()
        now = self.now[rows]
        length = self.threat.size(now, self.ask.x[rows]) / step**0.5
        moved = torch.zeros(len(self.now), dtype=torch.bool, device=now.device)
        for _ in range(HALVINGS):
            left = (~moved[rows]).nonzero().flatten()
            if not len(left):
                break
            ahead = (now[left] + per_example(length[left], now) * normal[left]).clamp(*self.threat.box)
            good = self.ask.reached(ahead[:, None], rows[left])[:, 0]
            at = rows[left[good]]
            self.now[at], moved[at] = ahead[good], True
            length = length / 2
        search_back(self.ask, self.now, moved, SEARCH, self.threat.norm)
        x = self.ask.x[rows]
        better = self.threat.size(self.now[rows], x) < self.threat.size(self.best[rows], x)
        self.best[rows] = torch.where(per_example(better, x), self.now[rows], self.best[rows])

    def _normal(self, rows: Tensor, copies: int) -> Tensor:
        """Estimate of the boundary's unit normal (b, C, H, W), towards the goal, from noisy decisions (eq. 12, 16)."""
        size = self.radius * euclidean(self.now - self.ask.x).to(self.now.dtype)
        signed, plain = torch.zeros_like(self.now).flatten(1), torch.zeros_like(self.now).flatten(1)
        votes, shown = size.new_zeros(len(size)), size.new_zeros(len(size))
        chosen = torch.zeros(len(size), dtype=torch.bool, device=size.device)
        chosen[rows] = True
        while copies > 0 and len(some := self.ask.affordable(chosen, CHUNK + RESERVE)):
            k = min(copies, CHUNK)
            at = self.now[some].flatten(1)[:, None]
            noise = self.numbers.take(some, k)
            noise *= (size[some, None] / noise.norm(dim=2))[:, :, None]
            images = (at + noise).clamp_(*self.threat.box)
            good = self.ask.reached(images.reshape(len(some), k, *self.now.shape[1:]), some)
            sign = good.to(size.dtype) * 2 - 1
            images -= at  # what the box has left of the noise
            signed[some] += torch.bmm(sign[:, None], images)[:, 0]
            plain[some] += images.sum(1)
            votes[some] += sign.sum(1)
            shown[some] += k
            copies -= k
        mean = (votes / shown.clamp_min(1))[rows, None]
        # Without the mean the estimate varies less (eq. 16); where all agree, their mean direction is all there is.
        estimate = torch.where(mean.abs() < 1, signed[rows] - mean * plain[rows], signed[rows])
        return (estimate / estimate.norm(dim=1, keepdim=True).clamp_min(1e-12)).reshape(len(rows), *self.now.shape[1:])
