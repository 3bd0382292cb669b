"""Ray nodes that die, join or share no file system; and the documented commands, as they stand there."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ray_nodes import ROOT, nodes, session

from robassay.registry import load_file
from robassay.run import carry_out
from robassay.store import Store

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.xdist_group("ray")]
HERE = Path(__file__).parent
toy = load_file(HERE / "toy_study.py")
DRIVER = """
import sys
from robassay.registry import load_file
from robassay.run import carry_out
from robassay.store import Store
toy = load_file({toy!r})
cells = [toy.Number(i, 1.0) for i in range({cells})]
outcome = carry_out(cells, Store({store!r}), 0, quiet=True, ray={address!r})
sys.exit(len(outcome.failed))
"""


def drive(cluster, store: Path, cells: int) -> subprocess.Popen:
    code = DRIVER.format(toy=toy.__file__, cells=cells, store=str(store), address=cluster.address)
    return subprocess.Popen([sys.executable, "-c", code], env=cluster.environment)


def wait_for(store: Path, cells: int) -> set[str]:
    until = time.monotonic() + 90
    while time.monotonic() < until and (not store.is_dir() or len(Store(store).done()) < cells):
        time.sleep(0.02)
    return Store(store).done()


def contents(store: Store) -> dict[str, bytes]:
    return {key: (store.folder(key) / "out.safetensors").read_bytes() for key in store.done()}


@pytest.fixture
def expected(tmp_path):
    store = Store(tmp_path / "local")
    carry_out([toy.Number(i, 1.0) for i in range(10)], store, 0, quiet=True)
    return contents(store)


def test_a_node_dies_and_another_joins_and_nothing_saved_is_computed_twice(tmp_path, expected):
    """Three nodes and a fourth, of about 8 s each; ten cells of a second."""
    trace = tmp_path / "trace"
    with nodes(0, {"TOY_TRACE": str(trace)}) as cluster:
        first = cluster.add(1)
        cluster.add(1)
        driver = drive(cluster, tmp_path / "s", 10)
        saved = wait_for(tmp_path / "s", 3)
        before = len(trace.read_text().split())
        cluster.kill(first)
        cluster.add(1)
        assert driver.wait(120) == 0
    assert contents(Store(tmp_path / "s")) == expected
    again = trace.read_text().split()[before:]
    assert again and not saved & set(again), "a saved cell was computed again"
    assert not list((tmp_path / "s" / "cells").rglob("*.tmp"))


def test_a_killed_driver_leaves_no_task_behind_and_is_started_again(tmp_path, expected):
    """Two nodes, two drivers; ten cells of a second."""
    trace = tmp_path / "trace"
    with nodes(0, {"TOY_TRACE": str(trace)}) as cluster:
        cluster.add(2)
        driver = drive(cluster, tmp_path / "s", 10)
        wait_for(tmp_path / "s", 2)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        time.sleep(5)
        saved, lines = Store(tmp_path / "s").done(), trace.read_text().split()
        time.sleep(3)
        assert trace.read_text().split() == lines, "tasks go on without their driver"
        assert drive(cluster, tmp_path / "s", 10).wait(120) == 0
    assert contents(Store(tmp_path / "s")) == expected
    assert not saved & set(trace.read_text().split()[len(lines) :])


def test_a_driver_whose_head_dies_ends(tmp_path):
    """Ray gives a head that does not answer a minute."""
    with nodes(0) as cluster:
        cluster.add(1)
        driver = drive(cluster, tmp_path / "s", 200)
        wait_for(tmp_path / "s", 2)
        cluster.kill(0)
        try:
            assert driver.wait(150) != 0
        finally:
            driver.kill()
    assert len(Store(tmp_path / "s").done()) >= 2


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="mounting needs root")
def test_a_node_with_another_file_system_computes_the_same(tmp_path, expected):
    """A node in a mount namespace where the store's folder is an empty one (two nodes, about 20 s)."""
    (tmp_path / "shared").mkdir()
    store = tmp_path / "shared" / "s"
    with nodes(0) as cluster:
        cover = 'mount -t tmpfs none "$0" && exec "$@"'
        cluster.add(2, before=("unshare", "--mount", "sh", "-c", cover, str(store.parent)))
        assert drive(cluster, store, 10).wait(120) == 0
    assert contents(Store(store)) == expected


def blocks(title: str) -> str:
    """The shell commands of a section of the guide."""
    text = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    section = re.split(r"^## ", text.partition(f"## {title}\n")[2], flags=re.MULTILINE)[0]
    return "".join(re.findall(r"```sh\n(.*?)```", section, flags=re.DOTALL))


def test_the_documented_commands_by_hand_work(tmp_path):
    """As they stand in the guide, with a free port, one CPU and a small study (two nodes, about a minute)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    small = f"{HERE / 'small_study.py'} --scale smoke --quiet"
    script = blocks("What is safe to know first") + blocks("By hand")
    assert script.count("ray start") == 2 and script.count("robassay run") == 1
    for there, here in {
        "$HOME/.robassay-ray-token": f"{tmp_path}/token",
        "--port=6379": f"--port={port} --temp-dir=/tmp/r{secrets.token_hex(3)}",
        "10.0.0.1:6379": f"127.0.0.1:{port}",
        "10.0.0.1": "127.0.0.1",
        "--num-cpus=16": "--num-cpus=1",
        "run STUDY": f"run {small}",
        "/shared/store": f"{tmp_path}/s",
    }.items():
        assert there in script, there
        script = script.replace(there, here)
    wait = f'until (exec 3<>"/dev/tcp/127.0.0.1/{port}") 2>/dev/null; do sleep 0.2; done; sleep 8'
    head, _, rest = script.partition("# every worker")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.Popen(
        ["bash", "-ec", f"{head}\n{wait}\n#{rest}\nexit 0"],
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )
    try:
        assert done.wait(180) == 0
    finally:
        for pid in session(done.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert len(Store(tmp_path / "s").done()) == 20
    assert (tmp_path / "token").stat().st_mode & 0o077 == 0
