"""What the papers print: every figure of their tables of results, as printed, with its known faults.

A file per paper, ``NAME.json``; numbers only and our own words. Tables are called as in the paper ("IIa", "5");
figures that a paper gives in its text alone stand in tables of our own making ("losses", "noise", "jpeg").
Tables of settings are not here: they are the recipes in :mod:`robassay.papers`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

from robassay.errors import UsageError, suggest

PAPERS = ("tan2020", "sharmin2019", "sharmin2020", "ge2020", "eustratiadis2020")
"""Of sharmin2020 no table is at hand."""

Unit = Literal["rate", "percent", "l2", "l2 per pixel x 1000"]
Relation = Literal["about", "above", "at most", "below"]


@dataclass(frozen=True)
class Figure:
    """A number as printed.

    Args:
        value: in the unit of its table.
        sd: standard deviation that the paper gives with it, same unit.
        relation: how a text hedges it; None says that it is the value itself.
        note: a known fault of the source.
    """

    value: float
    sd: float | None = None
    relation: Relation | None = None
    note: str = ""


@dataclass(frozen=True)
class Printed:
    """A table of a paper.

    Args:
        paper: its name in :data:`PAPERS`.
        id: of the table in the paper.
        title: what is measured, in our words.
        unit: of all its figures. "l2" is Euclidean on pixels in [0, 1]; "l2 per pixel x 1000" the same, divided by
            the number of values of an image and multiplied by 1,000; losses of accuracy in percent are differences.
        rows: names, in the paper's order.
        cols: names, in the paper's order.
        figures: by (row, column); a cell that is blank in the paper is absent.
        about: what the table says of a row beside its figures.
    """

    paper: str
    id: str
    title: str
    unit: Unit
    rows: tuple[str, ...]
    cols: tuple[str, ...]
    figures: Mapping[tuple[str, str], Figure]
    about: Mapping[str, str]

    def figure(self, row: str, col: str) -> Figure:
        """The figure of a cell.

        Raises:
            UsageError: the table has no such row or column, or the cell is blank.
        """
        for kind, given, known in (("row", row, self.rows), ("column", col, self.cols)):
            if given not in known:
                where = f"table {self.id} of {self.paper}"
                raise UsageError(f"{where} has no {kind} '{given}'. {suggest(given, list(known))}")
        if (row, col) not in self.figures:
            raise UsageError(f"'{row}', '{col}' is blank in table {self.id} of {self.paper}. Write another cell.")
        return self.figures[row, col]

    def rate(self, row: str, col: str) -> float:
        """A figure as a fraction: a rate as printed, a percentage divided by 100.

        Raises:
            UsageError: as :meth:`figure`, or the table holds sizes of changes.
        """
        value = self.figure(row, col).value
        if self.unit not in ("rate", "percent"):
            raise UsageError(f"table {self.id} of {self.paper} is in {self.unit}, not a rate. Write figure() instead.")
        return value if self.unit == "rate" else round(value / 100, 6)


def tables(paper: str) -> tuple[Printed, ...]:
    """All tables of a paper, in its order; none of "sharmin2020".

    Raises:
        UsageError: unknown paper.
    """
    return tuple(_tables(paper).values())


def table(paper: str, id: str) -> Printed:
    """A table of a paper, for instance ``table("tan2020", "IIa").rate("MNIST, BIM", "BSN-2")``.

    Raises:
        UsageError: unknown paper, or it has no such table.
    """
    known = _tables(paper)
    if not known:
        raise UsageError(f"'{paper}' has no tables here: only notes on it are at hand. Write another paper.")
    if id not in known:
        raise UsageError(f"'{paper}' has no table '{id}' of results. {suggest(id, list(known))}")
    return known[id]


@cache
def _tables(paper: str) -> dict[str, Printed]:
    if paper not in PAPERS:
        raise UsageError(f"paper='{paper}' is not known. {suggest(paper, list(PAPERS))}")
    text = Path(__file__).with_name(f"{paper}.json").read_text(encoding="utf-8")
    return {id: _printed(paper, id, told) for id, told in json.loads(text)["tables"].items()}


def _printed(paper: str, id: str, told: dict[str, Any]) -> Printed:
    unit, rows, cols = told["unit"], tuple(told["rows"]), tuple(told["cols"])
    assert unit in get_args(Unit), f"{paper}.json, table {id}: unit {unit!r}"
    notes = {(r, c): one["note"] for one in told.get("notes", ()) for r in one["rows"] for c in one["cols"]}
    figures = {
        (row, col): _figure(entry, notes.pop((row, col), ""))
        for row, entries in told["rows"].items()
        for col, entry in zip(cols, entries, strict=True)
        if entry is not None
    }
    assert not notes, f"{paper}.json, table {id}: notes on no figure: {list(notes)}"
    return Printed(paper, id, told["title"], unit, rows, cols, figures, told.get("about", {}))


def _figure(entry: Any, note: str) -> Figure:
    """In the file: a number, [mean, sd], or {relation: number}."""
    if isinstance(entry, list):
        mean, sd = entry
        return Figure(mean, sd, note=note)
    if isinstance(entry, dict):
        ((relation, value),) = entry.items()
        assert relation in get_args(Relation), f"{relation!r} is no relation"
        return Figure(value, relation=relation, note=note)
    return Figure(entry, note=note)
