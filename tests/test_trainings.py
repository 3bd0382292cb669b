"""Trainings in a report: the stored histories, with intervals, and nothing where nothing was trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_learning import Hebb

import robassay as ra
from robassay.data import Images
from robassay.defences.adversarial import AdversarialTraining
from robassay.document import Document
from robassay.nets.mlp import MLP
from robassay.recipe import Recipe
from robassay.report.render import render
from robassay.run import carry_out
from robassay.store import Store
from robassay.training import validated


def test_the_curve_is_the_history_with_an_interval(tmp_path: Path) -> None:
    data, store = ra.find("digits"), Store(tmp_path)
    short, long, absent = (ra.Train(MLP((8,)), data, Recipe(epochs=n), limit=200) for n in (2, 3, 4))
    item = ra.Trainings("t", "How it went", {"short": short, "long": long, "absent": absent})
    carry_out([short, long], store, 1, quiet=True)
    document = Document(ra.Study("s", "S", (item,)).freeze(), store).whole()
    (figure,) = document["figures"]
    assert figure["x"] == [1, 2, 3]
    shown = {line["name"]: line["points"] for line in figure["series"]}
    assert shown["absent"] == [None] * 3 and shown["short"][2] is None
    for name, cell in (("short", short), ("long", long)):
        history = store.read(cell.key)["history/val_accuracy"]
        points = shown[name][: len(history)]
        assert [p["value"] for p in points] == pytest.approx(history.tolist(), abs=1e-6)  # six digits are written
        assert all(p["low"] < p["value"] < p["high"] and p["n"] == len(data.split("val").y) for p in points)
        assert points[0]["keys"] == [cell.key]
    page = render(document)
    assert "How it went" in page and "validation accuracy over epoch" in page


def test_passes_that_cannot_decide_yet_are_left_out(tmp_path: Path) -> None:
    cell, store = ra.Learn(Hebb(late=True), ra.find("digits"), limit=200), Store(tmp_path)
    carry_out([cell], store, 1, quiet=True)
    item = ra.Trainings("t", "How it went", {"late": cell})
    (figure,) = Document(ra.Study("s", "S", (item,)).freeze(), store).figures()
    points = figure["series"][0]["points"]
    assert points[:2] == [None, None] and points[2]["value"] > 0.5


def test_an_adversary_looks_at_fewer_images() -> None:
    many = Images(torch.zeros(1500, 1, 2, 2, dtype=torch.uint8), torch.zeros(1500, dtype=torch.int64))
    assert (validated(many, None), validated(many, AdversarialTraining())) == (1500, 1000)
