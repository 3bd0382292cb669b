"""A study: one value that is both the plan (which cells it needs) and the report (what it says about them)."""

from __future__ import annotations

import abc
import dataclasses
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

from robassay.cell import Cell, without_cycles
from robassay.cells import Craft, Examples, Score
from robassay.errors import UsageError
from robassay.folds import Fold
from robassay.knowledge import knowledge
from robassay.models import Learn, Train
from robassay.notebook import facts, lines
from robassay.registry import entry_of
from robassay.safe import checked_name
from robassay.signals import Facts, Signals
from robassay.threat import Threat
from robassay.told import Tell
from robassay.version import __version__

Evaluation = tuple[Score, ...]
"""Score cells over consecutive slices of the same images."""
Told = Evaluation | tuple[Tell, ...]
"""What a fold is given: cells over consecutive slices, of one kind."""

FORMAT = 1


class Item(abc.ABC):
    """Something a study shows."""

    id: str

    @abc.abstractmethod
    def needs(self) -> list[Cell]:
        """The cells it is made from."""

    @abc.abstractmethod
    def freeze(self) -> dict[str, Any]:
        """A JSON value from which the item can be shown without the code that described it."""


@dataclass(frozen=True)
class Measure:
    """A figure of a study: a fold over one or several evaluations of the same images.

    Args:
        evaluations: each the Score cells of an attack, one per slice of the images; or what another cell tells of each
            image, such as what the oracle of a substitute was asked.
        fold: what becomes of the decisions, such as ``Accuracy()``.
    """

    evaluations: tuple[Told, ...]
    fold: Fold

    def needs(self) -> list[Cell]:
        """The Score cells."""
        return [score for evaluation in self.evaluations for score in evaluation]

    def freeze(self) -> dict[str, Any]:
        """Fold, cell keys and what the attacker knew as a JSON value."""
        fold = {"type": type(self.fold).__name__, **dataclasses.asdict(self.fold)}  # type: ignore[call-overload]
        # Of a gap the clean images may come first: what was known is that of the first attack.
        labels = [knowledge(evaluation[0]) for evaluation in self.evaluations]
        known = next((label for label in labels if label is not None), None)
        return {"fold": fold, "needs": [keys_of(e) for e in self.evaluations], "knowledge": known}


