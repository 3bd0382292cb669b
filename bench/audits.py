"""A standard audit against two combinations that one runs by hand, both with pyautoattack's ensemble as it comes
(for random networks APGD on two losses, 100 steps, EoT over 20 draws):

- by hand: foolbox's FGSM, PGD-100 and DeepFool beside it, as the referee runs them at budget standard;
- lighter: foolbox's PGD-40 beside it. EoT over 20 draws in both.

What is left is judged by the same 100 fresh draws: of the audit's strongest images, and of the worse of the two peers'
per image, chosen on other draws. The audit's seconds are those of the verdict; what the curves and pictures of its
report add, and what a quick audit takes, stands in rows of their own.

Run:   python bench/audits.py [--images 100]     (ROBASSAY_DATA names the folder with MNIST; half an hour)
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import tempfile
from typing import Any

import torch
import torch._dynamo  # torch imports it at a process's first training, which is no audit's time
from harness import Figures, Rivals, among, compare, save
from subjects import STORE, trained
from torch import Tensor
from unbeaten import EPS, foolbox_alone, mnist_nets

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
ROUNDS = {"noise head": 3, "BSN-2": 5, "LIF": 5, "hardened": 3, "RS-1": 1}
"""By network, as many as minutes allow."""
LIGHTER = 40
"""Steps of PGD."""


@torch.no_grad()
def right(model: Classifier, x: Tensor, y: Tensor, which: str) -> Tensor:
    """Per image (N,) the share of 100 fresh draws that are right."""
    draws = model.sample(model.features(x), DRAWS, RNG.child(which))
    return (draws.argmax(-1) == y).float().mean(0)


def by_hand(model: Classifier, x: Tensor, y: Tensor, lighter: bool) -> Tensor:
    """The worse of both peers' images, per image, as 100 draws see it."""
    import foolbox

    pgd = foolbox.attacks.LinfPGD(steps=LIGHTER, rel_stepsize=2.5 / LIGHTER)
    with RNG.child("by hand").active():
        found = [TOOLS["pyautoattack"](model, x, y, THREAT, "standard").images]
        whole = TOOLS["foolbox"]
        other = foolbox_alone(model, x, y, THREAT, pgd) if lighter else whole(model, x, y, THREAT, "standard")
        found.append(other.images)
    worse = torch.stack([right(model, one, y, "choose") for one in found]).argmin(0)
    return torch.stack(found)[worse, torch.arange(len(x))]


def rows(name: str, cell: Model, on: Examples, rounds: int) -> list[dict[str, Any]]:
    """Against both combinations, and what else an audit may cost."""
    model, images = trained(cell), on.load()
    x, y = pixels(images.x), images.y

    def robust(made: Tensor) -> Figures:
        return {"robust": float(right(model, made, y, "judge").mean())}

    def audited(budget: Budget, shown: bool = False) -> Figures:
        with tempfile.TemporaryDirectory() as folder:
            store = Store(folder + "/store")
            shutil.copytree(Store(STORE).folder(cell.key), store.folder(cell.key))
            item = plan_audit(cell, on, THREAT, budget, DRAWS, DELTA, store, "bench")
            if not shown:
                item = dataclasses.replace(item, evidence=())
            if carry_out(item.needs(), store, 0, silent=True).failed:
                raise SystemExit("The audit failed.")
            return robust(strongest(item, cell, on, store))

    ways = {
        "by hand": lambda: robust(by_hand(model, x, y, lighter=False)),
        "lighter by hand": lambda: robust(by_hand(model, x, y, lighter=True)),
        "audit": lambda: audited("standard"),
    }
    others = {
        "audit with its report's evidence": lambda: audited("standard", shown=True),
        "quick audit": lambda: audited("quick"),
    }
    task, rivals = f"standard audit, {name}, {len(x)} images", Rivals("audit", tuple(ways)[:2], "robust")
    first = compare(task, ways, rounds, rivals, warm=False)
    return [first, compare(f"other audits, {name}, {len(x)} images", others, 1, warm=False)]


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--images", type=int, default=100)
    ask.add_argument("--rounds", type=int, help="of every network, instead of " + ", ".join(map(str, ROUNDS.values())))
    ask.add_argument("--nets", nargs="+", default=tuple(ROUNDS), choices=tuple(ROUNDS))
    said = ask.parse_args()
    torch.set_num_threads(1)
    on = Examples(find("mnist"), "test", 0, said.images)
    nets = mnist_nets()
    new = [one for name in said.nets for one in rows(name, nets[name], on, said.rounds or ROUNDS[name])]
    save("audits", new if set(said.nets) == set(ROUNDS) else among("audits", new))


if __name__ == "__main__":
    main()
