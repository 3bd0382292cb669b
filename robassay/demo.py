"""The demonstration: five small networks, what the usual attack says of them, and what is true."""

from __future__ import annotations

from dataclasses import dataclass, replace

from robassay.access import White
from robassay.attacks.gradient import PGD
from robassay.auditing import describe_audit
from robassay.cell import Model, Source
from robassay.cells import Craft, Examples, Score
from robassay.classifier import Net
from robassay.defences.a2snn import A2SNN
from robassay.defences.adversarial import AdversarialTraining
from robassay.estimators import Backprop
from robassay.folds import Accuracy, WorstCase
from robassay.models import Train
from robassay.nets.bsn import BSN
from robassay.nets.cnn import SmallCNN
from robassay.nets.lif import LIF
from robassay.signals import Facts
from robassay.study import Audit, Curves, Gallery, Measure, Study, Table
from robassay.threat import Threat
from robassay.training import Recipe

Learner = tuple[Net, Recipe, int | None]
"""A network, how it is trained, and on how many images (None: all)."""


@dataclass(frozen=True)
class Setting:
    """What the demonstration does on one kind of data: a radius, other radii for the curve, five networks."""

    eps: float
    curve: tuple[float, ...]
    learners: dict[str, Learner]


def _digits() -> Setting:
    """8 × 8 pixels, 1,200 training images; every training takes seconds."""
    adversary = AdversarialTraining(PGD(steps=3, keep="last"), Threat("linf", 0.25))
    noise = A2SNN(SmallCNN(width=32), entropy=0.1, wca=0.25)
    learners: dict[str, Learner] = {
        "plain CNN": (SmallCNN(), Recipe(epochs=30, batch=32, lr=2e-3, step=10, gamma=0.3), None),
        "adversarial training": (
            SmallCNN(width=64),
            Recipe(epochs=25, batch=64, lr=2e-3, step=12, gamma=0.3, adversary=adversary),
            None,
        ),
        "noise head (A2SNN)": (
            noise,
            Recipe(epochs=60, batch=32, lr=1e-2, step=45, gamma=0.3, keep="last"),
            None,
        ),
        "binary stochastic": (BSN(), Recipe(epochs=60, batch=32, lr=1e-2, step=20, gamma=0.3), None),
        "spiking (LIF)": (LIF(), Recipe(epochs=30, batch=32, lr=2e-3, step=10, gamma=0.3), None),
    }
    return Setting(0.25, (0.05, 0.1, 0.15, 0.2, 0.25), learners)


def _larger() -> Setting:
    """MNIST and its like; a few minutes of training on two cores."""
    adversary = AdversarialTraining(PGD(steps=7, keep="last"), Threat("linf", 0.1))
    learners: dict[str, Learner] = {
        "plain CNN": (SmallCNN(), Recipe(epochs=3, batch=64, lr=2e-3, step=1, gamma=0.4), None),
        "adversarial training": (
            SmallCNN(),
            Recipe(epochs=6, batch=64, lr=3e-3, step=4, gamma=0.2, adversary=adversary),
            20_000,
        ),
        "noise head (A2SNN)": (
            A2SNN(SmallCNN(), entropy=0.1, wca=0.5),
            Recipe(epochs=12, lr=1e-2, step=8, gamma=0.2, keep="last"),
            None,
        ),
        "binary stochastic": (BSN(), Recipe(epochs=10, batch=64, lr=5e-3, step=4, gamma=0.3), None),
        "spiking (LIF)": (LIF(), Recipe(epochs=5, batch=64, lr=2e-3, step=3, gamma=0.3), 20_000),
    }
    return Setting(0.1, (0.025, 0.05, 0.1, 0.15, 0.2), learners)


