"""A cell that keeps one core busy for a known amount of work, for measuring how well a cluster shares work out."""

from __future__ import annotations

import torch

from robassay.cell import Cell, cell


@cell
class Burn(Cell):
    """``products`` products of 256×256 matrices: the same work wherever it is computed."""

    name: int
    products: int = 0

    def compute(self, ctx):
        a = torch.randn(256, 256) / 16
        b = a.clone()
        for _ in range(self.products):
            b = (a @ b).clamp(-1, 1)
        return {"value": b.sum()[None]}
