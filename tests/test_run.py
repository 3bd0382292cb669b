"""Running: order, resumption, failures, dead workers, kill -9, two drivers at once; with equal bytes throughout."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from robassay.errors import RobassayError, UsageError
from robassay.plan import plan
from robassay.registry import load_file
from robassay.run import carry_out
from robassay.run.worker import LocalContext, compute
from robassay.store import MARK, Store

toy = load_file(Path(__file__).parent / "toy_study.py")


def chain(length: int, seconds: float = 0.0) -> list:
    cells: list = []
    for i in range(length):
        cells.append(toy.Number(i, seconds, tuple(cells[-1:])))
    return cells


def contents(store: Store) -> dict[str, bytes]:
    return {key: (store.folder(key) / "out.safetensors").read_bytes() for key in store.done()}


def test_everything_is_computed_once_and_a_second_run_computes_nothing(tmp_path):
    store = Store(tmp_path / "s")
    first = carry_out(chain(4)[-1:], store, 0, quiet=True)
    assert len(first.computed) == 4
    assert carry_out(chain(4)[-1:], store, 0, quiet=True).computed == ()
    assert (store.folder(first.computed[0]) / "log.txt").read_text() == "a line for the log\n"
    assert not (store.root / "scratch" / first.computed[0]).exists()


def test_order_workers_and_interruption_do_not_change_a_byte(tmp_path):
    """Starts a pool of two processes, each of which imports torch (about 5 s)."""
    one, two, three = (Store(tmp_path / name) for name in "abc")
    carry_out(chain(5), one, 0, quiet=True)
    carry_out(chain(5)[::-1], two, 2, quiet=True)
    carry_out(chain(3), three, 0, quiet=True)
    carry_out(chain(5), three, 0, quiet=True)
    assert contents(one) == contents(two) == contents(three)
    assert len(contents(one)) == 5


def test_a_users_file_that_is_gone_stops_no_run_of_others(tmp_path):
    """Starts a pool of one process, which imports torch (about 5 s)."""
    gone = tmp_path / "gone.py"
    gone.write_text("NAME = 'a notebook ran this file, then it was moved'")
    load_file(gone)
    gone.unlink()
    assert not carry_out(chain(2), Store(tmp_path / "s"), 1, quiet=True).failed


def test_a_failure_blocks_only_what_needs_it_and_is_tried_again(tmp_path):
    store = Store(tmp_path / "s")
    bad = toy.Fails(times=1)
    needs_bad, fine = toy.Number(1, 0.0, (bad,)), toy.Number(2)
    outcome = carry_out([needs_bad, fine], store, 0, quiet=True)
    assert outcome.computed == (fine.key,)
    assert outcome.failed == {bad.key: "ValueError: a broken cell"}
    assert outcome.blocked == {needs_bad.key: bad.key}
    assert store.failures() == outcome.failed
    assert "Traceback" in (store.root / "failed" / bad.key / "log.txt").read_text()
    again = carry_out([needs_bad, fine], store, 0, quiet=True)
    assert set(again.computed) == {bad.key, needs_bad.key} and not store.failures()


def test_a_worker_that_dies_is_replaced_and_its_cell_tried_again(tmp_path):
    """Starts two pools, since a pool does not survive the death of a worker (about 8 s)."""
    store = Store(tmp_path / "s")
    outcome = carry_out([toy.Dies(), toy.Number(1)], store, 1, quiet=True)
    assert len(outcome.computed) == 2 and not outcome.failed


DRIVER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from robassay.registry import load_file
from robassay.run import carry_out
from robassay.run.worker import LocalContext, compute
from robassay.store import MARK, Store
toy = load_file({toy!r})
carry_out([toy.Number(i, .25) for i in range(8)], Store({store!r}), {workers}, quiet=True)
"""


def drive(store: Path, trace: Path, workers: int) -> subprocess.Popen:
    here = Path(__file__).parent
    code = DRIVER.format(tests=str(here), toy=str(here / "toy_study.py"), store=str(store), workers=workers)
    return subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "TOY_TRACE": str(trace)})


