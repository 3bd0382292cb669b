"""What attacks that see labels only have in common: counted questions, starts, the way back to the boundary."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robassay.access import Attack, DecisionAccess
from robassay.attacks.accept import Acceptance
from robassay.errors import UsageError
from robassay.rng import Stream, identities
from robassay.threat import Goal, Threat, euclidean, per_example

NOISE_DRAWS = 1000
"""Uniform noise images that are tried before an image counts as one without a start."""
TABLE = 2**18
"""Normal numbers that all noise of a batch is cut from, and four images' worth more; few enough for a cache."""
SEARCH = 8
"""Halvings of the way from a start to the image."""
NEARER = 0.9
"""A further start must reach the goal at this share of the distance."""
SETTLE = 20
"""Fresh votes for the result on a random classifier, at most a quarter of the budget."""
BACK = 1.05
"""Factor of the distance after each of them that fails."""


class Questions:
    """Asks whether images reach the goal, on a budget per example.

    On a random classifier an image reaches the goal when ``accept`` has votes enough.

    Args:
        access: who answers; all of its models must be fooled.
        x: the clean images (B, C, H, W).
        queries: decisions per example and model.
    """

    def __init__(
        self, access: DecisionAccess, x: Tensor, goal: Goal, rng: Stream, queries: int, accept: Acceptance
    ) -> None:
        self.access, self.x, self.goal, self.rng = access, x, goal, rng
        self.agree, self.of = accept.votes() if access.stochastic else (1, 1)
        self.left = torch.full((len(x),), queries // self.of, dtype=torch.int64)
        """Images that may still be shown per example, int64 (B,) on the CPU."""
        self.asked = 0
        self.reserve = min(SETTLE, queries // self.of // 4) if self.of > 1 else 0
        """Images kept back for :func:`settle`."""

    def affordable(self, active: Tensor, images: int) -> Tensor:
        """Indices of the ``active`` (bool (B,)) examples that may still show as many images."""
        return (active.cpu() & (self.left >= images + self.reserve)).nonzero().flatten().to(self.x.device)

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
        table = torch.randn(TABLE + 4 * size, generator=rng.child("table").generator()).to(x.device, x.dtype)
        self.vectors = table.unfold(0, size, 1)
        generator = torch.Generator()
        places = [
            torch.randint(len(self.vectors), (count,), generator=generator.manual_seed(base ^ i)) for i in identities(x)
        ]
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


def settle(ask: Questions, now: Tensor, active: Tensor, threat: Threat) -> None:
    """Back off from the clean image until a fresh vote finds ``now`` (B, C, H, W; changed in place) adversarial.

    A search over hundreds of candidates of a random classifier ends at one whose votes were lucky. Asked where there
    are votes at all (``of`` > 1), so that 1 of 1 stays as published.
    """
    rounds, ask.reserve = ask.reserve, 0
    unsure = active.clone()
    for _ in range(rounds):
        rows = ask.affordable(unsure, 1)
        if not len(rows):
            return
        good = ask.reached(now[rows, None], rows)[:, 0]
        unsure[rows[good]] = False
        back = rows[~good]
        now[back] = (ask.x[back] + BACK * (now[back] - ask.x[back])).clamp(*threat.box)


def kept(found: Tensor, x: Tensor, threat: Threat) -> Tensor:
    """``found`` where it keeps the threat, the clean image elsewhere; both (B, C, H, W)."""
    return torch.where(per_example(threat.holds(found, x), x), found, x)


def check_counts(attack: Attack, queries: int, accept: Acceptance) -> None:
    """Refuse budgets and acceptance rules that cannot be met."""
    accept.votes()
    if queries < 1:
        raise UsageError(f"{type(attack).__name__} needs queries ≥ 1, such as queries=2500.")
