"""One document → one self-contained HTML file."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from robassay.report import words
from robassay.report.charts import csp_hash, curves, icon, library, track
from robassay.report.copies import of_attacks, of_audits, of_curves, of_table, of_words
from robassay.report.drawings import decision_map, key_of, scatter_map
from robassay.report.figures import colours, plane_map, reach, small_curves, swatch
from robassay.report.pictures import extent
from robassay.report.tables import common_n, entries, gaps_of, labelled, markdown_table, rates_of, reasons, to_csv
from robassay.report.trains import layer_name, of_rates, potential_map, rate_rows, spike_map, told
from robassay.report.works import bibliography

__all__ = ["card", "markdown_table", "render", "to_csv"]

FOLDER = Path(__file__).parent
CRISP = 96
"""Images up to this many pixels wide are enlarged without smoothing."""


def render(document: dict[str, Any]) -> str:
    """The report as one HTML file that loads nothing: no font, no script, no image from elsewhere.

    Plotly is packed into the file only when there are curves. Equal documents give equal files.

    Args:
        document: schema 1, see :mod:`robassay.document`; images of galleries as data URIs.
    """
    script = _text("script.js") + _text("tables.js")
    allowed = [csp_hash(script.encode())]
    packed = None
    if document["figures"]:
        packed, allowed_too = library()
        allowed.append(allowed_too)
    return (
        _environment()
        .get_template("template.html")
        .render(
            document=document,
            warnings=words.warnings(document),
            sources=bibliography(document),
            style=Markup(_text("card.css") + _text("style.css")),
            script=Markup(script),
            packed=packed,
            allowed=Markup(" ".join(f"'{one}'" for one in allowed)),
        )
    )


def card(audit: dict[str, Any]) -> str:
    """The card of one audit as an HTML fragment with its own style, as notebooks show it."""
    macros: Any = _environment().get_template("parts.html").module
    return f'<div class="robassay"><style>{_text("card.css")}</style>{macros.card(audit, "")}</div>'


@lru_cache(maxsize=1)
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "full": words.full,
        "amount": words.amount,
        "interval": words.interval,
        "ball": words.ball,
        "radius": words.radius,
        "count": lambda number: f"{number:,.0f}",
        "lasted": words.lasted,
        "short": lambda number: f"{number:.3g}",
        "warmth": lambda value: f"{100 * min(1.0, max(0.0, value)):.0f}",
        "image": _image,
        "curves": curves,
        "named": _named,
        "headed": _headed,
        "typeset": words.typeset,
    }
    helpers = (
        words.computed,
        words.missing,
        words.sample,
        words.tally,
        words.recomputing,
        icon,
        track,
        common_n,
        entries,
        reasons,
    )
    figures = (small_curves, colours, swatch, plane_map, reach, scatter_map, decision_map, key_of)
    layouts = (outside, labelled, series_labels, rates_of, gaps_of)
    trains = (layer_name, of_rates, potential_map, rate_rows, spike_map, told)
    copies = (of_table, of_curves, of_audits, of_attacks, of_words)
    made.globals |= {helper.__name__: helper for helper in (*helpers, *figures, *layouts, *copies, *trains)}
    made.globals |= {"VERDICTS": words.VERDICTS, "CAUSES": words.CAUSES, "WINNERS": words.WINNERS}
    made.globals |= {"SOURCES": words.SOURCES, "DIFFERS": words.DIFFERS}
    made.globals |= {"NOT_COMPUTED": words.NOT_COMPUTED, "KNOWLEDGE": words.KNOWLEDGE}
    return made


def outside(cell: dict[str, Any]) -> bool:
    """Whether the published value lies outside our interval."""
    known = words.computed(cell) and cell["published"] is not None and cell["low"] is not None
    return known and not cell["low"] <= cell["published"] <= cell["high"]


def _image(uri: str, words_for_it: str) -> Markup:
    """An image element; anything but a PNG data URI is not loaded, whatever the document says."""
    size = extent(uri)
    if size is None:
        return Markup('<span class="none">not available</span>')
    crisp = Markup(' class="crisp"') if size[0] <= CRISP else Markup("")
    return Markup('<img src="{}" width="{}" height="{}" alt="{}"{}>').format(uri, *size, words_for_it, crisp)


def _named(name: str) -> Markup:
    """A row's name, what it says in brackets smaller: "BSN-4 (30 of 100 epochs)"."""
    first, bracket, rest = name.partition(" (")
    return Markup("{} <small>({}</small>").format(first, rest) if bracket and rest.endswith(")") else escape(name)


def _headed(caption: str, unit: str = "") -> Markup:
    """A caption with its unit, what stands behind its first semicolon smaller: the setting of what is shown."""
    first, sign, rest = caption.partition("; ")
    first += f" ({unit})" if unit not in ("", "rate") else ""
    return Markup("{}; <small>{}</small>").format(first, rest) if sign else escape(first)


def _text(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def series_labels(chart: dict[str, Any]) -> list[str | None]:
    """What the attacker knew, by curve; None where its points differ or none was attacked."""
    labels = [{p.get("knowledge") for p in line["points"] if p} - {None} for line in chart["series"]]
    return [next(iter(one)) if len(one) == 1 else None for one in labels]
