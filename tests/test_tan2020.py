"""Tan et al. 2020: every published figure has its place, the claims compare what they say, tiny networks go through all
of it, and the committed numbers are of today's cells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import robassay.papers.tan_settings as module
from robassay.access import Decisions
from robassay.cells import Craft, Score
from robassay.clouds import Cloud
from robassay.data import find
from robassay.document import Document
from robassay.errors import UsageError
from robassay.leads import Boxes, Leads, Passed
from robassay.papers.published import table
from robassay.papers.tan2020 import tan2020
from robassay.papers.tan_claims import flat, white_claims
from robassay.papers.tan_settings import FIXED, FULL, LATCH, NAMES, RANDOM, WHOLE, Setting
from robassay.papers.victims import IN_BALL, OFFERED, RADII, assaults
from robassay.report import render
from robassay.run import carry_out
from robassay.store import Store
from robassay.study import Audit, Check, Gallery, Study, Table

FILE = Path(__file__).parents[1] / "results" / "small" / "tan2020.json"
IDS = [
    "t01", "t01-union", "t02", "t02-union", "t03", "t03-union", "t04", "t04-union", "t05", "t06", "t06-union", "t07",
    "t08", "t08-union", "t09", "t10", "t10-union", "t11", "t11-union", "t12", "t12-union", "t13", "t14", "t15",
    "t15-union", "t16",
]  # fmt: skip
PRINTED = {"I": 23, "IIa": 92, "IIb": 92, "III": 24, "IV": 18, "Xa": 69, "Xb": 69, "XIa": 96, "XIb": 95}


@pytest.fixture(scope="module")
def study() -> Study:
    return tan2020("smoke", None)


def tables(study: Study) -> dict[str, Table]:
    return {item.id: item for item in study.items if isinstance(item, Table)}


def place(id: str, data: str) -> str:
    end = "" if data == "MNIST" else f"-{data.lower()}"
    return f"tan2020-{id}".lower() + end


def test_every_printed_figure_stands_once_beside_its_network_and_attack(study: Study) -> None:
    shown, count = tables(study), dict.fromkeys(PRINTED, 0)
    for id in ("IIa", "IIb", "Xa", "Xb"):
        printed = table("tan2020", id)
        for (row, net), figure in printed.figures.items():
            data, attack = row.split(", ")
            ours = shown[place(id, data)]
            (name,) = (one for one in ours.rows if one.split(" (")[0] == net)
            assert ours.published[name, attack] == figure.value
            count[id] += 1
        for data in NAMES:
            ours, own = shown[place(id, data)], sum(row.startswith(data) for row in printed.rows)
            assert len(ours.published) == len([key for key in printed.figures if key[0].startswith(data)])
            assert len(ours.cols) >= own
    for id in ("XIa", "XIb"):
        for (row, net), figure in table("tan2020", id).figures.items():
            data, constant = row.split(", ")
            assert shown[place(id, data)].published[net, constant] == figure.value
            count[id] += 1
        assert sum(len(shown[place(id, data)].published) for data in NAMES) == count[id]
    for id in ("III", "IV"):
        figures = table("tan2020", id).figures
        assert shown[place(id, "MNIST")].published == {cell: figure.value for cell, figure in figures.items()}
        count[id] = len(figures)
    for (net, data), figure in table("tan2020", "I").figures.items():
        ours = shown[place("I", data)]
        if data == "PCam":  # nothing of it is run here, nor trained for digits
            assert figure.value in [v for (row, _), v in ours.published.items() if row == net]
        count["I"] += 1
    assert count == PRINTED


@pytest.mark.data
@pytest.mark.parametrize("scale", ["small", "full"])
def test_accuracies_have_theirs_and_what_is_not_run_says_why(scale: str) -> None:
    found = tables(tan2020(scale, None))
    for (net, data), figure in table("tan2020", "I").figures.items():
        ours = found[place("I", data)].published
        assert {value for (row, _), value in ours.items() if row.split(" (")[0] == net} == {figure.value}
    for id in ("IIa", "Xb", "XIa"):
        for data in NAMES:
            one = found[place(id, data)]
            assert {(row, col) for row in one.rows for col in one.cols} >= set(one.absent)
            assert not set(one.published) - set(one.absent) - set(one.entries), "no figure without ours or a reason"
    reasons = {why for one in found.values() for why in one.absent.values()}
    assert (WHOLE in reasons) == (scale == "small") and any("--data-dir" in why for why in reasons)


def test_a_figure_of_ours_is_of_the_network_and_the_attack_that_its_place_says(study: Study) -> None:
    found = tables(study)
    (row,) = (r for r in found["tan2020-iia"].rows if r.startswith("BSN-2"))
    for col, attack, size in (
        ("BIM", "BIM", 32 / 255),
        ("ModCWL2", "ModCW", None),
        (OFFERED, "ModCW", None),
        ("Boundary", "Boundary", None),
    ):
        attacked, clean = found["tan2020-iia"].entries[row, col].evaluations
        assert [s.on.on for s in attacked] == [s.on for s in clean][: len(attacked)]
        assert {(type(s.on.attack).__name__, s.on.threat.eps) for s in attacked} == {(attack, size)}
        assert {s.target for s in attacked} == {s.target for s in clean} == set(attacked[0].on.sources)
    for word, eps in RADII.items():
        assert found["tan2020-xa"].entries[row, word].evaluations[0][0].on.threat.eps == eps
    for c in ("0.01", "0.1", "1", "10"):
        for kind, offered in (("ModCWL2", False), (OFFERED, True)):
            (craft, *_) = (s.on for s in found["tan2020-xia"].entries[f"BSN-2, {kind}", f"c {c}"].evaluations[0])
            assert craft.attack.c0 == float(c) and craft.attack.search == 1 and craft.attack.offered == offered
    third = found["tan2020-iii"].entries["BIM 16/255", "BSN-L"].evaluations
    assert all(s.on.threat.eps == 16 / 255 and s.target != s.on.sources[0] for s in third[0])
    assert all(s.target == s.on.sources[0] for s in third[2]), "the gate is the network that was attacked"


def test_attacks_are_the_papers() -> None:
    """§III-B: BIM of 100 steps of .05; C&W searches for c on deterministic networks only, c = 10 on random ones."""
    published = Setting("MNIST", find("digits"), {}, FULL, full=True)
    for name in (*FIXED, *RANDOM):
        full = assaults(name, published)
        assert all(m.attack.steps == 100 and m.attack.step == 0.05 for w, m in full.items() if w.startswith("BIM"))
        for word in ("CWL2", "ModCWL2", OFFERED):
            attack, seen = full[word].attack, full[word].access.estimator
            random = name in RANDOM
            assert (attack.search, attack.c0, attack.steps) == ((1, 10.0, 1000) if random else (5, 0.01, 1000))
            assert seen.average == "logits" and seen.draws == (10 if random else 1)
            assert (f"{word}, c 0.01" in full) == random
        assert isinstance(full["Boundary"].access, Decisions) and full["Boundary"].access.policy.draws == 10
    assert full["ModCWL2"].attack.copies == 5
    assert tuple(assaults(LATCH, published)) == IN_BALL


def test_the_claims_compare_what_their_sentences_say(study: Study) -> None:
    assert [item.id for item in study.items if isinstance(item, Check)] == IDS
    known = module.settings("smoke", None)["MNIST"]
    from robassay.papers.victims import victim

    told = white_claims(flat({"MNIST": {name: victim(name, known) for name in known.nets}}))
    assert told["t02"][0] == "BNN-D is at least as fragile as ResNet18 under BIM, and at 8/255 more so at lower L2"
    assert {p.one[0] for p in told["t04"][1]} == set(RANDOM)
    assert all(p.one[1] == ("BIM 32/255",) and p.other[1] == ("CWL2",) for p in told["t04"][1])
    assert [p.one[1] for p in told["t05"][1]] == [("ModCWL2",)] * 8
    shorter = [p for p in told["t14"][1] if p.kind == "shorter"]
    assert shorter and all(p.one[1] == (OFFERED,) and p.other[1] == (f"{OFFERED}, c 0.01",) for p in shorter)


def test_both_sides_of_a_comparison_are_judged_on_the_same_images(study: Study) -> None:
    kinds = set()
    for item in (item for item in study.items if isinstance(item, Check)):
        fold, found = item.evidence.fold, item.evidence.evaluations
        assert item.limit == 0 and item.side == "above"
        kinds.add(type(fold))
        size = 2 * (fold.of + 1) if isinstance(fold, Leads) else 8 if isinstance(fold, Passed) else 3
        for i in range(0, len(found), size) if not isinstance(found[0][0], Cloud) else ():
            four = found[i : i + size]
            assert len({tuple(score.examples for score in one) for one in four}) == 1, item.id
            if isinstance(fold, Leads):
                for side in (four[: size // 2], four[size // 2 :]):
                    assert all(isinstance(s.on, Craft) for one in side[:-1] for s in one)
                    assert not any(isinstance(s.on, Craft) for s in side[-1])
                    assert len({s.target for one in side for s in one}) == 1
            if isinstance(fold, Passed):
                for target, clean, gate, its in (four[:4], four[4:]):
                    assert [s.on for s in target] == [s.on for s in gate], "one attack, two networks"
                    assert {s.target for s in gate} == {s.on.sources[0] for s in gate} != {s.target for s in target}
                    for attacked, calm in ((target, clean), (gate, its)):
                        assert {s.target for s in attacked} == {s.target for s in calm}
                        assert [s.examples for s in attacked] == [s.on for s in calm]
            if isinstance(fold, Boxes):
                average, single, clean = four
                assert [s.on for s in average] == [s.on for s in single] and average[0].policy.draws == 10
                assert single[0].policy.draws == 1 and not any(isinstance(s.on, Craft) for s in clean)
    assert {Leads, Passed, Boxes} < kinds


def test_the_audit_claims_the_papers_own_attack(study: Study) -> None:
    (audit,) = (item for item in study.items if isinstance(item, Audit))
    craft = audit.claimed[0].on
    assert (craft.attack.step, craft.attack.early, craft.threat.eps) == (0.05, True, 32 / 255)
    assert craft.access.estimator.draws == 10 and craft.access.estimator.average == "logits"
    assert audit.battery and audit.finalists


@pytest.mark.data
def test_without_cifar_nothing_is_shortened(monkeypatch) -> None:
    whole = tan2020("small", None)
    monkeypatch.setattr(module, "at_hand", lambda name, folder: None)
    short = tan2020("small", None)
    assert [i.id for i in short.items if isinstance(i, Check)] == IDS
    words = {i.id: i.question for i in short.items if isinstance(i, Check)}
    assert all("no data here: robassay run tan2020" in words[id] for id in ("t07", "t08", "t08-union"))
    for id, one in tables(whole).items():
        if (id.endswith("-cifar-10") and "fig" not in id) or id == "tan2020-iii":
            other = tables(short)[id]
            assert other.published.values() and sorted(other.published.values()) == sorted(one.published.values()), id
            assert not other.entries and len(other.absent) >= len(other.published)


def test_unknown_scales_are_named() -> None:
    with pytest.raises(UsageError, match="smoke, small, full"):
        tan2020("tiny", None)


def test_tiny_networks_go_through_all_of_it(study: Study, tmp_path) -> None:
    """Every item at "smoke", from nothing to the page. 20 seconds of one core: nine networks are trained and meet
    eight attacks each, eight substitutes, six mixtures and an audit."""
    store = Store(tmp_path)
    assert not carry_out(study.needs(), store, 0, silent=True).failed
    found = Document(study.freeze(), store).whole()
    assert found["provenance"]["missing"] == 0 and found["scale"] == "smoke"
    assert [c["id"] for c in found["checks"]] == IDS and len(found["audits"]) == 1
    for one in found["tables"]:
        cells = [cell for line in one["cells"] for cell in line if cell is not None]
        assert all(cell["keys"] or "absent" in cell or cell["published"] is not None for cell in cells), one["id"]
    assert {one["kind"] for one in found["drawings"]} == {"scatter", "plane"} and len(found["drawings"]) == 8
    galleries = [item for item in study.items if isinstance(item, Gallery)]
    assert len(found["galleries"]) == len(galleries) > 20
    assert "tan2020" not in render({**found, "galleries": []}).split("</title>")[0]


@pytest.mark.data
def test_the_committed_checks_ask_what_is_claimed() -> None:
    stored = json.loads(FILE.read_text(encoding="utf-8"))
    study = tan2020("small", None)
    asked = [(c["id"], c["question"]) for c in stored["checks"]]
    assert asked == [(item.id, item.question) for item in study.items if isinstance(item, Check)]
    assert all(isinstance(s, (Score, Cloud)) for item in study.items if isinstance(item, Check) for s in item.needs())
