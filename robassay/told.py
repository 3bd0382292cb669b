"""Cells that tell numbers per example other than decisions, in the form in which evaluations are read."""

from __future__ import annotations

import torch
from torch import Tensor

from robassay.cell import Arrays, Cell

TOLD = "told/"


class Tell(Cell):
    """A cell whose result is :func:`telling`; the folds of :mod:`robassay.averages` read it."""


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
