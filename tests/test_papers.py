"""The papers' studies can be described at every scale, and every published number has its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from robassay.adopt import adopt
from robassay.cell import with_needs
from robassay.cells import Examples, Score
from robassay.converted import Convert
from robassay.data import find
from robassay.errors import UsageError
from robassay.models import Learn, Train
from robassay.nets.cw_mnist import CWMnist
from robassay.papers import study_of
from robassay.papers.published import PAPERS as FIVE_PRINTED
from robassay.papers.spiking import AGREEMENT, spiking_families
from robassay.papers.subjects import M
from robassay.rules import LeakyTrace
from robassay.run import carry_out
from robassay.store import Store
from robassay.studies import FIVE, PAPERS, listing, load_study, members, together
from robassay.study import Check, Curves, Study, Table

RESULTS = Path(__file__).parent.parent / "results"
ALONE = [name for name in PAPERS if not members(name)]


def tables(study: Study) -> list[Table]:
    return [item for item in study.items if isinstance(item, Table)]


@pytest.mark.data
@pytest.mark.parametrize("name", ALONE)
def test_a_study_is_described_at_both_scales_and_they_share_no_training(name: str) -> None:
    short, whole = (study_of(name, scale, None) for scale in ("small", "full"))
    keys = [{c.key for c in with_needs(s.needs()) if isinstance(c, (Train, Learn))} for s in (short, whole)]
    common = keys[0] & keys[1]
    short_as_published = 2 if name == "tan2020" else 1  # BSN-2, MC-SEFRON
    assert keys[0] and keys[1] and len(common) <= short_as_published
    assert short.scale == "small" and whole.scale == "full"


@pytest.mark.parametrize("name", members("papers"))
def test_a_paper_at_smoke_asks_for_digits_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Described without a file of data, with the same items; that it runs is each paper's own test."""
    monkeypatch.delenv("ROBASSAY_DATA", raising=False)
    study = load_study(name, "smoke", None)
    assert study.scale == "smoke" and study.needs()
    assert {one["name"] for one in study.freeze()["data"]} == {"digits"}


@pytest.mark.data
@pytest.mark.parametrize("name", members("papers"))
def test_smoke_and_small_judge_the_same_claims(name: str) -> None:
    smoke, small = (load_study(name, scale, None) for scale in ("smoke", "small"))
    assert [i.id for i in smoke.items if isinstance(i, Check)] == [i.id for i in small.items if isinstance(i, Check)]


@pytest.mark.data
@pytest.mark.parametrize("name", [name for name in PAPERS if name not in members("papers") and name != "papers"])
def test_the_other_studies_say_that_they_have_no_smoke(name: str) -> None:
    with pytest.raises(UsageError, match=r"smoke.* Write small or full"):
        load_study(name, "smoke", None)


# ------------------------------------------------------------------------------------------------------ groups of them


def test_the_five_papers_are_listed_first_and_each_study_once() -> None:
    assert FIVE == FIVE_PRINTED
    names = [entry["name"] for entry in listing("papers")]
    assert sorted(names) == sorted(PAPERS) and names[: len(members("papers"))] == list(members("papers"))
    assert members("papers") and set(members("papers")) <= set(FIVE) and not members("tan2020")


@pytest.mark.data
@pytest.mark.parametrize("name", ["papers", "protocols"])
def test_a_group_asks_for_what_its_studies_ask_for(name: str) -> None:
    parts = [load_study(one, "small", None) for one in members(name)]
    whole = load_study(name, "small", None)
    assert {c.key for c in whole.needs()} == {c.key for part in parts for c in part.needs()}
    assert len(whole.items) == sum(len(part.items) for part in parts)
    assert "protocols" not in members(name) and whole.name == name and whole.scale == "small"


def test_items_are_called_after_their_study_only_where_ids_collide() -> None:
    one, other = (Table(id, id, ("r",), ("c",), {}) for id in ("t1", "t2"))
    whole = together("papers", {"a": Study("a", "A", (one,)), "b": Study("b", "B", (one, other))}, "smoke")
    assert [item.id for item in whole.items] == ["a-t1", "b-t1", "t2"]
    assert [item.caption for item in whole.items if isinstance(item, Table)] == ["t1", "t1", "t2"]
    assert whole.scale == "smoke" and whole.command == "robassay run papers --scale smoke"


# ------------------------------------------------------------------------------------------------------------- results


