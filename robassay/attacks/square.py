"""Square attack: random search with square-shaped changes, from scores alone (Andriushchenko et al. 2020).

Every example has random numbers of its own, the whole schedule drawn at once from a counter-based generator that is
keyed by the stream and by the image's pixels: batch mates change nothing, and a query costs no generator per row.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from robassay.access import Attack, ScoreAccess
from robassay.attacks.gradient import radius
from robassay.errors import UsageError
from robassay.registry import part
from robassay.rng import Stream, identities
from robassay.threat import Goal, Threat, euclidean, per_example

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
"""After these iterations of 10 000 the share of changed pixels is halved (the paper's section 3.3)."""

Propose = Callable[[int, Tensor, Tensor], Tensor]
"""(query, rows (b,), a copy of their best images (b, C, H, W), free to be used) → images to ask about (b, C, H, W)."""


@part(source="Andriushchenko et al. 2020")
class Square(Attack):
    """Random search over squares, L∞ (stripes as the start) or L2 (tiles as the start), with the margin as loss.

    Args:
        queries: images asked about per example, the start included; the schedule of sizes is rescaled to it.
        share: share of the pixels that a first square covers, the paper's p.
        recheck: on a random classifier an image has to win twice, and every so-manieth query asks about the best
            again, see :func:`random_search`; 0 for neither, as published.
    """

    access = ScoreAccess
    queries: int = 5000
    share: float = 0.8
    recheck: int = 5

    def __post_init__(self) -> None:
        if self.queries < 1 or self.recheck < 0 or self.recheck == 1 or not 0 < self.share <= 1:
            raise UsageError("square needs queries ≥ 1, 0 < share ≤ 1 and recheck ≥ 2 (or 0 for never).")

    def __call__(self, access: ScoreAccess, x: Tensor, goal: Goal, threat: Threat, rng: Stream) -> Tensor:
        goal.check(len(x))
        radius(threat)
        if threat.norm == "l0":
            raise UsageError("square works in L∞ and L2, the threat is l0. Use one-pixel.")
        squares = (_Flat if threat.norm == "linf" else _Pyramids)(x, threat, self, rng.child("squares"))
        found = random_search(access, x, goal, squares.propose, self.queries, self.recheck, rng)
        return threat.project(found, x)


def random_search(
    access: ScoreAccess, x: Tensor, goal: Goal, propose: Propose, queries: int, recheck: int, rng: Stream
) -> Tensor:
    """Per example the proposed image (B, C, H, W) with the largest mean margin.

    On a deterministic, uncoupled classifier an example leaves the batch at its first success. On any other the largest
    of many noisy margins is a lucky one: unless ``recheck`` is 0, an image takes the lead only when a second question
    about it, too, beats the leader, and every ``recheck``-th query is about the leader, whose margins are averaged.
    """
    if recheck and (access.stochastic or access.coupled):
        return _search_noisy(access, x, goal, propose, queries, recheck, rng)
    certain = not (access.stochastic or access.coupled)
    best, rows = x.clone(), torch.arange(len(x), device=x.device)
    top = torch.full((len(x),), -torch.inf, device=x.device)
    for k in range(queries):
        if not len(rows):
            break
        asked = propose(k, rows, best[rows])
        mine = goal[rows]
        logits = access.scores(asked, rng.child("query", k), rows)
        gap = mine.margin(logits).mean(0)
        reached = mine.won(logits).all(0) & certain
        moved = ((gap > top[rows]) | reached).nonzero().flatten()
        best[rows[moved]] = asked[moved]
        top[rows[moved]] = gap[moved]
        if certain and reached.any():
            rows = rows[~reached]
    return best


def _search_noisy(
    access: ScoreAccess, x: Tensor, goal: Goal, propose: Propose, queries: int, recheck: int, rng: Stream
) -> Tensor:
    """As :func:`random_search`, where every example stays and has its leader and perhaps a challenger."""
    best, challenger = x.clone(), x.clone()
    height = torch.full((len(x),), -torch.inf, device=x.device)
    seen = torch.ones_like(height)
    waiting = torch.zeros_like(height, dtype=torch.bool)
    rows = torch.arange(len(x), device=x.device)
    for k in range(queries):
        again = (k + 1) % recheck == 0
        asked = torch.where(per_example(waiting, x), challenger, best if again else propose(k, rows, best.clone()))
        gap = goal.margin(access.scores(asked, rng.child("query", k))).mean(0)
        # The first image has not been chosen for its margin: nothing lucky about it.
        leads = (waiting & (gap > height)) if k else ~waiting
        averaged = (height * seen + gap) / (seen + 1)
        same = ~waiting & again & (k > 0)
        seen = torch.where(leads, 1.0, seen + same)
        height = torch.where(leads, gap, torch.where(same, averaged, height))
        best = torch.where(per_example(leads, x), asked, best)
        waiting = ~waiting & ~leads & (gap > height) & (not again)
        challenger = asked
    return best


def side(query: int, queries: int, share: float, height: int, width: int, least: int = 1) -> int:
    """Side of the square in pixels at a query of ``queries``."""
    at = int(query / queries * 10000)
    p = share / 2 ** sum(at > halving for halving in HALVINGS)
    return min(max(round(math.sqrt(p * height * width)), least), height, width)


@dataclass
class _Squares(abc.ABC):
    """Random numbers for all queries of all examples: places in [0,1), signs and turns.

    Attributes:
        places: (B, queries, 4) float32, two corners.
        bits, start: int8 0 or 1, (B, queries, C + 1) and (B, n, C + 1): a sign per channel, then a turn.
    """

    x: Tensor
    threat: Threat
    attack: Square
    rng: Stream

    def __post_init__(self) -> None:
        x, (_, c, h, w) = self.x, self.x.shape
        self.eps, self.grid = radius(self.threat), (h, w)
        queries, first = self.attack.queries, self.first()
        places, bits, start = [], [], []
        for who in identities(x):
            own = np.random.Generator(np.random.Philox(key=np.array([self.rng.seed(), who], dtype=np.uint64)))
            places.append(own.random((queries, 4), dtype=np.float32))
            bits.append(own.integers(0, 2, (queries, c + 1), dtype=np.int8))
            start.append(own.integers(0, 2, (first, c + 1), dtype=np.int8))
        together = lambda found, *shape: torch.from_numpy(
            np.stack(found) if found else np.zeros((0, *shape), np.float32)
        ).to(x.device)
        self.places = together(places, queries, 4)
        self.bits = together(bits, queries, c + 1)
        self.start = together(start, first, c + 1)
        self.channels = torch.arange(c, device=x.device).reshape(1, c, 1, 1)

    @abc.abstractmethod
    def first(self) -> int:
        """How many random signs per channel the start needs."""

    def window(self, k: int, rows: Tensor, size: int, which: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Indices of a square of ``size`` per row into images (b, C, H, W)."""
        room = torch.tensor([n - size + 1 for n in self.grid], device=rows.device)
        corner = (self.places[rows, k, 2 * which : 2 * which + 2] * room).long()
        span = torch.arange(size, device=rows.device)
        down = (corner[:, :1] + span)[:, None, :, None]
        along = (corner[:, 1:] + span)[:, None, None, :]
        return torch.arange(len(rows), device=rows.device)[:, None, None, None], self.channels, down, along

    def signs(self, k: int, rows: Tensor) -> Tensor:
        """−1 or 1 per row and channel, (b, C, 1, 1)."""
        return (self.bits[rows, k, :-1] * 2 - 1)[:, :, None, None].to(self.x.dtype)


class _Flat(_Squares):
    """L∞: every pixel at one of its two ends, a square of one sign per channel; vertical stripes to begin with."""

    def first(self) -> int:
        return self.x.shape[3]

    def propose(self, k: int, rows: Tensor, best: Tensor) -> Tensor:
        if k == 0:
            stripes = self.start[rows, :, :-1].transpose(1, 2).unsqueeze(2).to(best.dtype) * 2 - 1
            return (self.x[rows] + self.eps * stripes).clamp(*self.threat.box)
        size = side(k - 1, self.attack.queries, self.attack.share, *self.grid)
        at = self.window(k, rows, size)
        there = self.x[(rows[:, None, None, None], *at[1:])]
        best[at] = (there + self.eps * self.signs(k, rows)).clamp_(*self.threat.box)
        return best


class _Pyramids(_Squares):
    """L2: energy moves from one square to another, where it takes the shape of a pair of pyramids."""

    def first(self) -> int:
        tile = max(1, min(self.grid) // 5)
        return (self.grid[0] // tile) * (self.grid[1] // tile)

    def propose(self, k: int, rows: Tensor, best: Tensor) -> Tensor:
        x = self.x[rows]
        delta = self._tiles(rows) if k == 0 else self._moved(k, rows, best - x)
        return (x + self.eps * delta / per_example(_length(delta), delta)).clamp(*self.threat.box)

    def _tiles(self, rows: Tensor) -> Tensor:
        (h, w), tile = self.grid, max(1, min(self.grid) // 5)
        delta = torch.zeros_like(self.x[rows])
        top, left = (h % tile) // 2, (w % tile) // 2
        corners = [(top + i * tile, left + j * tile) for i in range(h // tile) for j in range(w // tile)]
        for n, (i, j) in enumerate(corners):
            bits = self.start[rows, n]
            sign = (bits[:, :-1] * 2 - 1)[:, :, None, None].to(delta.dtype)
            delta[:, :, i : i + tile, j : j + tile] = sign * self._shape(tile, bits[:, -1])
        return delta

    def _shape(self, size: int, turn: Tensor) -> Tensor:
        """The pair of pyramids (b, 1, size, size), on its side where ``turn`` (b,) says so."""
        shape = torch.from_numpy(pyramids(size)).to(self.x)
        return torch.where(per_example(turn > 0, self.x), shape.T, shape)

    def _moved(self, k: int, rows: Tensor, delta: Tensor) -> Tensor:
        size = side(k - 1, self.attack.queries, self.attack.share, *self.grid, least=3)
        size = min(size + (size % 2 == 0), *self.grid)
        to, source = self.window(k, rows, size), self.window(k, rows, size, which=1)
        there, all_of_it = delta[to], delta.square().sum((2, 3), keepdim=True)
        rest = delta.clone()
        rest[to] = 0
        rest[source] = 0
        freed = (all_of_it - rest.square().sum((2, 3), keepdim=True)).clamp_min(0)
        unused = (self.eps**2 - all_of_it.sum(1, keepdim=True)).clamp_min(0) / delta.shape[1]
        shape = self._shape(size, self.bits[rows, k, -1]) * self.signs(k, rows) + there / _norm(there)
        rest[to] = shape / _norm(shape) * (unused + freed).sqrt()
        return rest


def _norm(squares: Tensor) -> Tensor:
    return squares.square().sum((2, 3), keepdim=True).sqrt().clamp_min(1e-12)


def _length(delta: Tensor) -> Tensor:
    return euclidean(delta).clamp_min(1e-12).to(delta.dtype)


@cache
def pyramids(size: int) -> np.ndarray:
    """A rising and a falling pyramid side by side, (size, size), of Euclidean norm 1 (the paper's eq. 2)."""
    up, down = _pyramid(size // 2, size), _pyramid(size - size // 2, size)
    both = np.concatenate([up, -down])
    return (both / np.linalg.norm(both)).astype(np.float32)


def _pyramid(height: int, width: int) -> np.ndarray:
    away = np.maximum(abs(np.arange(height) - height // 2)[:, None], abs(np.arange(width) - width // 2)[None])
    steps = 1 / np.arange(1, max(height, width) // 2 + 2) ** 2
    tails = steps[::-1].cumsum()[::-1]
    found: np.ndarray = tails[away]
    return found / max(np.linalg.norm(found), 1e-12)
