"""The estimate of the time left by hand, what is found on the way, and output that fits a terminal and a pipe."""

from __future__ import annotations

import dataclasses
import io
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from robassay.errors import LostCell
from robassay.lowest import Lowest
from robassay.run.progress import Progress

ROOT = Path(__file__).parents[1]


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


def test_while_a_kind_is_unknown_what_the_others_take_is_said_as_the_least() -> None:
    """3 trainings of 10 s are left and 4 judgements of unknown length: 30 s; 26 with one 4 s at work, 13 for two."""
    train, score = cells("Train", 4), cells("Score", 4)
    progress = begun(*train, *score)
    assert progress._pace([]) == "" and progress._least([]) is None
    progress.finished(train[0], 10.0)
    assert progress._left([]) is None and progress._least([]) == pytest.approx(30)
    assert progress._pace([]).endswith(", at least 0:30 left")
    progress.started(train[1])
    progress._started[train[1].key] -= 4.0
    assert progress._least([train[1]]) == pytest.approx(26, abs=0.1)
    progress.started(score[0])
    assert progress._least([train[1], score[0]]) == pytest.approx(13, abs=0.1), "a blink at the unknown one counts none"
    progress._started[score[0].key] -= 2.0
    progress._fractions[score[0].key] = 0.25
    assert progress._least([train[1], score[0]]) == pytest.approx((26 + 6) / 2, abs=0.1), (
        "6 s of the judgement are left"
    )
    progress._fractions[train[1].key] = 0.5
    assert progress._least([train[1], score[0]]) == pytest.approx((20 + 4 + 6) / 2, abs=0.1), "it is half way after 4 s"
    progress.finished(score[0], 8.0)
    assert "about" in progress._pace([train[1]])


def test_a_running_cell_of_an_unknown_kind_counts_by_how_far_it_is() -> None:
    train = cells("Train", 2)
    progress = begun(*train)
    progress.started(train[0])
    assert progress._left([train[0]]) is None
    progress._started[train[0].key] -= 10.0
    progress._fractions[train[0].key] = 0.25
    assert progress._left([train[0]]) == pytest.approx(30 + 40, abs=0.5)