@pytest.mark.data
@pytest.mark.parametrize("name", [name for name in PAPERS if (RESULTS / "small" / f"{name}.json").is_file()])
def test_committed_numbers_are_of_todays_cells(name: str) -> None:
    """Tables, curves and checks: the same ones, row by row and point by point from the same cells."""
    told = json.loads((RESULTS / "small" / f"{name}.json").read_text(encoding="utf-8"))
    study = study_of(name, "small", None)
    stored = {one["id"]: one for one in told["tables"]}
    assert list(stored) == [item.id for item in tables(study)]
    for item in tables(study):
        old = stored[item.id]
        assert (old["rows"], old["cols"]) == (list(item.rows), list(item.cols))
        found = {(r, c): e for r, line in zip(item.rows, old["cells"], strict=True)
                 for c, e in zip(item.cols, line, strict=True)}  # fmt: skip
        for cell, entry in found.items():
            measure = item.entries.get(cell)
            keys = [score.key for score in measure.needs()] if measure else []
            assert (entry["keys"] if entry else []) == keys, (item.id, cell)
    figures = {one["id"]: one for one in told["figures"]}
    for curves in (item for item in study.items if isinstance(item, Curves)):
        points = {line["name"]: [p["keys"] for p in line["points"]] for line in figures[curves.id]["series"]}
        assert points == {n: [[s.key for s in m.needs()] for m in line] for n, line in curves.series.items()}
    assert [one["id"] for one in told["checks"]] == [item.id for item in study.items if isinstance(item, Check)]


@pytest.mark.data
def test_published_accuracies_stand_in_the_rows_they_belong_to() -> None:
    """Tan et al., Table I, and Ge et al., Table 2 (one minus the error)."""
    found = {}
    for name in ("networks-tan", "networks-ge"):
        for table in tables(study_of(name, "full", None)):
            found |= {row.split(" (")[0]: round(value, 4) for (row, _), value in table.published.items()}
    assert {row: found[row] for row in ("BSN-2", "BSN-4", "BSN-L", "BNN-D", "BNN-S")} == {
        "BSN-2": 0.962,
        "BSN-4": 0.972,
        "BSN-L": 0.99,
        "BNN-D": 0.989,
        "BNN-S": 0.967,
    }
    errors = {"Standard": 0.77, "Dropout": 0.67, "Distillation": 0.78, "RS-1": 0.88, "RS-1-Dropout": 0.71}
    errors |= {"RS-1-Adv": 0.98, "Dropout-Adv": 0.69}
    assert {row: round(100 * (1 - found[row]), 2) for row in errors} == errors


@pytest.mark.data
def test_committed_weights_fit_todays_cells_and_are_what_the_results_say(tmp_path: Path) -> None:
    """A changed default would leave them under keys that nothing asks for. The first 500 images are judged anew."""
    some, papers = (load_study(name, "small", None) for name in (str(RESULTS / "committed.py"), "papers"))
    store = Store(tmp_path / "store")
    done = adopt([*some.needs(), *papers.needs()], store, RESULTS / "weights")
    assert len(done.taken) >= 25 and not done.unasked
    assert sum(file.stat().st_size for file in (RESULTS / "weights").iterdir()) < 21e6
    net = next(c for c in with_needs(some.needs()) if isinstance(c, Train) and isinstance(c.net, CWMnist))
    assert net.key in done.taken
    one = Score(net, Examples(net.data, "test", 0, 500))
    assert not carry_out([one], store, 0, silent=True).failed
    found = store.read(one.key)
    assert (found["decisions"][0] == found["labels"]).mean() > 0.985


def test_the_ablation_is_the_papers() -> None:
    """Eustratiadis et al., Table 5: which of the two terms, on a diagonal or a full covariance."""
    assert {n: (m.covariance, m.entropy > 0, m.wca > 0) for n, m in M.items()} == {
        "m1": ("diagonal", True, False),
        "m2": ("diagonal", False, True),
        "m3": ("full", True, False),
        "m4": ("full", False, True),
        "m5": ("full", True, True),
    }


@pytest.mark.data
def test_the_spiking_networks_are_the_papers() -> None:
    """Sharmin et al. 2019, §IV: clean accuracy on CIFAR-10 of the network of ReLU, SNN-I and SNN-II; what is short."""
    (table,) = tables(study_of("networks-s-cifar10", "full", None))
    published = {row.split(" (")[0]: value for (row, _), value in table.published.items()}
    assert published == {
        "VGG9, ReLU": 0.895,
        "VGG9, converted": 0.856,
        "VGG9, spike-based back-propagation": 0.871,
    }
    for name, shape in (("mnist", 1), ("cifar10", 3)):
        nine, five = spiking_families(find(name, None), "small")
        trained = [family.spiking[1].model for family in (nine, five)]
        assert all(isinstance(m, Train) and m.limit == 10_000 and m.net.spikes.steps <= 25 for m in trained)
        assert five.spiking[1].model.begin.of == five.relu.model and nine.spiking[1].model.begin is None
        for family in (nine, five):
            converted = family.converted.model
            assert isinstance(converted, Convert) and converted.of == family.relu.model
            assert converted.spikes.steps == 2000 and converted.spikes.leak == 1 and family.images[1] == 500
            assert converted.data.shape[0] == shape
    assert nine.spiking[1].model.net.spikes.rule == LeakyTrace() and five.spiking[1].model.net.spikes.delay


@pytest.mark.data
def test_a_converted_network_is_compared_on_the_images_it_is_judged_on() -> None:
    (table,) = tables(study_of("networks-s", "small", None))
    compared = [m for (_, column), m in table.entries.items() if column == AGREEMENT]
    assert len(compared) == 4
    for measure in compared:
        one, other = measure.evaluations
        assert [s.on for s in one] == [s.on for s in other] and one[0].target != other[0].target
