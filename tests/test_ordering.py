"""The published order and ours, by hand."""

from __future__ import annotations

from typing import Any

from robassay.papers.ordering import Tally, pairs, tally


def cell(published: float | None, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    """A cell of a document; without ``high`` one that has no figure of ours."""
    value = None if high is None else ((low or 0.0) + high) / 2
    return {"value": value, "low": low, "high": high, "n": 10, "published": published}


def table(*lines: tuple[Any, ...]) -> dict[str, Any]:
    rows = [f"r{i}" for i in range(len(lines))]
    return {"rows": rows, "cols": [f"c{i}" for i in range(len(lines[0]))], "cells": [list(line) for line in lines]}


def told(one: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    return [(pair.column, pair.larger, pair.smaller, pair.outcome) for pair in pairs(one)]


def test_a_pair_agrees_only_with_intervals_apart() -> None:
    apart = table((cell(0.9, 0.5, 0.6),), (cell(0.2, 0.1, 0.4),))
    turned = table((cell(0.2, 0.5, 0.6),), (cell(0.9, 0.1, 0.4),))
    overlapping = table((cell(0.9, 0.5, 0.6),), (cell(0.2, 0.1, 0.5),))
    assert told(apart) == [("c0", "r0", "r1", "agrees")]
    assert told(turned) == [("c0", "r1", "r0", "disagrees")]
    assert told(overlapping) == [("c0", "r0", "r1", "undecided")]


def test_what_is_compared() -> None:
    """Rows of one column; not equal published figures, nor cells without ours or without theirs."""
    one = table(
        (cell(0.9, 0.5, 0.6), cell(0.1, 0.8, 0.9)),
        (cell(0.9, 0.1, 0.2), cell(None, 0.1, 0.2)),
        (cell(0.3), cell(0.2, 0.1, 0.2)),
        (None, None),
    )
    assert told(one) == [("c1", "r2", "r0", "disagrees")]
    assert tally(one) == Tally(published=5, ours=4, matched=0, against=2) and tally(one).undecided == 2


def test_a_figure_without_an_interval_decides_nothing() -> None:
    assert told(table((cell(0.9, None, 0.9),), (cell(0.1, 0.1, 0.2),))) == [("c0", "r0", "r1", "undecided")]


def test_a_cell_is_matched_when_no_decided_pair_is_against_it() -> None:
    """r0 > r1 > r2 published; ours has r1 and r2 the wrong way round, r0 above r1 and undecided with r2."""
    one = table((cell(0.9, 0.5, 0.9),), (cell(0.5, 0.1, 0.2),), (cell(0.1, 0.3, 0.6),))
    assert told(one) == [
        ("c0", "r0", "r1", "agrees"),
        ("c0", "r0", "r2", "undecided"),
        ("c0", "r1", "r2", "disagrees"),
    ]
    found = tally(one)
    assert found == Tally(3, 3, matched=1, against=2) and found.undecided == 0
    assert found.plus(Tally(1, 1, 0, 0)) == Tally(4, 4, 1, 2)
