"""Scatters: from a cell's arrays over the frozen study to the picture, with coordinates worked out by hand."""

from __future__ import annotations

import base64
import io
import math
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from test_report import HOSTILE, document

from robassay.cell import Arrays, Cell, Context, Model, cell
from robassay.cells import Examples
from robassay.clouds import Section
from robassay.data import find
from robassay.document import Document
from robassay.drawn import Plane, Scatter
from robassay.errors import RobassayError
from robassay.report import render
from robassay.report.drawings import COLOURS, EDGE, SIDE, decision_map, key_of, scatter_map
from robassay.store import Store
from robassay.study import Study

XY = [[-1.0, 0.0], [1.0, 0.0], [0.0, 0.5]]


@cell
class Spots(Cell):
    """Three points."""

    def compute(self, ctx: Context) -> Arrays:
        return {"xy": torch.tensor(XY), "labels": torch.tensor([0, 1, 11])}


@cell
class Spotted(Model):
    """A model that nobody opens."""

    def compute(self, ctx: Context) -> Arrays:
        raise AssertionError

    def open(self, ctx: Context):
        raise AssertionError


def drawing(**more):
    known = {
        "kind": "scatter",
        "id": "s",
        "caption": "Points",
        "xlabel": "left",
        "ylabel": "up",
        "n": 3,
        "keys": ["9a"],
    }
    return {**known, "xy": XY, "labels": [0, 1, 11], **more}


def svg(**more) -> ElementTree.Element:
    return ElementTree.fromstring(str(scatter_map(drawing(**more))))


def planed(**more):
    known = {"kind": "plane", "id": "p", "caption": "Plane", "at": [-1.0, 0.0, 1.0], "keys": ["8b"]}
    known |= {"decision": [[0, 0, 1], [0, 1, 1], [2, 2, 2]], "variance": [[0, 0, 0.5], [0, 0, 0], [0, 0, 0]]}
    return {**known, "points": [[-1.0, -1.0], [1.0, -1.0], [0.0, 1.0]], "labels": [0, 1, 2], **more}


def stored(folder: Path, **arrays: np.ndarray) -> Document:
    one = Scatter("s", "Points", Spots(), "left", "up")
    study = Study("spots", "Spots", (one,))
    store = Store(folder)
    if arrays:
        store.write(Spots().key, {"machine": "m", "torch": "2", "seconds": 1.0}, arrays, "")
    return Document(study.freeze(), store)


def test_a_stored_cell_becomes_a_drawing_and_a_missing_one_none(tmp_path):
    assert stored(tmp_path / "a").drawings() == []
    extra = {"centres": np.zeros((1, 2)), "covariances": np.eye(2)[None], "arrows": np.ones((2, 2))}
    arrays = {"xy": np.float32(XY), "labels": np.int64([0, 1, 11]), **extra}
    (found,) = stored(tmp_path / "b", **arrays).drawings()
    assert found["xy"] == XY and found["labels"] == [0, 1, 11] and found["n"] == 3 and found["keys"] == [Spots().key]
    assert found["arrows"] == [[1, 1], [1, 1]] and found["covariances"] == [[[1, 0], [0, 1]]]
    assert "centres" not in stored(tmp_path / "c", xy=arrays["xy"], labels=arrays["labels"]).drawings()[0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"xy": np.zeros((3, 3))},
        {"xy": np.full((3, 2), math.nan)},
        {"labels": np.zeros((3, 1), int)},
        {"arrows": np.zeros((3, 3))},
        {"centres": np.zeros((1, 2))},
    ],
)
def test_other_shapes_are_named(tmp_path, wrong):
    arrays = {"xy": np.zeros((3, 2)), "labels": np.zeros(3, int), **wrong}
    with pytest.raises(RobassayError, match="'s'"):
        stored(tmp_path, **arrays).drawings()


def test_points_keep_their_proportions_and_up_is_up():
    discs = list(svg().iter("circle"))
    (ax, ay), (bx, by) = ((float(c.get("cx")), float(c.get("cy"))) for c in discs)
    assert ay == by and bx > ax
    square = next(r for r in svg().iter("rect") if r.get("class") is None)
    cx, cy = float(square.get("x")) + 2.4, float(square.get("y")) + 2.4
    assert cx == pytest.approx((ax + bx) / 2, abs=0.2)
    assert ay - cy == pytest.approx((bx - ax) / 4, abs=0.2), "half as far up as one of two to the right"
    assert ax > EDGE and bx < EDGE + SIDE and bx - ax == pytest.approx(SIDE / 1.08, abs=0.3)
    assert discs[0].get("fill") != discs[1].get("fill") == square.get("fill"), "11 has the colour of 1, and is square"
    assert [label for label, _ in key_of(drawing())] == [0, 1, 11]


def test_an_ellipse_has_two_deviations_along_its_axes():
    """Standard deviations 2 along (1, 1) and 1 across: in the picture, where y runs down, −45°."""
    turned = np.array([[1, -1], [1, 1]]) / math.sqrt(2)
    covariance = turned @ np.diag([4.0, 1.0]) @ turned.T
    found = svg(centres=[[0.0, 0.0]], covariances=[covariance.tolist()])
    ellipse = next(found.iter("ellipse"))
    rx, ry = float(ellipse.get("rx")), float(ellipse.get("ry"))
    scale = SIDE / (8 * 1.08)  # the larger half axis is 4 to either side
    assert rx == pytest.approx(4 * scale, abs=0.1) and ry == pytest.approx(2 * scale, abs=0.1)
    angle = float(ellipse.get("transform").split("rotate(")[1].rstrip(")"))
    assert angle % 180 == pytest.approx(135)


