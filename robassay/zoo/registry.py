"""``zoo:NAME``: a network of the zoo as a model cell, its weights read from the package."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file

from robassay.cell import Arrays, Context, Model, cell
from robassay.classifier import Classifier
from robassay.data import Data, find
from robassay.errors import RobassayError, UsageError, suggest
from robassay.training import WEIGHT, restore
from robassay.zoo.entries import ENTRIES, SEEDS, Entry
from robassay.zoo.nets import TRAINED

PREFIX = "zoo:"
WEIGHTS = Path(__file__).with_name("weights")
INDEX = "index.json"


@cell
class Kept(Model):
    """A network of the zoo; its identity is its name with the digest of its weights.

    Args:
        name: of its entry.
        digest: SHA-256 of the weights file, 16 hex digits.
        bare: as an attacker sees it who knows how it is made; the truth is measured with it.
        file: of the weights, in the package; not identity, which the digest is.
    """

    runs_network = False

    version: ClassVar[int] = 1
    name: str
    digest: str
    file: str
    bare: bool = False

    @property
    def data(self) -> Data:
        """What it was trained on."""
        return find("digits")

    @property
    def summary(self) -> str:
        """What a report says it is."""
        return f"zoo:{self.name} ({ENTRIES[self.name].summary})"

    def compute(self, ctx: Context) -> Arrays:
        return {"kept": torch.tensor(1)}

    def open(self, ctx: Context) -> Classifier:
        """The network; see :meth:`network`."""
        return self.network()

    def network(self) -> Classifier:
        """The network with its weights, as a classifier.

        Raises:
            RobassayError: the package's weights are missing or not those of the index.
        """
        path = WEIGHTS / self.file
        if not path.is_file() or _digest(path) != self.digest:
            raise RobassayError(f"{path} is missing or not what the zoo's index says. Install robassay again.")
        entry, data = ENTRIES[self.name], self.data
        weights = {WEIGHT + name: tensor for name, tensor in load_file(path).items()}
        trained = restore(TRAINED[entry.trained].net, data.shape, data.classes, weights)
        return entry.bare(trained) if self.bare else entry.dress(trained)


def network(name: str, seed: int = 0) -> Classifier:
    """A network of the zoo, in eval mode and frozen, to be called like any module: images (B, 1, 8, 8) in [0,1].

    Args:
        name, seed: as in :func:`model`.

    Raises:
        UsageError: no such network, or no such seed.
        RobassayError: the package's weights are missing or not those of the index.
    """
    return model(name, seed).network().eval().requires_grad_(False)


def model(name: str, seed: int = 0, bare: bool = False) -> Kept:
    """The cell of a network of the zoo.

    Args:
        name: of the zoo, such as "plain-x100".
        seed: of its training, 0 to 2.
        bare: see :class:`Kept`.

    Raises:
        UsageError: no such network, or no such seed.
    """
    entry = known(name)
    if not 0 <= seed < SEEDS:
        raise UsageError(
            f"seed {seed}: the zoo's networks were trained with seeds 0 to {SEEDS - 1}. Write one of them."
        )
    file = f"{entry.trained}-{seed}.safetensors"
    return Kept(name, index()["weights"][file]["sha256"], file, bare)


def asked(
    target: str, linf: float | None, l2: float | None, claimed: str, seed: int = 0
) -> tuple[Kept, float | None, str]:
    """What ``zoo:NAME`` stands for in an audit: the cell, the L∞ radius and the claim; the zoo's own where not given.

    Raises:
        UsageError: no such network, or no such seed.
    """
    found = model(target.removeprefix(PREFIX), seed)
    own = ENTRIES[found.name].eps if linf is None and l2 is None else linf
    return found, own, claimed or ENTRIES[found.name].claimed


def known(name: str) -> Entry:
    """The entry of a name.

    Raises:
        UsageError: there is none.
    """
    if name not in ENTRIES:
        raise UsageError(f"the zoo has no '{name}'. {suggest(name, list(ENTRIES))} See: robassay list zoo")
    return ENTRIES[name]


@cache
def index() -> dict[str, Any]:
    """What was measured when the zoo was made: the digest of every weights file, and per network and seed the truth.

    ``{"weights": {FILE: {"sha256": …}}, "truth": {NAME: [per seed: …]}}``; the truth as in :mod:`robassay.zoo.truth`.
    """
    found: dict[str, Any] = json.loads((WEIGHTS / INDEX).read_text(encoding="utf-8"))
    return found


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
