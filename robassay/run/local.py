"""Executors on this computer: worker processes, or the caller's own process."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import Future
from typing import Protocol

import torch
from joblib.externals.loky import ProcessPoolExecutor

from robassay.cell import Cell
from robassay.errors import UsageError
from robassay.registry import loaded_files
from robassay.run.devices import check_share, device_of, settle
from robassay.run.worker import Done, Task, compute, initialize, work
from robassay.store import Store


class Executor(Protocol):
    """Where cells are computed."""

    @property
    def slots(self) -> int:
        """Cells at the same time."""

    def submit(self, cell: Cell, store: Store, device: str) -> Future[Done]:
        """Start a cell."""

    def close(self, kill: bool) -> None:
        """End; with ``kill`` at once, whatever is running."""


class Pool:
    """A process per slot. A process computes one cell at a time, since torch's generator is global."""

    def __init__(self, slots: int, gpus: int = 0) -> None:
        self.slots = slots
        self._busy = dict.fromkeys((f"cuda:{i}" for i in range(gpus)), 0)
        self._pool = ProcessPoolExecutor(
            max_workers=slots,
            initializer=initialize,
            initargs=(os.getpid(),),
            env={"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        )

    @classmethod
    def on_gpus(cls, workers: int, share: float) -> Pool:
        """A pool whose cells each claim a ``share`` of one of this computer's GPUs; at most ``workers`` at a time.

        Raises:
            UsageError: no GPU that torch can use, or a share outside (0, 1].
        """
        gpus = torch.cuda.device_count()
        check_share(share)
        if not gpus:
            raise UsageError("--gpu claims a GPU, and torch finds none here. Leave it out, or write --gpu 0.")
        return cls(max(1, min(workers, gpus * int(1 / share))), gpus)

    def submit(self, cell: Cell, store: Store, device: str) -> Future[Done]:
        pickled = pickle.dumps(cell)
        if self._busy:
            device = device_of(cell, min(self._busy, key=lambda gpu: self._busy[gpu]))
        task = Task(pickled, loaded_files(pickled), str(store.root.resolve()), device)
        future = self._pool.submit(work, task)
        if device in self._busy:
            self._busy[device] += 1
            future.add_done_callback(lambda done: self._left(device))
        return future

    def _left(self, gpu: str) -> None:
        self._busy[gpu] -= 1

    def close(self, kill: bool) -> None:
        self._pool.shutdown(wait=not kill, kill_workers=kill)


class Inline:
    """The caller's process, one cell at a time: no start-up time, and models in memory can be used."""

    slots: int = 1

    def submit(self, cell: Cell, store: Store, device: str) -> Future[Done]:
        future: Future[Done] = Future()
        where = torch.device(device_of(cell, device))
        settle(where)
        future.set_result(compute(cell, store, where))
        return future

    def close(self, kill: bool) -> None:
        return None
