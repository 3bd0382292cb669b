"""Checked results of audits → one page: claims beside what was delivered, sortable, loading nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from robassay.report.charts import csp_hash
from robassay.report.render import _environment, _text
from robassay.verdict import words_of

ORDER = ("holds", "no_flaw_found", "undecided", "overstated", "artefact")
"""Verdicts from the best to the worst."""
Row = dict[str, Any]


def leaderboard(audits: Sequence[Mapping[str, Any]], version: str) -> str:
    """All audits as one page, a table for each set of images and ball; what delivers most comes first.

    All text is escaped, and the page's policy admits its own script alone. Equal audits give equal pages.

    Args:
        audits: results of schema 1 that fit together, each with ``card``, the file name of its card in cards/, and
            ``digest``, that of its cells.
        version: of the program that writes the page.
    """
    script = _text("leaderboard.js")
    tables: dict[tuple[Any, ...], list[Row]] = {}
    for audit in sorted(audits, key=lambda one: (-one["robust"]["value"], one["title"])):
        data, threat = audit["data"], audit["threat"]
        same = (data["name"], data["split"], threat["norm"], threat["eps"], data["checksum"])
        tables.setdefault(same, []).append(_row(audit))
    return (
        _environment()
        .get_template("leaderboard.html")
        .render(
            tables=[rows for _, rows in sorted(tables.items(), key=lambda one: one[0])],
            audits=list(audits),
            version=version,
            style=Markup(_text("card.css") + _text("style.css") + _text("leaderboard.css")),
            script=Markup(script),
            allowed=Markup(f"'{csp_hash(script.encode())}'"),
        )
    )


def _row(audit: Mapping[str, Any]) -> Row:
    """With what the page shows besides: its own words for the verdict, where the card is."""
    rank = ORDER.index(audit["verdict"])
    about = {"by": "", "link": "", **audit.get("about", {})}
    return {**audit, "sentence": words_of(audit).sentence, "rank": rank, "about": about, "href": quote(audit["card"])}
