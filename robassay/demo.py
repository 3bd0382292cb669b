"""The demonstration: five small networks, what the usual attack says of them, and what is true."""

from __future__ import annotations

from dataclasses import dataclass, replace

from robassay.access import White
from robassay.attacks.gradient import PGD
from robassay.auditing import describe_audit
from robassay.cells import Craft, Examples, Model, Score, Source, Train
from robassay.classifier import Net
from robassay.defences.a2snn import A2SNN
from robassay.defences.adversarial import AdversarialTraining
from robassay.estimators import Backprop
from robassay.folds import Accuracy, WorstCase
from robassay.nets.bsn import BSN
from robassay.nets.cnn import SmallCNN
from robassay.nets.lif import LIF
from robassay.signals import Facts
from robassay.study import Audit, Curves, Gallery, Measure, Study, Table
from robassay.threat import Threat
from robassay.training import Recipe

EPS = 0.1
CURVE = (0.025, 0.05, 0.1, 0.15, 0.2)


@dataclass(frozen=True)
class Setting:
    """What the demonstration uses on one kind of data set."""

    examples: int
    limit: int | None
    plain: Recipe
    hardened: Recipe
    noisy: Recipe
    binary: Recipe
    spiking: Recipe


ADVERSARY = AdversarialTraining(PGD(steps=7, keep="last"), Threat("linf", EPS))
DIGITS = Setting(
    examples=200,
    limit=None,
    plain=Recipe(epochs=30, batch=64, lr=2e-3),
    hardened=Recipe(epochs=30, batch=64, lr=2e-3, adversary=ADVERSARY),
    noisy=Recipe(epochs=60, batch=64, lr=2e-3),
    binary=Recipe(epochs=60, batch=64, lr=3e-3),
    spiking=Recipe(epochs=30, batch=64, lr=2e-3),
)
LARGER = Setting(
    examples=200,
    limit=20_000,
    plain=Recipe(epochs=3, lr=1e-3),
    hardened=Recipe(epochs=4, lr=1e-3, adversary=ADVERSARY),
    noisy=Recipe(epochs=8, lr=1e-3),
    binary=Recipe(epochs=8, lr=1e-3),
    spiking=Recipe(epochs=4, lr=1e-3),
)


def demo_study(data: Source, examples: int | None) -> Study:
    """Five networks on ``data``: plain, adversarially trained, learned noise, binary stochastic, spiking.

    Args:
        data: digits, MNIST or any other set of small images.
        examples: test images audited; None for 200.
    """
    setting = DIGITS if data.shape[1] <= 8 else LARGER
    on = Examples(data, "test", 0, examples or setting.examples)
    threat = Threat("linf", EPS)
    models = _models(data, setting)
    audits = {name: _audit(name, model, on, threat) for name, model in models.items()}
    galleries = [
        Gallery(f"gallery-{i}", f"{name}: images of the attack that is strongest as a rule", _last(audit))
        for i, (name, audit) in enumerate(audits.items())
    ]
    return Study(
        name="demo" if data.name == "digits" else f"demo-{data.name.rsplit('/', 1)[-1]}",
        title=f"Five networks on {data.name}",
        subtitle="What the usual attack says, and what is left under the strongest one found.",
        items=(*audits.values(), _table(audits), _curves(models, on), *galleries),
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


def _models(data: Source, setting: Setting) -> dict[str, Model]:
    made: dict[str, tuple[Net, Recipe]] = {
        "plain CNN": (SmallCNN(), setting.plain),
        "adversarial training": (SmallCNN(), setting.hardened),
        "learned noise (A2SNN)": (A2SNN(SmallCNN()), setting.noisy),
        "binary stochastic": (BSN(), setting.binary),
        "spiking (LIF)": (LIF(), setting.spiking),
    }
    return {name: Train(net, data, recipe, limit=setting.limit) for name, (net, recipe) in made.items()}


def _audit(name: str, model: Model, on: Examples, threat: Threat) -> Audit:
    item = describe_audit(model, on, threat, name=name)
    return replace(item, id=name.split(" ", maxsplit=1)[0], facts=Facts(model, replace(on, stop=on.start + 8)))


def _last(audit: Audit) -> Score:
    return audit.battery["PGD-40 margin"][0]


def _table(audits: dict[str, Audit]) -> Table:
    entries = {(name, column): m for name, audit in audits.items() for column, m in _columns(audit).items()}
    caption = f"Robust accuracy at L∞ eps {EPS}: each attack on its own, and the worst per image. Fresh draws judge."
    return Table("attacks", caption, tuple(audits), tuple(_columns(next(iter(audits.values())))), entries)


def _columns(audit: Audit) -> dict[str, Measure]:
    everything = (audit.claimed, audit.adequate, *audit.battery.values(), audit.clean)
    return {
        "clean": Measure((audit.clean,), Accuracy()),
        "usual attack": Measure((audit.claimed,), Accuracy()),
        "more steps": Measure((audit.adequate, audit.claimed), WorstCase()),
        **{name: Measure((one,), Accuracy()) for name, one in audit.battery.items()},
        "worst of all": Measure(everything, WorstCase()),
    }


def _curves(models: dict[str, Model], on: Examples) -> Curves:
    """The usual attack and a short union of losses over eps, on half of the images."""
    some = replace(on, stop=on.start + max(20, (on.stop - on.start) // 2))
    series: dict[str, tuple[Measure, ...]] = {}
    for name, model in models.items():
        usual, union = [], []
        for eps in CURVE:
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
    return Curves("eps", caption, "eps (L∞, pixels in [0,1])", "robust accuracy", CURVE, series, dashed)
