"""How much of MC-SEFRON's robustness is the attacker's gradient: one network, one decision, three forms of logits.

    python bench/sefron_accuracy.py && python bench/sefron_attacks.py

Share of the first 100 test images (those the network gets right) that are no longer right; L∞ balls.
Published (Tan et al. 2020, BIM): .054, .156 and .294 at 8/255, 16/255 and 32/255.
"""

from __future__ import annotations

import sys

import torch
from harness import save
from sefron_accuracy import WEIGHTS
from torch import Tensor

from robassay.access import Attack, White
from robassay.attacks.gradient import BIM, PGD
from robassay.data import find, pixels
from robassay.estimators import Backprop
from robassay.nets.sefron import MCSefron, SefronClassifier
from robassay.rng import Stream
from robassay.threat import Goal, Threat

FORMS = ("latch", "crossing", "margin")


def shown(form: str, weights: dict[str, Tensor]) -> SefronClassifier:
    """The network with logits of a form."""
    model = MCSefron(form=form).build((1, 28, 28), 10).eval()  # type: ignore[arg-type]
    assert isinstance(model, SefronClassifier)
    model.load_state_dict(weights)
    return model.requires_grad_(False)


def main() -> None:
    torch.set_num_threads(1)
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    weights = torch.load(WEIGHTS, weights_only=True)
    test = find("mnist").split("test")
    x, y = pixels(test.x[:count]), test.y[:count]
    judge = shown("latch", weights)
    with torch.no_grad():
        right = judge(x).argmax(1) == y
    x, y = x[right], y[right]
    goal, rng, rows = Goal(y), Stream(("bench", "sefron")), []
    attacks: dict[str, Attack] = {"BIM-10 ce": BIM(steps=10), "PGD-15 margin": PGD(steps=15, loss="margin")}
    for name, method in attacks.items():
        for eps in (8, 16, 32):
            wrong = {}
            for form in FORMS:
                access = White(Backprop()).open([shown(form, weights)], len(x))
                crafted = method(access, x, goal, Threat("linf", eps / 255), rng)
                with torch.no_grad():
                    decided = judge(crafted).argmax(1)
                wrong[form] = (decided != y).double().mean().item()
                wrong[f"{form} silent"] = (decided == 10).double().mean().item()
            rows.append({"task": f"{name}, {eps}/255, {len(x)} of {count} images", **wrong})
            print(rows[-1], flush=True)
            save("sefron_attacks", rows)


if __name__ == "__main__":
    main()