def demo_study(data: Source, examples: int | None) -> Study:
    """Five networks on ``data``: plain, adversarially trained, learned noise, binary stochastic, spiking.

    Args:
        data: digits, MNIST or any other set of small images.
        examples: test images audited; None for 200.
    """
    setting = _digits() if data.shape[1] <= 8 else _larger()
    on = Examples(data, "test", 0, examples or 200)
    threat = Threat("linf", setting.eps)
    models: dict[str, Model] = {
        name: Train(net, data, recipe, limit=limit) for name, (net, recipe, limit) in setting.learners.items()
    }
    audits = {name: _audit(name, model, on, threat) for name, model in models.items()}
    galleries = [
        Gallery(f"gallery-{i}", f"{name}: images of the attack that is strongest as a rule", _last(audit))
        for i, (name, audit) in enumerate(audits.items())
    ]
    return Study(
        name="demo" if data.name == "digits" else f"demo-{data.name.rsplit('/', 1)[-1]}",
        title=f"Five networks on {data.name}",
        subtitle="What the usual attack says, and what is left under the strongest one found.",
        items=(*audits.values(), _table(audits), _curves(models, on, setting.curve), *galleries),
        scale="demo",
        cites=(
            "Athalye, Carlini, Wagner 2018: Obfuscated gradients give a false sense of security. ICML.",
            "Eustratiadis, Gouk, Li, Hospedales 2021: Weight-covariance alignment for adversarially robust neural "
            "networks. ICML.",
            "Madry, Makelov, Schmidt, Tsipras, Vladu 2018: Towards deep learning models resistant to adversarial "
            "attacks. ICLR.",
            "Tan, Elovici, Binder 2020: Exploring the back alleys: analysing the robustness of alternative neural "
            "network architectures against adversarial attacks.",
        ),
        command=f"robassay demo --data {data.name}",
    )


def _audit(name: str, model: Model, on: Examples, threat: Threat) -> Audit:
    item = describe_audit(model, on, threat, name=name)
    return replace(item, id=name.split(" ", maxsplit=1)[0], facts=Facts(model, replace(on, stop=on.start + 8)))


def _last(audit: Audit) -> Score:
    return audit.battery["PGD-40 margin"][0]


def _table(audits: dict[str, Audit]) -> Table:
    entries = {(name, column): m for name, audit in audits.items() for column, m in _columns(audit).items()}
    eps = next(iter(audits.values())).threat.eps
    caption = f"Robust accuracy at L∞ eps {eps}: some attacks, and the worst of all per image. Fresh draws judge."
    return Table("attacks", caption, tuple(audits), tuple(_columns(next(iter(audits.values())))), entries)


def _columns(audit: Audit) -> dict[str, Measure]:
    """Attacks that every network's battery has, whatever it is; the others are with its audit."""
    battery = audit.finalists or tuple(audit.battery.values())
    everything = (audit.claimed, audit.adequate, *battery, audit.clean)
    shared = [name for name in audit.battery if name.startswith(("PGD", "APGD", "transfer", "Square"))]
    return {
        "clean": Measure((audit.clean,), Accuracy()),
        "usual attack": Measure((audit.claimed,), Accuracy()),
        "more steps": Measure((audit.adequate, audit.claimed), WorstCase()),
        **{name: Measure((audit.battery[name],), Accuracy()) for name in shared},
        "worst of all": Measure(everything, WorstCase()),
    }


def _curves(models: dict[str, Model], on: Examples, radii: tuple[float, ...]) -> Curves:
    """The usual attack and a short union of losses over eps, on half of the images."""
    some = replace(on, stop=on.start + max(20, (on.stop - on.start) // 2))
    series: dict[str, tuple[Measure, ...]] = {}
    for name, model in models.items():
        usual, union = [], []
        for eps in radii:
            threat = Threat("linf", eps)
            attacks = {
                "usual": (PGD(steps=10, step=eps / 10, keep="last"), 20),
                "scaled": (PGD(steps=20, loss="scaled_ce"), 5),
                "margin": (PGD(steps=20, loss="margin"), 5),
            }
            scores = {
                k: (Score(model, Craft((model,), some, attack, threat, White(Backprop(draws)))),)
                for k, (attack, draws) in attacks.items()
            }
            usual.append(Measure((scores["usual"],), Accuracy()))
            union.append(Measure(tuple(scores.values()), WorstCase()))
        series[f"{name}, usual attack"] = tuple(usual)
        series[f"{name}, worst of three"] = tuple(union)
    dashed = tuple(name for name in series if name.endswith("usual attack"))
    caption = "Robust accuracy over eps: a masked network looks robust under the usual attack only."
    return Curves("eps", caption, "eps (L∞, pixels in [0,1])", "robust accuracy", radii, series, dashed)
