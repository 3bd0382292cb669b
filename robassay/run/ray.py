"""The executor of a Ray cluster: the same cells, the same keys, the same bytes as on one computer.

Ray is asked for nothing but to run a function somewhere: what a task is, where results go and when a cell is tried
again is ours. The only module that imports ray, and only when a cluster is asked for.
"""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import queue
import re
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from robassay.cell import Cell
from robassay.errors import RobassayError, UsageError
from robassay.registry import Carried, carried, loaded_files
from robassay.run.devices import check_share, device_of
from robassay.run.parcels import Answer, Parcel, accept, answer, beacon, cleared, goods, luggage, versions
from robassay.run.worker import Done, keep_memory
from robassay.store import Store

GROUP = 32
"""The most cells of one task."""
SMALL = {"cpu": 1.0, "cuda": 20.0}
"""Seconds; kinds of cells that take less are grouped, until a task takes about as long. A task on a GPU is a process of
its own, which imports torch first: what a process has seen of GPUs it cannot unsee when Ray gives it another one."""
GATHER = 0.005
"""Seconds in which cells that become ready together are gathered."""
SPARE = 2
"""Cells handed over per CPU: the next one is there when a CPU is free, and a cluster that can grow sees why."""
DEATHS = 3
"""Times a cell is begun whose worker process dies (killed, out of memory)."""
NODE_DEATHS = 20
"""Times a cell is begun whose machine is lost, which is hardly its doing."""
LOOK_EVERY = 2.0
"""Seconds between two looks at the size of the cluster."""
GUIDE = "docs/cluster.md shows how to start a cluster."


def _ray() -> Any:
    # Before the import: it reads them once.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            "--ray needs Ray, which is not installed here. Write: pip install 'robassay[ray]', here and on every "
            "machine of the cluster."
        ) from error
    return ray


def _task(parcel: Parcel) -> Answer:
    """What a worker process of the cluster runs."""
    import ray

    torch.set_num_threads(1)
    keep_memory()
    return answer(parcel, ray.get)


def _clear(token: str) -> None:
    cleared(token)


@dataclass
class _Group:
    """Cells of one task, with the futures that wait for them."""

    cells: dict[str, Cell]
    device: str


@dataclass
class _Trial:
    """What a cell has been through."""

    future: Future[Done]
    store: Store
    deaths: int = 0
    node_deaths: int = 0
    share: float = 0.0
    alone: bool = field(default=False)


