"""The report: one file that loads nothing, escapes everything, and never hides what is not computed."""

from __future__ import annotations

import base64
import copy
import csv
import gzip
import hashlib
import io
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from robassay.document import Document, described
from robassay.errors import UsageError
from robassay.folds import Accuracy
from robassay.report import card, difference, markdown_table, picture, render, to_csv
from robassay.report.charts import PALETTE, curves, library, track
from robassay.report.render import FOLDER
from robassay.report.tables import comparison_csv, labelled, markdown_comparison
from robassay.report.words import amount, ball, full, lasted, radius, typeset
from robassay.store import Store
from robassay.study import Measure, Study, Table

HOSTILE = '<script>alert("x")</script>&\'"><img src=https://evil.example/a.png>'


def rate(value: float, half: float = 0.07, n: int = 200, **more: Any) -> dict[str, Any]:
    return {"value": value, "low": max(-1.0, value - half), "high": min(1.0, value + half), "n": n, **more}


def audit(verdict: str = "artefact", **more: Any) -> dict[str, Any]:
    known = {
        "id": "head", "title": "Noise head", "verdict": verdict, "cause": "masking", "robustness": "none",
        "sentence": "The claimed 51 % is an artefact.", "next": None, "stochastic": True, "network": "small CNN",
        "threat": {"norm": "linf", "eps": 0.1}, "budget": "quick", "clean": rate(0.98, 0.01), "claimed": rate(0.512),
        "adequate": rate(0.49), "robust": rate(0.04, 0.03), "gap": rate(0.472), "g1": rate(0.022), "g2": rate(0.45),
        "winner": "targeted", "delta": 0.05, "draws": 100, "keys": ["00aa", "00bb"], "command": "robassay audit x.py:y",
        "attacks": [{"name": "targeted", "role": "union", "robust": rate(0.04), "queries": 1234.0, "gradients": 80.0,
                     "keys": ["00cc"]}],
        "checks": [{"name": "saturated", "question": "How many?", "answer": "72 % of images", "flag": True,
                    "value": 0.72}],
    }  # fmt: skip
    return {**known, **more}


def table(**more: Any) -> dict[str, Any]:
    cells = [
        [rate(0.512, published=0.48, keys=["11aa"]), None],
        [rate(1 / 3, published=None, keys=["11bb"]), {**rate(0.0), "value": None, "published": 0.42, "keys": []}],
    ]
    known = {"id": "t", "caption": "Robust", "rows": ["plain", "a,b"], "cols": ["PGD", "C|W"], "unit": "rate"}
    return {**known, "cells": cells, **more}


def figure() -> dict[str, Any]:
    series = [{"name": "usual", "dash": True, "points": [rate(0.9, keys=["22aa"]), None, rate(0.3, keys=[])]}]
    labels = {"xlabel": "L∞ radius", "ylabel": "robust accuracy"}
    return {"id": "f", "caption": "Curve", "kind": "curves", **labels, "x": [0, 8 / 255, 0.1], "series": series}


def comparison(**more: Any) -> dict[str, Any]:
    models = [
        {"name": name, "clean": rate(clean, keys=["33aa"]), "robust": rate(robust, keys=["33aa"])}
        for name, clean, robust in (("plain", 0.98, 0.31), ("random", 0.93, 0.45))
    ]
    pair = {"name": "random", "reference": "plain", "clean": rate(-0.05, 0.02, keys=[]), "robust": rate(0.14, keys=[])}
    said = {"outcome": "bought", "unequal": True, "sentence": "A robustness gain bought with clean accuracy."}
    return {"id": "k", "caption": "Against noise", "models": models, "pairs": [{**pair, **said}], **more}


