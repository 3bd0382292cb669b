"""How far a study is: what is done, running, failed, blocked or waiting, and why. Opens no result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from robassay import marks
from robassay.store import Store

if TYPE_CHECKING:  # a store is looked at without torch
    from robassay.plan import Plan


class Standing(NamedTuple):
    """The cells of a plan that are not done, by key."""

    done: int
    running: dict[str, str]
    """Where each one runs; on another machine it may have been cut off there, which cannot be seen from here."""
    interrupted: dict[str, str]
    """Begun and cut off; the next run goes on from its checkpoint where it has one."""
    failed: dict[str, str]
    blocked: dict[str, str]
    """The failed cell that each one needs."""
    waiting: tuple[str, ...]


def standing(plan: Plan, store: Store) -> Standing:
    """Where the cells of a plan stand."""
    todo = {cell.key for cell in plan.todo}
    failures = {key: why for key, why in store.failures().items() if key in todo}
    begun = {key: found for key in store.keys("scratch") if key in todo and (found := _begun(store, key))}
    running = {key: where for key, (state, where) in begun.items() if state != "interrupted"}
    interrupted = {key: where for key, (state, where) in begun.items() if state == "interrupted"}
    failed = {key: why for key, why in failures.items() if key not in running}
    blocked: dict[str, str] = {}
    for cell in plan.order:  # what is needed comes first
        bad = next((blocked.get(n.key, n.key) for n in cell.needs if n.key in failed or n.key in blocked), None)
        if bad is not None and cell.key in todo:
            blocked[cell.key] = bad
    told = running.keys() | interrupted.keys() | failed.keys() | blocked.keys()
    waiting = tuple(cell.key for cell in plan.todo if cell.key not in told)
    return Standing(len(plan.done), running, interrupted, failed, blocked, waiting)


def _begun(store: Store, key: str) -> tuple[str, str] | None:
    found = marks.state(store.root / "scratch" / key)
    if found is None:
        return None
    state, where = found
    return state, where + _share(store, key) + (" (cannot be seen from here)" if state == "elsewhere" else "")


def _share(store: Store, key: str) -> str:
    try:
        done, total = (store.root / "scratch" / key / "progress").read_text(encoding="utf-8").split()
        return f", {100 * int(done) // max(1, int(total))} %"
    except (OSError, ValueError):
        return ""


def stored(store: Store) -> dict[str, dict[str, Any]]:
    """How far each study of a store is, from what the store says alone: without the code that described it."""
    done, failures, found = store.done(), store.failures(), {}
    running = {
        key
        for key in store.keys("scratch")
        if (m := marks.state(store.root / "scratch" / key)) and m[0] != "interrupted"
    }
    for name in store.names():
        frozen = store.study(name)
        cells = dict.fromkeys([*frozen.get("behind", []), *frozen["needs"]])
        wanted = set(frozen["needs"])
        found[name] = {
            "title": str(frozen.get("title", name)),
            "cells": len(cells),
            "done": sum(key in done for key in cells),
            # What is behind finished cells alone need not be there.
            "missing": sum(key not in done for key in wanted),
            "running": sum(key in running for key in cells),
            "failed": {key: failures[key] for key in cells if key in failures},
            "command": str(frozen.get("command", "")),
        }
    return found
