"""docs/papers is what the generator writes from the committed results, and says what it has to."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from robassay.errors import UsageError
from robassay.papers.listed import disagreements, figure_table
from robassay.papers.pages import FOLDER, docstring, files, prose, read, unmatched, write

ROOT = Path(__file__).parents[1]
SVG = "{http://www.w3.org/2000/svg}"
LOSSY = "This copy is lossy JPEG."


def rate(value: float, low: float, high: float, **more: Any) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "n": 40, "knowledge": None, "keys": ["k"], **more}


def check(id: str, outcome: str) -> dict[str, str]:
    return {"id": id, "question": f"is {id} so?", "outcome": outcome, "sentence": "1.0 [0.5, 2.0], n = 40"}


def document() -> dict[str, Any]:
    """Two rows against the published order, two checks of which one has a union, an audit, curves and a scatter."""
    nothing = {"value": None, "low": None, "high": None, "n": 0, "knowledge": None, "keys": [], "published": 0.4}
    cells = [
        [rate(0.1, 0.05, 0.2, published=0.9), {**nothing, "absent": "no data here: robassay run x --data-dir FOLDER"}],
        [rate(0.8, 0.7, 0.9, published=0.3), None],
    ]
    table = {"id": "t-ii", "caption": "Success", "rows": ["a", "b"], "cols": ["BIM", "C|W"], "unit": "rate"}
    other = {"id": "t-cifar10", "caption": "Other", "rows": ["a"], "cols": ["x"], "unit": "rate"}
    curves = {
        "id": "f",
        "kind": "curves",
        "caption": "Over eps",
        "xlabel": "eps",
        "ylabel": "accuracy",
        "x": [0.1, 0.2],
    }
    audit = {
        "id": "audit", "title": "BSN-2", "threat": {"norm": "linf", "eps": 0.1}, "verdict": "overstated", "draws": 20,
        "cause": "steps", "sentence": "less is left", "claim": "bim:steps=10", "stochastic": True,
        "clean": rate(0.9, 0.8, 0.95), "claimed": rate(0.6, 0.5, 0.7), "robust": rate(0.2, 0.1, 0.3),
    }  # fmt: skip
    cloud = {"id": "logits", "kind": "scatter", "caption": "Logits", "xlabel": "u", "ylabel": "v", "n": 2, "keys": []}
    plane = {"id": "plane", "kind": "plane", "caption": "Plane", "at": [0.0, 1.0], "decision": [[0, 1], [2, 2]],
             "variance": [[0.0, 0.1], [0.2, 0.0]], "points": [[0.0, 0.0], [1.0, 0.0], [0.5, 1.0]],
             "labels": [0, 1, 2]}  # fmt: skip
    data = [{"name": "cifar10", "checksum": "c1", "note": LOSSY}, {"name": "mnist", "checksum": "m1", "note": ""}]
    return {
        "title": "Tan", "scale": "small", "version": "0.1.0", "created": "2026-01-01T00:00:00Z",
        "tables": [{**table, "cells": cells}, {**other, "cells": [[rate(0.5, 0.4, 0.6, published=None)]]}],
        "figures": [{**curves, "unit": "rate", "series": [{"name": "one", "points": [rate(0.7, 0.6, 0.8), None]}]}],
        "drawings": [{**cloud, "xy": [[0.0, 1.0], [1.0, 0.0]], "labels": [0, 1]}, plane],
        "checks": [check("t01", "PASS"), check("t02", "UNDECIDED"), check("t01-union", "FAIL")], "audits": [audit],
        "provenance": {"cells": 1234, "missing": 0, "hours": 2.0, "machines": ["cpu X"], "torch": ["2.1"],
                       "mixed": False, "seeds": [0, 3], "data": data},
    }  # fmt: skip


REASONS = {"t01-union": "a shorter training", "t-ii/BIM": "open: who knows"}
CLAIMED = {"audit": {"table": "IIa", "row": "MNIST, BIM", "col": "BSN-2", "is": "success"}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "results" / "small").mkdir(parents=True)
    (tmp_path / "robassay" / "papers").mkdir(parents=True)
    (tmp_path / "robassay" / "papers" / "tan2020.py").write_text('"""A paper.\n\nWith ``code``.\n"""\n')
    (tmp_path / "results" / "small" / "tan2020.json").write_text(json.dumps(document()))
    explain(tmp_path, REASONS, CLAIMED)
    return tmp_path


def explain(root: Path, reasons: dict[str, str], claimed: dict[str, Any]) -> None:
    told = {"reasons": {"tan2020": reasons}, "claimed": {"tan2020": claimed}}
    (root / "results" / "explained.json").write_text(json.dumps(told))


# ----------------------------------------------------------------------------------------------------------- committed


def test_the_committed_pages_are_those_of_the_committed_results() -> None:
    """If not: make pages. Of pictures inside, whose bytes are the compressor's business, that they are there."""
    made = files(ROOT)
    assert sorted(made) == sorted(file.name for file in (ROOT / FOLDER).iterdir())
    for name, text in made.items():
        old = (ROOT / FOLDER / name).read_text(encoding="utf-8")
        assert unpacked(old) == unpacked(text), f"{name}: make pages"


