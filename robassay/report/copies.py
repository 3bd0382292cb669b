"""Every table of the report as text to be taken along: CSV with all digits, LaTeX and Markdown in words."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Any, NamedTuple

from robassay.report.tables import Grid, grid, markdown, to_csv
from robassay.report.words import CAUSES, VERDICTS, Rate, ball, computed, full, radius

SIGNS = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "−": "$-$", "∞": r"$\infty$", "≤": r"$\leq$", "≥": r"$\geq$", "≠": r"$\neq$", "×": r"$\times$", "→": r"$\to$",
    "·": r"$\cdot$", "±": r"$\pm$", "≈": r"$\approx$", "₀": "$_0$", "₁": "$_1$", "₂": "$_2$", "²": "$^2$",
    "α": r"$\alpha$", "β": r"$\beta$", "γ": r"$\gamma$", "δ": r"$\delta$", "ε": r"$\varepsilon$", "κ": r"$\kappa$",
    "λ": r"$\lambda$", "μ": r"$\mu$", "σ": r"$\sigma$", "τ": r"$\tau$", "Δ": r"$\Delta$", "Σ": r"$\Sigma$",
    "√": r"$\surd$", "–": "--", "—": "---", "…": r"\dots{}", "“": "``", "”": "''", "’": "'", "‘": "`",
    "\N{NO-BREAK SPACE}": "~",
}  # fmt: skip
"""What LaTeX reads as something else, or has no letter for."""


class Copies(NamedTuple):
    """One table in three formats."""

    csv: str
    latex: str
    markdown: str


def of_table(table: dict[str, Any]) -> Copies:
    """A table of the document; numbers of the CSV are in full, fractions as fractions."""
    shown = grid(table)
    return Copies(to_csv(table), latex(shown), markdown(shown))


def of_curves(chart: dict[str, Any]) -> Copies:
    """The numbers behind curves: a row per position, a column per curve."""
    cells = [[line["points"][i] and {**line["points"][i], "published": None} for line in chart["series"]]
             for i in range(len(chart["x"]))]  # fmt: skip
    named = {"id": chart["id"], "caption": chart["caption"], "unit": chart.get("unit", "rate")}
    rows, cols = [radius(at) for at in chart["x"]], [line["name"] for line in chart["series"]]
    found = of_table({**named, "rows": rows, "cols": cols, "cells": cells})
    return found._replace(csv=to_csv({**named, "rows": chart["x"], "cols": cols, "cells": cells}))


def of_audits(audits: list[dict[str, Any]]) -> Copies:
    """The overview: a row per audit."""
    names = ("clean", "claimed", "robust", "gap")
    heads = ["Network", "Threat", "Clean", "Usual attack", "Strongest found", "Gap", "n", "Verdict"]
    lines, told = [], []
    for one in audits:
        rates = [one[name] for name in names]
        size = one["robust"]["n"] if computed(one["robust"]) else None
        verdict = VERDICTS[one["verdict"]] + (f" ({CAUSES[one['cause']]})" if one["cause"] else "")
        numbers = [full(rate, "points" if name == "gap" else "rate") for name, rate in zip(names, rates, strict=True)]
        lines.append([one["title"], ball(one["threat"]), *numbers, "–" if size is None else f"{size:,}", verdict])
        told.append([one["title"], ball(one["threat"]), *(v for r in rates for v in _three(r)), size, one["verdict"]])
    columns = [f"{name}{end}" for name in names for end in ("", "_low", "_high")]
    shown = Grid("Overview", heads, lines, ["In brackets: 95 % intervals."], (1, 7))
    return Copies(_csv(["network", "threat", *columns, "n", "verdict"], told), latex(shown), markdown(shown))


def of_attacks(audit: dict[str, Any]) -> Copies:
    """Every attack of an audit, alone or after another one."""
    heads = ["Attack", "Role", "Robust accuracy", "n", "Queries", "Gradients"]
    lines, told = [], []
    for one in audit["attacks"]:
        size = one["robust"]["n"] if computed(one["robust"]) else None
        spent = [one["queries"], one["gradients"]]
        words = [f"{number:,.0f}" for number in spent]
        role = one["role"] + (f", after {one['after']}" if "after" in one else "")
        lines.append([one["name"], role, full(one["robust"]), "–" if size is None else f"{size:,}", *words])
        told.append([one["name"], role, *_three(one["robust"]), size, *spent])
    shown = Grid(f"Attacks on {audit['title']}", heads, lines, ["In brackets: 95 % intervals."], (1,))
    columns = ["attack", "role", "value", "low", "high", "n", "queries", "gradients"]
    return Copies(_csv(columns, told), latex(shown), markdown(shown))


def of_words(caption: str, heads: list[str], rows: list[dict[str, Any]], names: list[str]) -> Copies:
    """A table of words: of each of ``rows`` the entries ``names``, under ``heads``; what is None or empty is a dash."""
    lines = [[str(row[name] if row[name] not in (None, "") else "–") for name in names] for row in rows]
    shown = Grid(caption, heads, lines, [], tuple(range(1, len(heads))))
    return Copies(_csv(names, ([row[name] for name in names] for row in rows)), latex(shown), markdown(shown))


def latex(shown: Grid) -> str:
    r"""A ``table`` environment for LaTeX with the package booktabs, in which every sign is itself."""
    columns = "l" + "".join("l" if i in shown.words else "r" for i in range(1, len(shown.heads)))
    rows = [" & ".join(tex(word) for word in line) + r" \\" for line in (shown.heads, *shown.lines)]
    below = " ".join(tex(note) for note in shown.notes)
    parts = [
        r"\begin{table}  % \usepackage{booktabs}",
        rf"\caption{{{tex(shown.caption)}{'. ' + below if below else ''}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        rows[0],
        r"\midrule",
        *rows[1:],
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(parts) + "\n"


def tex(text: str) -> str:
    """Text as LaTeX has to read it, on one line."""
    return "".join(SIGNS.get(letter, letter) for letter in " ".join(text.split(" ")).replace("\n", " "))


def _three(rate: Rate) -> list[float | None]:
    return [None, None, None] if not computed(rate) or rate is None else [rate["value"], rate["low"], rate["high"]]


def _csv(heads: list[str], lines: Iterable[list[Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows(lines)
    return text.getvalue()
