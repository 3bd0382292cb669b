"""The networks of the papers as cells: published recipes ("full"), and short ones for two cores ("small").

Published accuracies stand beside what is measured; a short schedule is named in the table, never hidden.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from robassay.access import White
from robassay.attacks.cw import CW
from robassay.attacks.gradient import PGD
from robassay.cell import Model, Source
from robassay.cells import Craft, Examples
from robassay.classifier import Net
from robassay.defences.a2snn import A2SNN
from robassay.defences.adv_bnn import AdvBNN
from robassay.defences.adversarial import AdversarialTraining
from robassay.defences.dropout import Dropout
from robassay.defences.l2p import L2P
from robassay.defences.magnet import PUBLISHED as MAGNET
from robassay.defences.pni import PNI
from robassay.defences.random_spiking import RandomSpiking
from robassay.defences.rse import RSE
from robassay.defended import distil, guard
from robassay.errors import UsageError
from robassay.goals import RandomTarget
from robassay.models import Signed, Train
from robassay.nets.bnn import BNND, BNNS
from robassay.nets.bsn import BSN, BSN4, BSNL, GeometricSlope
from robassay.nets.cnn import SmallCNN
from robassay.nets.cw_mnist import CWMnist
from robassay.nets.lenet import LeNetPP
from robassay.nets.wrn import WRN
from robassay.offline import Offline
from robassay.papers.published import table
from robassay.recipe import Recipe
from robassay.threat import Threat

SCALES = ("small", "full")


@dataclass(frozen=True)
class Subject:
    """A trained network and what its paper says of it on MNIST.

    Args:
        model: the network's cell.
        published: accuracy in the paper, None where it has none on MNIST.
        averaged: the paper's decision is an average of ten passes.
        note: what the recipe leaves out.
        tested: the first so many of the test images are judged.
    """

    model: Model
    published: float | None = None
    averaged: bool = True
    note: str = ""
    tested: int = 10_000


def mnist_subjects(data: Source, scale: str) -> dict[str, Subject]:
    """Networks of Tan et al., Ge et al. and Eustratiadis et al. on MNIST, by name.

    Raises:
        UsageError: unknown scale.
    """
    full = is_full(scale)
    return {**_tan(data, full), **_ge(data, full), **_noisy(data, full), **_anisotropic(data, full)}


def is_full(scale: str) -> bool:
    """Whether a scale is the published one.

    Raises:
        UsageError: it is neither "small" nor "full".
    """
    if scale not in SCALES:
        raise UsageError(f"scale='{scale}' is not known. Write small or full.")
    return scale == "full"


def _tan(data: Source, full: bool) -> dict[str, Subject]:
    """Tan et al. 2020, Tables I and VII."""
    fall = Recipe(epochs=100, step=5, gamma=0.75, batch=128)
    bsn = replace(fall, optimizer="sgd", lr=0.01, weight_decay=1e-4)
    deep = replace(fall, epochs=100 if full else 30, lr=1e-4, weight_decay=1e-6)
    conv = Recipe(epochs=100 if full else 30, lr=1e-3, weight_decay=1e-5, step=50, gamma=0.1)
    binary = Recipe(epochs=20, batch=256, lr=5e-3, weight_decay=1e-4)
    if not full:  # the published code has no weight decay; with it, latent weights become small and change sign at will
        binary = Recipe(epochs=5, batch=256, lr=5e-3, step=1, gamma=0.4)
    widths = (80, 160, 320) if full else (20, 40, 80)
    told = "" if full else f"widths {widths}, {binary.epochs} of 20 epochs, falling rate"
    drawn, few = Train(BNNS(widths=widths), data, binary), 10_000 if full else 2_000
    bnnd = Train(BNND(widths=widths), data, binary)
    if not full:  # from fair coins a narrow BNN-S does not begin to learn in so short a time
        drawn = replace(drawn, recipe=Recipe(epochs=5, batch=128, lr=2e-3, step=2, gamma=0.4), begin=Signed(bnnd))
    short, printed = "" if full else "30 of 100 epochs", table("tan2020", "I")
    return {
        "BSN-2": Subject(Train(BSN(slope_schedule=GeometricSlope()), data, bsn), printed.rate("BSN-2", "MNIST")),
        "BSN-4": Subject(Train(BSN4(), data, deep), printed.rate("BSN-4", "MNIST"), note=short),
        "BSN-L": Subject(Train(BSNL(), data, conv), printed.rate("BSN-L", "MNIST"), note=short),
        "BNN-D": Subject(bnnd, printed.rate("BNN-D", "MNIST"), note=told),
        "BNN-S": Subject(
            drawn,
            printed.rate("BNN-S", "MNIST"),
            note="" if full else f"widths {widths}, 5 epochs from BNN-D's signs",
            tested=few,
        ),
    }


def _ge(data: Source, full: bool) -> dict[str, Subject]:
    """Ge et al. 2020, Table 2 and appendix; the short recipe takes larger, falling steps on unpadded layers."""
    net = CWMnist() if full else CWMnist(padding="valid")
    recipe = Recipe(epochs=50, batch=128, optimizer="sgd", lr=0.01, nesterov=True, decay=1e-6, keep="last")
    if not full:
        recipe = replace(recipe, epochs=8, lr=0.03, step=3, gamma=0.3, decay=0.0, keep="best")
    nets: dict[str, Net] = {
        "Standard": net,
        "Dropout": Dropout(net, 0.5),
        "RS-1": RandomSpiking(net),
        "RS-1-Dropout": RandomSpiking(net, dropout=0.5),
    }
    note = "55,000 images" if full else "8 of 50 epochs, unpadded layers"
    made = {name: Subject(Train(one, data, recipe), ge_accuracy(name), note=note) for name, one in nets.items()}
    for name in ("RS-1", "Dropout"):
        taught = Train(nets[name], data, recipe, extra=offline(made[name].model, data, full))
        made[f"{name}-Adv"] = Subject(taught, ge_accuracy(f"{name}-Adv"), note=note)
    made["Distillation"] = Subject(distil(nets["Dropout"], data, recipe), ge_accuracy("Distillation"), note=note)
    wide = Recipe(epochs=2, batch=128, optimizer="sgd", lr=0.1, nesterov=True, weight_decay=5e-4, step=1, gamma=0.2)
    return made | ({} if full else {"WRN-10-2": Subject(Train(WRN(10, 2), data, wide), note="no paper has it")})


def ge_accuracy(scheme: str) -> float:
    """Of a scheme on MNIST: one minus the error in Table 2 of Ge et al. 2020."""
    return round(1 - table("ge2020", "2").rate(scheme, "MNIST"), 6)


def _noisy(data: Source, full: bool) -> dict[str, Subject]:
    """The competitors in Eustratiadis et al. 2021; their papers have CIFAR-10 only, so a small CNN stands in."""
    attack = PGD(steps=7, step=0.03, keep="last")
    hard = AdversarialTraining(attack, Threat("linf", 0.1), clean=0.5)
    recipe = Recipe(epochs=20 if full else 3, batch=64, lr=2e-3, step=1, gamma=0.6)
    half = replace(recipe, adversary=hard)
    nets: dict[str, tuple[Net, Recipe]] = {
        "RSE": (RSE(), recipe),
        "PNI-W": (PNI(), half),
        "L2P": (L2P(), half),
        "Adv-BNN": (AdvBNN(), replace(recipe, adversary=replace(hard, clean=0.0))),
        "Small CNN": (SmallCNN(), recipe),
        "Small CNN, adversarial": (SmallCNN(), half),
    }
    notes = {"PNI-W": ", true labels", "L2P": ", true labels, noise from the start", "Adv-BNN": ", PGD-7"}
    short = f"small CNN, {recipe.epochs} epochs"
    return {n: Subject(Train(net, data, r), note=short + notes.get(n, "")) for n, (net, r) in nets.items()}


def offline(model: Model, data: Source, full: bool) -> Offline:
    """Targeted CW images of training images at several confidences, the nearest five sixths of them (Table 3)."""
    attack = CW(search=9, steps=1000) if full else CW(search=3, steps=100)
    levels, each = ((0.0, 5.0, 10.0, 15.0), 3000) if full else ((0.0, 5.0, 10.0), 334)
    crafts = []
    for i, kappa in enumerate(levels):
        on = Examples(data, "train", i * each, (i + 1) * each)
        crafts += [
            Craft((model,), part, attack, Threat("l2"), White(), RandomTarget(kappa=kappa)) for part in on.slices(334)
        ]
    return Offline(tuple(crafts), keep=10_000 if full else 830)


def spiking_positions(data: Source, full: bool) -> dict[str, Subject]:
    """RS-1 behind the first, second … fifth activation: Ge et al. remark that a later one costs accuracy."""
    net = CWMnist() if full else CWMnist(padding="valid")
    recipe = Recipe(epochs=50, batch=128, optimizer="sgd", lr=0.01, nesterov=True)
    limit, note = None, ""
    if not full:
        recipe, limit, note = replace(recipe, epochs=4, step=3, gamma=0.3), 20_000, "20,000 images, 4 epochs"
    return {
        f"RS behind activation {i + 1}": Subject(
            Train(RandomSpiking(net, position=i), data, recipe, limit=limit),
            note=note,
            tested=10_000 if full else 2_000,
        )
        for i in range(5)
    }


def magnet_of(subject: Subject, data: Source, full: bool) -> Model:
    """MagNet around a trained network; the short form trains its auto-encoders for 20 of 100 epochs."""
    magnet = MAGNET["mnist"]
    if not full:
        magnet = replace(
            magnet,
            reformer=replace(magnet.reformer, epochs=20),
            detectors=tuple(replace(d, encoder=replace(d.encoder, epochs=20)) for d in magnet.detectors),
        )
    return guard(subject.model, data, magnet)


M = {
    "m1": A2SNN(covariance="diagonal", wca=0.0),
    "m2": A2SNN(covariance="diagonal", entropy=0.0),
    "m3": A2SNN(wca=0.0),
    "m4": A2SNN(entropy=0.0),
    "m5": A2SNN(),
}
"""The ablation of Eustratiadis et al. 2021, Table 5: diagonal or full covariance, entropy term, alignment term."""


def _anisotropic(data: Source, full: bool) -> dict[str, Subject]:
    recipe = Recipe(epochs=4, batch=128, lr=1e-3, step=2, gamma=0.3, keep="last")
    if full:
        recipe = Recipe(epochs=100, batch=128, lr=1e-3, keep="last")
    half = LeNetPP() if full else LeNetPP(width=0.5)
    made = {
        f"A2SNN {name}, seed {seed}": Subject(
            Train(replace(net, backbone=half), data, recipe, seed=seed),
            averaged=False,
            note="" if full else "half width, 4 of 100 epochs",
        )
        for name, net in M.items()
        for seed in range(3)
    }
    for seed in range(3):
        bare = Train(half, data, recipe, seed=seed)
        made[f"LeNet++, seed {seed}"] = Subject(bare, averaged=False, note=made["A2SNN m5, seed 0"].note)
    if not full:
        whole = Train(replace(M["m5"], backbone=LeNetPP()), data, replace(recipe, epochs=3, step=1))
        made["A2SNN m5, full width"] = Subject(whole, averaged=False, note="3 of 100 epochs")
    return made
