"""One table of a document as CSV and as Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Any

from robassay.report.words import NOT_COMPUTED, amount, computed, full

COLUMNS = ("row", "column", "value", "low", "high", "n", "published")


def entries(table: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any] | None]]:
    """Row, column and cell, row by row."""
    for row, line in zip(table["rows"], table["cells"], strict=True):
        for column, cell in zip(table["cols"], line, strict=True):
            yield row, column, cell


def common_n(table: dict[str, Any]) -> int | None:
    """The number of images if all computed cells share it, so that it need not stand in each."""
    sizes = {cell["n"] for _, _, cell in entries(table) if computed(cell) and cell is not None}
    return sizes.pop() if len(sizes) == 1 else None


def to_csv(table: dict[str, Any]) -> str:
    """One line per cell: row, column, value, low, high, n, published; what is not computed stays empty.

    Numbers are written in full, fractions as fractions, so that reading them back gives the same numbers.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row, column, cell in entries(table):
        known = cell or {}
        numbers = [known.get(name) for name in COLUMNS[2:]]
        if not computed(cell):
            numbers[3] = None  # no images were judged: an n of 0 would look like a measurement
        writer.writerow([row, column, *numbers])
    return text.getvalue()


def markdown_table(table: dict[str, Any]) -> str:
    """A GitHub table with intervals and published values; a line below says how many images."""
    shared = common_n(table)
    lines = [["", *table["cols"]], ["---", *("---:" for _ in table["cols"])]]
    for row, cells in zip(table["rows"], table["cells"], strict=True):
        lines.append([row, *(_markdown_cell(cell, table["unit"], shared is None) for cell in cells)])
    text = "\n".join("| " + " | ".join(_escaped(word) for word in line) + " |" for line in lines) + "\n"
    size = f" n = {shared:,} images per cell." if shared is not None else ""
    unit = "" if table["unit"] == "rate" else f" Unit: {_escaped(table['unit'])}."
    return f"{text}\nIn brackets: 95 % intervals.{size}{unit}\n"


def _markdown_cell(cell: dict[str, Any] | None, unit: str, with_n: bool) -> str:
    if cell is None:
        return NOT_COMPUTED
    size = f", n = {cell['n']:,}" if with_n and computed(cell) else ""
    published = "" if cell["published"] is None else f" (published {amount(cell['published'], unit)})"
    return full(cell, unit) + size + published


def _escaped(text: str) -> str:
    one_line = " ".join(text.split())
    return one_line.replace("&", "&amp;").replace("<", "&lt;").replace("\\", "\\\\").replace("|", "\\|")
