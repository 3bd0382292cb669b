"""What notebooks show of plans and numbers: HTML fragments, all text escaped. The card of a result is in the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

MOST = 60
"""Rows shown; of more it is said how many."""
LEFT = "text-align:left;vertical-align:top"


def lines(heading: str, about: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A heading, a sentence and a table.

    Args:
        heading, about: text.
        head: of the columns.
        rows: as wide as ``head``.
    """
    shown = "".join(f"<tr>{''.join(_cell(one) for one in row)}</tr>" for row in rows[:MOST])
    more = f"<p>and {len(rows) - MOST} more</p>" if len(rows) > MOST else ""
    columns = "".join(f'<th scope="col" style="{LEFT}">{escape(one)}</th>' for one in head)
    table = f"<table><thead><tr>{columns}</tr></thead><tbody>{shown}</tbody></table>"
    return f"<div><p><b>{escape(heading)}</b><br>{escape(about)}</p>{table}{more}</div>"


def facts(heading: str, known: Mapping[str, object]) -> str:
    """A heading and a table of names and values.

    Args:
        heading: text.
        known: what is shown, by name.
    """
    rows = "".join(
        f'<tr><th scope="row" style="{LEFT}">{escape(name)}</th>{_cell(value)}</tr>' for name, value in known.items()
    )
    return f"<div><p><b>{escape(heading)}</b></p><table><tbody>{rows}</tbody></table></div>"


def _cell(value: object) -> str:
    return f'<td style="{LEFT}">{escape(str(value))}</td>'
