"""The networks of Tan et al. 2020 on MNIST under the paper's attacks, as cells: what is spent on whom."""

from __future__ import annotations

from dataclasses import dataclass, replace

from robassay.access import Decisions, White
from robassay.attacks.boundary import Boundary
from robassay.attacks.cw import CW, ModCW
from robassay.attacks.gradient import BIM, PGD
from robassay.attacks.weighed import Weighed
from robassay.cell import Source
from robassay.cells import Craft, Examples, Score
from robassay.estimators import Backprop
from robassay.models import Train
from robassay.nets.resnet import ResNet18
from robassay.papers.plastic import sefron_subjects, snnm_subjects
from robassay.papers.published import table
from robassay.papers.subjects import Subject, is_full, mnist_subjects
from robassay.policy import MeanOf
from robassay.protocols.parts import Means
from robassay.recipe import Recipe
from robassay.study import Evaluation
from robassay.threat import Threat

POLICY = MeanOf(10, "logits")
"""Who judges, and what the boundary attack asks: the paper's average inference policy."""
RANDOM = ("BSN-2", "BSN-4", "BSN-L", "BNN-S")
FIXED = ("ResNet18", "MC-SEFRON", "BNN-D")
LATCH = "MC-SEFRON, latch"
"""MC-SEFRON with the gradient that its form of decision has by itself; under attacks within a ball only."""
RADII = {"8/255": 8 / 255, "16/255": 16 / 255, "32/255": 32 / 255}
CONSTANTS = (0.01, 0.1, 1.0, 10.0)
IN_BALL = (*(f"BIM {eps}" for eps in RADII), "PGD margin")
"""What the worst per image is taken of: all within L∞ 32/255, so that no attack has an easier task than BIM."""


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


@dataclass(frozen=True)
class Victim:
    """A network under all attacks.

    Args:
        row: name in the tables.
        clean, attacked: decisions about the same images, clean and under each attack by name.
    """

    row: str
    clean: Evaluation
    attacked: dict[str, Evaluation]


def networks(data: Source, scale: str) -> dict[str, Subject]:
    """The networks of Table I by the paper's names, as other studies have trained them; which stand in for which."""
    full, mnist = is_full(scale), mnist_subjects(data, scale)
    printed = table("tan2020", "I").rate("ResNet18", "MNIST")
    if full:
        recipe = Recipe(epochs=20, batch=128, optimizer="sgd", lr=1e-3, weight_decay=1e-5, step=5, gamma=0.5)
        first = Subject(Train(ResNet18(), data, recipe), printed, averaged=False)
    else:
        told = "in its place: Ge et al.'s Standard, 8 of 50 epochs"
        first = Subject(mnist["Standard"].model, printed, averaged=False, note=told)
    forms = sefron_subjects(data, scale)
    sefron = {"MC-SEFRON": forms["MC-SEFRON, margin"], LATCH: forms["MC-SEFRON"]}
    return {"ResNet18": first, **snnm_subjects(data, scale), **sefron} | {
        name: mnist[name] for name in ("BSN-2", "BSN-4", "BSN-L", "BNN-D", "BNN-S")
    }


def effort(name: str, full: bool) -> Effort:
    """What is spent on a network."""
    slow = {
        "MC-SEFRON": replace(SLOW, images=60, walked=60),  # a fifth of them are wrong when clean
        LATCH: SLOW,
        "BNN-D": SLOW,
        "BSN-L": replace(SMALL, few=20, walked=20),
        "BNN-S": SLOWEST,
    }
    return FULL if full else slow.get(name, SMALL)


def assaults(name: str, full: bool) -> dict[str, Means]:
    """The attacks on a network by name, as in the paper for random and for deterministic ones.

    At "small" the boundary attack spares BNN-S, and the constants of the C&W attacks are tried on BSN-2 and BSN-4.
    """
    spent, random = effort(name, full), name in RANDOM
    seen = White(Backprop(spent.averaged if random else 1, average="logits"))
    bim = BIM(steps=spent.bim, step=0.05, early=True)
    ball = Threat("linf", RADII["32/255"])
    made = {f"BIM {word}": Means(bim, Threat("linf", eps), seen) for word, eps in RADII.items()}
    made["PGD margin"] = Means(PGD(steps=spent.bim, loss="margin", select=spent.averaged), ball, seen)
    c0 = 10.0 if random else 0.01 if full else 1.0
    cw: Weighed = CW(search=1 if random else spent.search, steps=spent.cw, c0=c0)
    mod: Weighed = ModCW(search=1 if random else spent.again, steps=spent.cw, c0=c0)
    if full:
        cw, mod = replace(cw, lr=5e-3), replace(mod, lr=5e-3)
    for word, attack in (("CWL2", cw), ("ModCWL2", mod)):
        made[word] = Means(attack, Threat("l2"), seen)
        for c in CONSTANTS[:-1] if random and (full or name in ("BSN-2", "BSN-4")) else ():
            made[f"{word}, c {c:g}"] = Means(replace(attack, c0=c), Threat("l2"), seen)
    if name == LATCH:
        return {word: means for word, means in made.items() if word in IN_BALL}
    if spent.queries:
        made["Boundary"] = Means(Boundary(queries=spent.queries), Threat("l2"), Decisions(POLICY))
    return made


def victim(name: str, subject: Subject, data: Source, full: bool) -> Victim:
    """A network under all its attacks."""
    spent = effort(name, full)
    attacked: dict[str, Evaluation] = {}
    for word, means in assaults(name, full).items():
        stop = spent.images if word in IN_BALL else spent.walked if word == "Boundary" else spent.few
        on = Examples(data, "test", 0, stop).slices(spent.slice)
        crafts = (Craft((subject.model,), part, means.attack, means.threat, means.access) for part in on)
        attacked[word] = tuple(Score(subject.model, craft, POLICY, spent.launches) for craft in crafts)
    whole = Examples(data, "test", 0, spent.images).slices(spent.slice)
    clean = tuple(Score(subject.model, part, POLICY, spent.launches) for part in whole)
    return Victim(f"{name} ({subject.note})" if subject.note else name, clean, attacked)


def told_of() -> str:
    """What is short at "small"."""
    return (
        f"; {SMALL.images} images, {SMALL.launches} launches, {SMALL.bim} steps of BIM, {SMALL.cw} of C&W with "
        f"{SMALL.search} rounds of search on deterministic nets (ModCWL2: c = 1), {SMALL.queries} questions of the "
        f"boundary attack. BSN-L: {SLOW.few} images but under BIM; MC-SEFRON and BNN-D: 60 and 40 images, {SLOW.few} "
        f"under C&W, {SLOW.bim} and {SLOW.cw} steps, {SLOW.search} rounds; BNN-S: {SLOWEST.images} images, "
        f"{SLOWEST.launches} launches, {SLOWEST.bim} and {SLOWEST.cw} steps, gradients of {SLOWEST.averaged} passes, "
        "no boundary attack"
    )
