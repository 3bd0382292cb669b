"""Is the audit ever beaten? What its images and those of foolbox and pyautoattack leave, on the same fresh draws.

Run:   python bench/unbeaten.py digits|mnist|mnist-l2 [STORE] [--seeds 3] [--budget quick] [--peers quick]

On digits the networks are those of the zoo, and the answers those of the referee. On MNIST there are six, trained on
the first call. Peers run as the referee runs them: foolbox with PGD-40, pyautoattack with its own 100 steps and 5,000
queries at --peers standard, with 50 and 1,000 at quick. Square with 1,000 queries is run by itself, too, since the
ensemble for random networks leaves it out. C&W is an L2 attack: "mnist-l2" asks foolbox's C&W and PGD about three nets.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robassay.auditing import Budget, plan_audit
from robassay.cell import Model
from robassay.cells import Examples
from robassay.classifier import Classifier
from robassay.data import find, pixels
from robassay.defences.a2snn import A2SNN
from robassay.defences.adversarial import AdversarialTraining
from robassay.intervals import difference
from robassay.models import Train
from robassay.nets.cnn import SmallCNN
from robassay.papers.fixtures import IMAGES, nets
from robassay.plan import plan
from robassay.referee import DELTA, DRAWS, Answers, judged, opened, referee, strongest, threat_of
from robassay.referee.tools import EOT, QUERIES, TOOLS, Stated, Tool
from robassay.rng import Stream
from robassay.run import carry_out
from robassay.store import Store
from robassay.threat import Threat
from robassay.training import Recipe
from robassay.verdict import as_json
from robassay.zoo import ENTRIES, SEEDS, model

EPS = 0.1
"""Radius (L∞) on MNIST."""
EPS_L2 = 1.5
ASKED_L2 = ("plain", "BSN-2", "LIF")
MEAN, HIGH = 0.01, 0.03
"""How much more than the best peer ours may leave: in the mean, and at the upper end of the interval."""
Left = dict[str, np.ndarray]
"""By tool, per image (N,) the share of fresh draws that are right."""


def square(model: Classifier, x: Tensor, y: Tensor, threat: Threat, budget: str) -> Stated:
    """pyautoattack's Square alone."""
    import pyautoattack

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = pyautoattack.AutoAttack(
            model, norm="Linf", eps=threat.eps, version="custom", attacks=["square"], seed=None, device="cpu"
        )
        whole.square.n_queries = QUERIES
        images, _ = whole.run_standard_evaluation(x, y, batch_size=len(x))
    return Stated((images == x).flatten(1).all(1), threat.project(images.detach(), x))


def foolbox_alone(model: Classifier, x: Tensor, y: Tensor, threat: Threat, attack: Any) -> Stated:
    """One attack of foolbox; EoT over 20 passes of a random network."""
    import foolbox

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
        if model.stochastic:
            peer = foolbox.models.ExpectationOverTransformationWrapper(peer, n_steps=EOT)
        _, images, broken = attack(peer, x, y, epsilons=threat.eps)
    return Stated(~broken, threat.project(images.detach().nan_to_num(nan=0.0), x))


def pgd_l2(model: Classifier, x: Tensor, y: Tensor, threat: Threat, budget: str) -> Stated:
    """PGD-40."""
    import foolbox

    return foolbox_alone(model, x, y, threat, foolbox.attacks.L2PGD(steps=40, rel_stepsize=2.5 / 40))


def cw_l2(model: Classifier, x: Tensor, y: Tensor, threat: Threat, budget: str) -> Stated:
    """C&W, 6 constants of 100 steps of size .05 (its default of .01 finds larger changes in so few)."""
    import foolbox

    attack = foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=6, steps=100, stepsize=0.05)
    return foolbox_alone(model, x, y, threat, attack)


PEERS: dict[str, Tool] = {**TOOLS, "Square": square}
PEERS_L2: dict[str, Tool] = {"foolbox PGD": pgd_l2, "foolbox C&W": cw_l2}


def mnist_nets() -> dict[str, Model]:
    """Plain, binary stochastic, spiking, random spiking, adversarially trained, and with a learned noise head."""
    data = find("mnist")
    shown = {name: net for name, net in nets(data).items() if name != "BNN-S"}
    hard = Recipe(epochs=6, batch=64, lr=3e-3, step=4, gamma=0.2, adversary=AdversarialTraining())
    head = Recipe(epochs=12, lr=1e-2, step=8, gamma=0.2, keep="last")
    shown["hardened"] = Train(SmallCNN(), data, hard, limit=IMAGES)
    shown["noise head"] = Train(A2SNN(entropy=0.1, wca=0.5), data, head, limit=IMAGES)
    return shown