def test_a_line_says_cells_rate_time_left_and_the_worst_finding(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """3 of 10 cells in 90 s are 2 a minute; the other 7 take 30 s each, 3:30."""
    score = cells("Score", 10)
    told = iter(["", "lowest so far 50.0 %", "lowest so far 4.0 %"])
    progress = Progress(worst=lambda key: next(told))
    progress.terminal = False
    progress.begin(SimpleNamespace(todo=score, done=frozenset()))  # type: ignore[arg-type]
    for one in score[:3]:
        progress.finished(one, 30.0)
    progress._began = progress._told = time.monotonic() - 90.0
    progress.tick(None, [])  # type: ignore[arg-type]
    said = capsys.readouterr().err
    assert said == "robassay: 3 of 10 cells in 1:30, 2 a minute, about 3:30 left; lowest so far 4.0 %\n"


def test_what_an_earlier_run_found_is_said_too_and_a_quiet_one_looks_at_nothing() -> None:
    looked: list[str] = []

    def worst(key: str) -> str:
        looked.append(key)
        return f"found {key}"

    for quiet, expected in ((False, ["old"]), (True, [])):
        looked.clear()
        progress = Progress(quiet=quiet, worst=worst)
        progress.terminal = False
        progress.begin(SimpleNamespace(todo=cells("Score", 1), done=frozenset({"old"})))  # type: ignore[arg-type]
        assert looked == expected


def test_a_damaged_cell_does_not_end_the_run() -> None:
    def worst(key: str) -> str:
        raise LostCell(key, "gone")

    progress = Progress(worst=worst)
    progress.terminal = False
    one = cells("Score", 1)
    progress.begin(SimpleNamespace(todo=one, done=frozenset()))  # type: ignore[arg-type]
    progress.finished(one[0], 1.0)


def test_in_a_terminal_all_of_it_fits_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bars as they are drawn, on a console of 80 columns that is no terminal."""
    score = cells("Score", 400)
    progress = Progress(worst=lambda key: "lowest robust accuracy so far 4.0 % (" + "targeted " * 20 + ")")
    progress.terminal = True
    monkeypatch.setattr("robassay.run.progress.title", lambda cell: "x" * 90)
    monkeypatch.setattr("rich.live.Live.start", lambda self, refresh=False: None)
    progress.begin(SimpleNamespace(todo=score, done=frozenset()))  # type: ignore[arg-type]
    progress.finished(score[0], 30.0)
    progress.started(score[1])
    progress._began = time.monotonic() - 30.0
    progress.tick(SimpleNamespace(root=Path("nowhere")), [score[1]])  # type: ignore[arg-type]
    out = io.StringIO()
    Console(file=out, width=80).print(progress.shown())
    lines = out.getvalue().splitlines()
    assert all(len(line) <= 80 for line in lines) and len(lines) == 4
    assert "1/400 0:00:" in lines[0] and "x" * 40 in lines[1] and lines[1].split()[-2:] == ["0/?", "0:00:00"]
    assert lines[2].startswith("2 a minute, about 3:19:")
    assert "lowest robust accuracy so far 4.0 % (targeted" in lines[3] and "…" in lines[3]


def judged(right: list[list[bool]], target: str) -> dict[str, np.ndarray]:
    decisions = np.where(np.array(right), 0, 1).astype(np.int16)
    n = decisions.shape[1]
    zeros = {name: np.zeros(n) for name in ("l2", "queries", "gradients")}
    shared = {"shared": np.array(0, np.uint8), "linf": np.full(n, 0.1)}
    return {"decisions": decisions, "labels": np.zeros(n, np.int64), "block": np.zeros(n, np.int64), **zeros, **shared}


def test_the_lowest_robust_accuracy_by_hand() -> None:
    """Two slices under one attack: 1.5 of 2 images right, then 0 of 1: 50 % of 3. Another attack leaves 2 of 2."""
    held = {
        "c0": judged([[True, True], [True, False]], ""), "c1": judged([[False], [False]], ""),
        "p0": judged([[True, True], [True, True]], ""), "x": judged([[False]], ""),
    }  # fmt: skip
    found = Lowest([], SimpleNamespace(read=held.__getitem__))  # type: ignore[arg-type]
    found._names = {"c0": "claimed", "c1": "claimed", "p0": "PGD\x1b[2J"}
    assert found("clean") == ""
    assert found("p0") == "lowest robust accuracy so far 100.0 % (PGD?[2J, n = 2)"
    assert found("c0") == "lowest robust accuracy so far 75.0 % (claimed, n = 2)"
    assert found("c1") == "lowest robust accuracy so far 50.0 % (claimed, n = 3)"
    assert found("c1") == found("x") == "lowest robust accuracy so far 50.0 % (claimed, n = 3)"


def test_it_looks_at_the_attacks_of_audits_and_at_nothing_else() -> None:
    """Clean images, indicators and the evidence, with its larger radii, are no finding."""
    from robassay.auditing import describe_audit
    from robassay.cells import Examples
    from robassay.data import find
    from robassay.models import Train
    from robassay.nets.mlp import MLP
    from robassay.recipe import Recipe
    from robassay.threat import Threat

    data = find("digits")
    item = describe_audit(Train(MLP(), data, Recipe(epochs=1)), Examples(data, "test", 0, 120), Threat("linf", 0.1))
    found = Lowest([item], None)  # type: ignore[arg-type]
    wanted = {c.key for e in (item.claimed, item.adequate, *item.battery.values()) for c in e}
    assert set(found._names) == wanted and not wanted & {c.key for c in item.clean}
    assert {"claimed", "adequate", *item.battery} >= set(found._names.values())
    both = Lowest([item, dataclasses.replace(item, title="other")], None)  # type: ignore[arg-type]
    assert all(name.startswith(f"{item.title}: ") for name in both._names.values())


def test_a_long_exam_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Checks of 2 s each by a clock of ours: after more than 3 s a line, and of 5 checks 2 are done then, 6 s left."""
    from robassay import exams
    from robassay.testing import exam

    clock = [100.0]
    monkeypatch.setattr(exams.time, "monotonic", lambda: clock[0])

    def check() -> None:
        clock[0] += 2.0

    held = exam.watcher.set(exams.Pace(3.0))
    try:
        assert len(exam.examine("net", [(f"promise {i}", check) for i in range(5)])) == 5
    finally:
        exam.watcher.reset(held)
    assert capsys.readouterr().err.splitlines() == [
        "robassay: net: 2 of 5 promises in 4 s, about 6 s left; now: promise 2",
        "robassay: net: 4 of 5 promises in 8 s, about 2 s left; now: promise 4",
    ]


def test_the_column_of_the_claim_says_whose_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """The usual attack is PGD-10 of eps/10 over 50 draws, and nothing else."""
    from test_report import audit

    from robassay.claims import parse_claim
    from robassay.report.write import overview
    from robassay.threat import Threat

    ball = Threat("linf", 0.1)  # of the test's audit
    for stated, word in (("", "usual attack"), ("pgd", "usual attack"), ("pgd:step=0.02", "claimed attack"),
                         ("pgd:draws=1", "claimed attack"), ("square", "claimed attack")):  # fmt: skip
        overview([audit(claim=str(parse_claim(stated, ball)))])
        assert f" {word}  strongest" in capsys.readouterr().out, stated


def test_tables_fit_80_columns_and_hold_no_control_codes_in_a_pipe() -> None:
    """Written by another process into a pipe, whatever terminal it is told of; numbers are whole (about 1 s)."""
    code = """
import sys; sys.path.insert(0, 'tests')
from test_report import audit, rate
from robassay.report.write import claims, overview
long = 'a-long-name-of-a-file.py:build ' * 4 + '\\x1b[31m'
names = ('artefact', 'overstated', 'holds', 'no_flaw_found', 'undecided')
one = rate(1.0)
overview([audit(v, title=long, cause='unclear', clean=one, claimed=one, robust=one) for v in names])
claims([{'outcome': o, 'question': 'Is it? [red]' * 12, 'sentence': '100.0 [99.0, 100.0], n = 1000'}
        for o in ('PASS', 'FAIL', 'UNDECIDED')])
"""
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT)}
    for name in ("COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout and max(map(len, done.stdout.splitlines())) <= 80
    assert done.stdout.count("100.0 % [93, 100]") == 5 and "no flaw found" in " ".join(done.stdout.split())
    assert "UNDECIDED" in done.stdout and "[red]" in done.stdout
