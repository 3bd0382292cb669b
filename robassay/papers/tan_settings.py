"""Data sets and networks of Tan et al. 2020 at three scales, and what is spent on whom."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from robassay.cell import Source
from robassay.classifier import Net
from robassay.data import at_hand, find
from robassay.errors import UsageError
from robassay.models import Learn, Signed, Train
from robassay.nets.bnn import BNND, BNNS
from robassay.nets.bsn import BSN, BSN4
from robassay.nets.cnn import SmallCNN
from robassay.nets.resnet import ResNet18
from robassay.nets.sefron import MCSefron
from robassay.nets.stdp import SNNM
from robassay.papers.cifar import cifar_subjects, pcam_subjects
from robassay.papers.plastic import sefron_subjects, snnm_subjects
from robassay.papers.published import table
from robassay.papers.subjects import Subject, mnist_subjects
from robassay.recipe import Recipe

SCALES = ("smoke", "small", "full")
NAMES = {"MNIST": "mnist", "CIFAR-10": "cifar10", "PCam": "pcam"}
"""Data sets by the paper's names."""
RANDOM = ("BSN-2", "BSN-4", "BSN-L", "BNN-S")
FIXED = ("ResNet18", "SNN_M", "MC-SEFRON", "BNN-D")
LATCH = "MC-SEFRON, latch"
"""MC-SEFRON with the gradient that its form of decision has by itself; under attacks within a ball only."""
WHOLE = "full only"
NOWHERE = "no data here: robassay run tan2020 --scale {} --data-dir FOLDER"


@dataclass(frozen=True)
class Effort:
    """What an evaluation spends.

    Args:
        images: the first so many test images, under BIM; a multiple of ``slice``.
        few: as many under the C&W attacks.
        walked: as many under the boundary attack.
        slice: images per cell.
        bim, cw: steps.
        search: rounds of CWL2's search over c on deterministic networks.
        again: the same of ModCWL2.
        queries: of the boundary attack; 0 for none.
        launches: decisions per attacked image, each of ten passes.
        averaged: passes that a gradient on a random network is averaged over.
    """

    images: int
    few: int
    walked: int
    slice: int
    bim: int
    cw: int
    search: int
    again: int
    queries: int
    launches: int
    averaged: int = 10


FULL = Effort(500, 100, 100, 100, 100, 1000, 5, 5, 25_000, 100)
SMALL = Effort(40, 40, 40, 20, 20, 40, 3, 1, 600, 20)
SLOW = replace(SMALL, few=20, bim=10, cw=25, search=2)
SLOWEST = replace(SLOW, images=20, cw=15, queries=0, launches=5, averaged=3)
SEEN = replace(SLOW, images=20, walked=20, cw=15, search=1, queries=200)
COLOUR = Effort(60, 20, 20, 20, 10, 25, 2, 1, 300, 10, averaged=5)
SMOKE = Effort(10, 10, 10, 10, 2, 2, 1, 1, 8, 2, averaged=2)


@dataclass(frozen=True)
class Setting:
    """A data set at a scale.

    Args:
        name: of the data set in the paper.
        data: where its images come from; digits stand for all of them at "smoke".
        nets: the paper's networks by its names; one that is not there is not run at this scale.
        usual, others: what is spent on a network, and on those that are slower.
        swept: random networks under which the constants of the C&W attacks are tried.
        offered: networks under ModCWL2 with copies as answers.
        spared: networks that are judged by others' attacks only.
        full: whether attacks are as published.
        told: what is short, for captions.
    """

    name: str
    data: Source
    nets: dict[str, Subject]
    usual: Effort
    others: dict[str, Effort] = field(default_factory=dict)
    swept: tuple[str, ...] = RANDOM
    offered: tuple[str, ...] = (*FIXED, *RANDOM)
    spared: tuple[str, ...] = ()
    full: bool = False
    told: str = ""

    def effort(self, name: str) -> Effort:
        """What is spent on a network."""
        return self.others.get(name, self.usual)

    @property
    def values(self) -> int:
        """Values of an image."""
        channels, height, width = self.data.shape
        return channels * height * width


def settings(scale: str, data_dir: Path | None) -> dict[str, Setting | str]:
    """The paper's three data sets, or why there is nothing of one.

    Raises:
        UsageError: unknown scale, or MNIST, on which most of the paper is, is not at hand.
    """
    if scale not in SCALES:
        raise UsageError(f"scale='{scale}' is not known. Write one of {', '.join(SCALES)}.")
    if scale == "smoke":
        tiny = _smoke(find("digits"))
        return {"MNIST": tiny, "CIFAR-10": replace(tiny, name="CIFAR-10"), "PCam": WHOLE}
    colour = at_hand(NAMES["CIFAR-10"], data_dir)
    found: dict[str, Setting | str] = {"MNIST": _mnist(find("mnist", data_dir), scale)}
    found["CIFAR-10"] = _cifar(colour, scale) if colour is not None else NOWHERE.format(scale)
    tissue = at_hand(NAMES["PCam"], data_dir)
    if tissue is None:
        found["PCam"] = NOWHERE.format("full")
    else:
        found["PCam"] = Setting("PCam", tissue, pcam_subjects(tissue), FULL, full=True) if scale == "full" else WHOLE
    return found