def test_arrows_start_at_the_origin_in_proportion():
    found = svg(arrows=[[0.0, 10.0], [5.0, 0.0], [0.0, 0.0]])
    lines = [p.get("d") for p in found.iter("path") if p.get("class") == "arrow"]
    assert len(lines) == 2
    ends = [[[float(v) for v in at.split()] for at in d[1:].split("L")] for d in lines]
    (start, up), (again, right) = ends
    assert start == again and up[0] == pytest.approx(start[0]) and right[1] == pytest.approx(start[1])
    assert start[1] - up[1] == pytest.approx(0.4 * SIDE, abs=0.1), "up is towards smaller y"
    assert right[0] - start[0] == pytest.approx(0.2 * SIDE, abs=0.1)


@pytest.mark.parametrize("xy", [[[0.0, 0.0], [4.0, 1.0]], [[-9.0, -9.0], [-8.0, -9.0]], [[0.0, 0.0], [0.0, 0.0]]])
def test_arrows_stay_inside_the_frame(xy):
    """Whichever way they point, and wherever the points are: no tip is cut off."""
    four = [[0.0, 3.0], [3.0, 0.0], [0.0, -3.0], [-3.0, 0.0]]
    found = svg(xy=xy, labels=[0, 1], arrows=four)
    paths = [p.get("d") for p in found.iter("path") if p.get("class") == "arrow"]
    tips = [[float(v) for v in d.split("L")[1].split()] for d in paths]
    assert len(tips) == 4 and all(EDGE <= v <= EDGE + SIDE for tip in tips for v in tip)
    assert max(tips)[0] - min(tips)[0] == pytest.approx(0.8 * SIDE, abs=0.2)


def test_a_label_stands_in_the_middle_of_its_points():
    """The median: one point far away does not pull it. No colour need be looked up in a legend."""
    found = svg(xy=[[0.0, 0.0], [1.0, 0.0], [100.0, 0.0], [50.0, 10.0]], labels=[7, 7, 7, 3])
    names = {t.text: (float(t.get("x")), float(t.get("y"))) for t in found.iter("text") if t.get("class") == "name"}
    discs = [(float(c.get("cx")), float(c.get("cy"))) for c in found.iter("circle")]
    assert sorted(names) == ["3", "7"]
    assert names["7"] == pytest.approx((discs[1][0], discs[1][1] + 4), abs=0.1)
    assert names["3"] == pytest.approx((discs[3][0], discs[3][1] + 4), abs=0.1)


def test_numbers_of_the_axes_have_no_exponents():
    found = svg(xy=[[-127.0, 0.0], [127.0, 0.02]], labels=[0, 1])
    words = [t.text for t in found.iter("text")]
    assert "−137" in words and "137" in words and not any("e+" in word for word in words)


def test_a_plane_has_its_colours_from_below_and_fades_where_draws_disagree(tmp_path):
    made = Section(Spotted(), Examples(find("digits"), "train", 0, 20), grid=3)
    store = Store(tmp_path)
    held = {name: np.array(planed()[name]) for name in ("at", "decision", "variance", "points", "labels")}
    store.write(made.key, {"machine": "m", "torch": "2", "seconds": 1.0}, held, "")
    (found,) = Document(Study("planes", "Planes", (Plane("p", "Plane", made),)).freeze(), store).drawings()
    assert {**found, "keys": ["8b"]} == planed()
    drawn = ElementTree.fromstring(str(decision_map(found)))
    uri = drawn.find("image").get("href")
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))
    hexes = [[f"#{r:02x}{g:02x}{b:02x}" for r, g, b, _ in row] for row in image]
    assert hexes == [[COLOURS[2]] * 3, [COLOURS[0], COLOURS[1], COLOURS[1]], [COLOURS[0], COLOURS[0], COLOURS[1]]]
    assert image[..., 3].tolist() == [[255] * 3, [255] * 3, [255, 255, 128]]
    dots = [(float(c.get("cx")), float(c.get("cy"))) for c in drawn.iter("circle")]
    assert dots == [(SIDE / 6, 5 * SIDE / 6), (5 * SIDE / 6, 5 * SIDE / 6), (SIDE / 2, SIDE / 6)], "mid-pixel"
    assert [label for label, _ in key_of(found)] == [0, 1, 2]
    assert 'class="seen"' in render(document(drawings=[planed()]))


def test_the_page_shows_and_escapes_it():
    page = render(document(drawings=[drawing(caption=HOSTILE, xlabel=HOSTILE, arrows=[[1.0, 0.0]])]))
    assert 'class="scatter"' in page and "<script>alert" not in page and 'href="#drawings"' in page
    assert "9a" in page and "n = 3" in page and "Arrows" in page and "Ellipses" not in page
    assert 'id="drawings"' not in render(document()), "documents of earlier versions have none"
