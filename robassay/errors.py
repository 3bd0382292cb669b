"""The two kinds of error a user meets: every message says what was given, why it is wrong, what to write instead."""

from __future__ import annotations


class RobassayError(Exception):
    """Something failed while working; the command line exits with 1."""


class UsageError(RobassayError):
    """What was asked for cannot be done as written; the command line exits with 2."""


class AttackWarning(UserWarning):
    """An attack goes on, but what it finds may be worth less than it looks."""


class Interrupted(RobassayError):
    """The user pressed Ctrl-C; the command line exits with 130."""


def suggest(given: str, known: list[str]) -> str:
    """A sentence that names the nearest known word, or all of them when none is near."""
    import difflib

    near = difflib.get_close_matches(given.lower(), known, n=1, cutoff=0.6)
    return f"Did you mean '{near[0]}'?" if near else f"Known: {', '.join(sorted(known))}."