def unpacked(text: str) -> str:
    return re.sub(r"base64,[\w+/=]+", "base64", text)


def test_every_disagreement_is_explained_or_open_and_nothing_else_is() -> None:
    """Claims that do not hold, columns against the published order, audits: results/explained.json, both ways."""
    assert unmatched(read(ROOT)) == []


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/index.md", "docs/adding-a-paper.md",
                                  *(f"docs/papers/{file.name}" for file in (ROOT / FOLDER).glob("*.md"))])  # fmt: skip
def test_links_lead_somewhere(page: str) -> None:
    file = ROOT / page
    targets = re.findall(r"\]\(([^)#\s]+)\)", file.read_text(encoding="utf-8"))
    assert targets
    for target in targets:
        assert target.startswith("http") or (file.parent / target).exists(), target


# --------------------------------------------------------------------------------------------------------- what it says


def test_a_table_shows_ours_beside_the_published_and_why_ours_is_missing(root: Path) -> None:
    page = files(root)["tan2020.md"]
    assert "| a | 10.0 % [5.0, 20.0] (published 90.0 %) | no data here (published 40.0 %) |" in page
    assert "|  | BIM | C\\|W |" in page and "no data here: robassay run x --data-dir FOLDER." in page
    assert "Order: of 3 published figures 2 have one of ours beside them, 0 matched, 2 not, 0 undecided; of the" in page
    assert page.count("Order:") == 1


def test_a_claim_stands_beside_its_union(root: Path) -> None:
    page = files(root)["tan2020.md"]
    figure = "1.0 [0.5, 2.0], n = 40"
    assert f"| t01 | is t01 so? | holds: {figure} | **does not**: {figure} |" in page
    assert f"| t02 | is t02 so? | undecided: {figure} | – |" in page and "| t01-union |" not in page


def test_an_audit_is_claimed_reproduced_delivered(root: Path) -> None:
    """The paper prints success .8743 (Table IIa): 12.6 % of the images are left."""
    line = next(line for line in files(root)["tan2020.md"].splitlines() if line.startswith("| BSN-2 |"))
    assert line.split(" | ")[1:] == [
        "L∞ ≤ 0.1; 40 images × up to 20 fresh draws",
        "12.6 % (Table IIa, MNIST, BIM, BSN-2)",
        "60.0 % [50.0, 70.0]: bim:steps=10",
        "20.0 % [10.0, 30.0]",
        "Overstated (too few steps): less is left |",
    ]
    summary = files(root)["README.md"].split("## Claimed, reproduced, delivered\n\n### tan2020\n\n")[1]
    assert line in summary.splitlines()
    explain(root, REASONS, {"audit": "no table is at hand"})
    assert "| no table is at hand |" in files(root)["tan2020.md"]


def test_a_copy_of_the_data_that_is_not_the_published_one_is_named_where_it_is_used(root: Path) -> None:
    page = files(root)["tan2020.md"]
    before, named = page.split("### t-cifar10")
    assert before.count(LOSSY) == 1 and f"\n\ncifar10: {LOSSY}\n\n" in named
    assert f"- **cifar10**: {LOSSY}" in files(root)["README.md"]


