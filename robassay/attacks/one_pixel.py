"""One-pixel and few-pixel attack: differential evolution over positions and colours (Su et al. 2019).

A candidate is a vector of (row, column, colour …) per pixel, in pixels and in grey levels 0 to 255, truncated to
integers where it becomes an image. A generation is asked about at once, for all images together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from robassay.access import Attack, ScoreAccess
from robassay.attacks.gradient import radius
from robassay.errors import UsageError
from robassay.registry import part
from robassay.rng import Stream, identities
from robassay.threat import Goal, Threat

PASS_ELEMENTS = {"cpu": 2**18, "cuda": 2**26}
"""A generation is split into passes of about so many input values. Constants: they decide which draws share a pass."""
LEVELS = 255
DITHER = (0.5, 1.0)
"""Range of F under "dither": SciPy's default, which the code of A2SNN runs on."""

Energy = Callable[[int, Tensor, Tensor], Tensor]
"""(generation, rows (b,), members (b, P, D)) → energies (b, P), to be small."""
Stop = Callable[[int, Tensor, Tensor], Tensor]
"""(generation, rows (b,), best members (b, D)) → bool (b,)."""


@part(name="one-pixel", source="Su et al. 2019; settings of Eustratiadis et al. 2020")
class OnePixel(Attack):
    """Differential evolution, best/1/bin, on the probability of the label. Threat("l0", pixels).

    An image is finished as soon as its best candidate is misclassified (on a random classifier: by most draws of one
    further question, which favours lucky ones), or when its energies have settled. With a given start in the access,
    the pixels that differ most there are the first member of the population.

    Args:
        population: about how many candidates; rounded down to a multiple of a candidate's numbers, as SciPy counts.
        generations: at most so many after the first population.
        crossover: probability that a number comes from the mutant.
        mutation: factor F of the difference vector: a number (paper: 0.5), or "dither" for U(0.5, 1) anew in every
            generation.
        settled: energies have settled when their standard deviation is at most this part of their mean; 0 for never.
            The published 0.01 gives up at once on a network that is sure of the label whatever one pixel does.
    """

    access = ScoreAccess
    population: int = 400
    generations: int = 100
    crossover: float = 0.7
    mutation: float | Literal["dither"] = 0.5
    settled: float = 0.01

    def __post_init__(self) -> None:
        if self.population < 5 or self.generations < 0 or self.settled < 0 or not 0 <= self.crossover <= 1:
            raise UsageError("one-pixel needs population ≥ 5, generations ≥ 0, settled ≥ 0 and crossover in [0,1].")
        if self.mutation != "dither" and (isinstance(self.mutation, str) or not 0 < self.mutation <= 2):
            raise UsageError(f"mutation={self.mutation!r} is no factor. Write 0.5, or 'dither' for U(0.5, 1).")

    def __call__(self, access: ScoreAccess, x: Tensor, goal: Goal, threat: Threat, rng: Stream) -> Tensor:
        goal.check(len(x))
        pixels = min(int(radius(threat)), x[0, 0].numel()) if len(x) else 0
        if threat.norm != "l0":
            raise UsageError(f"one-pixel changes whole pixels, the threat is {threat.norm}. Write Threat('l0', 1).")
        if not pixels:
            return x.clone()
        start, generators, limits = self._start(access, x, pixels, rng.child("population"), threat)
        asked = None if access.stochastic or access.coupled or pixels > 1 else _Asked(access, x, goal, threat)

        def energy(k: int, rows: Tensor, members: Tensor) -> Tensor:
            if asked is not None:
                return asked.energies(rows, members)
            return _energies(access, x[rows], goal[rows], members, threat, rng.child("generation", k), rows)

        def fooled(k: int, rows: Tensor, best: Tensor) -> Tensor:
            asked = painted(x[rows], best, threat.box)
            logits = access.scores(asked, rng.child("check", k), rows)
            return goal[rows].won(logits).float().mean(0) > 0.5

        best = evolved(start, limits, energy, fooled, generators, self, access.coupled)
        return painted(x, best, threat.box)

    def _start(
        self, access: ScoreAccess, x: Tensor, pixels: int, rng: Stream, threat: Threat
    ) -> tuple[Tensor, list[np.random.Generator], Tensor]:
        """First populations (B, P, D), a generator per image, and the upper limits (D,) of the numbers."""
        _, c, h, w = x.shape
        limits = np.tile(np.array([h, w] + [LEVELS] * c, dtype=np.float32), pixels)
        size = max(self.population // len(limits), 1) * len(limits)
        size = max(size, 5)
        where = np.tile(np.array([True, True] + [False] * c), pixels)
        seed = rng.seed()
        generators = [
            np.random.Generator(np.random.Philox(key=np.array([seed, who], dtype=np.uint64))) for who in identities(x)
        ]
        drawn = []
        for own in generators:
            anywhere = own.random((size, len(limits)), dtype=np.float32) * limits
            colour = (128 + 127 * own.standard_normal((size, len(limits)), dtype=np.float32)).clip(0, LEVELS)
            drawn.append(np.where(where, anywhere, colour))
        start = torch.from_numpy(np.stack(drawn)).to(x.device)
        if access.start is not None:
            start[:, 0] = vectors(access.start, x, pixels, threat.box)
        return start, generators, torch.from_numpy(limits).to(x.device)


def painted(x: Tensor, members: Tensor, box: tuple[float, float]) -> Tensor:
    """Images ``x`` (b, C, H, W) with the pixels of ``members`` (b, D) or (b, P, D), as (b, …, C, H, W).

    Of two pixels in one place the later holds.
    """
    if members.dim() == 2:
        return painted(x, members.unsqueeze(1), box).squeeze(1)
    (b, count, _), (_, c, h, w) = members.shape, x.shape
    images = x.unsqueeze(1).repeat(1, count, 1, 1, 1)
    i, j = torch.arange(b, device=x.device)[:, None], torch.arange(count, device=x.device)[None]
    for one in members.reshape(b, count, -1, 2 + c).unbind(2):
        # The upper end of the range is a position outside the image.
        row, column = one[..., 0].long().clamp(0, h - 1), one[..., 1].long().clamp(0, w - 1)
        colour = one[..., 2:].trunc().clamp(0, LEVELS) / LEVELS
        images[i, j, :, row, column] = (box[0] + (box[1] - box[0]) * colour).to(x.dtype)
    return images


def vectors(found: Tensor, x: Tensor, pixels: int, box: tuple[float, float]) -> Tensor:
    """Candidates (B, D) for the ``pixels`` positions in which ``found`` differs most from ``x``, both (B, C, H, W)."""
    width = x.shape[3]
    most = (found - x).abs().sum(1).flatten(1).topk(pixels, dim=1).indices
    colour = ((found.flatten(2) - box[0]) / (box[1] - box[0]) * LEVELS).round().clamp(0, LEVELS)
    chosen = colour.gather(2, most[:, None].expand(-1, x.shape[1], -1)).transpose(1, 2)
    return torch.cat([(most // width)[..., None], (most % width)[..., None], chosen], -1).flatten(1).float()


def _energies(
    access: ScoreAccess, x: Tensor, goal: Goal, members: Tensor, threat: Threat, rng: Stream, rows: Tensor
) -> Tensor:
    """Mean probability (b, P) of the label, or of any other class when it is wanted."""
    share = max(1, PASS_ELEMENTS.get(x.device.type, 2**20) // max(1, x.numel()))
    energies = []
    for i, group in enumerate(members.split(share, dim=1)):
        count = group.shape[1]
        images = painted(x, group, threat.box).transpose(0, 1).flatten(0, 1)
        logits = access.scores(images, rng.child(i), rows)
        # The access has counted one image per example.
        access.spent.add(rows, (count - 1) * len(logits), 0, (count - 1) * len(access.models))
        chances = logits.double().softmax(-1).mean(0).unflatten(0, (count, len(x)))
        energies.append(chances.gather(-1, goal.labels.expand(count, -1)[..., None])[..., 0].T)
    found = torch.cat(energies, 1)
    return 1 - found if goal.targeted else found


class _Asked:
    """Energies of one-pixel candidates, each asked about once.

    Truncated to integers a converging population repeats itself: of 30,000 candidates for a grey image three quarters
    have been there before. A deterministic classifier gives the same answer again.
    """

    def __init__(self, access: ScoreAccess, x: Tensor, goal: Goal, threat: Threat) -> None:
        self.access, self.x, self.goal, self.threat = access, x, goal, threat
        self.known: dict[int, float] = {}
        """Energies by the number that (image, row, column, colour …) make together."""
        _, c, h, w = x.shape
        self.bases = [h, w] + [LEVELS + 1] * c

    def energies(self, rows: Tensor, members: Tensor) -> Tensor:
        """Energies (b, P) of ``members`` (b, P, D) of the images ``rows`` (b,)."""
        codes = rows[:, None].expand(members.shape[:2]).clone()
        for base, column in zip(self.bases, members.unbind(2), strict=True):
            codes = codes * base + column.long().clamp(0, base - 1)
        wanted = codes.flatten().tolist()
        new = torch.tensor(sorted(set(wanted) - self.known.keys()), dtype=torch.int64, device=codes.device)
        for some in new.split(self._most()):
            self.known.update(zip(some.tolist(), self._ask(some).tolist(), strict=True))
        found = [self.known[code] for code in wanted]
        return torch.tensor(found, dtype=torch.float64, device=codes.device).reshape(codes.shape)

    def _most(self) -> int:
        return max(1, PASS_ELEMENTS.get(self.x.device.type, 2**20) // self.x[0].numel())

    def _ask(self, codes: Tensor) -> Tensor:
        """Energies (n,) of numbered candidates."""
        columns, rest = [], codes
        for base in reversed(self.bases):
            columns.append((rest % base).float())
            rest = rest // base
        images = painted(self.x[rest], torch.stack(columns[::-1], 1), self.threat.box)
        logits = self.access.scores(images, Stream(), rest)
        chance = logits.double().softmax(-1).mean(0).gather(-1, self.goal.labels[rest, None])[:, 0]
        return 1 - chance if self.goal.targeted else chance


def evolved(
    start: Tensor,
    limits: Tensor,
    energy: Energy,
    stop: Stop,
    generators: list[np.random.Generator],
    settings: OnePixel,
    together: bool = False,
) -> Tensor:
    """Differential evolution best/1/bin of many populations at once; their best members (B, D).

    Args:
        start: first populations (B, P, D), numbers from 0 to ``limits`` (D,).
        energy, stop: what is minimised, and when a population has arrived.
        generators: one per population.
        settings: generations, crossover, mutation and settled.
        together: populations leave all at once.
    """
    members, rows = start, torch.arange(len(start), device=start.device)
    factor = None if settings.mutation == "dither" else settings.mutation
    found = start[:, 0].clone()
    energies = energy(0, rows, members)
    for k in range(settings.generations + 1):
        if k:
            drawn = torch.from_numpy(np.stack([_numbers(own, members) for own in generators])).to(start.device)
            tried = trials(members, energies.argmin(1), drawn, limits, factor, settings.crossover)
            value = energy(k, rows, tried)
            better = value <= energies
            members = torch.where(better[..., None], tried, members)
            energies = torch.where(better, value, energies)
        best = members[torch.arange(len(rows), device=rows.device), energies.argmin(1)]
        found[rows] = best
        done = stop(k, rows, best)
        if k and settings.settled:
            done |= energies.std(1, correction=0) <= settings.settled * energies.mean(1).abs()
        if done.all():
            break
        if done.any() and not together:
            kept = (~done).nonzero().flatten()
            rows, members, energies = rows[kept], members[kept], energies[kept]
            generators = [generators[i] for i in kept.tolist()]
    return found


def _numbers(own: np.random.Generator, members: Tensor) -> np.ndarray:
    """Uniform numbers (P, 2 D + 4) for one generation of one population."""
    return own.random((members.shape[1], 2 * members.shape[2] + 4), dtype=np.float32)


def trials(
    members: Tensor, best: Tensor, drawn: Tensor, limits: Tensor, factor: float | None, crossover: float
) -> Tensor:
    """Candidates (b, P, D) that challenge ``members`` (b, P, D): best + F (r0 − r1), crossed with the member.

    Args:
        best: index (b,) of the best member.
        drawn: uniform numbers (b, P, 2 D + 4) in [0,1).
        factor: F; None draws it from :data:`DITHER`, one per population.
    """
    b, count, numbers = members.shape
    picks, crossing, anew = drawn[..., :4], drawn[..., 4 : 4 + numbers], drawn[..., 4 + numbers :]
    me = torch.arange(count, device=members.device).expand(b, -1)
    one = (picks[..., 0] * (count - 1)).long()
    one = one + (one >= me)
    other = (picks[..., 1] * (count - 2)).long()
    other = other + (other >= torch.minimum(me, one))
    other = other + (other >= torch.maximum(me, one))
    scale = DITHER[0] + (DITHER[1] - DITHER[0]) * picks[:, :1, 3:] if factor is None else factor
    i = torch.arange(b, device=members.device)
    difference = members[i[:, None], one] - members[i[:, None], other]
    mutant = members[i, best][:, None] + scale * difference
    always = (picks[..., 2] * numbers).long()[..., None] == torch.arange(numbers, device=members.device)
    tried = torch.where((crossing < crossover) | always, mutant, members)
    # A number out of range is drawn anew: cut to the range, it would crowd the edges.
    return torch.where((tried < 0) | (tried > limits), anew * limits, tried)
