"""What every exam has in common: named checks, all of them run, all failures reported together."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import NamedTuple

from robassay.errors import RobassayError
from robassay.rng import Stream

RNG = Stream(("exam",))


class Result(NamedTuple):
    """One promise of a contract."""

    promise: str
    ok: bool
    detail: str
    """When broken: what was seen and how to mend it. When kept: empty, or a remark."""


class ContractError(RobassayError):
    """A part breaks promises of its contract.

    Attributes:
        results: of all checks, kept promises included.
    """

    def __init__(self, part: str, results: list[Result]) -> None:
        broken = [f"\n  - {r.promise}: {r.detail}" for r in results if not r.ok]
        super().__init__(f"{part} breaks {len(broken)} of {len(results)} promises:{''.join(broken)}")
        self.results = results


class Broken(Exception):
    """A check's finding that a promise is broken; the message says what was seen and how to mend it."""


Check = Callable[[], str | None]
"""Returns a remark or None; raises Broken."""


Watcher = Callable[[str, int, int, str], None]
"""Told the part, how many of its checks are done, how many there are, and which begins."""
watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


def examine(part: str, checks: list[tuple[str, Check]]) -> list[Result]:
    """Runs the checks; a failed first one makes the others meaningless."""
    results: list[Result] = []
    told = watcher.get()
    for promise, check in checks:
        if told is not None:
            told(part, len(results), len(checks), promise)
        try:
            results.append(Result(promise, True, check() or ""))
        except Broken as broken:
            results.append(Result(promise, False, str(broken)))
        except Exception as error:
            results.append(Result(promise, False, f"it raised {type(error).__name__}: {error}"))
        if not results[0].ok:
            break
    if not all(r.ok for r in results):
        raise ContractError(part, results)
    return results


def need(kept: object, otherwise: str) -> None:
    """Raise Broken unless ``kept``."""
    if not kept:
        raise Broken(otherwise)
