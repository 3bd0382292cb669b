"""Each verdict from made-up decisions whose right answer is known, and the words that go with it."""

from __future__ import annotations

import numpy as np
import pytest

from robassay.folds import Rows
from robassay.verdict import Evidence, judge

N = 400
FACTS = {"stochastic": False, "reproducible": True, "coupled": False, "differentiable": True, "probabilities": False}


def survive(share: float, eps: float = 0.1) -> Rows:
    """A deterministic evaluation that the first ``share`` of the images survives."""
    wrong = (np.arange(N) >= round(share * N)).astype(np.int16)[None]
    size, zero = np.full(N, eps), np.zeros(N)
    return Rows(wrong, np.zeros(N, np.int64), np.zeros(N, np.int64), False, size, size, zero, zero)


def evidence(claimed: float, adequate: float, union: float, **facts: bool) -> Evidence:
    battery = {"margin": survive(union), "weak": survive(1.0)}
    return Evidence(survive(0.98, 0.0), survive(claimed), survive(adequate), battery, {}, {**FACTS, **facts})


@pytest.mark.parametrize(
    ("claimed", "adequate", "union", "budget", "verdict", "cause"),
    [
        (0.96, 0.96, 0.02, "standard", "artefact", "masking"),
        (0.96, 0.60, 0.02, "standard", "artefact", "both"),
        (0.51, 0.48, 0.01, "standard", "artefact", "masking"),
        (0.73, 0.58, 0.58, "standard", "overstated", "steps"),
        (0.62, 0.60, 0.41, "standard", "overstated", "masking"),
        (0.80, 0.65, 0.50, "standard", "overstated", "both"),
        (0.75, 0.69, 0.63, "standard", "overstated", "unclear"),
        (0.60, 0.60, 0.59, "standard", "holds", None),
        (0.60, 0.60, 0.59, "quick", "no_flaw_found", None),
        (0.02, 0.02, 0.01, "standard", "holds", None),
        (0.60, 0.60, 0.545, "standard", "undecided", None),
    ],
)
def test_verdicts(claimed, adequate, union, budget, verdict, cause):
    result = judge(evidence(claimed, adequate, union), 0.05, budget)
    assert (result["verdict"], result["cause"]) == (verdict, cause)
    assert result["claimed"]["value"] == pytest.approx(claimed)
    assert result["robust"]["value"] == pytest.approx(min(claimed, adequate, union))
    assert result["gap"]["value"] == pytest.approx(result["g1"]["value"] + result["g2"]["value"], abs=2e-6)


def test_an_honest_weak_network_holds_and_has_no_robustness():
    result = judge(evidence(0.02, 0.02, 0.01), 0.05, "standard")
    assert result["robustness"] == "none" and "no robustness" in result["sentence"]
    assert judge(evidence(0.6, 0.6, 0.6), 0.05, "standard")["robustness"] == "some"


def test_the_claimed_attack_belongs_to_the_union():
    """A battery weaker than the claim must not make the network look more robust than it was claimed to be."""
    result = judge(evidence(0.3, 0.9, 0.9), 0.05, "standard")
    assert result["robust"]["value"] == pytest.approx(0.3)
    assert result["winner"] == "claimed"


def test_an_undecided_case_says_how_many_images_decide_and_they_do():
    result = judge(evidence(0.60, 0.60, 0.53), 0.05, "standard")
    assert result["verdict"] == "undecided"
    wanted = int(result["next"].split()[1])
    assert N < wanted < 20 * N
    repeats = int(np.ceil(wanted / N))
    once = evidence(0.60, 0.60, 0.53)

    def more(rows: Rows) -> Rows:
        tiled = {n: np.tile(getattr(rows, n), repeats) for n in Rows._fields if n not in ("shared", "decisions")}
        return rows._replace(decisions=np.tile(rows.decisions, repeats), **tiled)

    bigger = once._replace(
        clean=more(once.clean),
        claimed=more(once.claimed),
        adequate=more(once.adequate),
        battery={k: more(v) for k, v in once.battery.items()},
    )
    assert judge(bigger, 0.05, "standard")["verdict"] == "overstated"


def test_indicators_are_shown_and_never_decide():
    signals = {
        "saturated": np.ones(N),
        "zero_gradient": np.zeros(N),
        "alignment": np.full(N, np.nan),
        "carriers": np.full(N, 2.0),
    }
    result = judge(evidence(0.6, 0.6, 0.59)._replace(signals=signals), 0.05, "standard")
    assert result["verdict"] == "holds"
    flags = {c["name"]: c["flag"] for c in result["checks"]}
    assert flags["saturated"] and flags["carriers"] and not flags["zero_gradient"] and not flags["alignment"]


def test_facts_that_a_reader_must_know_are_flagged():
    result = judge(evidence(0.6, 0.6, 0.6, differentiable=False, probabilities=True), 0.05, "standard")
    assert {c["name"] for c in result["checks"] if c["flag"]} == {"differentiable", "probabilities"}


@pytest.mark.parametrize(("clean", "flagged"), [(0.0, True), (0.26, True), (0.32, False), (0.98, False)])
def test_a_network_that_guesses_is_told_so(clean, flagged):
    """Four labels, a quarter each: with 400 images 26 % is within chance (low end 21.9), 32 % is not (27.6)."""
    labels = np.tile(np.arange(4), N // 4)
    right = np.arange(N) < round(clean * N)
    rows = survive(1.0, 0.0)._replace(labels=labels, decisions=np.where(right, labels, 9).astype(np.int16)[None])
    checks = judge(Evidence(rows, rows, rows, {"margin": rows}, {}, FACTS), 0.05, "quick")["checks"]
    told = [c for c in checks if c["name"] == "guessing"]
    assert [c["flag"] for c in told] == [True] * flagged
    if told:
        assert f"{100 * clean:.0f} % [" in told[0]["answer"] and "against 25 %" in told[0]["answer"]
        assert "--weights" in told[0]["answer"] and checks[0] is told[0]


def test_images_of_one_label_say_nothing_of_guessing():
    checks = judge(evidence(0.0, 0.0, 0.0), 0.05, "quick")["checks"]
    assert "guessing" not in {c["name"] for c in checks}
