"""Tables that can be taken along: CSV that reads back to the digit, LaTeX and Markdown where every sign is itself."""

from __future__ import annotations

import csv
import io
import re

import pytest
from test_report import HOSTILE, Page, audit, comparison, document, figure, rate, table
from test_report_evidence import chart, noise_table, row

from robassay.report import render
from robassay.report.copies import SIGNS, latex, of_attacks, of_audits, of_curves, of_table, of_words, tex
from robassay.report.tables import Grid


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_latex_has_a_line_per_row_and_a_cell_per_column():
    lines = of_table(table()).latex.splitlines()
    assert lines[2] == r"\begin{tabular}{lrr}" and lines[4] == r" & PGD & C|W \\"
    assert lines[6] == r"plain & 51.2 \% [44.2, 58.2] (published 48.0 \%) & not computed \\"
    body = lines[lines.index(r"\midrule") + 1 : lines.index(r"\bottomrule")]
    assert len(body) == 2 and all(line.count(" & ") == 2 and line.endswith(r" \\") for line in body)
    assert lines[1] == r"\caption{Robust. In brackets: 95 \% intervals. n = 200 images per cell.}"


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("50 % of {a_b} & $c #1 ~ ^", r"50 \% of \{a\_b\} \& \$c \#1 \textasciitilde{} \textasciicircum{}"),
        ("a\\b", r"a\textbackslash{}b"),
        ("L∞ ≤ 0.1, −5 points × 2", r"L$\infty$ $\leq$ 0.1, $-$5 points $\times$ 2"),
        ("two\nlines", "two lines"),
    ],
)
def test_every_sign_is_itself_in_latex(text, written):
    assert tex(text) == written


def test_latex_of_every_sign_is_ascii():
    assert all(tex(sign).isascii() for sign in SIGNS)
    # Braces that are balanced, dollars that come in pairs.
    for written in (tex(sign) for sign in SIGNS):
        bare = re.sub(r"\\[{}$]", "", written)
        assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0


def test_columns_of_words_are_left_aligned():
    shown = Grid("c", ["a", "b", "c"], [["x", "1", "word"]], [], (2,))
    assert r"\begin{tabular}{lrl}" in latex(shown)


def test_curves_have_a_row_per_position():
    found = of_curves(figure())
    lines = read(found.csv)
    assert [float(line["row"]) for line in lines] == [0, 8 / 255, 0.1], "in full, not as 8/255"
    assert [line["value"] for line in lines] == ["0.9", "", "0.3"] and {line["column"] for line in lines} == {"usual"}
    assert found.markdown.splitlines()[3] == "| 8/255 | not computed |"


def test_the_overview_has_every_rate_with_its_interval():
    known = audit(title="A|B", verdict="overstated", gap=rate(0.47, 0.01))
    found = of_audits([known, audit("undecided", robust=None, gap=None, cause=None)])
    first, second = read(found.csv)
    assert float(first["claimed_low"]) == known["claimed"]["low"] and float(first["gap_high"]) == known["gap"]["high"]
    assert (first["verdict"], first["n"], second["robust"], second["n"]) == ("overstated", "200", "", "")
    line = found.markdown.splitlines()[2]
    assert line.startswith("| A\\|B | L∞ ≤ 0.1 | 98.0 %") and "47.0 points [46.0, 48.0] | 200 | Overstated" in line


def test_attacks_of_an_audit():
    (line,) = read(of_attacks(audit()).csv)
    assert (line["attack"], line["value"], line["queries"], line["gradients"]) == ("targeted", "0.04", "1234.0", "80.0")
    assert "| targeted | union | 4.0 % [−3.0, 11.0] | 200 | 1,234 | 80 |" in of_attacks(audit()).markdown


def test_words_keep_commas_and_quotes():
    found = of_words("c", ["Name", "Note"], [{"name": 'a, "b"', "note": ""}], ["name", "note"])
    assert read(found.csv) == [{"name": 'a, "b"', "note": ""}] and '| a, "b" | – |' in found.markdown


def whole(**more):
    evidence = [chart(0.9, 0.5, 0.1), noise_table()]
    return document(figures=[figure()], audits=[audit(evidence=evidence, checklist=[row("seen")])], **more)


def test_every_table_of_the_page_can_be_copied_in_three_formats():
    found = Page(render(whole()))
    tables = [a for t, a in found.tags if t == "table"]
    labels = [a["aria-label"] for t, a in found.tags if t == "textarea"]
    assert len(labels) == 3 * len(tables) and len(set(labels)) == len(labels), "each has a name of its own"
    assert all("readonly" in a for t, a in found.tags if t == "textarea")


def test_a_copy_is_escaped_and_reads_back_as_it_was():
    one = table(caption=HOSTILE, rows=[HOSTILE, "</textarea><script>alert(1)</script>"])
    page = render(document(tables=[one]))
    assert "<script>alert" not in page and page.count("</textarea>") == page.count("<textarea")


def test_numbers_can_be_sorted_by_their_value_and_not_by_their_words():
    page = render(document(tables=[table(cells=[[rate(0.09, published=None, keys=[]), None]] * 2)]))
    assert '<data class="value" value="0.09">9.0 %</data>' in page
    comparing = render(document(tables=[], comparisons=[comparison()]))
    assert '<data class="value" value="-0.05">−5.0 points</data>' in comparing


def test_without_script_no_control_is_shown_that_would_do_nothing():
    found = Page(render(whole()))
    assert not [t for t, _ in found.tags if t in ("button", "input", "select")], "the script makes them"
