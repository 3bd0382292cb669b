"""The networks of Eustratiadis et al. 2020 as cells: the ablation, its competitors, controls, and two features to look
at. Published settings are in :data:`TABLE7`; what is short is in :data:`SMALL` and :data:`SMOKE`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from robassay.attacks.gradient import PGD
from robassay.augment import Crop, Flip
from robassay.cell import Model, Source
from robassay.classifier import Net
from robassay.defences.a2snn import A2SNN
from robassay.defences.adv_bnn import AdvBNN
from robassay.defences.adversarial import AdversarialTraining
from robassay.defences.l2p import L2P
from robassay.defences.pni import PNI
from robassay.defences.rse import RSE
from robassay.models import Train
from robassay.nets.backbone import Backbone
from robassay.nets.cnn import SmallCNN
from robassay.nets.lenet import LeNetPP
from robassay.nets.resnet import ResNet18
from robassay.papers.subjects import M, mnist_subjects
from robassay.recipe import Recipe
from robassay.threat import Threat

Nets = Mapping[str, tuple[Model, ...]]
"""Networks by name, one for each seed."""
NONE, BEST = "no defence", "m5"
COMPETITORS = ("Adv-BNN", "PNI", "L2P")
OURS = {"PNI": "PNI-W"}
"""Competitors whose weights "networks-e" has under another name."""
AFTER, AT, MIXED, LONGER = "noise after", "AT", "CT+AT", "longer"
"""m5 once more: its noise learnt after the network; on adversarial images; on both kinds; on clean ones for as long as
that."""
WIDE = "A2SNN, many features"
"""The competitors' A2SNN with 512 features in place of 32 (the paper's footnote)."""


@dataclass(frozen=True)
class Setting:
    """Published settings of a data set: Table 7 and appendix B.

    Args:
        entropy, wca: λ1 and λ2.
        eps: L∞ radius.
        backbone, recipe: what is trained, and how.
    """

    entropy: float
    wca: float
    eps: float
    backbone: Backbone
    recipe: Recipe


_COLOUR = ResNet18(zero_init=True, normalise="cifar10")
_SLOW, _GREY = (Recipe(epochs=n, batch=128, lr=lr, keep="last") for n, lr in ((200, 1e-2), (100, 1e-3)))
TABLE7 = {
    "cifar10": Setting(0.1, 1.0, 8 / 255, _COLOUR, replace(_SLOW, augment=(Crop(), Flip()))),
    "svhn": Setting(0.05, 0.5, 8 / 255, replace(_COLOUR, normalise="half"), _SLOW),
    "fashion_mnist": Setting(0.1, 0.5, 0.3, LeNetPP(), _GREY),
}
MNIST_EPS = 0.1
"""The paper has no MNIST; here it has λ1, λ2, network and schedule of Fashion-MNIST and the radius of "anisotropic"."""


def ablation(data: Source, setting: Setting, seeds: int = 3) -> Nets:
    """Table 5: a network without noise and m1 to m5, at published settings."""
    nets: dict[str, Net] = {NONE: setting.backbone}
    for name, form in M.items():
        weights = {"entropy": setting.entropy * bool(form.entropy), "wca": setting.wca * bool(form.wca)}
        nets[name] = replace(form, backbone=setting.backbone, **weights)  # type: ignore[arg-type]
    return {name: tuple(Train(net, data, setting.recipe, seed=s) for s in range(seeds)) for name, net in nets.items()}


def of_mnist(data: Source, scale: str) -> Nets:
    """The same on MNIST, as "anisotropic" has trained them."""
    found = mnist_subjects(data, scale)
    names = {NONE: "LeNet++"} | {name: f"A2SNN {name}" for name in M}
    return {name: tuple(found[f"{theirs}, seed {seed}"].model for seed in range(3)) for name, theirs in names.items()}


@dataclass(frozen=True)
class Short:
    """What the controls of Table 6 and of the footnote learn, beyond the schedule of m5.

    Args:
        further: recipe of adversarial training, without its adversary; it begins from m5 where ``begin`` says so.
        steps: of the adversary.
        limit: training images of it; None for all.
        begin: whether it begins from the trained m5.
        independent: epoch from which noise is learnt alone.
    """

    further: Recipe
    steps: int
    limit: int | None
    begin: bool
    independent: int


def controls(m5: Model, eps: float, short: Short) -> Nets:
    """The networks of Table 6, each with one seed.

    The adversary of the published code has 10 steps of a third of eps, along the gradient of a single pass.
    """
    assert isinstance(m5, Train) and isinstance(m5.net, A2SNN)
    attack = PGD(steps=short.steps, step=eps / 3, keep="last")
    hard = AdversarialTraining(attack, Threat("linf", eps))
    recipes = {
        AT: replace(short.further, adversary=hard),
        MIXED: replace(short.further, adversary=replace(hard, clean=0.5)),
        LONGER: short.further,
    }
    begin = m5 if short.begin else None
    found = {name: Train(m5.net, m5.data, recipe, limit=short.limit, begin=begin) for name, recipe in recipes.items()}
    found[AFTER] = replace(m5, net=replace(m5.net, independent=short.independent))
    return {name: (model,) for name, model in found.items()}


def competitors_on_mnist(data: Source, scale: str) -> Nets:
    """The competitors as "networks-e" has trained them, with the same backbone and schedule under A2SNN, twice."""
    found = mnist_subjects(data, scale)
    plain = found["Small CNN"].model
    assert isinstance(plain, Train)
    nets: dict[str, Model] = {name: found[OURS.get(name, name)].model for name in (*COMPETITORS, "RSE")}
    nets["A2SNN"] = replace(plain, net=A2SNN(backbone=SmallCNN()))
    nets[WIDE] = replace(plain, net=A2SNN(backbone=SmallCNN(), dim=512))
    return {name: (model,) for name, model in nets.items()}


def competitors_of(data: Source, recipe: Recipe, adversary: AdversarialTraining) -> Nets:
    """The same on other data, by one schedule; the second A2SNN has 64 features."""
    half = replace(recipe, adversary=replace(adversary, clean=0.5))
    nets: dict[str, tuple[Net, Recipe]] = {
        "Adv-BNN": (AdvBNN(), replace(recipe, adversary=adversary)),
        "PNI": (PNI(), half),
        "L2P": (L2P(), half),
        "RSE": (RSE(), recipe),
        "A2SNN": (A2SNN(), recipe),
        WIDE: (A2SNN(dim=64), recipe),
    }
    return {name: (Train(net, data, recipe),) for name, (net, recipe) in nets.items()}


def competitors(data: Source, setting: Setting) -> Nets:
    """The competitors on CIFAR-10 by their own recipes, on ResNet18 as in Table 1; A2SNN's noise stays m5's."""
    attack = PGD(steps=7, step=0.01, keep="last")
    half = AdversarialTraining(attack, Threat("linf", setting.eps), clean=0.5, labels="predicted")
    net = ResNet18(stem="cifar", normalise="cifar10")
    sgd = Recipe(epochs=160, batch=128, optimizer="sgd", lr=0.1, nesterov=True, weight_decay=3e-4,
                 milestones=(80, 120), augment=(Crop(), Flip()), keep="last")  # fmt: skip
    bayes = replace(sgd, epochs=200, optimizer="adam", lr=0.01, weight_decay=0.0, milestones=(80, 140, 180), fresh=True)
    hard = AdversarialTraining(PGD(steps=10, step=0.007, keep="last", random_start=False), half.threat)
    rse = replace(bayes, optimizer="sgd", weight_decay=5e-4)
    nets: dict[str, tuple[Net, Recipe]] = {
        "Adv-BNN": (AdvBNN(net), replace(bayes, adversary=hard)),
        "PNI": (PNI(net), replace(sgd, adversary=replace(half, warmup=5))),
        "L2P": (
            L2P(net, delay=10),
            replace(sgd, epochs=350, milestones=(150, 250), adversary=replace(half, warmup=20)),
        ),
        "RSE": (RSE(net), rse),
    }
    found = {name: (Train(one, data, recipe),) for name, (one, recipe) in nets.items()}
    (m5,) = ablation(data, setting, 1)[BEST]
    assert isinstance(m5, Train) and isinstance(m5.net, A2SNN)
    return {**found, "A2SNN": (m5,), WIDE: (replace(m5, net=replace(m5.net, dim=512)),)}


def bottlenecks(data: Source, backbone: Backbone, recipe: Recipe, limit: int | None) -> dict[str, Train]:
    """Figure 2: m2, m3 and m5 with two features."""
    nets = {n: replace(M[n], backbone=backbone, dim=2) for n in ("m2", "m3", "m5")}
    return {name: Train(net, data, recipe, limit=limit) for name, net in nets.items()}


SMALL = Short(Recipe(epochs=2, batch=128, lr=3e-4, keep="last"), 5, 10_000, begin=True, independent=2)
SMALL_BOTTLENECK = (LeNetPP(width=0.5), Recipe(epochs=3, batch=128, lr=1e-3, keep="last"), 20_000)
