"""Boundary attack: a walk along the decision boundary that sees labels only (Brendel et al. 2018).

All images of a batch walk at once, each with step sizes and random numbers of its own, and their candidates share a
forward pass. What decision-based attacks have in common is here, too: :class:`Questions` and :func:`begin`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robassay.access import Attack, DecisionAccess
from robassay.errors import UsageError
from robassay.registry import part
from robassay.rng import Stream, identities
from robassay.threat import Goal, Threat, euclidean, per_example

NOISE_DRAWS = 1000
"""Uniform noise images that are tried before an image counts as one without a start."""
TABLE = 2**21
"""Normal numbers that all candidates of a batch are cut from."""
CONVERGED = 1e-7
"""Step towards the image, as a share of the distance, below which an example stops."""
LONGEST = 0.3
SEARCH = 8
"""Halvings of the way from a start to the image."""
NEARER = 0.9
"""A further start must reach the goal at this share of the distance."""
TARGET = 0.2
"""Share of accepted candidates that the step sizes are driven to."""
PACE = 0.3
"""How fast: all candidates accepted multiply the step towards the image by exp(0.3 · 0.8)."""
FLOOR = 0.6
"""Weight of noise in pixels that are unchanged so far; the mean changed pixel has 1.6."""


class Questions:
    """Asks whether images reach the goal, on a budget per example.

    On a random classifier an image reaches the goal when at least ``agree`` of ``of`` decisions say so.

    Args:
        access: who answers; all of its models must be fooled.
        x: the clean images (B, C, H, W).
        queries: decisions per example and model.
    """

    def __init__(
        self, access: DecisionAccess, x: Tensor, goal: Goal, rng: Stream, queries: int, agree: int, of: int
    ) -> None:
        self.access, self.x, self.goal, self.rng = access, x, goal, rng
        self.agree, self.of = (agree, of) if access.stochastic else (1, 1)
        self.left = torch.full((len(x),), queries // self.of, dtype=torch.int64)
        """Images that may still be shown per example, int64 (B,) on the CPU."""
        self.asked = 0

    def affordable(self, active: Tensor, images: int) -> Tensor:
        """Indices of the ``active`` (bool (B,)) examples that may still show as many images."""
        return (active.cpu() & (self.left >= images)).nonzero().flatten().to(self.x.device)

    def reached(self, images: Tensor, rows: Tensor) -> Tensor:
        """bool (b, k): which of the k images (b, k, C, H, W) of each of the examples ``rows`` (b,) reach the goal."""
        if not len(rows):
            return torch.zeros(images.shape[:2], dtype=torch.bool, device=images.device)
        if self.access.coupled:
            return torch.stack([self._in_full(images[:, j], rows) for j in range(images.shape[1])], 1)
        k = images.shape[1]
        self.left[rows.cpu()] -= k
        labels = self.goal.labels[rows].repeat_interleave(k)
        return self._votes(images.flatten(0, 1), labels, rows.cpu(), k).reshape(len(rows), k)

    def _in_full(self, images: Tensor, rows: Tensor) -> Tensor:
        """One image per example, shown within the whole batch: a coupled classifier answers about nothing less."""
        self.left -= 1
        everything = self.x.clone()
        everything[rows] = images
        return self._votes(everything, self.goal.labels, torch.arange(len(self.x)), 1)[rows]

    def _votes(self, images: Tensor, labels: Tensor, rows: Tensor, k: int) -> Tensor:
        goal, votes = Goal(labels, self.goal.targeted), torch.zeros_like(labels)
        access = self.access
        for i in range(self.of):
            votes += goal.reached(access.decisions(images, self.rng.child(self.asked, i), rows)).all(0)
            for model in access.models if k > 1 else ():  # the access has counted one image of each example
                access.spent.add(rows, (k - 1) * (access.policy.draws if model.stochastic else 1), 0, k - 1)
        self.asked += 1
        return votes >= self.agree


class Numbers:
    """Normal numbers, the same for an example whatever its batch mates, at the price of a copy.

    Vectors are cut from one table at random places (Salimans et al. 2017): fresh ones cost a tenth of the forward pass
    of a small network. The places are an example's own.
    """

    def __init__(self, x: Tensor, rng: Stream, count: int) -> None:
        size, base = x[0].numel(), rng.child("places").seed()
        table = torch.randn(TABLE + size, generator=rng.child("table").generator()).to(x.device, x.dtype)
        self.vectors = table.unfold(0, size, 1)
        generator = torch.Generator()
        places = [torch.randint(TABLE, (count,), generator=generator.manual_seed(base ^ i)) for i in identities(x)]
        self.places = torch.stack(places).to(x.device)
        self.used = torch.zeros(len(x), dtype=torch.int64, device=x.device)

    def take(self, rows: Tensor, k: int) -> Tensor:
        """The next ``k`` vectors (b, k, C · H · W) of each of the examples ``rows`` (b,)."""
        at = (self.used[rows, None] + torch.arange(k, device=rows.device)) % self.places.shape[1]
        self.used[rows] += k
        return self.vectors[self.places[rows].gather(1, at)]


@dataclass
class Begun:
    """Where a search begins.

    Attributes:
        now: images (B, C, H, W) that reach the goal where ``found``; elsewhere the clean ones.
        found: bool (B,).
        walking: bool (B,): found, and the clean image does not reach the goal by itself.
    """

    now: Tensor
    found: Tensor
    walking: Tensor


def blend(x: Tensor, far: Tensor, share: Tensor) -> Tensor:
    """x + share · (far − x) for x (b, C, H, W), far and result (b, k, C, H, W), shares (b, k)."""
    return torch.lerp(x[:, None], far, share.reshape(*share.shape, 1, 1, 1))


def begin(ask: Questions, threat: Threat, rng: Stream, starts: int) -> Begun:
    """An image that reaches the goal for every example that has one: the given start, or else uniform noise.

    The first image found is searched back to the boundary. Up to ``starts`` further noise images replace it where they
    reach the goal from nearer by.
    """
    x, given = ask.x, ask.access.start
    n = len(x)
    every = torch.ones(n, dtype=torch.bool, device=x.device)
    now, found, clean = x.clone(), ~every, ~every
    rows = ask.affordable(every, 1)
    clean[rows] = ask.reached(x[rows, None], rows)[:, 0]
    found |= clean
    if given is not None:
        rows = ask.affordable(~found, 1)
        far = given[rows].clamp(*threat.box)
        good = ask.reached(far[:, None], rows)[:, 0]
        now[rows[good]], found[rows[good]] = far[good], True
    noise = _Uniform(x, threat, rng)
    tried = 0
    while tried < NOISE_DRAWS and len(rows := ask.affordable(~found, 1)):
        far = noise.take(rows)
        good = ask.reached(far[:, None], rows)[:, 0]
        now[rows[good]], found[rows[good]] = far[good], True
        tried += 1
    walking = found & ~clean
    search_back(ask, now, walking, SEARCH)
    for _ in range(starts - 1):
        rows = ask.affordable(walking, 1)
        far = noise.take(rows)
        near = NEARER * euclidean(now[rows] - x[rows]) / euclidean(far - x[rows]).clamp_min(1e-12)
        images = blend(x[rows], far[:, None], near.clamp_max(1.0)[:, None].to(x.dtype))
        good = ask.reached(images, rows)[:, 0]
        now[rows[good]] = images[good, 0]
    if starts > 1:
        search_back(ask, now, walking, SEARCH)
    return Begun(now, found, walking)


class _Uniform:
    """Uniform noise images in the box; an example's do not depend on its batch mates."""

    def __init__(self, x: Tensor, threat: Threat, rng: Stream) -> None:
        self.x, self.box = x, threat.box
        base = rng.child("noise").seed()
        self.generators = [torch.Generator().manual_seed(base ^ i) for i in identities(x)]

    def take(self, rows: Tensor) -> Tensor:
        """The next noise image of each of the examples ``rows``: (b, C, H, W)."""
        low, high = self.box
        shape = self.x.shape[1:]
        drawn = [torch.rand(shape, generator=self.generators[i]) for i in rows.tolist()]
        images = torch.stack(drawn).to(self.x.device, self.x.dtype) if drawn else self.x[:0]
        return low + (high - low) * images


