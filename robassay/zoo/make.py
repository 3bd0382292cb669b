"""Making the zoo: ``make zoo`` trains its networks, measures what is true of each, and writes both into the package."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from robassay.cell import Cell
from robassay.data import find
from robassay.errors import RobassayError
from robassay.models import Train
from robassay.run import carry_out
from robassay.store import Store
from robassay.training import WEIGHT
from robassay.zoo.entries import ENTRIES, SEEDS
from robassay.zoo.nets import TRAINED
from robassay.zoo.registry import INDEX, WEIGHTS, index
from robassay.zoo.truth import truth


def make(store: Store, workers: int = 0) -> None:
    """Train, write the weights, measure the truth, write the index.

    Raises:
        RobassayError: a training or an attack failed.
    """
    cells = {f"{name}-{seed}.safetensors": _training(name, seed) for name in TRAINED for seed in range(SEEDS)}
    _carry_out(list(cells.values()), store, workers)
    digests = {file: {"sha256": _write(file, store.read(one.key))} for file, one in cells.items()}
    _write_index({"weights": digests, "truth": {}})
    found = {(name, seed): truth(name, seed) for name in ENTRIES for seed in range(SEEDS)}
    _carry_out([cell for one in found.values() for cell in one.needs()], store, workers)
    told: dict[str, list[Any]] = {name: [] for name in ENTRIES}
    for (name, _), one in found.items():
        told[name].append(one.read(store))
    _write_index({"weights": digests, "truth": told})
    for name, seeds in told.items():
        for seed, one in enumerate(seeds):
            print(line(name, seed, one))


def line(name: str, seed: int, told: Mapping[str, Any]) -> str:
    """One network's truth for a terminal."""
    rates = "  ".join(f"{what} {100 * told[what]['value']:5.1f}" for what in ("clean", "claimed", "adequate", "best"))
    hidden = told["hidden"]
    side = "masked" if ENTRIES[name].masked else "honest"
    gap = f"{100 * hidden['value']:5.1f} [{100 * hidden['low']:.1f}, {100 * hidden['high']:.1f}]"
    return f"{name:24} {seed}  {side}  {rates}  hidden {gap}"


def _training(name: str, seed: int) -> Train:
    net, recipe = TRAINED[name]
    return Train(net, find("digits"), recipe, seed=seed)


def _carry_out(cells: list[Cell], store: Store, workers: int) -> None:
    failed = carry_out(cells, store, workers).failed
    if failed:
        raise RobassayError(next(iter(failed.values())))


def _write(file: str, arrays: Mapping[str, np.ndarray]) -> str:
    """Write a state dict; the digest of the file."""
    weights = {n.removeprefix(WEIGHT): torch.from_numpy(a) for n, a in arrays.items() if n.startswith(WEIGHT)}
    content = save(weights)
    (WEIGHTS / file).write_bytes(content)
    return hashlib.sha256(content).hexdigest()[:16]


def _write_index(told: Mapping[str, Any]) -> None:
    (WEIGHTS / INDEX).write_text(json.dumps(told, sort_keys=True) + "\n", encoding="utf-8")
    index.cache_clear()


if __name__ == "__main__":
    torch.set_num_threads(1)
    make(Store(Path(sys.argv[1] if len(sys.argv) > 1 else "robassay-store-zoo")))
