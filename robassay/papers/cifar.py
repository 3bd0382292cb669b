"""Tan et al. 2020, Table I, CIFAR-10: the networks at their published size, or narrow ones on part of the images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from robassay.augment import Crop, Flip
from robassay.cell import Source
from robassay.classifier import Net
from robassay.data import find
from robassay.models import Signed, Train
from robassay.nets.bnn import BNND, BNNS
from robassay.nets.bsn import BSN, BSN4, BSNL, GeometricSlope
from robassay.nets.resnet import ResNet18
from robassay.papers.networks import curves_of, table_of
from robassay.papers.plastic import sefron_subjects
from robassay.papers.published import table
from robassay.papers.subjects import Subject, is_full
from robassay.recipe import Recipe
from robassay.study import Study

IMAGES = 20_000
"""Training images of the short form; every network learns the same ones."""


def networks_tan_cifar(scale: str, data_dir: Path | None) -> Study:
    """ResNet18, BSN and BNN on CIFAR-10."""
    data = find("cifar10", data_dir)
    subjects = cifar_subjects(data, scale)
    caption = "Tan et al., Table I: accuracy on CIFAR-10"
    if not is_full(scale):
        caption += f"; every network learns the same {IMAGES:,} images, where the paper has 50,000"
    judged = table_of("tan-cifar", caption, data, subjects, "logits")
    items = (judged, curves_of("tan-cifar-training", subjects))
    return Study("networks-tan-cifar", f"Networks of Tan et al. on CIFAR-10 ({scale})", items, scale=scale)


def cifar_subjects(data: Source, scale: str) -> dict[str, Subject]:
    """Networks of Tan et al. on CIFAR-10, by name; from scratch, where the paper's ResNet18 was trained before.

    Raises:
        UsageError: unknown scale.
    """
    full = is_full(scale)
    changes = (Crop(), Flip())
    fall = Recipe(epochs=100 if full else 20, batch=128, step=5, gamma=0.75)
    deep = replace(fall, lr=1e-4, weight_decay=1e-6)
    sgd = replace(fall, optimizer="sgd", lr=0.01, weight_decay=1e-4)
    conv = Recipe(epochs=200 if full else 20, lr=1e-2 if full else 2e-3, weight_decay=1e-4, step=50, gamma=0.5)
    resnet = Recipe(
        epochs=200 if full else 10, batch=256 if full else 128, weight_decay=1e-4, step=3, gamma=0.95, augment=changes
    )
    binary = Recipe(
        epochs=150 if full else 8,
        batch=256 if full else 128,
        lr=5e-3,
        weight_decay=1e-4 if full else 0.0,  # a narrow one hardly learns with it; in the authors' code it has no effect
        milestones=(101, 142) if full else (6,),
        gamma=(0.2, 0.5) if full else 0.2,
        augment=changes,
    )
    widths = (80, 160, 320) if full else (20, 40, 80)
    norm: Literal["cifar10"] = "cifar10"
    nets: dict[str, tuple[Net, Recipe, str]] = {
        "ResNet18": (ResNet18(width=1.0 if full else 0.25, normalise=norm), resnet, "width 1/4, "),
        "BSN-2": (BSN(slope_schedule=GeometricSlope(), normalise=norm), sgd, ""),
        "BSN-4": (BSN4(normalise=norm), deep, ""),
        "BSN-L": (BSNL(normalise=norm), conv, ""),
        "BNN-D": (BNND(widths=widths, normalise=norm), binary, f"widths {widths}, "),
        "BNN-S": (BNNS(widths=widths, normalise=norm), binary, f"widths {widths}, "),
    }
    notes = {n: "" if full else f"{narrow}{r.epochs} epochs" for n, (_, r, narrow) in nets.items()}
    published = {n: table("tan2020", "I").rate(n, "CIFAR-10") for n in nets}
    limit, tested = (None, 10_000) if full else (IMAGES, 2_000)
    made = {
        n: Subject(Train(net, data, recipe, limit=limit), published[n], note=notes[n], tested=tested)
        for n, (net, recipe, _) in nets.items()
    }
    if not full:  # from fair coins a narrow BNN-S does not begin to learn in so short a time
        begun = Train(
            nets["BNN-S"][0],
            data,
            replace(binary, epochs=4, milestones=()),
            limit=limit,
            begin=Signed(made["BNN-D"].model),
        )
        made["BNN-S"] = Subject(
            begun, published["BNN-S"], note=f"widths {widths}, 4 epochs from BNN-D's signs", tested=tested
        )
    return made


def pcam_subjects(data: Source) -> dict[str, Subject]:
    """Networks of Tan et al. on PCam at 32 × 32, as published (Tables V, VII), by name; ResNet18 from scratch.

    MC-SEFRON as for CIFAR-10. SNN_M is not among them: its output is constant there (App. A2). Pixels are mapped to
    [−1, 1], where the paper takes the mean and deviation of 50,000 training images.
    """
    fall = Recipe(epochs=100, batch=128, step=5, gamma=0.75)
    sgd = replace(fall, optimizer="sgd", lr=0.01, weight_decay=1e-4)
    deep = replace(fall, lr=1e-4, weight_decay=1e-6)
    conv = replace(fall, lr=1e-2, weight_decay=1e-4)
    changes = (Crop(), Flip())
    resnet = Recipe(epochs=50, batch=256, weight_decay=1e-4, step=3, gamma=0.95, augment=changes)
    binary = Recipe(epochs=50, batch=256, lr=5e-3, weight_decay=1e-4, augment=changes)
    norm: Literal["half"] = "half"
    nets: dict[str, tuple[Net, Recipe]] = {
        "ResNet18": (ResNet18(normalise=norm), resnet),
        "BSN-2": (BSN(slope_schedule=GeometricSlope(), normalise=norm), sgd),
        "BSN-4": (BSN4(normalise=norm), deep),
        "BSN-L": (BSNL(normalise=norm), conv),
        "BNN-D": (BNND(normalise=norm), binary),
        "BNN-S": (BNNS(normalise=norm), binary),
    }
    printed = table("tan2020", "I")
    made = {n: Subject(Train(net, data, recipe), printed.rate(n, "PCam")) for n, (net, recipe) in nets.items()}
    return made | {"MC-SEFRON": sefron_subjects(data, "full")["MC-SEFRON, margin"]}
