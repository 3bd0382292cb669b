"""What goes wrong while a study runs: each case has an outcome, a message, and loses nothing that was finished."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from robassay import checkpoint, marks, safe
from robassay.cell import Cell, cell, with_needs
from robassay.errors import LostCell, RobassayError, Terminated, Unwritable, UsageError
from robassay.plan import plan
from robassay.registry import load_file
from robassay.run import carry_out
from robassay.run.stopping import until_told
from robassay.run.worker import forget
from robassay.standing import standing
from robassay.store import MARK, Store

HERE = Path(__file__).parent
toy = load_file(HERE / "toy_study.py")


@cell
class Sends(Cell):
    """Sends SIGTERM to its own process, then works on."""

    after: Cell
    seconds: float = 0.0

    def compute(self, ctx):
        os.kill(os.getpid(), signal.SIGTERM)
        until = time.monotonic() + self.seconds
        while time.monotonic() < until:
            time.sleep(0.05)
        return {"value": torch.zeros(1)}


def chain(length: int) -> list:
    cells: list = []
    for i in range(length):
        cells.append(toy.Number(i, 0.0, tuple(cells[-1:])))
    return cells


def contents(store: Store) -> dict[str, bytes]:
    return {key: (store.folder(key) / "out.safetensors").read_bytes() for key in store.done()}


@pytest.fixture
def done(tmp_path):
    """A store with a chain of four cells, and what is in it."""
    store = Store(tmp_path / "s")
    carry_out(chain(4), store, 0, quiet=True)
    return store, contents(store)


def flip(file: Path, at: int = -1) -> None:
    raw = bytearray(file.read_bytes())
    raw[at] ^= 1
    file.write_bytes(raw)


def swap(store: Store) -> None:
    first, second = (store.folder(c.key) for c in chain(2))
    raw = (first / "out.safetensors").read_bytes()
    (first / "out.safetensors").write_bytes((second / "out.safetensors").read_bytes())
    (second / "out.safetensors").write_bytes(raw)


def move(store: Store) -> None:
    first, second = (store.folder(c.key) for c in chain(2))
    for name in ("out.safetensors", "cell.json"):
        (first / name).write_bytes((second / name).read_bytes())


DAMAGE = {
    "one bit of a result": lambda s, f: flip(f / "out.safetensors"),
    "one bit of a header": lambda s, f: flip(f / "out.safetensors", 12),
    "a result cut short": lambda s, f: os.truncate(f / "out.safetensors", 20),
    "an empty result": lambda s, f: os.truncate(f / "out.safetensors", 0),
    "no result": lambda s, f: (f / "out.safetensors").unlink(),
    "a description cut short": lambda s, f: os.truncate(f / "cell.json", 30),
    "one digit of a description": lambda s, f: (f / "cell.json").write_text(
        (f / "cell.json").read_text().replace('"seconds": 0', '"seconds": 9')
    ),
    "no description": lambda s, f: (f / "cell.json").unlink(),
    "no digest": lambda s, f: (f / "cell.json").write_text(
        json.dumps({k: v for k, v in json.loads((f / "cell.json").read_text()).items() if k not in ("seal", "sha256")})
    ),
    "another cell's result": lambda s, f: swap(s),
    "another cell, whole": lambda s, f: move(s),
    "a pipe": lambda s, f: ((f / "out.safetensors").unlink(), os.mkfifo(f / "out.safetensors")),
    "deep JSON": lambda s, f: (f / "cell.json").write_text("[" * 100_000),
    "a number for a description": lambda s, f: (f / "cell.json").write_text("3"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_cell_is_refused_set_aside_and_computed_anew(case, done, capsys):
    store, before = done
    key = chain(1)[0].key
    DAMAGE[case](store, store.folder(key))
    with pytest.raises(LostCell, match=f"cell {key} .* is damaged.*Run the study again"):
        store.read(key)
    outcome = carry_out(chain(4), store, 0, quiet=True)
    assert key in outcome.computed and not outcome.failed and len(outcome.computed) <= 2
    assert contents(store) == before
    assert f"cell {key}" in capsys.readouterr().err and list((store.root / "damaged").iterdir())


def test_a_cell_that_is_damaged_while_a_run_is_at_work_is_computed_anew(done, monkeypatch):
    """What the run had looked at when it began is found out by the cell that needs it."""
    store, before = done
    first, second, third, last = chain(4)
    for one in (third, last):
        store.set_aside(one.key)
    monkeypatch.setattr(Store, "mend", lambda self, keys: {})
    forget()  # this process has read them
    # Its need is gone, too: both have to be computed.
    flip(store.folder(second.key) / "out.safetensors")
    store.set_aside(first.key)
    outcome = carry_out(chain(4)[2:], store, 0, quiet=True, silent=True)
    assert set(outcome.computed) == {c.key for c in (first, second, third, last)} and not outcome.failed
    assert contents(store) == before


def test_a_cell_that_stays_damaged_fails_those_that_need_it_after_three_tries(done, monkeypatch):
    store, _ = done
    cells = chain(4)
    store.set_aside(cells[3].key)
    monkeypatch.setattr(Store, "mend", lambda self, keys: {})
    forget()  # this process has read them
    real = Store.read

    def read(self, key, names=None):
        if key == cells[2].key:
            raise LostCell(key, "the disk is broken")
        return real(self, key, names)

    monkeypatch.setattr(Store, "read", read)
    assert carry_out(chain(4), store, 0, quiet=True, silent=True).failed == {cells[3].key: "the disk is broken"}


def test_stores_of_the_first_format_are_read_and_new_cells_in_them_are_sealed(done):
    store, before = done
    key = chain(1)[0].key
    (store.root / "STORE").write_bytes(b"robassay store, format 1\n")
    about = store.folder(key) / "cell.json"
    told = json.loads(about.read_text())
    about.write_text(json.dumps({k: v for k, v in told.items() if k not in ("seal", "sha256")}))
    old = Store(store.root)
    assert old.read(key)["value"].shape == (3,)
    assert not carry_out(chain(4), old, 0, quiet=True).computed
    flip(old.folder(chain(2)[1].key) / "out.safetensors")
    assert carry_out(chain(4), old, 0, quiet=True, silent=True).computed == (chain(2)[1].key,)
    assert contents(old) == before


def test_a_store_of_a_later_version_is_left_alone_and_a_damaged_mark_is_not_the_end(done):
    store, before = done
    (store.root / "STORE").write_bytes(b"robassay store, format 3\n")
    with pytest.raises(UsageError, match="another version of the store"):
        Store(store.root)
    (store.root / "STORE").write_bytes(b"")
    assert contents(Store(store.root)) == before


def test_a_process_killed_while_it_makes_a_store_leaves_one_that_can_be_made(tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / ".STORE.123-abcd").write_bytes(MARK[:4])
    assert carry_out(chain(1), Store(tmp_path / "s"), 0, quiet=True).computed


# ------------------------------------------------------------------------------------------ full and read-only disks


def refuse(code: int, after: int = 0):
    """Stands for os.fsync, so that a write fails as it does on such a disk."""
    calls = []

    def fsync(handle):
        calls.append(handle)
        if len(calls) > after:
            raise OSError(code, os.strerror(code))

    return fsync


@pytest.mark.parametrize(
    ("code", "message"),
    [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "may only be read"), (errno.EIO, "run again")],
)
def test_a_store_that_takes_nothing_stops_the_run_before_it_begins(code, message, tmp_path, monkeypatch):
    store, trace = Store(tmp_path / "s"), tmp_path / "trace"
    monkeypatch.setenv("TOY_TRACE", str(trace))
    monkeypatch.setattr(os, "fsync", refuse(code))
    with pytest.raises(Unwritable, match=message):
        carry_out(chain(3), store, 0, quiet=True)
    assert not trace.exists() and not store.done()


def test_a_disk_that_fills_up_stops_the_run_keeps_what_is_finished_and_blames_no_cell(tmp_path, monkeypatch, capsys):
    store, trace = Store(tmp_path / "s"), tmp_path / "trace"
    monkeypatch.setenv("TOY_TRACE", str(trace))
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse(errno.ENOSPC, after=1 + 2 + 2 + 1))  # the probe, two cells, half of the third
        with pytest.raises(Unwritable, match="the disk is full"):
            carry_out(chain(6), store, 0, quiet=True)
    finished = store.done()
    assert len(finished) == 2 and not store.failures() and not store.leftovers()
    assert len(trace.read_text().split()) == 3, "a cell was begun that could not be kept"
    assert "No further cell is started" in capsys.readouterr().err
    assert len(carry_out(chain(6), store, 0, quiet=True).computed) == 4


@pytest.mark.skipif(sys.platform == "win32", reason="resource limits")
def test_a_real_limit_of_file_size_is_a_message(tmp_path):
    """A subprocess, since the limit stays (about 5 s)."""
    code = f"""