def document(**more: Any) -> dict[str, Any]:
    x = np.zeros((1, 8, 8))
    change, factor = difference(x, x + 0.1)
    image = {"original": picture(x), "adversarial": picture(x + 0.1), "difference": change, "amplified": factor}
    image |= {"true": "3", "predicted": "7", "wrong": 0.83, "l2": 1.2, "linf": 0.1, "attack": "PGD"}
    provenance = {"cells": 9, "missing": 0, "hours": 0.5, "machines": ["box"], "torch": ["2.9"], "mixed": False}
    provenance |= {"seeds": [0], "data": [{"name": "mnist", "checksum": "abc", "note": ""}]}
    known = {
        "schema": 1, "title": "Study", "subtitle": "", "version": "0.1.0", "created": "2025-01-02T03:04:05Z",
        "scale": "small", "command": "robassay run x", "audits": [audit()], "tables": [table()], "figures": [],
        "comparisons": [comparison()],
        "galleries": [{"id": "g", "caption": "Images", "images": [image]}], "cites": ["Someone: Something. 2018."],
        "checks": [{"id": "c", "question": "Does it?", "outcome": "FAIL", "sentence": "no"}], "provenance": provenance,
    }  # fmt: skip
    return {**known, **more}


class Page(HTMLParser):
    """Tags with attributes, ids, visible text, and unclosed elements of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "br", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style", "textarea"):
            self.text += data


def test_nothing_is_loaded() -> None:
    page = render(document(figures=[figure()]))
    assert not re.search(r"https?:|url\(|@import|//cdn", page)
    for tag, attributes in Page(page).tags:
        for name in ("src", "href", "data", "action", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, name, value)


def test_policy_admits_exactly_the_scripts_of_the_page() -> None:
    page = render(document(figures=[figure()]))
    policy = next(a["content"] for t, a in Page(page).tags if a.get("http-equiv") == "Content-Security-Policy") or ""
    assert "default-src 'none'" in policy and "unsafe-eval" not in policy
    assert "'unsafe-inline'" not in policy.split("script-src")[1]
    script = re.findall(r"<script>(.*?)</script>", page, re.S)
    packed = re.findall(r'<script type="text/plain" id="plotly">(.*?)</script>', page, re.S)
    codes = [*(s.encode() for s in script), *(gzip.decompress(base64.b64decode(p)) for p in packed)]
    assert len(codes) == 2
    for code in codes:
        assert f"'sha256-{base64.b64encode(hashlib.sha256(code).digest()).decode()}'" in policy


def test_size_and_plotly_only_where_needed() -> None:
    with_curves, without = render(document(figures=[figure()])), render(document())
    assert len(with_curves.encode()) < 5_200_000
    assert len(without.encode()) < 300_000 and 'id="plotly"' not in without and library()[0] not in without


def test_hostile_text_is_text() -> None:
    def poison(value: Any) -> Any:
        if isinstance(value, dict):
            fixed = ("verdict", "cause", "robustness", "outcome", "norm", "kind", "unit")
            return {k: v if k in fixed else poison(v) for k, v in value.items()}
        if isinstance(value, list):
            return [poison(v) for v in value]
        return HOSTILE if isinstance(value, str) else value

    page = render(poison(document(figures=[figure()])))
    found = Page(page)
    assert "<script>alert" not in page
    assert [t for t, _ in found.tags].count("script") == 3 and not found.open  # ours
    assert all((a.get("src") or "").startswith("data:image/png") for t, a in found.tags if t == "img")
    assert HOSTILE in found.text
    assert not any(name.startswith("on") for _, a in found.tags for name in a)


def test_structure() -> None:
    found = Page(render(document(figures=[figure()])))
    assert not found.open
    ids = [a["id"] for _, a in found.tags if "id" in a]
    assert len(ids) == len(set(ids))
    links = [(a["href"] or "")[1:] for t, a in found.tags if t == "a"]
    assert set(links) <= set(ids)
    assert all(a.get("alt") for t, a in found.tags if t == "img")
    names = [t for t, _ in found.tags]
    assert names.count("table") == names.count("caption") and names.count("h1") == names.count("main") == 1


@pytest.mark.parametrize(
    ("verdict", "word"),
    [
        ("artefact", "Artefact"),
        ("overstated", "Overstated"),
        ("holds", "Holds"),
        ("no_flaw_found", "No flaw found"),
        ("undecided", "Undecided"),
    ],
)
def test_verdict_is_said_in_words(verdict: str, word: str) -> None:
    found = Page(render(document(audits=[audit(verdict)], tables=[], galleries=[], checks=[])))
    badges = [a for t, a in found.tags if t == "span" and a.get("class") == f"badge {verdict}"]
    assert len(badges) == 3  # card, overview, details
    assert found.text.count(word) >= 4
    for said in ("51.2 %", "[44.2, 58.2]", "L∞ ≤ 0.1", "targeted", "200 images × up to 100 fresh draws"):
        assert said in found.text
    assert "no robustness" in found.text and "saturated: 72\N{NO-BREAK SPACE}% of images" in found.text


def test_missing_is_said() -> None:
    lacking = audit("undecided", adequate=None, robust=None, gap=None, g1=None, g2=None, winner=None, checks=[])
    lacking["attacks"][0]["robust"] = None
    provenance = {**document()["provenance"], "missing": 3, "mixed": True}
    page = render(document(audits=[lacking], tables=[table()], scale="smoke", provenance=provenance))
    text = Page(page).text
    assert text.count("not computed") >= 8
    assert "Missing: 3 of 12 cells" in text and "different machines" in text and "Smoke scale" in text
    assert "None" not in text and "nan" not in text.lower().replace("provenance", "")


def test_sections_without_content_do_not_appear() -> None:
    empty = document(audits=[], tables=[], comparisons=[], figures=[], galleries=[], checks=[], cites=[])
    found = Page(render(empty))
    assert [a["id"] for t, a in found.tags if t == "section"] == ["provenance"]


def test_traceable() -> None:
    text = Page(render(document(figures=[figure()]))).text
    for key in ("00aa", "00cc", "11aa", "11bb", "22aa"):
        assert key in text
    assert "robassay audit x.py:y" in text and "robassay run x" in text


def test_published_beside_ours() -> None:
    text = Page(render(document())).text
    assert "published 48.0 %" in text and "published 42.0 %" in text and "≠" not in text
    far = table(cells=[[rate(0.5, published=0.9, keys=[])] * 2] * 2)
    assert "≠" in Page(render(document(tables=[far]))).text


def test_equal_documents_give_equal_pages_and_are_not_changed() -> None:
    one = document(figures=[figure()])
    before = copy.deepcopy(one)
    assert render(one) == render(json.loads(json.dumps(one)))
    assert one == before


def test_card_stands_alone() -> None:
    fragment = card(audit(title=HOSTILE))
    found = Page(fragment)
    assert not found.open and HOSTILE in found.text and "Artefact" in found.text
    assert "script" not in [t for t, _ in found.tags] and "img" not in [t for t, _ in found.tags]


def test_csv_round_trip() -> None:
    one = table()
    lines = list(csv.DictReader(io.StringIO(to_csv(one))))
    assert list(lines[0]) == ["row", "column", "value", "low", "high", "n", "published", "knowledge"]
    assert [(line["row"], line["column"]) for line in lines] == [(r, c) for r in one["rows"] for c in one["cols"]]
    for line, cell in zip(lines, [c for row in one["cells"] for c in row], strict=True):
        for name in ("value", "low", "high", "n", "published"):
            known = cell[name] if cell and (name == "published" or cell["value"] is not None) else None
            if known is None and name in ("low", "high"):
                continue
            assert (float(line[name]) if line[name] else None) == known


def test_markdown() -> None:
    text = markdown_table(table())
    lines = text.splitlines()
    assert lines[0] == "|  | PGD | C\\|W |" and lines[1] == "| --- | ---: | ---: |"
    assert lines[2] == "| plain | 51.2 % [44.2, 58.2] (published 48.0 %) | not computed |"
    assert lines[3].endswith("| not computed (published 42.0 %) |")
    assert "n = 200 images per cell" in lines[5]
    mixed = table(cells=[[rate(0.5, n=10, published=None), rate(0.5, n=20, published=None)]] * 2)
    assert "n = 10 |" in markdown_table(mixed) and "per cell" not in markdown_table(mixed)


def known(*lines: tuple[str | None, ...]) -> dict[str, Any]:
    """A table whose cells have these labels."""
    rows, cols = [f"row {i}" for i in range(len(lines))], [f"col {i}" for i in range(len(lines[0]))]
    cells = [[rate(0.5, published=None, keys=[], knowledge=word) for word in line] for line in lines]
    return table(rows=rows, cols=cols, cells=cells)


def tags(one: dict[str, Any]) -> list[tuple[str, str]]:
    """Every tag of the table's page with the element it stands in."""
    text = render(document(audits=[], tables=[one], comparisons=[], galleries=[], checks=[]))
    body = text[text.index('<table class="grid') : text.index("</table>")]
    found = re.findall(r'<(th|td)[^>]*>(?:(?!</t).)*?class="tag"[^>]*>.*?</span>(\w+)</span>', body, re.S)
    assert body.count('class="tag"') == len(found)
    return found


