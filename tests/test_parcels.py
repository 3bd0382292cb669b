"""What travels to a worker that shares no file system with the driver: everything by content, nothing by trust."""

from __future__ import annotations

import os
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import robassay as ra
from robassay import data
from robassay.cell import Cell
from robassay.errors import Unwritable
from robassay.given import given
from robassay.images import SPLITS
from robassay.registry import USER_PREFIX, carried, here, load_file, loaded_files, receive
from robassay.run import parcels
from robassay.run.parcels import Answer, Parcel, accept, answer, beacon, goods, luggage, versions
from robassay.run.worker import compute, forget
from robassay.store import Store

toy = load_file(Path(__file__).parent / "toy_study.py")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _machine(tmp_path, monkeypatch):
    """A machine of its own: a temporary folder, nothing handed over yet."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(parcels, "_unpacked", set())
    monkeypatch.setattr(data, "_lent", {})
    monkeypatch.setattr("robassay.registry._copies", {})
    forget()


def parcel(cells: list[Cell], store: Store, handed: dict | None = None, **changed) -> Parcel:
    pickled = tuple(pickle.dumps(c) for c in cells)
    files = tuple(carried(f) for one in pickled for f in loaded_files(one) if "toy_study" in f)
    made = Parcel(pickled, files, str(store.root.resolve()), "abc", "cpu", versions(), handed or {}, 1.0)
    return made._replace(**changed)


def share(store: Store) -> Store:
    file = beacon(store.root, "abc")
    file.parent.mkdir(exist_ok=True)
    file.write_text("abc")
    return store


def chain(length: int) -> list:
    cells: list = []
    for i in range(length):
        cells.append(toy.Number(i, 0.0, tuple(cells[-1:])))
    return cells


def no_fetch(handle):
    raise AssertionError("nothing had to be fetched")


def test_where_the_store_is_seen_results_go_there_and_nothing_travels(tmp_path):
    store, cells = share(Store(tmp_path / "s")), chain(2)
    found = answer(parcel(cells, store), no_fetch)
    assert [d.error for d in found.done] == [None, None] and not found.results and not found.lacks
    assert store.done() == {c.key for c in cells}


def test_what_was_saved_is_not_computed_again(tmp_path, monkeypatch):
    store, (cell,) = share(Store(tmp_path / "s")), chain(1)
    compute(cell, store, CPU)
    monkeypatch.setenv("TOY_TRACE", str(tmp_path / "trace"))
    found = answer(parcel([cell], store), no_fetch)
    assert found.done[0].error is None and found.done[0].seconds == 0
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("beside", ["nothing", "another store at the same path"])
def test_where_the_store_is_not_seen_cells_travel_both_ways_with_the_same_bytes(tmp_path, beside):
    ours, whole = Store(tmp_path / "s"), Store(tmp_path / "whole")
    cells = chain(3)
    for cell in cells:
        compute(cell, whole, CPU)
    for cell in cells[:2]:
        compute(cell, ours, CPU)
    moved = Store(tmp_path / "driver-side") if beside == "nothing" else None
    asked = parcel(cells[2:], ours)
    if moved:
        shutil.rmtree(moved.root)
        ours.root.rename(moved.root)
        ours = Store(moved.root)
    lacking = answer(asked, no_fetch)
    assert lacking == Answer(lacks=tuple(f"cell:{c.key}" for c in cells[:2]))
    owners = luggage(cells[2])
    handed = {name: (name, goods(name, owners[name], ours)) for name in lacking.lacks}
    fetched = []
    found = answer(asked._replace(goods=handed), lambda handle: fetched.append(handle[0]) or handle[1])
    assert sorted(fetched) == sorted(lacking.lacks) and not ours.has(cells[2].key)
    done = accept(found.done[0], found.results[cells[2].key], ours)
    assert done.error is None
    for cell in cells:
        files = [(s.folder(cell.key) / "out.safetensors").read_bytes() for s in (ours, whole)]
        assert files[0] == files[1]
    assert (ours.folder(cells[2].key) / "log.txt").read_text() == "a line for the log\n"
    again = answer(asked._replace(goods=handed), no_fetch)
    assert again.done[0].error is None, "what this machine was handed it keeps"


def test_a_cell_that_the_drivers_store_lacks_is_not_asked_for_again(tmp_path):
    """A step towards a finished cell may be gone; whoever needs only the finished one does not miss it."""
    store, cells = Store(tmp_path / "s"), chain(2)
    for cell in cells:
        compute(cell, store, CPU)
    shutil.rmtree(store.folder(cells[0].key))
    last = toy.Number(9, 0.0, (cells[1],))
    handed = {n: goods(n, o, store) for n, o in luggage(last).items()}
    assert handed[f"cell:{cells[0].key}"] is None
    found = answer(parcel([last], store, handed), lambda handle: handle)
    assert found.done[0].error is None


def test_a_failure_elsewhere_is_told_with_its_log(tmp_path):
    store, bad = Store(tmp_path / "s"), toy.Fails()
    found = answer(parcel([bad], store), no_fetch)
    done = accept(found.done[0], found.results[bad.key], store)
    assert done.error == "ValueError: a broken cell"
    assert store.failures() == {bad.key: done.error}
    assert "Traceback" in (store.root / "failed" / bad.key / "log.txt").read_text()


def test_a_result_that_cannot_be_stored_is_a_failure_of_its_cell(tmp_path):
    store, (cell,) = Store(tmp_path / "s"), chain(1)
    found = answer(parcel([cell], store), no_fetch)
    cut = {**found.results[cell.key], "out.safetensors": found.results[cell.key]["out.safetensors"][:-3]}
    done = accept(found.done[0], cut, store)
    assert done.error.startswith("its result could not be stored") and not store.has(cell.key)


def test_a_full_disk_of_the_driver_is_no_fault_of_the_cell(tmp_path, monkeypatch):
    """It stops the run, as it does without a cluster: no other cell would fare better."""
    store, (cell,) = Store(tmp_path / "s"), chain(1)
    found = answer(parcel([cell], store), no_fetch)

    def refuse(*_):
        raise Unwritable("the disk is full.")

    monkeypatch.setattr(Store, "write", refuse)
    done = accept(found.done[0], found.results[cell.key], store)
    assert done.full and "the disk is full" in done.error and not store.failures()


def test_a_group_that_takes_long_is_handed_back(tmp_path):
    store, cells = share(Store(tmp_path / "s")), [toy.Number(i, 0.1) for i in range(3)]
    found = answer(parcel(cells, store, seconds=0.05), no_fetch)
    assert [d.key for d in found.done] == [cells[0].key]
    assert found.left == tuple(c.key for c in cells[1:])


@pytest.mark.parametrize("place", range(3))
def test_a_machine_with_other_versions_is_refused(tmp_path, place):
    wrong = tuple(v + ".99" if i == place else v for i, v in enumerate(versions()))
    found = answer(parcel(chain(1), share(Store(tmp_path / "s")), versions=wrong), no_fetch)
    assert found.refused and not found.done
    assert f"has {versions()[place]}, the driver {wrong[place]}" in found.refused


def test_somebody_elses_folder_is_not_written_to(tmp_path):
    (tmp_path / f"robassay-{os.getuid()}-abc").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "elsewhere").mkdir()
    found = answer(parcel(chain(1), Store(tmp_path / "s")), no_fetch)
    assert "belongs to somebody else" in found.refused and not list((tmp_path / "elsewhere").iterdir())


# ------------------------------------------------------------------------------------------------------ user's files


def user_file(folder: Path, scale: float = 1.0) -> Path:
    (folder / "beside").mkdir(parents=True)
    (folder / "beside" / "__init__.py").write_text("")
    (folder / "beside" / "numbers.py").write_text(f"SCALE = {scale}\n")
    (folder / "mine.py").write_text(
        "from beside.numbers import SCALE\nimport torch\n\n\nclass Net(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.layer = torch.nn.Linear(64, 10)\n\n"
        "    def forward(self, x):\n        return SCALE * self.layer(x.flatten(1))\n\n\n"
        "def build():\n    return Net()\n"
    )
    return folder / "mine.py"


def forgotten(digest: str) -> None:
    sys.modules.pop(USER_PREFIX + digest, None)


def test_a_users_file_travels_with_the_modules_beside_it(tmp_path):
    file = user_file(tmp_path / "driver")
    load_file(file)
    sent = carried(str(file))
    assert {name for name, _ in sent.sources} == {"mine.py", "beside/__init__.py", "beside/numbers.py"}
    forgotten(sent.digest)
    shutil.rmtree(file.parent)
    receive(sent, tmp_path / "worker")
    assert here(file).is_relative_to(tmp_path / "worker")
    assert load_file(file).SCALE == 1.0 and load_file(file).__name__ == USER_PREFIX + sent.digest
    forgotten(sent.digest)


def test_another_file_under_the_same_path_is_not_taken_for_it(tmp_path):
    file = user_file(tmp_path / "driver")
    sent = carried(str(file))
    (file.parent / "beside" / "numbers.py").write_text("SCALE = 7.0\n")
    receive(sent, tmp_path / "worker")
    assert load_file(file).SCALE == 1.0
    forgotten(sent.digest)


def test_a_file_that_is_not_what_its_digest_says_is_not_run(tmp_path):
    file = user_file(tmp_path / "driver")
    sent = carried(str(file))
    shutil.rmtree(file.parent)
    trap = tmp_path / "ran"
    other = ((sent.sources[0][0], f"open({str(trap)!r}, 'w')\n".encode()), *sent.sources[1:])
    with pytest.raises(ra.UsageError, match="changed while it was carried"):
        receive(sent._replace(sources=other), tmp_path / "worker")
    assert not trap.exists()


def test_a_carried_path_cannot_leave_its_folder(tmp_path):
    file = user_file(tmp_path / "driver")
    sent = carried(str(file))
    shutil.rmtree(file.parent)
    for name in ("../../out.py", str(tmp_path / "out.py")):
        with pytest.raises(ra.UsageError, match="outside of its folder"):
            receive(sent._replace(sources=((name, b"x = 1"),)), tmp_path / "worker")
    assert not list(tmp_path.rglob("out.py"))


# --------------------------------------------------------------------------------------------------- data and weights


def test_weights_and_users_file_reach_a_machine_without_them(tmp_path):
    file = user_file(tmp_path / "driver")
    weights = tmp_path / "driver" / "w.safetensors"
    save_file({"layer.weight": torch.ones(10, 64), "layer.bias": torch.arange(10.0)}, weights)
    on = ra.Examples(ra.find("digits"), "test", 0, 5)
    model = given(str(file), "build", str(weights), on)
    owners = luggage(model)
    assert set(owners) == {f"weights:{model.weights_digest}"}
    store = Store(tmp_path / "s")
    handed = {name: goods(name, owner, store) for name, owner in owners.items()}
    asked = parcel([model], store)._replace(files=(carried(str(file)),))
    shutil.rmtree(tmp_path / "driver")
    forgotten(model.digest)
    assert answer(asked, no_fetch).lacks == tuple(owners)
    found = answer(asked._replace(goods=handed), lambda content: content)
    assert found.done[0].error is None
    assert torch.equal(model.network(CPU).layer.bias, torch.arange(10.0))
    forgotten(model.digest)


def test_weights_that_arrive_damaged_or_have_changed_are_refused(tmp_path):
    file = user_file(tmp_path / "driver")
    weights = tmp_path / "driver" / "w.safetensors"
    save_file({"layer.weight": torch.ones(10, 64), "layer.bias": torch.arange(10.0)}, weights)
    model = given(str(file), "build", str(weights), ra.Examples(ra.find("digits"), "test", 0, 5))
    name, store = f"weights:{model.weights_digest}", Store(tmp_path / "s")
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + b"\x01")
    with pytest.raises(ra.UsageError, match="has changed"):
        goods(name, model, store)
    asked = parcel([model], store, {name: weights.read_bytes()})._replace(files=(carried(str(file)),))
    with pytest.raises(ra.RobassayError, match="arrived damaged"):
        answer(asked, lambda content: content)


def test_a_data_set_reaches_a_machine_without_it(tmp_path, monkeypatch):
    """A folder of ten images stands for any set of files."""
    from PIL import Image

    monkeypatch.setenv("ROBASSAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ROBASSAY_DATA", raising=False)
    for i in range(12):
        place = tmp_path / "images" / "train" / f"class{i % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 20 * i).save(place / f"{i}.png")
    found = ra.find(tmp_path / "images")
    there = [s for s in SPLITS if s != "test"]
    whole = {s: found.split(s) for s in there}
    packed = data.packed(found)
    assert data.reachable(found)
    shutil.rmtree(tmp_path / "images")
    shutil.rmtree(tmp_path / "cache")
    data._split.cache_clear()
    data._contents.cache_clear()
    assert not data.reachable(found)
    file = tmp_path / "handed"
    file.write_bytes(packed)
    data.borrow(found.checksum, file)
    assert data.reachable(found)
    for split in there:
        assert torch.equal(found.split(split).x, whole[split].x) and torch.equal(found.split(split).y, whole[split].y)
    with pytest.raises(ra.UsageError, match="no test split"):
        found.split("test")
    data._split.cache_clear()
    changed = bytearray(packed)
    changed[-1] ^= 1
    file.write_bytes(bytes(changed))
    with pytest.raises(ra.UsageError, match="has changed"):
        found.split(there[0])
