"""A Ray cluster computes what one computer computes, to the byte, and loses nothing when workers die.

One node of two CPUs serves all tests of this file (`ray start`, about 8 s); nodes that die are in test_ray_nodes.py.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path

import pytest
from ray_nodes import nodes

from robassay.errors import RobassayError, UsageError
from robassay.registry import Carried, carried, load_file
from robassay.run import carry_out
from robassay.run.devices import TooLarge
from robassay.run.parcels import Answer
from robassay.run.worker import Done
from robassay.store import Store

pytestmark = [pytest.mark.ray, pytest.mark.xdist_group("ray")]
HERE = Path(__file__).parent
toy = load_file(HERE / "toy_study.py")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    trace = tmp_path_factory.mktemp("ray") / "trace"
    with nodes(2, {"TOY_TRACE": str(trace)}) as made:
        made.trace = trace
        yield made


@pytest.fixture
def address(cluster, monkeypatch):
    for name, value in cluster.environment.items():
        if name.startswith("RAY_"):
            monkeypatch.setenv(name, value)
    return cluster.address


def chain(length: int, first: int = 0) -> list:
    cells: list = []
    for i in range(first, first + length):
        cells.append(toy.Number(i, 0.0, tuple(cells[-1:])))
    return cells


def contents(store: Store) -> dict[str, bytes]:
    return {key: (store.folder(key) / "out.safetensors").read_bytes() for key in store.done()}


def local(cells, folder) -> dict[str, bytes]:
    store = Store(folder)
    carry_out(cells, store, 0, quiet=True)
    return contents(store)


@pytest.fixture
def tasks(monkeypatch):
    """Groups that were sent, by the kinds and number of their cells."""
    from robassay.run.ray import RayCluster

    sent, send = [], RayCluster._send
    monkeypatch.setattr(RayCluster, "_send", lambda self, group: (sent.append(len(group.cells)), send(self, group)))
    return sent


def test_a_cluster_gives_the_bytes_of_one_computer_and_computes_nothing_twice(address, cluster, tmp_path, tasks):
    """A chain, a failure that blocks one cell, a worker that dies, and forty small ones, which share tasks."""
    store, bad = Store(tmp_path / "s"), toy.Fails()
    cells = [*chain(3), toy.Dies(), bad, toy.Number(7, 0.0, (bad,)), *(toy.Number(100 + i) for i in range(40))]
    outcome = carry_out(cells, store, 0, quiet=True, ray=address)
    assert outcome.failed == {bad.key: "ValueError: a broken cell"} == store.failures()
    assert set(outcome.blocked) == {cells[5].key} and len(outcome.computed) == 44
    alike = [c for c in cells if c.key in outcome.computed and not isinstance(c, toy.Dies)]  # it would end this process
    found = local(alike, tmp_path / "local")
    assert found.items() <= contents(store).items() and len(found) == 43
    traced = cluster.trace.read_text().split()
    assert len(traced) == len(set(traced)) == 43, "a cell was computed twice"
    assert sum(tasks) >= 46 and len(tasks) < 40 and max(tasks) > 1, "small cells share tasks"
    assert not carry_out(chain(3), store, 0, quiet=True, ray=address).computed
    assert not list((store.root / "scratch").glob("driver-*"))


def test_without_a_shared_store_everything_travels(address, cluster, tmp_path, monkeypatch):
    """As if the worker saw neither the store nor the user's file: what proves the store is written elsewhere."""
    from robassay.run import ray as module

    monkeypatch.setattr(module, "beacon", lambda root, token: tmp_path / "unseen" / token)
    seen = carried(toy.__file__)
    sent = Carried("/nowhere/toy_study.py", seen.digest, seen.sources)
    monkeypatch.setattr(module, "carried", lambda path: sent)
    store, bad = Store(tmp_path / "s"), toy.Fails(times=10**5)
    cells = [*chain(4, 200), bad]
    carry_out(cells[:2], store, 0, quiet=True)
    outcome = carry_out(cells, store, 0, quiet=True, ray=address)
    assert set(outcome.computed) == {c.key for c in cells[2:4]} and set(outcome.failed) == {bad.key}
    assert contents(store) == local(cells[:4], tmp_path / "local")
    assert "Traceback" in (store.root / "failed" / bad.key / "log.txt").read_text()
    assert not [p for p in store.root.rglob(".*") if p.is_dir()]


