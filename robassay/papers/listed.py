"""Parts of a paper's page: claims beside their unions, audits, curves as tables, drawings, what is not as published."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from robassay.papers.ordering import Pair, Tally, pairs, tally
from robassay.report.drawings import COLOURS, decision_map, key_of, scatter_map
from robassay.report.tables import escaped
from robassay.report.words import CAUSES, VERDICTS, amount, ball, full, radius, sample

OUTCOMES = {"PASS": "holds", "FAIL": "**does not**", "UNDECIDED": "undecided"}
UNION = "-union"
NOTHING = "–"
STYLE = (
    "<style>text{font:11px sans-serif;fill:#667}.frame{fill:none;stroke:#aab}ellipse{fill:none;stroke-width:1.6}"
    ".arrow{stroke-width:2}.seen{fill:#fff;stroke:#1b1f24;stroke-width:2}"
    ".name{font-size:13px;font-weight:700;fill:#1b1f24;stroke:#fff;stroke-width:3px;paint-order:stroke}</style>"
)


def claims(document: dict[str, Any]) -> str:
    """Every check: with the paper's attack, and with the union where there is one."""
    checks = {check["id"]: check for check in document["checks"]}
    first = [id for id in checks if not (id.endswith(UNION) and id.removesuffix(UNION) in checks)]
    lines = ["| id | claim | with the paper's attack | with the union |", "| --- | --- | --- | --- |"]
    for id in first:
        told = [_judged(checks.get(one)) for one in (id, id + UNION)]
        lines.append(f"| {id} | {escaped(checks[id]['question'])} | {told[0]} | {told[1]} |")
    return "\n".join(lines)


def _judged(check: Mapping[str, str] | None) -> str:
    return NOTHING if check is None else f"{OUTCOMES[check['outcome']]}: {escaped(check['sentence'])}"


def audits(document: dict[str, Any], published: Mapping[str, str]) -> str:
    """Claimed, reproduced, delivered: the published figure, ours of the paper's attack, and what is left.

    Args:
        document: of a study.
        published: the published figure in words, by the audit's id.
    """
    heads = ("network", "threat", "claimed (published)", "reproduced (the paper's attack, ours)",
             "delivered (worst per image)", "verdict")  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "| --- | --- | --- | ---: | ---: | --- |"]
    for audit in document["audits"]:
        verdict = VERDICTS[audit["verdict"]] + (f" ({CAUSES[audit['cause']]})" if audit["cause"] else "")
        words = (
            audit["title"],
            f"{ball(audit['threat'])}; {sample(audit)}",
            published.get(audit["id"], "not stated"),
            full(audit["claimed"]) + (f": {audit['claim']}" if audit.get("claim") else ""),
            full(audit["robust"]),
            f"{verdict}: {audit['sentence']}",
        )
        lines.append("| " + " | ".join(escaped(word) for word in words) + " |")
    return "\n".join(lines)


def figure_table(figure: dict[str, Any]) -> dict[str, Any]:
    """Curves as a table: the more numerous of points and curves are the rows."""
    points = [f"{figure['xlabel']} {radius(x)}" for x in figure["x"]]
    names = [line["name"] for line in figure["series"]]
    cells = [[point and {"published": None, **point} for point in line["points"]] for line in figure["series"]]
    named = {**{k: figure[k] for k in ("id", "caption")}, "unit": figure.get("unit", "rate")}
    if len(points) > len(names):
        return {**named, "rows": points, "cols": names, "cells": [list(line) for line in zip(*cells, strict=True)]}
    return {**named, "rows": names, "cols": points, "cells": cells}


def tallies(table: dict[str, Any]) -> tuple[Tally, dict[str, int]]:
    """Cells and pairs of a table, counted."""
    return tally(table), Counter(pair.outcome for pair in pairs(table))


def disagreements(document: dict[str, Any]) -> dict[str, list[str]]:
    """Where a study is not as published: by the id of a check or by table/column, what was found."""
    found = {}
    for check in document["checks"]:
        if check["outcome"] == "FAIL":
            found[check["id"]] = [f"{check['question']}: {check['sentence']}"]
    for table in document["tables"]:
        for pair in pairs(table):
            if pair.outcome == "disagrees":
                found.setdefault(f"{table['id']}/{pair.column}", []).append(_told(pair, table["unit"]))
    return found


def _told(pair: Pair, unit: str) -> str:
    one, other = (f"{full(cell, unit)}, published {amount(cell['published'], unit)}" for cell in pair.cells)
    return f"{pair.larger} ({one}) lies below {pair.smaller} ({other})"


def drawn(drawing: dict[str, Any], file: str) -> str:
    """A drawing that lies in ``file``, with what is to be known of it."""
    words = ["Dots: three images; paler: draws disagree." if drawing["kind"] == "plane" else f"n = {drawing['n']:,}."]
    words += ["Ellipses: two standard deviations."] if "centres" in drawing else []
    words += ["Arrows: lengths in proportion to each other only."] if "arrows" in drawing else []
    caption = escaped(drawing["caption"])
    return f"### {drawing['id']}\n\n{caption}\n\n![{drawing['id']}]({file})\n\n{' '.join(words)}"


def svg(drawing: dict[str, Any]) -> str:
    """A drawing of the report as a file of its own, with a line below that shows each label in its colour."""
    text = str(decision_map(drawing) if drawing["kind"] == "plane" else scatter_map(drawing))
    begun = re.match(r'<svg class="scatter" viewBox="0 (\S+) (\S+) (\S+)"', text)
    assert begun is not None
    high = float(begun[3]) + 20
    low = float(begun[1]) + high - 7
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 {begun[1]} {begun[2]} {high:g}"'
    key = "".join(
        f'<text x="{10 + 24 * place}" y="{low:g}" style="fill:{COLOURS[label % len(COLOURS)]}">{label}</text>'
        for place, (label, _) in enumerate(key_of(drawing))
    )
    body = (head + text[begun.end() :]).replace(">", f">{STYLE}", 1)
    return body.removesuffix("</svg>") + key + "</svg>\n"