def test_curves_are_small_tables_and_scatters_files(root: Path) -> None:
    made = files(root)
    assert "| eps 0.1 | 70.0 % [60.0, 80.0] |\n| eps 0.2 | not computed |" in made["tan2020.md"]
    assert "Logits\n\n![logits](tan2020-logits.svg)\n\nn = 2.\n" in made["tan2020.md"]
    assert "![plane](tan2020-plane.svg)\n\nDots: three images; paler: draws disagree.\n" in made["tan2020.md"]
    for name, labels in (("logits", {"0", "1"}), ("plane", {"0", "1", "2"})):
        drawn = ElementTree.fromstring(made[f"tan2020-{name}.svg"])
        _, top, _, high = (float(word) for word in drawn.attrib["viewBox"].split())
        ends = top + high
        below = {text.text for text in drawn.iter(f"{SVG}text") if ends - 20 < float(text.get("y", 0)) < ends}
        assert drawn.tag == f"{SVG}svg" and labels <= below
    many = {"id": "f", "caption": "c", "xlabel": "e", "x": [1], "series": [{"name": n, "points": [None]} for n in "ab"]}
    assert figure_table(many)["rows"] == ["a", "b"] and figure_table(many)["cols"] == ["e 1"]


def test_what_is_not_as_published_is_listed_with_its_reason(root: Path) -> None:
    page = files(root)["tan2020.md"].split("## Where it is not as published")[1]
    assert "- **t01-union** a shorter training\n  - is t01-union so?: 1.0 [0.5, 2.0], n = 40" in page
    assert "- **t-ii/BIM** open: who knows\n  - a (10.0 % [5.0, 20.0], published 90.0 %) lies below b (80.0 % " in page
    assert "t02" not in page.split("## Where the numbers")[0]


def test_provenance_and_summary(root: Path) -> None:
    made = files(root)
    for words in ("robassay 0.1.0, torch 2.1; 2026-01-01", "cpu X", "2 hours", "seeds: 0, 3", "mnist (m1)", "1,234"):
        assert words in made["tan2020.md"].split("## Where the numbers come from")[1]
    assert "With `code`." in made["tan2020.md"]
    assert "| [tan2020](tan2020.md) | 3 | 2 | 0 | 2 | 0 | 1, 0, 1 | 0, 1, 0 | 2, 1 |" in made["README.md"]
    assert "No committed results yet: sharmin2019, sharmin2020, ge2020, eustratiadis2020." in made["README.md"]


# ------------------------------------------------------------------------------------------------------------ explained


def test_explained_and_results_are_matched_both_ways(root: Path) -> None:
    assert set(disagreements(document())) == {"t01-union", "t-ii/BIM"} and unmatched(read(root)) == []
    explain(root, {"t02": "it is undecided, not against", "t-ii": "serves its column"}, {"old": "gone"})
    assert write(root) == [
        'reasons, tan2020: add "t01-union"',
        'reasons, tan2020: take out "t02"',
        'claimed, tan2020: add "audit"',
        'claimed, tan2020: take out "old"',
    ]
    page = (root / FOLDER / "tan2020.md").read_text(encoding="utf-8")
    assert "- **t01-union** open\n" in page and "- **t-ii/BIM** serves its column\n" in page
    explain(root, {**REASONS, "t-ii": "serves nobody"}, CLAIMED)
    assert unmatched(read(root)) == ['reasons, tan2020: take out "t-ii"']


def test_writing_takes_away_what_is_no_longer_there(root: Path) -> None:
    (root / FOLDER).mkdir(parents=True)
    (root / FOLDER / "gone2019.md").write_text("old")
    assert write(root) == []
    assert sorted(file.name for file in (root / FOLDER).iterdir()) == [
        "README.md", "tan2020-logits.svg", "tan2020-plane.svg", "tan2020.md"
    ]  # fmt: skip


def test_elsewhere_it_says_where_it_belongs(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no results/explained.json. Run this in the repository's root"):
        files(tmp_path)


def test_a_docstring_becomes_markdown(root: Path) -> None:
    assert docstring(root, "tan2020") == "A paper.\n\nWith ``code``."
    told = prose("``a <b>`` and :class:`~robassay.cw.CW` (:mod:`robassay.papers.subjects`), a < b")
    assert told == "`a <b>` and `CW` (`subjects`), a &lt; b"
