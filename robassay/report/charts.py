"""Charts: intervals and icons as inline SVG, curves as Plotly figures, and the Plotly library itself, packed."""

from __future__ import annotations

import base64
import gzip
import hashlib
import textwrap
from functools import lru_cache
from typing import Any

from markupsafe import Markup

from robassay.report.words import Rate, computed, full, radius

# Mid tones: at least 3:1 against the white page and the dark one, so that curves need no second palette.
PALETTE = ("#2f7fd0", "#d4622a", "#1f9166", "#a65fd0", "#a97b12", "#d64a8f", "#7a8694", "#17909f")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "triangle-down", "cross", "star")
DASHES = (("solid", "dash"), ("dot", "longdash"), ("dashdot", "longdashdot"))
"""A plain and a dashed line. The colours begin anew with the next pair, and with hollow symbols."""

_RING = '<circle cx="8" cy="8" r="6.5"/>'
_ICONS = {
    "cross": _RING + '<path d="M5.5 5.5l5 5M10.5 5.5l-5 5"/>',
    "alarm": '<path d="M8 1.8l6.6 12H1.4zM8 6.2v3.6M8 11.9v.1"/>',
    "tick": _RING + '<path d="M5 8.3l2.1 2.1 4-4.4"/>',
    "glass": '<circle cx="6.8" cy="6.8" r="4.9"/><path d="M10.4 10.4l4.1 4.1"/>',
    "query": _RING + '<path d="M6.1 6.3a1.95 1.95 0 1 1 2.9 1.7c-.7.4-1 .8-1 1.5M8 11.7v.1"/>',
}
_USED = {
    "artefact": "cross",
    "overstated": "alarm",
    "holds": "tick",
    "no_flaw_found": "glass",
    "undecided": "query",
    "PASS": "tick",
    "FAIL": "cross",
    "UNDECIDED": "query",
    "warning": "alarm",
}


def icon(name: str) -> Markup:
    """The icon of a verdict or outcome; the word beside it says the same, so it is hidden from screen readers."""
    return Markup(f'<svg class="icon" viewBox="0 0 16 16" aria-hidden="true">{_ICONS[_USED[name]]}</svg>')


def track(rate: Rate, kind: str, band: tuple[Rate, Rate] | None = None, published: float | None = None) -> Markup:
    """A rate on a scale from 0 to 100 %: a dot, its interval as whiskers; coordinates in per cent, so it stretches.

    Args:
        rate: what is drawn; nothing but the scale where it is not computed.
        kind: class of the dot.
        band: two rates; the stretch between them is tinted (the gap).
        published: a value marked by a tick.
    """
    parts = [f'<line class="grid" x1="{x}%" x2="{x}%" y1="0" y2="100%"/>' for x in (0, 25, 50, 75, 100)]
    parts.append('<line class="base" x1="0" x2="100%" y1="50%" y2="50%"/>')
    if band is not None and band[0] is not None and band[1] is not None and computed(band[0]) and computed(band[1]):
        low, high = sorted(_place(r["value"]) for r in band if r is not None)
        parts.insert(0, f'<rect class="gap" x="{low:.1f}%" width="{high - low:.1f}%" y="0" height="100%"/>')
    if published is not None:
        at = _place(published)
        parts.append(f'<line class="published" x1="{at:.1f}%" x2="{at:.1f}%" y1="10%" y2="90%"/>')
    if computed(rate) and rate is not None:
        if rate["low"] is not None and rate["high"] is not None:
            low, high = _place(rate["low"]), _place(rate["high"])
            parts.append(f'<line class="reach" x1="{low:.1f}%" x2="{high:.1f}%" y1="50%" y2="50%"/>')
            parts += [f'<line class="reach" x1="{e:.1f}%" x2="{e:.1f}%" y1="30%" y2="70%"/>' for e in (low, high)]
        parts.append(f'<circle cx="{_place(rate["value"]):.1f}%" cy="50%"/>')
    return Markup(f'<svg class="track {kind}" aria-hidden="true">{"".join(parts)}</svg>')


def _place(value: float) -> float:
    return 100 * min(1.0, max(0.0, float(value)))


def curves(chart: dict[str, Any]) -> dict[str, Any]:
    """A figure of the document as Plotly data and layout; a curve breaks where a point is not computed."""
    rates = chart.get("unit", "rate") == "rate"
    traces: list[dict[str, Any]] = []
    faint = 0.16 if len(chart["series"]) <= 4 else 0.09
    for number, (line, look) in enumerate(zip(chart["series"], _looks(chart["series"]), strict=True)):
        colour, symbol, dash = style(look, bool(line["dash"]))
        bands = [_band(chart["x"], run, colour, rates) for run in _runs(line["points"])]
        traces += [band | {"legendgroup": str(number), "opacity": faint} for band in bands]
        curve = _curve(chart["x"], line, (colour, symbol, dash), rates)
        traces.append(curve | {"legendgroup": str(number)})
    return {"data": traces, "layout": _layout(chart, rates)}


