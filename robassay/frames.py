"""Results as a table in long form: a row per number, for pandas, Polars, or as plain records. Needs no torch."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

from robassay.errors import UsageError

COLUMNS = ("item", "row", "column", "value", "low", "high", "n", "published")
NUMBERS = ("value", "low", "high", "published")
RATES = ("clean", "claimed", "adequate", "robust", "gap")
LIBRARIES = ("pandas", "polars")
Library = Literal["pandas", "polars"]
Record = dict[str, Any]


class Whole(Protocol):
    """What has a document, such as :class:`robassay.document.Document`."""

    def whole(self) -> dict[str, Any]: ...


Results = Mapping[str, Any] | Whole


def frame(results: Results, library: Library | None = None) -> Any:
    """All numbers of a study or an audit as a data frame in long form.

    Its columns are item, row, column, value, low, high, n and published: rates as fractions, 95 % intervals, n images,
    the published figure where there is one. What is not computed has n = 0 and no value. Of curves ``row`` is the name
    of the line and ``column`` the position on the axis; of audits ``row`` is "rates" or "attacks".

    Args:
        results: what :func:`robassay.audit` returned, a document, or what is in a ``results.json``.
        library: "pandas" or "polars"; None for whichever is installed, pandas first.

    Raises:
        UsageError: the library is not installed, or ``results`` are none.
    """
    found = records(results)
    if library is not None and library not in LIBRARIES:
        raise UsageError(f"library='{library}' makes no frames here. Write pandas or polars.")
    for name in LIBRARIES if library is None else (library,):
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        return _pandas(module, found) if name == "pandas" else _polars(module, found)
    wanted = library or "pandas or polars"
    raise UsageError(
        f"a frame needs {wanted}, which is not installed. Install it, or take robassay.frames.records(results), a list "
        "of dicts."
    )


def records(results: Results) -> list[Record]:
    """The rows of :func:`frame` as plain dicts; what is missing is None.

    Args:
        results: as for :func:`frame`.

    Raises:
        UsageError: ``results`` are none.
    """
    document = results if isinstance(results, Mapping) else results.whole()
    if "verdict" in document and "attacks" in document:
        document = {"audits": [document]}
    if not any(name in document for name in ("audits", "tables", "figures", "comparisons")):
        raise UsageError(
            "these are no results of a study or an audit. Give what robassay.audit returned, a Document, or what is in "
            "a results.json."
        )
    found: list[Record] = []
    for table in document.get("tables", ()):
        found += _table(table["id"], table)
    for figure in document.get("figures", ()):
        found += _curves(figure["id"], figure)
    for comparison in document.get("comparisons", ()):
        found += _comparison(comparison)
    for audit in document.get("audits", ()):
        found += _audit(audit)
    return found


def _table(item: str, table: Mapping[str, Any]) -> Iterator[Record]:
    for row, line in zip(table["rows"], table["cells"], strict=True):
        for column, cell in zip(table["cols"], line, strict=True):
            if cell is not None:
                yield _record(item, row, column, cell)


def _curves(item: str, figure: Mapping[str, Any]) -> Iterator[Record]:
    for line in figure["series"]:
        for x, point in zip(figure["x"], line["points"], strict=True):
            if point is not None:
                yield _record(item, line["name"], str(x), point)


def _comparison(comparison: Mapping[str, Any]) -> Iterator[Record]:
    for model in comparison["models"]:
        for column in ("clean", "robust"):
            yield _record(comparison["id"], model["name"], column, model[column])
    for pair in comparison["pairs"]:
        for column in ("clean", "robust"):
            yield _record(comparison["id"], f"{pair['name']} − {pair['reference']}", column, pair[column])


def _audit(audit: Mapping[str, Any]) -> Iterator[Record]:
    item = audit["id"]
    for name in RATES:
        yield _record(item, "rates", name, audit[name])
    for attack in audit["attacks"]:
        yield _record(item, "attacks", attack["name"], attack["robust"])
    for shown in audit.get("evidence", ()):
        name = f"{item}/{shown.get('id', '')}"
        yield from (
            _table(name, shown) if shown["kind"] == "table" else _curves(name, shown) if "series" in shown else ()
        )


def _record(item: str, row: str, column: str, cell: Mapping[str, Any] | None) -> Record:
    cell = cell or {}
    numbers = {name: cell.get(name) for name in ("value", "low", "high")}
    named = {"item": item, "row": row, "column": column}
    return {**named, **numbers, "n": cell.get("n", 0), "published": cell.get("published")}


def _columns(found: Sequence[Record]) -> dict[str, list[Any]]:
    return {name: [record[name] for record in found] for name in COLUMNS}


def _pandas(pandas: Any, found: Sequence[Record]) -> Any:
    types = {name: "float64" for name in NUMBERS} | {"n": "int64"}
    return pandas.DataFrame(_columns(found), columns=list(COLUMNS)).astype(types)


def _polars(polars: Any, found: Sequence[Record]) -> Any:
    types = {name: polars.String for name in ("item", "row", "column")} | {"n": polars.Int64}
    types |= {name: polars.Float64 for name in NUMBERS}
    # A table of whole numbers has ints among its values.
    columns = _columns(found)
    for name in NUMBERS:
        columns[name] = [None if value is None else float(value) for value in columns[name]]
    return polars.DataFrame(columns, schema={name: types[name] for name in COLUMNS})