def search_back(ask: Questions, now: Tensor, active: Tensor, steps: int, norm: str = "l2") -> None:
    """Halve the way from ``now`` (B, C, H, W; changed in place) to the clean image ``steps`` times.

    The way is a straight line, for "linf" the clipping of the change to ever smaller cubes.
    """
    low = torch.zeros(len(now), 1, device=now.device, dtype=now.dtype)
    high = torch.ones_like(low)
    far = now.clone()
    for _ in range(steps):
        rows = ask.affordable(active, 1)
        if not len(rows):
            return
        middle = (low[rows] + high[rows]) / 2
        x = ask.x[rows]
        if norm == "linf":
            delta = far[rows] - x
            bound = per_example(middle * delta.abs().flatten(1).amax(1, keepdim=True), x)
            images = (x + torch.min(torch.max(delta, -bound), bound))[:, None]
        else:
            images = blend(x, far[rows, None], middle)
        good = ask.reached(images, rows)
        high[rows] = torch.where(good, middle, high[rows])
        low[rows] = torch.where(good, low[rows], middle)
        now[rows[good[:, 0]]] = images[good]


@part(source="Brendel et al. 2018")
class Boundary(Attack):
    """A walk along the decision boundary towards the image, L2.

    Args:
        queries: decisions per image and model, the start included.
        candidates: images per step.
        source: first step towards the image, as a share of the distance; the step along the sphere is its root.
        agree, of: on a random classifier a candidate is accepted when ``agree`` of ``of`` decisions reach the goal.
            1 of 1 is the published rule, which collects lucky draws.
        starts: noise images from among which the walk begins.
    """

    access = DecisionAccess
    queries: int = 2500
    candidates: int = 2
    source: float = 0.01
    agree: int = 1
    of: int = 1
    starts: int = 4

    def __post_init__(self) -> None:
        check_counts(self, self.queries, self.agree, self.of)
        if self.candidates < 1 or self.starts < 1 or not 0 < self.source < 1:
            raise UsageError("boundary needs candidates ≥ 1, starts ≥ 1 and 0 < source < 1.")

    def __call__(self, access: DecisionAccess, x: Tensor, goal: Goal, threat: Threat, rng: Stream) -> Tensor:
        if threat.norm != "l2":
            raise UsageError(f"boundary minimises the L2 distance, the threat is {threat.norm}. Use hopskipjump.")
        ask = Questions(access, x, goal, rng.child("ask"), self.queries, self.agree, self.of)
        begun = begin(ask, threat, rng.child("start"), self.starts)
        walk = _Walk(ask, begun, threat, Numbers(x, rng.child("walk"), self.queries), self)
        while len(rows := ask.affordable(walk.active, self.candidates)):
            walk.step(rows)
        return kept(walk.now, x, threat)


