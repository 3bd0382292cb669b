"""The public card: well-formed, escaped, complete, and nothing in it that a browser would load or run."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from test_report import HOSTILE, audit, rate

from robassay.report import verdict_svg
from robassay.report.badge import SCALE, digest
from robassay.report.write import write_card

SVG = "{http://www.w3.org/2000/svg}"


def made(**more):
    return audit(**{"version": "0.1.0", **more})


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_the_card_says_all_that_is_needed_to_doubt_it():
    told = " | ".join(texts(verdict_svg(made())))
    for word in ("Noise head", "Artefact", "masked gradient", "no robustness", "claimed", "51.2 %", "[44.2, 58.2]",
                 "delivered", "4.0 %", "[1.0, 7.0]", "L∞ ≤ 0.1", "200 images × up to 100 fresh draws", "budget quick",
                 "targeted", "robassay 0.1.0", "2 cells", digest(["00aa", "00bb"]), "00cc",
                 "robassay audit x.py:y"):  # fmt: skip
        assert word in told, word


@pytest.mark.parametrize("field", ["title", "sentence", "network", "winner", "command", "version", "budget"])
def test_hostile_text_stays_text(field):
    svg = verdict_svg(made(**{field: "<script>& " + HOSTILE + "\x00\x1b[31m"}))
    tags = {element.tag.removeprefix(SVG) for element in ElementTree.fromstring(svg).iter()}
    assert tags <= {"svg", "title", "style", "rect", "path", "text", "circle"}
    assert "<script" not in svg and "<img" not in svg


def test_it_loads_nothing_and_equal_audits_give_equal_cards():
    svg = verdict_svg(made())
    assert set(re.findall(r"https?://[^\"' )<]*", svg)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"href|url\(|@import|on\w+=", svg)
    assert svg == verdict_svg(made())


def test_both_rates_stand_where_they_belong_on_the_scale():
    circles = list(ElementTree.fromstring(verdict_svg(made(claimed=rate(0.5), robust=rate(0.0)))).iter(f"{SVG}circle"))
    zero, whole = SCALE
    assert [float(c.get("cx")) for c in circles] == pytest.approx([(zero + whole) / 2, zero])


@pytest.mark.parametrize("verdict", ["artefact", "overstated", "holds", "no_flaw_found", "undecided"])
def test_every_verdict_has_a_card(verdict):
    missing = {"value": None, "low": None, "high": None, "n": 0}
    svg = verdict_svg(made(verdict=verdict, cause=None, robustness="some", robust=missing, command=""))
    assert "not computed" in svg and "masked" not in " ".join(texts(svg))
    assert len(list(ElementTree.fromstring(svg).iter(f"{SVG}circle"))) == 1


def test_a_long_command_is_cut_and_the_card_grows_with_it():
    short, long = (ElementTree.fromstring(verdict_svg(made(command="robassay audit " + "x" * n))) for n in (3, 2000))
    assert int(long.get("height")) > int(short.get("height"))
    assert int(long.get("height")) < 500 and "…" in " ".join(texts(ElementTree.tostring(long, encoding="unicode")))


def test_the_digest_names_a_set_of_cells():
    assert digest(["b", "a"]) == digest(["a", "b"]) != digest(["a", "c"])
    assert re.fullmatch("[0-9a-f]{12}", digest(["a"]))


def test_several_networks_get_a_card_each(tmp_path):
    assert write_card([made()], tmp_path / "card.svg") == [tmp_path / "card.svg"]
    found = write_card([made(title="one"), made(title="two")], tmp_path / "card.svg")
    assert [p.name for p in found] == ["card-1.svg", "card-2.svg"]
    assert "two" in found[1].read_text(encoding="utf-8")