def _mnist(data: Source, scale: str) -> Setting:
    full, subjects = scale == "full", mnist_subjects(data, scale)
    printed = table("tan2020", "I").rate("ResNet18", "MNIST")
    if full:
        recipe = Recipe(epochs=20, batch=128, optimizer="sgd", lr=1e-3, weight_decay=1e-5, step=5, gamma=0.5)
        first = Subject(Train(ResNet18(), data, recipe), printed, averaged=False)
    else:
        recipe = Recipe(epochs=4, batch=64, lr=2e-3, step=1, gamma=0.5)
        narrow = Train(ResNet18(width=0.25), data, recipe, limit=20_000)
        first = Subject(narrow, printed, averaged=False, note="width 1/4, 4 epochs of 20,000 images")
    forms = sefron_subjects(data, scale)
    sefron = {"MC-SEFRON": forms["MC-SEFRON, margin"], LATCH: forms["MC-SEFRON"]}
    nets = {"ResNet18": first, **snnm_subjects(data, scale), **sefron}
    nets |= {name: subjects[name] for name in ("BSN-2", "BSN-4", "BSN-L", "BNN-D", "BNN-S")}
    if full:
        return Setting("MNIST", data, nets, FULL, full=True)
    slow = {
        "SNN_M": SEEN,
        "MC-SEFRON": replace(SLOW, images=60, walked=60),  # a fifth of them are wrong when clean
        LATCH: SLOW,
        "BNN-D": SLOW,
        "BSN-L": replace(SMALL, few=20, walked=20),
        "BNN-S": SLOWEST,
    }
    offered = ("ResNet18", "MC-SEFRON", "BSN-2", "BSN-4")
    return Setting("MNIST", data, nets, SMALL, slow, ("BSN-2", "BSN-4"), offered, told=_told_of_mnist())


def _cifar(data: Source, scale: str) -> Setting:
    full, sefron = scale == "full", sefron_subjects(data, scale)["MC-SEFRON, margin"]
    nets = {**cifar_subjects(data, scale), "MC-SEFRON": sefron}
    if full:
        return Setting("CIFAR-10", data, nets | snnm_subjects(data, scale), FULL, full=True)
    slow = {
        "ResNet18": replace(COLOUR, few=60, walked=60, bim=20, cw=40),
        "BNN-S": replace(COLOUR, images=20, cw=8, queries=0, launches=5, averaged=3),
    }
    nets = {name: nets[name] for name in ("ResNet18", "MC-SEFRON", *RANDOM[:3], "BNN-D", "BNN-S")}
    spared = ("MC-SEFRON",)
    return Setting("CIFAR-10", data, nets, COLOUR, slow, ("BSN-2",), ("BSN-2",), spared, told=_told_of_cifar())


def _smoke(data: Source) -> Setting:
    """Tiny networks on digits: every item by the same code, and no figure of any worth."""
    quick, brief = Recipe(epochs=6, batch=32, lr=5e-3), Recipe(epochs=1, batch=50, lr=5e-3)

    def made(net: Net, recipe: Recipe = quick, begin: Signed | None = None) -> Subject:
        limit = 400 if recipe == quick else 200
        return Subject(Train(net, data, recipe, limit=limit, begin=begin), note="tiny, digits", tested=60)

    signs = made(BNND(widths=(3, 4, 6)), brief)
    sefron = Learn(MCSefron(fields=3, passes=1), data, limit=60)
    margin = replace(sefron, net=MCSefron(fields=3, passes=1, form="margin"))
    plastic = Learn(SNNM((4, 8, 10), epochs=(1, 1, 1), limits=(20, 20, 40)), data, limit=60)
    nets = {
        "ResNet18": made(SmallCNN(), brief),
        "SNN_M": Subject(plastic, note="tiny, digits", tested=60),
        "MC-SEFRON": Subject(margin, note="digits", tested=60),
        LATCH: Subject(sefron, note="digits", tested=60),
        "BSN-2": made(BSN((40,))),
        "BSN-4": made(BSN4((40, 30, 20))),
        "BSN-L": made(BSN((60,))),
        "BNN-D": signs,
        "BNN-S": made(BNNS(widths=(3, 4, 6)), brief, Signed(signs.model)),
    }
    return Setting(
        "MNIST",
        data,
        nets,
        SMOKE,
        {"BNN-S": replace(SMOKE, queries=0)},
        ("BSN-2",),
        ("ResNet18", "BSN-2"),
        told="; digits",
    )


def _told_of_mnist() -> str:
    return (
        f"; {SMALL.images} images, {SMALL.launches} launches, {SMALL.bim} steps of BIM, {SMALL.cw} of C&W with "
        f"{SMALL.search} rounds of search on deterministic nets (ModCWL2: c = 1), {SMALL.queries} questions of the "
        f"boundary attack. BSN-L: {SLOW.few} images but under BIM; MC-SEFRON and BNN-D: 60 and 40 images, {SLOW.few} "
        f"under C&W, {SLOW.bim} and {SLOW.cw} steps, {SLOW.search} rounds; SNN_M: {SEEN.images} images, {SEEN.bim} and "
        f"{SEEN.cw} steps, {SEEN.queries} questions; BNN-S: {SLOWEST.images} images, {SLOWEST.launches} launches, "
        f"{SLOWEST.bim} and {SLOWEST.cw} steps, gradients of {SLOWEST.averaged} passes, no boundary attack"
    )


def _told_of_cifar() -> str:
    return (
        f"; {COLOUR.images} images, {COLOUR.few} under C&W and the boundary attack, {COLOUR.launches} launches, "
        f"{COLOUR.bim} steps of BIM, {COLOUR.cw} of C&W with {COLOUR.search} rounds of search on deterministic nets, "
        f"{COLOUR.queries} questions, gradients of {COLOUR.averaged} passes; ResNet18: 60 images, 20 and 40 steps; "
        "BNN-S: 20 images, 5 launches, 8 steps of C&W, gradients of 3 passes, no boundary attack"
    )