import resource, signal, sys
sys.path.insert(0, {str(HERE)!r})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from robassay.registry import load_file
from robassay.run import carry_out
from robassay.store import Store
toy = load_file({str(HERE / "toy_study.py")!r})
store = Store({str(tmp_path / "s")!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))
try:
    carry_out([toy.Number(1)], store, 0, quiet=True)
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "Unwritable" in done.stdout and "larger than is allowed" in done.stdout, done.stderr
    assert not Store(tmp_path / "s").done() and not Store(tmp_path / "s").leftovers()


# --------------------------------------------------------------------------------------------------------- checkpoints


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    state = {"w": torch.arange(5.0), "n": 3, "history": [(0.5, 1, 2)], "best": -1.0}
    checkpoint.save(tmp_path, state)
    back = checkpoint.load(tmp_path)
    assert back is not None and torch.equal(back.pop("w"), state.pop("w")) and back == state
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("how", ["cut", "bit", "version", "empty", "pickle", "pipe"])
def test_a_checkpoint_that_cannot_be_trusted_is_not_used_and_the_log_says_so(how, tmp_path, capsys):
    file = tmp_path / "checkpoint.pt"
    checkpoint.save(tmp_path, {"w": torch.arange(5.0)})
    raw = file.read_bytes()
    if how == "pipe":
        file.unlink()
        os.mkfifo(file)
    else:
        torch.save({"w": Path("x")}, tmp_path / "evil")
        evil = (tmp_path / "evil").read_bytes()
        bit = bytearray(raw)
        bit[-200] ^= 1
        older = raw.replace(b"robassay checkpoint of robassay ", b"robassay checkpoint of robassay 0")
        file.write_bytes(
            {
                "cut": raw[:-9],
                "bit": bytes(bit),
                "version": older,
                "empty": b"",
                "pickle": checkpoint._head(evil) + evil,
            }[how]
        )
    assert checkpoint.load(tmp_path) is None
    assert "from the beginning" in capsys.readouterr().out
    assert checkpoint.load(tmp_path / "none") is None and not capsys.readouterr().out


