"""The two kinds of error a user meets: every message says what was given, why it is wrong, what to write instead."""

from __future__ import annotations

import contextlib
import errno
import sys


class RobassayError(Exception):
    """Something failed while working; the command line exits with 1."""


class UsageError(RobassayError):
    """What was asked for cannot be done as written; the command line exits with 2."""


class LostCell(RobassayError):
    """A finished cell is not there any more, or is not what was written: it has to be computed anew."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(key, message)
        self.key, self.message = key, message

    def __str__(self) -> str:
        return self.message


class Unwritable(RobassayError):
    """The store takes nothing more: the disk is full, or may only be read. No other cell would fare better."""


class AttackWarning(UserWarning):
    """An attack goes on, but what it finds may be worth less than it looks."""


class Interrupted(RobassayError):
    """The user pressed Ctrl-C; the command line exits with 130."""


class Terminated(RobassayError):
    """The system asked for an end (SIGTERM); the command line exits with 143."""


def unwritable(what: object, error: OSError) -> Unwritable:
    """What to say when ``what`` could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        why = "the disk is full, or the file larger than is allowed"
        advice = "What is finished is kept: free some space (robassay gc shows what no study needs), then run again"
    elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        why, advice = "it may only be read", "Make it writable, or choose another place (--store, --report)"
    else:
        why, advice = error.strerror or str(error), "What is finished is kept: look at the disk, then run again"
    return Unwritable(f"'{what}' cannot be written: {why}. {advice}.")


def printable(text: str) -> str:
    """``text`` without what a terminal would obey: escape sequences and other control characters become "?"."""
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)


def tell(text: str) -> None:
    """Print on standard error. Where that cannot be done, its disk being full perhaps, work goes on without."""
    with contextlib.suppress(OSError):
        print(printable(text), file=sys.stderr, flush=True)


def suggest(given: str, known: list[str]) -> str:
    """A sentence that names the nearest known word, or all of them when none is near."""
    import difflib

    near = difflib.get_close_matches(given.lower(), known, n=1, cutoff=0.6)
    return f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(sorted(known))}."
