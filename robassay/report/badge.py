"""The public card of an audit: one SVG that loads nothing, to be put beside a claim."""

from __future__ import annotations

import hashlib
import textwrap
from collections.abc import Mapping
from html import escape
from typing import Any

from robassay.report.words import CAUSES, VERDICTS, WINNERS, amount, ball, computed, interval, sample

WIDTH = 720
TONES = {
    "artefact": "#b3261e",
    "overstated": "#8a4b00",
    "holds": "#0c6b3c",
    "no_flaw_found": "#0b6470",
    "undecided": "#4a5463",
}
INK, MUTED, LINE, CLAIMED = "#1b1f24", "#555e6a", "#dde1e7", "#0b59a6"
SCALE = (300, 660)
"""Where 0 and 100 % stand, in units of the picture."""
COMMAND = (78, 4)
"""Letters per line of the command and the most lines of it."""
STYLE = (
    "text{font:14px system-ui,-apple-system,'Segoe UI',Roboto,'Liberation Sans',Arial,sans-serif}"
    ".title{font-size:20px;font-weight:600}.big{font-size:22px;font-weight:600}.small{font-size:12px}"
    ".word{font-size:15px;font-weight:600}.code{font:12px ui-monospace,Menlo,Consolas,'Liberation Mono',monospace}"
)


def verdict_svg(audit: Mapping[str, Any]) -> str:
    """One audit as a self-contained SVG: what was claimed, what was delivered, on what, and how to reproduce it.

    Equal audits give equal files. All text is escaped and cut to fit.

    Args:
        audit: a result of schema 1, as ``robassay audit --json`` writes one.
    """
    tone = TONES[audit["verdict"]]
    command = _lines(audit.get("command") or "robassay.audit(…) in Python; the cells below name every input")
    height = 300 + 17 * len(command)
    parts = [
        f'<rect x=".5" y=".5" width="{WIDTH - 1}" height="{height - 1}" rx="8" fill="#fff" stroke="{LINE}"/>',
        f'<path d="M0 8a8 8 0 0 1 8-8h{WIDTH - 16}a8 8 0 0 1 8 8z" fill="{tone}"/>',
        _text(28, 46, _cut(audit["title"], 42), "title"),
        *_verdict(audit, tone),
        *_axis(200),
        *_rate(112, "claimed", audit["claimed"], CLAIMED),
        *_rate(166, "delivered", audit["robust"], tone),
        *_facts(audit, 234),
        *(_text(28, 284 + 17 * i, line, "code", MUTED) for i, line in enumerate(command)),
    ]
    label = escape(_clean(f"{audit['title']}: {audit['sentence']}"), quote=True)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        f'role="img" aria-label="{label}"><title>{label}</title><style>{STYLE}</style>{"".join(parts)}</svg>\n'
    )


def digest(keys: list[str]) -> str:
    """12 hex digits that stand for a set of cell keys."""
    return hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()[:12]


def _verdict(audit: Mapping[str, Any], tone: str) -> list[str]:
    cause = CAUSES[audit["cause"]] if audit["cause"] else ""
    none = "no robustness" if audit["robustness"] == "none" else ""
    beside = "; ".join(word for word in (cause, none) if word)
    return [
        _text(WIDTH - 28, 46, VERDICTS[audit["verdict"]], "big", tone, "end"),
        _text(WIDTH - 28, 68, beside, "", MUTED, "end"),
        _text(28, 68, _cut(audit["network"], 52), "", MUTED),
    ]


def _rate(y: int, name: str, rate: Mapping[str, Any] | None, colour: str) -> list[str]:
    """A name, a number with its interval, and both on the scale."""
    words = [_text(28, y, name, "word"), _text(120, y, amount(rate["value"] if rate else None), "big", colour)]
    if rate is None or not computed(rate):
        return words
    words.append(_text(120, y + 18, f"95 %: {interval(rate)}", "small", MUTED))
    low, high = _at(rate["low"], 0.0), _at(rate["high"], 1.0)
    at, level = _at(rate["value"], 0.0), y - 4
    way = f"M{low} {level}H{high}M{low} {level - 7}v14M{high} {level - 7}v14"
    drawn = f'<path d="{way}" stroke="{colour}" stroke-width="2"/>'
    return [*words, drawn, f'<circle cx="{at}" cy="{level}" r="6" fill="{colour}" stroke="#fff" stroke-width="2"/>']


def _axis(y: int) -> list[str]:
    parts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = _at(share, 0.0)
        parts.append(f'<path d="M{x} 88V{y - 12}" stroke="{LINE}"/>')
        parts.append(_text(x, y + 2, f"{100 * share:.0f}" + " %" * (share == 1), "small", MUTED, "middle"))
    return parts


def _facts(audit: Mapping[str, Any], y: int) -> list[str]:
    winner = WINNERS.get(audit["winner"], audit["winner"])
    first = f"{ball(audit['threat'])} · {sample(audit)} · budget {audit['budget']} · strongest: {_cut(winner, 36)}"
    second = f"robassay {audit['version']} · {len(audit['keys'])} cells, digest {digest(audit['keys'])}"
    won: list[str] = next((one["keys"] for one in audit["attacks"] if one["name"] == audit["winner"]), [])
    second += f" · its cell {' '.join(won[:2])}" + " …" * (len(won) > 2) if won else ""
    return [_text(28, y, _cut(first, 104)), _text(28, y + 22, second, "small", MUTED)]


def _at(value: float | None, otherwise: float) -> float:
    share = otherwise if value is None else min(1.0, max(0.0, float(value)))
    return round(SCALE[0] + share * (SCALE[1] - SCALE[0]), 1)


def _text(x: float, y: float, words: str, kind: str = "", fill: str = INK, anchor: str = "start") -> str:
    if not words:
        return ""
    look = f' class="{kind}"' if kind else ""
    return f'<text x="{x}" y="{y}" fill="{fill}" text-anchor="{anchor}"{look}>{escape(_clean(words))}</text>'


def _lines(command: str) -> list[str]:
    width, most = COMMAND
    found = textwrap.wrap(_clean(command), width, break_on_hyphens=False)
    return found if len(found) <= most else [*found[: most - 1], _cut(found[most - 1], width - 2) + " …"]


def _cut(words: str, most: int) -> str:
    words = _clean(words)
    return words if len(words) <= most else words[: most - 1].rstrip() + "…"


def _clean(words: str) -> str:
    """One line without characters that XML has no way to write."""
    return " ".join("".join(c if c.isprintable() else " " for c in words).split())
