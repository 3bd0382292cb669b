"""What a study still needs: every cell once, what is needed first, minus what the store has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from robassay.cell import Cell, Model, with_needs, without_cycles
from robassay.store import Store


class Plan(NamedTuple):
    """Cells in an order in which they can be computed, and which of them are done."""

    order: tuple[Cell, ...]
    todo: tuple[Cell, ...]
    done: frozenset[str]
    wanted: tuple[Cell, ...]


@without_cycles
def plan(wanted: Iterable[Cell], store: Store | None) -> Plan:
    """The plan for ``wanted`` cells; without a store nothing is there yet.

    A cell that is missing only as a step towards finished ones is not asked for again.
    """
    wanted = tuple(wanted)
    have = set() if store is None else store.done()
    order = with_needs(list(wanted))
    needed: set[str] = set()
    waiting = [c for c in wanted if c.key not in have]
    while waiting:
        cell = waiting.pop()
        if cell.key in needed or cell.key in have:
            continue
        needed.add(cell.key)
        waiting += cell.needs
    # Trainings are long and much waits for them: they come first, so that the last one does not run alone.
    todo = tuple(sorted((c for c in order if c.key in needed), key=lambda c: not isinstance(c, Model)))
    return Plan(tuple(order), todo, frozenset(c.key for c in order if c.key in have), wanted)
