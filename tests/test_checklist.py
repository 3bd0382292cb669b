"""The checklist from made-up decisions: each criterion seen, not seen and not measured, with counts by hand."""

from __future__ import annotations

import numpy as np
import pytest

from robassay.checklist import LAST, NOISE, OFF, ON, THROUGH, Line, Sources, checklist, faithfulness
from robassay.folds import Rows

N = 50
EMPTY = Sources({}, {}, {}, {}, {}, 0.1)
SIGNS = ("one step beats many", "black box beats white box", "unbounded attacks fail", "random samples find more",
         "a larger radius does not help")  # fmt: skip
FAILURES = ("unavailable gradients", "unstable predictions", "silent success", "incomplete optimisation",
            "transfer failure", "unconstrained attack failure")  # fmt: skip


def survive(*kept: int, eps: float = 0.1) -> Rows:
    """Draws (one per number) of N images of which the first ``kept`` survive."""
    wrong = np.stack([np.arange(N) >= k for k in kept]).astype(np.int16)
    zero = np.zeros(N)
    return Rows(wrong, np.zeros(N, np.int64), np.zeros(N, np.int64), False, np.full(N, eps), zero, zero, zero)


def over(**lines: tuple[int, ...]) -> dict[str, Line]:
    """Curves over the radius: survivors at 0, .05, .1 (the audit's), .2 and 1."""
    x = (0.0, 0.05, 0.1, 0.2, 1.0)
    return {n.replace("_", " "): Line(x, [survive(k) for k in kept]) for n, kept in lines.items()}


def steps(**lines: tuple[int, ...]) -> dict[str, Line]:
    return {n.replace("_", " "): Line((1.0, 10.0, 40.0), [survive(k) for k in kept]) for n, kept in lines.items()}


def row(sources: Sources, criterion: str) -> dict:
    (found,) = [one for one in checklist(sources) if one["criterion"] == criterion]
    return found


def test_every_criterion_is_there_once_and_nothing_is_measured_by_nothing():
    rows = checklist(EMPTY)
    assert [r["criterion"] for r in rows] == [*SIGNS, *FAILURES]
    assert [r["source"] for r in rows] == ["Athalye et al. 2018"] * 5 + ["Pintor et al. 2022"] * 6
    assert {r["outcome"] for r in rows} == {"not measured"}
    assert all(r["value"] is None and r["answer"] and r["question"].endswith("?") for r in rows)


EPS = over(PGD_ce=(50, 40, 30, 10, 0), random_noise=(50, 50, 50, 48, 20))
FLAT = over(PGD_ce=(50, 48, 45, 45, 44), random_noise=(50, 50, 50, 50, 50))
BACK = over(PGD_ce=(50, 20, 10, 25, 0), random_noise=(50, 50, 50, 50, 50))
CE, TOO_FEW = (
    steps(PGD_ce=(40, 20, 18), last_iterate=(40, 20, 18)),
    steps(PGD_ce=(30, 20, 18), last_iterate=(30, 41, 18)),
)
TWO, FIVE = np.arange(N) < 2, np.arange(N) >= N - 5
USUAL = {"clean": survive(49), "claimed": survive(30), "adequate": survive(20)}


def sources(**more) -> Sources:
    return EMPTY._replace(**more)


def test_a_search_that_came_after_is_said_to_have_had_the_rest():
    given = sources(evaluations={**USUAL, "Square 100": survive(5)})
    alone = row(given, "black box beats white box")["answer"]
    later = row(given._replace(after=frozenset({"Square 100"})), "black box beats white box")["answer"]
    assert alone.endswith("leaves 40 %, Square 100 10 %")
    assert later.endswith("leaves 40 %, Square 100 on what that has not broken for certain 10 %")


