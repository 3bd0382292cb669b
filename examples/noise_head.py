"""Is the robustness of a learned noise head real? Three training seeds on MNIST, and two networks to compare with.

Run:   robassay run examples/noise_head.py --data-dir FOLDER       (or set ROBASSAY_DATA)
Cost:  about 10 minutes on two cores.
"""

from dataclasses import replace

import robassay as ra
from robassay.auditing import describe_audit
from robassay.defences.a2snn import A2SNN
from robassay.defences.adversarial import AdversarialTraining
from robassay.nets.cnn import SmallCNN
from robassay.training import Recipe

EPS = 0.1
SEEDS = (0, 1, 2)
NOISY = Recipe(epochs=12, lr=1e-2, step=8, gamma=0.2, keep="last")
PLAIN = Recipe(epochs=3, batch=64, lr=2e-3, step=1, gamma=0.4)
HARDENED = Recipe(epochs=6, batch=64, lr=3e-3, step=4, gamma=0.2, adversary=AdversarialTraining())


def study() -> ra.Study:
    """The audits side by side."""
    data = ra.find("mnist")
    on = ra.Examples(data, "test", 0, 200)
    models = {f"noise head, seed {s}": ra.Train(A2SNN(entropy=0.1, wca=0.5), data, NOISY, seed=s) for s in SEEDS}
    models["plain CNN"] = ra.Train(SmallCNN(), data, PLAIN)
    models["adversarially trained CNN"] = ra.Train(SmallCNN(), data, HARDENED, limit=20_000)
    threat = ra.Threat("linf", EPS)
    audits = {name: describe_audit(model, on, threat, name=name) for name, model in models.items()}
    columns = {
        "clean": lambda a: ra.Measure((a.clean,), ra.Accuracy()),
        "claimed": lambda a: ra.Measure((a.claimed,), ra.Accuracy()),
        "worst of all": lambda a: ra.Measure((a.claimed, a.adequate, *a.battery.values(), a.clean), ra.WorstCase()),
    }
    entries = {(name, c): make(audit) for name, audit in audits.items() for c, make in columns.items()}
    table = ra.Table("seeds", f"Robust accuracy at L∞ eps {EPS}", tuple(audits), tuple(columns), entries)
    items = [replace(audit, id=f"audit-{i}") for i, audit in enumerate(audits.values())]
    return ra.Study("noise-head", "Is the robustness of a noise head real?", (table, *items), scale="small")
