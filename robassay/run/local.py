"""Executors on this computer: worker processes, or the caller's own process."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import Future
from typing import Protocol

import torch
from joblib.externals.loky import ProcessPoolExecutor

from robassay.cell import Cell
from robassay.registry import loaded_files
from robassay.run.worker import Done, Task, compute, initialize, work
from robassay.store import Store


class Executor(Protocol):
    """Where cells are computed."""

    slots: int
    """Cells at the same time."""

    def submit(self, cell: Cell, store: Store, device: str) -> Future[Done]:
        """Start a cell."""

    def close(self, kill: bool) -> None:
        """End; with ``kill`` at once, whatever is running."""


class Pool:
    """A process per slot. A process computes one cell at a time, since torch's generator is global."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._pool = ProcessPoolExecutor(
            max_workers=slots,
            initializer=initialize,
            initargs=(os.getpid(),),
            env={"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
        )

    def submit(self, cell: Cell, store: Store, device: str) -> Future[Done]:
        pickled = pickle.dumps(cell)
        task = Task(pickled, loaded_files(pickled), str(store.root.resolve()), device)
        return self._pool.submit(work, task)

    def close(self, kill: bool) -> None:
        self._pool.shutdown(wait=not kill, kill_workers=kill)


class Inline:
    """The caller's process, one cell at a time: no start-up time, and models in memory can be used."""

    slots = 1

    def submit(self, cell: Cell, store: Store, device: str) -> Future[Done]:
        future: Future[Done] = Future()
        future.set_result(compute(cell, store, torch.device(device)))
        return future

    def close(self, kill: bool) -> None:
        return None
