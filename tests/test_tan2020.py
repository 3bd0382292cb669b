"""Tan et al. 2020: every published figure of the rows shown has its place, the claims are the paper's, and the
committed numbers are of today's cells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from robassay.access import Decisions
from robassay.cells import Craft, Score
from robassay.leads import Leads
from robassay.papers import study_of
from robassay.papers.published import table
from robassay.papers.tan2020 import claims
from robassay.papers.victims import FIXED, IN_BALL, LATCH, RADII, RANDOM, assaults
from robassay.study import Check, Study, Table

FILE = Path(__file__).parents[1] / "results" / "small" / "tan2020.json"
CLAIMS = ("t01", "t01-union", "t02", "t03", "t04", "t04-union", "t05", "t06", "t14")
pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def study() -> Study:
    return study_of("tan2020", "small", None)


def tables(study: Study) -> dict[str, Table]:
    return {item.id: item for item in study.items if isinstance(item, Table)}


@pytest.mark.parametrize("scale", ["small", "full"])
def test_every_published_figure_on_mnist_stands_beside_its_network_and_attack(scale: str) -> None:
    shown = tables(study_of("tan2020", scale, None))
    for id in ("IIa", "IIb", "Xa", "Xb"):
        printed, ours = table("tan2020", id), shown[f"tan2020-{id}".lower()]
        names = {row.split(" (")[0]: row for row in ours.rows}
        assert tuple(names) == (*printed.cols, LATCH)
        for (row, net), figure in printed.figures.items():
            data, attack = row.split(", ")
            if data == "MNIST":
                assert ours.published[names[net], attack] == figure.value
        assert len(ours.published) == sum(row.startswith("MNIST") for row, _ in printed.figures)
    for id in ("XIa", "XIb"):
        printed, ours = table("tan2020", id), shown[f"tan2020-{id}".lower()]
        wanted = {(net, row.split(", ")[1]): f.value for (row, net), f in printed.figures.items() if "MNIST" in row}
        assert ours.published == wanted and len(wanted) == {"XIa": 32, "XIb": 31}[id]
    beside = {row.split(" (")[0]: value for (row, _), value in shown["tan2020-i"].published.items()}
    printed = table("tan2020", "I")
    assert {net: beside[net] for net in printed.rows} == {net: printed.rate(net, "MNIST") for net in printed.rows}


def test_a_figure_of_ours_is_of_the_network_and_the_attack_that_its_place_says(study: Study) -> None:
    found = tables(study)
    (row,) = (r for r in found["tan2020-iia"].rows if r.startswith("BSN-4"))
    for col, attack, size in (("BIM", "BIM", 32 / 255), ("ModCWL2", "ModCW", None), ("Boundary", "Boundary", None)):
        attacked, clean = found["tan2020-iia"].entries[row, col].evaluations
        assert [s.on.on for s in attacked] == [s.on for s in clean][: len(attacked)]
        assert {(type(s.on.attack).__name__, s.on.threat.eps) for s in attacked} == {(attack, size)}
        assert {s.target for s in attacked} == {s.target for s in clean} == set(attacked[0].on.sources)
    for word, eps in RADII.items():
        assert found["tan2020-xa"].entries[row, word].evaluations[0][0].on.threat.eps == eps
    for c in ("0.01", "0.1", "1", "10"):
        (craft, *_) = (s.on for s in found["tan2020-xia"].entries["BSN-4, ModCWL2", f"c {c}"].evaluations[0])
        assert craft.attack.c0 == float(c) and craft.attack.search == 1


def test_attacks_are_the_papers() -> None:
    """§III-B: BIM of 100 steps of .05; C&W searches for c on deterministic networks only, c = 10 on random ones."""
    for name in (*FIXED, *RANDOM):
        full = assaults(name, True)
        assert all(m.attack.steps == 100 and m.attack.step == 0.05 for w, m in full.items() if w.startswith("BIM"))
        for word in ("CWL2", "ModCWL2"):
            attack, seen = full[word].attack, full[word].access.estimator
            random = name in RANDOM
            assert (attack.search, attack.c0, attack.steps) == ((1, 10.0, 1000) if random else (5, 0.01, 1000))
            assert seen.average == "logits" and seen.draws == (10 if random else 1)
            assert (f"{word}, c 0.01" in full) == random
        assert isinstance(full["Boundary"].access, Decisions) and full["Boundary"].access.policy.draws == 10
    assert full["ModCWL2"].attack.copies == 5
    assert tuple(assaults(LATCH, True)) == IN_BALL


def test_the_claims_compare_what_their_sentences_say(study: Study) -> None:
    told = claims()
    assert tuple(told) == CLAIMS == tuple(item.id for item in study.items if isinstance(item, Check))
    assert told["t02"][0] == "BNN-D is at least as fragile as ResNet18 under BIM, and at 8/255 more so at lower L2"
    assert {p.one[0] for p in told["t04"][1]} == set(RANDOM)
    assert all(p.one[1] == ("BIM 32/255",) and p.other[1] == ("CWL2",) for p in told["t04"][1])
    assert [p.one[1] for p in told["t05"][1]] == [("ModCWL2",)] * 7 and told["t05"][2] == 2
    shorter = [p for p in told["t14"][1] if p.kind == "shorter"]
    assert shorter and all(p.one[1] == ("ModCWL2",) and p.other[1] == ("ModCWL2, c 0.01",) for p in shorter)


def test_both_sides_of_a_comparison_are_judged_on_the_same_images(study: Study) -> None:
    for item in study.items:
        if isinstance(item, Check):
            fold, found = item.evidence.fold, item.evidence.evaluations
            assert isinstance(fold, Leads) and item.limit == 0 and item.side == "above"
            size = 2 * (fold.of + 1)
            for i in range(0, len(found), size):
                images = {tuple(score.examples for score in one) for one in found[i : i + size]}
                assert len(images) == 1
                for side in (found[i : i + size // 2], found[i + size // 2 : i + size]):
                    assert all(isinstance(s.on, Craft) for one in side[:-1] for s in one)
                    assert not any(isinstance(s.on, Craft) for s in side[-1])
                    assert len({s.target for one in side for s in one}) == 1


def test_the_committed_checks_ask_what_is_claimed(study: Study) -> None:
    stored = json.loads(FILE.read_text(encoding="utf-8"))
    asked = [(c["id"], c["question"]) for c in stored["checks"]]
    assert asked == [(id, words) for id, (words, _, _) in claims().items()]
    assert all(isinstance(s, Score) for s in study.needs())
