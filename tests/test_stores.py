"""The commands about stores: status, verify, gc; and that a check which finds nothing would have found something."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from robassay import cli, marks
from robassay.errors import RobassayError
from robassay.recheck import recheck, sample
from robassay.run.worker import compute, forget
from robassay.standing import stored
from robassay.store import Store
from robassay.tidy import litter

HERE = Path(__file__).parent
STUDY = """
import sys
sys.path.insert(0, {here!r})
import robassay as ra
from robassay.access import White
from robassay.attacks.gradient import FGSM
from robassay.nets.mlp import MLP
from robassay.training import Recipe

def study(scale):
    data = ra.find("digits")
    on = ra.Examples(data, "test", 0, 40)
    model = ra.Train(MLP((8,)), data, Recipe(epochs=1))
    bad = ra.Train(MLP((8,)), data, Recipe(epochs=1, lr=1e30))
    clean = ra.Measure(((ra.Score(model, on),),), ra.Accuracy())
    craft = ra.Craft((model,), on, FGSM(), ra.Threat("linf", 0.1), White())
    hit = ra.Measure(((ra.Score(model, craft),),), ra.Accuracy())
    lost = ra.Measure(((ra.Score(bad, on),),), ra.Accuracy())
    table = ra.Table("t", "T", ("mlp",), ("clean", "fgsm"), {{("mlp", "clean"): clean, ("mlp", "fgsm"): hit}})
    broken = ra.Table("b", "B", ("bad",), ("clean",), {{("bad", "clean"): lost}})
    return ra.Study("tiny", "Tiny", (table, broken) if scale == "full" else (table,), scale=scale)
"""


def invoke(monkeypatch, capsys, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["robassay", *words])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    out, err = capsys.readouterr()
    assert "Traceback" not in err, err
    return int(stop.value.code or 0), out, err


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study file, and a store in which it has been carried out."""
    folder = tmp_path_factory.mktemp("stores")
    file = folder / "tiny.py"
    file.write_text(STUDY.format(here=str(HERE)))
    from robassay.run import carry_out
    from robassay.studies import load_study

    study = load_study(str(file), "small", None)
    store = Store(folder / "s")
    store.save_study(study.name, study.freeze())
    assert len(carry_out(study.needs(), store, 0, quiet=True).computed) == 4
    return str(file), store, study


@pytest.fixture
def mine(whole, tmp_path):
    file, store, study = whole
    shutil.copytree(store.root, tmp_path / "s")
    forget()
    return file, Store(tmp_path / "s"), study


def damage(store: Store, key: str) -> None:
    file = store.folder(key) / "out.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)


def test_status_names_what_failed_what_that_blocks_and_how_to_go_on(mine, monkeypatch, capsys):
    file, store, _ = mine
    root = str(store.root)
    code, _, err = invoke(
        monkeypatch, capsys, "run", file, "--scale", "full", "--store", root, "--workers", "0", "--quiet"
    )
    assert code == 1 and "1 cells failed, and 1 that need them" in err and "run the same command again" in err
    code, out, _ = invoke(monkeypatch, capsys, "status", file, "--scale", "full", "--store", root)
    assert code == 0 and "4 of 6 cells done, 2 to compute" in out
    assert "failed: train mlp on digits" in out and "the loss became" in out
    assert "blocked: 1 that need train mlp on digits" in out
    assert f"go on with: robassay run {file} --scale full --store {root}" in out
    told = json.loads(invoke(monkeypatch, capsys, "status", file, "--scale", "full", "--store", root, "--json")[1])
    assert len(told["failed"]) == len(told["blocked"]) == 1 and told["done"] == 4 and told["todo"] == 2


def test_status_of_a_store_needs_no_study(mine, monkeypatch, capsys):
    _, store, study = mine
    code, out, _ = invoke(monkeypatch, capsys, "status", "--store", str(store.root))
    assert code == 0 and "tiny: Tiny: 4 of 4 cells done" in out and "go on" not in out
    store.set_aside(study.needs()[0].key)
    out = invoke(monkeypatch, capsys, "status", "--store", str(store.root))[1]
    assert "3 of 4 cells done, 1 to compute" in out and "go on with" in out


def test_verify_computes_the_same_bits_again(mine, monkeypatch, capsys):
    file, store, _ = mine
    code, out, _ = invoke(monkeypatch, capsys, "verify", file, "--store", str(store.root), "--sample", "9")
    assert code == 0 and "4 finished cells read, 0 damaged" in out and "4 equal" in out and out.count("equal ") >= 4
    assert not list((store.root / "scratch").glob("*")), "verifying left something behind"


def test_verify_finds_damage_and_results_that_another_code_has_made(mine, monkeypatch, capsys):
    file, store, study = mine
    first, second = study.needs()[:2]
    damage(store, first.key)
    about, arrays = store.about(second.key), store.read(second.key)
    store.set_aside(second.key)
    arrays["decisions"][0, 0] += 1
    store.write(second.key, about, arrays, "")  # sealed, and wrong
    words = ("verify", file, "--store", str(store.root), "--sample", "9")
    code, out, _ = invoke(monkeypatch, capsys, *words, "--set-aside")
    assert code == 1 and "1 damaged" in out and "1 differs" in out and "in decisions" in out and "2 equal" in out
    assert not store.has(first.key) and not store.has(second.key)
    run = ("run", file, "--store", str(store.root), "--workers", "0", "--quiet")
    assert invoke(monkeypatch, capsys, *run)[0] == 0
    assert invoke(monkeypatch, capsys, *words)[0] == 0


