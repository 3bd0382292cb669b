"""The study of bench/faults.py: a few tiny networks and cells that take a while, run as a user's file."""

from __future__ import annotations

import os
import time

import torch

import robassay as ra
from robassay.access import White
from robassay.attacks.gradient import FGSM
from robassay.cell import Cell, cell
from robassay.nets.mlp import MLP
from robassay.study import Item
from robassay.training import Recipe

SECONDS = 0.03


@cell
class Slow(Cell):
    """Three random numbers of its own stream, after a while."""

    name: int
    after: tuple[Cell, ...] = ()

    def compute(self, ctx):
        for i in range(3):
            time.sleep(SECONDS / 3)
            ctx.progress(i + 1, 3)
        with open(os.environ["FAULT_TRACE"], "a", encoding="utf-8") as file:
            file.write(f"{self.key}\n")
        total = sum(float(ctx.load(need)["value"].sum()) for need in self.after)
        return {"value": torch.randn(3) + total}


class Steps(Item):
    """Asks for the slow cells; nothing is shown of them."""

    id = "steps"

    def __init__(self, cells):
        self.cells = cells

    def needs(self):
        return list(self.cells)

    def freeze(self):
        return {"kind": "steps", "id": self.id}


def study():
    """Two trainings, an attack on each, a table; and twelve slow cells in three chains."""
    data = ra.find("digits")
    on = ra.Examples(data, "test", 0, 40)
    entries = {}
    for seed in range(2):
        model = ra.Train(MLP((16,)), data, Recipe(epochs=4), seed=seed)
        craft = ra.Craft((model,), on, FGSM(), ra.Threat("linf", 0.1), White())
        entries[str(seed), "clean"] = ra.Measure(((ra.Score(model, on),),), ra.Accuracy())
        entries[str(seed), "fgsm"] = ra.Measure(((ra.Score(model, craft),),), ra.Accuracy())
    slow: list = []
    for i in range(12):
        slow.append(Slow(i, tuple(slow[-3:-2])))
    table = ra.Table("t1", "Accuracy", ("0", "1"), ("clean", "fgsm"), entries)
    return ra.Study("faults", "Faults", (table, Steps(slow)))
