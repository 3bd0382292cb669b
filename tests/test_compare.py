"""Two results of audits side by side: hand-computed intervals, exit codes, and files that are none."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from robassay import cli
from robassay.compare import change, compare, table
from robassay.errors import UsageError
from robassay.folds import Rows
from robassay.intervals import rate
from robassay.verdict import Evidence, as_json, judge

N = 200


def survive(share: float, eps: float = 0.1) -> Rows:
    wrong = (np.arange(N) >= round(share * N)).astype(np.int16)[None]
    size, zero = np.full(N, eps), np.zeros(N)
    return Rows(wrong, np.zeros(N, np.int64), np.zeros(N, np.int64), False, size, size, zero, zero)


def audit(claimed: float, union: float, title: str = "mine.py:build", budget: str = "standard", **more: object) -> dict:
    evidence = Evidence(survive(0.98, 0.0), survive(claimed), survive(claimed), {"PGD": survive(union)}, {}, {})
    head = {"id": title, "title": title, "threat": {"norm": "linf", "eps": 0.1}, "claim": "pgd:steps=10"}
    return {**head, **judge(evidence, 0.05, budget), **more}


def save(folder: Path, name: str, whole: object) -> str:
    (folder / name).write_text(whole if isinstance(whole, str) else json.dumps(whole))
    return str(folder / name)


def run(monkeypatch, capsys, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["robassay", "compare", *words])
    code: object = 0
    try:
        cli.main()
    except SystemExit as stop:
        code = stop.code
    told = capsys.readouterr()
    assert "Traceback" not in told.err
    return int(code or 0), told.out, told.err


def test_the_interval_of_a_change_is_newcombes():
    """His worked example: 56/70 against 48/80, a difference of .2 with the interval .0524 to .3339."""
    one = as_json(rate((np.arange(70) < 56).astype(float)[None]))
    other = as_json(rate((np.arange(80) < 48).astype(float)[None]))
    # Wilson's intervals by the normal quantile, as he has them; ours differ in the third digit by Student's t.
    exact = [
        {"value": 0.8, "low": 0.6918, "high": 0.8770, "n": 70},
        {"value": 0.6, "low": 0.49045, "high": 0.70039, "n": 80},
    ]
    found = change(exact[1], exact[0])
    assert (found.value, found.low, found.high, found.n) == pytest.approx((0.2, 0.0524, 0.3339, 70), abs=1.5e-4)
    ours = change(other, one)
    assert (ours.low, ours.high) == pytest.approx((0.0524, 0.3339), abs=5e-3)
    back = change(exact[0], exact[1])
    assert (back.value, back.low, back.high) == pytest.approx((-found.value, -found.high, -found.low))


def test_the_interval_covers_unpaired_changes():
    """2,000 pairs of audits of 100 images each, truth 60 % and 75 %: about 95 in 100 intervals hold the difference."""
    draws = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        old, new = ((draws.random((1, 100)) < p).astype(float) for p in (0.6, 0.75))
        found = change(as_json(rate(old)), as_json(rate(new)))
        hits += found.low <= 0.15 <= found.high
    assert abs(hits / 2000 - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 2000) + 0.005


def test_what_is_shown_fits_into_80_columns_and_marks_what_is_more_than_chance(tmp_path, monkeypatch, capsys):
    old, new = save(tmp_path, "old.json", audit(0.6, 0.59)), save(tmp_path, "new.json", audit(0.62, 0.30))
    code, shown, _ = run(monkeypatch, capsys, old, new)
    lines = {line.split(" ")[0]: line for line in shown.splitlines()}
    assert code == 0 and max(map(len, shown.splitlines())) <= 80
    assert "holds" in lines["verdict"] and "overstated (masking)" in lines["verdict"] and "worse" in lines["verdict"]
    assert "59.0 %" in lines["robust"] and "30.0 %" in lines["robust"] and "−29.0" in lines["robust"]
    assert lines["robust"].endswith("*") and lines["gap"].endswith("*")
    assert not lines["claimed"].endswith("*") and "+2.0" in lines["claimed"]
    assert "0.0 [" in lines["clean"] and "+0.0" not in lines["clean"] and "n = 200 images" in shown


@pytest.mark.parametrize(
    ("before", "after", "code"),
    [
        ((0.6, 0.59), (0.6, 0.59), 0),
        ((0.6, 0.59), (0.59, 0.58), 0),  # less, but not beyond the interval
        ((0.6, 0.59), (0.45, 0.44), 3),  # robust accuracy fell, both claims hold
        ((0.45, 0.44), (0.6, 0.59), 0),
        ((0.6, 0.59), (0.7, 0.59), 3),  # the verdict alone got worse
        ((0.7, 0.59), (0.6, 0.59), 0),
        ((0.9, 0.02), (0.7, 0.59), 0),  # artefact, then overstated
        ((0.7, 0.59), (0.9, 0.02), 3),
    ],
)
def test_it_fails_when_asked_to_and_worse(tmp_path, monkeypatch, capsys, before, after, code):
    old, new = save(tmp_path, "old.json", audit(*before)), save(tmp_path, "new.json", audit(*after))
    assert run(monkeypatch, capsys, old, new)[0] == 0
    assert run(monkeypatch, capsys, old, new, "--fail-if-worse")[0] == code
    printed = run(monkeypatch, capsys, old, new, "--json")[1]
    assert json.loads(printed)[0]["worse"] is (code == 3)


def test_a_smaller_budget_is_no_worse_verdict(tmp_path):
    old, new = save(tmp_path, "o", audit(0.6, 0.59)), save(tmp_path, "n", audit(0.6, 0.59, budget="quick"))
    (found,) = compare(Path(old), Path(new))
    assert (found.old["verdict"], found.new["verdict"]) == ("holds", "no_flaw_found") and not found.worse
    assert "! the budget is not the same: standard, then quick" in table(found)


def test_several_audits_are_matched_by_title(tmp_path):
    first = {"schema": 1, "audits": [audit(0.6, 0.59, "a"), audit(0.5, 0.49, "b"), audit(0.4, 0.39, "gone")]}
    second = {"schema": 1, "audits": [audit(0.5, 0.30, "b"), audit(0.6, 0.59, "a"), audit(0.4, 0.39, "new")]}
    found = compare(Path(save(tmp_path, "o", first)), Path(save(tmp_path, "n", second)))
    assert [(c.title, c.worse) for c in found] == [("b", True), ("a", False)]
    single = Path(save(tmp_path, "s", audit(0.6, 0.59, "other name")))
    with pytest.raises(UsageError, match="no audit in common: the first has a, b, gone, the second other name"):
        compare(tmp_path / "o", single)
    assert compare(Path(save(tmp_path, "t", audit(0.6, 0.59, "b"))), single)[0].title == "b → other name"


def test_other_balls_are_shown_and_not_judged(tmp_path, monkeypatch, capsys):
    far = {"norm": "linf", "eps": 8 / 255}
    old, new = (
        save(tmp_path, "o", audit(0.6, 0.59)),
        save(tmp_path, "n", audit(0.6, 0.3, threat=far, claim="fgsm:" * 40)),
    )
    code, shown, _ = run(monkeypatch, capsys, old, new)
    assert code == 0 and "the ball is not the same: L∞ ≤ 0.1, then L∞ ≤ 8/255" in shown
    assert max(map(len, shown.splitlines())) <= 80
    code, _, told = run(monkeypatch, capsys, old, new, "--fail-if-worse")
    assert code == 2 and "within the same ball" in told


@pytest.mark.parametrize(
    ("whole", "words"),
    [
        ("not json", "is no JSON"),
        ([1], "names no schema"),
        ({"verdict": "holds"}, "names no schema"),
        ({**audit(0.6, 0.59), "schema": 2}, "has schema 2, this version of robassay reads 1"),
        ({"schema": 1, "tables": []}, "lacks title, verdict, threat, clean"),
        ({"schema": 1, "audits": []}, "holds no audit"),
        ({"schema": 1, "audits": [3]}, "an audit is a int"),
        (audit(0.6, 0.59, verdict="fine"), "its verdict is 'fine'"),
        (audit(0.6, 0.59, threat="linf"), "no norm and radius"),
        (audit(0.6, 0.59, gap={"value": None, "low": None, "high": None, "n": 0}), "gap is no number with an interval"),
        (audit(0.6, 0.59, robust=0.5), "robust is no number with an interval"),
    ],
)
def test_files_that_are_no_results_are_refused_by_name(tmp_path, monkeypatch, capsys, whole, words):
    good, bad = save(tmp_path, "good.json", audit(0.6, 0.59)), save(tmp_path, "bad.json", whole)
    for pair in ((good, bad), (bad, good)):
        code, _, told = run(monkeypatch, capsys, *pair)
        assert code == 2 and "bad.json" in told and words in told
    code, _, told = run(monkeypatch, capsys, good, str(tmp_path / "none.json"))
    assert code == 2 and "none.json" in told


def test_needs_no_torch(tmp_path):
    old, new = save(tmp_path, "old.json", audit(0.6, 0.59)), save(tmp_path, "new.json", audit(0.62, 0.30))
    code = "import sys; sys.modules['torch'] = None; from robassay import cli; cli.main()"
    line = [sys.executable, "-c", code, "compare", old, new, "--fail-if-worse"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 3 and "verdict" in done.stdout, done.stderr


@pytest.mark.parametrize(
    "change_",
    [
        {"verdict": ["holds"]},
        {"verdict": {"holds": 1}},
        {"title": {"a": 1}},
        {"cause": ["masking"]},
        {"threat": {"norm": ["linf"], "eps": 0.1}},
        {"threat": {"norm": "linf", "eps": "0.1"}},
        {"threat": {"norm": "linf", "eps": [0.1]}},
    ],
)
def test_a_result_with_other_kinds_of_values_is_refused(tmp_path, monkeypatch, capsys, change_):
    """Somebody else's file may hold anything where a word or a number belongs."""
    good, bad = (save(tmp_path, f"{i}.json", audit(0.9, 0.8, **more)) for i, more in enumerate(({}, change_)))
    code, out, err = run(monkeypatch, capsys, good, bad)
    assert code == 2 and not out and "no result of an audit" in err


def test_a_title_cannot_command_the_terminal(tmp_path, monkeypatch, capsys):
    files = [save(tmp_path, f"{i}.json", audit(0.9, 0.8, title="a\x1b[2Jb")) for i in range(2)]
    code, out, _ = run(monkeypatch, capsys, *files)
    assert code == 0 and "a?[2Jb" in out and "\x1b" not in out
