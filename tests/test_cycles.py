"""Planning does without Python's search for cycles."""

from __future__ import annotations

import gc

import pytest

from robassay.cell import without_cycles


def test_the_search_for_cycles_rests_while_cells_are_planned():
    """And goes on afterwards, also where the work fails; one that the caller has stopped stays stopped."""
    seen = []

    @without_cycles
    def work(fails: bool) -> str:
        seen.append(gc.isenabled())
        if fails:
            raise ValueError
        return "done"

    assert work(fails=False) == "done" and gc.isenabled()
    with pytest.raises(ValueError):
        work(fails=True)
    assert gc.isenabled() and seen == [False, False]
    gc.disable()
    try:
        work(fails=False)
        assert not gc.isenabled()
    finally:
        gc.enable()