def kept(found: Tensor, x: Tensor, threat: Threat) -> Tensor:
    """``found`` where it keeps the threat, the clean image elsewhere; both (B, C, H, W)."""
    return torch.where(per_example(threat.holds(found, x), x), found, x)


def check_counts(attack: Attack, queries: int, agree: int, of: int) -> None:
    """Refuse budgets and acceptance rules that cannot be met."""
    if queries < 1 or not 1 <= agree <= of:
        raise UsageError(f"{type(attack).__name__} needs queries ≥ 1 and 1 ≤ agree ≤ of, such as agree=4, of=5.")


class _Walk:
    """Where every example is and how large its steps are."""

    def __init__(self, ask: Questions, begun: Begun, threat: Threat, numbers: Numbers, attack: Boundary) -> None:
        self.ask, self.box, self.numbers, self.k = ask, threat.box, numbers, attack.candidates
        self.now, self.active = begun.now, begun.walking
        self.source = torch.full((len(self.now),), attack.source, device=self.now.device)

    def step(self, rows: Tensor) -> None:
        """Show every example's candidates and go to the nearest that reaches the goal."""
        x, now = self.ask.x[rows].flatten(1), self.now[rows].flatten(1)
        away = now - x
        distance = away.norm(dim=1)
        images = self._candidates(rows, x, away, distance)
        good = self.ask.reached(images.reshape(len(rows), self.k, *self.now.shape[1:]), rows)
        far = (images - x[:, None]).norm(dim=2)
        far = torch.where(good, far, torch.inf)
        best, which = far.min(1)
        better = best < distance
        chosen = images[torch.arange(len(rows), device=rows.device), which].reshape(len(rows), *self.now.shape[1:])
        self.now[rows] = torch.where(per_example(better, chosen), chosen, self.now[rows])
        self._adapt(rows, good)

    def _adapt(self, rows: Tensor, good: Tensor) -> None:
        """Longer steps where many candidates reach the goal, shorter ones where few do.

        In place of the paper's two success rates, of which one costs queries of its own: a step s along the sphere
        lengthens the way by s² / 2, so the step towards the image is kept at s².
        """
        rise = PACE * (good.to(self.source.dtype).mean(1) - TARGET)
        self.source[rows] = (self.source[rows] * rise.exp()).clamp_max(LONGEST)
        self.active &= self.source > CONVERGED

    def _candidates(self, rows: Tensor, x: Tensor, away: Tensor, distance: Tensor) -> Tensor:
        """Steps along the sphere, then towards the image: (b, k, C · H · W)."""
        noise = self.numbers.take(rows, self.k)
        size = away.abs()
        noise *= (size / size.mean(1, keepdim=True) + FLOOR)[:, None]
        along = torch.bmm(noise, away[:, :, None])[:, :, 0] / distance[:, None]
        across = (noise.square().sum(2) - along.square()).clamp_min(1e-12).sqrt()
        source = self.source[rows, None]
        step = source.sqrt()
        shrink = (1 - source) / (1 + source).sqrt()
        of_away = shrink * (1 - step * along / across)
        of_noise = shrink * step * distance[:, None] / across
        images = torch.addcmul(x[:, None], of_away[:, :, None], away[:, None])
        return images.addcmul_(of_noise[:, :, None], noise).clamp_(*self.box)
