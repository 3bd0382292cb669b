"""The scheduler, written once over futures: what is ready runs, what fails blocks only what needs it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

from robassay.cell import Cell
from robassay.errors import RobassayError, Terminated, Unwritable
from robassay.plan import Plan
from robassay.run.local import Executor
from robassay.run.progress import Progress
from robassay.run.stopping import STOPPED
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


def run(
    plan: Plan,
    store: Store,
    start: Callable[[], Executor],
    progress: Progress,
    device: str = "cpu",
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Compute the cells that the plan lacks.

    Args:
        plan: what to do.
        store: where results go.
        start: makes an executor; called again when a worker process dies.
        progress: is told what happens.
        device: torch device of every cell.
        stop: True once no further cell is to be started; those that run may finish.

    Raises:
        KeyboardInterrupt: after the workers were ended; finished cells are in the store.
        Terminated: ``stop`` said so before everything was done.
        Unwritable: the store took nothing more; what was running has ended.
    """
    if not plan.todo:
        return Outcome((), {}, {})
    work = _Work(plan, store)
    executor = start()
    progress.begin(plan)
    flying: dict[Future[Done], Cell] = {}
    killed = True
    try:
        while flying or (work.waiting and not (work.full or stop())):
            for cell in work.ready(0 if work.full or stop() else executor.slots - len(flying)):
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
    if work.full:
        raise Unwritable(work.full)
    if work.waiting:
        raise Terminated(STOPPED)
    return Outcome(tuple(work.computed), work.failed, work.blocked)


class _Work:
    """Which cells wait, are done, failed or blocked."""

    def __init__(self, plan: Plan, store: Store) -> None:
        self.store = store
        self.cells = {c.key: c for c in plan.order}
        self.dependants: dict[str, list[str]] = {}
        for cell in plan.order:
            for need in cell.needs:
                self.dependants.setdefault(need.key, []).append(cell.key)
        self.waiting: dict[str, Cell] = {c.key: c for c in plan.todo}
        self.done = set(plan.done)
        self.computed: list[str] = []
        self.failed: dict[str, str] = {}
        self.blocked: dict[str, str] = {}
        self.tries: dict[str, int] = {}
        self.full = ""
        """Why the store takes nothing more."""

    def ready(self, most: int) -> list[Cell]:
        """Up to ``most`` cells whose needs are done, in plan order."""
        chosen: list[Cell] = []
        for cell in self.waiting.values():
            if len(chosen) >= most:
                break  # the rest of the plan, a hundred thousand cells perhaps, is not looked at for every cell
            if all(n.key in self.done for n in cell.needs):
                chosen.append(cell)
        for cell in chosen:
            del self.waiting[cell.key]
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
        elif result.full:
            self.full = result.error
            self.waiting = {cell.key: cell, **self.waiting}
            progress.said(f"{result.error} No further cell is started.")
        elif result.lost is None or not self._restore(result.lost, cell, result.error, progress):
            self._fail(cell, result.error, progress)
        return True

    def _fail(self, cell: Cell, error: str, progress: Progress) -> None:
        """Book a failure; what needs the cell, directly or not, is set aside."""
        self.failed[cell.key] = error
        progress.failed(cell, error)
        reached = [cell.key]
        while reached:
            for key in self.dependants.get(reached.pop(), ()):
                if self.waiting.pop(key, None) is not None:
                    self.blocked[key] = cell.key
                    reached.append(key)

    def _restore(self, key: str, cell: Cell, error: str, progress: Progress) -> bool:
        """Queue a finished cell that was found damaged or gone, and ``cell``, which needs it; False to give up."""
        self.tries[cell.key] = self.tries.get(cell.key, 0) + 1
        hopeless = key not in self.cells or key in self.failed or key in self.blocked
        if hopeless or self.tries[cell.key] >= TRIES:
            return False
        again = {cell.key: cell}
        # Unless it is being computed anew already, or has been since: another cell may have met it earlier.
        if key in self.done and self.store.fault(key) is not None:
            progress.said(error)
            self.store.set_aside(key)
            lacking = [key]
            while lacking:
                one = lacking.pop()
                self.done.discard(one)
                again = {one: self.cells[one], **again}
                lacking += [n.key for n in self.cells[one].needs if not self.store.has(n.key) and n.key not in again]
        self.waiting = {**again, **self.waiting}
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
        error = f"{why}, {TRIES} times; the machine may be out of memory. Try --workers 1."
        with contextlib.suppress(OSError, RobassayError):
            self.store.fail(cell.key, error, "")
        self._fail(cell, error, progress)