def style(look: int, dashed: bool) -> tuple[str, str, str]:
    """Colour, symbol and dashes of a curve; no two of 24 agree in symbol and dashes, so that no colour need be seen."""
    lap, place = divmod(look, len(PALETTE))
    symbol = SYMBOLS[place] + ("-open" if lap % 2 else "")
    return PALETTE[place], symbol, DASHES[lap % len(DASHES)][dashed]


def _looks(series: list[dict[str, Any]]) -> list[int]:
    """Number of the colour of each curve; "net, usual attack" dashed and "net, strongest" solid share theirs."""
    looks: dict[tuple[str, bool], int] = {}
    found: list[int] = []
    for line in series:
        family, dash = line["name"].rsplit(", ", 1)[0], bool(line["dash"])
        partner = looks.pop((family, not dash), None)
        look = len(set(found)) if partner is None else partner
        if partner is None:
            looks[family, dash] = look
        found.append(look)
    return found


def _curve(x: list[float], line: dict[str, Any], look: tuple[str, str, str], rates: bool) -> dict[str, Any]:
    colour, symbol, dash = look
    unit, points = "rate" if rates else "", line["points"]
    told = [f"{full(p, unit)}, n = {p['n']}" if computed(p) else "" for p in points]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": "<br>".join(_plain(part) for part in textwrap.wrap(line["name"], 34)),
        "x": x,
        "y": [_height(p["value"], rates) if computed(p) else None for p in points],
        "customdata": [[radius(at), text] for at, text in zip(x, told, strict=True)],
        "hovertemplate": "<b>%{fullData.name}</b><br>%{customdata[0]}: %{customdata[1]}<extra></extra>",
        "line": {"color": colour, "width": 2, "dash": dash},
        "marker": {"color": colour, "size": 7, "symbol": symbol},
    }


def _band(x: list[float], run: list[tuple[int, Any]], colour: str, rates: bool) -> dict[str, Any]:
    low = [_height(point["low"], rates) for _, point in run]
    high = [_height(point["high"], rates) for _, point in run]
    across = [x[i] for i, _ in run]
    return {
        "type": "scatter",
        "mode": "lines",
        "x": across + across[::-1],
        "y": high + low[::-1],
        "fill": "toself",
        "fillcolor": colour,
        "line": {"width": 0, "color": colour},
        "showlegend": False,
        "hoverinfo": "skip",
    }


def _runs(points: list[Rate]) -> list[list[tuple[int, Any]]]:
    """Stretches of neighbouring points that have an interval; a band must not bridge what is not computed."""
    runs: list[list[tuple[int, Any]]] = [[]]
    for place, point in enumerate(points):
        if computed(point) and point is not None and point["low"] is not None and point["high"] is not None:
            runs[-1].append((place, point))
        else:
            runs.append([])
    return [run for run in runs if len(run) > 1]


def _layout(chart: dict[str, Any], rates: bool) -> dict[str, Any]:
    x = chart["x"]
    wide = bool(x) and min(x) > 0 and max(x) / min(x) >= 50
    across: dict[str, Any] = {"title": _title(chart["xlabel"]), "type": "log" if wide else "linear"}
    if len(x) <= 9:
        across |= {"tickmode": "array", "tickvals": x, "ticktext": [radius(at) for at in x]}
    unit = "%" if rates else chart["unit"]
    up: dict[str, Any] = {"title": _title(chart["ylabel"] + (f" ({unit})" if unit not in chart["ylabel"] else ""))}
    values = [p["value"] for line in chart["series"] for p in line["points"] if computed(p)]
    if rates and all(0 <= value <= 1 for value in values):
        up |= {"range": [-2, 102], "tickvals": [0, 20, 40, 60, 80, 100]}
    common = {"fixedrange": True, "automargin": True, "zeroline": False, "showline": True, "ticks": "outside"}
    return {
        "xaxis": common | across,
        "yaxis": common | up,
        "hovermode": "closest",
        "dragmode": False,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "modebar": {"bgcolor": "rgba(0,0,0,0)"},
        "margin": {"l": 60, "r": 24, "t": 40, "b": 56},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "itemwidth": 44},
    }


def _title(text: str) -> dict[str, Any]:
    return {"text": _plain(text), "font": {"size": 14}, "standoff": 8}


def _height(value: float, rates: bool) -> float:
    return round(100 * value, 4) if rates else value


def _plain(text: str) -> str:
    """Plotly reads a few tags, links among them, in any text; names are names."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


@lru_cache(maxsize=1)
def library() -> tuple[str, str]:
    """Plotly, gzipped, in base64, and the CSP hash of its text: 2 MB in the page instead of 4.8."""
    from plotly.offline import get_plotlyjs

    code = get_plotlyjs().encode()
    packed = base64.b64encode(gzip.compress(code, 9, mtime=0)).decode("ascii")
    return packed, csp_hash(code)


def csp_hash(code: bytes) -> str:
    """The source expression that allows exactly this inline script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(code).digest()).decode("ascii")
