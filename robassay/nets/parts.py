"""Long runs of a spiking network in parts of its time steps, so that memory does not grow with the steps.

With gradients a part keeps only the state at its beginning and is run again on the way back, with the same random
numbers and under the same backward rule. Source: Chen et al. 2016 (checkpointing).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from robassay.analogue import stand_in, standing_in
from robassay.errors import UsageError
from robassay.rules import Rule, WindowRule

PART_VALUES = 2**26
"""Most potentials of a part with gradients, 256 MiB in float32 and about three times as much in all: a second part
means that all steps are computed twice."""
BARE_VALUES = 2**22
"""Most potentials of a part without gradients: memory that is small enough to be used again for the next one."""
WHOLE_VALUES = 2**30
"""Most potentials of a run that cannot be parted."""

State = tuple[Tensor, ...]
Run = Callable[[int, int, State], State]


def part_steps(steps: int, values: int, rule: Rule) -> int:
    """Time steps of a part where ``values`` neurons (batch included) run for ``steps`` under ``rule``.

    Constants decide, not the machine's memory: rounding, and now and then a spike, depends on the parts.

    Raises:
        UsageError: for a gradient a rule of whole spike trains asks for all steps at once, which is too much.
    """
    if not torch.is_grad_enabled():
        return max(1, min(steps, BARE_VALUES // max(1, values)))
    if isinstance(rule, WindowRule):
        if steps * values > WHOLE_VALUES:
            raise UsageError(
                f"{steps} steps of {values:,} neurons under a rule of whole spike trains need "
                f"{steps * values * 12 / 2**30:.0f} GiB at once. Write a smaller batch or fewer steps, or take a rule "
                "of single potentials, such as Triangle(), which runs in parts."
            )
        return steps
    return max(1, min(steps, PART_VALUES // max(1, values)))


def in_parts(run: Run, steps: int, most: int) -> State:
    """The state after ``steps`` steps, run in parts of at most ``most``.

    Args:
        run: (start, stop, state) → the state behind step ``stop``; at start 0 the state is (). Random numbers come from
            torch's global generator.
        steps, most: 1 or more.
    """
    state: State = ()
    twin = stand_in()
    for start in range(0, steps, most):
        stop = min(start + most, steps)
        if torch.is_grad_enabled() and most < steps:
            # The graph keeps the rules of this pass; run again, a part only gives back what the graph did not keep.
            # That has to be the same pass, the twin's where the twin was asked.
            again = lambda: (nullcontext(), standing_in(twin))
            state = checkpoint(run, start, stop, state, use_reentrant=False, context_fn=again)
        else:
            state = run(start, stop, state)
    return state
