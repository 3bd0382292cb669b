"""The report's evidence: figures and maps as SVG with the right coordinates, the checklist, nothing unescaped."""

from __future__ import annotations

import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from test_report import HOSTILE, audit, document, rate

from robassay.checklist import LAST, NOISE
from robassay.report import card, render
from robassay.report.figures import MARKS, colours, plane_map, reach, small_curves

GRID = [[-1.0, -2.0, -1.0], [0.0, -0.5, 0.0], [2.0, 1.0, 4.0]]
"""First index: along the gradient."""


def chart(*values: float | None, name: str = "PGD ce", **more):
    points = [None if v is None else rate(v, 0.1, 40, keys=["77aa"]) for v in values]
    lines = [{"name": name, "dash": False, "points": points}, {"name": NOISE, "dash": True, "points": points[::-1]}]
    known = {"id": "eps", "caption": "Over eps", "kind": "curves", "xlabel": "eps", "ylabel": "robust accuracy"}
    return {**known, "x": [0.0, 0.1, 1.0][: len(values)], "unit": "rate", "series": lines, **more}


def plane(**more):
    known = {"kind": "landscape", "id": "landscape", "caption": "The loss", "at": [-2.0, 0.0, 2.0], "n": 6}
    return {**known, "margin": GRID, "entropy": GRID, "wrong": GRID, "keys": ["88aa"], **more}


def row(outcome: str, source: str = "Athalye et al. 2018", **more):
    known = {"source": source, "criterion": f"sign {outcome}", "question": "Is it?", "answer": "It leaves 40 %."}
    numbers = (
        {"value": 0.2, "low": 0.1, "high": 0.3}
        if outcome != "not measured"
        else dict.fromkeys(("value", "low", "high"))
    )
    return {**known, "outcome": outcome, "misleads": "on honest networks", "difference": True, **numbers, **more}


def noise_table():
    cells = [[rate(0.9, keys=[], published=None), None], [rate(0.8, keys=[], published=None), rate(0.1, keys=[])]]
    return {"kind": "table", "id": "noise", "caption": "The noise", "rows": ["on", "off"], "cols": ["clean", "PGD"],
            "unit": "rate", "heat": False, "cells": cells}  # fmt: skip


def parsed(markup) -> ElementTree.Element:
    return ElementTree.fromstring(str(markup))


def dots(one):
    """Place and element of every point of a chart."""
    found = [p for p in parsed(small_curves(one)).iter("path") if p.get("class") == "dot"]
    return [(tuple(map(float, re.match(r"M([\d.]+) ([\d.]+)", p.get("d")).groups())), p) for p in found]


def test_lines_differ_by_their_marks_and_the_legend_has_the_same():
    """A reader who sees no colours tells them apart; a disc is drawn around its place, not beside it."""
    one = chart(0.9, 0.5)
    found = [re.sub(r"^M[\d.]+ [\d.]+", "", p.get("d")) for _, p in dots(one)]
    assert found[0] == found[1] != found[2] == found[3]
    page = render(document(audits=[audit(evidence=[one])]))
    swatches = re.findall(r'class="swatch".*?class="dot" d="M13.0 5.0([^"]*)"', page)
    assert swatches == [found[0], found[2]]
    for mark in MARKS:
        steps = re.findall(r"([mlhvaz])([^mlhvaz]*)", mark)
        assert steps[0][0] == "m" and steps[-1][0] == "z" and len(steps) >= 4
    assert "Shaded: 95 % intervals. n = 40 images per point." in page
    one["series"][0]["points"][0]["n"] = 39
    assert "images per point" not in render(document(audits=[audit(evidence=[one])]))


def test_a_point_stands_at_its_height_and_values_of_the_axis_are_evenly_spaced():
    points = dots(chart(1.0, 0.5, 0.0))[:3]
    x, y = zip(*(at for at, _ in points), strict=True)
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.2) and x[1] > x[0]
    assert y[1] - y[0] == pytest.approx(y[2] - y[1], abs=0.2) and y[1] > y[0], "down the picture is less"
    assert "PGD ce, 0.1: 50.0 % [40.0, 60.0], n = 40" in points[1][1][0].text


def test_a_line_breaks_where_a_point_is_not_computed():
    drawn = parsed(small_curves(chart(0.9, None, 0.1)))
    lines = [p.get("d") for p in drawn.iter("path") if p.get("class") == "line"]
    assert [d.count("M") for d in lines] == [2, 2] and len(dots(chart(0.9, None, 0.1))) == 4
    assert not list(drawn.iter("polygon")), "no band over what is not computed"


def test_a_line_has_its_colour_in_every_figure():
    both = chart(0.9, 0.1)
    steps = {**both, "series": [{**both["series"][0], "name": n} for n in ("PGD ce", "PGD margin", LAST)]}
    draws = {**both, "series": [{**both["series"][0], "name": n} for n in ("PGD ce", "PGD scaled_ce", "PGD margin")]}
    assert colours(steps)[0] == colours(steps)[2] == colours(draws)[0]
    assert colours(steps)[1] == colours(draws)[2] and len(set(colours(draws))) == 3


def test_a_map_has_the_gradient_to_the_right_and_errors_red():
    uri = parsed(plane_map(plane(), "margin")).find("image").get("href")
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB")).astype(int)
    assert image.shape == (3, 3, 3)
    red, blue = image[..., 0] - image[..., 2] > 20, image[..., 2] - image[..., 0] > 20
    assert red[:, 2].all() and blue[:, 0].all(), "right of the image the margin is positive, left of it negative"
    assert image[0, 2].tolist() == [192, 57, 43], "the largest value is at the end of both axes: top right"
    assert not red[0, 1] and not blue[0, 1], "a margin of 0 is white"
    assert reach(plane(), "margin") == "−2 to 4"


def test_the_page_shows_all_of_it_and_escapes_all_of_it():
    shown = [chart(0.9, 0.5, 0.1, name=HOSTILE, caption=HOSTILE), plane(caption=HOSTILE), noise_table()]
    answers = [
        row("seen", answer=HOSTILE, misleads=HOSTILE),
        row("not seen"),
        row("not measured", "Pintor et al. 2022"),
    ]
    page = render(document(audits=[audit(evidence=shown, checklist=answers)]))
    assert "<script>alert" not in page and "<img src=https" not in page
    assert page.count('class="small-chart"') == 1 and page.count('class="map"') == 3
    assert "The noise" in page and "not measured" in page and "20.0 points [10.0, 30.0]" in page
    assert "Pintor et al. 2022" in page and page.index("Athalye") < page.index("Pintor")
    assert "77aa" in page, "the cells behind a point"


def test_audits_of_earlier_versions_have_none_and_the_card_stays_small():
    page = render(document(audits=[audit()]))
    assert "small-chart" not in re.sub(r"<style>.*?</style>", "", page, flags=re.S)
    assert "Checklist" not in page
    with_all = card(audit(evidence=[chart(0.9, 0.1)], checklist=[row("seen")]))
    assert with_all == card(audit())
