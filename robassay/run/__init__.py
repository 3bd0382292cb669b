"""Carrying out cells: a scheduler over futures, a local pool, progress."""

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
    cells: Iterable[Cell], store: Store, workers: int, device: str = "cpu", quiet: bool = False, silent: bool = False
) -> Outcome:
    """Compute what ``cells`` still need.

    Args:
        cells: what is wanted.
        store: where results lie and go.
        workers: worker processes; 0 computes in this process.
        device: torch device of every cell.
        quiet: no progress, only failures.
        silent: not even failures, for a caller that tells them.
    """

    def start() -> Executor:
        return Pool(workers) if workers > 0 else Inline()

    return run(plan(cells, store), store, start, Progress(quiet, silent), device)