@pytest.mark.long
def test_a_cell_that_kills_its_worker_again_and_again_fails_alone(address, tmp_path):
    source = tmp_path / "deadly.py"
    source.write_text(
        "import os, torch\nfrom robassay.cell import Cell, cell\n\n@cell\nclass Deadly(Cell):\n"
        "    def compute(self, ctx):\n        os._exit(9)\n"
    )
    deadly = load_file(source).Deadly()
    outcome = carry_out([deadly, toy.Number(300)], Store(tmp_path / "s"), 0, silent=True, ray=address)
    assert len(outcome.computed) == 1 and "its worker process died, 3 times" in outcome.failed[deadly.key]


@pytest.mark.long
def test_ctrl_c_ends_the_tasks_and_keeps_what_was_finished(address, cluster, tmp_path):
    """A driver of its own is interrupted and started again (two processes that import torch and ray)."""
    # As from a terminal: tests started in the background inherit an ignored SIGINT, which Python would keep.
    code = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from robassay.cli.common import run_study
from robassay.registry import load_file
from robassay.run import carry_out
from robassay.store import Store
toy = load_file({toy.__file__!r})
try:
    carry_out([toy.Number(400 + i, 0.3 if i < 2 else 600) for i in range(4)], Store({str(tmp_path / "s")!r}), 0,
              quiet=True, ray={address!r})
except KeyboardInterrupt:
    sys.exit(130)
"""
    driver = subprocess.Popen([sys.executable, "-c", code], env=cluster.environment)
    until = time.monotonic() + 60
    while time.monotonic() < until and (not (tmp_path / "s").is_dir() or len(Store(tmp_path / "s").done()) < 2):
        time.sleep(0.05)
    time.sleep(0.5)
    driver.send_signal(signal.SIGINT)
    try:
        assert driver.wait(20) == 130
    finally:
        driver.kill()
    store = Store(tmp_path / "s")
    assert len(store.done()) == 2 and not store.failures()
    cells = [toy.Number(500 + i) for i in range(2)]
    assert len(carry_out(cells, store, 0, quiet=True, ray=address).computed) == 2, "the CPUs are free again"


def test_a_cell_too_large_for_a_share_gets_a_larger_one(address, tmp_path):
    """What a GPU would say is said by the answer; the claims are looked at, not the device."""
    from robassay.run import ray as module

    claimed = []

    class Remote:
        def options(self, num_cpus, num_gpus):
            claimed.append((num_cpus, num_gpus))
            return self

        def remote(self, parcel):
            return Ref()

    made = module.RayCluster(address, 0.25)
    try:
        cell = toy.Number(600)

        class Ref:
            def __init__(self):
                self.done = Future()
                told = None if claimed[-1][1] == 1 else str(TooLarge("out of memory"))
                self.done.set_result(Answer((Done(cell.key, 0.1, told, too_large=told is not None),)))

            def future(self):
                return self.done

        made._remote = {"cuda": Remote()}
        assert made.submit(cell, Store(tmp_path / "s"), "cpu").result(30).error is None
        assert claimed == [(1, 0.25), (1, 0.5), (1, 1.0)]
    finally:
        made.close(kill=True)


def test_wrong_addresses_are_told_at_once(address, tmp_path):
    from robassay.run.ray import RayCluster

    for wrong in ("here", "ray://localhost:10001", "host:port"):
        with pytest.raises(UsageError, match="neither 'auto' nor HOST:PORT"):
            RayCluster(wrong)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        dead = f"127.0.0.1:{free.getsockname()[1]}"
    began = time.monotonic()
    with pytest.raises(UsageError, match=f"no Ray cluster answers at {dead}"):
        RayCluster(dead)
    assert time.monotonic() - began < 10
    with pytest.raises(UsageError, match="share of a GPU"):
        RayCluster(address, 2.0)


@pytest.mark.long
def test_without_the_right_token_nobody_is_let_in(cluster, tmp_path):
    """A driver of its own, since a token is read once per process; Ray tries for half a minute."""
    other = tmp_path / "token"
    other.touch(mode=0o600)
    other.write_text("0" * 64)
    code = f"from robassay.run.ray import RayCluster; RayCluster({cluster.address!r})"
    env = {**cluster.environment, "RAY_AUTH_TOKEN_PATH": str(other)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode and "lets us in: compare RAY_AUTH_TOKEN_PATH" in done.stderr.splitlines()[-1], done.stderr[
        -600:
    ]


@pytest.mark.long
def test_a_cluster_whose_machines_lack_robassay_says_so(address, tmp_path, monkeypatch):
    """What a worker without the package answers is a task error of Ray's own."""
    from robassay.run import ray as module

    def broken(parcel):
        raise ModuleNotFoundError("No module named 'robassay'")

    monkeypatch.setattr(module, "_task", broken)
    with pytest.raises(RobassayError, match="could not begin"):
        carry_out([toy.Number(700)], Store(tmp_path / "s"), 0, silent=True, ray=address)
