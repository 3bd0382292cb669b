"""Where the gradient of SNN_M is taken decides what an attack finds: one trained network, two gates, and no gradient.

    robassay run networks-plastic --store STORE && python bench/stdp_attacks.py STORE [images]

Share of the images that the network gets right that are no longer right; L∞ balls.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from harness import save
from torch import Tensor

from robassay.access import Access, Attack, Scores, White
from robassay.attacks.gradient import BIM, PGD
from robassay.attacks.noise import Uniform
from robassay.attacks.square import Square
from robassay.classifier import Classifier
from robassay.data import find, pixels
from robassay.estimators import Backprop
from robassay.models import Learn
from robassay.papers.plastic import snnm_subjects
from robassay.rng import Stream
from robassay.store import Store
from robassay.threat import Goal, Threat
from robassay.training import restore

WAYS: dict[str, tuple[Attack, Access | None, str]] = {
    "BIM-20 contrast": (BIM(steps=20), White(Backprop()), "contrast"),
    "BIM-20 hard": (BIM(steps=20), White(Backprop()), "hard"),
    "PGD-40 margin contrast": (PGD(steps=40, loss="margin"), White(Backprop()), "contrast"),
    "PGD-40 margin hard": (PGD(steps=40, loss="margin"), White(Backprop()), "hard"),
    "Square 1,000": (Square(queries=1000), Scores(), "contrast"),
    "uniform noise": (Uniform(), None, "contrast"),
}


def trained(folder: Path) -> Classifier:
    """SNN_M as a store has it."""
    data = find("mnist")
    model = next(iter(snnm_subjects(data, "small").values())).model
    assert isinstance(model, Learn)
    arrays = {name: torch.from_numpy(a) for name, a in Store(folder).read(model.key).items()}
    return restore(model.net, data.shape, data.classes, arrays).eval().requires_grad_(False)


def main() -> None:
    torch.set_num_threads(1)
    model, count = trained(Path(sys.argv[1])), int(sys.argv[2]) if len(sys.argv) > 2 else 100
    test = find("mnist").split("test")
    x, y = pixels(test.x[:count]), test.y[:count]
    with torch.no_grad():
        right = model(x).argmax(1) == y
    x, y, rows = x[right], y[right], []
    for eps in (0.05, 0.1, 0.2):
        threat, broken = Threat("linf", eps), {}
        worst: Tensor = torch.zeros(len(x), dtype=torch.bool)
        for name, (method, access, gate) in WAYS.items():
            model.gate = gate
            opened = None if access is None else access.open([model], len(x))
            crafted = method(opened, x, Goal(y), threat, Stream(("bench", "stdp")))
            with torch.no_grad():
                wrong = model(crafted).argmax(1) != y
            worst |= wrong
            broken[name] = wrong.double().mean().item()
        rows.append({"task": f"eps {eps}, {len(x)} of {count} images", **broken, "worst": worst.double().mean().item()})
        print(rows[-1], flush=True)
        save("stdp_attacks", rows)


if __name__ == "__main__":
    main()
