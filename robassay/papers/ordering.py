"""Whether our figures lie in the published order: what a short run can say about a long one.

Values at a small scale are not those of the paper; who comes before whom may be. All pairs of rows of one column are
compared for which both a published figure and our own stand there, and the published ones differ. A pair *agrees* when
our intervals lie apart and in the published order, *disagrees* when they lie apart and the other way round, and is
*undecided* otherwise. Intervals of two rows on the same images may overlap though their paired difference is sure:
such pairs are called undecided, never matched.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any, Literal, NamedTuple

from robassay.report.words import computed

Outcome = Literal["agrees", "disagrees", "undecided"]


class Pair(NamedTuple):
    """Two rows of a column, the one with the larger published figure first."""

    column: str
    larger: str
    smaller: str
    cells: tuple[dict[str, Any], dict[str, Any]]
    """Theirs, as in the document of a study."""
    outcome: Outcome


class Tally(NamedTuple):
    """Published cells of a table: each is matched, against the order, or undecided; or has no figure of ours."""

    published: int
    ours: int
    matched: int
    """At least one of its pairs is decided, and all decided ones agree."""
    against: int
    """At least one of its pairs disagrees."""

    @property
    def undecided(self) -> int:
        """Has a figure of ours and no decided pair."""
        return self.ours - self.matched - self.against

    def plus(self, other: Tally) -> Tally:
        """The sums."""
        return Tally(*(a + b for a, b in zip(self, other, strict=True)))


def pairs(table: dict[str, Any]) -> list[Pair]:
    """All pairs of a table of a document, column by column."""
    found = []
    for number, column in enumerate(table["cols"]):
        held = [
            (row, cell)
            for row, line in zip(table["rows"], table["cells"], strict=True)
            if _comparable(cell := line[number])
        ]
        for one, other in combinations(held, 2):
            if one[1]["published"] != other[1]["published"]:
                first, second = sorted((one, other), key=lambda entry: -entry[1]["published"])
                outcome = _outcome(first[1], second[1])
                found.append(Pair(column, first[0], second[0], (first[1], second[1]), outcome))
    return found


def tally(table: dict[str, Any]) -> Tally:
    """How many published cells of a table are matched in ordering."""
    decided: dict[tuple[str, str], set[Outcome]] = {}
    for pair in pairs(table):
        for row in (pair.larger, pair.smaller):
            decided.setdefault((row, pair.column), set()).add(pair.outcome)
    cells = [cell for line in table["cells"] for cell in line if cell and cell["published"] is not None]
    against = sum("disagrees" in outcomes for outcomes in decided.values())
    matched = sum("agrees" in outcomes and "disagrees" not in outcomes for outcomes in decided.values())
    return Tally(len(cells), sum(computed(cell) for cell in cells), matched, against)


def _comparable(cell: dict[str, Any] | None) -> bool:
    return cell is not None and cell["published"] is not None and computed(cell)


def _outcome(larger: dict[str, Any], smaller: dict[str, Any]) -> Outcome:
    if any(cell[end] is None for cell in (larger, smaller) for end in ("low", "high")):
        return "undecided"
    if larger["low"] > smaller["high"]:
        return "agrees"
    return "disagrees" if larger["high"] < smaller["low"] else "undecided"
