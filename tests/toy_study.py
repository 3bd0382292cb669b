"""A study of toy cells for the runner's tests, loaded the way a user's file is."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

from robassay.cell import Cell, cell


@cell
class Number(Cell):
    """A random number of its own stream, after a while; leaves a line in a file each time it is computed."""

    name: int
    seconds: float = 0.0
    after: tuple[Cell, ...] = ()

    def compute(self, ctx):
        for i in range(10):
            time.sleep(self.seconds / 10)
            ctx.progress(i + 1, 10)
        trace = os.environ.get("TOY_TRACE")
        if trace:
            with Path(trace).open("a", encoding="utf-8") as file:
                file.write(f"{self.key}\n")
        print("a line for the log")
        total = sum(float(ctx.load(n)["value"].sum()) for n in self.after)
        return {"value": torch.randn(3) + total}


@cell
class Fails(Cell):
    """Raises, the first ``times`` times that it is computed."""

    times: int = 10**6

    def compute(self, ctx):
        count = ctx.scratch / "count"
        tried = int(count.read_text()) if count.is_file() else 0
        count.write_text(str(tried + 1))
        if tried < self.times:
            raise ValueError("a broken cell")
        return {"value": torch.zeros(1)}


@cell
class Dies(Cell):
    """Its process ends without a word, the first time."""

    def compute(self, ctx):
        mark = ctx.scratch / "died"
        if not mark.exists():
            mark.write_text("x")
            os._exit(9)
        return {"value": torch.zeros(1)}
