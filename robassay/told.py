"""Cells that are no evaluations, but are read as if they were: they tell something of every example."""

from __future__ import annotations

import torch
from torch import Tensor

from robassay.cell import Arrays, Cell

TOLD = "told/"


class Tell(Cell):
    """A cell other than a Score with a Score's result arrays, so that folds read it.

    Those of :mod:`robassay.averages` read what :func:`telling` adds to them.
    """


def telling(numbers: dict[str, Tensor], labels: Tensor) -> Arrays:
    """Numbers per example (N,) by name, as float64, in the place of decisions about examples with ``labels`` (N,)."""
    n = len(labels)
    return {
        "decisions": labels[None].to(torch.int16),
        "labels": labels.clone(),
        "block": torch.zeros(n, dtype=torch.int64),
        "shared": torch.tensor(0, dtype=torch.uint8),
        **{name: torch.zeros(n) for name in ("linf", "l2", "l0")},
        **{TOLD + name: values.double().cpu().clone() for name, values in numbers.items()},
    }