@pytest.mark.parametrize("workers", [0, 1])
def test_kill_9_loses_nothing_that_was_finished(tmp_path, workers):
    """A driver is killed while it computes and started again (two processes that import torch, about 8 s)."""
    trace, store = tmp_path / "trace", tmp_path / "s"
    process = drive(store, trace, workers)
    until = time.monotonic() + 60
    while time.monotonic() < until and (not store.is_dir() or len(Store(store).done()) < 2):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(2.5 if workers else 0.1)  # a worker notices within a second that its driver is gone
    finished = Store(store).done()
    lines = trace.read_text().split()
    assert 2 <= len(finished) < 8
    assert drive(store, trace, workers).wait() == 0
    repeated = [key for key in trace.read_text().split()[len(lines) :] if key in finished]
    assert not repeated, "a finished cell was computed again"
    whole = Store(tmp_path / "whole")
    carry_out([toy.Number(i, 0.25) for i in range(8)], whole, 0, quiet=True)
    assert contents(Store(store)) == contents(whole)


def test_two_drivers_at_once_agree(tmp_path):
    """Two processes that import torch share a store (about 6 s)."""
    store = tmp_path / "s"
    Store(store)
    drivers = [drive(store, tmp_path / f"trace{i}", 0) for i in range(2)]
    assert [d.wait() for d in drivers] == [0, 0]
    whole = Store(tmp_path / "whole")
    carry_out([toy.Number(i, 0.25) for i in range(8)], whole, 0, quiet=True)
    assert contents(Store(store)) == contents(whole)
    assert not [p for p in store.rglob(".*") if p.is_dir()], "a temporary folder was left behind"


def test_a_driver_that_was_overtaken_has_not_failed(tmp_path, monkeypatch):
    """The quicker one stores the cell and clears the scratch folder that both were writing to."""
    store, cell, overtaken = Store(tmp_path / "s"), toy.Number(1), []

    def progress(self, done, total):
        if not overtaken:
            overtaken.append(True)
            assert compute(cell, store, torch.device("cpu")).error is None
            raise RuntimeError("the scratch folder is gone")

    monkeypatch.setattr(LocalContext, "progress", progress)
    assert compute(cell, store, torch.device("cpu")).error is None
    assert overtaken and store.has(cell.key) and not store.failures()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="page faults are counted on Linux")
def test_workers_keep_the_memory_that_torch_frees():
    """A fresh process, since the setting stays (about 4 s): forty megabytes in ten tensors, again and again."""
    code = """
import resource, torch
from robassay.run.worker import keep_memory
keep_memory()
for i in range(20):
    if i == 5:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [torch.ones(1_000_000) for _ in range(10)]
    del held
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    # Left as it is a process takes some 150,000 page faults here, but not every time: huge pages may hide them.
    assert int(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout) < 500


def test_the_plan_does_not_ask_for_steps_towards_finished_cells(tmp_path):
    store = Store(tmp_path / "s")
    cells = chain(3)
    carry_out(cells, store, 0, quiet=True)
    middle = store.folder(cells[1].key)
    for file in middle.iterdir():
        file.unlink()
    middle.rmdir()
    assert plan(cells[-1:], store).todo == ()
    again = plan([*cells, toy.Number(9, 0.0, (cells[1],))], store).todo
    assert again[0].key == cells[1].key


def test_a_store_refuses_other_folders_and_says_so(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="holds something else"):
        Store(tmp_path / "mine")
    with pytest.raises(UsageError, match="not a robassay store"):
        Store(tmp_path / "none", create=False)


def test_a_damaged_cell_is_named(tmp_path):
    store = Store(tmp_path / "s")
    (key,) = carry_out([toy.Number(0)], store, 0, quiet=True).computed
    file = store.folder(key) / "out.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(RobassayError, match=f"cell {key} .* is damaged"):
        store.read(key)


def test_a_store_that_another_process_makes_between_two_looks_is_one(tmp_path, monkeypatch):
    made, first = Store._mark, []

    def late(self):
        found = made(self)
        if not first:  # the first look comes too early: what the other process makes is there right after it
            first.append(found)
            self.root.mkdir()
            (self.root / "cells").mkdir()
            (self.root / "STORE").write_bytes(MARK)
        return found

    monkeypatch.setattr(Store, "_mark", late)
    assert Store(tmp_path / "s").done() == set() and first == [None]