class RayCluster:
    """Cells as tasks of an existing Ray cluster.

    Args:
        address: "auto" for the cluster of this machine (or of RAY_ADDRESS), or HOST:PORT of its head.
        gpu: share of a GPU that a cell claims, in (0, 1]; 0 computes everything on CPUs.

    Raises:
        UsageError: no Ray, no such cluster, not let in, or a share out of range.
    """

    def __init__(self, address: str, gpu: float | None = None) -> None:
        if gpu:
            check_share(gpu)
        self._ray = _ray()
        self._connected = _connect(self._ray, address)
        self._token = secrets.token_hex(8)
        self._gpu = gpu if gpu is not None else float(self._resource("GPU") > 0)
        for name, wanted in (("CPU", True), ("GPU", self._gpu > 0)):
            if wanted and not self._resource(name):
                print(f"robassay: the Ray cluster has no {name} yet; waiting for machines that have.", file=sys.stderr)
        calls = {"cpu": 0, "cuda": 1}  # 0: the process is kept for other tasks
        self._remote = {d: self._ray.remote(max_retries=0, max_calls=n)(_task) for d, n in calls.items()}
        self._trials: dict[str, _Trial] = {}
        self._flying: dict[Any, _Group] = {}
        self._seconds: dict[tuple[str, str], float] = {}
        self._grouped = False
        self._handles: dict[str, Any] = {}
        self._asked: set[str] = set()
        self._carried: dict[str, Carried] = {}
        self._beacons: set[Any] = set()
        self._looked, self._cpus = -math.inf, 1
        self._closing = False
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._pump, daemon=True, name="robassay-ray")
        self._thread.start()

    # ------------------------------------------------------------------------------------------ what the scheduler asks

    @property
    def slots(self) -> int:
        """Cells at the same time, those that wait in the cluster included; follows machines that come and go."""
        now = time.monotonic()
        if now - self._looked > LOOK_EVERY:
            self._looked, self._cpus = now, max(1, int(self._resource("CPU")))
        return self._cpus * (SPARE + GROUP * self._grouped)

    def submit(self, cell: Cell, store: Store, device: str) -> Future[Done]:
        """Start a cell. The device is the cell's where GPUs are claimed, else the CPU; ``device`` is for local runs."""
        future: Future[Done] = Future()
        self._trials[cell.key] = _Trial(future, store, share=self._gpu)
        self._events.put(cell)
        return future

    def close(self, kill: bool) -> None:
        """End; with ``kill`` at once, whatever is running. Somebody else's connection is left open."""
        self._closing = True
        self._events.put(None)
        self._thread.join(timeout=10)
        with contextlib.suppress(Exception):  # the cluster may be gone, which is why we end
            if kill:
                for ref in list(self._flying):
                    self._ray.cancel(ref, force=True)
            elif "cell" in self._asked:
                self._sweep()
        for file in self._beacons:
            file.unlink(missing_ok=True)
        if self._connected:
            self._ray.shutdown()

    # ------------------------------------------------------------------------------------------------- the own thread

    def _pump(self) -> None:
        """Cells come in, answers come in; tasks go out. One thread, so that nothing of this needs a lock."""
        waiting: list[Cell] = []
        gathered = math.inf
        while not self._closing:
            try:
                left = gathered - time.monotonic()
                event = self._events.get(timeout=None if math.isinf(left) else max(0.0, left))
            except queue.Empty:
                event = None
            if waiting and time.monotonic() >= gathered:
                for group in self._groups(waiting):
                    self._send(group)
                waiting = []
            if isinstance(event, Cell):
                waiting.append(event)
            elif event is not None:
                ref, outcome = event
                waiting += self._guarded(self._flying.pop(ref), outcome)
            gathered = min(gathered, time.monotonic() + GATHER) if waiting else math.inf

    def _guarded(self, group: _Group, outcome: Future[Answer]) -> list[Cell]:
        """Cells to begin anew after a task; what goes wrong in booking it ends the run, not this thread."""
        try:
            return self._book(group, outcome)
        except Exception as error:
            self._give_up(group, error)
            return []

    def _groups(self, cells: list[Cell]) -> Iterator[_Group]:
        """Cells of a kind known to be small together, others alone; all CPUs get some."""
        small: dict[tuple[str, str], list[Cell]] = {}
        for cell in cells:
            device = device_of(cell, "cuda" if self._gpu else "cpu")
            kind = type(cell).__name__, device
            if self._seconds.get(kind, math.inf) < SMALL[device] and not self._trials[cell.key].alone:
                small.setdefault(kind, []).append(cell)
            else:
                yield _Group({cell.key: cell}, device)
        for kind, alike in small.items():
            device = kind[1]
            size = min(GROUP, int(SMALL[device] / max(self._seconds[kind], 1e-3)), -(-len(alike) // self._cpus))
            for start in range(0, len(alike), max(1, size)):
                yield _Group({c.key: c for c in alike[start : start + max(1, size)]}, device)

    def _send(self, group: _Group) -> None:
        try:
            store = self._trials[next(iter(group.cells))].store
            share = max(self._trials[key].share for key in group.cells) if group.device == "cuda" else 0
            parcel = self._parcel(group, store)
            ref = self._remote[group.device].options(num_cpus=1, num_gpus=share).remote(parcel)
            self._flying[ref] = group
            ref.future().add_done_callback(lambda done, ref=ref: self._events.put((ref, done)))
        except Exception as error:
            self._give_up(group, error)

    def _parcel(self, group: _Group, store: Store) -> Parcel:
        root = store.root.resolve()
        file = beacon(root, self._token)
        if file not in self._beacons:
            file.parent.mkdir(exist_ok=True)
            file.write_text(self._token, encoding="utf-8")
            self._beacons.add(file)
        pickled = tuple(pickle.dumps(cell) for cell in group.cells.values())
        files = dict.fromkeys(path for one in pickled for path in loaded_files(one))
        for path in files:
            if path not in self._carried:
                self._carried[path] = carried(path)
        handed: dict[str, Any] = {}
        for cell in group.cells.values() if self._asked else ():
            for name, owner in luggage(cell).items():
                if name in self._asked or name.partition(":")[0] in self._asked:
                    handed[name] = self._handle(name, owner, store)
        return Parcel(
            pickled,
            tuple(self._carried[p] for p in files),
            str(root),
            self._token,
            group.device,
            versions(),
            handed,
            SMALL[group.device],
        )

    def _handle(self, name: str, owner: Any, store: Store) -> Any:
        """An object of the cluster that holds what some worker lacks; put there once."""
        if self._handles.get(name) is None:  # a cell that was not in the store may be by now
            content = goods(name, owner, store)
            self._handles[name] = None if content is None else self._ray.put(content)
        return self._handles[name]

    def _book(self, group: _Group, outcome: Future[Answer]) -> list[Cell]:
        """Take what a task has brought; returns the cells to begin anew."""
        errors = self._ray.exceptions
        try:
            found = outcome.result()
        except errors.TaskCancelledError:
            return []
        except (errors.NodeDiedError, errors.LocalRayletDiedError, errors.ObjectLostError) as error:
            return self._lost(group, error, node=True)
        except (errors.WorkerCrashedError, errors.OutOfMemoryError) as error:
            return self._lost(group, error, node=False)
        except errors.RayError as error:
            raise RobassayError(f"a worker of the cluster could not begin: {_first_line(error)}. {GUIDE}") from error
        if found.refused:
            raise UsageError(found.refused)
        if found.lacks:
            # One lacks a cell only where the store cannot be seen: there it would lack all others, too.
            self._asked |= {"cell" if name.startswith("cell:") else name for name in found.lacks}
            return list(group.cells.values())
        again = [group.cells[key] for key in found.left]
        for done in found.done:
            cell, trial = group.cells[done.key], self._trials[done.key]
            if done.too_large and group.device == "cuda" and trial.share < 1:
                trial.share, trial.alone = min(1.0, 2 * trial.share), True
                again.append(cell)
                continue
            if found.results:
                done = accept(done, found.results.get(done.key, {}), trial.store)  # noqa: PLW2901
            self._learn(type(cell).__name__, group.device, done)
            del self._trials[done.key]
            trial.future.set_result(done)
        return again

    def _learn(self, kind: str, device: str, done: Done) -> None:
        """How long cells of a kind take; a slow one counts at once, since others would wait behind it."""
        if done.error is None and done.seconds:
            before = self._seconds.get((kind, device), done.seconds)
            self._seconds[kind, device] = max(done.seconds, 0.7 * before + 0.3 * done.seconds)
            self._grouped = any(seconds < SMALL[on] for (_, on), seconds in self._seconds.items())

    def _lost(self, group: _Group, error: Exception, node: bool) -> list[Cell]:
        """Cells whose worker or machine died, to be begun anew unless they died too often or had been finished."""
        again = []
        for key, cell in group.cells.items():
            trial = self._trials[key]
            trial.alone |= not node
            trial.node_deaths += node
            trial.deaths += not node
            if trial.store.has(key):
                del self._trials[key]
                trial.future.set_result(Done(key, 0.0, None))
            elif trial.deaths < DEATHS and trial.node_deaths < NODE_DEATHS:
                again.append(cell)
            else:
                what = "its machine was lost" if node else "its worker process died"
                times = trial.node_deaths if node else trial.deaths
                told = f"{what}, {times} times ({_first_line(error)}). It may need more memory than a machine has."
                with contextlib.suppress(OSError, RobassayError):
                    trial.store.fail(key, told, "")
                del self._trials[key]
                trial.future.set_result(Done(key, 0.0, told))
        return again

    def _give_up(self, group: _Group, error: Exception) -> None:
        """Hand the scheduler an exception that ends the run."""
        for key in group.cells:
            trial = self._trials.pop(key, None)
            if trial is not None and not trial.future.done():
                trial.future.set_exception(error)

    # ---------------------------------------------------------------------------------------------------- the cluster

    def _resource(self, name: str) -> float:
        try:
            return float(self._ray.cluster_resources().get(name, 0.0))
        except Exception as error:
            raise RobassayError(f"the Ray cluster does not answer any more: {_first_line(error)}.") from error

    def _sweep(self) -> None:
        """Every machine forgets what it was handed."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        clear = self._ray.remote(max_retries=0, num_cpus=0)(_clear)
        nodes = [node["NodeID"] for node in self._ray.nodes() if node["Alive"]]
        on = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
        self._ray.wait(
            [clear.options(scheduling_strategy=one).remote(self._token) for one in on],
            num_returns=len(on),
            timeout=10,
        )


def _connect(ray: Any, address: str) -> bool:
    """Connect this process to a cluster; False when it was connected before."""
    if address != "auto" and not re.fullmatch(r"[^/\s]+:\d+", address):
        raise UsageError(
            f"--ray '{address}' is neither 'auto' nor HOST:PORT. Run robassay on a machine of the cluster and write "
            "--ray auto."
        )
    if ray.is_initialized():
        return False
    known = _known() if address == "auto" else address
    if known and not _answers(known):
        # Ray itself would go on trying for minutes, and remembers a cluster that has died.
        raise UsageError(f"no Ray cluster answers at {known}. Check --ray, RAY_ADDRESS and the head. {GUIDE}")
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", configure_logging=False)
    except ray.exceptions.AuthenticationError as error:
        raise UsageError(
            f"the Ray cluster does not let us in: {_first_line(error)}. Set RAY_AUTH_MODE=token and "
            f"RAY_AUTH_TOKEN_PATH=FILE as on its head. {GUIDE}"
        ) from error
    except (ConnectionError, RuntimeError, ValueError) as error:
        # With a wrong token, too, Ray only says that it could not connect.
        closed = f"something answers at {known}, but no Ray cluster that lets us in: compare RAY_AUTH_TOKEN_PATH"
        what = f"{closed} with its head's" if known else "no Ray cluster runs on this machine"
        raise UsageError(f"{what} ({_first_line(error)}). {GUIDE}") from error
    finally:
        if before not in (None, signal.SIG_DFL) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray has put its own in its place
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        print(f"robassay: anybody who reaches this cluster's ports can run code on it. {GUIDE}", file=sys.stderr)
    return True


def _known() -> str | None:
    """The address that "auto" stands for: RAY_ADDRESS, or what the last `ray start` of this machine has left."""
    if address := os.environ.get("RAY_ADDRESS"):
        return address
    with contextlib.suppress(OSError):
        place = Path(os.environ.get("RAY_TMPDIR", "/tmp")) / "ray" / "ray_current_cluster"
        return place.read_text(encoding="utf-8").strip() or None
    return None


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, ValueError):
        return False
    return True


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
