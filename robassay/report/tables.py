"""One table of a document in words, as CSV and as Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any, NamedTuple

from robassay.report.words import KNOWLEDGE, NOT_COMPUTED, amount, computed, full

COLUMNS = ("row", "column", "value", "low", "high", "n", "published", "knowledge")


def entries(table: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any] | None]]:
    """Row, column and cell, row by row."""
    for row, line in zip(table["rows"], table["cells"], strict=True):
        for column, cell in zip(table["cols"], line, strict=True):
            yield row, column, cell


def reasons(table: dict[str, Any]) -> list[str]:
    """Why cells have no value and what would give them one, each reason once."""
    return list(dict.fromkeys(cell["absent"] for _, _, cell in entries(table) if cell and cell.get("absent")))


def common_n(table: dict[str, Any]) -> int | None:
    """The number of images if all computed cells share it, so that it need not stand in each."""
    sizes = {cell["n"] for _, _, cell in entries(table) if computed(cell) and cell is not None}
    return sizes.pop() if len(sizes) == 1 else None


class Labelled(NamedTuple):
    """Where the words for what the attacker knew stand, so that each is said once."""

    cols: list[str | None]
    """A word per column, where every column has one; else all None."""
    groups: list[tuple[str | None, list[int]]]
    """Numbers of the rows under each word, where every row has one and they differ; else one group without a word."""
    cells: bool
    """Whether each cell has its own."""


def labelled(table: dict[str, Any]) -> Labelled:
    """Columns first, then rows, then cells; clean entries have no word and fit everywhere."""
    words = [[cell.get("knowledge") if cell else None for cell in line] for line in table["cells"]]
    columns = [{word for word in column if word} for column in zip(*words, strict=True)]
    lines = [{word for word in line if word} for line in words]
    together: list[tuple[str | None, list[int]]] = [(None, list(range(len(words))))]
    if all(len(column) <= 1 for column in columns):
        return Labelled([next(iter(column), None) for column in columns], together, False)
    nothing: list[str | None] = [None] * len(columns)
    if any(len(line) > 1 for line in lines):
        return Labelled(nothing, together, True)
    groups: dict[str | None, list[int]] = {}
    for number, line in enumerate(lines):
        groups.setdefault(next(iter(line), None), []).append(number)
    order = {word: place for place, word in enumerate((None, *KNOWLEDGE))}
    return Labelled(nothing, sorted(groups.items(), key=lambda group: order.get(group[0], len(order))), False)


def rates_of(comparison: dict[str, Any]) -> dict[str, Any]:
    """Clean and robust accuracy of the models of a comparison as a table."""
    return _columns(comparison, [one["name"] for one in comparison["models"]], comparison["models"], "rate")


def gaps_of(comparison: dict[str, Any]) -> dict[str, Any]:
    """The differences of a comparison as a table."""
    return _columns(comparison, [pair_name(one) for one in comparison["pairs"]], comparison["pairs"], "points")


def pair_name(pair: dict[str, Any]) -> str:
    """The two models of a difference."""
    return f"{pair['name']} − {pair['reference']}"


def _columns(comparison: dict[str, Any], rows: list[str], held: list[dict[str, Any]], unit: str) -> dict[str, Any]:
    cells = [[one[name] and {**one[name], "published": None} for name in ("clean", "robust")] for one in held]
    named = {"id": comparison["id"], "caption": comparison["caption"], "unit": unit}
    return {**named, "rows": rows, "cols": ["clean", "robust"], "cells": cells}


def comparison_csv(comparison: dict[str, Any]) -> str:
    """Rates of the models, then differences to the first, as :func:`to_csv` writes them."""
    rates, gaps = rates_of(comparison), gaps_of(comparison)
    return to_csv({**rates, "rows": rates["rows"] + gaps["rows"], "cells": rates["cells"] + gaps["cells"]})


def markdown_comparison(comparison: dict[str, Any]) -> str:
    """Two tables, rates and differences, and a line of words for each pair."""
    said = "".join(
        f"- {escaped(pair_name(pair))}: {pair['sentence'] or NOT_COMPUTED}\n" for pair in comparison["pairs"]
    )
    return f"{markdown_table(rates_of(comparison))}\n{markdown_table(gaps_of(comparison))}\n{said}"


def to_csv(table: dict[str, Any]) -> str:
    """One line per cell: row, column, value, low, high, n, published, knowledge; what is not computed stays empty.

    Numbers are written in full, fractions as fractions, so that reading them back gives the same numbers.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row, column, cell in entries(table):
        known = cell or {}
        numbers = [known.get(name) for name in COLUMNS[2:]]  # and, last, a word
        if not computed(cell):
            numbers[3] = None  # no images were judged: an n of 0 would look like a measurement
        writer.writerow([row, column, *numbers])
    return text.getvalue()


class Grid(NamedTuple):
    """A table in words, before it is written in one format or another."""

    caption: str
    heads: list[str]
    """Names of the columns, that of the rows' names first."""
    lines: list[list[str]]
    """Name of the row and its cells."""
    notes: list[str]
    """Sentences that stand below."""
    words: tuple[int, ...] = ()
    """Columns that hold words, not numbers, besides the first."""


def grid(table: dict[str, Any]) -> Grid:
    """A table of the document in words: intervals, published values and what the attacker knew."""
    shared, labels = common_n(table), labelled(table)
    heads = [col + (f" ({word})" if word else "") for col, word in zip(table["cols"], labels.cols, strict=True)]
    lines = []
    for word, numbers in labels.groups:
        for number in numbers:
            cells = [_said(c, table["unit"], shared is None, labels.cells) for c in table["cells"][number]]
            lines.append([table["rows"][number] + (f" ({word})" if word else ""), *cells])
    notes = ["In brackets: 95 % intervals."]
    notes += [f"n = {shared:,} images per cell."] if shared is not None else []
    notes += [] if table["unit"] == "rate" else [f"Unit: {table['unit']}."]
    return Grid(table["caption"], ["", *heads], lines, notes + [f"{reason}." for reason in reasons(table)])


def markdown_table(table: dict[str, Any]) -> str:
    """A GitHub table with intervals, published values and what the attacker knew; a line below says how many images."""
    return markdown(grid(table))


def markdown(shown: Grid) -> str:
    """A GitHub table, and its notes in a line below."""
    rule = ["---", *("---" if i in shown.words else "---:" for i in range(1, len(shown.heads)))]
    rows = [shown.heads, rule, *shown.lines]
    text = "\n".join("| " + " | ".join(escaped(word) for word in line) + " |" for line in rows) + "\n"
    return text + (f"\n{' '.join(escaped(note) for note in shown.notes)}\n" if shown.notes else "")


def _said(cell: dict[str, Any] | None, unit: str, with_n: bool, with_label: bool) -> str:
    if cell is None:
        return NOT_COMPUTED
    size = f", n = {cell['n']:,}" if with_n and computed(cell) else ""
    published = "" if cell.get("published") is None else f" (published {amount(cell['published'], unit)})"
    label = f" ({cell['knowledge']})" if with_label and cell.get("knowledge") else ""
    return full(cell, unit) + size + published + label


def escaped(text: str) -> str:
    """Text as it stands in a cell of a GitHub table."""
    one_line = " ".join(text.split())
    return one_line.replace("&", "&amp;").replace("<", "&lt;").replace("\\", "\\\\").replace("|", "\\|")
