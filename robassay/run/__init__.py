"""Carrying out cells: a scheduler over futures, a local pool or a Ray cluster, progress."""

from __future__ import annotations

from collections.abc import Iterable

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
    ray: str | None = None,
    gpu: float | None = None,
) -> Outcome:
    """Compute what ``cells`` still need.

    Args:
        cells: what is wanted.
        store: where results lie and go.
        workers: worker processes; 0 computes in this process.
        device: torch device of every cell.
        quiet: no progress, only failures.
        silent: not even failures, for a caller that tells them.
        ray: "auto" or HOST:PORT of a Ray cluster to compute on instead; its machines say how many workers there are.
        gpu: share of a GPU that a cell claims; 0 for CPUs alone. None: GPUs where a Ray cluster has them, else none.

    Raises:
        UsageError: no such cluster, or no GPU here.
    """

    def start() -> Executor:
        if ray is not None:
            from robassay.run.ray import RayCluster

            return RayCluster(ray, gpu)
        if gpu:
            return Pool.on_gpus(workers, gpu) if workers > 0 else Inline()
        return Pool(workers) if workers > 0 else Inline()

    device = "cuda" if gpu and ray is None else device
    return run(plan(cells, store), store, start, Progress(quiet, silent), device)
