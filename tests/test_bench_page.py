"""The page of measurements: what it calls ahead, and that it is that of the committed results."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parent.parent / "bench"
sys.path.insert(0, str(BENCH))
import page  # noqa: E402


def row(mine: list[float], peer: list[float], strength: tuple[float, float] = (0.2, 0.2), **more: object) -> dict:
    rivals = {"ours": "ours", "peers": ["peer"], "strength": "robust", "lower": True, "slack": 0.01, "bare": "", **more}
    ways = {"ours": {"cpus": mine, "robust": strength[0]}, "peer": {"cpus": peer, "robust": strength[1]}}
    return {"task": "t", "repeats": len(mine), "ways": ways, "rivals": rivals}


@pytest.mark.parametrize(
    ("made", "word", "times"),
    [
        (row([1, 1, 1], [2, 3, 4]), "ahead", (3, 2.5, 3.5)),
        (row([1, 1, 1], [0.8, 1.1, 1.2]), "level", (1.1, 0.95, 1.15)),
        (row([1, 1, 1, 1, 1], [0.5, 0.8, 0.9, 0.9, 2]), "behind", (0.9, 0.8, 0.9)),
        (row([2, 2, 2], [1, 1, 1.5]), "behind", (0.5, 0.5, 0.625)),
        (row([1], [9], (0.22, 0.2)), "behind", (9, 9, 9)),
        (row([1], [9], (0.2, 0.22)), "ahead", (9, 9, 9)),
        (row([1], [9], (0.2, 0.22), lower=False), "behind", (9, 9, 9)),
        (row([1], [9], (0.209, 0.2)), "ahead", (9, 9, 9)),
    ],
)
def test_faster_and_not_weaker_is_ahead(made, word, times):
    (duel,) = page.duels(made)
    assert (duel.word, duel.times) == (word, pytest.approx(times))


def test_ratios_are_taken_round_by_round():
    """The machine slowed down fivefold in the second round: each round's ratio is 2 all the same."""
    (duel,) = page.duels(row([1, 5], [2, 10]))
    assert duel.times == (2, 2, 2)


def test_the_page_is_that_of_the_results():
    assert page.text() == page.PAGE.read_text(encoding="utf-8"), "Run: python bench/run.py --page"


def test_every_loss_has_its_cause_and_nothing_else_has():
    lost = {duel.name for one in page.rows(page.results()) for duel in page.duels(one) if duel.word == "behind"}
    told = json.loads(page.LOSSES.read_text(encoding="utf-8"))
    assert set(told) == lost
    assert all(len(words) == 2 and all(words) for words in told.values())
