"""The estimate of the time left, by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from robassay.run.progress import Progress


def cells(kind: str, count: int) -> list[Any]:
    made = type(kind, (), {})
    found = [made() for _ in range(count)]
    for number, one in enumerate(found):
        one.key = f"{kind}{number}"
    return found


def begun(*todo: Any) -> Progress:
    progress = Progress(quiet=True)
    progress.begin(SimpleNamespace(todo=todo))  # type: ignore[arg-type]
    return progress


def test_every_kind_counts_with_its_own_mean_and_workers_share_what_is_left() -> None:
    """Left are 2 trainings of 10 s and 3 judgements of 2 s, 26 s; with two at work 13."""
    train, score = cells("Train", 4), cells("Score", 4)
    progress = begun(*train, *score)
    assert progress._left([]) is None
    progress.finished(train[0], 8.0)
    progress.finished(train[1], 12.0)
    assert progress._left([]) is None, "nothing is known of judging, and half of the cells judge"
    progress.finished(score[0], 2.0)
    assert progress._left([]) == pytest.approx(26)
    for one in (train[2], train[3]):
        progress.started(one)
    assert progress._left([train[2], train[3]]) == pytest.approx(13, abs=0.1)


def test_a_rare_kind_that_comes_last_does_not_keep_the_estimate_back() -> None:
    """Of 100 cells 5 are of a kind not seen yet: they count as the mean of those seen. With 6 nothing is said."""
    for rare, expected in ((5, 98 * 2.0), (6, None)):
        score = cells("Score", 100 - rare)
        progress = begun(*score, *cells("Regional", rare))
        progress.finished(score[0], 1.0)
        progress.finished(score[1], 3.0)
        assert progress._left([]) == expected


def test_a_running_cell_of_an_unknown_kind_counts_by_how_far_it_is() -> None:
    train = cells("Train", 2)
    progress = begun(*train)
    progress.started(train[0])
    assert progress._left([train[0]]) is None
    progress._started[train[0].key] -= 10.0
    progress._fractions[train[0].key] = 0.25
    assert progress._left([train[0]]) == pytest.approx(30 + 40, abs=0.5)
