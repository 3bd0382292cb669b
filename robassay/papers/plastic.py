"""Networks with a learning rule of their own, as cells, beside the accuracies their papers publish."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from robassay.cell import Source
from robassay.data import find
from robassay.errors import UsageError
from robassay.models import Learn
from robassay.nets.sefron import MCSefron
from robassay.nets.stdp import SNNM
from robassay.papers.networks import curves_of, table_of
from robassay.papers.published import table
from robassay.papers.subjects import Subject, is_full
from robassay.study import Study

ACCURACY = table("tan2020", "I")


@dataclass(frozen=True)
class Setting:
    """How Tan et al. 2020 learn MC-SEFRON on a data set (Table VI), and the accuracy they report (Table I).

    Args:
        net: with the published receptive fields and step size.
        images: the first so many of the training images; None for all.
        published: accuracy.
        note: what the paper leaves open and we chose.
    """

    net: MCSefron
    images: int | None
    published: float
    note: str = "2 passes, their number is not published"


SEFRON = {
    "mnist": Setting(MCSefron(fields=5, rate=0.1), None, ACCURACY.rate("MC-SEFRON", "MNIST")),
    "cifar10": Setting(MCSefron(fields=3, rate=0.5), 10_000, ACCURACY.rate("MC-SEFRON", "CIFAR-10")),
    "pcam": Setting(
        MCSefron(fields=3, rate=0.5),
        30_000,
        ACCURACY.rate("MC-SEFRON", "PCam"),
        "2 passes, 3 fields, rate .5: as for CIFAR-10, none is published",
    ),
}


def sefron_subjects(data: Source, scale: str) -> dict[str, Subject]:
    """MC-SEFRON as published, and with logits whose gradient does not end at silent neurons (same weights).

    "small" learns 3,000 images.

    Raises:
        UsageError: unknown scale, or a data set that the paper does not have.
    """
    full = is_full(scale)
    if data.name not in SEFRON:
        raise UsageError(f"MC-SEFRON has no published figures on '{data.name}'. Write one of {', '.join(SEFRON)}.")
    setting = SEFRON[data.name]
    limit = setting.images if full else 3000
    note = setting.note if full else f"3,000 images, {setting.note}"
    nets = {"MC-SEFRON": setting.net, "MC-SEFRON, margin": replace(setting.net, form="margin")}
    return {
        name: Subject(Learn(net, data, limit=limit), setting.published, averaged=False, note=note)
        for name, net in nets.items()
    }


PUBLISHED_SNNM = {
    "mnist": ((30, 250, 200), ACCURACY.rate("SNN_M", "MNIST")),
    "cifar10": ((300, 800, 500), ACCURACY.rate("SNN_M", "CIFAR-10")),
}
"""Maps of the three layers and accuracy (Tan et al. 2020, Tables VI and I)."""


def snnm_subjects(data: Source, scale: str) -> dict[str, Subject]:
    """SNN_M; "small" shows 5,000, 10,000 and 20,000 images to its layers, the last 30 times instead of 680.

    Raises:
        UsageError: unknown scale, or a data set that the paper has no figure for.
    """
    full = is_full(scale)
    if data.name not in PUBLISHED_SNNM:
        raise UsageError(f"SNN_M has no published figure on '{data.name}'. Write one of {', '.join(PUBLISHED_SNNM)}.")
    maps, published = PUBLISHED_SNNM[data.name]
    net = SNNM(maps) if full else SNNM(maps, epochs=(2, 4, 30), limits=(5_000, 10_000, 20_000))
    note = "" if full else "20,000 images, 30 of 680 passes"
    return {"SNN_M": Subject(Learn(net, data), published, averaged=False, note=note)}


def networks_plastic(scale: str, data_dir: Path | None) -> Study:
    """MC-SEFRON and SNN_M on MNIST."""
    data = find("mnist", data_dir)
    subjects = sefron_subjects(data, scale) | snnm_subjects(data, scale)
    if not is_full(scale):
        whole = Learn(SEFRON["mnist"].net, data)
        subjects["MC-SEFRON, all images"] = Subject(whole, SEFRON["mnist"].published, averaged=False, note="2 passes")
    judged = table_of("plastic", "Tan et al., Table I: accuracy on MNIST", data, subjects, "logits")
    items = (judged, curves_of("plastic-training", subjects))
    return Study(
        "networks-plastic", f"Networks with learning rules of their own on MNIST ({scale})", items, scale=scale
    )
