"""Passes in parts: what a network computes row by row it may compute for fewer rows at a time, when memory is short.

How many rows share a pass is no part of a result's name, so only passes whose rows know nothing of each other are ever
divided: those of a classifier that is neither coupled nor in training, and its random part not at all, since noise for
half a batch is not half of the noise for a batch.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

Pass = Callable[[Tensor], Tensor]


class Rows:
    """Rows per pass of the cell that this process computes; one at a time, as everywhere."""

    def __init__(self) -> None:
        self.limit: int | None = None
        """The most rows of a divided pass; None divides nothing."""
        self.largest = 0
        """Rows of the largest pass that could have been divided."""
        self.divided = False
        """Whether a pass was divided under this limit."""
        self.failed = False
        """Whether the last exception came out of a part of a divided pass."""

    def halve(self) -> bool:
        """Let half as many rows share a pass; False where that cannot help.

        It cannot where no pass may be divided, where one row is left, and where what failed was no part of a divided
        pass, although passes are divided.
        """
        if not self.largest or self.limit == 1 or (self.limit is not None and not self.failed):
            return False
        self.limit = max(1, min(self.largest, self.limit or self.largest) // 2)
        self.divided = self.failed = False
        return True

    def part(self, compute: Callable[..., Tensor], *given: Any) -> Tensor:
        """A part of a divided pass."""
        self.divided, self.failed = True, True
        made = compute(*given)
        self.failed = False
        return made


_rows = Rows()


@contextmanager
def counted() -> Iterator[Rows]:
    """Inside, the rows of passes are counted, and limited by what is set in the value given."""
    global _rows  # noqa: PLW0603 (a context variable would be another one in autograd's threads)
    before, _rows = _rows, Rows()
    try:
        yield _rows
    finally:
        _rows = before


def in_parts(compute: Pass, h: Tensor) -> Tensor:
    """``compute(h)`` for rows ``h`` (B, …), at most the limit's number of them at a time.

    Where a gradient is asked for, only ``h`` is kept for it: every part is computed again when it is its turn, so that
    one part's graph is alive at a time. The gradient is that of ``h``; parameters get none.
    """
    _rows.largest = max(_rows.largest, len(h))
    if _rows.limit is None or len(h) <= _rows.limit:
        return compute(h)
    if torch.is_grad_enabled() and h.requires_grad:
        divided: Tensor = _Parts.apply(h, compute, _rows.limit)
        return divided
    return _in_parts(compute, h, _rows.limit)


def _in_parts(compute: Pass, h: Tensor, rows: int) -> Tensor:
    return torch.cat([_rows.part(compute, part) for part in h.split(rows)])


class _Parts(torch.autograd.Function):
    """A pass in parts with the gradient of its input."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, compute: Pass, rows: int) -> Tensor:
        # Backward rules are context variables, which autograd's threads do not inherit.
        ctx.compute, ctx.rows, ctx.around = compute, rows, contextvars.copy_context()
        ctx.save_for_backward(h)
        return _in_parts(compute, h, rows)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (h,) = ctx.saved_tensors
        parts = zip(h.split(ctx.rows), gradients[0].split(ctx.rows), strict=True)
        found = [_rows.part(ctx.around.run, _part_gradient, ctx.compute, *both) for both in parts]
        return torch.cat(found), None, None


def _part_gradient(compute: Pass, part: Tensor, gradient: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = part.detach().requires_grad_()
        out = compute(leaf)
        if not out.requires_grad:
            return torch.zeros_like(leaf)
        (found,) = torch.autograd.grad(out, leaf, gradient, allow_unused=True, materialize_grads=True)
    return found
