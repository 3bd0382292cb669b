"""SIGTERM, as cluster schedulers send it before they kill: running cells may finish within a grace period."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from robassay.errors import Terminated


class _End(BaseException):
    """Not an Exception, which a cell that is computed in this process would take for its own."""


GRACE = 20.0
"""Seconds; clusters usually kill 30 s after SIGTERM."""
STOPPED = "stopped by SIGTERM; what was finished is kept. Run the same command again to go on."


@contextmanager
def until_told(grace: float = GRACE) -> Iterator[Callable[[], bool]]:
    """Inside, the first SIGTERM makes what is yielded return True: no further cell is started.

    Whatever still runs ``grace`` seconds later, or at a second SIGTERM, is ended, and :class:`Terminated` raised.
    Elsewhere than in the main thread nothing is changed.
    """
    told = False

    def first(number: int, frame: FrameType | None) -> None:
        nonlocal told
        if told or grace <= 0:
            end(number, frame)
        told = True
        os.write(2, f"robassay: SIGTERM: running cells are given {grace:g} s to finish.\n".encode())
        signal.setitimer(signal.ITIMER_REAL, grace)

    def end(number: int, frame: FrameType | None) -> None:
        raise _End

    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield lambda: False
        return
    before = signal.signal(signal.SIGTERM, first), signal.signal(signal.SIGALRM, end)
    try:
        yield lambda: told
    except _End as error:
        raise Terminated(STOPPED) from error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGTERM, before[0])
        signal.signal(signal.SIGALRM, before[1])