@pytest.mark.parametrize(
    ("criterion", "given", "outcome", "value"),
    [
        ("one step beats many", {"curves": {"steps": CE}}, "not seen", -0.4),
        ("one step beats many", {"curves": {"steps": TOO_FEW}}, "seen", 0.22),
        ("black box beats white box", {"evaluations": {**USUAL, "Square 100": survive(21)}}, "not seen", -0.02),
        ("black box beats white box", {"evaluations": {**USUAL, "transfer: twin": survive(5)}}, "seen", 0.3),
        ("black box beats white box", {"evaluations": {**USUAL, "PGD-40 margin": survive(5)}}, "not measured", None),
        ("unbounded attacks fail", {"curves": {"eps": EPS}}, "not seen", 0.0),
        ("unbounded attacks fail", {"curves": {"eps": FLAT}}, "seen", 0.88),
        ("random samples find more", {"curves": {"eps": EPS}}, "not seen", 0.0),
        ("random samples find more", {"evaluations": {**USUAL, "uniform search": survive(12)}}, "seen", 0.16),
        ("random samples find more", {"evaluations": {**USUAL, "uniform search": survive(40)}}, "not seen", 0.0),
        ("a larger radius does not help", {"curves": {"eps": EPS}}, "not seen", 0.6),
        ("a larger radius does not help", {"curves": {"eps": FLAT}}, "seen", 0.02),
        ("a larger radius does not help", {"curves": {"eps": BACK}}, "seen", 0.3),
        ("unavailable gradients", {"facts": {"differentiable": False}}, "seen", None),
        ("unavailable gradients", {"signals": {"saturated": TWO}}, "not seen", 0.04),
        ("unavailable gradients", {"signals": {"saturated": TWO, "zero_gradient": FIVE}}, "seen", 0.14),
        ("unstable predictions", {"evaluations": {"clean": survive(49, 46, 49)}}, "not seen", 0.06),
        ("unstable predictions", {"evaluations": {"clean": survive(49, 41, 49)}}, "seen", 0.16),
        ("unstable predictions", {"evaluations": {"clean": survive(49)}}, "not seen", None),
        ("silent success", {"curves": {"steps": CE}}, "not seen", 0.0),
        ("silent success", {"curves": {"steps": TOO_FEW}}, "seen", 0.42),
        ("incomplete optimisation", {"evaluations": USUAL}, "seen", 0.2),
        ("incomplete optimisation", {"evaluations": {**USUAL, "adequate": survive(35)}}, "not seen", 0.0),
        ("unconstrained attack failure", {"curves": {"eps": FLAT}}, "seen", 0.88),
    ],
)  # fmt: skip
def test_known_answers(criterion, given, outcome, value):
    found = row(sources(**given), criterion)
    assert found["outcome"] == outcome
    assert found["value"] == (None if value is None else pytest.approx(value))
    if value is not None:
        assert found["low"] <= found["value"] <= found["high"]


def noise(itself: int, through: int) -> dict[str, dict[tuple[str, str], Rows]]:
    cells = {(ON, "PGD ce"): survive(40), (OFF, "PGD ce"): survive(itself), (THROUGH, "PGD ce"): survive(through)}
    # A weaker attack on the stand-in must not be what is looked at.
    return {"noise": {**cells, (OFF, "PGD margin"): survive(45), (THROUGH, "PGD margin"): survive(45)}}


def test_a_stand_in_whose_images_do_not_fool_the_network_is_a_transfer_failure():
    assert row(sources(tables=noise(5, 30)), "transfer failure")["outcome"] == "seen"
    assert row(sources(tables=noise(5, 30)), "transfer failure")["value"] == pytest.approx(0.5)
    assert row(sources(tables=noise(5, 5)), "transfer failure")["outcome"] == "not seen"


def test_a_rise_that_may_be_chance_is_none():
    """2 of 50 images come back: an interval that reaches down to almost nothing."""
    curves = {"eps": over(PGD_ce=(50, 30, 20, 22, 0), random_noise=(50,) * 5)}
    assert row(sources(curves=curves), "a larger radius does not help")["outcome"] == "not seen"


def test_random_noise_of_the_figure_is_taken_at_the_audits_radius_only():
    """It fools 10 more images than the gradient at .1; elsewhere the gradient is far better."""
    curves = {"eps": over(PGD_ce=(50, 10, 30, 0, 0), random_noise=(50, 50, 20, 50, 50))}
    found = row(sources(curves=curves), "random samples find more")
    assert found["outcome"] == "seen" and found["value"] == pytest.approx(0.2)
    assert NOISE in curves["eps"] and LAST in CE


def test_points_that_are_not_computed_are_not_measured():
    line = Line((0.0, 0.1, 1.0), [survive(50), survive(20), None])
    found = row(sources(curves={"eps": {"PGD ce": line}}), "unbounded attacks fail")
    assert found["outcome"] == "not measured"


def test_all_answers_but_the_certain_ones_say_where_they_mislead():
    assert all(r["misleads"] for r in checklist(EMPTY))


def test_faithfulness_is_a_median_and_a_share():
    found = faithfulness(np.array([0.9, 0.8, 0.1, np.nan]))
    assert not found["flag"] and found["value"] == pytest.approx(0.8)
    assert "33 % of 3 images" in found["answer"]
    assert faithfulness(np.array([0.24, -0.1, 0.9]))["flag"]
    assert not faithfulness(np.array([0.26, -0.1, 0.9]))["flag"]
    assert faithfulness(np.array([np.nan]))["value"] is None and not faithfulness(np.array([np.nan]))["flag"]
