"""The committed table of surrogate widths: complete, of today's cells, and showing which widths mask."""

from __future__ import annotations

import json
from pathlib import Path

from robassay.papers.widths import WORST, estimators
from robassay.surrogates import sweep

FILE = Path(__file__).parents[1] / "results" / "small" / "widths.json"


def found() -> dict[str, dict]:
    table = json.loads(FILE.read_text(encoding="utf-8"))["tables"][0]
    return {row: cells[0] for row, cells in zip(table["rows"], table["cells"], strict=True)}


def test_every_estimator_has_its_row():
    assert set(found()) == {"clean", "uniform noise", *estimators(), WORST}
    assert set(sweep()) < set(estimators())


def test_narrow_surrogates_and_straight_through_overstate_robustness():
    left = {row: cell["value"] for row, cell in found().items()}
    best = min(value for row, value in left.items() if row != WORST)
    assert left["clean"] > 0.95 and left["uniform noise"] > 0.95
    assert left["triangle 0.25"] <= best + 0.01 and left["triangle 0.5"] <= best + 0.01
    for masked in ("triangle 0.02", "triangle 0.05", "atan 128", "straight through"):
        assert left[masked] > best + 0.04, masked
    assert left[WORST] <= best
