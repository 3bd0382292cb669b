"""A Ray cluster of three nodes on one computer: equal bytes, nodes that die, overhead per cell, scaling.

    python bench/ray_cluster.py equal       the determinism table, with a node killed and another added (minutes)
    python bench/ray_cluster.py nodes       ten nodes killed at random moments, each time another one joins (minutes)
    python bench/ray_cluster.py overhead    seconds per cell that does nothing
    python bench/ray_cluster.py scaling     CPU-bound cells of two seconds on one worker and on two: a quiet machine

Head and workers are nodes of their own, started as docs/cluster.md says, each worker with one CPU. Results go to
bench/results/ray-<part>.json.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

import torch  # noqa: E402
from harness import save  # noqa: E402
from ray_nodes import Nodes, nodes, session  # noqa: E402

from robassay.plan import plan  # noqa: E402
from robassay.registry import load_file  # noqa: E402
from robassay.run.local import Executor, Pool  # noqa: E402
from robassay.run.progress import Progress  # noqa: E402
from robassay.run.scheduler import Outcome, run  # noqa: E402
from robassay.store import Store  # noqa: E402

STUDY = HERE.parent / "tests" / "small_study.py"
REPEATS = 5
KILLS = 10
CELLS = 8
SECONDS = 2.5
SMALL = 400
IDLE = 20.0
SHELL = 'mount -t tmpfs none "$0" && exec "$@"'
"""What a node does that must not see a folder: in a mount namespace of its own it lays another over it."""


# ----------------------------------------------------------------------------------------------------- equal bytes


def digest(store: Path) -> str:
    """16 hex digits over every finished cell's arrays; what a killed worker was about to write begins with a dot."""
    found = hashlib.sha256()
    for file in sorted((store / "cells").glob("*/[0-9a-f]*/out.safetensors")):
        found.update(file.parent.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()[:16]


def finished(store: Path) -> dict[str, int]:
    """Keys and inodes of the finished cells: a cell that was written again would have another one."""
    return {f.parent.name: f.stat().st_ino for f in (store / "cells").glob("*/[0-9a-f]*/cell.json")}


def command(store: Path, *options: str) -> list[str]:
    study = [sys.executable, "-m", "robassay.cli", "run", str(STUDY), "--scale", "smoke", "--quiet"]
    return [*study, "--store", str(store), *options]


def whole(cluster: Nodes, store: Path, *options: str) -> None:
    subprocess.run(command(store, *options), env=cluster.environment, check=True, stdout=subprocess.DEVNULL)


def halfway(cluster: Nodes, store: Path, *options: str) -> subprocess.Popen[bytes]:
    """A run that has finished some cells and not all."""
    driver = subprocess.Popen(command(store, *options), env=cluster.environment, stdout=subprocess.DEVNULL)
    while len(finished(store)) < 4 and driver.poll() is None:
        time.sleep(0.02)
    return driver


def killed_driver(cluster: Nodes, store: Path, *options: str) -> str:
    """kill -9 half-way, then the same command again."""
    driver = halfway(cluster, store, *options)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    time.sleep(2.5)  # local workers notice within a second that their driver is gone
    before = finished(store)
    whole(cluster, store, *options)
    return unchanged(before, store)


def killed_node(cluster: Nodes, store: Path, place: int) -> str:
    """A node is killed half-way, another one joins."""
    driver = halfway(cluster, store, "--ray", cluster.address)
    before = finished(store)
    cluster.kill(place)
    cluster.add(1)
    if driver.wait(600):
        raise SystemExit("the run did not survive the death of a node")
    return unchanged(before, store)


def unchanged(before: dict[str, int], store: Path) -> str:
    after = finished(store)
    again = sum(after.get(key) != inode for key, inode in before.items())
    return f"{len(before)} were finished, {again} of them written again"


def equal(folder: Path) -> list[dict[str, Any]]:
    """One study in every way; the rows say what its arrays' digest was."""
    rows: list[dict[str, Any]] = []

    def told(way: str, note: str | None = None) -> None:
        store = folder / str(len(rows))
        rows.append({"way": way, "digest": digest(store), "cells": len(finished(store)), "note": note or ""})
        print(*rows[-1].values(), sep="  ", flush=True)

    def place() -> Path:
        return folder / str(len(rows))

    with nodes(0) as cluster:
        cluster.add(1)
        whole(cluster, place(), "--workers", "1")
        told("local, 1 worker")
        whole(cluster, place(), "--workers", "2")
        told("local, 2 workers")
        told("local, 2 workers, driver killed and run again", killed_driver(cluster, place(), "--workers", "2"))
        cells = load_file(STUDY).study("smoke").needs()
        run(plan(tuple(cells)[::-1], Store(place())), Store(place()), lambda: Pool(2), Progress(True))
        told("local, 2 workers, asked for in reverse order")
        whole(cluster, place(), "--ray", cluster.address)
        told("Ray, 1 worker node")
        second = cluster.add(1)
        whole(cluster, place(), "--ray", cluster.address)
        told("Ray, 2 worker nodes")
        told("Ray, driver killed and run again", killed_driver(cluster, place(), "--ray", cluster.address))
        told("Ray, a node killed half-way and another added", killed_node(cluster, place(), second))
    if os.geteuid() == 0 and shutil.which("unshare"):
        with nodes(0) as cluster:
            blind(cluster, folder)
            whole(cluster, place(), "--ray", cluster.address)
        told("Ray, 1 worker node that does not see the store")
    same = len({row["digest"] for row in rows}) == 1
    print("all equal" if same else "DIFFERENT DIGESTS")
    return rows


def blind(cluster: Nodes, folder: Path) -> None:
    """Add a node in whose file system ``folder`` is empty."""
    cluster.add(1, before=("unshare", "--mount", "sh", "-c", SHELL, str(folder)))


# ------------------------------------------------------------------------------------------------------- lost nodes


def lost_nodes(folder: Path) -> list[dict[str, Any]]:
    """One of two worker nodes is killed at a random moment of a run, and a new one joins; a row for each time."""
    rng, rows = random.Random(0), list[dict[str, Any]]()
    with nodes(0) as cluster:
        workers = [cluster.add(1), cluster.add(1)]
        whole(cluster, folder / "whole", "--ray", cluster.address)
        wanted = digest(folder / "whole")
        for number in range(KILLS):
            store, least = folder / str(number), rng.randint(0, 12)
            words = command(store, "--ray", cluster.address)
            driver = subprocess.Popen(words, env=cluster.environment, stdout=subprocess.DEVNULL)
            while driver.poll() is None and (not store.is_dir() or len(finished(store)) < least):
                time.sleep(0.02)
            time.sleep(rng.uniform(0, 0.3))
            before, alive = finished(store), driver.poll() is None
            cluster.kill(workers.pop(rng.randrange(2)))
            workers.append(cluster.add(1))
            ended, after = driver.wait(600), finished(store)
            rows.append(
                {
                    "finished": len(before),
                    "while_running": alive,
                    "exit": ended,
                    "lost": len(before.keys() - after.keys()),
                    "written_again": sum(after.get(key) != inode for key, inode in before.items()),
                    "equal_bytes": digest(store) == wanted,
                }
            )
            print(*rows[-1].values(), sep="  ", flush=True)
    return rows


# -------------------------------------------------------------------------------------------------------- overhead


class Open:
    """An executor that outlives a run, so that what starts once is not measured."""

    def __init__(self, inner: Executor) -> None:
        self.inner = inner
        self.submit = inner.submit

    @property
    def slots(self) -> int:
        return self.inner.slots

    def close(self, kill: bool) -> None:
        if kill:
            self.inner.close(kill)


def timed(cells: list[Any], folder: Path, executor: Executor) -> float:
    """Seconds to compute the cells in a new store."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        store = Store(Path(place) / "store")
        began = time.perf_counter()
        outcome: Outcome = run(plan(cells, store), store, lambda: executor, Progress(True))
        spent = time.perf_counter() - began
    assert len(outcome.computed) == len(cells), outcome.failed
    return spent


@contextmanager
def on_ray(cluster: Nodes, group: int | None = None) -> Iterator[Executor]:
    """This process as a driver that stays connected; ``group`` is the most cells of a task."""
    from robassay.run import ray as module

    usual = module.GROUP
    module.GROUP = usual if group is None else group
    made = module.RayCluster(cluster.address)
    try:
        yield Open(made)
    finally:
        made.close(kill=False)
        module.GROUP = usual


def overhead(folder: Path) -> list[dict[str, Any]]:
    """Cells that do nothing: what starting, handing over, storing (with fsync) and booking one takes."""
    burn = load_file(HERE / "burn.py").Burn
    cells = [burn(i) for i in range(SMALL)]
    rows = []

    def measured(way: str, executor: Executor) -> None:
        timed(cells, folder, executor)  # processes start, torch is imported, kinds become known
        taken = [timed(cells, folder, executor) for _ in range(REPEATS)]
        rows.append({"way": way, "cells": SMALL, "ms_per_cell": 1e3 * statistics.median(taken) / SMALL, "taken": taken})
        print(f"{way:34} {rows[-1]['ms_per_cell']:8.2f} ms per cell", flush=True)

    pool = Pool(2)
    measured("local, 2 workers", Open(pool))
    pool.close(kill=False)
    with nodes(0) as cluster:
        os.environ.update({k: v for k, v in cluster.environment.items() if k.startswith("RAY_")})
        cluster.add(1)
        cluster.add(1)
        for way, group in (("Ray, 2 worker nodes", None), ("Ray, 2 worker nodes, no groups", 1)):
            with on_ray(cluster, group) as executor:
                measured(way, executor)
    return rows


# --------------------------------------------------------------------------------------------------------- scaling


def calibrated(burn: Callable[..., Any]) -> int:
    """Products that take :data:`SECONDS` on one core of this machine now."""
    torch.set_num_threads(1)
    a = torch.randn(256, 256)
    began = time.perf_counter()
    for _ in range(2000):
        (a @ a).clamp(-1, 1)
    return int(2000 * SECONDS / (time.perf_counter() - began))


def idle_cost(cluster: Nodes) -> dict[str, float]:
    """Cores and MiB that all processes of the cluster take while nothing runs."""
    pids = [pid for node in cluster.nodes for pid in session(node.pid)]

    def ticks() -> int:
        stats = [Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace") for pid in pids]
        return sum(sum(map(int, s.rpartition(")")[2].split()[11:13])) for s in stats)

    before = ticks()
    time.sleep(IDLE)
    cores = (ticks() - before) / os.sysconf("SC_CLK_TCK") / IDLE
    rss = sum(_kib(pid, "smaps_rollup", "Pss:") for pid in pids) / 1024
    return {"processes": len(pids), "cores": cores, "mib": rss}


def _kib(pid: int, file: str, field: str) -> int:
    lines = Path(f"/proc/{pid}/{file}").read_text(encoding="ascii", errors="replace").splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith(field)), 0)


def scaling(folder: Path) -> list[dict[str, Any]]:
    """The same cells on one worker node and on two; efficiency is T1 / (2 T2)."""
    burn = load_file(HERE / "burn.py").Burn
    products = calibrated(burn)
    cells = [burn(i, products) for i in range(CELLS)]
    taken: dict[int, list[float]] = {1: [], 2: []}
    load = os.getloadavg()[0]
    with nodes(0) as cluster:
        os.environ.update({k: v for k, v in cluster.environment.items() if k.startswith("RAY_")})
        cluster.add(1)
        for workers in (1, 2):
            if workers == 2:
                cluster.add(1)
            with on_ray(cluster) as executor:
                timed([burn(100 + i, 2000) for i in range(4 * workers)], folder, executor)
                for _ in range(REPEATS):
                    taken[workers].append(timed(cells, folder, executor))
                    print(f"{workers} workers: {taken[workers][-1]:.2f} s", flush=True)
        idle = idle_cost(cluster)
    one, two = (statistics.median(taken[w]) for w in (1, 2))
    row = {
        "cells": CELLS, "seconds_per_cell": one / CELLS, "one": taken[1], "two": taken[2],
        "efficiency": one / two / 2, "idle": idle, "load_before": load, "cores": os.cpu_count(),
    }  # fmt: skip
    print(f"efficiency {row['efficiency']:.3f}; idle cluster: {idle}; load before: {load:.2f}")
    return [row]


def main() -> None:
    parts = {"equal": equal, "nodes": lost_nodes, "overhead": overhead, "scaling": scaling}
    wanted = sys.argv[1:] or ["equal", "overhead"]
    if unknown := set(wanted) - set(parts):
        raise SystemExit(f"unknown: {', '.join(unknown)}. Write {', '.join(parts)}.")
    if len(wanted) > 1:  # a process each: Ray reads a token once, and every cluster has its own
        for name in wanted:
            subprocess.run([sys.executable, __file__, name], check=True)
        return
    for name in wanted:
        folder = Path(tempfile.mkdtemp(prefix="ray-bench-"))
        try:
            save(f"ray-{name}", parts[name](folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
