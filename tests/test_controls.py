"""The instrument itself: networks known to be masked must be flagged, honest ones must not. Trained for real."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from robassay.attacks.gradient import PGD
from robassay.auditing import describe_audit
from robassay.cell import Cell, Model, cell
from robassay.cells import Examples
from robassay.classifier import Classifier, Wrapped
from robassay.data import find
from robassay.defences.a2snn import A2SNN
from robassay.defences.adversarial import AdversarialTraining
from robassay.document import Document
from robassay.models import Train
from robassay.nets.bsn import BSN
from robassay.nets.cnn import SmallCNN
from robassay.nets.lif import LIF
from robassay.run import carry_out
from robassay.store import Store
from robassay.study import Study
from robassay.threat import Threat
from robassay.training import Recipe

EPS = 0.2
PLAIN = Recipe(epochs=30, batch=32, lr=2e-3, step=10, gamma=0.3)
NOISY = Recipe(epochs=60, batch=32, lr=1e-2, step=45, gamma=0.3, keep="last")
ADVERSARY = AdversarialTraining(PGD(steps=3, keep="last"), Threat("linf", EPS))
HARDENED = Recipe(epochs=25, batch=64, lr=2e-3, step=12, gamma=0.3, adversary=ADVERSARY)
SPIKING = Recipe(epochs=30, batch=32, lr=2e-3, step=10, gamma=0.3)


class Scaled(torch.nn.Module):
    """Logits times a factor: the same decisions, a saturated softmax."""

    def __init__(self, inner: Classifier, factor: float) -> None:
        super().__init__()
        self.inner, self.factor = inner, factor

    def forward(self, x):
        return self.factor * self.inner(x)


@cell
class Times(Model):
    """A model whose logits are multiplied."""

    version: ClassVar[int] = 1
    of: Model
    factor: float

    def compute(self, ctx):
        return {"factor": torch.tensor(self.factor)}

    def open(self, ctx):
        inner = ctx.open(self.of)
        return Wrapped(Scaled(inner, self.factor), inner.classes, inner.stochastic)


def models() -> dict[str, tuple[Model, bool]]:
    """Networks by name, and whether each must be flagged."""
    data = find("digits")
    plain, hard = Train(SmallCNN(), data, PLAIN), Train(SmallCNN(width=32), data, HARDENED)
    noisy = A2SNN(SmallCNN(width=32), entropy=0.1, wca=0.25)
    return {
        "plain": (plain, False),
        "plain x 100": (Times(plain, 100.0), True),
        "adversarially trained": (hard, False),
        "adversarially trained x 100": (Times(hard, 100.0), True),
        **{f"noise head {s}": (Train(noisy, data, NOISY, seed=s), True) for s in range(3)},
        "binary stochastic": (Train(BSN(), data, Recipe(epochs=60, batch=32, lr=1e-2, step=20, gamma=0.3)), False),
        "spiking": (Train(LIF(), data, SPIKING), False),
    }


@pytest.mark.long
def test_masked_networks_are_flagged_and_honest_ones_are_not(tmp_path):
    """Nine networks trained on digits and audited at the quick budget (about 3 minutes)."""
    made = models()
    on, threat = Examples(find("digits"), "test", 0, 200), Threat("linf", EPS)
    items = tuple(describe_audit(model, on, threat, name=name) for name, (model, _) in made.items())
    study, store = Study("controls", "Controls", items), Store(tmp_path / "s")
    needs: list[Cell] = study.needs()
    outcome = carry_out(needs, store, 0)
    assert not outcome.failed
    results = {a["title"]: a for a in Document(study.freeze(), store).audits()}
    for name, a in results.items():
        rates = " ".join(f"{k} {100 * a[k]['value']:5.1f}" for k in ("clean", "claimed", "adequate", "robust"))
        print(f"{name:36} {rates}  {a['verdict']} {a['cause']}  won by {a['winner']}")
    flagged = {
        name: a["verdict"] == "artefact" or (a["verdict"] == "overstated" and a["cause"] in ("masking", "both"))
        for name, a in results.items()
    }
    assert flagged == {name: masked for name, (_, masked) in made.items()}
    assert results["adversarially trained"]["robust"]["low"] > 0.3
    same = results["adversarially trained x 100"]["robust"]
    assert abs(same["value"] - results["adversarially trained"]["robust"]["value"]) < 0.1, "scaling changes no decision"


@pytest.mark.data
def test_an_audit_on_mnist(tmp_path):
    """A small CNN is trained on 6,000 images of MNIST and audited (about 15 s)."""
    data = find("mnist")
    model = Train(SmallCNN(), data, Recipe(epochs=3, batch=64, lr=2e-3), limit=6000)
    item = describe_audit(model, Examples(data, "test", 0, 60), Threat("linf", 0.1))
    store = Store(tmp_path / "s")
    assert not carry_out(item.needs(), store, 0, quiet=True).failed
    (result,) = Document(Study("mnist", "MNIST", (item,)).freeze(), store).audits()
    assert result["clean"]["value"] > 0.9
    assert result["robust"]["value"] < result["clean"]["value"] - 0.3