def test_what_the_attacker_knew_is_said_once() -> None:
    assert tags(known(("white", "transfer"), (None, "transfer"))) == [("th", "white"), ("th", "transfer")]
    assert tags(known((None, None))) == []
    assert tags(known(("white", "white"), ("transfer", "transfer"))) == [("th", "white"), ("th", "transfer")]
    assert tags(known(("white", "transfer"), ("transfer", "white"))) == [
        ("td", "white"), ("td", "transfer"), ("td", "transfer"), ("td", "white"),
    ]  # fmt: skip


def test_rows_are_grouped_under_what_the_attacker_knew() -> None:
    one = known(("transfer",) * 2, ("white",) * 2, (None, None), ("transfer", None))
    assert labelled(one).groups == [(None, [2]), ("white", [1]), ("transfer", [0, 3])]
    text = Page(render(document(tables=[one]))).text
    places = [text.index(word) for word in ("no attack", "row 2", "attacker: white", "row 1", "row 0", "row 3")]
    assert places == sorted(places)
    lines = markdown_table(one).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:6]] == [
        "| row 2", "| row 1 (white)", "| row 0 (transfer)", "| row 3 (transfer)",
    ]  # fmt: skip
    assert markdown_table(known(("white", "transfer"))).splitlines()[0] == "|  | col 0 (white) | col 1 (transfer) |"
    assert [line["knowledge"] for line in csv.DictReader(io.StringIO(to_csv(one)))] == (
        ["transfer"] * 2 + ["white"] * 2 + ["", ""] + ["transfer", ""]
    )