@dataclass(frozen=True)
class Round:
    """What every tool is asked about one network; an answer is kept in the store's folder ``unbeaten``."""

    title: str
    target: Model
    on: Examples
    threat: Threat
    budget: Budget
    store: Store
    peers: str
    workers: int = 0

    def left(self, tool: str) -> np.ndarray:
        """Per image (N,) the share of fresh draws that are right on the tool's images."""
        budget = _budget(tool, self.budget, self.peers)
        name = f"{self.title}-{tool}-{budget}-{self.on.stop}-{self.target.key}.json"
        file = Path(self.store.root) / "unbeaten" / name
        if not file.is_file():
            begun = time.process_time()
            made, seconds = self._ours() if tool == "ours" else (self._peers(tool), None)
            seconds = time.process_time() - begun if seconds is None else seconds
            right = judged(tool, self.target, made, self.on, self.threat, self.store)
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps({"right": right, "seconds": seconds}), encoding="utf-8")
            print(f"{self.title}, {tool}: {100 * float(np.mean(right)):.1f} % left, {seconds:.0f} s", flush=True)
        return np.array(json.loads(file.read_text(encoding="utf-8"))["right"])

    def _ours(self) -> tuple[Tensor, float]:
        """The audit's images, and the seconds of its cells, which other processes may have computed."""
        item = plan_audit(self.target, self.on, self.threat, self.budget, DRAWS, DELTA, self.store, "unbeaten")
        item = dataclasses.replace(item, evidence=())
        if carry_out(item.needs(), self.store, self.workers).failed:
            raise SystemExit("The audit failed.")
        cells = [c for c in plan(item.needs(), None).order if c != self.target]
        seconds = sum(float(self.store.about(c.key).get("seconds", 0.0)) for c in cells)
        return strongest(item, self.target, self.on, self.store), seconds

    def _peers(self, tool: str) -> Tensor:
        images, net = self.on.load(), opened(self.target, self.store)
        with Stream(("unbeaten", tool, self.target.key)).active():
            return {**PEERS, **PEERS_L2}[tool](
                net, pixels(images.x), images.y, self.threat, _budget(tool, self.budget, self.peers)
            ).images


def _budget(tool: str, ours: Budget, peers: str) -> str:
    return {"ours": ours, "pyautoattack": peers}.get(tool, "quick")


def on_mnist(store: Store, images: int, budget: Budget, asked: str, workers: int, norm: str) -> dict[str, Left]:
    """Every tool on every network."""
    on, found = Examples(find("mnist"), "test", 0, images), {}
    threat, peers = (Threat("l2", EPS_L2), PEERS_L2) if norm == "l2" else (Threat("linf", EPS), PEERS)
    for name, target in mnist_nets().items():
        if norm == "l2" and name not in ASKED_L2:
            continue
        if carry_out([target], store, workers).failed:
            raise SystemExit(f"{name} could not be trained.")
        one = Round(name if norm == "linf" else f"{name} L2", target, on, threat, budget, store, asked, workers)
        found[name] = {tool: one.left(tool) for tool in ("ours", *peers)}
    return found


def on_digits(store: Store, seeds: int, images: int, budget: Budget, asked: str, workers: int) -> dict[str, Left]:
    """The referee's answers about the zoo, with Square added for what is random."""
    wanted = [(name, seed) for name in ENTRIES for seed in range(seeds)]
    found: dict[str, dict[str, np.ndarray]] = {f"{name} {seed}": {} for name, seed in wanted}
    for tool in ("ours", *TOOLS):
        how: Any = _budget(tool, budget, asked)
        referee(tool, store, how, seeds=seeds, images=images, workers=workers)
        for one in Answers(Path(store.root) / "referee", how, images).read(tool, wanted):
            found[f"{one.net} {one.seed}"][tool] = np.array(one.right)
    on = Examples(find("digits"), "test", 0, images)
    for name, seed in wanted:
        target = model(name, seed)
        if opened(target, store).stochastic:
            alone = Round(f"{name}-{seed}", target, on, threat_of(name), budget, store, asked)
            found[f"{name} {seed}"]["Square"] = alone.left("Square")
    return found


def table(found: Mapping[str, Left]) -> list[dict[str, Any]]:
    """A line per network, and how far ours is behind the best peer: the one that leaves least of it."""
    rows = []
    for name, left in found.items():
        best = min((tool for tool in left if tool != "ours"), key=lambda tool: float(left[tool].mean()))
        behind = difference(left["ours"][None], left[best][None])
        beaten = behind.value > MEAN or behind.high > HIGH
        means = {tool: round(float(right.mean()), 4) for tool, right in left.items()}
        rows.append({"net": name, "left": means, "best_peer": best, "behind": as_json(behind), "beaten": beaten})
        shown = "  ".join(f"{tool} {100 * value:5.1f}" for tool, value in means.items())
        print(f"{name:26} {shown}  ours − {best}: {behind}{'   <-- beaten' if beaten else ''}")
    return rows


def _summed(rows: Sequence[Mapping[str, Any]]) -> str:
    worst = max(rows, key=lambda row: row["behind"]["high"])
    mean = float(np.mean([row["behind"]["value"] for row in rows]))
    beaten = sum(row["beaten"] for row in rows)
    told = f"{len(rows)} networks: behind the best peer by {100 * mean:.1f} points in the mean, at worst {worst['net']}"
    return f"{told}, upper end {100 * worst['behind']['high']:.1f}; beaten on {beaten}"


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("data", choices=("digits", "mnist", "mnist-l2"))
    ask.add_argument("store", nargs="?", default="robassay-store-controls")
    ask.add_argument("--seeds", type=int, default=SEEDS)
    ask.add_argument("--images", type=int, default=200)
    ask.add_argument("--budget", default="quick")
    ask.add_argument("--peers", choices=("quick", "standard"), default="quick")
    ask.add_argument("--workers", type=int, default=0)
    said = ask.parse_args()
    torch.set_num_threads(1)
    store = Store(said.store)
    if said.data == "digits":
        found = on_digits(store, said.seeds, said.images, said.budget, said.peers, said.workers)
    else:
        norm = "l2" if said.data == "mnist-l2" else "linf"
        found = on_mnist(store, said.images, said.budget, said.peers, said.workers, norm)
    rows = table(found)
    print(_summed(rows))
    file = Path(__file__).with_name("results") / f"unbeaten-{said.data}-{said.budget}-{said.peers}.json"
    about = {"data": said.data, "images": said.images, "budget": said.budget, "peers": said.peers, "nets": rows}
    file.write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"\n{file}")


if __name__ == "__main__":
    main()
