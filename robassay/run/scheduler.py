"""The scheduler, written once over futures: what is ready runs, what fails blocks only what needs it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

from robassay.cell import Cell
from robassay.plan import Plan
from robassay.run.local import Executor
from robassay.run.progress import Progress
from robassay.run.worker import Done
from robassay.store import Store

TRIES = 3
"""Times a cell is started when the process that computes it dies (killed, out of memory)."""


class Outcome(NamedTuple):
    """What a run did, by cell key."""

    computed: tuple[str, ...]
    failed: dict[str, str]
    blocked: dict[str, str]
    """Cells not started, with the key of the failed cell they need."""


def run(plan: Plan, store: Store, start: Callable[[], Executor], progress: Progress, device: str = "cpu") -> Outcome:
    """Compute the cells that the plan lacks.

    Args:
        plan: what to do.
        store: where results go.
        start: makes an executor; called again when a worker process dies.
        progress: is told what happens.
        device: torch device of every cell.

    Raises:
        KeyboardInterrupt: after the workers were ended; finished cells are in the store.
    """
    if not plan.todo:
        return Outcome((), {}, {})
    work = _Work(plan, store)
    executor = start()
    progress.begin(plan)
    flying: dict[Future[Done], Cell] = {}
    killed = True
    try:
        while work.waiting or flying:
            for cell in work.ready(executor.slots - len(flying)):
                progress.started(cell)
                flying[executor.submit(cell, store, device)] = cell
            finished, _ = wait(flying, timeout=0.25, return_when=FIRST_COMPLETED)
            broken = False
            for future in finished:
                cell = flying.pop(future)
                broken |= not work.take(cell, future, progress)
            progress.tick(store, list(flying.values()))
            if broken:
                # The pool is unusable after a death: what was flying goes back to the queue and a new one is made.
                for cell in flying.values():
                    work.again(cell, "its worker process died together with another one", progress)
                flying.clear()
                executor.close(kill=True)
                executor = start()
        killed = False
    finally:
        executor.close(kill=killed)
        progress.end()
    return Outcome(tuple(work.computed), work.failed, work.blocked)


class _Work:
    """Which cells wait, are done, failed or blocked."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self.store = store
        self.waiting: dict[str, Cell] = {c.key: c for c in plan.todo}
        self.done = set(plan.done)
        self.computed: list[str] = []
        self.failed: dict[str, str] = {}
        self.blocked: dict[str, str] = {}
        self.tries: dict[str, int] = {}

    def ready(self, most: int) -> list[Cell]:
        """Up to ``most`` cells whose needs are done, in plan order; cells that need a failed one are set aside."""
        chosen: list[Cell] = []
        for key, cell in list(self.waiting.items()):
            bad = next((n.key for n in cell.needs if n.key in self.failed or n.key in self.blocked), None)
            if bad is not None:
                self.blocked[key] = self.blocked.get(bad, bad)
                del self.waiting[key]
            elif len(chosen) < most and all(n.key in self.done for n in cell.needs):
                chosen.append(cell)
                del self.waiting[key]
        return chosen

    def take(self, cell: Cell, future: Future[Done], progress: Progress) -> bool:
        """Book a finished future; False when its worker process died."""
        try:
            result = future.result()
        except BrokenProcessPool as error:
            self.again(cell, f"its worker process died ({str(error).splitlines()[0]})", progress)
            return False
        if result.error is None:
            self.done.add(cell.key)
            self.computed.append(cell.key)
            progress.finished(cell, result.seconds, result.warnings)
        else:
            self.failed[cell.key] = result.error
            progress.failed(cell, result.error)
        return True

    def again(self, cell: Cell, why: str, progress: Progress) -> None:
        """Queue a cell whose process died once more, at most :data:`TRIES` times in all."""
        if self.store.has(cell.key):
            self.done.add(cell.key)
            self.computed.append(cell.key)
            return
        self.tries[cell.key] = self.tries.get(cell.key, 0) + 1
        if self.tries[cell.key] < TRIES:
            self.waiting = {cell.key: cell, **self.waiting}
            return
        self.failed[cell.key] = f"{why}, {TRIES} times; the machine may be out of memory. Try --workers 1."
        self.store.fail(cell.key, self.failed[cell.key], "")
        progress.failed(cell, self.failed[cell.key])
