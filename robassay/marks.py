"""Who computes a cell: a small file in its scratch folder, by which others see that it runs, or that it was cut off.

Nothing is decided by a clock: a process is alive when it is there and began when the mark says.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
from pathlib import Path
from typing import Literal

from robassay.safe import Unsafe, content, parsed

MARK = "running.json"
State = Literal["running", "elsewhere", "interrupted"]
"""Running here; begun on another machine, whose processes cannot be seen from here; or its process is gone."""


def leave(folder: Path) -> None:
    """Say in ``folder`` that this process computes its cell."""
    told = {"host": platform.node(), "pid": os.getpid(), "began": _began(os.getpid())}
    with contextlib.suppress(OSError):
        (folder / MARK).write_text(json.dumps(told), encoding="utf-8")


def drop(folder: Path) -> None:
    """This process does not compute the cell any more."""
    with contextlib.suppress(OSError):
        (folder / MARK).unlink()


def state(folder: Path) -> tuple[State, str] | None:
    """What became of the process that left its mark in ``folder``, with its host and number; None without a mark."""
    try:
        told = parsed(content(folder / MARK))
        host, pid, began = str(told["host"]), int(told["pid"]), told["began"]
    except (OSError, Unsafe, ValueError, KeyError, TypeError, OverflowError):
        return None
    where = f"process {pid} on {host}"
    if host != platform.node():
        return "elsewhere", where
    return ("running" if began is not None and _began(pid) == began else "interrupted"), where


def _began(pid: int) -> str | None:
    """When a process began, in the system's own count, so that a number used again is not taken for it."""
    try:
        # Behind the name, which may hold blanks and brackets; field 22 of proc(5). A zombie computes nothing.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    except (OSError, IndexError):
        pass
    if Path("/proc/self/stat").exists():
        return None
    try:
        os.kill(pid, 0)
    except (OSError, OverflowError, ValueError):
        return None
    return "unknown"
