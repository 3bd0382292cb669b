"""A standard audit against the combination that one runs by hand: pyautoattack's ensemble for random networks, as it
comes (APGD on two losses, 100 steps, EoT over 20 draws), and foolbox's FGSM, PGD-100 and DeepFool with EoT over 20
draws, both as the referee runs them at budget standard.

What is left is judged by the same 100 fresh draws: of the audit's strongest images, and of the worse of the two peers'
per image, chosen on other draws. The audit's seconds are those of the verdict, with the curves and pictures of its
report and without; a quick audit stands beside it.

Run:   python bench/audits.py [--images 100]     (ROBASSAY_DATA names the folder with MNIST; a quarter of an hour)
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import tempfile
from typing import Any

import torch
from harness import Figures, Rivals, compare, save
from subjects import STORE, trained
from torch import Tensor
from unbeaten import EPS, mnist_nets

from robassay.auditing import Budget, plan_audit
from robassay.cell import Model
from robassay.cells import Examples
from robassay.classifier import Classifier
from robassay.data import find, pixels
from robassay.referee import DELTA, DRAWS, strongest
from robassay.referee.tools import TOOLS
from robassay.rng import Stream
from robassay.run import carry_out
from robassay.store import Store
from robassay.threat import Threat

RNG = Stream(("bench", "audits"))
THREAT = Threat("linf", EPS)
ASKED = ("noise head", "BSN-2", "RS-1")


@torch.no_grad()
def right(model: Classifier, x: Tensor, y: Tensor, which: str) -> Tensor:
    """Per image (N,) the share of 100 fresh draws that are right."""
    draws = model.sample(model.features(x), DRAWS, RNG.child(which))
    return (draws.argmax(-1) == y).float().mean(0)


def by_hand(model: Classifier, x: Tensor, y: Tensor) -> Tensor:
    """The worse of both peers' images, per image, as 100 draws see it."""
    with RNG.child("by hand").active():
        found = torch.stack(
            [TOOLS[peer](model, x, y, THREAT, "standard").images for peer in ("pyautoattack", "foolbox")]
        )
    worse = torch.stack([right(model, one, y, "choose") for one in found]).argmin(0)
    return found[worse, torch.arange(len(x))]


def row(name: str, cell: Model, on: Examples, rounds: int) -> dict[str, Any]:
    model, images = trained(cell), on.load()
    x, y = pixels(images.x), images.y

    def audited(budget: Budget, shown: bool = False) -> Figures:
        with tempfile.TemporaryDirectory() as folder:
            store = Store(folder + "/store")
            shutil.copytree(Store(STORE).folder(cell.key), store.folder(cell.key))
            item = plan_audit(cell, on, THREAT, budget, DRAWS, DELTA, store, "bench")
            if not shown:
                item = dataclasses.replace(item, evidence=())
            if carry_out(item.needs(), store, 0, silent=True).failed:
                raise SystemExit("The audit failed.")
            return {"robust": float(right(model, strongest(item, cell, on, store), y, "judge").mean())}

    ways = {
        "by hand": lambda: {"robust": float(right(model, by_hand(model, x, y), y, "judge").mean())},
        "audit": lambda: audited("standard"),
        "audit with its report's evidence": lambda: audited("standard", shown=True),
        "quick audit": lambda: audited("quick"),
    }
    task = f"standard audit, {name}, {len(x)} images"
    rivals = Rivals("audit", ("by hand",), "robust", slack=0.0)
    return compare(task, ways, rounds, rivals, warm=False)


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--images", type=int, default=100)
    ask.add_argument("--rounds", type=int, default=1)
    ask.add_argument("--nets", nargs="+", default=ASKED)
    said = ask.parse_args()
    torch.set_num_threads(1)
    on = Examples(find("mnist"), "test", 0, said.images)
    nets = mnist_nets()
    save("audits", [row(name, nets[name], on, said.rounds) for name in said.nets])


if __name__ == "__main__":
    main()