def test_a_checkpoint_on_a_full_disk_keeps_the_earlier_one(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, {"n": 1})
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse(errno.ENOSPC))
        with pytest.raises(Unwritable, match="the disk is full"):
            checkpoint.save(tmp_path, {"n": 2})
    assert checkpoint.load(tmp_path) == {"n": 1} and len(list(tmp_path.iterdir())) == 1


# ---------------------------------------------------------------------------------------------------- signals and time


def test_sigterm_lets_what_runs_finish_and_starts_nothing_more(tmp_path, capfd):
    store, cells = Store(tmp_path / "s"), chain(4)

    cells[1] = Sends(chain(1)[0])
    with pytest.raises(Terminated, match="what was finished is kept"), until_told(20.0) as stop:
        carry_out([*cells[:2], toy.Number(7, 0.0, (cells[1],))], store, 0, quiet=True, stop=stop)
    assert store.done() == {chain(1)[0].key, cells[1].key}
    assert "given 20 s to finish" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_after_the_grace_period_a_running_cell_is_ended(tmp_path, capfd):
    store, start = Store(tmp_path / "s"), time.monotonic()
    with pytest.raises(Terminated), until_told(0.3) as stop:
        carry_out([Sends(toy.Number(1), 30.0)], store, 0, quiet=True, stop=stop)
    assert time.monotonic() - start < 10 and store.done() == {toy.Number(1).key} and not store.failures()


