"""Folds by name, as a frozen study tells them. NumPy only."""

from __future__ import annotations

from typing import Any

from robassay import averages, calm, contrasts, folds, gates, leads, orderings, seeds
from robassay.folds import Fold

FOLDS: dict[str, type[Fold]] = {
    name: found
    for module in (folds, gates, leads, seeds, contrasts, orderings, averages, calm)
    for name, found in vars(module).items()
    if isinstance(found, type) and issubclass(found, Fold) and found is not Fold
}


def thaw(frozen: dict[str, Any]) -> Fold:
    """The fold that a frozen study names; what was a tuple has become a list in JSON."""
    return FOLDS[frozen["type"]](**{k: _tuples(v) for k, v in frozen.items() if k != "type"})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(one) for one in value) if isinstance(value, list) else value
