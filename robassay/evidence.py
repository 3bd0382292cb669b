"""The evidence beside a verdict, described as a value: curves, what the noise is worth, landscape, faithfulness.

Everything is measured on the first images of the audit only and with few draws: it shows the shape of things and
decides nothing. See :mod:`robassay.checklist` for what is read off it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, get_args

from robassay.access import Attack, White
from robassay.attacks.gradient import FGSM, PGD
from robassay.attacks.noise import Uniform
from robassay.cell import Cell, Model
from robassay.cells import Craft, Disturbed, Examples, Score
from robassay.checklist import LAST, NOISE, OFF, ON, THROUGH
from robassay.claims import estimator
from robassay.drawn import Raster
from robassay.errors import UsageError
from robassay.estimators import Evading
from robassay.folds import Accuracy
from robassay.landscape import Faithful, Landscape
from robassay.models import Quieted
from robassay.rasters import Rasters
from robassay.study import Audit, Curves, Evaluation, Gallery, Item, Measure, Table
from robassay.threat import LossName, Threat

SLICE = 100
WIDEST = 64
"""Pixels of an image that is shown for every attack."""
DRAWS = 20
"""Fresh draws that judge a point of a curve."""


@dataclass(frozen=True)
class Amount:
    """How much evidence a budget buys.

    Args:
        images: at most so many of the audit's.
        steps: of the attacks whose number of steps is not what is varied.
        radii: multiples of eps, without 0 and without the radius that allows everything.
        lengths: numbers of steps on the curve over steps.
        eot: numbers of draws on the curve over draws of the attacker.
        seen: images of the landscape; 0 for no landscape.
        grid: points of the landscape along each axis.
    """

    images: int | None
    steps: int
    radii: tuple[float, ...]
    lengths: tuple[int, ...]
    eot: tuple[int, ...]
    seen: int
    grid: int
    draws: int = 5
    directions: int = 24


AMOUNT: dict[str, Amount] = {
    "quick": Amount(40, 20, (0.5, 1.0, 2.0), (1, 5, 10, 20, 40), (1, 5, 20), 6, 11, directions=12),
    "standard": Amount(100, 20, (0.25, 0.5, 1.0, 2.0, 4.0), (1, 5, 10, 20, 40, 80), (1, 2, 5, 10, 20, 50), 12, 21),
    "thorough": Amount(None, 40, (0.25, 0.5, 1.0, 2.0, 4.0), (1, 5, 10, 20, 40, 80), (1, 2, 5, 10, 20, 50), 20, 21),
}


@dataclass(frozen=True)
class Plane(Item):
    """A landscape of the loss around a few images, drawn as two maps."""

    id: str
    caption: str
    cell: Landscape

    def needs(self) -> list[Cell]:
        return [self.cell]

    def freeze(self) -> dict[str, Any]:
        return {"kind": "landscape", "id": self.id, "caption": self.caption, "cell": self.cell.key}


@dataclass(frozen=True)
class Slopes(Item):
    """Whether the gradient agrees with finite differences; shown among the indicators."""

    id: str
    cells: tuple[Faithful, ...]

    def needs(self) -> list[Cell]:
        return list(self.cells)

    def freeze(self) -> dict[str, Any]:
        return {"kind": "faithfulness", "id": self.id, "cells": [c.key for c in self.cells]}


def evidence(
    model: Model,
    on: Examples,
    threat: Threat,
    budget: str,
    stochastic: bool,
    differentiable: bool = True,
    quiet: bool = False,
    rejects: bool = False,
    loss: LossName = "ce",
    spiking: bool = False,
) -> tuple[Item, ...]:
    """What is shown beside the verdict on ``model``: a value, nothing is computed.

    Args:
        model, on, threat, budget: as in :func:`robassay.auditing.audit`; the threat has a radius, L∞ or L2.
        stochastic: adds the curve over the attacker's draws.
        differentiable: without a gradient there are differences instead, and only the curve over eps and the landscape.
        quiet: its noise can be switched off: adds a table with and without it.
        rejects: it has detectors, which the attacks evade.
        loss: of the claimed attack; the first curve of each figure.
        spiking: it has neurons over time: adds what they do on two images, clean and attacked.

    Raises:
        UsageError: unknown budget, or a threat without a radius.
    """
    if budget not in AMOUNT:
        raise UsageError(f"budget='{budget}' is not known. Write quick, standard or thorough.")
    if not threat.eps:
        raise UsageError("evidence needs a radius: write Threat('linf', 0.1).")
    few = AMOUNT[budget]
    stop = on.stop if few.images is None else min(on.stop, on.start + few.images)
    maker = _Maker(model, dataclasses.replace(on, stop=stop), threat, few, differentiable, rejects, loss)
    found: list[Item] = [maker.over_eps()]
    if differentiable:
        found += [maker.over_steps(), *([maker.over_draws()] if stochastic else [])]
        found += [maker.noise_off()] if quiet and stochastic else []
    found += [maker.landscape()] if few.seen else []
    found += [maker.raster()] if spiking and differentiable else []
    return (*found, maker.slopes()) if differentiable else tuple(found)


def galleries(audit: Audit) -> tuple[Gallery, ...]:
    """Images of the attacks of an audit, clean and attacked: one of each attack. Nothing is computed for them.

    Of images wider than 64 pixels only the claimed attack's, so that the page stays small. What is no attack that
    makes images (:class:`~robassay.cells.Craft`) has none.
    """
    attacks = {"claimed": audit.claimed, "adequate": audit.adequate, **audit.battery}
    shown = []
    for number, (name, (score, *_)) in enumerate(attacks.items()):
        craft = score.on
        if isinstance(craft, Craft) and (name == "claimed" or max(craft.on.data.shape[1:]) <= WIDEST):
            shown.append(Gallery(f"{audit.id}-images-{number}", f"{audit.title}: {name}", score, 1))
    return tuple(shown)


def loss_of(attack: Attack) -> LossName:
    """The loss of a claimed attack, cross-entropy where it has none of its own."""
    known: tuple[LossName, ...] = get_args(LossName)
    return next((one for one in known if one == getattr(attack, "loss", None)), "ce")


@dataclass(frozen=True)
class _Maker:
    """What every piece is made of."""

    model: Model
    on: Examples
    threat: Threat
    few: Amount
    differentiable: bool
    rejects: bool
    loss: LossName

    @property
    def eps(self) -> float:
        assert self.threat.eps is not None
        return self.threat.eps

    @property
    def losses(self) -> tuple[LossName, ...]:
        """The claimed loss and two that saturation does not reach."""
        others: tuple[LossName, ...] = ("scaled_ce", "margin")
        return (self.loss, *(one for one in others if one != self.loss))

    def access(self, draws: int) -> White:
        inner = estimator(draws, differentiable=self.differentiable)
        return White(Evading(inner=inner) if self.rejects else inner)

    def clean(self, model: Model | None = None) -> Measure:
        return _rate(Score(model or self.model, s, repeats=DRAWS) for s in self.on.slices(SLICE))

    def attacked(
        self, attack: Attack, draws: int = 0, eps: float = 0.0, by: Model | None = None, judge: Model | None = None
    ) -> Measure:
        """Robust accuracy; at the audit's radius, against images made for the model itself, unless said."""
        threat, access = dataclasses.replace(self.threat, eps=eps or self.eps), self.access(draws or self.few.draws)
        crafts = (Craft((by or self.model,), s, attack, threat, access) for s in self.on.slices(SLICE))
        return _rate(Score(judge or self.model, craft, repeats=DRAWS) for craft in crafts)

    def noisy(self, eps: float) -> Measure:
        threat = dataclasses.replace(self.threat, eps=eps)
        return _rate(Score(self.model, Disturbed(s, Uniform(), threat), repeats=DRAWS) for s in self.on.slices(SLICE))

    def over_eps(self) -> Curves:
        shape = self.on.data.shape
        all_of_it = 1.0 if self.threat.norm == "linf" else math.sqrt(math.prod(shape))
        x = (*(m * self.eps for m in self.few.radii if m * self.eps < all_of_it), all_of_it)
        series = {
            _pgd(loss): (self.clean(), *(self.attacked(PGD(self.few.steps, loss=loss), eps=e) for e in x))
            for loss in self.losses[:2]
        }
        series[NOISE] = (self.clean(), *(self.noisy(e) for e in x))
        caption = f"Robust accuracy over the radius, PGD-{self.few.steps}; the last one allows any image"
        return Curves("eps", caption, "eps", "robust accuracy", (0.0, *x), series, dashed=(NOISE,))

    def over_steps(self) -> Curves:
        def line(loss: LossName, keep: str) -> tuple[Measure, ...]:
            longer = (PGD(n, loss=loss, random_start=False, keep=keep) for n in self.few.lengths if n > 1)  # type: ignore[arg-type]
            return tuple(self.attacked(attack) for attack in (FGSM(loss), *longer))

        series = {_pgd(loss): line(loss, "best") for loss in dict.fromkeys((self.loss, "margin"))}
        series[LAST] = line(self.loss, "last")
        caption = "Robust accuracy over the attack's steps, from the image itself; one step is FGSM"
        x = tuple(float(n) for n in self.few.lengths)
        return Curves("steps", caption, "steps", "robust accuracy", x, series, dashed=(LAST,))

    def over_draws(self) -> Curves:
        # The last iterate: to choose the best one draws would be spent besides those on the axis.
        series = {
            _pgd(loss): tuple(self.attacked(PGD(self.few.steps, loss=loss, keep="last"), n) for n in self.few.eot)
            for loss in self.losses
        }
        caption = f"Robust accuracy over the attacker's draws per gradient (EoT), PGD-{self.few.steps}"
        x = tuple(float(n) for n in self.few.eot)
        return Curves("draws", caption, "draws per gradient", "robust accuracy", x, series)

    def noise_off(self) -> Table:
        off = Quieted(self.model)
        entries = {(ON, "clean"): self.clean(), (OFF, "clean"): self.clean(off)}
        for loss in dict.fromkeys((self.loss, "margin")):
            attack = PGD(self.few.steps, loss=loss)
            entries[ON, _pgd(loss)] = self.attacked(attack)
            entries[OFF, _pgd(loss)] = self.attacked(attack, by=off, judge=off)
            entries[THROUGH, _pgd(loss)] = self.attacked(attack, by=off)
        caption = f"What the noise is worth: robust accuracy with and without it, PGD-{self.few.steps}"
        cols = tuple(dict.fromkeys(col for _, col in entries))
        return Table("noise", caption, (ON, OFF, THROUGH), cols, entries)

    def raster(self) -> Raster:
        # The attack of the curve over eps at the audit's radius: no further images are made.
        first = self.on.slices(SLICE)[0]
        craft = Craft(
            (self.model,), first, PGD(self.few.steps, loss=self.loss), self.threat, self.access(self.few.draws)
        )
        return Raster("spikes", "Spikes and potentials on a clean and an attacked image", Rasters(self.model, craft))

    def landscape(self) -> Plane:
        seen = dataclasses.replace(self.on, stop=min(self.on.stop, self.on.start + self.few.seen))
        inner = self.access(self.few.draws).estimator
        cell = Landscape(self.model, seen, self.threat, inner, self.few.grid, self.few.draws)
        return Plane("landscape", "The loss around an image, along the gradient and a random direction", cell)

    def slopes(self) -> Slopes:
        how = estimator(DRAWS)
        directions = self.few.directions
        cells = (Faithful(self.model, s, self.threat, how, directions=directions) for s in self.on.slices(SLICE))
        return Slopes("faithful", tuple(cells))


def _rate(scores: Iterable[Score]) -> Measure:
    evaluation: Evaluation = tuple(scores)
    return Measure((evaluation,), Accuracy())


def _pgd(loss: str) -> str:
    return f"PGD {loss}"