@pytest.mark.parametrize("jump", [-4e8, 4e8])
def test_a_clock_that_jumps_changes_nothing_but_the_date(jump, tmp_path, monkeypatch, done):
    _, before = done
    store, real = Store(tmp_path / "other"), time.gmtime
    monkeypatch.setattr(time, "time", lambda: 1.8e9 + jump)
    monkeypatch.setattr(time, "gmtime", lambda *a: real(1.8e9 + jump))
    outcome = carry_out(chain(2), store, 0, quiet=True)
    monkeypatch.undo()
    for file in store.root.rglob("*"):
        os.utime(file, (1.8e9 + jump, 1.8e9 + jump))
    assert len(outcome.computed) == 2 and len(carry_out(chain(4), store, 0, quiet=True).computed) == 2
    assert contents(store) == before


# -------------------------------------------------------------------------------------------------------- who is at it


def test_a_mark_tells_the_living_from_the_dead(tmp_path):
    marks.leave(tmp_path)
    assert marks.state(tmp_path) == ("running", f"process {os.getpid()} on {os.uname().nodename}")
    told = json.loads((tmp_path / marks.MARK).read_text())
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    for change, expected in (
        ({"pid": child.pid}, "interrupted"),
        ({"began": "1"}, "interrupted"),  # the number was given to another process
        ({"host": "node7"}, "elsewhere"),
    ):
        (tmp_path / marks.MARK).write_text(json.dumps({**told, **change}))
        found = marks.state(tmp_path)
        assert found is not None and found[0] == expected
    for junk in ("", "[]", '{"host": 1}', '{"host": "x", "pid": 1e999, "began": 1}'):
        (tmp_path / marks.MARK).write_text(junk)
        assert marks.state(tmp_path) is None


def test_standing_names_every_cell_once(tmp_path):
    store = Store(tmp_path / "s")
    bad, fine, other = toy.Fails(), toy.Number(1), toy.Number(2)
    after = toy.Number(3, 0.0, (bad,))
    behind = toy.Number(4, 0.0, (after, fine))
    assert carry_out([behind, fine], store, 0, quiet=True, silent=True).blocked == {
        after.key: bad.key,
        behind.key: bad.key,
    }
    marks.leave(store.scratch(other.key))
    (store.scratch(other.key) / "progress").write_text("3 10")
    late = toy.Number(5)
    found = standing(plan([behind, fine, other, late], store), store)
    assert found.done == 1 and found.failed == {bad.key: "ValueError: a broken cell"}
    assert found.blocked == {after.key: bad.key, behind.key: bad.key} and found.waiting == (late.key,)
    assert list(found.running) == [other.key] and found.running[other.key].endswith(", 30 %")


def test_a_chain_of_thousands_is_planned():
    cells = chain(3000)
    for one in cells:
        vars(one).pop("key", None)
        vars(one).pop("needs", None)
    assert [c.name for c in with_needs(cells[-1:])] == list(range(3000))


def test_names_that_lead_elsewhere_are_refused():
    for name in ("../x", "a/b", "", ".hidden", "a\\b\n", "x" * 200, 3, None, "a\x1b[31m"):
        with pytest.raises(UsageError, match="cannot be the name of a file"):
            safe.checked_name(name, "the study")
    for name in ("demo", "audit-1a2b", "networks-s-cifar10", "Größe 2.5"):
        assert safe.checked_name(name, "the study") == name
    with pytest.raises(RobassayError, match="not the key of a cell"):
        Store.folder(Store.__new__(Store), "../../../etc/passwd")
