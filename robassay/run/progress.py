"""Progress on standard error: bars with rate, time left and what was found in a terminal, elsewhere a line at times."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from robassay.cell import Cell, Model
from robassay.cells import Craft, Score
from robassay.errors import RobassayError, tell
from robassay.given import Given
from robassay.models import Train
from robassay.plan import Plan
from robassay.registry import part_name
from robassay.store import Store
from robassay.substitute import Substitute

LINE_EVERY = 10.0
"""Seconds between two plain lines."""
KNOWN = 0.05
"""Share of a cell after which its own time left is worth believing."""
WIDE = 46
"""Letters of a running cell in a terminal; more would leave no room for its numbers in 80 columns."""
RARE = 0.05
"""Share of all cells up to which kinds of which none is finished are taken to last as long as the others."""


def title(cell: Cell) -> str:
    """A few words for people."""
    if isinstance(cell, Train):
        return f"train {_word(cell.net)} on {cell.data.name}"
    if isinstance(cell, Substitute):
        return f"substitute {part_name(type(cell.net))} for {_word(cell.oracle)}"
    if isinstance(cell, Craft):
        loss = getattr(cell.attack, "loss", "")
        eps = "" if cell.threat.eps is None else f" {cell.threat.norm} {cell.threat.eps:.3g}"
        return f"attack {_word(cell.sources[0])}: {_word(cell.attack)} {loss}{eps}".replace("  ", " ")
    if isinstance(cell, Score):
        return f"judge {_word(cell.target)}"
    return f"open {_word(cell)}" if isinstance(cell, Model) else type(cell).__name__.lower()


def _word(value: object) -> str:
    if isinstance(value, (Train, Substitute)):
        return part_name(type(value.net))
    return value.build if isinstance(value, Given) else part_name(type(value))


class Progress:
    """Told by the scheduler what happens; ``quiet`` says failures and warnings alone, ``silent`` not even failures.

    ``worst`` is told the key of every finished cell and says what is the worst that was found by then.
    """

    def __init__(self, quiet: bool = False, silent: bool = False, worst: Callable[[str], str] | None = None) -> None:
        self.quiet, self.silent = quiet or silent, silent
        self.terminal = sys.stderr.isatty() and not self.quiet
        self._worst = None if self.quiet else worst
        self._words = self._found = ""
        self._bar: Any = None
        self._live: Any = None
        self._tasks: dict[str, Any] = {}
        self._fractions: dict[str, float] = {}
        self._started: dict[str, float] = {}
        self._times: dict[str, list[float]] = {}
        self._waiting: Counter[str] = Counter()
        self._finished = self._total = 0
        self._began = self._told = 0.0
        self._warned: set[str] = set()

    def begin(self, plan: Plan) -> None:
        """A run begins."""
        self._total, self._finished = len(plan.todo), 0
        self._began = self._told = time.monotonic()
        self._waiting = Counter(type(c).__name__ for c in plan.todo)
        if self._worst is not None:  # what an earlier run has found
            for key in plan.done:
                self._look(key)
        if not self.terminal:
            return
        from rich.console import Console
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        bars = (TextColumn("{task.description}"), BarColumn(None), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Bars(*bars, expand=True)
        self._tasks[""] = self._bar.add_task("all cells", total=self._total)
        console = Console(stderr=True)
        self._live = Live(get_renderable=self.shown, console=console, transient=True)
        self._live.start()

    def shown(self) -> Any:
        """What a terminal shows: a bar for all cells and one for each that runs; below them pace and finding."""
        from rich.console import Group
        from rich.text import Text

        below = [Text(words, no_wrap=True, overflow="ellipsis") for words in (self._words, self._found) if words]
        return Group(self._bar, *below)

    def _look(self, key: str) -> None:
        # A cell that is damaged is told, and computed anew, by whoever needs it.
        with contextlib.suppress(RobassayError):
            self._found = self._worst(key) if self._worst is not None else ""

    def _pace(self, running: list[Cell]) -> str:
        """Finished cells by time and the time left, in words.

        The latter is our own: a bar's speed means little where cells take between a blink and minutes.
        """
        spent, left, word = time.monotonic() - self._began, self._left(running), "about"
        if left is None:
            left, word = self._least(running), "at least"
        rate = f"{60 * self._finished / spent:.3g} a minute" if self._finished and spent > 0 else ""
        return ", ".join(filter(None, [rate, f"{word} {_clock(left)} left" if left is not None else ""]))

    def started(self, cell: Cell) -> None:
        """A cell was handed to a worker."""
        self._fractions[cell.key] = 0.0
        self._started[cell.key] = time.monotonic()
        if self._bar is not None:
            self._tasks[cell.key] = self._bar.add_task(f"  {_short(title(cell))}", total=None)

    def tick(self, store: Store, running: list[Cell]) -> None:
        """Called a few times a second."""
        for cell in running:
            try:
                text = (store.root / "scratch" / cell.key / "progress").read_text(encoding="utf-8")
                done, total = (int(v) for v in text.split())
            except (OSError, ValueError):
                continue
            self._fractions[cell.key] = done / max(1, total)
            if self._bar is not None:
                self._bar.update(self._tasks[cell.key], completed=done, total=total)
        if self._bar is not None:
            self._bar.update(self._tasks[""], completed=self._finished)
            self._words = self._pace(running)
        elif not self.quiet and time.monotonic() - self._told > LINE_EVERY:
            self._line(running)

    def _line(self, running: list[Cell]) -> None:
        self._told = time.monotonic()
        done = f"{self._finished} of {self._total} cells in {_clock(self._told - self._began)}"
        told = ", ".join(filter(None, [done, self._pace(running)]))
        tell(
            "robassay: " + "; ".join(filter(None, [told, self._found, f"now: {title(running[0])}" if running else ""]))
        )

    def _left(self, running: list[Cell]) -> float | None:
        """Seconds left from the mean time of finished cells of each kind; None while a kind is unknown.

        Running cells of an unknown kind count by how far they are, rare kinds as the mean of all that is finished.
        """
        now, seconds = time.monotonic(), 0.0
        known = {kind: sum(times) / len(times) for kind, times in self._times.items()}
        waiting = dict(self._waiting)
        if known and sum(n for kind, n in waiting.items() if kind not in known) <= RARE * self._total:
            every = [spent for times in self._times.values() for spent in times]
            known |= {kind: sum(every) / len(every) for kind in waiting if kind not in known}
        for cell in running:
            kind, share = type(cell).__name__, self._fractions.get(cell.key, 0.0)
            spent = now - self._started.get(cell.key, now)
            whole = spent / share if share > KNOWN else known.get(kind)
            if whole is None:
                return None
            known.setdefault(kind, whole)
            seconds += max(0.0, whole - spent)
            waiting[kind] -= 1
        for kind, count in waiting.items():
            if count > 0 and kind not in known:
                return None
            seconds += max(0, count) * known.get(kind, 0.0)
        return seconds / max(1, len(running))

    def _least(self, running: list[Cell]) -> float | None:
        """Seconds left that are certain while some kinds are unknown: those of the known ones; None below a second."""
        known = {kind: sum(times) / len(times) for kind, times in self._times.items()}
        seconds = sum(known.get(kind, 0.0) * max(0, count) for kind, count in self._waiting.items())
        now = time.monotonic()
        for cell in running:  # what they have done of theirs; an unknown one's rest is told by how far it is
            kind, share = type(cell).__name__, self._fractions.get(cell.key, 0.0)
            spent = now - self._started.get(cell.key, now)
            if share > KNOWN:
                seconds += max(0.0, spent / share - spent) - known.get(kind, 0.0)
            else:
                seconds -= min(spent, known.get(kind, 0.0))
        seconds /= max(1, len(running))
        return seconds if seconds >= 1 else None

    def finished(self, cell: Cell, seconds: float, warnings: tuple[str, ...] = ()) -> None:
        """A cell is in the store. Its warnings are said, each text once; by a quiet run, too."""
        self._finished += 1
        self._times.setdefault(type(cell).__name__, []).append(seconds)
        self._drop(cell)
        if self._worst is not None:
            self._look(cell.key)
        for text in warnings:
            if text not in self._warned:
                self._warned.add(text)
                tell(f"robassay: {title(cell)} ({cell.key}): {text}")

    def failed(self, cell: Cell, error: str) -> None:
        """A cell failed; said even when quiet."""
        self._finished += 1
        self._drop(cell)
        if not self.silent:
            tell(f"robassay: failed: {title(cell)} ({cell.key}): {error}")

    def said(self, text: str) -> None:
        """Something that whoever waits must know; said even when quiet."""
        if not self.silent:
            tell(f"robassay: {text}")

    def _drop(self, cell: Cell) -> None:
        self._fractions.pop(cell.key, None)
        self._waiting[type(cell).__name__] -= 1
        task = self._tasks.pop(cell.key, None)
        if self._bar is not None and task is not None:
            self._bar.remove_task(task)

    def end(self) -> None:
        """The run is over, or was interrupted."""
        if self._live is not None:
            self._live.stop()
            self._live = self._bar = None


def _short(text: str) -> str:
    return text if len(text) <= WIDE else text[: WIDE - 1] + "…"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