def test_curves_say_what_the_attacker_knew() -> None:
    one = figure()
    for point in one["series"][0]["points"]:
        if point:
            point["knowledge"] = "decisions"
    page = render(document(audits=[], tables=[], comparisons=[], figures=[one]))
    assert page.count('class="tag"') == 2  # the note and the head of the column of numbers
    assert "The attacker’s knowledge" in page
    one["series"][0]["points"][2]["knowledge"] = "white"
    page = render(document(audits=[], tables=[], comparisons=[], figures=[one]))
    assert page.count('class="tag"') == 2 and "The attacker’s knowledge" not in page  # in the cells


def test_heat_shades_rates_by_their_value() -> None:
    one = table(heat=True)
    page = render(document(tables=[one]))
    assert re.findall(r'class="r heat" style="--heat: (\d+)%"', page) == ["51", "33"]
    body = page[page.index('id="table-1"') : page.index("</table>", page.index('id="table-1"'))]
    assert "track" not in body and "51.2 %" in body and "Shading" in page
    assert "--heat:" not in render(document()).split("</style>")[1]


def blend(one: str, other: str, share: float) -> str:
    """``color-mix(in srgb, one share, other)``."""
    pairs = [(int(one[i : i + 2], 16), int(other[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(share * a + (1 - share) * b):02x}" for a, b in pairs)


def test_text_on_heat_has_contrast() -> None:
    light, dark = (FOLDER / "card.css").read_text().split("@media screen", 1)
    for theme in (light, dark):
        colour = dict(re.findall(r"--([\w-]+):\s+(#\w{6})", theme))
        for share in (0.0, 0.25, 0.5, 0.75, 1.0):
            assert contrast(colour["ink"], blend(colour["warm"], colour["paper"], share)) >= 4.5
        assert contrast(colour["warm"], colour["paper"]) > 1.8, "or no shading would be seen"
    style = (FOLDER / "style.css").read_text()
    assert re.search(r"\.heat \.ci, .*color: var\(--ink\)", style)
    assert "print-color-adjust: exact" in style[style.index("@media print") :]


def test_comparison_says_what_was_bought() -> None:
    found = Page(render(document(tables=[], audits=[])))
    for said in ("98.0 %", "45.0 %", "random − plain", "14.0 points [7.0, 21.0]", "−5.0 points", "n = 200"):
        assert said in found.text
    assert "A robustness gain bought with clean accuracy." in found.text and "33aa" in found.text
    lines = list(csv.DictReader(io.StringIO(comparison_csv(comparison()))))
    assert [line["row"] for line in lines] == ["plain"] * 2 + ["random"] * 2 + ["random − plain"] * 2
    assert float(lines[5]["value"]) == 0.14 and lines[5]["column"] == "robust"
    text = markdown_comparison(comparison())
    assert "| random | 93.0 % [86.0, 100.0] | 45.0 % [38.0, 52.0] |" in text
    assert "| random − plain | −5.0 points [−7.0, −3.0] | 14.0 points [7.0, 21.0] |" in text
    assert text.endswith("- random − plain: A robustness gain bought with clean accuracy.\n")


def test_comparison_without_its_cells() -> None:
    one = comparison()
    one["models"][1] |= {"clean": None, "robust": None}
    one["pairs"][0] |= {"clean": None, "robust": None, "outcome": None, "unequal": False, "sentence": ""}
    page = Page(render(document(tables=[], audits=[], comparisons=[one])))
    assert page.text.count("not computed") == 5 and not page.open
    assert "random − plain: not computed" in markdown_comparison(one)


def test_numbers() -> None:
    assert full(rate(0.512)) == "51.2 % [44.2, 58.2]"
    assert full(None) == full({"value": None, "low": None, "high": None, "n": 0}) == "not computed"
    assert full({"value": 0.5, "low": None, "high": None, "n": 1}) == "50.0 %"
    assert amount(-0.0001) == "0.0 %" and amount(-0.1, "points") == "−10.0 points" and amount(1.2345, "L2") == "1.23"
    assert [radius(e) for e in (0.1, 0.2, 0.3, 8 / 255, 0.05, 1.5, 0.031)] == [
        "0.1", "0.2", "0.3", "8/255", "0.05", "1.5", "0.031",
    ]  # fmt: skip
    assert ball({"norm": "l2", "eps": None}) == "L₂, smallest distance"


def test_curves_break_where_nothing_is_computed() -> None:
    plot = curves(figure())
    line = plot["data"][-1]
    assert line["y"] == [90.0, None, 30.0] and line["line"]["dash"] == "dash"
    assert len(plot["data"]) == 1  # a band needs two neighbours
    one = figure()
    one["series"][0]["points"][1] = rate(0.6, keys=[])
    band = curves(one)["data"][0]
    assert band["fill"] == "toself" and band["x"] == [0, 8 / 255, 0.1, 0.1, 8 / 255, 0]
    assert plot["layout"]["xaxis"]["ticktext"] == ["0", "8/255", "0.1"]
    one["series"][0]["name"] = "<a href='https://x'>y</a>"
    assert "<a" not in curves(one)["data"][-1]["name"]


def test_track_stays_on_its_scale() -> None:
    drawn = track({"value": 1.2, "low": -0.3, "high": float("inf"), "n": 1}, "robust")
    assert {float(x) for x in re.findall(r'[xc]\d?="([\d.-]+)%?"', drawn)} <= {0, 25, 50, 75, 100}
    assert "circle" not in track(None, "robust")


def decoded(uri: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))


def test_pictures_are_lossless() -> None:
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 256, (1, 5, 7), dtype=np.uint8)
    colour = rng.integers(0, 256, (3, 5, 7), dtype=np.uint8)
    assert (decoded(picture(grey)) == grey[0]).all()
    assert (decoded(picture(colour)) == colour.transpose(1, 2, 0)).all()
    assert picture(colour.astype(np.float32) / 255) == picture(colour)
    assert decoded(picture(np.array([[[-1.0, 2.0, np.nan]]]))).tolist() == [[0, 255, 0]]
    assert decoded(picture(np.zeros((2, 4, 4)))).shape == (4, 4)


def test_difference_is_signed_and_centred() -> None:
    x = np.full((1, 1, 3), 128, dtype=np.uint8)
    x_adv = x / 255 + np.array([[[-0.1, 0.0, 0.1]]], dtype=np.float32)
    uri, factor = difference(x, x_adv)
    assert factor == 5.0
    low, middle, high = decoded(uri)[0]
    assert low <= 1 and middle == 128 and high >= 254
    assert difference(x, x / 255)[1] == 1.0 and (decoded(difference(x, x / 255)[0]) == 128).all()
    assert difference(np.zeros((1, 2, 2)), np.ones((1, 2, 2)))[1] == 0.5


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast() -> None:
    light, dark = (FOLDER / "card.css").read_text().split("@media screen", 1)
    for theme in (light, dark):
        colour = dict(re.findall(r"--([\w-]+):\s+(#\w{6})", theme))
        for text in ("ink", "muted", "link", "red", "amber", "green", "teal", "slate"):
            assert contrast(colour[text], colour["paper"]) >= 4.5 and contrast(colour[text], colour["ground"]) >= 4.5
        for tone in ("red", "amber", "green", "teal", "slate"):
            assert contrast(colour[tone], colour[f"{tone}-tint"]) >= 4.5
        assert contrast(colour["edge"], colour["paper"]) >= 3, "of fields and buttons"
        assert all(contrast(line, colour["paper"]) >= 3 for line in PALETTE)


def test_needs_no_torch() -> None:
    code = (
        "import sys, json; sys.modules['torch'] = None\n"
        "from robassay.report import render\n"
        "print(len(render(json.load(sys.stdin))))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(document()), capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) > 10_000


def test_curves_of_one_network_share_a_colour() -> None:
    one = figure()
    points = one["series"][0]["points"]
    names = [("a, usual", True), ("a, worst", False), ("b, usual", True), ("b, worst", False), ("c, 1", False)]
    one["series"] = [{"name": n, "dash": d, "points": points} for n, d in [*names, ("c, 2", False)]]
    colours = [trace["line"]["color"] for trace in curves(one)["data"]]
    assert [PALETTE.index(colour) for colour in colours] == [0, 0, 1, 1, 2, 3]


def test_no_two_of_24_curves_look_the_same_without_their_colours() -> None:
    """The ninth has the first one's colour again, but its own dashes, and its symbol is hollow."""
    one, points = figure(), figure()["series"][0]["points"]
    one["series"] = [{"name": f"net {i}", "dash": False, "points": points} for i in range(24)]
    lines = [trace for trace in curves(one)["data"] if "marker" in trace]
    looks = [(line["marker"]["symbol"], line["line"]["dash"]) for line in lines]
    assert len(lines) == 24 == len(set(looks))
    assert lines[8]["line"]["color"] == lines[0]["line"]["color"] and looks[8] == ("circle-open", "dot")
    assert {dash for _, dash in looks[:8]} == {"solid"} and len({symbol for symbol, _ in looks[:8]}) == 8
    pair = [{"name": f"net {i}, {word}", "dash": word == "usual", "points": points}
            for i in range(9) for word in ("usual", "strongest")]  # fmt: skip
    both = [
        (t["marker"]["symbol"], t["line"]["dash"]) for t in curves({**one, "series": pair})["data"] if "marker" in t
    ]
    assert len(set(both)) == 18 and both[:2] == [("circle", "dash"), ("circle", "solid")]


def test_an_axis_says_its_unit_once() -> None:
    titles = [
        curves({**figure(), "unit": unit, "ylabel": label})["layout"]["yaxis"]["title"]["text"]
        for unit, label in (("rate", "accuracy"), ("L2", "size"), ("L2", "mean L2"))
    ]
    assert titles == ["accuracy (%)", "size (L2)", "mean L2"]


def test_sentences_have_minus_signs_and_keep_per_cents_together() -> None:
    assert typeset("-71.6 [-77.5, -48.4], n = 19") == "−71.6 [−77.5, −48.4], n = 19"
    assert typeset("PGD-40 leaves 12 %, 1e-05, a-1") == "PGD-40 leaves 12\N{NO-BREAK SPACE}%, 1e-05, a-1"


def test_long_names_say_their_setting_smaller() -> None:
    one = table(rows=["BSN (30 of 100 epochs)", "a (b) c", "<i> (<b>)"], cells=[[None], [None], [None]], cols=["PGD"])
    page = render(document(tables=[{**one, "caption": "Robust; <40> images"}]))
    assert "BSN <small>(30 of 100 epochs)</small>" in page and ">a (b) c</th>" in page
    assert "&lt;i&gt; <small>(&lt;b&gt;)</small>" in page and "Robust; <small>&lt;40&gt; images</small>" in page
    sizes = render(document(tables=[table(caption="Size; 40 images", unit="L2")]))
    assert "<caption><span>Size (L2); <small>40 images</small></span>" in sizes


def test_long_sections_have_a_list_of_contents() -> None:
    """Every link of which leads to a table or a figure that is there."""
    few, many = ([table(caption=f"Number {i}; setting") for i in range(n)] for n in (4, 5))
    assert 'class="contents"' not in render(document(tables=few))
    page = render(document(tables=many, figures=[figure()] * 6))
    links = re.findall(r'<li><a href="#((?:table|curve)-\d+)">([^<]*)<', page)
    assert [name for _, name in links[:5]] == [f"Number {i}" for i in range(5)] and len(links) == 11
    assert all(f'id="{link}"' in page for link, _ in links)


def test_claims_and_images_are_traceable_too() -> None:
    (one,), (check,) = document()["galleries"], document()["checks"]
    known = {"galleries": [{**one, "keys": ["5a5a", "6b6b"]}], "checks": [{**check, "keys": ["7c7c"]}]}
    page = render(document(**known))
    assert "<code>5a5a 6b6b</code>" in page and "<code>7c7c</code>" in page
    assert "5a5a" not in render(document()), "unknown to documents of earlier versions"


def test_beyond_six_galleries_the_rest_is_folded_away() -> None:
    (one,) = document()["galleries"]
    for count, folded in ((6, 0), (8, 2)):
        page = render(document(galleries=[{**one, "caption": f"Gallery {i}"} for i in range(count)]))
        assert page.count('class="triple"') == count and page.count('class="further"') == (folded > 0)
        assert [f"Gallery {i}" in page.split('class="further"')[0] for i in range(count)] == [True] * 6 + [
            False
        ] * folded
    assert "<summary>2 more</summary>" in page


def test_where_nothing_is_known_no_scale_is_drawn() -> None:
    cells = [[{"value": None, "low": None, "high": None, "n": 0, "published": p, "keys": [], "absent": "full only"}]
             for p in (None, 0.5)]  # fmt: skip
    page = render(document(audits=[], comparisons=[], tables=[table(rows=["a", "b"], cols=["PGD"], cells=cells)]))
    assert page.count('class="track small"') == 1 and page.count('class="published"') == 1
    assert " No value: full only." in page


def test_times_are_said_in_the_unit_that_suits_them():
    said = {16: "16 s", 89: "89 s", 252: "4.2 minutes", 5399: "90 minutes", 7200: "2 hours", 360000: "100 hours"}
    assert {seconds: lasted(seconds / 3600) for seconds in said} == said


def test_a_gallery_shows_what_an_attack_has_changed_before_what_was_wrong_without_it(tmp_path):
    store, keys = Store(tmp_path), ["a" * 16, "b" * 16]
    decisions = np.array([[1, 2, 0, 3], [1, 2, 3, 0]], dtype=np.int16)  # wrong in all draws, all, half, half
    sizes = {"l2": np.array([0.0, 0.5, 0.4, 0.3]), "linf": np.array([0.0, 0.1, 0.1, 0.1])}
    store.write(keys[0], {}, {"decisions": decisions, "labels": np.zeros(4, np.int16), **sizes}, "")
    images = np.zeros((4, 1, 2, 2), np.uint8)
    store.write(keys[1], {}, {"x": images, "x_adv": images / np.float32(255)}, "")
    item = {"kind": "gallery", "id": "g", "caption": "c", "attack": "pgd", "score": keys[0], "craft": keys[1]}

    def shown(count: int) -> list[str]:
        (found,) = Document({"items": [{**item, "count": count}]}, store).galleries()
        assert found["keys"] == keys
        return [one["predicted"] for one in found["images"]]

    assert shown(1) == ["2"] and shown(2) == ["2", "3"] and shown(4) == ["1", "2", "3", "3"]


def test_a_cell_without_data_says_so_and_names_the_command(tmp_path: Path) -> None:
    """A table keeps its rows: the published value stands beside the reason."""
    why = "no data here: robassay run tan2020 --data-dir FOLDER with pcam-test.parquet"
    table = Table("t", "Table", ("a",), ("pcam", "mnist"), {}, {("a", "pcam"): 0.5}, absent={("a", "pcam"): why})
    found = Document(Study("s", "S", (table,)).freeze(), Store(tmp_path / "store"))
    (shown,) = found.tables()
    assert shown["cells"][0][0]["absent"] == why and shown["cells"][0][1] is None
    text = markdown_table(shown)
    assert "| no data here (published 50.0 %) | not computed |" in text and f" {why}." in text
    page = render(found.whole())
    assert "no data here</span>" in page and f"{why}." in page
    with pytest.raises(UsageError, match="calls it absent"):
        measure = Measure((), Accuracy())
        Table("t", "Table", ("a",), ("b",), {("a", "b"): measure}, absent={("a", "b"): why})


def test_every_cell_is_described_and_can_be_computed_again() -> None:
    told = {"type": "Score", "target": {"cell": "93aa"}, "policies": [{"type": "Once"}, 0.5], "repeats": 10}
    assert described(told) == "Score(target=93aa, policies=(Once(), 0.5), repeats=10)"
    one = {"key": "44aa", "what": described({**told, "target": HOSTILE}), "seconds": 1.25}
    found = Page(render(document(cells=[one], command="robassay run tan2020 --scale small")))
    assert "robassay verify tan2020 --scale small --cell KEY" in found.text and HOSTILE in found.text
    assert "verify" not in Page(render(document(cells=[one], command="robassay audit x.py:y"))).text


def test_a_document_describes_its_cells_and_those_behind(tmp_path: Path) -> None:
    store, keys = Store(tmp_path), ["a" * 16, "b" * 16]
    arrays = {"decisions": np.zeros((1, 4), np.int16)}
    for key in keys:
        store.write(key, {"seconds": 2.0, "cell": {"type": "Train", "seed": 3}}, arrays, "")
    frozen = {"items": [], "needs": keys[:1], "behind": [*keys, "c" * 16]}
    assert Document(frozen, store).cells() == [{"key": k, "what": "Train(seed=3)", "seconds": 2.0} for k in keys]
