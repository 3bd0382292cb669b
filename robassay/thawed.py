"""Folds by name, as a frozen study tells them. NumPy only."""

from __future__ import annotations

from typing import Any

from robassay import averages, contrasts, folds, gates, leads, seeds
from robassay.folds import Fold

FOLDS: dict[str, type[Fold]] = {
    name: found
    for module in (folds, gates, leads, seeds, contrasts, averages)
    for name, found in vars(module).items()
    if isinstance(found, type) and issubclass(found, Fold) and found is not Fold
}


def thaw(frozen: dict[str, Any]) -> Fold:
    """The fold that a frozen study names; what was a tuple has become a list in JSON."""
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in frozen.items() if k != "type"}
    return FOLDS[frozen["type"]](**fields)
