"""Carrying out cells: a scheduler over futures, a local pool or a Ray cluster, progress."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from robassay.cell import Cell
from robassay.plan import plan
from robassay.run.local import Executor, Inline, Pool
from robassay.run.progress import Progress
from robassay.run.scheduler import Outcome, run
from robassay.store import Store

__all__ = ["Outcome", "carry_out"]


def carry_out(
    cells: Iterable[Cell],
    store: Store,
    workers: int,
    device: str = "cpu",
    quiet: bool = False,
    silent: bool = False,
    stop: Callable[[], bool] = lambda: False,
    ray: str | None = None,
    gpu: float | None = None,
    worst: Callable[[str], str] | None = None,
) -> Outcome:
    """Compute what ``cells`` still need. Finished ones that are damaged are set aside and computed anew.

    Args:
        cells: what is wanted.
        store: where results lie and go.
        workers: worker processes; 0 computes in this process.
        device: torch device of every cell.
        quiet: no progress, only failures.
        silent: not even failures, for a caller that tells them.
        stop: True once no further cell is to be started.
        ray: "auto" or HOST:PORT of a Ray cluster to compute on instead; its machines say how many workers there are.
        gpu: share of a GPU that a cell claims; 0 for CPUs alone. None: GPUs where a Ray cluster has them, else none.
        worst: told the key of every finished cell, says the worst that was found; see :mod:`robassay.lowest`.

    Raises:
        UsageError: no such cluster, or no GPU here.
        Unwritable: the store takes nothing, or nothing more.
        Terminated: ``stop`` said so before everything was done.
    """
    progress = Progress(quiet, silent, worst)
    planned = plan(cells, store)
    faults = store.mend(planned.done)
    for fault in faults.values():
        progress.said(fault)
    if faults:
        planned = plan(planned.wanted, store)
    if planned.todo:
        store.check_writable()

    def start() -> Executor:
        if ray is not None:
            from robassay.run.ray import RayCluster

            return RayCluster(ray, gpu)
        if gpu:
            return Pool.on_gpus(workers, gpu) if workers > 0 else Inline()
        return Pool(workers) if workers > 0 else Inline()

    device = "cuda" if gpu and ray is None else device
    return run(planned, store, start, progress, device, stop)