def test_bits_from_another_machine_may_differ(mine):
    _, store, study = mine
    cell = study.needs()[0]
    about, arrays = store.about(cell.key), store.read(cell.key)
    store.set_aside(cell.key)
    arrays["decisions"][0, 0] += 1
    store.write(cell.key, {**about, "machine": "cpu of a friend"}, arrays, "")
    assert recheck(cell, store).result == "elsewhere"


def test_a_sample_is_drawn_by_its_seed_from_what_can_be_computed(mine):
    _, store, study = mine
    from robassay.cell import with_needs

    cells = with_needs(study.needs())
    assert sample(cells, store, 2, 0) == sample(cells[::-1], store, 2, 0)
    assert len({tuple(c.key for c in sample(cells, store, 2, seed)) for seed in range(20)}) > 5
    assert len(sample(cells, store, 99, 0)) == 4
    store.set_aside(cells[0].key)  # the network, which all others need
    assert sample(cells, store, 99, 0) == []


def test_gc_shows_first_and_deletes_nothing_a_study_asks_for(mine, monkeypatch, capsys):
    import torch

    from robassay.registry import load_file

    _, store, study = mine
    toy = load_file(HERE / "toy_study.py")
    stray, running = toy.Number(1), toy.Number(2)
    for cell in (stray, running):
        compute(cell, store, torch.device("cpu"))
    half = store.folder(stray.key).parent / f".{stray.key}-abc"
    half.mkdir()
    (half / "out.safetensors").write_bytes(b"x" * 1000)
    (store.root / "studies" / ".tiny.json.1-2").write_text("x")
    store.fail(stray.key, "old", "")
    marks.leave(store.scratch(running.key))
    kept = {c.key for c in study.needs()}
    before = store.done()
    code, out, _ = invoke(monkeypatch, capsys, "gc", "--store", str(store.root))
    assert code == 0 and "Nothing was deleted" in out and "--yes" in out and store.done() == before and half.exists()
    assert len(litter(store)) == 4
    assert f"cells/{stray.key[:2]}/{stray.key}" in out and running.key not in out
    code, out, _ = invoke(monkeypatch, capsys, "gc", "--store", str(store.root), "--yes")
    assert code == 0 and "deleted 4" in out and not half.exists()
    assert kept <= store.done() == before - {stray.key}
    (store.root / "scratch" / running.key / marks.MARK).unlink()
    invoke(monkeypatch, capsys, "gc", "--store", str(store.root), "--yes")
    assert (
        running.key not in store.done()
        and "nothing to delete" in invoke(monkeypatch, capsys, "gc", "--store", str(store.root))[1]
    )


def test_gc_keeps_the_scratch_of_what_is_to_go_on(mine):
    _, store, study = mine
    key = study.needs()[0].key
    store.set_aside(key)
    shutil.rmtree(store.root / "damaged")
    (store.scratch(key) / "checkpoint.pt").write_bytes(b"x")
    assert litter(store) == []


def test_gc_does_nothing_where_it_cannot_know_what_is_asked_for(mine, monkeypatch, capsys):
    _, store, _ = mine
    os.truncate(store.root / "studies" / "tiny.json", 100)
    code, _, err = invoke(monkeypatch, capsys, "gc", "--store", str(store.root), "--yes")
    assert code == 1 and "damaged" in err and "Run the study again" in err and len(store.done()) == 4


def test_a_run_mends_its_study_and_what_it_shows(mine, monkeypatch, capsys):
    file, store, study = mine
    for one in study.needs():
        damage(store, one.key)
    os.truncate(store.root / "studies" / "tiny.json", 100)
    code, _, err = invoke(monkeypatch, capsys, "run", file, "--store", str(store.root), "--workers", "0", "--quiet")
    assert code == 0 and err.count("is damaged") == 2
    assert (store.root / "reports" / "tiny.html").is_file()
    assert invoke(monkeypatch, capsys, "report", str(store.root))[0] == 0


def test_verify_computes_the_cell_again_that_a_report_names(mine, monkeypatch, capsys):
    file, store, _ = mine
    key = sorted(store.done())[0]
    code, out, _ = invoke(monkeypatch, capsys, "verify", file, "--store", str(store.root), "--cell", key)
    assert code == 0 and "computing 1 again" in out and key in out and "1 equal" in out
    code, _, err = invoke(monkeypatch, capsys, "verify", file, "--store", str(store.root), "--cell", "0" * 16)
    assert code == 2 and "no whole cell of that key" in err


@pytest.mark.parametrize("change", [{"needs": None}, {"needs": [1]}, {"needs": {"a": 1}}, {"behind": "0123"}])
def test_a_study_whose_cells_are_no_list_is_damaged_and_says_so(tmp_path: Path, change: dict[str, Any]) -> None:
    """Sealed, so that only its form tells: as another program, or another version, might write it."""
    store = Store(tmp_path / "store")
    store.save_study("s", {"name": "s", "needs": [], **change})
    with pytest.raises(RobassayError, match=r"is damaged .*no list of cells.* Run the study again"):
        store.study("s")
    with pytest.raises(RobassayError, match="is damaged"):
        stored(store)
