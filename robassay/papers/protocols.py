"""Protocols end to end on MNIST: who fools whom, white boxes, mixtures, stability, what it costs to break a network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from robassay.access import White
from robassay.attacks.accept import KOfN
from robassay.attacks.boundary import Boundary
from robassay.attacks.cw import CW
from robassay.attacks.gradient import BIM, PGD
from robassay.cell import Model, Source
from robassay.cells import Examples
from robassay.data import find
from robassay.defences.magnet import PUBLISHED as MAGNET
from robassay.defended import guard
from robassay.estimators import Backprop
from robassay.goals import RandomTarget
from robassay.papers.fixtures import nets, spiking_kinds
from robassay.papers.subjects import is_full
from robassay.policy import MeanOf, Once, VoteOf
from robassay.protocols.cost import Asked, cost_to_break
from robassay.protocols.mixtures import mixtures
from robassay.protocols.parts import Means
from robassay.protocols.scenarios import RADII, crafted, scenario_attacks
from robassay.protocols.stability import LENGTHS, QUALITIES, accuracies, gaussian, jpeg
from robassay.protocols.transfer import losses, matrix
from robassay.protocols.white import over_c, over_kappa, policies, white_box
from robassay.study import Curves, Study
from robassay.threat import Threat

SMALLEST = Threat("l2")
MEAN_LOGITS = White(Backprop(10, average="logits"))
"""What an attacker of Tan et al. 2020 sees: mean logits of ten passes and their gradient."""


def protocols_transfer(scale: str, data_dir: Path | None) -> Study:
    """Five kinds of network against each other, and who hurts converted and spiking networks."""
    full, data, images = _given(scale, data_dir, 100, 1000)
    means = Means(PGD(steps=20), Threat("linf", 0.2), White(Backprop(10)))
    shown = nets(data, full)
    told = f"PGD-20 at L∞ eps .2, {images.stop} MNIST images; rates over images that fool the source"
    table = matrix("matrix", f"Success by source (rows) and target: {told}", {n: (m, means) for n, m in shown.items()},
                   shown, images)  # fmt: skip
    items = (table, *_scenarios(data, full, images))
    return Study("protocols-transfer", f"Transfer on MNIST ({scale})", items, scale=scale)


def _scenarios(data: Source, full: bool, images: Examples) -> list[Curves]:
    """Four attacks on each of three targets: by its own weights, and by second networks of three kinds."""
    own, second = spiking_kinds(data, full), spiking_kinds(data, full, seed=1)
    found = []
    for kind, target in own.items():
        for name, means in scenario_attacks(5).items():
            attackers: dict[str, tuple[Model, Means]] = {"white box": (target, crafted(kind, means))}
            attackers |= {f"another {other}": (model, crafted(other, means)) for other, model in second.items()}
            caption = f"{kind} under {name}: accuracy it loses, {images.stop} MNIST images"
            found.append(losses(f"loss-{kind}-{name}".lower().replace(" ", "-"), caption, target, attackers, images,
                                RADII))  # fmt: skip
    return found


def protocols_white(scale: str, data_dir: Path | None) -> Study:
    """CW on one network, on three at once, over κ and over c; and what judges decide from the same attacked images."""
    full, data, images = _given(scale, data_dir, 100, 500)
    attack = CW(search=9, steps=1000) if full else CW(search=5, steps=150)
    targeted = Means(attack, SMALLEST, aim=RandomTarget())
    plain = {f"plain, seed {seed}": nets(data, full, seed)["plain"] for seed in range(3)}
    shown = nets(data, full)
    two = {name: shown[name] for name in ("plain", "BSN-2")}
    usual = Means(PGD(steps=20), Threat("linf", 0.1), White(Backprop(10)))
    by = {"single": Once(), "vote of 10": VoteOf(10), "mean probability of 10": MeanOf(10),
          "mean logit of 10": MeanOf(10, "logits")}  # fmt: skip
    random = {name: shown[name] for name in ("BSN-2", "BNN-S", "RS-1")}
    few = f"{images.stop} MNIST images"
    items = (
        *white_box("white", f"Targeted CW, {few}", plain, {"CW": targeted}, images),
        *over_kappa("kappa", f"Targeted CW over its confidence, {few}", two, targeted, images, (0.0, 5.0, 10.0)),
        *over_c("constant", f"CW with a fixed weight, mean of 10, {few}", two, replace(targeted, access=MEAN_LOGITS),
                images, (0.01, 0.1, 1.0, 10.0)),
        policies("policies", f"One judge or ten: PGD-20 at L∞ eps .1, {few}", random, by, usual, images),
    )  # fmt: skip
    return Study("protocols-white", f"White boxes and decision procedures on MNIST ({scale})", items, scale=scale)


def protocols_mixtures(scale: str, data_dir: Path | None) -> Study:
    """Mixtures of a plain, a binary stochastic and a binarised stochastic network against each of them alone."""
    full, data, images = _given(scale, data_dir, 60, 500)
    shown = nets(data, full)
    threat = Threat("linf", 32 / 255)
    bim = BIM(steps=100 if full else 40, step=0.05, early=True)
    stronger = {"PGD margin": Means(PGD(steps=40, loss="margin"), threat, White(Backprop(5)))}
    sets = (("plain", "BSN-2"), ("plain", "BNN-S"), ("plain", "BSN-2", "BNN-S"))
    members = {name: shown[name] for name in sets[-1]}
    caption = f"Tan et al., Figure 3, on MNIST: BIM at 32/255, {images.stop} images; then PGD-40 on the margin"
    items = mixtures("mixtures", caption, members, sets, Means(bim, threat, MEAN_LOGITS), stronger, images)
    return Study("protocols-mixtures", f"Stochastic mixtures on MNIST ({scale})", items, scale=scale)


def protocols_stability(scale: str, data_dir: Path | None) -> Study:
    """Gaussian noise and JPEG on a plain network, two random ones, and MagNet with its refusals."""
    full, data, images = _given(scale, data_dir, 200, 1000)
    shown = nets(data, full)
    magnet = MAGNET["mnist"]
    if not full:  # less, and its auto-encoders are one grey image, about which every decision is the same
        short = replace(magnet.reformer, epochs=12)
        detectors = tuple(replace(d, encoder=replace(d.encoder, epochs=12)) for d in magnet.detectors)
        magnet = replace(magnet, reformer=short, detectors=detectors)
    schemes = {
        "plain": (shown["plain"], Once()),
        "BSN-2": (shown["BSN-2"], MeanOf(10)),
        "RS-1": (shown["RS-1"], MeanOf(10)),
        "MagNet": (guard(shown["plain"], data, magnet), Once()),
    }
    words = f"Ge et al., Figure 2, on MNIST, {images.stop} images"
    qualities = QUALITIES if full else (10, 40, 70, 100)
    items = (
        accuracies("accuracy", f"{words}: accuracy on the clean images, refusals are errors", schemes, images),
        gaussian("gaussian", f"{words}: 20 draws of noise", schemes, images, LENGTHS),
        jpeg("jpeg", f"{words}: JPEG", schemes, images, qualities),
    )
    return Study("protocols-stability", f"Stability on MNIST ({scale})", items, scale=scale)


def protocols_cost(scale: str, data_dir: Path | None) -> Study:
    """The boundary attack on a plain network, and on a random one that answers once or with the mean of ten."""
    full, data, images = _given(scale, data_dir, 50, 200)
    shown = nets(data, full)
    asked = {
        "plain": Asked(shown["plain"]),
        "BSN-2, one pass": Asked(shown["BSN-2"]),
        "BSN-2, one pass, 3 of 4 must agree": Asked(shown["BSN-2"], attack=Boundary(accept=KOfN(3, 4))),
        "BSN-2, mean of 10": Asked(shown["BSN-2"], MeanOf(10)),
    }
    budgets = (100, 250, 500, 1000, 2000) + ((5000, 10_000) if full else ())
    caption = f"Boundary attack, {images.stop} MNIST images"
    items = cost_to_break("cost", caption, asked, images, budgets, 1.5)
    return Study("protocols-cost", f"What it costs to break a network ({scale})", items, scale=scale)


def _given(scale: str, data_dir: Path | None, few: int, many: int) -> tuple[bool, Source, Examples]:
    full, data = is_full(scale), find("mnist", data_dir)
    return full, data, Examples(data, "test", 0, many if full else few)
