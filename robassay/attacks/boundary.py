"""Boundary attack: a walk along the decision boundary that sees labels only (Brendel et al. 2018).

All images of a batch walk at once, each with a step size and random numbers of its own, and their candidates share a
forward pass.
"""

from __future__ import annotations

import torch
from torch import Tensor

from robassay.access import Attack, DecisionAccess
from robassay.attacks.accept import Acceptance, Single
from robassay.attacks.decisions import Begun, Numbers, Questions, begin, check_counts, kept, settle
from robassay.errors import UsageError
from robassay.registry import part
from robassay.rng import Stream
from robassay.threat import Goal, Threat

CONVERGED = 1e-7
"""Step towards the image, as a share of the distance, below which an example stops."""
LONGEST = 0.3
"""Longest such step."""
TARGET = 0.2
"""Share of accepted candidates that the step sizes are driven to."""
PACE = 0.3
"""How fast: all candidates accepted multiply the step towards the image by exp(0.3 · 0.8)."""
FLOOR = 0.6
"""Weight of noise in pixels that are unchanged so far; the mean changed pixel has 1.6."""


@part(source="Brendel et al. 2018")
class Boundary(Attack):
    """A walk along the decision boundary towards the image, L2.

    Args:
        queries: decisions per image and model, the start included.
        candidates: images per step.
        source: first step towards the image, as a share of the distance; the step along the sphere is its root.
        accept: when an image counts as adversarial on a random classifier: KOfN(k, n) decisions, or Single(), the
            published rule, which collects lucky draws.
        starts: noise images from among which the walk begins.
    """

    access = DecisionAccess
    queries: int = 2500
    candidates: int = 2
    source: float = 0.01
    accept: Acceptance = Single()
    starts: int = 4

    def __post_init__(self) -> None:
        check_counts(self, self.queries, self.accept)
        if self.candidates < 1 or self.starts < 1 or not 0 < self.source < 1:
            raise UsageError("boundary needs candidates ≥ 1, starts ≥ 1 and 0 < source < 1.")

    def __call__(self, access: DecisionAccess, x: Tensor, goal: Goal, threat: Threat, rng: Stream) -> Tensor:
        goal.check(len(x))
        if threat.norm != "l2":
            raise UsageError(f"boundary minimises the L2 distance, the threat is {threat.norm}. Use hopskipjump.")
        ask = Questions(access, x, goal, rng.child("ask"), self.queries, self.accept)
        begun = begin(ask, threat, rng.child("start"), self.starts)
        walk = _Walk(ask, begun, threat.box, Numbers(x, rng.child("walk"), self.queries), self)
        while len(rows := ask.affordable(walk.active, self.candidates)):
            walk.step(rows)
        settle(ask, walk.now, begun.found, threat)
        return kept(walk.now, x, threat)


class _Walk:
    """Where every example is, how far from its clean image, and how large its steps are."""

    def __init__(
        self, ask: Questions, begun: Begun, box: tuple[float, float], numbers: Numbers, attack: Boundary
    ) -> None:
        self.ask, self.box, self.numbers, self.k = ask, box, numbers, attack.candidates
        self.now, self.active = begun.now, begun.walking
        self.distance = (self.now - ask.x).flatten(1).norm(dim=1)
        self.source = torch.full_like(self.distance, attack.source)

    def step(self, rows: Tensor) -> None:
        """Show every example's candidates and go to the nearest that reaches the goal."""
        x = self.ask.x[rows].flatten(1)
        images = self._candidates(rows, x)
        good = self.ask.reached(images.reshape(len(rows), self.k, *self.now.shape[1:]), rows)
        far = torch.full(good.shape, torch.inf, device=x.device, dtype=x.dtype)
        example, which = good.nonzero(as_tuple=True)
        far[example, which] = (images[example, which] - x[example]).norm(dim=1)
        nearest, which = far.min(1)
        better = (nearest < self.distance[rows]).nonzero().flatten()
        at = rows[better]
        self.now[at] = images[better, which[better]].reshape(len(better), *self.now.shape[1:])
        self.distance[at] = nearest[better]
        self._adapt(rows, good)

    def _adapt(self, rows: Tensor, good: Tensor) -> None:
        """Longer steps where many candidates reach the goal, shorter ones where few do.

        In place of the paper's two success rates, of which one costs queries of its own: a step s along the sphere
        is worth a step of about s² towards the image, so the two are kept at this ratio.
        """
        rise = PACE * (good.to(self.source.dtype).mean(1) - TARGET)
        self.source[rows] = (self.source[rows] * rise.exp()).clamp_max(LONGEST)
        self.active &= self.source > CONVERGED

    def _candidates(self, rows: Tensor, x: Tensor) -> Tensor:
        """Steps along the sphere, then towards the image: (b, k, C · H · W).

        Pixels that are changed already get more of the noise (Brunner et al. 2019).
        """
        away, distance = self.now[rows].flatten(1) - x, self.distance[rows, None]
        weight = away.abs()
        weight += FLOOR * weight.mean(1, keepdim=True)
        noise = self.numbers.take(rows, self.k)
        noise *= weight[:, None]
        along = torch.bmm(noise, away[:, :, None])[:, :, 0] / distance
        across = (noise.norm(dim=2).square() - along.square()).clamp_min(1e-24).sqrt()
        source = self.source[rows, None]
        step = source.sqrt()
        shrink = (1 - source) / (1 + source).sqrt()
        of_away = shrink * (1 - step * along / across)
        noise *= (shrink * step * distance / across)[:, :, None]
        # x + of_away · away + noise, in place: what is copied here costs as much as a small network.
        noise.addcmul_(of_away[:, :, None], away[:, None])
        return noise.add_(x[:, None]).clamp_(*self.box)