@dataclass(frozen=True)
class Table(Item):
    """A table of measures, with the published figure beside ours where there is one.

    Args:
        rows, cols: names.
        entries: measure of (row, column); a pair that is missing is shown as not asked for.
        published: published value of (row, column), as a fraction for rates.
        unit: "rate" (shown in per cent), or the unit in words.
        heat: shade the cells of the report by their rate, from 0 to 100 %.
        absent: why (row, column) has no measure, in a word or three, then ": " and what would make it:
            "no data here: robassay run tan2020 --data-dir FOLDER". Tables are never shortened.

    Raises:
        UsageError: a cell that has a measure and is called absent, an entry outside of the rows and columns, or
            ``heat`` for what is no rate.
    """

    id: str
    caption: str
    rows: tuple[str, ...]
    cols: tuple[str, ...]
    entries: dict[tuple[str, str], Measure]
    published: dict[tuple[str, str], float] = field(default_factory=dict)
    unit: str = "rate"
    heat: bool = False
    absent: dict[tuple[str, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.heat and self.unit != "rate":
            raise UsageError(
                f"table '{self.id}' has unit='{self.unit}' and heat=True, but only rates have a scale from 0 to 100 %. "
                "Leave one of them out."
            )
        double = next((cell for cell in self.absent if cell in self.entries), None)
        if double is not None:
            raise UsageError(
                f"table '{self.id}' has a measure for {double} and calls it absent. Leave one of them out."
            )
        for row, col in (*self.entries, *self.published, *self.absent):
            if row not in self.rows or col not in self.cols:
                raise UsageError(
                    f"table '{self.id}' has an entry for ({row}, {col}), which is no row and column of it."
                )

    def needs(self) -> list[Cell]:
        return [c for measure in self.entries.values() for c in measure.needs()]

    def freeze(self) -> dict[str, Any]:
        grid = [[self.entries.get((r, c)) for c in self.cols] for r in self.rows]
        return {
            "kind": "table",
            **plain(self, "id", "caption", "rows", "cols", "unit", "heat"),
            "cells": [[m.freeze() if m else None for m in line] for line in grid],
            "published": [[self.published.get((r, c)) for c in self.cols] for r in self.rows],
            "absent": [[self.absent.get((r, c)) for c in self.cols] for r in self.rows],
        }


@dataclass(frozen=True)
class Curves(Item):
    """Measures over a common axis, such as robust accuracy over eps.

    Args:
        xlabel, ylabel: of the axes.
        x: positions on the common axis.
        series: one measure per position, by the name of its line.
        dashed: names of lines that are drawn dashed.
        unit: "rate" or the unit in words.
    """

    id: str
    caption: str
    xlabel: str
    ylabel: str
    x: tuple[float, ...]
    series: dict[str, tuple[Measure, ...]]
    dashed: tuple[str, ...] = ()
    unit: str = "rate"

    def needs(self) -> list[Cell]:
        return [c for line in self.series.values() for measure in line for c in measure.needs()]

    def freeze(self) -> dict[str, Any]:
        return {
            "kind": "curves",
            **plain(self, "id", "caption", "xlabel", "ylabel", "x", "unit"),
            "series": [
                {"name": name, "dash": name in self.dashed, "points": [m.freeze() for m in line]}
                for name, line in self.series.items()
            ],
        }


@dataclass(frozen=True)
class Trainings(Item):
    """How trainings went: validation accuracy over the epochs, one curve for each of the ``models`` by name."""

    id: str
    caption: str
    models: dict[str, Train | Learn]

    def needs(self) -> list[Cell]:
        return list(self.models.values())

    def freeze(self) -> dict[str, Any]:
        lines = [{"name": n, "cell": m.key, "n": m.validated} for n, m in self.models.items()]
        return {"kind": "trainings", **plain(self, "id", "caption"), "series": lines}


@dataclass(frozen=True)
class Gallery(Item):
    """Adversarial images of one attack, ``count`` of them, with what the fresh draws of ``score`` say about them."""

    id: str
    caption: str
    score: Score
    count: int = 6

    def __post_init__(self) -> None:
        if not isinstance(self.score.on, Craft):
            raise UsageError(f"gallery '{self.id}' needs a Score on attacked images, not on clean ones.")

    def needs(self) -> list[Cell]:
        return [self.score]

    def freeze(self) -> dict[str, Any]:
        assert isinstance(self.score.on, Craft)
        attack = type(self.score.on.attack).__name__
        return {
            "kind": "gallery",
            **plain(self, "id", "caption", "count"),
            "score": self.score.key,
            "craft": self.score.on.key,
            "attack": attack,
        }


@dataclass(frozen=True)
class Check(Item):
    """A claim (``question``), judged by the interval of one measure (``evidence``) against a limit.

    It holds when the whole interval lies on the claimed side, fails when the whole interval lies on the other, and
    is undecided otherwise.

    Args:
        question: the claim, in words.
        evidence: what is measured.
        limit: in units of the measure, such as .5 of a rate or 0 of a difference.
        side: of the limit on which the claim says that the measure lies.
    """

    id: str
    question: str
    evidence: Measure
    limit: float = 0.0
    side: Literal["above", "below"] = "above"

    def needs(self) -> list[Cell]:
        return self.evidence.needs()

    def freeze(self) -> dict[str, Any]:
        return {
            "kind": "check",
            **plain(self, "id", "question", "limit", "side"),
            "evidence": self.evidence.freeze(),
        }


@dataclass(frozen=True)
class Audit(Item):
    """The audit of one model: evaluations and indicators from which a verdict is judged.

    Args:
        network: what the model is, in words.
        threat: within which it is attacked.
        clean, claimed, adequate: evaluations of the same images; see :mod:`robassay.verdict`.
        battery: further attacks by name.
        finalists: of a random model, each image's strongest attacks of the battery, judged by more draws.
        twin: a network of the audit's own, without the model's tricks, under attack; None where there is none.
        signals, facts: indicators per slice, and what the model was found to be.
        evidence: curves, tables and landscapes that are shown beside the verdict and decide nothing.
        delta, budget: see :func:`robassay.verdict.judge`.
        command: what reproduces it.
        claim: the claimed evaluation in words.
    """

    id: str
    title: str
    network: str
    threat: Threat
    clean: Evaluation
    claimed: Evaluation
    adequate: Evaluation
    battery: dict[str, Evaluation]
    finalists: tuple[Evaluation, ...] = ()
    twin: Evaluation | None = None
    signals: tuple[Signals, ...] = ()
    facts: Facts | None = None
    evidence: tuple[Item, ...] = ()
    delta: float = 0.05
    budget: str = "quick"
    command: str = ""
    claim: str = ""

    def needs(self) -> list[Cell]:
        evaluations = (self.clean, self.claimed, self.adequate, *self.battery.values(), *self.finalists)
        evaluations += (self.twin,) if self.twin is not None else ()
        scores: list[Cell] = [s for e in evaluations for s in e]
        shown = [c for one in self.evidence for c in one.needs()]
        return [*scores, *self.signals, *([self.facts] if self.facts is not None else []), *shown]

    def freeze(self) -> dict[str, Any]:
        return {
            "kind": "audit",
            **plain(self, "id", "title", "network", "delta", "budget", "command", "claim"),
            "threat": {"norm": self.threat.norm, "eps": self.threat.eps},
            "data": self._data(),
            "clean": keys_of(self.clean),
            "claimed": keys_of(self.claimed),
            "adequate": keys_of(self.adequate),
            "battery": {name: keys_of(e) for name, e in self.battery.items()},
            "finalists": [keys_of(e) for e in self.finalists],
            **({"after": after} if (after := self._after()) else {}),
            "twin": keys_of(self.twin) if self.twin is not None else None,
            "signals": [s.key for s in self.signals],
            "facts": self.facts.key if self.facts is not None else None,
            "evidence": [one.freeze() for one in self.evidence],
        }

    def _repr_html_(self) -> str:
        ball = f"{self.threat.norm}, eps {self.threat.eps:.4g}" if self.threat.eps is not None else self.threat.norm
        known = {
            "network": self.network,
            "threat": ball,
            "claimed": self.claim,
            "attacks": ", ".join(["claimed", "adequate", *self.battery]),
            "images": sum(score.examples.stop - score.examples.start for score in self.clean),
            "budget": self.budget,
            "cells": len({cell.key for cell in self.needs()}),
        }
        return facts(f"Audit: {self.title}", known)

    def _after(self) -> list[str]:
        """The attacks that had only what the adequate one has left."""
        made = {name: [score.on for score in evaluation] for name, evaluation in self.battery.items()}
        return [name for name, ons in made.items() if any(isinstance(on, Craft) and on.after for on in ons)]

    def _data(self) -> dict[str, Any]:
        """Which images are judged: audits of the same can be set side by side."""
        slices = [score.examples for score in self.clean]
        first = slices[0]
        return {
            **{"name": first.data.name, "checksum": first.data.checksum, "split": first.split},
            **{"start": min(one.start for one in slices), "stop": max(one.stop for one in slices)},
        }


@dataclass(frozen=True)
class Study:
    """A title and what is shown under it.

    Args:
        name: file name in the store; letters, digits and hyphens.
        title, subtitle: headings.
        items: tables, curves, galleries, checks, audits.
        scale: "smoke", "small", "full", "demo" or "audit"; a word for readers, the numbers are in the cells.
        cites: sources.
        command: what reproduces it.
    """

    name: str
    title: str
    items: tuple[Item, ...]
    subtitle: str = ""
    scale: str = "small"
    cites: tuple[str, ...] = ()
    command: str = ""

    def __post_init__(self) -> None:
        checked_name(self.name, "the study")
        ids = Counter(item.id for item in self.items)
        double = next((i for i, count in ids.items() if count > 1), None)
        if double is not None:
            raise UsageError(f"study '{self.name}' has two items with id '{double}'. Give each its own.")

    @without_cycles
    def needs(self) -> list[Cell]:
        """Every cell of every item, each once."""
        found: dict[str, Cell] = {}
        for item in self.items:
            for cell in item.needs():
                found.setdefault(cell.key, cell)
        return list(found.values())

    def _repr_html_(self) -> str:
        rows = [(type(one).__name__, one.id, _said(one), len({cell.key for cell in one.needs()})) for one in self.items]
        about = f"{self.subtitle} {len(self.needs())} cells; scale {self.scale}".strip()
        return lines(f"{self.name}: {self.title}", about, ("item", "id", "shows", "cells"), rows)

    def freeze(self) -> dict[str, Any]:
        """A JSON value from which the report can be made anywhere."""
        return {
            "format": FORMAT,
            "version": __version__,
            **plain(self, "name", "title", "subtitle", "scale", "cites", "command"),
            "items": [item.freeze() for item in self.items],
            "needs": [c.key for c in self.needs()],
            "behind": [c.key for c in self._all()],
            "seeds": sorted({seed for c in self._all() if isinstance(seed := getattr(c, "seed", None), int)}),
            "data": self._data(),
            "parts": self._parts(),
        }

    def _all(self) -> list[Cell]:
        from robassay.cell import with_needs

        return with_needs(self.needs())

    def _parts(self) -> list[dict[str, str]]:
        """Name and source of every part in a cell, or behind one."""
        seen: set[type] = set()
        for one in self._all():
            _kinds_in(one, seen)
        found = {e.name: e.source for kind in seen if (e := entry_of(kind)) is not None and e.source}
        return [{"name": name, "source": found[name]} for name in sorted(found)]

    def _data(self) -> list[dict[str, str]]:
        sets = {}
        for one in self._all():
            on = one.examples if isinstance(one, Score) else getattr(one, "on", None)
            data = on.data if isinstance(on, Examples) else getattr(one, "data", None)
            if data is not None:
                sets[data.checksum] = {"name": data.name, "checksum": data.checksum, "note": data.note}
        return list(sets.values())


def _said(item: Item) -> str:
    """What an item says of itself: caption, question or title."""
    return str(next((getattr(item, name) for name in ("caption", "question", "title") if hasattr(item, name)), ""))


def _kinds_in(value: object, seen: set[type]) -> None:
    """Collect the classes of dataclasses in a cell's fields; contained cells are asked for themselves."""
    if isinstance(value, tuple):
        for one in value:
            _kinds_in(one, seen)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        seen.add(type(value))
        for one in dataclasses.fields(value):
            held = getattr(value, one.name)
            if not isinstance(held, Cell):
                _kinds_in(held, seen)


def keys_of(evaluation: Told) -> list[str]:
    """Keys of the slices, in order."""
    return [score.key for score in evaluation]


def plain(item: object, *names: str) -> dict[str, Any]:
    """Fields by name as JSON values."""
    values = {name: getattr(item, name) for name in names}
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}
