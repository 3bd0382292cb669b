"""The instrument itself: networks known to be masked must be flagged, honest ones must not."""

from __future__ import annotations

import pytest

from robassay import zoo
from robassay.auditing import describe_audit, plan_audit
from robassay.cells import Examples
from robassay.data import find
from robassay.document import Document
from robassay.models import Train
from robassay.nets.cnn import SmallCNN
from robassay.referee import flagged, threat_of
from robassay.run import carry_out
from robassay.store import Store
from robassay.study import Study
from robassay.threat import Threat
from robassay.training import Recipe


@pytest.mark.long
def test_masked_networks_are_flagged_and_honest_ones_are_not(tmp_path):
    """The whole zoo, one training seed of each, audited at the quick budget (about 3 minutes)."""
    on, store = Examples(find("digits"), "test", 0, 100), Store(tmp_path / "s")
    items = tuple(
        plan_audit(zoo.model(name, 0), on, threat_of(name), "quick", 100, 0.05, store, name, claimed=entry.claimed)
        for name, entry in zoo.ENTRIES.items()
    )
    study = Study("controls", "Controls", items)
    outcome = carry_out(study.needs(), store, 0)
    assert not outcome.failed
    results = {a["title"]: a for a in Document(study.freeze(), store).audits()}
    for name, a in results.items():
        rates = " ".join(f"{k} {100 * a[k]['value']:5.1f}" for k in ("clean", "claimed", "adequate", "robust"))
        print(f"{name:24} {rates}  {a['verdict']} {a['cause']}  won by {a['winner']}")
    assert {name: flagged(a) for name, a in results.items()} == {n: e.masked for n, e in zoo.ENTRIES.items()}
    robust = {name: a["robust"] for name, a in results.items()}
    assert robust["hardened"]["low"] > 0.3
    for name in ("hardened-x100", "quantised-hardened"):
        assert abs(robust[name]["value"] - robust["hardened"]["value"]) < 0.1, "the same decisions, or nearly"


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
